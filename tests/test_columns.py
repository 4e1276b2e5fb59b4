"""What a manifest knows of clips travels with them: to pack, batch, estimate and step."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config

from vidgen import methods
from vidgen.data.listing import list_source
from vidgen.data.manifest import typed
from vidgen.data.pack import FORMAT, Pack, json_sha256, open_store
from vidgen.data.settings import PackSettings, pack_settings
from vidgen.data.stream import Clips, empty_batch
from vidgen.data.toy import ToySource
from vidgen.errors import DataError
from vidgen.evaluation.windows import _Half
from vidgen.runtime import devices
from vidgen.tools import estimate

SMALL = PackSettings(size=16)
HEADER = "path,label,caption,score,take,place\n"
ROWS = {
    "a.npy": "walk,a man walks,0.5,3,home",
    "b.npy": "wave,,-2,4,street",
    "c.npy": "walk,he stops,,-5,",
}


def clips(root, header=HEADER, rows=None):
    for n, name in enumerate(ROWS):
        np.save(root / name, np.full((8, 16, 16, 3), 40 * n, np.uint8))
    lines = [f"{name},{row}\n" for name, row in (rows or ROWS).items()]
    (root / "list.csv").write_text(header + "".join(lines))
    return root / "list.csv"


def store_of(root, cache="cache", **changes):
    return open_store(clips(root, **changes), SMALL, cache=root / cache)


def test_columns_reach_the_batch_in_their_types(tmp_path):
    store = store_of(tmp_path)
    assert set(store.columns) == {"label", "caption", "score", "take", "place"}
    batch = Clips(store, frames=4).take(0, 6)
    number = batch["video"][:, 0, 0, 0, 0] // 40  # which clip it is, by its pixels
    assert sorted(number.tolist()) == [0, 0, 1, 1, 2, 2]
    for name, of, kind in (
        ("label", [0, 1, 0], np.int32),
        ("caption", ["a man walks", "", "he stops"], object),
        ("score", [0.5, -2.0, np.nan], np.float32),
        ("take", [3, 4, -5], np.int32),
        ("place", ["home", "street", ""], object),
    ):
        assert batch[name].dtype == kind, name
        np.testing.assert_array_equal(batch[name], np.array(of, kind)[number], err_msg=name)
    assert Clips(store, frames=4)[0]["caption"] == batch["caption"][0]


def test_an_opened_pack_has_what_the_listing_had(tmp_path):
    source, pack = list_source(clips(tmp_path), SMALL), store_of(tmp_path)
    again = Pack(pack.path)
    for name, values in source.columns.items():
        assert again.columns[name].dtype == values.dtype
        np.testing.assert_array_equal(again.columns[name], values)


def test_empty_batches_are_like_full_ones(tmp_path):
    for store in (store_of(tmp_path), ToySource(clips=4, frames=4, size=16)):
        full, empty = Clips(store, frames=4).take(0, 2), empty_batch(store.columns, 4, 16)
        assert list(full) == list(empty)
        for name, values in full.items():
            assert empty[name].dtype == values.dtype and empty[name].shape[1:] == values.shape[1:]


def columns_of_half(store):
    return {name: values.tolist() for name, values in store.columns.items()}


def test_halves_keep_the_columns_of_their_clips(tmp_path):
    store = store_of(tmp_path)
    half = _Half(store, 0, 0)
    assert columns_of_half(half)["take"] == [[3, 4, -5][n] for n in half.numbers]
    assert set(Clips(half, frames=4).take(0, 1)) == set(Clips(store, frames=4).take(0, 1))


def summed(state, batch, *, mean):
    """A step that uses what a manifest says of clips."""

    def score(batch, kept):
        return {"sum": jnp.mean(batch["take"] * 2.0 + batch["label"])}, None

    found, _ = mean(score, batch)
    return state + 1, found


@pytest.mark.parametrize("mode", ["jit", "mesh", "pmap"])
def test_a_step_gets_numbers_and_text_stays_behind(tmp_path, mode):
    batch = Clips(store_of(tmp_path), frames=4).take(0, 8)
    placed = devices.place(mode, batch_size=8)
    there = placed.put(batch)
    assert set(there) == {"video", "index", "label", "score", "take"}
    state = placed.init(lambda seed: jnp.float32(seed), 0)
    state, metrics = placed.compile(summed, state, there)(state, there)
    wanted = np.mean(np.float64(batch["take"]) * 2 + batch["label"])
    assert float(metrics["sum"]) == pytest.approx(wanted) and float(state) == 1


def test_a_training_step_takes_more_columns_and_keeps_its_bits(tmp_path):
    config = tiny_config()
    config.data.update(path=str(clips(tmp_path)), frames=4, pick=0)
    config.data.cache = str(tmp_path / "cache")
    store = open_store(config.data.path, pack_settings(config.data), cache=config.data.cache)
    experiment = methods.experiment(config, len(store.classes))
    placed = devices.place("jit", batch_size=8)
    batch = Clips(store, frames=4).take(0, 8)
    bare = {name: batch[name] for name in ("video", "index", "label")}

    def after(batch):
        state = placed.init(experiment.init, 0)
        there = placed.put(batch)
        return placed.compile(experiment.step, state, there)(state, there)[1]

    one, other = after(bare), after(batch)
    assert set(one) == set(other)
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)
    found = estimate.estimate(config, estimate.listed(config))
    sizes = {name: values.nbytes for name, values in placed.put(batch).items()}
    assert found.memory["batch"] == sum(sizes.values())


def test_the_fingerprint_covers_each_column(tmp_path):
    prints = {store_of(tmp_path).fingerprint}
    for old, new in (("a man walks", "a man runs"), ("0.5", "0.6"), ("home", "house")):
        rows = {name: row.replace(old, new) for name, row in ROWS.items()}
        prints.add(store_of(tmp_path, rows=rows).fingerprint)
    prints.add(store_of(tmp_path, header=HEADER.replace("take", "takes")).fingerprint)
    assert len(prints) == 5
    assert store_of(tmp_path).fingerprint == store_of(tmp_path, "elsewhere").fingerprint


def reference(pack):
    """The fingerprint as it was before there were columns."""
    index = json.loads((pack.path / "pack.json").read_text())
    fields = ("name", "label", "frames", "height", "width", "crc32", "fps")
    content = [index["clips"][field] for field in fields]
    return json_sha256([index["classes"], content])


def test_without_columns_the_fingerprint_is_what_it_was(tmp_path):
    rows = {name: row.split(",")[0] for name, row in ROWS.items()}
    pack = store_of(tmp_path, header="path,label\n", rows=rows)
    index = json.loads((pack.path / "pack.json").read_text())
    assert "columns" not in index and index["clips"]["caption"] == ["", "", ""]
    assert pack.fingerprint == index["fingerprint"] == reference(pack)
    assert set(pack.columns) == {"label"}


def test_a_pack_of_before_opens_with_its_captions(tmp_path):
    rows = {name: ",".join(row.split(",")[:2]) for name, row in ROWS.items()}
    new = store_of(tmp_path, header="path,label,caption\n", rows=rows)
    index = json.loads((new.path / "pack.json").read_text())
    index |= {"fingerprint": reference(new), "format": FORMAT}
    del index["sha256"]
    index["sha256"] = json_sha256(index)
    (new.path / "pack.json").write_text(json.dumps(index))
    old = Pack(new.path)
    assert old.columns["caption"].tolist() == ["a man walks", "", "he stops"]
    assert old.fingerprint == new.fingerprint != reference(new)


@pytest.mark.parametrize(
    ("cells", "wanted"),
    [
        (["1", "+2", "-3"], np.array([1, 2, -3], np.int32)),
        (["1", "2.5"], np.array([1, 2.5], np.float32)),
        (["1", ""], np.array([1, np.nan], np.float32)),
        (["1e3", ".5"], np.array([1000, 0.5], np.float32)),
        (["2147483648"], np.array([2147483648], np.float32)),
        (["2147483647"], np.array([2147483647], np.int32)),
        (["1", "nan"], np.array(["1", "nan"], object)),
        (["1e60"], np.array(["1e60"], object)),
        (["1_000"], np.array(["1_000"], object)),
    ],
)
def test_the_type_of_a_column_is_what_holds_all_its_cells(cells, wanted):
    assert typed(cells).dtype == wanted.dtype
    np.testing.assert_array_equal(typed(cells), wanted)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("path,label,caption,score,index,place\n", "has a column 'index', as each batch has"),
        ("path,label,caption,score,score,place\n", "two columns 'score'"),
    ],
)
def test_names_that_would_be_taken_twice_are_refused(tmp_path, header, said):
    with pytest.raises(DataError, match=said):
        list_source(clips(tmp_path, header=header))


def test_columns_without_a_name_or_without_cells_are_left_alone(tmp_path):
    rows = {name: f"{n},," for n, name in enumerate(ROWS)}
    source = list_source(clips(tmp_path, header="path,,empty, label\n", rows=rows))
    assert source.columns == {} and source.classes == ()
