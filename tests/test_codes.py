"""The autoencoder with a codebook, the transformer over its codes, and both phases' steps."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import TINY_CODES_GENERATOR, network

from vidgen import keys, methods, sampling
from vidgen.errors import ConfigError
from vidgen.methods import autoregressive, common
from vidgen.models import autoregressive as priors
from vidgen.models import protocol
from vidgen.models import vqvae as networks
from vidgen.runtime import checkpoint

CLASSES, SIZE, BATCH = 3, 8, 4


@functools.cache
def generator(**more):
    arguments = {**TINY_CODES_GENERATOR, "size": SIZE, "classes": CLASSES, **more}
    return network("generator", "codes", **arguments)


@functools.cache
def weights():
    """Of a size at which every part matters; a transformer that begins tells all codes alike."""
    rng = np.random.default_rng(0)
    make = lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), jnp.float32)  # noqa: E731
    return jax.tree.map(make, protocol.abstract_params(generator()))


def sampler(batch=1, chunk=4, **more):
    meta = {"classes": ("a", "b", "c"), "fps": 10.0}
    return sampling.from_generator(generator(**more), weights(), meta, 0, batch=batch, chunk=chunk)


def draws(frames=7, seed=1):
    """Codes and labels of two videos."""
    rng = np.random.default_rng(seed)
    gen = generator()
    return rng.integers(0, gen.codes, (2, frames, gen.motion)).astype(np.int32), np.int32([0, 2])


def test_the_nearest_code_is_that_of_all():
    rng = np.random.default_rng(0)
    features, book = rng.normal(size=(2, 5, 3)), rng.normal(size=(9, 3))
    apart = ((features[:, :, None] - book[None, None]) ** 2).sum(-1)
    found = jax.jit(networks.nearest)(np.float32(features), np.float32(book))
    np.testing.assert_array_equal(found, apart.argmin(-1))


@pytest.mark.parametrize("start", [0, 5, 22])
def test_windows_streams_and_company_agree_bit_for_bit(start):
    one = sampler()
    expected = one.sample([7], 32)[0][start:]
    np.testing.assert_array_equal(one.sample([7], 9, start)[0], expected[:9])
    streamed = np.stack(list(itertools.islice(one.stream(7, start), 9)))
    np.testing.assert_array_equal(streamed, expected[:9])
    many = sampler(batch=4)
    crowd = many.sample(range(9), 9, start)
    np.testing.assert_array_equal(crowd[7], many.sample([7], 9, start)[0])
    latents = many.latents(range(9), 9, start)
    np.testing.assert_array_equal(crowd, many.decode(latents, 9, start))


def test_later_noise_changes_no_earlier_frame_but_later_ones():
    one = sampler()
    latents = one.latents([3], 16)
    plain = one.decode(latents, 16)
    motion = latents["motion"].copy()
    motion[:, 6] *= -1
    changed = one.decode({**latents, "motion": motion}, 16)
    np.testing.assert_array_equal(changed[:, :6], plain[:, :6])
    assert all(not np.array_equal(changed[:, t], plain[:, t]) for t in (6, 8))
    assert not np.array_equal(one.sample([3], 8, labels=0), one.sample([3], 8, labels=1))


def test_logits_depend_on_the_codes_before_alone():
    gen = generator()
    codes, label = draws(gen.window)
    run = lambda codes, label: gen.apply({"params": weights()}, codes, label, method="logits")  # noqa: E731
    run = functools.partial(jax.jit(run), label=label)
    plain = np.asarray(run(codes)).reshape(2, -1, gen.codes)
    flat = codes.reshape(2, -1)
    for at in range(flat.shape[1] - 1):
        other = flat.copy()
        other[:, at] = (other[:, at] + 1) % gen.codes
        changed = np.asarray(run(other.reshape(codes.shape))).reshape(plain.shape)
        np.testing.assert_array_equal(changed[:, : at + 1], plain[:, : at + 1])
        assert (np.abs(changed[:, at + 1 :] - plain[:, at + 1 :]).max((0, 2)) > 1e-6).all()


def test_drawing_with_kept_keys_is_drawing_from_all_codes_anew():
    """Frame by frame, past the window, by the transformer as it is trained: no cache, no loop."""
    gen, (_, label), frames = generator(), draws(), 6
    params = {"params": weights()}
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(2, frames, gen.motion)).astype(np.float32)
    begin = jax.jit(lambda *given: gen.apply(params, *given, method="begin"))
    begin = begin(np.zeros((2, 1)), noise, label)
    advance = jax.jit(lambda *given: gen.apply(params, *given, method="advance"))
    carry, states = advance(begin, np.zeros((2, 1)), noise, label)
    logits = jax.jit(lambda codes, label: gen.apply(params, codes, label, method="logits"))
    pick = jax.jit(priors.sample_codes)
    uniform = np.asarray(jax.scipy.stats.norm.cdf(noise))
    found = np.zeros((2, frames, gen.motion), np.int32)
    for t, place in np.ndindex(frames, gen.motion):
        first = max(t - gen.window + 1, 0)
        window = np.zeros((2, gen.window, gen.motion), np.int32)
        window[:, : t + 1 - first] = found[:, first : t + 1]
        predicted = np.asarray(logits(window, label))[:, t - first, place]
        found[:, t, place] = pick(predicted, uniform[:, t, place])
    np.testing.assert_array_equal(states, found)
    np.testing.assert_array_equal(carry, found[:, 1 - gen.window :])
    assert len(np.unique(found)) > 5


def numpy_pick(logits, uniform, temperature, top_k, top_p):
    order = np.argsort(-logits, kind="stable")
    if top_k:
        order = order[:top_k]
    chance = np.exp(logits[order] / temperature)
    chance /= chance.sum()
    kept = [0]
    while chance[kept].sum() < top_p and len(kept) < len(order):
        kept.append(len(kept))
    share = chance[kept] / chance[kept].sum()
    return order[np.searchsorted(np.cumsum(share), uniform * (1 - 1e-12), side="right")]


@pytest.mark.parametrize(
    "temperature, top_k, top_p",
    [(1.0, 0, 1.0), (0.5, 0, 0.8), (2.0, 4, 1.0), (1.0, 5, 0.6), (1.0, 1, 1.0)],
)
def test_codes_are_picked_by_the_inverse_of_their_distribution(temperature, top_k, top_p):
    rng = np.random.default_rng(3)
    logits = 2 * rng.normal(size=(300, 9)).astype(np.float32)
    uniform = rng.uniform(size=300).astype(np.float32)
    pick = jax.jit(priors.sample_codes, static_argnums=(2, 3, 4))
    found = pick(logits, uniform, temperature, top_k, top_p)
    expected = [
        numpy_pick(np.float64(x), u, temperature, top_k, top_p)
        for x, u in zip(logits, uniform, strict=True)
    ]
    np.testing.assert_array_equal(found, expected)


def test_the_ends_of_the_noise_pick_codes_that_may_come():
    logits = np.float32([[0.0, -np.inf, 3.0, -200.0]] * 2)
    pick = jax.jit(priors.sample_codes, static_argnames="top_k")
    np.testing.assert_array_equal(pick(logits, np.float32([0, 1])), [2, 0])
    np.testing.assert_array_equal(pick(logits, np.float32([0.2, 1]), top_k=1), [2, 2])


def test_a_trained_run_is_sampled_as_asked(tmp_path):
    params = jax.tree.map(jnp.asarray, weights())
    arguments = {"kind": "codes", "size": SIZE, "classes": CLASSES, **TINY_CODES_GENERATOR}
    meta = {"generator": arguments, "classes": ["a", "b", "c"], "fps": 10.0}
    saved = checkpoint.Checkpoints(tmp_path / "checkpoints")
    saved.save(1, {"ema": params}, meta)
    saved.wait()
    saved.close()
    likeliest = sampling.load(tmp_path, top_k=1).sample([1, 4], 6)
    np.testing.assert_array_equal(*likeliest)  # of one class: their noise matters no more
    np.testing.assert_array_equal(sampling.load(tmp_path).sample([4], 6), sampler().sample([4], 6))
    cold = sampling.load(tmp_path, temperature=0.5, top_p=0.9).generator
    assert (cold.temperature, cold.top_p, cold.top_k) == (0.5, 0.9, 0)
    with pytest.raises(ConfigError, match="top_p is 2"):
        sampling.load(tmp_path, top_p=2.0)
    with pytest.raises(ConfigError, match="no sampling option 'window'"):
        sampling.load(tmp_path, window=3)


def batch():
    rng = np.random.default_rng(0)
    return {
        "video": rng.integers(0, 256, (BATCH, 5, SIZE, SIZE, 3), np.uint8),
        "index": np.arange(8, 8 + BATCH, dtype=np.int32),
        "label": np.arange(BATCH, dtype=np.int32) % CLASSES,
    }


@functools.cache
def stepped(phase):
    """Takes a step of a phase from the weights; returns the state before and after, metrics."""
    gen, tx = generator(), optax.adamw(0.1, weight_decay=0.1)
    init = functools.partial(autoregressive.init, gen=gen, codes_tx=tx, prior_tx=tx)
    state = jax.jit(init, static_argnums=0)(0)
    rng = np.random.default_rng(4)
    counts = rng.uniform(0.5, 2, gen.codes).astype(np.float32)
    counts[:2] = 0
    params = jax.tree.map(jnp.asarray, weights())
    state = state.replace(gen=params, ema=params, counts=jnp.asarray(counts))
    state = state.replace(sums=state.counts[:, None] * params["book"])
    more = {"distance": "mse", "commitment": 0.25, "book_decay": 0.9, "revive": 0.1, "pick": 2}
    steps = {
        "codes": functools.partial(
            autoregressive.codes_step, gen=gen, codes_tx=tx, batch_size=BATCH, **more
        ),
        "prior": functools.partial(
            autoregressive.prior_step, gen=gen, prior_tx=tx, ema_decay=lambda step: 0.25
        ),
    }
    return state, *jax.jit(steps[phase])(state, batch())


def test_gradients_go_past_the_choice_of_a_code():
    """To the bit: at features that stand for vectors it is the decoder's at the vectors."""
    gen, rng = generator(), np.random.default_rng(5)
    features = np.float32(rng.normal(size=(1, 2, gen.motion, gen.features)))
    params = {"params": weights()}
    target = np.float32(rng.uniform(-1, 1, (1, 2, SIZE, SIZE, 3)))
    book = np.asarray(weights()["book"])
    vectors = book[np.argmin(((features[..., None, :] - book) ** 2).sum(-1), -1)]

    def apart(vectors):
        return jnp.mean((gen.apply(params, vectors, method="decode") - target) ** 2)

    given = autoregressive.straight_through
    through = jax.jit(jax.grad(lambda z: apart(given(z, jnp.asarray(vectors)))))(features)
    np.testing.assert_allclose(through, jax.jit(jax.grad(apart))(vectors), rtol=1e-4, atol=1e-7)


