"""The training loop, the only one: clips, step, log, save, sample.

A run is a function of its config and its data. Run the same command again and it goes on from the
newest good checkpoint, with the same bits as if it had never stopped.

    import vidgen

    vidgen.train(config, "runs/toy", progress=lambda step, total, metrics: print(step, total))

Read it from the end: `train`, the loop in `_train`, `after_step`, and above them what they call.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from vidgen import config as configs
from vidgen import sampling
from vidgen.data.pack import Pack
from vidgen.data.stream import Batch, Clips
from vidgen.data.toy import ToySource
from vidgen.errors import ConfigError, DivergedError, Preempted
from vidgen.methods.experiments import Experiment, build
from vidgen.run import artifacts, compiling, fit, logs, metrics_log, warm_start, watch
from vidgen.run.best import Best
from vidgen.run.clock import Clock
from vidgen.run.heartbeat import Heartbeat
from vidgen.run.metrics_log import RunLog
from vidgen.run.signals import Signals
from vidgen.runtime import cluster, devices
from vidgen.runtime.checkpoint import Checkpoints, FullDisk
from vidgen.training import nonfinite
from vidgen.video import files

ROW = 3  # steps that may be skipped one after another
Progress = Callable[[int, int, dict[str, float]], None]
Program = Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]


# -------------------------------------------------------------------------------- setup


class State(Protocol):
    """What the loop knows of a training state: a flat record of trees of arrays."""

    step: jax.Array
    gen: Any
    ema: Any

    def replace(self, **changes: Any) -> Any:
        """Returns it with other fields; flax's."""
        ...


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a start of a run has, and does not change.

    Attributes:
      config: The experiment.
      workdir: Folder of the run.
      store: The clips.
      clips: The stream of windows of them.
      experiment: The config, built.
      placed: Where the run lies.
      checkpoints: Those of the run.
      abstract: Shapes and shardings of the state.
      every: Steps between `log`, `sample`, `save` and, where there are figures, `watch`.
      meta: What is kept with each checkpoint.
    """

    config: configs.Config
    workdir: pathlib.Path
    store: Pack | ToySource
    clips: Clips
    experiment: Experiment
    placed: devices.Placement
    checkpoints: Checkpoints
    abstract: State
    every: dict[str, int]
    meta: dict[str, Any]

    @property
    def total(self) -> int:
        """Steps of the whole training."""
        return self.experiment.total

    @property
    def batch_size(self) -> int:
        """Clips of a step, over all devices."""
        return self.config.training.batch_size

    @property
    def first_process(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.placed.host[0] == 0

    def due(self, step: int) -> set[str]:
        """Returns what is to be done after a step: names of `every`; all of it after the last."""
        return {name for name, n in self.every.items() if step == self.total or step % n == 0}

    def call_batch(self, batches: list[Batch], stop: bool = False) -> Batch:
        """Makes the batch of one call of the step.

        Args:
          batches: One for each step of the call (`parallel.dispatch`).
          stop: Whether this process is to stop; several processes tell one another by `stop`.
        """
        batch = dict(batches[0])
        if len(batches) > 1:
            batch = {name: np.stack([b[name] for b in batches]) for name in batch}
        if self.placed.host[1] > 1:
            batch["stop"] = np.full(batch["index"].shape, stop, np.int32)
        return batch


def placement(config: configs.Config, alone: int = 0) -> devices.Placement:
    """Chooses where the run of a config lies, on the devices at hand.

    Args:
      config: The run's.
      alone: `Experiment.alone`.

    Raises:
      ConfigError: The devices do not fit the config.
    """
    asked = config.parallel
    found = devices.place(
        asked.mode,
        batch_size=config.training.batch_size,
        fsdp=asked.fsdp,
        microbatches=asked.microbatches,
        shards=asked.shards if asked.deterministic else 0,
        dispatch=asked.dispatch,
    )
    copies = found.mesh.shape[devices.DATA]
    if asked.data not in (0, copies):
        raise ConfigError(
            f"config.parallel.data is {asked.data}, and there are {copies} times "
            f"config.parallel.fsdp={asked.fsdp} devices",
            f"set it to {copies}, or to 0 for all",
        )
    parts = found.mesh.size * found.parts
    if alone and parts > 1:
        raise ConfigError(
            f"norm_clips is 0, of the whole batch, and the batch is computed in {parts} parts",
            "set norm_clips of generator and discriminator to at most "
            f"{config.training.batch_size // parts}",
        )
    return found


def setup(
    config: configs.Config, workdir: pathlib.Path, show: Callable[..., None] = lambda *done: None
) -> Setup:
    """Opens the clips of a config, builds its experiment and says where it lies; compiles nothing.

    Args:
      config: A config that `vidgen.config.validate` took.
      workdir: Folder of the run.
      show: `(done, total, text)`, called while clips are packed.

    Raises:
      ConfigError: The models cannot be built, or the devices do not fit.
      DataError: The clips cannot be read.
    """
    store, clips = artifacts.open_clips(config, show)
    experiment = build(config, len(store.classes))
    placed = placement(config, experiment.alone)
    training, total = config.training, experiment.total
    every = {
        name: configs.steps(training[f"{name}_kclips"], training.batch_size)
        if training[f"{name}_kclips"]
        else total
        for name in ("log", "sample", "save")
    }
    if training.watch_kclips and config.data.frames > 1:  # figures are of what moves
        every["watch"] = configs.steps(training.watch_kclips, training.batch_size)
    return Setup(
        config=config,
        workdir=workdir,
        store=store,
        clips=clips,
        experiment=experiment,
        placed=placed,
        checkpoints=Checkpoints(workdir / "checkpoints", training.keep),
        abstract=placed.abstract(jax.eval_shape(experiment.init, config.seed)),
        every=every,
        meta=artifacts.meta(config, experiment.generator, store),
    )


class Programs:
    """The compiled steps of a run, by kind; each is compiled when it is first due.

    Args:
      run: The setup.
    """

    def __init__(self, run: Setup):
        self._run, self._made = run, {}
        calls, parts = run.config.parallel.dispatch, run.placed.host[1]
        batch = run.clips.take(0, run.batch_size // parts)
        self._example = run.placed.put(run.call_batch([batch] * calls))

    def __contains__(self, kind: str) -> bool:
        return kind in self._made

    def get(self, kind: str, bar: bool = False) -> Program:
        """Returns a compiled step.

        Args:
          kind: A key of `Experiment.steps`.
          bar: Whether a clock may be shown on the terminal while it is compiled.
        """
        if kind not in self._made:
            run = self._run
            with compiling.announced(run.config, kind, bar):
                self._made[kind] = run.placed.compile(
                    run.experiment.steps[kind], run.abstract, self._example
                )
        return self._made[kind]


@dataclasses.dataclass
class Pending:
    """A call whose metrics have not been looked at yet.

    Attributes:
      step: The last step of the call.
      index: Numbers of its clips.
      metrics: What the call returned; its devices may still be at work.
    """

    step: int
    index: np.ndarray
    metrics: dict[str, jax.Array]


@dataclasses.dataclass
class LoopState:
    """What changes from call to call.

    Attributes:
      first: Step that this start goes on from.
      step: Updates made.
      state: The training state after them.
      pending: The last call: looked at one call later, so that devices never wait for it.
      skipped: Steps that were skipped one after another, the last one among them.
      stopping: Whether some process has heard a signal (several processes).
    """

    first: int
    step: int
    state: Any
    pending: Pending | None = None
    skipped: int = 0
    stopping: bool = False


def restored(run: Setup) -> LoopState:
    """Takes the state from the newest checkpoint that verifies.

    Raises:
      ConfigError: The run has another config.
      DataError: The clips have changed.
      StorageError: No checkpoint verifies, or its arrays are not those of the model.
    """

    def wanted(saved):
        artifacts.check_same(saved, run.meta, run.workdir)
        return {"train": run.abstract.replace(ema=None), "ema": run.abstract.ema}

    step, items, saved = run.checkpoints.restore(wanted)
    run.checkpoints.go_on_from(step)
    if "init_from" in saved:
        run.meta["init_from"] = saved["init_from"]
    return LoopState(step, step, items["train"].replace(ema=items["ema"]))


def initial(run: Setup, programs: Programs, record: warm_start.Record | None) -> LoopState:
    """Makes the state of step 0, beside the compiling of the first step.

    Args:
      run: The setup; its `meta` gets what the run begins from.
      programs: Gets the program of the first step.
      record: What the run begins from, as from `warm_start.source`; None for nothing.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as beside:  # two programs to compile
        making = beside.submit(run.placed.init, run.experiment.init, run.config.seed)
        programs.get(run.experiment.kind(0), bar=True)
        state = making.result()
    if record is None:
        return LoopState(0, 0, state)
    state, record, left = warm_start.apply(state, record)
    run.meta["init_from"] = record
    if run.first_process:
        logs.say(f"begun from step {record['step']} of {record['run']}")
        for line in left:
            logs.say(f"  not taken: {line}")
    return LoopState(0, 0, state)


