"""What counts as a clip, how it is named and labelled, and what is refused with which reason."""

import functools
import io
import os
import pathlib
import stat
import sys
import tarfile
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from vidgen.data.collecting import collect
from vidgen.data.limits import Limits
from vidgen.data.listing import UNLABELLED, list_source, open_source
from vidgen.data.pack import open_store
from vidgen.data.settings import PackSettings
from vidgen.data.toy import ToySource
from vidgen.errors import ConfigError, DataError
from vidgen.video import writing

SHARED = pathlib.Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def shared():
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    return SHARED


def noise(seed, count=5, height=16, width=20):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def put(path, seed=0, **shape):
    """Writes a lossless clip and returns its frames."""
    array = noise(seed, **shape)
    writing.write_video(path, array, fps=10)
    return array


def put_frames(folder, seed=0, names="{:d}.png"):
    folder.mkdir(parents=True)
    array = noise(seed, count=12)
    for n, frame in enumerate(array):
        Image.fromarray(frame).save(folder / names.format(n))
    return array


@pytest.fixture
def tree(tmp_path):
    """One clip of each kind, in two classes, and its frames by name."""
    root = tmp_path / "tree"
    wanted = {
        "walk/a.webp": put(root / "walk" / "a.webp", 1),
        "walk/deep/b.webp": put(root / "walk" / "deep" / "b.webp", 2),
        "wave/frames": put_frames(root / "wave" / "frames", 3),
    }
    (root / "strips").mkdir()
    for name, axis in (("row", 2), ("column", 1)):
        array = noise(4, count=6, height=16, width=16)
        picture = np.concatenate(list(array), axis=axis - 1)
        Image.fromarray(picture).save(root / "strips" / f"{name}.png")
        wanted[f"strips/{name}.png"] = array
    (root / "arrays").mkdir()
    many = noise(5, count=6).reshape(2, 3, 16, 20, 3)
    np.save(root / "arrays" / "many.npy", many)
    np.savez(root / "arrays" / "grey.npz", clip=many[0, ..., 0])
    wanted |= {f"arrays/many.npy[{n}]": many[n] for n in range(2)}
    wanted["arrays/grey.npz"] = many[0, ..., :1].repeat(3, -1)
    (root / "notes.txt").write_text("no video")
    (root / ".hidden.mp4").write_text("no video")
    return root, wanted


def check(source, wanted):
    assert [entry.name for entry in source.entries] == sorted(wanted)
    for n, entry in enumerate(source.entries):
        clip = source[n]
        assert (clip.frames == wanted[entry.name]).all(), entry.name
        assert len(clip.times) == len(clip.frames) and (np.diff(clip.times) > 0).all()


def test_a_folder_of_everything(tree):
    root, wanted = tree
    source = list_source(root)
    check(source, wanted)
    assert source.classes == ("arrays", "strips", "walk", "wave")
    labels = dict(zip([e.name for e in source.entries], source.labels, strict=True))
    assert source.classes[labels["walk/deep/b.webp"]] == "walk"
    assert source.labels.dtype == np.int32
    assert (source.skipped, source.ignored) == ((), 1)
    assert source[source.classes.index("walk")].fps > 0


