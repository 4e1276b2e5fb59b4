import jax
import jax.numpy as jnp
import numpy as np

from vidgen import keys
from vidgen.training import spectral

rng = np.random.default_rng(0)
PARAMS = {
    "dense": {"kernel": jnp.asarray(rng.normal(size=(6, 4)), jnp.float32), "bias": jnp.ones(4)},
    "conv": {"kernel": jnp.asarray(rng.normal(size=(3, 3, 2, 5)), jnp.float32)},
}


def settled():
    vectors = spectral.init(keys.root(0), PARAMS)
    for _ in range(200):
        vectors = spectral.step(PARAMS, vectors)
    return vectors


def test_kernels_are_divided_by_their_largest_singular_value():
    found = spectral.normalized(PARAMS, settled())
    for name in ("dense", "conv"):
        kernel = np.asarray(PARAMS[name]["kernel"])
        largest = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]))[1][0]
        np.testing.assert_allclose(found[name]["kernel"], kernel / largest, rtol=1e-4)
    np.testing.assert_array_equal(found["dense"]["bias"], PARAMS["dense"]["bias"])


def test_small_kernels_stay():
    small = jax.tree.map(lambda x: 0.01 * x, PARAMS)
    found = spectral.normalized(small, settled())
    jax.tree.map(np.testing.assert_array_equal, found, small)
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    slopes = jax.grad(lambda p: spectral.normalized(p, settled())["conv"]["kernel"].sum())(zero)
    np.testing.assert_array_equal(slopes["conv"]["kernel"], 1)


def test_the_gradient_is_that_of_the_quotient():
    """By finite differences of a NumPy singular value decomposition."""
    vectors, direction = settled(), rng.normal(size=(6, 4))
    weights = rng.normal(size=(6, 4))

    def reference(kernel):
        return np.sum(weights * kernel / np.linalg.svd(kernel)[1][0])

    def ours(kernel):
        params = {**PARAMS, "dense": {**PARAMS["dense"], "kernel": kernel}}
        return jnp.sum(weights * spectral.normalized(params, vectors)["dense"]["kernel"])

    kernel = np.asarray(PARAMS["dense"]["kernel"], np.float64)
    slope = np.sum(np.asarray(jax.grad(ours)(PARAMS["dense"]["kernel"])) * direction)
    step = 1e-5
    ahead, behind = reference(kernel + step * direction), reference(kernel - step * direction)
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-3)
