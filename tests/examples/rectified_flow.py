"""An example of a method in one file: rectified flow in pixels, each frame by itself.

A network learns the velocity from noise to a frame; a video is made by following it from the motion
noise of each frame in a few Euler steps. How many, is an option of sampling.

Reference: Liu, Gong and Liu, "Flow straight and fast", 2023; Lipman et al., "Flow matching for
  generative modeling", 2023.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int, PyTree, UInt32

from vidgen import config as configs
from vidgen import keys, models
from vidgen.config.fields import Field
from vidgen.errors import ConfigError
from vidgen.methods import common
from vidgen.models import labels, layers, protocol
from vidgen.training import averaging, nonfinite


class RectifiedFlow(protocol.GeneratorDefaults, nn.Module):
    """Follows a learnt velocity from noise to frames.

    Attributes:
      size: Side of the frames in pixels.
      classes: Number of classes; 0 for none.
      width: Channels of the network.
      steps: Euler steps when sampling.
      dtype: Type of the computation; parameters are float32.
    """

    size: int
    classes: int = 0
    width: int = 32
    steps: int = 8
    dtype: str = "float32"
    content = 1  # not looked at
    sampling_options = ("steps",)

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        if not self.steps:
            raise ConfigError("config.generator.steps is 0", "at least 1")

    @property
    def motion(self) -> int:
        """Numbers of a frame."""
        return self.size * self.size * 3

    def keyframes(self, frames: int) -> int:
        """Returns how many keyframes of motion noise a window of `frames` needs."""
        return frames

    def setup(self):
        """Makes the layers."""
        self.first = layers.dense(self.width, self.dtype, "first")
        self.last = layers.dense(self.motion, self.dtype, "last", gain=0.1)
        if self.classes:
            self.embedding = labels.embed(self.classes, self.width, self.dtype, "class")

    def velocity(
        self,
        x: Float[Array, "batch time pixels"],
        time: Float[Array, "#batch"],
        label: Int[Array, " batch"] | None,
    ) -> Float[Array, "batch time pixels"]:
        """Gives where frames go at a time in [0, 1], from noise to clips."""
        moment = jnp.broadcast_to(time[:, None, None], (*x.shape[:2], 1))
        y = self.first(jnp.concatenate([x, moment], -1))
        if self.classes:
            y = y + self.embedding(label)[:, None]
        return self.last(layers.leaky_relu(y))

    def __call__(
        self, content, motion, cycle, start, label=None, pick=None, *, frames: int
    ) -> Float[Array, "batch time height width 3"]:
        """Makes a window of video; see `protocol.Generator`."""
        del content, cycle, start
        x = motion[:, :frames]
        if pick is not None:
            x = jnp.take_along_axis(x, pick[:, :, None], 1)
        for n in range(self.steps):
            x = x + self.velocity(x, jnp.full((1,), n / self.steps), label) / self.steps
        return x.reshape(*x.shape[:2], self.size, self.size, 3)


GENERATORS = {"rectified_flow": RectifiedFlow}
FIELDS = common.fields(
    {
        "generator": models.fields(GENERATORS, "rectified_flow"),
        "objective": {"power": Field(2.0, "of the distance that is minimised", least=1)},
    },
)


@struct.dataclass
class State:
    """Everything that changes in training, as arrays; as in `common.State`."""

    step: Int[Array, ""]
    key: UInt32[Array, "2"]
    gen: PyTree
    ema: PyTree
    gen_opt: PyTree


def init(seed: int, *, gen: RectifiedFlow, gen_tx: optax.GradientTransformation, frames: int):
    """Makes the state of step 0."""
    key = keys.root(seed)
    params = common.init_generator(key, gen, frames)
    average = jax.tree.map(jnp.copy, params)
    step = jnp.zeros((), jnp.int32)
    return State(step, jax.random.key_data(key), params, average, gen_tx.init(params))


def step(
    state: State,
    batch: common.Batch,
    *,
    gen: RectifiedFlow,
    gen_tx: optax.GradientTransformation,
    ema_decay: common.Schedule,
    power: float,
    mean: Callable = averaging.mean,
) -> tuple[State, common.Metrics]:
    """Updates the network and its average."""
    key, frames = common.step_key(state), batch["video"].shape[1]

    def of_clips(batch, kept):
        del kept
        _, noise, *_ = common.draw(keys.named(key, "noise"), batch["index"], gen=gen, frames=frames)
        time = keys.uniform(common.clip_keys(key, "time", batch), ())
        clips = common.to_float(batch["video"]).reshape(noise.shape)
        between = noise + time[:, None, None] * (clips - noise)

        def minimised(params):
            given = (between, time, common.labels(gen, batch))
            velocity = gen.apply({"params": params}, *given, method="velocity")
            return jnp.mean(jnp.abs(velocity - (clips - noise)) ** power)

        return jax.value_and_grad(minimised)(state.gen), None

    (loss, grads), _ = mean(of_clips, batch)
    new = dataclasses.replace(state, step=state.step + 1)
    new, norms = common.update_generator(new, grads, {}, gen_tx, ema_decay(state.step))
    return new, {"gen/loss": loss, **norms}


def experiment(config: configs.Config, classes: int) -> common.Experiment:
    """Builds the training of a config; see `vidgen.methods.experiment`."""
    arguments, gen = common.build_network("generator", GENERATORS, config, classes)
    tx, average = common.optimizer(config), common.ema_decay(config)
    power = config.objective.power
    bound = functools.partial(step, gen=gen, gen_tx=tx, ema_decay=average, power=power)
    return common.Experiment(
        generator=arguments,
        init=functools.partial(init, gen=gen, gen_tx=tx, frames=config.data.frames),
        steps={"whole": nonfinite.guarded(bound)},
        kind=lambda at: "whole",
        optimizers={"gen": tx},
        total=common.total_steps(config),
    )
