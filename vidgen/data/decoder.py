"""One file of a stranger to RGB frames, within limits, in a process of its own (`child.py`).

A request names a place (`ref`), which is one of

    {"kind": "video", "path": P}                  a video file
    {"kind": "frames", "path": DIR, "files": [...]}   numbered pictures
    {"kind": "strip", "path": P}                  a row or column of square frames in one picture
    {"kind": "array", "path": P, "key": K, "index": I}    .npy or .npz; I picks one clip of many

and `"archive": "zip" | "tar"` beside `"member"` or `"files"` where P is an archive; in a tar
`"places"` gives the offset and the bytes of each. This module imports neither JAX nor, before the
first video, PyAV.
"""

import functools
import io
import itertools
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vidgen.data.archives import member_name, open_tar, open_zip
from vidgen.data.arrays import channels_last, read_npy, read_npz, strip_shape
from vidgen.data.limits import Limits
from vidgen.text import printable
from vidgen.video.containers import missing
from vidgen.video.conversion import converter
from vidgen.video.decoding import Unreadable, open_image, reason, timed_frames
from vidgen.video.resampling import resample

# -------------------------------------------------------------------------------- one file


Timed = Iterator[tuple[float, Any]]  # seconds, and a frame that `converter` takes
Opened = tuple[dict[str, Any], Timed]  # what is known of a file, and its frames


def decode(request: dict[str, Any]) -> tuple[dict[str, Any], Iterator[tuple[float, np.ndarray]]]:
    """Opens the file that a request names, and decodes its first frame.

    Args:
      request: `ref`, `fps`, `size`, `crop`, `background`, `start`, `end`, `rate`, `threads` and
        `limits`, as `workers.request` makes it.

    Returns:
      What is known of the file (see `decoding.timed_frames`), and all its wanted frames, in order:
      `(seconds, uint8 [H, W, 3])`.

    Raises:
      Unreadable, OSError, MemoryError, ValueError: The file is of no use; see `decoding.reason`.
        Decoding further frames may raise them, too.
    """
    ref, limits = request["ref"], Limits(**request["limits"])
    info, timed = _READERS[ref["kind"]](ref, request, limits)
    if ref["kind"] != "video":
        timed = _cut(timed, request["start"], request["end"])
    timed = _begun(timed)
    if timed is None:
        wanted = request["start"] > 0 or request["end"] is not None
        raise Unreadable("holds no frame" + (" in the wanted seconds" if wanted else ""))
    return info, _converted(timed, request, limits, info)


def _begun(timed: Timed) -> Timed | None:
    """Returns the same frames once the first has been decoded; None where there is none."""
    first = next(timed, None)
    return None if first is None else itertools.chain((first,), timed)


def _converted(
    timed: Timed, request: dict[str, Any], limits: Limits, info: dict[str, Any]
) -> Iterator[tuple[float, np.ndarray]]:
    convert = converter(
        size=request["size"],
        crop=request["crop"],
        background=tuple(request["background"]),
        max_pixels=limits.pixels,
        info=info,
    )
    count = total = 0
    for seconds, frame in resample(timed, request["fps"], info):
        array = convert(frame)
        count, total = count + 1, total + array.nbytes
        if count > limits.frames:
            raise Unreadable(f"has more frames than data.limits.frames={limits.frames}")
        if total > limits.bytes:
            height, width = array.shape[:2]
            raise Unreadable(
                f"decodes to more than data.limits.bytes={limits.bytes} at {width}x{height}"
            )
        yield seconds, array


def _cut(timed: Timed, start: float, end: float | None) -> Timed:
    for seconds, frame in timed:
        if end is not None and seconds >= end:
            return
        if seconds >= start - 1e-6:
            yield seconds, frame


