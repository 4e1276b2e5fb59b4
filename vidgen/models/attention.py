"""Building blocks of transformers: self-attention and feed-forward layers over one axis of tokens.

Tokens are `[B, N, S, C]`: B clips, and in each of them N sequences of S tokens. Along S they attend
to each other, along N they are apart; exchanging the axes exchanges space and time.

Tokens are not normalised, so that an empty patch need not be as loud as an object (what that alone
is worth was not measured). Only queries and keys are, so that the size of features does not decide
how sharp the attention is.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vidgen.models import layers


class Attention(nn.Module):
    """Adds to each token what its heads take from the others of its sequence; zero at first.

    With a window, the sequence is time: a token sees itself and the `window - 1` steps before it,
    weighted by how long ago they were. The first steps have no such past and are dropped, as by a
    convolution without padding, so a token never depends on where its sequence begins or ends. Each
    token's window is laid out by itself instead of masked in one matrix: then all sums are in the
    same order wherever the token stands, and windows of a video agree to the bit.

    Reference: Vaswani et al., "Attention is all you need", 2017; Shaw et al., "Self-attention with
      relative position representations", 2018, and Raffel et al., "Exploring the limits of transfer
      learning" (T5), 2020, for a learnt number for each distance and head; Henry et al.,
      "Query-key normalization for transformers", 2020, here by Zhang and Sennrich, "Root mean
      square layer normalization", 2019; Perez et al., "FiLM", 2018.

    Attributes:
      heads: Number of heads; divides the channels.
      window: Steps of time that a token sees, itself among them; 0: the whole sequence.
      dtype: Type of the computation; parameters are float32.
    """

    heads: int
    window: int = 0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch sequence token channel"],
        style: Float[Array, "batch style"] | None = None,
    ) -> Float[Array, "batch sequence token-max({self.window}-1,0) channel"]:
        """Maps tokens `[B, N, S, C]` and styles `[B, E]`, one for each clip, to the same shape.

        With a window to `[B, N, S - window + 1, C]`: the last steps.
        """
        b, n, s, c = x.shape
        y = x if style is None else layers.Film(self.dtype, name="style")(x, style)
        heads = layers.dense(3 * c, self.dtype, "heads", gain=1.0)(y)
        query, key, value = jnp.split(heads.reshape(b * n, s, 3 * self.heads, -1), 3, 2)
        query = nn.RMSNorm(dtype=self.dtype, name="query")(query)
        key = nn.RMSNorm(dtype=self.dtype, name="key")(key)
        bias = None
        if self.window:
            # Noise, so that at first heads attend to different steps.
            init = nn.initializers.normal(1.0)
            bias = self.param("bias", init, (self.heads, self.window), jnp.float32)
            bias = bias[None, :, None, :]
            x, query = x[:, :, self.window - 1 :], query[:, self.window - 1 :]
            query = query.reshape(-1, 1, *query.shape[2:])
            key, value = _windows(key, self.window), _windows(value, self.window)
        y = jax.nn.dot_product_attention(query, key, value, bias)
        return x + _closed(c, self.dtype)(y.reshape(x.shape))


class FeedForward(nn.Module):
    """Adds to each token a network of two layers of it, starting at zero; no normalisation.

    With a style, the features between the layers are modulated by it.

    Attributes:
      expand: Channels between the layers over those of the tokens.
      dtype: Type of the computation; parameters are float32.
    """

    expand: int = 2
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch sequence token channel"],
        style: Float[Array, "batch style"] | None = None,
    ) -> Float[Array, "batch sequence token channel"]:
        """Maps tokens `[B, N, S, C]` and styles `[B, E]` to the same shape."""
        y = layers.dense(self.expand * x.shape[-1], self.dtype, "wide")(layers.leaky_relu(x))
        if style is not None:
            y = layers.Film(self.dtype, name="style")(y, style)
        return x + _closed(x.shape[-1], self.dtype)(layers.leaky_relu(y))


def _closed(features: int, dtype: str) -> nn.Dense:
    """Returns the last layer of a branch, which adds nothing at first."""
    return nn.Dense(features, dtype=dtype, kernel_init=nn.initializers.zeros, name="out")


def _windows(
    x: Float[Array, "n token head channel"], window: int
) -> Float[Array, "n*(token-{window}+1) {window} head channel"]:
    """Lays out the window of each step but the first ones; `[N, S, ...]` to `[N * ., window, ...]`.

    The step itself is the last of its window.
    """
    steps = x.shape[1] - window + 1
    shifted = [x[:, i : i + steps] for i in range(window)]
    return jnp.stack(shifted, 2).reshape(-1, window, *x.shape[2:])
