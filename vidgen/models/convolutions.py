"""Convolutions and normalisation of the textbooks: 4x4 kernels, strides of 2, batch statistics.

All of them run as 2D convolutions or matrix products: XLA's own transposed and 3D convolutions
reach a tenth of that with gradients on a CPU (docs/benchmarks.md).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidgen.errors import ConfigError

_NUMBERS = ("NHWC", "HWIO", "NHWC")
# Rows (or columns) of a 4-tap kernel that the even and the odd outputs of a transposed convolution
# take, with the input beside which they stand: (offset, tap).
_PHASES = (((0, 1), (-1, 3)), ((0, 2), (1, 0)))


class Convolution(nn.Module):
    """A 4x4 convolution of stride 2 that halves images, or with `steps` taps in time as well.

    Time is not padded: `steps` taps take `steps - 1` frames away.

    Attributes:
      features: Channels of the output.
      steps: Taps in time; 1 for images.
      dtype: Type of the computation.
      kernel_init: How the kernel is drawn.
    """

    features: int
    steps: int = 1
    dtype: str = "float32"
    kernel_init: Any = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, T, H, W, C]` to `[B, T - steps + 1, H/2, W/2, features]`."""
        b, t, h, w, c = x.shape
        shape = (self.steps, 4, 4, c, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        out = t - self.steps + 1
        taps = [x[:, i : i + out].reshape(b * out, h, w, c) for i in range(self.steps)]
        if c < 8:  # too few channels to be fast: the taps go side by side into them
            taps = [jnp.concatenate(taps, -1)]
            kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(1, 4, 4, -1, self.features)
        total = jnp.zeros((), self.dtype)
        for images, one in zip(taps, kernel, strict=True):
            total += jax.lax.conv_general_dilated(
                images, one, (2, 2), ((1, 1), (1, 1)), dimension_numbers=_NUMBERS
            )
        return total.reshape(b, out, h // 2, w // 2, self.features)


class Whole(nn.Module):
    """A convolution whose kernel is as large as its input: one output for each clip.

    Attributes:
      features: Channels of the output.
      dtype: Type of the computation.
      kernel_init: How the kernel is drawn.
    """

    features: int
    dtype: str = "float32"
    kernel_init: Any = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, T, H, W, C]` to `[B, features]`."""
        shape = (*x.shape[1:], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        flat = x.astype(self.dtype).reshape(len(x), -1)
        return flat @ kernel.astype(self.dtype).reshape(-1, self.features)


class TransposedConvolution(nn.Module):
    """A 4x4 transposed convolution of stride 2 that doubles images, without bias.

    Each of the four phases of the output is the product of 2x2 neighbours with 2x2 of the taps; to
    few channels, all taps are one product whose results are added where they fall.

    Attributes:
      features: Channels of the output.
      dtype: Type of the computation.
      kernel_init: How the kernel is drawn.
    """

    features: int
    dtype: str = "float32"
    kernel_init: Any = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[N, H, W, C]` to `[N, 2 H, 2 W, features]`.

        The kernel is `[4, 4, C, features]`; input `i` reaches output `o` by the tap `o - 2 i + 1`.
        """
        n, h, w, c = x.shape
        shape = (4, 4, c, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        around = ((0, 0), (1, 1), (1, 1), (0, 0))
        if self.features < 8:
            taps = x.reshape(-1, c) @ kernel.transpose(2, 0, 1, 3).reshape(c, -1)
            taps = jnp.pad(taps.reshape(n, h, w, -1), around)
            taps = taps.reshape(n, h + 2, w + 2, 4, 4, self.features)
        else:
            taps = jnp.pad(x, around)

        def phase(rows, columns):
            at = [(i, j, p, q) for i, p in rows for j, q in columns]
            near = [taps[:, 1 + i : 1 + i + h, 1 + j : 1 + j + w] for i, j, *_ in at]
            if self.features < 8:
                return sum(one[:, :, :, p, q] for one, (*_, p, q) in zip(near, at, strict=True))
            own = jnp.concatenate([kernel[p, q] for *_, p, q in at])
            return (jnp.concatenate(near, -1).reshape(-1, 4 * c) @ own).reshape(n, h, w, -1)

        made = [jnp.stack([phase(r, c) for c in _PHASES], 3) for r in _PHASES]
        return jnp.stack(made, 2).reshape(n, 2 * h, 2 * w, self.features)


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
            mean, var = y.mean(1, keepdims=True), y.var(1, keepdims=True)
            if self.running:
                unbiased = var * (y.shape[1] / max(y.shape[1] - 1, 1))
                self.put_variable("stats", "mean", mean.mean((0, 1)))
                self.put_variable("stats", "var", unbiased.mean((0, 1)))
        else:
            mean, var = mean[None, None], var[None, None]
        y = (y - mean) * jax.lax.rsqrt(var + 1e-5) * scale[None, None] + bias[None, None]
        return y.astype(self.dtype).reshape(x.shape)


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
