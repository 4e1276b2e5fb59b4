"""Building blocks of generators and discriminators: 2D convolutions on folded time, no norms.

Convolutions run on `[batch * time, height, width, channel]` images; time is mixed by matrix
products. On a CPU that is several times faster than 3D convolution, whose gradients reach a tenth
of the matrix-product rate there, and no slower on a GPU or TPU.
"""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, Real, Shaped

from vidgen.errors import ConfigError
from vidgen.frame_size import Size, height_width, normal


def _scaled(gain: float) -> nn.initializers.Initializer:
    return nn.initializers.variance_scaling(gain, "fan_in", "truncated_normal")


def dense(features: int, dtype: str, name: str, gain: float = 2.0) -> nn.Dense:
    """Returns a dense layer over channels; gain 2 keeps the variance through a ReLU (He)."""
    return nn.Dense(features, dtype=dtype, kernel_init=_scaled(gain), name=name)


def check_loop(network: nn.Module) -> None:
    """Raises ConfigError unless a generator's loop is a multiple of its stride."""
    loop, stride = network.loop, network.stride
    if loop < 0 or loop % stride:
        raise ConfigError(
            f"config.generator.loop is {loop}",
            f"0 for none, or a multiple of {stride} frames, from one keyframe of motion noise to "
            "the next",
        )


def leaky_relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Applies a leaky ReLU of slope 0.2."""
    return nn.leaky_relu(x, 0.2)


def space_to_depth(
    x: Shaped[Array, "n height width channel"], patch: int
) -> Shaped[Array, "n height//{patch} width//{patch} channel*{patch}**2"]:
    """Folds patches of pixels into channels; `[N, H, W, C]` to `[N, H/p, W/p, p*p*C]`."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h // patch, w // patch, patch * patch * c)


