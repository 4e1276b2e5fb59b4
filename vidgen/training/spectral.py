"""Spectral normalisation of parameters: no kernel's largest singular value is above one.

Larger ones are divided by it. Smaller ones stay: a residual branch that starts at zero may.

Reference: Miyato et al., "Spectral normalization for generative adversarial networks", 2018; Gouk
  et al., "Regularisation of neural networks by enforcing Lipschitz continuity", 2018, for leaving
  small kernels as they are.
"""

from typing import Any

import jax
import jax.numpy as jnp

from vidgen import keys


def init(key: jax.Array, params: Any) -> Any:
    """Draws a left singular vector to start from for each kernel.

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


def step(params: Any, vectors: Any) -> Any:
    """Makes one power iteration: vectors nearer to the leading singular ones."""

    def one(x, u):
        if x.ndim < 2:
            return u
        matrix = x.reshape(-1, x.shape[-1])
        return _unit(matrix.T @ _unit(matrix @ u))

    return jax.lax.stop_gradient(jax.tree.map(one, params, vectors))


def normalized(params: Any, vectors: Any) -> Any:
    """Divides each kernel W by `max(1, |W u|)`, where u is its leading singular vector."""

    def one(x, u):
        if x.ndim < 2:
            return x
        matrix = x.reshape(-1, x.shape[-1])
        left = jax.lax.stop_gradient(_unit(matrix @ u))
        return x / jnp.maximum(left @ matrix @ u, 1.0)

    return jax.tree.map(one, params, vectors)


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)
