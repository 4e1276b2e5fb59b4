"""A causal transformer over a codec's codes, and how codes are drawn from its predictions."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Float32, Int, Int32

from vidgen.frame_size import Size
from vidgen.models import conditions as conditioning
from vidgen.models import labels, layers, protocol
from vidgen.models.codec import from_digits, to_digits

Cache = list[  # keys and values of each block
    tuple[Float[Array, "batch key head feature"], Float[Array, "batch key head feature"]]
]


class Prior(nn.Module):
    """A causal transformer over the codes of a window of frames, in raster order.

    Each token predicts one code, number by number: what the transformer knows of the place goes
    through one more layer for each, together with vectors of the numbers before. So there may be
    more codes than a softmax could have outputs.

    A token is the sum of learnt vectors: of the numbers of the code before it, of those of the code
    at its place in the frame before, of its place, of the number of its frame in the window, of the
    class, and of what conditions say. While the codes of a frame are drawn one by one, the keys and
    values of the tokens before are cached; when the window moves on by a frame, they are computed
    anew.

    Reference: Vaswani et al., "Attention is all you need", 2017; Xiong et al., "On layer
      normalization in the transformer architecture", 2020, for norms before the branches; Lee et
      al., "Autoregressive image generation using residual quantization", 2022, for a place's parts
      one after another.

    Attributes:
      levels: Values of each number of a code, N of them, as a codec's.
      places: Codes of a frame, P.
      classes: Number of classes; 0 for none.
      window: Frames of the window.
      width: Channels of the tokens.
      heads: Heads of attention.
      expand: Channels inside feed-forward layers over the width.
      layers: Blocks of attention and a feed-forward layer.
      dtype: Type of the computation; parameters and logits are float32.
      size: Of the frames.
      conditions: What is known beside the class, names and options; of them it is told those
        without a place.
    """

    levels: tuple[int, ...]
    places: int
    classes: int
    window: int
    width: int
    heads: int
    expand: int
    layers: int
    dtype: str
    size: Size
    conditions: conditioning.Conditions = ()

    @property
    def _reads(self) -> bool:
        """Whether there is a condition without a place."""
        return any(conditioning.KINDS[name].column for name, _ in self.conditions)

    def setup(self):
        """Makes all parameters, since a loop may not make any; those of blocks are stacked."""
        c, wide, ones = self.width, self.expand * self.width, nn.initializers.ones
        spread, zeros = nn.initializers.normal(0.5), nn.initializers.zeros
        scaled = lambda gain: nn.initializers.variance_scaling(  # noqa: E731
            gain, "fan_in", "truncated_normal", batch_axis=(0,)
        )
        values = sum(self.levels)
        tables = {"last": values + 1, "before": values + 1, "given": values}
        tables |= {"place": self.places, "time": self.window}
        tables |= {"class": self.classes} if self.classes else {}
        self.tables = {n: self.param(n, spread, (count, c)) for n, count in tables.items()}
        shapes = {
            "norm": (ones, (c,)),
            "heads": (scaled(1.0), (c, 3 * c)),
            "out": (zeros, (c, c)),  # a branch adds nothing at first
            "forward_norm": (ones, (c,)),
            "wide": (scaled(2.0), (c, wide)),
            "narrow": (zeros, (wide, c)),
        }
        self.blocks = {
            name: self.param(f"blocks_{name}", init, (self.layers, *shape))
            for name, (init, shape) in shapes.items()
        }
        self.norm = self.param("norm", ones, (c,))
        dense = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
        self.known = self.param("known", dense, (c, c))
        self.kernel = self.param("kernel", zeros, (c, values))
        self.bias = self.param("bias", zeros, (values,))
        if self._reads:
            self.reader = conditioning.Reader(
                self.conditions, self.size, self.dtype, name="conditions"
            )
            self.told = layers.dense(c, self.dtype, "told", gain=0.25)

    def __call__(
        self,
        codes: Int[Array, "batch time place"],
        label: protocol.Label | None,
        given: conditioning.Given | None = None,
    ) -> Float32[Array, "batch time place number value"]:
        """Gives the logits of every number of a window at once.

        Args:
          codes: int32 `[B, T, P]`; frames that do not exist have codes -1 and must come last.
          label: Classes, int32 `[B]`, where there are classes.
          given: Arrays of conditions; those that are not there are absent.

        Returns:
          `[B, T, P, N, max(levels)]`; values beyond those of a number have -1e9.
        """
        x, _ = self._run_window(codes, self._about(label, given, len(codes)))
        known = self._known(x).reshape(*codes.shape, -1)
        digits, logits = to_digits(codes, self.levels), []
        for number in range(len(self.levels)):
            logits.append(self._logits(known, number))
            known = known + self._given(digits[..., number], number)
        return jnp.stack(logits, -2)

    def frame_sampler(
        self,
        label: protocol.Label | None,
        sample: Callable[
            [Float32[Array, "batch value"], Float[Array, " batch"]], Int32[Array, " batch"]
        ],
        count: int,
        given: conditioning.Given | None = None,
    ) -> Callable[
        [Int[Array, "batch past place"], Float[Array, "batch place number"]],
        Int32[Array, "batch place"],
    ]:
        """Returns a function that draws the codes of the next frame.

        Args:
          label: Classes, int32 `[B]`, where there are classes.
          sample: From logits `[B, K]` and uniform noise `[B]` to values int32 `[B]`.
          count: Videos, B.
          given: Arrays of conditions; those that are not there are absent.

        Returns:
          `sample_frame(past, uniform)`: from the codes of the frames before, int32
          `[B, window - 1, P]`, -1 for frames that do not exist, and uniform noise `[B, P, N]`, to
          int32 `[B, P]`.
        """
        about = self._about(label, given, count)  # once, outside of the loops

        def sample_frame(
            past: Int[Array, "batch past place"], uniform: Float[Array, "batch place number"]
        ) -> Int32[Array, "batch place"]:
            b, frames, places = past.shape
            count = jnp.sum(past[:, :, 0] >= 0, 1)
            _, cache = self._run_window(past, about)
            room = lambda x: jnp.pad(x, ((0, 0), (0, places), (0, 0), (0, 0)))  # noqa: E731
            cache = jax.tree.map(room, cache)
            exist = jnp.repeat(jnp.arange(frames)[None] < count[:, None], places, 1)
            newest = jnp.maximum(count - 1, 0)[:, None, None]
            before = jnp.take_along_axis(past, newest, 1)[:, 0]  # -1 where there is no frame

            def one(state, given):
                cache, last = state
                place, before, uniform = given
                x = self._tokens(last[:, None], before[:, None], place[None], count[:, None], about)
                drawn = jnp.broadcast_to(jnp.arange(places)[None] <= place, (b, places))
                mask = jnp.concatenate([exist, drawn], 1)[:, None, None]
                x, cache = self._run_blocks(x, mask, cache, frames * places + place)
                known, digits = self._known(x)[:, 0], []
                for number in range(len(self.levels)):
                    digits.append(sample(self._logits(known, number), uniform[:, number]))
                    known = known + self._given(digits[-1], number)
                code = from_digits(jnp.stack(digits, -1), self.levels)
                return (cache, code), code

            each = (jnp.arange(places), before.T, uniform.swapaxes(0, 1))
            _, codes = jax.lax.scan(one, (cache, before[:, -1]), each)
            return codes.T

        return sample_frame

    def _about(
        self, label: protocol.Label | None, given: conditioning.Given | None, count: int
    ) -> Float[Array, "batch 1 channel"] | None:
        """Sums what all tokens of a video have in common, `[B, 1, C]`; None for nothing."""
        about = None
        if self.classes:
            about = labels.vectors(label, self.tables["class"].astype(self.dtype))[:, None]
        if self._reads:
            given = conditioning.filled(given, self.conditions, count, self.size, 1)
            told = self.told(self.reader(given))[:, None]
            about = told if about is None else about + told
        return about

    def _run_window(
        self, codes: Int[Array, "batch time place"], about: Float[Array, "batch 1 channel"] | None
    ) -> tuple[Float[Array, "batch token channel"], Cache]:
        """Runs all tokens of a window, `[B, T, P]`, each seeing itself and those before it."""
        b, frames, places = codes.shape
        flat = codes.reshape(b, -1)
        shifted = lambda by: jnp.pad(flat, ((0, 0), (by, 0)), constant_values=-1)[:, :-by]  # noqa: E731
        place, time = jnp.arange(frames * places) % places, jnp.arange(frames * places) // places
        x = self._tokens(shifted(1), shifted(places), place, time[None], about)
        mask = jnp.tril(jnp.ones((frames * places,) * 2, bool))[None, None]
        return self._run_blocks(x, mask)

    def _tokens(
        self,
        last: Int[Array, "batch token"],
        before: Int[Array, "batch token"],
        place: Int[Array, " token"],
        time: Int[Array, "#batch token"],
        about: Float[Array, "batch 1 channel"] | None,
    ) -> Float[Array, "batch token channel"]:
        """Sums the vectors of tokens, `[B, S, C]`.

        Codes are `[B, S]`, -1 for none, places `[S]`, times `[B or 1, S]`.
        """
        table = lambda name: self.tables[name].astype(self.dtype)  # noqa: E731
        rows = lambda name, at: jnp.take(table(name), at, axis=0)  # noqa: E731
        x = self._values(last) @ table("last") + self._values(before) @ table("before")
        x = x + rows("place", place)[None] + rows("time", time)
        return x if about is None else x + about

    def _values(
        self, codes: Int[Array, "batch token"]
    ) -> Float[Array, "batch token {sum(self.levels)}+1"]:
        """Returns 1 for each value that codes have, and for the last where there is no code."""
        own = [
            jax.nn.one_hot(digits, count, dtype=self.dtype)
            for digits, count in zip(
                jnp.moveaxis(to_digits(codes, self.levels), -1, 0), self.levels, strict=True
            )
        ]
        exists = (codes >= 0).astype(self.dtype)[..., None]
        return jnp.concatenate([*(exists * x for x in own), 1 - exists], -1)

    def _run_blocks(
        self,
        x: Float[Array, "batch token width"],
        mask: Bool[Array, "#batch 1 token key"],
        cache: Cache | None = None,
        at: Int[ArrayLike, ""] = 0,
    ) -> tuple[Float[Array, "batch token width"], Cache]:
        """Runs all blocks; returns tokens `[B, S, C]`, and keys and values of each block.

        Args:
          x: Tokens `[B, S, C]`.
          mask: Which keys a token sees, bool `[B or 1, 1, S, number of keys]`.
          cache: Keys and values of the tokens before, with room for those of `x`; None for none.
          at: Position of the first token of `x` among the keys.
        """
        made = []
        for layer in range(self.layers):
            block = {n: p[layer].astype(self.dtype) for n, p in self.blocks.items()}
            heads = _rms_norm(x, block["norm"]) @ block["heads"]
            query, key, value = jnp.split(heads.reshape(*x.shape[:2], 3 * self.heads, -1), 3, 2)
            if cache is not None:
                put = jax.lax.dynamic_update_slice_in_dim
                key, value = (
                    put(old, new, at, 1)
                    for old, new in zip(cache[layer], (key, value), strict=True)
                )
            made.append((key, value))
            y = jax.nn.dot_product_attention(query, key, value, mask=mask)
            x = x + y.reshape(x.shape) @ block["out"]
            y = layers.leaky_relu(_rms_norm(x, block["forward_norm"]) @ block["wide"])
            x = x + y @ block["narrow"]
        return x, made

    def _known(self, x: Float[Array, "batch token channel"]) -> Float32[Array, "batch token c"]:
        """Maps the last tokens to hidden vectors, from which their first numbers are predicted."""
        return _rms_norm(x.astype(jnp.float32), self.norm) @ self.known

    def _given(self, digits: Int[Array, "*place"], number: int) -> Float32[Array, "*place c"]:
        """Returns what a drawn number adds to the hidden vector that the next is predicted from."""
        return jnp.take(self.tables["given"], sum(self.levels[:number]) + digits, axis=0)

    def _logits(
        self, known: Float32[Array, "*place c"], number: int
    ) -> Float32[Array, "*place {max(self.levels)}"]:
        """Gives the logits of the values of a number, given those before."""
        first, count = sum(self.levels[:number]), self.levels[number]
        own = slice(first, first + count)
        bias = self.bias[own].reshape((1,) * (known.ndim - 1) + (-1,))
        logits = layers.leaky_relu(known) @ self.kernel[:, own] + bias
        beyond = [(0, 0)] * (known.ndim - 1) + [(0, max(self.levels) - count)]
        return jnp.pad(logits, beyond, constant_values=-1e9)


def _rms_norm(
    x: Float[Array, "batch token channel"], scale: Float[Array, " channel"]
) -> Float[Array, "batch token channel"]:
    """Divides each token by its root mean square and scales channels."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + 1e-6)
    return wide.astype(x.dtype) * scale.reshape(*(1,) * (x.ndim - 1), -1)


