"""A generator and a discriminator of tokens, with attention over space and over time apart."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, Real

from vidgen.errors import ConfigError
from vidgen.frame_size import Size, height_width
from vidgen.models import labels, layers, protocol
from vidgen.models.attention import Attention, FeedForward


class TransformerGenerator(protocol.GeneratorDefaults, nn.Module):
    """Makes video from one content vector and a stream of motion noise, by attention.

    Content and the motion noise of a keyframe make a small map of tokens. In time each of its
    places attends to the keyframes before it (`window`, without padding: the context); that is
    cheap, for the map is small and keyframes are few. Between keyframes the tokens are interpolated
    linearly, and from there on only the frames that are wanted cost anything: the map is enlarged
    to one token for each patch of pixels, position embeddings are added, and all tokens of a frame
    attend to each other. Content modulates every layer. A linear layer unfolds each token to some
    features of its patch, these are interpolated to full resolution across the patches' borders,
    and pointwise layers make colours of them, as those of `ResidualGenerator` do: patches of pixels
    straight from tokens would leave a grid.

    Time is known by how long ago only, so nothing depends on the length of the window or on its
    place in it, and windows agree where they overlap.

    Reference: Bertasius et al., "Is space-time attention all you need for video understanding?"
      (TimeSformer), 2021, for space and time apart; Lee et al., "ViTGAN", 2022, and Jiang et al.,
      "TransGAN", 2021, for generators of tokens; Peebles and Xie, "Scalable diffusion models with
      transformers", 2023, for modulated norms; Skorokhodov et al., "StyleGAN-V", 2022, for motion
      noise at a coarse rate.

    Attributes:
      size: Of the frames in pixels: the side of squares, or `(height, width)`.
      classes: Number of classes; 0 for none.
      patch: Side in pixels of a token's patch; divides the size.
      grid: Side of the map of tokens in time, the shorter one; divides size / patch.
      width: Channels of the tokens.
      heads: Heads of attention; divides the width.
      expand: Channels inside feed-forward layers over the width.
      time_layers: Blocks of attention over the keyframes, each with a feed-forward layer.
      window: Keyframes that one of them sees, the last among them.
      layout_layers: Blocks of attention within the small map of a frame, each with a feed-forward
        layer: what was interpolated becomes a layout there.
      space_layers: Blocks of attention within a frame, each with a feed-forward layer.
      unfold: Side of the map of features that a token becomes before interpolation; divides patch.
      head: Channels of the pointwise layers at full resolution.
      head_layers: How many, before the colours.
      palette: Colours that a clip mixes its pixels from; 0 for colours straight from the features.
      output: "tanh", "leaky" or "linear" colours, as of `ResidualGenerator`.
      content: Channels of the content noise.
      motion: Channels of the motion noise.
      style: Channels of the content and motion features.
      stride: Frames between keyframes of motion noise; 1 for noise in each frame.
      loop: Frames after which a sampled video begins again, a multiple of stride; 0: never.
      remat: Compute the features of all blocks and at full resolution again in the backward pass
        instead of keeping them.
      dtype: Type of the computation; parameters are float32.
    """

    size: Size
    classes: int = 0
    patch: int = 4
    grid: int = 4
    width: int = 96
    heads: int = 2
    expand: int = 2
    time_layers: int = 1
    window: int = 3
    layout_layers: int = 1
    space_layers: int = 2
    unfold: int = 1
    head: int = 32
    head_layers: int = 1
    palette: int = 16
    output: str = "tanh"
    content: int = 64
    motion: int = 32
    style: int = 128
    stride: int = 8
    loop: int = 0
    remat: bool = False
    dtype: str = "float32"
    between_frames = True
    sampling_options = ("loop",)

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        sizes = ("grid", "expand", "window", "head", "content", "style", "stride")
        layers.check_sizes(self, "generator", *sizes)
        _check_tokens(self, "generator")
        layers.check_loop(self)
        short, long = sorted(_patches(self))
        if short % self.grid or long % (short // self.grid):
            patches = f"{short} patches a side"
            hint = "the grid must divide size / patch"
            if short != long:
                patches = f"{short} and {long} patches a side"
                fits = [n for n in range(1, short + 1) if short % n == long % (short // n) == 0]
                hint = f"one of {', '.join(map(str, fits))}: it has the aspect of the frame"
            raise ConfigError(
                f"config.generator.grid is {self.grid}, and a frame has {patches}", hint
            )
        if not self.unfold or self.patch % self.unfold:
            raise ConfigError(
                f"config.generator.unfold is {self.unfold}",
                f"it must divide config.generator.patch={self.patch}",
            )
        layers.check_output(self.output)

    def keyframes(self, frames: int) -> int:
        """Returns how many keyframes of motion noise a window of `frames` needs, at any phase."""
        return -(-(frames - 1 + self.stride - 1) // self.stride) + 1 + self.context

    @property
    def context(self) -> int:
        """How many keyframes of motion noise lie before the one that a window begins at."""
        return self.time_layers * (self.window - 1)

    @nn.compact
    def __call__(
        self,
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch keyframe motion"],
        cycle: Float[Array, "batch cycle"],
        start: Int[Array, " batch"],
        label: protocol.Label | None = None,
        pick: Real[Array, "batch time"] | None = None,
        *,
        frames: int,
    ) -> Float32[Array, "batch time height width 3"]:
        """Makes a window of video.

        Args:
          content: Content noise `[B, content]`.
          motion: Keyframes of motion noise `[B, keyframes(frames), motion]`, from `context` before
            the last one that is not after the window's first frame.
          cycle: Of no channels, `[B, 0]`: there are no cycles.
          start: First frame of each window, int32 `[B]`, at least 0.
          label: Classes, int32 `[B]`, where there are classes; or weights of them, `[B, classes]`.
          pick: Frames of the window to make, int32 `[B, P]` in [0, frames); or times between them,
            float32, up to the last frame. All T by default.
          frames: Length of the window, T.

        Returns:
          Video float32 `[B, T or P, H, W, 3]`; in [-1, 1], unless "tanh" nearly.
        """
        del cycle
        act = layers.leaky_relu
        attention = nn.remat(Attention) if self.remat else Attention
        forward = nn.remat(FeedForward) if self.remat else FeedForward
        dense = lambda width, name: layers.dense(width, self.dtype, name)  # noqa: E731
        b, keyframes = motion.shape[:2]
        content = content.astype(self.dtype)
        if self.classes:
            embedding = labels.embed_label(label, self.classes, self.content, self.dtype)
            content = jnp.concatenate([content, embedding], -1)
        content = act(dense(self.style, "content0")(content))
        content = act(dense(self.style, "content1")(content))

        every = jnp.broadcast_to(content[:, None], (b, keyframes, self.style))
        x = jnp.concatenate([every, motion.astype(self.dtype)], -1)
        x = act(dense(self.style, "layout")(x))
        rows, columns = _patches(self)
        grid = tuple(side * self.grid // min(rows, columns) for side in (rows, columns))
        cells = grid[0] * grid[1]
        x = layers.dense(cells * self.width, self.dtype, "first", gain=1.0)(x)
        x = x.reshape(b, keyframes, cells, self.width).swapaxes(1, 2)
        for layer in range(self.time_layers):
            x = attention(self.heads, self.window, self.dtype, name=f"time{layer}")(x, content)
            x = forward(self.expand, self.dtype, name=f"time_forward{layer}")(x, content)

        within = jnp.arange(frames)[None] if pick is None else pick
        frames = within.shape[1]
        x = x.swapaxes(1, 2).reshape(b, x.shape[2], -1)
        x = layers.between_keyframes(x, start, within, self.stride)

        x = x.reshape(b, frames, cells, self.width)
        for layer in range(self.layout_layers):
            x = attention(self.heads, 0, self.dtype, name=f"layout{layer}")(x, content)
            x = forward(self.expand, self.dtype, name=f"layout_forward{layer}")(x, content)
        x = x.reshape(b * frames, *grid, self.width)
        x = layers.resize(x, rows, columns).reshape(b, frames, rows * columns, self.width)
        x = x + _places(self, rows * columns)
        for layer in range(self.space_layers):
            x = attention(self.heads, 0, self.dtype, name=f"space{layer}")(x, content)
            x = forward(self.expand, self.dtype, name=f"space_forward{layer}")(x, content)
        x = layers.dense(self.head * self.unfold**2, self.dtype, "head", gain=1.0)(act(x))
        x = x.reshape(b * frames, rows, columns, -1)
        make = TransformerGenerator._pixels
        pixels = (nn.remat(make) if self.remat else make)(self, x, content)
        return pixels.reshape(b, frames, *height_width(self.size), 3)

    def _pixels(
        self, x: Float[Array, "n height width channel"], content: Float[Array, "batch style"]
    ) -> Float32[Array, "... 3"]:
        """Makes the pixels of frames from their last features; to float32 `[B, ., W, 3]`.

        Args:
          x: Features `[B * T, H / patch, W / patch, unfold^2 * head]`.
          content: Content features `[B, style]`.
        """
        act = layers.leaky_relu
        height, width = height_width(self.size)
        x = layers.resize(layers.depth_to_space(x, self.unfold), height, width)
        x = x.reshape(len(content), -1, width, self.head)  # frames below each other
        for layer in range(self.head_layers):
            x = act(layers.Film(self.dtype, name=f"head_film{layer}")(x, content))
            x = layers.dense(self.head, self.dtype, f"head{layer}")(x)
        if not self.palette:
            x = layers.dense(3, self.dtype, "colours", gain=0.1)(act(x)).astype(jnp.float32)
            return layers.OUTPUTS[self.output](x)
        return layers.mix_palette(act(x), content, self.palette, self.dtype, self.output)


class TransformerDiscriminator(protocol.DiscriminatorDefaults, nn.Module):
    """Judges a window of video by attention among the patches of a frame, and among frames.

    A stem of convolutions sees the pixels of each frame finely, across the borders of patches, and
    halves frames (twice the channels each time) down to one token for each patch; those of `fold`
    frames become one. Learnt vectors stand for a token's place, and waves of the frames' distances
    from the first for its time. In each block they attend to the tokens of their frames, then
    to those of their place at all times. The last layer sees all places side by side (a mean over
    them does not tell where things are), and its mean over time makes the logit; the class enters
    by projection.

    Reference: Bertasius et al., "Is space-time attention all you need for video understanding?"
      (TimeSformer), 2021; Arnab et al., "ViViT", 2021, for tokens of several frames; Xiao et al.,
      "Early convolutions help transformers see better", 2021; Vaswani et al., "Attention is all you
      need", 2017, for waves as positions; Miyato and Koyama, "cGANs with Projection Discriminator",
      2018.

    Attributes:
      classes: Number of classes; 0 for none.
      size: Of the frames in pixels: the side of squares, or `(height, width)`.
      patch: Side in pixels of a token's patch: a power of two, and divides the size.
      front: Channels of the stem over patches of 2x2 pixels; at least 12, their numbers. Twice as
        many over 4x4, and so on.
      fold: Frames of a token.
      width: Channels of the tokens.
      heads: Heads of attention; divides the width.
      expand: Channels inside feed-forward layers over the width.
      layers: Blocks of attention over space, over time, and a feed-forward layer.
      features: Width of the last layer before the logit.
      remat: Compute the features of all blocks again in the backward pass instead of keeping them.
      dtype: Type of the computation; parameters are float32.
    """

    size: Size
    classes: int = 0
    patch: int = 4
    front: int = 24
    fold: int = 1
    width: int = 96
    heads: int = 2
    expand: int = 2
    layers: int = 2
    features: int = 256
    remat: bool = False
    dtype: str = "float32"

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        if self.patch < 2 or self.patch & (self.patch - 1):
            raise ConfigError(
                f"config.discriminator.patch is {self.patch}",
                "2, 4, 8, ...: the stem halves frames down to one token a patch",
            )
        layers.check_sizes(self, "discriminator", "fold", "expand", "features")
        _check_tokens(self, "discriminator")
        if self.front < 12:
            raise ConfigError(
                f"config.discriminator.front is {self.front}",
                "at least 12, the numbers of 2x2 pixels, or it cannot see them all",
            )

    @nn.compact
    def __call__(
        self,
        video: Float[Array, "batch time height width channel"],
        label: Int[Array, " batch *candidate"] | None = None,
        pick: Int[Array, "batch time"] | None = None,
    ) -> Float32[Array, " batch *candidate"]:
        """Judges videos.

        Args:
          video: In [-1, 1], `[B, T, H, W, C]`.
          label: Classes, int32 `[B]`, where there are classes; or `[B, K]`: K candidates each.
          pick: Numbers of the frames in the clip, rising, int32 `[B, T]`, where frames of a longer
            window were picked. Only their distances are seen.

        Returns:
          Logits float32 `[B]`; or `[B, K]`, of the video as each of the candidates.
        """
        act = layers.leaky_relu
        attention = nn.remat(Attention) if self.remat else Attention
        forward = nn.remat(FeedForward) if self.remat else FeedForward
        residual = nn.remat(layers.Residual) if self.remat else layers.Residual
        b, t, h, w, c = video.shape
        x = layers.space_to_depth(video.astype(self.dtype).reshape(b * t, h, w, c), 2)
        x = layers.dense(self.front, self.dtype, "embed", gain=1.0)(x)
        x = act(x + layers.Conv3x3(self.front, self.dtype, name="front")(act(x)))
        for level in range(1, (self.patch // 2).bit_length()):
            x = layers.space_to_depth(x, 2)
            x = layers.dense(self.front * 2**level, self.dtype, f"halve{level}")(x)
            x = act(residual(self.front * 2**level, self.dtype, name=f"stem{level}")(x))
        groups, (rows, columns) = t // self.fold, _patches(self)
        places = rows * columns
        x = x.reshape(b, groups, self.fold, places, -1).swapaxes(2, 3)
        x = layers.dense(self.width, self.dtype, "tokens")(x.reshape(b, groups, places, -1))
        number = jnp.arange(t)[None] if pick is None else pick
        waves = _waves(number - number[:, :1]).reshape(len(number), groups, -1)
        time = layers.dense(self.width, self.dtype, "time", gain=1.0)(waves)[:, :, None]
        x = x + _places(self, places) + time
        for layer in range(self.layers):
            x = attention(self.heads, 0, self.dtype, name=f"space{layer}")(x)
            x = attention(self.heads, 0, self.dtype, name=f"time{layer}")(x.swapaxes(1, 2))
            x = forward(self.expand, self.dtype, name=f"forward{layer}")(x.swapaxes(1, 2))
        x = act(layers.dense(self.features, self.dtype, "last")(act(x).reshape(b, groups, -1)))
        x = x.astype(jnp.float32).mean(1)
        return labels.projection_logits(x, label, self.classes)


def _check_tokens(module: TransformerGenerator | TransformerDiscriminator, role: str) -> None:
    """Raises ConfigError if patches do not divide frames, or heads the channels of tokens."""
    layers.check_sizes(module, role, "patch", "width", "heads")
    if any(side % module.patch for side in height_width(module.size)):
        raise ConfigError(
            f"config.{role}.patch is {module.patch}, and config.data.size is {module.size}",
            "the patch must divide the size"
            if isinstance(module.size, int)
            else "the patch must divide both sides",
        )
    layers.check_heads(module.width, module.heads, role)


def _patches(module: TransformerGenerator | TransformerDiscriminator) -> tuple[int, int]:
    """Returns the rows and columns of a frame's patches."""
    height, width = height_width(module.size)
    return height // module.patch, width // module.patch


def _places(
    module: TransformerGenerator | TransformerDiscriminator, count: int
) -> Float[Array, "1 1 {count} {module.width}"]:
    """Returns the learnt vectors of places in a frame, `[1, 1, count, width]`."""
    init = nn.initializers.normal(0.5)
    places = module.param("places", init, (count, module.width), jnp.float32)
    return jnp.asarray(places, module.dtype)[None, None]


def _waves(time: Int[Array, "batch time"]) -> Float32[Array, "batch time 16"]:
    """Returns sines and cosines of times in frames, `[B, T]` to float32 `[B, T, 16]`.

    Their periods are from 2 pi frames to some hundreds, each twice as long as the one before.
    """
    turn = time[:, :, None] * 2.0 ** -jnp.arange(8)[None, None]
    return jnp.concatenate([jnp.sin(turn), jnp.cos(turn)], -1)