def zipped(root, path, top=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                archive.write(file, top + str(file.relative_to(root)))


def tarred(root, path, mode, top="."):
    with tarfile.open(path, mode) as archive:
        archive.add(root, top)


@pytest.mark.parametrize("kind", ["zip", "zip in a folder", "tar", "tar.gz", "tar in a folder"])
def test_an_archive_is_its_folder(tree, tmp_path, kind):
    root, wanted = tree
    path = tmp_path / ("a." + kind.split()[0])
    if kind.startswith("zip"):
        zipped(root, path, "top/" if "folder" in kind else "")
    else:
        tarred(root, path, "w:gz" if "gz" in kind else "w", "top" if "folder" in kind else ".")
    before = sorted(p.name for p in tmp_path.iterdir())
    source = list_source(path)
    check(source, wanted)
    assert source.classes == list_source(root).classes
    assert sorted(p.name for p in tmp_path.iterdir()) == before  # nothing was unpacked


def test_members_that_escape_a_zip_are_refused(tmp_path):
    put(tmp_path / "good.webp")
    data = (tmp_path / "good.webp").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("ok/good.webp", "../up.webp", "/abs.webp", "ok/../../up.webp", "c:/x.webp"):
            archive.writestr(name, data)
        link = zipfile.ZipInfo("ok/link.webp")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    source = list_source(tmp_path / "a.zip")
    assert [e.name for e in source.entries] == ["ok/good.webp"]
    reasons = dict(source.skipped)
    assert "link" in reasons.pop("ok/link.webp")
    assert "absolute" in reasons.pop("/abs.webp") and "absolute" in reasons.pop("c:/x.webp")
    assert set(reasons) == {"../up.webp", "ok/../../up.webp"}
    assert all("climbs" in why for why in reasons.values())


def test_members_that_escape_a_tar_are_refused(tmp_path):
    put(tmp_path / "good.webp")
    data = (tmp_path / "good.webp").read_bytes()
    with tarfile.open(tmp_path / "a.tar", "w") as archive:

        def add(name, kind=tarfile.REGTYPE, target=""):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = len(data) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(data))

        add("ok/good.webp")
        add("../up.webp")
        add("/abs.webp")
        add("ok/soft.webp", tarfile.SYMTYPE, "/etc/passwd")
        add("ok/hard.webp", tarfile.LNKTYPE, "ok/good.webp")
        add("ok/fifo.webp", tarfile.FIFOTYPE)
    source = list_source(tmp_path / "a.tar")
    assert [e.name for e in source.entries] == ["ok/good.webp"]
    assert (source[0].frames == noise(0)).all()
    reasons = dict(source.skipped)
    assert set(reasons) == {
        "../up.webp",
        "/abs.webp",
        "ok/soft.webp",
        "ok/hard.webp",
        "ok/fifo.webp",
    }
    assert all("link" in reasons[f"ok/{name}.webp"] for name in ("soft", "hard"))


def test_damaged_archives_name_the_archive(tmp_path, tree):
    zipped(tree[0], tmp_path / "a.zip")
    data = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"cut\.zip"):
        list_source(tmp_path / "cut.zip")
    at = data.index(b"walk/a.webp") + 60  # inside the compressed bytes of the first clip
    (tmp_path / "bad.zip").write_bytes(data[:at] + bytes(40) + data[at + 40 :])
    assert "damaged" in dict(list_source(tmp_path / "bad.zip").skipped)["walk/a.webp"]


def tar_of(path, count=10, mode="w", data=bytes(1000)):
    with tarfile.open(path, mode) as archive:
        for n in range(count):
            info = tarfile.TarInfo(f"{n}.mp4")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path.read_bytes()


def test_a_damaged_tar_loses_no_clip_without_a_word(tmp_path):
    data = tar_of(tmp_path / "a.tar")  # of 1536 bytes a member
    assert len(list_source(tmp_path / "a.tar")) == 10
    at = 5 * 1536
    harmed = {
        "header": data[: at + 148] + b"xx" + data[at + 150 :],  # its checksum
        "cut": data[: at + 100],
        "unended": data[:at],
        "middle": data[: at - 600],
    }
    for name, content in harmed.items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            list_source(path)
        said = str(caught.value)
        assert path.name in said, name
        assert name == "middle" or "after 5 members" in said, said


