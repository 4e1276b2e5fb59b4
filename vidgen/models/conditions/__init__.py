"""Conditions: what a video is asked to be beside its class.

A condition is a named entry of a batch, of a sampler's `condition` and of a config
(`config.conditions.NAME`). Its class is a Linen module, the encoder: its attributes are the options
of the config. What it has beside `__call__` is in `kinds.Kind`. A new one is a file, and a line in
`kinds.KINDS`.

A network has `conditions`, pairs of a name and options. What is known of videos is a dictionary of
arrays by name, `Given`. What is not there is absent, and a condition may be absent from any video:
networks learn both where training drops it (`drop`).
"""

from vidgen.models.conditions.arrays import (
    absent,
    check_arrays,
    columns,
    differs,
    draw,
    filled,
    flat,
    length,
    of_clips,
    of_flat,
    only,
    read,
    shown_in_space,
    window,
)
from vidgen.models.conditions.kinds import (
    KINDS,
    Conditions,
    Given,
    Kind,
    check,
    frozen,
    kind,
    lie_in_space,
    needed,
    options_of,
)
from vidgen.models.conditions.networks import (
    NOTHING,
    Asked,
    Encoded,
    Encoders,
    Reader,
    asked,
    reader,
    seen,
    side_by_side,
    take_over,
    with_wrong,
)

__all__ = [
    "KINDS",
    "NOTHING",
    "Asked",
    "Conditions",
    "Encoded",
    "Encoders",
    "Given",
    "Kind",
    "Reader",
    "absent",
    "asked",
    "check",
    "check_arrays",
    "columns",
    "differs",
    "draw",
    "filled",
    "flat",
    "frozen",
    "kind",
    "length",
    "lie_in_space",
    "needed",
    "of_clips",
    "of_flat",
    "only",
    "options_of",
    "read",
    "reader",
    "seen",
    "shown_in_space",
    "side_by_side",
    "take_over",
    "window",
    "with_wrong",
]
