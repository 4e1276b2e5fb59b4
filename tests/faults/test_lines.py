"""Command lines at random: each is taken and can be done, or refused in a line or two by name.

Thousands in the battery, a few hundred always; `lines.py` draws and runs them.
"""

import json
import pathlib
import subprocess
import sys

import pytest
from harness import ROOT

LINES = pathlib.Path(__file__).with_name("lines.py")
CODES = (2, 3, 5)  # of what is refused: usage or config, clips, files and runs
QUICK, MANY = 220, 3000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lines")


def ran(folder, seed, count, **more):
    """Yields `(words, result)` of each line; asserts that the process came to the last one."""
    asked = {"seed": seed, "count": count, "folder": str(folder), **more}
    done = subprocess.run(
        [sys.executable, str(LINES), json.dumps(asked)], cwd=ROOT, capture_output=True, text=True
    )
    said = [json.loads(line) for line in done.stdout.splitlines()]
    last = said[-1] if said else "its beginning"
    assert done.returncode == 0, f"the process ended at {last}: {done.stderr[-2000:]}"
    return [(a["words"], b) for a, b in zip(said[::2], said[1::2], strict=True)]


def faults(result, seconds=10.0):
    """Returns what is wrong with how a line ended; of seconds of the processor, not the clock."""
    code, err = result["code"], result["err"]
    lines = [x for x in err.splitlines() if not x.startswith(("vidgen 0", "training "))]
    if code == "traceback":
        return result["trace"]
    if code in ("begun", 0):
        return ""
    if code not in CODES:
        return f"code {code}"
    if not 1 <= len(lines) <= 2 or not lines[0].startswith("vidgen: "):
        return f"not one line or two: {err}"
    if max(map(len, lines)) > 1200 or not all(map(str.isprintable, lines)):
        return f"long, or not for a terminal: {err!r}"
    return f"took {result['seconds']} s" if result["seconds"] > seconds else ""


def check(folder, seed, count, **more):
    """Checks every line, and that there are enough of each kind."""
    found = ran(folder, seed, count, **more)
    wrong = [(words, fault) for words, result in found if (fault := faults(result))]
    shown = "\n".join(f"{str(words)[:300]}\n  {fault[-1500:]}" for words, fault in wrong[:5])
    assert not wrong, f"{len(wrong)} of {count}:\n{shown}"
    codes = [result["code"] for _, result in found]
    assert codes.count(2) > count / 3 and codes.count("begun") > count / 10
    return found


def test_command_lines_at_random(folder):
    check(folder, 1, QUICK)


@pytest.mark.faults
@pytest.mark.parametrize("seed", [2, 3])
def test_thousands_of_command_lines(folder, seed):
    """Of what is taken, some are traced; of what is refused, some are run as users run them."""
    found = check(folder, seed, MANY, trace=20)
    refused = [words for words, result in found if result["code"] == 2][:: MANY // 20]
    for words in refused:
        if any("\udcff" in word for word in words):
            continue  # not to be had from every locale
        done = subprocess.run(
            [sys.executable, "-m", "vidgen", *words],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 2, (words, done.stderr)
        assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 4, words


@pytest.mark.faults
@pytest.mark.parametrize("sabotage", ["no ranges", "words as they are"])
def test_a_sabotage_is_seen(folder, sabotage):
    with pytest.raises(AssertionError):
        check(folder, 4, 400, sabotage=sabotage)
