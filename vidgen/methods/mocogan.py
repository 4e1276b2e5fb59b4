"""MoCoGAN as published: `State`, `init`, `step`.

In the published code a step has batches of its own for images and for clips. Here one frame of each
clip of a batch is an image, and every n-th clip is judged whole; both players see the same
generated images and clips, made once.

Reference: Tulyakov, Liu, Yang and Kautz, "MoCoGAN: decomposing motion and content for video
  generation", 2018; Chen et al., "InfoGAN", 2016; Sønderby et al., "Amortised MAP inference for
  image super-resolution", 2017, for instance noise.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from vidgen import config as configs
from vidgen import keys, models
from vidgen.config.fields import Field, constant
from vidgen.errors import ConfigError
from vidgen.methods import common
from vidgen.methods.common import Batch, Made, Metrics, Players, Schedule, State
from vidgen.models.mocogan import MocoganDiscriminator, MocoganGenerator
from vidgen.models.normalization import groups
from vidgen.training import averaging, losses, nonfinite

__all__ = ["State", "experiment", "init", "step"]

GENERATORS = {"mocogan": MocoganGenerator}
DISCRIMINATORS = {"mocogan": MocoganDiscriminator}
SQUARE = True  # as published
FIELDS = common.fields(  # the constants of the published code, but for the size of a batch
    {
        "generator": models.fields(GENERATORS, "mocogan"),
        "discriminator": models.fields(DISCRIMINATORS, "mocogan", noise=0.1),
        "objective": {
            "loss": Field("non_saturating", "adversarial loss", choices=tuple(losses.LOSSES)),
            "clip_every": Field(
                4, "every n-th clip of a batch is judged whole; of each, one frame", least=1
            ),
            "categories": Field(
                1.0, "weight of the video discriminator's cross-entropy on real clips", least=0
            ),
            "infogan": Field(
                1.0, "weight of the generator's cross-entropy, by the video discriminator", least=0
            ),
        },
        "optimizer": common.TWO_OPTIMIZERS,
    },
    optimizer={"b1": 0.5, "b2": constant(0.999), "l2": 1e-5},
    training={"ema_kclips": 0.0},
)


def init(seed: common.Seed, *, players: Players, frames: int) -> State:
    """Makes the state of step 0, whose `dis` holds `image` and `video`."""
    key = keys.root(seed)
    gen = common.init_generator(key, players.gen, frames)
    dis = {}
    for name, length in (("image", 1), ("video", frames)):
        video = jnp.zeros((1, length, players.gen.size, players.gen.size, 3))
        each = keys.per_clip(keys.named(key, "init"), jnp.zeros((1,), jnp.int32))
        dis[name] = players.dis.init(keys.named(key, f"dis {name}"), video, each)["params"]
    return common.init_players(key, gen, dis, players)


def step(
    state: State,
    batch: Batch,
    *,
    players: Players,
    loss: str,
    clip_every: int,
    categories: float,
    infogan: float,
    ema_decay: Schedule,
    mean: Callable = averaging.mean,
) -> tuple[State, Metrics]:
    """Updates both discriminators, then the generator, then the average.

    Args:
      state: The state; its buffers may be donated.
      batch: `video` uint8 `[B, T, H, W, C]`, `index` int32 `[B]`, `label` int32 `[B]`.
      players: Networks and optimizers; one optimizer for both discriminators.
      loss: Name of a pair in `losses.LOSSES`; "non_saturating" is binary cross-entropy.
      clip_every: Every n-th clip of the batch is judged whole.
      categories: Weight of the cross-entropy of the categories of real clips, for the video
        discriminator.
      infogan: Weight of the cross-entropy of the categories that the video discriminator sees in
        generated clips, for the generator.
      ema_decay: Share of the average that stays in one step, by step; 0 for no average.
      mean: How functions of clips are averaged over the batch.

    Returns:
      The new state, and scalar metrics named `dis/...` and `gen/...`.

    Raises:
      ConfigError: `clip_every` or `norm_clips` does not divide the clips computed together.
    """
    key, gen, dis = common.step_key(state), players.gen, players.dis
    frames = batch["video"].shape[1]
    dis_loss, gen_loss = losses.LOSSES[loss]

    def clip_keys(batch, purpose):
        return common.clip_keys(key, purpose, batch)

    def whole(batch):
        """The clips that are judged whole."""
        if len(batch["index"]) % clip_every:
            raise ConfigError(
                f"config.objective.clip_every is {clip_every}, and {len(batch['index'])} clips are "
                "computed together",
                "set it to a divisor of what a device computes at once",
            )
        return {name: x[::clip_every] for name, x in batch.items()}

    def real(batch):
        """One frame of each clip, and the clips that are judged whole; in [-1, 1]."""
        at = common.pick_frames(clip_keys(batch, "real frame"), frames, 1)
        images = common.take_frames(batch["video"], at)
        return common.to_float(images), common.to_float(whole(batch)["video"])

    def category(batch, purpose):
        if not gen.classes:
            return None
        one = lambda k: jax.random.randint(k, (), 0, gen.classes)  # noqa: E731
        return jax.vmap(one)(clip_keys(batch, purpose))

    def generate(batch):
        """Makes the images and clips that both players see."""
        clips = whole(batch)
        draw = functools.partial(common.draw, gen=gen, frames=frames)
        at = common.pick_frames(clip_keys(batch, "fake frame"), frames, 1)

        parts = groups(len(batch["index"]), gen.norm_clips)

        def run(params):
            make = functools.partial(
                gen.apply, {"params": params}, frames=frames, parts=parts, mutable="stats"
            )
            images, one = make(
                *draw(keys.named(key, "images"), batch["index"]),
                category(batch, "image category"),
                at,
            )
            videos, two = make(
                *draw(keys.named(key, "clips"), clips["index"]), category(clips, "category")
            )
            stats = jax.tree.map(lambda a, b: (a + b) / 2, one, two)
            return (images, videos), stats.get("stats", {})

        return Made(*jax.vjp(run, state.gen, has_aux=True))

    def judge(params, seen, batch, *who):
        """Judges images and clips of several sources, one after the other, as one batch.

        Each source has its own statistics, and all get one gradient of each kernel.
        """
        of_images, of_videos = (
            jnp.concatenate([clip_keys(b, f"{name} {kind}") for name in who])
            for kind, b in (("i", batch), ("v", whole(batch)))
        )
        parts = len(who) * groups(len(batch["index"]), dis.norm_clips)
        logits = dis.apply({"params": params["image"]}, seen[0], of_images, parts)
        logits = logits, *dis.apply({"params": params["video"]}, seen[1], of_videos, parts)
        return zip(*(jnp.split(x, len(who)) for x in logits), strict=True)

    def cross_entropy(logits, label):
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, label))

    def of_discriminators(batch, kept):
        del kept
        made = generate(batch)

        def loss(params):
            seen = jax.tree.map(lambda *x: jnp.concatenate(x), real(batch), made.seen)
            on_real, on_fake = judge(params, seen, batch, "real", "fake")
            (of_real, real_video, real_kind), (of_fake, fake_video, _) = on_real, on_fake
            metrics = {
                "dis/image_loss": dis_loss(of_real, of_fake),
                "dis/video_loss": dis_loss(real_video, fake_video),
                "dis/real": jnp.mean(real_video),
                "dis/fake": jnp.mean(fake_video),
                "dis/accuracy": jnp.mean(real_video > fake_video),
            }
            total = metrics["dis/loss"] = metrics["dis/image_loss"] + metrics["dis/video_loss"]
            if gen.classes:
                metrics["dis/categories"] = cross_entropy(real_kind, whole(batch)["label"])
                total += categories * metrics["dis/categories"]
            return total, metrics

        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.dis)
        return (grads, metrics, made.stats), made

    (grads, dis_metrics, stats), kept = mean(of_discriminators, batch)
    new, norms = common.update_discriminator(state, grads, players.dis_tx)
    dis_metrics |= norms
    needs_real = loss in losses.PAIRED

    def of_generator(batch, kept):
        fake, pullback, _ = kept or generate(batch)

        def loss(fake):
            ((of_fake, fake_video, fake_kind),) = judge(new.dis, fake, batch, "gen")
            of_real = real_video = jnp.zeros(())
            if needs_real:
                ((of_real, real_video, _),) = judge(new.dis, real(batch), batch, "gen real")
            value = gen_loss(of_real, of_fake) + gen_loss(real_video, fake_video)
            kind = jnp.zeros(())
            if gen.classes:
                kind = cross_entropy(fake_kind, category(whole(batch), "category"))
            return value + infogan * kind, (value, kind)

        (_, values), slopes = jax.value_and_grad(loss, has_aux=True)(fake)
        return (values, *pullback(slopes)), None

    ((value, kind), grads), _ = mean(of_generator, batch, kept)
    gen_metrics = {"gen/loss": value}
    if gen.classes:
        gen_metrics["gen/infogan"] = kind
    new, norms = common.update_generator(new, grads, stats, players.gen_tx, ema_decay(state.step))
    return new, {**dis_metrics, **gen_metrics, **norms}


def experiment(config: configs.Config, classes: int) -> common.Experiment:
    """Builds the training of a config; see `vidgen.methods.experiment`."""
    arguments, gen = common.build_network("generator", GENERATORS, config, classes)
    _, dis = common.build_network("discriminator", DISCRIMINATORS, config, classes)
    least = 3 * ((config.data.size // 4).bit_length() - 1) + 1
    if config.data.frames < least:
        raise ConfigError(
            f"config.data.frames is {config.data.frames}",
            f"at least {least}: each of the video discriminator's levels takes 3 frames away",
        )
    players, asked = Players(gen, dis, **common.two_optimizers(config)), config.objective
    bound = functools.partial(
        step,
        players=players,
        loss=asked.loss,
        clip_every=asked.clip_every,
        categories=asked.categories,
        infogan=asked.infogan,
        ema_decay=common.ema_decay(config),
    )
    return common.Experiment(
        generator=arguments,
        init=functools.partial(init, players=players, frames=config.data.frames),
        steps={"whole": nonfinite.guarded(bound)},
        kind=lambda at: "whole",
        optimizers={"gen": players.gen_tx, "dis": players.dis_tx},
        total=common.total_steps(config),
        together=common.together(config, gen, dis),
    )
