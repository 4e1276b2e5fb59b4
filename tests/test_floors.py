"""Modules import only from lower floors, and the NumPy floors never import JAX (AST only)."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "vidgen"
FLOORS = [
    {"errors", "signals", "heartbeat", "config", "defaults", "seeds"},
    {"frames", "video_io", "data", "logs"},
    {"keys"},
    {"models"},
    {"objectives", "augment", "optimizers", "accumulate", "guard", "spectral"},
    {"methods"},
    {"parallel", "checkpoint"},
    {"latents"},
    {"sampling", "metrics"},
    {"evaluate", "watch"},
    {"runs"},
    {"report", "fit", "experiments"},
    {"train"},
    {"bench", "doctor", "estimate", "launch"},
    {"commands"},
    {"cli", "__main__"},
]
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}


def imports(source: str):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(part: str, source: str) -> list[str]:
    floor = {name: n for n, names in enumerate(FLOORS) for name in names}
    bad = []
    for name in imports(source):
        top, *rest = name.split(".")
        if floor[part] <= 1 and top in JAX:
            bad.append(f"{part} imports {top}")
        other = rest[0] if rest else ""
        if top == "vidgen" and other in floor and other != part and floor[other] > floor[part]:
            bad.append(f"{part} (floor {floor[part]}) imports {other} (floor {floor[other]})")
    return bad


MODULES = [p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_from_lower_floors(path):
    part = path.relative_to(ROOT).with_suffix("").parts[0]
    assert not violations(part, path.read_text())


def test_violations_are_found():
    assert violations("data", "import jax.numpy as jnp")
    assert violations("models", "from vidgen import train")
    assert violations("seeds", "import flax.linen as nn")
    assert not violations("train", "from vidgen.data.clips import Clips\nimport jax")


def test_import_vidgen_is_light():
    import subprocess
    import sys

    code = "import sys, vidgen; print(sorted({'jax', 'av', 'numpy', 'flax'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
