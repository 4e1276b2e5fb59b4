"""A clip that a source lists, before it is decoded."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Entry:
    """One clip that a source lists.

    Attributes:
      name: Its path below the root, printable whatever the bytes of the file's name.
      ref: Where it is, for the decoder; see `decoder.py`.
      label: Name of its class, or None.
      caption: What it shows, from a manifest or a file beside it; or "".
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
