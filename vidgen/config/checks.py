"""The config of an experiment: every field with its default, its checks, and its conversions.

A config file is a Python file with `get_config()` that starts from `base()` and changes what it
must. The config stops at the rim of the program: below train, evaluate and sampling, functions take
plain keyword arguments.
"""

import ast
import difflib
import json
import math
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from vidgen.config.fields import KINDS, METHODS, base, constant, cosine
from vidgen.errors import ConfigError

__all__ = ["base", "constant", "cosine", "validate"]

# An ml_collections.ConfigDict; its fields are attributes that no type checker knows.
Config = Any


_CHOICES = {
    "training.keep_best": ("", "distance", "content", "motion", "noise"),
    "training.full_disk": ("stop", "continue"),
    "method": tuple(METHODS),
    "data.crop": ("center", "random"),
    "data.labels": ("folder", "none"),
    "data.short": ("skip", "loop"),
    "optimizer.name": ("adam", "adamw", "rmsprop", "adadelta", "sgd"),
    "objective.loss": ("rpgan", "non_saturating", "minimax", "hinge", "least_squares"),
    "objective.reconstruction": ("mse", "l1", "cross_entropy"),
    "objective.distance": ("mse", "l1"),
    "objective.augmentations": (
        "flip",
        "shift",
        "brightness",
        "contrast",
        "saturation",
        "cutout",
    ),
    "parallel.mode": ("jit", "mesh", "pmap"),
    "parallel.compute": ("float32", "bfloat16"),
    "parallel.remat": ("generator", "discriminator"),
}
_LEAST = {  # closed lower ends
    "seed": 0,
    "data.frames": 1,
    "data.stride": 0,
    "data.pick": 0,
    "data.fps": 0,
    "data.size": 8,
    "data.workers": 1,
    "data.limits.frames": 1,
    "data.limits.pixels": 1,
    "data.limits.bytes": 1,
    "data.limits.seconds": 0.1,
    "objective.penalty_interval": 1,
    "objective.penalty_sigma": 0,
    "objective.discriminator_steps": 1,
    "objective.clip_every": 1,
    "objective.categories": 0,
    "objective.infogan": 0,
    "objective.scale": 1e-3,
    "objective.adversarial": 0,
    "objective.codes_kclips": 0.001,
    "objective.commitment": 0,
    "objective.book_kclips": 0,
    "objective.revive": 0,
    "optimizer.warmup_kclips": 0,
    "optimizer.weight_decay": 0,
    "optimizer.l2": 0,
    "optimizer.clip": 0,
    "optimizer.b1": 0,
    "optimizer.discriminator_rate": 0,
    "parallel.data": 0,
    "parallel.fsdp": 1,
    "parallel.microbatches": 1,
    "parallel.dispatch": 1,
    "parallel.shards": 1,
    "training.kclips": 0.001,
    "training.batch_size": 1,
    "training.ema_kclips": 0,
    "training.ema_rampup": 0,
    "training.log_kclips": 0,
    "training.sample_kclips": 0,
    "training.save_kclips": 0,
    "training.watch_kclips": 0,
    "training.keep": 1,
    "sampling.frames": 1,
    "sampling.clips": 1,
    "sampling.fps": 0,
}


