"""uint8 arrays to the bytes of a video file.

    data = encode(clip, fps=25.0, suffix=".webp")

imageio encodes GIF, WebP, AVIF, TIFF and PNG (by Pillow), APNG and FFV1 (by PyAV). MP4 and WebM are
encoded by PyAV itself, since imageio's PyAV plugin has no public way to set the quality: its VP9 is
always of crf 32, which leaves 35 to 37 dB of 64x64 and 128x128 clips, against 40 to 41 dB here, and
it has none to tag colours. All encode to memory. So a disk that is full is met by one plain write;
imageio's writers of files would leave an open file and an error in a destructor behind.
"""

import io
import itertools
import numbers
import struct
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import numpy as np

from vidgen.errors import ConfigError
from vidgen.video.conversion import EXACT

# Quality, 0 to 100, where none is wished; what is not here has no quality to choose.
QUALITIES = {".mp4": 78, ".webm": 78, ".webp": 100, ".avif": 90}
_AREA = 0x20 | EXACT  # means of 2x2 for chroma: 0.3 to 1.7 dB above bilinear on clips of 64x64
_REPEATABLE = {"fflags": "bitexact"}  # Matroska and WebM are named at random otherwise
STREAMED = (".mp4", ".webm")  # written frame by frame; the others need all frames at once
SLOWEST, FASTEST = 0.1, 1000.0  # frames per second; the ticks of most formats are milliseconds


def check_quality(suffix: str, quality: float | None) -> None:
    """Checks that a format can be written at a quality.

    Args:
      suffix: As `.mp4`.
      quality: 0 to 100, or None.

    Raises:
      ConfigError: The format has no quality, or it is not between 0 and 100.
    """
    if quality is None:
        return
    if suffix not in QUALITIES:
        raise ConfigError(
            f"quality={quality}: {suffix or 'a folder of pictures'} has no quality to choose",
            f"leave it out, or choose one of {', '.join(QUALITIES)}",
        )
    if not 0 <= quality <= 100:
        raise ConfigError(f"quality={quality} is not between 0 and 100", "100 is best")


def encode(video: np.ndarray, fps: float, suffix: str, quality: float | None = None) -> bytes:
    """Returns a clip as the bytes of a file.

    Args:
      video: uint8 `[T, H, W, 3]`; for `.npz` any number of leading axes.
      fps: Frames per second, 0.1 to 1000; see `write_video`.
      suffix: A key of `ENCODERS`, as `.gif`.
      quality: 0 to 100, see `write_video`; None takes that of `QUALITIES`.

    Raises:
      ValueError: The suffix, the shape, the type or the rate is not one of those above, or the
        video stands still for longer than the format can say.
      ConfigError: The quality is not one that the format has.
    """
    video = np.asarray(video)
    if suffix not in ENCODERS:
        raise ValueError(f"cannot write {suffix or 'no suffix'}; choose {', '.join(ENCODERS)}")
    check_video(video, fps, any_axes=suffix == ".npz")
    check_quality(suffix, quality)
    if quality is None:
        quality = QUALITIES.get(suffix, 100)
    return ENCODERS[suffix](video, fps, quality)


def encode_stream(
    path: str, frames: Iterable[np.ndarray], fps: float, suffix: str, quality: float | None = None
) -> None:
    """Writes frames to a file as they come, so that memory does not grow with their number.

    Args:
      path: Of the file.
      frames: uint8 `[H, W, 3]` each, one at least, all of one size.
      fps: Frames per second, 0.1 to 1000.
      suffix: One of `STREAMED`.
      quality: 0 to 100; None takes that of `QUALITIES`.

    Raises:
      ValueError: A frame or the rate is not as above.
      ConfigError: The quality is not one that the format has.
      OSError: The file cannot be written.
    """
    check_quality(suffix, quality)
    frames = iter(frames)
    first = np.asarray(next(frames))
    check_video(first[None], fps)
    quality = QUALITIES[suffix] if quality is None else quality
    how = {".mp4": _mp4_settings, ".webm": _webm_settings}[suffix](quality)
    _yuv(path, itertools.chain([first], frames), first.shape[:2], fps, *how)


