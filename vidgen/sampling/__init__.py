"""Sampling: video as a function of (weights, seed, time)."""

from vidgen.sampling import programs
from vidgen.sampling.latents import Latents, interpolate
from vidgen.sampling.loading import from_generator, from_weights, load, options_of
from vidgen.sampling.sampler import Sampler

__all__ = [
    "Latents",
    "Sampler",
    "from_generator",
    "from_weights",
    "interpolate",
    "load",
    "options_of",
    "programs",
]
