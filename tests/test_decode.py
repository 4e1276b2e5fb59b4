"""The decoding process: its answers, its limits, and what becomes of it on hostile files."""

import errno
import io
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from vidgen.data import decoder as decoding
from vidgen.data import faults, workers
from vidgen.data.arrays import array_clips, strip_shape
from vidgen.data.attempts import each
from vidgen.data.limits import Limits
from vidgen.data.workers import Disturbed, Worker, request
from vidgen.errors import DataError
from vidgen.video import decoding as video_decoding
from vidgen.video import reading, writing
from vidgen.video.containers import missing, starts_like_video
from vidgen.video.decoding import Unreadable

ROOT = pathlib.Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data" / "clips"


@pytest.fixture
def shared():
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    return SHARED


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A lossless clip of 10 frames, 40 x 24, and its path."""
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (10, 24, 40, 3), np.uint8)
    path = tmp_path_factory.mktemp("video") / "a.webp"
    writing.write_video(path, array, fps=10)
    return path, array


@pytest.fixture(scope="module")
def worker():
    with Worker(Limits()) as shared_worker:
        yield shared_worker


def place(path, kind="video"):
    return {"kind": kind, "path": str(path)}


def decode(worker, path, limits=None, **settings):
    chunks = []
    info = worker.decode(request(place(path), limits or worker.limits, **settings), chunks.append)
    return np.concatenate(chunks), info


def test_frames_and_times_travel_whole(worker, video):
    path, array = video
    frames, info = decode(worker, path)
    assert (frames == array).all()
    assert info["times"] == pytest.approx(np.arange(10) / 10)
    assert (info["width"], info["height"], info["codec"]) == (40, 24, "webp")


def test_settings_are_those_of_read_video(worker, video):
    path, _ = video
    settings = {"size": 12, "fps": 4.0, "start": 0.25, "end": 0.85}
    frames, _ = decode(worker, path, crop=True, **settings)
    wanted = reading.read_video(path, **settings)
    assert frames.shape == (len(wanted), 12, 12, 3)
    assert (frames == wanted[:, :, 4:16]).all()


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(frames=9), "data.limits.frames=9"),
        (Limits(pixels=959), "40x24 has more pixels than data.limits.pixels=959"),
        (Limits(bytes=10 * 24 * 40 * 3 - 1), "data.limits.bytes=28799 at 40x24"),
    ],
)
def test_limits_refuse_and_name_the_field(worker, video, limits, said):
    path, _ = video
    with pytest.raises(Unreadable, match=said):
        decode(worker, path, limits)
    exact = Limits(frames=10, pixels=960, bytes=10 * 24 * 40 * 3)
    assert len(decode(worker, path, exact)[0]) == 10


def test_a_resize_beyond_the_pixel_limit_is_refused(worker, video):
    with pytest.raises(Unreadable, match="resized to 167x100"):
        decode(worker, video[0], Limits(pixels=10_000), size=100)


def test_no_frame_in_the_wanted_seconds(worker, video):
    with pytest.raises(Unreadable, match="no frame in the wanted seconds"):
        decode(worker, video[0], start=5.0)


def test_a_hanging_file_is_given_up_and_the_worker_replaced(tmp_path, video):
    os.mkfifo(tmp_path / "hang.mp4")  # opening it waits for a writer for ever
    with Worker(Limits(seconds=0.3)) as worker:
        decode(worker, video[0])
        before = worker._process.pid
        started = time.monotonic()
        with pytest.raises(
            Disturbed, match=r"no answer in 3 s .* data\.limits\.seconds=0\.3"
        ) as said:
            decode(worker, tmp_path / "hang.mp4")
        assert 2 < time.monotonic() - started < 10 and not said.value.crash
        assert len(decode(worker, video[0])[0]) == 10
        assert worker._process.pid != before
        assert not pathlib.Path(f"/proc/{before}").exists()


def test_the_limit_is_of_processor_time(tmp_path):
    """A file that costs too much is refused; one that had to wait for others is not."""
    array = np.random.default_rng(0).integers(0, 256, (40, 240, 320, 3), np.uint8)
    writing.write_video(tmp_path / "a.webp", array, fps=10)
    # A second or more of a processor: the kernel counts in ticks, and a quick machine needs few.
    writing.write_video(tmp_path / "long.webp", np.tile(array, (5, 1, 1, 1)), fps=10)
    long = r"longer than data\.limits\.seconds=0\.1"
    with Worker(Limits(seconds=0.1)) as worker, pytest.raises(Unreadable, match=long):
        decode(worker, tmp_path / "long.webp")
    with Worker(Limits(seconds=2.0)) as worker:
        decode(worker, tmp_path / "a.webp", end=0.1)
        process = worker._process.pid
        os.kill(process, signal.SIGSTOP)
        timer = threading.Timer(2.5, os.kill, (process, signal.SIGCONT))
        timer.start()
        assert (decode(worker, tmp_path / "a.webp")[0] == array).all()
        assert worker._process.pid == process
        timer.join()


def test_what_a_decoder_started_ends_with_it(tmp_path, monkeypatch, video):
    """As a library does that calls a program for some format."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nsleep 300 &\necho $! > {tmp_path}/child\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with Worker(Limits()) as worker:
        decode(worker, video[0])
        child = int((tmp_path / "child").read_text())
        os.kill(child, 0)
    until = time.monotonic() + 10
    while alive(child) and time.monotonic() < until:
        time.sleep(0.02)
    assert not alive(child)


