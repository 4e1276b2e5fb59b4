"""The commands: `vidgen train|sample|evaluate|...`; also `python -m vidgen`.

Errors meant for a person are one or two lines and an exit code (README); `--debug` shows where they
come from. JAX is imported after the arguments have been read.
"""

import contextlib
import errno
import os
import shlex
import signal
import sys

from vidgen import __version__
from vidgen.cli import commands, flags, process, sampling_flags
from vidgen.errors import ConfigError, StorageError, VidgenError
from vidgen.run import signals
from vidgen.text import plain

COMMANDS = {
    "train": commands.train,
    "sample": commands.sample,
    "edit": commands.edit,
    "reconstruct": commands.reconstruct,
    "ask": commands.ask,
    "evaluate": commands.evaluate,
    "compare": commands.compare,
    "config": commands.config,
    "data inspect": commands.inspect,
    "data pack": commands.pack,
    "checkpoint verify": commands.verify,
    "launch": commands.launch,
    "bench": commands.bench,
    "doctor": commands.doctor,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    own = arguments is None  # otherwise called from another program
    if arguments is None:
        arguments = sys.argv[1:]
        process.own_streams()
        if arguments and arguments[0] in ("train", "sample", "edit", "evaluate", "bench"):
            process.keep_memory()
    launched: list[str] = []
    line = shlex.join(["vidgen", *arguments])
    if arguments[:1] == ["launch"] and "--" in arguments:  # what follows is another command
        at = arguments.index("--")
        arguments, launched = arguments[:at], arguments[at + 1 :]
    try:
        code = _run(arguments, launched, line)
        sys.stdout.flush()
        return code
    except VidgenError as error:
        if "--debug" in arguments:
            raise
        print(f"vidgen: {plain(str(error))}", file=sys.stderr)
        if error.hint:
            print(f"        {plain(error.hint, 1000)}", file=sys.stderr)
        return error.exit_code
    except (RuntimeError, AssertionError) as error:
        if "--debug" in arguments or process.has_devices():
            raise
        asked = os.environ["JAX_PLATFORMS"]
        said = f" ({str(error).splitlines()[0]})" if str(error) else ""
        print(
            f"vidgen: JAX_PLATFORMS={asked}: JAX finds no such device here{said}", file=sys.stderr
        )
        print("        unset it, and JAX takes what there is; cpu is everywhere", file=sys.stderr)
        return ConfigError.exit_code
    except (KeyboardInterrupt, signals.Ended) as error:
        if "--debug" in arguments:
            raise
        number = getattr(error, "number", signal.SIGINT)
        print(f"vidgen: {signals.Ended(number)}", file=sys.stderr, flush=True)
        if own:  # all is cleaned up; XLA's threads, still at work, may crash as Python ends
            sys.stdout.flush()
            os._exit(128 + number)
        return 128 + number
    except OSError as error:
        if "--debug" in arguments or error.filename is None:
            raise
        # Of a path that somebody gave; one that no file system takes is a wrong argument.
        name, said = plain(str(error.filename), 200), error.strerror or type(error).__name__
        print(f"vidgen: {name}: {said[0].lower()}{said[1:]}", file=sys.stderr)
        wrong = error.errno == errno.ENAMETOOLONG
        return (ConfigError if wrong else StorageError).exit_code


def _run(arguments: list[str], launched: list[str], line: str) -> int:
    if not arguments:
        print(flags.usage(), file=sys.stderr)
        return ConfigError.exit_code
    if arguments[0] in ("-h", "--help", "help"):
        print(flags.usage())
        return 0
    if arguments[0] == "--version":
        print(f"vidgen {__version__}")
        return 0
    name, words = flags.command(arguments)
    process.speak_plainly()
    parser = flags.PARSERS[name][1]()
    options = parser.read(words)
    if options.help:
        print(parser.format_help(), end="")
        if parser.options and options.words:
            print(sampling_flags.options_text(options.words))
        return 0
    options.known, options.line, options.launched = parser.known(), line, launched
    # These two note signals themselves: a training has something to save.
    with contextlib.nullcontext() if name in ("train", "launch") else signals.Ending():
        return COMMANDS[name](options) or 0


if __name__ == "__main__":
    sys.exit(main())
