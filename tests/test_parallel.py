import functools

import jax
import numpy as np
import pytest
from conftest import tiny_config

from vidgen import parallel, train
from vidgen.errors import ConfigError

STEPS = 6
METRICS = [
    *(f"dis/{name}" for name in ("loss", "r1", "r2", "real", "fake", "accuracy", "grad", "norm")),
    *(f"gen/{name}" for name in ("loss", "grad", "norm", "ema")),
]


@functools.cache
def trained(mode, devices=8, interval=1):
    config = tiny_config()
    config.objective.penalty_interval = interval
    # Not Adam: it divides a gradient by its size, so what differs in the last bit near zero becomes
    # a whole step to the other side.
    config.optimizer.name = "sgd"
    config.objective.augmentations = ("shift", "brightness")
    config.objective.augment_p.update(start=0.5, end=0.5)
    _, clips = train.open_clips(config)
    experiment = train.build(config, classes=2)
    placed = [
        parallel.place(f, mode, batch_size=8, devices=jax.devices()[:devices])
        for f in (experiment.step, experiment.lazy_step)
    ]
    (_, put_state, put_batch) = placed[0]
    state = put_state(experiment.init(0))
    losses = []
    for at in range(STEPS):
        step = placed[at % interval != 0][0]
        state, metrics = step(state, put_batch(clips.take(8 * at, 8)))
        losses.append([float(metrics[name]) for name in sorted(METRICS)])
    return jax.device_get(state), np.array(losses)


def same(one, two):
    return all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    )


@pytest.mark.parametrize("mode, devices", [("mesh", 8), ("pmap", 8), ("mesh", 2), ("pmap", 4)])
def test_modes_agree_with_one_device(mode, devices):
    _, expected = trained("jit")
    _, losses = trained(mode, devices)
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["jit", "mesh", "pmap"])
def test_the_same_path_twice_gives_the_same_bits(mode):
    first = trained(mode)[0]
    trained.cache_clear()
    assert same(first, trained(mode)[0])


def test_the_state_is_never_stacked():
    shapes = [jax.tree.map(np.shape, trained(mode)[0]) for mode in ("jit", "mesh", "pmap")]
    assert shapes[0] == shapes[1] == shapes[2]


def test_lazy_penalties_are_computed_at_their_interval():
    losses = trained("jit", 8, 3)[1]
    names = sorted(METRICS)
    r1 = losses[:, names.index("dis/r1")]
    assert [bool(v) for v in r1] == [True, False, False, True, False, False]


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match="batch_size is 12") as error:
        parallel.place(lambda s, b, axis: (s, {}), "mesh", batch_size=12)
    assert "16" in error.value.hint or "8" in error.value.hint


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match="'tpu'"):
        parallel.place(lambda s, b, axis: (s, {}), "tpu", batch_size=8)
