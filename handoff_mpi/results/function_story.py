"""Reads what the journal of anybody's run tells of one function, over all launches; no name in it is looked up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from handoff_mpi import messages
from handoff_mpi.arrays.element_names import split_name
from handoff_mpi.errors import UsageError
from handoff_mpi.formatting import id_text, one_line, shell_word
from handoff_mpi.results.anybodys_story import AnybodysReader, read_anybodys
from handoff_mpi.results.array_history import ArrayLaunch
from handoff_mpi.results.element_story import ElementReader, ElementsTold
from handoff_mpi.results.history import read_history
from handoff_mpi.results.journal_format import Record
from handoff_mpi.results.journal_reader import Segment
from handoff_mpi.results.replaced import named_in_words
from handoff_mpi.results.store import Key
from handoff_mpi.results.story import DONE_STATE, Story
from handoff_mpi.suggestions import did_you_mean

IN_JOURNAL, IN_FILE, ON_RANK, LOST = "journal", "file", "rank", "lost"
_MAX_CHARS = 300
_MAX_LISTED, _MAX_NEAR = 20, 3


@dataclass(slots=True)
class KeptValue:
    """Where the last value of the function was put.

    Attributes:
        where: one of :data:`IN_JOURNAL`, :data:`IN_FILE`, :data:`ON_RANK` and :data:`LOST`.
        rank: that made it.
        key: of its file, if it has one.
    """

    where: str
    rank: int
    nbytes: int
    key: Key | None


@dataclass(slots=True)
class FunctionInLaunch:
    """The function in one launch.

    Attributes:
        number: of the task in this launch; None if the launch did not hold the function.
        fingerprint: None if the function had none.
        codes: the digests of the codes of its name; None where the journal does not tell.
        is_restored: whether the launch took over its value.
        restored: of an array, how many elements the launch took over.
        is_accepted: whether the user accepted in this launch that it has changed since an earlier one made its value.
        again: why it ran again although an earlier launch had done it; empty if that is not recorded.
        is_begun: of an array, whether the launch sent elements to ranks, or has word of any.
        is_replaced: whether its earlier value counts no more, by ``--rerun``.
        is_named: whether ``--rerun`` names it, or elements of it.
        pin: the rank or host that it was pinned to.
        group: (number of the task, id) of some of those that it was collocated with, itself among them.
        strategy: the name of the allocation strategy's class; empty if that is not recorded.
        offers: (what a rank offered, which ranks did); empty if that is not recorded.
        lost: why its value was lost in this launch, once for each time.
    """

    epoch: int
    number: int | None = None
    fingerprint: bytes | None = None
    codes: list[bytes] | None = None
    is_restored: bool = False
    restored: int = 0
    is_accepted: bool = False
    again: str = ""
    is_begun: bool = False
    is_replaced: bool = False
    is_named: bool = False
    pin: int | str | None = None
    group: list[tuple[int, str]] = field(default_factory=list)
    strategy: str = ""
    offers: list[tuple[dict[str, float], list[int]]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


@dataclass(slots=True)
class LastFailure:
    """The last failure of the function; rank and attempt are -1 and 0 if it was never called."""

    launch: int
    attempt: int
    rank: int
    kind: str
    message: str
    traceback: str


@dataclass(slots=True)
class FunctionStory:
    """The story of one function.

    Attributes:
        story: of the whole run; ids are texts there.
        task: the function's row in the story's tables.
        launches: as many as the story has.
        value: its value, if it was done.
        failure: its last failure, if it has failed since it was done.
        namesakes: how many functions are written like it.
        is_own: whether nobody but this user and root could have written the journal.
        elements: those of the array that were asked for by themselves; None if none were.
        is_behind_windowed: whether it depends on all elements of an array with a window.
        is_outdated: whether it was done in a launch before, and ``--rerun`` of one that does not hold it has replaced
            what its value was made of. It is not known where others could have written the journal.
    """

    story: Story
    task: int
    launches: list[FunctionInLaunch]
    value: KeptValue | None
    failure: LastFailure | None
    namesakes: int
    is_own: bool
    elements: list[ElementsTold] | None = None
    is_behind_windowed: bool = False
    is_outdated: bool = False
    dropped: dict[bytes | None, list[int]] = field(default_factory=dict)

    @property
    def is_left_out(self) -> bool:
        """Whether the newest launch does not hold it."""
        return self.launches[-1].number is None


def read_function(run_dir: Path, wanted: str) -> FunctionStory:
    """Return what happened to the function whose id is written ``wanted``, or to the elements of an array.

    Raises:
        UsageError: there is no run, or no such function; the nearest ones are named.
        JournalError: the journal cannot be read, or another version wrote it.
    """

    def make_reader(status: dict[str, object], is_running: bool) -> _FunctionReader:
        return _FunctionReader(status, is_running, wanted)

    reader, story, is_own = read_anybodys(run_dir, make_reader)
    told = reader.function(story, is_own)
    if is_own and reader.has_replaced:
        _find_dropped(run_dir, told)
    return told


def _find_dropped(run_dir: Path, told: FunctionStory) -> None:
    """Find the launches that have dropped a value of a function, and whether it counts no more for later ones."""
    history, id = read_history(run_dir), told.story.tasks.ids[told.task]
    told.dropped = {mark: launches for (each, mark), launches in history.dropped.items() if id_text(each) == id}
    if told.is_left_out and told.story.tasks.state[told.task] == DONE_STATE:
        mark = next(each.fingerprint for each in reversed(told.launches) if each.number is not None)
        left = [*history.done, *history.arrays]
        told.is_outdated = mark is not None and not any(own == mark and id_text(each) == id for each, own in left)


def _near_ids(wanted: str, ids: list[str], run_dir: Path) -> str:
    """Return which ids may have been meant, or else those that contain what was written, and what lists all ids."""
    hint = did_you_mean(wanted, dict.fromkeys(ids), shown=one_line)
    if hint:
        return hint
    holding = islice((id for id in ids if wanted in id), _MAX_NEAR)
    shown = ", ".join(one_line(id, _MAX_CHARS) for id in holding)
    lists = f"; `handoff-mpi graph {shell_word(str(run_dir))} --format json` lists all ids"
    return f"{f'; ids that contain it: {shown}' if shown else ''}{one_line(lists)}"


class _FunctionReader(AnybodysReader):
    """Takes in a journal; ids become texts, and what it tells of one of them is kept."""

    def __init__(self, status: dict[str, object], is_running: bool, wanted: str) -> None:
        super().__init__(status, is_running)
        self._wanted = wanted
        named = split_name(wanted)
        self._array = None if named is None else named[0]
        self._element_reader = None if named is None else ElementReader(wanted, named[1])
        self._own_launches: list[FunctionInLaunch] = []
        self._values: dict[bytes | None, KeptValue] = {}  # by fingerprint
        self._failure: LastFailure | None = None
        self._folds: set[int] = set()  # of windowed arrays
        self._counted: tuple[int, int] | None = None  # elements of the array, and those that are done
        self.has_replaced = False

    def read(self, segment: Segment, records: Iterator[Record]) -> None:
        self._own = FunctionInLaunch(segment.epoch)
        known = len(self._launches)
        super().read(segment, records)
        if len(self._launches) > known:
            self._own_launches.append(self._own)
            if (number := self._own.number) is not None:
                counts = self._counts_of_elements()
                self._counted = counts.get(int(self._table.here[number]))

    # -- the head of a launch -------------------------------------------------------------------------

    def _take_run(self, about: dict[str, Any]) -> None:
        self._own.strategy = one_line(str(about.get("strategy", "")), _MAX_CHARS)
        self._own.offers = [(dict(offered), [*ranks]) for offered, ranks in about.get("offers", ())]
        super()._take_run(about)

    def _take_tasks(self, first: int, rows: list[Any]) -> None:
        own = self._own
        texts = [id_text(row[0]) for row in rows]
        super()._take_tasks(first, [(text, *row[1:]) for text, row in zip(texts, rows, strict=True)])
        called = self._wanted if self._wanted in texts else self._array
        if own.number is None and called in texts:
            place = texts.index(called)
            own.number, own.fingerprint = first + place, rows[place][1]
            self._name = str(rows[place][2])

    def _take_codes(self, codes: dict[str, list[bytes]]) -> None:
        if self._own.number is not None:
            self._own.codes = codes.get(self._name)

    def _take_accepted(self, changes: list[tuple[object, bytes, bytes]]) -> None:
        if self._own.number is not None:
            called = self._label(self._own.number)
            self._own.is_accepted = any(id_text(id) == called for id, _, _ in changes)

    def _take_again(self, reasons: dict[str, list[int]]) -> None:
        found = (reason for reason, tasks in reasons.items() if self._own.number in tasks)
        self._own.again = one_line(next(found, ""), _MAX_CHARS)
        self._own.is_named = self._own.number in named_in_words(reasons)

    def _take_rerun_named(self, tasks: list[int]) -> None:
        self._own.is_named = self._own.number in tasks

    def _take_replaced(self, tasks: list[int], elements: object) -> None:
        self._own.is_replaced = self._own.number in tasks
        self.has_replaced = True

    def _take_bound(self, pins: dict[int | str, list[int]], groups: list[list[int]]) -> None:
        number = self._own.number
        self._own.pin = next((pin for pin, tasks in pins.items() if number in tasks), None)
        group = next((tasks for tasks in groups if number in tasks), [])
        self._own.group = [(task, self._label(task)) for task in group[:_MAX_LISTED]]

    def _label(self, task: int) -> str:
        return str(self._table.ids[self._table.here[task]])

    def _take_restored(self, tasks: list[int]) -> None:
        super()._take_restored(tasks)
        self._own.is_restored = self._own.number in tasks

    # -- what happened --------------------------------------------------------------------------------

    def _take_turn(
        self, sent: list[object], done: list[Any], failed: list[Any], incidents: list[Any], time_s: float = float("nan")
    ) -> None:
        own = self._own
        for task, _, rank, _, _, nbytes, payload, key in done:
            if task == own.number:
                where = IN_JOURNAL if payload is not None else ON_RANK if key is None else IN_FILE
                self._values[own.fingerprint], self._failure = KeptValue(where, rank, nbytes, key), None
        for task, attempt, rank, _, kind, message, *times in failed:
            if task == own.number:
                known = self._failure
                is_same = known is not None and (known.launch, known.attempt) == (own.epoch, attempt)
                traceback = known.traceback if known is not None and is_same else ""
                traceback = self._tracebacks.get(times[2], "") if times else traceback
                self._failure = LastFailure(own.epoch, attempt, rank, kind, message, traceback)
        for task, _, _, kind, reason in incidents:
            if task == own.number and kind == messages.VALUE_LOSS:
                own.lost.append(one_line(str(reason), _MAX_CHARS))
                self._values.pop(own.fingerprint, None)
        super()._take_turn(sent, done, failed, incidents, time_s)

    def _take_persisted(self, task: int, key: Key) -> None:
        value = self._values.get(self._own.fingerprint)
        if task == self._own.number and value is not None:
            value.where, value.key = IN_FILE, key

    # -- elements -------------------------------------------------------------------------------------

    def _take_array(self, task: int, count: int, digests: Any) -> None:
        super()._take_array(task, count, digests)
        if ArrayLaunch(0, 0, digests).folds_windowed:
            self._folds.add(self._table.here[task])
        if self._element_reader is not None and task == self._own.number:
            self._element_reader.begin(self._own.epoch, count)

    def _take_pulled(self, task: int, block: int, first: int, covered: int, digests: bytes, is_last: bool) -> None:
        super()._take_pulled(task, block, first, covered, digests, is_last)
        if self._element_reader is not None and task == self._own.number:
            self._element_reader.grown(covered)

    def _take_elements(
        self, task: int, rank: int, elements: list[tuple[int, int]], column: object, started: float, duration: float
    ) -> None:
        super()._take_elements(task, rank, elements, column, started, duration)
        self._begins(task)
        if self._element_reader is not None and task == self._own.number:
            self._element_reader.ended(rank, elements)

    def _take_elements_failed(
        self,
        task: int,
        rank: int,
        elements: list[tuple[int, int]],
        attempts: int,
        kind: str,
        message: str,
        traceback: int,
        last: int = 0,
    ) -> None:
        super()._take_elements_failed(task, rank, elements, attempts, kind, message, traceback, last)
        self._begins(task)
        if self._element_reader is not None and task == self._own.number:
            text = self._tracebacks.get(traceback, "")
            self._element_reader.failed(rank, elements, attempts, kind, message, text)

    def _take_elements_retried(
        self, task: int, rank: int, elements: list[tuple[int, int]], attempt: int, kind: str, message: str
    ) -> None:
        super()._take_elements_retried(task, rank, elements, attempt, kind, message)
        self._begins(task)

    def _take_leased(self, leases: list[tuple[int, int, int, list[tuple[int, int]]]]) -> None:
        super()._take_leased(leases)
        for _, task, _, _ in leases:
            self._begins(task)

    def _begins(self, task: int) -> None:
        self._own.is_begun |= task == self._own.number

    def _take_restored_elements(self, task: int, taken: list[tuple[int, list[tuple[int, int]]]]) -> None:
        super()._take_restored_elements(task, taken)
        if task == self._own.number:
            self._own.restored += sum(stop - start for _, intervals in taken for start, stop in intervals)
        if self._element_reader is not None and task == self._own.number:
            self._element_reader.restored(taken)

    # -- the end --------------------------------------------------------------------------------------

    def function(self, story: Story, is_own: bool) -> FunctionStory:
        """Return the story of the function.

        Raises:
            UsageError: there is no such function.
        """
        ids: list[Any] = story.tasks.ids
        called, array = self._wanted, self._array
        if self._counted is not None:  # also where the newest launch does not hold the array
            story.elements.setdefault(ids.index(called if called in ids else array), self._counted)
        if called not in ids and array is not None and array in ids and ids.index(array) in story.elements:
            called = array
        if called not in ids:
            what = f"no function {one_line(self._wanted, _MAX_CHARS)} is in {story.run_dir}"
            raise UsageError(f"{what}{_near_ids(self._wanted, ids, story.run_dir)}")
        task, namesakes = ids.index(called), ids.count(called)
        reader = None if called == self._wanted else self._element_reader
        told = None if reader is None else reader.told()
        newest = next((each for each in reversed(self._own_launches) if each.number is not None), None)
        value = None if newest is None else self._values.get(newest.fingerprint)
        its = self._own_launches, value, self._failure, namesakes, is_own, told
        is_behind = bool(self._folds) and not self._folds.isdisjoint(_all_inputs(story, task))
        return FunctionStory(story, task, *its, is_behind)


def _all_inputs(story: Story, task: int) -> set[int]:
    """Return the functions on which one depends, directly or not."""
    found: set[int] = set()
    stack = [task]
    while stack:
        new = {*story.tasks.inputs_of(stack.pop()).tolist()} - found
        found |= new
        stack += new
    return found
