"""A signal to a command at any moment ends it soon, by its own code, and leaves nothing."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from harness import QUICK, ROOT, small_config, trained
from test_signals import SIGNALS, alive, children

TRIES = int(os.environ.get("FAULTS_SIGNALS", "12"))
# The command in this process, so that what it is made of can be sabotaged first.
CODE = """
import sys
{sabotage}
from vidgen.cli.main import main
print("begun", file=sys.stderr, flush=True)
main()
"""
NO_END = """
import contextlib
from vidgen.run import signals
signals.Ending = contextlib.nullcontext
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(small_config(4), tmp_path_factory)


def commands(run, folder):
    return {
        "sample": ["sample", run, f"--out={folder / 'samples'}", "--seeds=0:400", "--frames=32"],
        "evaluate": ["evaluate", run, "--against=toy:clips=64", "--clips=32", f"--out={folder}/e"],
        "bench": ["bench", "--config=configs/toy.py", f"--json={folder / 'bench.json'}"],
    }


def check_ends(command, folder, number, after, sabotage=""):
    """Starts a command, and ends it by a signal some seconds after its imports began."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", CODE.format(sabotage=sabotage), *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": QUICK, "TMPDIR": str(folder)},
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        while "begun" not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(after)
        started = children(process.pid)
        over = process.poll() is not None  # it was faster
        process.send_signal(number)
        _, said = process.communicate(timeout=25)
    finally:
        process.kill()
        process.communicate()
    if over:
        return False
    what = f"{command[0]}, {signal.Signals(number).name} after {after:.2f} s: {said}"
    # Before the command itself listens, the signal has its usual course.
    assert process.returncode in (128 + number, -number), f"{process.returncode}: {what}"
    assert "Traceback" not in said, what
    assert not [p for p in folder.rglob("*") if ".tmp" in p.name], what
    assert not any(map(alive, started)), what
    return process.returncode == 128 + number


@pytest.mark.faults
@pytest.mark.parametrize("name", ["sample", "evaluate", "bench"])
def test_a_signal_at_any_moment(tmp_path, run, name):
    rng, heard = random.Random(name), 0
    for _ in range(TRIES):
        command = commands(run, tmp_path)[name]
        heard += check_ends(command, tmp_path, rng.choice(SIGNALS), rng.uniform(0.3, 8.0))
    assert heard > TRIES / 3


def test_a_signal_while_samples_are_written(tmp_path, run):
    assert check_ends(commands(run, tmp_path)["sample"], tmp_path, signal.SIGTERM, 2.0)


def test_a_command_that_does_not_listen_is_seen(tmp_path, run):
    with pytest.raises(AssertionError):
        assert check_ends(commands(run, tmp_path)["sample"], tmp_path, signal.SIGTERM, 2.0, NO_END)
