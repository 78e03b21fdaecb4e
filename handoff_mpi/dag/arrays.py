"""Arrays: one function of a DAG that is called for each element of its inputs.

An array is declared, validated, frozen and drawn as one function. Its elements are arguments by position: an
:class:`ArrayFunction` has placeholders in their positions, so that what looks at the arguments of a function looks at
those of an array too. A handle, or a value in :class:`Fixed`, stands in its position itself: all elements take it.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Number
from typing import Any, Generic, TypeVar

from handoff_mpi.arrays.element_input import ElementInput
from handoff_mpi.arrays.inputs import freeze_elements
from handoff_mpi.arrays.linked_inputs import LinkedInput
from handoff_mpi.arrays.links import UNKNOWN_COUNT
from handoff_mpi.arrays.windows import ElementWindow, WindowedInput
from handoff_mpi.binding import find_binding_problem
from handoff_mpi.dag.call_template import ELEMENT, Placeholder
from handoff_mpi.dag.element_source import ElementSource
from handoff_mpi.dag.frozen_array import FrozenArray
from handoff_mpi.dag.function import (
    DECLARES,
    REGULAR,
    VARIADIC,
    Argument,
    Function,
    describe_unknown,
)
from handoff_mpi.dag.handle import HANDLES, ArrayElement, ArrayHandle, ArraySlice, Handle, WindowedHandle
from handoff_mpi.dag.handle_elements import references_of, with_handles
from handoff_mpi.errors import DAGError
from handoff_mpi.formatting import show, type_name
from handoff_mpi.numerals import plain

A = TypeVar("A", covariant=True)


@dataclass(frozen=True, slots=True, eq=False)
class Fixed(Generic[A]):
    """Among the iterables of ``dag.map``: a value that each element takes whole.

    Handles and :class:`~handoff_mpi.Argument` in the value, to any depth, get their values.

    Attributes:
        value: the argument of each call in this position.
    """

    value: A


@dataclass(slots=True, eq=False, init=False)
class ArrayFunction(Function):
    """A function that is called once for each element of its inputs; made by :meth:`DAG.map`.

    ``extra_args`` are its arguments by position, with placeholders where elements are put; ``kwargs`` are those that
    all calls share.

    Attributes:
        elements: its inputs, all of one length.
        chunk: at most so many elements are sent to a rank at once; None sets no limit.
        max_failures: once more elements than this have failed, no further ones begin: a number, or a share of the
            elements as a float from 0 to 1; None sets no limit.
        window: at most so many elements have come and have not ended; None where all are known before the run.
        source: of a windowed array, its iterables.
        root: the id of the windowed array whose elements come, where it takes values of it, or of one that does; None
            where it does not.
    """

    elements: tuple[ElementInput, ...] = ()
    chunk: int | None = None
    max_failures: float | None = None
    window: int | None = None
    source: ElementSource | None = None
    root: Hashable | None = None

    def __init__(
        self,
        elements: tuple[ElementInput, ...] = (),
        chunk: int | None = None,
        max_failures: float | None = None,
        window: int | None = None,
        source: ElementSource | None = None,
        root: Hashable | None = None,
        **declared: Any,
    ) -> None:
        Function.__init__(self, **declared)
        self.window = window
        self.source = source
        self.root = root
        self.elements = elements
        self.chunk = chunk
        self.max_failures = max_failures

    def __len__(self) -> int:
        """Return how many elements are known before the run."""
        return len(self.elements[0]) if self.window is None else 0

    def __bool__(self) -> bool:
        return True  # an array without elements is a function too

    @property
    def linked_ids(self) -> Sequence[Hashable]:
        return list(dict.fromkeys(id for each in self.elements for id in each.array_ids))

    @property
    def element_ids(self) -> Sequence[Hashable]:
        return list(dict.fromkeys(reference.id for _, _, reference in references_of(self.elements)))

    def freeze(self, number_of: Mapping[Hashable, int]) -> FrozenArray:
        """Return its elements, which are still to be encoded, with a share of failures as their number.

        Args:
            number_of: id to task number.
        """
        if self.source is not None and self.window is not None:
            return self._freeze_windowed(self.window)
        # those of an array that grows learn during the run how many there are
        elements = self.elements if self.window is None else tuple(map(copy.copy, self.elements))
        count, most = len(self), plain(self.max_failures)
        if type(most) is float:
            most = int(most * count)
        links = tuple(link for each in elements for link in each.links(number_of))
        return FrozenArray(elements, count, plain(self.chunk), most, links, window=self.window)

    def _freeze_windowed(self, size: int) -> FrozenArray:
        """Return the array without elements: each run pulls its own."""
        pulled = ElementWindow(len(self.elements), size)
        elements = tuple(WindowedInput(pulled, number, each.name) for number, each in enumerate(self.elements))
        most = plain(self.max_failures)
        return FrozenArray(elements, 0, plain(self.chunk), most, window=size, pulled=pulled, source=self.source)


DECLARES.add(ArrayFunction)


# -- declaration -------------------------------------------------------------------------------------------

#: Handles whose elements are taken one by one.
LISTS = frozenset({ArrayHandle, ArraySlice, WindowedHandle})
#: Iterables that each element takes whole.
BROADCAST = frozenset({Fixed, Handle, ArrayElement, Argument})
#: By class of code: its function, and the options that it was declared with.
DECLARED: dict[type, Callable[[Any], tuple[Callable[..., Any], Mapping[str, Any]]]] = {}
#: The options of an array that a function does not have, and the id.
OWN_OPTIONS = {"id", "fixed", "chunk", "max_failures", "window"}
#: Fields of a function that are no options of an array.
_NOT_OPTIONS = {"args", "code", "extra_args", "kwargs", "type", "argument_inclusion"}
ARRAY_OPTIONS = {each.name for each in fields(Function)} - _NOT_OPTIONS | OWN_OPTIONS
_OTHER_WORDS = {
    "fixed": "kwargs kwds keywords constants extra common shared broadcast",
    "chunk": "chunksize chunk_size batch batch_size batches chunks npartitions",
    "window": "buffersize buffer_size buffer lazy max_pending prefetch",
    "max_failures": "max_errors failures max_failed fail_limit failure_limit",
}
_SYNONYMS = {word: name for name, words in _OTHER_WORDS.items() for word in words.split()}
#: Why some options are refused.
REFUSED = {
    "type": "it cannot be inline, as it is many calls; leave out type=",
    "argument_inclusion": "each call takes one item of each iterable; leave it out, and give lists of lists",
}
#: The remedy for an argument that is not iterable.
_OF_ALL = "pass Fixed(...) of it if each element takes it whole"


def declare_array(
    code: Any, iterables: Sequence[Any], options: Mapping[str, Any], unique_id: Callable[[str], str]
) -> ArrayFunction:
    """Return the function that ``DAG.map`` adds.

    Raises:
        DAGError: as of ``DAG.map``.
    """
    function, options = with_declared(code, options)
    if not callable(function) or type(function) in HANDLES:
        raise DAGError(f"map takes the function first, and the iterables behind it; {show(function)} cannot be called")
    name = name_of(function)
    where = f"map({name})"
    check_options(options, where)
    fixed = unwrapped(options.get("fixed"), where)
    window, source, root = plain(options.get("window")), None, None
    if window is None:
        followed = find_followed(iterables, options.get("max_failures"), where)
        if followed is not None:
            window, root = followed.window, followed.root
        positions, elements = _read_arguments(iterables, where)
    else:
        check_window(window, options.get("max_failures"), where)
        positions, elements, source = _windowed_arguments(iterables, window, where)
    problem = find_binding_problem(function, len(positions), fixed)
    if problem:
        remedy = "; give an iterable for it, or pass it by name in fixed" if " missing " in problem else ""
        raise DAGError(f"{problem}{remedy}", where)
    declared = {option: value for option, value in options.items() if option not in OWN_OPTIONS}
    id = options.get("id")
    return ArrayFunction(
        elements,
        options.get("chunk"),
        options.get("max_failures"),
        window,
        source,
        root,
        id=unique_id(name) if id is None else id,
        code=function,
        extra_args=positions,
        kwargs=fixed,
        **declared,
    )


def with_declared(code: Any, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the function of ``code``, and ``options`` with those that it was declared with."""
    if type(code) not in DECLARED:
        return code, dict(options)
    function, declared = DECLARED[type(code)](code)
    inherited = dict(declared)
    for name, default in (("type", REGULAR), ("argument_inclusion", VARIADIC)):
        if inherited.get(name) == default:
            del inherited[name]
    return function, {**inherited, **options}