def check_video(video: np.ndarray, fps: float, any_axes: bool = False) -> None:
    """Checks that an array is uint8 `[T, H, W, 3]` with at least one pixel, and `fps` a rate.

    Raises:
      ValueError: It is not.
    """
    if video.dtype != np.uint8 or video.shape[-1:] != (3,) or not (any_axes or video.ndim == 4):
        raise ValueError(f"write_video takes uint8 [T, H, W, 3], not {video.dtype} {video.shape}")
    if not video.size or not isinstance(fps, numbers.Real) or not SLOWEST <= fps <= FASTEST:
        raise ValueError(
            f"cannot write a video of shape {video.shape} at {fps} frames a second "
            f"({SLOWEST} to {FASTEST:.0f})"
        )


def encode_png(image: np.ndarray) -> bytes:
    """Returns uint8 `[H, W, 3]` as the bytes of a PNG file."""
    return _pillow(np.asarray(image)[None], ".png")


# ---------------------------------------------------------------------------------- PyAV


_Settings = tuple[str, str, dict[str, str], dict[str, str]]  # container, codec, options of each


def _mp4(video: np.ndarray, fps: float, quality: float) -> bytes:
    return _in_memory(video, fps, _mp4_settings(quality))


def _webm(video: np.ndarray, fps: float, quality: float) -> bytes:
    return _in_memory(video, fps, _webm_settings(quality))


def _in_memory(video: np.ndarray, fps: float, settings: _Settings) -> bytes:
    file = io.BytesIO()
    _yuv(file, video, video.shape[1:3], fps, *settings)
    return file.getvalue()


def _mp4_settings(quality: float) -> _Settings:
    options = {
        "crf": f"{51 - quality / 2:g}",  # 12 to 1; 0 would be a profile that few play
        # Else x264 varies with what lies in memory beside a small picture.
        "x264-params": "cpu-independent=1",
    }
    return "mp4", "libx264", options, {"movflags": "faststart"}


def _webm_settings(quality: float) -> _Settings:
    options = {"crf": str(round(63 - 0.63 * quality)), "b": "0"}
    return "webm", "libvpx-vp9", options, _REPEATABLE


def _yuv(
    file: str | io.BytesIO,
    frames: Iterable[np.ndarray],
    size: tuple[int, int],
    fps: float,
    container: str,
    codec: str,
    options: dict[str, str],
    container_options: dict[str, str],
) -> None:
    """Encodes in limited-range BT.709, and says so in the file, so that all players agree.

    For H.264 4:2:0 odd sides are padded by one pixel.
    """
    import av
    from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

    reformat = VideoReformatter().reformat
    opening: dict[str, Any] = {"format": container, "container_options": container_options}
    if isinstance(file, io.BytesIO):  # "faststart" reads what was written, to move it
        # By this name vidgen/run/signals.py knows that FFmpeg calls it.
        def called_by_c(*_):
            return io.BytesIO(file.getvalue())

        opening["io_open"] = called_by_c
    height, width = size
    more = (0, height % 2), (0, width % 2), (0, 0)
    even = (lambda x: np.pad(x, more, mode="edge")) if container == "mp4" else np.asarray
    with av.open(file, "w", **opening) as opened:
        rate = Fraction(fps).limit_denominator(65535)
        stream: Any = opened.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = even(np.empty((height, width, 3), np.uint8)).shape[:2]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries = context.color_trc = 1  # BT.709
        for array in frames:
            frame = reformat(
                av.VideoFrame.from_ndarray(even(array), format="rgb24"),
                format="yuv420p",
                interpolation=_AREA,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                threads=1,
            )
            opened.mux(stream.encode(frame))
        opened.mux(stream.encode())


# ------------------------------------------------------------------------------- imageio


def _mkv(video: np.ndarray, fps: float, quality: float) -> bytes:
    return _lossless(video, fps, ".mkv", "ffv1", "bgr0", _REPEATABLE)


def _apng(video: np.ndarray, fps: float, quality: float) -> bytes:
    # Not by Pillow, which loses how long a video lasts whose frames are all equal.
    return _lossless(video, fps, ".apng", "apng", "rgb24", {"plays": "0"})  # without end


def _lossless(
    video: np.ndarray, fps: float, suffix: str, codec: str, pixels: str, options: dict[str, str]
) -> bytes:
    import imageio.v3 as iio

    imopen: Any = iio.imopen  # whose annotations are wrong
    with imopen("<bytes>", "w", plugin="pyav", extension=suffix, options=options) as opened:
        return opened.write(video, codec=codec, fps=fps, out_pixel_format=pixels)


