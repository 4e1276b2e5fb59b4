"""The report on a path: what is counted, what is said of odd clips, and the picture."""

import io
import pathlib
import shlex

import av
import numpy as np
import pytest
import rich.console
from PIL import Image
from test_video_reading import numbered

from vidgen.cli import config_flags
from vidgen.cli.main import main
from vidgen.data import inspect as inspection
from vidgen.data.inspect import at_common_rate, common_rate, inspect
from vidgen.data.listing import list_source
from vidgen.data.pack import open_store
from vidgen.data.packing import write_pack
from vidgen.data.settings import PackSettings, pack_settings
from vidgen.data.showing import lines, show, train_command, write_contact_sheet
from vidgen.data.stream import Clips
from vidgen.errors import DataError
from vidgen.video import writing

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
        writing.write_video(root / f"{name}.webp", array, fps=10)
    (root / "walk" / "bad.mp4").write_text("no video\n" * 20)
    (root / "notes.txt").write_text("no video")
    return root


def test_a_report_counts_clips_and_windows(folder):
    seen = []
    report = inspect(
        folder, frames=4, stride=2, short="skip", thumbnail=16,
        progress=lambda *told: seen.append(told),
    )  # fmt: skip
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
    report = inspect(folder, settings, frames=4, stride=1, short="skip", thumbnail=16)
    pack = write_pack(list_source(folder, settings), tmp_path / "pack")
    assert report.windows == sum(max(0, n - 3) for n in pack.lengths)
    assert report.windows == inspect(tmp_path / "pack", frames=4, stride=1, short="skip").windows


def test_what_is_printed_names_every_unusable_file(folder):
    report = inspect(folder, frames=4, stride=2, short="skip", thumbnail=16)
    console = rich.console.Console(file=io.StringIO(), width=100)
    show(report, console)
    text = console.file.getvalue()
    for word in ("walk", "wave", "total", "24x16", "35", "3.5", "12-20"):
        assert word in text, word
    assert "cannot be used: walk/bad.mp4: is no video" in text
    assert "20 windows of 4 frames, stride 2, in 2 clips" in text
    assert "too short for a window: 1 (wave/c.webp); --config.data.short=loop would" in text
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
        writing.write_video(tmp_path / f"{n}.webp", array, fps=10)
    monkeypatch.setattr(inspection, "_ROWS", 2)
    report = inspect(tmp_path, thumbnail=8)
    assert [len(c.thumbnails) for c in report.clips] == [8, 0, 8]
    levels = report.clips[0].thumbnails[:, 0, 0, 0].astype(int)
    assert levels[0] == 0 and levels[-1] > 180 and np.diff(levels).min() > 15


