"""What to do when a device's memory runs out: what takes how much, and what would fit."""

import copy
import gc
import traceback
from collections.abc import Iterator
from typing import Any

import jax

from vidgen import config as configs
from vidgen import methods
from vidgen.errors import ConfigError
from vidgen.run import logs, setup
from vidgen.tools import estimate

GIB = 2**30


def out_of_memory(error: BaseException) -> bool:
    """Tells whether an error of JAX means that a device's memory did not do."""
    text = str(error).lower()
    return "resource_exhausted" in text or "out of memory" in text


def memory_limit() -> int | None:
    """Returns the bytes that a device can hold, where it tells."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit")


def smaller(config: configs.Config) -> Iterator[configs.Config]:
    """Yields configs that need less memory, from the nearest on, each a step on from the last.

    First what changes the time alone, then what changes the result: parts of a batch, features
    computed again, bfloat16, fewer clips.
    """
    config = copy.deepcopy(config)
    asked, training = config.parallel, config.training
    each = training.batch_size // setup.placement(config).mesh.size
    while not asked.deterministic and each % (2 * asked.microbatches) == 0:
        asked.microbatches *= 2
        yield copy.deepcopy(config)
    if set(asked.remat) != {"generator", "discriminator"}:
        asked.remat = ("generator", "discriminator")
        yield copy.deepcopy(config)
    if asked.compute != "bfloat16":
        asked.compute = "bfloat16"
        yield copy.deepcopy(config)
    while each % 2 == 0:
        each //= 2
        training.batch_size //= 2
        asked.microbatches = min(asked.microbatches, each)
        yield copy.deepcopy(config)


def advice(config: configs.Config, error: BaseException, limit: int | None = None) -> ConfigError:
    """Answers an error for lack of memory: what takes how much, and the nearest setting that fits.

    Every setting that is tried is compiled, which takes as long as the start of a training.

    Args:
      config: What did not fit.
      error: What JAX raised; what its frames hold is let go.
      limit: Bytes of a device; by default what the device says.
    """
    first = str(error).strip().splitlines()[0]
    if jax.process_count() > 1:  # the others may be gone, and compiling needs all
        return ConfigError(
            f"out of memory: {first}",
            "vidgen train --dry-run shows what takes how much; set config.parallel.microbatches "
            "or config.parallel.remat",
        )
    # The state is still alive in the error's frames, and compilers measure on the device.
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    store = estimate.listed(config)
    logs.say("out of memory; looking for the nearest setting that fits, by compiling each")
    limit = limit or memory_limit()
    try:
        taken = estimate.estimate(config, store)
    except jax.errors.JaxRuntimeError:
        return ConfigError(f"out of memory: {first}", "set config.parallel.microbatches")
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in taken.memory.items())
    have = f" of {limit / GIB:.2f}" if limit else ""
    message = f"out of memory: a step takes {taken.total / GIB:.2f}{have} GiB a device: {parts}"
    # Where it should have fitted, a part of the memory was not to be had.
    most = limit if limit and limit < taken.total else 0.9 * taken.total
    for other in smaller(config):
        try:
            total = estimate.estimate(other, store).total
        except (ConfigError, jax.errors.JaxRuntimeError):  # does not divide; not even compiled
            continue
        changes = {name: value for name, _, value in configs.differences(config, other)}
        flags = " ".join(_flag(name, value) for name, value in changes.items())
        logs.say(f"{flags}: {total / GIB:.2f} GiB")
        if total <= most:
            bound = sorted(changes.keys() - methods.free_fields(config.method))
            where = f" (in a new workdir: {', '.join(bound)} may not change)" if bound else ""
            return ConfigError(message, f"{total / GIB:.2f} GiB with {flags}{where}")
    return ConfigError(
        message,
        "nothing that was tried fits; make the models smaller, or share the state among more "
        "devices with config.parallel.mode=mesh and config.parallel.fsdp",
    )


def _flag(name: str, value: Any) -> str:
    text = str(value).replace(" ", "")
    return f"--config.{name}=" + (f'"{text}"' if isinstance(value, tuple) else text)