def alive(number):
    """Tells whether a process runs; one that waits for somebody to ask how it ended does not."""
    try:
        return pathlib.Path(f"/proc/{number}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("number", "said", "crash"),
    [
        (signal.SIGKILL, "was killed", False),
        (signal.SIGTERM, "was killed", False),
        (signal.SIGSEGV, "SIGSEGV", True),
        (signal.SIGABRT, "SIGABRT", True),
    ],
)
def test_a_dying_decoder_may_be_of_the_moment(tmp_path, video, number, said, crash):
    os.mkfifo(tmp_path / "hang.mp4")
    with Worker(Limits()) as worker:
        decode(worker, video[0])
        timer = threading.Timer(0.3, os.kill, (worker._process.pid, number))
        timer.start()
        with pytest.raises(Disturbed, match=said) as caught:
            decode(worker, tmp_path / "hang.mp4")
        timer.join()
        assert caught.value.crash == crash
        assert len(decode(worker, video[0])[0]) == 10


def test_an_interrupted_start_leaves_no_answer_behind(tmp_path, video, monkeypatch):
    real, calls = workers._header, []

    def header(process):
        calls.append(process)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return real(process)

    monkeypatch.setattr(workers, "_header", header)
    other = np.zeros((3, 24, 40, 3), np.uint8)
    other[:] = np.arange(3, dtype=np.uint8)[:, None, None, None] * 90
    writing.write_video(tmp_path / "b.webp", other, fps=10)
    with Worker(Limits()) as worker:
        with pytest.raises(KeyboardInterrupt):
            decode(worker, video[0])
        assert not pathlib.Path(f"/proc/{calls[0].pid}").exists()
        for path, array in (video, (tmp_path / "b.webp", other), video):
            assert (decode(worker, path)[0] == array).all()


def test_an_answer_that_is_neither_replaces_the_worker(tmp_path, video, monkeypatch):
    other = video[1][:3, :16, :16]
    writing.write_video(tmp_path / "b.webp", other, fps=10)
    with Worker(Limits()) as worker:
        decode(worker, video[0])
        with monkeypatch.context() as patch:
            patch.setattr(workers, "_header", lambda process: {"ready": True})
            with pytest.raises(KeyError):
                decode(worker, tmp_path / "b.webp")
        assert (decode(worker, video[0])[0] == video[1]).all()


def test_a_clock_that_runs_out_after_the_last_frame_harms_no_other_file(video):
    path, array = video
    with Worker(Limits()) as worker:
        decode(worker, path)  # started and warm
        worker.limits = Limits(seconds=0.05)
        slow = request(place(path), worker.limits)
        info = worker.decode(slow, lambda frames: time.sleep(1.0))  # its answer waits in the pipe
        assert len(info["times"]) == 10
        worker.limits = Limits()
        assert (decode(worker, path)[0] == array).all()


