"""What a report of `inspect.py` says to a person: a table, remarks, a command, a contact sheet."""

import collections
import dataclasses
import os
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from vidgen import frame_size
from vidgen.data.inspect import (
    SHOWN,
    ClipReport,
    Path,
    Report,
    clip_lengths,
    common_rate,
    counted,
    frames_at,
    pack_rate,
)
from vidgen.data.listing import by_number, is_toy
from vidgen.data.settings import PackSettings
from vidgen.data.stream import ENOUGH, describe_choice
from vidgen.errors import DataError
from vidgen.text import legible, plain, printable
from vidgen.video.layout import film_strips
from vidgen.video.writing import write_png

_DURATIONS, _CLASSES = 3.0, 4.0  # highest over lowest from which a difference is worth a remark


def show(report: Report, console: Any = None) -> None:
    """Prints a report: a row for each class, what is worth knowing, and every file of no use.

    Args:
      report: From `inspect`.
      console: A rich Console; None makes one on standard output.
    """
    import rich.console
    import rich.table

    console = console or rich.console.Console()
    table = rich.table.Table(title=_shown(report.root))
    for heading in ("class", "clips", "frames", "seconds", "length", "size", "fps", "codec"):
        table.add_column(heading, justify="left" if heading in ("class", "codec") else "right")
    groups: dict[str, list[ClipReport]] = {}
    for clip in report.clips:
        groups.setdefault(clip.label or "", []).append(clip)
    for label, clips in sorted(groups.items(), key=lambda group: by_number(group[0])):
        table.add_row(_shown(label or "-"), *_row(clips))
    if len(groups) > 1:
        table.add_section()
        table.add_row("total", *_row(list(report.clips)))
    console.print(table)
    for line in lines(report):
        console.print(_shown(line), highlight=False, soft_wrap=True)


def _shown(text: str) -> str:
    """Returns text of strangers as rich shows it as it is, and no terminal obeys it."""
    import rich.markup

    return rich.markup.escape(legible(text))


def _row(clips: list[ClipReport]) -> list[str]:
    sizes = collections.Counter(f"{c.width}x{c.height}" for c in clips).most_common()
    codecs = collections.Counter(c.codec for c in clips).most_common()
    return [
        str(len(clips)),
        str(sum(c.frames for c in clips)),
        f"{sum(c.seconds for c in clips):.1f}",
        _range([c.frames for c in clips], "{:d}"),
        sizes[0][0] + (f" and {len(sizes) - 1} more" if len(sizes) > 1 else ""),
        _range([c.fps for c in clips], "{:.4g}"),
        ", ".join(name for name, _ in codecs),
    ]


def _range(values: list[Any], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low}-{high}"


def lines(report: Report) -> list[str]:
    """Returns what a report says below its table, as plain lines."""
    said = []
    notes = collections.Counter(note for clip in report.clips for note in clip.notes)
    for note, count in notes.most_common():
        said.append(f"{note}: {_some([c.name for c in report.clips if note in c.notes], count)}")
    said += _differences(report)
    said += _captions(report)
    if report.short:
        some = _some(list(report.short), len(report.short))
        said.append(f"too short for a window: {some}; {_cure(report)}")
    if report.chosen and report.clips:
        short = "loop" if report.loop else "skip"
        said.append(
            describe_choice(
                clip_lengths(report), pack_rate(report), report.frames, report.stride, short
            )
        )
    said.append(
        f"{report.windows} windows of {report.frames} frames, stride {report.stride}, in "
        f"{len(report.clips) - len(report.short)} clips"
    )
    if report.ignored:
        said.append(f"{report.ignored} files are no videos and were left alone")
    said += [f"cannot be used: {name}: {why}" for name, why in report.skipped]
    return said


def _differences(report: Report) -> list[str]:
    """Says what differs much among the clips, in lines."""
    said, clips = [], report.clips
    seconds = [clip.seconds for clip in clips if clip.seconds]
    if seconds and max(seconds) >= _DURATIONS * min(seconds):
        middle = float(np.median(seconds))
        said.append(
            f"durations differ: {min(seconds):.3g} s to {max(seconds):.3g} s, half of the clips at "
            f"most {middle:.3g} s; each clip is drawn equally often, whatever its length"
        )
    if rate := common_rate(report):
        low, high = min(c.fps for c in clips if c.fps), max(c.fps for c in clips)
        short = int(np.sum([frames_at(clip, rate) < report.frames for clip in clips]))
        said.append(
            f"rates differ: {low:.4g} to {high:.4g} fps; --config.data.fps={rate:g} would make "
            "them alike"
            + (f", and {short} of {len(clips)} clips shorter than a window" if short else "")
        )
    counts = collections.Counter(clip.label for clip in clips if clip.label).most_common()
    if counts and counts[0][1] >= _CLASSES * counts[-1][1]:
        (most, many), (least, few) = counts[0], counts[-1]
        said.append(
            f"classes differ: {least} has {few} {'clip' if few == 1 else 'clips'}, {most} {many}; "
            "each class is drawn as often as it has clips"
        )
    return said


