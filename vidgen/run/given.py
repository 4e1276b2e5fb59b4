"""Files that say what a video is to be like, read as a run's training reads its clips."""

import dataclasses
import os
import tempfile

import numpy as np
from jaxtyping import Bool, UInt8

from vidgen import config as configs
from vidgen import frame_size
from vidgen.data.listing import list_source
from vidgen.data.pack import open_store
from vidgen.data.settings import pack_settings
from vidgen.errors import DataError
from vidgen.text import printed
from vidgen.video.conversion import centre, converter
from vidgen.video.decoding import Unreadable, open_image, reason

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".gif")


def frames(
    path: str, config: configs.Config, size: frame_size.Size, stride: int = 1
) -> UInt8[np.ndarray, "time height width 3"]:
    """Reads a picture or a clip, scaled and cut in the middle to a size.

    Args:
      path: A picture, or one clip: a file, or a folder of frames.
      config: The run's.
      size: Of the frames.
      stride: Every n-th frame of a clip is taken.

    Raises:
      DataError: It is not there, or neither.
    """
    if (picture := _picture(path, size, tuple(config.data.background))) is not None:
        return picture[None]
    settings = dataclasses.replace(pack_settings(config.data), size=size, crop="center")
    if (count := len(list_source(path, settings).entries)) != 1:
        raise DataError(f"{printed(path)} holds {count} clips", "name one of them")
    with tempfile.TemporaryDirectory() as cache:
        clip = np.array(open_store(path, settings, cache=cache, workers=1)[0])
    return clip[::stride]


def mask(path: str, size: frame_size.Size) -> Bool[np.ndarray, "height width"]:
    """Reads a picture as a mask: what is brighter than half is known.

    Raises:
      DataError: It is no picture.
    """
    found = _picture(path, size, (0, 0, 0))
    if found is None:
        raise DataError(f"{printed(path)} is no picture", "a PNG, white where pixels are known")
    return found.mean(-1) > 127


def _picture(
    path: str, size: frame_size.Size, background: tuple[int, ...]
) -> UInt8[np.ndarray, "height width 3"] | None:
    """Reads a picture; None where it is a clip, an animated picture for one."""
    from PIL import ImageOps

    if not os.path.exists(path):
        raise DataError(f"there is no {printed(path)}", "a picture or a clip")
    if not path.lower().endswith(_PICTURES):
        return None
    try:
        with open_image(path) as image:
            if getattr(image, "n_frames", 1) > 1:
                return None
            upright = ImageOps.exif_transpose(image)
        width, height = upright.size
        info = {"width": width, "height": height, "pixel_aspect": 1, "matrix": (1, 0, 0, 1)}
        red, green, blue = background
        convert = converter(size=size, background=(red, green, blue), info=info)
        return centre(convert(upright), size)
    except (OSError, Unreadable, ValueError, SyntaxError) as error:
        raise DataError(f"{printed(path)}: {reason(error)}", "another picture") from error
