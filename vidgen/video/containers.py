"""Whether a file is as long as it says itself, and the index of an MP4 does not contradict itself.

FFmpeg reads a truncated Matroska, AVI or GIF file to its early end without a word. The headers of
these formats state a length, which costs a few reads to check. The index of an MP4 states how many
samples a track has in several tables; of a damaged one FFmpeg takes the fewest.
"""

from collections.abc import Container, Iterator
from typing import BinaryIO

import numpy as np

_INDEX = 1 << 26  # bytes of an index that is looked into; that of an hour of video has 2 million
_TABLES = (b"stts", b"ctts", b"stsz", b"stsc", b"stco", b"co64")
_NOTHING = memoryview(b"")

_ASF = b"0&\xb2u"
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
MAGIC = (  # (offset, bytes) by which a video file without a known suffix is recognised
    (4, b"ftyp"),
    (4, b"moov"),
    (0, b"\x1aE\xdf\xa3"),
    (0, b"GIF8"),
    (0, b"FLV\x01"),
    (0, b"OggS"),
    (0, b"\x00\x00\x01\xba"),
    (0, b"\x00\x00\x01\xb3"),
    (0, _ASF),
    (0, b"YUV4MPEG2"),
    (0, b"DKIF"),
)


def starts_like_video(head: bytes) -> bool:
    """Tells from the first 16 bytes of a file whether it may be a video."""
    if head[:4] == b"RIFF":  # which WAV is as well
        return head[8:12] in (b"AVI ", b"WEBP")
    return any(head[at:].startswith(magic) for at, magic in MAGIC)


def missing(file: BinaryIO, size: int) -> str:
    """Returns what is missing of a file or wrong in its index, or "" where the format says nothing.

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
    if head[:4] == _ASF:
        file.seek(0)
        return _shortfall(_asf_end(file.read(1 << 16)), size)
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


def _asf_end(head: bytes) -> int:
    """Returns the bytes of a file that an ASF header states, or 0 where it was written as it came.

    Reference: Microsoft, "Advanced Systems Format (ASF) specification", 3.2.
    """
    at = head.find(_ASF_PROPERTIES)
    if at < 0 or len(head) < at + 92 or head[at + 88] & 1:  # a broadcast
        return 0
    return int.from_bytes(head[at + 40 : at + 48], "little")


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
        if kind == b"moov" and at + length <= size and (why := _index(file, at, length)):
            return why
        at += length
    if at > size:
        return _shortfall(at, size)
    if not seen & {b"moov", b"moof"} and b"ftyp" in seen:
        return "is cut off: it has no index (moov box)"
    return ""


def _index(file: BinaryIO, at: int, length: int) -> str:
    """Compares how many samples the tables of a moov box tell of (ISO/IEC 14496-12, 8.6 to 8.7)."""
    if length > _INDEX:
        return ""
    file.seek(at)
    for _, track in _children(memoryview(file.read(length))[8:], (b"trak",)):
        media = dict(_children(track, (b"mdia",))).get(b"mdia", _NOTHING)
        inner = dict(_children(media, (b"hdlr", b"minf")))
        if bytes(inner.get(b"hdlr", _NOTHING)[8:12]) != b"vide":
            continue
        tables = dict(_children(inner.get(b"minf", _NOTHING), (b"stbl",))).get(b"stbl", _NOTHING)
        counts = _counts(dict(_children(tables, _TABLES)))
        # Of offsets there may be fewer: those behind have none.
        wanted = {count for name, count in counts.items() if name != "ctts"}
        if len(wanted) > 1 or counts.get("ctts", 0) > max(wanted, default=0):
            said = ", ".join(f"{name} {count}" for name, count in counts.items())
            return f"is damaged: its index contradicts itself (samples of the video: {said})"
    return ""


def _counts(tables: dict[bytes, memoryview]) -> dict[str, int]:
    """Returns the number of samples that each table of a track tells of."""

    def entries(kind: bytes, width: int) -> np.ndarray:
        table = tables[kind]  # the number of entries stands before them
        most = 4 * width * min(int.from_bytes(table[4:8], "big"), len(table))
        data = table[8 : 8 + most]
        data = data[: len(data) // (4 * width) * 4 * width]
        return np.frombuffer(data, ">u4").astype(np.int64).reshape(-1, width)

    counts = {}
    if len(tables.get(b"stsz", _NOTHING)) >= 12:
        counts["stsz"] = int.from_bytes(tables[b"stsz"][8:12], "big")
    for kind in (b"stts", b"ctts"):
        if kind in tables:
            counts[kind.decode()] = int(entries(kind, 2)[:, 0].sum())
    offsets = tables.get(b"stco", tables.get(b"co64", _NOTHING))
    if b"stsc" in tables and len(offsets) >= 8:
        runs = entries(b"stsc", 3)
        chunks = int.from_bytes(offsets[4:8], "big")
        counts["stsc"] = int((np.diff(np.append(runs[:, 0], chunks + 1)) * runs[:, 1]).sum())
    return counts


def _children(data: memoryview, kinds: Container[bytes]) -> Iterator[tuple[bytes, memoryview]]:
    """Yields the kind and the body of each box of some kinds that lies in a box's body."""
    at = 0
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), bytes(data[at + 4 : at + 8])
        if length < 8:
            return
        if kind in kinds:
            yield kind, data[at + 8 : at + length]
        at += length
