"""A codec: frames as small maps of codes, and back.

Each frame is coded by itself, so frames of a window, a stream and a batch come out alike.

Reference: van den Oord et al., "Neural discrete representation learning" (VQ-VAE), 2017; Mentzer et
  al., "Finite scalar quantization: VQ-VAE made simple", 2023.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32, Shaped

from vidgen.errors import ConfigError
from vidgen.frame_size import Size, height_width
from vidgen.models import layers


class Codec(nn.Module):
    """Maps frames to maps of codes, and codes to frames; finite scalar quantization.

    Each place has one number for each of `levels`, between -1 and 1, that is rounded to so many
    values; the code of the place is all of them together. There is no codebook to learn, and none
    of its codes can die.

    The encoder is small, for it runs on every frame of every clip, also in the second phase. The
    decoder reaches the last resolution by interpolated features and a small pointwise network, with
    details of squares of 2x2 pixels beside them: pixels of larger patches, unfolded from channels,
    kept grids (docs/benchmarks.md).

    Attributes:
      size: Of the frames in pixels: the side of squares, or `(height, width)`.
      patch: Side in pixels of the patches that the encoder's first layer takes.
      encoder_widths: Channels of its levels, finest first; each has half the side of the one
        before, and the last is the map of codes.
      widths: Channels of the decoder's levels, finest first, whose side is half that of frames.
      head: Channels of its last layers, at the resolution of frames.
      blocks: Residual blocks of each level.
      levels: Values of each number of a place.
      dtype: Type of the computation; parameters and latents are float32.
    """

    size: Size
    patch: int
    encoder_widths: tuple[int, ...]
    widths: tuple[int, ...]
    head: int
    blocks: int
    levels: tuple[int, ...]
    dtype: str

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        layers.check_sizes(self, "generator", "patch", "head")
        side, least = self._side, 2 ** len(self.widths)
        if side != least:
            raise ConfigError(
                f"config.generator.widths is {self.widths}, so that a place of the decoder's map "
                f"has {least} pixels a side, and the encoder's {side}",
                "as many: patch, doubled at each of encoder_widths but one",
            )
        if any(length % side for length in height_width(self.size)):
            raise ConfigError(
                f"config.data.size is {self.size}",
                f"{'a multiple' if isinstance(self.size, int) else 'multiples'} of {side}: "
                "config.generator.patch, doubled at each of encoder_widths but one",
            )
        if min(self.levels) < 2:
            raise ConfigError(f"config.generator.levels is {self.levels}", "each at least 2")

    @property
    def _side(self) -> int:
        """Pixels of a side of a place of the map of codes."""
        return self.patch * 2 ** (len(self.encoder_widths) - 1)

    @property
    def map(self) -> tuple[int, int]:
        """Rows and columns of the map of codes."""
        height, width = height_width(self.size)
        return height // self._side, width // self._side

    @property
    def codes(self) -> int:
        """How many codes there are."""
        return math.prod(self.levels)

    def setup(self):
        """Makes encoder and decoder."""
        numbers = len(self.levels)
        self.encoder = Encoder(self.encoder_widths, self.patch, self.blocks, numbers, self.dtype)
        self.decoder = Decoder(self.widths, self.head, self.blocks, self.dtype)

    def encode(
        self, frames: Float[Array, "n height width 3"]
    ) -> Float32[Array, "n rows columns number"]:
        """Maps frames in [-1, 1] `[N, H, W, 3]` to latents that are not rounded, about [-1, 1]."""
        return bound(self.encoder(frames), self.levels)

    def decode(
        self, latents: Float[Array, "n rows columns number"]
    ) -> Float32[Array, "n height width 3"]:
        """Maps latents, rounded, to frames, float32, not bounded to [-1, 1]."""
        return self.decoder(latents)

    def __call__(
        self, frames: Float[Array, "n height width 3"]
    ) -> Float32[Array, "n height width 3"]:
        """Codes frames and decodes them. Gradients pass the rounding as if it were not there."""
        latents = self.encode(frames)
        return self.decode(straight_through(latents, round_latents(latents, self.levels)))

    def reconstruct(
        self, video: Float[Array, "batch time height width 3"]
    ) -> Float32[Array, "batch time height width 3"]:
        """Codes a video in [-1, 1] and decodes it."""
        return self(video.reshape(-1, *video.shape[2:])).reshape(video.shape)


def of(generator: Any) -> Codec:
    """Makes the codec of a generator that has all attributes of one, not bound to it."""
    names = ("size", "patch", "encoder_widths", "widths", "head", "blocks", "levels", "dtype")
    return Codec(**{name: getattr(generator, name) for name in names}, parent=None)


def straight_through(
    latents: Float[Array, "*shape"], rounded: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Returns what was rounded, whose gradient goes to what it was rounded from, unchanged."""
    return latents + jax.lax.stop_gradient(rounded - latents)


# ------------------------------------------------------------------- finite scalar quantization


