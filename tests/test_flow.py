"""The codec and the flow in its latents, beyond what every method must do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import TINY_FLOW_GENERATOR, TINY_HEADS, network
from ml_collections import ConfigDict

from vidgen import keys, methods
from vidgen.cli import main
from vidgen.errors import ConfigError
from vidgen.evaluation import report
from vidgen.methods import codec as methods_codec
from vidgen.methods import common, flow
from vidgen.models import codec
from vidgen.models.features import distance, efficientnet_weights
from vidgen.models.known_frames import Known
from vidgen.run import artifacts
from vidgen.runtime.checkpoint import Checkpoints
from vidgen.sampling import loading

SIZE, CLASSES, CHUNK, MARGIN = 8, 3, 4, 2
LEVELS = [(8, 5, 5, 5), (4, 3, 2), (7,)]


def generator(**more):
    return network(
        "generator", "flow", **{**TINY_FLOW_GENERATOR, "size": SIZE, "classes": CLASSES, **more}
    )


@functools.cache
def weights():
    """Parameters of which none is zero, so that every path is seen."""
    gen = generator()
    params = common.init_generator(keys.root(0), gen, CHUNK)
    leaves, tree = jax.tree.flatten(params)
    each = keys.per_clip(keys.root(1), np.arange(len(leaves)))
    made = [x + 0.3 * jax.random.normal(k, x.shape) for k, x in zip(each, leaves, strict=True)]
    return tree.unflatten(made)


def sampler(**options):
    meta = {"classes": ["a", "b", "c"], "fps": 8.0}
    return loading.from_generator(generator(**options), weights(), meta, 1, batch=2, chunk=CHUNK)


# ------------------------------------------------------------------------------------ codec


@pytest.mark.parametrize("levels", LEVELS)
def test_codes_and_latents_are_each_others(levels):
    count = int(np.prod(levels))
    latents = codec.to_latents(jnp.arange(count), levels)
    assert len(np.unique(np.asarray(latents), axis=0)) == count
    assert np.abs(latents).max() == 1
    np.testing.assert_array_equal(codec.to_codes(latents, levels), np.arange(count))
    np.testing.assert_array_equal(codec.round_latents(latents, levels), latents)


def test_clips_are_reconstructed_frame_by_frame_in_any_company():
    clips = np.random.default_rng(0).integers(0, 256, (3, 5, SIZE, SIZE, 3), np.uint8)
    made = sampler().reconstruct(clips)
    video = jnp.asarray(clips, jnp.float32) / 127.5 - 1
    apply = functools.partial(generator().apply, {"params": weights()})
    latents = apply(video.reshape(-1, SIZE, SIZE, 3), method=lambda m, x: m.codec.encode(x))
    rounded = codec.round_latents(latents, TINY_FLOW_GENERATOR["levels"])
    exact = apply(rounded, method=lambda m, x: m.codec.decode(x))
    exact = np.clip((np.asarray(exact).reshape(clips.shape) + 1) * 127.5, 0, 255)
    np.testing.assert_allclose(made, exact, atol=0.51)
    np.testing.assert_array_equal(made[2:], sampler().reconstruct(clips[2:]))
    with pytest.raises(ConfigError, match="clips to encode"):
        sampler().reconstruct(clips[..., :2])


@pytest.mark.parametrize("levels", LEVELS)
def test_features_round_to_every_value_and_to_the_nearest(levels):
    features = 3 * jax.random.normal(jax.random.key(0), (20000, len(levels)))
    latents = np.asarray(codec.bound(features, levels))
    rounded = np.asarray(codec.round_latents(jnp.asarray(latents), levels))
    for n, count in enumerate(levels):
        values = np.unique(rounded[:, n])
        assert len(values) == count
        nearest = np.abs(latents[:, n, None] - values[None]).min(1)
        np.testing.assert_allclose(np.abs(latents - rounded)[:, n], nearest, atol=1e-6)
    # Zero is a value, so features that are near zero at first are coded near it.
    np.testing.assert_allclose(codec.bound(jnp.zeros((1, len(levels))), levels), 0, atol=1e-6)


def test_gradients_pass_the_rounding():
    levels, latents = (4, 3), jnp.asarray([[0.2, -0.6]])

    def loss(latents):
        out = codec.straight_through(latents, codec.round_latents(latents, levels))
        return jnp.sum(out**2), out

    (_, out), slopes = jax.value_and_grad(loss, has_aux=True)(latents)
    np.testing.assert_allclose(out, [[0.0, -1.0]])
    np.testing.assert_allclose(slopes, 2 * out)


def test_the_perceptual_distance_grows_with_the_damage():
    frozen, rng = efficientnet_weights.load(), np.random.default_rng(0)
    coarse = rng.uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    pictures = jnp.asarray(coarse.repeat(4, 1).repeat(4, 2))
    noise = jnp.asarray(rng.normal(0, 1, pictures.shape).astype(np.float32))
    far = [distance.distance(frozen, pictures, pictures + s * noise) for s in (0.0, 0.05, 0.5)]
    assert far[0].shape == (2,) and np.abs(far[0]).max() < 1e-6
    assert (far[1] > 0.01).all() and (far[1] < far[2]).all() and (far[2] < 4).all()


# ------------------------------------------------------------------------------------ the flow


def test_a_pair_sees_its_neighbours_and_the_latent_of_the_video_alone():
    gen, slots, one = generator(), 7, weights()
    whole = jax.random.normal(jax.random.key(0), (1, 2, gen.tokens, 2))
    pairs = jax.random.normal(jax.random.key(1), (1, slots, gen.tokens, 4))
    level, label = jnp.full((1, 2 + slots), 0.5), jnp.zeros(1, jnp.int32)

    def slopes(known):
        """Returns which slots each slot's velocity depends on."""

        def run(whole, pairs):
            given = (whole, pairs, level, label, known)
            found = gen.apply({"params": one}, *given, method="velocity")
            return jnp.concatenate([jnp.sum(jnp.abs(x), (2, 3))[0] for x in found])

        found = jax.jacobian(run, argnums=(0, 1))(whole, pairs)
        return np.concatenate([np.abs(x).sum((1, 3, 4)) for x in found], 1) > 0

    expected = np.zeros((2 + slots,) * 2, bool)
    at = np.arange(slots)
    expected[2:, 2:] = np.abs(at[:, None] - at[None]) <= gen.reach  # one layer
    expected[0, 0] = expected[1, 1] = True
    np.testing.assert_array_equal(slopes(known=False), expected)
    expected[2:, 1] = True
    np.testing.assert_array_equal(slopes(known=True), expected)