def test_the_losses_are_those_of_their_definitions():
    gen = generator()
    run = lambda method, *given: np.asarray(  # noqa: E731
        jax.jit(lambda *given: gen.apply({"params": weights()}, *given, method=method))(*given)
    )
    state, _, metrics = stepped("codes")
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key, impl="threefry2x32"), 0)
    own = keys.per_clip(keys.named(key, "pick"), batch()["index"])
    at = np.asarray(common.pick_frames(own, 5, 2))
    video = np.take_along_axis(batch()["video"], at[:, :, None, None, None], 1) / np.float32(
        127.5
    ) - np.float32(1)
    features = run("encode", video)
    vectors = weights()["book"][run("quantize", features)]
    made = run("decode", vectors)
    mse, commit = np.mean((made - video) ** 2), np.mean((features - vectors) ** 2)
    np.testing.assert_allclose(metrics["codes/reconstruction"], mse, rtol=1e-4)
    np.testing.assert_allclose(metrics["gen/loss"], mse + 0.25 * commit, rtol=1e-4)

    state, _, metrics = stepped("prior")
    own = keys.per_clip(keys.named(key, "window"), batch()["index"])
    first = [int(jax.random.randint(k, (), 0, 5 - gen.window + 1)) for k in own]
    assert len(set(first)) > 1
    video = np.stack([v[f : f + gen.window] for v, f in zip(batch()["video"], first, strict=True)])
    codes = run("quantize", run("encode", video / np.float32(127.5) - np.float32(1)))
    logits = np.float64(run("logits", codes, batch()["label"]))
    chance = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    nats = -np.mean(np.log(np.take_along_axis(chance, codes[..., None], -1)))
    np.testing.assert_allclose(metrics["gen/loss"], nats, rtol=1e-4)
    np.testing.assert_allclose(metrics["gen/bits"], nats / np.log(2), rtol=1e-4)
    bits = metrics["gen/bits"] * gen.motion / (SIZE * SIZE * 3)
    np.testing.assert_allclose(metrics["gen/bits_per_dimension"], bits, rtol=1e-5)


