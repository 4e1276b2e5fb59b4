"""Latents, what `Sampler.decode` turns into video: which ones a generator takes.

sampler = vidgen.load("runs/vae")
latents = sampler.encode(clips, labels)                     # of any run that has an encoder
again = sampler.decode(latents, clips.shape[1])             # reconstructions
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vidgen.errors import ConfigError
from vidgen.frame_size import height_width
from vidgen.models import conditions
from vidgen.models.protocol import Generator

Latents = dict[str, np.ndarray]


def check_clips(generator: Generator, clips: np.ndarray, labels: Any) -> None:
    """Raises ConfigError where `Sampler.encode` cannot take clips."""
    # A recurrent generator's codes are no noise that `decode` could begin from.
    if not generator.encodes:
        raise ConfigError(
            "this run's generator cannot encode clips",
            "config.method='vae' can; to reconstruct them, 'flow' and 'autoregressive', too",
        )
    check_size(generator, clips)
    if generator.classes and labels is None:
        raise ConfigError("labels are missing", "name the classes of the clips")


def check_size(generator: Generator, clips: np.ndarray) -> None:
    """Raises ConfigError where clips are not uint8 `[N, T, H, W, 3]` of a generator's size."""
    size = (*height_width(generator.size), 3)
    if clips.dtype != np.uint8 or clips.ndim != 5 or not clips.size or clips.shape[2:] != size:
        raise ConfigError(
            f"clips to encode are {clips.dtype} {list(clips.shape)}",
            f"uint8 [N, T, {size[0]}, {size[1]}, 3], as the run was trained with",
        )


def check_latents(generator: Generator, latents: Latents) -> Latents:
    """Returns latents as arrays; raises ConfigError where `Sampler.decode` cannot take them."""
    if not isinstance(latents, Mapping):
        raise ConfigError(
            f"latents are {type(latents).__name__}", "a dictionary, as from `latents`"
        )
    try:
        latents = {name: np.asarray(x) for name, x in latents.items()}
    except ValueError as error:  # as of lists of different lengths
        raise ConfigError(f"latents are no arrays: {error}", "start from those drawn") from error
    channels = {"content": generator.content, "motion": generator.motion}
    wanted = {**channels, "cycle": len(generator.periods), "label": None}
    if missing := wanted.keys() - latents.keys():
        raise ConfigError(f"latents lack {', '.join(sorted(missing))}", "start from those drawn")
    count = len(np.atleast_1d(latents["label"]))
    axes = {"content": 2, "motion": 3, "cycle": 2, "label": 1}
    if latents["label"].dtype.kind == "f" and latents["label"].ndim == 2:
        axes["label"], wanted["label"] = 2, generator.classes
        if not generator.between_classes:
            raise ConfigError(
                f"a {type(generator).__name__} has no videos between classes",
                "the latents' label is whole numbers",
            )
    for name, last in wanted.items():
        x = latents[name]
        fits = x.ndim == axes[name] and len(x) == count and last in (None, x.shape[-1])
        if not fits or x.dtype.kind not in "fiu":
            raise ConfigError(
                f"the latents' {name} is {x.dtype} {list(x.shape)}",
                f"numbers, {axes[name]} axes, the first of {count}"
                + ("" if last is None else f", the last of {last}"),
            )
    for name, x in latents.items():
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise ConfigError(f"the latents' {name} holds what is not finite", "NaN or infinite")
    conditions.check_arrays(
        generator.conditions, conditions.of_flat(latents), count, generator.size
    )
    label = latents["label"]
    if axes["label"] == 2 and count:
        return latents
    whole = label.dtype.kind in "iu" and label.size
    if not whole or label.min() < 0 or label.max() >= max(generator.classes, 1):
        raise ConfigError(
            f"the latents' label is {label.tolist()}",
            f"whole numbers from 0 to {max(generator.classes, 1) - 1}",
        )
    return latents
