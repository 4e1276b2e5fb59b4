"""Writing video files: what is written reads back, and a failed write leaves what was there."""

import errno
import re

import av
import numpy as np
import pytest

from vidgen.errors import StorageError
from vidgen.video import reading, writing


def smooth(count=6, height=24, width=40):
    """Slowly varying colours, which lossy codecs keep."""
    t, y, x = np.meshgrid(
        np.arange(count) / count,
        np.arange(height) / height,
        np.arange(width) / width,
        indexing="ij",
    )
    return np.stack([255 * x, 255 * y, 255 * t], -1).astype(np.uint8)


@pytest.mark.parametrize(("suffix", "error"), [(".mp4", 4.0), (".gif", 6.0), (".webp", 0.0)])
def test_written_video_reads_back(tmp_path, suffix, error):
    video = smooth()
    path = tmp_path / f"a{suffix}"
    writing.write_video(path, video, fps=12.5)
    read = reading.read_video(path)
    assert read.shape == video.shape and read.dtype == np.uint8
    assert np.abs(read.astype(int) - video).mean() <= error
    info = reading.probe(path)
    assert (info.width, info.height, info.frames) == (40, 24, 6)
    assert info.fps == pytest.approx(12.5)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_npz_is_exact_and_of_any_batch(tmp_path):
    video = smooth()[None].repeat(2, 0)
    writing.write_video(tmp_path / "a.npz", video, fps=29.97)
    with np.load(tmp_path / "a.npz") as arrays:
        assert (arrays["video"] == video).all() and arrays["fps"] == 29.97


def test_odd_sides_are_padded_in_mp4_only(tmp_path):
    video = smooth(3, 21, 33)
    writing.write_video(tmp_path / "a.mp4", video, fps=25)
    read = reading.read_video(tmp_path / "a.mp4")
    assert read.shape == (3, 22, 34, 3)
    assert np.abs(read[:, :21, :33].astype(int) - video).mean() < 4
    writing.write_video(tmp_path / "a.webp", video, fps=25)
    assert (reading.read_video(tmp_path / "a.webp") == video).all()


def test_gif_delays_follow_the_rate_on_average(tmp_path):
    writing.write_video(tmp_path / "a.gif", smooth(31), fps=29.97)
    with av.open(str(tmp_path / "a.gif")) as container:
        times = [float(frame.time) for frame in container.decode(video=0)]
    assert times[-1] == pytest.approx(30 / 29.97, abs=0.011)


@pytest.mark.parametrize(
    ("name", "video", "fps", "said"),
    [
        ("a.avi", smooth(), 25, "choose .mp4"),
        ("a.mp4", smooth().astype(np.float32), 25, "float32"),
        ("a.mp4", smooth()[None], 25, "(1, 6, 24, 40, 3)"),
        ("a.mp4", smooth()[:0], 25, "(0, 24, 40, 3)"),
        ("a.mp4", smooth(), 0, "0 frames a second"),
    ],
)
def test_write_refuses_what_it_cannot_write(tmp_path, name, video, fps, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        writing.write_video(tmp_path / name, video, fps)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", sorted(writing._WRITERS))
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    writing.write_video(path, smooth(), fps=25)
    good = path.read_bytes()

    def full(temporary, video, fps):
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(writing._WRITERS, suffix, full)
    with pytest.raises(StorageError, match="no space left") as caught:
        writing.write_video(path, smooth(), fps=25)
    assert str(path) in str(caught.value) and caught.value.hint and caught.value.exit_code == 5
    assert path.read_bytes() == good
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "a.png"
    with pytest.raises(StorageError, match=re.escape(str(path))):
        writing.write_png(path, smooth()[0])
