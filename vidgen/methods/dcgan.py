"""The textbooks' GAN: `State`, `init`, `step`.

Discriminator and generator take turns. Real and generated clips are judged apart, so that batch
normalisation sees one kind at a time.

Reference: Goodfellow et al., "Generative adversarial networks", 2014; Radford, Metz and Chintala,
  "DCGAN", 2016.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vidgen import config as configs
from vidgen import keys, models
from vidgen.config.fields import Field, constant
from vidgen.methods import common
from vidgen.methods.common import Batch, Made, Metrics, Players, Schedule, State
from vidgen.methods.gan import init
from vidgen.models.dcgan import DcganDiscriminator, DcganGenerator
from vidgen.models.normalization import groups
from vidgen.training import averaging, losses, nonfinite, spectral

__all__ = ["State", "experiment", "init", "step"]

GENERATORS = {"dcgan": DcganGenerator}
DISCRIMINATORS = {"dcgan": DcganDiscriminator}
SQUARE = True  # as published
FIELDS = common.fields(
    {
        "generator": models.fields(GENERATORS, "dcgan"),
        "discriminator": models.fields(DISCRIMINATORS, "dcgan"),
        "objective": {
            "loss": Field("non_saturating", "adversarial loss", choices=tuple(losses.LOSSES)),
            "discriminator_steps": Field(
                1, "updates of the discriminator for one of the generator", least=1, most=1000
            ),
            "spectral": Field(False, "no singular value of the discriminator's kernels above one"),
        },
        "optimizer": common.TWO_OPTIMIZERS,
    },
    optimizer={"b1": 0.5, "b2": constant(0.999)},  # as published
)


def step(
    state: State,
    batch: Batch,
    *,
    players: Players,
    loss: str,
    ema_decay: Schedule,
    play: bool = True,
    mean: Callable = averaging.mean,
) -> tuple[State, Metrics]:
    """Updates the discriminator, then the generator, then the average.

    Args:
      state: The state; its buffers may be donated.
      batch: `video` uint8 `[B, T, H, W, C]`, `index` int32 `[B]`, `label` int32 `[B]`.
      players: Networks and optimizers.
      loss: Name of a pair in `losses.LOSSES`; "non_saturating" is binary cross-entropy.
      ema_decay: Share of the average that stays in one step, by step.
      play: Whether this step updates the generator; otherwise the discriminator alone.
      mean: How functions of clips are averaged over the batch.

    Returns:
      The new state, and scalar metrics named `dis/...` and `gen/...`.

    Raises:
      ConfigError: `norm_clips` does not divide the clips computed together.
    """
    key, gen, dis = common.step_key(state), players.gen, players.dis
    frames = batch["video"].shape[1]
    dis_loss, gen_loss = losses.LOSSES[loss]

    def generate(batch):
        """Makes the clips that both players see."""
        noise = common.draw(keys.named(key, "noise"), batch["index"], gen=gen, frames=frames)
        parts = groups(len(batch["index"]), gen.norm_clips)

        def run(params):
            video, found = gen.apply(
                {"params": params}, *noise, common.labels(gen, batch), frames=frames, parts=parts,
                mutable="stats",
            )  # fmt: skip
            return video, found.get("stats", {})

        return Made(*jax.vjp(run, state.gen, has_aux=True))

    # A state without vectors is one without spectral normalisation.
    vectors = None if state.vectors is None else spectral.step(state.dis, state.vectors)

    def judge(params, video, batch):
        if vectors is not None:
            params = spectral.normalized(params, vectors)
        parts = groups(len(batch["index"]), dis.norm_clips)
        return dis.apply({"params": params}, video, common.labels(gen, batch), parts)

    def of_discriminator(batch, kept):
        del kept
        made, real = generate(batch), common.to_float(batch["video"])

        def minimised(params):
            on_real, on_fake = judge(params, real, batch), judge(params, made.seen, batch)
            value = dis_loss(on_real, on_fake)
            return value, {
                "dis/loss": value,
                "dis/real": jnp.mean(on_real),
                "dis/fake": jnp.mean(on_fake),
                "dis/accuracy": jnp.mean(on_real > on_fake),
            }

        (_, metrics), grads = jax.value_and_grad(minimised, has_aux=True)(state.dis)
        return (grads, metrics, made.stats), made

    (grads, metrics, stats), kept = mean(of_discriminator, batch)
    new, norms = common.update_discriminator(state, grads, players.dis_tx)
    new, metrics = dataclasses.replace(new, vectors=vectors), {**metrics, **norms}
    if not play:
        return new, metrics

    def of_generator(batch, kept):
        fake, pullback, _ = kept or generate(batch)
        on_real = jnp.zeros(())
        if loss in losses.PAIRED:
            on_real = judge(new.dis, common.to_float(batch["video"]), batch)
        value, slopes = jax.value_and_grad(
            lambda video: gen_loss(on_real, judge(new.dis, video, batch))
        )(fake)
        return (value, *pullback(slopes)), None

    (value, grads), _ = mean(of_generator, batch, kept)
    new, norms = common.update_generator(new, grads, stats, players.gen_tx, ema_decay(state.step))
    return new, {**metrics, "gen/loss": value, **norms}


def experiment(config: configs.Config, classes: int) -> common.Experiment:
    """Builds the training of a config; see `vidgen.methods.experiment`."""
    frames, each = config.data.frames, config.objective.discriminator_steps
    more = {"length": frames}
    arguments, gen = common.build_network("generator", GENERATORS, config, classes, **more)
    _, dis = common.build_network("discriminator", DISCRIMINATORS, config, classes, **more)
    players = Players(gen, dis, **common.two_optimizers(config))
    bound = functools.partial(
        step, players=players, loss=config.objective.loss, ema_decay=common.ema_decay(config)
    )
    return common.Experiment(
        generator=arguments,
        init=functools.partial(
            init, players=players, frames=frames, normalize=config.objective.spectral
        ),
        steps={
            name: nonfinite.guarded(functools.partial(bound, play=name == "whole"))
            for name in ("whole", "dis")
        },
        kind=lambda at: "dis" if (at + 1) % each else "whole",
        optimizers={"gen": players.gen_tx, "dis": players.dis_tx},
        total=common.total_steps(config),
        together=common.together(config, gen, dis),
    )
