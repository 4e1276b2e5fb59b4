"""Making packs: all clips of a source through the decoding processes, into one folder.

A pack is made in a temporary folder beside its final name and renamed when complete: a pack that
exists is whole, and several processes may make the same one.
"""

import contextlib
import json
import os
import pathlib
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from vidgen.data.attempts import each
from vidgen.data.entry import Entry
from vidgen.data.listing import Source
from vidgen.data.pack import (
    FORMAT,
    Damaged,
    Pack,
    Path,
    Progress,
    columns_of,
    fingerprint,
    json_sha256,
    to_json,
    warn_skipped,
)
from vidgen.data.workers import Disturbed, Worker, frame_rate, request
from vidgen.errors import DataError, StorageError
from vidgen.video.atomic import storage
from vidgen.video.decoding import Unreadable


def write_pack(
    source: Source,
    folder: Path,
    *,
    strict: bool = False,
    workers: int = 2,
    progress: Progress | None = None,
    replace: bool = False,
) -> Pack:
    """Decodes the clips of a source into a new pack, and opens it.

    Args:
      source: From `list_source`; its settings are the pack's.
      folder: The pack to be; made complete under another name first.
      strict: Whether one bad file is an error.
      workers: Decoding processes.
      progress: See `open_store`.
      replace: Whether a damaged pack of this name may be replaced; a good one is then kept and
        opened instead.

    Raises:
      DataError: No clip can be used, or one cannot and `strict` is set.
      StorageError: The folder exists (without `replace`), or cannot be written.
    """
    settings = source.settings
    folder = pathlib.Path(folder)
    if folder.exists() and not replace:
        raise StorageError(f"{folder}: exists already", "choose another name for the pack")
    for name, why in source.skipped:
        warn_skipped(name, why, strict)
    with _making(folder) as temporary:
        asked = [
            request(
                entry.ref,
                settings.limits,
                size=settings.size,
                crop=settings.crop == "center",
                fps=settings.fps,
                start=entry.start,
                end=entry.end,
                background=settings.background,
                threads=workers if len(source) < workers else 1,
            )
            for entry in source.entries
        ]

        def refuse(number: int, why: str) -> None:
            warn_skipped(source.entries[number].name, why, strict)

        with contextlib.ExitStack() as stack, storage(folder):
            shards = [
                stack.enter_context(open(temporary / f"frames-{slot}.bin", "wb"))
                for slot in range(workers)
            ]
            rows, refused = each(
                sorted(range(len(source)), key=lambda n: _turn(source.entries[n])),
                lambda slot, worker, n: _append(shards[slot], worker, asked[n]) | {"file": slot},
                limits=settings.limits,
                workers=workers,
                name=lambda n: source.entries[n].name,
                refuse=refuse,
                progress=progress,
                text="packing",
            )
            files = [shard.tell() for shard in shards]
        kept = sorted(rows)
        skipped = [
            *source.skipped,
            *((source.entries[n].name, refused[n]) for n in sorted(refused)),
        ]
        if not kept:
            few = "; ".join(f"{name}: {why}" for name, why in skipped[:3])
            raise DataError(
                f"{source.root}: none of {len(skipped)} files can be used ({few}"
                + ("; ...)" if len(skipped) > 3 else ")"),
                "vidgen data inspect lists every file with its reason",
            )
        clips: dict[str, list[Any]] = {
            "name": [source.entries[n].name for n in kept],
            "caption": [source.entries[n].caption for n in kept],
            "label": [int(source.labels[n]) for n in kept],
        }
        for field in ("frames", "height", "width", "file", "offset", "crc32", "fps"):
            clips[field] = [rows[n][field] for n in kept]
        further = {
            name: to_json(values[kept])
            for name, values in source.columns.items()
            if name not in ("label", "caption")
        }
        columns = columns_of({"clips": clips, "columns": further})
        index = {
            "format": FORMAT,
            "settings": settings.of_frames(),
            "classes": list(source.classes),
            "fps": settings.fps or round(float(np.median(clips["fps"])), 6),
            "fingerprint": fingerprint(list(source.classes), clips, columns),
            "skipped": skipped,
            "files": files,
            "clips": clips,
            **({"columns": further} if further else {}),
        }
        index["sha256"] = json_sha256(index)
        with storage(folder):
            (temporary / "pack.json").write_text(json.dumps(index), "utf-8")
            _install(temporary, folder)
    return Pack(folder)


def _turn(entry: Entry) -> tuple[int, int]:
    """Returns a key that orders decoding: a tar as it lies, else large files first.

    A compressed tar is read fastest forward; a large file begun last would keep one process at work
    when the others are done.
    """
    places = entry.ref.get("places", {}).values()
    return min((place[0] for place in places), default=0), -entry.stamp[0]


def _append(file: BinaryIO, worker: Worker, asked: dict[str, Any]) -> dict[str, Any]:
    """Decodes one clip to the end of a file; returns its row of pack.json."""
    start, crc, shape = file.tell(), 0, (0, 0, 0)

    def sink(frames: np.ndarray) -> None:
        nonlocal crc, shape
        crc = zlib.crc32(frames.data, crc)
        shape = frames.shape[1:]
        file.write(frames.data)

    try:
        info = worker.decode(asked, sink)
    except (Unreadable, Disturbed):
        file.seek(start)
        file.truncate()
        raise
    file.flush()
    times = np.array(info["times"])
    return {
        "frames": len(times),
        "height": shape[0],
        "width": shape[1],
        "offset": start,
        "crc32": crc,
        "fps": asked["fps"] or frame_rate(times, info["fps"]),
    }


@contextlib.contextmanager
def _making(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a temporary folder beside `folder`, removed at the end if it is still there.

    What a killed process left is swept up: its lock is free.
    """
    with storage(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(".making-*"):
            if _abandoned(left):
                shutil.rmtree(left, ignore_errors=True)  # another process may sweep it as well
    # A name of our own: a signal may come before mkdtemp has told its name.
    temporary = folder.parent / f".making-{secrets.token_hex(6)}"
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        with storage(folder):
            temporary.mkdir()
            _lock(stack.enter_context(open(temporary / "lock", "wb")))  # held until the end
        yield temporary


def _lock(file: BinaryIO) -> bool:
    """Locks a file for this process, and tells whether that worked."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # Windows; locked by another, or a file system without locks
        return False
    return True


def _abandoned(left: pathlib.Path) -> bool:
    try:
        if time.time() - left.stat().st_mtime < 60:  # its lock may be still to come, or just gone
            return False
        with open(left / "lock", "rb") as file:
            return _lock(file)
    except FileNotFoundError:
        return left.is_dir()  # killed before its lock, or between that and its name
    except OSError:  # of another user, who will sweep it
        return False


def _install(temporary: pathlib.Path, folder: pathlib.Path) -> None:
    """Gives a complete pack its name, unless another process was faster."""
    (temporary / "lock").unlink()
    try:
        os.rename(temporary, folder)
    except OSError:
        if not folder.exists():
            raise
        try:
            Pack(folder)
        except Damaged:
            damaged = temporary.with_name(temporary.name + "-old")
            os.rename(folder, damaged)
            os.rename(temporary, folder)
            shutil.rmtree(damaged, ignore_errors=True)
