"""What a command changes in its own process, and an import of the library must not."""

import errno
import io
import logging
import os
import pathlib
import sys
from typing import Any

from vidgen.errors import StorageError
from vidgen.text import legible

# One arena of memory on huge pages, from which blocks below 8 GiB come and whose end is kept. By
# default glibc gives each large block back to the kernel, which clears the pages for the next.
_MALLOC = {
    "hugetlb": 1,
    "arena_max": 1,
    "mmap_threshold": 8 * 2**30,
    "trim_threshold": 8 * 2**30,
}


def keep_memory() -> None:
    """Starts the process over with malloc on huge pages that it keeps, unless the user tuned it.

    XLA's buffers on a CPU come from malloc at every step. In small pages, or in pages that the
    kernel has to clear each time, a fifth of a step can go there (docs/benchmarks.md). glibc reads
    the settings only when a process starts. Process number, arguments and open files stay.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        tunables = ":".join(f"glibc.malloc.{name}={value}" for name, value in _MALLOC.items())
        os.environ["GLIBC_TUNABLES"] = tunables
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class _Output(io.FileIO):
    """Standard output or standard error, whose end does not end the work.

    What a reader that has gone (`| head`) or a closed terminal would get is dropped: the command
    does what it was asked for, and its exit code is of that. Output for which there is no space is
    an error; messages for which there is none are dropped, since nothing is left to say it to.

    Args:
      number: 1 or 2.
    """

    def __init__(self, number: int):
        super().__init__(number, "wb", closefd=False)
        self.lost = False

    def write(self, data: Any) -> int:
        """Writes bytes, or drops them.

        Raises:
          StorageError: There was no space for standard output; once.
        """
        if not self.lost:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = True
                if self.fileno() == 1 and error.errno not in (errno.EPIPE, errno.EIO):
                    raise StorageError(
                        f"standard output cannot be written: {error.strerror}"
                    ) from error
        return memoryview(data).nbytes


def own_streams() -> None:
    """Opens what the shell has closed of the standard streams, and makes output `_Output`.

    Otherwise the next file that is opened would take the number of a closed one, and get what
    libraries print.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free
    for number, name in ((1, "stdout"), (2, "stderr")):
        old = getattr(sys, name)
        if old is not None:
            old.flush()
        output = _Output(number)
        made = io.TextIOWrapper(
            io.BufferedWriter(output),
            encoding=getattr(old, "encoding", "utf-8"),
            errors="backslashreplace",  # a file's name may be no text
            line_buffering=number == 2 or output.isatty(),
            write_through=getattr(old, "write_through", False),
        )
        setattr(sys, name, made)


class _Legible(logging.Formatter):
    """Writes no message of which a terminal would obey a part: names of files are anybody's."""

    def format(self, record: logging.LogRecord) -> str:
        return legible(super().format(record), "\n\t")


def speak_plainly() -> None:
    """Prints warnings as one line each, and leaves out the pages that Orbax logs.

    What matters of those is raised. Orbax gives up at the first array that cannot be read or
    written, and closes the event loop that TensorStore then reports all others to: hundreds of
    tracebacks around the one line that counts.
    """
    import absl.logging

    shown = logging.StreamHandler()
    shown.setFormatter(_Legible("vidgen: %(message)s"))
    logging.basicConfig(handlers=[shown], level=logging.WARNING)
    absl.logging.set_verbosity(absl.logging.FATAL)
    before = sys.unraisablehook
    if getattr(before, "__module__", "") == __name__:  # a command in this process before
        return

    def unraisable(event: Any) -> None:
        if str(event.exc_value) != "Event loop is closed":
            before(event)

    sys.unraisablehook = unraisable


def keep_programs() -> None:
    """Keeps compiled programs on disk, so that the next start takes a tenth of the time."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = os.environ.get("VIDGEN_CACHE") or pathlib.Path.home() / ".cache" / "vidgen"
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(folder) / "programs"))
    # All three are needed; by default small and quickly compiled programs are not kept.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def has_devices() -> bool:
    """Tells whether JAX finds the devices that JAX_PLATFORMS names, where it names any."""
    if not os.environ.get("JAX_PLATFORMS") or "jax" not in sys.modules:
        return True
    import jax

    try:
        return bool(jax.devices())
    except (RuntimeError, AssertionError):  # what it raises depends on which are installed
        return False
