"""Figures of sets: each moves where it should, and stays where it should."""

import math

import numpy as np
import pytest

from vidgen.metrics import measures


def test_distribution_distance_is_a_shift_in_standard_deviations():
    real = np.random.default_rng(0).normal(3, 2, 4000)
    assert measures.distribution_distance(real, real) == 0
    assert measures.distribution_distance(real, real + 1) == pytest.approx(1 / real.std())


def test_diversity_is_a_ratio_of_distances():
    rng = np.random.default_rng(1)
    real = rng.normal(size=(60, 5))
    same = measures.diversity(real, real, rng)
    assert same["value"] == 1 and same["low"] < 1 < same["high"]
    assert measures.diversity(real, 0.5 * real + 3, rng)["value"] == pytest.approx(0.5)
    assert measures.diversity(real, np.repeat(real[:1], 60, 0), rng)["value"] == 0


def test_where_real_clips_are_alike_there_is_no_unit():
    rng = np.random.default_rng(1)
    varied, one = rng.normal(size=(60, 5)), np.repeat(rng.normal(size=(1, 5)), 60, 0)
    nearly = one * (1 + 1e-9 * rng.normal(size=(60, 5)))  # as features of equal clips may come out
    for real in (np.zeros((60, 5)), one, nearly):
        for fake in (varied, real):
            assert math.isnan(measures.diversity(real, fake, rng)["value"])
            assert math.isnan(measures.different_bins(real, fake))
            found = measures.copies(fake, real, np.arange(60))
            assert math.isnan(found["nearest_distance"]["value"])
            assert found["copied"]["value"] == (fake is real)
    assert measures.distribution_distance(np.zeros(9), np.zeros(9)) == 0
    assert math.isnan(measures.distribution_distance(np.zeros(9), np.full(9, 1e-2)))
    noise = 1e-6 * rng.normal(size=9)  # of the brightness of frames that are all one
    assert math.isnan(measures.distribution_distance(noise, np.ones(9)))
    # Few different clips make few bins, and no warning of k-means (warnings are errors here).
    assert measures.different_bins(np.repeat(varied[:3], 80, 0), np.repeat(varied[:1], 80, 0)) == 1


def test_about_one_bin_in_twenty_differs_between_sets_of_one_kind():
    rng = np.random.default_rng(2)
    shares = [
        measures.different_bins(rng.normal(size=(400, 6)), rng.normal(size=(400, 6)), seed)
        for seed in range(30)
    ]
    assert 0.01 < np.mean(shares) < 0.12
    real = rng.normal(size=(400, 6))
    assert measures.different_bins(real, np.repeat(real[:2], 200, 0)) > 0.5


def test_a_copied_clip_is_caught_and_a_new_one_is_not():
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(50, 16))
    clip = np.repeat(np.arange(50), 4)
    bank = centres[clip] + 0.02 * rng.normal(size=(200, 16))  # four windows of each clip
    fake = np.concatenate([rng.normal(size=(30, 16)), centres[:10]])
    found = measures.copies(fake, bank, clip)
    assert found["copied"]["value"] == 0.25
    # Windows of one clip are alike; taken for neighbours they would make everything a new clip.
    blind = measures.copies(fake, bank, np.arange(200))
    assert blind["copied"]["value"] < 0.25


def test_average_content_distance_of_known_colours():
    clip = np.zeros((4, 16, 16, 3), np.uint8)
    clip[:2, 4:8, 4:8] = (200, 100, 0)
    clip[2:, 8:14, 2:9] = (200, 103, 4)  # moved, grown, and 5 levels away
    still = clip.copy()
    still[2:] = clip[:2]
    found = measures.average_content_distance(np.stack([clip, still]))
    assert found == pytest.approx([5 * 4 / 6, 0])  # of six pairs of frames, four are across


def test_nearest_is_the_nearest():
    at, apart = measures.nearest(np.array([[0.0, 1.0], [5.0, 5.0]]), np.array([[5.0, 4.0], [0, 0]]))
    assert at.tolist() == [1, 0] and apart.tolist() == [1, 1]
