"""Finds changes since an earlier launch: why functions run again that were done, and which changes are accepted."""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Iterator, Sequence
from functools import cached_property

from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.callbacks import shown
from handoff_mpi.dag import Plan
from handoff_mpi.dag.fingerprint import Fingerprints, ObjectDigests
from handoff_mpi.errors import UsageError
from handoff_mpi.formatting import counted, show
from handoff_mpi.launch.elements_taken_over import spread
from handoff_mpi.launch.rerun import Rerun, with_blocks
from handoff_mpi.launch.resume import Resumed
from handoff_mpi.results.array_history import ArrayLaunch
from handoff_mpi.results.launches import History, Identity, Launch
from handoff_mpi.results.replaced import NAMED_BY_RERUN, dropped_by, made_of
from handoff_mpi.suggestions import did_you_mean

_MAX_LINES = 3
#: A reason that names an input of a function begins so.
ITS_INPUT = "its input"
#: The reason of elements that an earlier launch computed from others.
OTHER_ARGUMENTS = "the arguments of these elements changed"
#: The reason of what would be kept by acceptance, if ``--rerun`` did not replace what the value was made of.
MADE_OF_REPLACED = "--rerun replaces what its value was made of"
#: Why a function runs again of which nobody knows whether it has changed.
BEHIND_WINDOWED = "it depends on all elements of an array with a window, which are compared as they come"
#: Why a function runs again that had pairs of an array, ``missing="skip"``.
MORE_VALUES = "more of the elements that it was made of have values now"
#: Changes with which a function may return what it did; with other arguments it is not expected to.
_ACCEPTABLE = re.compile(r"Python is |the code of ")
HOW_TO_KEEP = "add --accept-changes NAME"


