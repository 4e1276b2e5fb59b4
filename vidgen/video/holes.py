"""Packets of a stream, and where a damaged container has lost some without a word.

At damage, FFmpeg's demuxers go on at the next part that looks whole. What lay in between would be
missing, or shift what comes after. So the packets are compared with what else tells of them:

- AVI: the index at the file's end;
- FLV: the chain of tags, each of which states its length;
- MPEG transport streams: packets of a fixed length with counters, and times;
- Matroska: what the demuxer logs;
- ASF, FLV, IVF: seconds that the header states, and bytes that are left behind the last packet.
"""

import collections
import contextlib
import math
import os
import re
import statistics
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

File = str | os.PathLike[str] | BinaryIO
Read = Callable[[int, int], bytes]  # of an offset and a count

_INVALID = 0x41444E49  # FFmpeg's number of invalid data
_MATROSKA, _TS = "matroska,webm", "mpegts"
# Of what its demuxer says, that which is of packets, not of what stands at the head of a file.
_MISSED = re.compile(
    "exceeds|invalid|prematurely|finite size|frame sizes|unknown element|read error|block data",
    re.IGNORECASE,
)
_STATED = ("asf", "flv", "ivf")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_AHEAD = 1 << 24  # bytes in which tags are looked for behind damage
# Of FLV: tags of sound, video and three kinds of data, what one may begin with, and the flag of
# video tags of another layout.
_TAGS = (8, 9, 15, 18, 22)
_TAG = re.compile(rb"(?=[\x08\x09\x0f\x12\x16].{7}\x00\x00\x00)", re.DOTALL)
_EXTENDED = 0x80
LATE = 1.7  # frame times between packets; soft telecine has 1.5


def lost() -> Exception:
    """Returns the error of FFmpeg that stands for packets which are not there."""
    import av.error

    return av.error.InvalidDataError(_INVALID, "Invalid data found when processing input")


def opened(open_it: Callable[[dict[str, str]], Any]) -> tuple[Any, bool]:
    """Opens a container, with whether its first packets are damaged.

    FFmpeg reads packets ahead when it opens a file, so that where Matroska passes over damage in
    these nobody knows before which one it lay. Such a file is opened once more, for the least.

    Args:
      open_it: Opens it, given options of FFmpeg.

    Returns:
      What `open_it` returned, and whether something is missing near its beginning.
    """
    with _listening() as said:
        container = open_it({})
    if not _of_matroska(said):
        return container, False
    container.close()
    with _listening() as said:
        container = open_it({"probesize": "32", "analyzeduration": "1"})
    return container, _of_matroska(said)


def packets(container: Any, stream: Any, file: File) -> Iterator[tuple[Any, Exception | None]]:
    """Yields packets, each with an error where the container lacks some before it.

    Args:
      container: Open, of PyAV.
      stream: Of it, a video.
      file: What the container was opened from.

    Yields:
      A packet, the last of which is empty, and the error or None.
    """
    with _reading(file) as read:
        yield from _compared(container, stream, read)


def _compared(container: Any, stream: Any, read: Read) -> Iterator[tuple[Any, Exception | None]]:
    """Yields as `packets` does, given what reads the file."""
    places = _places(container.format.name, stream, read)
    place = next(places, math.inf)
    told, at, end, shown, latest = False, math.inf, 0, 0.0, 0.0
    rate = stream.guessed_rate
    pace = Pace(float(1 / (rate * stream.time_base)) if rate else None)
    for packet, said in _demuxed(container):
        told = told or said
        if not packet.is_corrupt:  # as one is that has swallowed the rest
            end = max(end, (packet.pos or 0) + packet.size)
            latest = max(latest, _end(packet))
        if packet.stream.index != stream.index:
            continue
        here = math.inf if not packet.size else at if packet.pos is None else packet.pos
        passed = False
        while place < here and (here < math.inf or not packet.size):
            passed, place = passed or place > at, next(places, math.inf)
        if container.format.name == _TS:
            step, usual = pace.step(packet.dts)
            passed = passed and step > LATE * usual
        if packet.size:
            missing = told or passed
            told, at, shown = False, here, max(shown, _end(packet))
        else:
            missing = passed or (
                _lacks_parts(stream, shown) if told else _ends_early(container, read, latest, end)
            )
        yield packet, lost() if missing else None
        if not packet.size and packet.dts is None:
            return  # else a stream that came late makes PyAV end the others twice


class Pace:
    """The usual time from one packet or frame to the next, of which the median is taken.

    Args:
      first: What it is before any has come; None: not known.
    """

    def __init__(self, first: float | None):
        self._steps = collections.deque([] if first is None else [first], maxlen=15)
        self._last: float | None = None

    def step(self, time: float | None) -> tuple[float, float]:
        """Returns the time since the last one and the usual time, `(0, inf)` if that went back."""
        before, self._last = self._last, time
        if before is None or time is None or time <= before:
            return 0.0, math.inf
        step = float(time - before)
        usual = statistics.median(self._steps or [step])
        self._steps.append(step)
        return step, usual


