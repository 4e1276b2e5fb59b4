"""Runs of the methods that are fitted at once instead of trained step by step.

Their modules have `fit(batch, *, generator, seed, size, classes) -> (arguments, parameters)`, and
may have `scores(parameters, batch)`, which are logged. What is written is what a training writes,
so a run of one is sampled and measured in the same way.
"""

import pathlib
import time

from vidgen import config as configs
from vidgen import methods, sampling
from vidgen.run import artifacts, logs
from vidgen.run.metrics_log import RunLog
from vidgen.runtime.checkpoint import Checkpoints


def fit(config: configs.Config, workdir: pathlib.Path, command: str) -> None:
    """Fits the method to `training.kclips` thousand clips of the stream and saves it.

    Args:
      config: A config that was validated.
      workdir: Folder of the run; it exists.
      command: How the run was started, for run.json.

    Raises:
      ConfigError: The config does not fit the run in the workdir.
      DataError: The clips cannot be read, or have changed since the run was made.
      StorageError: Something could not be written.
    """
    begin = time.monotonic()
    with logs.bar() as show:
        store, clips = artifacts.open_clips(config, show)
    method = methods.load(config.method)
    count = configs.steps(config.training.kclips, 1)
    checkpoints = Checkpoints(workdir / "checkpoints")
    if checkpoints.steps():
        now = artifacts.meta(config, {}, store, clips)
        artifacts.check_same(checkpoints.meta(checkpoints.steps()[-1]), now, workdir)
        logs.say(f"{workdir}: done, fitted to {count} clips")
        return
    batch = clips.take(0, count)
    classes = len(store.classes) if len(store.classes) > 1 else 0
    arguments, params = method.fit(
        batch,
        generator=config.generator.to_dict(),
        seed=config.seed,
        size=config.data.size,
        classes=classes,
    )
    meta = artifacts.meta(config, arguments, store, clips)
    artifacts.write_json(
        workdir / "run.json", {**artifacts.facts(store, clips), **meta, "command": command}
    )
    found = method.scores(params, batch) if "scores" in vars(method) else {}
    log = RunLog(workdir, 0, config)
    try:
        taken = {"kclips": config.training.kclips, "seconds": time.monotonic() - begin}
        log.metrics(count, taken | found)
        artifacts.write_samples(workdir, config, sampling.from_weights(params, meta, count), log)
        checkpoints.save(count, {"ema": params}, meta)
        checkpoints.wait()
    finally:
        log.close()
        checkpoints.close()
    logs.say(f"{workdir}: done, fitted to {len(batch['video'])} clips")