def test_a_damaged_xz_names_the_archive(tmp_path):
    text = b"".join(b"%d " % n for n in range(20000))
    data = bytearray(tar_of(tmp_path / "a.tar.xz", mode="w:xz", data=text))
    data[len(data) // 2 : len(data) // 2 + 50] = bytes(50)
    (tmp_path / "a.tar.xz").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.tar\.xz: "):
        list_source(tmp_path / "a.tar.xz")


def test_a_damaged_text_in_a_zip_harms_no_clip(tmp_path):
    array = put(tmp_path / "a.webp")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.webp", "a.webp")
        archive.writestr("README", "all free")
    data = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(data.replace(b"all free", b"all frXe"))
    source = list_source(tmp_path / "a.zip")
    assert len(source) == 1 and (source[0].frames == array).all()
    ((name, why),) = source.skipped
    assert name == "README" and "CRC" in why and source.ignored == 0


def _counted(real, calls, file, *arguments, **options):
    calls.append(file)
    return real(file, *arguments, **options)


def test_an_archive_of_arrays_is_opened_once(tmp_path, monkeypatch):
    array = noise(0)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "b.npz", v=array)
    names = [f"{n:02d}" + (".npy", ".npz")[n % 2] for n in range(20)]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z, tarfile.open(tmp_path / "a.tar", "w") as t:
        for n, name in enumerate(names):
            for add in (z.write, t.add):
                add(tmp_path / ("a.npy", "b.npz")[n % 2], name)
    for path in (tmp_path / "a.zip", tmp_path / "a.tar"):
        opened = []
        for module, name in ((zipfile, "ZipFile"), (tarfile, "open")):
            real = getattr(module, name)
            monkeypatch.setattr(module, name, functools.partial(_counted, real, opened))
        collect(str(path), Limits())
        monkeypatch.undo()
        source = list_source(path)
        assert sum(file == str(path) for file in opened) <= 2  # once of which, to know its kind
        assert [e.name for e in source.entries] == names  # a tar that ends with a zip is a tar
        assert (source[7].frames == array).all()


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["t/walk/a", "t/run/b"], {"walk/a": "walk", "run/b": "run"}),
        (["t/a", "t/walk/b"], {"a": UNLABELLED, "walk/b": "walk"}),
        (["clips/a", "clips/b"], {"clips/a": "clips", "clips/b": "clips"}),
        (["walk/a", "run/b"], {"walk/a": "walk", "run/b": "run"}),
        (["a", "walk/b"], {"a": UNLABELLED, "walk/b": "walk"}),
    ],
)
def test_a_folder_around_an_archive_is_looked_through(tmp_path, names, wanted):
    put(tmp_path / "a.webp")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.write(tmp_path / "a.webp", f"{name}.webp")
    source = list_source(tmp_path / "a.zip")
    found = {e.name: source.classes[n] for e, n in zip(source.entries, source.labels, strict=True)}
    assert found == {f"{name}.webp": label for name, label in wanted.items()}


def test_numbers_as_class_names_lie_in_the_order_of_their_values(tmp_path):
    """So the place of a class is its number where all of them, from 0 on, are there."""
    clips = np.stack([noise(n) for n in range(12)])
    for kind in (np.int64, np.str_, np.bytes_):
        np.savez(tmp_path / "n.npz", video=clips, labels=np.arange(12).astype(kind))
        source = list_source(tmp_path / "n.npz", PackSettings())
        assert source.classes == tuple(map(str, range(12)))
        assert source.labels.tolist() == [entry.ref["index"] for entry in source.entries]
    np.savez(tmp_path / "n.npz", video=clips[:2], labels=np.float32([0.1, 2]))
    assert list_source(tmp_path / "n.npz", PackSettings()).classes == ("0.1", "2.0")
    odd = np.array(["b", "10", "-2", "2.5", "2", "a10", "a9", "\u00b2"])
    np.savez(tmp_path / "n.npz", video=clips[:8], labels=odd)
    ordered = ("-2", "2", "2.5", "10", "a10", "a9", "b", "\u00b2")
    assert list_source(tmp_path / "n.npz", PackSettings()).classes == ordered
    np.savez(tmp_path / "n.npz", video=clips[:2], labels=np.array([b"\xc3\xa9", b"\xff"]))
    assert list_source(tmp_path / "n.npz", PackSettings()).classes == ("\\xff", "\u00e9")


