"""Reading video files: every frame, at its time, upright, opaque, in its colours."""

import contextlib
import pathlib
import re
import struct
import types
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from vidgen.data import workers
from vidgen.errors import DataError
from vidgen.video import conversion, decoding, packets, reading, resampling, writing

SHARED = pathlib.Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def shared():
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    return SHARED


def smooth(count=6, height=24, width=40):
    """Slowly varying colours, which lossy codecs keep."""
    t, y, x = np.meshgrid(
        np.arange(count) / count,
        np.arange(height) / height,
        np.arange(width) / width,
        indexing="ij",
    )
    return np.stack([255 * x, 255 * y, 255 * t], -1).astype(np.uint8)


def encode(
    path,
    arrays,
    codec="ffv1",
    pix_fmt="bgr0",
    pts=None,
    rate=25,
    options=None,
    format="rgb24",
    layout=None,
    kind=None,
):
    """Writes arrays with PyAV alone, one tick of `pts` being a millisecond."""
    with av.open(str(path), "w", format=kind, options=layout or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height = arrays[0].shape[1], arrays[0].shape[0]
        stream.pix_fmt = pix_fmt
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for n, array in enumerate(arrays):
            frame = av.VideoFrame.from_ndarray(array, format=format)
            if pts is not None:
                frame.pts, frame.time_base = pts[n], stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "bgr0"])
def test_resize_is_antialiased_on_both_paths(tmp_path, pix_fmt):
    # One pixel wide stripes: anything that skips pixels sees black or white, or beats between them.
    stripes = np.zeros((64, 100, 3), np.uint8)
    stripes[:, ::2] = 255
    encode(tmp_path / "a.mkv", [stripes], pix_fmt=pix_fmt)
    small = reading.read_video(tmp_path / "a.mkv", size=16)
    assert small.shape == (1, 16, 25, 3)
    assert np.abs(small[:, :, 2:-2].astype(int) - 127).max() < 16


