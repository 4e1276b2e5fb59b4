"""An autoregressive transformer on discrete codes: `State`, `init`, `codes_step`, `prior_step`.

A run has two phases. First an autoencoder with a codebook learns to make frames of few codes; then
it stays, and a transformer learns to tell the codes of real clips, each from those before it.

Reference: van den Oord et al., "Neural discrete representation learning" (VQ-VAE), 2017; Yan et
  al., "VideoGPT: video generation using VQ-VAE and transformers", 2021.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, PyTree

from vidgen import config as configs
from vidgen import keys, models
from vidgen.config.fields import PICK, Field, constant
from vidgen.errors import ConfigError
from vidgen.frame_size import height_width
from vidgen.methods import common
from vidgen.methods.common import Batch, Metrics, Schedule
from vidgen.models.protocol import example_noise
from vidgen.models.vqvae import CodesGenerator
from vidgen.training import averaging, nonfinite

# How far reconstructions are from frames, both in [-1, 1]: what is summed over values.
DISTANCES = {"mse": jnp.square, "l1": jnp.abs}


GENERATORS = {"codes": CodesGenerator}
FIELDS = common.fields(
    {
        "data": PICK,
        "generator": models.fields(GENERATORS, "codes"),
        "objective": {
            "codes_kclips": Field(
                500.0, "for the autoencoder; the rest of the training, for the prior", least=0.001
            ),
            "distance": Field("mse", "of reconstructions", choices=tuple(DISTANCES)),
            "commitment": Field(
                0.25, "weight of the square distance of features from their codes", least=0
            ),
            "book_kclips": Field(
                1.0, "half-life of the averages that the codebook is made of", least=0
            ),
            "revive": Field(0.03, "share of the mean use below which a code begins anew", least=0),
        },
        "optimizer": {
            "codes_learning_rate": Field(
                constant(1e-3), "of the autoencoder; the other, of the transformer", least=0
            ),
        },
    },
    optimizer={"b1": 0.9, "b2": constant(0.99)},
)


@struct.dataclass
class State:
    """Everything that changes in training, as arrays.

    JAX makes it of shapes and shardings, too; so no field is checked to be an array.

    Attributes:
      step: Updates made, int32 scalar.
      key: Key of the run as raw data, uint32 `[2]`; never changes, all noise is folded from it.
      gen: Parameters of the generator: `encoder`, `decoder`, `book` and `prior`.
      ema: The same with the exponential moving average of `prior`; the others are copies.
      codes_opt: Optimizer state of encoder and decoder.
      prior_opt: Optimizer state of the transformer.
      counts: Moving average of how often a clip takes each code, `[K]`.
      sums: Moving average of the sum of the features that took it, `[K, F]`.
    """

    step: PyTree
    key: PyTree
    gen: PyTree
    ema: PyTree
    codes_opt: PyTree
    prior_opt: PyTree
    counts: PyTree
    sums: PyTree


def init(
    seed: common.Seed,
    *,
    gen: Any,
    codes_tx: optax.GradientTransformation,
    prior_tx: optax.GradientTransformation,
) -> State:
    """Makes the state of step 0: a pure function of the seed and the module.

    No code has been taken yet, so the first step makes the codebook of its clips.
    """
    key = keys.root(seed)
    params = gen.init(keys.named(key, "gen"), *example_noise(gen, 1), frames=1)["params"]
    return State(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(key),
        gen=params,
        ema=jax.tree.map(jnp.copy, params),
        codes_opt=codes_tx.init(_frames_of(params)),
        prior_opt=prior_tx.init(params["prior"]),
        counts=jnp.zeros((gen.codes,)),
        sums=jnp.zeros((gen.codes, gen.features)),
    )


def codes_step(
    state: State,
    batch: Batch,
    *,
    gen: Any,
    codes_tx: optax.GradientTransformation,
    distance: str,
    commitment: float,
    book_decay: float,
    revive: float,
    batch_size: int,
    pick: int = 0,
    mean: Callable = averaging.mean,
) -> tuple[State, Metrics]:
    """Updates the autoencoder by its gradient, and the codebook by a moving average.

    Gradients go past the choice of the nearest code as if it were the identity. A vector of the
    codebook becomes the average of the features that take it; one that is hardly taken any more
    begins anew at a feature of this batch.

    Args:
      state: The state; its buffers may be donated.
      batch: `video` uint8 `[B, T, H, W, C]`, `index` int32 `[B]`, consecutive.
      gen: A `CodesGenerator`.
      codes_tx: Optimizer of encoder and decoder.
      distance: Name in `DISTANCES`; the mean over values is the loss of the reconstruction.
      commitment: Weight of the mean square distance of features from their codes.
      book_decay: Share of the codebook's averages that stays in one step.
      revive: Share of the mean use below which a code is dead.
      batch_size: Clips of the whole batch, over all devices.
      pick: Frames drawn from each window; 0 for all.
      mean: How functions of clips are averaged over the batch.

    Returns:
      The new state, and scalar metrics: `gen/loss`; `codes/reconstruction`, `codes/commitment`;
      `codes/used`, the share of codes that are alive; `codes/perplexity`, how many codes, all
      equally frequent, would be as hard to tell as this batch's; and `codes/revived`.

    Reference: van den Oord et al., 2017, its appendix for moving averages; Dhariwal et al.,
      "Jukebox: a generative model for music", 2020, for codes that begin anew.
    """
    key = common.step_key(state)
    apart = DISTANCES[distance]
    book, count = state.gen["book"], gen.codes
    # For each code a clip of the batch, wherever it is computed, and a feature of that clip.
    whose = jax.random.randint(keys.named(key, "whose"), (count,), 0, batch_size)
    features = (pick or batch["video"].shape[1]) * gen.motion
    which = jax.random.randint(keys.named(key, "which"), (count,), 0, features)

    def of_clips(batch, kept):
        del kept
        at = common.picked(key, batch, pick)
        video = common.to_float(common.take_frames(batch["video"], at))

        def loss(trained: PyTree):
            run = functools.partial(gen.apply, {"params": state.gen | trained})
            features: Any = run(video, method="encode")
            codes: Any = run(features, method="quantize")
            vectors = jnp.take(book, codes, axis=0)
            made: Any = run(straight_through(features, vectors), method="decode")
            reconstruction = jnp.mean(apart(made - video))
            commit = jnp.mean((features - vectors) ** 2)
            total = reconstruction + commitment * commit
            metrics = {
                "gen/loss": total,
                "codes/reconstruction": reconstruction,
                "codes/commitment": commit,
            }
            return total, (metrics, features, codes)

        found = jax.value_and_grad(loss, has_aux=True)(_frames_of(state.gen))
        (_, (metrics, features, codes)), grads = found
        features = features.reshape(len(video), -1, gen.features)
        taken = jax.nn.one_hot(codes.reshape(len(video), -1), count)
        counts = jnp.sum(taken, (0, 1)) / len(video)
        sums = jnp.einsum("bnk,bnf->kf", taken, features) / len(video)
        mine = (batch["index"] % batch_size)[:, None] == whose[None]
        offers = jnp.where(mine[:, :, None], jnp.take(features, which, axis=1), 0.0)
        offered = jnp.mean(offers, 0) * batch_size  # the mean over the whole batch is of one clip
        return (grads, metrics, counts, sums, offered), None

    (grads, metrics, counts, sums, offered), _ = mean(of_clips, batch)
    metrics["gen/grad"] = optax.tree.norm(grads)
    params = _frames_of(state.gen)
    updates, codes_opt = codes_tx.update(grads, state.codes_opt, params)
    share = counts / jnp.sum(counts)
    perplexity = jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share, share)))

    book, counts, sums, alive = update_codebook(state, counts, sums, offered, book_decay, revive)
    trained: PyTree = optax.apply_updates(params, updates)
    params = state.gen | trained | {"book": book}
    metrics |= {
        "codes/used": jnp.mean(alive),
        "codes/perplexity": perplexity,
        "codes/revived": jnp.sum(~alive).astype(jnp.float32),
        "gen/norm": optax.tree.norm(params),
    }
    new = dataclasses.replace(
        state,
        step=state.step + 1,
        gen=params,
        ema=jax.tree.map(jnp.copy, params),  # an alias could not be donated
        codes_opt=codes_opt,
        counts=counts,
        sums=sums,
    )
    return new, metrics


def straight_through(
    features: Float[Array, "*shape"], vectors: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Returns vectors whose gradient goes to the features that they stand for, unchanged."""
    return features + jax.lax.stop_gradient(vectors - features)


