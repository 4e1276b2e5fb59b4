"""MoCoGAN's networks and step against what was published."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import network

from vidgen import keys, sampling
from vidgen.errors import ConfigError
from vidgen.methods import common, mocogan
from vidgen.models import protocol

CLASSES = 3
FRAMES = 8


@functools.cache
def players(size=16, **more):
    shared = {"kind": "mocogan", "size": size, "classes": CLASSES}
    gen = network("generator", **shared, features=4, content=5, motion=6, **more)
    dis = network("discriminator", **shared, features=4, noise=0.1, **more)
    return gen, dis


def count(tree):
    """Counts the numbers that are learnt: running statistics are not."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return sum(x.size for path, x in flat if path[-1].key not in ("mean", "var"))


def test_the_networks_have_the_published_number_of_parameters():
    """Layer by layer, as the published code has them for 64x64 frames of the actions."""
    z = 50 + 10 + CLASSES
    generator = 16 * (z * 512 + 512 * 256 + 256 * 128 + 128 * 64 + 64 * 3)
    generator += 2 * (512 + 256 + 128 + 64)  # scales and biases of batch normalisation
    generator += 2 * 3 * 10 * (10 + 1)  # a GRU's gates, each with a bias on both sides
    image = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 1) + 2 * (128 + 256)
    video = 64 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512 * (1 + CLASSES))
    video += 2 * (128 + 256 + 512)
    gen = network("generator", "mocogan", size=64, classes=CLASSES)
    dis = network("discriminator", "mocogan", size=64, classes=CLASSES)
    tx = optax.sgd(0.0)
    init = functools.partial(mocogan.init, players=common.Players(gen, dis, tx, tx), frames=16)
    state = jax.eval_shape(init, 0)
    assert (generator, image, video) == (3274260, 663296, 11155200)
    assert count(state.gen) == generator
    assert count(state.dis["image"]) == image and count(state.dis["video"]) == video


@functools.cache
def weights():
    gen, _ = players()
    rng = np.random.default_rng(0)
    make = lambda x: (0.3 * rng.normal(size=x.shape)).astype(np.float32)  # noqa: E731
    params = jax.tree.map(make, protocol.abstract_params(gen))
    for name, part in params.items():
        if name.startswith("norms"):
            part["var"] = np.abs(part["var"]) + 0.5
    return params


def test_the_recurrence_is_a_gru():
    """Cho et al., 2014, with the reset gate inside as PyTorch has it; in NumPy."""
    gen, _ = players()
    params = jax.tree.map(np.float64, weights())
    rng = np.random.default_rng(1)
    noise, h = rng.normal(size=(2, 5, 6)), rng.normal(size=(2, 6))
    content = jnp.zeros((2, gen.content))
    given = (jnp.float32(h), content, jnp.float32(noise), None)
    advance = jax.jit(functools.partial(gen.apply, method="advance"))
    last, states = advance({"params": weights()}, *given)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    for t in range(5):
        a = noise[:, t] @ params["seen"]["kernel"] + params["seen"]["bias"]
        b = h @ params["kept"]["kernel"] + params["kept"]["bias"]
        r, z = sigmoid(a[:, :6] + b[:, :6]), sigmoid(a[:, 6:12] + b[:, 6:12])
        h = (1 - z) * np.tanh(a[:, 12:] + r * b[:, 12:]) + z * h
        np.testing.assert_allclose(states[:, t], h, atol=1e-5)
    np.testing.assert_array_equal(last, states[:, -1])


def sampler(batch=1, chunk=4):
    meta = {"classes": ("a", "b", "c"), "fps": 10.0}
    return sampling.from_generator(players()[0], weights(), meta, 0, batch=batch, chunk=chunk)


@pytest.mark.parametrize("start", [0, 5, 43])
def test_windows_streams_and_company_agree_bit_for_bit(start):
    one = sampler()
    expected = one.sample([7], 60)[0][start:]
    np.testing.assert_array_equal(one.sample([7], 12, start)[0], expected[:12])
    streamed = np.stack(list(itertools.islice(one.stream(7, start), 12)))
    np.testing.assert_array_equal(streamed, expected[:12])
    many = sampler(batch=4)
    crowd = many.sample(range(9), 12, start)
    np.testing.assert_array_equal(crowd[7], many.sample([7], 12, start)[0])
    latents = many.latents(range(9), 12, start)
    np.testing.assert_array_equal(crowd, many.decode(latents, 12, start))


