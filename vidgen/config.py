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

from vidgen.errors import ConfigError

# An ml_collections.ConfigDict; its fields are attributes that no type checker knows.
Config = Any


def constant(value: float) -> dict[str, float]:
    """Returns a schedule that stays at one value."""
    return {"start": value, "end": value, "kclips": 0.0}


def cosine(start: float, end: float, kclips: float = 0.0) -> dict[str, float]:
    """Returns a schedule from `start` to `end` over `kclips` (0: the whole training), then flat."""
    return {"start": start, "end": end, "kclips": kclips}


def base() -> Config:
    """Returns the config that every experiment starts from, each field with its default.

    Durations are in thousands of clips seen (kclips). A schedule is `constant(value)` or
    `cosine(start, end, kclips)`.
    """
    config = ConfigDict()
    config.seed = 0  # everything random follows from it: parameters, noise, order of the clips
    config.method = "gan"  # a module of vidgen/methods

    config.data = ConfigDict(
        {
            "path": "",  # folder, archive, array, manifest, pack, or "toy"; docs/data.md
            "frames": 16,  # length of a training window
            "stride": 1,  # take every n-th frame
            "pick": 0,  # frames drawn from each window for a training step; 0: all
            "fps": 0.0,  # resample to this rate by true time stamps; 0: every frame as recorded
            "size": 64,  # side of the frames in pixels
            "crop": "center",  # "center" or "random": where the square is cut from wider frames
            "flip": False,  # mirror half of the clips left to right
            "labels": "folder",  # "folder": class = first-level folder; "none": one class for all
            "short": "skip",  # clips shorter than the window: "skip" them or "loop" their frames
            "background": (0, 0, 0),  # RGB under transparent pixels
            "strict": False,  # stop at the first file that cannot be used
            "cache": "",  # where packs are kept; "": $VIDGEN_CACHE or ~/.cache/vidgen
            "workers": 2,  # processes that decode
            "limits": {  # a file beyond any of these is refused, by name
                "frames": 100_000,  # frames of a file
                "pixels": 50_000_000,  # pixels of a frame
                "bytes": 4_000_000_000,  # bytes of a file's frames at the packed size
                "seconds": 120.0,  # seconds that decoding a file may take
            },
        }
    )
    config.generator = ConfigDict(
        {
            "kind": "residual",  # a name in vidgen/models GENERATORS; the rest are its arguments
            "widths": (192, 128, 96),  # channels of each level, 4x4 first, then 8x8, ...
            "blocks": 1,  # residual blocks of each level
            "head": 32,  # channels of the pointwise layers at full resolution
            "head_layers": 1,  # how many of them
            "palette": 16,  # colours that a clip mixes its pixels from
            "output": "tanh",  # without a palette: "tanh", or "linear" for black or white grounds
            "content": 64,  # channels of the content noise
            "motion": 32,  # channels of the motion noise
            "style": 192,  # channels of the features that steer the network
            "stride": 8,  # frames between knots of motion noise
            "motion_layers": 1,  # temporal convolutions over the knots
            "periods": (),  # frames of cycles for what repeats; content bends them by an octave
        }
    )
    config.discriminator = ConfigDict(
        {
            "kind": "residual",  # a name in vidgen/models DISCRIMINATORS
            "patch": 2,  # side in pixels of the patches that the front sees
            "front": 24,  # channels of the front
            "neck": 48,  # channels of a frame before frames are folded together
            "frame_blocks": 1,  # residual blocks over each frame
            "fold": 8,  # frames folded together; divides data.frames, or data.pick
            "widths": (96, 128, 192),  # channels of each level, finest first, down to 4x4
            "blocks": 1,  # residual blocks of each level
            "features": 256,  # width of the last layer
            "frame_features": 128,  # width of each frame's own features beside it; 0: none
        }
    )
    config.objective = ConfigDict(
        {
            "loss": "rpgan",  # a name in vidgen/objectives LOSSES
            "r1": constant(1.0),  # weight of the penalty on real clips; sums over pixels
            "r2": constant(1.0),  # weight of the penalty on generated clips
            "penalty_interval": 1,  # penalties every n-th step, n times as heavy
            "mismatch": constant(0.0),  # weight of real clips with a wrong label as fakes
            "augmentations": (),  # names in vidgen/augment AUGMENTATIONS
            "augment_p": constant(0.0),  # probability of each
        }
    )
    config.optimizer = ConfigDict(
        {
            "name": "adam",  # adam, adamw, rmsprop, adadelta, sgd
            "learning_rate": constant(2e-4),
            "warmup_kclips": 0.0,  # the learning rate rises linearly from 0
            "b1": 0.0,  # adam, adamw; momentum of rmsprop and sgd
            "b2": constant(0.99),  # adam, adamw; decay of rmsprop (its start), rho of adadelta
            "weight_decay": 0.0,  # adamw
            "discriminator_rate": 1.0,  # the discriminator's learning rate over the generator's
        }
    )
    config.training = ConfigDict(
        {
            "kclips": 1000.0,  # length of the training
            "batch_size": 16,  # clips of a step, over all devices
            "ema_kclips": 5.0,  # half-life of the averaged generator
            "ema_rampup": 0.1,  # at most this share of the clips seen, so that early ones fade
            "log_kclips": 1.0,  # between lines of metrics.jsonl
            "sample_kclips": 50.0,  # between sample videos; 0: only at the end
            "save_kclips": 50.0,  # between checkpoints; 0: only at the end
            "watch_kclips": 50.0,  # between looks at samples, for figures and alarms; 0: none
            "keep": 3,  # newest checkpoints kept
            "keep_best": "",  # a figure of the looks, as "distance": the best checkpoint stays, too
            "full_disk": "stop",  # no space for a checkpoint: "stop", or "continue" without it
        }
    )
    config.parallel = ConfigDict(
        {
            "mode": "jit",  # jit (one device), mesh, pmap
            "data": 0,  # mesh: copies of the state, each trained on its part of the clips; 0: all
            "fsdp": 1,  # mesh: devices that share one copy
            "microbatches": 1,  # parts of a device's clips, one after another, for less memory
            "remat": (),  # "generator", "discriminator": compute features again, for less memory
            "dispatch": 1,  # steps of one call, for small models on fast devices
            "deterministic": False,  # the same bits on any number of devices (mesh, pmap)
            "shards": 8,  # deterministic: parts of a batch; a multiple of any number of devices
            "distributed": False,  # several processes, as the cluster's environment says
            "compute": "float32",  # or bfloat16; parameters are float32 in both
        }
    )
    config.sampling = ConfigDict(
        {
            "frames": 32,  # length of the sample videos
            "clips": 16,  # how many, seeds 0, 1, 2, ...
            "fps": 0.0,  # 0: that of the data
        }
    )
    return config


