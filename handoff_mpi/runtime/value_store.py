"""The values of a rank: in its store, moved out of its memory, or in files that outlast it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from handoff_mpi.console import print_message
from handoff_mpi.errors import UntrustedFile, UsageError, ValueDamaged, ValueUnavailable
from handoff_mpi.results.run_dir import SPILLED, VALUES
from handoff_mpi.results.secure_files import Directory, open_directory
from handoff_mpi.results.spilling import SpillingStore
from handoff_mpi.results.status_file import read_status
from handoff_mpi.results.store import DirectoryStore, Key, MemoryStore, ResultStore
from handoff_mpi.runtime.backoff import clock
from handoff_mpi.runtime.run_setup import RunSetup
from handoff_mpi.serialization import EncodingError, Payload, decode_code

#: How long writing a byte is taken to last before the first was measured.
_SECONDS_PER_BYTE = 1 / 200e6


class RankValues:
    """Where the values of one rank are in one run.

    Args:
        rank: its own.
        setup: of the run.
        store: of the user's, if there is one of this rank already, which is closed by who made it.
    """

    def __init__(self, rank: int, setup: RunSetup, store: ResultStore | None = None) -> None:
        self._setup = setup
        self._run_dir = _find_run_dir(setup)
        self._kept: DirectoryStore | None = None
        if self._run_dir is not None:
            self._kept = DirectoryStore(self._run_dir.path / VALUES, within=self._run_dir)
        self._is_own_store = store is None
        self._store = _make_store(rank, setup, self._kept, self._run_dir) if store is None else store
        self._file_keys: dict[int, Key] = {}
        self._seconds_per_byte = _SECONDS_PER_BYTE
        self._has_said_unwritten = False

    @property
    def sees_files(self) -> bool:
        """Whether values that outlast the run can be written and read here."""
        return self._kept is not None

    @property
    def can_spill(self) -> bool:
        """Whether values can be moved out of memory: where a store of the user's keeps its values is its affair."""
        return isinstance(self._store, SpillingStore)

    def are_filed(self, keys: Iterable[tuple[int, Key]]) -> None:
        """The values of these tasks lie in files of another run, under these keys."""
        self._file_keys.update(keys)

    def get(self, task: int, is_held: bool) -> Payload | None:
        """Return a value, from the store if it ``is_held`` there, else from its file; None if it is unavailable."""
        try:
            if is_held:
                return self._store.get(self._key(task))
            return None if self._kept is None else self._kept.get(self._file_keys.get(task, self._key(task)))
        except ValueDamaged as error:
            print_message(f"a value is lost, and will be made again if it is needed: {error}")
            return None
        except (KeyError, ValueUnavailable):
            return None

    def put(self, task: int, payload: Payload) -> None:
        """Put a value into the store."""
        self._store.put(self._key(task), payload)

    def drop(self, task: int) -> None:
        """Drop a value from the store."""
        self._store.delete(self._key(task))

    def spill(self, task: int, nbytes: int) -> None:
        """Move a value of the store, of ``nbytes`` bytes, out of memory.

        Raises:
            OSError: it could not be written.
        """
        assert isinstance(self._store, SpillingStore)
        self._store.spill(self._key(task), nbytes)

    def is_worth_writing(self, nbytes: int, duration: float) -> bool:
        """Whether a value that need not outlast the run is written all the same, for one that resumes it.

        Args:
            nbytes: its size.
            duration: how long it took to compute, in seconds.
        """
        if self._setup.checkpoint == "auto":
            return duration > nbytes * self._seconds_per_byte
        return self._setup.checkpoint == "all"

    def write(self, task: int, payload: Payload, nbytes: int) -> str:
        """Write a value to its file; return what went wrong, in words."""
        assert self._kept is not None
        begun = clock()
        try:
            self._kept.put(self._key(task), payload)
        except OSError as error:
            return f"could not be written to {self._kept.directory}: {error}"
        self._seconds_per_byte = (clock() - begun) / max(1, nbytes)
        return ""

    def checkpoint(self, task: int, payload: Payload, nbytes: int) -> bool:
        """Write a value that need not outlast the run; return whether it is written, and say once that it is not."""
        problem = self.write(task, payload, nbytes)
        if problem and not self._has_said_unwritten:
            self._has_said_unwritten = True
            print_message(
                f"a result {problem}; this run continues, but a run that resumes it computes such results again"
            )
        return not problem

    def close(self) -> None:
        """Forget all values, remove what was moved out of memory, and let go of the run-dir."""
        close = getattr(self._store, "close", None)
        if close is not None and self._is_own_store:
            close()
        for each in (self._kept, self._run_dir):
            if each is not None:
                each.close()

    def _key(self, task: int) -> Key:
        return self._setup.run, task


def _find_run_dir(setup: RunSetup) -> Directory | None:
    """Return rank 0's run-dir, open; None where it cannot be seen, or not be trusted.

    On another host a directory of the same path may be of an earlier run: the run's name, which holds a random number,
    tells.
    """
    if setup.run_dir is None:
        return None
    try:
        directory = open_directory(Path(setup.run_dir))
    except UntrustedFile as error:
        print_message(f"values are sent to rank 0, which writes them: {error}")
        return None
    except OSError:
        return None
    if read_status(directory).get("run") != setup.run:
        directory.close()
        return None
    return directory


def _make_store(rank: int, setup: RunSetup, kept: DirectoryStore | None, run_dir: Directory | None) -> ResultStore:
    if setup.store_factory is None:
        directory = None if run_dir is None else run_dir.path / SPILLED / f"{setup.run}-{rank}"
        return SpillingStore(rank, directory, kept, run_dir)
    from handoff_mpi.results.fallback_store import FallbackStore

    try:
        return FallbackStore(decode_code(setup.store_factory), rank)
    except (UsageError, EncodingError) as error:
        print_message(f"{error}; the values of rank {rank} stay in memory")
        return MemoryStore(rank)
