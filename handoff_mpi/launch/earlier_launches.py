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
from handoff_mpi.formatting import show
from handoff_mpi.launch.changes import ITS_INPUT, Acceptance, explain_changes, find_reasons
from handoff_mpi.launch.rerun import read_rerun
from handoff_mpi.launch.resume import ValueFiles, nothing_of, resume
from handoff_mpi.launch.start_line import shown_path
from handoff_mpi.results.column_file import ColumnFiles
from handoff_mpi.results.history import History, read_history
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
        acceptance: which changes of functions are accepted.
        marks: the fingerprints of the functions as they are now.
        resumed: what is taken over.

    Raises:
        UsageError: an option names a function that is not there.
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
        self._rerun = read_rerun(options.rerun, plan)
        self.history = history
        self.acceptance = Acceptance(history, plan, options.accept_changes)
        self.marks = Fingerprints({}, {}, 0)
        self.resumed = nothing_of(plan)
        if kept is not None:
            settle = self.acceptance.settle if self.acceptance.is_about_any else None
            self.marks = fingerprints(dag, settle, kinds)
            values, columns = ValueFiles(kept), ColumnFiles(kept.directory)
            how = values.is_intact, self._rerun, columns.intact_column
            self.resumed = resume(history, plan, self.marks.of, *how)
            for note in filter(None, (values.note, columns.note)):
                print_message(note)

    def lines(self, which: str) -> Iterator[str]:
        """Yield what a user should know of them.

        Args:
            which: names this launch.
        """
        count = len(self._plan)
        if self.resumed.rest:
            yield f"{which}: {len(self.resumed.rest)} of {count} functions are done"
            if self.marks.notes:
                yield _unknown(self.marks.notes)
        if self.history.done:
            again = [task for task in range(count) if task not in self.resumed.rest]
            yield from explain_changes(self.history, self._plan, self.marks, again)

    def reasons(self) -> dict[str, list[int]]:
        """Return why tasks run again that an earlier launch has done: reason to their numbers."""
        if not self.history.done:
            return {}
        return find_reasons(self.history, self._plan, self.marks, self.resumed, self._rerun)


def _unknown(notes: Mapping[Hashable, str]) -> str:
    id, why = next(iter(notes.items()))
    more = f" and {len(notes) - 1} more" if len(notes) > 1 else ""
    return f"the results of earlier launches are unusable for function {show(id)}{more} ({why}), so they run again"


@dataclass(frozen=True, slots=True)
class Again:
    """Functions that would run again for one reason, though an earlier launch has done them."""

    reason: str
    count: int
    ids: Sequence[str]

    def line(self) -> str:
        """Return what ``check`` prints of it."""
        more = f" and {self.count - len(self.ids):,} more" if self.count > len(self.ids) else ""
        return f"  {', '.join(self.ids)}{more}: {self.reason}"


@dataclass(frozen=True, slots=True)
class ResumeForecast:
    """A forecast of a launch with a run-dir: how much it would take over, and why functions would run again.

    Attributes:
        run_dir: as a user writes it.
        launches: how many there were.
        functions, done: how many there are, and how many would not run.
        again: those that would run again, by reason, the most frequent first.
    """

    run_dir: str
    launches: int
    functions: int
    done: int
    again: Sequence[Again]

    def to_json(self) -> dict[str, object]:
        """Return it for ``check --json``."""
        again = [{"reason": each.reason, "count": each.count, "ids": list(each.ids)} for each in self.again]
        return {"run_dir": self.run_dir, "launches": self.launches, "done": self.done, "again": again}

    def lines(self) -> Iterator[str]:
        """Yield what ``check`` prints."""
        runs = f"{self.functions - self.done:,} of {self.functions:,} functions would run"
        yield f"with --run-dir {self.run_dir} {runs}; {self.done:,} are done"
        if self.again:
            yield "an earlier launch has done these, and they would run again:"
        yield from (each.line() for each in self.again)


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
        done = len(earlier.resumed.rest)
        named = [Again(why, len(tasks), [shown(plan.ids[task]) for task in tasks[:_MAX_NAMED]]) for why, tasks in again]
        return ResumeForecast(shown_path(opened.path, directory), len(history.launches), len(plan), done, named)
