"""Frames of a video that are known: how they are coded, what a flow is told, what is put back."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Shaped

from vidgen.errors import ConfigError
from vidgen.models import conditions as conditioning
from vidgen.models.conditions.frames import FIRST

_SAME = 0.19  # difference of values in [-1, 1] up to which a place is thought to be the same


class Hints(NamedTuple):
    """Tokens of frames that are known, and which are.

    Attributes:
      whole: The mean of those that are known, float `[B, 1, S, F + 1]`; the last number of a token
        is 1 where there are any, and without them all are 0.
      pairs: Those of pairs of frames `[B, T, S, 2 (F + 1)]`; the last number of each frame's is 1
        where it is known, and all are 0 where it is not.
    """

    whole: Float[Array, "batch 1 token one"]
    pairs: Float[Array, "batch pair token both"]


class Known(NamedTuple):
    """Frames that are known.

    Attributes:
      video: The frames, float `[B, K, H, W, 3]` in [-1, 1].
      tokens: Their latents, `[B, K, S, F]`; or their codes, int32 `[B, K, S]`.
      there: Which of them are known, `[B, K]`.
      time: Their numbers, `[B, K]`.
      again: What the codec makes of them, as `video`; None where nothing is put back.
    """

    video: Float[Array, "batch known height width 3"]
    tokens: Shaped[Array, "batch known token *feature"]
    there: Bool[Array, "batch known"]
    time: Int[Array, "batch known"]
    again: Float[Array, "batch known height width 3"] | None = None

    def at(
        self, frames: Int[Array, "#batch time"]
    ) -> tuple[Int[Array, "batch time"], Bool[Array, "batch time"]]:
        """Returns which of them some frames are, and whether they are known."""
        same = (self.time[:, None] == frames[:, :, None]) & self.there[:, None]
        return same.argmax(2), same.any(2)

    def hints(self, first: Int[Array, "*batch"] | int, frames: int) -> Hints:
        """Returns what is known of a window of an even number of frames, and of the whole video.

        Of a video that is the mean of those that are known first, at most 8: so that all windows
        are told the same.
        """
        b, _, s, f = self.tokens.shape
        which, there = self.at(jnp.reshape(first, (-1, 1)) + jnp.arange(frames)[None])
        found = jnp.take_along_axis(self.tokens, which[:, :, None, None], 1)
        pairs = _marked(found, there).reshape(b, frames // 2, 2, s, f + 1).swapaxes(2, 3)
        earlier = self.time[:, None] < self.time[:, :, None]  # [B, K, K]: the last before the other
        same = self.time[:, None] == self.time[:, :, None]
        numbers = jnp.arange(self.time.shape[1])
        earlier |= same & (numbers[None] < numbers[:, None])[None]
        first_few = self.there & ((earlier & self.there[:, None]).sum(2) < FIRST)
        weights = first_few / jnp.maximum(first_few.sum(1, keepdims=True), 1)
        mean = jnp.sum(self.tokens * weights[:, :, None, None], 1, keepdims=True)
        some = first_few.any(1)[:, None]
        return Hints(_marked(mean, some), pairs.reshape(b, frames // 2, s, 2 * (f + 1)))

    def put_back(
        self,
        video: Float[Array, "batch time height width 3"],
        frames: Int[Array, "batch time"],
    ) -> Float32[Array, "batch time height width 3"]:
        """Returns a video with the details of known frames, and these themselves.

        A codec blurs what it has not learnt. Where a frame hardly differs from what the codec makes
        of the nearest known one, it gets what the codec lost of that.
        """
        assert self.again is not None
        away = frames[:, :, None] - self.time[:, None]  # [B, T, K]
        far = 2 * jnp.abs(away) + (away < 0)  # of two as near, the one before
        which = jnp.where(self.there[:, None], far, jnp.iinfo(jnp.int32).max).argmin(2)
        pixels, coded = (
            jnp.take_along_axis(x, which[:, :, None, None, None], 1)
            for x in (self.video, self.again)
        )
        change = jnp.abs(video - coded).max(-1, keepdims=True)
        change = change.reshape(-1, *change.shape[2:])
        change = nn.avg_pool(change, (5, 5), padding="SAME", count_include_pad=False)
        share = jnp.exp(-((change.reshape(*video.shape[:-1], 1) / _SAME) ** 2))
        some = self.there.any(1)[:, None, None, None, None]
        video = jnp.where(some, jnp.clip(video + share * (pixels - coded), -1, 1), video)
        return jnp.where(self.at(frames)[1][:, :, None, None, None], pixels, video)


def check(conditions: conditioning.Conditions, who: str) -> None:
    """Checks that conditions are captions and frames that are known whole.

    Args:
      conditions: Names and options.
      who: Takes them, for the message: "a flow".

    Raises:
      ConfigError: They are others.
    """
    for name, options in conditions:
        if name not in ("caption", "frames"):
            raise ConfigError(
                f"config.conditions has {name}, and {who} takes captions and known frames",
                "leave it out, or config.method='gan'",
            )
        if name == "frames" and not options.get("whole"):
            raise ConfigError(
                f"config.conditions.frames.whole is False, and {who} codes frames",
                "config.conditions.frames.whole=True",
            )


def coded(
    frames: dict[str, Any],
    encode: Callable[[Float[Array, "n height width 3"]], Shaped[Array, "n token *feature"]],
    decode: Callable[
        [Shaped[Array, "batch known token *feature"]], Float[Array, "batch known height width 3"]
    ],
) -> Known:
    """Codes frames that are known.

    Args:
      frames: Arrays of the condition.
      encode: From frames in [-1, 1] to their tokens.
      decode: Back from tokens.
    """
    levels, known, time = (jnp.asarray(frames[name]) for name in ("video", "known", "time"))
    video = levels.astype(jnp.float32) / 127.5 - 1
    tokens = encode(video.reshape(-1, *video.shape[2:]))
    tokens = tokens.reshape(*time.shape, *tokens.shape[1:])
    return Known(video, tokens, known.all((2, 3)), time, decode(tokens))


def apart(
    pairs: Float[Array, "batch pair token two"],
) -> Float[Array, "batch time token feature"]:
    """Takes tokens of pairs of frames apart."""
    b, t, s, f = pairs.shape
    return pairs.reshape(b, t, s, 2, f // 2).swapaxes(2, 3).reshape(b, 2 * t, s, f // 2)


def _marked(
    tokens: Float[Array, "batch time token feature"], there: Bool[Array, "batch time"]
) -> Float[Array, "batch time token one"]:
    """Returns tokens with a 1 behind each; zeros where nothing is known."""
    ones = jnp.concatenate([tokens, jnp.ones_like(tokens[..., :1])], -1)
    return ones * there[:, :, None, None]
