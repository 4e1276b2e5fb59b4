"""Generators: `(noise, start, label) -> video`, each frame a function of its time and the noise."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidgen.errors import ConfigError
from vidgen.models import layers


class ResidualGenerator(nn.Module):
    """Makes video from one content vector and a stream of motion noise.

    Motion noise arrives at knots every `stride` frames and passes through temporal convolutions
    without padding; between knots the motion features are interpolated linearly. What repeats
    (steps, waves), noise cannot keep in time: cycles turn at a rate that content chooses, from a
    phase that is noise. Content, motion and cycles make a 4x4 map for each frame, which 2D residual
    blocks enlarge; content alone modulates them,
    so that what a clip looks like stays while its layout moves. The last features are interpolated
    to full resolution, where a small network of pointwise layers lets each pixel mix the colours of
    a palette that content chooses: an edge is where a smooth feature crosses a threshold, so it is
    sharp wherever it lies, and an area keeps its colour wherever it moves. (Unfolding patches of
    pixels from channels instead made grids of noise that did not go in the trials;
    docs/benchmarks.md.)

    Nothing depends on the length of the window or on its place in it, so windows agree where they
    overlap.

    Reference: Skorokhodov et al., "StyleGAN-V", 2022, for motion noise at a coarse rate and waves
      of learnt period and phase; Brooks et al., "Generating long videos of dynamic scenes", 2022,
      for temporal convolution over noise; Tulyakov et al., "MoCoGAN", 2018, for content and motion;
      Chen et al., "Learning continuous image representation with local implicit image function",
      2021, for pointwise layers over interpolated features; Perez et al., "FiLM", 2018.

    Attributes:
      size: Side of the frames in pixels; 4 times a power of two.
      classes: Number of classes; 0 for none.
      widths: Channels of each level, 4x4 first, each twice as large as the one before.
      blocks: Residual blocks of each level.
      head: Channels of the pointwise layers at full resolution.
      head_layers: How many, before the colours.
      palette: Colours that a clip mixes its pixels from; 0 for colours straight from the features.
      output: Without a palette: "tanh" bounds the colours; "leaky" adds a slope of a twentieth, by
        which what was saturated finds back; "linear" leaves bounds to the discriminator, for clips
        whose background is black or white.
      content: Channels of the content noise.
      motion: Channels of the motion noise.
      style: Channels of the content and motion features.
      stride: Frames between knots of motion noise.
      motion_layers: Temporal convolutions (3 taps) over the knots.
      periods: Frames of a turn of each cycle, at least 4; content makes it up to twice as fast or
        as slow. None for clips that do not repeat themselves.
      remat: Compute the features of residual blocks and at full resolution again on the way back
        instead of keeping them.
      dtype: Type of the computation; parameters are float32.
    """

    size: int
    classes: int = 0
    widths: tuple[int, ...] = (128, 96, 64)
    blocks: int = 1
    head: int = 32
    head_layers: int = 1
    palette: int = 16
    output: str = "tanh"
    content: int = 64
    motion: int = 32
    style: int = 128
    stride: int = 8
    motion_layers: int = 1
    periods: tuple[int, ...] = ()
    remat: bool = False
    dtype: str = "float32"
    recurrent = False

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        last = 4 * 2 ** (len(self.widths) - 1)
        if self.size % last:
            raise ConfigError(
                f"config.generator.widths has {len(self.widths)} levels, up to {last}x{last}, "
                f"and config.data.size is {self.size}",
                f"the size must be a multiple of {last}",
            )
        layers.check_output(self.output)
        if not self.stride:
            raise ConfigError("config.generator.stride is 0", "at least 1")
        if self.periods and min(self.periods) < 4:
            raise ConfigError(
                f"config.generator.periods has {min(self.periods)}",
                "at least 4 frames: at twice the rate, 2 for a turn",
            )

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
        cycle: jax.Array,
        start: jax.Array,
        label: jax.Array | None = None,
        pick: jax.Array | None = None,
        *,
        frames: int,
    ) -> jax.Array:
        """Makes a window of video.

        Args:
          content: Content noise `[B, content]`.
          motion: Motion noise `[B, knots(frames), motion]`, from `context` steps before the last
            knot that is not after the window's first frame.
          cycle: Turn of each cycle in frame 0, uniform noise in [0, 1), `[B, len(periods)]`.
          start: First frame of each window, int32 `[B]`, at least 0.
          label: Classes, int32 `[B]`, where there are classes.
          pick: Frames of the window to make, int32 `[B, P]` in [0, frames); all T by default.
          frames: Length of the window, T.

        Returns:
          Video float32 `[B, T or P, size, size, 3]`; in [-1, 1], or about there unless "tanh".
        """
        act = layers.leaky_relu
        residual = nn.remat(layers.Residual) if self.remat else layers.Residual
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
        within = jnp.arange(frames)[None] if pick is None else pick
        frames = within.shape[1]
        move = layers.between_knots(move, start, within, self.stride)

        b = content.shape[0]
        every = jnp.broadcast_to(content[:, None], (b, frames, self.style))
        layout = [every, move]
        if self.periods:
            bend = jnp.tanh(layers.dense(len(self.periods), "float32", "tempo", gain=0.01)(content))
            rate = 2**bend / jnp.asarray(self.periods, jnp.float32)[None]
            turn = 2 * jnp.pi * _turns(cycle, rate, start, within)
            layout += [jnp.sin(turn).astype(self.dtype), jnp.cos(turn).astype(self.dtype)]
        layout = jnp.concatenate(layout, -1).reshape(b * frames, -1)
        layout = act(dense(self.style, "layout")(layout))
        look = every.reshape(b * frames, -1)

        x = dense(16 * self.widths[0], "first")(layout).reshape(-1, 4, 4, self.widths[0])
        for level, width in enumerate(self.widths):
            if level:  # narrower first: a quarter of the pixels to narrow, and less to enlarge
                x = layers.dense(width, self.dtype, f"narrow{level}", gain=1.0)(x)
                x = layers.resize(x, 2 * x.shape[1])
            for block in range(self.blocks):
                x = residual(width, self.dtype, name=f"level{level}_{block}")(x, look)
        x = dense(self.head, "head")(act(x))
        pixels = nn.remat(ResidualGenerator._pixels) if self.remat else ResidualGenerator._pixels
        return pixels(self, x, look, content).reshape(b, frames, self.size, self.size, 3)

    def _pixels(self, x: jax.Array, look: jax.Array, content: jax.Array) -> jax.Array:
        """Makes the pixels of frames from their last features; `[N, H, W, head]` to float32."""
        act = layers.leaky_relu
        x = layers.resize(x, self.size)
        for layer in range(self.head_layers):
            x = act(layers.Film(self.dtype, name=f"head_film{layer}")(x, look))
            x = layers.dense(self.head, self.dtype, f"head{layer}")(x)
        if not self.palette:
            x = layers.dense(3, self.dtype, "colours", gain=0.1)(act(x)).astype(jnp.float32)
            return layers.OUTPUTS[self.output](x)
        return layers.painted(act(x), content, self.palette, self.dtype)


def _turns(cycle: jax.Array, rate: jax.Array, start: jax.Array, within: jax.Array) -> jax.Array:
    """Returns where cycles stand in each frame of a window, in turns: `cycle + rate * time` mod 1.

    In whole numbers of 2^-32 turns, which wrap: the digits of a float would run out in long videos.
    The gradient by the rate is that of a window that begins at frame 0, wherever it begins: by the
    whole time it would grow without bound, and the turn that the clip starts with is noise anyway.

    Args:
      cycle: Turns in frame 0, `[B, K]`, in [0, 1).
      rate: Turns for a frame, `[B, K]`, in [0, 1/2].
      start: First frame, int32 `[B]`.
      within: Frames of the window, int32 `[B or 1, T]`.

    Returns:
      Float32 in [0, 1), `[B, T, K]`.
    """
    whole = lambda x: jax.lax.stop_gradient(x * 2.0**32).astype(jnp.uint32)  # noqa: E731
    within = within[:, :, None]
    time = (start[:, None, None] + within).astype(jnp.uint32)
    turns = whole(cycle)[:, None] + whole(rate)[:, None] * time
    # 24 bits are what a float32 holds exactly.
    exact = (turns >> 8).astype(jnp.float32) * 2.0**-24
    return exact + (rate - jax.lax.stop_gradient(rate))[:, None] * within
