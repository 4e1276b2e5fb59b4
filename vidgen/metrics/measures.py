"""What a set of generated clips is worth beside a set of real ones: figures with intervals.

`compare` takes what `features.extract` gives of each set. A figure is a dict: `value`, and `low`
and `high` where its spread was estimated (95 %). What is measured in units of the real clips' own
spread is NaN where they have none: where they are all alike.
"""

import math
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped, UInt8
from scipy import cluster, spatial, stats

from vidgen.metrics import distances
from vidgen.metrics.features import Network

Figures = dict[str, dict[str, float]]
Measured = dict[str, Float[np.ndarray, "_ ..."]]
Real = Float[np.ndarray, "real feature"]
Fake = Float[np.ndarray, "fake feature"]

SPREAD = ("flow", "difference", "flicker", "period", "drift")  # numbers of a clip, compared as sets
_BINS = 20  # of number_of_different_bins
_LEVEL = 0.95
COPIED = 0.3  # of the usual distance between neighbours: nearer than that is a copy
_SAME = 1e-4  # of the numbers in SPREAD, which are levels, percents or parts of 1
_ALIKE = 1e-6  # of the features' own length: what lies nearer is the same but for rounding


def compare(
    real: Measured, fake: Measured, network: Network, seed: int = 0, rounds: int = 100
) -> Figures:
    """Computes all figures.

    Args:
      real: Real clips, from `features.extract` with `network`.
      fake: Generated ones.
      network: What `clip` and `frame` are features of; with I3D the Frechet and kernel distances
        are called `fvd` and `kvd`, with others `frechet` and `kernel`, for those are no FVD.
      seed: Of all that is drawn: the same sets and seed give the same figures.
      rounds: Draws of each bootstrap.

    Returns:
      Figures by name; docs/metrics.md says what each means.
    """
    rng = np.random.default_rng(seed)
    a, b = _rows(real["clip"]), _rows(fake["clip"])
    names = ("fvd", "kvd") if network.name == "i3d" else ("frechet", "kernel")
    figures: Figures = {}
    low, high = distances.frechet_interval(a, b, rng, rounds=rounds, level=_LEVEL)
    figures[names[0]] = {"value": distances.frechet(a, b), "low": low, "high": high}
    figures[f"{names[0]}_infinity"] = {"value": distances.frechet_at_infinity(a, b, rng)}
    low, high = distances.kernel_interval(a, b, rng, level=_LEVEL)
    figures[names[1]] = {"value": distances.kernel_distance(a, b), "low": low, "high": high}
    frames = _rows(real["frame"]), _rows(fake["frame"])
    low, high = distances.frechet_interval(*frames, rng, rounds=rounds, level=_LEVEL)
    figures["frame_frechet"] = {"value": distances.frechet(*frames), "low": low, "high": high}
    for name, each in distances.neighbourhoods(a, b).items():
        figures[name] = _mean(each, rng, rounds)
    if network.logits:
        figures["inception_score"] = {"value": distances.inception_score(b)}
        figures["inception_score_real"] = {"value": distances.inception_score(a)}
    for name in (*SPREAD, "static"):
        figures[name] = _mean(fake[name], rng, rounds)
        figures[f"{name}_real"] = _mean(real[name], rng, rounds)
    for name in SPREAD:
        figures[f"{name}_distance"] = {"value": distribution_distance(real[name], fake[name])}
    figures["content_diversity"] = diversity(real["look"], fake["look"], rng, rounds)
    figures["motion_diversity"] = diversity(real["moves"], fake["moves"], rng, rounds)
    figures["different_bins"] = {"value": different_bins(a, b, seed)}
    return figures


