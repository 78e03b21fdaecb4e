"""Finds changes since an earlier launch: why functions run again that were done, and which changes are accepted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable

from handoff_mpi.callbacks import shown
from handoff_mpi.dag import Plan
from handoff_mpi.dag.fingerprint import Fingerprints
from handoff_mpi.errors import UsageError
from handoff_mpi.formatting import show
from handoff_mpi.launch.rerun import Rerun
from handoff_mpi.launch.resume import Resumed
from handoff_mpi.results.history import History
from handoff_mpi.suggestions import did_you_mean

_MAX_LINES = 3
#: A reason that names an input of a function begins so.
ITS_INPUT = "its input"


class Acceptance:
    """Which functions keep the values that earlier launches gave them, though they have changed.

    What was accepted once is accepted for good: it is in the journal.

    Args:
        history: of earlier launches.
        plan: of the functions as they are now.
        accepted: ids of functions, or names of their codes, whose changes are accepted now.

    Attributes:
        new: (id, fingerprint, the fingerprint that it stands for) of each change that is accepted now.

    Raises:
        UsageError: ``accepted`` names what is neither.
    """

    def __init__(self, history: History, plan: Plan, accepted: Collection[Hashable]) -> None:
        self.new: list[tuple[Hashable, bytes, bytes]] = []
        self._before = history.accepted
        self._ids = _ids_meant(plan, accepted)
        self._done = history.fingerprints_done() if self._ids else {}

    @property
    def is_about_any(self) -> bool:
        """Whether any change was accepted, now or before."""
        return bool(self._before or self._ids)

    def settle(self, id: Hashable, fingerprint: bytes) -> bytes:
        """Return the fingerprint by which the function ``id`` goes, which has ``fingerprint`` by now."""
        known = self._before.get((id, fingerprint))
        if known is None and id in self._ids:
            known = self._done.get(id)
            if known is not None and known != fingerprint:
                self.new.append((id, fingerprint, known))
        return fingerprint if known is None else known


def _ids_meant(plan: Plan, accepted: Collection[Hashable]) -> set[Hashable]:
    meant, wanted = set(), set(accepted)
    if wanted:
        for task, id in enumerate(plan.ids):
            if id in wanted or plan.code_names[plan.specs[task].code] in wanted:
                meant.add(id)
    unknown = [name for name in accepted if name not in plan.number_of and name not in plan.code_names]
    if unknown:
        what = f"accept_changes names {show(unknown[0])}{f' and {len(unknown) - 1} more' if len(unknown) > 1 else ''}"
        hint = did_you_mean(unknown[0], plan.number_of) or did_you_mean(unknown[0], dict.fromkeys(plan.code_names))
        raise UsageError(f"{what}, which is neither a function of the DAG nor the name of a code{hint}")
    return meant


def explain_changes(history: History, plan: Plan, marks: Fingerprints, again: Collection[int]) -> list[str]:
    """Return why functions run again that an earlier launch has done, the most frequent reasons first.

    Args:
        marks: the fingerprints of the functions as they are now.
        again: the numbers of the functions that run.
    """
    changed = _changed(history, plan, marks, again)
    if not changed:
        return []
    reasons: Counter[str] = Counter()
    behind = 0
    for task in sorted(changed):
        reason = _reason(history, plan, marks, task, changed)
        reasons[reason] += bool(reason)
        behind += not reason
    lines = [f"{reason}: {_functions(count)} again" for reason, count in reasons.most_common() if reason]
    rest = len(lines) - _MAX_LINES
    if rest > 0:
        lines[_MAX_LINES:] = [f"{rest} more changes of this kind"]
    if behind:
        lines.append(f"{_functions(behind)} again behind them")
    return [*lines, "--accept-changes NAME keeps what a function gave before it changed"]


def find_reasons(
    history: History, plan: Plan, marks: Fingerprints, resumed: Resumed, rerun: Rerun
) -> dict[str, list[int]]:
    """Return why functions run again that an earlier launch has done: reason to their numbers, for the journal.

    Args:
        marks: the fingerprints of the functions as they are now.
        resumed: what is taken over from earlier launches.
        rerun: what the user wants to run again.
    """
    done_ids = {id for id, _ in history.done}
    again = [task for task, id in enumerate(plan.ids) if task not in resumed.rest and id in done_ids]
    changed = _changed(history, plan, marks, again)
    named = rerun.named
    reasons: dict[str, list[int]] = {}
    for task in again:
        if task in resumed.rerun:
            reason = "--rerun names it" if task in named else "--rerun names a function that it depends on"
        elif task in changed:
            reason = _reason(history, plan, marks, task, changed) or _changed_input(plan, task, changed)
        else:
            reason = _why_unusable(history, plan.ids[task], marks)
        reasons.setdefault(reason, []).append(task)
    return reasons


def _changed(history: History, plan: Plan, marks: Fingerprints, again: Collection[int]) -> set[int]:
    """Return which of the functions ``again`` an earlier launch has done with another fingerprint."""
    done = history.fingerprints_done() if again else {}
    return {task for task in again if (id := plan.ids[task]) in done and marks.of(id) not in (None, done[id])}


def _changed_input(plan: Plan, task: int, changed: Collection[int]) -> str:
    inputs = [each for each in plan.specs[task].needs if each in changed]
    more = f", and so have {len(inputs) - 1} more of its inputs" if len(inputs) > 1 else ""
    return f"{ITS_INPUT} {shown(plan.ids[inputs[0]])} has changed{more}"


def _why_unusable(history: History, id: Hashable, marks: Fingerprints) -> str:
    """Return why nothing is left of what an earlier launch has done, although the function has not changed."""
    mark = marks.of(id)
    if mark is None:
        return f"it has no fingerprint ({marks.notes.get(id, 'the reason is unknown')})"
    done = history.done.get((id, mark))
    is_kept = done is not None and done.has_value
    return "the file of its value is missing or damaged" if is_kept else "its value was not kept and is needed"


def _reason(history: History, plan: Plan, marks: Fingerprints, task: int, changed: Collection[int]) -> str:
    """Return why a function is not what it was; an empty string if that is only because of its inputs."""
    before, spec = history.launches[-1], plan.specs[task]
    name = plan.code_names[spec.code]
    if before.python and before.python != marks.python:
        return f"Python is {marks.python} now and was {before.python}"
    if before.codes and before.codes.get(name) != marks.codes.get(name):
        return f"the code of {name!r} changed"
    if any(each in changed for each in spec.needs):
        return ""
    what = "the arguments of " if before.codes else ""
    return f"{what}{shown(plan.ids[task])} changed"


def _functions(count: int) -> str:
    return f"{count} functions run" if count != 1 else "1 function runs"