class Acceptance:
    """Which functions keep the values that earlier launches gave them, though they have changed.

    What was accepted once is accepted for good: it is in the journal.

    Args:
        history: of earlier launches.
        plan: of the functions as they are now.
        accepted: ids of functions, or names of their codes, whose changes are accepted now.

    Attributes:
        new: (id, fingerprint, the fingerprint that it stands for) of each change that is accepted now.
        refused: the functions whose change is not accepted, now or any more, see :meth:`refuse`.
        replaced: the numbers of those of them that go by the same fingerprint all the same, and must run again.

    Raises:
        UsageError: ``accepted`` names what is neither.
    """

    def __init__(self, history: History, plan: Plan, accepted: Collection[Hashable]) -> None:
        self.new: list[tuple[Hashable, bytes, bytes]] = []
        self.refused: set[Hashable] = set()
        self.replaced: set[int] = set()
        self._history = history
        self._before = history.accepted
        self._plan = plan
        self._known: list[Hashable] = []  # the changes of which were accepted before
        self._settled: set[Identity] = set()  # what functions go by that have changed
        self._ids = _ids_meant(plan, accepted)
        self._done = history.fingerprints_done() if self._ids else {}

    @property
    def is_about_any(self) -> bool:
        """Whether any change was accepted, now or before."""
        return bool(self._before or self._ids)

    def lines(self, resumed: Resumed) -> Iterator[str]:
        """Yield what comes of the changes that are accepted now."""
        if not self._ids:
            return
        new, before = self._kept([id for id, _, _ in self.new], resumed), self._kept(self._known, resumed)
        if new:
            yield f"--accept-changes: the values of {new} are kept as they were before the change"
        if before:
            yield f"--accept-changes: the values of {before} are kept, as was accepted before"
        if not (new or before or self.refused):  # a line tells why those run
            yield f"--accept-changes has nothing to accept: {self._why_nothing(resumed)}"

    def _kept(self, ids: Sequence[Hashable], resumed: Resumed) -> str:
        """Return in words which values of the functions ``ids`` are taken over; empty if none is."""
        kept = [self._plan.number_of[id] for id in ids]
        arrays = [task for task in kept if task in self._plan.arrays]
        functions = sum(resumed.keeps(task) for task in kept if task not in self._plan.arrays)
        elements = sum(len(resumed.elements_kept(task)) for task in arrays)
        return in_words(self._plan, functions, arrays, elements) if functions or elements else ""

    def _why_nothing(self, resumed: Resumed) -> str:
        names = shown(next(iter(self._ids))) if len(self._ids) == 1 else f"these {len(self._ids):,} functions"
        if not self._ids & self._done.keys():
            return f"no earlier launch has a value of {names}"
        if self.new or self._known:
            return f"the values of {names} are not there any more, or run again for another reason"
        changed = f"{names} has not changed" if len(self._ids) == 1 else f"none of {names} has changed"
        return f"{changed} since an earlier launch made its values"

    def settle(self, id: Hashable, fingerprint: bytes) -> bytes:
        """Return the fingerprint by which the function ``id`` goes, which has ``fingerprint`` by now."""
        if id in self.refused:
            return fingerprint
        known = self._before.get((id, fingerprint))
        if known is not None and id in self._ids:
            self._known.append(id)
        if known is None and id in self._ids:
            known = self._done.get(id)
            if known is not None and known != fingerprint:
                self.new.append((id, fingerprint, known))
        if known is None or known == fingerprint:
            return fingerprint
        self._settled.add((id, known))
        return known

    def refuse(self, rerun: Rerun, marks: Fingerprints) -> bool:
        """Find the values that would be kept, though they were made of what ``rerun`` replaces.

        Such a value is of an earlier launch, where the function took what it does not take now, or its inputs did: what
        depends on it in this launch tells nothing of that. Only where a change was accepted, such a function goes by
        the same fingerprint.

        Args:
            marks: the fingerprints by which the functions would go.

        Returns:
            Whether functions go by other fingerprints then, which change those of others.
        """
        accepted = self._history.accepted_marks | self._settled
        if not (accepted and rerun.named):
            return False
        plan, (fresh, again) = self._plan, spread(self._plan, rerun)
        of = [(id, marks.of(id)) for id in plan.ids]
        replaced = {plan.ids[task] for task in rerun.named} | {of[task] for task in {*fresh, *again}}
        may_be = accepted | {each for each in of if each[0] in self._ids}  # once inputs of it go by others
        kept = may_be.intersection(of) - {of[task] for task in fresh}
        for launch, start, found in made_of(self._history.launches, replaced, {*of} - may_be, accepted):
            for task in found:
                identity = launch.identity(task)
                if identity in kept and self._is_of(launch, task, start | found):
                    self.refused.add(identity[0])
                    if identity in accepted and identity not in self._settled:
                        self.replaced.add(plan.number_of[identity[0]])
        has_others = any(id in self.refused for id, _ in self._settled)
        if has_others:
            self.new, self._known, self._settled = [], [], set()
        return has_others

    def _is_of(self, launch: Launch, task: int, replaced: Collection[int]) -> bool:
        """Whether a launch made a value that counts of what is replaced."""
        identity = launch.identity(task)
        made = next((e for e in self._history.arrays.get(identity, ()) if e.epoch == launch.epoch and e.parts), None)
        if made is not None:
            return not self._took_it_by_element(launch, task, made, replaced)
        done = self._history.done.get(identity)
        return done is not None and done.epoch == launch.epoch

    def _took_it_by_element(self, launch: Launch, task: int, made: ArrayLaunch, replaced: Collection[int]) -> bool:
        """Whether only elements took what is replaced, and take it now: each of them is compared by itself."""
        (id, *_, inputs, _), plan = launch.tasks[task], self._plan
        array, spec = plan.arrays.get(plan.number_of[id]), plan.specs[plan.number_of[id]]
        if array is None or made.shared is None or not made.shared.isdisjoint(replaced):
            return False
        if [*made.digests] != [each.digests(ObjectDigests()) for each in array.elements]:
            return False
        by_element = {plan.ids[each] for each in spec.needs if each not in spec.inputs}
        return by_element.issuperset(launch.tasks[each][0] for each in inputs if each in replaced)


def _ids_meant(plan: Plan, accepted: Collection[Hashable]) -> set[Hashable]:
    meant, wanted = set[int](), set(accepted)
    if wanted:
        for task, id in enumerate(plan.ids):
            if id in wanted or plan.code_names[plan.specs[task].code] in wanted:
                meant.add(task)
    unknown = [name for name in accepted if name not in plan.number_of and name not in plan.code_names]
    if unknown:
        what = f"accept_changes names {show(unknown[0])}{f' and {len(unknown) - 1:,} more' if len(unknown) > 1 else ''}"
        hint = did_you_mean(unknown[0], plan.number_of) or did_you_mean(unknown[0], dict.fromkeys(plan.code_names))
        raise UsageError(f"{what}, which is neither a function of the DAG nor the name of a code{hint}")
    return {plan.ids[task] for task in with_blocks(meant, plan)}


def is_acceptable(reason: str) -> bool:
    """Whether a function that runs again for ``reason`` may well give what it gave before, which can be kept then."""
    return _ACCEPTABLE.match(reason) is not None


