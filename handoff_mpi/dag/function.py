"""One function of a DAG as the user declares it, and the two ways to refer to another one."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Protocol, TypeAlias

from handoff_mpi.dag.codec import Deserializer, Serializer
from handoff_mpi.dag.handle import (
    AS_ARGUMENT,
    HANDLES,
    OF_ARRAYS,
    ArrayElement,
    ArrayHandle,
    ArraySlice,
    Handle,
    StandsForValue,
    UnresolvedHandle,
    WindowedHandle,
)
from handoff_mpi.errors import DAGError
from handoff_mpi.formatting import show, type_name
from handoff_mpi.resources.amounts import STANDARD
from handoff_mpi.resources.amounts import SYNONYMS as RESOURCE_SYNONYMS
from handoff_mpi.serialization import dumps, loads
from handoff_mpi.suggestions import KnownNames

REGULAR: Final = "regular"
INLINE: Final = "inline"
VARIADIC: Final = "variadic"
AS_LIST: Final = "as_list"
#: Of an :class:`Argument`: elements of an array that have no value are left out.
SKIP: Final = "skip"

#: What other tools call the fields of a function.
_OTHER_WORDS = {
    "id": "name key task_id label",
    "args": "arguments inputs input deps dependencies depends_on after parents upstream requires",
    "code": "func fn function callable target call command run",
    "extra_args": "constants extra params parameters",
    "kwargs": "kwds keywords",
    "cost": "resources resource needs requirements",
    "max_retries": "retries retry tries attempts max_attempts",
    "timeout": "walltime time_limit timeout_s limit time max_time",
    "node": "rank host pin where affinity",
    "priority": "prio weight",
    "cwd": "workdir working_directory directory chdir",
    "retry_on": "retry_exceptions retry_for",
    "retry_delay": "delay backoff retry_backoff retry_wait",
    "writable": "writeable copy mutable",
    "env": "environment environ variables",
}
_SYNONYMS = {word: name for name, words in _OTHER_WORDS.items() for word in words.split()}
_SYNONYMS |= {name: f"cost={{'{name}': ...}}" for name in STANDARD}
_SYNONYMS |= {word: f"cost={{'{name}': ...}}" for word, name in RESOURCE_SYNONYMS.items()}

#: Exceptions after which a function is tried again.
RetryOn: TypeAlias = "type[BaseException] | Collection[type[BaseException]] | None"

#: So many wrappers around a function are looked through for its name.
_MAX_WRAPPED = 100


@dataclass(frozen=True, slots=True)
class Argument(StandsForValue):  # type: ignore[misc]
    """The value of another function, encoded where it was made and decoded where it is used.

    Attributes:
        id: the function whose value this is, or its handle.
        serialize: ``(value, source_rank, target_rank) -> payload``, called on the rank that holds the value.
        deserialize: ``(payload, source_rank, target_rank) -> value``, called on the consumer's rank.
        missing: of an array, or a slice of one, "skip": the argument is a list of pairs (index, value) of those
            elements that have values, and the function runs though others have failed. By default it is skipped then.
        handle: the handle that ``id`` was, of an array or of elements of one; else None.

    Both receive the two ranks, so that they can skip the work where these are the same, or send only
    the part of a value that the consumer needs.
    """

    id: Any
    serialize: Serializer | None = None
    deserialize: Deserializer | None = None
    missing: Literal["skip"] | None = None
    handle: Handle | None = field(init=False, default=None, repr=False)

    if TYPE_CHECKING:  # they do not see the one that dataclass makes where a base class is any type

        def __init__(
            self,
            id: Any,
            serialize: Serializer | None = None,
            deserialize: Deserializer | None = None,
            missing: Literal["skip"] | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        if type(self.id) in OF_ARRAYS:
            object.__setattr__(self, "handle", self.id)
        object.__setattr__(self, "id", input_id(self.id))

    def __copy__(self) -> Argument:
        return self

    def __deepcopy__(self, memo: Any) -> Argument:
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise UnresolvedHandle(
            f"Argument({show(self.id)}) stands for a value that does not exist until the run; {AS_ARGUMENT}"
        )


@dataclass(frozen=True, slots=True)
class Collocated:
    """A wish to run on the rank where the function ``id`` runs; made by :func:`collocated`."""

    id: Hashable


def collocated(id: Any) -> Collocated:
    """Return a pin for :class:`Function` that binds it to the rank of the function ``id`` (an id or a handle)."""
    return Collocated(input_id(id))


class PathLike(Protocol):
    """An object that stands for a path, such as a ``pathlib.Path``."""

    def __fspath__(self) -> str: ...


@dataclass(slots=True, eq=False, init=False)
class Function:
    """One function of a DAG.

    Attributes:
        id: any hashable; names the function's value in the results.
        args: whose values it takes, in order: ids, handles or :class:`Argument`.
        code: any callable; lambdas and functions of the running script travel by value.
        extra_args: constants that follow the values of ``args``; handles and :class:`Argument` in them (also inside
            containers and objects, to any depth) become further inputs.
        kwargs: keyword arguments, likewise.
        cost: resource name to amount: ``cpu`` in cores (1 if missing, 0 allowed), ``memory`` in MB or as a
            string with a unit, ``gpu`` in devices (whole, or a fraction below 1), any other name as you like.
        max_retries: how often it may be tried again after an exception or a time-out; None inherits the
            run's, 0 means never.
        retry_on: the exception class, or a tuple of classes, after which it is tried again; None inherits the run's.
        retry_delay: seconds before it is tried again the first time, longer each time; None inherits the run's.
        writable: whether arrays among its arguments are copies of its own, which it may write to; else they are
            read-only, as other functions see the same memory.
        timeout: seconds it may take from its start on the rank.
        node: a rank, a host name, or ``collocated("other id")``.
        priority: larger ones are dispatched first.
        version: part of what tells this function's value from that of an older version.
        type: ``"regular"``, or ``"inline"``: evaluated where each consumer runs, never in the results.
        argument_inclusion: ``"variadic"`` passes the values of ``args`` one by one, ``"as_list"`` as one list.
        cwd: the working directory of its calls; a relative one starts from where the run was started.
        env: environment variables of its calls, beside those of the rank; None as a value removes one.

    Raises:
        DAGError: an option is unknown. What is wrong with the others, ``DAG.validate`` says.
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
    type: Literal["regular", "inline"] = REGULAR
    argument_inclusion: Literal["variadic", "as_list"] = VARIADIC
    cwd: str | PathLike | None = None
    env: Mapping[str, str | None] | None = None
    retry_on: RetryOn = None
    retry_delay: float | None = None
    writable: bool = False

    def __init__(
        self,
        id: Hashable,
        args: Sequence[Any] = (),
        code: Callable[..., Any] | None = None,
        extra_args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        cost: Mapping[str, Any] | None = None,
        max_retries: int | None = None,
        timeout: float | None = None,
        node: int | str | Collocated | None = None,
        priority: int = 0,
        version: str = "",
        type: Literal["regular", "inline"] = REGULAR,
        argument_inclusion: Literal["variadic", "as_list"] = VARIADIC,
        cwd: str | PathLike | None = None,
        env: Mapping[str, str | None] | None = None,
        retry_on: RetryOn = None,
        retry_delay: float | None = None,
        writable: bool = False,
        **unknown: NoReturn,  # that of a dataclass would leave the user alone with a TypeError
    ) -> None:
        self.id = id
        self.args = args
        self.code = code
        self.extra_args = extra_args
        self.kwargs = {} if kwargs is None else kwargs
        self.cost = cost
        self.max_retries = max_retries
        self.timeout = timeout
        self.node = node
        self.priority = priority
        self.version = version
        self.type = type
        self.argument_inclusion = argument_inclusion
        self.cwd = cwd
        self.env = env
        self.retry_on = retry_on
        self.retry_delay = retry_delay
        self.writable = writable
        if unknown:
            known = {each.name for each in fields(self)}
            raise DAGError(f"Function({show(id)}) {describe_unknown(list(unknown), known)}")

    @property
    def linked_ids(self) -> Sequence[Hashable]:
        """The ids of the arrays whose elements those of an array take, one by one."""
        return ()

    @property
    def element_ids(self) -> Sequence[Hashable]:
        """The ids of the functions whose values are elements of an array."""
        return ()

    @property
    def name(self) -> str:
        """The name of the code, for people."""
        code: Any = self.code
        for _ in range(_MAX_WRAPPED):
            if not issubclass(type(code), functools.partial):
                break
            code = code.func
        try:  # objects answer what they like, and a Mock answers everything
            name = code.__qualname__
        except Exception:
            name = None
        return name if isinstance(name, str) and name else type_name(code)

    def __copy__(self) -> Function:
        return replace(self)

    def __deepcopy__(self, memo: Any) -> Function:
        return replace(self, **{each.name: copy.deepcopy(getattr(self, each.name), memo) for each in fields(self)})

    def __reduce__(self) -> tuple[Any, ...]:
        """A function refers to others of its DAG, and travels with it: its handles stay handles."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        declared = tuple(values.pop(name) for name in ("args", "extra_args", "kwargs"))
        return _restored, (type(self), dumps(declared, _AS_THEY_ARE), values)


def _restored(kind: type[Function], declared: bytes, values: dict[str, Any]) -> Function:
    args, extra_args, kwargs = loads(declared)
    return kind(args=args, extra_args=extra_args, kwargs=kwargs, **values)


#: What stands for a value of another function.
REFERENCES: frozenset[type] = HANDLES | {Argument}
#: What may refer to other functions without taking their values.
DECLARES: set[type] = {Function}
_AS_THEY_ARE: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    Handle: lambda handle: (Handle, (handle.id,)),
    WindowedHandle: lambda handle: (WindowedHandle, (handle.id, handle.root, handle.window)),
    ArrayHandle: lambda handle: (ArrayHandle, (handle.id, len(handle))),
    ArraySlice: lambda handle: (ArraySlice, (handle.id, handle.array_count, handle.elements)),
    ArrayElement: lambda handle: (ArrayElement, (handle.id, handle.array_count, handle.index)),
    Argument: lambda argument: (Argument, _given_to(argument)),
}


def _given_to(argument: Argument) -> tuple[Any, ...]:
    given = argument.id if argument.handle is None else argument.handle
    return given, argument.serialize, argument.deserialize, argument.missing


def describe_unknown(names: Sequence[str], known: Collection[str], synonyms: Mapping[str, str] | None = None) -> str:
    """Return that ``names`` are no options, and which were meant.

    Args:
        synonyms: words of other tools for options that functions do not have.
    """
    words = KnownNames(known, {**_SYNONYMS, **(synonyms or {})}, str).listed(names)
    return f"got unknown option{'s' if len(names) > 1 else ''} {words}; all: {', '.join(sorted(known))}"


def input_id(reference: Any) -> Hashable:
    """Return the id that one entry of ``args`` refers to."""
    if isinstance(reference, (Handle, Argument)):
        return reference.id
    return reference  # type: ignore[no-any-return]
