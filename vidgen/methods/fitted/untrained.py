"""A baseline: the GAN's generator as it is before its first step."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vidgen import keys, models
from vidgen.methods import gan


def fit(batch: dict[str, np.ndarray], *, generator: dict[str, Any], seed: int, **shared: Any):
    """Draws the parameters that `vidgen.methods.gan.init` draws for the same seed.

    Args:
      batch: Clips; only their length matters.
      generator: Its kind and arguments.
      seed: The run's.
      **shared: `size` and `classes`.

    Returns:
      Arguments and parameters of the generator.
    """
    arguments = {**generator, "size": shared["size"], "classes": shared["classes"]}
    gen, frames = models.build(models.GENERATORS, **arguments), batch["video"].shape[1]
    key, index = keys.root(seed), jnp.zeros((1,), jnp.int32)
    noise = gan.draw(keys.named(key, "init"), index, gen=gen, frames=frames)
    label = index if gen.classes else None
    init = jax.jit(functools.partial(gen.init, frames=frames))
    return arguments, init(keys.named(key, "gen"), *noise, label)["params"]
