import json

import numpy as np

from vidgen import logs


def test_lines_beyond_the_step_of_a_restart_are_dropped(tmp_path):
    first = logs.RunLog(tmp_path, 0)
    for step in (1, 2, 3):
        first.metrics(step, {"loss": step / 2})
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed in the middle of a line
    again = logs.RunLog(tmp_path, 2)
    again.metrics(3, {"loss": 9.0})
    again.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 1.0},
        {"step": 3, "loss": 9.0},
    ]


def test_videos_reach_tensorboard_as_moving_pictures(tmp_path):
    import io

    from PIL import Image
    from tensorboardX.proto import event_pb2

    log = logs.RunLog(tmp_path, 0)
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
    logs.write_json(tmp_path / "a.json", {"x": 1})
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
