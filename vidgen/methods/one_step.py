"""Post-training of a flow, so that it makes a chunk of frames by one evaluation.

A run of this method begins from one of `flow` (`--init_from`), whose codec it keeps. A copy of the
flow's network stays as it is: it draws the latent of a video and the frames before its first. What
is trained is the network that draws chunks of frames, in two phases. First it learns to jump to
where the flow would have gone, given chunks of real clips (consistency distillation). Then it
streams as it is sampled, each chunk made of noise and of the chunk before, which it has made
itself; what a discriminator says of the decoded frames is its only loss.

Reference: Song et al., "Consistency models", 2023; Song and Dhariwal, "Improved techniques for
  training consistency models", 2024, for the loss and targets of the network itself; Lin et al.,
  "Diffusion adversarial post-training for one-step video generation", 2025; Lin et al.,
  "Autoregressive adversarial post-training for real-time interactive video generation", 2025, for
  training on what the generator itself has made.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from vidgen import config as configs
from vidgen import keys, models
from vidgen.config.fields import Field, constant, merged
from vidgen.errors import ConfigError
from vidgen.methods import common, gan
from vidgen.methods.common import Batch, Metrics, Schedule, State
from vidgen.models.flow import FlowGenerator
from vidgen.training import averaging, nonfinite

GENERATORS = {"flow": FlowGenerator}
DISCRIMINATORS = gan.DISCRIMINATORS
STREAM = {"stream": True, "steps": 1, "whole_steps": 8, "kept": True, "chunk": 8, "margin": 4}
BEGINS_FROM = "flow"
FIELDS = merged(
    {**gan.FIELDS, "generator": models.fields(GENERATORS, "flow", **STREAM)},
    {
        "objective": {
            "distil_kclips": Field(
                8.0, "thousands of clips before the discriminator plays; 0: none", least=0
            ),
            "distil_levels": Field(12, "noise levels of the distillation", least=1, most=1000),
        },
        "optimizer": {
            "distil_learning_rate": Field(
                constant(5e-4), "of the distillation", least=0, most=1000
            ),
        },
    },
)
_HUBER = 0.03  # errors of tokens of unit variance below which the loss is a square


def begin(params: PyTree) -> PyTree:
    """Returns the parameters of a flow with a copy of its network beside it."""
    return {**params, "flow": params["model"]} if "model" in params else params


def distil_step(
    state: State,
    batch: Batch,
    *,
    gen: Any,
    tx: optax.GradientTransformation,
    levels: int,
    ema_decay: Schedule,
    mean: Callable = averaging.mean,
) -> tuple[State, Metrics]:
    """Updates the network of chunks, and its average, towards where the flow goes.

    Of noise and a chunk of a clip, points on the line between them at two neighbouring levels lead
    to the same end: from the lower level a step of the flow, then a jump of the network as it is;
    or one jump, which is trained. At the highest level the end is that of the flow's step.

    Args:
      state: The state; its buffers may be donated.
      batch: `video` uint8 `[B, T, H, W, C]`, T even, at least a margin and a chunk, `index` int32
        `[B]`, `label` int32 `[B]`, and what conditions are read of.
      gen: A `FlowGenerator`.
      tx: Its optimizer.
      levels: Of noise, evenly from noise alone to the last step before the end.
      ema_decay: Share of the average that stays in one step, by step.
      mean: How functions of clips are averaged over the batch.

    Returns:
      The new state, and scalar metrics: `gen/loss`, the distance of both ends (pseudo-Huber, of
      tokens of unit variance), and `distil/first`, that of jumps from noise alone.
    """
    key = common.step_key(state)
    past, count = gen.margin // 2, gen.chunk // 2

    def of_clips(batch: Batch, kept):
        del kept
        video = common.to_float(batch["video"])
        whole, pairs = gen.apply({"params": state.gen}, video, method="encode_tokens")
        each, label = common.clip_keys(key, "distil", batch), common.labels(gen, batch)
        told = common.given(batch, key, gen)
        named = lambda name: jax.vmap(keys.named, (0, None))(each, name)  # noqa: E731
        at = jax.vmap(lambda k: jax.random.randint(k, (), 0, pairs.shape[1] - past - count + 1))
        at = at(named("begin"))[:, None] + jnp.arange(past + count)[None]
        given = jnp.take_along_axis(pairs, at[:, :, None, None], 1)
        known, clean = given[:, :past], given[:, past:]
        noise = keys.normal(named("noise"), clean.shape[1:])
        # More of the low levels: jumps from noise alone are what is sampled.
        level = jnp.floor(levels * keys.uniform(named("level"), ()) ** 2) / levels
        wide = lambda level: level[:, None, None, None]  # noqa: E731
        x = noise + wide(level) * (clean - noise)

        def velocity(params, x, level, kept):
            slots = jnp.broadcast_to(level[:, None], (len(x), count))
            slots = jnp.concatenate([jnp.ones((len(x), 1 + past)), slots], 1)
            given = whole, jnp.concatenate([known, x], 1), slots, label, True, kept, told
            return gen.apply({"params": params}, *given, method="velocity")[1][:, past:]

        def end(params, x, level):
            return x + wide(1 - level) * velocity(params, x, level, False)

        ahead = x + velocity(state.gen, x, level, True) / levels
        target = end(state.gen, ahead, level + 1 / levels)

        def loss(model):
            apart = jnp.mean(
                (end({**state.gen, "model": model}, x, level) - target) ** 2, (1, 2, 3)
            )
            apart = jnp.sqrt(apart + _HUBER**2) - _HUBER
            at_first = level == 0
            return jnp.mean(apart), jnp.mean(apart * at_first) * levels**0.5

        (value, first), grads = jax.value_and_grad(loss, has_aux=True)(state.gen["model"])
        return (value, first, grads), None

    (value, first, grads), _ = mean(of_clips, batch)
    decay = ema_decay(state.step)
    new, norms = common.update_generator(state, grads, {}, tx, decay, "model")
    new = dataclasses.replace(new, step=state.step + 1)
    return new, {"gen/loss": value, "distil/first": first, **norms}


def _init(init: Callable[[common.Seed], State], seed: common.Seed) -> State:
    """Makes the state of step 0, in which the flow's network is that which will be trained."""
    state = init(seed)
    gen, ema = (jax.tree.map(jnp.copy, begin(params)) for params in (state.gen, state.ema))
    return dataclasses.replace(state, gen=gen, ema=ema)


