"""EfficientNet-Lite0, an ImageNet classifier whose features are inputs of discriminators.

Batch normalisation is folded into the convolutions (by `efficientnet_weights`). It is frozen: its
gradients are by images alone.

Reference: Tan and Le, "EfficientNet: rethinking model scaling", 2019; the Lite variants have no
  squeeze and excitation, and ReLU6.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree


@dataclasses.dataclass(frozen=True)
class Block:
    """An inverted residual block.

    Attributes:
      kernel: Side of its depthwise convolution.
      stride: Of that.
      features: Channels of its output.
      expanded: Whether it first makes six times as many channels.
      shortcut: Whether its input is added to its output.
    """

    kernel: int
    stride: int
    features: int
    expanded: bool = True
    shortcut: bool = False


def _stage(kernel: int, stride: int, features: int, blocks: int, **first: bool) -> list[Block]:
    rest = [Block(kernel, 1, features, shortcut=True)] * (blocks - 1)
    return [Block(kernel, stride, features, **first), *rest]


BLOCKS = [
    *_stage(3, 1, 16, 1, expanded=False),
    *_stage(3, 2, 24, 2),
    *_stage(5, 2, 40, 2),
    *_stage(3, 2, 80, 3),
    *_stage(5, 1, 112, 3),
    *_stage(5, 2, 192, 4),
    *_stage(3, 1, 320, 1),
]
TAPS = {4: 2, 8: 4, 16: 10, 32: 15}  # the last block of each downsampling
_NUMBERS = ("NHWC", "HWIO", "NHWC")

Maps = Float[Array, "n _ _ _"]  # batch, height, width, channels
Matrix = Float[np.ndarray, "_ _"]


def features(weights: PyTree, images: Maps, taps: tuple[int, ...] = tuple(TAPS)) -> dict[int, Maps]:
    """Returns the features of images.

    Args:
      weights: From `efficientnet_weights.load`.
      images: `[N, H, W, 3]` in [-1, 1].
      taps: Downsamplings, of 4, 8, 16, 32: what comes after the deepest is not computed.

    Returns:
      By downsampling, `[N, H / tap, W / tap, C]`, rounded up; C is 24, 40, 112, 320.
    """
    wanted = {TAPS[tap]: tap for tap in taps}
    found, x = {}, _stem(weights, images)
    for i in range(max(wanted, default=-1) + 1):
        x = _block(weights[f"block{i}"], x, BLOCKS[i])
        if i in wanted:
            found[wanted[i]] = x
    return found


def logits(weights: PyTree, images: Maps) -> Float[Array, "n 1000"]:
    """Returns ImageNet's logits of images in [-1, 1], made for `[N, 224, 224, 3]`."""
    x = features(weights, images, (32,))[32]
    x = _relu6(_dense(weights["head"], x)).mean((1, 2))
    return x @ weights["logits"]["kernel"] + weights["logits"]["bias"][None]


@jax.custom_vjp
def _relu6(x: Maps) -> Maps:
    return jnp.clip(x, 0, 6)


def _relu6_forward(x: Maps) -> tuple[Maps, Maps]:
    y = _relu6(x)
    return y, y


def _relu6_backward(y: Maps, slopes: Maps) -> tuple[Maps]:
    # By the output: by the input, as JAX has it, a program would compute the input once more.
    return (jnp.where((y > 0) & (y < 6), slopes, 0),)


_relu6.defvjp(_relu6_forward, _relu6_backward)


def _once(y: Maps, x: Maps) -> Maps:
    """Returns `y`, computed from `x` once.

    XLA computes a sum of shifted maps again for each of its readers, but a division, which it takes
    for dear, once. It does not see that this is one by 1, as 0 * x may be NaN.
    """
    return y / (1 + 0 * jax.lax.stop_gradient(x[0, 0, 0, 0]))


def _dense(weights: PyTree, x: Maps) -> Maps:
    return x @ weights["kernel"].astype(x.dtype) + weights["bias"].astype(x.dtype)[None, None, None]


def _stem(weights: PyTree, images: Maps) -> Maps:
    kernel, bias = (jnp.asarray(weights["stem"][name], images.dtype) for name in ("kernel", "bias"))
    x = jax.lax.conv_general_dilated(images, kernel, (2, 2), "SAME", dimension_numbers=_NUMBERS)
    return _relu6(x + bias[None, None, None])


def _block(weights: PyTree, x: Maps, block: Block) -> Maps:
    y = _relu6(_dense(weights["expand"], x)) if block.expanded else x
    kernel, bias = (jnp.asarray(weights["depthwise"][name], x.dtype) for name in ("kernel", "bias"))
    y = _relu6(_once(_depthwise(y, kernel, block.stride) + bias[None, None, None], x))
    y = _dense(weights["project"], y)
    return x + y if block.shortcut else y


# A depthwise convolution has few operations for its bytes. On a CPU, XLA's own takes 15 times as
# long as a sum of shifted maps, and the derivative of that sum 2.7 times as long as the sum that
# the derivative is (docs/benchmarks.md).


def _depthwise(
    x: Maps, kernel: Float[Array, "side side channel"], stride: int
) -> Float[Array, "n rows columns channel"]:
    """Convolves each channel by itself, with "SAME" padding; it has no gradient by the kernel."""
    own = functools.partial(_shifted, stride=stride)
    return jax.lax.platform_dependent(
        x, kernel, cpu=own, default=functools.partial(_grouped, stride=stride)
    )


