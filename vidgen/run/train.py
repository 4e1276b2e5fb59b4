"""The training loop, the only one: clips, step, log, save, sample.

A run is a function of its config and its data. Run the same command again and it goes on from the
newest good checkpoint, with the same bits as if it had never stopped.

    import vidgen

    vidgen.train(config, "runs/toy", progress=lambda step, total, metrics: print(step, total))
"""

import contextlib
import pathlib
from typing import Any

import jax

from vidgen import config as configs
from vidgen import methods
from vidgen.errors import ConfigError, DivergedError, Preempted
from vidgen.run import artifacts, fit, lock, logs, metrics_log, warm_start, watch
from vidgen.run.after_step import Outputs, Progress, after_step, check_pending, sample
from vidgen.run.best import Best
from vidgen.run.clock import Clock
from vidgen.run.heartbeat import Heartbeat
from vidgen.run.metrics_log import RunLog
from vidgen.run.setup import Pending, Programs, initial, restored, setup
from vidgen.run.signals import Signals
from vidgen.runtime import cluster
from vidgen.video import atomic


def train(
    config: configs.Config,
    workdir: str | pathlib.Path,
    command: str = "",
    signals: Signals | None = None,
    beat: Heartbeat | None = None,
    init_from: str | pathlib.Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Trains until the config's end, from the newest good checkpoint if there is one.

    From the main thread, SIGINT, SIGTERM and SIGHUP save the state and end it with `Preempted`; in
    another thread no signal is heeded.

    Args:
      config: The experiment.
      workdir: Folder of the run; docs/outputs.md tells what is written there.
      command: How the run was started, for run.json.
      signals: Where a caller has entered one already, so that no signal falls in between.
      beat: What a launcher watches.
      init_from: Folder of another run, whose weights this one begins with, where they fit. Going on
        with the run does not need it again.
      progress: `(step, total, metrics)`, called at each log, in the first process.

    Returns:
      The last line of metrics.jsonl; empty in processes other than the first.

    Raises:
      ConfigError: The config is wrong or does not fit the run in the workdir, or another training
        has the workdir.
      DataError: The clips cannot be read, or have changed since the run began.
      DivergedError: A quantity became NaN or infinite; the last checkpoint is intact.
      StorageError: Something could not be written.
      Preempted: SIGINT, SIGTERM or SIGHUP came; the state is saved.
    """
    methods.validate(config)
    workdir = pathlib.Path(workdir)
    warm_start.check(config, workdir, init_from)
    with atomic.storage(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    if methods.is_fitted(config.method) and init_from is not None:
        raise ConfigError(
            f"--init_from={init_from}, and config.method is {config.method!r}",
            "leave it out: what is fitted at once begins from nothing",
        )
    first = jax.process_index() == 0
    with lock.owned(workdir) if first else contextlib.nullcontext():
        if methods.is_fitted(config.method):
            fit.fit(config, workdir, command)
            return metrics_log.last(workdir) if first else {}
        with contextlib.nullcontext(signals) if signals else Signals() as signals:
            how = command, signals, beat or Heartbeat(), init_from, progress
            try:
                _train(config, workdir, *how)
            except DivergedError as error:
                # What went wrong may lie in memory alone: once more, from what is on disk.
                logs.say(f"vidgen: {error}; once more from the last checkpoint")
                _train(config, workdir, *how)
        return metrics_log.last(workdir) if first else {}


def _train(
    config: configs.Config,
    workdir: pathlib.Path,
    command: str,
    signals: Signals,
    beat: Heartbeat,
    init_from: str | pathlib.Path | None,
    progress: Progress | None,
) -> None:
    clock = Clock()
    _stop_early(signals, "at the start")
    with logs.bar() as show:

        def packing(*done):
            _stop_early(signals, "while packing clips")
            show(*done)

        run = setup(config, workdir, packing)
    total, calls = run.total, config.parallel.dispatch
    begun, sampled = bool(run.checkpoints.steps()), False
    record = warm_start.source(workdir, init_from, begun)
    if begun:
        loop = restored(run)
        sampled = artifacts.sample_path(workdir, loop.step, ".png").exists()
        if loop.step >= total and sampled:
            logs.say(f"{workdir}: done, {loop.step} steps of {total}")
            return
        logs.say(f"{workdir}: going on from step {loop.step} of {total}")
        programs = Programs(run)
        programs.get(run.experiment.kind(min(loop.step, total - 1)), bar=True)
    else:
        programs = Programs(run)
        loop = initial(run, programs, record)
    if run.first_process:
        facts = artifacts.facts(run.store, run.clips)
        artifacts.write_json(workdir / "run.json", {**facts, **run.meta, "command": command})
    _stop_early(signals, "before the first step")

    with contextlib.ExitStack() as stack:
        stack.callback(run.checkpoints.close)  # a save under way is finished, whatever ends the run
        without_space = config.training.full_disk == "continue"
        log = RunLog(workdir, loop.first, config, without_space) if run.first_process else None
        if log is not None:
            stack.callback(log.close)
            clock.add(log.seconds)
        terminal = logs.Terminal(total, loop.first, "clips", run.batch_size, log is None)
        stack.callback(terminal.close)
        best = Best(workdir, config.training.keep_best)
        outputs = Outputs(terminal, watch.Watch(), best, clock, log, progress)
        batches = run.clips.batches(run.batch_size, start=loop.first, host=run.placed.host)
        stack.callback(batches.close)
        cluster.meet("first step")
        loop.skipped = metrics_log.skipped_up_to(workdir, loop.first)
        if begun and not sampled and "sample" in run.due(loop.first):
            clock.enter("sample")
            sample(run, loop, outputs)

        while loop.step < total:
            clock.enter("data")
            some = [next(batches) for _ in range(calls)]
            batch = run.call_batch(some, bool(signals.received))
            kind = run.experiment.kind(loop.step)
            clock.enter("step" if kind in programs and loop.step > loop.first else "compile")
            program = programs.get(kind)
            loop.state, metrics = program(loop.state, run.placed.put(batch))
            loop.step = beat.step = loop.step + calls
            check_pending(run, loop, outputs)
            # Several processes stop at the same step: where all have heard of it.
            alone = run.placed.host[1] == 1
            stop = signals.received if alone else "a signal" if loop.stopping else ""
            loop.pending = Pending(loop.step, batch["index"], metrics)
            after_step(run, loop, outputs, stop)
        run.checkpoints.wait()
        logs.say(f"{workdir}: done, {total} steps, {total * run.batch_size / 1000:g} kclips")


def _stop_early(signals: Signals, where: str) -> None:
    if signals.received:
        raise Preempted(
            f"{signals.received} {where}: nothing new to save", "the same command goes on"
        )
