"""EfficientNet-Lite0: its operations against XLA's, its weights as data, and what it sees."""

import collections
import functools
import io
import pickle
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.errors import DataError
from vidgen.models.features import efficientnet, efficientnet_weights
from vidgen.video import reading

SIZES = [(8, 8), (7, 10), (2, 2), (1, 5)]


@pytest.mark.parametrize("side, stride", [(3, 1), (3, 2), (5, 1), (5, 2)])
@pytest.mark.parametrize("size", SIZES)
def test_sums_of_shifted_maps_are_the_depthwise_convolution(size, side, stride):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, 6)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(side, side, 6)), jnp.float32)
    found, back = jax.vjp(lambda x: efficientnet._shifted(x, kernel, stride), x)
    expected, plain = jax.vjp(lambda x: efficientnet._grouped(x, kernel, stride), x)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    slopes = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)
    np.testing.assert_allclose(back(slopes)[0], plain(slopes)[0], atol=1e-5)


def test_taps_are_features_at_their_downsampling():
    weights, images = efficientnet_weights.load(), jnp.zeros((2, 64, 96, 3))
    every = jax.eval_shape(functools.partial(efficientnet.features, weights), images)
    assert {tap: x.shape[1:] for tap, x in every.items()} == {
        4: (16, 24, 24),
        8: (8, 12, 40),
        16: (4, 6, 112),
        32: (2, 3, 320),
    }
    mixed = jax.eval_shape(lambda x: efficientnet.mixed(weights, x, (8, 32)), images)
    assert {tap: x.shape for tap, x in mixed.items()} == {8: (2, 8, 12, 48), 32: (2, 2, 3, 96)}


def test_scales_are_mixed_from_coarse_to_fine():
    """What changes at the coarsest tap alone is seen in the finer ones beside it, not in others."""
    weights = efficientnet_weights.load()
    deepest = {**weights, "tap32": {**weights["tap32"], "mean": weights["tap32"]["mean"] + 1}}
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)), jnp.float32)
    changed = {}
    for taps in ((4, 8, 16, 32), (4, 8, 32)):
        one, two = (efficientnet.mixed(w, images, taps) for w in (weights, deepest))
        changed[taps] = [tap for tap in taps if not np.allclose(one[tap], two[tap])]
    assert changed == {(4, 8, 16, 32): [4, 8, 16, 32], (4, 8, 32): [32]}


def test_what_is_mixed_has_about_unit_variance():
    """Of smooth noise; the statistics that standardise are ImageNet's."""
    weights = efficientnet_weights.load()
    coarse = np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 3))
    images = jax.image.resize(jnp.asarray(coarse, jnp.float32), (8, 64, 64, 3), "bilinear")
    for x in efficientnet.mixed(weights, images, (4, 8, 16, 32)).values():
        assert 0.5 < float(x.std()) < 1.5


@pytest.mark.parametrize(
    "clip, labels",
    [
        ("cat/*", range(281, 286)),  # cats
        ("talking_face/*", (457, 834, 906)),  # bow tie, suit, Windsor tie
        ("bird/*", (87, 88, 89)),  # parrots and the cockatoo
    ],
)
def test_pictures_get_sensible_labels(real_data, clip, labels):
    weights = efficientnet_weights.load()
    paths = sorted((real_data / "natural128").glob(clip))[:3]
    frames = np.stack([reading.read_video(path)[16] for path in paths])
    images = jnp.asarray(frames, jnp.float32) / 127.5 - 1
    images = jax.image.resize(images, (len(images), 224, 224, 3), "bilinear")
    best = np.argmax(efficientnet.logits(weights, images), 1)
    assert np.mean([label in labels for label in best]) > 0.6, best


# ------------------------------------------------------------------------------------ the file


