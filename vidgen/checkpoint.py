"""Checkpoints: Orbax for the arrays, and a digest of their contents that restoring verifies.

Orbax commits a step by renaming its folder, so a step that is there is complete; it does not
notice a bit that flipped since. The digest travels inside the step, is committed with it, and is
taken again over what was restored: it covers the disk and the code between.
"""

import hashlib
import logging
import pathlib
from collections.abc import Callable
from typing import Any

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp

from vidgen.errors import StorageError

log = logging.getLogger("vidgen")
absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax logs pages; what matters is raised


def digest(tree: Any) -> str:
    """Returns the SHA-256 of a tree of arrays: paths, types, shapes and bits."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(jax.device_get(leaf))
        total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


class Checkpoints:
    """The checkpoints of a run.

    Args:
      folder: `checkpoints/` of the run's folder; made when the first is saved.
      keep: How many of the newest stay.
    """

    def __init__(self, folder: str | pathlib.Path, keep: int = 3):
        self.folder = pathlib.Path(folder).absolute()
        self.keep = keep
        self._manager: ocp.CheckpointManager | None = None

    def steps(self) -> list[int]:
        """Returns the steps that have a complete checkpoint, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdigit())

    def save(self, step: int, items: dict[str, Any], meta: dict[str, Any]) -> None:
        """Starts saving trees of arrays; goes on in the background (`wait`).

        Args:
          step: The step that the trees belong to.
          items: Trees of arrays by name. They may be donated as soon as this returns.
          meta: JSON data to keep with them.

        Raises:
          StorageError: This save, or the one before it in the background, could not be written.
        """
        meta = {"meta": meta, "digests": {name: digest(tree) for name, tree in items.items()}}
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        with self._storage_errors(step):
            if not self._open().save(
                step, args=ocp.args.Composite(meta=ocp.args.JsonSave(meta), **args)
            ):
                raise StorageError(
                    f"checkpoint {step} was not saved: {self.folder / str(step)} is in the way",
                    "move it away",
                )

    def wait(self) -> None:
        """Waits until the last save is on disk.

        Raises:
          StorageError: It could not be written.
        """
        if self._manager is not None:
            with self._storage_errors(None):
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save and frees what the manager holds."""
        if self._manager is not None:
            self.wait()
            self._manager.close()
            self._manager = None

    def restore(
        self, abstract: Callable[[dict], dict[str, Any]], step: int | None = None
    ) -> tuple[int, dict[str, Any], dict[str, Any]]:
        """Restores the newest checkpoint that verifies, or a given one.

        Args:
          abstract: Given the checkpoint's `meta`, returns the items to restore as trees of
            `jax.ShapeDtypeStruct` (with shardings, where they matter).
          step: Only this step.

        Returns:
          `(step, items, meta)`.

        Raises:
          StorageError: There is none, or none that verifies.
        """
        steps = self.steps() if step is None else [s for s in self.steps() if s == step]
        reasons = []
        for candidate in reversed(steps):
            try:
                items, meta = self._read(candidate, abstract)
            except _Damaged as damage:
                reasons.append(f"{self.folder / str(candidate)}: {damage}")
                log.warning("checkpoint is damaged, left out: %s", reasons[-1])
                continue
            return candidate, items, meta
        if reasons:
            raise StorageError("no checkpoint verifies: " + "; ".join(reasons))
        wanted = "" if step is None else f" of step {step}"
        have = ", ".join(map(str, self.steps())) or "none"
        raise StorageError(f"no checkpoint{wanted} in {self.folder}", f"there are: {have}")

    def set_aside_after(self, step: int) -> None:
        """Renames the steps after `step` to `damaged-<step>-<n>`.

        A run that goes on from an older step will write them anew, and nothing is deleted that
        somebody may want to look at.
        """
        for later in [s for s in self.steps() if s > step]:
            source, number = self.folder / str(later), 0
            while (target := self.folder / f"damaged-{later}-{number}").exists():
                number += 1
            source.rename(target)

    def _read(self, step, abstract):
        folder = self.folder / str(step)
        try:
            with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
                saved = reader.restore(
                    folder, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
                )["meta"]
                wanted = abstract(saved["meta"])
                items = reader.restore(
                    folder,
                    args=ocp.args.Composite(
                        **{name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
                    ),
                )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _Damaged(
                f"cannot be read ({type(error).__name__}: {_first_line(error)})"
            ) from error
        items = {name: items[name] for name in wanted}
        for name, tree in items.items():
            if digest(tree) != saved["digests"].get(name):
                raise _Damaged(f"the arrays of {name!r} are not those that were saved")
        return items, saved["meta"]

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=self.keep, enable_async_checkpointing=True
                ),
            )
        return self._manager

    def _storage_errors(self, step):
        return _StorageErrors(self.folder, step)


class _Damaged(Exception):
    """A checkpoint that cannot be used, and why."""


class _StorageErrors:
    """Turns what a full or failing disk raises into one line; other errors pass."""

    def __init__(self, folder: pathlib.Path, step: int | None):
        self.folder, self.step = folder, step

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        # TensorStore reports a full disk as ValueError("RESOURCE_EXHAUSTED: ...").
        if isinstance(error, (OSError, ValueError)):
            which = "" if self.step is None else f" {self.step}"
            raise StorageError(
                f"checkpoint{which} could not be written to {self.folder}: {_first_line(error)}",
                "free some space; the older checkpoints are whole, the same command goes on",
            ) from error
        return False


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
