r"""What options of a step cost; a benchmark.

    XLA_FLAGS= GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
        python -m pytest -m benchmark -s tests/test_step_speed.py

(The suite otherwise compiles without optimization, for eight devices.) Steps of all variants take
turns, and each is compared with the plain one beside it: a machine whose speed changes from minute
to minute changes both.
"""

import pathlib
import time

import jax
import numpy as np
import pytest

from vidgen import methods
from vidgen.cli import config_flags
from vidgen.run import artifacts, setup

BOTH = ("generator", "discriminator")
VARIANTS = {
    "plain": {},
    "microbatches=2": {"microbatches": 2},
    "remat of both": {"remat": BOTH},
    "compute=bfloat16": {"compute": "bfloat16"},
    "dispatch=2": {"dispatch": 2},
    "deterministic, shards=2": {"deterministic": True, "shards": 2},
    "deterministic, shards=8": {"deterministic": True, "shards": 8},
    "without penalties": {},
}
ROUNDS = 30


def variant(name, values):
    """Returns a function that makes one call of a step, its steps, and its temporary bytes."""
    config = config_flags.read([f"--config={pathlib.Path('configs/toy.py').absolute()}"])
    # What all variants can do: parts of one clip, steps of one kind.
    config.discriminator.group = config.objective.penalty_interval = 1
    config.parallel.update(values)
    experiment, placed = methods.experiment(config, 2), setup.placement(config)
    batch = artifacts.open_clips(config)[1].take(0, config.training.batch_size)
    if placed.dispatch > 1:
        batch = {key: np.stack([x] * placed.dispatch) for key, x in batch.items()}
    batch, state = placed.put(batch), placed.init(experiment.init, 0)
    step = experiment.steps["bare" if name == "without penalties" else "whole"]
    program = placed.compile(step, state, batch)

    def call():
        nonlocal state
        state, _ = program(state, batch)
        jax.block_until_ready(state)

    return call, placed.dispatch, program.memory_analysis().temp_size_in_bytes


@pytest.mark.benchmark
def test_what_options_of_a_step_cost():
    made = {name: variant(name, values) for name, values in VARIANTS.items()}
    seconds = {name: [] for name in made}
    for _ in range(ROUNDS):
        for name, (call, steps, _) in made.items():
            start = time.perf_counter()
            call()
            seconds[name].append((time.perf_counter() - start) / steps)
    plain = np.array(seconds["plain"][2:])
    print()
    for name, (_, _, temporary) in made.items():
        each = np.array(seconds[name][2:])
        print(
            f"{name:24s}{1000 * np.median(each):8.1f} ms {np.median(each / plain):6.2f}x "
            f"{temporary / 1e6:6.0f} MB"
        )
