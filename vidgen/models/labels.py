"""How labels enter networks: a learnt vector for each class, mixed by weight between classes."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

from vidgen.models import layers
from vidgen.models.protocol import Label


def embed(count: int, features: int, dtype: str, name: str) -> nn.Embed:
    """Returns a table of `count` learnt vectors of unit variance, one for each class."""
    init = nn.initializers.normal(1.0)
    return nn.Embed(count, features, dtype=dtype, embedding_init=init, name=name)


def vectors(
    label: Label | None, rows: Float[Array, "count feature"]
) -> Float[Array, "batch feature"]:
    """Returns the vectors of classes.

    Args:
      label: Classes, int32 `[B]`; or weights of the first K rows, float `[B, K]`, for the sum of
        their vectors by weight: what lies between classes.
      rows: A vector for each class, `[count, F]`; count is at least K.
    """
    assert label is not None  # as there are classes
    if jnp.issubdtype(label.dtype, jnp.integer):
        return jnp.take(rows, label, axis=0)
    return jnp.matmul(label.astype(rows.dtype), rows[: label.shape[1]])


def embed_label(
    label: Label | None, count: int, features: int, dtype: str
) -> Float[Array, "batch {features}"]:
    """Returns learnt vectors of labels, from a table of `count`; for compact methods."""
    rows = embed(count, features, dtype, "class").embedding
    return vectors(label, jnp.asarray(rows, dtype))  # parameters may be arrays of NumPy


def weights(label: Label | None, classes: int) -> Float32[Array, "batch {classes}"]:
    """Returns weights of classes: 1 for the class of a label, or what is weights already."""
    return vectors(label, jnp.eye(classes))


def projection_logits(
    x: Float[Array, "batch channel"],
    label: Int[Array, " batch *candidate"] | None,
    classes: int,
    vector: Float[Array, "batch *candidate told"] | None = None,
) -> Float32[Array, " batch *candidate"]:
    """Makes logits of the last features, with the class by projection; for compact methods.

    Reference: Miyato and Koyama, "cGANs with Projection Discriminator", 2018.

    Args:
      x: Features `[B, C]`.
      label: Classes, int32 `[B]`, where there are classes; or `[B, K]`: K candidates each.
      classes: Number of classes; 0 for none.
      vector: Of conditions, `[B, F]`, or `[B, K, F]`.

    Returns:
      Float32 `[B]`, or `[B, K]`.
    """
    x = x.astype(jnp.float32)
    logits = layers.dense(1, "float32", "logit", gain=1.0)(x)[:, 0]
    rows = []
    if classes:
        rows.append(embed(classes, x.shape[-1], "float32", "class")(label))
    if vector is not None:
        told = layers.dense(x.shape[-1], "float32", "told", gain=1.0)(vector.astype(jnp.float32))
        rows.append(told)
    for row in rows:
        by_row = jnp.einsum("bf,b...f->b...", x, row) / jnp.sqrt(x.shape[-1])
        logits = logits.reshape(*logits.shape, *(1,) * (by_row.ndim - logits.ndim)) + by_row
    return logits
