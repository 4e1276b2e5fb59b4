"""The video GAN: relativistic pairing with zero-centred gradient penalties.

With s = softplus, for real clips x and generated ones G, paired by label:

    L_D = E[s(D(G) - D(x))] + r1/2 E|dD(x)/dx|^2 + r2/2 E|dD(G)/dG|^2
    L_G = E[s(D(x) - D(G))]

Other losses go by name. What a step may have beside them (picked frames, augmentation, wrong labels
as fakes, spectral normalisation, lazy penalties) is composed around the two losses.

Reference: Huang et al., "The GAN is dead; long live the GAN!" (R3GAN), 2024; Reed et al.,
  "Generative adversarial text to image synthesis", 2016, for wrong labels as fakes; Skorokhodov et
  al., "StyleGAN-V", 2022, for picked frames.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from vidgen import config as configs
from vidgen import keys, models
from vidgen.config.fields import LOOKS, PICK, Field, constant
from vidgen.errors import ConfigError
from vidgen.frame_size import height_width
from vidgen.methods import common
from vidgen.methods.common import Batch, Made, Metrics, Players, Schedule, State
from vidgen.models import conditions as conditioning
from vidgen.models.features import efficientnet_weights
from vidgen.models.features.distance import distance
from vidgen.models.heads import HeadsDiscriminator
from vidgen.models.protocol import Discriminator, Generator
from vidgen.models.residual import ResidualDiscriminator, ResidualGenerator
from vidgen.models.transformer import TransformerDiscriminator, TransformerGenerator
from vidgen.training import augment, averaging, judgements, losses, nonfinite, spectral

__all__ = ["State", "experiment", "init", "step"]

GENERATORS = {"residual": ResidualGenerator, "transformer": TransformerGenerator}
DISCRIMINATORS = {
    "residual": ResidualDiscriminator,
    "heads": HeadsDiscriminator,
    "transformer": TransformerDiscriminator,
}
LOSS = Field("rpgan", "adversarial loss", choices=tuple(losses.LOSSES))
DISCRIMINATOR = models.fields(DISCRIMINATORS, "heads")
FIELDS = common.fields(
    {
        "data": {**PICK, **LOOKS},
        "generator": models.fields(GENERATORS, "residual", widths=(192, 128, 96), style=192),
        "discriminator": DISCRIMINATOR,
        "conditions": {},
        "objective": {
            "loss": LOSS,
            "adversarial": Field(
                1.0, "weight of the adversarial loss; 0: no discriminator plays", least=0
            ),
            "l1": Field(0.0, "weight of the distance to the clip that conditions are of", least=0),
            "mse": Field(0.0, "weight of the squared distance to it", least=0),
            "perceptual": Field(
                0.0, "weight of the distance to it by a frozen network's features", least=0
            ),
            "r1": Field(
                constant(1.0), "weight of the penalty on real clips; sums over pixels", least=0
            ),
            "r2": Field(constant(1.0), "weight of the penalty on generated clips", least=0),
            "penalty_interval": Field(1, "penalties every n-th step, n times as heavy", least=1),
            "penalty_sigma": Field(
                0.0, "penalties by finite differences of this length; 0: by gradients", least=0
            ),
            "discriminator_steps": Field(
                1, "updates of the discriminator for one of the generator", least=1, most=1000
            ),
            "spectral": Field(False, "no singular value of the discriminator's kernels above one"),
            "mismatch": Field(
                constant(0.0), "weight of real clips with a wrong label as fakes", least=0
            ),
            "gap_mismatch": Field(
                constant(0.0), "weight of clips with wrong gaps between frames as fakes", least=0
            ),
            "augmentations": Field(
                (), "augmentations of all clips", choices=tuple(augment.AUGMENTATIONS)
            ),
            "augment_p": Field(constant(0.0), "probability of each", least=0, most=1),
        },
        "optimizer": common.TWO_OPTIMIZERS,
    }
)

Video = Float[Array, "batch time height width channel"]
_ALONG = ("along real", "along fake")  # what finite differences draw


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a step minimises and what it sees of clips.

    Attributes:
      loss: Name of a pair in `losses.LOSSES`.
      r1: Weight of the gradient penalty on real clips, by step.
      r2: Weight of the gradient penalty on generated clips, by step.
      ema_decay: Share of the average that stays in one step, by step.
      augment_p: Probability of each augmentation, by step.
      augmentations: Names in `augment.AUGMENTATIONS`.
      mismatch: Weight of the loss of real clips with a wrong label or caption as fakes, by step;
        None, or neither: without it. It teaches the discriminator classes from the start, before
        the generator is good enough for a wrong class to be what gives it away; kept up to the end
        it makes caricatures, so let it fade.
      gap_mismatch: Weight of the loss of real clips as fakes, of whose picked frames the heads are
        told gaps that are drawn anew, by step; None, or no frames picked: without it. It teaches
        the discriminator how fast things are, before a wrong speed gives the generator away.
      pick: Frames drawn from each window, real and generated alike; 0 for all. Fewer frames of
        more clips show more contents in the same time.
      sigma: Length of the finite differences that estimate the penalties; 0: by their gradients.
      adversarial: Weight of the generator's adversarial loss; 0: the discriminator does not play.
      distances: Weights of distances to the real clips, by name, of `DISTANCES`.
    """

    loss: str
    r1: Schedule
    r2: Schedule
    ema_decay: Schedule
    augment_p: Schedule
    augmentations: tuple[str, ...] = ()
    mismatch: Schedule | None = None
    gap_mismatch: Schedule | None = None
    pick: int = 0
    sigma: float = 0.0
    adversarial: float = 1.0
    distances: tuple[tuple[str, float], ...] = ()


