"""Manifests: CSV files that name clips, with what is known of each."""

import csv
import dataclasses
import os

from vidgen.video.decoding import Unreadable


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
      name: The path, and the seconds where the line has any: `a.mp4@1-2.5`.
    """

    line: int
    path: str
    label: str | None
    caption: str
    start: float
    end: float | None
    name: str


def read_manifest(path: str | os.PathLike[str]) -> list[Row]:
    """Reads a CSV file with a header line: path, and where wanted label, caption, start, end.

    Raises:
      Unreadable: It is no such file; the message names the line.
      OSError: It cannot be read.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            reader = csv.DictReader(file, strict=True)
            rows = [(reader.line_num, cells) for cells in reader]  # a row may be several lines
        except (csv.Error, UnicodeDecodeError) as error:
            raise Unreadable(f"is no CSV in UTF-8: {error}") from error
    if not rows or "path" not in rows[0][1]:
        raise Unreadable("needs a header line with a column 'path', and at least one more line")
    return [_row(line, cells) for line, cells in rows]


def _row(line: int, cells: dict[str, str | None]) -> Row:
    path = (cells["path"] or "").strip()
    if "\0" in path:
        raise Unreadable(f"line {line}: path={path!r} holds a zero byte")
    start, end = (_seconds(cells.get(column), column, line) for column in ("start", "end"))
    if end is not None and end <= (start or 0):
        raise Unreadable(f"line {line}: end={end} is not after start={start or 0}")
    window = "" if start is None and end is None else f"@{start or 0:g}-{end or 'end'}"
    return Row(
        line=line,
        path=path,
        label=(cells.get("label") or "").strip() or None,
        caption=(cells.get("caption") or "").strip(),
        start=start or 0.0,
        end=end,
        name=path + window,
    )


def _seconds(text: str | None, column: str, line: int) -> float | None:
    if text is None or not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise Unreadable(f"line {line}: {column}={text!r} is no number of seconds")
    return value
