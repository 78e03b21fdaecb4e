"""The DAG: functions by id, and its validation."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, overload

from handoff_mpi.dag.arrays import declare_array
from handoff_mpi.dag.calls import find_call_problems
from handoff_mpi.dag.folding import DEFAULT_FAN_IN, declare_fold
from handoff_mpi.dag.function import DECLARES, Function, input_id
from handoff_mpi.dag.handle import ArrayHandle, Handle, WindowedHandle
from handoff_mpi.dag.ids import find_id_problem
from handoff_mpi.dag.kinds import Kinds
from handoff_mpi.dag.places import Places
from handoff_mpi.dag.validation import find_problems
from handoff_mpi.errors import DAGError
from handoff_mpi.formatting import show
from handoff_mpi.suggestions import UnknownName

if TYPE_CHECKING:
    from typing_extensions import Unpack  # which typing has from Python 3.11 on

    from handoff_mpi.dag.task_options import A, ArrayOptions, B, C, Each, FoldOptions

_serial = itertools.count(1)
_current: ContextVar[DAG | None] = ContextVar("handoff_dag", default=None)


class DAG:
    """A directed acyclic graph of functions.

    Used as a context manager, calls of :func:`~handoff_mpi.task` functions inside it add to it.

    Args:
        id: names the DAG in messages and results; unique in the process by default.
    """

    def __init__(self, id: Hashable = None) -> None:
        self.id = f"dag-{next(_serial)}" if id is None else id
        self.functions: list[Function] = []
        self._by_id: dict[Hashable, Function] = {}
        self._names: dict[str, int] = {}
        self._places = Places()
        self._tokens: list[Token[DAG | None]] = []

    def add_function(self, function: Function) -> Handle:
        """Add ``function`` and return a handle of its value. What is wrong with it, :meth:`validate` says.

        Raises:
                DAGError: it is no :class:`Function`, or its id cannot be one: it cannot be hashed, say.
        """
        if not isinstance(function, Function):
            raise DAGError(f"add_function takes a Function, not {show(function)}", where=self._name)
        if type(function.id) is not str:
            problem = find_id_problem(function.id) if function.id is not None else ""
            if problem:
                raise DAGError(f"{show(function.id)} {problem}", where=self._name)
        self._by_id.setdefault(function.id, function)
        self._places.note(len(self.functions), sys._getframe(1))
        self.functions.append(function)
        return Handle(function.id)

    @overload
    def map(
        self,
        code: Callable[..., Any],
        each: WindowedHandle,
        /,
        *iterables: Any,
        fixed: Mapping[str, Any] | None = None,
        window: None = None,
        **options: Unpack[ArrayOptions],
    ) -> WindowedHandle: ...
    @overload
    def map(
        self,
        code: Callable[[A], Any],
        each: Each[A],
        /,
        *,
        window: None = None,
        **options: Unpack[ArrayOptions],
    ) -> ArrayHandle: ...
    @overload
    def map(
        self,
        code: Callable[[A, B], Any],
        each: Each[A],
        b: Each[B],
        /,
        *,
        window: None = None,
        **options: Unpack[ArrayOptions],
    ) -> ArrayHandle: ...
    @overload
    def map(
        self,
        code: Callable[[A, B, C], Any],
        each: Each[A],
        b: Each[B],
        c: Each[C],
        /,
        *,
        window: None = None,
        **options: Unpack[ArrayOptions],
    ) -> ArrayHandle: ...
    @overload
    def map(
        self,
        code: Callable[..., Any],
        /,
        *iterables: Any,
        fixed: Mapping[str, Any],
        window: None = None,
        **options: Unpack[ArrayOptions],
    ) -> ArrayHandle: ...
    @overload
    def map(
        self,
        code: Callable[..., Any],
        each: Any,
        b: Any,
        c: Any,
        d: Any,
        /,
        *iterables: Any,
        window: None = None,
        **options: Unpack[ArrayOptions],
    ) -> ArrayHandle: ...
    @overload
    def map(
        self,
        code: Callable[[A], Any],
        each: Each[A],
        /,
        *,
        window: int,
        **options: Unpack[ArrayOptions],
    ) -> WindowedHandle: ...
    @overload
    def map(
        self,
        code: Callable[..., Any],
        /,
        *iterables: Any,
        fixed: Mapping[str, Any],
        window: int,
        **options: Unpack[ArrayOptions],
    ) -> WindowedHandle: ...
    @overload
    def map(
        self,
        code: Callable[..., Any],
        each: Any,
        b: Any,
        /,
        *iterables: Any,
        window: int,
        **options: Unpack[ArrayOptions],
    ) -> WindowedHandle: ...
    def map(
        self,
        code: Callable[..., Any],
        /,
        *iterables: Any,
        id: Hashable = None,
        fixed: Mapping[str, Any] | None = None,
        chunk: int | None = None,
        max_failures: float | None = None,
        window: int | None = None,
        **options: Any,
    ) -> ArrayHandle | WindowedHandle:
        """Add an array, one function that is called for each element, and return a handle of the list of its values.

        ``dag.map(f, range(1000), names, Fixed(table))`` calls ``f(0, names[0], table)``, ``f(1, names[1], table)``, and
        so on, wherever cores are idle. An element that fails is retried, reported and resumed by its index.

        Args:
            code: a function, or a :func:`~handoff_mpi.task`, whose options then hold for the array.
            iterables: what the elements are taken from, all of one length: sequences, ranges, arrays along their first
                axis, iterators, which are read at once. The handle of an array, or a slice of it, gives its values: an
                element runs when those that it takes are done. Another handle, an :class:`~handoff_mpi.Argument` or a
                value in :class:`~handoff_mpi.Fixed` is the same for all elements.
            id: names the list of values in the results; the name of the function by default.
            fixed: keyword arguments of each call, in which handles get their values.
            chunk: at most so many elements are sent to a rank at once; by default as many as take some 10 ms.
            max_failures: once more elements than this have failed, no further ones begin: a number, or a share as a
                float from 0 to 1.
            window: read the iterables while the array runs, in a thread of rank 0, so that at most so many elements
                have come and have not ended. Nobody knows their number: the handle is a
                :class:`~handoff_mpi.WindowedHandle`, and no function can take the list of the values.
            options: ``cost``, ``max_retries``, ``timeout`` and others of :class:`~handoff_mpi.Function`, for each
                element.

        Raises:
            DAGError: an option is unknown, nothing can be iterated over, or the lengths differ. What is wrong with the
                options' values, :meth:`validate` says.
        """
        own = {"id": id, "fixed": fixed, "chunk": chunk, "max_failures": max_failures, "window": window}
        given = {name: value for name, value in own.items() if value is not None}
        function = declare_array(code, iterables, {**given, **options}, self.unique_id)
        self.add_function(function)
        if function.window is not None:
            return WindowedHandle(function.id, function.id if function.root is None else function.root, function.window)
        return ArrayHandle(function.id, len(function))

    def reduce(
        self,
        code: Callable[[A, A], A],
        values: Each[A],
        /,
        *,
        fan_in: int = DEFAULT_FAN_IN,
        **options: Unpack[FoldOptions],
    ) -> Handle:
        """Add a fold of values by an associative function of two, and return a handle of the result.

        ``dag.reduce(add, xs)`` folds blocks of ``fan_in`` values from left to right, then blocks of the results, until
        one is left. The blocks depend on the number of values alone, so that sums of floats are the same in each run. A
        block is folded as soon as its values are done, wherever cores are idle. One value alone is the result itself.

        Args:
            code: a function of two values, or a :func:`~handoff_mpi.task`, whose options then hold for each block.
            values: an array's handle, with a window too, a slice of one, or an iterable as :meth:`map` takes it.
            fan_in: how many values a block has, at least two.
            options: as of :meth:`map`, all but ``max_failures``: ``fixed`` are keyword arguments of each call.

        Raises:
            DAGError: an option is unknown or wrong, there are no values, or ``code`` does not take two.
        """
        *before, fold = declare_fold(code, values, fan_in, options, self.unique_id)
        for function in before:
            self.add_function(function)
        return self.add_function(fold)

    def unique_id(self, name: str) -> str:
        """Return an id that is still free: ``name``, then ``name-2``, ``name-3``, ..."""
        while True:
            count = self._names[name] = self._names.get(name, 0) + 1
            id = name if count == 1 else f"{name}-{count}"
            if id not in self._by_id:
                return id

    fresh_id = unique_id  # its old name, for one more release

    def validate(self) -> DAG:
        """Check the DAG in linear time and return it.

        Raises:
            DAGError: naming every culprit at once: missing ids, the full cycle, duplicate ids, bad costs,
                unknown collocations, wrong fields; or else calls with arguments that their code does not take.
        """
        self.find_kinds()
        return self

    def find_kinds(self) -> Kinds:
        """Return the kinds of the functions, which are valid.

        Raises:
            DAGError: as of :meth:`validate`.
        """
        kinds = Kinds(self.functions)
        problem = find_id_problem(self.id)
        problems = [f"the DAG's id {problem}"] if problem else []
        problems += find_problems(self.functions, self._by_id, kinds)
        problems = problems or find_call_problems(self.functions, kinds, self._places.of)
        if problems:
            raise DAGError(problems, where=self._name)
        return kinds

    @property
    def _name(self) -> str:
        return f"DAG {show(self.id)}"

    def __getitem__(self, id: object) -> Function:
        """Return the function with this id, or of this handle.

        Raises:
            KeyError: there is none.
        """
        id = input_id(id)
        if id not in self._by_id:
            raise UnknownName(f"no function {show(id)} in {self._name}", id, self._by_id)
        return self._by_id[id]

    def __contains__(self, id: object) -> bool:
        return input_id(id) in self._by_id

    def __len__(self) -> int:
        return len(self.functions)

    def __iter__(self) -> Iterator[Function]:
        return iter(self.functions)

    def __repr__(self) -> str:
        return f"<{self._name}: {len(self.functions):,} functions>"

    def __enter__(self) -> DAG:
        self._tokens.append(_current.set(self))
        return self

    def __exit__(self, *exc_info: object) -> None:
        _current.reset(self._tokens.pop())


DECLARES.add(DAG)


def current_dag() -> DAG | None:
    """Return the innermost DAG whose ``with`` block is being executed, if any."""
    return _current.get()
