"""Signals that ask a run to stop, noted and looked at where nothing is lost."""

import signal
import threading
import time
from types import FrameType
from typing import Any


class Signals:
    """Notes SIGINT and SIGTERM while entered; a second one of a kind takes its old course.

    Not one that comes within a second: that is the same request twice, as when a service manager
    signals a launcher and its processes and the launcher passes it on.

    Python lets no thread but the main one set handlers: entered in another, this notes nothing.

    Attributes:
      received: Name of the signal that came, or "".
    """

    def __enter__(self):
        self.received, self.since = "", 0.0
        self.old: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.old[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
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
