"""Measuring what a run makes, or anybody's folder of videos: figures, and what they hold for.

    result = evaluate("runs/actions", against="actions64/", protocol="fvd16")
    result.figures["fvd"]                          # {"value": ..., "low": ..., "high": ...}
    result.manifest                                # all that the figures depend on

Two sets of figures may be compared where their manifests agree (`report.differences`).
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from vidgen import sampling, seeds
from vidgen.data.listing import is_toy, open_source
from vidgen.data.pack import cache_folder, open_store
from vidgen.data.settings import PackSettings
from vidgen.data.stream import Clips, count_windows
from vidgen.errors import ConfigError, DataError
from vidgen.metrics import degradations, features, measures, toy
from vidgen.runtime.checkpoint import Checkpoints
from vidgen.video import atomic

# Raise a version when what a protocol computes changes: reports of another do not compare.
PROTOCOLS: dict[str, dict[str, Any]] = {
    "fvd16": {"version": 1, "network": "i3d", "clips": 2048, "frames": 16},
    "fvd128": {"version": 1, "network": "i3d", "clips": 2048, "frames": 128},
    "quick": {"version": 1, "network": "random", "clips": 256, "frames": 16},
    "pixel": {"version": 1, "network": "pixel", "clips": 256, "frames": 16},
}
HALF = "real"  # as the subject: one half of the real clips, against the other
_BANK = 20_000  # windows of the real clips among which copies are looked for
_SHOWN = 12  # clips of a report's gallery
_FEWEST = 8  # clips of a set

Progress = Callable[[int, int, str], None]
Path = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Result:
    """Figures, what they hold for, and clips to look at.

    Attributes:
      figures: By name: a dict of `value` and, where estimated, `low` and `high` (95 %).
      manifest: All that figures depend on but for the clips that were measured; JSON data.
      subject: Which clips those were; JSON data.
      clips: The first of them, uint8 `[n, T, H, W, 3]`.
      nearest: The real clip most like each, uint8 `[n, T, H, W, 3]`.
      fps: Frames per second of the clips.
      spread: For plots: by name, the values `(real, measured)` of each clip.
    """

    figures: measures.Figures
    manifest: dict[str, Any]
    subject: dict[str, Any]
    clips: np.ndarray
    nearest: np.ndarray
    fps: float
    spread: dict[str, tuple[np.ndarray, np.ndarray]]


def evaluate(
    subject: Path,
    against: Path,
    protocol: str = "quick",
    *,
    clips: int | None = None,
    weights: str | None = None,
    step: int | str | None = None,
    size: int | None = None,
    stride: int | None = None,
    fps: float | None = None,
    change: str | None = None,
    seed: int = 0,
    batch: int = 2,
    progress: Progress | None = None,
    devices: Sequence[Any] | None = None,
) -> Result:
    """Measures clips against real ones; writes nothing but the cache of real clips' features.

    Args:
      subject: Folder of a run, which is sampled; or anything that `open_source` takes: a folder of
        videos, an archive, an array; or "real".
      against: Real clips.
      protocol: A name in `PROTOCOLS`.
      clips: How many of each, instead of the protocol's number; the manifest says so. Fewer real
        ones are taken where there are no more windows.
      weights: File of the network's weights.
      step: Of a run: its checkpoint, or "best"; the newest by default.
      size: Side of the frames; by default a run's own, or the shorter side of the first clip.
      stride: Take every n-th frame; by default as the run was trained, or 1.
      fps: Resample to this rate instead.
      change: A name in `degradations.CHANGES`: the clips are spoilt so before they are measured, to
        see what figures tell.
      seed: Of the choice of windows and of all draws.
      batch: Clips that a device measures at once.
      progress: Called with (done, total, text).
      devices: JAX devices; all by default.

    Raises:
      ConfigError: An argument is wrong.
      DataError: Clips or weights cannot be read, or there are too few.
      StorageError: The run has no good checkpoint.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"there is no protocol {protocol!r}", "one of " + ", ".join(PROTOCOLS))
    rules = PROTOCOLS[protocol]
    count = rules["clips"] if clips is None else clips
    if count < _FEWEST:
        raise ConfigError(f"--clips={count}", f"at least {_FEWEST}")
    show = progress or (lambda done, total, text: None)
    network = features.network(rules["network"], weights)
    sampler, data = None, {"stride": 1 if stride is None else stride, "fps": fps, "crop": "center"}
    if (pathlib.Path(subject) / "checkpoints").is_dir():
        sampler = sampling.load(pathlib.Path(subject), step)
        if stride is None and fps is None:
            data |= _rate_of(subject, step, sampler.step)
        if size not in (None, sampler.generator.size):
            raise ConfigError(f"--size={size}", f"the run makes {sampler.generator.size}")
        size = sampler.generator.size
    size = size or _size_of(against if subject == HALF else subject)
    opened = functools.partial(
        Windows, frames=rules["frames"], size=size, seed=seed, progress=show, **data
    )
    real = opened(against, half=0 if subject == HALF else None)
    here = {
        "frames": rules["frames"],
        "network": network.name,
        "layer": network.layer,
        "sha256": network.sha256,
        "resize": network.resize,
        "range": [-1, 1],
        "seed": seed,
        "real": {**real.facts, **data, "size": size, "windows": real.chosen(count)},
    }
    if sampler is None:
        own = opened(against if subject == HALF else subject, half=1 if subject == HALF else None)
        number = min(count, own.count)
        about = {"kind": "clips", "path": str(subject), **own.facts, "clips": number}
        made = own.read(number)
    else:
        number, labels = count, None
        if sampler.classes and sampler.classes == real.classes:
            labels = real.labels(count)  # as many of each class as are real
        about = {
            "kind": "run", "path": str(subject), "step": sampler.step, "seeds": [0, count],
            "labels": "by seed" if labels is None else "as the real clips",
        }  # fmt: skip
        made = _sampled(sampler, count, rules["frames"], labels)
    for name, have in (("real", min(count, real.count)), (str(subject), number)):
        if have < _FEWEST:
            raise DataError(f"{name}: {have} windows of {rules['frames']} frames", "8 are needed")

    manifest = {
        "protocol": protocol, "version": rules["version"], "clips": count, "measured": number,
        **here,
    }  # fmt: skip

    def measured(measure, stream, total, text):
        done = lambda n: show(n, total, text)  # noqa: E731
        return features.extract(measure, stream, batch=batch, progress=done, devices=devices)

    measure = features.everything(network)
    total = min(count, real.count)
    of_real = _kept(
        {**here, "what": "features", "code": features.VERSION},
        lambda: measured(measure, real.read(total), total, "features of the real clips"),
    )
    # Windows among which copies are looked for: of all the real clips, with few left out.
    bank = real.bank()
    of_bank = _kept(
        {**real.facts, **data, "size": size, "frames": rules["frames"], "code": features.VERSION,
         "what": hashlib.sha256(bank.tobytes()).hexdigest()},
        lambda: measured(features.plain(), real.at(bank), len(bank), "windows of the real clips"),
    )["plain"]  # fmt: skip
    shown: list[np.ndarray] = []
    if change is not None:
        made = degradations.apply(change, made, real.read(number), seed)
        about["change"] = change
    of_fake = measured(
        measure, _looking(made, shown), number, "features of the clips that are measured"
    )
    show(0, 0, "figures")
    nearest, _ = measures.nearest(of_fake["plain"][: len(shown)], of_bank)
    return Result(
        figures={
            **measures.compare(of_real, of_fake, network, seed),
            **measures.copies(of_fake["plain"], of_bank, bank[:, 0], seed),
        },
        manifest=manifest,
        subject=about,
        clips=np.stack(shown),
        nearest=np.stack(list(real.at(bank[nearest]))),
        fps=sampler.fps if sampler is not None else real.fps,
        spread={name: (of_real[name], of_fake[name]) for name in measures.SPREAD},
    )


