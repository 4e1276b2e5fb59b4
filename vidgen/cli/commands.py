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
from vidgen.errors import ConfigError, StorageError


def train(options: argparse.Namespace) -> None:
    """Trains, or goes on with, the run in a folder; or says what that would take."""
    if options.dry_run:
        return _dry_run(options)
    if options.workdir is None:
        raise ConfigError("the following arguments are required: --workdir", "vidgen train --help")
    from vidgen.run.heartbeat import Heartbeat
    from vidgen.run.signals import Signals

    with Heartbeat.from_environment() as beat, Signals() as signals:
        _train_until_signal(options, signals, beat)  # entered before imports, which take seconds


def _train_until_signal(options: argparse.Namespace, signals: Any, beat: Any) -> None:
    from vidgen.run import logs

    config = options.config
    logs.say(
        f"vidgen {__version__}: training {config.method} on {config.data.path}, "
        f"{config.training.kclips:g} kclips, into {options.workdir}"
    )
    compilation_cache()
    import jax

    from vidgen.run import train
    from vidgen.runtime import cluster

    if config.parallel.distributed or os.environ.get("VIDGEN_COORDINATOR"):
        cluster.connect()
    try:
        train.train(config, options.workdir, options.line, signals, beat)
    except jax.errors.JaxRuntimeError as error:
        from vidgen.tools import memory

        if not memory.out_of_memory(error):
            raise
        raise memory.advice(config, error) from error


def _dry_run(options: argparse.Namespace) -> None:
    """Prints what a step of the config takes on the devices at hand; allocates and writes nothing.

    The program that it compiles is the one that the training runs, so it is kept for that.
    """
    config = options.config
    compilation_cache()
    from vidgen.runtime import cluster
    from vidgen.tools import estimate

    if config.parallel.distributed or os.environ.get("VIDGEN_COORDINATOR"):
        cluster.connect()
    estimate.dry_run(config)


def compilation_cache() -> None:
    """Keeps compiled programs on disk, so that the next start takes a tenth of the time."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = os.environ.get("VIDGEN_CACHE") or pathlib.Path.home() / ".cache" / "vidgen"
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(folder) / "programs"))
    # All three are needed; by default small and quickly compiled programs are not kept.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


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
    from vidgen.run import logs
    from vidgen.video import writing

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
                writing.write_png(out / f"seed-{seed:06d}.png", video[0])
        writing.write_grid(out / "grid.png", videos)
        print(out / "grid.png")
    elif kind == "npz":
        writing.write_video(out / "videos.npz", videos, fps)
        print(out / "videos.npz")
    else:
        for seed, video in zip(seeds, videos, strict=True):
            path = out / f"seed-{seed:06d}.{kind}"
            writing.write_video(path, video, fps)
            print(path)
    logs.say(f"{len(seeds)} videos of {frames} frames from step {sampler.step}")


def reconstruct(options: argparse.Namespace) -> None:
    """Writes real clips above their reconstructions, and prints how near these are."""
    import numpy as np

    from vidgen import config as configs
    from vidgen import sampling
    from vidgen.run import artifacts, logs
    from vidgen.runtime.checkpoint import Checkpoints
    from vidgen.video import writing

    if options.clips < 1:
        raise ConfigError(f"--clips={options.clips}", "at least 1")
    compilation_cache()
    sampler = sampling.load(options.run_folder)
    meta = Checkpoints(pathlib.Path(options.run_folder) / "checkpoints").meta(sampler.step)
    config = configs.from_json(meta["config"])
    config.data.path = options.data
    with logs.bar() as progress:
        store, clips = artifacts.open_clips(config, progress)
    batch = clips.take(0, options.clips)
    label = batch.get("label")
    names = [store.classes[n] for n in label] if sampler.classes and label is not None else None
    real = batch["video"]
    made = sampler.decode(sampler.encode(real, names), real.shape[1])
    pairs = np.stack([real, made], 1)
    writing.write_grid(options.out, pairs.reshape(-1, *real.shape[1:]))
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
    compilation_cache()
    from vidgen.evaluation import evaluate
    from vidgen.run import logs

    logging.getLogger("vidgen").setLevel(logging.INFO)  # how many clips are wanted, and found

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


def compare(options: argparse.Namespace) -> None:
    """Prints reports side by side, and draws them."""
    from vidgen.evaluation import plots, report
    from vidgen.video import atomic

    if options.plot:
        plots.require()  # before anything is printed
    names, reports = report.compare([pathlib.Path(p) for p in options.reports])
    report.show_comparison(names, reports)
    if options.plot:
        svg = plots.comparison(names, [one["figures"] for one in reports])
        with atomic.replacing(options.plot) as temporary:
            temporary.write_text(svg, encoding="utf-8")
        print(options.plot, file=sys.stderr)


def inspect(options: argparse.Namespace) -> None:
    """Prints what clips there are and what can be used, and writes a contact sheet."""
    from vidgen.data import inspect
    from vidgen.data.settings import PackSettings, pack_settings
    from vidgen.run import logs

    sheet, folder = pathlib.Path(options.sheet).resolve(), pathlib.Path(options.data).resolve()
    if folder.is_dir() and sheet.is_relative_to(folder):
        raise ConfigError(
            f"--sheet={options.sheet} would lie among the clips, and the next run take it for one",
            f"name a file outside {options.data}",
        )
    data = options.config.data if options.config else None
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
    inspect.show(report)
    inspect.write_contact_sheet(options.sheet, report)
    print(options.sheet)
    print(inspect.train_command(report, options.data, settings, options.config_flags or None))


def pack(options: argparse.Namespace) -> None:
    """Decodes clips into a pack, and prints its path."""
    from vidgen.data.pack import open_store
    from vidgen.data.settings import pack_settings
    from vidgen.run import logs

    data = options.config.data
    with logs.bar() as progress:
        store = open_store(
            options.data,
            pack_settings(data),
            cache=options.out or data.cache or None,
            strict=data.strict,
            workers=data.workers,
            progress=progress,
        )
    print(getattr(store, "path", "toy clips are made as they are needed: there is nothing to pack"))


def bench(options: argparse.Namespace) -> None:
    """Measures step, loader and sampler."""
    from vidgen.tools import bench

    figures = bench.bench(options.config, path=options.json, quick=options.quick)
    if options.against:
        bench.compare(options.against, figures)


def doctor(options: argparse.Namespace) -> None:
    """Prints the facts of this machine."""
    del options
    from vidgen.tools import doctor

    for name, value in doctor.facts():
        print(f"{name:14s} {value}")