def depth_to_space(
    x: Shaped[Array, "n height width channel"], patch: int
) -> Shaped[Array, "n height*{patch} width*{patch} channel//{patch}**2"]:
    """Undoes `space_to_depth`; `[N, H, W, p*p*C]` to `[N, p*H, p*W, C]`."""
    n, h, w, c = x.shape
    x = x.reshape(n, h, w, patch, patch, c // patch**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h * patch, w * patch, c // patch**2)


def resize(
    x: Float[Array, "n height width channel"], rows: int, columns: int
) -> Float[Array, "n {rows} {columns} channel"]:
    """Enlarges maps by bilinear interpolation; `[N, H, W, C]` to `[N, rows, columns, C]`."""
    return jax.image.resize(x, (x.shape[0], rows, columns, x.shape[-1]), "bilinear")


def coarsest_map(size: Size, unit: int, twos: bool = False) -> tuple[int, int] | None:
    """Returns rows and columns of the coarsest map of a network; None where there is none.

    Of squares it is 4x4. Of other frames it is the smallest map of the same aspect that has at
    least 4 places on its shorter side, and at most 15: 64x112 has 4x7, 144x256 has 9x16.

    Args:
      size: Of the frames in pixels, a number or `(height, width)`.
      unit: A place is a square of pixels whose side is a multiple of it.
      twos: Whether the multiple must be a power of two.
    """
    height, width = height_width(size)
    short = min(height, width)
    for count in range(4, 5 if height == width else 16):
        side = short // count
        whole = side and not (height % side or width % side) and short == count * side
        if whole and unit and side % unit == 0:
            times = side // unit
            if not twos or times & (times - 1) == 0:
                return height // side, width // side
    return None


def no_map(what: str, size: Size, unit: int, twos: bool = False) -> ConfigError:
    """Returns an error for a height and a width of which there is no `coarsest_map`.

    Args:
      what: Says what they have to fit.
      size: The size.
      unit: As for `coarsest_map`.
      twos: As for `coarsest_map`.
    """
    height, width = height_width(size)
    near: list[tuple[float, Size]] = []
    for reach in (16, 32, 64, 128, 256):
        sides = (
            range(max(side - reach, 1) // unit * unit + unit, side + reach + 1, unit)
            for side in (height, width)
        )
        near = [
            (abs(a / height - 1) + abs(b / width - 1), normal((a, b)))
            for a, b in itertools.product(*sides)
            if coarsest_map((a, b), unit, twos)
        ]
        if near:
            break
    best = ", ".join(str(one) for _, one in sorted(near, key=lambda pair: pair[0])[:3])
    return ConfigError(
        f"config.data.size is {size}, and {what}",
        f"the nearest sizes that fit are {best}" if best else "fewer levels",
    )


def bound_rms(x: Float[Array, "*pixel channel"], most: float) -> Float[Array, "*pixel channel"]:
    """Scales the features of pixels down to a root mean square, where theirs is larger.

    Two players who compete can raise the features of a network without normalisation beyond all
    bounds. Pixel normalisation keeps them down, but takes from weak features that they are weak: a
    bound leaves those as they are.

    Reference: Karras et al., "Progressive growing of GANs", 2018, for pixel normalisation.

    Args:
      x: Features `[..., C]`.
      most: Their root mean square over channels at most; 0 for no bound.
    """
    return _bound_rms(x, most) if most else x


# A backward pass of its own, since JAX's was slower on a CPU (docs/benchmarks.md).
@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _bound_rms(x: Float[Array, "*pixel channel"], most: float) -> Float[Array, "*pixel channel"]:
    return _keep_for_bound(x, most)[0]


def _keep_for_bound(x: Float[Array, "*pixel channel"], most: float):
    """Returns the bounded features, and what the backward pass needs."""
    inverse = jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)
    scale = jnp.minimum(1, most * inverse)
    return x * scale, (x, scale, inverse)


def _unbound(most: float, kept, dy: Float[Array, "*pixel channel"]):
    """Returns the gradient: where features are bounded, none along themselves."""
    x, scale, inverse = kept
    along = jnp.where(scale < 1, jnp.mean(dy * x, -1, keepdims=True) * inverse**2, 0)
    return (scale * (dy - along * x),)


_bound_rms.defvjp(_keep_for_bound, _unbound)


def downsample(
    x: Float[Array, "n height width channel"],
) -> Float[Array, "n height//2 width//2 channel"]:
    """Halves the resolution by averaging; `[N, H, W, C]` to `[N, H/2, W/2, C]`."""
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


def between_keyframes(
    x: Float[Array, "batch keyframe channel"],
    start: Int[Array, " batch"],
    within: Real[Array, "#batch time"],
    stride: int,
) -> Float[Array, "batch time channel"]:
    """Interpolates features of keyframes linearly to frames, wherever a window begins.

    Args:
      x: Features `[B, K, C]` from the last keyframe that is not after each window's first frame.
      start: First frame of each window, int32 `[B]`.
      within: Frames of the windows, int32 `[B or 1, T]`; or float32, for times between frames.
      stride: Frames between keyframes.

    Returns:
      `[B, T, C]`.
    """
    time = (start % stride)[:, None] + within
    at = lambda keyframe: jnp.take_along_axis(x, keyframe[:, :, None], 1)  # noqa: E731
    left, part = (time // stride).astype(jnp.int32), (time % stride) / stride
    if stride == 1 and jnp.issubdtype(within.dtype, jnp.integer):
        return at(left)
    # A window that begins on a keyframe never reaches the last one.
    right = jnp.minimum(left + 1, x.shape[1] - 1)
    part = part[:, :, None].astype(x.dtype)
    return at(left) * (1 - part) + at(right) * part


def mix_palette(
    x: Float[Array, "... channel"],
    content: Float[Array, "batch style"],
    colours: int,
    dtype: str,
    output: str = "tanh",
) -> Float32[Array, "batch pixel 3"]:
    """Lets each pixel mix the colours of a palette that content chooses; for compact methods.

    An area that keeps its colour while it moves is one entry taken whole.

    Args:
      x: Features of pixels, clip after clip, `[B * n, ..., C]`.
      content: Content features `[B, S]`.
      colours: Entries of the palette.
      dtype: Type of the computation.
      output: How the entries are bounded; of `OUTPUTS`.

    Returns:
      Float32 `[B, n * ..., 3]`; in [-1, 1], unless "tanh" nearly.
    """
    mix = nn.softmax(dense(colours, dtype, "mix", gain=1.0)(x))
    palette = dense(3 * colours, dtype, "palette", gain=1.0)(content)
    palette = OUTPUTS[output](palette).reshape(len(content), colours, 3)
    return jnp.matmul(mix.reshape(len(content), -1, colours), palette).astype(jnp.float32)


class Film(nn.Module):
    """Scales and shifts the channels of maps by a style, starting near the identity.

    Reference: Perez et al., "FiLM: visual reasoning with a general conditioning layer", 2018.
    """

    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "n height width channel"], style: Float[Array, "n style"]
    ) -> Float[Array, "n height width channel"]:
        """Maps `[N, H, W, C]` and styles `[N, S]` to `[N, H, W, C]`."""
        film = dense(2 * x.shape[-1], self.dtype, "film", gain=1.0)(style)
        scale, shift = jnp.split(film[:, None, None, :], 2, -1)
        return x * (1 + scale) + shift


class Conv3x3(nn.Module):
    """A 3x3 convolution with bias and same padding.

    With a stride of 2 it is one matrix product of all nine taps on a CPU, which is several times
    faster there with second gradients.

    Attributes:
      features: Channels of the output.
      dtype: Type of the computation.
      gain: Of the kernel's variance; 0 starts with zeros.
      stride: 1, or 2 for half the side, rounded up.
    """

    features: int
    dtype: str = "float32"
    gain: float = 2.0
    stride: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "n height width channel"]
    ) -> Float[Array, "n -(-height//{self.stride}) -(-width//{self.stride}) {self.features}"]:
        """Maps `[N, H, W, C]` to `[N, H, W, features]`, or half of it each way."""
        c = x.shape[-1]
        init = _scaled(self.gain) if self.gain else nn.initializers.zeros
        kernel = self.param("kernel", init, (3, 3, c, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        if self.stride == 2:
            x = jax.lax.platform_dependent(x, kernel, cpu=_halved_by_taps, default=_halved)
        else:
            x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_NUMBERS)
        return x + bias[None, None, None]


_NUMBERS = ("NHWC", "HWIO", "NHWC")


def _halved(
    x: Float[Array, "n height width channel"], kernel: Float[Array, "3 3 channel feature"]
) -> Float[Array, "n (height+1)//2 (width+1)//2 feature"]:
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=_NUMBERS)


