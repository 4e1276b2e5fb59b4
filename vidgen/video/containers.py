"""Whether a file is as long as its own header says: the sure sign of a broken download.

FFmpeg reads a truncated Matroska, AVI or GIF file to its early end without a word. The headers of
these formats state a length, which costs a few reads to check.
"""

from typing import BinaryIO

MAGIC = (  # (offset, bytes) by which a video file without a known suffix is recognised
    (4, b"ftyp"),
    (4, b"moov"),
    (0, b"\x1aE\xdf\xa3"),
    (0, b"GIF8"),
    (0, b"FLV\x01"),
    (0, b"OggS"),
    (0, b"\x00\x00\x01\xba"),
    (0, b"\x00\x00\x01\xb3"),
    (0, b"0&\xb2u"),
    (0, b"YUV4MPEG2"),
    (0, b"DKIF"),
)


def starts_like_video(head: bytes) -> bool:
    """Tells from the first 16 bytes of a file whether it may be a video."""
    if head[:4] == b"RIFF":  # which WAV is as well
        return head[8:12] in (b"AVI ", b"WEBP")
    return any(head[at:].startswith(magic) for at, magic in MAGIC)


def missing(file: BinaryIO, size: int) -> str:
    """Returns what is missing of a file, or "" where nothing is, or the format does not say.

    Args:
      file: A seekable file; its position is not kept.
      size: Bytes in the file.
    """
    file.seek(0)
    head = file.read(64)
    if head[:4] == b"RIFF":
        length = int.from_bytes(head[4:8], "little")  # written to a pipe: not known
        return "" if length in (0, 0xFFFFFFFF) else _shortfall(length + 8, size)
    if head[:4] == b"\x1aE\xdf\xa3":
        return _shortfall(_matroska_end(head), size)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide"):
        return _boxes(file, size)
    if head[:4] == b"GIF8" and not _has_trailer(file):
        return "is cut off: a GIF ends with a trailer, and this one does not"
    return ""


def _has_trailer(file: BinaryIO) -> bool:
    """Walks the blocks of a GIF up to its trailer; what lies behind that does not matter."""
    file.seek(10)
    skip = _colours(file.read(3)[:1])
    file.seek(13 + skip)
    while True:
        kind = file.read(1)
        if kind == b"!":
            file.read(1)
        elif kind == b",":
            file.seek(_colours(file.read(9)[8:]) + 1, 1)  # colours, and the size of the first code
        elif kind != b"\0":  # which some writers leave between blocks
            return kind == b";"
        else:
            continue
        while length := file.read(1):  # sub-blocks, the last of which is empty
            if length == b"\0":
                break
            file.seek(length[0], 1)


def _colours(flags: bytes) -> int:
    """Returns the bytes of a colour table, as a byte of flags has it."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _shortfall(declared: int, size: int) -> str:
    if declared <= size:
        return ""
    return f"is cut off: its header declares {declared} bytes, it has {size}"


def _matroska_end(head: bytes) -> int:
    """Returns the offset behind the segment, or 0 where its length is not stated."""
    length, at = _vint(head, 4)
    at += length  # behind the EBML header
    if head[at : at + 4] != b"\x18S\x80g":
        return 0
    length, body = _vint(head, at + 4)
    unknown = (1 << (7 * (body - at - 4))) - 1
    return 0 if length == unknown else body + length


def _vint(data: bytes, at: int) -> tuple[int, int]:
    """Returns the variable-length integer of EBML at `at`, and the offset behind it."""
    first = data[at] if at < len(data) else 0x80
    width = 9 - first.bit_length() if first else 8
    value = int.from_bytes(data[at : at + width], "big")
    return value & ((1 << (7 * width)) - 1), at + width


# Boxes of the top level, of MP4 (ISO/IEC 14496-12) and of QuickTime.
_BOXES = frozenset(
    b"ftyp pdin moov moof mfra mdat free skip meta meco styp sidx ssix prft emsg imda uuid udta "
    b"wide pnot PICT junk".split()
)


def _boxes(file: BinaryIO, size: int) -> str:
    """Walks the top-level boxes of an MP4 or MOV file to the end of the last one."""
    at, seen = 0, set()
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length == 0:  # to the end of the file
            length = size - at
        if length < 8 or not (kind in _BOXES or (kind.isalnum() and at + length <= size)):
            return ""  # no box: trailing bytes, which players ignore
        seen.add(kind)
        at += length
    if at > size:
        return _shortfall(at, size)
    if not seen & {b"moov", b"moof"} and b"ftyp" in seen:
        return "is cut off: it has no index (moov box)"
    return ""
