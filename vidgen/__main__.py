"""`python -m vidgen` is the command `vidgen`."""

import sys


def main() -> int:
    """Runs the command; imports take a second, in which an interrupt is no traceback either."""
    try:
        from vidgen.cli import main as command
    except KeyboardInterrupt:
        print("vidgen: ended by SIGINT", file=sys.stderr)
        return 130
    return command.main()


if __name__ == "__main__":
    sys.exit(main())
