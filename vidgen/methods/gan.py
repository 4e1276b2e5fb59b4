"""The video GAN: `State`, `init`, `step`, `sample`; pure functions of arrays.

Modules, optimizers and schedules come in as keyword arguments, bound with `functools.partial`;
nothing here knows of config, files or devices.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from vidgen import augment, keys, objectives

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
    """

    step: jax.Array
    key: jax.Array
    gen: Any
    dis: Any
    ema: Any
    gen_opt: Any
    dis_opt: Any


def init(
    seed: int,
    *,
    gen: Any,
    dis: Any,
    gen_tx: optax.GradientTransformation,
    dis_tx: optax.GradientTransformation,
    frames: int,
    pick: int = 0,
) -> State:
    """Makes the state of step 0: a pure function of the seed and the modules."""
    key = keys.root(seed)
    index = jnp.zeros((1,), jnp.int32)
    label = index if gen.classes else None
    noise = draw(keys.named(key, "init"), index, gen=gen, frames=frames)
    gen_params = gen.init(keys.named(key, "gen"), *noise, label, frames=frames)["params"]
    video = jnp.zeros((1, pick or frames, gen.size, gen.size, 3))
    picked = jnp.arange(pick)[None] if pick else None
    dis_params = dis.init(keys.named(key, "dis"), video, label, picked)["params"]
    return State(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(key),
        gen=gen_params,
        dis=dis_params,
        ema=jax.tree.map(jnp.copy, gen_params),  # an alias could not be donated
        gen_opt=gen_tx.init(gen_params),
        dis_opt=dis_tx.init(dis_params),
    )


def draw(key: jax.Array, index: jax.Array, *, gen: Any, frames: int):
    """Draws the noise of training clips and where they begin, each from its clip's key.

    Windows begin anywhere between two knots of motion, so that every boundary is judged.

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
    motion = keys.normal(part("motion"), (gen.knots(frames), gen.motion))
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
    penalize: bool = True,
    axis: str | None = None,
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
      penalize: Whether this step computes the penalties (lazy regularisation skips some).
      axis: Name of the mapped axis to average gradients over, or None.

    Returns:
      The new state, and scalar metrics named `dis/...` and `gen/...`.

    Reference: Huang et al., "The GAN is dead; long live the GAN!", 2024; Reed et al., "Generative
      adversarial text to image synthesis", 2016, for mismatched labels; Skorokhodov et al.,
      "StyleGAN-V", 2022, for picked frames.
    """
    key = keys.at_step(jax.random.wrap_key_data(state.key, impl="threefry2x32"), state.step)
    index, label = batch["index"], batch.get("label") if gen.classes else None
    video = batch["video"]
    frames, picked = video.shape[1], None
    if pick:
        picked = pick_frames(keys.per_clip(keys.named(key, "pick"), index), frames, pick)
        video = jnp.take_along_axis(video, picked[:, :, None, None, None], 1)
    real = video.astype(jnp.float32) / 127.5 - 1
    dis_loss, gen_loss = objectives.LOSSES[loss]
    probability = augment_p(state.step)

    def generate(params):
        noise = draw(keys.named(key, "noise"), index, gen=gen, frames=frames)
        return gen.apply({"params": params}, *noise, label, picked, frames=frames)

    def augmented(video, purpose):
        clip_keys = keys.per_clip(keys.named(key, purpose), index)
        return augment.apply(video, clip_keys, probability, augmentations)

    def average(tree):
        return tree if axis is None else jax.lax.pmean(tree, axis)

    # Both players see the same generated clips, so they are made once.
    fake, to_params = jax.vjp(generate, state.gen)
    real_seen = augmented(real, "augment real")
    fake_seen = augmented(fake, "augment fake")

    twice = lambda x: None if x is None else jnp.concatenate([x, x])  # noqa: E731
    labels = label
    if label is None:
        mismatch = None
    elif mismatch is not None:
        clip_keys = keys.per_clip(keys.named(key, "mismatch"), index)
        labels = jnp.stack([label, wrong_labels(clip_keys, label, gen.classes)], -1)

    def for_dis(params):
        about = (twice(labels), twice(picked))
        critic = lambda video: dis.apply({"params": params}, video, *about)  # noqa: E731
        if penalize:
            on_real, on_fake, p1, p2 = objectives.critic_with_penalties(
                critic, real_seen, fake_seen
            )
            p1, p2 = jnp.mean(p1), jnp.mean(p2)
        else:
            on_real, on_fake = jnp.split(critic(jnp.concatenate([real_seen, fake_seen])), 2)
            p1 = p2 = jnp.zeros(())
        total, metrics = jnp.zeros(()), {}
        if mismatch is not None:
            on_real, as_wrong, on_fake = on_real[:, 0], on_real[:, 1], on_fake[:, 0]
            metrics["dis/mismatch"] = dis_loss(on_real, as_wrong)
            total += mismatch(state.step) * metrics["dis/mismatch"]
        adversarial = dis_loss(on_real, on_fake)
        total += adversarial + 0.5 * (r1(state.step) * p1 + r2(state.step) * p2)
        return total, {
            **metrics,
            "dis/loss": adversarial,
            "dis/r1": p1,
            "dis/r2": p2,
            "dis/real": jnp.mean(on_real),
            "dis/fake": jnp.mean(on_fake),
            "dis/accuracy": jnp.mean(on_real > on_fake),
        }

    (_, dis_metrics), grads = average(jax.value_and_grad(for_dis, has_aux=True)(state.dis))
    dis_metrics["dis/grad"] = optax.tree.norm(grads)
    updates, dis_opt = dis_tx.update(grads, state.dis_opt, state.dis)
    dis_params = optax.apply_updates(state.dis, updates)

    def for_gen(video):
        seen = augmented(video, "augment gen")
        critic = lambda video: dis.apply({"params": dis_params}, video, label, picked)  # noqa: E731
        return gen_loss(critic(real_seen), critic(seen))

    value, slopes = jax.value_and_grad(for_gen)(fake)
    value, (grads,) = average((value, to_params(slopes)))
    gen_metrics = {"gen/loss": value, "gen/grad": optax.tree.norm(grads)}
    updates, gen_opt = gen_tx.update(grads, state.gen_opt, state.gen)
    gen_params = optax.apply_updates(state.gen, updates)
    decay = ema_decay(state.step)
    ema = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), state.ema, gen_params)

    new = State(
        step=state.step + 1,
        key=state.key,
        gen=gen_params,
        dis=dis_params,
        ema=ema,
        gen_opt=gen_opt,
        dis_opt=dis_opt,
    )
    # Norms see what is not finite anywhere, in the average too, which no loss reads.
    norms = {
        "gen/norm": optax.tree.norm(gen_params),
        "gen/ema": optax.tree.norm(ema),
        "dis/norm": optax.tree.norm(dis_params),
    }
    return new, {**dis_metrics, **gen_metrics, **norms}
