"""Writing video files: what is written reads back, and a failed write leaves what was there."""

import contextlib
import io
import itertools
import os
import re
import resource
import time

import av
import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from vidgen.errors import ConfigError, StorageError
from vidgen.video import encoding, reading, writing

FILES = sorted(encoding.ENCODERS)
VIDEOS = [suffix for suffix in FILES if suffix != ".npz"]
EXACT = [".mkv", ".webp", ".apng", ".tif", ".tiff"]
LOSSY = {".mp4": 38, ".webm": 38, ".gif": 30, ".avif": 40}  # dB of smooth colours, at least
PAGES = [".tif", ".tiff"]  # without times


def smooth(count=6, height=24, width=40):
    """Slowly varying colours, which lossy codecs keep."""
    t, y, x = np.meshgrid(
        np.arange(count) / count,
        np.arange(height) / height,
        np.arange(width) / width,
        indexing="ij",
    )
    return np.stack([255 * x, 255 * y, 255 * t], -1).astype(np.uint8)


def noise(count=6, height=21, width=33, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def colours(*levels):
    """A frame of one grey level after the other, which every format keeps apart."""
    return np.stack([np.full((16, 16, 3), level, np.uint8) for level in levels])


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def times(path):
    """Returns the seconds at which frames start, and the last one ends, by Pillow or PyAV alone."""
    if path.suffix in (".gif", ".webp", ".apng", ".avif"):
        with Image.open(path) as picture:
            lengths = []
            for n in range(picture.n_frames):
                picture.seek(n)
                picture.load()
                lengths.append(picture.info["duration"] / 1000)
        return np.cumsum([0, *lengths])
    with av.open(str(path)) as container:
        starts = [float(frame.time) for frame in container.decode(video=0)]
    return np.array(starts)


def test_every_video_format_can_be_chosen():
    assert set(encoding.ENCODERS) - {".tif"} == set(writing.FORMATS.values()) - {".png", ""}
    assert set(EXACT) | set(LOSSY) == set(VIDEOS)


@pytest.mark.parametrize("suffix", EXACT)
@pytest.mark.parametrize("video", [noise(), noise(1), noise(3, 1, 1), noise(4, 20, 32), smooth()])
def test_lossless_formats_are_exact(tmp_path, suffix, video):
    path = tmp_path / f"a{suffix}"
    writing.write_video(path, video, fps=25)
    read = reading.read_video(path)
    assert read.dtype == np.uint8 and read.shape == video.shape
    assert (read == video).all()


@pytest.mark.parametrize("suffix", [*EXACT, ".gif", ".avif"])
def test_other_readers_see_the_same(tmp_path, suffix):
    video = noise(5) if suffix in EXACT else smooth(5)
    path = tmp_path / f"a{suffix}"
    writing.write_video(path, video, fps=25)
    if suffix == ".mkv":
        with av.open(str(path)) as container:
            read = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    else:
        with Image.open(path) as picture:
            pages = []
            for n in range(picture.n_frames):
                picture.seek(n)
                pages.append(np.asarray(picture.convert("RGB")))
        read = np.stack(pages)
    assert read.shape == video.shape
    assert (read == video).all() if suffix in EXACT else psnr(read, video) > LOSSY[suffix]


@pytest.mark.parametrize("suffix", LOSSY)
@pytest.mark.parametrize(("count", "height", "width"), [(6, 24, 40), (1, 24, 40), (3, 21, 33)])
def test_lossy_formats_are_near(tmp_path, suffix, count, height, width):
    video = smooth(count, height, width)
    path = tmp_path / f"a{suffix}"
    writing.write_video(path, video, fps=12.5)
    read = reading.read_video(path)
    odd = suffix == ".mp4"  # 4:2:0 of H.264 has even sides only
    assert read.shape == (count, height + odd * (height % 2), width + odd * (width % 2), 3)
    assert psnr(read[:, :height, :width], video) > LOSSY[suffix]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [s for s in VIDEOS if s not in PAGES])
