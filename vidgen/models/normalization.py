"""Batch normalisation by groups of clips, whose running statistics are leaves of the parameters."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidgen.errors import ConfigError


class BatchNorm(nn.Module):
    """Normalises channels by the statistics of groups of clips; for sampling, by running ones.

    Where the collection "stats" is mutable, as in training, the statistics are those of each group,
    and what they were is put there. Otherwise the running statistics are taken. They are leaves of
    the parameters, to which no gradient flows, so that the average, checkpoints and samplers carry
    them as any weight; `with_stats` moves them on.

    Reference: Ioffe and Szegedy, "Batch normalization", 2015; Hoffer et al., "Train longer,
      generalize better", 2017, for groups.

    Attributes:
      running: Whether there are running statistics; otherwise it always normalises by groups.
      dtype: Type of the result; statistics are float32.
    """

    running: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, groups: int = 1) -> jax.Array:
        """Maps `[N, ..., C]`, whose first axis falls into `groups` equal parts, to the same."""
        c = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        y = x.astype(jnp.float32).reshape(groups, -1, c)
        if self.running:
            mean = self.param("mean", nn.initializers.zeros, (c,))
            var = self.param("var", nn.initializers.ones, (c,))
        if not self.running or self.is_mutable_collection("stats"):
            y, mean, var = _normalized(y, scale, bias)
            if self.running:
                unbiased = var * (y.shape[1] / max(y.shape[1] - 1, 1))
                self.put_variable("stats", "mean", mean.mean((0, 1)))
                self.put_variable("stats", "var", unbiased.mean((0, 1)))
        else:
            factor = scale * jax.lax.rsqrt(var + _EPSILON)
            y = (y - mean[None, None]) * factor[None, None] + bias[None, None]
        return y.astype(self.dtype).reshape(x.shape)


_EPSILON = 1e-5


def _sums(y: jax.Array) -> jax.Array:
    """Adds up the rows of each group, `[G, N, C]` to `[G, 1, C]`, as a matrix product."""
    ones = jnp.ones((len(y), 1, y.shape[1]), y.dtype)
    return jnp.matmul(ones, y, precision=jax.lax.Precision.HIGHEST)


@jax.custom_vjp
def _normalized(y: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, ...]:
    """Normalises the rows of each group `[G, N, C]`; also returns its mean and variance.

    The gradient is written out, and sums are matrix products: faster than what XLA makes of it on
    a CPU (docs/benchmarks.md). The statistics hand no gradient on.
    """
    return _normalize(y, scale, bias)[0]


def _normalize(y, scale, bias):
    mean = _sums(y) / y.shape[1]
    var = _sums((y - mean) ** 2) / y.shape[1]
    root = jax.lax.rsqrt(var + _EPSILON)
    result = (y - mean) * (root * scale[None, None]) + bias[None, None]
    return (result, mean, var), (y, mean, root, scale)


def _normalize_back(kept, slopes):
    (y, mean, root, scale), (slope, *_) = kept, slopes
    y = (y - mean) * root
    of_bias, of_scale = _sums(slope), _sums(slope * y)
    back = slope - of_bias / y.shape[1] - y * (of_scale / y.shape[1])
    return root * scale[None, None] * back, of_scale.sum((0, 1)), of_bias.sum((0, 1))


_normalized.defvjp(_normalize, _normalize_back)


def groups(clips: int, each: int) -> int:
    """Returns how many groups of `each` clips there are; 0: one of all.

    Raises:
      ConfigError: They do not divide.
    """
    if not each:
        return 1
    if clips % each:
        raise ConfigError(
            f"norm_clips is {each}, and {clips} clips are computed together",
            "set it to a divisor of the clips that a device computes at once",
        )
    return clips // each


def with_stats(params: Any, before: Any, stats: Any, momentum: float = 0.1) -> Any:
    """Moves running statistics on to what a step found.

    Args:
      params: Parameters after the step.
      before: Parameters before it.
      stats: The collection "stats" of a step, averaged over its clips.
      momentum: Share of the new.
    """
    new = dict(params)
    for name, found in stats.items():
        if isinstance(found, dict):
            new[name] = with_stats(params[name], before[name], found, momentum)
        else:
            new[name] = before[name] + momentum * (found - before[name])
    return new
