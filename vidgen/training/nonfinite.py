"""A training step that skips an update with NaN or infinity in it."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree, Shaped

# What a step computes, in order: the first that is not finite is nearest to the cause.
ORDER = (
    *("dis/real", "dis/fake", "dis/mismatch", "dis/gap_mismatch", "dis/loss", "dis/r1", "dis/r2"),
    *("dis/grad", "dis_opt", "dis", "dis/norm", "gen/loss", "gen/grad", "gen_opt", "gen"),
    *("gen/norm", "ema", "gen/ema"),
)


Metrics = dict[str, Shaped[Array, ""]]
Step = Callable[
    ..., tuple[PyTree, Metrics]
]  # (state, batch, **more), a method's own record of arrays


def in_order(names: Iterable[str]) -> list[str]:
    """Sorts names of metrics and parts of the state as a step computes them."""
    place = {name: n for n, name in enumerate(ORDER)}
    return sorted(names, key=lambda name: (place.get(name, len(ORDER)), name))


def finite(state: PyTree) -> bool:
    """Returns whether every part of a state is finite.

    A step leaves a state as it was; one that broke in memory stays broken, and must not be saved.
    """
    parts = [part for name, part in vars(state).items() if name != "key"]
    norms = jax.jit(lambda parts: jnp.stack([optax.tree.norm(part) for part in parts]))(parts)
    return bool(jnp.isfinite(norms).all())


def guarded(step: Step) -> Step:
    """Makes a step that leaves its state as it was where something is not finite.

    The step number goes on all the same, so other clips come next: what was skipped follows from
    state and clips alone, and a run that is repeated skips it again.

    Args:
      step: `(state, batch, **more) -> (state, metrics)`.

    Returns:
      The same, with metrics `skipped` (1.0 where the update was skipped) and, for every part of the
      state, `finite/<part>` (0.0 where the update had made it NaN or infinite).
    """

    def run(state, batch, **more):
        new, metrics = step(state, batch, **more)
        # By norms: they are small programs, and some are metrics already.
        norms = {name: optax.tree.norm(part) for name, part in vars(new).items() if name != "key"}
        finite = {f"finite/{name}": jnp.isfinite(norm) for name, norm in norms.items()}
        good = jnp.isfinite(jnp.stack([*metrics.values(), *norms.values()])).all()
        old = state.replace(step=state.step + 1)
        # Not jnp.where: XLA would repeat the checks in the program of every array.
        new = jax.lax.cond(good, lambda: new, lambda: old)
        checks = {"skipped": ~good, **finite}
        return new, {**metrics, **{n: v.astype(jnp.float32) for n, v in checks.items()}}

    return run
