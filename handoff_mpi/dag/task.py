"""The ``@task`` decorator: a call inside a ``with DAG()`` block adds a function instead of running it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Coroutine, Mapping
from types import MethodType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from handoff_mpi.binding import PASSES_ON
from handoff_mpi.carried_modules import look_up
from handoff_mpi.dag.arrays import DECLARED, call_each
from handoff_mpi.dag.calls import find_argument_problem
from handoff_mpi.dag.folding import DEFAULT_FAN_IN, fold_here
from handoff_mpi.dag.function import Function, describe_unknown
from handoff_mpi.dag.graph import current_dag
from handoff_mpi.dag.handle import HANDLES
from handoff_mpi.errors import DAGError
from handoff_mpi.formatting import one_line, show
from handoff_mpi.process_context import this_process
from handoff_mpi.rebuilding import BY_NAME

if TYPE_CHECKING:
    from typing_extensions import Unpack  # which typing has from Python 3.11 on

    from handoff_mpi.dag.task_options import A, B, C, Each, FoldOptions, MapOptions, TaskOptions

#: Parameters and result of a task's function; the object that a method is called of, and its other parameters.
P = ParamSpec("P")
R = TypeVar("R", covariant=True)
S = TypeVar("S")
Q = ParamSpec("Q")

_OPTIONS = {field.name for field in dataclasses.fields(Function)} - {"args", "code", "extra_args", "kwargs"}


_MAX_NOTED = 20
MAX_REPR_CHARS = 200


class CallsOutside:
    """The tasks that were called outside a ``with DAG()`` block before the first run; a part of the process context."""

    def __init__(self) -> None:
        self._called: dict[str, None] = {}
        self.wants_more = True

    def note(self, call: str) -> None:
        """Note which task was called, and where."""
        self._called.setdefault(call)
        self.wants_more = len(self._called) < _MAX_NOTED

    def take_all(self) -> list[str]:
        """Return the calls, and note none from now on."""
        called, self._called = list(self._called), {}
        self.wants_more = False
        return called


class Task(Generic[P, R]):
    """A function that, called inside a ``with DAG()`` block, adds itself to the DAG and returns a handle.

    Called anywhere else it is the plain function. :meth:`options` gives a copy with other options. For type checkers a
    call has the parameters and the type of the function in both cases: handles stand for values of any type.
    """

    def __init__(self, code: Callable[P, R], options: dict[str, Any]) -> None:
        if not _OPTIONS.issuperset(options):
            unknown = [name for name in options if name not in _OPTIONS]
            raise DAGError(f"task({show(code)}) {describe_unknown(unknown, _OPTIONS)}")
        functools.update_wrapper(self, code)
        self.code = code  # after what the code's own attributes may have been called
        self._options = options
        self._accepted: set[tuple[object, ...]] = set()
        self._was_called_outside = False
        self.__name__ = self._name()  # a partial has none, and help() wants one

    def options(self, **options: Unpack[TaskOptions]) -> Task[P, R]:
        """Return this task with ``options`` of :class:`Function` (id, cost, timeout, ...) replaced.

        Raises:
            DAGError: an option is unknown.
        """
        return Task(self.code, {**self._options, **options})

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        dag = current_dag()
        if dag is None:
            if not self._was_called_outside:
                self._note_call_outside()
            return self.code(*args, **kwargs)
        options = dict(self._options)
        id = options.pop("id", None)
        id = dag.unique_id(self._name()) if id is None else id
        # Leading handles are plain inputs; from the first constant on, order is kept by extra_args.
        lead = 0
        while lead < len(args) and type(args[lead]) in HANDLES:
            lead += 1
        function = Function(id, args[:lead], self.code, args[lead:], kwargs, **options)
        self._check_arguments(function)
        return dag.add_function(function)  # which stands for a value of type R

    def _check_arguments(self, function: Function) -> None:
        """Refuse arguments that the code does not take, in the line that calls it; those of one shape are checked once.

        Raises:
            DAGError: as Python words it.
        """
        shape = (len(function.args), len(function.extra_args), *function.kwargs)
        if shape not in self._accepted:
            problem = find_argument_problem(function)
            if problem:
                raise DAGError(problem)
            self._accepted.add(shape)

    @overload
    def map(self: Callable[[A], R], each: Each[A], /, **options: Unpack[MapOptions]) -> list[R]: ...
    @overload
    def map(self: Callable[[A, B], R], each: Each[A], b: Each[B], /, **options: Unpack[MapOptions]) -> list[R]: ...
    @overload
    def map(
        self: Callable[[A, B, C], R], each: Each[A], b: Each[B], c: Each[C], /, **options: Unpack[MapOptions]
    ) -> list[R]: ...
    @overload
    def map(self, /, *iterables: Any, fixed: Mapping[str, Any], **options: Unpack[MapOptions]) -> list[R]: ...
    @overload
    def map(self, each: Any, b: Any, c: Any, d: Any, /, *iterables: Any, **options: Unpack[MapOptions]) -> list[R]: ...
    def map(self, /, *iterables: Any, **options: Any) -> Any:
        """Add an array to the DAG, as :meth:`DAG.map <handoff_mpi.DAG.map>` does, and return its handle.

        The options of this task hold for the array, unless ``options`` replaces them. Outside a ``with DAG()`` block
        it calls the function for each element, and returns the list.

        Raises:
            DAGError: as of :meth:`DAG.map <handoff_mpi.DAG.map>`.
        """
        dag = current_dag()
        if dag is not None:
            return dag.map(self, *iterables, **options)
        if not self._was_called_outside:
            self._note_call_outside()
        return call_each(self.code, iterables, options)

    def reduce(self, values: Any, /, *, fan_in: int = DEFAULT_FAN_IN, **options: Unpack[FoldOptions]) -> Any:
        """Add a fold to the DAG, as :meth:`DAG.reduce <handoff_mpi.DAG.reduce>` does, and return its handle.

        Outside a ``with DAG()`` block it calls the function, in the same order, and returns the result.

        Raises:
            DAGError: as of :meth:`DAG.reduce <handoff_mpi.DAG.reduce>`.
        """
        dag = current_dag()
        if dag is not None:
            return dag.reduce(self, values, fan_in=fan_in, **options)
        if not self._was_called_outside:
            self._note_call_outside()
        return fold_here(self.code, values, fan_in, options)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Task[P, R]: ...
    @overload
    def __get__(self: Task[Concatenate[S, Q], R], instance: S, owner: type | None = None) -> Callable[Q, R]: ...
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Bind to an object as functions do; by this method ``help`` knows a function from an object, too."""
        return self if instance is None else MethodType(self, instance)

    def __repr__(self) -> str:
        try:
            signature = str(inspect.signature(self.code))
        except Exception:  # of a builtin, or of code that answers what it likes
            signature = "(...)"
        name = self._name() if hasattr(self.code, "__name__") else Function(None, code=self.code).name
        return f"<task {one_line(name + signature, MAX_REPR_CHARS)}>"

    def _note_call_outside(self) -> None:
        self._was_called_outside = True
        outside = this_process.of(CallsOutside)
        if outside.wants_more:
            caller = sys._getframe(2)
            place = f"{caller.f_code.co_filename.rpartition('/')[2]}:{caller.f_lineno}"
            outside.note(one_line(f"{self._name()}() at {place}", MAX_REPR_CHARS))

    def _name(self) -> str:
        name = getattr(self.code, "__name__", None)
        return name if isinstance(name, str) and name else "task"

    def __reduce__(self) -> str | tuple[Any, ...]:
        name = vars(self).get("__qualname__")
        module = sys.modules.get(vars(self).get("__module__") or "")
        if type(name) is str and module is not None and look_up(vars(module), name) is self:
            return name  # as the function that it stands for
        return self._parts()

    def _parts(self) -> tuple[Any, ...]:
        return Task, (self.code, self._options)


