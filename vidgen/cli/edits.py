"""What `vidgen edit` does: each edit is a function from latents to latents, or to video.

An edit says which flags it reads; any other flag is refused, as it would do nothing.
"""

import argparse
import dataclasses
import pathlib
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from vidgen import sampling
from vidgen.cli import asking, samples, sampling_flags
from vidgen.errors import ConfigError, StorageError
from vidgen.models import conditions
from vidgen.run import artifacts, logs
from vidgen.sampling import Latents, Sampler, edit, inversion
from vidgen.sampling.latents import check_latents
from vidgen.text import printed
from vidgen.video import atomic

_SAMPLES = 256  # of which a direction is found
_NAMES = ("content", "motion", "cycle", "label")
_MEASURES = ("brightness", "colour", "motion")
# What zipfile, zlib and NumPy raise of files that are no archives of arrays.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)


@dataclasses.dataclass
class Asked:
    """What an edit is asked for.

    Attributes:
      sampler: Of the run.
      options: The flags; None where they were not given.
      latents: Of the videos to edit.
      seeds: Those that the latents were drawn of, or the place of each in the file they come from.
      frames: Of each video.
      progress: `(done, total, text)`.
    """

    sampler: Sampler
    options: argparse.Namespace
    latents: Latents
    seeds: list[int]
    frames: int
    progress: Callable[[int, int, str], None]

    def told(self, text: str) -> Callable[[int, int], None]:
        """Returns a progress of two arguments that shows a text."""
        return lambda done, total: self.progress(done, total, text)

    def number(self, name: str, default: float) -> float:
        """Returns a flag's value, or another where it was not given."""
        value = getattr(self.options, name)
        return default if value is None else value

    def what(self, default: str) -> list[str]:
        """Returns the parts that `--what` names."""
        return (self.options.what or default).split(",")

    def others(self) -> Latents:
        """Draws as many videos of seeds that nobody asks for."""
        seeds = [2**32 - 1 - n for n in range(len(self.latents["label"]))]
        return self.sampler.latents(seeds, self.frames)


Edited = tuple[Latents, int, Sampler]  # latents, the frames they are for, and who decodes them


def _interpolate(asked: Asked) -> Edited:
    what = asked.what("content,motion,class,condition")
    count = int(asked.number("count", 8))
    rows = np.arange(len(asked.latents["label"]))
    first = edit.take(asked.latents, rows[:-1])
    other = edit.swap(first, edit.take(asked.latents, rows[1:]), what)
    generator = asked.sampler.generator
    classes = generator.classes if generator.between_classes and "class" in what else 0
    between = edit.interpolate(first, other, np.linspace(0, 1, count), classes)
    ends = np.arange(len(between["label"]))  # the end of one pair is the beginning of the next
    return edit.take(between, ends[(ends == 0) | (ends % count > 0)]), asked.frames, asked.sampler


def _truncate(asked: Asked) -> Edited:
    psi = asked.number("amount", 0.7)
    return edit.truncate(asked.latents, psi, asked.what("content")), asked.frames, asked.sampler


def _swap(asked: Asked) -> Edited:
    count = len(asked.latents["label"])
    other = edit.take(asked.latents, np.roll(np.arange(count), -1))
    return edit.swap(asked.latents, other, asked.what("motion")), asked.frames, asked.sampler


def _vary(asked: Asked) -> Edited:
    count = int(asked.number("count", 8))
    rows = np.repeat(np.arange(len(asked.latents["label"])), count)
    many = dataclasses.replace(asked, latents=edit.take(asked.latents, rows))
    varied = edit.vary(
        many.latents, many.others(), asked.number("amount", 0.2), asked.what("content,motion")
    )
    return varied, asked.frames, asked.sampler


def _speed_of(options: argparse.Namespace) -> float:
    return 0.5 if options.speed is None else options.speed


def _times(options: argparse.Namespace, frames: int) -> np.ndarray:
    """Returns the times that a video of another speed shows."""
    speed = _speed_of(options)
    times = np.arange(frames) * abs(speed)
    return times if speed >= 0 else times[::-1]


