"""Toy clips, made by rule: one disc or square that bounces over a plain background.

Each clip is drawn by arithmetic from its number alone, so there is no file to fetch, any frame rate
and length is true, and what a generator makes of them can be checked (`vidgen.metrics.toy`).
"""

import colorsys
import copy
import dataclasses
import functools
from typing import Any

import numpy as np

from vidgen import frame_size, seeds
from vidgen.errors import ConfigError

CLASSES = ("disc", "square")

# As shares of the frame's side, the shorter one. A speed of 0.06 is two pixels a frame at 32x32.
RADIUS = (0.16, 0.25)
SPEED = (0.015, 0.06)


@dataclasses.dataclass(frozen=True)
class Scene:
    """The rule of one clip, in shares of the frame's shorter side and of full intensity.

    Attributes:
      label: Index into `CLASSES`.
      radius: Half the side of the square, or the radius of the disc.
      colour: RGB of the object in [0, 1].
      background: RGB of the background in [0, 1].
      start: Centre (y, x) at frame 0, in a square frame; others are as much longer.
      velocity: Movement (y, x) per frame, before bouncing.
    """

    label: int
    radius: float
    colour: np.ndarray
    background: np.ndarray
    start: np.ndarray
    velocity: np.ndarray

    def centres(self, times: np.ndarray, frame: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
        """Returns the centre at the given frames, bounced off the walls; float64 `[T, 2]`.

        Args:
          times: Frame numbers `[T]`.
          frame: Height and width, of which the shorter is 1.
        """
        room = np.array(frame) - 2.0 * self.radius
        first = (self.start - self.radius) * (room / (1.0 - 2.0 * self.radius))
        path = first + np.asarray(times, float)[:, None] * self.velocity
        # A ball between two walls is a triangle wave: unfold the room, then fold it back.
        return self.radius + room - np.abs(np.mod(path, 2 * room) - room)


def scene(seed: int, index: int) -> Scene:
    """Draws the rule of clip `index`: a pure function of both arguments."""
    rng = seeds.stream(seed, "toy", index)
    radius = rng.uniform(*RADIUS)
    angle = rng.uniform(0, 2 * np.pi)
    # Bright and saturated over darker and duller: any two hues stay apart.
    colour = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.6, 1), rng.uniform(0.75, 1))
    background = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.2, 0.7), rng.uniform(0.1, 0.4))
    return Scene(
        label=index % len(CLASSES),
        radius=radius,
        colour=np.array(colour),
        background=np.array(background),
        start=rng.uniform(radius, 1 - radius, 2),
        velocity=rng.uniform(*SPEED) * np.array([np.sin(angle), np.cos(angle)]),
    )


# A clip that was drawn is often described next.
kept_scene = functools.lru_cache(maxsize=1024)(scene)


def render(rule: Scene, times: np.ndarray, size: frame_size.Size) -> np.ndarray:
    """Draws a scene with soft (antialiased) edges.

    Args:
      rule: The scene.
      times: Frame numbers `[T]`; fractions are allowed.
      size: Of the frames in pixels: the side of squares, or `(height, width)`.

    Returns:
      Frames, uint8 `[T, H, W, 3]`.
    """
    height, width = frame_size.height_width(size)
    side = min(height, width)
    centres = rule.centres(times, (height / side, width / side)) * side
    dy = np.abs(np.arange(height) + 0.5 - centres[:, 0, None])[:, :, None]
    dx = np.abs(np.arange(width) + 0.5 - centres[:, 1, None])[:, None, :]
    radius = rule.radius * side
    if rule.label == CLASSES.index("disc"):
        cover = np.clip(radius - np.sqrt(dy**2 + dx**2) + 0.5, 0, 1)
    else:
        cover = np.clip(radius - dy + 0.5, 0, 1) * np.clip(radius - dx + 0.5, 0, 1)
    frames = rule.background + cover[..., None] * (rule.colour - rule.background)
    return np.round(255 * frames).astype(np.uint8)


_MOST = 10**8  # clips, of each of which some numbers are kept in memory


class ToySource:
    """Toy clips as a store: what `vidgen.data.stream.Clips` reads.

    Args:
      clips: How many different clips there are.
      frames: Frames of each.
      size: Of the frames in pixels, at least 8: the side of squares, or `(height, width)`.
      seed: Another seed gives other clips of the same kind.

    Attributes:
      columns: `label`, int32 `[N]`, and `caption`, what each clip shows in words, as
        `vidgen.data.toy_captions.Captions`: written when they are asked for.

    Raises:
      ConfigError: A number is out of range.
    """

    classes: tuple[str, ...] = CLASSES
    fps = 10.0
    skipped: tuple = ()

    def __init__(
        self, clips: int = 65536, frames: int = 8, size: frame_size.Size = 32, seed: int = 0
    ):
        from vidgen.data.toy_captions import Captions  # which imports this module

        least_side = min(frame_size.height_width(size))
        bounds = {
            "clips": (clips, 1, _MOST),
            "frames": (frames, 1, 2**20),
            "size": (least_side, 8, frame_size.LARGEST),
        }
        for name, (value, least, most) in bounds.items():
            if not least <= value <= most:
                raise ConfigError(f"toy clips: {name} is {value}, must be {least} to {most}")
        self.frames, self.size, self.seed = frames, frame_size.normal(size), seed
        self.lengths = np.full(clips, frames, np.int64)
        self.labels = np.arange(clips, dtype=np.int32) % len(CLASSES)
        captions = Captions(seed, np.arange(clips, dtype=np.int32))
        self.columns: dict[str, Any] = {"label": self.labels, "caption": captions}
        self.fingerprint = f"toy-1-{seed}-{clips}-{frames}-{frame_size.name(size)}"

    def without_classes(self) -> "ToySource":
        """Returns the same clips without classes."""
        plain = copy.copy(self)
        plain.classes = ()
        plain.columns = {name: x for name, x in self.columns.items() if name != "label"}
        return plain

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        """Draws clip `index`; uint8 `[T, H, W, 3]`."""
        if not 0 <= index < len(self):
            raise IndexError(f"toy clip {index} of {len(self)}")
        return render(kept_scene(self.seed, index), np.arange(self.frames), self.size)