def check(subject: Path, metric: str, clips: int) -> dict[str, float]:
    """Measures clips by themselves, without real ones; nothing is written.

    Args:
      subject: Folder of a run, which is sampled with seeds 0, 1, 2, ...; or other clips.
      metric: A name in `CHECKS`.
      clips: How many videos; fewer where there are no more.

    Returns:
      The metric's figures by name.

    Raises:
      ConfigError: `clips` is not positive.
      DataError: The clips cannot be read.
      StorageError: The run has no good checkpoint.
    """
    if clips < 1:
        raise ConfigError(f"--clips={clips}", "at least 1")
    frames, measure = CHECKS[metric]
    if (pathlib.Path(subject) / "checkpoints").is_dir():
        return measure(sampling.load(pathlib.Path(subject)).sample(range(clips), frames))
    size = _size_of(subject)
    own = Windows(
        subject, frames=frames, size=size, stride=1, fps=None, crop="center", seed=0, half=None,
        progress=None,
    )  # fmt: skip
    return measure(np.stack(list(own.read(clips))))


def _acd(video: np.ndarray) -> dict[str, float]:
    return {"acd_c": float(measures.average_content_distance(video).mean())}


# Frames of a clip, and what measures them. ACD-C is of 16 frames, as MoCoGAN's clips.
CHECKS: dict[str, tuple[int, Callable[[np.ndarray], dict[str, float]]]] = {
    "toy": (8, toy.score),
    "acd": (16, _acd),
}


