"""The variational autoencoder: its bound in closed form, its encoder's time, its latents."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import network
from PIL import Image
from scipy import stats

from vidgen import config as configs
from vidgen import keys, methods, sampling
from vidgen.cli import main
from vidgen.errors import ConfigError
from vidgen.evaluation import evaluate, windows
from vidgen.methods import vae
from vidgen.models import protocol
from vidgen.run import artifacts
from vidgen.runtime import devices
from vidgen.runtime.checkpoint import Checkpoints
from vidgen.sampling import edit
from vidgen.training import losses

rng = np.random.default_rng(0)

SMALL = {
    "widths": (8, 8),
    "head": 8,
    "palette": 2,
    "content": 6,
    "motion": 4,
    "style": 16,
    "stride": 4,
    "encoder_widths": (8, 16),
    "features": 16,
}


def test_the_divergence_is_that_of_full_gaussians():
    mean, log_variance = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 4))
    found = losses.gaussian_kl(jnp.array(mean), jnp.array(log_variance))
    for m, v, value in zip(mean.reshape(2, -1), np.exp(log_variance).reshape(2, -1), found,
                           strict=True):  # fmt: skip
        full = 0.5 * (np.trace(np.diag(v)) + m @ m - len(m) - np.linalg.slogdet(np.diag(v))[1])
        np.testing.assert_allclose(value, full, rtol=1e-5)
        noise = jnp.array(rng.normal(size=(40_000, 12)))
        posterior = (jnp.broadcast_to(x, noise.shape) for x in (m, np.log(v)))
        drawn = losses.reparameterized(tuple(posterior), noise)
        each = stats.norm(m, np.sqrt(v)).logpdf(drawn) - stats.norm.logpdf(drawn)
        np.testing.assert_allclose(each.sum(1).mean(), full, rtol=0.02)


def test_likelihoods_are_those_of_their_distributions():
    video, made = rng.uniform(-1, 1, (2, 3, 2, 4, 4, 3))
    total = lambda x: x.reshape(3, -1).sum(1)  # noqa: E731
    coins = np.sign(video)
    chance = np.clip((made + 1) / 2, 0.5 / 255, 1 - 0.5 / 255)
    expected = {
        "mse": (video, total(stats.norm(made, 0.3).logpdf(video)), 1e-5),
        "l1": (video, total(stats.laplace(made, 0.3).logpdf(video)), 1e-5),
        "cross_entropy": (coins, total(stats.bernoulli(chance).logpmf((coins + 1) / 2)), 0.02),
    }
    assert expected.keys() == losses.LIKELIHOODS.keys()
    for name, (real, value, precision) in expected.items():
        found = losses.LIKELIHOODS[name](jnp.array(real), jnp.array(made), 0.3)
        np.testing.assert_allclose(found, value, rtol=precision)
    # A grey is likeliest where the same grey is made, and certainty is not punished without end.
    grey = lambda x: losses.bernoulli_likelihood(  # noqa: E731
        jnp.full((1, 1), 0.2), jnp.full((1, 1), x), 0.0
    )
    assert grey(0.2) > max(grey(0.1), grey(0.3)) and np.isfinite(grey(1.0)).all()


class Linear(protocol.GeneratorDefaults):
    """Factor analysis as an autoencoder: clips `W z + b` and noise; its posterior is known.

    The columns of W are orthogonal, so that the posterior has a diagonal covariance.
    """

    classes, size, content, motion = 0, 2, 3, 2

    def __init__(self, scale):
        self.scale = scale
        self.w = np.linalg.qr(rng.normal(size=(24, 3)))[0] * np.array([0.3, 1.0, 2.0])
        self.b = rng.normal(size=24) * 0.1

    def check(self):
        raise NotImplementedError

    def init(self, rngs, *given):
        raise NotImplementedError

    def keyframes(self, frames):
        return frames

    def apply(self, variables, *given, frames=None, method=None):
        shift, spread = variables["params"]["shift"], variables["params"]["spread"]
        if method == "encode":
            precision = 1 + (self.w**2).sum(0) / self.scale**2
            mean = (given[0].reshape(-1, 24) - self.b[None]) @ (self.w / self.scale**2)
            mean = mean / precision[None] + shift
            log_variance = jnp.broadcast_to(spread - jnp.log(precision)[None], mean.shape)
            none = jnp.zeros((len(mean), 2, 2))
            return (mean, log_variance), (none, none)
        return (given[0] @ self.w.T + self.b[None]).reshape(-1, 2, 2, 2, 3)


def test_the_bound_is_the_likelihood_at_the_exact_posterior_and_lower_at_others():
    """By the step itself: log N(x; b, W W' + s^2), the mean over the noise of 4096 equal clips."""
    gen, tx = Linear(0.4), optax.sgd(1.0)
    clip = rng.integers(60, 200, (1, 2, 2, 2, 3), np.uint8)
    batch = {"video": jnp.repeat(clip, 4096, 0), "index": jnp.arange(4096)}
    x = clip.reshape(-1) / 127.5 - 1
    exact = stats.multivariate_normal(gen.b, gen.w @ gen.w.T + 0.4**2 * np.eye(24)).logpdf(x)

    @jax.jit
    def bound(shift, spread):
        params = {"shift": shift, "spread": spread}
        state = vae.State(
            jnp.array(0), jax.random.key_data(keys.root(0)), params, params, tx.init(params)
        )
        given = {"reconstruction": "mse", "scale": 0.4, "beta": lambda step: 1.0}
        after, found = vae.step(state, batch, gen=gen, gen_tx=tx, ema_decay=lambda step: 0.0,
                                **given)  # fmt: skip
        return found, after.gen

    found, after = bound(0.0, 0.0)
    np.testing.assert_allclose(found["gen/elbo"], exact, atol=0.08)
    np.testing.assert_allclose(found["gen/loss"], -found["gen/elbo"] / 24, rtol=1e-5)
    np.testing.assert_allclose([after["shift"], after["spread"]], 0, atol=2e-2)  # a maximum
    for other in ((0.5, 0.0), (-0.5, 0.0), (0.0, 1.0), (0.0, -1.0)):
        assert bound(*other)[0]["gen/elbo"] < exact - 0.2


@functools.cache
def small(size=16, classes=2, **more):
    return network("generator", "vae", size=size, classes=classes, **{**SMALL, **more})


@functools.cache
def weights(**more):
    random = np.random.default_rng(1)
    make = lambda x: (0.3 * random.normal(size=x.shape)).astype(np.float32)  # noqa: E731
    return jax.tree.map(make, protocol.abstract_params(small(**more)))


def encode(video, start, **more):
    frames = more.pop("frames", None)
    apply = functools.partial(small(**more).apply, method="encode")
    run = jax.jit(lambda *given: apply(*given, frames))
    return run({"params": weights(**more)}, video, jnp.array([start]), jnp.array([1]))


def test_a_keyframe_within_two_windows_has_one_posterior():
    """They lie at multiples of the stride, wherever a window begins; seen from nearby."""
    video = jnp.array(rng.uniform(-1, 1, (1, 14, 16, 16, 3)))
    one, two = encode(video[:, :12], 4)[1], encode(video[:, 2:], 6)[1]
    assert one[0].shape == (1, small().keyframes(12), SMALL["motion"])
    for a, b in zip(
        one, two, strict=True
    ):  # keyframes at 0, 4, 8, ... of which 8 and 12 lie in both
        np.testing.assert_allclose(a[:, 2:4], b[:, 2:4], atol=1e-5)
        assert np.abs(a[:, 1] - b[:, 1]).min() > 1e-4  # one window begins at it, one after it


def test_knots_beyond_the_video_tell_how_far():
    video = jnp.array(rng.uniform(-1, 1, (1, 6, 16, 16, 3)))
    (content, _), (motion, _) = encode(video, 0)
    (same, _), (more, _) = encode(video, 0, frames=16)
    np.testing.assert_allclose(content, same, atol=1e-5)
    np.testing.assert_allclose(motion, more[:, : motion.shape[1]], atol=1e-5)
    assert more.shape[1] == small().keyframes(16) > motion.shape[1]
    steps = np.abs(np.diff(more, axis=1)).max((0, 2))
    assert steps[2] > 1e-3 and steps[3] > 1e-3  # at 8 and 12, beyond the last frame
    np.testing.assert_allclose(steps[-1], 0, atol=1e-5)  # no clip was ever seen from there


def test_content_does_not_see_the_order_of_frames_but_motion_does():
    video = jnp.array(rng.uniform(-1, 1, (1, 1, 16, 16, 3)))
    still = jnp.repeat(video, 6, 1)
    ramp = jnp.linspace(-0.5, 0.5, 6).reshape(1, 6, 1, 1, 1)
    (a, _), (b, _) = encode(0.5 * (still + ramp), 0, time_layers=0)
    (c, _), (d, _) = encode(0.5 * (still + ramp[:, ::-1]), 0, time_layers=0)
    np.testing.assert_allclose(a, c, atol=1e-5)
    assert np.abs(b - d).max() > 1e-2


def tiny(beta=1.0, **objective):
    config = methods.base("vae")
    config.data.update(path="toy:clips=64,size=8", frames=4, size=8)
    config.generator.update(SMALL, widths=(8,), encoder_widths=(16,))  # quickly compiled
    config.discriminator = {"kind": "residual", "front": 12, "neck": 8, "fold": 2, "widths": (8,)}
    config.objective.update(objective, beta=configs.constant(beta))
    config.optimizer.update(name="sgd", learning_rate=configs.constant(0.01))
    config.training.update(kclips=0.016, batch_size=8)
    return config


@functools.cache
def started(adversarial):
    config = tiny(adversarial=adversarial)
    config.data.pick = 2 if adversarial else 0  # a discriminator has parameters for it
    return jax.jit(methods.experiment(config, 2).init, static_argnums=0)(0)


@functools.cache
def stepped(pick=0, adversarial=0.0, **objective):
    config = tiny(adversarial=adversarial, **objective)
    config.data.pick = pick
    experiment, state = methods.experiment(config, 2), started(adversarial)
    batch = devices.numeric(artifacts.open_clips(config)[1].take(0, 8))
    return experiment, batch, state, *jax.jit(experiment.step)(state, batch)


def test_the_parts_of_the_loss_add_up():
    _, batch, _, _, found = stepped(beta=0.5, reconstruction="l1", scale=0.7)
    n = batch["video"][0].size
    loss = found["gen/reconstruction"] + 0.5 * found["gen/kl"] / n
    np.testing.assert_allclose(found["gen/loss"], loss, rtol=1e-5)
    bound = -n * found["gen/reconstruction"] - found["gen/kl"]
    np.testing.assert_allclose(found["gen/elbo"], bound, rtol=1e-5)
    assert found["gen/kl"] > 0 and not found["skipped"]


def test_frames_that_are_picked_stand_for_all():
    _, _, _, whole, one = stepped()
    _, _, _, same, two = stepped(pick=4)  # all of them
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-4, err_msg=name)
    for a, b in zip(jax.tree.leaves(whole.gen), jax.tree.leaves(same.gen), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    some = stepped(pick=2)[-1]
    np.testing.assert_allclose(some["gen/kl"], one["gen/kl"], rtol=1e-5)
    np.testing.assert_allclose(some["gen/elbo"], one["gen/elbo"], rtol=0.2)


def test_every_parameter_learns_and_noise_is_each_steps_own():
    experiment, batch, state, after, found = stepped()
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.gen, after.gen)
    still = [path for path, m in jax.tree_util.tree_leaves_with_path(moved) if not m]
    # Blocks begin at zero, so what lies before their last layer learns from the next step on.
    assert all({"level0", "level1", "level0_0", "level1_0"} & {k.key for k in p} for p in still)
    again = jax.jit(experiment.step)(state.replace(step=state.step + 1), batch)[1]
    assert abs(again["gen/reconstruction"] - found["gen/reconstruction"]) > 1e-6


