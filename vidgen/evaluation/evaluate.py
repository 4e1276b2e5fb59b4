"""Measuring what a run makes, or anybody's folder of videos: scores, and what they hold for.

    result = vidgen.evaluate("runs/actions", against="actions64/", protocol="fvd16")
    result.scores["fvd"]                           # {"value": ..., "low": ..., "high": ...}
    result.manifest                                # all that the scores depend on
    report.write(result, "runs/actions/report")    # report.json and report.html

Two results compare where their manifests agree (`protocol.differences`).
"""

import dataclasses
import functools
import hashlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypedDict

import jax
import numpy as np

from vidgen.data.workers import RATE
from vidgen.errors import ConfigError
from vidgen.evaluation import cache, subjects
from vidgen.evaluation import protocol as protocols
from vidgen.evaluation import scores as score_names
from vidgen.evaluation.protocol import FEW_CLIPS, MIN_CLIPS, Manifest
from vidgen.evaluation.scores import Scores
from vidgen.evaluation.subjects import Generated, Subject
from vidgen.evaluation.windows import Path, Progress, Windows, WindowSpec, size_of
from vidgen.frame_size import Size, height_width
from vidgen.metrics import degradations, features, measures, toy

HALF = "real"  # as the subject: one half of the real clips, against the other
_SHOWN = 12  # clips of a report's gallery
_LOG = logging.getLogger("vidgen")

Devices = Sequence[jax.Device] | None  # pyright: ignore[reportInvalidTypeForm]


class Real(TypedDict):
    """What a person wants to know of the real clips; JSON data.

    Attributes:
      path: Where they are.
      clips: How many of them have a window.
      windows: How many different windows they have.
      fps: Frames per second of the windows.
      frame_size: Height and width of the first clip, before it was resized.
    """

    path: str
    clips: int
    windows: int
    fps: float
    frame_size: tuple[int, int]


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """Scores, what they hold for, and clips to look at.

    Attributes:
      scores: By name: a dict of `value` and, where estimated, `low` and `high` (95 %).
      manifest: All that scores depend on but for the generated clips; JSON data.
      subject: Which clips those were; JSON data.
      real: What the real clips are; JSON data.
      warnings: What a reader of the scores should know.
      clips: The first generated clips, uint8 `[n, T, H, W, 3]`.
      nearest: The real clip most like each, uint8 `[n, T, H, W, 3]`.
      fps: Frames per second of both.
      distributions: By name, the values `(real, generated)` of a score of single clips, each
        float32 `[N]`.
    """

    scores: Scores
    manifest: Manifest
    subject: Subject
    real: Real
    warnings: tuple[str, ...]
    clips: np.ndarray
    nearest: np.ndarray
    fps: float
    distributions: dict[str, tuple[np.ndarray, np.ndarray]]

    def __repr__(self) -> str:
        """Says what was measured and the first scores; not the arrays."""
        first = ", ".join(
            f"{name}={score_names.text(self.scores[name])}"
            for name in ("fvd", "frechet", "precision", "recall", "copied")
            if name in self.scores
        )
        warned = f", {len(self.warnings)} warnings" if self.warnings else ""
        return (
            f"<Result of {self.subject.get('path')} against {self.real['path']}, "
            f"{protocols.title(self.manifest)}: {first}{warned}>"
        )


