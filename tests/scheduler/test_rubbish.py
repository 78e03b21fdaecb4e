"""Strategies that answer rubbish: one clear error, naming them."""

from __future__ import annotations

import numpy as np
import pytest

from handoff_mpi.errors import AllocationError
from tests.scheduler.transcript import Dialogue, cpus, ranks, task


class Fixed:
    def __init__(self, answer):
        self.answer = answer

    def allocate(self, ready, view):
        return self.answer(ready) if callable(self.answer) else self.answer


def fail(ready):
    yield 0, 1
    raise KeyError("x")


RUBBISH = {
    "a word": ("abc", "placed 'a', which is not a pair"),
    "a number": (7, "failed: TypeError"),
    "words": (["ab"], "placed 'ab', which is not a pair"),
    "triples": ([(0, 1, 2)], "placed (0, 1, 2), which is not a pair"),
    "ids": ([("f", 1)], "placed ('f', 1), which is not a pair"),
    "no rank": ([(0, None)], "placed (0, None), which is not a pair"),
    "unknown rank": ([(0, 9)], "is wrong: there is no rank 9"),
    "negative rank": ([(0, -1)], "is wrong: there is no rank -1"),
    "not ready": ([(2, 1)], "placed 2, which is not the next task"),
    "unknown task": ([(99, 1)], "placed 99, which is not the next task"),
    "twice": ([(0, 1), (0, 1)], "placed 0, which is not the next task"),
    "what does not fit": ([(0, 1), (1, 1)], "is wrong: a task was placed on rank 1, which has no room for it"),
    "an exception": (fail, "failed: KeyError: 'x'"),
}


@pytest.mark.parametrize("case", RUBBISH)
def test_rubbish_is_refused(case):
    answer, says = RUBBISH[case]
    run = Dialogue(ranks(1), Fixed(answer))
    with pytest.raises(AllocationError) as caught:
        run.submit(task(), task(cost=cpus(1) | {"memory": 0}), task(0))
    assert str(caught.value).startswith(f"the strategy Fixed {says}")


def test_numbers_of_numpy_are_numbers():
    run = Dialogue(ranks(1), Fixed([(np.int64(0), np.int32(1))]))
    assert run.submit(task()) == ["1.0 claims for 0#1"]


@pytest.mark.parametrize("answer", [None, (), iter([])])
def test_a_strategy_that_places_nothing_is_told_of(answer):
    run = Dialogue(ranks(1), Fixed(answer))
    run.submit(task())
    assert "the strategy Fixed places it nowhere, although it would fit" in run.why(0)[1]