def test_a_discriminator_is_there_only_with_its_weight():
    _, _, state, plain, found = stepped(pick=2)
    assert state.dis is None and plain.dis_opt is None
    assert not any(name.startswith("dis/") for name in found)
    _, batch, state, after, found = stepped(pick=2, adversarial=0.5)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.dis, after.dis)
    assert any(jax.tree.leaves(moved))
    n = batch["video"][0].size
    np.testing.assert_allclose(
        found["gen/loss"] + found["gen/elbo"] / n, 0.5 * found["gen/adversarial"], rtol=1e-3
    )
    taught = optax.tree.norm(jax.tree.map(jnp.subtract, plain.gen, after.gen))
    assert taught > 1e-3 * optax.tree.norm(jax.tree.map(jnp.subtract, plain.gen, state.gen))


def test_reconstructions_are_judged_by_the_discriminator_that_has_just_learnt():
    _, batch, state, _, slow = stepped(pick=2, adversarial=0.5)
    config = tiny(adversarial=0.5)
    config.data.pick, config.optimizer.discriminator_rate = 2, 50.0
    _, fast = jax.jit(methods.experiment(config, 2).step)(state, batch)
    assert fast["dis/real"] == slow["dis/real"]  # which was judged before it learnt
    assert abs(fast["gen/adversarial"] - slow["gen/adversarial"]) > 1e-3


