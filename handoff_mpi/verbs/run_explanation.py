"""``explain`` without an id: the launches of a run, what failed, what was skipped because of it, and lost ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from handoff_mpi.formatting import counted, duration_text, moment_text, one_line, shell_word
from handoff_mpi.results.story import CUT_OFF, DONE_STATE, FAILED_STATE, SKIPPED_STATE, STATES, LaunchStory, Story
from handoff_mpi.verbs.reason_text import MAX_ID, MAX_REASON

#: Of the form of what ``explain --json`` prints without an id.
SCHEMA = 1
MAX_GROUPS, MAX_LISTED, MAX_RANKS, MAX_LAUNCHES = 20, 5, 20, 20

Facts = Mapping[str, Any]


def explain_run(story: Story, run_dir: str) -> dict[str, Any]:
    """Return what the journal tells of failures and losses.

    Args:
        run_dir: as the user named it.
    """
    newest = story.launches[-1]
    groups = _groups(story)
    return {
        "schema": SCHEMA,
        "run_dir": run_dir,
        "state": newest.verdict,
        "launch": newest.epoch,
        "launches": [_launch(each) for each in story.launches[-MAX_LAUNCHES:]],
        "launch_count": len(story.launches),
        "functions": sum(story.counts.values()),
        "noun": "call" if story.elements else "function",
        "cut_off": _cut_off(story),
        "resume": _resume(story),
        "counts": story.counts,
        "failed": groups[:MAX_GROUPS],
        "failed_group_count": len(groups),
        "lost": _lost(story)[-MAX_RANKS:],
        "notes": list(story.notes),
    }


def _launch(launch: LaunchStory) -> dict[str, Any]:
    return {
        "launch": launch.epoch,
        "state": launch.verdict,
        "started_s": launch.started_s,
        "stopped_s": launch.stopped_s,
        "ranks": len(launch.hosts),
        "functions": launch.about.get("functions", launch.functions),
        "restored": launch.about.get("restored", launch.restored),
    }


def _cut_off(story: Story) -> list[str]:
    """Return the functions whose calls were cut off by the end of the newest launch."""
    calls, newest = story.calls, len(story.launches) - 1
    rows = np.flatnonzero((calls.outcome == CUT_OFF) & (calls.launch == newest))
    return [story.tasks.label(task) for task in dict.fromkeys(calls.task[rows].tolist())]


def _resume(story: Story) -> str:
    """Return the command that resumes the run, and where; empty if there is nothing to resume, or it is not known."""
    command, newest = story.status.get("resume"), story.launches[-1]
    if newest.verdict in ("running", "done") or story.status.get("launch") != newest.epoch or not command:
        return ""
    return f"{command}   (in {story.status.get('directory')})"


def _groups(story: Story) -> list[dict[str, object]]:
    """Return the functions that failed for good, those with the same reason together, the largest group first."""
    failed = np.flatnonzero(story.tasks.state == FAILED_STATE)
    of_reason: dict[str, list[int]] = {}
    for task in failed.tolist():
        of_reason.setdefault(_reason(story, task), []).append(task)
    skipped = _skipped_by(story)
    groups = []
    for reason, tasks in sorted(of_reason.items(), key=lambda item: -len(item[1])):
        because = [each for task in tasks for each in skipped.get(task, ())]
        groups.append(
            {
                "reason": reason,
                "count": len(tasks),
                "ids": [story.tasks.label(task) for task in tasks[:MAX_LISTED]],
                "calls": int(np.isin(story.calls.task, [task for task in tasks if task not in story.elements]).sum()),
                "skipped_count": len(because),
                "skipped": [story.tasks.label(task) for task in sorted(because)[:MAX_LISTED]],
            }
        )
    return groups


def _reason(story: Story, task: int) -> str:
    row = int(story.final_call[task])
    failure = -1 if row < 0 else int(story.calls.failure[row])
    if failure < 0:
        failure = story.given_up.get(task, -1)
    if failure < 0:
        return ""
    why = story.failures[failure]
    return f"{why.kind}: {why.message}"


def _skipped_by(story: Story) -> dict[int, list[int]]:
    """Return, for each function that failed, those that were skipped because of it."""
    tasks = story.tasks
    root: dict[int, int] = {}
    found: dict[int, list[int]] = {}
    for task in np.flatnonzero(tasks.state == SKIPPED_STATE).tolist():  # inputs have smaller numbers
        for each in tasks.inputs_of(task).tolist():
            its_root = each if tasks.state[each] == FAILED_STATE else root.get(each)
            if its_root is not None:
                root[task] = its_root
                found.setdefault(its_root, []).append(task)
                break
    return found


def _lost(story: Story) -> list[dict[str, object]]:
    """Return the losses of ranks, in order."""
    return [
        {
            "launch": launch.epoch,
            "rank": event.rank,
            "host": story.host(index, event.rank),
            "time_s": event.time_s,
            "reason": event.reason,
            "has_returned": event.rank not in launch.lost_ranks,
        }
        for index, launch in enumerate(story.launches)
        for event in launch.rank_events
        if event.what == "lost"
    ]


# -- in sentences ----------------------------------------------------------------------------------------


def run_explanation_lines(facts: Facts) -> Iterator[str]:
    """Yield what was found out about a run, in sentences."""
    counts = facts["counts"]
    done = f"{counts[STATES[DONE_STATE]]:,} of {counted(facts['functions'], facts['noun'])} are done"
    others = [f"{counts[STATES[each]]:,} {word}" for each, word in _WORDS if counts[STATES[each]]]
    yield f"The run {_state(facts)}: {', '.join([done, *others])}."
    yield from _launch_lines(facts)
    yield from _cut_off_lines(facts["cut_off"])
    for group in facts["failed"]:
        yield from _group_lines(group)
    left_out = facts["failed_group_count"] - len(facts["failed"])
    if left_out > 0:
        yield f"Functions have failed for {counted(left_out, 'other reason')}."
    for each in facts["lost"]:
        yield _loss_line(each, len({one["launch"] for one in facts["lost"]}) > 1)
    failed = counts[STATES[FAILED_STATE]]
    if failed and not facts["failed"]:  # their arrays have not ended
        which = f"{counted(failed, 'element')} of arrays {'has' if failed == 1 else 'have'} failed"
        yield f"{which}: `handoff-mpi status {one_line(shell_word(facts['run_dir']))}` tells why."
    elif not facts["failed"] and not facts["lost"] and facts["state"] != "died":
        yield "No function has failed for good, and no rank was lost."
    for note in facts["notes"]:
        yield f"Note: {one_line(note, MAX_REASON)}"
    if facts["resume"]:
        yield f"To resume it: {one_line(facts['resume'])}"
    yield f"`handoff-mpi explain {one_line(shell_word(facts['run_dir']))} ID` explains one function."


_STATES = {
    "running": "is running",
    "done": "is done",
    "failed": "has failed",
    "stopped": "was stopped",
    "died": "has died before it ended",
}
_WORDS = ((FAILED_STATE, "failed"), (SKIPPED_STATE, "skipped"))


def _launch_lines(facts: Facts) -> Iterator[str]:
    launches = facts["launches"]
    if facts["launch_count"] < 2:
        return
    left_out = facts["launch_count"] - len(launches)
    yield f"It was launched {facts['launch_count']:,} times{f'; the last {len(launches)} of them' if left_out else ''}:"
    for each in launches:
        took = duration_text(max(0.0, each["stopped_s"] - each["started_s"]))
        when = f"launch {each['launch']}, from {moment_text(each['started_s'])} for {took}"
        restored = f"; {each['restored']:,} of {counted(each['functions'], facts['noun'])} had been done before"
        yield f"  {when} on {counted(each['ranks'], 'rank')}: it {_state(each)}{restored if each['restored'] else ''}"


def _cut_off_lines(ids: list[str]) -> Iterator[str]:
    if ids:
        more = f" and {len(ids) - MAX_LISTED:,} more" if len(ids) > MAX_LISTED else ""
        yield f"These ran when it ended, and have not ended: {', '.join(ids[:MAX_LISTED])}{more}."


def _state(facts: Facts) -> str:
    return _STATES.get(facts["state"], f"ended: {one_line(facts['state'], MAX_ID)}")


def _group_lines(group: Facts) -> Iterator[str]:
    names, more = ", ".join(group["ids"]), group["count"] - len(group["ids"])
    which = f"{names}{f' and {more:,} more' if more else ''} {'has' if group['count'] == 1 else 'have'} failed"
    reason = one_line(group["reason"], MAX_REASON) or "the reason is not recorded"
    calls = f" in {counted(group['calls'], 'call')}" if group["calls"] else ""
    yield f"{which}{calls}: {reason.rstrip('.')}."
    if group["skipped_count"]:
        left_out = group["skipped_count"] - len(group["skipped"])
        more_skipped = f" and {left_out:,} more" if left_out else ""
        yield f"  Skipped because of it: {', '.join(group['skipped'])}{more_skipped}."


def _loss_line(each: Facts, has_launches: bool) -> str:
    host = f" ({one_line(each['host'], MAX_ID)})" if each["host"] else ""
    when = f" at {moment_text(each['time_s'])}" if each["time_s"] is not None else ""
    launch = f" in launch {each['launch']}" if has_launches else ""
    returned = "; it has returned since" if each["has_returned"] else ""
    reason = one_line(each["reason"], MAX_REASON).rstrip(".")
    return f"Rank {each['rank']}{host} was lost{when}{launch}: {reason}{returned}."
