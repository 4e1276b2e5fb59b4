import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.training import losses

rng = np.random.default_rng(0)
REAL, FAKE = rng.normal(size=5) * 3, rng.normal(size=5) * 3


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0)


# The discriminator's and generator's losses as their papers write them, with sigmoids and logs.
PAPERS = {
    "rpgan": (
        lambda r, f: -np.mean(np.log(sigmoid(r - f))),
        lambda r, f: -np.mean(np.log(sigmoid(f - r))),
    ),
    "non_saturating": (
        lambda r, f: -np.mean(np.log(sigmoid(r))) - np.mean(np.log(1 - sigmoid(f))),
        lambda r, f: -np.mean(np.log(sigmoid(f))),
    ),
    "minimax": (
        lambda r, f: -np.mean(np.log(sigmoid(r))) - np.mean(np.log(1 - sigmoid(f))),
        lambda r, f: np.mean(np.log(1 - sigmoid(f))),
    ),
    "hinge": (
        lambda r, f: np.mean(relu(1 - r)) + np.mean(relu(1 + f)),
        lambda r, f: -np.mean(f),
    ),
    "least_squares": (
        lambda r, f: 0.5 * np.mean((r - 1) ** 2) + 0.5 * np.mean(f**2),
        lambda r, f: 0.5 * np.mean((f - 1) ** 2),
    ),
}


@pytest.mark.parametrize("name", losses.LOSSES)
def test_losses_are_those_of_the_papers(name):
    for ours, paper in zip(losses.LOSSES[name], PAPERS[name], strict=True):
        np.testing.assert_allclose(ours(jnp.array(REAL), jnp.array(FAKE)), paper(REAL, FAKE), 1e-5)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_losses_are_finite_for_extreme_logits(name):
    for loss in losses.LOSSES[name]:
        for real, fake in ((1e4, -1e4), (-1e4, 1e4)):
            value, slope = jax.value_and_grad(
                lambda r, f=fake, g=loss: g(jnp.array([r]), jnp.array([f]))
            )(real)
            assert np.isfinite(value) and np.isfinite(slope)


def test_penalties_are_squared_gradient_norms():
    shape = (2, 2, 4, 4, 3)
    real, fake = rng.normal(size=shape), rng.normal(size=shape)
    weight = rng.normal(size=shape[1:])

    def critic(video):  # logit = (w . x)^2 / 2, so its gradient is (w . x) w
        return 0.5 * jnp.sum(video * weight[None], axis=(1, 2, 3, 4)) ** 2

    on_real, on_fake, r1, r2 = losses.critic_with_penalties(
        critic, jnp.array(real), jnp.array(fake)
    )
    for clips, logits, penalty in ((real, on_real, r1), (fake, on_fake, r2)):
        dots = np.einsum("bthwc,thwc->b", clips, weight)
        np.testing.assert_allclose(logits, 0.5 * dots**2, rtol=1e-4)
        np.testing.assert_allclose(penalty, dots**2 * np.sum(weight**2), rtol=1e-4)


def test_of_several_labels_the_first_is_penalized():
    video = jnp.array(rng.normal(size=(3, 1, 2, 2, 1)))
    scales = np.array([2.0, 5.0])  # gradient of scale * sum(x^2) / 2 is scale * x

    def critic(v):
        return 0.5 * scales[None] * jnp.sum(v**2, axis=(1, 2, 3, 4))[:, None]

    on_real, on_fake, r1, r2 = losses.critic_with_penalties(
        critic, video, 2 * video, candidates=True
    )
    squares = np.sum(np.asarray(video) ** 2, axis=(1, 2, 3, 4))
    np.testing.assert_allclose(on_real, 0.5 * squares[:, None] * scales, rtol=1e-5)
    np.testing.assert_allclose(on_fake, 2 * squares[:, None] * scales, rtol=1e-5)
    np.testing.assert_allclose(r1, scales[0] ** 2 * squares, rtol=1e-5)
    np.testing.assert_allclose(r2, 4 * scales[0] ** 2 * squares, rtol=1e-5)


