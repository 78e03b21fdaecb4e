"""Elements of arrays that stand for values of functions: ``dag.map(f, [h1, 3, h2])``.

Such an element depends on its function alone: it may run when that is done, and is skipped if that failed. The plan
knows whose value it takes; in the columns of its input None stands in its place.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from handoff_mpi.arrays.digests import NO_DIGEST, DigestObject, hashed
from handoff_mpi.arrays.element_input import ElementInput, Piece
from handoff_mpi.arrays.inputs import ListInput
from handoff_mpi.arrays.intervals import Interval
from handoff_mpi.dag.function import INLINE, REFERENCES, Argument, Function, input_id
from handoff_mpi.dag.handle import AS_ARGUMENT, UnresolvedHandle
from handoff_mpi.errors import DAGError
from handoff_mpi.formatting import show

#: So many elements are named that cannot be sent.
_MAX_NAMED = 3
_AS_ELEMENT = "make it an element, in an iterable of its own"


class HandleInput(ElementInput):
    """An input of an array, some elements of which are handles; it takes the elements as they are now.

    Attributes:
        references: the handles, and each :class:`Argument`, by index.
        marks: the fingerprints of their values, by index, as far as they are known.
    """

    def __init__(self, values: Sequence[Any], name: str) -> None:
        super().__init__(len(values), name)
        self.references = {index: each for index, each in enumerate(values) if type(each) in REFERENCES}
        self.marks: dict[int, bytes | None] = {}
        self._indices = [*self.references]
        self._others = ListInput([None if type(each) in REFERENCES else each for each in values], name)

    def __getitem__(self, index: int) -> Any:
        return self.references[index] if index in self.references else self._others[index]

    @property
    def nbytes(self) -> int:
        return self._others.nbytes

    def encode(self) -> None:
        self._others.encode()

    def types(self) -> set[type]:
        return self._others.types() | set(map(type, self.references.values()))

    def piece(self, start: int, stop: int) -> Piece:
        return self._others.piece(start, stop)

    def digest_of(self, indices: range, digest_object: DigestObject | None = None) -> bytes:
        return self._with_marks(indices, self._others.digest_of(indices, digest_object))

    def _digest(self, start: int, stop: int, digest_object: DigestObject | None) -> bytes:
        return self.digest_of(range(start, stop), digest_object)

    def _before_the_run(self, start: int, stop: int) -> Iterator[Interval]:
        for index in self._indices[bisect_left(self._indices, start) : bisect_left(self._indices, stop)]:
            if start < index:
                yield start, index
            start = index + 1
        if start < stop:
            yield start, stop

    def _with_marks(self, indices: range, digest: bytes) -> bytes:
        """Return the digest of some elements: of the marks of those that are handles, and of all others together."""
        low, high = (min(indices), max(indices) + 1) if indices else (0, 0)
        inside = self._indices[bisect_left(self._indices, low) : bisect_left(self._indices, high)]
        parts = [digest]
        for index in inside if indices.step in (1, -1) else filter(indices.__contains__, inside):
            mark = self.marks.get(index)
            if mark is None or digest == NO_DIGEST:
                return NO_DIGEST
            parts.append(b"%d:%b" % (indices.index(index), mark))
        return digest if len(parts) == 1 else hashed(parts)


def with_handles(elements: ElementInput, where: str) -> ElementInput:
    """Return ``elements``, or an input that knows which of them are handles.

    Raises:
        DAGError: one of them names a codec.
    """
    if REFERENCES.isdisjoint(elements.types()):
        return elements
    found = HandleInput([elements[index] for index in range(len(elements))], elements.name)
    for index, each in found.references.items():
        if type(each) is Argument and not (each.serialize is None and each.deserialize is None):
            what = f"element {index:,} of {elements.name} is {show(each)}, and an element has no codec"
            raise DAGError(f"{what}; pass a handle without serialize and deserialize", where)
    return found


def encode_elements(elements: ElementInput) -> Iterator[str]:
    """Encode elements; yield what is wrong with those that cannot be sent."""
    try:
        elements.encode()
    except DAGError as error:
        for problem in error.problems[:_MAX_NAMED]:  # if a handle is inside of an element, with what to do about that
            yield problem.replace(f"{UnresolvedHandle.__name__}: ", "").replace(AS_ARGUMENT, _AS_ELEMENT)
        if (more := len(error.problems) - _MAX_NAMED) > 0:
            yield f"and {more:,} more elements of {elements.name}"


def references_of(elements: Iterable[ElementInput]) -> Iterator[tuple[int, int, Any]]:
    """Yield the handles among the elements of an array's inputs: (number of the input, index, handle)."""
    for number, each in enumerate(elements):
        if type(each) is HandleInput:
            yield from ((number, index, reference) for index, reference in each.references.items())


def find_inline_elements(
    arrays: Mapping[Hashable, Sequence[ElementInput]], by_id: Mapping[Hashable, Function]
) -> Iterator[str]:
    """Yield which arrays have the handle of an inline function as an element: it has no value of its own.

    Args:
        arrays: their inputs, by id.
    """
    for id, elements in arrays.items():
        for number, index, reference in references_of(elements):
            function = by_id.get(input_id(reference))
            if function is not None and function.type == INLINE:
                what = f"element {index:,} of {elements[number].name} is the inline function {show(function.id)}"
                yield f"function {show(id)}: {what}, which has no value of its own; declare it without type={INLINE!r}"
                break
