"""Messages of rank 0 to ranks: each rank gets a code, a large constant and the name of an old file once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from typing import Any

from handoff_mpi import messages
from handoff_mpi.arrays.columns import Packed
from handoff_mpi.arrays.filed_columns import FiledColumn
from handoff_mpi.arrays.gathering import element_payload, list_payload, pairs_payload, slice_payload
from handoff_mpi.arrays.values import ArrayValues, SentColumns, ValuesToCome
from handoff_mpi.dag import Plan
from handoff_mpi.dag.selections import Selection
from handoff_mpi.errors import ValueUnavailable
from handoff_mpi.messages import (
    INLINE_RESULT_NBYTES,
    INSIST,
    ISOLATE,
    KEEP,
    KEEP_REMOTE,
    LEASE,
    Assignment,
    Buffers,
    Group,
    LeaseElements,
    Message,
)
from handoff_mpi.resources.amounts import GPU, UNIT
from handoff_mpi.results.store import Key, ResultStore
from handoff_mpi.runtime.coordinator_ports import SenderPort
from handoff_mpi.scheduler import Dispatch, Event, HomeValueLost, Scheduler, Unfetched
from handoff_mpi.scheduler.array_state import Lease
from handoff_mpi.serialization import Payload, encode, head_of, nbytes_of
from handoff_mpi.worker.broadcast_tree import REFERRED_NBYTES, BroadcastTree

#: So many payloads of arrays are kept, whether or not anybody will ask for them.
_MIN_PAYLOADS = 16


class _ValueLost(Exception):
    """The value of a task is not at rank 0 any more."""

    def __init__(self, task: int) -> None:
        super().__init__(task)
        self.task = task


class Dispatcher:
    """Carries messages to the ranks, and makes dispatches of the scheduler's placements.

    Args:
        transport: rank 0's end.
        scheduler: whose placements they are.
        plan: the run's tables.
        home: where values rest that came home.
        run, number: the run's name and number.
        lost: ranks that get no messages; see :class:`~handoff_mpi.membership.Membership`.

    Attributes:
        file_keys: of values that an earlier launch wrote.
        array_values: the values of arrays, by number.
        keep_column: takes a column of values, and whether it is one of a windowed array; returns it as it is kept: its
            memory may lie in a file.
    """

    def __init__(
        self,
        transport: SenderPort,
        scheduler: Scheduler,
        plan: Plan,
        home: ResultStore,
        run: str,
        number: int,
        lost: Collection[int],
    ) -> None:
        self.file_keys: dict[int, Key] = {}
        self.array_values: dict[int, ArrayValues] = {}
        self.keep_column: Callable[[Packed, bool], Packed | FiledColumn] = _as_it_is
        self._array_payloads: dict[int, Payload] = {}
        self._max_payloads = _MIN_PAYLOADS
        self._tree = BroadcastTree()
        self._transport = transport
        self._scheduler = scheduler
        self._plan = plan
        self._home = home
        self._run = run
        self._number = number
        self._lost = lost
        self._outbox: dict[int, list[Group]] = {}
        self._codes_at: dict[int, set[int]] = {}
        self._constants_at: dict[int, set[int]] = {}
        self._files_at: dict[int, set[int]] = {}

    def send(self, rank: int, message: Message, buffers: Buffers = ()) -> None:
        """Send a message, unless ``rank`` is lost."""
        if rank not in self._lost:
            self._transport.send(rank, message, buffers)

    def pack(self, command: Dispatch) -> list[Event]:
        """Put a placement into the next message to its rank; see :meth:`flush`.

        Returns what it could not be sent with: values that the user's store has lost here.
        """
        lost: list[Event] = []
        assignments = []
        for task, attempt in command.tasks:
            try:
                assignments.append(self._assignment(command.rank, task, attempt))
            except _ValueLost as error:
                lost += [HomeValueLost(error.task), Unfetched(command.rank, task, attempt, ())]
        claim = None
        if command.claim is not None:
            cores = command.claim.cost.amounts.get("cpu", 0) / UNIT
            claim = (cores, self._scheduler.ledger.claimed_devices(command.claim))
        self._outbox.setdefault(command.rank, []).append((command.slot, claim, assignments))
        return lost

    def _assignment(self, rank: int, task: int, attempt: int) -> Assignment:
        plan, scheduler = self._plan, self._scheduler
        spec = scheduler.specs[task]
        lease, elements = scheduler.arrays.leases.get(task), None
        flags = (KEEP if spec.keep else 0) | (KEEP_REMOTE if spec.stays else 0)
        if scheduler.is_isolated(task) or (GPU in spec.cost and scheduler.ledger.sees_several_devices(rank)):
            flags |= ISOLATE
        its = task  # the number of its tables
        if lease is not None:
            its, flags, elements = lease.array, flags | LEASE, self._elements(lease)
        sources = plan.sources[its] if lease is None else plan.sources_of(its, lease.first)
        if sources:
            sources = tuple([self._source(rank, number, codec) for number, codec in sources])
        return (task, attempt, plan.sent_id(its), plan.call_templates[its], sources, spec.timeout_s, flags, elements)

    def _elements(self, lease: Lease) -> LeaseElements:
        """Return the share of an array that a lease computes."""
        inputs = self._plan.arrays[lease.array].elements
        intervals = tuple(lease.intervals.intervals())

        def of(id: Hashable) -> SentColumns:
            if lease.follows >= 0:
                return ValuesToCome(lease.follows, self._scheduler.arrays.leases[lease.follows].first)
            return self.array_values[self._plan.number_of[id]]

        pieces: tuple[tuple[Any, ...], ...]
        pieces = tuple([tuple([each.piece_of(*interval, of) for each in inputs]) for interval in intervals])
        handles = self._plan.arrays[lease.array].handles
        if handles and lease.first in handles:
            sources = self._plan.sources_of(lease.array, lease.first)
            values = {position: sources.index((source, None)) for position, source in handles[lease.first]}
            pieces = (tuple([values.get(position, piece) for position, piece in enumerate(pieces[0])]),)
        return intervals, pieces, lease.incidents

    def _source(self, rank: int, number: int, codec: object) -> Any:
        scheduler = self._scheduler
        if scheduler.tasks.at_rank0[number]:
            if self.has_array(number):
                return self._array_source(rank, number, codec)
            try:
                payload: Payload = self._home.get((self._run, number))
            except (KeyError, ValueUnavailable):
                raise _ValueLost(number) from None
            return (number, codec, payload, ())
        if not scheduler.tasks.is_available(number):
            return (number, codec, None, (rank,))  # it is being made there, by what was sent before
        holders = scheduler.tasks.whom_to_ask(number, rank)
        if not holders and number in self.file_keys:
            self._tell_file(rank, number)
        return (number, codec, None, holders)

    def _array_source(self, rank: int, number: int, codec: Any) -> Any:
        """Return the list of the values of an array as a source: a large one is fetched from rank 0, beside calls."""
        payload = self._array_payload(number)
        if rank and codec is None and nbytes_of(payload) > INLINE_RESULT_NBYTES:
            return (number, codec, None, (0,))
        return (number, codec, (*payload[:2], *map(bytes, payload[2:])), ())

    def _array_payload(self, number: int) -> Payload:
        payload = self._array_payloads.get(number)
        if payload is None:
            selection = self._plan.selections.get(number)
            if selection is not None:
                payload = _payload_of(selection, self.array_values[selection.array])
            else:
                values, is_fold = self.array_values[number], self._plan.arrays[number].tree is not None
                payload = encode(values[values.count - 1]) if is_fold else list_payload(values)
            if selection is None or not isinstance(selection.elements, int):
                self._make_room_for_payload()
                self._array_payloads[number] = payload
        return payload

    def _make_room_for_payload(self) -> None:
        """Drop payloads that nobody will ask for, whenever there are twice as many as were left the last time."""
        if len(self._array_payloads) >= self._max_payloads:
            left = self._scheduler.tasks.consumers_left
            self._array_payloads = {each: kept for each, kept in self._array_payloads.items() if left[each]}
            self._max_payloads = max(_MIN_PAYLOADS, 2 * len(self._array_payloads))

    def has_array(self, number: int) -> bool:
        """Whether a number is that of an array, or of elements of one: rank 0 has their values."""
        return number in self.array_values or self._plan.selections.get(number) is not None

    def serve_array(self, rank: int, request_id: int, number: int, via: int) -> None:
        """Send values of an array to ``rank``; beyond a few ranks, refer it to one that has taken them from here.

        Args:
            via: of the request; see :func:`~handoff_mpi.messages.fetch`.
        """
        payload = self._array_payload(number)
        if (nbytes := nbytes_of(payload)) >= REFERRED_NBYTES:
            instead = None if via == INSIST else self._tree.instead(number, rank)
            if instead is not None and instead not in self._lost:
                self.send(rank, messages.redirect(self._number, request_id, instead, nbytes))
                return
            self._tree.note(number, rank)
        head, buffers = head_of(payload)
        self.send(rank, messages.value(self._number, request_id, head), buffers)

    def _tell_file(self, rank: int, task: int) -> None:
        known = self._files_at.setdefault(rank, set())
        if task not in known:
            known.add(task)
            self.send(rank, messages.files(self._number, [(task, self.file_keys[task])]))

    def flush(self) -> None:
        """Send what was packed, one message a rank."""
        for rank in list(self._outbox):
            self.flush_to(rank)

    def flush_to(self, rank: int) -> None:
        """Send what was packed for ``rank``."""
        groups = self._outbox.pop(rank, None)
        if groups is None:
            return
        codes_at = self._codes_at.setdefault(rank, set())
        codes, constants, before = [], [], None
        for _, _, assignments in groups:
            for _, _, _, call_template, _, _, _, _ in assignments:
                if call_template is before:  # neighbours mostly share it
                    continue
                before = call_template
                numbers, _, _, large, *_ = call_template
                for number in numbers:
                    if number not in codes_at:
                        codes_at.add(number)
                        codes.append((number, self._plan.codes[number]))
                constants += large
        for number in constants:
            self._send_constant(rank, number)
        self.send(rank, messages.dispatch(self._number, codes, groups))

    def _send_constant(self, rank: int, number: int) -> None:
        """Large constants go to a rank once, and beside the dispatch that first needs them."""
        known = self._constants_at.setdefault(rank, set())
        if number not in known:
            known.add(number)
            head, buffers = head_of(self._plan.constants[number])
            self.send(rank, messages.constant(self._number, number, head), buffers)

    def file_key(self, task: int) -> Key:
        """Return under which key the value of ``task`` is written, or was."""
        return self.file_keys.get(task, (self._run, task))

    def forget_old_file(self, task: int) -> None:
        """A value that an earlier launch had written was made again: should it be written, this run's key is its."""
        if self.file_keys and self.file_keys.pop(task, None) is not None:
            files = [(task, self.file_key(task))]
            for rank in [rank for rank, known in self._files_at.items() if task in known]:
                self.send(rank, messages.files(self._number, files))


def _as_it_is(packed: Packed, is_windowed: bool) -> Packed:
    return packed


def _payload_of(selection: Selection, values: ArrayValues) -> Payload:
    """Return the payload of what a function takes of an array."""
    elements = selection.elements
    if isinstance(elements, int):
        return element_payload(values, elements)
    return pairs_payload(values, elements) if selection.skips_missing else slice_payload(values, elements)
