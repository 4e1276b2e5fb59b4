"""From a decoded frame to an upright, opaque RGB array, resized.

Rotation metadata is obeyed, pixels that are not square are made so by the resize, transparency is
laid over a background, grey and palettes become RGB.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from vidgen import frame_size
from vidgen.video.decoding import Unreadable

# Flags of swscale that keep chroma at full width, round exactly, and give the same bits on every
# processor.
EXACT = 0x2000 | 0x4000 | 0x40000 | 0x80000
_FILTER = 0x2 | EXACT  # bilinear is scaled with the reduction in swscale, so it is antialiased


def scaled(
    width: int, height: int, size: frame_size.Size | None, aspect: float = 1.0
) -> tuple[int, int]:
    """Returns the `(width, height)` that just cover `size` with the displayed aspect kept.

    Args:
      width: Stored pixels across.
      height: Stored pixels down.
      size: Length of the shorter side, or the height and the width to cover; None keeps the stored
        pixels.
      aspect: Width of a stored pixel over its height.
    """
    if size is None:
        return width, height
    shown, (rows, columns) = width * aspect, frame_size.height_width(size)
    if rows * shown <= columns * height:
        return columns, max(rows, round(columns * height / shown))
    return max(columns, round(rows * shown / height)), rows


def converter(
    *,
    size: frame_size.Size | None = None,
    crop: bool = False,
    background: tuple[int, int, int] = (0, 0, 0),
    max_pixels: int | None = None,
    info: dict[str, Any],
) -> Callable[[Any], np.ndarray]:
    """Returns a function from a frame of `timed_frames` to uint8 `[H, W, 3]`, all of one size.

    YUV frames are resized and converted in one pass of swscale, the rest (RGB, grey, palette,
    transparent) by Pillow, both with an antialiased triangle filter.

    Args:
      size: Length of the shorter side, or `(height, width)` that frames are to cover; None keeps
        the stored size.
      crop: Whether to cut the centre of `size`.
      background: RGB behind transparent pixels.
      max_pixels: A resized frame with more pixels is refused.
      info: The dict that `timed_frames` fills.
    """
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter

    reformat = VideoReformatter().reformat
    first: dict[str, Any] = {}

    def plan() -> None:
        stored = info["width"], info["height"]
        width, height = scaled(*stored, size, info["pixel_aspect"])
        if max_pixels is not None and width * height > max_pixels:
            raise Unreadable(
                f"resized to {width}x{height}, a frame has more pixels than "
                f"data.limits.pixels={max_pixels}"
            )
        turned = bool(info["matrix"][1])
        first.update(size=(height, width) if turned else (width, height))

    def convert(frame: Any) -> np.ndarray:
        if not first:
            plan()
        width, height = first["size"]
        if isinstance(frame, VideoFrame) and _is_yuv(frame):
            rgb = reformat(frame, width, height, "rgb24", interpolation=_FILTER, threads=1)
            array = rgb.to_ndarray()
        else:
            array = _resize(_opaque(frame, background), width, height)
        array = upright(array, info["matrix"])
        return centre(array, size) if crop and size is not None else array

    return convert


def _is_yuv(frame: Any) -> bool:
    parts = frame.format.components
    return len(parts) >= 3 and not frame.format.is_rgb and not any(c.is_alpha for c in parts)


def _opaque(frame: Any, background: tuple[int, int, int]) -> Any:
    """Returns an RGB Pillow picture of a PyAV frame, a Pillow picture or a uint8 array."""
    from PIL import Image

    if isinstance(frame, np.ndarray):
        picture = Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame)
    elif isinstance(frame, Image.Image):
        picture = frame
    else:
        alpha = frame.format.has_palette or any(c.is_alpha for c in frame.format.components)
        picture = Image.fromarray(frame.to_ndarray(format="rgba" if alpha else "rgb24", threads=1))
    if picture.mode.startswith("I"):  # 16 bit grey, which Pillow would clip at 255
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        below = Image.new("RGBA", picture.size, (*background, 255))
        picture = Image.alpha_composite(below, picture.convert("RGBA"))
    return picture.convert("RGB")


def _resize(picture: Any, width: int, height: int) -> np.ndarray:
    from PIL import Image

    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def upright(frame: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Turns `[H, W, C]` as the signs `(a, b, c, d)` of a display matrix say.

    A stored point (x, y) is shown at (a x + c y, b x + d y), x to the right and y down.
    """
    a, b, c, d = matrix
    if b:
        frame, a, d = frame.transpose(1, 0, 2), c, b
    if a < 0:
        frame = frame[:, ::-1]
    return frame[::-1] if d < 0 else frame


def centre(frame: np.ndarray, size: frame_size.Size) -> np.ndarray:
    """Returns the centre of `size` of `[..., H, W, 3]`, a view."""
    height, width = frame_size.height_width(size)
    top, left = (frame.shape[-3] - height) // 2, (frame.shape[-2] - width) // 2
    return frame[..., top : top + height, left : left + width, :]
