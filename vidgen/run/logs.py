"""What a run writes about itself: metrics.jsonl, TensorBoard events, the terminal."""

import contextlib
import functools
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vidgen.errors import StorageError
from vidgen.video.encoding import encode


def write_json(path: pathlib.Path, data: dict[str, Any]) -> None:
    """Writes a JSON file whole or not at all.

    Raises:
      StorageError: The disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(data, indent=2) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(f"{path} could not be written: {error.strerror}") from error


class RunLog:
    """Appends metrics to metrics.jsonl and TensorBoard.

    Args:
      folder: The run's folder.
      step: The step the run goes on from; what an interrupted run had logged beyond it is dropped,
        so that no step stands there twice.

    Attributes:
      seconds: What the parts of `Clock` took up to there.
    """

    def __init__(self, folder: pathlib.Path, step: int):
        self.path = folder / "metrics.jsonl"
        self.seconds: dict[str, float] = {}
        try:
            for left in (*folder.glob(".run.json.*"), *folder.glob("samples/.*.tmp*")):
                left.unlink()  # half written when a start was killed
            old = _lines(self.path)
            kept = [line for line in old if line["step"] <= step]
            if kept:
                self.seconds = _seconds(kept[-1])
                before, after = sum(self.seconds.values()), sum(_seconds(old[-1]).values())
                self.seconds["lost"] = self.seconds.get("lost", 0.0) + max(after - before, 0.0)
            for path in (self.path, folder / "events.jsonl"):
                if path.exists():
                    _rewrite(path, [line for line in _lines(path) if line["step"] <= step])
            self.file = self.path.open("a")
            (folder / "tensorboard").mkdir(exist_ok=True)
        except OSError as error:
            raise StorageError(f"{folder} cannot be written: {error.strerror}") from error
        self.step = step

    @functools.cached_property
    def events(self) -> Any:
        """The writer of TensorBoard's files; its import takes half a second, so not at once."""
        from tensorboardX import SummaryWriter

        folder = str(self.path.with_name("tensorboard"))
        return SummaryWriter(folder, purge_step=self.step + 1)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Writes one line: `{"step": ..., name: value, ...}`; what is not finite as null."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        try:
            self.file.write(json.dumps({"step": step, **finite}) + "\n")
            self.file.flush()
            for name, value in finite.items():
                if value is not None:
                    self.events.add_scalar(name, value, step)
        except OSError as error:
            raise StorageError(f"{self.path} could not be written: {error.strerror}") from error

    def event(self, step: int, values: dict[str, Any]) -> None:
        """Appends to events.jsonl what happened at a step beyond the ordinary."""
        path = self.path.with_name("events.jsonl")
        try:
            with path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            raise StorageError(f"{path} could not be written: {error.strerror}") from error

    def video(self, step: int, name: str, frames: np.ndarray, fps: float) -> None:
        """Puts a video into TensorBoard as an animated GIF.

        `add_video` of tensorboardX writes nothing without moviepy, and says nothing; a GIF as an
        encoded image shows, moving, in the Images tab.

        Args:
          step: The step.
          name: Tag.
          frames: uint8 `[T, H, W, 3]`.
          fps: Frames per second.
        """
        from tensorboardX.proto import summary_pb2

        protocol: Any = summary_pb2  # its names are made at run time
        writer: Any = self.events.file_writer
        height, width = frames.shape[1:3]
        image = protocol.Summary.Image(
            height=height,
            width=width,
            colorspace=3,
            encoded_image_string=encode(frames, fps, ".gif"),
        )
        value = protocol.Summary.Value(tag=name, image=image)
        writer.add_summary(protocol.Summary(value=[value]), step)

    def close(self) -> None:
        """Flushes and closes both files."""
        with contextlib.suppress(OSError):  # every line was flushed, or its error raised
            self.file.close()
            if "events" in vars(self):
                self.events.close()


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the whole lines of a log; the half line of a run that was killed is left out."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            data = json.loads(line)
        except ValueError:
            continue
        if isinstance(data, dict) and "step" in data:
            lines.append(data)
    return lines


