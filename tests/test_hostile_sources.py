"""Listing what is made to do harm, or odd: bounded, named, and nothing else is lost."""

import bz2
import io
import logging
import os
import sys
import tarfile
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import rich.console

from vidgen.cli.main import COMMANDS, main
from vidgen.cli.process import _Legible
from vidgen.data import archives, collecting, listing, showing
from vidgen.data.collecting import collect
from vidgen.data.inspect import inspect
from vidgen.data.limits import DEPTH, OF_ARRAY, RATIO, WAYS, Limits
from vidgen.data.listing import list_source
from vidgen.data.manifest import typed
from vidgen.data.pack import open_store
from vidgen.data.settings import PackSettings
from vidgen.data.workers import Disturbed, Overtime
from vidgen.errors import DataError
from vidgen.run import logs
from vidgen.text import legible, plain, printable
from vidgen.video import decoding, writing
from vidgen.video.decoding import Unreadable
from vidgen.video.sequences import natural

# What a terminal obeys: ESC, a C1 control, a carriage return, a turn of the direction, a bell.
OBEYED = "\x1b[31m\x9b2J\r\u202e\x07"
RAW = set(OBEYED) - set("[31m2J")


@pytest.fixture(scope="module")
def webp(tmp_path_factory):
    """The bytes of a clip of 5 frames."""
    path = tmp_path_factory.mktemp("clip") / "a.webp"
    array = np.random.default_rng(0).integers(0, 256, (5, 16, 20, 3), np.uint8)
    writing.write_video(path, array, fps=10)
    return path.read_bytes()


def npy(shape, data=b""):
    file = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + data