def _of_frames(frozen: PyTree, fake: Video, real: Video) -> Float[Array, " batch"]:
    frames = lambda video: video.reshape(-1, *video.shape[2:])  # noqa: E731
    return distance(frozen, frames(fake), frames(real)).reshape(fake.shape[:2]).mean(1)


# Of generated clips to the real ones that their conditions are of: `(frozen, fake, real) -> [B]`.
DISTANCES = {
    "l1": lambda frozen, fake, real: jnp.abs(fake - real).mean((1, 2, 3, 4)),
    "mse": lambda frozen, fake, real: ((fake - real) ** 2).mean((1, 2, 3, 4)),
    "perceptual": _of_frames,
}


def step(
    state: State,
    batch: Batch,
    *,
    players: Players,
    objective: Objective,
    frozen: PyTree = None,
    penalize: bool = True,
    play: bool = True,
    mean: Callable = averaging.mean,
) -> tuple[State, Metrics]:
    """Updates the discriminator, then the generator, then the average.

    Args:
      state: The state; its buffers may be donated.
      batch: `video` uint8 `[B, T, H, W, C]`, `index` int32 `[B]`, `label` int32 `[B]`, and what
        conditions are read of, by their names.
      players: Networks and optimizers.
      objective: What is minimised.
      frozen: Weights of the pretrained network that the discriminator sees by; None without.
      penalize: Whether this step computes the penalties (lazy regularisation skips some).
      play: Whether this step updates the generator; otherwise the discriminator alone.
      mean: How functions of clips are averaged over the batch: `averaging.mean`, with the
        arguments that devices and memory ask for bound to it.

    Returns:
      The new state, and scalar metrics named `dis/...` and `gen/...`.
    """
    key, gen, loss = common.step_key(state), players.gen, objective.loss
    weight = lambda schedule: schedule(state.step)  # noqa: E731
    conditions = gen.conditions
    candidates = gen.classes or any(conditioning.KINDS[name].column for name, _ in conditions)
    mismatch = objective.mismatch if candidates else None
    gap_mismatch = objective.gap_mismatch if objective.pick else None
    # A state without vectors is one without spectral normalisation.
    vectors = None if state.vectors is None else spectral.step(state.dis, state.vectors)
    augment_p = weight(objective.augment_p)

    def see(video, batch, purpose):
        each = common.clip_keys(key, purpose, batch)
        video = augment.apply(video, each, augment_p, objective.augmentations)
        return players.dis.see(frozen, video)

    generate = functools.partial(
        _generate,
        state.gen,
        key=key,
        players=players,
        pick=objective.pick,
        see=see,
        whole=bool(objective.distances),
    )
    real_clips = lambda batch: see(  # noqa: E731
        _real_frames(batch, key, objective.pick), batch, "augment real"
    )

    def asked(params, told):
        """Returns conditions as the discriminator is told them, read once for all it judges."""
        if not conditions:
            return ()
        normal = params if vectors is None else spectral.normalized(params, vectors)
        return (conditioning.asked(players.dis, normal, *told),)

    told = functools.partial(common.told, key=key, gen=gen, pick=objective.pick)
    judged = functools.partial(_judged, dis=players.dis, vectors=vectors)
    judge = functools.partial(
        judgements.judge,
        group=players.dis.group,
        candidates=mismatch is not None,
        penalize=penalize,
        sigma=objective.sigma,
    )

    def of_discriminator(batch, kept):
        del kept
        made, real = generate(batch), real_clips(batch)
        fake = made.seen[0] if objective.distances else made.seen
        label, at = _condition(batch, key, gen, objective.pick)
        clips, wrong, counted = told(batch), None, None
        if mismatch is not None:
            label, wrong, counted = _mismatched(label, clips[0], batch, key, gen, players.dis.group)

        def minimised(params):
            more = asked(params, clips)
            if wrong is not None:
                more = tuple(conditioning.with_wrong(x, wrong, players.dis.group) for x in more)
            condition = losses.interleave((label, at, *more), (label, at, *more), players.dis.group)
            critic = lambda seen: judged(params, seen, *condition)  # noqa: E731
            weights = weight(objective.r1), weight(objective.r2), mismatch and weight(mismatch)
            along = [common.clip_keys(key, purpose, batch) for purpose in _ALONG]
            judgement = judge(critic, real, fake, along=along)
            total, metrics = judgements.discriminator_loss(judgement, loss, *weights, counted)
            if gap_mismatch is None:
                return total, metrics
            gaps = common.picked(key, batch, objective.pick, "wrong gaps")
            elsewhere = judged(params, real, label, gaps, *more)
            pairs = _of_gaps(judgement.real), _of_gaps(elsewhere)
            metrics["dis/gap_mismatch"] = losses.of_heads(losses.LOSSES[loss][0], *pairs)
            return total + weight(gap_mismatch) * metrics["dis/gap_mismatch"], metrics

        (_, metrics), grads = jax.value_and_grad(minimised, has_aux=True)(state.dis)
        return (grads, metrics, made.stats), (made, real)

    if objective.adversarial:
        (grads, dis_metrics, stats), kept = mean(of_discriminator, batch)
        new, norms = common.update_discriminator(state, grads, players.dis_tx)
        new, dis_metrics = dataclasses.replace(new, vectors=vectors), {**dis_metrics, **norms}
    else:
        new, dis_metrics, stats, kept = (
            dataclasses.replace(state, step=state.step + 1), {}, {}, None
        )  # fmt: skip
    if not play:
        return new, dis_metrics

    def of_generator(batch, kept):
        made, real = kept or (generate(batch), real_clips(batch))
        clips = told(batch)
        more = asked(new.dis, clips) if objective.adversarial else ()
        condition = *_condition(batch, key, gen, objective.pick), *more
        critic = lambda seen: judged(new.dis, seen, *condition)  # noqa: E731
        if not objective.distances:
            adversarial = lambda fake: (  # noqa: E731
                objective.adversarial * judgements.generator_loss(critic(real), critic(fake), loss)
            )
            value, slopes = jax.value_and_grad(adversarial)(made.seen)
            return (value, *made.pullback(slopes), {}), None
        frames = _real_frames(batch, key, objective.pick)
        shown = conditioning.shown_in_space(conditions, clips[0])

        def minimised(both):
            fake, video = both
            total = jnp.zeros(())
            if objective.adversarial:
                said = judgements.generator_loss(critic(real), critic(fake), loss)
                total += objective.adversarial * said
            # Clips of which nothing was told are no example: what is made of them is free.
            metrics = {
                name: jnp.mean(shown * DISTANCES[name](frozen, video, frames))
                for name, _ in objective.distances
            }
            total += sum(metrics[name] * weight for name, weight in objective.distances)
            return total, {f"gen/{name}": x for name, x in metrics.items()}

        (value, metrics), slopes = jax.value_and_grad(minimised, has_aux=True)(made.seen)
        return (value, *made.pullback(slopes), metrics), None

    (value, grads, metrics), _ = mean(of_generator, batch, kept)
    decay = weight(objective.ema_decay)
    new, norms = common.update_generator(new, grads, stats, players.gen_tx, decay, players.part)
    return new, {**dis_metrics, **metrics, "gen/loss": value, **norms}


