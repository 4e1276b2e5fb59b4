"""A discriminator of several small heads: frames by themselves, and frames beside each other."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

from vidgen.errors import ConfigError
from vidgen.models import layers, protocol


class HeadsDiscriminator(protocol.NetworkDefaults, nn.Module):
    """Judges what frames show and how they change, by small networks of their own.

    For each scale of the pixels an image head judges each frame by itself, and a temporal head all
    frames side by side in channels, with the gaps between them. A head is 3x3 convolutions of
    stride 2 down to 4x4, one more 3x3, and a logit averaged over places; the class enters by
    projection. Before the last convolution a channel says how much the clips of a group differ, so
    that a generator that makes few figures is found out. There is no normalisation: with it, the
    heads collapsed (docs/benchmarks.md).

    Several small players that see different things cannot be fooled by one thing; one network over
    a whole clip learns what is easiest.

    Reference: Sauer et al., "Projected GANs converge faster", 2021, for several small heads;
      Tulyakov et al., "MoCoGAN", 2018, for one of frames and one of clips; Karras et al.,
      "Progressive growing of GANs", 2018, for the deviation across the batch; Miyato and Koyama,
      "cGANs with Projection Discriminator", 2018.

    Attributes:
      size: Side of the frames in pixels.
      classes: Number of classes; 0 for none.
      scales: The heads see means over squares of so many pixels: two heads each.
      width: Channels of a head's first layer; each further one has twice as many.
      widest: Channels that no layer exceeds.
      group: Clips whose deviation is seen, which are computed together; 1 for none.
      remat: Compute the features of heads again in the backward pass instead of keeping them.
      dtype: Type of the computation; parameters are float32.
    """

    size: int
    classes: int = 0
    scales: tuple[int, ...] = (2,)
    width: int = 64
    widest: int = 128
    group: int = 4
    remat: bool = False
    dtype: str = "float32"

    @property
    def fold(self) -> int:
        """Any number of frames will do."""
        return 1

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        for scale in self.scales:
            if self.size % scale or self.size // scale < 8:
                raise ConfigError(
                    f"config.discriminator.scales has {scale}, and config.data.size is {self.size}",
                    "the size must be a multiple of each, and at least 8 times as large",
                )
        for name in ("width", "widest", "group"):
            if not getattr(self, name):
                raise ConfigError(f"config.discriminator.{name} is 0", "at least 1")

    @nn.compact
    def __call__(
        self,
        video: Float[Array, "batch time height width channel"],
        label: Int[Array, " batch *candidate"] | None = None,
        pick: Int[Array, "batch time"] | None = None,
    ) -> dict[str, Float32[Array, " batch *candidate_and_time"]]:
        """Judges videos.

        Args:
          video: In [-1, 1], `[B, T, H, W, C]`; B is a multiple of `group`, unless 1.
          label: Classes, int32 `[B]`, where there are classes; or `[B, K]`: K candidates each.
          pick: Numbers of the frames in the clip, rising, int32 `[B, T]`, where frames of a longer
            window were picked. Only their distances are seen.

        Returns:
          Logits float32 of each head: `image...` `[B, T]`, `time...` `[B]`; or `[B, K, T]` and
          `[B, K]`, of the video as each of the candidates.
        """
        b, t, h, w, c = video.shape
        head = nn.remat(_Head) if self.remat else _Head
        logits = {}
        for scale in self.scales:
            about = {"classes": self.classes, "dtype": self.dtype}
            about |= {"width": self.width, "widest": self.widest, "group": self.group}
            side = h // scale
            # A factor of the scale keeps the gradient's norm that of the pixels.
            maps = video.reshape(b, t, side, scale, w // scale, scale, c).mean((3, 5)) * scale
            each = None if label is None else jnp.repeat(label, t, 0)
            images = maps.reshape(b * t, side, -1, c)
            one = head(**about, frames=t, name=f"image{scale}")(images, each, None)
            logits[f"image{scale}"] = jnp.moveaxis(one.reshape(b, t, *one.shape[1:]), 1, -1)
            beside = maps.transpose(0, 2, 3, 1, 4).reshape(b, side, -1, t * c)
            if pick is None:
                pick = jnp.broadcast_to(jnp.arange(t), (b, t))
            gaps = jnp.log1p((pick - pick[:, :1]).astype(self.dtype))
            logits[f"time{scale}"] = head(**about, frames=1, name=f"time{scale}")(
                beside, label, gaps
            )
        return logits


class _Head(nn.Module):
    """Judges maps: strided 3x3 convolutions to 4x4, the group's deviation, one more, a logit."""

    classes: int
    width: int
    widest: int
    group: int
    frames: int
    dtype: str

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n height width channel"],
        label: Int[Array, " n *candidate"] | None,
        gaps: Float[Array, "n time"] | None,
    ) -> Float32[Array, " n *candidate"]:
        """Maps `[N, H, W, C]` to logits `[N]`, or `[N, K]` of K candidate labels."""
        act = layers.leaky_relu
        x, width, first = x.astype(self.dtype), self.width, True
        while max(x.shape[1:3]) > 4:
            name = f"down{max(x.shape[1:3])}"
            x = layers.Conv3x3(width, self.dtype, stride=2, name=name)(x)
            if first and gaps is not None:
                known = act(layers.dense(64, self.dtype, "gaps")(gaps))
                x = layers.Film(self.dtype, name="pick")(x, known)
            x, width, first = act(x), min(2 * width, self.widest), False
        if self.group > 1:
            spread = layers.group_deviation(x, self.group, self.frames)
            spread = jnp.broadcast_to(spread[:, None, None, None], (*x.shape[:3], 1))
            x = jnp.concatenate([x, spread], -1)
        x = act(layers.Conv3x3(width, self.dtype, name="last")(x))
        return layers.projection_logits(x.mean((1, 2)), label, self.classes)
