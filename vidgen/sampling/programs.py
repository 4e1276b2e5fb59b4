"""The compiled programs of sampling, each made once for a generator and a length.

Those that sample have arguments of fixed shapes, so that whatever is asked for comes out of the
same program: that is why windows, streams and batches agree to the bit.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Shaped, UInt8

from vidgen import keys
from vidgen.models.protocol import Generator, Label, RecurrentGenerator


def is_recurrent(generator: Generator) -> TypeGuard[RecurrentGenerator]:
    """Tells whether a generator has a state from frame to frame."""
    return generator.recurrent


@functools.lru_cache(maxsize=8)
def draw(generator: Generator, steps: int) -> Callable[..., tuple[Array, Array, Array]]:
    """Compiles `(seeds, first) -> (content, motion, cycle)`.

    Args:
      generator: Says how many channels there are.
      steps: Keyframes of motion noise, from the one numbered `first` on, which may be negative.

    Returns:
      A function of seeds uint32 `[B]` and `first` int32 to content `[B, content]`, motion
      `[B, steps, motion]` and cycle `[B, len(periods)]`.
    """

    @jax.jit
    def program(
        seeds: Shaped[Array, " batch"], first: Int32[Array, ""]
    ) -> tuple[
        Float[Array, "batch content"],
        Float[Array, "batch keyframes motion"],
        Float[Array, "batch cycles"],
    ]:
        roots = jax.vmap(keys.root)(seeds)
        content = keys.normal(
            jax.vmap(lambda k: keys.named(k, "content"))(roots), (generator.content,)
        )
        cycle = keys.uniform(
            jax.vmap(lambda k: keys.named(k, "cycle"))(roots), (len(generator.periods),)
        )
        motion = keys.over_time(
            jax.vmap(lambda k: keys.named(k, "motion"))(roots),
            jnp.full(seeds.shape, first),
            steps,
            generator.motion,
            generator.loop // generator.stride,
        )
        return content, motion, cycle

    return program


@functools.lru_cache(maxsize=8)
def decode(generator: Generator, frames: int) -> jax.stages.Wrapped:
    """Compiles `(params, content, motion, cycle, start, label, times=None, given=None)` -> video.

    It is uint8.

    Args:
      generator: Any but a recurrent one.
      frames: Frames of a window; `start` is the first, int32. With `times`, float32 `[frames]` and
        each from 0 to `frames`, it makes as many frames at these times after `start`. `given` are
        the arrays of conditions for the window.
    """

    @jax.jit
    def program(
        params: Any,
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch keyframes motion"],
        cycle: Float[Array, "batch cycles"],
        start: Int32[Array, ""],
        label: Label,
        times: Float[Array, " time"] | None = None,
        given: Any = None,
    ) -> UInt8[Array, "batch time height width 3"]:
        first = jnp.full(content.shape[:1], start)
        noise = (content, motion, cycle, first, label if generator.classes else None)
        told = (given,) if generator.conditions else ()
        if times is None:
            made = generator.apply({"params": params}, *noise, None, *told, frames=frames)
            return to_uint8(made)
        pick = jnp.broadcast_to(times[None], (len(content), frames))
        made = generator.apply({"params": params}, *noise, pick, *told, frames=frames + 1)
        return to_uint8(made)

    return program


@functools.lru_cache(maxsize=8)
def encode(generator: Generator, frames: int) -> Callable[..., tuple[Array, Array, Array]]:
    """Compiles `(params, clips, label) -> (content, motion, cycle)`, the means of the posterior.

    Args:
      generator: One that has an encoder.
      frames: Frames that the motion noise goes on for, at least those of the clips.
    """

    @jax.jit
    def program(
        params: Any, clips: UInt8[Array, "batch time height width 3"], label: Int32[Array, " batch"]
    ) -> tuple[
        Float[Array, "batch content"],
        Float[Array, "batch keyframes motion"],
        Float[Array, "batch cycles"],
    ]:
        video, start = clips.astype(jnp.float32) / 127.5 - 1, jnp.zeros(len(clips), jnp.int32)
        given = (video, start, label if generator.classes else None, frames)
        content, motion = generator.apply({"params": params}, *given, method="encode")
        return content[0], motion[0], jnp.zeros((len(clips), len(generator.periods)))

    return program


@functools.lru_cache(maxsize=8)
def reconstruct(generator: Generator) -> Callable[..., Array]:
    """Compiles `(params, clips) -> video`, both uint8 `[B, T, H, W, 3]`, of one with a codec."""

    @jax.jit
    def program(
        params: Any, clips: UInt8[Array, "batch time height width 3"]
    ) -> UInt8[Array, "batch time height width 3"]:
        video = clips.astype(jnp.float32) / 127.5 - 1
        return to_uint8(generator.apply({"params": params}, video, method="reconstruct"))

    return program


@functools.lru_cache(maxsize=8)
def begin(generator: RecurrentGenerator) -> Callable[..., Array]:
    """Compiles `(params, content, motion, label, given=None)` -> the state before frame 0."""

    @jax.jit
    def program(
        params: Any,
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch context motion"],
        label: Label,
        given: Any = None,
    ) -> Shaped[Array, "batch ..."]:
        noise = (content, motion, label if generator.classes else None)
        told = (given,) if generator.conditions else ()
        return generator.apply({"params": params}, *noise, *told, method="begin")

    return program


@functools.lru_cache(maxsize=8)
def advance(generator: RecurrentGenerator, steps: int) -> Callable[..., tuple[Array, Array]]:
    """Compiles `(params, state, content, motion, label, given=None)` -> last state, all states.

    Args:
      generator: The generator.
      steps: How many frames it advances by; motion noise beyond them is left out.
    """

    @jax.jit
    def program(
        params: Any,
        state: Shaped[Array, "batch ..."],
        content: Float[Array, "batch content"],
        motion: Float[Array, "batch keyframes motion"],
        label: Label,
        given: Any = None,
    ) -> tuple[Shaped[Array, "batch ..."], Shaped[Array, "batch time ..."]]:
        noise = (state, content, motion[:, :steps], label if generator.classes else None)
        told = (given,) if generator.conditions else ()
        return generator.apply({"params": params}, *noise, *told, method="advance")

    return program


@functools.lru_cache(maxsize=8)
def render(generator: RecurrentGenerator) -> Callable[..., Array]:
    """Compiles `(params, states, content, label, given=None) -> video`, uint8."""

    @jax.jit
    def program(
        params: Any,
        states: Shaped[Array, "batch time ..."],
        content: Float[Array, "batch content"],
        label: Label,
        given: Any = None,
    ) -> UInt8[Array, "batch time height width 3"]:
        made = (states, content, label if generator.classes else None)
        told = (given,) if generator.conditions else ()
        return to_uint8(generator.apply({"params": params}, *made, *told, method="render"))

    return program


def to_uint8(video: Float[Array, "..."]) -> UInt8[Array, "..."]:
    """Maps float video in [-1, 1] to uint8 0..255, rounding; beyond is clipped."""
    return jnp.clip(jnp.round((video + 1) * 127.5), 0, 255).astype(jnp.uint8)
