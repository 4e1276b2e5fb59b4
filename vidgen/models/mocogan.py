"""MoCoGAN's networks: a recurrent generator, an image and a video discriminator.

The layers, their sizes and the initial values are those of the published code for 64x64 frames; for
other sizes the first levels are left out or repeated.

Reference: Tulyakov, Liu, Yang and Kautz, "MoCoGAN: decomposing motion and content for video
  generation", 2018.
"""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, Key

from vidgen import keys
from vidgen.errors import ConfigError
from vidgen.models import labels, layers, protocol
from vidgen.models.convolutions import (
    Convolution,
    TransposedConvolution,
    Whole,
    levels_of,
)
from vidgen.models.normalization import BatchNorm


class MocoganGenerator(protocol.GeneratorDefaults, nn.Module):
    """Makes each frame from content, category and the state of a GRU over motion noise.

    A recurrence has no random access: what lies before a frame is run through, in constant memory,
    but only the recurrence, no images. The state of frame 0 is made of noise, as any other.

    Attributes:
      size: Side of the frames in pixels: 8, 16, 32, ...
      classes: Number of categories; 0 for none.
      content: Channels of the content code.
      motion: Channels of the motion noise and of the state.
      features: Channels of the last but one layer.
      norm_clips: Clips that share statistics in training; 0: the whole batch.
      dtype: Type of the computation; parameters are float32.
    """

    size: int
    classes: int = 0
    content: int = 50
    motion: int = 10
    features: int = 64
    norm_clips: int = 0
    dtype: str = "float32"
    context = 1  # the noise before the first frame is the state that the recurrence starts from
    recurrent = True

    @property
    def whole_batch(self) -> bool:
        """Whether a training step normalises by statistics of the whole batch."""
        return not self.norm_clips

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        if not isinstance(self.size, int) or self.size < 8 or self.size & (self.size - 1):
            raise ConfigError(f"config.data.size is {self.size}", "8, 16, 32, 64, ... for mocogan")
        layers.check_sizes(self, "generator", "motion", "features")

    def keyframes(self, frames: int) -> int:
        """Returns how many keyframes of motion noise a window needs."""
        return frames + 1

    def setup(self):
        """Makes the layers that begin, advance and render share."""
        levels = levels_of(self.size)
        widths = [self.features * 2 ** (levels - 1 - n) for n in range(levels)]
        spread = _uniform(self.motion)
        self.seen = nn.Dense(3 * self.motion, kernel_init=spread, bias_init=spread)
        self.kept = nn.Dense(3 * self.motion, kernel_init=spread, bias_init=spread)
        codes = self.content + self.classes + self.motion
        self.first = self.param("first", _uniform(16 * widths[0]), (codes, 4, 4, widths[0]))
        self.norms = [BatchNorm(dtype=self.dtype) for _ in widths]
        self.rises = [
            TransposedConvolution(width, self.dtype, kernel_init=_uniform(16 * width))
            for width in [*widths[1:], 3]
        ]

    def begin(
        self,
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch context motion"],
        label: protocol.Label | None,
    ) -> Float[Array, "batch motion"]:
        """Makes the state before frame 0, `[B, M]`, of the noise before it, `[B, 1, M]`."""
        del content, label
        return motion[:, 0]

    def advance(
        self,
        carry: Float[Array, "batch motion"],
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch time motion"],
        label: protocol.Label | None,
    ) -> tuple[Float[Array, "batch motion"], Float[Array, "batch time motion"]]:
        """Runs the recurrence over `[B, T, M]`; returns the last state and all, `[B, T, M]`."""
        del content, label
        if self.is_initializing():
            self.kept(carry)
        kept = self.kept.variables["params"]
        return _recurrence(kept["kernel"], kept["bias"], carry, self.seen(motion))

    def render(
        self,
        states: Float[Array, "batch time motion"],
        content: Float[Array, "batch content"],
        label: protocol.Label | None,
        parts: int = 1,
    ) -> Float32[Array, "batch time height width 3"]:
        """Makes frames of states `[B, T, M]`: float32 in [-1, 1], `[B, T, size, size, 3]`.

        In training, each of `parts` groups of clips is normalised by its own statistics.
        """
        b, t, _ = states.shape
        if self.classes:
            content = jnp.concatenate([content, labels.weights(label, self.classes)], -1)
        codes = jnp.concatenate([jnp.repeat(content[:, None], t, 1), states], -1)
        codes = codes.reshape(b * t, -1).astype(self.dtype)
        first = self.first.astype(self.dtype)
        x = (codes @ first.reshape(len(first), -1)).reshape(-1, *first.shape[1:])
        for norm, rise in zip(self.norms, self.rises, strict=True):
            x = rise(nn.relu(norm(x, parts)))
        return jnp.tanh(x.astype(jnp.float32)).reshape(b, t, self.size, self.size, 3)

    def __call__(
        self,
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch keyframe motion"],
        cycle: Float[Array, "batch cycle"],
        start: Int[Array, " batch"],
        label: protocol.Label | None = None,
        pick: Int[Array, "batch time"] | None = None,
        *,
        frames: int,
        parts: int = 1,
    ) -> Float32[Array, "batch time height width 3"]:
        """Makes the first frames of videos; arguments as for `ResidualGenerator` and `render`.

        `motion` begins with the noise before frame 0; `start` is not used.
        """
        del cycle, start
        carry = self.begin(content, motion[:, :1], label)
        _, states = self.advance(carry, content, motion[:, 1 : frames + 1], label)
        if pick is not None:
            states = jnp.take_along_axis(states, pick[:, :, None], 1)
        return self.render(states, content, label, parts)


