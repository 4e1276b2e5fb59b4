"""Frames of a stream in order of presentation, from any second on, whatever the container.

Where a container has an index of its key frames, reading may begin at one. Where it has none
(MPEG transport and program streams, bare codec streams), FFmpeg guesses by bytes, and lands behind
what was asked for, or between two key frames: then frames are missing, or lean on others that were
not decoded. Such files are read from their beginning.
"""

import collections
import heapq
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from vidgen.video import holes

# Formats of FFmpeg whose seeks lead to a key frame at or before the time that was asked for.
_INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flv")
# Those that know when packets are decoded, not when frames are shown: their first frame seems late
# by as many frames as the decoder holds back.
_DECODED = ("avi", "mpegvideo", "h264", "hevc", "m4v", "vc1", "obu", "ivf")
# Bare streams of a codec, whose frames have no times: the rate is the stream's own, and frames are
# counted, so that those behind a lost one would seem too early.
BARE = ("mpegvideo", "h264", "hevc", "m4v", "vc1")
# Decoders of codecs some of whose pictures are not shown, as those of MPEG-4 of a few bytes.
_HIDING = ("vp8", "vp9", "av1", "libvpx", "libvpx-vp9", "libdav1d", "libaom-av1")
_PLACEHOLDER = 20
_UNIT = re.compile(rb"\x00\x00\x01(.)", re.DOTALL)  # of H.265, 7.3.1.2
_REORDER = 4  # frames held back to put presentation times in order
_NUMBERED = "avi"  # whose packets have no times but their numbers
_LONGEST = 16  # frames by which H.264 moves one in the order of coding, at most
_BACK = 0.3  # seconds that a time may lie behind another; 8 frames, if that is longer


class Backwards(Exception):
    """Presentation times jump back: the file is several, one after another."""


class Untrusted(Exception):
    """What follows a seek may not be what follows from the beginning."""


def begin(container: Any, stream: Any, start: float | None) -> float | None:
    """Goes to where reading begins, and returns the time of the file's start in its own seconds.

    Args:
      container: Open, of PyAV, as it was opened.
      stream: Its video.
      start: Seconds from the start of the file, before which reading begins; None: from the
        beginning.

    Returns:
      Seconds; None: the time of the first frame, which is not known yet.

    Raises:
      Untrusted: There is no index to seek by, or it leads nowhere.
    """
    import av.error

    name, stated = container.format.name, container.start_time
    origin = None if name in _DECODED or stated is None else stated / 1e6
    if start is None:
        return origin
    if name not in _INDEXED:
        raise Untrusted
    try:
        if origin is None:
            first = next(container.decode(stream), None)
            if first is None or first.time is None:
                raise Untrusted
            origin = float(first.time)
        # A key frame at or before `start`; a second more for open groups of pictures.
        container.seek(int((max(0.0, start - 1.0) + origin) * 1e6), backward=True)
    except av.error.FFmpegError:
        raise Untrusted from None
    return origin


def decoder(stream: Any) -> Any:
    """Returns the context that a stream is decoded in.

    FFmpeg's own decoders of VP8 and VP9 drop their transparency; those of libvpx do not.
    """
    import av
    import av.error

    own = stream.codec_context
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(own.name)
    transparent = any(k.lower() == "alpha_mode" and v == "1" for k, v in stream.metadata.items())
    if name not in av.codecs_available or not transparent:
        return own
    context = av.CodecContext.create(name, "r")
    context.extradata = own.extradata
    return context


