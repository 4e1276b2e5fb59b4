"""Fields of a config: default, range and comment of each in one place; those that methods share.

A section is a dict of fields by name. What a method reads beyond the shared sections stands in the
method's own file (`FIELDS`), and what a network takes stands in the network's class.

Durations are in thousands of clips seen (kclips). A schedule is `constant(value)` or
`cosine(start, end, kclips)`.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference

from vidgen.frame_size import LARGEST


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a config.

    Attributes:
      default: Its value unless a config says otherwise; its type is the field's. A dict with
        `start`, `end` and `kclips` is a schedule, whose start and end are in the range.
      comment: What it is, in a few words.
      least: Smallest value, itself allowed; of each item of a tuple. None for any.
      most: Largest value, itself allowed. None for any.
      below: Upper bound, itself not allowed. None for any.
      choices: Names that it takes; of each item of a tuple. Empty for any.
      length: Number of items of a tuple; 0 for any.
      pair: Whether a pair of such whole numbers, a tuple, is taken as well as one.
      free: Whether it may change between the starts of a run, whose result it does not change.
    """

    default: Any
    comment: str
    least: float | None = None
    most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    length: int = 0
    pair: bool = False
    free: bool = False

    def range(self) -> str:
        """Returns in words which values are taken; empty for all of the default's type."""
        if self.choices:
            return "one of " + ", ".join(repr(choice) for choice in self.choices)
        if self.least is not None and self.most is not None:
            most = f"{self.most:g}" if self.most < 1e6 else str(int(self.most))
            return f"{self.least:g} to {most}"
        if self.least is not None and self.below is not None:
            return f"in [{self.least:g}, {self.below:g})"
        return "" if self.least is None else f"at least {self.least:g}"


Section = Mapping[str, "Field | Section"]


def constant(value: float) -> dict[str, float]:
    """Returns a schedule that stays at one value."""
    return {"start": value, "end": value, "kclips": 0.0}


def cosine(start: float, end: float, kclips: float = 0.0) -> dict[str, float]:
    """Returns a schedule from `start` to `end` over `kclips` (0: the whole training), then flat."""
    return {"start": start, "end": end, "kclips": kclips}


