"""Video as the codes of a codec, which a transformer draws.

The transformer draws a video's codes in raster order, frame after frame, each given those before.

Reference: van den Oord et al., "Neural discrete representation learning" (VQ-VAE), 2017; Yan et
  al., "VideoGPT: video generation using VQ-VAE and transformers", 2021.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, Shaped

from vidgen.errors import ConfigError
from vidgen.frame_size import Size, height_width
from vidgen.models import codec, known_frames, layers, protocol
from vidgen.models import conditions as conditioning
from vidgen.models.autoregressive import Prior, append_frame, sample_values


class CodesGenerator(protocol.GeneratorDefaults, nn.Module):
    """Makes each frame from codes that a causal transformer draws, given the frames before it.

    The noise of a frame has one channel for each number of its codes: made uniform, it draws the
    number from the distribution that the transformer predicts. The state between frames is the
    codes of the last `window - 1` of them, so a video of any length takes the same memory. A
    recurrence has no random access: to reach a frame, the codes of all frames before it are drawn.

    Attributes:
      size: Of the frames in pixels: the side of squares, or `(height, width)`.
      classes: Number of classes; 0 for none.
      patch: Side in pixels of the patches that the codec's first layer takes.
      encoder_widths: Channels of the levels of its encoder, finest first; the last is the map of
        codes.
      widths: Channels of the levels of its decoder, finest first, whose side is half that of
        frames.
      head: Channels of its last layers, at the resolution of frames.
      blocks: Residual blocks of each level.
      levels: Values of each number of a code.
      window: Frames that a code depends on, its own among them; at least 2.
      width: Channels of the transformer's tokens.
      heads: Heads of attention; divides the width.
      expand: Channels inside feed-forward layers over the width.
      layers: Blocks of attention and a feed-forward layer.
      temperature: When sampling, logits are divided by it.
      top_k: When sampling, only so many values of a number may come, the likeliest; 0: all.
      top_p: When sampling, only the likeliest values may come that together reach this probability.
      dtype: Type of the computation; parameters, latents and logits are float32.
      conditions: What is known beside the class, names and options: captions, which the transformer
        is told, and frames that are known whole, whose codes are not drawn.
    """

    size: Size
    classes: int = 0
    patch: int = 4
    encoder_widths: tuple[int, ...] = (64, 128)
    widths: tuple[int, ...] = (48, 96, 128)
    head: int = 16
    blocks: int = 1
    levels: tuple[int, ...] = (8, 5, 5, 5)
    window: int = 8
    width: int = 128
    heads: int = 4
    expand: int = 4
    layers: int = 4
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    dtype: str = "float32"
    conditions: conditioning.Conditions = ()
    content = 1  # unused: all that a video shows is in its codes
    recurrent = True
    reconstructs = True
    sampling_options = ("temperature", "top_k", "top_p")

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        codec.of(self).check()
        layers.check_sizes(self, "generator", "width", "heads", "expand", "layers")
        layers.check_heads(self.width, self.heads, "generator")
        if codec.of(self).codes >= 2**31:
            raise ConfigError(
                f"config.generator.levels is {self.levels}",
                "a product below 2^31: codes are int32",
            )
        if self.window < 2:
            raise ConfigError(f"config.generator.window is {self.window}", "at least 2")
        if not self.temperature > 0:
            raise ConfigError(f"config.generator.temperature is {self.temperature}", "above 0")
        most = max(self.levels)
        if self.top_k > most:
            raise ConfigError(
                f"config.generator.top_k is {self.top_k}", f"0 to {most}, the most of levels"
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"config.generator.top_p is {self.top_p}", "above 0, at most 1")
        conditioning.check(self.conditions, self.size)
        known_frames.check(self.conditions, "a transformer over codes")

    @property
    def places(self) -> int:
        """Codes of a frame."""
        rows, columns = codec.of(self).map
        return rows * columns

    @property
    def motion(self) -> int:
        """Numbers of a frame, each with its channel of motion noise."""
        return self.places * len(self.levels)

    def keyframes(self, frames: int) -> int:
        """Returns how many keyframes of motion noise a window needs."""
        return frames

    def setup(self):
        """Makes the codec and the transformer."""
        self.codec = codec.of(self).clone(parent=self)
        names = ("levels", "places", "classes", "window", "width", "heads", "expand", "layers")
        names = (*names, "dtype", "size", "conditions")
        self.model = Prior(**{name: getattr(self, name) for name in names})

    def reconstruct(
        self, video: Float[Array, "batch time height width 3"]
    ) -> Float32[Array, "batch time height width 3"]:
        """Codes a video in [-1, 1] and decodes it."""
        return self.codec.reconstruct(video)

    def encode_codes(
        self, video: Float[Array, "batch time height width 3"]
    ) -> Int32[Array, "batch time place"]:
        """Maps video in [-1, 1] `[B, T, H, W, 3]` to its codes, int32 `[B, T, P]`."""
        latents = self.codec.encode(video.reshape(-1, *video.shape[2:]))
        return codec.to_codes(latents, self.levels).reshape(*video.shape[:2], self.places)

    def logits(
        self,
        codes: Int[Array, "batch time place"],
        label: protocol.Label | None,
        given: conditioning.Given | None = None,
    ) -> Float32[Array, "batch time place number value"]:
        """Gives the logits of each number of codes, from those before; see `Prior`.

        T is at most `window`, and the first frame has none before it.
        """
        return self.model(codes, label, given)

    def begin(
        self,
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch context motion"],
        label: protocol.Label | None,
        given: conditioning.Given | None = None,
    ) -> Int32[Array, "batch past place"]:
        """Makes the state before frame 0: no codes, -1, int32 `[B, window - 1, P]`."""
        del motion, label, given
        return jnp.full((len(content), self.window - 1, self.places), -1, jnp.int32)

    def advance(
        self,
        carry: Int32[Array, "batch past place"],
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch time motion"],
        label: protocol.Label | None,
        given: conditioning.Given | None = None,
    ) -> tuple[Int32[Array, "batch past place"], Int32[Array, "batch time place"]]:
        """Draws the codes of frames.

        Args:
          carry: Codes of the last `window - 1` frames, int32 `[B, window - 1, P]`; where there are
            fewer frames, -1 comes after them.
          content: Unused.
          motion: Standard normal noise `[B, T, P * N]`.
          label: Classes, int32 `[B]`, where there are classes.
          given: Arrays of conditions; those that are not there are absent. Codes of frames that are
            known are theirs, and those after them are drawn given these.

        Returns:
          The carry of the frame after the last, and the codes, int32 `[B, T, P]`.
        """
        del content
        uniform = jax.scipy.stats.norm.cdf(motion)
        uniform = uniform.reshape(*motion.shape[:2], self.places, len(self.levels))
        options = (self.temperature, self.top_k, self.top_p)
        sample_frame = self.model.frame_sampler(
            label,
            lambda logits, uniform: sample_values(logits, uniform, *options),
            len(motion),
            given,
        )

        t, known = motion.shape[1], self._known(given, len(motion))
        codes = jnp.zeros((len(motion), t, self.places), jnp.int32)
        there = jnp.zeros((len(motion), t), bool)
        if known:
            which, there = known.at(_numbers(motion))
            codes = jnp.take_along_axis(known.tokens, which[:, :, None], 1)

        def frame(
            past: Int32[Array, "batch past place"],
            now: tuple[
                Float[Array, "batch place number"],
                Int32[Array, "batch place"],
                Bool[Array, " batch"],
            ],
        ) -> tuple[Int32[Array, "batch past place"], Int32[Array, "batch place"]]:
            uniform, own, there = now
            made = jnp.where(there[:, None], own, sample_frame(past, uniform))
            return append_frame(past, made), made

        each = jax.tree.map(lambda x: x.swapaxes(0, 1), (uniform, codes, there))
        carry, states = jax.lax.scan(frame, carry, each)
        return carry, states.swapaxes(0, 1)

    def render(
        self,
        states: Int[Array, "batch time place"],
        content: Float[Array, "batch content"],
        label: protocol.Label | None,
        given: conditioning.Given | None = None,
    ) -> Float32[Array, "batch time height width 3"]:
        """Makes frames of codes `[B, T, P]`: float32 in [-1, 1], `[B, T, H, W, 3]`.

        Those that are known are as they are.
        """
        del content, label
        video, known = self._decode(states), self._known(given, len(states))
        return known.put_back(video, _numbers(states)) if known else video

    def _decode(
        self, codes: Int[Array, "batch time place"]
    ) -> Float32[Array, "batch time height width 3"]:
        maps = codec.to_latents(codes.reshape(-1, *codec.of(self).map), self.levels)
        video = jnp.clip(self.codec.decode(maps), -1, 1)
        return video.reshape(*codes.shape[:2], *height_width(self.size), 3)

    def _known(self, given: conditioning.Given | None, count: int) -> known_frames.Known | None:
        """Codes the frames that are known; None where none can be."""
        if "frames" not in dict(self.conditions):
            return None
        given = conditioning.filled(given, self.conditions, count, self.size, 1)["frames"]
        encode = lambda x: self.encode_codes(x[None])[0]  # noqa: E731
        return known_frames.coded(given, encode, self._decode)

    def __call__(
        self,
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch keyframe motion"],
        cycle: Float[Array, "batch cycle"],
        start: Int[Array, " batch"],
        label: protocol.Label | None = None,
        pick: Int[Array, "batch time"] | None = None,
        given: conditioning.Given | None = None,
        *,
        frames: int,
    ) -> Float32[Array, "batch time height width 3"]:
        """Makes the first frames of videos; arguments as for `ResidualGenerator`.

        `start` is not used.
        """
        del cycle, start
        carry = self.begin(content, motion, label, given)
        _, states = self.advance(carry, content, motion[:, :frames], label, given)
        video = self.render(states, content, label, given)
        if pick is not None:
            video = jnp.take_along_axis(video, pick[:, :, None, None, None], 1)
        if self.is_initializing():
            self.reconstruct(video)
        return video


def _numbers(x: Shaped[Array, "batch time ..."]) -> Int32[Array, "batch time"]:
    """Returns the numbers of frames in a chunk that has one row of `x` for each."""
    return jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32), x.shape[:2])