class Reader:
    """Decodes a stream packet by packet, without what leans on packets that are not there.

    A recording that was cut out of a longer one may begin between two key frames, or with one that
    is followed by frames of before it. Neither is damage. Nor does damage matter that lies before
    the wanted seconds, where a key frame comes in between and frames have times.

    Attributes:
      origin: Time of the file's start in its own seconds; None: not known yet.
      dropped: Packets at the beginning of which no frame came, up to the first key frame and of
        what is shown before it.
      torn: Whether the last packet is damaged, as where a recording was cut off: its frame, and
        what is shown after it, was left out.
    """

    def __init__(
        self,
        container: Any,
        stream: Any,
        context: Any,
        file: Any,
        start: float,
        origin: float | None,
        damaged: bool = False,
    ):
        self.origin, self.dropped, self.torn = origin, 0, False
        self._container, self._stream, self._context = container, stream, context
        self._file, self._start = file, start
        self._key: int | None = None  # time of the first key frame
        self._keys: collections.deque[int | None] = collections.deque(maxlen=8)  # and of the last
        self._stray: list[Any] = []  # a frame whose time is far from the one before it
        self._steady_at: float | None = None  # time of the last that was none
        self._counted = container.format.name in BARE
        self._shifted = container.format.name == _NUMBERED
        rate = float(stream.guessed_rate or 0)
        self._far = _farthest(rate)
        self._pace = holes.Pace(1 / (rate or 25))
        self._expected: list[int] = []  # times of packets whose frames have not come
        # Bare streams have none, and AVI's are in the order of coding.
        self._expects: bool = context.name not in _HIDING and not (
            self._counted or (self._shifted and stream.codec_context.has_b_frames)
        )
        # Damage that was passed over, and the time of the key frame after it.
        self._damage = holes.lost() if damaged else None
        self._whole: int | None = None

    def frames(self) -> Iterator[Any]:
        """Yields frames as they are decoded.

        Raises:
          av.error.InvalidDataError: A packet is damaged, and frames that are wanted may be.
        """
        import av.error

        keys, early = False, 0
        last, torn = None, None  # damage of a packet after which none has come, and its time
        for packet, hole in holes.packets(self._container, self._stream, self._file):
            if last is not None and packet.size:
                raise last
            if hole is not None and keys:
                if self._shifted or self._wanted(packet):
                    raise hole
                self._damage, self._whole = hole, None
            if packet.is_keyframe:
                if not keys:
                    keys, self._key, self.dropped = True, packet.pts, early
                elif self._damage and self._whole is None:
                    self._whole = packet.pts
                self._keys.append(packet.pts)
            self._expect(packet)
            try:
                decoded = self._context.decode(packet)
            except av.error.InvalidDataError as error:
                decoded = []
                if self._leads(packet) or (len(self._keys) == 1 and self._is_skipped(packet)):
                    self.dropped += 1
                elif keys and (self._counted or self._wanted(packet)):
                    # Several threads say it late, of which packet nobody knows.
                    if self._context.thread_count != 1 or not packet.size:
                        raise
                    last, torn = error, packet.pts
                elif keys:
                    self._damage, self._whole = error, None
            early += 1 - len(decoded)
            for frame in decoded:
                if frame.is_corrupt and (not keys or self._leads(frame)):
                    early, self.dropped = early + 1, self.dropped + keys
                    continue
                if last is not None and (None in (frame.pts, torn) or frame.pts >= torn):
                    continue
                if (lacking := self._lacking(frame)) is not None:
                    later = (key for key in self._keys if key is not None and key > lacking)
                    self._damage, self._whole = holes.lost(), next(later, None)
                if self._damage and self._wanted(frame) and not self._is_whole(frame):
                    raise self._damage
                yield from self._steady(frame)
        yield from self._stray or ()
        self.torn = last is not None

    def _expect(self, packet: Any) -> None:
        """Notes that a frame of a packet's time should come."""
        if not self._expects or packet.pts is None or packet.is_discard or self._leads(packet):
            return
        if packet.size > (_PLACEHOLDER if self._context.name == "mpeg4" else 0):
            heapq.heappush(self._expected, packet.pts)

    def _lacking(self, frame: Any) -> int | None:
        """Returns the time of a frame before this one that the decoder left out without a word."""
        if frame.pts is None:
            return None
        left_out = None
        if frame.interlaced_frame:  # fields may be packets of their own
            self._expects, self._expected = False, []
        step, usual = self._pace.step(frame.time)
        while self._expected and self._expected[0] <= frame.pts:
            pts = heapq.heappop(self._expected)
            earlier = float((frame.pts - pts) * frame.time_base)
            if 0 < earlier < step - 0.75 * usual:  # behind the frame before by a frame time
                left_out = pts
        return left_out if step > holes.LATE * usual else None

    def _steady(self, frame: Any) -> Iterator[Any]:
        """Yields a frame, and the one before it that was held back, if its time is no stray.

        Where the time of a frame was damaged, the next one's is close to the one before it.

        Raises:
          av.error.InvalidDataError: There is such a frame, and it may be wanted.
        """
        if self._stray:
            (stray,), self._stray = self._stray, []
            at = self._steady_at or 0.0  # which is known where there is a stray
            if frame.time is None or abs(frame.time - at) > self._far:
                self._steady_at = stray.time
                yield stray
            elif self._wanted(frame):
                raise holes.lost()
        at: Any = self._steady_at
        loose = self._shifted or self._counted or None in (frame.time, at)
        if loose or abs(frame.time - at) <= self._far:
            self._steady_at = frame.time
            yield frame
        else:
            self._stray = [frame]

    def _leads(self, what: Any) -> bool:
        """Tells whether a packet or frame is shown before the first key frame."""
        return None not in (what.pts, self._key) and what.pts < self._key

    def _is_skipped(self, packet: Any) -> bool:
        """Tells whether a packet of bare HEVC leans on what lies before its key frame."""
        if not self._counted or self._context.name != "hevc":
            return False
        kinds = (match[1][0] >> 1 & 63 for match in _UNIT.finditer(bytes(packet)[:4096]))
        return next((kind for kind in kinds if kind < 32), 0) in (8, 9)  # RASL pictures

    def _wanted(self, what: Any) -> bool:
        """Tells whether a packet or frame may be shown in the wanted seconds."""
        if what.pts is None or self.origin is None:
            return True
        return float(what.pts * what.time_base) - self.origin >= self._start - 1e-6

    def _is_whole(self, frame: Any) -> bool:
        """Tells whether a frame comes after the key frame after damage."""
        return None not in (frame.pts, self._whole) and frame.pts >= self._whole


