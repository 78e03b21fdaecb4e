"""Process-wide state and output around the elements of a lease: restored and attributed by element where it is cheap.

A function that changes the directory, the environment or the umask changes them for itself alone. For elements, which
may take less than a look at these, functions of :mod:`os` leave a note, and so do Python's streams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from pathlib import Path
from time import monotonic

from handoff_mpi.arrays.element_names import element_name
from handoff_mpi.dag.surroundings import Surroundings
from handoff_mpi.messages import ErrorReport
from handoff_mpi.worker.call_spec import CallSpec
from handoff_mpi.worker.context import TaskContext
from handoff_mpi.worker.elements import ElementLoop
from handoff_mpi.worker.output import CallOutput
from handoff_mpi.worker.process_state import ProcessState

#: What code has changed without a note is restored behind the first element that ends this long after the time before:
#: to ask for the working directory takes a percent of an element of 1 ms.
RESTORE_INTERVAL_S = 0.01


class ElementContext(TaskContext):
    """The element of an array that a call belongs to: one object for all elements of a lease."""

    __slots__ = ("_array", "_loop")

    def __init__(
        self,
        array: Hashable,
        loop: ElementLoop,
        rank: int,
        cores: float,
        gpus: tuple[int, ...],
        gpu_uuids: tuple[str, ...],
        run: str,
    ) -> None:
        self._loop = loop
        super().__init__(array, loop.attempt, rank, cores, gpus, run, gpu_uuids)

    @property
    def index(self) -> int:
        index, _ = self._loop.control.running()
        return index

    @property
    def element(self) -> tuple[Hashable, int]:
        """The id of the array, and the index."""
        return self._array, self.index

    @property
    def id(self) -> Hashable:
        return self.element

    @id.setter
    def id(self, array: Hashable) -> None:
        self._array = array

    @property
    def scratch(self) -> Path:
        if self._scratch is None:
            self._loop.notes.append(self.clear)
        return super().scratch


class _RunningElement:
    """The element of a lease that runs, as the index of output names it."""

    def __init__(self, context: ElementContext) -> None:
        self._context = context

    @property
    def id(self) -> str:
        return element_name(*self._context.element)

    @property
    def attempt(self) -> int:
        return self._context.attempt


class LeaseSurroundings:
    """The surroundings of the elements of one lease, between :meth:`begin` and :meth:`finish`.

    Args:
        loop: calls for them.
        context: that of the running element.
        spec: the lease.
        own: the directory and the variables that its elements are given; None for those of the process.
        state: restores the process.
        output: captures what they print; None leaves it alone.
        report: returns what is reported of an exception, without output.
        may_break: whether an exception may have broken the devices of the lease for this process.
        lets_interrupt: whether a KeyboardInterrupt ends the run.
        prepare: called before each element; None where nothing is to be done.

    Attributes:
        device_error: the error of an element that may be that of a device, if there is one; no other element begins.
    """

    def __init__(
        self,
        loop: ElementLoop,
        context: ElementContext,
        spec: CallSpec,
        own: Surroundings | None,
        state: ProcessState,
        output: CallOutput | None,
        report: Callable[[BaseException], ErrorReport],
        may_break: Callable[[ErrorReport], bool],
        lets_interrupt: bool,
        prepare: Callable[[], object] | None,
    ) -> None:
        self.device_error: ErrorReport | None = None
        self._control = loop.control
        self._notes = loop.notes
        self._context = context
        self._spec = spec
        self._own = own
        self._state = state
        self._output = output
        self._report = report
        self._may_break = may_break
        self._lets_interrupt = lets_interrupt
        self._next_restore = 0.0
        self.prepare = prepare

    def begin(self) -> None:
        """The first element is about to begin; the directory and the variables of the array were entered."""
        self._state.on_change = self._note_change
        if self._output is not None:
            self._output.spec, self._output.on_print = _RunningElement(self._context), self._note_print

    def finish(self) -> None:
        """The last element has ended."""
        self._state.on_change = None
        if self._output is not None:
            self._output.element_ended()
            self._output.spec, self._output.on_print = self._spec, None

    def _note_change(self) -> None:
        self._notes.append(self._restore)

    def _note_print(self) -> None:
        self._notes.append(self._attribute)

    def _restore(self) -> None:
        self._state.on_change = None  # these are changes of its own
        self._state.restore(0.0)
        if self._own is not None:
            directory, variables, _ = self._own
            self._state.enter(directory, variables)
        self._state.on_change = self._note_change

    def _attribute(self) -> None:
        if self._output is not None:
            self._output.element_ended()

    def look(self) -> None:
        """An element has ended: restore what it has changed without a note, attribute what it has printed so."""
        now = monotonic()
        if self._own is None and now >= self._next_restore:
            self._state.restore(math.inf)
            self._next_restore = now + RESTORE_INTERVAL_S
        self._attribute()

    def describe(self, error: BaseException) -> ErrorReport:
        """Return what is reported of an element that raised ``error``, with the last lines that it has printed."""
        report = self._report(error)
        if self._spec.devices and self._may_break(report):
            self.device_error = report._replace(element=self._context.index)
            self._control.stop()  # the others would fail in the same broken context
        return report if self._output is None else report._replace(output=self._output.element_ended(wants_tail=True))

    def lets_pass(self, error: BaseException) -> bool:
        """Whether ``error`` is the interrupt of a user at the terminal, who wants the run to end."""
        return self._lets_interrupt and issubclass(type(error), KeyboardInterrupt)