def test_later_noise_changes_no_earlier_frame():
    one = sampler()
    latents = one.latents([3], 16)
    plain = one.decode(latents, 16)
    motion = latents["motion"].copy()
    motion[:, 9] += 1  # of frame 8: one step before the first
    changed = one.decode({**latents, "motion": motion}, 16)
    np.testing.assert_array_equal(changed[:, :8], plain[:, :8])
    assert all(not np.array_equal(changed[:, t], plain[:, t]) for t in (8, 12, 15))


def test_the_category_matters():
    one = sampler()
    assert not np.array_equal(one.sample([3], 8, labels=0), one.sample([3], 8, labels=1))


def arguments(**more):
    gen, dis = players(**more)
    fixed = {"loss": "non_saturating", "clip_every": 2, "categories": 0.5, "infogan": 2.0}
    return {"players": common.Players(gen, dis, optax.sgd(0.1), optax.sgd(0.1)), **fixed}


@functools.cache
def stepped(**more):
    rng = np.random.default_rng(0)
    batch = {
        "video": rng.integers(0, 256, (4, FRAMES, 16, 16, 3), np.uint8),
        "index": np.arange(4, dtype=np.int32),
        "label": np.arange(4, dtype=np.int32) % CLASSES,
    }
    given = {**arguments(), **more}
    init = functools.partial(mocogan.init, players=given["players"], frames=FRAMES)
    state = jax.jit(init, static_argnums=0)(0)
    step = functools.partial(mocogan.step, **given, ema_decay=lambda step: 0.25)
    return batch, state, *jax.jit(step)(state, batch)


def test_the_losses_are_the_published_ones():
    """Binary cross-entropies of both discriminators and of categories, from the logits alone."""
    batch, state, after, metrics = stepped()
    gen, dis = players()
    key = keys.at_step(keys.root(0), 0)
    own = lambda index, name: keys.per_clip(keys.named(key, name), index)  # noqa: E731
    clips = batch["index"][::2]

    def entropy(logit, real):
        p = 1 / (1 + np.exp(-np.float64(logit)))
        return -np.mean(np.log(p if real else 1 - p))

    def told(kinds, label):
        p = np.exp(np.float64(kinds))
        return -np.mean(np.log(p[np.arange(len(label)), label] / p.sum(1)))

    @jax.jit
    def logits(params, videos, clip_keys):
        return dis.apply({"params": params["video"]}, videos, clip_keys)

    real = batch["video"][::2].astype(np.float32) / 127.5 - 1
    on_real, kind_real = logits(state.dis, real, own(clips, "real v"))
    kind = jax.vmap(lambda k: jax.random.randint(k, (), 0, CLASSES))(own(clips, "category"))

    @jax.jit
    def generate(params):
        noise = common.draw(keys.named(key, "clips"), clips, gen=gen, frames=FRAMES)
        return gen.apply({"params": params}, *noise, kind, frames=FRAMES, mutable="stats")

    fake, _ = generate(state.gen)
    on_fake, _ = logits(state.dis, fake, own(clips, "fake v"))
    np.testing.assert_allclose(
        metrics["dis/video_loss"], entropy(on_real, True) + entropy(on_fake, False), rtol=1e-4
    )
    np.testing.assert_allclose(
        metrics["dis/categories"], told(kind_real, batch["label"][::2]), rtol=1e-4
    )
    # The generator is judged by the discriminators as they are after their update.
    _, kinds = logits(after.dis, fake, own(clips, "gen v"))
    np.testing.assert_allclose(metrics["gen/infogan"], told(kinds, np.asarray(kind)), rtol=1e-4)


