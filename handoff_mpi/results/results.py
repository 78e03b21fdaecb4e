"""The results of a run: values, where each function ran, its failures and their causes."""

from __future__ import annotations

import itertools
import shlex
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, ValuesView
from copy import copy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from handoff_mpi.arrays.values import ArrayValues
from handoff_mpi.dag.function import input_id
from handoff_mpi.dag.handle import ArrayElement, ArraySlice
from handoff_mpi.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_FITS_NO_MORE,
    EXIT_STOPPED,
    ValueDamaged,
    ValueUnavailable,
)
from handoff_mpi.formatting import MAX_CHARS, one_line, show
from handoff_mpi.results.array_result import ArrayResult, RunErrors
from handoff_mpi.results.failure_groups import FailureGroup, grouped
from handoff_mpi.results.function_error import FunctionError
from handoff_mpi.results.limits import describe_use
from handoff_mpi.results.origins import Origins
from handoff_mpi.results.printed_output import PrintedOutput
from handoff_mpi.results.records import Incident, RecordTable, TaskRecord, count_elements
from handoff_mpi.results.run_dir import VALUES
from handoff_mpi.results.store import DirectoryStore, Key
from handoff_mpi.serialization import EncodingError, Payload, decode_writable, encode
from handoff_mpi.suggestions import UnknownName

#: So many groups of equal failures are named in the message of an exception, and in a summary.
_MAX_IN_A_LINE, _MAX_IN_SUMMARY = 3, 10


@dataclass(slots=True, kw_only=True)
class PreparedResults:
    """The parts of :class:`Results`; a run, and :func:`~handoff_mpi.load`, fill them in.

    Attributes:
        dag_id, run, status, errors, run_dir, duration_s, stopped_because, hosts, slots, lost_ranks, lost_ranks_before,
            probation, capacity, stopped_on_failure: as in :class:`Results`.
        launch: the number of the launch, from 1.
        arrays: id to result of each array; its elements that failed are in no other attribute.
        records: what ran where and when.
        payloads: id to encoded value, of values in memory.
        persisted: id to the key of a value file in the run-dir.
        lost: id to why the custom result_store has lost a value.
        damaged: id to why the file of a value does not hold it.
        origins: where the run found modules that are not installed.
        output_mode: what became of what functions printed; "off" where it was not kept.
        counts: how many calls are in each state, as the run has counted them; empty where it has not.
    """

    dag_id: Hashable
    run: str
    status: str
    run_dir: Path | None
    duration_s: float = 0.0
    errors: dict[Hashable, FunctionError] = field(default_factory=dict)
    stopped_because: str = ""
    hosts: dict[int, str] = field(default_factory=dict)
    slots: dict[int, int] = field(default_factory=dict)
    lost_ranks: dict[int, str] = field(default_factory=dict)
    lost_ranks_before: dict[int, dict[int, str]] = field(default_factory=dict)
    stopped_on_failure: bool = False
    probation: dict[str, str] = field(default_factory=dict)
    capacity: dict[str, float] = field(default_factory=dict)
    launch: int = 1
    records: RecordTable = field(default_factory=RecordTable)
    arrays: dict[Hashable, ArrayResult] = field(default_factory=dict)
    payloads: dict[Hashable, Payload] = field(default_factory=dict)
    persisted: dict[Hashable, Key] = field(default_factory=dict)
    lost: dict[Hashable, str] = field(default_factory=dict)
    damaged: dict[Hashable, str] = field(default_factory=dict)
    origins: Origins = field(default_factory=Origins)
    output_mode: str = "off"
    counts: dict[str, int] = field(default_factory=dict)
    undecided: dict[Hashable, str] = field(default_factory=dict)

    def take_fold(self, id: Hashable, values: ArrayValues) -> None:
        """Take the value of a reduction, which is that of its last element."""
        try:
            self.payloads[id] = encode(values[values.count - 1])
        except ValueDamaged as error:
            self.damaged[id] = str(error)