def update_codebook(
    state: State,
    counts: Float[Array, " codes"],
    sums: Float[Array, "codes feature"],
    offered: Float[Array, "codes feature"],
    decay: float,
    revive: float,
) -> tuple[
    Float[Array, "codes feature"],
    Float[Array, " codes"],
    Float[Array, "codes feature"],
    Bool[Array, " codes"],
]:
    """Moves a codebook on to the averages of the features that take its codes.

    Args:
      state: With the averages up to now.
      counts: How often a clip of this step takes each code, `[K]`.
      sums: The sum of the features that take it, `[K, F]`.
      offered: Features at which dead codes begin anew, `[K, F]`.
      decay: Share of the averages that stays.
      revive: Share of the mean count below which a code is dead.

    Returns:
      The codebook `[K, F]`, the averages of counts and sums, and which codes were alive, bool
      `[K]`. A code that begins anew gets the mean count, so that it has time to be taken.
    """
    counts = decay * state.counts + (1 - decay) * counts
    sums = decay * state.sums + (1 - decay) * sums
    average = jnp.mean(counts)
    alive = counts >= revive * average
    counts = jnp.where(alive, counts, average)
    sums = jnp.where(alive[:, None], sums, average * offered)
    return sums / counts[:, None], counts, sums, alive


def prior_step(
    state: State,
    batch: Batch,
    *,
    gen: Any,
    prior_tx: optax.GradientTransformation,
    ema_decay: Schedule,
    mean: Callable = averaging.mean,
) -> tuple[State, Metrics]:
    """Updates the transformer and its average; the autoencoder stays as it is.

    Args:
      state: The state; its buffers may be donated.
      batch: `video` uint8 `[B, T, H, W, C]`, T at least `gen.window`: of longer clips a window is
        drawn; `index` int32 `[B]`, `label` int32 `[B]`.
      gen: A `CodesGenerator`.
      prior_tx: Optimizer of the transformer.
      ema_decay: Share of the average that stays in one step, by step.
      mean: How functions of clips are averaged over the batch.

    Returns:
      The new state, and scalar metrics: `gen/loss`, the cross-entropy in nats a code; `gen/bits`, a
      code; `gen/bits_per_dimension`, the bits of a frame's codes over its values: what the codes
      cost, not a likelihood of pixels.
    """
    key = common.step_key(state)
    rest = {name: part for name, part in state.gen.items() if name != "prior"}

    def of_clips(batch, kept):
        del kept
        video = batch["video"]
        each = common.clip_keys(key, "window", batch)
        spare = video.shape[1] - gen.window + 1
        first = jax.vmap(lambda k: jax.random.randint(k, (), 0, spare))(each)
        at = first[:, None] + jnp.arange(gen.window)[None]
        video = common.to_float(common.take_frames(video, at))
        features = gen.apply({"params": state.gen}, video, method="encode")
        codes = gen.apply({"params": state.gen}, features, method="quantize")
        label = common.labels(gen, batch)

        def loss(prior):
            params = {"params": {**rest, "prior": prior}}
            logits = gen.apply(params, codes, label, method="logits")
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, codes))

        return jax.value_and_grad(loss)(state.gen["prior"]), None

    (loss, grads), _ = mean(of_clips, batch)
    updates, prior_opt = prior_tx.update(grads, state.prior_opt, state.gen["prior"])
    prior = optax.apply_updates(state.gen["prior"], updates)
    decay = ema_decay(state.step)
    ema = common.update_average(state.ema["prior"], prior, decay)
    new = dataclasses.replace(
        state,
        step=state.step + 1,
        gen={**state.gen, "prior": prior},
        ema={**state.ema, "prior": ema},
        prior_opt=prior_opt,
    )
    bits = loss / math.log(2)
    return new, {
        "gen/loss": loss,
        "gen/bits": bits,
        "gen/bits_per_dimension": bits * gen.motion / (3 * math.prod(height_width(gen.size))),
        "gen/grad": optax.tree.norm(grads),
        "gen/norm": optax.tree.norm(new.gen),
        "gen/ema": optax.tree.norm(new.ema),
    }


