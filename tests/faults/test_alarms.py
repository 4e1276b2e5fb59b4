"""How often alarms tell sabotaged tiny runs, with the right cause, and healthy ones by mistake.

    XLA_FLAGS= .venv/bin/python -m pytest -m benchmark tests/faults/test_alarms.py -s

A table for docs/metrics.md: 20 healthy runs and 8 of each sabotage, each of another seed.
"""

import json

import jax.numpy as jnp
import pytest
from conftest import tiny_config
from harness import lines
from programs import keep_programs

from vidgen import config as configs
from vidgen import sampling
from vidgen.errors import DivergedError
from vidgen.models import residual
from vidgen.run import train

STEPS, LOOK, BATCH = 200, 25, 8
HEALTHY, SABOTAGED = range(200, 220), range(100, 108)  # seeds


def config(seed):
    made = tiny_config()
    made.seed = seed
    made.data.update(path="toy:clips=4096", frames=8, pick=0, size=16)
    made.generator.update(
        widths=(48, 32), head=16, palette=2, content=16, motion=16, style=64, stride=6, periods=()
    )
    made.discriminator.update(
        front=12, neck=24, frame_blocks=1, fold=8, widths=(48, 64), features=64, frame_features=64
    )
    made.objective.r1 = made.objective.r2 = configs.constant(3.0)
    made.optimizer.learning_rate = configs.cosine(1e-3, 0.0)
    made.training.update(
        kclips=STEPS * BATCH / 1000,
        ema_kclips=0.2,
        watch_kclips=LOOK * BATCH / 1000,
        save_kclips=0.0,
        sample_kclips=0.0,
    )
    return made


def healthy(made, monkeypatch):
    pass


def discriminator_times_100(made, monkeypatch):
    made.optimizer.discriminator_rate = 100.0


def generator_times_50(made, monkeypatch):
    made.optimizer.learning_rate = configs.cosine(0.05, 0.0)
    made.optimizer.discriminator_rate = 1 / 50


def no_penalty(made, monkeypatch):
    made.objective.r1 = made.objective.r2 = configs.constant(0.0)


def one_clip(made, monkeypatch):
    made.data.path = "toy:clips=1"


def motion_ignored(made, monkeypatch):
    make = residual.ResidualGenerator.__call__

    def still(self, content, motion, *rest, **more):
        return make(self, content, jnp.zeros_like(motion), *rest, **more)

    monkeypatch.setattr(residual.ResidualGenerator, "__call__", still)


def constant_output(made, monkeypatch):
    make = residual.ResidualGenerator.__call__
    monkeypatch.setattr(
        residual.ResidualGenerator, "__call__", lambda *all, **more: 0 * make(*all, **more)
    )


# Which causes are right.
SABOTAGES = {
    healthy: set(),
    discriminator_times_100: {"winning", "losing", "gradients", "nan"},
    generator_times_50: {"winning", "gradients", "content", "nan"},
    no_penalty: {"penalty"},
    one_clip: {"content"},
    motion_ignored: {"motion"},
    constant_output: {"content"},
}


def alarms(workdir):
    return {line["alarm"] for line in lines(workdir / "events.jsonl") if "alarm" in line}


def run(sabotage, seed, workdir, monkeypatch):
    made = config(seed)
    sabotage(made, monkeypatch)
    try:
        train.train(made, workdir)
    except DivergedError:  # said plainly, with an exit code of its own
        return alarms(workdir) | {"nan"}
    return alarms(workdir)


@pytest.mark.benchmark
@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda f: f.__name__)
def test_runs_are_told_apart(tmp_path, monkeypatch, capfd, sabotage):
    keep_programs(monkeypatch, kind=sabotage.__name__)
    sampling.programs.decode.cache_clear()  # it knows generators by their fields, not by their code
    found = []
    for seed in HEALTHY if sabotage is healthy else SABOTAGED:
        found.append(run(sabotage, seed, tmp_path / str(seed), monkeypatch))
    right = SABOTAGES[sabotage]
    told = sum(bool(causes & right) for causes in found)
    name, causes = sabotage.__name__.replace("_", " "), json.dumps([sorted(c) for c in found])
    alarmed = sum(map(bool, found))
    with capfd.disabled():
        print(f"\n| {name} | {len(found)} | {alarmed} | {told} | {causes} |")
    if right:
        assert told >= 0.95 * len(found)
    else:
        assert alarmed <= len(found) / 20
