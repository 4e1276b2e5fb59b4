import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidgen.training import optimizers

constant = lambda value: lambda step: jnp.asarray(value)  # noqa: E731


def test_cosine_goes_from_start_to_end_and_stays():
    schedule = optimizers.cosine(1.0, 0.2, 100)
    np.testing.assert_allclose([schedule(s) for s in (0, 50, 100, 900)], [1, 0.6, 0.2, 0.2], 1e-5)


def test_warmup_rises_linearly():
    schedule = optimizers.warmup(constant(2.0), 4)
    np.testing.assert_allclose([schedule(s) for s in range(6)], [0.5, 1, 1.5, 2, 2, 2])
    assert optimizers.warmup(constant(2.0), 0)(0) == 2.0


def test_the_half_life_of_the_average_is_counted_in_clips():
    decay = optimizers.ema_decay(half_life=2.0, rampup=0.0, batch_size=10)
    np.testing.assert_allclose(decay(0) ** 200, 0.5, rtol=1e-3)  # 200 steps of 10 are 2,000 clips
    early = optimizers.ema_decay(half_life=2.0, rampup=0.1, batch_size=10)
    np.testing.assert_allclose(early(99), 0.5 ** (10 / 100), rtol=1e-5)  # a tenth of 1,000 clips


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "adadelta", "sgd"])
def test_every_optimizer_descends(name):
    rate = 50.0 if name == "adadelta" else 0.05
    tx = optimizers.optimizer(
        name, learning_rate=constant(rate), b1=0.0, b2=constant(0.9), weight_decay=0.0
    )
    x = jnp.array([3.0, -2.0])
    state = tx.init(x)
    for _ in range(200):
        updates, state = tx.update(2 * x, state, x)
        x = optax.apply_updates(x, updates)
    assert np.abs(x).max() < 1.0


def test_adams_second_moment_follows_its_schedule():
    """Two steps of Adam with b1 = 0 and b2 going from 0.5 to 0.9, by hand."""
    tx = optimizers.optimizer(
        "adam", learning_rate=constant(0.1), b1=0.0,
        b2=lambda s: jnp.where(s == 0, 0.5, 0.9), weight_decay=0.0,
    )  # fmt: skip
    x, state = jnp.array(1.0), tx.init(jnp.array(1.0))
    first, state = tx.update(jnp.array(2.0), state, x)
    second, _ = tx.update(jnp.array(1.0), state, x)
    v1 = 0.5 * 4.0
    v2 = 0.9 * v1 + 0.1 * 1.0
    np.testing.assert_allclose(first, -0.1 * 2 / np.sqrt(v1 / (1 - 0.5)), rtol=1e-5)
    np.testing.assert_allclose(second, -0.1 * 1 / np.sqrt(v2 / (1 - 0.9**2)), rtol=1e-5)
