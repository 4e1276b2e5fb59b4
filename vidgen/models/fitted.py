"""Generators that are fitted, not trained: what a learnt one has to beat.

They take the noise that every generator takes and make window-invariant video of it, so a run of
one is sampled and measured as any other.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

from vidgen.errors import ConfigError
from vidgen.frame_size import Size, height_width
from vidgen.models import protocol


class Noise(protocol.GeneratorDefaults, nn.Module):
    """Independent grey noise in every frame: the worst that any measure should see.

    Attributes:
      size: Of the frames in pixels: the side of squares, or `(height, width)`.
      classes: Number of classes; changes nothing.
      content: Channels of the content noise; unused.
      motion: Fields of a frame, each a square of one grey.
      dtype: Taken for the other generators' sake; computed in float32.
    """

    size: Size
    classes: int = 0
    content: int = 1
    motion: int = 256
    dtype: str = "float32"
    between_classes = False

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        height, width = height_width(self.size)
        field = self._field()
        if field**2 * self.motion != height * width or height % field or width % field:
            raise ConfigError(
                f"config.generator.motion is {self.motion}",
                f"as many square fields as cover config.data.size={self.size}",
            )

    def _field(self) -> int:
        """Returns the side of a field in pixels, at least 1."""
        return max(math.isqrt(math.prod(height_width(self.size)) // max(self.motion, 1)), 1)

    def keyframes(self, frames: int) -> int:
        """Returns how many keyframes of motion noise a window needs."""
        return frames

    @nn.compact
    def __call__(
        self,
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch keyframe motion"],
        cycle: Float[Array, "batch cycle"],
        start: Int[Array, " batch"],
        label: Int[Array, " batch"] | None = None,
        pick: Int[Array, "batch time"] | None = None,
        *,
        frames: int,
    ) -> Float32[Array, "batch time height width 3"]:
        """Makes a window; arguments as for `ResidualGenerator`, float `[B, T, H, W, 3]`."""
        del content, cycle, start, label
        self.param("level", nn.initializers.zeros, (1,))  # so that there is something to save
        (height, width), field = height_width(self.size), self._field()
        grey = jnp.clip(motion[:, :frames] / 2, -1, 1)
        grey = grey.reshape(len(motion), frames, height // field, width // field, 1)
        grey = jnp.repeat(jnp.repeat(grey, field, 2), field, 3)
        return _picked(jnp.broadcast_to(grey, (*grey.shape[:-1], 3)), pick)


class Lookup(protocol.GeneratorDefaults, nn.Module):
    """Plays stored training clips: the best FVD there is, and nothing new.

    Attributes:
      size: Of the frames in pixels: the side of squares, or `(height, width)`.
      classes: Number of classes; 0 for none.
      clips: How many clips it holds, sorted by class.
      length: Frames of each; a longer video plays its clip round and round.
      content: Channels of the content noise; the first chooses the clip.
      motion: Channels of the motion noise; unused.
      dtype: Taken for the other generators' sake.
    """

    size: Size
    classes: int = 0
    clips: int = 1
    length: int = 1
    content: int = 1
    motion: int = 1
    dtype: str = "float32"
    between_classes = False

    def check(self) -> None:
        """Raises nothing: all attributes fit."""

    def keyframes(self, frames: int) -> int:
        """Returns how many keyframes of motion noise a window needs."""
        return frames

    @nn.compact
    def __call__(
        self,
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch keyframe motion"],
        cycle: Float[Array, "batch cycle"],
        start: Int[Array, " batch"],
        label: Int[Array, " batch"] | None = None,
        pick: Int[Array, "batch time"] | None = None,
        *,
        frames: int,
    ) -> Float32[Array, "batch time height width 3"]:
        """Makes a window; arguments as for `ResidualGenerator`, float `[B, T, H, W, 3]`."""
        del motion, cycle
        shape = (self.clips, self.length, *height_width(self.size), 3)
        held = self.param("clips", nn.initializers.zeros, shape, jnp.uint8)
        # Clips of class c are those from first[c] to first[c + 1].
        first = self.param("first", nn.initializers.zeros, (max(self.classes, 1) + 1,), jnp.int32)
        kind = jnp.zeros(len(content), jnp.int32) if label is None else label
        low, high = first[kind], first[kind + 1]
        share = jax.scipy.stats.norm.cdf(content[:, 0])  # uniform
        chosen = jnp.minimum(low + ((high - low) * share).astype(jnp.int32), high - 1)
        time = (start[:, None] + jnp.arange(frames)[None]) % self.length
        return _picked(held[chosen[:, None], time].astype(jnp.float32) / 127.5 - 1, pick)


class DynamicTexture(protocol.GeneratorDefaults, nn.Module):
    """A linear dynamical system for each class, driven by noise, about a random still.

    A clip is the class's mean, plus a still drawn from the principal components of the clips' means
    (content), plus the system's state in the principal components of what moves: x' = A x + B v.
    The state is written as what noise of the last steps has left in it, the sum over j of A^j B
    v[t-j], cut off where nothing is left: so any frame can be made at once.

    Reference: Doretto et al., "Dynamic textures", 2003.

    Attributes:
      size: Of the frames in pixels: the side of squares, or `(height, width)`.
      classes: Number of classes; 0 for none.
      content: Principal components of stills.
      motion: Principal components of motion.
      steps: Steps of noise that a frame remembers.
      dtype: Taken for the other generators' sake; computed in float32.
    """

    size: Size
    classes: int = 0
    content: int = 32
    motion: int = 48
    steps: int = 48
    dtype: str = "float32"
    between_classes = False

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        for name in ("content", "motion", "steps"):
            if not getattr(self, name):
                raise ConfigError(f"config.generator.{name} is 0", "at least 1")

    def keyframes(self, frames: int) -> int:
        """Returns how many keyframes of motion noise a window needs."""
        return frames + self.context

    @property
    def context(self) -> int:
        """How many keyframes of motion noise lie before a window."""
        return self.steps - 1

    @nn.compact
    def __call__(
        self,
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch keyframe motion"],
        cycle: Float[Array, "batch cycle"],
        start: Int[Array, " batch"],
        label: Int[Array, " batch"] | None = None,
        pick: Int[Array, "batch time"] | None = None,
        *,
        frames: int,
    ) -> Float32[Array, "batch time height width 3"]:
        """Makes a window; arguments as for `ResidualGenerator`, float `[B, T, H, W, 3]`."""
        del cycle, start
        kinds, pixels = max(self.classes, 1), 3 * math.prod(height_width(self.size))
        zeros = nn.initializers.zeros
        mean = self.param("mean", zeros, (kinds, pixels))
        stills = self.param("stills", zeros, (kinds, self.content, pixels))
        moves = self.param("moves", zeros, (kinds, self.motion, pixels))
        response = self.param("response", zeros, (kinds, self.steps, self.motion, self.motion))
        kind = jnp.zeros(len(content), jnp.int32) if label is None else label
        left = response[kind]
        state = jnp.zeros((len(content), frames, self.motion))
        for j in range(self.steps):
            noise = motion[:, self.context - j : self.context - j + frames]
            state += jnp.einsum("btv,bxv->btx", noise, left[:, j])
        video = (mean[kind] + jnp.einsum("bc,bcp->bp", content, stills[kind]))[:, None]
        video = video + jnp.einsum("btx,bxp->btp", state, moves[kind])
        return _picked(video.reshape(len(content), frames, *height_width(self.size), 3), pick)


class Ppca(protocol.GeneratorDefaults, nn.Module):
    """Draws whole clips from a Gaussian of low rank for each class: a mean and principal clips.

    What the directions do not span, the noise of single values, is left out of the clips.

    Reference: Tipping and Bishop, "Probabilistic principal component analysis", 1999.

    Attributes:
      size: Of the frames in pixels: the side of squares, or `(height, width)`.
      classes: Number of classes; 0 for none.
      length: Frames of its clips.
      content: Principal directions.
      dtype: Taken for the other generators' sake; computed in float32.
    """

    size: Size
    classes: int = 0
    length: int = 1
    content: int = 64
    dtype: str = "float32"
    between_classes = False
    motion = 1

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        if not self.content:
            raise ConfigError("config.generator.content is 0", "at least 1")

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
        motion: Float[Array, "batch keyframe motion"],
        cycle: Float[Array, "batch cycle"],
        start: Int[Array, " batch"],
        label: Int[Array, " batch"] | None = None,
        pick: Int[Array, "batch time"] | None = None,
        *,
        frames: int,
    ) -> Float32[Array, "batch time height width 3"]:
        """Makes the first frames; arguments as for `ResidualGenerator`, float `[B, T, H, W, 3]`."""
        del motion, cycle, start
        shape = (self.length, *height_width(self.size), 3)
        kinds, values = max(self.classes, 1), math.prod(shape)
        zeros = nn.initializers.zeros
        mean = self.param("mean", zeros, (kinds, values))
        spread = self.param("spread", zeros, (kinds, self.content, values))
        self.param("variance", zeros, (kinds,))
        kind = jnp.zeros(len(content), jnp.int32) if label is None else label
        video = mean[kind] + jnp.einsum("bc,bcv->bv", content, spread[kind])
        return _picked(video.reshape(len(content), *shape)[:, :frames], pick)


def _picked(
    video: Float32[Array, "batch time height width 3"], pick: Int[Array, "batch picked"] | None
) -> Float32[Array, "batch picked height width 3"]:
    """Returns the frames `[B, P]` that were asked for, or all."""
    if pick is None:
        return video
    return jnp.take_along_axis(video, pick[:, :, None, None, None], 1)
