"""Starts the processes of one run on this machine, watches them, and ends or restarts them as one.

A process that dies or freezes leaves the others waiting for it in a collective, where they stay for
minutes and then die of something else. So the launcher says at once which was the first and how it
ended, ends the rest, and may start all again, from the last checkpoint. It never imports JAX.
"""

import contextlib
import dataclasses
import os
import pathlib
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO, Any

from vidgen.errors import ConfigError, DataError, DivergedError, Preempted
from vidgen.run import heartbeat as heartbeats
from vidgen.run.signals import Signals

LOOK = 0.2  # seconds between two looks at the heartbeats
SETTLE = 2.0  # after a death that may be a consequence, for its cause to show
GRACE = 3.0  # between SIGTERM and SIGKILL, for those that are ended
EMPTY = 10.0  # for the last output of a process that has ended

PREEMPTED = Preempted.exit_code
# The same again after every restart: a run is a function of its config and its data.
FINAL = (ConfigError.exit_code, DataError.exit_code, DivergedError.exit_code)
# How a process ends because another has: an error in a collective, or JAX's abort.
CONSEQUENCES = (1, 128 + signal.SIGABRT)
FAKE = "--xla_force_host_platform_device_count"

# What a process runs before the command takes its place: should the launcher be killed with -9,
# which leaves it no time to end anything, the kernel kills the process (PR_SET_PDEATHSIG, which
# execve keeps). Here and not in a preexec_fn, which runs Python between fork and exec, where a lock
# that another thread held stays locked for ever.
GUARD = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))
if os.getppid() != int(sys.argv[1]):
    os._exit(137)  # the launcher was gone before
os.execvp(sys.argv[2], sys.argv[2:])
"""


def launch(
    command: list[str],
    processes: int,
    *,
    max_restarts: int = 0,
    heartbeat: float = 10.0,
    devices: int = 0,
) -> int:
    """Runs a command in several processes until all have ended.

    Each finds VIDGEN_COORDINATOR (`127.0.0.1:PORT`), VIDGEN_PROCESSES, VIDGEN_PROCESS (from 0) and
    VIDGEN_HEARTBEAT in its environment. What process 0 prints passes through; the lines of the
    others are marked `[1] `, `[2] `, .... SIGTERM, SIGINT and SIGHUP are passed on to all, once; a
    second one ends the launcher, and with it (on Linux) all processes.

    Args:
      command: Program and arguments.
      processes: How many.
      max_restarts: How often all are started again after one died or froze.
      heartbeat: Seconds without a beat, once there was one, after which a process is frozen.
      devices: Fake CPU devices that each process gets, to try things; 0: the real ones.

    Returns:
      0 where all ended with 0; 85 where they were asked to stop and can go on; otherwise the code
      of the process that failed first, 128 + n where signal n ended it. After 2, 3 and 4
      (config, data, diverged) nothing is started again.

    Raises:
      ConfigError: There is no command, or a number makes no sense.
    """
    if not command:
        raise ConfigError(
            "there is no command to launch", "vidgen launch --processes=2 -- train ..."
        )
    if not 2 * heartbeats.SECONDS <= heartbeat <= 1e6:  # refuses NaN, too
        raise ConfigError(f"--heartbeat={heartbeat:g}", "processes beat every second: at least 2")
    for name, value, least in (
        ("processes", processes, 1), ("max-restarts", max_restarts, 0), ("devices", devices, 0)
    ):  # fmt: skip
        if value < least:
            raise ConfigError(f"--{name}={value}", f"at least {least}")
    with Signals() as signals:
        restarts = 0
        while True:
            code = _run(command, processes, heartbeat, devices, signals)
            if code in (0, PREEMPTED, *FINAL) or signals.received or restarts == max_restarts:
                return code
            restarts += 1
            _say(f"starting all {processes} again, restart {restarts} of {max_restarts}")


class _Process:
    """One process, its output, and what is known of its heartbeat.

    Args:
      number: Which it is; 0 prints to where the launcher prints.
      command: Program and arguments.
      environment: All of its environment.
      beats: File of its heartbeat.
      ended: Where it is put when it has ended.
    """

    def __init__(
        self,
        number: int,
        command: list[str],
        environment: dict[str, str],
        beats: pathlib.Path,
        ended: "queue.SimpleQueue[_Process]",
    ):
        self.number, self.beats = number, beats
        self.frozen, self.silent, self.changed, self.beat = False, 0.0, 0, {}
        output = subprocess.PIPE if number else None
        # A session of its own: Ctrl-C in a terminal would reach it twice, once through us, and the
        # second one means "do not save". Started by the main thread, because PR_SET_PDEATHSIG is
        # about the thread.
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        self.waiter = self._thread(self._wait, ended)
        self.readers = [
            self._thread(_mark_lines, pipe, number, to)
            for pipe, to in ((self.process.stdout, 1), (self.process.stderr, 2))
            if pipe is not None
        ]

    def _thread(self, function: Any, *arguments: Any) -> threading.Thread:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        thread.start()
        return thread

    def _wait(self, ended: "queue.SimpleQueue[_Process]") -> None:
        self.process.wait()
        ended.put(self)

    def listen(self, seconds: float) -> None:
        """Looks at the heartbeat, `seconds` after the last look."""
        try:
            changed = self.beats.stat().st_mtime_ns
        except OSError:  # none yet
            return
        if changed != self.changed:
            self.changed, self.silent, self.beat = changed, 0.0, heartbeats.read(self.beats)
        elif not self.beat.get("over"):
            self.silent += seconds

    def kill(self) -> None:
        """Kills it and what it has started."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)


