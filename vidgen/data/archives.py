"""The files of a folder, a zip or a tar in one form: name below the root, stamp, how to open it.

What must not be followed is refused by name: links that loop or lead out of an archive, members
with absolute or climbing paths, and whatever is no regular file (a FIFO would block its reader for
ever). A member whose header makes no sense is refused, and the next one taken.
"""

import collections
import contextlib
import dataclasses
import functools
import io
import lzma
import math
import os
import pathlib
import stat
import struct
import tarfile
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from vidgen.data.faults import of_the_moment
from vidgen.data.limits import DEPTH, NAME, PART, RATIO, WAYS, Limits
from vidgen.text import plain, printable
from vidgen.video.decoding import Unreadable

# Of a zip: before each line of its list, and before each member; a flag of both, in a second byte.
_LISTED, _MEMBER, _UTF8 = b"PK\1\2", b"PK\3\4", 8
_FURTHER = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_FURTHER_BYTES = 1 << 17  # of names of 4,096 characters and some attributes
_ODD = "has a header that makes no sense"
_MOST = 1 << 62  # bytes of a member; an offset has no more
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
)

_VIDEOS = """
264 265 3g2 3gp asf avi dv f4v flv gif h264 h265 hevc ivf m1v m2ts m2v m4v mjpeg mkv mov mp4 mpeg
mpg mts mxf nut ogm ogv rm rmvb ts vob webm wmv y4m
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
      packed: Whether to go back in it is to read it anew.
    """

    name: str
    stamp: tuple[int, int]
    open: Callable[[], contextlib.AbstractContextManager[BinaryIO]]
    head: Callable[[], bytes]
    place: tuple[int, int] | None = None
    packed: bool = False


def suffix(name: str) -> str:
    """Returns the suffix of a file name in lower case, without the dot."""
    return pathlib.PurePosixPath(name).suffix[1:].lower()


def telling(name: str) -> bool:
    """Tells whether a file's name says what it is."""
    return suffix(name) in VIDEOS | PICTURES | ARRAYS | SOUNDS


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


def walk(root: str, refuse: Refuse, deep: bool = True) -> Iterator[Member]:
    """Yields the regular files below a folder, in order; follows links, but not round in circles.

    Args:
      root: The folder.
      refuse: Called with the name and the reason for each file or folder that cannot be taken.
      deep: Whether to go into the folders in it.

    Raises:
      OSError: The root cannot be read, or the system fails now.
    """
    parents = pathlib.Path(os.path.realpath(root)).parents
    outside = tuple((info.st_dev, info.st_ino) for info in map(os.stat, parents))
    ways: collections.Counter[tuple[int, int]] = collections.Counter()
    pending: list[tuple[str, tuple]] = [("", ())]
    while pending:
        folder, above = pending.pop()
        path = os.path.join(root, folder)
        try:
            info = os.stat(path)
            names = sorted(os.listdir(path), key=os.fsencode)
        except OSError as error:
            if of_the_moment(error):
                raise _naming(error, folder) from error
            if not folder:
                raise
            refuse(folder, (error.strerror or str(error)).lower())
            continue
        here = (info.st_dev, info.st_ino)
        ways[here] += 1
        if here in above or here in outside:
            refuse(folder, "is a link to a folder that it lies in")
            continue
        if len(above) > DEPTH:
            refuse(folder, f"lies deeper than {DEPTH} folders")
            continue
        if ways[here] > WAYS:
            refuse(folder, f"is a folder that {WAYS} other links lead to")
            continue
        deeper = []
        for name in names:
            if name.startswith(".") or name == "__MACOSX":
                continue
            below = os.path.join(folder, name)
            try:
                mode = os.stat(os.path.join(root, below)).st_mode
                if stat.S_ISDIR(mode):
                    if deep:
                        deeper.append((below, (*above, here)))
                elif stat.S_ISREG(mode):
                    yield on_disk(os.path.join(root, below), below)
                else:
                    refuse(below, f"is not a regular file ({file_type(mode)})")
            except OSError as error:
                if of_the_moment(error):
                    raise _naming(error, below) from error
                broken = isinstance(error, FileNotFoundError)
                refuse(below, "is a broken link" if broken else (error.strerror or "").lower())
        pending += reversed(deeper)


def _naming(error: OSError, name: str) -> OSError:
    said = f"{error.strerror}, of {plain(printable(name), 200) or 'the folder itself'}"
    return OSError(error.errno, said)


def is_tar(path: str) -> bool:
    """Tells whether a file is a tar, compressed or not."""
    try:
        open_tar(path).close()
    except (EOFError, zlib.error, tarfile.TarError):
        return False
    return True


@contextlib.contextmanager
def zip_members(path: str, refuse: Refuse, limits: Limits) -> Iterator[Iterator[Member]]:
    """Gives the files in a zip, and refuses those that escape its root or are encrypted."""
    del limits  # what a member may have is looked at where it is read
    changed = os.stat(path).st_mtime_ns
    with open_zip(path) as archive:
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
        yield Member(name, stamp, opener, functools.partial(_head, opener), packed=True)


def open_zip(path: str) -> zipfile.ZipFile:
    """Opens a zip, whatever the bytes of its names."""
    try:
        return zipfile.ZipFile(path)
    except UnicodeDecodeError:
        file = open(path, "rb")  # noqa: SIM115 - closed with the archive
        archive = zipfile.ZipFile(_Names(file))  # type: ignore[arg-type]
        weakref.finalize(archive, file.close)
        return archive


