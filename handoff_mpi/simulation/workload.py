"""The work of a simulated run: random tasks with known answers, and random hosts that can hold each of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

from handoff_mpi.allocation import Ledger
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.arrays.links import OWN
from handoff_mpi.dag import Plan, TaskSpec
from handoff_mpi.dag.frozen_array import FrozenArray
from handoff_mpi.dag.selections import Selection
from handoff_mpi.dag.task_spec import ArraySpec
from handoff_mpi.messages import INLINE_RESULT_NBYTES
from handoff_mpi.resources import Capability, Device
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.serialization import PLAIN
from handoff_mpi.simulation.shapes import MAX_PULL_S, Shape

#: The size of a large value, which is not sent inline to rank 0.
LARGE_NBYTES = 10 * INLINE_RESULT_NBYTES
#: So many different codes and large constants there are.
CODES, CONSTANTS = 4, 3


#: The values of a call's inputs; those of an array are a tuple, maybe of pairs of index and value.
Inputs: TypeAlias = "Sequence[int | tuple[Any, ...]]"
#: An array and an index.
Element: TypeAlias = "tuple[int, int]"


class RightValues(NamedTuple):
    """The values that a run must have.

    Attributes:
        own: of each task; those of the elements of an array are a tuple.
        whole: what those that take a task or a selection get: of a fold, the value of its last element.
    """

    own: Sequence[Any]
    whole: Sequence[Any]


@dataclass(slots=True)
class Workload:
    """A random DAG and what befalls its calls.

    Attributes:
        specs: the tasks.
        duration_s: of each task's call.
        nbytes: of each task's value: one of these, at every attempt again.
        raises: how many attempts of a task raise before one succeeds, in each launch.
        kills: how many attempts of a task kill their process, in each launch.
        fells: tasks that kill the whole rank with their process, even from a child.
        constants: the numbers of the large constants a task takes.
        errors: what the attempts of a task raise, where that is no ValueError.
        element_s: seconds of an element, of each array.
        slow: (array, index) to the seconds of an element that takes longer.
        element_raises, element_kills: how often an element fails before it succeeds, in each launch, by (array, index).
        element_errors: what an element raises, where that is no ValueError.
        shapes: what the elements of arrays take; of other arrays they take nothing but their indices.
        selections: the elements of arrays that tasks take; their numbers follow those of the tasks.
    """

    specs: list[TaskSpec] = field(default_factory=list)
    duration_s: list[float] = field(default_factory=list)
    nbytes: list[tuple[int, ...]] = field(default_factory=list)
    raises: dict[int, int] = field(default_factory=dict)
    kills: dict[int, int] = field(default_factory=dict)
    fells: set[int] = field(default_factory=set)
    constants: dict[int, tuple[int, ...]] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    element_s: dict[int, float] = field(default_factory=dict)
    slow: dict[Element, float] = field(default_factory=dict)
    element_raises: dict[Element, int] = field(default_factory=dict)
    element_kills: dict[Element, int] = field(default_factory=dict)
    element_errors: dict[Element, str] = field(default_factory=dict)
    shapes: dict[int, Shape] = field(default_factory=dict)
    selections: list[Selection] = field(default_factory=list)

    def plan(self) -> Plan:
        """Return the tables of a run of these tasks: their ids are their numbers."""
        plan = Plan()
        plan.ids, plan.specs = [*range(len(self.specs))], self.specs
        plan.codes, plan.code_names = [b"code"] * CODES, [f"code {number}" for number in range(CODES)]
        plan.constants = [(PLAIN, number) for number in range(CONSTANTS)]
        plan.call_templates = [
            ((spec.code,), 0, None, self.constants.get(task, ())) for task, spec in enumerate(self.specs)
        ]
        plan.sources = [tuple((each, None) for each in self.takes(task)) for task in range(len(self.specs))]
        plan.number_of = {task: task for task in range(len(self.specs))}
        for task, spec in enumerate(self.specs):
            if spec.array is not None:
                plan.arrays[task] = self.freeze(task, spec.array.chunk, spec.array.max_failures)
        plan.selections.begin(len(self.specs))
        plan.selections.all += self.selections
        return plan

    def takes(self, task: int) -> tuple[int, ...]:
        """Return the tasks and selections whose values ``task`` takes, or all elements of an array do."""
        spec = self.specs[task]
        return spec.inputs if spec.takes is None else spec.takes

    def shape(self, array: int) -> Shape:
        """Return what the elements of an array take."""
        spec = self.specs[array].array
        assert spec is not None
        return self.shapes.get(array) or Shape(spec.count)

    def freeze(self, array: int, chunk: int | None, max_failures: int | None) -> FrozenArray:
        """Return an array as the plan has it."""
        return self.shape(array).freeze(array, chunk, max_failures)

    def value(self, task: int, inputs: Inputs) -> int:
        """Return the value of ``task``, from its inputs' values."""
        return (hash((task, *inputs)) ^ 0x5DEECE66D) & 0xFFFFFFFF

    def element_value(self, array: int, index: int, inputs: Inputs, arguments: Sequence[Any] = ()) -> int:
        """Return the value of an element of an array, from the values of the array's inputs and its own arguments."""
        return (hash((array, index, *inputs, *arguments)) ^ 0x5DEECE66D) & 0xFFFFFFFF

    def element_duration(self, array: int, index: int) -> float:
        """Return how long an element takes, in seconds."""
        return self.slow.get((array, index), self.element_s[array])

    def serial(self, launch: int = 1, have: Mapping[int, IntervalSet] | None = None) -> RightValues:
        """Return all values of a launch, computed one after the other.

        Args:
            have: the elements of arrays that have values, for tasks that take what is there; all if that is not given.
        """
        values: list[Any] = []

        def whole(number: int) -> Any:
            if number >= len(self.specs):
                return self._selected(values, number, have)
            shape = self.shapes.get(number)
            is_fold = shape is not None and shape.fold is not None and values[number]
            return values[number][-1] if is_fold else values[number]

        for task, spec in enumerate(self.specs):
            inputs = [whole(each) for each in self.takes(task)]
            if spec.array is None:
                values.append(self.value(task, inputs))
                continue
            own: list[int] = []
            shape = self.shape(task)
            for index in range(shape.count_in(launch)):
                arguments = shape.arguments(own, index, whole, launch)
                own.append(self.element_value(task, index, inputs, arguments))
            values.append(tuple(own))
        return RightValues(values, [whole(number) for number in range(len(self.specs) + len(self.selections))])

    def find_varying(self) -> set[int]:
        """Return the tasks whose values hang on which elements of arrays have values, and all that depend on them."""
        found: set[int] = set()
        first = len(self.specs)
        for task, spec in enumerate(self.specs):
            selections = [self.selections[each - first] for each in self.takes(task) if each >= first]
            if any(each.skips_missing for each in selections) or not found.isdisjoint(spec.needs):
                found.add(task)
        return found

    def find_behind_windows(self) -> set[int]:
        """Return the tasks that depend on all elements of windowed arrays, by their folds."""
        found: set[int] = set()
        folds = self.folds_of_windows
        for task in range(len(self.specs)):
            if not (found | folds).isdisjoint(self._sources(task)):
                found.add(task)
        return found

    def find_shaky(self) -> set[int]:
        """Return those tasks behind windows that may run again in a later launch although nothing else has failed.

        Their windows change; or their elements are values of functions, one by one.
        """
        behind, found = self.find_behind_windows(), self.find_varying()
        for task, spec in enumerate(self.specs):
            shape = self.shapes.get(task)
            comes = None if shape is None else shape.comes
            changes = comes is not None and comes.is_changing
            if changes or (task in behind and spec.element_inputs) or not found.isdisjoint(spec.needs):
                found.add(task)
        return found

    def _sources(self, task: int) -> Iterator[int]:
        """Yield the tasks of which ``task``, or an element of it, takes anything: no empty lists of elements."""
        first, array = len(self.specs), self.specs[task].array
        taken = [*self.takes(task)]
        if array is not None and not self._has_no_elements(task):
            yield from (task if link.source == OWN else link.source for link in array.links)
            taken += [each for sources in array.handles.values() for each in sources]
        for each in taken:
            if each >= first and self.selections[each - first].indices:
                yield self.selections[each - first].array
            elif each < first and not self._has_no_elements(each):
                yield each

    def _has_no_elements(self, task: int) -> bool:
        if self.specs[task].array is None:
            return False
        shape = self.shape(task)
        return not shape.count and shape.comes is None and shape.fold is None

    @property
    def folds_of_windows(self) -> set[int]:
        """The arrays that fold elements that come."""
        return {each for each, shape in self.shapes.items() if shape.fold is not None and shape.root is not None}

    def _selected(self, values: Sequence[Any], number: int, have: Mapping[int, IntervalSet] | None) -> Any:
        """Return the value of a selection."""
        array, elements, skips_missing = self.selections[number - len(self.specs)]
        if isinstance(elements, int):
            return values[array][elements]
        if not skips_missing:
            return tuple([values[array][index] for index in elements])
        there = [index for index in elements if have is None or index in have[array]]
        return tuple([(index, values[array][index]) for index in there])

    def max_retries(self, task: int, max_retries: int) -> int:
        """Return how often ``task`` is tried again at most after it raised."""
        return min(max_retries, {"TypeError": 0, "ImportError": 1}.get(self.errors.get(task, ""), max_retries))

    def longest_s(self, max_retries: int, crash_limit: int) -> float:
        """Return how long all of it takes at most, one call after the other, each value being lost once."""
        total = 0.0
        for task, spec in enumerate(self.specs):
            if spec.array is not None:
                total += self._longest_array_s(task, spec, max_retries + crash_limit)
                continue
            tries = 2 + min(self.raises.get(task, 0), max_retries) + min(self.kills.get(task, 0), crash_limit)
            if spec.timeout_s is None:
                total += tries * self.duration_s[task]
            else:  # a call may hang, and is ended then
                tries += max_retries
                total += tries * max(spec.timeout_s, self.duration_s[task])
            total += (spec.retry_delay_s or 0.0) * 2.0**tries  # as each wait is at most twice the one before
        return total

    def _longest_array_s(self, array: int, spec: TaskSpec, tries: int) -> float:
        """Return how long the elements of an array take at most, one after the other."""
        shape = self.shape(array)
        count = max(shape.count_in(1), shape.count_in(2))
        failing = {key for table in (self.element_raises, self.element_kills) for key in table if key[0] == array}
        total = 2 * sum(self.element_duration(array, index) for index in range(count))
        total += sum(tries * self.element_duration(*key) for key in failing)
        if spec.timeout_s is not None:
            total += count * tries * spec.timeout_s
        if shape.window is not None:
            total += count * MAX_PULL_S
        return total + len(failing) * (spec.retry_delay_s or 0.0) * 2.0**tries


