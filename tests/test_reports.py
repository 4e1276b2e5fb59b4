"""Reports of results that are made by hand: written, read, shown, compared, drawn."""

import dataclasses
import html.parser
import io
import json
import re
import subprocess
import sys
import xml.etree.ElementTree

import numpy as np
import pytest
from test_features import sliding

from vidgen.cli import main
from vidgen.errors import ConfigError, DataError
from vidgen.evaluation import page, plots, report
from vidgen.evaluation.evaluate import Result


def result(**changes):
    """Returns a result with two scores; changes are of its manifest, or of `manifest["real"]`."""
    real = {"fingerprint": "aaaa", "half": None, "stride": 1, "fps": None, "crop": "center",
            "size": 16, "windows": [["a.mp4", 0], ["b.mp4", 3]]}  # fmt: skip
    manifest = {"protocol": "quick", "version": 1, "clips": 256, "measured": 256, "frames": 16,
                "network": "random", "layer": "all", "sha256": "0" * 64, "resize": "none",
                "range": [-1, 1], "seed": 0}  # fmt: skip
    for name, value in changes.items():
        (real if name in real else manifest)[name] = value
    rng = np.random.default_rng(0)
    return Result(
        scores={
            "frechet": {"value": 12.5, "low": 10.25, "high": 14.75},
            "flow": {"value": 0.5},
            "flow_real": {"value": 0.75},
        },
        manifest={**manifest, "real": real},
        subject={"kind": "run", "path": "runs/a", "step": 7},
        real={"path": "clips", "clips": 2, "windows": 9, "fps": 8.0, "frame_size": (16, 16)},
        warnings=("2 clips are <few>",),
        clips=np.stack([sliding((0, 1), 16, k, 16) for k in range(3)]),
        nearest=np.stack([sliding((1, 0), 16, k, 16) for k in range(3)]),
        fps=8.0,
        distributions={"flow": (rng.random(20), rng.random(30)), "drift": (rng.random(9),) * 2},
    )


def written(folder, one=None):
    return report.read(report.write(one or result(), folder))


class Terminal(io.StringIO):
    def isatty(self):
        return True


class _Needs(html.parser.HTMLParser):
    """Collects what a page would have to fetch, and its pictures by their types."""

    def __init__(self):
        super().__init__()
        self.needed, self.pictures = [], []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href"):
                if value.startswith("data:"):
                    self.pictures.append(value.split(";")[0])
                else:
                    self.needed.append(value)


def test_a_report_comes_back_as_it_was_written(tmp_path):
    one = result()
    back = written(tmp_path)
    assert back["figures"] == one.scores and back["manifest"] == one.manifest
    assert back["warnings"] == ["2 clips are <few>"] and back["real"]["frame_size"] == [16, 16]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_the_page_needs_no_other_file():
    needs, text = _Needs(), page.render(result())
    needs.feed(text)
    assert needs.needed == [] and "url(" not in text
    assert needs.pictures == ["data:image/svg+xml", *["data:image/webp"] * 3]
    assert "2 clips are &lt;few&gt;" in text and "12.5 [10.25, 14.75]" in text


