"""Which windows of clips are measured, and in which order."""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from vidgen import frame_size, seeds
from vidgen.data.listing import is_toy, open_source, toy_source
from vidgen.data.pack import Pack, open_store
from vidgen.data.settings import PackSettings
from vidgen.data.stream import Clips, count_windows
from vidgen.data.toy import ToySource
from vidgen.errors import DataError
from vidgen.evaluation.protocol import RealClips

_LOG = logging.getLogger("vidgen")
_BANK = 20_000  # windows of the real clips among which copies are looked for

Path = str | os.PathLike[str]
Progress = Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True)
class WindowSpec:
    """Which frames make a window, and how large they become.

    Attributes:
      frames: Frames of a window.
      size: Of the frames: the side of squares, or `(height, width)`.
      stride: Take every n-th frame of a clip.
      fps: Resample clips to this rate first; None keeps every frame.
      crop: "center": the centre of each frame.
    """

    frames: int
    size: frame_size.Size
    stride: int = 1
    fps: float | None = None
    crop: str = "center"

    @property
    def span(self) -> int:
        """Frames of a clip from the first to the last of a window."""
        return (self.frames - 1) * self.stride + 1


class Windows:
    """The windows of some clips.

    Attributes:
      spec: Which frames make a window.
      half: Which half of the clips they are of, or None.
      fingerprint: Changes with any of the clips.
      classes: Names of the classes.
      clips: How many clips have a window at least.
      count: How many different windows there are.
      fps: Frames per second of the windows.
    """

    def __init__(
        self,
        path: Path,
        spec: WindowSpec,
        *,
        seed: int = 0,
        half: int | None = None,
        side: str = "clips",
        at_least: int = 1,
        progress: Progress | None = None,
    ):
        """Opens clips, and packs them if need be.

        Args:
          path: What `open_store` takes.
          spec: Which frames make a window.
          seed: Of the order, and of the halves.
          half: 0 or 1 for half of the clips, or None for all.
          side: What the clips are, for errors.
          at_least: How many windows there must be.
          progress: Called with (done, total, text) while clips are packed.

        Raises:
          DataError: The clips cannot be read, or there are too few.
          ConfigError: A pack was given that does not fit the spec.
        """
        store = open_store(
            path,
            PackSettings(size=spec.size, crop=spec.crop, fps=spec.fps),
            toy_frames=spec.span,
            progress=progress,
        )
        if isinstance(store, Pack) and any("data.limits." in why for _, why in store.skipped):
            _LOG.warning(
                "%s: some were left out by data.limits; to raise one, make a pack (vidgen data "
                "pack DATA --config=FILE --config.data.limits...) and name the pack",
                side,
            )
        self._path, self._store, self.spec, self.half = path, store, spec, half
        self.fingerprint, self.classes = store.fingerprint, tuple(store.classes)
        self.fps = store.fps / spec.stride
        part = _Half(store, half, seed)
        self._numbers = part.numbers
        starts = _starts(part.lengths, spec)
        self.count, self.clips = int(starts.sum()), int((starts > 0).sum())
        if self.count < at_least:
            raise _too_few(f"{side} ({os.fspath(path)})", part.lengths, spec, at_least)
        self._stream = Clips(part, frames=spec.frames, stride=spec.stride, seed=seed)

    def recorded_size(self) -> tuple[int, int]:
        """Returns height and width of the first clip, before it was resized."""
        # Toy clips are drawn at the size of the window, unless their path has another.
        toy = isinstance(self._store, ToySource)
        return _size(self._store[0]) if toy else first_frame_size(self._path)

    def describe(self, count: int) -> RealClips:
        """Returns the choice of the first `count` windows for a manifest."""
        spec = self.spec
        return {
            "fingerprint": self.fingerprint,
            "half": self.half,
            "stride": spec.stride,
            "fps": spec.fps,
            "crop": spec.crop,
            "size": list(spec.size) if isinstance(spec.size, tuple) else spec.size,
            "windows": [[self._name(clip), first] for clip, first in self._places(count).tolist()],
        }

    def _name(self, clip: int) -> str:
        return self._store.names[clip] if isinstance(self._store, Pack) else f"clip {clip}"

    def _places(self, count: int) -> np.ndarray:
        """Returns the clip and the first frame of the first windows, int64 `[count, 2]`."""
        number, first = self._stream.places(0, min(count, self.count))
        return np.stack([self._numbers[number], first], 1)

    def labels(self, count: int) -> list[int]:
        """Returns the labels of `count` windows, from the start again where there are fewer."""
        labels = self._store.columns["label"][self._places(count)[:, 0]]
        return np.resize(labels, count).tolist()

    def read(self, count: int) -> Iterator[np.ndarray]:
        """Yields the first `count` windows, uint8 `[T, H, W, 3]`."""
        return self.at(self._places(count))

    def bank(self) -> np.ndarray:
        """Returns windows from all the clips, as densely as 20,000 allow; int64 `[n, 2]`.

        Number of the clip and first frame. Where there are more clips, some are left out, evenly.
        """
        counts = _starts(np.asarray(self._store.lengths)[self._numbers], self.spec)
        span = self.spec.span
        step = next(n for n in range(1, span + 1) if _fits(counts, n) or n == span)
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
            yield self._store[number][first : first + self.spec.span : self.spec.stride]


