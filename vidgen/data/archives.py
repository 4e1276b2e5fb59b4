"""The files of a folder, a zip or a tar in one form: name below the root, stamp, how to open it.

What must not be followed is refused by name: links that loop or lead out of an archive, members
with absolute or climbing paths, and whatever is no regular file (a FIFO would block its reader for
ever).
"""

import contextlib
import dataclasses
import functools
import lzma
import os
import pathlib
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
)
_LINKS = 40  # folders within folders; more is a loop or a prank

_VIDEOS = """
3g2 3gp asf avi dv f4v flv gif ivf m2ts m2v m4v mjpeg mkv mov mp4 mpeg mpg mts mxf nut ogm ogv rm
rmvb ts vob webm wmv y4m
"""
VIDEOS = frozenset(_VIDEOS.split())
PICTURES = frozenset(
    ["apng", "avif", "bmp", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp"]
)
ARRAYS = frozenset(["npy", "npz"])
# Some start as video of their family does.
SOUNDS = frozenset(["aac", "aiff", "flac", "m4a", "m4b", "mka", "mp3", "oga", "opus", "wav", "wma"])

Refuse = Callable[[str, str], None]


@dataclasses.dataclass(frozen=True)
class Member:
    """A file of a folder or archive.

    Attributes:
      name: Path below the root, with `/`.
      stamp: Bytes, and time of change.
      open: Opens it for reading, as long as its archive is open.
      head: Returns its first 16 bytes.
      place: Offset and bytes in the uncompressed tar that it lies in.
    """

    name: str
    stamp: tuple[int, int]
    open: Callable[[], contextlib.AbstractContextManager[BinaryIO]]
    head: Callable[[], bytes]
    place: tuple[int, int] | None = None


def suffix(name: str) -> str:
    """Returns the suffix of a file name in lower case, without the dot."""
    return pathlib.PurePosixPath(name).suffix[1:].lower()


def _telling(name: str) -> bool:
    return suffix(name) in VIDEOS | PICTURES | ARRAYS | SOUNDS


def printable(name: str) -> str:
    r"""Returns a name that any terminal or JSON file takes; bytes that are no UTF-8 as `\xff`."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def file_type(mode: int) -> str:
    """Returns in words what a file mode says: FIFO, socket, device, ..."""
    kinds = {
        stat.S_IFIFO: "FIFO",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "device",
        stat.S_IFBLK: "device",
        stat.S_IFDIR: "folder",
    }
    return kinds.get(stat.S_IFMT(mode), "special file")


def on_disk(path: str, name: str) -> Member:
    """Returns the Member for a regular file."""
    info = os.stat(path)
    opener = functools.partial(open, path, "rb")

    head = functools.partial(_head, opener)
    return Member(name, (info.st_size, info.st_mtime_ns), opener, head)


def _head(opener: Callable[[], Any]) -> bytes:
    with opener() as file:
        return file.read(16)


def walk(root: str, refuse: Refuse) -> Iterator[Member]:
    """Yields the regular files below a folder, in order; follows links, but not round in circles.

    Args:
      root: The folder.
      refuse: Called with the name and the reason for each file or folder that cannot be taken.
    """
    pending = [("", ())]
    while pending:
        folder, above = pending.pop()
        path = os.path.join(root, folder)
        try:
            info = os.stat(path)
            names = sorted(os.listdir(path), key=os.fsencode)
        except OSError as error:
            if not folder:
                raise
            refuse(folder, (error.strerror or str(error)).lower())
            continue
        here = (info.st_dev, info.st_ino)
        if here in above or len(above) > _LINKS:
            refuse(folder, "is a link to a folder that it lies in")
            continue
        deeper = []
        for name in names:
            if name.startswith(".") or name == "__MACOSX":
                continue
            below = os.path.join(folder, name)
            try:
                mode = os.stat(os.path.join(root, below)).st_mode
                if stat.S_ISDIR(mode):
                    deeper.append((below, (*above, here)))
                elif stat.S_ISREG(mode):
                    yield on_disk(os.path.join(root, below), below)
                else:
                    refuse(below, f"is not a regular file ({file_type(mode)})")
            except OSError as error:
                broken = isinstance(error, FileNotFoundError)
                refuse(below, "is a broken link" if broken else (error.strerror or "").lower())
        pending += reversed(deeper)


def is_tar(path: str) -> bool:
    """Tells whether a file is a tar, compressed or not."""
    try:
        return tarfile.is_tarfile(path)
    except (EOFError, zlib.error):
        return False


@contextlib.contextmanager
def zip_members(path: str, refuse: Refuse) -> Iterator[Iterator[Member]]:
    """Gives the files in a zip, and refuses those that escape its root or are encrypted."""
    changed = os.stat(path).st_mtime_ns
    with zipfile.ZipFile(path) as archive:
        yield _zipped(archive, changed, refuse)


def _zipped(archive: zipfile.ZipFile, changed: int, refuse: Refuse) -> Iterator[Member]:
    for info in archive.infolist():
        name = member_name(info)
        if name.endswith("/") or _hidden(name):
            continue
        mode = info.external_attr >> 16
        why = _escape(info.orig_filename) or _escape(name)
        if stat.S_ISLNK(mode):
            why = "is a link inside an archive"
        elif info.flag_bits & 1:
            why = "is encrypted"
        if why:
            refuse(name, why)
            continue
        opener: Any = functools.partial(archive.open, info)
        stamp = (info.file_size, changed + info.CRC)
        yield Member(name, stamp, opener, functools.partial(_head, opener))


def member_name(info: zipfile.ZipInfo) -> str:
    """Returns the name of a file in a zip; some writers on Windows part folders by backslashes."""
    return info.filename.replace("\\", "/")


@contextlib.contextmanager
def tar_members(path: str, refuse: Refuse) -> Iterator[Iterator[Member]]:
    """Gives the files in a tar, and refuses those that escape its root, links and devices."""
    changed = os.stat(path).st_mtime_ns
    with tarfile.open(path) as archive:
        yield _tarred(archive, changed, refuse)


def _tarred(archive: tarfile.TarFile, changed: int, refuse: Refuse) -> Iterator[Member]:
    for info in archive:
        name = info.name.removeprefix("./")
        if info.isdir() or _hidden(name):
            continue
        why = _escape(name)
        if info.issym() or info.islnk():
            why = "is a link inside an archive"
        elif not info.isreg() or info.issparse():
            why = "is not a plain file"
        if why:
            refuse(name, why)
            continue
        opener: Any = functools.partial(archive.extractfile, info)
        # Read in passing: a compressed tar is slow to go back in.
        head = b"" if _telling(name) else _head(opener)
        yield Member(
            name,
            (info.size, changed + int(info.mtime)),
            opener,
            functools.partial(bytes, head),
            (info.offset_data, info.size),
        )
    _check_end(archive)


def _check_end(archive: tarfile.TarFile) -> None:
    """Raises tarfile.ReadError where a tar does not end as one must, with blocks of zeros.

    At a header that is damaged, tarfile ends the list without a word.
    """
    file: Any = archive.fileobj
    count = len(archive.getmembers())
    file.seek(archive.offset)  # type: ignore[attr-defined]
    block = file.read(2 * tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"is cut off after {count} members")
    if any(block):
        raise tarfile.ReadError(f"is damaged after {count} members: no header where one must be")


def _hidden(name: str) -> bool:
    parts = name.split("/")
    return any((p.startswith(".") and p not in (".", "..")) or p == "__MACOSX" for p in parts)


def _escape(name: str) -> str:
    """Returns why a path leads out of its archive, or ""."""
    flat = name.replace("\\", "/")
    if flat.startswith("/") or (len(flat) > 1 and flat[1] == ":"):
        return "has an absolute path in its archive"
    if ".." in flat.split("/"):
        return "climbs out of its archive (..)"
    return ""