@functools.cache
def trained():
    """Half a minute of training on a few clips, learnt by heart."""
    config = tiny(scale=0.2)
    config.data.path = "toy:clips=8,size=8"
    config.optimizer.update(name="adam", learning_rate=configs.constant(5e-3))
    config.training.update(kclips=2.4)
    experiment = methods.experiment(config, 2)
    store, clips = artifacts.open_clips(config)
    state, step = jax.jit(experiment.init, static_argnums=0)(0), jax.jit(experiment.step)
    batch = devices.numeric(clips.take(0, 8))
    first = None
    for at in range(300):
        state, found = step(state, {**batch, "index": batch["index"] + 8 * at})
        first = first or found
    meta = artifacts.meta(config, experiment.generator, store, clips)
    return sampling.from_weights(state.gen, meta, 300), batch, meta, first, found


def test_clips_are_reconstructed_from_their_latents():
    sampler, batch, _, first, last = trained()
    assert last["gen/elbo"] > first["gen/elbo"] and last["gen/error"] < 0.6 * first["gen/error"]
    video = batch["video"]
    found = sampler.encode(video, batch["label"].tolist())
    drawn = sampler.latents(range(8), 4)
    assert {n: (x.shape, x.dtype) for n, x in found.items()} == {
        n: (x.shape, x.dtype) for n, x in drawn.items()
    }
    error = lambda made: float(np.sqrt(np.mean((made - video.astype(float)) ** 2)))  # noqa: E731
    made = error(sampler.decode(found, 4))
    assert made < 0.6 * error(video.mean((0, 1), keepdims=True)), made
    for part in ("content", "motion"):  # both are needed
        other = {**found, part: np.roll(found[part], 1, 0)}
        assert error(sampler.decode(other, 4)) > 1.1 * made, part


