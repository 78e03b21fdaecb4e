"""Some elements of one array, as the journal tells of them over all launches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from handoff_mpi.arrays.element_names import intervals_named
from handoff_mpi.arrays.intervals import Interval, IntervalSet
from handoff_mpi.errors import UsageError
from handoff_mpi.formatting import one_line

DONE, FAILED, OPEN = "done", "failed", "open"
#: Groups of elements have this order.
_ORDER = (FAILED, DONE, OPEN)
_MAX_CHARS = 300


@dataclass(slots=True)
class ElementsTold:
    """Elements of which the journal tells the same.

    Attributes:
        elements: their intervals.
        state: one of :data:`DONE`, :data:`FAILED` and :data:`OPEN`: they have neither a value nor failed for good.
        launch, rank: where they were computed, or failed the last time; -1 if they are open.
        attempts: after how many they failed; 0 if they have not.
        kind, message, traceback: of the failure.
    """

    elements: IntervalSet
    state: str
    launch: int = -1
    rank: int = -1
    attempts: int = 0
    kind: str = ""
    message: str = ""
    traceback: str = ""


@dataclass(slots=True)
class ElementReader:
    """Takes in the records of one array.

    Args:
        name: of the elements, as the user wrote it.
        indices: those of them, as in :mod:`handoff_mpi.arrays.element_names`.
    """

    name: str
    indices: str
    count: int = 0
    _epoch: int = -1
    _done: dict[int, list[ElementsTold]] = field(default_factory=dict)  # by launch
    _failed: list[ElementsTold] = field(default_factory=list)  # in the newest launch
    _restored: list[tuple[int, IntervalSet]] = field(default_factory=list)

    def begin(self, epoch: int, count: int) -> None:
        """A launch has so many elements."""
        self._epoch, self.count = epoch, int(count)
        self._done[epoch] = []
        self._failed, self._restored = [], []

    def grown(self, count: int) -> None:
        """So many elements have come at least, of an array whose number of elements is known while it runs."""
        self.count = max(self.count, int(count))

    def ended(self, rank: int, elements: Sequence[Interval]) -> None:
        """A rank has computed elements."""
        self.grown(max(stop for _, stop in elements))
        self._done[self._epoch].append(ElementsTold(IntervalSet(elements), DONE, self._epoch, rank))

    def failed(
        self, rank: int, elements: Sequence[Interval], attempts: int, kind: str, message: str, traceback: str
    ) -> None:
        """Elements have failed for good."""
        self.grown(max(stop for _, stop in elements))
        how = attempts, str(kind), str(message), str(traceback)
        self._failed.append(ElementsTold(IntervalSet(elements), FAILED, self._epoch, rank, *how))

    def restored(self, taken: Sequence[tuple[int, Sequence[Interval]]]) -> None:
        """The launch has taken over elements of earlier ones."""
        self.grown(max((stop for _, intervals in taken for _, stop in intervals), default=0))
        self._restored += [(epoch, IntervalSet(intervals)) for epoch, intervals in taken]

    def told(self) -> list[ElementsTold]:
        """Return what is known of the elements, in groups: those of each state by their first elements.

        Raises:
            UsageError: the array does not have them.
        """
        try:
            left = IntervalSet(intervals_named(self.indices, self.count))
        except ValueError as error:
            raise UsageError(f"{one_line(self.name, _MAX_CHARS)}: {error}") from None
        found: dict[tuple[object, ...], ElementsTold] = {}
        for each in self._known():
            here = _common(left, each.elements).intervals()
            if here:  # a rank has computed them in many leases, which differ in nothing else
                key = each.state, each.launch, each.rank, each.attempts, each.kind, each.message, each.traceback
                found.setdefault(key, replace(each, elements=IntervalSet())).elements.update(here)
                for interval in here:
                    left.discard(*interval)
        groups = [*found.values(), *([ElementsTold(left, OPEN)] if left else [])]
        return sorted(groups, key=lambda each: (_ORDER.index(each.state), next(iter(each.elements))))

    def _known(self) -> Iterator[ElementsTold]:
        yield from self._failed
        yield from self._done.get(self._epoch, ())
        for epoch, elements in self._restored:
            for each in self._done.get(epoch, ()):
                yield ElementsTold(_common(each.elements, elements), DONE, epoch, each.rank)


def _common(one: IntervalSet, other: IntervalSet) -> IntervalSet:
    return IntervalSet(part for interval in other for part in one.within(*interval))
