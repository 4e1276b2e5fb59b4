"""What a path holds, before anything is trained on it: the report of `vidgen data inspect`.

    report = inspect("clips/", frames=16, stride=2, progress=bar)
    showing.show(report)                              # tables on the terminal
    showing.write_contact_sheet("sheet.png", report)  # a row a clip, a column a frame

Every clip is decoded from end to end, as packing would: what the report calls good is good.
"""

import dataclasses
import functools
import os
import pathlib
from typing import Any

import numpy as np

from vidgen import frame_size
from vidgen.data.attempts import each
from vidgen.data.entry import Entry
from vidgen.data.limits import Limits
from vidgen.data.listing import is_toy, list_source, toy_source
from vidgen.data.pack import Pack
from vidgen.data.settings import PackSettings
from vidgen.data.stream import ENOUGH, choose_stride, count_windows
from vidgen.data.workers import Worker, frame_rate, request
from vidgen.video.conversion import centre

Path = str | os.PathLike[str]
SHOWN, _ROWS = 8, 32  # frames of a clip, and clips, on the contact sheet
_RATES = 1.1  # highest over lowest from which clips of different rates are told
_UNEVEN = 1.5  # longest over shortest distance of two frames, from which a clip's rate varies


@dataclasses.dataclass(frozen=True)
class ClipReport:
    """What one good clip is.

    Attributes:
      name: Path below the root.
      label: Name of its class, or None.
      width: Pixels as shown, upright.
      height: See `width`.
      frames: Frames decoded.
      fps: Mean frames per second.
      seconds: Time from the first frame to the end of the last.
      codec: FFmpeg's name of the codec, or "pictures", "strip", "array".
      notes: What is worth knowing: variable rate, interlaced, transparent, not square pixels, ...
      thumbnails: uint8 `[n, H, W, 3]`, up to 8 frames from first to last, cut as training cuts
        them; none of most clips where there are more than 32.
      caption: What it shows, in words; "" where nothing says it, None where that was not looked
        at: of most toy clips where there are more than 32.
    """

    name: str
    label: str | None
    width: int
    height: int
    frames: int
    fps: float
    seconds: float
    codec: str
    notes: tuple[str, ...]
    thumbnails: np.ndarray = dataclasses.field(repr=False)
    caption: str | None = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """What a path holds.

    Attributes:
      root: The path.
      classes: Names of the classes, sorted.
      clips: The good clips, in the order of their names.
      skipped: `(name, reason)` of each file that cannot be used.
      ignored: Number of files that do not look like clips.
      made_with: The settings of a pack; None for anything else.
      fps: The rate to which the clips would be resampled; None for none.
      frames: Frames of a training window that `windows` counts.
      stride: Their distance, as asked for or, if `chosen`, as suits the clips.
      chosen: Whether the stride is chosen by the clips.
      loop: Whether clips that are shorter than a window are repeated, not left out.
      windows: How many windows a training with this config would draw from.
      short: Names of the clips that no window can be drawn from.
    """

    root: str
    classes: tuple[str, ...]
    clips: tuple[ClipReport, ...]
    skipped: tuple[tuple[str, str], ...]
    ignored: int
    made_with: dict[str, Any] | None
    fps: float | None
    frames: int
    stride: int
    chosen: bool
    loop: bool
    windows: int
    short: tuple[str, ...]


def inspect(
    path: Path,
    settings: PackSettings | None = None,
    *,
    frames: int = 16,
    stride: int = 0,
    short: str = "loop",
    workers: int = 2,
    thumbnail: int = 64,
    progress: Any = None,
) -> Report:
    """Decodes every clip of a path and reports what they are.

    Without settings, as a training with configs/clips64.py would take them.

    Args:
      path: What `open_source` takes.
      settings: How training would pack them: labels, limits, and the rate, for the windows.
      frames: Frames of a training window.
      stride: Distance of its frames; 0: chosen by the clips.
      short: "skip" or "loop": what becomes of clips that are shorter than a window.
      workers: Decoding processes.
      thumbnail: Shorter side of the pictures on the contact sheet.
      progress: Called with (done, total, text).

    Raises:
      DataError: Nothing at the path looks like a clip.
    """
    if is_toy(path) or (pathlib.Path(path) / "pack.json").is_file():
        return _of_store(path, frames, stride, short)
    settings = settings or PackSettings()
    alive = functools.partial(progress, 0, 0, "listing clips") if progress else lambda: None
    source = list_source(path, settings, alive)
    sides = frame_size.height_width(settings.size)
    cut = tuple(round(thumbnail * side / min(sides)) for side in sides)
    shown = set(_spread(len(source), _ROWS).tolist())
    reports, refused = each(
        range(len(source)),
        lambda slot, worker, n: _report(
            worker, source.entries[n], settings.limits, cut, n in shown
        ),
        limits=settings.limits,
        workers=workers,
        name=lambda n: source.entries[n].name,
        progress=progress,
        text="decoding",
    )
    bad = (*source.skipped, *((source.entries[n].name, refused[n]) for n in sorted(refused)))
    clips = tuple(reports[n] for n in sorted(reports))
    report = Report(
        root=source.root,
        classes=source.classes,
        clips=clips,
        skipped=bad,
        ignored=source.ignored,
        made_with=None,
        fps=settings.fps,
        frames=frames,
        stride=stride,
        chosen=stride == 0,
        loop=short == "loop",
        windows=0,
        short=(),
    )
    return counted(report)


