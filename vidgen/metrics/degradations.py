"""Ways to spoil real clips, each of which some figure should notice (docs/metrics.md)."""

import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from vidgen.errors import ConfigError

Clip = UInt8[np.ndarray, "time height width 3"]

_KINDS = 4  # different clips after a collapse


def _frozen(clip: Clip, rng: np.random.Generator) -> Clip:
    """Shows the first frame throughout."""
    return np.repeat(clip[:1], len(clip), 0)


def _shuffled(clip: Clip, rng: np.random.Generator) -> Clip:
    """Shows the frames in a random order."""
    return clip[rng.permutation(len(clip))]


def _reversed(clip: Clip, rng: np.random.Generator) -> Clip:
    """Plays the clip backwards."""
    return clip[::-1]


def _noisy(clip: Clip, rng: np.random.Generator) -> Clip:
    """Adds noise of 20 levels of 255, new in each frame."""
    noise = rng.normal(0, 20, clip.shape)
    return np.clip(clip + noise, 0, 255).round().astype(np.uint8)


def _blurred(clip: Clip, rng: np.random.Generator) -> Clip:
    """Blurs frames by 3 % of their shorter side."""
    side = min(clip.shape[1:3])
    return ndimage.gaussian_filter(clip, (0, 0.03 * side, 0.03 * side, 0))


_OF_CLIPS = {
    "frozen": _frozen,
    "shuffled": _shuffled,
    "reversed": _reversed,
    "noisy": _noisy,
    "blurred": _blurred,
}
CHANGES = (*_OF_CLIPS, "collapsed", "copied")


def apply(name: str, clips: Iterator[Clip], real: Iterator[Clip], seed: int = 0) -> Iterator[Clip]:
    """Spoils clips, uint8 `[T, H, W, 3]` each.

    Args:
      name: frozen, shuffled, reversed, noisy (20 levels), blurred (3 % of the side); "collapsed":
        four of the clips, again and again; "copied": the real clips that they are compared with.
      clips: The clips.
      real: What they are compared with.
      seed: Of noise and orders.

    Raises:
      ConfigError: The name is unknown.
    """
    if name not in CHANGES:
        raise ConfigError(f"--change={name}", "one of " + ", ".join(CHANGES))
    return _applied(name, clips, real, seed)


def _applied(name: str, clips: Iterator[Clip], real: Iterator[Clip], seed: int) -> Iterator[Clip]:
    rng = np.random.default_rng(seed)
    if name == "copied":
        yield from real
    elif name == "collapsed":
        kept = list(itertools.islice(clips, _KINDS))
        count = _KINDS + sum(1 for _ in clips)
        yield from itertools.islice(itertools.cycle(kept), count)
    else:
        for clip in clips:
            yield _OF_CLIPS[name](clip, rng)
