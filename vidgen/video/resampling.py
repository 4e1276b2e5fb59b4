"""Frames at equal steps of time, from frames at any times."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_MERGED = ("gif", "webp", "apng")  # whose writers store equal frames in a row as one
TICK = 6e-4  # half a millisecond, to which Matroska and WebM round times, and a little


def resample(
    timed: Iterable[tuple[float, Any]], fps: float | None, info: Mapping[str, Any] | None = None
) -> Iterator[tuple[float, Any]]:
    """Yields the frames nearest to the times `first + n / fps`, or all of them for `fps=None`.

    Args:
      timed: `(seconds, frame)` with times that never go back.
      fps: Target frames per second.
      info: What `timed_frames` fills; None takes each frame as there at its time alone. Given, the
        last frame lasts as long as the file says, a frame of GIF, WebP or APNG, whose writers store
        equal frames in a row as one, lasts up to the next, and times may be rounded to
        milliseconds: a video comes back whole at the rate at which it was written.

    Yields:
      `(seconds, frame)`; a frame comes again where the target is faster than the source. The last
      time is the last one that is not beyond the last frame of the source, or where that lasts,
      the last one whose frame is for the most part before its end.
    """
    if fps is None:
        yield from timed
        return
    origin = before = previous = None
    number = 0
    for seconds, frame in timed:
        if origin is None or before is None:
            origin = seconds
        else:
            if info and "until" in info and info["codec"] in _MERGED:
                before = max(before, seconds - 1 / fps)  # it is there until then
            while origin + number / fps <= (before + seconds) / 2 + 1e-9:  # the earlier of equals
                yield origin + number / fps, previous
                number += 1
        before, previous = seconds, frame
    if origin is not None and before is not None:
        last = before + (1e-6 if info is None else TICK)
        if info and "until" in info:
            last = max(last, info["until"] - 0.5 / fps - 1e-9)
        while origin + number / fps <= last:
            yield origin + number / fps, previous
            number += 1
