import logging
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import unawaited

from vidgen import config as configs
from vidgen import methods
from vidgen.errors import ConfigError, StorageError
from vidgen.run import artifacts
from vidgen.runtime.checkpoint import Checkpoints, MismatchError
from vidgen.runtime.digests import arrays_sha256


def tree(value):
    return {"a": jnp.full((64, 64), value, jnp.float32), "b": {"c": jnp.arange(7) * int(value)}}


def wanted(meta):
    assert meta["config"] == {"x": 1}
    return {"train": jax.eval_shape(lambda: tree(0.0)), "ema": jax.eval_shape(lambda: tree(0.0))}


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, {"train": tree(step), "ema": tree(step + 0.5)}, {"config": {"x": 1}})
    checkpoints.close()
    return Checkpoints(tmp_path / "checkpoints", keep=2)


def files(folder: pathlib.Path):
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_size]


def test_what_was_saved_comes_back(saved):
    assert saved.steps() == [2, 3]
    step, items, meta = saved.restore(wanted)
    assert step == 3 and meta == {"config": {"x": 1}}
    for name, value in (("train", 3), ("ema", 3.5)):
        jax.tree.map(np.testing.assert_array_equal, items[name], tree(value))
    assert saved.restore(wanted, step=2)[0] == 2


def test_arrays_that_compress_without_end_are_no_damage(tmp_path):
    """As `lookup` has them of clips of one colour; of more than the memory they are refused."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    flat = {"ema": {"clips": jnp.full((2000, 16, 32, 32), 7, jnp.uint8)}}
    checkpoints.save(1, flat, {})
    checkpoints.close()
    size = sum(path.stat().st_size for path in files(tmp_path))
    assert 64 * size < flat["ema"]["clips"].nbytes
    found = Checkpoints(tmp_path / "checkpoints").restore(None)[1]
    np.testing.assert_array_equal(found["ema"]["clips"], flat["ema"]["clips"])


def test_one_item_can_be_had_alone(saved):
    _, items, _ = saved.restore(lambda meta: {"ema": wanted(meta)["ema"]})
    assert list(items) == ["ema"]


def test_a_missing_step_is_named(saved):
    with pytest.raises(StorageError, match="of step 7") as error:
        saved.restore(wanted, step=7)
    assert "2, 3" in error.value.hint
    with pytest.raises(StorageError, match="no checkpoint in"):
        Checkpoints(saved.folder / "elsewhere").restore(wanted)


def largest(folder):
    return max(files(folder), key=lambda p: p.stat().st_size)


DAMAGE = {
    "flipped": lambda data: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
    ),
    "cut": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
}


@unawaited
@pytest.mark.parametrize("how", DAMAGE)
def test_damage_is_found_and_the_one_before_is_used(saved, how, caplog):
    for item in ("train", "ema"):
        path = largest(saved.folder / "3" / item)
        path.write_bytes(DAMAGE[how](path.read_bytes()))
    with caplog.at_level(logging.WARNING, "vidgen"):
        step, items, _ = saved.restore(wanted)
    assert step == 2
    jax.tree.map(np.testing.assert_array_equal, items["train"], tree(2))
    assert "damaged" in caplog.text and str(saved.folder / "3") in caplog.text


@unawaited
@pytest.mark.parametrize("number", [1, 5])
def test_a_step_under_another_number_is_not_taken(saved, number, caplog):
    (saved.folder / "3").rename(saved.folder / str(number))
    assert saved.restore(wanted)[0] == 2
    with pytest.raises(StorageError, match="its folder is of another step: it was saved as 3"):
        saved.restore(wanted, step=number)


@unawaited
def test_no_bit_flipped_anywhere_is_restored_as_if_it_were_good(saved):
    """Each file of the step, one bit of it: refused, or what comes back is what was saved."""
    rng = np.random.default_rng(0)
    for path in files(saved.folder / "3"):
        good = path.read_bytes()
        bad = bytearray(good)
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        path.write_bytes(bad)
        try:
            _, items, _ = saved.restore(wanted, step=3)
        except (StorageError, AssertionError):
            continue
        finally:
            path.write_bytes(good)
        jax.tree.map(np.testing.assert_array_equal, items["train"], tree(3))
        jax.tree.map(np.testing.assert_array_equal, items["ema"], tree(3.5))


def changed(change):
    """Asks for trees that a change has made other than those that were saved."""

    def asked(meta):
        trees = wanted(meta)
        change(trees["train"])
        return trees

    return asked


CHANGES = {
    "wider": (
        lambda tree: tree.update(a=jax.ShapeDtypeStruct((64, 128), jnp.float32)),
        "train/a is float32[64, 64], and float32[64, 128] in the model",
    ),
    "of another type": (
        lambda tree: tree.update(a=jax.ShapeDtypeStruct((64, 64), jnp.bfloat16)),
        "train/a is float32[64, 64], and bfloat16[64, 64] in the model",
    ),
    "missing": (
        lambda tree: tree["b"].update(d=jax.ShapeDtypeStruct((3,), jnp.float32)),
        "train/b/d is not there, and float32[3] in the model",
    ),
    "extra": (lambda tree: tree.pop("b"), "train/b/c is int32[7], and not there in the model"),
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_checkpoint_of_another_model_is_not_called_damaged(saved, how, caplog):
    change, says = CHANGES[how]
    with pytest.raises(MismatchError) as error:
        saved.restore(changed(change))
    assert error.value.exit_code == 5 and says in str(error.value)
    assert str(saved.folder / "3") in str(error.value) and "damaged" not in caplog.text
    assert "in config or code" in error.value.hint
    assert len(str(error.value).splitlines()) == 1


def test_all_that_differs_is_noted_for_debug(saved):
    def change(tree):
        CHANGES["wider"][0](tree)
        CHANGES["missing"][0](tree)

    with pytest.raises(MismatchError, match=r"train/a .*and 1 more array") as error:
        saved.restore(changed(change))
    assert error.value.__notes__ == [CHANGES["wider"][1] + "\n" + CHANGES["missing"][1]]


def test_a_checkpoint_of_another_version_names_it(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"ema": tree(1)}, {"vidgen": "0.0.7"})
    checkpoints.close()
    with pytest.raises(MismatchError) as error:
        checkpoints.restore(lambda meta: {"ema": {"a": jnp.zeros(3)}})
    assert "vidgen 0.0.7 saved it, and can read it" in error.value.hint
    with pytest.raises(StorageError, match="its layout is of another version") as error:
        checkpoints.restore(lambda meta: meta["generator"])
    assert "vidgen 0.0.7 saved it, and can read it" in error.value.hint

    def refuse(meta):
        raise ConfigError("the generator takes no 'blocks'", "leave it out")

    with pytest.raises(ConfigError, match="takes no 'blocks'") as error:
        checkpoints.restore(refuse)
    assert error.value.hint == "leave it out; vidgen 0.0.7 saved it, and can read it"


def test_what_made_a_checkpoint_unreadable_is_its_cause(saved):
    for step in (2, 3):
        (saved.folder / str(step) / "files.json").write_text("{")
    with pytest.raises(StorageError, match="no checkpoint verifies") as error:
        saved.restore(wanted)
    assert isinstance(error.value.__cause__.__cause__, ValueError)  # json's


def test_all_can_be_had_as_it_was_saved(saved):
    step, items, _ = saved.restore(None)
    assert step == 3 and set(items) == {"train", "ema"}
    jax.tree.map(np.testing.assert_array_equal, items["ema"], tree(3.5))


def old_and_new(**changes):
    """Returns what two versions keep of a config of transformers; the old one changed by name."""
    config = methods.base()
    config.generator = {"kind": "transformer", "width": 96, "heads": 4}
    now = {"config": configs.to_json(config), "fingerprint": "f"}
    saved = {"config": configs.to_json(config), "fingerprint": "f"}
    for name, value in changes.items():
        section, _, field = name.partition("__")
        if value is None:
            saved["config"][section].pop(field)
        else:
            saved["config"][section][field] = value
    return saved, now


def test_a_run_of_older_fields_goes_on(tmp_path):
    for changes in (
        {"training__gone": 3},  # this version has no such field
        {"data__short": None},  # that one had not yet: at its default, nothing has changed
        {"generator__gone": 5},
    ):
        artifacts.check_same(*old_and_new(**changes), tmp_path)
    saved, now = old_and_new(data__short=None)
    now["config"]["data"]["short"] = "loop"
    with pytest.raises(ConfigError, match=r"config.data.short was 'skip', is 'loop'"):
        artifacts.check_same(saved, now, tmp_path)


def test_a_fitted_run_of_before_goes_on_whose_config_had_the_networks_of_the_gan(tmp_path):
    config = methods.base("lookup")
    now = {"config": configs.to_json(config), "fingerprint": "f"}
    older = methods.base("gan")
    older.method = "lookup"
    older.training.kclips = config.training.kclips
    artifacts.check_same({"config": configs.to_json(older), "fingerprint": "f"}, now, tmp_path)
    older.seed = 1
    with pytest.raises(ConfigError, match=r"config.seed was 1, is 0"):
        artifacts.check_same({"config": configs.to_json(older), "fingerprint": "f"}, now, tmp_path)


def test_arguments_of_networks_have_the_defaults_of_the_networks(tmp_path):
    saved, now = old_and_new()
    now["config"]["generator"]["time_layers"] = 3  # an argument that the run does not name
    with pytest.raises(ConfigError, match=r"config.generator.time_layers was"):
        artifacts.check_same(saved, now, tmp_path)
    saved, now = old_and_new(generator__time_layers=3)  # that this start does not name
    with pytest.raises(ConfigError, match=r"config.generator.time_layers was 3"):
        artifacts.check_same(saved, now, tmp_path)
    saved, now = old_and_new(generator__width=64)
    with pytest.raises(ConfigError, match=r"config.generator.width was 64, is 96"):
        artifacts.check_same(saved, now, tmp_path)


def test_later_steps_are_set_aside_not_deleted(saved):
    saved.go_on_from(2)
    assert saved.steps() == [2]
    assert (saved.folder / "damaged-3-0").is_dir()
    saved.save(3, {"train": tree(9), "ema": tree(9)}, {"config": {"x": 1}})
    saved.close()
    _, items, _ = saved.restore(wanted)
    jax.tree.map(np.testing.assert_array_equal, items["train"], tree(9))


def test_a_step_that_was_half_deleted_is_deleted(saved):
    (saved.folder / "1").mkdir()
    saved.go_on_from(3)
    assert saved.steps() == [2, 3]


def test_the_digest_sees_values_types_shapes_and_names():
    base = {"a": np.zeros((2, 3), np.float32)}
    others = [
        {"b": np.zeros((2, 3), np.float32)},
        {"a": np.zeros((3, 2), np.float32)},
        {"a": np.zeros((2, 3), np.int32)},
        {"a": -np.zeros((2, 3), np.float32)},
    ]
    assert len({arrays_sha256(t) for t in (base, *others)}) == 5


def test_a_full_disk_is_one_line_and_the_older_checkpoint_stays_good(tmp_path):
    """A process that may not write files beyond 4 KB stands for a full disk."""
    import subprocess
    import sys

    code = f"""
