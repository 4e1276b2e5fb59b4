"""What conditions that lie in space have in common: maps of frames, and their encoder."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from vidgen.errors import ConfigError
from vidgen.frame_size import Size, height_width
from vidgen.models import layers


class Seen(NamedTuple):
    """What a condition says of each frame and place.

    Attributes:
      raw: All of it, `[B, T, H, W, C]`.
      bases: Pixels that a frame may take over, each `[B, T, H, W, 3]` in [-1, 1].
      have: Where these are there, each `[B, T, H, W]`.
      known: Where the first base is the frame itself and is kept; None for nowhere.
      added: Pixels that what is made is added to, in [-1, 1], and where they are there: arrays as a
        base and one of `have`; None for none.
    """

    raw: Any
    bases: tuple[Any, ...]
    have: tuple[Any, ...]
    known: Any = None
    added: Any = None


Sides = tuple[tuple[int, int], ...]  # rows and columns of maps


class Pyramid(nn.Module):
    """Makes features of maps of frames at several scales.

    Each scale is a 3x3 convolution of stride 2; the first has the pixels of 2x2 side by side.

    Attributes:
      width: Channels of the first scale; each further one has half as many more, up to twice.
      dtype: Type of the computation.
    """

    width: int
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, raw: Float[Array, "batch time height width channel"], sides: Sides
    ) -> dict[int, Float[Array, "n rows columns feature"]]:
        """Returns maps `[B * T, rows, columns, C]` of each pair of rows and columns, by rows."""
        b, t, h, w, c = raw.shape
        act, maps = layers.leaky_relu, {}
        x = layers.space_to_depth(raw.astype(self.dtype).reshape(b * t, h, w, c), 2)
        x = layers.dense(self.width, self.dtype, "embed", gain=1.0)(x)
        x = x + layers.Conv3x3(self.width, self.dtype, name="front")(act(x))
        width = self.width
        for rows, columns in sorted(sides, reverse=True):
            while x.shape[1] >= 2 * rows and x.shape[2] >= 2 * columns:
                width = min(width + self.width // 2, 2 * self.width)
                x = layers.Conv3x3(width, self.dtype, stride=2, name=f"down{x.shape[1]}")(act(x))
            same = x.shape[1:3] == (rows, columns)
            maps[rows] = x if same else layers.resize(x, rows, columns)
        return maps


def colours(
    total: Float[Array, "batch height width 3"],
    count: Float[Array, "batch height width"],
    cells: int = 4,
) -> Float[Array, "batch feature"]:
    """Returns mean colours of what is known in the cells of a grid, and how much of each is known.

    Args:
      total: Sums of the colours in [-1, 1] of each pixel over frames in which it is known.
      count: How many these are.
      cells: Of a side, at least; smaller ones where the sides of frames are no multiples of it.

    Returns:
      `[B, cells of the grid * 4]`.
    """
    b, h, w, _ = total.shape
    rows, columns = _cell((h, w), cells)
    some = jnp.minimum(count, 1)
    both = jnp.concatenate([total, count[..., None], some[..., None]], -1)
    both = both[:, : rows * (h // rows), : columns * (w // columns)]
    x = both.reshape(b, h // rows, rows, w // columns, columns, 5).sum((2, 4))
    colour = x[..., :3] / jnp.maximum(x[..., 3:4], 1)
    return jnp.concatenate([colour, x[..., 4:] / (rows * columns)], -1).reshape(b, -1)


def count_colours(size: Size, cells: int = 4) -> int:
    """Returns how many numbers `colours` gives of a video."""
    height, width = height_width(size)
    rows, columns = _cell((height, width), cells)
    return (height // rows) * (width // columns) * 4


def _cell(sides: tuple[int, int], cells: int) -> tuple[int, int]:
    """Returns the rows and columns of a cell of the grid."""
    return max(sides[0] // cells, 1), max(sides[1] // cells, 1)


def array(condition: str, part: str, value: Any) -> Shaped[np.ndarray, "..."]:
    """Returns what a caller gives as an array.

    Raises:
      ConfigError: It is none: lists of different lengths, say.
    """
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ConfigError(
            f"the condition {condition} has a {part} of no one shape", str(error)
        ) from error
