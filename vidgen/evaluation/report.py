"""Reports of `evaluate`: on the terminal, as JSON, as one HTML page; and several side by side."""

import base64
import hashlib
import html
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vidgen.errors import ConfigError, DataError
from vidgen.evaluation.evaluate import Result
from vidgen.video import atomic
from vidgen.video.encoding import encode

FORMAT = "vidgen-report-1"
# What a figure is, in a few words, and which way is good: "-" low, "+" high, "1" near one,
# "=" near that of the real clips.
FIGURES = {
    "fvd": ("-", "Frechet video distance: I3D logits as Gaussians"),
    "fvd_infinity": ("-", "the same, extrapolated to sets without end"),
    "kvd": ("-", "kernel video distance: unbiased MMD of I3D logits; 0 for equal sets"),
    "frechet": ("-", "Frechet distance of the network's features; no FVD"),
    "frechet_infinity": ("-", "the same, extrapolated to sets without end"),
    "kernel": ("-", "unbiased MMD of the network's features; no KVD"),
    "frame_frechet": ("-", "Frechet distance of single frames"),
    "precision": ("+", "share of clips among the real ones"),
    "recall": ("+", "share of real clips among these"),
    "density": ("1", "how densely real clips lie about these"),
    "coverage": ("+", "share of real clips with one of these nearby"),
    "inception_score": ("+", "how sure and how varied the classes are"),
    "flow": ("=", "optical flow, % of the frame's side a frame"),
    "difference": ("=", "difference of neighbouring frames, levels of 255"),
    "static": ("=", "share of frames like the one before"),
    "period": ("=", "how far motion comes back: 1 is a loop"),
    "flicker": ("=", "second difference of brightness, levels of 255"),
    "drift": ("=", "distance of the last frame's features from the first's"),
    "flow_distance": ("-", "Wasserstein distance of flow, in real standard deviations"),
    "difference_distance": ("-", "the same of differences"),
    "flicker_distance": ("-", "the same of flicker"),
    "period_distance": ("-", "the same of periods"),
    "drift_distance": ("-", "the same of drift"),
    "content_diversity": ("1", "distance of two first frames, over that of two real ones"),
    "motion_diversity": ("1", "distance of two motions, over that of two real ones"),
    "different_bins": ("-", "share of 20 kinds of clips that are too rare or too frequent"),
    "copied": ("-", "share of clips that are copies of real ones"),
    "nearest_distance": ("1", "distance to the nearest real clip, over the usual one"),
}
_COLOURS = ("#777", "#d60")  # real, measured


def text(figure: dict[str, float]) -> str:
    """Writes a figure as `12.3 [11.8, 12.9]`."""
    digits = lambda v: f"{v:.4g}"  # noqa: E731
    interval = f" [{digits(figure['low'])}, {digits(figure['high'])}]" if "low" in figure else ""
    return digits(figure["value"]) + interval


def rows(figures: dict[str, dict[str, float]]) -> Iterator[tuple[str, str, str, str]]:
    """Yields `(name, figure, the same of the real clips or "", what it is)`."""
    for name, figure in figures.items():
        if name.endswith("_real"):
            continue
        real = figures.get(f"{name}_real")
        way, what = FIGURES[name]
        yield name, text(figure), text(real) if real else "", f"({way}) {what}"


def show(result: Result) -> None:
    """Prints the figures as a table."""
    print(_title(result.manifest))
    lines = [("figure", "value [95 %]", "real clips", "(- low, + high, 1 near one, = near real)")]
    lines += rows(result.figures)
    wide = [max(len(line[n]) for line in lines) for n in range(3)]
    for name, value, real, what in lines:
        print(f"{name:{wide[0]}}  {value:{wide[1]}}  {real:{wide[2]}}  {what}")


def _title(manifest: dict[str, Any]) -> str:
    return (
        f"{manifest['protocol']} version {manifest['version']}: {manifest['clips']} clips of "
        f"{manifest['frames']} frames, {manifest['network']} features"
    )