def test_resize_agrees_with_an_area_mean(tmp_path):
    picture = np.kron(np.random.default_rng(0).integers(0, 256, (8, 12, 3)), np.ones((8, 8, 1)))
    encode(tmp_path / "a.mkv", [picture.astype(np.uint8)], pix_fmt="yuv444p")
    small = reading.read_video(tmp_path / "a.mkv", size=8)[0].astype(float)
    # A triangle of twice the step: each pixel takes 3/4 of its own block and 1/8 of its neighbours.
    kernel = np.array([1, 6, 1]) / 8
    blocks = np.pad(picture[::8, ::8], ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = sum(kernel[i] * blocks[i : i + 8] for i in range(3))
    wanted = sum(kernel[i] * rows[:, i : i + 12] for i in range(3))
    assert np.abs(small - wanted)[1:-1, 1:-1].mean() < 2.5


ORIENTATIONS = {
    (1, 0, 0, 1): lambda a: a,
    (0, 1, -1, 0): lambda a: np.rot90(a, -1),
    (-1, 0, 0, -1): lambda a: np.rot90(a, 2),
    (0, -1, 1, 0): lambda a: np.rot90(a, 1),
    (-1, 0, 0, 1): np.fliplr,
    (1, 0, 0, -1): np.flipud,
    (0, 1, 1, 0): lambda a: a.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda a: np.rot90(a.transpose(1, 0, 2), 2),
}


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_rotation_metadata_is_obeyed(tmp_path, matrix):
    writing.write_video(tmp_path / "a.mp4", smooth(2), fps=25)
    stored = reading.read_video(tmp_path / "a.mp4")
    data = (tmp_path / "a.mp4").read_bytes()
    a, b, c, d = matrix
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    at = data.index(identity, data.index(b"tkhd"))
    (tmp_path / "b.mp4").write_bytes(data[:at] + turned + data[at + 36 :])
    read = reading.read_video(tmp_path / "b.mp4")
    wanted = np.stack([ORIENTATIONS[matrix](frame) for frame in stored])
    assert read.shape == wanted.shape
    assert (read == wanted).all()
    info = reading.probe(tmp_path / "b.mp4")
    assert (info.height, info.width) == wanted.shape[1:3]


@pytest.mark.parametrize("suffix", ["gif", "webp", "apng"])
def test_transparency_lies_over_the_background(tmp_path, suffix):
    picture = np.zeros((16, 16, 4), np.uint8)
    picture[:, :8] = (255, 0, 0, 255)
    other = picture.copy()
    other[8:, :8] = (0, 0, 255, 255)
    first, second = Image.fromarray(picture), Image.fromarray(other)
    kind = {"gif": "GIF", "webp": "WEBP", "apng": "PNG"}[suffix]
    options = {"gif": {"disposal": 2}, "webp": {"lossless": True}, "apng": {}}[suffix]
    path = tmp_path / f"a.{suffix}"
    first.save(path, kind, save_all=True, append_images=[second], duration=100, **options)
    if suffix == "webp":  # libwebp forgets to flag the transparency of such a small animation
        data = bytearray((tmp_path / "a.webp").read_bytes())
        data[20] |= 0x10
        (tmp_path / "a.webp").write_bytes(data)
    video = reading.read_video(tmp_path / f"a.{suffix}", background=(0, 200, 0))
    assert video.shape == (2, 16, 16, 3)
    assert (video[:, :, 8:] == (0, 200, 0)).all()
    assert (video[:, :8, :8] == (255, 0, 0)).all()
    assert (video[1, 8:, :8] == (0, 0, 255)).all()


@pytest.mark.parametrize("codec, name", [("libvpx-vp9", "a.webm"), ("libvpx", "b.webm")])
def test_transparency_of_webm_lies_over_the_background(tmp_path, codec, name):
    """It lies in data beside the frames, which FFmpeg's own decoders drop."""
    picture = np.full((64, 64, 4), (0, 200, 50, 255), np.uint8)
    picture[:, :32, 3] = 0
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"auto-alt-ref": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuva420p"
        stream.bit_rate, stream.metadata["alpha_mode"] = 1_000_000, "1"
        for _ in range(50):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgba")))
        container.mux(stream.encode())
    for seconds, count in ({}, 50), ({"start": 1.2, "end": 1.6}, 10):
        video = reading.read_video(tmp_path / name, background=(255, 0, 255), **seconds)
        assert len(video) == count
        assert np.abs(video[:, :, 4:28].astype(int) - (255, 0, 255)).max() <= 2
        assert np.abs(video[:, :, 36:60].astype(int) - (0, 200, 50)).max() <= 4


def counted(count, height=48):
    """Frames that tell their number by their brightness."""
    return [np.full((height, 64, 3), 4 * n + 20, np.uint8) for n in range(count)]


@pytest.mark.parametrize(
    "name, codec, rate",
    [("a.h264", "libx264", 50), ("a.hevc", "libx265", 30), ("a.m2v", "mpeg2video", 50)],
)
def test_a_bare_stream_has_the_rate_that_it_states(tmp_path, name, codec, rate):
    options = {"x265-params": "log-level=error"} if codec == "libx265" else None
    encode(tmp_path / name, counted(40), codec, "yuv420p", rate=rate, options=options)
    assert reading.probe(tmp_path / name).fps == rate
    first, last = round(0.4 * rate), round(0.6 * rate)
    video = reading.read_video(tmp_path / name, start=0.4, end=0.6)
    wanted = np.arange(first, last) * 4 + 20
    assert np.abs(video.mean((1, 2, 3)) - wanted).max() < 2


def test_behind_a_lost_frame_no_seconds_are_counted(tmp_path):
    """Frames of a bare stream have no times: those behind damage would seem too early."""
    rng = np.random.default_rng(0)
    frames = [(f + rng.integers(-8, 8, f.shape)).astype(np.uint8) for f in counted(50)]
    encode(tmp_path / "a.m2v", frames, "mpeg2video", "yuv420p", options={"g": "10"})
    with av.open(str(tmp_path / "a.m2v")) as container:
        packets = [bytes(packet) for packet in container.demux(video=0)]
    packets[25] = packets[25][:12] + rng.bytes(len(packets[25]) - 12)
    (tmp_path / "a.m2v").write_bytes(b"".join(packets))
    assert len(reading.read_video(tmp_path / "a.m2v", end=0.8)) == 20
    with pytest.raises(DataError, match="good frames"):
        reading.read_video(tmp_path / "a.m2v", start=1.6, end=1.9)


def test_parts_that_matroska_skips_are_missed(tmp_path):
    """It goes on where it finds a whole part again, and frames in between are gone."""
    path = tmp_path / "a.mkv"
    clusters = {"cluster_time_limit": "400"}
    rng = np.random.default_rng(0)
    frames = [(f + rng.integers(-8, 8, f.shape)).astype(np.uint8) for f in counted(50)]
    encode(path, frames, "libx264", "yuv420p", options={"g": "10"}, layout=clusters)
    data = bytearray((path).read_bytes())
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    data[places[22] : places[25]] = bytes(places[25] - places[22])
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"invalid data .* good frames"):
        reading.read_video(path)
    for start, end in ((0.0, 0.72), (1.6, 1.8)):
        video = reading.read_video(path, start=start, end=end)
        wanted = np.arange(round(start * 25), round(end * 25)) * 4 + 20
        assert len(video) == len(wanted) and np.abs(video.mean((1, 2, 3)) - wanted).max() < 3
    # Bytes behind the end are skipped, too, and nothing is missing.
    encode(path, frames, "libx264", "yuv420p", options={"g": "10"}, layout=clusters)
    with path.open("ab") as file:
        file.write(bytes(50))
    assert len(reading.read_video(path)) == 50


@pytest.mark.parametrize("name", ["a.m2v", "a.mpg"])
@pytest.mark.parametrize("share", [0.52, 0.61, 0.77])
def test_a_recording_that_was_cut_off_ends_with_its_last_whole_frame(tmp_path, name, share):
    """In the middle of a packet; what is shown after it goes, too, so that no frame is missing."""
    rng = np.random.default_rng(0)
    frames = [(f + rng.integers(-8, 8, f.shape)).astype(np.uint8) for f in counted(50)]
    encode(tmp_path / name, frames, "mpeg2video", "yuv420p", options={"g": "10", "bf": "2"})
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: round(share * len(data))])
    video = reading.read_video(tmp_path / name)
    assert 10 < len(video) < 50
    assert np.abs(video.mean((1, 2, 3)) - (np.arange(len(video)) * 4 + 20)).max() < 4


def pq(light):
    """Codes light in cd/m2, as SMPTE ST 2084 has it."""
    y = (np.maximum(light, 0) / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def hlg(light):
    """Codes light in cd/m2 of a display of 1000, as ARIB STD-B67 has it."""
    luma = np.maximum(light @ [0.2627, 0.678, 0.0593], 1e-12) / 1000
    scene = np.maximum(light, 0) / 1000 * luma[..., None] ** (1 / 1.2 - 1)
    bright = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright)


