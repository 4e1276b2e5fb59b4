"""Packs: exact, reused, checked, and whole whatever happens while they are made."""

import errno
import json
import logging
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from vidgen.data import pack as packs
from vidgen.data import packing
from vidgen.data.limits import Limits
from vidgen.data.listing import list_source
from vidgen.data.pack import Pack, open_store
from vidgen.data.packing import write_pack
from vidgen.data.settings import PackSettings
from vidgen.data.toy import ToySource
from vidgen.errors import ConfigError, DataError, StorageError
from vidgen.video import reading, writing
from vidgen.video.conversion import centre

ROOT = pathlib.Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture
def shared():
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    return SHARED


@pytest.fixture
def folder(tmp_path):
    """Three lossless clips in two classes, and one file that is none."""
    root = tmp_path / "clips"
    rng = np.random.default_rng(0)
    for n, name in enumerate(("walk/a", "walk/b", "wave/c")):
        array = rng.integers(0, 256, (6 + n, 24, 40, 3), np.uint8)
        writing.write_video(root / f"{name}.webp", array, fps=10)
    (root / "walk" / "bad.mp4").write_text("no video\n" * 20)
    return root


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def store_of(folder, cache, *, strict=False, workers=1, progress=None, **settings):
    settings = PackSettings(**{"size": 16} | settings)
    return open_store(
        folder, settings, cache=cache, strict=strict, workers=workers, progress=progress
    )


def test_a_pack_holds_what_a_reader_decodes(folder, cache):
    store = store_of(folder, cache)
    assert store.names == ("walk/a.webp", "walk/b.webp", "wave/c.webp")
    assert store.classes == ("walk", "wave") and store.labels.tolist() == [0, 0, 1]
    assert store.lengths.tolist() == [6, 7, 8] and len(store) == 3
    assert store.labels.dtype == np.int32 and store.lengths.dtype == np.int64
    assert store.fps == pytest.approx(10)
    for n, name in enumerate(store.names):
        wanted = reading.read_video(folder / name, size=16)
        left = (wanted.shape[2] - 16) // 2
        assert (store[n] == wanted[:, :, left : left + 16]).all()
        assert not store[n].flags.writeable


def test_settings_reach_the_decoder(folder, cache):
    store = store_of(folder, cache, crop="random", fps=5.0)
    for n, name in enumerate(store.names):
        wanted = reading.read_video(folder / name, size=16, fps=5.0)
        assert wanted.shape[2] == 27 and (store[n] == wanted).all()
    assert store.fps == 5.0


def test_a_bad_file_is_one_warning_and_a_row(folder, cache, caplog):
    for _ in range(2):  # made, then found again
        caplog.clear()
        with caplog.at_level(logging.WARNING, "vidgen"):
            store = store_of(folder, cache)
        (record,) = caplog.records
        assert "walk/bad.mp4" in record.getMessage() and "invalid data" in record.getMessage()
        ((name, why),) = store.skipped
        assert name == "walk/bad.mp4" and "invalid data" in why


def test_strict_stops_at_the_bad_file(folder, cache):
    with pytest.raises(DataError, match=r"walk/bad\.mp4.*invalid data"):
        store_of(folder, cache, strict=True)
    assert not list(cache.iterdir())
    store_of(folder, cache)
    with pytest.raises(DataError, match=r"walk/bad\.mp4"):
        store_of(folder, cache, strict=True)
    (folder / "walk" / "bad.mp4").unlink()
    assert len(store_of(folder, cache, strict=True)) == 3


def test_no_usable_clip_says_why(tmp_path, cache):
    (tmp_path / "a.mp4").write_text("no video\n" * 20)
    os.mkfifo(tmp_path / "b.mp4")
    with pytest.raises(DataError, match=r"none of 2 files.*b\.mp4.*FIFO.*a\.mp4") as caught:
        store_of(tmp_path, cache)
    assert caught.value.hint
    assert not list(cache.iterdir())


def test_the_same_pack_is_found_again_and_another_is_made(folder, cache, monkeypatch):
    first = store_of(folder, cache)
    made = []
    real = packing.write_pack
    monkeypatch.setattr(packing, "write_pack", lambda *a, **k: made.append(1) or real(*a, **k))
    assert store_of(folder, cache).path == first.path and not made
    for settings in ({"size": 12}, {"crop": "random"}, {"fps": 5.0}, {"background": (1, 2, 3)},
                     {"labels": "none"}, {"limits": Limits(frames=7)}):  # fmt: skip
        assert store_of(folder, cache, **settings).path != first.path
    assert len(made) == 6
    os.utime(folder / "walk" / "a.webp", ns=(1, 1))
    assert store_of(folder, cache).path != first.path and len(made) == 7


def test_limits_skip_by_name(folder, cache):
    store = store_of(folder, cache, limits=Limits(frames=7))
    assert store.names == ("walk/a.webp", "walk/b.webp")
    assert "data.limits.frames=7" in dict(store.skipped)["wave/c.webp"]


