"""What the fault battery shares: the smallest run there is, and what two runs have in common.

Each fault is a check that raises AssertionError where the product fails, run as it is, and run
again under a sabotage that must make it fail: a check that nothing turns red checks nothing.
"""

import json
import os
import pathlib
import select
import subprocess
import sys

import jax
import pytest
from conftest import QUICK, tiny_config
from programs import keep_programs

from vidgen import config as configs
from vidgen import methods
from vidgen.cli import config_flags
from vidgen.run import train
from vidgen.runtime.checkpoint import Checkpoints
from vidgen.runtime.digests import arrays_sha256

ROOT = pathlib.Path(__file__).parents[2]
BATCH = 2
PARTS = ("gen", "dis", "ema", "gen_opt", "dis_opt")


def small_config(steps=8, save=2, sample=0):
    """Returns a config of which a start costs three seconds, nearly all of it tracing."""
    config = tiny_config()
    config.data.update(path="toy:clips=64", size=8, frames=2, pick=0)
    config.generator.update(
        widths=(4,), head=4, palette=0, content=2, motion=2, style=4, stride=2, periods=()
    )
    config.discriminator.update(
        front=12, neck=4, frame_blocks=0, fold=2, widths=(4,), features=4, frame_features=0
    )
    config.sampling.update(frames=2, clips=1)
    config.training.batch_size = BATCH
    config.training.update(
        kclips=steps * BATCH / 1000,
        log_kclips=BATCH / 1000,
        save_kclips=save * BATCH / 1000,
        sample_kclips=sample * BATCH / 1000,
        ema_rampup=0.5,
    )
    return config


def trained(config, tmp_path_factory):
    """Trains a config that nothing strikes, and returns its workdir."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        keep_programs(monkeypatch)
        workdir = tmp_path_factory.mktemp("whole") / "run"
        train.train(config, workdir)
    return workdir


def lines(path):
    """Returns the lines of a log; every one must be whole."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def items(workdir, step=None):
    """Restores `(step, {"train": ..., "ema": ...})` of a run's checkpoint as the product does."""

    def wanted(meta):
        experiment = methods.experiment(configs.from_json(meta["config"]), len(meta["classes"]))
        state = jax.eval_shape(experiment.init, 0)
        return {"train": state.replace(ema=None), "ema": state.ema}

    at, found, _ = Checkpoints(workdir / "checkpoints").restore(wanted, step)
    return at, found


def parts(state, ema=None):
    """Returns the digest of each part of a state."""
    each = {name: getattr(state, name) for name in PARTS}
    each["ema"] = state.ema if ema is None else ema
    return {name: arrays_sha256(part) for name, part in each.items()}


def saved_parts(workdir, step=None):
    """Returns the step of a checkpoint and the digest of each part of the state in it."""
    at, found = items(workdir, step)
    return at, parts(found["train"], found["ema"])


def check_same_run(workdir, whole, steps):
    """Checks that a run that faults have struck ended as the one that nothing struck.

    Parameters, optimizers, average and samples to the bit; every step in metrics.jsonl once; and
    nothing left over that a person would have to clean up.
    """
    assert saved_parts(workdir) == saved_parts(whole)
    assert saved_parts(workdir)[0] == steps
    assert [line["step"] for line in lines(workdir / "metrics.jsonl")] == list(range(1, steps + 1))
    for name in ("gen/loss", "dis/loss", "gen/norm", "gen/ema", "dis/norm"):
        assert [line[name] for line in lines(workdir / "metrics.jsonl")] == [
            line[name] for line in lines(whole / "metrics.jsonl")
        ], name
    names = sorted(path.name for path in (whole / "samples").iterdir())
    assert sorted(path.name for path in (workdir / "samples").iterdir()) == names
    for name in names:
        assert (workdir / "samples" / name).read_bytes() == (whole / "samples" / name).read_bytes()


def flags(config):
    """Returns the command line that asks for a config."""
    file = "configs/gan_clips32.py"
    base = config_flags.read([f"--config={ROOT / file}"], data="clips")
    changed = configs.differences(base, config)
    return [f"--config={file}", *(f"--config.{name}={new}" for name, _, new in changed)]


def start(arguments, **environment):
    """Starts a process of vidgen; one device, a warm cache of programs."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "vidgen", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": QUICK, "JAX_DEBUG_KEY_REUSE": "0", **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


class Driver:
    """Trainings in processes of their own, one at a time, without the seconds of the imports.

    Attributes:
      pid: The process of the training that runs.
    """

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(pathlib.Path(__file__).with_name("driver.py"))],
            cwd=ROOT,
            env={
                **os.environ,
                "XLA_FLAGS": QUICK,
                "JAX_DEBUG_KEY_REUSE": "0",
                "OPENBLAS_NUM_THREADS": "1",
                "PYTHONPATH": str(ROOT),
            },
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()

    def start(self, config, workdir, sabotage=""):
        """Starts a training; its words are appended to WORKDIR.txt."""
        asked = {
            "config": configs.to_json(config),
            "workdir": str(workdir),
            "output": f"{workdir}.txt",
            "sabotage": sabotage,
        }
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        self.pid = int(self._process.stdout.readline())

    def running(self):
        """Tells whether the training still runs."""
        return not select.select([self._process.stdout], [], [], 0)[0]

    def wait(self):
        """Waits until the training has ended and returns its exit code."""
        return int(self._process.stdout.readline())
