"""Handles: they stand for values that do not exist until the run.

What a script does with a handle while it builds a DAG would be done to the handle, not to the value, and quite often
without an error: ``if converged(x): break`` would always break. So each use of a handle as a value raises.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from handoff_mpi.errors import DAGError
from handoff_mpi.formatting import show


class UnresolvedHandle(TypeError):
    """A handle or :class:`Argument` was about to be pickled where no rank would put a value into its place."""


#: The remedy for a handle that stands where nothing puts a value in its place.
AS_ARGUMENT = "pass it as an argument of its own"

if TYPE_CHECKING:
    #: Type checkers take a handle for a value of any type, as typeshed has it for a Mock: it is given instead of one.
    StandsForValue: TypeAlias = Any
else:
    StandsForValue = object


class Handle(StandsForValue):  # type: ignore[misc]
    """Stands for the value that the function ``id`` will return.

    Handles are compared and hashed by identity; compared with anything else they raise, as do operations that need
    the value.

    Raises:
        TypeError: ``id`` cannot be hashed, so that it is the id of no function.
    """

    __slots__ = ("__weakref__", "id")
    __match_args__ = ("id",)

    id: Hashable

    #: numpy leaves operators of arrays to the handle, which refuses them, and refuses ufuncs itself.
    __array_ufunc__ = None

    def __init__(self, id: Hashable) -> None:
        if isinstance(id, Handle):
            id = id.id
        hash(id)
        object.__setattr__(self, "id", id)

    def __init_subclass__(cls) -> None:
        if cls.__module__ != __name__:
            raise TypeError("Handle cannot be subclassed")

    def __repr__(self) -> str:
        return f"Handle({show(object.__getattribute__(self, 'id'))})"

    def __copy__(self) -> Handle:
        return self

    def __deepcopy__(self, memo: Any) -> Handle:
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise UnresolvedHandle(f"{self!r} stands for a value that does not exist until the run; {AS_ARGUMENT}")

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        if type(other) in HANDLES:
            return self is other
        raise _misuse(self, f"compare {self!r} with a {type(other).__name__}", "compares the value")

    def __ne__(self, other: object) -> bool:
        if type(other) in HANDLES:
            return self is not other
        raise _misuse(self, f"compare {self!r} with a {type(other).__name__}", "compares the value")

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"cannot set {name!r} of {self!r}: handles do not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"cannot delete {name!r} of {self!r}: handles do not change")

    def __getattr__(self, name: str) -> NoReturn:
        """Called for what a handle does not have; AttributeError is what ``hasattr`` and libraries expect."""
        if name == "id" or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)
        raise AttributeError(str(_misuse(self, f"read .{name} of {self!r}", f"reads .{name} of the value")))

    def __format__(self, spec: str) -> str:
        if spec:
            raise _misuse(self, f"format {self!r} as {spec!r}", "formats the value")
        return repr(self)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        """numpy calls this to make arrays: handles can be put into arrays of objects alone."""
        if dtype is None or dtype != "O":
            raise _misuse(
                self, f"make an array of {self!r}", "makes the array, or say dtype=object for an array of handles"
            )
        import numpy

        array = numpy.empty((), dtype=object)
        array[()] = self
        return array

    def __array_function__(self, function: Any, *_: Any) -> NoReturn:
        raise _misuse(self, f"call numpy.{function.__name__} with {self!r}", "calls it with the value")


class _OfArray(Handle):
    """Stands for values of an array.

    Attributes:
        array_count: how many elements the array has.
    """

    __slots__ = ("array_count",)

    array_count: int

    def __init__(self, id: Hashable, array_count: int) -> None:
        super().__init__(id)
        object.__setattr__(self, "array_count", array_count)


class _Values(_OfArray):
    """Stands for a list of values of an array; ``elements`` are their indices, in order."""

    __slots__ = ("elements",)

    elements: range

    def __len__(self) -> int:
        return len(self.elements)

    def __getitem__(self, index: Any) -> Any:
        """Return a handle of one element, or of a slice of them.

        Raises:
            DAGError: there is no such element, or ``index`` is neither a whole number nor a slice of such.
        """
        if type(index) is slice:
            return ArraySlice(self.id, self.array_count, self.elements[_checked(self, index)])
        return ArrayElement(self.id, self.array_count, self.elements[_position(self, index)])

    def __iter__(self) -> NoReturn:
        raise _not_iterable(self, "iterate over")

    def __reversed__(self) -> NoReturn:
        raise _not_iterable(self, "iterate over")


class ArrayHandle(_Values):
    """Stands for the list of the values of an array, which ``dag.map`` has declared.

    A function that takes it receives the whole list, in the order of the elements. ``len`` is the number of elements,
    ``[3]`` stands for the value of one of them, ``[0:1000]`` for a list of values.
    """

    __slots__ = ()

    def __init__(self, id: Hashable, count: int) -> None:
        super().__init__(id, count)
        object.__setattr__(self, "elements", range(count))

    def __repr__(self) -> str:
        return f"ArrayHandle({show(self.id)}, {self.array_count})"


class ArraySlice(_Values):
    """Stands for the list of the values of some elements of an array: ``xs[0:1000]``, ``xs[::-1]``.

    A function that takes it runs as soon as these elements are done. A slice can be sliced again.
    """

    __slots__ = ()

    def __init__(self, id: Hashable, array_count: int, elements: range) -> None:
        super().__init__(id, array_count)
        object.__setattr__(self, "elements", elements)

    def __repr__(self) -> str:
        return f"ArraySlice({show(self.id)}{elements_text(self.elements)})"


class ArrayElement(_OfArray):
    """Stands for the value of one element of an array: ``xs[3]``.

    A function that takes it runs as soon as this element is done.

    Attributes:
        index: of the element, from 0.
    """

    __slots__ = ("index",)

    index: int

    def __init__(self, id: Hashable, array_count: int, index: int) -> None:
        super().__init__(id, array_count)
        object.__setattr__(self, "index", index)

    def __repr__(self) -> str:
        return f"ArrayElement({show(self.id)}{elements_text(self.index)})"


class WindowedHandle(Handle):
    """Stands for the values of an array that ``dag.map`` has declared with ``window=``, or over such an array.

    Nobody knows before the run how many elements come, so it has no length, no elements and no slices. ``dag.map`` and
    ``dag.reduce`` take it.

    Attributes:
        root: the id of the array that reads iterables, whose elements come.
        window: of that array.
    """

    __slots__ = ("root", "window")

    root: Hashable
    window: int

    def __init__(self, id: Hashable, root: Hashable, window: int) -> None:
        super().__init__(id)
        object.__setattr__(self, "root", root)
        object.__setattr__(self, "window", window)

    def __repr__(self) -> str:
        return f"WindowedHandle({show(self.id)})"

    def __len__(self) -> NoReturn:
        raise _unknown_number(self, f"take the length of {self!r}", "take the length of {results}")

    def __getitem__(self, index: Any) -> NoReturn:
        what = f"take a slice of {self!r}" if type(index) is slice else f"take an element of {self!r}"
        raise _unknown_number(self, what, "index {results}")

    def __iter__(self) -> NoReturn:
        raise _unknown_number(self, f"iterate over {self!r}", "iterate over {results}")

    def __reversed__(self) -> NoReturn:
        raise _unknown_number(self, f"iterate over {self!r} from its end", "iterate over {results}")

    def __contains__(self, value: object) -> NoReturn:
        raise _unknown_number(self, f"look into {self!r} with `in`", "look into {results}")


def elements_text(elements: int | range) -> str:
    """Return how a user writes an index, or a slice of an array: ``[3]``, ``[0:1000]``, ``[10::-2]``."""
    if isinstance(elements, int):
        return f"[{elements}]"
    stop = str(elements.stop) if elements.stop >= 0 else ""
    step = f":{elements.step}" if elements.step != 1 else ""
    return f"[{elements.start}:{stop}{step}]"


#: Names of types of truth values, those of numpy among them: an index that is one is a mistake.
_BOOLS = frozenset({"bool", "bool_"})
#: The types of handles of values of arrays.
OF_ARRAYS: frozenset[type] = frozenset({ArrayHandle, ArraySlice, ArrayElement})
#: The types of handles: they are compared exactly.
HANDLES: frozenset[type] = OF_ARRAYS | {Handle, WindowedHandle}


def _position(values: _Values, index: Any) -> int:
    """Return the position that ``index`` stands for."""
    count = len(values)
    position = _whole(values, index)
    if not -count <= position < count:
        has = f"it has {count:,} element{'s' * (count != 1)}"
        remedy = f"; use an index from {-count} to {count - 1}" if count else ""
        raise DAGError(f"there is no element {show(position)} of {values!r}: {has}{remedy}")
    return position


def _checked(values: _Values, index: slice) -> slice:
    """Return a slice of plain integers."""
    parts = index.start, index.stop, index.step
    start, stop, step = (None if part is None else _whole(values, part) for part in parts)
    if step == 0:
        raise DAGError(f"cannot take a slice of {values!r} with step 0: no element follows another; use a step like 1")
    return slice(start, stop, step)


def _whole(values: _Values, number: Any) -> int:
    is_handle = type(number) in HANDLES  # which says itself why it is none
    try:
        if type(number).__name__ not in _BOOLS:
            return operator.index(number)
    except Exception:  # objects answer what they like
        if is_handle:
            raise
    remedy = "use a whole number, a slice of such, or a function that picks from the whole list"
    raise DAGError(f"cannot index {values!r} with {show(number)}, which is no whole number; {remedy}") from None


def _not_iterable(values: _Values, what: str) -> TypeError:
    why = "the values of an array do not exist until the run"
    remedy = "pass it whole to a function of the DAG, or iterate over range(len(...)) and take [index] of it"
    return TypeError(f"cannot {what} {values!r}: {why}; {remedy}")


def _unknown_number(handle: WindowedHandle, what: str, instead: str) -> TypeError:
    why = "nobody knows before the run how many elements come (window=)"
    remedy = f"map over a list or a range without window=, or {instead.format(results=f'results[{show(handle.id)}]')}"
    return TypeError(f"cannot {what}: {why}; {remedy} after the run")


def _misuse(handle: Handle, what: str, instead: str) -> TypeError:
    why = "a handle stands for a value that does not exist until the run"
    return TypeError(f"cannot {what}: {why}; pass it to a function of the DAG that {instead}")


def _refuse(name: str, what: str, instead: str) -> None:
    def refuse(self: Handle, *args: Any, **kwargs: Any) -> NoReturn:
        raise _misuse(self, what.format(repr(self)), instead)

    refuse.__name__ = name
    refuse.__qualname__ = f"Handle.{name}"
    setattr(Handle, name, refuse)


_ARITHMETIC = ["add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "matmul"]
_ARITHMETIC += ["lshift", "rshift", "and", "xor", "or"]
_REFUSED = {
    ("take the truth value of {}", "decides by the value"): ["bool"],
    ("compare {} by order", "compares the value"): ["lt", "le", "gt", "ge"],
    ("take the length of {}", "takes the length of the value"): ["len", "length_hint"],
    ("index {}", "indexes the value"): ["getitem", "setitem", "delitem"],
    ("iterate over {}", "iterates over the value"): ["iter", "next", "reversed", "aiter", "anext"],
    ("look into {} with `in`", "looks into the value"): ["contains"],
    ("call {}", "calls the value"): ["call"],
    ("calculate with {}", "calculates with the value"): [
        *_ARITHMETIC,
        *(f"r{name}" for name in _ARITHMETIC),
        *(f"i{name}" for name in _ARITHMETIC if name != "divmod"),
        *["neg", "pos", "abs", "invert", "round", "trunc", "floor", "ceil"],
    ],
    ("convert {} to a number", "converts the value"): ["int", "float", "complex", "index"],
    ("convert {} to bytes or a path", "converts the value"): ["bytes", "fspath"],
    ("enter {} with `with`", "enters the value"): ["enter", "exit", "aenter", "aexit"],
    ("await {}", "awaits the value"): ["await"],
}
for (_what, _instead), _names in _REFUSED.items():
    for _name in _names:
        _refuse(f"__{_name}__", _what, _instead)