def test_inversion_begins_with_the_encoder_and_comes_nearer():
    sampler, _, meta, *_ = trained()
    clips = artifacts.open_clips(configs.from_json(meta["config"]))[1].first(2)
    real, names = clips["video"], clips["label"].tolist()
    begun, _ = sampling.invert(sampler, real, names, steps=0)
    np.testing.assert_array_equal(begun["content"], sampler.encode(real, names)["content"])
    found, _ = sampling.invert(sampler, real, names, steps=60)
    before, after = (sampling.psnr(real, sampler.decode(one, 4)) for one in (begun, found))
    assert (after > before + 0.1).all()


def test_the_command_writes_clips_above_their_reconstructions(tmp_path, capsys):
    sampler, _, meta, *_ = trained()
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(300, {"ema": sampler.params}, meta)
    checkpoints.close()
    out = tmp_path / "grid.png"
    arguments = ["reconstruct", str(tmp_path), "toy:clips=8,size=8", "--clips=3", f"--out={out}"]
    assert main.main(arguments) == 0
    found = artifacts.open_clips(configs.from_json(meta["config"]))[1].first(3)
    made = sampler.decode(sampler.encode(found["video"], found["label"].tolist()), 4)
    error = (made - found["video"].astype(float)) ** 2
    expected = np.mean(10 * np.log10(255**2 / error.mean((1, 2, 3, 4))))
    assert f"PSNR {expected:.2f} dB, mean of 3 clips from step 300" in capsys.readouterr().out
    with Image.open(out) as image:
        rows = np.asarray(image).reshape(6, 8, 4, 8, 3).transpose(0, 2, 1, 3, 4)
    np.testing.assert_array_equal(rows[::2], found["video"])
    np.testing.assert_array_equal(rows[1::2], made)
    assert main.main([*arguments[:3], "--clips=0"]) == 2


