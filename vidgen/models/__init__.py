"""Models, as maths only: arrays in, arrays out; no I/O, no config, no devices.

`build(registry, kind, **arguments)` makes a Linen module by name; a new model is one more entry.
"""

import dataclasses
import difflib
from typing import Any

from vidgen.errors import ConfigError
from vidgen.models.dcgan import DcganDiscriminator, DcganGenerator
from vidgen.models.fitted import DynamicTexture, Lookup, Noise, Ppca
from vidgen.models.mocogan import MocoganDiscriminator, MocoganGenerator
from vidgen.models.residual import ResidualDiscriminator, ResidualGenerator
from vidgen.models.transformer import TransformerDiscriminator, TransformerGenerator
from vidgen.models.vae import VariationalAutoencoder
from vidgen.models.vqvae import CodesGenerator

GENERATORS = {
    "residual": ResidualGenerator,
    "transformer": TransformerGenerator,
    "mocogan": MocoganGenerator,
    "dcgan": DcganGenerator,
    "vae": VariationalAutoencoder,
    "codes": CodesGenerator,
    "dynamic_texture": DynamicTexture,
    "lookup": Lookup,
    "noise": Noise,
    "ppca": Ppca,
}
DISCRIMINATORS = {
    "residual": ResidualDiscriminator,
    "transformer": TransformerDiscriminator,
    "mocogan": MocoganDiscriminator,
    "dcgan": DcganDiscriminator,
}


def build(registry: dict[str, Any], kind: str, **arguments) -> Any:
    """Makes a module by name and checks its arguments.

    Args:
      registry: `GENERATORS` or `DISCRIMINATORS`.
      kind: A name in the registry.
      **arguments: The module's attributes.

    Raises:
      ConfigError: The kind or an argument is unknown, or an argument is of the wrong type or out
        of range.
    """
    role = "generator" if registry is GENERATORS else "discriminator"
    if kind not in registry:
        raise ConfigError(f"config.{role}.kind is {kind!r}", f"one of {', '.join(registry)}")
    module = registry[kind]
    fields = {f.name: f for f in dataclasses.fields(module) if f.name not in ("parent", "name")}
    for name, value in arguments.items():
        if name not in fields:
            close = difflib.get_close_matches(name, list(fields), n=3) or sorted(fields)
            raise ConfigError(
                f"there is no field config.{role}.{name} for kind {kind!r}", ", ".join(close) + "?"
            )
        like: Any = 0 if fields[name].default is dataclasses.MISSING else fields[name].default
        if isinstance(value, list):  # as JSON has it
            value = arguments[name] = tuple(value)
        if isinstance(like, tuple):
            good = isinstance(value, tuple) and all(_whole(v, least=1) for v in value)
            good = good and (value or not like)  # what may be empty is so by default
            want = "a tuple of positive whole numbers"
        elif _whole(like):
            good, want = _whole(value), "a whole number, at least 0"
        elif isinstance(like, float):
            good = isinstance(value, (int, float)) and not isinstance(value, bool)
            want = "a number"
        else:
            continue
        if not good:
            raise ConfigError(f"config.{role}.{name} is {value!r}", f"it must be {want}")
    made = module(**arguments)
    made.check()
    return made


def _whole(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
