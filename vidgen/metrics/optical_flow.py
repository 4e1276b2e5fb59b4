"""Optical flow, dense, in JAX: coarse to fine, least squares in a window about each pixel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_LEVELS, _ROUNDS = 3, 3
_WINDOW = 2.0  # standard deviation of the window in pixels
_RIDGE = 1e-3  # of brightness squared: where nothing shows, there is no flow


def flow(
    video: Float[Array, "time height width"],
) -> Float[Array, "time-1 height width 2"]:
    """Estimates where each pixel goes in the next frame.

    Args:
      video: float `[T, H, W]` brightness in [0, 1]; sides are multiples of 4, at least 16.

    Returns:
      `[T-1, H, W, 2]`: rows down, columns to the right, in pixels.

    Reference: Lucas and Kanade, 1981; Bouguet, "Pyramidal implementation of the Lucas Kanade
      feature tracker", 2001.
    """
    pyramid = [video]
    for _ in range(_LEVELS - 1):
        pyramid.append(_halve(pyramid[-1]))
    coarse = pyramid[-1]
    estimate = jnp.zeros((len(video) - 1, *coarse.shape[1:], 2))
    for level in reversed(pyramid):
        height, width = level.shape[1:]
        if estimate.shape[1] != height:
            estimate = 2 * jax.image.resize(estimate, (len(video) - 1, height, width, 2), "linear")
        estimate = _refine(level[:-1], level[1:], estimate)
    return estimate


def _halve(
    images: Float[Array, "batch height width"],
) -> Float[Array, "batch height//2 width//2"]:
    n, h, w = images.shape
    return images.reshape(n, h // 2, 2, w // 2, 2).mean((2, 4))


def _blur(
    images: Float[Array, "batch height width"], deviation: float
) -> Float[Array, "batch height width"]:
    """Blurs `[N, H, W]` by a Gaussian, edges repeated; by products with banded matrices."""
    for axis in (1, 2):
        size = images.shape[axis]
        images = jnp.moveaxis(jnp.moveaxis(images, axis, -1) @ _band(size, deviation), -1, axis)
    return images


@functools.lru_cache(maxsize=32)
def _band(size: int, deviation: float) -> Float[np.ndarray, "{size} {size}"]:
    at = np.arange(size)
    reach = int(np.ceil(3 * deviation))
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (steps / deviation) ** 2)
    matrix = np.zeros((size, size), np.float32)
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        np.add.at(matrix, (np.clip(at + step, 0, size - 1), at), weight)
    return matrix


def _refine(
    before: Float[Array, "pair height width"],
    after: Float[Array, "pair height width"],
    estimate: Float[Array, "pair height width 2"],
) -> Float[Array, "pair height width 2"]:
    """Brings the flow from one frame of each pair to the other nearer to what fits them."""
    rows = (jnp.roll(before, -1, 1) - jnp.roll(before, 1, 1)) / 2
    columns = (jnp.roll(before, -1, 2) - jnp.roll(before, 1, 2)) / 2
    rows = rows.at[:, (0, -1)].set(0)  # a roll goes round the edge
    columns = columns.at[:, :, (0, -1)].set(0)
    blur = functools.partial(_blur, deviation=_WINDOW)
    a, b, c = blur(rows * rows) + _RIDGE, blur(rows * columns), blur(columns * columns) + _RIDGE
    determinant = a * c - b * b
    for _ in range(_ROUNDS):
        change = jax.vmap(_warp)(after, estimate) - before
        p, q = blur(rows * change), blur(columns * change)
        step = jnp.stack([c * p - b * q, a * q - b * p], -1) / determinant[..., None]
        estimate = estimate - jnp.clip(step, -1, 1)  # further is beyond what a gradient can show
    return estimate


def _warp(
    image: Float[Array, "height width"], estimate: Float[Array, "height width 2"]
) -> Float[Array, "height width"]:
    """Reads an image `[H, W]` where the flow points, between pixels by interpolation."""
    height, width = image.shape
    y = jnp.clip(jnp.arange(height)[:, None] + estimate[..., 0], 0, height - 1)
    x = jnp.clip(jnp.arange(width)[None] + estimate[..., 1], 0, width - 1)
    return jax.scipy.ndimage.map_coordinates(image, [y, x], order=1, mode="nearest")
