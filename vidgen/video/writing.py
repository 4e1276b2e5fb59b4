"""uint8 arrays to video files and pictures, each written whole or not at all.

write_video("copy.mp4", clip, fps=30.0)                # the suffix chooses the format
write_video("small.webp", clip, fps=30.0, quality=75)
write_video("pictures", clip, fps=30.0)                # a folder: 000000.png, 000001.png, ...
"""

import os
import pathlib
import re
from collections.abc import Iterable

import numpy as np

from vidgen.errors import StorageError
from vidgen.video.atomic import replacing, replacing_folder
from vidgen.video.decoding import Path
from vidgen.video.encoding import (
    ENCODERS,
    STREAMED,
    check_quality,
    check_video,
    encode,
    encode_png,
    encode_stream,
)
from vidgen.video.layout import film_strips

# What a command offers as --format, and the suffix of its files. `png` is a picture of many clips,
# for `write_grid`; the rest is for `write_video`.
FORMATS = {
    "mp4": ".mp4",
    "webm": ".webm",
    "mkv": ".mkv",
    "gif": ".gif",
    "webp": ".webp",
    "apng": ".apng",
    "avif": ".avif",
    "tiff": ".tiff",
    "png": ".png",
    "npz": ".npz",
    "frames": "",
}


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes uint8 `[H, W, 3]` as PNG, atomically.

    Raises:
      StorageError: The file cannot be written.
    """
    _write(path, encode_png(image))


def write_grid(path: Path, videos: np.ndarray, columns: int = 8) -> None:
    """Writes `film_strips(videos, columns)` as PNG, atomically: a row a clip, a column a frame."""
    write_png(path, film_strips(videos, columns))


def write_video(path: Path, video: np.ndarray, fps: float, *, quality: float | None = None) -> None:
    """Writes one clip, atomically; the suffix of `path` chooses the format.

    | suffix  | coded as            | quality               | exact                             |
    |---------|---------------------|-----------------------|-----------------------------------|
    | `.mp4`  | H.264, 4:2:0        | crf 51 - quality / 2  | no; odd sides grow by one pixel   |
    | `.webm` | VP9, 4:2:0          | crf 63 - 0.63 quality | no                                |
    | `.mkv`  | FFV1                |                       | yes                               |
    | `.gif`  | 256 colours a frame |                       | no                                |
    | `.webp` | lossless at 100     | that of libwebp       | at 100, the default               |
    | `.apng` | PNG                 |                       | yes                               |
    | `.avif` | AV1, 4:4:4          | that of libavif       | no; off by 3 of 255 levels at 100 |
    | `.tiff` | pages, `.tif` too   |                       | yes; without `fps`                |
    | `.npz`  | NumPy's             |                       | yes: arrays `video` and `fps`     |
    | none    | a folder of PNGs    |                       | yes; without `fps`                |

    MP4 and WebM are in limited-range BT.709 and say so. A folder that is there already is replaced
    if it holds numbered PNG files alone. GIF, WebP, APNG and AVIF are shown again and again.

    Args:
      path: Where to write.
      video: uint8 `[T, H, W, 3]`; for `.npz` any number of leading axes.
      fps: Frames per second, 0.1 to 1000. GIF stores hundredths of a second a frame and at least
        two of them, WebP, AVIF, MKV and WebM thousandths of a second; their running sum follows
        `fps`. GIF and WebP store equal frames in a row as one that is shown longer: read them with
        `read_video(path, fps=fps)` to have all of them.
      quality: 0 to 100, 100 the best; None is 78 for `.mp4` (crf 12, visually lossless) and `.webm`
        (crf 14), 90 for `.avif`, and lossless for `.webp`.

    Raises:
      ValueError: The suffix, the shape, the type or the rate is not one of those above, or the
        video stands still for longer than the format can say (GIF: 655 s).
      ConfigError: The format has no quality, or it is not between 0 and 100.
      StorageError: The file cannot be written, or there is a folder with something else.
    """
    video = np.asarray(video)
    suffix = pathlib.Path(path).suffix.lower()
    if not suffix:
        check_video(video, fps)
        check_quality(suffix, quality)
        _write_pictures(pathlib.Path(path), video)
        return
    if suffix not in ENCODERS:
        hint = "; a video as PNG is .apng" if suffix == ".png" else ""
        known = ", ".join(ENCODERS)
        raise ValueError(f"{os.fspath(path)}: cannot write {suffix}; choose {known}{hint}")
    _write(path, encode(video, fps, suffix, quality))


def write_stream(
    path: Path, frames: Iterable[np.ndarray], fps: float, *, quality: float | None = None
) -> None:
    """Writes one clip as its frames come, atomically; memory does not grow with their number.

    Args:
      path: Where to write: `.mp4`, `.webm`, or without suffix a folder of PNGs.
      frames: uint8 `[H, W, 3]` each, one at least, all of one size.
      fps: As for `write_video`.
      quality: As for `write_video`.

    Raises:
      ValueError: The suffix, a frame or the rate is not one of those above.
      ConfigError: The format has no quality, or it is not between 0 and 100.
      StorageError: The file cannot be written, or there is a folder with something else.
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if not suffix:
        check_quality(suffix, quality)
        _write_pictures(path, frames)
        return
    if suffix not in STREAMED:
        raise ValueError(f"{path}: {suffix} is not written as frames come; {', '.join(STREAMED)}")
    with replacing(path) as temporary:
        encode_stream(str(temporary), frames, fps, suffix, quality)


def _write(path: Path, data: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _write_pictures(path: pathlib.Path, video: Iterable[np.ndarray]) -> None:
    if path.is_dir() and not all(re.fullmatch(r"\d+\.png", name) for name in os.listdir(path)):
        raise StorageError(
            f"{path} is a folder that holds more than numbered PNG files, and is not replaced",
            "choose another folder, or a suffix as .mp4 for a file",
        )
    with replacing_folder(path) as temporary:
        for number, image in enumerate(video):
            (temporary / f"{number:06d}.png").write_bytes(encode_png(image))
