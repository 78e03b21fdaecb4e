"""The files that take the output of a rank's functions: opened for its own calls, and for the child of each slot."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from handoff_mpi.console import print_message_once
from handoff_mpi.results.output_files import OUTPUT, file_name
from handoff_mpi.results.secure_files import Directory, open_directory
from handoff_mpi.runtime.forwarding import Forwarder
from handoff_mpi.runtime.run_setup import RunSetup
from handoff_mpi.worker.output import CallOutput
from handoff_mpi.worker.output_index import OutputFiles, bound_from_outside, end_of_killed, not_captured


class RankOutput:
    """The output of the functions that one rank calls in one run.

    Args:
        rank: its own.
        setup: of the run; its ``output`` is not None.
    """

    def __init__(self, rank: int, setup: RunSetup) -> None:
        assert setup.output is not None
        self._rank = rank
        self._plan = setup.output
        self._run_dir = setup.run_dir
        self._directory: Directory | None = None
        self._files: dict[int | None, OutputFiles | None] = {}
        self._captures: list[CallOutput] = []
        self._forwarder: Forwarder | None = None
        if self._plan.forwards:
            self._forwarder = Forwarder(rank, self._plan.has_prefix, has_rank=self._plan.names_rank)

    def of_rank(self, stays: bool) -> CallOutput:
        """Return what captures the calls in this process; see :class:`CallOutput`."""
        capture = CallOutput(lambda: self._open_own(capture), stays)
        if self._forwarder is not None:
            capture.after_look = self._forwarder.look
        self._captures.append(capture)
        return capture

    def _open_own(self, capture: CallOutput) -> OutputFiles:
        files = self._files[None] = self._open(None, capture)
        return files

    def of_slot(self, slot: int) -> OutputFiles | None:
        """Return the files for the child of a slot; None if they cannot be opened, which is said."""
        if slot not in self._files:
            try:
                self._files[slot] = self._open(slot)
            except OSError as error:
                self._files[slot] = None
                print_message_once(not_captured(error))
        return self._files[slot]

    def call_was_killed(self, slot: int, id: object, attempt: int) -> str:
        """The child of a slot has died in a call: keep what that had printed; return its last lines."""
        files = self._files.get(slot)
        if files is None:
            return ""
        try:
            return end_of_killed(files, id, attempt)
        except OSError:
            return ""

    def look_at_slots(self) -> None:
        """Bound what children print that hold their interpreters; worth a call a second."""
        for slot, files in self._files.items():
            if slot is not None and files is not None:
                with suppress(OSError):
                    bound_from_outside(files)

    def _open(self, slot: int | None, capture: CallOutput | None = None) -> OutputFiles:
        name = file_name(self._rank, slot)
        out = self._open_file(f"{name}.out")
        try:
            index = self._open_file(f"{name}.index")
        except BaseException:
            os.close(out)
            raise
        files = OutputFiles(out, index, self._plan.launch, self._plan.max_nbytes)
        if self._forwarder is not None:
            self._forwarder.add(name, files, capture)
        return files

    def _open_file(self, name: str) -> int:
        if self._run_dir is None:
            descriptor = os.memfd_create(name)
        else:
            if self._directory is None:
                with open_directory(Path(self._run_dir)) as run_dir:
                    self._directory = run_dir.child(OUTPUT, makes=True)
            descriptor = self._directory.open_or_create(name)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_APPEND)
        return descriptor

    def close(self) -> None:
        """The run is over: close the files, and remove those that are empty."""
        for capture in self._captures:
            capture.close()
            capture.after_look = lambda: None  # a reference cycle
        if self._forwarder is not None:
            self._forwarder.close()
            self._forwarder = None
        for slot, files in self._files.items():
            if files is not None:
                self._close(file_name(self._rank, slot), files)
        self._files.clear()
        if self._directory is not None:
            self._directory.close()
            self._directory = None

    def _close(self, name: str, files: OutputFiles) -> None:
        is_empty = False
        with suppress(OSError):
            is_empty = not os.fstat(files.out).st_size and not os.fstat(files.index).st_size
        os.close(files.out)
        os.close(files.index)
        if is_empty and self._directory is not None:
            for end in ("out", "index"):
                with suppress(OSError):
                    self._directory.remove(f"{name}.{end}")
