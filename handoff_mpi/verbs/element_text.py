"""The part of the answer of ``explain`` that tells of some elements of an array: as data, and in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from handoff_mpi.arrays.element_names import indices_text
from handoff_mpi.formatting import counted, one_line
from handoff_mpi.results.element_story import DONE, FAILED, ElementsTold
from handoff_mpi.verbs.reason_text import MAX_ID, MAX_REASON, shown_rank, traceback_lines

Facts = Mapping[str, Any]
#: So many groups are shown, and so many intervals of a group in a sentence.
MAX_GROUPS, _MAX_NAMED, _MAX_TRACEBACKS = 50, 5, 3


def element_facts(told: Sequence[ElementsTold], host_of: Mapping[int, Mapping[int, str]]) -> dict[str, Any]:
    """Return what is known of elements.

    Args:
        host_of: launch to rank to its host.
    """
    counts: dict[str, int] = {}
    for each in told:
        counts[each.state] = counts.get(each.state, 0) + len(each.elements)
    return {"counts": counts, "group_count": len(told), "groups": [_group(each, host_of) for each in told[:MAX_GROUPS]]}


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


_WORDS = {DONE: "done", FAILED: "failed", "open": "without a value"}


def _standing(group: Facts, array: str, is_running: bool) -> str:
    is_one = group["count"] == 1
    if group["state"] == DONE:
        return f"{'is' if is_one else 'are'} done: computed on {shown_rank(group)} in launch {group['launch']}"
    if group["state"] == FAILED:
        error = one_line(f"{group['kind']}: {group['message']}", MAX_REASON).rstrip(".")
        attempts = counted(group["attempts"], "attempt")
        where = f"the last one on {shown_rank(group)} in launch {group['launch']}"
        return f"{'has' if is_one else 'have'} failed after {attempts}, {where}: {error}"
    if array in ("failed", "skipped"):
        return f"{'was' if is_one else 'were'} not computed, because the array has {_ENDED[array]}"
    verb = "has" if is_one else "have"
    return f"{verb} no value yet" if is_running else f"{verb} no value: the launch ended before"


_ENDED = {"failed": "failed", "skipped": "been skipped"}
