"""Signals that ask a run or a command to stop: noted where something is saved, else an end."""

import os
import signal
import stat
import sys
import threading
import time
from types import FrameType
from typing import Any

from vidgen.run import logs

_HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none
_NOTED = tuple(n for n in (signal.SIGINT, signal.SIGTERM, _HANGUP) if n is not None)


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
                if number != _HANGUP or signal.getsignal(number) != signal.SIG_IGN:
                    self.old[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == _HANGUP:
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


class Ended(BaseException):
    """A signal has asked a command to end; it passes through all that cleans up.

    Args:
      number: The signal.
    """

    def __init__(self, number: int):
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


class Ending:
    """Turns SIGINT, SIGTERM and SIGHUP into `Ended` while entered, for what has nothing to save.

    Raised in the main thread, so that files half written and processes that were started go; raised
    again where something has swallowed it (a callback of the collector of garbage, of which JAX has
    one; a module that failed to load and is done without). Where that thread is inside a compiler
    and does not hear for `PATIENCE` seconds, or takes longer than `LONGEST` to leave, the process
    ends as it is; decoders end with their input. A second signal ends it at once, but for one
    within a second (see `Signals`).

    A signal that was ignored (nohup) stays so. Entered in a thread other than the main one, this
    does nothing.
    """

    PATIENCE, LONGEST = 3.0, 20.0

    def __init__(self):
        self._begun: float | None = None
        self._number = 0
        self._heard, self._left = threading.Event(), threading.Event()
        self._old: dict[int, Any] = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._listen()
            self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
            for number in _NOTED:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._old[number] = signal.signal(number, self._end)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._left.set()
        if threading.current_thread() is threading.main_thread():
            sys.unraisablehook = self._hook
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._write)  # the thread reads an end and leaves
        if self._number and error is not None and not isinstance(error, Ended):
            raise Ended(self._number) from error  # what some code has made of it

    def _listen(self) -> None:
        """Starts a thread that is told of signals by the kernel's side, not by Python's."""
        read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

        def watch() -> None:
            with open(read, "rb", buffering=0) as numbers:
                while number := numbers.read(1):
                    if number[0] in self._old and not self._leaves(number[0]):
                        logs.say(f"vidgen: {Ended(number[0])}")
                        os._exit(128 + number[0])

        threading.Thread(target=watch, name="signals", daemon=True).start()

    def _leaves(self, number: int) -> bool:
        """Waits until the main thread has left, and tells whether it has."""
        if not self._heard.wait(self.PATIENCE):
            return False
        deadline = time.monotonic() + self.LONGEST
        while not self._left.wait(0.2):
            if time.monotonic() > deadline:
                return False
            if not _handled(Ended) and hasattr(signal, "pthread_kill"):  # not on Windows
                self._begun = None
                signal.pthread_kill(threading.main_thread().ident or 0, number)
        return True

    def _unraisable(self, event: Any) -> None:
        """Says nothing of an end that could not be raised: it will be."""
        if not isinstance(event.exc_value, Ended):
            self._hook(event)

    def _end(self, number: int, frame: FrameType | None) -> None:
        if number == _HANGUP:
            _leave_terminal()
        now = time.monotonic()
        if self._begun is None:
            self._begun, self._number = now, number
            self._heard.set()
            if frame is not None and frame.f_code.co_name == "called_by_c":
                return  # what it raises ends in a segmentation fault; the watcher sends it again
            raise Ended(number)
        if now - self._begun > 1:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


def _handled(kind: type[BaseException]) -> bool:
    """Tells whether the main thread is cleaning up after an exception of a kind."""
    found: Any = sys._current_exceptions().get(threading.main_thread().ident or 0)
    seen, left = set(), [found[1] if isinstance(found, tuple) else found]  # before Python 3.12
    while left:
        error = left.pop()
        if isinstance(error, kind):
            return True
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            left += [error.__cause__, error.__context__]
    return False


def _leave_terminal() -> None:
    """Sends what is still said to nowhere, where it would go to a terminal that has closed."""
    null = os.open(os.devnull, os.O_RDWR)
    for output in (1, 2):
        if stat.S_ISCHR(os.fstat(output).st_mode):
            os.dup2(null, output)
    os.close(null)
