"""What is asked for beside the class: flags of `vidgen sample`, and what `vidgen ask` does."""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from vidgen.errors import ConfigError, DataError
from vidgen.text import plain, printed

_LEARNT = 4096  # clips at most that a matcher of captions learns from


def condition(options: argparse.Namespace, sampler: Any) -> dict[str, Any] | None:
    """Reads the conditions that flags name; None where they name none.

    Raises:
      ConfigError: The run knows no such condition, or flags do not fit each other.
      DataError: A file cannot be read.
    """
    from vidgen import sampling
    from vidgen.models import conditions
    from vidgen.run import given

    wanted = {
        "caption": captions(options),
        "frames": options.known_file,
        "video": options.video,
    }
    found: dict[str, Any] = {n: value for n, value in wanted.items() if value is not None}
    for flag in ("known_at", "mask"):
        if getattr(options, flag) is not None and options.known_file is None:
            raise ConfigError(f"--{flag} is given without --known", "--known=FILE")
    known = dict(sampler.generator.conditions)
    if lack := [n for n in conditions.needed(sampler.generator.conditions) if n not in found]:
        flag = "known" if lack[0] == "frames" else lack[0]
        raise ConfigError(
            f"this run was never trained without the condition {lack[0]!r}", f"give it: --{flag}"
        )
    if not found:
        return None
    for name in found:
        if name not in known:
            flag = "known" if name == "frames" else name
            raise ConfigError(
                f"--{flag}: this run was not trained with the condition {name!r}",
                f"it knows {', '.join(known)}" if known else "it was trained with none",
            )
    config = sampling.config_of(options.run_folder, sampler.step)
    if "video" in found:
        small = conditions.kind("video", known["video"]).sides(sampler.size)
        found["video"] = given.frames(options.video, config, small)
    if "frames" in found:
        # As far apart as the frames that are made; a poorer video keeps all of its frames.
        stride = max(config.data.stride, 1)
        video = given.frames(options.known_file, config, sampler.size, stride)
        frames = {"video": video}
        poorer = {"video": found["video"]} if "video" in found else None
        length = sampler.length(options.frames, options.start, poorer)
        if options.known_at is not None:
            times = _times(options.known_at, options.start, length, len(video))
            one_by_one = ":" in options.known_at
            frames["video"] = video[: len(times)] if one_by_one else _first(video, len(times))
            frames["time"] = times
        else:  # what lies behind the end says nothing
            frames["video"] = video[: options.start + length]
        if options.mask is not None:
            frames["known"] = given.mask(options.mask, sampler.size)
        found["frames"] = frames
    return found


def captions(options: argparse.Namespace) -> str | list[str] | None:
    """Returns the caption of all videos, or one for each; None where no flag gives one."""
    given: list[str] | None = options.caption
    return given[0] if given and len(given) == 1 else given


def _times(text: str, start: int, length: int, most: int) -> np.ndarray:
    """Reads `0,5,-1`: frames of the endless video; negative ones count from the end of this part.

    `::2` is every second one from frame 0 on, `8:16` are those from 8 to 15, as slices of Python;
    as many of them as there are frames that are known.

    Args:
      text: The flag's value.
      start: First frame that is made.
      length: How many are.
      most: How many frames are known.
    """
    try:
        if ":" in text:
            part = slice(*(int(one) if one else None for one in text.split(":")))
            times = list(range(start + length)[part][:most])
        else:
            times = [int(one) for one in text.split(",")]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"--known_at={text}", "whole numbers: 0,5,-1, or ::2") from error
    if not times:
        raise ConfigError(f"--known_at={text} names no frames", f"of 0 to {start + length - 1}")
    times = [t + start + length if t < 0 else t for t in times]
    if min(times) < 0 or max(times) >= start + length:
        raise ConfigError(
            f"--known_at={text} names frames {min(times)} to {max(times)}",
            f"0 to {start + length - 1}, the last one that is made",
        )
    return np.array(times)


def _first(video: np.ndarray, count: int) -> np.ndarray:
    """Returns as many frames as there are times: all, or the first and those up to the last."""
    if len(video) < count:
        raise ConfigError(
            f"--known_at names {count} frames, and --known has {len(video)}", "one for each"
        )
    return video[np.round(np.linspace(0, len(video) - 1, count)).astype(int)]


