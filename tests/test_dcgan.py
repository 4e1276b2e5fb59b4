"""The textbooks' networks against XLA's own 3D convolutions; their step; images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import network
from test_families import dcgan as config_of_dcgan

from vidgen import keys, methods, sampling
from vidgen.cli import main
from vidgen.errors import ConfigError
from vidgen.methods import common, dcgan
from vidgen.models import convolutions
from vidgen.models import dcgan as networks
from vidgen.run import train

rng = np.random.default_rng(0)
VOLUMES = ("NDHWC", "DHWIO", "NDHWC")


def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def test_a_convolution_that_halves_time_is_the_strided_one():
    x, kernel = normal(2, 6, 8, 8, 3), normal(4, 4, 4, 3, 5)
    around = ((1, 1),) * 3
    expected = jax.lax.conv_general_dilated(x, kernel, (2, 2, 2), around, dimension_numbers=VOLUMES)
    layer = convolutions.Convolution(5, 4, halve=True)
    found = layer.apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("features", [3, 9])
def test_a_transposed_convolution_that_doubles_time_undoes_the_strided_one(features):
    """It is the gradient of the strided convolution by its input."""
    x, kernel = normal(2, 3, 4, 4, 5), normal(4, 4, 4, 5, features)
    halve = lambda video: jax.lax.conv_general_dilated(  # noqa: E731
        video, kernel.swapaxes(3, 4), (2, 2, 2), ((1, 1),) * 3, dimension_numbers=VOLUMES
    )
    expected = jax.vjp(halve, jnp.zeros((2, 6, 8, 8, features)))[1](x)[0]
    layer = convolutions.TransposedConvolution(features, clip=True)
    found = layer.apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("rise", ["transposed", "resize"])
@pytest.mark.parametrize("length, doubled", [(1, 0), (6, 1), (8, 2)])
def test_shapes_and_layers_of_images_and_clips(rise, length, doubled):
    shared = {"size": 16, "classes": 3, "length": length, "features": 4}
    gen = network("generator", "dcgan", **shared, content=5, rise=rise)
    dis = network("discriminator", "dcgan", **shared)
    noise = (normal(2, 5), None, None, None, jnp.array([0, 2]))
    init = functools.partial(gen.init_with_output, frames=length)
    video, variables = jax.jit(init)(jax.random.key(0), *noise)
    assert video.shape == (2, length, 16, 16, 3) and float(jnp.abs(video).max()) <= 1
    dense = variables["params"]["Dense_0"]["kernel"]
    assert dense.shape == (5 + 3, (length >> doubled) * 16 * 8)
    logits, variables = jax.jit(dis.init_with_output)(jax.random.key(0), video, noise[-1])
    assert logits.shape == (2,)
    kernels = [p["kernel"] for n, p in variables["params"].items() if n.startswith("Convolution")]
    assert [len(k) for k in kernels] == [4 if n < doubled else 1 for n in range(2)]
    other = jax.jit(dis.apply)(variables, video, jnp.array([1, 2]))
    assert other[0] != logits[0]


def test_resizing_repeats_pixels_and_frames():
    """With kernels that copy their middle, a layer shows each pixel and frame twice."""
    gen = networks.DcganGenerator(size=8, length=2, features=2, rise="resize", norm=False)
    kernel = np.zeros((3, 3, 3, 2, 3), np.float32)
    kernel[1, 1, 1, 0, 0] = 1  # middle row, column, frame
    dense = {"kernel": normal(100, 32)}
    params = {
        "Dense_0": dense,
        "norm0": jnp.zeros(2),
        "Conv3x3_0": {"kernel": kernel.reshape(3, 3, 6, 3), "bias": jnp.zeros(3)},
    }
    content = normal(1, 100)
    video = gen.apply({"params": params}, content, None, None, None, frames=2)
    small = np.maximum(content @ dense["kernel"], 0).reshape(4, 4, 2)[..., 0]
    expected = np.tanh(np.repeat(np.repeat(small, 2, 0), 2, 1))
    for frame in range(2):
        np.testing.assert_allclose(video[0, frame, ..., 0], expected, rtol=1e-5)


@functools.cache
def stepped(loss="non_saturating", play=True):
    shared = {"size": 8, "classes": 3, "length": 2, "features": 4}
    gen = network("generator", "dcgan", **shared, content=5)
    dis = network("discriminator", "dcgan", **shared)
    players = common.Players(gen, dis, optax.sgd(0.1), optax.sgd(0.1))
    batch = {
        "video": rng.integers(0, 256, (6, 2, 8, 8, 3), np.uint8),
        "index": np.arange(6, dtype=np.int32),
        "label": np.arange(6, dtype=np.int32) % 3,
    }
    init = functools.partial(dcgan.init, players=players, frames=2)
    state = jax.jit(init, static_argnums=0)(0)
    step = functools.partial(
        dcgan.step, players=players, loss=loss, play=play, ema_decay=lambda step: 0.25
    )
    return gen, dis, batch, state, *jax.jit(step)(state, batch)


def test_the_losses_are_cross_entropies_of_clips_judged_apart():
    gen, dis, batch, state, after, metrics = stepped()
    key = keys.named(keys.at_step(keys.root(0), 0), "noise")

    @jax.jit
    def generate(params):
        noise = common.draw(key, jnp.asarray(batch["index"]), gen=gen, frames=2)
        label = jnp.asarray(batch["label"])
        return gen.apply({"params": params}, *noise, label, frames=2, mutable="stats")

    fake, _ = generate(state.gen)
    real = batch["video"].astype(np.float32) / 127.5 - 1
    run = jax.jit(dis.apply)
    judge = lambda params, video: np.float64(run({"params": params}, video, batch["label"]))  # noqa: E731
    of = lambda logits, real: -np.mean(np.log(1 / (1 + np.exp(logits * (-1) ** real))))  # noqa: E731
    expected = of(judge(state.dis, real), True) + of(judge(state.dis, fake), False)
    np.testing.assert_allclose(metrics["dis/loss"], expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["gen/loss"], of(judge(after.dis, fake), True), rtol=1e-4)
    for part in ("gen", "dis", "ema"):
        before, now = getattr(state, part), getattr(after, part)
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), before, now)))


def test_the_discriminator_can_be_trained_alone():
    *_, state, after, metrics = stepped(play=False)
    jax.tree.map(np.testing.assert_array_equal, (state.gen, state.ema), (after.gen, after.ema))
    assert "gen/loss" not in metrics and int(after.step) == 1


def test_a_paired_loss_sees_the_real_clips():
    *_, metrics = stepped("rpgan")
    assert np.isfinite(metrics["gen/loss"]) and metrics["gen/loss"] != stepped()[-1]["gen/loss"]


def test_images_are_videos_of_one_frame(tmp_path, capsys):
    config = config_of_dcgan()
    config.data.frames = config.sampling.frames = 1
    config.training.update(kclips=0.008, watch_kclips=0.008)
    train.train(config, tmp_path / "run")
    assert main.main(["sample", str(tmp_path / "run"), "--seeds=0:3", f"--out={tmp_path}"]) == 0
    assert len(list(tmp_path.glob("seed-*.png"))) == 3 and "grid.png" in capsys.readouterr().out


def test_a_clip_ends(tmp_path):
    config = config_of_dcgan()
    config.training.kclips = 0.008
    train.train(config, tmp_path)
    sampler = sampling.load(tmp_path)
    assert sampler.limit == 4
    with pytest.raises(ConfigError) as error:
        sampler.sample([0], 3, 2)
    assert "end after 4 frames" in error.value.hint
    with pytest.raises(ConfigError, match="end after 4 frames"):
        next(sampler.stream(0))


@pytest.mark.parametrize(
    "section, field, value, says",
    [
        ("data", "size", 12, "8, 16, 32"),
        ("generator", "rise", "up", "transposed or resize"),
        ("generator", "features", 0, "at least 1"),
    ],
)
def test_what_it_cannot_take_is_named(section, field, value, says):
    config = config_of_dcgan()
    config[section][field] = value
    with pytest.raises(ConfigError) as error:
        methods.validate(config)
        methods.experiment(config, 2)
    assert f"config.{section}.{field}" in str(error.value) and says in error.value.hint
