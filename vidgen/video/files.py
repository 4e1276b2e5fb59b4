"""Video files to uint8 arrays and back.

A clip is uint8 `[time, height, width, 3]`, RGB, upright and opaque.

    info = probe("walk.mp4")                      # VideoInfo(width=640, height=480, fps=30.0, ...)
    clip = read_video("walk.mp4", size=64)        # uint8 [T, 64, 85, 3]: short side 64
    write_video("copy.mp4", clip, fps=info.fps)   # or .gif, .webp, .npz

`read_video` decodes in this process and trusts the file. What comes from strangers goes through
`vidgen.data`, where a bounded child process decodes.
"""

import contextlib
import dataclasses
import errno
import itertools
import math
import os
import pathlib
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from vidgen.errors import DataError, StorageError
from vidgen.video.decoding import Path, Unreadable, converter, reason, resample, timed_frames


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a file's header says of its first video stream.

    Attributes:
      width: Pixels as displayed: after rotation, before correction of non-square pixels.
      height: See `width`.
      fps: Average frames per second; 0 where the header does not say.
      frames: Number of frames that the header declares; 0 where it does not say.
      duration: Seconds that the header declares; 0 where it does not say.
      codec: FFmpeg's name of the codec, as `h264`.
      pixel_format: FFmpeg's name of the pixel format, as `yuv420p`.
      pixel_aspect: Width of a pixel over its height; 1.0 for square pixels.
      audio: Whether the file has sound.
    """

    width: int
    height: int
    fps: float
    frames: int
    duration: float
    codec: str
    pixel_format: str
    pixel_aspect: float = 1.0
    audio: bool = False


def probe(path: Path) -> VideoInfo:
    """Returns what the header of a video file says; decodes one frame at most.

    Raises:
      DataError: The file is no video that PyAV or Pillow opens.
    """
    info: dict[str, Any] = {}
    with _naming(path):
        next(timed_frames(path, info=info), None)
        if "width" not in info:
            raise Unreadable("holds no frame")
    return VideoInfo(**{f.name: info[f.name] for f in dataclasses.fields(VideoInfo)})


def read_video(
    path: Path,
    *,
    size: int | None = None,
    fps: float | None = None,
    start: float = 0.0,
    end: float | None = None,
    background: tuple[int, int, int] = (0, 0, 0),
) -> np.ndarray:
    """Decodes a video file.

    Args:
      path: Any video file that PyAV opens, or an animated image.
      size: Length of the shorter side after an antialiased resize that keeps the displayed aspect;
        None keeps the pixels as they are stored.
      fps: Resample to this rate by nearest presentation time; None keeps every frame.
      start: First second wanted.
      end: Seconds at which to stop, exclusive; None for the end of the file.
      background: RGB behind transparent pixels, 0 to 255.

    Returns:
      uint8 `[T, H, W, 3]`.

    Raises:
      DataError: The file cannot be decoded, or has no frame in `[start, end)`.
    """
    with _naming(path):
        info: dict[str, Any] = {}
        timed = resample(timed_frames(path, start=start, end=end, info=info), fps)
        convert = converter(size=size, background=background, info=info)
        frames = [convert(frame) for _, frame in timed]
        if not frames:
            raise Unreadable("holds no frame" + (" in the wanted seconds" if start or end else ""))
    return np.stack(frames)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns what a decoder says into a DataError that names the file."""
    import av.error

    try:
        yield
    except (Unreadable, OSError, ValueError, av.error.FFmpegError) as error:
        raise DataError(f"{os.fspath(path)}: {reason(error)}") from error


# -------------------------------------------------------------------------------- arrays


def to_float(video: np.ndarray) -> np.ndarray:
    """Maps uint8 0..255 to float32 [-1, 1], any shape."""
    if video.dtype != np.uint8:
        raise TypeError(f"to_float takes uint8, not {video.dtype}")
    return video.astype(np.float32) * np.float32(1 / 127.5) - np.float32(1)


