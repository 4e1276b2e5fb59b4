"""Files that grow by whole records, on disks that may be full for a while."""

import collections
import os
import pathlib


class Appending:
    """A file that ends with a whole record at any time; what there is no space for waits.

    Nothing is buffered and no thread writes: an error comes to whoever has added the record.

    Args:
      path: The file, opened at the first write and gone on with where it is there.
      most: Bytes that may wait; records beyond are dropped, and counted. None: any number.

    Attributes:
      waiting: The records that are not in the file yet, oldest first.
      dropped: How many records were dropped.
    """

    def __init__(self, path: pathlib.Path, most: int | None = None):
        self.path, self.most = path, most
        self.waiting: collections.deque[bytes] = collections.deque()
        self.dropped = 0
        self._file = None

    def add(self, record: bytes) -> None:
        """Writes a record behind those that wait.

        Raises:
          OSError: It, or one before it, could not be written, and waits.
        """
        if self.most is not None and len(record) + sum(map(len, self.waiting)) > self.most:
            self.dropped += 1
        else:
            self.waiting.append(record)
        self.write()

    def write(self) -> None:
        """Writes all that waits.

        Raises:
          OSError: Some of it could not be written, and waits.
        """
        if self._file is None:
            self._file = self.path.open("ab", buffering=0)
        while self.waiting:
            end = os.fstat(self._file.fileno()).st_size
            record = self.waiting.popleft()
            left = memoryview(record)
            try:
                while left:
                    left = left[self._file.write(left) :]
            except BaseException:  # a signal's, too
                self._file.truncate(end)  # a part of a record would make the next unreadable
                self.waiting.appendleft(record)
                raise

    def close(self) -> None:
        """Closes the file; what waits is not written."""
        if self._file is not None:
            self._file.close()
