"""What a run makes of conditions that real clips fulfil: results beside the truth and simple ways.

Clips are shown to a run as its conditions show them (their first frame, themselves made smaller),
and what comes back is compared with the clips. Beside it stands what needs no network: the nearest
known pixels, a mean of those before and after, the poorer video enlarged.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, UInt8

from vidgen.errors import ConfigError
from vidgen.evaluation import matching
from vidgen.metrics import fidelity
from vidgen.models import conditions
from vidgen.models.conditions.maps import Seen
from vidgen.sampling import Sampler, batches

_TOGETHER = 32  # clips that are looked at together

Clips = UInt8[np.ndarray, "clips time height width 3"]


class Asked(NamedTuple):
    """What came of asking.

    Attributes:
      videos: By name, each uint8 `[N, T, H, W, 3]`: `given`, what is known laid out as a video;
        simple ways; `made`; `real`.
      unknown: Pixels that had to be found, `[N, T, H, W]`.
      figures: By name of those that are compared with the real ones, of `fidelity.scores`.
    """

    videos: dict[str, Clips]
    unknown: Bool[np.ndarray, "clips time height width"]
    figures: dict[str, dict[str, float]]


def ask(
    sampler: Sampler,
    name: str,
    clips: Clips,
    columns: Mapping[str, Any],
    value: Any = None,
    mode: str | None = None,
    labels: Any = None,
    seed: int = 0,
    frozen: Any = None,
) -> Asked:
    """Asks a run for clips by one of its conditions, and compares.

    Args:
      sampler: Of the run.
      name: A condition that lies in space.
      clips: Real clips of the run's size.
      columns: What is known of each clip, by name.
      value: What is given instead of what the condition shows of clips by itself.
      mode: Of `frames`: what is known of clips; by default the first of the run's modes.
      labels: As for `Sampler.sample`.
      seed: Of the first video; the n-th has the n-th next one.
      frozen: As for `fidelity.scores`.

    Raises:
      ConfigError: The run has no such condition, or it does not lie in space.
    """
    known = dict(sampler.generator.conditions)
    if name not in known or conditions.KINDS[name].column:
        fit = [n for n in known if not conditions.KINDS[n].column]
        raise ConfigError(
            f"the run has no condition {name!r} that says what pixels are like",
            f"of {', '.join(fit)}" if fit else "it has none",
        )
    options = dict(known[name])
    if mode is not None:
        if "modes" not in options:
            raise ConfigError(f"mode is {mode!r}, and {name} has none", "leave it out")
        options["modes"] = (mode,)
    kind = conditions.kind(name, options)
    kind.check(sampler.size)
    whole = conditions.of_clips(sampler.generator.conditions, clips, columns)
    value = kind.of_clips(clips, columns) if value is None else value
    count, frames = clips.shape[:2]
    seeds, asked = range(seed, seed + count), {**whole, name: value}
    made = sampler.sample(seeds, frames, labels=labels, condition=asked)
    arrays = kind.window(kind.read(value, count, sampler.size), 0, frames)
    see = jax.jit(lambda a: kind.see(a, jnp.arange(frames)[None], sampler.size))
    parts = [
        jax.tree.map(np.asarray, see({n: x[rows] for n, x in arrays.items()}))
        for rows in batches.rows(count, _TOGETHER)
    ]
    seen = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    ways = _ways(seen)
    unknown = np.ones(clips.shape[:4], bool)
    if seen.known is None:
        times = clips.shape[2] // arrays["video"].shape[2]
        small = arrays["video"][:, 1:-1]
        given = np.repeat(np.repeat(small, times, 2), times, 3)
    else:
        unknown = ~np.asarray(seen.known)
        given = np.where(unknown[..., None], np.uint8(127), clips)
    videos = {"given": given, **ways, "made": made, "real": clips}
    compared = [n for n in videos if n not in ("given", "real")]
    figures = {n: fidelity.scores(clips, videos[n], frozen, unknown) for n in compared}
    return Asked(videos, unknown, figures)


def ask_by_captions(
    sampler: Sampler,
    clips: Clips,
    captions: Sequence[str],
    count: int,
    labels: Any = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Clips, dict[str, float]]:
    """Asks a run for videos of captions, and a matcher which caption each video shows.

    Args:
      sampler: Of the run.
      clips: Real clips that the run has not seen.
      captions: Of each.
      count: How many of the first are asked for; the matcher is trained on the others.
      labels: As for `Sampler.sample`.
      seed: Of the first video, and of the matcher.
      progress: Done, of how many.

    Returns:
      The videos, uint8 `[count, T, H, W, 3]`, and by `real` and `made` the share whose own caption
      was found among 16.

    Raises:
      ConfigError: The run knows no captions.
      DataError: There are too few clips, or captions are all the same.
    """
    if "caption" not in dict(sampler.generator.conditions):
        raise ConfigError("the run was not trained with captions", "config.conditions.caption")
    rest = slice(count, None)
    matcher = matching.fit(clips[rest], captions[rest], seed, progress=progress)
    texts, seeds = list(captions[:count]), range(seed, seed + count)
    columns = {"caption": texts}
    asked = conditions.of_clips(sampler.generator.conditions, clips[:count], columns)
    made = sampler.sample(seeds, clips.shape[1], labels=labels, condition=asked)
    rates = {
        name: matching.rate(matcher, videos, texts, seed=seed)
        for name, videos in (("real", clips[:count]), ("made", made))
    }
    return made, rates


def _ways(seen: Seen) -> dict[str, Clips]:
    """Returns what needs no network: pixels that are there already."""
    if seen.added is not None:
        return {"enlarged": _levels(np.asarray(seen.added[0]))}
    bases = [np.asarray(base) for base in seen.bases]
    have = [np.asarray(where)[..., None] for where in seen.have]
    raw = np.asarray(seen.raw)
    near = raw[..., 3:4], raw[..., 11:12]  # 1 / (1 + frames away)
    away = [1 / np.maximum(one, 1e-6) - 1 for one in near]
    mean = _mean_colour(seen)
    copied = np.where(have[0], bases[0], np.where(have[1], bases[1], mean))
    share = away[0] / np.maximum(away[0] + away[1], 1e-6)
    both = have[0] & have[1]
    between = np.where(both, (1 - share) * bases[0] + share * bases[1], copied)
    ways = {"copied": _levels(copied)}
    return ways | ({"between": _levels(between)} if both.any() else {})


def _mean_colour(seen: Seen) -> np.ndarray:
    """Returns the mean colour of what is known in each frame, `[N, T, 1, 1, 3]`."""
    base, have = np.asarray(seen.bases[0]), np.asarray(seen.have[0])[..., None]
    return (base * have).sum((2, 3), keepdims=True) / np.maximum(have.sum((2, 3), keepdims=True), 1)


def _levels(video: np.ndarray) -> Clips:
    return np.clip(np.round((video + 1) * 127.5), 0, 255).astype(np.uint8)