def check_options(
    options: Mapping[str, Any],
    where: str,
    known: Collection[str] = ARRAY_OPTIONS,
    refused: Mapping[str, str] = REFUSED,
) -> None:
    """Refuse options that an array does not have.

    Args:
        known: those that it has.
        refused: why some others are refused.

    Raises:
        DAGError: naming them.
    """
    others = [name for name in options if name not in known]
    problems = [f"{where}: {refused[name]}" for name in others if name in refused]
    unknown = [name for name in others if name not in refused]
    if unknown:
        problems.append(f"{where} {describe_unknown(unknown, known, _SYNONYMS)}")
    if problems:
        raise DAGError(problems)


def _read_arguments(iterables: Sequence[Any], where: str) -> tuple[list[Any], tuple[ElementInput, ...]]:
    """Return the arguments by position, with placeholders where elements are put, and the inputs that these are of."""
    elements: list[ElementInput] = []
    lengths: dict[int, int] = {}
    positions: list[Any] = []
    for number, each in enumerate(iterables, 1):
        if type(each) in BROADCAST:
            positions.append(each.value if type(each) is Fixed else each)
            continue
        positions.append(Placeholder(ELEMENT, len(elements)))
        elements.append(read_elements(each, f"argument {number}", where))
        lengths[number] = len(elements[-1])
    _check_lengths(lengths, iterables, where)
    return positions, tuple(elements)