def near(name: str, known: list[str]) -> str:
    """Returns a hint with the known names nearest to a misspelt one, or with all of them."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return ("did you mean " if close else "one of ") + ", ".join(close or sorted(known)) + "?"


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of a nested config by dotted name; sequences become tuples."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, (ConfigDict, dict)):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = tuple(value) if isinstance(value, (list, tuple)) else value
    return flat


def validate(config: Config) -> None:
    """Checks every field of a config for name, type, range and contradiction.

    The arguments of the generator and the discriminator are checked by `vidgen.models.build`.

    Raises:
      ConfigError: It names the field, the value, and what would do.
    """
    if "method" not in config:
        raise ConfigError("config.method is missing", "start from config.base(method)")
    method = config.method
    if method not in METHODS:
        raise ConfigError(f"config.method is {method!r}", near(str(method), list(METHODS)))
    known, given = flatten(base(method)), flatten(config)
    models = ("generator.", "discriminator.")
    for name in known:
        if name not in given and not (name.startswith(models) and not name.endswith(".kind")):
            raise ConfigError(
                f"config.{name} is missing", f"start the config from config.base({method!r})"
            )
    for name, value in given.items():
        if name.startswith(models) and not name.endswith(".kind"):
            continue
        if name not in known:
            raise ConfigError(f"there is no field config.{name}", near(name, list(known)))
        _check_type(name, value, known[name])
        for one in value if isinstance(value, tuple) else (value,):
            if name in _CHOICES and one not in _CHOICES[name]:
                raise ConfigError(
                    f"config.{name} is {value!r}", near(str(one), list(_CHOICES[name]))
                )
        if name in _LEAST and not value >= _LEAST[name]:
            raise ConfigError(f"config.{name} is {value}", f"it must be at least {_LEAST[name]}")
    for name in (n for n in given if n.startswith("objective.augment_p.") and "kclips" not in n):
        if not 0 <= given[name] <= 1:
            raise ConfigError(f"config.{name} is {given[name]}", "a probability is in [0, 1]")
    for name in (n for n in given if n.startswith("optimizer.b") and "kclips" not in n):
        if not 0 <= given[name] < 1:
            raise ConfigError(f"config.{name} is {given[name]}", "it must be in [0, 1)")
    for name, value in given.items():
        schedule = name.rpartition(".")[0]
        if f"{schedule}.kclips" in given and schedule != "training" and value < 0:
            raise ConfigError(f"config.{name} is {value}", f"{schedule} may not be negative")
    for number, role in enumerate(("generator", "discriminator")):
        if role in config and method in KINDS and config[role].kind not in KINDS[method][number]:
            raise ConfigError(
                f"config.{role}.kind is {config[role].kind!r}, and config.method is {method!r}",
                f"one of {', '.join(KINDS[method][number])}",
            )
    if not config.data.path:
        raise ConfigError(
            "config.data.path is empty", "name a folder of clips: --config.data.path=FOLDER"
        )
    if config.data.fps and config.data.stride > 1:
        raise ConfigError(
            f"config.data.fps is {config.data.fps} and config.data.stride is {config.data.stride}",
            "set one of them: a lower fps, or a stride",
        )
    if config.parallel.dispatch > 1:
        _check_dispatch(config)
    if config.data.pick > config.data.frames:
        raise ConfigError(
            f"config.data.pick is {config.data.pick}",
            f"a window has data.frames={config.data.frames}",
        )
    if len(config.data.background) != 3 or not all(0 <= v <= 255 for v in config.data.background):
        raise ConfigError(
            f"config.data.background is {config.data.background}", "three numbers in 0..255"
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
      text: A Python literal such as `8`, `1e-3`, `(64, 32)` or `True`; bare text where the field
        holds text.

    Raises:
      ConfigError: There is no such field, or the text is no value for it.
    """
    flat = flatten(config)
    if name not in flat:
        inside = [known for known in flat if known.startswith(f"{name}.")]
        hint = f"it has the parts {', '.join(inside)}" if inside else near(name, list(flat))
        raise ConfigError(f"there is no field config.{name}", hint)
    like = flat[name]
    value: Any = text
    if not isinstance(like, str):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError) as error:
            raise ConfigError(
                f"config.{name} is {text!r}", f"it must be a {type(like).__name__}, as {like!r}"
            ) from error
    if isinstance(like, tuple) and isinstance(value, list):
        value = tuple(value)
    if isinstance(like, float) and type(value) is int:
        value = float(value)
    _check_type(name, value, like)
    *path, last = name.split(".")
    for part in path:
        config = config[part]
    config[last] = value


def _check_type(name: str, value: Any, like: Any) -> None:
    if isinstance(like, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(like):
        raise ConfigError(
            f"config.{name} is {value!r}, a {type(value).__name__}",
            f"it must be a {type(like).__name__}, such as {like!r}",
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"config.{name} is {value}", "it must be finite")


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
