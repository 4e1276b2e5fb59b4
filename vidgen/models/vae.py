"""Variational autoencoders: generators that also infer the noise of a given video."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, Real

from vidgen.frame_size import Size, height_width
from vidgen.models import conditions as conditioning
from vidgen.models import labels, layers, protocol
from vidgen.models.residual import ResidualGenerator, check_levels


class VariationalAutoencoder(protocol.GeneratorDefaults, nn.Module):
    """A `ResidualGenerator` as the decoder, and an encoder that gives the noise of real clips.

    The prior is what the decoder takes: one content vector for a clip and motion noise at keyframes
    every `stride` frames, all standard normal and independent. So a trained decoder is a generator
    as any other: endless, and each frame a function of seed and time. The posterior is normal with
    a diagonal covariance: content from the mean over time of what each frame shows, motion from the
    frames about each keyframe. Conditions are told to the decoder alone: the noise has to say
    only what they do not.

    Reference: Kingma and Welling, "Auto-encoding variational Bayes", 2014; Li and Mandt,
      "Disentangled sequential autoencoder", 2018, for one content and a sequence of motion latents;
      Sohn et al., "Learning structured output representation using deep conditional generative
      models", 2015, for conditions.

    Attributes:
      size: Of the frames in pixels: the side of squares, 4 times a power of two, or a height and a
        width (`layers.coarsest_map`).
      classes: Number of classes; 0 for none.
      widths: Channels of each level of the decoder, 4x4 first, each twice as large as the one
        before.
      blocks: Residual blocks of each level.
      head: Channels of the pointwise layers at full resolution.
      head_layers: How many, before the colours.
      palette: Colours that a clip mixes its pixels from; 0 for colours straight from the features.
      output: "tanh" bounds the colours, a palette's too; "leaky" adds a slope of a twentieth, by
        which what was saturated finds back; "linear" leaves them without bounds, for clips whose
        background is black or white.
      content: Channels of the content noise, at least 1.
      motion: Channels of the motion noise, at least 1.
      style: Channels of the decoder's content and motion features.
      stride: Frames between keyframes of motion noise.
      motion_layers: Temporal convolutions (3 taps) over the keyframes.
      remat: Compute the decoder's features of residual blocks and at full resolution again in the
        backward pass instead of keeping them.
      dtype: Type of the computation of decoder and encoder; parameters are float32.
      encoder_widths: Channels of each level of the encoder, finest first, each half as large, down
        to 4x4 (of frames that are not square, to the smallest map of their aspect). What is finer
        still is folded into channels.
      features: Channels of what the encoder keeps of a frame.
      time_layers: Temporal convolutions (3 taps) over the frames' features.
      loop: Frames after which a sampled video begins again, a multiple of stride; 0: never.
      conditions: What the decoder is told beside the class, names and options.
    """

    size: Size
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
    remat: bool = False
    dtype: str = "float32"
    encoder_widths: tuple[int, ...] = (64, 96, 128)
    features: int = 128
    time_layers: int = 1
    loop: int = 0
    conditions: conditioning.Conditions = ()
    encodes = True
    between_frames = True
    sampling_options = ("loop",)

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        layers.check_sizes(self, "generator", "content", "motion", "features")
        self._generator().check()
        check_levels("encoder_widths", self.encoder_widths, self.size, "from")

    def _generator(self) -> ResidualGenerator:
        others = ("encoder_widths", "features", "time_layers", "parent", "name")
        names = [name for name in self.__dataclass_fields__ if name not in others]
        return ResidualGenerator(**{name: getattr(self, name) for name in names}, parent=None)

    def keyframes(self, frames: int) -> int:
        """Returns how many keyframes of motion noise a window of `frames` needs, at any phase."""
        return self._generator().keyframes(frames)

    @property
    def context(self) -> int:
        """How many keyframes of motion noise lie before the one that a window begins at."""
        return self._generator().context

    def setup(self):
        """Makes both networks."""
        self.decoder = self._generator()
        self.encoder = Encoder(
            self.classes,
            self.encoder_widths,
            self.features,
            self.time_layers,
            self.content,
            self.motion,
            self.dtype,
        )

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
        """Makes a window of video; arguments and result as for `ResidualGenerator`."""
        if self.is_initializing():
            # `init` calls this alone and must make both networks' parameters.
            video = jnp.zeros((len(start), frames, *height_width(self.size), 3))
            self.encode(video, start, label)
        return self.decoder(content, motion, cycle, start, label, pick, given, frames=frames)

    def encode(
        self,
        video: Float[Array, "batch time height width 3"],
        start: Int[Array, " batch"],
        label: Int[Array, " batch"] | None = None,
        frames: int | None = None,
    ) -> tuple[protocol.Posterior, protocol.Posterior]:
        """Gives the posterior of the noise that windows of video were made of.

        Args:
          video: In [-1, 1], `[B, T, H, W, 3]`.
          start: First frame of each window, int32 `[B]`; only its place between keyframes is seen.
          label: Classes, int32 `[B]`, where there are classes.
          frames: Length of the window that keyframes are wanted for; T by default. Keyframes beyond
            the video are extrapolated.

        Returns:
          Means and log variances of content, float32 `[B, content]`, and of motion, float32
          `[B, keyframes(frames), motion]`.
        """
        count = self.keyframes(frames or video.shape[1])
        times = (jnp.arange(count) - self.context)[None] * self.stride
        times -= (start % self.stride)[:, None]
        # What lies further out does not reach the video's frames.
        reach = (self.context + 1) * self.stride
        beyond = times - jnp.clip(times, 0, video.shape[1] - 1)
        beyond = jnp.clip(beyond, -reach, reach) / self.stride
        return self.encoder(video, times, beyond, label)


class Encoder(nn.Module):
    """Gives posteriors: frames by 2D convolutions, then time by matrix products.

    Attributes: as of `VariationalAutoencoder`.
    """

    classes: int
    widths: tuple[int, ...]
    features: int
    time_layers: int
    content: int
    motion: int
    dtype: str

    @nn.compact
    def __call__(
        self,
        video: Float[Array, "batch time height width 3"],
        times: Int[Array, "batch keyframe"],
        beyond: Float[Array, "batch keyframe"],
        label: Int[Array, " batch"] | None,
    ) -> tuple[protocol.Posterior, protocol.Posterior]:
        """Gives the posteriors of content and motion.

        Args:
          video: In [-1, 1], `[B, T, H, W, C]`.
          times: Frames of the keyframes, counted from the first of the window, int32 `[B, K]`.
          beyond: How many strides each keyframe lies before (below 0) or after the video, `[B, K]`.
          label: Classes, int32 `[B]`, where there are classes.

        Returns:
          Means and log variances of content, float32 `[B, content]`, and of motion, float32
          `[B, K, motion]`.
        """
        act = layers.leaky_relu
        dense = lambda width, name: layers.dense(width, self.dtype, name)  # noqa: E731
        b, t, h, w, c = video.shape
        x = video.astype(self.dtype).reshape(b * t, h, w, c)
        halved = 2 ** (len(self.widths) - 1)
        coarsest = layers.coarsest_map((h, w), halved)
        assert coarsest is not None  # as `check` makes sure
        x = layers.space_to_depth(x, h // (coarsest[0] * halved))
        x = layers.dense(self.widths[0], self.dtype, "embed", gain=1.0)(x)
        for level, width in enumerate(self.widths):
            if level:
                x = layers.downsample(x)
            x = layers.Residual(width, self.dtype, name=f"level{level}")(x)
        x = act(dense(self.features, "frame")(act(x).reshape(b, t, -1)))
        for layer in range(self.time_layers):
            before = jnp.concatenate([x[:, :1], x[:, :-1]], 1)
            after = jnp.concatenate([x[:, 1:], x[:, -1:]], 1)
            x = act(dense(self.features, f"time{layer}")(jnp.concatenate([before, x, after], -1)))

        still = x.mean(1)
        if self.classes:
            embedding = labels.embed_label(label, self.classes, self.features, self.dtype)
            still = jnp.concatenate([still, embedding], -1)
        still = act(dense(self.features, "still")(still))

        near = jnp.take_along_axis(x, jnp.clip(times, 0, t - 1)[:, :, None], 1)
        beyond = beyond[:, :, None].astype(self.dtype)
        # What moves evenly is extrapolated by a product of its speed and the distance.
        move = act(dense(self.features, "move")(jnp.concatenate([near, near * beyond, beyond], -1)))
        return self._posterior("content", still), self._posterior("motion", move)

    def _posterior(self, name: str, x: Float[Array, "batch ..."]) -> protocol.Posterior:
        """Makes means and log variances; in float32, and at first near the prior."""
        width = 2 * getattr(self, name)
        mean, log_variance = jnp.split(layers.dense(width, "float32", name, gain=0.1)(x), 2, -1)
        return mean, log_variance