def _farthest(fps: float) -> float:
    """Returns by how many seconds the order of coding may move a time."""
    return max(_BACK, 2 * _REORDER / (fps or 25))


def in_order(frames: Iterable[Any], fps: float, name: str) -> Iterator[tuple[float, Any]]:
    """Yields `(seconds, frame)` with times that never go back.

    Decoders give frames in order of presentation, but AVI stamps them in the order of coding: the
    stamps are right as a set. So the smallest of the next few belongs to the next frame. A frame
    without a stamp follows the last by one frame time, and so does each of a bare stream, whose
    stamps are FFmpeg's guesses. What was decoded before an error comes before it.

    Args:
      frames: Of PyAV.
      fps: Of the stream; 0 where that is not known.
      name: FFmpeg's name of the format.

    Raises:
      Backwards: A stamp is further behind than any order of coding puts it.
    """
    import av.error

    held: list[Any] = []
    stamps: list[float] = []
    step = 1 / (fps or 25)
    newest, last, highest = -step, -math.inf, -math.inf
    # AVI counts frames, so that its times cannot jump.
    most, waits = (math.inf, _LONGEST) if name == _NUMBERED else (_farthest(fps), _REORDER)
    failed: Exception | None = None

    def pop() -> tuple[float, Any]:
        nonlocal last
        last = max(last, heapq.heappop(stamps))
        return last, held.pop(0)

    try:
        length = step
        for frame in frames:
            seconds = None if name in BARE else frame.time
            newest = newest + length if seconds is None else float(seconds)
            if name in BARE and frame.duration and frame.time_base:
                # A field's, where these are coded alone; longer, where one is shown again.
                length = max(step, float(frame.duration * frame.time_base))
            if newest < highest - most:
                raise Backwards(f"its times jump back by {highest - newest:.2f} s")
            highest = max(highest, newest)
            heapq.heappush(stamps, newest)
            held.append(frame)
            if len(held) > waits:
                yield pop()
    except (Backwards, av.error.FFmpegError, MemoryError) as error:
        failed = error
    while held:
        yield pop()
    if failed is not None:
        raise failed
