"""Many videos by programs that take a batch at a time: the last batch is filled up."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np


def rows(count: int, batch: int) -> Iterator[slice]:
    """Yields where the rows of each batch lie among `count`; the last may be fewer."""
    return (slice(at, at + batch) for at in range(0, count, batch))


def pad(some: np.ndarray, batch: int) -> np.ndarray:
    """Repeats the last row until there are `batch`."""
    missing = batch - len(some)
    return np.concatenate([some, np.repeat(some[-1:], missing, 0)]) if missing else some


def by_batch(
    function: Callable[..., Sequence[Any]], batch: int, *arrays: np.ndarray
) -> list[np.ndarray]:
    """Calls a function with `batch` rows of arrays at a time; puts together what it returns."""
    made = []
    for some in rows(len(arrays[0]), batch):
        results = function(*(pad(x[some], batch) for x in arrays))
        made.append([np.asarray(x)[: len(arrays[0][some])] for x in results])
    return [np.concatenate(parts) for parts in zip(*made, strict=True)]
