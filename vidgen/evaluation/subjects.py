"""What is measured: clips of a folder, what a run makes, or what it makes of real clips.

Each is opened and counted before anything long begins; its clips are made or read as they are
measured.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

import numpy as np

from vidgen import sampling
from vidgen.errors import ConfigError
from vidgen.evaluation.windows import Path, Windows, WindowSpec, size_of
from vidgen.frame_size import Size, height_width, normal
from vidgen.models import conditions
from vidgen.runtime.checkpoint import Checkpoints

_SAMPLED = 16  # clips of a run that are made at once


class Subject(TypedDict, total=False):
    """Which generated clips were measured; JSON data.

    Attributes:
      kind: "run" or "clips".
      path: Where they are.
      step: Of a run: the step of its checkpoint.
      seeds: Of a run: the first seed and the one after the last.
      labels: Of a run: "by seed" or "as the real clips".
      start: Of a run: the first frame of each video that was measured; not there for 0.
      options: Of a run: sampling options other than it was trained with.
      reconstructions: Of a run: whether the real clips, encoded and decoded, were measured instead
        of samples.
      fingerprint: Of clips: changes with any of them.
      half: Of clips: 1 for half of the real ones.
      stride: Of clips: every n-th frame was taken, where that is not the real clips' stride.
      clips: Of clips and of reconstructions: how many windows were measured.
      change: How they were spoilt first.
    """

    kind: str
    path: str
    step: int
    seeds: list[int]
    labels: str
    start: int
    options: Mapping[str, Any]
    reconstructions: bool
    fingerprint: str
    half: int | None
    stride: int
    clips: int
    change: str


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is sampled, and how its training read clips."""

    sampler: sampling.Sampler
    stride: int
    fps: float | None  # resampled to
    rate: float  # frames per second of what it makes
    options: dict[str, Any]  # other than it was trained with

    @property
    def reconstructs(self) -> bool:
        """Whether it can encode clips and decode them."""
        return self.sampler.generator.reconstructs or self.sampler.generator.encodes


@dataclasses.dataclass(frozen=True)
class Generated:
    """The clips that are measured.

    Attributes:
      clips: Makes or reads them, once.
      count: How many there are.
      available: The same in words.
      subject: For the report.
      fps: Frames per second.
      frame_size: Height and width before they are resized.
    """

    clips: Iterator[np.ndarray]
    count: int
    available: str
    subject: Subject
    fps: float
    frame_size: tuple[int, int]


def load_run(
    subject: Path,
    step: int | str | None,
    size: Size | None,
    frames: int,
    options: Mapping[str, Any] | None = None,
    start: int = 0,
) -> Run | None:
    """Loads the sampler of a run; None where the subject is something else.

    Raises:
      ConfigError: The run cannot make what is asked for.
    """
    folder = pathlib.Path(subject)
    if not (folder / "checkpoints").is_dir():
        for name, value in {"step": step, **(options or {})}.items():
            if value is not None:
                raise ConfigError(f"--{name}={value}", f"{folder} is no run: it has no checkpoints")
        return None
    sampler = sampling.load(folder, step, **(options or {}))
    if lack := conditions.needed(sampler.generator.conditions):
        raise ConfigError(
            f"this run was never trained without the condition {lack[0]!r}; evaluate gives none",
            "vidgen ask RUN DATA --save=made.npz, and evaluate that",
        )
    if size is not None and normal(size) != sampler.size:
        raise ConfigError(f"--size={size}", f"the run makes {sampler.size}")
    if not 0 <= start < 2**30:
        raise ConfigError(f"--start={start}", "a frame of the videos, from 0 to 2^30")
    if sampler.limit and start + frames > sampler.limit:
        raise ConfigError(
            f"frames {start} to {start + frames} are measured, this run's videos end after "
            f"{sampler.limit}",
            "choose an earlier start, a protocol of shorter clips, or a run that makes longer ones",
        )
    kept = Checkpoints(folder / ("best" if step == "best" else "checkpoints"))
    meta = kept.meta(sampler.step)
    config = meta["config"]
    stride = int(config["data"]["stride"] or meta["stride"])  # 0: chosen by the clips
    # `sampling.fps` says how fast samples play; without it they have the rate of the clips, of
    # which training took every n-th frame.
    rate = sampler.fps if config["sampling"]["fps"] else sampler.fps / stride
    return Run(sampler, stride, config["data"]["fps"] or None, rate, dict(options or {}))


