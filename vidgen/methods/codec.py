"""The phase that methods of two stages begin with: a codec learns frames, then it stays.

A codec is trained to give back frames that look like those it was given: by the mean absolute
difference of pixels, by how far a frozen network sees them apart, and by a discriminator.

Reference: Esser et al., "Taming transformers for high-resolution image synthesis" (VQGAN), 2021;
  Mentzer et al., "Finite scalar quantization: VQ-VAE made simple", 2023.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, PyTree

from vidgen import config as configs
from vidgen import keys, models
from vidgen.config.fields import Field, Section, constant, cosine
from vidgen.errors import ConfigError
from vidgen.frame_size import height_width
from vidgen.methods import common, gan
from vidgen.methods.common import Batch, Metrics, Schedule
from vidgen.models.features import efficientnet_weights
from vidgen.models.features.distance import distance
from vidgen.models.heads import HeadsDiscriminator
from vidgen.models.protocol import example_noise
from vidgen.training import averaging, judgements, losses, nonfinite

DISCRIMINATORS = {"heads": HeadsDiscriminator}
DISCRIMINATOR = models.fields(DISCRIMINATORS, "heads", width=32, group=8)
OBJECTIVE: Section = {
    "codec_kclips": Field(
        500.0, "for the codec; the rest of the training, for the model of its codes", least=0.001
    ),
    "perceptual": Field(
        0.0, "weight of the distance of reconstructions by a frozen network's features", least=0
    ),
    "adversarial": Field(
        0.0, "weight of a discriminator's loss of reconstructions; 0: there is none", least=0
    ),
    "adversarial_kclips": Field(0.0, "clips after which it begins", least=0),
    "r1": Field(cosine(10.0, 1.0), "weight of the penalty on real frames", least=0),
    "r2": Field(cosine(10.0, 1.0), "weight of the penalty on reconstructed frames", least=0),
    "penalty_interval": Field(4, "steps from one with penalties to the next", least=1),
}
OPTIMIZER: Section = {
    "codec_learning_rate": Field(
        constant(1e-3), "of the codec and its discriminator", least=0, most=1000
    ),
}


@struct.dataclass
class State:
    """Everything that changes in training, as arrays.

    JAX makes it of shapes and shardings, too; so no field is checked to be an array.

    Attributes:
      step: Updates made, int32 scalar.
      key: Key of the run as raw data, uint32 `[2]`; never changes, all noise is folded from it.
      gen: Parameters of the generator: `codec`, and `model` of its latents.
      ema: The same with the exponential moving average of `model`; `codec` is a copy.
      codec_opt: Optimizer state of the codec.
      model_opt: Optimizer state of the model.
      dis: Parameters of the discriminator of the codec; None without.
      dis_opt: Its optimizer's state; None without.
    """

    step: PyTree
    key: PyTree
    gen: PyTree
    ema: PyTree
    codec_opt: PyTree
    model_opt: PyTree
    dis: PyTree = None
    dis_opt: PyTree = None


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a codec minimises, beside the mean absolute difference of values in [-1, 1].

    Attributes:
      perceptual: Weight of `distance`.
      adversarial: Weight of the discriminator's loss, averaged over its heads.
      r1: Weight of the gradient penalty on real clips, by step.
      r2: Weight of the gradient penalty on reconstructed clips, by step.
      pick: Frames drawn from each window; 0 for all.
    """

    perceptual: float
    adversarial: float
    r1: Schedule
    r2: Schedule
    pick: int


@dataclasses.dataclass(frozen=True)
class Players:
    """A generator whose parameters have a part `codec`, its discriminator, and their optimizers."""

    gen: Any
    codec_tx: optax.GradientTransformation
    dis: Any = None
    dis_tx: Any = None
    frozen: PyTree = None


def init(
    seed: common.Seed,
    *,
    players: Players,
    model_tx: optax.GradientTransformation,
    frames: int,
) -> State:
    """Makes the state of step 0: a pure function of the seed and the networks.

    Args:
      seed: Of the run.
      players: Networks and optimizers of the codec's phase.
      model_tx: Optimizer of the model of its latents.
      frames: Frames of a clip that the discriminator sees.
    """
    key, gen = keys.root(seed), players.gen
    params = gen.init(keys.named(key, "gen"), *example_noise(gen, 1), frames=1)["params"]
    dis = None
    if players.dis is not None:
        video = jnp.zeros((1, frames, *height_width(players.dis.size), 3))
        given = gan.example(players.dis, players.frozen, video), None, jnp.arange(frames)[None]
        dis = players.dis.init(keys.named(key, "dis"), *given)["params"]
    return State(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(key),
        gen=params,
        ema=jax.tree.map(jnp.copy, params),
        codec_opt=players.codec_tx.init(params["codec"]),
        model_opt=model_tx.init(params["model"]),
        dis=dis,
        dis_opt=None if dis is None else players.dis_tx.init(dis),
    )


