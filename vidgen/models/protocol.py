"""What a network is to everything that uses one, in types.

The sampler, the methods and the estimator read nothing else of a network than what stands here. A
network is a Linen module; `init` and `apply` are flax's. Its attributes are its arguments, JSON
data, so that a checkpoint can build it again.

The parameters of a generator must not depend on `frames`: a generator that was trained on windows
of 16 frames is sampled by chunks of another length, with the same parameters.
`check_parameters` refuses one that breaks this.
"""

import functools
import math
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree, Shaped

from vidgen.errors import ConfigError
from vidgen.frame_size import Size, height_width

_CHUNK = 2**32  # bytes of frames that are computed together
_MOST = 2**36  # parameters of a network: 256 GiB

# Classes; or weights of all of them, for what lies between.
Label = Int[Array, " batch"] | Float[Array, "batch class"]
Posterior = tuple[
    Float[Array, "batch ..."], Float[Array, "batch ..."]
]  # means and logarithms of variances


@runtime_checkable
class Network(Protocol):
    """What generators and discriminators have in common.

    Attributes:
      size: Of the frames in pixels: the side of squares, or `(height, width)`.
      classes: Number of classes; 0 for none.
      whole_batch: Whether a training step normalises by statistics of the whole batch, so that its
        clips have to be computed together.
      group: Clips that it sees together, one after another in the batch; 1 for each apart.
    """

    @property
    def size(self) -> Size: ...
    @property
    def classes(self) -> int: ...
    @property
    def whole_batch(self) -> bool: ...
    @property
    def group(self) -> int: ...

    def check(self) -> None:
        """Raises ConfigError if the attributes do not fit each other."""
        ...

    def init(self, rngs: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """Makes parameters; flax's."""
        ...

    def apply(self, variables: PyTree, *args: Any, **kwargs: Any) -> Any:
        """Computes; flax's."""
        ...


@runtime_checkable
class Generator(Network, Protocol):
    """Makes video of noise: `(content, motion, cycle, start, label, pick, *, frames) -> video`.

    Where it has `conditions`, `given` comes after `pick`: arrays of what the video is asked to be.

    `content` `[B, content]` is one draw for a video. `motion` `[B, keyframes(frames), motion]` is
    one draw every `stride` frames (a keyframe of motion noise), from `context` keyframes before the
    last one that is not after the window's first frame. `cycle` `[B, len(periods)]` is uniform in
    [0, 1). `start` int32 `[B]` is the window's first frame, `label` int32 `[B]` or None, and `pick`
    int32 `[B, P]` names the frames of the window to make (None for all). The result is float32
    about [-1, 1], `[B, frames or P, H, W, 3]`. Where `between_classes`, `label` may be weights of
    all classes, float `[B, classes]`; where `between_frames`, `pick` may be float32.

    Attributes:
      content: Channels of the content noise.
      motion: Channels of the motion noise.
      periods: Frames of a turn of each cycle; empty for none.
      stride: Frames between keyframes of motion noise.
      context: Keyframes of motion noise that lie before the one that a window begins at.
      limit: How many frames a video has at most; 0: there is no end.
      loop: Frames after which a video begins again; 0: never.
      between_classes: Whether classes may be mixed by weight.
      between_frames: Whether times between frames can be asked for.
      recurrent: Whether it is a `RecurrentGenerator`, which has no random access.
      beside: Frames on each side of a window of which conditions tell it, too.
      encodes: Whether it is an `Encoder` of the noise of real clips.
      reconstructs: Whether it codes clips and decodes them: `reconstruct(video) -> video`.
      conditions: What it can be asked beside the class, names and options (`models.conditions`).
      sampling_options: Names of attributes that a trained run may be sampled with other values of,
        such as a temperature; the command line and `vidgen.load` take them by these names.
    """

    @property
    def content(self) -> int: ...
    @property
    def motion(self) -> int: ...
    @property
    def periods(self) -> tuple[int, ...]: ...
    @property
    def stride(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def limit(self) -> int: ...
    @property
    def loop(self) -> int: ...
    @property
    def between_classes(self) -> bool: ...
    @property
    def between_frames(self) -> bool: ...
    @property
    def recurrent(self) -> bool: ...
    @property
    def beside(self) -> int: ...
    @property
    def encodes(self) -> bool: ...
    @property
    def reconstructs(self) -> bool: ...
    @property
    def conditions(self) -> tuple[Any, ...]: ...
    @property
    def sampling_options(self) -> tuple[str, ...]: ...

    def keyframes(self, frames: int) -> int:
        """Returns how many keyframes of motion noise a window of `frames` needs, at any phase."""
        ...


@runtime_checkable
class RecurrentGenerator(Generator, Protocol):
    """A generator with a state from frame to frame; windows are reached by running up to them."""

    def begin(
        self,
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch context motion"],
        label: Label | None,
    ) -> Shaped[Array, "batch ..."]:
        """Makes the state before frame 0 of the noise in its context, `[B, context, motion]`.

        Where it has `conditions`, `given` comes after the label, in `advance` and `render`, too.
        """
        ...

    def advance(
        self,
        carry: Shaped[Array, "batch ..."],
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch time motion"],
        label: Label | None,
    ) -> tuple[Shaped[Array, "batch ..."], Shaped[Array, "batch time ..."]]:
        """Runs over motion `[B, T, motion]`; returns the last state and those of all frames."""
        ...

    def render(
        self,
        states: Shaped[Array, "batch time ..."],
        content: Float[Array, "batch content"],
        label: Label | None,
    ) -> Float[Array, "batch time height width 3"]:
        """Makes the frames of states `[B, T, ...]`, float32 `[B, T, H, W, 3]`."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """A generator that also tells from which noise a video may have come."""

    def encode(
        self,
        video: Float[Array, "batch time height width 3"],
        start: Int[Array, " batch"],
        label: Int[Array, " batch"] | None = None,
        frames: int | None = None,
    ) -> tuple[Posterior, Posterior]:
        """Gives posteriors of content `[B, content]` and motion `[B, keyframes, motion]`."""
        ...


@runtime_checkable
class Discriminator(Network, Protocol):
    """Judges video by what it sees of it: `(seen, label, pick) -> logits`.

    `see(frozen, video)` returns that: the video itself, float `[B, T, H, W, 3]` in [-1, 1], or a
    dictionary of arrays `[B, T, ...]`. `frozen` are the weights of a pretrained network, which no
    training changes, or None. Penalties are on gradients by what is seen.

    For labels `[B]` logits are float32 `[B]`; for `[B, K]` they are `[B, K]`, of each video as each
    of its candidates. One of several heads gives a dictionary of an array for each, and an array
    may have more axes, as `[B, T]` or `[B, K, T]`. Of `pick`, int32 `[B, T]`, it may see the
    distances alone.

    Attributes:
      fold: Frames that it folds together; divides the frames of a clip.
      pretrained: Whether `see` needs the weights of `features.efficientnet_weights`.
    """

    def see(
        self, frozen: PyTree, video: Float[Array, "batch time height width channel"]
    ) -> PyTree: ...
    @property
    def pretrained(self) -> bool: ...
    @property
    def fold(self) -> int: ...


class NetworkDefaults:
    """What most networks have: no statistics, each clip by itself."""

    whole_batch = False
    group = 1


class DiscriminatorDefaults(NetworkDefaults):
    """What most discriminators see: the video itself, of any number of frames."""

    pretrained = False
    fold = 1

    def see(self, frozen: PyTree, video: PyTree) -> PyTree:
        """Returns the video."""
        del frozen
        return video


class GeneratorDefaults(NetworkDefaults):
    """What most generators have: noise for every frame, no cycles, no end, no state."""

    periods = ()
    stride = 1
    context = 0
    limit = 0
    loop = 0
    between_classes = True
    between_frames = False
    recurrent = False
    beside = 0
    encodes = False
    reconstructs = False
    conditions = ()
    sampling_options = ()


def example_noise(generator: Generator, frames: int) -> tuple[Shaped[Array, "1 ..."] | None, ...]:
    """Returns zeros in the shapes of what a generator takes for one video of `frames`."""
    return (
        jnp.zeros((1, generator.content)),
        jnp.zeros((1, generator.keyframes(frames), generator.motion)),
        jnp.zeros((1, len(generator.periods))),
        jnp.zeros((1,), jnp.int32),
        jnp.zeros((1,), jnp.int32) if generator.classes else None,
    )


def abstract_params(generator: Generator, frames: int | None = None) -> PyTree:
    """Returns the shapes and types of a generator's parameters, without computing any.

    Args:
      generator: The module.
      frames: Length of the window that it is made for; nothing may depend on it.

    Raises:
      ConfigError: There are more than any machine holds.
    """
    length = frames or generator.stride

    def init():  # the key and the noise, too, are never made: no device is started for that
        noise = example_noise(generator, length)
        return generator.init(jax.random.key(0), *noise, frames=length)["params"]

    check_chunk(generator)
    shapes = jax.eval_shape(init)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    if count > _MOST:
        raise ConfigError(
            f"config.generator makes a network of {count:.3g} parameters",
            f"at most 2^36, {_MOST:.2g}: smaller widths, or fewer layers",
        )
    return shapes


def chunk_of(generator: Generator) -> int:
    """Returns the frames that are computed together when a generator is sampled, by default."""
    return generator.limit or -(-16 // generator.stride) * generator.stride


def check_chunk(generator: Generator) -> None:
    """Refuses a generator of which no machine computes as many frames as lie together.

    Raises:
      ConfigError: They are more than 4 GiB, as float32.
    """
    frames, sides = chunk_of(generator), height_width(generator.size)
    needed = 4 * 3 * frames * math.prod(sides)
    if needed > _CHUNK:
        raise ConfigError(
            f"config.generator makes at least {frames} frames of data.size={generator.size} "
            f"together, {needed / 2**30:.0f} GiB",
            f"at most {_CHUNK / 2**30:.0f} GiB: a smaller stride or chunk, or smaller frames",
        )


@functools.lru_cache(maxsize=16)  # a config is checked before its networks are made
def check_parameters(generator: Generator) -> None:
    """Refuses a generator whose parameters depend on the length of the window.

    Raises:
      ConfigError: They do; it names the first that does.
    """
    lengths = (1, generator.limit) if generator.limit else (generator.stride, 3 * generator.stride)
    one, other = (
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_params(generator, n))
        }
        for n in lengths
    )
    if one != other:
        name = min(n for n in one.keys() | other.keys() if one.get(n) != other.get(n))
        raise ConfigError(
            f"the parameters of {type(generator).__name__} depend on the length of the window: "
            f"{name} is {one.get(name)} for {lengths[0]} frames, {other.get(name)} for "
            f"{lengths[1]}",
            "a generator is sampled by windows of other lengths than those it was trained on: make "
            "its parameters without looking at frames",
        )
