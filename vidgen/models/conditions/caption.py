"""Text: a caption, read word by word by a small transformer that is trained with the rest."""

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Shaped, UInt8

from vidgen.errors import ConfigError
from vidgen.frame_size import Size
from vidgen.models import attention, layers
from vidgen.models.conditions.maps import Seen, Sides

LONGEST = 12  # letters of a word; a longer one counts as several
PARTS = 1 + LONGEST  # what a word is looked up by: itself, and groups of three of its letters
_WORD = re.compile(rf"[^\W_]{{1,{LONGEST}}}|[^\w\s]")


class Caption(nn.Module):
    """Makes a vector of a caption.

    Its words, in lower case, are looked up by their hash, and so are the groups of three letters in
    each, so that words of one stem have something in common. Each is told its neighbours, then all
    attend to each other. The vector is the mean and the maximum over them. Nothing is downloaded:
    words are learnt with the pictures. The empty caption is the absent one, a vector of zeros.

    Reference: Vaswani et al., "Attention is all you need", 2017; Bojanowski et al., "Enriching word
      vectors with subword information" (fastText), 2017, for words as groups of letters by hash;
      Reed et al., "Generative adversarial text to image synthesis", 2016, for captions of other
      clips as fakes.

    Attributes:
      most: Words of a caption at most; each mark, as a comma, is one, and so is each further part
        of 12 letters of a long word.
      width: Channels.
      layers: Layers of attention.
      heads: Heads of each.
      rows: Rows of the table in which words and groups of letters are looked up.
      drop: Share of the training clips that are shown without it.
      dtype: Type of the computation; parameters are float32.
    """

    most: int = 32
    width: int = 96
    layers: int = 1
    heads: int = 4
    rows: int = 4096
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
        if not self.rows:
            raise ConfigError("config.conditions.caption.rows is 0", "at least 1")

    def absent(
        self, count: int, size: Size, frames: int
    ) -> dict[str, Shaped[np.ndarray, "videos ..."]]:
        """Returns empty captions of `count` videos."""
        del size, frames
        return self.of_tokens(np.zeros((count, self.most, PARTS), np.int32))

    def of_tokens(self, tokens: Int32[Any, "videos word part"]) -> dict[str, Any]:
        """Returns the arrays of videos that have one caption each."""
        return {"tokens": tokens[:, None], "weights": np.ones((len(tokens), 1), np.float32)}

    def only(self, arrays: Any, shown: Bool[Array, " batch"]) -> Any:
        """Leaves captions out where they are not shown."""
        return {**arrays, "tokens": arrays["tokens"] * shown[:, None, None, None]}

    def tokens(
        self, texts: Sequence[str] | Shaped[np.ndarray, " clips"]
    ) -> Int32[np.ndarray, "clips word part"]:
        """Returns hashes of words and of their groups of letters, `[N, most, 13]`; 0 for none.

        Of a training clip's caption that is too long the beginning is taken.
        """
        found = np.zeros((len(texts), self.most, PARTS), np.int32)
        for row, text in zip(found, texts, strict=True):
            for places, word in zip(row, _words(str(text)), strict=False):
                parts = _parts(word)
                places[: len(parts)] = parts
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
            if (long := len(_words(one))) > self.most:
                raise ConfigError(
                    f"the caption {one[:30]!r}... has {long} words",
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
        return [_cut(str(text), self.most) for text in known["caption"]]

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
        """Returns the vectors of captions, `tokens` `[B, K, most, 13]`, by `weights` `[B, K]`."""
        del seen, sides
        every: Int[Array, "batch caption word part"] = jnp.asarray(arrays["tokens"])
        tokens = every.reshape(-1, *every.shape[2:])
        there = (tokens[..., 0] > 0)[..., None]
        spread = nn.initializers.normal(1.0)
        rows = nn.Embed(self.rows, self.width, embedding_init=spread, name="rows")
        found = rows(tokens % self.rows) * (tokens > 0)[..., None]
        # The word itself, and the mean of its groups of letters.
        count = jnp.maximum((tokens[..., 1:] > 0).sum(-1), 1)[..., None]
        x = jnp.asarray(found[:, :, 0] + found[:, :, 1:].sum(2) / count, self.dtype)
        near = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
        taps = [near[:, i : i + x.shape[1]] for i in range(3)]
        x = layers.dense(self.width, self.dtype, "near")(jnp.concatenate(taps, -1))
        place = self.param("place", nn.initializers.normal(0.3), (self.most, self.width))
        x = layers.leaky_relu(x) + jnp.asarray(place, self.dtype)[None]
        x = nn.RMSNorm(dtype=self.dtype, name="words")(x * there)
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
    """Adds to each word what its heads take from the others; zero at first."""

    heads: int
    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "n word channel"], there: Bool[Array, "n word 1"]
    ) -> Float[Array, "n word channel"]:
        n, s, c = x.shape
        heads = layers.dense(3 * c, self.dtype, "heads", gain=1.0)(x)
        query, key, value = jnp.split(heads.reshape(n, s, 3 * self.heads, -1), 3, 2)
        query = nn.RMSNorm(dtype=self.dtype, name="query")(query)
        key = nn.RMSNorm(dtype=self.dtype, name="key")(key)
        # All places of an empty caption may see each other: nothing comes of them.
        mask = there[:, None, None, :, 0] | ~there.any(1)[:, None, None, :]
        y = jax.nn.dot_product_attention(query, key, value, mask=mask)
        zeros = nn.initializers.zeros
        return x + nn.Dense(c, dtype=self.dtype, kernel_init=zeros, name="out")(y.reshape(n, s, c))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _cut(text: str, most: int) -> str:
    """Returns the beginning of a text in lower case, up to its last word that is read."""
    text = " ".join(text.lower().split())
    ends = [found.end() for found in _WORD.finditer(text)]
    return text if len(ends) <= most else text[: ends[most - 1]]


def _parts(word: str) -> list[int]:
    """Returns hashes above 0 of a word and of the groups of three letters in it."""
    marked = f"<{word}>"  # groups at its ends are not those in its middle
    groups = [marked[i : i + 3] for i in range(len(marked) - 2)]
    return [
        1 + zlib.crc32(part.encode("utf-8", "replace")) % (2**31 - 1) for part in [marked, *groups]
    ]