def test_clips_of_a_group_stay_together():
    real, fake = jnp.arange(4)[:, None], 10 + jnp.arange(4)[:, None]
    both = losses.interleave(real, fake, 2)
    assert both[:, 0].tolist() == [0, 1, 10, 11, 2, 3, 12, 13]
    jax.tree.map(np.testing.assert_array_equal, losses.apart(both, 2), (real, fake))
    assert losses.interleave(real, fake)[:, 0].tolist() == [0, 10, 1, 11, 2, 12, 3, 13]


def test_the_nearest_of_wrong_candidates_counts_most():
    right = jnp.array([[2.0], [0.0]])
    wrong = jnp.array([[-1.0], [3.0]])
    one = losses.against_all(right, wrong, jnp.ones((2, 1), bool))
    np.testing.assert_allclose(one, losses.rpgan_dis(right, wrong), rtol=1e-6)
    # A cross-entropy: minus the logarithm of the right one's share.
    several = jnp.array([[-1.0, 1.5, -4.0]])
    shares = np.exp([2.0, -1.0, 1.5, -4.0])
    every = jnp.ones((1, 3), bool)
    loss = functools.partial(losses.against_all, jnp.full((1, 3), 2.0), counted=every)
    np.testing.assert_allclose(loss(several), -np.log(shares[0] / shares.sum()), rtol=1e-6)
    slopes = jax.grad(loss)(several)[0]
    np.testing.assert_allclose(slopes, shares[1:] / shares.sum(), rtol=1e-5)
    assert slopes[1] > 10 * slopes[0] > 100 * slopes[2]
    # What does not count is as if it was not there: in the loss, and in the gradients.
    frames = lambda x: jnp.broadcast_to(x[..., None], (*x.shape, 4))  # noqa: E731
    some = functools.partial(
        losses.against_all, frames(jnp.full((1, 3), 2.0)), counted=jnp.array([[True, False, True]])
    )
    rest = shares[[0, 1, 3]] / shares[[0, 1, 3]].sum()
    np.testing.assert_allclose(some(frames(several)), -np.log(rest[0]), rtol=1e-5)
    slopes = jax.grad(some)(frames(several))[0].sum(-1)
    np.testing.assert_allclose(slopes, [rest[1], 0, rest[2]], rtol=1e-5)
    nothing = losses.against_all(right, wrong, jnp.zeros((2, 1), bool))
    assert nothing == 0


def test_losses_are_summed_over_heads():
    real = {"image": jnp.array(rng.normal(size=(4, 3))), "time": jnp.array(rng.normal(size=4))}
    fake = {name: x[::-1] for name, x in real.items()}
    found = losses.of_heads(losses.rpgan_dis, real, fake)
    softplus = [np.log1p(np.exp(fake[n] - real[n])).mean() for n in real]
    np.testing.assert_allclose(found, sum(softplus), rtol=1e-5)


@pytest.mark.parametrize("estimate", ["gradients", "differences"])
def test_penalties_of_heads_are_of_their_sum_averaged_over_frames(estimate):
    """A linear critic's gradient is known, whatever the group of clips it sees together."""
    shape = (2, 2, 2, 1)
    weight = rng.normal(size=shape)
    video, noise = (jnp.array(rng.normal(size=(4, *shape))) for _ in range(2))

    def critic(video):  # of two candidates, of which the first counts
        frames = (video * weight[None]).sum((2, 3, 4))
        two = lambda x: jnp.stack([x, 7 * x], 1)  # noqa: E731
        return {"image": two(frames), "time": two(3 * video.sum((1, 2, 3, 4)))}

    slope = weight / 2 + 3
    given = {"candidates": True, "group": 2}
    if estimate == "gradients":
        real, fake, r1, r2 = losses.critic_with_penalties(critic, video, 2 * video, **given)
        expected = np.full(4, np.sum(slope**2))
    else:
        real, fake, r1, r2 = losses.critic_with_differences(
            critic, video, 2 * video, noise, noise, 0.5, **given
        )
        expected = (noise * slope[None]).sum((1, 2, 3, 4)) ** 2
    for found in (r1, r2):
        np.testing.assert_allclose(found, expected, rtol=1e-3)
    for found, clips in ((real, video), (fake, 2 * video)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            found,
            critic(clips),
        )


