"""Every placement computes the same training; the deterministic one, the same bits."""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import tiny_config

from vidgen import methods
from vidgen.errors import ConfigError
from vidgen.models import layers
from vidgen.run import artifacts
from vidgen.runtime.devices import numeric, place
from vidgen.runtime.digests import arrays_sha256
from vidgen.training import averaging

STEPS = 30


def smooth(x):
    """Applies a leaky ReLU without a kink.

    At a kink the last bit of a feature decides about a gradient, and the penalties, which look at
    gradients, jump with it.
    """
    return 0.2 * x + 0.8 * jax.nn.softplus(x)


@pytest.fixture(autouse=True)
def smooth_networks(monkeypatch):
    monkeypatch.setattr(layers, "leaky_relu", smooth)


def settings(optimizer="sgd"):
    config = tiny_config()
    config.data.size = 8  # one level: most of the time goes into compiling
    config.generator.widths = config.discriminator.widths = (8,)
    # Adam divides a gradient by its size: what differs in the last bit near zero becomes a whole
    # step to the other side. For bits, where nothing may differ, it is Adam.
    config.optimizer.name = optimizer
    if optimizer == "sgd":
        config.optimizer.learning_rate.update(start=3e-3, end=3e-3)
    config.objective.augmentations = ("shift", "brightness")
    config.objective.augment_p.update(start=0.5, end=0.5)
    config.objective.mismatch.update(start=0.5, end=0.5)
    return config


@functools.cache
def clips():
    stream = artifacts.open_clips(settings())[1]
    return [numeric(stream.take(8 * at, 8)) for at in range(STEPS)]


@functools.cache
def trained(mode, devices=1, steps=STEPS, interval=1, remat=(), **more):
    config = settings("adam" if "shards" in more else "sgd")
    config.objective.penalty_interval = interval
    config.parallel.remat = remat
    experiment = methods.experiment(config, classes=2)
    placed = place(mode, batch_size=8, devices=jax.devices()[:devices], **more)
    abstract = placed.abstract(jax.eval_shape(experiment.init, 0))
    state = placed.init(experiment.init, 0)
    calls = more.get("dispatch", 1)
    programs = [placed.compile(f, abstract) for f in list(experiment.steps.values())[:interval]]
    seen = []
    for at in range(0, steps, calls):
        batch = clips()[at]
        if calls > 1:
            some = clips()[at : at + calls]
            batch = {name: np.stack([b[name] for b in some]) for name in batch}
        state, metrics = programs[at % interval != 0](state, placed.put(batch))
        metrics = jax.device_get(metrics)
        seen += [{n: np.atleast_1d(v)[k] for n, v in metrics.items()} for k in range(calls)]
    return state, {name: np.array([line[name] for line in seen]) for name in seen[0]}


def close(one, two):
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-5, atol=1e-6, err_msg=name)


thorough = functools.partial(pytest.param, marks=pytest.mark.thorough)


@pytest.mark.parametrize(
    "mode, devices, more",
    [
        ("mesh", 4, {"fsdp": 2, "microbatches": 2}),
        ("pmap", 8, {}),
        thorough("jit", 1, {"dispatch": 2}),
        thorough("jit", 1, {"remat": ("generator", "discriminator")}),
        thorough("mesh", 2, {}),
        thorough("mesh", 8, {}),
        thorough("mesh", 4, {}),
        thorough("pmap", 2, {}),
        thorough("pmap", 4, {}),
        thorough("mesh", 8, {"fsdp": 8}),
        thorough("jit", 1, {"microbatches": 4}),
        thorough("pmap", 2, {"microbatches": 2}),
        thorough("jit", 1, {"dispatch": 3}),
    ],
    ids=str,
)
def test_every_placement_computes_the_same_losses(mode, devices, more):
    close(trained(mode, devices, **more)[1], trained("jit")[1])


@pytest.mark.parametrize("mode, devices", [("pmap", 8), thorough("jit", 1), thorough("mesh", 8)])
def test_the_same_path_twice_gives_the_same_bits(mode, devices):
    first = arrays_sha256(trained(mode, devices)[0])
    trained.cache_clear()
    assert arrays_sha256(trained(mode, devices)[0]) == first


