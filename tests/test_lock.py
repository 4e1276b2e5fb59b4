"""One training at a time in a workdir: who is refused, who is named, and what lets go."""

import fcntl
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest
from conftest import tiny_config

import vidgen
from vidgen.cli import main
from vidgen.errors import ConfigError
from vidgen.run import lock

ROOT = pathlib.Path(__file__).parents[1]
HOLDER = """
import pathlib, subprocess, sys, time
from vidgen.run import lock
with lock.owned(pathlib.Path(sys.argv[1])):
    child = subprocess.Popen(["sleep", "60"])
    print(child.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that has the lock, with a child of its own: its handle and the child's number."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        yield process
        process.kill()
        os.kill(child, signal.SIGKILL)


def test_a_second_training_is_refused_and_the_owner_named(tmp_path, holder):
    said = rf"process {holder.pid} on {socket.gethostname()}, since 2\d\d\d-"
    with pytest.raises(ConfigError, match=said) as error:
        vidgen.train(tiny_config(), tmp_path)
    assert error.value.exit_code == 2 and str(tmp_path) in str(error.value) and error.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_dead_owner_holds_nothing_though_its_child_lives(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lock.owned(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert (tmp_path / "lock").read_bytes() == b""


def test_two_trainings_in_one_process_are_two(tmp_path):
    with lock.owned(tmp_path), pytest.raises(ConfigError, match=f"process {os.getpid()} on"):
        lock.owned(tmp_path).__enter__()
    with lock.owned(tmp_path):
        pass


@pytest.mark.parametrize(
    "said",
    ["", "{", "[]", '{"host": 1}', "[" * 100_000, '{"host": "\\u001b[2J", "pid": 1, "since": 2}'],
)
def test_a_lock_that_says_nothing_still_holds(tmp_path, said):
    with lock.owned(tmp_path):
        (tmp_path / "lock").write_text(said)
        with pytest.raises(ConfigError, match="which, its file does not say"):
            lock.owned(tmp_path).__enter__()


def test_of_several_processes_the_first_alone_takes_it(tmp_path, monkeypatch):
    """Those of one run share its workdir; what stops this one here is its config."""
    monkeypatch.setattr(vidgen.run.train.jax, "process_index", lambda: 1)
    monkeypatch.setattr(vidgen.run.train, "_train", lambda *about: None)
    with lock.owned(tmp_path):
        assert vidgen.train(tiny_config(), tmp_path) == {}


def test_where_there_are_no_locks_it_is_said_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
    def refuse(handle, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock.owned(tmp_path), lock.owned(tmp_path):
        assert "has no locks (No locks available)" in caplog.text


def test_a_folder_that_cannot_be_written_is_no_obstacle_here(tmp_path, monkeypatch, caplog):
    """A run that is done says so, also on a disk that is read-only."""

    def read_only(path, *about):
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(lock.os, "open", read_only)
        with lock.owned(tmp_path):
            pass
    assert not list(tmp_path.iterdir()) and not caplog.records


def test_the_command_says_it_in_two_lines(tmp_path, holder, capfd):
    config = ROOT / "configs" / "toy.py"
    assert main.main(["train", f"--config={config}", f"--workdir={tmp_path}"]) == 2
    err = capfd.readouterr().err.splitlines()
    assert f"another training has {tmp_path}: process {holder.pid} on" in err[-2]
