"""The video GAN: `State`, `init`, `step`, `sample`; pure functions of arrays.

Modules, optimizers and schedules come in as keyword arguments, bound with `functools.partial`;
nothing here knows of config, files or devices.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from vidgen import keys
from vidgen.models.normalization import with_stats
from vidgen.training import augment, averaging, losses, spectral

Schedule = optax.Schedule  # step -> value


@struct.dataclass
class State:
    """Everything that changes in training, as arrays.

    Attributes:
      step: Updates made, int32 scalar.
      key: Key of the run as raw data, uint32 `[2]`; never changes, all noise is folded from it.
      gen: Parameters of the generator.
      dis: Parameters of the discriminator.
      ema: Exponential moving average of `gen`.
      gen_opt: Optimizer state of the generator.
      dis_opt: Optimizer state of the discriminator.
      vectors: Singular vectors of the discriminator's kernels; None without spectral normalisation.
    """

    step: jax.Array
    key: jax.Array
    gen: Any
    dis: Any
    ema: Any
    gen_opt: Any
    dis_opt: Any
    vectors: Any = None


def init(
    seed: int,
    *,
    gen: Any,
    dis: Any,
    gen_tx: optax.GradientTransformation,
    dis_tx: optax.GradientTransformation,
    frames: int,
    pick: int = 0,
    normalize: bool = False,
) -> State:
    """Makes the state of step 0: a pure function of the seed and the modules.

    With `normalize`, it has the vectors of spectral normalisation.
    """
    key = keys.root(seed)
    index = jnp.zeros((1,), jnp.int32)
    label = index if gen.classes else None
    noise = draw(keys.named(key, "init"), index, gen=gen, frames=frames)
    gen_params = gen.init(keys.named(key, "gen"), *noise, label, frames=frames)["params"]
    video = jnp.zeros((1, pick or frames, gen.size, gen.size, 3))
    about = (label, jnp.arange(pick)[None]) if pick else (label,)
    dis_params = dis.init(keys.named(key, "dis"), video, *about)["params"]
    return State(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(key),
        gen=gen_params,
        dis=dis_params,
        ema=jax.tree.map(jnp.copy, gen_params),  # an alias could not be donated
        gen_opt=gen_tx.init(gen_params),
        dis_opt=dis_tx.init(dis_params),
        vectors=spectral.init(keys.named(key, "vectors"), dis_params) if normalize else None,
    )


def draw(key: jax.Array, index: jax.Array, *, gen: Any, frames: int):
    """Draws the noise of training clips and where they begin, each from its clip's key.

    Windows begin anywhere between two keyframes of motion, so that every boundary is judged.

    Args:
      key: Key of the step and purpose.
      index: Global numbers of the draws, int32 `[B]`.
      gen: The generator, for the sizes of its noise.
      frames: Length of the window.

    Returns:
      `(content, motion, cycle, start)` as the generator takes them.
    """
    clip_keys = keys.per_clip(key, index)
    part = lambda name: jax.vmap(keys.named, (0, None))(clip_keys, name)  # noqa: E731
    content = keys.normal(part("content"), (gen.content,))
    motion = keys.normal(part("motion"), (gen.keyframes(frames), gen.motion))
    cycle = keys.uniform(part("cycle"), (len(gen.periods),))
    start = jax.vmap(lambda k: jax.random.randint(k, (), 0, gen.stride))(part("phase"))
    return content, motion, cycle, start


def pick_frames(clip_keys: jax.Array, frames: int, pick: int) -> jax.Array:
    """Draws for each clip `pick` different frames of a window, in order; int32 `[B, pick]`."""
    one = lambda key: jnp.sort(jax.random.permutation(key, frames)[:pick])  # noqa: E731
    return jax.vmap(one)(clip_keys)


def wrong_labels(clip_keys: jax.Array, label: jax.Array, classes: int) -> jax.Array:
    """Draws for each clip one of the other classes, all equally likely; int32 `[B]`."""
    by = jax.vmap(lambda k: jax.random.randint(k, (), 1, classes))(clip_keys)
    return (label + by) % classes


def step(
    state: State,
    batch: dict[str, jax.Array],
    *,
    gen: Any,
    dis: Any,
    gen_tx: optax.GradientTransformation,
    dis_tx: optax.GradientTransformation,
    loss: str,
    r1: Schedule,
    r2: Schedule,
    ema_decay: Schedule,
    augment_p: Schedule,
    augmentations: tuple[str, ...] = (),
    mismatch: Schedule | None = None,
    pick: int = 0,
    sigma: float = 0.0,
    penalize: bool = True,
    play: bool = True,
    mean: Callable = averaging.mean,
) -> tuple[State, dict[str, jax.Array]]:
    """Updates the discriminator, then the generator, then the average.

    Args:
      state: The state; its buffers may be donated.
      batch: `video` uint8 `[B, T, H, W, C]`, `index` int32 `[B]`, `label` int32 `[B]`.
      gen: Generator module.
      dis: Discriminator module.
      gen_tx: Optimizer of the generator.
      dis_tx: Optimizer of the discriminator.
      loss: Name of a pair in `objectives.LOSSES`.
      r1: Weight of the gradient penalty on real clips, by step.
      r2: Weight of the gradient penalty on generated clips, by step.
      ema_decay: Share of the average that stays in one step, by step.
      augment_p: Probability of each augmentation, by step.
      augmentations: Names out of `augment.AUGMENTATIONS`.
      mismatch: Weight of the loss of real clips with a wrong label as fakes, by step; None, or no
        classes: without it. It teaches the discriminator classes from the start, before the
        generator is good enough for a wrong class to be what gives it away; kept up to the end it
        makes caricatures, so let it fade.
      pick: Frames drawn from each window, real and generated alike; 0 for all. Fewer frames of
        more clips show more contents in the same time.
      sigma: Length of the finite differences that estimate the penalties; 0: by their gradients.
      penalize: Whether this step computes the penalties (lazy regularisation skips some).
      play: Whether this step updates the generator; otherwise the discriminator alone.
      mean: How functions of clips are averaged over the batch: `accumulate.mean`, with the
        arguments that devices and memory ask for bound to it.

    Returns:
      The new state, and scalar metrics named `dis/...` and `gen/...`.

    Reference: Huang et al., "The GAN is dead; long live the GAN!", 2024; Reed et al., "Generative
      adversarial text to image synthesis", 2016, for mismatched labels; Skorokhodov et al.,
      "StyleGAN-V", 2022, for picked frames.
    """
    key = keys.at_step(jax.random.wrap_key_data(state.key, impl="threefry2x32"), state.step)
    frames = batch["video"].shape[1]
    dis_loss, gen_loss = losses.LOSSES[loss]
    probability = augment_p(state.step)
    if not gen.classes:
        mismatch = None

    def labels(batch):
        return batch["label"] if gen.classes else None

    def clip_keys(batch, purpose):
        return keys.per_clip(keys.named(key, purpose), batch["index"])

    def picked(batch):
        return pick_frames(clip_keys(batch, "pick"), frames, pick) if pick else None

    def augmented(video, batch, purpose):
        return augment.apply(video, clip_keys(batch, purpose), probability, augmentations)

    def real_clips(batch):
        video, at = batch["video"], picked(batch)
        if at is not None:
            video = jnp.take_along_axis(video, at[:, :, None, None, None], 1)
        return augmented(video.astype(jnp.float32) / 127.5 - 1, batch, "augment real")

    def generate(batch):
        """Makes the clips that both players see, and the way back to the parameters."""
        noise = draw(keys.named(key, "noise"), batch["index"], gen=gen, frames=frames)
        about = (labels(batch), picked(batch))

        def run(params):
            given = (*noise, *about)
            video, found = gen.apply({"params": params}, *given, frames=frames, mutable="stats")
            return video, found.get("stats", {})

        return jax.vjp(run, state.gen, has_aux=True)

    # A state without vectors is one without spectral normalisation.
    vectors = None if state.vectors is None else spectral.step(state.dis, state.vectors)

    def judge(params, *given):
        if vectors is not None:
            params = spectral.normalized(params, vectors)
        return dis.apply({"params": params}, *given)

    def for_dis(batch, kept):
        del kept
        kept = generate(batch)
        real, fake = real_clips(batch), augmented(kept[0], batch, "augment fake")
        twice = lambda x: None if x is None else losses.interleave(x, x)  # noqa: E731
        label: Any = labels(batch)
        if mismatch is not None:
            wrong = wrong_labels(clip_keys(batch, "mismatch"), label, gen.classes)
            label = jnp.stack([label, wrong], -1)
        about = (twice(label), twice(picked(batch)))

        def loss(params):
            critic = lambda video: judge(params, video, *about)  # noqa: E731
            if penalize:
                if sigma:
                    one, two = (
                        keys.normal(clip_keys(batch, who), real.shape[1:])
                        for who in ("along real", "along fake")
                    )
                    found = losses.critic_with_differences(critic, real, fake, one, two, sigma)
                else:
                    found = losses.critic_with_penalties(critic, real, fake)
                on_real, on_fake, p1, p2 = found
                p1, p2 = jnp.mean(p1), jnp.mean(p2)
            else:
                on_real, on_fake = losses.apart(critic(losses.interleave(real, fake)))
                p1 = p2 = jnp.zeros(())
            total, metrics = jnp.zeros(()), {}
            if mismatch is not None:
                on_real, as_wrong, on_fake = on_real[:, 0], on_real[:, 1], on_fake[:, 0]
                metrics["dis/mismatch"] = dis_loss(on_real, as_wrong)
                total += mismatch(state.step) * metrics["dis/mismatch"]
            adversarial = dis_loss(on_real, on_fake)
            penalty = 0.5 * (r1(state.step) * p1 + r2(state.step) * p2)
            total += adversarial + penalty
            return total, {
                **metrics,
                "dis/loss": adversarial,
                "dis/r1": p1,
                "dis/r2": p2,
                "dis/penalty": penalty,
                "dis/real": jnp.mean(on_real),
                "dis/fake": jnp.mean(on_fake),
                "dis/accuracy": jnp.mean(on_real > on_fake),
            }

        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.dis)
        return (grads, metrics, kept[2]), kept

    (grads, dis_metrics, stats), kept = mean(for_dis, batch)
    new, norms = with_discriminator(state, grads, dis_tx)
    new, dis_metrics = dataclasses.replace(new, vectors=vectors), {**dis_metrics, **norms}
    if not play:
        return new, dis_metrics

    def for_gen(batch, kept):
        fake, to_params, _ = kept or generate(batch)
        real, about = real_clips(batch), (labels(batch), picked(batch))
        critic = lambda video: judge(new.dis, video, *about)  # noqa: E731
        value, slopes = jax.value_and_grad(
            lambda video: gen_loss(critic(real), critic(augmented(video, batch, "augment gen")))
        )(fake)
        return (value, *to_params(slopes)), None

    (value, grads), _ = mean(for_gen, batch, kept)
    new, norms = with_generator(new, grads, stats, gen_tx, ema_decay(state.step))
    return new, {**dis_metrics, "gen/loss": value, **norms}


def with_discriminator(
    state: Any, grads: Any, dis_tx: optax.GradientTransformation
) -> tuple[Any, dict[str, jax.Array]]:
    """Returns the state of the next step with the discriminator updated, and norms as metrics."""
    updates, opt = dis_tx.update(grads, state.dis_opt, state.dis)
    params = optax.apply_updates(state.dis, updates)
    new = dataclasses.replace(state, step=state.step + 1, dis=params, dis_opt=opt)
    return new, {"dis/grad": optax.tree.norm(grads), "dis/norm": optax.tree.norm(params)}


def with_generator(
    state: Any, grads: Any, stats: Any, gen_tx: optax.GradientTransformation, decay: Any
) -> tuple[Any, dict[str, jax.Array]]:
    """Returns the state with the generator, its statistics and average updated, and norms.

    Norms see what is not finite anywhere, in the average too, which no loss reads.
    """
    updates, opt = gen_tx.update(grads, state.gen_opt, state.gen)
    params = with_stats(optax.apply_updates(state.gen, updates), state.gen, stats)
    ema = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), state.ema, params)
    return dataclasses.replace(state, gen=params, ema=ema, gen_opt=opt), {
        "gen/grad": optax.tree.norm(grads),
        "gen/norm": optax.tree.norm(params),
        "gen/ema": optax.tree.norm(ema),
    }
