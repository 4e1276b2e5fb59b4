"""What a step takes, read from its program: against true sums, by hand, and when memory is out."""

import dataclasses
import functools
import types
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY_HEADS, tiny_config
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from test_end_to_end import TINY, run

from vidgen import methods
from vidgen.cli import main
from vidgen.data.toy import ToySource
from vidgen.errors import ConfigError
from vidgen.methods import common
from vidgen.run import artifacts, setup, train
from vidgen.runtime import devices
from vidgen.tools import estimate, memory
from vidgen.tools.collectives import Exchange, collectives
from vidgen.tools.estimate import Chip, Estimate

OUT = "RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.\nmore"


def settings(mode="jit", **more):
    config = tiny_config()
    config.parallel.update(mode=mode, **more)
    return config


@functools.cache
def found(mode="jit", **more):
    return estimate.estimate(settings(mode, **more), ToySource())


def held(tree):
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def test_captions_are_part_of_the_batch():
    """As in training, where a run goes without classes and is told captions."""
    config = settings()
    config.data.labels = "none"
    config.discriminator = ConfigDict({"kind": "heads", **TINY_HEADS})
    config.conditions = ConfigDict({"caption": {"most": 6, "width": 8, "heads": 2}})
    methods.complete(config)
    batch = estimate.layout(config, estimate.listed(config)).batch
    clips = artifacts.open_clips(config)[1]
    experiment = methods.experiment(config, clips.labels)
    real = devices.numeric(setup.conditioned(experiment, clips.take(0, 8)))
    assert {n: (x.shape, x.dtype) for n, x in batch.items()} == {
        n: (x.shape, x.dtype) for n, x in real.items()
    }
    assert batch["caption"].shape == (8, 6, 13) and "label" not in batch


@pytest.mark.thorough
def test_the_parts_of_the_memory_are_what_a_true_state_and_batch_hold():
    config = settings()
    experiment, placed = methods.experiment(config, 2), setup.placement(config)
    state = placed.init(experiment.init, 0)
    _, clips = artifacts.open_clips(config)
    one = found()
    assert one.parameters["generator"] == sum(x.size for x in jax.tree.leaves(state.gen))
    expected = {
        "generator": held(state.gen),
        "discriminator": held(state.dis),
        "average": held(state.ema),
        "optimizers": held((state.gen_opt, state.dis_opt)),
        "batch": held(placed.put(clips.take(0, 8))),
    }
    temporaries = one.memory["temporaries"]
    assert one.memory == {**expected, "temporaries": temporaries}
    assert temporaries > held(state.gen)
    # Beside them, step, key and metrics.
    assert 0 <= one.total - sum(one.memory.values()) < 4096


WIDTH, CLIPS = 64, 64
PIXELS = 6 * 16 * 16 * 3


@pytest.fixture
def linear(monkeypatch):
    """A model of one matrix in place of the real ones: compiled in no time, reckoned by hand."""

    def init(seed):
        del seed
        w = jnp.zeros((PIXELS, WIDTH))
        return common.State(
            step=jnp.zeros(()), key=jnp.zeros(2), gen=w, dis=w, ema=w, gen_opt=w, dis_opt=w
        )

    def step(state, batch, *, mean):
        def slopes(batch, kept):
            x = batch["video"].reshape(-1, PIXELS).astype(jnp.float32)
            return jax.grad(lambda w: jnp.mean((x @ w) ** 2))(state.gen), kept

        grads, _ = mean(slopes, batch)
        return state.replace(gen=state.gen - grads), {"norm": jnp.sum(grads**2)}

    made = types.SimpleNamespace(
        generator={},
        init=init,
        fullest=(step,),
        together=1,
        alone=0,
        optimizers={"gen": 0, "dis": 0},
    )
    monkeypatch.setattr(methods, "experiment", lambda config, classes: made)

    def found(*mode, **more):
        config = settings(*mode, **more)
        config.training.batch_size = CLIPS
        return estimate.estimate(config, ToySource())

    return found