def write(result: Result, folder: pathlib.Path) -> pathlib.Path:
    """Writes report.json and report.html; a report of another manifest there is set aside.

    Args:
      result: What `evaluate` returned.
      folder: Made if need be.

    Returns:
      The path of report.json.

    Raises:
      StorageError: Something could not be written.
    """
    path = folder / "report.json"
    data = {
        "format": FORMAT,
        "subject": result.subject,
        "figures": result.figures,
        "manifest": result.manifest,
    }
    if path.exists():
        _set_aside(path, result.manifest)
    page = _page(result)
    for name, content in (
        ("report.json", json.dumps(data, indent=1) + "\n"),
        ("report.html", page),
    ):
        with atomic.replacing(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return path


def _set_aside(path: pathlib.Path, manifest: dict[str, Any]) -> None:
    """Renames a report with another manifest, so that it is not lost."""
    try:
        old = read(path)["manifest"]
    except DataError:
        old = {"protocol": "unreadable"}
    if old == manifest:
        return
    mark = hashlib.sha256(json.dumps(old, sort_keys=True).encode()).hexdigest()[:8]
    for name in ("report.json", "report.html"):
        one = path.with_name(name)
        if one.exists():
            with atomic.storage(path):
                one.rename(one.with_stem(f"report-{old['protocol']}-{mark}"))


def read(path: pathlib.Path) -> dict[str, Any]:
    """Reads a report.json, or the one in a folder, or the newest of a run.

    Raises:
      DataError: There is none, or it is something else.
    """
    if path.is_dir():
        found = [p for p in (path / "report.json",) if p.exists()] or sorted(
            (path / "evaluation").glob("*/report.json"), key=lambda p: (len(p.parent.name), p)
        )
        if not found:
            raise DataError(f"{path}: holds no report", "vidgen evaluate makes one")
        path = found[-1]
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: is no JSON: {error}") from error
    parts = ("figures", "manifest", "subject")
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise DataError(f"{path}: is no report of vidgen evaluate")
    if not all(isinstance(data.get(part), dict) for part in parts):
        raise DataError(f"{path}: lacks one of {', '.join(parts)}")
    return data


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """Lists where two manifests differ: `network is 'i3d' and 'random'`."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            line
            for key in sorted(one.keys() | other.keys())
            for line in differences(one.get(key), other.get(key), f"{name}.{key}".lstrip("."))
        ]
    if one == other:
        return []
    if isinstance(one, list) and isinstance(other, list):
        count = sum(a != b for a, b in zip(one, other, strict=False)) + abs(len(one) - len(other))
        return [f"{name} has {len(one)} and {len(other)} entries, {count} of them different"]
    return [f"{name} is {one!r} and {other!r}"]


def compare(paths: Sequence[pathlib.Path]) -> tuple[list[str], list[dict[str, Any]]]:
    """Reads reports that may be compared.

    Returns:
      Names for them, and the reports.

    Raises:
      ConfigError: Their manifests differ; the message says where.
      DataError: One cannot be read.
    """
    reports = [read(path) for path in paths]
    for path, report in zip(paths[1:], reports[1:], strict=True):
        differ = differences(reports[0]["manifest"], report["manifest"])
        if differ:
            raise ConfigError(
                f"{paths[0]} and {path} were not measured alike: " + "; ".join(differ[:8]),
                "evaluate both by the same protocol, clips and seed",
            )
    return [_name(report, path) for report, path in zip(reports, paths, strict=True)], reports


def _name(report: dict[str, Any], path: pathlib.Path) -> str:
    about = report["subject"]
    step = f" step {about['step']}" if "step" in about else ""
    change = f" {about['change']}" if "change" in about else ""
    return f"{about.get('path', path)}{step}{change}"


def table(names: Sequence[str], reports: Sequence[dict[str, Any]]) -> str:
    """Returns figures side by side as Markdown, a column a report."""
    lines = [f"| {_title(reports[0]['manifest'])} | the real clips | " + " | ".join(names) + " |"]
    lines.append("|---" * (len(names) + 2) + "|")
    for name in _compared(reports):
        real = reports[0]["figures"].get(f"{name}_real")
        cells = [text(real) if real else ""]
        cells += [text(r["figures"][name]) if name in r["figures"] else "" for r in reports]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _compared(reports: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the names of figures, those of the real clips themselves left out."""
    return [name for name in reports[0]["figures"] if not name.endswith("_real")]


def plot(names: Sequence[str], reports: Sequence[dict[str, Any]]) -> str:
    """Returns an SVG with a row of bars and intervals for each figure, a bar a report."""
    parts, top = [], 0
    width, bar, label = 640, 14, 170
    for name in _compared(reports):
        found = [r["figures"].get(name) for r in reports]
        largest = max([max(f["value"], f.get("high", 0)) for f in found if f] + [1e-12])
        parts.append(f'<text x="0" y="{top + 12}" font-weight="bold">{html.escape(name)}</text>')
        top += 16
        for whose, figure in zip(names, found, strict=True):
            parts.append(f'<text x="8" y="{top + 11}">{html.escape(whose[-26:])}</text>')
            if figure:
                scale = lambda v: label + max(v, 0) / largest * (width - label - 110)  # noqa: E731,B023
                parts.append(
                    f'<rect x="{label}" y="{top + 2}" height="{bar - 4}" '
                    f'width="{scale(figure["value"]) - label:.1f}" fill="#8bd"/>'
                )
                if "low" in figure:
                    parts.append(
                        f'<path d="M{scale(figure["low"]):.1f} {top + bar / 2}'
                        f'H{scale(figure["high"]):.1f}" stroke="#000"/>'
                    )
                value = html.escape(f"{figure['value']:.4g}")
                parts.append(f'<text x="{width - 100}" y="{top + 11}">{value}</text>')
            top += bar
        top += 8
    style = "font:11px sans-serif;background:#fff"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" '
        f'style="{style}">{"".join(parts)}</svg>\n'
    )