def _windowed_arguments(
    iterables: Sequence[Any], window: int, where: str
) -> tuple[list[Any], tuple[ElementInput, ...], ElementSource]:
    """Return what :func:`_read_arguments` does, of iterables that are read while the array runs."""
    of_elements = {number: each for number, each in enumerate(iterables, 1) if type(each) not in BROADCAST}
    for number, each in of_elements.items():
        if type(each) in LISTS:
            remedy = "map over it without window=: its elements are taken as they are done"
            raise DAGError(f"argument {number} is {show(each)}, values of an array, with window=; {remedy}", where)
        check_iterable(each, f"argument {number}", where)
    _check_lengths(dict.fromkeys(of_elements, 0), iterables, where)
    places = {number: place for place, number in enumerate(of_elements)}
    positions = [
        Placeholder(ELEMENT, places[number]) if number in places else each.value if type(each) is Fixed else each
        for number, each in enumerate(iterables, 1)
    ]
    template = ElementWindow(len(of_elements), window)
    elements = tuple(WindowedInput(template, place, f"argument {number}") for number, place in places.items())
    return positions, elements, ElementSource([*of_elements.values()])


def find_followed(iterables: Sequence[Any], max_failures: Any, where: str) -> WindowedHandle | None:
    """Return a handle of a windowed array among iterables, None if there is none.

    Raises:
        DAGError: others of them have elements whose number may be another one.
    """
    windowed = [each for each in iterables if type(each) is WindowedHandle]
    if not windowed:
        return None
    for number, each in enumerate(iterables, 1):
        if type(each) is not WindowedHandle and type(each) not in BROADCAST:
            what = f"argument {number} is {show(each)}, beside values of which nobody knows how many come"
            remedy = "have its elements read by the array with window=, or pass Fixed(...) of it"
            raise DAGError(f"{what}; {remedy}", where)
    roots = list(dict.fromkeys(each.root for each in windowed))
    if len(roots) > 1:
        what = f"{show(roots[0])} and {show(roots[1])} read iterables of their own, which may give different numbers"
        raise DAGError(f"{what} of elements; map over them together in one array with window=", where)
    check_window(windowed[0].window, max_failures, where)
    return windowed[0]