# -------------------------------------------------------------------------------- after a step


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
    """Does without a checkpoint for which there is no space, where the config says so."""
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
        sampler = sampling.build(ema, run.meta, loop.step)
        artifacts.write_samples(run.workdir, run.config, sampler, outputs.log)
    cluster.meet(f"sample {loop.step}")


def check_samples(run: Setup, loop: LoopState, outputs: Outputs) -> dict[str, float]:
    """Compares samples with real clips and gives alarms; every process must call it.

    Returns:
      What `watch.compare` does; empty in processes other than the first.
    """
    ema, figures = run.placed.whole_copy(loop.state.ema), {}
    if outputs.log is not None:
        sampler = sampling.build(ema, run.meta, loop.step)
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
        logs.say(f"first step after {clock.total():.1f} s")
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
            outputs.best.keep(done, figures, run.checkpoints)


def _losses(metrics: dict[str, float]) -> str:
    losses = {name: float(value) for name, value in metrics.items()}
    return "  ".join(
        f"{name.removesuffix('/loss')} {losses[name]:.3f}"
        for name in ("gen/loss", "dis/loss")
        if name in losses
    )


# -------------------------------------------------------------------------------- the loop


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

    From the main thread, SIGINT and SIGTERM save the state and end it with `Preempted`; in another
    thread no signal is heeded.

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
      ConfigError: The config is wrong or does not fit the run in the workdir.
      DataError: The clips cannot be read, or have changed since the run began.
      DivergedError: A quantity became NaN or infinite; the last checkpoint is intact.
      StorageError: Something could not be written.
      Preempted: SIGINT or SIGTERM came; the state is saved.
    """
    configs.validate(config)
    workdir = pathlib.Path(workdir)
    with files.storage(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    if fit.is_fitted(config):
        if init_from is not None:
            raise ConfigError(
                f"--init_from={init_from}, and config.method is {config.method!r}",
                "leave it out: what is fitted at once begins from nothing",
            )
        fit.fit(config, workdir, command)
    else:
        with contextlib.nullcontext(signals) if signals else Signals() as signals:
            how = command, signals, beat or Heartbeat(), init_from, progress
            try:
                _train(config, workdir, *how)
            except DivergedError as error:
                # What went wrong may lie in memory alone: once more, from what is on disk.
                logs.say(f"vidgen: {error}; once more from the last checkpoint")
                _train(config, workdir, *how)
    return metrics_log.last(workdir) if jax.process_index() == 0 else {}


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
        log = RunLog(workdir, loop.first, config) if run.first_process else None
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
