"""Latents of real clips, and latents between others: what `Sampler.decode` turns into video.

sampler = vidgen.load("runs/vae")
latents = sampler.encode(clips, labels)                     # of any run that has an encoder
again = sampler.decode(latents, clips.shape[1])             # reconstructions
first, last = sampler.latents([0], 32), sampler.latents([1], 32)
between = sampling.interpolate(first, last, np.linspace(0, 1, 8))    # of any run
video = sampler.decode(between, 32)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vidgen.errors import ConfigError
from vidgen.frame_size import height_width
from vidgen.models.protocol import Generator

Latents = dict[str, np.ndarray]


def check_clips(generator: Generator, clips: np.ndarray, labels: Any) -> None:
    """Raises ConfigError where `Sampler.encode` cannot take clips."""
    # A recurrent generator's codes are no noise that `decode` could begin from.
    if not generator.encodes:
        raise ConfigError(
            "this run's generator cannot encode clips",
            "config.method='vae' can; to reconstruct them, 'flow' and 'autoregressive', too",
        )
    check_size(generator, clips)
    if generator.classes and labels is None:
        raise ConfigError("labels are missing", "name the classes of the clips")


def check_size(generator: Generator, clips: np.ndarray) -> None:
    """Raises ConfigError where clips are not uint8 `[N, T, H, W, 3]` of a generator's size."""
    size = (*height_width(generator.size), 3)
    if clips.dtype != np.uint8 or clips.ndim != 5 or not clips.size or clips.shape[2:] != size:
        raise ConfigError(
            f"clips to encode are {clips.dtype} {list(clips.shape)}",
            f"uint8 [N, T, {size[0]}, {size[1]}, 3], as the run was trained with",
        )


def check_latents(generator: Generator, latents: Latents) -> Latents:
    """Returns latents as arrays; raises ConfigError where `Sampler.decode` cannot take them."""
    if not isinstance(latents, Mapping):
        raise ConfigError(
            f"latents are {type(latents).__name__}", "a dictionary, as from `latents`"
        )
    try:
        latents = {name: np.asarray(x) for name, x in latents.items()}
    except ValueError as error:  # as of lists of different lengths
        raise ConfigError(f"latents are no arrays: {error}", "start from those drawn") from error
    channels = {"content": generator.content, "motion": generator.motion}
    wanted = {**channels, "cycle": len(generator.periods), "label": None}
    if missing := wanted.keys() - latents.keys():
        raise ConfigError(f"latents lack {', '.join(sorted(missing))}", "start from those drawn")
    count = len(np.atleast_1d(latents["label"]))
    axes = {"content": 2, "motion": 3, "cycle": 2, "label": 1}
    for name, last in wanted.items():
        x = latents[name]
        fits = x.ndim == axes[name] and len(x) == count and last in (None, x.shape[-1])
        if not fits or x.dtype.kind not in "fiu":
            raise ConfigError(
                f"the latents' {name} is {x.dtype} {list(x.shape)}",
                f"numbers, {axes[name]} axes, the first of {count}"
                + ("" if last is None else f", the last of {last}"),
            )
    for name, x in latents.items():
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise ConfigError(f"the latents' {name} holds what is not finite", "NaN or infinite")
    label = latents["label"]
    whole = label.dtype.kind in "iu" and label.size
    if not whole or label.min() < 0 or label.max() >= max(generator.classes, 1):
        raise ConfigError(
            f"the latents' label is {label.tolist()}",
            f"whole numbers from 0 to {max(generator.classes, 1) - 1}",
        )
    return latents


def interpolate(latents: Latents, other: Latents, parts: Sequence[float] | np.ndarray) -> Latents:
    """Makes latents between two sets of latents, of any generator.

    Noise goes along the arc between two vectors (content as a whole, motion keyframe by keyframe)
    while its length goes evenly: normal noise of many channels lies near a sphere, and what lies on
    the chord has never been decoded in training. Cycles turn the shorter way. A class does not
    change by degrees: it is the nearer one's.

    Args:
      latents: From `Sampler.latents` or `Sampler.encode`; N of them.
      other: N others, for the same frames and start.
      parts: How far from the former to the latter, in [0, 1]; P of them.

    Returns:
      Latents of N * P videos: all P of the first pair, then those of the second.

    Raises:
      ConfigError: The two are not alike, or a part is out of range.

    Reference: Shoemake, "Animating rotation with quaternion curves", 1985; White, "Sampling
      generative networks", 2016.
    """
    shapes = [{name: x.shape for name, x in each.items()} for each in (latents, other)]
    if shapes[0] != shapes[1]:
        raise ConfigError(
            f"latents of shapes {shapes[0]} and {shapes[1]} have no middle",
            "draw both for the same frames, start and number of videos",
        )
    share = np.asarray(parts)
    numbers = share.dtype.kind in "fiu" and share.ndim == 1 and share.size
    if not numbers or not (share.min() >= 0 and share.max() <= 1):  # NaN is neither
        raise ConfigError(f"parts are {share.tolist()!r}", "a list of numbers in [0, 1]")
    share = share.astype(np.float32)

    def between(name, a, b):
        a, b = a[:, None], b[:, None]  # [N, 1, ...], beside parts [1, P, ...]
        t = share.reshape(1, -1, *(1,) * (a.ndim - 2))
        if name == "label":
            return np.where(t < 0.5, a, b)
        if name == "cycle":
            return (a + t * ((b - a + 0.5) % 1 - 0.5)) % 1
        return _arc(a, b, t)

    found = {name: between(name, x, other[name]) for name, x in latents.items()}
    return {
        name: x.reshape(-1, *x.shape[2:]).astype(latents[name].dtype) for name, x in found.items()
    }


def _arc(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Goes from vectors to others by angle and length, both evenly; on a line if they are opposed.

    Args:
      a: Vectors along the last axis.
      b: Others.
      t: Shares in [0, 1].
    """
    a, b, t = (x.astype(np.float64) for x in (a, b, t))
    lengths = [np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b)]
    one, two = (x / np.maximum(n, 1e-12) for x, n in zip((a, b), lengths, strict=True))
    # By tangents: arccos has no digits near 1.
    apart = np.linalg.norm(one - two, axis=-1, keepdims=True)
    angle = 2 * np.arctan2(apart, np.linalg.norm(one + two, axis=-1, keepdims=True))
    curved = (np.sin(angle) > 1e-6) & (lengths[0] * lengths[1] > 0)
    sine = np.where(curved, np.sin(angle), 1.0)
    turned = (np.sin((1 - t) * angle) * one + np.sin(t * angle) * two) / sine
    length = (1 - t) * lengths[0] + t * lengths[1]
    return np.where(curved, length * turned, (1 - t) * a + t * b)