def test_a_clip_refused_half_way_leaves_nothing(folder, cache):
    # At this size a chunk of six frames is written before the eighth is too many. The first and
    # the last clip to be decoded are refused: they are the largest and the smallest file.
    writing.write_video(folder / "wave" / "d.mp4", np.zeros((8, 24, 40, 3), np.uint8), fps=10)
    store = store_of(folder, cache, size=256, limits=Limits(frames=7))
    for n, name in enumerate(("walk/a.webp", "walk/b.webp")):
        wanted = centre(reading.read_video(folder / name, size=256), 256)
        assert (store[n] == wanted).all()
    size = sum(path.stat().st_size for path in store.path.glob("frames-*"))
    assert size == (6 + 7) * 256 * 256 * 3


def test_the_fingerprint_is_of_the_content(folder, tmp_path):
    one = store_of(folder, tmp_path / "1", workers=1)
    for path in folder.rglob("*.*"):
        os.utime(path, ns=(1, 1))
    two = store_of(folder, tmp_path / "2", workers=3)
    assert one.fingerprint == two.fingerprint and one.path.name != two.path.name
    (folder / "wave").rename(folder / "jump")
    assert store_of(folder, tmp_path / "3").fingerprint != one.fingerprint


def flip_byte(path, at=-5):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped frame": lambda path: flip_byte(max(path.glob("frames-*"), key=os.path.getsize)),
    "flipped index": lambda path: flip_byte(path / "pack.json", 120),
    "other label": lambda path: (path / "pack.json").write_text(
        (path / "pack.json").read_text().replace('"label": [0', '"label": [1')
    ),
    "short frames": lambda path: os.truncate(max(path.glob("frames-*"), key=os.path.getsize), 9),
    "no frames": lambda path: max(path.glob("frames-*"), key=os.path.getsize).unlink(),
    "no index": lambda path: (path / "pack.json").unlink(),
    "other format": lambda path: (path / "pack.json").write_text('{"format": "x", "sha256": ""}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_pack_is_made_again(folder, cache, damage):
    first = store_of(folder, cache)
    wanted = [first[n].copy() for n in range(3)]
    del first
    (path,) = cache.iterdir()
    DAMAGES[damage](path)
    with pytest.raises(DataError) as caught:
        Pack(path)
    assert str(path) in str(caught.value)
    store = store_of(folder, cache)
    assert all((store[n] == wanted[n]).all() for n in range(3))
    assert [p.name for p in cache.iterdir()] == [path.name]


def test_damage_beyond_the_first_check_is_found_when_read(folder, cache, monkeypatch):
    made = store_of(folder, cache)
    monkeypatch.setattr(packs, "_VERIFY", 1)
    flip_byte(made.path / "frames-0.bin", made._places[2][1] + 5)
    store = Pack(made.path)
    assert len(store[0]) == 6
    with pytest.raises(DataError, match=r"clip wave/c\.webp is damaged"):
        store[2]


def test_a_pack_is_a_path_and_loads_no_decoder(folder, cache, tmp_path):
    made = write_pack(list_source(folder, PackSettings(size=16)), tmp_path / "mine")
    script = (
        "import sys, logging\n"
        "logging.disable()\n"
        "from vidgen.data import PackSettings, open_store\n"
        f"s = open_store({str(tmp_path / 'mine')!r}, PackSettings(size=16))\n"
        "print(s.fingerprint, s[1].shape, sorted({'av', 'PIL', 'jax'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.stdout.strip() == f"{made.fingerprint} (7, 16, 16, 3) []", done.stderr
    with pytest.raises(ConfigError, match="packed with size=16, asked for is size=32") as caught:
        store_of(tmp_path / "mine", cache, size=32)
    assert "data.size=16" in caught.value.hint
    with pytest.raises(StorageError, match="mine: exists already"):
        write_pack(list_source(folder, PackSettings(size=16)), tmp_path / "mine")


def test_an_error_of_the_progress_ends_cleanly(folder, cache):
    def progress(done, total, text):
        if text == "packing":  # after listing, of which no number is known
            assert total == 4
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_of(folder, cache, progress=progress)
    assert not list(cache.iterdir())


def test_a_full_disk_is_a_storage_error(folder, cache, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(packing, "_append", full)
    with pytest.raises(StorageError, match=r"cache.*no space left") as caught:
        store_of(folder, cache)
    assert caught.value.hint
    assert not list(cache.iterdir())
    cache.rmdir()
    cache.write_text("in the way")
    with pytest.raises(StorageError, match="cache"):
        store_of(folder, cache)


PACK = (
    "from vidgen.data import PackSettings, open_store\n"
    "import sys, logging; logging.disable()\n"
    "SMALL = PackSettings(size=16)\n"
)


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", PACK + code, *map(str, arguments)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_kill_in_the_middle_leaves_nothing_in_use(folder, cache):
    os.mkfifo(folder / "hang.webp")  # listed as no file; keeps the name for the real hang below
    (folder / "hang.webp").unlink()
    code = (
        "def tell(done, total, text):\n"
        "    print(done, flush=True)\n"
        "    if done >= 1: import time; time.sleep(60)\n"
        "open_store(sys.argv[1], SMALL, cache=sys.argv[2], workers=1, progress=tell)\n"
    )
    with start(code, folder, cache) as process:
        while process.stdout.readline().strip() in ("0",):
            pass
        (left,) = cache.iterdir()
        process.send_signal(signal.SIGKILL)
    assert left.name.startswith(".making-") and not (left / "pack.json").exists()
    os.utime(left, (time.time() - 3600,) * 2)
    store = store_of(folder, cache)
    assert len(store) == 3 and list(cache.iterdir()) == [store.path]


def test_a_pack_in_the_making_is_not_swept(folder, cache):
    with packing._making(cache / "other") as temporary:
        os.utime(temporary, (time.time() - 3600,) * 2)
        store_of(folder, cache)
        assert temporary.exists()
    assert not temporary.exists()


def test_what_lost_its_lock_is_swept_but_not_at_once(folder, cache):
    cache.mkdir()
    for name in (".making-killed", ".making-damaged-old", ".making-young"):
        (cache / name).mkdir()
        (cache / name / "frames-0.bin").write_bytes(b"1")
        if name != ".making-young":
            os.utime(cache / name, (1, 1))
    store_of(folder, cache)
    assert [p.name for p in cache.glob(".making-*")] == [".making-young"]


def test_a_lock_that_cannot_be_read_stops_no_packing(folder, cache):
    (cache / ".making-other" / "lock").mkdir(parents=True)  # an OSError for root as well
    os.utime(cache / ".making-other", (1, 1))
    assert len(store_of(folder, cache)) == 3
    assert (cache / ".making-other").exists()


def test_two_processes_may_make_the_same_pack(folder, cache):
    code = "print(open_store(sys.argv[1], SMALL, cache=sys.argv[2]).fingerprint)"
    both = [start(code, folder, cache) for _ in range(2)]
    said = {process.communicate(timeout=60)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    store = store_of(folder, cache)
    assert said == {store.fingerprint} and list(cache.iterdir()) == [store.path]


def test_the_cache_is_where_the_environment_says(folder, cache, monkeypatch):
    monkeypatch.setenv("VIDGEN_CACHE", str(cache))
    assert open_store(folder, PackSettings(size=16)).path.parent == cache


def test_toy_needs_no_pack(cache):
    toy = open_store("toy:clips=6,seed=3", PackSettings(size=16), toy_frames=7, cache=cache)
    assert isinstance(toy, ToySource) and not cache.exists()
    assert len(toy) == 6 and toy[0].shape == (7, 16, 16, 3)


def test_pack_json_is_readable(folder, cache):
    index = json.loads((store_of(folder, cache).path / "pack.json").read_text())
    assert index["format"] == "vidgen-pack-1" and index["settings"]["size"] == 16
    assert index["clips"]["frames"] == [6, 7, 8]


def test_bad_settings_are_named(folder, cache):
    with pytest.raises(ConfigError, match=r"data\.crop='left'"):
        store_of(folder, cache, crop="left")
    with pytest.raises(ConfigError, match=r"data\.size=0"):
        store_of(folder, cache, size=0)


@pytest.mark.parametrize(
    ("folder", "clips", "classes", "lengths", "fps"),
    [  # as data/MANIFEST.md says
        ("actions64", 56, 4, (51, 146), 25.0),
        ("shapes64", 1000, 2, (32, 32), 16.0),
        ("sprites64", 576, 9, (16, 16), 10.0),
        ("natural128", 166, 14, (32, 32), None),
    ],
)
def test_shared_folders_pack_entirely(shared, cache, folder, clips, classes, lengths, fps):
    store = open_store(shared / folder, PackSettings(size=16), cache=cache)
    assert (len(store), len(store.classes), store.skipped) == (clips, classes, [])
    assert (int(store.lengths.min()), int(store.lengths.max())) == lengths
    assert fps is None or store.fps == fps


def test_shared_clips_pack_but_for_the_one_without_pictures(shared, cache):
    # The frames that PyAV decoded when the files were collected.
    text = (shared / "MANIFEST.md").read_text("utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| \d+ \| \d+x\d+ \| (\d+) \|", text, re.M)
    store = open_store(shared / "clips", PackSettings(size=16), cache=cache)
    assert [name for name, _ in store.skipped] == ["sample_audio_only.mp4"]
    assert len(store) == 45
    measured = dict(zip(store.names, store.lengths.tolist(), strict=True))
    assert measured == {name: int(frames) for name, frames in rows if name in measured}