@pytest.mark.parametrize("inner", ["m.npz", "top/m.npz", "top/arrays/m.npz"])
def test_labels_in_an_array_outlive_the_folder_around_an_archive(tmp_path, inner):
    np.savez(tmp_path / "m.npz", v=np.stack([noise(0), noise(1)]), labels=np.array(["b", "a"]))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "m.npz", inner)
    source = list_source(tmp_path / "a.zip")
    short = inner.removeprefix("top/")
    assert [(e.name, e.label) for e in source.entries] == [
        (f"{short}[0]", "b"),
        (f"{short}[1]", "a"),
    ]


@pytest.mark.parametrize("folder", ["wave", "#1"])
def test_clips_beside_class_folders_are_kept_and_visible(tmp_path, folder):
    put(tmp_path / "a.webp")
    put(tmp_path / folder / "b.webp")
    source = list_source(tmp_path)
    assert source.classes == tuple(sorted((UNLABELLED, folder)))
    of = {e.name: source.classes[n] for e, n in zip(source.entries, source.labels, strict=True)}
    assert of == {"a.webp": UNLABELLED, f"{folder}/b.webp": folder}


def test_no_classes(tmp_path):
    put(tmp_path / "wave" / "b.webp")
    assert list_source(tmp_path, PackSettings(labels="none")).classes == ()
    (tmp_path / "wave" / "b.webp").rename(tmp_path / "b.webp")
    source = list_source(tmp_path)
    assert source.classes == () and source.labels.tolist() == [0]
    with pytest.raises(ConfigError, match=r"data\.labels='file'"):
        list_source(tmp_path, PackSettings(labels="file"))


def test_frames_are_in_numeric_order_and_a_folder_may_be_the_clip(tmp_path):
    array = put_frames(tmp_path / "clip", names="img{:d}.png")
    source = list_source(tmp_path / "clip")
    assert len(source) == 1 and (source[0].frames == array).all()


def test_sequences_side_by_side_are_clips_of_their_own(tmp_path):
    rgb = put_frames(tmp_path / "walk" / "one", 1, names="rgb_{:03d}.png")
    for n, frame in enumerate(noise(2, count=12)):
        Image.fromarray(frame).save(tmp_path / "walk" / "one" / f"depth_{n:03d}.png")
    twice = put_frames(tmp_path / "wave" / "two", 3, names="{:.2f}.png")
    for n, frame in enumerate(twice):
        Image.fromarray(frame).save(tmp_path / "wave" / "two" / f"{n:.2f}.jpg")
    times = put_frames(tmp_path / "wave" / "three", 4, names="{}.png")
    for n in range(11, -1, -1):  # times 0.05, 0.1, 0.15 as they are printed
        folder = tmp_path / "wave" / "three"
        (folder / f"{n}.png").rename(folder / f"at{0.05 * (n + 1):.4g}.png")
    source = list_source(tmp_path)
    clips = {entry.name: source[n].frames for n, entry in enumerate(source.entries)}
    names = ["walk/one [depth]", "walk/one [rgb]", "wave/three", "wave/two"]
    assert sorted(clips) == names and source.classes == ("walk", "wave")
    for name, wanted in zip(names[1:], (rgb, times, twice), strict=True):
        assert (clips[name] == wanted).all(), name
    (name, why), = source.skipped  # fmt: skip
    assert name == "wave/two [frames.jpg]" and "again, in another format" in why
    (tmp_path / "list.csv").write_text("path\nwave/two\nwalk/one\n")
    source = list_source(tmp_path / "list.csv")
    assert [entry.name for entry in source.entries] == ["wave/two"]
    assert "it holds [depth], [rgb]" in dict(source.skipped)["walk/one"]


def test_folders_of_two_sequences_are_no_classes(tmp_path):
    for scene in ("one", "two"):
        put_frames(tmp_path / scene, names="rgb_{:03d}.png")
        for n, frame in enumerate(noise(2, count=12)):
            Image.fromarray(frame).save(tmp_path / scene / f"depth{n:03d}.png")
    source = list_source(tmp_path)
    assert len(source) == 4 and not source.classes


