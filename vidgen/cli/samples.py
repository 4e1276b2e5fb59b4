"""What `vidgen sample` writes: some videos at a time, or a long one as it is made."""

import itertools
import logging
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vidgen.cli.sampling_flags import Target, check_quality
from vidgen.errors import ConfigError
from vidgen.frame_size import height_width
from vidgen.runtime import devices
from vidgen.text import printed
from vidgen.video import atomic, encoding, writing

MOST = 2**32  # bytes of frames in memory at once; of a longer video they are written as they come
_TOGETHER = ("png", "npz")  # one file of all videos
log = logging.getLogger("vidgen")

Progress = Callable[[int, int, str], None]


def write(
    sampler: Any,
    target: Target,
    progress: Progress,
    *,
    frames: int | None,
    start: int,
    labels: Any,
    fps: float | None,
    quality: float | None,
) -> int:
    """Samples and writes what was asked for, and prints each path once the file is whole.

    Args:
      sampler: A `vidgen.Sampler`.
      target: What, and where.
      progress: `(done, total, text)`.
      frames: Length of each video; None for the sampler's own.
      start: First frame.
      labels: A class for all videos, a list of one for each, or None.
      fps: Frames per second; None for those of the training clips.
      quality: 0 to 100, or None.

    Returns:
      Frames of each video.

    Raises:
      ConfigError: A number is out of range, or it is more than can be held in memory and the
        format cannot be written as it is made.
      StorageError: A file cannot be written.
    """
    length = sampler.length(frames, start)
    kind = target.kind or ("mp4" if length > 1 else "png")
    check_quality(kind, quality)
    folder = target.path.parent if target.is_file else target.path
    atomic.check_place(target.path, folder=not target.is_file)
    one = length * int(np.prod(height_width(sampler.size))) * 3
    streamed = kind not in _TOGETHER and one > MOST
    if streamed:
        _check_stream(sampler, kind, length, one)
    elif kind in _TOGETHER and one * len(target.seeds) > (room := max(MOST, devices.memory() // 2)):
        what = f"{len(target.seeds)} videos of {length} frames"
        _refuse(what, kind, one * len(target.seeds), room, streams=not sampler.limit)
    with atomic.storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    rate = fps or sampler.fps
    if kind in _TOGETHER:
        progress(0, 0, "sampling")
        videos = sampler.sample(target.seeds, length, start, labels)
        _write_together(kind, target, videos, rate, length, quality)
        return length
    total = length * len(target.seeds)
    each = [labels] * len(target.seeds) if not isinstance(labels, list) else labels
    if isinstance(labels, list) and len(labels) != len(target.seeds):
        raise ConfigError(
            f"{len(labels)} labels for {len(target.seeds)} seeds", "give one for each"
        )
    number = 0
    for videos in _videos(sampler, target.seeds, each, length, start, one, streamed):
        for video in videos:
            path = target.path
            if not target.is_file:
                path = folder / f"seed-{target.seeds[number]:06d}{writing.FORMATS[kind]}"
            try:
                if streamed:
                    shown = _counted(video, number * length, total, progress)
                    writing.write_stream(path, shown, rate, quality=quality)
                else:
                    writing.write_video(path, video, rate, quality=quality)
            except ValueError as error:  # as a GIF that stands still for minutes
                raise ConfigError(str(error), "choose another --format or --fps") from error
            number += 1
            progress(number * length, total, "sampling")
            print(printed(path), flush=True)  # whole, whatever becomes of the others
    return length


def _videos(
    sampler: Any,
    seeds: list[int],
    labels: list[Any],
    length: int,
    start: int,
    one: int,
    streamed: bool,
) -> Iterator[list[Any]]:
    """Yields some videos at a time: arrays, or iterators of frames."""
    if streamed:
        for seed, label in zip(seeds, labels, strict=True):
            yield [itertools.islice(sampler.stream(seed, start, label), length)]
        return
    some = max(min(16, MOST // one), 1)
    some -= some % sampler.batch if some >= sampler.batch else 0
    for at in range(0, len(seeds), some):
        chosen = labels[at : at + some]
        given = None if chosen[0] is None else chosen
        yield sampler.sample(seeds[at : at + some], length, start, given)


def _counted(frames: Iterator[Any], before: int, total: int, progress: Progress) -> Iterator[Any]:
    for number, frame in enumerate(frames):
        if number % 64 == 0:
            progress(before + number, total, "sampling")
        yield frame


def _check_stream(sampler: Any, kind: str, length: int, size: int) -> None:
    """Refuses what is too long for memory and cannot be written as it is made."""
    if sampler.limit or writing.FORMATS[kind] not in (*encoding.STREAMED, ""):
        _refuse(f"a video of {length} frames", kind, size, MOST, streams=not sampler.limit)
    if size > 100 * MOST:
        log.warning("%d frames are %.0f GiB before they are encoded", length, size / 2**30)


def _refuse(what: str, kind: str, size: int, most: int, streams: bool) -> None:
    formats = [k for k, end in writing.FORMATS.items() if end in (*encoding.STREAMED, "")]
    other = f", or --format={'|'.join(formats)}, written as it is made" if streams else ""
    raise ConfigError(
        f"{what} is {size / 2**30:.0f} GiB, and a file of format {kind} is made in memory, of at "
        f"most {most / 2**30:.0f} GiB",
        f"fewer --frames or --seeds{other}",
    )


def _write_together(
    kind: str,
    target: Target,
    videos: np.ndarray,
    fps: float,
    length: int,
    quality: float | None,
) -> None:
    path = target.path
    if kind == "npz":
        path = path if target.is_file else path / "videos.npz"
        writing.write_video(path, videos, fps, quality=quality)
    else:
        if length == 1 and not target.is_file:  # images
            for seed, video in zip(target.seeds, videos, strict=True):
                writing.write_png(pathlib.Path(path) / f"seed-{seed:06d}.png", video[0])
        path = path if target.is_file else path / "grid.png"
        writing.write_grid(path, videos)
    print(printed(path))
