"""How long a run takes in virtual time: a scheduler, ranks that end each call when its time is over, and no messages.

Nothing is random and nothing takes time but the calls, so a makespan can be compared with the ideal.
"""

from __future__ import annotations

import heapq

from handoff_mpi.allocation import FirstAvailable, Ledger
from handoff_mpi.messages import OK
from handoff_mpi.resources import Capability, Device
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.scheduler import Closed, Dispatch, Finished, Policy, RankLost, Retract, Retracted, Scheduler, Submitted
from handoff_mpi.serialization import PLAIN
from handoff_mpi.simulation import check


def amounts(**units):
    """Amounts in fixed point."""
    return {name: round(amount * UNIT) for name, amount in units.items()}


def hosts(*offers, ranks_a_host=1, slots=1, gpus=None, registered=None, job=None):
    """A ledger of hosts h0, h1, ..., each offering the amounts given; ranks are numbered from 1 through all hosts.

    Args:
        gpus: host number to how many devices it has.
        registered: rank to what is registered for it alone.
        job: pools of the whole job.
    """
    capabilities = []
    for number, offer in enumerate(offers):
        devices = tuple(Device(index, f"g{number}-{index}") for index in range((gpus or {}).get(number, 0)))
        for _ in range(ranks_a_host):
            rank = len(capabilities) + 1
            own = (registered or {}).get(rank, {})
            capabilities.append(Capability(rank, f"h{number}", dict(offer), devices, own))
    return Ledger(capabilities, {each.rank: slots for each in capabilities}, job)


class Timeline:
    """Runs tasks in virtual time.

    Attributes:
        began, ended: task to when its last attempt began and ended.
        now: the time.
    """

    def __init__(self, ledger, strategy=None, checked=False, **policy):
        policy.setdefault("heartbeat_timeout_s", float("inf"))
        self.scheduler = Scheduler(ledger, strategy or FirstAvailable(), Policy(**policy))
        self.seconds = []
        self.began = {}
        self.ended = {}
        self.now = 0.0
        self.turns = 0
        self._checked = checked
        self._lost = set()
        self._queued = {}  # (rank, slot) to what is there, the running call first
        self._events = []  # heap of (time, number, what, ...)
        self._count = 0

    def submit(self, *tasks, at=0.0):
        """Submit ``(spec, seconds)`` at a time."""
        self._at(at, "submit", tasks)
        return self

    def run(self, until=lambda: False):
        """Run until nothing is left, or until something is true; return when the last call ended."""
        while self._events and not until():
            self.now = self._events[0][0]
            events = []
            while self._events and self._events[0][0] <= self.now:
                _, _, what, *arguments = heapq.heappop(self._events)
                events += getattr(self, f"_{what}")(*arguments)
            self._turn(events)
        assert self._events or self.scheduler.slots.in_flight == 0
        return max(self.ended.values(), default=0.0)

    def tell(self, *events):
        """Tell the scheduler what happened, now."""
        for event in events:
            if isinstance(event, RankLost):
                self._lost.add(event.rank)
        self._turn(list(events))

    def _at(self, time, what, *arguments):
        self._count += 1
        heapq.heappush(self._events, (time, self._count, what, *arguments))

    def _submit(self, tasks):
        self.seconds += [seconds for _, seconds in tasks]
        is_last = not any(what == "submit" for _, _, what, *_ in self._events)
        return [Submitted([spec for spec, _ in tasks]), *([Closed()] if is_last else [])]

    def _end(self, place, task, attempt):
        if place[0] in self._lost:
            return []
        self.ended[task] = self.now
        queue = self._queued[place]
        assert queue.pop(0) == (task, attempt)
        if queue:
            self._begin(place)
        return [Finished(place[0], [(task, attempt, OK, (PLAIN, None), 8, self.now, self.seconds[task], False)])]

    def _wake(self):
        return []

    def _give_back(self, rank, tasks):
        back = []
        for task in tasks:
            for place, queue in self._queued.items():
                if place[0] == rank and tuple(task) in queue[1:]:
                    queue.remove(tuple(task))
                    back.append(tuple(task))
        return [Retracted(rank, back)] if back else []

    def _begin(self, place):
        task, attempt = self._queued[place][0]
        self.began[task] = self.now
        self._at(self.now + self.seconds[task], "end", place, task, attempt)

    def _turn(self, events):
        self.turns += 1
        commands = self.scheduler.handle(events, self.now)
        self.scheduler.tasks.take_log()
        if self._checked:
            check(self.scheduler)
        for command in commands:
            if isinstance(command, Dispatch):
                queue = self._queued.setdefault((command.rank, command.slot), [])
                was_empty = not queue
                queue += command.tasks
                if was_empty:
                    self._begin((command.rank, command.slot))
            elif isinstance(command, Retract):
                self._at(self.now, "give_back", command.rank, command.tasks)
        wakeup = self.scheduler.next_wakeup()
        if wakeup < float("inf") and self.scheduler.slots.in_flight:
            self._at(max(wakeup, self.now), "wake")
