"""What an error says of a file: whether it would be the same at any time, and in which words."""

import errno
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator

from vidgen.video.decoding import reason

_NAMES = """
EAGAIN EBUSY ECONNABORTED ECONNREFUSED ECONNRESET EDEADLK EHOSTDOWN EHOSTUNREACH EINTR EIO EMFILE
ENETDOWN ENETRESET ENETUNREACH ENFILE ENOBUFS ENOLCK ENOTCONN EREMOTEIO ESHUTDOWN ESTALE ETIMEDOUT
"""
# Errors of the system that may be gone another time; which of them there are depends on it.
_MOMENT = frozenset(getattr(errno, name) for name in _NAMES.split() if hasattr(errno, name))
_AMBIGUOUS = (errno.EIO, errno.EAGAIN)  # which FFmpeg also says of strange files
_BLOCK = 1 << 20


def of_the_moment(error: BaseException) -> bool:
    """Tells whether the system may answer otherwise another time."""
    return any(getattr(one, "errno", None) in _MOMENT for one in _causes(error))


def fault(error: BaseException, path: str) -> str:
    """Returns whose fault an error of decoding is.

    Args:
      error: Raised by a decoder; its causes count as well.
      path: The file, or a folder of files, that was decoded.

    Returns:
      "file": it would be the same at any time; "again?": it is the file's if it happens again, in
      a fresh process, alone; "moment": a disk or a network does not answer now.
    """
    for one in _causes(error):
        number = getattr(one, "errno", None)
        if isinstance(one, MemoryError) or number == errno.ENOMEM:
            return "again?"  # what a process has kept of other files counts as well
        if number in _MOMENT:
            strange = number in _AMBIGUOUS and _can_be_read(path)
            return "again?" if strange else "moment"
    return "file"


def why(error: BaseException) -> str:
    """Returns in one line why a file, or a member of an archive, could not be read."""
    if isinstance(error, KeyError):
        return f"has no member {error}"
    archive = zipfile.BadZipFile | tarfile.TarError | zlib.error | lzma.LZMAError | EOFError
    if isinstance(error, archive) and not getattr(error, "strerror", None):  # that is FFmpeg's
        return f"damaged archive: {error}"
    return reason(error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _can_be_read(path: str) -> bool:
    """Tells whether all files that a path names can be read to their ends."""
    try:
        paths = [entry.path for entry in os.scandir(path)] if os.path.isdir(path) else [path]
        for one in filter(os.path.isfile, paths):
            with open(one, "rb") as file:
                while file.read(_BLOCK):
                    pass
    except OSError as error:
        return error.errno not in _MOMENT
    return True