def _mismatched(
    label: Int[Array, " batch"] | None,
    given: conditioning.Given,
    batch: Batch,
    key: Key[Array, ""],
    gen: Generator,
    group: int,
) -> tuple[
    Int[Array, " batch *candidate"] | None,
    Bool[Array, "batch other"] | None,
    Bool[Array, "batch other"] | None,
]:
    """Returns candidate labels, the right one first, whose captions are taken, and what is wrong.

    Candidates are the classes and captions of other clips. Where there are both, half of the clips
    have wrong ones of either: if both were wrong at once, the class alone would give it away. Of
    candidates that are the same, one counts.
    """
    each = common.clip_keys(key, "mismatch", batch)
    wrong = conditioning.differs(given, group)
    if not gen.classes:
        return None, wrong, wrong
    other = wrong_labels(each, batch["label"], gen.classes)
    counted = wrong
    if wrong is not None:
        of_class = keys.uniform(common.clip_keys(key, "mismatch of class", batch), ()) < 0.5
        other, wrong = jnp.where(of_class, other, batch["label"]), wrong & ~of_class[:, None]
        first = jnp.arange(wrong.shape[1])[None] == 0
        counted = jnp.where(of_class[:, None], first, wrong)
    others = 1 if wrong is None else wrong.shape[1]
    repeated = jnp.repeat(other[:, None], others, 1)
    return jnp.concatenate([batch["label"][:, None], repeated], 1), wrong, counted


