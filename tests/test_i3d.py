"""I3D: its operations against XLA's 3D ones, its weights as data, and what it sees."""

import functools
import hashlib
import pathlib
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.errors import DataError
from vidgen.metrics import i3d, i3d_weights
from vidgen.video import reading

CRICKET = 227  # "playing cricket" in the order of the Kinetics-400 classes


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
@pytest.mark.parametrize("shape, stride", [((3, 3, 3, 9, 4), 1), ((7, 7, 7, 3, 4), 2),
                                           ((1, 1, 1, 9, 4), 1), ((3, 3, 3, 9, 4), 2)])  # fmt: skip
def test_sums_of_2d_convolutions_are_the_3d_one(shape, stride, steps):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, steps, 9, 12, shape[3])).astype(np.float32)
    kernel = rng.normal(size=shape).astype(np.float32)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (stride,) * 3, "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )
    found = i3d.conv3d(jnp.asarray(x), jnp.asarray(kernel), stride)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "window, strides",
    [
        ((1, 3, 3), (1, 2, 2)),
        ((3, 3, 3), (2, 2, 2)),
        ((3, 3, 3), (1, 1, 1)),
        ((2, 2, 2), (2, 2, 2)),
    ],
)
def test_pooling_is_that_of_windows(window, strides):
    x = np.random.default_rng(1).normal(size=(2, 5, 7, 8, 3)).astype(np.float32)
    expected = jax.lax.reduce_window(
        x, -np.inf, jax.lax.max, (1, *window, 1), (1, *strides, 1), "SAME"
    )
    np.testing.assert_array_equal(i3d.max_pool(jnp.asarray(x), window, strides), expected)


def test_the_weights_fill_the_network():
    shapes = jax.eval_shape(i3d.I3D().init, jax.random.key(0), jnp.zeros((1, 9, 224, 224, 3)))
    loaded = jax.tree.map(np.shape, i3d_weights.load())
    assert loaded == jax.tree.map(lambda leaf: leaf.shape, shapes["params"])


def test_batch_normalisation_is_folded_into_the_convolutions():
    with i3d_weights.find().open("rb") as file:
        raw = i3d_weights._ArraysOnly(file).load()
    name = "Conv3d_1a_7x7"
    kernel = raw["params"][name]["Conv_0"]["kernel"]
    stats, offset = raw["batch_stats"][name]["BatchNorm_0"], raw["params"][name]["BatchNorm_0"]
    x = np.random.default_rng(2).normal(size=(1, 4, 16, 16, 3)).astype(np.float32)
    plain = jax.lax.conv_general_dilated(
        x, kernel, (2, 2, 2), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )
    normal = (plain - stats["mean"]) / np.sqrt(stats["var"] + 1e-3) + offset["bias"].reshape(
        1, 1, 1, 1, -1
    )
    params = jax.tree.map(jnp.asarray, i3d_weights.load()[name])
    ours = i3d.Unit(64, 7, 2).apply({"params": params}, jnp.asarray(x))
    np.testing.assert_allclose(ours, np.maximum(normal, 0), rtol=1e-3, atol=1e-4)


@functools.cache
def _logits():
    return jax.jit(lambda params, video: i3d.I3D().apply({"params": params}, video))


def test_cricket_is_seen(real_data):
    """The clip of I3D's own release, all 32 frames of a window of it."""
    for path in sorted((real_data / "natural128" / "cricket").iterdir()):
        clip = jnp.asarray(reading.read_video(path))[None].astype(jnp.float32) / 127.5 - 1
        clip = jax.image.resize(clip, (1, 32, 224, 224, 3), "bilinear", antialias=False)
        shares = jax.nn.softmax(_logits()(i3d_weights.load(), clip))[0]
        assert shares.argmax() == CRICKET and shares[CRICKET] > 0.95


# ------------------------------------------------------------------- what is loaded is data


class Payload:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return pathlib.Path.touch, (self.mark,)


def test_a_file_that_would_run_something_is_refused(tmp_path):
    mark, path = tmp_path / "ran", tmp_path / "weights.ckpt"
    path.write_bytes(pickle.dumps({"params": Payload(mark), "batch_stats": {}}))
    with pytest.raises(DataError, match=r"is no file of I3D's weights: it names pathlib"):
        i3d_weights.load(path, None)
    assert not mark.exists()
    pickle.loads(path.read_bytes())  # an unpickler that is not restricted does run it
    assert mark.exists()


@pytest.mark.parametrize("data", [b"", b"\x80\x04", b"hello", pickle.dumps({"params": {}}),
                                  pickle.dumps([1, 2])], ids=repr)  # fmt: skip
def test_other_files_are_refused(tmp_path, data):
    path = tmp_path / "weights.ckpt"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"weights.ckpt: is no file of I3D's weights"):
        i3d_weights.load(path, None)


def test_another_file_than_the_pinned_one_is_refused(tmp_path):
    path = tmp_path / "weights.ckpt"
    path.write_bytes(b"hello")
    with pytest.raises(DataError, match=hashlib.sha256(b"hello").hexdigest()):
        i3d_weights.load(path)
    with pytest.raises(DataError, match="No such file"):
        i3d_weights.load(tmp_path / "elsewhere")


def test_missing_weights_say_how_to_get_them(monkeypatch):
    monkeypatch.setattr(i3d_weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError) as error:
        i3d_weights.find()
    assert "vidgen[fvd]" in error.value.hint
