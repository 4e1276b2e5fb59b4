"""Captions: beside clips on disk, from there to batches; and of toy clips, from their rules."""

import collections
import dataclasses
import errno
import io
import logging
import re
import tarfile
import zipfile

import numpy as np
import pytest
import rich.console
from PIL import Image

from vidgen import seeds
from vidgen.data import archives, child, toy
from vidgen.data.captions import of_name
from vidgen.data.collecting import collect
from vidgen.data.entry import Entry
from vidgen.data.inspect import inspect
from vidgen.data.limits import Limits
from vidgen.data.listing import list_source
from vidgen.data.pack import Pack, open_store
from vidgen.data.settings import PackSettings
from vidgen.data.showing import lines, show
from vidgen.data.stream import Clips, empty_batch
from vidgen.data.toy import Scene, ToySource, scene
from vidgen.data.toy_captions import COLOURS, SHAPES, WORDINGS, caption, words
from vidgen.errors import ConfigError, DataError
from vidgen.runtime import devices

SMALL = PackSettings(size=16)


def put(root, *names):
    """Writes clips of which each has frames of its own."""
    for n, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / name, np.full((5, 16, 16, 3), 20 * n, np.uint8))


def captions(source):
    return {entry.name: entry.caption for entry in source.entries}


# ------------------------------------------------------------------------------------ beside clips


def test_texts_with_the_stem_of_a_clip_are_its_caption(tmp_path):
    put(
        tmp_path, "walk.npy", "deep/run.npy", "jump.npy", "say.npy", "both.npy", "none.npy", "x.npy"
    )
    (tmp_path / "walk.txt").write_text("\ufeffa man  walks\n to the left\t\n")
    (tmp_path / "deep" / "run.JSON").write_text(
        '{"caption": 8, "text": null, "prompt": "she runs"}'
    )
    (tmp_path / "jump.json").write_text('{"text": "not this", "caption": "a jump"}')
    (tmp_path / "say.json").write_text('"été\\nwords"')
    (tmp_path / "both.txt").write_text("of the text")
    (tmp_path / "both.json").write_text("no JSON")
    (tmp_path / "run.txt").write_text("of another folder")
    (tmp_path / "other.txt").write_text("of no clip")
    (tmp_path / "other.json").write_text("[1]")
    (tmp_path / "x.txt").write_text("")
    (tmp_path / "none.json").write_text('{"fps": 25}')  # known of the clip, and no caption
    source = list_source(tmp_path)
    assert captions(source) == {
        "walk.npy": "a man walks to the left",
        "deep/run.npy": "she runs",
        "jump.npy": "a jump",
        "say.npy": "été words",
        "both.npy": "of the text",
        "none.npy": "",
        "x.npy": "",
    }
    assert source.skipped == ()
    assert source.ignored == 4  # both.json, run.txt, and the two others
    assert source.columns["caption"].tolist() == [e.caption for e in source.entries]


def test_readme_and_license_are_no_captions(tmp_path):
    put(tmp_path, "README.npy", "licence.npy", "a.npy")
    for name in ("README.txt", "licence.txt", "LICENSE.txt"):
        (tmp_path / name).write_text("all rights reserved")
    source = list_source(tmp_path)
    assert set(captions(source).values()) == {""} and source.ignored == 3


def test_a_text_beside_several_clips_of_one_file_is_of_none(tmp_path):
    np.save(tmp_path / "many.npy", np.zeros((2, 5, 16, 16, 3), np.uint8))
    (tmp_path / "many.txt").write_text("two clips")
    source = list_source(tmp_path)
    assert captions(source) == {"many.npy[0]": "", "many.npy[1]": ""} and source.ignored == 1


def test_frames_have_the_caption_beside_their_folder(tmp_path):
    (tmp_path / "walk" / "one.v2").mkdir(parents=True)
    for n in range(3):
        Image.fromarray(np.full((16, 16, 3), n, np.uint8)).save(tmp_path / f"walk/one.v2/{n}.png")
        (tmp_path / f"walk/one.v2/{n}.txt").write_text("0 0.5 0.5 0.1 0.1")  # boxes of each frame
    (tmp_path / "walk" / "one.v2.txt").write_text("a man walks")
    source = list_source(tmp_path)
    assert captions(source) == {"walk/one.v2": "a man walks"}
    assert (source.skipped, source.ignored) == ((), 3)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archives_hold_captions_as_folders_do(tmp_path, kind):
    clip = io.BytesIO()
    np.save(clip, np.zeros((5, 16, 16, 3), np.uint8))
    files = {
        "top/b/run.txt": b"she runs",
        "top/b/run.npy": clip.getvalue(),
        "top/a/walk.npy": clip.getvalue(),
        "top/a/walk.json": b'{"caption": "he walks"}',
        "top/a/bad.npy": clip.getvalue(),
        "top/a/bad.txt": b"\xff\xfe",
    }
    path = tmp_path / f"clips.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz") as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    source = list_source(path)
    assert captions(source) == {"a/bad.npy": "", "a/walk.npy": "he walks", "b/run.npy": "she runs"}
    assert [name for name, _ in source.skipped] == ["top/a/bad.txt"]


