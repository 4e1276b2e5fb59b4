"""Methods that are fitted: they go through train, sample and evaluate as the trained one does."""

import json

import jax
import numpy as np
import pytest
import scipy.stats
from conftest import tiny_config

from vidgen import methods, sampling
from vidgen.cli import main
from vidgen.errors import ConfigError
from vidgen.evaluation import evaluate, protocol
from vidgen.methods.fitted import dynamic_texture, ppca
from vidgen.run import artifacts, train
from vidgen.runtime.digests import arrays_sha256

ENDLESS = ("lookup", "dynamic_texture", "noise", "untrained")
METHODS = (*ENDLESS, "ppca")


def config(method):
    made = methods.change(tiny_config(), method)
    made.data.update(path="toy:clips=64", frames=8, size=16)
    made.training.kclips = 0.064
    return made


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Returns the workdir of each method's run."""
    folder = tmp_path_factory.mktemp("fitted")
    for method in METHODS:
        train.train(config(method), folder / method)
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_a_fitted_run_is_a_run(fitted, tmp_path, capsys, method):
    workdir = fitted / method
    written = json.loads((workdir / "run.json").read_text())
    assert written["clips"] == 64 and written["config"]["method"] == method
    assert (workdir / "samples" / "step-00000064.png").exists()
    length = "--frames=20" if method in ENDLESS else "--frames=8"
    flags = [str(workdir), "--seeds=0:2", length, f"--out={tmp_path}", "--format=npz"]
    assert main.main(["sample", *flags]) == 0
    assert main.main(["checkpoint", "verify", str(workdir)]) == 0
    train.train(config(method), workdir)
    assert "done, fitted to 64 clips" in capsys.readouterr().err
    other = config(method)
    other.seed = 1
    with pytest.raises(ConfigError, match=r"config.seed was 0, is 1"):
        train.train(other, workdir)


@pytest.mark.parametrize("method", ENDLESS)
def test_windows_agree_where_they_overlap(fitted, method):
    sampler = sampling.load(fitted / method)
    whole = sampler.sample([2, 5], 40)
    np.testing.assert_array_equal(sampler.sample([5], 9, 21)[0], whole[1, 21:30])
    assert method == "noise" or not np.array_equal(whole[0], whole[1])


def test_lookup_plays_training_clips_of_the_class_and_is_caught(fitted):
    store, clips = artifacts.open_clips(config("lookup"))
    known = {store[n].tobytes(): store.labels[n] for n in range(len(store))}
    assert clips.windows == len(known) == 64
    sampler = sampling.load(fitted / "lookup")
    made = sampler.sample(range(40), 16)
    assert {clip[:8].tobytes() for clip in made} <= known.keys()
    assert len({clip.tobytes() for clip in made}) > 20
    assert [known[clip[:8].tobytes()] for clip in made] == [n % 2 for n in range(40)]
    np.testing.assert_array_equal(made[:, 8:], made[:, :8])  # round and round
    sources = [str(fitted / name) for name in ("lookup", "untrained")]
    copied = [
        evaluate.evaluate(source, "toy:clips=64,frames=16", "pixel", clips=32).scores["copied"]
        for source in sources
    ]
    assert copied[1]["value"] == 0
    # Against clips of the length that was learnt, every one is a copy.
    short = protocol.Protocol(version=1, network="pixel", clips=32, frames=8)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(protocol.PROTOCOLS, "short", short)
        found = evaluate.evaluate(sources[0], "toy:clips=64", "short").scores
    assert found["copied"]["value"] == 1


def test_untrained_is_the_state_of_step_0(fitted):
    other = config("gan")
    state = methods.experiment(other, 2).init(other.seed)
    assert arrays_sha256(sampling.load(fitted / "untrained").params) == arrays_sha256(state.gen)


def test_noise_is_noise(fitted):
    made = sampling.load(fitted / "noise").sample(range(8), 8).astype(float)
    assert abs(made.mean() - 127.5) < 3 and 50 < made.std() < 70
    frames = made[:, :, ::4, ::4, 0].reshape(64, -1)
    apart = np.corrcoef(frames) - np.eye(64)
    assert np.abs(apart).max() < 0.95


