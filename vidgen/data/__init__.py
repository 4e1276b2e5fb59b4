"""Clips from anywhere to ready uint8 batches.

A source (`listing.py`: folders, archives, arrays, strips, manifests) is decoded once, in bounded
child processes (`decoder.py`, `workers.py`), into a pack at training size (`packing.py`,
`pack.py`). `stream.py` reads shuffled windows from the pack; `inspect.py` reports what a source
holds.

    store = open_store("clips/", PackSettings(size=64))
    for batch in Clips(store, frames=16).batches(32):
        batch["video"]                            # uint8 [32, 16, 64, 64, 3]

The names below are loaded on first use, so that a training run on a pack imports no decoder.
"""

_LAZY = {
    "Clips": "vidgen.data.stream",
    "Limits": "vidgen.data.limits",
    "Pack": "vidgen.data.pack",
    "PackSettings": "vidgen.data.settings",
    "ToySource": "vidgen.data.toy",
    "open_source": "vidgen.data.listing",
    "open_store": "vidgen.data.pack",
    "pack_settings": "vidgen.data.settings",
    "write_pack": "vidgen.data.packing",
}
__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    "Clips",
    "Limits",
    "Pack",
    "PackSettings",
    "ToySource",
    "open_source",
    "open_store",
    "pack_settings",
    "write_pack",
]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module 'vidgen.data' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