@pytest.mark.parametrize("mode", ["mesh", "pmap"])
def test_figures_are_those_of_one_device(mode, linear):
    one, each = linear(), linear(mode)
    products = 2 * 2 * CLIPS * PIXELS * WIDTH
    assert one.flops == pytest.approx(products, rel=0.1)
    # Beside the products, every device updates all of the parameters.
    assert each.flops == pytest.approx(products / 8, rel=0.25)
    assert each.memory["batch"] == one.memory["batch"] // 8 == CLIPS // 8 * (PIXELS + 8)
    assert one.exchanges == ()
    (exchange,) = each.exchanges
    assert exchange == Exchange("all-reduce", 4 * PIXELS * WIDTH, 1, tuple(range(8)))


def test_figures_are_those_of_one_step(linear):
    one, parts, calls = linear("mesh"), linear(microbatches=4), linear("mesh", dispatch=3)
    assert parts.flops == pytest.approx(linear().flops, rel=0.1)
    assert calls.flops == pytest.approx(one.flops, rel=0.1)
    assert calls.traffic == pytest.approx(one.traffic, rel=0.3)
    assert calls.memory["batch"] == 3 * one.memory["batch"]
    size = [sum(e.size * e.times for e in found.exchanges) for found in (one, calls)]
    assert size[0] == pytest.approx(size[1])


def test_rounds_of_loops_are_counted(linear, monkeypatch):
    """On accelerators, where parts and calls are loops."""
    alone, whole = linear(), linear("mesh")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert linear(microbatches=4).flops == pytest.approx(alone.flops, rel=0.1)
    parts, calls = linear("mesh", microbatches=4), linear("mesh", dispatch=3)
    assert calls.flops == pytest.approx(whole.flops, rel=0.1)
    size = [sum(e.size * e.times for e in found.exchanges) for found in (whole, parts, calls)]
    assert size[2] == pytest.approx(size[0])
    assert size[1] == pytest.approx(size[0])  # of all parts together


def test_a_sharded_state_takes_less_of_each_device(linear):
    whole, split = linear("mesh"), linear("mesh", fsdp=8)
    assert split.parameters == whole.parameters == dict.fromkeys(whole.parameters, PIXELS * WIDTH)
    for part in ("generator", "discriminator", "average", "optimizers"):
        assert split.memory[part] * 8 == whole.memory[part]
    assert split.memory["batch"] == whole.memory["batch"]
    state = 5 * 4 * PIXELS * WIDTH
    for one, count in ((whole, 1), (split, 8)):
        rest = one.total - one.memory["temporaries"] - one.memory["batch"]
        assert rest == pytest.approx(state / count, rel=0.01)
    gathered = Exchange("all-gather", 4 * PIXELS * WIDTH, 1, tuple(range(8)))
    assert gathered in split.exchanges


@pytest.mark.parametrize("mode", ["mesh", "pmap"])
def test_devices_exchange_gradients_and_no_clips(mode):
    one = found(mode)
    gradients = one.memory["generator"] + one.memory["discriminator"]
    size = sum(exchange.times * exchange.size for exchange in one.exchanges)
    assert {exchange.kind for exchange in one.exchanges} == {"all-reduce"}
    # And the metrics; without the gradient of the logit's bias, which a relative loss does not see.
    assert abs(size - gradients) < 200
    assert {exchange.group for exchange in one.exchanges} == {tuple(range(8))}
    assert found().exchanges == ()


