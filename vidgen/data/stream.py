"""The endless stream of training clips: item k is a pure function of (seed, k).

    clips = Clips(store, frames=16, stride=2, seed=0, flip=True)
    clips[10**9]["video"]                         # uint8 [16, H, W, 3], at once
    for batch in clips.batches(32, start=step):   # resuming is passing the step
        batch["video"], batch["index"]            # uint8 [32, 16, H, W, 3], int32 [32]

Each epoch visits every clip once, in an order of its own, and takes from it a window, a part of the
frame and a direction that depend on nothing but (seed, k).
"""

import collections
import concurrent.futures
import functools
from collections.abc import Generator, Mapping
from typing import Any, Protocol

import numpy as np

from vidgen import frame_size, seeds
from vidgen.data.looks import split
from vidgen.errors import ConfigError, DataError

Batch = dict[str, np.ndarray]
WINDOW_SECONDS = 1.3  # a chosen stride makes windows of at most this; actions64 learns from 1.24 s
ENOUGH = 0.9  # share of the clips that must be long enough for a chosen stride


class Store(Protocol):
    """What `Clips` reads: a `Pack`, a `ToySource`, or anything of the same shape.

    Attributes:
      classes: Names of the classes; empty where clips have no labels.
      columns: What is known of each clip, by name, `[N]`; a batch has what is known of its clips.
        `label`, int32, where there are classes. Arrays, or what is indexed as they are.
      lengths: int64 `[N]`, frames.
      fps: Frames per second.

    Where it has a `size`, a number or `(height, width)`, windows are cut to that; else to the
    square of the shorter side.
    """

    classes: Any
    lengths: np.ndarray
    fps: float

    @property
    def columns(self) -> Mapping[str, Any]:
        """See above; whatever has an attribute of this name fits."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns clip `index`, uint8 `[T, H, W, 3]`; the same each time, from any thread."""
        ...


