"""Edits of latents, and what the sampler makes of them: any time, loops, classes by degrees."""

import functools

import jax
import numpy as np
import pytest
from conftest import TINY_GENERATOR, network

import vidgen
from vidgen import methods, sampling
from vidgen.errors import ConfigError
from vidgen.models import protocol
from vidgen.sampling import edit


@functools.cache
def make(kind="residual", batch=2, chunk=8, classes=2, **options):
    arguments = TINY_GENERATOR | options if kind == "residual" else options
    generator = network("generator", kind, **arguments, size=16, classes=classes)
    rng = np.random.default_rng(0)

    def weights(x):
        scale = 0.3
        if kind == "transformer":  # whose attention and colours soon are all or nothing
            scale = x.shape[0] ** -0.5 if len(x.shape) > 1 else 0.1
        return (scale * rng.normal(size=x.shape)).astype(np.float32)

    params = jax.tree.map(weights, protocol.abstract_params(generator))
    names = tuple(f"kind {n}" for n in range(classes))
    meta = {"classes": names, "fps": 12.0}
    return sampling.from_generator(generator, params, meta, 5, batch=batch, chunk=chunk)


TRANSFORMER = {"width": 16, "heads": 2, "grid": 2, "head": 8, "style": 16, "stride": 4}
KINDS = [
    ("residual", {}),
    ("residual", {"stride": 1, "motion_layers": 0}),
    ("residual", {"periods": (6, 8), "gaits": "one", "tempo_range": 0.0, "motion": 0}),
    ("transformer", TRANSFORMER),
]


@pytest.mark.parametrize("kind, options", KINDS)
def test_whole_times_are_frames_and_times_between_lie_between(kind, options):
    sampler = make(kind, **options)
    times = [5, 2, 17, 17]
    frames = sampler.sample([3, 4, 5], 20)
    np.testing.assert_array_equal(sampler.sample_at([3, 4, 5], times), frames[:, times])
    near = sampler.sample_at([3, 4, 5], [2.0 + 1e-5, 7.99999, 15.99999, 18.5])
    for seen, frame in zip(near[:, :3].swapaxes(0, 1), (2, 8, 16), strict=True):
        assert np.abs(seen.astype(int) - frames[:, frame]).max() <= 1
    before, between, after = (x.astype(int) for x in (frames[:, 18], near[:, 3], frames[:, 19]))
    apart = np.abs(before - after).mean()
    assert apart > 0.5  # they move
    assert 0.2 * apart < np.abs(between - before).mean() < 0.8 * apart
    assert 0.2 * apart < np.abs(between - after).mean() < 0.8 * apart


def test_any_times_agree_whatever_is_asked_for_with_them():
    sampler = make()
    many = sampler.sample_at([3, 4, 5], np.arange(0, 40, 0.4)[::-1])
    alone = sampler.sample_at([4], [12.4, 30.8])
    for seen, time in zip(alone[0], (12.4, 30.8), strict=True):
        at = np.argmin(np.abs(np.arange(0, 40, 0.4)[::-1] - time))
        assert np.abs(seen.astype(int) - many[1, at]).max() <= 1
    assert np.abs(np.diff(many.astype(int), axis=1)).mean() > 0.1


def test_late_times_are_as_exact_as_early_ones():
    sampler = make("residual", periods=(7,), gaits="one", tempo_range=0.0, motion=0)
    late = 70_000_000  # a float32 counts in steps of 8 there
    frames = sampler.sample([3], 5, start=late).astype(int)[0]
    found = sampler.sample_at([3], [late + 1e-4, late + 1.5, late + 2 - 1e-4]).astype(int)[0]
    assert np.abs(found[[0, 2]] - frames[[0, 2]]).max() <= 1
    apart = np.abs(frames[1] - frames[2]).mean()
    assert apart > 0.5 and np.abs(found[1] - frames[1]).mean() < 0.8 * apart


@pytest.mark.parametrize("times", [[-1.0], [], [np.nan], 3.0, ["a"], [2.0**32], [[1], [2, 3]]])
def test_wrong_times_are_refused(times):
    with pytest.raises(ConfigError):
        make().sample_at([0], times)


def test_a_generator_of_whole_frames_says_so():
    sampler = make("ppca", length=8)
    frames = sampler.sample([1], 8)
    np.testing.assert_array_equal(sampler.sample_at([1], [7, 0]), frames[:, [7, 0]])
    with pytest.raises(ConfigError, match="nothing between"):
        sampler.sample_at([1], [0.5])


