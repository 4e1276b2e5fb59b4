"""The network of a flow: a transformer over slots of time, each with tokens for its places.

Reference: Peebles and Xie, "Scalable diffusion models with transformers" (DiT), 2023, for
  modulation by level and class.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from vidgen.frame_size import Size
from vidgen.models import conditions as conditioning
from vidgen.models import labels, layers, protocol
from vidgen.models.known_frames import Hints


class Velocity(nn.Module):
    """A transformer that predicts where the tokens of frames go, from noise to latents.

    Its tokens are those of the video's own latent, in one or two slots, and of pairs of frames, in
    a slot for each. Attention is among the tokens of a slot, then among slots, at each place by
    itself: a pair sees those near it and the latent of the video that is known, which sees nothing
    but itself. Noise level of a slot, class and conditions scale and shift its tokens before each
    branch, and scale what the branch adds.

    Attributes:
      tokens: Of a slot.
      features: Numbers of a token of one frame; a pair's has twice as many.
      classes: Number of classes; 0 for none.
      width: Channels of the tokens.
      heads: Heads of attention.
      expand: Channels inside feed-forward layers over the width.
      layers: Blocks.
      reach: Pairs that a pair sees before and after it.
      conditions: What it is told beside the class, names and options: their vectors, and of known
        frames their tokens.
      size: Of the frames.
      dtype: Type of the computation; parameters and velocities are float32.
    """

    tokens: int
    features: int
    classes: int
    width: int
    heads: int
    expand: int
    layers: int
    reach: int
    conditions: conditioning.Conditions
    size: Size
    dtype: str

    @nn.compact
    def __call__(
        self,
        whole: Float[Array, "batch wholes {self.tokens} {self.features}"],
        pairs: Float[Array, "batch pair {self.tokens} 2*{self.features}"],
        level: Float[Array, "batch slot"],
        label: protocol.Label | None,
        known: bool,
        given: conditioning.Given | None = None,
        hints: Hints | None = None,
    ) -> tuple[
        Float32[Array, "batch wholes token feature"], Float32[Array, "batch pair token two"]
    ]:
        """Gives velocities.

        Args:
          whole: Tokens of the latent of the video, `[B, 1 or 2, S, F]`: to be drawn, known, or both
            in this order.
          pairs: Tokens of pairs of frames, `[B, T, S, 2F]`.
          level: Of each slot, `[B, W + T]`: 0 for noise, 1 for latents, between on the line.
          label: Classes, int32 `[B]`, where there are classes; `classes` stands for none.
          known: Whether the last of `whole` is known.
          given: Arrays of conditions; those that are not there are absent.
          hints: Tokens of known frames, where `frames` is one of the conditions; None for none.

        Returns:
          Velocities float32 in the shapes of `whole` and `pairs`.
        """
        wholes, count, width = whole.shape[1], level.shape[1], self.width
        of_whole, of_pairs = (
            layers.dense(width, self.dtype, name, gain=1.0)(x.astype(self.dtype))
            for name, x in (("whole", whole), ("pairs", pairs))
        )
        spread = nn.initializers.normal(0.5)
        places = self.param("places", spread, (self.tokens, width))
        if "frames" in dict(self.conditions):
            of_whole, of_pairs = self._hinted(of_whole, of_pairs, hints, int(known))
        x = jnp.concatenate([of_whole, of_pairs], 1) + places.astype(self.dtype)[None, None]

        angles = level[..., None] * jnp.exp(jnp.linspace(0, 7, 32))[None, None]
        about = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1).astype(self.dtype)
        about = nn.silu(layers.dense(width, self.dtype, "level")(about))
        about = layers.dense(width, self.dtype, "levels", gain=1.0)(about)
        kinds = self.param("kinds", spread, (2, width)).astype(self.dtype)
        about += jnp.where((np.arange(count) < wholes)[:, None], kinds[:1], kinds[1:])[None]
        if self.classes and label is not None:
            about += labels.embed_label(label, self.classes + 1, width, self.dtype)[:, None]
        if self.conditions:
            given = conditioning.filled(given, self.conditions, len(pairs), self.size, 1)
            encoders = conditioning.Encoders(
                self.conditions, self.size, (), self.dtype, name="conditions"
            )
            told = encoders(given).vector
            about += layers.dense(width, self.dtype, "told", gain=1.0)(told)[:, None]
        about = nn.silu(about)

        for n in range(self.layers):
            changes = layers.dense(9 * width, self.dtype, f"about{n}", gain=0.1)(about)[:, :, None]
            space, time, wide = (jnp.split(c, 3, -1) for c in jnp.split(changes, 3, -1))
            y = _Attention(self.heads, self.dtype, name=f"space{n}")(_modulated(x, *space[:2]))
            x = x + (1 + space[2]) * y
            bias = self._near(f"near{n}", wholes, count, known)
            y = _modulated(x, *time[:2]).swapaxes(1, 2)
            y = _Attention(self.heads, self.dtype, name=f"time{n}")(y, bias).swapaxes(1, 2)
            x = x + (1 + time[2]) * y
            y = layers.dense(self.expand * width, self.dtype, f"wide{n}", gain=1.0)(
                _modulated(x, *wide[:2])
            )
            y = layers.dense(width, self.dtype, f"narrow{n}", gain=0.2)(nn.gelu(y))
            x = x + (1 + wide[2]) * y

        zero = nn.initializers.zeros
        change = nn.Dense(2 * width, dtype=self.dtype, kernel_init=zero, name="about")(about)
        x = _modulated(x, *jnp.split(change[:, :, None], 2, -1))
        last = lambda many, name: nn.Dense(  # noqa: E731
            many * self.features, dtype=self.dtype, kernel_init=zero, name=name
        )
        made = last(1, "to_whole")(x[:, :wholes]), last(2, "to_pairs")(x[:, wholes:])
        return made[0].astype(jnp.float32), made[1].astype(jnp.float32)

    def _hinted(
        self,
        whole: Float[Array, "batch wholes token channel"],
        pairs: Float[Array, "batch pair token channel"],
        hints: Hints | None,
        known: int,
    ) -> tuple[
        Float[Array, "batch wholes token channel"], Float[Array, "batch pair token channel"]
    ]:
        """Adds what is known of frames to the tokens of what is drawn."""
        shapes = (len(pairs), 1), pairs.shape[:2]
        sizes = self.features + 1, 2 * (self.features + 1)
        if hints is None:
            both = zip(shapes, sizes, strict=True)
            hints = Hints(*(jnp.zeros((*shape, self.tokens, size)) for shape, size in both))
        of_whole, of_pairs = (
            nn.Dense(self.width, use_bias=False, dtype=self.dtype, name=name)(x)
            for name, x in (("known_whole", hints.whole), ("known_pairs", hints.pairs))
        )
        if whole.shape[1] > known:  # the first one is drawn
            whole = whole.at[:, :1].add(of_whole)
        return whole, pairs + of_pairs

    def _near(
        self, name: str, wholes: int, count: int, known: bool
    ) -> Float32[Array, "1 {self.heads} {count} {count}"]:
        """Returns what is added to the logits of attention among slots."""
        reach = self.reach
        table = self.param(name, nn.initializers.normal(0.1), (self.heads, 2 * reach + 2))
        at = np.arange(count)
        apart = at[None] - at[:, None]
        pair = at >= wholes
        near = pair[:, None] & pair[None] & (np.abs(apart) <= reach)
        which = np.clip(apart, -reach, reach) + reach
        given = pair[:, None] & (at == wholes - 1)[None] & known
        which = np.where(given, 2 * reach + 1, which)
        seen = near | given | (np.eye(count, dtype=bool) & ~pair[:, None])
        return jnp.where(seen[None], jnp.take(table, which, axis=1), -1e9)[None]


class _Attention(nn.Module):
    """Attention among the tokens of the last axis but one.

    Queries and keys are divided by their root mean squares. A learnt vector, the same for all
    heads, then scales the channels of queries.

    Reference: Henry et al., "Query-key normalization for transformers", 2020.
    """

    heads: int
    dtype: str

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch sequence token channel"],
        bias: Float[Array, "1 head token token"] | None = None,
    ) -> Float[Array, "batch sequence token channel"]:
        """Maps tokens `[B, N, S, C]` to what they take from each other, in the same shape."""
        b, n, s, c = x.shape
        made = layers.dense(3 * c, self.dtype, "heads", gain=1.0)(x)
        both, value = jnp.split(made.reshape(b * n, s, 3 * self.heads, -1), [2 * self.heads], 2)
        # Both at once: two of Flax's norms took a third of the whole layer's time on a CPU.
        wide = both.astype(jnp.float32)
        wide *= jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + 1e-6)
        query, key = jnp.split(wide.astype(self.dtype), 2, 2)
        scale = self.param("scale", nn.initializers.ones, (c // self.heads,))
        query *= scale.astype(self.dtype)[None, None, None]
        y = jax.nn.dot_product_attention(query, key, value, bias)
        return layers.dense(c, self.dtype, "out", gain=0.2)(y.reshape(b, n, s, c))


def _modulated(
    x: Float[Array, "batch slot token channel"],
    scale: Float[Array, "batch slot 1 channel"],
    shift: Float[Array, "batch slot 1 channel"],
) -> Float[Array, "batch slot token channel"]:
    """Standardises tokens, then scales and shifts them; called within a module."""
    norm = nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False, dtype=x.dtype)
    return norm(x) * (1 + scale) + shift
