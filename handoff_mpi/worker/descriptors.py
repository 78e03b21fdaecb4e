"""The descriptors of stdout and stderr, which a function may close, and the buffers before them."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

STDOUT, STDERR = 1, 2
_LINE_BUFFERED = 1  # C's _IOLBF


def position_of(descriptor: int = STDOUT) -> int:
    """Return where a descriptor stands: it moves with each write through it, or through what shares it."""
    try:
        return os.lseek(descriptor, 0, os.SEEK_CUR)
    except OSError:  # a function has closed it, or put a pipe there
        return -1


def size_of(descriptor: int) -> int:
    """Return the size of a file; 0 where its file system does not know it any more, so that no call fails for that."""
    try:
        return os.fstat(descriptor).st_size
    except OSError:
        return 0


def duplicate(descriptor: int) -> int:
    """Return a copy that programs do not inherit; of one that is closed, a descriptor that leads nowhere."""
    import fcntl

    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def is_same_file(descriptor: int, other: int) -> bool:
    """Whether two descriptors lead to the same file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.fstat(other))
    except OSError:
        return False


def flush_streams(*streams: Any) -> None:
    """Flush streams that may be closed."""
    for stream in streams:
        try:
            stream.flush()
        except Exception:
            pass  # closed, or an object of the user's


def flush_all() -> None:
    """Write out what Python and C hold in the buffers of stdout and stderr."""
    flush_streams(sys.stdout, sys.stderr)
    flush_c()


def _c_stdout() -> tuple[Any, object]:
    """Return the C library and its ``stdout``; None where they are unknown."""
    try:
        library = ctypes.CDLL(None)
        return library, ctypes.c_void_p.in_dll(library, "stdout")
    except (OSError, ValueError, AttributeError):
        return None, None


_C, _C_STDOUT = _c_stdout()


def buffer_lines() -> None:
    """Have C code print line by line, as on a terminal: what is left in a buffer is lost with a process that dies."""
    if _C is not None:
        _C.setvbuf(_C_STDOUT, None, _LINE_BUFFERED, 0)


def flush_c() -> None:
    """Write out what C holds in its buffers."""
    if _C is not None:
        _C.fflush(_C_STDOUT)