def test_the_codebook_is_a_moving_average_and_dead_codes_begin_anew():
    rng = np.random.default_rng(6)
    gen = generator()
    k, f = gen.codes, gen.features
    old = rng.uniform(1, 2, k), rng.normal(size=(k, f))
    codes, features = rng.integers(2, k, 40), rng.normal(size=(40, f))  # 0 and 1 are not taken
    new = (
        np.bincount(codes, minlength=k) / 4,
        np.stack([features[codes == n].sum(0) for n in range(k)]) / 4,
    )
    old[0][1] = 0.0  # has not been taken for long; 0 has been
    offered = rng.normal(size=(k, f))
    counts, sums = (0.75 * a + 0.25 * b for a, b in zip(old, new, strict=True))
    dead = counts < 0.1 * counts.mean()
    assert dead[1] and not dead[0] and dead.sum() == 1
    expected = np.where(dead[:, None], offered, sums / np.maximum(counts, 1e-9)[:, None])
    state, _, _ = stepped("codes")
    state = state.replace(counts=jnp.float32(old[0]), sums=jnp.float32(old[1]))
    given = (np.float32(x) for x in (*new, offered))
    move = jax.jit(autoregressive.update_codebook, static_argnums=(4, 5))
    book, kept, totals, alive = move(state, *given, 0.75, 0.1)
    np.testing.assert_allclose(book, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(alive, ~dead)
    np.testing.assert_allclose(kept[1], counts.mean(), rtol=1e-5)
    np.testing.assert_allclose(totals[1], counts.mean() * offered[1], rtol=1e-4)


def test_a_dead_code_comes_to_life_at_a_feature_of_the_batch():
    gen = generator()
    state, after, metrics = stepped("codes")
    video = batch()["video"] / np.float32(127.5) - np.float32(1)
    encode = jax.jit(lambda video: gen.apply({"params": weights()}, video, method="encode"))
    features = np.asarray(encode(video))
    apart = np.abs(np.asarray(after.gen["book"])[0] - features.reshape(-1, gen.features)).max(-1)
    assert apart.min() < 1e-5 and (after.gen["book"][0] != state.gen["book"][0]).any()
    assert metrics["codes/revived"] >= 1 and 0 < metrics["codes/used"] < 1
    assert 1 <= metrics["codes/perplexity"] <= gen.codes


def test_no_phase_moves_what_is_of_the_other():
    same = lambda a, b: all(  # noqa: E731
        bool((x == y).all()) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )
    state, after, _ = stepped("codes")
    assert same((state.gen["prior"], state.prior_opt), (after.gen["prior"], after.prior_opt))
    assert not any(same(state.gen[n], after.gen[n]) for n in ("encoder", "decoder", "book"))
    assert same(after.gen, after.ema)
    state, after, _ = stepped("prior")
    for part in ("encoder", "decoder", "book"):
        assert same(state.gen[part], after.gen[part]) and same(state.ema[part], after.ema[part])
    assert same((state.counts, state.codes_opt), (after.counts, after.codes_opt))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.gen["prior"], after.gen["prior"])
    assert all(jax.tree.leaves(moved)), moved
    halfway = jax.tree.map(lambda a, b: 0.25 * a + 0.75 * b, state.ema["prior"], after.gen["prior"])
    for a, b in zip(*map(jax.tree.leaves, (halfway, after.ema["prior"])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_phases_are_kinds_of_steps_with_schedules_of_their_own():
    config = methods.base("autoregressive")
    config.data.path = "toy"
    config.generator.update(TINY_CODES_GENERATOR)
    config.objective.codes_kclips, config.training.kclips = 0.048, 0.16
    experiment = methods.experiment(config, 2)
    assert [experiment.kind(at) for at in (0, 2, 3, 9)] == ["codes", "codes", "prior", "prior"]
    config.parallel.dispatch = 2
    with pytest.raises(ConfigError, match=r"config\.objective\.codes_kclips is 3 steps"):
        methods.experiment(config, 2)
    config.parallel.dispatch, config.parallel.remat = 1, ("discriminator",)
    with pytest.raises(ConfigError, match=r"config\.parallel\.remat names 'discriminator'"):
        methods.experiment(config, 2)
    config.parallel.remat, config.generator.window = (), 40
    with pytest.raises(ConfigError, match=r"config\.generator\.window is 40"):
        methods.experiment(config, 2)


@pytest.mark.parametrize(
    "given, says",
    [
        ({"size": 18}, "multiple of 4"),
        ({"codes": 0}, "at least 1"),
        ({"heads": 3}, "divide the width"),
        ({"window": 1}, "at least 2"),
        ({"temperature": 0.0}, "above 0"),
        ({"top_k": 13}, "codes=12"),
        ({"top_p": 1.5}, "at most 1"),
    ],
)
def test_wrong_arguments_are_named(given, says):
    with pytest.raises(ConfigError) as error:
        network("generator", "codes", **{**TINY_CODES_GENERATOR, "size": 16, "patch": 2, **given})
    assert says in error.value.hint


def test_codes_are_no_noise_that_clips_can_be_encoded_to():
    clips = np.zeros((1, 4, sampler().generator.size, sampler().generator.size, 3), np.uint8)
    with pytest.raises(ConfigError, match="cannot encode"):
        sampler().encode(clips, 0)
