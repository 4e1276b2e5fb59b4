"""What the words of `vidgen sample` mean, which `evaluate` takes, too, before a run is loaded."""

import argparse
import ast
import dataclasses
import pathlib
import sys
import textwrap
from typing import Any

from vidgen.errors import ConfigError, StorageError

_SEEDS = 1_000_000  # of one command, which holds their numbers in memory
_NOT_WRITTEN = (".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ogv", ".jpg", ".jpeg", ".bmp")


@dataclasses.dataclass(frozen=True)
class Target:
    """What `sample` is to make, and where.

    Attributes:
      path: The file or folder.
      is_file: Whether it is a file.
      kind: A name in `vidgen.video.writing.FORMATS`; None where the videos' length decides.
      seeds: One for each video.
    """

    path: pathlib.Path
    is_file: bool
    kind: str | None
    seeds: list[int]


def target(options: argparse.Namespace) -> Target:
    """Reads what `sample` can check before anything is loaded."""
    from vidgen.video import encoding, writing

    path, kind = pathlib.Path(options.out), options.format
    suffix = path.suffix.lower()
    kinds = {end: name for name, end in writing.FORMATS.items() if end}
    is_file = suffix in kinds
    if is_file and kind not in (None, kinds[suffix]):
        raise ConfigError(
            f"--out={options.out} is of format {kinds[suffix]}, and --format={kind}",
            "leave one of them out",
        )
    if suffix in _NOT_WRITTEN:
        raise ConfigError(
            f"--out={options.out}: {suffix} cannot be written", f"one of {', '.join(kinds)}"
        )
    kind = kinds[suffix] if is_file else kind
    grid = getattr(options, "grid", False)
    alone = is_file and not grid and kind not in ("npz", "png")
    text = options.seeds or ("0" if alone else "0:4" if grid else "0:16")
    seeds = seeds_of(text)
    if alone and len(seeds) > 1:
        raise ConfigError(
            f"--out={options.out} is one video, and --seeds={text} are {len(seeds)}",
            f"one seed, a folder (--out=NAME --format={kind}), an .npz, or a .png grid",
        )
    fps = options.fps
    if fps is not None and not encoding.SLOWEST <= fps <= encoding.FASTEST:
        raise ConfigError(f"--fps={fps:g}", f"{encoding.SLOWEST} to {encoding.FASTEST:g}")
    if kind is not None:
        check_quality(kind, options.quality)
    return Target(path, is_file, kind, seeds)


def check_quality(kind: str, quality: float | None) -> None:
    """Raises ConfigError unless a format can be written with a quality."""
    from vidgen.video import encoding, writing

    try:
        encoding.check_quality(writing.FORMATS[kind], quality)
    except ConfigError as error:
        said = str(error).replace(f"quality={quality}", f"--quality={quality:g}", 1)
        raise ConfigError(said, error.hint) from error


def labels(text: str | None, classes: tuple[str, ...]) -> Any:
    """Reads `square`, `1` or `square,disc,1`: class names, or their places from 0."""
    if text is None:
        return None
    if text in classes:  # which may have a comma in its name
        return _named(text, classes)
    # A place has few digits; int() refuses what has 5,000.
    number = lambda text: text.isascii() and text.isdigit() and len(text) < 10  # noqa: E731
    each = [
        int(one) if number(one) and one not in classes else _named(one, classes)
        for one in text.split(",")
    ]
    return each[0] if len(each) == 1 else each


def _named(text: str, classes: tuple[str, ...]) -> str:
    """Returns the name of a class; says so where it could have been the place of another."""
    if text in classes and text.isdecimal() and text != str(classes.index(text)):
        print(f"vidgen: --labels={text} is the class of that name", file=sys.stderr)
    return text


def options_of(subject: str, options: argparse.Namespace) -> dict[str, Any]:
    """Reads the flags that only the generator of a run knows."""
    if not options.more:
        return {}
    from vidgen import sampling
    from vidgen.cli import parser

    known = sampling.options_of(subject, options.step)
    values = {}
    for name, text in options.more:
        if name not in known:
            # Its options are named where nothing is near, too: they are of this run alone.
            have = ", ".join(f"--{n}" for n in known) or "none"
            raise ConfigError(
                f"unknown flag --{name}; sampling options of this run: {have}",
                parser.near(f"--{name}", [*options.known, *(f"--{n}" for n in known)]),
            )
        try:
            values[name] = text if isinstance(known[name], str) else ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            kind = type(known[name]).__name__
            raise ConfigError(
                f"--{name}={text}", f"it must be of type {kind}, such as {known[name]!r}"
            ) from error
    return values


def options_text(run_folder: str) -> str:
    """Returns the sampling options of a run as text for its help.

    Raises:
      StorageError: There is no such run.
    """
    from vidgen import methods, models
    from vidgen.runtime.checkpoint import Checkpoints

    if not pathlib.Path(run_folder).is_dir():
        raise StorageError(f"there is no run in {run_folder}", "name the folder given as --workdir")
    meta = Checkpoints(pathlib.Path(run_folder) / "checkpoints").restore(lambda meta: {})[2]
    generator = methods.generator(meta)
    if not generator.sampling_options:
        return f"\nthe run in {run_folder} has no sampling options"
    comments = models.attributes(type(generator))
    lines = [f"\nsampling options of the run in {run_folder}:"]
    for name in generator.sampling_options:
        text = f"{comments.get(name, '').rstrip('.')} (default {getattr(generator, name)!r})"
        lines += textwrap.wrap(f"  {f'--{name}':20s}  {text}", 80, subsequent_indent=" " * 24)
    return "\n".join(lines)


def seeds_of(text: str) -> list[int]:
    """Reads `7`, `0:16` (the end left out) or `1,2,5`.

    Raises:
      ConfigError: It is none of these, or empty.
    """
    if not text.isascii():
        raise ConfigError(f"--seeds={text}", "as in 7, 0:16 or 1,2,5")
    try:
        seeds = []
        for part in text.split(","):
            first, colon, end = part.partition(":")
            some = range(int(first), int(end) if colon else int(first) + 1)
            if (count := len(seeds) + len(some)) > _SEEDS:
                raise ConfigError(f"--seeds={text} are {count} videos", f"at most {_SEEDS}")
            seeds += some
    except OverflowError as error:
        raise ConfigError(f"--seeds={text}", "0 to 2^32-1") from error
    except ValueError as error:
        raise ConfigError(f"--seeds={text}", "as in 7, 0:16 or 1,2,5") from error
    if not seeds:
        raise ConfigError(f"--seeds={text} names none", "as in 7, 0:16 or 1,2,5")
    return seeds