def test_reconstructions_of_the_real_clips_are_measured_beside_them(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))
    sampler, _, meta, *_ = trained()
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(300, {"ema": sampler.params}, meta)
    checkpoints.close()
    path = "toy:clips=8,size=8,frames=16"
    found = evaluate.evaluate(tmp_path, path, "pixel", clips=8, reconstructions=True)
    real = windows.Windows(path, windows.WindowSpec(frames=16, size=8))
    made = sampler.reconstruct(np.stack(list(real.read(8))), real.labels(8))
    np.testing.assert_array_equal(found.clips, made)
    assert found.subject["reconstructions"] and found.subject["clips"] == 8
    flags = [str(tmp_path), "--reconstructions", "--protocol=pixel", "--clips=8"]
    assert main.main(["evaluate", *flags, f"--against={path}"]) == 0
    assert (tmp_path / "reconstructions" / "300" / "report.json").is_file()
    np.save(tmp_path / "clips.npy", made)  # clips without classes
    assert main.main(["evaluate", *flags, f"--against={tmp_path / 'clips.npy'}"]) == 2


def test_clips_are_encoded_alike_in_any_company():
    sampler, batch, *_ = trained()
    meta = {"classes": sampler.classes, "fps": 1.0}
    many = sampling.from_generator(sampler.generator, sampler.params, meta, 0, batch=3)
    one, two = (s.encode(batch["video"], batch["label"].tolist()) for s in (sampler, many))
    for name in one:
        np.testing.assert_allclose(one[name], two[name], atol=1e-4)


@pytest.mark.parametrize(
    "clips, labels, says",
    [
        (np.zeros((1, 6, 16, 16, 3), np.float32), 0, "uint8"),
        (np.zeros((1, 6, 8, 8, 3), np.uint8), 0, "16, 16"),
        (np.zeros((6, 16, 16, 3), np.uint8), 0, "uint8"),
        (np.zeros((1, 6, 16, 16, 3), np.uint8), None, "classes"),
        (np.zeros((1, 6, 16, 16, 3), np.uint8), [0, 1], "one for each"),
    ],
)
def test_clips_that_cannot_be_encoded_are_named(clips, labels, says):
    meta = {"classes": ("disc", "square"), "fps": 1.0}
    sampler = sampling.from_generator(small(), weights(), meta, 0)
    with pytest.raises(ConfigError) as error:
        sampler.encode(clips, labels)
    assert says in str(error.value.hint)