def _halved_by_taps(
    x: Float[Array, "n height width channel"], kernel: Float[Array, "3 3 channel feature"]
) -> Float[Array, "n (height+1)//2 (width+1)//2 feature"]:
    _, h, w, c = x.shape
    around = ((h % 2, 1), (w % 2, 1))  # as "SAME"
    x = jnp.pad(x, ((0, 0), *around, (0, 0)))
    taps = [x[:, i : i + h : 2, j : j + w : 2] for i in range(3) for j in range(3)]
    product = jnp.concatenate(taps, -1).reshape(-1, 9 * c) @ kernel.reshape(9 * c, -1)
    return product.reshape(*taps[0].shape[:3], -1)


def group_deviation(
    x: Float[Array, "n height width channel"], clips: int, frames: int = 1
) -> Float[Array, " n"]:
    """Returns how much the clips of a group differ from each other.

    That is the standard deviation across the group, averaged over frames, places and channels.

    Reference: Karras et al., "Progressive growing of GANs", 2018.

    Args:
      x: Maps of frames, those of a clip one after another, `[B * frames, H, W, C]`; every `clips`
        clips are a group. A single clip has none and gets nearly 0.
      clips: Clips of a group.
      frames: Frames of each clip.

    Returns:
      The same number for all of a group, `[B * frames]`.
    """
    n = len(x)
    clips = min(clips, n // frames)
    groups = x.reshape(-1, clips, frames, *x.shape[1:])
    each = jnp.sqrt(groups.var(1) + 1e-6).mean((1, 2, 3, 4))
    return jnp.repeat(each, clips * frames)


# How colours are bounded. What tanh has saturated gets no gradient back, and a generator that once
# makes frames of one extreme colour stays there; a slope of a twentieth is enough to return by,
# since Adam divides gradients by their size.
OUTPUTS = {
    "tanh": jnp.tanh,
    "leaky": lambda x: jnp.tanh(x) + 0.05 * x,
    "linear": lambda x: x,
}


def check_sizes(module: nn.Module, role: str, *names: str) -> None:
    """Raises ConfigError if one of the attributes is 0."""
    for name in names:
        if not getattr(module, name):
            raise ConfigError(f"config.{role}.{name} is 0", "at least 1")


def check_heads(width: int, heads: int, role: str) -> None:
    """Raises ConfigError if the heads of attention do not divide the channels of tokens."""
    if width % heads:
        raise ConfigError(
            f"config.{role}.heads is {heads}, and its width {width}",
            "the heads must divide the width",
        )


def check_output(output: str) -> None:
    """Raises ConfigError if `config.generator.output` is none of `OUTPUTS`."""
    if output not in OUTPUTS:
        raise ConfigError(f"config.generator.output is {output!r}", f"one of {', '.join(OUTPUTS)}")


class Residual(nn.Module):
    """Adds two 3x3 convolutions to their input, the last starting at zero; no normalisation.

    With a style, the features between the convolutions are modulated by it.

    Reference: Zhang et al., "Fixup initialization", 2019.
    """

    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n height width channel"],
        style: Float[Array, "n style"] | None = None,
    ) -> Float[Array, "n height width {self.features}"]:
        """Maps `[N, H, W, C]` and styles `[N, S]` to `[N, H, W, features]`."""
        skip = x
        if x.shape[-1] != self.features:
            skip = dense(self.features, self.dtype, "skip", gain=1.0)(x)
        x = Conv3x3(self.features, self.dtype, name="in")(leaky_relu(x))
        if style is not None:
            x = Film(self.dtype, name="style")(x, style)
        return skip + Conv3x3(self.features, self.dtype, gain=0.0, name="out")(leaky_relu(x))


class MixTime(nn.Module):
    """Adds to each step of time a linear map of it and its neighbours, starting at zero.

    Time is padded by repeating its ends: for discriminators, whose windows have a fixed length.
    """

    steps: int
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "n height width channel"]
    ) -> Float[Array, "n height width channel"]:
        """Maps images `[B * steps, H, W, C]`, time varying fastest, to the same shape."""
        if self.steps == 1:
            return x
        n, h, w, c = x.shape
        video = leaky_relu(x).reshape(-1, self.steps, h, w, c)
        before = jnp.concatenate([video[:, :1], video[:, :-1]], 1)
        after = jnp.concatenate([video[:, 1:], video[:, -1:]], 1)
        taps = jnp.concatenate([before, video, after], -1)
        zero = nn.initializers.zeros
        mixed = nn.Dense(c, dtype=self.dtype, kernel_init=zero, name="taps")(taps)
        return x + mixed.reshape(n, h, w, c)