def evaluate(
    subject: Path,
    against: Path,
    protocol: str = "quick",
    *,
    clips: int | None = None,
    weights: str | None = None,
    step: int | str | None = None,
    start: int = 0,
    size: Size | None = None,
    stride: int | None = None,
    generated_stride: int | None = None,
    fps: float | None = None,
    change: str | None = None,
    reconstructions: bool = False,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch: int = 2,
    progress: Progress | None = None,
    devices: Devices = None,
) -> Result:
    """Measures clips against real ones; writes nothing but the cache of real clips' features.

    Scores that the real clips give no unit for, because they are all alike, are left out, and a
    warning names them.

    Before anything long begins, the logger `vidgen` says how many clips are wanted and how many
    there are (INFO), and warns of what makes scores hard to judge: few clips, other frame rates,
    other sizes.

    Example:
      >>> result = evaluate("toy:clips=64,seed=1", "toy:clips=64", "pixel", clips=16)
      >>> result.scores["copied"]["value"]
      0.0
      >>> result.manifest["clips"], result.manifest["frames"], result.clips.shape
      (16, 16, (12, 16, 32, 32, 3))

    Args:
      subject: Folder of a run, which is sampled; or anything that `open_source` takes: a folder of
        videos, an archive, an array; or "real": half of the real clips, against the other half.
      against: Real clips.
      protocol: A name in `PROTOCOLS`.
      clips: How many of each, instead of the protocol's number; the manifest says so. Fewer are
        taken where there are no more windows.
      weights: File of the network's weights.
      step: Of a run: its checkpoint, or "best"; the newest by default.
      start: Of a run: the first frame of each video that is measured.
      size: Of the frames: the side of squares, or `(height, width)`; by default that of a run or
        of a pack, or the shorter side of the first clip.
      stride: Take every n-th frame of both; by default as the run was trained, or 1.
      generated_stride: Of generated clips in files: take every n-th of their frames instead; 1
        where they were made at the real clips' stride already.
      fps: Resample to this rate instead.
      change: A name in `degradations.CHANGES`: the clips are spoilt so before they are measured, to
        see what scores tell.
      reconstructions: Of a run with a codec or an encoder: the real clips that are compared with,
        encoded and decoded, are measured instead of samples.
      options: Of a run: sampling options, as `vidgen.load` takes them.
      seed: Of the choice of windows and of all draws.
      batch: Clips that a device measures at once.
      progress: Called with (done, total, text).
      devices: JAX devices; all by default.

    Raises:
      ConfigError: An argument is wrong.
      DataError: Clips or weights cannot be read, or there are too few.
      StorageError: The run has no good checkpoint.
    """
    rules, count = protocols.choose(protocol, clips)
    if change is not None:
        degradations.apply(change, iter(()), iter(()))  # refuses an unknown name
    progress = progress or (lambda done, total, text: None)
    network = features.network(rules.network, weights)
    _LOG.info("%s wants %d clips of %d frames a side", protocol, count, rules.frames)

    # Both sides, opened and counted; what makes them hard to compare is said before it costs time.
    halves = subject == HALF
    run = None if halves else subjects.load_run(subject, step, size, rules.frames, options, start)
    if start and (run is None or reconstructions):
        raise ConfigError(f"--start={start}: nothing is sampled", "leave it out, or name a run")
    if reconstructions and (run is None or not run.reconstructs):
        raise ConfigError(
            f"--reconstructions: {subject} has no codec and no encoder",
            "name a run of flow, autoregressive or vae",
        )
    if reconstructions and options:
        raise ConfigError(
            f"sampling options with --reconstructions: {', '.join(options)}",
            "leave them out: nothing is sampled",
        )
    if generated_stride is not None and (run is not None or halves):
        raise ConfigError(
            f"--generated_stride={generated_stride}: what is measured is made at the real stride",
            "leave it out, or name a folder of generated clips",
        )
    spec = subjects.window_spec(
        rules.frames, run, against if halves else subject, size=size, stride=stride, fps=fps
    )
    open_windows = functools.partial(
        Windows, spec=spec, seed=seed, at_least=MIN_CLIPS, progress=progress
    )
    real = open_windows(against, half=0 if halves else None, side="the real clips")
    if run is None:
        path = against if halves else subject
        half = 1 if halves else None
        own = dataclasses.replace(spec, stride=generated_stride or spec.stride)
        windows = open_windows(path, spec=own, half=half, side="the generated clips")
        generated = subjects.windows_of_clips(windows, count, subject)
        if own.stride != spec.stride:
            generated.subject["stride"] = own.stride
    elif reconstructions:
        generated = subjects.reconstructions_of_run(run, count, real, subject)
    else:
        generated = subjects.samples_of_run(run, count, start, real, subject)
    manifest = protocols.make_manifest(
        protocol,
        clips=count,
        measured=generated.count,
        network=network,
        seed=seed,
        real=real.describe(count),
    )
    about_real: Real = {
        "path": os.fspath(against),
        "clips": real.clips,
        "windows": real.count,
        "fps": real.fps,
        "frame_size": generated.frame_size if halves else real.recorded_size(),
    }
    _LOG.info(
        "real has %d windows in %d clips, generated %s",
        real.count,
        real.clips,
        generated.available,
    )
    warnings = tuple(_warnings(protocol, count, spec, about_real, generated))
    for warning in warnings:
        _LOG.warning("%s", warning)

    # Features of both.
    extract = functools.partial(_extract, batch=batch, devices=devices, progress=progress)
    of_real, of_bank, bank = _real_features(real, network, manifest, extract)
    stream = generated.clips
    about = generated.subject
    if change is not None:
        stream = degradations.apply(change, stream, real.read(generated.count), seed)
        about: Subject = {**about, "change": change}
    shown: list[np.ndarray] = []
    of_generated = extract(
        features.everything(network),
        _keep_first(stream, shown),
        generated.count,
        "features of the generated clips",
    )

    progress(0, 0, "scores")
    nearest, _ = measures.nearest(of_generated["plain"][: len(shown)], of_bank)
    scores = {
        **measures.compare(of_real, of_generated, network, seed),
        **measures.copies(of_generated["plain"], of_bank, bank[:, 0], seed),
    }
    if without := [name for name, score in scores.items() if math.isnan(score["value"])]:
        warnings += (f"left out, since the real clips are alike in it: {', '.join(without)}",)
        _LOG.warning("%s", warnings[-1])
    return Result(
        scores={name: score for name, score in scores.items() if name not in without},
        manifest=manifest,
        subject=about,
        real=about_real,
        warnings=warnings,
        clips=np.stack(shown),
        nearest=np.stack(list(real.at(bank[nearest]))),
        fps=real.fps,
        distributions={name: (of_real[name], of_generated[name]) for name in measures.SPREAD},
    )


