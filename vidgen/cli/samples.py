"""What `vidgen sample` writes: some videos at a time, or a long one as it is made."""

import functools
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
from vidgen.sampling import edit
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
    grid: bool = False,
    condition: dict[str, Any] | None = None,
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
      grid: Write all pairs of the seeds' content and motion instead, as one picture.
      condition: What is asked for beside the class, of all videos; a list has one for each.

    Returns:
      Frames of each video.

    Raises:
      ConfigError: A number is out of range, or it is more than can be held in memory and the
        format cannot be written as it is made.
      StorageError: A file cannot be written.
    """
    length = sampler.length(frames, start, condition, len(target.seeds))
    rate = fps or sampler.fps
    if grid:
        draw = functools.partial(sampler.latents, labels=labels, condition=condition)
        _write_pairs(sampler, target, progress, length, start, draw, rate, quality)
        return length
    kind = _kind(target, length)
    check_quality(kind, quality)
    folder = target.path.parent if target.is_file else target.path
    atomic.check_place(target.path, folder=not target.is_file)
    one = _bytes(sampler, length)
    streamed = kind not in _TOGETHER and one > MOST
    if streamed:
        _check_stream(sampler, kind, length, one)
    elif kind in _TOGETHER and one * len(target.seeds) > (room := _room()):
        what = f"{len(target.seeds)} videos of {length} frames"
        _refuse(what, kind, one * len(target.seeds), room, streams=not sampler.limit)
    with atomic.storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if kind in _TOGETHER:
        show = lambda done, total: progress(done, total, "sampling")  # noqa: E731
        videos = sampler.sample(target.seeds, length, start, labels, show, condition)
        if kind == "png" and length == 1 and not target.is_file:  # images
            for seed, video in zip(target.seeds, videos, strict=True):
                writing.write_png(folder / f"seed-{seed:06d}.png", video[0])
        name = "videos.npz" if kind == "npz" else "grid.png"
        path = target.path if target.is_file else target.path / name
        _write_together(kind, path, videos, rate, quality)
        return length
    total = length * len(target.seeds)
    each = [labels] * len(target.seeds) if not isinstance(labels, list) else labels
    if isinstance(labels, list) and len(labels) != len(target.seeds):
        raise ConfigError(
            f"{len(labels)} labels for {len(target.seeds)} seeds", "give one for each"
        )
    number = 0
    make = functools.partial(_videos, sampler, target.seeds, each, length, start, one, streamed)
    for videos in make(condition):
        for video in videos:
            path = target.path
            if not target.is_file:
                path = folder / f"seed-{target.seeds[number]:06d}{writing.FORMATS[kind]}"
            if streamed:
                shown = _counted(video, number * length, total, progress)
                writing.write_stream(path, shown, rate, quality=quality)
            else:
                _write_one(path, video, rate, quality)
            number += 1
            progress(number * length, total, "sampling")
            print(printed(path), flush=True)  # whole, whatever becomes of the others
    return length


def check_ready(
    sampler: Any, target: Target, count: int, length: int, quality: float | None
) -> None:
    """Refuses what `write_ready` could not write, before any of it is made.

    Args:
      sampler: A `vidgen.Sampler`.
      target: As for `write_ready`.
      count: Of the videos.
      length: Frames of each.
      quality: 0 to 100, or None.

    Raises:
      ConfigError: They do not fit into memory, they are several for one file of a video, or the
        format has no quality.
    """
    check_quality(_kind(target, length), quality)
    _check_room(f"{count} videos of {length} frames", count * _bytes(sampler, length))
    if target.is_file and target.kind not in _TOGETHER and count > 1:
        raise ConfigError(
            f"--out={target.path} is one video, and there are {count}",
            f"a folder (--out=NAME --format={target.kind}), an .npz, or a .png grid",
        )


def ready_path(target: Target, name: str, length: int) -> pathlib.Path | None:
    """Returns the one file that `write_ready` writes; None where it is a file for each video."""
    kind = _kind(target, length)
    if target.is_file:
        return target.path
    return target.path / f"{name}.{kind}" if kind in _TOGETHER else None


def write_ready(
    target: Target, videos: np.ndarray, fps: float, name: str, quality: float | None
) -> None:
    """Writes videos that are made already, and prints each path.

    Args:
      target: What, and where; its seeds are not read.
      videos: uint8 `[N, T, H, W, 3]`.
      fps: Frames per second.
      name: What files in a folder begin with.
      quality: 0 to 100, or None.

    Raises:
      ConfigError: A format does not take them.
      StorageError: A file cannot be written.
    """
    kind, path = _kind(target, videos.shape[1]), ready_path(target, name, videos.shape[1])
    if kind in _TOGETHER:
        assert path is not None
        return _write_together(kind, path, videos, fps, quality)
    for number, video in enumerate(videos):
        one = path or target.path / f"{name}-{number:06d}{writing.FORMATS[kind]}"
        _write_one(one, video, fps, quality)
        print(printed(one), flush=True)


def mosaic(videos: np.ndarray, columns: int) -> np.ndarray:
    """Lays videos out as one, row by row, with white lines of one pixel between.

    Args:
      videos: uint8 `[N, T, H, W, 3]`; N a multiple of `columns`.
      columns: Videos of a row.

    Returns:
      uint8 `[T, rows * (H + 1) - 1, columns * (W + 1) - 1, 3]`.
    """
    count, time, height, width, _ = videos.shape
    size = count // columns * (height + 1) - 1, columns * (width + 1) - 1
    whole = np.full((time, *size, 3), 255, np.uint8)
    for number, video in enumerate(videos):
        y, x = number // columns * (height + 1), number % columns * (width + 1)
        whole[:, y : y + height, x : x + width] = video
    return whole


def _write_pairs(
    sampler: Any,
    target: Target,
    progress: Progress,
    length: int,
    start: int,
    draw: Callable[..., Any],
    fps: float,
    quality: float | None,
) -> None:
    """Writes all pairs of content and motion of some seeds as one picture: a row for each content.

    A PNG shows the frame in the middle; other formats all frames. A folder gets both, as PNG and
    WebP. Errors as of `write`.
    """
    count, kind = len(target.seeds), target.kind or ""
    if kind and writing.FORMATS[kind] in ("", ".npz", ".tiff"):
        raise ConfigError(f"--grid as {kind}", "a .png, or a format of video")
    what = f"a grid of {count} x {count} videos of {length} frames"
    _check_room(what, 2 * count**2 * _bytes(sampler, length))  # the videos, and their picture
    check_quality(kind or "webp", quality)
    atomic.check_place(target.path, folder=not target.is_file)
    latents = edit.grid(draw(target.seeds, length, start))
    show = lambda done, total: progress(done, total, "sampling")  # noqa: E731
    video = mosaic(sampler.decode(latents, length, start, show), count)
    paths = [target.path]
    if not target.is_file:
        ends = [f".{kind}"] if kind else [".png", ".webp"]
        paths = [target.path / f"content-by-motion{end}" for end in ends]
    for path in paths:
        if path.suffix.lower() == ".png":
            writing.write_png(path, video[length // 2])
        else:
            _write_one(path, video, fps, quality)
        print(printed(path))


def _kind(target: Target, length: int) -> str:
    """Returns the format of videos of so many frames."""
    return target.kind or ("mp4" if length > 1 else "png")


def _bytes(sampler: Any, length: int) -> int:
    """Returns the size of a video in memory."""
    return length * int(np.prod(height_width(sampler.size))) * 3


def _room() -> int:
    """Returns the bytes that videos made in memory may take together."""
    return max(MOST, devices.memory() // 2)


def _check_room(what: str, size: int) -> None:
    if size > (room := _room()):
        raise ConfigError(
            f"{what} take {size / 2**30:.0f} GiB",
            f"at most {room / 2**30:.0f} GiB here: fewer of them, or --frames",
        )


def _write_one(path: pathlib.Path, video: Any, fps: float, quality: float | None) -> None:
    """Writes a video; raises ConfigError where its format cannot hold it."""
    try:
        writing.write_video(path, video, fps, quality=quality)
    except ValueError as error:  # as a GIF that stands still for minutes, or too wide a WebP
        raise ConfigError(str(error), "choose another --format or --fps") from error


def _videos(
    sampler: Any,
    seeds: list[int],
    labels: list[Any],
    length: int,
    start: int,
    one: int,
    streamed: bool,
    condition: dict[str, Any] | None,
) -> Iterator[list[Any]]:
    """Yields some videos at a time: arrays, or iterators of frames."""
    if streamed:
        for at, (seed, label) in enumerate(zip(seeds, labels, strict=True)):
            asked = _of_some(condition, slice(at, at + 1))
            yield [itertools.islice(sampler.stream(seed, start, label, asked), length)]
        return
    some = max(min(16, MOST // one), 1)
    some -= some % sampler.batch if some >= sampler.batch else 0
    for at in range(0, len(seeds), some):
        chosen = labels[at : at + some]
        given = None if chosen[0] is None else chosen
        asked = _of_some(condition, slice(at, at + some))
        yield sampler.sample(seeds[at : at + some], length, start, given, condition=asked)


def _of_some(condition: dict[str, Any] | None, rows: slice) -> dict[str, Any] | None:
    """Returns what is asked of some videos."""
    each = (condition or {}).items()
    return {n: x[rows] if isinstance(x, list) else x for n, x in each} or None


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
    kind: str, path: pathlib.Path, videos: np.ndarray, fps: float, quality: float | None
) -> None:
    """Writes all videos as one file of arrays, or as strips of frames, and prints its path."""
    if kind == "npz":
        writing.write_video(path, videos, fps, quality=quality)
    else:
        writing.write_grid(path, videos)
    print(printed(path))
