"""Video files to uint8 arrays.

A clip is uint8 `[time, height, width, 3]`, RGB, upright and opaque.

    info = probe("walk.mp4")                      # VideoInfo(width=640, height=480, fps=30.0, ...)
    clip = read_video("walk.mp4", size=64)        # uint8 [T, 64, 85, 3]: short side 64
    clip = read_video("pictures", fps=25.0)       # a folder of numbered pictures

`read_video` decodes in this process and trusts the file. What comes from strangers goes through
`vidgen.data`, where a bounded child process decodes.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from vidgen.errors import DataError
from vidgen.video.conversion import converter
from vidgen.video.decoding import Path, Unreadable, reason, timed_frames
from vidgen.video.resampling import resample
from vidgen.video.sequences import is_sequence, timed_pictures


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
      path: Any video file that PyAV opens, an animated image, a TIFF of pages, or a folder of
        numbered pictures, taken in the order of their numbers (2 before 10).
      size: Length of the shorter side after an antialiased resize that keeps the displayed aspect;
        None keeps the pixels as they are stored.
      fps: Resample to this rate by nearest presentation time; None keeps every frame. Pictures and
        pages, which have no times, are taken for frames of this rate, and all of them are kept.
      start: First second wanted.
      end: Seconds at which to stop, exclusive; None for the end of the file.
      background: RGB behind transparent pixels, 0 to 255.

    Returns:
      uint8 `[T, H, W, 3]`.

    Raises:
      DataError: The file cannot be decoded, or has no frame in `[start, end)`; or `start` or `end`
        is given for pictures without `fps`.
    """
    info: dict[str, Any] = {}
    with _naming(path):
        if is_sequence(path):
            if not fps and (start or end is not None):
                raise Unreadable("pictures have no times; fps, start and end go together")
            timed = timed_pictures(path, fps or 1.0, info=info)
            timed = ((t, f) for t, f in timed if t >= start - 1e-6 and (end is None or t < end))
        else:
            timed = resample(timed_frames(path, start=start, end=end, info=info), fps, info)
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
