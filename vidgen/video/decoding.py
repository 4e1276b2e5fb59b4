"""From a video file to frames with their times: what every reader of files shares.

    info = {}
    timed = resample(timed_frames("walk.mp4", info=info), fps=12)
    convert = converter(size=64, info=info)
    clip = np.stack([convert(frame) for _, frame in timed])

FFmpeg decodes, through PyAV, not through imageio, which ignores rotation, edit lists and
transparency. Pillow decodes animated WebP, which FFmpeg cannot, and AVIF, of whose animations
FFmpeg takes the cover. The frames are those of PyAV or Pillow; `conversion.converter` makes arrays
of them.
"""

import functools
import io
import math
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from vidgen.video import holes, packets
from vidgen.video.resampling import TICK

Path = str | os.PathLike[str]

# Formats of FFmpeg that open other files or devices, or draw text or tables as pictures.
_BARRED = frozenset(
    [
        "alias_pix",
        "alsa",
        "brender_pix",
        "concat",
        "dash",
        "fbdev",
        "hls",
        "image2",
        "imf",
        "kmsgrab",
        "lavfi",
        "mlv",
        "oss",
        "rtp",
        "rtsp",
        "sap",
        "sdp",
        "tty",
        "vapoursynth",
        "video4linux2,v4l2",
        "vobsub",
        "webm_dash_manifest",
        "x11grab",
    ]
)
# Formats of Pillow that are opened, whatever a file is called: others start programs (EPS starts
# Ghostscript) or are no pictures.
PILLOW = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Damaged frames are an error instead of a smear: with this, 3 of 4 single flipped bits in H.264 are
# noticed instead of 1 of 40; with `frame.is_corrupt` as well, 9 of 10.
_STRICT = {"err_detect": "explode"}


class Unreadable(Exception):
    """A file is no usable video; the message is the reason, without the file's name."""


def reason(error: BaseException) -> str:
    """Returns in one line why a file could not be read, without its name."""
    if isinstance(error, Unreadable):
        return str(error)
    if isinstance(error, MemoryError):
        return "needs more memory than the limits allow"
    said = getattr(error, "strerror", None)  # of OSError, and of every error of PyAV
    if said:
        return said[0].lower() + said[1:]
    return f"{type(error).__name__}: {error}".splitlines()[0]


def timed_frames(
    file: Path | BinaryIO,
    *,
    start: float = 0.0,
    end: float | None = None,
    threads: int = 1,
    max_pixels: int | None = None,
    info: dict[str, Any] | None = None,
) -> Iterator[tuple[float, Any]]:
    """Yields `(seconds, frame)` of a video, in order of presentation.

    Args:
      file: A path or a seekable binary file.
      start: First second wanted, counted from the start of the file.
      end: Seconds at which to stop, exclusive.
      threads: Threads of the decoder.
      max_pixels: A frame of more pixels is refused before it is decoded.
      info: Filled with the fields of `VideoInfo`, and `matrix`, `interlaced`, `alpha`, from the
        header and the first frame; where the file says so, with `until`, seconds at which the
        frame that was given last ends; and with `dropped`, how many packets at the beginning lean
        on others which the file lacks, and with `torn`, whether
        it ends with a damaged one.

    Yields:
      Seconds from the start of the file and a PyAV or Pillow frame for `converter`, to be converted
      at once.

    Raises:
      Unreadable: The file has no video stream, or is damaged.
      OSError: What FFmpeg or the system says.
    """
    info = {} if info is None else info
    if _is_for_pillow(file):
        yield from _pillow_frames(file, start, end, max_pixels, info)
        return
    # Seconds in the middle: by the index of a file, and where that leads nowhere or to frames that
    # lean on others before them, from the beginning. Several threads say late which packet was
    # damaged, so that what may be passed over is seen by one alone.
    ways = [(True, threads)] if start > 0 else []
    ways += [(False, threads)] + ([(False, 1)] if threads > 1 else [])
    for number, (seek, threads) in enumerate(ways):
        container, damaged = holes.opened(functools.partial(_open, file))
        with container:
            last = number == len(ways) - 1
            try:
                yield from _stream_frames(
                    container, file, damaged, start, end, threads, max_pixels, info, seek, last
                )
                return
            except packets.Untrusted:
                pass


