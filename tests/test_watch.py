"""Alarms: each goes off at what it is for, once, and at nothing else; what a run does with them."""

import json

import numpy as np
import pytest
from conftest import tiny_config
from test_features import sliding

from vidgen import sampling
from vidgen.run import artifacts, train, watch
from vidgen.run.best import Best
from vidgen.runtime.checkpoint import Checkpoints
from vidgen.runtime.digests import arrays_sha256

GOOD_STEP = {
    "dis/accuracy": 0.8, "dis/real": 1.0, "dis/fake": 0.2, "dis/loss": 0.4, "dis/penalty": 0.1,
    "gen/grad": 3.0, "dis/grad": 2.0, "skipped": 0.0,
}  # fmt: skip
GOOD_LOOK = {
    "distance": 0.5, "content": 1.0, "content_real": 40.0, "motion": 1.0, "period": 0.05,
    "period_real": 0.1, "noise": 1.5,
}  # fmt: skip


def alarmed(step, look, looks=6):
    """Returns the causes that each of some looks gives."""
    watching, found = watch.Watch(), []
    for number in range(looks):
        for n in range(60):
            watching.step(GOOD_STEP | (step(n) if callable(step) else step))
        found.append([a.cause for a in watching.check(GOOD_LOOK | (look if number else {}))])
    return found


@pytest.mark.parametrize(
    "step, look, cause",
    [
        ({}, {}, None),
        ({"dis/accuracy": 1.0}, {}, None),  # telling most pairs, by a little, is how it should be
        ({"dis/accuracy": 1.0, "dis/real": 12.0}, {}, "winning"),
        ({"dis/accuracy": 0.2}, {}, "losing"),
        ({"dis/penalty": 0.0}, {}, "penalty"),
        ({"dis/penalty": 90.0}, {}, "penalty"),
        (lambda n: {"gen/grad": 300.0 if n == 59 else 3.0}, {}, "gradients"),
        (lambda n: {"dis/grad": 3.0 if n % 2 else 9.0}, {}, None),
        ({"skipped": 1.0}, {}, "nan"),
        ({}, {"content": 0.05}, "content"),
        ({}, {"content_real": 0.5}, "content"),
        ({}, {"motion": 0.02}, "motion"),
        ({}, {"noise": 0.01}, "motion"),
        ({}, {"period": 0.9}, "loop"),
        ({}, {"period": 0.9, "period_real": 0.8}, None),  # the real clips do so, too
    ],
)
def test_an_alarm_is_for_one_thing_and_given_once(step, look, cause):
    found = alarmed(step, look)
    assert [name for causes in found for name in causes] == ([cause] if cause else [])
    if look and cause:  # the first looks are at a generator that cannot be judged yet
        assert found[:3] == [[], [], []]


def test_an_alarm_that_was_clear_in_between_is_given_again():
    watching = watch.Watch()
    for _ in range(60):
        watching.step(GOOD_STEP)
    found = [watching.check(GOOD_LOOK | {"motion": m}) for m in (1, 1, 1, 0, 0, 1, 0)]
    assert [len(alarms) for alarms in found] == [0, 0, 0, 1, 0, 0, 1]
    assert "hardly move: 0%" in found[3][0].seen and "stride" in found[3][0].help


def test_figures_of_clips_made_for_them():
    real = watch.describe(np.stack([sliding((0, k % 3 - 1), 8, k, 16) for k in range(12)]))
    video = np.stack([sliding((0, k % 3 - 1), 8, 50 + k, 16) for k in range(12)])
    other = np.stack([sliding((k % 3 - 1, 0), 8, 50 + k, 16) for k in range(12)])
    good = watch.compare(real, video, other)
    assert 0.7 < good["content"] < 1.4 and 0.7 < good["motion"] < 1.4 and good["noise"] > 0.3
    one = watch.compare(real, np.repeat(video[:1], 12, 0), np.repeat(video[:1], 12, 0))
    assert one["content"] == 0 and one["noise"] == 0 and one["distance"] > good["distance"]
    still = np.repeat(video[:, :1], 8, 1)
    assert watch.compare(real, still, still)["motion"] == 0
    loop = np.concatenate([video[:, :2]] * 4, 1)
    moving = loop[np.arange(12) % 3 != 1]  # the others stand still
    assert watch.describe(moving)["period"].min() > 0.9 and good["period"] < 0.5
    assert set(good) == set(GOOD_LOOK)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    config = tiny_config()
    config.data.size = 8  # one level: most of the time goes into compiling
    config.generator.widths = config.discriminator.widths = (8,)
    config.training.update(
        kclips=0.048, watch_kclips=0.016, save_kclips=0.016, keep=1, keep_best="distance"
    )
    workdir = tmp_path_factory.mktemp("watched") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        # The second of three looks finds the best samples, and something to complain of.
        found = iter([0.9, 0.3, 0.7])
        figures = artifacts.compare_samples

        def told(sampler, clips):
            seen = figures(sampler, clips)
            assert seen.keys() == GOOD_LOOK.keys() and np.isfinite(list(seen.values())).all()
            return {**GOOD_LOOK, "distance": next(found), "motion": 0.0}

        monkeypatch.setattr(watch, "_EARLY", 1)
        monkeypatch.setattr(artifacts, "compare_samples", told)
        train.train(config, workdir)
    return workdir


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_logs_figures_and_alarms(watched):
    seen = {n["step"]: n["watch/distance"] for n in read(watched / "metrics.jsonl")
            if "watch/distance" in n}  # fmt: skip
    assert seen == {2: 0.9, 4: 0.3, 6: 0.7}
    events = read(watched / "events.jsonl")
    assert [(e["step"], e["alarm"]) for e in events] == [(4, "motion")]
    assert "hardly move" in events[0]["seen"]


def test_the_best_checkpoint_stays_besides_the_newest(watched):
    assert Checkpoints(watched / "checkpoints").steps() == [6]
    best = Checkpoints(watched / "best")
    assert best.steps() == [4]
    best.verify(4)
    assert json.loads((watched / "best" / "best.json").read_text())["distance"] == 0.3
    newest, kept = sampling.load(watched), sampling.load(watched, "best")
    assert (newest.step, kept.step) == (6, 4)
    assert arrays_sha256(newest.params) != arrays_sha256(kept.params)
    # A start of the run knows what it has kept.
    again = Best(watched, "distance")
    assert not again.improved({"distance": 0.31}) and again.improved({"distance": 0.29})
    near = Best(watched, "noise")
    assert near.improved({"noise": 1.0}) and not near.improved({"noise": 1.6})


DAMAGED_NOTES = {
    "empty": b"", "nothing": b"{}", "a list": b"[]", "null": b'{"distance": null}',
    "no text": b"\xff\xfe", "a word": b'{"distance": "x"}', "no number": b'{"distance": NaN}',
    "endless": b'{"distance": -1e999}', "too large": b'{"distance": ' + b"9" * 400 + b"}",
    "nested": b"[" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("data", [*DAMAGED_NOTES.values(), None], ids=[*DAMAGED_NOTES, "folder"])
def test_a_damaged_note_of_the_best_is_no_obstacle(tmp_path, data, caplog):
    note = tmp_path / "best" / "best.json"
    note.parent.mkdir()
    note.mkdir() if data is None else note.write_bytes(data)
    assert Best(tmp_path, "distance").improved({"distance": 9.0})
    if data is None:  # set aside, and said, when the next is written
        return
    assert "holds no distance" in caplog.text
