"""Captions that lie beside clips: `walk.txt` or `walk.json` beside `walk.mp4`, or lists of lines.

    beside = Captions()
    beside.note(member)                 # each file that is no clip
    beside.of(entries, look, refuse)    # {number of the entry: its caption}, and what was used

Text is data: of JSON one text is taken, control characters are escaped as in all text of strangers.
"""

import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from vidgen.data.archives import Member, Refuse, suffix
from vidgen.data.entry import Entry
from vidgen.data.limits import CAPTION, CAPTIONS
from vidgen.text import legible, printable
from vidgen.video.decoding import Unreadable

FIELDS = ("caption", "text", "prompt")  # of an object in JSON, the first that holds text
LISTS = ("captions.txt", "prompts.txt")  # a caption a line, beside a list of the clips
VIDEOS = "videos.txt"
_OTHERS = ("readme", "license", "licence")  # what such a file says is of no clip
_ANY = ("clip", "video", "frame", "frames", "mov", "img", "vid")  # of names of any clip
_WINDOW = re.compile(r"@[\d.e+]+-([\d.e+]+|end)$")  # seconds, of a clip of a manifest
_SUFFIXES = ("txt", "json")  # in this order, where a clip has both

Look = Callable[[str, Callable[[], str]], str]


def is_text(name: str) -> bool:
    """Tells whether a file of this name may hold captions."""
    return suffix(name) in _SUFFIXES


def of_name(entry: Entry) -> str:
    """Returns what the name of a clip says, in words: "walk left" of `walk_left/clip-0012.mp4`.

    Those are the words of its folders below the root (of a path from the system's root, of the last
    one) and of its file, in small letters; numbers, and words with numbers in them, are left out,
    and so is what stands for any clip.
    """
    frames = entry.ref["kind"] == "frames"
    place = _place(entry) if frames else os.path.splitext(_WINDOW.sub("", entry.name))[0]
    parts = place.split("/")[-2:] if place.startswith("/") else place.split("/")
    found = []
    for part in parts:
        text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFC", part))
        # Letters with their marks, and numbers.
        kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in text)
        found += "".join(kept).lower().split()
    words = (word for word in dict.fromkeys(found) if not any(map(str.isnumeric, word)))
    return " ".join(word for word in words if word not in _ANY)


class Captions:
    """Finds the captions of clips among the files of a folder or archive that are no clips."""

    def __init__(self):
        self._texts: dict[str, Member] = {}
        self._beside: dict[tuple[str, str], str] = {}  # names by stem and suffix

    def note(self, file: Member) -> None:
        """Remembers a file that may hold captions, by its name."""
        if is_text(file.name):
            name = printable(file.name)
            self._texts[name] = file
            self._beside[os.path.splitext(name)[0], suffix(name)] = name

    def of(
        self, entries: Sequence[Entry], look: Look, refuse: Refuse
    ) -> tuple[dict[int, str], int]:
        """Reads the captions of clips.

        Args:
          entries: The clips, by their names below the root.
          look: Called with a name and a function that reads that file; returns what it returns, or
            raises Unreadable.
          refuse: Called with the name of each file that holds no caption but should, and why.

        Returns:
          The captions by the numbers of their clips, and how many files were read.

        Raises:
          OSError: The system fails now.
        """
        found, used = self._listed(entries, look, refuse)
        wanted: dict[str, list[int]] = {}
        for number, entry in enumerate(entries if self._texts else ()):
            stem = _stem(entry)
            names = (self._beside.get((stem, kind)) for kind in _SUFFIXES)
            name = next((name for name in names if name and name not in used), None)
            if name and os.path.basename(stem).lower() not in _OTHERS:
                wanted.setdefault(name, []).append(number)
        # In the order in which they lie: a compressed tar is slow to go back in.
        for name in sorted(wanted, key=lambda name: (self._texts[name].place or (0, 0), name)):
            file = self._texts[name]
            try:
                text = look(file.name, lambda file=file: _caption(file))
            except Unreadable as error:
                refuse(file.name, f"{error}; its clip is used without")
                continue
            found |= dict.fromkeys(wanted[name], text)
        return found, len(used) + len(wanted)

    def _listed(
        self, entries: Sequence[Entry], look: Look, refuse: Refuse
    ) -> tuple[dict[int, str], set[str]]:
        """Reads `captions.txt` or `prompts.txt` beside `videos.txt`, a line each for a clip."""
        found: dict[int, str] = {}
        used: set[str] = set()
        numbers: dict[str, list[int]] = {}
        for name in [name for name in self._texts if os.path.basename(name) == VIDEOS]:
            folder = os.path.dirname(name)
            lists = (os.path.join(folder, other) for other in LISTS)
            other = next((other for other in lists if other in self._texts), None)
            if other is None:
                continue
            if not numbers:
                for number, entry in enumerate(entries):
                    numbers.setdefault(_place(entry), []).append(number)
            used |= {name, other}
            read = self._texts[name], self._texts[other]
            try:
                clips, texts = (look(f.name, lambda f=f: _read(f, CAPTIONS)) for f in read)
                pairs = _pairs(clips, texts)
                paths = [os.path.normpath(os.path.join(folder, clip)) for clip, _ in pairs]
                if pairs and not numbers.keys() & set(paths):
                    raise Unreadable(
                        f"goes with {VIDEOS}, which names none of the clips here; a line of that "
                        "is the path of a clip from its folder"
                    )
            except Unreadable as error:
                refuse(self._texts[other].name, f"{error}; clips are used without")
                continue
            for path, (_, text) in zip(paths, pairs, strict=True):
                found |= dict.fromkeys(numbers.get(path, ()), text)
        return found, used


