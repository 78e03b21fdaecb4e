"""A pool: the ranks of a job behind the methods of ``multiprocessing.Pool`` that samplers and optimisers call.

A map is an array that a run without files computes; see :mod:`handoff_mpi.launch.open_run`. In one process without
ranks, and inside of a function that a rank calls, the pool calls the function itself, for one element after the other.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from handoff_mpi.coroutines import result_of, running_loop_hidden
from handoff_mpi.dag import DAG
from handoff_mpi.dag.arrays import Fixed, name_of, with_declared
from handoff_mpi.dag.function import REFERENCES
from handoff_mpi.dag.handle import HANDLES
from handoff_mpi.errors import Interrupted, TaskError, UsageError, ValueUnavailable
from handoff_mpi.formatting import show
from handoff_mpi.launch.calling_thread import CallingThread
from handoff_mpi.launch.deadline import MAX_DEADLINE_S
from handoff_mpi.launch.isolation import isolation_of
from handoff_mpi.launch.job import Job
from handoff_mpi.launch.known_codes import KnownCodes
from handoff_mpi.launch.open_run import MapRequest, OpenRun
from handoff_mpi.numerals import plain
from handoff_mpi.process_context import this_process
from handoff_mpi.runtime.choices import AUTO, CAPTURE, NONE
from handoff_mpi.runtime.options import RunOptions
from handoff_mpi.worker.context import is_in_call
from handoff_mpi.worker.mapped_calls import Raised, mapped

R = TypeVar("R")

#: Each element has its own copy of what it is given, as in other pools.
_DEFAULTS = {"writable": True}
#: What each element takes whole, if it stands among the iterables.
_COMMON = frozenset({Fixed, *REFERENCES})
#: Options of arrays that are those of one map.
_NOT_OF_POOLS = frozenset({"id", "fixed", "chunk", "max_failures", "version", "window"})


class Pool:
    """The ranks of a job as a pool; made by :meth:`handoff_mpi.Cluster.pool`.

    Pickled, in an object that a function needs, it is a pool that calls functions where it is: ranks that wait for
    ranks would wait for ever.

    Args:
        job: on rank 0; None for a pool that calls functions where it is.
        options: of the run that computes the maps.
        element_options: of each element, as of :meth:`handoff_mpi.DAG.map`.

    Raises:
        DAGError: an option of the elements is unknown or its value wrong.
    """

    def __init__(
        self,
        job: Job | None = None,
        options: RunOptions | None = None,
        element_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._job = job
        self._options = _without_files(options or RunOptions())
        self._element_options = {**_DEFAULTS, **(element_options or {})}
        self._is_closed = False
        self._token = object()
        self._codes = KnownCodes()
        if element_options:
            _refuse_options(_NOT_OF_POOLS.intersection(element_options))
            probe = DAG("pool")
            probe.map(abs, [0], **element_options)
            probe.validate()
        self._is_here = job is None or (job.is_local and not (element_options or self._isolates(job)))

    def _isolates(self, job: Job) -> bool:
        return isolation_of(job, self._options, 0, 1) == "process"

    # -- maps ------------------------------------------------------------------------------------------

    def map(self, function: Callable[..., R], /, *iterables: Any, chunksize: int | None = None) -> list[R]:
        """Return the values of ``function`` for each element, in the order of the elements.

        Args:
            function: anything that can be called and pickled, a lambda or a method too. It is sent as it is now.
            iterables: what the elements are taken from; several are zipped. Iterators are read as far as the shortest
                of the sequences beside them.
            chunksize: at most so many elements are sent to a rank at once; by default as many as take some 10 ms. As
                in ``multiprocessing``, it may stand behind the iterables too.

        Raises:
            Exception: what the function has raised, for the first element that failed; its cause is the traceback on
                the rank. Where the exception cannot be pickled, a :class:`~handoff_mpi.errors.TaskError`.
            FunctionError: an element failed without an exception: the processes that called it died, say.
            DAGError: the function or an element cannot be sent, or the iterables differ in length.
            UsageError: the pool or its job is closed.
        """
        if len(iterables) > 1 and chunksize is None and type(plain(iterables[-1])) is int:
            *iterables, chunksize = iterables  # type: ignore[assignment]
        return self._map(function, iterables, chunksize, False)

    def starmap(
        self, function: Callable[..., R], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[R]:
        """As :meth:`map`, but each element is a tuple of arguments: ``starmap(f, [(1, 2)])`` calls ``f(1, 2)``."""
        return self._map(function, (iterable,), chunksize, True)

    def _map(self, function: Any, iterables: Sequence[Any], chunksize: int | None, is_star: bool) -> list[Any]:
        self._refuse_if_closed()
        code, declared = with_declared(function, {})
        if not callable(code):
            raise UsageError(f"map takes a function first, not {show(function)}")
        given, chunksize = chunksize, plain(chunksize)
        if chunksize is not None and (type(chunksize) is not int or chunksize < 1):
            raise UsageError(f"chunksize must be a whole number from 1, or None, not {show(given)}")
        handle = next((each for each in iterables if type(each) in HANDLES), None)
        if handle is not None:
            raise UsageError(f"map takes values, and {show(handle)} stands for values of a DAG; map it with DAG.map")
        columns = _columns(iterables)
        job = self._job
        if job is None or is_in_call():
            return _map_here(code, columns, is_star)
        if self._is_here:
            with this_process.of(CallingThread).mapping() as is_beside_run:
                if not is_beside_run:
                    return _map_here(code, columns, is_star)
        name = name_of(code)
        options = {**self._element_options, **declared}
        shape = None if declared or _COMMON.intersection(map(type, columns)) else (self._token, len(columns))
        computes = mapped(code, is_star)
        encode = functools.partial(self._codes.encode, code, computes, is_star)
        with job.mapping() as job:
            id = f"{name} {job.next_map()}"
            request = MapRequest(id, name, computes, encode, columns, options, chunksize, _kind(code), shape)
            values = self._compute(job, request)
        if Raised in set(map(type, values)):
            index, raised = next((index, each) for index, each in enumerate(values) if type(each) is Raised)
            raise raised.error(f"element {index:,} of map({name})")
        return values

    def _compute(self, job: Job, request: MapRequest) -> list[Any]:
        run = self._open_run(job, request)
        try:
            return run.run(request)
        except (TaskError, ValueUnavailable, Interrupted):
            if job.stop_reason or not run.has_lost_all:
                raise
            return self._open_run(job, request).run(request)  # in children of rank 0, which is left

    def _open_run(self, job: Job, request: MapRequest) -> OpenRun:
        found = job.open_run
        its = self._options, job.is_beside_another
        if isinstance(found, OpenRun) and found.is_usable and (found.options, found.is_beside_another) == its:
            return found
        job.leave_open_run()
        job.open_run = made = OpenRun(job, self._options, request)
        return made

    # -- the protocol of pools ---------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many calls run at once, as dynesty asks."""
        if self._is_here or self._job is None:
            return 1
        return sum(self._job.slots(self._options).values())

    @property
    def _processes(self) -> int:
        """As :attr:`size`: nautilus, nessai and others ask for the attribute of ``multiprocessing.Pool``."""
        return self.size

    def close(self) -> None:
        """Refuse further maps, and let the ranks leave the run of the maps."""
        self._is_closed = True
        if self._job is not None:
            self._job.end_maps()

    terminate = close

    def join(self) -> None:
        """Do nothing: a map has ended when it returns."""

    def __enter__(self) -> Pool:
        self._refuse_if_closed()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return Pool, ()

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise UsageError("this pool is closed; make another one by cluster.pool()")
        if self._job is not None and self._job.is_over:
            raise UsageError("the Cluster of this pool has ended; use the pool inside its with block")