def to_uint8(video: np.ndarray) -> np.ndarray:
    """Maps float [-1, 1] to uint8 0..255, any shape: rounded to nearest and clipped.

    Raises:
      ValueError: A value is NaN.
    """
    levels = np.asarray(video, np.float32) * 127.5 + 127.5
    if np.isnan(levels).any():
        raise ValueError("a video to be written holds NaN")
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def grid(videos: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Tiles clips into one video, row by row.

    Args:
      videos: uint8 `[B, T, H, W, 3]`.
      columns: Clips in a row; None makes the grid about square.

    Returns:
      uint8 `[T, rows * H, columns * W, 3]`; places without a clip are black.
    """
    videos = np.asarray(videos)
    count, frames, height, width, channels = videos.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    blank = np.zeros((rows * columns - count, *videos.shape[1:]), videos.dtype)
    tiles = np.concatenate([videos, blank]).reshape(rows, columns, frames, height, width, channels)
    tiles = tiles.transpose(2, 0, 3, 1, 4, 5)  # time, row, y, column, x, channel
    return tiles.reshape(frames, rows * height, columns * width, channels)


def film_strips(videos: np.ndarray, columns: int = 8) -> np.ndarray:
    """Lays clips out as one picture: a row for each clip, its frames from left to right.

    Args:
      videos: uint8 `[B, T, H, W, 3]`.
      columns: Frames shown of each clip, evenly spaced from first to last; fewer if T is smaller.

    Returns:
      uint8 `[B * H, columns * W, 3]`.
    """
    videos = np.asarray(videos)
    count, frames, height, width, channels = videos.shape
    columns = min(columns, frames)
    shown = videos[:, np.linspace(0, frames - 1, columns).round().astype(int)]
    return shown.transpose(0, 2, 1, 3, 4).reshape(count * height, columns * width, channels)


# -------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[pathlib.Path]:
    """Gives a temporary path beside `path` that takes its place when the block ends well.

    A reader, or a run that dies half way, sees the old file or the new one, never a part.

    Raises:
      StorageError: The folder cannot be made or written, or the disk is full.
    """
    path = pathlib.Path(path)
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(".tmp" + path.suffix, f".{path.stem}-", path.parent)
        os.close(handle)
    temporary = pathlib.Path(name)
    try:
        with storage(path):
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # mkstemp makes it private
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turns what the system says while writing into a StorageError that names the path."""
    try:
        yield
    except OSError as error:
        hint = "free some space or choose another folder" if error.errno == errno.ENOSPC else ""
        raise StorageError(
            f"{os.fspath(path)}: cannot be written: {reason(error)}", hint
        ) from error


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes uint8 `[H, W, 3]` as PNG, atomically.

    Raises:
      StorageError: The file cannot be written.
    """
    from PIL import Image

    with replacing(path) as temporary:
        Image.fromarray(np.asarray(image)).save(temporary, "PNG")


def write_grid(path: Path, videos: np.ndarray, columns: int = 8) -> None:
    """Writes `film_strips(videos, columns)` as PNG, atomically: a row a clip, a column a frame."""
    write_png(path, film_strips(videos, columns))


def write_video(path: Path, video: np.ndarray, fps: float) -> None:
    """Writes one clip, atomically; the suffix of `path` chooses the format.

    Args:
      path: `.mp4` (H.264 4:2:0, visually lossless; odd sides are padded by one pixel), `.gif`,
        `.webp` (lossless), or `.npz` (exact: arrays `video` and `fps`).
      video: uint8 `[T, H, W, 3]`; for `.npz` any number of leading axes.
      fps: Frames per second. GIF stores hundredths of a second a frame, WebP thousandths; both
        store equal frames in a row as one that is shown longer.

    Raises:
      ValueError: The suffix, the shape, the type or the rate is not one of those above.
      StorageError: The file cannot be written.
    """
    video = np.asarray(video)
    suffix = pathlib.Path(path).suffix.lower()
    if suffix not in _WRITERS:
        known = ", ".join(_WRITERS)
        raise ValueError(f"{os.fspath(path)}: cannot write {suffix or 'no suffix'}; choose {known}")
    if (
        video.dtype != np.uint8
        or video.shape[-1:] != (3,)
        or (suffix != ".npz" and video.ndim != 4)
    ):
        raise ValueError(f"write_video takes uint8 [T, H, W, 3], not {video.dtype} {video.shape}")
    if not video.size or not (0 < fps < math.inf):
        raise ValueError(f"cannot write a video of shape {video.shape} at {fps} frames a second")
    with replacing(path) as temporary:
        _WRITERS[suffix](temporary, video, fps)


def _write_mp4(path: pathlib.Path, video: np.ndarray, fps: float) -> None:
    # Not through imageio, which cannot set the quality and leaves 64x64 clips in visible blocks.
    import av

    height, width = video.shape[1:3]
    video = np.pad(video, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream: Any = container.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(65535), options={"crf": "12"}
        )
        stream.width, stream.height, stream.pix_fmt = video.shape[2], video.shape[1], "yuv420p"
        for array in video:
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _write_gif(path: pathlib.Path, video: np.ndarray, fps: float) -> None:
    lengths = _durations(len(video), 100 / fps, shortest=2)  # viewers slow down below 20 ms
    _animate(path, video, "GIF", {"duration": [10 * n for n in lengths], "disposal": 1})


def _write_webp(path: pathlib.Path, video: np.ndarray, fps: float) -> None:
    lengths = _durations(len(video), 1000 / fps, shortest=1)
    _animate(path, video, "WEBP", {"duration": lengths, "lossless": True})


def _durations(frames: int, ticks: float, shortest: int) -> list[int]:
    """Returns whole ticks for each frame, whose running sum follows `ticks` a frame."""
    ends = [round(n * ticks) for n in range(frames + 1)]
    return [max(shortest, b - a) for a, b in itertools.pairwise(ends)]


def _animate(path: pathlib.Path, video: np.ndarray, kind: str, options: dict[str, Any]) -> None:
    # Not through imageio, whose writer leaks the file and complains in a destructor when it fails.
    from PIL import Image

    first, *rest = (Image.fromarray(array) for array in video)
    with open(path, "wb") as file:
        first.save(file, kind, save_all=True, append_images=rest, loop=0, **options)


def _write_npz(path: pathlib.Path, video: np.ndarray, fps: float) -> None:
    with open(path, "wb") as file:
        np.savez_compressed(file, video=video, fps=np.float64(fps))


_WRITERS = {".mp4": _write_mp4, ".gif": _write_gif, ".webp": _write_webp, ".npz": _write_npz}
