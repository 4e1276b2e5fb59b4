"""Checks of a config against its fields, and conversions.

The config stops at the rim of the program: below the methods' builders, functions take plain
keyword arguments.
"""

import ast
import contextlib
import difflib
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from ml_collections import ConfigDict

from vidgen import frame_size
from vidgen.config.fields import DATA, Field, Section, flat
from vidgen.errors import ConfigError

# An ml_collections.ConfigDict; its fields are attributes that no type checker knows.
Config = Any

_KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a float",
    str: "text",
    tuple: "a tuple",
}
_FEW = 30  # names that a hint lists
_LARGEST = 1e30  # of numbers with a point; float32 ends at 3e38, and products come before that
_LONG = 10**1000
_CLIPS = 2**38  # bytes of a step's clips, of all devices; of those that a method is fitted to
_SAMPLES = 2**34  # bytes of the samples of a run
_SLOWEST = 0.1  # frames per second that a video can be written with
_PAIRS = {name for name, field in flat({"data": DATA}) if field.pair}
NETWORKS = ("generator.", "discriminator.", "conditions.")  # fields are those of a class


def near(name: str, known: Iterable[str]) -> str:
    """Returns a hint with the known names nearest to a misspelt one, or with all of them."""
    names = list(known)
    # Looking for what is like a text of thousands of letters takes minutes.
    close = difflib.get_close_matches(name[:100], names, n=3, cutoff=0.5)
    if not close and len(names) > _FEW:
        return f"there are {len(names)}; vidgen config METHOD prints those of a config"
    return ("did you mean " if close else "one of ") + ", ".join(close or sorted(names)) + "?"


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of a nested config by dotted name; sequences become tuples."""
    flat = {}
    for name, value in config.items():
        if not isinstance(name, str):
            raise ConfigError(f"config.{prefix}{name!r}: names of fields are text")
        if isinstance(value, (ConfigDict, dict)):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = tuple(value) if isinstance(value, (list, tuple)) else value
    return flat


def validate(config: Config, sections: Section) -> None:
    """Checks every field of a config for name, type and range, and shared ones for contradictions.

    Args:
      config: A config.
      sections: The fields that it may have. Of a network's arguments the kind alone is checked
        here; the rest where the network is made.

    Raises:
      ConfigError: It names the field, the value, and what would do.
    """
    known, given = dict(flat(sections)), flatten(config)
    for name in known:
        if name not in given and not _of_network(name):
            raise ConfigError(
                f"config.{name} is missing",
                f"start the config from vidgen.methods.base({config.get('method', 'gan')!r})",
            )
    for name, value in given.items():
        if name not in known and not _of_network(name):
            raise ConfigError(f"there is no field config.{name}", near(name, list(known)))
        if name in known and not _of_network(name):
            check(name, value, known[name])
    _check_contradictions(config)


def _of_network(name: str) -> bool:
    return name.startswith(NETWORKS) and not name.endswith(".kind")


def check(name: str, value: Any, field: Field) -> None:
    """Checks one value.

    Raises:
      ConfigError: It is of another type than the field, or out of its range.
    """
    for item in value if isinstance(value, tuple) else (value,):
        if type(item) is int and abs(item) > _LONG:  # which Python does not write out
            raise ConfigError(
                f"config.{name} is a number of {item.bit_length()} bits",
                f"it must be {field.range()}",
            )
    check_type(name, value, field.default, field.pair)
    if field.length and len(value) != field.length:
        raise ConfigError(f"config.{name} is {value}", f"{field.length} numbers, {field.range()}")
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(field.default, tuple) and type(item) is not _item_type(field):
            wanted = _KINDS[_item_type(field)]
            raise ConfigError(f"config.{name} is {value!r}", f"it must be a tuple, each {wanted}")
        if field.choices and item not in field.choices:
            raise ConfigError(f"config.{name} is {value!r}", near(str(item), field.choices))
        if (
            (field.least is not None and not item >= field.least)
            or (field.most is not None and not item <= field.most)
            or (field.below is not None and not item < field.below)
        ):
            raise ConfigError(f"config.{name} is {value}", f"it must be {field.range()}")
        if field.most is None and type(item) is int and abs(item) >= 2**31:
            raise ConfigError(f"config.{name} is {value}", "it must be below 2^31")


def _check_contradictions(config: Config) -> None:
    """Checks what shared fields say of each other."""
    data = config.data
    if not data.path:
        raise ConfigError(
            "config.data.path is empty", "name a folder of clips: --config.data.path=FOLDER"
        )
    if data.fps and data.stride > 1:
        raise ConfigError(
            f"config.data.fps is {data.fps} and config.data.stride is {data.stride}",
            "set one of them: a lower fps, or a stride",
        )
    _check_sizes(config)
    if data.get("pick", 0) > data.frames:
        raise ConfigError(
            f"config.data.pick is {data.pick}", f"a window has data.frames={data.frames}"
        )
    for name, value in flatten(config).items():
        batch = config.training.get("batch_size", 1) if "training" in config else 1
        if name.endswith("kclips") and steps(value, batch) >= 2**31:
            raise ConfigError(f"config.{name} is {value:g}", "of more steps than are counted, 2^31")
    if "parallel" in config and config.parallel.dispatch > 1:
        _check_dispatch(config)


def _check_sizes(config: Config) -> None:
    """Refuses what no file and no machine holds: windows of a clip, clips of a step, samples."""
    data, made = config.data, config.get("sampling")
    frame = 3 * math.prod(frame_size.height_width(data.size))
    span = (data.frames - 1) * max(data.stride, 1) + 1
    if span > data.limits.frames or span * frame > data.limits.bytes:
        raise ConfigError(
            f"config.data.frames is {data.frames}, so that a window of a clip is {span} frames, "
            f"{span * frame:.2g} bytes",
            f"of a file at most data.limits.frames={data.limits.frames} and "
            f"data.limits.bytes={data.limits.bytes} are taken",
        )
    if "batch_size" in config.training:
        name, clips = "batch_size", config.training.batch_size * config.parallel.dispatch
    else:
        name, clips = "kclips", steps(config.training.kclips, 1)
    if clips * data.frames * frame > _CLIPS:
        raise ConfigError(
            f"config.training.{name} is {config.training[name]}: {clips} clips of "
            f"data.frames={data.frames}, data.size={data.size} at once, "
            f"{clips * data.frames * frame:.2g} bytes",
            f"at most {_CLIPS:.2g} are held in memory at once",
        )
    if made is None:
        return
    if 0 < made.fps < _SLOWEST:
        raise ConfigError(f"config.sampling.fps is {made.fps}", f"0, or at least {_SLOWEST}")
    if made.clips * made.frames * frame > _SAMPLES:
        raise ConfigError(
            f"config.sampling.frames is {made.frames}, of config.sampling.clips={made.clips} "
            f"videos: {made.clips * made.frames * frame:.2g} bytes",
            f"at most {_SAMPLES:.2g} are held in memory at once",
        )


def _check_dispatch(config: Config) -> None:
    """Several steps are one call: whatever happens between steps must fall between calls."""
    calls = config.parallel.dispatch
    for name in ("penalty_interval", "discriminator_steps"):
        if config.objective.get(name, 1) > 1:
            raise ConfigError(
                f"config.parallel.dispatch is {calls}, and config.objective.{name} is "
                f"{config.objective[name]}",
                "one of them must be 1: a call makes steps of one kind",
            )
    for name in ("kclips", "log_kclips", "sample_kclips", "save_kclips", "watch_kclips"):
        count = steps(config.training[name], config.training.batch_size)
        if config.training[name] and count % calls:
            kclips = max(round(count / calls), 1) * calls * config.training.batch_size / 1000
            raise ConfigError(
                f"config.training.{name} is {count} steps, not a multiple of "
                f"config.parallel.dispatch={calls}",
                f"set it to {kclips:g}",
            )


def override(config: Config, name: str, text: str) -> None:
    """Sets one field from the command line's text.

    Args:
      config: Changed in place.
      name: Dotted, as `training.batch_size`.
      text: A Python literal such as `8`, `1e-3`, `(64, 32)`, `64,32` or `True`; bare text where
        the field holds text.

    Raises:
      ConfigError: There is no such field, or the text is no value for it.
    """
    flat = flatten(config)
    if name not in flat:
        inside = [known for known in flat if known.startswith(f"{name}.")]
        hint = f"it has the parts {', '.join(inside)}" if inside else near(name, list(flat))
        raise ConfigError(f"there is no field config.{name}", hint)
    like, pair = flat[name], name in _PAIRS
    value: Any = text
    if not isinstance(like, str):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            shown = text if len(text) < 60 else f"{text[:50]}..."
            raise ConfigError(f"config.{name} is {shown!r}", _wanted(like, pair)) from error
    if (pair or isinstance(like, tuple)) and isinstance(value, list):
        value = tuple(value)
    if isinstance(like, float) and type(value) is int and abs(value) <= _LARGEST:
        value = float(value)
    check_type(name, value, like, pair)
    if pair:
        value = frame_size.normal(value)
    *path, last = name.split(".")
    for part in path:
        config = config[part]
    with config.ignore_type() if pair else contextlib.nullcontext():
        config[last] = value


def check_type(name: str, value: Any, like: Any, pair: bool = False) -> None:
    """Raises ConfigError unless a value is of the type of another; a whole number is a float.

    Args:
      name: Of the field, for the error.
      value: The value.
      like: A value of the right type.
      pair: Whether a whole number or a pair of them is wanted, whatever `like` is.
    """
    if pair:
        items = value if isinstance(value, tuple) and len(value) == 2 else (value,)
        if any(type(item) is not int for item in items):
            raise ConfigError(f"config.{name} is {value!r}", _wanted(like, pair))
        return
    if isinstance(like, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) <= _LARGEST else math.inf if value > 0 else -math.inf
    if type(value) is not type(like):
        raise ConfigError(
            f"config.{name} is {value!r}, {_kind(value)}",
            _wanted(like),
        )
    if isinstance(value, float) and not abs(value) <= _LARGEST:
        raise ConfigError(f"config.{name} is {value}", f"it must be finite, up to {_LARGEST:g}")


def _item_type(field: Field) -> type:
    """Returns the type of the items of a field that holds a tuple."""
    return type(field.default[0]) if field.default else str if field.choices else int


def _wanted(like: Any, pair: bool = False) -> str:
    if pair:
        return "it must be a whole number or a pair (height, width), such as 64 or 64,112"
    return f"it must be {_kind(like)}, such as {like!r}"


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), type(value).__name__)  # of a config file anything may come


def steps(kclips: float, batch_size: int) -> int:
    """Converts thousands of clips seen to steps, at least 1."""
    return max(round(1000 * kclips / batch_size), 1)


def to_json(config: Config) -> dict[str, Any]:
    """Returns the config as plain data for `json.dump`."""
    return json.loads(config.to_json_best_effort())


def from_json(data: dict[str, Any]) -> Config:
    """Rebuilds a config from `to_json` data; lists become tuples. Nothing is executed."""

    def convert(value):
        if isinstance(value, dict):
            return {name: convert(part) for name, part in value.items()}
        return tuple(value) if isinstance(value, list) else value

    return ConfigDict(convert(data))


def differences(old: Config, new: Config) -> Iterator[tuple[str, Any, Any]]:
    """Yields `(field, old value, new value)` wherever two configs differ."""
    before, after = flatten(old), flatten(new)
    for name in sorted(before.keys() | after.keys()):
        a, b = before.get(name), after.get(name)
        if a != b:
            yield name, a, b
