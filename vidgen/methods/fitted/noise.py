"""A baseline that makes noise."""

from typing import Any

import numpy as np

from vidgen.config.fields import FITTED, Field, merged
from vidgen.models.fitted import Noise

GENERATORS = {"noise": Noise}
FIELDS = merged(
    FITTED, {"generator": {"kind": Field("noise", "network", choices=tuple(GENERATORS))}}
)


def fit(batch: dict[str, np.ndarray], *, generator: dict[str, Any], **shared: int):
    """Fits nothing; returns arguments and parameters of a `vidgen.models.fitted.Noise`."""
    del batch
    arguments = {**generator, "size": shared["size"], "classes": shared["classes"]}
    side = int(np.gcd(shared["size"], 16))
    arguments["motion"] = side * side
    return arguments, {"level": np.zeros(1, np.float32)}
