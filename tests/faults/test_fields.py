"""Every field of a config missing, misspelt, of a wrong type, out of range or contradictory."""

import os
import resource
import subprocess
import sys

import pytest
from conftest import tiny_config
from harness import ROOT

from vidgen import config as configs
from vidgen import methods
from vidgen.config import checks
from vidgen.config.fields import flat
from vidgen.errors import ConfigError

FIELDS = sorted(configs.flatten(tiny_config()))
CHOICES = {name: field.choices for name, field in flat(methods.sections("gan"))}
MODELS = ("generator.", "discriminator.")


def at(config, name):
    *path, last = name.split(".")
    for part in path:
        config = config[part]
    return config, last


def misspelt(name):
    """Two letters of the last part of a name change places."""
    head, dot, last = name.rpartition(".")
    return f"{head}{dot}{last[1]}{last[0]}{last[2:]}" if last[0] != last[1] else f"{name}s"


def without(config, name):
    holder, last = at(config, name)
    del holder[last]


def renamed(config, name):
    holder, last = at(config, name)
    value = holder[last]
    new = misspelt(last)
    holder[new] = value


def wrong_type(config, name):
    holder, last = at(config, name)
    with holder.ignore_type():
        holder[last] = 1.5 if isinstance(holder[last], (str, tuple, bool, int)) else "much"


def out_of_range(config, name):
    holder, last = at(config, name)
    value = holder[last]
    with holder.ignore_type():
        holder[last] = -7 if isinstance(value, int) else -7.5 if isinstance(value, float) else "?"


def refused(change, name):
    """Returns what the check of a config says of a change of one field, or "" if it takes it."""
    config = tiny_config()
    change(config, name)
    try:
        methods.validate(config)
        if name.startswith(MODELS):  # these are checked where the models are built
            methods.experiment(config, classes=2)
    except ConfigError as error:
        return f"{error} | {error.hint}"
    return ""


def check_field(name):
    """Checks all that can be wrong with a field."""
    said = refused(renamed, name)
    assert f"config.{name.rpartition('.')[0]}" in said and name.rpartition(".")[2] in said, said
    if not name.startswith(MODELS) or name.endswith(".kind"):
        assert f"config.{name} is missing" in refused(without, name)
    said = refused(wrong_type, name)
    assert f"config.{name}" in said, said
    config, last = at(tiny_config(), name)
    if not isinstance(config[last], (bool, str, tuple)) or CHOICES.get(name):
        said = refused(out_of_range, name)
        assert f"config.{name.rpartition('.start')[0] or name}" in said, said


@pytest.mark.parametrize("name", FIELDS)
def test_a_wrong_field_is_named(name):
    check_field(name)


CONTRADICTIONS = [
    ({"data.fps": 10.0, "data.stride": 2}, "data.stride"),
    ({"data.pick": 7}, "data.pick"),
    ({"parallel.dispatch": 2, "objective.penalty_interval": 2}, "objective.penalty_interval"),
    ({"parallel.dispatch": 3}, "training.kclips"),
    ({"data.background": (0, 0)}, "data.background"),
    ({"data.size": 20}, "generator.widths"),
    ({"data.pick": 0}, "discriminator.fold"),
    ({"discriminator.front": 3}, "discriminator.front"),
    ({"generator.periods": (2,)}, "generator.periods"),
]


@pytest.mark.parametrize(("values", "says"), CONTRADICTIONS)
def test_contradictions_are_named(values, says):
    def change(config, _):
        for name, value in values.items():
            holder, last = at(config, name)
            holder[last] = value

    said = refused(change, MODELS[0])
    assert f"config.{says}" in said, said


def check_command(*flags, says, seconds=2.0):
    """Checks what `vidgen train` says, when it does, and that no device was started for that."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run(
        [sys.executable, "-m", "vidgen", "train", "--config=configs/toy.py", "--workdir=x", *flags],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "none such"},  # whoever starts devices fails
        capture_output=True,
        text=True,
        timeout=60,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ran.returncode == 2, ran.stderr
    # What is read comes first, and what to do may come last.
    assert says in ran.stderr and len(ran.stderr.splitlines()) <= 3, ran.stderr
    # Seconds of the processor: others may be busy on this machine.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < seconds


@pytest.mark.faults
@pytest.mark.parametrize("name", FIELDS)
def test_the_command_ends_with_2_within_2_seconds(name):
    head, dot, _ = name.rpartition(".")
    wrong = f"{head}{dot}{misspelt(name).rpartition('.')[2]}"
    check_command(f"--config.{wrong}=1", says=f"there is no field config.{wrong}")


def test_the_command_refuses_before_devices_start():
    # How long that takes is the machine's matter here; the battery above holds it to 2 s.
    check_command("--config.training.batchsize=4", says="training.batch_size", seconds=60.0)


@pytest.mark.parametrize("sabotage", ["no check", "no name"])
def test_a_sabotaged_check_is_seen(monkeypatch, sabotage):
    if sabotage == "no check":
        monkeypatch.setattr(methods, "validate", lambda config: None)
    else:

        def nameless(*about):
            raise ConfigError("something is wrong")

        monkeypatch.setattr(checks, "check_type", nameless)
    with pytest.raises(AssertionError):
        check_field("training.batch_size")
