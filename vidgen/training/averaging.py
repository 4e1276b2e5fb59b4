"""How a training step averages over its clips: at once, in parts, over devices, in a fixed order.

A step passes functions of a batch to `mean` and gets their means over the global batch. Whether
there is one device or many, and all clips are computed together or a few at a time, are arguments
of `mean` that `vidgen.runtime.devices` binds, so a method is written once for all of them.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, ArrayLike, Int, PyTree, Shaped

Batch = dict[str, Shaped[Array | np.ndarray, "batch ..."]]
Function = Callable[[Batch, PyTree], tuple[PyTree, PyTree]]  # (batch, kept) -> (tree, keep)
Axis = str | tuple[str, ...] | None  # of devices


def mean(
    function: Function,
    batch: Batch,
    kept: list[PyTree] | None = None,
    *,
    mesh: Mesh | None = None,
    axis: Axis = None,
    parts: int = 1,
    loop: bool = False,
    ordered: bool = False,
) -> tuple[PyTree, list[PyTree] | None]:
    """Averages what a function computes of a batch.

    Args:
      function: `(batch, kept) -> (tree, keep)`: a tree of arrays that are means over the batch's
        clips (losses, gradients), and what a later function of the same clips may go on from.
      batch: Arrays whose first axis counts clips.
      kept: The `keep` of each part, from an earlier call with the same batch; None: start anew.
      mesh: Devices over which the batch's clips lie, where the program around is one for all of
        them. Each computes its clips by itself, with whole parameters, and the tree is all they
        exchange, once: the compiler, left to itself, would sum each gradient as soon as there is
        one, in the type of the computation, and again for each part.
      axis: Name (or names) of the mapped axis of devices, where the program around is of one.
      parts: Gradient accumulation: the device's clips in so many equal parts, one after another,
        so that only one part's activations exist at a time.
      loop: The parts as one loop, compiled once. Where False the loop is unrolled: XLA's
        convolution gradients are eight times slower in a loop on a CPU.
      ordered: Every part is computed apart and the parts of all devices are added up in the order
        of their clips, so that the result does not depend on how they lie on devices, to the bit.

    Returns:
      The tree, averaged, and the `keep` of each part, or None from a loop, where it would hold the
      memory that parts are to save (unrolled, they save none).
    """
    if mesh is not None:
        one = functools.partial(
            mean, function, axis=mesh.axis_names, parts=parts, loop=loop, ordered=ordered
        )
        return _on_each(mesh, one, batch, kept)
    if parts == 1 and not ordered:
        tree, keep = function(batch, None if kept is None else kept[0])
        return _over(axis, tree), [keep]
    if loop and not ordered:
        first = jax.eval_shape(lambda b: function(b, None)[0], _part(batch, 0, parts))

        def add(total, n):
            tree, _ = function(_part(batch, n, parts), None)
            return jax.tree.map(jnp.add, total, tree), None

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)
        total, _ = jax.lax.scan(add, zeros, jnp.arange(parts))
        return _over(axis, jax.tree.map(lambda x: x / parts, total)), None
    trees, keeps = [], []
    before: PyTree = ()
    for n in range(parts):
        # The barrier keeps parts one after another, and XLA from merging what they share.
        part, have, _ = jax.lax.optimization_barrier(
            (_part(batch, n, parts), None if kept is None else kept[n], before)
        )
        tree, keep = function(part, have)
        tree, keep = jax.lax.optimization_barrier((tree, keep))
        trees.append(tree)
        keeps.append(keep)
        before = tree
    if not ordered:
        return _over(axis, jax.tree.map(lambda *x: sum(x) / parts, *trees)), keeps
    return _in_order(trees, axis), keeps


def _on_each(
    mesh: Mesh,
    run: Callable[[Batch, PyTree], tuple[PyTree, list[PyTree] | None]],
    batch: Batch,
    kept: list[PyTree] | None,
) -> tuple[PyTree, list[PyTree] | None]:
    """Runs `(batch, kept) -> (tree, keeps)` on each device with its clips.

    What is kept stays where it is: every array of it gets a first axis that counts devices.
    """

    def one(batch, kept):
        tree, keeps = run(batch, jax.tree.map(lambda x: x[0], kept))
        return tree, jax.tree.map(lambda x: x[None], keeps)

    clips = PartitionSpec(mesh.axis_names)
    return jax.shard_map(
        one, mesh=mesh, in_specs=(clips, clips), out_specs=(PartitionSpec(), clips), check_vma=False
    )(batch, kept)


def _part(
    batch: Batch, n: Int[ArrayLike, ""], parts: int
) -> dict[str, Shaped[Array | np.ndarray, "part ..."]]:
    """Returns the n-th of equal parts of a batch."""
    return jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:])[n], batch)


def _over(axis: Axis, tree: PyTree) -> PyTree:
    """Averages a tree over devices."""
    return tree if axis is None else jax.lax.pmean(tree, axis)


def _in_order(trees: list[PyTree], axis: Axis) -> PyTree:
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
