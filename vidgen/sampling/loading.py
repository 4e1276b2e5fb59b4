"""Samplers of runs, and of weights that are at hand."""

import os
import pathlib
from typing import Any

import jax

from vidgen import config as configs
from vidgen import methods
from vidgen.errors import ConfigError, StorageError
from vidgen.models.protocol import Generator, abstract_params, chunk_of
from vidgen.runtime.checkpoint import Checkpoints
from vidgen.sampling.arguments import is_whole
from vidgen.sampling.sampler import Sampler
from vidgen.text import plain

_MOST = 1 << 20  # videos at once, and frames of a chunk

Step = int | str | None


def load(
    path: str | os.PathLike[str],
    step: Step = None,
    *,
    batch: int | None = None,
    chunk: int | None = None,
    **options: Any,
) -> Sampler:
    """Loads the averaged generator of a run.

    Args:
      path: The run's folder.
      step: A step that has a checkpoint; "best" for what `training.keep_best` has kept; by
        default the newest that verifies.
      batch: Videos computed together; 1 on a CPU, 8 elsewhere by default.
      chunk: Frames computed together, a multiple of the generator's stride; by default the
        least that is at least 16.
      **options: What the run's generator names in `sampling_options`, in place of what the run was
        trained with: of a `CodesGenerator` its `temperature`, `top_k` and `top_p`. `options_of`
        returns them.

    Returns:
      A `Sampler`.

    Raises:
      StorageError: There is no checkpoint, or none that verifies.
      ConfigError: `step`, `batch`, `chunk` or an option is out of range, or the generator has no
        such option.
    """
    made: list[Generator] = []  # of the checkpoint that is taken: damaged ones are left out

    def wanted(meta: dict[str, Any]) -> dict[str, Any]:
        check_meta(meta)
        made[:] = [_generator(meta, options)]
        return {"ema": abstract_params(made[0])}

    checkpoints, number = _checkpoints(path, step)
    at, items, meta = checkpoints.restore(wanted, number)
    return from_generator(made[0], items["ema"], meta, at, batch=batch, chunk=chunk)


def config_of(path: str | os.PathLike[str], step: Step = None) -> configs.Config:
    """Returns the config that a run was trained with; a stride that was chosen is in it.

    Args:
      path: The run's folder.
      step: As for `load`.

    Raises:
      StorageError: There is no checkpoint, or none that verifies.
    """
    meta = _meta(path, step)
    config = configs.from_json(meta["config"])
    config.data.stride = config.data.stride or meta.get("stride", 0)  # older runs keep none
    return config


def options_of(path: str | os.PathLike[str], step: Step = None) -> dict[str, Any]:
    """Returns the options that a run can be sampled with, each with the value it was trained with.

    Args:
      path: The run's folder.
      step: As for `load`.

    Raises:
      StorageError: There is no checkpoint, or none that verifies.
    """
    return _options(_meta(path, step))


def check_meta(meta: dict[str, Any]) -> None:
    """Checks what a checkpoint keeps beside its arrays, before anything is built of it.

    Its config may be of an older version: fields that are not known are passed over.

    Raises:
      StorageError: A value is of another kind than vidgen writes, or out of range.
    """
    looks, fps = meta.get("looks", []), meta["fps"]
    texts = isinstance(meta["classes"], list) and all(isinstance(c, str) for c in meta["classes"])
    sizes = isinstance(looks, list) and all(
        isinstance(some, list) and all(type(n) is int and 0 <= n < 2**31 for n in some)
        for some in looks
    )
    rate = isinstance(fps, (int, float)) and 0 < fps < 1e6
    stride = type(meta.get("stride", 1)) is int and 1 <= meta.get("stride", 1) < 2**31
    for name, good in ("classes", texts), ("looks", sizes), ("fps", rate), ("stride", stride):
        if not good:
            said = plain(repr(meta[name]), 60)
            raise StorageError(f"the checkpoint's {name} are not as vidgen writes them: {said}")
    if (config := meta.get("config")) is None:  # as in weights that are not of a run
        return
    try:
        methods.check_values(configs.from_json(config))
    except (ConfigError, AttributeError, ValueError) as error:
        raise StorageError(
            f"the checkpoint's config is not one that vidgen writes: {error}",
            "; ".join(filter(None, [getattr(error, "hint", ""), "take another checkpoint"])),
        ) from error