BAD = {
    "a.txt": (b"caf\xe9", "no caption in UTF-8 (byte 3); save it in UTF-8"),
    "b.json": (b"{'caption': 1}", "is no JSON"),
    "c.json": (
        b'{"caption": 1, "text": ["x"]}',
        'with one as "caption", "text", "prompt"',
    ),
    "d.json": (b"[" * 60000, "is no JSON"),
    "e.txt": (b"x" * 65537, "more than 65536 bytes"),
    "f.json": (b"1" * 5000, "is no JSON"),
    "g.json": (b"null", "an object with one as"),
    "h.json": (b'["a man walks"]', "an object with one as"),
}


def test_each_bad_caption_is_one_warning_and_its_clip_is_used(tmp_path, caplog):
    root = tmp_path / "clips"
    put(root, *(f"{name[0]}.npy" for name in BAD), "z.npy")
    for name, (data, _) in BAD.items():
        (root / name).write_bytes(data)
    (root / "z.txt").write_bytes(b"x" * 65536)
    for _ in range(2):  # as it is packed, and as the pack is found again
        caplog.clear()
        with caplog.at_level(logging.WARNING, "vidgen"):
            store = open_store(root, SMALL, cache=tmp_path / "cache")
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == len(BAD)
        for line, (name, (_, why)) in zip(said, sorted(BAD.items()), strict=True):
            assert line.startswith(f"{name}: skipped: ") and why in line, line
            assert line.endswith("its clip is used without") and len(line) < 250, line
    assert len(store) == len(BAD) + 1
    assert store.columns["caption"].tolist() == [""] * len(BAD) + ["x" * 65536]


def test_a_bad_caption_is_an_error_where_data_are_strict(tmp_path):
    root = tmp_path / "clips"
    put(root, "a.npy")
    (root / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"a\.txt: holds no caption in UTF-8"):
        open_store(root, SMALL, cache=tmp_path / "cache", strict=True)


def test_what_a_terminal_obeys_is_escaped(tmp_path):
    put(tmp_path, "a.npy", "b.npy")
    (tmp_path / "a.txt").write_bytes("red \x1b[31m \u202edisc\0 $(rm) 日本".encode())
    (tmp_path / "b.json").write_text('"\\ud800 \\u001b[2J {0.__class__}"')
    assert captions(list_source(tmp_path)) == {
        "a.npy": "red \\x1b[31m \\u202edisc\\x00 $(rm) 日本",
        "b.npy": "\\ud800 \\x1b[2J {0.__class__}",
    }


def test_a_pack_has_the_captions_of_its_clips_and_is_made_again_where_one_changes(tmp_path):
    root, cache = tmp_path / "clips", tmp_path / "cache"
    put(root, "a.npy", "b.npy", "c.npy")
    packs = [open_store(root, SMALL, cache=cache)]
    assert "caption" not in packs[0].columns
    for name, text in (("a.txt", "one"), ("a.txt", "two"), ("b.txt", "two"), ("b.txt", "")):
        (root / name).write_text(text)
        packs.append(open_store(root, SMALL, cache=cache))
    assert len({pack.path for pack in packs[:4]}) == len({p.fingerprint for p in packs[:4]}) == 4
    assert packs[4].path == packs[2].path  # an empty text is none
    assert open_store(root, SMALL, cache=cache).path == packs[4].path
    assert Pack(packs[3].path).columns["caption"].tolist() == ["two", "two", ""]
    batch = Clips(packs[2], frames=4).take(0, 3)
    for video, text in zip(batch["video"], batch["caption"], strict=True):
        assert text == ("two" if video.max() == 0 else "")
    (root / "a.txt").unlink()
    (root / "b.txt").unlink()
    assert open_store(root, SMALL, cache=cache).path == packs[0].path


