"""Values that nobody would mean: each is refused by name, before anything is built of it."""

import dataclasses

import jax
import pytest
from conftest import tiny_config

from vidgen import config as configs
from vidgen import methods, models
from vidgen.config import checks
from vidgen.config.fields import Field, flat
from vidgen.errors import ConfigError
from vidgen.run import artifacts, setup
from vidgen.runtime import devices

FAR = (2**31, 10**30, -(10**30), 1e39, -1e39, float("inf"), float("nan"))
ODD = (None, "x", b"x", (), ("a", "b", "c"), {}, {1: 2}, [[1]], 1j, True, 0.5)


def refused(config):
    try:
        methods.validate(config)
    except ConfigError:
        return True
    return False


def put(config, name, value):
    *path, last = name.split(".")
    for part in path:
        config = config[part]
    with config.ignore_type():
        config[last] = value


@pytest.mark.parametrize("method", methods.METHODS)
def test_a_field_takes_nothing_that_is_far_out_of_any_range(method):
    """Of every field of every section, those of networks among them."""
    fields = dict(flat(methods.sections(method)))
    for name, field in fields.items():
        number = isinstance(field.default, (int, float)) and not isinstance(field.default, bool)
        if not number or name == "seed":
            continue
        for value in FAR:
            config = methods.base(method)
            config.data.path = "toy"
            if "adversarial" in config.get("objective", {}):
                config.objective.adversarial = 0.1  # so that there is a discriminator
            put(config, name, value)
            if name == "data.limits.bytes" and value == 2**31:
                continue  # 2 GB are no absurd size of a file
            found = refused(config)  # in any case, without another error
            # A weight of 2^31 is odd, but a number like others.
            large = isinstance(field.default, float) and value in (2**31, 10**30)
            assert found or (large and not name.endswith("kclips")), (name, value)


@pytest.mark.parametrize("name", ["seed", "training.kclips", "data.background", "data.size"])
def test_a_value_of_another_kind_is_refused_without_a_traceback(name):
    for value in ODD:
        config = tiny_config()
        put(config, name, value)
        if name == "training.kclips" and value in (0.5, True):
            continue  # True becomes 1.0 where it is set
        assert refused(config), (name, value)


@pytest.mark.parametrize(
    "text",
    ["{[1]:2}", "(" * 5000 + ")" * 5000, "1e999", "1_", "\x00", "lambda: 0", "2**64"],
)
def test_text_that_is_no_literal_is_refused_and_not_shown_whole(text):
    for name in ("seed", "training.kclips", "generator.widths", "data.size"):
        with pytest.raises(ConfigError) as error:
            configs.override(tiny_config(), name, text)
        assert len(str(error.value)) < 200


def test_a_number_of_400_digits_is_refused():
    with pytest.raises(ConfigError, match=r"config\.training\.kclips"):
        configs.override(tiny_config(), "training.kclips", "9" * 400)


def whole_numbers(module):
    for field in dataclasses.fields(module):
        if type(field.default) is int and field.name not in models._GIVEN:
            yield field.name


NETWORKS = [
    (method, role, kind)
    for method in methods.METHODS
    for role in ("generator", "discriminator")
    for kind in methods.networks(role, method)
]


@pytest.mark.parametrize("method, role, kind", NETWORKS)
def test_a_network_of_size_zero_is_refused_or_can_be_made(method, role, kind):
    """Whatever passes the checks is drawn, by shapes alone."""
    module = methods.networks(role, method)[kind]
    for name in whole_numbers(module):
        config = methods.base(method)
        if role not in config:
            return
        config.data.path = "toy"
        if config[role].kind != kind:
            config[role] = {"kind": kind}
            methods.complete(config)
        if name not in config[role]:
            continue
        config[role][name] = 0
        if "adversarial" in config.get("objective", {}):
            config.objective.adversarial = 0.1  # so that there is a discriminator
        if refused(config) or methods.is_fitted(method):
            continue
        jax.eval_shape(methods.experiment(config, 2).init, 0)


SIZES = [
    ({"generator.widths": (2**20, 2**20)}, "network of .* parameters"),
    ({"generator.motion_layers": 257}, "generator.motion_layers is 257"),
    ({"discriminator.frame_blocks": 1000}, "discriminator.frame_blocks is 1000"),
    ({"generator.periods": (8,) * 65}, "generator.periods is"),
    ({"generator.stride": 2**20, "data.size": 64}, "1048576 frames of data.size=64 together"),
    ({"data.frames": 60_000, "data.stride": 2}, "data.frames is 60000, .* 119999 frames"),
    ({"data.frames": 2**15, "data.size": 512}, "data.frames is 32768"),
    ({"training.batch_size": 2**20, "data.frames": 1000}, "training.batch_size is 1048576"),
    ({"parallel.dispatch": 2**20, "training.batch_size": 1000}, "training.batch_size is 1000"),
    ({"sampling.frames": 2**20, "sampling.clips": 1000}, "sampling.frames is 1048576"),
    ({"sampling.fps": 0.01}, "sampling.fps is 0.01"),
    ({"data.fps": 1001.0}, "data.fps is 1001"),
    ({"data.workers": 10**6}, "data.workers is 1000000"),
    ({"optimizer.learning_rate.start": 1e20}, "learning_rate.start is 1e.20"),
]


@pytest.mark.parametrize("values, says", SIZES)
def test_sizes_that_no_machine_holds_are_refused_by_name(values, says):
    config = tiny_config()
    config.training.batch_size = 1
    for name, value in values.items():
        put(config, name, value)
    with pytest.raises(ConfigError, match=says) as refused:
        methods.validate(config)
        methods.experiment(config, 2)
    assert refused.value.hint


def test_a_generator_that_is_not_trained_is_made_before_clips_are_read():
    config = methods.base("untrained")
    config.data.path = "toy"
    config.generator.widths = (8, 8, 8, 8, 8, 8, 8)
    with pytest.raises(ConfigError, match=r"config\.generator\.widths has 7 levels"):
        methods.validate(config)


def test_a_state_larger_than_a_device_is_refused_before_clips_are_packed(monkeypatch, tmp_path):
    config = tiny_config()
    experiment = methods.experiment(config, 2)
    needed = setup.placement(config).bytes(jax.eval_shape(experiment.init, 0))
    assert needed > sum(x.nbytes for x in jax.tree.leaves(experiment.init(0).gen))
    monkeypatch.setattr(artifacts, "open_clips", None)
    monkeypatch.setattr(devices, "room", lambda device: needed - 1)
    with pytest.raises(ConfigError, match="the state of this training takes"):
        setup.setup(config, tmp_path)
    config.parallel.update(mode="mesh", fsdp=3)  # of eight devices
    with pytest.raises(ConfigError, match=r"config\.parallel\.fsdp is 3"):
        setup.setup(config, tmp_path)


def test_the_seed_is_one_that_every_generator_of_numbers_takes():
    config = tiny_config()
    config.seed = 2**32 - 1
    put(config, "data.size", (16, 32))  # a pair, which is no absurd value
    methods.validate(config)
    with pytest.raises(ConfigError) as error:
        checks.check("seed", 2**32, Field(0, "", least=0, most=2**32 - 1))
    assert "0 to 4294967295" in error.value.hint