class Windows:
    """The windows that a protocol takes of some clips: which, and in which order.

    Attributes:
      classes: Names of the classes.
      facts: What the choice depends on; JSON data.
      count: How many different windows there are.
      fps: Frames per second.
    """

    def __init__(self, path, *, frames, size, stride, fps, crop, seed, half, progress):
        """Opens clips; `half` 0 or 1 for half of them, drawn by the seed."""
        self._store = open_store(
            path,
            PackSettings(size=size, crop=crop, fps=fps),
            toy_frames=(frames - 1) * stride + 1,
            progress=progress,
        )
        store: Any = self._store if half is None else _Half(self._store, half, seed)
        self._clips = Clips(store, frames=frames, stride=stride, seed=seed)
        self._numbers = np.arange(len(self._store)) if half is None else store.numbers
        self._span, self._stride = (frames - 1) * stride + 1, stride
        self.classes = tuple(self._store.classes)
        self.facts = {"fingerprint": self._store.fingerprint, "half": half}
        self.count, self.fps = self._clips.windows, self._store.fps

    def _places(self, count):
        number, first = self._clips.places(0, min(count, self.count))
        return np.stack([self._numbers[number], first], 1)

    def chosen(self, count: int) -> list[list[Any]]:
        """Returns `[name of the clip, first frame]` of each window."""
        names = getattr(self._store, "names", None)
        return [
            [names[number] if names else f"clip {number}", first]
            for number, first in self._places(count).tolist()
        ]

    def labels(self, count: int) -> list[int]:
        """Returns the labels of `count` windows, from the start again where there are fewer."""
        own = np.asarray(self._store.labels)[self._places(count)[:, 0]]
        return np.resize(own, count).tolist()

    def read(self, count: int) -> Iterator[np.ndarray]:
        """Yields the first `count` windows, uint8 `[T, H, W, 3]`."""
        return self.at(self._places(count))

    def bank(self) -> np.ndarray:
        """Returns windows from all the clips, as densely as 20,000 allow; int64 `[n, 2]`.

        Number of the clip and first frame. Where there are more clips, some are left out, evenly.
        """
        counts = count_windows(np.asarray(self._store.lengths)[self._numbers], self._span, "skip")
        step = next(n for n in range(1, self._span + 1) if _fits(counts, n) or n == self._span)
        each = [
            (number, first)
            for number, count in zip(self._numbers.tolist(), counts.tolist(), strict=True)
            for first in range(0, count, step)
        ]
        keep = np.linspace(0, len(each) - 1, min(len(each), _BANK)).round().astype(int)
        return np.array(each)[keep]

    def at(self, places: np.ndarray) -> Iterator[np.ndarray]:
        """Yields the windows at `[n, 2]` clip and first frame."""
        for number, first in places.tolist():
            yield self._store[number][first : first + self._span : self._stride]


def _fits(counts: np.ndarray, step: int) -> bool:
    """Tells whether every `step`-th of so many windows of each clip are few enough for the bank."""
    return int((-(-counts // step)).sum()) <= _BANK


class _Half:
    """Every other clip of a store, in an order drawn by a seed."""

    def __init__(self, store, part: int, seed: int):
        order = seeds.stream(seed, "halves").permutation(len(store))
        self.numbers = np.sort(order[part::2])
        self._store, self.classes = store, store.classes
        self.columns = {name: values[self.numbers] for name, values in store.columns.items()}
        self.lengths = store.lengths[self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._store[self.numbers[index]]


def _sampled(sampler, count: int, frames: int, labels) -> Iterator[np.ndarray]:
    for at in range(0, count, 16):
        chosen = range(at, min(at + 16, count))
        yield from sampler.sample(chosen, frames, 0, labels and labels[at : at + 16])


def _looking(clips: Iterable[np.ndarray], shown: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields the clips and keeps the first few of them."""
    for clip in clips:
        if len(shown) < _SHOWN:
            shown.append(clip)
        yield clip


def _rate_of(run: Path, asked: int | str | None, step: int) -> dict[str, Any]:
    """Returns the stride and rate that a run was trained with."""
    folder = pathlib.Path(run) / ("best" if asked == "best" else "checkpoints")
    meta = Checkpoints(folder).meta(step)
    data = meta["config"]["data"]
    return {"stride": data["stride"] or meta["stride"], "fps": data["fps"] or None}


def _size_of(path: Path) -> int:
    """Returns the shorter side of the first clip."""
    first: Any = open_source(path)[0]
    return min((first if is_toy(path) else first.frames).shape[1:3])


def _kept(key: dict[str, Any], compute: Callable[[], dict[str, np.ndarray]]):
    """Returns arrays from the cache, or computes them and puts them there.

    They depend on the manifest alone (and on the device: XLA's last bits differ from one to
    another), so the file is named by its hash; a file that cannot be read is made again.
    """
    where = [jax.default_backend(), jax.devices()[0].device_kind, jax.__version__]
    text = json.dumps([key, where], sort_keys=True)
    path = cache_folder(None) / "features" / f"{hashlib.sha256(text.encode()).hexdigest()}.npz"
    if path.exists():
        # np.load raises nearly anything of a damaged file.
        with contextlib.suppress(Exception), path.open("rb") as file:
            return dict(np.load(file, allow_pickle=False))
    found = compute()
    with atomic.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **found)  # pyright: ignore[reportArgumentType]
    return found
