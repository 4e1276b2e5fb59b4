"""A baseline that makes noise."""

import math
from typing import Any

import numpy as np

from vidgen import frame_size
from vidgen.config.fields import FITTED, Field, merged
from vidgen.models.fitted import Noise

GENERATORS = {"noise": Noise}
FIELDS = merged(
    FITTED, {"generator": {"kind": Field("noise", "network", choices=tuple(GENERATORS))}}
)


def fit(batch: dict[str, np.ndarray], *, generator: dict[str, Any], **shared: Any):
    """Fits nothing; returns arguments and parameters of a `vidgen.models.fitted.Noise`."""
    del batch
    arguments = {**generator, "size": shared["size"], "classes": shared["classes"]}
    height, width = frame_size.height_width(shared["size"])
    if height == width:
        field = height // math.gcd(height, 16)
    else:  # the largest that divides both and leaves 16 on the shorter side
        most = max(min(height, width) // 16, 1)
        field = next(n for n in range(most, 0, -1) if height % n == width % n == 0)
    arguments["motion"] = (height // field) * (width // field)
    return arguments, {"level": np.zeros(1, np.float32)}
