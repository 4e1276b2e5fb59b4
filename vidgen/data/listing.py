"""What can be trained on: folders, archives, arrays, strips and manifests, as one list of clips.

    source = open_source("clips/")
    len(source), source.classes                   # 56, ("bend", "wave")
    source[0].frames                              # uint8 [T, H, W, 3]

Listing reads names and, of pictures and arrays, headers; a file is decoded only when it is asked
for. What is no clip is in `source.skipped`, with its reason. docs/data.md has the formats.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import stat
import threading
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from vidgen.data import archives
from vidgen.data.archives import ARRAYS, PICTURES, VIDEOS, Member, printable
from vidgen.data.arrays import list_clips, strip_shape
from vidgen.data.manifest import Row, read_manifest, typed
from vidgen.data.settings import PackSettings
from vidgen.data.toy import ToySource
from vidgen.data.workers import Worker, frame_rate, request
from vidgen.errors import ConfigError, DataError
from vidgen.video.containers import starts_like_video
from vidgen.video.decoding import Unreadable, reason
from vidgen.video.sequences import in_order, sequences

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
UNLABELLED = "(none)"  # the class of a clip without a label where other clips have one


@dataclasses.dataclass(frozen=True)
class Entry:
    """One clip that a source lists.

    Attributes:
      name: Its path below the root, printable whatever the bytes of the file's name.
      ref: Where it is, for the decoder; see `decoder.py`.
      label: Name of its class, or None.
      caption: Text from a manifest.
      start: First second, from a manifest.
      end: Seconds at which it stops, exclusive; None for the end of the file.
      cells: What a manifest says of it in further columns, by their names.
      stamp: Bytes, and time of change (or a hash of all of its files), to notice others.
    """

    name: str
    ref: dict[str, Any]
    label: str | None = None
    caption: str = ""
    start: float = 0.0
    end: float | None = None
    cells: dict[str, str] = dataclasses.field(default_factory=dict)
    stamp: tuple[int, int] = (0, 0)


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
            try:
                info = worker.decode(asked, chunks.append)
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
        return toy_source(os.fspath(spec))
    return list_source(spec, settings)


def is_toy(spec: str | os.PathLike[str]) -> bool:
    """Tells whether a path means the built-in toy clips."""
    return isinstance(spec, str) and (spec == "toy" or spec.startswith("toy:"))


def toy_source(spec: str, **defaults: Any) -> ToySource:
    """Returns the toy clips of "toy" or "toy:clips=65536,seed=0,frames=16,size=32".

    A height and a width are `size=64x112`.

    Raises:
      ConfigError: The text is not of this form.
    """
    options: dict[str, Any] = dict(defaults)
    for part in filter(None, spec.removeprefix("toy").removeprefix(":").split(",")):
        name, _, value = part.partition("=")
        numbers = value.split("x", 1) if name == "size" else [value]
        known = name in ("clips", "seed", "frames", "size")
        if not known or not all(number.isdecimal() for number in numbers):
            raise ConfigError(
                f"data.path={spec!r}: {part!r} is not known", "write toy:clips=65536,seed=0"
            )
        options[name] = int(value) if len(numbers) == 1 else tuple(map(int, numbers))
    return ToySource(**options)


def list_source(spec: str | os.PathLike[str], settings: PackSettings | None = None) -> Source:
    """Lists the clips of a path.

    Args:
      spec: A folder of video files, frame folders, strips or arrays, at any depth; a zip or tar of
        one; a CSV manifest with the columns path, label, caption, start, end, and any others; or a
        single file.
      settings: How clips are labelled, what one may cost, and how frames will be made.

    Raises:
      DataError: The path does not exist, cannot be read, or holds nothing that looks like a clip.
    """
    settings = settings or PackSettings()
    root = os.path.abspath(os.fspath(spec))
    try:
        kind = _kind(root)
        with Worker(settings.limits) as worker:
            listing = _Listing(worker)
            if kind == "folder":
                listing.take(archives.walk(root, listing.refuse), root, None)
            elif kind == "csv":
                listing.take_rows(read_manifest(root), os.path.dirname(root))
            elif kind in ("zip", "tar"):
                opened = archives.zip_members if kind == "zip" else archives.tar_members
                with opened(root, listing.refuse) as members:
                    listing.take(members, root, kind)
            else:
                listing.single(root, kind)
    except (OSError, Unreadable, EOFError, *archives.DAMAGE) as error:
        why = str(error) if isinstance(error, archives.DAMAGE) else reason(error)
        raise DataError(f"{printable(root)}: {why}", "give data.path a folder of clips") from error
    return _source(printable(root), listing, settings)


def _kind(root: str) -> str:
    """Returns folder, zip, tar, csv, or the suffix of a single file."""
    mode = os.stat(root).st_mode
    if stat.S_ISDIR(mode):
        return "folder"
    if not stat.S_ISREG(mode):
        raise Unreadable(f"is neither a folder nor a file ({archives.file_type(mode)})")
    suffix = archives.suffix(root)
    if suffix == "csv":
        return "csv"
    if suffix in ARRAYS:  # .npz is a zip as well
        return suffix
    if archives.is_tar(root):  # first: one that ends with an .npz is a zip to is_zipfile
        return "tar"
    return "zip" if zipfile.is_zipfile(root) else suffix


def by_number(name: str) -> tuple[bool, float, str]:
    """Returns the sorting key of a class name: numbers first, by their values, then text."""
    number = _NUMBER.fullmatch(name) is not None
    return not number, float(name) if number else 0.0, name


def _source(root: str, listing: "_Listing", settings: PackSettings) -> Source:
    entries = sorted(listing.entries, key=lambda entry: entry.name)
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
    captions = [entry.caption for entry in entries]
    if any(captions):
        columns["caption"] = np.array(captions, object)
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


# -------------------------------------------------------------------------------- listing


class _Listing:
    """Collects entries, and what is refused, while a root is listed."""

    def __init__(self, worker: Worker):
        self.worker = worker
        self.entries: list[Entry] = []
        self.skipped: list[tuple[str, str]] = []
        self.ignored = 0

    def refuse(self, name: str, why: str) -> None:
        self.skipped.append((printable(name), why))

    def add(self, name: str, ref: dict[str, Any], stamp: tuple[int, int], **more: Any) -> None:
        self.entries.append(Entry(name=printable(name), ref=ref, stamp=stamp, **more))

    def take(self, members: Iterable[Member], root: str, archive: str | None) -> None:
        """Sorts the files of a folder or archive into clips, refusals and bystanders."""
        folders: dict[str, list[Member]] = {}
        for member in members:
            folders.setdefault(os.path.dirname(member.name), []).append(member)
        for folder, files in sorted(folders.items()):
            self._take_folder(folder, files, functools.partial(_ref, root, archive))
        self._name_classes(wrapped=archive is not None and self._one_folder())

    def _one_folder(self) -> bool:
        """Tells whether one folder wraps all clips, and is not itself their class.

        It is their class if nothing below it tells them apart: no folder, no label of their own.
        """
        parts = [entry.name.split("/") for entry in self.entries]
        return (
            len({p[0] for p in parts}) == 1
            and all(len(p) >= 2 for p in parts)
            and (any(len(p) >= 3 for p in parts) or any(e.label for e in self.entries))
        )

    def _name_classes(self, wrapped: bool) -> None:
        """Labels each clip that has no label of its own with the first folder in its name."""
        for n, entry in enumerate(self.entries):
            parts = entry.name.split("/")[wrapped:]
            label = parts[0] if entry.label is None and len(parts) > 1 else entry.label
            self.entries[n] = dataclasses.replace(entry, name="/".join(parts), label=label)

    def _take_folder(self, folder: str, files: list[Member], ref: Callable[..., dict]) -> None:
        kinds: dict[str, list[Member]] = {"video": [], "picture": [], "array": []}
        named = {member.name: member for member in files}
        for file in (named[name] for name in in_order(named)):
            suffix = archives.suffix(file.name)
            if suffix in VIDEOS:
                kinds["video"].append(file)
            elif suffix in PICTURES:
                kinds["picture"].append(file)
            elif suffix in ARRAYS:
                kinds["array"].append(file)
            elif suffix in archives.SOUNDS:
                self.ignored += 1
            else:
                try:
                    video = starts_like_video(file.head())
                except (OSError, EOFError, *archives.DAMAGE) as error:
                    self.refuse(file.name, reason(error))
                    continue
                if video:
                    kinds["video"].append(file)
                else:
                    self.ignored += 1
        for file in kinds["video"]:
            self.add(file.name, ref("video", file), file.stamp)
        for file in kinds["array"]:
            self._arrays(file, archives.suffix(file.name), ref)
        if kinds["picture"]:
            self._pictures(folder, kinds["picture"], bool(kinds["video"]), ref)

    def _pictures(
        self, folder: str, files: list[Member], videos: bool, ref: Callable[..., dict]
    ) -> None:
        """Tells strips, animations and the frames of one clip apart, by the first good header."""
        header = None
        for file in files[:4]:
            try:
                header = self.worker.picture_header(ref("strip", file))
                break
            except Unreadable as error:
                why = str(error)
        if header is None:
            self.refuse(files[0].name, why)
            if len(files) > 1:
                self.refuse(
                    folder or ".", f"{len(files) - 1} more pictures beside an unreadable one"
                )
        elif header["frames"] > 1:
            for file in files:
                self.add(file.name, ref("video", file), file.stamp)
        elif strip_shape(header["width"], header["height"])[1]:
            for file in files:
                self.add(file.name, ref("strip", file), file.stamp)
        elif len(files) == 1:
            self.refuse(files[0].name, "is a single still picture, not a clip")
        elif videos:
            self.refuse(folder or ".", f"{len(files)} still pictures beside videos are no clip")
        elif any(not any(c.isdigit() for c in os.path.basename(f.name)) for f in files):
            self.refuse(folder or ".", f"{len(files)} still pictures that are not numbered frames")
        else:
            self._sequences(folder, {f.name: f for f in files}, ref)

    def _sequences(self, folder: str, files: dict[str, Member], ref: Callable[..., dict]) -> None:
        """Takes the numbered frames of a folder: of one clip, or of several side by side."""
        taken: dict[tuple[str, ...], str] = {}
        clips = []
        for title, names in sequences(files).items():
            name = f"{folder} [{title}]".strip() if title else folder or "."
            stems = tuple(os.path.splitext(n)[0] for n in names)
            if len(names) == 1:
                self.refuse(names[0], "is a single still picture, not a clip")
            elif stems in taken:
                self.refuse(name, f"are the frames of {taken[stems]} again, in another format")
            else:
                taken[stems] = name
                clips.append((name, [files[n] for n in names]))
        for name, some in clips:
            # Of every frame, so that one replaced by an older one, or two swapped, are noticed.
            every = json.dumps([(f.name, f.stamp) for f in some]).encode()
            digest = int(hashlib.sha256(every).hexdigest()[:16], 16)
            name = name if len(clips) > 1 else folder or "."
            self.add(name, ref("frames", *some), (sum(f.stamp[0] for f in some), digest))

    def _arrays(self, file: Member, suffix: str, ref: Callable[..., dict]) -> None:
        try:
            with file.open() as opened:
                clips = list(list_clips(opened, suffix, file.stamp[0]))
        except (OSError, ValueError, EOFError, KeyError, Unreadable, *archives.DAMAGE) as error:
            self.refuse(file.name, reason(error))
            return
        for key, index, label in clips:
            more = {} if label is None else {"label": label}
            place = ref("array", file) | {"key": key, "index": index}
            name = file.name if index is None else f"{file.name}[{index}]"
            self.add(name, place, file.stamp, **more)

    def take_rows(self, rows: list[Row], root: str) -> None:
        """Takes the clips that a manifest names, with paths relative to `root`."""
        for row in rows:
            try:
                if not row.path:
                    raise Unreadable("has no path")
                self.single(
                    os.path.join(root, row.path),
                    archives.suffix(row.path),
                    row.name,
                    label=row.label,
                    caption=row.caption,
                    start=row.start,
                    end=row.end,
                    cells=row.cells,
                )
            except (Unreadable, OSError) as error:
                self.refuse(row.name, f"line {row.line}: {reason(error)}")

    def single(self, path: str, suffix: str, name: str | None = None, **more: Any) -> None:
        """Takes one file, or one folder of numbered frames, that is named by itself."""
        name = name or os.path.basename(path)
        before = len(self.entries)
        if os.path.isdir(path):
            inner = _Listing(self.worker)
            inner.take(archives.walk(path, inner.refuse), path, None)
            frames = [e.ref["files"] for e in inner.entries if e.ref["kind"] == "frames"]
            if len(inner.entries) != 1 or not frames or os.path.dirname(frames[0][0]):
                found = ", ".join(entry.name for entry in inner.entries[:4])
                raise Unreadable(
                    "is a folder, but not one of numbered frames"
                    + (f": it holds {found}" if found else "")
                )
            for other, why in inner.skipped:
                self.refuse(f"{name}/{other}", why)
            self.add(name, inner.entries[0].ref, inner.entries[0].stamp)
        elif not os.path.isfile(path):
            mode = os.stat(path).st_mode
            raise Unreadable(f"is not a regular file ({archives.file_type(mode)})")
        else:
            member = archives.on_disk(path, name)
            if suffix in ARRAYS:
                self._arrays(member, suffix, lambda kind, _: {"kind": kind, "path": path})
            else:
                place = {"kind": "strip", "path": path}
                still = suffix in PICTURES and suffix not in ("webp", "apng", "avif")
                if not still or self.worker.picture_header(place)["frames"] > 1:
                    place["kind"] = "video"
                self.add(name, place, member.stamp)
        self.entries[before:] = [
            dataclasses.replace(entry, **more) for entry in self.entries[before:]
        ]


def _ref(root: str, archive: str | None, kind: str, *files: Member) -> dict[str, Any]:
    """Returns the place of files below a root, for the decoder."""
    names = [file.name for file in files]
    if archive is None and kind != "frames":
        return {"kind": kind, "path": os.path.join(root, names[0])}
    place: dict[str, Any] = {"kind": kind, "path": root}
    place |= {"files": names} if kind == "frames" else {"member": names[0]}
    if archive is not None:
        place["archive"] = archive
    if archive == "tar":
        place["places"] = {file.name: file.place for file in files}
    return place