def add(archive, name, data, **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    archive.addfile(info, io.BytesIO(data))


def names(source):
    return [entry.name for entry in source.entries]


def test_names_of_a_million_digits_cost_nothing(tmp_path, webp):
    """One is refused, and where they are compared they are not made numbers."""
    long = "9" * 1_500_000
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        add(archive, f"{long}.webp", webp)
        add(archive, "a/" * 30 + "x" * 300 + ".webp", webp)
        add(archive, "b.webp", webp)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in (f"{long[:60000]}.webp", "a/" * 2500 + "a.webp", "b.webp"):
            archive.writestr(name, webp)
    began = time.monotonic()
    for path in (tmp_path / "a.tar", tmp_path / "a.zip"):
        source = list_source(path)
        assert names(source) == ["b.webp"] and len(source.skipped) == 2
        for name, why in source.skipped:
            assert why.startswith(("has a name of ", "has a header of 15000")) and len(name) < 210
    assert natural(f"a{long}") > natural(f"a{long[1:]}") > natural("a10") > natural("a9b")
    assert time.monotonic() - began < 10


def test_numbers_in_names_are_compared_as_numbers():
    rng = np.random.default_rng(0)
    parts = ["", "a", "b", "_", "0", "7", "10", "007", "12345678901234567890"]
    some = ["".join(rng.choice(parts, rng.integers(1, 7))) for _ in range(2000)]

    def key(name):
        key = [""]
        for char in name:
            if char.isdigit() != isinstance(key[-1], int):
                key.append(0 if char.isdigit() else "")
            key[-1] = key[-1] * 10 + int(char) if char.isdigit() else key[-1] + char
        return key, name

    assert sorted(some, key=natural) == sorted(some, key=key)


def test_cells_of_many_digits_cost_nothing():
    began = time.monotonic()
    for cell in ("9" * 100_000 + "x", "9" * 100_000, "." + "9" * 100_000 + "e", "1e" + "9" * 9999):
        assert typed([cell, "1"]).dtype == object
    assert typed(["1.", ".5", "", "2e3"]).dtype == np.float32
    assert time.monotonic() - began < 2


def test_a_header_that_is_slow_to_read_is_given_up(tmp_path, webp):
    """Tarfile looks for a word in a further header by an expression that takes quadratic time."""
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        add(archive, "9" * 130_000 + ".webp", webp)
        add(archive, "b.webp", webp)
    began = time.monotonic()
    with pytest.raises(DataError, match=r"a\.tar: cannot be listed: took longer than"):
        list_source(tmp_path / "a.tar", PackSettings(limits=Limits(seconds=0.5)))
    assert time.monotonic() - began < 20


def test_an_archive_that_expands_without_end_is_refused(tmp_path, webp):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as archive:
        add(archive, "a.webp", webp)
        info = tarfile.TarInfo("zeros.npy")
        info.size = 1 << 40
        archive.addfile(info)
    with open(tmp_path / "a.tar.bz2", "wb") as file:
        file.write(bz2.compress(inner.getvalue()[: 2 * 1024 + len(webp)]))
        file.write(bz2.compress(bytes(1 << 24)) * 8)
    began = time.monotonic()
    with pytest.raises(DataError, match=rf"a\.tar\.bz2: expands to more than {RATIO} times"):
        list_source(tmp_path / "a.tar.bz2")
    assert time.monotonic() - began < 10


def test_arrays_of_very_many_clips_are_refused(tmp_path, webp):
    """A few bytes claim them, and each would be an entry."""
    count = OF_ARRAY + 1
    with zipfile.ZipFile(tmp_path / "m.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("v.npy", npy((count, 2, 2, 2, 3), bytes(24 * count)))
    (tmp_path / "a.webp").write_bytes(webp)
    assert (tmp_path / "m.npz").stat().st_size < 100_000
    source = list_source(tmp_path)
    assert names(source) == ["a.webp"]
    assert dict(source.skipped) == {"m.npz": f"holds more than {OF_ARRAY} clips"}


def test_more_files_or_clips_than_anyone_has_are_refused(tmp_path, webp, monkeypatch):
    for n in range(4):
        (tmp_path / f"{n}.webp").write_bytes(webp)
    for limit, said in (("MEMBERS", "more than 3 files"), ("CLIPS", "more than 3 clips")):
        with monkeypatch.context() as patch:
            patch.setattr(collecting, limit, 3)
            with pytest.raises(Unreadable, match=said):
                collect(str(tmp_path), Limits())


def test_a_file_that_costs_too_much_is_refused_by_name_and_the_others_are_listed(tmp_path, webp):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("v.npy", npy((100, 1024, 1024, 3), bytes(300 << 20)))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/bomb.npz", bytes(500 << 20))
        archive.writestr("x/a.webp", webp)
        archive.writestr("y/fine.npy", npy((5, 16, 16, 3), bytes(5 * 16 * 16 * 3)))
    source = list_source(tmp_path / "a.zip", PackSettings(limits=Limits(seconds=0.25)))
    assert names(source) == ["x/a.webp", "y/fine.npy"]
    assert source.skipped == (("x/bomb.npz", "took longer than data.limits.seconds=0.25"),)


def test_an_archive_in_disorder_is_read_once(tmp_path):
    """A compressed tar is read anew where one goes back in it."""
    array = io.BytesIO()
    np.savez(array, v=np.zeros((5, 16, 16, 3), np.uint8))
    order = np.random.default_rng(0).permutation(60)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for n in order:
            add(archive, f"{n}/m.npz", array.getvalue())
            add(archive, f"{n}/text.mp4", np.random.default_rng(n).bytes(50_000))
    back, real = [], tarfile.ExFileObject

    class Counted(real):
        def __init__(self, archive, info):
            back.append(info.offset_data)
            super().__init__(archive, info)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tarfile.TarFile, "fileobject", Counted)
        found = collect(str(tmp_path / "a.tar.gz"), Limits())
    assert len(found.entries) == 120 and back == sorted(back) and len(back) == 60


def test_links_lead_neither_up_nor_everywhere(tmp_path, webp, monkeypatch):
    root = tmp_path / "data"
    for n in range(18):
        (root / f"{n:02}").mkdir(parents=True)
    (root / "17" / "a.webp").write_bytes(webp)
    for n in range(17):
        for name in "ab":  # 2^17 ways to the last
            (root / f"{n:02}" / name).symlink_to(root / f"{n + 1:02}")
    for name, target in (("up", ".."), ("top", "/"), ("here", ".")):
        (root / name).symlink_to(target)
    entered, real = [], os.listdir
    monkeypatch.setattr(archives.os, "listdir", lambda path: entered.append(path) or real(path))
    found = collect(str(root), Limits())
    assert len(entered) < 18 * WAYS * 3 and 1 <= len(found.entries) <= WAYS
    reasons = dict(found.skipped)
    assert {reasons[name] for name in ("up", "top", "here")} == {
        "is a link to a folder that it lies in"
    }
    assert f"is a folder that {WAYS} other links lead to" in reasons.values()


def test_a_link_to_clips_elsewhere_is_followed(tmp_path, webp):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.webp").write_bytes(webp)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "walk").symlink_to(tmp_path / "elsewhere")
    assert names(list_source(tmp_path / "data")) == ["walk/a.webp"]


def test_what_lies_deep_is_called_that(tmp_path, webp):
    deep = tmp_path / "data" / "/".join("d" * (DEPTH + 2))
    deep.mkdir(parents=True)
    for folder in (deep, tmp_path / "data"):
        (folder / "a.webp").write_bytes(webp)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.webp", webp)
        archive.writestr("d/" * (DEPTH + 1) + "a.webp", webp)
    for path in (tmp_path / "data", tmp_path / "a.zip"):
        source = list_source(path)
        assert names(source) == ["a.webp"]
        assert [why for _, why in source.skipped] == [f"lies deeper than {DEPTH} folders"]


def test_a_line_of_a_manifest_names_one_folder(tmp_path, webp, monkeypatch):
    """Whatever lies below it is not walked through."""
    from PIL import Image

    frames = tmp_path / "frames"
    (frames / "more" / "deep").mkdir(parents=True)
    for n in range(3):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(frames / f"{n}.png")
    (tmp_path / "a.webp").write_bytes(webp)
    (tmp_path / "list.csv").write_text(f"path\na.webp\nframes\n/\n..\n{tmp_path}\n")
    entered, real = [], os.listdir
    monkeypatch.setattr(archives.os, "listdir", lambda path: entered.append(path) or real(path))
    found = collect(str(tmp_path / "list.csv"), Limits())
    assert sorted(names(found)) == ["a.webp", "frames"] and len(entered) == 4
    assert len(found.skipped) == 3
    assert all("is a folder, but not one of numbered frames" in why for _, why in found.skipped)


def test_a_file_that_ends_the_process_is_left_out_and_the_rest_listed(tmp_path, webp, monkeypatch):
    (tmp_path / "a.webp").write_bytes(webp)
    real, asked_for = listing.Worker.decode, []

    def struck(self, asked, sink, told=None):
        asked_for.append(dict(asked["bad"]))
        for name, ends in (("crash.png", Disturbed("SIGSEGV", crash=True)), ("slow.npy", slow)):
            if name not in asked["bad"]:
                told({"at": name})
                raise ends
        return real(self, asked, sink, told)

    slow = Overtime("took longer")
    monkeypatch.setattr(listing.Worker, "decode", struck)
    assert names(list_source(tmp_path)) == ["a.webp"]
    bad = {"crash.png": "SIGSEGV"}
    assert asked_for == [{}, {}, bad, bad | {"slow.npy": "took longer"}]

    def killed(self, asked, sink, told=None):
        told({"at": "b.npy"})
        raise Disturbed("was killed", crash=False)

    monkeypatch.setattr(listing.Worker, "decode", killed)
    with pytest.raises(DataError, match=r"b\.npy: was killed, again when tried again"):
        list_source(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a file that gives EIO")
def test_a_disk_that_does_not_answer_ends_the_listing(tmp_path, webp):
    """It is no reason that a pack could keep."""
    (tmp_path / "a.webp").write_bytes(webp)
    (tmp_path / "x").mkdir()
    for name in ("b.npy", "x/d.png", "unnamed"):
        (tmp_path / name).symlink_to("/proc/self/mem")
        with pytest.raises(DataError, match=f"{name}: input/output error, again") as caught:
            list_source(tmp_path)
        assert caught.value.hint and caught.value.exit_code == 3
        (tmp_path / name).unlink()
    (tmp_path / "b.npy").symlink_to(tmp_path / "nowhere")
    assert dict(list_source(tmp_path).skipped) == {"b.npy": "is a broken link"}


def test_listing_takes_no_memory_of_the_parent(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("v.npy", npy((5, 16, 16, 3), bytes(5 * 16 * 16 * 3)))
        archive.writestr("label.npy", npy((60_000_000,), bytes(60_000_000)))
    tracemalloc.start()
    with pytest.raises(DataError):
        list_source(tmp_path / "m.npz")
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def used(path, cache):
    """Packs and inspects a path, and returns the names, the classes and what was refused."""
    source = list_source(path)
    report = inspect(path)
    console = rich.console.Console(file=io.StringIO(), width=500)
    showing.show(report, console)
    store = open_store(path, PackSettings(size=16), cache=cache)
    assert list(store.names) == names(source) == [clip.name for clip in report.clips]
    assert store.skipped == list(source.skipped) == list(report.skipped)
    text = console.file.getvalue()
    assert not set(text) & RAW
    return store


def test_odd_times_in_a_tar_are_no_reason_to_refuse(tmp_path, webp):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("inf", "-inf", "nan", "1e308", "-5"):
            add(archive, f"{name}.webp", webp, pax_headers={"mtime": name})
    assert len(used(tmp_path / "a.tar", tmp_path / "cache").names) == 5


SPARSE = {
    "map": {"GNU.sparse.map": "0,nothing", "GNU.sparse.size": "10"},
    "size": {"GNU.sparse.map": "0,1", "GNU.sparse.size": "x"},
    "offset": {"GNU.sparse.offset": "1", "GNU.sparse.numbytes": "9" * 5000, "GNU.sparse.size": "1"},
    "block": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"},
    "good": {"GNU.sparse.map": "0,5", "GNU.sparse.size": "10"},
}


@pytest.mark.parametrize("kind", SPARSE)
def test_a_sparse_member_is_refused_by_name(tmp_path, webp, kind, caplog):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        add(archive, "a.webp", webp)
        add(archive, "odd.webp", webp, pax_headers=SPARSE[kind])
        add(archive, "z.webp", webp)
    store = used(tmp_path / "a.tar", tmp_path / "cache")
    ((name, why),) = store.skipped
    assert store.names == ("a.webp", "z.webp") and name == "odd.webp"
    assert why == "is not a plain file" or "has a header that makes no sense" in why
    assert [m.split(":")[0] for m in caplog.messages] == ["odd.webp"]


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize(
    "odd, why",
    [
        ({"size": "9" * 30}, "has a header that makes no sense"),
        ({"path": "1" * 1_500_000 + ".webp"}, "has a header of 1500019 bytes"),
        ({}, "has a header that makes no sense"),
    ],
)
def test_a_member_whose_further_headers_are_absurd_is_refused_alone(tmp_path, webp, odd, why, at):
    names = ["a.webp", "b.webp", "c.webp"]
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for n, name in enumerate(names):
            if n == at and not odd:  # thousands of further headers, one before the other
                info = tarfile.TarInfo("x")
                info.pax_headers = {"comment": "x"}
                further = 3000 * info.tobuf(tarfile.PAX_FORMAT)[:1024]
                archive.fileobj.write(further)
                archive.offset += len(further)
            add(archive, name, webp, pax_headers=odd if n == at else {})
    store = used(tmp_path / "a.tar", tmp_path / "cache")
    assert store.skipped == [(names.pop(at), why)]
    assert list(store.names) == names


def test_names_in_a_zip_that_are_no_text_are_kept(tmp_path, webp):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a/plain.webp", "été/b.webp", "éü/c.webp"):
            archive.writestr(name, webp)
        archive.writestr("éü/m.npy", npy((5, 16, 16, 3), bytes(5 * 16 * 16 * 3)))
    path.write_bytes(path.read_bytes().replace("éü".encode(), b"\xff\xfe\x1b\x80"))
    store = used(path, tmp_path / "cache")
    assert len(store) == 4 and store.skipped == [] and len(store.classes) == 3
    assert {"a", "été"} < set(store.classes)
    assert all(name.isprintable() for name in store.names)


def test_labels_and_captions_hold_nothing_that_a_terminal_obeys(tmp_path, webp, caplog):
    clip = np.zeros((3, 5, 16, 16, 3), np.uint8)
    labels = np.array([f"a{OBEYED}", "b\ud800\udc80", "c\n"])
    np.savez(tmp_path / "m.npz", v=clip, labels=labels)
    store = used(tmp_path / "m.npz", tmp_path / "cache")
    assert store.classes == ("a\\x1b[31m\\x9b2J\\r\\u202e\\x07", "b\\ud800\\x80", "c\\n")
    (tmp_path / "a.webp").write_bytes(webp)
    text = f'path,label,caption,n{OBEYED}\na.webp,"x{OBEYED}","two\nlines{OBEYED}","y{OBEYED}"\n'
    lost = f"m{OBEYED[:5]}.webp"
    (tmp_path / "l.csv").write_text(f"{text}{lost},,,\n", newline="")
    store = used(tmp_path / "l.csv", tmp_path / "cache")
    assert not set("".join(store.classes)) & RAW
    assert not set("".join(store.columns)) & RAW
    caption = store.columns["caption"][0]
    assert caption.startswith("two\nlines\\x1b[31m") and "\x1b" not in caption
    assert "\x1b" not in caplog.text and "m\\x1b[31m.webp" in caplog.text


def test_text_of_all_scripts_stays_as_it_is(tmp_path, webp):
    texts = (
        "日本　語",
        "\u0645\u06cc\u200c\u062e\u0648",
        "👩\u200d👧",
        "עברית\u200f!",
        "a\u00a0b",
        "été",
    )
    (tmp_path / "a.webp").write_bytes(webp)
    rows = [f'a.webp,"{text}","{text}\r\nx",{n},{n + 0.2}' for n, text in enumerate(texts)]
    (tmp_path / "l.csv").write_text("path,label,caption,start,end\n" + "\n".join(rows), newline="")
    source = list_source(tmp_path / "l.csv")
    assert set(source.classes) == set(texts)
    assert {entry.caption for entry in source.entries} == {f"{text}\r\nx" for text in texts}


def test_what_text_becomes():
    assert legible("plain [x]\n", "\n") == "plain [x]\n"
    assert legible("\x1b\x9b\r\ud800\udcff\u2066") == "\\x1b\\x9b\\r\\ud800\\xff\\u2066"
    assert printable("\udcff\ud800\u3000é") == "\\xff\\ud800\\u3000é"
    assert plain("x" * 200, 200) == "x" * 200
    assert plain("x" * 201, 200) == "x" * 100 + " ... " + "x" * 100


def test_nothing_reaches_the_terminal_that_it_obeys(tmp_path, capsys, monkeypatch):
    assert main(["data", "inspect", str(tmp_path / f"none{OBEYED}")]) == 3

    def failing(options):
        raise DataError(f"a file {OBEYED}", f"a hint {OBEYED}")

    monkeypatch.setitem(COMMANDS, "doctor", failing)
    assert main(["doctor"]) == 3
    logs.say(f"said {OBEYED}\nand more")
    record = logging.LogRecord("vidgen", logging.WARNING, "", 0, f"{OBEYED}: skipped", (), None)
    print(_Legible("%(message)s").format(record), file=sys.stderr)
    said = capsys.readouterr().err
    assert not set(said) & RAW and said.count("\\x1b") == 5 and "\nand more" in said


def test_readers_that_open_other_files_are_off(tmp_path):
    allowed = decoding._formats().split(",")
    for name in ("vobsub", "mlv", "concat", "hls", "dash", "image2", "imf", "sdp", "lavfi",
                 "alias_pix", "brender_pix", "webm_dash_manifest", "v4l2", "x11grab"):  # fmt: skip
        assert name not in allowed, name
    import av

    devices = [n for n in allowed if n in av.formats_available and _opens_itself(av, n)]
    assert devices == [] and "matroska" in allowed
    (tmp_path / "a.sub").write_bytes(b"\0\0\1\xba" + bytes(2000))
    index = "# VobSub index file, v7 (do not modify this line!)\nsize: 720x480\nid: en, index: 0\n"
    (tmp_path / "a.idx").write_text(index + "timestamp: 00:00:01:000, filepos: 000000000\n")
    with pytest.raises(Unreadable, match="no video that FFmpeg can open"):
        next(decoding.timed_frames(tmp_path / "a.idx"))


def _opens_itself(av, name):
    """Tells whether FFmpeg leaves it to a format to open what it reads."""
    try:
        return av.ContainerFormat(name, "r").no_file
    except ValueError:  # it only writes
        return False


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="a file of Linux")
def test_files_that_the_system_makes_up_are_refused_and_stop_nothing(tmp_path, webp):
    """Reading them is an error of the system, and always the same."""
    (tmp_path / "a.webp").write_bytes(webp)
    for name in ("x.mp4", "x.mkv"):
        (tmp_path / name).symlink_to("/proc/self/mem")
    store = open_store(tmp_path, PackSettings(size=8), cache=tmp_path / "cache")
    assert len(store) == 1 and {name for name, _ in store.skipped} == {"x.mp4", "x.mkv"}


@pytest.mark.parametrize("fps", [np.array([1e300, -5]), np.array("x"), np.array(np.nan)])
def test_a_rate_that_is_no_number_is_named(tmp_path, fps):
    np.savez(tmp_path / "a.npz", video=np.zeros((2, 8, 16, 16, 3), np.uint8), fps=fps)
    with pytest.raises(DataError, match="its fps is"):
        list_source(tmp_path)[0]
