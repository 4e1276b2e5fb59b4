"""Decoding processes seen from the parent: start, ask, bound in time, replace.

    with Worker(Limits()) as worker:
        info = worker.decode(request(ref, limits, size=64), sink=chunks.append)

A worker is a fresh interpreter, not a fork: the parent may run JAX's threads, be a notebook, or a
script without a main guard.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

import vidgen
from vidgen import frame_size
from vidgen.data.limits import Limits
from vidgen.errors import DataError
from vidgen.video.decoding import Unreadable

RATE = 25.0  # frames per second of pictures and arrays, which carry no times


_CLOCK = 1000  # ticks per second of the clock of some containers
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


Result = TypeVar("Result")
_Process = subprocess.Popen[bytes]


class _Lost(Exception):
    """The process is gone; the message is why."""


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

    def picture_header(self, ref: dict[str, Any]) -> dict[str, int]:
        """Returns `frames`, `width` and `height` of a picture, from its header.

        Raises:
          Unreadable: It is no picture.
        """
        asked = {"what": "picture header", "ref": ref, "limits": dataclasses.asdict(self.limits)}
        return self.decode(asked, lambda chunk: None)

    def decode(self, asked: dict[str, Any], sink: Callable[[np.ndarray], None]) -> dict[str, Any]:
        """Decodes one clip.

        Args:
          asked: From `request`.
          sink: Called in order with uint8 `[n, H, W, 3]`, read-only.

        Returns:
          What is known of the file (see `decoding.timed_frames`), and `times`, its frames' seconds.

        Raises:
          Unreadable: The file cannot be decoded within the limits; the message says why. `sink` may
            have been given frames before.
          DataError: The process cannot be started at all.
        """
        process = self._start()
        try:
            answer = self._exchange(process, asked, sink)
            why = None if "done" in answer else str(answer["error"])
        except _Lost as lost:
            self._kill()
            raise Unreadable(str(lost)) from None
        except BaseException:
            self._kill()  # its answer was not read to the end, so it is of no more use
            raise
        if why is not None:
            raise Unreadable(why)
        return answer["done"]

    def _exchange(
        self, process: _Process, asked: dict[str, Any], sink: Callable[[np.ndarray], None]
    ) -> dict[str, Any]:
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self.limits.seconds, stop)
        timer.daemon = True
        timer.start()
        try:
            _send(process, asked)
            while True:
                header = _header(process)
                if "shape" not in header:
                    return header
                shape = (header["frames"], *header["shape"])
                sink(np.frombuffer(_read(process, math.prod(shape)), np.uint8).reshape(shape))
        except _Lost:
            if late.is_set():
                raise _Lost(f"took longer than data.limits.seconds={self.limits.seconds}") from None
            raise
        finally:
            timer.cancel()
            timer.join()
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
        command = [sys.executable, "-m", "vidgen.data.decoder", str(self.limits.memory())]
        with tempfile.TemporaryFile() as complaints:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env=os.environ | quiet,
            )
            # Runs once: when asked to, with the last reference to this worker, or at exit.
            self._end = weakref.finalize(self, _end, process)
            try:
                _header(process)
            except _Lost as lost:
                self._kill()
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


def _end(process: _Process) -> None:
    process.kill()
    process.wait()
    with contextlib.suppress(BrokenPipeError):  # what it did not read is of no interest
        process.stdin.close()  # type: ignore[union-attr]
    process.stdout.close()  # type: ignore[union-attr]


def each(
    order: Sequence[int],
    job: Callable[[int, Worker, int], Result],
    *,
    limits: Limits,
    workers: int,
    refuse: Callable[[int, str], None] = lambda number, why: None,
    progress: Callable[[int, int, str], None] | None = None,
    text: str = "",
) -> tuple[dict[int, Result], dict[int, str]]:
    """Runs a job for each number, on several processes at a time.

    Args:
      order: The numbers.
      job: Called in a thread as `job(slot, worker, number)`, where no two calls share a slot at a
        time; raises Unreadable for a clip of no use.
      limits: For the workers.
      workers: How many; slots are below this.
      refuse: Called in a thread with the number and the reason of an Unreadable, at once; may
        raise, which ends all.
      progress: Called in this thread with (done, total, text), twice a second at least.
      text: What the progress says.

    Returns:
      What the job returned, and the reasons of those that were refused, both by number.

    Raises:
      Whatever `job`, `refuse` or `progress` raises, once all threads and processes have ended.
    """
    results: dict[int, Result] = {}
    refused: dict[int, str] = {}
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in order:
        todo.put(number)
    stop = threading.Event()

    def work(slot: int, worker: Worker) -> None:
        while not stop.is_set():
            try:
                number = todo.get_nowait()
            except queue.Empty:
                return
            try:
                results[number] = job(slot, worker, number)
            except Unreadable as error:
                if not stop.is_set():  # else it was ended from here, and is no worse than others
                    refused[number] = str(error)
                    refuse(number, str(error))

    with contextlib.ExitStack() as stack:
        count = max(1, min(workers, len(order)))
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(count))
        helpers = [stack.enter_context(Worker(limits)) for _ in range(count)]
        stack.callback(stop.set)  # leaving: first the flag, then the processes, then the threads
        pending = {pool.submit(work, slot, helper) for slot, helper in enumerate(helpers)}
        while pending:
            done, pending = concurrent.futures.wait(
                pending, timeout=0.4, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                future.result()
            if progress is not None:
                progress(len(results) + len(refused), len(order), text)
    return results, refused


def _send(process: _Process, asked: dict[str, Any]) -> None:
    text = json.dumps(asked).encode()
    try:
        process.stdin.write(len(text).to_bytes(4, "big") + text)  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    except BrokenPipeError:
        raise _Lost(_epitaph(process)) from None


def _header(process: _Process) -> dict[str, Any]:
    return json.loads(_read(process, int.from_bytes(_read(process, 4), "big")))


def _read(process: _Process, count: int) -> bytes:
    data = process.stdout.read(count)  # type: ignore[union-attr]
    if len(data) < count:
        raise _Lost(_epitaph(process))
    return data


def _epitaph(process: _Process) -> str:
    """Says how a process ended that has closed its pipes."""
    try:
        code = process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return "the decoder stopped answering"
    if code >= 0:
        return f"the decoder ended with status {code}"
    name = signal.Signals(-code).name
    if name == "SIGKILL":
        return "the decoder was killed, perhaps for want of memory"
    return f"crashes the decoder ({name})"
