"""What every method that is trained must do; a new one is one more line."""

import dataclasses
import functools
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    TINY_CODES_GENERATOR,
    TINY_FLOW_GENERATOR,
    TINY_GENERATOR,
    TINY_HEADS,
    TINY_TRANSFORMER_DISCRIMINATOR,
    TINY_TRANSFORMER_GENERATOR,
    tiny_config,
)
from ml_collections import ConfigDict
from programs import keep_programs

from vidgen import config as configs
from vidgen import methods, sampling
from vidgen.config import checks
from vidgen.config.fields import FITTED, TRAINED, flat
from vidgen.errors import ConfigError
from vidgen.frame_size import height_width
from vidgen.models.protocol import example_noise
from vidgen.run import artifacts, setup, train, warm_start
from vidgen.runtime import devices
from vidgen.runtime.checkpoint import Checkpoints
from vidgen.sampling import edit

WIDE = (8, 16)  # frames that are no squares, where a method takes them; others are of squares


def gan_with_options():
    """The GAN with all that a step may have beside the default."""
    config = tiny_config()
    config.data.size = WIDE  # one level: most of the time goes into compiling
    config.generator.widths = config.discriminator.widths = (8,)
    config.objective.update(spectral=True, discriminator_steps=2)
    config.optimizer.update(clip=1.0, l2=1e-4)
    return config


def heads():
    """Heads on pixels and features of groups of clips in looks, penalties at every other step."""
    config = tiny_config()
    config.data.update(size=WIDE, looks=2)
    config.generator.widths = (8,)
    config.discriminator = ConfigDict({"kind": "heads", **TINY_HEADS, "scales": (1,), "taps": (4,)})
    config.objective.penalty_interval = 2
    config.objective.mismatch = configs.constant(0.5)
    config.objective.gap_mismatch = configs.constant(0.5)
    return config


CONDITIONS = {
    "caption": {"most": 6, "width": 8, "heads": 2},
    "frames": {"modes": ("first", "hole"), "width": 4},
    "video": {"scale": 2, "noise": 2.0, "width": 4, "drop": 0.2},
}


def told():
    """Heads told captions, known pixels and a poorer video, with distances to the clips."""
    config = tiny_config()
    config.data.update(size=WIDE, labels="none")
    config.generator.widths = (8,)
    config.discriminator = ConfigDict({"kind": "heads", **TINY_HEADS, "scales": (1,)})
    config.conditions = ConfigDict(CONDITIONS)
    methods.complete(config)
    config.objective.update(l1=1.0, mse=0.5)
    config.objective.mismatch = configs.constant(0.5)
    return config


def transformer():
    """Transformers, with penalties by finite differences."""
    config = tiny_config()
    config.data.size = WIDE
    config.generator = ConfigDict({"kind": "transformer", **TINY_TRANSFORMER_GENERATOR})
    config.discriminator = ConfigDict({"kind": "transformer", **TINY_TRANSFORMER_DISCRIMINATOR})
    config.objective.penalty_sigma = 0.1
    return config


def mocogan():
    config = methods.base("mocogan")
    config.data.update(path="toy:clips=64", frames=8, size=16)
    config.generator.update(features=4, norm_clips=4)
    config.discriminator.update(features=4, norm_clips=4)
    config.objective.clip_every = 2
    config.training.update(
        kclips=0.032, batch_size=8, log_kclips=0.008, sample_kclips=0.0, save_kclips=0.016
    )
    config.sampling.update(frames=6, clips=2)
    return config


def dcgan():
    config = methods.base("dcgan")
    config.data.update(path="toy:clips=64", frames=4, size=8)
    config.generator.update(features=4, content=8, norm_clips=4)
    config.discriminator.update(features=4, norm_clips=4)
    config.objective.update(discriminator_steps=2, spectral=True)
    config.training.update(
        kclips=0.032, batch_size=8, log_kclips=0.008, sample_kclips=0.0, save_kclips=0.016
    )
    config.sampling.update(frames=4, clips=2)
    return config