def _place(entry: Entry) -> str:
    """Returns the name below the root of a clip's file, or of the folder of its frames."""
    if entry.ref["kind"] == "frames":
        return os.path.dirname(printable(entry.ref["files"][0]))
    return entry.name


def _stem(entry: Entry) -> str:
    """Returns the name that a file with the caption of a clip has before its suffix, or ""."""
    if entry.ref.get("index") is not None:  # one of several in a file, which one text is not of
        return ""
    place = _place(entry)
    return place if entry.ref["kind"] == "frames" else os.path.splitext(place)[0]


def _pairs(clips: str, texts: str) -> list[tuple[str, str]]:
    """Returns clips and captions of two files, line by line."""
    names = clips.rstrip().split("\n")
    lines = texts.removesuffix("\n").split("\n")
    while len(lines) > len(names) and not lines[-1].strip():
        lines.pop()
    if len(names) != len(lines):
        raise Unreadable(
            f"has {len(lines)} lines, and {VIDEOS} beside it {len(names)}; write each caption in a "
            "line, in the order of the clips"
        )
    pairs = zip(names, lines, strict=True)
    return [(printable(name.strip()), _clean(line)) for name, line in pairs if name.strip()]


def _read(file: Member, most: int) -> str:
    with file.open() as opened:
        data = opened.read(most + 1)
    if len(data) > most:
        raise Unreadable(f"holds no caption: it has more than {most} bytes; shorten or remove it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(
            f"holds no caption in UTF-8 (byte {error.start}); save it in UTF-8"
        ) from None


def _caption(file: Member) -> str:
    """Reads the caption in a file of its own."""
    text = _read(file, CAPTION)
    if suffix(file.name) == "txt":
        return _clean(text)
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"holds no caption: it is no JSON ({legible(str(error))})") from None
    if isinstance(found, dict):
        if not found.keys() & set(FIELDS):  # what else is known of the clip
            return ""
        found = _first(found.get(field) for field in FIELDS)
    if not isinstance(found, str):
        fields = ", ".join(f'"{field}"' for field in FIELDS)
        raise Unreadable(
            f"holds no caption: write a text in quotes, or an object with one as {fields}"
        )
    return _clean(found)


def _first(values: Iterable[Any]) -> str | None:
    return next((value for value in values if isinstance(value, str)), None)


def _clean(text: str) -> str:
    """Returns a caption as one line, without what a terminal obeys."""
    return legible(" ".join(text.split()))
