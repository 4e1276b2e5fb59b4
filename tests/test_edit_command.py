"""What `vidgen edit` and `vidgen sample --grid` write, and what they refuse."""

import pathlib
import re

import numpy as np
import pytest
from conftest import TINY_GENERATOR
from test_edit import TRANSFORMER, make

from vidgen import methods, sampling
from vidgen.cli import edits, flags, main, samples, sampling_flags
from vidgen.errors import ConfigError, StorageError
from vidgen.run import artifacts
from vidgen.runtime.checkpoint import Checkpoints
from vidgen.sampling import edit
from vidgen.video import reading

FRAMES = 12


def run(folder, name, *words, sampler=None):
    """Edits as the command does, with the flags of its line; returns the videos it wrote."""
    given = {word.partition("=")[0] for word in words}
    out = [] if "--out" in given else [f"--out={folder / 'o.npz'}"]
    length = [] if {"--latents", "--frames"} & given else [f"--frames={FRAMES}"]
    options = flags.PARSERS["edit"][1]().read(["run", name, *out, *length, *words])
    target = edits.check(options)
    edits.run(sampler or make(), target, options, lambda *done: None)
    return np.load(target.path)["video"] if target.path.suffix == ".npz" else None


def drawn(seeds, labels=None, frames=FRAMES):
    return make().latents(seeds, frames, labels=labels)


def shown(latents, frames=FRAMES):
    return make().decode(latents, frames)


def test_interpolation_goes_from_each_seed_to_the_next(tmp_path):
    video = run(tmp_path, "interpolate", "--seeds=3,4,6", "--count=3")
    assert len(video) == 5
    own = make().sample([3, 4, 6], FRAMES).astype(int)
    for at, seed in ((0, 0), (2, 1), (4, 2)):
        assert np.abs(video[at] - own[seed]).max() <= 1
    assert np.abs(video[1] - own[0]).max() > 5 < np.abs(video[1] - own[1]).max()


def test_interpolation_goes_between_classes_of_one_seed(tmp_path):
    video = run(tmp_path, "interpolate", "--seeds=3", "--labels=kind 0,kind 1", "--count=2")
    for made, label in zip(video.astype(int), (0, 1), strict=True):
        assert np.abs(made - make().sample([3], FRAMES, labels=label)[0]).max() <= 1


def test_what_says_what_changes(tmp_path):
    video = run(tmp_path, "interpolate", "--seeds=3,4", "--count=2", "--what=motion")
    expected = edit.swap(drawn([3]), drawn([4]), "motion")
    assert np.abs(video[1].astype(int) - shown(expected)[0]).max() <= 1


def test_each_edit_is_that_of_the_library(tmp_path):
    latents = drawn([3, 4])
    swapped = edit.swap(latents, edit.take(latents, [1, 0]), "content")
    for name, words, expected in (
        ("truncate", ["--amount=0.5"], edit.truncate(latents, 0.5)),
        ("truncate", ["--amount=0", "--what=motion"], edit.truncate(latents, 0, "motion")),
        ("swap", ["--what=content"], swapped),
    ):
        video = run(tmp_path, name, "--seeds=3,4", *words)
        np.testing.assert_array_equal(video, shown(expected))
    near = run(tmp_path, "vary", "--seeds=3,4", "--count=2", "--amount=0.1").astype(int)
    own = shown(latents).astype(int)
    assert len(near) == 4 and len({x.tobytes() for x in near}) == 4
    for made, at in zip(near, (0, 0, 1, 1), strict=True):
        assert np.abs(made - own[at]).mean() < np.abs(made - own[1 - at]).mean()


