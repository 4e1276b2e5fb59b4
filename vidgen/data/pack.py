"""Packs: clips decoded once to training size, in files that training maps into memory.

    store = open_store("clips/", PackSettings(size=64))
    store[3]                                      # uint8 [T, 64, 64, 3], a view of the file

A pack is a folder with `pack.json` (what it was made of, and a row for each clip) and
`frames-<n>.bin` (raw RGB). It is all that training needs: no decoder is imported where a pack is
read. `packing.py` makes packs.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import math
import os
import pathlib
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from vidgen import frame_size
from vidgen.data.listing import is_toy, list_source, toy_source
from vidgen.data.settings import PackSettings
from vidgen.data.toy import ToySource
from vidgen.errors import ConfigError, DataError

FORMAT = "vidgen-pack-1"
_VERIFY = 1 << 29  # bytes checked when a pack is opened; the rest when a clip is first read
_LOG = logging.getLogger("vidgen")

Progress = Callable[[int, int, str], None]
Path = str | os.PathLike[str]


class Pack:
    """A pack on disk, as training reads it: `pack[i]` is uint8 `[T, H, W, 3]`, a view.

    Attributes:
      path: Its folder.
      classes: Names of the classes, numbers first, by value; empty where clips have no labels.
      names: Name of each clip.
      labels: int32 `[N]`, index into `classes`; 0 where there are none.
      columns: What is known of each clip, by name, `[N]`: `label` where there are classes,
        `caption` where there are any, and further columns of a manifest; int32, float32, or
        strings in an array of objects.
      lengths: int64 `[N]`, frames.
      fps: Frames per second: as resampled, or the median of the clips.
      fingerprint: Hash of names, columns and frames: the same wherever the same pack was made.
      skipped: `(name, reason)` of each file that could not be used.
      settings: `size`, `crop`, `fps` and `background` that it was made with.
      size: Of the frames that training sees: what it was made with, a number or a tuple.
    """

    def __init__(self, path: Path, progress: Progress | None = None):
        """Opens a pack.

        Args:
          path: Its folder.
          progress: Called with (bytes checked, bytes to check, text).

        Raises:
          DataError: It does not verify.
        """
        self.path = pathlib.Path(path)
        index = _read_index(self.path)
        clips = index["clips"]
        self.classes = tuple(index["classes"])
        self.names = tuple(clips["name"])
        self.labels = np.array(clips["label"], np.int32)
        columns = columns_of(index)
        self.columns = {"label": self.labels} if self.classes else {}
        self.columns |= {name: _from_json(column) for name, column in columns.items()}
        self.lengths = np.array(clips["frames"], np.int64)
        self.fps = float(index["fps"])
        self.fingerprint = str(index["fingerprint"])
        if columns:  # computed, for packs of before have captions and a hash without them
            self.fingerprint = fingerprint(index["classes"], clips, columns)
        self.skipped = [(name, why) for name, why in index["skipped"]]
        self.settings: dict[str, Any] = index["settings"]
        self.size = frame_size.normal(self.settings["size"])
        self._shapes = list(zip(clips["frames"], clips["height"], clips["width"], strict=True))
        self._places = list(zip(clips["file"], clips["offset"], strict=True))
        self._sums = clips["crc32"]
        self._checked = np.zeros(len(self.names), bool)
        self._maps = [self._map(number, size) for number, size in enumerate(index["files"])]
        self._check(progress)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        if not self._checked[index]:
            self._verify(index)
        return self._view(index)

    def _view(self, index: int) -> np.ndarray:
        frames, height, width = self._shapes[index]
        file, offset = self._places[index]
        size = frames * height * width * 3
        return self._maps[file][offset : offset + size].reshape(frames, height, width, 3)

    def _map(self, number: int, size: int) -> np.ndarray:
        path = self.path / f"frames-{number}.bin"
        found = path.stat().st_size if path.exists() else 0
        if found != size:
            raise Damaged(f"{path}: has {found} bytes, the pack says {size}", _REMAKE)
        if size == 0:
            return np.empty(0, np.uint8)
        return np.asarray(np.memmap(path, np.uint8, "r"))  # plain arrays are cheaper to slice

    def _check(self, progress: Progress | None) -> None:
        """Verifies clips, evenly spread, up to the bytes that cost about a second."""
        sizes = [3 * math.prod(shape) for shape in self._shapes]
        every = max(1, math.ceil(sum(sizes) / _VERIFY))
        total, done = sum(sizes[::every]), 0
        for index in range(0, len(self), every):
            self._verify(index)
            done += sizes[index]
            if progress is not None:
                progress(done, total, "checking the pack")

    def _verify(self, index: int) -> None:
        if zlib.crc32(self._view(index).data) != self._sums[index]:
            raise Damaged(f"{self.path}: clip {self.names[index]} is damaged", _REMAKE)
        self._checked[index] = True


class Damaged(DataError):
    """A pack does not verify."""


_REMAKE = "delete the pack's folder; the same command makes it again"


def _read_index(path: pathlib.Path) -> dict[str, Any]:
    """Reads and verifies pack.json.

    Raises:
      DataError: It is missing, of another format, or not as it was written.
    """
    try:
        index = json.loads((path / "pack.json").read_text("utf-8"))
        stated = index.pop("sha256")
    except OSError as error:
        raise Damaged(f"{path}: is no pack: {error.strerror}") from error
    except (ValueError, KeyError, AttributeError) as error:
        raise Damaged(f"{path / 'pack.json'}: is damaged: {error}", _REMAKE) from error
    if index.get("format") != FORMAT:
        raise Damaged(f"{path}: is of format {index.get('format')}, not {FORMAT}", _REMAKE)
    if stated != json_sha256(index):
        raise Damaged(f"{path / 'pack.json'}: does not match its checksum", _REMAKE)
    return index


def json_sha256(value: Any) -> str:
    """Returns the SHA-256 of a value as JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def fingerprint(
    classes: list[str], clips: dict[str, list], columns: dict[str, dict[str, Any]]
) -> str:
    """Returns the hash of what a pack holds.

    Args:
      classes: Names of the classes.
      clips: The table `clips` of pack.json.
      columns: What `columns_of` returns; without any, the hash is what it was before there were.
    """
    fields = ("name", "label", "frames", "height", "width", "crc32", "fps")
    content = [clips[field] for field in fields]
    return json_sha256([classes, content, *([columns] if columns else [])])


