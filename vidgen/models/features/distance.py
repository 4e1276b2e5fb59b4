"""How far pictures are from each other by what a frozen network sees of them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from vidgen.models.features import efficientnet

TAPS = (4, 8, 16)


def distance(
    weights: PyTree,
    a: Float[Array, "n height width 3"],
    b: Float[Array, "n height width 3"],
    taps: tuple[int, ...] = TAPS,
) -> Float[Array, " n"]:
    """Returns the perceptual distances of pairs of pictures.

    At each place the features of EfficientNet-Lite0 are divided by their length; the squared
    distance of these directions is averaged over places and taps. It is 0 for equal pictures and 4
    at most. LPIPS weighs channels by numbers that were fitted to people's judgements; here all
    count the same.

    Args:
      weights: From `efficientnet_weights.load`.
      a: `[N, H, W, 3]` in [-1, 1].
      b: Likewise.
      taps: Downsamplings, of 4, 8, 16, 32.

    Reference: Zhang et al., "The unreasonable effectiveness of deep features as a perceptual
      metric" (LPIPS), 2018.
    """
    found, other = (efficientnet.features(weights, x, taps) for x in (a, b))
    apart = [jnp.sum((_direction(found[t]) - _direction(other[t])) ** 2, -1) for t in taps]
    return jnp.mean(jnp.stack([x.mean((1, 2)) for x in apart]), 0)


def _direction(x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    return x * jax.lax.rsqrt(jnp.sum(x**2, -1, keepdims=True) + 1e-6)
