"""Methods of making a generator, a file each; a new one is its file and one line here.

A method's file has

- `FIELDS`: the sections of its config, each field with default, range and comment; exactly those
  that it reads (`common.fields` joins its own with those that all trained methods share);
- `GENERATORS` and, where it has one, `DISCRIMINATORS`: the networks that it can use, by kind;
- `BEGINS_FROM` where a run begins with the generator of a run of another method: its name; and
  perhaps `begin(params)`, which makes its own parameters of the other's;
- `SQUARE = True` where its frames are squares alone, so that it takes no pair in `data.size`;
- where it is trained step by step: `experiment(config, classes) -> common.Experiment`, the last
  place that sees a config;
- where it is fitted at once: `fit(batch, *, generator, seed, size, classes)`, which returns
  the generator's arguments and its parameters, and perhaps `scores(parameters, batch)`, and
  `check(config)`, which raises ConfigError for what `fit` could not do.
"""

import importlib
import textwrap
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from vidgen import config as configs
from vidgen import frame_size, models
from vidgen.config import checks
from vidgen.config import fields as config_fields
from vidgen.config.fields import Field, flat
from vidgen.errors import ConfigError
from vidgen.methods.common import Experiment
from vidgen.models import conditions
from vidgen.models.protocol import Generator

METHODS = {
    "gan": "vidgen.methods.gan",
    "mocogan": "vidgen.methods.mocogan",
    "dcgan": "vidgen.methods.dcgan",
    "vae": "vidgen.methods.vae",
    "autoregressive": "vidgen.methods.autoregressive",
    "flow": "vidgen.methods.flow",
    "one_step": "vidgen.methods.one_step",
    "dynamic_texture": "vidgen.methods.fitted.dynamic_texture",
    "lookup": "vidgen.methods.fitted.lookup",
    "noise": "vidgen.methods.fitted.noise",
    "ppca": "vidgen.methods.fitted.ppca",
    "untrained": "vidgen.methods.fitted.untrained",
}


def load(method: object) -> ModuleType:
    """Returns the module of a method.

    Raises:
      ConfigError: There is no such method.
    """
    if not isinstance(method, str) or method not in METHODS:
        raise ConfigError(f"config.method is {method!r}", configs.near(str(method), METHODS))
    return importlib.import_module(METHODS[method])


def is_fitted(method: str) -> bool:
    """Tells whether a method is fitted at once instead of trained step by step."""
    return "fit" in vars(load(method))


def sections(method: str) -> dict[str, Any]:
    """Returns all fields of a method's config: the seed, the method, and its sections."""
    return {
        "seed": Field(0, "everything random follows from it", least=0, most=2**32 - 1),
        "method": Field(method, "a name in vidgen.methods.METHODS"),
        **load(method).FIELDS,
    }


def base(method: str = "gan") -> configs.Config:
    """Returns the config that every experiment of a method starts from, a ConfigDict.

    Args:
      method: A name in `METHODS`. No method has a field that it does not read.

    Raises:
      ConfigError: There is no such method.
    """
    return config_fields.defaults(sections(method))


def validate(config: configs.Config) -> None:
    """Checks a config as a whole: every field, and that networks and steps can be made of it.

    A pair of equal numbers in `data.size` becomes that number.

    Raises:
      ConfigError: It names the field, the value, and what would do.
    """
    if "method" not in config:
        raise ConfigError("config.method is missing", "start from vidgen.methods.base(method)")
    module = load(config.method)
    checks.validate(config, sections(config.method))
    _check_size(config)
    if "generator" in config and config.generator.get("loop"):
        raise ConfigError(
            f"config.generator.loop is {config.generator.loop}, which is not for training",
            "vidgen.load(RUN, loop=N), or vidgen sample RUN --loop=N",
        )
    if not is_fitted(config.method):
        module.experiment(config, 2)
    elif "generator" in config:
        arguments = config.generator.to_dict()
        models.checked("generator", module.GENERATORS, arguments.pop("kind"), arguments)
        if "check" in vars(module):
            module.check(config)


def check_values(config: configs.Config) -> None:
    """Checks the values of a stored config by the ranges of its fields; builds nothing.

    It may be of an older version: fields that are not known or not there are passed over, and so
    are those that only training reads, whose ranges may have been others.

    Raises:
      ConfigError: A value is of another type than its field, or out of its range.
    """
    known = dict(flat(sections(config.method)))
    for name, value in configs.flatten(config).items():
        read = name.startswith(("data.", "sampling.")) and not name.startswith(
            ("data.limits.", "data.workers", "data.cache")
        )
        if read and name in known:
            checks.check(name, value, known[name])


def _check_size(config: configs.Config) -> None:
    """Makes a number of a pair of equal ones; refuses pairs where a method makes squares alone."""
    size = frame_size.normal(config.data.size)
    if size != config.data.size:
        with config.data.ignore_type():
            config.data.size = size
    if isinstance(size, tuple) and not _takes_pairs(config.method):
        others = ", ".join(name for name in METHODS if _takes_pairs(name))
        raise ConfigError(
            f"config.data.size is {size}, and config.method={config.method!r} makes squares alone",
            f"one number, or a method that takes a height and a width: {others}",
        )


