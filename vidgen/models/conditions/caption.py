"""Text: a caption, read byte by byte by a small transformer that is trained with the rest."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Shaped, UInt8, UInt32

from vidgen.errors import ConfigError
from vidgen.frame_size import Size
from vidgen.models import attention, layers
from vidgen.models.conditions.maps import Seen, Sides


class Caption(nn.Module):
    """Makes a vector of a caption.

    Its bytes (UTF-8, lower case) are looked up, and so are the groups of bytes that end at each, by
    their hash; they are convolved so that each knows its neighbours, and attend to each other. The
    vector is the mean and the maximum over them. Nothing is downloaded: words are learnt with the
    pictures. The empty caption is the absent one, a vector of zeros.

    Reference: Vaswani et al., "Attention is all you need", 2017; Xue et al., "ByT5: towards a
      token-free future", 2022, for bytes; Bojanowski et al., "Enriching word vectors with subword
      information", 2017, and Pagnoni et al., "Byte latent transformer", 2024, for hashed groups;
      Reed et al., "Generative adversarial text to image synthesis", 2016, for captions of other
      clips as fakes.

    Attributes:
      most: Bytes of a caption at most.
      width: Channels.
      layers: Layers of attention.
      heads: Heads of each.
      groups: Numbers of bytes of the groups.
      rows: Rows of the table in which groups of a number are looked up.
      drop: Share of the training clips that are shown without it.
      dtype: Type of the computation; parameters are float32.
    """

    most: int = 96
    width: int = 96
    layers: int = 1
    heads: int = 4
    groups: tuple[int, ...] = (3, 4, 6)
    rows: int = 2048
    drop: float = 0.1
    dtype: str = "float32"
    column = "caption"
    without_frames = ()

    def check(self, size: Size) -> None:
        """Raises ConfigError if the options do not fit each other."""
        del size
        if not self.most or not self.width or not self.heads or self.width % self.heads:
            raise ConfigError(
                f"config.conditions.caption has width={self.width}, heads={self.heads}, "
                f"most={self.most}",
                "at least 1 each, and the heads must divide the width",
            )
        sizes = self.groups
        right = all(type(n) is int and 1 <= n <= self.most for n in sizes)
        if not self.rows or not right or len(set(sizes)) < len(sizes):
            raise ConfigError(
                f"config.conditions.caption has groups={self.groups}, rows={self.rows}",
                f"different groups of 1 to {self.most} bytes, at least 1 row",
            )

    def absent(
        self, count: int, size: Size, frames: int
    ) -> dict[str, Shaped[np.ndarray, "videos ..."]]:
        """Returns empty captions of `count` videos."""
        del size, frames
        return self.of_tokens(np.zeros((count, self.most), np.int32))

    def of_tokens(self, tokens: Int32[Any, "videos byte"]) -> dict[str, Any]:
        """Returns the arrays of videos that have one caption each."""
        return {"tokens": tokens[:, None], "weights": np.ones((len(tokens), 1), np.float32)}

    def only(self, arrays: Any, shown: Bool[Array, " batch"]) -> Any:
        """Leaves captions out where they are not shown."""
        return {**arrays, "tokens": arrays["tokens"] * shown[:, None, None]}

    def tokens(
        self, texts: Sequence[str] | Shaped[np.ndarray, " clips"]
    ) -> Int32[np.ndarray, "clips byte"]:
        """Returns bytes of texts plus one, int32 `[N, most]`; 0 behind the end.

        Of a training clip's caption that is too long the beginning is taken.
        """
        found = np.zeros((len(texts), self.most), np.int32)
        for row, text in zip(found, texts, strict=True):
            data = _bytes(str(text))[: self.most]
            row[: len(data)] = np.frombuffer(data, np.uint8).astype(np.int32) + 1
        return found

    def read(
        self, value: Any, count: int, size: Size
    ) -> dict[str, Shaped[np.ndarray, "videos ..."]]:
        """Returns the arrays of a caption for all videos, or of one for each."""
        del size
        texts = value.tolist() if isinstance(value, np.ndarray) else value
        texts = [texts] * count if isinstance(texts, str) else texts
        if not isinstance(texts, Sequence) or not all(isinstance(one, str) for one in texts):
            raise ConfigError("the condition caption is no text", "text, or a list of texts")
        if len(texts) != count:
            raise ConfigError(f"{len(texts)} captions for {count} videos", "give one for each")
        for one in texts:
            if (long := len(_bytes(one))) > self.most:
                raise ConfigError(
                    f"the caption {one[:30]!r}... has {long} bytes",
                    f"at most {self.most}, as the run was trained with",
                )
        return self.of_tokens(self.tokens(texts))

    def of_clips(
        self, clips: UInt8[np.ndarray, "clips time height width 3"], known: Mapping[str, Any]
    ) -> Any:
        """Returns the captions of clips, cut as in training; None where they have none."""
        del clips
        if "caption" not in known:
            return None
        cut = lambda text: _bytes(str(text))[: self.most].decode("utf-8", "ignore")  # noqa: E731
        return [cut(text) for text in known["caption"]]

    def window(self, arrays: Any, start: int, frames: int, beside: int = 0) -> Any:
        """Returns the same: it says nothing of time."""
        del start, frames, beside
        return arrays

    def length(self, arrays: Any) -> int:
        """Returns 0: there is no end."""
        del arrays
        return 0

    def see(self, arrays: Any, within: Any, size: Size) -> Seen | None:
        """Returns None: it has no place."""
        del arrays, within, size
        return None

    @nn.compact
    def __call__(
        self, arrays: Any, seen: Seen | None = None, sides: Sides = ()
    ) -> tuple[Float[Array, "batch {self.width}"], dict[int, Any]]:
        """Returns the vectors of captions, `tokens` `[B, K, most]`, by their `weights` `[B, K]`."""
        del seen, sides
        every: Int[Array, "batch caption byte"] = jnp.asarray(arrays["tokens"])
        tokens = every.reshape(-1, every.shape[-1])
        there = (tokens > 0)[..., None]
        table = nn.Embed(257, self.width, embedding_init=nn.initializers.normal(1.0), name="bytes")
        x = jnp.asarray(table(tokens), self.dtype)
        for n in self.groups:
            table = nn.Embed(
                self.rows, self.width, embedding_init=nn.initializers.normal(1.0), name=f"groups{n}"
            )
            x = x + jnp.asarray(table(_hashed(tokens, n) % self.rows), self.dtype)
        x = x * there
        place = self.param(
            "place", nn.initializers.normal(0.3), (self.most, self.width), jnp.float32
        )
        for n, reach in enumerate((2, 2)):  # of letters, then of their groups: words
            near = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
            taps = [near[:, i : i + x.shape[1]] for i in range(2 * reach + 1)]
            x = layers.dense(self.width, self.dtype, f"letters{n}")(jnp.concatenate(taps, -1))
            x = layers.leaky_relu(x) * there
        x = x + jnp.asarray(place, self.dtype)[None] * there
        x = nn.RMSNorm(dtype=self.dtype, name="words")(x) * there
        for layer in range(self.layers):
            x = _Attention(self.heads, self.dtype, name=f"attention{layer}")(x, there)
            x = attention.FeedForward(dtype=self.dtype, name=f"forward{layer}")(x[:, None])[:, 0]
        count = jnp.maximum(there.sum(1), 1)
        mean = (x * there).sum(1) / count
        top = jnp.where(there, x, -jnp.inf).max(1)
        both = jnp.concatenate([mean, jnp.where(there.any(1), top, 0)], -1)
        both = nn.RMSNorm(use_scale=False, dtype=self.dtype)(both)
        vector = layers.dense(self.width, self.dtype, "last", gain=1.0)(both)
        # As loud as the vectors of classes: what was louder saturated the generator's colours.
        vector = nn.RMSNorm(use_scale=False, dtype=self.dtype)(vector) * there.any(1)
        weights = jnp.asarray(arrays["weights"], self.dtype)
        return jnp.einsum("bkf,bk->bf", vector.reshape(*every.shape[:2], -1), weights), {}


class _Attention(nn.Module):
    """Adds to each byte what its heads take from the others; zero at first."""

    heads: int
    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "n byte channel"], there: Bool[Array, "n byte 1"]
    ) -> Float[Array, "n byte channel"]:
        n, s, c = x.shape
        heads = layers.dense(3 * c, self.dtype, "heads", gain=1.0)(x)
        query, key, value = jnp.split(heads.reshape(n, s, 3 * self.heads, -1), 3, 2)
        query = nn.RMSNorm(dtype=self.dtype, name="query")(query)
        key = nn.RMSNorm(dtype=self.dtype, name="key")(key)
        # All bytes of an empty caption may see each other: nothing comes of them.
        mask = there[:, None, None, :, 0] | ~there.any(1)[:, None, None, :]
        y = jax.nn.dot_product_attention(query, key, value, mask=mask)
        zeros = nn.initializers.zeros
        return x + nn.Dense(c, dtype=self.dtype, kernel_init=zeros, name="out")(y.reshape(n, s, c))


def _hashed(tokens: Int[Array, "n byte"], length: int) -> UInt32[Array, "n byte"]:
    """Returns a hash of the `length` bytes that end at each byte, before the first one zeros."""
    x = jnp.pad(tokens.astype(jnp.uint32), ((0, 0), (length - 1, 0)))
    found = jnp.zeros(tokens.shape, jnp.uint32)
    for i in range(length):  # as FNV-1a does, a byte at a time
        found = (found ^ x[:, i : i + tokens.shape[1]]) * jnp.uint32(16777619)
    return found ^ (found >> 15)


def _bytes(text: str) -> bytes:
    return " ".join(text.lower().split()).encode("utf-8", "replace")
