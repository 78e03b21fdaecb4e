"""How the arguments of a call are put together on the rank that runs it.

A call template is what rank 0 makes of a function once: ``(codes, mode, constants, large)``. ``codes`` are numbers in
the code table, the function's own first; ``constants`` is the payload of ``(extra, kwargs)`` or None; ``large``
are the numbers of the large constants it takes, which a rank is sent once. In mode
VALUES the inputs' values come first and ``extra`` behind them, in mode LIST as one list. In mode TEMPLATE the
constants are a plain payload of ``(inlines, call)``: pickles in which values are called up by :func:`resolve`, wherever
pickle met what stands for them. ``call`` gives the whole argument list and the keyword arguments; ``inlines`` are the
inline functions, each after those whose values it takes, as ``(number of its code, pickle of its arguments)``. Mode
ELEMENTS is that of an array: its constants are those of mode TEMPLATE, and placeholders also mark where the elements of
its inputs are put; where these elements are all that it takes, in order, they are a plain payload of the number of the
inputs. A function with a working directory, variables or copies of its inputs of its own has these as a fifth part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from operator import is_
from typing import Any, TypeAlias

from handoff_mpi.dag.surroundings import Surroundings
from handoff_mpi.serialization import PICKLED, PLAIN, EncodingError, Payload, decode_input, is_plain

VALUES = 0
LIST = 1
TEMPLATE = 2
ELEMENTS = 3

_Bare: TypeAlias = "tuple[tuple[int, ...], int, Payload | None, tuple[int, ...]]"
CallTemplate: TypeAlias = "_Bare | tuple[tuple[int, ...], int, Payload | None, tuple[int, ...], Surroundings]"

#: What functions without keyword arguments share: each call gets a mapping of its own by ``**``.
_NO_KWARGS: dict[str, object] = {}
#: What :func:`resolve` gives the value of: an input, a large constant, an inline function.
INPUT = 0
CONSTANT = 1
INLINE = 2
#: It returns a placeholder itself where an element of an input of an array will be put.
ELEMENT = 3


class PlainTemplates:
    """The call templates of functions that take values, and plain constants behind them.

    Neighbours that have the very same constants share these, and those that have the same code too their template.
    """

    __slots__ = ("_bare", "_constants", "_extra", "_template")

    def __init__(self) -> None:
        self._bare: dict[int, _Bare] = {}
        self._extra: tuple[object, ...] = ()
        self._constants: Payload | None = None
        self._template: _Bare = (), VALUES, None, ()

    def encode(self, extra: Sequence[object], kwargs: Mapping[str, object]) -> tuple[bool, Payload | None]:
        """Return whether constants are plain, and their payload; None if there are none."""
        if not kwargs:
            if not extra:
                return True, None
            if len(extra) == len(self._extra) and all(map(is_, extra, self._extra)):
                return True, self._constants
        found = tuple(extra)
        if not is_plain(found) or (kwargs and not is_plain(tuple(kwargs.values()))):
            return False, None
        payload: Payload = PLAIN, (found, dict(kwargs) if kwargs else _NO_KWARGS)
        if not kwargs:
            self._extra, self._constants = found, payload
        return True, payload

    def find(self, code: int, constants: Payload | None) -> _Bare:
        """Return the template of a call of the code with that number."""
        bare = self._bare.get(code)
        if bare is None:
            bare = self._bare[code] = ((code,), VALUES, None, ())
        if constants is None:
            return bare
        if self._template[2] is not constants or self._template[0] is not bare[0]:
            self._template = (bare[0], VALUES, constants, ())
        return self._template


class Placeholder:
    """Stands for a value in a template: unpickled, it is that value."""

    __slots__ = ("kind", "number")

    def __init__(self, kind: int, number: int) -> None:
        self.kind = kind
        self.number = number

    def __reduce__(self) -> tuple[object, ...]:
        return resolve, (self.kind, self.number)


class _Values:
    """The values that templates of one call refer to.

    Args:
        inputs: the values of its inputs.
        load_constant: gives the large constant with a number.
    """

    __slots__ = ("inlines", "inputs", "load_constant")

    def __init__(self, inputs: Sequence[object], load_constant: Callable[[int], object]) -> None:
        self.inputs = inputs
        self.inlines: list[object] = []
        self.load_constant = load_constant


_values: ContextVar[_Values] = ContextVar("handoff_values")


def resolve(kind: int, number: int) -> object:
    """Return the value that a placeholder stands for in the call that is being put together."""
    if kind == ELEMENT:
        return Placeholder(ELEMENT, number)
    values = _values.get()
    if kind == INPUT:
        return values.inputs[number]
    return values.inlines[number] if kind == INLINE else values.load_constant(number)


def build_call(
    call_template: CallTemplate,
    values: Sequence[object],
    load_code: Callable[[int], Callable[..., object]],
    load_constant: Callable[[int], object],
    load_inline: Callable[[int], Callable[..., object]] | None = None,
    load: Callable[[Payload], Any] = decode_input,
) -> tuple[Callable[..., object], Sequence[object], dict[str, object]]:
    """Return ``(code, args, kwargs)`` of the call that ``call_template`` describes; evaluates inline functions.

    Args:
        call_template: the task's call template.
        values: its inputs' values, in the order of its inputs.
        load_code: gives the callable with a number.
        load_constant: gives the large constant with a number.
        load_inline: as ``load_code``, for the inline functions, which are called here.
        load: decodes what the call template holds of arguments.

    Raises:
        EncodingError: the arguments cannot be put together.
    """
    codes, mode, constants = call_template[:3]
    code = load_code(codes[0])
    if mode == TEMPLATE:
        assert constants is not None
        return code, *_fill(constants[1], _Values(values, load_constant), load_inline or load_code, load)
    extra, kwargs = ((), {}) if constants is None else load(constants)
    if mode == VALUES:
        return code, (*values, *extra), kwargs
    return code, ([*values], *extra), kwargs


def build_element_calls(
    call_template: CallTemplate,
    values: Sequence[object],
    load_code: Callable[[int], Callable[..., object]],
    load_constant: Callable[[int], object],
    load_inline: Callable[[int], Callable[..., object]] | None = None,
    load: Callable[[Payload], object] = decode_input,
) -> tuple[Callable[..., object], list[object], dict[str, object], tuple[tuple[int, int], ...]]:
    """Return ``(code, args, kwargs, positions)`` of the calls of an array's elements; evaluates inline functions.

    For each ``(position, number)`` of ``positions`` the caller puts the element of the array's input ``number`` into
    ``args[position]``, and calls ``code(*args, **kwargs)``. The calls share the other arguments: they are decoded once,
    however many elements follow.

    Args:
        call_template: that of an array.
        values, load_code, load_constant, load_inline, load: as of :func:`build_call`.

    Raises:
        EncodingError: the arguments cannot be put together.
    """
    codes, mode, constants = call_template[:3]
    assert mode == ELEMENTS and constants is not None
    code = load_code(codes[0])
    if type(constants[1]) is int:
        return code, [None] * constants[1], {}, tuple(enumerate(range(constants[1])))
    args, kwargs = _fill(constants[1], _Values(values, load_constant), load_inline or load_code, load)
    positions = tuple([(place, each.number) for place, each in enumerate(args) if type(each) is Placeholder])
    return code, [*args], kwargs, positions


def _fill(
    template: tuple[Sequence[tuple[int, bytes]], bytes],
    values: _Values,
    load_code: Callable[[int], Callable[..., object]],
    load: Callable[[Payload], object],
) -> tuple[Sequence[object], dict[str, object]]:
    inlines, call = template
    for number, arguments in inlines:
        args, kwargs = _unpickled(arguments, values, load)
        values.inlines.append(load_code(number)(*args, **kwargs))
    return _unpickled(call, values, load)


def _unpickled(
    arguments: bytes, values: _Values, load: Callable[[Payload], Any]
) -> tuple[Sequence[object], dict[str, object]]:
    token = _values.set(values)
    try:
        return load((PICKLED, arguments))  # type: ignore[no-any-return]
    except EncodingError as error:
        why = error.__cause__ or error
        raise EncodingError(f"its arguments cannot be put together: {type(why).__name__}: {why}") from why
    finally:
        _values.reset(token)
