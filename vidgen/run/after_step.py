"""What happens after a call of the step: metrics looked at, then log, figures, sample, save."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vidgen import sampling
from vidgen.errors import DivergedError, FullDisk, Preempted
from vidgen.run import artifacts, logs, watch
from vidgen.run.best import Best
from vidgen.run.clock import Clock
from vidgen.run.metrics_log import RunLog
from vidgen.run.setup import LoopState, Setup
from vidgen.runtime import cluster
from vidgen.training import nonfinite

ROW = 3  # steps that may be skipped one after another
Progress = Callable[[int, int, dict[str, float]], None]


@dataclasses.dataclass
class Outputs:
    """What a run tells: nothing here changes what is computed.

    Attributes:
      terminal: The line or bar of progress.
      watching: What gives alarms.
      best: What keeps the best checkpoint.
      clock: Where the time goes.
      log: metrics.jsonl and TensorBoard; None in processes other than the first.
      progress: Called at each log, or None.
    """

    terminal: logs.Terminal
    watching: watch.Watch
    best: Best
    clock: Clock
    log: RunLog | None = None
    progress: Progress | None = None


def check_pending(run: Setup, loop: LoopState, outputs: Outputs) -> dict[str, float]:
    """Waits for the metrics of the pending call, and acts on steps that were skipped.

    Returns:
      The metrics of its last step; empty where nothing is pending.

    Raises:
      DivergedError: `ROW` steps one after another were skipped.
    """
    if loop.pending is None:
        return {}
    pending, loop.pending = loop.pending, None
    calls = run.config.parallel.dispatch
    metrics = jax.device_get(pending.metrics)
    each = [metrics] if calls == 1 else [
        {name: values[n] for name, values in metrics.items()} for n in range(calls)
    ]  # fmt: skip
    for n, values in enumerate(each):
        loop.stopping = loop.stopping or bool(values.get("stop"))
        loop.skipped = loop.skipped + 1 if values["skipped"] else 0
        outputs.watching.step(values)
        if values["skipped"]:
            index = pending.index if calls == 1 else pending.index[n]
            _report_skipped(run, loop, outputs, pending.step - calls + 1 + n, index, values)
    return each[-1]


def _report_skipped(
    run: Setup,
    loop: LoopState,
    outputs: Outputs,
    step: int,
    index: np.ndarray,
    values: dict[str, Any],
) -> None:
    """Says and records that a step's update was not taken; raises after ROW of them in a row."""
    bad = {n: str(float(v)) for n, v in values.items() if not np.isfinite(v)}
    bad |= {n.removeprefix("finite/"): "not finite" for n, v in values.items()
            if n.startswith("finite/") and not v}  # fmt: skip
    names = nonfinite.in_order(bad)
    what = ", ".join(f"{name} is {bad[name]}" for name in names)
    clips = f"clips {int(np.min(index))} to {int(np.max(index))} of the stream"
    if outputs.log is not None:
        outputs.log.event(step, {"skipped": names})
    if loop.skipped == ROW:
        raise DivergedError(
            f"step {step} ({clips}), like the {ROW - 1} before it: {what}",
            f"the checkpoints in {run.workdir / 'checkpoints'} are intact; lower "
            "config.optimizer.learning_rate, or raise penalties if it has any, in a new workdir",
        )
    logs.say(f"step {step} ({clips}): {what}; its update is left out ({loop.skipped} in a row)")


def save(run: Setup, loop: LoopState, needed: bool = True) -> None:
    """Starts saving the state, in the background.

    Args:
      run: The setup.
      loop: Whose state it is.
      needed: Whether the run cannot do without it; otherwise `training.full_disk` decides.

    Raises:
      DivergedError: The state itself is not finite.
      StorageError: It, or the one before, could not be written.
    """
    if loop.skipped and not nonfinite.finite(loop.state):
        raise DivergedError(
            f"step {loop.step}: the state itself is not finite, and is not saved",
            f"the checkpoints in {run.workdir / 'checkpoints'} are intact",
        )
    items = {"train": loop.state.replace(ema=None), "ema": loop.state.ema}
    write = functools.partial(run.checkpoints.save, loop.step, items, run.meta)
    _unless_full(run, run.checkpoints.wait)  # for the one before
    write() if needed else _unless_full(run, write)


def _unless_full(run: Setup, write: Callable[[], None]) -> None:
    """Does without what there is no space for, where the config says so."""
    try:
        write()
    except FullDisk as error:
        if run.config.training.full_disk == "stop":
            raise
        logs.say(f"vidgen: {error}; going on")


