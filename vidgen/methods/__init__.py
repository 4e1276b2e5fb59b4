"""Methods of training a generator, a file each."""

import importlib
from typing import Any

METHODS = {
    "gan": "vidgen.methods.gan",
    "mocogan": "vidgen.methods.mocogan",
    "dcgan": "vidgen.methods.dcgan",
    "vae": "vidgen.methods.vae",
    "autoregressive": "vidgen.methods.autoregressive",
    "dynamic_texture": "vidgen.methods.fitted.dynamic_texture",
    "lookup": "vidgen.methods.fitted.lookup",
    "noise": "vidgen.methods.fitted.noise",
    "ppca": "vidgen.methods.fitted.ppca",
    "untrained": "vidgen.methods.fitted.untrained",
}


def module(name: str) -> Any:
    """Returns the module of a method."""
    return importlib.import_module(METHODS[name])