def _takes_pairs(method: str) -> bool:
    return not vars(load(method)).get("SQUARE", False)


def experiment(config: configs.Config, classes: int) -> Experiment:
    """Builds the training of a config.

    Args:
      config: A config that `validate` took.
      classes: Number of classes of the data; 1 or 0 for none.

    Raises:
      ConfigError: The networks cannot be made from their arguments, or the method is fitted at
        once and has no steps.
    """
    if is_fitted(config.method):
        raise ConfigError(
            f"config.method is {config.method!r}, which is fitted at once and has no steps",
            f"one of {', '.join(name for name in METHODS if not is_fitted(name))}",
        )
    return load(config.method).experiment(config, classes if classes > 1 else 0)


def change(config: configs.Config, method: str) -> configs.Config:
    """Returns the config of another method on the same data.

    Fields that both methods have keep their values. Arguments of a network do so where the other
    method can use a network of that kind.

    Raises:
      ConfigError: There is no such method.
    """
    other, given = base(method), configs.flatten(config)
    known = dict(flat(sections(method)))
    for role in ("generator", "discriminator"):
        kind = given.get(f"{role}.kind")
        if kind is not None and role in other and kind in known[f"{role}.kind"].choices:
            other[role] = config[role].copy_and_resolve_references()
    if "conditions" in other and "conditions" in config:
        other.conditions = config.conditions.copy_and_resolve_references()
    for name, value in given.items():
        if name in known and name != "method" and not name.startswith(checks.NETWORKS):
            *path, last = name.split(".")
            section = other
            for part in path:
                section = section[part]
            section[last] = value
    return other


def generator(meta: dict[str, Any], **options: object) -> Generator:
    """Makes the generator of a run again.

    Args:
      meta: What is kept with its checkpoints (`run.artifacts.meta`).
      **options: Other values of some of its attributes.

    Raises:
      ConfigError: A value is out of range.
    """
    return models.network("generator", networks("generator"), **{**meta["generator"], **options})


def networks(role: str, *methods: str) -> dict[str, Any]:
    """Returns the networks of some methods, or of all, by kind; `role` as in `models.network`."""
    registry = f"{role.upper()}S"
    found: dict[str, Any] = {}
    for method in methods or METHODS:
        found |= vars(load(method)).get(registry, {})
    return found


def free_fields(method: str) -> set[str]:
    """Returns the fields that may change between the starts of a run: they change no result."""
    return {name for name, field in flat(sections(method)) if field.free}


def fields(config: configs.Config) -> dict[str, Field]:
    """Returns the fields of a config by dotted name, those of its networks' kinds among them."""
    known = dict(flat(sections(config.method)))
    for role in ("generator", "discriminator"):
        if role in config:  # perhaps of another kind than the default one
            known = {n: field for n, field in known.items() if not n.startswith(f"{role}.")}
            arguments = models.fields(networks(role, config.method), config[role].kind)
            known |= {f"{role}.{name}": field for name, field in arguments.items()}
    for name in config.get("conditions") or ():
        comments = models.attributes(conditions.KINDS[name]) if name in conditions.KINDS else {}
        options = conditions.options_of(name) if name in conditions.KINDS else {}
        known |= {
            f"conditions.{name}.{n}": Field(value, comments.get(n, ""))
            for n, value in options.items()
        }
    return known


def complete(config: configs.Config) -> None:
    """Adds to networks the fields that they lack.

    A config file that says what kind of network it wants names what it sets, and no more.

    Raises:
      ConfigError: There is no such method.
    """
    method = config.get("method")
    for role in ("generator", "discriminator") if method else ():
        kinds, section = networks(role, method), config.get(role)
        kind = section.get("kind") if isinstance(section, ConfigDict) else None
        if isinstance(kind, str) and kind in kinds:
            of_method = sections(method)[role]
            known = of_method if kind == of_method["kind"].default else models.fields(kinds, kind)
            with section.unlocked():
                section.update({n: f.default for n, f in known.items() if n not in section})
    asked = config.get("conditions") if method else None
    for name, section in asked.items() if isinstance(asked, ConfigDict) else ():
        if name in conditions.KINDS and isinstance(section, ConfigDict):
            known = conditions.options_of(name)
            with section.unlocked():
                section.update({n: v for n, v in known.items() if n not in section})


def describe(config: configs.Config) -> str:
    """Returns all fields of a config as text: value, comment and range, a line or two each."""
    known, lines = fields(config), []
    for name, value in configs.flatten(config).items():
        comment = known[name].comment
        if not comment.endswith("..."):
            comment = comment.removesuffix(".")
        comment = "; ".join(filter(None, (comment, known[name].range())))
        head = f"{name} = {value!r}"
        lines += textwrap.wrap(f"{head:40s}  # {comment}", 100, subsequent_indent=" " * 42 + "# ")
    return "\n".join(lines)
