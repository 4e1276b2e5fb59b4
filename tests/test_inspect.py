"""The report on a path: what is counted, what is said of odd clips, and the picture."""

import io
import pathlib

import av
import numpy as np
import pytest
import rich.console
from PIL import Image

from vidgen.data import inspect as inspection
from vidgen.data.inspect import inspect, lines, show, write_contact_sheet
from vidgen.data.listing import list_source
from vidgen.data.packing import write_pack
from vidgen.data.settings import PackSettings
from vidgen.errors import DataError
from vidgen.video import files

SHARED = pathlib.Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def shared():
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    return SHARED


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "clips"
    for n, (name, frames) in enumerate((("walk/a", 12), ("walk/b", 20), ("wave/c", 3))):
        array = np.full((frames, 16, 24, 3), 60 * (n + 1), np.uint8)
        array += np.arange(frames, dtype=np.uint8)[:, None, None, None]
        files.write_video(root / f"{name}.webp", array, fps=10)
    (root / "walk" / "bad.mp4").write_text("no video\n" * 20)
    (root / "notes.txt").write_text("no video")
    return root


def test_a_report_counts_clips_and_windows(folder):
    seen = []
    report = inspect(
        folder, frames=4, stride=2, thumbnail=16, progress=lambda *told: seen.append(told)
    )
    assert [c.name for c in report.clips] == ["walk/a.webp", "walk/b.webp", "wave/c.webp"]
    assert [c.frames for c in report.clips] == [12, 20, 3]
    assert [c.label for c in report.clips] == ["walk", "walk", "wave"]
    assert {(c.width, c.height, c.codec) for c in report.clips} == {(24, 16, "webp")}
    assert [c.seconds for c in report.clips] == pytest.approx([1.2, 2.0, 0.3])
    assert report.classes == ("walk", "wave") and report.ignored == 1
    assert report.windows == (12 - 6) + (20 - 6)  # a window spans 7 frames
    assert report.short == ("wave/c.webp",)
    ((name, why),) = report.skipped
    assert name == "walk/bad.mp4" and "invalid data" in why
    assert seen[-1] == (4, 4, "decoding")


def test_windows_at_another_rate_are_those_of_the_pack(folder, tmp_path):
    settings = PackSettings(size=16, fps=4.0)
    report = inspect(folder, settings, frames=4, thumbnail=16)
    pack = write_pack(list_source(folder, settings), tmp_path / "pack")
    assert report.windows == sum(max(0, n - 3) for n in pack.lengths)
    assert report.windows == inspect(tmp_path / "pack", frames=4).windows


def test_what_is_printed_names_every_unusable_file(folder):
    report = inspect(folder, frames=4, stride=2, thumbnail=16)
    console = rich.console.Console(file=io.StringIO(), width=100)
    show(report, console)
    text = console.file.getvalue()
    for word in ("walk", "wave", "total", "24x16", "35", "3.5", "12-20"):
        assert word in text, word
    assert "cannot be used: walk/bad.mp4: is no video" in text
    assert "20 windows of 4 frames, stride 2, in 2 clips" in text
    assert "too short for a window: 1 (wave/c.webp)" in text
    assert "1 files are no videos" in text


def test_the_contact_sheet_has_a_row_a_clip(folder, tmp_path):
    report = inspect(folder, thumbnail=16)
    write_contact_sheet(tmp_path / "sheet.png", report)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (3 * 16, 8 * 16, 3)
    for row, first in enumerate((60, 120, 180)):
        assert (sheet[16 * row : 16 * row + 16, :16] == first).all()
    assert (sheet[:16, 7 * 16 :] == 60 + 11).all()  # the last frame is shown last
    assert (sheet[32:, 2 * 16 : 3 * 16] == 182).all() and not sheet[32:, 3 * 16 :].any()


def test_long_clips_and_many_clips_keep_few_pictures(tmp_path, monkeypatch):
    array = np.arange(200, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    for n in range(3):
        files.write_video(tmp_path / f"{n}.webp", array, fps=10)
    monkeypatch.setattr(inspection, "_ROWS", 2)
    report = inspect(tmp_path, thumbnail=8)
    assert [len(c.thumbnails) for c in report.clips] == [8, 0, 8]
    levels = report.clips[0].thumbnails[:, 0, 0, 0].astype(int)
    assert levels[0] == 0 and levels[-1] > 180 and np.diff(levels).min() > 15


def test_odd_clips_are_told(tmp_path):
    files.write_video(tmp_path / "one.gif", np.zeros((1, 64, 64, 3), np.uint8), fps=10)
    with av.open(str(tmp_path / "fields.mkv"), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25, options={"flags": "+ilme+ildct"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        for n in range(3):
            picture = np.full((64, 64, 3), 40 * n, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    notes = {c.name: c.notes for c in inspect(tmp_path, thumbnail=32).clips}
    assert "one frame" in notes["one.gif"] and "interlaced" in notes["fields.mkv"]
    assert "pixels not square" in notes["fields.mkv"]
    assert "smaller than 65" in inspect(tmp_path, thumbnail=65).clips[1].notes


def test_nothing_to_show_is_an_error(tmp_path):
    (tmp_path / "bad.mp4").write_text("no video\n" * 20)
    report = inspect(tmp_path)
    assert not report.clips and len(report.skipped) == 1
    show(report, rich.console.Console(file=io.StringIO()))
    with pytest.raises(DataError, match="no clip to show"):
        write_contact_sheet(tmp_path / "sheet.png", report)


def test_toy_clips_are_reported(tmp_path):
    report = inspect("toy:clips=40,size=16", frames=4)
    assert len(report.clips) == 40 and report.windows == 40
    write_contact_sheet(tmp_path / "sheet.png", report)
    assert np.asarray(Image.open(tmp_path / "sheet.png")).shape == (32 * 16, 8 * 16, 3)


def test_shared_remarks_are_those_of_the_manifest(shared, tmp_path):
    for name in ("brother.mkv", "part_0.mp4", "newtonscradle.gif", "star.gif", "video_90.mov"):
        (tmp_path / name).symlink_to(shared / "clips" / name)
    report = inspect(tmp_path, thumbnail=16)
    notes = {c.name: c.notes for c in report.clips}
    varying = {name for name, said in notes.items() if "variable rate" in said}
    assert varying == {"brother.mkv", "newtonscradle.gif", "part_0.mp4"}
    assert "rotated" in notes["video_90.mov"] and "transparent" in notes["star.gif"]
    assert any(line.startswith("rotated: 1 (video_90.mov)") for line in lines(report))
