"""Folders of numbered pictures and TIFFs of pages are read as videos."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from vidgen.errors import DataError
from vidgen.video import decoding, reading, sequences


def noise(count=5, height=6, width=9):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def put(folder, arrays, name="{}.png"):
    folder.mkdir(exist_ok=True)
    for n, array in enumerate(arrays):
        Image.fromarray(array).save(folder / name.format(n))
    return folder


def test_pictures_come_by_their_numbers(tmp_path):
    video = noise(12)  # 10 and 11 lie between 1 and 2 by their letters
    put(tmp_path / "walk", video, "frame-{}.png")
    (tmp_path / "walk" / "notes.txt").write_text("no picture")
    (tmp_path / "walk" / ".frame-3.png.swp").write_text("hidden")
    (tmp_path / "walk" / ".hidden.png").write_text("hidden")
    assert (reading.read_video(tmp_path / "walk") == video).all()
    assert (reading.read_video(tmp_path / "walk", fps=25) == video).all()


def test_start_and_end_count_pictures_by_fps(tmp_path):
    put(tmp_path / "walk", noise(10))
    part = reading.read_video(tmp_path / "walk", fps=10, start=0.3, end=0.6)
    assert (part == noise(10)[3:6]).all()
    with pytest.raises(DataError, match="fps, start and end go together"):
        reading.read_video(tmp_path / "walk", end=0.6)
    with pytest.raises(DataError, match="no frame in the wanted seconds"):
        reading.read_video(tmp_path / "walk", fps=10, start=1.0)


@pytest.mark.parametrize("suffix", ["bmp", "jpg", "webp", "tif", "ppm", "avif"])
def test_kinds_of_pictures(tmp_path, suffix):
    video = np.stack([np.full((8, 10, 3), level, np.uint8) for level in (10, 99, 201)])
    read = reading.read_video(put(tmp_path / "a", video, f"{{}}.{suffix}"))
    assert read.shape == video.shape and np.abs(read.astype(int) - video).max() <= 2


def test_a_resize_is_that_of_any_video(tmp_path):
    small = reading.read_video(put(tmp_path / "a", noise(2, 30, 40)), size=15)
    wanted = [
        np.asarray(Image.fromarray(frame).resize((20, 15), Image.Resampling.BILINEAR))
        for frame in noise(2, 30, 40)
    ]
    assert (small == wanted).all()


def test_modes_become_rgb_over_the_background(tmp_path):
    grey = np.arange(60, dtype=np.uint8).reshape(6, 10)
    clear = np.zeros((6, 10, 4), np.uint8)
    clear[:, 5:] = 1, 2, 3, 255
    palette = Image.new("P", (10, 6), 1)
    palette.putpalette([9, 9, 9, 7, 8, 9])
    palette.putpixel((0, 0), 0)
    folder = tmp_path / "a"
    folder.mkdir()
    Image.fromarray(grey).save(folder / "0.png")
    Image.fromarray(grey.astype(np.uint16) * 256 + 77).save(folder / "1.png")
    Image.fromarray(clear).save(folder / "2.png")
    palette.save(folder / "3.png", transparency=0)
    Image.fromarray(grey % 2 == 1).save(folder / "4.png")
    Image.fromarray(np.stack([grey, np.where(grey < 30, 0, 255).astype(np.uint8)], -1)).save(
        folder / "5.png"
    )
    read = reading.read_video(folder, background=(50, 60, 70))
    assert (read[0] == grey[..., None]).all()
    assert (read[1] == grey[..., None]).all()
    assert (read[2, :, :5] == (50, 60, 70)).all() and (read[2, :, 5:] == (1, 2, 3)).all()
    assert (read[3, 0, 0] == (50, 60, 70)).all() and (read[3, 1:] == (7, 8, 9)).all()
    assert (read[4] == 255 * (grey % 2)[..., None]).all()
    assert (read[5, :3] == (50, 60, 70)).all() and (read[5, 3:] == grey[3:, :, None]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "P", "L"])
def test_orientation_is_obeyed(tmp_path, orientation, mode):
    picture = Image.fromarray(noise(1, 6, 9)[0]).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a").mkdir()
    picture.save(tmp_path / "a" / "0.png", exif=exif)
    with Image.open(tmp_path / "a" / "0.png") as saved:
        wanted = np.asarray(ImageOps.exif_transpose(saved).convert("RGB"))
    assert wanted.shape == ((6, 9, 3) if orientation <= 4 else (9, 6, 3))
    assert (reading.read_video(tmp_path / "a")[0] == wanted).all()


def test_pages_of_a_tiff(tmp_path):
    first, *rest = (Image.fromarray(frame) for frame in noise())
    first.save(tmp_path / "a.tif", save_all=True, append_images=rest)
    assert (reading.read_video(tmp_path / "a.tif") == noise()).all()
    assert (reading.read_video(tmp_path / "a.tif", fps=5, start=0.4) == noise()[2:]).all()


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"none: holds no frame"):
        reading.read_video(tmp_path / "none")

    put(tmp_path / "sizes", noise(2))
    put(tmp_path / "sizes", noise(1, 7, 9), "9.png")
    with pytest.raises(DataError, match=r"sizes: 9\.png is 9x7, the first one 9x6"):
        reading.read_video(tmp_path / "sizes")

    put(tmp_path / "bad", noise(3, 40, 50))
    data = (tmp_path / "bad" / "1.png").read_bytes()
    for damaged in (b"", b"no picture", data[: len(data) // 2], data[:60] + b"?" + data[61:]):
        (tmp_path / "bad" / "1.png").write_bytes(damaged)
        with pytest.raises(DataError, match=r"bad: 1\.png: \w+"):
            reading.read_video(tmp_path / "bad")

    put(tmp_path / "floats", [np.zeros((4, 5), np.float32)], "{}.tif")
    with pytest.raises(DataError, match=r"floats: 0\.tif holds float32"):
        reading.read_video(tmp_path / "floats")

    with pytest.raises(DataError, match=r"absent\.tif: no such file"):
        reading.read_video(tmp_path / "absent.tif")


def test_a_folder_may_have_any_name(tmp_path):
    folder = tmp_path / "a.zip" / "http:" / "<bytes>"
    folder.mkdir(parents=True)
    assert (reading.read_video(put(folder, noise(2))) == noise(2)).all()


def test_names_are_sorted_by_their_numbers():
    assert sorted(["f10", "f2", "f1b", "f1"], key=sequences.natural) == ["f1", "f1b", "f2", "f10"]


@pytest.mark.parametrize(
    "names",
    [
        ["0.05", "0.1", "0.15", "0.2"],
        ["t0.5", "t0.75", "t1.0", "t1.25"],
        ["1.8", "1.9", "1.10", "1.11"],
        ["a.0.500", "a.1.000", "a.1.500"],
        ["0", "0.5", "1", "1.5", "2", "2.5"],
        ["t_0", "t_0.04", "t_0.08", "t_0.12", "t_0.16", "t_0.2"],
        ["0", "0.125", "0.5", "1", "2.75", "10"],
        ["scene1.1", "scene1.3", "scene1.5", "scene1.7", "scene1.9", "scene1.11"],
    ],
)
def test_points_are_decimal_where_they_must_be(names):
    names = [f"{name}.png" for name in names]
    assert sequences.in_order(names[::-1]) == names


@pytest.mark.parametrize(
    "names, wanted",
    [
        (["rgb_1.png", "rgb_2.png", "depth_1.png", "depth_2.png"], {"depth": 2, "rgb": 2}),
        (["1.png", "2.png", "1.jpg", "2.jpg"], {"frames.png": 2, "frames.jpg": 2}),
        (["a_0_17.png", "a_1_34.png", "a_2_51.png"], {"": 3}),
        (["f1_of_3.png", "f2_of_3.png", "f3_of_3.png"], {"": 3}),
        (["1.png", "2.PNG", "10.png"], {"": 3}),
        (["0.jpeg", "1.jpg", "2.jpeg", "3.jpg"], {"": 4}),
        (["cam1_1.png", "cam1_2.png", "cam2_1.png", "cam2_2.png"], {"cam1": 2, "cam2": 2}),
        ([f"f_12-00-0{s}_{n}.png" for s in range(3) for n in (0, 500)], {"": 6}),
        (
            [f"rgb_{n}.png" for n in range(3)] + [f"rgb{n}.png" for n in range(4)],
            {"rgb": 4, "rgb 2": 3},
        ),
    ],
)
def test_sequences_side_by_side_are_told_apart(names, wanted):
    found = sequences.sequences(names)
    assert {title: len(some) for title, some in found.items()} == wanted
    assert next(iter(found)) == next(iter(wanted))


def test_a_folder_of_two_sequences_is_no_video(tmp_path):
    put(tmp_path, noise(3), "vid1_{}.png")
    put(tmp_path, noise(4), "vid2_{}.png")
    with pytest.raises(DataError, match=r"holds 2 sequences of pictures: vid1 \(3\), vid2 \(4\)"):
        reading.read_video(tmp_path)


@pytest.mark.parametrize("kind", ["EPS", "TGA", "ICO"])
def test_pictures_of_other_formats_are_refused_whatever_they_are_called(
    tmp_path, kind, monkeypatch
):
    """Pillow would hand PostScript to Ghostscript, which runs it."""
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given, **more: pytest.fail("it ran"))
    Image.new("RGB", (64, 32), "red").save(tmp_path / "strip.png", format=kind)
    with pytest.raises(decoding.Unreadable, match="no picture that Pillow knows"):
        decoding.open_image(tmp_path / "strip.png")
    with pytest.raises(DataError, match=r"strip\.png"):
        reading.read_video(tmp_path, fps=10)
