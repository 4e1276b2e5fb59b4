"""What is known of videos: arrays by condition, drawn of training clips, read, cut to windows."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, Shaped, UInt8

from vidgen import keys
from vidgen.errors import ConfigError
from vidgen.frame_size import Size
from vidgen.models.conditions.kinds import KINDS, Columns, Conditions, Given, kind, needed


def absent(conditions: Conditions, count: int, size: Size, frames: int) -> Given:
    """Returns the arrays of `count` videos without any condition, of a window of `frames`."""
    return {n: kind(n, options).absent(count, size, frames) for n, options in conditions}


def filled(given: Given | None, conditions: Conditions, count: int, size: Size, frames: int):
    """Returns what is given, and absent arrays for the rest."""
    given = given or {}
    rest = tuple((n, options) for n, options in conditions if n not in given)
    return {**given, **absent(rest, count, size, frames)}


def draw(
    conditions: Conditions, each: dict[str, Key[Array, " batch"]], batch: dict[str, Any]
) -> Given:
    """Makes the conditions of training clips; each is absent from a share of them.

    Args:
      conditions: Of the networks.
      each: Keys of the clips, by name of the condition.
      batch: `video` uint8 `[B, T, H, W, 3]`, and the columns that conditions have.
    """
    given: Given = {}
    for name, options in conditions:
        one = kind(name, options)
        part = lambda purpose, key: jax.vmap(keys.named, (0, None))(key, purpose)  # noqa: E731
        made, dropped = part("made", each[name]), part("dropped", each[name])
        if one.column:
            if name not in batch:  # as in what is only measured or compiled
                continue
            arrays = one.of_tokens(batch[name])
        else:
            arrays = one.draw(made, batch["video"])
        given[name] = one.only(arrays, keys.uniform(dropped, ()) >= one.drop)
    return given


def only(conditions: Conditions, given: Given, shown: Bool[Array, " batch"]) -> Given:
    """Leaves conditions out of clips where they are not shown, but for those with `drop=0`."""
    always = needed(conditions)
    return {
        n: given[n] if n in always else kind(n, options).only(given[n], shown)
        for n, options in conditions
        if n in given
    }


def shown_in_space(conditions: Conditions, given: Given) -> Float[Array, " batch"]:
    """Returns 1 for each clip that is told something by a condition that lies in space, else 0."""
    found = [kind(n, o).shown(given[n]) for n, o in conditions if not KINDS[n].column]
    return jnp.stack(found).any(0).astype(jnp.float32)


def differs(given: Given, group: int) -> Bool[Array, "batch other"] | None:
    """Tells which of the other clips of a group have another caption than a clip, and one at all.

    Args:
      given: Conditions of clips.
      group: Clips that are computed together.

    Returns:
      `[B, group - 1]`, in the order of `with_wrong`; None where no condition is read of a column.
    """
    arrays = [x for name, x in given.items() if KINDS[name].column]
    found = None
    for x in jax.tree.leaves(arrays):
        others, axes = others_of(x, group), tuple(range(2, x.ndim + 1))
        one = (x[:, None] != others).any(axes) & (others != 0).any(axes)
        found = one if found is None else found | one
    return found


def others_of(x: Shaped[Array, "batch ..."], group: int) -> Shaped[Array, "batch other ..."]:
    """Returns for each clip what the others of its group have, `[B, group - 1, ...]`."""
    group = min(group, len(x))
    groups = x.reshape(-1, group, *x.shape[1:])
    rolled = [jnp.roll(groups, n, 1).reshape(x.shape) for n in range(1, group)]
    return jnp.stack(rolled, 1)


def columns(conditions: Conditions, batch: Mapping[str, Columns]) -> dict[str, Columns]:
    """Returns the arrays of conditions that are read of columns of a batch, by condition.

    Raises:
      ConfigError: The clips have no such column.
    """
    found = {}
    for name, options in conditions:
        one = kind(name, options)
        if one.column:
            if one.column not in batch:
                raise ConfigError(
                    f"config.conditions has {name}, and the clips have no {one.column}",
                    "docs/data.md says how clips get captions",
                )
            found[name] = one.tokens(batch[one.column])
    return found


def read(conditions: Conditions, value: Any, count: int, size: Size) -> Given:
    """Returns the arrays of what a caller asks for.

    Args:
      conditions: Of the generator.
      value: By name of the condition, what its kind takes; or None.
      count: Number of the videos.
      size: Of the frames.

    Raises:
      ConfigError: The generator has no such condition, or the value is none that it takes.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"condition is of type {type(value).__name__}", "a dictionary, by name of the condition"
        )
    known = dict(conditions)
    for name in value:
        if name not in known:
            raise ConfigError(
                f"this run was not trained with a condition {name!r}",
                f"it knows {', '.join(known)}" if known else "it was trained with none",
            )
    return {n: kind(n, known[n]).read(one, count, size) for n, one in value.items()}