def _frames_of(params: PyTree) -> PyTree:
    """Returns the parameters that the first phase trains by gradients."""
    return {name: params[name] for name in ("encoder", "decoder")}


def experiment(config: configs.Config, classes: int) -> common.Experiment:
    """Builds the training of a config; see `vidgen.methods.experiment`."""
    for role in config.parallel.remat:
        common.refuse_remat(config, role, GENERATORS)
    arguments, gen = common.build_network("generator", GENERATORS, config, classes)
    data, asked, total = config.data, config.objective, common.total_steps(config)
    if gen.window > data.frames:
        raise ConfigError(
            f"config.generator.window is {gen.window}", f"at most data.frames={data.frames}"
        )
    # Each phase has its own optimizer, whose schedules count the steps of that phase.
    border, batch_size = common.steps(config, asked.codes_kclips), config.training.batch_size
    if border % config.parallel.dispatch:
        raise ConfigError(
            f"config.objective.codes_kclips is {border} steps",
            f"set it to a multiple of config.parallel.dispatch={config.parallel.dispatch}",
        )
    txs = {
        "codes_tx": common.optimizer(config, rate="codes_learning_rate", total=border),
        "prior_tx": common.optimizer(config, total=max(total - border, 1)),
    }
    average = common.ema_decay(config)
    codes = functools.partial(
        codes_step,
        gen=gen,
        codes_tx=txs["codes_tx"],
        distance=asked.distance,
        commitment=asked.commitment,
        book_decay=0.5 ** (batch_size / max(1000 * asked.book_kclips, 1e-6)),
        revive=asked.revive,
        batch_size=batch_size,
        pick=data.pick,
    )
    prior = functools.partial(
        prior_step,
        gen=gen,
        prior_tx=txs["prior_tx"],
        ema_decay=lambda step: average(step - border),
    )
    return common.Experiment(
        generator=arguments,
        init=functools.partial(init, gen=gen, **txs),
        steps={"prior": nonfinite.guarded(prior), "codes": nonfinite.guarded(codes)},
        kind=lambda at: "codes" if at < border else "prior",
        optimizers={},
        total=total,
    )
