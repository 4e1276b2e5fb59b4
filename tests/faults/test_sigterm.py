"""SIGTERM at any time: saved at the current step, exit 85, at once; several processes together."""

import contextlib
import os
import signal
import socket
import time

import pytest
from harness import (
    QUICK,
    check_same_run,
    flags,
    lines,
    saved_parts,
    small_config,
    start,
    trained,
)
from programs import keep_programs

from vidgen import sampling
from vidgen.data.stream import Clips
from vidgen.errors import Preempted
from vidgen.run import artifacts, signals, train
from vidgen.runtime import devices
from vidgen.runtime.checkpoint import Checkpoints

STEPS = 8
SECONDS = 5.0  # and one step, which takes none here
# What runs when the signal comes: a function, which of its calls, and the steps done by then.
PHASES = {
    "opening the clips": (artifacts, "open_clips", 1, 0),
    "compiling": (devices.Placement, "compile", 1, 0),
    "training": (Clips, "take", 6, None),
    "sampling": (sampling.Sampler, "sample", 1, 4),
    "saving": (Checkpoints, "save", 2, 4),
}


def config():
    return small_config(STEPS, save=2, sample=4)


@pytest.fixture(autouse=True)
def programs(monkeypatch):
    keep_programs(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(config(), tmp_path_factory)


def strike(monkeypatch, phase):
    """Sends this process a SIGTERM in a phase of the next training; returns when it did."""
    holder, name, call, _ = PHASES[phase]
    function, calls, struck = getattr(holder, name), [], []

    def wrapped(*about, **more):
        calls.append(1)
        if len(calls) == call:
            struck.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)
        return function(*about, **more)

    monkeypatch.setattr(holder, name, wrapped)
    return struck


def check_stops(workdir, whole, phase, monkeypatch):
    """Checks when and where a run stops, and that it then goes on to the same end."""
    with monkeypatch.context() as patch:
        struck = strike(patch, phase)
        with pytest.raises(Preempted, match="SIGTERM") as error:
            train.train(config(), workdir)
        assert time.monotonic() - struck[0] < SECONDS
    assert error.value.exit_code == 85
    done = PHASES[phase][3]
    steps = Checkpoints(workdir / "checkpoints").steps()
    logged = [line["step"] for line in lines(workdir / "metrics.jsonl")]
    if done == 0:
        assert not steps and not logged
    else:
        # At most the step that was under way comes after the signal.
        assert steps and steps[-1] in ((done, done + 1) if done else range(2, STEPS))
        assert logged == list(range(1, steps[-1] + 1))
        assert f"saved step {steps[-1]}" in str(error.value)
    train.train(config(), workdir)
    check_same_run(workdir, whole, STEPS)


@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_stops_a_run_that_then_goes_on(tmp_path, whole, phase, monkeypatch):
    check_stops(tmp_path / "run", whole, phase, monkeypatch)


def deaf(self, number, frame):
    """Sabotage: the signal is swallowed."""


def late(self, number, frame):
    """Sabotage: the signal is heard when it is too late."""
    self.received, self.count = "", getattr(self, "count", 0)
    time.sleep(SECONDS)
    self.received = "SIGTERM"


def unsaved(self, step, items, meta):
    """Sabotage: nothing is saved."""


@pytest.mark.parametrize(
    ("holder", "name", "sabotage"),
    [
        (signals.Signals, "_note", deaf),
        (Checkpoints, "save", unsaved),
        pytest.param(signals.Signals, "_note", late, marks=pytest.mark.faults),
    ],
)
def test_a_sabotaged_stop_is_seen(tmp_path, whole, monkeypatch, holder, name, sabotage):
    monkeypatch.setattr(holder, name, sabotage)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check_stops(tmp_path / "run", whole, "training", monkeypatch)


# ---------------------------------------------------------------------- processes of their own


def ended(process, asked, code=85):
    """Waits for a process that was asked to stop; returns what it said."""
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    # 5 s and one step, on a machine that is busy testing.
    assert time.monotonic() - asked < 2 * SECONDS and "Traceback" not in said, said
    return said


def start_two(workdir, config):
    """Starts a run of two processes with two devices each."""
    config.parallel.update(mode="mesh", distributed=True)
    config.training.batch_size, config.training.kclips = 4, config.training.kclips * 2
    for name in ("log_kclips", "save_kclips", "sample_kclips"):
        config.training[name] *= 2
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        start(
            ["train", *flags(config), f"--workdir={workdir}"],
            XLA_FLAGS=f"--xla_force_host_platform_device_count=2 {QUICK}",
            VIDGEN_COORDINATOR=f"127.0.0.1:{port}",
            VIDGEN_PROCESSES="2",
            VIDGEN_PROCESS=str(n),
        )
        for n in range(2)
    ]


@contextlib.contextmanager
def killed_at_last(processes):
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.faults
@pytest.mark.parametrize("after", [0.0, 0.5, 1.0, 1.5, 2.0, 2.5])
def test_a_signal_while_importing(tmp_path, after):
    process = start(["train", *flags(config()), f"--workdir={tmp_path / 'run'}"])
    with killed_at_last([process]):
        assert "reading configs/" in process.stderr.readline()  # before jax is imported
        time.sleep(after)
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert "SIGTERM" in ended(process, asked)


@pytest.mark.faults
@pytest.mark.parametrize("which", [0, 1])
def test_a_signal_to_one_of_two_processes_stops_both_at_one_step(tmp_path, which):
    workdir, whole = tmp_path / "run", tmp_path / "whole"
    with killed_at_last(start_two(workdir, small_config(120, save=40))) as both:
        deadline = time.monotonic() + 200
        while len(lines(workdir / "metrics.jsonl")) < 5:
            assert time.monotonic() < deadline and both[0].poll() is None, both[0].communicate()
            time.sleep(0.01)
        asked = time.monotonic()
        both[which].send_signal(signal.SIGTERM)
        said = [ended(process, asked) for process in both]
    (step,) = {int(text.partition("saved step ")[2].split()[0]) for text in said}
    assert Checkpoints(workdir / "checkpoints").steps()[-1] == step < 120
    assert [line["step"] for line in lines(workdir / "metrics.jsonl")] == list(range(1, step + 1))
    # Gone on, the run ends as one that nothing stopped.
    for folder in (workdir, whole):
        with killed_at_last(start_two(folder, small_config(120, save=40))) as both:
            for process in both:
                _, text = process.communicate(timeout=300)
                assert process.returncode == 0, text
    assert saved_parts(workdir) == saved_parts(whole)
    assert [line["step"] for line in lines(workdir / "metrics.jsonl")] == list(range(1, 121))