def _speed(asked: Asked) -> np.ndarray:
    times = _times(asked.options, asked.frames)
    start, frames = asked.sampler.window(times)
    labels = sampling_flags.labels(asked.options.labels, asked.sampler.classes)
    condition = _condition(asked.options, asked.sampler)
    latents = asked.sampler.latents(asked.seeds, frames, start, labels, condition)
    return asked.sampler.decode_at(latents, times)


def _loop(asked: Asked) -> Edited:
    return asked.latents, asked.frames, asked.sampler  # whose generator is one of loops


def _extend(asked: Asked) -> Edited:
    frames = int(asked.number("frames", 2 * asked.frames))
    longer = asked.sampler.latents(asked.seeds, frames)
    return edit.extend(asked.latents, longer), frames, asked.sampler


def _direction(asked: Asked) -> Edited:
    by = asked.options.by or "brightness"
    frames = min(16, asked.sampler.limit or 16)
    found, marks = asked.sampler.latents(range(_SAMPLES), frames), np.zeros(_SAMPLES)
    # Of the classes, looks and conditions of those that are edited: they hide what content does.
    told = {name: x for name, x in asked.latents.items() if name == "label" or "/" in name}
    videos = range(len(asked.latents["label"]))
    words = [b"".join(x[n].tobytes() for x in told.values()) for n in videos]
    rows = sorted({text: n for n, text in reversed(list(enumerate(words)))}.values())
    kind, fit = np.arange(_SAMPLES) // 4 % len(rows), np.arange(_SAMPLES) % 4 > 0
    found |= {name: x[np.array(rows)[kind]] for name, x in told.items()}
    for at in range(0, _SAMPLES, 16):  # few at a time: frames may be large
        some = np.arange(at, at + 16)
        videos = asked.sampler.decode(edit.take(found, some), frames)
        marks[some] = [_measure(by, video) for video in videos]
        asked.progress(at + 16, _SAMPLES, "measuring")
    for one in np.unique(kind):
        marks[kind == one] -= marks[fit & (kind == one)].mean()
    along = edit.direction(edit.take(found, np.flatnonzero(fit)), marks[fit])
    held = _correlation(
        found["content"][~fit] @ along, marks[~fit]
    )  # a quarter that was not fitted
    logs.say(f"{by} of {sum(~fit)} other samples goes with this direction: correlation {held:.2f}")
    far, count = asked.number("amount", 3.0), int(asked.number("count", 5))
    moved = [edit.shift(asked.latents, along, n) for n in np.linspace(-far, far, count)]
    each = {name: np.stack([one[name] for one in moved], 1) for name in moved[0]}
    together = {name: x.reshape(-1, *x.shape[2:]) for name, x in each.items() if x.size}
    empty = {name: np.repeat(x, count, 0) for name, x in asked.latents.items() if not x.size}
    return together | empty, asked.frames, asked.sampler


def _measure(by: str, video: np.ndarray) -> float:
    x = video.astype(np.float32)
    if by == "brightness":
        return float(x.mean())
    if by == "colour":  # how far the brightest primary is from the darkest
        return float(np.ptp(x, axis=-1).mean())
    return float(np.abs(np.diff(x, axis=0)).mean()) if len(x) > 1 else 0.0


_WHICH = ("seeds", "labels", "caption")  # which videos are edited
# Each with the flags that it reads, beside those of all.
EDITS: dict[str, tuple[Callable[[Asked], Any], tuple[str, ...]]] = {
    "interpolate": (_interpolate, (*_WHICH, "latents", "count", "what", "save")),
    "truncate": (_truncate, (*_WHICH, "latents", "amount", "what", "save")),
    "swap": (_swap, (*_WHICH, "latents", "what", "save")),
    "vary": (_vary, (*_WHICH, "latents", "count", "amount", "what", "save")),
    "speed": (_speed, (*_WHICH, "speed")),
    "loop": (_loop, (*_WHICH, "save")),
    "extend": (_extend, ("seeds", "latents", "save")),
    "direction": (_direction, (*_WHICH, "latents", "count", "amount", "by", "save")),
    "invert": (lambda asked: None, ("clips", "count", "iterations", "tune", "save")),
}
_OWN = (*_WHICH, "latents", "count", "amount", "what", "speed", "by", "clips")
_OWN += ("iterations", "tune", "save")
_AMOUNTS = {"truncate": (0, 100), "vary": (0, 1), "direction": (-100, 100)}
_WHAT = {"truncate": ("content", "motion"), "vary": ("content", "motion")}


