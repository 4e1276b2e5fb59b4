"""Random numbers of the host: named streams that depend on nothing but their names.

`stream(seed, "window", k)` is the same generator on every machine, host and worker, whatever was
drawn before, so that item k of a training stream can be made alone.
"""

import functools
import hashlib

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Returns the random stream that belongs to a seed and a path of names.

    Args:
      seed: The seed of the run.
      *names: What the numbers are for, and the number of the draw: `stream(0, "window", 17)`.

    Returns:
      A Philox generator keyed by the SHA-256 of seed and names.
    """
    # Numbers and words are kept apart, and a NumPy integer is the number it stands for.
    parts = (f"s:{n}" if isinstance(n, str) else f"n:{int(n)}" for n in (seed, *names))
    text = "/".join(parts)
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """Returns the order in which an epoch visits `size` items; int64 `[size]`, read-only.

    Any epoch is found at once: nothing of the earlier ones is needed.
    """
    order = stream(seed, "epoch", epoch).permutation(size)
    order.flags.writeable = False
    return order