@pytest.mark.parametrize("fps", [12.5, 29.97, 1000.0, 1 / 3])
def test_frames_are_shown_at_their_times(tmp_path, suffix, fps):
    if suffix == ".gif":
        fps = min(fps, 50.0)  # viewers slow down one whose frames last less than 20 ms
    video = colours(*range(0, 248, 8))
    path = tmp_path / f"a{suffix}"
    writing.write_video(path, video, fps)
    tick = {".gif": 0.01, ".mp4": 1e-4}.get(suffix, 0.001)
    starts = times(path)[: len(video)]
    # 30000/1001 is what APNG's reader makes of 29.97.
    assert np.abs(starts - np.arange(31) / fps).max() <= tick / 2 + 2e-5 / fps * 31
    read = reading.read_video(path, fps=fps)
    assert read.shape[0] == len(video)
    assert np.abs(read[:, :16, :16].astype(int) - video).max() <= 6
    assert reading.probe(path).fps == pytest.approx(fps, rel=0.13 if fps > 13 else 1e-3)


STILL = {
    "a whole video": colours(*[40] * 7),
    "passages": colours(40, 40, 40, 80, 120, 120, 160, 160, 160, 160),
    "its end": colours(0, 60, 120, 120, 120),
}


@pytest.mark.parametrize("suffix", [s for s in VIDEOS if s not in PAGES])
@pytest.mark.parametrize("fps", [10.0, 29.97])
@pytest.mark.parametrize("name", STILL)
def test_what_stands_still_comes_back_complete(tmp_path, suffix, fps, name):
    path = tmp_path / f"a{suffix}"
    writing.write_video(path, STILL[name], fps)
    read = reading.read_video(path, fps=fps)
    assert len(read) == len(STILL[name])
    assert np.abs(read.astype(int) - STILL[name]).max() <= 6
    if suffix in (".gif", ".webp"):  # which store equal frames once
        assert len(reading.read_video(path)) == len(np.unique(STILL[name]))
        assert times(path)[-1] == pytest.approx(len(STILL[name]) / fps, abs=0.006)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".apng"])
def test_animations_are_shown_without_end(suffix):
    with Image.open(io.BytesIO(encoding.encode(noise(3), 10, suffix))) as picture:
        assert picture.is_animated and picture.info["loop"] == 0
    for video in (noise(1), STILL["a whole video"]) if suffix == ".webp" else ():
        with Image.open(io.BytesIO(encoding.encode(video, 10, suffix))) as picture:
            picture.load()
            assert picture.info["loop"] == 0 and picture.info["duration"] == 100 * len(video)


def test_durations_sum_to_the_length():
    for fps, ticks in itertools.product((12.5, 24, 29.97, 50), (100, 1000)):
        ends = np.cumsum(encoding._durations(200, ticks / fps, 1))
        assert np.abs(ends - np.arange(1, 201) * ticks / fps).max() <= 0.5 + 1e-9
    assert encoding._durations(3, 0.1, 2) == [2, 2, 2]


def test_a_gif_that_stands_still_for_too_long_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"for longer than a file can say \(GIF: 655 s\)"):
        writing.write_video(tmp_path / "a.gif", colours(*[9] * 66), fps=0.1)
    assert not list(tmp_path.iterdir())
    writing.write_video(tmp_path / "a.gif", colours(*[9] * 65, 99, 9), fps=0.1)
    assert times(tmp_path / "a.gif").tolist() == [0, 650, 660, 670]


@pytest.mark.parametrize("suffix", FILES)
def test_the_same_video_is_the_same_file(suffix):
    data = encoding.encode(noise(3), 25, suffix)
    assert data == encoding.encode(noise(3), 25, suffix)
    assert data != encoding.encode(noise(3, seed=1), 25, suffix)


def test_npz_is_exact_and_of_any_batch(tmp_path):
    video = smooth()[None].repeat(2, 0)
    writing.write_video(tmp_path / "a.npz", video, fps=29.97)
    with np.load(tmp_path / "a.npz") as arrays:
        assert (arrays["video"] == video).all() and arrays["fps"] == 29.97


def test_arrays_are_those_of_imageio(tmp_path):
    iio.imwrite(tmp_path / "a.webp", noise(), plugin="pillow", lossless=True, duration=50)
    read = reading.read_video(tmp_path / "a.webp")
    assert (read == noise()).all()
    writing.write_video(tmp_path / "b.apng", iio.imread(tmp_path / "a.webp", index=...), fps=20)
    assert (reading.read_video(tmp_path / "b.apng") == noise()).all()


