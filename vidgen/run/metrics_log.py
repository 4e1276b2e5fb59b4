"""The metrics of a run: metrics.jsonl, events.jsonl, TensorBoard."""

import functools
import json
import logging
import math
import pathlib
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from vidgen import config as configs
from vidgen.errors import FullDisk, StorageError
from vidgen.run import logs
from vidgen.run.appending import Appending
from vidgen.run.tensorboard import Events
from vidgen.video import atomic

_LOG = logging.getLogger("vidgen")
_BEGIN = b'{"step": '  # of every line that this module writes
_LONG = 1e10  # seconds: 300 years


class RunLog:
    """Appends metrics to metrics.jsonl and TensorBoard.

    Lines of the logs that are damaged are left out with a warning, and the log as it was is kept
    beside, as `damaged-metrics.jsonl-0`.

    Args:
      folder: The run's folder.
      step: The step the run goes on from; what an interrupted run had logged beyond it is dropped,
        so that no step stands there twice.
      config: The run's, which TensorBoard shows as text and as hyperparameters.
      without_space: Whether to go on while the disk is full; what was to be written waits.

    Attributes:
      seconds: What the parts of `Clock` took up to there.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        step: int,
        config: configs.Config | None = None,
        without_space: bool = False,
    ):
        self.folder, self.path = folder, folder / "metrics.jsonl"
        self.seconds: dict[str, float] = {}
        self.step, self.config, self.without_space = step, config, without_space
        self._full = False
        self._metrics, self._events = Appending(self.path), Appending(folder / "events.jsonl")
        atomic.make_way(folder / "tensorboard", folder=True)
        with atomic.storage(folder):
            for pattern in (".run.json.*", ".*.tmp*", "samples/.*.tmp*"):
                for left in folder.glob(pattern):
                    atomic.remove(left)  # half written when a start was killed
            (folder / "tensorboard").mkdir(exist_ok=True)
        for path in (self.path, self._events.path):
            atomic.make_way(path)
            kept, old = _keep_up_to(path, step)
            if path == self.path and kept:
                self.seconds = _seconds(kept[-1])
                before, after = sum(self.seconds.values()), sum(_seconds(old[-1]).values())
                self.seconds["lost"] = self.seconds.get("lost", 0.0) + max(after - before, 0.0)
        self._try(self._metrics.path, self._metrics.write)

    @functools.cached_property
    def _board(self) -> Events:
        """TensorBoard's file; what it imports takes half a second, so not at once."""
        fields = None
        if self.config is not None and not self.step:  # later starts of the run find it there
            fields = configs.flatten(self.config)
        return Events(self.folder / "tensorboard", self.step, fields)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Writes one line: `{"step": ..., name: value, ...}`; what is not finite as null.

        Raises:
          FullDisk: The disk is full, and the run does not go on without space.
          StorageError: It could not be written for another reason.
        """
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        shown = {name: value for name, value in finite.items() if value is not None}
        self._try(self.path, self._metrics.add, _line(step, finite))
        self._try(self._board.file.path, self._board.scalars, step, shown)
        self._say_space()

    def event(self, step: int, values: dict[str, Any]) -> None:
        """Appends to events.jsonl what happened at a step beyond the ordinary.

        Raises:
          FullDisk: The disk is full, and the run does not go on without space.
          StorageError: It could not be written for another reason.
        """
        self._try(self._events.path, self._events.add, _line(step, values))

    def video(self, step: int, name: str, frames: np.ndarray, fps: float) -> None:
        """Puts a video into TensorBoard as an animated GIF.

        Args:
          step: The step.
          name: Tag.
          frames: uint8 `[T, H, W, 3]`.
          fps: Frames per second.

        Raises:
          FullDisk: The disk is full, and the run does not go on without space.
          StorageError: It could not be written for another reason.
        """
        self._try(self._board.file.path, self._board.video, step, name, frames, fps)

    def close(self) -> None:
        """Closes all files; what still waits for space is tried once more, and else said."""
        for file in self._files():
            try:
                if file.waiting:
                    file.write()
            except OSError as error:
                _LOG.warning(
                    "%s: the last %d lines could not be written: %s",
                    file.path, len(file.waiting), error.strerror,
                )  # fmt: skip
            file.close()

    def _files(self) -> list[Appending]:
        board = [self._board.file] if "_board" in vars(self) else []
        return [self._metrics, self._events, *board]

    def _try(self, path: pathlib.Path, write: Callable[..., None], *what: Any) -> None:
        """Writes, or says once that the disk is full where the run goes on without space."""
        try:
            write(*what)
        except OSError as error:
            full = atomic.is_full(error)
            if not (full and self.without_space):
                _refuse(path, error)
            if not self._full:
                self._full = True
                logs.say(
                    f"vidgen: {path} could not be written, the disk is full; going on: the lines "
                    "wait until there is space"
                )

    def _say_space(self) -> None:
        """Says that there is space again, once all that has waited is written."""
        if not self._full:
            return
        try:
            for file in self._files():
                file.write()
        except OSError as error:
            if not atomic.is_full(error):
                _refuse(self.folder, error)
            return
        self._full = False
        dropped = sum(file.dropped for file in self._files())
        but = f" but {dropped} records of TensorBoard" if dropped else ""
        logs.say(f"vidgen: {self.folder}: there is space again, and all{but} is written")


def _refuse(path: pathlib.Path, error: OSError) -> NoReturn:
    kind = FullDisk if atomic.is_full(error) else StorageError
    hint = "free some space; checkpoints that are there are whole, the same command goes on"
    raise kind(
        f"{path} could not be written: {error.strerror}", hint if kind is FullDisk else ""
    ) from error


def _line(step: int, values: dict[str, Any]) -> bytes:
    return (json.dumps({"step": step, **values}) + "\n").encode()


def last(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the last line of metrics.jsonl; empty where there is none."""
    return ([data for _, data in _lines(folder / "metrics.jsonl")[0]] or [{}])[-1]


