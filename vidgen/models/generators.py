"""Generators: `(content, motion, label) -> video`, each frame a function of the noise around it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidgen.errors import ConfigError
from vidgen.models import layers


class ResidualGenerator(nn.Module):
    """Makes video from one content vector and a stream of motion noise.

    Motion noise arrives at knots every `stride` frames and passes through temporal convolutions
    without padding; between knots the motion features are interpolated linearly. Content and motion
    make a 4x4 map for each frame, which 2D residual blocks enlarge; content alone modulates them,
    so that what a clip looks like stays while its layout moves. The last features are interpolated
    to full resolution, where a small network of pointwise layers lets each pixel mix the colours of
    a palette that content chooses: an edge is where a smooth feature crosses a threshold, so it is
    sharp wherever it lies, and an area keeps its colour wherever it moves. (Unfolding patches of
    pixels from channels instead made grids of noise that did not go in the trials;
    docs/benchmarks.md.)

    Nothing depends on the length of the window or on its place in it, so windows agree where they
    overlap.

    Reference: Skorokhodov et al., "StyleGAN-V", 2022, for motion noise at a coarse rate; Brooks et
      al., "Generating long videos of dynamic scenes", 2022, for temporal convolution over noise;
      Tulyakov et al., "MoCoGAN", 2018, for content and motion; Chen et al., "Learning continuous
      image representation with local implicit image function", 2021, for pointwise layers over
      interpolated features; Perez et al., "FiLM", 2018, for modulation.

    Attributes:
      size: Side of the frames in pixels; 4 times a power of two.
      classes: Number of classes; 0 for none.
      widths: Channels of each level, 4x4 first, each twice as large as the one before.
      blocks: Residual blocks of each level.
      head: Channels of the pointwise layers at full resolution.
      head_layers: How many, before the colours.
      palette: Colours that a clip mixes its pixels from.
      content: Channels of the content noise.
      motion: Channels of the motion noise.
      style: Channels of the content and motion features.
      stride: Frames between knots of motion noise.
      motion_layers: Temporal convolutions (3 taps) over the knots.
      dtype: Type of the computation; parameters are float32.
    """

    size: int
    classes: int = 0
    widths: tuple[int, ...] = (128, 96, 64)
    blocks: int = 1
    head: int = 32
    head_layers: int = 1
    palette: int = 16
    content: int = 64
    motion: int = 32
    style: int = 128
    stride: int = 8
    motion_layers: int = 1
    dtype: str = "float32"

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        last = 4 * 2 ** (len(self.widths) - 1)
        if self.size % last:
            raise ConfigError(
                f"config.generator.widths has {len(self.widths)} levels, up to {last}x{last}, "
                f"and config.data.size is {self.size}",
                f"the size must be a multiple of {last}",
            )
        if not self.stride:
            raise ConfigError("config.generator.stride is 0", "at least 1")

    def knots(self, frames: int) -> int:
        """Returns how many steps of motion noise a window of `frames` needs, at any phase."""
        return -(-(frames - 1 + self.stride - 1) // self.stride) + 1 + 2 * self.motion_layers

    @property
    def context(self) -> int:
        """How many steps of motion noise lie before the knot that a window begins at."""
        return self.motion_layers

    @nn.compact
    def __call__(
        self,
        content: jax.Array,
        motion: jax.Array,
        phase: jax.Array,
        label: jax.Array | None = None,
        *,
        frames: int,
    ) -> jax.Array:
        """Makes a window of video.

        Args:
          content: Content noise `[B, content]`.
          motion: Motion noise `[B, knots(frames), motion]`.
          phase: How many frames after a knot each window begins; int32 `[B]` in [0, stride).
          label: Classes, int32 `[B]`, where there are classes.
          frames: Length of the window, T.

        Returns:
          Video float32 in [-1, 1], `[B, T, size, size, 3]`.
        """
        act = layers.leaky_relu
        dense = lambda width, name: layers.dense(width, self.dtype, name)  # noqa: E731
        content = content.astype(self.dtype)
        if self.classes:
            embedding = layers.embed(self.classes, self.content, self.dtype, "class")(label)
            content = jnp.concatenate([content, embedding], -1)
        content = act(dense(self.style, "content0")(content))
        content = act(dense(self.style, "content1")(content))

        move = motion.astype(self.dtype)
        for layer in range(self.motion_layers):
            taps = jnp.concatenate([move[:, :-2], move[:, 1:-1], move[:, 2:]], -1)
            shift = dense(self.style, f"motion_content{layer}")(content)
            move = act(dense(self.style, f"motion{layer}")(taps) + shift[:, None])
        # Knots to frames: straight lines between knots, wherever the window begins.
        time = phase[:, None] + jnp.arange(frames)[None]
        left, part = time // self.stride, (time % self.stride) / self.stride
        # A window that begins on a knot never reaches the last one.
        right = jnp.minimum(left + 1, move.shape[1] - 1)
        part = part[:, :, None].astype(self.dtype)
        at = lambda knot: jnp.take_along_axis(move, knot[:, :, None], 1)  # noqa: E731
        move = at(left) * (1 - part) + at(right) * part

        b = content.shape[0]
        every = jnp.broadcast_to(content[:, None], (b, frames, self.style))
        layout = jnp.concatenate([every, move], -1).reshape(b * frames, -1)
        layout = act(dense(self.style, "layout")(layout))
        look = every.reshape(b * frames, -1)

        x = dense(16 * self.widths[0], "first")(layout).reshape(-1, 4, 4, self.widths[0])
        for level, width in enumerate(self.widths):
            if level:
                x = layers.resize(x, 2 * x.shape[1])
            for block in range(self.blocks):
                x = layers.Residual(width, self.dtype, name=f"level{level}_{block}")(x, look)
        x = dense(self.head, "head")(act(x))
        x = layers.resize(x, self.size)
        for layer in range(self.head_layers):
            x = act(layers.Film(self.dtype, name=f"head_film{layer}")(x, look))
            x = dense(self.head, f"head{layer}")(x)
        # Each pixel mixes the colours of the clip's palette: an area that keeps its colour while it
        # moves is one entry taken whole.
        mix = nn.softmax(layers.dense(self.palette, self.dtype, "mix", gain=1.0)(act(x)))
        colours = layers.dense(3 * self.palette, self.dtype, "palette", gain=1.0)(content)
        colours = jnp.tanh(colours).reshape(b, 1, self.palette, 3)
        pixels = mix.reshape(b, -1, self.palette)
        x = jnp.matmul(pixels, colours[:, 0]).astype(jnp.float32)
        return x.reshape(b, frames, self.size, self.size, 3)