def step(
    state: State,
    batch: Batch,
    *,
    players: Players,
    objective: Objective,
    judge: bool = False,
    penalize: bool = False,
    mean: Callable = averaging.mean,
) -> tuple[State, Metrics]:
    """Updates the discriminator where it judges, then the codec.

    Args:
      state: The state; its buffers may be donated.
      batch: `video` uint8 `[B, T, H, W, C]`, `index` int32 `[B]`, consecutive.
      players: Networks and optimizers.
      objective: What is minimised.
      judge: Whether the discriminator plays.
      penalize: Whether this step computes its penalties.
      mean: How functions of clips are averaged over the batch.

    Returns:
      The new state, and scalar metrics: `gen/loss`, as minimised; `codec/l1`, the mean absolute
      difference of values in [-1, 1]; `codec/psnr` in dB; `codec/perceptual`, the distance by
      features; `gen/adversarial` and `dis/...` where the discriminator plays.
    """
    key, dis, frozen = common.step_key(state), players.dis, players.frozen

    picked = functools.partial(common.picked, key, pick=objective.pick)

    def real_clips(batch: Batch) -> Float[Array, "batch time height width channel"]:
        return common.to_float(common.take_frames(batch["video"], picked(batch)))

    def reconstruct(batch: Batch):
        video = real_clips(batch)
        run = lambda codec: players.gen.apply(  # noqa: E731
            {"params": state.gen | {"codec": codec}}, video, method="reconstruct"
        )
        return jax.vjp(run, state.gen["codec"])

    def see(video: Float[Array, "batch time height width channel"]) -> PyTree:
        return dis.see(frozen, video)

    def of_discriminator(batch: Batch, kept):
        del kept
        kept, at = reconstruct(batch), picked(batch)
        real, fake = see(real_clips(batch)), see(kept[0])
        condition = losses.interleave((None, at), (None, at), dis.group)

        def judged(params):
            critic = lambda seen: dis.apply({"params": params}, seen, *condition)  # noqa: E731
            found = judgements.judge(critic, real, fake, group=dis.group, penalize=penalize)
            weights = objective.r1(state.step), objective.r2(state.step), None
            return judgements.discriminator_loss(found, "rpgan", *weights)

        (_, metrics), grads = jax.value_and_grad(judged, has_aux=True)(state.dis)
        return (grads, metrics), kept

    metrics, kept, new = {}, None, dataclasses.replace(state, step=state.step + 1)
    if judge:
        (grads, metrics), kept = mean(of_discriminator, batch)
        new, norms = common.update_discriminator(state, grads, players.dis_tx)
        metrics |= norms

    def of_codec(batch: Batch, kept):
        made, pullback = kept or reconstruct(batch)
        real, at = real_clips(batch), picked(batch)

        def minimised(made):
            total = jnp.mean(jnp.abs(made - real))
            metrics = {"codec/l1": total, "codec/error": jnp.mean((made - real) ** 2)}
            if objective.perceptual:
                frames = lambda video: video.reshape(-1, *video.shape[2:])  # noqa: E731
                apart = jnp.mean(distance(frozen, frames(made), frames(real)))
                metrics["codec/perceptual"] = apart
                total += objective.perceptual * apart
            if judge:
                judged = functools.partial(dis.apply, {"params": new.dis})
                on_real, on_made = (judged(see(x), None, at) for x in (real, made))
                heads = len(jax.tree.leaves(on_real))
                found = judgements.generator_loss(on_real, on_made, "rpgan") / heads
                metrics["gen/adversarial"] = found
                total += objective.adversarial * found
            return total, {"gen/loss": total, **metrics}

        (_, metrics), slopes = jax.value_and_grad(minimised, has_aux=True)(made)
        return (metrics, *pullback(slopes)), None

    (gen_metrics, grads), _ = mean(of_codec, batch, kept)
    error = gen_metrics.pop("codec/error")
    gen_metrics["codec/psnr"] = -10 * jnp.log10(error / 4)
    codec = state.gen["codec"]
    updates, codec_opt = players.codec_tx.update(grads, state.codec_opt, codec)
    codec = optax.apply_updates(codec, updates)
    new = dataclasses.replace(
        new,
        gen=state.gen | {"codec": codec},
        ema=state.ema | {"codec": jax.tree.map(jnp.copy, codec)},  # an alias could not be donated
        codec_opt=codec_opt,
    )
    norms = {"gen/grad": optax.tree.norm(grads), "gen/norm": optax.tree.norm(new.gen)}
    return new, {**metrics, **gen_metrics, **norms}