PROGRAM = """HloModule jit_run, is_scheduled=true, replica_count=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[16])) -> (s32[], f32[16]) {
  %p = (s32[], f32[16]{0}) parameter(0)
  %x = f32[16]{0} get-tuple-element(%p), index=1
  %in = f32[16]{0} all-reduce(%x), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %t = (s32[], f32[16]{0}) tuple(%n, %in)
}

%cond (p: (s32[], f32[16])) -> pred[] {
  ROOT %less = pred[] compare(%n, %m), direction=LT
}

%unused (p: f32[4]) -> f32[4] {
  ROOT %gone = f32[4]{0} all-reduce(%p), replica_groups={}, to_apply=%add
}

ENTRY %main (v: f32[4,8]) -> f32[4] {
  %v = f32[4,8]{1,0} parameter(0)
  %loop = (s32[], f32[16]{0}) while(%init), condition=%cond, body=%body, \
metadata={op_name="f32[8] all-reduce(x)"}, backend_config={"known_trip_count":{"n":"5"}}
  %some = (f32[], f32[384,512]{1,0}, /*index=2*/bf16[8]{0:T(8,128)(2,1)}) all-reduce(%l, %m, %o), \
replica_groups=[2,4]<=[4,2]T(1,0), to_apply=%add
  %ags = (f32[4,8]{1,0}, f32[32,8]{1,0}) all-gather-start(%v), dimensions={0}, \
replica_groups=mesh['axis_0'=2,'axis_1'=1,'axis_2'=4], device_ids=([4,2]T(1,0)) {'axis_0'}
  %agd = f32[32,8]{1,0} all-gather-done(%ags)
  %ars = f32[100]{0} all-reduce-start(%v), replica_groups=mesh['axis_0'=8] {'axis_0'}
  %ard = f32[100]{0} all-reduce-done(%ars)
  %rs = s8[64]{0} reduce-scatter(%v), replica_groups=[1,8]<=[8], dimensions={0}, to_apply=%add
  %cp = pred[10]{0} collective-permute(%v), source_target_pairs={{0,1},{1,0}}
  ROOT %aa = (u8[2]{0}, u8[2]{0}) all-to-all(%v, %v), replica_groups={{0,4}}
}
"""


def test_collectives_are_read_from_a_program():
    everyone = tuple(range(8))
    assert collectives(PROGRAM, 8) == [
        Exchange("all-reduce", 64, 5, (0, 1)),
        Exchange("all-reduce", 4 + 4 * 384 * 512 + 16, 1, (0, 2, 4, 6)),
        Exchange("all-gather", 4 * 32 * 8, 1, (0, 1)),
        Exchange("all-reduce", 400, 1, everyone),
        Exchange("reduce-scatter", 64, 1, everyone),
        Exchange("collective-permute", 10, 1, everyone),
        Exchange("all-to-all", 4, 1, (0, 4)),
    ]


def test_groups_of_a_mesh_are_its_axes():
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "fsdp"))
    given = NamedSharding(mesh, PartitionSpec("data", "fsdp"))
    whole = NamedSharding(mesh, PartitionSpec())
    x = jax.ShapeDtypeStruct((8, 8), np.float32, sharding=given)
    data, fsdp = (0, 4), (0, 1, 2, 3)
    for axis, groups in ((0, [data, fsdp]), (1, [fsdp, data])):
        program = jax.jit(lambda x, axis=axis: x.sum(axis), out_shardings=whole)
        some = collectives(program.lower(x).compile().as_text(), 8)
        assert [one.group for one in some] == groups  # an all-reduce, an all-gather


def test_a_prediction_is_what_the_figures_give_by_hand():
    chip = Chip(flops=1000.0, memory=100.0, link=20.0, node=4, network=2.0)
    one = Estimate("", 8, {}, {}, 0, flops=600.0, traffic=50.0, exchanges=())
    alone = estimate.predict(one, chip, share=0.5)
    assert alone["step"] == alone["operations"] == 1.2 and alone["efficiency"] == 1
    bound = estimate.predict(dataclasses.replace(one, traffic=200.0), chip, share=0.5)
    assert bound["step"] == bound["traffic"] == 2.0
    both = dataclasses.replace(
        one, traffic=200.0, exchanges=(Exchange("all-gather", 80, 1, (0, 1)),)
    )
    both = estimate.predict(both, chip, share=0.5)
    assert (both["efficiency"], both["least"]) == (2.0 / 4.0, 1.2 / 3.2)

    def seconds(kind, group, times=1):
        exchange = Exchange(kind, 80, times, group)
        found = estimate.predict(dataclasses.replace(one, exchanges=(exchange,)), chip, share=0.5)
        assert found["step"] == pytest.approx(1.2 + found["exchange"])
        assert found["efficiency"] == pytest.approx(1.2 / found["step"])
        return found["exchange"]

    assert seconds("all-reduce", (0, 1, 2, 3)) == pytest.approx(2 * 3 / 4 * 80 / 20)
    assert seconds("all-gather", (0, 1), times=2) == pytest.approx(2 * 80 / 2 / 20)
    # Over two nodes, by the network of four members a node; by that of one.
    assert seconds("all-reduce", tuple(range(8))) == pytest.approx(2 * 7 / 8 * 80 / 8)
    assert seconds("all-reduce", (0, 4)) == pytest.approx(80 / 2)


