"""Placing a run on devices: shardings, compiling; nothing else in vidgen knows how many there are.

A `Placement` says where state and clips lie and compiles steps for it. The state is never stacked:
in every mode it is one tree of whole (or sharded) arrays, so that a checkpoint fits all of them.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vidgen.errors import ConfigError
from vidgen.training import averaging

DATA, FSDP = "data", "fsdp"
AXES = (DATA, FSDP)
SHARDED = 2**14  # parameters; a smaller leaf costs more to gather than to keep


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a run lies; made by `place`.

    Attributes:
      mode: `jit`, `mesh` or `pmap`.
      mesh: All devices, `[data, fsdp]`.
      parts: Parts of a device's clips that are computed one after another.
      ordered: Whether sums over parts have an order that no device changes.
      dispatch: Steps that one call of a compiled step makes.
    """

    mode: str
    mesh: Mesh
    parts: int
    ordered: bool
    dispatch: int

    @property
    def host(self) -> tuple[int, int]:
        """Which part of each global batch this process reads: `(i, n)`."""
        return jax.process_index(), jax.process_count()

    @property
    def whole(self) -> NamedSharding:
        """The sharding of what every device holds."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def rows(self) -> NamedSharding:
        """The sharding of a batch: clips over all devices."""
        spec = PartitionSpec(AXES) if self.dispatch == 1 else PartitionSpec(None, AXES)
        return NamedSharding(self.mesh, spec)

    def shardings(self, tree: Any) -> Any:
        """Returns the sharding of each array of a state.

        Leaves of at least 2^14 numbers are split along their largest axis that divides by the
        number of shards; smaller ones, and those without such an axis, are whole on every device.
        The optimizer's moments and the average have the shapes of their parameters, so they lie
        as these do.
        """
        count = self.mesh.shape[FSDP]

        def one(leaf):
            axes = [n for n, size in enumerate(leaf.shape) if size % count == 0]
            if count == 1 or math.prod(leaf.shape) < SHARDED or not axes:
                return self.whole
            axis = max(axes, key=lambda n: (leaf.shape[n], n))
            return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, FSDP))

        return jax.tree.map(one, tree)

    def bytes(self, tree: Any) -> int:
        """Returns the bytes that a state takes on each device."""
        each = zip(jax.tree.leaves(tree), jax.tree.leaves(self.shardings(tree)), strict=True)
        return sum(math.prod(where.shard_shape(x.shape)) * x.dtype.itemsize for x, where in each)

    def init(self, function: Callable[[int], Any], seed: int) -> Any:
        """Makes a state where it will lie: no device ever holds more than its shards of it."""
        shardings = self.shardings(jax.eval_shape(function, seed))
        # A program that runs once: compiled in less than half the time without optimization.
        options = {"xla_backend_optimization_level": 0}
        program = functools.partial(function, seed)
        return jax.jit(program, out_shardings=shardings, compiler_options=options)()

    def abstract(self, tree: Any) -> Any:
        """Gives the shapes of a state the shardings to restore it with."""
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            tree,
            self.shardings(tree),
        )

    def put(self, batch: dict[str, np.ndarray]) -> Any:
        """Puts this process's part of a batch on its devices, as its part of the global batch.

        What devices cannot hold, as captions, stays behind; see `numeric`.
        """
        batch = numeric(batch)
        if self.mode == "pmap":
            count = len(self.mesh.local_devices)
            return {k: v.reshape(count, -1, *v.shape[1:]) for k, v in batch.items()}
        if jax.process_count() == 1:
            return jax.device_put(batch, self.rows)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.rows, x), batch)

    def whole_copy(self, tree: Any) -> Any:
        """Returns a tree of arrays as NumPy arrays, whole, on every process; all must call it."""
        gathered = jax.jit(lambda x: x, out_shardings=self.whole)
        return jax.tree.map(lambda x: np.asarray(x if x.is_fully_replicated else gathered(x)), tree)

    def compile(self, step: Callable, state: Any, batch: Any = None) -> Callable:
        """Compiles a step: at its first call, or at once where a batch shows its shapes.

        Args:
          step: `(state, batch, *, mean) -> (state, metrics)`, pure; what it computes of clips it
            averages by `mean`.
          state: The state, or its shapes as from `abstract`.
          batch: A batch as `put` gives it.

        Returns:
          `(state, batch) -> (state, metrics)`, which takes over the state's buffers. With
          `dispatch` steps, each array of the batch has one more axis before the clips, and each
          metric is `[dispatch]`. Where the batch has `stop`, so have the metrics: its largest.
        """
        mean = functools.partial(
            averaging.mean,
            mesh=self.mesh if self.mode == "mesh" else None,
            axis=DATA if self.mode == "pmap" else None,
            parts=self.parts,
            loop=jax.default_backend() != "cpu",
            ordered=self.ordered,
        )

        def one(state, batch):
            batch = dict(batch)
            stop = batch.pop("stop", None)
            state, metrics = step(state, batch, mean=mean)
            if stop is not None:
                stop = jnp.max(stop)
                metrics["stop"] = jax.lax.pmax(stop, DATA) if self.mode == "pmap" else stop
            return state, metrics

        def run(state, batch):
            if self.dispatch == 1:
                return one(state, batch)
            # Laid out one by one on a CPU, for the reason that averaging.mean gives.
            unroll = self.dispatch if jax.default_backend() == "cpu" else 1
            return jax.lax.scan(one, state, batch, unroll=unroll)

        if self.mode == "pmap":
            program: Any = jax.pmap(
                run, axis_name=DATA, in_axes=(None, 0), out_axes=(None, None), donate_argnums=0,
                devices=self.mesh.devices.flatten().tolist(),
            )  # fmt: skip
            if batch is not None and jax.process_count() > 1:
                # For the cache on disk alone: what it returns would not take its own outputs.
                program.lower(state, batch).compile()
            return program
        kept = self.shardings(state)
        program = jax.jit(
            run,
            in_shardings=(kept, self.rows),
            out_shardings=(kept, self.whole),
            donate_argnums=0,
        )
        return program if batch is None else program.lower(state, batch).compile()


def numeric(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of a batch that devices can hold: all but text."""
    return {name: values for name, values in batch.items() if values.dtype.kind in "biufc"}


