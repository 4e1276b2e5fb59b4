"""JAX keys: every random number is drawn from a key that its purpose and its clip determine.

A key is folded, never carried: the key of clip 17 at step 300 is the same on every device, in every
batch and after every restart.
"""

import zlib

import jax
import jax.numpy as jnp


def root(seed: int) -> jax.Array:
    """Returns the key of a seed (threefry: the same bits on every backend and sharding)."""
    return jax.random.key(seed, impl="threefry2x32")


def named(key: jax.Array, name: str) -> jax.Array:
    """Returns the part of a key that belongs to a purpose, such as `"augment"`."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def at_step(key: jax.Array, step: jax.Array | int) -> jax.Array:
    """Returns the part of a key that belongs to a training step."""
    return jax.random.fold_in(key, step)


def per_clip(key: jax.Array, index: jax.Array) -> jax.Array:
    """Returns one key for each clip; `[B]` keys for indices `[B]`."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def normal(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws standard normal noise for each key; float32 `[B, *shape]`."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


def uniform(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws noise uniform in [0, 1) for each key; float32 `[B, *shape]`."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape, jnp.float32))(keys)


def over_time(keys: jax.Array, first: jax.Array, steps: int, channels: int) -> jax.Array:
    """Draws motion noise for coarse time steps `first .. first + steps`.

    Each step's noise is drawn from its own key, so overlapping windows agree bit for bit.

    Args:
      keys: One key for each video, `[B]`.
      first: First coarse time step of each video, int32 `[B]`; may be negative.
      steps: How many steps.
      channels: Channels of the noise.

    Returns:
      Standard normal noise, float32 `[B, steps, channels]`.
    """

    def one(key, start):
        times = start + jnp.arange(steps)
        return jax.vmap(
            lambda t: jax.random.normal(jax.random.fold_in(key, t), (channels,), jnp.float32)
        )(times)

    return jax.vmap(one)(keys, first)
