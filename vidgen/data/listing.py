"""What can be trained on: folders, archives, arrays, strips and manifests, as one list of clips.

    source = open_source("clips/")
    len(source), source.classes                   # 56, ("bend", "wave")
    source[0].frames                              # uint8 [T, H, W, 3]

Listing reads names and, of pictures and arrays, headers, in a child process (`collecting.py`); a
file is decoded only when it is asked for. What is no clip is in `source.skipped`, with its reason.
docs/data.md has the formats.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from vidgen.data import captions
from vidgen.data.attempts import HELP, once_more, watched
from vidgen.data.entry import Entry
from vidgen.data.limits import Limits
from vidgen.data.manifest import typed
from vidgen.data.settings import PackSettings
from vidgen.data.toy import ToySource
from vidgen.data.workers import Disturbed, Overtime, Worker, frame_rate, request
from vidgen.errors import ConfigError, DataError
from vidgen.text import printable
from vidgen.video.decoding import Unreadable

_WHOLE = re.compile("[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_BAD = 20  # files that end the process that lists them, at which a path is given up
UNLABELLED = "(none)"  # the class of a clip without a label where other clips have one


@dataclasses.dataclass(frozen=True)
class Clip:
    """A decoded clip.

    Attributes:
      frames: uint8 `[T, H, W, 3]`.
      times: float64 `[T]`, seconds from the start of the file.
      fps: Mean frames per second.
      info: What else is known of the file: `codec`, `pixel_format`, `interlaced`, ...
    """

    frames: np.ndarray
    times: np.ndarray
    fps: float
    info: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Source:
    """Clips as they lie on disk, in the order of their names.

    Attributes:
      root: The path that was opened.
      entries: The clips.
      classes: Names of the classes, sorted; empty where no clip has a label.
      labels: int32 `[N]`, index into `classes`; 0 where there are none.
      columns: What is known of each clip, by name, `[N]`: `label` where there are classes,
        `caption` where there are any, and further columns of a manifest; int32, float32, or
        strings in an array of objects.
      skipped: `(name, reason)` of what looked like a clip and is none.
      ignored: Number of files that do not look like clips: texts, sound. Not hidden files.
      fingerprint: Changes when a file is added, removed, renamed, relabelled or written.
      settings: How it was listed, and is decoded.
    """

    root: str
    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    labels: np.ndarray
    columns: dict[str, np.ndarray]
    skipped: tuple[tuple[str, str], ...]
    ignored: int
    fingerprint: str
    settings: PackSettings

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Clip:
        """Decodes a clip as stored, upright, in a bounded child process.

        Raises:
          DataError: It cannot be decoded; names the file and the reason.
        """
        entry = self.entries[index]
        chunks: list[np.ndarray] = []
        limits = self.settings.limits
        asked = request(entry.ref, limits, start=entry.start, end=entry.end)
        with _LOCK:
            worker = _worker(limits)

            def decode(worker: Worker) -> dict[str, Any]:
                chunks.clear()
                return worker.decode(asked, chunks.append)

            try:
                info = once_more(decode, worker, entry.name)
            except Unreadable as error:
                raise DataError(f"{entry.name}: {error}") from error
        times = np.array(info.pop("times"), np.float64)
        return Clip(np.concatenate(chunks), times, frame_rate(times, info["fps"]), info)


_LOCK = threading.Lock()
_worker = functools.lru_cache(maxsize=1)(Worker)  # one decoding process serves all `source[i]`


def open_source(
    spec: str | os.PathLike[str], settings: PackSettings | None = None
) -> Source | ToySource:
    """Opens whatever holds clips; see `list_source`, or "toy" for the built-in ones."""
    if is_toy(spec):
        return toy_source(os.fspath(spec), labels=settings.labels if settings else "folder")
    return list_source(spec, settings)


def is_toy(spec: str | os.PathLike[str]) -> bool:
    """Tells whether a path means the built-in toy clips."""
    return isinstance(spec, str) and (spec == "toy" or spec.startswith("toy:"))


def toy_source(spec: str, labels: str = "folder", **defaults: Any) -> ToySource:
    """Returns the toy clips of "toy" or "toy:clips=65536,seed=0,frames=16,size=32".

    A height and a width are `size=64x112`. With `labels="none"` they have no classes.

    Raises:
      ConfigError: The text is not of this form.
    """
    options: dict[str, Any] = dict(defaults)
    for part in filter(None, spec.removeprefix("toy").removeprefix(":").split(",")):
        name, _, value = part.partition("=")
        numbers = value.split("x", 1) if name == "size" else [value]
        known = name in ("clips", "seed", "frames", "size")
        if not known or not all(_WHOLE.fullmatch(number) for number in numbers):
            raise ConfigError(
                f"clips {spec!r}: {part!r} is not known", "write toy:clips=65536,seed=0"
            )
        options[name] = int(value) if len(numbers) == 1 else tuple(map(int, numbers))
    made = ToySource(**options)
    return made if labels == "folder" else made.without_classes()


def list_source(
    spec: str | os.PathLike[str],
    settings: PackSettings | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Source:
    """Lists the clips of a path.

    Args:
      spec: A folder of video files, frame folders, strips or arrays, at any depth; a zip or tar of
        one; a CSV manifest with the columns path, label, caption, start, end, and any others; or a
        single file.
      settings: How clips are labelled, what one may cost, and how frames will be made.
      alive: Called in this thread twice a second at least; what it raises ends the work.

    Raises:
      DataError: The path does not exist, cannot be read, or holds nothing that looks like a clip.
    """
    settings = settings or PackSettings()
    root = os.path.abspath(os.fspath(spec))
    try:
        found = _listed(root, settings.limits, alive)
    except Unreadable as error:
        raise DataError(f"{printable(root)}: {error}", "name a folder of clips") from None
    return _source(printable(root), found, settings)


@dataclasses.dataclass
class _Found:
    """What a child has told of a path; `at` is the file that it looks into, or None."""

    entries: list[Entry] = dataclasses.field(default_factory=list)
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    ignored: int = 0
    at: str | None = None

    def take(self, told: dict[str, Any]) -> None:
        for row in told.get("entries", ()):
            self.entries.append(Entry(**row | {"stamp": tuple(row["stamp"])}))
        self.skipped += [(name, why) for name, why in told.get("skipped", ())]
        self.at = told.get("at")


def _listed(root: str, limits: Limits, alive: Callable[[], None]) -> _Found:
    """Lists a path in a child process, and once more where a file ended it, without that file.

    Raises:
      Unreadable: The path cannot be listed; or too many of its files end the process.
      DataError: The machine was at fault, twice.
    """
    bad: dict[str, str] = {}
    failed: dict[str | None, Disturbed] = {}
    while True:
        found = _Found()
        asked = {"what": "list", "ref": {"path": root}, "limits": vars(limits), "bad": bad}
        try:
            job = functools.partial(Worker.decode, asked=asked, sink=_nothing, told=found.take)
            found.ignored = watched(job, limits, alive)["ignored"]
            return found
        except Disturbed as error:
            if found.at not in failed:
                failed[found.at] = error
                continue
            name = printable(root) if found.at is None else f"{printable(root)}: {found.at}"
            if not error.crash or not failed[found.at].crash:
                raise DataError(f"{name}: {error}, again when tried again", HELP) from None
            why = str(error)
        except Overtime as error:
            why = str(error)
        if found.at is None or len(bad) == _BAD:
            raise Unreadable(f"cannot be listed: {why}")
        bad[found.at] = why


def _nothing(frames: np.ndarray) -> None:
    """A listing has no frames."""


def by_number(name: str) -> tuple[bool, float, str]:
    """Returns the sorting key of a class name: numbers first, by their values, then text."""
    number = _NUMBER.fullmatch(name) is not None
    return not number, float(name) if number else 0.0, name


def _source(root: str, listing: _Found, settings: PackSettings) -> Source:
    entries = sorted(listing.entries, key=lambda entry: entry.name)
    if settings.captions == "names":
        entries = [
            dataclasses.replace(entry, caption=entry.caption or captions.of_name(entry))
            for entry in entries
        ]
    if settings.labels == "none":
        entries = [dataclasses.replace(entry, label=None) for entry in entries]
    if not entries:
        few = "; ".join(f"{name}: {why}" for name, why in listing.skipped[:3])
        raise DataError(
            f"{root}: holds no clip"
            + (f" ({few}{'; ...' if len(listing.skipped) > 3 else ''})" if few else "")
            + (f"; {listing.ignored} files are no videos" if listing.ignored else ""),
            "docs/data.md lists the formats",
        )
    classes: tuple[str, ...] = ()
    if any(entry.label for entry in entries):
        classes = tuple(sorted({entry.label or UNLABELLED for entry in entries}, key=by_number))
    index = {name: n for n, name in enumerate(classes)}
    numbers = [index.get(entry.label or UNLABELLED, 0) for entry in entries]
    labels = np.array(numbers, np.int32)
    names = sorted({name for entry in entries for name in entry.cells})
    cells = {name: [entry.cells.get(name, "") for entry in entries] for name in names}
    cells = {name: texts for name, texts in cells.items() if any(texts)}
    columns = {"label": labels} if classes else {}
    texts = [entry.caption for entry in entries]
    if any(texts):
        columns["caption"] = np.array(texts, object)
    columns |= {name: typed(texts) for name, texts in cells.items()}
    known = [
        (e.name, e.label, e.caption, e.start, e.end, e.stamp, e.ref.get("index")) for e in entries
    ]
    text = json.dumps([known, sorted(listing.skipped), *([cells] if cells else [])])
    return Source(
        root=root,
        entries=tuple(entries),
        classes=classes,
        labels=labels,
        columns=columns,
        skipped=tuple(sorted(listing.skipped)),
        ignored=listing.ignored,
        fingerprint=hashlib.sha256(text.encode()).hexdigest(),
        settings=settings,
    )
