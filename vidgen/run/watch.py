"""Watching a run while it trains: cheap figures of fixed seeds, and alarms in plain words.

NumPy alone: nothing to compile, and a hundred clips take a fraction of a second. What the figures
mean and how the alarms were calibrated is in docs/metrics.md.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from vidgen.metrics import distances

CLIPS = 32  # of each set that is compared
_FIELDS = 8  # clips are described in 8 x 8 fields
_RECENT = 50  # steps that alarms about the training look back on
_EARLY = 3  # checks before figures of samples raise an alarm: all generators begin alike


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Where alarms go off; from the runs of docs/metrics.md.

    Attributes:
      winning: Mean share of pairs that the discriminator tells apart.
      losing: The same, where it is at a loss.
      gap: Logits between real and generated clips, beyond which it wins without effort.
      penalty: Lowest and highest share of the penalties in the discriminator's loss.
      jump: A gradient's norm over its usual one.
      alike: Distance of samples over that of real clips, below which they are one.
      least: Levels of 255 between real clips, below which they are one themselves.
      frozen: Motion of samples over that of real clips.
      ignored: What motion noise changes, over what a real clip's motion changes.
      loop: How far frames come back, beyond what real clips do.
    """

    winning: float = 0.98
    losing: float = 0.35
    gap: float = 5.0
    penalty: tuple[float, float] = (1e-4, 0.95)
    jump: float = 30.0
    alike: float = 0.2
    least: float = 2.0
    frozen: float = 0.05
    ignored: float = 0.05
    loop: float = 0.6


@dataclasses.dataclass(frozen=True)
class Alarm:
    """Something that goes wrong.

    Attributes:
      cause: One of "winning", "losing", "penalty", "gradients", "content", "motion", "loop", "nan".
      seen: What was seen.
      help: What may help.
    """

    cause: str
    seen: str
    help: str