def _captions(report: Report) -> list[str]:
    """Says how many clips have captions, of how many words, and some of them, in lines."""
    seen = [clip for clip in report.clips if clip.caption is not None]
    having = [clip for clip in seen if clip.caption]
    if not having:
        return []
    words = [len(str(clip.caption).split()) for clip in having]
    looked = "" if len(seen) == len(report.clips) else " looked at"
    said = [
        f"captions: {len(having)} of {len(seen)} clips{looked} have one, of "
        f"{np.median(words):g} words (median), {max(words)} at most"
    ]
    few = sorted({0, len(having) // 2, len(having) - 1})
    said += [f"caption of {having[n].name}: {plain(str(having[n].caption), 200)}" for n in few]
    return said


def _cure(report: Report) -> str:
    """Says which field would let training have clips that are too short for a window."""
    count = len(report.clips)
    others = {
        "stride=0": dataclasses.replace(report, chosen=True),
        "fps=0": dataclasses.replace(report, fps=None),
    }
    for field, other in others.items():
        kept = count - len(counted(other).short)
        if kept >= ENOUGH * count:
            return f"--config.data.{field} would keep {kept} of {count} clips"
    return "--config.data.short=loop would repeat their frames"


def train_command(
    report: Report, path: Path, settings: PackSettings, flags: Sequence[str] | None = None
) -> str:
    """Returns the command that trains on what a report is of, quoted for a shell.

    Args:
      report: From `inspect`.
      path: The path that was inspected.
      settings: Those of the config.
      flags: The config's flags; None for configs/clips64.py at the rate of the report.

    Raises:
      DataError: There is no good clip, or a pack is of another size than the config's.
    """
    if not report.clips:
        raise DataError(f"{report.root}: holds no clip that can be trained on")
    made = frame_size.normal(report.made_with["size"]) if report.made_with else settings.size
    if made != settings.size:
        raise DataError(
            f"{report.root}: the pack's frames are of size {made}, those of the config "
            f"{settings.size}",
            f"give --config a file with data.size={made}, or the clips that the pack was made of",
        )
    name = "".join(c if c.isalnum() or c in "._-" else "_" for c in pathlib.Path(path).stem)
    words = list(flags or [])
    if flags is None:
        words += [f"--config=configs/{'toy' if is_toy(path) else 'clips64'}.py"]
        words += [f"--config.data.fps={report.fps:g}"] if report.fps else []
    wanted = settings.of_frames()
    for field, made in (report.made_with or {}).items():
        if made != wanted.get(field):
            value = tuple(made) if isinstance(made, list) else 0.0 if made is None else made
            words.append(f"--config.data.{field}={value}")
    words += [f"--config.data.path={os.fspath(path)}", f"--workdir=runs/{name or 'mine'}"]
    once = {word.partition("=")[0]: word for word in words}  # of each flag the last
    return printable(shlex.join(["vidgen", "train", *once.values()]))


def _some(names: list[str], count: int) -> str:
    return f"{count} ({', '.join(names[:3])}{', ...' if count > 3 else ''})"


def write_contact_sheet(path: Path, report: Report) -> None:
    """Writes a PNG with a row for each of up to 32 clips, spread over the source, frames across.

    Raises:
      DataError: There is no good clip.
      StorageError: The file cannot be written.
    """
    shown = [clip.thumbnails for clip in report.clips if len(clip.thumbnails)]
    if not shown:
        raise DataError(f"{report.root}: holds no clip to show")
    rows = []
    for pictures in shown:
        blank = np.zeros((SHOWN - len(pictures), *pictures.shape[1:]), np.uint8)
        rows.append(film_strips(np.concatenate([pictures, blank])[None], SHOWN))
    write_png(path, np.concatenate(rows))