def vae():
    """The autoencoder with a discriminator, both told all that they can be."""
    config, tiny = methods.base("vae"), tiny_config()
    for section in ("training", "sampling"):
        config[section] = tiny[section]
    config.data.update(path="toy:clips=512", frames=6, pick=4, size=WIDE)
    config.generator.update({n: v for n, v in TINY_GENERATOR.items() if n != "periods"})
    config.generator.update(widths=(8,), encoder_widths=(8,), features=8)
    config.discriminator = ConfigDict({"kind": "heads", **TINY_HEADS, "scales": (1,)})
    config.conditions = ConfigDict(CONDITIONS)
    methods.complete(config)
    config.objective.adversarial = 0.1
    return config


def codes():
    """Codes told captions; the checkpoint in the middle lies between the phases."""
    config = methods.base("autoregressive")
    config.conditions = ConfigDict({"caption": CONDITIONS["caption"]})
    methods.complete(config)
    config.data.update(path="toy:clips=64", frames=5, size=WIDE, pick=2)
    config.generator.update(TINY_CODES_GENERATOR)
    config.objective.codec_kclips = 0.016
    config.training.update(
        kclips=0.032, batch_size=8, log_kclips=0.008, sample_kclips=0.0, save_kclips=0.016
    )
    config.sampling.update(frames=6, clips=2)
    return config


def flow():
    """Flow told all that it can be; its codec's critic begins late, phases meet at a checkpoint."""
    config = methods.base("flow")
    told = {"caption": CONDITIONS["caption"], "frames": {"whole": True}}
    config.conditions = ConfigDict(told)
    methods.complete(config)
    config.data.update(path="toy:clips=64", frames=4, size=WIDE, pick=2)
    config.generator.update(TINY_FLOW_GENERATOR)
    config.discriminator.update({**TINY_HEADS, "scales": (1,), "taps": ()})
    config.objective.update(codec_kclips=0.016, perceptual=1.0)
    config.objective.update(adversarial=0.1, adversarial_kclips=0.008)
    config.training.update(
        kclips=0.032, batch_size=8, log_kclips=0.008, sample_kclips=0.0, save_kclips=0.016
    )
    config.sampling.update(frames=6, clips=2)
    return config


def one_step():
    """Post-training, here of a flow that has learnt nothing; without what `heads` has already."""
    config = flow()
    made = methods.base("one_step")
    made.conditions = ConfigDict({"caption": config.conditions.caption.to_dict()})
    for section in ("data", "training", "sampling"):
        made[section].update(config[section].to_dict())
    made.generator.update({**TINY_FLOW_GENERATOR, "steps": 1, "chunk": 2, "margin": 2})
    made.discriminator = ConfigDict({"kind": "heads", **TINY_HEADS, "scales": (1,), "taps": ()})
    made.objective.distil_kclips = 0.008
    return made


FAMILIES = {
    "gan": gan_with_options,
    "heads": heads,
    "told": told,
    "transformer": transformer,
    "mocogan": mocogan,
    "dcgan": dcgan,
    "vae": vae,
    "codes": codes,
    "flow": flow,
    "one_step": one_step,
}


SQUARE = {name for name in methods.METHODS if vars(methods.load(name)).get("SQUARE")}
FITTED_METHODS = [name for name in methods.METHODS if methods.is_fitted(name)]


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def run(config, steps, mode="jit", count=1, **more):
    """Trains without a loop; returns the state and each step's metrics."""
    clips = artifacts.open_clips(config)[1]
    experiment = methods.experiment(config, clips.labels)
    placed = devices.place(mode, batch_size=8, devices=jax.devices()[:count], **more)
    abstract = placed.abstract(jax.eval_shape(experiment.init, 0))
    state, programs, seen = placed.init(experiment.init, 0), {}, []
    for at in range(steps):
        kind = experiment.kind(at)
        if kind not in programs:
            programs[kind] = placed.compile(experiment.steps[kind], abstract)
        batch = setup.conditioned(experiment, clips.take(8 * at, 8))
        state, metrics = programs[kind](state, placed.put(batch))
        seen.append({name: float(value) for name, value in metrics.items()})
    return state, seen


def begin(config, folder):
    """Makes the run that a training has to begin from, as it is at its start; None for none."""
    if warm_start.begins_from(config) is None:
        return None
    start = jax.jit(methods.experiment(config, 2).init, static_argnums=0)(config.seed)
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(1, {"ema": start.ema}, {})
    checkpoints.close()
    return folder


