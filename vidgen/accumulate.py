"""How a step averages over its clips: at once, in parts, over devices, in an order of its own.

A step hands over functions of a batch, and gets their means over the global batch back; how that
comes about (one device or many, all clips together or few at a time) is bound here, by
`vidgen.parallel`. So a method is written once, and knows nothing of it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Batch = dict[str, jax.Array]
Function = Callable[[Batch, Any], tuple[Any, Any]]


def mean(
    function: Function,
    batch: Batch,
    kept: list[Any] | None = None,
    *,
    axis: str | tuple[str, ...] | None = None,
    parts: int = 1,
    loop: bool = False,
    ordered: bool = False,
) -> tuple[Any, list[Any] | None]:
    """Averages what a function makes of a batch.

    Args:
      function: `(batch, kept) -> (tree, keep)`: a tree of arrays that are means over the batch's
        clips (losses, gradients), and what a later function of the same clips may go on from.
      batch: Arrays whose first axis counts clips.
      kept: The `keep` of each part, from an earlier call with the same batch; None: start anew.
      axis: Name (or names) of the mapped axis of devices, or None where there is one device or the
        compiler sees the whole batch.
      parts: Gradient accumulation: the device's clips in so many equal parts, one after another,
        so that only one part's activations exist at a time.
      loop: The parts as one loop, compiled once. Where False they are laid out one by one: XLA's
        convolution gradients are eight times slower in a loop on a CPU.
      ordered: Every part is computed apart and the parts of all devices are added up in the order
        of their clips, so that the result does not depend on how they lie on devices, to the bit.

    Returns:
      The tree, averaged, and the `keep` of each part, or None from a loop.
    """
    if parts == 1 and not ordered:
        tree, keep = function(batch, None if kept is None else kept[0])
        return _over(axis, tree), [keep]
    if loop and not ordered:
        first = jax.eval_shape(lambda b: function(b, None)[0], _part(batch, 0, parts, ordered))

        def add(total, n):
            tree, _ = function(_part(batch, n, parts, ordered), None)
            return jax.tree.map(jnp.add, total, tree), None

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)
        total, _ = jax.lax.scan(add, zeros, jnp.arange(parts))
        return _over(axis, jax.tree.map(lambda x: x / parts, total)), None
    trees, keeps = [], []
    before: Any = ()
    for n in range(parts):
        # The barrier keeps parts one after another, and XLA from merging what they share.
        part, have, _ = jax.lax.optimization_barrier(
            (_part(batch, n, parts, ordered), None if kept is None else kept[n], before)
        )
        tree, keep = function(part, have)
        tree, keep = jax.lax.optimization_barrier((tree, keep))
        trees.append(tree)
        keeps.append(keep)
        before = tree
    if not ordered:
        return _over(axis, jax.tree.map(lambda *x: sum(x) / parts, *trees)), keeps
    return _in_order(trees, axis), keeps


def _part(batch: Batch, n: Any, parts: int, ordered: bool) -> Batch:
    """Returns part n of a batch.

    Where the compiler sees the whole batch, neighbouring clips lie on one device: a part takes
    every parts-th clip, so that all devices work on each part. In order, parts are neighbours.
    """

    def take(x):
        if ordered:
            return x.reshape(parts, -1, *x.shape[1:])[n]
        return x.reshape(-1, parts, *x.shape[1:])[:, n]

    return jax.tree.map(take, batch)


def _over(axis: Any, tree: Any) -> Any:
    return tree if axis is None else jax.lax.pmean(tree, axis)


def _in_order(trees: list[Any], axis: Any) -> Any:
    """Averages trees of all devices, adding in the order of their clips."""
    if axis is not None:
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *trees)
        stacked = jax.lax.all_gather(stacked, axis, tiled=True)
        count = jax.tree.leaves(stacked)[0].shape[0]
        trees = [jax.tree.map(lambda x, n=n: x[n], stacked) for n in range(count)]
    # Barriers on both sides: what XLA makes of the sum must not depend on what lies around it.
    trees = jax.lax.optimization_barrier(trees)
    total = jax.tree.map(lambda *x: sum(x[1:], x[0]) / len(x), *trees)
    return jax.lax.optimization_barrier(total)