def random_workload(rng: random.Random, count: int, ranks: int, is_fine: bool = False) -> Workload:
    """Return ``count`` random tasks that fit the random hosts of :func:`random_ledger` with ``ranks`` or more.

    Args:
        is_fine: whether they are short calls that mostly take the value of one of the last few.
    """
    load = Workload()
    costs = [{"cpu": UNIT}, {"cpu": 2 * UNIT}, {"cpu": UNIT // 2, "memory": 500 * UNIT}, {"gpu": UNIT}, {}]
    costs += [{"cpu": UNIT, "gpu": UNIT // 2}, {"cpu": UNIT, "license": UNIT}]
    for task in range(count):
        within = range(max(0, task - 3) if is_fine else 0, task)
        count_of_inputs = rng.choice((0, 1, 1, 1, 1, 2) if is_fine else (0, 0, 1, 1, 2, 3))
        inputs = tuple(sorted(rng.sample(within, min(len(within), count_of_inputs))))
        cost, priority = rng.choice(costs[:2] if is_fine else costs), rng.choice((0, 0, 0, 1))
        spec = TaskSpec(inputs, cost, priority, code=rng.randrange(CODES))
        _give_wishes(rng, task, spec, load.specs, ranks)
        load.specs.append(spec)
        durations = (0.0, 0.0001, 0.002, 0.02) if is_fine else (0.0, 0.0001, 0.01, 0.3, 2.0)
        load.duration_s.append(20.0 if rng.random() < 0.02 else rng.choice(durations))
        load.nbytes.append(rng.choice(((8,), (8,), (LARGE_NBYTES,), (LARGE_NBYTES,), (8, LARGE_NBYTES))))
        _give_faults(rng, task, load)
    _give_retries(rng, load)
    consumed = {each for spec in load.specs for each in spec.inputs}
    for task, spec in enumerate(load.specs):
        spec.keep |= task not in consumed
    return load


def _give_wishes(rng: random.Random, task: int, spec: TaskSpec, earlier: list[TaskSpec], ranks: int) -> None:
    if rng.random() < 0.05:
        spec.pin = rng.randrange(1, ranks)
        spec.cost = {"cpu": UNIT}
    elif task and rng.random() < 0.05:
        other = rng.randrange(task)
        if earlier[other].pin is None and "gpu" not in {**earlier[other].cost, **spec.cost}:
            group = earlier[other].group
            spec.group = earlier[other].group = other if group is None else group
    if rng.random() < 0.1:
        spec.timeout_s = 5.0
    spec.keep = rng.random() < 0.1
    spec.stays = rng.random() < 0.05


def _give_faults(rng: random.Random, task: int, load: Workload) -> None:
    if rng.random() < 0.08:
        load.raises[task] = rng.choice((1, 2, 9))
    if rng.random() < 0.04:
        load.kills[task] = rng.choice((1, 2, 9))
        if rng.random() < 0.3:
            load.fells.add(task)
    if rng.random() < 0.05:
        load.constants[task] = (rng.randrange(CONSTANTS),)


def _give_retries(rng: random.Random, load: Workload) -> None:
    """Give some tasks delays, and some that raise another exception; ``rng`` draws as many numbers as without."""
    copy = random.Random()
    copy.setstate(rng.getstate())
    for task, spec in enumerate(load.specs):
        if copy.random() < 0.2:
            spec.retry_delay_s = copy.choice((0.01, 0.5, 2.0))
        if task in load.raises and copy.random() < 0.3:
            load.errors[task] = copy.choice(("TypeError", "ImportError"))


def give_arrays(rng: random.Random, load: Workload) -> None:
    """Make some of the tasks arrays; groups stay as they are, as an array is in none."""
    for task, spec in enumerate(load.specs):
        if spec.group is None and rng.random() < 0.3:
            _make_array(rng, task, load)


def _make_array(rng: random.Random, array: int, load: Workload) -> None:
    count = rng.choice((0, 1, 5, 20, 60, 200))
    load.specs[array].array = ArraySpec(count, *draw_limits(rng))
    give_elements(rng, array, load, count)


def draw_limits(rng: random.Random) -> tuple[int | None, int | None]:
    """Return how many elements of an array are leased at once, and how many of them may fail."""
    return rng.choice((None, None, 3)), rng.choice((None, None, None, 0, 2))


def give_elements(rng: random.Random, array: int, load: Workload, count: int) -> None:
    """Draw what befalls the elements of an array, which was a function before."""
    spec = load.specs[array]
    spec.keep = spec.stays = False  # the values of its elements come to rank 0
    for table in (load.raises, load.kills, load.errors):
        table.pop(array, None)
    load.fells.discard(array)
    load.element_s[array] = rng.choice((0.0, 0.0001, 0.001, 0.02, 0.2 if count <= 20 else 0.002))
    for index in rng.sample(range(count), min(count, rng.choice((0, 0, 1, 3)))):
        load.slow[array, index] = rng.choice((0.3, 2.0))
    for index in rng.sample(range(count), min(count, rng.choice((0, 0, 0, 1, 4)))):
        load.element_raises[array, index] = rng.choice((1, 2, 9))
        if rng.random() < 0.3:
            load.element_errors[array, index] = rng.choice(("TypeError", "ImportError"))
    for index in rng.sample(range(count), min(count, rng.choice((0, 0, 0, 1, 2)))):
        load.element_kills[array, index] = rng.choice((1, 2, 9))


def give_failures(rng: random.Random, load: Workload) -> None:
    """Have many elements of some arrays fail, most of them for good, and set limits of which some are less."""
    for task, spec in enumerate(load.specs):
        if spec.array is None or spec.array.is_fold or load.shape(task).block is not None or rng.random() >= 0.2:
            continue
        shape = load.shape(task)
        count = spec.array.count if shape.window is None else shape.window.count
        spec.array = replace(spec.array, max_failures=rng.choice((0, 2, 10, count // 4)))
        for index in rng.sample(range(count), rng.choice((count // 4, count))):
            load.element_raises[task, index] = rng.choice((1, 9, 9))


def random_ledger(rng: random.Random, ranks: int) -> Ledger:
    """Return the ledger of ``ranks`` ranks on random hosts, each able to hold any random cost; rank 0 may compute."""
    capabilities, slots = [], {}
    for rank in range(0 if rng.random() < 0.3 else 1, ranks):
        host = f"h{rng.randrange(max(1, ranks // 2))}" if rank else "h0"
        devices = (Device(0, f"{host}-a"), Device(1, f"{host}-b"))
        amounts = {"cpu": 4 * UNIT, "memory": 2000 * UNIT}
        capability = Capability(rank, host, amounts, devices)
        if rng.random() < 0.2:
            capability.registered = {"cpu": 2 * UNIT}
        capabilities.append(capability)
        slots[rank] = rng.choice((1, 1, 2, 3))
    return Ledger(capabilities, slots, {"license": 2 * UNIT})
