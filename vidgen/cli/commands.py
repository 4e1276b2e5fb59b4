"""What the commands do: each takes the arguments that `vidgen/cli/main.py` has read, and prints.

JAX is imported by those that need it, after the arguments have been read.
"""

import argparse
import logging
import os
import pathlib
import sys
from typing import Any

from vidgen import __version__
from vidgen.cli import process, sampling_flags
from vidgen.errors import ConfigError, StorageError
from vidgen.text import legible, plain, printed


def train(options: argparse.Namespace) -> None:
    """Trains, or goes on with, the run in a folder; or says what that would take."""
    if options.dry_run:
        return _dry_run(options)
    if not options.workdir:
        raise ConfigError("the following arguments are required: --workdir", "vidgen train --help")
    from vidgen.errors import Preempted
    from vidgen.run import logs
    from vidgen.run.heartbeat import Heartbeat
    from vidgen.run.signals import Ending, Signals

    with Heartbeat.from_environment() as beat:
        with Signals() as signals:  # entered before imports, which take seconds
            for flag in options.config_flags:
                if flag.startswith("--config="):
                    file = plain(flag.removeprefix("--config="), 200)
                    logs.say(f"vidgen {__version__}: reading {file}")
            from vidgen import methods

            config = _config(options)
            logs.say(
                f"training {config.method} on {plain(config.data.path, 200)}, "
                f"{config.training.kclips:g} kclips, into {plain(options.workdir, 200)}"
            )
            if not methods.is_fitted(config.method):
                return _train(config, options, signals, beat)
        if signals.received:
            raise Preempted(f"{signals.received} at the start: nothing new to save")
        with Ending():  # without steps nobody would look at signals that are noted
            _train(config, options, None, beat)


def _train(config: Any, options: argparse.Namespace, signals: Any, beat: Any) -> None:
    process.keep_programs()
    import jax

    import vidgen

    _connect(config)
    try:
        vidgen.train(
            config, options.workdir, options.line, signals, beat, init_from=options.init_from
        )
    except jax.errors.JaxRuntimeError as error:
        from vidgen.tools import memory

        if not memory.out_of_memory(error):
            raise
        raise memory.advice(config, error) from error


def _dry_run(options: argparse.Namespace) -> None:
    """Prints what a step of the config takes on the devices at hand; allocates and writes nothing.

    The program that it compiles is the one that the training runs, so it is kept for that.
    """
    config = _config_with_steps(options, "--dry_run")
    process.keep_programs()
    from vidgen.tools import estimate

    _connect(config)
    estimate.dry_run(config)


def _connect(config: Any) -> None:
    """Meets the other processes, where there are any."""
    asked = "parallel" in config and config.parallel.distributed
    if asked or os.environ.get("VIDGEN_COORDINATOR"):
        from vidgen.runtime import cluster

        cluster.connect()


def _config(options: argparse.Namespace) -> Any:
    """Reads the config of a command, with the clips that the command names."""
    from vidgen.cli import config_flags

    return config_flags.read(options.config_flags, getattr(options, "data", None))


def _config_with_steps(options: argparse.Namespace, what: str) -> Any:
    """Reads the config of a command that measures steps."""
    from vidgen import methods

    read = _config(options)
    if methods.is_fitted(read.method):
        raise ConfigError(
            f"{what} measures steps, and config.method={read.method!r} is fitted at once",
            "train it: that takes one pass over its clips",
        )
    return read


def config(options: argparse.Namespace) -> None:
    """Prints all fields of a config."""
    from vidgen import methods
    from vidgen.cli import config_flags

    print(methods.describe(config_flags.shown(options.source, options.config_flags)))


def launch(options: argparse.Namespace) -> int:
    """Runs a command in several processes, and returns its exit code."""
    from vidgen.tools import launch

    return launch.launch(
        [sys.executable, "-m", "vidgen", *options.launched] if options.launched else [],
        options.processes,
        max_restarts=options.max_restarts,
        heartbeat=options.heartbeat,
        devices=options.devices,
    )