def skipped_up_to(folder: pathlib.Path, step: int) -> int:
    """Returns how many steps one after another, `step` the last, events.jsonl has as skipped."""
    lines = [data for _, data in _lines(folder / "events.jsonl")[0]]
    skipped = {line["step"] for line in lines if "skipped" in line}
    count = 0
    while step - count in skipped:
        count += 1
    return count


def _keep_up_to(path: pathlib.Path, step: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Drops the lines of a log beyond a step, and those that are damaged with a warning.

    Returns:
      What is kept, and what was there.

    Raises:
      StorageError: The log cannot be read or written.
    """
    with atomic.storage(path):
        if not path.exists():
            return [], []
        old, damaged = _lines(path)
        kept = [(line, data) for line, data in old if data["step"] <= step]
        if damaged:
            copy = atomic.beside(path)
            atomic.link(path, copy)  # not renamed: there is always a log
            _LOG.warning(
                "%s: %d of %d lines are damaged and left out; kept as it was in %s",
                path, damaged, damaged + len(old), copy.name,
            )  # fmt: skip
        _rewrite(path, [line for line, _ in kept])
    return [data for _, data in kept], [data for _, data in old]


def _lines(path: pathlib.Path) -> tuple[list[tuple[bytes, dict[str, Any]]], int]:
    """Reads a log: its good lines with what they say, and how many are damaged.

    The half line at the end of a run that was killed is left out, and not counted.
    """
    if not path.is_file():
        return [], 0
    *lines, half = path.read_bytes().split(b"\n")
    found = [(line, _parsed(line)) for line in lines]
    if half and (_parsed(half) is not None or not half.startswith(_BEGIN[: len(half)])):
        found.append((half, _parsed(half)))
    good = [(line, data) for line, data in found if data is not None]
    return good, len(found) - len(good)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Returns what a line of a log says; None where it is damaged."""
    try:
        data = json.loads(line.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    fits = isinstance(data, dict) and type(data.get("step")) is int and data["step"] >= 0
    return data if fits else None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _rewrite(path: pathlib.Path, lines: list[bytes]) -> None:
    """Replaces a log by other lines; leaves it alone where it has them already."""
    data = b"".join(line + b"\n" for line in lines)
    if path.read_bytes() != data:
        with atomic.replacing(path) as temporary:
            temporary.write_bytes(data)


def _seconds(line: dict[str, Any]) -> dict[str, float]:
    """Returns what a line says of where the time went; what is no number of seconds is left out."""
    return {
        name.removeprefix("seconds/"): float(value)
        for name, value in line.items()
        if name.startswith("seconds/") and type(value) in (int, float) and 0 <= value < _LONG
    }
