"""The plainest probability model of short clips: a Gaussian of low rank for each class.

Reference: Tipping and Bishop, "Probabilistic principal component analysis", 1999.
"""

from typing import Any

import numpy as np

from vidgen import models
from vidgen.config.fields import FITTED, merged
from vidgen.methods.fitted.dynamic_texture import components
from vidgen.models.fitted import Ppca

GENERATORS = {"ppca": Ppca}
FIELDS = merged(FITTED, {"generator": models.fields(GENERATORS, "ppca")})

_ROUNDING = 1 / 127.5**2 / 12  # variance of a value within its step


def fit(batch: dict[str, np.ndarray], *, generator: dict[str, Any], seed: int, **shared: Any):
    """Fits the Gaussian of largest likelihood to the clips of each class.

    Args:
      batch: `video` uint8 `[N, T, H, W, 3]` and, where there are classes, `label` int32 `[N]`; at
        least two clips of each class.
      generator: Kind and arguments of the generator.
      seed: Of the random projection of the singular value decomposition.
      **shared: `size` and `classes`.

    Returns:
      Arguments and parameters of a `vidgen.models.fitted.Ppca`.
    """
    arguments = {**generator, "length": batch["video"].shape[1], **shared}
    module = Ppca(**{n: v for n, v in arguments.items() if n != "kind"})
    label = batch.get("label", np.zeros(len(batch["video"]), np.int32))
    rng = np.random.default_rng(seed)
    each = []
    for kind in range(max(shared["classes"], 1)):
        clips = _flat(batch["video"][label == kind])
        mean = clips.mean(0)
        clips = clips - mean
        directions, scores = components(clips, module.content, rng)
        along = (scores.astype(np.float64) ** 2).sum(0) / len(clips)
        left = (clips.astype(np.float64) ** 2).sum() / len(clips) - along.sum()
        variance = max(left, 0) / (clips.shape[1] - len(along))
        scale = np.sqrt(np.maximum(along - variance, 0))
        variance += _ROUNDING
        spread = np.zeros((module.content, clips.shape[1]), np.float32)
        spread[: len(along)] = scale[:, None] * directions
        each.append({"mean": mean, "spread": spread, "variance": np.float32(variance)})
    return arguments, {name: np.stack([part[name] for part in each]) for name in each[0]}


def scores(params: dict[str, np.ndarray], batch: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns the negative log-likelihood of clips, in bits for each value of 0..255.

    Values are taken to be spread evenly over their steps; the mean over that is no less than what
    the whole numbers cost (Theis et al., "A note on the evaluation of generative models", 2016). Of
    the clips that it was fitted to, the score flatters the model.
    """
    label = batch.get("label", np.zeros(len(batch["video"]), np.int32))
    nats = []
    for kind, (mean, spread, variance) in enumerate(
        zip(params["mean"], params["spread"], params["variance"], strict=True)
    ):
        clips = _flat(batch["video"][label == kind]) - mean
        strength = (spread.astype(np.float64) ** 2).sum(1)
        inverse = (
            clips.shape[1] - (strength / (variance + strength)).sum()
        ) / variance  # its trace
        nats.append(0.5 * _ROUNDING * inverse - log_density(clips, spread, float(variance)))
    bits = np.concatenate(nats).mean() / params["mean"].shape[1] / np.log(2)
    return {"bits_per_dimension": float(bits + np.log2(127.5))}


def log_density(x: np.ndarray, spread: np.ndarray, variance: float) -> np.ndarray:
    """Returns log N(x; 0, spread' spread + variance I) in nats, float64 `[N]`.

    Args:
      x: `[N, D]`.
      spread: `[K, D]`, orthogonal rows; rows of zeros change nothing.
      variance: Of what the rows do not span, above 0.
    """
    x, spread = x.astype(np.float64), spread.astype(np.float64)
    strength = (spread**2).sum(1)  # beyond the variance, in the directions of the rows
    along = (x @ spread.T) ** 2
    quadratic = (x**2).sum(1) - (along / (variance + strength)).sum(1)
    spans = x.shape[1] * np.log(2 * np.pi * variance) + np.log1p(strength / variance).sum()
    return -0.5 * (spans + quadratic / variance)


def _flat(video: np.ndarray) -> np.ndarray:
    return video.reshape(len(video), -1).astype(np.float32) / 127.5 - 1