@pytest.mark.parametrize("pix_fmt", ["yuv444p10le", "yuv420p10le"])
@pytest.mark.parametrize("transfer, coded", [("smpte2084", pq), ("arib-std-b67", hlg)])
def test_high_dynamic_range_becomes_what_a_display_shows(tmp_path, transfer, coded, pix_fmt):
    levels = np.array([0, 30, 64, 128, 191, 255])
    patches = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 3)
    # Steps of 10 bits of PQ are steps of light, in which a dark channel beside bright ones drowns.
    exact = patches.min(-1) >= patches.max(-1) / 2
    linear = np.where(
        patches <= 0.04045 * 255, patches / 255 / 12.92, ((patches / 255 + 0.055) / 1.055) ** 2.4
    )
    to_2020 = [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
    shown = coded(203 * linear @ np.transpose(to_2020))
    luma = shown @ [0.2627, 0.678, 0.0593]
    blue, red = (shown[:, 2] - luma) / 1.8814, (shown[:, 0] - luma) / 1.4746
    planes = np.stack([876 * luma + 64, 896 * blue + 512, 896 * red + 512]).round()
    planes = planes.clip(0, 1023).astype(np.uint16).reshape(3, 12, 18).repeat(16, 1).repeat(16, 2)
    options = {
        "x265-params": "log-level=error:bframes=0:lossless=1:colorprim=bt2020:colormatrix=bt2020nc:"
        f"range=limited:transfer={transfer}"
    }
    frame = av.VideoFrame(18 * 16, 12 * 16, pix_fmt)
    frame.pts = 0
    for plane, values in zip(frame.planes, planes, strict=True):
        values = values[:: frame.height // plane.height, :: frame.width // plane.width]
        row = np.zeros((plane.height, plane.line_size // 2), np.uint16)
        row[:, : plane.width] = values
        plane.update(row.tobytes())
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx265", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pix_fmt
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video = reading.read_video(tmp_path / "a.mkv")
    found = video[0, 8::16, 8::16].reshape(-1, 3).astype(int)
    assert np.abs(found - patches)[exact].max() <= 2 and exact.sum() > 30
    assert np.abs(found - patches).max() <= 20


@pytest.mark.parametrize("pix_fmt", ["gray10le", "yuva444p10le"])
def test_high_dynamic_range_that_is_not_taken_is_refused_by_name(tmp_path, pix_fmt):
    frame = av.VideoFrame(32, 32, pix_fmt)
    frame.pts, frame.color_trc = 0, 16
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, pix_fmt
        stream.codec_context.color_trc = 16
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(DataError, match=f"high dynamic range, as {pix_fmt}"):
        reading.read_video(tmp_path / "a.mkv")


def test_an_avif_of_high_dynamic_range_is_refused(tmp_path):
    """Pillow gives its levels without a word; the box that tells is of ISO/IEC 14496-12."""
    pictures = [Image.new("RGB", (32, 32), (n, 100, 50)) for n in (0, 200)]
    pictures[0].save(tmp_path / "a.avif", save_all=True, append_images=pictures[1:], duration=100)
    data = (tmp_path / "a.avif").read_bytes()
    at = data.index(b"colrnclx") + 10
    assert len(reading.read_video(tmp_path / "a.avif")) == 2
    for transfer in (16, 18):
        changed = data[:at] + transfer.to_bytes(2, "big") + data[at + 2 :]
        (tmp_path / "b.avif").write_bytes(changed)
        with pytest.raises(DataError, match="AVIF of high dynamic range"):
            reading.read_video(tmp_path / "b.avif")


def test_what_is_brighter_than_white_is_white():
    codes = np.round(65280 * pq(np.array([203.0, 1000.0, 10000.0])[:, None].repeat(3, 1)))
    assert (conversion.standard_range(codes[None].astype(np.uint16), 16) == 255).all()


def test_grey_becomes_rgb_exactly(tmp_path):
    grey = np.arange(240, dtype=np.uint8).reshape(12, 20)
    encode(tmp_path / "a.mkv", [grey], pix_fmt="gray", format="gray")
    video = reading.read_video(tmp_path / "a.mkv")
    assert (video == grey[None, :, :, None]).all()


@pytest.mark.parametrize("pix_fmt, black, white", [("gray", 16, 235), ("gray10le", 64, 940)])
def test_grey_of_limited_range_is_expanded(tmp_path, pix_fmt, black, white):
    kind = np.uint8 if pix_fmt == "gray" else np.uint16
    levels = np.linspace(black, white, 64).round().astype(kind)
    frame = av.VideoFrame(64, 64, pix_fmt)
    frame.planes[0].update(np.tile(levels, 64).tobytes())
    for limits, wanted in (1, np.linspace(0, 255, 64)), (2, np.linspace(16, 235, 64)):
        with av.open(str(tmp_path / "a.mkv"), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 64, pix_fmt
            stream.codec_context.color_range = frame.color_range = limits
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        assert np.abs(reading.read_video(tmp_path / "a.mkv")[0, 8, :, 1] - wanted).max() < 1.2


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv422p", "yuvj420p", "yuv444p12le"])
def test_pixel_formats_keep_their_colours(tmp_path, pix_fmt):
    video = smooth()
    codec = "mjpeg" if pix_fmt == "yuvj420p" else "ffv1"
    encode(tmp_path / "a.mkv", video, codec, pix_fmt)
    read = reading.read_video(tmp_path / "a.mkv")
    assert np.abs(read.astype(int) - video).mean() < 3


def test_frames_are_taken_by_their_times_not_their_number(tmp_path):
    # Grey level = time in tens of milliseconds; the rate drops from 50 to 10 in the middle.
    pts = [0, 20, 40, 60, 80, 100, 200, 300, 400]
    arrays = [np.full((16, 16, 3), p // 2, np.uint8) for p in pts]
    encode(tmp_path / "a.mkv", arrays, pts=pts, rate=50)
    every = reading.read_video(tmp_path / "a.mkv")[:, 0, 0, 0].tolist()
    assert every == [p // 2 for p in pts]
    at20 = reading.read_video(tmp_path / "a.mkv", fps=20)[:, 0, 0, 0].astype(int) * 2
    wanted = [min(pts, key=lambda p: (abs(p - t), p)) for t in range(0, 401, 50)]
    assert at20.tolist() == wanted
    part = reading.read_video(tmp_path / "a.mkv", start=0.06, end=0.3)[:, 0, 0, 0] * 2
    assert part.tolist() == [60, 80, 100, 200]


def test_seeking_gives_the_frames_of_a_full_decode(tmp_path):
    arrays = [np.full((16, 16, 3), 2 * n, np.uint8) for n in range(120)]
    encode(tmp_path / "a.mp4", arrays, "libx264", "yuv444p", options={"g": "30", "crf": "0"})
    full = reading.read_video(tmp_path / "a.mp4")
    part = reading.read_video(tmp_path / "a.mp4", start=3.0, end=4.0)
    assert len(part) == 25 and (part == full[75:100]).all()


def numbered(path, codec, gop, count=150, options=None, format=None, layout=None, without=()):
    """Writes frames of which each shows its number in bits, at 25 a second."""
    with av.open(str(path), "w", format=format, options=layout or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        stream.bit_rate = 2_000_000
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = int((options or {}).get("bf", 2))
        for n in sorted(set(range(count)) - set(without)):
            bits = np.repeat([255 * (n >> b & 1) for b in range(8)], 16)
            bits = np.broadcast_to(bits[None, :, None], (64, 128, 3)).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(bits, format="rgb24")
            frame.pts = n
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def numbers(video):
    """Returns the numbers that frames show."""
    bits = video[:, 32, 8::16, 0] > 128
    return (bits @ 2 ** np.arange(8)).tolist()


H265 = {"x265-params": "log-level=error:keyint=25"}


@pytest.mark.parametrize(
    "name, codec, gop, options",
    [
        ("a.ts", "libx264", 50, {}),
        ("open.m2ts", "libx264", 25, {"x264-params": "open-gop=1:bframes=3"}),
        ("a.mpg", "mpeg2video", 15, {}),
        ("a.vob", "mpeg2video", 15, {}),
        ("a.m2v", "mpeg2video", 15, {}),
        ("a.h264", "libx264", 50, {}),
        ("a.hevc", "libx265", 25, H265),
        ("a.avi", "mpeg4", 25, {}),
        ("a.mkv", "libx264", 25, {}),
        ("a.webm", "libvpx", 50, {}),
        ("a.flv", "libx264", 50, {}),
    ],
)
def test_seconds_are_those_of_the_whole_file_in_any_container(tmp_path, name, codec, gop, options):
    formats = {".m2ts": "mpegts", ".m2v": "mpeg2video"}
    path = tmp_path / name
    numbered(path, codec, gop, options=options, format=formats.get(path.suffix))
    assert numbers(reading.read_video(path)) == list(range(150))
    for n in range(9):
        start = 0.3 + 0.61 * n
        wanted = [k for k in range(150) if start - 1e-6 <= k / 25 < start + 0.4]
        assert numbers(reading.read_video(path, start=start, end=start + 0.4)) == wanted
    with open(path, "rb") as file:  # as data of a worker comes
        timed = decoding.timed_frames(file, start=3.0, end=3.4)
        assert [round(25 * seconds) for seconds, _ in timed] == list(range(75, 85))


@pytest.mark.parametrize(
    "codec, gop, options, first",
    [
        ("libx264", 25, {"x264-params": "open-gop=1:bframes=3"}, 25),
        ("libx265", 25, H265, 25),
        ("mpeg2video", 15, {}, 15),
    ],
)
def test_a_recording_may_begin_between_key_frames(tmp_path, codec, gop, options, first):
    """What leans on frames of before it is left out; the rest is whole."""
    numbered(tmp_path / "a.ts", codec, gop, 100, options)
    whole = (tmp_path / "a.ts").read_bytes()
    count = len(whole) // 188
    (tmp_path / "cut.ts").write_bytes(whole[188 * (count // 10) :])
    info = {}
    for threads in (1, 4):
        timed = decoding.timed_frames(tmp_path / "cut.ts", info=info, threads=threads)
        convert = conversion.converter(info=info)
        found = numbers(np.stack([convert(frame) for _, frame in timed]))
        assert 0 < found[0] <= first and found == list(range(found[0], 100))
    assert info["dropped"] > 0


def test_damage_is_refused_unless_it_is_cut_out(tmp_path):
    numbered(tmp_path / "a.ts", "libx265", 25, 150, H265)
    data = bytearray((tmp_path / "a.ts").read_bytes())
    middle = 188 * (len(data) // 188 // 2)
    data[middle : middle + 4 * 188] = b"\x47" + bytes(4 * 188 - 1)
    (tmp_path / "a.ts").write_bytes(data)
    with pytest.raises(DataError, match=r"after \d+ good frames \((.*) s\)") as error:
        reading.read_video(tmp_path / "a.ts")
    until = float(re.search(r"\((.*) s\)", str(error.value))[1])
    before = numbers(reading.read_video(tmp_path / "a.ts", end=until))
    assert before == list(range(len(before))) and len(before) > 40
    after = numbers(reading.read_video(tmp_path / "a.ts", start=5.0))
    assert after == list(range(125, 150))


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.h264"])
@pytest.mark.parametrize("gop", [25, 200])
def test_damage_before_the_seconds_matters_up_to_a_key_frame(tmp_path, name, gop):
    """A packet between key frames; what leans on it is never given as if it were whole."""
    options = {"bf": "0", "sc_threshold": "0"}
    numbered(tmp_path / name, "libx264", gop, 100, options)
    data = bytearray((tmp_path / name).read_bytes())
    with av.open(str(tmp_path / name)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    at, size = places[30]
    inner = slice(at + 8, at + size - 2)  # so that what the container has about it stays
    data[inner] = bytes(b ^ 0x5A for b in data[inner])
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=r"after \d+ good frames"):
        reading.read_video(tmp_path / name)
    assert numbers(reading.read_video(tmp_path / name, end=0.8)) == list(range(20))
    for threads in (1, 4):
        timed = decoding.timed_frames(tmp_path / name, start=2.4, threads=threads)
        if gop == 25 and name != "a.h264":  # whose packets have no times
            assert [round(25 * seconds) for seconds, _ in timed] == list(range(60, 100))
        else:
            with pytest.raises(decoding.Unreadable):
                list(timed)


def test_titles_that_are_no_utf8_do_no_harm(tmp_path):
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        container.metadata["title"] = "Kuche@@@@"
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        picture = np.zeros((32, 32, 3), np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    data = (tmp_path / "a.avi").read_bytes()
    assert b"@@@@" in data
    (tmp_path / "a.avi").write_bytes(data.replace(b"@@@@", b"\xfc\xff\xe9@"))
    assert reading.read_video(tmp_path / "a.avi").shape == (1, 32, 32, 3)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
@pytest.mark.parametrize("durations", [(100, 100, 2000), (500, 500, 500)])
def test_the_last_frame_lasts_as_long_as_the_file_says(tmp_path, name, durations):
    grey = [np.full((16, 16, 3), 80 * n, np.uint8) for n in range(3)]
    first, *others = map(Image.fromarray, grey)
    first.save(tmp_path / name, save_all=True, append_images=others, duration=list(durations))
    shown = reading.read_video(tmp_path / name, fps=10)[:, 8, 8, 0].astype(int)
    wanted = np.repeat([0, 80, 160], np.array(durations) // 100)
    assert len(shown) == len(wanted) and np.abs(shown - wanted).max() < 4
    part = reading.read_video(tmp_path / name, fps=10, end=0.8)  # no longer than is wanted
    assert len(part) == 8


def test_the_last_frame_of_a_slow_video_lasts_too(tmp_path):
    grey = [np.full((16, 16, 3), 50 * n, np.uint8) for n in range(5)]
    encode(tmp_path / "a.mp4", grey, "libx264", "yuv420p", rate=1)
    shown = reading.read_video(tmp_path / "a.mp4", fps=10)[:, 8, 8, 0]
    assert len(shown) == 50
    assert abs(int(shown[-1]) - 200) < 4 and len(reading.read_video(tmp_path / "a.mp4")) == 5
    assert len(reading.read_video(tmp_path / "a.mp4", fps=1)) == 5


def test_clocks_and_gaps_are_no_rates():
    times = np.arange(40) / 25
    assert workers.frame_rate(times, 0.0) == pytest.approx(25)
    assert workers.frame_rate(np.append(-60000.0, times), 0.0) == pytest.approx(25)
    assert workers.frame_rate(np.repeat(times, 3), 0.0) == pytest.approx(119 / times[-1])
    assert workers.frame_rate(np.zeros(1), 12.0) == workers.frame_rate(np.zeros(3), 12.0) == 12
    assert workers.frame_rate(np.zeros(1), 1000.0) == 0


def test_resample_takes_the_nearest_frame():
    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.2, 40))
    taken = list(resampling.resample(zip(times, range(40), strict=True), 12.0))
    wanted = np.arange(times[0], times[-1] + 1e-6, 1 / 12)
    assert len(taken) == len(wanted)
    for (seconds, number), t in zip(taken, wanted, strict=True):
        assert seconds == pytest.approx(t)
        assert abs(times[number] - t) == pytest.approx(np.abs(times - t).min())


def test_shuffled_and_missing_times_are_put_in_order():
    stamps = [0.04, 0.08, 0.16, 0.12, 0.2, 0.28, 0.24, None]
    fakes = [types.SimpleNamespace(time=stamp, number=n) for n, stamp in enumerate(stamps)]
    ordered = list(packets.in_order(fakes, 25.0, "mov"))
    assert [frame.number for _, frame in ordered] == list(range(8))
    assert [t for t, _ in ordered] == pytest.approx([0.04 * n for n in range(1, 8)] + [0.28])


@pytest.mark.parametrize(
    ("stored", "aspect", "wanted"),
    [((640, 480), 1.0, (85, 64)), ((480, 640), 1.0, (64, 85)), ((340, 256), 64 / 51, (107, 64))],
)
def test_scaled_keeps_the_displayed_aspect(stored, aspect, wanted):
    assert conversion.scaled(*stored, 64, aspect) == wanted


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("text.mp4", b"not a video at all\n" * 50, "invalid data"),
        ("list.mp4", b"ffconcat version 1.0\nfile other.mp4\n", "list.mp4"),
        ("empty.mp4", b"", "empty.mp4"),
    ],
)
def test_what_is_no_video_is_named(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=said) as caught:
        reading.read_video(tmp_path / name)
    assert name in str(caught.value)
    with pytest.raises(DataError, match=r"absent\.mp4.*no such file"):
        reading.probe(tmp_path / "absent.mp4")


def test_shared_clips_have_the_sizes_of_the_manifest(shared):
    text = (shared / "MANIFEST.md").read_text("utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| \d+ \| (\d+)x(\d+) \| \d+ \|", text, re.M)
    rows = [row for row in rows if (shared / "clips" / row[0]).exists()]
    assert len(rows) == 45
    for name, width, height in rows:
        info = reading.probe(shared / "clips" / name)
        turned = name == "video_90.mov"  # the manifest has sizes as stored
        wanted = (int(height), int(width)) if turned else (int(width), int(height))
        assert (name, info.width, info.height) == (name, *wanted)


def test_rotated_shared_clip_shows_its_keyboard_upright(shared):
    path = shared / "clips" / "video_90.mov"
    upright = reading.read_video(path)
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24", threads=1)
    assert upright.shape[1:3] == (568, 320)
    turned = np.rot90(stored, -1).astype(int)
    assert np.abs(turned - upright[0]).mean() < 3
    assert np.abs(turned[::-1, ::-1] - upright[0]).mean() > 20


@pytest.mark.parametrize(
    "name, codec",
    [
        ("a.ts", "libx264"),
        ("b.ts", "mpeg2video"),
        ("a.m2ts", "libx264"),
        ("a.flv", "libx264"),
        ("b.flv", "flv1"),
        ("a.avi", "libx264"),
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx-vp9"),
        ("a.asf", "wmv2"),
    ],
)
def test_no_frame_is_lost_in_silence(tmp_path, name, codec):
    """Of what is damaged all frames are there or it is refused, and seconds behind that are good.

    Demuxers go on at the next part that is whole: before their packets were compared with what else
    tells of them, up to a quarter of such files lost frames in silence.
    """
    path, count = tmp_path / name, 75
    layout = {"mpegts_m2ts_mode": "1"} if name.endswith("m2ts") else {}
    options = {"a.webm": {"cpu-used": "8"}}.get(name, {} if codec == "libx264" else {"bf": "0"})
    options = {"bf": "0"} if name == "a.avi" else options
    kind = {".ts": "mpegts", ".m2ts": "mpegts"}.get(path.suffix)
    numbered(path, codec, 10, count, options, kind, layout)
    assert len(reading.read_video(path)) == count
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    taken = refused = 0
    for place in rng.integers(0.3 * len(good), 0.6 * len(good), 25):
        path.write_bytes(good[:place] + rng.bytes(8) + good[place + 8 :])
        info = {}
        try:
            seen = sum(1 for _ in decoding.timed_frames(path, info=info))
            assert seen == count or info["dropped"]
        except (decoding.Unreadable, OSError):
            refused += 1
        with contextlib.suppress(DataError):
            assert numbers(reading.read_video(path, start=2.6, end=2.8)) == list(range(65, 70))
            taken += 1
    assert taken > 15 and refused > 2, (taken, refused)


@pytest.mark.parametrize(
    "name, codec",
    [
        ("a.ts", "libx264"),
        ("a.m2ts", "libx264"),
        ("a.flv", "libx264"),
        ("a.avi", "libx264"),
        ("b.avi", "mpeg4"),
        ("a.mkv", "libx264"),
        ("a.asf", "msmpeg4"),
    ],
)
def test_frames_that_a_camera_left_out_are_not_missed(tmp_path, name, codec):
    """A longer time between two frames is damage only where something else says so."""
    path, without = tmp_path / name, {20, 21, 22, 31, 40, 41, 55, 56, 57, 58, 59, 60, 61}
    layout = {"mpegts_m2ts_mode": "1"} if name.endswith("m2ts") else {}
    options = {"bf": "0"} if codec == "msmpeg4" else {}
    kind = {".ts": "mpegts", ".m2ts": "mpegts"}.get(path.suffix)
    numbered(path, codec, 12, 75, options, kind, layout, without)
    assert numbers(reading.read_video(path)) == sorted(set(range(75)) - without)


def flv_tags(data):
    """Returns the offset and the kind of each tag of an FLV file."""
    tags, at = [], int.from_bytes(data[5:9], "big") + 4
    while at + 15 <= len(data):
        tags.append((at, data[at]))
        at += 15 + int.from_bytes(data[at + 1 : at + 4], "big")
    return tags


def test_a_stream_that_begins_late_is_no_damage(tmp_path):
    """FFmpeg makes a stream of a script tag in the middle, and PyAV trips over it."""
    path = tmp_path / "a.flv"
    numbered(path, "libx264", 10, 250)
    data = path.read_bytes()
    at, _ = flv_tags(data)[245]
    body = b"\x02\x00\x0aonCuePoint\x08\x00\x00\x00\x00\x00\x00\x09"
    tag = b"\x12" + len(body).to_bytes(3, "big") + data[at + 4 : at + 8] + b"\0\0\0" + body
    path.write_bytes(data[:at] + tag + len(tag).to_bytes(4, "big") + data[at:])
    assert numbers(reading.read_video(path)) == list(range(250))
    assert numbers(reading.read_video(path, start=9.6, end=9.9)) == list(range(240, 248))


@pytest.mark.parametrize("kept", [1, 5, 11, 12, 13, 14, 20])
def test_an_flv_that_is_cut_off_in_a_tag_ends_before_it(tmp_path, kept):
    path = tmp_path / "a.flv"
    numbered(path, "libx264", 10, 75, {"bf": "0"})
    data = path.read_bytes()
    at = [at for at, kind in flv_tags(data) if kind == 9][50]
    path.write_bytes(data[: at + kept])
    found = numbers(reading.read_video(path))
    assert found == list(range(len(found))) and 48 <= len(found) <= 50


@pytest.mark.parametrize("between", [3, 5, 8, 16])
def test_avi_with_many_frames_between_has_its_times(tmp_path, between):
    """It stamps packets in the order of coding, as far away as the next frame that is not B."""
    options = {"x264-params": f"bframes={between}:b-adapt=0:b-pyramid=0"}
    numbered(tmp_path / "a.avi", "libx264", 50, options=options)
    times = [round(25 * t) for t, _ in decoding.timed_frames(tmp_path / "a.avi")]
    assert times == list(range(150))
    for start in (0.0, 1.0, 2.52, 4.2):
        wanted = [n for n in range(150) if start - 1e-6 <= n / 25 < start + 0.4 - 1e-6]
        shown = reading.read_video(tmp_path / "a.avi", start=start, end=start + 0.4)
        assert numbers(shown) == wanted


@pytest.mark.parametrize("open_gop", [0, 1])
def test_bare_hevc_begins_with_its_first_whole_frame(tmp_path, open_gop):
    path = tmp_path / "a.hevc"
    options = {"x265-params": f"log-level=error:keyint=10:min-keyint=10:open-gop={open_gop}"}
    numbered(path, "libx265", 10, 60, options)
    data = path.read_bytes()
    units = [match.start() for match in re.finditer(b"\0\0\1", data)]
    for place in units[6:40:4]:
        path.write_bytes(data[place:])
        found = numbers(reading.read_video(path))
        assert len(found) > 20 and found == list(range(60 - len(found), 60))


def test_frames_that_lean_on_others_are_no_keys(tmp_path):
    """Without a list of key frames all count as such, and a seek leads to any frame."""
    path = tmp_path / "a.mp4"
    numbered(path, "mpeg4", 50, options={"bf": "0"})
    path.write_bytes(path.read_bytes().replace(b"stss", b"free"))
    for start in (1.0, 2.6, 5.0):
        found = numbers(reading.read_video(path, start=start, end=start + 0.4))
        assert found == list(range(round(25 * start), round(25 * start) + 10))


@pytest.mark.parametrize(
    "name, codec, rate",
    [
        ("a.h264", "libx264", 120),
        ("a.hevc", "libx265", 240),
        ("a.m1v", "mpeg1video", 25),
        ("a.m4v", "mpeg4", Fraction(30000, 1001)),
    ],
)
def test_frames_of_a_bare_stream_are_counted_at_its_rate(tmp_path, name, codec, rate):
    options = {"x265-params": "log-level=error"} if codec == "libx265" else {}
    kind = "m4v" if codec == "mpeg4" else None  # by its name it would be MP4
    encode(tmp_path / name, counted(40), codec, "yuv420p", rate=rate, options=options, kind=kind)
    assert reading.probe(tmp_path / name).fps == pytest.approx(float(rate))
    times = [seconds for seconds, _ in decoding.timed_frames(tmp_path / name)]
    np.testing.assert_allclose(times, np.arange(40) / float(rate), atol=1e-6)


def test_transport_streams_that_are_joined_lack_nothing(tmp_path):
    """Their counters begin anew, and there may be some time between them."""
    for n, begin in enumerate(("0", "1.72")):  # 43 frames, of which there are 40
        layout = {"output_ts_offset": begin}
        numbered(tmp_path / f"{n}.ts", "libx264", 10, 40, {"bf": "0"}, layout=layout)
    joined = b"".join((tmp_path / f"{n}.ts").read_bytes() for n in range(2))
    (tmp_path / "a.ts").write_bytes(joined)
    times = [round(25 * seconds) for seconds, _ in decoding.timed_frames(tmp_path / "a.ts")]
    assert times == [*range(40), *range(43, 83)]


def test_tags_of_an_flv_that_hold_no_picture_are_no_loss(tmp_path):
    path = tmp_path / "a.flv"
    numbered(path, "libx264", 10, 40, {"bf": "0"})
    data = path.read_bytes()
    at, _ = flv_tags(data)[20]
    for kind, body in ((9, b""), (9, b"\x27\x01\0\0\0"), (15, b"\0" * 9), (9, b"\x57\0")):
        tag = bytes([kind]) + len(body).to_bytes(3, "big") + data[at + 4 : at + 8] + b"\0\0\0"
        tag += body
        path.write_bytes(data[:at] + tag + len(tag).to_bytes(4, "big") + data[at:])
        assert len(reading.read_video(path)) == 40


def test_a_transport_stream_may_begin_with_a_picture(tmp_path):
    """Position 0 is one like others: behind it, what is lost is missed."""
    path = tmp_path / "a.ts"
    numbered(path, "libx264", 10, 60, {"bf": "0"})
    data = path.read_bytes()
    rows = [data[n : n + 188] for n in range(0, len(data), 188)]
    first = next(n for n, row in enumerate(rows) if row[1:3] == b"\x41\0")
    front = [row for row in rows[:first] if row[1:3] != b"\x41\0"]
    rows = [rows[first], *front, *rows[first + 1 :]]
    starts = [n for n, row in enumerate(rows) if row[1:3] == b"\x41\0"]
    path.write_bytes(b"".join(rows))
    assert len(reading.read_video(path)) == 60
    path.write_bytes(b"".join(rows[: starts[33]] + rows[starts[35] :]))
    with pytest.raises(DataError, match="invalid data"):
        reading.read_video(path)


def test_sound_that_is_longer_than_its_pictures_is_no_loss(tmp_path):
    """An ASF ends with an index, whose bytes are none of its packets."""
    with av.open(str(tmp_path / "a.wmv"), "w") as container:
        stream = container.add_stream("wmv2", rate=2)
        stream.width = stream.height = 32
        stream.pix_fmt, sound = "yuv420p", container.add_stream("wmav2", rate=22050)
        sound.layout, sound.format, sound.bit_rate = "mono", "fltp", 32000
        for n in range(400):
            picture = np.full((32, 32, 3), n % 200, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for n in range(0, 22050 * 200 + 11025, 1024):
            silence = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 22050, n
            container.mux(sound.encode(frame))
        container.mux([*stream.encode(), *sound.encode()])
    assert len(reading.read_video(tmp_path / "a.wmv")) == 400


def test_what_a_matroska_file_says_at_its_head_is_no_loss(tmp_path):
    """Of an attachment without data FFmpeg logs an error, as of damage."""
    path = tmp_path / "a.mkv"
    numbered(path, "libx264", 10, 40, {"bf": "0"})
    data = bytearray(path.read_bytes())
    segment, cluster = (data.index(bytes.fromhex(name)) for name in ("18538067", "1f43b675"))
    data[segment + 4 : segment + 12] = b"\x01" + b"\xff" * 7  # a length that is not stated
    file = bytes.fromhex("466e 85") + b"a.ttf" + bytes.fromhex("46ae 81 05")
    file = bytes.fromhex("61a7") + bytes([0x80 | len(file)]) + file
    data[cluster:cluster] = bytes.fromhex("1941a469") + bytes([0x80 | len(file)]) + file
    path.write_bytes(data)
    assert numbers(reading.read_video(path)) == list(range(40))


def unit(head, bits):
    """Returns a unit of H.264: bits with a stop bit, and bytes put in where a code would begin."""
    bits += "1"
    bits += "0" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return b"\0\0\0\1" + bytes([head]) + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", data)


def golomb(*values):
    """Returns bits of H.264's `ue(v)`."""
    return "".join("0" * ((v + 1).bit_length() - 1) + f"{v + 1:b}" for v in values)


def fields(count):
    """Returns H.264 whose fields are pictures of their own, at 25 frames a second.

    No encoder of FFmpeg writes it. Macroblocks are plain samples (ITU-T H.264, 7.3).
    """
    timing = "1" + f"{1:032b}{50:032b}" + "1"
    sps = f"{77:08b}{0:08b}{30:08b}" + golomb(0, 0, 0, 4, 1) + "0" + golomb(0, 0) + "0010" + "1"
    sps += "0000" + timing + "0000"
    pps = golomb(0, 0) + "00" + golomb(0, 0, 0) + "0" + "00" + golomb(0, 0, 0) + "000"
    stream = b""
    for n in range(count):
        for bottom in (0, 1):
            first = n == 0 and not bottom
            bits = golomb(0, 7, 0) + f"{n % 16:04b}1{bottom}" + (golomb(0) if first else "")
            bits += f"{(2 * n + bottom) % 256:08b}" + ("00" if first else "0") + golomb(0)
            bits += golomb(25)
            bits += "0" * (-len(bits) % 8) + f"{40 + 3 * n % 180:08b}" * 384
            stream += b"\0\0\0\1\x09\x10"
            stream += unit(0x67, sps) + unit(0x68, pps) if first else b""
            stream += unit(0x65 if first else 0x61, bits)
    return stream


@pytest.mark.parametrize("name", ["a.h264", "a.mkv", "a.mp4"])
def test_fields_that_are_packets_of_their_own_make_frames(tmp_path, monkeypatch, name):
    lacking, real = [], packets.Reader._lacking
    monkeypatch.setattr(
        packets.Reader, "_lacking", lambda *given: lacking.append(real(*given)) or lacking[-1]
    )
    (tmp_path / "a.h264").write_bytes(fields(40))
    if name != "a.h264":
        with (
            av.open(str(tmp_path / "a.h264")) as source,
            av.open(str(tmp_path / name), "w") as container,
        ):
            stream = container.add_stream_from_template(source.streams.video[0])
            for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
                packet.stream, packet.time_base = stream, Fraction(1, 50)
                packet.pts = packet.dts = number + 8 * (number >= 40)  # the camera left some out
                packet.duration, packet.is_keyframe = 1, number == 0
                container.mux(packet)
    times = [seconds for seconds, _ in decoding.timed_frames(tmp_path / name)]
    wanted = np.arange(40) / 25 + 0.16 * (np.arange(40) >= 20) * (name != "a.h264")
    np.testing.assert_allclose(times, wanted, atol=1e-3)
    assert len(lacking) == 40 and set(lacking) == {None}  # no second field is missed
