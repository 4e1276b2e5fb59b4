"""Adversarial post-training of a flow, beyond what every method must do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_families import flow, one_step
from test_flow import CHUNK, CLASSES, SIZE, batch, generator, weights

from vidgen import keys, methods
from vidgen.cli import main
from vidgen.config import constant, cosine
from vidgen.errors import ConfigError
from vidgen.methods import common, gan
from vidgen.run import artifacts
from vidgen.runtime.checkpoint import Checkpoints

STREAM = {"stream": True, "steps": 1}


def noise(gen, frames, count=2):
    key = keys.named(keys.root(0), "noise")
    return common.draw(key, jnp.arange(count), gen=gen, frames=frames)


def test_a_training_window_is_one_of_the_stream():
    gen = generator(**STREAM)
    content, motion, cycle, _ = noise(gen, CHUNK + 2)
    start, label = jnp.asarray([CHUNK, 2 * CHUNK + 3]), jnp.asarray([0, 2])
    assert motion.shape[1] == 1 + 3  # a window may touch three chunks
    apply = functools.partial(gen.apply, {"params": weights()})
    pick = jnp.asarray([[0, 2, 5], [1, 3, 4]])
    window = jax.jit(lambda *noise: apply(*noise, label, pick, frames=CHUNK + 2))
    found = window(content, motion, cycle, start)
    carry = apply(content, motion[:, :1], label, method="begin")
    _, states = apply(carry, content, motion[:, 1:], label, method="advance")
    video = np.asarray(apply(states, content, label, method="render"))
    for row, at in enumerate((0, 3)):
        expected = video[row, at + np.asarray(pick[row])]
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


def test_the_latent_of_the_video_has_steps_of_its_own():
    content, motion, _, _ = noise(generator(**STREAM), CHUNK)

    def whole(**more):
        gen = generator(stream=True, **more)
        carry = gen.apply({"params": weights()}, content, motion[:, :1], None, method="begin")
        return np.asarray(carry[:, 0])

    np.testing.assert_array_equal(whole(steps=1, whole_steps=3), whole(steps=3))
    assert np.abs(whole(steps=1) - whole(steps=3)).max() > 0.01


def test_small_faults_are_not_handed_on():
    """A chunk is drawn given frames that are rounded as those of clips are."""
    gen = generator(**STREAM)
    content, motion, _, _ = noise(gen, CHUNK)
    apply = functools.partial(gen.apply, {"params": weights()})
    carry = apply(content, motion[:, :1], None, method="begin")
    past = apply(carry[:, 1:], method=lambda m, x: m._rounded(x))
    good = jnp.concatenate([carry[:, :1], past], 1)
    _, states = apply(good, content, motion[:, 1:], None, method="advance")
    _, same = apply(good.at[:, 1:].add(0.01), content, motion[:, 1:], None, method="advance")
    np.testing.assert_allclose(same, states, atol=1e-6)


def test_gradients_reach_the_chunk_before():
    """What a chunk is made of is rounded; the gradient passes."""
    gen = generator(**STREAM)
    content, motion, _, _ = noise(gen, CHUNK)

    def last(motion):
        apply = functools.partial(gen.apply, {"params": weights()})
        carry = apply(content, motion[:, :1], None, method="begin")
        _, states = apply(carry, content, motion[:, 1:], None, method="advance")
        return jnp.sum(states[:, -1] ** 2)

    slopes = np.abs(jax.grad(last)(motion)).sum((0, 2))
    # Attention of one layer reaches the last pair of the chunk before, and no further.
    assert slopes[2] > 0 and slopes[1] > 0


def test_tokens_of_clips_are_rounded_already():
    """So what a chunk was made of and what it is made of in training lie on the same values."""
    gen = generator(join=2, levels=(8, 3))
    video = jnp.asarray(batch()["video"], jnp.float32) / 127.5 - 1
    params = common.init_generator(keys.root(0), gen, CHUNK)
    apply = functools.partial(gen.apply, {"params": params})
    _, pairs = apply(video, method="encode_tokens")
    np.testing.assert_allclose(apply(pairs, method=lambda m, x: m._rounded(x)), pairs, atol=1e-6)
    near = pairs + 0.05 * np.sign(np.random.default_rng(0).normal(size=pairs.shape))
    near = jnp.asarray(np.where(np.abs(pairs) < 1.6, near, pairs))  # 0.4 and 1.7 apart
    np.testing.assert_allclose(apply(near, method=lambda m, x: m._rounded(x)), pairs, atol=1e-6)


def test_the_codec_stays_and_both_players_learn():
    config = one_step()
    config.data.size = SIZE
    whole = methods.experiment(config, CLASSES)
    state = jax.jit(whole.init)(0)
    after, metrics = jax.jit(whole.step)(state, batch())
    assert metrics["dis/r1"] > 0 and np.isfinite(metrics["gen/loss"])
    same = lambda a, b: all(  # noqa: E731
        np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )
    for old, new in ((state.gen, after.gen), (state.ema, after.ema)):
        assert same(old["codec"], new["codec"]) and same(old["flow"], old["model"])
        assert same(old["flow"], new["flow"]) and not same(old["model"], new["model"])
    assert not same(state.dis, after.dis)
    shapes = lambda tree: [x.shape for x in jax.tree.leaves(tree)]  # noqa: E731
    moments = shapes(jax.tree.leaves(state.gen_opt, is_leaf=lambda x: isinstance(x, dict))[-1])
    assert moments == shapes(state.gen["model"])


def test_a_flow_that_goes_straight_is_distilled_already():
    """Its jumps end where its steps do; of another network they come nearer to it."""
    config = one_step()
    config.data.size = SIZE
    config.optimizer.distil_learning_rate = constant(0.01)
    experiment = methods.experiment(config, CLASSES)
    start, step = jax.jit(experiment.init)(0), jax.jit(experiment.steps["distil"])
    _, metrics = step(start, batch())  # velocities of a network as it is made are zero
    assert metrics["gen/loss"] == 0 and not metrics["skipped"]
    rng = np.random.default_rng(0)
    changed = jax.tree.map(
        lambda x: x + 0.1 * rng.normal(size=x.shape).astype(x.dtype), start.gen["flow"]
    )
    state = start.replace(gen={**start.gen, "flow": changed})
    gen = methods.generator({"generator": experiment.generator}, kept=False)
    content, motion, _, _ = noise(gen, CHUNK)
    features = gen.content // gen.tokens
    carry = jnp.zeros((2, 1 + gen.margin // 2, gen.tokens, 2 * features))
    label = jnp.asarray([0, 1])

    @functools.partial(jax.jit, static_argnums=1)
    def chunk(model, steps):
        params = {"params": {"codec": start.gen["codec"], "model": model}}
        given = carry, content, motion[:, :1], label
        return gen.clone(steps=steps).apply(params, *given, method="advance")[1]

    goal = chunk(changed, config.objective.distil_levels)
    apart = lambda model: float(jnp.mean((chunk(model, 1) - goal) ** 2))  # noqa: E731
    before, jumped = apart(start.gen["model"]), apart(changed)
    for _ in range(300):
        state, metrics = step(state, batch())
    assert apart(state.ema["model"]) < 0.3 * before, (apart(state.ema["model"]), before, jumped)
    assert state.step == 300 and metrics["distil/first"] > 0
    for name in ("codec", "flow"):
        jax.tree.map(np.testing.assert_array_equal, state.ema[name], start.ema[name])


def test_schedules_of_the_second_phase_begin_with_it(monkeypatch):
    made, real = [], gan.Objective
    monkeypatch.setattr(gan, "Objective", lambda **more: made.append(real(**more)) or made[-1])
    config = one_step()
    config.training.kclips, config.objective.distil_kclips = 0.04, 0.024
    config.objective.r1 = cosine(2.0, 0.0)
    experiment = methods.experiment(config, CLASSES)
    assert [experiment.kind(at) for at in range(5)] == [*["distil"] * 3, *["whole"] * 2]
    assert [float(made[0].r1(at)) for at in (3, 4, 5)] == pytest.approx([2, 1, 0])


def test_windows_must_have_a_margin_and_a_chunk():
    config = one_step()
    config.data.frames = 2
    with pytest.raises(ConfigError, match=r"config\.data\.frames is 2") as error:
        methods.validate(config)
    assert "at least 4" in error.value.hint
    config.objective.distil_kclips = 0.0
    config.data.pick = 0
    methods.validate(config)  # the other phase takes any


def test_a_flow_keeps_no_network_of_another():
    config = flow()
    config.generator.kept = True
    with pytest.raises(ConfigError, match=r"config\.generator\.kept is True"):
        methods.validate(config)


def test_a_run_begins_from_one_of_flow_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))
    config, post = flow(), one_step()
    config.conditions = post.conditions.copy_and_resolve_references()
    store, clips = artifacts.open_clips(config)
    experiment = methods.experiment(config, clips.labels)
    meta = artifacts.meta(config, experiment.generator, store, clips)
    checkpoints = Checkpoints(tmp_path / "flow" / "checkpoints")
    start = jax.jit(experiment.init, static_argnums=0)(0)
    checkpoints.save(3, {"ema": start.ema}, meta)
    checkpoints.close()
    artifacts.write_json(tmp_path / "flow" / "run.json", meta)
    file = tmp_path / "config.py"
    file.write_text(
        "from vidgen import methods\n"
        "def get_config():\n"
        "    config = methods.base('one_step')\n"
        f"    config.update({post.to_json_best_effort()})\n"
        "    return config\n".replace("true", "True").replace("false", "False")
    )
    flags = [f"--config={file}", "--config.training.kclips=0.008"]

    def command(name, *more):
        code = main.main(["train", *flags, f"--workdir={tmp_path / name}", *more])
        return code, capsys.readouterr().err

    code, said = command("none")
    assert code == 2 and "begins from a run of 'flow'" in said and "--init_from=" in said
    begin = f"--init_from={tmp_path / 'flow'}"
    code, said = command("post", begin)
    assert code == 0 and "begun from step 3" in said
    code, said = command("drop", begin, "--config.conditions.caption.drop=0.5")
    assert code == 0  # how often it is left out is no part of the networks
    code, said = command("post")  # done; it knows what it began from
    assert code == 0
    code, said = command("again", f"--init_from={tmp_path / 'post'}")
    assert code == 2 and "is a run of 'one_step'" in said
    code, said = command("other", begin, "--config.generator.levels=(5,4)")
    assert code == 2 and "config.generator.levels is [5, 4], and of the run in" in said
    code, said = command("other", begin, "--config.generator.stream=False")
    assert code == 2 and "config.generator.stream is False" in said
    code, said = command("other", begin, "--config.conditions.caption.width=4")
    assert code == 2 and "config.conditions.caption is " in said and "same conditions" in said
    (tmp_path / "flow" / "run.json").unlink()  # then the arrays tell
    code, said = command("other", begin, "--config.generator.width=12")
    assert code == 5 and "has other networks: gen/" in said
    assert not list((tmp_path / "other").glob("checkpoints/*"))
