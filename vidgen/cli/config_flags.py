"""Configs from the command line: `--config=FILE --config.FIELD=VALUE ...`.

Reading one imports JAX, since it builds the networks to check their arguments.
"""

import logging
import pathlib
from typing import Any

from ml_collections import ConfigDict

from vidgen import config as configs
from vidgen import methods
from vidgen.errors import ConfigError, VidgenError

Flags = list[str]  # --config=FILE and --config.FIELD=VALUE, in any order
log = logging.getLogger("vidgen")


def read(flags: Flags, data: str | None = None) -> Any:
    """Reads a config and checks it as a whole.

    Args:
      flags: What was given, each once.
      data: What becomes `data.path`, where the command names the clips itself.

    Raises:
      ConfigError: There is no file or it cannot be read, or a field or its value is wrong.
    """
    file = file_of(flags)
    if not file:
        raise ConfigError("there is no --config", "name one: --config=configs/toy.py")
    config = _of_file(file)
    if data is not None and "data" in config:
        config.data.path = data
    config = overridden(config, flags)
    methods.validate(config)
    return config


def shown(source: str | None, flags: Flags) -> Any:
    """Returns the config to print: a file's, or a method's defaults, with overrides.

    Args:
      source: A config file or the name of a method; None for the file of `--config`, or for the
        default method.
      flags: As for `read`.

    Raises:
      ConfigError: As `read`. But the clips may be left open.
    """
    file = file_of(flags)
    if source is not None and file:
        raise ConfigError(f"{source} and --config={file}", "name one of them")
    source = file or source
    if source is None or source in methods.METHODS:
        config = methods.base(source or "gan")
    elif pathlib.Path(source).exists() or source.endswith(".py"):
        config = _of_file(source)
    else:
        hint = configs.near(source, methods.METHODS)
        raise ConfigError(f"there is no config file and no method {source}", hint)
    config = overridden(config, flags)
    whole = config.copy_and_resolve_references()
    if "data" in whole and not whole.data.path:
        whole.data.path = "toy"
    methods.validate(whole)
    return config


def file_of(flags: Flags) -> str:
    """Returns the file of `--config`, or ""."""
    return next((f.removeprefix("--config=") for f in flags if f.startswith("--config=")), "")


def overridden(config: Any, flags: Flags) -> Any:
    """Returns a config with some fields set.

    `--config.method` comes first, since it decides which fields there are. A field of the method
    before that the other one does not have is left out with a warning, so that one list of flags
    serves for several methods.

    Raises:
      ConfigError: There is no such field, or its value is wrong.
    """
    given = [flag.removeprefix("--config.").partition("=")[::2] for flag in flags]
    given = [(name, text) for name, text in given if name != "--config"]
    before, method = config, dict(given).get("method")
    if method is not None and method != config.get("method"):
        config = methods.change(config, method)
    known, left = configs.flatten(config), []
    for name, text in given:
        if name not in known and config is not before and name in configs.flatten(before):
            configs.override(before, name, text)
            left.append(f"config.{name}")
        else:
            configs.override(config, name, text)
    if left:
        log.warning("left out, since config.method=%r has no such field: %s", method,
                    ", ".join(left))  # fmt: skip
    return config


def _of_file(path: str) -> Any:
    """Runs a config file, which is the user's own program, and returns what it makes."""
    import importlib.util

    if not pathlib.Path(path).is_file():
        raise ConfigError(f"there is no config file {path}")
    spec = importlib.util.spec_from_file_location("config_of_the_run", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file", "as configs/toy.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the user's program raises is about that file
        where = error.__traceback__
        line = ""
        while where is not None:
            if where.tb_frame.f_code.co_filename == spec.origin:
                line = f" (line {where.tb_lineno})"
            where = where.tb_next
        if isinstance(error, VidgenError):
            raise ConfigError(f"{path}{line}: {error}", error.hint) from error
        if isinstance(error, SyntaxError):
            line = f" (line {error.lineno})"
        try:
            said = str(error)
        except Exception:  # which is the user's program, too
            said = "its message cannot be shown"
        raise ConfigError(f"{path}{line}: {type(error).__name__}: {said}") from error
    if not isinstance(config, ConfigDict):
        kind = type(config).__name__
        raise ConfigError(
            f"{path}: get_config returns {kind}", "return vidgen.methods.base() with changes"
        )
    try:
        configs.flatten(config)
    except TypeError:  # ml_collections sorts names
        raise ConfigError(f"{path}: a field of the config has a name that is no text") from None
    methods.complete(config)
    return config
