"""Writing a file that must not fill the system's cache.

A control group counts the cached pages of the files that its processes write, and cannot take back a page that is not
on the disk yet. Values that are moved out of memory must not fill what they are to free.
"""

from __future__ import annotations

import os
from typing import Any, BinaryIO

#: At most this many bytes of a file are in the cache and not on the disk.
MAX_DIRTY_NBYTES = 8 * 1024 * 1024


class UncachedWriter:
    """Writes to ``file`` in portions; each is on the disk, and out of the cache, before the next is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._dirty_nbytes = 0

    def write(self, data: Any) -> None:
        """Write bytes-like ``data``."""
        view = memoryview(data).cast("B")
        for start in range(0, view.nbytes, MAX_DIRTY_NBYTES):
            portion = view[start : start + MAX_DIRTY_NBYTES]
            if self._dirty_nbytes + portion.nbytes > MAX_DIRTY_NBYTES:
                self.flush()
            self._file.write(portion)
            self._dirty_nbytes += portion.nbytes

    def flush(self) -> None:
        """Have all that was written on the disk and out of the cache."""
        self._file.flush()
        os.fdatasync(self._file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self._dirty_nbytes = 0
