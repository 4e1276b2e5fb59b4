"""What a discriminator says of pairs of clips, and the losses of both players of it.

The losses of single logits, and the penalties, are those of `vidgen.training.losses`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Key, PyTree

from vidgen import keys
from vidgen.training import losses

Metrics = dict[str, jax.Array]


class Judgement(NamedTuple):
    """What a discriminator says of pairs of real and generated clips.

    Attributes:
      real: Logits of real clips, an array or one for each head; of K candidate labels each, on the
        second axis, where wrong ones are judged.
      fake: Logits of generated clips, likewise.
      penalty_real: Squared norms of the logits' gradients by what is seen of real clips; one zero
        for all where there are no penalties.
      penalty_fake: The same of generated clips.
    """

    real: PyTree
    fake: PyTree
    penalty_real: Float[Array, "*batch"]
    penalty_fake: Float[Array, "*batch"]


def discriminator_loss(
    judgement: Judgement,
    loss: str,
    r1: Float[ArrayLike, ""],
    r2: Float[ArrayLike, ""],
    mismatch: Float[ArrayLike, ""] | None,
    counted: Bool[Array, "batch candidate"] | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """Returns the discriminator's loss and what it is made of; losses are summed over its heads.

    Args:
      judgement: Of clips.
      loss: Name of a pair in `losses.LOSSES`.
      r1: Weight of the penalty on real clips.
      r2: Weight of the penalty on generated clips.
      mismatch: Weight of real clips with wrong labels, all candidates but the first, as fakes;
        None where there are no candidates.
      counted: Which of them are wrong; all are where it is None.
    """
    of_pairs, _ = losses.LOSSES[loss]
    real, fake, *penalties = judgement
    p1, p2 = (jnp.mean(penalty) for penalty in penalties)
    total, metrics = jnp.zeros(()), {}
    if mismatch is not None:
        first, others = (lambda x: x[:, 0]), (lambda x: x[:, 1:])
        own = lambda x: jnp.repeat(x[:, :1], x.shape[1] - 1, 1)  # noqa: E731
        right, wrong = jax.tree.map(own, real), jax.tree.map(others, real)
        if counted is not None:
            of_candidates = functools.partial(losses.against_all, counted=counted)
        else:
            of_candidates = of_pairs
        metrics["dis/mismatch"] = losses.of_heads(of_candidates, right, wrong)
        real, fake = (jax.tree.map(first, logits) for logits in (real, fake))
        total += mismatch * metrics["dis/mismatch"]
    adversarial = losses.of_heads(of_pairs, real, fake)
    penalty = 0.5 * (p1 * r1 + p2 * r2)
    total += adversarial + penalty
    heads = len(jax.tree.leaves(real))
    return total, {
        **metrics,
        "dis/loss": adversarial,
        "dis/r1": p1,
        "dis/r2": p2,
        "dis/penalty": penalty,
        "dis/real": losses.of_heads(jnp.mean, real) / heads,
        "dis/fake": losses.of_heads(jnp.mean, fake) / heads,
        "dis/accuracy": losses.of_heads(lambda r, f: jnp.mean(r > f), real, fake) / heads,
    }


def generator_loss(real: PyTree, fake: PyTree, loss: str) -> Float[Array, ""]:
    """Returns the generator's loss, of the logits of real and of generated clips.

    Args:
      real: `[B, ...]`, an array or one for each head, over which losses are summed.
      fake: In the same shape.
      loss: Name of a pair in `losses.LOSSES`.
    """
    _, of_pairs = losses.LOSSES[loss]
    return losses.of_heads(of_pairs, real, fake)


def judge(
    critic: Callable[[PyTree], PyTree],
    real: PyTree,
    fake: PyTree,
    *,
    group: int = 1,
    candidates: bool = False,
    penalize: bool = True,
    sigma: float = 0.0,
    along: Sequence[Key[Array, " batch"]] = (),
) -> Judgement:
    """Judges pairs of clips: with penalties by gradients or by finite differences, or without.

    Args:
      critic: From what is seen of real and generated clips, interleaved, to logits.
      real: What is seen of real clips, a tree of `[B, ...]`.
      fake: The same of generated clips.
      group: Clips that lie together where they are interleaved; see `losses.interleave`.
      candidates: Whether logits are of several candidate labels.
      penalize: Whether there are penalties.
      sigma: Length of the finite differences that estimate them; 0: by gradients.
      along: Keys that draw the directions of the differences, of real and of generated clips.
    """
    if not penalize:
        both = losses.judged_apart(critic, real, fake, group)
        return Judgement(*both, jnp.zeros(()), jnp.zeros(()))
    if not sigma:
        return Judgement(
            *losses.critic_with_penalties(critic, real, fake, group=group, candidates=candidates)
        )
    of_real, of_fake = (
        _noise_like(seen, each) for seen, each in zip((real, fake), along, strict=True)
    )
    return Judgement(
        *losses.critic_with_differences(
            critic, real, fake, of_real, of_fake, sigma, group=group, candidates=candidates
        )
    )


def _noise_like(seen: PyTree, each: Key[Array, " batch"]) -> PyTree:
    """Draws standard normal noise in the shapes of what is seen of clips, by their keys."""
    leaves, tree = jax.tree.flatten(seen)
    if len(leaves) == 1:
        return tree.unflatten([keys.normal(each, leaves[0].shape[1:])])
    split = jax.vmap(functools.partial(jax.random.split, num=len(leaves)), out_axes=1)(each)
    return tree.unflatten([keys.normal(k, x.shape[1:]) for k, x in zip(split, leaves, strict=True)])