def _declared_method(method: MethodType) -> tuple[MethodType, dict[str, Any]]:
    return method, method.__func__._options if type(method.__func__) is Task else {}


DECLARED[Task] = lambda task: (task.code, task._options)
DECLARED[MethodType] = _declared_method
PASSES_ON[Task] = lambda task: task.code  # where no DAG is being built, as on a rank
BY_NAME[Task] = Task._parts


def tasks_called_outside() -> list[str]:
    """Return which tasks were called outside a ``with DAG()`` block, and where; to be asked once, as a run begins.

    Later calls are those of functions, which may well call a task as a plain function.
    """
    return this_process.of(CallsOutside).take_all()


class _MakesTasks(Protocol):
    """The decorator that ``task(cost={"gpu": 1})`` returns."""

    @overload
    def __call__(self, code: Callable[P, Coroutine[Any, Any, Any]], /) -> Task[P, Any]: ...
    @overload
    def __call__(self, code: Callable[P, R], /) -> Task[P, R]: ...


@overload  # in a DAG the value is what the coroutine returns, elsewhere the coroutine
def task(code: Callable[P, Coroutine[Any, Any, Any]], /, **options: Unpack[TaskOptions]) -> Task[P, Any]: ...
@overload
def task(code: Callable[P, R], /, **options: Unpack[TaskOptions]) -> Task[P, R]: ...
@overload
def task(**options: Unpack[TaskOptions]) -> _MakesTasks: ...
def task(code: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a :class:`Task`, with any option of :class:`Function`: ``@task``, ``@task(cost={"gpu": 1})``.

    Raises:
        DAGError: an option is unknown.
    """
    if code is None:
        return lambda code: Task(code, options)
    return Task(code, options)
