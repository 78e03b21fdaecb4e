"""Tells why a task is not running: a look at the scheduler's tables that changes nothing in them.

The answer is plain data. In one process another thread may ask while the tables change. Then a look may fail with a
RuntimeError, and the caller repeats it; or it may mix two moments, which is good enough for people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from handoff_mpi.allocation import PROBATION, Claim, Ledger, RequestClass, ResourceGroup
from handoff_mpi.allocation.pools import Pool
from handoff_mpi.allocation.resource_groups import SLOT
from handoff_mpi.dag.open_inputs import find_open_inputs
from handoff_mpi.resources.amounts import GPU, GPU_MEMORY, UNIT, format_amounts, plain_number
from handoff_mpi.scheduler.array_explanation import element_counts, is_at_rank, retries_of
from handoff_mpi.scheduler.arrays import Arrays
from handoff_mpi.scheduler.durations import Durations
from handoff_mpi.scheduler.lifecycle import DISPATCHED, DONE, FAILED, READY, WAITING, State
from handoff_mpi.scheduler.policy import Policy
from handoff_mpi.scheduler.probation import Probation
from handoff_mpi.scheduler.queues import ReadyQueue, hold_key
from handoff_mpi.scheduler.ready import ReadyTasks
from handoff_mpi.scheduler.refusals import Refusals
from handoff_mpi.scheduler.slots import SlotTable
from handoff_mpi.scheduler.tasks import TaskTable

#: So many inputs, groups of ranks, and claims on a resource are named; all are counted.
MAX_INPUTS, MAX_PLACES, MAX_CLAIMS = 20, 8, 3
#: Why a group of ranks does not run a task, those first that say most.
ROOM, RESERVED, BUSY, WITHHELD, AVOIDED, TOO_SMALL = "room", "reserved", "busy", "cordoned", "avoided", "too small"
_ORDER = (ROOM, RESERVED, BUSY, WITHHELD, AVOIDED, TOO_SMALL)

Facts = dict[str, object]


@dataclass(slots=True)
class Explainer:
    """Explains tasks of one scheduler.

    Args:
        ledger, tasks, ready, slots, policy, durations, refusals, probation, arrays: the scheduler's parts.
        stopping: why the run is being stopped; empty if it is not.
        now: the time of the last turn, in seconds.
        label: returns how a task is called in the answer.
    """

    ledger: Ledger
    tasks: TaskTable
    ready: ReadyTasks
    slots: SlotTable
    policy: Policy
    durations: Durations
    refusals: Refusals
    probation: Probation
    arrays: Arrays
    stopping: str
    now: float
    label: Callable[[int], str]

    def explain(self, task: int) -> Facts:
        """Return where a task stands, and the reasons why it does not run, each with its cause."""
        state = self.tasks.state[task]
        facts: Facts = {**self.standing(task), "attempts": self.tasks.attempts[task], "now_s": self.now, "reasons": []}
        if state == WAITING or (state == READY and self._waits_for_elements(task)):
            facts |= {"state": "waiting", "reasons": [*self._stopping(), self._inputs(task)]}
        elif state == READY:
            facts["reasons"] = self._why_ready(task)
        elif state == DISPATCHED:
            facts["reasons"] = self._why_at_rank(task)
        elif state == DONE:
            facts["value"] = self._value(task)
        return facts | self._array(task) if task in self.arrays.of else facts

    def _array(self, task: int) -> Facts:
        """Return where the elements of an array stand; while a rank has any, nothing else need be explained."""
        array = self.arrays.of[task]
        again = retries_of(array, self.arrays, self.tasks, self.ready, self.slots)
        facts: Facts = {"elements": element_counts(array, self.arrays, self.tasks), **again}
        if is_at_rank(array, self.tasks):
            paused = self._paused(task)
            facts |= {"state": "running", "reasons": [] if paused is None else [paused]}
        elif self.tasks.state[task] == READY and array.leases and not array.todo:
            # Its last elements wait for functions, or to be tried again: what holds one group of them stands for all.
            first = min(list(array.leases), key=lambda lease: (self.tasks.state[lease] != READY, lease))
            told = self.explain(first)
            facts |= {"state": told["state"], "reasons": told["reasons"]}
        return facts

    def standing(self, task: int) -> Facts:
        """Return the state of a task; of one that is at a rank, where and since when."""
        state = self.tasks.state[task]
        facts: Facts = {"id": self.label(task), "state": State(state).name.lower()}
        slot = self.slots.of_task.get(task)
        if state == DISPATCHED and slot is not None:
            facts |= {"rank": slot.rank, "host": self._host(slot.rank), "since_s": slot.since}
            is_first = bool(slot.tasks) and slot.tasks[0] == task
            facts["state"] = "running" if is_first and not self.tasks.lost_inputs(task) else "at rank"
        elif state == FAILED:
            failure = self.tasks.failures[task]
            facts["error"] = f"{failure.kind}: {failure.message}"
        elif state in (WAITING, READY) and task in self.arrays.of:
            array = self.arrays.of[task]
            facts["elements"] = {"count": array.count, "done": array.done}
            facts["state"] = "running" if is_at_rank(array, self.tasks) else facts["state"]
        return facts

    def _host(self, rank: int) -> str:
        rank_state = self.ledger.rank_states.get(rank)
        return "" if rank_state is None else rank_state.host

    def _value(self, task: int) -> Facts:
        tasks = self.tasks
        holders = list(tasks.holders.get(task, ()))
        return {
            "at_rank_0": bool(tasks.at_rank0[task]),
            "in_file": task in tasks.persisted,
            "ranks": holders[:MAX_INPUTS],
        }

    # -- inputs -----------------------------------------------------------------------------------------

    def _stopping(self) -> list[Facts]:
        return [{"cause": "stopping", "why": self.stopping}] if self.stopping else []

    def _waits_for_elements(self, task: int) -> bool:
        """Whether a READY array has elements that wait for those of others, and no elements to lease."""
        array = self.tasks.specs[task].array
        is_linked = array is not None and bool(array.links)
        return is_linked and task in self.ready.exhausted and self._paused(task) is None

    def _inputs(self, task: int) -> Facts:
        """Return the inputs that are open, and the chains from them to tasks that wait for no input."""
        tasks = self.tasks
        found = find_open_inputs(task, lambda each: tasks.specs[each].needs, lambda each: not tasks.is_available(each))
        missing = [each for each in tasks.specs[task].needs if not tasks.is_available(each)]
        return {
            "cause": "inputs",
            "inputs": [self.standing(each) for each in missing[:MAX_INPUTS]],
            "input_count": len(missing),
            "upstream": found.count,
            "is_all": found.is_all,
            "root_count": found.roots,
            "chains": [[self.standing(each) for each in chain] for chain in found.chains],
            "roots": [self._root(chain[-1]) for chain in found.chains],
        }

    def _root(self, task: int) -> Facts:
        """Return where a task stands that waits for no input, and why it does not run."""
        standing = self.standing(task)
        reasons = self._why_ready(task) if standing["state"] == "ready" else []
        return {**standing, "reasons": reasons}

    # -- at a rank --------------------------------------------------------------------------------------

    def _why_at_rank(self, task: int) -> list[Facts]:
        """Return what a task waits for at its rank; nothing if it runs."""
        slot = self.slots.of_task.get(task)
        if slot is None:
            return []
        reasons: list[Facts] = []
        ahead = slot.tasks.index(task)
        missing = self.tasks.lost_inputs(task)
        if missing:
            inputs = [self.standing(each) for each in missing[:MAX_INPUTS]]
            reasons.append({"cause": "sent ahead", "inputs": inputs, "input_count": len(missing)})
        if ahead:
            reasons.append({"cause": "behind", "ahead": ahead, "first": self.standing(slot.tasks[0])})
        return reasons

    # -- ready ------------------------------------------------------------------------------------------

    def _why_ready(self, task: int) -> list[Facts]:
        set_aside = next((found for looks in _SET_ASIDE if (found := looks(self, task)) is not None), None)
        if set_aside is not None:
            return [*self._stopping(), set_aside]
        queue = next((queue for queue in list(self.ready.every_queue()) if task in queue.tasks), None)
        if queue is None:
            return [*self._stopping(), {"cause": "unknown"}]
        return [*self._stopping(), *self._limits(task), *self._room(queue), self._place_in_queue(queue, task)]

    def _paused(self, task: int) -> Facts | None:
        number = self.arrays.task_of(task)
        if number not in self.arrays.pauses.paused or task not in self.ready.exhausted:
            return None
        array = self.arrays.of[number]
        if task == number and not array.todo:
            return None
        return {
            "cause": "paused",
            "failed": array.failed,
            "in_doubt": array.doubted,
            "max_failures": array.spec.max_failures,
        }

    def _undecided(self, task: int) -> Facts | None:
        failure = self.ready.undecided.get(task)
        if failure is None:
            return None
        why = f"{failure.error.kind}: {failure.error.message}"
        return {"cause": "undecided", "rank": failure.rank, "host": self._host(failure.rank), "error": why}

    def _delay(self, task: int) -> Facts | None:
        until_s = self.ready.deferred.get(task)
        if until_s is None:
            return None
        return {"cause": "delay", "until_s": until_s, "of_elements": task in self.arrays.leases}

    def _tracker(self, task: int) -> Facts | None:
        key = hold_key(self.tasks.specs[task])
        hold, waiting = self.refusals.holds.get(key), self.ready.held.get(key, ())
        if hold is None or not (task in waiting or task in hold.offered):
            return None
        facts: Facts = {"cause": "tracker", "rank": hold.rank, "host": self._host(hold.rank), "reason": hold.reason}
        return {**facts, "since_s": hold.since, "next_s": hold.until, "waiting": len(waiting) + len(hold.offered)}

    def _group(self, task: int) -> Facts | None:
        leader = self.ready.groups.leader_before(task)
        return None if leader is None else {"cause": "group", "leader": self.standing(leader)}

    def _limits(self, task: int) -> Iterator[Facts]:
        """Yield what the user's options forbid now."""
        most, claimed = self.policy.max_concurrency, self.slots.claimed
        if most is not None and claimed >= most:
            yield {"cause": "max_concurrency", "limit": most, "claimed": claimed}
        mean_s = self.durations.known_s(task)
        if mean_s is not None and self.now + mean_s > self.policy.stop_at:
            yield {"cause": "deadline", "mean_s": mean_s, "stop_at_s": self.policy.stop_at}

    def _place_in_queue(self, queue: ReadyQueue, task: int) -> Facts:
        """Return how many ready tasks come before this one, and how many of them need the same."""
        ahead = own = tuple(queue.tasks).index(task)
        for other in list(self.ready.every_queue()):
            if other is queue or other.priority < queue.priority:
                continue
            is_more_urgent = other.priority > queue.priority
            ahead += len(other.tasks) if is_more_urgent else sum(each < task for each in tuple(other.tasks))
        facts = {"cause": "queue", "ahead": ahead, "ahead_alike": own, "priority": queue.priority}
        return {**facts, "skips": queue.skips, "max_skips": queue.max_skips}

    # -- room -------------------------------------------------------------------------------------------

    def _room(self, queue: ReadyQueue) -> Iterator[Facts]:
        """Yield what is missing on which ranks, and what is kept for whom."""
        cost = queue.cost
        if cost.rank is not None or cost.host is not None:
            yield {"cause": "bound", "rank": cost.rank, "host": cost.host}
        if cost.plain is not None:
            yield {"cause": "avoids", "rank": cost.avoid, "hosts": sorted(cost.avoid_hosts)[:MAX_PLACES]}
        if queue.reservation is not None:
            group = queue.reservation.group
            yield {"cause": "reservation", "host": None if group is None else group.host}
        for pool, amount in cost.job:
            if pool.free < amount:
                claims = list(self._claims_on(pool, self.ledger.groups))
                yield {"cause": "job resource", **self._missing(pool.name, amount, pool.free, pool.capacity, claims)}
        if not self.ledger.has_job_room(cost) and all(pool.free >= amount for pool, amount in cost.job):
            kept = [each for each in self.ledger.reservations.all if each.binds(cost)]
            yield {"cause": "job resource kept", "kept_for": [self.label(each.order[1]) for each in kept[:MAX_CLAIMS]]}
        yield self._places(cost)

    def _places(self, cost: RequestClass) -> Facts:
        """Return why each group of ranks does not run a task of this class: all are counted, and a few described."""
        counts = dict.fromkeys(_ORDER, 0)
        described: dict[str, list[Facts]] = {why: [] for why in _ORDER}
        for group in list(self.ledger.groups):
            if not group.rank_states or not self._may_run(cost, group):
                continue
            why = self._why_not(cost, group)
            counts[why] += 1
            if len(described[why]) < MAX_PLACES:
                described[why].append(self._describe(cost, group, why))
        places = [each for why in _ORDER for each in described[why]][:MAX_PLACES]
        total = sum(counts.values())
        return {
            "cause": "places",
            "needs": format_amounts(cost.amounts),
            "total": total,
            "counts": counts,
            "places": places,
        }

    def _may_run(self, cost: RequestClass, group: ResourceGroup) -> bool:
        return cost.host in (None, group.host) and (cost.rank is None or cost.rank in group.rank_states)

    def _why_not(self, cost: RequestClass, group: ResourceGroup) -> str:
        rank_states = [
            rank_state
            for rank, rank_state in list(group.rank_states.items())
            if cost.rank in (None, rank) and rank_state.slots
        ]
        if not rank_states or not group.offers(cost):
            return TOO_SMALL
        if all(rank_state.is_cordoned for rank_state in rank_states):
            return WITHHELD
        if group.host in cost.avoid_hosts or all(
            rank_state.rank == cost.avoid or rank_state.is_cordoned for rank_state in rank_states
        ):
            return AVOIDED
        if group.lacks(cost):
            return BUSY
        if group.fits(cost):
            return ROOM
        return RESERVED if any(each.binds(cost) for each in group.reservations) else AVOIDED

    def _describe(self, cost: RequestClass, group: ResourceGroup, why: str) -> Facts:
        ranks = sorted(group.rank_states) if cost.rank is None else [cost.rank]
        facts: Facts = {"why": why, "host": group.host, "ranks": ranks[:MAX_INPUTS], "rank_count": len(ranks)}
        if why == TOO_SMALL:
            facts["missing"] = [
                {"name": name, "wanted": plain_number(amount), "total": self._offered(group, name)}
                for name, amount in cost.need.items()
                if plain_number(amount) > self._offered(group, name) and name not in cost.held_by_job
            ]
        elif why == BUSY:
            facts["missing"] = [self._lack(cost, group, name) for name in group.lacks(cost)]
        elif why == WITHHELD:
            facts["cordoned"] = self._cordoned(ranks)
        elif why == RESERVED:
            kept = [each for each in group.reservations if each.binds(cost)]
            facts["kept_for"] = [self.label(each.order[1]) for each in kept[:MAX_CLAIMS]]
        elif cost.avoid in group.rank_states and group.host not in cost.avoid_hosts:
            facts["avoided_rank"] = cost.avoid
            facts["others_run"] = self._run_beside(group, cost.avoid)
        return facts

    def _run_beside(self, group: ResourceGroup, avoided: int) -> list[str]:
        """Return which tasks the ranks of a group run, except the one that is avoided."""
        slots = [slot for rank in group.rank_states if rank != avoided for slot in self.slots.of_rank.get(rank, ())]
        return list(dict.fromkeys(self.label(slot.tasks[0]) for slot in slots if slot.tasks))[:MAX_CLAIMS]

    def _offered(self, group: ResourceGroup, name: str) -> float:
        if name == GPU_MEMORY:
            return plain_number(group.max_device_memory())
        return group.offered_amounts().get(name, 0)

    def _cordoned(self, ranks: Iterable[int]) -> dict[str, str]:
        """Return why ranks are offered nothing, each reason with what is known of it."""
        reasons: dict[str, str] = {}
        for rank in ranks:
            for why in list(self.ledger.cordoned.get(rank, ())):
                reasons.setdefault(why, "")
                term = self.probation.of_rank.get(rank)
                if why == PROBATION and term is not None:
                    reasons[why] = term.reason
        return reasons

    # -- who has claimed it -----------------------------------------------------------------------------

    def _lack(self, cost: RequestClass, group: ResourceGroup, name: str) -> Facts:
        """Return how much of a resource is missing in a group of ranks, and who has claimed it."""
        groups = self.ledger.groups
        if name == SLOT:
            rank_states = [
                rank_state for rank, rank_state in list(group.rank_states.items()) if cost.rank in (None, rank)
            ]
            claims = [
                (claim, UNIT) for rank_state in rank_states for claim in list(rank_state.claims) if claim is not None
            ]
            return self._missing("slot", UNIT, 0, UNIT * sum(rank_state.slots for rank_state in rank_states), claims)
        if name == GPU:
            assert group.devices is not None
            free, visible = group.devices.free, set(group.visible)
            sharing = [groups[number] for number in group.devices.groups]
            claims = [
                (claim, amount)
                for claim in _claims(sharing)
                if (amount := sum(part for uuid, part in claim.devices if uuid in visible))
            ]
            return self._missing(name, cost.gpu, sum(free[uuid] for uuid in visible), UNIT * len(visible), claims)
        pool = group.pools[name]
        claims = list(self._claims_on(pool, [groups[number] for number in pool.groups]))
        return self._missing(name, dict(cost.pool_amounts)[name], pool.free, pool.capacity, claims)

    def _claims_on(self, pool: Pool, groups: Iterable[ResourceGroup]) -> Iterator[tuple[Claim, int]]:
        for claim in _claims(groups):
            amount = sum(amount for drawn, amount in claim.draws if drawn is pool)
            if amount:
                yield claim, amount

    def _missing(self, name: str, wanted: int, free: int, total: int, claims: list[tuple[Claim, int]]) -> Facts:
        claims.sort(key=lambda each: (-each[1], each[0].rank, each[0].slot))
        return {
            "name": name,
            "wanted": plain_number(wanted),
            "free": plain_number(max(0, free)),
            "total": plain_number(total),
            "claim_count": len(claims),
            "claims": list(self._claimants(claims)),
        }

    def _claimants(self, claims: Iterable[tuple[Claim, int]]) -> Iterator[Facts]:
        """Yield who has the first claims; the leases of an array are one claimant, with how many these are."""
        found: dict[int, list[tuple[Claim, int]]] = {}
        for claim, amount in claims:
            slot = self.slots.of_rank[claim.rank][claim.slot]
            task = self.arrays.task_of(slot.tasks[0]) if slot.tasks else -1 - len(found)
            if task in found or len(found) < MAX_CLAIMS:
                found.setdefault(task, []).append((claim, amount))
        for task, own in found.items():
            claim = own[0][0]
            slot = self.slots.of_rank[claim.rank][claim.slot]
            holder = {"id": self.label(slot.tasks[0]), "since_s": slot.since} if slot.tasks else {"id": None}
            leases = {"leases": len(own)} if task in self.arrays.of else {}
            yield {**holder, **leases, "amount": plain_number(sum(part for _, part in own)), "rank": claim.rank}


def _claims(groups: Iterable[ResourceGroup]) -> Iterator[Claim]:
    for group in groups:
        for rank_state in list(group.rank_states.values()):
            yield from filter(None, list(rank_state.claims))


#: Tasks that are READY and in no queue: each look returns why, or None.
_SET_ASIDE = (
    Explainer._paused,
    Explainer._undecided,
    Explainer._delay,
    Explainer._tracker,
    Explainer._group,
)
