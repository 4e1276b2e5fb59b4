"""What callers give to sampling: seeds, labels, times. Read as arrays, or refused by name."""

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
from jaxtyping import Float64, Int32, UInt32

from vidgen.errors import ConfigError

Seeds = int | np.integer | Sequence[int] | np.ndarray
Labels = int | np.integer | str | Sequence[int | str] | np.ndarray | None


def is_whole(value: Any) -> TypeGuard[int]:
    """Tells whether a value is a whole number; a truth value, which Python counts, is none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def read_seeds(seeds: Seeds) -> UInt32[np.ndarray, " videos"]:
    """Returns seeds as an array; raises ConfigError for what is no number in [0, 2^32), or none."""
    if isinstance(seeds, range) and len(seeds) > 2**32:
        raise ConfigError(f"seeds are {len(seeds)} numbers", "use 0 to 2^32-1")
    try:
        numbers = np.atleast_1d(np.asarray(seeds))
    except ValueError as error:  # lists of different lengths
        raise ConfigError(f"seeds are {seeds!r}", "a whole number, or a list of them") from error
    if numbers.ndim != 1 or not numbers.size or not np.issubdtype(numbers.dtype, np.integer):
        raise ConfigError(
            f"seeds are {np.asarray(seeds).tolist()!r}", "a whole number, or a list of them"
        )
    low, high = numbers.min(), numbers.max()
    if low < 0 or high >= 2**32:
        raise ConfigError(f"seeds reach from {low} to {high}", "use 0 to 2^32-1")
    return numbers.astype(np.uint32)


def class_numbers(
    classes: Sequence[str], seeds: np.ndarray, labels: Labels
) -> Int32[np.ndarray, " videos"]:
    """Returns the number of each video's class, given labels as for `Sampler.sample`.

    Args:
      classes: Names of all; empty without classes.
      seeds: One for each video; where there are no labels, a seed has a class of its own.
      labels: Names or numbers, for each or for all.

    Raises:
      ConfigError: A label names no class, or there are not as many as seeds.
    """
    number = max(len(classes), 1)
    if labels is None:
        return (seeds % number).astype(np.int32)
    if hasattr(labels, "__array__"):
        labels = np.asarray(labels).tolist()  # of no axes: one value
    if isinstance(labels, (str, bytes)) or not isinstance(labels, Sequence):
        return np.full(len(seeds), _class_number(classes, labels, number), np.int32)
    if len(labels) != len(seeds):
        raise ConfigError(f"{len(labels)} labels for {len(seeds)} seeds", "give one for each")
    return np.array([_class_number(classes, label, number) for label in labels], np.int32)


def _class_number(classes: Sequence[str], label: Any, number: int) -> int:
    if isinstance(label, str) and label in classes:
        return classes.index(label)
    if is_whole(label) and 0 <= label < number:
        return int(label)
    raise ConfigError(f"there is no class {label!r}", "one of " + ", ".join(classes or ("0",)))


def read_numbers(
    name: str,
    values: Any,
    least: float = -np.inf,
    most: float = np.inf,
    whole: bool = False,
) -> Float64[np.ndarray, " number"]:
    """Returns a list of finite numbers as an array.

    Args:
      name: Of the argument, in the plural.
      values: What was given.
      least: Of each number.
      most: Of each number.
      whole: Whether they are whole numbers.

    Raises:
      ConfigError: It is none, it is empty, or a number is out of range.
    """
    try:
        numbers = np.asarray(values)
    except ValueError:  # lists of different lengths
        numbers = np.asarray(None)
    right = numbers.dtype.kind in ("iu" if whole else "fiub") and numbers.ndim == 1 and numbers.size
    if not right or not np.isfinite(numbers).all() or numbers.min() < least or numbers.max() > most:
        some = repr(values)
        raise ConfigError(
            f"{name} are {some if len(some) < 80 else some[:77] + '...'}",
            f"a list of {'whole' if whole else 'finite'} numbers"
            + (f", each at least {least:g}" if least > -np.inf else "")
            + (f", at most {most:g}" if most < np.inf else ""),
        )
    return numbers.astype(np.float64)
