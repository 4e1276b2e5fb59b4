"""Files and folders that are replaced whole or not at all."""

import contextlib
import errno
import logging
import os
import pathlib
import secrets
import shutil
import stat
from collections.abc import Iterator

from vidgen.errors import FullDisk, StorageError
from vidgen.video.decoding import Path, reason

_LOG = logging.getLogger("vidgen")


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
    temporary = _temporary(path)
    try:
        with storage(path):
            temporary.touch(exist_ok=False)
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
    finally:
        if os.path.lexists(temporary):
            temporary.unlink()


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
    beside = _temporary(path)
    new, old = beside / "new", beside / "old"
    try:
        with storage(path):
            beside.mkdir()
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
        if os.path.lexists(beside):
            shutil.rmtree(beside)


def _temporary(path: pathlib.Path) -> pathlib.Path:
    """Returns a name beside a path that nothing has.

    Known before anything has it, so that what a signal interrupts right after making it is deleted
    as well; tempfile's names are known too late.
    """
    return path.with_name(f".{secrets.token_hex(8)}.tmp{path.suffix}")


def _flush(file: pathlib.Path) -> None:
    with open(file, "rb") as written:
        os.fsync(written.fileno())


def make_way(path: pathlib.Path, folder: bool = False) -> None:
    """Sets aside what stands where a file is to be and is none, with a warning.

    Args:
      path: The file: what is to be written, or a link to one, stays.
      folder: Whether it is a folder that is to be there.

    Raises:
      StorageError: It cannot be renamed.
    """
    with storage(path):
        if os.path.lexists(path) and not (path.is_dir() if folder else path.is_file()):
            wanted = "folder" if folder else "file"
            _LOG.warning("%s is no %s; set aside as %s", path, wanted, set_aside(path).name)


def set_aside(path: pathlib.Path) -> pathlib.Path:
    """Renames what is in the way to `damaged-NAME-N` beside it, and returns that; never deletes.

    Raises:
      OSError: It cannot be renamed.
    """
    aside = beside(path)
    path.rename(aside)
    return aside


def beside(path: pathlib.Path) -> pathlib.Path:
    """Returns the first `damaged-NAME-N` beside a path that nothing has."""
    number = 0
    while os.path.lexists(aside := path.with_name(f"damaged-{path.name}-{number}")):
        number += 1
    return aside


def remove(path: pathlib.Path) -> None:
    """Deletes a file, a link or a folder with all that is in it; nothing where there is none.

    Raises:
      OSError: It cannot be deleted.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link(source: Path, target: Path) -> None:
    """Gives a file a second name, or copies it where the file system has no links.

    Raises:
      OSError: It cannot be written.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def is_full(error: BaseException) -> bool:
    """Tells whether an error says that a disk has no space: by its number, or by its words alone.

    TensorStore reports a full disk as ValueError("RESOURCE_EXHAUSTED: ...").
    """
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    words = ("RESOURCE_EXHAUSTED", *map(os.strerror, full))
    return getattr(error, "errno", None) in full or any(word in str(error) for word in words)


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turns what the system says while writing into a StorageError that names the path.

    Raises:
      FullDisk: There is no space.
      StorageError: The system said something else.
    """
    try:
        yield
    except OSError as error:
        kind, hint = StorageError, ""
        if is_full(error):
            kind, hint = FullDisk, "free some space or choose another folder"
        raise kind(f"{os.fspath(path)}: cannot be written: {reason(error)}", hint) from error
