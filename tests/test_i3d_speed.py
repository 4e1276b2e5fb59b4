"""How much I3D reaches of what its convolutions alone reach.

XLA_FLAGS= .venv/bin/python -m pytest -m benchmark tests/test_i3d_speed.py -s
"""

import collections
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.metrics import features, i3d, i3d_weights

CLIPS = 2


def seconds(function, *arguments):
    """Returns the shortest of four calls after one that compiles."""
    jax.block_until_ready(function(*arguments))
    best = np.inf
    for _ in range(4):
        begin = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        best = min(best, time.perf_counter() - begin)
    return best


def xla_3d(x, kernel, stride):
    numbers = ("NDHWC", "DHWIO", "NDHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride,) * 3, "SAME", dimension_numbers=numbers)


@pytest.mark.benchmark
def test_i3d_is_as_fast_as_its_convolutions(monkeypatch, capfd):
    calls, conv3d = [], i3d.conv3d

    def seen(x, kernel, stride=1):
        calls.append((x.shape, kernel.shape, stride))
        return conv3d(x, kernel, stride)

    params, net = i3d_weights.load(), i3d.I3D()
    apply = lambda params, video: net.apply({"params": params}, video)  # noqa: E731
    video = jnp.zeros((CLIPS, 16, 224, 224, 3))
    with monkeypatch.context() as patch:
        patch.setattr(i3d, "conv3d", seen)
        jax.eval_shape(apply, params, video)
    assert len(calls) == 57
    apart = {"sums of 2D": 0.0, "3D": 0.0}
    operations = 0
    rng = np.random.default_rng(0)
    for (shape, kernel_shape, stride), count in collections.Counter(calls).items():
        x = jnp.asarray(rng.standard_normal(shape, np.float32))
        kernel = jnp.asarray(rng.standard_normal(kernel_shape, np.float32))
        for name, function in (("sums of 2D", conv3d), ("3D", xla_3d)):
            run = jax.jit(lambda x, k, f=function, s=stride: f(x, k, s))
            apart[name] += count * seconds(run, x, kernel) / CLIPS
        out = np.prod([-(-n // stride) for n in shape[1:4]])
        operations += count * 2 * out * np.prod(kernel_shape)
    whole = seconds(jax.jit(apply), params, video) / CLIPS
    with capfd.disabled():
        print(f"\na clip: {whole:.3f} s, {operations / whole / 1e9:.0f} GFLOP/s; its convolutions "
              + ", ".join(f"{name} {value:.3f} s" for name, value in apart.items()))  # fmt: skip
    assert whole < apart["sums of 2D"] / 0.8


@pytest.mark.benchmark
@pytest.mark.parametrize("name", ["i3d", "random"])
def test_what_all_measures_of_a_clip_cost(capfd, name):
    clips = np.random.default_rng(0).integers(0, 256, (20, 16, 64, 64, 3), np.uint8)
    measure = features.everything(features.network(name))
    features.extract(measure, clips[:2])  # compiles
    begin = time.perf_counter()
    features.extract(measure, clips)
    with capfd.disabled():
        print(f"\n{name}: {(time.perf_counter() - begin) / 20:.3f} s a clip")