class _Names:
    """A zip file, of which names that say they are UTF-8 and are not say so no more.

    The list at the end of a zip, which zipfile reads at once, says how each name is written, and so
    does what precedes a member. zipfile gives up at the first that is written otherwise.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(count)
        if data.startswith(_LISTED):
            return _without_utf8(data)
        if data.startswith(_MEMBER) and len(data) == 30:
            name = self._file.read(int.from_bytes(data[26:28], "little"))
            self._file.seek(-len(name), os.SEEK_CUR)
            return data if _is_utf8(name) else data[:7] + bytes([data[7] & ~_UTF8]) + data[8:]
        return data


def _without_utf8(data: bytes) -> bytes:
    """Returns the list of a zip, in which no name claims to be UTF-8 that is not."""
    changed, at = bytearray(data), 0
    while data.startswith(_LISTED, at) and at + 46 <= len(data):
        length, more, comment = struct.unpack_from("<HHH", data, at + 28)
        if not _is_utf8(data[at + 46 : at + 46 + length]):
            changed[at + 9] &= ~_UTF8
        at += 46 + length + more + comment
    return bytes(changed)


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def member_name(info: zipfile.ZipInfo) -> str:
    """Returns the name of a file in a zip; some writers on Windows part folders by backslashes."""
    return info.filename.replace("\\", "/")


@contextlib.contextmanager
def tar_members(path: str, refuse: Refuse, limits: Limits) -> Iterator[Iterator[Member]]:
    """Gives the files in a tar, and refuses those that escape its root, links and devices."""
    status = os.stat(path)
    with open_tar(path) as archive:
        packed = not isinstance(archive.fileobj, io.BufferedReader)
        most = limits.bytes + RATIO * status.st_size if packed else math.inf
        yield _tarred(archive, status.st_mtime_ns, refuse, packed, most)


def _tarred(
    archive: tarfile.TarFile, changed: int, refuse: Refuse, packed: bool, most: float
) -> Iterator[Member]:
    for info in archive:
        if info.offset_data + info.size > most:
            raise Unreadable(
                f"expands to more than {RATIO} times its size; unpack it, and give that folder"
            )
        name = info.name.removeprefix("./")
        if isinstance(info, _Header) and info.odd:
            refuse(name, info.odd)
            continue
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
        head = b"" if telling(name) else _head(opener)
        yield Member(
            name,
            (info.size, changed + (int(info.mtime) if abs(info.mtime) < 1e15 else 0)),
            opener,
            functools.partial(bytes, head),
            (info.offset_data, info.size),
            packed,
        )
    _check_end(archive)


def open_tar(path: str) -> tarfile.TarFile:
    """Opens a tar, compressed or not, whatever its members' headers say.

    Raises:
      tarfile.TarError, EOFError, zlib.error: It is none.
    """
    return tarfile.open(path, tarinfo=_Header)


class _Long(Exception):
    """A header is longer than any that makes sense; the message says so."""


class _Header(tarfile.TarInfo):
    """The header of a member, without the further headers before it where they make no sense.

    Attributes:
      odd: Where these were left out, what is odd about them.
    """

    odd = ""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> "_Header":
        info = super().frombuf(buf, encoding, errors)
        # The time in which tarfile reads further headers may grow with the square of their bytes.
        if info.type in _FURTHER and info.size > _FURTHER_BYTES:
            raise _Long(f"has a header of {info.size} bytes")
        return info

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> "_Header":
        file: Any = tarfile.fileobj
        at = file.tell()
        try:
            info: Any = super().fromtarfile(tarfile)
            if info.size < _MOST:
                return info
            odd = _ODD
        except _Long as error:
            odd = str(error)
        except (ValueError, OverflowError, LookupError, TypeError, RecursionError):
            odd = _ODD
        return cls._step_over(tarfile, at, odd)

    @classmethod
    def _step_over(cls, archive: tarfile.TarFile, at: int, odd: str) -> "_Header":
        """Returns the first header from an offset on that is of a member, and goes on behind it.

        Raises:
          tarfile.TarError: That one makes no sense, either.
        """
        file: Any = archive.fileobj
        while True:
            file.seek(at)
            info: Any = super().frombuf(
                file.read(tarfile.BLOCKSIZE), tarfile.ENCODING, "surrogateescape"
            )
            info.offset = at
            info.offset_data = at = at + tarfile.BLOCKSIZE
            at += -(-max(info.size, 0) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            if info.type not in _FURTHER:
                archive.offset = at  # type: ignore[attr-defined]
                info.odd = odd
                return info


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
    """Returns why a path leads out of its archive, or is none of a file, or ""."""
    flat = name.replace("\\", "/")
    parts = flat.split("/")
    if len(flat) > NAME or max(map(len, parts)) > PART:
        return f"has a name of {len(flat)} characters"
    if len(parts) > DEPTH + 1:
        return f"lies deeper than {DEPTH} folders"
    if flat.startswith("/") or (len(flat) > 1 and flat[1] == ":"):
        return "has an absolute path in its archive"
    if ".." in parts:
        return "climbs out of its archive (..)"
    return ""