def describe(video: np.ndarray) -> dict[str, np.ndarray]:
    """Describes clips coarsely.

    Args:
      video: uint8 `[N, T, H, W, 3]`, T at least 2, sides at least 8.

    Returns:
      float64, in levels of 255: `still` `[N, 192]`, the mean over time of 8x8 fields; `change`
      `[N, 192]`, the mean absolute difference of neighbouring frames in them; `moves` `[N]`, its
      mean; `period` `[N]` in [0, 1], how far frames come back to one before.
    """
    fields = _fields(video)
    t = fields.shape[1]
    change = np.abs(np.diff(fields, axis=1)).mean(1)
    lags = np.stack(
        [np.abs(fields[:, lag:] - fields[:, :-lag]).mean((1, 2)) for lag in range(1, t // 2 + 1)], 1
    )
    highest = np.maximum.accumulate(lags, 1)
    period = np.where(highest[:, -1] < 0.5, 0.0, (1 - lags / np.maximum(highest, 0.5)).max(1))
    return {
        "still": fields.mean(1),
        "change": change,
        "moves": change.mean(1),
        "period": period,
    }


def _fields(video: np.ndarray) -> np.ndarray:
    """Returns the means of 8x8 fields of frames, `[N, T, 192]` in levels of 255."""
    n, t, h, w, _ = video.shape
    rows = np.arange(_FIELDS) * h // _FIELDS
    columns = np.arange(_FIELDS) * w // _FIELDS
    sums = np.add.reduceat(np.add.reduceat(video.astype(np.float64), rows, 2), columns, 3)
    size = np.diff([*rows, h])[:, None, None] * np.diff([*columns, w])[None, :, None]
    return (sums / size).reshape(n, t, -1)


def compare(
    real: Mapping[str, np.ndarray],
    video: np.ndarray,
    moved: np.ndarray,
) -> dict[str, float]:
    """Compares samples with real clips.

    Args:
      real: `describe` of real clips.
      video: Samples of fixed seeds, uint8 `[N, T, H, W, 3]`.
      moved: The same with other motion noise.

    Returns:
      `distance`: Frechet distance of stills and changes, over the variance of the real clips';
      `content`: how far samples are from one another, over real clips; `content_real`: the latter
      in levels of 255; `motion`: how much samples move, over real clips; `period`, `period_real`;
      and `noise`: how much samples change with their motion noise, over what a real clip's frames
      change.
    """
    fake = describe(video)
    both = [np.concatenate([x["still"], 4 * x["change"]], 1) for x in (real, fake)]
    apart = [_apart(x["still"]) for x in (real, fake)]
    moves = max(float(real["moves"].mean()), 1e-3)
    return {
        "distance": distances.frechet(*both) / max(float(both[0].var(0).sum()), 1e-3),
        "content": apart[1] / max(apart[0], 1e-3),
        "content_real": apart[0],
        "motion": float(fake["moves"].mean()) / moves,
        "period": float(fake["period"].mean()),
        "period_real": float(real["period"].mean()),
        "noise": float(np.abs(_fields(video) - _fields(moved)).mean()) / moves,
    }


def _apart(x: np.ndarray) -> float:
    """Returns the mean absolute difference of two rows of `[N, D]`."""
    gaps = np.abs(x[:, None] - x[None]).mean(-1)
    return float(gaps.sum() / (len(x) * (len(x) - 1)))


class Watch:
    """Takes in what a training shows and says what goes wrong.

    An alarm is given once, and again only after it has been clear for a check in between.

    Args:
      thresholds: Where alarms go off.
    """

    def __init__(self, thresholds: Thresholds | None = None):
        self.thresholds = thresholds or Thresholds()
        self._recent: collections.deque[dict[str, float]] = collections.deque(maxlen=_RECENT)
        self._checks = 0
        self._on: set[str] = set()

    def step(self, metrics: Mapping[str, float]) -> None:
        """Takes in the metrics of a step."""
        self._recent.append({name: float(value) for name, value in metrics.items()})

    def check(self, figures: Mapping[str, float]) -> list[Alarm]:
        """Takes in what `compare` found, and returns the alarms that are new."""
        self._checks += 1
        alarms = [*self._of_steps()]
        if self._checks > _EARLY:
            alarms += self._of_samples(figures)
        new = [alarm for alarm in alarms if alarm.cause not in self._on]
        self._on = {alarm.cause for alarm in alarms}
        return new

    def _of_steps(self) -> Iterable[Alarm]:
        recent, thresholds = list(self._recent), self.thresholds
        if len(recent) < _RECENT or "dis/accuracy" not in recent[0]:
            return
        # Not every kind of step has every metric.
        names = set.intersection(*(set(m) for m in recent))
        mean = {name: float(np.mean([m[name] for m in recent])) for name in names}
        if mean.get("skipped", 0.0):
            yield Alarm(
                "nan",
                "steps were left out because something was not finite",
                "lower config.optimizer.learning_rate or raise config.objective.r1 and r2",
            )
            return
        gap, accuracy = mean["dis/real"] - mean["dis/fake"], mean["dis/accuracy"]
        if accuracy >= thresholds.winning and gap >= thresholds.gap:
            yield Alarm(
                "winning",
                f"the discriminator wins: it tells {accuracy:.0%} of the pairs, {gap:.1f} logits "
                "apart",
                "raise config.objective.r1 and r2, or lower config.optimizer.discriminator_rate",
            )
        if accuracy <= thresholds.losing:
            yield Alarm(
                "losing",
                f"the discriminator loses: it tells {accuracy:.0%} of the pairs",
                "lower config.optimizer.learning_rate, or the penalties",
            )
        whole = mean.get("dis/penalty", 0.0) + abs(mean["dis/loss"])
        penalty = mean.get("dis/penalty", 0.0) / max(whole, 1e-12)
        has = "dis/penalty" in mean  # not every method has
        lowest, highest = thresholds.penalty
        if has and not lowest <= penalty <= highest:
            yield Alarm(
                "penalty",
                f"the penalties are {penalty:.2%} of the discriminator's loss",
                f"{'lower' if penalty > highest else 'raise'} config.objective.r1 and r2",
            )
        for name in ("gen/grad", "dis/grad"):
            norms = np.array([m[name] for m in recent if name in m])
            if not norms.size:
                continue
            jump = norms.max() / max(float(np.median(norms)), 1e-12)
            if jump >= thresholds.jump:
                yield Alarm(
                    "gradients",
                    f"{name} jumps to {jump:.0f} times what is usual",
                    "lower config.optimizer.learning_rate",
                )
                break

    def _of_samples(self, figures: Mapping[str, float]) -> Iterable[Alarm]:
        thresholds = self.thresholds
        if figures["content_real"] < thresholds.least:
            yield Alarm(
                "content",
                f"the real clips are alike: {figures['content_real']:.1f} levels of 255 apart",
                "see what `vidgen data inspect` finds in config.data.path",
            )
        elif figures["content"] < thresholds.alike:
            yield Alarm(
                "content",
                f"the samples are alike: {figures['content']:.0%} as far apart as real clips",
                "raise config.objective.r1 and r2, or go back to an earlier checkpoint",
            )
        if figures["motion"] < thresholds.frozen:
            yield Alarm(
                "motion",
                f"the samples hardly move: {figures['motion']:.0%} of what real clips do",
                "see whether the real clips move: a lower config.data.fps, or a stride, may help",
            )
        elif figures["noise"] < thresholds.ignored:
            yield Alarm(
                "motion",
                "the samples move alike whatever the motion noise: it changes "
                f"{figures['noise']:.0%} of what moves in real clips",
                "raise config.generator.motion, or the penalties",
            )
        if figures["period"] > figures["period_real"] + thresholds.loop:
            yield Alarm(
                "loop",
                f"the samples come back to where they were: {figures['period']:.0%} of the way, "
                f"real clips {figures['period_real']:.0%}",
                "lengthen config.generator.periods, or config.data.frames",
            )
