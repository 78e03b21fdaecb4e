"""The sentences of ``explain`` on why a function is not running now, made of what rank 0 answers.

:mod:`handoff_mpi.scheduler.explanation` makes the reasons; each has a sentence here by its ``cause``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from handoff_mpi.formatting import counted, duration_text, one_line, without_controls
from handoff_mpi.resources.amounts import MEMORY

Facts = Mapping[str, Any]
MAX_ID, MAX_REASON = 120, 300
_MAX_TRACEBACK_LINES = 60
#: So many groups of ranks are described; the others are counted.
_MAX_PLACES = 4
_WITHHELD = {
    "memory": "it is short of memory",
    "suspect": "it has not sent a message lately",
    "probation": "it is on probation",
}
_OTHERS = {
    "room": ("has room", "have room"),
    "reserved": ("keeps its room for others", "keep their room for others"),
    "busy": ("is busy", "are busy"),
    "cordoned": ("gets no new functions", "get no new functions"),
    "avoided": ("is avoided", "are avoided"),
    "too small": ("is too small", "are too small"),
}


def traceback_lines(traceback: str) -> Iterator[str]:
    """Yield the lines of a traceback; of a long one, the first and the last ones."""
    lines = without_controls(traceback).rstrip().split("\n")
    half = _MAX_TRACEBACK_LINES // 2
    if len(lines) > _MAX_TRACEBACK_LINES:
        lines[half:-half] = [f"[... {len(lines) - 2 * half} lines left out ...]"]
    yield from (f"  {line}" for line in lines)


def shown_id(facts: Facts) -> str:
    """Return the id of a function, on one line."""
    return one_line(str(facts["id"]), MAX_ID)


def shown_rank(facts: Facts) -> str:
    """Return a rank with its host."""
    host = f" ({one_line(str(facts['host']), MAX_ID)})" if facts.get("host") else ""
    return f"rank {facts['rank']}{host}"


def standing(facts: Facts, now_s: float | None = None) -> str:
    """Return the id of a function, and where it stands."""
    state = one_line(str(facts["state"]), MAX_ID)
    elements = facts.get("elements")
    if elements is not None and state != "done" and (elements["done"] or state == "running") and elements["count"] > 1:
        return f"{shown_id(facts)} ({state}: {elements['done']:,} of {elements['count']:,} elements are done)"
    if facts.get("rank_count", 1) > 1:
        return f"{shown_id(facts)} ({state} on {counted(facts['rank_count'], 'rank')})"
    where = f" on {shown_rank(facts)}" if facts.get("rank") is not None and state != "at rank" else ""
    where = f" {facts['rank']}" if state == "at rank" else where
    since = f" for {duration_text(now_s - facts['since_s'])}" if now_s is not None and "since_s" in facts else ""
    return f"{shown_id(facts)} ({state}{where}{since})"


def listed(shown: Sequence[Facts], count: int, now_s: float | None = None) -> str:
    """Return functions with where they stand; ``count`` with those that are not shown."""
    more = f" and {count - len(shown):,} more" if count > len(shown) else ""
    return f"{', '.join(standing(each, now_s) for each in shown)}{more}"


def missing_inputs(facts: Facts, now_s: float | None = None) -> Iterator[str]:
    """Yield which inputs are missing, and the chains from them to functions that wait for no input."""
    verb = "is" if facts["input_count"] == 1 else "are"
    shown = listed(facts["inputs"], facts["input_count"], now_s)
    yield f"{facts['input_count']:,} of its inputs {verb} missing: {shown}."
    if facts["upstream"] > facts["input_count"]:
        least = "" if facts["is_all"] else "At least "
        roots = f"{facts['root_count']:,} of them {'waits' if facts['root_count'] == 1 else 'wait'} for no input"
        yield f"{least}{facts['upstream']:,} functions upstream are open; {roots}:"
        for chain in facts["chains"]:
            yield f"  {' <- '.join(standing(each, now_s) for each in chain)}"


def reason_lines(live: Facts) -> Iterator[str]:
    """Yield why a function is not running, in sentences."""
    now_s = live["time_s"]
    for reason in live["reasons"]:
        yield from _lines(reason, now_s)


def _lines(reason: Facts, now_s: float) -> Iterator[str]:
    cause = reason["cause"]
    if cause == "inputs":
        yield from missing_inputs(reason, now_s)
        yield from _roots(reason["roots"], now_s)
    elif cause == "places":
        yield from _places(reason)
    else:
        yield _SENTENCES[cause](reason, now_s)


def _roots(roots: Sequence[Facts], now_s: float) -> Iterator[str]:
    """Yield why the functions at the ends of the chains do not run."""
    for root in roots:
        for reason in root["reasons"]:
            for line in _lines(reason, now_s):
                yield f"  {shown_id(root)}: {line}"


# -- causes ----------------------------------------------------------------------------------------------


def _stopping(reason: Facts, now_s: float) -> str:
    return f"Nothing more starts, because the run is being stopped: {one_line(reason['why'], MAX_REASON)}."


def _sent_ahead(reason: Facts, now_s: float) -> str:
    shown = listed(reason["inputs"], reason["input_count"], now_s)
    return f"It was sent ahead to the rank that makes its input, and waits there for {shown}."


def _behind(reason: Facts, now_s: float) -> str:
    first = standing(reason["first"], now_s)
    return f"It waits at its rank behind {counted(reason['ahead'], 'other function')}; the first is {first}."


def _paused(reason: Facts, now_s: float) -> str:
    may = f"{counted(reason['in_doubt'], 'element')} failed an attempt and may fail for good"
    have = f"; {reason['failed']:,} {'has' if reason['failed'] == 1 else 'have'} by now" if reason["failed"] else ""
    return f"It is paused, as more than max_failures ({reason['max_failures']:,}) may have failed soon: {may}{have}."


def _undecided(reason: Facts, now_s: float) -> str:
    why = one_line(reason["error"], MAX_REASON)
    decides = "Rank 0 decides by other calls there whether the rank or the function is to blame"
    return f"Its last attempt failed on {shown_rank(reason)} ({why}). {decides}."


def _delay(reason: Facts, now_s: float) -> str:
    subject = "Elements have failed, and their retry" if reason.get("of_elements") else "It has failed, and its retry"
    return f"{subject} waits for {duration_text(reason['until_s'] - now_s)} more (retry_delay)."


def _tracker(reason: Facts, now_s: float) -> str:
    why = one_line(reason["reason"], MAX_REASON)
    since = duration_text(now_s - reason["since_s"])
    waiting = f"{counted(reason['waiting'], 'function')} {'waits' if reason['waiting'] == 1 else 'wait'} for it"
    again = f"it is asked again in {duration_text(reason['next_s'] - now_s)}"
    return f"The resource tracker has refused it for {since}, last on {shown_rank(reason)}: {why}. {waiting}; {again}."


def _group(reason: Facts, now_s: float) -> str:
    return f"It runs on the rank that is chosen for {standing(reason['leader'], now_s)}, with which it is collocated."


def _max_concurrency(reason: Facts, now_s: float) -> str:
    verb = "holds" if reason["claimed"] == 1 else "hold"
    return f"max_concurrency is {reason['limit']:,}, and {counted(reason['claimed'], 'call')} {verb} that many places."


def _deadline(reason: Facts, now_s: float) -> str:
    mean, left = duration_text(reason["mean_s"]), duration_text(reason["stop_at_s"] - now_s)
    return f"It would not end in time: such calls take {mean} on average, and the run will be stopped in {left}."


def _bound(reason: Facts, now_s: float) -> str:
    where = f"rank {reason['rank']}" if reason["rank"] is not None else f"host {one_line(reason['host'], MAX_ID)}"
    return f"It may run on {where} alone."


def _avoids(reason: Facts, now_s: float) -> str:
    hosts = ", ".join(one_line(each, MAX_ID) for each in reason["hosts"])
    where = f"host {hosts}" if hosts else f"rank {reason['rank']}"
    return f"It has failed on {where}, so it is tried elsewhere."


def _reservation(reason: Facts, now_s: float) -> str:
    where = f" on host {one_line(reason['host'], MAX_ID)}" if reason["host"] is not None else ""
    return f"Room{where} is reserved for it, because younger functions have skipped it too often."


def _job_resource(reason: Facts, now_s: float) -> str:
    return f"The run has too little of {_missing(reason)}."


def _job_resource_kept(reason: Facts, now_s: float) -> str:
    return f"What it needs of the run's resources is reserved for {_names(reason['kept_for'])}."


def _queue(reason: Facts, now_s: float) -> str:
    how_often = "once" if reason["skips"] == 1 else f"{reason['skips']:,} times"
    skips = f" Younger functions have skipped it {how_often}" if reason["skips"] and not reason["ahead_alike"] else ""
    skips += f"; from {reason['max_skips']:,} on room is reserved for it." if skips else ""
    ahead, alike = reason["ahead"], reason["ahead_alike"]
    if not ahead:
        return f"No ready function comes before it.{skips}"
    same = f", {alike:,} of which {'needs' if alike == 1 else 'need'} the same" if 0 < alike < ahead else ""
    same = " and needs the same" if alike == ahead == 1 else ", which all need the same" if alike == ahead else same
    return f"{counted(ahead, 'ready function')} {'comes' if ahead == 1 else 'come'} before it{same}.{skips}"


def _unknown(reason: Facts, now_s: float) -> str:
    return "The reason is unknown; ask again."


# -- places ----------------------------------------------------------------------------------------------


def _places(reason: Facts) -> Iterator[str]:
    """Yield why no group of ranks runs it: the first few, and how many others for the same reason."""
    places, left = reason["places"][:_MAX_PLACES], dict(reason["counts"])
    if len(places) > 1:
        places = [each for each in places if each["why"] != "too small"] or places
    for place in places:
        left[place["why"]] -= 1
        yield f"Host {_place(place)}."
    others = [f"{count:,} {_OTHERS[why][count > 1]}" for why, count in left.items() if count]
    if others:
        yield f"Of the other groups of ranks {', '.join(others)}."


def _place(place: Facts) -> str:
    more = f" and {place['rank_count'] - 1:,} more" if place["rank_count"] > 1 else ""
    where = f"{one_line(place['host'], MAX_ID)} (rank {place['ranks'][0]}{more})"
    why = place["why"]
    if why == "busy":
        return f"{where} has no room: {'; '.join(map(_missing, place['missing']))}"
    if why == "too small":
        return f"{where} is too small: {'; '.join(map(_too_small, place['missing'])) or 'its ranks take no functions'}"
    if why == "cordoned":
        return f"{where} gets no new functions: {_cordoned(place['cordoned'])}"
    if why == "reserved":
        return f"{where} keeps its room for {_names(place['kept_for'])}, which was skipped too often"
    if why == "avoided" and place.get("others_run"):
        others = "the other rank is" if place["rank_count"] == 2 else "the other ranks are"
        avoided = f"rank {place['avoided_rank']} is avoided, because the function failed there"
        return f"{where} has no room: {avoided}, and {others} busy with {_names(place['others_run'])}"
    if why == "avoided":
        return f"{where} is avoided, because the function failed there"
    return f"{where} has room for it"


def _too_small(each: Facts) -> str:
    there = f"{_amount(each, 'total')} there" if each["total"] else "none there"
    return f"{one_line(str(each['name']), MAX_ID)}: {_amount(each, 'wanted')} wanted, {there}"


def _cordoned(reasons: Mapping[str, str]) -> str:
    texts = [
        f"{_WITHHELD.get(why, one_line(why, MAX_ID))}{f' ({one_line(more, MAX_REASON)})' if more else ''}"
        for why, more in reasons.items()
    ]
    return ", and ".join(texts) or "the reason is unknown"


def _missing(each: Facts) -> str:
    """Return how much of a resource is missing, and who has claimed it: "gpu: 1 wanted, all 2 are claimed by a"."""
    wanted = f"{one_line(str(each['name']), MAX_ID)}: {_amount(each, 'wanted')} wanted"
    claims = list(map(_claimant, each["claims"]))
    more = each["claim_count"] - sum(claim.get("leases", 1) for claim in each["claims"])
    by = f" by {', '.join(claims)}{f' and {more:,} more' if more else ''}" if claims else ""
    total = _amount(each, "total")
    if each["free"]:
        return f"{wanted}, {_amount(each, 'free')} of {total} free{f', the rest claimed{by}' if by else ''}"
    return f"{wanted}, {'the only one is' if each['total'] == 1 else f'all {total} are'} claimed{by}"


def _claimant(claim: Facts) -> str:
    if claim["id"] is None:
        return f"a call on rank {claim['rank']}"
    leases = claim.get("leases", 1)
    return f"{counted(leases, 'lease')} of {shown_id(claim)}" if leases > 1 else shown_id(claim)


def _amount(each: Facts, name: str) -> str:
    return f"{each[name]:,}{' MB' if each['name'] == MEMORY else ''}"


def _names(ids: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(one_line(str(id), MAX_ID) for id in ids)) or "others"


_SENTENCES: dict[str, Callable[[Facts, float], str]] = {
    "stopping": _stopping,
    "sent ahead": _sent_ahead,
    "behind": _behind,
    "paused": _paused,
    "undecided": _undecided,
    "delay": _delay,
    "tracker": _tracker,
    "group": _group,
    "max_concurrency": _max_concurrency,
    "deadline": _deadline,
    "bound": _bound,
    "avoids": _avoids,
    "reservation": _reservation,
    "job resource": _job_resource,
    "job resource kept": _job_resource_kept,
    "queue": _queue,
    "unknown": _unknown,
}