@functools.cache
def trained(family, *placement):
    config = FAMILIES[family]()
    config.optimizer.name = "sgd"  # Adam makes a whole step of a difference in the last bit
    return run(config, 3, *placement)  # the third may be of another phase


def test_a_family_computes_in_bfloat16_and_keeps_float32(family):
    config = FAMILIES[family]()
    config.parallel.compute = "bfloat16"
    clips = artifacts.open_clips(config)[1]
    experiment = methods.experiment(config, clips.labels)
    state = jax.eval_shape(experiment.init, 0)
    batch = devices.numeric(setup.conditioned(experiment, clips.take(0, 8)))
    for kind, step in experiment.steps.items():
        after, metrics = jax.eval_shape(step, state, batch)
        same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), after, state)
        assert all(jax.tree.leaves(same)), (kind, same)
        assert all(x.dtype == jnp.float32 for x in metrics.values())
    gen = methods.generator({"generator": experiment.generator})
    noise = example_noise(gen, 4)
    made = jax.eval_shape(lambda p: gen.apply({"params": p}, *noise, frames=4), state.ema)
    assert made.dtype == jnp.float32 and gen.dtype == "bfloat16"


# pmap is built on the same shard_map as mesh, and each family compiles for half a minute.
@pytest.mark.parametrize("mode", ["mesh", pytest.param("pmap", marks=pytest.mark.thorough)])
def test_two_devices_compute_what_one_does(family, mode):
    _, one = trained(family)
    _, two = trained(family, mode, 2)
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys() and not a["skipped"]
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=2e-4, atol=1e-5, err_msg=name)


def test_a_run_that_was_stopped_goes_on_with_the_same_bits(family, tmp_path, monkeypatch):
    keep_programs(monkeypatch)
    config = FAMILIES[family]()
    train.train(config, tmp_path / "whole", init_from=begin(config, tmp_path / "before"))
    config.training.kclips = 0.016
    state = run(config, 2)[0]
    first = Checkpoints(tmp_path / "whole" / "checkpoints", 3)
    abstract = jax.eval_shape(lambda: state)
    wanted = lambda meta: {"train": abstract.replace(ema=None), "ema": abstract.ema}  # noqa: E731
    at, items, _ = first.restore(wanted, 2)
    assert at == 2
    parts = (items["train"], items["ema"]), (state.replace(ema=None), state.ema)
    jax.tree.map(np.testing.assert_array_equal, *parts)
    # The second half alone, from the checkpoint in the middle.
    shutil.copytree(tmp_path / "whole" / "checkpoints" / "2", tmp_path / "half/checkpoints/2")
    train.train(FAMILIES[family](), tmp_path / "half")
    ends = [
        Checkpoints(tmp_path / name / "checkpoints").restore(wanted)[1]
        for name in ("whole", "half")
    ]
    jax.tree.map(np.testing.assert_array_equal, *ends)


def sampled(config, folder):
    """Trains a run and samples it: frames of its size, and windows that agree to the bit."""
    train.train(config, folder, init_from=begin(config, folder / "before"))
    sampler = sampling.load(folder)
    frames = sampler.limit or 23
    video = sampler.sample([0, 1], frames - 3, 3)
    assert video.shape == (2, frames - 3, *height_width(config.data.size), 3)
    np.testing.assert_array_equal(video[1:, -1:], sampler.sample([1], 1, frames - 1))
    edited(sampler)
    return sampler


def edited(sampler):
    """Edits latents: all but what a family says that it cannot."""
    frames = sampler.limit or sampler.chunk
    latents, video = sampler.latents([0, 1], frames), sampler.sample([0, 1], frames)
    other = edit.take(latents, [1, 0])
    swapped = edit.swap(latents, other, ("content", "motion", "class"))
    np.testing.assert_array_equal(sampler.decode(swapped, frames), video[::-1])
    near = edit.vary(edit.truncate(latents, 0.9), other, 0.1)
    assert sampler.decode(near, frames).shape == video.shape
    backwards = np.arange(frames)[::-1]
    np.testing.assert_array_equal(sampler.sample_at([0, 1], backwards), video[:, backwards])
    generator = sampler.generator
    if generator.classes:
        one_hot = np.eye(generator.classes, dtype=np.float32)[latents["label"]]
        weighed = {**latents, "label": one_hot}
        if generator.between_classes:
            made = sampler.decode(weighed, frames).astype(int)
            assert np.abs(made - video).max() <= 1
        else:
            with pytest.raises(ConfigError, match="no videos between classes"):
                sampler.decode(weighed, frames)
    if "loop" in generator.sampling_options and not generator.recurrent:
        looped = dataclasses.replace(sampler, generator=generator.clone(loop=2 * sampler.chunk))
        endless = looped.sample([0], 4 * sampler.chunk)
        np.testing.assert_array_equal(
            endless[:, 2 * sampler.chunk :], endless[:, : -2 * sampler.chunk]
        )
    if generator.recurrent:
        with pytest.raises(ConfigError, match="is not inverted"):
            sampling.invert(sampler, video)


