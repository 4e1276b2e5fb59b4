"""What to paste into a bug report."""

import importlib.metadata
import os
import pathlib
import platform
import shutil
from collections.abc import Iterator


def facts() -> Iterator[tuple[str, str]]:
    """Yields `(name, value)`: versions, devices, codecs, memory, free space."""
    import vidgen

    yield "vidgen", vidgen.__version__
    yield "python", platform.python_version()
    yield "system", platform.platform()
    yield "cores", str(os.cpu_count())
    for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "av", "pillow"):
        yield name, importlib.metadata.version(name)
    import jax

    devices = jax.devices()
    yield "devices", f"{len(devices)} x {devices[0].device_kind} ({jax.default_backend()})"
    import av.codec

    wanted = ("h264", "hevc", "vp9", "av1", "mpeg4", "ffv1", "gif", "webp")
    missing = [name for name in wanted if name not in av.codec.codecs_available]
    yield "decoders", "missing: " + ", ".join(missing) if missing else "all of " + ", ".join(wanted)
    cache = os.environ.get("VIDGEN_CACHE") or str(pathlib.Path.home() / ".cache" / "vidgen")
    for name, folder in (("here", "."), ("cache", cache)):
        there = pathlib.Path(folder).absolute()
        while not there.exists():
            there = there.parent
        yield f"free ({name})", f"{shutil.disk_usage(there).free / 2**30:.1f} GiB"
