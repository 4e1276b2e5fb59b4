"""The commands: `vidgen train|sample|evaluate|...`; also `python -m vidgen`.

Errors meant for a person are one or two lines and an exit code (README); `--debug` shows where they
come from. JAX is imported after the arguments have been read.
"""

import os
import shlex
import sys

from vidgen import __version__
from vidgen.cli import commands, flags, process, sampling_flags
from vidgen.errors import ConfigError, VidgenError
from vidgen.text import legible

COMMANDS = {
    "train": commands.train,
    "sample": commands.sample,
    "reconstruct": commands.reconstruct,
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
    if arguments is None:
        arguments = sys.argv[1:]
        if arguments and arguments[0] in ("train", "sample", "evaluate", "bench"):
            process.keep_memory()
    launched: list[str] = []
    line = shlex.join(["vidgen", *arguments])
    if arguments[:1] == ["launch"] and "--" in arguments:  # what follows is another command
        at = arguments.index("--")
        arguments, launched = arguments[:at], arguments[at + 1 :]
    try:
        return _run(arguments, launched, line)
    except VidgenError as error:
        if "--debug" in arguments:
            raise
        print(legible(f"vidgen: {error}", "\n\t"), file=sys.stderr)
        if error.hint:
            print(legible(f"        {error.hint}", "\n\t"), file=sys.stderr)
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
    except KeyboardInterrupt:
        if "--debug" in arguments:
            raise
        print("vidgen: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `vidgen ... | head`
        sys.stdout = None
        return 0


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
    return COMMANDS[name](options) or 0


if __name__ == "__main__":
    sys.exit(main())
