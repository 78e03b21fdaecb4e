"""The part of the answer of ``explain`` that tells of some elements of an array: as data, and in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from handoff_mpi.arrays.element_names import indices_text
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.formatting import counted, duration_text, one_line
from handoff_mpi.results.element_story import DONE, FAILED, OPEN, ElementsTold
from handoff_mpi.verbs.reason_text import MAX_ID, MAX_REASON, shown_rank, traceback_lines

Facts = Mapping[str, Any]
#: The state of elements that an attempt has failed, or was lost, and that are to be tried again.
RETRY = "retry"
#: So many groups are shown, and so many intervals of a group in a sentence.
MAX_GROUPS, _MAX_NAMED, _MAX_TRACEBACKS = 50, 5, 3


def element_facts(
    told: Sequence[ElementsTold], host_of: Mapping[int, Mapping[int, str]], live: Facts | None
) -> dict[str, Any]:
    """Return what is known of elements.

    Args:
        host_of: launch to rank to its host.
        live: the answer of the run, which knows the elements that are to be tried again; None if there is none.
    """
    counts: dict[str, int] = {}
    groups: list[dict[str, Any]] = []
    for each in told:
        if each.state == OPEN and live is not None:
            groups += _retries(each.elements, live, host_of)
        if each.elements:
            groups.append(_group(each, host_of))
    for group in groups:
        counts[group["state"]] = counts.get(group["state"], 0) + group["count"]
    return {"counts": counts, "group_count": len(groups), "groups": groups[:MAX_GROUPS]}


def _retries(elements: IntervalSet, live: Facts, host_of: Mapping[int, Mapping[int, str]]) -> Iterator[dict[str, Any]]:
    """Take the elements that are to be tried again out of ``elements``; yield them in groups."""
    for retry in live.get("retries", ()):
        here = [part for start, stop in retry["elements"] for part in elements.within(start, stop)]
        for interval in here:
            elements.discard(*interval)
        if here:
            group = {"elements": here, "count": sum(stop - start for start, stop in here), "state": RETRY}
            group |= {name: retry[name] for name in ("attempt", "reason")}
            if "until_s" in retry:
                group["delay_s"] = retry["until_s"] - live["now_s"]
            if "rank" in retry:
                host = host_of.get(live["launch"], {}).get(retry["rank"], "")
                group |= {"launch": live["launch"], "rank": retry["rank"], "host": host}
            yield group


def _group(each: ElementsTold, host_of: Mapping[int, Mapping[int, str]]) -> dict[str, Any]:
    group: dict[str, Any] = {
        "elements": [*iter(each.elements)],
        "count": len(each.elements),
        "state": each.state,
    }
    if each.launch >= 0:
        host = host_of.get(each.launch, {}).get(each.rank, "")
        group |= {"launch": each.launch, "rank": each.rank, "host": host}
    if each.state == FAILED:
        how = {"attempts": each.attempts, "kind": each.kind, "message": each.message, "traceback": each.traceback}
        group |= how
    return group


def element_lines(name: str, facts: Facts, array: str, is_running: bool) -> Iterator[str]:
    """Yield what is known of elements, in sentences.

    Args:
        name: of the elements, as the user wrote it.
        facts: of the elements.
        array: the state of the array.
        is_running: whether the run is.
    """
    count = sum(facts["counts"].values())
    if count != 1:
        parts = [f"{number:,} {_WORDS[state]}" for state, number in facts["counts"].items()]
        yield f"{one_line(name, MAX_ID)} are {counted(count, 'element')}: {', '.join(parts) or 'none'}."
    for group in facts["groups"]:
        subject = one_line(name, MAX_ID) if count == 1 else f"  {indices_text(group['elements'], _MAX_NAMED)}"
        yield f"{subject} {_standing(group, array, is_running)}."
    yield from _tracebacks(facts["groups"])
    left_out = facts["group_count"] - len(facts["groups"])
    if left_out > 0:
        yield f"  ({counted(left_out, 'other group')} left out)"


def _tracebacks(groups: Sequence[Facts]) -> Iterator[str]:
    """Yield the tracebacks of elements that failed, each once."""
    found = {group["traceback"]: group for group in reversed(groups) if group.get("traceback")}
    for traceback, group in islice(reversed(found.items()), _MAX_TRACEBACKS):
        which = indices_text(group["elements"], _MAX_NAMED)
        yield f"Traceback of element{'' if group['count'] == 1 else 's'} {which}:"
        yield from traceback_lines(traceback)


def failed_by_kind(told: Sequence[ElementsTold]) -> list[dict[str, Any]]:
    """Return the kinds of the failures of elements, the most frequent first, each with one message and traceback."""
    kinds: dict[str, tuple[ElementsTold, IntervalSet]] = {}
    for each in told:
        if each.state == FAILED:
            kinds.setdefault(each.kind, (each, IntervalSet()))[1].update(each.elements)
    groups = [
        {"kind": kind, "count": len(all), "elements": [*all], "message": first.message, "traceback": first.traceback}
        for kind, (first, all) in kinds.items()
    ]
    return sorted(groups, key=lambda group: -int(str(group["count"])))[:MAX_GROUPS]


def failed_kind_lines(kinds: Sequence[Facts]) -> Iterator[str]:
    """Yield which elements of an array failed, by kind, with a traceback of the first kinds."""
    for each in kinds:
        which = f"{counted(each['count'], 'element')} failed: {indices_text(each['elements'], _MAX_NAMED)}"
        yield f"{one_line(each['kind'], MAX_ID)}: {which}; the first one: {one_line(each['message'], MAX_REASON)}"
    first = [min(start for start, _ in each["elements"]) for each in kinds]
    alone = zip(kinds, first, strict=True)
    yield from _tracebacks([{**each, "elements": [(index, index + 1)], "count": 1} for each, index in alone])


_WORDS = {DONE: "done", FAILED: "failed", RETRY: "to be tried again", OPEN: "without a value"}


def _standing(group: Facts, array: str, is_running: bool) -> str:
    is_one = group["count"] == 1
    if group["state"] == DONE:
        return f"{'is' if is_one else 'are'} done: computed on {shown_rank(group)} in launch {group['launch']}"
    if group["state"] == FAILED:
        error = one_line(f"{group['kind']}: {group['message']}", MAX_REASON).rstrip(".")
        attempts = counted(group["attempts"], "attempt")
        where = f"the last one on {shown_rank(group)} in launch {group['launch']}"
        return f"{'has' if is_one else 'have'} failed after {attempts}, {where}: {error}"
    if group["state"] == RETRY:
        return _retry(group)
    if array == "skipped":
        return f"{'was' if is_one else 'were'} skipped, because what {'it takes' if is_one else 'they take'} has failed"
    if array == "failed":
        return f"{'was' if is_one else 'were'} not computed, because the array has failed"
    verb = "has" if is_one else "have"
    return f"{verb} no value yet" if is_running else f"{verb} no value: the launch ended before"


def _retry(group: Facts) -> str:
    """Return where elements stand that are to be tried again, and why."""
    one = group["count"] == 1
    reason = one_line(group["reason"], MAX_REASON).rstrip(".")
    why = f"attempt {group['attempt'] - 1} {f'failed ({reason})' if reason else 'was lost with its rank or device'}"
    if "rank" in group:
        return f"{'is' if one else 'are'} at {shown_rank(group)} for attempt {group['attempt']}: {why}"
    delay = f", {duration_text(group['delay_s'])} more (retry_delay)" if "delay_s" in group else ""
    return f"{'waits' if one else 'wait'} for attempt {group['attempt']}{delay}: {why}"
