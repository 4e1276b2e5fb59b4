"""Which windows of clips are measured."""

import numpy as np
import pytest

from vidgen.errors import DataError
from vidgen.evaluation.windows import Windows, WindowSpec, first_frame_size


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def clips(tmp_path):
    """Six clips of ten frames whose brightness is the number of the frame, from 20 a clip on."""
    levels = 20 * np.arange(6)[:, None] + np.arange(10)
    video = np.broadcast_to(levels[..., None, None, None], (6, 10, 8, 12, 3)).astype(np.uint8)
    np.save(tmp_path / "clips.npy", video)
    return tmp_path / "clips.npy"


def frame(level):
    return divmod(int(level), 20)  # number of the clip, and of the frame


def test_windows_are_counted_and_read_as_described(clips):
    windows = Windows(clips, WindowSpec(frames=3, size=8, stride=2))
    assert (windows.clips, windows.count) == (6, 6 * 6)  # five frames from first to last
    described = windows.describe(100)
    assert described["stride"] == 2 and described["size"] == 8
    assert len(described["windows"]) == 36
    names = [name for name, _ in described["windows"]]
    for turn in range(6):  # each clip once before any comes again
        assert len(set(names[6 * turn : 6 * turn + 6])) == 6
    assert windows.describe(9)["windows"] == described["windows"][:9]
    for (_, first), window in zip(described["windows"], windows.read(100), strict=True):
        assert window.shape == (3, 8, 8, 3)
        levels = window.mean((1, 2, 3))
        assert [frame(level)[1] for level in levels] == [first, first + 2, first + 4]
    assert windows.fps == 25 / 2 and windows.recorded_size() == (8, 12)


def test_halves_share_no_clip_and_make_the_whole(clips):
    def numbers(half, seed=0):
        windows = Windows(clips, WindowSpec(frames=10, size=8), seed=seed, half=half)
        assert windows.count == 3
        return {frame(window[0].mean())[0] for window in windows.read(3)}

    assert numbers(0) | numbers(1) == set(range(6))
    assert len({frozenset(numbers(0, seed)) for seed in range(8)}) > 1


def test_the_bank_has_windows_of_every_clip(clips):
    windows = Windows(clips, WindowSpec(frames=4, size=8))
    bank = windows.bank()
    assert sorted(map(tuple, bank.tolist())) == [(n, t) for n in range(6) for t in range(7)]
    for (number, first), window in zip(bank.tolist(), windows.at(bank), strict=True):
        assert frame(window[0].mean()) == (number, first)


@pytest.mark.parametrize(
    "spec, said, hint",
    [
        (
            WindowSpec(frames=9, size=8),
            "12 windows of 9 frames, at least 13 are needed; there are 6 clips, the longest has 10",
            "give more clips",
        ),
        (
            WindowSpec(frames=4, size=8, stride=4),
            "0 windows of 4 frames, stride 4, at least 13 are needed",
            "give clips of 13 frames or more, or a smaller --stride",
        ),
        (
            WindowSpec(frames=32, size=8),
            "0 windows of 32 frames",
            "give clips of 32 frames or more, or a protocol of shorter clips",
        ),
    ],
)
def test_too_few_windows_are_refused_with_what_to_do(clips, spec, said, hint):
    with pytest.raises(DataError) as error:
        Windows(clips, spec, side="the real clips", at_least=13)
    assert str(error.value).startswith(f"the real clips ({clips}): {said}")
    assert error.value.hint.startswith(hint)


def test_size_of_the_first_clip(clips):
    assert first_frame_size(clips) == (8, 12)
    assert first_frame_size("toy:clips=9,size=24") == (24, 24)