def test_odd_clips_are_told(tmp_path):
    writing.write_video(tmp_path / "one.gif", np.zeros((1, 64, 64, 3), np.uint8), fps=10)
    with av.open(str(tmp_path / "fields.mkv"), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25, options={"flags": "+ilme+ildct"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        for n in range(3):
            picture = np.full((64, 64, 3), 40 * n, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(tmp_path / "two.mp4"), "w") as container:
        streams = [container.add_stream("mpeg4", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for stream in streams:
            for n in range(3):
                picture = np.full((64, 64, 3), 40 * n, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    numbered(tmp_path / "cut.ts", "libx264", 25, 60)
    whole = (tmp_path / "cut.ts").read_bytes()
    (tmp_path / "cut.ts").write_bytes(whole[188 * (len(whole) // 188 // 10) :])
    clips = inspect(tmp_path, thumbnail=32).clips
    notes = {c.name: c.notes for c in clips}
    assert "several video tracks" in notes["two.mp4"]
    assert "begins between key frames" in notes["cut.ts"]
    told = ("several video tracks", "begins between key frames")
    assert not set(told) & {*notes["one.gif"], *notes["fields.mkv"]}
    assert "one frame" in notes["one.gif"] and "interlaced" in notes["fields.mkv"]
    assert "pixels not square" in notes["fields.mkv"]
    (small,) = (c for c in inspect(tmp_path, thumbnail=65).clips if c.name == "fields.mkv")
    assert "smaller than 65" in small.notes


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


def arrays(root, clips):
    """Writes clips `{name: (frames, fps)}` of 8x8 pixels."""
    for name, (frames, fps) in clips.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        np.savez(root / f"{name}.npz", v=np.zeros((frames, 8, 8, 3), np.uint8), fps=float(fps))
    return root


def test_what_differs_much_is_remarked(tmp_path):
    many = {f"run/{n}": (60, 30) for n in range(8)}
    report = inspect(arrays(tmp_path, many | {"walk/a": (120, 10), "walk/b": (60, 30)}))
    text = "\n".join(lines(report))
    assert "durations differ: 2 s to 12 s, half of the clips at most 2 s" in text
    assert "rates differ: 10 to 30 fps; --config.data.fps=10 would make them alike\n" in text
    assert "classes differ: walk has 2 clips, run 8;" in text


def test_clips_that_are_alike_get_no_remark(tmp_path):
    report = inspect(arrays(tmp_path, {"run/a": (60, 30), "run/b": (70, 31), "walk/a": (60, 30)}))
    assert common_rate(report) is None
    assert not [line for line in lines(report) if "differ" in line]


def test_the_common_rate_is_the_lowest_but_for_a_tenth(tmp_path):
    rates = [5, 12, *[30] * 18]  # 5 is below a tenth of 20, 12 at it
    report = inspect(arrays(tmp_path, {f"{n:02d}": (200, rate) for n, rate in enumerate(rates)}))
    assert common_rate(report) == 12.0
    changed = at_common_rate(report)
    assert changed.fps == 12.0 and changed.windows != report.windows
    assert "--config.data.fps=12" in train_command(changed, tmp_path, PackSettings())


def test_a_rate_that_would_cost_clips_is_not_taken(tmp_path):
    clips = {f"{n}": (32, 30) for n in range(6)} | {f"slow{n}": (32, 5) for n in range(4)}
    report = inspect(arrays(tmp_path, clips))
    assert "would make them alike, and 6 of 10 clips shorter" in "\n".join(lines(report))
    assert at_common_rate(report) is report
    assert "fps" not in train_command(report, tmp_path, PackSettings())


@pytest.mark.parametrize(
    ("settings", "stride", "said"),
    [
        (None, 4, "--config.data.stride=0 would keep 4 of 4 clips"),
        (PackSettings(fps=5.0), 1, "--config.data.fps=0 would keep 4 of 4 clips"),
        (PackSettings(fps=5.0), 4, "--config.data.short=loop would repeat their frames"),
    ],
)
def test_clips_that_are_too_short_have_a_cure(tmp_path, settings, stride, said):
    folder = arrays(tmp_path, {f"{n}": (32, 30) for n in range(4)})
    report = inspect(folder, settings, stride=stride, short="skip")
    assert len(report.short) == 4
    (line,) = [line for line in lines(report) if line.startswith("too short")]
    assert line.endswith(said)


def test_without_settings_the_report_is_that_of_the_config_for_folders(tmp_path):
    data = config_flags.read(["--config=configs/clips64.py"], str(tmp_path / "clips")).data
    assert pack_settings(data) == PackSettings()
    folder = arrays(tmp_path / "clips", {"a/1": (40, 25), "a/2": (90, 25), "b/3": (33, 25)})
    report = inspect(folder)
    store = open_store(folder, pack_settings(data), cache=tmp_path / "cache")
    clips = Clips(store, frames=data.frames, stride=data.stride, short=data.short)
    assert (report.windows, report.stride) == (clips.windows, clips.stride) == (10 + 60 + 3, 2)
    assert report.frames == data.frames and report.loop == (data.short == "loop")


def said_by(capsys, *arguments):
    assert main(["data", "inspect", *map(str, arguments)]) == 0
    return shlex.split(capsys.readouterr().out.splitlines()[-1])


def test_inspect_ends_with_a_command_that_can_be_run(tmp_path, capsys):
    folder = arrays(tmp_path / "it's mine", {"a": (40, 30), "b": (90, 15)})
    sheet = f"--sheet={tmp_path / 'sheet.png'}"
    words = said_by(capsys, folder, sheet)
    assert words[:2] == ["vidgen", "train"] and words[-1] == "--workdir=runs/it_s_mine"
    config = config_flags.read(words[2:-1])
    assert config.data.path == str(folder) and config.data.fps == 15.0
    flags = ["--config=configs/actions64.py", "--config.data.short=loop"]
    words = said_by(capsys, folder, sheet, *flags)
    assert words[2:-2] == flags and words[-2] == f"--config.data.path={folder}"


def test_the_command_for_a_pack_has_the_settings_it_was_made_with(tmp_path, capsys):
    folder = arrays(tmp_path / "clips", {"a": (40, 30), "b": (90, 15)})
    made = PackSettings(crop="random", fps=12.5, background=(1, 2, 3))
    write_pack(list_source(folder, made), tmp_path / "pack")
    words = said_by(capsys, tmp_path / "pack", f"--sheet={tmp_path / 'sheet.png'}")
    config = config_flags.read(words[2:-1])
    assert pack_settings(config.data) == made
    small = PackSettings(size=32)
    with pytest.raises(DataError, match="of size 64, those of the config 32"):
        train_command(inspect(tmp_path / "pack"), tmp_path / "pack", small)
