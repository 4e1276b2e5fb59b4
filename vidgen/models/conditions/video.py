"""A poorer video of the same: smaller, grey, blurred or noisy; and the way to have it better."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key, Real, Shaped, UInt8

from vidgen import keys
from vidgen.errors import ConfigError
from vidgen.frame_size import Size, height_width
from vidgen.models.conditions import maps
from vidgen.models.conditions.maps import Seen, Sides


class LowVideo(nn.Module):
    """Encodes a video that lies beside the one that is made, frame by frame.

    Training makes it of the clips themselves, so that any folder teaches it: by means over squares
    (super-resolution), without colours (colourisation), blurred, or with noise. A frame is told the
    one beside it, the one before and the one after; so a long video is made window by window.

    Reference: Ledig et al., "Photo-realistic single image super-resolution using a generative
      adversarial network", 2017; Isola et al., "Image-to-image translation with conditional
      adversarial networks", 2017.

    Attributes:
      scale: How many times smaller each side is.
      grey: Whether it has no colours.
      blur: Standard deviation of a Gaussian blur in pixels of the smaller video; 0 for none.
      noise: Standard deviation of noise, of levels from 0 to 255; 0 for none.
      width: Channels of the encoder's first scale.
      drop: Share of the training clips that are shown without it.
      dtype: Type of the computation; parameters are float32.
    """

    scale: int = 1
    grey: bool = False
    blur: float = 0.0
    noise: float = 0.0
    width: int = 32
    drop: float = 0.0
    dtype: str = "float32"
    column = ""
    without_frames = ("there",)

    def check(self, size: Size) -> None:
        """Raises ConfigError if the options do not fit each other, or the size."""
        if self.scale < 1 or any(side % self.scale for side in height_width(size)):
            raise ConfigError(
                f"config.conditions.video.scale is {self.scale}, and config.data.size is {size}",
                "at least 1; the size must be a multiple of it",
            )
        if not self.width:
            raise ConfigError("config.conditions.video.width is 0", "at least 1")
        if self.scale == 1 and not (self.grey or self.blur or self.noise):
            raise ConfigError(
                "config.conditions.video is the video itself",
                "set scale, grey, blur or noise: what is to be made better",
            )

    def sides(self, size: Size) -> tuple[int, int]:
        """Returns height and width of the poorer video."""
        height, width = height_width(size)
        return height // self.scale, width // self.scale

    def absent(
        self, count: int, size: Size, frames: int
    ) -> dict[str, Shaped[np.ndarray, "videos ..."]]:
        """Returns arrays of `count` videos that are not there."""
        return {
            "video": np.zeros((count, frames + 2, *self.sides(size), 3), np.uint8),
            "there": np.zeros(count, bool),
        }

    def draw(
        self, each: Key[Array, " batch"], video: UInt8[Array, "batch time height width 3"]
    ) -> dict[str, Any]:
        """Makes poorer videos of training clips, with the frames at both ends twice."""
        low = self.degrade(video, each)
        low = jnp.concatenate([low[:, :1], low, low[:, -1:]], 1)
        return {"video": low, "there": jnp.ones(len(video), bool)}

    def degrade(
        self, video: UInt8[Array, "batch time height width 3"], each: Key[Array, " batch"]
    ) -> UInt8[Array, "batch time rows columns 3"]:
        """Makes a poorer video of each clip; its noise is that of the clip's key."""
        b, t, h, w, _ = video.shape
        n = self.scale
        x = video.astype(jnp.float32).reshape(b, t, h // n, n, w // n, n, 3).mean((3, 5))
        if self.grey:  # ITU-R BT.709
            x = x @ jnp.asarray([0.2126, 0.7152, 0.0722])
            x = jnp.repeat(x[..., None], 3, -1)
        if self.blur:
            reach = int(np.ceil(3 * self.blur))
            taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / self.blur) ** 2)
            for axis in (2, 3):
                pads = [(reach, reach) if a == axis else (0, 0) for a in range(5)]
                around, size = jnp.pad(x, pads, "edge"), x.shape[axis]
                moved = [
                    float(weight) * jax.lax.slice_in_dim(around, i, i + size, axis=axis)
                    for i, weight in enumerate(taps / taps.sum())
                ]
                x = functools.reduce(jnp.add, moved)
        if self.noise:
            x = x + self.noise * keys.normal(each, x.shape[1:])
        return jnp.clip(jnp.round(x), 0, 255).astype(jnp.uint8)

    def only(self, arrays: Any, shown: Bool[Array, " batch"]) -> Any:
        """Leaves it out where it is not shown."""
        return {**arrays, "there": arrays["there"] & shown}

    def shown(self, arrays: Any) -> Bool[Array, " batch"]:
        """Tells of which videos there is a poorer one."""
        return arrays["there"]

    def read(
        self, value: Any, count: int, size: Size
    ) -> dict[str, Shaped[np.ndarray, "videos ..."]]:
        """Returns the arrays of poorer videos, uint8 `[T, h, w, 3]` or one for each."""
        video, sides = maps.array("video", "video", value), self.sides(size)
        if video.ndim == 4:
            video = np.broadcast_to(video, (count, *video.shape))
        fits = video.ndim == 5 and len(video) == count and video.shape[1]
        if not fits or video.dtype != np.uint8 or video.shape[2:] != (*sides, 3):
            raise ConfigError(
                f"the condition video is {video.dtype} {list(video.shape)}",
                f"uint8 [T, {sides[0]}, {sides[1]}, 3], or with a first axis for {count} videos",
            )
        return {"video": video, "there": np.ones(count, bool)}

    def of_clips(
        self, clips: UInt8[np.ndarray, "clips time height width 3"], known: Mapping[str, Any]
    ) -> Any:
        """Returns poorer videos of clips."""
        del known
        each = jax.random.split(jax.random.key(0), len(clips))
        return np.asarray(self.degrade(jnp.asarray(clips), each))

    def window(self, arrays: Any, start: int, frames: int, beside: int = 0) -> Any:
        """Returns frames `start - 1` to `start + frames + 1`; the ends are repeated."""
        del beside
        video = arrays["video"]
        at = np.clip(np.arange(start - 1, start + frames + 1), 0, video.shape[1] - 1)
        return {**arrays, "video": video[:, at]}

    def length(self, arrays: Any) -> int:
        """Returns the frames of the poorer video, as many as can be made."""
        return arrays["video"].shape[1]

    def see(self, arrays: Any, within: Real[Array, "#batch time"], size: Size) -> Seen:
        """Returns three poorer frames beside each frame, as large as it is.

        `raw` has 10 channels: the frame in [-1, 1], the one before, the one after, and 1 where
        there is one at all.
        """
        video, there = jnp.asarray(arrays["video"]), jnp.asarray(arrays["there"])
        within = jnp.broadcast_to(within, (len(video), within.shape[1]))
        t = within.shape[1]
        around = jnp.concatenate([within + 1, within, within + 2], 1)
        first = jnp.floor(around).astype(jnp.int32)

        def frames(at):
            at = jnp.minimum(at, video.shape[1] - 1)[:, :, None, None, None]
            return jnp.take_along_axis(video, at, 1).astype(jnp.float32)

        x = frames(first)
        if jnp.issubdtype(within.dtype, jnp.floating):  # between two frames
            part = (around - first)[:, :, None, None, None]
            x = (1 - part) * x + part * frames(first + 1)
        x = (x / 127.5 - 1) * there[:, None, None, None, None]
        if self.scale > 1:
            shape = (*x.shape[:2], *height_width(size), 3)
            x = jnp.clip(jax.image.resize(x, shape, "cubic"), -1, 1)
        have = jnp.broadcast_to(there[:, None, None, None], (len(x), t, *x.shape[2:4]))
        raw = [x[:, :t], x[:, t : 2 * t], x[:, 2 * t :], have[..., None].astype(jnp.float32)]
        return Seen(jnp.concatenate(raw, -1), (), (), added=(x[:, :t], have))

    @nn.compact
    def __call__(
        self, arrays: Any, seen: Seen | None = None, sides: Sides = ()
    ) -> tuple[None, dict[int, Any]]:
        """Returns maps of each scale; a vector of a window would not be that of the video."""
        del arrays
        if seen is None:
            return None, {}
        return None, maps.Pyramid(self.width, self.dtype, name="maps")(seen.raw, sides)