def test_a_caption_in_a_manifest_stays_as_it_is(tmp_path):
    put(tmp_path, "a.npy", "b.npy")
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("beside")
    (tmp_path / "list.csv").write_text("path,caption\na.npy,of the list\nb.npy,\n")
    assert captions(list_source(tmp_path / "list.csv")) == {"a.npy": "of the list", "b.npy": ""}


def test_names_are_captions_where_it_is_asked_for(tmp_path):
    names = ("walk_left/c0012.npy", "WalkRight/person-3/clip 01 mirror.npy", "été/007.npy")
    put(tmp_path, *names)
    (tmp_path / "walk_left" / "c0012.txt").write_text("she walks")
    settings = dataclasses.replace(SMALL, captions="names")
    source = list_source(tmp_path, settings)
    found = dict(zip([e.name for e in source.entries], source.columns["caption"], strict=True))
    assert found == {
        "walk_left/c0012.npy": "she walks",
        "WalkRight/person-3/clip 01 mirror.npy": "walk right person mirror",
        "été/007.npy": "été",
    }
    rows = [f"{tmp_path}/été/007.npy", "WalkRight/person-3/clip 01 mirror.npy,1,2.5"]
    (tmp_path / "list.csv").write_text("\n".join(["path,start,end", rows[0] + ",,", rows[1]]))
    listed = list_source(tmp_path / "list.csv", settings)
    assert sorted(listed.columns["caption"]) == ["walk right person mirror", "été"]
    for name, text in (("cafe\u0301.a/x.b", "café a x"), ("पानी/7", "पानी"), ("run2/Q.mp4", "q")):
        assert of_name(Entry(name, {"kind": "file"})) == text
    frames = Entry("walk.left", {"kind": "frames", "files": ["walk.left/01.png"]})
    assert of_name(frames) == "walk left"
    plain = list_source(tmp_path, SMALL)
    assert sorted(plain.columns["caption"]) == ["", "", "she walks"]
    assert plain.fingerprint != source.fingerprint
    assert list(source.labels) == list(plain.labels)
    with pytest.raises(ConfigError, match=r"data\.captions='name' is not known"):
        PackSettings(captions="name")


# ------------------------------------------------------------------------------------ lists


@pytest.mark.parametrize("name", ["captions.txt", "prompts.txt"])
def test_lists_of_clips_and_captions_go_line_by_line(tmp_path, name):
    put(tmp_path, "set/videos/a.npy", "set/videos/b.npy", "set/videos/c.npy", "d.npy")
    (tmp_path / "set" / "videos.txt").write_text("videos/b.npy\r\n./videos/a.npy\nvideos/x.npy\n\n")
    (tmp_path / "set" / name).write_text("a bee\u2028 flies\r\nan  ape\nof no clip\n \n\n")
    (tmp_path / "set" / "videos" / "c.txt").write_text("beside")
    source = list_source(tmp_path)
    assert list(captions(source).items()) == [
        ("d.npy", ""),
        ("set/videos/a.npy", "an ape"),
        ("set/videos/b.npy", "a bee flies"),
        ("set/videos/c.npy", "beside"),
    ]
    assert (source.skipped, source.ignored) == ((), 0)


@pytest.mark.parametrize(
    ("clips", "texts", "said"),
    [
        ("a.npy\nb.npy\n", "one\n", "has 1 lines, and videos.txt beside it 2"),
        ("a.npy\n", "one\ntwo\n", "has 2 lines, and videos.txt beside it 1"),
        ("/data/a.npy\n", "one\n", "names none of the clips here"),
        ("a.npy\n", b"caf\xe9\n", "no caption in UTF-8"),
    ],
)
def test_lists_that_do_not_go_together_are_refused(tmp_path, clips, texts, said):
    put(tmp_path, "a.npy", "b.npy")
    (tmp_path / "videos.txt").write_text(clips)
    texts = texts if isinstance(texts, bytes) else texts.encode()
    (tmp_path / "captions.txt").write_bytes(texts)
    source = list_source(tmp_path)
    ((name, why),) = source.skipped
    assert name == "captions.txt" and said in why
    assert set(captions(source).values()) == {""}


def test_a_disk_that_does_not_answer_is_no_reason_to_leave_a_caption_out(tmp_path, monkeypatch):
    put(tmp_path, "a.npy")
    (tmp_path / "a.txt").write_text("a man walks")
    told = []

    def failing(path, *args, **kwargs):
        if str(path).endswith(".txt"):
            raise OSError(errno.EIO, "input/output error")
        return open(path, *args, **kwargs)

    monkeypatch.setattr(archives, "open", failing, raising=False)
    with pytest.raises(OSError, match="input/output"):
        collect(str(tmp_path), Limits(), told.append)
    assert told[-1] == "a.txt"


