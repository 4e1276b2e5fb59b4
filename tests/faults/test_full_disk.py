"""A disk that is full in the middle of a save: one line, older checkpoints good, as configured."""

import errno
import os
import re
import resource
import shutil
import sys

import pytest
from conftest import UNAWAITED
from harness import (
    Driver,
    check_same_run,
    lines,
    saved_parts,
    small_config,
    trained,
)
from programs import keep_programs
from tensorboardX.proto import event_pb2

from vidgen.errors import StorageError
from vidgen.run import after_step, appending, metrics_log, train
from vidgen.runtime.checkpoint import Checkpoints
from vidgen.video import atomic

STEPS = 8
WRITES = ("open", "os.mkdir")

pytestmark = UNAWAITED


class FullDisk:
    """A disk that has no space for one checkpoint from some change of it on, while this is entered.

    Attributes:
      changes: How many changes the save has asked for.
    """

    entered: "FullDisk | None" = None
    hooked = False

    def __init__(self, step, after):
        self.place, self.after, self.changes = f"{step}.orbax-checkpoint-tmp", after, 0

    def __enter__(self):
        if not FullDisk.hooked:  # for good: Python cannot take a hook away
            sys.addaudithook(_audit)
            FullDisk.hooked = True
        FullDisk.entered = self
        return self

    def __exit__(self, *_):
        FullDisk.entered = None


def _audit(event, about):
    disk = FullDisk.entered
    if disk is None or event not in WRITES or not isinstance(about[0], (str, bytes, os.PathLike)):
        return
    path = os.fsdecode(about[0])
    changes = event == "os.mkdir" or about[2] & (os.O_WRONLY | os.O_RDWR)
    if disk.place in path and changes:
        disk.changes += 1
        if disk.changes > disk.after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def config(full_disk):
    made = small_config(STEPS, save=2)
    made.training.full_disk = full_disk
    return made


@pytest.fixture(autouse=True)
def programs(monkeypatch):
    keep_programs(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(config("stop"), tmp_path_factory)


def check_said(text, workdir, step):
    """Checks that a line names the path, and the bytes that are needed and that are free."""
    found = re.search(
        rf"{re.escape(str(workdir / 'checkpoints' / str(step)))} could not be written, "
        r"the disk is full: (\d+) bytes needed, (\d+) free",
        text,
    )
    assert found, text
    assert 10_000 < int(found[1]) < 1_000_000
    free = shutil.disk_usage(workdir).free
    assert abs(int(found[2]) - free) < 0.1 * free


def check_stops(workdir, whole, after):
    """Checks a run that is to end; returns whether the disk was ever full."""
    with FullDisk(6, after) as disk:
        try:
            train.train(config("stop"), workdir)
        except StorageError as error:
            assert error.exit_code == 5 and "\n" not in str(error)
            check_said(str(error), workdir, 6)
    if disk.changes <= after:
        return False
    assert Checkpoints(workdir / "checkpoints").steps() == [2, 4]
    assert saved_parts(workdir, 4) == saved_parts(whole, 4)
    train.train(config("stop"), workdir)  # there is space again
    check_same_run(workdir, whole, STEPS)
    assert not list((workdir / "checkpoints").glob("*tmp*"))  # it would fill the disk
    return True


def check_continues(workdir, whole, after, capfd):
    """Checks a run that is to go on without the checkpoint."""
    capfd.readouterr()
    with FullDisk(6, after) as disk:
        train.train(config("continue"), workdir)
    assert disk.changes > after
    said = [line for line in capfd.readouterr().err.splitlines() if "disk is full" in line]
    assert len(said) == 1, said
    check_said(said[0], workdir, 6)
    assert Checkpoints(workdir / "checkpoints").steps() == [2, 4, 8]
    assert not list((workdir / "checkpoints").glob("*tmp*"))
    check_same_run(workdir, whole, STEPS)


def test_a_full_disk_ends_the_run(tmp_path, whole):
    assert check_stops(tmp_path / "run", whole, 3)


def test_a_full_disk_is_said_and_the_run_goes_on(tmp_path, whole, capfd):
    check_continues(tmp_path / "run", whole, 5, capfd)


def test_the_last_checkpoint_is_not_done_without(tmp_path):
    with FullDisk(STEPS, 4), pytest.raises(StorageError, match="the disk is full"):
        train.train(config("continue"), tmp_path / "run")
    assert [line["step"] for line in lines(tmp_path / "run" / "metrics.jsonl")][-1] == STEPS


@pytest.mark.faults
def test_a_disk_that_is_full_at_any_point(tmp_path, whole, capfd):
    after = 0
    while check_stops(tmp_path / f"stop-{after}", whole, after):
        check_continues(tmp_path / f"continue-{after}", whole, after, capfd)
        after += 1
    assert after > 10
    with capfd.disabled():
        print(f"\nfull at each of {after} points of a save: both ways good")


@pytest.mark.faults
def test_what_no_python_writes_may_fail_as_well(tmp_path, whole):
    """TensorStore's writes: a process that from step 6 on may not write files beyond 12 KB."""
    with Driver() as driver:
        driver.start(config("stop"), tmp_path / "run", "small files")
        code = driver.wait()
        said = (tmp_path / "run.txt").read_text()
        assert code == 5 and "Traceback" not in said, said
        check_said(said, tmp_path / "run", 6)
        driver.start(config("stop"), tmp_path / "run")
        assert driver.wait() == 0
    check_same_run(tmp_path / "run", whole, STEPS)


# ------------------------------------------------------------------- writers beside checkpoints


class NoSpace:
    """No file of this process may grow from some step on, until another.

    Attributes:
      struck: How many steps were made without space.
    """

    def __init__(self, monkeypatch, first, last):
        self.struck, self.limit = 0, resource.getrlimit(resource.RLIMIT_FSIZE)
        after = after_step.after_step

        def wrapped(run, loop, outputs, stop=""):
            full = first <= loop.step < last
            self.struck += full
            self.set(0 if full else self.limit[0])
            after(run, loop, outputs, stop)

        monkeypatch.setattr(train, "after_step", wrapped)

    def set(self, size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, self.limit[1]))


