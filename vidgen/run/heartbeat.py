"""A file that says every second that its process lives, and how far its training is.

The launcher of several processes (vidgen/tools/launch.py) names the file and reads it. A process
that was started alone has no such file, and then nothing here does anything.
"""

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
from typing import Any

VARIABLE = "VIDGEN_HEARTBEAT"  # the environment variable that names the file
SECONDS = 1.0  # between two beats


class Heartbeat:
    """Writes the file every second while entered, from a thread of its own.

    Enter it before what takes long (the imports, compiling), and leave it last.

    Args:
      path: The file, replaced at each beat; "" for none.

    Attributes:
      step: The last step that is done, which the training loop sets; None before the first.
    """

    def __init__(self, path: str | os.PathLike = ""):
        self.step: int | None = None
        self._path = pathlib.Path(path) if path else None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    @classmethod
    def from_environment(cls) -> "Heartbeat":
        """Returns one for the file that VIDGEN_HEARTBEAT names; without it, one without a file."""
        return cls(os.environ.get(VARIABLE, ""))

    def __enter__(self):
        if self._path is not None:
            self._write()
            self._thread.start()
        return self

    def __exit__(self, *_):
        if self._path is not None:
            self._over.set()
            self._thread.join()
            self._write(over=True)  # the last step; nobody is to wait for more beats

    def _beat(self) -> None:
        while not self._over.wait(SECONDS):
            self._write()

    def _write(self, over: bool = False) -> None:
        if self._path is None:
            return
        facts = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "step": self.step,
            "time": time.time(),
            "over": over,
        }
        temporary = self._path.with_suffix(".new")
        try:
            temporary.write_text(json.dumps(facts))
            os.replace(temporary, self._path)
        except OSError:
            # A full disk is no reason to be taken for frozen: a new date needs no space.
            with contextlib.suppress(OSError):
                os.utime(self._path)


def read(path: pathlib.Path) -> dict[str, Any]:
    """Reads the last beat.

    Returns:
      `pid`, `host`, `step` (None before the first), `time` (seconds since 1970) and `over` (whether
      the process has said that no more beats come); empty where there is no file that can be read.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
