"""Sampling: video as a function of (weights, seed, time)."""

from vidgen.sampling import edit, programs
from vidgen.sampling.edit import interpolate
from vidgen.sampling.inversion import invert, psnr
from vidgen.sampling.latents import Latents
from vidgen.sampling.loading import config_of, from_generator, from_weights, load, options_of
from vidgen.sampling.sampler import Sampler

__all__ = [
    "Latents",
    "Sampler",
    "config_of",
    "edit",
    "from_generator",
    "from_weights",
    "interpolate",
    "invert",
    "load",
    "options_of",
    "programs",
    "psnr",
]
