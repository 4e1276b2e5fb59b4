"""Batch normalisation by groups of clips, whose running statistics are leaves of the parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, PyTree

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
    def __call__(
        self, x: Float[Array, "n *axes channel"], groups: int = 1
    ) -> Float[Array, "n *axes channel"]:
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
_Normalized = tuple[
    Float32[Array, "group row channel"],
    Float32[Array, "group 1 channel"],
    Float32[Array, "group 1 channel"],
]
_Residuals = tuple[
    Float32[Array, "group row channel"],
    Float32[Array, "group 1 channel"],
    Float32[Array, "group 1 channel"],
    Float32[Array, " channel"],
]


def _sums(
    y: Float32[Array, "group row channel"],
) -> Float32[Array, "group 1 channel"]:
    """Adds up the rows of each group, `[G, N, C]` to `[G, 1, C]`, as a matrix product."""
    ones = jnp.ones((len(y), 1, y.shape[1]), y.dtype)
    return jnp.matmul(ones, y, precision=jax.lax.Precision.HIGHEST)


@jax.custom_vjp
def _normalized(
    y: Float32[Array, "group row channel"],
    scale: Float32[Array, " channel"],
    bias: Float32[Array, " channel"],
) -> _Normalized:
    """Normalises the rows of each group `[G, N, C]`; also returns its mean and variance.

    The gradient is written out, and sums are matrix products: faster than what XLA makes of it on
    a CPU (docs/benchmarks.md). No gradient flows through the statistics that are returned.
    """
    return _forward(y, scale, bias)[0]


def _forward(
    y: Float32[Array, "group row channel"],
    scale: Float32[Array, " channel"],
    bias: Float32[Array, " channel"],
) -> tuple[_Normalized, _Residuals]:
    mean = _sums(y) / y.shape[1]
    var = _sums((y - mean) ** 2) / y.shape[1]
    root = jax.lax.rsqrt(var + _EPSILON)
    result = (y - mean) * (root * scale[None, None]) + bias[None, None]
    return (result, mean, var), (y, mean, root, scale)


def _backward(
    residuals: _Residuals, gradients: _Normalized
) -> tuple[
    Float32[Array, "group row channel"], Float32[Array, " channel"], Float32[Array, " channel"]
]:
    (y, mean, root, scale), (slope, *_) = residuals, gradients
    y = (y - mean) * root
    of_bias, of_scale = _sums(slope), _sums(slope * y)
    back = slope - of_bias / y.shape[1] - y * (of_scale / y.shape[1])
    return root * scale[None, None] * back, of_scale.sum((0, 1)), of_bias.sum((0, 1))


_normalized.defvjp(_forward, _backward)


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


def with_stats(
    params: dict[str, PyTree],
    before: dict[str, PyTree],
    stats: dict[str, PyTree],
    momentum: float = 0.1,
) -> dict[str, PyTree]:
    """Moves running statistics towards those of a step.

    Args:
      params: Parameters after the step.
      before: Parameters before it.
      stats: The collection "stats" of a step, averaged over its clips.
      momentum: Share of the step's statistics in the new ones.

    Returns:
      The parameters, with the running statistics moved.
    """
    new = dict(params)
    for name, found in stats.items():
        if isinstance(found, dict):
            new[name] = with_stats(params[name], before[name], found, momentum)
        else:
            new[name] = before[name] + momentum * (found - before[name])
    return new