def _stream_frames(
    container: Any,
    file: Path | BinaryIO,
    damaged: bool,
    start: float,
    end: float | None,
    threads: int,
    max_pixels: int | None,
    info: dict[str, Any],
    seek: bool,
    last: bool,
) -> Iterator[tuple[float, Any]]:
    """Yields `(seconds, frame)` of an open file; arguments as for `timed_frames`.

    `damaged` is what `holes.opened` returns of the file.

    Raises:
      packets.Untrusted: Nothing was given, this is not the last way of reading the file, and
        another may find other frames.
    """
    import av.error

    stream = _pick(container)
    context = packets.decoder(stream)
    # Set here, because options given to av.open do not reach the decoder.
    context.options = _STRICT | ({"max_pixels": str(max_pixels)} if max_pixels else {})
    context.thread_type = "NONE" if threads == 1 else "AUTO"
    context.thread_count = threads
    width, height = stream.codec_context.width, stream.codec_context.height
    if max_pixels is not None and width * height > max_pixels:
        raise Unreadable(_too_large(width, height, max_pixels))
    info.update(_header(container, stream))
    origin = packets.begin(container, stream, start if seek else None)
    reader = packets.Reader(container, stream, context, file, start, origin, damaged and not seek)
    seen, size, seconds, given = 0, (0, 0), 0.0, 0
    try:
        for stamp, frame in packets.in_order(reader.frames(), info["fps"], container.format.name):
            if origin is None:
                origin = reader.origin = stamp
            before, seconds = seconds, stamp - origin
            lost = frame.time is None or (not seen and seconds > start + TICK)
            # Some writers mark all frames as key frames.
            if seek and not given and (lost or (not seen and _leans(frame))):
                raise packets.Untrusted
            if end is not None and seconds >= end - 1e-6:
                break
            if seen == 0:
                info.update(_first(frame, info))
                size = frame.width, frame.height
            if (frame.width, frame.height) != size:
                raise Unreadable("changes its frame size half way" + _good(seen, before))
            seen += 1
            if seconds >= start - 1e-6:
                if frame.is_corrupt:
                    raise Unreadable("is damaged" + _good(seen - 1, before))
                if frame.duration and frame.time_base:
                    info["until"] = _until(seconds + frame.duration * frame.time_base, end)
                given, info["dropped"] = given + 1, reader.dropped
                yield seconds, frame
        if seek and not given:
            raise packets.Untrusted
        info["torn"] = reader.torn
    except packets.Backwards as error:
        raise Unreadable(f"{error}" + _good(seen, seconds)) from None
    except (Unreadable, av.error.FFmpegError, MemoryError) as error:
        if not given and not last:
            raise packets.Untrusted from None
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(reason(error) + _good(seen, seconds)) from error


def _leans(frame: Any) -> bool:
    """Tells whether a frame is predicted from others."""
    from av.video.frame import PictureType

    return frame.pict_type in (PictureType.P, PictureType.B, PictureType.S)


def _good(frames: int, last: float) -> str:
    """Says up to where a file can be used: an `end` of that many seconds leaves out the rest."""
    whole = math.floor(last * 100) / 100  # not beyond the last good frame, at which reading stops
    return f" after {frames} good frames" + (f" ({whole:.2f} s)" if frames else "")


def _open(file: Path | BinaryIO, options: dict[str, str]) -> Any:
    """Opens a file with FFmpeg, which may read this file and no other."""
    import av
    import av.error

    target = os.path.abspath(file) if isinstance(file, str | os.PathLike) else file
    if not isinstance(file, str | os.PathLike):
        file.seek(0)
    only = {"protocol_whitelist": "file", "format_whitelist": _formats()}
    try:
        # Titles in other encodings than UTF-8 are no reason to refuse a video.
        return av.open(target, "r", container_options=only | options, metadata_errors="replace")
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise Unreadable(f"is no video that FFmpeg can open: {reason(error)}") from error


