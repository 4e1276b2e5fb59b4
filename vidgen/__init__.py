"""vidgen: train video generators in JAX/Flax and sample from them.

Nothing heavy is imported here: `import vidgen` loads neither JAX nor PyAV. The names below are
resolved on first use.
"""

__version__ = "0.1.0"

_LAZY = {
    "edit": "vidgen.sampling",
    "evaluate": "vidgen.evaluation.evaluate",
    "inspect": "vidgen.data.inspect",
    "load": "vidgen.sampling",
    "Sampler": "vidgen.sampling",
    "read_video": "vidgen.video.reading",
    "train": "vidgen.run.train",
    "write_video": "vidgen.video.writing",
}
__all__ = [
    "Sampler",
    "__version__",
    "edit",
    "evaluate",
    "inspect",
    "load",
    "read_video",
    "train",
    "write_video",
]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module 'vidgen' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