def _grouped(
    x: Maps, kernel: Float[Array, "side side channel"], stride: int
) -> Float[Array, "n rows columns channel"]:
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        "SAME",
        dimension_numbers=_NUMBERS,
        feature_group_count=x.shape[-1],
    )


def _same(size: int, side: int, stride: int) -> tuple[int, int]:
    """Returns the zeros before and after, as "SAME" has them."""
    total = max((-(-size // stride) - 1) * stride + side - size, 0)
    return total // 2, total - total // 2


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifted(
    x: Maps, kernel: Float[Array, "side side channel"], stride: int
) -> Float[Array, "n rows columns channel"]:
    """Does `_grouped` as a sum of shifted multiples of the map."""
    side = len(kernel)
    _, h, w, _ = x.shape
    rows, columns = -(-h // stride), -(-w // stride)
    x = jnp.pad(x, ((0, 0), _same(h, side, stride), _same(w, side, stride), (0, 0)))
    total = 0
    for i, j in np.ndindex(side, side):
        part = x[:, i : i + (rows - 1) * stride + 1 : stride]
        part = part[:, :, j : j + (columns - 1) * stride + 1 : stride]
        total = total + part * kernel[i, j][None, None, None]
    return jnp.asarray(total)


def _shifted_forward(x, kernel, stride):
    return _shifted(x, kernel, stride), (kernel, x.shape)


def _shifted_backward(stride, kept, slopes):
    """Sums shifted slopes: those of a strided output reach every `stride`-th place apart."""
    kernel, (n, h, w, c) = kept
    side = len(kernel)
    before = [_same(size, side, stride)[0] for size in (h, w)]
    reach = -(-(side - 1) // (2 * stride))
    rows, columns = -(-h // stride), -(-w // stride)
    around = (0, 0), (reach, reach), (reach, reach), (0, 0)
    padded = jnp.pad(slopes, around)
    phases = []
    for a, b in np.ndindex(stride, stride):
        # Place `stride * u + a` of the input is place `o` of the output with
        # stride * o + i - before = stride * u + a, for each row i of the kernel where o is whole.
        total = jnp.zeros((n, rows, columns, c), slopes.dtype)
        for i, j in np.ndindex(side, side):
            (down, odd_row), (right, odd_column) = (
                divmod(phase + zeros - at, stride)
                for phase, zeros, at in zip((a, b), before, (i, j), strict=True)
            )
            if not odd_row and not odd_column:
                part = padded[:, reach + down : reach + down + rows]
                part = part[:, :, reach + right : reach + right + columns]
                total += part * kernel[i, j][None, None, None]
        phases.append(total)
    x = jnp.stack(phases, 3).reshape(n, rows, columns, stride, stride, c)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows * stride, columns * stride, c)
    return x[:, :h, :w], jnp.zeros_like(kernel)


_shifted.defvjp(_shifted_forward, _shifted_backward)


# ------------------------------------------------------------------------------------ mixing


CHANNELS = {4: 32, 8: 48, 16: 64, 32: 96}  # of the taps once mixed


@functools.cache
def mixing() -> tuple[dict[int, Matrix], dict[int, Matrix]]:
    """Draws the frozen random 1x1 convolutions that mix channels, and those that mix scales.

    They are the same in every run. Without them a discriminator finds the few channels that tell
    real from generated clips at once, and sees no others.

    Returns:
      By downsampling, `[channels of the network, mixed]`, and `[mixed of the next, mixed]`.

    Reference: Sauer et al., "Projected GANs converge faster", 2021.
    """

    def draw(inside, outside):
        return (numbers((inside, outside)) / np.sqrt(inside)).astype(np.float32)

    # RandomState's numbers are promised never to change.
    numbers = np.random.RandomState(0).standard_normal
    channels = {tap: draw(BLOCKS[last].features, CHANNELS[tap]) for tap, last in TAPS.items()}
    scales = {tap: draw(CHANNELS[2 * tap], CHANNELS[tap]) for tap in TAPS if 2 * tap in TAPS}
    return channels, scales


def mixed(weights: PyTree, images: Maps, taps: tuple[int, ...]) -> dict[int, Maps]:
    """Returns features of images, standardised and mixed across channels and scales.

    Args:
      weights: From `efficientnet_weights.load`.
      images: `[N, H, W, 3]` in [-1, 1].
      taps: Downsamplings, of 4, 8, 16, 32.

    Returns:
      By downsampling, as `features`, of 32, 48, 64, 96 channels of about unit variance.
    """
    found, (channels, scales) = features(weights, images, taps), mixing()
    result = {}
    for tap in sorted(taps, reverse=True):
        known = weights[f"tap{tap}"]
        x = found[tap] - known["mean"].astype(images.dtype)[None, None, None]
        x = x @ (channels[tap] / known["deviation"][:, None]).astype(x.dtype)
        if 2 * tap in result:
            wide = result[2 * tap] @ scales[tap].astype(x.dtype)
            x = (x + jax.image.resize(wide, x.shape, "bilinear")) * jnp.sqrt(0.5).astype(x.dtype)
        result[tap] = x
    return result