@dataclass(slots=True, init=False)
class Results(Mapping[Hashable, Any]):
    """The results of one run, as :func:`~handoff_mpi.execute` and :func:`~handoff_mpi.load` return them.

    It is a mapping of id to value of the functions whose values are available, in the DAG's order: those of sinks,
    those that ``keep`` names, and small ones that rank 0 has anyway. Functions that failed are in ``errors`` instead:
    they are not iterated over, counted or contained, :meth:`get` gives the default for them, and ``results["fit"]``
    raises their error. Results are true even if there is no value.

    ``results["fit"]`` gives a value. Small values are at hand; large ones that were kept lie in the run-dir
    and are loaded when asked for; others were dropped, and the error for one says how to keep it. That of an array is
    an :class:`~handoff_mpi.results.array_result.ArrayResult`, a sequence, also where elements of it failed.

    Attributes:
        dag_id: the DAG's id.
        run: the run's name.
        status: "done", "failed" or "stopped".
        errors: id to :class:`FunctionError` for each function that failed, ``(id, index)`` for an element of an array.
        run_dir: where the run's files are, or None.
        duration_s: seconds from the start to the end of the run.
        stopped_because: why a stopped run was stopped.
        hosts: rank to host name.
        slots: rank to number of slots.
        lost_ranks: ranks that were lost, with the reason.
        lost_ranks_before: the same of each earlier launch of the run that lost some, by its number.
        probation: hosts and ranks that failed functions which succeeded elsewhere, in words, and what was seen.
        capacity: resource to how much of it the ranks had together: cores, MB, devices.
        stopped_on_failure: whether a stopped run was stopped by a function's failure (``on_failure="stop"``).

    Raises:
        TypeError: it was constructed directly.
    """

    dag_id: Hashable
    run: str
    status: str
    errors: Mapping[Hashable, FunctionError]
    run_dir: Path | None
    duration_s: float
    stopped_because: str
    hosts: dict[int, str]
    slots: dict[int, int]
    lost_ranks: dict[int, str]
    lost_ranks_before: dict[int, dict[int, str]]
    stopped_on_failure: bool
    probation: dict[str, str]
    capacity: dict[str, float]
    _launch: int = field(repr=False)
    _arrays: dict[Hashable, ArrayResult] = field(repr=False)
    _records: RecordTable = field(repr=False)
    _payloads: dict[Hashable, Payload] = field(repr=False)
    _persisted: dict[Hashable, Key] = field(repr=False)
    _lost: dict[Hashable, str] = field(repr=False)
    _damaged: dict[Hashable, str] = field(repr=False)
    _origins: Origins = field(repr=False)
    _output_mode: str = field(repr=False)
    _counts: dict[str, int] = field(repr=False)
    _undecided: dict[Hashable, str] = field(repr=False)
    _numbers: dict[Hashable, int] | None = field(repr=False, compare=False)
    _printed: PrintedOutput = field(repr=False, compare=False)

    def __init__(self, prepared: PreparedResults | None = None, /, *others: NoReturn, **unknown: NoReturn) -> None:
        if type(prepared) is not PreparedResults or others or unknown:
            raise TypeError("Results cannot be constructed: execute(dag) and load(RUN_DIR) return them")
        for each in fields(PreparedResults):  # those that are not attributes of results are private
            name = each.name if each.name in _PUBLIC else f"_{each.name}"
            setattr(self, name, getattr(prepared, each.name))
        if self._arrays:
            self.errors = RunErrors(prepared.errors, self._arrays)
        self._numbers = None
        self._printed = PrintedOutput(prepared.run_dir, prepared.output_mode)

    def __getitem__(self, id: Any) -> Any:
        """Return the value of the function ``id``, or of the handle ``id``; arrays in it may be written to.

        A handle of elements, such as ``xs[3]``, stands for their values.

        Raises:
            KeyError: there is no such function in the DAG.
            FunctionError: it failed.
            ValueUnavailable: it was skipped, did not run, or its value was not kept.
            ValueDamaged: the file that holds the value is damaged, or not there any more.
            EncodingError: the value cannot be decoded in this process, which lacks a module, say.
        """
        if type(id) is ArrayElement:
            return self[id.id][id.index]
        if type(id) is ArraySlice:
            values = self[id.id]
            return [values[index] for index in id.elements]
        id = input_id(id)
        if id in self._arrays:
            return self._arrays[id]
        if id in self._payloads:
            return self._decoded(id, self._payloads[id])
        if id in self._persisted and self.run_dir is not None:
            return self._decoded(id, self._read(id, self._persisted[id], self.run_dir))
        if id in self._damaged:
            raise ValueDamaged(f"the value of {show(id)} is lost: {self._damaged[id]}")
        if id in self._lost:
            raise ValueUnavailable(
                f"the value of {show(id)} was lost by the custom result_store: {self._lost[id]}; run again without "
                "result_store, or with one that gives back what was put, to have it"
            )
        if id in self.errors:
            raise copy(self.errors[id])  # one that is raised holds the frames it passes, and all that is in them
        record = self._record(id)
        if record.state == "skipped":
            raise ValueUnavailable(f"{show(id)} was skipped: a function it depends on failed")
        if record.state != "done":
            what = f"{show(id)} did not run: the run was stopped ({self.stopped_because})"
            raise ValueUnavailable(f"{what}{self._undecided.get(id, '')}")
        raise ValueUnavailable(
            f"the value of {show(id)} ({record.nbytes} bytes) was needed only by other functions and was not kept; "
            f"run with keep=[{show(id)}] (--keep {one_line(str(id), MAX_CHARS)}) or keep='all' to have it afterwards"
        )

    def _decoded(self, id: Hashable, payload: Payload) -> Any:
        try:
            return decode_writable(payload)
        except EncodingError as error:
            why = self._origins.why_undecodable(payload, error.__cause__) or str(error)
            raise EncodingError(f"the value of {show(id)} cannot be decoded: {why}") from error.__cause__

    def _read(self, id: Hashable, key: Key, run_dir: Path) -> Payload:
        store = DirectoryStore(run_dir / VALUES)
        again = f"the same command with --keep {one_line(str(id), MAX_CHARS)} (keep=[{show(id)}]) makes it again"
        try:
            return store.get(key)
        except ValueDamaged as error:
            raise ValueDamaged(f"the value of {show(id)} is lost: {error}; remove the file, then {again}") from error
        except KeyError:
            path = store.path(key)
            raise ValueUnavailable(
                f"the value of {show(id)} was written to {path}, which no longer exists; {again}"
            ) from None
        finally:
            store.close()

    def _record(self, id: Hashable) -> TaskRecord:
        return self._records[self._number(id)]

    def _number(self, id: Hashable) -> int:
        if self._numbers is None:
            self._numbers = {each: number for number, each in enumerate(self._records.ids)}
        if id not in self._numbers:
            raise UnknownName(f"no function {show(id)} in DAG {show(self.dag_id)}", id, self._numbers)
        return self._numbers[id]

    def output(self, id: Any, attempt: int | None = None, launch: int | None = None) -> str:
        """Return what the function ``id``, or that of the handle ``id``, has printed: to stdout and stderr, in order.

        Of an array that is the output of its elements, in their order; ``("sweep", 3)`` is the id of one of them.
        Of an attempt that printed more than a megabyte, the first and the last half of that are kept. Bytes that are no
        UTF-8 are replaced.

        Args:
            id: the function's.
            attempt: of which call; by default of all, the oldest first.
            launch: of which launch of the run; by default of all, or with ``attempt`` of the last one that has it.

        Raises:
            KeyError: there is no such function in the DAG.
            ValueUnavailable: the run has not captured output.
        """
        id = input_id(id)
        if self._is_element(id):
            return self._printed.of((*id,), False, attempt, launch)
        self._record(id)
        return self._printed.of(id, id in self._arrays, attempt, launch)

    def _is_element(self, id: Any) -> bool:
        """Whether ``id`` is that of an element: ``("sweep", 3)``."""
        if not isinstance(id, tuple) or len(id) != 2:
            return False
        array, index = self._arrays.get(id[0]), id[1]
        return array is not None and isinstance(index, int) and 0 <= index < len(array)

    def _is_available(self, id: Any) -> bool:
        is_kept = id in self._persisted and self.run_dir is not None
        return is_kept or id in self._payloads or id in self._arrays

    def __contains__(self, id: object) -> bool:
        """Whether the value of the function ``id``, or of the handle ``id``, is available."""
        try:
            return self._is_available(input_id(id))
        except TypeError:  # it cannot be hashed
            return False

    def __iter__(self) -> Iterator[Hashable]:
        return filter(self._is_available, self._records.ids)

    def __len__(self) -> int:
        return sum(map(self._is_available, self._records.ids))

    def __bool__(self) -> bool:
        return True

    def get(self, id: Any, default: Any = None) -> Any:
        """Return the value of ``id`` if it is available, else ``default``: also if the function failed."""
        return self[id] if id in self else default  # noqa: SIM401 - it would call itself

    @property
    def values(self) -> Values:
        """A mapping of id to value of all that is available, loaded when asked for; called, the view of the values."""
        return Values(self)

    @property
    def allocations(self) -> dict[Hashable, int]:
        """The rank where each function that was tried ran last."""
        return {id: rank for id, rank in zip(self._records.ids, self._records.ranks, strict=True) if rank >= 0}

    def records(self) -> Iterator[TaskRecord]:
        """Yield what ran where and when, one record for each function, in the DAG's order."""
        return iter(self._records)

    @property
    def exit_code(self) -> int:
        """The exit code of the command line after this run.

        One that was asked to stop, by a signal or its deadline, with work left, is to be resumed, also if functions
        failed by then: a requeue does the rest, and tries the failed functions again.
        """
        if self.status == "stopped" and not self.stopped_on_failure:
            return EXIT_STOPPED
        kinds = {error.kind for _, error in self._function_errors()}
        kinds.update(group.kind for array in self._arrays.values() for group in array.failures)
        if "no-room" in kinds:
            return EXIT_FITS_NO_MORE
        return EXIT_FAILED if kinds else EXIT_DONE

    def counts(self) -> dict[str, int]:
        """Return how many functions are in each state; of an array how many elements, of a reduction its blocks."""
        if self._counts:
            return dict(self._counts)
        counts = self._records.counts()
        for id, array in self._arrays.items():
            of_elements = array.counts()
            state = self._records.states[self._number(id)]
            count_elements(counts, state, len(array), of_elements["done"], of_elements["failed"], 0)
        return counts

    def incidents(self) -> dict[str, int]:
        """Return how often functions had to be called again, or failed, in all launches, by kind; see
        :class:`Incident`.
        """
        found: Counter[str] = Counter()
        for each in self._all_incidents():
            found[each.kind] += each.calls
        return dict(found)

    def _all_incidents(self) -> Iterator[Incident]:
        return itertools.chain.from_iterable(self._records.incidents.values())

    def _incidents_of_launches(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return the incidents of this launch, and those of earlier ones, by kind."""
        counters: tuple[Counter[str], Counter[str]] = Counter(), Counter()
        for each in self._all_incidents():
            counters[each.launch != self._launch][each.kind] += each.calls
        own, earlier = counters
        return dict(own), dict(earlier)

    setbacks = incidents  # its old name, for one more release

    def first_failures(self) -> str:
        """Return, in one line, the errors of the first functions that failed, and how many more there are."""
        groups = self._failure_groups()
        first = [_first_and_others(self.errors[group.ids[0]], group) for group in groups[:_MAX_IN_A_LINE]]
        more = sum(group.count for group in groups[_MAX_IN_A_LINE:])
        skipped = self.counts()["skipped"]
        others = [*([f"and {more:,} more"] if more else []), *([f"{skipped:,} skipped"] if skipped else [])]
        return "; ".join([*first, *others])

    def _failure_groups(self) -> list[FailureGroup]:
        functions = (((id,), 1, error.kind, error.place, _message_of(error)) for id, error in self._function_errors())
        elements = (group for array in self._arrays.values() for group in array.failure_groups())
        return grouped(itertools.chain(functions, elements))

    def _function_errors(self) -> Iterable[tuple[Hashable, FunctionError]]:
        """Return id and error of each function that failed, without elements of arrays."""
        errors = self.errors.functions if isinstance(self.errors, RunErrors) else self.errors
        return errors.items()

    def summary(self) -> str:
        """Return the closing summary: a few plain lines."""
        counts = self.counts()
        parts = [f"{count:,} {name}" for name, count in counts.items() if count or name == "done"]
        calls = "calls" if self._arrays else "functions"
        more = " or more" if any(array.may_lack_elements for array in self._arrays.values()) else ""
        total = f"{sum(counts.values()):,} {calls}{more}"
        head = f"{self.status}: {', '.join(parts)} of {total} in {self.duration_s:.2f} s"
        lines = [f"handoff: DAG {show(self.dag_id)} {head}"]
        if self.stopped_because and self.status == "stopped":
            lines.append(f"  stopped: {self.stopped_because.removeprefix('stopped ')}")
        groups = self._failure_groups()
        lines += [f"  failed: {group.line()}" for group in groups[:_MAX_IN_SUMMARY]]
        if len(groups) > _MAX_IN_SUMMARY:
            rest = sum(group.count for group in groups[_MAX_IN_SUMMARY:])
            lines.append(f"  failed: {rest:,} more {calls}, in {len(groups) - _MAX_IN_SUMMARY:,} other ways")
        lines += self._records.skipped_in_words()
        lines += describe_use(self._records, self.slots, self.capacity, self.duration_s)
        slowest = self._records.slowest(3)
        if slowest and slowest[0][0] >= 0.01:
            longest = [f"{show(id)} {duration:.2f} s{' (failed)' * failed}" for duration, id, failed in slowest]
            lines.append(f"  slowest: {', '.join(longest)}")
        for incidents, when in zip(self._incidents_of_launches(), ("", " in earlier launches"), strict=True):
            if incidents:
                kinds = ", ".join(f"{count:,} {kind}" for kind, count in incidents.items())
                lines.append(f"  failed attempts{when}: {sum(incidents.values()):,} ({kinds})")
        for launch, lost in self.lost_ranks_before.items():
            lines += [f"  rank {rank} was lost in launch {launch}: {reason}" for rank, reason in lost.items()]
        for rank, reason in self.lost_ranks.items():
            lines.append(f"  rank {rank} was lost: {reason}")
        lines += [f"  {place} was on probation: {reason}" for place, reason in self.probation.items()]
        if self._printed.exists():
            lines.append(f"  output of functions: handoff-mpi logs {shlex.quote(str(self.run_dir))}")
        if self.run_dir is not None:
            lines.append(f"  files: {self.run_dir}")
        return "\n".join(lines)


_PUBLIC = frozenset(each.name for each in fields(Results))


def _first_and_others(error: FunctionError, group: FailureGroup) -> str:
    """Return the error of the first function of ``group``, and who else failed alike."""
    return f"{error};{group.others()} failed alike" if group.count > 1 else str(error)


def _message_of(error: FunctionError) -> str:
    """Return what a function's error says, without its id and its kind."""
    _, found, message = str(error).partition(f": {error.kind}: ")
    return message if found else str(error)


class Values(Mapping[Hashable, Any]):
    """Id to value, loaded when asked for: ``results.values`` is a mapping, and ``results.values()`` the view of it."""

    def __init__(self, results: Results) -> None:
        self._results = results

    def __call__(self) -> ValuesView[Any]:
        return ValuesView(self._results)

    def __getitem__(self, id: Hashable) -> Any:
        if id not in self._results:
            raise KeyError(id)
        return self._results[id]

    def __contains__(self, id: object) -> bool:
        return id in self._results

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)