import resource, signal, sys
import jax.numpy as jnp, numpy as np
from vidgen.runtime.checkpoint import Checkpoints
from vidgen.errors import StorageError
c = Checkpoints({str(tmp_path)!r}, keep=2)
big = {{"x": jnp.asarray(np.random.default_rng(0).normal(size=(256, 256)))}}
c.save(1, {{"s": big}}, {{}}); c.wait()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    c.save(2, {{"s": big}}, {{}}); c.wait()
except StorageError as error:
    print("refused:", error, "|", error.hint)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = [line for line in ran.stdout.splitlines() if line.startswith("refused:")]
    assert len(lines) == 1 and str(tmp_path) in lines[0], ran.stdout + ran.stderr
    again = Checkpoints(tmp_path)
    step, items, _ = again.restore(
        lambda meta: {"s": {"x": jax.ShapeDtypeStruct((256, 256), jnp.float32)}}
    )
    assert step == 1
    np.testing.assert_array_equal(
        items["s"]["x"], np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    )


# What somebody or a damaged disk has left among the checkpoints: none of these is a step.
STRAY = {
    "a word": "abc",
    "a sign": "-1",
    "a half": "4.5",
    "zeros": "00000000000000000000000001",
    "a padded step": "0000004",
    "too large": "9" * 20,
    "a power": "²",
    "another script": "٣",
    "no text": b"\xff\xfe",
    "no digit": "7 ",
    "a step to come": "4",
    "an unfinished save": "4.orbax-checkpoint-tmp",
}
LEFT = {
    "file": lambda path: path.write_bytes(b"x"),
    "folder": lambda path: path.mkdir(),
    "link to nothing": lambda path: path.symlink_to("/nowhere"),
    "link to a folder": lambda path: path.symlink_to("/usr"),
}


@pytest.mark.parametrize("what", LEFT)
@pytest.mark.parametrize("name", STRAY.values(), ids=STRAY)
def test_stray_names_are_no_steps_and_in_nobodys_way(saved, name, what, caplog):
    LEFT[what](saved.folder / os.fsdecode(name))
    damaged = name == "4" and "folder" in what  # a checkpoint without files
    assert saved.steps() == [2, 3, 4] if damaged else [2, 3]
    step, items, _ = saved.restore(wanted)
    jax.tree.map(np.testing.assert_array_equal, items["train"], tree(3))
    saved.go_on_from(step)
    saved.save(4, {"train": tree(4), "ema": tree(4)}, {"config": {"x": 1}})
    saved.close()
    step, items, _ = saved.restore(wanted)
    assert step == 4 and saved.steps()[-2:] == [3, 4]
    jax.tree.map(np.testing.assert_array_equal, items["train"], tree(4))
    assert len(caplog.records) <= 1, caplog.text


def test_a_file_in_place_of_all_checkpoints_is_named(tmp_path):
    (tmp_path / "checkpoints").write_text("x")
    with pytest.raises(StorageError, match="checkpoints is no folder"):
        Checkpoints(tmp_path / "checkpoints").steps()