def _lacks_parts(stream: Any, shown: float) -> bool:
    """Tells whether a Matroska file should be longer, at whose end its demuxer logged an error.

    Of bytes that are no part of it, behind its end, it logs one, too.
    """
    return shown < (stated_seconds(stream) or 0.0) - 0.06


def _ends_early(container: Any, read: Read, latest: float, end: int) -> bool:
    """Tells whether the demuxer of a file whose header states seconds left bytes at its end.

    Args:
      container: Open, of PyAV.
      read: Reads the file.
      latest: Seconds at which the last packet of all streams ends.
      end: Bytes of the file up to where it ends.
    """
    name, stated = container.format.name, (container.duration or 0) / 1e6
    if name not in _STATED or not 0 < latest < stated - 0.2:
        return False
    size = _asf_data(read) if name == "asf" else container.size
    return size - end > 0.25 * end / latest * (stated - latest)


def _asf_data(read: Read) -> int:
    """Returns where the packets of an ASF file end, before its indices; 0 where it says nothing.

    Reference: Microsoft, "Advanced Systems Format (ASF) specification", 3.1 and 5.2.
    """
    begin = int.from_bytes(read(16, 8), "little")  # behind the header
    head = read(begin, 24) if begin < 1 << 40 else b""
    return begin + int.from_bytes(head[16:], "little") if head[:16] == _ASF_DATA else 0


@contextlib.contextmanager
def _reading(file: File) -> Iterator[Read]:
    """Gives what reads bytes at an offset of a file, and leaves the file where it was."""
    with contextlib.ExitStack() as stack:
        own: Any = file
        if isinstance(file, str | os.PathLike):
            own = stack.enter_context(open(file, "rb"))

        def read(at: int, count: int) -> bytes:
            before = own.tell()
            own.seek(at)
            data = own.read(count)
            own.seek(before)  # FFmpeg may be reading the same
            return data

        yield read


def _demuxed(container: Any) -> Iterator[tuple[Any, bool]]:
    """Yields packets, each with whether Matroska's demuxer said something while it read it."""
    packets, listens = container.demux(), container.format.name == _MATROSKA
    while True:
        try:
            with _listening() if listens else contextlib.nullcontext([]) as said:
                packet = next(packets, None)
        except IndexError:  # PyAV's, of a stream that was not there when the file was opened
            packets = container.demux()
            continue
        if packet is None:
            return
        yield packet, _of_matroska(said)


@contextlib.contextmanager
def _listening() -> Iterator[list[Any]]:
    """Gives a list of the errors that FFmpeg logs, `(level, name, message)`, as they come."""
    import av.logging

    before, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # the same may have been said of another file
    try:
        with av.logging.Capture() as said:
            yield said
    finally:
        av.logging.set_skip_repeated(skips)
        av.logging.set_level(before)


def _of_matroska(said: list[Any]) -> bool:
    return any(name == _MATROSKA and _MISSED.search(text) for _, name, text in said)


def _end(packet: Any) -> float:
    """Returns the second at which what a packet shows ends; 0 where it has no time."""
    if packet.pts is None:
        return 0.0
    return float((packet.pts + (packet.duration or 0)) * packet.time_base)


def stated_seconds(stream: Any) -> float | None:
    """Returns the seconds of a stream that Matroska's tags state, if they do."""
    stated = re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", stream.metadata.get("DURATION", ""))
    if stated is None:
        return None
    hours, minutes, seconds = map(float, stated.groups())
    return 3600 * hours + 60 * minutes + seconds


# ------------------------------------------------------------------------------- containers


def _places(name: str, stream: Any, read: Read) -> Iterator[float]:
    """Returns offsets in a file that a packet begins at, or just before which it is damaged.

    They come in order. Where one lies between two packets that come one after the other, something
    is lost; of a transport stream only if time is missing, too: a picture has several packets.
    """
    if name == "avi":
        return iter(sorted(entry.pos + 8 for entry in stream.index_entries if entry.size))
    if name == "flv":
        return _flv(read)
    return _transport(read, stream.id) if name == _TS else iter(())


def _flv(read: Read) -> Iterator[float]:
    """Walks the tags of an FLV file (Adobe, "Video file format specification", version 10.1)."""
    codec: int | None = None
    at: int | None = int.from_bytes(read(5, 4), "big") + 4
    while at is not None:
        head = read(at, 13)
        after = _next_tag(head, at)
        if after is None:  # damaged, or where it is cut off none comes after it
            if len(head) == 13 and (found := _next_chain(read, at + 1)):
                yield at - 0.5
                at = found
                continue
            return
        if not read(after - 5, 1):  # cut off
            return
        if head[0] & 31 == 9 and after - at > 16:
            codec = _codec(head[11]) if codec is None else codec
            if not _is_apart(head[11], head[12], codec, after - at - 15):
                yield at
        at = after