# --------------------------------------------------------------------------------- the page


def _page(result: Result) -> str:
    """Returns the report as one HTML page that needs no other file."""
    escape = html.escape
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows(result.figures)
    )
    plots = "".join(
        f"<figure>{_distribution(*values)}<figcaption>{escape(name)}: "
        f"{escape(FIGURES[name][1])}</figcaption></figure>"
        for name, values in result.spread.items()
    )
    pairs = "".join(
        f'<img alt="" src="{_animation(np.concatenate([clip, real], 2), result.fps)}">'
        for clip, real in zip(result.clips, result.nearest, strict=True)
    )
    about = json.dumps(result.subject, indent=1)
    manifest = json.dumps(result.manifest, indent=1)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>vidgen: {escape(_title(result.manifest))}</title>
<style>
body {{ font: 15px/1.4 sans-serif; margin: 2em auto; max-width: 60em; color: #222 }}
td, th {{ padding: .15em .8em .15em 0; text-align: left; border-bottom: 1px solid #ddd }}
td:nth-child(2), td:nth-child(3) {{ font-variant-numeric: tabular-nums; white-space: nowrap }}
figure {{ display: inline-block; margin: 0 1em 1em 0 }} figcaption {{ max-width: 18em }}
img {{ image-rendering: pixelated; width: 256px; margin: 0 8px 8px 0 }}
pre {{ max-height: 24em; overflow: auto; background: #f6f6f6; padding: 1em }}
</style></head><body>
<h1>{escape(_title(result.manifest))}</h1>
<p>{escape(str(result.subject.get("path", "")))}</p>
<table><tr><th>figure</th><th>value [95 %]</th><th>real clips</th><th>- low, + high, 1 near one,
= near real is good</th></tr>{lines}</table>
<h2>How they move</h2>
<p>Share of the clips below each value: <span style="color:{_COLOURS[0]}">real</span>,
<span style="color:{_COLOURS[1]}">measured</span>.</p>{plots}
<h2>Clips, each beside the real one most like it</h2><p>{pairs}</p>
<h2>What was measured</h2><pre>{escape(about)}</pre>
<h2>Manifest</h2><pre>{escape(manifest)}</pre>
</body></html>
"""


def _distribution(real: np.ndarray, measured: np.ndarray) -> str:
    """Draws two cumulative distributions as SVG."""
    low = float(min(real.min(), measured.min()))
    high = float(max(real.max(), measured.max()))
    span = (high - low) or 1.0
    width, height = 240, 120
    lines = []
    for values, colour in zip((real, measured), _COLOURS, strict=True):
        x = (np.sort(values) - low) / span * width
        y = height * (1 - np.arange(1, len(x) + 1) / len(x))
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
    return (
        f'<svg width="{width}" height="{height + 16}"><rect width="{width}" height="{height}" '
        f'fill="#f6f6f6"/>{"".join(lines)}<text y="{height + 13}" font-size="11">{low:.3g}</text>'
        f'<text x="{width}" y="{height + 13}" font-size="11" text-anchor="end">{high:.3g}</text>'
        "</svg>"
    )


def _animation(video: np.ndarray, fps: float) -> str:
    """Returns uint8 `[T, H, W, 3]` as the URL of an animated WebP."""
    data = encode(video, fps, ".webp", quality=80)
    return "data:image/webp;base64," + base64.b64encode(data).decode()
