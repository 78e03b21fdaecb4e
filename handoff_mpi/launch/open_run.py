"""A run that stays open: rank 0 submits one array after the other, and its ranks stay in it between them.

A run of its own for each map of a pool would cost some milliseconds: its ranks would join it and leave it, and rank 0
would make its tables. Here an array costs a message to each rank that computes, and one back. Most arrays differ from
an earlier one in their code and their elements alone: they take over its call template, and its code too if that is
the same, which the ranks know then.

What an array leaves in the tables of a run is freed with them. So a run is left after some arrays, or once codes that
are not used any more take much memory, and the next map begins another one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handoff_mpi.arrays.inputs import freeze_elements
from handoff_mpi.arrays.values import ArrayValues
from handoff_mpi.coroutines import running_loop_hidden
from handoff_mpi.dag import DAG, ArrayFunction, TaskSpec
from handoff_mpi.dag.arrays import declare_array
from handoff_mpi.dag.task_spec import ArraySpec
from handoff_mpi.errors import DAGError, Interrupted, LauncherLost, TransportError
from handoff_mpi.launch.admission import check_feasible
from handoff_mpi.launch.begun_run import BegunRun
from handoff_mpi.launch.checked_run import CheckedRun
from handoff_mpi.launch.job import Job
from handoff_mpi.launch.run_files import NoFiles
from handoff_mpi.launch.run_in_progress import RunInProgress
from handoff_mpi.launch.run_results import make_array_result
from handoff_mpi.process_context import this_process
from handoff_mpi.python_path import shared_path
from handoff_mpi.results.launches import History
from handoff_mpi.runtime import gc_control
from handoff_mpi.runtime.backoff import clock
from handoff_mpi.runtime.options import RunOptions
from handoff_mpi.runtime.resource_updates import UpdateTarget
from handoff_mpi.scheduler import Closed, State, Submitted
from handoff_mpi.scheduler.array_state import LEASE_S
from handoff_mpi.scheduler.arrays import MAX_LEASES
from handoff_mpi.serialization import EncodingError

#: A run is left after so many arrays: each leaves some kilobytes in its tables.
MAX_ARRAYS = 500
#: It is left once codes that later arrays have not used take so many bytes, here and on each rank.
MAX_STALE_NBYTES = 4 << 20
#: An interrupted run gets this long for its ranks to leave it.
_INTERRUPTED_S = 2.0
#: Leases of a map may take so long where each slot gets two of them, and nothing has to be sent in between.
_MAX_HALF_S = 1.5 * LEASE_S
#: So many kinds of functions are known by how long they take.
_MAX_KINDS = 64


@dataclass(frozen=True, slots=True)
class MapRequest:
    """A map that is asked for.

    Attributes:
        id: of its array.
        name: of its function, for people.
        code: computes an element.
        encode: returns it encoded.
        columns: where the elements are taken from.
        options: of the elements.
        chunk: at most so many of them are sent to a rank at once; None sets no limit.
        kind: functions that agree in it are taken to last alike.
        shape: arrays that agree in it differ in their code and their elements alone; None if that is not known.
    """

    id: str
    name: str
    code: Callable[..., Any]
    encode: Callable[[], bytes]
    columns: Sequence[Any]
    options: Mapping[str, Any]
    chunk: int | None
    kind: Hashable
    shape: Hashable

    def declare(self) -> ArrayFunction:
        """Return the function of a DAG that computes it.

        Raises:
            DAGError: nothing can be iterated over, say.
        """
        options = {**self.options, "id": self.id, "chunk": self.chunk}
        return declare_array(self.code, self.columns, options, str)


class OpenRun:
    """A run that stays open; on rank 0. The caller runs one map at a time.

    Args:
        job: whose ranks it uses.
        options: how it runs; it has no run-dir.
        first: the first map, which is checked as a DAG of its own.

    Attributes:
        options: as given.
        is_beside_another: whether its calls are made in child processes, as another thread calls functions here.

    Raises:
        DAGError, UsageError, Unsatisfiable: the map cannot be run; nothing has started.
    """

    def __init__(self, job: Job, options: RunOptions, first: MapRequest) -> None:
        self.options = options
        self.is_beside_another = job.is_beside_another
        self._path = shared_path()
        dag = DAG("map")
        dag.add_function(first.declare())
        with gc_control.paused():
            self._checked = CheckedRun(job, dag, options)
            self._begun = BegunRun(self._checked, NoFiles(), History())
            self._run = RunInProgress(self._begun, stays_open=True)
        self._plan = self._checked.plan
        self._loop = self._run.loop
        self._loop.coordinator.write_nothing()
        self._begun.recorder.announcer = None  # what fails is raised
        self._why_stop, self._loop.stop_reason = self._loop.stop_reason, self._stop_reason
        self._first: MapRequest | None = first
        self._count = 0
        self._codes: dict[bytes, int] = {self._plan.codes[0]: 0}
        self._codes_nbytes = self._code_nbytes = len(self._plan.codes[0])  # of all, of the latest
        self._like: dict[Hashable, int] = {}
        self._element_s: dict[Hashable, float | None] = {}
        self._is_closed = False

    @property
    def is_usable(self) -> bool:
        """Whether another map may be run."""
        is_full = self._count >= MAX_ARRAYS or self._codes_nbytes - self._code_nbytes > MAX_STALE_NBYTES
        return not (self._is_closed or is_full) and self._path == shared_path()

    @property
    def has_lost_all(self) -> bool:
        """Whether it has had ranks beside rank 0, and has lost them all."""
        coordinator = self._loop.coordinator
        return bool(coordinator.membership.lost and coordinator.settings.workers) and coordinator.has_lost_all

    def run(self, request: MapRequest) -> list[Any]:
        """Compute a map, and return the values of its elements.

        Raises:
            DAGError: it cannot be sent.
            FunctionError: an element failed, in another way than by an exception that its code returns.
            Interrupted: the job is asked to stop.
            KeyboardInterrupt: the user has interrupted it.
        """
        number, specs = self._submit(request)
        self._count += 1
        try:
            with running_loop_hidden():
                self._carry_out(Submitted(specs))
            self._element_s[request.kind] = self._checked.scheduler.arrays.of[number].element_s
            return self._take_values(number)
        except (LauncherLost, TransportError):
            self._is_closed = True  # no rank is left to take leave of
            raise
        except KeyboardInterrupt:
            self.close(_INTERRUPTED_S)
            raise
        except BaseException:
            self.close()
            raise
        finally:
            self._plan.arrays.pop(number, None)
            self._loop.coordinator.dispatcher.array_values.pop(number, None)

    def close(self, limit_s: float | None = None) -> None:
        """Leave the run; a second call does nothing.

        Args:
            limit_s: seconds that its ranks have for it.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.stop_reason = self._why_stop  # the loop refers to this run no more, so that its tables are freed
        try:
            self._run.end() if limit_s is None else self._run.end(limit_s)
        finally:
            self._checked.close()

    def _stop_reason(self) -> str:
        """Return why the map must stop, empty if it need not: a run without ranks has nothing to wait for."""
        return self._why_stop() or ("all its ranks are lost" if self.has_lost_all else "")

    # -- submission --------------------------------------------------------------------------------------

    def _submit(self, request: MapRequest) -> tuple[int, Sequence[TaskSpec]]:
        """Put a map into the tables; return the number of its array, and what the scheduler must know of it."""
        plan, like = self._plan, self._like.get(request.shape)
        plan.skip_to(len(self._checked.scheduler.specs))
        number = len(plan)
        specs: Sequence[TaskSpec]
        if request is self._first:
            self._first = None
            number, specs = 0, self._checked.specs
        elif like is None:
            specs = self._freeze(request)
        else:
            specs = self._freeze_like(request, like)
        if request.shape is not None:
            self._like[request.shape] = number
        self._begun.recorder.grow()
        self._loop.coordinator.dispatcher.array_values[number] = ArrayValues(plan.arrays[number].count)
        return number, specs

    def _freeze(self, request: MapRequest) -> Sequence[TaskSpec]:
        """Freeze an array of a new shape."""
        try:
            specs = self._plan.add([request.declare()])
            self._codes_nbytes += len(self._plan.codes[-1])
            check_feasible(self._plan, self._checked.ledger)
        except BaseException:
            self.close()  # its tables have a part of the array
            raise
        return specs

    def _freeze_like(self, request: MapRequest, like: int) -> Sequence[TaskSpec]:
        """Freeze an array of a known shape."""
        try:
            blob = request.encode()
        except EncodingError:
            return self._freeze(request)  # which says why
        try:
            elements = tuple(freeze_elements(each, f"argument {n}") for n, each in enumerate(request.columns, 1))
            for each in elements:
                each.encode()
        except DAGError as error:
            raise DAGError(error.problems, f"map({request.name})") from error
        code = self._codes.get(blob)
        if code is None:
            code = self._codes[blob] = self._plan.add_code(blob, request.name)
            self._codes_nbytes += len(blob)
        self._code_nbytes = len(blob)
        spec = self._array_spec(len(elements[0]), request)
        return [self._plan.add_array_like(like, request.id, code, elements, spec)]

    def _array_spec(self, count: int, request: MapRequest) -> ArraySpec:
        """Return the facts that the scheduler has of a map; a short one is cut into two leases for each slot."""
        element_s = self._expected_s(request.kind)
        slots = sum(state.slots for state in self._checked.ledger.rank_states.values())
        half = max(1, -(-count // (MAX_LEASES * max(1, slots))))
        is_short = element_s is not None and half * element_s <= _MAX_HALF_S
        return ArraySpec(count, request.chunk, None, element_s, half if is_short else 1)

    def _expected_s(self, kind: Hashable) -> float | None:
        """Return how long an element of an earlier map of this kind took; the longest unused kind is forgotten."""
        found = self._element_s.pop(kind, None)
        if len(self._element_s) >= _MAX_KINDS:
            del self._element_s[next(iter(self._element_s))]
        return found

    # -- the loop ----------------------------------------------------------------------------------------

    def _carry_out(self, submitted: Submitted) -> None:
        self._loop.membership.resume(clock())
        with this_process.of(UpdateTarget).taking(self._loop):
            self._loop.run([submitted, Closed()])

    def _take_values(self, number: int) -> list[Any]:
        scheduler, coordinator = self._checked.scheduler, self._loop.coordinator
        if coordinator.stopped_at is not None and scheduler.tasks.state[number] != State.DONE:
            raise Interrupted(f"the map was stopped: {scheduler.stopping}")
        return make_array_result(self._begun, number)[:]