@pytest.mark.parametrize("kind, options", [*KINDS[:1], *KINDS[2:]])
def test_a_loop_closes_bit_for_bit(kind, options):
    sampler = make(kind, **options, loop=24)
    video = sampler.sample([3, 4], 80, start=5)
    np.testing.assert_array_equal(video[:, 24:], video[:, :-24])
    steps = np.abs(np.diff(video.astype(int), axis=1)).mean((0, 2, 3, 4))
    assert steps.min() > 0 and steps.max() < 4 * np.median(steps)  # nothing leaps where it closes
    endless = make(kind, **options).sample([3, 4], 80, start=5)
    # Cycles of 6 and 8 frames close in 24 by themselves.
    assert np.array_equal(endless[:, 24:], endless[:, :-24]) == ("motion" in options)


def test_cycles_that_do_not_fit_a_loop_turn_whole_times_in_it():
    cycles = {"periods": (7,), "tempo_range": 1.0, "motion": 0}
    endless = make(**cycles).sample([3], 48)
    assert not np.array_equal(endless[:, 24:], endless[:, :-24])
    video = make("residual", **cycles, loop=24).sample([3], 48)
    np.testing.assert_array_equal(video[:, 24:], video[:, :-24])


@pytest.mark.parametrize("loop", [-8, 6])
def test_a_loop_is_whole_keyframes(loop):
    with pytest.raises(ConfigError, match=r"config\.generator\.loop"):
        network("generator", "residual", **TINY_GENERATOR, size=16, loop=loop).check()


@pytest.mark.parametrize("kind, options", [KINDS[0], KINDS[3]])
def test_classes_change_by_degrees(kind, options):
    sampler = make(kind, **options)
    one, two = (sampler.latents([3], 8, labels=n) for n in (0, 1))
    between = edit.interpolate(one, two, [0, 0.25, 0.5, 1], classes=2)
    assert between["label"].shape == (4, 2)
    video = sampler.decode(between, 8).astype(int)
    for made, label in ((video[0], 0), (video[3], 1)):
        assert np.abs(made - sampler.sample([3], 8, labels=label)[0]).max() <= 1
    apart = np.abs(np.diff(video, axis=0)).mean((1, 2, 3, 4))
    assert (apart > 0.05).all()
    nearer = sampler.decode(edit.interpolate(one, two, [0.25, 0.75]), 8)
    np.testing.assert_array_equal(nearer[0], sampler.sample([3], 8, labels=0)[0])


def test_generators_without_classes_between_say_so():
    sampler = make("ppca", length=8)
    latents = sampler.latents([3], 8)
    with pytest.raises(ConfigError, match="no videos between classes"):
        sampler.decode({**latents, "label": np.array([[0.5, 0.5]], np.float32)}, 8)
    with pytest.raises(ConfigError, match="label is float32"):
        sampler = make()
        latents = sampler.latents([3], 4)
        sampler.decode({**latents, "label": np.array([[0.5, 0.2, 0.3]], np.float32)}, 4)


def test_what_is_swapped_is_the_others_and_the_rest_is_not():
    latents = make().latents([3, 4], 16)
    other = edit.take(latents, [1, 0])
    for what, names in edit.PARTS.items():
        found = edit.swap(latents, other, what)
        for name, x in found.items():
            np.testing.assert_array_equal(x, (other if name in names else latents)[name])
    both = edit.swap(latents, other, ("content", "motion", "class"))
    np.testing.assert_array_equal(make().decode(both, 16), make().decode(other, 16))


def test_a_grid_has_rows_of_content_and_columns_of_motion():
    latents = edit.grid(make().latents([3, 4, 5], 16))
    for row in range(3):
        for column in range(3):
            at = 3 * row + column
            np.testing.assert_array_equal(latents["content"][at], latents["content"][3 * row])
            np.testing.assert_array_equal(latents["motion"][at], latents["motion"][column])
            np.testing.assert_array_equal(latents["label"][at], latents["label"][3 * row])


def test_truncation_scales_noise():
    latents = make().latents([3, 4], 16)
    np.testing.assert_allclose(edit.truncate(latents, 0.5)["content"], latents["content"] / 2)
    np.testing.assert_array_equal(edit.truncate(latents, 0.5)["motion"], latents["motion"])
    sampler = make("transformer", **TRANSFORMER)
    still = edit.truncate(sampler.latents([3, 4], 16), 0, "motion")
    assert not np.diff(sampler.decode(still, 16).astype(int), axis=1).any()
    mean = edit.truncate(latents, 0, ("content", "motion"))
    alike = {**mean, "label": np.zeros(2, np.int32), "cycle": 0 * mean["cycle"]}
    first, second = make().decode(alike, 16)
    np.testing.assert_array_equal(first, second)


