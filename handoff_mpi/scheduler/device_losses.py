"""Withdraws devices that have failed, and has the calls that failed with them made elsewhere.

A rank reports that a device failed under a call if a fresh process could not use the device either. Such an attempt
does not count: it spends no try of its function. A device that fails three calls in a row is withdrawn from all ranks
of its host, for the rest of the run.
"""

from __future__ import annotations

from handoff_mpi.allocation import Ledger
from handoff_mpi.messages import DEVICE_LOSS, ErrorReport
from handoff_mpi.scheduler.lifecycle import Cause
from handoff_mpi.scheduler.ready import ReadyTasks
from handoff_mpi.scheduler.retractions import Retractions
from handoff_mpi.scheduler.returns import Returns
from handoff_mpi.scheduler.slots import Slot
from handoff_mpi.scheduler.tasks import TaskTable
from handoff_mpi.scheduler.transitions import DeviceWithdrawn, FailedAttempt

#: A device that fails so many calls in a row is withdrawn.
MAX_DEVICE_ERRORS = 3
#: A task whose attempts failed with devices more often than this fails as by an exception: perhaps it breaks them.
MAX_GIVEN_BACK = 8


class DeviceLosses:
    """The devices that have failed.

    Args:
        ledger, tasks, ready: the scheduler's tables.
        retractions, returns: bring tasks back from ranks.

    Attributes:
        errors: (host, uuid) to how many calls the device has failed since one succeeded.
    """

    def __init__(
        self, ledger: Ledger, tasks: TaskTable, ready: ReadyTasks, retractions: Retractions, returns: Returns
    ) -> None:
        self.errors: dict[tuple[str, str], int] = {}
        self._given_back: dict[int, int] = {}
        self._ledger = ledger
        self._tasks = tasks
        self._ready = ready
        self._retractions = retractions
        self._returns = returns

    def gives_back(self, task: int, slot: Slot, error: ErrorReport, now: float) -> bool:
        """Give an attempt back that has failed in ``slot`` with a device; return whether that is so."""
        if error.kind != DEVICE_LOSS:
            return False
        host = self._ledger.rank_states[slot.rank].host
        for uuid in error.devices:
            self._note(host, uuid, slot.rank, error.message)
        count = self._given_back[task] = self._given_back.get(task, 0) + 1
        if count > MAX_GIVEN_BACK:
            return False
        why = FailedAttempt(error.kind, error.message)
        self._returns.put_back(task, Cause.DEVICE_LOST, slot.rank, now, why)
        self._returns.requeue([task])
        return True

    def _note(self, host: str, uuid: str, rank: int, reason: str) -> None:
        errors = self.errors[host, uuid] = self.errors.get((host, uuid), 0) + 1
        self._ledger.suspect_device(host, uuid)
        if errors == MAX_DEVICE_ERRORS:
            for each in self._ledger.withdraw_device(host, uuid):
                self._retractions.retract_queued(each)
            self._ready.reconsider()
            self._tasks.log_rank(rank, DeviceWithdrawn(host, uuid, reason))

    def forget(self, lease: int) -> None:
        """The number of a lease will stand for other elements."""
        self._given_back.pop(lease, None)

    def succeeded(self, slot: Slot) -> None:
        """A call has succeeded in ``slot``: its devices work."""
        if slot.claim is not None and slot.claim.devices:
            host = self._ledger.rank_states[slot.rank].host
            for uuid, _ in slot.claim.devices:
                if self.errors.get((host, uuid), MAX_DEVICE_ERRORS) < MAX_DEVICE_ERRORS:
                    del self.errors[host, uuid]
                    self._ledger.trust_device(host, uuid)
