"""Distances between two sets of features: NumPy, float64, nothing of video in them.

Features are `[N, D]`, a row for each clip (or frame); `real` and `fake` have the same D.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import spatial

Real = Float[np.ndarray, "real feature"]
Fake = Float[np.ndarray, "fake feature"]
Interval = tuple[float, float]


def frechet(real: Real, fake: Fake) -> float:
    """Computes the squared Frechet distance of the Gaussians fitted to two sets.

    Args:
      real: `[N, D]`, N at least 2.
      fake: `[M, D]`, M at least 2.

    Returns:
      `|m - n|^2 + tr(S + C - 2 (S C)^(1/2))`; with the I3D's logits this is FVD.

    Reference: Dowson and Landau, 1982; Heusel et al., 2017 (FID); Unterthiner et al., "Towards
      accurate generative models of video", 2018 (FVD).
    """
    return _frechet(*_moments(real), *_moments(fake))


def frechet_of_gaussians(
    mean: Float[np.ndarray, " feature"],
    covariance: Float[np.ndarray, "feature feature"],
    other_mean: Float[np.ndarray, " feature"],
    other_covariance: Float[np.ndarray, "feature feature"],
) -> float:
    """Computes the same of two Gaussians: means `[D]`, covariances `[D, D]`."""
    return _frechet(mean, _root(covariance), other_mean, _root(other_covariance))


def _moments(
    x: Float[np.ndarray, "clips feature"], counts: Float[np.ndarray, " clips"] | None = None
) -> tuple[Float[np.ndarray, " feature"], Float[np.ndarray, "rank feature"]]:
    """Returns the mean `[D]` and a root `[R, D]` of the covariance, R the smaller of N and D.

    Args:
      x: `[N, D]`.
      counts: How often each row is taken, `[N]`; None for once.
    """
    x = np.asarray(x, np.float64)
    weights = np.ones(len(x)) if counts is None else counts
    total = weights.sum()
    mean = weights @ x / total
    root = (x - mean) * np.sqrt(weights / (total - 1))[:, None]
    if len(root) > root.shape[1]:
        root = _root(root.T @ root)
    return mean, root


def _root(
    covariance: Float[np.ndarray, "feature feature"],
) -> Float[np.ndarray, "feature feature"]:
    """Returns R with R'R the covariance; rounding's negative eigenvalues count as zero."""
    values, vectors = np.linalg.eigh(covariance)
    return np.sqrt(np.maximum(values, 0))[:, None] * vectors.T


def _frechet(
    mean: Float[np.ndarray, " feature"],
    root: Float[np.ndarray, "rank feature"],
    other_mean: Float[np.ndarray, " feature"],
    other_root: Float[np.ndarray, "other_rank feature"],
) -> float:
    # tr (S C)^(1/2) is the sum of the singular values of R Q', where S = R'R and C = Q'Q.
    cross = np.linalg.svd(root @ other_root.T, compute_uv=False).sum()
    gap = mean - other_mean
    squared = gap @ gap + np.sum(root**2) + np.sum(other_root**2) - 2 * cross
    return max(float(squared), 0.0)  # rounding may go below


def frechet_interval(
    real: Real,
    fake: Fake,
    rng: np.random.Generator,
    *,
    rounds: int = 100,
    level: float = 0.95,
) -> Interval:
    """Estimates by bootstrap how far `frechet` varies from one draw of the sets to another.

    Clips drawn with replacement repeat, which raises the distance of any two sets; the interval is
    that of the redrawn distances about their mean, moved to the distance itself. It speaks of sets
    of this size: the bias of small sets stays (`frechet_at_infinity`).

    Args:
      real: `[N, D]`.
      fake: `[M, D]`.
      rng: Draws the clips.
      rounds: Redrawn sets.
      level: Share of draws that the interval is to hold.

    Returns:
      Its ends.
    """
    here = frechet(real, fake)
    again = []
    for _ in range(rounds):
        drawn = []
        for x in (real, fake):
            counts = rng.multinomial(len(x), np.full(len(x), 1 / len(x)))
            drawn += _moments(x, counts.astype(np.float64))
        again.append(_frechet(*drawn))
    again = np.array(again) - np.mean(again) + here
    low, high = np.quantile(again, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def frechet_at_infinity(
    real: Real, fake: Fake, rng: np.random.Generator, *, sizes: int = 8, draws: int = 4
) -> float:
    """Extrapolates the Frechet distance to sets without end.

    The distance of finite sets is too large by about `c/N`. It is computed for random parts of
    both sets, from half of them to all, and a line in 1/N is fitted; its value at 0 is returned.
    Both sets must be large for the line to hold: with fewer clips than about twice D it is rough.

    Args:
      real: `[N, D]`.
      fake: `[M, D]`; both sets are cut in proportion.
      rng: Draws the parts.
      sizes: How many sizes.
      draws: Parts of each size.

    Reference: Chong and Forsyth, "Effectively unbiased FID and Inception Score and where to find
      them", 2020.
    """
    shares = np.linspace(0.5, 1, sizes)
    inverse, values = [], []
    for share in shares:
        for _ in range(1 if share == 1 else draws):
            parts = [
                x[rng.permutation(len(x))[: max(round(share * len(x)), 2)]] for x in (real, fake)
            ]
            inverse.append(1 / share)
            values.append(frechet(*parts))
    return float(np.polyfit(inverse, values, 1)[1])


def kernel_distance(real: Real, fake: Fake) -> float:
    """Computes the unbiased squared maximum mean discrepancy, kernel `(x.y / D + 1)^3`.

    It is zero on average for sets of one distribution, whatever their size, so it can be negative.
    With the I3D's logits this is KVD.

    Reference: Binkowski et al., "Demystifying MMD GANs", 2018 (KID); Unterthiner et al., 2018.
    """
    a, b = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    kernel = lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3  # noqa: E731

    def among(x):
        k = kernel(x, x)
        return (k.sum() - np.trace(k)) / (len(x) * (len(x) - 1))

    return float(among(a) + among(b) - 2 * kernel(a, b).mean())


def kernel_interval(
    real: Real, fake: Fake, rng: np.random.Generator, *, rounds: int = 50,
    level: float = 0.95,
) -> Interval:  # fmt: skip
    """Estimates how far `kernel_distance` varies, from halves of both sets drawn at random.

    The spread of a statistic over halves drawn without replacement is that over whole sets
    (the delete-half jackknife); no clip repeats, so the distance stays unbiased.
    """
    here = kernel_distance(real, fake)
    again = [
        kernel_distance(*(x[rng.permutation(len(x))[: len(x) // 2]] for x in (real, fake)))
        for _ in range(rounds)
    ]
    again = np.array(again) - np.mean(again) + here
    low, high = np.quantile(again, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def neighbourhoods(
    real: Real, fake: Fake, neighbours: int = 5
) -> dict[str, Bool[np.ndarray, " _"] | Float[np.ndarray, " _"]]:
    """Compares two sets by nearest neighbours; the mean of each array is the score.

    Args:
      real: `[N, D]`, N at least 2.
      fake: `[M, D]`, M at least 2.
      neighbours: k: a ball about a clip reaches to its k-th neighbour in its own set (to the
        farthest in a smaller set).

    Returns:
      `precision` bool `[M]`: whether a fake clip lies in some real clip's ball. `recall` bool
      `[N]`: whether a real one lies in some fake one's. `density` `[M]`: number of real balls a
      fake clip lies in, over k. `coverage` bool `[N]`: whether a real clip's ball holds a fake one.

    Reference: Kynkaanniemi et al., "Improved precision and recall metric for assessing generative
      models", 2019; Naeem et al., "Reliable fidelity and diversity metrics for generative models",
      2020.
    """
    k = min(neighbours, len(real) - 1, len(fake) - 1)
    between = spatial.distance.cdist(real, fake)
    real_ball, fake_ball = _ball(real, k), _ball(fake, k)
    inside = between <= real_ball[:, None]
    return {
        "precision": np.asarray(inside.any(0)),
        "recall": np.asarray((between <= fake_ball[None]).any(1)),
        "density": inside.sum(0) / k,
        "coverage": np.asarray(inside.any(1)),
    }


def _ball(x: Float[np.ndarray, "clips feature"], k: int) -> Float[np.ndarray, " clips"]:
    """Returns the distance of each row to its k-th nearest other row."""
    return np.partition(spatial.distance.cdist(x, x), k, axis=1)[:, k]


def inception_score(logits: Float[np.ndarray, "clips category"]) -> float:
    """Computes `exp(E KL(p(y|x) | p(y)))` from class logits `[N, K]`; 1 to K.

    Reference: Salimans et al., "Improved techniques for training GANs", 2016.
    """
    x = np.asarray(logits, np.float64)
    x = x - x.max(1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    p = np.exp(log_p)
    marginal = np.log(np.maximum(p.mean(0), np.finfo(np.float64).tiny))
    return float(np.exp((p * (log_p - marginal)).sum(1).mean()))
