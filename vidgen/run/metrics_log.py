"""The metrics of a run: metrics.jsonl, events.jsonl, TensorBoard."""

import contextlib
import functools
import io
import json
import math
import os
import pathlib
from typing import Any

import numpy as np

from vidgen import config as configs
from vidgen.errors import StorageError


class RunLog:
    """Appends metrics to metrics.jsonl and TensorBoard.

    Args:
      folder: The run's folder.
      step: The step the run goes on from; what an interrupted run had logged beyond it is dropped,
        so that no step stands there twice.
      config: The run's, which TensorBoard shows as text and as hyperparameters.

    Attributes:
      seconds: What the parts of `Clock` took up to there.
    """

    def __init__(self, folder: pathlib.Path, step: int, config: configs.Config | None = None):
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
        self.step, self.config = step, config

    @functools.cached_property
    def events(self) -> Any:
        """The writer of TensorBoard's files; its import takes half a second, so not at once."""
        from tensorboardX import SummaryWriter

        folder = str(self.path.with_name("tensorboard"))
        events = SummaryWriter(folder, purge_step=self.step + 1)
        if self.config is not None and not self.step:  # later starts of the run find it there
            _write_config(events, configs.flatten(self.config))
        return events

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
        with contextlib.suppress(OSError):  # every line was flushed, or its error raised
            self.file.close()
            if "events" in vars(self):
                self.events.close()


def _write_config(events: Any, fields: dict[str, Any]) -> None:
    """Writes a config as a table and as hyperparameters.

    Not by `add_hparams`, which writes into a folder of its own, as if it were another run.
    """
    from tensorboardX import summary

    rows = [f"| {name} | {value!r} |" for name, value in sorted(fields.items())]
    events.add_text("config", "\n".join(["| field | value |", "|---|---|", *rows]), 0)
    plain = {n: v if isinstance(v, (bool, int, float)) else str(v) for n, v in fields.items()}
    for part in summary.hparams(plain, {"gen/loss": 0.0}):
        events.file_writer.add_summary(part, 0)


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


def last(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the last line of metrics.jsonl; empty where there is none."""
    return (_lines(folder / "metrics.jsonl") or [{}])[-1]


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
