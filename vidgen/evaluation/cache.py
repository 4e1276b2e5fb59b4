"""Features of real clips, kept from one evaluation to the next."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping

import jax
import numpy as np

from vidgen.data.pack import cache_folder
from vidgen.video import atomic


def kept(
    key: Mapping[str, object], compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Returns arrays from the cache, or computes them and puts them there.

    The file is named by the hash of the key and of the device, for XLA's last bits differ from one
    to another. A file that cannot be read is made again.

    Args:
      key: All that the arrays depend on but for the device; JSON data.
      compute: Makes them.

    Raises:
      StorageError: They cannot be written.
    """
    device = [jax.default_backend(), jax.devices()[0].device_kind, jax.__version__]
    text = json.dumps([key, device], sort_keys=True)
    path = cache_folder(None) / "features" / f"{hashlib.sha256(text.encode()).hexdigest()}.npz"
    if path.exists():
        # np.load raises nearly anything of a damaged file.
        with contextlib.suppress(Exception), path.open("rb") as file:
            return dict(np.load(file, allow_pickle=False))
    arrays = compute()
    with atomic.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    return arrays