def test_texts_beside_clips_are_listed_fast(tmp_path):
    """A name is told for each file that may harm, which costs more than to read a text."""
    put(tmp_path, *(f"{n}.npy" for n in range(5)))
    told = []
    collect(str(tmp_path), Limits(), told.append)
    for n in range(5):
        (tmp_path / f"{n}.txt").write_text("a man walks")
    names = [name for name in told if name]
    told.clear()
    assert all(entry.caption for entry in collect(str(tmp_path), Limits(), told.append).entries)
    assert [name for name in told if name] == names


def test_long_captions_travel_in_several_messages():
    rows = [{"caption": "x" * 60000}] * 1000
    parts = list(child._parts(rows))
    assert [row for part in parts for row in part] == rows
    assert max(sum(len(row["caption"]) for row in part) for part in parts) < (1 << 24) + 60000
    assert [len(part) for part in child._parts([("a", "b")] * 5001)] == [5000, 1]


# ------------------------------------------------------------------------------------ inspect


def test_inspect_tells_of_captions(tmp_path):
    put(tmp_path, *(f"{name}.npy" for name in "abcde"))
    assert not [line for line in lines(inspect(tmp_path)) if "caption" in line]
    texts = {"a": "one", "b": "one two", "c": "[red]one[/red] \x1b[2J three", "d": "w " * 300}
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
    wanted = [
        "captions: 4 of 5 clips have one, of 2.5 words (median), 300 at most",
        "caption of a.npy: one",
        "caption of c.npy: [red]one[/red] \\x1b[2J three",
        f"caption of d.npy: {'w ' * 50} ... {' w' * 50}",
    ]
    report = inspect(tmp_path)
    assert [line for line in lines(report) if "caption" in line] == wanted
    console = rich.console.Console(file=io.StringIO(), width=100)
    show(report, console)
    for line in wanted:
        assert f"{line}\n" in console.file.getvalue()
    pack = open_store(tmp_path, SMALL, cache=tmp_path / "cache")
    assert [line for line in lines(inspect(pack.path)) if "caption" in line] == wanted


def test_inspect_looks_at_some_toy_captions(monkeypatch):
    written = count_written(monkeypatch)
    (told, *some) = [line for line in lines(inspect("toy:clips=1000")) if "caption" in line]
    assert told.startswith("captions: 32 of 32 clips looked at have one") and len(some) == 3
    assert some[0] == f"caption of toy 0: {ToySource().columns['caption'][0]}"
    assert len(written) == 33


# ------------------------------------------------------------------------------------ toy


def count_written(monkeypatch):
    from vidgen.data import toy_captions

    written = []
    monkeypatch.setattr(
        toy_captions, "caption", lambda rule, rng: written.append(rule) or caption(rule, rng)
    )
    return written


def rule(hue=0.0, label=0, radius=0.2, velocity=(0.0, 0.02)):
    import colorsys

    colour = np.array(colorsys.hsv_to_rgb(hue / 360, 0.8, 0.9))
    return Scene(label, radius, colour, np.zeros(3), np.full(2, 0.5), np.array(velocity))


@pytest.mark.parametrize(
    ("hue", "name"),
    [
        (0, "red"), (350, "red"), (30, "orange"), (60, "yellow"), (120, "green"), (180, "cyan"),
        (230, "blue"), (280, "purple"), (320, "pink"),
    ],
)  # fmt: skip
def test_colours_are_called_as_people_call_them(hue, name):
    assert words(rule(hue))["colour"] == name


def test_words_are_of_the_rule():
    known = words(rule(velocity=(0.01, -0.02)))
    assert known == {
        "colour": "red", "shape": "disc", "size": "small", "direction": "left", "speed": "slow",
    }  # fmt: skip
    assert words(rule(velocity=(0.01, 0.02)))["direction"] == "right"
    assert words(rule(velocity=(-0.02, 0.01)))["direction"] == "up"
    assert words(rule(velocity=(0.05, 0.01))) | {"direction": "down", "speed": "fast"} == words(
        rule(velocity=(0.05, 0.01))
    )
    assert words(rule(radius=0.21, label=1)) | {"size": "large", "shape": "square"} == words(
        rule(radius=0.21, label=1)
    )
    for index in range(50):  # as the clip is drawn, before its object meets a wall
        one = scene(3, index)
        down, right = (one.centres(np.array([0, 1e-3])) @ np.eye(2))[1] - one.start
        ways = {"up": -down, "down": down, "left": -right, "right": right}
        assert words(one)["direction"] == max(ways, key=lambda way: ways[way])
        assert words(one)["shape"] == toy.CLASSES[one.label]