def test_folders_in_a_zip_may_be_parted_by_backslashes(tmp_path):
    first, second = put(tmp_path / "a.webp", 1), put(tmp_path / "b.webp", 2)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("walk\\a.webp", (tmp_path / "a.webp").read_bytes())
        archive.writestr("wave\\deep\\b.webp", (tmp_path / "b.webp").read_bytes())
        archive.writestr("wave\\deep\\", b"")
        archive.writestr("..\\c.webp", (tmp_path / "b.webp").read_bytes())
    source = list_source(tmp_path / "all.zip")
    assert source.classes == ("walk", "wave")
    assert [entry.name for entry in source.entries] == ["walk/a.webp", "wave/deep/b.webp"]
    assert (source[0].frames == first).all() and (source[1].frames == second).all()
    assert len(source.skipped) == 1


def test_a_header_may_have_spaces(tmp_path):
    put(tmp_path / "a.webp")
    (tmp_path / "list.csv").write_text('path, label, caption\na.webp, walk, "a dog, running"\n')
    (entry,) = list_source(tmp_path / "list.csv").entries
    assert entry.label == "walk" and entry.caption == "a dog, running"


def test_a_bad_frame_is_named(tmp_path):
    put_frames(tmp_path / "clip", names="img{:d}.png")
    (tmp_path / "clip" / "img7.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"img7\.png"):
        list_source(tmp_path)[0]
    Image.fromarray(noise(0, count=1, height=8)[0]).save(tmp_path / "clip" / "img7.png")
    with pytest.raises(DataError, match=r"img7\.png is 20x8, the first one 20x16"):
        list_source(tmp_path)[0]


def test_pictures_that_are_no_clip_are_refused(tmp_path):
    Image.fromarray(noise(0)[0]).save(tmp_path / "cover.png")
    put(tmp_path / "a.webp")
    put(tmp_path / "named" / "b.webp")
    for name in ("left", "right"):
        Image.fromarray(noise(0)[0]).save(tmp_path / "named" / f"{name}.png")
    (tmp_path / "single").mkdir()
    Image.fromarray(noise(0)[0]).save(tmp_path / "single" / "still.jpg")
    (tmp_path / "words").mkdir()
    for name in ("left", "right"):
        Image.fromarray(noise(0)[0]).save(tmp_path / "words" / f"{name}.png")
    source = list_source(tmp_path)
    reasons = dict(source.skipped)
    assert "single still" in reasons["single/still.jpg"]
    assert "not numbered" in reasons["words"]


def test_webp_frames_are_frames_and_webp_animations_are_clips(tmp_path):
    put(tmp_path / "moving" / "1.webp")
    put(tmp_path / "moving" / "2.webp")
    (tmp_path / "still").mkdir()
    for n in range(3):
        Image.fromarray(noise(n)[0]).save(tmp_path / "still" / f"{n}.webp", lossless=True)
    source = list_source(tmp_path)
    assert [e.name for e in source.entries] == ["moving/1.webp", "moving/2.webp", "still"]
    assert (source[2].frames == np.stack([noise(n)[0] for n in range(3)])).all()


def test_a_manifest_gives_labels_captions_and_windows(tmp_path):
    array = put(tmp_path / "clips" / "a.webp", count=10)
    frames = put_frames(tmp_path / "clips" / "f")
    (tmp_path / "list.csv").write_text(
        "path,label,caption,start,end,extra\n"
        'clips/a.webp,walk,"a man, walking",0.25,0.75,1\n'
        "clips/a.webp,wave,,,,\n"
        "clips/f,,,,,\n"
        "clips/absent.webp,walk,,,,\n",
        "utf-8",
    )
    source = list_source(tmp_path / "list.csv")
    assert [e.name for e in source.entries] == ["clips/a.webp", "clips/a.webp@0.25-0.75", "clips/f"]
    assert source.classes == (UNLABELLED, "walk", "wave")
    assert source.labels.tolist() == [2, 1, 0]
    assert source.entries[1].caption == "a man, walking"
    assert (source[0].frames == array).all()
    assert (source[1].frames == array[3:8]).all()
    assert source[1].times == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7])
    assert (source[2].frames == frames).all()
    ((name, why),) = source.skipped
    assert name == "clips/absent.webp" and why == "line 5: no such file or directory"