def columns_of(index: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns what pack.json knows of clips beside labels: `{"type": ..., "values": [N]}` by name.

    Captions lie among `clips`, "" for none, as they did before there were other columns.
    """
    captions = index["clips"]["caption"]
    found = {"caption": {"type": "text", "values": captions}} if any(captions) else {}
    return found | index.get("columns", {})


def to_json(column: np.ndarray) -> dict[str, Any]:
    """Returns a column as JSON data; NaN as null."""
    if column.dtype == object:
        return {"type": "text", "values": column.tolist()}
    values = [None if value != value else value for value in column.tolist()]
    return {"type": column.dtype.name, "values": values}


def _from_json(column: dict[str, Any]) -> np.ndarray:
    kind = {"text": object, "int32": np.int32, "float32": np.float32}[column["type"]]
    values = column["values"]
    if kind == np.float32:
        values = [np.nan if value is None else value for value in values]
    return np.array(values, kind)


# -------------------------------------------------------------------------------- opening


def open_store(
    path: Path,
    settings: PackSettings | None = None,
    *,
    toy_frames: int = 16,
    cache: Path | None = None,
    strict: bool = False,
    workers: int = 2,
    progress: Progress | None = None,
) -> Pack | ToySource:
    """Opens clips for training: makes a pack of them first, or finds the one made before.

    Every file that cannot be used is one warning of the logger `vidgen`, now and each time that the
    pack is opened.

    Args:
      path: What `open_source` takes; or a pack; or "toy", as "toy:clips=65536,seed=0".
      settings: How clips are packed; `pack_settings` makes them from a config.
      toy_frames: Length of the toy clips, where the path says none.
      cache: Folder of packs; by default $VIDGEN_CACHE, or ~/.cache/vidgen.
      strict: Whether one bad file is an error.
      workers: Decoding processes.
      progress: Called in this thread with (done, total, text), twice a second at least; what it
        raises ends the work cleanly.

    Raises:
      DataError: No clip can be used, or one cannot and `strict` is set.
      ConfigError: A pack was given and does not fit the settings.
      StorageError: The cache cannot be written.
    """
    settings = settings or PackSettings()
    if is_toy(path):
        made = {"frames": toy_frames, "size": settings.size, "labels": settings.labels}
        return toy_source(os.fspath(path), **made)
    if (pathlib.Path(path) / "pack.json").is_file():
        return _reported(_fitting(Pack(path, progress), settings), strict)

    from vidgen.data.packing import write_pack

    alive = functools.partial(progress, 0, 0, "listing clips") if progress else lambda: None
    source = list_source(path, settings, alive)
    limits = dataclasses.asdict(settings.limits)
    made_of = [FORMAT, source.fingerprint, settings.of_frames(), limits]
    if list(source.classes) != sorted(source.classes):  # packs of before have that order
        made_of.append(list(source.classes))
    key = json_sha256(made_of)
    stem = "".join(c if c.isalnum() or c in "._-" else "_" for c in pathlib.Path(source.root).stem)
    folder = cache_folder(cache) / f"{stem}-{frame_size.name(settings.size)}-{key[:16]}"
    if folder.exists():
        try:
            return _reported(Pack(folder, progress), strict)
        except Damaged as error:
            _LOG.warning("%s; it is made again", error)
    return write_pack(
        source,
        folder,
        strict=strict,
        workers=workers,
        progress=progress,
        replace=True,
    )


def cache_folder(cache: Path | None) -> pathlib.Path:
    """Returns where packs, and what else can be made again, are kept."""
    chosen = cache or os.environ.get("VIDGEN_CACHE") or "~/.cache/vidgen"
    return pathlib.Path(chosen).expanduser()


def _fitting(pack: Pack, settings: PackSettings) -> Pack:
    """Returns a pack that the user gave, if it was made with the settings of the config."""
    for field, wanted in settings.of_frames().items():
        made = pack.settings.get(field)
        if made != wanted:
            flag = f" (--{field}={made} of evaluate)" if field in ("size", "fps") else ""
            made, wanted = (tuple(x) if isinstance(x, list) else x for x in (made, wanted))
            raise ConfigError(
                f"{pack.path}: packed with {field}={made}, asked for is {field}={wanted}",
                f"set data.{field}={made} in a config{flag}, or give the clips it was made of",
            )
    return pack


def _reported(pack: Pack, strict: bool) -> Pack:
    for name, why in pack.skipped:
        warn_skipped(name, why, strict)
    return pack


def warn_skipped(name: str, why: str, strict: bool) -> None:
    """Warns once of a file that cannot be used; raises DataError instead where `strict` is set."""
    if strict:
        raise DataError(f"{name}: {why}", "mend or remove it, or set data.strict=False to skip it")
    _LOG.warning("%s: skipped: %s", name, why)