def _refuse_options(names: Collection[str]) -> None:
    if names:
        shown = ", ".join(sorted(names))
        raise UsageError(f"a pool has no option {shown}; give its map chunksize, and arguments in the iterables")


def _without_files(options: RunOptions) -> RunOptions:
    """Return the options of a run of maps: nothing of it outlasts them, and the user's own code says when to stop."""
    return replace(
        options,
        run_dir=False,
        fresh=False,
        rerun=(),
        accept_changes=(),
        keep=(),
        checkpoint=NONE,
        on_failure="continue",
        results_on="root",
        result_store=None,
        deadline=MAX_DEADLINE_S,
        output=AUTO if options.output == CAPTURE else options.output,
        progress=NONE,
        record=NONE,
        report=NONE,
        metrics_file=None,
    )


def _columns(iterables: Sequence[Any]) -> list[Any]:
    """Return the iterables, those without a length as lists that are no longer than the shortest of the others.

    Raises:
        UsageError: there are none, or their lengths differ.
    """
    if not iterables:
        raise UsageError("map takes at least one iterable behind the function")
    lengths = [_length(each) for each in iterables]
    known = {length for length in lengths if length is not None}
    if not known or (len(known) == 1 and None not in lengths):
        return [*iterables]
    most = min(known)
    columns = [
        [*itertools.islice(each, most)] if length is None else each
        for each, length in zip(iterables, lengths, strict=True)
    ]
    if any(len(each) != most for each in columns):
        shown = ", ".join(f"argument {number} has {len(each):,}" for number, each in enumerate(columns, 1))
        raise UsageError(f"the iterables of map have different lengths: {shown}; give iterables of one length")
    return columns


def _length(values: Any) -> int | None:
    try:
        return len(values)
    except TypeError:  # an iterator, or an array of numpy without axes
        return None


def _map_here(code: Callable[..., Any], columns: Sequence[Any], is_star: bool) -> list[Any]:
    rows = columns[0] if is_star else zip(*columns, strict=True)
    values = []
    with running_loop_hidden():
        for row in rows:
            values.append(result_of(code(*row)))
    return values


def _kind(code: Any) -> Hashable:
    """Return what functions agree in that are taken to last alike: their code, or the class of the object."""
    while type(code) is functools.partial:
        code = code.func
    found: Any = getattr(getattr(code, "__func__", code), "__code__", type(code))
    return found  # type: ignore[no-any-return]
