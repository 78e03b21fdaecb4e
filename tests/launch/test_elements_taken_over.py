"""Elements of linked arrays that a launch takes over: what they were computed from is what is there now."""

from __future__ import annotations

import operator
import random

import pytest

from handoff_mpi import DAG
from handoff_mpi.arrays.columns import pack
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.arrays.links import OWN
from handoff_mpi.arrays.values import ArrayValues
from handoff_mpi.dag import Plan
from handoff_mpi.launch.elements_taken_over import ElementsTakenOver, spread
from handoff_mpi.launch.rerun import Rerun
from handoff_mpi.results.array_history import ArrayLaunch

XS, YS, TOTAL, ZS = range(4)


def plan_of(arguments, step):
    dag = DAG()
    xs = dag.map(abs, arguments, id="xs")
    ys = dag.map(operator.add, xs, xs[::step], id="ys")
    dag.reduce(operator.add, ys, fan_in=3, id="total")
    dag.map(operator.add, ys[1:], range(len(ys) - 1), id="zs")
    plan = Plan()
    plan.add(dag.validate())
    return plan


def taken(plan, number, index):
    """Return what an element takes: (array, index) of others."""
    return [
        (number if link.source == OWN else link.source, each)
        for link in plan.arrays[number].links
        if link.elements[0] <= index < link.elements[1]
        for each in link.taken(index, index + 1)
    ]


class Launches:
    """A run-dir: what each launch had and computed; a value is a name, of which it is known what it was made of."""

    def __init__(self):
        self.of = {number: [] for number in range(4)}
        self.made_of = {}
        self.epoch = 0

    def launch(self, arguments, step=1, again=None, most=10**6):
        """Take over what can be, check that it is right, and compute at most so many of the other elements."""
        plan = plan_of(arguments, step)
        self.epoch += 1
        values = {number: ArrayValues(array.count) for number, array in plan.arrays.items()}
        _, again = spread(plan, Rerun(elements=again or {}))
        known = {number: launches for number, launches in self.of.items() if launches}
        elements = ElementsTakenOver(plan.arrays, known, again, values).elements
        for number, its in values.items():
            for start, stop in its.have:
                for index in range(start, stop):
                    assert index not in again.get(number, ())
                    assert self.made_of[its[index]] == self._parts(plan, number, index, arguments, values)
        kept = {number: len(its) for number, its in values.items()}
        for number, array in plan.arrays.items():
            digests = [each.digests() for each in array.elements]
            launch = ArrayLaunch(self.epoch, array.count, digests, restored=elements.get(number, []))
            self.of[number].append(launch)
        self._compute(plan, arguments, values, most)
        return kept

    def _parts(self, plan, number, index, arguments, values):
        own = arguments[index] if number == XS else index if number == ZS else None
        return own, [values[source][each] for source, each in taken(plan, number, index)]

    def _compute(self, plan, arguments, values, most):
        for number, array in plan.arrays.items():
            for index in range(array.count):
                if index in values[number].have or most == 0:
                    continue
                if any(each not in values[source].have for source, each in taken(plan, number, index)):
                    continue
                most -= 1
                name = f"{number}:{index} of launch {self.epoch}"
                self.made_of[name] = self._parts(plan, number, index, arguments, values)
                values[number].put([(index, index + 1)], pack([name]))
                self.of[number][-1].parts.append(([(index, index + 1)], 0, pack([name])))


def test_all_is_taken_over_where_nothing_has_changed():
    launches = Launches()
    assert launches.launch([*range(10)]) == {XS: 0, YS: 0, TOTAL: 0, ZS: 0}
    assert launches.launch([*range(10)]) == {XS: 10, YS: 10, TOTAL: 7, ZS: 9}


def test_a_longer_range_keeps_the_elements_and_the_whole_blocks_of_the_first_level():
    launches = Launches()
    launches.launch(range(10))
    assert launches.launch(range(11)) == {XS: 10, YS: 10, TOTAL: 3, ZS: 9}


def test_an_element_that_runs_again_has_run_again_what_takes_it():
    launches = Launches()
    launches.launch(range(10))
    kept = launches.launch(range(10), again={XS: IntervalSet([(4, 5)])})
    assert kept == {
        XS: 9,
        YS: 9,
        TOTAL: 4,
        ZS: 8,
    }  # three blocks of 7 lead to the root


def test_what_was_not_computed_from_the_newest_value_is_not_taken_over():
    launches = Launches()
    launches.launch(range(10))
    launches.launch(range(10), again={XS: IntervalSet([(4, 5)])}, most=1)  # it ends when the element has run again
    assert launches.launch(range(10)) == {XS: 10, YS: 9, TOTAL: 4, ZS: 8}


@pytest.mark.parametrize("seed", range(25))
def test_what_is_taken_over_was_made_of_what_is_there(seed):
    rng = random.Random(seed)
    launches, arguments, step = Launches(), [*range(rng.choice([5, 12]))], 1
    kept = 0
    for _ in range(8):
        if rng.random() < 0.3:
            arguments = [*arguments]
            arguments[rng.randrange(len(arguments))] = rng.choice([0, 100])
        if rng.random() < 0.3:
            arguments = [*range(rng.choice([5, 6, 12]))]
        step = -step if rng.random() < 0.2 else step
        low = rng.randrange(len(arguments))
        again = {rng.choice([XS, YS]): IntervalSet([(low, low + 1)])} if rng.random() < 0.4 else {}
        kept += sum(launches.launch(arguments, step, again, rng.choice([10**6, rng.randrange(30)])).values())
    assert kept > 0, "nothing was taken over that could have been checked"