def _video(ref: dict, request: dict, limits: Limits) -> Opened:
    file = _open(ref, ref.get("member"), limits)
    if isinstance(file, str):
        with open(file, "rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            lack = missing(opened, size) if size else ""  # what is empty may not be readable
    else:
        size = len(file.getbuffer())
        lack = missing(file, size)
        file.seek(0)
    if size == 0:
        raise Unreadable("is empty (0 bytes)")
    if lack:
        raise Unreadable(lack)
    info: dict[str, Any] = {}  # complete with the first frame
    timed = timed_frames(
        file,
        start=request["start"],
        end=request["end"],
        threads=request["threads"],
        max_pixels=limits.pixels,
        info=info,
    )
    return info, _begun(timed) or iter(())


def _pictures(ref: dict, request: dict, limits: Limits) -> Opened:
    pictures = _pictures_of_one_size(ref, limits)
    first = next(pictures)
    count, rate = len(ref["files"]), request["rate"]
    timed = ((n / rate, one) for n, one in enumerate(itertools.chain((first,), pictures)))
    return _description(first.width, first.height, count, "pictures", rate), timed


def _pictures_of_one_size(ref: dict, limits: Limits) -> Iterator[Any]:
    first = None
    for name in ref["files"]:
        try:
            picture = _picture(ref, name, limits)
        except (OSError, Unreadable, ValueError, SyntaxError) as error:
            raise Unreadable(f"frame {printable(name)}: {reason(error)}") from error
        first = first or picture.size
        if picture.size != first:
            raise Unreadable(
                f"frame {printable(name)} is {picture.width}x{picture.height}, "
                f"the first one {first[0]}x{first[1]}"
            )
        yield picture


def _strip(ref: dict, request: dict, limits: Limits) -> Opened:
    picture = _picture(ref, ref.get("member"), limits)
    side, count = strip_shape(*picture.size)
    if not count:
        raise Unreadable(
            f"is a picture of {picture.width}x{picture.height}: neither a video nor "
            "a row or column of square frames"
        )
    across = picture.width > side

    def frame(n: int) -> Any:
        left, top = (n * side, 0) if across else (0, n * side)
        return picture.crop((left, top, left + side, top + side))

    rate = request["rate"]
    timed = ((n / rate, frame(n)) for n in range(count))
    return _description(side, side, count, "strip", rate), timed


def _picture(ref: dict, name: str | None, limits: Limits) -> Any:
    from PIL import ImageOps

    with open_image(_open(ref, name, limits), limits.pixels) as image:
        return ImageOps.exif_transpose(image)  # a copy, loaded


def picture_header(ref: dict[str, Any], limits: Limits) -> dict[str, int]:
    """Returns `frames`, `width` and `height` of a picture, from its header.

    Raises:
      Unreadable, OSError, MemoryError, ValueError: It is no picture.
    """
    with open_image(_open(ref, ref.get("member"), limits), limits.pixels) as image:
        return {
            "frames": getattr(image, "n_frames", 1),
            "width": image.width,
            "height": image.height,
        }


def _array(ref: dict, request: dict, limits: Limits) -> Opened:
    if ref["key"] is None:
        file = _open(ref, ref.get("member"), limits)
        array, rate = read_npy(file, ref["index"], limits.bytes), 0.0
    else:
        status = os.stat(ref["path"])
        place = json.dumps({**ref, "index": None})
        array, rate = _npz(place, (status.st_mtime_ns, status.st_size), limits)
        array = channels_last(array if ref["index"] is None else array[ref["index"]], array.shape)
    frames, height, width, _ = array.shape
    if height * width > limits.pixels:
        raise Unreadable(f"{width}x{height} is more than data.limits.pixels={limits.pixels}")
    rate = rate or request["rate"]
    timed = ((n / rate, np.ascontiguousarray(array[n])) for n in range(frames))
    return _description(width, height, frames, "array", rate), timed


@functools.lru_cache(maxsize=1)  # the clips of a file come one after another
def _npz(place: str, stamp: tuple[int, int], limits: Limits) -> tuple[np.ndarray, float]:
    """Returns an array of an .npz file, and the frame rate that it may hold as `fps`, or 0.

    Args:
      place: The `ref` of a request as JSON, without its index: it has to be hashable.
      stamp: Time of change and bytes of the file, so that a rewritten one is read again.
      limits: Bounds its bytes.
    """
    del stamp  # part of the cache key only
    ref = json.loads(place)
    return read_npz(_open(ref, ref.get("member"), limits), ref["key"], limits.bytes)


def _description(width: int, height: int, frames: int, codec: str, rate: float) -> dict[str, Any]:
    return dict(
        width=width,
        height=height,
        fps=rate,
        frames=frames,
        duration=frames / rate,
        codec=codec,
        pixel_format="",
        pixel_aspect=1.0,
        audio=False,
        matrix=(1, 0, 0, 1),
        interlaced=False,
        alpha=False,
    )


# -------------------------------------------------------------------------------- archives


def _open(ref: dict, name: str | None, limits: Limits) -> str | io.BytesIO:
    """Returns the path of a file, or the bytes of a member of an archive."""
    if "archive" not in ref:
        return ref["path"] if name is None else os.path.join(ref["path"], name)
    if name is None:
        raise Unreadable("names no member of its archive")
    path, status = ref["path"], os.stat(ref["path"])
    stamp = status.st_mtime_ns, status.st_size
    if ref["archive"] == "zip":
        archive, members = _zip(path, stamp)
        size = members[name].file_size
        _bound_member(size, limits)
        with archive.open(members[name]) as file:
            data = file.read(size)
    else:
        offset, size = ref["places"][name]
        _bound_member(size, limits)
        stream = _tar(path, stamp)
        stream.seek(offset)  # forward, as long as members are asked for in their order
        data = stream.read(size)
    if len(data) < size:
        raise Unreadable("is cut off: its archive ends before it does")
    return io.BytesIO(data)


def _bound_member(size: int, limits: Limits) -> None:
    if size > limits.bytes:
        raise Unreadable(f"has {size} bytes in its archive, data.limits.bytes={limits.bytes}")


@functools.lru_cache(maxsize=1)
def _zip(path: str, stamp: tuple[int, int]) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    del stamp  # part of the cache key only
    archive = open_zip(path)
    return archive, {member_name(info): info for info in archive.infolist()}


@functools.lru_cache(maxsize=1)
def _tar(path: str, stamp: tuple[int, int]) -> Any:
    """Returns the uncompressed bytes of a tar as a seekable file."""
    del stamp
    return open_tar(path).fileobj


_READERS: dict[str, Callable[[dict, dict, Limits], Opened]] = {
    "video": _video,
    "frames": _pictures,
    "strip": _strip,
    "array": _array,
}
