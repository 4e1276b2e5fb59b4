"""What a run writes about itself: metrics.jsonl, TensorBoard events, the terminal."""

import contextlib
import io
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vidgen.errors import StorageError


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
    """

    def __init__(self, folder: pathlib.Path, step: int):
        from tensorboardX import SummaryWriter  # takes half a second

        self.path = folder / "metrics.jsonl"
        try:
            if self.path.exists():
                kept = [line for line in self.path.read_text().splitlines() if _upto(line, step)]
                temporary = self.path.with_name(".metrics.jsonl")
                temporary.write_text("".join(line + "\n" for line in kept))
                os.replace(temporary, self.path)
            self.file = self.path.open("a")
            self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        except OSError as error:
            raise StorageError(f"{folder} cannot be written: {error.strerror}") from error

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Writes one line: `{"step": ..., name: value, ...}`."""
        try:
            self.file.write(json.dumps({"step": step, **values}) + "\n")
            self.file.flush()
            for name, value in values.items():
                self.events.add_scalar(name, value, step)
        except OSError as error:
            raise StorageError(f"{self.path} could not be written: {error.strerror}") from error

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
        from PIL import Image
        from tensorboardX.proto import summary_pb2

        protocol: Any = summary_pb2  # its names are made at run time
        writer: Any = self.events.file_writer
        pictures = [Image.fromarray(frame) for frame in frames]
        data = io.BytesIO()
        pictures[0].save(
            data,
            "GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=max(round(1000 / fps), 20),
            loop=0,
        )
        height, width = frames.shape[1:3]
        image = protocol.Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=data.getvalue()
        )
        value = protocol.Summary.Value(tag=name, image=image)
        writer.add_summary(protocol.Summary(value=[value]), step)

    def close(self) -> None:
        """Flushes and closes both files."""
        self.file.close()
        self.events.close()


def _upto(line: str, step: int) -> bool:
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False  # the half line of a run that was killed


class Terminal:
    """A progress bar on a terminal; elsewhere a plain line now and then.

    Args:
      total: Number of steps.
      done: Steps done before this start.
      unit: What a step counts, for the rate: `clips`.
      per_step: Units of one step.
    """

    def __init__(self, total: int, done: int, unit: str, per_step: int):
        self.total, self.done, self.unit, self.per_step = total, done, unit, per_step
        self.first, self.start = done, 0.0
        self.said = time.monotonic()
        self.bar, self.text = None, ""
        if sys.stderr.isatty():
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
        elif (now - self.said > 10 and rate) or done == self.total:
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
