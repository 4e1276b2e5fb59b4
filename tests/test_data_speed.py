"""Speed of the data floor, with the figures that docs/data.md states.

python -m pytest -m benchmark -s tests/test_data_speed.py
"""

import pathlib
import resource
import time

import av
import numpy as np
import pytest
from PIL import Image

from vidgen.data.listing import list_source
from vidgen.data.packing import write_pack
from vidgen.data.stream import Clips
from vidgen.video import writing

pytestmark = pytest.mark.benchmark
SHARED = pathlib.Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The shared clips, or 24 clips of 640 x 480 and 60 frames."""
    if (SHARED / "clips").is_dir():
        return SHARED / "clips"
    root = tmp_path_factory.mktemp("clips")
    y, x = np.mgrid[0:480, 0:640]
    for n in range(24):
        wave = [np.sin((x + 3 * t * n) / 20) * np.cos(y / 15) for t in range(60)]
        video = np.stack([(127 + 120 * w).astype(np.uint8) for w in wave])
        writing.write_video(root / f"{n}.mp4", video[..., None].repeat(3, -1), fps=25)
    return root


@pytest.fixture(scope="module")
def pack(folder, tmp_path_factory):
    return write_pack(list_source(folder), tmp_path_factory.mktemp("pack") / "p")


def plain_loop(paths, size):
    """The loop to beat: one thread, PyAV to decode, Pillow to resize; returns frames."""
    frames = 0
    for path in paths:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                picture = Image.fromarray(frame.to_ndarray(format="rgb24", threads=1))
                scale = size / min(picture.size)
                wide = [round(side * scale) for side in picture.size]
                np.asarray(picture.resize(wide, Image.Resampling.BILINEAR))
                frames += 1
    return frames


def swscale_loop(paths, size):
    """A faster loop: one thread, PyAV to decode and to resize; returns frames."""
    frames = 0
    for path in paths:
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "NONE"
            for frame in container.decode(video=0):
                scale = size / min(frame.width, frame.height)
                wide, high = round(frame.width * scale), round(frame.height * scale)
                frame.reformat(wide, high, "rgb24", interpolation="AREA", threads=1).to_ndarray()
                frames += 1
    return frames


@pytest.mark.parametrize(("loop", "ratio"), [(plain_loop, 1.5), (swscale_loop, 1.5)])
def test_packing_beats_a_single_thread(folder, tmp_path, loop, ratio):
    source = list_source(folder)
    paths = [entry.ref["path"] for entry in source.entries]
    paths = [path for path in paths if "audio_only" not in path]
    started = time.perf_counter()
    base = loop(paths, 64) / (time.perf_counter() - started)
    started = time.perf_counter()
    pack = write_pack(source, tmp_path / "pack")
    rate = int(pack.lengths.sum()) / (time.perf_counter() - started)
    print(f"\npacking {rate:.0f} frames/s, {loop.__name__} {base:.0f}: {rate / base:.2f} times")
    assert rate > ratio * base


@pytest.mark.parametrize("flip", [False, True])
def test_reading_ready_batches(pack, flip):
    clips = Clips(pack, frames=16, flip=flip)
    batches = clips.batches(32)
    next(batches)
    started, count = time.perf_counter(), 0
    while count < 400:
        next(batches)
        count += 1
    rate = 32 * count / (time.perf_counter() - started)
    batches.close()
    print(f"\nreading {rate:.0f} clips/s of 16x64x64, flip={flip}")
    assert rate > 2000


def test_memory_is_flat_over_100_000_batches(pack):
    batches = Clips(pack, frames=4).batches(4)
    peaks = []
    for number in range(100_000):
        next(batches)
        if number in (5_000, 99_999):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    batches.close()
    print(f"\npeak memory {peaks[0]:.0f} MB after 5,000 batches, {peaks[1]:.0f} MB after 100,000")
    assert peaks[1] < peaks[0] + 20


def test_seeking(pack):
    clips = Clips(pack, frames=16)
    clips[0]
    started = time.perf_counter()
    clips[10**9]
    seconds = time.perf_counter() - started
    print(f"\nitem 10**9 after {1000 * seconds:.2f} ms")
    assert seconds < 0.05
