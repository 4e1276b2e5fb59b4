"""Decoding processes seen from the parent: start, ask, bound in time, replace.

    with Worker(Limits()) as worker:
        info = worker.decode(request(ref, limits, size=64), sink=chunks.append)

A worker is a fresh interpreter, not a fork: the parent may run JAX's threads, be a notebook, or a
script without a main guard.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import vidgen
from vidgen import frame_size
from vidgen.data.limits import Limits
from vidgen.errors import DataError
from vidgen.video.decoding import Unreadable

RATE = 25.0  # frames per second of pictures and arrays, which carry no times


_CLOCK = 1000  # ticks per second of the clock of some containers
_START = 60.0  # seconds by the clock that a process may take to start
_GAP = 50  # medians of the steps between frames: a longer one is a gap


def request(
    ref: dict[str, Any],
    limits: Limits,
    *,
    size: frame_size.Size | None = None,
    crop: bool = False,
    fps: float | None = None,
    start: float = 0.0,
    end: float | None = None,
    background: tuple[int, int, int] = (0, 0, 0),
    threads: int = 1,
) -> dict[str, Any]:
    """Returns what `Worker.decode` sends.

    Args:
      ref: Where the clip is; see `decoder.py`.
      limits: What it may cost.
      size: Length of the shorter side, `(height, width)` to cover, or None for the stored size.
      crop: Whether to cut the centre.
      fps: Frames per second to resample to, or None.
      start: First second.
      end: Seconds at which to stop, exclusive, or None.
      background: RGB behind transparent pixels.
      threads: Threads of the decoder.
    """
    return {
        "what": "decode",
        "ref": ref,
        "limits": dataclasses.asdict(limits),
        "size": size,
        "crop": crop,
        "fps": fps,
        "start": start,
        "end": end,
        "background": background,
        "rate": RATE,
        "threads": threads,
    }


def frame_rate(times: np.ndarray, declared: float) -> float:
    """Returns the mean frames per second of presentation times, or what the header declares.

    A few steps far beyond the others are gaps (a first time stamp of another clock), and no rate;
    neither is the clock of a container that declares it for one frame. Not known: 0.
    """
    steps = np.diff(times)
    if not np.any(steps > 0):
        return declared if declared < _CLOCK else 0.0
    steps = steps[steps <= _GAP * np.median(steps[steps > 0])]
    return float(len(steps) / steps.sum())


_Process = subprocess.Popen[bytes]


class Overtime(Unreadable):
    """A file took more processor time than it may, at which its process ended."""


class Disturbed(Exception):
    """A file came to nothing, and the reason may lie in the moment: it is worth another try, alone.

    Attributes:
      crash: Whether it is the file's own if it happens twice: a crash, or a want of memory. If not,
        it is the machine's: a signal from outside, a disk or a clock that ran out.
    """

    def __init__(self, message: str, crash: bool):
        super().__init__(message)
        self.crash = crash


class _Lost(Exception):
    """The process is gone; the message is why, and `signal` what ended it (0: it ended itself)."""

    def __init__(self, message: str, number: int = 0):
        super().__init__(message)
        self.signal = number


# Of these a process dies by itself, whatever the machine does.
_CRASHES = frozenset(
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSYS", "SIGTRAP")
    if hasattr(signal, name)
)
_KILLED = getattr(signal, "SIGKILL", -9)  # Windows has none
_OVERTIME = getattr(signal, "SIGPROF", None)  # see `child._bound_time`


class Worker:
    """A decoding process, started on first use and replaced when it dies or overstays.

    Not for several threads at a time: each thread has its own.

    Args:
      limits: Bounds of time and memory.
    """

    def __init__(self, limits: Limits):
        self.limits = limits
        self._process: _Process | None = None
        self._end: Callable[[], Any] = lambda: None
        self._closed = False

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process at once; another thread's `decode` then raises."""
        self._closed = True
        self._kill()

    def decode(
        self,
        asked: dict[str, Any],
        sink: Callable[[np.ndarray], None],
        told: Callable[[Any], None] = lambda what: None,
    ) -> dict[str, Any]:
        """Decodes one clip, or does what else `child.py` knows of.

        Args:
          asked: From `request`.
          sink: Called in order with uint8 `[n, H, W, 3]`, read-only.
          told: Called with what a listing tells in between; each has its own time by the clock.

        Returns:
          What is known of the file (see `decoding.timed_frames`), and `times`, its frames' seconds.

        Raises:
          Unreadable: The file cannot be decoded within the limits, now or ever; the message says
            why. `sink` may have been given frames before.
          Disturbed: It was not decoded, and may be another time; `sink` may have been given frames.
          DataError: The process cannot be started at all.
        """
        process = self._start()
        try:
            answer = self._exchange(process, asked, sink, told)
            why = None if "done" in answer else str(answer["error"])
        except _Lost as lost:
            self._kill()
            if lost.signal == _OVERTIME:
                raise Overtime(
                    f"took longer than data.limits.seconds={self.limits.seconds}"
                ) from None
            raise Disturbed(str(lost), lost.signal in _CRASHES or not lost.signal) from None
        except BaseException:
            self._kill()  # its answer was not read to the end, so it is of no more use
            raise
        if why is None:
            return answer["done"]
        if answer["fault"] == "file":
            raise Unreadable(why)
        self._kill()  # what it has kept and opened may be why
        raise Disturbed(why, answer["fault"] == "again?")

    def _exchange(
        self,
        process: _Process,
        asked: dict[str, Any],
        sink: Callable[[np.ndarray], None],
        told: Callable[[Any], None],
    ) -> dict[str, Any]:
        with self._clock(process, self.limits.patience()) as wind:
            _send(process, asked)
            while True:
                header = _header(process)
                if "told" in header:
                    told(header["told"])
                    wind()
                elif "shape" in header:
                    shape = (header["frames"], *header["shape"])
                    sink(np.frombuffer(_read(process, math.prod(shape)), np.uint8).reshape(shape))
                else:
                    return header

    @contextlib.contextmanager
    def _clock(self, process: _Process, seconds: float) -> Iterator[Callable[[], None]]:
        """Ends a process that overstays, and says so; gives a function that winds the clock."""
        late, timers = threading.Event(), []

        def stop() -> None:
            late.set()
            _kill_group(process)

        def wind() -> None:
            if timers:
                timers.pop().cancel()
            timers.append(threading.Timer(seconds, stop))
            timers[0].daemon = True
            timers[0].start()

        wind()
        try:
            yield wind
        except _Lost:
            if late.is_set():
                within = f"data.limits.seconds={self.limits.seconds} of processor time"
                why = f"gave no answer in {seconds:g} s by the clock, and within {within}"
                raise _Lost(why, _KILLED) from None
            raise
        finally:
            timers[0].cancel()
            timers[0].join()
            if late.is_set():  # if only after the last answer, that one is good, but no other comes
                self._kill()

    def _start(self) -> _Process:
        if self._closed:
            raise RuntimeError("the worker is closed")
        if self._process is not None:
            return self._process
        root = str(pathlib.Path(vidgen.__file__).parents[1])
        search = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        # One thread each: the threads of OpenBLAS would take address space for nothing.
        quiet = {"PYTHONPATH": search, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "vidgen.data.child", str(self.limits.memory())]
        with tempfile.TemporaryFile() as complaints:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=complaints,
                    env=os.environ | quiet,
                    start_new_session=True,  # what it starts is in its group, and ends with it
                )
            except OSError as error:  # too many processes or files, or too little memory, now
                why = f"the decoding process cannot be started ({error.strerror})"
                raise Disturbed(why, crash=False) from None
            # Runs once: when asked to, with the last reference to this worker, or at exit.
            self._end = weakref.finalize(self, _end, process)
            if self._closed:  # meanwhile: whoever did that had nothing to end yet
                self._kill()
                raise RuntimeError("the worker is closed")
            try:
                with self._clock(process, max(_START, self.limits.patience())):
                    _header(process)
            except _Lost as lost:
                self._kill()
                if lost.signal:
                    raise Disturbed(f"{lost}, before it began", crash=False) from None
                complaints.seek(0)
                said = complaints.read().decode(errors="replace").strip().splitlines()
                raise DataError(
                    f"the decoding process does not start: {said[-1] if said else lost}",
                    f"try: {' '.join(command)}",
                ) from None
            except BaseException:
                self._kill()  # its first words are unread: they would answer the first request
                raise
        self._process = process
        return process

    def _kill(self) -> None:
        self._process = None
        self._end()