def check(options: argparse.Namespace) -> sampling_flags.Target:
    """Checks all that can be checked before a run is loaded, and returns where it writes."""
    name = options.edit
    if name not in EDITS:
        raise ConfigError(f"there is no edit {name!r}", f"one of {', '.join(EDITS)}")
    reads = EDITS[name][1]
    for flag in _OWN:
        if getattr(options, flag) is not None and flag not in reads:
            raise ConfigError(
                f"{name} does not read --{flag}", f"it reads {', '.join(f'--{n}' for n in reads)}"
            )
    if name == "loop" and any(option == "loop" for option, _ in options.more):
        raise ConfigError("the edit loop takes no --loop", "its length is --frames")
    _check_values(options)
    if options.latents and options.seeds and name != "extend":
        raise ConfigError("--latents and --seeds", "one of them: both say which videos")
    if options.latents and (
        options.labels or options.caption or (options.frames and name != "extend")
    ):
        raise ConfigError(
            "--latents are of videos with classes, captions and frames", "leave the others out"
        )
    if name == "extend" and not options.latents:
        raise ConfigError("there is nothing to extend", "--latents=FILE, as --save writes them")
    if name == "invert" and not options.clips:
        raise ConfigError("there are no clips to invert", "name them: --clips=DATA")
    target = sampling_flags.target(argparse.Namespace(**{**vars(options), "seeds": None}))
    atomic.check_place(target.path, folder=not target.is_file)
    if name == "invert" and options.save is None:
        beside = target.path.with_name(f"{target.path.stem}-latents.npz")
        options.save = str(beside if target.is_file else target.path / "latents.npz")
    if options.save is not None:
        if pathlib.Path(options.save).suffix.lower() != ".npz":
            raise ConfigError(f"--save={options.save} is an NPZ file", "as in --save=latents.npz")
        videos = samples.ready_path(target, _name(options), options.frames or 2)
        if videos is not None and pathlib.Path(options.save).resolve() == videos.resolve():
            raise ConfigError(f"--save and --out are both {options.save}", "two files")
        atomic.check_place(options.save)
    return target


def _name(options: argparse.Namespace) -> str:
    """Returns what the files of an edit begin with."""
    return "pair" if options.edit == "invert" else options.edit


def _check_values(options: argparse.Namespace) -> None:
    """Checks what an edit alone knows of its flags."""
    name = options.edit
    if options.amount is not None:
        least, most = _AMOUNTS[name]
        if not least <= options.amount <= most:
            raise ConfigError(f"--amount={options.amount:g}", f"{least} to {most} for {name}")
    if options.what is not None:
        allowed = _WHAT.get(name, tuple(edit.PARTS))
        if not set(options.what.split(",")) <= set(allowed):
            raise ConfigError(f"--what={options.what}", f"of {', '.join(allowed)}")
    if options.by is not None and options.by not in _MEASURES:
        raise ConfigError(f"--by={options.by}", f"one of {', '.join(_MEASURES)}")
    if name in ("interpolate", "direction") and options.count == 1:
        raise ConfigError("--count=1", "at least 2: both ends")


def _total(options: argparse.Namespace, videos: int) -> int:
    """Returns how many videos an edit of some makes."""
    count = options.count
    if options.edit == "interpolate":
        return (videos - 1) * ((count or 8) - 1) + 1
    if options.edit in ("vary", "direction"):
        return videos * (count or (8 if options.edit == "vary" else 5))
    return 2 * videos if options.edit == "invert" else videos


