"""How near made videos are to those that they should be: figures of pairs, each with its clip.

Where the truth is known (a clip was made smaller, or its first frame given), pairs are compared;
sets of clips are compared by `measures`.
"""

import functools
from collections.abc import Callable

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64, PyTree, UInt8

from vidgen.models.features.distance import distance

Clips = UInt8[np.ndarray, "clips time height width 3"]


def scores(
    real: Clips,
    made: Clips,
    frozen: PyTree | None = None,
    count: Bool[np.ndarray, "clips time height width"] | None = None,
) -> dict[str, float]:
    """Compares videos with the clips that they should be; means over clips.

    Args:
      real: The clips.
      made: As many videos.
      frozen: Weights of `features.efficientnet_weights.load`, for `features`.
      count: Pixels that count; all by default. `ssim` and `features` are of whole frames, those of
        which a pixel counts.

    Returns:
      `psnr` in dB, of a clip's mean squared error; `ssim`, the structural similarity of frames, at
      most 1; `motion`, the correlation of the differences between frames of the two, at most 1;
      `features`, the perceptual distance, at least 0.

    Reference: Wang et al., "Image quality assessment: from error visibility to structural
      similarity", 2004.
    """
    if count is None:
        count = np.ones(real.shape[:4], bool)
    some = count.any((1, 2, 3))  # of a clip of which nothing is to be found, nothing is measured
    real, made, count = real[some], made[some], count[some]
    frames = count.any((2, 3))
    error = (real.astype(np.float64) - made) ** 2
    mean = (error.mean(-1) * count).sum((1, 2, 3)) / count.sum((1, 2, 3))
    psnr = 10 * np.log10(255**2 / np.maximum(mean, 1e-9))
    pairs = real[frames], made[frames]
    found = {
        "psnr": float(psnr.mean()),
        "ssim": _by_frames(_ssim, *pairs),
        "motion": float(motion(real, made, count).mean()),
    }
    if frozen is not None:
        found["features"] = _by_frames(distance, *pairs, weights=frozen)
    return found


def motion(
    real: Clips, made: Clips, count: Bool[np.ndarray, "clips time height width"]
) -> Float64[np.ndarray, " clips"]:
    """Returns the correlation of the frame differences of pairs; 0 where one stands still.

    Args:
      real: The clips.
      made: As many videos.
      count: Pixels that count: their differences from the frame before.
    """
    steps = (np.diff(x.astype(np.float64), axis=1) for x in (real, made))
    a, b = ((x * count[:, 1:, ..., None]).reshape(len(x), -1) for x in steps)
    norm = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.where(norm > 0, (a * b).sum(1) / np.maximum(norm, 1e-12), 0.0)


def _ssim(_: PyTree, a: Float[Array, "n h w 3"], b: Float[Array, "n h w 3"]) -> Float[Array, " n"]:
    return jnp.asarray(dm_pix.ssim((a + 1) / 2, (b + 1) / 2))


def _by_frames(
    function: Callable[..., Float[Array, " n"]],
    real: UInt8[np.ndarray, "frame height width 3"],
    made: UInt8[np.ndarray, "frame height width 3"],
    weights: PyTree = None,
    batch: int = 32,
) -> float:
    """Returns the mean of a function of pairs of frames in [-1, 1], some at a time."""
    program = _program(function)
    values = []
    for at in range(0, len(real), batch):
        pair = [x[at : at + batch] for x in (real, made)]
        spare = batch - len(pair[0])
        pair = [np.concatenate([x, np.repeat(x[-1:], spare, 0)]) for x in pair]
        values.append(np.asarray(program(weights, *pair))[: batch - spare])
    return float(np.concatenate(values).mean()) if values else float("nan")


@functools.lru_cache(maxsize=4)
def _program(function: Callable[..., Float[Array, " n"]]) -> Callable[..., Float[Array, " n"]]:
    floats = lambda x: jnp.asarray(x, jnp.float32) / 127.5 - 1  # noqa: E731
    return jax.jit(lambda weights, a, b: function(weights, floats(a), floats(b)))
