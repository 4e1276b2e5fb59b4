"""Attention against NumPy, and what the transformers promise beyond tests/test_models.py."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    TINY_GENERATOR,
    TINY_TRANSFORMER_DISCRIMINATOR,
    TINY_TRANSFORMER_GENERATOR,
    network,
)

from vidgen import sampling
from vidgen.models import layers, protocol
from vidgen.models.attention import Attention, FeedForward

B, N, S, C, E, HEADS, WINDOW = 2, 3, 7, 6, 5, 2, 3


def noisy(tree, scale=0.5, seed=0):
    """Replaces shapes by noise: layers that start at zero must not hide what they do."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: (scale * rng.normal(size=x.shape)).astype(np.float32), tree)


@functools.cache
def made(layer, styled):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(B, N, S, C)).astype(np.float32)
    style = rng.normal(size=(B, E)).astype(np.float32) if styled else None
    params = noisy(jax.eval_shape(layer.init, jax.random.key(0), x, style)["params"])
    return params, x, style, jax.jit(layer.apply)({"params": params}, x, style)


def affine(x, params):
    return x @ np.float64(params["kernel"]) + np.float64(params["bias"])


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def modulated(x, style, params):
    """What a style makes of features `[C]`."""
    if style is None:
        return x
    scale, shift = np.split(affine(np.float64(style), params["style"]["film"]), 2)
    return x * (1 + scale) + shift


def normed(x, params):
    """What the norm of queries or keys makes of those of one token, `[HEADS, C / HEADS]`."""
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * np.float64(params["scale"])


