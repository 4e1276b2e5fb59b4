"""The variational autoencoder: `State`, `init`, `step`; with or without a discriminator.

The parameters of encoder and decoder are one tree, `gen`, and so is their average: what is sampled
is the decoder, on noise from the prior.

Reference: Kingma and Welling, "Auto-encoding variational Bayes", 2014; Larsen et al., "Autoencoding
  beyond pixels using a learned similarity metric", 2016, for a discriminator of reconstructions;
  Sohn et al., "Learning structured output representation using deep conditional generative models",
  2015, for conditions.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import PyTree

from vidgen import config as configs
from vidgen import keys, models
from vidgen.config.fields import PICK, Field, constant
from vidgen.frame_size import height_width
from vidgen.methods import common, gan
from vidgen.methods.common import Batch, Metrics, Schedule
from vidgen.models import conditions as conditioning
from vidgen.models.protocol import Generator
from vidgen.models.vae import VariationalAutoencoder
from vidgen.training import averaging, judgements, losses, nonfinite

GENERATORS = {"vae": VariationalAutoencoder}
DISCRIMINATORS = gan.DISCRIMINATORS
FIELDS = common.fields(
    {
        "data": PICK,
        "generator": models.fields(
            GENERATORS,
            "vae",
            widths=(192, 128, 96),
            style=192,
            encoder_widths=(96, 128, 192),
            features=192,
        ),
        "discriminator": gan.DISCRIMINATOR,
        "conditions": {},
        "objective": {
            "reconstruction": Field(
                "mse", "likelihood of clips about what is made", choices=tuple(losses.LIKELIHOODS)
            ),
            "scale": Field(
                0.1, "of the noise that mse and l1 assume, for values in [-1, 1]", least=1e-3
            ),
            "beta": Field(
                constant(1.0), "weight of the KL divergence; 1: the evidence lower bound", least=0
            ),
            "adversarial": Field(
                0.0, "weight of a discriminator's loss; 0: there is none", least=0
            ),
            "loss": Field("non_saturating", "adversarial loss", choices=tuple(losses.LOSSES)),
            "r1": Field(
                constant(1.0), "weight of the penalty on real clips; sums over pixels", least=0
            ),
            "r2": Field(constant(1.0), "weight of the penalty on reconstructed clips", least=0),
        },
        "optimizer": common.TWO_OPTIMIZERS,
    },
    optimizer={"b1": 0.9, "b2": constant(0.999)},
)


@struct.dataclass
class State:
    """Everything that changes in training, as arrays.

    JAX makes it of shapes and shardings, too; so no field is checked to be an array.

    Attributes:
      step: Updates made, int32 scalar.
      key: Key of the run as raw data, uint32 `[2]`; never changes, all noise is folded from it.
      gen: Parameters of encoder and decoder.
      ema: Exponential moving average of `gen`.
      gen_opt: Their optimizer's state.
      dis: Parameters of the discriminator; None without.
      dis_opt: Its optimizer's state; None without.
    """

    step: PyTree
    key: PyTree
    gen: PyTree
    ema: PyTree
    gen_opt: PyTree
    dis: PyTree = None
    dis_opt: PyTree = None


def init(
    seed: common.Seed,
    *,
    gen: Generator,
    gen_tx: optax.GradientTransformation,
    dis: Any = None,
    dis_tx: Any = None,
    frozen: PyTree = None,
    frames: int,
    pick: int = 0,
) -> State:
    """Makes the state of step 0: a pure function of the seed and the modules."""
    key = keys.root(seed)
    params, judge = common.init_generator(key, gen, frames), None
    if dis is not None:
        label = jnp.zeros((1,), jnp.int32) if gen.classes else None
        video = jnp.zeros((1, pick or frames, *height_width(gen.size), 3))
        picked = jnp.arange(pick)[None] if pick else None
        seen = gan.example(dis, frozen, video)
        judge = dis.init(keys.named(key, "dis"), seen, label, picked)["params"]
    return State(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(key),
        gen=params,
        ema=jax.tree.map(jnp.copy, params),
        gen_opt=gen_tx.init(params),
        dis=judge,
        dis_opt=None if dis is None else dis_tx.init(judge),
    )


def step(
    state: State,
    batch: Batch,
    *,
    gen: Generator,
    gen_tx: optax.GradientTransformation,
    reconstruction: str,
    scale: float,
    beta: Schedule,
    ema_decay: Schedule,
    dis: Any = None,
    dis_tx: Any = None,
    frozen: PyTree = None,
    adversarial: float = 0.0,
    loss: str = "non_saturating",
    r1: Schedule | None = None,
    r2: Schedule | None = None,
    pick: int = 0,
    mean: Callable = averaging.mean,
) -> tuple[State, Metrics]:
    """Updates the discriminator where there is one, then encoder and decoder, then the average.

    What is minimised is `(beta * KL - log likelihood) / n`, for each clip of n values: at beta 1
    minus the evidence lower bound (ELBO) of the clip given its label, a value. The log likelihood
    is that of `losses.LIKELIHOODS` with all its constants, of densities of values in [-1, 1]
    for "mse" and "l1": log(127.5) n less is the bound of the levels 0..255.

    Args:
      state: The state; its buffers may be donated.
      batch: `video` uint8 `[B, T, H, W, C]`, `index` int32 `[B]`, `label` int32 `[B]`, and what
        conditions are read of, by their names.
      gen: A `VariationalAutoencoder`.
      gen_tx: Its optimizer.
      reconstruction: Name of a likelihood in `losses.LIKELIHOODS`.
      scale: Of its noise, in units of video in [-1, 1].
      beta: Weight of the KL divergence, by step.
      ema_decay: Share of the average that stays in one step, by step.
      dis: Discriminator of reconstructions; None for none.
      dis_tx: Optimizer of the discriminator.
      frozen: Weights of the pretrained network that the discriminator sees by; None without.
      adversarial: Weight of the loss by the discriminator beside the bound a value.
      loss: Name of a pair in `losses.LOSSES`.
      r1: Weight of the gradient penalty on real clips, by step.
      r2: Weight of the gradient penalty on reconstructed clips, by step.
      pick: Frames of each window that are reconstructed; 0 for all. The encoder sees all, and the
        likelihood of the rest is taken to be the same.
      mean: How functions of clips are averaged over the batch.

    Returns:
      The new state, and scalar metrics: `gen/loss`, as minimised; `gen/elbo`, the bound at beta 1,
      and `gen/kl`, its part, both in nats a clip; `gen/reconstruction`, minus the log likelihood in
      nats a value; `gen/error`, the root of the mean squared error of values in [-1, 1]; `gen/...`
      and `dis/...` as of the GAN.
    """
    key = common.step_key(state)
    frames, values = batch["video"].shape[1], batch["video"][0].size
    likelihood = losses.LIKELIHOODS[reconstruction]

    def condition(batch):
        """Returns labels and picked frames, where there are any."""
        return common.labels(gen, batch), common.picked(key, batch, pick)

    def asked(params, batch):
        """Returns conditions as the discriminator is told them."""
        if not gen.conditions:
            return ()
        return (conditioning.asked(dis, params, *common.told(batch, key, gen, pick)),)

    def real_clips(batch):
        return common.to_float(common.take_frames(batch["video"], condition(batch)[1]))

    def reconstruct(batch):
        """Makes reconstructions and the KL of each clip, and the pullback to the parameters."""
        # Noise of the prior, where the windows begin, too.
        noise = common.draw(keys.named(key, "posterior"), batch["index"], gen=gen, frames=frames)
        content, motion, cycle, start = noise
        label, picked = condition(batch)
        told = (common.given(batch, key, gen),) if gen.conditions else ()
        whole = common.to_float(batch["video"])

        def run(params):
            of, how = gen.apply({"params": params}, whole, start, label, method="encode")
            latents = [losses.reparameterized(q, e) for q, e in ((of, content), (how, motion))]
            made = gen.apply(
                {"params": params}, *latents, cycle, start, label, picked, *told, frames=frames
            )
            return made, losses.gaussian_kl(*of) + losses.gaussian_kl(*how)

        return jax.vjp(run, state.gen)

    def judge(params, seen, condition):
        return dis.apply({"params": params}, seen, *condition)

    def see(video):
        return dis.see(frozen, video)

    def of_discriminator(batch, kept):
        del kept
        kept = reconstruct(batch)
        real, fake = see(real_clips(batch)), see(kept[0][0])

        def judged(params):
            one = (*condition(batch), *asked(params, batch))
            given = losses.interleave(one, one, dis.group)
            critic = lambda seen: judge(params, seen, given)  # noqa: E731
            found = judgements.judge(critic, real, fake, group=dis.group)
            return judgements.discriminator_loss(found, loss, r1_now, r2_now, None)

        (_, metrics), grads = jax.value_and_grad(judged, has_aux=True)(state.dis)
        return (grads, metrics), kept

    metrics, kept, new = {}, None, dataclasses.replace(state, step=state.step + 1)
    if dis is not None:
        r1_now, r2_now = (0.0 if r is None else r(state.step) for r in (r1, r2))
        (grads, metrics), kept = mean(of_discriminator, batch)
        new, norms = common.update_discriminator(state, grads, dis_tx)
        metrics |= norms
    weight = beta(state.step)

    def of_generator(batch, kept):
        made, pullback = kept or reconstruct(batch)
        real = real_clips(batch)

        def bounded(made):
            video, kl = made
            fit = likelihood(real, video, scale) * (values / real[0].size)
            total = jnp.mean(weight * kl - fit) / values
            metrics = {
                "gen/reconstruction": -jnp.mean(fit) / values,
                "gen/kl": jnp.mean(kl),
                "gen/elbo": jnp.mean(fit - kl),
                "gen/error": jnp.mean((video - real) ** 2),
            }
            if dis is not None:
                given = (*condition(batch), *asked(new.dis, batch))
                on_real, on_fake = (judge(new.dis, see(x), given) for x in (real, video))
                metrics["gen/adversarial"] = judgements.generator_loss(on_real, on_fake, loss)
                total += adversarial * metrics["gen/adversarial"]
            return total, {"gen/loss": total, **metrics}

        (_, metrics), slopes = jax.value_and_grad(bounded, has_aux=True)(made)
        return (metrics, *pullback(slopes)), None

    (gen_metrics, grads), _ = mean(of_generator, batch, kept)
    gen_metrics["gen/error"] = jnp.sqrt(gen_metrics["gen/error"])
    new, norms = common.update_generator(new, grads, {}, gen_tx, ema_decay(state.step))
    return new, {**metrics, **gen_metrics, **norms}


def experiment(config: configs.Config, classes: int) -> common.Experiment:
    """Builds the training of a config; see `vidgen.methods.experiment`."""
    asked, pick = config.objective, config.data.pick
    schedule = functools.partial(common.schedule, config)
    told = common.conditions(config)
    arguments, gen = common.build_network("generator", GENERATORS, config, classes, **told)
    players: dict[str, Any] = {"gen": gen, "gen_tx": common.optimizer(config)}
    judge: dict[str, Any] = {}
    optimizers = {"gen": players["gen_tx"]}
    if asked.adversarial:
        _, dis = common.build_network("discriminator", DISCRIMINATORS, config, classes, **told)
        common.check_fold(config, dis)
        optimizers["dis"] = common.two_optimizers(config)["dis_tx"]
        players |= {"dis": dis, "dis_tx": optimizers["dis"], "frozen": gan.pretrained(dis)}
        judge = {name: schedule(asked[name]) for name in ("r1", "r2")}
        judge |= {"adversarial": asked.adversarial, "loss": asked.loss}
    bound = functools.partial(
        step,
        **players,
        **judge,
        reconstruction=asked.reconstruction,
        scale=asked.scale,
        beta=schedule(asked.beta),
        pick=pick,
        ema_decay=common.ema_decay(config),
    )
    return common.Experiment(
        generator=arguments,
        init=functools.partial(init, **players, frames=config.data.frames, pick=pick),
        steps={"whole": nonfinite.guarded(bound)},
        kind=lambda at: "whole",
        optimizers=optimizers,
        total=common.total_steps(config),
        together=common.together(config, gen, *([players["dis"]] if asked.adversarial else ())),
    )