def sample(run: Setup, loop: LoopState, outputs: Outputs) -> None:
    """Writes samples of the averaged generator; every process must call it."""
    ema = run.placed.whole_copy(loop.state.ema)
    if outputs.log is not None:
        sampler = sampling.from_weights(ema, run.meta, loop.step)
        write = functools.partial(artifacts.write_samples, run.workdir, run.config, sampler)
        _unless_full(run, functools.partial(write, outputs.log, run.clips))
    cluster.meet(f"sample {loop.step}")


def check_samples(run: Setup, loop: LoopState, outputs: Outputs) -> dict[str, float]:
    """Compares samples with real clips and gives alarms; every process must call it.

    Returns:
      What `watch.compare` does; empty in processes other than the first.
    """
    ema, figures = run.placed.whole_copy(loop.state.ema), {}
    if outputs.log is not None:
        sampler = sampling.from_weights(ema, run.meta, loop.step)
        figures = artifacts.compare_samples(sampler, run.clips)
        for alarm in outputs.watching.check(figures):
            logs.say(f"step {loop.step}: {alarm.seen}; {alarm.help}")
            outputs.log.event(
                loop.step, {"alarm": alarm.cause, "seen": alarm.seen, "help": alarm.help}
            )
    cluster.meet(f"watch {loop.step}")
    return figures


def write_metrics(
    run: Setup,
    loop: LoopState,
    outputs: Outputs,
    metrics: dict[str, float],
    figures: dict[str, float],
) -> None:
    """Writes the line of a step into the log, and calls `progress`."""
    if outputs.log is None:
        return
    line = {
        "kclips": loop.step * run.batch_size / 1000,
        **{n: float(v) for n, v in metrics.items() if not n.startswith("finite")},
        "clips_per_second": outputs.terminal.rate(),
        "skipped_files": len(run.store.skipped),
        **{f"watch/{name}": value for name, value in figures.items()},
        **outputs.clock.seconds(),
    }
    outputs.log.metrics(loop.step, line)
    if outputs.progress is not None:
        outputs.progress(loop.step, run.total, line)


def after_step(run: Setup, loop: LoopState, outputs: Outputs, stop: str = "") -> None:
    """Does what is due after a call of the step: log, figures, sample, save; or stops.

    Args:
      run: The setup.
      loop: After the call, which is pending.
      outputs: Where things are said and written.
      stop: The signal that asks to stop now, or "".

    Raises:
      DivergedError: Too much was not finite.
      Preempted: `stop` came; the state is saved.
      StorageError: Something could not be written.
    """
    done, clock, due = loop.step, outputs.clock, run.due(loop.step)
    if done - run.config.parallel.dispatch == loop.first and loop.pending is not None:
        jax.block_until_ready(loop.pending.metrics)
        logs.say(f"first step after {clock.since_start():.1f} s")
        clock.enter("step")
    if not (stop or due):
        outputs.terminal.step(done, "")
        return
    metrics = check_pending(run, loop, outputs)  # before it is logged, sampled or saved
    clock.enter("other")
    outputs.terminal.step(done, _losses(metrics) if "log" in due else "")
    figures = {}
    if "watch" in due or (outputs.best.figure and "save" in due):
        clock.enter("sample")
        figures = check_samples(run, loop, outputs)
        clock.enter("other")
    if "log" in due or figures:
        write_metrics(run, loop, outputs, metrics, figures)
    if stop:  # a sample that is due now is made when the run goes on
        clock.enter("save")
        save(run, loop)
        run.checkpoints.wait()
        raise Preempted(
            f"{stop}: saved step {done} of {run.total} in {run.workdir}", "the same command goes on"
        )
    if "sample" in due:
        clock.enter("sample")
        sample(run, loop, outputs)
    if "save" in due:
        clock.enter("save")
        save(run, loop, needed=done == run.total)
        if outputs.best.improved(figures):
            _unless_full(run, run.checkpoints.wait)
            keep = functools.partial(outputs.best.keep, done, figures, run.checkpoints)
            _unless_full(run, keep)


def _losses(metrics: dict[str, float]) -> str:
    losses = {name: float(value) for name, value in metrics.items()}
    return "  ".join(
        f"{name.removesuffix('/loss')} {losses[name]:.3f}"
        for name in ("gen/loss", "dis/loss")
        if name in losses
    )