def counted(report: Report) -> Report:
    """Returns a report with its windows counted, and its stride chosen where the clips choose."""
    lengths, stride = clip_lengths(report), report.stride
    if report.chosen:
        stride = choose_stride(lengths, pack_rate(report), report.frames)
    span = (report.frames - 1) * stride + 1
    counts = count_windows(lengths, span, "loop" if report.loop else "skip")
    names = (clip.name for clip in report.clips)
    return dataclasses.replace(
        report,
        stride=stride,
        windows=int(counts.sum()),
        short=tuple(name for name, count in zip(names, counts, strict=True) if not count),
    )


def clip_lengths(report: Report) -> np.ndarray:
    """Returns int64 `[N]`, the frames that each clip of a report would have in a pack."""
    return np.array([frames_at(clip, report.fps) for clip in report.clips], np.int64)


def pack_rate(report: Report) -> float:
    """Returns the frames per second that a pack of the clips would have."""
    rates = [clip.fps for clip in report.clips]
    return report.fps or (round(float(np.median(rates)), 6) if rates else 0.0)


def common_rate(report: Report) -> float | None:
    """Returns the rate that would make clips of different rates alike; None where they are.

    The lowest, but for a tenth of the clips, whose frames would be repeated.
    """
    rates = [clip.fps for clip in report.clips if clip.fps]
    if report.fps or not rates or max(rates) <= _RATES * min(rates):
        return None
    return round(float(np.quantile(rates, 1 - ENOUGH, method="lower")), 3)


def at_common_rate(report: Report) -> Report:
    """Returns the report as it would be with all clips at one rate, if they stay long enough."""
    changed = counted(dataclasses.replace(report, fps=common_rate(report)))
    enough = np.mean(clip_lengths(changed) >= report.frames) >= ENOUGH if report.clips else False
    return changed if changed.fps and enough else report


def frames_at(clip: ClipReport, fps: float | None) -> int:
    """Returns the frames of a clip, resampled to `fps` as `resampling.resample` does."""
    if fps is None or not clip.fps:
        return clip.frames
    return int((clip.seconds - 1 / clip.fps) * fps + 1e-6) + 1


def _spread(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _report(
    worker: Worker, entry: Entry, limits: Limits, cut: tuple[int, ...], shown: bool
) -> ClipReport:
    kept: list[np.ndarray] = []
    every, seen = 1, 0

    def sink(frames: np.ndarray) -> None:
        nonlocal every, seen, kept
        for frame in frames if shown else ():
            if seen % every == 0:
                kept.append(frame)
                if len(kept) > 4 * SHOWN:  # thin out: memory stays bounded, whatever the length
                    kept, every = kept[::2], every * 2
            seen += 1

    asked = request(
        entry.ref, limits, size=frame_size.normal(cut), crop=True, start=entry.start, end=entry.end
    )
    info = worker.decode(asked, sink)
    times = np.array(info["times"])
    fps = frame_rate(times, info["fps"])
    return ClipReport(
        name=entry.name,
        label=entry.label,
        width=info["width"],
        height=info["height"],
        frames=len(times),
        fps=fps,
        seconds=float(times[-1] - times[0]) + (1 / fps if fps else 0.0),
        codec=info["codec"],
        notes=_notes(info, times, min(cut)),
        thumbnails=np.stack([kept[n] for n in _spread(len(kept), SHOWN)])
        if kept
        else np.zeros((0, *cut, 3), np.uint8),
        caption=entry.caption,
    )


def _notes(info: dict[str, Any], times: np.ndarray, thumbnail: int) -> tuple[str, ...]:
    steps = np.diff(times)
    found = {
        "one frame": len(times) == 1,
        "variable rate": len(steps) > 0 and steps.max() > _UNEVEN * max(steps.min(), 1e-6),
        "interlaced": info["interlaced"],
        "transparent": info["alpha"],
        "rotated": list(info["matrix"]) != [1, 0, 0, 1],
        "several video tracks": info.get("tracks", 1) > 1,
        "begins between key frames": info.get("dropped", 0) > 0,
        "ends within a frame": info.get("torn", False),
        "pixels not square": abs(info["pixel_aspect"] - 1) > 0.01,
        f"smaller than {thumbnail}": min(info["width"], info["height"]) < thumbnail,
    }
    return tuple(note for note, true in found.items() if true)


def _of_store(path: Path, frames: int, stride: int, short: str) -> Report:
    """Reports on a pack or on the toy clips, whose frames are as training gets them."""
    span = (frames - 1) * max(stride, 1) + 1
    store = toy_source(str(path), frames=span) if is_toy(path) else Pack(path)
    packed = isinstance(store, Pack)
    names = store.names if packed else [f"toy {n}" for n in range(len(store))]
    shown = set(_spread(len(store), _ROWS).tolist())
    height, width = store[0].shape[1:3]
    captions = store.columns.get("caption", np.full(len(store), "", object))
    clips = []
    for n, (name, length) in enumerate(zip(names, store.lengths.tolist(), strict=True)):
        pictures = np.zeros((0, 1, 1, 3), np.uint8)
        if n in shown:
            clip = store[n]
            pictures = centre(clip, store.size)[_spread(length, SHOWN)]
        label = store.classes[store.labels[n]] if store.classes else None
        codec = "pack" if packed else "toy"
        seconds = length / store.fps
        # A toy clip's is written when it is asked for.
        caption = captions[n] if packed or n in shown else None
        sides, rate = (width, height), store.fps
        clips.append(
            ClipReport(name, label, *sides, length, rate, seconds, codec, (), pictures, caption)
        )
    report = Report(
        root=str(path),
        classes=tuple(store.classes),
        clips=tuple(clips),
        skipped=tuple((name, why) for name, why in store.skipped),
        ignored=0,
        made_with=store.settings if isinstance(store, Pack) else None,
        fps=None,
        frames=frames,
        stride=stride,
        chosen=stride == 0,
        loop=short == "loop",
        windows=0,
        short=(),
    )
    return counted(report)
