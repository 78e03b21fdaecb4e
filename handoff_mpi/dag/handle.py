"""Handles: they stand for values that do not exist until the run.

What a script does with a handle while it builds a DAG would be done to the handle, not to the value, and quite often
without an error: ``if converged(x): break`` would always break. So each use of a handle as a value raises.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from handoff_mpi.formatting import show


class UnresolvedHandle(TypeError):
    """A handle or :class:`Argument` was about to be pickled where no rank would put a value into its place."""


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
        raise UnresolvedHandle(
            f"{self!r} stands for a value that does not exist until the run; pass it as an argument of its own"
        )

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


class ArrayHandle(Handle):
    """Stands for the list of the values of an array, which ``dag.map`` has declared.

    A function that takes it receives the whole list, in the order of the elements. ``len`` is the number of elements;
    that of a windowed array is None, as nobody knows it.
    """

    __slots__ = ("_count",)

    _count: int | None

    def __init__(self, id: Hashable, count: int | None) -> None:
        super().__init__(id)
        object.__setattr__(self, "_count", count)

    def __repr__(self) -> str:
        return f"ArrayHandle({show(self.id)}, {self._count})"

    def __len__(self) -> int:
        if self._count is None:
            raise TypeError(f"{self!r} has no length before the run: its elements are pulled while it runs (window=)")
        return self._count

    def __iter__(self) -> NoReturn:
        why = "the values of an array do not exist until the run"
        remedy = "pass it whole to a function of the DAG, or iterate over range(len(...)) where the index is enough"
        raise TypeError(f"cannot iterate over {self!r}: {why}; {remedy}")


#: The types of handles: they are compared exactly.
HANDLES: frozenset[type] = frozenset({Handle, ArrayHandle})


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
