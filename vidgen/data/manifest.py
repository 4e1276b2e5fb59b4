"""Manifests: CSV files that name clips, with what is known of each."""

import csv
import dataclasses
import os
import re

import numpy as np

from vidgen.text import legible
from vidgen.video.decoding import Unreadable

_KNOWN = ("path", "label", "caption", "start", "end")
# Entries that a batch has of its own; `stop` is how processes of a run end together.
RESERVED = ("video", "index", "stop")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of a manifest.

    Attributes:
      line: Its number in the file, as an editor counts.
      path: The file or folder of the clip, as written; relative to the manifest.
      label: Name of its class, or None.
      caption: Its caption, or "".
      start: First second.
      end: Seconds at which it stops, exclusive; None for the end of the file.
      cells: The other columns, by their names; empty cells as "".
      name: The path, and the seconds where the line has any: `a.mp4@1-2.5`.
    """

    line: int
    path: str
    label: str | None
    caption: str
    start: float
    end: float | None
    cells: dict[str, str]
    name: str


def read_manifest(path: str | os.PathLike[str]) -> list[Row]:
    """Reads a CSV file with a header line: path; if wanted label, caption, start, end, and others.

    Raises:
      Unreadable: It is no such file; the message names the line.
      OSError: It cannot be read.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
            names = [legible(name.strip()) for name in next(reader, [])]
            # A row may be several lines, and an empty line is none.
            rows = [(reader.line_num, cells) for cells in reader if cells]
        except (csv.Error, UnicodeDecodeError) as error:
            raise Unreadable(f"is no CSV in UTF-8: {error}") from error
    if not rows or "path" not in names:
        raise Unreadable("needs a header line with a column 'path', and at least one more line")
    for name in names:
        if name in RESERVED:
            raise Unreadable(f"has a column {name!r}, as each batch has of its own; rename it")
        if name and names.count(name) > 1:
            raise Unreadable(f"has two columns {name!r}; rename one of them")
    for line, cells in rows:
        if any(cell.strip() for cell in cells[len(names) :]):
            raise Unreadable(
                f"line {line} has {len(cells)} cells for {len(names)} columns; a text with a comma "
                'stands in quotes: "a dog, running"'
            )
    # Columns without a name are left alone: pandas writes one.
    return [
        _row(
            line,
            {name: _cell(name, cell) for name, cell in zip(names, cells, strict=False) if name},
        )
        for line, cells in rows
    ]


def _cell(name: str, text: str) -> str:
    """Returns a cell without what a terminal obeys; but for a path, which is that of a file."""
    return text.strip() if name == "path" else legible(text.strip(), kept="\t\n\r")


def _row(line: int, cells: dict[str, str]) -> Row:
    path = cells.get("path", "")
    if "\0" in path:
        raise Unreadable(f"line {line}: path={path!r} holds a zero byte")
    start, end = (_seconds(cells.get(column), column, line) for column in ("start", "end"))
    if end is not None and end <= (start or 0):
        raise Unreadable(f"line {line}: end={end} is not after start={start or 0}")
    window = "" if start is None and end is None else f"@{start or 0:g}-{end or 'end'}"
    return Row(
        line=line,
        path=path,
        label=cells.get("label") or None,
        caption=cells.get("caption", ""),
        start=start or 0.0,
        end=end,
        cells={name: cell for name, cell in cells.items() if name not in _KNOWN},
        name=path + window,
    )


def _seconds(text: str | None, column: str, line: int) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise Unreadable(f"line {line}: {column}={text!r} is no number of seconds")
    return value


def typed(cells: list[str]) -> np.ndarray:
    """Returns a column as an array `[N]` of the narrowest type that holds all of its cells.

    int32 where all are whole numbers; float32 where all are numbers or empty, which is NaN; else
    strings, in an array of objects.
    """
    if any(cell and not _NUMBER.fullmatch(cell) for cell in cells):
        return np.array(cells, object)
    numbers = np.array([float(cell) if cell else np.nan for cell in cells])
    if (abs(numbers) > np.finfo(np.float32).max).any():
        return np.array(cells, object)
    whole = all(cell.lstrip("+-").isdecimal() for cell in cells)
    if whole and (abs(numbers) < 2**31).all():
        return numbers.astype(np.int32)
    return numbers.astype(np.float32)
