"""One training at a time in a run's folder."""

import contextlib
import datetime
import errno
import json
import logging
import os
import pathlib
import socket
from collections.abc import Iterator

from vidgen.errors import ConfigError
from vidgen.video import atomic

FILE = "lock"
_LOG = logging.getLogger("vidgen")


@contextlib.contextmanager
def owned(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps a run's folder for this process while entered.

    The kernel holds the lock (`flock`) and lets go of it when the process ends, however it ends;
    the file says who that is, and stays. Of a run of several processes only the first takes it.
    Where there are no locks (Windows, some network file systems) and where the folder cannot be
    written, nothing is held: whoever must write there is told then.

    Args:
      workdir: The run's folder; it exists.

    Raises:
      ConfigError: Another process has it.
      StorageError: The file cannot be made.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = workdir / FILE
    atomic.make_way(path)
    with contextlib.ExitStack() as stack:
        with atomic.storage(path):
            handle = _open(path)
        if handle is not None:
            stack.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    f"another training has {workdir}: {_owner(path)}",
                    "wait for it or stop it, or name a new --workdir",
                ) from error
            except OSError as error:
                _LOG.warning("%s: this file system has no locks (%s)", path, error.strerror)
            else:
                stack.callback(_write, handle, "")
                _write(handle, json.dumps(_this()) + "\n")
        yield


def _open(path: pathlib.Path) -> int | None:
    """Opens the file for writing, as locks of network file systems ask; None where it may not."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return None
        raise


def _this() -> dict[str, str | int]:
    now = datetime.datetime.now().astimezone()
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": now.isoformat(" ", "seconds"),
    }


def _write(handle: int, text: str) -> None:
    """Says whose the lock is; without space for that it is held all the same."""
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0)


def _owner(path: pathlib.Path) -> str:
    """Returns what the file says of its owner; it may say anything."""
    try:
        said = json.loads(path.read_bytes())
        host, pid, since = (str(said[name]) for name in ("host", "pid", "since"))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "which, its file does not say"
    text = f"process {pid} on {host}, since {since}"
    return text if text.isprintable() and len(text) < 300 else "which, its file does not say"
