"""Plans the faults of a simulated launch: each seed draws a few kinds of faults, so that all combinations come up.

A fault is an entry ``(time, name, arguments)``; the cluster has a method ``fault_<name>`` for each. Faults that go
with messages (they come twice, or late) have a probability instead, and cease at :attr:`Faults.until`.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from handoff_mpi.allocation import Ledger
from handoff_mpi.messages import CRITICAL, HIGH

#: Every kind, and how likely a launch has it.
KINDS = {
    "deaths": 0.25,  # ranks die, each at its own time
    "joint deaths": 0.1,  # several die at the same moment
    "host dies": 0.1,  # all ranks of a host do
    "one survives": 0.05,
    "none survives": 0.03,
    "stopped": 0.2,  # a process is stopped: it neither speaks nor listens, and a neighbour may end it
    "unresponsive": 0.25,  # a process is busy with a call that lets nothing else run, but lives
    "cut off": 0.15,  # a host cannot be reached for a while; its ranks live and talk to each other
    "resources": 0.15,  # a rank offers more or less from now on
    "repeats": 0.3,  # messages come twice, some much later
    "slow values": 0.3,  # large messages take seconds
    "lost values": 0.2,  # a rank's store loses a value it was believed to have
    "damaged files": 0.2,
    "refusals": 0.1,  # the user's tracker says no
    "slow rank 0": 0.3,  # what arrives gathers, and is absorbed at once
    "relaunch": 0.3,  # all ranks die, rank 0 too, and the run is launched again
    "torn journal": 0.1,  # they do, and the last second of the journal is lost
    "stop": 0.05,  # somebody wants it to stop
}
#: Only where a test asks for it: the run is launched again once elements that came are folded; or after it has ended,
#: unless all is done; and some ranks have no cores for a while.
LATE_RELAUNCH, RESUMED, WITHDRAWN = "late relaunch", "resumed", "withdrawn"
#: How likely memory is short on some ranks, or all, for a while, or for good.
PRESSURE = 0.25
#: How likely calls fail on some host, or on all but one, for a while, or for good; and how.
BAD_HOSTS = 0.2
_BAD_S = (3.0, 20.0, float("inf"))
_BAD_ENDS = ("raised", "raised", "killed")
#: Faults that have a probability cease after this many seconds.
UNTIL_S = 30.0
#: How long a rank does not respond, is stopped or is cut off.
_SILENCES_S = (1.0, 20.0, 36.0, 100.0)
#: Memory is short for so long.
_PRESSURES_S = (1.0, 10.0, 60.0, float("inf"))
_PRESSURES = ((HIGH,), (CRITICAL,), (HIGH, CRITICAL))


@dataclass(slots=True)
class Faults:
    """The faults of one launch.

    Attributes:
        kinds: those that were drawn.
        entries: (time, name, arguments).
        until: when those cease that have a probability.
        harmed: ranks to which more happens than that they do not respond.
        unresponsive: ranks that will not respond for a while.
        bad: host to (since when, until when, how likely, how) calls fail there.
    """

    kinds: set[str] = field(default_factory=set)
    entries: list[tuple[float, str, tuple[object, ...]]] = field(default_factory=list)
    until: float = 0.0
    harmed: set[int] = field(default_factory=set)
    unresponsive: set[int] = field(default_factory=set)
    bad: dict[str, tuple[float, float, float, str]] = field(default_factory=dict)


class _Planner:
    """Draws the faults of a launch that starts at ``start``."""

    def __init__(
        self, rng: random.Random, ledger: Ledger, start: float, may_relaunch: bool, always: Collection[str]
    ) -> None:
        self.rng = rng
        self.start = start
        self.workers = [rank for rank in sorted(ledger.rank_states) if rank]  # rank 0 dies in relaunches alone
        self.hosts: dict[str, list[int]] = defaultdict(list)
        for rank in self.workers:
            self.hosts[ledger.rank_states[rank].host].append(rank)
        kinds = {kind for kind, likelihood in KINDS.items() if rng.random() < likelihood or kind in always}
        if not may_relaunch:
            kinds -= {"relaunch", "torn journal"}
        self.faults = Faults(kinds, until=start + UNTIL_S)

    def plan(self) -> Faults:
        for kind in KINDS:
            if kind in self.faults.kinds and kind in _PLANS:
                _PLANS[kind](self)
        return self.faults

    def time(self) -> float:
        return self.start + self.rng.expovariate(0.5)

    def add(self, name: str, *arguments: object, at: float | None = None) -> None:
        self.faults.entries.append((self.time() if at is None else at, name, arguments))

    def some(self) -> list[int]:
        return self.rng.sample(self.workers, self.rng.randint(1, max(1, len(self.workers) // 2)))

    def kill(self, ranks: list[int], at: float | None = None) -> None:
        self.faults.harmed.update(ranks)
        for rank in ranks:
            self.add("death", rank, at=at)

    def deaths(self) -> None:
        self.kill(self.some())

    def joint_deaths(self) -> None:
        self.kill(self.some(), self.time())

    def host_dies(self) -> None:
        self.kill(self.hosts[self.rng.choice(list(self.hosts))], self.time())

    def one_survives(self) -> None:
        self.kill(self.rng.sample(self.workers, len(self.workers) - 1), self.rng.choice((None, self.time())))

    def none_survives(self) -> None:
        self.kill(self.workers, self.rng.choice((None, self.time())))

    def stopped(self) -> None:
        ranks = self.some()
        self.faults.harmed.update(ranks)
        for rank in ranks:
            self.add("stopped", rank, self.rng.choice(_SILENCES_S))

    def grow_unresponsive(self) -> None:
        ranks = self.some()
        self.faults.unresponsive.update(ranks)
        for rank in ranks:
            self.add("unresponsive", rank, self.rng.choice(_SILENCES_S))

    def cut_off(self) -> None:
        host = self.rng.choice(list(self.hosts))
        if host != "h0":  # rank 0 lives there
            self.faults.harmed.update(self.hosts[host])
            self.add("cut_off", host, self.rng.choice(_SILENCES_S))

    def resources(self) -> None:
        for rank in self.some():
            self.add("resources", rank)

    def lose_values(self) -> None:
        for rank in self.some() * 3:
            self.add("lost_value", rank)

    def damage_files(self) -> None:
        for _ in range(12):
            self.add("damaged_file")

    def relaunch(self) -> None:
        self.add("relaunch", "torn journal" in self.faults.kinds)

    def stop(self) -> None:
        self.add("stop")


_PLANS: dict[str, Callable[[_Planner], None]] = {
    "deaths": _Planner.deaths,
    "joint deaths": _Planner.joint_deaths,
    "host dies": _Planner.host_dies,
    "one survives": _Planner.one_survives,
    "none survives": _Planner.none_survives,
    "stopped": _Planner.stopped,
    "unresponsive": _Planner.grow_unresponsive,
    "cut off": _Planner.cut_off,
    "resources": _Planner.resources,
    "lost values": _Planner.lose_values,
    "damaged files": _Planner.damage_files,
    "relaunch": _Planner.relaunch,
    "stop": _Planner.stop,
}


def plan_faults(
    rng: random.Random,
    ledger: Ledger,
    start: float,
    may_relaunch: bool,
    may_press: bool = True,
    may_be_bad: bool = True,
    always: Collection[str] = (),
) -> Faults:
    """Return the random faults of a launch on the ranks of ``ledger``, those of the kinds ``always`` among them."""
    pressure_rng = random.Random(f"pressure {rng.getstate()}")  # what else a seed draws does not hang on them
    faults = _Planner(rng, ledger, start, may_relaunch, always).plan()
    if may_relaunch:
        faults.kinds.update({LATE_RELAUNCH, RESUMED}.intersection(always))
    if WITHDRAWN in always:
        _withdraw(random.Random(f"withdrawn {pressure_rng.getstate()}"), sorted(ledger.rank_states), start, faults)
    if may_press and (pressure_rng.random() < PRESSURE or "pressure" in always):
        _press(pressure_rng, sorted(ledger.rank_states), start, faults)
    bad_rng = random.Random(f"bad {pressure_rng.getstate()}")
    if may_be_bad and (bad_rng.random() < BAD_HOSTS or "bad host" in always):
        _spoil(bad_rng, sorted({rank_state.host for rank_state in ledger.rank_states.values()}), start, faults)
    return faults


def _withdraw(rng: random.Random, ranks: list[int], start: float, faults: Faults) -> None:
    for rank in rng.sample(ranks, len(ranks) // 2):
        for _ in range(rng.choice((1, 4))):
            faults.entries.append((start + 6 * rng.random(), "withdrawn", (rank, rng.choice((0.1, 1.0, 5.0)))))


def _spoil(rng: random.Random, hosts: list[str], start: float, faults: Faults) -> None:
    faults.kinds.add("bad host")
    count = rng.choice((1, 1, max(1, len(hosts) - 1)))
    since = start + rng.choice((0.0, 0.0, rng.expovariate(0.5)))
    for host in rng.sample(hosts, count):
        until = since + rng.choice(_BAD_S)
        faults.bad[host] = (since, until, rng.choice((1.0, 1.0, 0.5)), rng.choice(_BAD_ENDS))


def _press(rng: random.Random, ranks: list[int], start: float, faults: Faults) -> None:
    faults.kinds.add("pressure")
    levels = rng.choice(_PRESSURES)
    seconds, can_spill = rng.choice(_PRESSURES_S), rng.random() < 0.8
    for rank in rng.choice((ranks, rng.sample(ranks, rng.randint(1, len(ranks))))):
        time = start + rng.choice((0.0, rng.expovariate(0.5)))
        faults.entries.append((time, "pressure", (rank, seconds, levels, can_spill)))