def _starts(lengths: np.ndarray, spec: WindowSpec) -> np.ndarray:
    """Returns how many windows begin in clips of the given lengths."""
    return count_windows(np.asarray(lengths, np.int64), spec.span, "skip")


def _fits(counts: np.ndarray, step: int) -> bool:
    """Tells whether every `step`-th of so many windows of each clip are few enough for the bank."""
    return int((-(-counts // step)).sum()) <= _BANK


def _too_few(side: str, lengths: np.ndarray, spec: WindowSpec, at_least: int) -> DataError:
    count = int(_starts(lengths, spec).sum())
    stride = f", stride {spec.stride}" if spec.stride > 1 else ""
    ways = ["more clips"] if count else [f"clips of {spec.span} frames or more"]
    if spec.frames > 16:
        ways.append("a protocol of shorter clips (--protocol=quick or fvd16)")
    if spec.stride > 1:
        ways.append("a smaller --stride")
    if spec.stride > 1 and side.startswith("the generated"):
        ways.append("--generated_stride=1 if they were made at that stride")
    return DataError(
        f"{side}: {count} windows of {spec.frames} frames{stride}, at least {at_least} are needed; "
        f"there are {len(lengths)} clips, the longest has {int(lengths.max(initial=0))} frames, a "
        f"window spans {spec.span}",
        "give " + ", or ".join(ways),
    )


class _Half:
    """Every other clip of a store, in an order drawn by a seed; or all of them."""

    def __init__(self, store: Pack | ToySource, half: int | None, seed: int):
        self.numbers = np.arange(len(store))
        if half is not None:
            order = seeds.stream(seed, "halves").permutation(len(store))
            self.numbers = np.sort(order[half::2])
        self._store, self.classes, self.fps = store, store.classes, store.fps
        self.size = store.size
        self.columns = {name: values[self.numbers] for name, values in store.columns.items()}
        self.lengths = store.lengths[self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._store[int(self.numbers[index])]


def first_frame_size(path: Path) -> tuple[int, int]:
    """Returns height and width of the first clip that can be read, as recorded.

    Of a pack, those that it was packed with; of toy clips, those that the path asks for.

    Raises:
      DataError: None can be read.
    """
    if (pathlib.Path(path) / "pack.json").is_file():
        return _size(Pack(path)[0])
    source = open_source(path)
    if isinstance(source, ToySource):
        return frame_size.height_width(source.size)
    for number in range(len(source)):
        try:
            return _size(source[number].frames)
        except DataError:
            if number + 1 == len(source):
                raise
    raise DataError(f"{os.fspath(path)}: holds no clip")


def size_of(path: Path) -> frame_size.Size:
    """Returns the size at which clips are measured unless another one is asked for.

    Of a pack, and of toy clips, their own; of others the square of the first clip's shorter side.

    Raises:
      DataError: No clip can be read.
    """
    if (pathlib.Path(path) / "pack.json").is_file():
        return Pack(path).size
    if is_toy(os.fspath(path)):
        return toy_source(os.fspath(path)).size
    return min(first_frame_size(path))


def _size(clip: np.ndarray) -> tuple[int, int]:
    return clip.shape[1], clip.shape[2]
