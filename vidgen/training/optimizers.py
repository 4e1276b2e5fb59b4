"""Optimizers by name, and schedules in steps."""

import math

import jax.numpy as jnp
import numpy as np
import optax

Schedule = optax.Schedule  # step -> value


def cosine(start: float, end: float, steps: int) -> Schedule:
    """Returns a schedule from `start` to `end` along half a cosine wave, then flat."""

    def value(step):
        if isinstance(step, int):  # known before anything runs: no device is started for it
            return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))
        part = jnp.minimum(step / steps, 1.0)
        return end + (start - end) * 0.5 * (1 + jnp.cos(jnp.pi * part))

    return value


def times(factor: int | float, schedule: Schedule) -> Schedule:
    """Returns a schedule multiplied by a number."""
    return lambda step: factor * schedule(step)


def warmup(schedule: Schedule, steps: int) -> Schedule:
    """Returns the schedule rising linearly from near 0 over its first steps."""
    return lambda step: schedule(step) * (jnp.minimum((step + 1) / steps, 1.0) if steps else 1.0)


def ema_decay(half_life: float, rampup: float, batch_size: int) -> Schedule:
    """Returns the decay of a moving average whose memory is counted in clips.

    Args:
      half_life: Thousands of clips after which a parameter's weight has halved.
      rampup: The half-life is at most this share of the clips seen so far.
      batch_size: Clips of a step.
    """

    def value(step):
        seen = (step + 1) * batch_size
        clips = jnp.minimum(1000.0 * half_life, rampup * seen) if rampup else 1000.0 * half_life
        return 0.5 ** (batch_size / jnp.maximum(clips, 1e-6))

    return value


def optimizer(
    name: str,
    *,
    learning_rate: Schedule,
    b1: float,
    b2: Schedule,
    weight_decay: float = 0.0,
    l2: float = 0.0,
    clip: float = 0.0,
) -> optax.GradientTransformation:
    """Makes an optimizer by name; `b2` may change over the training where Adam uses it.

    Args:
      name: adam, adamw, rmsprop, adadelta or sgd.
      learning_rate: By step.
      b1: Decay of the first moment (adam, adamw) or momentum (rmsprop, sgd).
      b2: By step: decay of the second moment; rmsprop and adadelta take its first value.
      weight_decay: Of adamw: apart from the gradient.
      l2: This times each parameter is added to its gradient before all else.
      clip: Largest norm of all gradients together, before `l2` is added; 0: no limit.
    """
    chosen = _by_name(name, learning_rate, b1, b2, weight_decay)
    before = [optax.clip_by_global_norm(clip)] if clip else []
    before += [optax.add_decayed_weights(l2)] if l2 else []
    return optax.chain(*before, chosen) if before else chosen


def _by_name(
    name: str, learning_rate: Schedule, b1: float, b2: Schedule, weight_decay: float
) -> optax.GradientTransformation:
    momentum = b1 or None
    if name == "adam":
        return optax.inject_hyperparams(optax.adam)(learning_rate=learning_rate, b1=b1, b2=b2)
    if name == "adamw":
        return optax.inject_hyperparams(optax.adamw)(
            learning_rate=learning_rate, b1=b1, b2=b2, weight_decay=weight_decay
        )
    first = float(np.asarray(b2(0)))
    others = {
        "rmsprop": lambda: optax.rmsprop(learning_rate, decay=first, momentum=momentum),
        "adadelta": lambda: optax.adadelta(learning_rate, rho=first),
        "sgd": lambda: optax.sgd(learning_rate, momentum=momentum),
    }
    return others[name]()
