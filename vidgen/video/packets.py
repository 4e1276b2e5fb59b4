"""Frames of a stream in order of presentation, from any second on, whatever the container.

Where a container has an index of its key frames, reading may begin at one. Where it has none
(MPEG transport and program streams, bare codec streams), FFmpeg guesses by bytes, and lands behind
what was asked for, or between two key frames: then frames are missing, or lean on others that were
not decoded. Such files are read from their beginning.
"""

import heapq
import math
from collections.abc import Iterable, Iterator
from typing import Any

# Formats of FFmpeg whose seeks lead to a key frame at or before the time that was asked for.
_INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flv")
# Those that know when packets are decoded, not when frames are shown: their first frame seems late
# by as many frames as the decoder holds back.
_DECODED = ("avi", "mpegvideo", "h264", "hevc", "m4v", "vc1", "obu", "ivf")
# Bare streams of a codec, whose frames have no times: the rate is the stream's own, and frames are
# counted, so that those behind a lost one would seem too early.
BARE = ("mpegvideo", "h264", "hevc", "m4v", "vc1")
_INVALID = 0x41444E49  # FFmpeg's number of invalid data
_REORDER = 4  # frames held back to put presentation times in order
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
        self, container: Any, stream: Any, context: Any, start: float, origin: float | None
    ):
        self.origin, self.dropped, self.torn = origin, 0, False
        self._container, self._stream, self._context = container, stream, context
        self._start = start
        self._key: int | None = None  # time of the first key frame
        # Damage that was passed over, and the time of the key frame after it.
        self._counted = container.format.name in BARE
        self._damage: Exception | None = None
        self._whole: int | None = None

    def frames(self) -> Iterator[Any]:
        """Yields frames as they are decoded.

        Raises:
          av.error.InvalidDataError: A packet is damaged, and frames that are wanted may be.
        """
        import av.error

        keys, early = False, 0
        last, torn = None, None  # damage of a packet after which none has come, and its time
        for packet, hole in _with_holes(self._container, self._stream):
            if last is not None and packet.size:
                raise last
            if hole is not None and keys:
                if self._wanted(packet):
                    raise hole
                self._damage, self._whole = hole, None
            if packet.is_keyframe:
                if not keys:
                    keys, self._key, self.dropped = True, packet.pts, early
                elif self._damage and self._whole is None:
                    self._whole = packet.pts
            try:
                decoded = self._context.decode(packet)
            except av.error.InvalidDataError as error:
                decoded = []
                if self._leads(packet):
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
                if self._damage and self._wanted(frame) and not self._is_whole(frame):
                    raise self._damage
                yield frame
        self.torn = last is not None

    def _leads(self, what: Any) -> bool:
        """Tells whether a packet or frame is shown before the first key frame."""
        return None not in (what.pts, self._key) and what.pts < self._key

    def _wanted(self, what: Any) -> bool:
        """Tells whether a packet or frame may be shown in the wanted seconds."""
        if what.pts is None or self.origin is None:
            return True
        return float(what.pts * what.time_base) - self.origin >= self._start - 1e-6

    def _is_whole(self, frame: Any) -> bool:
        """Tells whether a frame comes after the key frame after damage."""
        return None not in (frame.pts, self._whole) and frame.pts >= self._whole


def _with_holes(container: Any, stream: Any) -> Iterator[tuple[Any, Exception | None]]:
    """Yields packets, each with an error where the container lacks some before it.

    Matroska goes on at the next part that is whole, and no more than logs that it does. What it
    says at the end, of bytes that are no part, is nothing of the video.
    """
    import av.error
    import av.logging

    packets, told = container.demux(stream), False
    while True:
        if container.format.name == "matroska,webm":
            before = av.logging.get_level()
            av.logging.set_level(av.logging.ERROR)
            try:
                with av.logging.Capture() as said:
                    packet = next(packets, None)
            finally:
                av.logging.set_level(before)
            told = told or any(name == container.format.name for _, name, _ in said)
        else:
            packet = next(packets, None)
        if packet is None:
            return
        hole = None
        if told and packet.size:
            hole = av.error.InvalidDataError(_INVALID, "Invalid data found when processing input")
            told = False
        yield packet, hole


def in_order(frames: Iterable[Any], fps: float) -> Iterator[tuple[float, Any]]:
    """Yields `(seconds, frame)` with times that never go back.

    Decoders give frames in order of presentation, but some containers (MPEG-4 in AVI) stamp them
    in the order of coding: the stamps are right as a set. So the smallest of the next few belongs
    to the next frame. A frame without a stamp follows the last by one frame time. What was decoded
    before an error comes before it.

    Args:
      frames: Of PyAV.
      fps: Of the stream; 0 where that is not known.

    Raises:
      Backwards: A stamp is further behind than any order of coding puts it.
    """
    import av.error

    held: list[Any] = []
    stamps: list[float] = []
    step = 1 / fps if fps else 0.04
    newest, last, highest = -step, -math.inf, -math.inf
    most = max(_BACK, 2 * _REORDER * step)
    failed: Exception | None = None

    def pop() -> tuple[float, Any]:
        nonlocal last
        last = max(last, heapq.heappop(stamps))
        return last, held.pop(0)

    try:
        for frame in frames:
            seconds = frame.time
            newest = newest + step if seconds is None else float(seconds)
            if newest < highest - most:
                raise Backwards(f"its times jump back by {highest - newest:.2f} s")
            highest = max(highest, newest)
            heapq.heappush(stamps, newest)
            held.append(frame)
            if len(held) > _REORDER:
                yield pop()
    except (Backwards, av.error.FFmpegError, MemoryError) as error:
        failed = error
    while held:
        yield pop()
    if failed is not None:
        raise failed