def test_frames_depend_on_the_noise_of_their_chunk_and_its_margin_alone():
    one, first = sampler(levels=(999, 999)), CHUNK  # so that small changes are not rounded away
    gen, latents = one.generator, one.latents([0, 1], CHUNK, first)
    assert latents["motion"].shape[1] == gen.keyframes(CHUNK)
    video = one.decode(latents, CHUNK, first)

    def changed(frame):
        """Exchanges the noise of a frame, counted from the chunk's first, between two videos."""
        motion = latents["motion"].reshape(2, -1, gen.content).copy()
        at = CHUNK + frame  # a chunk of context lies before
        motion[:, at] = motion[::-1, at]
        motion = motion.reshape(latents["motion"].shape)
        other = one.decode({**latents, "motion": motion}, CHUNK, first)
        return (other != video).any((0, 2, 3, 4))

    assert changed(0).any() and changed(-MARGIN).any() and changed(CHUNK + MARGIN - 1).any()
    assert not changed(-MARGIN - 1).any() and not changed(CHUNK + MARGIN).any()


def test_a_stream_goes_on_from_the_frames_before():
    one = sampler(stream=True)
    video = one.sample([5, 6], 3 * CHUNK)
    stream = one.stream(6)
    np.testing.assert_array_equal(np.stack([next(stream) for _ in range(3 * CHUNK)]), video[1])
    np.testing.assert_array_equal(
        one.sample([6], CHUNK, CHUNK + 1)[0], video[1][CHUNK + 1 :][:CHUNK]
    )
    late = one.latents([5], CHUNK, CHUNK)
    del late["carry"]
    with pytest.raises(ConfigError, match="latents lack carry"):
        one.decode(late, CHUNK, CHUNK)
    # Frames after a change of noise know of it, those before do not.
    latents = one.latents([5, 6], 3 * CHUNK)
    motion = latents["motion"].copy()
    motion[:, 2] = motion[::-1, 2]  # of the second chunk; the first keyframe is the context
    other = one.decode({**latents, "motion": motion}, 3 * CHUNK)
    changed = (other != video).any((0, 2, 3, 4))
    assert not changed[:CHUNK].any() and changed[CHUNK : 2 * CHUNK].any()
    assert changed[2 * CHUNK :].any()


