"""Differentiable augmentation, the same for every frame of a clip.

Both real and generated clips pass through it before the discriminator, so that the discriminator
cannot memorise a small data set; each transform is applied with a probability, drawn from the
clip's key.

Reference: Zhao et al., "Differentiable augmentation for data-efficient GAN training", 2020;
  Karras et al., "Training GANs with limited data", 2020.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key

from vidgen import keys


def flip(
    video: Float[Array, "time height width channel"], key: Key[Array, ""]
) -> Float[Array, "time height width channel"]:
    """Mirrors a clip left to right."""
    del key
    return video[:, :, ::-1]


def shift(
    video: Float[Array, "time height width channel"], key: Key[Array, ""]
) -> Float[Array, "time height width channel"]:
    """Moves a clip by up to an eighth of its shorter side, repeating its edges."""
    side = min(video.shape[1:3])
    most = max(side // 8, 1)
    by = jax.random.randint(key, (2,), 0, 2 * most + 1)
    padded = jnp.pad(video, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    return jax.lax.dynamic_slice(padded, (0, by[0], by[1], 0), video.shape)


def brightness(
    video: Float[Array, "time height width channel"], key: Key[Array, ""]
) -> Float[Array, "time height width channel"]:
    """Adds one number in [-0.4, 0.4] to the whole clip."""
    return video + jax.random.uniform(key, (), minval=-0.4, maxval=0.4)


def contrast(
    video: Float[Array, "time height width channel"], key: Key[Array, ""]
) -> Float[Array, "time height width channel"]:
    """Scales the distance from the clip's mean by 2^-0.5 to 2^0.5."""
    mean = video.mean()
    return mean + (video - mean) * 2 ** jax.random.uniform(key, (), minval=-0.5, maxval=0.5)


def saturation(
    video: Float[Array, "time height width channel"], key: Key[Array, ""]
) -> Float[Array, "time height width channel"]:
    """Scales the distance from grey by 0 to 2."""
    grey = video.mean(-1, keepdims=True)
    return grey + (video - grey) * jax.random.uniform(key, (), minval=0.0, maxval=2.0)


def cutout(
    video: Float[Array, "time height width channel"], key: Key[Array, ""]
) -> Float[Array, "time height width channel"]:
    """Blanks one square of half the shorter side, at the same place in every frame."""
    sides = video.shape[1:3]
    centre = jax.random.uniform(key, (2,), minval=0.0, maxval=jnp.array(sides, jnp.float32))
    rows, columns = (
        jnp.abs(jnp.arange(side) + 0.5 - c) <= min(sides) / 4
        for side, c in zip(sides, centre, strict=True)
    )
    return jnp.where((rows[:, None] & columns[None, :])[None, :, :, None], 0.0, video)


AUGMENTATIONS = {
    "flip": flip,
    "shift": shift,
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "cutout": cutout,
}


def apply(
    video: Float[Array, "batch time height width channel"],
    clip_keys: Key[Array, " batch"],
    probability: Float[ArrayLike, ""],
    names: tuple[str, ...],
) -> Float[Array, "batch time height width channel"]:
    """Applies each named augmentation to each clip with a probability.

    Args:
      video: Clips in [-1, 1] `[B, T, H, W, C]`.
      clip_keys: One key for each clip `[B]`.
      probability: Scalar in [0, 1].
      names: Keys of `AUGMENTATIONS`, applied in this order.

    Returns:
      Clips of the same shape; values may leave [-1, 1].
    """

    def one(
        clip: Float[Array, "time height width channel"], key: Key[Array, ""]
    ) -> Float[Array, "time height width channel"]:
        for name in names:
            coin, how = jax.random.split(keys.named(key, name))
            clip = jnp.where(
                jax.random.uniform(coin) < probability, AUGMENTATIONS[name](clip, how), clip
            )
        return clip

    return jax.vmap(one)(video, clip_keys) if names else video