def test_memory_is_bounded(tmp_path):
    # A bitmap of one colour that claims 600 million pixels, within limits that allow its pixels
    # but not the memory: the header alone makes a decoder ask for 1.8 GB.
    picture = tmp_path / "bomb.ppm"
    with open(picture, "wb") as file:
        file.write(b"P6 30000 20000 255\n")
        file.truncate(30000 * 20000 * 3 + 19)
    bounded = Limits(pixels=700_000_000, bytes=1)
    with (
        Worker(Limits(pixels=1_000_000, bytes=1)) as worker,
        pytest.raises(Disturbed, match="memory") as caught,
    ):
        worker.decode(request(place(picture, "strip"), bounded), lambda frames: None)
    assert caught.value.crash  # the file's, if it comes to that in a fresh process as well


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a file that gives EIO")
def test_a_disk_that_does_not_answer_is_of_the_moment(worker, tmp_path):
    for name, kind in (("a.npy", "array"), ("a.png", "strip")):  # a video of 0 bytes is empty
        (tmp_path / name).symlink_to("/proc/self/mem")
        ref = place(tmp_path / name, kind) | {"key": None, "index": None}
        with pytest.raises(Disturbed, match="input/output error") as caught:
            worker.decode(request(ref, worker.limits), lambda frames: None)
        assert not caught.value.crash


def test_what_an_error_is_worth(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"1")

    def wrapped(cause):
        error = Unreadable("after 3 good frames")
        error.__cause__ = cause
        return error

    eio = OSError(errno.EIO, "Input/output error")
    for error, readable, absent in (
        (OSError(errno.ENFILE, ""), "moment", "moment"),
        (wrapped(OSError(errno.ESTALE, "")), "moment", "moment"),
        (wrapped(MemoryError()), "again?", "again?"),
        (OSError(errno.ENOENT, ""), "file", "file"),
        (OSError("image file is truncated"), "file", "file"),
        (wrapped(ValueError()), "file", "file"),
        (KeyError("x"), "file", "file"),
    ):
        assert faults.fault(error, str(path)) == readable, error
        assert faults.fault(error, str(tmp_path / "absent")) == absent, error
    assert faults.fault(eio, str(path)) == "again?"  # FFmpeg's word for a strange file
    if sys.platform == "linux":
        assert faults.fault(eio, "/proc/self/mem") == "moment"


def test_a_decoder_that_cannot_start_says_why(tmp_path, monkeypatch):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no such module >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with Worker(Limits()) as worker, pytest.raises(DataError, match="start: no such module"):
        decode(worker, tmp_path / "x")


def test_the_process_loads_no_jax_and_needs_no_main_guard(video):
    script = (
        "import sys\n"
        "from vidgen.data.workers import Worker, request\n"
        "from vidgen.data.limits import Limits\n"
        "w = Worker(Limits())\n"
        "n = []\n"
        f"w.decode(request({place(video[0])!r}, w.limits), lambda f: n.append(len(f)))\n"
        "maps = open(f'/proc/{w._process.pid}/maps').read() if sys.platform == 'linux' else ''\n"
        "w.close()\n"
        "print(sum(n), 'jaxlib' in maps, sorted({'jax', 'av'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-"],
        input=script, capture_output=True, text=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "10 False []", done.stderr


TRUNCATED = ["friday.mp4", "demo.mp4", "again.mkv", "bear-vp9.webm", "test.avi", "chi.gif"]


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.995])
@pytest.mark.parametrize("name", TRUNCATED)
def test_truncated_files_are_refused_with_a_reason(worker, shared, tmp_path, name, share):
    data = (shared / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(Unreadable, match=r"cut off|invalid data"):
        decode(worker, path, size=16)


def test_riff_is_not_always_video():
    head = b"RIFF\x24\x00\x00\x00%sfmt "
    assert [starts_like_video(head % kind) for kind in (b"WAVE", b"AVI ", b"WEBP")] == [0, 1, 1]


def test_whole_files_are_not_taken_for_truncated(shared):
    for path in sorted(shared.iterdir()):
        with open(path, "rb") as file:
            assert missing(file, path.stat().st_size) == "", path.name
            file.seek(0)
            assert starts_like_video(file.read(16)), path.name


def grey(count=8):
    return np.stack([np.full((32, 32, 3), 30 * n, np.uint8) for n in range(count)])


@pytest.mark.parametrize("suffix", ["gif", "mp4", "mkv", "avi", "wmv"])
@pytest.mark.parametrize("behind", [b"\0" * 40, b"abcdefghijklmnopqrst" * 5], ids=["zeros", "text"])
def test_bytes_behind_the_end_do_no_harm(worker, tmp_path, suffix, behind):
    path = tmp_path / f"a.{suffix}"
    if suffix in ("avi", "wmv"):
        with av.open(str(path), "w") as container:
            stream = container.add_stream({"avi": "mpeg4", "wmv": "wmv2"}[suffix], rate=10)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for one in grey():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(one, format="rgb24")))
            container.mux(stream.encode())
    else:
        writing.write_video(path, grey(), 10)
    whole = path.read_bytes()
    path.write_bytes(whole + behind)
    assert len(decode(worker, path, size=32)[0]) == 8
    path.write_bytes(whole[:-40])
    with pytest.raises(Unreadable, match="cut off"):
        decode(worker, path, size=32)
    if suffix == "avi":  # written to a pipe, whose length was not known
        path.write_bytes(whole[:4] + b"\xff\xff\xff\xff" + whole[8:])
        assert len(decode(worker, path, size=32)[0]) == 8


