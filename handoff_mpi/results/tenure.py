"""A launch's hold on its run-dir: it shows that it lives, and leaves once a newer launch has come."""

from __future__ import annotations

from pathlib import Path

from handoff_mpi.errors import Superseded
from handoff_mpi.results.journal import has_successor
from handoff_mpi.results.run_dir import touch_status


class Tenure:
    """The hold of the launch of ``epoch`` on ``run_dir``.

    A rank 0 that was suspended, or cut off, while its run was launched again elsewhere finds the other's journal
    there: what it would still write is not wanted any more.
    """

    def __init__(self, run_dir: Path, epoch: int) -> None:
        self._run_dir = run_dir
        self._epoch = epoch

    def confirm(self) -> None:
        """Look for a newer launch, and show that this one lives; worth a call a second.

        Raises:
            Superseded: there is a newer one; nothing must be written any more.
        """
        if has_successor(self._run_dir, self._epoch):
            raise Superseded(
                f"launch {self._epoch} of {self._run_dir} leaves: a newer launch has taken the run over meanwhile"
            )
        touch_status(self._run_dir)