def _is_apart(first: int, second: int, codec: int, length: int) -> bool:
    """Tells whether a video tag is no picture, by the first bytes and the length of its data."""
    if _codec(first) != codec:  # which is damage
        return False
    if codec == _EXTENDED:  # whose packets of pictures have the types 1 and 3
        return first & 15 not in (1, 3)
    return first >> 4 == 5 or (codec in (7, 12) and (second in (0, 2) or length <= 5))


def _codec(first: int) -> int:
    return _EXTENDED if first & _EXTENDED else first & 15


def _next_tag(head: bytes, at: int) -> int | None:
    """Returns where the tag after one begins, or None where its head makes no sense."""
    if len(head) < 11 or head[0] & 31 not in _TAGS or any(head[8:11]):
        return None
    return at + 15 + int.from_bytes(head[1:4], "big")


def _next_chain(read: Read, begin: int) -> int | None:
    """Returns where, soon behind an offset, a tag stands whose length stands behind it, too."""
    data = read(begin, _AHEAD)
    for found in _TAG.finditer(data):
        at = begin + found.start()
        after = _next_tag(data[found.start() : found.start() + 11], at)
        if after and int.from_bytes(read(after - 4, 4), "big") == after - at - 4:
            return at
    return None


def _transport(read: Read, pid: int) -> Iterator[float]:
    """Looks at the packets of one stream of a transport stream (ISO/IEC 13818-1)."""
    start = np.frombuffer(read(0, 204 * 9), np.uint8)
    found = [
        (length, first)
        for length in (188, 192, 204)
        for first in range(length)
        if len(start) >= first + 8 * length and (start[first::length][:8] == 0x47).all()
    ]
    if not found:
        return
    length, first = found[0]
    before: int | None = None  # the last counter
    begin = first
    while len(data := read(begin, 8192 * length)) >= length:
        rows = np.frombuffer(data[: len(data) // length * length], np.uint8).reshape(-1, length)
        bad = (rows[:, 0] != 0x47) | (rows[:, 1] & 0x80 != 0)
        own = np.flatnonzero((((rows[:, 1] & 0x1F).astype(int) << 8) + rows[:, 2] == pid) & ~bad)
        wrong, begins, before = _broken(rows[own].astype(int), before)
        for n in np.flatnonzero(wrong):
            wrong[n] = not _joins(rows, own[n - 1] if n else 0, own[n])
        damaged = np.unique(np.concatenate([np.flatnonzero(bad), own[wrong]])) * length - 0.5
        # The first four bytes of 192 are a time of arrival.
        offset = begin - (4 if length == 192 else 0)
        yield from sorted(np.concatenate([damaged, own[begins] * length]) + offset)
        begin += rows.size


def _joins(rows: np.ndarray, last: int, here: int) -> bool:
    """Tells whether one file was put behind another before a packet of a transport stream.

    Counters begin anew then, of this stream and of the table of programs before it.
    """
    between = rows[last:here]
    tables = between[((between[:, 1] & 0x1F) == 0) & (between[:, 2] == 0)]
    return bool(len(tables) and rows[here, 3] & 15 == 0 and tables[-1, 3] & 15 == 0)


def _broken(rows: np.ndarray, before: int | None) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Looks at packets `[N, bytes]` of one stream.

    Returns:
      bool `[N]`: something is missing before a packet, or it does not begin as it says; bool
      `[N]`: a picture, or another part of the stream, begins; and the counter of the last.
    """
    if not len(rows):
        return np.zeros(0, bool), np.zeros(0, bool), before
    adapted, has = rows[:, 3] & 0x20 != 0, rows[:, 3] & 0x10 != 0
    counter = rows[:, 3] & 15
    last = np.concatenate([[counter[0] - has[0] if before is None else before], counter[:-1]])
    again = has & (counter == last)  # a packet may be sent twice
    jumps = adapted & (rows[:, 4] > 0) & (rows[:, 5] & 0x80 != 0)  # as its writer says
    wrong = (counter != (last + has) % 16) & ~again & ~jumps
    begins = (rows[:, 1] & 0x40 != 0) & has
    payload = np.minimum(4 + adapted * (1 + rows[:, 4]), rows.shape[1] - 3)
    prefix = np.stack([rows[np.arange(len(rows)), payload + n] for n in range(3)], axis=1)
    return wrong | (begins & (prefix != (0, 0, 1)).any(1)), begins, int(counter[-1])
