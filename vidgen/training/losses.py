"""Adversarial losses, gradient penalties and likelihoods: functions of arrays and of a critic.

Logits of real clips are `real`, of generated ones `fake`, both `[B]`; every adversarial loss is a
scalar mean. Only losses in `PAIRED` take both for the generator; the others ignore `real` there.
Likelihoods and divergences are in nats, one for each clip, `[B]`.
"""

import functools
import math
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Float32, PyTree

Loss = Callable[[Float[Array, "..."], Float[Array, "..."]], Float[Array, ""]]
Likelihood = Callable[
    [
        Float[Array, "batch time height width channel"],
        Float[Array, "batch time height width channel"],
        float,
    ],
    Float32[Array, " batch"],
]
Critic = Callable[[PyTree], PyTree]


def rpgan_dis(real: Float[Array, "*logits"], fake: Float[Array, "*logits"]) -> Float[Array, ""]:
    """Relativistic pairing loss of the discriminator; Jolicoeur-Martineau, 2018; R3GAN, 2024."""
    return jnp.mean(jax.nn.softplus(fake - real))


def rpgan_gen(real: Float[Array, "*logits"], fake: Float[Array, "*logits"]) -> Float[Array, ""]:
    """Relativistic pairing loss of the generator."""
    return jnp.mean(jax.nn.softplus(real - fake))


def bce_dis(real: Float[Array, "*logits"], fake: Float[Array, "*logits"]) -> Float[Array, ""]:
    """Binary cross-entropy of the discriminator; Goodfellow et al., 2014."""
    return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake))


def non_saturating_gen(real: Float[Array, "..."], fake: Float[Array, "..."]) -> Float[Array, ""]:
    """Non-saturating loss of the generator: `-log sigmoid(fake)`."""
    return jnp.mean(jax.nn.softplus(-fake))


def minimax_gen(real: Float[Array, "..."], fake: Float[Array, "..."]) -> Float[Array, ""]:
    """Saturating loss of the generator: `log(1 - sigmoid(fake))`."""
    return -jnp.mean(jax.nn.softplus(fake))


def hinge_dis(real: Float[Array, "*logits"], fake: Float[Array, "*logits"]) -> Float[Array, ""]:
    """Hinge loss of the discriminator; Lim and Ye, 2017."""
    return jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake))


def hinge_gen(real: Float[Array, "..."], fake: Float[Array, "..."]) -> Float[Array, ""]:
    """Generator's part of the hinge loss: `-fake`."""
    return -jnp.mean(fake)


def least_squares_dis(
    real: Float[Array, "*logits"], fake: Float[Array, "*logits"]
) -> Float[Array, ""]:
    """Least-squares loss of the discriminator with targets 1 and 0; Mao et al., 2017."""
    return 0.5 * jnp.mean((real - 1) ** 2) + 0.5 * jnp.mean(fake**2)


def least_squares_gen(real: Float[Array, "..."], fake: Float[Array, "..."]) -> Float[Array, ""]:
    """Least-squares loss of the generator with target 1."""
    return 0.5 * jnp.mean((fake - 1) ** 2)


LOSSES: dict[str, tuple[Loss, Loss]] = {
    "rpgan": (rpgan_dis, rpgan_gen),
    "non_saturating": (bce_dis, non_saturating_gen),
    "minimax": (bce_dis, minimax_gen),
    "hinge": (hinge_dis, hinge_gen),
    "least_squares": (least_squares_dis, least_squares_gen),
}

PAIRED = ("rpgan",)  # losses whose generator needs the logits of real clips


def against_all(
    right: Float[Array, "batch candidate *rest"],
    wrong: Float[Array, "batch candidate *rest"],
    counted: Bool[Array, "batch candidate"],
) -> Float[Array, ""]:
    """Returns the loss of the right candidate of each clip among all wrong ones: a cross-entropy.

    With one wrong candidate it is that of `rpgan`. With more, those that are nearest to the right
    one count most: of captions the same colour with another shape, say, instead of all that are of
    other colours anyway.

    Args:
      right: Logits of the right candidate, beside each wrong one.
      wrong: Those of the wrong ones.
      counted: Which of them are; others are as if they were not there.

    Reference: van den Oord et al., "Representation learning with contrastive predictive coding"
      (InfoNCE), 2018; Zhang et al., "Cross-modal contrastive learning for text-to-image
      generation" (XMC-GAN), 2021.
    """
    counted = counted.reshape(*counted.shape, *(1,) * (wrong.ndim - 2))
    apart = jnp.where(counted, wrong - right, -jnp.inf)
    return jnp.mean(jax.nn.logsumexp(jnp.concatenate([jnp.zeros_like(apart[:, :1]), apart], 1), 1))