def test_a_dry_run_prints_the_parts_and_leaves_nothing(tmp_path):
    out, err = run("train", "--dry-run", *TINY, f"--workdir={tmp_path / 'run'}")
    (said,) = err.splitlines()
    assert said.startswith("compiling the step (whole)") and list(tmp_path.iterdir()) == []
    config = tiny_config()
    config.generator.gaits = "strengths"  # as in configs/toy.py
    config.discriminator = ConfigDict({"kind": "heads", **TINY_HEADS})
    one = estimate.estimate(config, ToySource())
    assert "1 x cpu, jit, 8 clips on each, 8 in a step" in out
    assert f"{one.parameters['generator']:,d} parameters" in out
    lines = {line.rsplit(None, 2)[0].strip(): line.split()[-2] for line in out.splitlines()[1:]}
    assert float(lines["optimizers"]) == round(one.memory["optimizers"] / 2**20, 1)
    assert float(lines["temporaries"]) > 0 and float(lines["operations"]) > 0
    assert "predicted" not in out  # it is about bfloat16, and this is float32


def test_of_two_phases_the_one_that_needs_more_counts(linear):
    config = settings()
    config.training.batch_size = CLIPS
    small = linear()
    made = methods.experiment(config, 0)  # the model of one matrix
    (first,) = made.fullest

    def more(state, batch, *, mean):
        state, _ = first(state, batch, mean=mean)
        wide = jnp.tile(batch["video"], (1, 1, 1, 1, 8))
        return state, {"sum": jnp.sum(jnp.sort(wide, -1)[..., 0])}

    for order in ((first, more), (more, first)):
        made.fullest = order
        assert estimate.estimate(config, ToySource()).total > 1.1 * small.total


def test_a_dry_run_says_what_it_knows_before_it_compiles(monkeypatch, capsys):
    said = []

    def compiled(step):
        said.append(capsys.readouterr().out)
        return found()

    monkeypatch.setattr(estimate, "compiled", compiled)
    estimate.dry_run(settings())
    assert "parameters" in said[0] and "optimizers" in said[0] and "total" not in said[0]
    assert said[0] + capsys.readouterr().out == estimate.report(found(), "float32") + "\n"


@pytest.mark.parametrize(
    "flags, code, says",
    [
        (["--dry-run", "--config.data.path=nowhere"], 3, "nowhere"),
        (["--config.data.path=toy"], 2, "--workdir"),
        (["--dry-run", "--config.data.path=toy", "--config.parallel.fsdp=3"], 2, "fsdp is 3"),
    ],
)
def test_a_dry_run_refuses_what_a_run_would(flags, code, says, capsys):
    assert main.main(["train", "--config=configs/toy.py", *flags]) == code
    assert says in capsys.readouterr().err


def test_predictions_are_for_bfloat16():
    assert "TPU v5e" in estimate.report(found(), "bfloat16")
    assert "TPU v5e" not in estimate.report(found(), "float32")