@pytest.mark.parametrize(
    "mode, devices, shards",
    [
        ("mesh", 2, 2),
        thorough("mesh", 2, 4),
        thorough("mesh", 4, 4),
        thorough("pmap", 4, 4),
        thorough("mesh", 2, 8),
        thorough("mesh", 4, 8),
        thorough("mesh", 8, 8),
        thorough("pmap", 8, 8),
    ],
)
def test_deterministic_bits_do_not_depend_on_the_devices(mode, devices, shards):
    expected = arrays_sha256(trained("jit", 1, 5, shards=shards)[0])
    assert arrays_sha256(trained(mode, devices, 5, shards=shards)[0]) == expected


def test_deterministic_losses_are_those_of_the_plain_step():
    ordered = trained("mesh", 2, 5, shards=2)[1]
    # The first step: after it, Adam has made different steps of last bits.
    for name in ("dis/loss", "dis/grad", "dis/mismatch", "dis/r1", "dis/r2", "dis/real"):
        np.testing.assert_allclose(ordered[name][0], trained("jit")[1][name][0], rtol=1e-5)


def test_the_state_is_never_stacked():
    one, many = (jax.tree.map(np.shape, trained(*how)[0]) for how in (("jit", 1), ("pmap", 8)))
    assert one == many


def test_large_leaves_are_sharded_and_small_ones_whole():
    placed = place("mesh", batch_size=8, fsdp=4)
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, np.float32)  # noqa: E731
    tree = {
        "kernel": shape(3, 3, 64, 128), "bias": shape(128), "step": shape(),
        "first": shape(512, 64), "odd": shape(129, 131),
    }  # fmt: skip
    spec = {name: tuple(s.spec) for name, s in placed.shardings(tree).items()}
    assert spec == {
        "kernel": (None, None, None, "fsdp"), "bias": (), "step": (),
        "first": ("fsdp",), "odd": (),
    }  # fmt: skip


