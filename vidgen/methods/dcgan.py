"""The textbooks' GAN: `State`, `init`, `step`.

Discriminator and generator take turns. Real and generated clips are judged apart, so that batch
normalisation sees one kind at a time.

Reference: Goodfellow et al., "Generative adversarial networks", 2014; Radford, Metz and Chintala,
  "DCGAN", 2016.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vidgen import keys
from vidgen.methods import gan
from vidgen.methods.gan import Schedule, State, init
from vidgen.models.normalization import groups
from vidgen.training import averaging, losses, spectral

__all__ = ["State", "init", "step"]


def step(
    state: State,
    batch: dict[str, jax.Array],
    *,
    gen: Any,
    dis: Any,
    gen_tx: optax.GradientTransformation,
    dis_tx: optax.GradientTransformation,
    loss: str,
    ema_decay: Schedule,
    play: bool = True,
    mean: Callable = averaging.mean,
) -> tuple[State, dict[str, jax.Array]]:
    """Updates the discriminator, then the generator, then the average.

    Args:
      state: The state; its buffers may be donated.
      batch: `video` uint8 `[B, T, H, W, C]`, `index` int32 `[B]`, `label` int32 `[B]`.
      gen: A `DcganGenerator`.
      dis: A `DcganDiscriminator`.
      gen_tx: Optimizer of the generator.
      dis_tx: Optimizer of the discriminator.
      loss: Name of a pair in `objectives.LOSSES`; "non_saturating" is binary cross-entropy.
      ema_decay: Share of the average that stays in one step, by step.
      play: Whether this step updates the generator; otherwise the discriminator alone.
      mean: How functions of clips are averaged over the batch.

    Returns:
      The new state, and scalar metrics named `dis/...` and `gen/...`.

    Raises:
      ConfigError: `norm_clips` does not divide the clips computed together.
    """
    key = keys.at_step(jax.random.wrap_key_data(state.key, impl="threefry2x32"), state.step)
    frames = batch["video"].shape[1]
    dis_loss, gen_loss = losses.LOSSES[loss]

    def labels(batch):
        return batch["label"] if gen.classes else None

    def generate(batch):
        """Makes the clips that both players see, and the way back to the parameters."""
        noise = gan.draw(keys.named(key, "noise"), batch["index"], gen=gen, frames=frames)
        parts = groups(len(batch["index"]), gen.norm_clips)

        def run(params):
            video, found = gen.apply(
                {"params": params}, *noise, labels(batch), frames=frames, parts=parts,
                mutable="stats",
            )  # fmt: skip
            return video, found.get("stats", {})

        return jax.vjp(run, state.gen, has_aux=True)

    # A state without vectors is one without spectral normalisation.
    vectors = None if state.vectors is None else spectral.step(state.dis, state.vectors)

    def judge(params, video, batch):
        if vectors is not None:
            params = spectral.normalized(params, vectors)
        parts = groups(len(batch["index"]), dis.norm_clips)
        return dis.apply({"params": params}, video, labels(batch), parts)

    def real(batch):
        return batch["video"].astype(jnp.float32) / 127.5 - 1

    def for_dis(batch, kept):
        del kept
        kept = generate(batch)

        def loss(params):
            on_real, on_fake = judge(params, real(batch), batch), judge(params, kept[0], batch)
            value = dis_loss(on_real, on_fake)
            return value, {
                "dis/loss": value,
                "dis/real": jnp.mean(on_real),
                "dis/fake": jnp.mean(on_fake),
                "dis/accuracy": jnp.mean(on_real > on_fake),
            }

        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.dis)
        return (grads, metrics, kept[2]), kept

    (grads, metrics, stats), kept = mean(for_dis, batch)
    new, norms = gan.with_discriminator(state, grads, dis_tx)
    new, metrics = dataclasses.replace(new, vectors=vectors), {**metrics, **norms}
    if not play:
        return new, metrics

    def for_gen(batch, kept):
        fake, to_params, _ = kept or generate(batch)
        on_real = judge(new.dis, real(batch), batch) if loss in losses.PAIRED else jnp.zeros(())
        value, slopes = jax.value_and_grad(
            lambda video: gen_loss(on_real, judge(new.dis, video, batch))
        )(fake)
        return (value, *to_params(slopes)), None

    (value, grads), _ = mean(for_gen, batch, kept)
    new, norms = gan.with_generator(new, grads, stats, gen_tx, ema_decay(state.step))
    return new, {**metrics, "gen/loss": value, **norms}