def shown(workdir):
    """Returns the steps of a figure in TensorBoard's files, and how many files are broken."""
    steps = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            assert len(data) >= 16 + size, f"{path} ends with a part of a record"
            event = event_pb2.Event.FromString(data[12 : 12 + size])
            steps += [event.step for value in event.summary.value if value.tag == "gen/loss"]
            data = data[16 + size :]
    return steps


def check_writers(workdir, whole, first, last, how, capsys):
    """Checks a run whose disk is full from one step to another, whoever writes then."""
    made = small_config(STEPS, save=2, sample=2)
    made.training.full_disk = how
    made.training.update(keep_best="distance", watch_kclips=0.004)
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as monkeypatch:
        space = NoSpace(monkeypatch, first, last)
        try:
            if how == "stop":
                with pytest.raises(StorageError, match="could not be written") as error:
                    train.train(made, workdir)
                assert error.value.exit_code == 5
            else:
                train.train(made, workdir)
        finally:
            space.set(space.limit[0])
    assert space.struck
    if how == "stop":
        train.train(made, workdir)
    else:
        said = capsys.readouterr().err
        assert said.count("the lines wait until there is space") == 1, said
        assert said.count("there is space again") == 1, said
    assert saved_parts(workdir)[1] == saved_parts(whole)[1]
    assert [line["step"] for line in lines(workdir / "metrics.jsonl")] == list(range(1, STEPS + 1))
    assert sorted(set(shown(workdir))) == list(range(1, STEPS + 1))
    assert not list(workdir.rglob("*tmp*")) and not list(workdir.glob(".*"))


@pytest.mark.parametrize("how", ["stop", "continue"])
def test_a_disk_that_is_full_for_two_steps(tmp_path, whole, how, capsys):
    check_writers(tmp_path / "run", whole, 3, 5, how, capsys)


@pytest.mark.faults
@pytest.mark.parametrize("how", ["stop", "continue"])
@pytest.mark.parametrize("first", range(1, STEPS))
@pytest.mark.parametrize("long", [1, 2, 4])
def test_a_disk_that_is_full_for_a_while_at_any_step(tmp_path, whole, how, first, long, capsys):
    check_writers(tmp_path / "run", whole, first, min(first + long, STEPS), how, capsys)


def no_waiting(self, record):
    """Sabotage: what there is no space for is forgotten."""
    self.waiting.clear()
    self.waiting.append(record)
    self.write()


@pytest.mark.parametrize("sabotage", ["forgotten", "swallowed"])
def test_a_sabotaged_writer_is_seen(tmp_path, whole, sabotage, monkeypatch, capsys):
    if sabotage == "forgotten":
        monkeypatch.setattr(appending.Appending, "add", no_waiting)
    else:
        monkeypatch.setattr(metrics_log, "_refuse", lambda path, error: None)
        monkeypatch.setattr(after_step, "save", lambda *about, **more: None)
    with pytest.raises((AssertionError, pytest.fail.Exception, StorageError)):
        check_writers(
            tmp_path / "run", whole, 3, 5, "stop" if sabotage == "swallowed" else "continue", capsys
        )


def not_told(monkeypatch):
    monkeypatch.setattr(atomic, "is_full", lambda error: False)


def left_there(monkeypatch):
    monkeypatch.setattr(shutil, "rmtree", lambda *about, **more: None)


def no_choice(monkeypatch):
    monkeypatch.setattr(after_step, "FullDisk", KeyError)


@pytest.mark.parametrize(
    "sabotage",
    [not_told, *(pytest.param(s, marks=pytest.mark.faults) for s in (left_there, no_choice))],
)
def test_a_sabotaged_answer_to_a_full_disk_is_seen(tmp_path, whole, monkeypatch, capfd, sabotage):
    sabotage(monkeypatch)
    with pytest.raises((AssertionError, StorageError)):
        check_stops(tmp_path / "stop", whole, 3)
        check_continues(tmp_path / "continue", whole, 3, capfd)
