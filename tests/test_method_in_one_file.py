"""A method is one file, and one line of the registry: shown with one that vidgen does not have."""

import json
import pathlib

import jax
import numpy as np
import pytest

import vidgen
from vidgen import methods
from vidgen.cli import main
from vidgen.errors import ConfigError
from vidgen.run import train

HERE = pathlib.Path(__file__).parent


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.syspath_prepend(HERE / "examples")
    monkeypatch.setitem(methods.METHODS, "rectified_flow", "rectified_flow")


def config():
    made = methods.base("rectified_flow")
    made.data.update(path="toy:clips=256", frames=4, size=8)
    made.generator.update(width=16, steps=3)
    made.optimizer.learning_rate = {"start": 3e-3, "end": 3e-3, "kclips": 0.0}
    made.training.update(
        kclips=0.8, batch_size=16, ema_kclips=0.05, log_kclips=0.016, sample_kclips=0.0,
        save_kclips=0.4, watch_kclips=0.0,
    )  # fmt: skip
    made.sampling.update(frames=6, clips=2)
    return made


def test_it_trains_resumes_and_samples_with_its_own_option(registered, tmp_path, capsys):
    train.train(config(), tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["gen/loss"] for line in lines]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    end = vidgen.load(tmp_path / "run")
    whole = end.sample([0, 1], 9)
    np.testing.assert_array_equal(end.sample([1], 4, 5)[0], whole[1, 5:])

    # From the checkpoint in the middle, the same bits.
    half = tmp_path / "half" / "checkpoints"
    half.mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "25").rename(half / "25")
    train.train(config(), tmp_path / "half")
    jax.tree.map(np.testing.assert_array_equal, vidgen.load(tmp_path / "half").params, end.params)

    # Its option reaches Python and the command line by itself.
    more = vidgen.load(tmp_path / "run", steps=7)
    assert more.generator.steps == 7 and not np.array_equal(more.sample([0, 1], 9), whole)
    flags = ["--seeds=0:2", "--frames=9", "--format=npz", "--steps=7", f"--out={tmp_path}"]
    assert main.main(["sample", str(tmp_path / "run"), *flags]) == 0
    with np.load(tmp_path / "videos.npz") as data:
        np.testing.assert_array_equal(data["video"], more.sample([0, 1], 9))
    with pytest.raises(ConfigError, match="steps is 0"):
        vidgen.load(tmp_path / "run", steps=0)
    assert main.main(["sample", str(tmp_path / "run"), "--temperature=1"]) == 2
    assert "steps" in capsys.readouterr().err


def test_its_fields_are_checked_like_any_others(registered):
    for name, value, says in (
        ("power", 0.5, "config.objective.power is 0.5"),
        ("r1", {"start": 1.0, "end": 1.0, "kclips": 0.0}, "no field config.objective.r1"),
    ):
        made = config()
        made.objective[name] = value
        with pytest.raises(ConfigError, match=says):
            methods.validate(made)
    assert "of the distance that is minimised" in methods.describe(config())


def test_nothing_else_knows_of_it():
    """The method's own file apart, only the registry would name it, in one line."""
    root = HERE.parent / "vidgen"
    for method, module in methods.METHODS.items():
        name = f'"{method}": "{module}"'
        holders = [p for p in root.rglob("*.py") if name in p.read_text()]
        assert holders == [root / "methods" / "__init__.py"]
        assert sum(name in line for line in holders[0].read_text().splitlines()) == 1
