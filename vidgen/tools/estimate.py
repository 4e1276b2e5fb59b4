"""What a step of a config takes, read from its compiled program: nothing is allocated or run.

    print(report(estimate(config, listed(config))))   # as `vidgen train --dry-run`

The compiler says what a device holds and computes; what devices exchange stands in its program.
docs/scaling.md reads these figures and says how far they can be trusted.
"""

import copy
import dataclasses
import gc
import math
import pathlib
import re
import traceback
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vidgen import config as configs
from vidgen.data.listing import Source, is_toy, open_source
from vidgen.data.pack import Pack
from vidgen.data.settings import pack_settings
from vidgen.data.stream import empty_batch
from vidgen.data.toy import ToySource
from vidgen.errors import ConfigError
from vidgen.run import artifacts, logs, train
from vidgen.runtime import placement

MIB, GIB = 2**20, 2**30


@dataclasses.dataclass(frozen=True)
class Exchange:
    """A collective of a program.

    Attributes:
      kind: `all-reduce`, `all-gather`, ...
      size: Bytes of its result on one device.
      times: How often a step runs it.
      group: The devices of the first group that does it, by their places in the mesh.
    """

    kind: str
    size: int
    times: float
    group: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What one step takes, with penalties.

    Attributes:
      where: The placement, in words.
      clips: Clips of a step, over all devices.
      parameters: Numbers of the generator and of the discriminator, sharded or not.
      memory: Bytes on each device by part.
      total: Bytes on each device, as the compiler counts them.
      flops: Operations of each device.
      traffic: Bytes that each device moves between its memory and its cores.
      exchanges: Collectives.
    """

    where: str
    clips: int
    parameters: dict[str, int]
    memory: dict[str, int]
    total: int
    flops: float
    traffic: float
    exchanges: tuple[Exchange, ...]


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

# Bytes that a device of n sends by the usual algorithms on rings, over the bytes of its result.
SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}


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


def estimate(config: configs.Config, store: Listed) -> Estimate:
    """Compiles the step of a config for the devices at hand and reads what it takes.

    Args:
      config: A config that `vidgen.config.validate` took.
      store: Its clips, as from `listed`.

    Raises:
      ConfigError: The config cannot be built, or does not fit the devices.
    """
    experiment = train.build(config, len(store.classes))
    placed = train.placement(config, experiment.alone)
    state = placed.abstract(jax.eval_shape(experiment.init, config.seed))
    batch = _batch(config, store, placed)
    program: Any = placed.compile(experiment.step, state)
    compiled = program.lower(state, batch).compile()

    sizes, cost = compiled.memory_analysis(), compiled.cost_analysis()
    players = {"generator": state.gen}
    if hasattr(state, "dis"):  # not every method has one
        players["discriminator"] = state.dis
    count, calls, repeat = placed.mesh.size, placed.dispatch, 1
    if jax.default_backend() != "cpu":  # loops, of which the compiler counts one round
        calls, repeat = 1, 1 if placed.ordered else placed.parts
    shards, each = placed.mesh.shape[placement.FSDP], config.training.batch_size // count
    mode = placed.mode if shards == 1 else f"{placed.mode}, fsdp={shards}"
    return Estimate(
        where=f"{count} x {placed.mesh.devices.flat[0].device_kind}, {mode}, {each} clips on each",
        clips=config.training.batch_size,
        parameters={name: _numbers(part) for name, part in players.items()},
        memory={
            **{name: _held(part) for name, part in players.items()},
            "average": _held(state.ema),
            "optimizers": sum(_held(part) for n, part in vars(state).items() if n.endswith("_opt")),
            "batch": _held(batch),
            "temporaries": sizes.temp_size_in_bytes,
        },
        total=sizes.argument_size_in_bytes
        + sizes.output_size_in_bytes
        - sizes.alias_size_in_bytes
        + sizes.temp_size_in_bytes,
        flops=cost["flops"] * repeat / calls,
        traffic=cost["bytes accessed"] * repeat / calls,
        exchanges=tuple(
            dataclasses.replace(one, times=one.times / placed.dispatch)
            for one in collectives(compiled.as_text(), count)
        ),
    )


def _batch(config: configs.Config, store: Any, placed: placement.Placement) -> dict[str, Any]:
    """Returns the shapes of a call's batch, lying as `placed.put` would have it."""
    data, lead = config.data, () if placed.dispatch == 1 else (placed.dispatch,)
    clips, sharding = (config.training.batch_size,), placed.rows
    if placed.mode == "pmap":
        devices = len(placed.mesh.local_devices)
        clips = (devices, clips[0] // jax.process_count() // devices)
        local = Mesh(np.array(placed.mesh.local_devices), placement.DATA)
        sharding = NamedSharding(local, PartitionSpec(*[None] * len(lead), placement.DATA))
    batch = placement.numeric(empty_batch(store.columns, data.frames, data.size))
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


# -------------------------------------------------------------------------------- collectives

_HEAD = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_CALLS = re.compile(r"\w=\{?(%[\w.-]+(?:, %[\w.-]+)*)")
_ROUNDS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_DONE = re.compile(rf" = (.*?) ({'|'.join(SENT)})(-start|-done)?\(([^,)]*)")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
# Groups one by one, as [groups, devices]<=[sizes]T(order), or as axes of a mesh.
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_TILED = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESHED = re.compile(
    r"replica_groups=mesh\[(.*?)\]"
    r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{(.*?)\}"
)


def collectives(text: str, devices: int) -> list[Exchange]:
    """Finds the collectives of a compiled program.

    Args:
      text: The program as HLO, from `compiled.as_text()`. A pair of `-start` and `-done` is one;
        what lies in a loop of a known number of rounds counts as often.
      devices: How many the program is for.
    """
    found: dict[str, list[Exchange]] = {}
    calls: dict[str, list[tuple[str, int]]] = {}  # who calls whom, and how often
    groups: dict[str, tuple[int, ...]] = {}  # those of -start, for their -done
    inside, entry = "", ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            inside = head[2]
            entry = inside if head[1] else entry
            found[inside], calls[inside] = [], []
            continue
        if not inside:
            continue
        rounds = _ROUNDS.search(line) if " while(" in line else None
        for names in _CALLS.findall(line):
            for name in names.split(", "):
                calls[inside].append((name[1:], int(rounds[1]) if rounds else 1))
        done = _DONE.search(line)
        if done and "metadata=" not in done[1]:  # else it is a name
            kind, part, operand = done[2], done[3], done[4].split()[-1:]
            if part == "-start":
                groups[line.split(" = ")[0].split()[-1]] = _group(line, devices)
                continue
            group = groups.get(operand[0]) if part else _group(line, devices)
            size = sum(_bytes(*shape) for shape in _SHAPE.findall(done[1]))
            found[inside].append(Exchange(kind, size, 1, group or tuple(range(devices))))
    times = dict.fromkeys(found, 0)
    times[entry] = 1
    for name in reversed(found):  # what is called is printed before who calls it
        for called, rounds in calls[name]:
            if called in times:
                times[called] += times[name] * rounds
    return [
        dataclasses.replace(one, times=times[name])
        for name, some in found.items()
        for one in some
        if times[name]
    ]


def _bytes(kind: str, shape: str) -> int:
    bits = re.search(r"\d+", kind)  # f32, bf16, f8e4m3fn; but pred, token
    each = max(int(bits[0]) // 8, 1) if bits else int(kind == "pred")
    return each * math.prod(int(n) for n in shape.split(",") if n)


def _group(line: str, devices: int) -> tuple[int, ...]:
    """Returns the first group of a collective, or all devices where the text is of another form."""

    def ints(text):
        return [int(n) for n in text.split(",")]

    def places(sizes, order):
        every = np.arange(math.prod(ints(sizes))).reshape(ints(sizes))
        return every.transpose(ints(order)) if order else every

    if found := _LISTED.search(line):
        return tuple(ints(found[1]))
    if found := _TILED.search(line):
        return tuple(places(found[2], found[3]).reshape(ints(found[1]))[0].tolist())
    if found := _MESHED.search(line):
        axes = {name: int(size) for name, size in re.findall(r"('\w+')=(\d+)", found[1])}
        chosen = [n for n, name in enumerate(axes) if name in found[4]]
        sizes = ",".join(map(str, axes.values()))
        every = places(found[2] or sizes, found[3]).reshape(ints(sizes))
        count = math.prod(every.shape[n] for n in chosen)
        every = np.moveaxis(every, chosen, range(-len(chosen), 0))
        return tuple(every.reshape(-1, count)[0].tolist())
    return tuple(range(devices))


# -------------------------------------------------------------------------------- what it means


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
    exchange = sum(one.times * _sent(one) / _link(one, chip) for one in found.exchanges)
    alone = max(operations, traffic)
    return {
        "operations": operations,
        "traffic": traffic,
        "exchange": exchange,
        "step": alone + exchange,
        "efficiency": alone / (alone + exchange),
        "least": operations / (operations + exchange),
    }


def _sent(one: Exchange) -> float:
    """Returns the bytes that a device sends."""
    return SENT[one.kind](len(one.group)) * one.size


def _link(one: Exchange, chip: Chip) -> float:
    """Returns the bytes per second that each device of a group can send.

    Rings over several nodes leave each by the network of all of its members.
    """
    near = sum(device // chip.node == one.group[0] // chip.node for device in one.group)
    return chip.link if near == len(one.group) else min(chip.link, near * chip.network)


def report(found: Estimate, compute: str = "bfloat16") -> str:
    """Returns an estimate as a table.

    Args:
      found: What a step takes.
      compute: Type of the computation. The prediction knows the peak of bfloat16 alone, so it is
        left out for another.
    """
    lines = [f"{found.where}, {found.clips} in a step"]
    lines += [f"{name:16s}{count:14,d} parameters" for name, count in found.parameters.items()]
    lines += ["memory of each device"]
    parts = {**found.memory, "total": found.total}
    lines += [f"  {name:14s}{size / MIB:14,.1f} MiB" for name, size in parts.items()]
    lines += ["a step of each device"]
    lines += [f"  {'operations':14s}{found.flops / 1e9:14,.1f} GFLOP"]
    lines += [f"  {'memory traffic':14s}{found.traffic / 1e9:14,.1f} GB"]
    for kind in SENT:
        if some := [one for one in found.exchanges if one.kind == kind]:
            size = sum(one.times * one.size for one in some) / MIB
            sent = sum(one.times * _sent(one) for one in some) / MIB
            number = sum(one.times for one in some)
            lines += [f"  {kind:18s}{size:10,.1f} MiB in {number:g}, {sent:,.1f} MiB sent"]
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


# -------------------------------------------------------------------------------- out of memory


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
    each = training.batch_size // train.placement(config).mesh.size
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
    store = listed(config)
    logs.say("out of memory; looking for the nearest setting that fits, by compiling each")
    limit = limit or memory_limit()
    try:
        taken = estimate(config, store)
    except jax.errors.JaxRuntimeError:
        return ConfigError(f"out of memory: {first}", "set config.parallel.microbatches")
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in taken.memory.items())
    have = f" of {limit / GIB:.2f}" if limit else ""
    message = f"out of memory: a step takes {taken.total / GIB:.2f}{have} GiB a device: {parts}"
    # Where it should have fitted, a part of the memory was not to be had.
    most = limit if limit and limit < taken.total else 0.9 * taken.total
    for other in smaller(config):
        try:
            total = estimate(other, store).total
        except (ConfigError, jax.errors.JaxRuntimeError):  # does not divide; not even compiled
            continue
        changes = {name: value for name, _, value in configs.differences(config, other)}
        flags = " ".join(_flag(name, value) for name, value in changes.items())
        logs.say(f"{flags}: {total / GIB:.2f} GiB")
        if total <= most:
            bound = [name for name in changes if not name.startswith(artifacts.FREE)]
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
