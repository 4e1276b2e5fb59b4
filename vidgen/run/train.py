"""The training loop, the only one: clips, step, log, save, sample.

A run is a function of its config and its data. Run the same command again and it goes on from the
newest good checkpoint, with the same bits as if it had never stopped.
"""

import concurrent.futures
import contextlib
import functools
import pathlib

import jax
import numpy as np

from vidgen import config as configs
from vidgen import methods, sampling
from vidgen.errors import ConfigError, DivergedError, Preempted
from vidgen.run import artifacts, fit, logs, watch
from vidgen.run.heartbeat import Heartbeat
from vidgen.run.signals import Signals
from vidgen.runtime import placement as parallel
from vidgen.runtime.checkpoint import Checkpoints, FullDisk
from vidgen.training import nonfinite
from vidgen.video import atomic

ROW = 3  # steps that may be skipped one after another


def placement(config: configs.Config, alone: int = 0) -> parallel.Placement:
    """Chooses where the run of a config lies, on the devices at hand.

    Args:
      config: The run's.
      alone: `Experiment.alone`.

    Raises:
      ConfigError: The devices do not fit the config.
    """
    asked = config.parallel
    found = parallel.place(
        asked.mode,
        batch_size=config.training.batch_size,
        fsdp=asked.fsdp,
        microbatches=asked.microbatches,
        shards=asked.shards if asked.deterministic else 0,
        dispatch=asked.dispatch,
    )
    copies = found.mesh.shape[parallel.DATA]
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


