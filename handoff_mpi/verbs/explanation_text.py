"""The sentences of ``explain``, made of what :mod:`handoff_mpi.verbs.explanation` tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from handoff_mpi.arrays.element_names import indices_text
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.formatting import (
    call_time_text,
    counted,
    duration_text,
    moment_text,
    one_line,
    shell_word,
)
from handoff_mpi.resources.amounts import format_nbytes
from handoff_mpi.results.function_story import IN_FILE, IN_JOURNAL, LOST
from handoff_mpi.verbs.reason_text import (
    MAX_ID,
    MAX_REASON,
    listed,
    missing_inputs,
    reason_lines,
    shown_id,
    shown_rank,
    standing,
    traceback_lines,
)

Facts = Mapping[str, Any]
_MAX_ATTEMPTS, _MAX_INPUTS, _MAX_RETRIES = 20, 5, 10
_LEASES = "parts of the array that were sent to a rank at once"
#: What is said of a function that has not ended, by its state.
_LIVE = {
    "waiting": "waits for its inputs",
    "ready": "is ready, and waits for a rank",
    "at rank": "has been sent to",
    "running": "is running on",
}
_OUTCOMES = {
    "done": "it returned",
    "failed": "it failed",
    "timed out": "it exceeded its time limit",
    "died": "its process died",
    "rank lost": "its rank was lost",
    "cut off": "it was cut off with the launch",
    "running": "it is running",
}


def explanation_lines(facts: Facts) -> Iterator[str]:
    """Yield what was found out about a function, in sentences."""
    yield f"{_live_head(facts) or _head(facts)}."
    yield _about(facts)
    if facts["namesakes"] > 1:
        yield f"{facts['namesakes']} functions are written {shown_id(facts)}; this is the first of them."
    if facts["live"] is not None:
        yield from _elements(facts["live"])
        yield from reason_lines(facts["live"])
    else:
        yield from _waiting(facts)
    if facts["elements"] is None:
        yield from _attempts(facts)
    else:
        yield from _shares(facts["elements"], bool(facts["live"] and facts["live"].get("elements", {}).get("leases")))
    yield from _output(facts)
    yield from _value(facts)
    yield from _again(facts["again"], facts["run"])
    if facts["elements"] is None:
        yield from _placement(facts["placement"])
    yield from _failure(facts["failure"])
    for note in facts["notes"]:
        yield f"Note: {one_line(note, MAX_REASON)}"


# -- what it is ----------------------------------------------------------------------------------------


def _head(facts: Facts) -> str:
    state, failure = facts["state"], facts["failure"]
    if state == "failed":
        why = "" if failure is None else f": {one_line(failure['kind'] + ': ' + failure['message'], MAX_REASON)}"
        return f"{shown_id(facts)} has failed{why.rstrip('.')}"
    if state == "skipped":
        elements = facts["elements"]
        if elements is not None and elements["done"]:
            return f"Some elements of {shown_id(facts)} were skipped, because what they take has failed"
        return f"{shown_id(facts)} was skipped, because a function that it depends on has failed"
    if state == "running":
        return f"{shown_id(facts)} is running"
    if state == "done" and facts["is_outdated"]:
        why = "--rerun has replaced what its value was made of"
        return f"{shown_id(facts)} was done, and runs again in the next launch that holds it: {why}"
    if state == "done":
        return f"{shown_id(facts)} is done"
    run = facts["run"]
    if run["state"] == "running":
        return f"{shown_id(facts)} has not started"
    why = f": {one_line(run['stopped_because'], MAX_REASON)}" if run["stopped_because"] else ""
    ended = f"launch {run['launch']} ended ({one_line(run['state'], MAX_ID)})"
    if facts["elements"] is not None and facts["elements"]["done"]:
        return f"{shown_id(facts)} is not done: {ended} before all its elements were{why}"
    if facts["attempts"] and facts["attempts"][-1]["outcome"] == "cut off":
        return f"{shown_id(facts)} is not done: {ended} while it ran{why}"
    return f"{shown_id(facts)} has not run: {ended} before it could{why}"


def _live_head(facts: Facts) -> str:
    """Return where a function stands now, as rank 0 has answered; empty if it has not."""
    live = facts["live"]
    if live is None or live["state"] not in _LIVE:
        return ""
    since = f" for {duration_text(live['time_s'] - live['since_s'])}" if "since_s" in live else ""
    if live["state"] == "running" and "elements" in live:
        return f"{shown_id(facts)} is running"
    where = f" {shown_rank(live)}" if live.get("rank") is not None else ""
    return f"{shown_id(facts)} {_LIVE[live['state']]}{where}{since}"


def _about(facts: Facts) -> str:
    cost = ", ".join(f"{one_line(str(name), 80)}={amount}" for name, amount in facts["cost"].items()) or "nothing"
    calls = f"It calls {one_line(str(facts['name']), MAX_ID)} and costs {cost}"
    if facts["is_left_out"]:
        return f"{calls}. The DAG of launch {facts['run']['launch']} does not hold it."
    if not facts["input_count"]:
        return f"{calls}. It takes the values of no other function."
    live = facts["live"]
    missing = (facts["waits_for"] or {}).get("input_count")
    tells_missing = missing if live is None else any(each["cause"] == "inputs" for each in live["reasons"])
    takes = f"{calls}. It takes the values of {counted(facts['input_count'], 'function')}"
    done = facts["inputs_done_count"]
    if not tells_missing:
        return f"{takes}: {listed(facts['inputs'][:_MAX_INPUTS], facts['input_count'])}."
    if not done:
        return f"{takes}: {listed(facts['inputs'], 1)}." if facts["input_count"] == 1 else f"{takes}."
    shown = listed(facts["inputs_done"][:_MAX_INPUTS], done)
    return f"{takes}; {done:,} of them {'is' if done == 1 else 'are'} done: {shown}."


def _shares(elements: Facts, is_explained: bool) -> Iterator[str]:
    """Yield how far an array has come by its journal, and which ranks computed it.

    Args:
        is_explained: whether a sentence before this one says what a lease is.
    """
    if elements["count"]:
        yield f"The journal has values of {elements['done']:,} of its {counted(elements['count'], 'element')}."
    if elements["shares"]:
        busiest = sorted(elements["ranks"].items(), key=lambda each: -each[1])
        where = ", ".join(f"{shares:,} on rank {rank}" for rank, shares in busiest[:_MAX_INPUTS])
        more = f" and others on {len(busiest) - _MAX_INPUTS} more ranks" if len(busiest) > _MAX_INPUTS else ""
        took = duration_text(elements["busy_s"])
        leases = counted(elements["shares"], "lease") + ("" if is_explained else f" ({_LEASES})")
        yield f"Ranks computed them in {leases}, {took} in all: {where}{more}."


def _elements(live: Facts) -> Iterator[str]:
    """Yield how far an array has come."""
    elements = live.get("elements")
    if elements is not None and elements["count"]:  # of an array with a window that is not known before any came
        names = {"failed": "failed", "skipped": "are skipped", "waiting": "wait"}
        others = [f"{elements[name]:,} {words}" for name, words in names.items() if elements[name]]
        done = f"{elements['done']:,} of {elements['count']:,} elements are done"
        leases = f"; ranks have {counted(elements['leases'], 'lease')} ({_LEASES})" if elements["leases"] else ""
        yield f"{', '.join([done, *others])}{leases}."
        again = live.get("retry_count", 0)
        if again:
            which = [(start, stop) for each in live["retries"] for start, stop in each["elements"]]
            shown = indices_text(IntervalSet(which), _MAX_RETRIES)
            yield f"{counted(again, 'element')} {'needs' if again == 1 else 'need'} another attempt: {shown}."


# -- what it waits for ---------------------------------------------------------------------------------


def _waiting(facts: Facts) -> Iterator[str]:
    waits = facts["waits_for"]
    if waits is None:
        return
    if facts["state"] == "skipped":
        yield from _skipped(waits)
    elif not waits["input_count"]:
        yield from ["All its inputs are made."] if facts["input_count"] else []
    else:
        yield from missing_inputs(waits)


def _skipped(waits: Facts) -> Iterator[str]:
    for each in waits["failed"]:
        yield f"{shown_id(each)} has failed: {one_line(each['reason'], MAX_REASON) or 'the reason is not recorded'}."
    for chain in waits["chains"]:
        if len(chain) > 1:
            yield f"  {' <- '.join(map(standing, chain))}"


# -- what it did ---------------------------------------------------------------------------------------


def _attempts(facts: Facts) -> Iterator[str]:
    attempts = facts["attempts"]
    if not attempts:
        yield "It was never called."
        return
    yield f"It was called {'once' if len(attempts) == 1 else f'{len(attempts):,} times'}:"
    left_out = len(attempts) - _MAX_ATTEMPTS
    if left_out > 0:
        yield f"  ({counted(left_out, 'earlier call')} left out; --json tells them)"
    for each in attempts[-_MAX_ATTEMPTS:]:
        yield f"  {_attempt(each)}"


def _attempt(each: Facts) -> str:
    about = "from about" if each["is_derived"] else "from"
    lasted = "" if each["outcome"] == "running" else f" for {call_time_text(max(0.0, each['duration_s']))}"
    reason = f": {one_line(each['reason'], MAX_REASON)}" if each["reason"] else ""
    where = f"launch {each['launch']}, attempt {each['attempt']}, {shown_rank(each)}"
    return f"{where}, {about} {moment_text(each['started_s'])}{lasted}: {_OUTCOMES[each['outcome']]}{reason}"


def _output(facts: Facts) -> Iterator[str]:
    output = facts["output"]
    if output is not None:
        command = f"handoff-mpi logs {shell_word(facts['run_dir'])} {shell_word(facts['id'])}"
        yield f"It has printed {format_nbytes(output['nbytes'], ' ')}: `{one_line(command)}` shows it."


def _value(facts: Facts) -> Iterator[str]:
    value = facts["value"]
    if value is None:
        return
    size = format_nbytes(value["nbytes"], " ")
    if value["where"] == IN_JOURNAL:
        yield f"Its value ({size}) is in the journal."
    elif value["where"] == IN_FILE:
        missing = "" if value["is_there"] else ", which is missing"
        yield f"Its value ({size}) is in the file {one_line(value['file']) or 'of an unknown name'}{missing}."
    elif value["where"] == LOST:
        yield f"Its value ({size}) was not kept: it was on a rank, and went with the end of the launch."
    else:
        yield f"Its value ({size}) is on rank {value['rank']} while functions need it."


def _failure(failure: Facts | None) -> Iterator[str]:
    if failure is None or not failure["traceback"]:
        return
    yield f"Traceback of attempt {failure['attempt']} on {shown_rank(failure)} in launch {failure['launch']}:"
    yield from traceback_lines(failure["traceback"])


# -- why ------------------------------------------------------------------------------------------------


def _again(launches: Sequence[Facts], run: Facts) -> Iterator[str]:
    for each in launches:
        is_running = run["state"] == "running" and run["launch"] == each["launch"]
        launch, reason = f"Launch {each['launch']}", one_line(each["reason"], MAX_REASON)
        if each["what"] == "elements":
            taken = f"took over the values of {counted(each['restored'], 'element')}" if each["restored"] else ""
            accepted = ", made before the array changed (--accept-changes)" if taken and each["is_accepted"] else ""
            ran = f"computed elements again: {reason}" if reason else ""
            if reason and not each["is_begun"]:
                ran = _not_begun("computed elements again", "compute elements again", reason, is_running)
            yield f"{launch} {' and '.join(filter(None, (taken + accepted, ran)))}."
        elif each["what"] == "taken over":
            source = f" of launch {each['from_launch']}" if each["from_launch"] is not None else ""
            accepted = ", made before the function changed (--accept-changes)" if each["is_accepted"] else ""
            yield f"{launch} took over its value{source}{accepted}{f', and made it again: {reason}' if reason else ''}."
        elif each["what"] == "value lost":
            yield f"{launch} lost its value: {reason}."
        elif each["what"] == "left out":
            yield f"{launch} had nothing to do with it: {reason}."
        elif each["what"] == "ran again":
            yield f"{launch} ran it: {reason}."
        elif each["what"] == "not begun":
            yield f"{launch} {_not_begun('run it', 'run it', reason, is_running)}."


def _not_begun(done: str, do: str, reason: str, is_running: bool) -> str:
    return f"is to {do} ({reason})" if is_running else f"would have {done} ({reason}), and ended before"


def _placement(placements: Sequence[Facts]) -> Iterator[str]:
    several = len(placements) > 1
    for each in placements[-_MAX_ATTEMPTS:]:
        subject = f"Attempt {each['attempt']} of launch {each['launch']}" if several else "It"
        yield f"{subject} {_CAUSES[each['cause']](each)}.{_made_there(each)}"


def _made_there(each: Facts) -> str:
    if not each.get("inputs_made_there"):
        return ""
    there, made = each["inputs_made_there"], each["inputs_made"]
    which = "its input" if made == 1 else "all its inputs" if there == made else f"{there:,} of its {made:,} inputs"
    return f" {shown_rank(each).capitalize()} had made {which}."


def _pinned(each: Facts) -> str:
    pin = each["pin"]
    return f"ran on {shown_rank(each)} because it is pinned to {f'rank {pin}' if isinstance(pin, int) else 'that host'}"


def _collocated(each: Facts) -> str:
    others = ", ".join(one_line(str(id), MAX_ID) for id in each["with"][:5])
    more = ", ..." if len(each["with"]) > 5 else ""
    return f"ran on {shown_rank(each)} because it is collocated with {others}{more}: the first of them chose the rank"


def _tried_elsewhere(each: Facts) -> str:
    before = each["failed_on"]
    what = "another host" if before["is_other_host"] else "another rank"
    failed = f"attempt {before['attempt']} failed on {shown_rank(before)}"
    return f"ran on {shown_rank(each)}: {failed}, and {what} is preferred then"


def _rank_lost(each: Facts) -> str:
    lost = each["lost"]
    return f"ran on {shown_rank(each)}, since attempt {lost['attempt']} was on {shown_rank(lost)}, which was lost"


def _only_rank(each: Facts) -> str:
    lost = f"; {counted(each['lost'], 'rank')} that did had been lost" if each["lost"] else ""
    return f"ran on {shown_rank(each)} because no other rank offers what it costs{lost}"


def _strategy(each: Facts) -> str:
    lost = f" ({each['lost']:,} more had been lost)" if each["lost"] else ""
    ranks = f"{counted(each['fitting'], 'rank')} could hold its cost{lost}"
    how = _HOW_STRATEGIES_CHOOSE.get(each["strategy"])
    chose = f"the strategy {each['strategy'] or 'of the run'} chose this one{f': it takes {how}' if how else ''}"
    return f"ran on {shown_rank(each)}: {ranks}, and {chose}"


#: What the strategies of this package choose; see :mod:`handoff_mpi.allocation.strategies`.
_HOW_STRATEGIES_CHOOSE = {
    "FirstAvailable": "the first rank, in rank order, that has room",
    "LoadBalanced": "the rank on which the most claimed of its resources is claimed least",
    "CostOptimized": "the rank where the claim, what the claim strands, and the transfer of inputs cost least",
}


def _unknown(each: Facts) -> str:
    return f"ran on {shown_rank(each)}; the journal does not tell why"


_CAUSES: dict[str, Callable[[Facts], str]] = {
    "pinned": _pinned,
    "collocated": _collocated,
    "tried elsewhere": _tried_elsewhere,
    "rank lost": _rank_lost,
    "only rank": _only_rank,
    "strategy": _strategy,
    "unknown": _unknown,
}
