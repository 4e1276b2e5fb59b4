import numpy as np
import pytest

from vidgen.data.toy import CLASSES, ToySource, render, scene
from vidgen.data.toy_captions import words
from vidgen.errors import ConfigError
from vidgen.metrics import toy


@pytest.fixture(scope="module")
def real():
    source = ToySource(clips=60, frames=8)
    return np.stack([source[i] for i in range(60)])


def test_clips_are_a_pure_function_of_seed_and_number():
    one, again, other = ToySource(seed=1), ToySource(seed=1), ToySource(seed=2)
    np.testing.assert_array_equal(one[77], again[77])
    assert not np.array_equal(one[77], other[77])
    assert one[77].shape == (8, 32, 32, 3) and one[77].dtype == np.uint8


def test_longer_clips_go_on_from_the_same_start():
    np.testing.assert_array_equal(ToySource(frames=50)[3][:8], ToySource(frames=8)[3])


def test_the_object_stays_inside_and_bounces():
    for index in range(20):
        rule = scene(0, index)
        track = rule.centres(np.arange(500))
        assert track.min() >= rule.radius - 1e-9 and track.max() <= 1 - rule.radius + 1e-9
        speed = np.linalg.norm(np.diff(track, axis=0), axis=1)
        np.testing.assert_array_less(speed, np.linalg.norm(rule.velocity) + 1e-9)
        assert (np.diff(np.sign(np.diff(track, axis=0)), axis=0) != 0).any(), "never bounced"


def test_a_disc_has_the_area_of_a_disc():
    for index, area in ((0, np.pi), (1, 4.0)):  # disc: pi r^2; square: (2 r)^2
        rule = scene(0, index)
        frame = render(rule, np.zeros(1), 64)[0].astype(float) / 255
        cover = (frame - rule.background) @ (rule.colour - rule.background)
        cover /= np.sum((rule.colour - rule.background) ** 2)
        np.testing.assert_allclose(cover.sum() / 64**2, area * rule.radius**2, rtol=0.02)


def test_bad_arguments_are_named():
    with pytest.raises(ConfigError, match="frames is 0"):
        ToySource(frames=0)
    with pytest.raises(IndexError, match="512"):
        ToySource(clips=512)[512]


def test_real_clips_pass_and_are_told_apart(real):
    found = [toy.describe(clip) for clip in real]
    assert [d["faults"] for d in found] == [()] * 60
    assert [d["shape"] for d in found] == [CLASSES[i % 2] for i in range(60)]
    colours = np.array([scene(0, i).colour for i in range(60)])
    np.testing.assert_allclose([d["colour"] for d in found], colours, atol=0.02)
    tracks = np.array([scene(0, i).centres(np.arange(8)) for i in range(60)]) * 32
    np.testing.assert_allclose([d["track"] for d in found], tracks, atol=0.6)


def blob(clip):  # the same scene seen out of focus
    from scipy import ndimage

    return ndimage.gaussian_filter(clip.astype(float), (0, 3, 3, 0)).round().astype(np.uint8)


def spoil(name, clip):
    if name == "no object":
        return np.full_like(clip, 90)
    if name == "several objects":
        return np.tile(clip[:, ::2, ::2], (1, 2, 2, 1))
    if name == "flat colours":
        slope = np.linspace(-30, 30, clip.shape[2])[:, None]  # light from one side
        return np.clip(clip + slope, 0, 255).astype(np.uint8)
    if name == "constant colour":
        return np.concatenate([clip[:4], np.roll(clip[4:], 1, -1)])
    if name == "continuous track":
        return np.concatenate([clip[:4], np.roll(clip[4:], (11, 9), (1, 2))])
    if name == "moves":
        return np.repeat(clip[:1], len(clip), 0)
    if name == "outline":
        return blob(clip)
    raise KeyError(name)


@pytest.mark.parametrize(
    "fault", ["no object", "several objects", "flat colours", "constant colour", "moves"]
)
def test_each_fault_is_found(real, fault):
    found = [fault in toy.describe(spoil(fault, clip))["faults"] for clip in real[:20]]
    assert np.mean(found) >= 0.9


def test_jumps_blobs_and_noise_fail(real):
    for fault in ("continuous track", "outline"):
        spoilt = np.stack([spoil(fault, clip) for clip in real[:20]])
        assert toy.score(spoilt)["pass"] <= 0.2
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 32, 32, 3)).astype(np.uint8)
    assert toy.score(noise)["pass"] == 0


def test_score_counts_shapes_colours_and_places(real):
    score = toy.score(real)
    assert score["pass"] == 1 and score["disc"] == score["square"] == 0.5
    assert score["hues"] >= 10 and score["places"] >= 7
    same = toy.score(np.repeat(real[:1], 10, 0))
    assert same["hues"] == same["places"] == 1 and same["disc"] == 1


def test_clips_show_what_their_words_say(real):
    wanted = [words(scene(0, n)) for n in range(60)]
    found = toy.obeyed(real, wanted)
    assert found["colour"] > 0.95 and found["shape"] == 1 and found["direction"] > 0.75
    others = toy.obeyed(real[::-1], wanted)  # of which half have the shape, an eighth the colour
    assert others["colour"] < 0.4 and others["direction"] < 0.5
    nothing = toy.obeyed(np.zeros_like(real), wanted)
    assert nothing == {"colour": 0, "shape": 0, "direction": 0}
