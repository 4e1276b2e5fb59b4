"""Video as discrete codes: an autoencoder with a codebook, and a transformer that draws the codes.

Each frame becomes a small map of codes by itself. The transformer draws a video's codes in raster
order, frame after frame, each given those before it.

Reference: van den Oord et al., "Neural discrete representation learning" (VQ-VAE), 2017; Yan et
  al., "VideoGPT: video generation using VQ-VAE and transformers", 2021.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, Int32

from vidgen.errors import ConfigError
from vidgen.frame_size import Size, height_width
from vidgen.models import layers, protocol
from vidgen.models.autoregressive import Prior, append_frame, sample_codes


class CodesGenerator(protocol.GeneratorDefaults, nn.Module):
    """Makes each frame from codes that a causal transformer draws, given the frames before it.

    The noise of a frame has one channel for each of its codes: made uniform, it draws the code
    from the distribution that the transformer predicts. The state between frames is the codes of
    the last `window - 1` of them, so a video of any length takes the same memory. A recurrence has
    no random access: to reach a frame, the codes of all frames before it are drawn.

    Attributes:
      size: Of the frames in pixels: the side of squares, or `(height, width)`.
      classes: Number of classes; 0 for none.
      patch: Side in pixels of the patches that the autoencoder's first layer takes.
      widths: Channels of the autoencoder's levels, finest first; each has half the side of the one
        before, and the last is the map of codes.
      blocks: Residual blocks of each level.
      summary: Codes of the frame as a whole, before those of its map, for what all places share and
        what stays from frame to frame, such as colours.
      palette: Colours that a frame mixes its pixels from; 0 for colours straight from the features.
      codes: Vectors of the codebook.
      features: Channels of each.
      window: Frames that a code depends on, its own among them; at least 2.
      width: Channels of the transformer's tokens.
      heads: Heads of attention; divides the width.
      expand: Channels inside feed-forward layers over the width.
      layers: Blocks of attention and a feed-forward layer.
      temperature: When sampling, logits are divided by it.
      top_k: When sampling, only so many codes may come, the likeliest; 0: all.
      top_p: When sampling, only the likeliest codes may come that together reach this probability.
      dtype: Type of the computation; parameters, distances and logits are float32.
    """

    size: Size
    classes: int = 0
    patch: int = 2
    widths: tuple[int, ...] = (48, 96, 128)
    blocks: int = 1
    summary: int = 0
    palette: int = 0
    codes: int = 512
    features: int = 32
    window: int = 8
    width: int = 128
    heads: int = 4
    expand: int = 4
    layers: int = 4
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    dtype: str = "float32"
    content = 1  # unused: all that a video shows is in its codes
    recurrent = True
    sampling_options = ("temperature", "top_k", "top_p")

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        names = ("patch", "codes", "features", "width", "heads", "expand", "layers")
        for name in names:
            if not getattr(self, name):
                raise ConfigError(f"config.generator.{name} is 0", "at least 1")
        least = self.patch * 2 ** (len(self.widths) - 1)
        if any(side % least for side in height_width(self.size)):
            raise ConfigError(
                f"config.data.size is {self.size}",
                f"{'a multiple' if isinstance(self.size, int) else 'multiples'} of {least}: "
                "config.generator.patch, doubled at each of widths but one",
            )
        if self.width % self.heads:
            raise ConfigError(
                f"config.generator.heads is {self.heads}, and its width {self.width}",
                "the heads must divide the width",
            )
        if self.window < 2:
            raise ConfigError(f"config.generator.window is {self.window}", "at least 2")
        if not self.temperature > 0:
            raise ConfigError(f"config.generator.temperature is {self.temperature}", "above 0")
        if self.top_k > self.codes:
            raise ConfigError(f"config.generator.top_k is {self.top_k}", f"0 to codes={self.codes}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"config.generator.top_p is {self.top_p}", "above 0, at most 1")

    @property
    def motion(self) -> int:
        """Codes of a frame, each with its channel of motion noise."""
        rows, columns = self._map()
        return self.summary + rows * columns

    def _map(self) -> tuple[int, int]:
        """Returns rows and columns of the map of codes."""
        height, width = height_width(self.size)
        side = self.patch * 2 ** (len(self.widths) - 1)
        return height // side, width // side

    def keyframes(self, frames: int) -> int:
        """Returns how many keyframes of motion noise a window needs."""
        return frames

    def setup(self):
        """Makes the autoencoder, the codebook and the transformer."""
        names = ("patch", "blocks", "summary", "dtype")
        shared = {name: getattr(self, name) for name in names}
        self.encoder = Encoder(self.widths, self.features, **shared)
        self.decoder = Decoder(self.widths, palette=self.palette, rows=self._map()[0], **shared)
        spread = nn.initializers.normal(1.0)
        self.book = self.param("book", spread, (self.codes, self.features))
        self.prior = Prior(
            codes=self.codes,
            places=self.motion,
            classes=self.classes,
            window=self.window,
            width=self.width,
            heads=self.heads,
            expand=self.expand,
            layers=self.layers,
            dtype=self.dtype,
        )

    def encode(
        self, video: Float[Array, "batch time height width 3"]
    ) -> Float32[Array, "batch time place feature"]:
        """Maps video in [-1, 1] `[B, T, H, W, 3]` to features of its codes, `[B, T, P, F]`."""
        x = self.encoder(video.reshape(-1, *video.shape[2:]))
        return x.reshape(*video.shape[:2], self.motion, self.features)

    def quantize(self, features: Float[Array, "*places feature"]) -> Int32[Array, "*places"]:
        """Returns the nearest codes of features `[..., F]`; int32 `[...]`."""
        return nearest(features, self.book)

    def decode(
        self, vectors: Float[Array, "batch time place feature"]
    ) -> Float32[Array, "batch time height width 3"]:
        """Maps vectors of the codebook `[B, T, P, F]` to video float32 `[B, T, H, W, 3]`."""
        x = vectors.reshape(-1, self.motion, self.features)
        return self.decoder(x).reshape(*vectors.shape[:2], *height_width(self.size), 3)

    def logits(
        self, codes: Int[Array, "batch time place"], label: Int[Array, " batch"] | None
    ) -> Float32[Array, "batch time place code"]:
        """Gives each code's logits, from those before it; int32 `[B, T, P]` to `[B, T, P, K]`.

        T is at most `window`, and the first frame has none before it.
        """
        return self.prior(codes, label)

    def begin(
        self,
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch context place"],
        label: Int[Array, " batch"] | None,
    ) -> Int32[Array, "batch past place"]:
        """Makes the state before frame 0: no codes, -1, int32 `[B, window - 1, P]`."""
        del motion, label
        return jnp.full((len(content), self.window - 1, self.motion), -1, jnp.int32)

    def advance(
        self,
        carry: Int32[Array, "batch past place"],
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch time place"],
        label: Int[Array, " batch"] | None,
    ) -> tuple[Int32[Array, "batch past place"], Int32[Array, "batch time place"]]:
        """Draws the codes of frames.

        Args:
          carry: Codes of the last `window - 1` frames, int32 `[B, window - 1, P]`; where there are
            fewer frames, -1 comes after them.
          content: Unused.
          motion: Standard normal noise `[B, T, P]`.
          label: Classes, int32 `[B]`, where there are classes.

        Returns:
          The carry of the frame after the last, and the codes, int32 `[B, T, P]`.
        """
        del content
        uniform = jax.scipy.stats.norm.cdf(motion)
        options = (self.temperature, self.top_k, self.top_p)
        sample_frame = self.prior.frame_sampler(
            label, lambda logits, uniform: sample_codes(logits, uniform, *options)
        )

        def frame(
            past: Int32[Array, "batch past place"], uniform: Float[Array, "batch place"]
        ) -> tuple[Int32[Array, "batch past place"], Int32[Array, "batch place"]]:
            codes = sample_frame(past, uniform)
            return append_frame(past, codes), codes

        carry, states = jax.lax.scan(frame, carry, uniform.swapaxes(0, 1))
        return carry, states.swapaxes(0, 1)

    def render(
        self,
        states: Int[Array, "batch time place"],
        content: Float[Array, "batch content"],
        label: Int[Array, " batch"] | None,
    ) -> Float32[Array, "batch time height width 3"]:
        """Makes frames of codes `[B, T, P]`: float32 in [-1, 1], `[B, T, H, W, 3]`."""
        del content, label
        return jnp.clip(self.decode(jnp.take(self.book, states, axis=0)), -1, 1)

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
        """Makes the first frames of videos; arguments as for `ResidualGenerator`.

        `start` is not used.
        """
        del cycle, start
        carry = self.begin(content, motion, label)
        _, states = self.advance(carry, content, motion[:, :frames], label)
        if pick is not None:
            states = jnp.take_along_axis(states, pick[:, :, None], 1)
        video = self.render(states, content, label)
        if self.is_initializing():
            self.encode(video)
        return video


class Encoder(nn.Module):
    """Maps frames to the features of their codes; attributes as for `CodesGenerator`."""

    widths: tuple[int, ...]
    features: int
    patch: int
    blocks: int
    summary: int
    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "n height width 3"]
    ) -> Float32[Array, "n place {self.features}"]:
        """Maps `[N, H, W, 3]` in [-1, 1] to float32 `[N, P, F]`, those of the whole frame first."""
        act = layers.leaky_relu
        x = layers.space_to_depth(x.astype(self.dtype), self.patch)
        x = layers.dense(self.widths[0], self.dtype, "front", gain=1.0)(x)
        for level, width in enumerate(self.widths):
            x = layers.downsample(x) if level else x
            for block in range(self.blocks):
                x = layers.Residual(width, self.dtype, name=f"level{level}_{block}")(x)
        last = lambda codes, name: layers.dense(  # noqa: E731
            codes * self.features, self.dtype, name, gain=1.0
        )
        places = last(1, "last")(act(x)).reshape(len(x), -1, self.features)
        if self.summary:
            whole = act(layers.dense(self.widths[-1], self.dtype, "about")(act(x))).mean((1, 2))
            whole = last(self.summary, "summary")(whole).reshape(len(x), -1, self.features)
            places = jnp.concatenate([whole, places], 1)
        return places.astype(jnp.float32)


class Decoder(nn.Module):
    """Maps the vectors of frames' codes to frames; attributes as for `CodesGenerator`.

    `rows` are those of the map of codes.
    """

    widths: tuple[int, ...]
    patch: int
    blocks: int
    summary: int
    palette: int
    rows: int
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "n place feature"]) -> Float32[Array, "n height width 3"]:
        """Maps `[N, P, F]` to float32 `[N, H, W, 3]`, not bounded to [-1, 1]."""
        act, (n, codes, _) = layers.leaky_relu, x.shape
        dense = lambda name: layers.dense(self.widths[-1], self.dtype, name)  # noqa: E731
        whole, x = jnp.split(x.astype(self.dtype), [self.summary], 1)
        x = dense("first")(x).reshape(n, self.rows, (codes - self.summary) // self.rows, -1)
        if self.summary:
            whole = act(dense("about")(whole.reshape(n, -1)))
            x = x + dense("everywhere")(whole)[:, None, None]
        else:
            whole = act(dense("about")(x)).mean((1, 2))
        for level, width in reversed(list(enumerate(self.widths))):
            for block in range(self.blocks):
                x = layers.Residual(width, self.dtype, name=f"level{level}_{block}")(x)
            x = layers.resize(x, 2 * x.shape[1], 2 * x.shape[2]) if level else x
        if not self.palette:
            x = layers.dense(3 * self.patch**2, self.dtype, "pixels", gain=1.0)(act(x))
            return layers.depth_to_space(x.astype(jnp.float32), self.patch)
        x = layers.dense(8 * self.patch**2, self.dtype, "pixels", gain=1.0)(act(x))
        x = layers.depth_to_space(x, self.patch)
        return layers.mix_palette(act(x), whole, self.palette, self.dtype).reshape(*x.shape[:-1], 3)


def nearest(
    features: Float[Array, "*places feature"], book: Float[Array, "code feature"]
) -> Int32[Array, "*places"]:
    """Returns which vectors of a codebook `[K, F]` are nearest to features `[..., F]`; int32."""
    squares = jnp.sum(book**2, -1).reshape(*(1,) * (features.ndim - 1), -1)
    return jnp.argmin(squares - 2 * (features @ book.T), -1).astype(jnp.int32)
