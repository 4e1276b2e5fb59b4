"""The process that opens strangers' files: it decodes them, and lists what a path holds.

`python -m vidgen.data.child BYTES` reads requests from its standard input and answers on its
standard output, one at a time, with at most BYTES of address space. A request is JSON, an answer is
JSON headers, each followed by raw frames where it says so; nothing is unpickled. `workers.py` is
the other end.

An answer ends with `done`, or with `error`, the reason, and `fault`, which says what it is worth:

    "file"      it is the file's: it would be the same at any time
    "again?"    it is the file's if it happens again, in a fresh process, alone
    "moment"    it is the machine's, now: a disk or a network that does not answer
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from vidgen.data.collecting import collect
from vidgen.data.decoder import decode
from vidgen.data.faults import fault, of_the_moment, why
from vidgen.data.limits import Limits

_CHUNK = 1 << 20  # bytes of frames that travel together
_ROWS = 5000  # clips of a listing that do,
_LETTERS = 1 << 24  # or fewer, whose captions have so many letters
_HEARD = 1.0  # seconds after which a listing says that it goes on


def main() -> None:
    """Serves requests until standard input closes."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that a library that prints cannot spoil the answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    _bound_memory(int(sys.argv[1]))
    _send(answers, {"ready": True})
    while (request := _receive(sys.stdin.buffer)) is not None:
        limits = Limits(**request["limits"])
        _bound_time(limits)
        try:
            if request["what"] == "list":
                _list(request, answers)
            else:
                _serve(request, answers)
        except (Exception, MemoryError) as error:
            # The one place that catches everything: whatever a decoder raises on a strange file is
            # this file's reason, and travels to the parent, which names the file.
            # FFmpeg has no part in a listing, whose errors of the system are its own.
            system = request["what"] == "list" and of_the_moment(error)
            whose = "moment" if system else fault(error, request["ref"]["path"])
            _answer(answers, {"error": why(error), "fault": whose})


def _bound_time(limits: Limits | None) -> None:
    """Has this process end, even inside C, once a file has cost what it may; None: no more.

    SIGPROF counts its processor time, of all threads: what a file costs, however busy the machine
    is. SIGALRM is for the time when the parent, which looks at the clock as well, is gone.
    """
    if not hasattr(signal, "setitimer"):  # on Windows
        return
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, limits.seconds if limits else 0)
    signal.setitimer(signal.ITIMER_REAL, limits.patience() + 10 if limits else 0)


def _serve(request: dict[str, Any], answers: BinaryIO) -> None:
    times: list[float] = []
    held: list[np.ndarray] = []
    info, timed = decode(request)
    for seconds, array in timed:
        times.append(seconds)
        held.append(array)
        if len(held) * array.nbytes >= _CHUNK:
            _send(answers, {"shape": array.shape, "frames": len(held)}, held)
            held = []
    if held:
        _send(answers, {"shape": held[0].shape, "frames": len(held)}, held)
    _answer(answers, {"done": {**info, "times": times}})


def _list(request: dict[str, Any], answers: BinaryIO) -> None:
    """Lists a path; each file has its own seconds."""
    limits, said, before = Limits(**request["limits"]), time.monotonic(), None

    def tell(name: str | None) -> None:
        nonlocal said, before
        _bound_time(limits)
        if name != before or time.monotonic() - said > _HEARD:
            _send(answers, {"told": {"at": name}})
            said, before = time.monotonic(), name

    listing = collect(request["ref"]["path"], limits, tell, request["bad"])
    for kind, all_of_it in (
        ("entries", [vars(entry) for entry in listing.entries]),
        ("skipped", listing.skipped),
    ):
        for some in _parts(all_of_it):
            _bound_time(limits)
            _send(answers, {"told": {kind: some}})
    _answer(answers, {"done": {"ignored": listing.ignored}})


def _parts(rows: list[Any]) -> Iterator[list[Any]]:
    """Yields rows of a listing in parts that are small enough for one message."""
    part, letters = [], 0
    for row in rows:
        part.append(row)
        letters += len(row["caption"]) if isinstance(row, dict) else 0
        if len(part) >= _ROWS or letters >= _LETTERS:
            yield part
            part, letters = [], 0
    if part:
        yield part


def _bound_memory(most: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def _receive(file: BinaryIO) -> dict[str, Any] | None:
    head = file.read(4)
    if len(head) < 4:
        return None
    return json.loads(file.read(int.from_bytes(head, "big")))


def _answer(answers: BinaryIO, last: dict[str, Any]) -> None:
    """Sends the end of an answer, after which no limit of this file's may end the process."""
    _bound_time(None)
    _send(answers, last)


def _send(file: BinaryIO, header: dict[str, Any], frames: list[np.ndarray] | None = None) -> None:
    text = json.dumps(header).encode()
    file.write(len(text).to_bytes(4, "big") + text)
    for frame in frames or ():
        file.write(np.ascontiguousarray(frame).data)
    file.flush()


if __name__ == "__main__":
    main()