def _condition(
    batch: Batch, key: Key[Array, ""], gen: Generator, pick: int
) -> tuple[Int[Array, " batch"] | None, Int[Array, "batch picked"] | None]:
    """Returns the labels of clips and the frames that are picked of each, where there are any."""
    return common.labels(gen, batch), common.picked(key, batch, pick)


def _of_gaps(logits: PyTree) -> PyTree:
    """Keeps the logits of heads that are told the gaps between frames."""
    if not isinstance(logits, dict):
        return logits
    return {name: x for name, x in logits.items() if name.startswith("time")}


def _generate(
    params: PyTree,
    batch: Batch,
    *,
    key: Key[Array, ""],
    players: Players,
    pick: int,
    see: Callable[[Video, Batch, str], PyTree],
    whole: bool,
) -> Made:
    """Makes clips, and what both players see of them; beside it the clips, where `whole`."""
    frames, gen, part = batch["video"].shape[1], players.gen, players.part
    noise = common.draw(keys.named(key, "noise"), batch["index"], gen=gen, frames=frames)
    condition = _condition(batch, key, gen, pick)
    told = (common.given(batch, key, gen),) if gen.conditions else ()

    def run(trained):
        variables = {"params": common.with_trained(params, part, trained)}
        given = (*noise, *condition, *told)
        video, found = gen.apply(variables, *given, frames=frames, mutable="stats")
        seen = see(video, batch, "augment fake")
        return (seen, video) if whole else seen, found.get("stats", {})

    held = common.trained(params, part)
    if gen.recurrent:
        # Parameters come from outside of the shard_map of a mesh, and the backward pass of a scan
        # would make zeros for them there, which JAX refuses; a sum is of the inside.
        held = jax.tree.map(lambda x: x + 0, held)
    return Made(*jax.vjp(run, held, has_aux=True))


