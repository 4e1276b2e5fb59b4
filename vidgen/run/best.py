"""The best checkpoint of a run, by a figure of its samples."""

import json
import logging
import math
import pathlib

from vidgen.run import artifacts
from vidgen.runtime.checkpoint import Checkpoints
from vidgen.video import atomic

_LOG = logging.getLogger("vidgen")


class Best:
    """Keeps the best checkpoint of a run, in `best/`, besides the newest.

    Hard links in a folder of their own, and not Orbax's `AnyPreservationPolicy([LatestN, BestN])`:
    with that the best stands among `checkpoints/`, from which a start takes the newest that
    verifies and sets all later ones aside, so that one damaged checkpoint could throw a run back to
    its best, of long ago; and which is best would follow from metrics in every checkpoint, which a
    run without `training.keep_best`, or of an older version, has not saved. A link costs no space.

    Args:
      workdir: The run's folder.
      figure: What decides: "distance", the lower the better; another figure of `watch.compare`,
        the nearer to 1 the better; "" for none.
    """

    def __init__(self, workdir: pathlib.Path, figure: str):
        self.figure, self._folder = figure, workdir / "best"
        self._note, self._score = self._folder / "best.json", float("inf")
        if figure and self._note.is_file():  # a pipe could be waited for without end
            try:
                self._score = self._score_of(json.loads(self._note.read_text()))
            # Damaged in some way, or of another figure.
            except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
                _LOG.warning("%s: holds no %s; the next figures are taken for the best", self._note,
                             figure)  # fmt: skip

    def _score_of(self, figures: dict[str, float]) -> float:
        value = float(figures[self.figure])
        if not math.isfinite(value):
            raise ValueError(f"{self.figure} is {value}")
        return value if self.figure == "distance" else abs(value - 1)

    def improved(self, figures: dict[str, float]) -> bool:
        """Tells whether figures are better than those of the checkpoint that is kept."""
        if not self.figure or not math.isfinite(figures.get(self.figure, math.nan)):
            return False
        return self._score_of(figures) < self._score

    def keep(self, step: int, figures: dict[str, float], checkpoints: Checkpoints) -> None:
        """Keeps a checkpoint that is on disk in place of the one before.

        Raises:
          StorageError: It could not be written.
        """
        if step not in checkpoints.steps():  # there was no space for it
            return
        atomic.make_way(self._folder, folder=True)
        with atomic.storage(self._folder):
            checkpoints.link(step, self._folder)
            artifacts.write_json(self._note, {"step": step, **figures})
            for old in Checkpoints(self._folder).steps():
                if old != step:
                    atomic.remove(self._folder / str(old))
        self._score = self._score_of(figures)
