"""The errors that a person is meant to read, each with the exit code that a script may rely on."""


class VidgenError(Exception):
    """Something that the user can mend; printed as one or two lines, without a traceback.

    Args:
      message: What was wrong: the file, field or flag, and the value.
      hint: What to do about it; printed on a second line.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.hint = hint


class ConfigError(VidgenError):
    """A flag or a config field is wrong, or contradicts another or the run in the workdir."""

    exit_code = 2


class DataError(VidgenError):
    """The clips cannot be read, or there are none that fit the config."""

    exit_code = 3


class DivergedError(VidgenError):
    """A quantity of the training became NaN or infinite."""

    exit_code = 4


class StorageError(VidgenError):
    """A file could not be written or a checkpoint does not verify."""

    exit_code = 5


class FullDisk(StorageError):
    """There was no space left for what was to be written; what was there before is whole."""


class Preempted(VidgenError):
    """The run was asked to stop, has saved its state, and goes on with the same command."""

    exit_code = 85