def _real_frames(batch: Batch, key: Key[Array, ""], pick: int) -> Video:
    """Returns the picked frames of real clips, in [-1, 1]."""
    return common.to_float(common.take_frames(batch["video"], common.picked(key, batch, pick)))


def _judged(
    params: PyTree,
    seen: PyTree,
    *condition: Array | conditioning.Asked | None,
    dis: Discriminator,
    vectors: PyTree,
) -> PyTree:
    """Returns the logits of clips, by normalised kernels where there are vectors."""
    if vectors is not None:
        params = spectral.normalized(params, vectors)
    return dis.apply({"params": params}, seen, *condition)


def wrong_labels(
    each: Key[Array, " batch"], label: Int[Array, " batch"], classes: int
) -> Int[Array, " batch"]:
    """Draws for each clip one of the other classes, all equally likely."""
    by = jax.vmap(lambda k: jax.random.randint(k, (), 1, classes))(each)
    return jnp.asarray((label + by) % classes)


def init(
    seed: common.Seed,
    *,
    players: Players,
    frozen: PyTree = None,
    frames: int,
    pick: int = 0,
    normalize: bool = False,
) -> State:
    """Makes the state of step 0: a pure function of the seed and the networks.

    Args:
      seed: The run's.
      players: Networks and optimizers.
      frozen: As for `step`.
      frames: Length of a window.
      pick: Frames of it that the discriminator sees; 0 for all.
      normalize: Whether it has the vectors of spectral normalisation.
    """
    key, dis = keys.root(seed), players.dis
    gen = common.init_generator(key, players.gen, frames)
    label = jnp.zeros((1,), jnp.int32) if players.gen.classes else None
    video = jnp.zeros((1, pick or frames, *height_width(players.gen.size), 3))
    condition = (label, jnp.arange(pick)[None]) if pick else (label,)
    params = dis.init(keys.named(key, "dis"), example(dis, frozen, video), *condition)["params"]
    vectors = spectral.init(keys.named(key, "vectors"), params) if normalize else None
    return common.init_players(key, gen, params, players, vectors)


def example(dis: Discriminator, frozen: PyTree, video: Video) -> PyTree:
    """Returns zeros in the shapes of what a discriminator sees of a video."""
    seen = jax.eval_shape(functools.partial(dis.see, frozen), video)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), seen)


def pretrained(dis: Discriminator) -> PyTree:
    """Returns the frozen weights that a discriminator sees by; None where it needs none.

    Raises:
      DataError: They are not installed, or others.
    """
    return efficientnet_weights.load() if dis.pretrained else None


def _check_losses(
    config: configs.Config, distances: tuple[tuple[str, float], ...], dis: Discriminator
) -> None:
    """Raises ConfigError where losses or augmentations do not fit the conditions, or each other."""
    known, asked = common.conditions(config).get("conditions", ()), config.objective
    in_space = conditioning.lie_in_space(known)
    if any(conditioning.KINDS[name].column for name, _ in known) and (
        asked.mismatch.start or asked.mismatch.end
    ):
        if dis.group < 2:
            raise ConfigError(
                f"config.discriminator.group is {dis.group}, and config.objective.mismatch takes "
                "captions of other clips of a group",
                "a group of at least 2, or no mismatch",
            )
        if asked.loss not in losses.PAIRED:
            raise ConfigError(
                f"config.objective.loss is {asked.loss!r}, and mismatch with captions needs pairs",
                f"one of {', '.join(losses.PAIRED)}, or no mismatch",
            )
    if distances and not in_space:
        raise ConfigError(
            f"config.objective.{distances[0][0]} is {distances[0][1]:g}, and no condition says "
            "what a clip is like",
            "set config.conditions.frames or config.conditions.video, or the weight to 0",
        )
    if config.objective.get("adversarial", 1.0) == 0 and not distances:
        raise ConfigError(
            "config.objective.adversarial is 0, and nothing else is to be learnt",
            "set config.objective.l1, mse or perceptual",
        )
    if asked.get("adversarial", 1.0) == 0 and (asked.discriminator_steps > 1 or asked.spectral):
        raise ConfigError(
            "config.objective.adversarial is 0: no discriminator plays",
            "config.objective.discriminator_steps=1 and config.objective.spectral=False",
        )
    if in_space and config.objective.augmentations:
        raise ConfigError(
            f"config.objective.augmentations has {config.objective.augmentations[0]!r}, and a "
            "condition lies in space",
            "leave augmentations out: clips would no longer fit what they were asked to be",
        )


