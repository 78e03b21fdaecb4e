"""The values that an earlier launch left decide which tasks need not run."""

from __future__ import annotations

from handoff_mpi.scheduler import ValueLocation, restore
from tests.scheduler.transcript import task

NOWHERE, HOME, FILE = ValueLocation


def rests(specs, left, damaged=()):
    return restore(specs, lambda number: left.get(number, NOWHERE), lambda number: number not in damaged)


def test_a_kept_value_makes_its_inputs_needless():
    assert rests([task(), task(0, keep=True)], {1: HOME}) == {0: NOWHERE, 1: HOME}


def test_what_runs_needs_its_inputs():
    assert rests([task(), task(0), task(1, keep=True)], {0: FILE}) == {0: FILE}


def test_a_damaged_file_is_as_good_as_none():
    assert rests([task(), task(0, keep=True)], {0: HOME, 1: FILE}, damaged={1}) == {0: HOME}


def test_what_nobody_needs_keeps_its_value_for_the_case_that_it_is_needed_after_all():
    """Its file is not looked at: that would cost a look for every task of the run."""
    specs = [task(), task(), task(0, 1), task(2, keep=True)]
    assert rests(specs, {0: HOME, 1: FILE, 3: FILE}, damaged={1}) == {0: HOME, 1: FILE, 2: NOWHERE, 3: FILE}
