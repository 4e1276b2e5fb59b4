"""What toy clips show, in words: captions as people might write them, and the plain facts.

rule = toy.scene(0, 7)
words(rule)["colour"], words(rule)["direction"]     # "green", "up"
caption(rule, seeds.stream(0, "toy caption", 7))    # "small green square going up slowly"
"""

import colorsys
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from vidgen import seeds
from vidgen.data.toy import CLASSES, RADIUS, SPEED, Scene, kept_scene

# Hues in degrees below which each begins to be called otherwise. Names of colours are no even
# parts of the circle: green is the widest, orange and yellow are narrow.
HUES = (
    (15, "red"),
    (45, "orange"),
    (70, "yellow"),
    (165, "green"),
    (200, "cyan"),
    (260, "blue"),
    (295, "purple"),
    (340, "pink"),
    (360, "red"),
)
COLOURS = tuple(dict.fromkeys(name for _, name in HUES))
SHAPES = {"disc": ("disc", "circle", "round shape"), "square": ("square", "box", "square shape")}
# {a} stands before colours; {towards} and {way} tell the direction, {pace} and {speed} the speed.
WORDINGS = (
    "{a} {colour} {shape} moves {towards}",
    "{size} {colour} {shape} going {way} {speed}",
    "there is {a} {colour} {shape}, {pace}, moving {towards}",
    "a {size} {colour} {shape}",
    "the {shape} is {colour} and moves {towards} {speed}",
    "a {pace} {colour} {shape} on a plain background",
    "{colour} {shape} heading {way}",
    "a {size} {shape} in {colour} that travels {towards} {speed}",
    "{a} {colour} {shape} begins by moving {speed} {towards} and bounces off the walls",
    "one {shape}, {colour} and {size}; it goes {towards}",
)
_TOWARDS = {"left": "to the left", "right": "to the right", "up": "upwards", "down": "downwards"}
_SPEEDS = {"slow": ("slow", "slowly"), "fast": ("quick", "quickly")}
_AT_ONCE = 4096  # captions that are written at once; those of more clips when they are asked for


def words(rule: Scene) -> dict[str, str]:
    """Returns what a scene shows, by plain names.

    Returns:
      `colour`, one of `COLOURS`; `shape`, one of `toy.CLASSES`; `size`, "small" or "large", and
      `speed`, "slow" or "fast", of the halves of what toy clips have; `direction`, "left", "right",
      "up" or "down", of the larger part of the movement before the first bounce.
    """
    down, right = rule.velocity.tolist()
    return {
        "colour": colour_name(rule.colour),
        "shape": CLASSES[rule.label],
        "size": ("small", "large")[rule.radius > sum(RADIUS) / 2],
        "direction": direction_name(down, right),
        "speed": ("slow", "fast")[math.hypot(down, right) > sum(SPEED) / 2],
    }


def colour_name(rgb: np.ndarray) -> str:
    """Returns the name of a colour, of `COLOURS`, of red, green and blue in [0, 1]."""
    hue = 360 * colorsys.rgb_to_hsv(*rgb.tolist())[0]
    return next(name for end, name in HUES if hue <= end)


def direction_name(down: float, right: float) -> str:
    """Returns "left", "right", "up" or "down", of the larger part of a movement."""
    if abs(right) > abs(down):
        return "right" if right > 0 else "left"
    return "down" if down > 0 else "up"


def caption(rule: Scene, rng: np.random.Generator) -> str:
    """Says what a scene shows, in one of several wordings, of which not all say everything.

    Colour and shape are in each.

    Args:
      rule: The scene.
      rng: Chooses the wording.
    """
    known = words(rule)
    wording, shape = rng.random(2).tolist()
    shapes = SHAPES[known["shape"]]
    pace, speed = _SPEEDS[known["speed"]]
    return WORDINGS[int(wording * len(WORDINGS))].format(
        a="an" if known["colour"][0] in "aeiou" else "a",
        colour=known["colour"],
        shape=shapes[int(shape * len(shapes))],
        size=known["size"],
        towards=_TOWARDS[known["direction"]],
        way=known["direction"],
        pace=pace,
        speed=speed,
    )


class Captions:
    """The column `caption` of toy clips: an array of texts, each written when it is asked for.

    It is indexed as an array `[N]` of objects is: a number gives text, numbers or a slice give an
    array of texts. Of more than 4,096 clips they give a column like this one.

    Args:
      seed: Seed of the clips.
      numbers: Of the clips, int `[N]`.
    """

    dtype, ndim = np.dtype(object), 1

    def __init__(self, seed: int, numbers: np.ndarray):
        self._seed, self._numbers = seed, numbers
        self.shape = numbers.shape

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, chosen: Any) -> Any:
        numbers = self._numbers[chosen]
        if numbers.ndim == 0:
            return self._text(int(numbers))
        if len(numbers) > _AT_ONCE:
            return Captions(self._seed, numbers)
        return np.array([self._text(n) for n in numbers.tolist()], object)

    def __iter__(self) -> Iterator[str]:
        return map(self._text, self._numbers.tolist())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("captions of toy clips lie in no array that could be shared")
        return np.array(list(self), dtype or object)

    def tolist(self) -> list[str]:
        """Returns all texts."""
        return list(self)

    def _text(self, number: int) -> str:
        rng = seeds.stream(self._seed, "toy caption", number)
        return caption(kept_scene(self._seed, number), rng)
