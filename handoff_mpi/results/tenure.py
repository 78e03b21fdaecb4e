"""A launch's hold on its run-dir: it shows that it lives, and leaves once a newer launch has come."""

from __future__ import annotations

from handoff_mpi.errors import EXIT_STOPPED, JournalError, Superseded
from handoff_mpi.results.journal import Journal, has_successor
from handoff_mpi.results.run_dir import touch_status
from handoff_mpi.results.secure_files import Directory


class Tenure:
    """The hold of the launch that writes ``journal`` on ``run_dir``.

    A rank 0 that was suspended, or cut off, while its run was launched again elsewhere finds the other's journal
    there: what it would still write is not wanted any more.
    """

    def __init__(self, run_dir: Directory, journal: Journal) -> None:
        self._run_dir = run_dir
        self._journal = journal

    def confirm(self) -> None:
        """Look for a newer launch, and show that this one lives; worth a call a second.

        Raises:
            Superseded: there is a newer one; nothing must be written any more.
            JournalError: the run-dir, or the journal in it, is no longer there: nothing that is written can be found.
        """
        path, epoch = self._run_dir.path, self._journal.epoch
        if has_successor(self._run_dir, epoch):
            raise Superseded(f"launch {epoch} of {path} leaves: a newer launch has taken the run over meanwhile")
        if not (self._run_dir.is_in_place and self._journal.is_in_place):
            what = f"the run-dir {path} was removed, renamed or replaced while its run was going on"
            raise JournalError(f"{what}: what it does cannot be kept; give the same command again", EXIT_STOPPED)
        touch_status(self._run_dir)