def test_penalties_can_be_differentiated_by_the_critics_parameters():
    video = jnp.array(rng.normal(size=(3, 1, 2, 2, 1)))

    def penalty(scale):  # gradient of scale * sum(x^2) / 2 is scale * x
        critic = lambda v: 0.5 * scale * jnp.sum(v**2, axis=(1, 2, 3, 4))  # noqa: E731
        return jnp.sum(losses.critic_with_penalties(critic, video, video)[2])

    np.testing.assert_allclose(
        jax.grad(penalty)(3.0), 2 * 3.0 * np.sum(np.asarray(video) ** 2), rtol=1e-5
    )


def test_differences_of_a_linear_critic_have_its_squared_weight_as_their_mean():
    """Then the rise along n is w . n exactly, whose square has mean |w|^2 and variance 2 |w|^4."""
    draws, shape = 20_000, (1, 2, 2, 1)
    weight = rng.normal(size=shape)

    def critic(video):
        return jnp.sum(video * weight[None], axis=(1, 2, 3, 4))

    real, fake = rng.normal(size=(2, draws, *shape))
    noise = rng.normal(size=(2, draws, *shape))
    on_real, on_fake, r1, r2 = losses.critic_with_differences(
        critic, *(jnp.array(x, jnp.float32) for x in (real, fake, *noise)), sigma=0.5
    )
    np.testing.assert_allclose(on_real, np.sum(real * weight, (1, 2, 3, 4)), atol=1e-5)
    np.testing.assert_allclose(on_fake, np.sum(fake * weight, (1, 2, 3, 4)), atol=1e-5)
    square = np.sum(weight**2)
    for penalty, n in ((r1, noise[0]), (r2, noise[1])):
        np.testing.assert_allclose(penalty, np.sum(n * weight, (1, 2, 3, 4)) ** 2, atol=1e-3)
        error = square * np.sqrt(2 / draws)
        assert abs(np.mean(penalty) - square) < 4 * error < 0.05 * square


def test_differences_agree_with_the_gradients_penalties_in_the_mean():
    """For a critic that bends; in 20,000 draws, within four standard errors."""
    draws, shape = 20_000, (2, 2, 2, 1)
    inside, outside = rng.normal(size=(8, 5)), rng.normal(size=5)

    def critic(video):
        hidden = jnp.tanh(video.reshape(len(video), -1) @ jnp.array(inside, jnp.float32))
        logit = hidden @ jnp.array(outside, jnp.float32)
        return jnp.stack([logit, 7 * logit], 1)  # the second label must not count

    real, fake = (jnp.array(0.5 * rng.normal(size=(1, *shape)), jnp.float32) for _ in range(2))
    exact = losses.critic_with_penalties(critic, real, fake)
    noise = jnp.array(rng.normal(size=(2, draws, *shape)), jnp.float32)
    many = lambda x: jnp.repeat(x, draws, 0)  # noqa: E731
    found = losses.critic_with_differences(critic, many(real), many(fake), *noise, sigma=0.01)
    for logits, expected in zip(found[:2], exact[:2], strict=True):
        np.testing.assert_allclose(logits, many(expected), rtol=1e-4, atol=1e-5)
    for penalty, expected in zip(found[2:], exact[2:], strict=True):
        error = np.std(penalty) / np.sqrt(draws)
        assert abs(np.mean(penalty) - expected[0]) < 4 * error < 0.05 * expected[0]


def test_differences_can_be_differentiated_by_the_critics_parameters():
    video, noise = (jnp.array(rng.normal(size=(3, 1, 2, 2, 1))) for _ in range(2))

    def penalty(scale):  # the rise along n of scale * sum(x) is scale * sum(n)
        critic = lambda v: scale * jnp.sum(v, axis=(1, 2, 3, 4))  # noqa: E731
        return jnp.sum(losses.critic_with_differences(critic, video, video, noise, -noise, 1.0)[3])

    sums = np.sum(np.asarray(noise), axis=(1, 2, 3, 4))
    np.testing.assert_allclose(jax.grad(penalty)(3.0), 2 * 3.0 * np.sum(sums**2), rtol=1e-4)
