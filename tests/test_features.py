"""What is measured of a clip: motion of known size, and the same whatever is measured beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from vidgen.errors import ConfigError
from vidgen.metrics import features
from vidgen.metrics.optical_flow import flow

RANDOM = features.network("random")


def texture(seed=0, size=64):
    """A smooth pattern without seams, float `[size, size, 3]` in 0..255."""
    noise = np.random.default_rng(seed).random((size, size, 3))
    smooth = ndimage.gaussian_filter(noise, (3, 3, 0), mode="wrap")
    return 255 * (smooth - smooth.min()) / np.ptp(smooth)


def sliding(step, frames=12, seed=0, size=64):
    """A pattern that slides by (rows, columns) pixels a frame, round the edges."""
    rows = [
        ndimage.shift(texture(seed, size), (step[0] * t, step[1] * t, 0), order=3, mode="grid-wrap")
        for t in range(frames)
    ]
    return np.clip(np.stack(rows), 0, 255).round().astype(np.uint8)


def measured(*clips):
    found = features.appearance_and_motion(RANDOM.params, jnp.asarray(np.stack(clips)))
    return {name: np.asarray(value, np.float64) for name, value in found.items()}


@pytest.mark.parametrize("step", [(0.5, 1.2), (2, -1.5), (-3, 0), (0, 0)])
def test_flow_is_what_a_pattern_slides_by(step):
    grey = sliding(step, 3)[..., 0].astype(np.float32) / 255
    found = np.asarray(flow(jnp.asarray(grey)))[:, 10:-10, 10:-10]  # what came round has no origin
    np.testing.assert_allclose(found.mean((0, 1, 2)), step, atol=0.05)
    assert found.std((0, 1, 2)).max() < 0.3


def test_motion_of_clips_that_stand_slide_blink_and_return():
    still, slow = sliding((0, 0)), sliding((0, 1))
    fast = sliding((0, 2))
    blink = np.clip(still.astype(int) + 20 * (np.arange(12) % 2)[:, None, None, None], 0, 255)
    there_and_back = np.concatenate([fast[:4], fast[2:3], fast[1:2]] * 2)
    found = measured(still, slow, fast, blink.astype(np.uint8), there_and_back)
    assert found["static"].tolist() == [1, 0, 0, 0, 0]
    assert found["difference"][0] == 0 and found["drift"][0] == 0
    np.testing.assert_allclose(found["flow"][1:3], [100 / 64, 200 / 64], rtol=0.1)
    assert found["flow"][0] == 0
    # Second differences: 40 levels when all light blinks (less where it is clipped), little when
    # a pattern slides.
    assert 30 < found["flicker"][3] <= 40.1 and found["flicker"][1] < 4
    assert found["period"][4] > 0.95  # frames 0 to 5 come again
    assert found["period"][0] == 0 and found["period"][1] < 0.2
    assert found["drift"][2] > 0


def test_frozen_and_reversed_clips_differ_in_the_random_networks_features():
    clip = sliding((1, 2))
    others = np.stack([clip, clip[::-1], np.repeat(clip[:1], 12, 0), sliding((1, 2), seed=1)])
    found = np.asarray(RANDOM.apply(RANDOM.params, jnp.asarray(others))["clip"])
    apart = np.linalg.norm(found - found[0], axis=1)
    assert apart[1] > 1e-3 and apart[2] > 1e-2 and apart[3] > 1e-2


@pytest.mark.parametrize("name", ["random", pytest.param("pixel", marks=pytest.mark.thorough)])
def test_features_depend_on_neither_batch_nor_devices(name):
    clips = [sliding((0, k % 3), 6, k, 32) for k in range(5)]
    measure = features.everything(features.network(name))
    one = features.extract(measure, clips, batch=1, devices=jax.devices()[:1])
    for batch, devices in ((1, 8), (3, 1)):
        other = features.extract(measure, clips, batch=batch, devices=jax.devices()[:devices])
        assert other.keys() == one.keys()
        for key in one:
            assert len(one[key]) == 5
            # Other programs: the order of sums may be another, by a few last bits.
            np.testing.assert_allclose(other[key], one[key], rtol=2e-5, atol=2e-5, err_msg=key)


def test_progress_counts_clips():
    seen = []
    clips = [sliding((0, 0), 4, k, 16) for k in range(5)]
    features.extract(
        features.plain(), clips, batch=2, progress=seen.append, devices=jax.devices()[:1]
    )
    assert seen == [2, 4, 5]


def test_unknown_networks_and_weights_without_use_are_refused():
    with pytest.raises(ConfigError, match="'inception'"):
        features.network("inception")
    with pytest.raises(ConfigError, match="i3d"):
        features.network("random", "weights.npz")