def sample(options: argparse.Namespace) -> None:
    """Writes videos or images, or a grid of them."""
    from vidgen.cli import asking, samples
    from vidgen.run import logs

    target = sampling_flags.target(options)
    process.keep_programs()
    import vidgen

    chosen = sampling_flags.options_of(options.run_folder, options)
    sampler = vidgen.load(options.run_folder, options.step, **chosen)
    with logs.bar() as progress:
        frames = samples.write(
            sampler,
            target,
            progress,
            frames=options.frames,
            start=options.start,
            labels=sampling_flags.labels(options.labels, sampler.classes),
            fps=options.fps,
            quality=options.quality,
            grid=options.grid,
            condition=asking.condition(options, sampler),
        )
    videos = len(target.seeds) ** (2 if options.grid else 1)
    count = "1 video" if videos == 1 else f"{videos} videos"
    logs.say(f"{count} of {frames} frames from step {sampler.step}")


def edit(options: argparse.Namespace) -> None:
    """Edits the noise that videos are made of, and writes what comes out."""
    from vidgen.cli import edits
    from vidgen.run import logs

    target = edits.check(options)
    process.keep_programs()
    import vidgen

    chosen = sampling_flags.options_of(options.run_folder, options)
    sampler = vidgen.load(options.run_folder, options.step, **chosen)
    with logs.bar() as progress:
        done = edits.run(sampler, target, options, progress)
    logs.say(done)


def reconstruct(options: argparse.Namespace) -> None:
    """Writes real clips above their reconstructions, and prints how near these are."""
    import numpy as np

    from vidgen import sampling
    from vidgen.run import artifacts, logs
    from vidgen.video import atomic, writing

    if pathlib.Path(options.out).suffix.lower() != ".png":
        raise ConfigError(f"--out={options.out} is a PNG file", "as in --out=pairs.png")
    atomic.check_place(options.out)
    process.keep_programs()
    sampler = sampling.load(options.run_folder)
    config = sampling.config_of(options.run_folder, sampler.step)
    with logs.bar() as progress:
        real, names = artifacts.clips_to_show(
            config, options.data, sampler.classes, options.clips, progress
        )
    made = sampler.reconstruct(real, names)
    pairs = np.stack([real, made], 1)
    writing.write_grid(options.out, pairs.reshape(-1, *real.shape[1:]))
    print(printed(options.out))
    near = sampling.psnr(real, made).mean()
    print(f"PSNR {near:.2f} dB, mean of {len(real)} clips from step {sampler.step}")


def ask(options: argparse.Namespace) -> None:
    """Asks a run for clips as they are, and says how near it comes."""
    from vidgen.cli import asking

    asking.ask(options)


def verify(options: argparse.Namespace) -> int:
    """Prints a line for each checkpoint; returns StorageError's code unless all are good."""
    from vidgen.runtime.checkpoint import Checkpoints

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


def evaluate(options: argparse.Namespace) -> None:
    """Measures videos beside real ones, prints the scores and writes the report."""
    from vidgen.evaluation import report

    if options.compare:
        names, reports = report.compare([pathlib.Path(p) for p in options.compare])
        report.show_comparison(names, reports)
        return
    if options.subject is None:
        raise ConfigError("there is nothing to evaluate", "vidgen evaluate --help")
    if options.more and not (pathlib.Path(options.subject) / "checkpoints").is_dir():
        from vidgen.cli import parser

        flag = f"--{options.more[0][0]}"
        raise ConfigError(f"unknown flag {flag}", parser.near(flag, options.known))
    chosen = sampling_flags.options_of(options.subject, options)
    process.keep_programs()
    from vidgen.evaluation import evaluate
    from vidgen.run import logs

    logging.getLogger("vidgen").setLevel(logging.INFO)  # how many clips are wanted, and found

    if options.metrics:
        count = 256 if options.clips is None else options.clips
        unread = dict.fromkeys(
            ("against", "size", "stride", "generated_stride", "fps", "weights", "change", "out")
        )
        others = {"protocol": "quick", "seed": 0, "start": 0, "reconstructions": False}
        for name, default in {**unread, **others}.items():
            if getattr(options, name) != default:
                raise ConfigError(
                    f"--{name} is for clips beside real ones, --metrics for clips by themselves",
                    "one of them",
                )
        found = evaluate.check(options.subject, options.metrics, count, options.step, chosen)
        for name, value in found.items():
            print(f"{name:24s} {value:.3f}")
        return
    if options.against is None:
        raise ConfigError("there are no real clips to compare with", "name them: --against=DATA")
    if options.out is not None:
        from vidgen.video import atomic

        atomic.check_place(options.out, folder=True)
    with logs.bar() as progress:
        result = evaluate.evaluate(
            options.subject,
            options.against,
            options.protocol,
            clips=options.clips,
            weights=options.weights,
            step=options.step,
            start=options.start,
            size=options.size,
            stride=options.stride,
            generated_stride=options.generated_stride,
            fps=options.fps,
            change=options.change,
            reconstructions=options.reconstructions,
            options=chosen,
            seed=options.seed,
            progress=progress,
        )
    out = options.out
    if out is None:
        step = result.subject.get("step")
        own = pathlib.Path(options.subject).name if step is None else str(step)
        out = pathlib.Path(options.subject) if step is not None else pathlib.Path()
        # Apart: what is compared by the name of a run is its samples, drawn as it was trained.
        kind = "reconstructions" if options.reconstructions else "evaluation"
        apart = ({"start": options.start} if options.start else {}) | chosen
        out = out / ",".join([kind, *(f"{n}={v}" for n, v in apart.items())]) / own
    written = report.write(result, pathlib.Path(out))  # first: whoever reads may stop reading
    report.show(result)
    print(printed(written.with_suffix(".html")))