def test_a_manifest_cuts_arrays_too(tmp_path):
    array = noise(0, count=50)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "b.npz", v=array)
    (tmp_path / "list.csv").write_text("path,start,end\na.npy,0.4,1\nb.npz,0.4,1\n")
    source = list_source(tmp_path / "list.csv")
    assert [e.name for e in source.entries] == ["a.npy@0.4-1.0", "b.npz@0.4-1.0"]
    for n in range(2):
        assert (source[n].frames == array[10:25]).all()


def test_a_manifest_counts_lines_as_an_editor_does(tmp_path):
    put(tmp_path / "a.webp")
    text = 'path,caption\na.webp,"two\nlines"\n\nabsent.webp,x\n'
    (tmp_path / "list.csv").write_text(text)
    source = list_source(tmp_path / "list.csv")
    assert source.entries[0].caption == "two\nlines"
    assert source.skipped == (("absent.webp", "line 5: no such file or directory"),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path\na\0b.webp\n", r"line 2: path='a\\x00b\.webp' holds a zero byte"),
        ("file,label\na.webp,x\n", "column 'path'"),
        ("path\n", "column 'path'"),
        ("path,start,end\na.webp,2,1\n", "line 2: end=1.0 is not after start=2.0"),
        ("path,start,end\na.webp,soon,1\n", "line 2: start='soon' is no number"),
        ("path,start,end\na.webp,-1,1\n", "line 2: start='-1' is no number"),
        ("path,start,end\na.webp,0,nan\n", "line 2: end='nan' is no number"),
        (
            "path, caption\na.webp, a dog, running\n",
            "line 2 has 3 cells for 2 columns; a text with",
        ),
    ],
)
def test_a_bad_manifest_names_its_line(tmp_path, text, said):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        list_source(tmp_path / "list.csv")
    assert "list.csv" in str(caught.value)


def test_single_files_are_sources(tmp_path):
    array = put(tmp_path / "a.webp")
    assert (list_source(tmp_path / "a.webp")[0].frames == array).all()
    many = np.stack([noise(0), noise(1)])
    np.savez(tmp_path / "m.npz", video=many, labels=np.array(["b", "a"]), fps=np.float64(12.5))
    source = list_source(tmp_path / "m.npz")
    assert source.classes == ("a", "b") and source.labels.tolist() == [1, 0]
    assert (source[1].frames == many[1]).all() and source[1].fps == pytest.approx(12.5)


def test_an_animated_png_is_a_clip_by_itself_too(tmp_path):
    array = noise(0)
    first, *rest = (Image.fromarray(frame) for frame in array)
    first.save(tmp_path / "a.png", save_all=True, append_images=rest, duration=100)
    for path in (tmp_path, tmp_path / "a.png"):
        assert (list_source(path)[0].frames == array).all()


def npy(shape, kind="|u1", data=b""):
    file = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + data


