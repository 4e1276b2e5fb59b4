"""Ways to spoil real clips, each of which some figure should notice (docs/metrics.md)."""

import itertools
from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from vidgen.errors import ConfigError

_KINDS = 4  # different clips after a collapse


def _frozen(clip, rng):
    """Shows the first frame throughout."""
    return np.repeat(clip[:1], len(clip), 0)


def _shuffled(clip, rng):
    """Shows the frames in a random order."""
    return clip[rng.permutation(len(clip))]


def _reversed(clip, rng):
    """Plays the clip backwards."""
    return clip[::-1]


def _noisy(clip, rng):
    """Adds noise of 20 levels of 255, new in each frame."""
    noise = rng.normal(0, 20, clip.shape)
    return np.clip(clip + noise, 0, 255).round().astype(np.uint8)


def _blurred(clip, rng):
    """Blurs frames by 3 % of their side."""
    side = clip.shape[1]
    return ndimage.gaussian_filter(clip, (0, 0.03 * side, 0.03 * side, 0))


_OF_CLIPS = {
    "frozen": _frozen,
    "shuffled": _shuffled,
    "reversed": _reversed,
    "noisy": _noisy,
    "blurred": _blurred,
}
CHANGES = (*_OF_CLIPS, "collapsed", "copied")


def apply(
    name: str, clips: Iterator[np.ndarray], real: Iterator[np.ndarray], seed: int = 0
) -> Iterator[np.ndarray]:
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


def _applied(name, clips, real, seed):
    rng = np.random.default_rng(seed)
    if name == "copied":
        yield from real
    elif name == "collapsed":
        kinds = list(itertools.islice(clips, _KINDS))
        count = _KINDS + sum(1 for _ in clips)
        yield from itertools.islice(itertools.cycle(kinds), count)
    else:
        for clip in clips:
            yield _OF_CLIPS[name](clip, rng)
