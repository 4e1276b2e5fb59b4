"""TensorBoard's files of a run.

Of tensorboardX what makes summaries and sums them up, not its writer: that hands records to a
thread, which a full disk kills without a word, and once its queue is full the training waits for it
for ever (seen with 2.6.5).
"""

import io
import os
import pathlib
import socket
import struct
import time
from typing import Any

import numpy as np

from vidgen.run.appending import Appending

_MOST = 64 * 2**20  # bytes that may wait for space


class Events:
    """Makes the records of one file `events.out.tfevents.*`, and appends them.

    Args:
      folder: Of all files of the run; it exists.
      step: The step the run goes on from: what other files have beyond it is not shown.
      fields: The config by field, written as a table and as hyperparameters; None for not at all.

    Attributes:
      file: The file.
    """

    def __init__(self, folder: pathlib.Path, step: int, fields: dict[str, Any] | None = None):
        from tensorboardX.proto import event_pb2, summary_pb2
        from tensorboardX.record_writer import masked_crc32c

        self._sum = masked_crc32c
        self._event: Any = event_pb2  # names of protocols are made at run time
        self._summary: Any = summary_pb2
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self.file = Appending(folder / name, most=_MOST)
        begin = self._event.SessionLog(status=self._event.SessionLog.START)
        self.file.waiting.append(self._record(file_version="brain.Event:2"))
        self.file.waiting.append(self._record(step=step + 1, session_log=begin))
        if fields is not None:
            self.file.waiting.extend(self._record(summary=s) for s in _config(fields))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Adds figures of a step.

        Raises:
          OSError: They could not be written, and wait.
        """
        value = self._summary.Summary.Value
        each = [value(tag=name, simple_value=number) for name, number in values.items()]
        self._add(step, each)

    def video(self, step: int, name: str, frames: np.ndarray, fps: float) -> None:
        """Adds a video as an animated GIF.

        `add_video` of tensorboardX writes nothing without moviepy, and says nothing; a GIF as an
        encoded image shows, moving, in the Images tab.

        Args:
          step: The step.
          name: Tag.
          frames: uint8 `[T, H, W, 3]`.
          fps: Frames per second.

        Raises:
          OSError: It could not be written, and waits.
        """
        from PIL import Image

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
        image = self._summary.Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=data.getvalue()
        )
        self._add(step, [self._summary.Summary.Value(tag=name, image=image)])

    def _add(self, step: int, values: list[Any]) -> None:
        self.file.add(self._record(step=step, summary=self._summary.Summary(value=values)))

    def _record(self, **about: Any) -> bytes:
        """Returns an event as the file has it: length, its check, the event, its check."""
        data = self._event.Event(wall_time=time.time(), **about).SerializeToString()
        length = struct.pack("<Q", len(data))
        checks = [struct.pack("<I", self._sum(part)) for part in (length, data)]
        return length + checks[0] + data + checks[1]


def _config(fields: dict[str, Any]) -> list[Any]:
    """Returns the summaries that show a config as a table and as hyperparameters.

    In the run's own file: `add_hparams` writes into another folder, as if it were another run.
    """
    from tensorboardX import summary

    rows = [f"| {name} | {value!r} |" for name, value in sorted(fields.items())]
    table = "\n".join(["| field | value |", "|---|---|", *rows])
    plain = {n: v if isinstance(v, (bool, int, float)) else str(v) for n, v in fields.items()}
    return [summary.text("config", table), *summary.hparams(plain, {"gen/loss": 0.0})]