def _kill_group(process: _Process) -> None:
    """Ends a process and all that it has started."""
    if not hasattr(os, "killpg"):  # on Windows
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):  # none of it is left
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: _Process) -> None:
    _kill_group(process)
    process.wait()
    with contextlib.suppress(BrokenPipeError):  # what it did not read is of no interest
        process.stdin.close()  # type: ignore[union-attr]
    process.stdout.close()  # type: ignore[union-attr]


def _send(process: _Process, asked: dict[str, Any]) -> None:
    text = json.dumps(asked).encode()
    try:
        process.stdin.write(len(text).to_bytes(4, "big") + text)  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    except BrokenPipeError:
        raise _lost(process) from None


def _header(process: _Process) -> dict[str, Any]:
    return json.loads(_read(process, int.from_bytes(_read(process, 4), "big")))


def _read(process: _Process, count: int) -> bytes:
    data = process.stdout.read(count)  # type: ignore[union-attr]
    if len(data) < count:
        raise _lost(process)
    return data


def _lost(process: _Process) -> _Lost:
    """Returns how a process ended that has closed its pipes."""
    try:
        code = process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return _Lost("the decoder stopped answering", _KILLED)
    if code >= 0:
        return _Lost(f"the decoder ended with status {code}")
    number = signal.Signals(-code)
    if number in _CRASHES:
        return _Lost(f"crashes the decoder ({number.name})", number)
    want = ", perhaps for want of memory" if number.name == "SIGKILL" else f" ({number.name})"
    return _Lost(f"the decoder was killed{want}", number)
