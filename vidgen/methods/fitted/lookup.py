"""A baseline that learns training clips by heart and plays them."""

from typing import Any

import numpy as np

from vidgen.config.fields import FITTED, Field, merged
from vidgen.models.fitted import Lookup

GENERATORS = {"lookup": Lookup}
FIELDS = merged(
    FITTED, {"generator": {"kind": Field("lookup", "network", choices=tuple(GENERATORS))}}
)


def fit(batch: dict[str, np.ndarray], *, generator: dict[str, Any], **shared: Any):
    """Keeps the clips.

    Args:
      batch: `video` uint8 `[N, T, H, W, 3]` and, where there are classes, `label` int32 `[N]`.
      generator: Its kind.
      **shared: `size` and `classes`.

    Returns:
      Arguments and parameters of a `vidgen.models.fitted.Lookup`.
    """
    video = batch["video"]
    label = batch.get("label", np.zeros(len(video), np.int32))
    kinds = max(shared["classes"], 1)
    order = np.argsort(label, kind="stable")
    first = np.searchsorted(label[order], np.arange(kinds + 1)).astype(np.int32)
    arguments = {
        "kind": generator["kind"],
        "clips": len(video),
        "length": video.shape[1],
        "size": shared["size"],
        "classes": shared["classes"],
    }
    return arguments, {"clips": video[order], "first": first}
