"""The use of resources by a run, and the limit of its speed: two lines of its summary."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from handoff_mpi.formatting import counted, show
from handoff_mpi.results.records import RecordTable

#: A resource that was claimed for this share of the time is the limit itself.
_FULL = 0.8
#: A cause that takes this share of the time of a run is its limit.
_MAX_PROBLEMS = 0.5
#: The summary of a shorter run tells no limit.
_MIN_PLAUSIBLE_RUN_S = 0.1


@dataclass(slots=True)
class Usage:
    """How much of the time one resource was claimed.

    Attributes:
        amount: how much of it there is.
        name: "slot", "core", or as functions call it.
        share: 0 to 1.
    """

    amount: float
    name: str
    share: float

    def __str__(self) -> str:
        plural = "s" if self.name in ("slot", "core") and self.amount != 1 else ""
        return f"{100 * self.share:.0f} % of {self.amount:g} {self.name}{plural}"


@dataclass(slots=True)
class Chain:
    """The functions that the end of a run has waited for, each for the one before.

    Attributes:
        last: the id of the last one.
        length: how many there are.
        call_s: how long their calls took.
        wait_s: how long passed between the end of one and the begin of the next.
    """

    last: Hashable
    length: int
    call_s: float
    wait_s: float


def describe_use(
    table: RecordTable, slots: Mapping[int, int], capacity: Mapping[str, float], duration_s: float
) -> list[str]:
    """Return the lines; none if this launch made no calls, or the times of some are unknown.

    Args:
        table: of the run.
        slots: rank to number of slots.
        capacity: resource to how much of it the ranks have together; empty if that is not known.
        duration_s: of the run; 0 if it is not known.
    """
    busy = table.busy()
    if not (busy and table.knows_times):
        return []
    total, count = sum(busy.values()), sum(slots.values())
    line = f"  busy: calls on {counted(len(busy), 'rank')} took {total:.2f} s"
    if not duration_s or not count:
        return [line]
    usage = most_used(table, count, total, capacity, duration_s)
    shared = f", which {count} slots share" if usage.name == "core" and count > usage.amount else ""
    limit = find_limit(table, usage, total, duration_s)
    return [f"{line}: {usage}{shared}", *([f"  limited by {limit}"] if limit else [])]


def most_used(table: RecordTable, slots: int, busy_s: float, capacity: Mapping[str, float], duration_s: float) -> Usage:
    """Return the usage of the resource that was claimed for the largest share of the time, cores before slots."""
    usages = [Usage(slots, "slot", busy_s / (slots * duration_s))]
    for name, seconds in table.claimed().items():
        amount = capacity.get(name, 0)
        if amount:
            usages.insert(0, Usage(amount, "core" if name == "cpu" else name, seconds / (amount * duration_s)))
    usage = max(usages, key=lambda each: round(each.share, 3))
    usage.share = min(usage.share, 1.0)
    return usage


def find_limit(table: RecordTable, usage: Usage, busy_s: float, duration_s: float) -> str:
    """Return the limit of a run in words; empty if that is the most used resource, or unknown."""
    if usage.share >= _FULL or duration_s < _MIN_PLAUSIBLE_RUN_S:
        return ""
    called = table.called()
    chain = find_chain(table, called)
    if chain.call_s >= _MAX_PROBLEMS * duration_s:
        return _chain_text(chain)
    span_s = max(map(table.stopped, called)) - min(map(table.started.__getitem__, called))
    outside_s = duration_s - span_s
    if outside_s >= _MAX_PROBLEMS * duration_s:
        return f"the time before the first call and after the last: {outside_s:.2f} s"
    call_s, overhead_s = busy_s / len(called), (usage.amount * span_s - busy_s) / len(called)
    if usage.name in ("slot", "core") and call_s < overhead_s < 0.005:
        return (
            f"short calls: they take {1e6 * call_s:.0f} µs each, and their overhead is {1e6 * overhead_s:.0f} µs each"
        )
    if chain.length > 1 and chain.wait_s >= _MAX_PROBLEMS * duration_s:
        waits = f"waits: {chain.wait_s:.2f} s in which the chain of {chain.length:,} functions up to {show(chain.last)}"
        return f"{waits} waited for values or for a free slot"
    return ""


def _chain_text(chain: Chain) -> str:
    if chain.length == 1:
        return f"{show(chain.last)} alone: {chain.call_s:.2f} s"
    return f"a chain of {chain.length:,} functions, the last one {show(chain.last)}: {chain.call_s:.2f} s"


def find_chain(table: RecordTable, called: list[int]) -> Chain:
    """Return the chain that led to the call that ended last: to each the input that ended last, until one has none."""
    stopped = table.stopped
    task = max(called, key=stopped)
    chain = Chain(table.ids[task], 0, 0.0, 0.0)
    own = set(called)
    while chain.length <= len(called):
        chain.length += 1
        chain.call_s += table.durations[task]
        inputs = [each for each in table.inputs[task] if each in own]
        if not inputs:
            break
        before = max(inputs, key=stopped)
        chain.wait_s += max(0.0, table.started[task] - stopped(before))
        task = before
    return chain
