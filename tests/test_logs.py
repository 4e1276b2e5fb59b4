import json
import os
import time

import jax
import numpy as np
import pytest
from conftest import tiny_config
from test_video_writing import full_disk

from vidgen.errors import FullDisk
from vidgen.run import artifacts, compiling, lock, logs
from vidgen.run import clock as clocks
from vidgen.run.appending import Appending
from vidgen.run.clock import Clock
from vidgen.run.metrics_log import RunLog


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


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


def events(folder):
    """Reads TensorBoard's events, all of one file."""
    from tensorboardX.proto import event_pb2

    (path,) = (folder / "tensorboard").iterdir()
    data, found = path.read_bytes(), []
    while data:  # a record is length (8), check (4), event, check (4)
        size = int.from_bytes(data[:8], "little")
        found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
        data = data[12 + size + 4 :]
    return found


def test_tensorboard_shows_the_config(tmp_path):
    from tensorboardX.proto import plugin_hparams_pb2

    config = tiny_config()
    for step in (0, 1):  # a start that goes on does not write it again
        (tmp_path / str(step)).mkdir()
        log = RunLog(tmp_path / str(step), step, config)
        log.metrics(step + 1, {"gen/loss": 1.0})
        log.close()
    values = [value for event in events(tmp_path / "0") for value in event.summary.value]
    (text,) = [v.tensor.string_val[0].decode() for v in values if v.tag.startswith("config")]
    assert "| training.batch_size | 8 |" in text.splitlines()
    (data,) = [
        plugin_hparams_pb2.HParamsPluginData.FromString(v.metadata.plugin_data.content)
        for v in values
        if v.tag == "_hparams_/session_start_info"
    ]
    given = data.session_start_info.hparams
    assert given["training.batch_size"].number_value == 8
    assert given["generator.widths"].string_value == "(8, 8)"
    values = [value for event in events(tmp_path / "1") for value in event.summary.value]
    assert [v.tag for v in values] == ["gen/loss"]


def test_videos_reach_tensorboard_as_moving_pictures(tmp_path):
    import io

    from PIL import Image

    log = RunLog(tmp_path, 0)
    frames = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    log.video(3, "samples", frames, 10.0)
    log.close()
    found = [
        (event.step, value.image.encoded_image_string)
        for event in events(tmp_path)
        for value in event.summary.value
    ]
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


@pytest.fixture
def programs(tmp_path):
    """A folder of compiled programs of its own."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "programs"))
    yield tmp_path / "programs"
    jax.config.update("jax_compilation_cache_dir", before)


def compiled(config, kind="whole"):
    with compiling.announced(config, kind):
        time.sleep(0.03)


def test_how_long_a_program_took_to_compile_is_said_the_next_time(programs, capfd):
    config = tiny_config()
    compiled(config)
    (took,) = compiling.seconds().values()
    assert 0.02 < took < 5
    compiling._note(compiling.key(config, "whole"), 44.4)
    compiled(config)
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith("compiling the step (whole): the first time here")
    assert second == "compiling the step (whole): last time 44 s"
    config.training.save_kclips = 0.5  # of what does not change the program, nothing is new
    compiled(config)
    compiled(config, "bare")
    config.generator.head = 4
    compiled(config)
    said = capfd.readouterr().err.splitlines()
    assert ["first time" in line for line in said] == [False, True, True]
    assert len(compiling.seconds()) == 3
    assert [path.name for path in programs.iterdir()] == [compiling.FILE]


@pytest.mark.parametrize("text", ["", "[]", "3", '{"a": "b"}', '{"a": null}', "{" * 10])
def test_a_damaged_note_of_seconds_is_ignored(programs, text):
    programs.mkdir()
    (programs / compiling.FILE).write_text(text)
    compiled(tiny_config())
    assert len(compiling.seconds()) == 1


def test_a_folder_of_programs_that_cannot_be_written_is_no_obstacle(programs):
    programs.write_text("in the way")
    compiled(tiny_config())
    assert compiling.seconds() == {}


ALARM = b"""E0101 12:00:00.000000   12 slow_operation_alarm.cc:73]
********************************
[Compiling module jit_run] Very slow compile? If you want to file a bug, run with envvar \
XLA_FLAGS=--xla_dump_to=/tmp/foo and attach the results.
********************************
"""
LATER = b"""E0101 12:00:00.000000 12 slow_operation_alarm.cc:140] The operation took 2m3.4s

