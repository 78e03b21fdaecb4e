"""Makes the call templates of functions that are not plain: codecs, inline functions, handles, large constants."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeAlias

from handoff_mpi.dag.arrays import ArrayFunction
from handoff_mpi.dag.call_template import (
    CONSTANT,
    ELEMENT,
    ELEMENTS,
    INLINE,
    INPUT,
    LIST,
    TEMPLATE,
    VALUES,
    CallTemplate,
    Placeholder,
)
from handoff_mpi.dag.encoded_tables import LARGE_CONSTANT_NBYTES, EncodedTables
from handoff_mpi.dag.function import AS_LIST, REFERENCES, Argument, Function, input_id
from handoff_mpi.dag.handle import UnresolvedHandle
from handoff_mpi.dag.selections import SelectionTable, is_of_elements
from handoff_mpi.formatting import show
from handoff_mpi.imported_modules import imported_module
from handoff_mpi.serialization import PLAIN, Payload, dumps, encode_in_band, is_plain

#: The numbers of the codes that encode and decode an :class:`Argument`.
Codec: TypeAlias = "tuple[int | None, int | None]"


class TemplateBuilder:
    """Makes the call template of one function, gathering its inputs on the way.

    Args:
        tables: take its code and its large constants.
        number_of: the task numbers of functions that are not inline, by id.
        inlines: the inline functions, by id.
        selections: take the elements of arrays that it takes.

    Attributes:
        sources: its inputs, in the order of the values of its call.
    """

    def __init__(
        self,
        tables: EncodedTables,
        number_of: Mapping[Hashable, int],
        inlines: Mapping[Hashable, Function],
        selections: SelectionTable,
    ) -> None:
        self._tables = tables
        self._selections = selections
        self._number_of = number_of
        self._inline_functions = inlines
        self.sources: dict[tuple[int, Codec | None], int] = {}
        self._inline_numbers: dict[Hashable, int] = {}
        self._inlines: list[tuple[int, bytes]] = []
        self._codes: list[int] = []
        self._large: list[int] = []
        self._placeholders: dict[int, tuple[object, Placeholder]] = {}
        self._reducers: dict[type, Callable[[object], Any]] = dict.fromkeys(REFERENCES, self._reduce)
        numpy = imported_module("numpy")
        if numpy is not None:
            self._reducers[numpy.ndarray] = self._reduce_array

    def call_template(self, function: Function) -> CallTemplate:
        """Return the call template of ``function``.

        Raises:
            EncodingError: its code or a constant cannot be sent.
        """
        assert function.code is not None
        is_array = type(function) is ArrayFunction
        code_number = self._tables.own_code_number if is_array else self._tables.code_number
        self._codes.append(code_number(function.code))
        args: list[Any] = [self._reference(reference) for reference in function.args]
        count = len(self.sources)
        takes_all = [(each.kind, each.number) for each in args] == [(INPUT, index) for index in range(count)]
        extra, kwargs, is_template = self._constants(function)
        constants: Payload | None = None
        if is_template or is_array or not takes_all:
            mode = ELEMENTS if is_array else TEMPLATE
            args = [args, *extra] if function.argument_inclusion == AS_LIST else [*args, *extra]
            if is_array and not kwargs and _are_elements_alone(args):
                constants = (PLAIN, len(args))
            else:
                constants = (PLAIN, (tuple(self._inlines), dumps((args, kwargs), self._reducers)))
        else:
            mode = LIST if function.argument_inclusion == AS_LIST else VALUES
            if extra or kwargs:
                constants = (PLAIN, (extra, kwargs)) if _are_plain(extra, kwargs) else encode_in_band((extra, kwargs))
        return tuple(dict.fromkeys(self._codes)), mode, constants, tuple(dict.fromkeys(self._large))

    def _constants(self, function: Function) -> tuple[tuple[object, ...], dict[str, object], bool]:
        """Return extra and keyword arguments with large ones replaced, and whether any value is to be put into them."""
        values = [*function.extra_args, *function.kwargs.values()]
        references = self._tables.finder.find(values)
        for reference in references:
            self._placeholders[id(reference)] = reference, self._reference(reference)
        large = len(self._large)
        find = self._tables.finder.find
        values = [value if references and find([value]) else self._constant(value) for value in values]
        count = len(function.extra_args)
        kwargs = dict(zip(function.kwargs, values[count:], strict=True))
        return tuple(values[:count]), kwargs, bool(references) or len(self._large) > large

    def _constant(self, value: object) -> object:
        """Return ``value``, or what stands for it if it is large."""
        if is_plain(value):
            return value
        number = self._tables.constant_number(value)
        if number is None:
            return value
        self._large.append(number)
        return Placeholder(CONSTANT, number)

    def _reduce(self, reference: object) -> tuple[object, ...]:
        """Called by pickle for a reference among the constants."""
        known = self._placeholders.get(id(reference))
        if known is None:
            where = f"{show(reference)} is inside an object that is not searched for handles"
            raise UnresolvedHandle(f"{where}; pass it as an argument of its own")
        return known[1].__reduce__()

    def _reduce_array(self, array: Any) -> Any:
        """Called by pickle for an array beside references."""
        if array.nbytes < LARGE_CONSTANT_NBYTES or array.dtype.hasobject:
            return array.__reduce_ex__(5)
        return self._constant(array).__reduce__()

    def _reference(self, reference: object) -> Placeholder:
        codec = None
        if isinstance(reference, Argument):
            number = self._tables.code_number
            codec = (
                None if reference.serialize is None else number(reference.serialize),
                None if reference.deserialize is None else number(reference.deserialize),
            )
            self._codes += [code for code in codec if code is not None]
            codec = None if codec == (None, None) else codec
        id = input_id(reference)
        if id in self._inline_functions:
            return Placeholder(INLINE, self._inline(self._inline_functions[id]))
        source = self._number_of[id]
        if is_of_elements(reference):
            source = self._selections.number_of(reference, source)
        key = source, codec
        return Placeholder(INPUT, self.sources.setdefault(key, len(self.sources)))

    def _inline(self, function: Function) -> int:
        """Return the number of an inline function of this call."""
        known = self._inline_numbers.get(function.id)
        if known is not None:
            return known
        assert function.code is not None
        code = self._tables.code_number(function.code)
        self._codes.append(code)
        args: list[object] = [self._reference(reference) for reference in function.args]
        extra, kwargs, _ = self._constants(function)
        args = [args, *extra] if function.argument_inclusion == AS_LIST else [*args, *extra]
        self._inlines.append((code, dumps((args, kwargs), self._reducers)))
        number = self._inline_numbers[function.id] = len(self._inlines) - 1
        return number


def _are_elements_alone(args: Sequence[Any]) -> bool:
    """Whether the elements of the inputs of an array are all that its calls take, in their order."""
    found = [(each.kind, each.number) for each in args if type(each) is Placeholder]
    return found == [(ELEMENT, number) for number in range(len(args))]


def _are_plain(extra: tuple[object, ...], kwargs: dict[str, object]) -> bool:
    """Whether constants can be carried as they are."""
    return (not extra or is_plain(extra)) and (not kwargs or is_plain(tuple(kwargs.values())))