def test_a_run_is_sampled_by_its_path(family, tmp_path, monkeypatch):
    keep_programs(monkeypatch)
    config = FAMILIES[family]()
    config.training.kclips = 0.016
    sampler = sampled(config, tmp_path)
    classes = artifacts.open_clips(config)[1].labels
    start = jax.jit(methods.experiment(config, classes).init, static_argnums=0)(0)
    trees = zip(*(jax.tree.leaves(tree) for tree in (sampler.params, start.ema)), strict=True)
    assert any((a != b).any() for a, b in trees)


def test_families_are_of_frames_that_are_no_squares():
    """But where a method takes squares alone."""
    for make in FAMILIES.values():
        config = make()
        assert (config.data.size == WIDE) == (config.method not in SQUARE)


@pytest.mark.parametrize("name", FITTED_METHODS)
def test_what_is_fitted_is_sampled_in_frames_that_are_no_squares(name, tmp_path):
    config = methods.base(name)
    config.data.update(path="toy:clips=64", frames=6, size=WIDE)
    config.training.kclips = 0.032
    config.sampling.update(frames=6, clips=2)
    if name == "untrained":
        config.generator.update(TINY_GENERATOR, widths=(8,))
    sampled(config, tmp_path)


@pytest.mark.parametrize("name", [n for n in FAMILIES if FAMILIES[n]().method not in SQUARE])
def test_networks_make_and_judge_frames_that_are_high(name):
    """By shapes alone: a step of the whole training, and a window of the generator."""
    config = FAMILIES[name]()
    config.data.size = size = (24, 16)
    if name == "transformer":
        config.generator.grid = 4
    methods.validate(config)
    experiment = methods.experiment(config, 2)
    state = jax.eval_shape(experiment.init, 0)
    batch = {"index": np.zeros(8, np.int32), "label": np.zeros(8, np.int32)}
    batch["video"] = np.zeros((8, config.data.frames, *size, 3), np.uint8)
    for step in experiment.steps.values():
        after, _ = jax.eval_shape(step, state, batch)
        assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(lambda x: x.shape, state)
    gen = methods.generator({"generator": experiment.generator})
    noise = example_noise(gen, 3)
    made = jax.eval_shape(lambda p: gen.apply({"params": p}, *noise, frames=3), state.ema)
    assert made.shape == (1, 3, *size, 3)


@pytest.mark.parametrize("method", sorted(SQUARE))
def test_networks_of_squares_refuse_a_pair(method):
    config = methods.base(method)
    config.data.update(path="toy", size=(16, 32))
    with pytest.raises(ConfigError, match=r"config\.data\.size is \(16, 32\)") as error:
        methods.validate(config)
    listed = set(error.value.hint.partition(": ")[2].split(", "))
    assert listed == set(methods.METHODS) - SQUARE and "gan" in listed
    config.data.size = (32, 32)
    methods.validate(config)
    assert config.data.size == 32


