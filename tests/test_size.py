"""Frames that are not square: packed, drawn, asked for, measured; and squares as they were."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    TINY_CODES_GENERATOR,
    TINY_GENERATOR,
    TINY_HEADS,
    TINY_TRANSFORMER_DISCRIMINATOR,
    tiny_config,
)
from PIL import Image

from vidgen import config as configs
from vidgen import frame_size, methods
from vidgen.cli import main
from vidgen.data.inspect import inspect
from vidgen.data.listing import open_source, toy_source
from vidgen.data.pack import open_store
from vidgen.data.settings import PackSettings
from vidgen.data.stream import Clips
from vidgen.data.toy import ToySource
from vidgen.errors import ConfigError
from vidgen.evaluation.evaluate import evaluate
from vidgen.evaluation.windows import size_of
from vidgen.metrics import toy
from vidgen.models import layers
from vidgen.models.codes import CodesGenerator
from vidgen.models.heads import HeadsDiscriminator
from vidgen.models.protocol import example_noise
from vidgen.models.residual import ResidualGenerator
from vidgen.models.transformer import TransformerDiscriminator
from vidgen.run import artifacts
from vidgen.training import augment
from vidgen.video import writing
from vidgen.video.conversion import scaled

RED, BLUE, GREY = (200, 0, 0), (0, 0, 200), (90, 90, 90)


@pytest.fixture
def folder(tmp_path):
    """A 16:9 clip whose left eighth is red and whose right eighth is blue, and the rest grey."""
    clip = np.zeros((6, 36, 64, 3), np.uint8)
    clip[:] = GREY
    clip[:, :, :8], clip[:, :, -8:] = RED, BLUE
    (tmp_path / "clips").mkdir()
    np.save(tmp_path / "clips" / "a.npy", clip)
    return tmp_path / "clips"


def store_of(folder, size, crop="center"):
    settings = PackSettings(size=size, crop=crop)
    return open_store(folder, settings, cache=folder.parent / "cache", workers=1)


def test_a_pack_of_the_clips_aspect_keeps_their_sides(folder):
    clip = store_of(folder, (18, 32))[0]
    assert clip.shape == (6, 18, 32, 3)
    np.testing.assert_allclose(clip[:, :, 0], np.broadcast_to(RED, (6, 18, 3)), atol=2)
    np.testing.assert_allclose(clip[:, :, -1], np.broadcast_to(BLUE, (6, 18, 3)), atol=2)
    square = store_of(folder, 18)[0]
    assert square.shape == (6, 18, 18, 3)
    np.testing.assert_allclose(square, np.broadcast_to(GREY, square.shape), atol=2)


def test_a_window_is_the_whole_of_a_packed_frame(folder):
    store = store_of(folder, (18, 32))
    np.testing.assert_array_equal(Clips(store, frames=6).take(0, 1)["video"][0], store[0])


def test_random_crops_are_of_the_size(folder):
    """Frames cover 24x20 at 24x43, of which windows show every part."""
    store = store_of(folder, (24, 20), "random")
    assert store[0].shape == (6, 24, 43, 3)
    video = Clips(store, frames=6).take(0, 60)["video"]
    assert video.shape == (60, 6, 24, 20, 3)
    first, last = video[:, 0, 0, 0], video[:, 0, 0, -1]
    assert (first[:, 0] > 150).any() and (last[:, 2] > 150).any()


@pytest.mark.parametrize(
    "stored, size, wanted",
    [
        ((640, 360), (64, 112), (114, 64)),  # 16:9 into 7:4: two columns too many
        ((640, 480), (64, 112), (112, 84)),  # 4:3: rows too many
        ((360, 640), (64, 112), (112, 199)),  # upright
        ((640, 360), 64, (114, 64)),
    ],
)
def test_frames_are_scaled_until_they_cover_the_size(stored, size, wanted):
    assert scaled(*stored, size) == wanted


def test_packs_of_squares_have_the_names_and_settings_of_before(folder):
    assert PackSettings(size=(18, 18)) == PackSettings(size=18)
    assert PackSettings(size=18).of_frames()["size"] == 18
    square, wide = store_of(folder, (18, 18)), store_of(folder, (18, 32))
    assert square.path.name.startswith("clips-18-") and square.size == 18
    assert square.path == store_of(folder, 18).path
    assert wide.path.name.startswith("clips-18x32-") and wide.size == (18, 32)
    with pytest.raises(ConfigError, match=r"size=\(18, 32\), asked for is size=18") as error:
        open_store(wide.path, PackSettings(size=18))
    assert "data.size=(18, 32)" in error.value.hint
    assert open_store(wide.path, PackSettings(size=(18, 32))).fingerprint == wide.fingerprint


def test_the_contact_sheet_shows_what_training_sees(folder):
    (clip,) = inspect(folder, PackSettings(size=(18, 32)), workers=1, thumbnail=36).clips
    assert clip.thumbnails.shape[1:] == (36, 64, 3)
    (packed,) = inspect(store_of(folder, (18, 32)).path).clips
    assert packed.thumbnails.shape[1:] == (18, 32, 3)


def test_toy_clips_of_any_aspect_pass_their_check():
    source = toy_source("toy:clips=40,size=24x48,frames=32")
    clips = np.stack([source[n] for n in range(40)])
    assert clips.shape == (40, 32, 24, 48, 3) and toy.score(clips)["pass"] >= 0.9
    tracks = np.stack([toy.describe(clip)["track"] for clip in clips])
    for places in (tracks, tracks[:, :1]):  # from the first frame on, everywhere
        y, x = places[..., 0], places[..., 1]
        assert y.max() < 24 and x.max() > 36 and x.min() < 12
    assert toy_source("toy:size=24x24").fingerprint == ToySource(size=24).fingerprint
    with pytest.raises(ConfigError, match="size=24x"):
        open_source("toy:size=24x")


# ---------------------------------------------------------------------------- the command line


@pytest.mark.parametrize("text", ["64,112", "(64, 112)", "[64,112]"])
def test_a_pair_is_given_on_the_command_line(text, capsys):
    assert main.main(["config", "gan", f"--config.data.size={text}"]) == 0
    assert "data.size = (64, 112)" in capsys.readouterr().out


@pytest.mark.parametrize("text, kept", [("64,64", 64), ("128", 128)])
def test_a_square_is_a_number(text, kept, capsys):
    config = methods.base()
    config.data.size = 64, 112
    configs.override(config, "data.size", text)
    assert config.data.size == kept and type(config.data.size) is int
    assert main.main(["config", "gan", f"--config.data.size={text}"]) == 0
    assert f"data.size = {kept} " in capsys.readouterr().out


@pytest.mark.parametrize("text", ["wide", "64x112", "64,", "1,2,3", "64.0,112", "(64, True)", "''"])
def test_what_is_no_size_is_refused(text, capsys):
    assert main.main(["config", "gan", f"--config.data.size={text}"]) == 2
    said = capsys.readouterr().err
    assert "config.data.size" in said and "or a pair (height, width)" in said
    assert "Traceback" not in said


def test_sizes_are_bounded_on_both_sides(capsys):
    assert main.main(["config", "gan", "--config.data.size=64,4"]) == 2
    assert "config.data.size is (64, 4)" in capsys.readouterr().err


def test_sizes_that_do_not_fit_name_the_nearest_that_do(capsys):
    path = pathlib.Path(__file__).parents[1] / "configs" / "actions64.py"
    assert main.main(["config", str(path), "--config.data.size=64,114"]) == 2
    said = capsys.readouterr().err
    assert "config.data.size is (64, 114)" in said and "(64, 112)" in said


@pytest.mark.parametrize("size, unit", [((90, 160), 8), ((64, 114), 4)])
def test_the_nearest_sizes_fit(size, unit):
    error = layers.no_map("it must", size, unit)
    near = [json.loads(f"[{part}]") for part in error.hint.partition("(")[2][:-1].split("), (")]
    assert len(near) == 3
    assert all(layers.coarsest_map(tuple(other), unit) for other in near)
    assert layers.coarsest_map(size, unit) is None


def test_a_saved_config_keeps_what_it_had():
    config = tiny_config()
    before = json.dumps(configs.to_json(config))
    methods.validate(config)
    assert json.dumps(configs.to_json(config)) == before and '"size": 16' in before
    again = configs.from_json(json.loads(before))
    assert type(again.data.size) is int
    configs.override(again, "data.size", "16,32")
    assert again.data.size == (16, 32)
    config.data.size = 16, 32
    again = configs.from_json(json.loads(json.dumps(configs.to_json(config))))
    methods.validate(again)
    assert again.data.size == (16, 32)
    assert not list(configs.differences(config, again))


def test_a_generator_is_made_again_at_its_size():
    for size, kept in ((16, 16), ((16, 32), (16, 32))):
        config = tiny_config()
        config.data.size = size
        experiment = methods.experiment(config, 2)
        meta = json.loads(json.dumps({"generator": experiment.generator}))
        assert methods.generator(meta).size == kept


# ---------------------------------------------------------------------------------- networks


@pytest.mark.parametrize(
    "size, unit, twos, wanted",
    [
        ((64, 112), 8, False, (4, 7)),
        ((144, 256), 8, False, (9, 16)),
        ((112, 64), 8, True, (7, 4)),
        ((64, 112), 32, False, None),
        ((64, 66), 1, False, None),  # 32x33 is no coarse map
        ((112, 196), 4, True, None),  # 4x7 squares of 28 pixels, not a power of two times 4
        (64, 16, True, (4, 4)),
        (36, 1, False, (4, 4)),
        (36, 2, False, None),
    ],
)
def test_networks_begin_with_the_smallest_map_of_the_aspect(size, unit, twos, wanted):
    assert layers.coarsest_map(size, unit, twos) == wanted


@pytest.mark.parametrize(
    "size, levels",
    [(64, {64, 32, 16, 8}), ((64, 112), {112, 56, 28, 14, 7}), ((8, 64), {64, 32})],
)
def test_heads_halve_maps_until_either_side_is_small(size, levels):
    """Not below two places a side: 64x112 ends at 2x4, 8x64 at 2x16."""
    head = HeadsDiscriminator(size, **{**TINY_HEADS, "scales": (1,)})
    video = jnp.zeros((2, 2, *frame_size.height_width(size), 3))
    shapes = jax.eval_shape(lambda: head.init(jax.random.key(0), head.see(None, video)))
    names = set(shapes["params"]["image_pixels1"])
    assert {int(name[4:]) for name in names if name.startswith("down")} == levels


def test_both_sides_of_a_frame_are_multiples_of_the_heads_scales():
    HeadsDiscriminator((64, 72), scales=(8,)).check()
    for size in ((64, 68), (68, 64), (56, 72)):  # the last is only 7 times 8
        with pytest.raises(ConfigError, match="scales has 8"):
            HeadsDiscriminator(size, scales=(8,)).check()


def test_levels_of_the_generator_keep_the_aspect():
    gen = ResidualGenerator((16, 32), **TINY_GENERATOR)
    noise, key = example_noise(gen, 2), jax.random.key(0)
    made = lambda: gen.init_with_output(  # noqa: E731
        key, *noise, frames=2, capture_intermediates=True, mutable=True
    )
    _, variables = jax.eval_shape(made)
    assert variables["params"]["first"]["kernel"].shape[-1] == 4 * 8 * 8
    assert variables["intermediates"]["head"]["__call__"][0].shape == (2, 8, 16, 8)


def test_each_patch_of_a_wide_frame_has_a_place():
    dis = TransformerDiscriminator((8, 24), **TINY_TRANSFORMER_DISCRIMINATOR)
    shapes = jax.eval_shape(lambda: dis.init(jax.random.key(0), jnp.zeros((1, 2, 8, 24, 3))))
    assert shapes["params"]["places"].shape == (2 * 6, 8)


def test_a_code_shows_at_its_place_in_a_wide_frame():
    """The map is 2x8: code 7 is the upper right corner, code 8 the lower left one."""
    gen = CodesGenerator((8, 32), **TINY_CODES_GENERATOR)
    params = jax.jit(lambda: gen.init(jax.random.key(0), *example_noise(gen, 1), frames=1))()
    content = jnp.zeros((1, gen.content))
    decode = jax.jit(lambda codes: gen.apply(params, codes, content, None, method="render"))
    plain = jnp.zeros((1, 1, 16), jnp.int32)
    for place, rows, columns in ((7, slice(0, 4), slice(24, 32)), (8, slice(4, 8), slice(0, 8))):
        change = np.abs(np.asarray(decode(plain.at[0, 0, place].set(7)) - decode(plain)))[0, 0]
        y, x = np.unravel_index(change.sum(-1).argmax(), (8, 32))
        assert y in range(8)[rows] and x in range(32)[columns]


def test_augmentations_reach_all_of_a_wide_frame():
    video = jnp.ones((1, 8, 64, 3))
    cut = jax.vmap(lambda key: augment.cutout(video, key))(jax.random.split(jax.random.key(0), 300))
    blank = np.asarray(cut == 0).any((0, 1, 4))
    assert blank.all()
    assert (np.asarray(cut == 0).sum((1, 2, 3, 4)) <= 3 * 4 * 4).all()
    moved = jax.vmap(lambda key: augment.shift(jnp.arange(64.0)[None, None, :, None], key))
    by = np.asarray(moved(jax.random.split(jax.random.key(1), 50)))[:, 0, 0, 10, 0] - 10
    assert set(by) <= {-1.0, 0.0, 1.0}


# -------------------------------------------------------------------------------- evaluation


def test_clips_are_measured_at_a_height_and_a_width(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))
    measure = lambda size: evaluate(  # noqa: E731
        "toy:clips=16,seed=1", "toy:clips=16", "pixel", clips=16, size=size
    )
    wide, square = measure((16, 32)), measure(16)
    assert wide.clips.shape[1:] == (16, 16, 32, 3)
    assert wide.manifest["real"]["size"] == [16, 32] and square.manifest["real"]["size"] == 16
    assert json.loads(json.dumps(wide.manifest)) == wide.manifest
    assert measure((16, 16)).manifest == square.manifest


def test_what_is_measured_has_the_size_of_a_pack(folder):
    assert size_of(store_of(folder, (18, 32)).path) == (18, 32)
    assert size_of(folder) == 36 and size_of("toy:size=24x48") == (24, 48)


def test_samples_of_wide_frames_are_written(tmp_path):
    videos = np.arange(2 * 3 * 8 * 14 * 3, dtype=np.uint8).reshape(2, 3, 8, 14, 3)
    writing.write_grid(tmp_path / "grid.png", videos)
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (3 * 14, 2 * 8)


def test_the_stream_of_a_config_has_frames_of_its_size():
    config = tiny_config()
    config.data.size = 16, 24
    _, clips = artifacts.open_clips(config)
    assert clips.take(0, 2)["video"].shape == (2, 6, 16, 24, 3)