********************************
[Compiling module jit_run] Very slow compile? If you want to file a bug, run with envvar \
XLA_FLAGS=--xla_dump_to=/tmp/foo and attach the results.
********************************
"""


@pytest.mark.parametrize("alarm", [ALARM, LATER])
def test_the_alarm_of_slow_compiling_is_left_out_and_nothing_else(capfd, alarm):
    with compiling.without_alarm(after=0.0):
        time.sleep(0.5)
        os.write(2, b"before\n")
        time.sleep(0.3)
        os.write(2, b"an error\n" + alarm + b"another\n")
        time.sleep(0.3)
        os.write(2, b"with no end")
    os.write(2, b", after\n")
    assert capfd.readouterr().err == "before\nan error\nanother\nwith no end, after\n"


def test_a_quick_program_is_compiled_with_stderr_as_it_is(capfd):
    with compiling.without_alarm():
        os.write(2, ALARM)
    assert capfd.readouterr().err == ALARM.decode()


# --------------------------------------------------------------------- damage, and no space

GOOD = [b'{"step": %d, "loss": 0.5}' % n for n in (1, 2, 3)]
DAMAGED_LINES = {
    "no text": b'{"step": 2, "loss": 0.\xff}',
    "no JSON": b'{"step": 2, "loss"; 0.5}',
    "another name": b'{"stfp": 2, "loss": 0.5}',
    "a step that is text": b'{"step": "2", "loss": 0.5}',
    "a step that is half": b'{"step": 2.5, "loss": 0.5}',
    "a step that is true": b'{"step": true, "loss": 0.5}',
    "a step below zero": b'{"step": -2, "loss": 0.5}',
    "no dictionary": b"[2]",
    "no number": b'{"step": 2, "loss": NaN}',
    "nested": b"[" * 100_000,
    "digits": b'{"step": ' + b"9" * 5000 + b"}",
    "zeros": b"\0" * 40,
}


@pytest.mark.parametrize("line", DAMAGED_LINES.values(), ids=DAMAGED_LINES)
@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl"])
def test_a_damaged_line_costs_itself_and_a_warning(tmp_path, name, line, caplog):
    was = b"\n".join([GOOD[0], line, GOOD[2]]) + b"\n"
    (tmp_path / name).write_bytes(was)
    log = RunLog(tmp_path, 3)
    log.metrics(4, {"loss": 1.0})
    log.close()
    new = [b'{"step": 4, "loss": 1.0}'] if name == "metrics.jsonl" else []
    assert (tmp_path / name).read_bytes().splitlines() == [GOOD[0], GOOD[2], *new]
    assert (tmp_path / f"damaged-{name}-0").read_bytes() == was
    (record,) = caplog.records
    assert f"{tmp_path / name}: 1 of 3 lines are damaged" in record.getMessage()


def test_what_is_whole_stays_as_it_is_to_the_byte(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step":1,  "loss": 0.50}\n{"step": 2, "lo')
    RunLog(tmp_path, 3).close()  # the half line of a run that was killed is no damage
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step":1,  "loss": 0.50}\n'
    assert not caplog.records and len(list(tmp_path.iterdir())) == 2


def test_seconds_that_are_none_are_not_added_up(tmp_path):
    line = {"step": 1, "seconds/step": "3", "seconds/save": True, "seconds/data": 1e300}
    line |= {"seconds/sample": -4.0, "seconds/other": 2}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    log = RunLog(tmp_path, 1)
    log.close()
    assert log.seconds == {"other": 2.0, "lost": 0.0}


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "events.jsonl", "tensorboard", "run.json", "lock"]
)
@pytest.mark.parametrize("what", ["folder", "file", "link to nothing", "pipe"])
def test_what_is_in_the_way_is_set_aside(tmp_path, name, what, caplog):
    path, data = tmp_path / name, b"\n".join(GOOD[:1]) + b"\n"
    if what == "folder":
        path.mkdir()
        (path / "something").touch()
    elif what == "file":
        path.write_bytes(data)
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "nowhere")
    with lock.owned(tmp_path):
        log = RunLog(tmp_path, 3)
        log.metrics(4, {"loss": 1.0})
        log.event(4, {"skipped": ["gen"]})
        log.close()
        artifacts.write_json(tmp_path / "run.json", {"x": 1})
    assert (tmp_path / "metrics.jsonl").read_bytes().endswith(b'{"step": 4, "loss": 1.0}\n')
    assert (tmp_path / "events.jsonl").read_bytes().endswith(b'{"step": 4, "skipped": ["gen"]}\n')
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1 + (
        (name, what) == ("tensorboard", "folder")
    )
    fits = what == ("folder" if name == "tensorboard" else "file")
    aside = tmp_path / f"damaged-{name}-0"
    assert len(caplog.records) == (not fits) == os.path.lexists(aside)
    if what == "folder" and not fits:
        assert (aside / "something").exists()


def test_what_waits_for_space_is_written_later_and_said_once(tmp_path, capsys):
    log = RunLog(tmp_path, 0, without_space=True)
    log.metrics(1, {"loss": 1.0})
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    with full_disk((tmp_path / "metrics.jsonl").stat().st_size + 5):  # a part of a line fits
        for step in (2, 3, 4):
            log.metrics(step, {"loss": float(step)})
            log.event(step, {"skipped": ["gen"]})
            log.video(step, "samples", frames, 10.0)
        assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "metrics.jsonl could not be written, the disk is full" in said[0]
    log.metrics(5, {"loss": 5.0})
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "there is space again, and all is written" in said[0]
    log.close()
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in lines(tmp_path / "events.jsonl")] == [2, 3, 4]
    shown = [(e.step, v.tag) for e in events(tmp_path) for v in e.summary.value]
    between = [(n, tag) for n in (2, 3, 4) for tag in ("loss", "samples")]
    assert shown == [(1, "loss"), *between, (5, "loss")]


def test_a_full_disk_that_is_not_done_without_is_an_error(tmp_path, caplog):
    log = RunLog(tmp_path, 0)
    log.metrics(1, {"loss": 1.0})
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    with full_disk(len(whole) + 5), pytest.raises(FullDisk, match=r"metrics.jsonl could not be"):
        log.metrics(2, {"loss": 1.0})
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole
    with full_disk(len(whole) + 5):
        log.close()
    assert "the last 1 lines could not be written" in caplog.text
    again = RunLog(tmp_path, 1)
    with full_disk(5), pytest.raises(FullDisk, match=r"events.jsonl could not be"):
        again.event(1, {"skipped": []})
    again.close()
    with full_disk(5), pytest.raises(FullDisk, match=r"run.json: cannot be written"):
        artifacts.write_json(tmp_path / "run.json", {"x": "a" * 100})
    assert not (tmp_path / "run.json").exists() and not list(tmp_path.glob(".*"))


def test_a_space_that_never_comes_has_a_bound(tmp_path, monkeypatch):
    kept = Appending(tmp_path / "file", most=10)
    with full_disk(0):
        for record in (b"12345", b"1234567", b"1234"):
            with pytest.raises(OSError):
                kept.add(record)
    kept.write()
    kept.close()
    assert (tmp_path / "file").read_bytes() == b"123451234" and kept.dropped == 1


def test_a_record_that_a_signal_interrupts_is_written_once(tmp_path):
    class Interrupted:
        """A file that a signal reaches in the middle of a write."""

        def __init__(self, file):
            self.file, self.left = file, 1

        def write(self, data):
            count = self.file.write(data[:2] if self.left else data)
            if self.left:
                self.left = 0
                raise KeyboardInterrupt
            return count

        def __getattr__(self, name):
            return getattr(self.file, name)

    kept = Appending(tmp_path / "file")
    kept.add(b"one\n")
    kept._file = Interrupted(kept._file)
    with pytest.raises(KeyboardInterrupt):
        kept.add(b"two\n")
    assert (tmp_path / "file").read_bytes() == b"one\n"
    kept.write()
    kept.close()
    assert (tmp_path / "file").read_bytes() == b"one\ntwo\n"


def test_what_a_killed_run_has_left_half_written_goes(tmp_path):
    for name in (".0123456789abcdef.tmp.jsonl", ".run.json.3"):
        (tmp_path / name).write_text("x")
    (tmp_path / "mine.tmp").write_text("x")
    RunLog(tmp_path, 0).close()
    assert not list(tmp_path.glob(".*")) and (tmp_path / "mine.tmp").exists()


def test_a_start_counts_from_itself(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(clocks.time, "monotonic", lambda: now[0])
    clock = Clock()
    clock.add({"step": 1000.0})  # of earlier starts
    now[0] = 103.0
    assert (clock.since_start(), clock.total()) == (3.0, 1003.0)
