"""Spectral normalisation of parameters: no kernel's largest singular value is above one.

Larger ones are divided by it. Smaller ones stay: a residual branch that starts at zero may.

Reference: Miyato et al., "Spectral normalization for generative adversarial networks", 2018; Gouk
  et al., "Regularisation of neural networks by enforcing Lipschitz continuity", 2018, for leaving
  small kernels as they are.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from vidgen import keys


def init(key: Key[Array, ""], params: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
    """Draws for each kernel a vector that the power iterations start from.

    Args:
      key: A JAX key.
      params: Parameters; kernels are the leaves of two axes or more, the last counting outputs.

    Returns:
      The tree of the parameters: unit vectors `[outputs]` for kernels, zeros `[]` for the rest.
    """
    leaves, tree = jax.tree.flatten(params)
    drawn = [
        _unit(jax.random.normal(keys.at_step(key, n), (x.shape[-1],)))
        if x.ndim > 1
        else jnp.zeros(())
        for n, x in enumerate(leaves)
    ]
    return jax.tree.unflatten(tree, drawn)


def step(
    params: PyTree[Float[Array, "..."]], vectors: PyTree[Float[Array, "..."]]
) -> PyTree[Float[Array, "..."]]:
    """Makes one power iteration, which moves vectors towards the leading singular ones."""

    def one(x, u):
        if x.ndim < 2:
            return u
        matrix = x.reshape(-1, x.shape[-1])
        return _unit(matrix.T @ _unit(matrix @ u))

    return jax.lax.stop_gradient(jax.tree.map(one, params, vectors))


def normalized(
    params: PyTree[Float[Array, "..."]], vectors: PyTree[Float[Array, "..."]]
) -> PyTree[Float[Array, "..."]]:
    """Divides each kernel W by `max(1, |W u|)`, where u is its leading singular vector."""

    def one(x, u):
        if x.ndim < 2:
            return x
        matrix = x.reshape(-1, x.shape[-1])
        left = jax.lax.stop_gradient(_unit(matrix @ u))
        return x / jnp.maximum(left @ matrix @ u, 1.0)

    return jax.tree.map(one, params, vectors)


def _unit(x: Float[Array, " n"]) -> Float[Array, " n"]:
    """Scales a vector to length 1."""
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)
