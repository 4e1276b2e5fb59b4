"""Checkpoints that a disk has damaged: found before the first step, the one before is used."""

import json
import logging
import shutil

import jax
import numpy as np
import pytest
from conftest import unawaited
from harness import check_same_run, parts, small_config, trained
from programs import keep_programs

from vidgen import config as configs
from vidgen import methods
from vidgen.cli import main
from vidgen.errors import StorageError
from vidgen.run import train
from vidgen.runtime import checkpoint, digests
from vidgen.runtime.checkpoint import Checkpoints

PLACES = 200
NEWEST = 8


def flip(path, rng):
    data = bytearray(path.read_bytes())
    if data:
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)


def cut(path, rng):
    data = path.read_bytes()
    path.write_bytes(data[: rng.integers(len(data))] if data else b"")


DAMAGE = {
    "flipped": flip,
    "cut": cut,
    "emptied": lambda path, rng: path.write_bytes(b""),
    "deleted": lambda path, rng: path.unlink(),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(small_config(), tmp_path_factory)


@pytest.fixture
def run(whole, tmp_path, monkeypatch):
    """A copy of the whole run, and its programs."""
    keep_programs(monkeypatch)
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def shapes(meta):
    experiment = methods.experiment(configs.from_json(meta["config"]), len(meta["classes"]))
    state = jax.eval_shape(experiment.init, 0)
    return {"train": state.replace(ema=None), "ema": state.ema}


def damage(folder, rng):
    """Damages one file of a folder, each as likely, whatever its size; returns how to mend it."""
    files = [folder / name for name in sorted(json.loads((folder / "files.json").read_text()))]
    files.append(folder / "files.json")
    path, how = files[rng.integers(len(files))], sorted(DAMAGE)[rng.integers(len(DAMAGE))]
    before = path.read_bytes()
    DAMAGE[how](path, rng)
    return lambda: path.write_bytes(before), f"{path.relative_to(folder)} {how}"


def check_found(workdir, good, caplog):
    """Checks what restoring and verifying make of a damaged newest checkpoint.

    What nobody reads is found as well: nothing says beforehand which bytes these are.
    """
    checkpoints = Checkpoints(workdir / "checkpoints")
    caplog.clear()
    step, items, meta = checkpoints.restore(shapes)
    assert step == NEWEST - 2
    assert parts(items["train"], items["ema"]) == good["parts"] and meta == good["meta"]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and "damaged" in said[0]
    assert str(workdir / "checkpoints" / str(NEWEST)) in said[0]
    try:
        checkpoints.verify(NEWEST)
    except StorageError as error:
        assert str(workdir / "checkpoints" / str(NEWEST)) in str(error)
    else:
        raise AssertionError("vidgen checkpoint verify calls it good")


def check_places(run, count, caplog):
    """Damages as many places, one after another."""
    checkpoints = Checkpoints(run / "checkpoints")
    _, items, meta = checkpoints.restore(shapes, NEWEST - 2)
    good = {"parts": parts(items["train"], items["ema"]), "meta": meta}
    rng = np.random.default_rng(0)
    for _ in range(count):
        mend, what = damage(run / "checkpoints" / str(NEWEST), rng)
        with caplog.at_level(logging.WARNING, "vidgen"):
            try:
                check_found(run, good, caplog)
            except AssertionError as error:
                raise AssertionError(f"damaged: {what}") from error
        mend()


@unawaited
def test_damage_is_found_and_the_checkpoint_before_is_used(run, caplog, capfd):
    check_places(run, 12, caplog)


@unawaited
@pytest.mark.faults
def test_damage_at_200_places_is_found(run, caplog, capfd):
    check_places(run, PLACES, caplog)


@unawaited
@pytest.mark.parametrize("how", ["flipped", pytest.param("deleted", marks=pytest.mark.faults)])
def test_a_run_goes_on_from_the_checkpoint_before(run, whole, how, capfd, caplog):
    """The whole loop: said before the first step, the bits as if nothing had been."""
    folder = run / "checkpoints" / str(NEWEST)
    path = max((folder / "train").rglob("d/*"), key=lambda p: p.stat().st_size)
    DAMAGE[how](path, np.random.default_rng(1))
    for sample in (run / "samples").iterdir():
        sample.unlink()  # else there is nothing left to do
    with caplog.at_level(logging.WARNING, "vidgen"):
        train.train(small_config(), run)
    said = capfd.readouterr().err
    assert "going on from step 6 of 8" in said and "damaged" in caplog.text
    check_same_run(run, whole, 8)
    assert (run / "checkpoints" / f"damaged-{NEWEST}-0").is_dir()


@unawaited
def test_verify_says_which_are_good(run, capfd):
    assert main.main(["checkpoint", "verify", str(run)]) == 0
    out = capfd.readouterr().out.splitlines()
    assert [line.split()[-1] for line in out] == ["good"] * 3
    path = run / "checkpoints" / "6" / "meta" / "metadata"
    path.write_text(path.read_text().replace("disc", "dish"))
    assert main.main(["checkpoint", "verify", str(run)]) == 5
    out = capfd.readouterr().out.splitlines()
    assert ["good" in line for line in out] == [True, False, True]
    assert "meta/metadata is not as it was saved" in out[1]
    assert main.main(["checkpoint", "verify", str(run), "--step=8"]) == 0
    assert main.main(["checkpoint", "verify", str(run), "--step=6"]) == 5
    assert main.main(["checkpoint", "verify", str(run), "--step=7"]) == 5
    assert "4, 6, 8" in capfd.readouterr().err
    assert main.main(["checkpoint", "verify", str(run / "nothing")]) == 5


def without_a_key(tree):
    """Sabotage: leaves the first array of the generator's optimizer out of what is saved."""
    leaves, shape = jax.tree.flatten(tree["train"].gen_opt)
    left = jax.tree.unflatten(shape, [None, *leaves[1:]])
    return {**tree, "train": tree["train"].replace(gen_opt=left)}


def check_saved_whole(workdir):
    """Checks that a run made of a checkpoint what it would have made of its memory."""
    train.train(small_config(), workdir)
    for step in (4, 6, 8):
        _, items, _ = Checkpoints(workdir / "checkpoints").restore(shapes, step)
        assert parts(items["train"], items["ema"])


@unawaited
def test_a_checkpoint_that_lacks_a_key_is_seen(tmp_path, monkeypatch):
    keep_programs(monkeypatch)
    save = Checkpoints.save
    monkeypatch.setattr(
        Checkpoints, "save", lambda self, step, tree, meta: save(
            self, step, without_a_key(tree), meta
        ),
    )  # fmt: skip
    there = r"train/gen_opt/count is not there, and int32\[\] in the model"
    with pytest.raises(StorageError, match=there):
        check_saved_whole(tmp_path / "run")


@unawaited
@pytest.mark.parametrize("sabotage", ["no files", "swallowed"])
def test_a_sabotaged_reader_is_seen(run, monkeypatch, caplog, capfd, sabotage):
    if sabotage == "swallowed":  # the damage is found, and nobody is told
        monkeypatch.setattr(checkpoint.log, "warning", lambda *about: None)
    else:
        monkeypatch.setattr(digests, "differing_file", lambda folder: "")
    with pytest.raises(AssertionError):
        check_places(run, 10, caplog)