DATA: Section = {
    "path": Field("", "folder, archive, array, manifest, pack, or 'toy'; docs/data.md"),
    "frames": Field(16, "length of a training window", least=1, most=2**20),
    "stride": Field(
        1, "take every n-th frame; 0: chosen by the clips (docs/data.md)", least=0, most=10_000
    ),
    "fps": Field(
        0.0, "resample to this rate by true time stamps; 0: as recorded", least=0, most=1000
    ),
    "size": Field(
        64,
        "of frames in pixels: the side of squares, or (height, width)",
        least=8,
        most=LARGEST,
        pair=True,
    ),
    "crop": Field(
        "center",
        "where frames of the size are cut from wider or higher ones",
        choices=("center", "random"),
    ),
    "flip": Field(False, "mirror half of the clips left to right"),
    "labels": Field(
        "folder", "'folder': class = first-level folder; 'none': one", choices=("folder", "none")
    ),
    "captions": Field(
        "files",
        "'files': beside the clips; 'names': of clips without, words of folders and file",
        choices=("files", "names"),
    ),
    "short": Field(
        "skip", "clips shorter than the window: leave out, or repeat", choices=("skip", "loop")
    ),
    "background": Field((0, 0, 0), "RGB under transparent pixels", least=0, most=255, length=3),
    "strict": Field(False, "stop at the first file that cannot be used", free=True),
    "cache": Field("", "folder of packs; '': $VIDGEN_CACHE or ~/.cache/vidgen", free=True),
    "workers": Field(2, "processes that decode", least=1, most=1024, free=True),
    "limits": {  # a file beyond any of these is refused, by name
        "frames": Field(100_000, "frames of a file", least=1),
        "pixels": Field(50_000_000, "pixels of a frame", least=1),
        "bytes": Field(
            4_000_000_000, "bytes of a file's frames at the packed size", least=1, most=2**60
        ),
        "seconds": Field(
            120.0, "seconds of processor time that a file may take", least=0.1, most=1e6
        ),
    },
}
PICK: Section = {
    "pick": Field(0, "frames drawn from each window for a training step; 0: all", least=0),
}
LOOKS: Section = {
    "looks": Field(
        1,
        "groups of alike clips in a class, told to the networks; a sample draws one",
        least=1,
        most=1000,
    ),
}
OPTIMIZER: Section = {
    "name": Field("adam", "optimizer", choices=("adam", "adamw", "rmsprop", "adadelta", "sgd")),
    "learning_rate": Field(constant(2e-4), "learning rate", least=0, most=1000),
    "warmup_kclips": Field(0.0, "the learning rate rises linearly from 0", least=0),
    "b1": Field(0.0, "adam, adamw; momentum of rmsprop and sgd", least=0, below=1),
    "b2": Field(
        constant(0.99),
        "adam, adamw; decay of rmsprop (its start), rho of adadelta",
        least=0,
        below=1,
    ),
    "weight_decay": Field(0.0, "adamw", least=0),
    "l2": Field(0.0, "times each parameter, added to its gradient", least=0),
    "clip": Field(0.0, "largest norm of all gradients of an update; 0: any", least=0),
}
TRAINING: Section = {
    "kclips": Field(1000.0, "length of the training", least=0.001),
    "batch_size": Field(16, "clips of a step, over all devices", least=1, most=2**20),
    "ema_kclips": Field(5.0, "half-life of the averaged generator", least=0),
    "ema_rampup": Field(0.1, "at most this share of the clips seen; early ones fade", least=0),
    "log_kclips": Field(1.0, "between lines of metrics.jsonl", least=0, free=True),
    "sample_kclips": Field(
        50.0, "between sample videos; 0: only at the end", least=0, free=True
    ),
    "save_kclips": Field(50.0, "between checkpoints; 0: only at the end", least=0, free=True),
    "watch_kclips": Field(
        50.0, "between measures of samples, for alarms; 0: none", least=0, free=True
    ),
    "keep": Field(3, "newest checkpoints kept", least=1, free=True),
    "keep_best": Field(
        "", "a measure of samples by which the best checkpoint is kept, too",
        choices=("", "distance", "content", "motion", "noise"),
    ),
    "full_disk": Field(
        "stop", "no space on the disk: stop, or go on without", choices=("stop", "continue"),
        free=True,
    ),
}  # fmt: skip
PARALLEL: Section = {
    "mode": Field(
        "jit", "jit (one device), mesh, pmap", choices=("jit", "mesh", "pmap"), free=True
    ),
    "data": Field(
        0, "mesh: copies of the state, each trained on its clips; 0: all", least=0, free=True
    ),
    "fsdp": Field(1, "mesh: devices that share one copy", least=1, free=True),
    "microbatches": Field(
        1, "groups of a device's clips, one after another, for less memory", least=1, free=True
    ),
    "remat": Field(
        (), "compute features again in the backward pass, for less memory",
        choices=("generator", "discriminator"), free=True,
    ),
    "dispatch": Field(1, "steps of one call, for small models on fast devices", least=1),
    "deterministic": Field(False, "the same bits on any number of devices (mesh, pmap)"),
    "shards": Field(
        8, "deterministic: groups of a batch; a multiple of any number of devices", least=1
    ),
    "distributed": Field(
        False, "several processes, as the cluster's environment says", free=True
    ),
    "compute": Field(
        "float32", "parameters are float32 in both", choices=("float32", "bfloat16")
    ),
}  # fmt: skip
SAMPLING: Section = {
    "frames": Field(32, "length of the sample videos", least=1, most=2**20, free=True),
    "clips": Field(16, "how many, seeds 0, 1, 2, ...", least=1, most=10_000, free=True),
    "fps": Field(0.0, "0: that of the data; else 0.1 and more", least=0, most=1000, free=True),
}
TRAINED: Section = {
    "data": DATA,
    "optimizer": OPTIMIZER,
    "training": TRAINING,
    "parallel": PARALLEL,
    "sampling": SAMPLING,
}
FITTED: Section = {
    "data": DATA,
    "training": {"kclips": Field(1.0, "clips of the stream that it is fitted to", least=0.001)},
    "sampling": SAMPLING,
}


def merged(*sections: Section, **defaults: Any) -> dict[str, Any]:
    """Joins sections, the inner ones too, and changes defaults.

    Args:
      *sections: A later field takes the place of an earlier one of its name.
      **defaults: Other defaults by the name of the field; `name={...}` for those of a section.

    Raises:
      KeyError: There is no such field.
    """
    joined: dict[str, Any] = {}
    for section in sections:
        for name, field in section.items():
            before = joined.get(name)
            if isinstance(field, Mapping) and isinstance(before, Mapping):
                field = merged(before, field)
            joined[name] = field
    for name, value in defaults.items():
        field = joined[name]
        if isinstance(field, Mapping):
            joined[name] = merged(field, **value)
        else:
            joined[name] = dataclasses.replace(field, default=value)
    return joined


def flat(section: Section, prefix: str = "") -> Iterator[tuple[str, Field]]:
    """Yields `(dotted name, field)` of each leaf; a schedule is three: start, end and kclips."""
    for name, field in section.items():
        if isinstance(field, Mapping):
            yield from flat(field, f"{prefix}{name}.")
        elif isinstance(field.default, dict):
            for leaf, value in field.default.items():
                bounds = dict.fromkeys(("most", "below")) if leaf == "kclips" else {}
                yield f"{prefix}{name}.{leaf}", dataclasses.replace(field, default=value, **bounds)
        else:
            yield prefix + name, field


def defaults(section: Section) -> ConfigDict:
    """Returns a config of the defaults of a section, with those of its sections inside."""
    return ConfigDict(
        {
            name: defaults(field)
            if isinstance(field, Mapping)
            else ConfigDict(field.default)
            if isinstance(field.default, dict)
            else FieldReference(field.default, object)  # one that takes a pair in its place
            if field.pair
            else field.default
            for name, field in section.items()
        }
    )