def _gif(video: np.ndarray, fps: float, quality: float) -> bytes:
    lengths = _durations(len(video), 100 / fps, shortest=2)  # viewers slow down below 20 ms
    _check_stills(video, lengths, 2**16 - 1, "GIF: 655 s")
    return _pillow(video, ".gif", duration=[10 * n for n in lengths], disposal=1, loop=0)


def _webp(video: np.ndarray, fps: float, quality: float) -> bytes:
    lengths = _durations(len(video), 1000 / fps, shortest=1)
    _check_stills(video, lengths, 2**24 - 1, "WebP: 16777 s")
    how = {"lossless": True} if quality == 100 else {"quality": quality}
    data = _pillow(video, ".webp", duration=lengths, loop=0, **how)
    _, height, width, _ = video.shape
    return _animated(data, height, width, sum(lengths))


def _avif(video: np.ndarray, fps: float, quality: float) -> bytes:
    lengths = _durations(len(video), 1000 / fps, shortest=1)
    data = _pillow(video, ".avif", duration=lengths, quality=round(quality), subsampling="4:4:4")
    return _undated(data)


def _tiff(video: np.ndarray, fps: float, quality: float) -> bytes:
    return _pillow(video, ".tiff", compression="tiff_adobe_deflate")


def _pillow(video: np.ndarray, suffix: str, **options: Any) -> bytes:
    import imageio.v3 as iio

    if suffix != ".png":
        options["save_all"] = True  # of one frame as well, which else loses its duration
    data = iio.imwrite(
        "<bytes>", video, extension=suffix, plugin="pillow", is_batch=True, **options
    )
    assert data is not None  # of a file alone
    return data


def _durations(frames: int, ticks: float, shortest: int) -> list[int]:
    """Returns whole ticks for each frame, whose running sum follows `ticks` a frame."""
    ends = [round(n * ticks) for n in range(frames + 1)]
    return [max(shortest, b - a) for a, b in itertools.pairwise(ends)]


def _check_stills(video: np.ndarray, lengths: list[int], most: int, said: str) -> None:
    """Checks that no passage of equal frames, which are stored as one, lasts longer than it may."""
    if sum(lengths) <= most:
        return
    passage = lengths[0]
    for n in range(1, len(video)):
        passage = lengths[n] + passage * bool((video[n] == video[n - 1]).all())
        if passage > most:
            raise ValueError(f"a passage stands still for longer than a file can say ({said})")


def _undated(avif: bytes) -> bytes:
    """Sets the times at which libavif says the file was made to 0, so that same clips, same bytes.

    The boxes are those of ISO/IEC 14496-12; libavif writes their version 1, with two times of 8
    bytes.
    """
    data, start = bytearray(avif), avif.find(b"moov")
    for box in (b"mvhd", b"tkhd", b"mdhd"):
        at = data.find(box + b"\1", start) if start >= 0 else -1
        while at >= 0:
            data[at + 8 : at + 24] = bytes(16)
            at = data.find(box + b"\1", at + 24)
    return bytes(data)


def _animated(webp: bytes, height: int, width: int, milliseconds: int) -> bytes:
    """Makes an animation of a WebP that libwebp wrote as a still picture.

    It does so where all frames are equal, and how long they are shown is lost. The chunks are those
    of https://developers.google.com/speed/webp/docs/riff_container.
    """
    if webp[12:16] not in (b"VP8 ", b"VP8L"):
        return webp

    def chunk(kind: bytes, data: bytes) -> bytes:
        return kind + struct.pack("<I", len(data)) + data

    def number(value: int) -> bytes:
        return value.to_bytes(3, "little")

    size = number(width - 1) + number(height - 1)
    place = number(0) + number(0)
    flags, background, loops = b"\x02\0\0\0", b"\0\0\0\0", b"\0\0"  # animated; loops without end
    body = (
        b"WEBP"
        + chunk(b"VP8X", flags + size)
        + chunk(b"ANIM", background + loops)
        + chunk(b"ANMF", place + size + number(milliseconds) + b"\0" + webp[12:])
    )
    return chunk(b"RIFF", body)


def _npz(video: np.ndarray, fps: float, quality: float) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, video=video, fps=np.float64(fps))
    return file.getvalue()


Encoder = Callable[[np.ndarray, float, float], bytes]
ENCODERS: dict[str, Encoder] = {
    ".mp4": _mp4,
    ".webm": _webm,
    ".mkv": _mkv,
    ".gif": _gif,
    ".webp": _webp,
    ".apng": _apng,
    ".avif": _avif,
    ".tiff": _tiff,
    ".tif": _tiff,
    ".npz": _npz,
}