@pytest.mark.parametrize("table, at", [(b"stts", 12), (b"ctts", 12), (b"stsz", 12), (b"stsc", 16)])
def test_an_index_that_contradicts_itself_is_damage(worker, tmp_path, table, at):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for one in grey():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(one, format="rgb24")))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    assert len(decode(worker, path, size=32)[0]) == 8
    data[data.index(table) + at + 3] ^= 1  # the last byte of a number of samples
    path.write_bytes(data)
    with pytest.raises(Unreadable, match="its index contradicts itself"):
        decode(worker, path, size=32)


def test_the_index_of_sound_is_not_looked_at(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream, sound = container.add_stream("libx264", rate=10), container.add_stream("aac", 44100)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        sound.layout = "stereo"
        for n, one in enumerate(grey()):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(one, format="rgb24")))
            silence = np.zeros((2, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = 44100, 1024 * n
            container.mux(sound.encode(frame))
        container.mux([*stream.encode(), *sound.encode()])
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    data[data.rindex(b"stts") + 15] ^= 1
    assert missing(io.BytesIO(data), len(data)) == ""
    data[data.index(b"stts") + 15] ^= 1
    assert "contradicts itself" in missing(io.BytesIO(data), len(data))


def test_boxes_that_are_not_known_are_stepped_over(tmp_path):
    writing.write_video(tmp_path / "a.mp4", grey(), 10)
    data = (tmp_path / "a.mp4").read_bytes()
    at = int.from_bytes(data[:4], "big")
    for box in (b"\0\0\0\x10jumb12345678", b"\0\0\0\x08bloc"):
        more = data[:at] + box + data[at:]
        assert missing(io.BytesIO(more), len(more)) == ""
        assert "cut off" in missing(io.BytesIO(more[:-50]), len(more) - 50)


def test_a_gif_is_followed_to_its_trailer(tmp_path):
    """Through colours of its own for each frame, comments, and codes in which the byte is."""
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)) for _ in range(3)]
    frames[0].save(
        tmp_path / "a.gif",
        save_all=True,
        append_images=frames[1:],
        duration=50,
        comment=b"a;b" * 99,
    )
    data = (tmp_path / "a.gif").read_bytes()
    assert data.count(b";") > 9 and missing(io.BytesIO(data), len(data)) == ""
    padded = data[:-1] + b"\0\0;"  # as some writers do between blocks
    assert missing(io.BytesIO(padded), len(padded)) == ""
    for length in (12, 200, len(data) // 2, len(data) - 1):
        assert "cut off" in missing(io.BytesIO(data[:length]), length)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_still_picture_in_front_is_no_video(tmp_path, name):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        streams = [container.add_stream(codec, rate=10) for codec in ("mjpeg", "mpeg4", "mpeg4")]
        for stream in streams:
            stream.width, stream.height = 32, 32
            stream.pix_fmt = "yuvj420p" if stream is streams[0] else "yuv420p"
        for stream, count in zip(streams, (1, 8, 8), strict=True):
            for one in grey(count):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(one, format="rgb24")))
            container.mux(stream.encode())
    info = {}
    assert len(list(video_decoding.timed_frames(path, info=info))) == 8
    assert info["codec"] == "mpeg4" and info["tracks"] == 3


