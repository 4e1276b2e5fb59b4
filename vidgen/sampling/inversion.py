"""Latents that give real clips back, found by gradient steps; so that they can be edited.

sampler = vidgen.load("runs/actions64")
latents, tuned = sampling.invert(sampler, clips, tune=200)
again = tuned.decode(latents, clips.shape[1])
other = tuned.decode(edit.swap(latents, sampler.latents([3], 16), "motion"), 16)
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Float32, Int32, PyTree, UInt8

from vidgen.errors import ConfigError
from vidgen.models.protocol import Generator
from vidgen.sampling import batches, edit
from vidgen.sampling.arguments import Labels, class_numbers, is_whole
from vidgen.sampling.latents import Latents, check_size
from vidgen.sampling.sampler import Progress, Sampler

NOISE = "content", "motion", "cycle"

_TOGETHER = 16  # candidates that are decoded at once
_SCALES = 1, 4, 16  # pixels, and means of squares, which say where to go from far away
_PRIOR = 0.01  # weight of the noise's own distribution: far out, edits make no sense
_BETAS = 0.8, 0.9  # of Adam on latents; with 0.9 and 0.99 a trial ended a third farther away
_LEAST = 1e-5  # mean square that errors are divided by, where there is next to nothing to see


def invert(
    sampler: Sampler,
    clips: UInt8[np.ndarray, "clips time height width 3"],
    labels: Labels = None,
    *,
    steps: int = 500,
    candidates: int = 128,
    learning_rate: float = 0.05,
    tune: int = 0,
    tune_rate: float = 5e-4,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Latents, Sampler]:
    """Finds latents that a generator makes given clips of, and weights that do so better.

    It begins with the encoder's latents where the generator has an encoder (and the classes are
    known, where there are classes), and elsewhere with the nearest of some samples; goes on with
    Adam; and keeps the best that it met, by distance and by how likely the noise is. Distances are
    relative mean squares of pixels, of means of 4x4 and 16x16 pixels, and of the differences of
    neighbouring frames, so that what comes out moves as the clip does. Keyframes of motion noise
    that no frame of the clip depends on stay as they were. Then, by `tune`, the weights follow,
    with the latents as they are.

    Args:
      sampler: Of any generator that is not recurrent.
      clips: uint8 `[N, T, H, W, 3]`; their first frame becomes frame 0.
      labels: As for `Sampler.sample`; by default the classes of the nearest samples.
      steps: Of Adam on the latents, at least 0; the rate falls to 0 by a cosine.
      candidates: Samples that it chooses from, at least 1.
      learning_rate: Of the latents, which are of unit variance.
      tune: Steps of Adam on the weights, for all clips together; 0 leaves them as they are.
      tune_rate: Its learning rate.
      seed: The first of the candidates' seeds.
      progress: Called with what is done, of how much: batches of candidates, and steps.

    Returns:
      Latents for `decode(latents, T)`, as of `Sampler.latents`, and a sampler with the weights:
      the given one unless `tune`.

    Raises:
      ConfigError: The clips are none of the generator's size, the generator is recurrent, its
        weights are to be tuned and cannot be, or a number is out of range.

    Reference: Abdal et al., "Image2StyleGAN", 2019, for optimized latents; Zhu et al., "In-domain
      GAN inversion for real image editing", 2020, for the encoder's as a start; Roich et al.,
      "Pivotal tuning for latent-based editing of real images", 2022, for tuned weights.
    """
    check(sampler, tune)
    check_size(sampler.generator, clips)
    numbers = ("steps", steps, 0), ("candidates", candidates, 1), ("tune", tune, 0)
    for name, value, least in numbers:
        if not is_whole(value) or not least <= value < 2**31:
            raise ConfigError(f"{name} is {value!r}", f"a whole number, at least {least}")
    for name, rate in (("learning_rate", learning_rate), ("tune_rate", tune_rate)):
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= 10:
            raise ConfigError(f"{name} is {rate!r}", "a number above 0, at most 10")
    generator, (count, frames) = sampler.generator, clips.shape[:2]
    rows = list(batches.rows(count, sampler.batch))
    kinds = _kinds(sampler, clips, labels)
    searches = len(np.unique(kinds)) * -(-candidates // _TOGETHER)
    total, done = searches + len(rows) * steps + tune, itertools.count(1)

    def told() -> None:
        if progress is not None:
            progress(next(done), total)

    if len(kinds):
        latents = _nearest(sampler, clips, kinds, labels is None, candidates, seed, told)
    else:
        latents = sampler.encode(clips, labels)
    parts = [  # of one shape, so that one program makes all
        (
            {name: batches.pad(x[some], sampler.batch) for name, x in latents.items()},
            batches.pad(clips[some], sampler.batch),
        )
        for some in rows
    ]
    found = []
    for part, target in parts if steps else []:
        noise = {name: jnp.asarray(part[name]) for name in NOISE}
        best = jnp.full(len(target), jnp.inf), noise
        state = optax.adam(learning_rate, *_BETAS).init(noise)
        update = _update(generator, frames, steps, learning_rate)
        for step in range(steps + 1):  # the last one to see what the one before has come to
            noise, state, best = update(
                sampler.params, noise, state, best, step, target, part["label"]
            )
            if step < steps:
                told()
        found.append({name: np.asarray(x) for name, x in best[1].items()})
    if found:
        latents |= {n: np.concatenate([f[n] for f in found])[:count] for n in NOISE}
    turn = latents["cycle"] % 1
    latents["cycle"] = np.where(turn < 1, turn, 0).astype(np.float32)
    if not tune:
        return latents, sampler
    params, optimizer = sampler.params, optax.adam(tune_rate)
    state, slope = optimizer.init(params), _slope(generator, frames)
    for _ in range(tune):
        slopes = None
        for some in rows:
            given = tuple(latents[name][some] for name in (*NOISE, "label"))
            one = slope(params, given, clips[some])
            slopes = one if slopes is None else jax.tree.map(jnp.add, slopes, one)
        slopes = jax.tree.map(lambda x: x / count, slopes)
        change, state = optimizer.update(slopes, state)
        params = optax.apply_updates(params, change)
        told()
    return latents, dataclasses.replace(sampler, params=params)


def check(sampler: Sampler, tune: int = 0) -> None:
    """Refuses a sampler whose generator cannot be inverted.

    Raises:
      ConfigError: It draws frames given those before; or weights are to be tuned that are no
        numbers with a gradient.
    """
    generator = sampler.generator
    if generator.recurrent:
        raise ConfigError(
            f"a {type(generator).__name__} that draws frames given those before is not inverted",
            "one with random access: of config.method='gan' or 'vae', for instance",
        )
    if tune and not all(
        np.issubdtype(x.dtype, np.floating) for x in jax.tree.leaves(sampler.params)
    ):
        raise ConfigError(f"a {type(generator).__name__} has no weights to tune", "tune=0")


def psnr(
    clips: UInt8[np.ndarray, "clips time height width 3"],
    others: UInt8[np.ndarray, "clips time height width 3"],
) -> Float[np.ndarray, " clips"]:
    """Returns the peak signal-to-noise ratio of each clip in dB; 138 for clips that are alike."""
    error = (clips.astype(np.float64) - others).reshape(len(clips), -1)
    return 10 * np.log10(255**2 / np.maximum(np.mean(error**2, 1), 1e-9))


def _kinds(sampler: Sampler, clips: np.ndarray, labels: Labels) -> Int32[np.ndarray, " clips"]:
    """Returns the classes among whose samples the nearest are looked for; none to encode instead.

    Without labels all are 0: any class is looked for.
    """
    if sampler.generator.encodes and (labels is not None or not sampler.generator.classes):
        return np.zeros(0, np.int32)
    if labels is None:
        return np.zeros(len(clips), np.int32)
    return class_numbers(sampler.classes, np.arange(len(clips)), labels)


def _nearest(
    sampler: Sampler,
    clips: np.ndarray,
    kinds: Int32[np.ndarray, " clips"],
    any_class: bool,
    candidates: int,
    seed: int,
    told: Callable[[], None],
) -> Latents:
    """Returns the latents of the sample that is nearest to each clip, of its class or of any."""
    chosen: list[Any] = [None] * len(clips)
    for kind in np.unique(kinds).tolist():
        own = np.flatnonzero(kinds == kind).tolist()
        nearest = dict.fromkeys(own, np.inf)
        for at in range(0, candidates, _TOGETHER):
            seeds = range(seed + at, seed + min(at + _TOGETHER, candidates))
            pool = sampler.latents(seeds, clips.shape[1], labels=None if any_class else kind)
            videos = sampler.decode(pool, clips.shape[1])
            for clip in own:
                apart = np.asarray(_apart(videos, clips[clip][None]))
                best = int(np.argmin(apart))
                if apart[best] < nearest[clip]:
                    nearest[clip] = apart[best]
                    chosen[clip] = edit.take(pool, [best])
            told()
    return {name: np.concatenate([one[name] for one in chosen]) for name in chosen[0]}


def _floats(video: UInt8[ArrayLike, "..."]) -> Float32[Array, "..."]:
    return jnp.asarray(video, jnp.float32) / 127.5 - 1


@jax.jit
def _apart(
    videos: UInt8[Array, "batch time height width 3"], clip: UInt8[Array, "1 time height width 3"]
) -> Float32[Array, " batch"]:
    """Returns how far each of some videos is from a clip."""
    return _distance(_floats(videos), jnp.broadcast_to(_floats(clip), videos.shape))


def _distance(
    video: Float[Array, "batch time height width 3"],
    target: Float[Array, "batch time height width 3"],
) -> Float32[Array, " batch"]:
    """Returns how far each video is from its target: relative mean squares, summed.

    Relative to what differs from the mean colour, so that something small on black counts.
    """
    every = (1, 2, 3, 4)

    def relative(error, signal):
        return jnp.mean(error**2, every) / (jnp.mean(signal**2, every) + _LEAST)

    b, t, h, w, c = video.shape
    apart, total = video - target, jnp.zeros(b)
    shown = target - target.mean((1, 2, 3), keepdims=True)
    for scale in _SCALES:
        if h % scale == w % scale == 0:
            fold = (b, t, h // scale, scale, w // scale, scale, c)
            total += relative(*(x.reshape(fold).mean((3, 5)) for x in (apart, shown)))
    if t > 1:
        total += relative(jnp.diff(apart, axis=1), jnp.diff(target, axis=1))
    return total


def _made(
    generator: Generator, frames: int, params: PyTree, given: tuple[Any, Any, Any, Any]
) -> Float[Array, "batch time height width 3"]:
    """Makes frames 0 to `frames` of content, motion, cycle and label."""
    content, motion, cycle, label = given
    first = jnp.zeros(len(content), jnp.int32)
    motion = motion[:, : generator.keyframes(frames)]
    noise = (content, motion, cycle % 1, first, label if generator.classes else None)
    return generator.apply({"params": params}, *noise, frames=frames)


@functools.lru_cache(maxsize=4)
def _update(
    generator: Generator, frames: int, steps: int, rate: float
) -> Callable[..., tuple[Any, Any, Any]]:
    """Compiles a step of Adam: `(params, noise, state, best, step, clips, label)`.

    It returns the next noise, state and best. `best` are the least distances so far, `[B]`, and the
    noise that had them.
    """
    schedule = optax.cosine_decay_schedule(1.0, steps)

    @jax.jit
    def program(
        params: PyTree,
        noise: dict[str, Float[Array, "..."]],
        state: PyTree,
        best: tuple[Float[Array, " batch"], dict[str, Float[Array, "..."]]],
        step: Int32[Array, ""] | int,
        clips: UInt8[Array, "batch time height width 3"],
        label: Int32[Array, " batch"],
    ):
        def distance(noise):
            made = _made(generator, frames, params, (*(noise[n] for n in NOISE), label))
            found = _distance(made, _floats(clips))
            return found.sum(), found

        slopes, found = jax.grad(distance, has_aux=True)(noise)
        for name in ("content", "motion"):
            x = noise[name]
            if not x.size:
                continue
            own = _PRIOR * 2 * x / (x.size / len(x))
            # A keyframe that no frame depends on stays: it is what a longer video goes on with.
            slopes[name] += jnp.where((slopes[name] != 0).any(-1, keepdims=True), own, 0)
            found += _PRIOR * jnp.mean(x**2, tuple(range(1, x.ndim)))
        better = found < best[0]
        pick = lambda new, old: jnp.where(  # noqa: E731
            better.reshape(-1, *(1,) * (new.ndim - 1)), new, old
        )
        best = pick(found, best[0]), jax.tree.map(pick, noise, best[1])
        change, state = optax.adam(rate, *_BETAS).update(slopes, state)
        share = schedule(step)
        return jax.tree.map(lambda x, by: x + share * by, noise, change), state, best

    return program


@functools.lru_cache(maxsize=4)
def _slope(generator: Generator, frames: int) -> Callable[..., Any]:
    """Compiles the gradient by weights of the sum of distances: `(params, latents, clips)`."""

    @jax.jit
    def program(params: PyTree, given: Any, clips: UInt8[Array, "batch time height width 3"]):
        def loss(params):
            return _distance(_made(generator, frames, params, given), _floats(clips)).sum()

        return jax.grad(loss)(params)

    return program