def train(
    config: configs.Config,
    workdir: str | pathlib.Path,
    command: str = "",
    signals: Signals | None = None,
    beat: Heartbeat | None = None,
) -> None:
    """Trains until the config's end, from the newest good checkpoint if there is one.

    Args:
      config: The experiment.
      workdir: Folder of the run; docs/outputs.md tells what is written there.
      command: How the run was started, for run.json.
      signals: Where a caller has entered one already, so that no signal falls in between.
      beat: What a launcher watches.

    Raises:
      ConfigError: The config is wrong or does not fit the run in the workdir.
      DataError: The clips cannot be read, or have changed since the run began.
      DivergedError: A quantity became NaN or infinite; the last checkpoint is intact.
      StorageError: Something could not be written.
      Preempted: SIGINT or SIGTERM came; the state is saved.
    """
    methods.validate(config)
    workdir = pathlib.Path(workdir)
    with atomic.storage(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    if methods.is_fitted(config.method):
        return fit.fit(config, workdir, command)
    with contextlib.nullcontext(signals) if signals else Signals() as signals:
        try:
            _train(config, workdir, command, signals, beat or Heartbeat())
        except DivergedError as error:
            # What went wrong may lie in memory alone: once more, from what is on disk.
            logs.say(f"vidgen: {error}; once more from the last checkpoint")
            _train(config, workdir, command, signals, beat or Heartbeat())


def _train(
    config: configs.Config,
    workdir: pathlib.Path,
    command: str,
    signals: Signals,
    beat: Heartbeat,
) -> None:
    clock = logs.Clock()

    def stop_early(where):
        if signals.received:
            raise Preempted(
                f"{signals.received} {where}: nothing new to save", "the same command goes on"
            )

    stop_early("at the start")
    with logs.bar() as show:

        def progress(*done):
            stop_early("while packing clips")
            show(*done)

        store, clips = artifacts.open_clips(config, progress)
    experiment = methods.experiment(config, len(store.classes))
    total, batch_size = experiment.total, config.training.batch_size
    meta = artifacts.meta(config, experiment.generator, store)
    placed = placement(config, experiment.alone)
    part, parts = placed.host
    checkpoints = Checkpoints(workdir / "checkpoints", config.training.keep)
    abstract = placed.abstract(jax.eval_shape(experiment.init, config.seed))
    calls, first = config.parallel.dispatch, 0

    def call_batch(batches):
        """Makes the batch of one call of the step."""
        batch = batches[0]
        if calls > 1:
            batch = {name: np.stack([b[name] for b in batches]) for name in batch}
        if parts > 1:
            batch["stop"] = np.full(batch["index"].shape, bool(signals.received), np.int32)
        return batch

    example = placed.put(call_batch([clips.take(0, batch_size // parts)] * calls))
    if checkpoints.steps():

        def wanted(saved):
            artifacts.check_same(saved, meta, workdir)
            return {"train": abstract.replace(ema=None), "ema": abstract.ema}

        first, items, _ = checkpoints.restore(wanted)
        checkpoints.go_on_from(first)
        if first >= total and artifacts.sample_path(workdir, first, ".png").exists():
            logs.say(f"{workdir}: done, {first} steps of {total}")
            return
        logs.say(f"{workdir}: going on from step {first} of {total}")
        kind = experiment.kind(min(first, total - 1))
        programs = {kind: placed.compile(experiment.steps[kind], abstract, example)}
        state = items["train"].replace(ema=items["ema"])
    else:
        kind = experiment.kind(0)
        with concurrent.futures.ThreadPoolExecutor(1) as beside:  # two programs to compile
            making = beside.submit(placed.init, experiment.init, config.seed)
            programs = {kind: placed.compile(experiment.steps[kind], abstract, example)}
            state = making.result()
    if part == 0:
        facts = artifacts.facts(store, clips)
        logs.write_json(workdir / "run.json", {**facts, **meta, "command": command})

    every = {
        name: _steps(config, config.training[f"{name}_kclips"])
        if config.training[f"{name}_kclips"]
        else total
        for name in ("log", "sample", "save")
    }
    if config.training.watch_kclips and config.data.frames > 1:  # figures are of what moves
        every["watch"] = _steps(config, config.training.watch_kclips)
    stop_early("before the first step")
    run_log = logs.RunLog(workdir, first) if part == 0 else None
    terminal = logs.Terminal(total, first, "clips", batch_size, quiet=part > 0)

    def spare(write):
        """Does without a checkpoint for which there is no space, where the config says so."""
        try:
            write()
        except FullDisk as error:
            if config.training.full_disk == "stop":
                raise
            logs.say(f"vidgen: {error}; going on")

    def save(at, needed=True):
        if row and not nonfinite.finite(state):
            raise DivergedError(
                f"step {at}: the state itself is not finite, and is not saved",
                f"the checkpoints in {workdir / 'checkpoints'} are intact",
            )
        items = {"train": state.replace(ema=None), "ema": state.ema}
        write = functools.partial(checkpoints.save, at, items, meta)
        spare(checkpoints.wait)  # for the one before
        write() if needed else spare(write)

    def sample(at):
        ema = placed.whole_copy(state.ema)
        if run_log is not None:
            artifacts.write_samples(workdir, config, sampling.from_weights(ema, meta, at), run_log)
        parallel.meet(f"sample {at}")

    watching = watch.Watch()
    best = artifacts.Best(workdir, config.training.keep_best)

    def see(at):
        """Looks at samples of fixed seeds; returns figures for the log."""
        ema, found = placed.whole_copy(state.ema), {}
        if run_log is not None:
            found = artifacts.figures(sampling.from_weights(ema, meta, at), clips)
            for alarm in watching.look(found):
                logs.say(f"step {at}: {alarm.seen}; {alarm.help}")
                run_log.event(at, {"alarm": alarm.cause, "seen": alarm.seen, "help": alarm.help})
        parallel.meet(f"watch {at}")
        return found

    def due(what, done):
        return what in every and (done == total or done % every[what] == 0)

    batches = clips.batches(batch_size, start=first, host=placed.host)
    parallel.meet("first step")
    clock.add(run_log.seconds if run_log else {})
    pending = None  # (step, batch, metrics): looked at a call later, so that devices never wait
    row = logs.skipped_up_to(workdir, first)  # steps skipped one after another
    heard = False  # that some process is to stop

    def look(done, batch, metrics):
        """Returns the metrics of a call's steps as numbers, one dict a step."""
        nonlocal row, heard
        metrics = jax.device_get(metrics)
        each = [metrics] if calls == 1 else [
            {name: values[n] for name, values in metrics.items()} for n in range(calls)
        ]  # fmt: skip
        for n, values in enumerate(each):
            heard = heard or bool(values.get("stop"))
            at = done - calls + 1 + n
            row = row + 1 if values["skipped"] else 0
            watching.step(values)
            if values["skipped"]:
                index = batch["index"] if calls == 1 else batch["index"][n]
                _tell_skipped(at, index, values, row, run_log, workdir)
        return each

    try:
        if (
            first
            and due("sample", first)
            and not artifacts.sample_path(workdir, first, ".png").exists()
        ):
            clock.enter("sample")
            sample(first)
        for at in range(first, total, calls):
            clock.enter("data")
            batch = call_batch([next(batches) for _ in range(calls)])
            kind = experiment.kind(at)
            clock.enter("compile" if at == first or kind not in programs else "step")
            if kind not in programs:
                programs[kind] = placed.compile(experiment.steps[kind], abstract, example)
            state, metrics = programs[kind](state, placed.put(batch))
            done = beat.step = at + calls
            if pending is not None:
                look(*pending)
            # Several processes stop at the same step: where all have heard of it.
            stop = signals.received if parts == 1 else "a signal" if heard else ""
            pending = (done, batch, metrics)
            if at == first:
                jax.block_until_ready(metrics)
                logs.say(f"first step after {clock.total():.1f} s")
                clock.enter("step")
            if stop or done == total or any(done % n == 0 for n in every.values()):
                # What is logged, sampled or saved has been looked at first.
                last, pending = look(*pending)[-1], None
                clock.enter("other")
                terminal.step(done, _losses(last) if done % every["log"] == 0 else "")
                found = {}
                if due("watch", done) or (best.figure and due("save", done)):
                    clock.enter("sample")
                    found = see(done)
                    clock.enter("other")
                if (due("log", done) or found) and run_log is not None:
                    run_log.metrics(
                        done,
                        {
                            "kclips": done * batch_size / 1000,
                            **{n: float(v) for n, v in last.items() if not n.startswith("finite")},
                            "clips_per_second": terminal.rate(),
                            "skipped_files": len(store.skipped),
                            **{f"watch/{name}": value for name, value in found.items()},
                            **clock.seconds(),
                        },
                    )
            else:
                terminal.step(done, "")
            if stop:  # a sample that is due now is made when the run goes on
                clock.enter("save")
                save(done)
                checkpoints.wait()
                raise Preempted(
                    f"{stop}: saved step {done} of {total} in {workdir}", "the same command goes on"
                )
            if due("sample", done):
                clock.enter("sample")
                sample(done)
            if due("save", done):
                clock.enter("save")
                save(done, needed=done == total)
                if best.improved(found):
                    spare(checkpoints.wait)
                    best.keep(done, found, checkpoints)
        checkpoints.wait()
        logs.say(f"{workdir}: done, {total} steps, {total * batch_size / 1000:g} kclips")
    finally:
        batches.close()
        terminal.close()
        if run_log is not None:
            run_log.close()
        checkpoints.close()  # a save under way is finished, whatever ends the run


def _steps(config: configs.Config, kclips: float) -> int:
    return configs.steps(kclips, config.training.batch_size)


def _losses(metrics: dict[str, jax.Array]) -> str:
    found = {name: float(value) for name, value in metrics.items()}
    return "  ".join(
        f"{name.removesuffix('/loss')} {found[name]:.3f}"
        for name in ("gen/loss", "dis/loss")
        if name in found
    )


def _tell_skipped(step, index, values, row, run_log, workdir) -> None:
    """Says and records that a step's update was not taken; raises after ROW of them in a row."""
    bad = {n: str(float(v)) for n, v in values.items() if not np.isfinite(v)}
    bad |= {n.removeprefix("finite/"): "not finite" for n, v in values.items()
            if n.startswith("finite/") and not v}  # fmt: skip
    names = nonfinite.in_order(bad)
    what = ", ".join(f"{name} is {bad[name]}" for name in names)
    clips = f"clips {int(np.min(index))} to {int(np.max(index))} of the stream"
    if run_log is not None:
        run_log.event(step, {"skipped": names})
    if row == ROW:
        raise DivergedError(
            f"step {step} ({clips}), like the {ROW - 1} before it: {what}",
            f"the checkpoints in {workdir / 'checkpoints'} are intact; lower "
            "config.optimizer.learning_rate, or raise penalties if it has any, in a new workdir",
        )
    logs.say(f"step {step} ({clips}): {what}; its update is left out ({row} in a row)")
