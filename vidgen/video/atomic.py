"""Files and folders that are replaced whole or not at all."""

import contextlib
import errno
import os
import pathlib
import shutil
import stat
import tempfile
from collections.abc import Iterator

from vidgen.errors import StorageError
from vidgen.video.decoding import Path, reason


def check_place(path: Path, folder: bool = False) -> None:
    """Checks that a file could be written, before hours go into what is to be in it.

    Args:
      path: Of the file.
      folder: Whether it is to be a folder.

    Raises:
      StorageError: What there is of its path is no folder, or cannot be written.
    """
    path = pathlib.Path(path)
    with storage(path):
        if not folder and path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        there = path.absolute() if folder else path.absolute().parent
        while True:
            try:
                mode = there.stat().st_mode
                break
            except FileNotFoundError:
                there = there.parent
        if not stat.S_ISDIR(mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


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
        handle, name = tempfile.mkstemp(".tmp" + path.suffix, f".{path.stem[:100]}-", path.parent)
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
        beside = pathlib.Path(tempfile.mkdtemp(".tmp", f".{path.name[:100]}-", path.parent))
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