def interleave(real: PyTree, fake: PyTree, group: int = 1) -> PyTree:
    """Makes one batch `[2 B, ...]` of two `[B, ...]`: real, fake, real, fake, ...

    One after the other they would have to move between the devices that their clips lie on.

    Args:
      real: Of B clips, an array or a tree of arrays.
      fake: Of as many, likewise.
      group: Clips that stay together: so many real ones, as many fakes, and so on; divides B.
    """

    def one(*both):
        axes = both[0].shape[1:]
        return jnp.stack([x.reshape(-1, group, *axes) for x in both], 1).reshape(-1, *axes)

    return jax.tree.map(one, real, fake)


def apart(both: PyTree, group: int = 1) -> tuple[PyTree, PyTree]:
    """Undoes `interleave`."""
    at = lambda n, x: x.reshape(-1, 2, group, *x.shape[1:])[:, n].reshape(-1, *x.shape[1:])  # noqa: E731
    real, fake = (jax.tree.map(functools.partial(at, n), both) for n in (0, 1))
    return real, fake


def of_heads(loss: Callable[..., Float[Array, ""]], *logits: PyTree) -> Float[Array, ""]:
    """Sums a loss over the heads of a discriminator; a single array of logits is one head.

    Args:
      loss: Of arrays of logits, as those of `LOSSES`.
      *logits: What it takes: arrays, or trees of one array for each head.
    """
    each = jax.tree.leaves(jax.tree.map(loss, *logits))
    return functools.reduce(operator.add, each)


def of_clips(logits: PyTree, candidates: bool = False) -> Float32[Array, " batch"]:
    """Returns one number for each clip: its mean logit of each head, summed over the heads.

    Args:
      logits: `[B, ...]`, an array or one for each head.
      candidates: Whether the second axis counts labels, of which the first is taken.
    """
    each = [x[:, 0] if candidates else x for x in jax.tree.leaves(logits)]
    each = [x.astype(jnp.float32).reshape(len(x), -1).mean(1) for x in each]
    return functools.reduce(operator.add, each)


def critic_with_penalties(
    critic: Critic,
    real: PyTree,
    fake: PyTree,
    *,
    candidates: bool = False,
    group: int = 1,
) -> tuple[PyTree, PyTree, Float32[Array, " batch"], Float32[Array, " batch"]]:
    """Evaluates a critic and both zero-centred gradient penalties with one joint VJP.

    Real and fake go through the critic as one batch, and one backward pass gives the gradients of
    both: a critic sees each clip apart, or a group, so the gradient of the sum of all is theirs.

    Args:
      critic: Maps what it sees of clips, interleaved, to logits `[N]`, clip by clip; or to more
        of each clip and of several heads, as `of_clips` takes them.
      real: What it sees of real ones: videos in [-1, 1] `[B, T, H, W, C]`, or a tree of `[B, ...]`.
      fake: The same of generated ones, in the same shapes.
      candidates: Whether logits are of K labels for each clip, of which the first is penalized.
      group: Clips that the critic sees together.

    Returns:
      `(real_logits, fake_logits, r1, r2)`: logits as the critic gives them; r1 and r2 `[B]`, the
      squared norms of the gradients of `of_clips` by what is seen of real and of fake clips.

    Reference: Mescheder et al., "Which training methods for GANs do actually converge?", 2018.
    """

    def judged(seen):
        logits = critic(seen)
        return of_clips(logits, candidates), logits

    each, pullback, logits = jax.vjp(judged, interleave(real, fake, group), has_aux=True)
    (slopes,) = pullback(jnp.ones_like(each))
    squares = [
        jnp.sum(x.astype(jnp.float32) ** 2, axis=tuple(range(1, x.ndim)))
        for x in jax.tree.leaves(slopes)
    ]
    return *apart(logits, group), *apart(functools.reduce(operator.add, squares), group)


def judged_apart(
    critic: Critic, real: PyTree, fake: PyTree, group: int = 1
) -> tuple[PyTree, PyTree]:
    """Evaluates a critic of real and fake clips at once; arguments as in `critic_with_penalties`.

    Returns:
      The logits of real and of fake clips, as the critic gives them.
    """
    return apart(critic(interleave(real, fake, group)), group)


