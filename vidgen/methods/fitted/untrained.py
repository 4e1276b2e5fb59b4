"""A baseline: the GAN's generator as it is before its first step."""

import functools
from typing import Any

import jax
import numpy as np

from vidgen import config as configs
from vidgen import keys, models
from vidgen.config.fields import FITTED, merged
from vidgen.methods import common, gan
from vidgen.models.protocol import check_parameters

GENERATORS = gan.GENERATORS
FIELDS = merged(FITTED, {"generator": gan.FIELDS["generator"]})


def check(config: configs.Config) -> None:
    """Checks that the generator can be made, before any clips are read.

    Raises:
      ConfigError: It cannot be made from its arguments.
    """
    size = config.data.size
    check_parameters(models.network("generator", GENERATORS, **config.generator, size=size))


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
    gen = models.network("generator", GENERATORS, **arguments)
    init = functools.partial(common.init_generator, gen=gen, frames=batch["video"].shape[1])
    return arguments, jax.jit(init)(keys.root(seed))
