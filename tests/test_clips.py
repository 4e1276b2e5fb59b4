"""The training stream: pure in (seed, k), complete in each epoch, the same for any host count."""

import collections
import threading
import time

import numpy as np
import pytest

from vidgen import seeds
from vidgen.data.stream import Clips
from vidgen.data.toy import ToySource
from vidgen.errors import ConfigError, DataError


class Store:
    """Clips whose pixels tell their clip, frame, row and column."""

    classes = ("even", "odd")
    fps = 10.0

    def __init__(self, lengths, height=4, width=4):
        self.lengths = np.array(lengths, np.int64)
        self.columns = {"label": (np.arange(len(lengths)) % 2).astype(np.int32)}
        self.height, self.width = height, width
        self.reads = 0

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, index):
        self.reads += 1
        t, y, x = np.indices((self.lengths[index], self.height, self.width))
        return np.stack([np.full_like(t, index) + 100 * (y % 2), t, x], -1).astype(np.uint8)


def read(item):
    """Returns the clip, frame numbers and columns that a window shows."""
    video = item["video"]
    return int(video[0, 0, 0, 0]) % 100, video[:, 0, 0, 1].tolist(), video[0, 0, :, 2].tolist()


def test_an_item_depends_on_seed_and_number_alone():
    clips = Clips(Store([9, 12, 30]), frames=4, stride=2, seed=5, flip=True)
    again = Clips(Store([9, 12, 30]), frames=4, stride=2, seed=5, flip=True)
    backwards = {k: again[k]["video"] for k in reversed(range(60))}
    for k in range(60):
        assert (clips[k]["video"] == backwards[k]).all()
    other = Clips(Store([9, 12, 30]), frames=4, stride=2, seed=6, flip=True)
    assert any((clips[k]["video"] != other[k]["video"]).any() for k in range(60))