def test_speed_is_that_of_times(tmp_path):
    own = make().sample([3], 2 * FRAMES)
    fast = run(tmp_path, "speed", "--seeds=3", "--speed=2")
    np.testing.assert_array_equal(fast, own[:, ::2])
    back = run(tmp_path, "speed", "--seeds=3", "--speed=-1")
    np.testing.assert_array_equal(back, own[:, :FRAMES][:, ::-1])
    slow = run(tmp_path, "speed", "--seeds=3")
    assert np.abs(slow[:, ::2].astype(int) - own[:, : FRAMES // 2]).max() <= 1


def test_a_loop_is_as_long_as_its_frames(tmp_path):
    video = run(tmp_path, "loop", "--seeds=3", "--frames=16")
    looped = make(loop=16).sample([3], 32)
    np.testing.assert_array_equal(video, looped[:, :16])
    np.testing.assert_array_equal(video, looped[:, 16:])
    with pytest.raises(ConfigError, match="--frames=18 of a loop"):
        run(tmp_path, "loop", "--frames=18")
    with pytest.raises(ConfigError, match="makes no loops"):
        run(tmp_path, "loop", "--frames=8", sampler=make("ppca", length=8))


def test_saved_latents_are_edited_again_and_go_on(tmp_path):
    kept = tmp_path / "latents.npz"
    first = run(tmp_path, "truncate", "--seeds=3,4", f"--save={kept}")
    again = run(tmp_path, "truncate", f"--latents={kept}", "--amount=1")
    np.testing.assert_array_equal(again, first)
    longer = run(tmp_path, "extend", f"--latents={kept}", "--seeds=3,4", "--frames=30")
    assert longer.shape[1] == 30
    np.testing.assert_array_equal(longer[:, :FRAMES], first)
    whole = edit.truncate(drawn([3, 4], frames=30), 0.7)
    np.testing.assert_array_equal(longer, shown(whole, 30))
    with pytest.raises(ConfigError, match="--frames=8"):
        run(tmp_path, "extend", f"--latents={kept}", "--frames=8")
    with pytest.raises(ConfigError, match="latents' content is"):
        run(tmp_path, "truncate", f"--latents={kept}", sampler=make("transformer", **TRANSFORMER))


@pytest.mark.parametrize("by", ["brightness", "colour", "motion"])
def test_a_direction_changes_what_it_is_of(tmp_path, by):
    video = run(tmp_path, "direction", "--seeds=3,4", "--count=3", f"--by={by}")
    measured = np.array([edits._measure(by, one) for one in video]).reshape(2, 3)
    least, _, most = measured.mean(0)
    assert most > 1.1 * least


def test_latents_between_classes_are_edited_again(tmp_path):
    kept = tmp_path / "latents.npz"
    run(tmp_path, "interpolate", "--seeds=3", "--labels=0,1", "--count=3", f"--save={kept}")
    latents, _ = edits.read(str(kept), make())
    assert latents["label"].shape == (3, 2)
    assert len(run(tmp_path, "vary", f"--latents={kept}", "--count=2")) == 6
    moved = run(tmp_path, "swap", f"--latents={kept}", "--what=motion")
    np.testing.assert_array_equal(moved, shown(latents))  # all have the motion of one seed


@pytest.fixture(scope="module", params=[1, 3])
def run_folder(request, tmp_path_factory):
    """The folder of a run on toy clips, whose classes were split into so many looks."""
    folder = tmp_path_factory.mktemp("run")
    config = methods.base()
    config.data.update(path="toy:clips=12,size=16", frames=8, size=16, looks=request.param)
    config.data.flip = True
    store, clips = artifacts.open_clips(config)
    classes = clips.labels
    arguments = {"kind": "residual", **TINY_GENERATOR, "size": 16, "classes": classes}
    params = make(classes=classes).params
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(7, {"ema": params}, artifacts.meta(config, arguments, store, clips))
    checkpoints.close()
    return folder


def test_inverted_clips_stand_below_their_clips(run_folder, tmp_path, capsys):
    out = tmp_path / "pairs.npz"
    words = ["edit", str(run_folder), "invert", "--clips=toy:clips=5,seed=3,size=16"]
    assert main.main([*words, "--count=9", "--iterations=3", "--tune=2", f"--out={out}"]) == 0
    said = capsys.readouterr()
    assert "means of 5 clips from step 7" in said.out + said.err
    config = sampling.config_of(run_folder)
    config.data.update(path="toy:clips=5,seed=3,size=16", looks=1)
    real = artifacts.open_clips(config)[1].first(9)
    pairs = np.load(out)["video"]
    np.testing.assert_array_equal(pairs[::2], real["video"])
    sampler = sampling.load(run_folder)
    latents, frames = edits.read(str(tmp_path / "pairs-latents.npz"), sampler)
    assert frames == 8
    # A look is one of its class; without looks, the class itself.
    of = np.repeat(np.arange(2), [len(x) for x in sampler.looks]) if sampler.looks else [0, 1]
    np.testing.assert_array_equal(np.asarray(of)[latents["label"]], real["label"])
    again = ["edit", str(run_folder), "truncate", f"--latents={tmp_path / 'pairs-latents.npz'}"]
    assert main.main([*again, "--amount=1", f"--out={tmp_path / 'again.npz'}"]) == 0
    error = np.abs(np.load(tmp_path / "again.npz")["video"].astype(int) - pairs[1::2])
    assert 0 < error.mean() < 30  # the weights that were tuned are not kept


def test_clips_are_read_at_the_stride_that_the_run_had_chosen(tmp_path):
    config = methods.base()
    config.data.update(path="toy:clips=4,frames=40,size=16", frames=8, size=16, stride=0)
    store, clips = artifacts.open_clips(config)
    arguments = {"kind": "residual", **TINY_GENERATOR, "size": 16, "classes": 2}
    meta = artifacts.meta(config, arguments, store, clips)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, {"ema": make().params}, {**meta, "stride": 3})
    checkpoints.close()
    config = sampling.config_of(tmp_path)
    shown, _ = artifacts.clips_to_show(config, config.data.path, store.classes, 1)
    np.testing.assert_array_equal(shown[0], store[0][:24:3])


def test_the_first_clips_are_those_of_the_store(run_folder):
    config = sampling.config_of(run_folder)
    assert config.data.stride == 1
    store, clips = artifacts.open_clips(config)
    first = clips.first(3)
    for n in range(3):
        np.testing.assert_array_equal(
            first["video"][n], store[n][: 8 * clips.stride : clips.stride]
        )
    assert len(clips.first(100)["video"]) == 12


@pytest.mark.parametrize(
    "words, code",
    [
        (["loop", "--loop=8"], 2),
        (["loop", "--frames=18"], 2),
        (["truncate", "--latents=nothing.npz"], 5),
        (["truncate", "--frames=1000000000"], 2),
        (["speed", "--speed=1000", "--frames=1000000"], 2),
        (["interpolate", "--seeds=0:100000", "--count=10000"], 2),
        (["speed", "--out=one.mp4"], 2),
        (["invert", "--clips=toy", "--out=one.mp4"], 2),
        (["invert", "--clips=nowhere"], 3),
        (["truncate", "--temperature=1.0"], 2),
        (["truncate", "--frames=1", "--quality=50"], 2),
    ],
)
def test_the_command_refuses_in_two_lines(run_folder, tmp_path, monkeypatch, capsys, words, code):
    monkeypatch.chdir(tmp_path)
    assert main.main(["edit", str(run_folder), *words]) == code
    assert 1 <= len(capsys.readouterr().err.strip().splitlines()) <= 3
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


@pytest.mark.parametrize(
    "words, says",
    [
        (["blur"], "no edit 'blur'"),
        (["truncate", "--count=3"], "does not read --count"),
        (["truncate", "--what=colour"], "--what=colour"),
        (["truncate", "--what=class"], "--what=class"),
        (["truncate", "--amount=-1"], "--amount=-1"),
        (["vary", "--amount=2"], "--amount=2"),
        (["swap", "--seeds=3"], "there is one video"),
        (["interpolate", "--seeds=3"], "there is one video"),
        (["interpolate", "--seeds=3,4", "--labels=kind 0,kind 1,kind 0"], "3 labels for 2"),
        (["extend"], "nothing to extend"),
        (["invert"], "no clips to invert"),
        (["direction", "--by=age"], "--by=age"),
        (["speed", "--save=a.npz"], "does not read --save"),
        (["truncate", "--save=a.npz", "--out=a.npz"], "both a.npz"),
        (["interpolate", "--count=1"], "--count=1"),
        (["truncate", "--save=a.mp4"], "is an NPZ file"),
        (["truncate", "--latents=a.npz", "--seeds=3"], "--latents and --seeds"),
        (["truncate", "--latents=a.npz", "--frames=3"], "classes, captions and frames"),
        (["truncate", "--seeds=3,4", "--out=a.mp4"], "is one video, and there are 2"),
    ],
)
def test_wrong_words_are_refused_and_nothing_is_written(tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=says):
        run(tmp_path, *words)
    assert not list(pathlib.Path().iterdir())


@pytest.mark.parametrize(
    "kind", ["none", "text", "cut", "other", "objects", "infinite", "no frames"]
)
def test_a_file_that_holds_no_latents_is_named(tmp_path, kind):
    path = tmp_path / "latents.npz"
    edits.save(path, drawn([3]), FRAMES, make())
    whole = path.read_bytes()
    if kind == "none":
        path.unlink()
    elif kind == "text":
        path.write_text("hello")
    elif kind == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "other":
        np.savez(path, frames=8, video=np.zeros(3))
    elif kind == "infinite":
        np.savez(path, frames=np.inf, loop=0, **drawn([3]))
    elif kind == "objects":
        np.savez(path, frames=np.array([{}], dtype=object))
    else:
        np.savez(path, loop=0, **drawn([3]))
    with pytest.raises(StorageError, match=re.escape(str(path))):
        edits.read(str(path), make())


def test_any_flipped_bit_of_latents_is_refused_by_name(tmp_path):
    """Also in what says the type and shape of an array, which NumPy reads by Python's parser."""
    path = tmp_path / "latents.npz"
    latents = drawn(range(40), frames=200)  # as large as those of a run
    edits.save(path, latents, 200, make())
    whole, refused = path.read_bytes(), set()
    for header in [found.start() for found in re.finditer(b"NUMPY", whole)]:
        for bit in range(0, 8 * 128, 7):
            damaged = bytearray(whole)
            damaged[header - 1 + bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            try:
                found, _ = edits.read(str(path), make())
            except (StorageError, ConfigError) as error:
                refused.add(type(error.__cause__).__name__)
            else:  # the bit said nothing, as of a space
                for name, x in latents.items():
                    np.testing.assert_array_equal(found[name], x)
    assert {"TokenError", "BadZipFile"} <= refused


def test_latents_of_a_loop_are_read_as_a_loop(tmp_path):
    kept = tmp_path / "loop.npz"
    video = run(tmp_path, "loop", "--seeds=3", "--frames=16", f"--save={kept}")
    with pytest.raises(ConfigError, match="begin again after 16 frames"):
        edits.read(str(kept), make())
    again = run(tmp_path, "truncate", f"--latents={kept}", "--amount=1", sampler=make(loop=16))
    np.testing.assert_array_equal(again, video)


def test_saved_latents_are_not_written_over_by_videos(tmp_path):
    for name, file in (("swap", "swap.npz"), ("invert", "pair.npz")):
        words = [f"--out={tmp_path}", "--format=npz", f"--save={tmp_path / file}", "--clips=toy"]
        words = words if name == "invert" else words[:-1]
        options = flags.PARSERS["edit"][1]().read(["run", name, *words])
        with pytest.raises(ConfigError, match="--save and --out"):
            edits.check(options)


def test_a_video_with_an_end_is_fast_up_to_its_end(tmp_path):
    sampler = make("ppca", length=8)
    options = flags.PARSERS["edit"][1]().read(
        ["run", "speed", "--seeds=3", "--speed=3", f"--out={tmp_path / 'o.npz'}"]
    )
    edits.run(sampler, edits.check(options), options, lambda *done: None)
    video = np.load(tmp_path / "o.npz")["video"]
    np.testing.assert_array_equal(video, sampler.sample([3])[:, ::3])


def grid(folder, *words):
    options = flags.PARSERS["sample"][1]().read(["run", "--grid", *words])
    return samples.write(
        make(),
        sampling_flags.target(options),
        lambda *done: None,
        frames=options.frames,
        start=options.start,
        labels=None,
        fps=options.fps,
        quality=options.quality,
        grid=True,
    )


def test_a_grid_shows_content_by_row_and_motion_by_column(tmp_path):
    path = tmp_path / "grid.APNG"
    assert grid(tmp_path, "--seeds=3,4,5", "--frames=8", f"--out={path}") == 8
    video = reading.read_video(path)
    assert video.shape == (8, 50, 50, 3)
    latents = drawn([3, 4, 5], frames=8)
    for row in range(3):
        for column in range(3):
            one = edit.swap(edit.take(latents, [row]), edit.take(latents, [column]), "motion")
            cell = video[:, 17 * row : 17 * row + 16, 17 * column : 17 * column + 16]
            np.testing.assert_array_equal(cell, shown(one, 8)[0])
    grid(tmp_path, "--seeds=3,4,5", "--frames=8", f"--out={tmp_path / 'both'}")
    names = {p.name for p in (tmp_path / "both").iterdir()}
    assert names == {"content-by-motion.png", "content-by-motion.webp"}
    with pytest.raises(ConfigError, match="--grid as npz"):
        grid(tmp_path, "--seeds=3", f"--out={tmp_path / 'a.npz'}")


def test_a_grid_that_a_format_cannot_hold_is_refused(tmp_path, monkeypatch):
    def encoding_error(*_, **__):
        raise ValueError("encoding error 5: Image size exceeds WebP limit of 16383 pixels")

    monkeypatch.setattr(samples.writing, "write_video", encoding_error)
    with pytest.raises(ConfigError, match="16383 pixels"):
        grid(tmp_path, "--seeds=3,4", "--frames=2", f"--out={tmp_path / 'wide.webp'}")