# ------------------------------------------------------------------------------- colours


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_colours_are_coded_as_the_tags_say(suffix):
    primaries = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 90, 30)]
    video = np.stack([np.full((32, 32, 3), colour, np.uint8) for colour in primaries])
    with av.open(io.BytesIO(encoding.encode(video, 10, suffix, quality=100))) as container:
        frames = list(container.decode(video=0))
        for frame, (r, g, b) in zip(frames, np.array(primaries) / 255, strict=True):
            assert frame.color_range == 1  # limited
            assert (frame.colorspace, frame.color_primaries, frame.color_trc) == (1, 1, 1)  # BT.709
            luma = 0.2126 * r + 0.7152 * g + 0.0722 * b
            wanted = [
                16 + 219 * luma,
                128 + 224 * (b - luma) / 1.8556,
                128 + 224 * (r - luma) / 1.5748,
            ]
            for plane, level in zip(frame.planes, wanted, strict=True):
                pixels = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
                assert abs(pixels[8, 8] - level) <= 2


def test_the_same_clip_has_the_same_bytes_whatever_was_in_memory_before():
    video = smooth(6, 64, 64)
    rng = np.random.default_rng(0)
    for suffix in (".mp4", ".webm", ".avif"):
        encoded = set()
        for _ in range(12):
            junk = [np.full(n, n % 256, np.uint8) for n in rng.integers(1, 200_000, 20)]
            del junk
            encoded.add(encoding.encode(video, 25, suffix))
        assert len(encoded) == 1, suffix


def test_no_file_says_when_it_was_made():
    early = {suffix: encoding.encode(smooth(), 25, suffix) for suffix in FILES}
    time.sleep(1.01)  # AVIF counts whole seconds
    for suffix, data in early.items():
        assert data == encoding.encode(smooth(), 25, suffix), suffix


def test_mp4_starts_with_its_index():
    data = encoding.encode(smooth(), 25, ".mp4")
    assert data.index(b"moov") < data.index(b"mdat")


# ------------------------------------------------------------------------------- quality


@pytest.mark.parametrize("suffix", encoding.QUALITIES)
def test_quality_trades_bytes_for_likeness(suffix):
    video = noise(4, 32, 32)[..., :1].repeat(3, -1) // 4 + smooth(4, 32, 32) // 2
    sizes, near = [], []
    for quality in (0, 30, 60, 90, 100):
        data = encoding.encode(video, 10, suffix, quality)
        sizes.append(len(data))
        with contextlib.ExitStack() as stack:
            if suffix in (".webp", ".avif"):
                read = iio.imread(data, index=..., plugin="pillow")
            else:
                container = stack.enter_context(av.open(io.BytesIO(data)))
                read = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
        near.append(np.mean((read.astype(float) - video) ** 2))
    assert sizes == sorted(sizes) and near == sorted(near, reverse=True)
    assert sizes[-1] > 2 * sizes[0] and near[-1] < near[0] / 4
    usual = encoding.encode(video, 10, suffix)
    assert usual == encoding.encode(video, 10, suffix, encoding.QUALITIES[suffix])
    assert (near[-1] == 0) == (suffix == ".webp")


def test_mp4_is_of_crf_12_where_no_quality_is_wished():
    # libx264 writes its settings into the stream.
    assert b"crf=12.0" in encoding.encode(smooth(), 25, ".mp4")
    assert b"crf=1.0" in encoding.encode(smooth(), 25, ".mp4", 100)