@dataclasses.dataclass(frozen=True)
class _End:
    """A process that did not end with 0, with its exit code as shells give it, and when."""

    process: _Process
    code: int
    time: float


def _run(command: list[str], count: int, heartbeat: float, devices: int, signals: Signals) -> int:
    """Starts all once and watches them until the end of all; returns the code of that."""
    children: list[_Process] = []
    ended: queue.SimpleQueue[_Process] = queue.SimpleQueue()
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", GUARD, str(os.getpid()), *command]
    with tempfile.TemporaryDirectory(prefix="vidgen-", ignore_cleanup_errors=True) as folder:
        shared = {**os.environ, **_fake_devices(devices)}
        shared["VIDGEN_COORDINATOR"] = f"127.0.0.1:{_free_port()}"
        shared["VIDGEN_PROCESSES"] = str(count)
        try:
            for number in range(count):
                beats = pathlib.Path(folder) / f"{number}.json"
                own = {"VIDGEN_PROCESS": str(number), heartbeats.VARIABLE: str(beats)}
                children.append(_Process(number, command, shared | own, beats, ended))
            cause = _watch(children, ended, heartbeat, signals)
        finally:
            _end(children)
        if cause is None:
            return 0
        if cause.code != PREEMPTED:  # said last: what the others print as they die is long
            _say(_obituary(cause, count, heartbeat))
        return cause.code


def _watch(
    children: list[_Process],
    ended: "queue.SimpleQueue[_Process]",
    heartbeat: float,
    signals: Signals,
) -> _End | None:
    """Waits until all have ended or one has failed; returns the first cause, None for success."""
    running, ends, cause = set(children), [], None
    asked, looked = False, time.monotonic()
    while running:
        over = None
        with contextlib.suppress(queue.Empty):
            over = ended.get(timeout=LOOK)
        now = time.monotonic()
        # A launcher that was itself stopped for a minute has not listened for a minute.
        listened, looked = min(now - looked, 1.0), now
        for child in tuple(running):
            child.listen(listened)
            if child is not over and child.silent > heartbeat:
                child.frozen = True
                child.kill()
                running.remove(child)
                ends.append(_End(child, 128 + signal.SIGKILL, now))
        if over in running:
            running.remove(over)
            code = over.process.returncode
            if code:
                ends.append(_End(over, code if code > 0 else 128 - code, now))
        cause = min(ends, key=_doubt, default=None)  # the earliest of the least doubtful
        if cause and (not _doubt(cause) or (_doubt(cause) == 2 and now - cause.time > SETTLE)):
            break
        if signals.received and not asked:
            asked = True
            _say(f"{signals.received}: passed on; waiting for {len(running)} processes")
            for child in running:
                child.process.send_signal(signal.Signals[signals.received])
    return cause


def _doubt(end: _End) -> int:
    """Says how well an end explains others.

    A process that dies by itself may be noticed after one that died because of it: it takes a while
    to give its memory and devices back.

    Returns:
      0 for a failure of its own, 1 for a stop that was asked for, which does not end the others, 2
      for what may be a consequence of either.
    """
    if end.code == PREEMPTED:
        return 1
    return 2 if end.code in CONSEQUENCES else 0


def _obituary(end: _End, count: int, heartbeat: float) -> str:
    child = end.process
    beat = heartbeats.read(child.beats) or child.beat
    step = beat.get("step")
    what = f"froze (no heartbeat for {heartbeat:g} s; killed)" if child.frozen else "died"
    name = ""
    with contextlib.suppress(ValueError):
        name = f" ({signal.Signals(end.code - 128).name})"
    return (
        f"process {child.number} of {count} {what}: host {beat.get('host', socket.gethostname())}, "
        f"pid {child.process.pid}, last step {'unknown' if step is None else step}, "
        f"exit code {end.code}{name}"
    )


def _end(children: list[_Process]) -> None:
    """Ends those that still run, and waits for all output."""
    deadline = time.monotonic() + GRACE
    for child in children:
        child.process.send_signal(signal.SIGTERM)  # does nothing to one that has ended
    for child in children:
        child.waiter.join(max(deadline - time.monotonic(), 0))
    for child in children:
        child.kill()
    deadline = time.monotonic() + EMPTY  # what is left then is held by a process we do not know
    for child in children:
        for thread in (child.waiter, *child.readers):
            thread.join(max(deadline - time.monotonic(), 0))


def _mark_lines(pipe: IO[bytes], number: int, to: int) -> None:
    """Copies lines to a file descriptor, each with the number of the process before it."""
    with pipe:
        for line in pipe:
            data = b"[%d] " % number + line.removesuffix(b"\n") + b"\n"
            with contextlib.suppress(OSError):  # no reader: the pipe must be emptied all the same
                while data:
                    data = data[os.write(to, data) :]


def _fake_devices(count: int) -> dict[str, str]:
    if not count:
        return {}
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags = [flag for flag in flags if not flag.startswith(FAKE)]
    return {"XLA_FLAGS": " ".join([*flags, f"{FAKE}={count}"]), "JAX_PLATFORMS": "cpu"}


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def _say(text: str) -> None:
    print(f"vidgen: {text}", file=sys.stderr, flush=True)