def flat(given: Given) -> dict[str, Any]:
    """Returns arrays by `condition/array`, as latents have them."""
    return {f"{name}/{n}": x for name, arrays in given.items() for n, x in arrays.items()}


def of_flat(arrays: Mapping[str, Any]) -> Given:
    """Undoes `flat`; what is named otherwise is left out."""
    given: Given = {}
    for name, x in arrays.items():
        condition, slash, n = name.partition("/")
        if slash:
            given.setdefault(condition, {})[n] = x
    return given


def check_arrays(conditions: Conditions, given: Given, count: int, size: Size) -> None:
    """Checks the arrays of conditions in latents, which may come from a file.

    Raises:
      ConfigError: They are of another run, of other shapes or types, or not of `count` videos.
    """
    known = dict(conditions)
    for name, arrays in given.items():
        if name not in known:
            raise ConfigError(
                f"the latents have a condition {name!r}",
                f"this run knows {', '.join(known) or 'none'}",
            )
        like = kind(name, known[name]).absent(count, size, 1)
        if arrays.keys() != like.keys():
            raise ConfigError(
                f"the latents' {name} has {', '.join(sorted(arrays))}", ", ".join(sorted(like))
            )
        counts = {x.shape[1:2] for n, x in arrays.items() if n not in KINDS[name].without_frames}
        if len(counts) > 1:
            raise ConfigError(
                f"the latents' {name} has arrays of different lengths",
                "one second axis for all of them",
            )
        for n, x in arrays.items():
            free = 1 if n in KINDS[name].without_frames else 2
            shape = x.ndim == like[n].ndim and x.shape[free:] == like[n].shape[free:]
            if not shape or len(x) != count or x.dtype != like[n].dtype or not x.size:
                raise ConfigError(
                    f"the latents' {name}/{n} is {x.dtype} {list(x.shape)}",
                    f"{like[n].dtype} as of {list(like[n].shape)}",
                )


def window(
    conditions: Conditions,
    given: Given,
    count: int,
    size: Size,
    start: int,
    frames: int,
    beside: int = 0,
) -> Given:
    """Returns the arrays of all conditions as a window from frame `start` on sees them, NumPy's.

    Frames `beside` it on each side are computed with it.
    """
    found = {
        n: kind(n, options).window(given[n], start, frames, beside)
        for n, options in conditions
        if n in given
    }
    return filled(found, conditions, count, size, frames)


def length(conditions: Conditions, given: Given) -> int:
    """Returns how many frames conditions say something of; 0 where there is no end."""
    ends = [kind(n, o).length(given[n]) for n, o in conditions if n in given]
    return min((end for end in ends if end), default=0)


def of_clips(
    conditions: Conditions,
    clips: UInt8[np.ndarray, "clips time height width 3"],
    columns: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns what a caller would ask for who wants videos as clips are, to show what a run does.

    Args:
      conditions: Of the run.
      clips: uint8 `[N, T, H, W, 3]`, of its size.
      columns: What is known of each clip, by name: `caption`.
    """
    found = {n: kind(n, options).of_clips(clips, columns) for n, options in conditions}
    return {n: value for n, value in found.items() if value is not None}
