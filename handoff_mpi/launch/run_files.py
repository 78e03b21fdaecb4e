"""The files of a run: its journal, its values, its status. A run with ``run_dir=False`` has none."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from handoff_mpi.console import print_message
from handoff_mpi.errors import JournalError
from handoff_mpi.results.array_index import claim_for_index
from handoff_mpi.results.column_file import ColumnFile, column_file_in, temporary_column_file
from handoff_mpi.results.event_log import EventLog, EventPort, NoEvents, clear_events
from handoff_mpi.results.history import read_history
from handoff_mpi.results.journal import Journal, JournalPort, clear
from handoff_mpi.results.launches import History
from handoff_mpi.results.lease import Lease
from handoff_mpi.results.live_questions import Answering, QuestionBox
from handoff_mpi.results.output_files import clear_output, remove_empty_output
from handoff_mpi.results.run_dir import STATUS, VALUES, use_run_dir
from handoff_mpi.results.run_lock import lock_run_dir_soon
from handoff_mpi.results.secure_files import Directory
from handoff_mpi.results.spilling import clear_spilled
from handoff_mpi.results.status_file import release_space, reserve_space, write_status
from handoff_mpi.results.store import DirectoryStore, MemoryStore, ResultStore
from handoff_mpi.results.summary import SUMMARY
from handoff_mpi.results.supervision import own_supervisor
from handoff_mpi.runtime.options import RunOptions


class RunFiles(Protocol):
    """The files of a run.

    Attributes:
        path: the run-dir; None if there is none.
        note: what a user should know of it, empty if nothing.
        kept: the values that outlast the run.
    """

    path: Path | None
    note: str

    @property
    def kept(self) -> ResultStore: ...

    def read_history(self) -> History:
        """Return what earlier launches left."""
        ...

    def prepare(self) -> None:
        """Clean up, and see that there is room.

        Raises:
            UsageError: there is none.
        """
        ...

    def begin(self) -> JournalPort:
        """Return the journal of this launch, which begins.

        Raises:
            JournalError: it cannot be made.
        """
        ...

    def column_file(self, epoch: int) -> ColumnFile:
        """Return the value file of this launch, for columns of arrays."""
        ...

    def confirm(self) -> None:
        """Look whether the run is still this launch's; worth a call a second.

        Raises:
            Superseded, JournalError: see :meth:`handoff_mpi.results.lease.Lease.confirm`.
        """
        ...

    def write_running(self, about: dict[str, Any]) -> None:
        """Write the status of a run that begins.

        Raises:
            JournalError: it cannot be written.
        """
        ...

    def renew_running(self, about: dict[str, Any]) -> None:
        """Write how far a run has come, if that is possible; worth a call a second."""
        ...

    def answer(self, answering: Answering, now: float) -> None:
        """Answer what ``explain`` asks, if it asks; worth a call a second."""
        ...

    def write_verdict(self, **fields: Any) -> None:
        """Write the status of a run that has ended; say so if that is not possible."""
        ...

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write how the launch has ended, for programs; say so if that is not possible."""
        ...

    def begin_events(self, launch: int, has_functions: bool) -> EventPort:
        """Return what takes in the events of this launch.

        Args:
            has_functions: whether those of single functions are recorded.
        """
        ...

    def remove_empty_output(self) -> None:
        """Remove the directory of output if functions have not printed anything that was kept."""

    def clear_spilled(self) -> None:
        """Remove what ranks have moved out of their memory."""
        ...

    def close(self) -> None:
        """Let go of the values."""
        ...


@contextmanager
def open_files(options: RunOptions) -> Iterator[RunFiles]:
    """Open and lock the run-dir that the options name.

    Raises:
        UsageError, JournalError: it cannot be used; nothing has started.
    """
    if options.run_dir is False:
        yield NoFiles()
        return
    with use_run_dir(options.run_dir) as directory, lock_run_dir_soon(directory, own_supervisor()) as lock:
        claim_for_index(directory)
        if options.fresh:
            clear(directory)
            clear_output(directory)
            clear_events(directory)
        yield FilesOfRunDir(directory, lock.note)


