"""Arrays carry their shapes in signatures, which tests check and the package in use does not."""

import ast
import importlib
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import jaxtyping
import pytest
from conftest import CHECKED

import vidgen
from vidgen import keys
from vidgen.models import layers

ROOT = pathlib.Path(vidgen.__file__).parent
# Folders whose every array has a shape; what is checked and not here says `jax.Array` in places.
SHAPED = ("keys", "models", "training", "metrics")
FILES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if path.relative_to(ROOT).with_suffix("").parts[0] in CHECKED
]
WRONG = "layers.space_to_depth(jnp.zeros((2, 3, 4, 4, 3)), 2)"  # five axes where four belong


def test_a_wrong_number_of_axes_is_refused_in_tests():
    with pytest.raises(jaxtyping.TypeCheckError, match="space_to_depth"):
        layers.space_to_depth(jnp.zeros((2, 3, 4, 4, 3)), 2)


def test_axes_that_do_not_fit_each_other_are_refused_in_tests():
    noise_keys = keys.per_clip(keys.root(0), jnp.arange(3))
    with pytest.raises(jaxtyping.TypeCheckError, match="over_time"):
        keys.over_time(noise_keys, jnp.zeros(2, int), 4, 2)


def test_a_type_that_is_not_the_annotated_one_is_refused_in_tests():
    with pytest.raises(jaxtyping.TypeCheckError, match="per_clip"):
        keys.per_clip(keys.root(0), jnp.zeros(3))  # floats


def test_nothing_is_checked_in_use():
    code = (
        "import sys, jax.numpy as jnp; from vidgen.models import layers; from vidgen import keys;"
        "print(layers.leaky_relu.__module__, hasattr(layers.space_to_depth, '__wrapped__'),"
        " 'beartype' in sys.modules, keys.per_clip(keys.root(0), jnp.zeros(3)).shape)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "vidgen.models.layers False False (3,)"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_with_arrays_is_checked_in_tests(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    module = importlib.import_module(".".join(p for p in parts if p != "__init__"))
    assert type(module.__loader__).__module__.startswith("jaxtyping")


def bare(source: str) -> list[int]:
    """Returns the lines of annotations with an array that has no shape."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        notes = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        for note in filter(None, notes):
            shaped = {
                id(part)
                for outer in ast.walk(note)
                if isinstance(outer, ast.Subscript)
                and isinstance(outer.slice, ast.Tuple)
                and isinstance(getattr(outer.slice.elts[1], "value", None), str)
                for part in ast.walk(outer.slice.elts[0])
            }
            lines += [
                part.lineno
                for part in ast.walk(note)
                if id(part) not in shaped
                and ast.unparse(part) in ("jax.Array", "Array", "np.ndarray", "jnp.ndarray")
            ]
    return lines


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if p.relative_to(ROOT).with_suffix("").parts[0] in SHAPED],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_arrays_have_their_shapes_in_the_signature(path):
    assert not bare(path.read_text())


def test_an_array_without_a_shape_is_found():
    assert bare("def f(x: jax.Array): ...") == [1]
    assert bare("def f(x) -> tuple[np.ndarray, ...]: ...") == [1]
    assert bare("def f(x: dict[str, jax.Array] | None): ...") == [1]
    assert not bare('def f(x: Float[Array | np.ndarray, "batch time"] | None): ...')
