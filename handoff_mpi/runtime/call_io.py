"""The border between the calls of a rank and its machine: inputs go in, and results and answers come out."""

from __future__ import annotations

from collections import deque
from collections.abc import Container

from handoff_mpi import messages
from handoff_mpi.messages import INLINE_RESULT_NBYTES, KEEP, KEEP_REMOTE, RAISED, ErrorReport
from handoff_mpi.runtime.worker_ports import SendPort, ValuesPort
from handoff_mpi.serialization import Payload, head_of
from handoff_mpi.worker.call_spec import Outcome
from handoff_mpi.worker.events import Ended, Event, InputMissing, QueuedCall, Serve


class CallIO:
    """Gathers the inputs of calls, stores results that outlast the run, and notes what the machine must learn.

    Args:
        transport: sends values to ranks that have asked for them.
        values: those of the rank.
        held: the tasks whose values are in the store.
        run: the number of the run, part of every message.

    Attributes:
        events: what the machine has not learnt yet; who runs calls adds to them, also during a turn. The reactor takes
            them, and leaves an empty list.
        updates: (rank, its resources from now on, as the user gave them) that rank 0 has not heard of yet; any thread
            may append one.
    """

    def __init__(self, transport: SendPort, values: ValuesPort, held: Container[int], run: int) -> None:
        self.events: list[Event] = []
        self.updates: deque[tuple[int, dict[str, object]]] = deque()
        self._transport = transport
        self._values = values
        self._held = held
        self._run = run

    # -- inputs -------------------------------------------------------------------------------------

    def gather(self, work: QueuedCall) -> bool:
        """Have a call get the values that it takes; return False if one is unavailable, of which the machine learns.

        Who has called, or sent them on, takes them out again: they may be large.
        """
        if work.sources:
            values = self._inputs(work)
            if values is None:
                return False
            work.values = values
        return True

    def _inputs(self, work: QueuedCall) -> list[tuple[Payload, object, int]] | None:
        values: list[tuple[Payload, object, int]] = []
        for task, codec, payload, _ in work.sources:
            if payload is None and (task, codec) in work.fetched:
                payload, source = work.fetched[task, codec]
                values.append((payload, codec, source))
                continue
            if payload is None:
                payload = self.value(task)
                if payload is None:
                    self.events.append(InputMissing(work, task))
                    return None
            values.append((payload, codec, -1))
        return values

    def value(self, task: int) -> Payload | None:
        """Return a value that is held here or lies in a file; None if it is unavailable."""
        return self._values.get(task, task in self._held)

    # -- results ------------------------------------------------------------------------------------

    def end(self, work: QueuedCall, outcome: Outcome, started: float) -> None:
        """A call has ended: store its result if that outlasts the run, and only then note the end."""
        nbytes = outcome.nbytes
        is_persisted = False
        if nbytes > INLINE_RESULT_NBYTES or (work.flags & KEEP_REMOTE and outcome.payload is not None):
            is_persisted, outcome = self._persist(work, outcome, nbytes)
        self.events.append(Ended(work, outcome, nbytes, started, is_persisted))

    def _persist(self, work: QueuedCall, outcome: Outcome, nbytes: int) -> tuple[bool, Outcome]:
        """Write a result that stays here, if it must or had better be in a file; return whether it is, and the outcome.

        A call whose result cannot be written although it must outlast the run has failed.
        """
        values, payload = self._values, outcome.payload
        if payload is None or not values.sees_files:
            return False, outcome
        if not work.flags & KEEP:
            is_worth = values.is_worth_writing(nbytes, outcome.duration)
            return is_worth and values.checkpoint(work.task, payload, nbytes), outcome
        problem = values.write(work.task, payload, nbytes)
        if problem:
            error = ErrorReport("OSError", f"its result {problem}")
            return False, Outcome(RAISED, None, error, outcome.duration)
        return True, outcome

    def note(self, event: Event) -> None:
        """Have the machine learn of ``event``."""
        self.events.append(event)

    def update(self, rank: int, amounts: dict[str, object]) -> None:
        """Have rank 0 hear that ``rank`` has these resources, at the next turn; from any thread."""
        self.updates.append((rank, amounts))

    # -- answers ------------------------------------------------------------------------------------

    def answer(self, command: Serve, outcome: Outcome | None) -> None:
        """Send a value to a rank that asked for it, or why it could not be encoded; None if it is unavailable."""
        if outcome is None or outcome.payload is None:
            reason = None if outcome is None else (outcome.status, outcome.error)
            self._transport.send(command.dest, messages.not_found(self._run, command.request_id, reason))
        else:
            head, buffers = head_of(outcome.payload)
            self._transport.send(command.dest, messages.value(self._run, command.request_id, head), buffers)
