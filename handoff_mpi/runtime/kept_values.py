"""Values that must outlast the run and lie at ranks that do not see the run-dir: rank 0 brings and writes them."""

from __future__ import annotations

from collections.abc import Sequence

from handoff_mpi import messages
from handoff_mpi.console import print_message
from handoff_mpi.dag import Plan
from handoff_mpi.errors import ValueUnavailable
from handoff_mpi.formatting import show
from handoff_mpi.messages import INSIST, OK, Entry
from handoff_mpi.results.store import ResultStore
from handoff_mpi.runtime.dispatcher import Dispatcher
from handoff_mpi.scheduler import Scheduler, ValueLost
from handoff_mpi.serialization import Payload, head_of


class KeptValues:
    """Fetches kept values and writes them to files; serves files to ranks that do not see them.

    Args:
        dispatcher: sends.
        scheduler: knows who holds what.
        plan: the run's tables.
        kept: where they are written.
        run, number: the run's name and number.
    """

    def __init__(
        self, dispatcher: Dispatcher, scheduler: Scheduler, plan: Plan, kept: ResultStore, run: str, number: int
    ) -> None:
        self._dispatcher = dispatcher
        self._scheduler = scheduler
        self._plan = plan
        self._kept = kept
        self._run = run
        self._number = number
        self._kept_values: dict[int, tuple[int, int]] = {}  # request id: (task, rank that holds its value)
        self._to_bring: dict[int, None] = {}
        self._next_request_id = -1  # negative, so that no request id of rank 0's own worker is the same

    @property
    def is_going_on(self) -> bool:
        return bool(self._kept_values)

    def awaits(self, request_id: int) -> bool:
        """Whether ``request_id`` is of a fetch that was not answered yet."""
        return request_id in self._kept_values

    def lose(self, rank: int) -> None:
        """``rank`` is lost: what it was to send is brought from another, if there is one."""
        for request_id in [request_id for request_id, (_, holder) in self._kept_values.items() if holder == rank]:
            self._to_bring[self._kept_values.pop(request_id)[0]] = None

    def finished(self, source: int, entries: Sequence[Entry]) -> None:
        """Calls ended on ``source``: fetch what must outlast the run, and lies there only."""
        for task, _, status, value, _, _, _, is_persisted in entries:
            if status == OK and value is None and not is_persisted and self._scheduler.specs[task].keep:
                self._bring(task, source)

    def _bring(self, task: int, holder: int) -> None:
        self._kept_values[self._next_request_id] = (task, holder)
        self._dispatcher.send(holder, messages.fetch(self._number, self._next_request_id, task, via=INSIST))
        self._next_request_id -= 1

    def rewrite(self, missing: Sequence[tuple[int, Sequence[int]]]) -> None:
        """A kept value whose file cannot be read is brought from a rank that holds it still, if there is one."""
        for task, asked in missing:
            if self._scheduler.specs[task].keep and (not asked or 0 in asked):
                self._to_bring[task] = None

    def go_on(self) -> None:
        """A value that one rank or file could not give may be brought from another rank, or is made again."""
        tasks = self._scheduler.tasks
        to_bring, self._to_bring = self._to_bring, {}
        for task in to_bring:
            holders = tasks.holders.get(task)
            if holders and task not in tasks.persisted:
                self._bring(task, holders[0])

    def serve_file(self, rank: int, request_id: int, task: int) -> None:
        """Send a value that lies in a file to ``rank``, which does not see it."""
        try:
            head, buffers = head_of(self._kept.get(self._dispatcher.file_key(task)))
            self._dispatcher.send(rank, messages.value(self._number, request_id, head), buffers)
        except (KeyError, ValueUnavailable):
            self._dispatcher.send(rank, messages.not_found(self._number, request_id))

    def on_not_found(self, request_id: int) -> ValueLost:
        """A rank does not have the value that it was asked for."""
        task, source = self._kept_values.pop(request_id)
        self._to_bring[task] = None
        return ValueLost(task, (source,))

    def on_value(self, request_id: int, payload: Payload) -> int | None:
        """A value has come; return the task whose value lies in a file now, None if it could not be written."""
        task, _ = self._kept_values.pop(request_id)
        try:
            self._kept.put((self._run, task), payload)
        except OSError as error:
            what = f"the value of {show(self._plan.ids[task])} could not be written to {self._kept}"
            print_message(f"{what}: {error}")
            return None
        return task
