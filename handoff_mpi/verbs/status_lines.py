"""The lines of ``status`` below the view: when the run ends, what failed, what was lost, which calls took longest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from handoff_mpi.formatting import (
    LOWER_BOUND,
    MAX_TIME_LEFT_S,
    call_time_text,
    duration_text,
    moment_text,
    one_line,
    time_left,
    unmeasured,
)
from handoff_mpi.results.run_status import DIED, RUNNING, is_ended

Status = Mapping[str, object]
_MAX_LISTED, _MAX_SLOWEST, _MAX_NAMES, _MAX_SKIPPED = 20, 5, 3, 5
_MAX_CHARS, _MAX_ID_CHARS = 300, 60


def status_lines(run_dir: Path, state: str, status: Status) -> Iterator[tuple[str, str]]:
    """Yield a word and a line for each fact.

    Args:
        state: "running", "died", or what the verdict says.
        status: the fields of ``status.json``, which another version, or anybody, may have written.
    """
    yield "state", _state(state, status)
    if state == RUNNING:
        yield "end", _end(status)
    for name, lines in _FACTS.items():
        for line in lines(status):
            yield name, one_line(line, _MAX_CHARS)
    yield "files", one_line(str(run_dir))
    if state != "done" and state != RUNNING and status.get("resume"):
        yield "resume", one_line(f"{status['resume']}   (in {status.get('directory')})")


def _state(state: str, status: Status) -> str:
    rank_0 = f"process {_short(status.get('pid'))} on {_short(status.get('host'))}"
    if state == DIED:
        last = f"; its last report is of {moment_text(status['time_s'])}" if "time_s" in status else ""
        return f"rank 0 ({rank_0}) has died before the run ended{last}"
    if not is_ended(dict(status)):
        return f"running: rank 0 is {rank_0}"
    why = status.get("stopped_because")
    return one_line(f"{state}, exit code {status.get('exit_code')}{f': {why}' if why else ''}", _MAX_CHARS)


def _end(status: Status) -> str:
    words, left_s = time_left(status)
    names = _unmeasured_names(status)
    if left_s is None:
        return f"unknown{f', since no call of {names} has ended yet' if names else ' yet'}"
    at_s = _number(status.get("time_s")) + left_s
    least = f"; no call of {names} has ended yet" if words == LOWER_BOUND and names else ""
    return f"in {words} {duration_text(left_s)}, at {moment_text(at_s)}{' or later' if least else ''}{least}"


def _unmeasured_names(status: Status) -> str:
    """Return the names of functions that are to run and of which no call has ended."""
    names = list(unmeasured(status))
    more = len(names) - _MAX_NAMES
    return ", ".join(map(_short, names[:_MAX_NAMES])) + (f" and {more:,} more" if more > 0 else "")


def _failures(status: Status) -> Iterator[str]:
    for group in _rows(status, "failures"):
        count = int(_number(group.get("count")))
        others = f" and {count - 1:,} more" if count > 1 else ""
        message = f": {_short(group['message'], 200)}" if group.get("message") else ""
        yield f"{_short(group.get('first'))}{others}: {_short(group.get('what'), 120)}{message}"


def _skipped(status: Status) -> Iterator[str]:
    """Yield the names of the functions that were skipped: the first ones, and the last one."""
    names = status.get("skipped_ids")
    if not isinstance(names, list) or not names:
        return
    shown = [_short(name) for name in names[:_MAX_SKIPPED]]
    if len(names) > len(shown):
        shown[-1] = f"... and {_short(names[-1])}"
    yield f"{', '.join(shown)}: {'it depends' if len(names) == 1 else 'they depend'} on functions that have failed"


def _losses(status: Status) -> Iterator[str]:
    """Yield a line for each rank that was lost; older versions tell the ranks and the reasons alone."""
    losses = _rows(status, "losses")
    for loss in losses:
        yield _loss(loss, status)
    told = {str(loss.get("rank")) for loss in losses}
    others = [(rank, why) for rank, why in _mapping(status, "lost_ranks").items() if str(rank) not in told]
    yield from (f"rank {_short(rank)}: {why}" for rank, why in others[: _MAX_LISTED - len(losses)])
    yield from islice(_losses_before(status), _MAX_LISTED)


def _losses_before(status: Status) -> Iterator[str]:
    before = _mapping(status, "lost_ranks_before")
    for launch in before:
        for rank, why in _mapping(before, launch).items():
            yield f"rank {_short(rank)} in launch {_short(launch)}: {why}"


def _loss(loss: Status, status: Status) -> str:
    after_s = _number(loss.get("time_s")) - _number(status.get("started_s"))
    after = f", {duration_text(after_s)} after the start" if 0 <= after_s < MAX_TIME_LEFT_S else ""
    what = f"rank {_short(loss.get('rank'))} ({_short(loss.get('host'))}) at {moment_text(loss.get('time_s'))}{after}"
    again = [
        text
        for field, one, many in _REPEATED
        if (text := _repeated(_number(loss.get(field)), loss.get(f"first_{field}"), one, many))
    ]
    returned = f"; it returned at {moment_text(loss['returned_s'])}" if loss.get("returned_s") is not None else ""
    return f"{what}: {_short(loss.get('reason'), 120)}; {'; '.join(again) or 'nothing runs again'}{returned}"


_REPEATED = (
    ("reassigned", "1 call reassigned to another rank", "calls reassigned to other ranks"),
    ("recomputed", "1 value computed again", "values computed again"),
)


def _repeated(count: float, first: object, one: str, many: str) -> str:
    if not count:
        return ""
    ids = first if isinstance(first, list) else []  # one of them may name many elements
    names = [_short(id, 30) for id in ids[:_MAX_NAMES]]
    listed = ", ".join([*names, "..."] if len(ids) > len(names) else names)
    return f"{one if count == 1 else f'{count:,.0f} {many}'}{f' ({listed})' if names else ''}"


def _probation(status: Status) -> Iterator[str]:
    for place, why in list(_mapping(status, "probation").items())[:_MAX_LISTED]:
        yield f"{_short(place)}: {why}"


def _earlier(status: Status) -> Iterator[str]:
    """Yield a line for each of the newest launches before this one, and how many are older."""
    launches = _rows(status, "launches_before")
    for launch in launches:
        began = f", begun at {moment_text(launch['started_s'])}" if launch.get("started_s") is not None else ""
        how = {"died": "died before it ended", "stopped": "was stopped"}.get(str(launch.get("status")))
        yield f"launch {_short(launch.get('launch'))}{began}: {how or _short(launch.get('status'), 20)}"
    older = int(_number(launches[0].get("launch"))) - 1 if launches else 0
    if older > 0:
        yield f"and {older:,} earlier {'one' if older == 1 else 'ones'}"


def _slowest(status: Status) -> Iterator[str]:
    for call in _rows(status, "slowest")[:_MAX_SLOWEST]:
        where = f"rank {_short(call.get('rank'))} ({_short(call.get('host'))})"
        took = f"took {call_time_text(_number(call.get('duration_s')))}"
        yield f"{_short(call.get('id'))} {took} on {where}{', and failed' if call.get('failed') is True else ''}"


_FACTS = {
    "failed": _failures,
    "skipped": _skipped,
    "lost": _losses,
    "probation": _probation,
    "earlier": _earlier,
    "slowest": _slowest,
}


# -- what a status holds -------------------------------------------------------------------------------


def _rows(status: Status, name: str) -> list[Status]:
    """Return the newest rows of a list."""
    found = status.get(name)
    return [row for row in found if isinstance(row, Mapping)][-_MAX_LISTED:] if isinstance(found, list) else []


def _mapping(status: Status, name: str) -> Mapping[str, object]:
    found = status.get(name)
    return found if isinstance(found, Mapping) else {}


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and abs(value) < MAX_TIME_LEFT_S * 1e9 else 0.0


def _short(text: object, limit: int = _MAX_ID_CHARS) -> str:
    return one_line(str(text), limit)
