"""Signals that ask a run to stop, noted and looked at where nothing is lost."""

import os
import signal
import stat
import threading
import time
from types import FrameType
from typing import Any

_NOTED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Notes SIGINT, SIGTERM and SIGHUP while entered; a second one of a kind takes its old course.

    Not one that comes within a second: that is the same request twice, as when a service manager
    signals a launcher and its processes and the launcher passes it on.

    SIGHUP comes when a terminal closes, which nothing can be written to from then on. Where it is
    ignored (nohup), it stays so.

    Python lets no thread but the main one set handlers: entered in another, this notes nothing.

    Attributes:
      received: Name of the signal that came, or "".
    """

    def __enter__(self):
        self.received, self.since = "", 0.0
        self.old: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in _NOTED:
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self.old[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave_terminal()
        now, name = time.monotonic(), signal.Signals(number).name
        if name != self.received:
            self.received, self.since = name, now
        elif now - self.since > 1:
            signal.signal(number, self.old[number])
            old = self.old[number]
            if callable(old):
                old(number, frame)
            elif old == signal.SIG_DFL:
                signal.raise_signal(number)

    def __exit__(self, *_):
        for number, handler in self.old.items():
            signal.signal(number, handler)


def _leave_terminal() -> None:
    """Sends what is still said to nowhere, where it would go to a terminal that has closed."""
    null = os.open(os.devnull, os.O_RDWR)
    for output in (1, 2):
        if stat.S_ISCHR(os.fstat(output).st_mode):
            os.dup2(null, output)
    os.close(null)
