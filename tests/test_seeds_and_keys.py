import jax
import numpy as np

from vidgen import keys, seeds


def test_a_stream_depends_on_its_names_alone():
    first = seeds.stream(3, "window", 7).random(4)
    seeds.stream(3, "window", 6).random(100)
    np.testing.assert_array_equal(first, seeds.stream(3, "window", 7).random(4))
    np.testing.assert_array_equal(first, seeds.stream(3, "window", np.int64(7)).random(4))
    for other in (
        seeds.stream(4, "window", 7),
        seeds.stream(3, "crop", 7),
        seeds.stream(3, "window", "7"),
    ):
        assert not np.array_equal(first, other.random(4))


def test_each_epoch_is_a_permutation_of_its_own():
    one, two = seeds.permutation(0, 5, 100), seeds.permutation(0, 6, 100)
    assert sorted(one) == sorted(two) == list(range(100))
    assert not np.array_equal(one, two)


def test_noise_of_a_clip_does_not_depend_on_its_batch():
    key = keys.root(0)
    whole = keys.normal(keys.per_clip(key, np.arange(8)), (5,))
    part = keys.normal(keys.per_clip(key, np.arange(3, 6)), (5,))
    np.testing.assert_array_equal(whole[3:6], part)
    assert len(np.unique(np.asarray(whole))) == whole.size


def test_motion_noise_of_overlapping_windows_agrees():
    clip_keys = keys.per_clip(keys.root(1), np.arange(2))
    early = keys.over_time(clip_keys, np.array([-2, -2]), 6, 4)
    late = keys.over_time(clip_keys, np.array([1, 1]), 6, 4)
    np.testing.assert_array_equal(early[:, 3:], late[:, :3])
    assert not np.array_equal(early[:, :3], late[:, :3])


def test_names_and_steps_give_other_keys():
    key = keys.root(0)
    data = {
        tuple(np.asarray(jax.random.key_data(k)).tolist())
        for k in (key, keys.named(key, "a"), keys.named(key, "b"), keys.at_step(key, 1))
    }
    assert len(data) == 4
