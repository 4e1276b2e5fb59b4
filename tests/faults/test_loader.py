"""A decoder that is killed, stopped or stuck: bounded, named, and no other clip is changed.

What befell a decoder once is forgotten: the pack is that of a packing that nothing befell. What
befalls it each time ends the packing, unless it crashes by itself, which is the file's fault.
"""

import logging
import os
import random
import signal
import threading
import time

import numpy as np
import pytest

from vidgen.data import attempts, workers
from vidgen.data.limits import Limits
from vidgen.data.pack import open_store
from vidgen.data.settings import PackSettings
from vidgen.data.workers import Worker
from vidgen.errors import DataError
from vidgen.video import writing
from vidgen.video.decoding import Unreadable

SECONDS = 20.0
CLIPS = 6
STUCK = 2  # the clip at which it happens
SIGNALS = (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT)
_Timer = threading.Timer


def heavy(signals):
    """Leaves the first to the quick suite, the others to the battery."""
    first, *others = signals
    return [first, *(pytest.param(n, marks=pytest.mark.faults) for n in others)]


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """A folder of clips, and the frames of each."""
    monkeypatch.setattr(Limits, "patience", lambda self: 2.0)
    rng = np.random.default_rng(0)
    made = {}
    for n in range(CLIPS):
        name = f"clip-{n}.webp"
        made[name] = rng.integers(0, 256, (8, 16, 16, 3), np.uint8)
        (tmp_path / "clips").mkdir(exist_ok=True)
        writing.write_video(tmp_path / "clips" / name, made[name], fps=10)
    return tmp_path / "clips", made


def send(process, number):
    """Sends a signal to a process that is stopped; but for SIGKILL it sees them when it goes on."""
    os.kill(process, number)
    if number != signal.SIGSTOP:
        os.kill(process, signal.SIGCONT)


def strike(monkeypatch, number, times=99):
    """Sends a signal to the decoder while it has the clip STUCK, the first so many times."""
    exchange, struck = Worker._exchange, []

    def wrapped(self, process, asked, *sinks):
        timer = None
        if os.path.basename(asked["ref"]["path"]) == f"clip-{STUCK}.webp" and len(struck) < times:
            struck.append(1)
            os.kill(process.pid, signal.SIGSTOP)  # so that it cannot be quicker than we are
            timer = _Timer(0.1, send, (process.pid, number))
            timer.start()
        try:
            return exchange(self, process, asked, *sinks)
        finally:
            if timer is not None:
                timer.join()

    monkeypatch.setattr(Worker, "_exchange", wrapped)
    return struck


def opened(clips, folder, **more):
    settings = PackSettings(size=16, limits=Limits(seconds=10.0))
    return open_store(clips, settings, cache=folder / "cache", workers=2, **more)


def check_whole(clips, made, folder):
    """Checks that a pack holds every clip as it is, and says of none that it cannot be used."""
    store = opened(clips, folder)
    assert store.skipped == [] and store.names == tuple(made)
    for n, name in enumerate(made):
        np.testing.assert_array_equal(store[n], made[name])


def check_refused(clips, made, folder, caplog):
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


def check_ended(clips, folder):
    """Checks that packing ends in time with an error that names the clip, and leaves no pack."""
    began = time.monotonic()
    with pytest.raises(DataError, match=f"clip-{STUCK}.webp: .*again when tried alone") as caught:
        opened(clips, folder)
    assert time.monotonic() - began < SECONDS
    assert caught.value.exit_code == 3 and "data.limits.seconds" in caught.value.hint
    assert not list((folder / "cache").iterdir())


@pytest.mark.parametrize("number", heavy(SIGNALS))
def test_a_decoder_that_is_struck_once_costs_nothing(clips, tmp_path, monkeypatch, number):
    assert strike(monkeypatch, number, times=1) == []
    check_whole(*clips, tmp_path)


@pytest.mark.parametrize("number", heavy(SIGNALS[:3]))
def test_a_decoder_that_is_struck_each_time_ends_the_packing(clips, tmp_path, monkeypatch, number):
    strike(monkeypatch, number)
    check_ended(clips[0], tmp_path)
    monkeypatch.undo()
    check_whole(*clips, tmp_path)  # under the same name


@pytest.mark.parametrize("number", heavy(SIGNALS[3:]))
def test_a_decoder_that_crashes_each_time_costs_its_clip_and_no_other(
    clips, tmp_path, monkeypatch, caplog, number
):
    struck = strike(monkeypatch, number)
    check_refused(*clips, tmp_path, caplog)
    assert len(struck) == 2


@pytest.mark.faults
@pytest.mark.parametrize("number", SIGNALS[:4])
def test_strict_stops_at_the_clip(clips, tmp_path, monkeypatch, number):
    strike(monkeypatch, number)
    began = time.monotonic()
    with pytest.raises(DataError, match=f"clip-{STUCK}"):
        opened(clips[0], tmp_path, strict=True)
    assert time.monotonic() - began < SECONDS


def kill_now_and_then(monkeypatch, seed, kills):
    """Kills decoders at moments drawn by chance, whatever they do, while others decode beside."""
    rng, alive, start = random.Random(seed), [], Worker._start

    def started(self):
        process = start(self)
        if process not in alive:
            alive.append(process)
            if len(alive) <= kills:
                timer = _Timer(rng.uniform(0.0, 0.2), process.send_signal, (signal.SIGKILL,))
                timer.daemon = True
                timer.start()
        return process

    monkeypatch.setattr(Worker, "_start", started)


def check_all_or_nothing(clips, made, folder):
    """Checks that a packing whose decoders are killed gives the whole pack, or none."""
    try:
        check_whole(clips, made, folder)
    except DataError as error:
        assert "again when" in str(error)
        assert not (folder / "cache").exists() or not list((folder / "cache").iterdir())


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(12))
def test_decoders_that_are_killed_at_any_moment(clips, tmp_path, monkeypatch, seed):
    kill_now_and_then(monkeypatch, seed, kills=1 + seed % 4)
    check_all_or_nothing(*clips, tmp_path)
    monkeypatch.undo()
    check_whole(*clips, tmp_path)


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


def hasty(monkeypatch):
    """Sabotage: what happened once is a property of the file."""

    def never(job, limits, last, alive):
        raise Unreadable(str(last))

    monkeypatch.setattr(attempts, "_again", never)


def test_a_loader_that_names_nothing_is_seen(clips, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    nameless(monkeypatch)
    strike(monkeypatch, signal.SIGSEGV)
    with pytest.raises(AssertionError):
        check_refused(*clips, tmp_path, caplog)


@pytest.mark.faults
def test_a_loader_without_a_clock_is_seen(clips, tmp_path, monkeypatch):
    unbounded(monkeypatch)
    strike(monkeypatch, signal.SIGSTOP, times=1)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check_ended(clips[0], tmp_path)


def test_a_loader_that_blames_the_file_at_once_is_seen(clips, tmp_path, monkeypatch):
    hasty(monkeypatch)
    strike(monkeypatch, signal.SIGKILL, times=1)
    with pytest.raises(AssertionError):
        check_whole(*clips, tmp_path)


@pytest.mark.faults
def test_a_pack_without_the_killed_clip_is_seen(clips, tmp_path, monkeypatch):
    hasty(monkeypatch)
    strike(monkeypatch, signal.SIGKILL, times=1)
    with pytest.raises(AssertionError):
        check_all_or_nothing(*clips, tmp_path)
