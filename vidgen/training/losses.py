"""Adversarial losses, gradient penalties and likelihoods: functions of arrays and of a critic.

Logits of real clips are `real`, of generated ones `fake`, both `[B]`; every adversarial loss is a
scalar mean. Likelihoods and divergences are in nats, one for each clip, `[B]`.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp


def _softplus(x: jax.Array) -> jax.Array:
    return jnp.logaddexp(x, 0.0)


def rpgan_dis(real, fake):
    """Relativistic pairing loss of the discriminator; Jolicoeur-Martineau, 2018; R3GAN, 2024."""
    return jnp.mean(_softplus(fake - real))


def rpgan_gen(real, fake):
    """Relativistic pairing loss of the generator."""
    return jnp.mean(_softplus(real - fake))


def bce_dis(real, fake):
    """Binary cross-entropy of the discriminator; Goodfellow et al., 2014."""
    return jnp.mean(_softplus(-real)) + jnp.mean(_softplus(fake))


def non_saturating_gen(real, fake):
    """Non-saturating loss of the generator: `-log sigmoid(fake)`."""
    return jnp.mean(_softplus(-fake))


def minimax_gen(real, fake):
    """Saturating loss of the generator: `log(1 - sigmoid(fake))`."""
    return -jnp.mean(_softplus(fake))


def hinge_dis(real, fake):
    """Hinge loss of the discriminator; Lim and Ye, 2017."""
    return jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake))


def hinge_gen(real, fake):
    """Generator's part of the hinge loss: `-fake`."""
    return -jnp.mean(fake)


def least_squares_dis(real, fake):
    """Least-squares loss of the discriminator with targets 1 and 0; Mao et al., 2017."""
    return 0.5 * jnp.mean((real - 1) ** 2) + 0.5 * jnp.mean(fake**2)


def least_squares_gen(real, fake):
    """Least-squares loss of the generator with target 1."""
    return 0.5 * jnp.mean((fake - 1) ** 2)


LOSSES = {
    "rpgan": (rpgan_dis, rpgan_gen),
    "non_saturating": (bce_dis, non_saturating_gen),
    "minimax": (bce_dis, minimax_gen),
    "hinge": (hinge_dis, hinge_gen),
    "least_squares": (least_squares_dis, least_squares_gen),
}

PAIRED = ("rpgan",)  # losses whose generator needs the logits of real clips


def interleave(real: jax.Array, fake: jax.Array) -> jax.Array:
    """Makes one batch `[2 B, ...]` of two `[B, ...]`: real, fake, real, fake, ...

    One after the other they would have to move between the devices that their clips lie on.
    """
    return jnp.stack([real, fake], 1).reshape(-1, *real.shape[1:])


