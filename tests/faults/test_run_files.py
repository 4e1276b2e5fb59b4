"""Any bytes in any file of a run but its checkpoints cost one warning at most."""

import json
import logging
import os
import shutil

import numpy as np
import pytest
from conftest import UNAWAITED
from harness import saved_parts, small_config, trained
from programs import keep_programs

import vidgen
from vidgen.run import metrics_log, train
from vidgen.video import atomic

pytestmark = UNAWAITED
STEPS, NEWEST, LEFT = 8, 8, 6


def flip(path, rng):
    data = bytearray(path.read_bytes() or b"x")
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)


def cut(path, rng):
    data = path.read_bytes()
    path.write_bytes(data[: rng.integers(len(data) + 1)])


def replaced(make):
    def damage(path, rng):
        path.unlink()
        make(path)

    return damage


DAMAGE = {
    "flipped": flip,
    "cut": cut,
    "emptied": lambda path, rng: path.write_bytes(b""),
    "random": lambda path, rng: path.write_bytes(rng.bytes(rng.integers(1, 2000))),
    "no text": lambda path, rng: path.write_bytes(b"\xff\xfe\n" * 9),
    "nested": lambda path, rng: path.write_bytes(b"[" * 100_000),
    "a folder": replaced(lambda path: path.mkdir()),
    "a link to nothing": replaced(lambda path: path.symlink_to("/nowhere/at/all")),
    "a link to itself": replaced(lambda path: path.symlink_to(path)),
    "a link without end": replaced(lambda path: path.symlink_to("/dev/zero")),
    "a pipe": replaced(os.mkfifo),
}


def config():
    made = small_config(STEPS, save=2, sample=4)
    made.training.update(keep_best="distance", watch_kclips=0.004)
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was stopped after step 6 would be this, without its newest checkpoint."""
    return trained(config(), tmp_path_factory)


@pytest.fixture(autouse=True)
def programs(monkeypatch):
    keep_programs(monkeypatch)


def files(run):
    """Returns the files of a run that are no checkpoint's."""
    kept = ("checkpoints", "best")
    found = [p for p in run.rglob("*") if p.is_file() and p.relative_to(run).parts[0] not in kept]
    return sorted([*found, run / "best" / "best.json"])


def stopped(whole, run):
    """Makes of the whole run one that goes on from step 6, with an event in its log."""
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints" / str(NEWEST))
    (run / "events.jsonl").write_text(
        '{"step": 5, "alarm": "slow"}\n{"step": 6, "alarm": "slow"}\n'
    )
    return run


def check_survives(whole, run, path, how, rng, caplog):
    """Damages one file of a run, goes on with it and samples from it."""
    good = path.read_bytes().splitlines() if path.suffix == ".jsonl" else []
    DAMAGE[how](path, rng)
    there = set(path.read_bytes().split(b"\n")) if path.is_file() else set()
    caplog.clear()
    with caplog.at_level(logging.WARNING, "vidgen"):
        train.train(config(), run)
        assert vidgen.load(run).step == STEPS
    assert len(caplog.records) <= 1, caplog.text
    assert saved_parts(run) == saved_parts(whole)
    logged = (run / "metrics.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["step"] for line in logged][-2:] == [7, 8]
    if path.suffix == ".jsonl":  # every line that is as it was stays, and what was there is kept
        kept = path.read_bytes().splitlines() if path.is_file() else []
        assert [line for line in good if json.loads(line)["step"] <= LEFT and line in there] == [
            line for line in kept if line in good and json.loads(line)["step"] <= LEFT
        ]
        lost = [n for n in there if n and metrics_log._parsed(n) is None and n[:1] != b"{"]
        copies = b"".join(p.read_bytes() for p in run.glob("damaged-*") if p.is_file())
        assert all(line in copies for line in lost)


def check_all(whole, folder, caplog, count, hows):
    """Damages as many files, each in some way."""
    rng = np.random.default_rng(20)
    run = stopped(whole, folder / "run")
    names = [path.relative_to(run) for path in files(run)]
    for number in range(count):
        run = stopped(whole, folder / "run")
        path, how = run / names[number % len(names)], hows[number % len(hows)]
        try:
            check_survives(whole, run, path, how, rng, caplog)
        except BaseException as error:
            raise AssertionError(f"{path.relative_to(run)}: {how}: {error}") from error


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl", "best/best.json"])
def test_a_run_goes_on_with_a_damaged_file(tmp_path, whole, name, caplog):
    run, rng = stopped(whole, tmp_path / "run"), np.random.default_rng(1)
    check_survives(whole, run, run / name, "no text", rng, caplog)


@pytest.mark.faults
@pytest.mark.parametrize("how", DAMAGE)
def test_a_run_goes_on_whichever_file_is_damaged(tmp_path, whole, how, caplog):
    count = 3 * len(files(whole)) if how in ("flipped", "cut", "random") else len(files(whole)) + 1
    check_all(whole, tmp_path, caplog, count, [how])


def strict(line):
    """Sabotage: a line is taken to be as it was written."""
    return json.loads(line)


def not_aside(path, folder=False):
    """Sabotage: what is in the way stays there."""


@pytest.mark.parametrize("sabotage", ["lines", "way"])
def test_a_sabotaged_reader_of_logs_is_seen(tmp_path, whole, sabotage, monkeypatch, caplog):
    if sabotage == "lines":
        monkeypatch.setattr(metrics_log, "_parsed", strict)
    else:
        monkeypatch.setattr(atomic, "make_way", not_aside)
    run, rng = stopped(whole, tmp_path / "run"), np.random.default_rng(1)
    how = "no text" if sabotage == "lines" else "a folder"
    with pytest.raises((AssertionError, ValueError, OSError, vidgen.errors.StorageError)):
        check_survives(whole, run, run / "metrics.jsonl", how, rng, caplog)