def test_without_matplotlib_the_page_says_what_is_missing_and_a_plot_is_refused(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    needs, text = _Needs(), page.render(result())
    needs.feed(text)
    assert needs.pictures == ["data:image/webp"] * 3
    assert "pip install &#x27;vidgen[plots]&#x27;" in text
    written(tmp_path / "a")
    target = tmp_path / "plot.svg"
    assert main.main(["compare", str(tmp_path / "a"), f"--plot={target}"]) == 2
    said = capsys.readouterr()
    assert "pip install 'vidgen[plots]'" in said.err and not said.out and not target.exists()
    with pytest.raises(ConfigError):
        plots.comparison(["a"], [result().scores])


def test_plots_hold_their_names_and_are_the_same_bytes_each_time():
    one, other = result().scores, {"frechet": {"value": 3.0}}
    drawn = plots.comparison(["runs/a", "b <&"], [one, other])
    texts = [element.text for element in xml.etree.ElementTree.fromstring(drawn).iter()]
    assert {"frechet", "flow", "runs/a", "b <&"} <= set(texts)
    assert "flow_real" not in texts
    assert drawn == plots.comparison(["runs/a", "b <&"], [one, other])
    values = result().distributions
    drawn = plots.distributions(values)
    assert drawn == plots.distributions(values)
    texts = [element.text for element in xml.etree.ElementTree.fromstring(drawn).iter()]
    assert {"flow", "drift", "real", "generated"} <= set(texts)
    assert b"dc:date" not in drawn


def test_plots_leave_the_settings_of_pyplot_alone():
    code = (
        "import sys, matplotlib; from vidgen.evaluation import plots\n"
        "before = matplotlib.rcParams.copy()\n"  # dict() would look for a backend, with pyplot
        "plots.comparison(['a'], [{'flow': {'value': 0.5}}])\n"
        "print(matplotlib.rcParams.copy() == before, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_a_terminal_gets_a_table_and_a_pipe_gets_columns(monkeypatch):
    piped, seen = io.StringIO(), Terminal()
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setattr(sys, "stdout", piped)
    report.show(result())
    title, headings, frechet, flow = piped.getvalue().splitlines()
    assert title == "quick version 1: 256 clips of 16 frames, random features"
    assert re.split("  +", headings)[:3] == ["score", "value [95 %]", "real clips"]
    assert re.split("  +", frechet)[:2] == ["frechet", "12.5 [10.25, 14.75]"]
    assert re.split("  +", flow)[:3] == ["flow", "0.5", "0.75"]
    monkeypatch.setattr(sys, "stdout", seen)
    report.show(result())
    assert "│" in seen.getvalue() and "12.5 [10.25, 14.75]" in seen.getvalue()


def test_reports_side_by_side_are_markdown_where_they_are_piped(tmp_path, monkeypatch):
    written(tmp_path / "a")
    other = dataclasses.replace(result(), scores={"frechet": {"value": 3.0}})
    written(tmp_path / "b", other)
    names, reports = report.compare([tmp_path / "a", tmp_path / "b"])
    piped, seen = io.StringIO(), Terminal()
    monkeypatch.setattr(sys, "stdout", piped)
    report.show_comparison(names, reports)
    assert piped.getvalue().splitlines() == [
        "| quick version 1: 256 clips of 16 frames, random features | the real clips "
        "| runs/a step 7 | runs/a step 7 |",
        "|---|---|---|---|",
        "| frechet |  | 12.5 [10.25, 14.75] | 3 |",
        "| flow | 0.75 | 0.5 |  |",
    ]
    monkeypatch.setattr(sys, "stdout", seen)
    report.show_comparison(names, reports)
    assert "│" in seen.getvalue() and "| frechet" not in seen.getvalue()


def test_a_report_of_another_manifest_is_set_aside(tmp_path):
    old = written(tmp_path, result(network="pixel", protocol="pixel"))
    written(tmp_path)
    (kept,) = tmp_path.glob("report-pixel-*.json")
    assert report.read(kept) == old and kept.with_suffix(".html").exists()
    written(tmp_path)  # of the same manifest: replaced
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"seed": 1}, ["seed: 0 and 1"]),
        ({"frames": 128, "clips": 64}, ["clips: 256 and 64", "frames: 16 and 128"]),
        ({"version": 2}, ["version of the protocol: 1 and 2"]),
        # What follows from another network is not named beside it, nor are other clips' windows.
        ({"network": "pixel", "sha256": "1" * 64, "layer": "b"}, ["network: random and pixel"]),
        ({"sha256": "1" * 64}, ["weights of the network, SHA-256: 00000000... and 11111111..."]),
        ({"half": 0}, ["real clips taken: all and one half"]),
        ({"fps": 8.0}, ["frames per second: as recorded and 8.0"]),
        ({"size": 32, "stride": 2}, ["stride: 1 and 2", "size: 16 and 32"]),
        ({"fingerprint": "bbbb", "windows": [["c.mp4", 1]]},
         ["real clips: 2 clips of clips (fingerprint differs)"]),
        ({"windows": [["a.mp4", 0], ["b.mp4", 4]]},
         ["windows of the real clips: 2 and 2, 1 of those in the same places are others"]),
        ({"precision": "float16"}, ["precision: none and float16"]),
    ],
)  # fmt: skip
def test_a_refusal_names_fields(tmp_path, changes, said):
    written(tmp_path / "a")
    written(tmp_path / "b", result(**changes))
    with pytest.raises(ConfigError) as error:
        report.compare([tmp_path / "a", tmp_path / "b"])
    differ = str(error.value).splitlines()[0].split(" were not measured alike: ")[1]
    assert differ.split("; ") == said
    assert not re.search("[0-9a-f]{16}", str(error.value).replace(str(tmp_path), ""))


def test_reports_of_before_are_compared(tmp_path):
    """They have neither `real` nor `warnings`."""
    written(tmp_path / "b")
    data = written(tmp_path / "a")
    del data["real"], data["warnings"]
    (tmp_path / "a" / "report.json").write_text(json.dumps(data))
    assert report.compare([tmp_path / "a", tmp_path / "b"])[1][0]["figures"] == result().scores
    data["manifest"]["real"]["fingerprint"] = "cccc"
    (tmp_path / "a" / "report.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=r"2 windows of 2 clips \(a.mp4, ...\) and 2 clips of cl"):
        report.compare([tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize(
    "text, said",
    [
        ("[]", "is no report"),
        ("{", "is no JSON"),
        ('{"format": 7}', "is no report"),
        ('{"format": "vidgen-report-1"}', "the report has no figures"),
        ('{"format": "vidgen-report-2"}', "is of version 2, this vidgen reads version 1"),
    ],
)
def test_a_file_may_hold_anything(tmp_path, capsys, text, said):
    (tmp_path / "report.json").write_text(text)
    assert main.main(["compare", str(tmp_path)]) == 3
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda data: data["figures"].update(flow=3), "flow is 3"),
        (lambda data: data["figures"]["flow"].update(value="x"), "value of flow is 'x'"),
        (lambda data: data["figures"]["flow"].update(low=0.0), "flow has no high"),
        (lambda data: data["manifest"].pop("seed"), "the manifest has no seed"),
        (lambda data: data["manifest"]["real"].update(windows=[3]), "a window is 3"),
    ],
)
def test_a_damaged_report_says_where(tmp_path, change, said):
    data = written(tmp_path)
    change(data)
    (tmp_path / "report.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=re.escape(said)):
        report.read(tmp_path)