def test_an_epoch_visits_every_clip_once_in_a_new_order():
    clips = Clips(Store([8] * 7), frames=4, seed=1)
    orders = [[read(clips[7 * e + n])[0] for n in range(7)] for e in range(20)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len({tuple(order) for order in orders}) > 15
    assert orders[3] == seeds.permutation(1, 3, 7).tolist()


@pytest.mark.parametrize(("frames", "stride"), [(4, 1), (4, 3), (1, 1), (10, 1)])
def test_windows_are_all_those_that_fit(frames, stride):
    store = Store([10, 12])
    clips = Clips(store, frames=frames, stride=stride)
    span = (frames - 1) * stride + 1
    wanted = {(c, s) for c, n in enumerate((10, 12)) for s in range(n - span + 1)}
    seen = set()
    for k in range(600):
        number, shown, columns = read(clips[k])
        assert shown == list(range(shown[0], shown[0] + span, stride))
        assert columns == [0, 1, 2, 3]
        seen.add((number, shown[0]))
    assert seen == wanted and clips.windows == len(wanted)


def test_starts_are_uniform():
    clips = Clips(Store([13]), frames=4)
    counts = collections.Counter(read(clips[k])[1][0] for k in range(4000))
    assert sorted(counts) == list(range(10))
    chi2 = sum((n - 400) ** 2 / 400 for n in counts.values())
    assert chi2 < 27.9  # the 99.9 % quantile at 9 degrees of freedom


def test_flips_are_half_and_only_where_asked_for():
    flipped = Clips(Store([8] * 3), frames=4, flip=True)
    columns = collections.Counter(tuple(read(flipped[k])[2]) for k in range(1000))
    assert set(columns) == {(0, 1, 2, 3), (3, 2, 1, 0)}
    assert 430 < columns[3, 2, 1, 0] < 570
    plain = Clips(Store([8] * 3), frames=4)
    assert [read(flipped[k])[:2] for k in range(50)] == [read(plain[k])[:2] for k in range(50)]


def test_crops_are_squares_anywhere_along_the_longer_side():
    clips = Clips(Store([8], height=4, width=9), frames=4)
    lefts = {read(clips[k])[2][0] for k in range(200)}
    assert lefts == set(range(6))
    assert all(clips[k]["video"].shape == (4, 4, 4, 3) for k in range(5))


def test_window_square_and_flip_are_drawn_independently():
    clips = Clips(Store([7], height=4, width=7), frames=4, flip=True)
    seen = set()
    for k in range(600):
        _, shown, columns = read(clips[k])
        seen.add((shown[0], min(columns), columns[0] < columns[-1]))
    assert len(seen) == 4 * 4 * 2


def test_short_clips_are_skipped_and_told():
    clips = Clips(Store([3, 8, 2, 8]), frames=4)
    assert clips.skipped.tolist() == [0, 2]
    assert {read(clips[k])[0] for k in range(20)} == {1, 3}
    assert {int(clips[k]["label"]) for k in range(20)} == {1}
    with pytest.raises(DataError, match=r"none of 2 clips has the 7 frames.*longest has 3"):
        Clips(Store([3, 2]), frames=4, stride=2)


def test_short_clips_are_looped_where_asked_for():
    clips = Clips(Store([3, 9]), frames=4, stride=2, short="loop")
    assert not len(clips.skipped)
    shown = {tuple(read(clips[k])[1]) for k in range(100) if read(clips[k])[0] == 0}
    assert shown == {(0, 2, 1, 0), (1, 0, 2, 1), (2, 1, 0, 2)}
    assert clips.windows == 3 + 3


def test_bad_settings_are_named():
    store = Store([8])
    with pytest.raises(ConfigError, match=r"data\.frames=0"):
        Clips(store, frames=0)
    with pytest.raises(ConfigError, match=r"data\.short='repeat'"):
        Clips(store, frames=4, short="repeat")
    with pytest.raises(ConfigError, match="batch_size=9 does not divide by 2 hosts"):
        Clips(store, frames=4).batches(9, host=(0, 2))


def test_batches_are_the_items_in_order():
    clips = Clips(Store([9, 12, 30]), frames=4, flip=True)
    batches = clips.batches(5, start=3)
    for step in range(3, 6):
        batch = next(batches)
        assert {name: (v.dtype.name, v.shape) for name, v in batch.items()} == {
            "video": ("uint8", (5, 4, 4, 4, 3)),
            "index": ("int32", (5,)),
            "label": ("int32", (5,)),
        }
        assert batch["index"].tolist() == list(range(5 * step, 5 * step + 5))
        for n in range(5):
            item = clips[5 * step + n]
            assert (batch["video"][n] == item["video"]).all()
            assert batch["label"][n] == item["label"] == read(item)[0] % 2
    batches.close()


def test_the_global_batch_does_not_depend_on_the_hosts():
    clips = Clips(Store([9, 12, 30]), frames=4)
    whole = next(clips.batches(8, start=2))
    for n in (2, 4, 8):
        parts = [next(clips.batches(8, start=2, host=(i, n))) for i in range(n)]
        for name, values in whole.items():
            assert (np.concatenate([part[name] for part in parts]) == values).all()


def test_a_far_item_comes_at_once_and_its_index_fits_int32():
    clips = Clips(Store([9] * 1000), frames=4)
    started = time.perf_counter()
    item = clips[3 * 10**9]
    assert time.perf_counter() - started < 0.1
    assert item["index"] == 3 * 10**9 % 2**31 and item["index"].dtype == np.int32
    assert next(clips.batches(4, start=10**9))["index"].tolist() == [
        (4 * 10**9 + n) % 2**31 for n in range(4)
    ]
    with pytest.raises(IndexError):
        clips[-1]


def test_no_labels_without_classes():
    store = Store([9])
    store.classes, store.columns = (), {}
    assert set(Clips(store, frames=4)[0]) == {"video", "index"}


def test_only_a_few_batches_are_made_ahead():
    store = Store([9, 9])
    batches = Clips(store, frames=4).batches(2, ahead=2)
    next(batches)
    time.sleep(0.2)
    assert store.reads == 2 * 3
    batches.close()


def test_closing_ends_the_thread():
    before = threading.active_count()
    batches = Clips(Store([9]), frames=4).batches(2)
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()
    assert threading.active_count() == before
    another = Clips(Store([9]), frames=4).batches(2)
    next(another)
    del another
    assert threading.active_count() == before


def test_an_error_of_the_thread_is_raised_to_the_reader():
    class Broken(Store):
        def __getitem__(self, index):
            if index == 1:
                raise DataError("clip 1 is damaged")
            return super().__getitem__(index)

    batches = Clips(Broken([9, 9]), frames=4).batches(2)
    with pytest.raises(DataError, match="clip 1 is damaged"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)


def test_clips_of_other_sizes_are_an_error():
    class Mixed(Store):
        def __getitem__(self, index):
            return np.zeros((9, 4 + index, 4 + index, 3), np.uint8)

    with pytest.raises(DataError, match="not of one size"):
        Clips(Mixed([9, 9]), frames=4).take(0, 2)


def test_toy_clips_stream():
    toy = ToySource(clips=10, frames=5, size=16, seed=2)
    clips = Clips(toy, frames=5)
    batch = clips.take(0, 10)
    order = seeds.permutation(0, 0, 10).tolist()
    assert (batch["video"] == np.stack([toy[n] for n in order])).all()
    assert (batch["label"] == toy.labels[order]).all()
    assert clips.classes == tuple(toy.classes)


@pytest.mark.parametrize(
    ("lengths", "fps", "frames", "wanted"),
    [
        ([100] * 10, 25.0, 16, 2),  # 31 frames are 1.24 s; 46 are 1.84 s
        ([100] * 10, 60.0, 16, 5),  # 76 frames are 1.27 s; 91 are 1.52 s
        ([100] * 10, 10.0, 16, 1),  # 16 frames are 1.6 s already
        ([100] * 9 + [20], 25.0, 16, 2),  # nine of ten are enough
        ([100] * 8 + [20] * 2, 25.0, 16, 1),
        ([3] * 10, 60.0, 16, 1),
        ([100], 25.0, 1, 1),
    ],
)
def test_a_chosen_stride_fits_the_clips(lengths, fps, frames, wanted):
    store = Store(lengths)
    store.fps = fps
    clips = Clips(store, frames=frames, stride=0, short="loop")
    assert clips.stride == wanted
    given = Clips(store, frames=frames, stride=wanted, short="loop")
    assert (clips[7]["video"] == given[7]["video"]).all() and clips.windows == given.windows