def test_variations_are_nearer_than_strangers_and_stay_normal():
    sampler = make()
    latents, other = sampler.latents([3] * 4, 16), sampler.latents(range(10, 14), 16)
    own = sampler.decode(latents, 16).astype(int)
    near, far = (
        np.abs(sampler.decode(edit.vary(latents, other, amount), 16) - own).mean()
        for amount in (0.15, 1.0)
    )
    assert 0 < near < far / 2
    np.testing.assert_array_equal(edit.vary(latents, other, 0.0)["motion"], latents["motion"])
    np.testing.assert_array_equal(edit.vary(latents, other, 0.7)["label"], latents["label"])
    lengths = np.linalg.norm(edit.vary(latents, other, 0.5)["content"], axis=1)
    ends = [np.linalg.norm(each["content"], axis=1) for each in (latents, other)]
    np.testing.assert_allclose(lengths, np.mean(ends, 0), rtol=1e-5)


def test_a_video_goes_on_where_it_ended():
    sampler = make()
    edited = edit.truncate(sampler.latents([3], 16), 0.5)
    longer = edit.extend(edited, sampler.latents([3], 40))
    video = sampler.decode(longer, 40)
    np.testing.assert_array_equal(video[:, :16], sampler.decode(edited, 16))
    whole = sampler.decode(edit.truncate(sampler.latents([3], 40), 0.5), 40)
    np.testing.assert_array_equal(video, whole)
    with pytest.raises(ConfigError, match="does not go on"):
        edit.extend(longer, edited)


def test_a_direction_is_found_by_its_marks():
    rng = np.random.default_rng(0)
    along = rng.normal(size=32)
    along /= np.linalg.norm(along)
    content = rng.normal(size=(500, 32)).astype(np.float32)
    latents = {"content": content, "label": np.zeros(500, np.int32)}
    assert edit.direction(latents, content @ along > 0.3) @ along > 0.95
    assert edit.direction(latents, -5 * (content @ along)) @ along < -0.99
    moved = edit.shift(latents, edit.direction(latents, content @ along), 2.0)
    np.testing.assert_allclose((moved["content"] - content) @ along, 2.0, atol=0.03)
    for marks in (np.ones(500), np.ones(3), np.full(500, np.nan), ["a"] * 500):
        with pytest.raises(ConfigError, match="marks"):
            edit.direction(latents, marks)
    with pytest.raises(ConfigError, match="direction is"):
        edit.shift(latents, along[1:], 1.0)


def test_wrong_edits_are_refused():
    latents = make().latents([3, 4], 16)
    for call in (
        lambda: edit.truncate(latents, -1),
        lambda: edit.truncate(latents, float("nan")),
        lambda: edit.truncate(latents, 0.5, "class"),
        lambda: edit.swap(latents, latents, "colour"),
        lambda: edit.swap(latents, latents, ()),
        lambda: edit.swap(latents, edit.take(latents, [0]), "motion"),
        lambda: edit.vary(latents, latents, 1.5),
        lambda: edit.take(latents, [2]),
        lambda: edit.take(latents, [0.5]),
        lambda: edit.take(latents, []),
        lambda: edit.take(latents, [[0], [0, 1]]),
        lambda: edit.interpolate(latents, latents, [[0], [0, 1]]),
        lambda: edit.direction(latents, [[0], [0, 1]]),
        lambda: make().decode({n: x[:0] for n, x in latents.items()}, 16),
        lambda: make().decode(
            {n: x[:0] for n, x in latents.items()} | {"label": np.zeros((0, 2), np.float32)}, 16
        ),
        lambda: edit.interpolate(latents, latents, [0.5], classes=1),
    ):
        with pytest.raises(ConfigError):
            call()


def test_edits_are_at_hand():
    assert vidgen.edit is edit


def test_progress_is_told_chunk_by_chunk():
    seen = []
    make().sample([1, 2, 3], 20, progress=lambda done, total: seen.append((done, total)))
    assert [total for _, total in seen] == [60] * 6  # two batches of three chunks
    done = [n for n, _ in seen]
    assert done == sorted(done) and done[-1] == 60 and done[0] < 20


def _moves(video):
    return np.diff(video.astype(float), axis=1).reshape(len(video), -1)


