"""Checkpoints: Orbax for the arrays, and digests that restoring verifies.

Orbax commits a step by renaming its folder, so a step that is there is complete; it does not
notice a bit that flipped since. Two digests travel inside the step and are committed with it: of
its files, which finds damage before anything is made of it, and of the arrays, taken again over
what was restored, which covers the code between.
"""

import contextlib
import logging
import math
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

import vidgen
from vidgen.errors import ConfigError, FullDisk, StorageError
from vidgen.runtime import digests
from vidgen.runtime.digests import arrays_sha256, kinds, named
from vidgen.video import atomic

Abstract = Callable[[dict[str, Any]], dict[str, Any]]  # meta -> shapes of the items to restore
log = logging.getLogger("vidgen")
_STEP = re.compile("0|[1-9][0-9]{0,18}")  # names of steps: as they are written, and no others
_UNSUSPECTED = 1 << 31  # bytes that arrays may have however small their files are
_META = 1 << 26  # bytes of what is kept beside the arrays
_UNDER_WAY = ".orbax-checkpoint-tmp"  # what Orbax calls a step until it is committed


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
        self._saving, self._needed = 0, 0  # the step last written, and its bytes

    def steps(self) -> list[int]:
        """Returns the steps that have a complete checkpoint, oldest first.

        Raises:
          StorageError: There is something else where the folder should be.
        """
        if not self.folder.is_dir():
            if os.path.lexists(self.folder):
                raise StorageError(f"{self.folder} is no folder", "move it away")
            return []
        folders = [path.name for path in self.folder.iterdir() if path.is_dir()]
        return sorted(int(name) for name in folders if _STEP.fullmatch(name))

    def save(self, step: int, items: dict[str, Any], meta: dict[str, Any]) -> None:
        """Starts saving trees of arrays; goes on in the background (`wait`).

        Args:
          step: The step that the trees belong to.
          items: Trees of arrays by name. They may be donated as soon as this returns.
          meta: JSON data to keep with them.

        Raises:
          FullDisk: There was no space for this save, or for the one before it in the background.
          StorageError: One of them could not be written for another reason.
        """
        meta = {
            "step": step,
            "meta": meta,
            "digests": {name: arrays_sha256(tree) for name, tree in items.items()},
        }
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        self.wait()  # so that _finalize is of one step at a time
        self._saving, self._needed = step, _bytes(items)
        with self._storage_errors():
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
          FullDisk: There was no space for it.
          StorageError: It could not be written for another reason.
        """
        if self._manager is not None:
            with self._storage_errors():
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save and frees what the manager holds."""
        if self._saving:
            self.wait()
            self._drop()
            self._sweep()

    def restore(
        self, abstract: Abstract | None, step: int | None = None
    ) -> tuple[int, dict[str, Any], dict[str, Any]]:
        """Restores the newest checkpoint that verifies, or a given one.

        Args:
          abstract: Given the checkpoint's `meta`, returns the items to restore as trees of
            `jax.ShapeDtypeStruct` (with shardings, where they matter). None: all items, as dicts
            and lists, on the first device.
          step: Only this step.

        Returns:
          `(step, items, meta)`.

        Raises:
          StorageError: There is none, or none that verifies.
          MismatchError: It verifies, and its trees are not those that are asked for.
        """
        steps = self.steps() if step is None else [s for s in self.steps() if s == step]
        reasons, last = [], None
        for candidate in reversed(steps):
            try:
                items, meta = self._read(candidate, abstract)
            except _Damaged as damage:
                last = damage
                reasons.append(f"{self.folder / str(candidate)}: {damage}")
                log.warning("checkpoint is damaged, left out: %s", reasons[-1])
                continue
            return candidate, items, meta
        if reasons:
            raise StorageError("no checkpoint verifies: " + "; ".join(reasons)) from last
        wanted = "" if step is None else f" of step {step}"
        have = ", ".join(map(str, self.steps())) or "none"
        raise StorageError(f"no checkpoint{wanted} in {self.folder}", f"there are: {have}")

    def link(self, step: int, folder: pathlib.Path) -> None:
        """Puts a complete step into another folder of checkpoints, without taking more space.

        Files of a step never change, so both can share them. The step appears by one rename.

        Raises:
          OSError: A link could not be made.
        """
        folder.mkdir(parents=True, exist_ok=True)
        target, made = folder / str(step), folder / f".{step}"
        for left in (target, made):
            atomic.remove(left)
        shutil.copytree(self.folder / str(step), made, copy_function=atomic.link)
        made.rename(target)

    def meta(self, step: int) -> dict[str, Any]:
        """Returns what was saved beside the arrays of a step.

        Raises:
          StorageError: There is no such step, or it is damaged.
        """
        return self.restore(lambda meta: {}, step)[2]

    def go_on_from(self, step: int) -> None:
        """Makes way for the saves after a step.

        Later steps are renamed to `damaged-<step>-<n>`: they will be written anew, and somebody may
        want to look at them. Those that `keep` leaves no place for are deleted; a crash may have
        left one half deleted.
        """
        if jax.process_index():
            return
        for later in [s for s in self.steps() if s > step]:
            atomic.set_aside(self.folder / str(later))
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.folder / str(old), ignore_errors=True)

    def verify(self, step: int) -> None:
        """Reads all of a checkpoint and compares it with its digests.

        Raises:
          StorageError: There is none, or it is damaged; the message says how.
        """
        if step not in self.steps():
            self.restore(lambda meta: {}, step)  # which says what there is
        try:
            self._read(step, None)
        except _Damaged as damage:
            raise StorageError(f"{self.folder / str(step)}: {damage}") from damage

    def _read(self, step: int, abstract: Abstract | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reads a step; without `abstract`, all that it says it has."""
        folder = self.folder / str(step)
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            with _damage():
                if why := digests.differing_file(folder):
                    raise _Damaged(why)
                if (folder / "meta" / "metadata").stat().st_size > _META:
                    raise _Damaged(f"meta/metadata has more than {_META} bytes")
                saved = reader.restore(
                    folder, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
                )["meta"]
            with _damage():
                # Where a run goes on follows from it. Absent in checkpoints of before.
                if (written := saved.get("step", step)) != step:
                    raise _Damaged(f"its folder is of another step: it was saved as {written!r}")
            asked = None if abstract is None else _asked(folder, abstract, saved["meta"])
            with _damage():
                names = saved["digests"] if asked is None else asked.keys() & saved["digests"]
                if any(not name.isidentifier() for name in names):
                    raise _Damaged("an item has a name that is none")
                there = {name: _shapes(folder / name) for name in names}
                wanted = there if asked is None else asked
                _refuse_bomb(folder, wanted)
            _check_fit(folder, there, wanted, saved["meta"])
            with _damage():
                wanted = jax.tree.map(_placed, wanted)
                items = reader.restore(
                    folder,
                    args=ocp.args.Composite(
                        **{name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
                    ),
                )
        items = {name: items[name] for name in wanted}
        for name, tree in items.items():
            # Orbax takes what was saved as None for anything that is wanted.
            if lacking := sorted(kinds(wanted[name]) - kinds(tree)):
                raise _Damaged(f"has no array {name}/{' '.join(lacking[0])}")
            if arrays_sha256(tree) != saved["digests"].get(name):
                raise _Damaged(f"the arrays of {name!r} are not those that were saved")
        return items, saved["meta"]

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            self._make_way()
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=self.keep,
                    enable_async_checkpointing=True,
                    async_options=ocp.AsyncOptions(
                        post_finalization_callback=self._finalize,
                        # Where one cannot be made, the others would be waited for, for minutes.
                        create_directories_asynchronously=False,
                    ),
                ),
            )
        return self._manager

    def _drop(self) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            with contextlib.suppress(OSError, ValueError):
                manager.close()

    def _sweep(self) -> None:
        """Deletes what a killed or failed save has left; it would fill the disk."""
        if jax.process_index() == 0:
            for left in self.folder.glob(f"*{_UNDER_WAY}"):
                with contextlib.suppress(OSError):  # what is in the way of a save, that save says
                    atomic.remove(left)

    def _make_way(self) -> None:
        """Sets aside what Orbax would take for a step or could not replace by one."""
        if jax.process_index() == 0 and self.folder.is_dir():
            steps = set(map(str, self.steps()))
            for path in sorted(self.folder.iterdir()):
                if path.name.isdigit() and path.name not in steps:
                    log.warning("%s is no checkpoint, set aside", path)
                    atomic.set_aside(path)

    def _finalize(self) -> None:
        """Called when all files of a step are written, before it is committed."""
        if jax.process_index() == 0:
            digests.list_files(self.folder / f"{self._saving}{_UNDER_WAY}")

    @contextlib.contextmanager
    def _storage_errors(self) -> Iterator[None]:
        """Turns what a full or failing disk raises into one line; other errors pass."""
        try:
            yield
        except (OSError, ValueError) as error:
            self._drop()  # it would raise the same once more
            place = self.folder / str(self._saving)
            if not atomic.is_full(error):
                raise StorageError(
                    f"{place} could not be written: {_first_line(error)}",
                    "the older checkpoints are whole, the same command goes on",
                ) from error
            free = shutil.disk_usage(self.folder).free if self.folder.is_dir() else 0
            needed = max([self._needed, *(_size(self.folder / str(n)) for n in self.steps()[-1:])])
            self._sweep()
            raise FullDisk(
                f"{place} could not be written, the disk is full: "
                f"{needed} bytes needed, {free} free",
                "free some space; the older checkpoints are whole, the same command goes on",
            ) from error


def _asked(folder: pathlib.Path, abstract: Abstract, meta: dict[str, Any]) -> dict[str, Any]:
    """Returns what a reader wants of a checkpoint; says who can read one that it cannot.

    Raises:
      StorageError: What is kept beside the arrays is not what this version expects there.
    """
    try:
        return abstract(meta)
    except ConfigError as error:
        if meta.get("vidgen") not in (None, vidgen.__version__):
            error.hint = "; ".join(filter(None, (error.hint, _who_reads(meta))))
        raise
    except (KeyError, TypeError) as error:
        raise StorageError(
            f"{folder}: its layout is of another version ({type(error).__name__}: {error})",
            _who_reads(meta),
        ) from error


def _who_reads(meta: dict[str, Any]) -> str:
    return f"vidgen {meta.get('vidgen', 'of unknown version')} saved it, and can read it"


def _check_fit(
    folder: pathlib.Path, there: dict[str, Any], wanted: dict[str, Any], meta: dict[str, Any]
) -> None:
    """Refuses a checkpoint whose trees are not those that the model has.

    Raises:
      MismatchError: The first path that differs and both shapes; all of them as its note.
    """
    old, new = (
        {name: f"{kind}[{shape.strip('(,)')}]" for name, kind, shape in kinds(trees)}
        for trees in ({name: tree for name, tree in there.items() if name in wanted}, wanted)
    )
    different = [
        f"{name} is {old.get(name, 'not there')}, and {new.get(name, 'not there')} in the model"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if not different:
        return
    more = f" (and {len(different) - 1} more arrays)" if len(different) > 1 else ""
    if meta.get("vidgen") in (None, vidgen.__version__):
        hint = "the networks or the optimizer have changed since it was saved, in config or code"
    else:
        hint = f"the code has changed since: {_who_reads(meta)}; this is {vidgen.__version__}"
    error = MismatchError(f"{folder} does not fit the model: {different[0]}{more}", hint)
    error.add_note("\n".join(different))
    raise error


class _Damaged(Exception):
    """A checkpoint that cannot be used, and why."""


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """Turns whatever Orbax raises of files that are not as it wrote them into `_Damaged`.

    It raises nearly anything: of a file that is gone, a bare Exception.

    Raises:
      RuntimeError, AssertionError: JAX finds no device, which is no damage.
    """
    jax.devices()
    try:
        yield
    except _Damaged:
        raise
    except Exception as error:
        raise _Damaged(f"cannot be read ({type(error).__name__}: {_first_line(error)})") from error


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    """Puts an array that is to lie nowhere in particular on the first device.

    Otherwise Orbax looks for the devices that it was saved from, which may be of other processes.
    """
    where = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out that Orbax misses a file which it writes for whole steps and not for items."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _shapes(folder: pathlib.Path) -> Any:
    """Returns the shapes of an item, as Orbax has noted them."""
    with _quiet(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        tree = reader.metadata(folder).item_metadata.tree
    for name, leaf in named(tree).items():
        chunk = getattr(leaf.storage, "chunk_shape", None) or ()
        # A chunk is read whole, whatever its array says of itself: C++ would end the process.
        if any(n > max(side, 1) for n, side in zip(chunk, leaf.shape, strict=True)):
            raise _Damaged(f"{folder.name}/{name} lies in parts of {chunk}, larger than it is")
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def _size(folder: pathlib.Path) -> int:
    """Returns the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _bytes(tree: Any) -> int:
    """Returns the bytes of all arrays of a tree."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves)


def _refuse_bomb(folder: pathlib.Path, wanted: dict[str, Any]) -> None:
    """Refuses arrays far larger than their files, and than most machines can spare.

    Learnt numbers hardly compress: a state at step 0 has at most half of them from noise, the
    others are zeros. Clips that `lookup` has learnt by heart may compress without end, so some
    memory is free to whatever the digests then confirm.
    """
    claimed = _bytes(wanted)
    there = _size(folder)
    if claimed > max(64 * there, _UNSUSPECTED):
        raise _Damaged(f"claims arrays of {claimed} bytes, in files of {there}")


class MismatchError(StorageError):
    """A whole checkpoint holds other arrays than the model that it is to be restored for."""


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