def compare(options: argparse.Namespace) -> None:
    """Prints reports side by side, and draws them."""
    from vidgen.evaluation import plots, report
    from vidgen.video import atomic

    suffix = pathlib.Path(options.plot).suffix
    if options.plot:
        plots.require(suffix)  # before anything is printed
        atomic.check_place(options.plot)
    names, reports = report.compare([pathlib.Path(p) for p in options.reports])
    report.show_comparison(names, reports)
    if options.plot:
        drawn = plots.comparison(names, [one["figures"] for one in reports], suffix)
        with atomic.replacing(options.plot) as temporary:
            temporary.write_bytes(drawn)
        print(legible(str(options.plot)), file=sys.stderr)


def inspect(options: argparse.Namespace) -> None:
    """Prints what clips there are and what can be used, and writes a contact sheet."""
    from vidgen.data import inspect, showing
    from vidgen.data.settings import PackSettings, pack_settings
    from vidgen.run import logs
    from vidgen.video import atomic

    if pathlib.Path(options.sheet).suffix.lower() != ".png":
        raise ConfigError(f"--sheet={options.sheet} is a PNG file", "as in --sheet=clips.png")
    atomic.check_place(options.sheet)
    sheet, folder = pathlib.Path(options.sheet).resolve(), pathlib.Path(options.data).resolve()
    if folder.is_dir() and sheet.is_relative_to(folder):
        raise ConfigError(
            f"--sheet={options.sheet} would lie among the clips, and the next run take it for one",
            f"name a file outside {options.data}",
        )
    data = _config(options).data if options.config_flags else None
    asked = {"frames": data.frames, "stride": data.stride, "short": data.short} if data else {}
    settings = pack_settings(data) if data else PackSettings()
    with logs.bar() as progress:
        report = inspect.inspect(
            options.data,
            settings,
            **asked,
            workers=data.workers if data else 2,
            progress=progress,
        )
    if data is None:
        report = inspect.at_common_rate(report)
    showing.show(report)
    showing.write_contact_sheet(options.sheet, report)
    print(printed(options.sheet))
    print(showing.train_command(report, options.data, settings, options.config_flags or None))


def pack(options: argparse.Namespace) -> None:
    """Decodes clips into a pack, and prints its path."""
    from vidgen.data.pack import Pack, open_store
    from vidgen.data.settings import pack_settings
    from vidgen.run import logs

    data = _config(options).data
    with logs.bar() as progress:
        store = open_store(
            options.data,
            pack_settings(data),
            cache=options.out or data.cache or None,
            strict=data.strict,
            workers=data.workers,
            progress=progress,
        )
    if isinstance(store, Pack):
        print(printed(store.path))
    else:
        print("toy clips are made as they are needed: there is nothing to pack")


def bench(options: argparse.Namespace) -> None:
    """Measures step, loader and sampler."""
    from vidgen.tools import bench

    if options.against:
        bench.read_figures(options.against)  # before anything is measured
    if options.quick and options.sampler:
        raise ConfigError("--quick and --sampler", "one of them: each measures one part alone")
    config = _config_with_steps(options, "bench")
    figures = bench.bench(config, path=options.json, quick=options.quick, sampler=options.sampler)
    if options.against:
        bench.compare(options.against, figures)


def doctor(options: argparse.Namespace) -> None:
    """Prints the facts of this machine."""
    del options
    from vidgen.tools import doctor

    for name, value in doctor.facts():
        print(f"{name:14s} {value}")
