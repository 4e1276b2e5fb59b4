"""What is in the way of a file of a run, or damaged, is set aside and never lost."""

import logging
import os
import pathlib

from vidgen.video import atomic

_LOG = logging.getLogger("vidgen")


def make_way(path: pathlib.Path, folder: bool = False) -> None:
    """Sets aside what stands where a file is to be and is none, with a warning.

    Args:
      path: The file: what is to be written, or a link to one, stays.
      folder: Whether it is a folder that is to be there.

    Raises:
      StorageError: It cannot be renamed.
    """
    with atomic.storage(path):
        if os.path.lexists(path) and not (path.is_dir() if folder else path.is_file()):
            wanted = "folder" if folder else "file"
            _LOG.warning("%s is no %s; set aside as %s", path, wanted, atomic.set_aside(path).name)