def critic_with_differences(
    critic: Critic,
    real: PyTree,
    fake: PyTree,
    noise_real: PyTree,
    noise_fake: PyTree,
    sigma: Float[ArrayLike, ""],
    *,
    candidates: bool = False,
    group: int = 1,
) -> tuple[PyTree, PyTree, Float32[Array, " batch"], Float32[Array, " batch"]]:
    """Evaluates a critic and estimates both gradient penalties by finite differences.

    The slope of a logit along noise n is squared: ((D(x + sigma n) - D(x)) / sigma)^2. Its mean
    over n is |dD/dx|^2 up to O(sigma^2), and its standard deviation sqrt(2) times that. A step then
    needs gradients of the first order only, and two more passes forward instead. The difference
    loses digits: with logits of size L and features of relative precision e, sigma must be well
    above e L over the slope's size, so take a larger one in bfloat16 than in float32.

    Args:
      critic: As for `critic_with_penalties`; called twice.
      real: What it sees of real clips, likewise.
      fake: The same of generated ones, in the same shapes.
      noise_real: Standard normal noise in the shapes of `real`, each clip's own.
      noise_fake: The same for `fake`.
      sigma: Length of the steps along the noise, above 0.
      candidates: As for `critic_with_penalties`.
      group: Likewise.

    Returns:
      `(real_logits, fake_logits, r1, r2)` as `critic_with_penalties`; r1 and r2 `[B]` are estimates
      from one draw of noise.

    Reference: Lin et al., "Diffusion adversarial post-training for one-step video generation"
      (Seaweed-APT), 2025, for the approximate penalty; there without the division by sigma^2.
    """
    both = interleave(real, fake, group)
    logits = critic(both)
    noise = interleave(noise_real, noise_fake, group)
    moved = critic(jax.tree.map(lambda x, by: x + sigma * by.astype(x.dtype), both, noise))
    rise = (of_clips(moved, candidates) - of_clips(logits, candidates)) / sigma
    return *apart(logits, group), *apart(rise**2, group)


def reparameterized(
    posterior: tuple[Float[Array, "*shape"], Float[Array, "*shape"]], noise: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Turns standard normal noise into a draw from a posterior, `(mean, log variance)`.

    Reference: Kingma and Welling, "Auto-encoding variational Bayes", 2014.
    """
    mean, log_variance = posterior
    return mean + jnp.exp(0.5 * log_variance) * noise


def gaussian_kl(
    mean: Float[Array, " batch *axes"], log_variance: Float[Array, " batch *axes"]
) -> Float[Array, " batch"]:
    """Returns the KL divergence of normal distributions from the standard normal one.

    Args:
      mean: `[B, ...]`.
      log_variance: Logarithms of the variances, of the same shape.

    Returns:
      KL(N(mean, variance) || N(0, 1)) summed over all but the first axis, `[B]`, in nats.
    """
    each = 0.5 * (jnp.exp(log_variance) + mean**2 - 1 - log_variance)
    return jnp.sum(each, axis=tuple(range(1, each.ndim)))


def gaussian_likelihood(
    video: Float[Array, " batch *values"],
    made: Float[Array, " batch *values"],
    scale: float,
) -> Float32[Array, " batch"]:
    """Returns the log density of videos under normal noise of deviation `scale` about `made`."""
    constant = math.log(scale) + 0.5 * math.log(2 * math.pi)
    return _sum_clips(-0.5 * ((video - made) / scale) ** 2 - constant)


def laplace_likelihood(
    video: Float[Array, " batch *values"],
    made: Float[Array, " batch *values"],
    scale: float,
) -> Float32[Array, " batch"]:
    """Returns the log density of videos under Laplace noise of that scale about `made`."""
    return _sum_clips(-jnp.abs(video - made) / scale - math.log(2 * scale))


def bernoulli_likelihood(
    video: Float[Array, " batch *values"],
    made: Float[Array, " batch *values"],
    scale: float,
) -> Float32[Array, " batch"]:
    """Returns minus the cross-entropy of videos, as shares of full intensity, with `made`.

    Where all shares are 0 or 1 it is the log likelihood of Bernoulli variables. The probabilities
    of `made` stay half a level of 255 away from 0 and 1. `scale` is not used.
    """
    del scale
    share, probability = (video + 1) / 2, (made + 1) / 2 * (254 / 255) + 0.5 / 255
    return _sum_clips(share * jnp.log(probability) + (1 - share) * jnp.log1p(-probability))


def _sum_clips(each: Float[Array, "batch ..."]) -> Float32[Array, " batch"]:
    return jnp.sum(each.astype(jnp.float32), axis=tuple(range(1, each.ndim)))


# Each takes real and made videos in [-1, 1], `[B, T, H, W, C]`, and a scale; returns `[B]`.
LIKELIHOODS: dict[str, Likelihood] = {
    "mse": gaussian_likelihood,
    "l1": laplace_likelihood,
    "cross_entropy": bernoulli_likelihood,
}
