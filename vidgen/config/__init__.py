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
    validate,
)
from vidgen.config.fields import KINDS, METHODS, base, constant, cosine

__all__ = [
    "KINDS",
    "METHODS",
    "Config",
    "base",
    "constant",
    "cosine",
    "differences",
    "flatten",
    "from_json",
    "near",
    "override",
    "steps",
    "to_json",
    "validate",
]
