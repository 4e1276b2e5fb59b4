"""Measuring what a run makes."""

import pathlib

from vidgen import sampling
from vidgen.errors import ConfigError
from vidgen.metrics import toy

METRICS = {"toy": toy.score}


def evaluate(run: str | pathlib.Path, metric: str, clips: int, frames: int = 8) -> dict[str, float]:
    """Samples a run and measures the videos; nothing is written.

    Args:
      run: Folder of the run.
      metric: A name in `METRICS`.
      clips: How many videos, seeds 0, 1, 2, ...
      frames: Length of each.

    Returns:
      The metric's figures by name.

    Raises:
      ConfigError: The metric is unknown or `clips` is not positive.
      StorageError: The run has no good checkpoint.
    """
    if metric not in METRICS:
        raise ConfigError(f"there is no metric {metric!r}", "one of " + ", ".join(METRICS))
    if clips < 1:
        raise ConfigError(f"--clips={clips}", "at least 1")
    return METRICS[metric](sampling.load(run).sample(range(clips), frames))