def run(
    sampler: Sampler,
    target: sampling_flags.Target,
    options: argparse.Namespace,
    progress: Callable[[int, int, str], None],
) -> str:
    """Edits, writes what comes out, prints each path, and returns a line that sums it up.

    Raises:
      ConfigError: A flag is out of range, or the run's generator cannot do it.
      DataError: No clip can be inverted.
      StorageError: A file cannot be read or written.
    """
    given = ["caption"] if options.caption or options.latents else []
    lack = [name for name in conditions.needed(sampler.generator.conditions) if name not in given]
    if lack:
        raise ConfigError(
            f"this run was never trained without the condition {lack[0]!r}",
            "--caption=TEXT"
            if lack[0] == "caption" and options.edit != "invert"
            else "from Python: sampler.latents(..., condition=...), vidgen.edit, sampler.decode",
        )
    if options.edit == "invert":
        return _invert(sampler, target, options, progress)
    asked = _asked(sampler, target, options, progress)
    made = EDITS[options.edit][0](asked)
    if isinstance(made, np.ndarray):
        video = made
    else:
        latents, frames, decoder = made
        if options.save:
            save(options.save, latents, frames, decoder)
        video = decoder.decode(latents, frames, progress=asked.told("sampling"))
    rate = options.fps or sampler.fps
    samples.write_ready(target, video, rate, _name(options), options.quality)
    count = "1 video" if len(video) == 1 else f"{len(video)} videos"
    return f"{options.edit}: {count} of {video.shape[1]} frames from step {sampler.step}"


def _asked(
    sampler: Sampler,
    target: sampling_flags.Target,
    options: argparse.Namespace,
    progress: Callable[[int, int, str], None],
) -> Asked:
    """Draws or reads the latents that are edited, once it is known that the videos fit."""
    if options.latents:
        latents, frames = read(options.latents, sampler)
        have = conditions.of_flat(latents)
        lack = [n for n in conditions.needed(sampler.generator.conditions) if n not in have]
        if lack:
            raise ConfigError(
                f"{printed(options.latents)} has no condition {lack[0]!r}",
                "this run was never trained without it",
            )
        count = len(latents["label"])
        seeds = sampling_flags.seeds_of(options.seeds) if options.seeds else list(range(count))
        if len(seeds) != count:
            raise ConfigError(f"{len(seeds)} seeds for {count} videos", "one for each")
    else:
        latents, labels = {}, sampling_flags.labels(options.labels, sampler.classes)
        many = isinstance(labels, list) or len(options.caption or "") > 1
        alone = many or options.edit == "loop"
        seeds = sampling_flags.seeds_of(options.seeds or ("0" if alone else "0:2"))
        each = max(len(labels) if isinstance(labels, list) else 1, len(options.caption or ""))
        if len(seeds) == 1:
            seeds *= each  # one video as each class, or of each caption
        frames = sampler.length(options.frames)
        if options.edit == "speed" and not options.frames and sampler.limit:  # up to its end
            frames = int((sampler.limit - 1) // max(abs(_speed_of(options)), 1)) + 1
    if len(seeds) < 2 and options.edit in ("interpolate", "swap"):
        raise ConfigError(
            "there is one video", f"two --seeds, --labels or --caption to {options.edit}"
        )
    if options.edit == "loop":
        sampler = _looped(sampler, frames)
    final = (options.frames or 2 * frames) if options.edit == "extend" else frames
    if final < frames:
        raise ConfigError(f"--frames={final}", f"at least the {frames} that there are")
    total = _total(options, len(seeds))
    samples.check_ready(sampler, target, total, final, options.quality)
    if options.edit == "speed":  # whose times may lie far apart
        speed = _speed_of(options)
        far = int(final * max(abs(speed), 1))
        samples.check_ready(sampler, target, total, far, options.quality)
        if speed % 1 and not sampler.generator.between_frames:
            raise ConfigError(
                f"--speed={speed:g}, and a {type(sampler.generator).__name__} makes whole frames",
                "a whole number",
            )
        sampler.window(_times(options, frames))
    elif not options.latents:
        condition = _condition(options, sampler)
        latents = sampler.latents(seeds, frames, labels=labels, condition=condition)
    return Asked(sampler, options, latents, seeds, frames, progress)


def _condition(options: argparse.Namespace, sampler: Sampler) -> dict[str, Any] | None:
    """Returns the captions that flags give, as a condition."""
    if not options.caption:
        return None
    if "caption" not in dict(sampler.generator.conditions):
        raise ConfigError("--caption: this run was not trained with captions", "leave it out")
    return {"caption": asking.captions(options)}


def _looped(sampler: Sampler, frames: int) -> Sampler:
    """Returns a sampler of videos that begin again after some frames."""
    generator: Any = sampler.generator
    if "loop" not in generator.sampling_options:
        raise ConfigError(
            f"a {type(generator).__name__} makes no loops",
            "runs of config.method='gan', 'vae' and 'flow' do",
        )
    if generator.recurrent or frames % generator.stride:
        raise ConfigError(
            f"--frames={frames} of a loop",
            "--stream=False" if generator.recurrent else f"a multiple of {generator.stride}",
        )
    return dataclasses.replace(sampler, generator=generator.clone(loop=frames))


def _invert(
    sampler: Sampler,
    target: sampling_flags.Target,
    options: argparse.Namespace,
    progress: Callable[[int, int, str], None],
) -> str:
    """Inverts clips; writes pairs of clips and what comes out, and the latents."""
    count, tune = options.count or 4, options.tune or 0
    inversion.check(sampler, tune)
    step = "best" if options.step == "best" else sampler.step
    config = sampling.config_of(options.run_folder, step)
    config.data.frames = options.frames or config.data.frames
    sampler.length(config.data.frames)
    pairs = 2 * count
    samples.check_ready(sampler, target, pairs, config.data.frames, options.quality)
    clips, names = artifacts.clips_to_show(config, options.clips, sampler.classes, count, progress)
    latents, tuned = sampling.invert(
        sampler,
        clips,
        names,
        steps=500 if options.iterations is None else options.iterations,
        tune=tune,
        progress=lambda done, total: progress(done, total, "inverting"),
    )
    made = tuned.decode(latents, clips.shape[1])
    save(options.save, latents, clips.shape[1], sampler)
    pairs = np.stack([clips, made], 1).reshape(-1, *clips.shape[1:])
    rate = options.fps or sampler.fps
    samples.write_ready(target, pairs, rate, _name(options), options.quality)
    moves = [np.diff(x.astype(np.float64), axis=1).reshape(len(x), -1) for x in (clips, made)]
    alike = [_correlation(*two) for two in zip(*moves, strict=True)]
    return (
        f"PSNR {sampling.psnr(clips, made).mean():.2f} dB, correlation of frame differences "
        f"{np.mean(alike):.2f}, means of {len(clips)} clips from step {sampler.step}"
    )


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1]) if one.std() and other.std() else 0.0