def copies(
    fake: Fake,
    bank: Float[np.ndarray, "window feature"],
    clip: Int[np.ndarray, " window"],
    seed: int = 0,
    rounds: int = 100,
) -> Figures:
    """Finds generated clips that are copies of training clips.

    A clip counts as copied where some training window is nearer to it than `COPIED` times what
    usually lies between a training window and the nearest one of another clip.

    Args:
      fake: `plain` of `features.extract` of the generated clips, `[M, D]`.
      bank: The same of windows of the training clips, `[N, D]`.
      clip: The number of each window's clip, `[N]`.
      seed: Of what is drawn for the interval.
      rounds: Draws of it.

    Returns:
      `copied`: the share; `nearest_distance`: the mean distance of a generated clip to the nearest
      window, over the usual one: about 1 for new clips of the same kind; NaN where most training
      clips are the same as another.
    """
    rng = np.random.default_rng(seed)
    some = np.arange(0, len(bank), max(len(bank) // 1024, 1))
    apart = spatial.distance.cdist(_rows(bank[some]), _rows(bank))
    apart[clip[some][:, None] == clip[None]] = np.inf
    usual = float(np.median(apart.min(1)))
    near = nearest(fake, bank)[1]
    alike = _rounding(bank)
    return {
        "copied": _mean((near < COPIED * usual) | (near <= alike), rng, rounds),
        "nearest_distance": (
            _mean(near / usual, rng, rounds) if usual > alike else {"value": math.nan}
        ),
    }


def _rows(x: Shaped[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    return np.asarray(x, np.float64)


def _rounding(features: Real) -> float:
    """Returns the distance below which two rows `[N, D]` are the same but for rounding."""
    return _ALIKE * float(np.linalg.norm(_rows(features), axis=1).mean())


def _mean(
    each: Shaped[np.ndarray, " clips"], rng: np.random.Generator, rounds: int
) -> dict[str, float]:
    """Returns the mean over clips and its bootstrap interval."""
    each = _rows(each)
    drawn = [each[rng.integers(len(each), size=len(each))].mean() for _ in range(rounds)]
    low, high = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return {"value": float(each.mean()), "low": float(low), "high": float(high)}


def distribution_distance(
    real: Float[np.ndarray, " real"], fake: Float[np.ndarray, " fake"]
) -> float:
    """Computes the Wasserstein distance of two samples of a number, in real standard deviations.

    A deviation below a thousandth of the mean counts as that. NaN where real numbers are the same
    but for rounding, and 0, and others are not.
    """
    spread = max(float(np.std(real)), 1e-3 * float(np.mean(np.abs(real))))
    apart = stats.wasserstein_distance(_rows(real), _rows(fake))
    if spread < _SAME:
        return math.nan if apart > _SAME else 0.0
    return float(apart / spread)


def diversity(
    real: Real, fake: Fake, rng: np.random.Generator, rounds: int = 100
) -> dict[str, float]:
    """Computes the mean distance of two generated clips over that of two real ones.

    Args:
      real: Features `[N, D]`.
      fake: Features `[M, D]`.
      rng: Draws the clips for the interval.
      rounds: How often.

    Returns:
      A figure: 1 for sets equally varied, 0 where all generated clips are one, NaN where all real
      clips are one.
    """
    apart = [spatial.distance.squareform(spatial.distance.pdist(_rows(x))) for x in (real, fake)]

    def mean(matrix, counts):
        pairs = counts.sum() ** 2 - (counts**2).sum()
        return counts @ matrix @ counts / max(pairs, 1.0)

    def ratio(counts):
        below = mean(apart[0], counts[0])
        return float(mean(apart[1], counts[1]) / below) if below else 0.0

    if apart[0].mean() <= _rounding(real):
        return {"value": math.nan}
    here = ratio([np.ones(len(x)) for x in apart])
    drawn = [
        ratio([rng.multinomial(len(x), np.full(len(x), 1 / len(x))).astype(float) for x in apart])
        for _ in range(rounds)
    ]
    low, high = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return {"value": here, "low": float(low), "high": float(high)}


def different_bins(real: Real, fake: Fake, seed: int = 0, bins: int = _BINS) -> float:
    """Computes the share of bins that one set fills significantly otherwise than the other.

    The bins are the cells of k-means on the real set; a bin differs where a two-sided test of two
    proportions rejects at 5 %. So about 0.05 is what equal sets score.

    Args:
      real: `[N, D]`.
      fake: `[M, D]`.
      seed: Of k-means.
      bins: At most; sets of fewer than ten clips a bin get fewer, and so do sets of fewer different
        clips.

    Returns:
      The share, 0 to 1; NaN where all clips of which bins are made are one.

    Reference: Richardson and Weiss, "On GANs and GMMs", 2018 (NDB).
    """
    bins = max(min(bins, len(real) // 10), 2)
    # Half of the real set makes the bins and the other half fills them: cells drawn about clips
    # hold more of those than of others of the same kind.
    varied = real.std(0) > _rounding(real)
    real, fake, scale = real[:, varied], fake[:, varied], real.std(0)[varied] + 1e-12
    makers = real[::2] / scale
    bins = min(bins, len(np.unique(makers.round(6), axis=0)))
    if bins < 2:
        return math.nan
    with warnings.catch_warnings():
        # A bin that loses its clips while means move stays where it was, and is empty in both sets.
        warnings.filterwarnings("ignore", "One of the clusters is empty", UserWarning)
        centres, _ = cluster.vq.kmeans2(makers, bins, minit="++", rng=np.random.default_rng(seed))
    counts = []
    for x in (real[1::2], fake):
        counts.append(np.bincount(cluster.vq.vq(x / scale, centres)[0], minlength=bins))
    n, m = counts[0].sum(), counts[1].sum()
    together = (counts[0] + counts[1]) / (n + m)
    error = np.sqrt(np.maximum(together * (1 - together) * (1 / n + 1 / m), 1e-12))
    z = np.abs(counts[0] / n - counts[1] / m) / error
    return float((z > stats.norm.ppf(0.975)).mean())


def nearest(fake: Fake, real: Real) -> tuple[Int[np.ndarray, " fake"], Float[np.ndarray, " fake"]]:
    """Finds for each row of `fake` `[M, D]` the nearest of `real` `[N, D]`.

    Returns:
      Its number int64 `[M]`, and the distance `[M]`.
    """
    apart = spatial.distance.cdist(_rows(fake), _rows(real))
    at = apart.argmin(1)
    return at, apart[np.arange(len(apart)), at]


def average_content_distance(
    video: UInt8[np.ndarray, "clips time height width 3"], background: Sequence[float] = (0, 0, 0)
) -> Float64[np.ndarray, " clips"]:
    """Computes MoCoGAN's ACD-C: how far the colour of a shape varies over its clip.

    Args:
      video: uint8 `[N, T, H, W, 3]`: a shape on a plain background, as `shapes64` has them.
      background: Its RGB.

    Returns:
      For each clip, the mean over all pairs of frames of the Euclidean distance of the shape's mean
      colours, in levels of 255; float64 `[N]`. Frames without a shape count as background.

    Reference: Tulyakov et al., "MoCoGAN: decomposing motion and content for video generation",
      2018, section 4.
    """
    ground = np.asarray(background, np.float64)
    found = []
    for clip in video:
        frames = clip.astype(np.float64)
        shape = np.abs(frames - ground).max(-1, keepdims=True) > 64  # codecs' ringing stays below
        area = shape.sum((1, 2))
        mean = np.where(area > 0, (frames * shape).sum((1, 2)) / np.maximum(area, 1), ground)
        found.append(spatial.distance.pdist(mean).mean())
    return np.array(found)