def experiment(
    config: configs.Config,
    classes: int,
    generators: models.Kinds = GENERATORS,
    part: str | None = None,
    optimizers: dict[str, Any] | None = None,
    begin: int = 0,
) -> common.Experiment:
    """Builds the training of a config; see `vidgen.methods.experiment`.

    Args:
      config: The run's.
      classes: Number of classes; 0 for none.
      generators: Those that it can use, by kind.
      part: Of the generator's parameters, what is trained; None for all.
      optimizers: As from `common.two_optimizers`, which makes them where there are none.
      begin: The step that schedules of the objective begin with.
    """
    told = common.conditions(config)
    arguments, gen = common.build_network("generator", generators, config, classes, **told)
    _, dis = common.build_network("discriminator", DISCRIMINATORS, config, classes, **told)
    common.check_fold(config, dis)
    optimizers = optimizers or common.two_optimizers(config)
    players = Players(gen, dis, **optimizers, part=part)
    data, asked = config.data, config.objective
    distances = tuple((name, asked[name]) for name in DISTANCES if asked.get(name, 0.0))
    _check_losses(config, distances, dis)
    perceptual = any(name == "perceptual" for name, _ in distances)
    frozen = efficientnet_weights.load() if perceptual else pretrained(dis)
    left = max(common.total_steps(config) - begin, 1)

    def schedule(asked):
        along = common.schedule(config, asked, left)
        return (lambda step: along(step - begin)) if begin else along

    interval, each = asked.penalty_interval, asked.discriminator_steps
    used = lambda asked: schedule(asked) if asked.start or asked.end else None  # noqa: E731
    if used(asked.gap_mismatch) and not data.pick:
        raise ConfigError(
            "config.objective.gap_mismatch has a weight, and config.data.pick is 0",
            "pick frames: the gaps between neighbours are always the same",
        )
    objective = Objective(
        loss=asked.loss,
        r1=common.optimizers.times(interval, schedule(asked.r1)),
        r2=common.optimizers.times(interval, schedule(asked.r2)),
        ema_decay=common.ema_decay(config),
        augment_p=schedule(asked.augment_p),
        augmentations=tuple(asked.augmentations),
        mismatch=used(asked.mismatch),
        gap_mismatch=used(asked.gap_mismatch),
        pick=data.pick,
        sigma=asked.penalty_sigma,
        adversarial=asked.get("adversarial", 1.0),
        distances=distances,
    )
    bound = functools.partial(step, players=players, objective=objective, frozen=frozen)
    kinds = {
        name: {"penalize": "bare" not in name, "play": "dis" not in name}
        for name in ("whole", "bare", "dis", "bare dis")
    }

    def kind(at: int) -> str:
        words = ["" if at % interval == 0 else "bare", "" if (at + 1) % each == 0 else "dis"]
        return " ".join(filter(None, words)) or "whole"

    return common.Experiment(
        generator=arguments,
        init=functools.partial(
            init,
            players=players,
            frozen=frozen,
            frames=data.frames,
            pick=data.pick,
            normalize=asked.spectral,
        ),
        steps={n: nonfinite.guarded(functools.partial(bound, **how)) for n, how in kinds.items()},
        kind=kind,
        # Those of whole parts of the state.
        optimizers=({} if part else {"gen": players.gen_tx}) | {"dis": players.dis_tx},
        total=common.total_steps(config),
        together=common.together(config, gen, dis),
    )
