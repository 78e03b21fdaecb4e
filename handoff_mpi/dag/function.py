"""One function of a DAG as the user declares it, and the two ways to refer to another one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

REGULAR = "regular"
INLINE = "inline"
VARIADIC = "variadic"
AS_LIST = "as_list"


@dataclass(frozen=True, slots=True)
class Handle:
    """Stands for the value that the function ``id`` will return."""

    id: Hashable

    def __iter__(self) -> Any:
        raise TypeError(f"the value of {self.id!r} is not known yet; a function that takes it apart must do that")


@dataclass(frozen=True, slots=True)
class Argument:
    """The value of another function, encoded where it was made and decoded where it is used.

    Attributes:
        id: the function whose value this is, or its handle.
        serialize: ``(value, source_rank, target_rank) -> payload``, called on the rank that holds the value.
        deserialize: ``(payload, source_rank, target_rank) -> value``, called on the consumer's rank.

    Both are told the two ranks, so that they can skip the work where these are the same, or send only
    the part of a value that the consumer needs.
    """

    id: Hashable
    serialize: Callable[[Any, int, int], Any] | None = None
    deserialize: Callable[[Any, int, int], Any] | None = None


@dataclass(frozen=True, slots=True)
class Collocated:
    """A wish to run on the rank where the function ``id`` runs; made by :func:`collocated`."""

    id: Hashable


def collocated(id: Hashable) -> Collocated:
    """Return a pin for :class:`Function` that binds it to the rank of the function ``id`` (an id or a handle)."""
    return Collocated(id.id if isinstance(id, Handle) else id)


@dataclass(slots=True, eq=False)
class Function:
    """One function of a DAG.

    Attributes:
        id: any hashable; names the function's value in the results.
        args: whose values it takes, in order: ids, handles or :class:`Argument`.
        code: any callable; lambdas and functions of the running script travel by value.
        extra_args: constants that follow the values of ``args``; handles in them (also inside lists,
            tuples and dicts) become further inputs.
        kwargs: keyword arguments, likewise.
        cost: resource name to amount: ``cpu`` in cores (1 if missing, 0 allowed), ``memory`` in MB or as a
            string with a unit, ``gpu`` in devices (whole, or a fraction below 1), any other name as you like.
        max_retries: how often it may be tried again after an exception or a time-out; None inherits the
            run's, 0 means never.
        timeout: seconds it may take from its start on the rank.
        node: a rank, a host name, or ``collocated("other id")``.
        priority: larger ones are dispatched first.
        version: part of what tells this function's value from that of an older version.
        type: ``"regular"``, or ``"inline"``: evaluated where each consumer runs, never in the results.
        argument_inclusion: ``"variadic"`` passes the values of ``args`` one by one, ``"as_list"`` as one list.
    """

    id: Hashable
    args: Sequence[Any] = ()
    code: Callable[..., Any] | None = None
    extra_args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] | None = None
    max_retries: int | None = None
    timeout: float | None = None
    node: int | str | Collocated | None = None
    priority: int = 0
    version: str = ""
    type: str = REGULAR
    argument_inclusion: str = VARIADIC

    @property
    def name(self) -> str:
        """The name of the code, for people."""
        code: Any = self.code
        while hasattr(code, "func"):  # functools.partial
            code = code.func
        return str(getattr(code, "__qualname__", None) or type(code).__name__)


def input_id(reference: Any) -> Hashable:
    """Return the id that one entry of ``args`` refers to."""
    if isinstance(reference, (Handle, Argument)):
        return input_id(reference.id)
    return reference  # type: ignore[no-any-return]


def nested_handles(value: Any) -> list[Handle]:
    """Return the handles inside ``value``: itself, or in lists, tuples, dicts' values, to any depth."""
    found: list[Handle] = []
    stack = [value]
    while stack:
        item = stack.pop()
        kind = type(item)
        if kind is Handle:
            found.append(item)
        elif kind is list or kind is tuple:
            stack.extend(reversed(item))
        elif kind is dict:
            stack.extend(reversed(item.values()))
    return found


def inputs_of(function: Function) -> list[Hashable]:
    """Return the ids of the functions whose values ``function`` takes, each once, in order of appearance."""
    ids = [input_id(reference) for reference in function.args]
    if function.extra_args:
        ids += [handle.id for handle in nested_handles(list(function.extra_args))]
    if function.kwargs:
        ids += [handle.id for handle in nested_handles(dict(function.kwargs))]
    return list(dict.fromkeys(ids)) if len(ids) > 1 else ids
