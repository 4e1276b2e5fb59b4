"""Generator and discriminator of 2D residual blocks on folded time, without normalisation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, Real

from vidgen.errors import ConfigError
from vidgen.frame_size import Size, height_width
from vidgen.models import conditions as conditioning
from vidgen.models import labels, layers, protocol

GAITS = "alike", "strengths", "one"


class ResidualGenerator(protocol.GeneratorDefaults, nn.Module):
    """Makes video from one content vector and a stream of motion noise.

    Motion noise arrives at keyframes every `stride` frames and passes through temporal convolutions
    without padding; between keyframes the motion features are interpolated linearly. What repeats
    (steps, waves), noise cannot keep in time: cycles turn at a rate that content chooses, from a
    phase that is noise. Content, motion and cycles make a small map for each frame, which 2D
    residual blocks enlarge. Content alone modulates them, so that appearance stays while the layout
    moves. The last features are interpolated to full resolution, where a small network of pointwise
    layers lets each pixel mix the colours of a palette that content chooses: an edge is where a
    smooth feature crosses a threshold, so it is sharp wherever it lies, and an area keeps its
    colour wherever it moves. (Unfolding patches of pixels from channels instead made grids of noise
    that stayed; docs/benchmarks.md.)

    Nothing depends on the length of the window or on its place in it, so windows agree where they
    overlap.

    Reference: Skorokhodov et al., "StyleGAN-V", 2022, for motion noise at a coarse rate and waves
      of learnt period and phase; Brooks et al., "Generating long videos of dynamic scenes", 2022,
      for temporal convolution over noise; Tulyakov et al., "MoCoGAN", 2018, for content and motion;
      Chen et al., "Learning continuous image representation with local implicit image function",
      2021, for pointwise layers over interpolated features; Perez et al., "FiLM", 2018.

    Attributes:
      size: Of the frames in pixels: the side of squares, 4 times a power of two, or a height and a
        width (`layers.coarsest_map`).
      classes: Number of classes; 0 for none.
      widths: Channels of each level, 4x4 first (of frames that are not square, the smallest map of
        their aspect), each twice as large as the one before.
      blocks: Residual blocks of each level.
      head: Channels of the pointwise layers at full resolution.
      head_layers: How many, before the colours.
      palette: Colours that a clip mixes its pixels from; 0 for colours straight from the features.
      output: "tanh" bounds the colours, a palette's too; "leaky" adds a slope of a twentieth, by
        which what was saturated finds back; "linear" leaves bounds to the discriminator, for clips
        whose background is black or white.
      feature_bound: Root mean square of a pixel's features at most, at the beginning of each level
        after the first and at full resolution; 0 for no bound. Without one they can grow through
        the levels, by what is multiplied there, until the palette's shares are all or nothing and
        learn no more.
      content: Channels of the content noise.
      motion: Channels of the motion noise; 0 where cycles alone move the clip.
      style: Channels of the content and motion features.
      stride: Frames between keyframes of motion noise.
      motion_layers: Temporal convolutions (3 taps) over the keyframes.
      periods: Frames of a turn of each cycle; content makes it faster or slower. None for clips
        that do not repeat themselves.
      tempo_range: Octaves by which cycles are faster or slower at most: 1 for half to twice the
        periods, 0 to keep them.
      gaits: What content does with cycles: "alike", nothing; "strengths" gives each a strength from
        0 to 2; "one" chooses one of them for the clip, so that it comes back after a turn of that.
      harmonics: Waves of each cycle: the turn itself, twice as fast, and so on. Poses that follow
        each other abruptly take several.
      loop: Frames after which a sampled video begins again, a multiple of stride; 0: never. Cycles
        then turn as often as they nearly would in that time.
      conditions: What it is told beside the class, names and options (`models.conditions`).
        Vectors join content; maps join the features of their scale; pixels that a condition has
        may be taken over, by shares of its own for each pixel.
      remat: Compute the features of residual blocks and at full resolution again in the
        backward pass instead of keeping them.
      dtype: Type of the computation; parameters are float32.
    """

    size: Size
    classes: int = 0
    widths: tuple[int, ...] = (128, 96, 64)
    blocks: int = 1
    head: int = 32
    head_layers: int = 1
    palette: int = 16
    output: str = "tanh"
    feature_bound: float = 0.0
    content: int = 64
    motion: int = 32
    style: int = 128
    stride: int = 8
    motion_layers: int = 1
    periods: tuple[int, ...] = ()
    tempo_range: float = 1.0
    gaits: str = "alike"
    harmonics: int = 1
    loop: int = 0
    conditions: conditioning.Conditions = ()
    remat: bool = False
    dtype: str = "float32"
    between_frames = True
    sampling_options = ("loop",)

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        check_levels("widths", self.widths, self.size, "up to")
        layers.check_output(self.output)
        layers.check_sizes(self, "generator", "head", "content", "style", "stride")
        if self.feature_bound < 0:
            raise ConfigError(
                f"config.generator.feature_bound is {self.feature_bound}", "at least 0; 0 for none"
            )
        if self.tempo_range < 0:
            raise ConfigError(f"config.generator.tempo_range is {self.tempo_range}", "at least 0")
        least = 2 ** (1 + self.tempo_range)
        if self.periods and min(self.periods) < least:
            raise ConfigError(
                f"config.generator.periods has {min(self.periods)}",
                f"at least {least:g} frames: 2 for a turn where it is fastest",
            )
        if not self.motion and not self.periods:
            raise ConfigError(
                "config.generator.motion is 0 and config.generator.periods is empty",
                "nothing would move: one of them",
            )
        if self.gaits not in GAITS:
            raise ConfigError(
                f"config.generator.gaits is {self.gaits!r}", f"one of {', '.join(GAITS)}"
            )
        if self.harmonics < 1:
            raise ConfigError(f"config.generator.harmonics is {self.harmonics}", "at least 1")
        layers.check_loop(self)
        conditioning.check(self.conditions, self.size)

    def keyframes(self, frames: int) -> int:
        """Returns how many keyframes of motion noise a window of `frames` needs, at any phase."""
        return -(-(frames - 1 + self.stride - 1) // self.stride) + 1 + 2 * self.motion_layers

    @property
    def context(self) -> int:
        """How many keyframes of motion noise lie before the one that a window begins at."""
        return self.motion_layers

    @nn.compact
    def __call__(
        self,
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch keyframe motion"],
        cycle: Float[Array, "batch cycle"],
        start: Int[Array, " batch"],
        label: protocol.Label | None = None,
        pick: Real[Array, "batch time"] | None = None,
        given: conditioning.Given | None = None,
        *,
        frames: int,
    ) -> Float32[Array, "batch time height width 3"]:
        """Makes a window of video.

        Args:
          content: Content noise `[B, content]`.
          motion: Keyframes of motion noise `[B, keyframes(frames), motion]`, from `context` before
            the last one that is not after the window's first frame.
          cycle: Turn of each cycle in frame 0, uniform noise in [0, 1), `[B, len(periods)]`.
          start: First frame of each window, int32 `[B]`, at least 0.
          label: Classes, int32 `[B]`, where there are classes; or weights of them, `[B, classes]`.
          pick: Frames of the window to make, int32 `[B, P]` in [0, frames); or times between them,
            float32, up to the last frame. All T by default.
          given: Arrays of conditions, of the window; those that are not there are absent.
          frames: Length of the window, T.

        Returns:
          Video float32 `[B, T or P, H, W, 3]`; in [-1, 1], unless "tanh" nearly.
        """
        act = layers.leaky_relu
        residual = nn.remat(layers.Residual) if self.remat else layers.Residual
        dense = lambda width, name: layers.dense(width, self.dtype, name)  # noqa: E731
        content = content.astype(self.dtype)
        if self.classes:
            embedding = labels.embed_label(label, self.classes, self.content, self.dtype)
            content = jnp.concatenate([content, embedding], -1)
        within = jnp.arange(frames)[None] if pick is None else pick
        if self.conditions:
            least = layers.coarsest_map(self.size, 2 ** (len(self.widths) - 1))
            assert least is not None  # as `check` makes sure
            full = height_width(self.size)
            sides = [(least[0] << n, least[1] << n) for n in range(len(self.widths))]
            sides = tuple(one for one in sides if one != full)
            given = conditioning.filled(given, self.conditions, len(content), self.size, frames)
            encoders = conditioning.Encoders(
                self.conditions, self.size, sides, self.dtype, name="conditions"
            )
            told = encoders(given, within)
            if told.vector is not None:
                content = jnp.concatenate([content, told.vector], -1)
        else:
            told = conditioning.NOTHING
        content = act(dense(self.style, "content0")(content))
        content = act(dense(self.style, "content1")(content))

        b, frames = content.shape[0], within.shape[1]
        every = jnp.broadcast_to(content[:, None], (b, frames, self.style))
        layout = [every]
        if self.motion:
            move = motion.astype(self.dtype)
            for layer in range(self.motion_layers):
                taps = jnp.concatenate([move[:, :-2], move[:, 1:-1], move[:, 2:]], -1)
                shift = dense(self.style, f"motion_content{layer}")(content)
                move = act(dense(self.style, f"motion{layer}")(taps) + shift[:, None])
            layout.append(layers.between_keyframes(move, start, within, self.stride))
        if self.periods:
            bend = jnp.zeros(cycle.shape)
            if self.tempo_range:
                bend = layers.dense(len(self.periods), "float32", "tempo", gain=0.01)(content)
                bend = self.tempo_range * jnp.tanh(bend)
            rate = 2**bend / jnp.asarray(self.periods, jnp.float32)[None]
            if self.loop:  # whole turns, so that they close
                rate = jnp.maximum(jnp.round(rate * self.loop), 1) / self.loop
            turn = 2 * jnp.pi * _turns(cycle, rate, start, within, self.loop)
            turn = turn[..., None] * jnp.arange(1.0, self.harmonics + 1)[None, None, None]
            waves = jnp.concatenate([jnp.sin(turn), jnp.cos(turn)], 2)
            if self.gaits != "alike":
                # Strengths do not compete: shares of one fell to a single cycle in training. Where
                # one is chosen, some clips of each class begin with each, so that all are tried.
                one = self.gaits == "one"
                gain = 1.0 if one else 0.01
                gait = layers.dense(len(self.periods), "float32", "gait", gain=gain)(content)
                gait = _one(gait) if one else 2 * nn.sigmoid(gait)
                waves *= jnp.tile(gait, (1, 2))[:, None, :, None]
            layout.append(waves.reshape(b, frames, -1).astype(self.dtype))
        layout = jnp.concatenate(layout, -1).reshape(b * frames, -1)
        layout = act(dense(self.style, "layout")(layout))
        style = every.reshape(b * frames, -1)

        coarsest = layers.coarsest_map(self.size, 2 ** (len(self.widths) - 1))
        assert coarsest is not None  # as `check` makes sure
        rows, columns = coarsest
        x = dense(rows * columns * self.widths[0], "first")(layout)
        x = x.reshape(-1, rows, columns, self.widths[0])
        for level, width in enumerate(self.widths):
            if level:  # narrower first: a quarter of the pixels to narrow, and less to enlarge
                x = layers.dense(width, self.dtype, f"narrow{level}", gain=1.0)(x)
                x = layers.bound_rms(x, self.feature_bound)
                x = layers.resize(x, 2 * x.shape[1], 2 * x.shape[2])
            if (maps := told.maps.get(x.shape[1])) is not None:  # as if side by side, then mixed
                x = x + layers.dense(width, self.dtype, f"told{level}", gain=1.0)(act(maps))
            for block in range(self.blocks):
                x = residual(width, self.dtype, name=f"level{level}_{block}")(x, style)
        x = layers.bound_rms(dense(self.head, "head")(act(x)), self.feature_bound)
        pixels = nn.remat(ResidualGenerator._pixels) if self.remat else ResidualGenerator._pixels
        video, x = pixels(self, x, style, content, conditioning.side_by_side(told.seen))
        video = video.reshape(b, frames, *height_width(self.size), 3)
        if not told.seen:
            return video
        return conditioning.take_over(video, x, told.seen)

    def _pixels(
        self,
        x: Float[Array, "n height width head"],
        style: Float[Array, "n style"],
        content: Float[Array, "batch style"],
        raw: Float[Array, "n rows columns told"] | None,
    ) -> tuple[Float32[Array, "... 3"], Float[Array, "n rows columns feature"]]:
        """Makes the pixels of frames from their last features; `[N, H, W, head]` to float32.

        Args:
          x: Features.
          style: Of each frame.
          content: Of each clip.
          raw: What conditions say of each pixel, as large as the frames.

        Returns:
          Pixels, and the features that they are of.
        """
        act = layers.leaky_relu
        x = layers.resize(x, *height_width(self.size))
        if raw is not None:
            x = x + layers.dense(self.head, self.dtype, "told", gain=1.0)(raw.astype(self.dtype))
        for layer in range(self.head_layers):
            x = act(layers.Film(self.dtype, name=f"head_film{layer}")(x, style))
            x = layers.dense(self.head, self.dtype, f"head{layer}")(x)
            x = layers.bound_rms(x, self.feature_bound)
        if not self.palette:
            video = layers.dense(3, self.dtype, "colours", gain=0.1)(act(x)).astype(jnp.float32)
            return layers.OUTPUTS[self.output](video), x
        return layers.mix_palette(act(x), content, self.palette, self.dtype, self.output), x


def _one(logits: Float32[Array, "batch cycle"]) -> Float32[Array, "batch cycle"]:
    """Returns 1 for the largest logit and 0 for the others; the gradient is that of a softmax.

    Reference: Bengio et al., "Estimating or propagating gradients through stochastic neurons for
      conditional computation", 2013, for the straight-through estimator.
    """
    soft = nn.softmax(logits)
    chosen = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1])
    return chosen + soft - jax.lax.stop_gradient(soft)


def check_levels(field: str, widths: tuple[int, ...], size: Size, way: str) -> None:
    """Raises ConfigError if frames have no map that doubles to theirs at each level but one.

    Args:
      field: Of the section `generator`, whose levels they are.
      widths: Its value.
      size: Of the frames.
      way: "up to" or "from", where the levels end or begin.
    """
    unit = 2 ** (len(widths) - 1)
    if layers.coarsest_map(size, unit) is None:
        last, what = 4 * unit, f"config.generator.{field} has {len(widths)} levels"
        if isinstance(size, tuple):
            raise layers.no_map(what, size, unit)
        raise ConfigError(
            f"{what}, {way} {last}x{last}, and config.data.size is {size}",
            f"the size must be a multiple of {last}",
        )


def _turns(
    cycle: Float32[Array, "batch cycle"],
    rate: Float32[Array, "batch cycle"],
    start: Int[Array, " batch"],
    within: Real[Array, "#batch time"],
    loop: int = 0,
) -> Float32[Array, "batch time cycle"]:
    """Returns where cycles stand in each frame of a window, in turns: `cycle + rate * time` mod 1.

    In whole numbers of 2^-32 turns, which wrap: the digits of a float would run out in long videos.
    The gradient by the rate is that of a window that begins at frame 0, wherever it begins: by the
    whole time it would grow without bound, and the turn that the clip starts with is noise anyway.

    Args:
      cycle: Turns in frame 0, `[B, K]`, in [0, 1).
      rate: Turns for a frame, `[B, K]`, in [0, 1/2].
      start: First frame, int32 `[B]`.
      within: Frames of the window, int32 `[B or 1, T]`; or float32, for times between frames.
      loop: Frames after which time begins again; 0: never.

    Returns:
      Float32 in [0, 1), `[B, T, K]`.
    """
    whole = lambda x: jax.lax.stop_gradient(x * 2.0**32).astype(jnp.uint32)  # noqa: E731
    within = within[:, :, None]
    exactly = jnp.issubdtype(within.dtype, jnp.integer)
    frame = within if exactly else jnp.floor(within).astype(jnp.int32)
    time = start[:, None, None] + frame
    time = (time % loop if loop else time).astype(jnp.uint32)
    turns = whole(cycle)[:, None] + whole(rate)[:, None] * time
    # 24 bits are what a float32 holds exactly.
    exact = (turns >> 8).astype(jnp.float32) * 2.0**-24
    exact += (cycle - jax.lax.stop_gradient(cycle))[:, None]  # nothing, with a gradient of 1
    if not exactly:
        exact += jax.lax.stop_gradient(rate)[:, None] * (within - frame)
    return exact + (rate - jax.lax.stop_gradient(rate))[:, None] * within


class ResidualDiscriminator(protocol.DiscriminatorDefaults, nn.Module):
    """Judges a window of video: frames first, then all frames of a group together.

    A narrow front sees each frame finely. Its features are folded down to the resolution of the
    trunk, and there `fold` frames at a time into channels, which one matrix product mixes: from
    then on 2D residual blocks see motion as they see shape, once for a group instead of once for a
    frame. Between levels, neighbouring groups are mixed. What each frame shows by itself also goes
    to the logit directly, averaged over the frames: shapes are learnt sooner there than behind the
    trunk. The class enters by projection.

    Reference: Huang et al., "The GAN is dead; long live the GAN!" (R3GAN), 2024, for residual
      blocks without normalisation; Miyato and Koyama, "cGANs with Projection Discriminator", 2018.

    Attributes:
      classes: Number of classes; 0 for none.
      size: Of the frames in pixels: the side of squares, or `(height, width)`.
      patch: Side of the pixel patches that the front works on.
      front: Channels of the front; at least 3 * patch^2, or it is blind to some patterns.
      neck: Channels of a frame before frames are folded together.
      frame_blocks: Residual blocks over each frame, at the trunk's first resolution.
      fold: Frames folded together.
      widths: Channels of each level of the trunk, finest first, each half as large, down to 4x4;
        of frames that are not square, to the smallest map of their aspect.
      blocks: Residual blocks of each level.
      features: Width of the last layer before the logit.
      frame_features: Width of each frame's own features beside them; 0 for none.
      remat: Compute the features of residual blocks again in the backward pass instead of keeping
        them.
      dtype: Type of the computation; parameters are float32.
    """

    size: Size
    classes: int = 0
    patch: int = 2
    front: int = 24
    neck: int = 48
    frame_blocks: int = 1
    fold: int = 8
    widths: tuple[int, ...] = (96, 128)
    blocks: int = 1
    features: int = 256
    frame_features: int = 128
    remat: bool = False
    dtype: str = "float32"

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        layers.check_sizes(self, "discriminator", "neck", "features", "fold")
        trunk = 4 * 2 ** (len(self.widths) - 1)
        unit = self.patch * 2 ** (len(self.widths) - 1)
        if layers.coarsest_map(self.size, unit, twos=True) is None:
            if isinstance(self.size, tuple) and unit:
                what = f"config.discriminator.widths has {len(self.widths)} levels"
                what += f", over patches of {self.patch}"
                raise layers.no_map(what, self.size, unit, twos=True)
            frames = "x".join(str(side) for side in height_width(self.size))
            raise ConfigError(
                f"config.discriminator.widths has {len(self.widths)} levels, from {trunk}x{trunk}; "
                f"{frames} frames in patches of {self.patch} do not fold to that",
                "size / patch must be 4 times 2 for each level after the first, or more twos",
            )
        if self.front < 3 * self.patch**2:
            raise ConfigError(
                f"config.discriminator.front is {self.front}",
                f"at least {3 * self.patch**2}, the numbers of a patch, or it cannot see them all",
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
        residual = nn.remat(layers.Residual) if self.remat else layers.Residual
        dense = lambda width, name: layers.dense(width, self.dtype, name)  # noqa: E731
        b, t, h, w, c = video.shape
        x = layers.space_to_depth(video.astype(self.dtype).reshape(b * t, h, w, c), self.patch)
        x = layers.dense(self.front, self.dtype, "embed", gain=1.0)(x)
        x = act(x + layers.Conv3x3(self.front, self.dtype, name="front")(act(x)))
        halved = 2 ** (len(self.widths) - 1)
        coarsest = layers.coarsest_map((h, w), self.patch * halved, twos=True)
        assert coarsest is not None  # as `check` makes sure
        rows, columns = (halved * count for count in coarsest)
        x = dense(self.neck, "neck")(layers.space_to_depth(x, x.shape[1] // rows))
        for block in range(self.frame_blocks):
            x = residual(self.neck, self.dtype, name=f"frame{block}")(x)
        x = frames = act(x)

        groups = t // self.fold
        x = x.reshape(b * groups, self.fold, rows, columns, self.neck)
        x = x.transpose(0, 2, 3, 1, 4).reshape(b * groups, rows, columns, -1)
        x = dense(self.widths[0], "fold")(x)
        if pick is not None:
            gaps = jnp.log1p((pick - pick[:, :1]).astype(self.dtype))
            gaps = act(dense(self.features, "gaps")(gaps))
            x = layers.Film(self.dtype, name="pick")(x, jnp.repeat(gaps, groups, 0))
        for level, width in enumerate(self.widths):
            if level:
                x = layers.downsample(x)
            for block in range(self.blocks):
                x = residual(width, self.dtype, name=f"level{level}_{block}")(x)
            x = layers.MixTime(groups, self.dtype, name=f"time{level}")(x)
        x = act(dense(self.features, "last")(act(x).reshape(b, -1)))
        if self.frame_features:
            frames = act(dense(self.frame_features, "frame_last")(frames.reshape(b, t, -1)))
            x = jnp.concatenate([x, frames.mean(1)], -1)
        return labels.projection_logits(x, label, self.classes)
