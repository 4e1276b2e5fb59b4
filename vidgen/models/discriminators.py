"""Discriminators: `(video, label) -> logits`."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidgen.errors import ConfigError
from vidgen.models import layers


class ResidualDiscriminator(nn.Module):
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
      size: Side of the frames in pixels.
      patch: Side of the pixel patches that the front works on.
      front: Channels of the front; at least 3 * patch^2, or it is blind to some patterns.
      neck: Channels of a frame before frames are folded together.
      frame_blocks: Residual blocks over each frame, at the trunk's first resolution.
      fold: Frames folded together.
      widths: Channels of each level of the trunk, finest first, each half as large, down to 4x4.
      blocks: Residual blocks of each level.
      features: Width of the last layer before the logit.
      frame_features: Width of each frame's own features beside them; 0 for none.
      remat: Compute the features of residual blocks again on the way back instead of keeping them.
      dtype: Type of the computation; parameters are float32.
    """

    size: int
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
        trunk = 4 * 2 ** (len(self.widths) - 1)
        folds = self.size / self.patch / trunk if self.patch else 0.0
        if folds < 1 or folds != int(folds) or int(folds) & (int(folds) - 1):
            raise ConfigError(
                f"config.discriminator.widths has {len(self.widths)} levels, from {trunk}x{trunk}; "
                f"{self.size}x{self.size} frames in patches of {self.patch} do not fold to that",
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
        video: jax.Array,
        label: jax.Array | None = None,
        pick: jax.Array | None = None,
    ) -> jax.Array:
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
        trunk = 4 * 2 ** (len(self.widths) - 1)
        x = dense(self.neck, "neck")(layers.space_to_depth(x, x.shape[1] // trunk))
        for block in range(self.frame_blocks):
            x = residual(self.neck, self.dtype, name=f"frame{block}")(x)
        x = frames = act(x)

        groups = t // self.fold
        x = x.reshape(b * groups, self.fold, trunk, trunk, self.neck)
        x = x.transpose(0, 2, 3, 1, 4).reshape(b * groups, trunk, trunk, -1)
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
        return layers.judged(x, label, self.classes)