class Clips:
    """Windows of the clips of a store, drawn without end.

    Attributes:
      classes: Names of the classes; empty where clips have no labels.
      stride: Distance of a window's frames in the clip, as given or as chosen.
      windows: How many different windows there are, not counting crops and flips.
      skipped: Numbers of the clips that are too short, int64 `[n]`; empty with `short="loop"`.
      looks: For each class how many clips its looks have, of which labels then are numbers; empty
        where classes are not split.
      columns: What is known of each clip of the store, by name, `[N]`.
    """

    def __init__(
        self,
        store: Store,
        *,
        frames: int,
        stride: int = 1,
        seed: int = 0,
        flip: bool = False,
        short: str = "skip",
        looks: int = 1,
    ):
        """Chooses the clips that are long enough.

        Args:
          store: Where clips come from.
          frames: Frames of a window.
          stride: Distance of its frames in the clip; 0: by `choose_stride`.
          seed: Another seed is another stream.
          flip: Whether half of the windows are mirrored.
          short: What becomes of a clip of fewer than `(frames - 1) * stride + 1` frames: "skip"
            leaves it out, "loop" plays it round and round.
          looks: Looks that each class is split into (`vidgen.data.looks`), which reads each clip.

        Raises:
          ConfigError: A value is out of range.
          DataError: No clip is long enough.
        """
        if frames < 1 or stride < 0:
            raise ConfigError(
                f"data.frames={frames} must be at least 1 and data.stride={stride} at least 0"
            )
        if short not in ("skip", "loop"):
            raise ConfigError(f"data.short={short!r} is not known", "choose 'skip' or 'loop'")
        lengths = np.asarray(store.lengths, np.int64)
        stride = stride or choose_stride(lengths, store.fps, frames)
        self.store, self.frames, self.stride = store, frames, stride
        self.seed, self.flip = seed, flip
        self.classes = tuple(store.classes)
        self._size = getattr(store, "size", None)
        self._span = (frames - 1) * stride + 1
        starts = count_windows(lengths, self._span, short)
        self.skipped = np.flatnonzero(starts == 0)
        self._chosen = np.flatnonzero(starts)
        if not len(self._chosen):
            raise DataError(
                f"none of {len(lengths)} clips has the {self._span} frames of a window with "
                f"data.frames={frames}, data.stride={stride}; the longest has "
                f"{lengths.max(initial=0)}",
                "lower data.frames or data.stride, or set data.short=loop",
            )
        self._starts = starts[self._chosen]
        self.windows = int(self._starts.sum())
        self._key = np.uint64(seeds.stream(seed, "clips").integers(1 << 63))
        self.columns, self.looks = dict(store.columns), ()
        if looks > 1:
            label = self.columns.get("label", np.zeros(len(lengths), np.int32)).copy()
            label[self._chosen], self.looks = split(
                store.__getitem__,
                self._chosen.tolist(),
                label[self._chosen],
                max(len(self.classes), 1),
                looks,
            )
            self.columns["label"] = label

    @property
    def labels(self) -> int:
        """How many different labels there are: classes, or looks of all classes."""
        return sum(map(len, self.looks)) or len(self.classes)

    def __getitem__(self, k: int) -> dict[str, Any]:
        """Returns item `k` of the stream, of any size.

        Returns:
          `video` uint8 `[T, H, W, 3]`, `index` int32 (`k` modulo 2**31), and the clip's entry in
          each column of the store.
        """
        return {name: values[0] for name, values in self.take(int(k), 1).items()}

    def take(self, start: int, count: int) -> Batch:
        """Returns items `start` to `start + count` of the stream as one batch.

        Returns:
          `video` uint8 `[B, T, H, W, 3]`, `index` int32 `[B]` (the number of the item modulo
          2**31), and `[B]` of each column of the store: `label` where there are classes, ...

        Raises:
          DataError: The clips are not of one size.
        """
        k = np.arange(start, start + count, dtype=np.int64)
        number, first = self.places(start, count)
        top, left, side = self._draw(k, 1), self._draw(k, 2), self._draw(k, 3)
        video = self._windows(number, first, top, left, self.flip & (side < 0.5))
        batch = {"video": video, "index": (k & 0x7FFFFFFF).astype(np.int32)}
        return batch | {name: values[number] for name, values in self.columns.items()}

    def first(self, count: int) -> Batch:
        """Returns the first windows of the first clips, in the order of the store, as they are.

        Nothing is drawn: they begin at the clips' first frames and are cut in the middle.

        Args:
          count: How many; fewer where there are not as many clips.

        Returns:
          As from `take`, without `index`.
        """
        number, middle = self._chosen[:count], np.full(count, 0.5)
        video = self._windows(number, np.zeros_like(number), middle, middle)
        return {"video": video, **{n: x[number] for n, x in self.columns.items()}}

    def places(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns where items `start` to `start + count` of the stream lie.

        Returns:
          Numbers of their clips in the store, and of their first frames; int64 `[B]` both.
        """
        if start < 0:
            raise IndexError(f"item {start} of the stream")
        k = np.arange(start, start + count, dtype=np.int64)
        epoch, place = np.divmod(k, len(self._chosen))
        order = functools.partial(seeds.permutation, self.seed, size=len(self._chosen))
        slot = np.array([order(e)[p] for e, p in zip(epoch.tolist(), place.tolist(), strict=True)])
        first = (self._draw(k, 0) * self._starts[slot]).astype(np.int64)
        return self._chosen[slot], first

    def _windows(
        self,
        number: np.ndarray,
        first: np.ndarray,
        top: np.ndarray,
        left: np.ndarray,
        mirrored: np.ndarray | None = None,
    ) -> np.ndarray:
        """Cuts windows out of clips, by their numbers and first frames; uint8 `[B, T, H, W, 3]`."""
        video = None
        for n, clip_number in enumerate(number.tolist()):
            window = self._window(self.store[clip_number], int(first[n]))
            window = _cut(window, self._size, top[n], left[n])
            if video is None:
                video = np.empty((len(number), *window.shape), np.uint8)
            elif window.shape != video.shape[1:]:
                sizes = f"{window.shape[1:3]} and {video.shape[2:4]}"
                raise DataError(f"clips {clip_number} and others are not of one size: {sizes}")
            if mirrored is not None and mirrored[n]:
                for channel in range(window.shape[-1]):  # five times faster than all at once
                    video[n, ..., channel] = window[:, :, ::-1, channel]
            else:
                video[n] = window
        assert video is not None
        return video

    def _window(self, clip: np.ndarray, first: int) -> np.ndarray:
        if len(clip) >= self._span:
            return clip[first : first + self._span : self.stride]
        return clip[(first + self.stride * np.arange(self.frames)) % len(clip)]

    def _draw(self, k: np.ndarray, lane: int) -> np.ndarray:
        """Returns a uniform number in [0, 1) for each item, float64 `[B]`.

        A counter hash: a NumPy generator for each item would cost more than copying the clip.

        Reference: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
        """
        with np.errstate(over="ignore"):
            key = _mix(self._key + np.uint64(lane))
            return (_mix(_mix(k.astype(np.uint64)) ^ key) >> np.uint64(11)) * 2.0**-53

    def batches(
        self,
        batch_size: int,
        *,
        start: int = 0,
        host: tuple[int, int] = (0, 1),
        ahead: int = 2,
    ) -> Generator[Batch]:
        """Yields batch `start`, `start + 1`, ... without end, made ahead in a background thread.

        Args:
          batch_size: Items of a global batch; batch s holds items `s * batch_size` and following.
          start: Number of the first batch: the training step.
          host: `(i, n)`: yield only the i-th of n equal parts of each global batch.
          ahead: Batches made in advance.

        Yields:
          What `take` returns. An error of the thread is raised here. Closing the generator, or
          dropping it, ends the thread.

        Raises:
          ConfigError: `batch_size` does not divide by the number of hosts.
        """
        part, parts = host
        if batch_size < 1 or batch_size % parts or not 0 <= part < parts:
            raise ConfigError(
                f"training.batch_size={batch_size} does not divide by {parts} hosts (host {part})"
            )
        return self._batches(
            batch_size, start, batch_size // parts * part, batch_size // parts, ahead
        )

    def _batches(
        self, batch_size: int, start: int, offset: int, count: int, ahead: int
    ) -> Generator[Batch]:
        pool = concurrent.futures.ThreadPoolExecutor(1, "vidgen-clips")
        waiting: collections.deque[concurrent.futures.Future[Batch]] = collections.deque()
        step = start
        try:
            while True:
                while len(waiting) <= ahead:
                    waiting.append(pool.submit(self.take, step * batch_size + offset, count))
                    step += 1
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def empty_batch(columns: Mapping[str, np.ndarray], frames: int, size: frame_size.Size) -> Batch:
    """Returns what `Clips.take` would of no clips: the types and shapes of a batch, with B = 0."""
    video = np.empty((0, frames, *frame_size.height_width(size), 3), np.uint8)
    known = {name: values[:0] for name, values in columns.items()}
    return {"video": video, "index": np.empty(0, np.int32), **known}


def choose_stride(lengths: np.ndarray, fps: float, frames: int) -> int:
    """Returns the largest stride that suits clips: a function of them and of nothing else.

    Windows last at most `WINDOW_SECONDS`, and `ENOUGH` of the clips are as long as one. Where not
    even neighbouring frames do that, the stride is 1.

    Args:
      lengths: Frames of the clips, int64 `[N]`.
      fps: Their frames per second.
      frames: Frames of a window.
    """

    def suits(stride: int) -> bool:
        span = (frames - 1) * stride + 1
        return span <= WINDOW_SECONDS * fps and float(np.mean(lengths >= span)) >= ENOUGH

    most = int(WINDOW_SECONDS * fps) // max(frames - 1, 1)
    if frames == 1 or not len(lengths):
        return 1
    return next((stride for stride in range(most, 1, -1) if suits(stride)), 1)


def describe_choice(lengths: np.ndarray, fps: float, frames: int, stride: int, short: str) -> str:
    """Says in a line which stride was chosen, and what becomes of clips shorter than a window."""
    span = (frames - 1) * stride + 1
    fit = int(np.sum(lengths >= span))
    fate = "repeat their frames" if short == "loop" else "are left out"
    return (
        f"data.stride=0 is {stride} for these clips: a window of {frames} frames lasts "
        f"{span / fps:.2f} s, and {fit} of {len(lengths)} clips are as long"
        + (f"; the rest {fate}" if fit < len(lengths) else "")
    )


def count_windows(lengths: np.ndarray, span: int, short: str) -> np.ndarray:
    """Returns how many windows begin in clips of the given lengths; int64 `[N]`.

    Args:
      lengths: Frames of the clips, int64 `[N]`.
      span: Frames from the first to the last of a window.
      short: "skip": a clip shorter than that has none; "loop": one for each of its frames.
    """
    return np.where(lengths >= span, lengths - span + 1, lengths if short == "loop" else 0)


def _mix(x: np.ndarray | np.uint64) -> Any:
    """Scrambles 64 bit integers: the finalizer of SplitMix64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _cut(window: np.ndarray, size: frame_size.Size | None, top: float, left: float) -> np.ndarray:
    """Cuts a size, or the square of the shorter side, out of `[T, H, W, 3]`.

    It lies at fractions of the slack.
    """
    height, width = window.shape[1:3]
    rows, columns = frame_size.height_width(min(height, width) if size is None else size)
    if (height, width) == (rows, columns):
        return window
    y, x = int(top * (height - rows + 1)), int(left * (width - columns + 1))
    return window[:, y : y + rows, x : x + columns]
