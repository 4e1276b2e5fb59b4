"""Looks: classes split into clips that look alike, told apart in training and drawn in samples."""

import json

import numpy as np
import pytest
from conftest import tiny_config

import vidgen
from vidgen.data import looks
from vidgen.data.stream import Clips
from vidgen.data.toy import ToySource
from vidgen.tools import estimate

COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))


def figure(colour, left):
    """A clip of a block of one colour that moves over grey, on the left side or the right."""
    clip = np.full((6, 16, 16, 3), 90, np.uint8)
    for t, frame in enumerate(clip):
        place = slice(1, 7) if left else slice(9, 15)
        frame[2 + t : 8 + t, place] = colour
    return clip


# Two of each colour, which face opposite ways, in an order of no help.
FIGURES = [figure(COLOURS[n % 3], left=n < 3) for n in (0, 4, 2, 3, 1, 5)]
COLOUR = np.array([0, 1, 2, 0, 1, 2])


def test_looks_are_the_clips_of_the_same_colours_wherever_they_are():
    label = np.zeros(6, np.int32)
    found, sizes = looks.split(FIGURES.__getitem__, range(6), label, 1, 3)
    assert sizes == ((2, 2, 2),) and sorted(set(found.tolist())) == [0, 1, 2]
    assert all(len(set(found[colour == COLOUR])) == 1 for colour in range(3))


def test_looks_are_of_one_class_and_no_more_than_its_clips():
    label = np.array([1, 1, 1, 1, 1, 0], np.int32)
    found, sizes = looks.split(FIGURES.__getitem__, range(6), label, 3, 4)
    assert looks.counts(label, 3, 4) == (1, 4, 1) == tuple(map(len, sizes))
    assert found[5] == 0 and set(found[:5].tolist()) == {1, 2, 3, 4}
    assert np.array_equal(np.bincount(found, minlength=6), sum(sizes, ()))
    assert looks.draw(sizes, 2, 0.9) == 5  # a class without clips can be asked for all the same


@pytest.mark.parametrize("clips", [5, 300])  # fewer than the quantiles of a clip, and more
def test_each_look_has_a_fair_share_of_the_clips(clips):
    source = ToySource(clips=clips, frames=2, size=8)
    label = np.zeros(clips, np.int32)
    found, (sizes,) = looks.split(source.__getitem__, range(clips), label, 1, 4)
    assert len(sizes) == 4 and sum(sizes) == clips and min(sizes) >= clips // 16
    again, _ = looks.split(source.__getitem__, range(clips), label, 1, 4)
    assert np.array_equal(found, again)


def test_the_first_clip_has_the_first_look(monkeypatch):
    label = np.zeros(6, np.int32)
    found, _ = looks.split(FIGURES.__getitem__, range(6), label, 1, 3)
    svd = np.linalg.svd

    def other(x, full_matrices):  # as another library may have it
        return -svd(x, full_matrices)[0], None, None

    monkeypatch.setattr(np.linalg, "svd", other)
    again, _ = looks.split(FIGURES.__getitem__, range(6), label, 1, 3)
    assert found[0] == again[0] == 0 and np.array_equal(found, again)


def test_alike_clips_are_split_all_the_same():
    label = np.zeros(5, np.int32)
    _, (sizes,) = looks.split(lambda n: FIGURES[0], range(5), label, 1, 3)
    assert len(sizes) == 3 and sum(sizes) == 5 and min(sizes) >= 1


def test_a_look_is_drawn_as_often_as_clips_have_it():
    sizes = ((3, 1), (2,))
    drawn = [looks.draw(sizes, 0, u) for u in np.linspace(0, 1, 1000, endpoint=False)]
    assert np.bincount(drawn).tolist() == [750, 250]
    assert looks.draw(sizes, 1, 0.0) == looks.draw(sizes, 1, 0.999) == 2


def test_batches_have_the_looks_of_their_clips():
    source = ToySource(clips=12, frames=4, size=8)
    clips = Clips(source, frames=4, looks=3)
    plain = Clips(source, frames=4)
    assert (plain.labels, plain.looks, clips.labels) == (2, (), 6)
    batch, before = clips.take(0, 12), plain.take(0, 12)
    assert np.array_equal(batch["label"] // 3, before["label"])  # both classes have three looks
    assert batch["label"].dtype == np.int32 and np.array_equal(batch["video"], before["video"])
    assert np.array_equal(source.columns["label"], source.labels)  # the source's own stay


def test_clips_without_classes_have_looks_too():
    source = ToySource(clips=12, frames=4, size=8)
    source.classes, source.columns = (), {}
    clips = Clips(source, frames=4, looks=4)
    assert clips.labels == 4 and set(clips.take(0, 12)["label"].tolist()) == {0, 1, 2, 3}


def test_clips_that_are_too_short_have_no_say():
    source = ToySource(clips=8, frames=4, size=8)
    source.lengths = np.array([2, 2, 4, 4, 4, 4, 4, 4])
    clips = Clips(source, frames=4, looks=2)
    assert sum(map(sum, clips.looks)) == 6


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two classes with three looks each."""
    workdir = tmp_path_factory.mktemp("looks") / "run"
    config = tiny_config()
    config.data.looks = 3
    vidgen.train(config, workdir)
    return workdir


def test_a_run_with_looks_makes_each_class_in_several(run):
    sampler = vidgen.load(run)
    assert sampler.classes == ("disc", "square") and tuple(map(len, sampler.looks)) == (3, 3)
    assert sampler.generator.classes == 6
    label = sampler.latents(range(64), 6, labels="square")["label"]
    assert set(label.tolist()) == {3, 4, 5}
    assert set(sampler.latents(range(64), 6)["label"].tolist()) == set(range(6))
    meta = json.loads((run / "run.json").read_text())
    assert sum(map(sum, meta["looks"])) == 512


def test_the_look_of_a_seed_stays(run):
    sampler = vidgen.load(run)
    together = sampler.latents([3, 5], 6, labels="disc")["label"]
    alone = sampler.latents([5], 6, start=12, labels="disc")["label"]
    assert together[1] == alone[0]


def test_an_estimate_knows_of_looks():
    config = tiny_config()
    config.data.looks = 3
    layout = estimate.layout(config, estimate.listed(config))
    assert layout.experiment.generator["classes"] == 6
