"""What `vidgen sample` writes: long videos as they are made, and refusals before anything is."""

import numpy as np
import pytest
from test_sampling import make
from test_video_writing import full_disk

from vidgen.cli import flags, samples, sampling_flags
from vidgen.errors import ConfigError, StorageError
from vidgen.sampling.sampler import Sampler
from vidgen.video import reading

FRAME = 16 * 16 * 3  # bytes, of the sampler of these tests


def write(folder, words, sampler=None, progress=lambda *done: None):
    """Writes as the command does, with the flags of its line."""
    options = flags.PARSERS["sample"][1]().read(["run", f"--out={folder}", *words])
    sampler = sampler or make()
    return samples.write(
        sampler,
        sampling_flags.target(options),
        progress,
        frames=options.frames,
        start=options.start,
        labels=sampling_flags.labels(options.labels, sampler.classes),
        fps=options.fps,
        quality=options.quality,
    )


def frames_of(folder):
    """Returns the videos in a folder as the reader has them, by name."""
    return {path.name: reading.read_video(path) for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("kind", ["mp4", "webm", "frames"])
def test_a_long_video_is_written_as_it_is_made(tmp_path, monkeypatch, kind):
    """Without ever having it whole; its frames are those of the video made in memory."""
    words = ["--seeds=3,5", "--frames=37", "--start=2", "--labels=disc,square", f"--format={kind}"]
    assert write(tmp_path / "whole", words) == 37
    told = []
    with monkeypatch.context() as patch:
        patch.setattr(samples, "MOST", 20 * FRAME)
        patch.setattr(Sampler, "sample", None)
        write(tmp_path / "streamed", words, progress=lambda *done: told.append(done))
    whole, streamed = frames_of(tmp_path / "whole"), frames_of(tmp_path / "streamed")
    assert whole.keys() == streamed.keys() and len(whole) == 2
    for name, video in whole.items():
        assert len(video) == 37
        np.testing.assert_array_equal(video, streamed[name])
    assert [total for _, total, _ in told] == [74] * len(told)
    assert [done for done, *_ in told] == sorted(done for done, *_ in told) and told[-1][0] == 74


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "npz", "mkv"])
def test_a_format_that_needs_all_frames_is_refused_where_they_are_too_many(tmp_path, kind):
    words = ["--frames=1000000000", f"--format={kind}", "--seeds=0"]
    with pytest.raises(ConfigError, match=rf"715 GiB.*{kind} is made in memory") as refused:
        write(tmp_path / "a", words)
    assert "--format=mp4|webm|frames" in refused.value.hint
    assert not (tmp_path / "a").exists()


def test_videos_are_made_some_at_a_time(tmp_path, monkeypatch):
    """So that memory does not grow with their number, and each is what it is alone."""
    words = ["--seeds=0:5", "--frames=20", "--format=mkv"]
    asked, sample = [], Sampler.sample

    def counted(self, seeds, *more, **asked_for):
        asked.append(len(seeds))
        return sample(self, seeds, *more, **asked_for)

    monkeypatch.setattr(Sampler, "sample", counted)
    monkeypatch.setattr(samples, "MOST", 45 * FRAME)
    write(tmp_path, words, make(batch=2))
    assert asked == [2, 2, 1]
    made = list(frames_of(tmp_path).values())
    np.testing.assert_array_equal(np.stack(made), sample(make(batch=2), range(5), 20))


@pytest.mark.parametrize("most", [2**32, FRAME])
def test_what_cannot_be_written_is_refused_before_it_is_made(tmp_path, monkeypatch, most):
    monkeypatch.setattr(Sampler, "_draw", None)
    monkeypatch.setattr(samples, "MOST", most)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="not a directory"):
        write(tmp_path / "file" / "below", ["--frames=5", "--format=mp4"])
    with pytest.raises(StorageError, match="is a directory"):
        (tmp_path / "a.mp4").mkdir()
        write(tmp_path / "a.mp4", ["--frames=5"])
    with pytest.raises(ConfigError, match="quality"):
        write(tmp_path / "b", ["--frames=1", "--quality=50"])  # of pictures, which have none
    with pytest.raises(ConfigError, match="there is no class 'cube'"):
        write(tmp_path / "c", ["--frames=5", "--format=mp4", "--labels=cube", "--seeds=0"])
    with pytest.raises(ConfigError, match="3 labels for 2 seeds"):
        write(tmp_path / "d", ["--frames=5", "--format=mp4", "--labels=0,1,0", "--seeds=0:2"])
    with pytest.raises(ConfigError, match="frames 7 to 2147483647 are asked for"):
        write(tmp_path / "e", ["--frames=2147483640", "--start=7", "--format=mp4"])


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_disk_that_fills_leaves_what_was_there(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text("old")
    monkeypatch.setattr(samples, "MOST", FRAME)
    with full_disk(3000), pytest.raises(StorageError, match="cannot be written"):
        write(path, ["--frames=400", "--quality=100"])
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and path.read_text() == "old"
