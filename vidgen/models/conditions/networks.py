"""What networks make of conditions: vectors, maps, and pixels that are taken over."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, PyTree, Real

from vidgen.frame_size import Size
from vidgen.models.conditions.arrays import others_of
from vidgen.models.conditions.kinds import KINDS, Conditions, Given, checked, kind
from vidgen.models.conditions.maps import Seen, Sides


class Encoded(NamedTuple):
    """What encoders make of conditions.

    Attributes:
      vector: `[B, F]`; None where no condition has one.
      maps: By number of rows, features `[B * T, rows, columns, C]`.
      seen: What is seen of each condition that lies in space.
    """

    vector: Any
    maps: dict[int, Any]
    seen: list[Seen]


class Asked(NamedTuple):
    """What discriminators are told that clips were asked to be.

    Attributes:
      vector: Of captions, by `reader`, `[B, F]`; `[B, K, F]` of K candidates each; None where no
        condition has one.
      maps: From `seen`, `[B, T, H, W, C]`; None where no condition lies in space.
    """

    vector: Any
    maps: Any


NOTHING = Encoded(None, {}, [])


class Encoders(nn.Module):
    """Encodes all conditions of a network.

    Attributes:
      conditions: Names and options.
      size: Of the frames.
      sides: Rows and columns of the maps that are wanted, besides those of whole frames.
      dtype: Type of the computation.
    """

    conditions: Conditions
    size: Size
    sides: Sides
    dtype: str = "float32"

    @nn.compact
    def __call__(self, given: PyTree, within: Real[Array, "#batch time"] | None = None) -> Encoded:
        """Encodes what is known of videos.

        Args:
          given: By name, arrays of each condition; those that are not there are passed over.
          within: Frames of the window, `[B or 1, T]`; None where no maps are wanted.
        """
        vectors, maps, all_seen = [], {}, []
        for name, options in self.conditions:
            if name not in given:
                continue
            one = KINDS[name](**checked(name, options), dtype=self.dtype, name=name)
            seen = None
            if within is not None and (seen := one.see(given[name], within, self.size)) is not None:
                all_seen.append(seen)
            vector, levels = one(given[name], seen, self.sides)
            vectors += [] if vector is None else [vector]
            for rows, x in levels.items():
                maps.setdefault(rows, []).append(x)
        return Encoded(
            jnp.concatenate(vectors, -1) if vectors else None,
            {rows: jnp.concatenate(some, -1) for rows, some in maps.items()},
            all_seen,
        )


def side_by_side(some: list[Seen]) -> Float[Array, "n height width channel"] | None:
    """Returns what is seen of conditions as maps of frames, `[B * T, H, W, C]`; None without."""
    if not some:
        return None
    x = jnp.concatenate([one.raw for one in some], -1)
    return x.reshape(-1, *x.shape[2:])


def take_over(
    video: Float[Array, "batch time height width 3"],
    x: Float[Array, "n height width feature"],
    some: list[Seen],
) -> Float32[Array, "batch time height width 3"]:
    """Mixes pixels that were made with those that conditions have; for compact methods.

    What is made is added to a poorer video. Of other conditions pixels are taken over by shares,
    from features, for each pixel; at first what is there counts twice what is made. Pixels that are
    known are kept as they are.

    Reference: Kim et al., "Accurate image super-resolution using very deep convolutional networks"
      (VDSR), 2016, for residuals.

    Args:
      video: What was made.
      x: Features of its pixels, `[B * T, H, W, C]`.
      some: What is seen of the conditions.
    """
    for one in some:
        if one.added is not None:
            base, there = one.added
            video = jnp.where(there[..., None], base + video, video)
    bases = [base for one in some for base in one.bases]
    if not bases:
        return jnp.asarray(video, jnp.float32)
    have = jnp.stack([where for one in some for where in one.have], -1)
    ready = nn.initializers.constant(float(np.log(2)))
    shares = nn.Dense(len(bases), kernel_init=nn.initializers.zeros, bias_init=ready, name="shares")
    logits = jnp.where(have, shares(x.astype(jnp.float32)).reshape(have.shape), -1e9)
    logits = jnp.concatenate([jnp.zeros((*logits.shape[:-1], 1)), logits], -1)
    weights = nn.softmax(logits)
    mixed = sum(weights[..., n : n + 1] * one for n, one in enumerate([video, *bases]))
    for one in some:
        if one.known is not None:
            mixed = jnp.where(one.known[..., None], one.bases[0], mixed)
    return jnp.asarray(mixed, jnp.float32)


class Reader(nn.Module):
    """Makes a vector of the conditions that discriminators know by a vector alone.

    Attributes:
      conditions: Names and options.
      size: Of the frames.
      dtype: Type of the computation.
    """

    conditions: Conditions
    size: Size
    dtype: str = "float32"

    @nn.compact
    def __call__(self, given: PyTree) -> Float[Array, "batch feature"] | None:
        """Returns `[B, F]`; None where no condition is of this kind."""
        alone = {name: x for name, x in given.items() if KINDS[name].column}
        return Encoders(self.conditions, self.size, (), self.dtype, name="vectors")(alone).vector


def reader(dis: Any) -> Reader:
    """Returns what a discriminator reads conditions by; its parameters are named `conditions`."""
    return Reader(dis.conditions, dis.size, dis.dtype, parent=None)


def asked(dis: Any, params: PyTree, given: Given, maps: Any) -> Asked:
    """Returns what a discriminator is told that clips were asked to be, read once for all of them.

    Args:
      dis: The discriminator, which has conditions.
      params: Its parameters.
      given: Arrays of all conditions.
      maps: From `seen`.
    """
    read = reader(dis).apply({"params": params.get("conditions", {})}, given)
    return Asked(read, maps)


def seen(
    conditions: Conditions, given: Given, within: Real[Array, "#batch time"], size: Size
) -> Float[Array, "batch time height width channel"] | None:
    """Returns what discriminators see of conditions that lie in space; None where none does.

    Args:
      conditions: Names and options.
      given: Arrays of all of them.
      within: Frames that are judged, `[B or 1, T]`.
      size: Of the frames.
    """
    found = [kind(n, options).see(given[n], within, size) for n, options in conditions]
    maps = [one.raw for one in found if one is not None]
    return jnp.concatenate(maps, -1) if maps else None


def with_wrong(asked: Asked, wrong: Bool[Array, "batch other"], group: int) -> Asked:
    """Gives the vector of conditions more candidates: those of the other clips of a group.

    Args:
      asked: Of clips.
      wrong: Which of the others' are taken; elsewhere a candidate is the clip's own.
      group: Clips that are computed together.

    Returns:
      The same with vectors `[B, group, F]` instead of `[B, F]`, the clip's own first.
    """
    x = asked.vector
    if x is None:
        return asked
    others = jnp.where(wrong[..., None], others_of(x, group), x[:, None])
    return asked._replace(vector=jnp.concatenate([x[:, None], others], 1))
