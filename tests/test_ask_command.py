"""What `vidgen sample` makes of conditions, what `vidgen ask` compares, and what both refuse."""

import re

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from test_families import told

from vidgen import methods, sampling
from vidgen.cli import main
from vidgen.errors import DataError
from vidgen.evaluation import asking, matching
from vidgen.metrics import fidelity
from vidgen.run import artifacts
from vidgen.runtime.checkpoint import Checkpoints

SIZE = 8, 16
RNG = np.random.default_rng(0)


def save(config, folder):
    """Writes a run of random weights, as if its training had been interrupted at step 1."""
    store, clips = artifacts.open_clips(config)
    experiment = methods.experiment(config, clips.labels)
    meta = artifacts.meta(config, experiment.generator, store, clips)
    ema = jax.jit(experiment.init, static_argnums=0)(0).ema
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(1, {"ema": ema}, meta)
    checkpoints.close()
    return str(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = told()
    config.conditions.caption.most = 32
    return save(config, tmp_path_factory.mktemp("told"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    picture = RNG.integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(picture).save(folder / "first.png")
    Image.fromarray(np.eye(8, 16, dtype=np.uint8) * 255).save(folder / "mask.png")
    np.save(folder / "clip.npy", RNG.integers(0, 256, (9, *SIZE, 3), np.uint8))
    np.save(folder / "small.npy", RNG.integers(0, 256, (9, 4, 8, 3), np.uint8))
    (folder / "words.txt").write_text("no picture")
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def sample(run, tmp_path, *words):
    out = tmp_path / "o.npz"
    assert main.main(["sample", run, "--seeds=3,4", f"--out={out}", *words]) == 0
    return np.load(out)["video"]


def test_a_picture_is_the_first_frame(run, files, tmp_path):
    video = sample(run, tmp_path, "--frames=6", f"--known={files / 'first.png'}")
    picture = np.asarray(Image.open(files / "first.png"))
    np.testing.assert_array_equal(video[:, 0], np.stack([picture] * 2))
    assert (video[:, 1] != picture).any()
    sampler = sampling.load(run)
    again = sampler.sample([3, 4], 6, condition={"frames": picture[None]})
    np.testing.assert_array_equal(video, again)


def test_a_clip_is_known_at_times_and_behind_a_mask(run, files, tmp_path):
    words = [f"--known={files / 'clip.npy'}", "--known_at=0,-1", f"--mask={files / 'mask.png'}"]
    video, clip = sample(run, tmp_path, "--frames=20", *words), np.load(files / "clip.npy")
    mask = np.eye(8, 16, dtype=bool)
    for at, source in ((0, 0), (19, 8)):
        for each in video:
            np.testing.assert_array_equal(each[at][mask], clip[source][mask])
            assert (each[at][~mask] != clip[source][~mask]).any()


def test_every_second_frame_is_known_and_the_others_come_between(run, files, tmp_path):
    words = [f"--known={files / 'clip.npy'}", "--known_at=::2", "--frames=17"]
    video, clip = sample(run, tmp_path, *words), np.load(files / "clip.npy")
    np.testing.assert_array_equal(video[:, ::2], np.stack([clip] * 2))
    some = sample(run, tmp_path, *words[:1], "--known_at=2:5", "--frames=6")
    np.testing.assert_array_equal(some[:, 2:5], np.stack([clip[:3]] * 2))
    assert (some[:, 5] != clip[3]).any()


def test_times_from_the_end_count_to_that_of_the_poorer_video(run, files, tmp_path):
    words = [f"--known={files / 'first.png'}", "--known_at=-1", f"--video={files / 'small.npy'}"]
    video, picture = sample(run, tmp_path, *words), np.asarray(Image.open(files / "first.png"))
    assert video.shape[1] == 9
    np.testing.assert_array_equal(video[:, 8], np.stack([picture] * 2))


def test_times_from_the_end_count_from_the_part_that_is_made(run, files, tmp_path):
    words = [f"--known={files / 'clip.npy'}", "--known_at=-1", "--start=40", "--frames=6"]
    video, clip = sample(run, tmp_path, *words), np.load(files / "clip.npy")
    np.testing.assert_array_equal(video[:, 5], np.stack([clip[0]] * 2))


def test_a_poorer_video_keeps_its_frames_where_training_took_every_second(files, tmp_path):
    config = told()
    config.data.stride = 2
    run = save(config, tmp_path / "run")
    video = sample(run, tmp_path, f"--video={files / 'small.npy'}")
    assert video.shape[1] == 9
    known = sample(run, tmp_path, f"--known={files / 'clip.npy'}", "--frames=5")
    clip = np.load(files / "clip.npy")
    np.testing.assert_array_equal(known, np.stack([clip[::2]] * 2))


def test_a_run_that_always_had_a_condition_wants_it(tmp_path, capsys):
    config = told()
    config.conditions.video.drop = 0.0
    run = save(config, tmp_path / "run")
    assert main.main(["sample", run, f"--out={tmp_path / 'o.npz'}"]) == 2
    assert "never trained without the condition 'video' give it: --video" in _said(capsys)
    assert main.main(["evaluate", run, "--against=toy"]) == 2
    assert "vidgen ask RUN DATA --save=made.npz" in _said(capsys)
    assert main.main(["edit", run, "truncate", f"--out={tmp_path / 'o.npz'}"]) == 2
    assert "sampler.latents(..., condition=...)" in _said(capsys)


def _said(capsys):
    return " ".join(capsys.readouterr().err.split())


def test_a_poorer_video_and_a_caption(run, files, tmp_path):
    video = sample(run, tmp_path, f"--video={files / 'small.npy'}", "--caption=a red disc")
    assert video.shape == (2, 9, *SIZE, 3)  # as long as the poorer one
    condition = {"video": np.load(files / "small.npy"), "caption": "a red disc"}
    again = sampling.load(run).sample([3, 4], condition=condition)
    np.testing.assert_array_equal(video, again)


def test_each_video_may_have_a_caption_of_its_own(run, tmp_path, capsys):
    texts = ["a red disc", "blue"]
    video = sample(run, tmp_path, "--frames=4", *(f"--caption={text}" for text in texts))
    sampler = sampling.load(run)
    np.testing.assert_array_equal(video, sampler.sample([3, 4], 4, condition={"caption": texts}))
    folder = [f"--out={tmp_path / 'many'}", "--format=frames", "--frames=4"]
    words = [f"--caption={text}" for text in texts]
    assert main.main(["sample", run, "--seeds=3,4", *words, *folder]) == 0
    for seed, one in zip((3, 4), video, strict=True):
        files = sorted((tmp_path / "many" / f"seed-{seed:06d}").iterdir())
        np.testing.assert_array_equal([np.asarray(Image.open(file)) for file in files], one)
    words = ["--caption=a", "--caption=b", "--caption=c", f"--out={tmp_path / 'n.npz'}"]
    assert main.main(["sample", run, "--seeds=3,4", *words]) == 2
    assert "3 captions for 2 videos" in _said(capsys)


def test_edit_goes_from_caption_to_caption_and_keeps_them(run, tmp_path, capsys):
    texts = ["a red disc", "a blue square"]
    words = [f"--caption={text}" for text in texts]

    def edited(*words):
        out = tmp_path / "e.npz"
        code = main.main(["edit", run, *words, f"--out={out}"])
        return code, np.load(out)["video"].astype(int) if code == 0 else None

    saved = f"--save={tmp_path / 'l.npz'}"
    _, video = edited("interpolate", "--seeds=3", "--frames=8", "--count=3", *words, saved)
    sampler = sampling.load(run)
    own = [sampler.sample([3], 8, condition={"caption": text})[0].astype(int) for text in texts]
    assert len(video) == 3 and np.abs(video[0] - own[0]).max() <= 1
    assert np.abs(video[2] - own[1]).max() <= 1 and (video[1] != video[0]).any()
    _, again = edited("truncate", f"--latents={tmp_path / 'l.npz'}", "--amount=1.0")
    np.testing.assert_array_equal(again, video)
    _, fast = edited("speed", "--seeds=3", "--frames=4", "--speed=2", words[0])
    np.testing.assert_array_equal(fast[0], own[0][::2])
    assert edited("truncate", f"--latents={tmp_path / 'l.npz'}", words[0])[0] == 2
    assert "classes, captions and frames" in _said(capsys)
    assert edited("extend", f"--latents={tmp_path / 'l.npz'}", words[0])[0] == 2
    assert "extend does not read --caption" in _said(capsys)


REFUSED = {
    "no file": (["--known=nowhere.png"], 3, "there is no nowhere.png"),
    "no picture": (["--known=FILES/bad.png"], 3, "bad.png"),
    "no mask": (
        ["--known=FILES/first.png", "--mask=FILES/words.txt"],
        3,
        "words.txt is no picture",
    ),
    "mask alone": (["--mask=FILES/mask.png"], 2, "--mask is given without --known"),
    "times": (["--known=FILES/clip.npy", "--known_at=a"], 2, "--known_at=a"),
    "part": (["--known=FILES/clip.npy", "--known_at=0:b"], 2, "or ::2"),
    "parts": (["--known=FILES/clip.npy", "--known_at=::0"], 2, "or ::2"),
    "none": (["--known=FILES/clip.npy", "--known_at=5:5"], 2, "names no frames"),
    "before": (["--known=FILES/clip.npy", "--known_at=-9", "--frames=4"], 2, "frames -5 to -5"),
    "behind": (["--known=FILES/clip.npy", "--known_at=0,20", "--frames=20"], 2, "frames 0 to 20"),
    "many": (["--known=FILES"], 3, "name one of them"),
    "more": (["--known=FILES/first.png", "--known_at=0,1"], 2, "names 2 frames"),
    "long": ([f"--caption={'x ' * 33}"], 2, "has 33 words"),
    "too many frames": (["--video=FILES/small.npy", "--frames=10"], 2, "frames 0 to 10"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_given_is_said(run, files, tmp_path, capsys, name):
    words, code, text = REFUSED[name]
    words = [word.replace("FILES", str(files)) for word in words]
    out = tmp_path / "o.npz"
    assert main.main(["sample", run, "--seeds=3", f"--out={out}", *words]) == code
    assert text in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize(
    "flag", ["--caption=red", "--known=FILES/first.png", "--video=FILES/small.npy"]
)
def test_a_run_that_was_not_told_says_so(files, tmp_path, capsys, flag):
    config = told()
    config.conditions, config.objective.l1, config.objective.mse = ConfigDict({}), 0.0, 0.0
    run = save(config, tmp_path / "plain")
    flag = flag.replace("FILES", str(files))
    assert main.main(["sample", run, f"--out={tmp_path / 'o.npz'}", flag]) == 2
    assert "trained with none" in capsys.readouterr().err
    assert main.main(["ask", run, "toy", f"--out={tmp_path / 'o.png'}"]) == 2
    assert "trained with no condition" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["frames", "video"])
def test_a_run_is_asked_for_clips_by_their_pixels(run, tmp_path, capsys, name):
    out = tmp_path / "o.png"
    words = ["ask", run, "toy:seed=5", f"--condition={name}", "--clips=3", "--show=2"]
    assert main.main([*words, f"--out={out}", f"--save={tmp_path / 'made.npz'}"]) == 0
    assert np.load(tmp_path / "made.npz")["video"].shape == (3, 6, *SIZE, 3)
    said = capsys.readouterr().out
    way = {"frames": "copied", "video": "enlarged"}[name]
    for row in (way, "made"):
        numbers = re.search(rf"^{row} +(.*)$", said, re.MULTILINE)
        assert numbers and len(numbers[1].split()) == 4, said
    pixels = np.asarray(Image.open(out))  # a row for each of: given, a simple way, made, real
    assert pixels.shape == (2 * 4 * 8, 6 * 16, 3)
    real = artifacts.clips_to_show(sampling.config_of(run), "toy:seed=5", (), 2)[0]
    np.testing.assert_array_equal(pixels[24:32], np.concatenate(list(real[0]), 1))


def test_what_is_known_can_be_chosen(run, tmp_path, capsys):
    out = f"--out={tmp_path / 'o.png'}"
    words = ["ask", run, "toy:seed=5", "--condition=frames", "--clips=2", out]
    assert main.main([*words, "--mode=ends"]) == 0
    assert re.search("^between ", capsys.readouterr().out, re.MULTILINE)
    assert main.main([*words, "--mode=edns"]) == 2
    assert "modes has 'edns'" in _said(capsys)


def test_simple_ways_are_what_is_known(run):
    """Copies and means of what is known, against a clip that a line between its ends makes."""
    sampler = sampling.load(run)
    ramp = np.linspace(40, 200, 6).round().astype(np.uint8)
    clips = np.broadcast_to(ramp[None, :, None, None, None], (2, 6, *SIZE, 3))
    value = {"video": clips[0, [0, 5]], "time": [0, 5]}
    found = asking.ask(sampler, "frames", clips, {}, value)
    assert np.abs(found.videos["between"].astype(int) - clips).max() <= 1
    np.testing.assert_array_equal(found.videos["copied"][:, 4], clips[:, 0])
    assert not found.unknown[:, [0, 5]].any() and found.unknown[:, 1:5].all()
    assert found.figures["between"]["psnr"] > 45 > found.figures["copied"]["psnr"]
    poorer = asking.ask(sampler, "video", clips, {})
    assert np.abs(poorer.videos["enlarged"].astype(int) - clips).max() <= 10  # noise of 2 levels


def test_nearness_of_pairs():
    real = RNG.integers(0, 256, (2, 4, 16, 16, 3), np.uint8)
    same = fidelity.scores(real, real)
    assert same["ssim"] == pytest.approx(1, abs=1e-5) and same["motion"] == pytest.approx(1)
    other = np.clip(real.astype(int) + 10, 0, 255).astype(np.uint8)
    error = np.mean((real.astype(float) - other) ** 2, axis=(1, 2, 3, 4))
    found = fidelity.scores(real, other)
    assert found["psnr"] == pytest.approx(np.mean(10 * np.log10(255**2 / error)))
    assert found["ssim"] < same["ssim"]
    still = np.broadcast_to(real[:, :1], real.shape)
    assert fidelity.scores(real, still)["motion"] == 0
    # Where only some pixels count, the others do not matter.
    count = np.zeros(real.shape[:4], bool)
    count[:, 1, :8] = True
    spoilt = other.copy()
    spoilt[:, 0] = 0
    for name in ("psnr", "ssim"):
        found = [fidelity.scores(real, x, count=count)[name] for x in (spoilt, other)]
        assert found[0] == found[1]
    part = (real.astype(float) - other)[:, 1, :8] ** 2
    psnr = np.mean(10 * np.log10(255**2 / part.mean((1, 2, 3))))
    assert fidelity.scores(real, spoilt, count=count)["psnr"] == pytest.approx(psnr)


def test_a_matcher_finds_the_captions_of_what_it_sees():
    names = "red", "green", "blue", "white"
    colours = np.array([[220, 20, 20], [20, 220, 20], [20, 20, 220], [230, 230, 230]], np.uint8)
    which = RNG.integers(0, 4, 96)
    clips = np.broadcast_to(colours[which][:, None, None, None], (96, 3, 8, 8, 3)).copy()
    texts = [f"a {names[n]} clip" for n in which]
    matcher = matching.fit(clips[32:], texts[32:], steps=60)
    assert matching.rate(matcher, clips[:32], texts[:32]) == 1
    assert matching.rate(matcher, np.roll(clips[:32], 1, 0), texts[:32]) < 0.6
    # What differs in capitals alone is one caption, and no other is found for it.
    again = [text.upper() if n % 2 else text for n, text in enumerate(texts[:32])]
    assert matching.rate(matcher, clips[:32], again) == 1
    with pytest.raises(DataError, match="at least 64 clips"):
        matching.fit(clips[:40], texts[:40])
    with pytest.raises(DataError, match="captions are the same"):
        matching.rate(matcher, clips[:4], ["red"] * 4)


def test_a_run_is_asked_for_captions(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(matching.fit, "__defaults__", (0, 4, lambda done, total: None))
    out = tmp_path / "o.png"
    words = ["ask", run, "toy:seed=5,clips=100", "--condition=caption", "--clips=20", "--show=2"]
    assert main.main([*words, f"--out={out}"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"among 16: real \d\.\d+, made \d\.\d+ \(chance 0\.06", said)
    assert out.exists()