@pytest.mark.parametrize(
    "solver, power, error", [("euler", 0, 0.0), ("euler", 1, 0.1), ("heun", 1, 0.0)]
)
def test_solvers_have_the_order_of_their_names(solver, power, error):
    """Along a velocity of t^n they reach 1 / (n + 1), or miss it as sums of rectangles do."""
    gen = generator(solver=solver, steps=5)

    def integrate(module):
        run = lambda x, level, *asked: jnp.broadcast_to(level[:, :1] ** power, x.shape)  # noqa: E731
        return module._solve(run, jnp.zeros((1, 1)), jnp.ones((1, 1)), (None, None, None), 5)

    found = gen.apply({"params": weights()}, method=integrate)
    np.testing.assert_allclose(found, 1 / (power + 1) - error, rtol=1e-6)


def test_guidance_goes_beyond_the_class():
    gen = generator(guidance=3.0)

    def integrate(module):
        run = lambda x, level, label, *others: (  # noqa: E731
            jnp.where(label == CLASSES, 1.0, 2.0)[:, None] + 0 * x
        )
        asked = jnp.zeros(1, jnp.int32), None, None
        return module._solve(run, jnp.zeros((1, 1)), jnp.ones((1, 1)), asked, 2)

    found = gen.apply({"params": weights()}, method=integrate)
    np.testing.assert_allclose(found, 1 + 3 * (2 - 1), rtol=1e-6)


def test_hints_are_the_tokens_of_frames_that_are_known():
    count, s, f = 12, 2, 3
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.normal(size=(1, count, s, f)), jnp.float32)
    order = [7, 3, 20, 5, 4, 9, 30, 11, 13, 2, 100, 1]
    time = jnp.asarray([order], jnp.int32)
    there = np.ones((1, count), bool)
    there[0, 3] = False  # frame 5
    known = Known(jnp.zeros((1, count, 4, 4, 3)), tokens, jnp.asarray(there), time)
    hints = known.hints(jnp.array([2]), 6)  # frames 2 to 7, two by two
    assert hints.pairs.shape == (1, 3, s, 2 * (f + 1))
    for pair, numbers in enumerate([(2, 3), (4, None), (None, 7)]):
        halves = np.split(np.asarray(hints.pairs)[0, pair], 2, -1)
        for half, number in zip(halves, numbers, strict=True):
            if number is None:
                assert not half.any()
            else:
                np.testing.assert_array_equal(half[:, :f], tokens[0, order.index(number)])
                assert (half[:, f] == 1).all()
    first = [order.index(n) for n in (1, 2, 3, 4, 7, 9, 11, 13)]
    np.testing.assert_allclose(
        hints.whole[0, 0, :, :f], np.asarray(tokens)[0, first].mean(0), rtol=1e-5
    )
    assert (hints.whole[0, 0, :, f] == 1).all()
    nothing = known._replace(there=jnp.zeros((1, count), bool)).hints(0, 4)
    assert not nothing.whole.any() and not nothing.pairs.any()


# ------------------------------------------------------------------------------------ training


def objective(**more):
    asked = {"level": 0.0, "prefix": 0.0, "own_levels": 0.0, "unlabelled": 0.0}
    return flow.Objective(**{**asked, **more})


def test_levels_are_drawn_as_asked():
    each, pairs = keys.per_clip(keys.root(0), np.arange(4000)), 5
    level, drawn = flow.draw_levels(each, pairs, objective(prefix=0.3, own_levels=0.2, level=-0.5))
    level, drawn = np.asarray(level), np.asarray(drawn)
    assert (drawn[:, 0] == 1).all() and (drawn[:, 1] == 0).all()
    known = drawn[:, 2:] == 0
    assert (level[:, 1] >= 0.9).all() and (level[:, 2:][known] >= 0.9).all()
    # Prefixes have 1 to 4 of 5 pairs, each equally often.
    counts = np.bincount(known.sum(1), minlength=6) / len(known)
    np.testing.assert_allclose(counts, [0.7, 0.075, 0.075, 0.075, 0.075, 0], atol=0.02)
    assert all((np.diff(row.astype(int)) <= 0).all() for row in known)
    pairs_of = zip(level, drawn[:, 2:], strict=True)
    same = [len(np.unique(row[2:][free == 1])) == 1 for row, free in pairs_of]
    assert abs(1 - np.mean(same) - 0.2) < 0.03
    logit = np.log(level[:, 0] / (1 - level[:, 0]))
    assert abs(logit.mean() + 0.5) < 0.06 and abs(logit.std() - 1) < 0.05


