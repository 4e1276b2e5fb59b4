"""Clips in NumPy's files, and in strips: which shapes are clips, and how one of them is read."""

import io
import math
import os
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from vidgen.video.decoding import Unreadable

_HEADER = 10_000  # bytes of an .npy header, as NumPy bounds them, but before they are read
_CHANNELS = (1, 3, 4)
_MANY = 512  # frames that few clips of an array have, and clips that many arrays have
_TAKEN = (
    "clips are [T, H, W], [T, H, W, C] or [T, C, H, W], or [N, ...] of them, or [N, C, T, H, W]"
)
_LABELS = 1 << 26  # bytes of the labels in an .npz: 64 characters each for 260,000 clips


def npy_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Reads `(shape, column order, dtype)` at the start of a .npy file, and stops behind it.

    Raises:
      Unreadable, ValueError: It is no such file.
    """
    version = np.lib.format.read_magic(file)
    width = 2 if version == (1, 0) else 4
    stated = file.read(width)
    length = int.from_bytes(stated, "little")
    if length > _HEADER:
        raise Unreadable(f"its header claims {length} bytes; of an array of clips it has about 100")
    head = io.BytesIO(stated + file.read(length))
    try:
        if width == 2:
            return np.lib.format.read_array_header_1_0(head)
        return np.lib.format.read_array_header_2_0(head)
    except Exception as error:
        # NumPy lets through what ast, tokenize and dtype raise, which is anything.
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise Unreadable(f"has no header that NumPy can read: {said[:80]}") from error


def array_clips(shape: tuple[int, ...], dtype: np.dtype) -> int | None:
    """Returns how many clips an array holds; None for one, without an axis of clips.

    An axis of 1, 3 or 4 is taken for channels, where it is the last or follows the frames, or in
    five axes the clips; of four axes without one the first are clips.

    Raises:
      Unreadable: The shape or the type is not one of those of docs/data.md, or may mean two things.
    """
    if dtype != np.uint8:
        raise Unreadable(f"holds {dtype}; clips are uint8, 0 to 255")
    if not 3 <= len(shape) <= 5 or any(axis <= 0 for axis in shape):
        raise Unreadable(f"has shape {list(shape)}; {_TAKEN}")
    channels = _channels(shape)
    if len(shape) == 5 and channels is None:
        raise Unreadable(f"has shape {list(shape)}, with no axis of 1, 3 or 4 channels; {_TAKEN}")
    if len(shape) == 4 and channels is None:
        first, second, third = shape[:3]
        if third in _CHANNELS:
            raise Unreadable(f"has shape {list(shape)}, with channels as its third axis; {_TAKEN}")
        if first in (3, 4) or second == 4:
            raise Unreadable(
                f"has shape {list(shape)}: are there channels, or is it of grey clips? "
                "[T, H, W, C] or [N, T, H, W, 1] says which"
            )
        if second >= _MANY and second > 8 * first:
            raise Unreadable(
                f"has shape {list(shape)}: {second} clips of {first} frames, it seems, but the "
                "clips come first (numpy.swapaxes(0, 1)); [N, T, H, W, 1] is taken as it is"
            )
    return shape[0] if len(shape) - (channels is not None) == 4 else None


def channels_last(clip: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a clip as `[T, H, W, C]`, a view, given the shape of the array that it was in."""
    channels = _channels(shape)
    return clip[..., None] if channels is None else np.moveaxis(clip, channels, -1)


def _channels(shape: tuple[int, ...]) -> int | None:
    """Returns the axis of channels, counted from the end; None without."""
    if len(shape) == 4 and shape[1] == 4 and shape[3] not in _CHANNELS:
        return None  # few clips have four frames, and few arrays transparency
    axes = {4: (-1, -3), 5: (-1, -3, -4)}.get(len(shape), ())
    return next((axis for axis in axes if shape[axis] in _CHANNELS), None)


def strip_shape(width: int, height: int) -> tuple[int, int]:
    """Returns the side and the number of the square frames in a picture; `(0, 0)` for no strip.

    A picture is a strip if one side is a whole multiple, 4 or more, of the other.
    """
    side, length = min(width, height), max(width, height)
    if not side or length % side or length // side < 4:
        return 0, 0
    return side, length // side