def _scan(
    kernel: Float[Array, "motion gate"],
    bias: Float[Array, " gate"],
    carry: Float[Array, "batch motion"],
    seen: Float[Array, "batch time gate"],
) -> tuple[Float[Array, "batch motion"], Float[Array, "batch time motion"]]:
    def one(carry, seen):
        (gates, new), (of_gates, of_new) = (
            jnp.split(x, [2 * carry.shape[-1]], -1) for x in (seen, carry @ kernel + bias[None])
        )
        reset, update = jnp.split(nn.sigmoid(gates + of_gates), 2, -1)
        carry = (1 - update) * jnp.tanh(new + reset * of_new) + update * carry
        return carry, carry

    carry, states = jax.lax.scan(one, carry, seen.swapaxes(0, 1))
    return carry, states.swapaxes(0, 1)


@jax.custom_vjp
def _recurrence(
    kernel: Float[Array, "motion gate"],
    bias: Float[Array, " gate"],
    carry: Float[Array, "batch motion"],
    seen: Float[Array, "batch time gate"],
) -> tuple[Float[Array, "batch motion"], Float[Array, "batch time motion"]]:
    """Runs a GRU over the gates' shares of the inputs, `[B, T, 3 M]`; the last state and all.

    It is a loop, for its backward pass compiles for minutes when it is unrolled. The backward pass
    runs the loop again instead of keeping anything of it: a training step passes the backward pass
    from one mapped function to the next, and that of a loop cannot be passed so on a mesh.
    """
    return _scan(kernel, bias, carry, seen)


_recurrence.defvjp(
    lambda *given: (_scan(*given), given), lambda given, slopes: jax.vjp(_scan, *given)[1](slopes)
)


class MocoganDiscriminator(protocol.DiscriminatorDefaults, nn.Module):
    """Judges frames, or whole clips and their categories.

    Attributes:
      size: Side of the frames in pixels.
      classes: Number of categories; 0 for none.
      features: Channels of the first layer.
      image: How frames are judged: "patch" by patch, or "whole".
      noise: Deviation of the noise on the input of each convolution but the last.
      norm_clips: Clips that share statistics; 0: the whole batch.
      dtype: Type of the computation; parameters are float32.
    """

    size: int
    classes: int = 0
    features: int = 64
    image: str = "patch"
    noise: float = 0.0
    norm_clips: int = 0
    dtype: str = "float32"

    @property
    def whole_batch(self) -> bool:
        """Whether a training step normalises by statistics of the whole batch."""
        return not self.norm_clips

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        layers.check_sizes(self, "discriminator", "features")
        if self.image not in ("patch", "whole"):
            raise ConfigError(f"config.discriminator.image is {self.image!r}", "patch or whole")
        if self.size < 16 and self.image == "patch":
            raise ConfigError(
                f"config.discriminator.image is 'patch' and config.data.size is {self.size}",
                "at least 16 for patches, or image=whole",
            )
        if not self.noise >= 0:
            raise ConfigError(f"config.discriminator.noise is {self.noise}", "at least 0")

    @nn.compact
    def __call__(
        self,
        video: Float[Array, "batch time height width channel"],
        clip_keys: Key[Array, " batch"],
        parts: int = 1,
    ) -> (
        Float32[Array, "batch patch"]
        | tuple[Float32[Array, " batch"], Float32[Array, "batch {self.classes}"]]
    ):
        """Judges videos, or frames where T is 1.

        Args:
          video: In [-1, 1], `[B, T, H, W, C]`.
          clip_keys: A key for each, for its noise, `[B]`.
          parts: Groups of clips that share statistics.

        Returns:
          For frames logits float32 `[B, P]`, of each patch. For clips logits `[B]` and those of
          their categories, `[B, classes]`.
        """
        x = video.astype(self.dtype)
        clip = video.shape[1] > 1
        steps = 4 if clip else 1
        patch = not clip and self.image == "patch"
        widths = [self.features * 2**n for n in range(3 if patch else levels_of(self.size))]
        shapes = [x.shape[1:]]
        for width in widths[: None if patch else -1]:
            t, side, *_ = shapes[-1]
            shapes.append((t - steps + 1, side // 2, side // 2, width))
        noise = iter(self._noise(clip_keys, shapes))
        for n, width in enumerate(widths):
            init = _uniform(steps * 16 * x.shape[-1])
            x = Convolution(width, steps, self.dtype, kernel_init=init)(x + next(noise))
            if n:
                x = BatchNorm(running=False, dtype=self.dtype)(x, parts)
            x = layers.leaky_relu(x)
        if patch:
            x = x + next(noise)
            x = Convolution(1, 1, self.dtype, kernel_init=_uniform(16 * x.shape[-1]))(x)
            return x.astype(jnp.float32).reshape(len(x), -1)
        fan = x[0].size
        x = Whole(1 + clip * self.classes, self.dtype, kernel_init=_uniform(fan))(x)
        x = x.astype(jnp.float32)
        return (x[:, 0], x[:, 1:]) if clip else x

    def _noise(
        self, clip_keys: Key[Array, " batch"], shapes: list[tuple[int, ...]]
    ) -> list[Float[Array, "batch ..."] | float]:
        """Draws the noise of all layers' inputs."""
        if not self.noise:
            return [0.0] * len(shapes)
        firsts = itertools.accumulate((math.prod(shape) for shape in shapes), initial=0)
        drawn = [keys.white(clip_keys, *given) for given in zip(shapes, firsts, strict=False)]
        return [(self.noise * noise).astype(self.dtype) for noise in drawn]


def _uniform(fan: int) -> nn.initializers.Initializer:
    """Draws uniformly within one over the root of a layer's inputs, as PyTorch does."""
    bound = fan**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )
