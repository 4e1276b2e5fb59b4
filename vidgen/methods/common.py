"""What methods share: noise and frames of training clips, updates, and building from a config.

The first half is of steps, pure functions of arrays. The second half makes networks, optimizers
and schedules from a config; below a method's `experiment`, nothing sees one.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, ArrayLike, Float, Int, Key, PyTree, UInt8

from vidgen import config as configs
from vidgen import keys, models
from vidgen.config.fields import TRAINED, Field, Section, merged
from vidgen.errors import ConfigError
from vidgen.models import conditions as conditioning
from vidgen.models.normalization import with_stats
from vidgen.models.protocol import Discriminator, Generator, Network, check_parameters
from vidgen.training import optimizers

Batch = dict[str, jax.Array]  # each with a row for each clip
AnyState = Any  # a method's own State, whose parts only the method knows
Metrics = dict[str, jax.Array]  # scalars
Schedule = optax.Schedule  # step -> value
Seed = int | Int[Array, ""]  # an array where `init` is traced

# ------------------------------------------------------------------------------------ steps


@struct.dataclass
class State:
    """Everything that changes in the training of a generator and a discriminator, as arrays.

    JAX makes it of shapes and shardings, too; so no field is checked to be an array.

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

    step: PyTree
    key: PyTree
    gen: PyTree
    dis: PyTree
    ema: PyTree
    gen_opt: PyTree
    dis_opt: PyTree
    vectors: PyTree = None


@dataclasses.dataclass(frozen=True)
class Players:
    """A generator, a discriminator, and their optimizers.

    Attributes:
      gen: The generator, a Linen module.
      dis: The discriminator, a Linen module.
      gen_tx: Optimizer of the generator.
      dis_tx: Optimizer of the discriminator.
      part: The part of the generator's parameters that is trained, by name; None for all.
    """

    gen: Any  # each method reads attributes of its own kinds of networks
    dis: Any
    gen_tx: optax.GradientTransformation
    dis_tx: optax.GradientTransformation
    part: str | None = None


def trained(params: PyTree, part: str | None) -> PyTree:
    """Returns the part of parameters that is trained, by name; all where it is None."""
    return params if part is None else params[part]


def with_trained(params: PyTree, part: str | None, new: PyTree) -> PyTree:
    """Returns parameters with another part; only what is new where it is None."""
    return new if part is None else {**params, part: new}


class Made(NamedTuple):
    """Generated clips that both players see, made once.

    Attributes:
      seen: What the discriminator sees of them: videos, or arrays made of them.
      pullback: From a gradient by `seen` to one by the generator's parameters, in a tuple.
      stats: Statistics of batch normalisation that were found; empty without.
    """

    seen: PyTree
    pullback: Callable
    stats: PyTree


def step_key(state: AnyState) -> Key[Array, ""]:
    """Returns the key of the step that a state is at."""
    return keys.at_step(jax.random.wrap_key_data(state.key, impl="threefry2x32"), state.step)


def clip_keys(key: Key[Array, ""], purpose: str, batch: Batch) -> Key[Array, " batch"]:
    """Returns a key for each clip of a batch and a purpose."""
    return keys.per_clip(keys.named(key, purpose), batch["index"])


def to_float(
    video: UInt8[Array, "batch time height width channel"],
) -> Float[Array, "batch time height width channel"]:
    """Maps levels 0..255 to [-1, 1]."""
    return video.astype(jnp.float32) / 127.5 - 1


def labels(gen: Generator, batch: Batch) -> Int[Array, " batch"] | None:
    """Returns the labels of a batch where the generator has classes."""
    return batch["label"] if gen.classes else None


def given(batch: Batch, key: Key[Array, ""], gen: Generator) -> conditioning.Given:
    """Returns the conditions of training clips; all are those of the step and the clip."""
    known = gen.conditions
    each = {name: clip_keys(key, f"condition {name}", batch) for name, _ in known}
    drawn = conditioning.draw(known, each, batch)
    b, t = batch["video"].shape[:2]
    return jax.tree.map(jnp.asarray, conditioning.filled(drawn, known, b, gen.size, t))


def told(
    batch: Batch, key: Key[Array, ""], gen: Generator, pick: int
) -> tuple[conditioning.Given, Any]:
    """Returns the conditions of training clips, and maps of those that lie in space.

    Args:
      batch: The clips.
      key: Of the step.
      gen: What is told them.
      pick: Frames drawn from each window, of which maps are; 0 for all.
    """
    conditions, at = given(batch, key, gen), picked(key, batch, pick)
    within = jnp.arange(batch["video"].shape[1])[None] if at is None else at
    return conditions, conditioning.seen(gen.conditions, conditions, within, gen.size)


def draw(
    key: Key[Array, ""], index: Int[ArrayLike, " batch"], *, gen: Generator, frames: int
) -> tuple[
    Float[Array, "batch content"],
    Float[Array, "batch keyframes motion"],
    Float[Array, "batch cycles"],
    Int[Array, " batch"],
]:
    """Draws the noise of training clips and where they begin, each from its clip's key.

    Windows begin anywhere between two keyframes of motion noise, so that every boundary is judged.

    Args:
      key: Key of the step and purpose.
      index: Global numbers of the draws.
      gen: The generator, for the sizes of its noise.
      frames: Length of the window.

    Returns:
      `(content, motion, cycle, start)` as the generator takes them.
    """
    each = keys.per_clip(key, index)
    named = lambda name: jax.vmap(keys.named, (0, None))(each, name)  # noqa: E731
    content = keys.normal(named("content"), (gen.content,))
    motion = keys.normal(named("motion"), (gen.keyframes(frames), gen.motion))
    cycle = keys.uniform(named("cycle"), (len(gen.periods),))
    start = jax.vmap(lambda k: jax.random.randint(k, (), 0, gen.stride))(named("phase"))
    return content, motion, cycle, start


def pick_frames(each: Key[Array, " batch"], frames: int, pick: int) -> Int[Array, "batch picked"]:
    """Draws for each clip `pick` different frames of a window, in order."""
    one = lambda key: jnp.sort(jax.random.permutation(key, frames)[:pick])  # noqa: E731
    return jax.vmap(one)(each)


def picked(
    key: Key[Array, ""], batch: Batch, pick: int, purpose: str = "pick"
) -> Int[Array, "batch picked"] | None:
    """Draws `pick` frames of the window of each clip of a batch; None where all are seen, at 0."""
    if not pick:
        return None
    return pick_frames(clip_keys(key, purpose, batch), batch["video"].shape[1], pick)


def take_frames(
    video: Float[Array, "batch time height width channel"]
    | UInt8[Array, "batch time height width channel"],
    at: Int[Array, "batch picked"] | None,
) -> (
    Float[Array, "batch frames height width channel"]
    | UInt8[Array, "batch frames height width channel"]
):
    """Returns the frames that were picked, or all where `at` is None."""
    return video if at is None else jnp.take_along_axis(video, at[:, :, None, None, None], 1)


def update_average(average: PyTree, new: PyTree, decay: Float[ArrayLike, ""]) -> PyTree:
    """Moves an exponential moving average on, of which `decay` stays."""
    return optax.incremental_update(new, average, 1 - decay)


def update_discriminator(
    state: AnyState, grads: PyTree, dis_tx: optax.GradientTransformation
) -> tuple[AnyState, Metrics]:
    """Returns the state of the next step with the discriminator updated, and norms as metrics."""
    updates, opt = dis_tx.update(grads, state.dis_opt, state.dis)
    params = optax.apply_updates(state.dis, updates)
    new = dataclasses.replace(state, step=state.step + 1, dis=params, dis_opt=opt)
    return new, {"dis/grad": optax.tree.norm(grads), "dis/norm": optax.tree.norm(params)}


def update_generator(
    state: AnyState,
    grads: PyTree,
    stats: PyTree,
    gen_tx: optax.GradientTransformation,
    decay: Float[ArrayLike, ""],
    part: str | None = None,
) -> tuple[AnyState, Metrics]:
    """Returns the state with the generator, its statistics and average updated, and norms.

    Norms see what is not finite anywhere, in the average too, which no loss reads. Of parameters of
    which a part is trained, gradients, optimizer and average are of that part.
    """
    held = trained(state.gen, part)
    updates, opt = gen_tx.update(grads, state.gen_opt, held)
    params: PyTree = optax.apply_updates(held, updates)
    params = with_stats(params, held, stats)
    ema = update_average(trained(state.ema, part), params, decay)
    params, ema = (
        with_trained(old, part, new) for old, new in ((state.gen, params), (state.ema, ema))
    )
    return dataclasses.replace(state, gen=params, ema=ema, gen_opt=opt), {
        "gen/grad": optax.tree.norm(grads),
        "gen/norm": optax.tree.norm(params),
        "gen/ema": optax.tree.norm(ema),
    }


def init_generator(key: Key[Array, ""], gen: Generator, frames: int) -> PyTree:
    """Draws the parameters of a generator for windows of `frames`."""
    index = jnp.zeros((1,), jnp.int32)
    noise = draw(keys.named(key, "init"), index, gen=gen, frames=frames)
    label = index if gen.classes else None
    return gen.init(keys.named(key, "gen"), *noise, label, frames=frames)["params"]


def init_players(
    key: Key[Array, ""], gen: PyTree, dis: PyTree, players: Players, vectors: PyTree = None
) -> State:
    """Makes the state of step 0 of parameters that were drawn."""
    return State(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(key),
        gen=gen,
        dis=dis,
        ema=jax.tree.map(jnp.copy, gen),  # an alias could not be donated
        gen_opt=players.gen_tx.init(trained(gen, players.part)),
        dis_opt=players.dis_tx.init(dis),
        vectors=vectors,
    )


# -------------------------------------------------------------------------- from a config


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A training.

    Attributes:
      generator: Arguments that the generator is made from again; JSON data.
      init: `init(seed) -> state`.
      steps: By kind, `step(state, batch, *, mean) -> (state, metrics)`, the fullest first; they
        take no update that is not finite.
      kind: Which of them a step is, by its number.
      optimizers: By the part of the state that each updates.
      total: Steps of the whole training.
      together: Clips that must be computed together: those whose statistics networks see.
      phases: The fullest kind of each phase, where there are several.
    """

    generator: dict[str, Any]
    init: Callable[[Seed], PyTree]
    steps: dict[str, Callable]
    kind: Callable[[int], str]
    optimizers: dict[str, optax.GradientTransformation]
    total: int
    together: int = 1
    phases: tuple[str, ...] = ()

    @property
    def step(self) -> Callable:
        """The fullest of the steps."""
        return next(iter(self.steps.values()))

    @property
    def fullest(self) -> tuple[Callable, ...]:
        """The fullest of the steps of each phase."""
        return tuple(self.steps[kind] for kind in self.phases) or (self.step,)


TWO_OPTIMIZERS: Section = {
    "discriminator_rate": Field(
        1.0, "the discriminator's learning rate over the generator's", least=0, most=1000
    ),
}


def build_network(
    role: str, kinds: models.Kinds, config: configs.Config, classes: int, **more: Any
) -> tuple[dict[str, Any], Any]:
    """Makes a network from its section of a config.

    Args:
      role: The section, "generator" or "discriminator".
      kinds: Networks that the method can use, by kind.
      config: The run's.
      classes: Number of classes; 0 for none.
      **more: Arguments that the method knows.

    Returns:
      Arguments that it can be made from again (JSON data), and the module.

    Raises:
      ConfigError: It cannot be made from its arguments.
    """
    arguments = {
        **config[role].to_dict(),
        "size": config.data.size,
        "classes": classes,
        "dtype": config.parallel.compute,
        **more,
    }
    again: dict[str, Any] = {}
    if role in config.parallel.remat:
        refuse_remat(config, role, kinds)
        again = {"remat": True}
    told = {"conditions"} & arguments.keys()
    kind = kinds.get(arguments["kind"])
    if told and kind and told - {f.name for f in dataclasses.fields(kind)}:
        able = [n for n, one in kinds.items() if told <= {f.name for f in dataclasses.fields(one)}]
        raise ConfigError(
            f"config.conditions has {arguments['conditions'][0][0]}, and a {role} of kind "
            f"{arguments['kind']!r} takes none",
            f"config.{role}.kind={able[0]}" if able else "leave it out",
        )
    network = models.network(role, kinds, **arguments, **again)
    if role == "generator":
        check_parameters(network)
    return arguments, network


def conditions(config: configs.Config) -> dict[str, Any]:
    """Returns the arguments by which networks are told of a config's conditions; none without."""
    asked = config.get("conditions", {})
    found = tuple((name, asked[name].to_dict()) for name in sorted(asked.keys()))
    return {"conditions": found} if found else {}