def experiment(config: configs.Config, classes: int) -> common.Experiment:
    """Builds the training of a config; see `vidgen.methods.experiment`."""
    asked, data, objective = config.generator, config.data, config.objective
    for name, needed in (("stream", True), ("steps", 1), ("kept", True)):
        if asked[name] != needed:
            raise ConfigError(
                f"config.generator.{name} is {asked[name]}",
                f"{needed}: start the config from vidgen.methods.base('one_step')",
            )
    total = common.total_steps(config)
    border = common.steps(config, objective.distil_kclips) if objective.distil_kclips else 0
    before = common.schedule(config, config.optimizer.distil_learning_rate, max(border, 1)), border
    rest = functools.partial(common.optimizer, config, total=max(total - border, 1))
    optimizers = {
        "gen_tx": rest(before=before),
        "dis_tx": rest(times=config.optimizer.discriminator_rate),
    }
    second = gan.experiment(config, classes, GENERATORS, "model", optimizers, border)
    second = dataclasses.replace(second, init=functools.partial(_init, second.init))
    if not border:
        return second
    told = common.conditions(config)
    _, gen = common.build_network("generator", GENERATORS, config, classes, **told)
    if data.frames % 2 or data.frames < gen.chunk + gen.margin:
        raise ConfigError(
            f"config.data.frames is {data.frames}",
            f"even, and at least {gen.chunk + gen.margin}: a margin of {gen.margin} and a chunk of "
            f"{gen.chunk} (config.generator)",
        )
    common.check_border(config, "distil_kclips", border)
    step = functools.partial(
        distil_step,
        gen=gen,
        tx=optimizers["gen_tx"],
        levels=objective.distil_levels,
        ema_decay=common.ema_decay(config),
    )
    return dataclasses.replace(
        second,
        steps={**second.steps, "distil": nonfinite.guarded(step)},
        kind=lambda at: "distil" if at < border else second.kind(at - border),
        phases=("distil", "whole") if border < total else ("distil",),
    )
