"""Checkpoints and archives that somebody made to do harm: refused, and nothing of them happens."""

import contextlib
import io
import json
import pathlib
import pickle
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import tensorstore
from conftest import unawaited
from harness import ROOT, small_config, trained

from vidgen import sampling
from vidgen.data.listing import list_source
from vidgen.errors import ConfigError, StorageError, VidgenError
from vidgen.runtime import digests
from vidgen.runtime.checkpoint import Checkpoints
from vidgen.sampling import loading

MEMORY = 1 << 30  # bytes that refusing may take on top of what the process has


class Payload:
    """An object whose unpickling makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return pathlib.Path.touch, (self.mark,)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(small_config(), tmp_path_factory)


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    for step in (4, 6):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step))
    return tmp_path / "run"


def rewritten(run, name, data):
    """Puts data into a file of the checkpoint, and into its list of files."""
    folder = run / "checkpoints" / "8"
    (folder / name).write_bytes(data)
    digests.list_files(folder)


def check_refused(run):
    """Checks that neither sampling nor verifying takes a checkpoint."""
    for use in (lambda: sampling.load(run), lambda: Checkpoints(run / "checkpoints").verify(8)):
        try:
            use()
        except VidgenError:
            continue
        raise AssertionError("it was taken")


def check_pickles(run, tmp_path):
    """Checks that no file of a checkpoint is unpickled."""
    mark = tmp_path / "executed"
    data = pickle.dumps(Payload(mark))
    folder = run / "checkpoints" / "8"
    names = [p.relative_to(folder) for p in folder.glob("*/**/*") if p.is_file()]
    for name in sorted(names)[::4]:
        before = (folder / name).read_bytes()
        rewritten(run, name, data)
        with contextlib.suppress(VidgenError):
            sampling.load(run)
        assert not mark.exists(), name
        rewritten(run, name, before)


@unawaited
def test_nothing_of_a_checkpoint_is_executed(run, tmp_path):
    check_pickles(run, tmp_path)


@unawaited
def test_a_reader_that_unpickles_is_seen(run, tmp_path, monkeypatch):
    """Sabotage: what looks like a pickle is read as one."""
    read = Checkpoints._read

    def unpickling(self, step, abstract):
        for path in (self.folder / str(step)).glob("*/*"):
            if path.is_file() and path.read_bytes()[:1] == b"\x80":
                pickle.loads(path.read_bytes())
        return read(self, step, abstract)

    monkeypatch.setattr(Checkpoints, "_read", unpickling)
    with pytest.raises(AssertionError):
        check_pickles(run, tmp_path)


def huge(meta):
    """A generator of 2^40 parameters."""
    meta["meta"]["generator"].update(widths=[1 << 20], style=1 << 20)


def long(meta):
    meta["meta"]["classes"] = ["x" * 10_000_000, "square"]


# What a checkpoint says of itself, by where that stands, and what is said of it.
CLAIMS = [
    ("generator.size", 10**9, r"config\.data\.size is 1000000000"),
    ("generator.size", [8192, 10**30], r"config\.data\.size is"),
    ("generator.blocks", 10**6, r"config\.generator\.blocks is 1000000"),
    ("generator.widths", [4] * 10**6, r"config\.generator\.widths is"),
    ("generator.content", 10**30, r"config\.generator\.content is"),
    ("generator.classes", 2**21, r"config\.generator\.classes is"),
    ("generator.kind", {"a": 1}, r"layout is of another version"),
    ("generator", [1], r"layout is of another version"),
    ("classes", 10**9, r"classes are not as vidgen writes them"),
    ("classes", [{}], r"classes are not as vidgen writes them"),
    ("looks", [[10**30]], r"looks are not as vidgen writes them"),
    ("fps", float("nan"), r"fps are not as vidgen writes them"),
    ("fps", "10", r"fps are not as vidgen writes them"),
    ("stride", 10**30, r"stride are not as vidgen writes them"),
    ("config.data.frames", 10**30, r"config\.data\.frames is 10{30}"),
    ("config.data.stride", 10**6, r"config\.data\.stride is 1000000"),
    ("config.data.size", [1, 2, 3], r"config\.data\.size is"),
    ("config.method", "\x1b[31m", r"config\.method is"),
    ("config", [1], r"config is not one that vidgen writes"),
]


@unawaited
@pytest.mark.parametrize("change", [huge, long])
def test_giant_claims_are_refused_in_bounded_memory(run, change):
    path = run / "checkpoints" / "8" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    change(meta)
    rewritten(run, "meta/metadata", json.dumps(meta).encode())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if change is huge:
        with pytest.raises(ConfigError, match=r"config\.generator makes a network of 4\.4e\+13"):
            sampling.load(run)
    else:
        sampling.load(run)  # a long name is no crime
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY


def check_claims(run, claims):
    """Checks that each claim is refused by name, before memory goes into it."""
    path = run / "checkpoints" / "8" / "meta" / "metadata"
    good = path.read_text()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for place, value, says in claims:
        meta = json.loads(good)
        *parts, last = place.split(".")
        inside = meta["meta"]
        for part in parts:
            inside = inside[part]
        inside[last] = value
        rewritten(run, "meta/metadata", json.dumps(meta).encode())
        try:
            sampling.load(run)
        except VidgenError as error:
            assert re.search(says, str(error)) and error.exit_code in (2, 5), (place, error)
            continue
        raise AssertionError(f"{place}={value} was taken")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY


@unawaited
def test_what_a_checkpoint_claims_is_held_to_the_ranges_of_a_config(run):
    check_claims(run, CLAIMS)


@unawaited
def test_claims_that_nobody_checks_are_seen(run, monkeypatch):
    """Sabotage: what is kept beside the arrays is taken as it is."""
    monkeypatch.setattr(loading, "check_meta", lambda meta: None)
    with pytest.raises(AssertionError, match="was taken"):
        check_claims(run, [c for c in CLAIMS if c[0].startswith(("looks", "config."))])


@unawaited
def test_parts_larger_than_their_array_are_not_read(run):
    """Of the metadata beside the numbers themselves, which nothing else says."""
    folder = run / "checkpoints" / "8" / "ema"
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{folder}/"}).result()
    key = next(key for key in store.list().result() if key.endswith(b".zarray"))
    array = json.loads(store.read(key).result().value)
    array["chunks"] = [1 << 20 for _ in array["chunks"]]
    store.write(key, json.dumps(array)).result()
    digests.list_files(folder.parent)
    for use in (lambda: sampling.load(run), lambda: Checkpoints(run / "checkpoints").verify(8)):
        with pytest.raises(StorageError, match="lies in parts of"):
            use()


@unawaited
def test_metadata_without_end_and_names_that_lead_elsewhere_are_refused(run):
    path = run / "checkpoints" / "8" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    rewritten(run, "meta/metadata", json.dumps({**meta, "more": "x" * (1 << 26)}).encode())
    check_refused(run)
    meta["digests"]["../../../outside"] = "0" * 64
    rewritten(run, "meta/metadata", json.dumps(meta).encode())
    with pytest.raises(StorageError, match="an item has a name"):
        Checkpoints(run / "checkpoints").verify(8)


@unawaited
def test_deep_json_is_refused(run):
    rewritten(run, "meta/metadata", b"[" * 200_000 + b"]" * 200_000)
    check_refused(run)


@unawaited
@pytest.mark.parametrize("name", ["../../../outside", "/etc/hostname"])
def test_a_list_of_files_leads_nowhere_else(run, name):
    """Whatever is named is only compared; and a path that leads out is refused."""
    folder = run / "checkpoints" / "8"
    listed = json.loads((folder / "files.json").read_text())
    (folder / "files.json").write_text(json.dumps({**listed, name: "0" * 64}))
    check_refused(run)


ARCHIVES = """
import io, sys, resource
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from vidgen.data import Limits, PackSettings, open_store
from vidgen.errors import VidgenError
try:
    settings = PackSettings(size=16, limits=Limits(seconds=5.0))
    open_store(sys.argv[1], settings, cache=sys.argv[2])