def written(tensors, damage=lambda pickles, storages: None):
    """Makes a file as PyTorch did before version 1.6, with a stand-in for PyTorch."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def rebuild(*arguments):
        return arguments

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild
    storage = type("FloatStorage", (), {"__module__": "torch"})
    torch.FloatStorage, torch._utils = storage, utils

    class Tensor:
        def __init__(self, key, array):
            self.key, self.array = key, array

        def __reduce__(self):
            strides = tuple(by // self.array.itemsize for by in self.array.strides)
            return rebuild, (self, 0, self.array.shape, strides, False, {})

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, Kept):
                return ("storage", storage, obj.key, "cpu", obj.count, None)
            return None

    class Kept:
        def __init__(self, key, count):
            self.key, self.count = key, count

    class Reduced(Tensor):
        def __reduce__(self):
            call, (_, *rest) = super().__reduce__()
            return call, (Kept(self.key, self.array.size), *rest)

    state = collections.OrderedDict(
        (name, Reduced(str(n), array)) for n, (name, array) in enumerate(tensors.items())
    )
    pickles = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, state]
    pickles.append([tensor.key for tensor in state.values()])
    storages = [
        np.int64(array.size).tobytes() + array.astype("<f4").tobytes() for array in tensors.values()
    ]
    damage(pickles, storages)
    file = io.BytesIO()
    kept = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules |= {"torch": torch, "torch._utils": utils}
    try:
        for one in pickles:
            Pickler(file, 2).dump(one)
    finally:
        for name, module in kept.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return file.getvalue() + b"".join(storages)


def test_tensors_are_read_as_they_were_written():
    rng = np.random.default_rng(0)
    tensors = {"a": rng.normal(size=(2, 3, 4)).astype("f4"), "b": np.ones((), "f4")}
    found = efficientnet_weights._tensors(written(tensors))
    jax.tree.map(np.testing.assert_array_equal, found, tensors)


class Evil:
    def __reduce__(self):
        return print, ("it was called",)


def negative(pickles, storages):
    storages[0] = np.int64(-1).tobytes() + storages[0][8:]


def too_long(pickles, storages):
    storages[0] = np.int64(2**40).tobytes() + storages[0][8:]


def missing(pickles, storages):
    storages[0] = storages[0][:-4]


def evil(pickles, storages):
    pickles[3]["a"] = Evil()


def others(pickles, storages):
    pickles[0] = 7


@pytest.mark.parametrize("damage", [negative, too_long, missing, evil, others, lambda *_: None])
def test_a_file_of_something_else_is_refused_and_never_executed(tmp_path, capsys, damage):
    path = tmp_path / "weights.pth"
    path.write_bytes(written({"a": np.ones((2, 3), "f4")}, damage))
    with pytest.raises(DataError, match=r"weights\.pth: is no file of EfficientNet's weights"):
        efficientnet_weights.load(path, None)
    assert not capsys.readouterr().out


def test_a_view_beyond_its_storage_is_refused():
    storage = efficientnet_weights._Storage("0", "FloatStorage")
    views = [
        (0, (7,), (1,)),
        (3, (4,), (1,)),
        (-1, (2,), (1,)),
        (0, (2, 3), (4, 1)),
        (0, (2,), (-1,)),
        (0, (2, 2), (1,)),
    ]
    for offset, shape, strides in views:
        tensor = efficientnet_weights._Tensor(storage, offset, shape, strides)
        with pytest.raises(ValueError, match="tensor of"):
            efficientnet_weights._array(tensor, {"0": np.zeros(6, "f4")})


def test_another_file_and_a_cut_one_are_refused(tmp_path):
    data = efficientnet_weights.find().read_bytes()
    path = tmp_path / "weights.pth"
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DataError, match="SHA-256"):
        efficientnet_weights.load(path)
    for size in (0, 10, 1000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(DataError, match="is no file of EfficientNet's weights"):
            efficientnet_weights.load(path, None)
    with pytest.raises(DataError, match="No such file"):
        efficientnet_weights.load(tmp_path / "none.pth")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="EfficientNet-Lite0") as error:
        efficientnet_weights.find()
    assert "vidgen[features]" in error.value.hint