def test_an_animation_behind_a_still_picture(tmp_path):
    first, *others = map(Image.fromarray, grey())
    first.save(tmp_path / "a.avif", save_all=True, append_images=others, duration=100)
    data = bytearray((tmp_path / "a.avif").read_bytes())
    assert data[8:12] == b"avis"
    data[8:12] = b"avif"  # what a file is called whose still picture is meant to be shown first
    (tmp_path / "a.avif").write_bytes(data)
    assert len(reading.read_video(tmp_path / "a.avif")) == 8
    with open(tmp_path / "a.avif", "rb") as file:
        assert len(list(video_decoding.timed_frames(file))) == 8


def test_sound_without_pictures_is_refused(worker, shared):
    with pytest.raises(Unreadable, match="no video stream, only sound"):
        decode(worker, shared / "sample_audio_only.mp4")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"all text, no video\n" * 99, "invalid data"),
        (b"#EXTM3U\n#EXTINF:1,\nother.ts\n", "no video that FFmpeg can open"),
        (b"ffconcat version 1.0\nfile other.mp4\n", "no video that FFmpeg can open"),
        (b"RIFF\x04\x00\x00\x00WEBP", "."),
        (b"\x1aE\xdf\xa3" + b"\xff" * 60, "."),
        (b"\x00\x00\x00\x08ftyp", "no index"),
    ],
)
def test_what_is_no_video_has_a_reason(worker, tmp_path, data, said):
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(Unreadable, match=said) as caught:
        decode(worker, tmp_path / "a.mp4")
    assert 5 < len(str(caught.value)) < 200


def test_each_keeps_order_of_results_and_reasons_apart(tmp_path, video):
    told = {}
    seen = []
    places = [place(video[0]), place(tmp_path / "absent.mp4"), place(video[0])]

    def job(slot, worker, number):
        return len(worker.decode(request(places[number], worker.limits), lambda f: None)["times"])

    results, refused = each(
        range(3), job, limits=Limits(), workers=2, refuse=told.__setitem__,
        progress=lambda done, total, text: seen.append((done, total, text)), text="testing",
    )  # fmt: skip
    assert results == {0: 10, 2: 10}
    assert told == refused and list(refused) == [1] and "no such file" in refused[1]
    assert seen[-1] == (3, 3, "testing")


def test_each_does_again_alone_what_was_disturbed():
    """And tells what is the file's, what was of the moment, and what stays."""
    killed, crashed = Disturbed("was killed", crash=False), Disturbed("SIGSEGV", crash=True)
    ends = {
        0: [None],
        1: [killed, None],
        2: [crashed, None],
        3: [crashed, crashed],
        4: [killed, crashed, crashed],
        5: [killed, crashed, None],
        6: [killed, Unreadable("empty")],
    }
    seen, running, busy = [], [], threading.Lock()

    def job(slot, worker, number):
        with busy:
            running.append(number)
            alone = len(running) == 1
            seen.append((number, worker, alone))
        time.sleep(0.05)
        end = ends[number].pop(0)
        with busy:
            running.remove(number)
        if end:
            raise end
        return number

    results, refused = each(range(7), job, limits=Limits(), workers=2)
    assert results == {n: n for n in (0, 1, 2, 5)}
    assert refused == {3: "SIGSEGV", 4: "SIGSEGV", 6: "empty"} and not any(ends.values())
    assert all(alone for _, _, alone in seen[7:])
    assert len({worker for _, worker, _ in seen[7:]}) == len(seen[7:])  # each in a fresh process
    ends |= {0: [None], 1: [killed, killed], 2: [None]}
    with pytest.raises(DataError, match=r"^clip 1: was killed, again when tried alone") as caught:
        each(range(3), job, limits=Limits(), workers=2, name=lambda number: f"clip {number}")
    assert "data.limits.seconds" in caught.value.hint


def test_each_ends_its_processes_when_something_raises(tmp_path):
    os.mkfifo(tmp_path / "hang.mp4")
    pids = []
    both = threading.Barrier(2)

    def job(slot, worker, number):
        worker._start()
        pids.append(worker._process.pid)
        both.wait(timeout=20)
        if number == 1:
            raise KeyboardInterrupt
        worker.decode(request(place(tmp_path / "hang.mp4"), worker.limits), lambda f: None)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        each([0, 1], job, limits=Limits(), workers=2, refuse=lambda number, why: None)
    assert time.monotonic() - started < 10
    assert len(pids) == 2 and not any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids)


