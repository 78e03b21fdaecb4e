"""Removes the shared memory that Open MPI leaves on a host where its launcher was killed: nobody else does."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

#: The names that Open MPI 5, and 4, give the memory through which the ranks of a host exchange messages.
_PREFIXES = ("/dev/shm/sm_segment.", "/dev/shm/vader_segment.")
_FIELDS = 6


def remove_segments(maps: Path = Path("/proc/self/maps")) -> None:
    """Remove the names of the segments that this process has mapped, as its job is over.

    Args:
        maps: the mappings of this process, as proc(5) describes them.
    """
    with suppress(OSError):
        for line in maps.read_text(errors="replace").splitlines():
            fields = line.split(maxsplit=_FIELDS - 1)
            if len(fields) == _FIELDS and fields[-1].startswith(_PREFIXES):
                with suppress(OSError):  # another rank has removed it
                    Path(fields[-1]).unlink()
