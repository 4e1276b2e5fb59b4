"""Beginning a run from the weights of another: those that fit, and a list of what did not.

The averaged generator of the other run becomes the generator and its average. Of a run whose
training state is there, all other parameters are taken, too. Optimizers begin anew, and so do step
and schedules.
"""

import json
import logging
import os
import pathlib
from typing import Any

import jax
import numpy as np

from vidgen import config as configs
from vidgen import methods
from vidgen.errors import ConfigError, StorageError
from vidgen.models import conditions
from vidgen.runtime.checkpoint import Checkpoints
from vidgen.runtime.digests import named

# What may differ between a flow and what is made of it: how it is sampled.
_FREE = ("stream", "steps", "whole_steps", "kept", "chunk", "margin", "guidance", "solver", "loop")
_LOG = logging.getLogger("vidgen")
Record = dict[str, Any]  # {"run": folder, "step": its checkpoint}


def recorded(workdir: pathlib.Path) -> Record | None:
    """Returns what the run in a folder began from, as its run.json has it; None for nothing."""
    record = (_facts(workdir) or {}).get("init_from")
    return record if _is_record(record) else None


def _facts(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Returns what run.json says; empty where there is none, None where it is damaged."""
    path = workdir / "run.json"
    if not path.is_file():  # a pipe could be waited for without end
        return None if os.path.lexists(path) else {}
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    good = isinstance(found, dict) and _is_record(found.get("init_from", {"run": "", "step": 0}))
    return found if good else None


def _is_record(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and isinstance(found.get("run"), str)
        and type(found.get("step", "")) in (int, type(None))
    )


def source(
    workdir: pathlib.Path, init_from: str | pathlib.Path | None, begun: bool
) -> Record | None:
    """Decides what a run begins from: what it once did, or else what is asked for.

    Args:
      workdir: The run's folder.
      init_from: Folder of the other run, or None.
      begun: Whether the run has checkpoints.

    Returns:
      A record; its `step` is None where any step will do.

    Raises:
      ConfigError: The run has begun from something else.
      StorageError: There is no such run.
    """
    if _facts(workdir) is None:
        if begun:
            return None  # its checkpoint knows
        _LOG.warning(
            "%s is damaged: whether this run began from another is not known", workdir / "run.json"
        )
    was = recorded(workdir)
    if init_from is None:
        return was
    asked = str(pathlib.Path(init_from).absolute())
    if (was or begun) and (was is None or was["run"] != asked):
        raise ConfigError(
            f"--init_from={init_from}, and the run in {workdir} began from "
            f"{was['run'] if was else 'nothing'}",
            "leave it out to go on with the run, or name a new --workdir",
        )
    if not pathlib.Path(asked).is_dir():
        raise StorageError(f"there is no run in {init_from}", "name the folder given as --workdir")
    return was or {"run": asked, "step": None}


def check(
    config: configs.Config, workdir: pathlib.Path, init_from: str | pathlib.Path | None
) -> None:
    """Checks what a run begins from whose method begins from a run of another one.

    Args:
      config: The run's.
      workdir: Its folder; one that has begun is not checked.
      init_from: Folder of the other run, or None.

    Raises:
      ConfigError: There is no other run, or one of another method or with other networks.
      StorageError: What it is to begin from is no folder.
    """
    if init_from is not None and not pathlib.Path(init_from).is_dir():
        raise StorageError(f"there is no run in {init_from}", "name the folder given as --workdir")
    method = begins_from(config)
    if method is None or recorded(workdir) is not None:
        return
    if Checkpoints(workdir / "checkpoints").steps():
        return
    if init_from is None:
        raise ConfigError(
            f"config.method is {config.method!r}, which begins from a run of {method!r}",
            f"train one, then give its folder: --init_from=RUN_OF_{method.upper()}",
        )
    path = pathlib.Path(init_from) / "run.json"
    if not path.is_file():
        return  # what is there is seen when its checkpoint is read
    try:
        was = json.loads(path.read_text())["config"]
        made, size = was["generator"], was["data"]["size"]
        told = {name: {**options} for name, options in (was.get("conditions") or {}).items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return
    if was["method"] != method:
        raise ConfigError(
            f"--init_from={init_from} is a run of {was['method']!r}",
            f"config.method={config.method!r} begins from one of {method!r}",
        )
    now = {**configs.to_json(config.generator), "data.size": configs.to_json(config.data)["size"]}
    for name, value in {**made, "data.size": size}.items():
        if name not in _FREE and now.get(name) != value:
            field = name if "." in name else f"generator.{name}"
            raise ConfigError(
                f"config.{field} is {now.get(name)}, and of the run in {init_from} {value}",
                f"its networks are what is trained: --config.{field}={value}",
            )
    mine = configs.to_json(config).get("conditions") or {}
    for name in sorted(mine.keys() | told.keys()):
        if _encoder(name, mine) != _encoder(name, told):
            raise ConfigError(
                f"config.conditions.{name} is {mine.get(name)}, and of the run in {init_from} "
                f"{told.get(name)}",
                "what it is told is what is trained: the same conditions, in a config file",
            )


def _encoder(name: str, known: dict[str, Any]) -> Any:
    """Returns the options that make the encoder of a condition; None where there is none."""
    if name not in known or name not in conditions.KINDS:
        return known.get(name)
    defaults = json.loads(json.dumps(conditions.options_of(name)))  # lists, as in run.json
    return {**defaults, **known[name], "drop": 0}


def begins_from(config: configs.Config) -> str | None:
    """Returns the method whose runs those of a config's method begin from; None for any or none."""
    return vars(methods.load(config.method)).get("BEGINS_FROM")


def apply(state: Any, record: Record, method: str | None = None) -> tuple[Any, Record, list[str]]:
    """Puts the weights of another run into a state, each where the state has its array.

    Args:
      state: That of step 0.
      record: As from `source`.
      method: The run's, which may make its parameters of the other's (`begin`).

    Returns:
      `(state, record, left)`: the record with the step that was taken, and a line for each array
      that kept its first value: its path and both shapes.

    Raises:
      StorageError: The other run has no checkpoint that verifies, or nothing of it fits.
    """
    checkpoints = Checkpoints(pathlib.Path(record["run"]) / "checkpoints")
    step, items, _ = checkpoints.restore(None, record["step"])
    begin = vars(methods.load(method)).get("begin") if method else None
    average = begin(items["ema"]) if begin else items["ema"]
    given = {**items.get("train", {}), "gen": average, "ema": average}
    changes, left, taken = {}, [], 0
    for part, tree in vars(state).items():
        if part in ("step", "key") or part.endswith("_opt") or tree is None:
            continue
        there = named(given.get(part))
        leaves, shape = jax.tree_util.tree_flatten_with_path(tree)
        new = []
        for path, leaf in leaves:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            found = there.get(name)
            if found is not None and found.shape == leaf.shape:
                new.append(_placed_as(found, leaf))
                taken += 1
            else:
                new.append(leaf)
                old = "not there" if found is None else _shape(found)
                left.append("/".join(filter(None, (part, name))) + f": {old}, here {_shape(leaf)}")
        changes[part] = jax.tree.unflatten(shape, new)
    if not taken:
        raise StorageError(
            f"nothing of {checkpoints.folder / str(step)} fits the networks of this config",
            "begin without --init_from, or with a config whose networks have the same sizes",
        )
    return state.replace(**changes), {**record, "step": step}, left


def _placed_as(value: Any, like: jax.Array) -> jax.Array:
    """Makes an array of its own of a value, lying as another does."""
    whole = np.asarray(value).astype(like.dtype)
    return jax.make_array_from_callback(whole.shape, like.sharding, lambda at: whole[at])


def _shape(leaf: Any) -> str:
    return "x".join(map(str, leaf.shape)) or "one number"
