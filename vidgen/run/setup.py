"""What a start of a run has before its first step: clips, experiment, devices, programs, state."""

import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from vidgen import config as configs
from vidgen import methods
from vidgen.data.pack import Pack
from vidgen.data.stream import Batch, Clips
from vidgen.data.toy import ToySource
from vidgen.errors import ConfigError, StorageError
from vidgen.methods.common import Experiment
from vidgen.models import conditions
from vidgen.run import artifacts, compiling, logs, warm_start
from vidgen.runtime import devices
from vidgen.runtime.checkpoint import Checkpoints

Program = Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]


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
        batches = [conditioned(self.experiment, batch) for batch in batches]
        batch = batches[0]
        if len(batches) > 1:
            batch = {name: np.stack([b[name] for b in batches]) for name in batch}
        if self.placed.host[1] > 1:
            batch["stop"] = np.full(batch["index"].shape, stop, np.int32)
        return batch


def conditioned(experiment: Experiment, batch: Batch) -> Batch:
    """Adds to a batch what conditions are read of as arrays, such as the words of captions.

    Raises:
      ConfigError: The clips have nothing that a condition could be read of.
    """
    return {**batch, **conditions.columns(experiment.generator.get("conditions", ()), batch)}


def placement(config: configs.Config, together: int = 1) -> devices.Placement:
    """Chooses where the run of a config lies, on the devices at hand.

    Args:
      config: The run's.
      together: `Experiment.together`.

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
    part = config.training.batch_size // parts
    if part % together:
        raise ConfigError(
            f"the batch is computed in {parts} parts of {part} clips, and networks see {together} "
            "clips together",
            f"set {_sees(config)} to at most {part}",
        )
    return found


def check_room(config: configs.Config, experiment: Experiment) -> None:
    """Checks that the state of a training can be held at all, before its clips are packed.

    What a step takes beside it is only known when it is compiled.

    Raises:
      ConfigError: The devices do not fit the config, or have less memory than the state takes.
    """
    placed = placement(config, experiment.together)
    needed = placed.bytes(jax.eval_shape(experiment.init, config.seed))
    have = devices.room(placed.mesh.local_devices[0])
    if have is not None and needed > have:
        raise ConfigError(
            f"the state of this training takes {needed / 2**30:.1f} GiB on each device, of "
            f"{have / 2**30:.1f} GiB",
            "make config.generator and config.discriminator smaller, or, on several devices, set "
            "config.parallel.mode=mesh and config.parallel.fsdp",
        )


def _sees(config: configs.Config) -> str:
    """Returns the fields that say how many clips a network sees together."""
    roles = ("generator", "discriminator")
    names = [f"config.{r}.{n}" for r in roles for n in ("norm_clips", "group") if n in config[r]]
    return " and ".join(names)


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
    experiment = methods.experiment(config, 2)
    check_room(config, experiment)
    store, clips = artifacts.open_clips(config, show)
    if clips.labels != 2:
        experiment = methods.experiment(config, clips.labels)
    placed = placement(config, experiment.together)
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
        meta=artifacts.meta(config, experiment.generator, store, clips),
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

    Raises:
      StorageError: A part of the generator is not there, and the method needs it.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as beside:  # two programs to compile
        making = beside.submit(run.placed.init, run.experiment.init, run.config.seed)
        programs.get(run.experiment.kind(0), bar=True)
        state = making.result()
    if record is None:
        return LoopState(0, 0, state)
    state, record, left = warm_start.apply(state, record, run.config.method)
    missing = [line for line in left if line.startswith("gen/")]
    if missing and (method := warm_start.begins_from(run.config)) is not None:
        raise StorageError(
            f"the run of {method} in {record['run']} has other networks: {missing[0]}",
            "give config.generator and config.data.size the values that it was trained with",
        )
    run.meta["init_from"] = record
    if run.first_process:
        logs.say(f"begun from step {record['step']} of {record['run']}")
        for line in left:
            logs.say(f"  not taken: {line}")
    return LoopState(0, 0, state)