def settings(**objective):
    config = methods.base("flow")
    config.data.update(path="toy:clips=64", frames=4, size=SIZE, pick=2)
    config.generator.update(TINY_FLOW_GENERATOR)
    config.discriminator.update({**TINY_HEADS, "scales": (1,)})
    config.objective.update({"codec_kclips": 0.016, **objective})
    config.training.update(kclips=0.032, batch_size=8)
    return config


def experiment(**objective):
    return methods.experiment(settings(**objective), CLASSES)


def test_the_command_measures_what_a_codec_makes_of_any_clips(tmp_path, monkeypatch, capsys):
    """More than are coded at once, of other classes than the run's."""
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))
    config = settings()
    store, clips = artifacts.open_clips(config)
    meta = artifacts.meta(config, experiment().generator, store, clips)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(2, {"ema": weights()}, meta)
    checkpoints.close()
    rng = np.random.default_rng(0)
    np.save(tmp_path / "clips.npy", rng.integers(0, 256, (18, 16, SIZE, SIZE, 3), np.uint8))
    flags = ["--protocol=pixel", f"--against={tmp_path / 'clips.npy'}", "--clips=18"]
    assert main.main(["evaluate", str(tmp_path), "--reconstructions", *flags]) == 0
    found = report.read(tmp_path / "reconstructions" / "2")
    assert found["subject"]["clips"] == 18
    # What is compared by the name of the run is its samples.
    assert main.main(["evaluate", str(tmp_path), *flags]) == 0
    assert report.read(tmp_path)["subject"]["seeds"] == [0, 18]
    assert main.main(["evaluate", str(tmp_path), *flags, "--steps=1", "--guidance=2.0"]) == 0
    quick = report.read(tmp_path / "evaluation,steps=1,guidance=2.0" / "2")
    assert quick["subject"]["options"] == {"steps": 1, "guidance": 2.0}
    assert quick["figures"]["flow"] != report.read(tmp_path)["figures"]["flow"]
    assert main.main(["evaluate", str(tmp_path), *flags, "--start=5"]) == 0
    late = report.read(tmp_path / "evaluation,start=5" / "2")
    assert (
        late["subject"]["start"] == 5
        and late["figures"]["flow"] != report.read(tmp_path)["figures"]["flow"]
    )
    assert main.main(["evaluate", str(tmp_path / "clips.npy"), *flags, "--start=5"]) == 2
    assert "--start=5: nothing is sampled" in capsys.readouterr().err
    assert main.main(["evaluate", str(tmp_path), *flags, "--stepz=1"]) == 2
    assert "steps" in capsys.readouterr().err
    assert main.main(["evaluate", str(tmp_path), "--reconstructions", *flags, "--steps=1"]) == 2
    assert "nothing is sampled" in capsys.readouterr().err
    out = tmp_path / "pairs.png"
    data = str(tmp_path / "clips.npy")
    assert main.main(["reconstruct", str(tmp_path), data, "--clips=3", f"--out={out}"]) == 0
    assert out.is_file() and "PSNR" in capsys.readouterr().out


def batch():
    rng = np.random.default_rng(0)
    return {
        "video": rng.integers(0, 256, (8, 4, SIZE, SIZE, 3), np.uint8),
        "index": np.arange(8, dtype=np.int32),
        "label": np.arange(8, dtype=np.int32) % CLASSES,
    }


def test_each_phase_trains_its_own_part():
    whole = experiment()
    state = jax.jit(whole.init)(0)
    same = lambda a, b: all(  # noqa: E731
        np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )
    assert [whole.kind(at) for at in range(whole.total)] == ["codec"] * 2 + ["flow"] * 2
    after, _ = jax.jit(whole.steps["codec"])(state, batch())
    assert same(state.gen["model"], after.gen["model"])
    assert not same(state.gen["codec"], after.gen["codec"])
    assert same(after.gen["codec"], after.ema["codec"])
    last, _ = jax.jit(whole.steps["flow"])(after, batch())
    assert same(after.gen["codec"], last.gen["codec"])
    assert not same(after.gen["model"], last.gen["model"])


