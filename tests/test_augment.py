import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen import keys
from vidgen.training import augment

rng = np.random.default_rng(0)
VIDEO = jnp.asarray(rng.uniform(-1, 1, (4, 3, 16, 16, 3)), jnp.float32)
KEYS = keys.per_clip(keys.root(0), np.arange(4))


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
def test_every_frame_of_a_clip_is_changed_alike(name):
    """Shown a clip of one repeated frame, every augmentation gives one repeated frame."""
    still = jnp.repeat(VIDEO[:, :1], 3, 1)
    out = np.asarray(augment.apply(still, KEYS, jnp.ones(()), (name,)))
    np.testing.assert_allclose(out[:, 1:], np.repeat(out[:, :1], 2, 1), atol=1e-6)
    assert out.shape == still.shape and not np.allclose(out, still)


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
def test_it_is_differentiable_and_by_clip(name):
    run = lambda v: augment.apply(v, KEYS, jnp.ones(()), (name,))  # noqa: E731
    slopes = jax.grad(lambda v: jnp.sum(run(v) ** 2))(VIDEO)
    assert np.isfinite(slopes).all() and np.abs(slopes).max() > 0
    changed = run(VIDEO.at[0].set(0.3))
    np.testing.assert_array_equal(changed[1:], run(VIDEO)[1:])


def test_probability_zero_changes_nothing_and_half_changes_half():
    everything = tuple(augment.AUGMENTATIONS)
    np.testing.assert_array_equal(augment.apply(VIDEO, KEYS, jnp.zeros(()), everything), VIDEO)
    many = jnp.repeat(VIDEO[:1], 400, 0)
    out = augment.apply(
        many, keys.per_clip(keys.root(1), np.arange(400)), jnp.array(0.5), ("flip",)
    )
    share = np.mean([not np.array_equal(a, b) for a, b in zip(out, many, strict=True)])
    assert 0.4 < share < 0.6


def test_flip_mirrors_and_shift_moves_with_its_edge():
    np.testing.assert_array_equal(augment.flip(VIDEO[0], KEYS[0]), np.asarray(VIDEO[0])[:, :, ::-1])
    column = jnp.broadcast_to(jnp.arange(16.0)[None, None, :, None], (2, 16, 16, 1))
    moves = {
        float(augment.shift(column, k)[0, 8, 8, 0] - 8)
        for k in keys.per_clip(keys.root(2), np.arange(40))
    }
    assert moves == {-2.0, -1.0, 0.0, 1.0, 2.0}


def test_cutout_blanks_about_a_quarter():
    ones = jnp.ones((200, 2, 16, 16, 1))
    out = augment.apply(
        ones, keys.per_clip(keys.root(3), np.arange(200)), jnp.ones(()), ("cutout",)
    )
    blank = 1 - np.asarray(out).mean((1, 2, 3, 4))
    assert blank.max() == 0.25 and 0.1 < blank.mean() < 0.25
