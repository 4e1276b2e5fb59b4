"""Networks, as maths only: arrays in, arrays out; no I/O, no config, no devices.

A family of networks is a file. Which of them a method can use stands in the method's file, by kind:
`network(role, kinds, kind, **arguments)` makes one.
"""

import dataclasses
import difflib
import inspect
import re
from collections.abc import Mapping
from typing import Any

from vidgen.config.fields import Field
from vidgen.errors import ConfigError
from vidgen.frame_size import LARGEST, normal

Kinds = Mapping[str, Any]  # classes of Linen modules by name

_MOST = 2**20  # of any number of a network: channels, frames, patches
_DEEPEST = 256  # layers or blocks of a kind, each traced and compiled by itself
_ITEMS = 64  # of a tuple: levels, scales, periods
_FLAX = ("parent", "name")
_GIVEN = (
    "size",
    "classes",
    "conditions",
    "length",
    "clips",
    "dtype",
    "remat",
    *_FLAX,
)  # not by a section


def network(role: str, kinds: Kinds, kind: str, **arguments: object) -> Any:
    """Makes a network by name and checks that its arguments fit each other.

    Args:
      role: "generator" or "discriminator": its section of the config, for messages.
      kinds: Networks by name.
      kind: A name among them.
      **arguments: The network's attributes.

    Raises:
      ConfigError: The kind or an argument is unknown, or an argument is of the wrong type or out
        of range.
    """
    arguments = checked(role, kinds, kind, arguments)
    made = kinds[kind](**arguments)
    made.check()
    return made


def checked(role: str, kinds: Kinds, kind: str, arguments: Mapping[str, object]) -> dict[str, Any]:
    """Returns a network's arguments, sequences as tuples; each for itself was checked.

    Raises:
      ConfigError: The kind or an argument is unknown, or an argument is of the wrong type.
    """
    if kind not in kinds:
        raise ConfigError(f"config.{role}.kind is {kind!r}", f"one of {', '.join(kinds)}")
    module = kinds[kind]
    known = {f.name: f.default for f in dataclasses.fields(module) if f.name not in _FLAX}
    good = {}
    for name, value in arguments.items():
        if name not in known:
            close = difflib.get_close_matches(name, list(known), n=3) or sorted(known)
            raise ConfigError(
                f"there is no field config.{role}.{name} for kind {kind!r}", ", ".join(close) + "?"
            )
        good[name] = value = tuple(value) if isinstance(value, list) else value  # as JSON has it
        if name == "size":
            sides: Any = value if isinstance(value, tuple) else (value, value)
            if len(sides) != 2 or not all(_whole(s, least=1, most=LARGEST) for s in sides):
                raise ConfigError(
                    f"config.data.size is {value!r}", f"a number or a pair of them, 1 to {LARGEST}"
                )
            good[name] = normal(sides)
            continue
        if name == "conditions":
            from vidgen.models import conditions

            good[name] = conditions.frozen(value)
            continue
        like: Any = 0 if known[name] is dataclasses.MISSING else known[name]
        if isinstance(like, tuple):
            fits = isinstance(value, tuple) and len(value) <= _ITEMS
            items: Any = value
            fits = fits and all(_whole(v, least=1) for v in items)
            fits = fits and (value or not like)  # what may be empty is so by default
            want = f"a tuple of at most {_ITEMS} positive whole numbers up to {_MOST}"
        elif isinstance(like, bool | str):
            fits = type(value) is type(like)
            want = "text" if isinstance(like, str) else "True or False"
        elif _whole(like):
            most = _most(name)
            fits, want = _whole(value, most=most), f"a whole number, 0 to {most}"
        elif isinstance(like, float):
            fits = isinstance(value, (int, float)) and -_MOST <= value <= _MOST
            fits, want = fits and not isinstance(value, bool), f"a number up to {_MOST}"
        else:
            continue
        if not fits:
            raise ConfigError(f"config.{role}.{name} is {value!r}", f"it must be {want}")
    return good


def _whole(value: object, least: int = 0, most: int = _MOST) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _most(name: str) -> int:
    """Returns the largest value of an attribute that is a whole number."""
    return _DEEPEST if name.endswith(("layers", "blocks")) else _MOST


def fields(kinds: Kinds, kind: str, **defaults: object) -> dict[str, Field]:
    """Returns the fields of a network's section of a config: its kind and its attributes.

    Comments are those of the class: what its docstring says of its attributes.

    Args:
      kinds: Networks by name that the section may have.
      kind: The default one, whose attributes these are.
      **defaults: Other defaults than those of the class; None leaves a field out.

    Raises:
      KeyError: The class has no such attribute.
    """
    comments = attributes(kinds[kind])
    known = {f.name: f.default for f in dataclasses.fields(kinds[kind]) if f.name not in _GIVEN}
    if unknown := defaults.keys() - known.keys():
        raise KeyError(f"{kinds[kind].__name__} has no {', '.join(sorted(unknown))}")
    chosen = {name: value for name, value in (known | defaults).items() if value is not None}
    named = Field(kind, "network; the other fields are its arguments", choices=tuple(kinds))
    return {"kind": named} | {
        name: Field(value, comments.get(name, "")) for name, value in chosen.items()
    }


def attributes(module: type) -> dict[str, str]:
    """Returns what a class's docstring says of each of its attributes, in one line."""
    _, _, text = (inspect.getdoc(module) or "").partition("\nAttributes:\n")
    items = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", text, re.MULTILINE)
    return {name: " ".join(comment.split()) for name, comment in items}