class FilesOfRunDir:
    """The files in a run-dir, see :class:`RunFiles`.

    Args:
        directory: the run-dir, open and locked.
        note: what a user should know of it.
    """

    def __init__(self, directory: Directory, note: str) -> None:
        self.path: Path | None = directory.path
        self.note = note
        self.kept = DirectoryStore(directory.path / VALUES, within=directory)
        self._directory = directory
        self._questions = QuestionBox(directory)
        self._lease: Lease | None = None
        self._lock = threading.Lock()  # in one process a thread renews the status
        self._has_ended = False

    def read_history(self) -> History:
        return read_history(self._directory)

    def prepare(self) -> None:
        reserve_space(self._directory)
        clear_spilled(self._directory)
        self._questions.clear()

    def begin(self) -> JournalPort:
        journal = Journal(self._directory)
        with suppress(OSError):
            self._directory.remove(SUMMARY)  # it is of an earlier launch
        self._lease = Lease(self._directory, journal)
        return journal

    def column_file(self, epoch: int) -> ColumnFile:
        return column_file_in(self._directory, epoch)

    def confirm(self) -> None:
        if self._lease is not None:
            self._lease.confirm()

    def write_running(self, about: dict[str, Any]) -> None:
        write_status(self._directory, status="running", exit_code=None, **about)

    def renew_running(self, about: dict[str, Any]) -> None:
        if self._lease is None or self._lease.is_over:
            return
        content = json.dumps({"status": "running", "exit_code": None, **about}, default=repr)
        with self._lock, suppress(OSError):  # the room that is kept on a full disk is for the verdict
            if not self._has_ended:
                self._directory.write(STATUS, content.encode())

    def answer(self, answering: Answering, now: float) -> None:
        self._questions.look(answering, now)

    def write_verdict(self, **fields: Any) -> None:
        with self._lock:
            self._has_ended = True
            try:
                write_status(self._directory, **fields)
                release_space(self._directory)
            except (JournalError, OSError) as error:
                print_message(str(error))

    def write_summary(self, summary: dict[str, Any]) -> None:
        content = json.dumps(summary, indent=1, default=repr) + "\n"
        try:
            self._directory.write(SUMMARY, content.encode())
        except OSError as error:
            print_message(f"{self._directory.path / SUMMARY} cannot be written: {error.strerror}")

    def begin_events(self, launch: int, has_functions: bool) -> EventPort:
        return EventLog(self._directory, launch, has_functions)

    def remove_empty_output(self) -> None:
        remove_empty_output(self._directory)

    def clear_spilled(self) -> None:
        clear_spilled(self._directory)

    def close(self) -> None:
        self._questions.clear()
        self.kept.close()
        if self._lease is not None:
            self._lease.close()


class NoFiles:
    """Stands for the files of a run that keeps its values in memory and cannot be resumed, see :class:`RunFiles`."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.note = ""
        self.kept = MemoryStore()

    def read_history(self) -> History:
        return History()

    def prepare(self) -> None:
        pass

    def begin(self) -> JournalPort:
        return NoJournal()

    def column_file(self, epoch: int) -> ColumnFile:
        return temporary_column_file()

    def confirm(self) -> None:
        pass

    def write_running(self, about: dict[str, Any]) -> None:
        pass

    def renew_running(self, about: dict[str, Any]) -> None:
        pass

    def answer(self, answering: Answering, now: float) -> None:
        pass

    def write_verdict(self, **fields: Any) -> None:
        pass

    def write_summary(self, summary: dict[str, Any]) -> None:
        pass

    def begin_events(self, launch: int, has_functions: bool) -> EventPort:
        return NoEvents()

    def remove_empty_output(self) -> None:
        pass

    def clear_spilled(self) -> None:
        pass

    def close(self) -> None:
        self.kept.clear()


class NoJournal:
    """The journal of a run without files."""

    epoch = 1

    def append(self, record: tuple[Any, ...]) -> bool:
        return True

    def commit(self) -> None:
        pass

    def close(self) -> None:
        pass
