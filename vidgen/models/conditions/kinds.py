"""Kinds of conditions: what each can do, and the options that a config gives it."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from flax.core import FrozenDict
from jaxtyping import Array, Bool, Key, Shaped, UInt8

from vidgen.errors import ConfigError
from vidgen.frame_size import Size
from vidgen.models.conditions.caption import Caption
from vidgen.models.conditions.frames import Frames
from vidgen.models.conditions.maps import Seen
from vidgen.models.conditions.video import LowVideo

KINDS: dict[str, Any] = {"caption": Caption, "frames": Frames, "video": LowVideo}
_FLAX = ("parent", "name")

Conditions = tuple[tuple[str, Mapping[str, Any]], ...]  # names and options
Arrays = dict[str, Any]  # of one condition, by name: each `[B, ...]`
Given = dict[str, Arrays]  # by condition
Columns = Shaped[np.ndarray, "clips ..."]  # of what is known of clips


class Kind(Protocol):
    """What a kind of condition has, beside the `__call__` of its encoder.

    One that lies in space makes its arrays of clips: it has `draw` and `shown`. One that is read of
    a column has no place: it has `tokens` and `of_tokens`.

    Attributes:
      column: The column of a batch that its arrays are read of; "" where they are made of clips.
      without_frames: Arrays whose second axis has one length; that of others is how many frames, or
        captions, there are.
      drop: Share of the training clips that are shown without it.
    """

    column: str
    without_frames: tuple[str, ...]
    drop: float

    def check(self, size: Size) -> None:
        """Raises ConfigError if options do not fit each other or the size of frames."""
        ...

    def absent(self, count: int, size: Size, frames: int) -> Arrays:
        """Returns the arrays of `count` videos without it, of a window of `frames`, as NumPy's."""
        ...

    def draw(self, each: Key[Array, " batch"], video: Any) -> Arrays:
        """Makes arrays of training clips, uint8 `[B, T, H, W, 3]`."""
        ...

    def shown(self, arrays: Arrays) -> Bool[Array, " batch"]:
        """Tells of which videos it says something."""
        ...

    def tokens(self, texts: Any) -> Columns:
        """Returns the array of what a column says of clips, int32 `[N, ...]`, 0 for nothing."""
        ...

    def of_tokens(self, tokens: Any) -> Arrays:
        """Returns the arrays of videos with such tokens."""
        ...

    def only(self, arrays: Arrays, shown: Bool[Array, " batch"]) -> Arrays:
        """Leaves it out of videos where it is not shown."""
        ...

    def read(self, value: Any, count: int, size: Size) -> Arrays:
        """Returns the arrays of what a caller gives for `count` videos; raises ConfigError."""
        ...

    def of_clips(
        self, clips: UInt8[np.ndarray, "clips time height width 3"], known: Mapping[str, Any]
    ) -> Any:
        """Returns what a caller would give who wants videos as clips are; None for nothing.

        Args:
          clips: Of the size of the run.
          known: Columns of them, by name.
        """
        ...

    def window(self, arrays: Arrays, start: int, frames: int, beside: int = 0) -> Arrays:
        """Returns the arrays as a window of `frames` from frame `start` on sees them.

        Frames `beside` it on each side are computed with it.
        """
        ...

    def length(self, arrays: Arrays) -> int:
        """Returns how many frames it says something of; 0 where there is no end."""
        ...

    def see(self, arrays: Arrays, within: Any, size: Size) -> Seen | None:
        """Returns maps of frames, where it lies in space: what a discriminator sees of it."""
        ...


def kind(name: str, options: Mapping[str, Any]) -> Any:
    """Makes the module of a condition, a part of no other, for all but encoding.

    Raises:
      ConfigError: There is no such condition or option, or an option is of the wrong type.
    """
    return KINDS[name](**checked(name, options), parent=None)


def checked(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a condition, sequences as tuples.

    Raises:
      ConfigError: There is no such condition or option, or an option is of the wrong type.
    """
    if not isinstance(name, str) or name not in KINDS:
        raise ConfigError(f"there is no condition {name!r}", f"one of {', '.join(KINDS)}")
    known, good = options_of(name), {}
    for option, value in options.items():
        where = f"config.conditions.{name}.{option}"
        if option not in known:
            close = difflib.get_close_matches(option, list(known), n=3) or sorted(known)
            raise ConfigError(f"there is no field {where}", ", ".join(close) + "?")
        like = known[option]
        value = tuple(value) if isinstance(value, list) else value
        if isinstance(like, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(like):
            raise ConfigError(f"{where} is {value!r}", f"as {like!r}")
        if isinstance(value, (int, float)) and not 0 <= value <= 2**20:
            raise ConfigError(f"{where} is {value!r}", "at least 0")
        good[option] = value
    return good


def frozen(pairs: Any) -> Conditions:
    """Returns names and options, checked, as an attribute of a network: hashable.

    Args:
      pairs: As a config or a checkpoint has them.

    Raises:
      ConfigError: They are no pairs of a name and options, or as for `checked`.
    """
    right = isinstance(pairs, (list, tuple)) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[1], Mapping)
        for pair in pairs
    )
    if not right:
        raise ConfigError(f"config.conditions is {str(pairs)[:60]}", "names and options")
    return tuple((name, FrozenDict(checked(name, options))) for name, options in pairs)


def options_of(name: str) -> dict[str, Any]:
    """Returns the options of a kind of condition with their defaults."""
    given = (*_FLAX, "size", "dtype")
    return {f.name: f.default for f in dataclasses.fields(KINDS[name]) if f.name not in given}


def check(conditions: Conditions, size: Size) -> None:
    """Raises ConfigError where conditions cannot be had of frames of a size."""
    for name, options in conditions:
        one = kind(name, options)
        if not 0 <= one.drop <= 1:
            raise ConfigError(f"config.conditions.{name}.drop is {one.drop}", "0 to 1")
        one.check(size)


def needed(conditions: Conditions) -> list[str]:
    """Returns the conditions without which a run was never trained."""
    return [name for name, options in conditions if not kind(name, options).drop]


def lie_in_space(conditions: Conditions) -> bool:
    """Tells whether one of the conditions is seen as maps."""
    return any(not KINDS[name].column for name, _ in conditions)
