"""A crash at every write, rename and delete of a run's saves: every point recovers.

Before each change that Python makes below the workdir, the folder is copied as it is then: that is
what a crash at this point would leave. Each copy is then trained on to its end. (TensorStore's
writes are no calls of Python's; they fall into folders that are not committed yet.)
"""

import hashlib
import os
import shutil
import sys
import threading

import pytest
from harness import check_same_run, small_config
from programs import keep_programs

from vidgen.errors import StorageError
from vidgen.run import metrics_log, train
from vidgen.runtime import digests
from vidgen.runtime.checkpoint import Checkpoints

STEPS = 8
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link")


def config():
    return small_config(STEPS, save=2, sample=4)


class Snapshots:
    """Copies of a workdir, one for each change that is made in it while this is watching.

    Attributes:
      taken: For each: its folder, what was to change, and the newest checkpoint there had been.
    """

    watching: "Snapshots | None" = None
    hooked = False

    def __init__(self, workdir, folder):
        self.workdir, self.folder = workdir, folder
        self.taken, self.seen, self.newest = [], set(), 0
        self._lock, self._copier = threading.Lock(), None

    def __enter__(self):
        if not Snapshots.hooked:  # for good: Python cannot take a hook away
            sys.addaudithook(lambda event, about: _audit(event, about))
            Snapshots.hooked = True
        Snapshots.watching = self
        return self

    def __exit__(self, *_):
        Snapshots.watching = None

    def take(self, what):
        if self._copier == threading.get_ident():
            return
        with self._lock:  # whoever else would change something waits
            self._copier = threading.get_ident()
            try:
                self._copy(what)
            finally:
                self._copier = None

    def _copy(self, what):
        target = self.folder / f"crash-{len(self.taken)}"
        for _ in range(9):  # a change that was seen before may be made only now
            try:
                shutil.copytree(self.workdir, target)
                break
            except (shutil.Error, OSError):
                shutil.rmtree(target, ignore_errors=True)
        else:
            return
        state = hashlib.sha256()
        for path in sorted(target.rglob("*")):
            state.update(str(path.relative_to(target)).encode())
            state.update(path.read_bytes() if path.is_file() else b"")
        if state.digest() in self.seen:
            shutil.rmtree(target)
            return
        self.seen.add(state.digest())
        self.newest = max([self.newest, *Checkpoints(target / "checkpoints").steps()])
        self.taken.append((target, what, self.newest))


def _audit(event, about):
    watching = Snapshots.watching
    if watching is None:
        return
    if event == "open":
        path, _, flags = about
        changes = isinstance(path, (str, bytes, os.PathLike)) and flags & (
            os.O_WRONLY | os.O_RDWR | os.O_CREAT
        )
    else:
        path, changes = about[0] if about else None, event in CHANGES
        if changes and isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
    if changes and str(watching.workdir) in os.fsdecode(path):
        watching.take(f"{event} {os.fsdecode(path)}")


def recorded(folder):
    """Trains a run and returns its workdir and its snapshots."""
    workdir = folder / "run"
    workdir.mkdir()
    with Snapshots(workdir, folder) as snapshots:
        train.train(config(), workdir)
    return workdir, snapshots.taken


def check_recovers(crash, what, newest, whole, capfd):
    """Checks that a run goes on from what a crash has left, and loses no committed checkpoint."""
    capfd.readouterr()
    train.train(config(), crash)
    said = capfd.readouterr().err
    if newest:
        assert f"going on from step {newest}" in said or f"done, {STEPS} steps" in said, what
        assert "damaged" not in said, what
    check_same_run(crash, whole, STEPS)
    left = Checkpoints(crash / "checkpoints")
    assert left.steps() == Checkpoints(whole / "checkpoints").steps(), what
    for step in left.steps():
        left.verify(step)
    assert not [p for p in crash.rglob("*") if "tmp" in p.name or p.name[0] == "."], what


@pytest.fixture(autouse=True)
def programs(monkeypatch):
    keep_programs(monkeypatch)


def check_crashes(folder, capfd, every=1):
    whole, crashes = recorded(folder)
    assert len(crashes) > 50, crashes
    for crash, what, newest in crashes[every // 2 :: every]:
        check_recovers(crash, what, newest, whole, capfd)
        shutil.rmtree(crash)
    return len(crashes)


def test_some_crashes_recover(tmp_path, capfd):
    check_crashes(tmp_path, capfd, every=40)


@pytest.mark.faults
def test_every_crash_recovers(tmp_path, capfd):
    count = check_crashes(tmp_path, capfd)
    with capfd.disabled():
        print(f"\n{count} crashes, one before each change on the disk: all recovered")


def delete_first(monkeypatch):
    """Sabotage: the checkpoints before are deleted before the new one is there."""
    save = Checkpoints.save

    def sabotaged(self, step, items, meta):
        for old in self.steps():
            shutil.rmtree(self.folder / str(old))
        save(self, step, items, meta)

    monkeypatch.setattr(Checkpoints, "save", sabotaged)


def append_only(monkeypatch):
    """Sabotage: what was logged beyond the checkpoint stays."""
    monkeypatch.setattr(metrics_log, "_rewrite", lambda path, lines: None)


def no_manifest(monkeypatch):
    """Sabotage: a step is committed without the list of its files."""
    monkeypatch.setattr(digests, "list_files", lambda folder: None)


@pytest.mark.parametrize(
    "sabotage", [no_manifest, pytest.param(delete_first, marks=pytest.mark.faults),
                 pytest.param(append_only, marks=pytest.mark.faults)]
)  # fmt: skip
def test_a_sabotaged_save_is_seen(tmp_path, monkeypatch, capfd, sabotage):
    whole, crashes = recorded(tmp_path)
    sabotage(monkeypatch)
    with pytest.raises((AssertionError, StorageError)):
        for crash, what, newest in crashes[::7]:
            check_recovers(crash, what, newest, whole, capfd)
