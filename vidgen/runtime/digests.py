"""Trees of arrays by path, and the SHA-256 of one."""

import hashlib
from typing import Any

import jax
import numpy as np


def named(tree: Any) -> dict[str, Any]:
    """Returns the arrays of a tree by path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def kinds(tree: Any) -> set[tuple[str, str, str]]:
    """Returns path, type and shape of each array of a tree."""
    return {(name, str(leaf.dtype), str(leaf.shape)) for name, leaf in named(tree).items()}


def arrays_sha256(tree: Any) -> str:
    """Returns the SHA-256 of a tree of arrays: paths, types, shapes and bits.

    A path is its names and numbers alone, so that a dataclass and the dict of its fields, as which
    Orbax reads it where nobody says what it was, are the same.
    """
    leaves = named(tree)
    total = hashlib.sha256()
    for path in sorted(leaves):
        array = np.asarray(_whole(leaves[path]))
        total.update(f"{path} {array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def _whole(leaf: Any) -> Any:
    """Fetches an array that may lie in shards on the devices of many processes."""
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("all",))
        whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        leaf = jax.jit(lambda x: x, out_shardings=whole)(leaf)
    return jax.device_get(leaf)
