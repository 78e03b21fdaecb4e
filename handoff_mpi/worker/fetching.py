"""Values that a rank needs from others: whom it asks, who refers it on, and who waits for them here. Pure.

A rank asks one that rank 0 named for a value, then the next, until one has it. One that is asked by many refers most
of them to those it has served (:mod:`handoff_mpi.worker.broadcast_tree`), which may wait for the value themselves: then
a rank that asks waits there, and is served once the value has come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from handoff_mpi import messages
from handoff_mpi.messages import DIRECT, INLINE_RESULT_NBYTES, INSIST, ISOLATE, Buffers, Message
from handoff_mpi.serialization import nbytes_of
from handoff_mpi.worker.broadcast_tree import BroadcastTree
from handoff_mpi.worker.events import QueuedCall, Serve
from handoff_mpi.worker.held_values import HeldValues
from handoff_mpi.worker.outbox import Outbox

#: ``source`` of a fetch before any holder was asked.
NOBODY = -3
#: After this many failed redirects, a holder must send the value itself.
MAX_MISLED = 2
#: A limit of consecutive redirects that exceeds the depth of any broadcast tree.
MAX_HOPS = 32
#: The time that the target of a redirect has to answer, plus the transfer time at this rate: it may wait for the value
#: itself, or be in a call that blocks its rank. After that the rank that sent the redirect is asked as well.
REFERRAL_S = 1.0
REFERRAL_NBYTES_PER_S = 20e6
#: Rank 0 receives a report of an encoding that takes longer than this: the user's code may never return.
LONG_ENCODING_S = 1.0
_NEVER = float("inf")


@dataclass(slots=True, eq=False)
class Fetch:
    """A value in transit.

    Attributes:
        holders: ranks that may still be asked.
        asked: those of the holders named by rank 0 that were asked.
        works: the queued calls that wait for it.
        limit_s: how long the holder may encode it, in a child process; None where the holder may do so itself.
        request_id: of the last request; ``request_ids`` are all that may be answered.
        source: who was asked last, or NOBODY.
        since: when, in seconds.
        is_referred: whether another rank referred to the source.
        hops: how often it was referred on since a named holder was asked.
        misled: how often a redirect failed.
        nbytes: how large the value is, if that is known.
        askers: ranks that wait until the value is here, with their request ids.
        is_reported: whether rank 0 knows that its encoding takes long.
    """

    task: int
    codec: object
    holders: list[int]
    asked: list[int]
    works: list[QueuedCall]
    limit_s: float | None = None
    request_id: int = -1
    request_ids: list[int] = field(default_factory=list)
    source: int = NOBODY
    since: float = 0.0
    is_referred: bool = False
    hops: int = 0
    misled: int = 0
    nbytes: int = 0
    askers: list[tuple[int, int]] = field(default_factory=list)
    is_reported: bool = False

    @property
    def key(self) -> tuple[int, object, float | None]:
        """The key of a fetch: a limit that ends one must not end the others."""
        return self.task, self.codec, self.limit_s


class Fetches:
    """The values in transit to one rank, and the ranks that ask it for one.

    What becomes of the work that waits is not decided here: fetches that have ended are returned.

    Args:
        rank: its own.
        run: number of the run, part of every message.
        outbox: takes the commands.
        held_values: what the rank holds; values that came as they were made are held from then on.
        broadcast_tree: who took values from here.
        referred_nbytes: smaller values are sent to each rank that asks.
        tells_transfers: whether rank 0 receives a report of each fetched value.

    Attributes:
        awaited: the fetches that have not ended, by key.
        doubts: request id of a referred request to when to ask elsewhere as well, in seconds.
        deferred: fetches that wait for memory, in order: no holder was asked yet.
        next_report: when to look for encodings that take long, in seconds.
    """

    def __init__(
        self,
        rank: int,
        run: int,
        outbox: Outbox,
        held_values: HeldValues,
        broadcast_tree: BroadcastTree,
        referred_nbytes: int,
        tells_transfers: bool,
    ) -> None:
        self.doubts: dict[int, float] = {}
        self.deferred: deque[Fetch] = deque()
        self.next_report = _NEVER
        self._rank = rank
        self._run = run
        self._outbox = outbox
        self._held_values = held_values
        self._broadcast_tree = broadcast_tree
        self._referred_nbytes = referred_nbytes
        self._tells_transfers = tells_transfers
        self.awaited: dict[tuple[int, object, float | None], Fetch] = {}
        self._request_ids: dict[int, Fetch] = {}
        self._next_request_id = 0
        self._lost: set[int] = set()

    # -- whom to ask --------------------------------------------------------------------------------

    def join(self, work: QueuedCall, task: int, codec: object, holders: Sequence[int]) -> list[Fetch]:
        """Let ``work`` wait for a value; return the fetch if it has failed at once."""
        limit_s = None if codec is None else _encoding_limit_s(work)
        fetch = self.awaited.get((task, codec, limit_s))
        if fetch is not None:
            fetch.works.append(work)
            return []
        self._lost.difference_update(holders)  # rank 0 names none that is lost, so they are back
        fetch = Fetch(task, codec, [rank for rank in holders if rank != self._rank], [], [work], limit_s)
        has_room = not self.deferred and self._has_room()
        self.awaited[fetch.key] = fetch
        if not has_room:
            self.deferred.append(fetch)
            return []
        return self._ask_next(fetch)

    def resume(self) -> list[Fetch]:
        """Ask for values that had to wait for memory, while there is room; return the fetches that end with it."""
        ended = []
        while self.deferred and (not self.deferred[0].works or self._has_room()):
            fetch = self.deferred.popleft()
            if fetch.works:
                ended += self._ask_next(fetch)
            else:  # no call waits for it any more
                self._end(fetch)
        return ended

    def _has_room(self) -> bool:
        """Whether one more value may come beside those that were asked for. One at a time always may.

        Its size is not known yet: the rank expects it to be as large as the largest value so far.
        """
        asked = len(self.awaited) - len(self.deferred)
        budget = self._held_values.budget
        return not asked or self._held_values.reserve(
            (asked + 1) * budget.largest_nbytes - budget.arriving_nbytes, keeps_wanted=True
        )

    def leave(self, work: QueuedCall) -> None:
        """``work`` waits for nothing any more."""
        for fetch in self.awaited.values():
            if work in fetch.works:
                fetch.works.remove(work)

    def _ask_next(self, fetch: Fetch) -> list[Fetch]:
        """Ask another holder; return the fetch if there is none left.

        Who was asked does not have the value, so neither will those who wait for it here.
        """
        self._close_request_ids(fetch)
        self._turn_away(fetch)
        if fetch.holders:
            self._ask_holder(fetch)
            return []
        self._end(fetch)
        return [fetch]

    def _ask_holder(self, fetch: Fetch) -> None:
        holder = fetch.holders.pop(0)
        if holder not in fetch.asked:
            fetch.asked.append(holder)
        fetch.is_referred = False
        fetch.hops = 0
        self._ask(fetch, holder, INSIST if fetch.misled >= MAX_MISLED else DIRECT)

    def _ask(self, fetch: Fetch, rank: int, via: int) -> None:
        fetch.source = rank
        fetch.since = self._outbox.now
        fetch.request_id = self._next_request_id
        fetch.request_ids.append(fetch.request_id)
        self._next_request_id += 1
        self._request_ids[fetch.request_id] = fetch
        if fetch.codec is not None:
            self.next_report = min(self.next_report, self._outbox.now + LONG_ENCODING_S)
        about = fetch.task, fetch.codec, (), via, fetch.limit_s
        self._outbox.send(rank, messages.fetch(self._run, fetch.request_id, *about))

    def _close_request_ids(self, fetch: Fetch) -> None:
        for request_id in fetch.request_ids:
            self._request_ids.pop(request_id, None)
            self.doubts.pop(request_id, None)
        fetch.request_ids.clear()

    def _turn_away(self, fetch: Fetch) -> None:
        """Let those who wait here look elsewhere.

        They must not wait any longer once another rank is asked: it might wait for one of them. As it is, a
        rank waits only for one that has the value, or that waits for the very rank that referred to it.
        """
        if fetch.askers:
            self._broadcast_tree.forget(fetch.task)
        for rank, request_id in fetch.askers:
            self._outbox.send(rank, messages.not_found(self._run, request_id))
        fetch.askers.clear()

    # -- what they answer ---------------------------------------------------------------------------

    def on_value(self, source: int, request_id: int, head: Message, buffers: Buffers = ()) -> Fetch | None:
        """A value has come: ranks that wait for it are served; return its fetch, unless that has ended before."""
        fetch = self._request_ids.get(request_id)
        if fetch is None:
            return None
        self._end(fetch)
        payload = (*head, *buffers)
        if self._tells_transfers:
            transfer = (fetch.task, source, nbytes_of(payload), self._outbox.now - fetch.since)
            self._outbox.tell(messages.transferred(self._run, [transfer]))
        if fetch.codec is None:
            self._held_values.put_copy(fetch.task, payload, max(nbytes_of(payload), INLINE_RESULT_NBYTES))
        else:
            self._held_values.budget.take(nbytes_of(payload))
        for rank, request_id in fetch.askers:
            self._outbox.commands.append(Serve(rank, request_id, fetch.task, None, ()))
        for work in fetch.works:
            if fetch.codec is None:
                self._held_values.want(work, fetch.task)
            else:
                work.fetched[fetch.task, fetch.codec] = (payload, source)
        return fetch

    def on_not_found(self, request_id: int, reason: object) -> list[Fetch]:
        """A rank that was asked does not have the value; return the fetch if that ends it.

        With a reason the value is there, but cannot be encoded: others would fare no better.
        """
        fetch = self._asked_with(request_id)
        if fetch is None:
            return []
        if reason is None:
            return self._seek_elsewhere(fetch)
        self._end(fetch)
        return [fetch]

    def on_redirect(self, source: int, request_id: int, rank: int, nbytes: int) -> list[Fetch]:
        """A rank that was asked refers to another rank; return the fetch if that ends it."""
        fetch = self._asked_with(request_id)
        if fetch is None:
            return []
        if not fetch.is_referred:
            fetch.holders.insert(0, source)  # it has the value, and is asked again if this fails
        fetch.is_referred = True
        fetch.hops += 1
        fetch.nbytes = max(fetch.nbytes, nbytes)
        if rank in self._lost or rank == self._rank or fetch.hops > MAX_HOPS:
            return self._seek_elsewhere(fetch)
        self._close_request_ids(fetch)
        self._ask(fetch, rank, source)
        self.doubts[fetch.request_id] = self._outbox.now + REFERRAL_S + fetch.nbytes / REFERRAL_NBYTES_PER_S
        return []

    def look_at_referrals(self) -> None:
        """After a long wait for a rank it was referred to, this rank asks the referring rank again."""
        for request_id in [request_id for request_id, until in self.doubts.items() if until <= self._outbox.now]:
            del self.doubts[request_id]
            fetch = self._request_ids[request_id]
            if fetch.holders:
                fetch.misled = MAX_MISLED
                self._ask_holder(fetch)

    def report_encodings(self) -> None:
        """Tell rank 0 which calls wait for an encoding that takes long."""
        now, self.next_report = self._outbox.now, _NEVER
        reports = []
        for fetch in self.awaited.values():
            if fetch.codec is None or fetch.source == NOBODY or fetch.is_reported:
                continue
            if now - fetch.since < LONG_ENCODING_S:
                self.next_report = min(self.next_report, fetch.since + LONG_ENCODING_S)
                continue
            fetch.is_reported = True
            reports += [(work.task, work.attempt, fetch.task, fetch.source, fetch.since) for work in fetch.works]
        if reports:
            self._outbox.tell(messages.encoding(self._run, reports))

    def lose(self, rank: int) -> list[Fetch]:
        """``rank`` is lost; return the fetches that end with it."""
        self._lost.add(rank)
        self._broadcast_tree.lose(rank)
        ended = []
        for fetch in list(self.awaited.values()):
            fetch.holders = [holder for holder in fetch.holders if holder != rank]
            fetch.askers = [(asker, request_id) for asker, request_id in fetch.askers if asker != rank]
            if fetch.source == rank:
                ended += self._seek_elsewhere(fetch)
        return ended

    def _asked_with(self, request_id: int) -> Fetch | None:
        """Return the fetch whose last request this was; None if somebody else was asked meanwhile."""
        fetch = self._request_ids.get(request_id)
        return fetch if fetch is not None and fetch.request_id == request_id else None

    def _seek_elsewhere(self, fetch: Fetch) -> list[Fetch]:
        fetch.misled += fetch.is_referred
        return self._ask_next(fetch)

    def _end(self, fetch: Fetch) -> None:
        self._close_request_ids(fetch)
        del self.awaited[fetch.key]

    # -- who asks here ------------------------------------------------------------------------------

    def on_fetch(
        self,
        source: int,
        request_id: int,
        task: int,
        codec: object,
        codes: Sequence[tuple[int, bytes]],
        via: int,
        limit_s: float | None,
    ) -> None:
        """``source`` asks for a value: it is served, referred, has to wait until the value is here, or is sent away."""
        self._lost.discard(source)
        if task in self._held_values.held:
            if not self._refers(source, request_id, task, codec, via):
                self._held_values.read((task,))
                self._outbox.commands.append(Serve(source, request_id, task, codec, codes, limit_s))
            return
        fetch = self.awaited.get((task, codec, None))
        if fetch is None or fetch.source != via:
            self._outbox.send(source, messages.not_found(self._run, request_id))
        elif not self._refers(source, request_id, task, codec, via):
            fetch.askers.append((source, request_id))

    def _refers(self, source: int, request_id: int, task: int, codec: object, via: int) -> bool:
        """Refer who asks for a value to another that took it from here; whether that was done."""
        nbytes = self._held_values.held.get(task, 0)
        if codec is not None or 0 < nbytes < self._referred_nbytes:
            return False
        instead = None if via == INSIST else self._broadcast_tree.instead(task, source)
        if instead is None:
            self._broadcast_tree.note(task, source)
            return False
        self._outbox.send(source, messages.redirect(self._run, request_id, instead, nbytes))
        return True


def _encoding_limit_s(work: QueuedCall) -> float | None:
    """Return how long a holder may encode an input of ``work``; None if that need not be in a child process.

    An encoding is part of the call that it is for: it has the timeout of that call, and kills no rank where that call
    must not.
    """
    if work.timeout_s is not None:
        return work.timeout_s
    return _NEVER if work.flags & ISOLATE else None