def list_clips(
    file: BinaryIO, suffix: str, size: int
) -> Iterator[tuple[str | None, int | None, str | None]]:
    """Yields `(key, index, label)` of each clip in an open .npy or .npz file; reads headers alone.

    Args:
      file: The file, at its start.
      suffix: "npy" or "npz".
      size: Its bytes.

    Raises:
      Unreadable, ValueError, KeyError, OSError, zipfile.BadZipFile: It holds none.
    """
    if suffix == "npy":
        shape, dtype = _header_of_whole(file, size)
        count = array_clips(shape, dtype)
        yield from ((None, n, None) for n in ([None] if count is None else range(count)))
        return
    with zipfile.ZipFile(file) as archive:
        shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        for info in archive.infolist():
            with archive.open(info) as inner:
                header = _header_of_whole(inner, info.file_size)  # type: ignore[arg-type]
                shapes[info.filename.removesuffix(".npy")] = header
        clips = {key: header for key, header in shapes.items() if len(header[0]) >= 3}
        if not clips:
            raise Unreadable(f"holds no clip among its arrays {sorted(shapes)}")
        counts = {key: array_clips(*header) for key, header in clips.items()}
        labels = None
        for name in ("label", "labels"):
            if name in shapes:
                labels = _labels(archive, name, *shapes[name], counts)
    for key, count in counts.items():
        for n in range(count or 1):
            yield key, (None if count is None else n), (labels[n] if labels else None)


def _header_of_whole(file: BinaryIO, size: int) -> tuple[tuple[int, ...], np.dtype]:
    """Returns shape and type of a .npy file of `size` bytes, which must be there.

    A header of a hundred bytes may claim a million clips, each of which would be listed.
    """
    shape, _, dtype = npy_header(file)
    claimed, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if claimed > held:
        raise Unreadable(f"is cut off: its header declares {claimed} bytes, it has {max(0, held)}")
    return shape, dtype


def _labels(
    archive: zipfile.ZipFile,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    counts: dict[str, int | None],
) -> list[str]:
    """Reads the labels in an .npz file, once it is known that they are few enough."""
    count = math.prod(shape)
    for key, clips in counts.items():
        if count != (clips or 1):
            raise Unreadable(f"has {count} labels for {clips or 1} clips in {key}")
    if count * dtype.itemsize > _LABELS:
        raise Unreadable(f"its labels take {count * dtype.itemsize} bytes, more than {_LABELS}")
    with archive.open(f"{name}.npy") as file:
        values = np.lib.format.read_array(file, allow_pickle=False)  # type: ignore[arg-type]
    return [_name(value) for value in values.ravel()]


def _name(value: Any) -> str:
    """Returns a label as text; bytes are UTF-8, and what is not is written as escapes."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def read_npy(file: str | io.BytesIO, index: int | None, most: int) -> np.ndarray:
    """Reads one clip, as `[T, H, W, C]`; not by a memory map, which would count whole.

    Args:
      file: A path, or the bytes of a .npy file.
      index: Which of several clips; None for the whole array.
      most: Bytes that it may have.

    Raises:
      Unreadable: It is no clip, or has more bytes than that, or fewer than it says.
    """
    with open(file, "rb") if isinstance(file, str) else file as opened:
        shape, columns, dtype = npy_header(opened)
        array_clips(shape, dtype)
        if columns:
            raise Unreadable("is stored in column order; save it with numpy.ascontiguousarray")
        whole, shape = shape, shape if index is None else shape[1:]
        size = math.prod(shape)
        if size > most:
            raise Unreadable(f"has {size} bytes in a clip, data.limits.bytes={most}")
        opened.seek((index or 0) * size, os.SEEK_CUR)
        data = opened.read(size)
    if len(data) < size:
        raise Unreadable("is cut off: its header declares more than the file holds")
    return channels_last(np.frombuffer(data, np.uint8).reshape(shape), whole)


def read_npz(file: str | io.BytesIO, key: str, most: int) -> tuple[np.ndarray, float]:
    """Reads an array of an .npz file, and the frame rate that it may hold as `fps`, or 0.

    Args:
      file: A path, or the bytes of an .npz file.
      key: Name of the array.
      most: Bytes that it may have.

    Raises:
      Unreadable: It has more bytes than that, or its rate is none.
    """
    with zipfile.ZipFile(file) as archive:
        size = archive.getinfo(f"{key}.npy").file_size
        if size > most:
            raise Unreadable(f"its array {key} has {size} bytes, data.limits.bytes={most}")
    if not isinstance(file, str):
        file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        stated = arrays["fps"] if "fps" in arrays else np.zeros(())
        if stated.ndim or stated.dtype.kind not in "iuf":
            raise Unreadable(f"its fps is no number: {stated.dtype} {list(stated.shape)}")
        rate = float(stated)
        if not 0 <= rate < math.inf:
            raise Unreadable(f"its fps is {rate}")
        return arrays[key], rate