def attend(x, style, params, window):
    """Attention for one sequence of one clip, `[S, C]`, a token and a head at a time, float64."""
    tokens = [modulated(token, style, params) for token in np.float64(x)]
    heads = [affine(t, params["heads"]).reshape(3, HEADS, C // HEADS) for t in tokens]
    heads = [(normed(q, params["query"]), normed(k, params["key"]), v) for q, k, v in heads]
    out = []
    for at in range(window - 1 if window else 0, len(x)):
        seen = range(at - window + 1, at + 1) if window else range(len(x))
        mixed = []
        for head in range(HEADS):
            query = heads[at][0][head]
            scores = [query @ heads[i][1][head] / np.sqrt(C // HEADS) for i in seen]
            if window:
                scores = [s + float(b) for s, b in zip(scores, params["bias"][head], strict=True)]
            weights = np.exp(scores) / np.sum(np.exp(scores))
            mixed += [sum(w * heads[i][2][head] for w, i in zip(weights, seen, strict=True))]
        out.append(x[at] + affine(np.concatenate(mixed), params["out"]))
    return np.stack(out)


@pytest.mark.parametrize("styled", [False, True])
@pytest.mark.parametrize("window", [0, 1, WINDOW])
def test_attention_is_that_of_the_papers(window, styled):
    params, x, style, found = made(Attention(HEADS, window), styled)
    for b, n in itertools.product(range(B), range(N)):
        expected = attend(x[b, n], style[b] if styled else None, params, window)
        np.testing.assert_allclose(found[b, n], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("styled", [False, True])
def test_a_feed_forward_layer_is_two_products_and_a_leaky_relu(styled):
    params, x, style, found = made(FeedForward(3), styled)
    for b, n, s in itertools.product(range(B), range(N), range(S)):
        wide = affine(leaky(np.float64(x[b, n, s])), params["wide"])
        assert wide.shape == (3 * C,)
        wide = modulated(wide, style[b] if styled else None, params)
        expected = x[b, n, s] + affine(leaky(wide), params["out"])
        np.testing.assert_allclose(found[b, n, s], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [Attention(HEADS), Attention(HEADS, WINDOW), FeedForward()])
def test_layers_begin_as_the_identity(layer):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(B, N, S, C)), jnp.float32)
    y, _ = layer.init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(y, x[:, :, -y.shape[2] :])


def test_a_window_moves_with_its_sequence_bit_for_bit():
    """Seen from a later beginning, in a sequence of the same length, a step is the same."""
    layer = Attention(HEADS, WINDOW)
    params = made(layer, False)[0]
    long = np.random.default_rng(2).normal(size=(B, N, 40, C)).astype(np.float32)
    apply = jax.jit(layer.apply)
    seen = [np.asarray(apply({"params": params}, long[:, :, i : i + 20])) for i in range(21)]
    for by in range(1, 18):
        np.testing.assert_array_equal(seen[0][:, :, by:], seen[by][:, :, :-by])


FRAMES, CLIPS = 8, 2


@functools.cache
def generator(stride=2, dtype="float32"):
    """Returns a tiny generator, its parameters and the compiled window."""
    arguments = {**TINY_TRANSFORMER_GENERATOR, "stride": stride, "dtype": dtype}
    gen = network("generator", "transformer", **arguments, size=16, classes=2)
    # Half the noise of a trained one's: so every layer counts and colours do not saturate.
    params = noisy(protocol.abstract_params(gen), 0.4)
    return gen, params, jax.jit(functools.partial(gen.apply, {"params": params}, frames=FRAMES))


def noise(gen, steps):
    rng = np.random.default_rng(3)
    content = rng.normal(size=(CLIPS, gen.content)).astype(np.float32)
    return content, rng.normal(size=(CLIPS, steps, gen.motion)).astype(np.float32)


def window(stride, content, motion, start, dtype="float32"):
    """Makes the window from `start` on out of a long stream of noise that begins at `-context`."""
    gen, _, apply = generator(stride, dtype)
    first = start // stride
    own = motion[:, first : first + gen.keyframes(FRAMES)]
    begin = np.full(CLIPS, start, np.int32)
    return np.asarray(apply(content, own, np.zeros((CLIPS, 0)), begin, np.arange(CLIPS)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_windows_agree_bit_for_bit_wherever_they_begin(stride, dtype):
    content, motion = noise(generator(stride)[0], 40)
    early = window(stride, content, motion, 6, dtype)
    for by in range(1, FRAMES):
        late = window(stride, content, motion, 6 + by, dtype)
        np.testing.assert_array_equal(early[:, by:], late[:, :-by])
    assert not np.array_equal(early[:, 1:], early[:, :-1])


@pytest.mark.parametrize("stride", [1, 3])
def test_a_frame_knows_nothing_of_later_noise(stride):
    gen, _, _ = generator(stride)
    content, motion = noise(gen, gen.keyframes(FRAMES))
    plain = window(stride, content, motion, 0)
    for keyframe in range(motion.shape[1]):
        changed = motion.copy()
        changed[:, keyframe] += 1
        same = (window(stride, content, changed, 0) == plain).all((0, 2, 3, 4))
        # Keyframe k lies at frame (k - context) * stride; frames before the one before it are done.
        untouched = max((keyframe - gen.context - 1) * stride + 1, 0)
        # And what lies `context` keyframes back is forgotten.
        forgotten = (keyframe + 1) * stride
        expected = [t < untouched or t >= forgotten for t in range(FRAMES)]
        np.testing.assert_array_equal(same, expected)


def test_context_grows_by_the_window_of_each_layer():
    for depth, steps in ((1, 2), (2, 4), (3, 1)):
        arguments = {**TINY_TRANSFORMER_GENERATOR, "time_layers": depth, "window": steps}
        gen = network("generator", "transformer", **arguments, size=16)
        assert gen.context == depth * (steps - 1)


def test_a_clip_of_one_frame_needs_no_second_knot():
    gen, _, _ = generator(1)
    assert gen.keyframes(1) == gen.context + 1


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("start", [0, 3, 1_000_003])
def test_samples_and_streams_agree_bit_for_bit(stride, start):
    gen, params, _ = generator(stride)
    for batch in (1, 4):
        meta = {"classes": ("disc", "square"), "fps": 12.0}
        sampler = sampling.from_generator(gen, params, meta, 5, batch=batch, chunk=8)
        expected = sampler.sample([7], 40, start)[0]
        np.testing.assert_array_equal(expected[21:33], sampler.sample([7], 12, start + 21)[0])
        streamed = np.stack(list(itertools.islice(sampler.stream(7, start), 40)))
        np.testing.assert_array_equal(expected, streamed)
        np.testing.assert_array_equal(expected, sampler.sample([3, 7, 9, 1, 5], 40, start)[1])
        assert len({frame.tobytes() for frame in expected}) > 20


def test_remat_changes_nothing_but_memory():
    gen, params, _ = generator()
    content, motion = map(jnp.asarray, noise(gen, gen.keyframes(FRAMES)))
    rest = (jnp.zeros((CLIPS, 0)), jnp.zeros(CLIPS, int), jnp.arange(CLIPS))
    dis = network(
        "discriminator", "transformer", **TINY_TRANSFORMER_DISCRIMINATOR, size=16, classes=2
    )
    video = jnp.zeros((CLIPS, FRAMES, 16, 16, 3))
    judge = noisy(jax.eval_shape(dis.init, jax.random.key(0), video, rest[-1])["params"])

    def slopes(remat):
        def loss(both):
            made = gen.clone(remat=remat).apply(
                {"params": both[0]}, content, motion, *rest, frames=FRAMES
            )
            return dis.clone(remat=remat).apply({"params": both[1]}, made, rest[-1]).sum()

        return jax.jit(jax.grad(loss))((params, judge))

    plain, again = slopes(False), slopes(True)
    assert all(np.any(x) for x in jax.tree.leaves(plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), plain, again)


@pytest.mark.parametrize("kind", ["transformer", "residual"])
def test_a_linear_output_is_what_the_others_bound(kind):
    tiny = {"transformer": TINY_TRANSFORMER_GENERATOR, "residual": TINY_GENERATOR}[kind]
    build = functools.partial(network, "generator", kind, size=8)
    tiny = {n: value for n, value in tiny.items() if n not in ("periods", "palette")}
    gens = [build(**tiny, palette=0, output=output) for output in ("linear", "tanh", "leaky")]
    params = noisy(protocol.abstract_params(gens[0]))
    given = (*noise(gens[0], gens[0].keyframes(FRAMES)), np.zeros((CLIPS, 0)), np.zeros(CLIPS, int))
    free, bounded, leaky = (
        jax.jit(functools.partial(gen.apply, {"params": params}, frames=FRAMES))(*given)
        for gen in gens
    )
    assert np.abs(free).max() > 1
    np.testing.assert_allclose(bounded, np.tanh(free), atol=1e-6)
    np.testing.assert_allclose(leaky, np.tanh(free) + free / 20, atol=1e-6)


def test_what_is_saturated_finds_back_by_a_leak():
    slope = {name: float(jax.grad(f)(20.0)) for name, f in layers.OUTPUTS.items()}
    assert slope["tanh"] == 0 and slope["leaky"] == pytest.approx(0.05) and slope["linear"] == 1


def test_magnitude_is_kept_through_every_layer_but_queries_and_keys():
    """Without biases twice the tokens make twice the tokens: no norm is in their way."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(B, N, S, C)), jnp.float32)
    for layer in (Attention(HEADS), Attention(HEADS, WINDOW), FeedForward()):
        params = noisy(jax.eval_shape(layer.init, jax.random.key(0), x)["params"])
        params = {n: {k: np.zeros_like(v) if k == "bias" else v for k, v in p.items()}
                  if isinstance(p, dict) else p for n, p in params.items()}  # fmt: skip
        one, two = (layer.apply({"params": params}, by * x) for by in (1.0, 2.0))
        np.testing.assert_allclose(two, 2 * one, rtol=1e-3, atol=1e-4)


def test_tokens_of_several_frames_tell_their_order():
    """Frames that change places within one token change the logit."""
    dis = network("discriminator", "transformer", **TINY_TRANSFORMER_DISCRIMINATOR, size=16)
    video = np.random.default_rng(0).uniform(-1, 1, (CLIPS, 4, 16, 16, 3)).astype(np.float32)
    params = noisy(jax.eval_shape(dis.init, jax.random.key(0), video)["params"])
    judge = jax.jit(functools.partial(dis.apply, {"params": params}))
    assert dis.fold == 2
    assert np.all(np.asarray(judge(video)) != np.asarray(judge(video[:, [1, 0, 2, 3]])))
