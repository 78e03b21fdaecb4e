"""Checks whether Python would accept the arguments of a call, without the call, and only where that is certain.

``inspect.signature`` cannot tell: it believes ``__wrapped__`` and ``__signature__``, which decorators copy from what
they wrap. This module looks at what Python itself binds: the code object of a plain function. It makes a function with
the same parameters and an empty body, and calls that; so Python decides, and Python words the error. A callable that
does not lead to a plain function (built in, compiled, a mock) counts as one that takes any arguments.
"""

from __future__ import annotations

import functools
import inspect
import keyword
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import CodeType, FunctionType, MethodType
from typing import Any

#: The longest chain of callables that call one another.
_MAX_DEPTH = 20
#: By class: the callable to which its objects pass all their arguments.
PASSES_ON: dict[type, Callable[[Any], object]] = {
    staticmethod: lambda code: code.__func__,
    type(functools.lru_cache(abs)): lambda code: vars(code).get("__wrapped__"),
}


@dataclass(frozen=True, slots=True)
class Called:
    """The function that a call of some callable executes in the end.

    Attributes:
        function: the plain function whose code Python executes; None where a class without parameters is called.
        stub: takes the arguments that the callable takes, and does nothing.
        is_result: whether the callable returns what the function returns.
    """

    function: FunctionType | None
    stub: Callable[..., object]
    is_result: bool = True


def find_binding_problem(code: object, count: int, keywords: Iterable[str] = ()) -> str:
    """Return why ``code`` cannot be called with ``count`` positional arguments and ``keywords``, as Python words it.

    An empty string if it can, or if that is not certain.
    """
    called = find_called(code)
    if called is None:
        return ""
    try:
        called.stub(*range(count), **dict.fromkeys(keywords))
    except TypeError as error:
        return str(error)
    return ""


def find_called(code: Any, depth: int = _MAX_DEPTH) -> Called | None:
    """Return the function that a call of ``code`` executes; None where that is uncertain. No code of the user runs."""
    kind = type(code)
    if not depth:
        return None
    if kind is FunctionType:
        return _of_function(code)
    if kind is MethodType:
        return _bound(find_called(code.__func__, depth - 1))
    if kind is functools.partial:
        return _of_partial(code, find_called(code.func, depth - 1))
    if kind in PASSES_ON:
        return find_called(PASSES_ON[kind](code), depth - 1)
    if issubclass(kind, type):
        return _of_class(code)
    call = _found_in(kind, "__call__")
    return _bound(_of_function(call)) if type(call) is FunctionType else None


def _of_function(function: FunctionType) -> Called | None:
    made = _stub_code(*_parameters(function.__code__))
    if made is None:
        return None
    stub = FunctionType(made, {}, function.__name__, function.__defaults__)
    stub.__kwdefaults__ = function.__kwdefaults__
    stub.__qualname__ = function.__qualname__
    return Called(function, stub)


def _parameters(code: CodeType) -> tuple[tuple[str, ...], int, int, int]:
    flags = code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
    count = code.co_argcount + code.co_kwonlyargcount + flags.bit_count()
    return code.co_varnames[:count], code.co_posonlyargcount, code.co_argcount, flags


@functools.lru_cache(maxsize=1000)
def _stub_code(names: tuple[str, ...], positional_only: int, positional: int, flags: int) -> CodeType | None:
    """Return the code of a function that takes these parameters and does nothing."""
    if not all(name.isidentifier() and not keyword.iskeyword(name) for name in names):
        return None
    rest = list(names)
    kwargs = [f"**{rest.pop()}"] if flags & inspect.CO_VARKEYWORDS else []
    star = [f"*{rest.pop()}"] if flags & inspect.CO_VARARGS else ["*"] * (len(rest) > positional)
    rest[positional:positional] = star
    if positional_only:
        rest.insert(positional_only, "/")
    try:
        module = compile(f"lambda {', '.join([*rest, *kwargs])}: None", "<stub>", "eval")
    except (SyntaxError, ValueError):
        return None
    return next(each for each in module.co_consts if isinstance(each, CodeType))


def _bound(called: Called | None) -> Called | None:
    return None if called is None else Called(called.function, MethodType(called.stub, object()), called.is_result)


def _of_partial(code: Any, called: Called | None) -> Called | None:
    if called is None:
        return None
    stub = functools.partial(called.stub, *code.args, **code.keywords)
    return Called(called.function, stub, called.is_result)


def _of_class(kind: type) -> Called | None:
    """``type.__call__`` calls ``__new__``, and then ``__init__`` of what that has made, both with all arguments."""
    if _found_in(type(kind), "__call__") is not vars(type)["__call__"]:
        return None
    new, init = _found_in(kind, "__new__"), _found_in(kind, "__init__")
    new = new.__func__ if type(new) is staticmethod else new
    if new is object.__new__ and init is object.__init__:
        return Called(None, type(_name_of(kind), (), {}), is_result=False)
    made = init if new is object.__new__ else new
    called = _bound(_of_function(made)) if type(made) is FunctionType else None
    return None if called is None else Called(called.function, called.stub, is_result=False)


def _found_in(kind: type, name: str) -> Any:
    """Return what a class has under ``name``, itself or from its bases, as it lies there."""
    for base in type.__dict__["__mro__"].__get__(kind):
        if name in type.__dict__["__dict__"].__get__(base):
            return type.__dict__["__dict__"].__get__(base)[name]
    return None


def _name_of(kind: type) -> str:
    return str(type.__dict__["__name__"].__get__(kind))
