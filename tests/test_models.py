"""Properties that every generator and every discriminator must have."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    TINY_DISCRIMINATOR,
    TINY_GENERATOR,
    TINY_HEADS,
    TINY_TRANSFORMER_DISCRIMINATOR,
    TINY_TRANSFORMER_GENERATOR,
    network,
)

from vidgen import keys
from vidgen.errors import ConfigError
from vidgen.models import layers, residual
from vidgen.models.features import efficientnet_weights

SIZE, FRAMES, BATCH = 16, 8, 3


GENERATORS = {"residual": TINY_GENERATOR, "transformer": TINY_TRANSFORMER_GENERATOR}
DISCRIMINATORS = {
    "residual": TINY_DISCRIMINATOR,
    "heads": {**TINY_HEADS, "group": 1},  # tests of each clip by itself
    "transformer": TINY_TRANSFORMER_DISCRIMINATOR,
}
PLAIN = ["", ", bfloat16"]
ALL = [*PLAIN, ", no classes"]
JUDGES = [kind + more for kind in DISCRIMINATORS for more in PLAIN]


def build(role, arguments, name):
    kind, _, more = name.partition(", ")
    return network(
        role,
        kind,
        **arguments[kind],
        size=SIZE,
        classes=0 if more == "no classes" else 2,
        dtype="bfloat16" if more == "bfloat16" else "float32",
    )


@pytest.fixture(params=[kind + more for kind in GENERATORS for more in ALL])
def generator(request):
    return build("generator", GENERATORS, request.param)


@pytest.fixture(params=[kind + more for kind in DISCRIMINATORS for more in ALL])
def discriminator(request):
    return build("discriminator", DISCRIMINATORS, request.param)


def randomized(params, seed=0):
    """Replaces every parameter by noise: layers that start at zero must not hide a dependency."""
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(
        tree, [jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype) for x in leaves]
    )


def noise(generator, frames, first_keyframe=0, batch=BATCH):
    part = lambda name: keys.per_clip(keys.named(keys.root(0), name), np.arange(batch))  # noqa: E731
    content = keys.normal(part("content"), (generator.content,))
    begin = jnp.full((batch,), first_keyframe - generator.context)
    motion = keys.over_time(part("motion"), begin, generator.keyframes(frames), generator.motion)
    return content, motion, keys.uniform(part("cycle"), (len(generator.periods),))


def make(generator, params, content, motion, cycle, start, frames):
    label = jnp.arange(len(content)) % 2 if generator.classes else None
    start = jnp.asarray(start)
    return apply(generator, frames)({"params": params}, content, motion, cycle, start, label)


@functools.cache
def apply(module, frames=None):
    """Compiles a module once for all tests."""
    return jax.jit(
        module.apply if frames is None else functools.partial(module.apply, frames=frames)
    )


@pytest.fixture
def trained(generator):
    content, motion, cycle = noise(generator, FRAMES)
    label = jnp.zeros(BATCH, int) if generator.classes else None
    init = jax.jit(functools.partial(generator.init, frames=FRAMES))
    variables = init(jax.random.key(0), content, motion, cycle, jnp.zeros(BATCH, int), label)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {np.dtype("float32")}
    return randomized(variables["params"])


def test_video_has_its_shape_and_range(generator, trained):
    video = make(generator, trained, *noise(generator, FRAMES), [0, 1, 3], FRAMES)
    assert video.shape == (BATCH, FRAMES, SIZE, SIZE, 3) and video.dtype == jnp.float32
    assert np.abs(video).max() <= 1 and np.std(video) > 0.01


def test_a_clip_does_not_depend_on_its_batch(generator, trained):
    content, motion, cycle = noise(generator, FRAMES)
    whole = make(generator, trained, content, motion, cycle, [0, 1, 2], FRAMES)
    changed = content.at[0].set(7.0)
    others = make(generator, trained, changed, motion.at[0].set(3.0), cycle, [2, 1, 2], FRAMES)
    np.testing.assert_array_equal(whole[1:], others[1:])
    assert not np.array_equal(whole[0], others[0])


def test_overlapping_windows_agree(generator, trained):
    """Frames that two windows share, one stride apart: the same shape, so the same bits."""
    stride = generator.stride
    early = make(generator, trained, *noise(generator, FRAMES), [0] * BATCH, FRAMES)
    late = make(
        generator, trained, *noise(generator, FRAMES, 1), [generator.stride] * BATCH, FRAMES
    )
    np.testing.assert_array_equal(early[:, stride:], late[:, : FRAMES - stride])


def test_the_start_is_a_shift_in_time(generator, trained):
    content, motion, cycle = noise(generator, FRAMES)
    by = generator.stride - 1  # the last phase within a step of the noise
    plain = make(generator, trained, content, motion, cycle, [0] * BATCH, FRAMES)
    shifted = make(generator, trained, content, motion, cycle, [by] * BATCH, FRAMES)
    np.testing.assert_allclose(
        plain[:, by:], shifted[:, :-by], atol=2e-2 if generator.dtype == "bfloat16" else 1e-5
    )
    assert not np.array_equal(plain, shifted)


def test_picked_frames_are_those_of_the_window(generator, trained):
    content, motion, cycle = noise(generator, FRAMES)
    whole = make(generator, trained, content, motion, cycle, [0, 1, 3], FRAMES)
    pick = jnp.array([[0, 1, 2], [1, 4, 7], [0, 5, 6]])
    label = jnp.arange(BATCH) % 2 if generator.classes else None
    picked = apply(generator, FRAMES)(
        {"params": trained}, content, motion, cycle, jnp.array([0, 1, 3]), label, pick
    )
    expected = jnp.take_along_axis(whole, pick[:, :, None, None, None], 1)
    np.testing.assert_allclose(
        picked, expected, atol=2e-2 if generator.dtype == "bfloat16" else 1e-5
    )


def test_a_window_has_exactly_the_motion_it_needs(generator, trained):
    """Every step of the noise reaches a frame at the last phase, so none is drawn in vain."""
    content, motion, cycle = noise(generator, FRAMES)
    start = [generator.stride - 1] * BATCH
    plain = make(generator, trained, content, motion, cycle, start, FRAMES)
    for keyframe in range(motion.shape[1]):
        moved = motion.at[:, keyframe].add(1.0)
        assert not np.array_equal(
            plain, make(generator, trained, content, moved, cycle, start, FRAMES)
        )


def test_noise_and_label_matter(generator, trained):
    content, motion, cycle = noise(generator, FRAMES)
    plain = make(generator, trained, content, motion, cycle, [0] * BATCH, FRAMES)
    assert not np.allclose(
        plain, make(generator, trained, content + 1, motion, cycle, [0] * BATCH, FRAMES)
    )
    for number in range(len(generator.periods)):
        turned = cycle.at[:, number].add(0.3)
        assert not np.allclose(
            plain, make(generator, trained, content, motion, turned, [0] * BATCH, FRAMES)
        )
    if generator.classes:
        one, two = (
            apply(generator, FRAMES)(
                {"params": trained}, *(content, motion, cycle), jnp.zeros(BATCH, int), label
            )
            for label in jnp.array([[0] * BATCH, [1] * BATCH])
        )
        assert not np.allclose(one, two)


@pytest.mark.parametrize("gaits, harmonics", [("strengths", 1), ("strengths", 3), ("one", 3)])
def test_the_one_cycle_with_strength_moves_the_clip(gaits, harmonics):
    """Without noise, at the tempo of the periods, a clip comes back after the turn of one cycle."""
    arguments = TINY_GENERATOR | {"motion": 0, "periods": (4, 6), "tempo_range": 0.0}
    arguments |= {"gaits": gaits, "harmonics": harmonics}
    generator, frames = network("generator", "residual", size=SIZE, **arguments), 13
    content, motion, cycle = noise(generator, frames)
    start = jnp.zeros(BATCH, int)
    made = generator.init(jax.random.key(0), content, motion, cycle, start, frames=frames)
    params = randomized(made["params"])
    assert not {"motion0", "tempo"} & params.keys()
    for chosen, turn in enumerate((4, 6)):
        gait = jnp.full(2, -50.0).at[chosen].set(50.0)
        params["gait"] = {"kernel": jnp.zeros_like(params["gait"]["kernel"]), "bias": gait}
        video = make(generator, params, content, motion, cycle, start, frames)
        other = make(generator, params, content, motion, cycle + 0.3, start, frames)
        np.testing.assert_allclose(video[:, turn:], video[:, :-turn], atol=1e-5)
        assert not np.allclose(video[:, turn // 2 :], video[:, : -(turn // 2)], atol=1e-3)
        assert not np.allclose(video, other, atol=1e-3)


def test_where_content_chooses_one_cycle_every_clip_comes_back_and_the_choice_is_learnt():
    arguments = TINY_GENERATOR | {"motion": 0, "periods": (4, 6), "tempo_range": 0.0}
    generator = network("generator", "residual", size=SIZE, **arguments, gaits="one")
    batch, frames = 32, 7
    keys = jax.random.split(jax.random.key(0), 2)
    content = jax.random.normal(keys[0], (batch, generator.content))
    motion = jnp.zeros((batch, generator.keyframes(frames), 0))
    cycle, start = jax.random.uniform(keys[1], (batch, 2)), jnp.zeros(batch, int)
    made = generator.init(jax.random.key(0), content, motion, cycle, start, frames=frames)
    params = randomized(made["params"])
    video = make(generator, params, content, motion, cycle, start, frames)
    after = np.stack([np.abs(video[:, 0] - video[:, turn]).max((1, 2, 3)) for turn in (4, 6)])
    assert (after.min(0) < 1e-5).all() and (after.max(0) > 1e-3).all()
    assert set(after.argmin(0)) == {0, 1}  # both are chosen, each by some
    of = lambda p: make(generator, p, content, motion, cycle, start, frames)  # noqa: E731
    slopes = jax.grad(lambda p: (of(p) ** 2).sum())(params)["gait"]["kernel"]
    assert np.abs(slopes).max() > 1e-4


def test_features_are_bounded_where_they_are_larger_and_else_left_alone():
    generator = network(
        "generator", "residual", size=SIZE, **TINY_GENERATOR | {"feature_bound": 0.0}
    )
    bounded = generator.clone(feature_bound=4.0)
    content, motion, cycle = noise(generator, FRAMES)
    start = jnp.zeros(BATCH, int)
    init = generator.init(jax.random.key(0), content, motion, cycle, start, frames=FRAMES)
    of = lambda g, params: make(g, params, content, motion, cycle, start, FRAMES)  # noqa: E731
    small = jax.tree.map(lambda x: 0.1 * x, randomized(init["params"]))
    np.testing.assert_array_equal(of(bounded, small), of(generator, small))

    def grown(by):
        params = randomized(init["params"])
        return {**params, "narrow1": jax.tree.map(lambda x: by * x, params["narrow1"])}

    once, twice = of(bounded, grown(1e3)), of(bounded, grown(2e3))
    np.testing.assert_allclose(once, twice, atol=1e-5)
    assert np.std(once) > 0.01
    assert not np.allclose(of(generator, grown(1e3)), once, atol=1e-2)
    slopes = jax.grad(lambda x: layers.bound_rms(x, 2.0).sum())(jnp.zeros((1, 3)))
    np.testing.assert_array_equal(slopes, 1)  # of nothing, too


@pytest.mark.parametrize("most", [0.0, 0.8])
def test_the_gradient_of_a_bound_is_that_of_what_it_computes(most):
    keys = jax.random.split(jax.random.key(3))
    x, weights = (jax.random.normal(key, (64, 5)) for key in keys)
    bounded = np.mean(np.asarray(x) ** 2, -1) ** 0.5 > 0.8
    assert 10 < bounded.sum() < 60  # features of both kinds

    def by_jax(x):
        return x * jnp.minimum(1, (most or 1e9) / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True)))

    of = lambda bound: jax.value_and_grad(lambda x: (weights * bound(x)).sum())(x)  # noqa: E731
    expected, slopes = of(by_jax)
    value, own = of(lambda x: layers.bound_rms(x, most))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(own, slopes, atol=1e-5)


def test_turns_are_exact_however_late():
    cycle, rate = jnp.array([[0.1, 0.75]]), jnp.array([[0.3, 1 / 7]])
    start, frames = 2_000_000_000, 5
    turns = residual._turns(cycle, rate, jnp.array([start]), jnp.arange(frames)[None])
    at = [Fraction(float(c)) for c in cycle[0]]
    by = [Fraction(int(float(r) * 2**32), 2**32) for r in rate[0]]
    expected = [
        [float((c + r * (start + t)) % 1) for c, r in zip(at, by, strict=True)]
        for t in range(frames)
    ]
    np.testing.assert_allclose(turns[0], expected, atol=2**-23)


def test_the_gradient_of_turns_is_that_of_a_window_at_the_beginning():
    cycle, rate = jnp.array([[0.2]]), jnp.array([[0.125]])
    within = jnp.arange(4)[None]
    for start in (0, 1000):
        slopes = jax.jacobian(residual._turns, 1)(cycle, rate, jnp.array([start]), within)
        slopes = slopes[0, :, 0, 0, 0]
        np.testing.assert_array_equal(slopes, [0, 1, 2, 3])


def judge(discriminator, params, video, label, pick=None):
    """Returns one logit for each clip, or for each of its labels."""
    label = label if discriminator.classes else None
    seen = discriminator.see(None, video)
    logits = apply(discriminator)({"params": params}, seen, label, pick)
    if isinstance(logits, dict):
        assert {name.partition("_")[0] for name in logits} == {"image", "time"}
        assert all(x.dtype == jnp.float32 for x in logits.values())
        logits = sum(x.mean(-1) if "image" in name else x for name, x in logits.items())
    return logits


@pytest.fixture
def judged(discriminator):
    video = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (BATCH, FRAMES, SIZE, SIZE, 3)))
    label = jnp.array([0, 1, 0])
    init = jax.jit(discriminator.init)
    seen = discriminator.see(None, video)
    variables = init(jax.random.key(0), seen, label if discriminator.classes else None)
    return randomized(variables["params"]), video, label


def test_logits_are_float32_and_one_a_clip(discriminator, judged):
    logits = judge(discriminator, *judged)
    assert logits.shape == (BATCH,) and logits.dtype == jnp.float32


def test_a_logit_does_not_depend_on_the_batch(discriminator, judged):
    params, video, label = judged
    logits = judge(discriminator, params, video, label)
    others = judge(discriminator, params, video.at[0].set(0.0), label)
    np.testing.assert_array_equal(logits[1:], others[1:])
    assert logits[0] != others[0]


def test_every_pixel_of_every_frame_is_seen(discriminator, judged):
    params, video, label = judged
    slopes = jax.jit(jax.grad(lambda v: judge(discriminator, params, v, label).sum()))(video)
    assert np.mean(np.asarray(slopes) != 0) > 0.99


@pytest.mark.parametrize("discriminator", JUDGES, indirect=True)
def test_a_video_is_judged_as_each_of_its_candidate_labels(discriminator, judged):
    params, video, label = judged
    both = judge(discriminator, params, video, jnp.stack([label, 1 - label], 1))
    alone = [judge(discriminator, params, video, one) for one in (label, 1 - label)]
    np.testing.assert_allclose(both, np.stack(alone, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("discriminator", ["residual" + more for more in ALL], indirect=True)
def test_what_one_frame_shows_reaches_the_logit_by_itself(discriminator, judged):
    params, video, label = judged
    flat = jax.tree.map(jnp.copy, params)
    flat["last"]["kernel"] = jnp.zeros_like(flat["last"]["kernel"])  # shut the way of the trunk
    logits = judge(discriminator, flat, video, label)
    assert not np.allclose(logits, judge(discriminator, flat, video.at[:, 2].set(0.5), label))
    # Without the trunk there is no order of time.
    np.testing.assert_allclose(
        logits, judge(discriminator, flat, video[:, ::-1], label), rtol=2e-2, atol=1e-3
    )


def test_the_distances_of_picked_frames_matter_and_nothing_else_of_their_numbers(discriminator):
    video = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (BATCH, 4, SIZE, SIZE, 3)))
    label = jnp.array([0, 1, 0])
    pick = jnp.array([[0, 1, 2, 3], [1, 4, 5, 7], [0, 5, 6, 7]])
    init = jax.jit(discriminator.init)
    seen = discriminator.see(None, video)
    variables = init(jax.random.key(0), seen, label if discriminator.classes else None, pick)
    params = randomized(variables["params"])
    picked = lambda pick: judge(discriminator, params, video, label, pick)  # noqa: E731
    np.testing.assert_array_equal(picked(pick), picked(pick + 100))
    farther = pick.at[:, 3].add(4)
    assert (np.asarray(picked(pick)) != picked(farther)).all()


def test_heads_of_a_group_see_how_much_its_clips_differ():
    heads = network("discriminator", "heads", **TINY_HEADS, size=SIZE, classes=2)
    rng = np.random.default_rng(0)
    video = jnp.asarray(rng.uniform(-1, 1, (2 * heads.group, FRAMES, SIZE, SIZE, 3)))
    label = jnp.arange(len(video)) % 2
    init = jax.jit(heads.init)
    params = randomized(init(jax.random.key(0), heads.see(None, video), label)["params"])
    logits = judge(heads, params, video, label)
    others = judge(heads, params, video.at[0].set(0.0), label)
    np.testing.assert_array_equal(logits[heads.group :], others[heads.group :])
    assert (logits[: heads.group] != others[: heads.group]).all()


@pytest.mark.parametrize("output, leaves", [("tanh", False), ("leaky", True), ("linear", True)])
def test_a_palette_is_bounded_as_the_output_says(output, leaves):
    arguments = TINY_GENERATOR | {"palette": 4, "output": output}
    generator = network("generator", "residual", size=SIZE, **arguments)
    content, motion, cycle = noise(generator, FRAMES)
    start = jnp.zeros(BATCH, int)
    made = generator.init(jax.random.key(0), content, motion, cycle, start, frames=FRAMES)
    params = randomized(made["params"])
    params["palette"] = jax.tree.map(lambda x: 50 * x, params["palette"])
    video = make(generator, params, content, motion, cycle, start, FRAMES)
    assert (np.abs(video).max() > 1.01) == leaves


def test_unfolded_squares_show_every_pixel_where_means_show_none():
    stripes = jnp.broadcast_to(
        1.0 - 2 * (jnp.arange(SIZE) % 2)[:, None, None], (1, 3, SIZE, SIZE, 3)
    )
    sizes = {**TINY_HEADS, "size": SIZE, "unfold": (2,)}
    seen = network("discriminator", "heads", **sizes).see(None, stripes)
    assert seen["pixels2"].shape == (1, 3, 8, 8, 12)
    places = seen["pixels2"].reshape(1, 3, 8, 8, 2, 2, 3)  # row and column in the square
    np.testing.assert_array_equal(places[..., 0, :, :], 1.0)
    np.testing.assert_array_equal(places[..., 1, :, :], -1.0)
    means = network("discriminator", "heads", **sizes | {"unfold": ()}).see(None, stripes)
    np.testing.assert_array_equal(means["pixels2"], 0.0)
    np.testing.assert_array_equal(means["pixels1"], seen["pixels1"])


def test_heads_of_taps_see_features_and_no_parameters_of_theirs():
    weights = efficientnet_weights.load()
    heads = network("discriminator", "heads", **TINY_HEADS, size=SIZE, classes=2, taps=(4, 8))
    rng = np.random.default_rng(0)
    video, label = jnp.asarray(rng.uniform(-1, 1, (2, 3, SIZE, SIZE, 3))), jnp.arange(2)
    seen = jax.jit(functools.partial(heads.see, weights))(video)
    assert {name: x.shape[1:] for name, x in seen.items()} == {
        "pixels1": (3, 16, 16, 3),
        "pixels2": (3, 8, 8, 3),
        "tap4": (3, 4, 4, 32),
        "tap8": (3, 2, 2, 48),
    }
    for number in (0, 1):  # pixels of a clip and a frame are seen in their own maps alone
        moved = jax.jit(functools.partial(heads.see, weights))(video.at[1, number].add(0.3))
        for name, x in seen.items():
            changed = (np.asarray(x) != moved[name]).any((2, 3, 4))
            assert changed.tolist() == [[False] * 3, [n == number for n in range(3)]]
    params = jax.jit(heads.init)(jax.random.key(0), seen, label)["params"]
    logits = apply(heads)({"params": randomized(params)}, seen, label)
    assert set(params) == set(logits) == {f"{k}_{n}" for k in ("image", "time") for n in seen}


def test_taps_may_see_means_of_squares():
    weights = efficientnet_weights.load()
    heads = network("discriminator", "heads", **TINY_HEADS, size=2 * SIZE, taps=(4,), tap_scale=2)
    rng = np.random.default_rng(0)
    large = jnp.asarray(rng.uniform(-1, 1, (1, 2, 2 * SIZE, 2 * SIZE, 3)), jnp.float32)
    small = large.reshape(1, 2, SIZE, 2, SIZE, 2, 3).mean((3, 5))
    expected = heads.clone(size=SIZE, tap_scale=1).see(weights, small)["tap4"]
    np.testing.assert_allclose(heads.see(weights, large)["tap4"], expected, atol=1e-5)


def test_a_change_of_frames_counts_as_many_times_in_time_and_not_in_images():
    video = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 3, SIZE, SIZE, 3)))
    more = jnp.concatenate([video[:, :1], video[:, :1] + 4 * (video[:, 1:] - video[:, :1])], 1)
    one, four = (
        network("discriminator", "heads", **TINY_HEADS, size=SIZE, change=c) for c in (1.0, 4.0)
    )
    params = randomized(jax.jit(one.init)(jax.random.key(0), one.see(None, video))["params"])
    plain, moved = (apply(one)({"params": params}, one.see(None, v)) for v in (video, more))
    found = apply(four)({"params": params}, four.see(None, video))
    for name, x in found.items():
        expected = plain[name] if name.startswith("image") else moved[name]
        np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frames", [1, 3])
def test_the_deviation_of_a_group_is_that_of_its_clips(frames):
    rng = np.random.default_rng(0)
    clips = rng.normal(size=(3, 2, frames, 4, 5, 6))  # three groups of two clips
    found = layers.group_deviation(jnp.asarray(clips).reshape(-1, 4, 5, 6), 2, frames)
    expected = clips.std(1).mean((1, 2, 3, 4))
    np.testing.assert_allclose(found, np.repeat(expected, 2 * frames), rtol=1e-4)
    same = jnp.broadcast_to(jnp.asarray(clips[:, :1]), clips.shape).reshape(-1, 4, 5, 6)
    np.testing.assert_allclose(layers.group_deviation(same, 2, frames), 1e-3, rtol=1e-3)


def test_the_deviation_has_a_gradient_where_clips_are_equal():
    slopes = jax.grad(lambda x: layers.group_deviation(x, 2).sum())(jnp.ones((2, 4, 4, 3)))
    assert np.isfinite(slopes).all()


@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (4, 7), (1, 1)])
def test_a_strided_convolution_by_products_is_xlas_own(shape):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *shape, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 5)), jnp.float32)
    layer, bias = layers.Conv3x3(5, stride=2), jnp.arange(5.0)
    found = layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)
    expected = layers._halved(x, kernel) + bias[None, None, None]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_order_of_frames_and_label_matter(discriminator, judged):
    params, video, label = judged
    logits = judge(discriminator, params, video, label)
    assert not np.allclose(logits, judge(discriminator, params, video[:, ::-1], label))
    if discriminator.classes:
        assert not np.allclose(logits, judge(discriminator, params, video, 1 - label))


@pytest.mark.parametrize(
    "role, kind, arguments, says",
    [
        ("generator", "resnet", {}, "one of residual"),
        ("generator", "residual", {"width": 3}, "widths"),
        ("generator", "residual", {"widths": 64}, "tuple"),
        ("generator", "residual", {"stride": 0}, "at least 1"),
        ("generator", "residual", {"periods": (8, 3)}, "at least 4"),
        ("generator", "residual", {"motion": 0, "periods": ()}, "nothing would move"),
        ("generator", "residual", {"harmonics": 0}, "at least 1"),
        ("generator", "residual", {"feature_bound": -1.0}, "at least 0"),
        ("generator", "residual", {"gaits": "two"}, "one of alike, strengths, one"),
        ("generator", "residual", {"periods": (3,), "tempo_range": 1.0}, "at least 4 frames"),
        ("generator", "residual", {"tempo_range": -1.0, "periods": (8,)}, "at least 0"),
        ("generator", "residual", {"widths": ()}, "tuple"),
        ("generator", "residual", {"widths": (8, 8, 8, 8)}, "multiple of 32"),
        ("generator", "transformer", {"periods": (8,)}, "there is no field"),
        ("generator", "transformer", {"patch": 0}, "at least 1"),
        ("generator", "transformer", {"patch": 3}, "divide the size"),
        ("generator", "transformer", {"grid": 3}, "size / patch"),
        ("generator", "transformer", {"heads": 7}, "divide the width"),
        ("generator", "transformer", {"unfold": 3}, "patch=4"),
        ("generator", "transformer", {"window": 0}, "at least 1"),
        ("generator", "transformer", {"stride": 0}, "at least 1"),
        ("generator", "transformer", {"output": "relu"}, "one of tanh"),
        ("discriminator", "transformer", {"patch": 1}, "2, 4, 8"),
        ("discriminator", "transformer", {"patch": 6}, "2, 4, 8"),
        ("discriminator", "transformer", {"front": 8}, "at least 12"),
        ("discriminator", "transformer", {"heads": 5}, "divide the width"),
        ("discriminator", "transformer", {"fold": 0}, "at least 1"),
        ("discriminator", "residual", {"widths": (8, 8, 8)}, "size / patch"),
        ("discriminator", "heads", {"scales": (4,)}, "at least 8 times"),
        ("discriminator", "heads", {"scales": (3,)}, "multiple of each"),
        ("discriminator", "heads", {"unfold": (8,)}, "of config.discriminator.scales"),
        ("discriminator", "heads", {"group": 0}, "at least 1"),
        ("discriminator", "heads", {"taps": (3,)}, "of 4"),
        ("discriminator", "heads", {"taps": (32,)}, "of 4"),
        ("discriminator", "heads", {"taps": (8,), "tap_scale": 2}, "of 4"),
        ("discriminator", "heads", {"tap_scale": 3}, "multiple of it"),
        ("discriminator", "heads", {"tap_scale": 0}, "at least 1"),
        ("discriminator", "residual", {"front": 8}, "at least 12"),
        ("discriminator", "residual", {"blocks": -1}, "a whole number, 0 to"),
    ],
)
def test_wrong_arguments_are_named(role, kind, arguments, says):
    with pytest.raises(ConfigError) as error:
        network(role, kind, size=16, **arguments)
    text = f"{error.value} {error.value.hint}"
    assert says in text and next(iter(arguments), "kind") in text


def test_conv3x3_is_a_convolution_on_small_and_large_maps():
    from vidgen.models.layers import Conv3x3

    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(3, 3, 2, 5)), rng.normal(size=5)
    for side in (4, 8, 16):
        x = rng.normal(size=(2, side, side, 2))
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        expected = bias + sum(
            padded[:, i : i + side, j : j + side] @ kernel[i, j] for i in range(3) for j in range(3)
        )
        params = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
        got = Conv3x3(5).apply({"params": params}, jnp.asarray(x))
        np.testing.assert_allclose(got, expected, atol=1e-4)