@functools.cache
def _formats() -> str:
    import av

    return ",".join(sorted(av.formats_available - _BARRED))


def _pick(container: Any) -> Any:
    """Returns the first stream that is a moving picture, not a cover."""
    moving = _moving(container)
    # A still picture in front may lack the flag of a cover.
    for stream in [s for s in moving if not _is_still(s)] or moving:
        return stream
    streams = container.streams.video
    if streams and not any(_is_moving(s) for s in streams):
        raise Unreadable("holds no video, only sound and a cover picture")
    if streams:
        raise Unreadable("its video is coded in a way that this FFmpeg cannot decode")
    raise Unreadable("holds no video stream" + (", only sound" if container.streams.audio else ""))


def _is_still(stream: Any) -> bool:
    """Tells whether a stream is one frame, as far as the header says."""
    if stream.frames:
        return stream.frames == 1
    seconds = holes.stated_seconds(stream)
    return seconds is not None and 0 < seconds * float(stream.average_rate or 25) < 1.5


def _moving(container: Any) -> list[Any]:
    """Returns the streams of pictures that can be decoded and are no covers."""
    return [s for s in container.streams.video if _is_moving(s) and s.codec_context is not None]


def _is_moving(stream: Any) -> bool:
    import av.stream

    return not stream.disposition & av.stream.Disposition.attached_pic


def _header(container: Any, stream: Any) -> dict[str, Any]:
    # Of a bare stream FFmpeg takes 25 for the average, whatever the stream says; and of MPEG-4 its
    # decoder says what the clock counts, which may be a thousandth of a frame.
    name = container.format.name
    if name in packets.BARE:
        rate = (name != "m4v" and stream.codec_context.framerate) or stream.guessed_rate
    else:
        rate = stream.average_rate or stream.guessed_rate
    if stream.codec_context.name == "gif" and stream.duration and stream.frames:
        rate = stream.frames / (stream.duration * stream.time_base)  # delays vary: take the mean
    if stream.duration:
        duration = float(stream.duration * stream.time_base)
    else:
        duration = (container.duration or 0) / 1e6
    aspect = stream.sample_aspect_ratio
    return {
        "fps": float(rate) if rate else 0.0,
        "frames": stream.frames,
        "duration": duration,
        "codec": stream.codec_context.name,
        # Beyond 1:4 it is damage or a prank, not the anamorphic video of a broadcaster.
        "pixel_aspect": float(aspect) if aspect and 0.25 <= aspect <= 4 else 1.0,
        "audio": bool(container.streams.audio),
        "tracks": len(_moving(container)),
    }


def _first(frame: Any, info: dict[str, Any]) -> dict[str, Any]:
    """Returns what only a decoded frame tells: size as displayed, orientation, format."""
    from av.sidedata.sidedata import Type

    matrix = (1, 0, 0, 1)
    found = frame.side_data.get(Type.DISPLAYMATRIX)
    if found is not None:
        m = np.frombuffer(bytes(found), np.int32)
        matrix = tuple(
            int(v) for v in np.sign([m[0], m[1], m[3], m[4]]) * (abs(m[[0, 1, 3, 4]]) > 256)
        )
    width, height = frame.width, frame.height
    aspect = info["pixel_aspect"]
    if matrix[1]:
        width, height, aspect = height, width, 1 / aspect
    return {
        "width": width,
        "height": height,
        "pixel_aspect": aspect,
        "pixel_format": frame.format.name,
        "matrix": matrix,
        "interlaced": bool(frame.interlaced_frame),
        "alpha": any(c.is_alpha for c in frame.format.components),
    }


def _until(seconds: float, end: float | None) -> float:
    return float(seconds if end is None else min(seconds, end))


