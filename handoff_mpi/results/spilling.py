"""Values that were moved out of a rank's memory because it was short: files that live as long as the run at most.

They are the rank's own affair: nobody else knows of them. What ranks that died leave of them goes at the end of the
run, or when the next launch begins.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from pathlib import Path

from handoff_mpi.errors import UntrustedFile
from handoff_mpi.results.run_dir import SPILLED
from handoff_mpi.results.secure_files import Directory, hold_directory, open_directory, opened
from handoff_mpi.results.store import DirectoryStore, Key, MemoryStore, ResultStore
from handoff_mpi.serialization import Payload

#: This share of a disk is left to others: the run's journal may be on it.
SPARED_SHARE = 0.05
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


class SpillingStore(MemoryStore):
    """Payloads in a dict, some of them moved out to files.

    Args:
        rank: whose store it is.
        directory: made when the first value is moved out, and again if it vanishes; None takes one among the
            temporary ones of the host.
        kept: where values may lie in files already; those need not be written again.
        run_dir: the open run-dir, if ``directory`` is in its ``spilled``.

    Attributes:
        count, nbytes: how many values were moved out so far, and how many bytes of memory they took.
    """

    def __init__(
        self,
        rank: int = 0,
        directory: Path | None = None,
        kept: DirectoryStore | None = None,
        run_dir: Directory | None = None,
    ) -> None:
        super().__init__(rank)
        self.count = 0
        self.nbytes = 0
        self._directory = directory
        self._is_temporary = directory is None
        self._kept = kept
        self._run_dir = run_dir
        self._files: DirectoryStore | None = None
        self._spilled: dict[Key, ResultStore] = {}

    def spill(self, key: Key, nbytes: int) -> None:
        """Move the value of ``key``, of ``nbytes`` bytes, out of memory.

        Raises:
            OSError: it could not be written, and stays where it is.
        """
        if not super().has(key):
            return  # it got lost
        payload = super().get(key)
        where = self._kept
        if where is None or not where.has(key):
            where = self._write(key, payload, nbytes)
        self._spilled[key] = where
        super().delete(key)
        self.count += 1
        self.nbytes += nbytes

    def _write(self, key: Key, payload: Payload, nbytes: int) -> DirectoryStore:
        try:
            files = self._files_with_room(nbytes)
            files.put(key, payload)
        except FileNotFoundError:  # the directory has vanished, and what was in it: it is made again
            if self._files is not None:
                self._files.close()
                self._files = None
            files = self._files_with_room(nbytes)
            files.put(key, payload)
        return files

    def _files_with_room(self, nbytes: int) -> DirectoryStore:
        if self._files is None:
            try:
                self._files = DirectoryStore(self._make_directory(), is_cached=False)
            except UntrustedFile as error:
                raise PermissionError(errno.EPERM, str(error)) from error
        directory = self._files.directory
        disk = shutil.disk_usage(directory)
        if disk.free - nbytes < SPARED_SHARE * disk.total:
            raise OSError(errno.ENOSPC, "the disk is nearly full", str(directory))
        return self._files

    def _make_directory(self) -> Directory:
        if self._is_temporary:  # under a new name each time: what has vanished from there may be another user's by now
            self._directory = Path(tempfile.mkdtemp(prefix="handoff-spilled-"))
        assert self._directory is not None
        if self._is_temporary:
            made = hold_directory(self._directory)
        elif self._run_dir is None:
            made = open_directory(self._directory.absolute(), makes=True)
        else:
            with self._run_dir.child(SPILLED, makes=True) as spilled:
                made = spilled.child(self._directory.name, makes=True)
        if is_in_memory(self._directory):
            made.close()
            raise OSError(errno.ENODEV, "what is written there stays in memory", str(self._directory))
        return made

    def get(self, key: Key) -> Payload:
        where = self._spilled.get(key)
        return super().get(key) if where is None else where.get(key)

    def has(self, key: Key) -> bool:
        return key in self._spilled or super().has(key)

    def put(self, key: Key, payload: Payload) -> None:
        self._forget_file(key)
        super().put(key, payload)

    def delete(self, key: Key) -> None:
        self._forget_file(key)
        super().delete(key)

    def _forget_file(self, key: Key) -> None:
        where = self._spilled.pop(key, None)
        if where is not None and where is not self._kept:
            with contextlib.suppress(OSError):  # it goes with the directory
                where.delete(key)

    def close(self) -> None:
        """Forget all values, and remove the files."""
        self.clear()
        self._spilled.clear()
        if self._files is not None:
            self._files.clear()
            self._files.close()
            self._files = None
        if self._directory is not None:
            with contextlib.suppress(OSError):
                self._directory.rmdir()


def clear_spilled(run_dir: Path | Directory) -> None:
    """Remove what ranks that died have left in ``run_dir``."""
    with opened(run_dir) as directory:
        directory.remove_directory(SPILLED)


def is_in_memory(directory: Path) -> bool:
    """Whether the files of ``directory`` are kept in memory, so that writing there relieves nobody."""
    import psutil  # slow to import, and rarely needed

    path = directory.resolve()
    mounts = [each for each in psutil.disk_partitions(all=True) if path.is_relative_to(each.mountpoint)]
    nearest = max(mounts, key=lambda each: len(each.mountpoint), default=None)
    return nearest is not None and nearest.fstype in _IN_MEMORY