@pytest.mark.parametrize("method", methods.METHODS)
def test_no_method_takes_a_field_of_another(method):
    """A field that nothing reads is refused: every field of all other methods, one by one."""
    config = methods.base(method)
    config.data.path = "toy"
    methods.validate(config)
    fields = dict(flat(methods.sections(method)))
    foreign = {
        name: field.default
        for other in methods.METHODS
        for name, field in flat(methods.sections(other))
        if name not in fields and not name.startswith(checks.NETWORKS)
    }
    assert foreign
    for name, value in foreign.items():
        config = methods.base(method)
        config.data.path = "toy"
        *path, last = name.split(".")
        section = config
        for part in path:
            if part not in section:
                section[part] = {}
            section = section[part]
        section[last] = value
        with pytest.raises(ConfigError, match=f"there is no field config.{re.escape(name)}$"):
            methods.validate(config)


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_field_of_a_method_is_read(method):
    """Reading is noted while clips are opened, and networks and steps made of the config."""
    config = methods.base(method)
    config.data.path = "toy"
    if "adversarial" in config.get("objective", {}):
        config.objective.adversarial = 0.1  # so that there is a discriminator
    if "mismatch" in config.get("objective", {}):
        config.objective.mismatch.start = config.objective.gap_mismatch.start = 0.1
        config.data.pick = 4
    shared = FITTED if methods.is_fitted(method) else TRAINED
    own = {name for name, _ in flat(methods.load(method).FIELDS)} - {n for n, _ in flat(shared)}
    read = set()
    if methods.is_fitted(method):
        read |= {name for name in own if name.startswith("generator.")}  # handed over whole
    else:
        artifacts.open_clips(Reading(config, read))
        methods.experiment(Reading(config, read), 2)
    assert own and not own - read


class Reading:
    """A config that notes which of its fields are read."""

    def __init__(self, config, read, prefix=""):
        self._config, self._read, self._prefix = config, read, prefix

    def __getitem__(self, name):
        value, full = self._config[name], self._prefix + name
        if isinstance(value, ConfigDict):
            return Reading(value, self._read, f"{full}.")
        self._read.add(full)
        return value

    __getattr__ = __getitem__

    def __contains__(self, name):
        return name in self._config

    def keys(self):
        return self._config.keys()

    def get(self, name, default):
        if name not in self:
            return default
        return self[name]

    def to_dict(self):
        self._read |= {self._prefix + name for name in configs.flatten(self._config)}
        return self._config.to_dict()


@pytest.mark.parametrize("role", ["generator", "discriminator"])
def test_no_method_takes_a_network_of_another(role):
    for family, other in (("gan", "mocogan"), ("mocogan", "residual")):
        config = FAMILIES[family]()
        config[role].kind = other
        with pytest.raises(ConfigError, match=rf"config\.{role}\.kind is '{other}'") as error:
            methods.validate(config)
        assert "one of" in error.value.hint


def test_what_cannot_be_computed_again_is_named():
    config = mocogan()
    config.parallel.remat = ("discriminator",)
    with pytest.raises(ConfigError, match=r"config\.parallel\.remat names 'discriminator'"):
        methods.experiment(config, 2)


def test_the_generator_stays_while_the_discriminator_is_trained_alone():
    config = gan_with_options()
    experiment = methods.experiment(config, 2)
    assert [experiment.kind(at) for at in range(4)] == ["dis", "whole", "dis", "whole"]
    config.objective.penalty_interval = 2
    experiment = methods.experiment(config, 2)
    assert [experiment.kind(at) for at in range(4)] == ["dis", "bare", "dis", "bare"]
    init = jax.jit(experiment.init, static_argnums=0)(0)
    config.objective.penalty_interval = 1
    state, seen = run(config, 1)
    jax.tree.map(np.testing.assert_array_equal, (state.gen, state.ema), (init.gen, init.ema))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.dis, init.dis)
    assert any(jax.tree.leaves(moved)) and "gen/loss" not in seen[0]


def test_statistics_of_the_whole_batch_need_it_on_one_device():
    config = mocogan()
    config.generator.norm_clips = 0
    config.parallel.mode = "mesh"
    experiment = methods.experiment(config, 2)
    with pytest.raises(ConfigError, match="8 parts") as error:
        setup.placement(config, experiment.together)
    assert "at most 1" in error.value.hint
    config.parallel.mode = "jit"
    assert setup.placement(config, experiment.together).parts == 1


@pytest.mark.parametrize(
    "section, field, value, says",
    [
        ("data", "frames", 6, "at least 7"),
        ("objective", "loss", "bce", "one of"),
    ],
)
def test_what_mocogan_cannot_take_is_named(section, field, value, says):
    config = mocogan()
    config[section][field] = value
    with pytest.raises(ConfigError) as error:
        methods.validate(config)
        methods.experiment(config, 2)
    assert f"config.{section}.{field}" in str(error.value) and says in error.value.hint