# -------------------------------------------------------------------- what is said before it runs


def _warnings(
    protocol: str, count: int, spec: WindowSpec, real: Real, generated: Generated
) -> Iterator[str]:
    """Says what makes scores hard to judge."""
    counts = {"real": min(count, real["windows"]), "generated": generated.count}
    for side, number in counts.items():
        if number < count:
            yield (
                f"{protocol} wants {count} clips, the {side} ones have {number} windows of "
                f"{spec.frames} frames: all of them are measured"
            )
    few = [f"{number} {side} clips" for side, number in counts.items() if number < FEW_CLIPS]
    if few:
        yield (
            f"{' and '.join(few)} are few to judge by: distances come out too large and vary "
            f"from one draw to another; {FEW_CLIPS} and more are better"
        )
    # Clips without a rate count as 25; whoever says that they are at the real stride knows theirs.
    told = "stride" in generated.subject and generated.fps * generated.subject["stride"] == RATE
    if abs(real["fps"] - generated.fps) > 0.02 * real["fps"] and not told:
        unknown = RATE / spec.stride in (real["fps"], generated.fps)
        guessed = " (clips without a rate, as arrays, count as 25)" if unknown else ""
        yield (
            f"other frame rates: real clips have {real['fps']:.4g} frames per second, generated "
            f"ones {generated.fps:.4g}, so motion from frame to frame is of other spans of time"
            f"{guessed}"
        )
    sizes = real["frame_size"], generated.frame_size
    unlike = []
    if _scale(sizes[0], spec.size) != _scale(sizes[1], spec.size):
        unlike.append("resized frames differ in sharpness")
    ratios = [width / height for height, width in sizes]
    if generated.subject.get("kind") == "clips" and abs(ratios[0] - ratios[1]) > 0.02 * ratios[0]:
        unlike.append("less of some is left when their sides are cut off")
    if unlike:
        height, width = height_width(spec.size)
        yield (
            f"other sizes: real clips are {_wide(sizes[0])}, generated ones {_wide(sizes[1])}; "
            f"both are measured at {width}x{height}, and {', and '.join(unlike)}"
        )


