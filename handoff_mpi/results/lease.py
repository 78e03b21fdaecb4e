"""A launch's hold on its run-dir: it shows that it lives, and leaves once a newer launch has come."""

from __future__ import annotations

from handoff_mpi.errors import EXIT_STOPPED, JournalError, Superseded, UntrustedFile
from handoff_mpi.results.journal import Journal
from handoff_mpi.results.journal_reader import has_successor
from handoff_mpi.results.run_dir import VALUES
from handoff_mpi.results.secure_files import Directory
from handoff_mpi.results.status_file import touch_status


class Lease:
    """The hold of the launch that writes ``journal`` on ``run_dir``.

    A rank 0 that was suspended, or cut off, while its run was launched again elsewhere finds the other's journal
    there: what it would still write is not wanted any more.
    """

    def __init__(self, run_dir: Directory, journal: Journal) -> None:
        self._run_dir = run_dir
        self._journal = journal
        self._values = self._make_values()

    @property
    def is_over(self) -> bool:
        """Whether a newer launch has taken the run over."""
        return has_successor(self._run_dir, self._journal.epoch)

    def confirm(self) -> None:
        """Look for a newer launch, and show that this one lives; worth a call a second.

        Raises:
            Superseded: there is a newer one; nothing must be written any more.
            JournalError: the run-dir, or the journal or the values in it, are no longer there: what is written is lost.
        """
        path, epoch = self._run_dir.path, self._journal.epoch
        if self.is_over:
            raise Superseded(f"launch {epoch} of {path} leaves: a newer launch has taken the run over meanwhile")
        is_intact = self._run_dir.is_in_place and self._journal.is_in_place
        if not (is_intact and (self._values is None or self._values.is_in_place)):
            lost = path / VALUES if is_intact else f"the run-dir {path}"
            what = f"{lost} was removed, renamed or replaced during its run"
            raise JournalError(f"{what}: what it does cannot be kept; give the same command again", EXIT_STOPPED)
        touch_status(self._run_dir)

    def close(self) -> None:
        """Look no longer."""
        if self._values is not None:
            self._values.close()

    def _make_values(self) -> Directory | None:
        """Make the directory of values, and open it; return None if it cannot be made.

        It is made before the first value, so that its removal is noticed however soon that happens; and it stays open,
        so that no other directory gets its inode.
        """
        try:
            return self._run_dir.child(VALUES, makes=True)
        except (OSError, UntrustedFile):
            return None  # writing a value there says why
