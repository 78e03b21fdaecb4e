"""The result of an array: a sequence of the values of its elements, and the errors of those that failed.

Errors are made when they are asked for: the elements that failed alike share what is kept of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from handoff_mpi.arrays.columns import PICKLES
from handoff_mpi.arrays.element_names import element_name
from handoff_mpi.arrays.intervals import Interval
from handoff_mpi.arrays.values import ArrayValues
from handoff_mpi.errors import ValueDamaged, ValueUnavailable
from handoff_mpi.formatting import one_line, show
from handoff_mpi.results.function_error import FunctionError
from handoff_mpi.results.origins import Origins
from handoff_mpi.serialization import PICKLED, EncodingError

if TYPE_CHECKING:
    import numpy

#: Iteration decodes so many values at a time, or as many as take so many bytes.
_MAX_DECODED, _MAX_DECODED_NBYTES = 1024, 1 << 20
_NOTHING = object()
_NO_ORIGINS = Origins()


class ElementKey(NamedTuple):
    """The id of one element of an array, equal to the plain tuple ``(id, index)``."""

    array: Hashable
    element: int

    def __repr__(self) -> str:
        return one_line(element_name(self.array, self.element))


class FailedElements(NamedTuple):
    """Elements of one array that failed alike, for good.

    Attributes:
        intervals: their indices.
        kind, message, traceback, attempts, ranks, place, output: as in :class:`FunctionError`; the message without the
            element.
    """

    intervals: Sequence[Interval]
    kind: str
    message: str
    traceback: str = ""
    attempts: int = 1
    ranks: tuple[int, ...] = ()
    place: str = ""
    output: str = ""

    @property
    def size(self) -> int:
        """How many elements these are."""
        return sum(stop - start for start, stop in self.intervals)

    def error(self, key: ElementKey) -> FunctionError:
        """Return the error of one of the elements."""
        text = f"{key!r}: {self.kind}: {self.message}"
        return FunctionError(text, self.kind, self.traceback, self.attempts, self.ranks, self.place, self.output)


class ArrayResult(Sequence[Any]):
    """The result of an array, a sequence of its values: ``results["sweep"][3]``.

    An index gives the value of that element, a slice the list of some. Negative ones count from the end. An element
    that failed raises its error, and one that did not run raises :class:`~handoff_mpi.errors.ValueUnavailable`; slices
    and iteration raise at the first such element. Each value is a fresh object, and arrays in it may be written to.

    Args:
        id: the array's id.
        values: of the elements that have any.
        failures: the elements that failed.
        why_missing: why the others have no value, as a clause: ``"was skipped: a function it depends on failed"``.
        origins: where the run found modules that are not installed.
        may_lack_elements: whether it is a windowed array whose iterables were not read to their end.

    Attributes:
        id: the array's id.
        failures: the elements that failed, in groups of those that failed alike.
        errors: index to :class:`FunctionError` of each element that failed.
        may_lack_elements: as given.
    """

    def __init__(
        self,
        id: Hashable,
        values: ArrayValues,
        failures: Iterable[FailedElements] = (),
        why_missing: str = "did not run",
        origins: Origins = _NO_ORIGINS,
        may_lack_elements: bool = False,
    ) -> None:
        self.id = id
        self.may_lack_elements = may_lack_elements
        self.failures = tuple(failures)
        self.errors = ElementErrors(id, self.failures)
        self._values = values
        self._why_missing = why_missing
        self._origins = origins

    def __len__(self) -> int:
        return self._values.count

    def __repr__(self) -> str:
        counts = (f"{count:,} {name}" for name, count in self.counts().items() if count)
        return f"ArrayResult({show(self.id)}, {len(self):,} elements: {', '.join(counts) or 'none'})"

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        """Return the value of an element, or the list of the values of a slice.

        Raises:
            IndexError: there is no such element.
            FunctionError: it, or the first of the slice that has no value, failed.
            ValueUnavailable: it, or the first of the slice that has no value, did not run.
            ValueDamaged: the file that holds the value is damaged, or not there any more.
            EncodingError: the value cannot be decoded in this process, which lacks a module, say.
        """
        indices = range(len(self))[index]
        return self._list(indices) if isinstance(indices, range) else self._value(indices)

    def __iter__(self) -> Iterator[Any]:
        size = self._values.nbytes // max(1, len(self._values))
        step = max(1, min(_MAX_DECODED, _MAX_DECODED_NBYTES // max(1, size)))
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            if self._values.have.within(start, stop) == [(start, stop)]:
                yield from self._list(range(start, stop))
            else:
                yield from map(self._value, range(start, stop))

    def get(self, index: int, default: Any = None) -> Any:
        """Return the value of an element if it has one, else ``default``: also if it failed, or does not exist."""
        try:
            index = range(len(self))[index]
        except IndexError:
            return default
        return self._value(index) if index in self._values.have else default

    def failure_groups(self) -> Iterator[tuple[Iterator[ElementKey], int, str, str, str]]:
        """Yield keys, their count, kind, place and message of the elements that failed alike."""
        for group in self.failures:
            indices = chain.from_iterable(range(*interval) for interval in group.intervals)
            yield (ElementKey(self.id, index) for index in indices), group.size, group.kind, group.place, group.message

    def counts(self) -> dict[str, int]:
        """Return how many elements are done, and how many failed; the others did not run."""
        done, failed = len(self._values), len(self.errors)
        return {"done": done, "failed": failed, "not run": len(self) - done - failed}

    def to_numpy(self, missing: Any = _NOTHING) -> numpy.ndarray[Any, Any]:
        """Return the values as one array of numpy; axis 0 is that of the elements.

        Args:
            missing: stands for the values of elements that have none; without it, the first of those raises.

        Raises:
            FunctionError, ValueUnavailable: an element has no value, and nothing stands for it.
            ValueError: numpy makes no array of the values: they have several shapes, say.
        """
        if missing is _NOTHING and not self._values.is_complete:
            raise self._why(self._values.have.missing(len(self)).take(1)[0][0])
        found = self._values.to_numpy()
        return found if self._values.is_complete else self._filled(found, missing)

    def _filled(self, found: numpy.ndarray[Any, Any], missing: Any) -> numpy.ndarray[Any, Any]:
        import numpy  # the caller wants an array of it

        is_number = isinstance(missing, (bool, int, float, complex, numpy.generic))
        dtype = numpy.result_type(found.dtype, missing if is_number else object) if len(found) else None
        filled = numpy.full((len(self), *found.shape[1:]), missing, dtype)
        first = 0
        for start, stop in self._values.have:
            filled[start:stop] = found[first : first + stop - start]
            first += stop - start
        return filled

    def _value(self, index: int) -> Any:
        try:
            return self._values[index]
        except EncodingError as error:
            raise self._undecodable(index, error) from error.__cause__
        except ValueDamaged as error:
            raise ValueDamaged(f"the value of {ElementKey(self.id, index)!r} is lost: {error}") from None
        except KeyError:
            raise self._why(index) from None

    def _list(self, indices: range) -> list[Any]:
        try:
            return self._values.values(indices.start, indices.stop, indices.step)
        except (EncodingError, ValueDamaged):
            return [*map(self._value, indices)]  # names the element
        except KeyError as error:
            raise self._why(error.args[0]) from None

    def _why(self, index: int) -> Exception:
        """Return why an element has no value."""
        error = self.errors.get(index)
        return ValueUnavailable(f"{ElementKey(self.id, index)!r} {self._why_missing}") if error is None else error

    def _undecodable(self, index: int, error: EncodingError) -> EncodingError:
        column = self._values.column(index)
        payload = (PICKLED, *column[2]) if column[0] == PICKLES else column
        why = self._origins.why_undecodable(payload, error.__cause__) or str(error)
        return EncodingError(f"the value of {ElementKey(self.id, index)!r} cannot be decoded: {why}")


class ElementErrors(Mapping[int, FunctionError]):
    """Index to error of the elements of an array that failed, in ascending order."""

    def __init__(self, id: Hashable, failures: Collection[FailedElements]) -> None:
        self._id = id
        rows = sorted(
            ((*interval, group) for group in failures for interval in group.intervals), key=lambda row: row[0]
        )
        self._starts = [start for start, _, _ in rows]
        self._rows = rows
        self._count = sum(group.size for group in failures)

    def __getitem__(self, index: int) -> FunctionError:
        place = bisect_right(self._starts, index) - 1 if isinstance(index, int) else -1
        if place < 0 or index >= self._rows[place][1]:
            raise KeyError(index)
        return self._rows[place][2].error(ElementKey(self._id, index))

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(range(start, stop) for start, stop, _ in self._rows)

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        first = ", ".join(f"{index}: {self[index]!r}" for index in islice(self, 3))
        return f"{{{first}{', ...' if len(self) > 3 else ''}}}"


class RunErrors(Mapping[Hashable, FunctionError]):
    """Id to error of functions that failed, ``(id, index)`` to error of elements that failed.

    Args:
        functions: the errors of functions.
        arrays: those whose elements' errors are added.
    """

    def __init__(self, functions: Mapping[Hashable, FunctionError], arrays: Mapping[Hashable, ArrayResult]) -> None:
        self.functions = functions
        self._arrays = arrays

    def __getitem__(self, id: Hashable) -> FunctionError:
        if id in self.functions:
            return self.functions[id]
        if isinstance(id, tuple) and len(id) == 2 and id[0] in self._arrays and id[1] in self._arrays[id[0]].errors:
            return self._arrays[id[0]].errors[id[1]]
        raise KeyError(id)

    def __iter__(self) -> Iterator[Hashable]:
        yield from self.functions
        for id, array in self._arrays.items():
            yield from (ElementKey(id, index) for index in array.errors)

    def __len__(self) -> int:
        return len(self.functions) + sum(len(array.errors) for array in self._arrays.values())

    def __repr__(self) -> str:
        first = ", ".join(f"{id!r}: {self[id]!r}" for id in islice(self, 3))
        return f"{{{first}{', ...' if len(self) > 3 else ''}}}"