def transport_stream(path, count=25, width=64, start=0):
    """Writes a `.ts` of 25 frames a second whose first time is that of frame `start`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, 64, "yuv420p"
        for n in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((64, width, 3), n, np.uint8), format="rgb24")
            frame.pts, frame.time_base = start + n, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


def test_times_that_jump_back_are_refused(worker, tmp_path):
    one = transport_stream(tmp_path / "a.ts")
    (tmp_path / "cc.ts").write_bytes(one + one)
    for fps in (None, 25.0):
        assert len(decode(worker, tmp_path / "a.ts", fps=fps)[0]) == 25
        with pytest.raises(Unreadable, match=r"times jump back by 0\.9\d s after 25 good frames"):
            decode(worker, tmp_path / "cc.ts", fps=fps)


def test_a_change_of_the_frame_size_is_refused(worker, tmp_path):
    first = transport_stream(tmp_path / "a.ts")
    second = transport_stream(tmp_path / "b.ts", width=128, start=25)
    (tmp_path / "cc.ts").write_bytes(first + second)
    for size in (None, 16):
        with pytest.raises(Unreadable, match="changes its frame size half way after 25 good"):
            decode(worker, tmp_path / "cc.ts", size=size)


def test_the_good_part_of_a_damaged_file_can_be_cut_out(worker, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), np.uint8)
    writing.write_video(tmp_path / "a.mp4", array, fps=25)
    whole, _ = decode(worker, tmp_path / "a.mp4")
    data, seen = (tmp_path / "a.mp4").read_bytes(), 0
    for at in np.linspace(len(data) // 2, len(data) - 5000, 16).astype(int):
        (tmp_path / "b.mp4").write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        try:
            decode(worker, tmp_path / "b.mp4")
        except Unreadable as error:
            found = re.search(r"after (\d+) good frames \((.*) s\)", str(error))
            assert found, error
            good, end = int(found[1]), float(found[2])
            frames, _ = decode(worker, tmp_path / "b.mp4", end=end)
            assert len(frames) == good - 1 > 5 and (frames == whole[: good - 1]).all()
            seen += 1
    assert seen >= 3


def test_a_rewritten_array_is_read_again(worker, tmp_path):
    path = tmp_path / "a.npz"
    ref = place(path, "array") | {"key": "v", "index": None}
    for n in range(2):
        array = np.full((5, 8, 8, 3), n, np.uint8)
        np.savez(path, v=array)
        os.utime(path, (n + 1, n + 1))
        chunks = []
        worker.decode(request(ref, worker.limits), chunks.append)
        assert (np.concatenate(chunks) == array).all()


def test_the_clips_of_an_array_in_an_archive_are_read_once(tmp_path, monkeypatch):
    inner = io.BytesIO()
    np.savez(inner, v=np.arange(2 * 5 * 64).astype(np.uint8).reshape(2, 5, 8, 8))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("m.npz", inner.getvalue())
    opened = []
    real = decoding._open
    monkeypatch.setattr(decoding, "_open", lambda *a: opened.append(a) or real(*a))
    for index in range(2):
        ref = {"kind": "array", "path": str(tmp_path / "a.zip"), "archive": "zip"}
        ref |= {"member": "m.npz", "key": "v", "index": index}
        _, timed = decoding.decode(request(ref, Limits()))
        (first, *_) = timed
        assert first[1][0, 1, 0] == index * 320 % 256 + 1
    assert len(opened) == 1


def test_a_rate_that_is_none_is_refused(worker, tmp_path):
    np.savez(tmp_path / "a.npz", v=np.zeros((5, 8, 8), np.uint8), fps=np.float64(-5))
    ref = place(tmp_path / "a.npz", "array") | {"key": "v", "index": None}
    with pytest.raises(Unreadable, match=r"its fps is -5\.0"):
        worker.decode(request(ref, worker.limits), lambda frames: None)


def test_grey_of_16_bits_keeps_its_levels(worker, tmp_path):
    levels = np.linspace(0, 65535, 16 * 64).astype(">u2").reshape(16, 64)
    (tmp_path / "a.pgm").write_bytes(b"P5\n64 16\n65535\n" + levels.tobytes())
    Image.fromarray(levels.astype(np.uint16)).save(tmp_path / "a.png")
    wanted = (levels // 256).reshape(16, 4, 16).swapaxes(0, 1)
    for name in ("a.pgm", "a.png"):
        chunks = []
        worker.decode(request(place(tmp_path / name, "strip"), worker.limits), chunks.append)
        frames = np.concatenate(chunks)
        assert (frames == wanted[..., None]).all(), name


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pictures_without_a_white_are_refused(tmp_path, dtype):
    Image.fromarray(np.zeros((16, 64), dtype)).save(tmp_path / "a.tiff")
    with pytest.raises(Unreadable, match="pictures have 8 or 16 bits"):
        decoding.picture_header(place(tmp_path / "a.tiff", "strip"), Limits())


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((64, 640), (64, 10)), ((640, 64), (64, 10)), ((64, 192), (0, 0)), ((100, 450), (0, 0))],
)
def test_strip_shape(size, wanted):
    assert strip_shape(*size) == wanted


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        ((5, 8, 8), None),
        ((5, 8, 8, 3), None),
        ((5, 3, 8, 8), None),
        ((5, 8, 8, 9), 5),
        ((20, 300, 8, 8), 20),
        ((2, 5, 8, 8, 1), 2),
        ((20, 10000, 8, 8, 1), 20),
        ((2, 5, 3, 8, 8), 2),
        ((2, 3, 5, 8, 8), 2),
    ],
)
def test_array_clips(shape, count):
    assert array_clips(shape, np.dtype(np.uint8)) == count


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize(
    ("axes", "many"), [("tchw", False), ("ntchw", True), ("ncthw", True), ("nthwc", True)]
)
def test_channels_may_stand_before_places(worker, tmp_path, suffix, axes, many):
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (2, 5, 16, 16, 3), np.uint8)  # nthwc
    array = np.transpose(clips if many else clips[1], ["nthwc"[not many :].index(a) for a in axes])
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, np.ascontiguousarray(array))
    else:
        np.savez(path, video=array)
    ref = {**place(path, "array"), "key": "video" if suffix == "npz" else None}
    found = []
    worker.decode(
        request({**ref, "index": 1 if many else None}, worker.limits, size=16), found.append
    )
    np.testing.assert_array_equal(np.concatenate(found), clips[1])


@pytest.mark.parametrize(
    ("shape", "dtype", "said"),
    [
        ((5, 8), "u1", "shape"),
        ((0, 8, 8), "u1", "shape"),
        ((-5, 8, 8), "u1", "shape"),
        ((5, 8, 8), "f4", "float32"),
        ((3, 5, 8, 8), "u1", r"shape \[3, 5, 8, 8\]: are there channels, or is it of grey clips"),
        ((9, 4, 8, 8), "u1", "are there channels"),
        ((20, 10000, 8, 8), "u1", "10000 clips of 20 frames, it seems"),
        ((48, 64, 3, 20), "u1", "third axis"),
        ((2, 5, 8, 8, 8), "u1", "no axis of 1, 3 or 4 channels"),
        ((2, 2, 5, 8, 8, 3), "u1", "clips are"),
    ],
)
def test_array_clips_refuses(shape, dtype, said):
    with pytest.raises(Unreadable, match=said):
        array_clips(shape, np.dtype(dtype))


def test_most_flipped_bits_are_noticed(worker, tmp_path, shared):
    data = (shared / "demo.mp4").read_bytes()
    refused = 0
    for at in np.linspace(5000, len(data) - 8000, 20).astype(int):
        (tmp_path / "b.mp4").write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        try:
            decode(worker, tmp_path / "b.mp4", size=16)
        except Unreadable as error:
            refused += 1
            assert "good frames" in str(error)
    assert refused >= 17  # FFmpeg's own default notices one, err_detect without flags 15


def test_what_is_tried_again_shows_progress_which_may_end_it():
    """A decoder that is stopped gives no answer for as long as a file may take by the clock."""
    limits, told = Limits(seconds=5.0), []

    def job(slot, worker, number):
        if number not in told:
            told.append(number)
            raise Disturbed("killed", crash=False)
        process = worker._start()
        os.kill(process.pid, signal.SIGSTOP)
        return worker.decode({"what": "nothing"}, print)

    def progress(done, total, text):
        if told:
            told.append("heard")
        if told.count("heard") > 3:
            raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        each([7], job, limits=limits, workers=1, progress=progress)
    assert time.monotonic() - begin < 40  # by the clock the decoder would have 50 seconds
