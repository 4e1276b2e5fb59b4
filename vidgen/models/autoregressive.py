"""A causal transformer over discrete codes, and how codes are drawn from what it tells."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidgen.models import layers


class Prior(nn.Module):
    """A causal transformer over the codes of a window of frames, in raster order.

    A token stands for the code that it is to tell. It is the sum of learnt vectors: of the code
    before it, of the code at its place in the frame before, of its place, of the number of its
    frame in the window, and of the class. While codes are drawn one by one, keys and values of the
    tokens before stay; between frames the window moves, and they are made anew.

    Reference: Vaswani et al., "Attention is all you need", 2017; Xiong et al., "On layer
      normalization in the transformer architecture", 2020, for norms before the branches.

    Attributes:
      codes: Vectors of the codebook, K.
      places: Codes of a frame, P.
      classes: Number of classes; 0 for none.
      window: Frames of the window.
      width: Channels of the tokens.
      heads: Heads of attention.
      expand: Channels inside feed-forward layers over the width.
      layers: Blocks of attention and a feed-forward layer.
      dtype: Type of the computation; parameters and logits are float32.
    """

    codes: int
    places: int
    classes: int
    window: int
    width: int
    heads: int
    expand: int
    layers: int
    dtype: str

    def setup(self):
        """Makes all parameters here, for a loop may not make any; those of blocks are stacked."""
        c, wide, ones = self.width, self.expand * self.width, nn.initializers.ones
        spread, zeros = nn.initializers.normal(0.5), nn.initializers.zeros
        scaled = lambda gain: nn.initializers.variance_scaling(  # noqa: E731
            gain, "fan_in", "truncated_normal", batch_axis=(0,)
        )
        tables = {"last": self.codes + 1, "before": self.codes + 1, "place": self.places}
        tables |= {"time": self.window} | ({"class": self.classes} if self.classes else {})
        self.tables = {n: self.param(n, spread, (count, c)) for n, count in tables.items()}
        parts = {
            "norm": (ones, (c,)),
            "heads": (scaled(1.0), (c, 3 * c)),
            "out": (zeros, (c, c)),  # a branch adds nothing at first
            "forward_norm": (ones, (c,)),
            "wide": (scaled(2.0), (c, wide)),
            "narrow": (zeros, (wide, c)),
        }
        self.blocks = {
            name: self.param(f"blocks_{name}", init, (self.layers, *shape))
            for name, (init, shape) in parts.items()
        }
        self.norm = self.param("norm", ones, (c,))
        self.kernel = self.param("kernel", zeros, (c, self.codes))
        self.bias = self.param("bias", zeros, (self.codes,))

    def __call__(self, codes: jax.Array, label: jax.Array | None) -> jax.Array:
        """Gives the logits of every code of a window at once; int32 `[B, T, P]` to `[B, T, P, K]`.

        Codes that there are not, -1, must come last.
        """
        x, _ = self._parallel(codes, label)
        return self._out(x).reshape(*codes.shape, self.codes)

    def drawing(self, label: jax.Array | None, choose):
        """Returns how the codes of the next frame are drawn.

        Args:
          label: Classes, int32 `[B]`, where there are classes.
          choose: Makes codes int32 `[B]` of logits `[B, K]` and uniform numbers `[B]`.

        Returns:
          `draw(past, uniform)`, from the codes of the frames before, int32 `[B, window - 1, P]`
          with -1 for those that there are not, and uniform numbers `[B, P]`, to int32 `[B, P]`.
        """

        def draw(past, uniform):
            b, frames, places = past.shape
            count = jnp.sum(past[:, :, 0] >= 0, 1)
            _, kept = self._parallel(past, label)
            room = lambda x: jnp.pad(x, ((0, 0), (0, places), (0, 0), (0, 0)))  # noqa: E731
            kept = jax.tree.map(room, kept)
            there = jnp.repeat(jnp.arange(frames)[None] < count[:, None], places, 1)
            newest = jnp.maximum(count - 1, 0)[:, None, None]
            before = jnp.take_along_axis(past, newest, 1)[:, 0]  # -1 where there is no frame

            def one(state, given):
                kept, last = state
                place, before, uniform = given
                x = self._tokens(last[:, None], before[:, None], place[None], count[:, None], label)
                own = jnp.broadcast_to(jnp.arange(places)[None] <= place, (b, places))
                mask = jnp.concatenate([there, own], 1)[:, None, None]
                x, kept = self._through(x, mask, kept, frames * places + place)
                code = choose(self._out(x)[:, 0], uniform)
                return (kept, code), code

            each = (jnp.arange(places), before.T, uniform.T)
            _, codes = jax.lax.scan(one, (kept, before[:, -1]), each)
            return codes.T

        return draw

    def _parallel(self, codes: jax.Array, label: jax.Array | None):
        """Runs all tokens of a window, `[B, T, P]`, each seeing itself and those before it."""
        b, frames, places = codes.shape
        flat = codes.reshape(b, -1)
        shifted = lambda by: jnp.pad(flat, ((0, 0), (by, 0)), constant_values=-1)[:, :-by]  # noqa: E731
        place, time = jnp.arange(frames * places) % places, jnp.arange(frames * places) // places
        x = self._tokens(shifted(1), shifted(places), place, time[None], label)
        mask = jnp.tril(jnp.ones((frames * places,) * 2, bool))[None, None]
        return self._through(x, mask)

    def _tokens(self, last, before, place, time, label) -> jax.Array:
        """Sums the vectors of tokens, `[B, S, C]`.

        Codes are `[B, S]`, -1 for none, places `[S]`, times `[B or 1, S]`.
        """
        rows = lambda name, at: jnp.take(self.tables[name].astype(self.dtype), at, axis=0)  # noqa: E731
        # -1 is the last row of a table: that of no code.
        x = rows("last", last) + rows("before", before)
        x = x + rows("place", place)[None] + rows("time", time)
        return x + rows("class", label)[:, None] if self.classes else x

    def _through(self, x, mask, kept=None, at=0):
        """Runs all blocks; returns tokens `[B, S, C]`, and keys and values of each block.

        Args:
          x: Tokens `[B, S, C]`.
          mask: Which keys a token sees, bool `[B or 1, 1, S, number of keys]`.
          kept: Keys and values with room for those of `x`, which go to `at`; None: there are none.
          at: Where.
        """
        made = []
        for layer in range(self.layers):
            part = {n: p[layer].astype(self.dtype) for n, p in self.blocks.items()}
            heads = _normed(x, part["norm"]) @ part["heads"]
            query, key, value = jnp.split(heads.reshape(*x.shape[:2], 3 * self.heads, -1), 3, 2)
            if kept is not None:
                put = jax.lax.dynamic_update_slice_in_dim
                key, value = (
                    put(a, b, at, 1) for a, b in zip(kept[layer], (key, value), strict=True)
                )
            made.append((key, value))
            y = jax.nn.dot_product_attention(query, key, value, mask=mask)
            x = x + y.reshape(x.shape) @ part["out"]
            y = layers.leaky_relu(_normed(x, part["forward_norm"]) @ part["wide"])
            x = x + y @ part["narrow"]
        return x, made

    def _out(self, x: jax.Array) -> jax.Array:
        """Maps the last tokens to logits, in float32."""
        x = _normed(x.astype(jnp.float32), self.norm)
        return x @ self.kernel + self.bias[None, None]


def _normed(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Divides each token by its root mean square and scales channels."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + 1e-6)
    return wide.astype(x.dtype) * scale.reshape(*(1,) * (x.ndim - 1), -1)


def pick(
    logits: jax.Array,
    uniform: jax.Array,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> jax.Array:
    """Draws codes by the inverse of the cumulative distribution, the likeliest code first.

    Args:
      logits: Float32 `[B, K]`.
      uniform: Uniform in [0, 1], `[B]`.
      temperature: Logits are divided by it.
      top_k: Only so many codes may come, the likeliest; 0: all.
      top_p: Of these, only the likeliest may come that together reach this probability.

    Returns:
      int32 `[B]`.

    Reference: Holtzman et al., "The curious case of neural text degeneration", 2020, for top-p.
    """
    logits, order = jax.lax.top_k(logits, top_k or logits.shape[-1])
    chance = jax.nn.softmax(logits / temperature)
    reached = jnp.cumsum(chance, -1)
    # A code may come while those before it do not reach top_p: the first always may.
    count = jnp.sum(reached - chance < top_p, -1)
    total = jnp.take_along_axis(reached, count[:, None] - 1, 1)
    at = jnp.sum(reached <= uniform[:, None] * total, -1)
    return jnp.take_along_axis(order, jnp.minimum(at, count - 1)[:, None], 1)[:, 0]


def remember(past: jax.Array, frame: jax.Array) -> jax.Array:
    """Adds the codes of a frame, `[B, P]`, to those of the last ones, `[B, N, P]`, -1 for none.

    Where there are N frames the first is forgotten.
    """
    moved = jnp.concatenate([past[:, 1:], frame[:, None]], 1)
    slots = jnp.arange(past.shape[1])[None]
    count = jnp.sum(past[:, :, 0] >= 0, 1)[:, None]
    added = jnp.where((slots == count)[:, :, None], frame[:, None], past)
    return jnp.where((count == past.shape[1])[:, :, None], moved, added)
