"""A discriminator of several small heads: frames by themselves, and frames beside each other."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, PyTree

from vidgen.errors import ConfigError
from vidgen.frame_size import Size, height_width
from vidgen.models import conditions as conditioning
from vidgen.models import labels, layers, protocol
from vidgen.models.features import efficientnet


class HeadsDiscriminator(protocol.DiscriminatorDefaults, nn.Module):
    """Judges what frames show and how they change, by small networks of their own.

    Its inputs are the pixels at some scales, and features of a frozen network that was trained to
    tell things in photographs from each other (`taps`). For each, an image head judges each frame
    by itself, and a temporal head all frames side by side in channels, with the gaps between them.
    A head is 3x3 convolutions of stride 2 down to 4x4 (of frames that are not square, until the
    longer side is at most 4 or the shorter one 2), one more 3x3, and a logit averaged over places;
    the class enters by projection. Before the last convolution a channel says how much the clips of
    a group differ, so that a generator that makes few figures is found out. There is no
    normalisation: with it, the heads collapsed (docs/benchmarks.md).

    Several small players that see different things cannot be fooled by one thing; one network over
    a whole clip learns what is easiest.

    Reference: Sauer et al., "Projected GANs converge faster", 2021, for several small heads;
      Tulyakov et al., "MoCoGAN", 2018, for one of frames and one of clips; Karras et al.,
      "Progressive growing of GANs", 2018, for the deviation across the batch; Miyato and Koyama,
      "cGANs with Projection Discriminator", 2018.

    Attributes:
      size: Of the frames in pixels: the side of squares, or `(height, width)`.
      classes: Number of classes; 0 for none.
      scales: Heads see means over squares of so many pixels: two heads each.
      unfold: Of the scales, those whose heads see the pixels of a square side by side in channels
        instead of their mean: every pixel, where scale 1 would cost four times as much.
      taps: Heads see features of EfficientNet-Lite0 at so many pixels a place, of 4, 8, 16, 32: two
        heads each. For natural footage, not for drawings; it needs `vidgen[features]`.
      tap_scale: Those features are computed from means over squares of so many pixels. With 2 they
        cost at 128x128 what they cost at 64x64.
      width: Channels of the first layer of heads on pixels; each further one has twice as many.
      tap_width: Channels of the first layer of heads on features.
      widest: Channels that no layer exceeds.
      change: Temporal heads see the first frame, and so many times the differences of the others
        from it: what moves is small beside what stays.
      group: Clips whose deviation is seen, which are computed together; 1 for none.
      conditions: What clips were asked to be, names and options (`models.conditions`): vectors
        enter by projection, as the class; maps lie beside what is seen, at its scale.
      remat: Compute the features of heads again in the backward pass instead of keeping them.
      dtype: Type of the computation; parameters are float32.
    """

    size: Size
    classes: int = 0
    scales: tuple[int, ...] = (2,)
    unfold: tuple[int, ...] = ()
    taps: tuple[int, ...] = ()
    tap_scale: int = 1
    width: int = 64
    tap_width: int = 64
    widest: int = 128
    change: float = 1.0
    group: int = 4
    conditions: conditioning.Conditions = ()
    remat: bool = False
    dtype: str = "float32"

    @property
    def pretrained(self) -> bool:
        """Whether there are taps."""
        return bool(self.taps)

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        sides = height_width(self.size)
        if self.tap_scale < 1 or any(side % self.tap_scale for side in sides):
            raise ConfigError(
                f"config.discriminator.tap_scale is {self.tap_scale}, and config.data.size is "
                f"{self.size}",
                "at least 1; the size must be a multiple of it",
            )
        seen = min(sides) // self.tap_scale
        for tap in self.taps:
            if tap not in efficientnet.TAPS or seen < 2 * tap:
                fits = [str(t) for t in efficientnet.TAPS if seen >= 2 * t]
                raise ConfigError(
                    f"config.discriminator.taps has {tap}, and the shorter side of what they see "
                    f"(config.data.size over config.discriminator.tap_scale) is {seen}",
                    f"of {', '.join(fits)}" if fits else "heads on pixels alone",
                )
        for scale in self.scales:
            if any(side % scale for side in sides) or min(sides) // scale < 8:
                raise ConfigError(
                    f"config.discriminator.scales has {scale}, and config.data.size is {self.size}",
                    "the size must be a multiple of each, and at least 8 times as large"
                    if isinstance(self.size, int)
                    else "both sides must be multiples of each, and at least 8 times as large",
                )
        if other := set(self.unfold) - set(self.scales):
            raise ConfigError(
                f"config.discriminator.unfold has {min(other)}",
                f"of config.discriminator.scales, {self.scales}",
            )
        layers.check_sizes(self, "discriminator", "width", "tap_width", "widest", "group")

    def see(
        self, frozen: PyTree, video: Float[Array, "batch time height width channel"]
    ) -> dict[str, Float[Array, "batch time rows columns feature"]]:
        """Returns what heads see of a video: maps by name.

        Args:
          frozen: From `efficientnet_weights.load`, where there are taps.
          video: In [-1, 1], `[B, T, H, W, 3]`.
        """
        b, t, h, w, c = video.shape
        video, maps = video.astype(self.dtype), {}
        frames = video.reshape(b * t, h, w, c)

        def means(scale: int):
            return frames.reshape(-1, h // scale, scale, w // scale, scale, c).mean((2, 4))

        for scale in self.scales:
            if scale in self.unfold:
                x = layers.space_to_depth(frames, scale)
            else:  # times the scale, which keeps the norm of the gradient that of the pixels
                x = means(scale) * scale
            maps[f"pixels{scale}"] = x.reshape(b, t, *x.shape[1:])
        if self.taps:
            found = efficientnet.mixed(frozen, means(self.tap_scale), self.taps)
            maps |= {f"tap{n}": x.reshape(b, t, *x.shape[1:]) for n, x in found.items()}
        return maps

    @nn.compact
    def __call__(
        self,
        maps: dict[str, Float[Array, "batch time rows columns feature"]],
        label: Int[Array, " batch *candidate"] | None = None,
        pick: Int[Array, "batch time"] | None = None,
        asked: conditioning.Asked | None = None,
    ) -> dict[str, Float32[Array, " batch *candidate_and_time"]]:
        """Judges videos.

        Args:
          maps: From `see`; B is a multiple of `group`, unless 1.
          label: Classes, int32 `[B]`, where there are classes; or `[B, K]`: K candidates each.
          pick: Numbers of the frames in the clip, rising, int32 `[B, T]`, where frames of a longer
            window were picked. Only their distances are seen.
          asked: What they were asked to be; by default nothing.

        Returns:
          Logits float32 of each head: `image ...` `[B, T]`, `time ...` `[B]`; or `[B, K, T]` and
          `[B, K]`, of the video as each of the candidates.
        """
        head = nn.remat(_Head) if self.remat else _Head
        logits, vector, beside = {}, None, None
        if self.conditions:
            b, t = next(iter(maps.values())).shape[:2]
            if asked is None:
                given = conditioning.absent(self.conditions, b, self.size, t)
                seen = conditioning.seen(self.conditions, given, jnp.arange(t)[None], self.size)
                read = conditioning.Reader(
                    self.conditions, self.size, self.dtype, name="conditions"
                )
                asked = conditioning.Asked(read(given), seen)
            vector, beside = asked
        for name, x in maps.items():
            if beside is not None:
                x = jnp.concatenate([x, _at_scale(beside, *x.shape[2:4]).astype(x.dtype)], -1)
            b, t, h, w, c = x.shape
            width = self.width if name.startswith("pixels") else self.tap_width
            about = {"classes": self.classes, "dtype": self.dtype}
            about |= {"width": width, "widest": self.widest, "group": self.group}
            each, told = (None if one is None else jnp.repeat(one, t, 0) for one in (label, vector))
            one = head(**about, frames=t, name=f"image_{name}")
            found = one(x.reshape(b * t, h, w, c), each, None, told)
            logits[f"image_{name}"] = jnp.moveaxis(found.reshape(b, t, *found.shape[1:]), 1, -1)
            if pick is None:
                pick = jnp.broadcast_to(jnp.arange(t), (b, t))
            gaps = jnp.log1p((pick - pick[:, :1]).astype(self.dtype))
            one = head(**about, frames=1, name=f"time_{name}")
            x = jnp.concatenate([x[:, :1], self.change * (x[:, 1:] - x[:, :1])], 1)
            folded = x.transpose(0, 2, 3, 1, 4).reshape(b, h, w, t * c)
            logits[f"time_{name}"] = one(folded, label, gaps, vector)
        return logits


def _at_scale(
    x: Float[Array, "batch time height width channel"], rows: int, columns: int
) -> Float[Array, "batch time {rows} {columns} channel"]:
    """Returns means over squares; where these are not whole, an antialiased interpolation."""
    b, t, h, w, c = x.shape
    if h % rows or w % columns:
        return layers.resize(x.reshape(b * t, h, w, c), rows, columns).reshape(
            b, t, rows, columns, c
        )
    return x.reshape(b, t, rows, h // rows, columns, w // columns, c).mean((3, 5))


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
        vector: Float[Array, "n *candidate told"] | None = None,
    ) -> Float32[Array, " n *candidate"]:
        """Maps `[N, H, W, C]` to logits `[N]`, or `[N, K]` of K candidates."""
        act, width = layers.leaky_relu, self.width
        x, known = x.astype(self.dtype), None
        if gaps is not None:
            known = act(layers.dense(64, self.dtype, "gaps")(gaps))
        while max(x.shape[1:3]) > 4 and min(x.shape[1:3]) > 2:
            name = f"down{max(x.shape[1:3])}"
            x = layers.Conv3x3(width, self.dtype, stride=2, name=name)(x)
            x, known = self._with_gaps(x, known), None
            x, width = act(x), min(2 * width, self.widest)
        if self.group > 1:
            spread = layers.group_deviation(x, self.group, self.frames)
            spread = jnp.broadcast_to(spread[:, None, None, None], (*x.shape[:3], 1))
            x = jnp.concatenate([x, spread], -1)
        x = layers.Conv3x3(width, self.dtype, name="last")(x)
        x = act(self._with_gaps(x, known))
        return labels.projection_logits(x.mean((1, 2)), label, self.classes, vector)

    def _with_gaps(
        self, x: Float[Array, "n height width channel"], known: Float[Array, "n feature"] | None
    ) -> Float[Array, "n height width channel"]:
        """Modulates the maps of the first layer."""
        return x if known is None else layers.Film(self.dtype, name="pick")(x, known)