def test_the_discriminator_begins_late_and_with_penalties():
    late = {"codec_kclips": 0.048, "adversarial": 0.1, "adversarial_kclips": 0.008}
    whole = experiment(**late, penalty_interval=3)
    judged = ["codec judged, penalties", "codec judged", "codec judged"]
    assert [whole.kind(at) for at in range(7)] == ["codec", *judged, *judged[:2], "flow"]
    with pytest.raises(ConfigError, match="adversarial_kclips is") as error:
        experiment(adversarial=0.1, adversarial_kclips=0.016)
    assert "codec_kclips=0.016" in error.value.hint


def test_penalties_are_those_of_the_discriminator_on_reconstructions():
    """And the codec's loss is its pixels' and its share of what the discriminator says."""
    whole = experiment(adversarial=0.3, penalty_interval=3)
    state = jax.jit(whole.init)(0)
    bare, found = jax.jit(whole.steps["codec judged"])(state, batch())
    penalized, more = jax.jit(whole.steps["codec judged, penalties"])(state, batch())
    assert found["dis/r1"] == 0 and more["dis/r1"] > 0 and more["dis/r2"] > 0
    # At the start weights are 10, times the interval.
    expected = 0.5 * 3 * 10 * (more["dis/r1"] + more["dis/r2"])
    np.testing.assert_allclose(more["dis/penalty"], expected, rtol=1e-5)
    np.testing.assert_allclose(more["dis/loss"], found["dis/loss"], rtol=1e-4)
    leaves = (jax.tree.leaves(x.dis) for x in (bare, penalized))
    assert any((a != b).any() for a, b in zip(*leaves, strict=True))
    total = found["codec/l1"] + 0.3 * found["gen/adversarial"]
    np.testing.assert_allclose(found["gen/loss"], total, rtol=1e-5)


def test_the_loss_is_the_squared_error_of_the_velocity_from_noise_to_latents():
    """A network that is all zero at its end misses by the whole difference."""
    gen = generator()
    params = common.init_generator(keys.root(0), gen, CHUNK)
    state = methods_codec.State(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(keys.root(3)),
        gen=params,
        ema=params,
        codec_opt=(),
        model_opt=(),
    )

    bound = functools.partial(
        flow.flow_step,
        gen=gen,
        tx=optax.sgd(0.0),
        objective=objective(),
        ema_decay=lambda step: 0.5,
    )
    state = state.replace(model_opt=optax.sgd(0.0).init(params["model"]))
    _, metrics = jax.jit(bound)(state, batch())

    key = keys.at_step(keys.root(3), jnp.zeros((), jnp.int32))
    each = keys.per_clip(keys.named(key, "flow"), batch()["index"])
    video = jnp.asarray(batch()["video"], jnp.float32) / 127.5 - 1
    whole, pairs = gen.apply({"params": params}, video, method="encode_tokens")
    noise = {
        name: keys.normal(jax.vmap(keys.named, (0, None))(each, name), shape)
        for name, shape in (("whole", (2, *whole.shape[2:])), ("pairs", pairs.shape[1:]))
    }
    frames = np.mean((np.asarray(pairs) - noise["pairs"]) ** 2)
    own = np.mean((np.asarray(whole[:, 0]) - noise["whole"][:, 0]) ** 2)
    np.testing.assert_allclose(metrics["flow/frames"], frames, rtol=1e-4)
    np.testing.assert_allclose(metrics["flow/whole"], own, rtol=1e-4)
    # Two pairs of frames, and the latent of the video.
    np.testing.assert_allclose(metrics["gen/loss"], (2 * frames + own) / 3, rtol=1e-4)


@pytest.mark.parametrize(
    "given, says",
    [
        ({"size": 18}, "multiple of 4"),
        ({"widths": (8,)}, "as many"),
        ({"levels": (4, 1)}, "each at least 2"),
        ({"heads": 3}, "divide the width"),
        ({"join": 3}, "divide both"),
        ({"chunk": 5}, "even"),
        ({"margin": 6}, "at most chunk=4"),
        ({"margin": 0}, "at least 1"),
        ({"solver": "rk4"}, "euler, heun"),
        ({"steps": 0}, "at least 1"),
    ],
)
def test_wrong_arguments_are_named(given, says):
    with pytest.raises(ConfigError) as error:
        generator(**given)
    assert says in error.value.hint


def test_an_odd_number_of_frames_is_refused():
    config = methods.base("flow")
    config.data.update(path="toy", frames=5, size=SIZE)
    config.generator = ConfigDict({**config.generator.to_dict(), **TINY_FLOW_GENERATOR})
    with pytest.raises(ConfigError, match=r"config\.data\.frames is 5"):
        methods.experiment(config, CLASSES)
