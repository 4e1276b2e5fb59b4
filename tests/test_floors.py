"""Modules import only from lower floors, and the NumPy floors never import JAX (AST only)."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

PROJECT = pathlib.Path(__file__).parents[1]
ROOT = PROJECT / "vidgen"
FLOORS = [
    {"errors", "frame_size", "seeds", "text"},
    {"config", "video"},
    {"data"},
    {"keys"},
    {"models"},
    {"training"},
    {"methods"},
    {"runtime"},
    {"sampling", "metrics"},
    {"evaluation"},
    {"run"},
    {"tools"},
    {"cli"},
]
FLOOR = {name: n for n, names in enumerate(FLOORS) for name in names}
NUMPY_ALONE = FLOOR["keys"]  # below it
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}


def imports(source: str):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(part: str, source: str) -> list[str]:
    bad = []
    for name in imports(source):
        top, *rest = name.split(".")
        if FLOOR[part] < NUMPY_ALONE and top in JAX:
            bad.append(f"{part} imports {top}")
        other = rest[0] if rest else ""
        if top == "vidgen" and other != part and FLOOR.get(other, -1) >= FLOOR[part]:
            bad.append(f"{part} (floor {FLOOR[part]}) imports {other} (floor {FLOOR[other]})")
    return bad


ENTRIES = {ROOT / "__init__.py", ROOT / "__main__.py"}  # names for users, and `python -m vidgen`
MODULES = [p for p in sorted(ROOT.rglob("*.py")) if p not in ENTRIES]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_from_lower_floors(path):
    part = path.relative_to(ROOT).with_suffix("").parts[0]
    assert not violations(part, path.read_text())


def test_violations_are_found():
    assert violations("data", "import jax.numpy as jnp")
    assert violations("models", "from vidgen.run import train")
    assert violations("sampling", "from vidgen import evaluation")
    assert violations("seeds", "import flax.linen as nn")
    assert not violations("run", "from vidgen.data.stream import Clips\nimport jax")


def test_the_table_of_the_design_is_what_is_tested():
    text = (PROJECT / "docs" / "design.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(len(FLOORS)))
    assert [set(re.findall(r"`(\w+)/?`", names)) for _, names in rows] == FLOORS


def test_every_file_has_a_floor():
    here = {p.relative_to(ROOT).with_suffix("").parts[0] for p in MODULES}
    assert here == set(FLOOR)


def test_import_vidgen_is_light():
    code = "import sys, vidgen; print(sorted({'jax', 'av', 'numpy', 'flax'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
