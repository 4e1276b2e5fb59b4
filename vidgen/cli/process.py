"""What a command changes in its own process, and an import of the library must not."""

import logging
import os
import pathlib
import sys
from typing import Any


def use_huge_pages() -> None:
    """Starts the process over with malloc on huge pages, unless the user has tuned malloc.

    XLA's buffers on a CPU come fresh from malloc at every step; in small pages, faults and address
    translation take a good part of its time (docs/benchmarks.md). glibc reads the setting only when
    a process starts. Process number, arguments and open files stay.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def speak_plainly() -> None:
    """Prints warnings as one line each, and leaves out the pages that Orbax logs.

    What matters of those is raised. Orbax gives up at the first array that cannot be read or
    written, and closes the event loop that TensorStore then reports all others to: hundreds of
    tracebacks around the one line that counts.
    """
    import absl.logging

    logging.basicConfig(format="vidgen: %(message)s", level=logging.WARNING)
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
