"""Whether videos show what their captions say: retrieval by a matcher that is trained for it.

matcher = matching.fit(clips, captions)
matching.rate(matcher, others, their_captions)      # share of videos whose own caption is found

The matcher is small and learns from clips that the generator has not seen, so no pretrained network
stands between. What it finds of generated videos counts beside what it finds of real ones.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, UInt8

from vidgen import seeds
from vidgen.errors import DataError
from vidgen.models import layers
from vidgen.models.conditions.caption import Caption

_BATCH = 32
CANDIDATES = 16  # captions that a video's own is looked for among
_NONE = np.zeros((0, 1, 1, 1, 3), np.uint8)
_LEAST = 64  # clips to learn from
_MOST = 32  # words of a caption

Clips = UInt8[np.ndarray, "clips time height width 3"]


class Matcher(nn.Module):
    """Makes vectors of videos and of captions, alike where they belong together.

    Frames lie side by side in channels, strided convolutions make a vector of them; captions are
    read as conditions are.

    Reference: Radford et al., "Learning transferable visual models from natural language
      supervision" (CLIP), 2021.
    """

    width: int = 64
    features: int = 64

    def setup(self) -> None:
        """Makes the two towers."""
        self.text = Caption(most=_MOST, width=self.features, layers=1)
        self.sight = _Sight(self.width, self.features)
        self.scale = self.param("scale", nn.initializers.constant(np.log(10.0)), ())

    def __call__(
        self, video: UInt8[Array, "batch time height width 3"], tokens: Any
    ) -> tuple[Float[Array, "batch feature"], Float[Array, "batch feature"]]:
        """Returns vectors of length 1 of videos and of captions; the former times a scale."""
        return jnp.exp(self.scale) * _direction(self.sight(video)), self.read(tokens)

    def read(self, tokens: Any) -> Float[Array, "batch feature"]:
        """Returns vectors of captions."""
        return _direction(self.text(self.text.of_tokens(tokens))[0])


class _Sight(nn.Module):
    width: int
    features: int

    @nn.compact
    def __call__(self, video):
        b, _, h, w, _ = video.shape
        x = video.astype(jnp.float32) / 127.5 - 1
        x = jnp.concatenate([x[:, :1], 2 * (x[:, 1:] - x[:, :-1]), x[:, -1:]], 1)
        x = layers.space_to_depth(x.transpose(0, 2, 3, 1, 4).reshape(b, h, w, -1), 2)
        width = self.width
        while max(x.shape[1:3]) > 4:
            x = layers.Conv3x3(width, stride=2, name=f"down{x.shape[1]}")(x)
            x, width = layers.leaky_relu(x), min(2 * width, 4 * self.width)
        x = layers.leaky_relu(layers.dense(self.features, "float32", "wide")(x.reshape(b, -1)))
        return layers.dense(self.features, "float32", "last", gain=1.0)(x)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A matcher that was trained.

    Attributes:
      params: Of the `Matcher`.
    """

    params: Any


def fit(
    clips: Clips,
    captions: Sequence[str],
    seed: int = 0,
    steps: int = 800,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Fitted:
    """Trains a matcher: in a batch of pairs each video finds its caption, and the other way round.

    Args:
      clips: At least 64.
      captions: Of each.
      seed: Of weights and order.
      steps: Of Adam, on batches of 32 pairs.
      progress: Steps done, of how many.

    Raises:
      DataError: There are too few clips.
    """
    if len(clips) < _LEAST:
        raise DataError(
            f"a matcher learns from at least {_LEAST} clips with captions, and there are "
            f"{len(clips)}",
            "more clips",
        )
    module, tokens = Matcher(), _tokens(captions)
    rng = seeds.stream(seed, "matching")
    params = module.init(jax.random.key(seed), clips[:2], tokens[:2])
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, steps))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, video, tokens):
        def loss(params):
            seen, read = module.apply(params, video, tokens)
            logits = jnp.einsum("vf,tf->vt", seen, read)
            # Captions that are the same belong to all their videos.
            same = (tokens[:, None] == tokens[None]).all((-1, -2))
            target = same / same.sum(1, keepdims=True)
            both = (logits, logits.T)
            return sum(optax.softmax_cross_entropy(x, target).mean() for x in both) / 2

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, value

    for number in range(steps):
        rows = rng.choice(len(clips), _BATCH, replace=False)
        params, state, _ = step(params, state, clips[rows], tokens[rows])
        if number % 50 == 0:
            progress(number, steps)
    return Fitted(params)


def rate(
    fitted: Fitted,
    videos: Clips,
    captions: Sequence[str],
    candidates: int = CANDIDATES,
    seed: int = 0,
) -> float:
    """Returns the share of videos whose own caption is found among others.

    Args:
      fitted: From `fit`.
      videos: Real or generated, of the size and length of those that it was trained on.
      captions: What each is to show.
      candidates: Captions to choose of: its own, and others drawn of those of the other videos
        that are not the same text.
      seed: Of the draw.

    Raises:
      DataError: There are no two different captions.
    """
    texts = sorted({_text(text) for text in captions})
    if len(texts) < 2:
        raise DataError("all captions are the same", "clips of different captions")
    rng, module = seeds.stream(seed, "candidates"), Matcher()
    see = jax.jit(functools.partial(module.apply, fitted.params))
    read = jax.jit(functools.partial(module.apply, fitted.params, method="read"))
    vectors = np.asarray(read(_tokens(texts)))
    place, found = {text: n for n, text in enumerate(texts)}, []
    for at in range(0, len(videos), _BATCH):
        some = np.resize(videos[at : at + _BATCH], (_BATCH, *videos.shape[1:]))
        seen, _ = see(some, _tokens([""] * _BATCH))
        for row, text in zip(np.asarray(seen), captions[at : at + _BATCH], strict=False):
            own = place[_text(text)]
            others = np.delete(np.arange(len(texts)), own)
            others = rng.choice(others, min(candidates - 1, len(others)), replace=False)
            found.append(bool((vectors[own] @ row > vectors[others] @ row).all()))
    return float(np.mean(found))


def _text(text: str) -> str:
    """Returns a caption as it is read: what differs in capitals or spaces is the same."""
    return Caption(most=_MOST).of_clips(_NONE, {"caption": [text]})[0]


def _tokens(texts: Sequence[str]) -> np.ndarray:
    return Caption(most=_MOST).tokens(texts)


def _direction(x: Float[Array, "batch feature"]) -> Float[Array, "batch feature"]:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