def memory() -> int:
    """Returns the bytes of the machine's memory; 0 where that is not known."""
    if not hasattr(os, "sysconf"):  # on Windows
        return 0
    return max(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), 0)


def room(device: Any) -> int | None:
    """Returns the bytes that a device can hold, where that is known.

    Of a CPU it is the machine's memory, over as many devices as it is said to be.
    """
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    return memory() // jax.local_device_count() or None


def place(
    mode: str,
    *,
    batch_size: int,
    fsdp: int = 1,
    microbatches: int = 1,
    shards: int = 0,
    dispatch: int = 1,
    devices: Sequence[Any] | None = None,
) -> Placement:
    """Chooses where a run lies.

    Args:
      mode: `jit`, one device; `mesh`, one program over all devices of all hosts, whose state may
        lie in shards; `pmap`, one program a device.
      batch_size: Clips of a global batch.
      fsdp: Devices that share one copy of the state (`mesh`); the copies are data parallel.
      microbatches: Parts of a device's clips, one after another.
      shards: For bits that do not depend on the devices: the parts into which the global batch is
        cut on any number of them, whose sums are taken in order. 0: without.
      dispatch: Steps of one call.
      devices: Which; all by default (`jit` takes the first).

    Raises:
      ConfigError: Unknown mode, or sizes that do not divide.
    """
    devices = list(jax.devices() if devices is None else devices)
    if mode not in ("jit", "mesh", "pmap"):
        raise ConfigError(f"config.parallel.mode is {mode!r}", "one of jit, mesh, pmap")
    if mode == "jit":
        devices = devices[:1]
        if jax.process_count() > 1:
            raise ConfigError(
                f"config.parallel.mode is 'jit', and there are {jax.process_count()} processes",
                "mesh and pmap run on more than one",
            )
    if mode == "pmap" and dispatch > 1:
        raise ConfigError(
            f"config.parallel.dispatch is {dispatch}, and config.parallel.mode is 'pmap'",
            "several steps in one call need mode=jit or mode=mesh",
        )
    count = len(devices)
    if fsdp > 1 and (mode != "mesh" or shards):
        raise ConfigError(
            f"config.parallel.fsdp is {fsdp}",
            "a sharded state needs config.parallel.mode=mesh, without deterministic",
        )
    if count % fsdp:
        raise ConfigError(
            f"config.parallel.fsdp is {fsdp}, which does not divide {count} devices",
            f"one of {', '.join(str(n) for n in range(1, count + 1) if count % n == 0)}",
        )
    if shards and shards % count:
        raise ConfigError(
            f"config.parallel.shards is {shards}, not a multiple of {count} devices",
            f"set it to {count * max(round(shards / count), 1)}, from the start of the run",
        )
    if shards and microbatches > 1:
        raise ConfigError(
            f"config.parallel.microbatches is {microbatches}, and config.parallel.deterministic "
            "has parts of its own",
            "set config.parallel.shards instead",
        )
    pieces, whose = (shards, "config.parallel.shards") if shards else (count, "devices")
    if not shards and microbatches > 1:
        pieces, whose = count * microbatches, f"{count} devices times config.parallel.microbatches"
    if batch_size % pieces:
        raise ConfigError(
            f"config.training.batch_size is {batch_size}, not a multiple of {pieces} ({whose})",
            f"set it to {pieces * max(round(batch_size / pieces), 1)}",
        )
    # Axes must be Auto: make_mesh's default of Explicit breaks Linen and plain reshapes.
    return Placement(
        mode=mode,
        mesh=Mesh(np.array(devices).reshape(-1, fsdp), AXES),
        parts=shards // count if shards else microbatches,
        ordered=bool(shards),
        dispatch=dispatch,
    )
