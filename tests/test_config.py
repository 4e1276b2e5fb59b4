import json
import pathlib

import pytest
from conftest import tiny_config

from vidgen import config as configs
from vidgen import methods, models
from vidgen.config.fields import flat
from vidgen.errors import ConfigError
from vidgen.methods import gan

ROOT = pathlib.Path(__file__).parents[1]


def test_the_tiny_config_is_valid():
    methods.validate(tiny_config())


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_every_config_file_is_valid_and_builds(path):
    from vidgen.cli import config_flags

    config = config_flags.read([f"--config={path}", "--config.data.path=somewhere"])
    assert methods.experiment(config, classes=4).total > 0


@pytest.mark.parametrize(
    "kind, named, left", [("heads", "width", "widest"), ("residual", "front", "neck")]
)
def test_a_network_gets_the_fields_that_its_config_left_out(tmp_path, kind, named, left):
    from vidgen.cli import config_flags

    file = tmp_path / "mine.py"
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "from vidgen.methods import base\n"
        "def get_config():\n"
        "    config = base()\n"
        "    config.data.path = 'toy'\n"
        "    config.discriminator = ConfigDict(SECTION)\n"
        "    return config\n".replace("SECTION", repr({"kind": kind, named: 24}))
    )
    config = config_flags.read([f"--config={file}", f"--config.discriminator.{left}=96"])
    assert config.discriminator[named] == 24 and config.discriminator[left] == 96
    assert set(config.discriminator) == set(models.fields(gan.DISCRIMINATORS, kind))


@pytest.mark.parametrize("pick, says", [(0, "data.frames is 6"), (2, "data.pick is 2")])
def test_frames_that_do_not_fold_are_refused_by_name(pick, says):

    config = tiny_config()
    config.data.pick = pick
    with pytest.raises(ConfigError, match=says):
        methods.experiment(config, classes=2)


def test_wrong_gaps_between_frames_that_are_not_picked_are_refused():
    config = tiny_config()
    config.data.update(frames=4, pick=0)
    config.objective.gap_mismatch.end = 0.1
    with pytest.raises(ConfigError, match=r"gap_mismatch has a weight, and .*pick is 0"):
        methods.experiment(config, classes=2)


def test_the_names_that_a_config_takes_are_those_that_there_are():
    from vidgen.runtime import devices
    from vidgen.training import augment, losses

    fields = dict(flat(methods.sections("gan")))
    assert set(fields["objective.loss"].choices) == set(losses.LOSSES)
    assert set(fields["objective.augmentations"].choices) == set(augment.AUGMENTATIONS)
    for mode in fields["parallel.mode"].choices:
        devices.place(mode, batch_size=8)


@pytest.mark.parametrize(
    "field, value, says",
    [
        ("data.path", "", "data.path is empty"),
        ("data.frames", 0, "1 to 1048576"),
        ("data.frames", "8", "a whole number"),
        ("data.pick", -1, "at least 0"),
        ("data.pick", 7, "data.frames=6"),
        ("data.crop", "centre", "center"),
        ("data.fps", -1.0, "0 to 1000"),
        ("data.background", (0, 0, 300), "0 to 255"),
        ("data.limits.seconds", 0.0, "0.1 to 1000000"),
        ("objective.loss", "hinges", "did you mean hinge"),
        ("optimizer.name", "adma", "did you mean adam"),
        ("objective.augmentations", ("shift", "flp"), "did you mean flip"),
        ("optimizer.b1", 1.0, "[0, 1)"),
        ("optimizer.learning_rate.start", float("nan"), "finite"),
        ("objective.r1.end", -1.0, "at least 0"),
        ("objective.augment_p.start", 1.5, "0 to 1"),
        ("training.batch_size", 0, "1 to 1048576"),
        ("training.batch_size", 8.5, "a whole number"),
        ("seed", True, "a whole number"),
        ("parallel.mode", "tpu", "one of"),
    ],
)
def test_a_wrong_value_is_refused_by_name(field, value, says):
    config = tiny_config()
    holder, _, name = field.rpartition(".")
    part = config
    for step in filter(None, holder.split(".")):
        part = part[step]
    with part.ignore_type():
        part[name] = value
    with pytest.raises(ConfigError) as error:
        methods.validate(config)
    assert f"config.{field}" in str(error.value)
    assert says in f"{error.value} {error.value.hint}"


def test_unknown_and_missing_fields_are_named():
    config = tiny_config()
    config.training.batchsize = 3
    with pytest.raises(ConfigError, match=r"training\.batchsize") as error:
        methods.validate(config)
    assert "training.batch_size" in error.value.hint
    config = tiny_config()
    del config.data.frames
    with pytest.raises(ConfigError, match=r"config\.data\.frames is missing"):
        methods.validate(config)


def test_stride_and_fps_exclude_each_other():
    config = tiny_config()
    config.data.update(fps=10.0, stride=2)
    with pytest.raises(ConfigError, match=r"data\.fps is 10.0 and config\.data\.stride is 2"):
        methods.validate(config)


def test_json_and_back_is_the_same_config():
    config = tiny_config()
    again = configs.from_json(json.loads(json.dumps(configs.to_json(config))))
    assert list(configs.differences(config, again)) == []
    methods.validate(again)
    again.training.batch_size = 99
    assert list(configs.differences(config, again)) == [("training.batch_size", 8, 99)]


def test_durations_in_clips_are_converted_to_steps():
    assert configs.steps(1.0, 8) == 125
    assert configs.steps(1.0, 16) == 62
    assert configs.steps(0.001, 64) == 1
