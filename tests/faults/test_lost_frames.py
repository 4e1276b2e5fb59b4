"""No damage in a video file makes frames disappear without a word, whatever the container."""

import collections

import numpy as np
import pytest
from test_video_reading import numbered

from vidgen.errors import DataError
from vidgen.video import containers, decoding, holes, reading

pytestmark = pytest.mark.faults
COUNT, DAMAGES = 100, 300
KINDS = {
    "a.ts": ("libx264", {}, {}),
    "b.ts": ("mpeg2video", {"bf": "0"}, {}),
    "a.m2ts": ("libx264", {}, {"mpegts_m2ts_mode": "1"}),
    "a.flv": ("libx264", {}, {}),
    "b.flv": ("flv1", {"bf": "0"}, {}),
    "a.avi": ("libx264", {"bf": "0"}, {}),
    "b.avi": ("mpeg4", {"bf": "0"}, {}),
    "a.mkv": ("libx264", {}, {}),
    "a.webm": ("libvpx-vp9", {"cpu-used": "8"}, {}),
    "a.mp4": ("libx264", {}, {}),
}


def missing(path):
    with open(path, "rb") as file:
        return containers.missing(file, path.stat().st_size)


def read(path):
    """Returns how many frames there are, or why the file is refused; as packing does."""
    info = {}
    try:
        if why := missing(path):
            return "refused: " + why
        count = sum(1 for _ in decoding.timed_frames(path, info=info))
    except (decoding.Unreadable, OSError) as error:
        return f"refused: {error}"
    if not count:
        return "refused: holds no frame"
    if count == COUNT or info["dropped"] or info["torn"]:
        return "whole" if count == COUNT else "told"
    return "lost"


def tally(path, good):
    """Damages a file in many places, one after the other, and counts what comes of it."""
    rng = np.random.default_rng(0)
    found = collections.Counter()
    for place in rng.integers(0.1 * len(good), 0.9 * len(good), DAMAGES):
        path.write_bytes(good[:place] + rng.bytes(8) + good[place + 8 :])
        found[read(path).split(":")[0]] += 1
        start = max(0.4, min(3.6, 4 * place / len(good) + 0.9))
        try:
            if why := missing(path):
                raise DataError(why)
            shown = reading.read_video(path, start=start, end=start + 0.3)
        except DataError:
            found["seconds behind it: refused"] += 1
        else:
            first = np.ceil(25 * start - 1e-6)
            right = len(shown) == np.ceil(25 * (start + 0.3) - 1e-6) - first
            found[f"seconds behind it: {'there' if right else 'lost'}"] += 1
    return found


def check(tmp_path, name):
    codec, options, layout = KINDS[name]
    path = tmp_path / name
    kind = {".ts": "mpegts", ".m2ts": "mpegts"}.get(path.suffix)
    numbered(path, codec, 10, COUNT, options, kind, layout)
    good = path.read_bytes()
    assert read(path) == "whole"
    found = tally(path, good)
    print(name, codec, dict(sorted(found.items())))
    assert found["lost"] <= 0.02 * DAMAGES and found["seconds behind it: lost"] <= 0.02 * DAMAGES


@pytest.mark.parametrize("name", KINDS)
def test_no_frame_is_lost_in_silence(tmp_path, name):
    check(tmp_path, name)


def test_sabotage(tmp_path, monkeypatch):
    """Without what else tells of packets, this battery fails."""

    def trusting(container, stream, file):
        return ((packet, None) for packet in container.demux(stream))

    monkeypatch.setattr(holes, "packets", trusting)
    with pytest.raises(AssertionError):
        check(tmp_path, "a.flv")
