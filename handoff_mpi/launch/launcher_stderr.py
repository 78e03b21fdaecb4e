"""Cleans up what PRRTE's mpirun leaves on stderr: it ends the message about a job that it aborts with a NUL byte."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def remove_last_nul(fd: int = 2) -> None:
    """Remove a NUL byte from the end of the file that ``fd`` writes to; do nothing where it is a pipe or a terminal."""
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return
        last = status.st_size - 1
        with Path(f"/proc/self/fd/{fd}").open("rb") as file:  # for writing alone it cannot be read
            is_nul = os.pread(file.fileno(), 1, last) == b"\0"
        if is_nul:
            is_at_end = os.lseek(fd, 0, os.SEEK_CUR) == status.st_size
            os.ftruncate(fd, last)
            if is_at_end:  # else it appends
                os.lseek(fd, last, os.SEEK_SET)
    except OSError:
        pass  # a file that cannot be read back stays as it is
