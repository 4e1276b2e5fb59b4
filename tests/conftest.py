"""Strict settings for every test: eight fake devices, no silent broadcasting, no reused key."""

import gc
import importlib.metadata
import os
import pathlib
import warnings

CACHE = pathlib.Path(__file__).parents[1] / ".jax_cache"
# Before JAX is imported; processes that tests start inherit these.
# Tiny programs, compiled far more often than run: so without optimization, and with XLA's older
# emitter of loops, which compiles them in half of the time (versions from 0.11 on have no other).
QUICK = "--xla_backend_optimization_level=0"
if importlib.metadata.version("jax").startswith("0.10."):
    QUICK += " --xla_cpu_use_fusion_emitters=false --xla_llvm_disable_expensive_passes=true"
os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count=8 {QUICK}")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")

import jaxtyping

# Shapes and types in signatures are checked in tests alone, so before vidgen is imported.
CHECKED = ("keys", "models", "training", "metrics", "methods")
jaxtyping.install_import_hook([f"vidgen.{name}" for name in CHECKED], "checking.checked")

import jax
import pytest
from ml_collections import ConfigDict

TINY_GENERATOR = {
    "widths": (8, 8),
    "head": 8,
    "palette": 4,
    "content": 4,
    "motion": 4,
    "style": 8,
    "stride": 4,
    "periods": (5, 8),
}
TINY_DISCRIMINATOR = {
    "front": 12,
    "neck": 8,
    "frame_blocks": 1,
    "fold": 4,
    "widths": (8, 8),
    "features": 8,
}
TINY_HEADS = {"scales": (1, 2), "width": 8, "widest": 12, "group": 2}
TINY_TRANSFORMER_GENERATOR = {
    "patch": 4,
    "grid": 2,
    "width": 8,
    "heads": 2,
    "time_layers": 2,
    "window": 3,
    "space_layers": 1,
    "unfold": 2,
    "head": 8,
    "palette": 4,
    "content": 4,
    "motion": 4,
    "style": 8,
    "stride": 2,
}
TINY_TRANSFORMER_DISCRIMINATOR = {
    "patch": 4,
    "front": 12,
    "fold": 2,
    "width": 8,
    "heads": 2,
    "layers": 1,
    "features": 8,
}
TINY_CODEC = {
    "patch": 4,
    "encoder_widths": (8,),
    "widths": (8, 8),
    "head": 8,
    "levels": (4, 3),
}
TINY_CODES_GENERATOR = {
    **TINY_CODEC,
    "window": 3,
    "width": 8,
    "heads": 2,
    "expand": 2,
    "layers": 2,
}
TINY_FLOW_GENERATOR = {
    **TINY_CODEC,
    "join": 1,
    "width": 8,
    "heads": 2,
    "expand": 2,
    "layers": 1,
    "reach": 1,
    "chunk": 4,
    "margin": 2,
    "steps": 2,
}

jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of real clips beside the project, where there is one."""
    folder = pathlib.Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("there are no real clips in ../shared/data beside the project")
    return folder


@pytest.fixture
def collected():
    """Collects at a test's end what Orbax has left unawaited.

    It reads and writes a checkpoint's files together. Where one fails, it leaves the others
    unawaited, and Python complains of that when they are collected: here, and not in another test.
    """
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        gc.collect()


def unawaited(test):
    """Marks a test in which a checkpoint cannot be read or written."""
    for mark in UNAWAITED:
        test = mark(test)
    return test


UNAWAITED = [
    pytest.mark.usefixtures("collected"),
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning"
    ),
]


def network(role, kind, **arguments):
    """Makes a generator or a discriminator of any method, by kind."""
    from vidgen import methods, models

    return models.network(role, methods.networks(role), kind, **arguments)


def tiny_config():
    """Returns a config that trains in seconds: toy clips, two levels, a few channels."""
    from vidgen import methods

    config = methods.base()
    config.data.update(path="toy:clips=512", frames=6, pick=4, size=16)
    config.generator.update(TINY_GENERATOR)
    config.discriminator = ConfigDict({"kind": "residual", **TINY_DISCRIMINATOR})
    config.training.update(
        kclips=0.032, batch_size=8, log_kclips=0.008, sample_kclips=0.0, save_kclips=0.016
    )
    config.sampling.update(frames=6, clips=2)
    return config
