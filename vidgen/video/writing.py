"""uint8 arrays to video files and pictures, each written whole or not at all.

write_video("copy.mp4", clip, fps=30.0)   # or .gif, .webp, .npz
"""

import itertools
import math
import os
import pathlib
from fractions import Fraction
from typing import Any

import numpy as np

from vidgen.video.atomic import replacing
from vidgen.video.decoding import Path
from vidgen.video.layout import film_strips


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
