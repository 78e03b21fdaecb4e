"""Files that are whole at any moment: written under another name beside their own, and then renamed."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

_TO_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_whole(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file that others see as it was or as it will be, never in part. The umask decides who may read it.

    A link is followed, as a shell's redirection does it.

    Raises:
        OSError: it cannot be written, or it is something else than a regular file; what was there is left.
    """
    path = Path(os.path.realpath(path))
    refuse_special(path)
    partial = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.partial")
    fd = os.open(partial, _TO_CREATE, 0o666)
    try:
        with os.fdopen(fd, "wb", 1 << 20) as file:
            file.writelines(pieces)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def refuse_special(path: Path) -> None:
    """Refuse what is there and is not a regular file.

    Raises:
        OSError: it is a directory, a device, a FIFO or a socket.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise OSError(0, "it is a directory" if stat.S_ISDIR(mode) else "it is not a regular file")
