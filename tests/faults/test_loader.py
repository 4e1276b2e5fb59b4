"""A decoder that is killed, stopped or stuck: bounded, named, and no other clip is changed."""

import os
import pathlib
import signal
import threading
import time

import numpy as np
import pytest

from vidgen.data import workers
from vidgen.data.limits import Limits
from vidgen.data.pack import open_store
from vidgen.data.settings import PackSettings
from vidgen.data.workers import Worker
from vidgen.errors import DataError
from vidgen.video import writing

SECONDS = 10.0
CLIPS = 6
STUCK = 2  # the clip at which it happens
_Timer = threading.Timer


@pytest.fixture
def clips(tmp_path):
    """A folder of clips, and the frames of each."""
    rng = np.random.default_rng(0)
    made = {}
    for n in range(CLIPS):
        name = f"clip-{n}.webp"
        made[name] = rng.integers(0, 256, (8, 16, 16, 3), np.uint8)
        (tmp_path / "clips").mkdir(exist_ok=True)
        writing.write_video(tmp_path / "clips" / name, made[name], fps=10)
    return tmp_path / "clips", made


def strike(monkeypatch, number, only_first=False):
    """Sends a signal to the decoder while it has the clip STUCK."""
    exchange, struck = Worker._exchange, []

    def wrapped(self, process, asked, sink):
        timer = None
        if pathlib.Path(asked["ref"]["path"]).name == f"clip-{STUCK}.webp" and not (
            only_first and struck
        ):
            struck.append(1)
            os.kill(process.pid, signal.SIGSTOP)  # so that it cannot be quicker than we are
            timer = _Timer(0.1, os.kill, (process.pid, number))
            timer.start()
        try:
            return exchange(self, process, asked, sink)
        finally:
            if timer is not None:
                timer.join()

    monkeypatch.setattr(Worker, "_exchange", wrapped)


def opened(clips, folder, **more):
    return open_store(
        clips, PackSettings(size=16, limits=Limits(seconds=2.0)), cache=folder / "cache",
        workers=2, **more,
    )  # fmt: skip


def check_bounded(clips, made, folder, caplog):
    """Checks that packing ends in time, names the clip, and has the other clips as they are."""
    began = time.monotonic()
    store = opened(clips, folder)
    assert time.monotonic() - began < SECONDS
    ((name, why),) = store.skipped
    assert name == f"clip-{STUCK}.webp" and why
    assert f"clip-{STUCK}.webp: skipped: {why}" in caplog.text
    assert store.names == tuple(n for n in made if n != name)
    for n, other in enumerate(store.names):
        np.testing.assert_array_equal(store[n], made[other])


@pytest.mark.parametrize(
    "number", [signal.SIGSTOP, *(pytest.param(n, marks=pytest.mark.faults) for n in (
        signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGABRT))],
)  # fmt: skip
def test_a_decoder_that_is_struck_costs_its_clip_and_no_other(
    clips, tmp_path, monkeypatch, caplog, number
):
    strike(monkeypatch, number)
    check_bounded(*clips, tmp_path, caplog)


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_strict_stops_at_the_clip(clips, tmp_path, monkeypatch, number):
    strike(monkeypatch, number)
    began = time.monotonic()
    with pytest.raises(DataError, match=f"clip-{STUCK}"):
        opened(clips[0], tmp_path, strict=True)
    assert time.monotonic() - began < SECONDS


def test_a_pack_does_not_keep_a_struck_decoder_in_mind(clips, tmp_path, monkeypatch):
    """The training stream of a pack made again is that of one that nothing befell."""
    with monkeypatch.context() as patch:
        strike(patch, signal.SIGKILL)
        struck = opened(clips[0], tmp_path / "struck")
    whole = opened(clips[0], tmp_path / "whole")
    assert len(struck) == CLIPS - 1 and len(whole) == CLIPS
    for path in (tmp_path / "struck" / "cache").iterdir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    assert opened(clips[0], tmp_path / "struck").fingerprint == whole.fingerprint


def unbounded(monkeypatch):
    """Sabotage: nobody looks at the clock (for the seconds that the test has)."""

    class Never:
        daemon = True

        def __init__(self, seconds, function, *about):
            self._timer = _Timer(SECONDS + 2, function)

        def __getattr__(self, name):
            return getattr(self._timer, name)

    monkeypatch.setattr(workers.threading, "Timer", Never)


def nameless(monkeypatch):
    """Sabotage: what is refused is not named."""
    from vidgen.data import packing

    monkeypatch.setattr(packing, "warn_skipped", lambda *about: None)


@pytest.mark.parametrize("sabotage", [nameless, pytest.param(unbounded, marks=pytest.mark.faults)])
def test_a_sabotaged_loader_is_seen(clips, tmp_path, monkeypatch, caplog, sabotage):
    sabotage(monkeypatch)
    strike(monkeypatch, signal.SIGSTOP)
    with pytest.raises(AssertionError):
        check_bounded(*clips, tmp_path, caplog)