def test_each_caption_says_the_colour_and_the_shape_and_nothing_false():
    said = collections.Counter()
    for index in range(2000):
        one = scene(1, index)
        text = caption(one, seeds.stream(1, "toy caption", index))
        known, found = words(one), set(text.replace(",", "").replace(";", "").split())
        assert found & set(COLOURS) == {known["colour"]}, text
        for shape, names in SHAPES.items():
            there = [name for name in names if f" {name}" in f" {text}"]
            assert bool(there) == (shape == known["shape"]), text
        for field, ways in (
            ("size", {"small": {"small"}, "large": {"large"}}),
            ("speed", {"slow": {"slow", "slowly"}, "fast": {"quick", "quickly"}}),
            (
                "direction",
                {
                    "left": {"left"}, "right": {"right"},
                    "up": {"up", "upwards"}, "down": {"down", "downwards"},
                },
            ),
        ):  # fmt: skip
            told = [way for way, names in ways.items() if found & names]
            assert told in ([], [known[field]]), text
            said[field] += bool(told)
        assert not re.search(r"\ba [aeiou]", text), text
        assert "{" not in text and "  " not in text
    assert all(0.3 < count / 2000 < 0.9 for count in said.values()), said


def test_there_are_many_wordings_and_each_is_used():
    one = scene(0, 0)
    texts = {caption(one, seeds.stream(0, "toy caption", n)) for n in range(500)}
    assert len(WORDINGS) >= 8 and len(texts) == len(WORDINGS) * len(SHAPES["disc"])


def test_a_toy_caption_is_a_function_of_seed_and_number():
    short, long = ToySource(clips=20, seed=5), ToySource(clips=500, frames=3, size=16, seed=5)
    one, other = short.columns["caption"], long.columns["caption"]
    assert one.tolist() == other[:20].tolist() == [other[n] for n in range(20)]
    assert one[7] == caption(scene(5, 7), seeds.stream(5, "toy caption", 7))
    assert one.tolist() != ToySource(clips=20, seed=6).columns["caption"].tolist()


def test_the_column_is_indexed_as_an_array_is():
    column = ToySource(clips=30).columns["caption"]
    whole = np.array(column.tolist(), object)
    assert len(column) == 30 and column.shape == (30,) and column.dtype == whole.dtype
    chosen = np.array([7, 0, 7, 29])
    for index in (chosen, slice(0, 0), slice(3, 9, 2), slice(None), whole == whole[4], [1, -1]):
        assert column[index].dtype == object
        np.testing.assert_array_equal(column[index], whole[index])
    for index in (4, -1, np.int64(4), np.int32(0)):
        assert column[index] == whole[index] and type(column[index]) is str
    with pytest.raises(IndexError):
        column[30]
    np.testing.assert_array_equal(np.asarray(column), whole)
    assert list(column) == whole.tolist()


def test_captions_are_written_when_they_are_asked_for(monkeypatch):
    written = count_written(monkeypatch)
    store = ToySource(clips=100_000, frames=4, size=16)
    empty = empty_batch(store.columns, 4, 16)
    half = store.columns["caption"][np.arange(0, 100_000, 2)]
    clips = Clips(store, frames=4)
    assert not written and len(half) == 50_000
    assert half[3] == store.columns["caption"][6] and len(written) == 2
    batch = clips.take(64, 8)
    assert len(written) == 10
    for name, values in batch.items():
        assert empty[name].dtype == values.dtype and empty[name].shape == (0, *values.shape[1:])
    numbers = clips.places(64, 8)[0]
    assert batch["caption"].tolist() == [store.columns["caption"][n] for n in numbers]
    assert clips[65]["caption"] == batch["caption"][1]
    assert clips.first(3)["caption"].tolist() == store.columns["caption"][:3].tolist()
    assert set(devices.numeric(batch)) == {"video", "index", "label"}


def test_captions_change_nothing_else_of_toy_clips():
    store = ToySource(clips=8, frames=4, size=16, seed=2)
    before, state = store[3].copy(), [scene(2, 3).start.tolist()]
    store.columns["caption"].tolist()
    np.testing.assert_array_equal(store[3], before)
    assert state == [scene(2, 3).start.tolist()] and list(store.columns) == ["label", "caption"]
    assert store.fingerprint == "toy-1-2-8-4-16"
    # What this clip was before there were captions.
    assert (int(before.sum()), before[2, 5, 5].tolist()) == (280559, [97, 68, 90])
