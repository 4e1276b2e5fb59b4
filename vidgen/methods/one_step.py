"""Adversarial post-training: a flow that makes a chunk of frames by one evaluation.

A run of this method begins from one of `flow` (`--init_from`), whose codec it keeps. It streams as
it is sampled: each chunk is made of noise and of the chunk before, which the generator itself has
made. What a discriminator says of the decoded frames is its only loss.

Reference: Lin et al., "Diffusion adversarial post-training for one-step video generation", 2025;
  Lin et al., "Autoregressive adversarial post-training for real-time interactive video
  generation", 2025, for training on what the generator itself has made.
"""

from vidgen import config as configs
from vidgen import models
from vidgen.errors import ConfigError
from vidgen.methods import common, gan
from vidgen.models.flow import FlowGenerator

GENERATORS = {"flow": FlowGenerator}
DISCRIMINATORS = gan.DISCRIMINATORS
# One step of noise alone knows nothing but the mean. The latent of the video is drawn once, so it
# can afford some steps, and with them videos differ from the start.
STREAM = {"stream": True, "steps": 1, "whole_steps": 8, "chunk": 8, "margin": 4}
BEGINS_FROM = "flow"
FIELDS = {**gan.FIELDS, "generator": models.fields(GENERATORS, "flow", **STREAM)}


def experiment(config: configs.Config, classes: int) -> common.Experiment:
    """Builds the training of a config; see `vidgen.methods.experiment`."""
    asked = config.generator
    if not asked.stream or asked.steps != 1:
        raise ConfigError(
            f"config.generator.stream is {asked.stream} and config.generator.steps {asked.steps}",
            "True and 1: start the config from vidgen.methods.base('one_step')",
        )
    return gan.experiment(config, classes, GENERATORS, part="model")
