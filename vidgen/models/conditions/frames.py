"""Known pixels: frames of the video, or parts of frames, that are given and stay as they are."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Key, Real, Shaped, UInt8

from vidgen.errors import ConfigError
from vidgen.frame_size import Size, height_width
from vidgen.models import layers
from vidgen.models.conditions import maps
from vidgen.models.conditions.maps import Seen, Sides

FIRST = 8  # frames known whole that all windows see
_FAR = 1 << 23  # frames away at most; what is farther counts as that
_NEVER = 1 << 24  # frames away, of what is not known; float32 counts as far


class Frames(nn.Module):
    """Encodes pixels that are known, with a mask over space and time.

    The first frame, the first few, the last, first and last, any set of frames; a hole in each
    frame (inpainting) or what lies around it (outpainting): all are the same, some pixels at some
    times. A place of a frame is told the two pixels known there that lie next before it (or in it),
    the one that lies next after it, and how long ago or ahead each is. So a frame is a function of
    what is known and of its time, whichever window it is asked for in. Pixels that are known come
    back as they are.

    Reference: Mathieu et al., "Deep multi-scale video prediction beyond mean square error", 2016;
      Pathak et al., "Context encoders: feature learning by inpainting", 2016; Vondrick et al.,
      "Generating videos with scene dynamics", 2016, for pixels that are taken over by a mask.

    Attributes:
      modes: What is known of training clips, one of them for each clip: of `MODES`.
      whole: Whether frames are known whole or not at all.
      width: Channels of the encoder's first scale.
      drop: Share of the training clips that are shown without it.
      dtype: Type of the computation; parameters are float32.
    """

    modes: tuple[str, ...] = ("first",)
    whole: bool = False
    width: int = 32
    drop: float = 0.1
    dtype: str = "float32"
    column = ""
    without_frames = ("colours",)

    def check(self, size: Size) -> None:
        """Raises ConfigError if the options do not fit each other."""
        del size
        for mode in self.modes or ("",):
            if mode not in MODES:
                raise ConfigError(
                    f"config.conditions.frames.modes has {mode!r}", f"of {', '.join(MODES)}"
                )
        if self.whole and (parts := [mode for mode in self.modes if mode in PARTS]):
            raise ConfigError(
                f"config.conditions.frames has whole=True, and a mode {parts[0]!r}",
                "modes of whole frames, or whole=False",
            )
        if not self.width:
            raise ConfigError("config.conditions.frames.width is 0", "at least 1")

    def absent(
        self, count: int, size: Size, frames: int
    ) -> dict[str, Shaped[np.ndarray, "videos ..."]]:
        """Returns arrays of one frame of which nothing is known."""
        del frames
        sides = height_width(size)
        return {
            "video": np.zeros((count, 1, *sides, 3), np.uint8),
            "known": np.zeros((count, 1, *sides), bool),
            "time": np.zeros((count, 1), np.int32),
            "colours": np.zeros((count, maps.count_colours(size)), np.float32),
        }

    def draw(
        self, each: Key[Array, " batch"], video: UInt8[Array, "batch time height width 3"]
    ) -> dict[str, Any]:
        """Draws what is known of training clips."""
        b, t, h, w, _ = video.shape

        def one(key):
            which, *rest = jax.random.split(key, 1 + len(self.modes))
            each = zip(self.modes, rest, strict=True)
            masks = jnp.stack([MODES[mode](own, t, h, w) for mode, own in each])
            return masks[jax.random.randint(which, (), 0, len(self.modes))]

        time = jnp.broadcast_to(jnp.arange(t, dtype=jnp.int32), (b, t))
        known = jax.vmap(one)(each)
        shown = known[..., None]
        total = jnp.where(shown, video.astype(jnp.float32) / 127.5 - 1, 0).sum(1)
        colours = maps.colours(total, known.sum(1).astype(jnp.float32))
        return {"video": video, "known": known, "time": time, "colours": colours}

    def only(self, arrays: Any, shown: Bool[Array, " batch"]) -> Any:
        """Leaves all out where it is not shown."""
        return {
            **arrays,
            "known": arrays["known"] & shown[:, None, None, None],
            "colours": arrays["colours"] * shown[:, None],
        }

    def shown(self, arrays: Any) -> Bool[Array, " batch"]:
        """Tells of which videos something is known."""
        return arrays["known"].any((1, 2, 3))

    def read(
        self, value: Any, count: int, size: Size
    ) -> dict[str, Shaped[np.ndarray, "videos ..."]]:
        """Returns the arrays of what a caller knows.

        Args:
          value: Frames uint8 `[K, H, W, 3]`, the same for all videos, or `[N, K, H, W, 3]`, which
            are the first K; or a dictionary of them (`video`), of their `time`, whole numbers
            `[K]` or `[N, K]`, and of what is `known` of them: truth values `[H, W]`, `[K, H, W]` or
            `[N, K, H, W]`.
          count: Number of the videos.
          size: Of the frames.
        """
        parts = dict(value) if isinstance(value, Mapping) else {"video": value}
        if other := sorted(parts.keys() - {"video", "time", "known"}):
            raise ConfigError(f"the condition frames has {other[0]!r}", "video, time and known")
        if "video" not in parts:
            raise ConfigError("the condition frames has no video", "the frames that are known")
        sides = height_width(size)
        video = maps.array("frames", "video", parts["video"])
        if video.ndim == 3:
            video = video[None]
        if video.ndim == 4:
            video = np.broadcast_to(video, (count, *video.shape))
        if video.dtype != np.uint8 or video.ndim != 5 or video.shape[2:] != (*sides, 3):
            raise ConfigError(
                f"the condition frames has a video {video.dtype} {list(video.shape)}",
                f"uint8 [K, {sides[0]}, {sides[1]}, 3], or with a first axis for each video",
            )
        if len(video) != count or not video.shape[1]:
            raise ConfigError(
                f"known frames of {len(video)} videos, {video.shape[1]} each, for {count}",
                "at least one for each video",
            )
        k = video.shape[1]
        time = maps.array("frames", "time", parts.get("time", np.arange(k)))
        if time.dtype.kind not in "iu" or time.ndim not in (1, 2) or time.shape[-1] != k:
            raise ConfigError(
                f"the condition frames has times {time.dtype} {list(time.shape)}",
                f"whole numbers, one for each of {k} frames",
            )
        if time.min() < 0 or time.max() >= 2**30:
            raise ConfigError(f"known frames lie at {time.min()} to {time.max()}", "0 to 2^30")
        known = maps.array("frames", "known", parts.get("known", True))
        try:
            time = np.broadcast_to(time, (count, k))
            known = np.broadcast_to(known, (count, k, *sides))
        except ValueError as error:
            raise ConfigError(
                f"the condition frames has known {list(known.shape)}, time {list(time.shape)}",
                f"a mask [{sides[0]}, {sides[1]}], or one for each of {k} frames",
            ) from error
        if known.dtype != bool:
            raise ConfigError(f"known is of {known.dtype}", "truth values: image > 127, say")
        if self.whole and (known.any((2, 3)) & ~known.all((2, 3))).any():
            raise ConfigError(
                "the condition frames knows parts of frames", "this run knows them whole: no mask"
            )
        return {
            "video": np.array(video),
            "known": np.array(known),
            "time": np.array(time, np.int32),
            "colours": _colours(video, known),
        }

    def of_clips(
        self, clips: UInt8[np.ndarray, "clips time height width 3"], known: Mapping[str, Any]
    ) -> Any:
        """Returns what is known of clips by the first of the modes, with chance 0."""
        del known
        t, h, w = clips.shape[1:4]
        mask = np.asarray(MODES[self.modes[0]](jax.random.key(0), t, h, w))
        some = mask.any((1, 2))
        return {"video": clips[:, some], "time": np.flatnonzero(some), "known": mask[some]}

    def window(self, arrays: Any, start: int, frames: int, beside: int = 0) -> Any:
        """Returns what frames of the window can see, with times from its first frame on.

        However many frames are known, that is those within the window and the few next to it, and
        where they are known whole the first few: so a long video takes no more memory than a short
        one.
        """
        time, first = arrays["time"] - np.int32(start), FIRST if self.whole else 0
        seen = [
            _in_sight(known, at, -beside, frames + beside, first)
            for known, at in zip(arrays["known"], time, strict=True)
        ]
        count = _next_power(max(map(len, seen)))
        video, known = (
            np.zeros((len(x), count, *x.shape[2:]), x.dtype)
            for x in map(arrays.get, ("video", "known"))
        )
        times = np.zeros((len(time), count), np.int32)
        for n, which in enumerate(seen):
            video[n, : len(which)] = arrays["video"][n, which]
            known[n, : len(which)] = arrays["known"][n, which]
            times[n, : len(which)] = time[n, which]
        return {**arrays, "video": video, "known": known, "time": times}

    def length(self, arrays: Any) -> int:
        """Returns 0: a video goes on behind what is known of it."""
        del arrays
        return 0

    def see(self, arrays: Any, within: Real[Array, "#batch time"], size: Size) -> Seen:
        """Returns pixels known before and after each place of each frame.

        `raw` has 12 channels: the last two known before or at a frame, and the next one after it,
        each in [-1, 1], 0 where there is none, and each with `1 / (1 + frames away)`.
        """
        del size
        video, mask, time = (jnp.asarray(arrays[n]) for n in ("video", "known", "time"))
        b, k = time.shape
        within = jnp.broadcast_to(within, (b, within.shape[1]))
        away = within[:, :, None] - time[:, None]  # [B, T, K]
        away = jnp.clip(away, -_FAR, _FAR).astype(jnp.float32)
        mask = mask[:, None]  # [B, 1, K, H, W]

        def nearest(away, free):
            """Returns pixels, frames away, whether there are any, and those that are left."""
            cost = jnp.where(free, away[..., None, None], _NEVER)  # [B, T, K, H, W]
            which = cost.argmin(2)
            apart = cost.min(2)
            have = apart < _NEVER
            pixels = jnp.take_along_axis(video[:, None], which[:, :, None, :, :, None], 2)[:, :, 0]
            pixels = jnp.where(have[..., None], pixels.astype(jnp.float32) / 127.5 - 1, 0)
            left = free & (jnp.arange(k)[None, None, :, None, None] != which[:, :, None])
            return pixels, apart, have, left

        past = (away >= 0)[..., None, None] & mask
        last, ago, have_last, left = nearest(away, past)
        before, long_ago, have_before, _ = nearest(away, left)
        following, ahead, have_next, _ = nearest(-away, (away < 0)[..., None, None] & mask)
        near = lambda apart, have: (have / (1 + apart))[..., None]  # noqa: E731
        raw = [
            last, near(ago, have_last),
            before, near(long_ago, have_before),
            following, near(ahead, have_next),
        ]  # fmt: skip
        return Seen(
            jnp.concatenate(raw, -1),
            (last, following),
            (have_last, have_next),
            have_last & (ago == 0),
        )

    @nn.compact
    def __call__(
        self, arrays: Any, seen: Seen | None = None, sides: Sides = ()
    ) -> tuple[Float[Array, "batch feature"], dict[int, Any]]:
        """Returns a vector of the colours that are known, and maps of each scale."""
        vector = layers.dense(2 * self.width, self.dtype, "colours", gain=1.0)(
            jnp.asarray(arrays["colours"], self.dtype)
        )
        if seen is None:
            return vector, {}
        return vector, maps.Pyramid(self.width, self.dtype, name="maps")(seen.raw, sides)


def _colours(
    video: UInt8[np.ndarray, "batch frame height width 3"],
    known: Bool[np.ndarray, "batch frame height width"],
) -> Float32[np.ndarray, "batch feature"]:
    """Returns the colours of all that is known of videos: a window does not see all of it."""
    total = np.zeros((len(video), *video.shape[2:]), np.int64)
    for n in range(video.shape[1]):  # there may be many, and sums of levels are exact
        total += video[:, n] * known[:, n, ..., None]
    count = known.sum(1)
    total = (total / 127.5 - count[..., None]).astype(np.float32)
    found = [  # video by video, so that it is the same in any company
        maps.colours(jnp.asarray(t[None]), jnp.asarray(c[None], jnp.float32))
        for t, c in zip(total, count, strict=True)
    ]
    return np.concatenate([np.asarray(one) for one in found])


def _in_sight(
    known: Bool[np.ndarray, "frames height width"],
    time: Int[np.ndarray, " frames"],
    start: int,
    end: int,
    first: int,
) -> Int[np.ndarray, " seen"]:
    """Returns which frames hold pixels that places of a window see, in their order.

    Those are all within the window, the two next before it of each place, and the next behind it;
    and the `first` of all.
    """
    order = np.argsort(time, kind="stable")
    order = order[known[order].any((1, 2))]
    within = (time[order] >= start) & (time[order] < end)
    seen = [*order[within].tolist(), *order[:first].tolist()]
    before, behind = order[time[order] < start], order[time[order] >= end]
    before = before[np.argsort(-time[before], kind="stable")]  # of those at once, the first
    for side, need in ((before, 2), (behind, 1)):
        found = np.zeros(known.shape[1:], np.int8)
        for n in side.tolist():
            if (found >= need).all():
                break
            if (known[n] & (found < need)).any():
                seen.append(n)
                found += known[n]
    return np.array(sorted(set(seen)), np.int64)


def _next_power(count: int) -> int:
    """Returns the next power of two, so that few programs are compiled."""
    return 1 << max(count - 1, 0).bit_length()


def _frame(t: int) -> Int[Array, " time"]:
    return jnp.arange(t)


def _whole(at: Bool[Array, " time"], h: int, w: int) -> Bool[Array, "time height width"]:
    return jnp.broadcast_to(at[:, None, None], (len(at), h, w))


def _start(key: Key[Array, ""], t: int) -> Bool[Array, " time"]:
    return _frame(t) < jax.random.randint(key, (), 1, max(t // 2, 1) + 1)


def _some(key: Key[Array, ""], t: int) -> Bool[Array, " time"]:
    one, all_of = jax.random.split(key)
    return (jax.random.uniform(all_of, (t,)) < 0.25) | (
        _frame(t) == jax.random.randint(one, (), 0, t)
    )


def _box(key: Key[Array, ""], t: int, h: int, w: int) -> Bool[Array, "time height width"]:
    """Draws a box of a quarter to three quarters of each side, the same in all frames."""
    along = []
    for side, k in zip((h, w), jax.random.split(key), strict=True):
        length, at = jax.random.uniform(k, (2,))
        length = (0.25 + 0.5 * length) * side
        place = jnp.arange(side) - at * (side - length)
        along.append((place >= 0) & (place < length))
    return jnp.broadcast_to(along[0][:, None] & along[1][None], (t, h, w))


PARTS = ("hole", "border")  # of which frames are known in part
# What is known of a training clip: `(key, frames, height, width) -> [T, H, W]`.
MODES = {
    "first": lambda key, t, h, w: _whole(_frame(t) == 0, h, w),
    "start": lambda key, t, h, w: _whole(_start(key, t), h, w),
    "last": lambda key, t, h, w: _whole(_frame(t) == t - 1, h, w),
    "ends": lambda key, t, h, w: _whole((_frame(t) == 0) | (_frame(t) == t - 1), h, w),
    "alternate": lambda key, t, h, w: _whole(_frame(t) % 2 == 0, h, w),
    "some": lambda key, t, h, w: _whole(_some(key, t), h, w),
    "hole": lambda key, t, h, w: ~_box(key, t, h, w),
    "border": _box,
}
