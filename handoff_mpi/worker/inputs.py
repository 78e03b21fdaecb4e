"""The inputs that queued calls of a rank wait for: large constants, values made here, and those of other ranks. Pure.

A call whose input is unavailable goes back to rank 0, and with it the calls that wait for its value. Calls that may
run once something has come are returned: when they run is the machine's affair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from handoff_mpi import messages
from handoff_mpi.arrays.columns import Packed, count_of, filled, lease_to_take_from
from handoff_mpi.messages import Attempt, Buffers, ErrorReport, Message
from handoff_mpi.serialization import Payload
from handoff_mpi.worker.events import QueuedCall
from handoff_mpi.worker.fetching import Fetch, Fetches
from handoff_mpi.worker.held_values import HeldValues
from handoff_mpi.worker.outbox import Outbox
from handoff_mpi.worker.slots import Slots


class Inputs:
    """The inputs that the calls of one rank wait for.

    Args:
        rank: its own.
        run: number of the run, part of every message.
        outbox: takes the commands.
        slots: the calls.
        held_values: what the rank holds.
        fetches: what is on its way here.
        reads_files: whether the rank sees the files where values were written; else rank 0 is asked for those.
    """

    def __init__(
        self,
        rank: int,
        run: int,
        outbox: Outbox,
        slots: Slots,
        held_values: HeldValues,
        fetches: Fetches,
        reads_files: bool,
    ) -> None:
        self._rank = rank
        self._run = run
        self._outbox = outbox
        self._slots = slots
        self._held_values = held_values
        self._held = held_values.held
        self._fetches = fetches
        self._reads_files = reads_files
        self._constants: set[int] = set()
        self._waiting_for_constant: dict[int, list[QueuedCall]] = {}

    # -- what is wanted -------------------------------------------------------------------------------

    def want_held(self, work: QueuedCall, constants: Sequence[int]) -> bool:
        """Want the ``constants`` of ``work`` and its inputs that are held; return whether those are all its inputs."""
        for number in constants:
            if number not in self._constants:
                work.waiting += 1
                self._waiting_for_constant.setdefault(number, []).append(work)
        is_complete = True
        for task, _, payload, _ in work.sources:
            if payload is not None:
                continue
            if task in self._held:
                self._held_values.want(work, task)
            else:
                is_complete = False
        return is_complete

    def want_missing(self, work: QueuedCall) -> None:
        """Ask for the inputs of ``work`` that are not held, or wait for those that are made here."""
        for task, codec, payload, holders in work.sources:
            if payload is not None or task in self._held:
                continue
            if not work.is_here:
                return  # handed back: an earlier input is unavailable
            if holders == (self._rank,):
                self._follow(work, task, codec)
            elif holders:
                self._fetch(work, task, codec, holders)
            elif not self._reads_files:
                self._fetch(work, task, None, (0,))

    def _fetch(self, work: QueuedCall, task: int, codec: object, holders: Sequence[int]) -> None:
        work.waiting += 1
        self.give_up(self._fetches.join(work, task, codec, holders))

    def _follow(self, work: QueuedCall, task: int, codec: object) -> None:
        """``work`` takes a value that is made here: it may wait for it, or come too late for it."""
        maker, payload = self._slots.latest[work.slot] or (-1, ())
        if task in self._slots.here:
            followers = self._slots.followers.setdefault(task, [])
            if work not in followers:
                work.waiting += 1
                followers.append(work)
        elif maker == task:
            work.fetched[task, codec] = (payload, -1)
        else:
            self._hand_back(work, task, (self._rank,))

    def follow_lease(self, work: QueuedCall) -> None:
        """``work`` is a lease: if it takes the values of one that was sent with it, it waits for that."""
        assert work.elements is not None
        _, (row, *_), _ = work.elements
        lease = max([lease_to_take_from(piece) for piece in row if type(piece) is tuple], default=-1)
        if lease in self._slots.here:
            work.waiting += 1
            self._slots.followers.setdefault(lease, []).append(work)
        elif lease >= 0:
            self.give_back([work])

    # -- what has come --------------------------------------------------------------------------------

    def constant_has_come(self, number: int) -> list[QueuedCall]:
        """A large constant is here; return the calls that waited for it."""
        self._constants.add(number)
        return self._waiting_for_constant.pop(number, [])

    def value_has_come(self, source: int, request_id: int, head: Message, buffers: Buffers) -> list[QueuedCall] | None:
        """A value has come; return the calls that waited for it, None if it is not awaited any more."""
        fetch = self._fetches.on_value(source, request_id, head, buffers)
        return None if fetch is None else fetch.works

    def supply(self, maker: QueuedCall, payload: Payload) -> list[QueuedCall]:
        """``maker`` has ended well; return the calls that waited for its value."""
        followers = [work for work in self._slots.followers.pop(maker.task) if work.is_here]
        for work in followers:
            for task, codec, _, _ in work.sources:
                if task == maker.task and task in self._held:
                    self._held_values.want(work, task)
                elif task == maker.task:
                    work.fetched[task, codec] = (payload, -1)
        return followers

    def supply_elements(self, maker: QueuedCall, column: Packed) -> list[QueuedCall]:
        """``maker`` is a lease that has ended with these values; return the leases that waited for them.

        They go back, and none is returned, if an element has no value.
        """
        assert maker.elements is not None
        columns = (*maker.columns, column)
        if sum(map(count_of, columns)) < sum(stop - start for start, stop in maker.elements[0]):
            self.leave_followers(maker.task)
            return []
        followers = [work for work in self._slots.followers.pop(maker.task) if work.is_here]
        for work in followers:
            assert work.elements is not None
            intervals, pieces, tries = work.elements
            work.elements = (
                intervals,
                tuple([tuple([filled(piece, columns) for piece in row]) for row in pieces]),
                tries,
            )
        return followers

    # -- what does not come ---------------------------------------------------------------------------

    def not_found(self, request_id: int, reason: tuple[int, Message] | None) -> None:
        """A rank that was asked for a value does not have it, or could not encode it."""
        ended = self._fetches.on_not_found(request_id, reason)
        if reason is None:
            self.give_up(ended)
            return
        status, error = reason
        for fetch in ended:
            for work in fetch.works:
                self._fail(work, fetch, status, ErrorReport(*error))

    def _fail(self, work: QueuedCall, fetch: Fetch, status: int, error: ErrorReport) -> None:
        """An input of ``work`` could not be encoded, which is part of its call: so that call has ended."""
        if self._slots.remove(work):
            self._abandon(work)
            sources = [(task, codec) for task, codec, *_ in work.sources]
            error = error._replace(input=sources.index((fetch.task, fetch.codec)))
            since = fetch.since
            self._outbox.note((work.task, work.attempt, status, error, 0, since, self._outbox.now - since, False))
            self.leave_followers(work.task)

    def give_up(self, fetches: Iterable[Fetch]) -> None:
        """These have failed: hand back the calls that wait for them."""
        for fetch in fetches:
            for work in fetch.works:
                self._hand_back(work, fetch.task, fetch.asked or [self._rank])

    def _hand_back(self, work: QueuedCall, task: int, asked: Sequence[int]) -> None:
        if self._slots.remove(work):
            self._abandon(work)
            missing = [(task, list(asked))]
            self._outbox.tell(messages.input_unavailable(self._run, work.task, work.attempt, missing))
            self.leave_followers(work.task)

    def leave_followers(self, task: int) -> None:
        """``task`` has failed here: calls that wait for its value go back, once rank 0 knows why."""
        followers = self._slots.followers.pop(task, None)
        if followers:
            if self._outbox.done:
                self._outbox.flush()
            self.give_back(followers)

    def give_back(self, works: list[QueuedCall]) -> None:
        """Give back what waits, and what waits for its values."""
        returned: list[Attempt] = []
        for work in works:
            if self._slots.remove(work):
                self._abandon(work)
                returned.append((work.task, work.attempt))
                works += self._slots.followers.pop(work.task, ())
        if returned:
            self._outbox.tell(messages.retracted(self._run, returned))

    def _abandon(self, work: QueuedCall) -> None:
        """``work`` has left its queue without having run: nothing is wanted for it any more."""
        self._fetches.leave(work)
        for works in self._waiting_for_constant.values():
            if work in works:
                works.remove(work)
        self._held_values.unwant(work)
