"""DCGAN for images and VGAN for clips of a fixed length: plain convolutional networks.

Reference: Radford, Metz and Chintala, "Unsupervised representation learning with deep convolutional
  generative adversarial networks" (DCGAN), 2016; Vondrick, Pirsiavash and Torralba, "Generating
  videos with scene dynamics" (VGAN), 2016, for clips by 3D convolutions.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

from vidgen.errors import ConfigError
from vidgen.models import labels, layers, protocol
from vidgen.models.convolutions import (
    Convolution,
    TransposedConvolution,
    Whole,
    levels_of,
)
from vidgen.models.normalization import BatchNorm


class DcganGenerator(protocol.GeneratorDefaults, nn.Module):
    """Makes whole clips from one latent vector: a dense layer, then layers that double them.

    Space doubles from 4x4 up to the size. Time doubles in the last layers, as often as the length
    can be halved; a clip of one frame is an image. Other lengths than that of training, or a part
    of a longer video, it cannot make.

    Attributes:
      size: Side of the frames in pixels: 8, 16, 32, ...
      classes: Number of classes; 0 for none.
      length: Frames of its clips.
      content: Channels of the latent vector.
      features: Channels of the last but one layer; each before it has twice as many.
      rise: How a layer doubles: "transposed" convolutions, or "resize": repeated pixels and 3x3
        convolutions, which leave no checkerboards (Odena et al., "Deconvolution and checkerboard
        artifacts", 2016).
      norm: Batch normalisation after each layer but the last.
      norm_clips: Clips that share statistics in training; 0: the whole batch.
      dtype: Type of the computation; parameters are float32.
    """

    size: int
    classes: int = 0
    length: int = 1
    content: int = 100
    features: int = 64
    rise: str = "transposed"
    norm: bool = True
    norm_clips: int = 0
    dtype: str = "float32"
    motion = 1

    @property
    def whole_batch(self) -> bool:
        """Whether a training step normalises by statistics of the whole batch."""
        return self.norm and not self.norm_clips

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        _check(self, "generator")
        if self.rise not in ("transposed", "resize"):
            raise ConfigError(f"config.generator.rise is {self.rise!r}", "transposed or resize")

    @property
    def limit(self) -> int:
        """How many frames its videos have at most."""
        return self.length

    def keyframes(self, frames: int) -> int:
        """Returns how many keyframes of motion noise a window has; they are not used."""
        return frames

    @nn.compact
    def __call__(
        self,
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch keyframe motion"] | None,
        cycle: Float[Array, "batch cycle"] | None,
        start: Int[Array, " batch"] | None,
        label: protocol.Label | None = None,
        pick: Int[Array, "batch time"] | None = None,
        *,
        frames: int,
        parts: int = 1,
    ) -> Float32[Array, "batch time height width 3"]:
        """Makes the first frames of clips; arguments as for `ResidualGenerator`.

        In training, each of `parts` groups of clips is normalised by its own statistics.

        Returns:
          Video float32 in [-1, 1], `[B, frames, size, size, 3]`.
        """
        del motion, cycle, start
        levels, doubled = levels_of(self.size), _halvings(self.length, self.size)
        if self.classes:
            content = jnp.concatenate([content, labels.weights(label, self.classes)], -1)
        t, width = self.length >> doubled, self.features << (levels - 1)
        init = nn.initializers.normal(0.02)
        x = nn.Dense(t * 16 * width, use_bias=False, dtype=self.dtype, kernel_init=init)(content)
        x = x.reshape(len(content), t, 4, 4, width)
        for level in range(levels):
            x = nn.relu(_normed(self, x, parts, f"norm{level}"))
            last = level == levels - 1
            x = self._double(x, 3 if last else x.shape[-1] // 2, level >= levels - doubled)
        x = jnp.tanh(x.astype(jnp.float32))
        if pick is not None:
            return jnp.take_along_axis(x, pick[:, :, None, None, None], 1)
        return x[:, :frames]

    def _double(
        self, x: Float[Array, "batch time height width channel"], features: int, clip: bool
    ) -> Float[Array, "batch time*(1+{clip}) height*2 width*2 {features}"]:
        """Doubles the sides of `[B, T, H, W, C]`, and time where `clip`."""
        b, t, h, w, c = x.shape
        if self.rise == "transposed":
            layer = TransposedConvolution(features, self.dtype, clip=clip)
            if clip:
                return layer(x)
            return layer(x.reshape(b * t, h, w, c)).reshape(b, t, 2 * h, 2 * w, -1)
        if clip:
            x = jnp.repeat(x, 2, 1)
            x = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
            x = jnp.concatenate([x[:, i : i + 2 * t] for i in range(3)], -1)
        x = jnp.repeat(jnp.repeat(x, 2, 2), 2, 3)
        images = layers.Conv3x3(features, self.dtype, gain=1.0)(x.reshape(-1, *x.shape[2:]))
        return images.reshape(b, -1, 2 * h, 2 * w, features)


class DcganDiscriminator(protocol.DiscriminatorDefaults, nn.Module):
    """Judges images or clips by strided convolutions down to 4x4, mirroring the generator.

    Classes are laid beside the pixels, as maps of ones and zeros (Mirza and Osindero, "Conditional
    generative adversarial nets", 2014).

    Attributes:
      size: Side of the frames in pixels.
      classes: Number of classes; 0 for none.
      length: Frames of the clips.
      features: Channels of the first layer; each after it has twice as many.
      norm: Batch normalisation after each layer but the first.
      norm_clips: Clips that share statistics; 0: the whole batch.
      dtype: Type of the computation; parameters are float32.
    """

    size: int
    classes: int = 0
    length: int = 1
    features: int = 64
    norm: bool = True
    norm_clips: int = 0
    dtype: str = "float32"

    @property
    def whole_batch(self) -> bool:
        """Whether a training step normalises by statistics of the whole batch."""
        return self.norm and not self.norm_clips

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        _check(self, "discriminator")

    @nn.compact
    def __call__(
        self,
        video: Float[Array, "batch time height width channel"],
        label: Int[Array, " batch"] | None = None,
        parts: int = 1,
    ) -> Float32[Array, " batch"]:
        """Judges videos in [-1, 1], `[B, T, H, W, C]`; returns logits float32 `[B]`.

        Each of `parts` groups of clips is normalised by its own statistics.
        """
        x = video
        if self.classes:
            maps = jax.nn.one_hot(label, self.classes)[:, None, None, None]
            x = jnp.concatenate([x, jnp.broadcast_to(maps, (*x.shape[:4], self.classes))], -1)
        for level in range(levels_of(self.size)):
            clip = level < _halvings(self.length, self.size)
            layer = Convolution(self.features << level, 4 if clip else 1, self.dtype, halve=clip)
            x = layer(x)
            if level:
                x = _normed(self, x, parts, f"norm{level}", running=False)
            x = layers.leaky_relu(x)
        return Whole(1, self.dtype)(x).astype(jnp.float32)[:, 0]


def _normed(
    module: DcganGenerator | DcganDiscriminator,
    x: Float[Array, "batch time height width channel"],
    parts: int,
    name: str,
    running: bool = True,
) -> Float[Array, "batch time height width channel"]:
    """Normalises by batch statistics, or where there is no normalisation adds a bias instead."""
    if module.norm:
        return BatchNorm(running=running, dtype=module.dtype, name=name)(x, parts)
    return x + module.param(name, nn.initializers.zeros, x.shape[-1:])[None, None, None, None]


def _halvings(length: int, size: int) -> int:
    """Returns how often time doubles: as often as the length halves, at most as space does."""
    return min((length & -length).bit_length() - 1, levels_of(size))


def _check(module: DcganGenerator | DcganDiscriminator, role: str) -> None:
    """Raises ConfigError if the attributes that both networks have do not fit."""
    if not isinstance(module.size, int) or module.size < 8 or module.size & (module.size - 1):
        raise ConfigError(f"config.data.size is {module.size}", "8, 16, 32, 64, ... for dcgan")
    if not module.features:
        raise ConfigError(f"config.{role}.features is 0", "at least 1")
