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
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vidgen import keys
from vidgen.errors import ConfigError
from vidgen.methods import gan
from vidgen.methods.gan import Schedule, State
from vidgen.models.normalization import groups
from vidgen.training import averaging, losses

__all__ = ["State", "init", "step"]


def init(
    seed: int,
    *,
    gen: Any,
    dis: Any,
    gen_tx: optax.GradientTransformation,
    dis_tx: optax.GradientTransformation,
    frames: int,
) -> State:
    """Makes the state of step 0, whose `dis` has the parts `image` and `video`."""
    key = keys.root(seed)
    index = jnp.zeros((1,), jnp.int32)
    label = index if gen.classes else None
    noise = gan.draw(keys.named(key, "init"), index, gen=gen, frames=frames)
    gen_params = gen.init(keys.named(key, "gen"), *noise, label, frames=frames)["params"]
    dis_params = {}
    for name, length in (("image", 1), ("video", frames)):
        video = jnp.zeros((1, length, gen.size, gen.size, 3))
        own = keys.per_clip(keys.named(key, "init"), index)
        dis_params[name] = dis.init(keys.named(key, f"dis {name}"), video, own)["params"]
    return State(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(key),
        gen=gen_params,
        dis=dis_params,
        ema=jax.tree.map(jnp.copy, gen_params),
        gen_opt=gen_tx.init(gen_params),
        dis_opt=dis_tx.init(dis_params),
    )


def step(
    state: State,
    batch: dict[str, jax.Array],
    *,
    gen: Any,
    dis: Any,
    gen_tx: optax.GradientTransformation,
    dis_tx: optax.GradientTransformation,
    loss: str,
    clip_every: int,
    categories: float,
    infogan: float,
    ema_decay: Schedule,
    mean: Callable = averaging.mean,
) -> tuple[State, dict[str, jax.Array]]:
    """Updates both discriminators, then the generator, then the average.

    Args:
      state: The state; its buffers may be donated.
      batch: `video` uint8 `[B, T, H, W, C]`, `index` int32 `[B]`, `label` int32 `[B]`.
      gen: A `MocoganGenerator`.
      dis: A `MocoganDiscriminator`.
      gen_tx: Optimizer of the generator.
      dis_tx: Optimizer of both discriminators.
      loss: Name of a pair in `objectives.LOSSES`; "non_saturating" is binary cross-entropy.
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
    key = keys.at_step(jax.random.wrap_key_data(state.key, impl="threefry2x32"), state.step)
    frames = batch["video"].shape[1]
    dis_loss, gen_loss = losses.LOSSES[loss]

    def own(batch, purpose):
        return keys.per_clip(keys.named(key, purpose), batch["index"])

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
        at = gan.pick_frames(own(batch, "real frame"), frames, 1)
        images = jnp.take_along_axis(batch["video"], at[:, :, None, None, None], 1)
        return tuple(x.astype(jnp.float32) / 127.5 - 1 for x in (images, whole(batch)["video"]))

    def category(batch, purpose):
        if not gen.classes:
            return None
        one = lambda k: jax.random.randint(k, (), 0, gen.classes)  # noqa: E731
        return jax.vmap(one)(own(batch, purpose))

    def generate(batch):
        """Makes images and clips; returns them, the way back to the parameters, and statistics."""
        clips = whole(batch)
        draw = lambda b, name: gan.draw(keys.named(key, name), b["index"], gen=gen, frames=frames)  # noqa: E731
        at = gan.pick_frames(own(batch, "fake frame"), frames, 1)

        parts = groups(len(batch["index"]), gen.norm_clips)

        def run(params):
            make = functools.partial(
                gen.apply, {"params": params}, frames=frames, parts=parts, mutable="stats"
            )
            images, one = make(*draw(batch, "images"), category(batch, "image category"), at)
            videos, two = make(*draw(clips, "clips"), category(clips, "category"))
            stats = jax.tree.map(lambda a, b: (a + b) / 2, one, two)
            return (images, videos), stats.get("stats", {})

        return jax.vjp(run, state.gen, has_aux=True)

    def judge(params, seen, batch, *who):
        """Judges images and clips of several sources, one after the other, as one batch.

        Each source has its own statistics, and all get one gradient of each kernel.
        """
        of_images, of_videos = (
            jnp.concatenate([own(b, f"{name} {kind}") for name in who])
            for kind, b in (("i", batch), ("v", whole(batch)))
        )
        parts = len(who) * groups(len(batch["index"]), dis.norm_clips)
        logits = dis.apply({"params": params["image"]}, seen[0], of_images, parts)
        logits = logits, *dis.apply({"params": params["video"]}, seen[1], of_videos, parts)
        return zip(*(jnp.split(x, len(who)) for x in logits), strict=True)

    def told(logits, label):
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, label))

    def for_dis(batch, kept):
        del kept
        kept = generate(batch)
        fake, _, stats = kept

        def loss(params):
            seen = jax.tree.map(lambda *x: jnp.concatenate(x), real(batch), fake)
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
                metrics["dis/categories"] = told(real_kind, whole(batch)["label"])
                total += categories * metrics["dis/categories"]
            return total, metrics

        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.dis)
        return (grads, metrics, stats), kept

    (grads, dis_metrics, stats), kept = mean(for_dis, batch)
    new, norms = gan.with_discriminator(state, grads, dis_tx)
    dis_metrics |= norms
    needs_real = loss in losses.PAIRED

    def for_gen(batch, kept):
        fake, to_params, _ = kept or generate(batch)

        def loss(fake):
            ((of_fake, fake_video, fake_kind),) = judge(new.dis, fake, batch, "gen")
            of_real = real_video = jnp.zeros(())
            if needs_real:
                ((of_real, real_video, _),) = judge(new.dis, real(batch), batch, "gen real")
            value = gen_loss(of_real, of_fake) + gen_loss(real_video, fake_video)
            kind = jnp.zeros(())
            if gen.classes:
                kind = told(fake_kind, category(whole(batch), "category"))
            return value + infogan * kind, (value, kind)

        (_, values), slopes = jax.value_and_grad(loss, has_aux=True)(fake)
        return (values, *to_params(slopes)), None

    ((value, kind), grads), _ = mean(for_gen, batch, kept)
    gen_metrics = {"gen/loss": value}
    if gen.classes:
        gen_metrics["gen/infogan"] = kind
    new, norms = gan.with_generator(new, grads, stats, gen_tx, ema_decay(state.step))
    return new, {**dis_metrics, **gen_metrics, **norms}
