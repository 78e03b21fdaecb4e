"""The iterables of simulated windowed arrays: elements come one after the other under the fake clock.

The puller stands in for the thread that pulls elements in a real run; the rest of the way to the scheduler is that of
real runs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial

from handoff_mpi.arrays.values import ArrayValues
from handoff_mpi.dag import Plan
from handoff_mpi.launch.late_values import LateValues, undecided_arrays
from handoff_mpi.launch.resume import Resumed
from handoff_mpi.runtime.element_puller import ElementPuller
from handoff_mpi.runtime.journal_writer import JournalWriter
from handoff_mpi.runtime.window_consumers import window_consumers
from handoff_mpi.runtime.windowed_arrays import FoldsTakenOver, WindowedArray
from handoff_mpi.scheduler import Scheduler
from handoff_mpi.scheduler.events import ElementsPulled, Restored
from handoff_mpi.serialization import Payload
from handoff_mpi.simulation.context import SimulationContext
from handoff_mpi.simulation.shapes import MAX_PULL_S, Window


class SimulatedPuller(ElementPuller):
    """Pulls the elements of one windowed array, whenever its clock says so.

    Args:
        window: what comes.
        launch: the number of the launch.
        rng: draws how much comes when.
        plan: has :meth:`pull` called in so many seconds.

    Attributes:
        count: how many elements have come.
    """

    def __init__(self, window: Window, launch: int, rng: random.Random, plan: Callable[[float], None]) -> None:
        super().__init__(lambda: iter(()), window.size, lambda: None)
        self.count = 0
        self._source = window
        self._launch = launch
        self._rng = rng
        self._plan = plan
        self._is_planned = False

    def start(self) -> None:
        """Begin to pull."""
        self._plan_pull()

    def allow(self, ended: int) -> None:
        """Pull until the window is full, of which ``ended`` elements have ended altogether."""
        self._ended = ended
        self._plan_pull()

    def pull(self) -> None:
        """Some elements come, or the iterable ends."""
        self._is_planned = False
        if self._is_closed:
            return
        wanted = self._rng.randint(1, self._room)
        stop = min(self.count + wanted, self._source.count_in(self._launch))
        self._bursts.append([self._source.element(index, self._launch) for index in range(self.count, stop)])
        self._is_over = stop < self.count + wanted
        self.count = stop
        if self._is_over and self._source.fails:
            self.error = ValueError("the iterable has raised")
        self._plan_pull()

    def close(self) -> None:
        """Pull no more."""
        self._is_closed = True

    @property
    def _room(self) -> int:
        return self._source.size + self._ended - self.count

    def _plan_pull(self) -> None:
        if self._room > 0 and not (self._is_planned or self._is_over or self._is_closed):
            self._is_planned = True
            self._plan(self._rng.choice((0.0, 0.0, 0.001, MAX_PULL_S)))


class SimulatedWindows:
    """The windowed arrays of a launch.

    Args:
        around: the launch.
        plan: the tables of the run.
        values: of arrays, by number.
        previous: what the launch takes over.
        journal_writer: writes the journal.
        put: called with a task and its small value, which is taken over late.
    """

    def __init__(
        self,
        around: SimulationContext,
        plan: Plan,
        values: dict[int, ArrayValues],
        previous: Resumed,
        journal_writer: JournalWriter,
        put: Callable[[int, Payload], object],
    ) -> None:
        self._around = around
        late_values = LateValues(plan, previous, journal_writer, put)
        self._folds = FoldsTakenOver(partial(late_values.take_over, around.scheduler.arrays))
        self._of: dict[int, WindowedArray] = {}
        self._pullers: dict[int, SimulatedPuller] = {}
        rng = random.Random(f"pulls {around.number}")
        undecided = undecided_arrays(plan, previous)
        for number, frozen in plan.arrays.items():
            if frozen.pulled is not None:
                window = around.load.shape(number).window
                assert window is not None
                puller = SimulatedPuller(window, around.number, rng, self._planner(number))
                earlier = previous.earlier_elements.get(number, ())
                before = previous.earlier_elements, journal_writer, undecided
                consumers = window_consumers(number, plan, values, *before)
                its = puller, values[number], earlier, journal_writer, consumers, undecided.get(number)
                self._of[number] = WindowedArray(number, str(number), frozen.pulled, *its)
                self._pullers[number] = puller

    def _planner(self, number: int) -> Callable[[float], None]:
        clock = self._around.clock
        return lambda seconds: clock.at(clock.now + seconds, "pull", number)

    def start(self) -> None:
        """Begin to pull."""
        for each in self._pullers.values():
            each.start()

    def pull(self, array: int) -> int:
        """Elements of an array come; return how many have, altogether."""
        self._pullers[array].pull()
        return self._pullers[array].count

    def finish(self) -> None:
        """Have the journal know all elements that have come."""
        for each in self._of.values():
            each.finish()

    def events(self, scheduler: Scheduler) -> Sequence[ElementsPulled | Restored]:
        """Return what has come since the last time."""
        arrays, now = scheduler.arrays.of, self._around.clock.now
        found = [event for number, each in self._of.items() if number in arrays for event in each.take(arrays, now)]
        return found + self._folds.take(self._of.values(), arrays)
