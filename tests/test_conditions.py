"""What conditions promise: known pixels stay, absent ones are absent, windows agree."""

import dataclasses
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    TINY_CODES_GENERATOR,
    TINY_FLOW_GENERATOR,
    TINY_GENERATOR,
    TINY_HEADS,
    tiny_config,
)
from ml_collections import ConfigDict

from vidgen import methods, models, sampling
from vidgen.errors import ConfigError
from vidgen.methods import gan
from vidgen.models import conditions
from vidgen.models.conditions.caption import LONGEST, PARTS
from vidgen.models.conditions.frames import MODES
from vidgen.models.known_frames import Hints
from vidgen.sampling import edit

SIZE = 16
OPTIONS = {
    "caption": {"most": 6, "width": 8, "heads": 2},
    "frames": {"modes": ("first", "hole"), "width": 8},
    "video": {"scale": 4, "width": 8},
}
TINY_VAE_GENERATOR = {
    **{n: v for n, v in TINY_GENERATOR.items() if n != "periods"},
    **{"encoder_widths": (8, 8, 8), "features": 8},
}
RNG = np.random.default_rng(0)
CLIP = RNG.integers(0, 256, (20, SIZE, SIZE, 3), np.uint8)
SMALL = RNG.integers(0, 256, (20, SIZE // 4, SIZE // 4, 3), np.uint8)


def told_config(*names):
    config = tiny_config()
    config.discriminator = ConfigDict({"kind": "heads", **TINY_HEADS})
    config.conditions = ConfigDict({name: OPTIONS[name] for name in names or OPTIONS})
    methods.complete(config)
    return config


@pytest.fixture(scope="module")
def sampler():
    """A generator of random weights that takes all conditions, its shares of pixels moved."""
    experiment = methods.experiment(told_config(), 2)
    params = jax.jit(experiment.init, static_argnums=0)(0).ema
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    arguments = json.loads(json.dumps(experiment.generator))  # as a checkpoint has them
    meta = {"generator": arguments, "classes": ["disc", "square"], "fps": 10}
    return sampling.from_weights(tree.unflatten(moved), meta, 0, chunk=8, batch=2)


def test_known_pixels_come_back_as_they_are(sampler):
    hole = np.ones((SIZE, SIZE), bool)
    hole[3:9, 2:11] = False
    asked = {"video": CLIP[:3], "time": [0, 7, 13], "known": hole}
    videos = sampler.sample([0, 1, 2], 16, condition={"frames": asked})
    np.testing.assert_array_equal(
        videos[:, [0, 7, 13]][:, :, hole], np.tile(CLIP[:3][:, hole], (3, 1, 1, 1))
    )
    assert (videos[:, 0][:, ~hole] != CLIP[0, ~hole]).any()
    plain = sampler.sample([0, 1, 2], 16)
    assert (plain[:, 0][:, hole] != CLIP[0][hole]).mean() > 0.9
    # Frames that are not known are told of those that are.
    assert (videos[:, 4] != plain[:, 4]).any()


def test_what_is_known_is_the_same_however_it_is_written(sampler):
    """One frame; it among others of which nothing is known; all frames behind a mask."""
    known = np.zeros((8, SIZE, SIZE), bool)
    known[2] = True
    ways = (
        {"video": CLIP[2:3], "time": [2]},
        {"video": CLIP[[2, 5, 6]], "time": [2, 5, 6], "known": known[[2, 5, 6]]},
        {"video": CLIP[:8], "known": known},
    )
    one, *others = (sampler.sample([0], 8, condition={"frames": way}).astype(int) for way in ways)
    for other in others:
        assert np.abs(one - other).max() <= 1
    assert np.abs(one - sampler.sample([0], 8)).max() > 10


def test_latents_decode_to_what_was_sampled_and_wrong_ones_are_refused(sampler):
    asked = {"video": SMALL[:13], "frames": CLIP[:3], "caption": "red"}
    latents = sampler.latents([0, 1], condition=asked)
    np.testing.assert_array_equal(sampler.decode(latents), sampler.sample([0, 1], condition=asked))
    assert sampler.decode(latents).shape[1] == 13
    bad = {
        "there": {n: x for n, x in latents.items() if n != "video/there"},
        "uint8": {**latents, "video/video": latents["video/video"] / 255},
        "have a condition 'colour'": {**latents, "colour/rgb": np.zeros((2, 3))},
        "frames/known": {**latents, "frames/known": latents["frames/known"][:1]},
        "caption/tokens": {**latents, "caption/tokens": latents["caption/tokens"][..., :5]},
        "frames/colours is float32 [2, 9]": {
            **latents,
            "frames/colours": latents["frames/colours"][:, :9],
        },
        "arrays of different lengths": {
            **latents,
            "frames/time": latents["frames/time"][:, :1],
        },
        "frames/colours holds what is not finite": {
            **latents,
            "frames/colours": latents["frames/colours"] * np.nan,
        },
    }
    for text, wrong in bad.items():
        with pytest.raises(ConfigError) as error:
            sampler.decode(wrong, 13)
        assert text in f"{error.value}; {error.value.hint}"


@pytest.mark.parametrize("names", [("caption",), ("frames",), ("video",), tuple(OPTIONS)])
def test_windows_streams_and_companies_agree_bit_for_bit(sampler, names):
    values = {
        "caption": "a red disc",
        "frames": {"video": CLIP[:3], "time": [0, 5, 17]},
        "video": SMALL,
    }
    asked = {name: values[name] for name in names}
    whole = sampler.sample([3, 4, 5], 20, condition=asked)
    assert (whole != sampler.sample([3, 4, 5], 20)).any()
    np.testing.assert_array_equal(sampler.sample([5], 7, 11, condition=asked)[0], whole[2, 11:18])
    stream = sampler.stream(4, 3, condition=asked)
    np.testing.assert_array_equal([next(stream) for _ in range(9)], whole[1, 3:12])
    times = [17, 2.5, 0, 12]
    at = sampler.sample_at([3], times, condition=asked)
    np.testing.assert_array_equal(at[0, [0, 2, 3]], whole[0, [17, 0, 12]])
    latents = sampler.latents([3, 4], 20, condition=asked)
    np.testing.assert_array_equal(sampler.decode(latents, 20), whole[:2])


@pytest.fixture(scope="module", params=["chunks", "stream"])
def flow(request):
    """A flow of captions with guidance."""
    return flow_sampler({"caption": OPTIONS["caption"]}, stream=request.param == "stream")


def flow_sampler(conditions, stream=False):
    """A flow with random weights, as a checkpoint would make it."""
    generator = {**TINY_FLOW_GENERATOR, "stream": stream, "guidance": 2.0}
    return method_sampler("flow", conditions, generator)


def method_sampler(method, conditions, generator):
    """A run of a method with random weights, as a checkpoint would make it."""
    config = methods.base(method)
    config.data.update(frames=4, size=SIZE)
    config.generator.update(generator)
    config.conditions = ConfigDict(conditions)
    methods.complete(config)
    experiment = methods.experiment(config, 2)
    params = jax.jit(experiment.init, static_argnums=0)(0).ema
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    arguments = experiment.generator
    meta = {"generator": json.loads(json.dumps(arguments)), "classes": ["a", "b"], "fps": 10}
    return sampling.from_weights(tree.unflatten(moved), meta, 0, chunk=8, batch=2)


def check_captions(sampler):
    """Checks that captions change videos, each its own, the same in all windows and streams."""
    asked = {"caption": ["a red disc", "", "blue"]}
    whole = sampler.sample([3, 4, 5], 20, condition=asked)
    plain = sampler.sample([3, 4, 5], 20)
    assert (whole[[0, 2]] != plain[[0, 2]]).any((1, 2, 3, 4)).all()
    np.testing.assert_array_equal(whole[1], plain[1])  # nothing was said
    blue = {"caption": "blue"}
    np.testing.assert_array_equal(sampler.sample([5], 7, 11, condition=blue)[0], whole[2, 11:18])
    stream = sampler.stream(3, 9, condition={"caption": "a red disc"})
    np.testing.assert_array_equal([next(stream) for _ in range(9)], whole[0, 9:18])
    latents = sampler.latents([5], 20, condition=blue)
    np.testing.assert_array_equal(sampler.decode(latents, 20), whole[2:])


def test_a_flow_of_captions_is_the_same_in_all_windows_and_streams(flow):
    check_captions(flow)


def test_codes_of_captions_are_the_same_in_all_windows_and_streams():
    told = {"caption": OPTIONS["caption"]}
    check_captions(method_sampler("autoregressive", told, TINY_CODES_GENERATOR))


def test_codes_go_on_from_frames_that_are_known():
    """What is known stays, and changes what comes after it, not what came before."""
    codes = method_sampler(
        "autoregressive", {"frames": {"whole": True}, "caption": OPTIONS["caption"]},
        TINY_CODES_GENERATOR,
    )  # fmt: skip
    frames = {"video": CLIP[:3], "time": [3, 9, 30]}
    asked = {"frames": frames, "caption": "blue"}
    whole = codes.sample([3, 4], 40, condition=asked)
    for at, frame in zip(frames["time"], CLIP, strict=False):
        np.testing.assert_array_equal(whole[:, at], np.stack([frame] * 2))
    plain = codes.sample([3, 4], 40, condition={"caption": "blue"})
    assert (whole[:, 10:] != plain[:, 10:]).any((2, 3, 4)).mean() > 0.9
    # A known frame has its own codes; what the codec lost of it may come back beside it.
    later = {"frames": {"video": CLIP[:1], "time": [35]}, "caption": "blue"}
    states, moved = (
        codes.latents([3, 4], 40, 32, condition=one)["carry"] for one in (asked, later)
    )
    assert (states != moved).any()
    before = codes.latents([3, 4], 40, 32, condition={"caption": "blue"})["carry"]
    np.testing.assert_array_equal(moved, before)
    np.testing.assert_array_equal(codes.sample([4], 9, 25, condition=asked)[0], whole[1, 25:34])
    stream = codes.stream(3, 5, condition=asked)
    np.testing.assert_array_equal([next(stream) for _ in range(30)], whole[0, 5:35])


@pytest.mark.parametrize(
    "name, text", [("video", "codes takes captions and known"), ("frames", "whole is False")]
)
def test_codes_take_no_condition_but_those_of_frames_and_captions(name, text):
    with pytest.raises(ConfigError, match=text):
        method_sampler("autoregressive", {name: OPTIONS[name]}, TINY_CODES_GENERATOR)


def test_an_autoencoder_keeps_what_is_known_of_what_it_makes_and_of_what_it_gives_back():
    vae = method_sampler("vae", OPTIONS, TINY_VAE_GENERATOR)
    asked = {"frames": {"video": CLIP[:2], "time": [0, 9]}, "caption": "blue"}
    whole = vae.sample([3, 4], 20, condition=asked)
    np.testing.assert_array_equal(whole[:, [0, 9]], np.tile(CLIP[:2], (2, 1, 1, 1, 1)))
    words = {"caption": "a red disc"}
    assert (vae.sample([3], 4, condition=words) != vae.sample([3], 4)).any()
    np.testing.assert_array_equal(vae.sample([4], 7, 6, condition=asked)[0], whole[1, 6:13])
    stream = vae.stream(3, 5, condition=asked)
    np.testing.assert_array_equal([next(stream) for _ in range(9)], whole[0, 5:14])


@pytest.mark.parametrize("method, kind", [("vae", "whole"), ("autoregressive", "prior")])
def test_captions_are_learnt_by_other_methods(method, kind):
    """What reads them moves in training, of discriminators, too."""
    config = methods.base(method)
    config.data.update(frames=4, size=SIZE)
    generator = {"vae": TINY_VAE_GENERATOR, "autoregressive": TINY_CODES_GENERATOR}[method]
    config.generator.update(generator)
    config.discriminator = ConfigDict({"kind": "heads", **TINY_HEADS, "taps": ()})
    config.conditions = ConfigDict({"caption": OPTIONS["caption"]})
    config.objective.adversarial = 0.1
    config.training.batch_size = 8
    methods.complete(config)
    experiment = methods.experiment(config, 2)
    state = jax.jit(experiment.init, static_argnums=0)(0)
    words = conditions.kind("caption", OPTIONS["caption"])
    batch = {
        "video": RNG.integers(0, 256, (8, 4, SIZE, SIZE, 3), np.uint8),
        "label": np.arange(8, dtype=np.int32) % 2,
        "index": np.arange(8, dtype=np.int32),
        "caption": words.tokens([f"clip {n}" for n in range(8)]),
    }
    step, first = jax.jit(experiment.steps[kind]), state
    for _ in range(3):  # some layers are zero at first
        state, metrics = step(state, batch)
        assert metrics["skipped"] == 0 and np.isfinite(metrics["gen/loss"])
    part = {"vae": "decoder", "autoregressive": "model"}[method]
    pairs = [(first.gen[part]["conditions"], state.gen[part]["conditions"])]
    if method == "vae":
        pairs.append((first.dis["conditions"], state.dis["conditions"]))
    for before, after in pairs:
        still = jax.tree.map(lambda a, b: bool((a == b).all()), before, after)
        assert not any(jax.tree.leaves(still)), still


@pytest.fixture(scope="module")
def completing():
    """A flow that knows frames, with random weights."""
    return flow_sampler({"frames": {"modes": ("first",), "whole": True}})


def test_a_flow_keeps_known_frames_in_all_windows(completing):
    frames = {"video": CLIP[:3], "time": [0, 9, 30]}
    whole = completing.sample([3, 4], 40, condition={"frames": frames})
    for at, frame in zip(frames["time"], CLIP, strict=False):
        np.testing.assert_array_equal(whole[:, at], np.stack([frame] * 2))
    plain = completing.sample([3, 4], 40)
    others = np.setdiff1d(np.arange(40), frames["time"])
    assert (whole[:, others] != plain[:, others]).any((0, 2, 3, 4)).all()
    part = completing.sample([4], 9, 22, condition={"frames": frames})
    np.testing.assert_array_equal(part[0], whole[1, 22:31])
    stream = completing.stream(3, 5, condition={"frames": frames})
    np.testing.assert_array_equal([next(stream) for _ in range(20)], whole[0, 5:25])


def test_known_frames_within_a_margin_tell_a_window(completing):
    """Two of them: more than the next ones are seen, whichever window is asked for."""
    times = [*range(20, 28), 38, 39]
    video = RNG.integers(0, 256, (10, SIZE, SIZE, 3), np.uint8)
    other = video.copy()  # of the same colours: see the next test
    other[9] = video[9].reshape(4, 4, SIZE, 3)[:, ::-1].reshape(video[9].shape)
    one, two = (
        completing.sample([0], 40, condition={"frames": {"video": x, "time": times}})[0]
        for x in (video, other)
    )
    # Frames 32 to 35 are drawn with 30 to 37; 36 to 39 with 34 to 41.
    changed = set(np.flatnonzero((one != two).any((1, 2, 3))).tolist())
    assert 39 in changed and changed <= {36, 37, 38, 39}
    # The chunk before 20 has 20 and 21 beside it, in its margin.
    at = {"video": video[:2], "time": [20, 21]}
    whole = completing.sample([0], 40, condition={"frames": at})
    np.testing.assert_array_equal(
        completing.sample([0], 3, 16, condition={"frames": at}), whole[:, 16:19]
    )
    first = completing.sample([0], 20, condition={"frames": {"video": video[:2], "time": [20, 22]}})
    assert (first[:, 16:20] != whole[:, 16:20]).any()


def test_a_known_frame_tells_those_about_it_and_the_whole(completing):
    """Frames in the same chunks see which one it is; others see those of the first eight."""
    ask = lambda clip, at: completing.sample(  # noqa: E731
        [0], 24, condition={"frames": {"video": clip, "time": at}}
    )[0]
    times = [*range(8), 9, 12]  # of the last, later frames have the details
    # Of the same mean colours: pixels change places within the cells of which means are told.
    other = CLIP[8].reshape(4, 4, SIZE, 3)[:, ::-1].reshape(CLIP[8].shape)
    one = ask(CLIP[:10], times)
    other = ask(np.concatenate([CLIP[:8], other[None], CLIP[9:10]]), times)
    changed = set(np.flatnonzero((one != other).any((1, 2, 3))).tolist())
    # Chunks of 4 frames are drawn with 2 on each side.
    assert changed - {9} and changed <= {8, 9, 10, 11}
    stripes = np.uint8(255 * (np.arange(SIZE) // 2 % 2))[None, :, None, None]
    both = np.broadcast_to(stripes, (8, SIZE, SIZE, 3))
    first, second = (ask(np.concatenate([x, CLIP[8:10]]), times) for x in (both, 255 - both))
    assert (first != second)[12:].any()


def test_a_flow_knows_frames_whole(completing):
    half = np.zeros((SIZE, SIZE), bool)
    half[:4] = True
    with pytest.raises(ConfigError, match="knows parts of frames"):
        completing.sample(0, 4, condition={"frames": {"video": CLIP[:1], "known": half}})
    with pytest.raises(ConfigError, match="stream is True, and"):
        completing.generator.clone(stream=True).check()
    with pytest.raises(ConfigError, match="whole=True, and a mode 'hole'"):
        conditions.check((("frames", {"modes": ("first", "hole"), "whole": True}),), SIZE)


@pytest.mark.parametrize("drop, end", [(0.1, 3 * 2), (0.0, 2)])
def test_guidance_leads_away_from_where_no_frames_are_known(completing, drop, end):
    """Their tokens are left out with their colours; but not where training never left them out."""
    options = {**dict(completing.generator.conditions)["frames"], "drop": drop}
    generator = completing.generator.clone(guidance=3.0, conditions=(("frames", options),))

    def integrate(module):
        run = lambda x, level, label, given, hints: (  # noqa: E731
            0 * x + ("frames" in (given or {})) + (hints is not None)
        )
        asked = None, {"frames": {}}, Hints(jnp.zeros(1), jnp.zeros(1))
        return module._solve(run, jnp.zeros((1, 1)), jnp.ones((1, 1)), asked, 2)

    found = generator.apply({"params": completing.params}, method=integrate)
    np.testing.assert_allclose(found, end)


def test_guidance_leads_away_from_what_was_not_said(flow):
    """With a weight of 0 nothing is said; with 1 the velocity is that of what was said."""
    asked = {"caption": "a red disc"}
    sample = lambda weight, **more: dataclasses.replace(  # noqa: E731
        flow, generator=flow.generator.clone(guidance=weight)
    ).sample([0], 8, **more)
    np.testing.assert_array_equal(
        sample(0.0, condition=asked), sample(0.0, condition={"caption": "blue"})
    )
    one, two, three = (sample(w, condition=asked).astype(float) for w in (1.0, 2.0, 3.0))
    assert (one != two).any() and (two != three).any()


@pytest.mark.parametrize(
    "name, text", [("video", "takes captions and known frames"), ("frames", "whole is False")]
)
def test_a_flow_takes_no_condition_but_those_of_frames_and_captions(name, text):
    config = methods.base("flow")
    config.data.path = "toy"
    config.conditions = ConfigDict({name: OPTIONS[name]})
    with pytest.raises(ConfigError, match=text):
        methods.validate(config)


def test_captions_change_by_degrees(sampler):
    ask = lambda text: sampler.latents([3], 12, condition={"caption": text})  # noqa: E731
    one, other = ask("a red disc"), ask("blue")
    between = edit.interpolate(one, other, [0, 0.5, 1])
    video = sampler.decode(between, 12).astype(int)
    for at, latents in ((0, one), (2, other)):
        assert np.abs(video[at] - sampler.decode(latents, 12)[0]).max() <= 1
    assert (video[1] != video[0]).any() and (video[1] != video[2]).any()
    again = edit.interpolate(edit.take(between, [1]), other, [1.0])  # of three captions
    assert np.abs(sampler.decode(again, 12)[0] - video[2]).max() <= 1
    swapped = edit.swap(one, other, "condition")
    np.testing.assert_array_equal(sampler.decode(swapped, 12), sampler.decode(other, 12))
    nothing = edit.swap(one, sampler.latents([3], 12), ("content", "condition"))
    np.testing.assert_array_equal(sampler.decode(nothing, 12), sampler.sample([3], 12))


def test_a_stream_ends_where_the_poorer_video_does(sampler):
    asked = {"video": SMALL[:13]}
    assert len(list(sampler.stream(0, 2, condition=asked))) == 11
    assert sampler.sample(0, condition=asked).shape[1] == 13
    with pytest.raises(ConfigError, match="frames 0 to 14"):
        sampler.sample(0, 14, condition=asked)
    latents = sampler.latents(0, 13, condition=asked)
    with pytest.raises(ConfigError, match="frames 0 to 16"):
        sampler.decode_at(latents, [0, 15])
    with pytest.raises(ConfigError, match="frames 30 to 31 are asked for"):
        next(sampler.stream(0, 30, condition=asked))


def test_half_way_between_poorer_frames_lies_their_mean():
    kind = conditions.kind("video", {"scale": 4})
    arrays = kind.window(kind.read(SMALL // 4 + 96, 1, SIZE), 0, 8)  # nothing is clipped
    whole, half = (kind.see(arrays, jnp.array([at]), SIZE) for at in ([2, 3], [2.5, 3.0]))
    mean = (whole.raw[0, 0, ..., :3] + whole.raw[0, 1, ..., :3]) / 2
    np.testing.assert_allclose(half.raw[0, 0, ..., :3], mean, atol=1e-5)
    np.testing.assert_allclose(half.raw[0, 1], whole.raw[0, 1], atol=1e-6)


def test_a_place_is_told_what_is_known_next_before_and_after_it():
    kind = conditions.kind("frames", {})
    known = np.zeros((4, 2, 2), bool)
    known[:2] = True  # of frames 1 and 3
    known[2, 0, 0] = True  # of frame 9, one place
    arrays = kind.read({"video": CLIP[:4, :2, :2], "time": [3, 1, 9, 5], "known": known}, 1, 2)
    seen = kind.see(arrays, jnp.array([[2, 3, 6]]), 2)
    raw = np.asarray(seen.raw)[0]
    floats = CLIP[:4, :2, :2] / 127.5 - 1
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)  # noqa: E731
    close(raw[0, ..., :3], floats[1])  # frame 2: last known is 1, one frame ago; nothing before it
    close(raw[0, ..., 3], 1 / 2)
    close(raw[0, ..., 4:8], 0)
    close(raw[0, ..., 8:11], floats[0])  # and the next one is 3
    close(raw[1, ..., :3], floats[0])  # frame 3 is known itself
    close(raw[1, ..., 3], 1)
    close(raw[1, ..., 4:7], floats[1])
    close(raw[1, ..., 7], 1 / 3)
    np.testing.assert_array_equal(
        seen.known[0], [np.zeros((2, 2)), np.ones((2, 2)), np.zeros((2, 2))]
    )
    close(raw[2, 0, 0, 8:11], floats[2, 0, 0])  # frame 6: at one place 9 is known
    close(raw[2, 0, 0, 11], 1 / 4)
    close(raw[2, 1, 1, 8:12], 0)


def test_of_frames_that_are_known_at_once_all_windows_see_the_first():
    kind = conditions.kind("frames", {})
    arrays = kind.read({"video": CLIP[:4], "time": [3, 3, 5, 3]}, 1, SIZE)
    whole = kind.see(arrays, jnp.array([[9]]), SIZE)
    part = kind.see(kind.window(arrays, 8, 4), jnp.array([[1]]), SIZE)
    np.testing.assert_array_equal(part.raw, whole.raw)


def test_videos_in_company_know_frames_of_their_own(sampler):
    frames = {"video": np.stack([CLIP[:3], CLIP[3:6]]), "time": [[0, 1, 2], [30, 31, 32]]}
    both = sampler.sample([0, 1], 12, condition={"frames": frames})
    for n in range(2):
        one = {"video": frames["video"][n], "time": frames["time"][n]}
        np.testing.assert_array_equal(
            sampler.sample([n], 12, condition={"frames": one})[0], both[n]
        )


def test_a_video_that_begins_again_has_no_frames_of_its_own(sampler):
    looped = dataclasses.replace(sampler, generator=sampler.generator.clone(loop=16))
    with pytest.raises(ConfigError, match="begins again after 16 frames"):
        looped.sample(0, 20, condition={"frames": CLIP[:1]})
    again = looped.sample(0, 32, condition={"caption": "red"})
    np.testing.assert_array_equal(again[:, 16:], again[:, :16])


def test_a_window_keeps_what_its_places_see_of_many_known_frames():
    kind = conditions.kind("frames", {})
    rng = np.random.default_rng(5)
    known = rng.random((2, 60, 4, 4)) < 0.2
    known[:, :, 0, 0] = False  # a place that is never known
    known[1, 30:] = False
    time = rng.choice(300, (2, 60))  # some at once, in no order
    video = rng.integers(0, 256, (2, 60, 4, 4, 3), np.uint8)
    asked = {"video": video, "time": time, "known": known}
    arrays, within = kind.read(asked, 2, 4), jnp.arange(6)[None]
    for start in (0, 3, 140, 290, 500):
        part = kind.window(arrays, start, 6)
        assert part["time"].shape[1] <= 32
        shifted = {**arrays, "time": arrays["time"] - start}
        some, whole = (kind.see(one, within, 4) for one in (part, shifted))
        jax.tree.map(np.testing.assert_array_equal, some, whole)
        np.testing.assert_array_equal(part["colours"], arrays["colours"])
    whole_frames = kind.read({"video": video[:, :9]}, 2, 4)
    assert kind.window(whole_frames, 20, 6)["time"].shape == (2, 2)  # the last two


def test_what_is_known_of_training_clips():
    masks = {n: np.asarray(make(jax.random.key(3), 6, 16, 16)) for n, make in MODES.items()}
    frames = {n: mask.all((1, 2)) for n, mask in masks.items()}
    np.testing.assert_array_equal(frames["first"], [1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(frames["last"], [0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(frames["ends"], [1, 0, 0, 0, 0, 1])
    assert (np.diff(frames["start"].astype(int)) <= 0).all() and 1 <= frames["start"].sum() <= 3
    np.testing.assert_array_equal(frames["alternate"], [1, 0, 1, 0, 1, 0])
    assert frames["some"].any()
    hole, border = masks["hole"], masks["border"]
    np.testing.assert_array_equal(hole, ~border)  # of one key: the same box
    assert (hole == hole[:1]).all() and 1 / 16 <= border[0].mean() <= 9 / 16 + 0.2
    other = np.asarray(MODES["hole"](jax.random.key(4), 6, 16, 16))
    assert (other != hole).any()


def test_conditions_of_a_clip_are_those_of_its_key_alone():
    known = conditions.frozen([("frames", {"modes": ("hole", "some"), "drop": 0.5})])
    keys = jax.random.split(jax.random.key(0), 64)
    videos = RNG.integers(0, 256, (64, 4, 8, 8, 3), np.uint8)
    whole = conditions.draw(known, {"frames": keys}, {"video": jnp.asarray(videos)})["frames"][
        "known"
    ]
    some = conditions.draw(known, {"frames": keys[9:11]}, {"video": jnp.asarray(videos[9:11])})
    np.testing.assert_array_equal(some["frames"]["known"], whole[9:11])
    absent = ~np.asarray(whole).any((1, 2, 3))
    assert 16 <= absent.sum() <= 48  # half of them


def test_a_poorer_video_is_made_of_means():
    kind = conditions.kind("video", {"scale": 4})
    low = kind.of_clips(CLIP[None], {})
    means = CLIP.reshape(20, 4, 4, 4, 4, 3).mean((2, 4))
    assert np.abs(low[0] - means).max() <= 0.5 + 1e-4
    grey = conditions.kind("video", {"grey": True}).of_clips(CLIP[None], {})[0]
    assert (grey[..., :1] == grey).all()
    assert np.abs(grey[..., 0] - CLIP @ [0.2126, 0.7152, 0.0722]).max() <= 0.5 + 1e-3
    flat = np.full((1, 3, 8, 8, 3), 90, np.uint8)
    np.testing.assert_array_equal(conditions.kind("video", {"blur": 1.5}).of_clips(flat, {}), flat)
    noisy = conditions.kind("video", {"noise": 10.0}).of_clips(np.repeat(flat, 50, 1), {})
    assert 9 < noisy.std() < 11 and abs(noisy.mean() - 90) < 1


def test_what_is_made_is_added_to_a_poorer_video():
    kind = conditions.kind("video", {"noise": 1.0})
    arrays = kind.window(kind.read(CLIP[:4], 2, SIZE), 0, 4)
    arrays = kind.only(arrays, jnp.array([True, False]))
    seen = kind.see(arrays, jnp.arange(4)[None], SIZE)
    made = jnp.asarray(RNG.normal(size=(2, 4, SIZE, SIZE, 3)), jnp.float32)
    found = conditions.take_over(made, jnp.zeros((8, SIZE, SIZE, 5)), [seen])
    np.testing.assert_allclose(found[0], CLIP[:4] / 127.5 - 1 + np.asarray(made[0]), atol=1e-6)
    np.testing.assert_array_equal(found[1], made[1])


def test_a_window_of_a_poorer_video_has_a_frame_more_at_both_ends():
    kind = conditions.kind("video", {"scale": 4})
    arrays = kind.read(SMALL, 1, SIZE)
    middle = kind.window(arrays, 4, 5)["video"][0]
    np.testing.assert_array_equal(middle, SMALL[3:10])
    np.testing.assert_array_equal(kind.window(arrays, 0, 20)["video"][0, [0, -1]], SMALL[[0, -1]])


def test_captions_of_the_same_words_are_the_same():
    kind = conditions.kind("caption", OPTIONS["caption"])
    tokens = kind.tokens(["A  Red\ndisc", "a red disc", "é", ""])
    np.testing.assert_array_equal(tokens[0], tokens[1])
    word = kind.read(np.array("red"), 2, SIZE)["tokens"][:, 0]  # one text, for all
    np.testing.assert_array_equal(word, kind.tokens(["red", "red"]))
    assert ((tokens[..., 0] > 0).sum(1) == [3, 3, 1, 0]).all() and not tokens[3].any()
    module = conditions.KINDS["caption"](**OPTIONS["caption"])
    params = module.init(jax.random.key(0), kind.of_tokens(tokens))
    vector = module.apply(params, kind.of_tokens(tokens))[0]
    assert not vector[3].any() and vector[2].any()
    weights = np.array([[0.25, 0.75], [1, 0]], np.float32)
    mixed = module.apply(params, {"tokens": tokens[None, 1:], "weights": weights[:1, [0, 1, 1]]})
    np.testing.assert_allclose(
        mixed[0][0], 0.25 * vector[1] + 0.75 * (vector[2] + vector[3]), atol=1e-6
    )


def test_words_have_the_groups_of_three_letters_in_them_wherever_they_stand():
    """And a number of their own; a long word is several, and so are words beside a mark."""
    tokens = conditions.kind("caption", {}).tokens(["a red disc", "the redder-box", "der", "_"])
    red, redder = set(tokens[0, 1]) - {0}, set(tokens[1, 1]) - {0}
    assert len(red) == 4 and len(redder) == 7  # itself, "<re", "red", "ed>"; of "redder" six
    assert len(red & redder) == 2  # "<re", "red"
    assert not (set(tokens[2, 0]) - {0}) & red
    assert ((tokens[..., 0] > 0).sum(1) == [3, 4, 1, 0]).all()  # the, redder, -, box
    long = conditions.kind("caption", {}).tokens(["x" * (2 * LONGEST + 1)])[0]
    assert (long[:, 0] > 0).sum() == 3 and long.shape[1] == PARTS and (long[0] > 0).all()


def test_any_number_is_looked_up_in_a_table_of_few_rows():
    """Latents of a file may hold any: a row is found for it."""
    module = conditions.KINDS["caption"](**OPTIONS["caption"], rows=5)
    tokens = np.full((1, 6, PARTS), 2**31 - 1, np.int32)
    params = module.init(jax.random.key(0), module.of_tokens(tokens))
    assert np.isfinite(module.apply(params, module.of_tokens(tokens))[0]).all()


def test_of_a_long_caption_training_takes_the_beginning():
    kind = conditions.kind("caption", OPTIONS["caption"])
    long = "a Red disc that moves, to the left"
    shown = kind.of_clips(CLIP[None], {"caption": np.array([long], object)})
    assert shown == ["a red disc that moves,"]
    np.testing.assert_array_equal(kind.tokens([long]), kind.read(shown, 1, SIZE)["tokens"][:, 0])


def test_another_clips_caption_is_a_candidate_within_the_group():
    tokens = jnp.array([1, 2, 3, 4, 5, 5, 0, 8])[:, None]  # two the same, and one is absent
    wrong = conditions.differs({"caption": {"tokens": tokens}}, 4)
    assert wrong[:4].all()  # the next one, the one after it, and so on: 8 5 0, 5 8 0, ...
    np.testing.assert_array_equal(wrong[4:], [[1, 0, 0], [0, 1, 0], [1, 1, 1], [0, 1, 1]])
    asked = conditions.with_wrong(conditions.Asked(jnp.arange(8)[:, None], None), wrong, 4)
    found = np.asarray(asked.vector)[:, :, 0]
    np.testing.assert_array_equal(found[0], [0, 3, 2, 1])
    np.testing.assert_array_equal(
        found[4:], [[4, 7, 4, 4], [5, 5, 7, 5], [6, 5, 4, 7], [7, 7, 5, 4]]
    )


def test_discriminators_see_what_clips_were_asked_to_be():
    dis = models.network(
        "discriminator",
        gan.DISCRIMINATORS,
        "heads",
        **TINY_HEADS,
        size=SIZE,
        conditions=list(OPTIONS.items()),
    )
    video = jnp.asarray(CLIP[None, :4].repeat(2, 0) / 127.5 - 1, jnp.float32)
    maps = dis.see(None, video)
    params = dis.init(jax.random.key(0), maps)
    within = jnp.arange(4)[None]

    def logits(value):
        given = conditions.read(dis.conditions, value, 2, SIZE)
        given = conditions.window(dis.conditions, given, 2, SIZE, 0, 4)
        vector = conditions.reader(dis).apply({"params": params["params"]["conditions"]}, given)
        asked = conditions.Asked(vector, conditions.seen(dis.conditions, given, within, SIZE))
        return jax.tree.map(np.asarray, dis.apply(params, maps, asked=asked))

    nothing = logits(None)
    jax.tree.map(np.testing.assert_array_equal, nothing, dis.apply(params, maps))
    for value in ({"caption": "red"}, {"frames": CLIP[:1]}, {"video": SMALL[:4]}):
        for name, found in logits(value).items():
            assert (found != nothing[name]).all(), (value.keys(), name)


BAD = {
    "name": ({"captoin": "x"}, r"not trained with a condition 'captoin'.*caption, frames, video"),
    "no dictionary": ("red", "condition is of type str"),
    "long": ({"caption": "x " * 7}, "has 7 words.*at most 6"),
    "no text": ({"caption": 3}, "caption is no text"),
    "captions": ({"caption": ["a", "b", "c"]}, "3 captions for 2 videos"),
    "size": ({"frames": CLIP[:, :8]}, r"uint8 \[K, 16, 16, 3\]"),
    "levels": ({"frames": CLIP / 255}, "float64"),
    "mask": ({"frames": {"video": CLIP[:2], "known": np.ones((5, 5), bool)}}, "a mask .16, 16."),
    "grey mask": ({"frames": {"video": CLIP[:2], "known": np.ones((16, 16))}}, "truth values"),
    "times": ({"frames": {"video": CLIP[:2], "time": [0.5, 1]}}, "whole numbers, one for each"),
    "before": ({"frames": {"video": CLIP[:2], "time": [-1, 1]}}, "lie at -1 to 1"),
    "times of others": ({"frames": {"video": CLIP[:2], "time": [1]}}, "one for each of 2"),
    "no video": ({"frames": {"time": [1]}}, "no video"),
    "other part": ({"frames": {"video": CLIP[:2], "tiem": [1]}}, "tiem"),
    "ragged": ({"frames": [CLIP[:2], CLIP[0]]}, "no one shape"),
    "ragged video": ({"video": [SMALL[:2], SMALL[0]]}, "no one shape"),
    "small": ({"video": CLIP}, r"uint8 \[T, 4, 4, 3\]"),
    "videos": ({"video": SMALL[None].repeat(3, 0)}, "with a first axis for 2 videos"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_asked_is_said(sampler, name):
    value, text = BAD[name]
    with pytest.raises(ConfigError) as error:
        sampler.sample([0, 1], 4, condition=value)
    assert re.search(text, f"{error.value}; {error.value.hint}", re.DOTALL)


def test_a_run_without_conditions_says_so():
    gen = models.network("generator", gan.GENERATORS, "residual", **TINY_GENERATOR, size=SIZE)
    meta = {"classes": [], "fps": 10}
    noise = (jnp.zeros((1, 4)), jnp.zeros((1, gen.keyframes(4), 4)), jnp.zeros((1, 2)))
    params = gen.init(jax.random.key(0), *noise, jnp.zeros(1, jnp.int32), frames=4)["params"]
    plain = sampling.from_generator(gen, params, meta, 0)
    with pytest.raises(ConfigError) as error:
        plain.sample(0, 4, condition={"caption": "red"})
    assert "trained with none" in error.value.hint


def changed(name, value, *names):
    config = told_config(*names)
    *path, last = name.split(".")
    section = config
    for part in path:
        section = section[part]
    section[last] = value
    config.objective.mismatch.update(start=0.5, end=0.5)
    return config


BAD_CONFIGS = {
    "group": (lambda: changed("discriminator.group", 1, "caption"), "group is 1"),
    "pairs": (lambda: changed("objective.loss", "hinge", "caption"), "needs pairs"),
    "residual": (lambda: _residual(), "discriminator of kind 'residual' takes none"),
    "l1": (lambda: changed("objective.l1", 1.0, "caption"), "no condition says what a clip"),
    "nothing": (lambda: changed("objective.adversarial", 0.0), "nothing else is to be learnt"),
    "moved": (
        lambda: changed("objective.augmentations", ("shift",), "frames"),
        "augmentations has 'shift'",
    ),
    "mode": (lambda: changed("conditions.frames.modes", ("frist",), "frames"), "modes has 'frist'"),
    "scale": (lambda: changed("conditions.video.scale", 3, "video"), "video.scale is 3"),
    "itself": (lambda: changed("conditions.video.scale", 1, "video"), "is the video itself"),
    "heads": (lambda: changed("conditions.caption.heads", 3, "caption"), "heads=3"),
    "rows": (lambda: changed("conditions.caption.rows", 0, "caption"), "rows is 0"),
    "drop": (lambda: changed("conditions.caption.drop", 1.5, "caption"), "drop is 1.5"),
    "type": (
        lambda: changed("conditions.caption", ConfigDict({"width": "x"}), "caption"),
        "is 'x'",
    ),
    "option": (
        lambda: changed("conditions.frames", ConfigDict({"mode": ("first",)}), "frames"),
        "no field config.conditions.frames.mode",
    ),
    "condition": (
        lambda: changed("conditions", ConfigDict({"captoin": {}})),
        "no condition 'captoin'",
    ),
}


def _residual():
    config, other = told_config("caption"), tiny_config()
    config.discriminator = other.discriminator
    return config


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_what_cannot_be_trained_is_said(name):
    make, text = BAD_CONFIGS[name]
    with pytest.raises(ConfigError, match=re.escape(text)):
        methods.validate(make())


def test_clips_without_captions_are_refused():
    known = conditions.frozen([("caption", {})])
    with pytest.raises(ConfigError, match="the clips have no caption"):
        conditions.columns(known, {"label": np.zeros(2)})


@pytest.mark.parametrize("name", OPTIONS)
def test_a_step_with_one_condition_moves_all_that_it_told_and_reads(name):
    config = told_config(name)
    config.objective.mismatch.update(start=0.5, end=0.5)
    experiment = methods.experiment(config, 2)
    state = jax.jit(experiment.init, static_argnums=0)(0)
    batch = {
        "video": RNG.integers(0, 256, (8, 6, SIZE, SIZE, 3), np.uint8),
        "label": np.arange(8, dtype=np.int32) % 2,
        "index": np.arange(8, dtype=np.int32),
    }
    kind = conditions.kind(name, OPTIONS[name])
    if kind.column:
        batch[name] = kind.tokens([f"clip {n}" for n in range(8)])
    after, metrics = jax.jit(experiment.step)(jax.jit(experiment.step)(state, batch)[0], batch)
    assert metrics["skipped"] == 0 and np.isfinite(metrics["gen/loss"])
    for tree, new in ((state.gen, after.gen), (state.dis, after.dis)):
        told = tree.get("conditions", {})
        assert told or (tree is state.dis and not kind.column)
        still = jax.tree.map(lambda a, b: bool((a == b).all()), told, new.get("conditions", {}))
        assert not any(jax.tree.leaves(still)), still


def test_distances_alone_train_without_a_discriminator():
    """A weight of 0 leaves the discriminator as it is; the distance falls."""
    config = told_config("video")
    config.objective.update(adversarial=0.0, mse=1.0)
    config.optimizer.learning_rate.update(start=3e-3, end=3e-3)
    experiment = methods.experiment(config, 2)
    state = jax.jit(experiment.init, static_argnums=0)(0)
    step = jax.jit(experiment.step)
    video = RNG.integers(0, 256, (8, 1, 4, 4, 3)).repeat(6, 1).repeat(4, 2).repeat(4, 3)
    batch = {
        "video": video.astype(np.uint8),
        "label": np.zeros(8, np.int32),
        "index": np.arange(8, dtype=np.int32),
    }
    before, seen = jax.tree.map(np.asarray, state.dis), []
    for _ in range(12):
        state, metrics = step(state, batch)
        seen.append(float(metrics["gen/mse"]))
        assert metrics["gen/loss"] == metrics["gen/mse"] and "dis/loss" not in metrics
    jax.tree.map(np.testing.assert_array_equal, before, state.dis)
    assert seen[-1] < 0.7 * seen[0]


def test_a_condition_is_kept_by_another_method_that_has_it():
    config = told_config("frames")
    again = methods.change(config, "gan")
    assert again.conditions.frames.modes == ("first", "hole")
    assert "conditions" not in methods.change(config, "mocogan")
    described = methods.describe(config)
    assert "conditions.frames.modes" in described and "What is known of training" in described


def test_the_table_of_networks_is_that_of_the_registry():
    text = (pathlib.Path(__file__).parents[1] / "docs" / "conditions.md").read_text()
    said = set(re.findall(r"^\| (generator|discriminator) `(\w+)` ", text, re.MULTILINE))
    takes = {
        (role, kind)
        for role in ("generator", "discriminator")
        for kind, network in methods.networks(role).items()
        if "conditions" in {field.name for field in dataclasses.fields(network)}
    }
    assert said == takes
    assert {name for name in conditions.KINDS if f"| `{name}` |" in text} == set(conditions.KINDS)


def test_dataclass_options_are_documented():
    for name, kind in conditions.KINDS.items():
        documented = models.attributes(kind)
        for field in dataclasses.fields(kind):
            if field.name not in ("parent", "name"):
                assert documented.get(field.name), (name, field.name)