def in_words(plan: Plan, functions: int, arrays: Sequence[int], elements: int) -> str:
    """Return so many functions, and elements of arrays, in words."""
    of = shown(plan.ids[arrays[0]]) if len(arrays) == 1 else f"{len(arrays):,} arrays"
    parts = [counted(functions, "function")] if functions or not arrays else []
    parts += [f"{counted(elements, 'element')} of {of}"] if arrays else []
    return " and ".join(parts)


class Changes:
    """Which functions run again that an earlier launch has done, and why: they have changed, or are named, or ...

    Args:
        history: of earlier launches.
        plan: of the functions as they are now.
        marks: the fingerprints of these.
        resumed: what is taken over from the earlier launches.
        rerun: what the user wants to run again.
        refused: the functions whose changes are not accepted, because of that.
    """

    def __init__(
        self,
        history: History,
        plan: Plan,
        marks: Fingerprints,
        resumed: Resumed,
        rerun: Rerun,
        refused: Collection[Hashable] = (),
    ) -> None:
        self._history = history
        self._plan = plan
        self._marks = marks
        self._resumed = resumed
        self._rerun = rerun
        self._refused = refused
        self._elements: dict[int, int] = {}

    def lines(self) -> Iterator[str]:
        """Yield what has changed, and what runs again because of it, the most frequent reasons first."""
        reasons: dict[str, list[int]] = {}
        for task in sorted(self._changed):
            reasons.setdefault(self._reason(task), []).append(task)
        behind = reasons.pop("", [])
        for task in self._again:
            if task not in self._changed and self._resumed.other_arguments.get(task):
                reasons.setdefault(OTHER_ARGUMENTS, []).append(task)
            elif task not in self._changed and task in self._resumed.outdated:
                reasons.setdefault(MORE_VALUES, []).append(task)
        for task, launch in self._dropped.items():
            if task not in self._plan.arrays or self.elements(task):
                reasons.setdefault(dropped_by(launch), []).append(task)
        by_number = sorted(reasons.items(), key=lambda item: -len(item[1]))
        for reason, tasks in by_number[:_MAX_LINES]:
            yield f"{reason}: {self.text(tasks)} again"
        if len(by_number) > _MAX_LINES:
            yield f"{len(by_number) - _MAX_LINES:,} more changes of this kind"
        if behind:
            yield self._text_behind(behind, bool(reasons))
        if any(map(is_acceptable, reasons)):
            yield f"to keep the old values instead, stop the run and {HOW_TO_KEEP}"

    def reasons(self) -> dict[str, list[int]]:
        """Return why functions run again that an earlier launch has done: reason to their numbers, for the journal."""
        reasons: dict[str, list[int]] = {}
        for task in self._again:
            reasons.setdefault(self._any_reason(task), []).append(task)
        for task, launch in self._dropped.items():
            reasons.setdefault(dropped_by(launch), []).append(task)
        return reasons

    def text(self, tasks: Collection[int]) -> str:
        """Return in words that these functions, and elements of arrays, run."""
        words, is_one = self._words(tasks)
        return f"{words} {'runs' if is_one else 'run'}"

    def _text_behind(self, tasks: Collection[int], is_told_of_others: bool) -> str:
        """Return in words that these functions run again because of the changes of others."""
        words, is_one = self._words(tasks)
        if is_told_of_others:
            return f"{words} that {'depends on them runs' if is_one else 'depend on them run'} again"
        return f"{self.text(tasks)} again as {'its' if len(tasks) == 1 else 'their'} inputs have changed"

    def _words(self, tasks: Collection[int]) -> tuple[str, bool]:
        """Return functions, and elements of arrays, in words, and whether that is one call."""
        arrays = [task for task in tasks if task in self._plan.arrays]
        functions, elements = len(tasks) - len(arrays), sum(map(self.elements, arrays))
        return in_words(self._plan, functions, arrays, elements), functions + elements == 1

    def elements(self, array: int) -> int:
        """Return how many elements of an array have had values, and have none now."""
        if array not in self._elements:
            self._elements[array] = self._count_elements(array)
        return self._elements[array]

    def _count_elements(self, array: int) -> int:
        frozen, mark = self._plan.arrays[array], self._done.get(self._plan.ids[array])
        if array in self._dropped and frozen.window is None:
            return frozen.count
        launches = self._history.arrays.get((self._plan.ids[array], mark), ())
        if not launches or (frozen.window is not None and array not in self._changed):
            return 0  # a windowed array is compared with what was while its elements come
        left = launches[-1].have.copy()
        if frozen.window is None:
            left = IntervalSet(left.within(0, frozen.count))
        for interval in self._resumed.array_values[array].have:
            left.discard(*interval)
        return len(left)

    # -- which -------------------------------------------------------------------------------------------

    @cached_property
    def _done(self) -> dict[Hashable, bytes]:
        return self._history.fingerprints_done()

    @cached_property
    def _changed(self) -> set[int]:
        """The functions that run, and that an earlier launch has done with another fingerprint."""
        return {task for task in self._open if self._mark(task) not in (None, self._done.get(self._plan.ids[task]))}

    @cached_property
    def _open(self) -> list[int]:
        """The functions that run, and of which an earlier launch has a value, of arrays one of an element."""
        kept = self._kept
        done = self._done
        return [task for task, id in enumerate(self._plan.ids) if id in done and task not in kept] if done else []

    @cached_property
    def _kept(self) -> set[int]:
        """The functions that are taken over, or may be once all elements of windowed arrays have come."""
        resumed = self._resumed
        later = set[int]() if resumed.later is None else resumed.later.rest.keys() & resumed.unknown
        return later | resumed.rest.keys()

    @cached_property
    def _again(self) -> list[int]:
        """The functions that run again, and the arrays any element of which does."""
        done = {id for id, _ in self._history.done}
        if not (done or self._open):
            return []
        functions = {task for task, id in enumerate(self._plan.ids) if id in done and task not in self._kept}
        arrays = {task for task in self._open if task in self._plan.arrays and self.elements(task)}
        return sorted(functions | arrays)

    @cached_property
    def _dropped(self) -> dict[int, int]:
        """The functions that run again as a launch that did not hold them dropped what they had given: by which one."""
        dropped, found = self._history.dropped, dict[int, int]()
        for task, id in enumerate(self._plan.ids) if dropped else ():
            launches = () if task in self._kept or id in self._done else dropped.get((id, self._mark(task)), ())
            if launches:
                found[task] = launches[-1]
        return found

    def _is_altered(self, task: int) -> bool:
        """Whether a function has changed, or elements of an array run that had no value, or another one."""
        return task in self._changed or (task in self._plan.arrays and task not in self._resumed.rest)

    def _mark(self, task: int) -> bytes | None:
        return self._marks.of(self._plan.ids[task])

    # -- why ---------------------------------------------------------------------------------------------

    def _any_reason(self, task: int) -> str:
        if self._plan.ids[task] in self._refused:
            return MADE_OF_REPLACED
        if task in self._resumed.rerun:
            return NAMED_BY_RERUN if task in self._rerun.named else "--rerun names a function that it depends on"
        if task in self._resumed.unknown:
            return BEHIND_WINDOWED
        if task in self._changed:
            return self._reason(task) or self._changed_input(task)
        if task in self._resumed.outdated and not self._resumed.other_arguments.get(task):
            return MORE_VALUES
        return self._why_elements(task) if task in self._plan.arrays else self._why_unusable(task)

    def _reason(self, task: int) -> str:
        """Return why a function is not what it was; an empty string if that is only because of its inputs."""
        before, spec, marks = self._history.launches[-1], self._plan.specs[task], self._marks
        name = self._plan.code_names[spec.code]
        if self._plan.ids[task] in self._refused:
            return MADE_OF_REPLACED
        if before.python and before.python != marks.python:
            return f"Python is {marks.python} now and was {before.python}"
        if before.codes and before.codes.get(name) != marks.codes.get(name):
            return f"the code of {name!r} changed"
        if any(map(self._is_altered, spec.needs)):
            return ""
        what = "the arguments of " if before.codes else ""
        return f"{what}{shown(self._plan.ids[task])} changed"

    def _changed_input(self, task: int) -> str:
        inputs = [each for each in self._plan.specs[task].needs if self._is_altered(each)]
        more = f", and so have {len(inputs) - 1:,} more of its inputs" if len(inputs) > 1 else ""
        return f"{ITS_INPUT} {shown(self._plan.ids[inputs[0]])} has changed{more}"

    def _why_elements(self, array: int) -> str:
        """Return why elements of an array run again, although what they have in common has not changed."""
        if self._resumed.other_arguments.get(array):
            return OTHER_ARGUMENTS
        if self._plan.arrays[array].links or self._plan.arrays[array].handles:
            return "what these elements take has changed"
        return "the file of these values is missing or damaged"

    def _why_unusable(self, task: int) -> str:
        """Return why nothing is left of what an earlier launch has done, although the function has not changed."""
        id = self._plan.ids[task]
        mark = self._marks.of(id)
        if mark is None:
            return f"it has no fingerprint ({self._marks.notes.get(id, 'the reason is unknown')})"
        done = self._history.done.get((id, mark))
        is_kept = done is not None and done.has_value
        return "the file of its value is missing or damaged" if is_kept else "its value was not kept and is needed"