@pytest.mark.parametrize(
    ("name", "quality", "said"),
    [
        ("a.gif", 50, "quality=50: .gif has no quality"),
        ("a.mkv", 100, ".mkv has no quality"),
        ("a.apng", 50, ".apng has no quality"),
        ("a.tiff", 50, ".tiff has no quality"),
        ("a.npz", 50, ".npz has no quality"),
        ("a", 50, "a folder of pictures has no quality"),
        ("a.mp4", 101, "quality=101 is not between 0 and 100"),
        ("a.webp", -1, "quality=-1 is not"),
        ("a.avif", float("nan"), "quality=nan is not"),
    ],
)
def test_a_quality_that_there_is_not_is_refused(tmp_path, name, quality, said):
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        writing.write_video(tmp_path / name, smooth(), 25, quality=quality)
    assert caught.value.hint and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "video", "fps", "said"),
    [
        ("a.avi", smooth(), 25, "choose .mp4"),
        ("a.png", smooth(), 25, "a video as PNG is .apng"),
        ("a.mp4", smooth().astype(np.float32), 25, "float32"),
        ("a.mp4", smooth()[None], 25, "(1, 6, 24, 40, 3)"),
        ("a.mp4", smooth()[:0], 25, "(0, 24, 40, 3)"),
        ("a.mp4", smooth(), 0, "0 frames a second"),
        ("a.mp4", smooth(), "x", "at x frames a second"),
        ("a.mkv", smooth(), 2000, "at 2000 frames a second"),
        ("a.webm", smooth(), float("nan"), "nan frames a second"),
        ("a", smooth()[0], 25, "(24, 40, 3)"),
        ("a", smooth(), -1, "-1 frames a second"),
    ],
)
def test_write_refuses_what_it_cannot_write(tmp_path, name, video, fps, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        writing.write_video(tmp_path / name, video, fps)
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------- whole or not at all


@contextlib.contextmanager
def full_disk(size):
    """No file may grow beyond a size: what a full disk says, but of another number."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def content(path):
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {str(file): file.read_bytes() for file in files}


@pytest.mark.parametrize("suffix", [*FILES, ""])
@pytest.mark.parametrize("old", [True, False])
def test_a_failed_write_leaves_what_was_there(tmp_path, suffix, old):
    path = tmp_path / f"a{suffix}"
    if old:
        writing.write_video(path, smooth(), fps=25)
        good = content(path)
    with full_disk(100), pytest.raises(StorageError, match="file too large") as caught:
        writing.write_video(path, noise(), fps=25)
    assert str(path) in str(caught.value) and caught.value.exit_code == 5
    assert [p.name for p in tmp_path.iterdir()] == [path.name] * old
    if old:
        assert content(path) == good


def test_no_space_has_a_hint(tmp_path, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no space left") as caught:
        writing.write_video(tmp_path / "a.gif", smooth(), fps=25)
    assert "free some space" in caught.value.hint and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.png", "a.mp4", "a"])
def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path, name):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / name
    with pytest.raises(StorageError, match=re.escape(str(path))):
        if name == "a.png":
            writing.write_png(path, smooth()[0])
        else:
            writing.write_video(path, smooth(), 25)


def test_a_file_where_the_folder_goes_stays(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(StorageError, match=re.escape(str(tmp_path / "a"))):
        writing.write_video(tmp_path / "a", smooth(), 25)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "mine"


# ------------------------------------------------------------------------------- pictures


def test_a_path_without_suffix_is_a_folder_of_pictures(tmp_path):
    path = tmp_path / "deep" / "walk"
    writing.write_video(path, noise(12), fps=25)
    assert sorted(p.name for p in path.iterdir()) == [f"{n:06d}.png" for n in range(12)]
    with Image.open(path / "000007.png") as picture:
        assert (np.asarray(picture) == noise(12)[7]).all()
    assert (reading.read_video(path, fps=25) == noise(12)).all()
    writing.write_video(path, noise(3, seed=1), fps=25)  # in the place of the old one
    assert (reading.read_video(path) == noise(3, seed=1)).all()
    assert [p.name for p in path.parent.iterdir()] == ["walk"]
    assert (path.stat().st_mode, (path / "000000.png").stat().st_mode) == modes(tmp_path)


def modes(folder):
    (folder / "new").mkdir()
    (folder / "new" / "file").write_text("")
    return (folder / "new").stat().st_mode, (folder / "new" / "file").stat().st_mode


@pytest.mark.parametrize("other", ["thesis.tex", "walk.png", "1.png.txt"])
def test_a_folder_of_anything_else_is_not_replaced(tmp_path, other):
    writing.write_video(tmp_path / "a", noise(2), fps=25)
    (tmp_path / "a" / other).write_text("mine")
    with pytest.raises(StorageError, match="is not replaced") as caught:
        writing.write_video(tmp_path / "a", noise(2), fps=25)
    assert caught.value.hint and (tmp_path / "a" / other).read_text() == "mine"
    assert len(list((tmp_path / "a").iterdir())) == 3


def test_png_is_exact_even_where_it_is_narrow(tmp_path):
    for shape in ((5, 3, 3), (1, 1, 3), (4, 2, 3)):
        image = noise(1, *shape[:2])[0]
        writing.write_png(tmp_path / "a.png", image)
        assert (np.asarray(Image.open(tmp_path / "a.png")) == image).all()