def simulated(clips=60, steps=40, turn=0.6, decay=0.9, still=0.05, side=8, seed=0):
    """Clips in which two fixed patterns turn into each other, driven by noise, about a still."""
    rng = np.random.default_rng(seed)
    patterns = np.linalg.qr(rng.normal(size=(side * side * 3, 3)))[0].T * side
    rotation = decay * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    state = rng.normal(size=(clips, 2))
    video = np.empty((clips, steps, side * side * 3))
    own = still * rng.normal(size=(clips, 1)) * patterns[2] * 3
    for t in range(steps):
        video[:, t] = own + 0.15 * state @ patterns[:2]
        state = state @ rotation.T + np.sqrt(1 - decay**2) * rng.normal(size=(clips, 2))
    video = np.clip((video + 1) * 127.5, 0, 255).round().astype(np.uint8)
    return video.reshape(clips, steps, side, side, 3), patterns


def scores(video, patterns):
    flat = video.reshape(*video.shape[:2], -1) / 127.5 - 1
    return flat @ patterns.T / (patterns**2).sum(1)


def correlation(x, lag):
    """Correlation of two patterns' scores `[N, T, 2]` with each other's `lag` frames later."""
    x = x - x.mean(1, keepdims=True)
    before, after = x[:, : x.shape[1] - lag].reshape(-1, 2), x[:, lag:].reshape(-1, 2)
    return (before.T @ after) / (before**2).sum(0).mean()


def test_dynamic_texture_turns_as_the_clips_it_was_fitted_to():
    video, patterns = simulated()
    generator = {"kind": "dynamic_texture", "content": 1, "motion": 2, "steps": 48}
    arguments, params = dynamic_texture.fit(
        {"video": video}, generator=generator, seed=0, size=8, classes=0
    )
    meta = {"generator": arguments, "classes": [], "fps": 10}
    made = sampling.from_weights(jax.tree.map(np.asarray, params), meta, 0).sample(range(60), 40)
    real, fake = scores(video, patterns), scores(made, patterns)
    for lag in (1, 3, 6):
        np.testing.assert_allclose(
            correlation(fake[..., :2], lag), correlation(real[..., :2], lag), atol=0.12
        )
    # As much motion, and stills as far apart.
    assert fake[..., :2].std() == pytest.approx(real[..., :2].std(), rel=0.15)
    assert fake[..., 2].mean(1).std() == pytest.approx(real[..., 2].mean(1).std(), rel=0.3)


def test_dynamic_texture_is_fitted_to_each_class(fitted):
    sampler = sampling.load(fitted / "dynamic_texture")
    assert sampler.params["mean"].shape[0] == 2
    assert not np.array_equal(sampler.params["moves"][0], sampler.params["moves"][1])


def test_ppca_is_the_gaussian_of_largest_likelihood(fitted):
    """Against the whole covariance matrix, whose spectrum it keeps above the noise."""
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (60, 1, 2, 2, 3), np.uint8)
    video[..., 0] = video[..., 1]  # something to find
    batch = {"video": video}
    kind = {"kind": "ppca", "content": 4}
    arguments, params = ppca.fit(batch, generator=kind, seed=0, size=2, classes=0)
    assert arguments == {**kind, "length": 1, "size": 2, "classes": 0}
    x = video.reshape(60, -1) / 127.5 - 1
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True) + np.eye(12) / 127.5**2 / 12)
    rest = values[:-4].mean()
    whole = vectors[:, -4:] * (values[-4:] - rest) @ vectors[:, -4:].T + rest * np.eye(12)
    spread, variance = params["spread"][0], params["variance"][0]
    np.testing.assert_allclose(spread.T @ spread + variance * np.eye(12), whole, atol=1e-5)
    expected = scipy.stats.multivariate_normal(x.mean(0), whole).logpdf(x)
    found = ppca.log_density(x - x.mean(0), spread, float(variance))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    rounding = np.trace(np.linalg.inv(whole)) / 127.5**2 / 12 / 2
    bits = (rounding - expected.mean()) / 12 / np.log(2) + np.log2(127.5)
    np.testing.assert_allclose(ppca.scores(params, batch)["bits_per_dimension"], bits, rtol=1e-4)
    written = (fitted / "ppca" / "metrics.jsonl").read_text()
    assert 0 < json.loads(written.splitlines()[0])["bits_per_dimension"] < 8


def test_ppca_draws_from_its_gaussian(fitted):
    sampler = sampling.load(fitted / "ppca")
    latents = sampler.latents([3], 8)
    made = sampler.decode(latents, 8)
    params = jax.device_get(sampler.params)
    kind = int(latents["label"][0])
    expected = params["mean"][kind] + latents["content"][0] @ params["spread"][kind]
    expected = np.clip(np.round((expected + 1) * 127.5), 0, 255).reshape(made[0].shape)
    assert np.abs(made[0] - expected).max() <= 1  # rounding
    assert not np.array_equal(made, sampler.sample([3], 8, labels=1 - kind))
