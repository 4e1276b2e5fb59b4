"""The convolutions of DCGAN, VGAN and MoCoGAN: 4x4 kernels, strides of 2.

All of them run as 2D convolutions or matrix products, which are several times faster with gradients
on a CPU than XLA's own transposed and 3D convolutions (docs/benchmarks.md).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

_NUMBERS = ("NHWC", "HWIO", "NHWC")
# Rows (or columns) of a 4-tap kernel that the even and the odd outputs of a transposed convolution
# take, with the input beside which they stand: (offset, tap).
_PHASES = (((0, 1), (-1, 3)), ((0, 2), (1, 0)))


def levels_of(size: int) -> int:
    """Returns how often 4x4 doubles to `size`."""
    return (size // 4).bit_length() - 1


class Convolution(nn.Module):
    """A 4x4 convolution of stride 2 that halves images, or with `steps` taps in time as well.

    Time is not padded: `steps` taps take `steps - 1` frames away. Or with `halve` time is halved as
    space is, by 4 taps.

    Attributes:
      features: Channels of the output.
      steps: Taps in time; 1 for images.
      halve: Whether time has stride 2 and is padded by a frame at both ends; `steps` is 4 then.
      dtype: Type of the computation.
      kernel_init: How the kernel is drawn.
    """

    features: int
    steps: int = 1
    dtype: str = "float32"
    kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    halve: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time height width channel"]
    ) -> Float[Array, "batch time_out height//2 width//2 {self.features}"]:
        """Maps `[B, T, H, W, C]` to `[B, T - steps + 1 or T/2, H/2, W/2, features]`."""
        t, c = x.shape[1], x.shape[-1]
        shape = (self.steps, 4, 4, c, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.halve:
            x = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
            taps = [x[:, i : i + t - 1 : 2] for i in range(self.steps)]
            images, kernel = jnp.concatenate(taps, -1), kernel.transpose(1, 2, 0, 3, 4)
            return _halved(images, kernel.reshape(4, 4, -1, self.features))
        if c < 8 and self.steps > 1:
            # Too few channels to be fast: the taps in time go side by side into them. As a product,
            # since XLA would otherwise make what comes before, such as noise, once for each tap.
            out = t - self.steps + 1
            taps = np.stack([np.eye(out, t, n) for n in range(self.steps)]).reshape(-1, t)
            x = _along(taps, x.swapaxes(0, 1)).reshape(self.steps, out, *x.shape[:1], *x.shape[2:])
            x = x.transpose(2, 1, 3, 4, 0, 5).reshape(*(x.shape[n] for n in (2, 1, 3, 4)), -1)
            kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(1, 4, 4, -1, self.features)
        if len(kernel) in (1, _TAPS) and _filters(x):
            return jax.lax.platform_dependent(x, kernel, cpu=_halve, default=_by_taps)
        return _by_taps(x, kernel)


def _halved(
    x: Float[Array, "batch time height width channel"], kernel: Float[Array, "4 4 channel feature"]
) -> Float[Array, "batch time height//2 width//2 feature"]:
    """Convolves each image of `[B, T, H, W, C]` with `[4, 4, C, F]` and stride 2."""
    b, t, h, w, c = x.shape
    images = x.reshape(b * t, h, w, c)
    images = jax.lax.conv_general_dilated(
        images, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=_NUMBERS
    )
    return images.reshape(b, t, h // 2, w // 2, -1)


def _by_taps(
    x: Float[Array, "batch time height width channel"],
    kernel: Float[Array, "tap 4 4 channel feature"],
) -> Float[Array, "batch time-tap+1 height//2 width//2 feature"]:
    """Convolves in time as well, as a sum over the taps of `[S, 4, 4, C, F]`."""
    out = x.shape[1] - len(kernel) + 1
    parts = (_halved(x[:, i : i + out], tap) for i, tap in enumerate(kernel))
    return sum(parts, jnp.zeros((), x.dtype))


# Fewer products, for float32 on a CPU. Seen as 2x2 blocks of pixels, a 4x4 convolution of stride 2
# is one of 2x2 taps and stride 1. Two neighbouring outputs of 2 taps, a and b, from the blocks x, y
# and z take three products instead of four, (x - y) a, y (a + b) and (z - y) b: in both directions
# of a tile of 2x2 outputs nine instead of 16. Two outputs of 4 taps in time take five instead of
# eight. In between are matrix products alone, and sums of few arrays. The transposed convolution
# and the gradients pair the same three factors otherwise, so they take as few products.


def _filters(x: Float[Array, "... height width channel"], side: int = 4) -> bool:
    """Returns whether tiles of `side` cover images `[..., H, W, C]`, in float32.

    Differences of inputs would cost bfloat16 digits.
    """
    return x.dtype == jnp.float32 and not any(n % side for n in x.shape[-3:-1])


@jax.custom_vjp
def _halve(
    x: Float32[Array, "batch time height width channel"],
    kernel: Float[Array, "tap 4 4 channel feature"],
) -> Float32[Array, "batch time-tap+1 height//2 width//2 feature"]:
    """Does what `_by_taps` does for 1 or 4 taps in time, with 9 products for 16, or 45 for 128.

    Reference: Winograd, "Arithmetic complexity of computations", 1980; Lavin and Gray, "Fast
      algorithms for convolutional neural networks", 2016.
    """
    return _to_outputs(x, kernel)


@jax.custom_vjp
def _double(
    y: Float32[Array, "batch time height width feature"],
    kernel: Float[Array, "tap 4 4 channel feature"],
) -> Float32[Array, "batch time+tap-1 height*2 width*2 channel"]:
    """Transposes `_halve`: `[B, T, h, w, F]` and `[S, 4, 4, C, F]` to `[B, T + S - 1, H, W, C]`."""
    return _to_inputs(y, kernel)


_halve.defvjp(
    lambda x, kernel: (_halve(x, kernel), (x, kernel)),
    lambda kept, dy: (_double(dy, kept[1]), _to_kernel(kept[0], dy, len(kept[1]))),
)
_double.defvjp(
    lambda y, kernel: (_double(y, kernel), (y, kernel)),
    lambda kept, dx: (_halve(dx, kept[1]), _to_kernel(dx, kept[0], len(kept[1]))),
)


def _to_outputs(
    x: Float[Array, "batch time height width channel"],
    kernel: Float[Array, "tap 4 4 channel feature"],
) -> Float[Array, "batch time-tap+1 height//2 width//2 feature"]:
    b, t, h, w, _ = x.shape
    _, to_outputs = _in_time(t, len(kernel))
    parts = []
    for of_x, of_kernel in zip(_of_inputs(x, len(kernel)), _of_kernel(kernel), strict=True):
        y = jnp.einsum("pnc,pcf->pnf", of_x, of_kernel)
        parts.append(_along(to_outputs, y.reshape(to_outputs.shape[1], b, h // 4, w // 4, -1)))
    rows = [[parts[3 * i + j] + parts[3 * i + j + 1] for j in (0, 1)] for i in range(3)]
    tiles = [jnp.stack([rows[i][j] + rows[i + 1][j] for j in (0, 1)], 4) for i in (0, 1)]
    tiles = jnp.stack(tiles, 3)  # [T, B, H/4, 2, W/4, 2, F]
    return tiles.reshape(len(tiles), b, h // 2, w // 2, -1).swapaxes(0, 1)


def _to_inputs(
    y: Float[Array, "batch time height width feature"],
    kernel: Float[Array, "tap 4 4 channel feature"],
) -> Float[Array, "batch time+tap-1 height*2 width*2 channel"]:
    b, t, h, w, _ = y.shape
    steps, _, _, c, _ = kernel.shape
    if c < 8 and steps == 1:
        x = _by_phases(y.reshape(-1, *y.shape[2:]), kernel[0].swapaxes(-1, -2))
        return x.reshape(b, t, *x.shape[1:])
    to_points, _ = _in_time(t + steps - 1, steps)
    parts = []
    for of_y, of_kernel in zip(_of_outputs(y, steps), _of_kernel(kernel), strict=True):
        x = jnp.einsum("pnf,pcf->pnc", of_y, of_kernel)
        x = x.reshape(len(to_points), b, h // 2, w // 2, 2, 2 * c)
        parts.append(_along(to_points.T, x))

    def blocks(of_three, axis):
        """Transposes `_three`."""
        one, two, three = of_three
        around = [[(0, 0)] * one.ndim for _ in range(2)]
        around[0][axis], around[1][axis] = (0, 1), (1, 0)
        even = jnp.pad(one, around[0]) + jnp.pad(three, around[1])
        both = jnp.stack([even, jnp.pad(two - one - three, around[0])], axis + 1)
        both = both.reshape(*one.shape[:axis], -1, *one.shape[axis + 1 :])
        return jax.lax.slice_in_dim(both, 0, -1, axis=axis)

    rows = [blocks(parts[n : n + 3], 3) for n in (0, 3, 6)]
    x = blocks(rows, 2).transpose(1, 0, 2, 4, 3, 5)
    return x.reshape(b, -1, 2 * h + 2, 2 * w + 2, c)[:, :, 1:-1, 1:-1]


def _to_kernel(
    x: Float[Array, "batch time height width channel"],
    y: Float[Array, "batch time-{steps}+1 height//2 width//2 feature"],
    steps: int,
) -> Float[Array, "{steps} 4 4 channel feature"]:
    shape = (steps, 4, 4, x.shape[-1], y.shape[-1])
    parts = [
        jnp.einsum("pnc,pnf->pcf", of_x, of_y)
        for of_x, of_y in zip(_of_inputs(x, steps), _of_outputs(y, steps), strict=True)
    ]
    return jax.linear_transpose(_of_kernel, jax.ShapeDtypeStruct(shape, x.dtype))(parts)[0]


def _of_inputs(
    x: Float[Array, "batch time height width channel"], steps: int
) -> list[Float[Array, "point n channel*4"]]:
    """Returns the nine combinations of blocks of `[B, T, H, W, C]`, each `[P, pairs * N, 4 C]`."""
    b, t, h, w, c = x.shape
    to_points, _ = _in_time(t, steps)
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    x = x.reshape(b, t, h // 2 + 1, 2, w // 2 + 1, 2 * c)
    parts = [part for rows in _three(x, 2) for part in _three(rows, 4)]
    parts = [part.transpose(1, 0, 2, 4, 3, 5).reshape(t, -1, 4 * c) for part in parts]
    return [_along(to_points, part).reshape(_points_of(steps), -1, 4 * c) for part in parts]


def _three(
    x: Float[Array, "..."], axis: int
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"], Float[Array, "*shape"]]:
    one, two, three = (jax.lax.slice_in_dim(x, n, x.shape[axis] - 2 + n, 2, axis) for n in range(3))
    return one - two, two, three - two


def _of_kernel(
    kernel: Float[Array, "tap 4 4 channel feature"],
) -> list[Float[Array, "point channel*4 feature"]]:
    """Returns the nine combinations of `[S, 4, 4, C, F]`, each `[P, 4 C, F]`."""
    steps, _, _, c, f = kernel.shape
    taps = kernel.reshape(steps, 2, 2, 2, 2, c, f)
    parts = [
        part.reshape(steps, 4 * c, f) for rows in _sums_of(taps, 1) for part in _sums_of(rows, 2)
    ]
    return [_along(_KERNEL, part) for part in parts] if steps == _TAPS else parts


def _of_outputs(
    y: Float[Array, "batch time height width feature"], steps: int
) -> list[Float[Array, "point n feature"]]:
    """Returns the nine combinations of `[B, T, h, w, F]`, each `[P, pairs * N, F]`."""
    b, t, h, w, f = y.shape
    _, to_outputs = _in_time(t + steps - 1, steps)
    tiles = y.swapaxes(0, 1).reshape(t, b, h // 2, 2, w // 2, 2, f)
    parts = [part for rows in _sums_of(tiles, 3) for part in _sums_of(rows, 4)]
    return [_along(to_outputs.T, part).reshape(_points_of(steps), -1, f) for part in parts]


def _sums_of(
    x: Float[Array, "..."], axis: int
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"], Float[Array, "*shape"]]:
    one, two = (jax.lax.index_in_dim(x, n, axis, False) for n in (0, 1))
    return one, one + two, two


def _along(
    matrix: Float[np.ndarray, "row column"], x: Float[Array, " column *axes"]
) -> Float[Array, " row *axes"]:
    """Multiplies the first axis by a matrix."""
    if np.array_equal(matrix, np.eye(len(matrix))):
        return x
    made = jnp.matmul(
        jnp.asarray(matrix, x.dtype), x.reshape(len(x), -1), precision=jax.lax.Precision.HIGHEST
    )
    return made.reshape(-1, *x.shape[1:])


_TAPS = 4
_MANY = 1024  # pixels


def _points(powers: int) -> Float[np.ndarray, "5 {powers}"]:
    """Returns the values of 1, x, x^2, ... at 0, 1, -1, 2 and infinity, `[5, powers]`."""
    at = np.array([0.0, 1.0, -1.0, 2.0])
    return np.vstack([at[:, None] ** np.arange(powers), np.eye(powers)[-1:]])


_OUTPUTS, _KERNEL = _points(2).T, _points(_TAPS)
_FRAMES = np.round(np.linalg.inv(_points(5)).T * 6) / 6  # sixths; without what rounding left


def _points_of(steps: int) -> int:
    return 5 if steps == _TAPS else 1


def _in_time(
    frames: int, steps: int
) -> tuple[Float[np.ndarray, "point {frames}"], Float[np.ndarray, "{frames}-{steps}+1 point"]]:
    """Returns the matrices from frames to points of pairs, `[P * pairs, T]`, and on to outputs.

    Two neighbouring outputs of 4 taps are the coefficients of a product of polynomials, taken at 5
    points. With one tap, both are the identity.
    """
    if steps == 1:
        return np.eye(frames), np.eye(frames)
    out = frames - _TAPS + 1
    pairs = -(-out // 2)
    to_points, to_outputs = np.zeros((5, pairs, frames + 1)), np.zeros((2 * pairs, 5, pairs))
    for n in range(pairs):
        to_points[:, n, 2 * n : 2 * n + 5] = _FRAMES
        to_outputs[2 * n : 2 * n + 2, :, n] = _OUTPUTS
    return to_points.reshape(-1, frames + 1)[:, :frames], to_outputs.reshape(2 * pairs, -1)[:out]


class Whole(nn.Module):
    """A convolution whose kernel is as large as its input: one output for each clip.

    Attributes:
      features: Channels of the output.
      dtype: Type of the computation.
      kernel_init: How the kernel is drawn.
    """

    features: int
    dtype: str = "float32"
    kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time height width channel"]
    ) -> Float[Array, "batch {self.features}"]:
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
      clip: Whether time is doubled as well, by 4 taps.
      dtype: Type of the computation.
      kernel_init: How the kernel is drawn.
    """

    features: int
    dtype: str = "float32"
    kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    clip: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "... height width channel"]
    ) -> Float[Array, "... height*2 width*2 {self.features}"]:
        """Maps `[N, H, W, C]` to `[N, 2 H, 2 W, features]`, `[B, T, ...]` to `[B, 2 T, ...]`.

        The kernel is `[4, 4, C, features]`, for clips with a first axis of 4 taps in time; input
        `i` reaches output `o` by the tap `o - 2 i + 1`.
        """
        shape = (*(4,) * (2 + self.clip), x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return _doubled_in_time(x, kernel) if self.clip else _doubled(x, kernel)


def _doubled_in_time(
    x: Float[Array, "batch time height width channel"],
    kernel: Float[Array, "4 4 4 channel feature"],
) -> Float[Array, "batch time*2 height*2 width*2 feature"]:
    """Doubles clips `[B, T, H, W, C]` by `[4, 4, 4, C, F]`: each phase of time as images."""
    b, t, h, w, c = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
    phases = []
    for (i, p), (j, q) in _PHASES:
        near = [padded[:, 1 + k : 1 + k + t] for k in (i, j)]
        images = jnp.concatenate(near, -1).reshape(b * t, h, w, 2 * c)
        phases.append(_doubled(images, jnp.concatenate([kernel[p], kernel[q]], 2)))
    made = jnp.stack([phase.reshape(b, t, *phase.shape[1:]) for phase in phases], 2)
    return made.reshape(b, 2 * t, *made.shape[3:])


def _doubled(
    x: Float[Array, "n height width channel"], kernel: Float[Array, "4 4 channel feature"]
) -> Float[Array, "n height*2 width*2 feature"]:
    """Doubles images `[N, H, W, C]` by `[4, 4, C, F]`."""
    # The kernel's own sums must be worth it: one clip's sampling was twice as slow with them.
    if _filters(x, 2) and x[..., 0].size >= _MANY:
        return jax.lax.platform_dependent(x, kernel, cpu=_by_tiles, default=_by_phases)
    return _by_phases(x, kernel)


def _by_tiles(
    x: Float[Array, "n height width channel"], kernel: Float[Array, "4 4 channel feature"]
) -> Float[Array, "n height*2 width*2 feature"]:
    return _double(x[:, None], kernel[None].swapaxes(-1, -2))[:, 0]


def _by_phases(
    x: Float[Array, "n height width channel"], kernel: Float[Array, "4 4 channel feature"]
) -> Float[Array, "n height*2 width*2 feature"]:
    n, h, w, c = x.shape
    features = kernel.shape[-1]
    around = ((0, 0), (1, 1), (1, 1), (0, 0))
    if features < 8:
        taps = x.reshape(-1, c) @ kernel.transpose(2, 0, 1, 3).reshape(c, -1)
        taps = jnp.pad(taps.reshape(n, h, w, -1), around)
        taps = taps.reshape(n, h + 2, w + 2, 4, 4, features)
    else:
        taps = jnp.pad(x, around)

    def phase(rows, columns):
        at = [(i, j, p, q) for i, p in rows for j, q in columns]
        near = [taps[:, 1 + i : 1 + i + h, 1 + j : 1 + j + w] for i, j, *_ in at]
        if features < 8:
            parts = (one[:, :, :, p, q] for one, (*_, p, q) in zip(near, at, strict=True))
            return sum(parts, jnp.zeros((), x.dtype))
        matrix = jnp.concatenate([kernel[p, q] for *_, p, q in at])
        return (jnp.concatenate(near, -1).reshape(-1, 4 * c) @ matrix).reshape(n, h, w, -1)

    made = [jnp.stack([phase(r, c) for c in _PHASES], 3) for r in _PHASES]
    return jnp.stack(made, 2).reshape(n, 2 * h, 2 * w, features)