def _scale(frame_size: tuple[int, int], size: Size) -> float:
    """Returns how much larger frames become that are to cover a size."""
    return max(to / side for to, side in zip(height_width(size), frame_size, strict=True))


def _wide(frame_size: tuple[int, int]) -> str:
    height, width = frame_size
    return f"{width}x{height}"


# ----------------------------------------------------------------------------------- features

_Extract = Callable[[features.Measure, Iterable[np.ndarray], int, str], dict[str, np.ndarray]]


def _extract(
    measure: features.Measure,
    clips: Iterable[np.ndarray],
    total: int,
    text: str,
    *,
    batch: int,
    devices: Devices,
    progress: Progress,
) -> dict[str, np.ndarray]:
    def done(number: int) -> None:
        progress(number, total, text)

    return features.extract(measure, clips, batch=batch, progress=done, devices=devices)


def _real_features(
    real: Windows, network: features.Network, manifest: Manifest, extract: _Extract
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Returns what the protocol measures of the real clips, from the cache where it can be.

    Returns:
      Features of the windows that are compared with, by name; features `[n, D]` of the windows
      among which copies are looked for; and where those are, `[n, 2]` clip and first frame.
    """
    total = min(manifest["clips"], real.count)
    # Of the manifest, what the features of the real clips depend on.
    key: dict[str, object] = {
        name: value
        for name, value in manifest.items()
        if name not in ("protocol", "version", "clips", "measured")
    }
    of_real = cache.kept(
        {**key, "what": "features", "code": features.VERSION},
        lambda: extract(
            features.everything(network), real.read(total), total, "features of the real clips"
        ),
    )
    bank = real.bank()  # of all the real clips, with few windows left out
    chosen: Mapping[str, object] = manifest["real"]
    of_bank = cache.kept(
        {
            **{name: value for name, value in chosen.items() if name != "windows"},
            "frames": manifest["frames"],
            "code": features.VERSION,
            "what": hashlib.sha256(bank.tobytes()).hexdigest(),
        },
        lambda: extract(features.plain(), real.at(bank), len(bank), "windows of the real clips"),
    )
    return of_real, of_bank["plain"], bank


def _keep_first(clips: Iterable[np.ndarray], shown: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields the clips and keeps the first few of them."""
    for clip in clips:
        if len(shown) < _SHOWN:
            shown.append(clip)
        yield clip


# ----------------------------------------------------------------------------- without real clips


def check(
    subject: Path,
    metric: str,
    clips: int,
    step: int | str | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Measures clips by themselves, without real ones; nothing is written.

    Args:
      subject: Folder of a run, which is sampled with seeds 0, 1, 2, ...; or other clips.
      metric: A name in `CHECKS`.
      clips: How many videos; fewer where there are no more.
      step: Of a run: its checkpoint, or "best"; the newest by default.
      options: Of a run: sampling options.

    Returns:
      The metric's scores by name.

    Raises:
      ConfigError: `clips` is not positive, there is no such metric, or `step` is not of a run.
      DataError: The clips cannot be read.
      StorageError: The run has no good checkpoint.
    """
    if metric not in CHECKS:
        raise ConfigError(f"there is no metric {metric!r}", "one of " + ", ".join(CHECKS))
    if clips < 1:
        raise ConfigError(f"--clips={clips}", "at least 1")
    frames, measure = CHECKS[metric]
    run = subjects.load_run(subject, step, None, frames, options)
    if run is not None:
        return measure(run.sampler.sample(range(clips), frames))
    spec = WindowSpec(frames=frames, size=size_of(subject))
    windows = Windows(subject, spec, side="the clips")
    return measure(np.stack(list(windows.read(clips))))


def _content_distance(video: np.ndarray) -> dict[str, float]:
    return {"acd_c": float(measures.average_content_distance(video).mean())}


# Frames of a clip, and what measures them. ACD-C is of 16 frames, as MoCoGAN's clips.
CHECKS: dict[str, tuple[int, Callable[[np.ndarray], dict[str, float]]]] = {
    "toy": (8, toy.score),
    "acd": (16, _content_distance),
}
