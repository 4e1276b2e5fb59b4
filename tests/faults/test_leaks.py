"""Thousands of steps with saves and samples: memory, threads and file handles stay flat."""

import os
import pathlib
import threading
import time

import pytest
from harness import lines, small_config
from programs import keep_programs

from vidgen.data.stream import Clips
from vidgen.run import train
from vidgen.runtime.checkpoint import Checkpoints

MEMORY = 24 << 20  # bytes; a planted leak of 8 KB a step is seven times that in 20,000 steps
HANDLES = 3
pytestmark = pytest.mark.skipif(
    not pathlib.Path("/proc/self/statm").exists(), reason="counts what Linux shows in /proc"
)


def use():
    """Returns bytes of memory, threads and open files of this process."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    files = len(os.listdir("/proc/self/fd"))
    return pages * os.sysconf("SC_PAGE_SIZE"), threading.active_count(), files


def check_flat(workdir, steps, saves, monkeypatch):
    """Trains, and checks that no more is in use at the end than after the first quarter."""
    seen = []
    save = Checkpoints.save

    def watched(self, step, items, meta):
        self.wait()
        seen.append(use())
        save(self, step, items, meta)

    monkeypatch.setattr(Checkpoints, "save", watched)
    config = small_config(steps, save=steps // saves, sample=steps // 4)
    config.training.log_kclips *= steps // saves
    train.train(config, workdir)
    assert lines(workdir / "metrics.jsonl")[-1]["step"] == steps
    memory, threads, files = zip(*seen[len(seen) // 4 :], strict=True)
    start = max(memory[: len(memory) // 3])
    assert max(memory) - start < MEMORY, [m >> 20 for m in memory]
    assert max(threads) <= threads[0] + HANDLES, threads
    assert max(files) <= files[0] + HANDLES, files
    return max(memory) - start


@pytest.fixture(autouse=True)
def programs(monkeypatch):
    keep_programs(monkeypatch)


def test_a_few_hundred_steps_leak_nothing(tmp_path, monkeypatch):
    check_flat(tmp_path / "run", 200, 20, monkeypatch)


@pytest.mark.faults
def test_20000_steps_leak_nothing(tmp_path, monkeypatch, capfd):
    began = time.monotonic()
    grown = check_flat(tmp_path / "run", 20_000, 40, monkeypatch)
    with capfd.disabled():
        print(f"\n20000 steps in {time.monotonic() - began:.0f} s: {grown / 2**20:.1f} MB more")


def memory_leak(kept, clips, start):
    kept.append(os.urandom(1 << 20))


def file_leak(kept, clips, start):
    if start % 20 == 0:
        kept.append(open(os.devnull))  # noqa: SIM115


def thread_leak(kept, clips, start):
    if start % 20 == 0:
        kept.append(threading.Event())
        threading.Thread(target=kept[-1].wait, daemon=True).start()


@pytest.mark.parametrize(
    "leak", [file_leak, *(pytest.param(k, marks=pytest.mark.faults) for k in (
        memory_leak, thread_leak))],
)  # fmt: skip
def test_a_planted_leak_is_seen(tmp_path, monkeypatch, leak):
    kept, take = [], Clips.take

    def leaking(self, start, count):
        leak(kept, self, start)
        return take(self, start, count)

    monkeypatch.setattr(Clips, "take", leaking)
    with pytest.raises(AssertionError):
        check_flat(tmp_path / "run", 200, 20, monkeypatch)
    for one in kept:
        for end in ("close", "set"):
            getattr(one, end, lambda: None)()
