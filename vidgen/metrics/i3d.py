"""I3D: the Kinetics-400 action network whose logits FVD compares; for inference.

Batch normalisation is folded into the convolutions (by `i3d_weights`), so a unit is
a kernel and a bias. A 3D convolution is computed as a sum over its temporal taps of 2D convolutions
on `[batch * time]` images, and pooling as maxima of shifted maps: on a CPU several times faster
than XLA's 3D operations (docs/metrics.md), and the same up to the order of sums.

Reference: Carreira and Zisserman, "Quo vadis, action recognition?", 2017.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Channels of each mixed block: 1x1; reduction and 3x3x3, twice; 1x1 after pooling.
_MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
CLASSES = 400


def _same(size: int, kernel: int, stride: int) -> tuple[int, int, int]:
    """Returns the length of a map after "SAME" padding, and the padding before and after."""
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    return out, total // 2, total - total // 2


def conv3d(
    x: Float[Array, "batch time height width channel"],
    kernel: Float[Array, "taps rows columns channel feature"],
    stride: int = 1,
) -> Float[Array, "batch steps new_height new_width feature"]:
    """Convolves with "SAME" padding as TensorFlow pads.

    Args:
      x: `[B, T, H, W, C]`.
      kernel: `[kt, kh, kw, C, features]`.
      stride: In time and space alike.

    Returns:
      `[B, T/stride, H/stride, W/stride, features]`, rounded up.
    """
    b, t, h, w, c = x.shape
    steps, height, width, _, features = kernel.shape
    if (steps, height, width, stride) == (1, 1, 1, 1):
        return x @ kernel[0, 0, 0]
    out, before, _ = _same(t, steps, stride)
    space = [_same(h, height, stride)[1:], _same(w, width, stride)[1:]]

    def flat(images, taps):
        made = jax.lax.conv_general_dilated(
            images.reshape(-1, *images.shape[2:]),
            taps,
            (stride, stride),
            space,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return made.reshape(b, -1, *made.shape[1:])

    if c < 8:  # too few channels for a convolution to be fast: the taps go side by side into them
        padded = jnp.pad(x, ((0, 0), _same(t, steps, stride)[1:], (0, 0), (0, 0), (0, 0)))
        shifted = [padded[:, i : i + (out - 1) * stride + 1 : stride] for i in range(steps)]
        taps = kernel.transpose(1, 2, 0, 3, 4).reshape(height, width, steps * c, features)
        return flat(jnp.concatenate(shifted, -1), taps)
    total = jnp.zeros(())
    for i in range(steps):
        # Outputs `first` to `last` meet a frame with this tap; the others meet padding.
        first = max(-(-(before - i) // stride), 0)
        last = min((t - 1 + before - i) // stride, out - 1)
        if last < first:
            continue
        at = first * stride + i - before
        made = flat(x[:, at : at + (last - first) * stride + 1 : stride], kernel[i])
        edges = ((0, 0), (first, out - 1 - last), (0, 0), (0, 0), (0, 0))
        total += jnp.pad(made, edges)
    return total


def max_pool(
    x: Float[Array, "batch time height width channel"],
    window: tuple[int, ...],
    strides: tuple[int, ...],
) -> Float[Array, "batch steps new_height new_width channel"]:
    """Takes maxima over windows of time, rows and columns, "SAME" as TensorFlow pads."""
    for axis, (size, stride) in enumerate(zip(window, strides, strict=True), 1):
        if size == 1:
            continue
        out, before, after = _same(x.shape[axis], size, stride)
        edges = [(0, 0)] * x.ndim
        edges[axis] = (before, after)
        padded = jnp.pad(x, edges, constant_values=-jnp.inf)
        parts = [
            jax.lax.slice_in_dim(padded, i, i + (out - 1) * stride + 1, stride, axis)
            for i in range(size)
        ]
        x = parts[0]
        for part in parts[1:]:
            x = jnp.maximum(x, part)
    return x


class Unit(nn.Module):
    """A convolution with bias and ReLU: the original's convolution and batch normalisation."""

    features: int
    kernel: int = 1
    stride: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time height width channel"]
    ) -> Float[Array, "batch steps new_height new_width {self.features}"]:
        """Maps `[B, T, H, W, C]` to `[B, T/stride, H/stride, W/stride, features]`."""
        shape = (self.kernel,) * 3 + (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return nn.relu(conv3d(x, kernel, self.stride) + bias[None, None, None, None])


class Mixed(nn.Module):
    """Four branches side by side, as in Inception."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time height width channel"]
    ) -> Float[Array, "batch time height width feature"]:
        """Maps `[B, T, H, W, C]` to the branches' channels."""
        a, b, c, d, e, f = self.widths
        second = Unit(b, name="Branch_1_Conv3d_0a_1x1")(x)
        third = Unit(d, name="Branch_2_Conv3d_0a_1x1")(x)
        branches = (
            Unit(a, name="Branch_0_Conv3d_0a_1x1")(x),
            Unit(c, 3, name="Branch_1_Conv3d_0b_3x3")(second),
            Unit(e, 3, name="Branch_2_Conv3d_0b_3x3")(third),
            Unit(f, name="Branch_3_Conv3d_0b_1x1")(max_pool(x, (3, 3, 3), (1, 1, 1))),
        )
        return jnp.concatenate(branches, -1)


class I3D(nn.Module):
    """The network up to its logits."""

    @nn.compact
    def __call__(self, video: Float[Array, "batch time 224 224 3"]) -> Float[Array, "batch 400"]:
        """Classifies clips.

        Args:
          video: float `[B, T, 224, 224, 3]` in [-1, 1], T at least 9 (16 for FVD).

        Returns:
          Logits of the Kinetics-400 classes, `[B, 400]`: the mean over time.
        """
        x = Unit(64, 7, 2, name="Conv3d_1a_7x7")(video)
        x = max_pool(x, (1, 3, 3), (1, 2, 2))
        x = Unit(64, name="Conv3d_2b_1x1")(x)
        x = Unit(192, 3, name="Conv3d_2c_3x3")(x)
        x = max_pool(x, (1, 3, 3), (1, 2, 2))
        for name, widths in _MIXED.items():
            if name == "Mixed_4b":
                x = max_pool(x, (3, 3, 3), (2, 2, 2))
            if name == "Mixed_5b":
                x = max_pool(x, (2, 2, 2), (2, 2, 2))
            x = Mixed(widths, name=name)(x)
        # Means over windows of two steps and the whole 7x7 map, then over windows: linear, as the
        # logits are, so one weighted mean does for both.
        x = x.mean((2, 3))
        x = (x[:, :-1] + x[:, 1:]).mean(1) / 2
        return nn.Dense(CLASSES, name="Logits")(x)
