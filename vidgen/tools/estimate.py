"""What a step of a config takes, read from its compiled program: nothing is allocated or run.

    print(report(estimate(config, listed(config))))   # as `vidgen train --dry-run`

The compiler says what a device holds and computes; what devices exchange stands in its program.
docs/scaling.md reads these figures and says how far they can be trusted.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vidgen import config as configs
from vidgen import methods
from vidgen.data.listing import Source, is_toy, open_source
from vidgen.data.looks import counts
from vidgen.data.pack import Pack
from vidgen.data.settings import pack_settings
from vidgen.data.stream import empty_batch
from vidgen.data.toy import ToySource
from vidgen.run import compiling, setup
from vidgen.runtime import devices
from vidgen.tools.collectives import SENT, Exchange, collectives, sent

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is known of a step before it is compiled.

    Attributes:
      where: The placement, in words.
      clips: Clips of a step, over all devices.
      parameters: Numbers of the generator and of the discriminator, sharded or not.
      memory: Bytes on each device by part.
    """

    where: str
    clips: int
    parameters: dict[str, int]
    memory: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Estimate(Sizes):
    """What one step takes, with penalties.

    Attributes:
      total: Bytes on each device, as the compiler counts them.
      flops: Operations of each device.
      traffic: Bytes that each device moves between its memory and its cores.
      exchanges: Collectives.
    """

    total: int
    flops: float
    traffic: float
    exchanges: tuple[Exchange, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A step that could be compiled: shapes and where they lie.

    Attributes:
      config: The run's.
      experiment: The config, built.
      placed: Where it lies.
      state: Shapes of the state.
      batch: Shapes of the batch of one call.
    """

    config: configs.Config
    experiment: setup.Experiment
    placed: devices.Placement
    state: Any
    batch: dict[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published figures of a chip; docs/scaling.md has the sources.

    Attributes:
      flops: Peak in FLOP/s, bfloat16, dense.
      memory: Bytes per second of its memory.
      link: Bytes per second that it sends to chips of its node.
      node: Chips of a node.
      network: Bytes per second that it sends beyond the node.
    """

    flops: float
    memory: float
    link: float
    node: int
    network: float


CHIPS = {
    "H100 SXM": Chip(989e12, 3.35e12, link=450e9, node=8, network=50e9),
    "TPU v5e": Chip(197e12, 819e9, link=200e9, node=256, network=6.4e12 / 8 / 256),
}
SHARE = 0.3  # of a chip's peak that a step is taken to reach: an assumption


Listed = Pack | Source | ToySource


def listed(config: configs.Config) -> Listed:
    """Lists a config's clips, their classes and columns; decodes and packs none.

    Raises:
      DataError: There are no clips.
    """
    data = config.data
    if not is_toy(data.path) and (pathlib.Path(data.path) / "pack.json").is_file():
        return Pack(data.path)
    return open_source(data.path, pack_settings(data))


def layout(config: configs.Config, store: Listed) -> Layout:
    """Builds a config for the devices at hand; compiles and allocates nothing.

    Args:
      config: A config that `vidgen.config.validate` took.
      store: Its clips, as from `listed`.

    Raises:
      ConfigError: The config cannot be built, or does not fit the devices.
    """
    labels, looks = len(store.classes), config.data.get("looks", 1)
    if looks > 1:
        label = store.columns.get("label", np.zeros(len(store), np.int32))
        labels = sum(counts(label, max(labels, 1), looks))
    experiment = methods.experiment(config, labels)
    placed = setup.placement(config, experiment.together)
    state = placed.abstract(jax.eval_shape(experiment.init, config.seed))
    return Layout(config, experiment, placed, state, _batch(config, store, placed, experiment))


def sizes(step: Layout) -> Sizes:
    """Reckons what a step holds, but for what only its compiler knows."""
    state, placed = step.state, step.placed
    players = {"generator": state.gen}
    if getattr(state, "dis", None) is not None:  # not every method has one
        players["discriminator"] = state.dis
    count, batch_size = placed.mesh.size, step.config.training.batch_size
    shards, each = placed.mesh.shape[devices.FSDP], batch_size // count
    mode = placed.mode if shards == 1 else f"{placed.mode}, fsdp={shards}"
    return Sizes(
        where=f"{count} x {placed.mesh.devices.flat[0].device_kind}, {mode}, {each} clips on each",
        clips=batch_size,
        parameters={name: _numbers(part) for name, part in players.items()},
        memory={
            **{name: _held(part) for name, part in players.items()},
            "average": _held(state.ema),
            "optimizers": sum(_held(part) for n, part in vars(state).items() if n.endswith("_opt")),
            "batch": _held(step.batch),
        },
    )


def compiled(step: Layout) -> Estimate:
    """Compiles a step and reads what it takes: of several phases, that which needs the most."""
    each = [_compiled(step, one) for one in step.experiment.fullest]
    return max(each, key=lambda found: found.total)


def _compiled(step: Layout, function: Callable) -> Estimate:
    placed, known = step.placed, sizes(step)
    lowered: Any = placed.compile(function, step.state)
    program = lowered.lower(step.state, step.batch).compile()
    memory, cost = program.memory_analysis(), program.cost_analysis()
    calls, repeat = placed.dispatch, 1
    if jax.default_backend() != "cpu":  # loops, of which the compiler counts one round
        calls, repeat = 1, 1 if placed.ordered else placed.parts
    return Estimate(
        where=known.where,
        clips=known.clips,
        parameters=known.parameters,
        memory={**known.memory, "temporaries": memory.temp_size_in_bytes},
        total=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        flops=cost["flops"] * repeat / calls,
        traffic=cost["bytes accessed"] * repeat / calls,
        exchanges=tuple(
            dataclasses.replace(one, times=one.times / placed.dispatch)
            for one in collectives(program.as_text(), placed.mesh.size)
        ),
    )


def estimate(config: configs.Config, store: Listed) -> Estimate:
    """Compiles the step of a config for the devices at hand and reads what it takes.

    Args:
      config: A config that `vidgen.config.validate` took.
      store: Its clips, as from `listed`.

    Raises:
      ConfigError: The config cannot be built, or does not fit the devices.
    """
    return compiled(layout(config, store))


def dry_run(config: configs.Config) -> None:
    """Prints what a step of a config takes: sizes at once, the rest when it is compiled.

    The program is the one that the training runs, so it is kept in the cache for that.

    Raises:
      ConfigError: The config cannot be built, or does not fit the devices.
      DataError: There are no clips.
    """
    step = layout(config, listed(config))
    if jax.process_index() == 0:
        print(report_sizes(sizes(step)), flush=True)
    kind = next(iter(step.experiment.steps))
    with compiling.announced(config, kind):
        found = compiled(step)
    if jax.process_index() == 0:
        print(report_program(found, config.parallel.compute))


def _batch(
    config: configs.Config, store: Listed, placed: devices.Placement, experiment: setup.Experiment
) -> dict[str, Any]:
    """Returns the shapes of a call's batch, lying as `placed.put` would have it."""
    data, lead = config.data, () if placed.dispatch == 1 else (placed.dispatch,)
    clips, sharding = (config.training.batch_size,), placed.rows
    if placed.mode == "pmap":
        count = len(placed.mesh.local_devices)
        clips = (count, clips[0] // jax.process_count() // count)
        local = Mesh(np.array(placed.mesh.local_devices), devices.DATA)
        sharding = NamedSharding(local, PartitionSpec(*[None] * len(lead), devices.DATA))
    columns = dict(store.columns)
    if data.get("looks", 1) > 1:
        columns.setdefault("label", np.zeros(0, np.int32))
    empty = empty_batch(columns, data.frames, data.size)
    batch = devices.numeric(setup.conditioned(experiment, empty))
    return {
        name: jax.ShapeDtypeStruct((*lead, *clips, *x.shape[1:]), x.dtype, sharding=sharding)
        for name, x in batch.items()
    }


def _numbers(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _held(tree: Any) -> int:
    """Returns the bytes of a tree of shapes that lie on each device."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        total += math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return total


def predict(found: Estimate, chip: Chip, share: float = SHARE) -> dict[str, float]:
    """Predicts the time of a step on chips from their published figures; nothing is measured.

    Operations and memory traffic are taken to overlap, exchanges to overlap with nothing.

    Args:
      found: What a step takes.
      chip: What each device is.
      share: Share of the peak that the operations reach.

    Returns:
      Seconds: `operations`, `traffic`, `exchange` and `step`. The clips per second of each device
      over those of a device that has nothing to exchange: `efficiency`, and `least`, what that
      would be if the traffic took no time.
    """
    operations = found.flops / (share * chip.flops)
    traffic = found.traffic / chip.memory
    exchange = sum(one.times * sent(one) / _link(one, chip) for one in found.exchanges)
    alone = max(operations, traffic)
    return {
        "operations": operations,
        "traffic": traffic,
        "exchange": exchange,
        "step": alone + exchange,
        "efficiency": alone / (alone + exchange),
        "least": operations / (operations + exchange),
    }


def _link(one: Exchange, chip: Chip) -> float:
    """Returns the bytes per second that each device of a group can send.

    Rings over several nodes leave each by the network of all of its members.
    """
    near = sum(device // chip.node == one.group[0] // chip.node for device in one.group)
    return chip.link if near == len(one.group) else min(chip.link, near * chip.network)


def report(found: Estimate, compute: str = "bfloat16") -> str:
    """Returns an estimate as a table; arguments as for `report_program`."""
    return f"{report_sizes(found)}\n{report_program(found, compute)}"


def report_sizes(known: Sizes) -> str:
    """Returns what is known before compiling as a table."""
    lines = [f"{known.where}, {known.clips} in a step"]
    lines += [f"{name:16s}{count:14,d} parameters" for name, count in known.parameters.items()]
    lines += ["memory of each device"]
    lines += [_bytes_line(*part) for part in known.memory.items() if part[0] != "temporaries"]
    return "\n".join(lines)


def _bytes_line(name: str, size: int) -> str:
    return f"  {name:14s}{size / MIB:14,.1f} MiB"


def report_program(found: Estimate, compute: str = "bfloat16") -> str:
    """Returns what a compiled step takes beside its sizes, as a table.

    Args:
      found: What a step takes.
      compute: Type of the computation. The prediction knows the peak of bfloat16 alone, so it is
        left out for another.
    """
    lines = [_bytes_line("temporaries", found.memory["temporaries"])]
    lines += [_bytes_line("total", found.total)]
    lines += ["a step of each device"]
    lines += [f"  {'operations':14s}{found.flops / 1e9:14,.1f} GFLOP"]
    lines += [f"  {'memory traffic':14s}{found.traffic / 1e9:14,.1f} GB"]
    for kind in SENT:
        if some := [one for one in found.exchanges if one.kind == kind]:
            size = sum(one.times * one.size for one in some) / MIB
            total = sum(one.times * sent(one) for one in some) / MIB
            number = sum(one.times for one in some)
            lines += [f"  {kind:18s}{size:10,.1f} MiB in {number:g}, {total:,.1f} MiB sent"]
    if compute == "bfloat16":
        lines += [f"predicted, not measured, at {SHARE:.0%} of the peak (docs/scaling.md)"]
        for name, chip in CHIPS.items():
            s = predict(found, chip)
            lines += [
                f"  {name:10s}{1e3 * s['step']:10.1f} ms: operations {1e3 * s['operations']:.1f} "
                f"or traffic {1e3 * s['traffic']:.1f}, exchange {1e3 * s['exchange']:.1f}; "
                f"{found.clips / s['step']:,.0f} clips/s, efficiency {s['least']:.0%} "
                f"to {s['efficiency']:.0%}"
            ]
    return "\n".join(lines)
