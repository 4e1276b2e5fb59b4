"""Reports of `evaluate`: on the terminal and as report.json; and several side by side."""

import hashlib
import json
import os
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict, cast

from vidgen.errors import ConfigError, DataError
from vidgen.evaluation import page, protocol, scores
from vidgen.evaluation.evaluate import Real, Result
from vidgen.evaluation.protocol import Manifest
from vidgen.evaluation.scores import Scores
from vidgen.evaluation.subjects import Subject
from vidgen.video import atomic

FORMAT = "vidgen-report-1"  # another number is another way to read the file
_FAMILY = "vidgen-report-"

Path = str | os.PathLike[str]


class Report(TypedDict):
    """What report.json holds.

    Attributes:
      format: `FORMAT`.
      subject: Which generated clips were measured.
      figures: The scores.
      manifest: All else that they depend on.
      real: What the real clips are; reports of earlier versions have none.
      warnings: What a reader of the scores should know; as `real`.
    """

    format: str
    subject: Subject
    figures: Scores
    manifest: Manifest
    real: NotRequired[Real]
    warnings: NotRequired[list[str]]


# ------------------------------------------------------------------------------- the terminal


def show(result: Result) -> None:
    """Prints scores: as a table on a terminal, as plain columns elsewhere."""
    title, rows = protocol.title(result.manifest), list(scores.rows(result.scores))
    if sys.stdout.isatty():
        _print_table(title, scores.HEADINGS, rows)
        return
    print(title)
    lines = [scores.HEADINGS, *rows]
    widths = [max(len(line[n]) for line in lines) for n in range(3)]
    for name, value, real, meaning in lines:
        print(f"{name:{widths[0]}}  {value:{widths[1]}}  {real:{widths[2]}}  {meaning}")


def show_comparison(names: Sequence[str], reports: Sequence[Report]) -> None:
    """Prints reports side by side: as a table on a terminal, as Markdown elsewhere."""
    if sys.stdout.isatty():
        headings = ("score", "real clips", *names)
        _print_table(protocol.title(reports[0]["manifest"]), headings, _cells(reports))
    else:
        print(markdown(names, reports))


def _print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left")
    for heading in headings:
        table.add_column(escape(heading), overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)


def markdown(names: Sequence[str], reports: Sequence[Report]) -> str:
    """Returns scores side by side as Markdown, a column a report."""
    title = protocol.title(reports[0]["manifest"])
    lines = [(title, "the real clips", *names), *_cells(reports)]
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([rows[0], "|---" * len(lines[0]) + "|", *rows[1:]])


def _cells(reports: Sequence[Report]) -> list[tuple[str, ...]]:
    """Returns a row for each score of the first report: name, of the real clips, of each report."""
    table = []
    for name in scores.names(reports[0]["figures"]):
        found = [scores.of_real(reports[0]["figures"], name)]
        found += [report["figures"].get(name) for report in reports]
        table.append((name, *(scores.text(score) if score else "" for score in found)))
    return table


# --------------------------------------------------------------------------------- report.json


def write(result: Result, folder: Path) -> pathlib.Path:
    """Writes report.json and report.html; a report of another manifest there is set aside.

    Args:
      result: What `evaluate` returned.
      folder: Made if need be.

    Returns:
      The path of report.json.

    Raises:
      StorageError: Something could not be written.
    """
    path = pathlib.Path(folder) / "report.json"
    data: Report = {
        "format": FORMAT,
        "subject": result.subject,
        "figures": result.scores,
        "manifest": result.manifest,
        "real": result.real,
        "warnings": list(result.warnings),
    }
    if path.exists():
        _set_aside(path, result.manifest)
    for name, content in (
        ("report.json", json.dumps(data, indent=1) + "\n"),
        ("report.html", page.render(result)),
    ):
        with atomic.replacing(path.with_name(name)) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return path


def _set_aside(path: pathlib.Path, manifest: Manifest) -> None:
    """Renames a report with another manifest, so that it is not lost."""
    try:
        old = read(path)["manifest"] if path.is_file() else {"protocol": "unreadable"}
    except DataError:
        old = {"protocol": "unreadable"}
    if old == manifest:
        return
    named = re.fullmatch(r"[\w-]{1,40}", old["protocol"], re.ASCII)  # as it may not after damage
    word = old["protocol"] if named else "unreadable"
    mark = hashlib.sha256(json.dumps(old, sort_keys=True).encode()).hexdigest()[:8]
    for name in ("report.json", "report.html"):
        written = path.with_name(name)
        if written.exists():
            with atomic.storage(path):
                written.rename(written.with_stem(f"report-{word}-{mark}"))


