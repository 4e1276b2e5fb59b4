"""Placing a pure step on devices; nothing else in vidgen knows how many there are.

`place(step, mode)` gives the compiled step and two functions that put a state and a batch where it
wants them. The state is never stacked: in every mode it is one tree of whole arrays, so that a
checkpoint fits all of them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vidgen.errors import ConfigError

AXIS = "data"
Put = Callable[[Any], Any]


def place(
    step: Callable, mode: str, *, batch_size: int, devices: Sequence[Any] | None = None
) -> tuple[Callable, Put, Put]:
    """Compiles a step for devices.

    Args:
      step: `(state, batch, *, axis) -> (state, metrics)`, pure; it averages gradients over `axis`
        unless that is None.
      mode: `jit`, one device; `mesh`, one program over all devices whose collectives the compiler
        inserts; `pmap`, one program a device with explicit averages.
      batch_size: Clips of a global batch; must divide by the number of devices.
      devices: Which devices; all by default (`jit` takes the first).

    Returns:
      `(step, put_state, put_batch)`; `step(state, batch)` donates the state's buffers.

    Raises:
      ConfigError: Unknown mode, or a batch that does not divide.
    """
    devices = list(jax.devices() if devices is None else devices)
    if mode == "jit":
        to_device = lambda tree: jax.device_put(tree, devices[0])  # noqa: E731
        return jax.jit(functools.partial(step, axis=None), donate_argnums=0), to_device, to_device
    if batch_size % len(devices):
        raise ConfigError(
            f"config.training.batch_size is {batch_size}, not a multiple of "
            f"the {len(devices)} devices",
            f"set it to {len(devices) * max(round(batch_size / len(devices)), 1)}",
        )
    # Axes must be Auto: make_mesh's default of Explicit breaks Linen and plain reshapes.
    mesh = Mesh(np.array(devices), (AXIS,))
    whole, rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))
    put_state = lambda state: jax.device_put(state, whole)  # noqa: E731
    if mode == "mesh":
        placed = jax.jit(
            functools.partial(step, axis=None),
            in_shardings=(whole, rows),
            out_shardings=(whole, whole),
            donate_argnums=0,
        )
        return placed, put_state, lambda batch: jax.device_put(batch, rows)
    if mode == "pmap":
        placed = jax.pmap(
            functools.partial(step, axis=AXIS),
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=(None, None),
            devices=devices,
        )

        def put_batch(batch):
            split = lambda x: x.reshape(len(devices), -1, *x.shape[1:])  # noqa: E731
            return jax.device_put(jax.tree.map(split, batch), rows)

        return placed, put_state, put_batch
    raise ConfigError(f"config.parallel.mode is {mode!r}", "one of jit, mesh, pmap")