def refuse_remat(config: configs.Config, role: str, kinds: models.Kinds | None = None) -> None:
    """Raises ConfigError if `parallel.remat` names a network that cannot compute features again."""
    kind = config[role].kind if role in config else "none"
    module = (kinds or {}).get(kind)
    known = {f.name for f in dataclasses.fields(module)} if module is not None else set()
    if role in config.parallel.remat and "remat" not in known:
        raise ConfigError(
            f"config.parallel.remat names {role!r}, whose kind is {kind!r}",
            "leave it out: that kind cannot compute its features again",
        )


def check_fold(config: configs.Config, dis: Discriminator) -> None:
    """Raises ConfigError if the discriminator cannot fold the frames of clips together."""
    data = config.data
    if (data.pick or data.frames) % dis.fold:
        name = "pick" if data.pick else "frames"
        raise ConfigError(
            f"config.data.{name} is {data[name]}, not a multiple of "
            f"config.discriminator.fold, {dis.fold}"
        )


def together(config: configs.Config, *networks: Network) -> int:
    """Returns how many clips must be computed together: those whose statistics networks see.

    Raises:
      ConfigError: They do not divide the batch.
    """
    batch = config.training.batch_size
    if any(one.whole_batch for one in networks):
        return batch
    clips = max(one.group for one in networks)
    if batch % clips:
        raise ConfigError(
            f"config.training.batch_size is {batch}, and a network sees {clips} clips together",
            "make it a multiple, or change config.discriminator.group",
        )
    return clips


def two_optimizers(config: configs.Config) -> dict[str, Any]:
    """Makes the optimizers of two players, `gen_tx` and `dis_tx`."""
    times = config.optimizer.discriminator_rate
    return {"gen_tx": optimizer(config), "dis_tx": optimizer(config, times)}


def optimizer(
    config: configs.Config,
    times: float | None = None,
    rate: str = "learning_rate",
    total: int | None = None,
    before: tuple[Schedule, int] | None = None,
) -> optax.GradientTransformation:
    """Makes an optimizer.

    Args:
      config: The run's.
      times: The learning rate is multiplied by it.
      rate: Field of the learning rate.
      total: Updates that schedules go over; None: the whole training.
      before: Another learning rate, and for how many updates; that of the field begins after them.
    """
    asked = config.optimizer
    warmup = steps(config, asked.warmup_kclips) if asked.warmup_kclips else 0
    over = functools.partial(schedule, config, total=total)
    along = optimizers.warmup(over(asked[rate]), warmup)
    if before is not None:
        along = optax.join_schedules([before[0], along], [before[1]])
    return optimizers.optimizer(
        asked.name,
        learning_rate=along if times is None else optimizers.times(times, along),
        b1=asked.b1,
        b2=over(asked.b2),
        weight_decay=asked.weight_decay,
        l2=asked.l2,
        clip=asked.clip,
    )


def check_border(config: configs.Config, name: str, border: int) -> None:
    """Raises ConfigError if a phase, `config.objective`'s field `name`, ends within a dispatch."""
    if border % config.parallel.dispatch:
        raise ConfigError(
            f"config.objective.{name} is {border} steps",
            f"set it to a multiple of config.parallel.dispatch={config.parallel.dispatch}",
        )


def ema_decay(config: configs.Config) -> Schedule:
    """Makes the schedule of the average's decay."""
    training = config.training
    return optimizers.ema_decay(training.ema_kclips, training.ema_rampup, training.batch_size)


def schedule(config: configs.Config, spec: configs.Config, total: int | None = None) -> Schedule:
    """Makes a schedule by step of a config's `start`, `end` and `kclips`."""
    over = steps(config, spec.kclips) if spec.kclips else total or total_steps(config)
    return optimizers.cosine(spec.start, spec.end, over)


def total_steps(config: configs.Config) -> int:
    """Returns the steps of the whole training."""
    return steps(config, config.training.kclips)


def steps(config: configs.Config, kclips: float) -> int:
    """Converts thousands of clips seen to steps, at least 1."""
    return configs.steps(kclips, config.training.batch_size)


def fields(method: Section, **changed: Any) -> dict[str, Any]:
    """Joins the fields of a trained method with the shared ones.

    Args:
      method: Its own sections.
      **changed: Other defaults of shared sections, as `optimizer={"b1": 0.5}`.
    """
    return merged(TRAINED, method, **changed)