def test_other_generators_say_that_they_cannot_encode():
    generator = network("generator", "residual", size=16, widths=(8, 8))
    sampler = sampling.from_generator(generator, {}, {"classes": (), "fps": 1.0}, 0)
    with pytest.raises(ConfigError, match="cannot encode"):
        sampler.encode(np.zeros((1, 6, 16, 16, 3), np.uint8))


def test_between_latents_lies_an_arc():
    a, b = rng.normal(size=(2, 5, 12)).astype(np.float32)
    turns, labels = np.array([[0.1], [0.9], [0.5], [0.2], [0.0]]), np.arange(5, dtype=np.int32)
    make = lambda x, cycle, label: {  # noqa: E731
        "content": x,
        "motion": x.reshape(5, 3, 4),
        "cycle": cycle.astype(np.float32),
        "label": label,
    }
    one, two = make(a, turns, labels), make(b, np.roll(turns, 1, 0), labels[::-1])
    found = edit.interpolate(one, two, [0.0, 0.5, 1.0])
    assert all(x.shape == (15, *one[n].shape[1:]) and x.dtype == one[n].dtype
               for n, x in found.items())  # fmt: skip
    for name, end in ((0, one), (2, two)):
        np.testing.assert_allclose(found["content"][name::3], end["content"], atol=1e-5)
        np.testing.assert_allclose(found["motion"][name::3], end["motion"], atol=1e-5)
        np.testing.assert_array_equal(found["label"][name::3], end["label"])
    np.testing.assert_allclose(found["cycle"][1::3, 0], [0.05, 0.0, 0.7, 0.35, 0.1], atol=1e-6)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    length = (np.linalg.norm(a, axis=1) + np.linalg.norm(b, axis=1)) / 2
    half = unit(unit(a) + unit(b)) * length[:, None]  # the middle of an arc halves its angle
    np.testing.assert_allclose(found["content"][1::3], half, atol=1e-5)
    straight = edit.interpolate(one, {**one, "content": -a}, [0.25])["content"]
    np.testing.assert_allclose(straight, 0.5 * a, atol=1e-5)


def test_latents_without_a_middle_are_named():
    one = {"content": np.zeros((2, 3), np.float32)}
    with pytest.raises(ConfigError, match="are not alike"):
        edit.interpolate(one, {"content": np.zeros((1, 3), np.float32)}, [0.5])
    for parts in ([], [1.5], np.full((1, 1), 0.5)):
        with pytest.raises(ConfigError, match="parts are"):
            edit.interpolate(one, one, parts)


@pytest.mark.parametrize(
    "given, says",
    [
        ({"encoder_widths": (8, 8, 8, 8)}, "multiple of 32"),
        ({"widths": (8, 8, 8, 8)}, "multiple of 32"),
        ({"motion": 0}, "at least 1"),
        ({"periods": (5,)}, "?"),
    ],
)
def test_wrong_arguments_are_named(given, says):
    with pytest.raises(ConfigError) as error:
        network("generator", "vae", size=16, **given)
    assert says in error.value.hint


@pytest.mark.parametrize(
    "section, field, value",
    [
        ("objective", "scale", 0.0),
        ("objective", "reconstruction", "l2"),
        ("objective", "adversarial", -1.0),
        ("objective", "beta", configs.constant(-1.0)),
        ("generator", "kind", "residual"),
        ("discriminator", "kind", "mocogan"),
        ("data", "pick", 3),
    ],
)
def test_what_the_method_cannot_take_is_named(section, field, value):
    config = tiny(adversarial=0.5)
    config[section][field] = value
    with pytest.raises(ConfigError, match=rf"config\.{section}\.{field}"):
        methods.validate(config)
        methods.experiment(config, 2)
