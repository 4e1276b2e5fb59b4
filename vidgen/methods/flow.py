"""Rectified flow in the latents of a codec: `codec.init`, `codec.step`, `flow_step`.

A run has two phases. First a codec learns frames; then it stays, and a transformer learns the
velocity from noise to the latents of clips.

Reference: Lipman et al., "Flow matching for generative modeling", 2023; Esser et al., "Scaling
  rectified flow transformers for high-resolution image synthesis", 2024, for levels drawn by a
  logistic normal distribution; Chen et al., "Diffusion forcing", 2024, for a level for each frame;
  Ho and Salimans, "Classifier-free diffusion guidance", 2022.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from vidgen import config as configs
from vidgen import keys, models
from vidgen.config.fields import PICK, Field
from vidgen.errors import ConfigError
from vidgen.methods import codec, common
from vidgen.methods.common import Batch, Metrics, Schedule
from vidgen.models import conditions
from vidgen.models.flow import FlowGenerator
from vidgen.models.known_frames import Hints, Known, apart
from vidgen.training import averaging

GENERATORS = {"flow": FlowGenerator}
DISCRIMINATORS = codec.DISCRIMINATORS
FIELDS = common.fields(
    {
        "data": PICK,
        "generator": models.fields(GENERATORS, "flow"),
        "conditions": {},
        "discriminator": codec.DISCRIMINATOR,
        "objective": {
            **codec.OBJECTIVE,
            "level": Field(
                -0.3, "mean of the logit of noise levels; below 0: more noise", least=-20, most=20
            ),
            "prefix": Field(0.25, "share of clips whose first frames are known", least=0, most=1),
            "own_levels": Field(
                0.1, "share of clips whose frames each have a level of their own", least=0, most=1
            ),
            "unlabelled": Field(
                0.1,
                "share of clips without class and conditions, but those with drop=0",
                least=0,
                most=1,
            ),
        },
        "optimizer": codec.OPTIMIZER,
    },
    optimizer={"b1": 0.9},
)


@dataclasses.dataclass(frozen=True)
class Objective:
    """How noise is drawn for the clips of a step.

    Attributes:
      level: Mean of the logits of noise levels, whose deviation is 1.
      prefix: Share of clips whose first pairs of frames are known, a random number of them.
      own_levels: Share of clips whose pairs of frames have each a level of its own.
      unlabelled: Share of clips of which neither class nor conditions are told, but for conditions
        with `drop=0`.
    """

    level: float
    prefix: float
    own_levels: float
    unlabelled: float


def flow_step(
    state: codec.State,
    batch: Batch,
    *,
    gen: Any,
    tx: optax.GradientTransformation,
    objective: Objective,
    ema_decay: Schedule,
    mean: Callable = averaging.mean,
) -> tuple[codec.State, Metrics]:
    """Updates the transformer and its average; the codec stays as it is.

    Args:
      state: The state; its buffers may be donated.
      batch: `video` uint8 `[B, T, H, W, C]`, T even, `index` int32 `[B]`, `label` int32 `[B]`,
        and what conditions are read of, by their names.
      gen: A `FlowGenerator`.
      tx: Optimizer of the transformer.
      objective: How noise is drawn.
      ema_decay: Share of the average that stays in one step, by step.
      mean: How functions of clips are averaged over the batch.

    Returns:
      The new state, and scalar metrics: `gen/loss`, the mean squared error of velocities, of
      latents and noise of unit variance; of it `flow/frames`, that of pairs of frames, and
      `flow/whole`, that of the video's own latent.
    """
    key = common.step_key(state)

    def of_clips(batch: Batch, kept):
        del kept
        video = common.to_float(batch["video"])
        tokens = gen.apply({"params": state.gen}, video, method="encode_tokens")
        each = common.clip_keys(key, "flow", batch)
        label = common.labels(gen, batch)
        told = keys.uniform(_named(each, "told"), ()) >= objective.unlabelled
        if label is not None:
            label = jnp.where(told, label, gen.classes)
        given = conditions.only(gen.conditions, common.given(batch, key, gen), told)
        hints = _hints(video, tokens[1], given.get("frames"))
        whole, pairs = tokens
        # The video's own latent is drawn in its first slot, and known to the frames in the second.
        clean = jnp.concatenate([whole, whole], 1), pairs
        noise = [
            keys.normal(_named(each, name), x.shape[1:])
            for name, x in zip(("whole", "pairs"), clean, strict=True)
        ]
        level, drawn = draw_levels(each, pairs.shape[1], objective)
        at = jnp.split(level[:, :, None, None], [2], 1)
        between = [n + t * (x - n) for n, t, x in zip(noise, at, clean, strict=True)]

        def loss(model):
            params = {"params": state.gen | {"model": model}}
            found = gen.apply(
                params, *between, level, label, True, given=given, hints=hints, method="velocity"
            )
            apart = jnp.concatenate(
                [
                    jnp.mean((v - (x - n)) ** 2, (2, 3))
                    for v, x, n in zip(found, clean, noise, strict=True)
                ],
                1,
            )
            # Of each clip the mean over what is drawn, so that clips count the same.
            total = jnp.sum(apart * drawn, 1) / jnp.sum(drawn, 1)
            frames = jnp.sum((apart * drawn)[:, 2:], 1) / jnp.sum(drawn[:, 2:], 1)
            return jnp.mean(total), (jnp.mean(frames), jnp.mean(apart[:, 0]))

        return jax.value_and_grad(loss, has_aux=True)(state.gen["model"]), None

    ((total, (frames, whole)), grads), _ = mean(of_clips, batch)
    new, norms = codec.update_model(state, grads, tx, ema_decay)
    return new, {"gen/loss": total, "flow/frames": frames, "flow/whole": whole, **norms}


def _hints(
    video: Float[Array, "batch time height width 3"],
    pairs: Float[Array, "batch pair token two"],
    frames: dict[str, Array] | None,
) -> Hints | None:
    """Returns what clips are told of their frames that are known."""
    if frames is None:
        return None
    known = Known(video, apart(pairs), frames["known"].all((2, 3)), frames["time"])
    return known.hints(0, video.shape[1])


def draw_levels(
    each: Key[Array, " batch"], pairs: int, objective: Objective
) -> tuple[Float[Array, "batch slot"], Float[Array, "batch slot"]]:
    """Draws the levels of clips' slots, 0 for noise to 1 for latents, each from its clip's key.

    Args:
      each: Keys of the clips.
      pairs: Pairs of frames.
      objective: Says how.

    Returns:
      Levels `[B, 2 + pairs]`, of the video's latent that is drawn, of that which is known, and of
      the pairs; and 1 for those that are drawn, 0 for those that are known, likewise. What is known
      has a level between 0.9 and 1, so that the faults of what was drawn before do no harm.
    """

    def logistic(name, count):
        return jax.nn.sigmoid(keys.normal(_named(each, name), (count,)) + objective.level)

    almost = 1 - 0.1 * keys.uniform(_named(each, "almost"), (2,))
    kind = keys.uniform(_named(each, "kind"), ())[:, None]
    level = jnp.where(kind > 1 - objective.own_levels, logistic("own", pairs), logistic("level", 1))
    # At least one pair is known, and at least one is drawn.
    known = 1 + jnp.floor(keys.uniform(_named(each, "known"), ()) * (pairs - 1))[:, None]
    prefix = (kind < objective.prefix) & (jnp.arange(pairs)[None] < known) & (pairs > 1)
    level = jnp.where(prefix, almost[:, 1:], level)
    drawn = jnp.ones_like(level) - prefix
    one = jnp.ones_like(kind)
    levels = jnp.concatenate([logistic("whole level", 1), almost[:, :1], level], 1)
    return levels, jnp.concatenate([one, 0 * one, drawn], 1)


def _named(each: Key[Array, " batch"], name: str) -> Key[Array, " batch"]:
    return jax.vmap(keys.named, (0, None))(each, name)


def experiment(config: configs.Config, classes: int) -> common.Experiment:
    """Builds the training of a config; see `vidgen.methods.experiment`."""
    told = common.conditions(config)
    arguments, gen = common.build_network("generator", GENERATORS, config, classes, **told)
    data, asked = config.data, config.objective
    if config.generator.kept:
        raise ConfigError(
            "config.generator.kept is True",
            "False: it is of runs by 'one_step', made of one by flow",
        )
    if data.frames % 2:
        raise ConfigError(f"config.data.frames is {data.frames}", "even: frames come in pairs")
    objective = Objective(asked.level, asked.prefix, asked.own_levels, asked.unlabelled)
    step = functools.partial(flow_step, gen=gen, objective=objective)
    return codec.experiment(config, arguments, codec.phase(config, gen), "flow", step)
