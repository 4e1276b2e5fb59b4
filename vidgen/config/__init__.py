"""The config of an experiment: its fields, their checks, and what sets them."""

from vidgen.config.checks import (
    Config,
    differences,
    flatten,
    from_json,
    near,
    override,
    steps,
    to_json,
)
from vidgen.config.fields import constant, cosine

__all__ = [
    "Config",
    "constant",
    "cosine",
    "differences",
    "flatten",
    "from_json",
    "near",
    "override",
    "steps",
    "to_json",
]
