"""Trees of arrays by path, the SHA-256 of one, and of the files of a step."""

import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np

LISTING = "files.json"


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


def list_files(folder: pathlib.Path) -> None:
    """Writes files.json: the SHA-256 of each file of a step that is about to be committed.

    Of the items, that is: beside them Orbax notes the time of the commit, which nobody reads.
    """
    listed = {}
    for path in sorted(folder.glob("*/**/*")):
        if path.is_file():
            with path.open("rb") as file:
                listed[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256")
    text = json.dumps({n: d.hexdigest() for n, d in listed.items()}, separators=(",", ":"))
    (folder / LISTING).write_text(text)


def differing_file(folder: pathlib.Path) -> str:
    """Says which file of a step is not as its files.json has it; "" where all are.

    Orbax would not notice all damage, and print pages of what it does notice.
    """
    if not (folder / LISTING).is_file():
        return f"has no {LISTING}"
    for name, wanted in json.loads((folder / LISTING).read_text()).items():
        path = folder / name
        if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            return f"{name} is missing"
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != wanted:
                return f"{name} is not as it was saved"
    return ""
