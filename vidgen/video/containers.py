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
        return _shortfall(int.from_bytes(head[4:8], "little") + 8, size)
    if head[:4] == b"\x1aE\xdf\xa3":
        return _shortfall(_matroska_end(head), size)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide"):
        return _boxes(file, size)
    if head[:4] == b"GIF8":
        file.seek(max(0, size - 64))
        if b";" not in file.read()[-16:]:  # the trailer; some writers pad behind it
            return "is cut off: a GIF ends with a trailer, and this one does not"
    return ""


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
        if length < 8 or not kind.strip().isalnum():
            break  # no box: trailing bytes, which players ignore
        seen.add(kind)
        at += length
    if at > size:
        return _shortfall(at, size)
    if not seen & {b"moov", b"moof"} and b"ftyp" in seen:
        return "is cut off: it has no index (moov box)"
    return ""