def test_a_sharded_state_is_made_in_shards():
    config = settings("adam")
    config.generator.widths, config.generator.style = (64,), 256
    experiment = methods.experiment(config, classes=2)
    placed = place("mesh", batch_size=8, fsdp=8)
    state = placed.init(experiment.init, 0)
    kernel = state.gen["layout"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 8
    moment = state.gen_opt.inner_state[0].nu["layout"]["kernel"]
    assert moment.sharding == kernel.sharding == state.ema["layout"]["kernel"].sharding
    whole = jax.jit(experiment.init, static_argnums=0)(0)
    np.testing.assert_allclose(np.asarray(kernel), whole.gen["layout"]["kernel"], rtol=1e-6)


@pytest.mark.thorough
def test_lazy_penalties_are_computed_at_their_interval():
    r1 = trained("jit", 1, 6, interval=3)[1]["dis/r1"]
    assert [bool(v) for v in r1] == [True, False, False, True, False, False]


@pytest.mark.parametrize("how", ["parts", "loop", "ordered"])
def test_parts_of_a_batch_average_to_the_whole(how):
    batch = {"x": jax.numpy.arange(12.0).reshape(12, 1)}
    seen = []

    def function(batch, kept):
        seen.append(kept)
        return {"mean": batch["x"].mean(), "shape": batch["x"].shape[0] * 1.0}, batch["x"].sum()

    run = functools.partial(averaging.mean, function, batch, **{how: True, "parts": 3})
    result, kept = run()
    assert float(result["mean"]) == 5.5 and result["shape"] == 4.0
    if how == "loop":  # it is there to save the memory of what would be kept
        assert kept is None
        return
    assert [float(k) for k in kept] == [6.0, 22.0, 38.0]
    run(kept=kept)
    assert [float(k) for k in seen[-3:]] == [float(k) for k in kept]


def test_each_device_keeps_what_is_its_own():
    mesh = place("mesh", batch_size=16).mesh
    batch = {"x": jax.numpy.arange(16.0)}
    factor = jax.numpy.full((3,), 2.0)

    def first(batch, kept):
        assert kept is None
        return batch["x"].mean() * factor, {"clips": batch["x"], "all": batch["x"].sum()}

    def second(batch, kept):
        return jax.numpy.abs(kept["clips"] - batch["x"]).max() + kept["all"], None

    result, kept = jax.jit(functools.partial(averaging.mean, first, mesh=mesh))(batch)
    assert result.tolist() == [15.0] * 3
    result, _ = jax.jit(functools.partial(averaging.mean, second, mesh=mesh))(batch, kept)
    assert float(result) == 15.0  # no clip met another, and sums of two average to this


@pytest.mark.parametrize(
    "arguments, match, hint",
    [
        ({"mode": "mesh", "batch_size": 12}, "batch_size is 12, not a multiple of 8", "16"),
        ({"mode": "tpu", "batch_size": 8}, "'tpu'", "jit, mesh, pmap"),
        ({"mode": "mesh", "batch_size": 8, "fsdp": 3}, "fsdp is 3", "1, 2, 4, 8"),
        ({"mode": "pmap", "batch_size": 8, "fsdp": 2}, "fsdp is 2", "mode=mesh"),
        ({"mode": "pmap", "batch_size": 16, "dispatch": 2}, "dispatch is 2", "mode=mesh"),
        ({"mode": "mesh", "batch_size": 8, "shards": 4}, "shards is 4", "8"),
        ({"mode": "mesh", "batch_size": 12, "shards": 8}, "multiple of 8", "16"),
        ({"mode": "mesh", "batch_size": 8, "microbatches": 2}, "times config.parallel", "16"),
        ({"mode": "jit", "batch_size": 8, "shards": 8, "microbatches": 2}, "microb", "shards"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(arguments, match, hint):
    with pytest.raises(ConfigError, match=match) as error:
        place(**arguments)
    assert hint in error.value.hint


TWO = """
import sys; sys.path.insert(0, "tests")
import conftest, jax
from vidgen.runtime import cluster
cluster.connect()
import numpy as np, test_parallel as t
from vidgen import methods
from vidgen.runtime.devices import place
from vidgen.run import setup
from vidgen.runtime.digests import arrays_sha256
mode, more = sys.argv[1], eval(sys.argv[2])
t.layers.leaky_relu = t.smooth
config = t.settings("adam" if "shards" in more else "sgd")
experiment = methods.experiment(config, classes=2)
placed = place(mode, batch_size=8, **more)
assert placed.host == (jax.process_index(), 2) and placed.mesh.size == jax.device_count()
state = placed.init(experiment.init, 0)
rows = slice(4 * jax.process_index(), 4 * jax.process_index() + 4)
batches = []
for batch in t.clips()[:5]:
    batch = {name: values[rows] for name, values in batch.items()}
    batches.append(placed.put({**batch, "stop": np.full(4, jax.process_index(), np.int32)}))
step = placed.compile(experiment.step, state, batches[0])
cluster.meet("first step")
for batch in batches:
    state, metrics = step(state, batch)
    assert float(metrics["stop"]) == 1.0
print(arrays_sha256(state), *(float(metrics[n]).hex() for n in ("dis/loss", "gen/loss", "dis/r1")))
"""


def two_processes(mode, devices, **more):
    """Trains five steps on two processes with some devices each; returns what both print."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    common = {
        **os.environ, "XLA_FLAGS": flags, "VIDGEN_PROCESSES": "2",
        # As many threads as here, with eight devices: how XLA splits a product depends on them.
        "NPROC": "8",
        "VIDGEN_COORDINATOR": f"127.0.0.1:{port}",
    }  # fmt: skip
    both = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, mode, repr(more)],
            cwd=pathlib.Path(__file__).parents[1],
            env={**common, "VIDGEN_PROCESS": str(n)},
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for n in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=240) for process in both]
    assert [p.returncode for p in both] == [0, 0], said
    last = [out.splitlines()[-1] for out, _ in said]  # Gloo writes to stdout, too
    assert last[0] == last[1]
    bits, *losses = last[0].split()
    return bits, [float.fromhex(x) for x in losses]


@pytest.mark.parametrize(
    "mode, devices, shards", [("mesh", 1, 2), thorough("mesh", 2, 8), thorough("pmap", 2, 4)]
)
def test_two_processes_compute_the_same_bits_as_one(mode, devices, shards):
    bits, _ = two_processes(mode, devices, shards=shards)
    assert bits == arrays_sha256(trained("jit", 1, 5, shards=shards)[0])


@pytest.mark.thorough
@pytest.mark.parametrize("mode, more", [("pmap", {}), ("mesh", {"fsdp": 2})])
def test_two_processes_compute_the_same_losses_as_one(mode, more):
    _, losses = two_processes(mode, 2, **more)
    expected = trained("jit")[1]
    names = ("dis/loss", "gen/loss", "dis/r1")
    np.testing.assert_allclose(losses, [expected[name][4] for name in names], rtol=1e-5)