def apart(both: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Undoes `interleave`."""
    pairs = both.reshape(-1, 2, *both.shape[1:])
    return pairs[:, 0], pairs[:, 1]


def critic_with_penalties(
    critic: Callable[[jax.Array], jax.Array], real: jax.Array, fake: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Evaluates a critic and both zero-centred gradient penalties with one joint VJP.

    Real and fake go through the critic as one batch, and one backward pass gives the gradients of
    both: a critic sees each clip apart, so the gradient of the sum of all logits is theirs.

    Args:
      critic: Maps videos `[N, T, H, W, C]`, interleaved, to logits `[N]`, clip by clip; or to
        `[N, K]`, of K labels for each clip, of which the first is penalized.
      real: Videos in [-1, 1] `[B, T, H, W, C]`.
      fake: Likewise.

    Returns:
      `(real_logits, fake_logits, r1, r2)`: logits `[B]` or `[B, K]`; r1 and r2 `[B]`, the squared
      norms of the logits' gradients by the pixels of real and of fake clips.

    Reference: Mescheder et al., "Which training methods for GANs do actually converge?", 2018.
    """
    both = interleave(real, fake)
    logits, pullback = jax.vjp(critic, both)
    first = jnp.ones_like(logits)
    if logits.ndim == 2:
        first = first.at[:, 1:].set(0)
    (slopes,) = pullback(first)
    norms = jnp.sum(slopes.astype(jnp.float32) ** 2, axis=tuple(range(1, slopes.ndim)))
    return *apart(logits), *apart(norms)


def critic_with_differences(
    critic: Callable[[jax.Array], jax.Array],
    real: jax.Array,
    fake: jax.Array,
    noise_real: jax.Array,
    noise_fake: jax.Array,
    sigma: float,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Evaluates a critic and estimates both gradient penalties by finite differences.

    The slope of a logit along noise n is squared: ((D(x + sigma n) - D(x)) / sigma)^2. Its mean
    over n is |dD/dx|^2 up to O(sigma^2), and its standard deviation sqrt(2) times that. A step then
    needs gradients of the first order only, and two more passes forward instead. The difference
    loses digits: with logits of size L and features of relative precision e, sigma must be well
    above e L over the slope's size, so take a larger one in bfloat16 than in float32.

    Args:
      critic: As for `critic_with_penalties`; called twice.
      real: Videos in [-1, 1] `[B, T, H, W, C]`.
      fake: Likewise.
      noise_real: Standard normal noise in the shape of `real`, each clip's own.
      noise_fake: Likewise for `fake`.
      sigma: Length of the steps along the noise, above 0.

    Returns:
      `(real_logits, fake_logits, r1, r2)` as `critic_with_penalties`; r1 and r2 `[B]` are estimates
      from one draw of noise.

    Reference: Lin et al., "Diffusion adversarial post-training for one-step video generation"
      (Seaweed-APT), 2025, for the approximate penalty; there without the division by sigma^2.
    """
    both = interleave(real, fake)
    logits = critic(both)
    moved = critic(both + sigma * interleave(noise_real, noise_fake).astype(both.dtype))
    rise = (moved - logits).astype(jnp.float32) / sigma
    if rise.ndim == 2:
        rise = rise[:, 0]
    return *apart(logits), *apart(rise**2)


def reparameterized(posterior: tuple[jax.Array, jax.Array], noise: jax.Array) -> jax.Array:
    """Makes of standard normal noise a draw from a posterior, `(mean, log variance)`.

    Reference: Kingma and Welling, "Auto-encoding variational Bayes", 2014.
    """
    mean, log_variance = posterior
    return mean + jnp.exp(0.5 * log_variance) * noise


def gaussian_kl(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Returns the KL divergence of normal distributions from the standard normal one.

    Args:
      mean: `[B, ...]`.
      log_variance: Logarithms of the variances, of the same shape.

    Returns:
      KL(N(mean, variance) || N(0, 1)) summed over all but the first axis, `[B]`, in nats.
    """
    each = 0.5 * (jnp.exp(log_variance) + mean**2 - 1 - log_variance)
    return jnp.sum(each, axis=tuple(range(1, each.ndim)))


def gaussian_likelihood(video: jax.Array, made: jax.Array, scale: float) -> jax.Array:
    """Returns the log density of videos under normal noise of deviation `scale` about `made`."""
    constant = math.log(scale) + 0.5 * math.log(2 * math.pi)
    return _of_clips(-0.5 * ((video - made) / scale) ** 2 - constant)


def laplace_likelihood(video: jax.Array, made: jax.Array, scale: float) -> jax.Array:
    """Returns the log density of videos under Laplace noise of that scale about `made`."""
    return _of_clips(-jnp.abs(video - made) / scale - math.log(2 * scale))


def bernoulli_likelihood(video: jax.Array, made: jax.Array, scale: float) -> jax.Array:
    """Returns minus the cross-entropy of values, as shares of full intensity, with what was made.

    Shares are those of a coin's falls; where all are 0 or 1 it is the log likelihood of coins. What
    was made stays half a level of 255 away from certainty. `scale` is not looked at.
    """
    del scale
    share, chance = (video + 1) / 2, (made + 1) / 2 * (254 / 255) + 0.5 / 255
    return _of_clips(share * jnp.log(chance) + (1 - share) * jnp.log1p(-chance))


def _of_clips(each: jax.Array) -> jax.Array:
    return jnp.sum(each.astype(jnp.float32), axis=tuple(range(1, each.ndim)))


# Each takes real and made videos in [-1, 1], `[B, T, H, W, C]`, and a scale; returns `[B]`.
LIKELIHOODS = {
    "mse": gaussian_likelihood,
    "l1": laplace_likelihood,
    "cross_entropy": bernoulli_likelihood,
}