def update_model(
    state: State,
    grads: PyTree,
    tx: optax.GradientTransformation,
    ema_decay: Schedule,
) -> tuple[State, Metrics]:
    """Updates the model of the latents and its average; the codec stays as it is.

    Returns:
      The state after the step, and norms of gradients and parameters.
    """
    updates, model_opt = tx.update(grads, state.model_opt, state.gen["model"])
    model = optax.apply_updates(state.gen["model"], updates)
    ema = common.update_average(state.ema["model"], model, ema_decay(state.step))
    new = dataclasses.replace(
        state,
        step=state.step + 1,
        gen=state.gen | {"model": model},
        ema=state.ema | {"model": ema},
        model_opt=model_opt,
    )
    return new, {
        "gen/grad": optax.tree.norm(grads),
        "gen/norm": optax.tree.norm(new.gen),
        "gen/ema": optax.tree.norm(new.ema),
    }


# -------------------------------------------------------------------------- from a config


@dataclasses.dataclass(frozen=True)
class Phase:
    """The first phase of a training.

    Attributes:
      players: Networks and optimizers.
      steps: By kind, as in `common.Experiment`.
      border: Steps of the phase.
      judged: Steps before the discriminator plays.
      interval: Steps from one with penalties to the next.
      together: Clips that must be computed together.
    """

    players: Players
    steps: dict[str, Callable]
    border: int
    judged: int
    interval: int
    together: int

    def kind(self, at: int) -> str:
        """Returns the kind of step number `at` of the phase."""
        if self.players.dis is None or at < self.judged:
            return "codec"
        since = at - self.judged
        return "codec judged" if since % self.interval else "codec judged, penalties"


def phase(config: configs.Config, gen: Any) -> Phase:
    """Builds the first phase of a config.

    Raises:
      ConfigError: It does not end with a dispatch, or before its discriminator would begin.
    """
    asked, data = config.objective, config.data
    border = common.steps(config, asked.codec_kclips)
    common.check_border(config, "codec_kclips", border)
    judged = common.steps(config, asked.adversarial_kclips) if asked.adversarial_kclips else 0
    if asked.adversarial and judged >= border:
        raise ConfigError(
            f"config.objective.adversarial_kclips is {asked.adversarial_kclips}",
            f"below config.objective.codec_kclips={asked.codec_kclips}, or its discriminator never "
            "plays",
        )
    optimizer = functools.partial(common.optimizer, config, rate="codec_learning_rate")
    players: dict[str, Any] = {"gen": gen, "codec_tx": optimizer(total=border)}
    together = 1
    if asked.adversarial:
        _, dis = common.build_network("discriminator", DISCRIMINATORS, config, 0)
        players |= {"dis": dis, "dis_tx": optimizer(total=border)}
        together = common.together(config, dis)
    if asked.perceptual or (asked.adversarial and players["dis"].pretrained):
        players["frozen"] = efficientnet_weights.load()
    made = Players(**players)
    schedule = functools.partial(common.schedule, config, total=border)
    objective = Objective(
        perceptual=asked.perceptual,
        adversarial=asked.adversarial,
        r1=common.optimizers.times(asked.penalty_interval, schedule(asked.r1)),
        r2=common.optimizers.times(asked.penalty_interval, schedule(asked.r2)),
        pick=data.pick,
    )
    bound = functools.partial(step, players=made, objective=objective)
    kinds: dict[str, dict[str, bool]] = {"codec": {}}
    if asked.adversarial:
        kinds = {
            "codec judged, penalties": {"judge": True, "penalize": True},
            "codec judged": {"judge": True},
            "codec": {},
        }
    return Phase(
        players=made,
        steps={name: functools.partial(bound, **how) for name, how in kinds.items()},
        border=border,
        judged=judged,
        interval=asked.penalty_interval,
        together=together,
    )


def experiment(
    config: configs.Config,
    generator: dict[str, Any],
    phase: Phase,
    name: str,
    model_step: Callable,
) -> common.Experiment:
    """Joins both phases: the codec's, and that of the model of its latents.

    Args:
      config: The run's.
      generator: Arguments of the generator.
      phase: The first phase.
      name: Of the second.
      model_step: Its step, which takes its optimizer as `tx` and the decay as `ema_decay`.
    """
    for role in config.parallel.remat:
        common.refuse_remat(config, role, DISCRIMINATORS if role == "discriminator" else {})
    total, average = common.total_steps(config), common.ema_decay(config)
    tx = common.optimizer(config, total=max(total - phase.border, 1))
    second = functools.partial(
        model_step, tx=tx, ema_decay=lambda step: average(step - phase.border)
    )
    frames = config.data.pick or config.data.frames
    return common.Experiment(
        generator=generator,
        init=functools.partial(init, players=phase.players, model_tx=tx, frames=frames),
        steps={kind: nonfinite.guarded(one) for kind, one in {name: second, **phase.steps}.items()},
        kind=lambda at: phase.kind(at) if at < phase.border else name,
        optimizers={},
        total=total,
        together=phase.together,
        phases=(next(iter(phase.steps)), name),
    )