def npz(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path.read_bytes()


def test_arrays_that_claim_much_or_nonsense_are_refused(tmp_path):
    put(tmp_path / "ok.webp")
    unclosed = b"{'descr': '|u1', 'shape': (5, 8, 8".ljust(117) + b"\n"
    clip = npy((5, 8, 8, 3), data=bytes(960))
    bad = {
        "many.npy": npy((10**6, 4, 8, 8, 3)),
        "unclosed.npy": b"\x93NUMPY\x01\x00" + len(unclosed).to_bytes(2, "little") + unclosed,
        "header.npy": b"\x93NUMPY\x02\x00" + (1 << 31).to_bytes(4, "little") + b"{",
        "empty.npy": b"",
        "labels.npz": npz(tmp_path / "x.npz", v=clip, label=npy((10**13,), "<i8")),
        "nothings.npz": npz(tmp_path / "x.npz", v=clip, label=npy((10**13,), "|S0")),
        "long.npz": npz(tmp_path / "x.npz", v=clip, label=npy((), "|S100000000", bytes(10**8))),
        "many.npz": npz(tmp_path / "x.npz", v=npy((10**6, 4, 8, 8, 3))),
    }
    (tmp_path / "x.npz").unlink()
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    source = list_source(tmp_path)
    assert [e.name for e in source.entries] == ["ok.webp"]
    reasons = dict(source.skipped)
    assert set(reasons) == set(bad)
    cut = "is cut off: its header declares 768000000 bytes, it has 0"
    assert reasons["many.npy"] == reasons["many.npz"] == cut
    assert "no header that NumPy can read: TokenError" in reasons["unclosed.npy"]
    assert reasons["header.npy"].startswith("its header claims 2147483648 bytes")
    assert reasons["labels.npz"].startswith("is cut off: its header declares 80000000000000 bytes")
    assert reasons["nothings.npz"] == "has 10000000000000 labels for 1 clips in v"
    assert reasons["long.npz"].startswith("its labels take 100000000 bytes")


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((4, 8, 8, 3), np.float32), "float32; clips are uint8"),
        (np.zeros((8, 8), np.uint8), "shape"),
        (np.array([object()]), "object"),
    ],
)
def test_arrays_that_are_no_clips(tmp_path, array, said):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=said) as caught:
        list_source(tmp_path)
    assert "a.npy" in str(caught.value)


