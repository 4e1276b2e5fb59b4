"""An autoregressive transformer on a codec's codes: `codec.init`, `codec.step`, `prior_step`.

A run has two phases. First a codec learns to make frames of few codes; then it stays, and a
transformer learns to predict the codes of real clips, each from those before it.

Reference: van den Oord et al., "Neural discrete representation learning" (VQ-VAE), 2017; Yan et
  al., "VideoGPT: video generation using VQ-VAE and transformers", 2021.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vidgen import config as configs
from vidgen import models
from vidgen.config.fields import PICK
from vidgen.errors import ConfigError
from vidgen.frame_size import height_width
from vidgen.methods import codec, common
from vidgen.methods.common import Batch, Metrics, Schedule
from vidgen.models.codec import to_digits
from vidgen.models.codes import CodesGenerator
from vidgen.training import averaging

GENERATORS = {"codes": CodesGenerator}
DISCRIMINATORS = codec.DISCRIMINATORS
FIELDS = common.fields(
    {
        "data": PICK,
        "generator": models.fields(GENERATORS, "codes"),
        "conditions": {},
        "discriminator": codec.DISCRIMINATOR,
        "objective": codec.OBJECTIVE,
        "optimizer": codec.OPTIMIZER,
    },
    optimizer={"b1": 0.9},
)


def prior_step(
    state: codec.State,
    batch: Batch,
    *,
    gen: Any,
    tx: optax.GradientTransformation,
    ema_decay: Schedule,
    mean: Callable = averaging.mean,
) -> tuple[codec.State, Metrics]:
    """Updates the transformer and its average; the codec stays as it is.

    Args:
      state: The state; its buffers may be donated.
      batch: `video` uint8 `[B, T, H, W, C]`, T at least `gen.window`: of longer clips a window is
        drawn; `index` int32 `[B]`, `label` int32 `[B]`, and what conditions are read of.
      gen: A `CodesGenerator`.
      tx: Optimizer of the transformer.
      ema_decay: Share of the average that stays in one step, by step.
      mean: How functions of clips are averaged over the batch.

    Returns:
      The new state, and scalar metrics: `gen/loss`, the cross-entropy in nats a code; `gen/bits`, a
      code; `gen/bits_per_dimension`, the bits of a frame's codes over its values: what the codes
      cost, not a likelihood of pixels.
    """
    key = common.step_key(state)

    def of_clips(batch, kept):
        del kept
        video = batch["video"]
        each = common.clip_keys(key, "window", batch)
        spare = video.shape[1] - gen.window + 1
        first = jax.vmap(lambda k: jax.random.randint(k, (), 0, spare))(each)
        at = first[:, None] + jnp.arange(gen.window)[None]
        video = common.to_float(common.take_frames(video, at))
        codes = gen.apply({"params": state.gen}, video, method="encode_codes")
        digits = to_digits(codes, gen.levels)
        label, given = common.labels(gen, batch), common.given(batch, key, gen)

        def loss(model):
            params = {"params": state.gen | {"model": model}}
            logits = gen.apply(params, codes, label, given, method="logits")
            nats = optax.softmax_cross_entropy_with_integer_labels(logits, digits)
            return jnp.mean(jnp.sum(nats, -1))

        return jax.value_and_grad(loss)(state.gen["model"]), None

    (loss, grads), _ = mean(of_clips, batch)
    new, norms = codec.update_model(state, grads, tx, ema_decay)
    bits = loss / math.log(2)
    return new, {
        "gen/loss": loss,
        "gen/bits": bits,
        "gen/bits_per_dimension": bits * gen.places / (3 * math.prod(height_width(gen.size))),
        **norms,
    }


def experiment(config: configs.Config, classes: int) -> common.Experiment:
    """Builds the training of a config; see `vidgen.methods.experiment`."""
    told = common.conditions(config)
    arguments, gen = common.build_network("generator", GENERATORS, config, classes, **told)
    data = config.data
    if gen.window > data.frames:
        raise ConfigError(
            f"config.generator.window is {gen.window}", f"at most data.frames={data.frames}"
        )
    step = functools.partial(prior_step, gen=gen)
    return codec.experiment(config, arguments, codec.phase(config, gen), "prior", step)
