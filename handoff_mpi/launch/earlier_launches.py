"""The earlier launches of a run: what a launch takes over from them, and why functions run again."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from handoff_mpi.callbacks import shown
from handoff_mpi.console import print_message
from handoff_mpi.dag import DAG, Plan
from handoff_mpi.dag.fingerprint import Fingerprints, fingerprints
from handoff_mpi.dag.kinds import Kinds
from handoff_mpi.errors import UsageError
from handoff_mpi.formatting import counted, show
from handoff_mpi.launch.changes import HOW_TO_KEEP, ITS_INPUT, Acceptance, Changes, is_acceptable
from handoff_mpi.launch.rerun import Rerun, read_rerun
from handoff_mpi.launch.resume import ValueFiles, nothing_of, resume
from handoff_mpi.launch.start_line import shown_path
from handoff_mpi.results.column_file import ColumnFiles
from handoff_mpi.results.history import read_history
from handoff_mpi.results.launches import History
from handoff_mpi.results.run_dir import VALUES
from handoff_mpi.results.secure_files import open_directory
from handoff_mpi.results.store import DirectoryStore
from handoff_mpi.runtime.options import RunOptions

#: For each reason why functions run again so many of them are named.
_MAX_NAMED = 3


class EarlierLaunches:
    """The earlier launches of a run, and what this one takes over from them.

    Args:
        dag, plan, kinds: what runs now.
        options: how it runs.
        kept: the values that outlast a launch; None if the run keeps no files, and so takes nothing over.
        history: of the earlier launches, as the files tell it.

    Attributes:
        history: as given.
        rerun: what the user has named to run again.
        acceptance: which changes of functions are accepted.
        changes: which functions run again that an earlier launch has done.
        marks: the fingerprints of the functions as they are now.
        resumed: what is taken over.

    Raises:
        UsageError: an option names a function that is not there, or the earlier launches were of another DAG.
    """

    def __init__(
        self,
        dag: DAG,
        plan: Plan,
        kinds: Kinds,
        options: RunOptions,
        kept: DirectoryStore | None,
        history: History,
    ) -> None:
        self._plan = plan
        _refuse_another_dag(history, dag, plan)
        self.rerun = rerun = read_rerun(options.rerun, plan)
        self.history = history
        self.acceptance = Acceptance(history, plan, options.accept_changes)
        self.marks = Fingerprints({}, {}, 0)
        self.resumed = nothing_of(plan)
        if kept is not None:
            settle = self.acceptance.settle if self.acceptance.is_about_any else None
            self.marks = fingerprints(dag, settle, kinds)
            while self.acceptance.refuse(rerun, self.marks):
                self.marks = fingerprints(dag, settle, kinds)
            values, columns = ValueFiles(kept), ColumnFiles(kept.directory)
            again = Rerun(rerun.tasks | self.acceptance.replaced, rerun.elements)
            how = values.is_intact, again, columns.intact_column
            self.resumed = resume(history, plan, self.marks.of, *how)
            for note in filter(None, (values.note, columns.note)):
                print_message(note)
        self.changes = Changes(history, plan, self.marks, self.resumed, rerun, self.acceptance.refused)

    @property
    def calls(self) -> int:
        """How many calls the run consists of: of an array, one for each element; those of windowed ones are unknown."""
        arrays = self._plan.arrays.values()
        return len(self._plan) + sum(-1 if each.window is not None else each.count - 1 for each in arrays)

    @property
    def calls_done(self) -> int:
        """How many of them need not be made."""
        functions = sum(task not in self._plan.arrays for task in self.resumed.rest)
        return functions + sum(map(len, self.resumed.array_values.values()))

    @property
    def of_windowed(self) -> list[str]:
        """The words for the elements of each windowed array: they are compared with earlier ones as they come."""
        found = []
        for task, array in self._plan.arrays.items():
            if array.source is not None:  # those that take its elements follow
                have, before = [self.resumed.elements_kept(task, window) for window in (array.window, None)]
                many = f"{counted(len(have), 'element')} {'has a value' if len(have) == 1 else 'have values'}"
                kept = f"{many}, kept where the iterables give the same again" if have else "no element has a value"
                if before and not have:
                    kept = f"all elements run again ({len(before):,} have values), as its window was another one"
                found.append(f"of {shown(self._plan.ids[task])} {kept}")
        return found

    @property
    def noun(self) -> str:
        """The noun for what the run consists of."""
        return "calls" if self._plan.arrays else "functions"

    def lines(self, which: str) -> Iterator[str]:
        """Yield what a user should know of them.

        Args:
            which: names this launch.
        """
        if any(launch.tasks for launch in self.history.launches):  # of --fresh nothing is left but the number
            of_windowed = self.of_windowed
            are_done = [f"{self.calls_done:,} of {self.calls:,} {self.noun} are done"]
            yield f"{which}: {'; '.join([*(are_done if self.calls or not of_windowed else ()), *of_windowed])}"
        if self.history.done or self.history.arrays:
            if self.marks.notes:
                yield _unknown(self.marks.notes)
            yield from self.changes.lines()
            yield from self.acceptance.lines(self.resumed)

    def reasons(self) -> dict[str, list[int]]:
        """Return why tasks run again that an earlier launch has done: reason to their numbers."""
        return self.changes.reasons()


def _refuse_another_dag(history: History, dag: DAG, plan: Plan) -> None:
    """Refuse to add a run to the files of one that has another name, and no function of the same id.

    Raises:
        UsageError: it is one.
    """
    names = [launch.about.get("dag_id") for launch in history.launches if launch.tasks]
    if not names or dag.id in names:
        return
    if any(row[0] in plan.number_of for launch in history.launches for row in launch.tasks):
        return
    what = f"the run-dir holds the run of another DAG, {show(names[-1])}, and no function of DAG {show(dag.id)}"
    raise UsageError(f"{what}; name another --run-dir, or replace that run with --fresh")


def _unknown(notes: Mapping[Hashable, str]) -> str:
    id, why = next(iter(notes.items()))
    more = f" and {len(notes) - 1:,} more" if len(notes) > 1 else ""
    return f"the results of earlier launches are unusable for function {show(id)}{more} ({why}), so they run again"


@dataclass(frozen=True, slots=True)
class Again:
    """Functions that would run again for one reason, though an earlier launch has done them.

    Attributes:
        ids: of some of them, as Python shows them.
        elements: of each of those, how many elements would run again; 0 of what is no array.
    """

    reason: str
    count: int
    ids: Sequence[str]
    elements: Sequence[int]

    def line(self) -> str:
        """Return what ``check`` prints of it."""
        texts = [f"{counted(n, 'element')} of {id}" if n else id for id, n in zip(self.ids, self.elements, strict=True)]
        more = f" and {self.count - len(self.ids):,} more" if self.count > len(self.ids) else ""
        return f"  {', '.join(texts)}{more}: {self.reason}"

    def to_json(self) -> dict[str, object]:
        """Return it for ``check --json``."""
        fields: dict[str, object] = {"reason": self.reason, "count": self.count, "ids": [*self.ids]}
        return {**fields, "elements": [*self.elements]} if any(self.elements) else fields


@dataclass(frozen=True, slots=True)
class ResumeForecast:
    """A forecast of a launch with a run-dir: how much it would take over, and why functions would run again.

    Attributes:
        run_dir: as a user writes it.
        launches: how many there were.
        done: how many functions would not run.
        calls, calls_done: how many calls there are, and how many would not be made; see :class:`EarlierLaunches`.
        noun: for what these are.
        again: those that would run again, by reason, the most frequent first.
        accepted: which values would be kept, though their functions have changed, in lines.
        of_windowed: what there is of windowed arrays, whose elements are in no count; see :class:`EarlierLaunches`.
    """

    run_dir: str
    launches: int
    done: int
    calls: int
    calls_done: int
    noun: str
    again: Sequence[Again]
    accepted: Sequence[str] = ()
    of_windowed: Sequence[str] = ()

    def to_json(self) -> dict[str, object]:
        """Return it for ``check --json``."""
        again = [each.to_json() for each in self.again]
        calls = {"calls": self.calls, "calls_done": self.calls_done}
        return {"run_dir": self.run_dir, "launches": self.launches, "done": self.done, **calls, "again": again}

    def lines(self) -> Iterator[str]:
        """Yield what ``check`` prints."""
        parts = [*self.of_windowed]
        if self.calls or not parts:
            done = f"{self.calls_done:,} {'is' if self.calls_done == 1 else 'are'} done"
            parts[:0] = f"{self.calls - self.calls_done:,} of {self.calls:,} {self.noun} would run", done
        yield f"with --run-dir {self.run_dir} {'; '.join(parts)}"
        yield from self.accepted
        if self.again:
            yield "an earlier launch has done these, and they would run again:"
        yield from (each.line() for each in self.again)
        if any(is_acceptable(each.reason) for each in self.again):
            yield f"to keep the old values instead, {HOW_TO_KEEP}"


def _by_kind(reasons: Mapping[str, Sequence[int]]) -> list[tuple[str, list[int]]]:
    """Return the reasons with their tasks, the most frequent first; those that name an input are one."""
    kinds: dict[str, list[int]] = {}
    for reason, tasks in reasons.items():
        kinds.setdefault("an input has changed" if reason.startswith(ITS_INPUT) else reason, []).extend(tasks)
    return sorted(((why, sorted(tasks)) for why, tasks in kinds.items()), key=lambda item: -len(item[1]))


def forecast_resume(dag: DAG, options: RunOptions, directory: str) -> ResumeForecast | None:
    """Return what a run of a valid DAG would take over from its run-dir; None where no run has begun.

    Args:
        directory: the current one, by which a user names the run-dir.

    Raises:
        UsageError, JournalError: the run-dir cannot be used.
    """
    if not isinstance(options.run_dir, (str, Path)) or options.fresh or not Path(options.run_dir).is_dir():
        return None
    with open_directory(Path(options.run_dir).absolute()) as opened:
        history = read_history(opened)
        if not history.launches:
            return None
        kinds, plan = dag.find_kinds(), Plan(options.keep, directory)
        plan.add(dag, kinds)
        kept = DirectoryStore(opened.path / VALUES, within=opened)
        try:
            earlier = EarlierLaunches(dag, plan, kinds, options, kept, history)
            again = _by_kind(earlier.reasons())
        finally:
            kept.close()
        named = []
        for why, tasks in again:
            elements = [earlier.changes.elements(task) if task in plan.arrays else 0 for task in tasks[:_MAX_NAMED]]
            named.append(Again(why, len(tasks), [shown(plan.ids[task]) for task in tasks[:_MAX_NAMED]], elements))
        counts = len(earlier.resumed.rest), earlier.calls, earlier.calls_done, earlier.noun
        others = [*earlier.acceptance.lines(earlier.resumed)], earlier.of_windowed
        return ResumeForecast(shown_path(opened.path, directory), len(history.launches), *counts, named, *others)