except VidgenError as error:
    print("refused:", error)
"""


def bomb_zip(path):
    """A gigabyte of zeros in a megabyte, that says it is an array."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 18, 64, 64)}
        )
        with archive.open("a.npy", "w") as member:
            member.write(header.getvalue())
            for _ in range(1 << 10):
                member.write(bytes(1 << 20))


def giant_header(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "a.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b"{'descr': '|u1'" + b" " * 1000
        )


def pickled_array(path):
    mark = path.with_name("executed")
    inner = io.BytesIO()
    np.save(inner, np.array([Payload(mark)], object), allow_pickle=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", inner.getvalue())


def escaping_tar(path):
    with tarfile.open(path, "w") as archive:
        for name in ("../outside.npy", "/tmp/outside.npy"):
            data = io.BytesIO()
            np.save(data, np.zeros((5, 16, 16, 3), np.uint8))
            info = tarfile.TarInfo(name)
            info.size = len(data.getvalue())
            archive.addfile(info, io.BytesIO(data.getvalue()))


def check_archive(make, folder):
    """Checks that an archive is refused, in bounded memory, and leaves nothing behind."""
    folder.mkdir()
    path = folder / "clips.archive"
    make(path)
    before = {p for p in folder.parent.rglob("*")}
    ran = subprocess.run(
        [sys.executable, "-c", ARCHIVES, str(path), str(folder / "cache")],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.stdout.startswith("refused:"), ran.stdout + ran.stderr
    new = {p for p in folder.parent.rglob("*")} - before
    assert all(p.is_relative_to(folder / "cache") for p in new), new
    assert not [p for p in new if p.suffix in (".npy", ".bin")], new


@pytest.mark.parametrize(
    "make",
    [
        pickled_array,
        *(
            pytest.param(m, marks=pytest.mark.faults)
            for m in (bomb_zip, giant_header, escaping_tar)
        ),
    ],
)
def test_a_hostile_archive_is_refused(tmp_path, make):
    check_archive(make, tmp_path / "there")


def test_an_archive_that_is_no_bomb_would_be_taken(tmp_path):
    """Sabotage, the other way round: the check fails where nothing is refused."""

    def good(path):
        with zipfile.ZipFile(path, "w") as archive:
            inner = io.BytesIO()
            np.save(inner, np.zeros((5, 16, 16, 3), np.uint8))
            archive.writestr("a.npy", inner.getvalue())

    with pytest.raises(AssertionError):
        check_archive(good, tmp_path / "there")


def test_listing_reads_no_pickle(tmp_path):
    pickled_array(tmp_path / "a.zip")
    with pytest.raises(VidgenError):
        list_source(tmp_path / "a.zip")
    assert not (tmp_path / "executed").exists()