def _is_for_pillow(file: Path | BinaryIO) -> bool:
    if isinstance(file, str | os.PathLike):
        with open(file, "rb") as opened:
            head = opened.read(16)
    else:
        head = file.read(16)
        file.seek(0)
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return webp or (head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"))


def _check_range(file: Path | BinaryIO) -> None:
    """Refuses an AVIF of high dynamic range, of which Pillow says nothing."""
    if isinstance(file, str | os.PathLike):
        with open(file, "rb") as opened:
            return _check_range(opened)
    head = file.read(1 << 16)  # where the properties of pictures and tracks stand
    file.seek(0)
    at = head.find(b"colrnclx") if head[4:8] == b"ftyp" else -1
    # Primaries and transfer characteristics of two bytes each, as H.273 numbers them.
    if at >= 0 and int.from_bytes(head[at + 10 : at + 12], "big") in (16, 18):
        raise Unreadable("is an AVIF of high dynamic range, which is taken as video alone")


def _sequence(file: Path | BinaryIO) -> Path | BinaryIO:
    """Returns a file of which Pillow takes the animation: of AVIF that begins with a still, too."""
    if isinstance(file, str | os.PathLike):
        with open(file, "rb") as opened:
            found = _sequence(opened)
            return file if found is opened else found
    head = file.read(256)
    file.seek(0)
    brands = head[16 : int.from_bytes(head[:4], "big")]
    if head[4:12] != b"ftypavif" or b"avis" not in [brands[n : n + 4] for n in range(0, 64, 4)]:
        return file
    data = bytearray(file.read())  # as Pillow would
    data[8:12] = b"avis"
    return io.BytesIO(data)


def _pillow_frames(
    file: Path | BinaryIO,
    start: float,
    end: float | None,
    max_pixels: int | None,
    info: dict[str, Any],
) -> Iterator[tuple[float, Any]]:
    from PIL import Image

    _check_range(file)
    image = open_image(_sequence(file), max_pixels)
    with image:
        count = getattr(image, "n_frames", 1)
        seconds = 0.0
        for index in range(count):
            image.seek(index)
            image.load()
            stated = image.info.get("duration", 0) / 1000
            length = stated or 0.1  # browsers show 0 as 100 ms
            if index == 0:
                info.update(
                    width=image.width,
                    height=image.height,
                    fps=1 / length,
                    frames=count,
                    duration=count * length,
                    codec=(image.format or "image").lower(),
                    pixel_format=image.mode,
                    pixel_aspect=1.0,
                    audio=False,
                    matrix=(1, 0, 0, 1),
                    interlaced=False,
                    alpha=image.has_transparency_data,
                )
            if end is not None and seconds >= end:
                return
            if seconds >= start - 1e-6:
                frame: Image.Image = image.copy()
                if stated:
                    info["until"] = _until(seconds + stated, end)
                yield seconds, frame
            seconds += length


def open_image(file: Path | BinaryIO, max_pixels: int | None = None) -> Any:
    """Opens a picture with Pillow, lazily, after a look at its size.

    Raises:
      Unreadable: It is no picture, has more than `max_pixels` pixels, or levels without a white.
    """
    from PIL import Image, UnidentifiedImageError

    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # the limit here is ours, with its own message
    try:
        image = Image.open(file, formats=PILLOW)  # type: ignore[arg-type]
    except UnidentifiedImageError:
        raise Unreadable("is no picture that Pillow knows") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    if max_pixels is not None and image.width * image.height > max_pixels:
        width, height = image.size
        image.close()
        raise Unreadable(_too_large(width, height, max_pixels))
    # Of mode I, these hold 16 bits; of a TIFF's 32, as of floats, nobody knows which
    # is white.
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PPM", "PNG")):
        kind = "floats" if image.mode == "F" else "whole numbers of 32 bits"
        image.close()
        raise Unreadable(f"holds {kind}; pictures have 8 or 16 bits a channel")
    return image


def _too_large(width: int, height: int, limit: int) -> str:
    return f"a frame of {width}x{height} has more pixels than data.limits.pixels={limit}"