def bound(
    features: Float[Array, "*place number"], levels: tuple[int, ...]
) -> Float32[Array, "*place number"]:
    """Bounds numbers so that each rounds to `levels` values; in units of `round_latents`."""
    count = np.asarray(levels, np.float32)
    half = (count - 1) / 2 * 1.001  # a little wider than the outermost values, to reach them
    # Of an even count one value more is below zero than above; zero still maps to zero.
    shift = np.where(count % 2 == 0, np.float32(0.5), np.float32(0))
    features = features.astype(jnp.float32)
    half, shift, count = (_over_last(x, features) for x in (half, shift, count))
    return (jnp.tanh(features + jnp.arctanh(shift / half)) * half - shift) / (count // 2)


def round_latents(
    latents: Float[Array, "*place number"], levels: tuple[int, ...]
) -> Float32[Array, "*place number"]:
    """Rounds each number to the nearest of its `levels` values, evenly spaced from -1 to 1.

    Of an even count the last value, 1, is missing.
    """
    return _from_digits(_digits(latents, levels), levels)


def to_codes(
    latents: Float[Array, "*place number"], levels: tuple[int, ...]
) -> Int32[Array, "*place"]:
    """Returns the codes of latents: which of all combinations of values is nearest; int32."""
    return from_digits(_digits(latents, levels), levels)


def to_digits(codes: Int[Array, "*place"], levels: tuple[int, ...]) -> Int32[Array, "*place n"]:
    """Returns which value each number of a code has, `[...]` to `[..., len(levels)]`, from 0."""
    codes = codes[..., None]
    return codes // _bases(levels, codes) % _over_last(np.asarray(levels, np.int32), codes)


def from_digits(digits: Int[Array, "*place n"], levels: tuple[int, ...]) -> Int32[Array, "*place"]:
    """Undoes `to_digits`."""
    return jnp.sum(digits * _bases(levels, digits), -1).astype(jnp.int32)


def to_latents(codes: Int[Array, "*place"], levels: tuple[int, ...]) -> Float32[Array, "*place n"]:
    """Returns the latents of codes, `[...]` to `[..., len(levels)]`; undoes `to_codes`."""
    return _from_digits(to_digits(codes, levels), levels)


def _digits(
    latents: Float[Array, "*place number"], levels: tuple[int, ...]
) -> Int32[Array, "*place number"]:
    count = _over_last(np.asarray(levels), latents)
    digits = jnp.round(latents * (count // 2)).astype(jnp.int32) + count // 2
    return jnp.clip(digits, 0, count - 1)


def _from_digits(
    digits: Int[Array, "*place number"], levels: tuple[int, ...]
) -> Float32[Array, "*place number"]:
    count = _over_last(np.asarray(levels), digits)
    return ((digits - count // 2) / (count // 2)).astype(jnp.float32)


def _bases(levels: tuple[int, ...], like: Shaped[Array, "..."]) -> Int32[Array, "..."]:
    return _over_last(np.cumprod((1, *levels[:-1])).astype(np.int32), like)


def _over_last(x: Shaped[np.ndarray, " n"], like: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """Lays a row of numbers along the last axis of an array."""
    return jnp.asarray(x).reshape((1,) * (like.ndim - 1) + (-1,))


# ------------------------------------------------------------------------------------ networks


class Encoder(nn.Module):
    """Maps frames to the numbers of their places; attributes as the encoder's of `Codec`."""

    widths: tuple[int, ...]
    patch: int
    blocks: int
    numbers: int
    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "n height width 3"]
    ) -> Float[Array, "n rows columns {self.numbers}"]:
        """Maps `[N, H, W, 3]` in [-1, 1] to `[N, rows, columns, numbers]`."""
        x = layers.space_to_depth(x.astype(self.dtype), self.patch)
        x = layers.dense(self.widths[0], self.dtype, "front", gain=1.0)(x)
        for level, width in enumerate(self.widths):
            x = layers.downsample(x) if level else x
            for block in range(self.blocks):
                x = layers.Residual(width, self.dtype, name=f"level{level}_{block}")(x)
        return layers.dense(self.numbers, self.dtype, "last", gain=1.0)(layers.leaky_relu(x))


class Decoder(nn.Module):
    """Maps latents to frames; attributes as for `Codec`.

    What the places have on average is added to each of them, for what a frame has as a whole.
    """

    widths: tuple[int, ...]
    head: int
    blocks: int
    dtype: str

    @nn.compact
    def __call__(
        self, latents: Float[Array, "n rows columns number"]
    ) -> Float32[Array, "n height width 3"]:
        """Maps `[N, rows, columns, numbers]` to float32 `[N, H, W, 3]`, not bounded."""
        act = layers.leaky_relu
        dense = lambda name: layers.dense(self.widths[-1], self.dtype, name)  # noqa: E731
        x = dense("first")(latents.astype(self.dtype))
        whole = act(dense("about")(x)).mean((1, 2))
        x = x + dense("everywhere")(whole)[:, None, None]
        for level, width in reversed(list(enumerate(self.widths))):
            for block in range(self.blocks):
                x = layers.Residual(width, self.dtype, name=f"level{level}_{block}")(x)
            if level:  # narrowed first: the wide map at twice the side cost as much as its blocks
                narrow = f"narrow{level}"
                x = layers.dense(self.widths[level - 1], self.dtype, narrow, gain=1.0)(x)
                x = layers.resize(x, 2 * x.shape[1], 2 * x.shape[2])
        x, head = act(x), self.head
        smooth = layers.dense(head, self.dtype, "smooth")(x)
        fine = layers.dense(4 * head, self.dtype, "fine", gain=0.1)(x)
        x = layers.resize(smooth, 2 * x.shape[1], 2 * x.shape[2]) + layers.depth_to_space(fine, 2)
        x = layers.dense(head, self.dtype, "mix")(act(x))
        return layers.dense(3, self.dtype, "pixels", gain=1.0)(act(x)).astype(jnp.float32)