def ask(options: argparse.Namespace) -> None:
    """Asks a run for clips as they are; writes what comes beside them, and prints figures."""
    from vidgen import sampling
    from vidgen.cli import process
    from vidgen.run import logs
    from vidgen.video import atomic

    if not options.out.lower().endswith(".png"):
        raise ConfigError(f"--out={options.out} is a PNG file", "as in --out=asked.png")
    atomic.check_place(options.out)
    if options.save is not None:
        if not options.save.lower().endswith(".npz"):
            raise ConfigError(f"--save={options.save} is an .npz file", "as in --save=made.npz")
        atomic.check_place(options.save)
    process.keep_programs()
    sampler = sampling.load(options.run_folder, options.step, batch=8)
    known = [name for name, _ in sampler.generator.conditions]
    name = options.condition or (known[0] if known else "")
    if name not in known:
        raise ConfigError(
            f"--condition={name}" if name else "this run was trained with no condition",
            f"it knows {', '.join(known)}" if known else "docs/conditions.md says how to",
        )
    config = sampling.config_of(options.run_folder, sampler.step)
    with logs.bar() as progress:
        run = _by_caption if name == "caption" else _by_pixels
        rows = run(sampler, name, config, options, progress)
    logs.say(f"{name}: {options.clips} clips from step {sampler.step}; rows: {rows}")


def _by_pixels(
    sampler: Any, name: str, config: Any, options: argparse.Namespace, progress: Callable
) -> str:
    """Asks for clips by what is known of their pixels."""
    from vidgen.evaluation import asking
    from vidgen.models.features import efficientnet_weights
    from vidgen.run import artifacts

    batch, names = artifacts.batch_to_show(
        config, options.data, sampler.classes, options.clips, progress
    )
    frozen = efficientnet_weights.load() if efficientnet_weights.installed() else None
    given = names if sampler.classes else None
    found = asking.ask(
        sampler, name, batch["video"], batch, mode=options.mode, labels=given, frozen=frozen
    )
    _write(options, list(found.videos.values()), found.videos["made"], sampler.fps)
    print(f"{'':10s}" + "".join(f"{n:>10s}" for n in next(iter(found.figures.values()))))
    for way, figures in found.figures.items():
        print(f"{way:10s}" + "".join(f"{value:10.3f}" for value in figures.values()))
    return ", ".join(found.videos)


def _by_caption(
    sampler: Any, name: str, config: Any, options: argparse.Namespace, progress: Callable
) -> str:
    """Asks for clips by their captions."""
    from vidgen.evaluation import asking, matching
    from vidgen.run import artifacts

    count = options.clips
    classes = sampler.classes
    batch, names = artifacts.batch_to_show(config, options.data, classes, count + _LEARNT, progress)
    if name not in batch:
        raise DataError(f"{options.data}: its clips have no captions", "docs/data.md")
    show = lambda done, total: progress(done, total, "training a matcher")  # noqa: E731
    texts = [str(text) for text in batch[name]]
    given = names[:count] if classes and names is not None else None
    made, rates = asking.ask_by_captions(
        sampler, batch["video"], texts, count, labels=given, progress=show
    )
    _write(options, [made, batch["video"][:count]], made, sampler.fps)
    among = min(matching.CANDIDATES, len(set(texts[:count])))
    print(
        f"own caption found among {among}: "
        + ", ".join(f"{n} {x:.3f}" for n, x in rates.items())
        + f" (chance {1 / among:.3f})"
    )
    for text in texts[: options.show]:
        print(f"  {plain(text)}")
    return "made, real"


def _write(
    options: argparse.Namespace, videos: list[np.ndarray], made: np.ndarray, fps: float
) -> None:
    """Writes the first of some videos under each other, and what was made; prints the paths."""
    from vidgen.video import writing

    rows = np.stack([some[: options.show] for some in videos], 1)
    writing.write_grid(options.out, rows.reshape(-1, *rows.shape[2:]))
    print(printed(options.out))
    if options.save is not None:
        writing.write_video(options.save, made, fps)
        print(printed(options.save))