def _alike(one, other):
    pairs = zip(_moves(one), _moves(other), strict=True)
    return [np.corrcoef(*pair)[0, 1] for pair in pairs]


def test_inverted_clips_look_and_move_as_the_clips_do():
    sampler = make()
    clips = sampler.sample([1001, 1002], 12, labels=[1, 0])
    nearest, same = sampling.invert(sampler, clips, [1, 0], steps=0)
    found, _ = sampling.invert(sampler, clips, [1, 0])
    assert same is sampler
    np.testing.assert_array_equal(found["label"], [1, 0])
    before, after = (sampler.decode(each, 12) for each in (nearest, found))
    gain = sampling.psnr(clips, after) - sampling.psnr(clips, before)
    assert gain.min() > 2 and gain.mean() > 8
    assert min(_alike(clips, after)) > 0.9 > max(_alike(clips, before))
    alone, _ = sampling.invert(sampler, clips[1:], [0])
    np.testing.assert_array_equal(alone["content"], found["content"][1:])


def test_inversion_finds_classes_and_turns():
    cycles = {"periods": (8,), "gaits": "one", "tempo_range": 0.0, "motion": 0}
    sampler = make("residual", **cycles)
    clips = sampler.sample([1000, 1001], 8)
    found, _ = sampling.invert(sampler, clips, candidates=32)
    assert (found["cycle"] >= 0).all() and (found["cycle"] < 1).all()
    assert min(_alike(clips, sampler.decode(found, 8))) > 0.9


def test_inversion_begins_with_the_nearest_sample_of_any_class():
    sampler = make()
    clips = sampler.sample([6, 3], 12)
    found, _ = sampling.invert(sampler, clips, steps=0, candidates=8)
    np.testing.assert_array_equal(sampler.decode(found, 12), clips)
    np.testing.assert_array_equal(found["label"], [0, 1])


def test_inversion_leaves_what_no_frame_depends_on_and_keeps_the_best():
    sampler = make()
    clips = sampler.sample([1001], 5)
    begun, _ = sampling.invert(sampler, clips, steps=0)
    found, _ = sampling.invert(sampler, clips, steps=40)
    moved = (begun["motion"] != found["motion"]).any((0, 2))
    assert moved[:3].all() and not moved[-1]
    clips = sampler.sample([3], 8)  # one of the candidates: there is nothing to gain
    kept, _ = sampling.invert(sampler, clips, steps=3, learning_rate=10.0)
    assert sampling.psnr(clips, sampler.decode(kept, 8)) > 50


def test_tuned_weights_come_nearer_and_leave_the_others():
    sampler = make()
    kept = jax.tree.map(np.copy, sampler.params)
    clips = np.random.default_rng(0).integers(0, 256, (2, 8, 16, 16, 3), np.uint8)
    seen = []
    latents, tuned = sampling.invert(
        sampler, clips, steps=20, candidates=4, tune=60, progress=lambda *n: seen.append(n)
    )
    assert seen == [(n, 81) for n in range(1, 82)]  # one batch of candidates, 20 and 60 steps
    near, nearer = (sampling.psnr(clips, each.decode(latents, 8)) for each in (sampler, tuned))
    assert (nearer > near + 0.1).all()
    jax.tree.map(np.testing.assert_array_equal, sampler.params, kept)
    edited = edit.swap(latents, tuned.latents([5, 6], 8), "motion")
    assert tuned.decode(edited, 8).shape == clips.shape


def test_a_loop_is_not_for_training():
    config = methods.base()
    config.data.path = "toy"
    config.generator.loop = 8
    with pytest.raises(ConfigError, match=r"config\.generator\.loop is 8.*not for training"):
        methods.validate(config)


def test_psnr_is_that_of_its_definition():
    one = np.zeros((2, 3, 4, 4, 3), np.uint8)
    other = one.copy()
    other[1] += 16  # 20 log10(255 / 16)
    np.testing.assert_allclose(sampling.psnr(one, other), [138.13, 24.05], atol=0.01)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": -1},
        {"steps": 0.5},
        {"candidates": 0},
        {"learning_rate": 0.0},
        {"tune_rate": float("nan")},
        {"clips": np.zeros((1, 4, 8, 8, 3), np.uint8)},
        {"labels": "kind 9"},
    ],
)
def test_wrong_inversions_are_refused(change):
    given = {"clips": np.zeros((1, 4, 16, 16, 3), np.uint8), "steps": 1} | change
    with pytest.raises(ConfigError):
        sampling.invert(make(), **given)