def read(path: Path) -> Report:
    """Reads a report.json, or the one in a folder, or the newest of a run.

    Raises:
      DataError: There is none, or it is something else.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        written = [p for p in (path / "report.json",) if p.exists()] or sorted(
            (path / "evaluation").glob("*/report.json"), key=lambda p: (len(p.parent.name), p)
        )
        if not written:
            raise DataError(f"{path}: holds no report", "vidgen evaluate makes one")
        path = written[-1]
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON: {error}") from error
    return _checked(data, path)


_MANIFEST: dict[str, Any] = {  # what is read of one, and of its real clips
    "protocol": str,
    "version": int,
    "clips": int,
    "measured": int,
    "frames": int,
    "network": str,
    "sha256": str,
    "seed": int,
    "real": dict,
}
_REAL: dict[str, Any] = {"fingerprint": str, "half": int | None, "windows": list}


def _checked(data: Any, path: pathlib.Path) -> Report:
    """Returns JSON data as a report, if it is one.

    Raises:
      DataError: It is not; says what is missing.
    """
    written = data.get("format") if isinstance(data, dict) else None
    if not isinstance(written, str) or not written.startswith(_FAMILY):
        raise DataError(f"{path}: is no report of vidgen evaluate")
    if written != FORMAT:
        raise DataError(
            f"{path}: is of version {written.removeprefix(_FAMILY)}, "
            f"this vidgen reads version {FORMAT.removeprefix(_FAMILY)}",
            "evaluate again with this version, or read it with the one that wrote it",
        )
    _check_fields(data, {"figures": dict, "manifest": dict, "subject": dict}, path, "the report")
    _check_fields(data["manifest"], _MANIFEST, path, "the manifest")
    _check_fields(data["manifest"]["real"], _REAL, path, "the manifest's real clips")
    for window in data["manifest"]["real"]["windows"]:
        if not isinstance(window, list) or len(window) != 2:
            raise DataError(f"{path}: a window is {window!r}, not a name and a first frame")
    for name, score in data["figures"].items():
        if not isinstance(score, dict):
            raise DataError(f"{path}: {name} is {score!r}, not a score")
        bounds = {"low": float | int, "high": float | int} if "low" in score else {}
        _check_fields(score, {"value": float | int, **bounds}, path, name)
    if "real" in data:
        known = {"path": str, "clips": int}
        _check_fields(data, {"real": dict}, path, "the report")
        _check_fields(data["real"], known, path, "the real clips")
    return cast(Report, data)


def _check_fields(
    values: dict[str, Any], types: dict[str, Any], path: pathlib.Path, where: str
) -> None:
    for name, kind in types.items():
        if name not in values:
            raise DataError(f"{path}: {where} has no {name}")
        if not isinstance(values[name], kind):
            raise DataError(f"{path}: {name} of {where} is {values[name]!r}")


# --------------------------------------------------------------------------------- comparing


def compare(paths: Sequence[Path]) -> tuple[list[str], list[Report]]:
    """Reads reports that may be compared.

    Returns:
      Names for them, and the reports.

    Raises:
      ConfigError: They were not measured alike; the message says in which fields.
      DataError: One cannot be read.
    """
    reports = [read(path) for path in paths]
    first = reports[0]
    for path, report in zip(paths[1:], reports[1:], strict=True):
        real = _real_clips(first), _real_clips(report)
        differ = protocol.differences(first["manifest"], report["manifest"], real)
        if differ:
            raise ConfigError(
                f"{paths[0]} and {path} were not measured alike: {'; '.join(differ)}",
                "evaluate both against the same clips, by the same protocol, clips and seed",
            )
    return [_name(report, path) for report, path in zip(reports, paths, strict=True)], reports


def _real_clips(report: Report) -> str:
    """Says in a few words what the real clips of a report were."""
    if "real" in report:
        return f"{report['real']['clips']} clips of {report['real']['path']}"
    return protocol.describe_windows(report["manifest"])


def _name(report: Report, path: Path) -> str:
    subject = report["subject"]
    step = f" step {subject['step']}" if "step" in subject else ""
    change = f" {subject['change']}" if "change" in subject else ""
    again = " reconstructions" if subject.get("reconstructions") else ""
    apart = {"start": subject["start"]} if "start" in subject else {}
    apart |= subject.get("options", {})
    chosen = "".join(f" {name}={value}" for name, value in apart.items())
    return f"{subject.get('path', path)}{step}{again}{chosen}{change}"
