"""Numbered pictures in a folder, and the pages of a TIFF, as frames with times; imageio reads them.

info = {}
for seconds, frame in timed_pictures("walk", fps=25.0, info=info): ...
"""

import io
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from vidgen.video.conversion import upright
from vidgen.video.decoding import PILLOW, Path, Unreadable, reason

PICTURES = frozenset(["avif", "bmp", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp"])
# Display matrices, as of `conversion.upright`, of the orientations that EXIF numbers.
_EXIF = {
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}


# The last number of a name, with a decimal point where it has one; and the digits behind the point.
_DIGITS = re.compile(r"([0-9]+)")
_LAST = re.compile(r"\d+(\.\d+)?(?!.*\d)", re.ASCII)
_ALONE = re.compile(r"(?<![^\W_])\d+")  # a number that does not stand at a word
_NUMBERED = re.compile(r"(.*?)([0-9]+)(\.[0-9]+)?", re.DOTALL)
_POINT = re.compile(r"\d\.(\d+)(?!.*\.\d)", re.ASCII)


def natural(name: str) -> tuple[list[Any], str]:
    """Returns a sorting key under which frame2 comes before frame10."""
    # Text and numbers by turns; of two numbers without zeros in front the longer is greater.
    parts = _DIGITS.split(name)
    numbers = (part.lstrip("0") for part in parts[1::2])
    key: list[Any] = parts
    key[1::2] = [(len(number), number) for number in numbers]
    return key if key[-1] else key[:-1], name


def in_order(names: Iterable[str]) -> list[str]:
    """Sorts names by their numbers: frame2 before frame10, and 0.05 before 0.1 before 0.15.

    Numbers with a point are decimal where what is behind it has different lengths, none ends with a
    zero, as the tenth of a count would, and they do not count up by equal steps.
    """
    names = list(names)
    if mixed := _mixed(names):
        return mixed
    found = [match for match in map(_POINT.search, names) if match]
    ends: dict[str, list[str]] = {}
    for match in found:
        ends.setdefault(match.string[: match.start(1)], []).append(match[1])
    every = [end for some in ends.values() for end in some]
    if (
        len(found) < len(names)
        or len({len(end) for end in every}) < 2
        or any(end.endswith("0") and len(end) > 1 for end in every)
        or any(_counts(some) for some in ends.values())
    ):
        return sorted(names, key=natural)

    def key(name: str) -> tuple[Any, ...]:
        found = _POINT.search(name)
        assert found is not None
        whole = name[: found.start(1)]
        return natural(whole), float(f"0.{found[1]}"), name

    return sorted(names, key=key)


def _mixed(names: list[str]) -> list[str]:
    """Sorts names that are alike but for a number, of which some have a point: 0, 0.5, 1, 1.5.

    Returns:
      Nothing where they are not of this kind, or a number ends as a count does: 1.10.
    """
    found = [_NUMBERED.fullmatch(os.path.splitext(name)[0]) for name in names]
    whole = [match for match in found if match is not None]
    ends = [match[3] for match in whole]
    if (
        len(whole) < len(names)
        or len({match[1] for match in whole}) > 1
        or all(ends)
        or not any(ends)
        or any(end and end.endswith("0") and len(end) > 2 for end in ends)
    ):
        return []
    numbers = [float(match[2] + (match[3] or "")) for match in whole]
    return [name for _, name in sorted(zip(numbers, names, strict=True))]


def _counts(numbers: list[str]) -> bool:
    """Tells whether three numbers or more go up by equal steps."""
    values = sorted(map(int, numbers))
    return len(values) > 2 and len({b - a for a, b in itertools.pairwise(values)}) == 1


def sequences(names: Iterable[str]) -> dict[str, list[str]]:
    """Parts the names of pictures into sequences that lie side by side.

    Those of one sequence have the same text about their last number; numbers that stand by
    themselves are no text (`frame_12-00-01_500`), those at a word are (`cam1_0001`).

    Returns:
      By what stands before the number (of `rgb_0001.png` `rgb`), names in their order; of the same
      pictures in two formats PNG first. Where most names would be alone, all are one sequence,
      named "".
    """
    names = list(names)
    groups: dict[tuple[str, str], dict[str, list[str]]] = {}
    for name in names:
        stem, suffix = os.path.splitext(os.path.basename(name))
        number = _LAST.search(stem)
        before, after = (stem[: number.start()], stem[number.end() :]) if number else (stem, "")
        suffix = {".jpeg": ".jpg", ".tiff": ".tif"}.get(suffix.lower(), suffix.lower())
        some = groups.setdefault((_ALONE.sub("#", before), after), {})
        some.setdefault(suffix, []).append(name)
    parted: list[tuple[str, list[str]]] = []
    for (before, after), formats in sorted(groups.items()):
        title = (
            "-".join(filter(None, (part.strip(" _-.#") for part in (before, after)))) or "frames"
        )
        every = [name for some in formats.values() for name in some]
        if len({os.path.splitext(name)[0] for name in every}) == len(every):
            parted.append((title, every))  # whatever the format of each
            continue
        for suffix, some in sorted(formats.items(), key=lambda item: (item[0] != ".png", item[0])):
            parted.append((title + suffix, some))
    if len(parted) == 1 or 2 * len(parted) > len(names):
        return {"": in_order(names)}
    found: dict[str, list[str]] = {}
    for title, some in parted:
        again = sum(title == other or other.startswith(f"{title} ") for other in found)
        found[f"{title} {again + 1}" if again else title] = in_order(some)
    return found


def is_sequence(path: Path) -> bool:
    """Tells whether a path is a folder, or a TIFF file: pictures without times."""
    return os.path.isdir(path) or pathlib.Path(path).suffix.lower() in (".tif", ".tiff")


def timed_pictures(
    path: Path, fps: float, *, info: dict[str, Any]
) -> Iterator[tuple[float, np.ndarray]]:
    """Yields `(seconds, frame)` of the pictures of a folder by their numbers, or of a TIFF's pages.

    Args:
      path: A folder, whose other files are left alone, or a TIFF file.
      fps: Pictures in a second.
      info: Filled with the fields of `VideoInfo` and what `converter` needs.

    Yields:
      Seconds, and uint8 `[H, W, 1 or 4]`, grey or RGBA, for `converter`.

    Raises:
      Unreadable: A picture is damaged, of another size than the first, or has levels without a
        known white. It is named.
      OSError: What the system says.
    """
    frames = _folder(path) if os.path.isdir(path) else _pages(path)
    for number, (name, frame) in enumerate(frames):
        height, width = frame.shape[:2]
        if number == 0:
            info.update(
                width=width,
                height=height,
                fps=fps,
                frames=0,
                duration=0.0,
                codec="pictures",
                pixel_format="",
                pixel_aspect=1.0,
                audio=False,
                matrix=(1, 0, 0, 1),
            )
        if (width, height) != (info["width"], info["height"]):
            size = f"{info['width']}x{info['height']}"
            raise Unreadable(f"{name} is {width}x{height}, the first one {size}")
        yield number / fps, frame


def _folder(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    names = [n for n in os.listdir(path) if pathlib.Path(n).suffix[1:].lower() in PICTURES]
    found = sequences(n for n in names if not n.startswith("."))
    if len(found) > 1:
        few = ", ".join(f"{title} ({len(some)})" for title, some in list(found.items())[:4])
        raise Unreadable(f"holds {len(found)} sequences of pictures: {few}; give each a folder")
    for name in found.get("", []) or next(iter(found.values()), []):
        # Bytes, since imageio gives a meaning to some paths, as those with ".zip" in them.
        yield name, next(_pictures(name, pathlib.Path(path, name).read_bytes()))


def _pages(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    for number, page in enumerate(_pictures("the file", pathlib.Path(path).read_bytes())):
        yield f"page {number}", page


def _pictures(name: str, data: bytes) -> Iterator[np.ndarray]:
    """Yields the pictures in a file as uint8 `[H, W, 1 or 4]`."""
    import imageio.v3 as iio
    from PIL import Image

    imopen: Any = iio.imopen  # whose annotations are wrong
    try:
        with Image.open(io.BytesIO(data), formats=PILLOW):
            pass  # imageio would open any format
        with imopen(data, "r", plugin="pillow") as opened:
            for page in range(opened.properties(index=...).n_images or 1):
                kind = opened.properties(index=page).dtype
                if kind == np.uint16:
                    array = (opened.read(index=page)[..., None] >> 8).astype(np.uint8)
                elif kind in (np.uint8, np.bool_):
                    # This keeps the transparency of palettes.
                    array = opened.read(index=page, mode="RGBA")
                else:
                    raise Unreadable(f"{name} holds {kind}; pictures have 8 or 16 bits a channel")
                # Not by imageio, which takes channels for columns where there is a palette.
                turn = opened.metadata(index=page, exclude_applied=False).get("Orientation", 1)
                yield upright(array, _EXIF.get(turn, (1, 0, 0, 1)))
    except (OSError, ValueError, SyntaxError) as error:
        raise Unreadable(f"{name}: {reason(error)}") from error
