"""Distances between sets of features: against closed forms, other algorithms, and simulation."""

import itertools

import numpy as np
import pytest
from scipy import linalg

from vidgen.metrics import distances


def gaussian(rng, count, size, shift=0.0, scale=1.0):
    mixing = np.linalg.qr(np.random.default_rng(5).normal(size=(size, size)))[0]
    return (rng.normal(size=(count, size)) * scale + shift) @ mixing


def test_frechet_of_gaussians_with_one_basis_has_a_closed_form():
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 1.0])
    gap = np.array([1.0, 0.0, 2.0])
    expected = gap @ gap + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()  # = 5 + 1 + 0 + 4
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    rotated = [turn @ np.diag(x) @ turn.T for x in (a, b)]
    found = distances.frechet_of_gaussians(turn @ gap, rotated[0], np.zeros(3), rotated[1])
    assert expected == 10 and found == pytest.approx(10, rel=1e-12)


@pytest.mark.parametrize("counts", [(300, 200), (12, 9), (300, 9)], ids=str)
def test_frechet_is_that_of_the_matrix_square_root(counts):
    rng = np.random.default_rng(1)
    a = gaussian(rng, counts[0], 20)
    b = gaussian(rng, counts[1], 20, 0.3, np.linspace(0.5, 2, 20))
    s, c = np.cov(a.T), np.cov(b.T)
    # Dowson and Landau's form, by the eigenvalues of the product, which needs no root at all.
    cross = np.sqrt(np.maximum(linalg.eigvals(s @ c).real, 0)).sum()
    gap = a.mean(0) - b.mean(0)
    expected = gap @ gap + np.trace(s) + np.trace(c) - 2 * cross
    assert distances.frechet(a, b) == pytest.approx(expected, rel=1e-6)
    assert distances.frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_the_interval_holds_the_distance_as_often_as_it_says():
    rng = np.random.default_rng(2)
    draw = lambda: (gaussian(rng, 60, 4), gaussian(rng, 60, 4, 0.4, 1.3))  # noqa: E731
    middle = np.mean([distances.frechet(*draw()) for _ in range(400)])
    held = 0
    for _ in range(60):
        low, high = distances.frechet_interval(*draw(), rng, rounds=60)
        held += low <= middle <= high
    assert held >= 50  # 57 of 60 are expected; below 50 once in 10,000 tries


def test_the_extrapolation_takes_the_bias_of_small_sets_away():
    rng = np.random.default_rng(3)
    plain, extrapolated = [], []
    for _ in range(12):
        a, b = gaussian(rng, 120, 16), gaussian(rng, 120, 16)
        plain.append(distances.frechet(a, b))
        extrapolated.append(distances.frechet_at_infinity(a, b, rng))
    assert np.mean(plain) > 0.5  # the truth is 0
    assert abs(np.mean(extrapolated)) < 0.2 * np.mean(plain)


def test_the_kernel_distance_is_a_sum_over_pairs():
    rng = np.random.default_rng(4)
    a, b = gaussian(rng, 7, 3), gaussian(rng, 5, 3, 0.5)
    kernel = lambda x, y: (x @ y / 3 + 1) ** 3  # noqa: E731
    among = lambda x: np.mean([kernel(p, q) for p, q in itertools.permutations(x, 2)])  # noqa: E731
    expected = among(a) + among(b) - 2 * np.mean([kernel(p, q) for p in a for q in b])
    assert distances.kernel_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_the_kernel_distance_has_no_bias_and_its_interval_is_true():
    rng = np.random.default_rng(5)
    pairs = [(gaussian(rng, 24, 6), gaussian(rng, 24, 6)) for _ in range(200)]
    found = np.array([distances.kernel_distance(*pair) for pair in pairs])
    assert abs(found.mean()) < 3 * found.std() / np.sqrt(len(found))
    held = 0
    for pair in pairs[:60]:
        low, high = distances.kernel_interval(*pair, rng)
        held += low <= 0 <= high
    assert held >= 48


def test_neighbourhoods_are_what_loops_find():
    rng = np.random.default_rng(6)
    real, fake = gaussian(rng, 30, 3), gaussian(rng, 25, 3, 0.7)
    found = distances.neighbourhoods(real, fake, 4)
    ball = lambda x, p: sorted(np.linalg.norm(x - p, axis=1))[4]  # noqa: E731  # 0 is itself
    inside = [[np.linalg.norm(f - r) <= ball(real, r) for r in real] for f in fake]
    assert found["precision"].tolist() == [any(row) for row in inside]
    assert found["density"].tolist() == [sum(row) / 4 for row in inside]
    assert found["coverage"].tolist() == [any(column) for column in zip(*inside, strict=True)]
    assert found["recall"].tolist() == [
        any(np.linalg.norm(f - r) <= ball(fake, f) for f in fake) for r in real
    ]


def test_neighbourhoods_of_equal_and_of_distant_sets():
    real = gaussian(np.random.default_rng(7), 200, 4)
    same = distances.neighbourhoods(real, real)
    assert all(same[name].mean() == 1 for name in ("precision", "recall", "coverage"))
    far = distances.neighbourhoods(real, real + 100)
    assert all(values.mean() == 0 for values in far.values())
    # A collapse is precise, dense, and covers little.
    one = distances.neighbourhoods(real, np.repeat(real[:2], 100, 0))
    assert one["precision"].mean() == 1 and one["coverage"].mean() < 0.2


def test_the_inception_score_of_sure_and_of_unsure_logits():
    sure = 50 * np.eye(7)[np.arange(70) % 7]
    assert distances.inception_score(sure) == pytest.approx(7)
    assert distances.inception_score(np.repeat(sure[:1], 70, 0)) == pytest.approx(1)
    assert distances.inception_score(np.zeros((70, 7))) == pytest.approx(1)
