"""Lines about failures while a run continues: the first of each kind at once, the others as a count."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from handoff_mpi.dag import Plan
from handoff_mpi.dag.call_template import LIST, VALUES
from handoff_mpi.formatting import show
from handoff_mpi.messages import ErrorReport
from handoff_mpi.results.failure_groups import FailureGroup, group_key
from handoff_mpi.serialization import UNDECODABLE

#: Groups of failures whose first traceback is shown, and those of which a line is.
MAX_TRACEBACKS, MAX_LINES = 20, 100


class Announcer(Protocol):
    """Learns of failures as they happen, on rank 0."""

    def attempt_failed(self, task: int, attempt: int, rank: int, error: ErrorReport, delay_s: float | None) -> None:
        """An attempt failed; the next one follows in ``delay_s``, or it is not decided whether there is one if None."""

    def function_failed(self, task: int, attempt: int, rank: int, error: ErrorReport) -> None:
        """A function failed for good; the rank is -1 if no attempt had begun."""

    def close(self) -> None:
        """The run is over."""


@dataclass(slots=True)
class _Shown:
    """The lines printed so far about one group of failures.

    Attributes:
        group: the functions of it that failed for good.
        is_shown: whether a failure of it was shown.
        is_open: whether the function that was shown is tried again, so that nobody knows yet that one failed for good.
    """

    group: FailureGroup
    is_shown: bool = False
    is_open: bool = False


@dataclass(slots=True)
class FailurePrinter:
    """Says the first failure of each group with its traceback, whether or not it is tried again, and counts the others.

    Args:
        id_of: returns the id of a task, by its number.
        hosts: rank to host name.
        say: prints a line, or several.
        elements_of: returns the ids of the first elements that a number stands for, and how many there are; without it
            each number is one function.
    """

    id_of: Callable[[int], Hashable]
    hosts: Mapping[int, str]
    say: Callable[[str], None]
    elements_of: Callable[[int], tuple[Sequence[Hashable], int]] | None = None
    _groups: dict[tuple[str, str], _Shown] = field(default_factory=dict)
    _undecided: set[int] = field(default_factory=set)

    def attempt_failed(self, task: int, attempt: int, rank: int, error: ErrorReport, delay_s: float | None) -> None:
        shown = self._group(error)
        if shown.is_shown:
            return
        if delay_s is None:
            self._undecided.add(task)  # one a group at most
            self._show(shown, self._line(task, attempt, rank, error), error)
            return
        shown.is_open = True
        when = f" in {delay_s:.1f} s" if delay_s else ""
        who = f"function {show(self.id_of(task))} is tried again{when}"
        self._show(shown, f"{who}: attempt {attempt}{self._where(rank)} ended with {_what(error)}", error)

    def function_failed(self, task: int, attempt: int, rank: int, error: ErrorReport) -> None:
        shown = self._group(error)
        ids, count = ([self.id_of(task)], 1) if self.elements_of is None else self.elements_of(task)
        if not shown.group.count:
            shown.group.message = error.message  # so far it was that of an attempt, perhaps of another function
        shown.group.add_all(ids, count)
        if task in self._undecided:
            shown.is_shown = True  # its last attempt, whose failure may have other words
        elif not shown.is_shown:
            self._show(shown, self._line(task, attempt, rank, error), error)
        elif shown.is_open and len(self._groups) <= MAX_LINES:
            shown.is_open = False
            self.say(f"{self._line(task, attempt, rank, error)}{' (shown above)' if error.traceback else ''}")

    def groups(self) -> list[FailureGroup]:
        """Return the kinds of failures; those of attempts that may yet succeed have no functions."""
        return [shown.group for shown in list(self._groups.values())]

    def close(self) -> None:
        """Say how many functions failed as those did that were shown."""
        groups = self.groups()
        for group in groups[:MAX_LINES]:
            if group.count > 1:
                self.say(f"{group.what}: {show(group.ids[0])}{group.others()} failed")
        rest = sum(group.count for group in groups[MAX_LINES:])
        if rest:
            self.say(f"{rest:,} more functions failed, in other ways than those shown")

    def _group(self, error: ErrorReport) -> _Shown:
        key = group_key(error.kind, error.place, error.message)
        shown = self._groups.get(key)
        if shown is None:
            shown = self._groups[key] = _Shown(FailureGroup(error.kind, error.place, error.message))
        return shown

    def _show(self, shown: _Shown, line: str, error: ErrorReport) -> None:
        shown.is_shown = True
        if len(self._groups) > MAX_LINES:
            return
        if error.traceback and len(self._groups) <= MAX_TRACEBACKS:
            line += _indented(error.traceback)
        if error.output and len(self._groups) <= MAX_TRACEBACKS:
            line += "\n    its last output:" + _indented(error.output, 8)
        self.say(line)

    def _line(self, task: int, attempt: int, rank: int, error: ErrorReport) -> str:
        who = f"function {show(self.id_of(task))} failed{self._where(rank)}"
        return f"{who}{f', attempt {attempt}' if attempt else ''}: {_what(error)}"

    def _where(self, rank: int) -> str:
        return f" on rank {rank} ({self.hosts.get(rank, '?')})" if rank >= 0 else ""


def _indented(text: str, spaces: int = 4) -> str:
    margin = "\n" + spaces * " "
    return margin + text.rstrip().replace("\n", margin)


def _what(error: ErrorReport) -> str:
    return f"{error.kind}: {error.message}" if error.message else error.kind


def input_in_words(plan: Plan, task: int, error: ErrorReport, element: int = -1) -> str:
    """Return the message of ``error``, of a call that did not get an input, with that input named.

    Args:
        element: the first element of a call of an array.
    """
    number, _ = plan.sources_of(task, element)[error.input]
    mode, position = plan.call_templates[task][1], error.input + 1
    role = {VALUES: f"its argument {position}", LIST: f"item {position} of its first argument"}.get(mode, "its input")
    what = f"{role}, the value of {plan.shown_source(number)},"
    if error.message.startswith(UNDECODABLE):
        return f"{what} cannot be decoded{error.message[len(UNDECODABLE) :]}"
    return f"{error.message}; the input is {what[:-1]}"
