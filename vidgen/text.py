"""Text of strangers, made fit for a terminal, a log and a file: names, labels, messages."""

import sys
import unicodedata

# Characters that turn the direction of writing. Marks of a direction hide nothing, and scripts need
# them.
_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(name: str) -> str:
    r"""Returns a name that any terminal or JSON file takes; bytes that are no UTF-8 as `\xff`."""
    return "".join(c if c.isprintable() else _escaped(c) for c in name)


def legible(text: str, kept: str = "") -> str:
    r"""Returns text without what a terminal obeys, or a file cannot hold: that is escaped.

    Control characters (`\x1b`), those that turn the direction of writing, halves of characters.
    Letters, spaces and joiners of all scripts stay.

    Args:
      text: Any text.
      kept: Control characters that stay: "\n\t" of a message of several lines.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in kept or not _obeyed(c) else _escaped(c) for c in text)


def plain(text: str, most: int = 500) -> str:
    """Returns any text as one legible line; of a longer one than `most` the middle is left out."""
    cut = text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"
    return legible(cut)


def printed(path: object) -> str:
    """Returns a path for standard output: legible on a terminal, as it is for other programs."""
    text = str(path)
    return legible(text) if sys.stdout is not None and sys.stdout.isatty() else text


def _obeyed(c: str) -> bool:
    return c in _TURNS or unicodedata.category(c) in ("Cc", "Cs")


def _escaped(c: str) -> str:
    if "\udc80" <= c <= "\udcff":  # a byte of a file's name, as Python keeps it
        return f"\\x{ord(c) - 0xDC00:02x}"
    return c.encode("unicode_escape").decode()
