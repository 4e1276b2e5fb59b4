"""Edits of latents: what stands between drawing them and showing them as video.

sampler = vidgen.load("runs/actions64")
latents = sampler.latents([3, 4], 32)
calm = edit.truncate(latents, 0.6)                          # nearer to the mean look
other = edit.swap(calm, edit.take(calm, [1, 0]), "motion")  # each moves as the other one
video = sampler.decode(other, 32)

All are pure functions of arrays, and take latents that were drawn, encoded, inverted or edited
before. What is edited keeps what the generator promises: frame t of a video has the same bits
from any window, as long as its latents have.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vidgen.errors import ConfigError
from vidgen.sampling.arguments import read_numbers
from vidgen.sampling.latents import Latents

PARTS = {
    "content": ("content",),
    "motion": ("motion", "cycle"),
    "class": ("label",),
    "condition": (),  # all that were asked for, by the names that they have in latents
}

What = str | Sequence[str]


def take(latents: Latents, rows: Sequence[int] | np.ndarray) -> Latents:
    """Returns the latents of some videos, in the order of their numbers `rows`; they may recur.

    Raises:
      ConfigError: There is no such video.
    """
    most = len(latents["label"]) - 1
    chosen = read_numbers("rows", rows, least=0, most=most, whole=True).astype(np.int64)
    return {name: x[chosen] for name, x in latents.items()}


def interpolate(
    latents: Latents, other: Latents, parts: Sequence[float] | np.ndarray, classes: int = 0
) -> Latents:
    """Makes latents between two sets of latents, of any generator.

    Noise goes along the arc between two vectors (content as a whole, motion keyframe by keyframe)
    while its length goes evenly: normal noise of many channels lies near a sphere, and what lies on
    the chord has never been decoded in training. Cycles turn the shorter way. Captions are mixed by
    weight; other conditions are those of the nearer one.

    Args:
      latents: From `Sampler.latents` or `Sampler.encode`; N of them.
      other: N others, for the same frames and start.
      parts: How far from the former to the latter, in [0, 1]; P of them.
      classes: How many classes there are (`sampler.generator.classes`): labels become weights of
        them, so that a class changes by degrees, too. 0: a label is that of the nearer one.

    Returns:
      Latents of N * P videos: all P of the first pair, then those of the second.

    Raises:
      ConfigError: The two are not alike, or a part is out of range.

    Reference: Shoemake, "Animating rotation with quaternion curves", 1985; White, "Sampling
      generative networks", 2016.
    """
    if classes:
        latents, other = (
            {**each, "label": _weights(each["label"], classes)} for each in (latents, other)
        )
    _check_alike(latents, other, tuple(latents.keys() | other.keys()))
    share = read_numbers("parts", parts, least=0, most=1).astype(np.float32)
    found = {name: _between(name, x, other[name], share) for name, x in latents.items()}
    count = len(latents["label"]) * len(share)  # -1 does not do: there may be no cycles
    return {
        name: x.reshape(count, *x.shape[2:]).astype(latents[name].dtype)
        for name, x in found.items()
    }


def truncate(latents: Latents, psi: float, what: What = "content") -> Latents:
    """Brings noise nearer to its mean: likelier looks, and fewer of them.

    Args:
      latents: Of any generator.
      psi: What is left of the noise, at least 0: 1 for all, 0 for the mean look of each class;
        above 1 farther out.
      what: "content", "motion" (which then moves less), or both; cycles turn as before.

    Raises:
      ConfigError: `psi` is out of range, or `what` names nothing that can be scaled.

    Reference: Brock et al., "Large scale GAN training" (BigGAN), 2019, for the truncation trick.
    """
    _check_number("psi", psi, 0, 100)
    names = [n for n in _names(what, ("content", "motion")) if n != "cycle"]
    return {**latents, **{n: (latents[n] * psi).astype(latents[n].dtype) for n in names}}


def swap(latents: Latents, other: Latents, what: What) -> Latents:
    """Takes the content, motion, class or conditions of other videos, and the rest of these.

    Args:
      latents: N videos.
      other: N others, for the same frames and start.
      what: "content", "motion", "class", "condition", or several of them.

    Raises:
      ConfigError: The two are not alike, or `what` is none of these.
    """
    names = _names(what, tuple(PARTS))
    _check_alike(latents, other, [name for name in names if name != "label"])
    if "condition" in what:
        _check_alike(latents, other, ["content"])
        latents = {name: x for name, x in latents.items() if "/" not in name}
        names += [name for name in other if "/" in name]
    return {**latents, **{name: other[name] for name in names}}


def vary(
    latents: Latents, other: Latents, amount: float, what: What = ("content", "motion")
) -> Latents:
    """Makes near variations: some of the way to other noise, along the arc; classes stay.

    Args:
      latents: N videos.
      other: N others, for the same frames and start, such as those of other seeds.
      amount: How much of the way, in [0, 1].
      what: "content", "motion", or both.

    Raises:
      ConfigError: The two are not alike, or a value is out of range.
    """
    names = _names(what, ("content", "motion"))
    _check_alike(latents, other, names)
    _check_number("amount", amount, 0, 1)
    share = np.asarray([amount], np.float32)
    found = {name: _between(name, latents[name], other[name], share)[:, 0] for name in names}
    return {**latents, **{name: x.astype(latents[name].dtype) for name, x in found.items()}}


def extend(latents: Latents, longer: Latents) -> Latents:
    """Goes on with the motion of longer videos where these end.

    What was shown stays: the keyframes of motion noise that a video has are kept, those after them
    are the other's.

    Args:
      latents: N videos, edited or inverted, for instance.
      longer: N others from the same start, for more frames: `sampler.latents(seeds, frames)`.

    Returns:
      Latents for as many frames as `longer`.

    Raises:
      ConfigError: `longer` is not.
    """
    own, others = latents["motion"], longer["motion"]
    alike = own.shape[0] == others.shape[0] and own.shape[2] == others.shape[2]
    if not alike or others.shape[1] < own.shape[1]:
        raise ConfigError(
            f"motion of shape {list(others.shape)} does not go on where {list(own.shape)} ends",
            "draw latents of as many videos, from the same start, for more frames",
        )
    return {**latents, "motion": np.concatenate([own, others[:, own.shape[1] :]], 1)}


def direction(latents: Latents, marks: Sequence[float] | np.ndarray) -> np.ndarray:
    """Finds where in content an attribute grows: a linear fit of marks to content.

    Args:
      latents: N videos: encoded or inverted clips whose classes are marked, or samples of which
        something was measured.
      marks: A number for each: 1 and 0 for with and without, or any measure.

    Returns:
      Float32 `[content]` of length 1, for `shift`.

    Raises:
      ConfigError: There are not as many marks as videos, they are not finite, or all the same.

    Reference: Shen et al., "Interpreting the latent space of GANs for semantic face editing"
      (InterFaceGAN), 2020; Hoerl and Kennard, "Ridge regression", 1970.
    """
    x, y = latents["content"].astype(np.float64), read_numbers("marks", marks)
    if len(y) != len(x):
        raise ConfigError(f"{len(y)} marks for {len(x)} videos", "one for each")
    x, y = x - x.mean(0), y - y.mean()
    if not y.any():
        raise ConfigError("all marks are the same", "nothing tells the videos apart")
    # As strong as one video: content may have more channels than there are videos.
    found = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y)
    length = np.linalg.norm(found)
    if not length:
        raise ConfigError("content tells nothing of the marks", "other videos, or more of them")
    return (found / length).astype(np.float32)


def shift(latents: Latents, along: np.ndarray, amount: float) -> Latents:
    """Moves content along a direction.

    Args:
      latents: Of any generator.
      along: Float `[content]`, as from `direction`.
      amount: How far, in standard deviations of the noise; negative for the other way.

    Raises:
      ConfigError: The direction is of another generator, or the amount out of range.
    """
    _check_number("amount", amount, -1000, 1000)
    content, along = latents["content"], np.asarray(along)
    if along.shape != content.shape[1:] or not np.isfinite(along).all():
        raise ConfigError(
            f"the direction is {along.dtype} {list(along.shape)}",
            f"{content.shape[1]} finite numbers",
        )
    return {**latents, "content": (content + amount * along).astype(content.dtype)}


def grid(latents: Latents) -> Latents:
    """Makes all pairs of content and motion of N videos: N * N of them.

    Video `N * i + j` has the content of the i-th and the motion of the j-th. The class is that of
    the content.
    """
    count = len(latents["label"])
    rows, columns = np.repeat(np.arange(count), count), np.tile(np.arange(count), count)
    return swap(take(latents, rows), take(latents, columns), "motion")


def _names(what: What, allowed: tuple[str, ...]) -> list[str]:
    """Returns the arrays that the parts of a video are."""
    chosen = [what] if isinstance(what, str) else list(what)
    if not chosen or any(part not in allowed for part in chosen):
        raise ConfigError(f"what is {what!r}", f"of {', '.join(allowed)}")
    return [name for part in chosen for name in PARTS[part]]


def _check_number(name: str, value: Any, least: float, most: float) -> None:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not least <= value <= most:
        raise ConfigError(f"{name} is {value!r}", f"a number, {least:g} to {most:g}")


def _check_alike(latents: Latents, other: Latents, names: Sequence[str]) -> None:
    if "carry" in latents or "carry" in other:
        raise ConfigError(
            "latents from the middle of a video, with what a recurrent generator did before",
            "draw them with start=0",
        )
    shapes = [
        {name: _shape(name, each[name]) for name in names if name in each}
        for each in (latents, other)
    ]
    counts = [[len(x) for x in each.values()][:1] for each in (latents, other)]
    if shapes[0] != shapes[1] or counts[0] != counts[1]:
        raise ConfigError(
            f"latents of shapes {shapes[0]} and {shapes[1]} are not alike",
            "draw both for the same frames, start and number of videos",
        )


def _shape(name: str, x: np.ndarray) -> tuple[int, ...]:
    """Returns the shape of an array, but for how many captions are mixed."""
    return (len(x), *x.shape[2:]) if name.startswith("caption/") else x.shape


def _weights(label: np.ndarray, classes: int) -> np.ndarray:
    """Returns labels as weights of classes, float32 `[N, classes]`."""
    if label.ndim == 2:
        return label
    if label.max() >= classes:
        raise ConfigError(f"there is a label {label.max()}", f"labels of {classes} classes, from 0")
    return np.eye(classes, dtype=np.float32)[label]


def _between(name: str, a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Returns what lies between two arrays of latents, `[N, P, ...]` for P shares."""
    a, b = a[:, None], b[:, None]  # [N, 1, ...], beside shares [1, P, ...]
    t = share.reshape(1, -1, *(1,) * (a.ndim - 2))
    if name == "caption/tokens":  # of as many captions as both have
        return np.concatenate([np.repeat(x, len(share), 1) for x in (a, b)], 2)
    if name == "caption/weights":
        return np.concatenate([(1 - t) * a, t * b], 2)
    if "/" in name:  # of another condition
        return np.where(t < 0.5, a, b)
    if name == "label":
        return (1 - t) * a + t * b if a.ndim == 3 else np.where(t < 0.5, a, b)
    if name == "cycle":
        turned = (a + t * ((b - a + 0.5) % 1 - 0.5)) % 1
        return np.where(turned < 1, turned, 0)  # what is hardly below 0 is rounded to 1
    return _arc(a, b, t)


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