_CHOICES = {
    "training.keep_best": ("", "distance", "content", "motion", "noise"),
    "training.full_disk": ("stop", "continue"),
    "method": ("gan", "dynamic_texture", "lookup", "noise", "untrained"),
    "data.crop": ("center", "random"),
    "data.labels": ("folder", "none"),
    "data.short": ("skip", "loop"),
    "optimizer.name": ("adam", "adamw", "rmsprop", "adadelta", "sgd"),
    "objective.loss": ("rpgan", "non_saturating", "minimax", "hinge", "least_squares"),
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
    "data.frames": 2,
    "data.stride": 1,
    "data.pick": 0,
    "data.fps": 0,
    "data.size": 8,
    "data.workers": 1,
    "data.limits.frames": 1,
    "data.limits.pixels": 1,
    "data.limits.bytes": 1,
    "data.limits.seconds": 0.1,
    "objective.penalty_interval": 1,
    "optimizer.warmup_kclips": 0,
    "optimizer.weight_decay": 0,
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
    known, given = flatten(base()), flatten(config)
    models = ("generator.", "discriminator.")
    for name in known:
        if name not in given and not (name.startswith(models) and not name.endswith(".kind")):
            raise ConfigError(f"config.{name} is missing", "start the config from config.base()")
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
    if config.objective.penalty_interval > 1:
        raise ConfigError(
            f"config.parallel.dispatch is {calls}, and config.objective.penalty_interval is "
            f"{config.objective.penalty_interval}",
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