def sample_values(
    logits: Float32[Array, "batch value"],
    uniform: Float[Array, " batch"],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Int32[Array, " batch"]:
    """Draws values by the inverse of the cumulative distribution, the likeliest first.

    Args:
      logits: Float32 `[B, K]`.
      uniform: Uniform in [0, 1], `[B]`.
      temperature: Logits are divided by it.
      top_k: Only this many of the likeliest may be drawn; 0: all.
      top_p: Of these, only the likeliest that together reach this probability may be drawn.

    Returns:
      int32 `[B]`.

    Reference: Holtzman et al., "The curious case of neural text degeneration", 2020, for top-p.
    """
    logits, order = jax.lax.top_k(logits, top_k or logits.shape[-1])
    probability = jax.nn.softmax(logits / temperature)
    cumulative = jnp.cumsum(probability, -1)
    # A value may be drawn while those before it do not reach top_p: the first always may.
    count = jnp.sum(cumulative - probability < top_p, -1)
    total = jnp.take_along_axis(cumulative, count[:, None] - 1, 1)
    at = jnp.sum(cumulative <= uniform[:, None] * total, -1)
    return jnp.take_along_axis(order, jnp.minimum(at, count - 1)[:, None], 1)[:, 0]


def append_frame(
    past: Int[Array, "batch past place"], frame: Int[Array, "batch place"]
) -> Int[Array, "batch past place"]:
    """Appends the codes of a frame, `[B, P]`, to those of the last N, `[B, N, P]`, -1 for none.

    Where there are N frames already, the first is dropped.
    """
    moved = jnp.concatenate([past[:, 1:], frame[:, None]], 1)
    slots = jnp.arange(past.shape[1])[None]
    count = jnp.sum(past[:, :, 0] >= 0, 1)[:, None]
    added = jnp.where((slots == count)[:, :, None], frame[:, None], past)
    return jnp.where((count == past.shape[1])[:, :, None], moved, added)
