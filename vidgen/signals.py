"""Signals that ask a run to stop, noted and looked at where nothing is lost."""

import signal


class Signals:
    """Notes SIGINT and SIGTERM while entered; a second one of a kind takes its old course.

    Attributes:
      received: Name of the signal that came, or "".
    """

    def __enter__(self):
        self.received = ""
        self.old = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            self.old[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, frame):
        del frame
        self.received = signal.Signals(number).name
        signal.signal(number, self.old[number])

    def __exit__(self, *_):
        for number, handler in self.old.items():
            signal.signal(number, handler)