def test_toy_and_missing_paths(tmp_path):
    assert isinstance(open_source("toy"), ToySource)
    toy = open_source("toy:clips=12,frames=5,size=16,seed=3")
    assert len(toy) == 12 and toy[0].shape == (5, 16, 16, 3)
    with pytest.raises(ConfigError, match="clip=1"):
        open_source("toy:clip=1")
    with pytest.raises(DataError, match=r"absent: no such file"):
        open_source(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no clip"):
        open_source(tmp_path)


def test_nasty_files_have_reasons_and_harm_nothing(tmp_path, caplog):
    root = tmp_path / "nasty"
    array = put(root / "good.webp")
    put(root / "one frame.webp", count=1)
    (root / "empty.mp4").write_bytes(b"")
    (root / "text.mp4").write_text("no video\n" * 100)
    os.mkfifo(root / "fifo.mp4")
    (root / "sub").mkdir()
    (root / "sub" / "loop").symlink_to(root, target_is_directory=True)
    (root / "broken.mp4").symlink_to(root / "nowhere.mp4")
    (root / "circle.mp4").symlink_to(root / "circle.mp4")
    (root / "device.mp4").symlink_to("/dev/zero")
    (root / "linked.webp").symlink_to(root / "good.webp")
    if sys.platform == "linux":
        with open(os.fsencode(root) + b"/\xff\xfe.webp", "wb") as file:
            file.write((root / "good.webp").read_bytes())
    started = time.monotonic()
    source = list_source(root)
    assert time.monotonic() - started < 5
    reasons = dict(source.skipped)
    assert reasons.pop("fifo.mp4") == "is not a regular file (FIFO)"
    assert reasons.pop("device.mp4") == "is not a regular file (device)"
    assert reasons.pop("broken.mp4") == "is a broken link"
    assert "symbolic links" in reasons.pop("circle.mp4")
    assert "link to a folder that it lies in" in reasons.pop("sub/loop")
    assert not reasons
    names = [entry.name for entry in source.entries]
    good = [
        n for n, name in enumerate(names) if name in ("good.webp", "linked.webp", "\\xff\\xfe.webp")
    ]
    assert len(good) == (3 if sys.platform == "linux" else 2)
    for n in good:
        assert (source[n].frames == array).all()
    assert source[names.index("one frame.webp")].frames.shape == (1, 16, 20, 3)
    for name in ("empty.mp4", "text.mp4"):
        with pytest.raises(DataError, match=name):
            source[names.index(name)]
    # And when they are packed: one warning each, counted.
    caplog.clear()
    store = open_store(root, PackSettings(size=16), cache=tmp_path / "cache")
    bad = {
        "fifo.mp4",
        "device.mp4",
        "broken.mp4",
        "circle.mp4",
        "sub/loop",
        "empty.mp4",
        "text.mp4",
    }
    assert {name for name, _ in store.skipped} == bad and len(store.skipped) == len(bad)
    assert sorted(m.split(": ")[0] for m in caplog.messages) == sorted(bad)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind root")
def test_files_without_permission_have_a_reason(tmp_path):
    put(tmp_path / "a.mp4", height=32, width=32)
    put(tmp_path / "b" / "c.webp")
    (tmp_path / "a.mp4").chmod(0)
    (tmp_path / "b").chmod(0)
    try:
        source = list_source(tmp_path)
        assert dict(source.skipped) == {"b": "permission denied"}
        with pytest.raises(DataError, match=r"a\.mp4: permission denied"):
            source[0]
    finally:
        (tmp_path / "b").chmod(0o755)


def test_five_thousand_files_list_at_once(tmp_path):
    for n in range(5000):
        (tmp_path / f"{n}.mp4").write_bytes(b"x")
    started = time.monotonic()
    assert len(list_source(tmp_path)) == 5000
    assert time.monotonic() - started < 10


def test_files_without_a_suffix_are_known_by_their_head(tmp_path):
    put(tmp_path / "a.webp")
    (tmp_path / "a.webp").rename(tmp_path / "film")
    (tmp_path / "LICENSE").write_text("free")
    source = list_source(tmp_path)
    assert [e.name for e in source.entries] == ["film"] and source.ignored == 1


def test_sound_beside_clips_is_counted_and_left_alone(tmp_path):
    put(tmp_path / "film.webp")
    (tmp_path / "film.wav").write_bytes(b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(28))
    (tmp_path / "sound").write_bytes(b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(28))
    (tmp_path / "film.m4a").write_bytes(b"\x00\x00\x00\x20ftypM4A " + bytes(20))
    source = list_source(tmp_path)
    assert [e.name for e in source.entries] == ["film.webp"]
    assert (source.skipped, source.ignored) == ((), 3)


def test_the_fingerprint_notices_changes(tmp_path):
    put(tmp_path / "x" / "a.webp")
    first = list_source(tmp_path).fingerprint
    assert list_source(tmp_path).fingerprint == first
    assert list_source(tmp_path, PackSettings(labels="none")).fingerprint != first
    os.utime(tmp_path / "x" / "a.webp", ns=(1, 1))
    second = list_source(tmp_path).fingerprint
    (tmp_path / "x" / "a.webp").rename(tmp_path / "x" / "b.webp")
    assert len({first, second, list_source(tmp_path).fingerprint}) == 3


def test_the_fingerprint_notices_each_frame(tmp_path):
    for n in range(4):
        Image.fromarray(noise(n)[0]).save(tmp_path / f"{n}.bmp")
        os.utime(tmp_path / f"{n}.bmp", (1e9 + n, 1e9 + n))
    first = list_source(tmp_path).fingerprint
    assert list_source(tmp_path).fingerprint == first
    for old, new in (("0", "t"), ("2", "0"), ("t", "2")):
        (tmp_path / f"{old}.bmp").rename(tmp_path / f"{new}.bmp")
    second = list_source(tmp_path).fingerprint
    os.utime(tmp_path / "1.bmp", (9e8, 9e8))  # replaced by an older one of the same size
    assert len({first, second, list_source(tmp_path).fingerprint}) == 3


@pytest.mark.parametrize(
    ("folder", "clips", "classes"),
    [("actions64", 56, 4), ("shapes64", 1000, 2), ("sprites64", 576, 9), ("natural128", 166, 14)],
)
def test_shared_folders_list_entirely(shared, folder, clips, classes):
    source = list_source(shared / folder)
    assert (len(source), len(source.classes), source.skipped) == (clips, classes, ())