def skipped_up_to(folder: pathlib.Path, step: int) -> int:
    """Returns how many steps one after another, `step` the last, events.jsonl has as skipped."""
    skipped = {line["step"] for line in _lines(folder / "events.jsonl") if "skipped" in line}
    count = 0
    while step - count in skipped:
        count += 1
    return count


def _rewrite(path: pathlib.Path, lines: list[dict[str, Any]]) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.replace(temporary, path)


def _seconds(line: dict[str, Any]) -> dict[str, float]:
    return {
        name.removeprefix("seconds/"): value
        for name, value in line.items()
        if name.startswith("seconds/")
    }


class Clock:
    """Accounts for a run's time: at every moment one part of it runs, so they sum to the whole.

    Parts: `startup`, `compile` (the first step), `data` (waiting for clips), `step`, `sample`,
    `save`, `other` (logs), and `lost`: what was done after the checkpoint that a start went on
    from. They count on over all starts of a run.
    """

    def __init__(self):
        self.parts: dict[str, float] = {}
        self.part, self.since = "startup", time.monotonic()

    def add(self, parts: dict[str, float]) -> None:
        """Adds what earlier starts took."""
        for name, value in parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + value

    def enter(self, part: str) -> None:
        """Ends the part that runs and begins another."""
        now = time.monotonic()
        self.parts[self.part] = self.parts.get(self.part, 0.0) + now - self.since
        self.part, self.since = part, now

    def total(self) -> float:
        """Returns the seconds of all parts."""
        self.enter(self.part)
        return sum(self.parts.values())

    def seconds(self) -> dict[str, float]:
        """Returns `seconds/<part>` and `goodput`, the share of `step` in the whole."""
        total = self.total()
        parts = {f"seconds/{name}": value for name, value in sorted(self.parts.items())}
        return {**parts, "goodput": self.parts.get("step", 0.0) / total if total else 0.0}


class Terminal:
    """A progress bar on a terminal; elsewhere a plain line now and then.

    Args:
      total: Number of steps.
      done: Steps done before this start.
      unit: What a step counts, for the rate: `clips`.
      per_step: Units of one step.
      quiet: Show nothing, where another process does.
    """

    def __init__(self, total: int, done: int, unit: str, per_step: int, quiet: bool = False):
        self.total, self.done, self.unit, self.per_step = total, done, unit, per_step
        self.first, self.start = done, 0.0
        self.said = time.monotonic()
        self.bar, self.text, self.quiet = None, "", quiet
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self.bar = Progress(
                TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                BarColumn(None),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.task = self.bar.add_task("", total=total, completed=done, text="compiling")
            self.bar.start()

    def rate(self) -> float:
        """Returns units per second since the first step of this start; 0 until the second."""
        steps = self.done - self.first
        return steps * self.per_step / (time.monotonic() - self.start) if steps else 0.0

    def step(self, done: int, text: str) -> None:
        """Shows that `done` steps are done; the clock starts with the first, which compiles."""
        now = time.monotonic()
        if not self.start:
            self.start, self.first = now, done
        self.done, self.text = done, text or self.text
        rate = self.rate()
        text = f"{rate:.1f} {self.unit}/s  {self.text}"
        if self.bar is not None:
            self.bar.update(self.task, completed=done, text=text)
        elif not self.quiet and ((now - self.said > 10 and rate) or done == self.total):
            self.said = now
            left = (self.total - done) * self.per_step / rate / 60 if rate else 0.0
            say(f"step {done}/{self.total}  {text}  {left:.1f} min left")

    def close(self) -> None:
        """Leaves the bar where it is."""
        if self.bar is not None:
            self.bar.stop()


@contextlib.contextmanager
def bar() -> Iterator[Callable[[int, int, str], None]]:
    """Gives a `progress(done, total, text)` that draws a bar, or says nothing off a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total, text: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=None)
        yield lambda done, total, text: shown.update(
            task, completed=done, total=total, description=text
        )


def say(text: str) -> None:
    """Prints a line for the person who runs the program."""
    print(text, file=sys.stderr, flush=True)
