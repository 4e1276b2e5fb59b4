"""Runs of the methods that are fitted at once instead of trained step by step.

Their modules have `fit(batch, *, generator, seed, size, classes) -> (arguments, parameters)`, and
may have `figures(parameters, batch)`, which are logged. What is written is what a training writes,
so a run of one is sampled and measured in the same way.
"""

import pathlib
import time
from typing import Any

from vidgen import config as configs
from vidgen import methods, sampling
from vidgen.run import artifacts, logs
from vidgen.run.metrics_log import RunLog
from vidgen.runtime.checkpoint import Checkpoints


def is_fitted(config: configs.Config) -> bool:
    """Tells whether a config's method is fitted, not trained."""
    return hasattr(methods.module(config.method), "fit")


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
    method: Any = methods.module(config.method)
    step = configs.steps(config.training.kclips, config.training.batch_size)
    checkpoints = Checkpoints(workdir / "checkpoints", config.training.keep)
    if checkpoints.steps():
        now = artifacts.meta(config, {}, store)
        artifacts.check_same(checkpoints.meta(checkpoints.steps()[-1]), now, workdir)
        logs.say(f"{workdir}: done, fitted to {step * config.training.batch_size} clips")
        return
    batch = clips.take(0, step * config.training.batch_size)
    classes = len(store.classes) if len(store.classes) > 1 else 0
    arguments, params = method.fit(
        batch,
        generator=config.generator.to_dict(),
        seed=config.seed,
        size=config.data.size,
        classes=classes,
    )
    meta = artifacts.meta(config, arguments, store)
    artifacts.write_json(
        workdir / "run.json", {**artifacts.facts(store, clips), **meta, "command": command}
    )
    found = method.figures(params, batch) if hasattr(method, "figures") else {}
    log = RunLog(workdir, 0, config)
    try:
        taken = {"kclips": config.training.kclips, "seconds": time.monotonic() - begin}
        log.metrics(step, taken | found)
        artifacts.write_samples(workdir, config, sampling.build(params, meta, step), log)
        checkpoints.save(step, {"ema": params}, meta)
        checkpoints.wait()
    finally:
        log.close()
        checkpoints.close()
    logs.say(f"{workdir}: done, fitted to {len(batch['video'])} clips")