def check_window(size: Any, max_failures: Any, where: str) -> None:
    """Refuse what is not the size of a window, and a share of failures of elements that nobody can count.

    Raises:
        DAGError: saying so.
    """
    if type(size) is not int or size < 1:
        raise DAGError(f"window must be a whole number from 1, not {show(size)}", where)
    if type(plain(max_failures)) is float:
        what = f"max_failures is a share, {show(max_failures)}, of elements whose number is unknown (window=)"
        raise DAGError(f"{what}; give a whole number", where)


def read_elements(values: Any, name: str, where: str, remedy: str = _OF_ALL) -> ElementInput:
    """Return the elements of an argument.

    Args:
        name: of the argument.
        remedy: what to pass instead of something that is not iterable.

    Raises:
        DAGError: it has none that can be used.
    """
    if type(values) is WindowedHandle:
        return LinkedInput(values.id, UNKNOWN_COUNT, range(UNKNOWN_COUNT), name)
    if type(values) in LISTS:
        return LinkedInput(values.id, values.array_count, values.elements, name)
    check_iterable(values, name, where, remedy)
    try:
        elements = freeze_elements(values, name)
    except DAGError as error:
        raise DAGError(error.problems, where) from error
    if type(values) in (list, tuple) or not isinstance(values, Sequence):  # others may read their items when asked
        return with_handles(elements, where)
    return elements


def check_iterable(values: Any, name: str, where: str, remedy: str = _OF_ALL) -> None:
    """Refuse an argument over whose items nobody can iterate.

    Raises:
        DAGError: saying so.
    """
    kind = type(values)
    is_number = isinstance(values, Number)  # scalars of numpy have the methods of arrays
    if is_number or not (hasattr(kind, "__iter__") or hasattr(kind, "__getitem__")):
        raise DAGError(f"{name} is {show(values)}, which is not iterable; {remedy}", where)


def _check_lengths(lengths: Mapping[int, int], iterables: Sequence[Any], where: str) -> None:
    """Refuse no iterables at all, and iterables of different lengths.

    Args:
        lengths: the number of an argument to its length.
    """
    if not iterables:
        raise DAGError("it takes at least one iterable behind the function", where)
    if not lengths:
        first = iterables[0]
        what = "no argument has elements"
        if type(first) is not Fixed:
            what += f": {show(first)} stands for a value that is not known before the run"
        raise DAGError(f"{what}; give an iterable too, such as range(count)", where)
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"argument {number} has {length:,}" for number, length in lengths.items())
        remedy = "give iterables of one length, and Fixed(...) of what each element takes whole"
        raise DAGError(f"the iterables have different lengths: {shown}; {remedy}", where)


def unwrapped(fixed: Any, where: str) -> dict[str, Any]:
    """Return keyword arguments without the :class:`Fixed` around values, which are the same for all elements anyway.

    Raises:
        DAGError: ``fixed`` does not map names to values.
    """
    if fixed is None:
        return {}
    if not isinstance(fixed, Mapping) or not all(isinstance(name, str) for name in fixed):
        what = f"fixed is {show(fixed)}, and must map names of parameters to values"
        raise DAGError(f"{what}; write fixed={{'name': value}}", where)
    return {name: each.value if type(each) is Fixed else each for name, each in fixed.items()}


def name_of(code: Any) -> str:
    """Return how a function is called in messages and ids."""
    try:
        name = code.__name__
    except Exception:  # objects answer what they like
        name = None
    return name if type(name) is str and name else type_name(code)


def call_each(code: Any, iterables: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """Return the values of plain calls, one for each element: an array outside a DAG.

    Raises:
        DAGError: an option is unknown, or the iterables have different lengths.
    """
    where = f"map({name_of(code)})"
    check_options(options, where)
    if options.get("window") is not None:
        check_window(plain(options["window"]), options.get("max_failures"), where)
    fixed = unwrapped(options.get("fixed"), where)
    columns: list[Iterable[Any]] = []
    lengths: dict[int, int] = {}
    for number, each in enumerate(iterables, 1):
        if type(each) is Fixed:
            columns.append(itertools.repeat(each.value))
            continue
        check_iterable(each, f"argument {number}", where)
        columns.append(column := [*each])
        lengths[number] = len(column)
    _check_lengths(lengths, iterables, where)
    return [code(*row, **fixed) for row in zip(*columns, strict=False)]
