"""From a decoded frame to an upright, opaque RGB array, resized.

Rotation metadata is obeyed, pixels that are not square are made so by the resize, transparency is
laid over a background, grey and palettes become RGB, and high dynamic range (PQ, HLG) becomes that
of a common display.

Reference: ITU-R BT.2100, for PQ and HLG; ITU-R BT.2408, for the level of white, 203 cd/m2.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from vidgen import frame_size
from vidgen.video.decoding import Unreadable

# Flags of swscale that keep chroma at full width, round exactly, and give the same bits on every
# processor.
EXACT = 0x2000 | 0x4000 | 0x40000 | 0x80000
_FILTER = 0x2 | EXACT  # bilinear is scaled with the reduction in swscale, so it is antialiased
_WHITE = 203.0  # cd/m2 of what is white in SDR; what is brighter is white, too
# From linear RGB of BT.2020 to that of BT.709, as the primaries of both and D65 say (BT.2087).
_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_LIMITED = 1  # range of levels, 16 to 235, as FFmpeg numbers it
_PQ, _HLG = 16, 18  # transfer characteristics, as H.273 numbers them


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
        if isinstance(frame, VideoFrame) and frame.color_trc in (_PQ, _HLG):
            if not _is_yuv(frame) and not _is_rgb(frame):
                raise Unreadable(
                    f"is of high dynamic range, as {frame.format.name}; it is taken in colours "
                    "without transparency"
                )
            # No rgb48le: swscale makes wrong colours of 4:2:0 where the height stays.
            rgb = reformat(frame, width, height, "gbrp16le", interpolation=_FILTER, threads=1)
            array = standard_range(rgb.to_ndarray(), int(frame.color_trc))
        elif isinstance(frame, VideoFrame) and _is_yuv(frame):
            rgb = reformat(frame, width, height, "rgb24", interpolation=_FILTER, threads=1)
            array = rgb.to_ndarray()
        else:
            array = _resize(_opaque(frame, background), width, height)
        array = upright(array, info["matrix"])
        return centre(array, size) if crop and size is not None else array

    return convert


def standard_range(rgb: np.ndarray, transfer: int) -> np.ndarray:
    """Maps a frame of high dynamic range to sRGB; highlights are clipped at white.

    Args:
      rgb: uint16 `[H, W, 3]`, of BT.2020 primaries, 255 * 256 for the largest code.
      transfer: 16 for PQ, 18 for HLG, taken for that of a display of 1000 cd/m2.

    Returns:
      uint8 `[H, W, 3]`.
    """
    light = _light(transfer)[rgb]
    if transfer == _HLG:  # the display makes bright scenes more so: nominal gamma 1.2
        luma = light @ np.array([0.2627, 0.678, 0.0593], np.float32)
        light *= 1000 / _WHITE * np.maximum(luma, 1e-9)[..., None] ** 0.2
    levels = np.clip(light @ _TO_709.T, 0, 1) * 65535 + 0.5
    return _srgb()[levels.astype(np.uint16)]


@functools.cache
def _light(transfer: int) -> np.ndarray:
    """Returns light by level of 16 bits: over that of white (PQ), or of the scene (HLG)."""
    x = np.minimum(np.arange(65536) / (255 * 256), 1)  # swscale's white is that of 8 bits, shifted
    if transfer == _PQ:
        root = x ** (1 / 78.84375)
        over = np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
        return (10000 / _WHITE * over ** (1 / 0.1593017578125)).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(x <= 0.5, x**2 / 3, (np.exp((x - c) / a) + b) / 12).astype(np.float32)


@functools.cache
def _srgb() -> np.ndarray:
    """Returns sRGB's level of 8 bits by linear light of 16 bits."""
    x = np.arange(65536) / 65535
    coded = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return np.round(255 * coded).astype(np.uint8)


def _is_yuv(frame: Any) -> bool:
    parts = frame.format.components
    return len(parts) >= 3 and not frame.format.is_rgb and not any(c.is_alpha for c in parts)


def _is_rgb(frame: Any) -> bool:
    parts = frame.format.components
    alpha = frame.format.has_palette or any(c.is_alpha for c in parts)
    return frame.format.is_rgb and len(parts) == 3 and not alpha


def _opaque(frame: Any, background: tuple[int, int, int]) -> Any:
    """Returns an RGB Pillow picture of a PyAV frame, a Pillow picture or a uint8 array."""
    from PIL import Image

    if isinstance(frame, np.ndarray):
        picture = Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame)
    elif isinstance(frame, Image.Image):
        picture = frame
    else:
        alpha = frame.format.has_palette or any(c.is_alpha for c in frame.format.components)
        array = frame.to_ndarray(format="rgba" if alpha else "rgb24", threads=1)
        if len(frame.format.components) == 1 and frame.color_range == _LIMITED:
            # swscale expands limited range with the colours, and of grey there are none.
            array = np.round(np.clip((array - 16.0) * (255 / 219), 0, 255)).astype(np.uint8)
        picture = Image.fromarray(array)
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
