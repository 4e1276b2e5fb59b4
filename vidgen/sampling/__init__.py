"""Sampling: video as a function of (weights, seed, time)."""

from vidgen.sampling.sampler import (
    Sampler,
    abstract_params,
    build,
    decode_program,
    draw_program,
    load,
    sampler,
    to_uint8,
)

__all__ = [
    "Sampler",
    "abstract_params",
    "build",
    "decode_program",
    "draw_program",
    "load",
    "sampler",
    "to_uint8",
]
