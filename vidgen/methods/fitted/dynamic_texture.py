"""Dynamic textures: a linear dynamical system for each class, fitted by singular values.

Reference: Doretto, Chiuso, Wu and Soatto, "Dynamic textures", 2003.
"""

from typing import Any

import numpy as np

from vidgen import models
from vidgen.config.fields import FITTED, merged
from vidgen.models.fitted import DynamicTexture

GENERATORS = {"dynamic_texture": DynamicTexture}
FIELDS = merged(FITTED, {"generator": models.fields(GENERATORS, "dynamic_texture")})

_RADIUS = 0.93  # largest spectral radius: after 48 steps 3 % of a state are left


def fit(batch: dict[str, np.ndarray], *, generator: dict[str, Any], seed: int, **shared: Any):
    """Fits one system to the clips of each class.

    Args:
      batch: `video` uint8 `[N, T, H, W, 3]`, T at least 2, and, where there are classes, `label`
        int32 `[N]`; at least two clips of each class.
      generator: Kind and arguments of the generator.
      seed: Of the random projection of the singular value decomposition.
      **shared: `size` and `classes`.

    Returns:
      Arguments and parameters of a `vidgen.models.fitted.DynamicTexture`.
    """
    arguments = {**generator, "size": shared["size"], "classes": shared["classes"]}
    module = DynamicTexture(**{n: v for n, v in arguments.items() if n != "kind"})
    label = batch.get("label", np.zeros(len(batch["video"]), np.int32))
    rng = np.random.default_rng(seed)
    each = [
        _fit_class(batch["video"][label == kind], module, rng)
        for kind in range(max(shared["classes"], 1))
    ]
    return arguments, {name: np.stack([part[name] for part in each]) for name in each[0]}


def _fit_class(clips: np.ndarray, module: DynamicTexture, rng: np.random.Generator):
    count, steps = clips.shape[:2]
    video = clips.reshape(count, steps, -1).astype(np.float32) / 127.5 - 1
    still = video.mean(1)
    mean = still.mean(0)
    directions, scores = components(still - mean, module.content, rng)
    spread = np.sqrt((scores**2).sum(0) / max(count - 1, 1))
    video -= still[:, None]
    moves, state = components(video.reshape(count * steps, -1), module.motion, rng)
    # In units of each component's deviation, for a well-conditioned fit.
    deviation = np.maximum(state.std(0), 1e-6)
    state = (state / deviation).reshape(count, steps, -1).astype(np.float64)
    before, after = (x.reshape(-1, x.shape[-1]) for x in (state[:, :-1], state[:, 1:]))
    size = before.shape[1]
    transition = np.linalg.solve(before.T @ before + 1e-3 * np.eye(size), before.T @ after).T
    radius = np.abs(np.linalg.eigvals(transition)).max()
    transition *= min(1.0, _RADIUS / max(radius, 1e-12))
    # Noise that keeps the state's covariance P what it is among the clips: P = A P A' + B B'.
    covariance = np.cov(state.reshape(-1, size).T).reshape(size, size)
    values, vectors = np.linalg.eigh(covariance - transition @ covariance @ transition.T)
    drive = vectors * np.sqrt(np.maximum(values, 0))
    response = np.zeros((module.steps, module.motion, module.motion))
    for step in range(module.steps):
        response[step, :size, :size] = drive
        drive = transition @ drive
    return {
        "mean": mean,
        "stills": _rows(spread[:, None] * directions, module.content),
        "moves": _rows(deviation[:, None] * moves, module.motion),
        "response": response.astype(np.float32),
    }


def components(x: np.ndarray, count: int, rng: np.random.Generator):
    """Returns the first principal directions `[k, D]` of `[N, D]` and the scores `[N, k]`.

    k is `count`, or the rank where that is smaller.

    Reference: Halko, Martinsson and Tropp, "Finding structure with randomness", 2011.
    """
    count = min(count, *x.shape)
    sketch = rng.standard_normal((x.shape[0], min(count + 8, *x.shape)), np.float32)
    basis = x.T @ sketch
    for _ in range(2):  # power iterations: the spectrum of video falls slowly
        basis = x.T @ (x @ np.linalg.qr(basis)[0])
    basis = np.linalg.qr(basis)[0]
    left, values, right = np.linalg.svd(x @ basis, full_matrices=False)
    return (right @ basis.T)[:count], (left * values)[:, :count]


def _rows(x: np.ndarray, count: int) -> np.ndarray:
    """Fills `[k, D]` up with rows of zeros."""
    return np.pad(x, ((0, count - len(x)), (0, 0))).astype(np.float32)
