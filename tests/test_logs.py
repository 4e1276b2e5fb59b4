import json

import numpy as np

from vidgen.run import artifacts, logs
from vidgen.run import clock as clocks
from vidgen.run.clock import Clock
from vidgen.run.metrics_log import RunLog


def test_lines_beyond_the_step_of_a_restart_are_dropped(tmp_path):
    first = RunLog(tmp_path, 0)
    for step in (1, 2, 3):
        first.metrics(step, {"loss": step / 2})
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed in the middle of a line
    again = RunLog(tmp_path, 2)
    again.metrics(3, {"loss": 9.0})
    again.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 1.0},
        {"step": 3, "loss": 9.0},
    ]


def test_every_moment_of_a_run_is_accounted_for(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(clocks.time, "monotonic", lambda: now[0])
    clock = Clock()
    for part, seconds in (("compile", 3.0), ("step", 20.0), ("data", 1.0), ("step", 5.0)):
        now[0] += 2.0 if part == "compile" else 0.0  # startup
        clock.enter(part)
        now[0] += seconds
    seen = clock.seconds()
    assert seen == {
        "seconds/startup": 2.0, "seconds/compile": 3.0, "seconds/step": 25.0, "seconds/data": 1.0,
        "goodput": 25 / 31,
    }  # fmt: skip
    log = RunLog(tmp_path, 0)
    log.metrics(1, seen)
    log.metrics(2, {**seen, "seconds/step": 29.0})
    log.event(2, {"skipped": ["gen"]})
    log.close()
    again = RunLog(tmp_path, 1)  # killed, and gone on from step 1: four seconds are lost
    again.close()
    assert again.seconds["lost"] == 4.0 and again.seconds["step"] == 25.0
    assert not (tmp_path / "events.jsonl").read_text()
    clock = Clock()
    clock.add(again.seconds)
    now[0] += 1.0
    assert clock.total() == 31.0 + 4.0 + 1.0


def test_what_is_not_finite_is_null_in_the_log(tmp_path):
    log = RunLog(tmp_path, 0)
    log.metrics(1, {"a": float("nan"), "b": float("inf"), "c": 1.0})
    log.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 1, "a": None, "b": None, "c": 1.0}


def test_videos_reach_tensorboard_as_moving_pictures(tmp_path):
    import io

    from PIL import Image
    from tensorboardX.proto import event_pb2

    log = RunLog(tmp_path, 0)
    frames = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    log.video(3, "samples", frames, 10.0)
    log.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    data, found = path.read_bytes(), []
    while data:  # a record is length (8), check (4), event, check (4)
        size = int.from_bytes(data[:8], "little")
        event = event_pb2.Event.FromString(data[12 : 12 + size])
        found += [(event.step, v.image.encoded_image_string) for v in event.summary.value]
        data = data[12 + size + 4 :]
    ((step, gif),) = found
    assert step == 3
    with Image.open(io.BytesIO(gif)) as picture:
        assert picture.n_frames == 5 and picture.size == (8, 8)


def test_json_is_written_whole_or_not_at_all(tmp_path):
    artifacts.write_json(tmp_path / "a.json", {"x": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_the_rate_leaves_the_first_step_out(monkeypatch):
    clock = iter([100.0, 160.0, 161.0, 162.0, 162.0, 162.0, 162.0])
    monkeypatch.setattr(logs.time, "monotonic", lambda: next(clock))
    shown = logs.Terminal(100, 10, "clips", 8)
    shown.step(11, "")  # after a minute of compiling
    assert shown.rate() == 0
    shown.step(13, "")  # a second later: two steps of eight clips
    assert shown.rate() == 2 * 8 / (162.0 - 160.0)