def window_spec(
    frames: int,
    run: Run | None,
    path: Path,
    *,
    size: Size | None,
    stride: int | None,
    fps: float | None,
) -> WindowSpec:
    """Returns which frames are taken of both sides: as asked, as trained, or of the first clip."""
    if run is not None and stride is None and fps is None:
        stride, fps = run.stride, run.fps
    if run is not None:
        size = run.sampler.size
    return WindowSpec(
        frames=frames,
        size=size_of(path) if size is None else normal(size),
        stride=1 if stride is None else stride,
        fps=fps,
    )


def windows_of_clips(windows: Windows, count: int, subject: Path) -> Generated:
    """Takes windows of clips as they are."""
    number = min(count, windows.count)
    return Generated(
        clips=windows.read(number),
        count=number,
        available=f"{windows.count} windows in {windows.clips} clips",
        subject={
            "kind": "clips",
            "path": str(subject),
            "fingerprint": windows.fingerprint,
            "half": windows.half,
            "clips": number,
        },
        fps=windows.fps,
        frame_size=windows.recorded_size(),
    )


def samples_of_run(run: Run, count: int, start: int, real: Windows, subject: Path) -> Generated:
    """Samples a run from frame `start` on: seeds from 0, classes as the real clips have them."""
    sampler, labels = run.sampler, None
    if sampler.classes and sampler.classes == real.classes:
        labels = real.labels(count)  # as many of each class as are real
    about: Subject = {
        "kind": "run",
        "path": str(subject),
        "step": sampler.step,
        "seeds": [0, count],
        "labels": "by seed" if labels is None else "as the real clips",
    }
    if run.options:
        about["options"] = run.options
    if start:
        about["start"] = start
    return Generated(
        clips=_samples(sampler, count, start, real.spec.frames, labels),
        count=count,
        available=f"{count} (sampled at step {sampler.step})",
        subject=about,
        fps=run.rate,
        frame_size=height_width(sampler.size),
    )


def reconstructions_of_run(run: Run, count: int, real: Windows, subject: Path) -> Generated:
    """Takes the windows that are compared with themselves, encoded and decoded."""
    number, sampler, labels = min(count, real.count), run.sampler, None
    if sampler.generator.encodes and sampler.generator.classes:  # a codec asks for none
        if sampler.classes != real.classes:
            raise ConfigError(
                f"--reconstructions: the run's classes are {', '.join(sampler.classes)}",
                f"clips of these; the real ones' are {', '.join(real.classes) or 'none'}",
            )
        labels = real.labels(number)

    def clips() -> Iterator[np.ndarray]:
        windows = real.read(number)
        for first in range(0, number, _SAMPLED):
            some = np.stack(list(itertools.islice(windows, _SAMPLED)))
            yield from sampler.reconstruct(some, labels and labels[first : first + _SAMPLED])

    return Generated(
        clips=clips(),
        count=number,
        available=f"{number} reconstructions (step {sampler.step})",
        subject={
            "kind": "run",
            "path": str(subject),
            "step": sampler.step,
            "reconstructions": True,
            "clips": number,
        },
        fps=real.fps,
        frame_size=height_width(sampler.size),
    )


def _samples(
    sampler: sampling.Sampler, count: int, start: int, frames: int, labels: list[int] | None
) -> Iterator[np.ndarray]:
    for first in range(0, count, _SAMPLED):
        seeds = range(first, min(first + _SAMPLED, count))
        chosen = None if labels is None else labels[first : first + _SAMPLED]
        yield from sampler.sample(seeds, frames, start, chosen)
