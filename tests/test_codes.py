"""The transformer over a codec's codes, and its steps; of the codec itself see test_flow.py."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import TINY_CODES_GENERATOR, network

from vidgen import keys, methods, sampling
from vidgen.errors import ConfigError
from vidgen.methods import autoregressive
from vidgen.methods import codec as methods_codec
from vidgen.models import autoregressive as priors
from vidgen.models import codec, protocol
from vidgen.runtime import checkpoint

CLASSES, SIZE, BATCH = 3, 8, 4
LEVELS = TINY_CODES_GENERATOR["levels"]
CODES, NUMBERS = math.prod(LEVELS), len(LEVELS)


@functools.cache
def generator(**more):
    arguments = {**TINY_CODES_GENERATOR, "size": SIZE, "classes": CLASSES, **more}
    return network("generator", "codes", **arguments)


@functools.cache
def weights():
    """Of a size at which every part matters; a transformer that begins tells all codes alike."""
    rng = np.random.default_rng(0)
    make = lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), jnp.float32)  # noqa: E731
    with jax.ensure_compile_time_eval():  # they are kept, and may be asked for within a program
        return jax.tree.map(make, protocol.abstract_params(generator()))


def sampler(batch=1, chunk=4, **more):
    meta = {"classes": ("a", "b", "c"), "fps": 10.0}
    return sampling.from_generator(generator(**more), weights(), meta, 0, batch=batch, chunk=chunk)


def draws(frames=7, seed=1):
    """Codes and labels of two videos."""
    rng = np.random.default_rng(seed)
    gen = generator()
    shape = 2, frames, gen.places
    return rng.integers(0, CODES, shape).astype(np.int32), np.int32([0, 2])


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
    differ = [not np.array_equal(changed[:, t], plain[:, t]) for t in range(6, 16)]
    assert differ[0] and any(differ[1:])
    assert not np.array_equal(one.sample([3], 8, labels=0), one.sample([3], 8, labels=1))


def test_logits_depend_on_the_codes_and_numbers_before_alone():
    gen = generator()
    codes, label = draws(gen.window)
    run = lambda codes, label: gen.apply({"params": weights()}, codes, label, method="logits")  # noqa: E731
    run = functools.partial(jax.jit(run), label=label)
    numbers = lambda codes: np.asarray(run(codes)).reshape(2, -1, max(LEVELS))  # noqa: E731
    plain, digits = numbers(codes), np.asarray(codec.to_digits(jnp.asarray(codes), LEVELS))
    flat = digits.reshape(2, -1)
    assert flat.shape[1] == plain.shape[1] == gen.window * gen.motion
    for at in range(flat.shape[1] - 1):
        other = flat.copy()
        other[:, at] = (other[:, at] + 1) % LEVELS[at % NUMBERS]
        given = codec.from_digits(jnp.asarray(other.reshape(digits.shape)), LEVELS)
        changed = numbers(np.asarray(given))
        np.testing.assert_array_equal(changed[:, : at + 1], plain[:, : at + 1])
        assert (np.abs(changed[:, at + 1 :] - plain[:, at + 1 :]).max((0, 2)) > 1e-6).all()


def test_a_number_has_as_many_values_as_its_level():
    params = {"params": weights()}
    run = lambda *given: generator().apply(params, *given, method="logits")  # noqa: E731
    chance = np.asarray(jax.nn.softmax(jax.jit(run)(*draws(2))))
    assert chance.shape[-2:] == (NUMBERS, max(LEVELS))
    for number, count in enumerate(LEVELS):
        assert (chance[..., number, :count] > 0).all() and (chance[..., number, count:] == 0).all()


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
    pick = jax.jit(priors.sample_values)
    uniform = np.asarray(jax.scipy.stats.norm.cdf(noise))
    uniform = uniform.reshape(2, frames, gen.places, NUMBERS)
    digits = np.zeros(uniform.shape, np.int32)
    for t, place, number in np.ndindex(uniform.shape[1:]):
        first = max(t - gen.window + 1, 0)
        window = np.zeros((2, gen.window, gen.places, NUMBERS), np.int32)
        window[:, : t + 1 - first] = digits[:, first : t + 1]
        window = codec.from_digits(jnp.asarray(window), LEVELS)
        predicted = np.asarray(logits(window, label))[:, t - first, place, number]
        digits[:, t, place, number] = pick(predicted, uniform[:, t, place, number])
    found = np.asarray(codec.from_digits(jnp.asarray(digits), LEVELS))
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
    pick = jax.jit(priors.sample_values, static_argnums=(2, 3, 4))
    found = pick(logits, uniform, temperature, top_k, top_p)
    expected = [
        numpy_pick(np.float64(x), u, temperature, top_k, top_p)
        for x, u in zip(logits, uniform, strict=True)
    ]
    np.testing.assert_array_equal(found, expected)


def test_the_ends_of_the_noise_pick_codes_that_may_come():
    logits = np.float32([[0.0, -np.inf, 3.0, -200.0]] * 2)
    pick = jax.jit(priors.sample_values, static_argnames="top_k")
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
def stepped():
    """Takes a step of the transformer from the weights; returns both states and metrics."""
    gen, tx = generator(), optax.adamw(0.1, weight_decay=0.1)
    players = methods_codec.Players(gen, tx)
    init = functools.partial(methods_codec.init, players=players, model_tx=tx, frames=5)
    state = jax.jit(init, static_argnums=0)(0)
    params = jax.tree.map(jnp.asarray, weights())
    state = state.replace(gen=params, ema=jax.tree.map(lambda x: x + 1, params))
    step = functools.partial(autoregressive.prior_step, gen=gen, tx=tx, ema_decay=lambda _: 0.25)
    return state, *jax.jit(step)(state, batch())


def test_the_loss_is_the_cross_entropy_of_a_window_of_each_clip():
    gen = generator()
    run = lambda method, *given: np.asarray(  # noqa: E731
        jax.jit(lambda *given: gen.apply({"params": weights()}, *given, method=method))(*given)
    )
    state, _, metrics = stepped()
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key, impl="threefry2x32"), 0)
    own = keys.per_clip(keys.named(key, "window"), batch()["index"])
    first = [int(jax.random.randint(k, (), 0, 5 - gen.window + 1)) for k in own]
    assert len(set(first)) > 1
    video = np.stack([v[f : f + gen.window] for v, f in zip(batch()["video"], first, strict=True)])
    codes = run("encode_codes", video / np.float32(127.5) - np.float32(1))
    assert len(np.unique(codes)) > 3
    logits = np.float64(run("logits", codes, batch()["label"]))
    chance = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    digits = np.asarray(codec.to_digits(jnp.asarray(codes), LEVELS))
    each = -np.log(np.take_along_axis(chance, digits[..., None], -1))[..., 0]
    nats = each.sum(-1).mean()
    np.testing.assert_allclose(metrics["gen/loss"], nats, rtol=1e-4)
    np.testing.assert_allclose(metrics["gen/bits"], nats / np.log(2), rtol=1e-4)
    bits = metrics["gen/bits"] * gen.places / (SIZE * SIZE * 3)
    np.testing.assert_allclose(metrics["gen/bits_per_dimension"], bits, rtol=1e-5)


def test_the_second_phase_moves_the_transformer_and_its_average_alone():
    state, after, _ = stepped()
    same = lambda a, b: jax.tree.map(lambda x, y: bool((x == y).all()), a, b)  # noqa: E731
    for old, new in ((state.gen, after.gen), (state.ema, after.ema)):
        assert all(jax.tree.leaves(same(old["codec"], new["codec"])))
    assert all(jax.tree.leaves(same(state.codec_opt, after.codec_opt)))
    moved = same(state.gen["model"], after.gen["model"])
    assert not any(jax.tree.leaves(moved)), moved
    average = lambda a, b: 0.25 * a + 0.75 * b  # noqa: E731
    halfway = jax.tree.map(average, state.ema["model"], after.gen["model"])
    for a, b in zip(*map(jax.tree.leaves, (halfway, after.ema["model"])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_phases_are_kinds_of_steps_with_schedules_of_their_own():
    config = methods.base("autoregressive")
    config.data.path = "toy"
    config.generator.update(TINY_CODES_GENERATOR)
    config.objective.codec_kclips, config.training.kclips = 0.048, 0.16
    experiment = methods.experiment(config, 2)
    assert [experiment.kind(at) for at in (0, 2, 3, 9)] == ["codec", "codec", "prior", "prior"]
    config.parallel.dispatch = 2
    with pytest.raises(ConfigError, match=r"config\.objective\.codec_kclips is 3 steps"):
        methods.experiment(config, 2)
    config.parallel.dispatch, config.parallel.remat = 1, ("generator",)
    with pytest.raises(ConfigError, match=r"config\.parallel\.remat names 'generator'"):
        methods.experiment(config, 2)
    config.parallel.remat, config.generator.window = (), 40
    with pytest.raises(ConfigError, match=r"config\.generator\.window is 40"):
        methods.experiment(config, 2)


@pytest.mark.parametrize(
    "given, says",
    [
        ({"size": 18}, "multiple of 4"),
        ({"head": 0}, "at least 1"),
        ({"levels": (8,) * 11}, "below 2^31"),
        ({"heads": 3}, "divide the width"),
        ({"window": 1}, "at least 2"),
        ({"temperature": 0.0}, "above 0"),
        ({"top_k": 5}, "0 to 4, the most of levels"),
        ({"top_p": 1.5}, "at most 1"),
    ],
)
def test_wrong_arguments_are_named(given, says):
    with pytest.raises(ConfigError) as error:
        network("generator", "codes", **{**TINY_CODES_GENERATOR, "size": 16, **given})
    assert says in error.value.hint


def test_codes_are_no_noise_that_clips_can_be_encoded_to():
    clips = np.zeros((1, 4, sampler().generator.size, sampler().generator.size, 3), np.uint8)
    with pytest.raises(ConfigError, match="cannot encode"):
        sampler().encode(clips, 0)
