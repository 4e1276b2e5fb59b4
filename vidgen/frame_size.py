"""Sizes of frames: one number for a square, or `(height, width)`."""

from collections.abc import Sequence

Size = int | tuple[int, int]
LARGEST = 8192  # pixels of a side


def height_width(size: int | Sequence[int]) -> tuple[int, int]:
    """Returns height and width in pixels of frames of a size."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width


def normal(size: int | Sequence[int]) -> Size:
    """Returns the one way in which a size is written: a number for a square, else a tuple."""
    height, width = height_width(size)
    return height if height == width else (height, width)


def name(size: int | Sequence[int]) -> str:
    """Returns a size for the name of a file: `64`, or height and width, as `64x112`."""
    height, width = height_width(size)
    return str(height) if height == width else f"{height}x{width}"
