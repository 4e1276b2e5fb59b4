"""How the words of a command line become flags.

A flag is spelt with underscores; hyphens are taken, too. Each is given once. What argparse cannot
know is taken out before it sees the words: fields of a config, and the sampling options of a run.
"""

import argparse
import difflib
import re
from collections.abc import Callable

from vidgen import config as configs
from vidgen import frame_size
from vidgen.errors import ConfigError

STEPS = 2**31  # a step, and a frame of a video, are counted below it
CONFIG_HELP = "vidgen config FILE prints all fields of a config, vidgen config METHOD its defaults"


class Parser(argparse.ArgumentParser):
    """The flags of one command; raises ConfigError where argparse would exit.

    Attributes:
      config: Whether `--config=FILE --config.FIELD=VALUE ...` are flags of the command.
      options: Whether other flags are sampling options of the run.
    """

    def __init__(self, name: str, text: str, config: bool = False, options: bool = False, **more):
        self.config, self.options = config, options
        if config:
            more.setdefault("usage", None)
            more["epilog"] = CONFIG_HELP
        super().__init__(prog=f"vidgen {name}", description=text, allow_abbrev=False, **more)
        self.add_argument("--debug", action="store_true", help="show where an error comes from")
        if config:
            self.add_argument("--config", metavar="FILE", help="a Python file with get_config()")
            self.add_argument("--config.FIELD", metavar="VALUE", help="another value of a field")

    def error(self, message: str):
        """Raises ConfigError."""
        raise ConfigError(message, f"{self.prog} --help")

    def known(self) -> list[str]:
        """Returns the flags, in alphabetical order."""
        return sorted(n for n in self._option_string_actions if n.startswith("--"))

    def read(self, words: list[str]) -> argparse.Namespace:
        """Reads what follows the command's name.

        Returns:
          The flags by name; `config_flags`, those of a config, each as `--config.FIELD=VALUE`;
          `more`, the other ones of a command with options as `(name, value)`. `help` tells whether
          --help is among them; then nothing else is checked.

        Raises:
          ConfigError: A flag is unknown, is given twice or has no value, or a word is missing.
        """
        plain, config, more, seen = [], [], [], set()
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word in ("-h", "--help"):
                run = next((w for w in plain + rest if not w.startswith("-")), None)
                return argparse.Namespace(help=True, words=run)
            if not word:
                raise ConfigError("an argument is empty", f"{self.prog} --help")
            if not word.startswith("--") or word == "--":
                plain.append(word)
                continue
            flag, equals, value = word.partition("=")
            flag = flag.replace("-", "_")
            flag = f"--{flag[2:]}"
            again = isinstance(self._option_string_actions.get(flag), argparse._AppendAction)
            if flag in seen and not again:
                raise ConfigError(f"{flag} was given twice", "give it once")
            seen.add(flag)
            mine = flag == "--config" or flag.startswith("--config.")
            if mine and not self.config:
                raise ConfigError(f"{self.prog} takes no config: {word}", f"{self.prog} --help")
            if not mine and flag in self._option_string_actions:
                if self._option_string_actions[flag].nargs is None:
                    if not equals and rest and not rest[0].startswith("--"):
                        value = rest.pop(0)
                    if value in ("", "--"):  # the latter argparse takes for none at all
                        raise ConfigError(f"{flag} has no value", f"as in {flag}=VALUE")
                    equals = "="
                plain.append(flag + equals + value)
                continue
            if not mine and not self.options:
                raise ConfigError(f"unknown flag {word}", self._near(flag))
            if not equals:
                if not rest or rest[0].startswith("--"):
                    raise ConfigError(f"{flag} has no value", f"as in {flag}=VALUE")
                value = rest.pop(0)
            if mine:
                config.append(f"{flag}={value}")
            else:
                more.append((flag[2:], value))
        options = self.parse_args(plain)
        options.help, options.config_flags, options.more = False, config, more
        return options

    def _near(self, flag: str) -> str:
        """Returns a hint for an unknown flag; it may be a field of a config."""
        if self.config:
            from vidgen import methods

            fields = {name for m in methods.METHODS for name in configs.flatten(methods.base(m))}
            if same := sorted(n for n in fields if n.rpartition(".")[2] == flag[2:]):
                return f"did you mean {', '.join(f'--config.{name}' for name in same)}?"
        return near(flag, self.known())


def near(flag: str, known: list[str]) -> str:
    """Returns a hint with the known flags nearest to a misspelt one, or with all of them."""
    names = [name[2:] for name in known]  # the hyphens would make all of them alike
    close = difflib.get_close_matches(flag[2:100], names, n=2, cutoff=0.7)
    return (
        ("did you mean " if close else "one of ")
        + ", ".join(f"--{n}" for n in close or names)
        + "?"
    )


def _number(text: str) -> int | None:
    """Returns a whole number of ASCII digits, of any sign; None for any other text."""
    # Without the limit, int() itself refuses what has 5,000 digits.
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,30}", text) else None


def whole(least: int, most: int) -> Callable[[str], int]:
    """Returns what reads a whole number in a range."""

    def read(text: str) -> int:
        value = _number(text)
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number, {least} to {most}")
        return value

    return read


def real(least: float, most: float) -> Callable[[str], float]:
    """Returns what reads a number in a range."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no number, {least:g} to {most:g}")
        return value

    return read


def step(text: str) -> int | str:
    """Reads the number of a step, or best."""
    if text == "best":
        return text
    value = _number(text)
    if value is None or not 0 <= value < STEPS:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of a step nor best")
    return value


def size(text: str) -> frame_size.Size:
    """Reads the size of frames."""
    sides = [_number(n.strip()) or 0 for n in text.strip("() ").split(",")[:3]]
    if len(sides) > 2 or not all(1 <= side <= frame_size.LARGEST for side in sides):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number or a pair height,width, such as 64 or 64,112; each "
            f"side 1 to {frame_size.LARGEST}"
        )
    return frame_size.normal(sides if len(sides) == 2 else sides[0])