def save(path: Any, latents: Latents, frames: int, sampler: Sampler) -> None:
    """Writes latents for so many frames of a sampler as `.npz`, and prints the path."""
    with atomic.replacing(path) as temporary, open(temporary, "wb") as file:
        kept: dict[str, Any] = {n: x for n, x in latents.items() if n in _NAMES or "/" in n}
        np.savez(file, frames=frames, loop=sampler.generator.loop, **kept)
    print(printed(path))


def read(path: str, sampler: Sampler) -> tuple[Latents, int]:
    """Reads latents that `save` wrote, and the frames that they are for.

    Raises:
      StorageError: There is no such file, or it holds something else.
      ConfigError: They are of another generator, or of another loop.
    """
    if not pathlib.Path(path).is_file():  # a pipe could be waited for without end
        raise StorageError(f"there is no file {path}", "one that --save wrote")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > samples.MOST:
                raise ValueError("more than any latents")
        with np.load(path, allow_pickle=False) as file:
            told = [name for name in file.files if "/" in name]
            latents = {name: file[name] for name in (*_NAMES, *told)}
            frames, loop = int(file["frames"]), int(file["loop"])
    except _DAMAGED as error:
        raise StorageError(f"{path} holds no latents", "a file that --save wrote") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error
    if loop != sampler.generator.loop:
        raise ConfigError(
            f"{path} is of videos that begin again after {loop} frames"
            if loop
            else f"{path} is of videos that are no loops, and --loop={sampler.generator.loop}",
            f"--loop={loop}" if loop else "leave it out",
        )
    return check_latents(sampler.generator, latents), sampler.length(frames)
