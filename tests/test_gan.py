"""The video GAN's step, beyond what every method must do."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import TINY_DISCRIMINATOR, TINY_GENERATOR, TINY_HEADS, network

from vidgen import keys
from vidgen.methods import common, gan
from vidgen.training import losses

SIZE, FRAMES, BATCH, CLASSES = 8, 8, 4, 3
ONE = {"widths": (8,)}  # one level: most of the time goes into compiling


@pytest.fixture(scope="module")
def players():
    sizes = {"size": SIZE, "classes": CLASSES}
    return common.Players(
        gen=network("generator", "residual", **{**TINY_GENERATOR, **ONE}, **sizes),
        dis=network("discriminator", "residual", **{**TINY_DISCRIMINATOR, **ONE}, **sizes),
        gen_tx=optax.sgd(0.0),
        dis_tx=optax.sgd(0.1),
    )


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "video": rng.integers(0, 256, (BATCH, FRAMES, SIZE, SIZE, 3), np.uint8),
        "index": np.arange(BATCH, dtype=np.int32),
        "label": np.arange(BATCH, dtype=np.int32) % CLASSES,
    }


def test_wrong_labels_are_each_of_the_others_equally_often():
    label = jnp.arange(3000, dtype=jnp.int32) % CLASSES
    wrong = gan.wrong_labels(keys.per_clip(keys.root(0), np.arange(3000)), label, CLASSES)
    counts = np.zeros((CLASSES, CLASSES), int)
    np.add.at(counts, (label, np.asarray(wrong)), 1)
    assert not counts.diagonal().any()
    assert counts[~np.eye(CLASSES, dtype=bool)].min() > 420  # 500 expected, deviation 16


def test_picked_frames_are_in_order_and_each_equally_often():
    picked = np.asarray(common.pick_frames(keys.per_clip(keys.root(0), np.arange(3000)), 5, 2))
    assert (picked[:, 0] < picked[:, 1]).all() and picked.min() == 0 and picked.max() == 4
    pairs = np.zeros((5, 5), int)
    np.add.at(pairs, tuple(picked.T), 1)
    assert pairs[np.triu_indices(5, 1)].min() > 230  # 300 expected, deviation 16


def test_both_players_see_the_picked_frames_alone(players, batch):
    still = lambda step: 0.0  # noqa: E731
    objective = gan.Objective("hinge", still, still, still, still, pick=4)
    init = functools.partial(gan.init, players=players, frames=FRAMES, pick=4)
    state = jax.jit(init, static_argnums=0)(0)
    step = jax.jit(functools.partial(gan.step, players=players, objective=objective))
    after, metrics = step(state, batch)

    key = keys.at_step(jax.random.wrap_key_data(state.key, impl="threefry2x32"), state.step)
    clip_keys = keys.per_clip(keys.named(key, "pick"), batch["index"])
    pick = jax.jit(common.pick_frames, static_argnums=(1, 2))(clip_keys, FRAMES, 4)
    real = batch["video"].astype(np.float32) / 127.5 - 1
    label = jnp.asarray(batch["label"])

    @jax.jit
    def generate(params):
        noise = common.draw(
            keys.named(key, "noise"), batch["index"], gen=players.gen, frames=FRAMES
        )
        return players.gen.apply({"params": params}, *noise, label, frames=FRAMES)

    fake = generate(state.gen)

    @jax.jit
    def mean_logit(params, video):
        seen = jnp.take_along_axis(jnp.asarray(video), pick[:, :, None, None, None], 1)
        return players.dis.apply({"params": params}, seen, label, pick).mean()

    np.testing.assert_allclose(metrics["dis/real"], mean_logit(state.dis, real), rtol=1e-4)
    np.testing.assert_allclose(metrics["dis/fake"], mean_logit(state.dis, fake), rtol=1e-4)
    np.testing.assert_allclose(metrics["gen/loss"], -mean_logit(after.dis, fake), rtol=1e-4)


def test_real_clips_with_a_wrong_label_count_as_fakes(players, batch):
    still = lambda step: 0.0  # noqa: E731

    def stepped(mismatch):
        objective = gan.Objective("rpgan", still, still, still, still, mismatch=mismatch)
        step = functools.partial(gan.step, players=players, objective=objective)
        return jax.jit(step)(state, batch)

    init = functools.partial(gan.init, players=players, frames=FRAMES)
    state = jax.jit(init, static_argnums=0)(0)
    plain, _ = stepped(None)
    taught, metrics = stepped(lambda step: 2.0)

    key = keys.at_step(jax.random.wrap_key_data(state.key, impl="threefry2x32"), state.step)
    clip_keys = keys.per_clip(keys.named(key, "mismatch"), batch["index"])
    wrong = gan.wrong_labels(clip_keys, jnp.asarray(batch["label"]), CLASSES)
    real = jnp.asarray(batch["video"], jnp.float32) / 127.5 - 1

    @jax.jit
    def loss(params):
        on = lambda label: players.dis.apply({"params": params}, real, label)  # noqa: E731
        return losses.LOSSES["rpgan"][0](on(jnp.asarray(batch["label"])), on(wrong))

    np.testing.assert_allclose(metrics["dis/mismatch"], loss(state.dis), rtol=1e-5)
    # The parameters moved by the weighted gradient of that loss more than without it.
    expected = jax.tree.map(lambda p, g: p - 0.1 * 2.0 * g, plain.dis, jax.grad(loss)(state.dis))
    for a, b in zip(jax.tree.leaves(taught.dis), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_real_clips_with_wrong_gaps_count_as_fakes_of_heads_that_are_told_gaps(players, batch):
    still, pick = (lambda step: 0.0), 3
    heads = network("discriminator", "heads", **TINY_HEADS, size=2 * SIZE, classes=CLASSES)
    small = {**TINY_GENERATOR, **ONE, "size": 2 * SIZE, "classes": CLASSES}
    gen = network("generator", "residual", **small)
    players = dataclasses.replace(players, gen=gen, dis=heads)
    batch = batch | {"video": batch["video"].repeat(2, 2).repeat(2, 3)}

    def stepped(weight):
        how = {"gap_mismatch": weight, "pick": pick}
        objective = gan.Objective("rpgan", still, still, still, still, **how)
        step = functools.partial(gan.step, players=players, objective=objective)
        return jax.jit(step)(state, batch)

    init = functools.partial(gan.init, players=players, frames=FRAMES, pick=pick)
    state = jax.jit(init, static_argnums=0)(0)
    plain, _ = stepped(None)
    taught, metrics = stepped(lambda step: 2.0)

    key = keys.at_step(jax.random.wrap_key_data(state.key, impl="threefry2x32"), state.step)
    at, wrong = (
        common.pick_frames(keys.per_clip(keys.named(key, name), batch["index"]), FRAMES, pick)
        for name in ("pick", "wrong gaps")
    )
    assert (np.diff(at) != np.diff(wrong)).any()
    real = jnp.asarray(batch["video"], jnp.float32) / 127.5 - 1
    seen = heads.see(None, jnp.take_along_axis(real, at[:, :, None, None, None], 1))

    @jax.jit
    def loss(params):
        """Of the same frames, by the heads on several frames alone."""
        on = lambda at: heads.apply({"params": params}, seen, jnp.asarray(batch["label"]), at)  # noqa: E731
        right, other = on(at), on(wrong)
        told = [name for name in right if name.startswith("time")]
        assert len(told) == 2
        return sum(losses.LOSSES["rpgan"][0](right[name], other[name]) for name in told)

    np.testing.assert_allclose(metrics["dis/gap_mismatch"], loss(state.dis), rtol=1e-5)
    expected = jax.tree.map(lambda p, g: p - 0.1 * 2.0 * g, plain.dis, jax.grad(loss)(state.dis))
    for a, b in zip(jax.tree.leaves(taught.dis), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
