"""The textbooks' layers beside XLA's own operations, with gradients.

XLA_FLAGS= pytest -m benchmark -s tests/benchmarks/test_convolutions_speed.py
"""

import functools
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.models import convolutions, normalization

pytestmark = pytest.mark.benchmark

rng = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def by_convolution(x, kernel):
    """A clip's convolution as XLA has it."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 2, 2), ((0, 0), (1, 1), (1, 1)),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )  # fmt: skip


def by_transposed(x, kernel):
    """A transposed convolution as XLA has it."""
    return jax.lax.conv_transpose(
        x, kernel[::-1, ::-1], (2, 2), ((2, 2), (2, 2)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def by_statistics(x, params):
    """Batch normalisation whose gradient is left to XLA."""
    y = x.reshape(1, -1, x.shape[-1])
    y = (y - y.mean(1, keepdims=True)) * jax.lax.rsqrt(y.var(1, keepdims=True) + 1e-5)
    return nn.relu(y * params["scale"][None, None] + params["bias"][None, None]).reshape(x.shape)


def layer(module, x, kernel):
    return module.apply({"params": {"kernel": kernel}}, x)


def norm(x, params):
    return nn.relu(normalization.BatchNorm(running=False).apply({"params": params}, x))


def seconds(function, x, params):
    both = jax.jit(jax.grad(lambda x, p: jnp.sum(function(x, p) ** 2), (0, 1)))
    jax.block_until_ready(both(x, params))
    took = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(both(x, params))
        took.append(time.perf_counter() - start)
    return min(took)


def test_layers_with_gradients(capsys):
    cases = []
    for t, side, c, features in ((13, 32, 64, 128), (10, 16, 128, 256), (7, 8, 256, 512)):
        x, kernel = normal(8, t, side, side, c), 0.02 * normal(4, 4, 4, c, features)
        rows = [("XLA's 3D convolution", by_convolution)]
        rows += [("by taps", convolutions._by_taps), ("by tiles and points", convolutions._halve)]
        operations = 6 * 8 * (t - 3) * (side // 2) ** 2 * 64 * c * features
        cases.append((f"clip {t}x{side}x{side}x{c} to {features}", rows, x, kernel, operations))
    for side, c, features in ((4, 512, 256), (8, 256, 128), (16, 128, 64), (32, 64, 3)):
        x, kernel = normal(160, side, side, c), 0.02 * normal(4, 4, c, features)
        rows = [("XLA's transposed", by_transposed)]
        rows += [("ours", functools.partial(layer, convolutions.TransposedConvolution(features)))]
        operations = 6 * 160 * side**2 * 16 * c * features
        cases.append((f"doubled {side}x{side}x{c} to {features}", rows, x, kernel, operations))
    x, params = normal(160, 32, 32, 64), {"scale": jnp.ones(64), "bias": jnp.zeros(64)}
    rows = [("XLA's gradient", by_statistics), ("ours", norm)]
    cases.append(("batch norm 160x32x32x64", rows, x, params, 0))
    for name, rows, x, params, operations in cases:
        first = None
        for kind, function in rows:
            made = function(x[:1], params)
            first = made if first is None else first
            np.testing.assert_allclose(made, first, atol=1e-3 * np.abs(first).max())
            took = seconds(function, x, params)
            rate = f"{operations / took / 1e9:6.0f} GFLOP/s" if operations else ""
            with capsys.disabled():
                print(f"{name:34s} {kind:22s} {1000 * took:7.0f} ms {rate}", flush=True)
