"""Compiling takes minutes: said before, with how long it took the last time."""

import contextlib
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

from vidgen import config as configs
from vidgen import methods
from vidgen.errors import StorageError
from vidgen.run import artifacts, logs

FILE = "compile-seconds.json"  # in the folder of compiled programs: {key: seconds}
_KEPT = 500  # keys in it
_ALARM_AFTER = 100.0  # seconds of compiling; XLA complains after 120 of its own work
# A process of its own, so that nothing is lost should this one die: it copies what is written to
# stderr but for the alarm, "[Compiling module jit_run] Very slow compile? ..." between two lines of
# stars, said when it goes off and once more with the time when the program is there.
_FILTER = r"""
import os, re
alarm = re.compile(
    rb"(?:[^\n]*slow_operation_alarm[^\n]*\n\n?)?[^\n]*\*{32}\n"
    rb"(?:(?!\*{32})[^\n]*\n){0,3}[^\n]*Very slow compile\?(?:(?!\*{32})[^\n]*\n)*\*{32}[^\n]*\n?"
)
while data := os.read(0, 1 << 16):
    data = alarm.sub(b"", data)
    while data:
        data = data[os.write(1, data) :]
"""


def key(config: configs.Config, kind: str) -> str:
    """Names a program: its config, its kind, the devices and the version of JAX."""
    fields = configs.flatten(config).items()
    free = {n for n in methods.free_fields(config.method) if not n.startswith("parallel.")}
    said = sorted((n, value) for n, value in fields if n not in free and not n.startswith("data."))
    shapes = [config.data.frames, config.data.get("pick", 0), config.data.size]
    device = jax.devices()[0].device_kind
    text = repr([said, shapes, kind, jax.__version__, device, jax.device_count()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextlib.contextmanager
def announced(config: configs.Config, kind: str, bar: bool = True) -> Iterator[None]:
    """Says that a step is being compiled and how long that took last time; notes how long it takes.

    Without a folder of compiled programs (`jax_compilation_cache_dir`) nothing is noted.

    Args:
      config: The run's.
      kind: Which of its steps, a key of `Experiment.steps`.
      bar: Whether to show the seconds on a terminal as they pass.
    """
    if jax.process_index():
        yield
        return
    name = key(config, kind)
    last = seconds().get(name)
    known = f"last time {last:.0f} s" if last else "the first time here, so it may take minutes"
    begin = time.monotonic()
    with logs.waiting(f"compiling the step ({kind}): {known}", bar), without_alarm():
        yield
    _note(name, time.monotonic() - begin)


def seconds() -> dict[str, float]:
    """Returns how long programs took to compile, by key; empty where no file tells it."""
    path = _path()
    try:
        noted = json.loads(path.read_text()) if path else {}
        return {str(name): float(value) for name, value in noted.items()}
    except (OSError, ValueError, TypeError, AttributeError):  # damaged: nothing depends on it
        return {}


def _note(name: str, value: float) -> None:
    path = _path()
    if path is None:
        return
    noted = {n: v for n, v in seconds().items() if n != name} | {name: round(value, 2)}
    with contextlib.suppress(StorageError, OSError):  # a folder of programs that others own
        path.parent.mkdir(parents=True, exist_ok=True)
        artifacts.write_json(path, dict(list(noted.items())[-_KEPT:]))


def _path() -> pathlib.Path | None:
    settings: Any = jax.config  # whose attributes are made at run time
    folder = settings.jax_compilation_cache_dir
    return pathlib.Path(folder) / FILE if folder else None


@contextlib.contextmanager
def without_alarm(after: float = _ALARM_AFTER) -> Iterator[None]:
    """Leaves XLA's "Very slow compile?" out of stderr while entered; all else passes.

    XLA has no switch for it but a level that hides all of its errors.

    Args:
      after: Seconds from which on the alarm may come; until then stderr stays as it is.
    """
    over = threading.Event()
    thread = threading.Thread(target=_filter, args=(over, after), name="xla-alarm", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _filter(over: threading.Event, after: float) -> None:
    if over.wait(after):
        return
    stderr = os.dup(2)
    try:
        with subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _FILTER],
            stdin=subprocess.PIPE,
            stdout=stderr,
            start_new_session=True,  # Ctrl-C is for this process; the filter ends at its last byte
        ) as process:
            assert process.stdin is not None
            os.dup2(process.stdin.fileno(), 2)
            process.stdin.close()
            over.wait()
            os.dup2(stderr, 2)  # closes the last end of the pipe; leaving waits for the filter
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