def from_weights(
    params: Any,
    meta: dict[str, Any],
    step: int,
    *,
    batch: int | None = None,
    chunk: int | None = None,
) -> Sampler:
    """Makes a sampler of a generator's weights and of what a checkpoint keeps with them.

    Args:
      params: The generator's parameters.
      meta: `generator`, the arguments that it is built from; `classes` and `fps`.
      step: The training step of the weights.
      batch: As for `load`.
      chunk: As for `load`.

    Raises:
      ConfigError: `batch` or `chunk` is out of range.
    """
    return from_generator(_generator(meta, {}), params, meta, step, batch=batch, chunk=chunk)


def from_generator(
    generator: Generator,
    params: Any,
    meta: dict[str, Any],
    step: int,
    *,
    batch: int | None = None,
    chunk: int | None = None,
) -> Sampler:
    """Makes a sampler of a generator that is built already; `from_weights` builds it.

    Args:
      generator: The generator.
      params: Its parameters.
      meta: `classes` and `fps`.
      step: The training step of the weights.
      batch: As for `load`.
      chunk: As for `load`.

    Raises:
      ConfigError: `batch` or `chunk` is out of range.
    """
    stride = generator.stride
    if batch is None:
        batch = 1 if jax.default_backend() == "cpu" else 8
    if chunk is None:
        chunk = chunk_of(generator)
    if not is_whole(batch) or not 1 <= batch <= _MOST:
        raise ConfigError(f"batch is {batch!r}", f"a whole number, 1 to {_MOST}")
    if not is_whole(chunk) or not 1 <= chunk <= _MOST or chunk % stride:
        raise ConfigError(
            f"chunk is {chunk!r}", f"a multiple of the stride, {stride}, up to {_MOST}"
        )
    return Sampler(
        generator=generator,
        params=params,
        classes=tuple(meta["classes"]),
        looks=tuple(tuple(sizes) for sizes in meta.get("looks", ())),  # older runs have none
        fps=float(meta["fps"]),
        step=step,
        batch=int(batch),
        chunk=int(chunk),
    )


def _checkpoints(path: str | os.PathLike[str], step: Step) -> tuple[Checkpoints, int | None]:
    """Returns where a run's checkpoints are, and the number of the one that is asked for."""
    folder = pathlib.Path(path)
    if not folder.is_dir():
        raise StorageError(f"there is no run in {folder}", "name the folder given as --workdir")
    if isinstance(step, str) and step == "best":
        return Checkpoints(folder / "best"), None
    if step is None:
        return Checkpoints(folder / "checkpoints"), None
    if not is_whole(step):
        raise ConfigError(f"step is {step!r}", 'a whole number, or "best"')
    return Checkpoints(folder / "checkpoints"), int(step)


def _meta(path: str | os.PathLike[str], step: Step) -> dict[str, Any]:
    """Returns what a checkpoint keeps beside its arrays, of which its generator can be built."""
    checkpoints, number = _checkpoints(path, step)

    def wanted(meta: dict[str, Any]) -> dict[str, Any]:
        check_meta(meta)
        _options(meta)
        return {}

    return checkpoints.restore(wanted, number)[2]


def _generator(meta: dict[str, Any], options: dict[str, Any]) -> Generator:
    """Builds the generator that a checkpoint describes, with other values of its options."""
    known = _options(meta)
    for name, value in options.items():
        if name not in known:
            raise ConfigError(
                f"there is no sampling option {name!r} of this run's generator, "
                f"a {meta['generator']['kind']!r}",
                configs.near(name, list(known)) if known else "it has none: leave it out",
            )
        if type(value) is not type(known[name]) and not (
            type(value) is int and type(known[name]) is float
        ):
            kind = type(known[name]).__name__
            article = "an" if kind[0] in "aeiou" else "a"
            raise ConfigError(
                f"{name} is {value!r}", f"it must be {article} {kind}, such as {known[name]!r}"
            )
    return methods.generator(meta, **options)


def _options(meta: dict[str, Any]) -> dict[str, Any]:
    generator = methods.generator(meta)
    return {name: vars(generator)[name] for name in generator.sampling_options}