def test_each_weight_and_player_takes_part():
    """A part of the loss that is left out changes who it teaches, and nobody else."""
    _, state, after, _ = stepped()
    for part in ("gen", "dis", "ema"):
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), getattr(state, part),
                             getattr(after, part))  # fmt: skip
        assert all(jax.tree.leaves(moved)), moved
    differs = lambda a, b: any(  # noqa: E731
        bool((x != y).any()) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )
    *_, untold, _ = stepped(categories=0.0)
    assert differs(untold.dis["video"], after.dis["video"])
    assert not differs(untold.dis["image"], after.dis["image"])
    *_, alone, _ = stepped(infogan=0.0)
    assert differs(alone.gen, after.gen) and not differs(alone.dis, after.dis)
    halfway = jax.tree.map(lambda a, b: 0.25 * a + 0.75 * b, state.ema, after.gen)
    for a, b in zip(*map(jax.tree.leaves, (halfway, after.ema)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_what_does_not_divide_is_named():
    with pytest.raises(ConfigError, match="clip_every is 3, and 4 clips"):
        stepped(clip_every=3)


@pytest.mark.parametrize(
    "role, given, says",
    [
        ("generator", {"size": 24}, "8, 16, 32"),
        ("generator", {"size": 16, "motion": 0}, "at least 1"),
        ("discriminator", {"size": 16, "image": "patches"}, "patch or whole"),
        ("discriminator", {"size": 8}, "at least 16"),
        ("discriminator", {"size": 16, "noise": -1.0}, "at least 0"),
        ("discriminator", {"size": 16, "noise": "0.1"}, "a number"),
    ],
)
def test_wrong_arguments_are_named(role, given, says):
    with pytest.raises(ConfigError) as error:
        network(role, "mocogan", **given)
    assert says in error.value.hint


def test_each_clip_and_layer_has_its_own_noise():
    _, dis = players()
    shapes = [(6, 16, 16, 3), (4, 8, 8, 9)]
    own = lambda seed=0: keys.per_clip(keys.root(seed), np.arange(3))  # noqa: E731
    found = [np.asarray(x) for x in dis.apply({}, own(), shapes, method="_noise")]
    assert [x.shape for x in found] == [(3, *shape) for shape in shapes]
    for part in found:
        np.testing.assert_allclose(part.std(), 0.1, rtol=0.05)
        assert abs(np.corrcoef(part[0].ravel(), part[1].ravel())[0, 1]) < 0.1
    first, second = (x[0].ravel()[:2000] for x in found)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
    alone = dis.apply({}, own()[1:2], shapes, method="_noise")
    np.testing.assert_array_equal(alone[0][0], found[0][1])
    video = np.zeros((3, FRAMES, 16, 16, 3), np.float32)
    params = jax.jit(dis.init)(jax.random.key(0), video, own())
    one, other = (jax.jit(dis.apply)(params, video, own(seed))[0] for seed in (1, 2))
    assert not np.allclose(one, other)


def test_cheap_noise_is_white_and_normal():
    own = keys.per_clip(keys.root(0), np.arange(4))
    found = np.asarray(keys.white(own, (1 << 17, 2)), np.float64)
    flat = found.reshape(4, -1)
    count = flat.shape[1]
    for one in flat:  # five deviations of each moment of so many
        assert abs(one.mean()) < 5 * count**-0.5
        assert abs(one.var() - 1) < 5 * (2 / count) ** 0.5
        assert abs((one**3).mean()) < 5 * (15 / count) ** 0.5
        assert abs((one**4).mean() - 3) < 5 * (96 / count) ** 0.5
        # Kolmogorov and Smirnov's distance from the normal distribution.
        rank = (np.arange(count) + 0.5) / count
        expected = 0.5 * (1 + jax.scipy.special.erf(np.sort(one) / 2**0.5))
        assert np.abs(np.asarray(expected) - rank).max() < 2 * count**-0.5
        for lag in (1, 2, 3, 64, 4096):  # neighbours in columns, rows, frames; and their sizes
            for values in (one, np.abs(one) - (2 / np.pi) ** 0.5):
                assert abs((values[lag:] * values[:-lag]).mean()) < 5 * count**-0.5
    # All together, since one clip has too few numbers to tell that set bits alone lack tails.
    assert abs((flat**4).mean() - 3) < 5 * (96 / flat.size) ** 0.5
    for a, b in itertools.combinations(flat, 2):
        assert abs((a * b).mean()) < 5 * count**-0.5
    # A later part of the same numbers, and a clip alone.
    np.testing.assert_array_equal(keys.white(own[2:3], (5, 2), 6)[0], found[2, 3:8].astype("f4"))
