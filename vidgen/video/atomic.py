"""Files and folders that are replaced whole or not at all."""

import contextlib
import errno
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from vidgen.errors import StorageError
from vidgen.video.decoding import Path, reason


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[pathlib.Path]:
    """Gives a temporary path beside `path` that takes its place when the block ends well.

    A reader, or a run that dies half way, sees the old file or the new one, never a part.

    Raises:
      StorageError: The folder cannot be made or written, or the disk is full.
    """
    path = pathlib.Path(path)
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(".tmp" + path.suffix, f".{path.stem}-", path.parent)
        os.close(handle)
    temporary = pathlib.Path(name)
    try:
        with storage(path):
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # mkstemp makes it private
            _flush(temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[pathlib.Path]:
    """Gives a temporary folder beside `path` that takes its place when the block ends well.

    The new folder is whole before the old one goes. A kill between the two leaves no folder, and
    the old one under a hidden name.

    Raises:
      StorageError: The folder cannot be made or written, or the disk is full.
    """
    path = pathlib.Path(path)
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = pathlib.Path(tempfile.mkdtemp(".tmp", f".{path.name}-", path.parent))
    new, old = beside / "new", beside / "old"
    try:
        with storage(path):
            new.mkdir()
            yield new
            for file in new.iterdir():
                _flush(file)
            if path.is_dir():
                path.rename(old)
            try:
                new.rename(path)
            except OSError:
                if old.exists():
                    old.rename(path)
                raise
    finally:
        shutil.rmtree(beside)


def _flush(file: pathlib.Path) -> None:
    with open(file, "rb") as written:
        os.fsync(written.fileno())


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turns what the system says while writing into a StorageError that names the path."""
    try:
        yield
    except OSError as error:
        hint = "free some space or choose another folder" if error.errno == errno.ENOSPC else ""
        raise StorageError(
            f"{os.fspath(path)}: cannot be written: {reason(error)}", hint
        ) from error
