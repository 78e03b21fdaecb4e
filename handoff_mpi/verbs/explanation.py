"""Makes the answer of ``explain`` about a function, as data, from its story in the journal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from handoff_mpi.arrays.element_names import is_among
from handoff_mpi.dag.open_inputs import find_open_inputs
from handoff_mpi.messages import DEATH
from handoff_mpi.results.function_story import (
    IN_FILE,
    IN_JOURNAL,
    LOST,
    ON_RANK,
    FunctionInLaunch,
    FunctionStory,
    KeptValue,
)
from handoff_mpi.results.output_files import OutputDirectory
from handoff_mpi.results.replaced import dropped_by
from handoff_mpi.results.run_dir import VALUES
from handoff_mpi.results.store import DirectoryStore
from handoff_mpi.results.story import DONE, DONE_STATE, FAILED_STATE, OUTCOMES, SKIPPED_STATE, STATES, WAITING_STATE

#: Of the form of what ``explain --json`` prints.
SCHEMA = 1
MAX_LISTED = 20
_MAX_ATTEMPTS = 200


def explain_story(told: FunctionStory, run_dir: str) -> dict[str, Any]:
    """Return what the journal tells of a function.

    Args:
        run_dir: as the user named it.
    """
    story, task = told.story, told.task
    tasks, state = story.tasks, int(story.tasks.state[task])
    newest = story.launches[-1]
    inputs = tasks.inputs_of(task).tolist()
    facts: dict[str, object] = {
        "schema": SCHEMA,
        "run_dir": run_dir,
        "id": tasks.ids[task],
        "name": tasks.name_of(task),
        "state": STATES[state],
        "is_left_out": told.is_left_out,
        "is_outdated": told.is_outdated,
        "run": {"state": newest.verdict, "launch": newest.epoch, "stopped_because": _text(story.status, newest.epoch)},
        "cost": tasks.costs[int(tasks.cost[task])],
        "inputs": [_standing(told, each) for each in inputs[:MAX_LISTED]],
        "input_count": len(inputs),
        **_inputs_done(told, inputs),
        "elements": _elements(told),
        "attempts": (attempts := _attempts(told)),
        "output": _output(told),
        "value": _value(told, state),
        "failure": _failure(told) if state == FAILED_STATE else None,
        "again": _again(told),
        "placement": [_placement(told, attempts, each) for each in attempts[-_MAX_ATTEMPTS:]],
        "waits_for": None,
        "live": None,
        "namesakes": told.namesakes,
        "notes": list(story.notes),
    }
    if state in (WAITING_STATE, SKIPPED_STATE):
        facts["waits_for"] = _waits_for(told, state)
    return facts


def _text(status: Mapping[str, object], epoch: int) -> str:
    return str(status.get("stopped_because") or "") if status.get("launch") == epoch else ""


def _elements(told: FunctionStory) -> dict[str, object] | None:
    """Return how far an array has come, and where its elements were computed; None for a function."""
    story, task = told.story, told.task
    if task not in story.elements:
        return None
    count, done = story.elements[task]
    rows = np.flatnonzero(story.calls.task == task)
    ranks, shares = np.unique(story.calls.rank[rows], return_counts=True)
    return {
        "count": count,
        "done": done,
        "shares": len(rows),
        "busy_s": float(story.calls.duration[rows].sum()),
        "ranks": dict(zip(ranks.tolist(), shares.tolist(), strict=True)),
    }


# -- what it is, and what it did -----------------------------------------------------------------------


def _standing(told: FunctionStory, task: int) -> dict[str, object]:
    """Return where a function stands; of one that is done, where it ran; of one that runs, since when, too.

    Of an array, how many of its elements are done, and on how many ranks it ran.
    """
    story = told.story
    standing: dict[str, object] = {"id": story.tasks.ids[task], "state": STATES[int(story.tasks.state[task])]}
    row = int(story.final_call[task])
    if task in story.elements:
        count, done = story.elements[task]
        ranks = np.unique(story.calls.rank[story.calls.task == task])
        standing |= {"elements": {"count": count, "done": done}, "rank_count": len(ranks)}
        if len(ranks) != 1 or standing["state"] != "done":
            return standing
    if standing["state"] in ("running", "done") and row >= 0:
        launch, rank = int(story.calls.launch[row]), int(story.calls.rank[row])
        standing |= {"rank": rank, "host": story.host(launch, rank)}
        standing |= {"since_s": float(story.calls.started[row])} if standing["state"] == "running" else {}
    return standing


def _inputs_done(told: FunctionStory, inputs: list[int]) -> dict[str, object]:
    done = [each for each in inputs if told.story.tasks.state[each] == DONE_STATE]
    return {"inputs_done": [_standing(told, each) for each in done[:MAX_LISTED]], "inputs_done_count": len(done)}


def _attempts(told: FunctionStory) -> list[dict[str, Any]]:
    story, calls = told.story, told.story.calls
    rows = (calls.task == told.task).nonzero()[0].tolist()
    attempts = []
    for row in rows:
        launch, rank, failure = int(calls.launch[row]), int(calls.rank[row]), int(calls.failure[row])
        why = None if failure < 0 else story.failures[failure]
        outcome = OUTCOMES[int(calls.outcome[row])]
        lost = story.launches[launch].lost_ranks.get(rank, "") if outcome == "rank lost" else ""
        attempts.append(
            {
                "launch": story.launches[launch].epoch,
                "attempt": int(calls.attempt[row]),
                "rank": rank,
                "host": story.host(launch, rank),
                "sent_s": None if calls.sent[row] != calls.sent[row] else float(calls.sent[row]),
                "started_s": float(calls.started[row]),
                "duration_s": float(calls.duration[row]),
                "is_derived": bool(calls.is_derived[row]),
                "outcome": outcome,
                "reason": lost if why is None else why.message if why.kind == DEATH else f"{why.kind}: {why.message}",
                "nbytes": int(calls.nbytes[row]),
            }
        )
    attempts.sort(key=lambda each: (each["launch"], each["attempt"], each["started_s"]))
    return attempts


def _output(told: FunctionStory) -> dict[str, object] | None:
    """Return how much it has printed; None if that is nothing, or cannot be read."""
    try:
        with OutputDirectory(told.story.run_dir) as directory:
            id = str(told.story.tasks.ids[told.task])
            is_its = is_among if told.task in told.story.elements else str.__eq__
            printed = [each for each in directory.all_printed() if is_its(each.id, id) and each.nbytes]
    except OSError:
        return None
    if not printed:
        return None
    attempts = sorted({(each.launch, each.attempt) for each in printed})
    return {"nbytes": sum(each.nbytes for each in printed), "attempts": attempts}


def _value(told: FunctionStory, state: int) -> dict[str, object] | None:
    """Return where its value is; None while there is none."""
    value = told.value
    if state != DONE_STATE or value is None:
        return None
    facts: dict[str, object] = {"where": value.where, "nbytes": value.nbytes}
    if value.where == IN_FILE:
        path = _path(told, value)
        facts |= {"file": path, "is_there": bool(path) and Path(path).is_file()}
    elif value.where == ON_RANK:
        facts["rank"] = value.rank
        if not told.story.launches[-1].is_running:
            facts["where"] = LOST
    assert facts["where"] in (IN_JOURNAL, IN_FILE, ON_RANK, LOST)
    return facts


def _path(told: FunctionStory, value: KeptValue) -> str:
    try:
        return str(DirectoryStore(told.story.run_dir / VALUES).path(value.key)) if value.key else ""
    except Exception:  # a key of another shape, of somebody else's making
        return ""


def _failure(told: FunctionStory) -> dict[str, object] | None:
    failure = told.failure
    if failure is None:
        return None
    launch = next((at for at, each in enumerate(told.launches) if each.epoch == failure.launch), -1)
    return {
        "launch": failure.launch,
        "attempt": failure.attempt,
        "rank": failure.rank if failure.attempt else None,
        "host": told.story.host(launch, failure.rank) if failure.attempt else None,
        "kind": failure.kind,
        "message": failure.message,
        "traceback": failure.traceback,
    }


# -- why it runs again ---------------------------------------------------------------------------------


def _again(told: FunctionStory) -> list[dict[str, object]]:
    """Return what each launch but the first made of what those before it had done."""
    if told.task in told.story.elements:
        return [
            {
                "launch": own.epoch,
                "what": "elements",
                "restored": own.restored,
                "is_accepted": own.is_accepted,
                "reason": own.again,
                "is_begun": own.is_begun,
            }
            for own in told.launches[1:]
            if own.number is not None and (own.restored or own.again)
        ]
    calls, found = told.story.calls, list[dict[str, object]]()
    before, why_open = None, "no earlier launch had begun it"
    done_in = dict[bytes | None, FunctionInLaunch]()  # the newest launch that did it, by fingerprint, the newest last
    for index, own in enumerate(told.launches):
        outcomes = calls.outcome[(calls.task == told.task) & (calls.launch == index)].tolist()
        if index and own.number is not None:
            source = done_in.get(own.fingerprint) if own.is_restored else next(reversed(done_in.values()), None)
            found.append({"launch": own.epoch, **_taken_over(told, own, before, source, why_open, len(outcomes))})
        elif index and before is not None:
            found.append({"launch": own.epoch, "what": "left out", "reason": "its DAG does not hold the function"})
        found += [{"launch": own.epoch, "what": "value lost", "reason": reason} for reason in own.lost]
        if own.is_replaced and own.is_named:
            done_in.clear()
        if own.is_replaced or DONE in outcomes:
            done_in.pop(own.fingerprint, None)
        if DONE in outcomes:
            done_in[own.fingerprint] = own
        elif own.is_replaced:
            why_open = f"launch {own.epoch} was to run it again, by --rerun, and did not"
        if outcomes:
            why_open = f"it was not done yet (its last call, of launch {own.epoch}: {OUTCOMES[outcomes[-1]]})"
        before = own if own.number is not None else before
    return found


def _taken_over(
    told: FunctionStory,
    own: FunctionInLaunch,
    before: FunctionInLaunch | None,
    done_in: FunctionInLaunch | None,
    why_open: str,
    calls: int,
) -> dict[str, object]:
    """Return what a launch made of what earlier ones had done.

    Args:
        before: the newest launch before it that held the function.
        done_in: the newest launch before it that did the function, of one that took it over as it is now.
        why_open: why none did it, in words.
        calls: how often it called the function itself.
    """
    if own.is_restored:
        from_launch = None if done_in is None else done_in.epoch
        lost = "its value was lost" if calls else ""
        return {"what": "taken over", "from_launch": from_launch, "is_accepted": own.is_accepted, "reason": lost}
    what = "ran again" if calls else "not begun"
    if before is None:
        reason = "no earlier launch had it"
    elif done_in is None:
        reason = why_open
    else:
        reason = own.again or _derived_reason(told, own, done_in, bool(calls))
    return {"what": what, "reason": reason}


def _derived_reason(told: FunctionStory, own: FunctionInLaunch, done_in: FunctionInLaunch, has_run: bool) -> str:
    """Return why a function runs again, where that is not recorded: as far as fingerprints tell.

    An older version has not recorded it, or the launch did not know it from the start.
    """
    if own.fingerprint is None:
        return "it has no fingerprint"
    dropped = [each for each in told.dropped.get(own.fingerprint, ()) if done_in.epoch < each < own.epoch]
    if own.fingerprint == done_in.fingerprint and dropped:
        return dropped_by(dropped[-1])
    if own.fingerprint == done_in.fingerprint and told.is_behind_windowed:
        of_array = "elements of an array with a window on which it depends"
        return f"{of_array} had changed, or its value was lost" if has_run else f"unless all {of_array} are the same"
    if own.fingerprint == done_in.fingerprint:
        return "the reason is unknown: its value was lost, or --rerun has replaced it"
    if own.codes is not None and done_in.codes is not None and own.codes != done_in.codes:
        return "its code changed"
    return "its arguments, its inputs or its code changed"


# -- why it ran there ----------------------------------------------------------------------------------


def _placement(told: FunctionStory, attempts: list[dict[str, Any]], attempt: dict[str, Any]) -> dict[str, object]:
    """Return what is known of why an attempt ran on its rank."""
    index = next(at for at, each in enumerate(told.story.launches) if each.epoch == attempt["launch"])
    own, rank = told.launches[index], attempt["rank"]
    facts = {"launch": own.epoch, "attempt": attempt["attempt"], "rank": rank, "host": attempt["host"]}
    facts |= _cause(told, own, _failed_before(attempts, attempt), attempt)
    inputs = told.story.tasks.inputs_of(told.task).tolist()
    made_by = [int(told.story.calls.rank[row]) for each in inputs if (row := told.story.final_call[each]) >= 0]
    if made_by:
        facts |= {"inputs_made_there": made_by.count(rank), "inputs_made": len(made_by)}
    return facts


def _cause(
    told: FunctionStory, own: FunctionInLaunch, before: dict[str, object] | None, attempt: dict[str, object]
) -> dict[str, object]:
    rank, host = attempt["rank"], attempt["host"]
    if own.pin is not None and own.pin in (rank, host):
        return {"cause": "pinned", "pin": own.pin}
    if len(own.group) > 1:
        return {"cause": "collocated", "with": [id for number, id in own.group if number != own.number]}
    if before is not None and (before["outcome"] == "rank lost" or before["rank"] in _lost_before(told, attempt)):
        return {"cause": "rank lost", "lost": before}
    if before is not None and before["rank"] != rank:
        is_other_host = before["host"] != host
        return {"cause": "tried elsewhere", "failed_on": {**before, "is_other_host": is_other_host}}
    if not own.offers:
        return {"cause": "unknown"}
    cost = told.story.tasks.costs[int(told.story.tasks.cost[told.task])]
    of_ranks = {name: amount for name, amount in cost.items() if any(name in offered for offered, _ in own.offers)}
    offering = [rank for offered, ranks in own.offers if _holds(offered, of_ranks) for rank in ranks]
    gone = _lost_before(told, attempt)
    fitting, lost = [each for each in offering if each not in gone], [each for each in offering if each in gone]
    if fitting == [rank]:
        return {"cause": "only rank", "cost": cost, "lost": len(lost)}
    return {"cause": "strategy", "strategy": own.strategy, "fitting": len(fitting), "lost": len(lost)}


def _lost_before(told: FunctionStory, attempt: Mapping[str, Any]) -> set[int]:
    """Return the ranks that were lost when an attempt was sent, as far as the journal has the times."""
    launch = next(each for each in told.story.launches if each.epoch == attempt["launch"])
    sent_s = attempt["started_s"] if attempt["sent_s"] is None else attempt["sent_s"]
    lost: set[int] = set()
    for event in launch.rank_events:
        if event.time_s is not None and event.time_s <= sent_s and event.what in ("lost", "returned"):
            (lost.add if event.what == "lost" else lost.discard)(event.rank)
    return lost


def _holds(offered: Mapping[str, float], cost: Mapping[str, Any]) -> bool:
    return all(offered.get(name, 0) >= amount for name, amount in cost.items())


def _failed_before(attempts: list[dict[str, Any]], attempt: dict[str, Any]) -> dict[str, object] | None:
    """Return where the attempt before this one, of the same launch, failed or lost its rank; None if it did not."""
    before = [each for each in attempts if each["launch"] == attempt["launch"] and each["attempt"] < attempt["attempt"]]
    if not before or before[-1]["outcome"] not in ("failed", "timed out", "died", "rank lost"):
        return None
    return {name: before[-1][name] for name in ("attempt", "rank", "host", "outcome")}


# -- why it has not run --------------------------------------------------------------------------------


def _waits_for(told: FunctionStory, state: int) -> dict[str, object]:
    """Return which of its inputs are missing, and what they wait for in turn; of a skipped one, which have failed."""
    tasks, has_failed = told.story.tasks, state == SKIPPED_STATE

    def is_missing(task: int) -> bool:
        its_state = int(tasks.state[task])
        return its_state in (FAILED_STATE, SKIPPED_STATE) if has_failed else its_state != DONE_STATE

    found = find_open_inputs(told.task, lambda each: tasks.inputs_of(each).tolist(), is_missing)
    missing = [each for each in tasks.inputs_of(told.task).tolist() if is_missing(each)]
    facts: dict[str, object] = {
        "inputs": [_standing(told, each) for each in missing[:MAX_LISTED]],
        "input_count": len(missing),
        "upstream": found.count,
        "is_all": found.is_all,
        "root_count": found.roots,
        "chains": [[_standing(told, each) for each in chain] for chain in found.chains],
    }
    if has_failed:
        facts["failed"] = _failed_roots(told, found.chains)
    return facts


def _failed_roots(told: FunctionStory, chains: list[list[int]]) -> list[dict[str, object]]:
    """Return the functions whose failures have kept it from running, with the reason of each."""
    tasks = told.story.tasks
    failed = dict.fromkeys(each for chain in chains for each in chain if tasks.state[each] == FAILED_STATE)
    found = []
    for each in failed:
        row = int(told.story.final_call[each])
        why = told.story.failures[int(told.story.calls.failure[row])] if row >= 0 else None
        found.append({"id": tasks.ids[each], "reason": "" if why is None else f"{why.kind}: {why.message}"})
    return found
