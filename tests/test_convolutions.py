"""The textbooks' layers against XLA's own convolutions and against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.errors import ConfigError
from vidgen.models import convolutions, normalization

rng = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "steps, channels, frames", [(1, 3, 7), (1, 9, 7), (4, 3, 7), (4, 9, 7), (4, 9, 8)]
)
def test_convolution_is_the_strided_one(steps, channels, frames, dtype):
    layer = convolutions.Convolution(5, steps, dtype)
    x, kernel = normal(2, frames, 8, 8, channels), normal(steps, 4, 4, channels, 5)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (1, 2, 2), ((0, 0), (1, 1), (1, 1)),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )  # fmt: skip
    found = layer.apply({"params": {"kernel": kernel}}, x)
    atol = 2e-4 if dtype == "float32" else 0.02 * np.abs(expected).max()
    np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=atol)


@pytest.mark.parametrize("steps, frames", [(1, 2), (4, 7), (4, 8)])
def test_fewer_products_have_the_plain_gradients(steps, frames):
    x, kernel = normal(2, frames, 8, 12, 3), normal(steps, 4, 4, 3, 5)
    weights = normal(2, frames - steps + 1, 4, 6, 5)

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 2, 2), ((0, 0), (1, 1), (1, 1)),
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        )  # fmt: skip

    def back(function, x, kernel, y):
        return jax.vjp(function, x, kernel)[1](y)

    def transposed(function):
        return lambda y, kernel: jax.vjp(lambda x: function(x, kernel), x)[1](y)[0]

    found = back(convolutions._halve, x, kernel, weights)
    for a, b in zip(found, back(plain, x, kernel, weights), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    # The transpose, and with it a gradient's gradient, as penalties need it.
    given = (weights, kernel, x)
    expected = (transposed(plain)(weights, kernel), *back(transposed(plain), *given))
    found = (convolutions._double(weights, kernel), *back(convolutions._double, *given))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    second = lambda f: jax.grad(lambda k: jnp.sum(back(f, x, k, weights)[0] ** 2))  # noqa: E731
    a, b = second(convolutions._halve)(kernel), second(plain)(kernel)
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max())


@pytest.mark.parametrize("features, side", [(3, 3), (9, 3), (9, 4)])
def test_transposed_convolution_spreads_each_pixel_by_the_kernel(features, side, monkeypatch):
    monkeypatch.setattr(convolutions, "_MANY", 0)  # sides of 3 have no tiles, that of 4 has
    x, kernel = normal(2, side, side, 6), normal(4, 4, 6, features)
    spread = np.zeros((2, 2 * side + 2, 2 * side + 2, features))  # a pixel around is cut off
    for i in range(side):
        for j in range(side):
            spread[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += np.einsum(
                "nc,pqco->npqo", x[:, i, j], kernel
            )
    layer = convolutions.TransposedConvolution(features)
    found = layer.apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(found, spread[:, 1:-1, 1:-1], atol=1e-4)


def test_a_whole_kernel_is_one_product():
    x, kernel = normal(2, 3, 4, 4, 5), normal(3, 4, 4, 5, 2)
    found = convolutions.Whole(2).apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(found, np.einsum("bthwc,thwco->bo", x, kernel), atol=1e-4)


def test_batch_norm_normalises_each_group_and_reports_what_it_found():
    x = 3 * normal(6, 2, 2, 4) + 1
    layer = normalization.BatchNorm()
    params = {n: jnp.asarray(normal(4)) for n in ("scale", "bias", "mean")}
    params["var"] = jnp.full(4, 2.0)
    found, more = layer.apply({"params": params}, x, 3, mutable="stats")
    parts = np.asarray(x, np.float64).reshape(3, -1, 4)
    mean, var = parts.mean(1, keepdims=True), parts.var(1, keepdims=True)
    scale, bias, running = (np.asarray(params[n]) for n in ("scale", "bias", "mean"))
    expected = (parts - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(found, expected.reshape(x.shape), atol=1e-4)
    np.testing.assert_allclose(more["stats"]["mean"], mean.mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(more["stats"]["var"], var.mean((0, 1)) * 8 / 7, rtol=1e-4)
    # For sampling: the running statistics, whatever else is in the batch.
    fixed = layer.apply({"params": params}, x)
    expected = (np.asarray(x) - running) / np.sqrt(2 + 1e-5) * scale + bias
    np.testing.assert_allclose(fixed, expected, atol=1e-4)


def test_the_gradient_of_batch_norm_is_that_of_its_formula():
    x, weights = 3 * normal(6, 2, 2, 4) + 1, normal(6, 2, 2, 4)
    params = {n: normal(4) for n in ("scale", "bias", "mean")} | {"var": jnp.full(4, 2.0)}

    def plain(params, x):
        y = x.reshape(3, -1, 4)
        y = (y - y.mean(1, keepdims=True)) / jnp.sqrt(y.var(1, keepdims=True) + 1e-5)
        y = y * params["scale"][None, None] + params["bias"][None, None]
        return jnp.sum(weights * y.reshape(x.shape))

    def ours(params, x):
        layer = normalization.BatchNorm()
        return jnp.sum(weights * layer.apply({"params": params}, x, 3, mutable="stats")[0])

    # Of the second order, too, as penalties need them.
    for order in (lambda f: f, lambda f: lambda p, x: jnp.sum(jax.grad(f, 1)(p, x) ** 2)):
        expected, found = (jax.grad(order(f), (0, 1))(params, x) for f in (plain, ours))
        for name in ("scale", "bias"):
            np.testing.assert_allclose(found[0][name], expected[0][name], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-3, atol=1e-3)
        assert not any(found[0][name].any() for name in ("mean", "var"))


def test_running_statistics_move_and_nothing_else_does():
    params = {"a": {"norm": {"mean": 1.0, "var": 2.0, "scale": 3.0}}, "b": 4.0}
    before = {"a": {"norm": {"mean": 0.0, "var": 0.0, "scale": 0.0}}, "b": 0.0}
    stats = {"a": {"norm": {"mean": 10.0, "var": 20.0}}}
    new = normalization.with_stats(params, before, stats)
    assert new == {"a": {"norm": {"mean": 1.0, "var": 2.0, "scale": 3.0}}, "b": 4.0}
    before["a"]["norm"].update(mean=5.0)
    assert normalization.with_stats(params, before, stats)["a"]["norm"]["mean"] == 5.5


def test_groups_must_divide_the_clips():
    assert normalization.groups(8, 0) == 1 and normalization.groups(8, 4) == 2
    with pytest.raises(ConfigError, match="norm_clips is 3, and 8 clips"):
        normalization.groups(8, 3)
