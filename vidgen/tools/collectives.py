"""What devices exchange: the collectives of a compiled program, read from its text."""

import dataclasses
import math
import re

import numpy as np


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


# Bytes that a device of n sends by the usual algorithms on rings, over the bytes of its result.
SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}
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


def sent(one: Exchange) -> float:
    """Returns the bytes that a device sends."""
    return SENT[one.kind](len(one.group)) * one.size