def test_classes_are_counted_without_packing(tmp_path, monkeypatch):
    config = tiny_config()
    assert len(estimate.listed(config).classes) == 2
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))
    for name in ("bend", "wave", "walk"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        np.save(tmp_path / "clips" / name / "one.npy", np.zeros((8, 16, 16, 3), np.uint8))
    config.data.path = str(tmp_path / "clips")
    assert len(estimate.listed(config).classes) == 3
    assert not (tmp_path / "cache").exists()
    store, _ = artifacts.open_clips(config)
    config.data.path = str(store.path)  # a pack
    assert len(estimate.listed(config).classes) == 3
    config.data.labels = "none"
    config.data.path = str(tmp_path / "clips")
    assert len(estimate.listed(config).classes) == 0


def test_configs_that_need_less_come_in_order():
    changes = []
    for other in memory.smaller(settings()):
        p, t = other.parallel, other.training
        changes.append((p.microbatches, len(p.remat), p.compute, t.batch_size))
    assert changes == [
        (2, 0, "float32", 8),
        (4, 0, "float32", 8),
        (8, 0, "float32", 8),
        (8, 2, "float32", 8),
        (8, 2, "bfloat16", 8),
        (4, 2, "bfloat16", 4),
        (2, 2, "bfloat16", 2),
        (1, 2, "bfloat16", 1),
    ]
    # The deterministic step has parts of its own.
    first = next(memory.smaller(settings(deterministic=True)))
    assert (first.parallel.microbatches, len(first.parallel.remat)) == (1, 2)


def test_out_of_memory_is_answered_through_the_command(monkeypatch, capsys):
    def full(*_, **__):
        raise jax.errors.JaxRuntimeError(OUT)

    real = found()  # before what it calls is replaced

    def fake(config, store):
        assert len(store.classes) == 2
        return dataclasses.replace(real, total=5 * 2**30 // config.parallel.microbatches)

    monkeypatch.setattr(train, "train", full)
    monkeypatch.setattr(estimate, "estimate", fake)
    monkeypatch.setattr(memory, "memory_limit", lambda: 3 * 2**30)
    assert main.main(["train", *TINY, "--workdir=never"]) == 2
    *_, message, hint = capsys.readouterr().err.splitlines()
    assert message.startswith("vidgen: out of memory: a step takes 5.00 of 3.00 GiB a device: gen")
    assert f"temporaries {real.memory['temporaries'] / 2**30:.2f}" in message
    assert hint.strip() == "2.50 GiB with --config.parallel.microbatches=2"


@pytest.mark.parametrize(
    "limit, flags",
    [
        (99, ["microbatches=2"]),
        (60, ["microbatches=4"]),
        (30, ["microbatches=8"]),
        (12, ["microbatches=8", "remat=\"('generator','discriminator')\""]),
        (5, ["compute=bfloat16", "new workdir: parallel.compute may not change"]),
        (3, ["batch_size=4", "microbatches=4", "parallel.compute, training.batch_size may not"]),
        (1, ["nothing that was tried fits", "fsdp"]),
        (None, ["microbatches=2"]),  # the device does not tell
        (500, ["microbatches=2"]),  # it should have fitted
    ],
)
def test_the_nearest_setting_follows_from_the_limit(limit, flags, monkeypatch):
    def fake(config, store):
        p, t = config.parallel, config.training
        total = 128 // p.microbatches if t.batch_size == 8 else 10
        total //= (2 if p.remat else 1) * (2 if p.compute == "bfloat16" else 1)
        return dataclasses.replace(found(), total=total)

    monkeypatch.setattr(estimate, "estimate", fake)
    monkeypatch.setattr(memory, "memory_limit", lambda: limit)
    error = memory.advice(settings(), jax.errors.JaxRuntimeError(OUT))
    assert error.exit_code == 2 and "out of memory" in str(error)
    for flag in flags:
        assert flag in error.hint
    assert ("remat" in error.hint) == (limit in (12, 5, 3))


def test_the_state_is_let_go_before_settings_are_tried(monkeypatch):
    class State:
        pass

    def training():
        state = State()
        alive.append(weakref.ref(state))
        raise jax.errors.JaxRuntimeError(OUT)

    def fake(config, store):
        assert alive[0]() is None
        return found()

    alive = []
    monkeypatch.setattr(estimate, "estimate", fake)
    try:
        training()
    except jax.errors.JaxRuntimeError as error:
        assert alive[0]() is not None
        assert "nothing that was tried" in memory.advice(settings(), error, limit=1).hint


def test_other_errors_are_not_taken_for_it(monkeypatch):
    def broken(*_, **__):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(train, "train", broken)
    monkeypatch.setattr(memory, "advice", lambda *_: ConfigError("out of memory"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        main.main(["train", *TINY, "--workdir=never"])
    assert memory.out_of_memory(RuntimeError(OUT))
    assert memory.out_of_memory(RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"))
