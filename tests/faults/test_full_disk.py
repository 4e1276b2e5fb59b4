"""A disk that is full in the middle of a save: one line, older checkpoints good, as configured."""

import errno
import os
import re
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

from vidgen.errors import StorageError
from vidgen.run import after_step, train
from vidgen.runtime import checkpoint
from vidgen.runtime.checkpoint import Checkpoints

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


def not_told(monkeypatch):
    monkeypatch.setattr(checkpoint, "_is_full", lambda error: False)


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
