"""Leases for tests: elements of an array as rank 0 sends them to a rank, and what the rank's report comes to."""

from __future__ import annotations

import pickle

from handoff_mpi.arrays.columns import unpack
from handoff_mpi.arrays.inputs import freeze_elements
from handoff_mpi.dag.call_template import ELEMENT, ELEMENTS, Placeholder
from handoff_mpi.serialization import PLAIN
from handoff_mpi.worker.call_spec import CallSpec

#: The place of the elements of the first input among the arguments of a call.
EACH = Placeholder(ELEMENT, 0)


def template(args=(EACH,), kwargs=None, surroundings=None, code=0):
    """The call template of an array; ``args`` has placeholders where its elements are put."""
    made = (code,), ELEMENTS, (PLAIN, ((), pickle.dumps(([*args], kwargs or {})))), ()
    return made if surroundings is None else (*made, surroundings)


def elements(*inputs, intervals=None, tries=0):
    """Elements of an array with these inputs, all unless ``intervals`` says which."""
    frozen = [freeze_elements(each, f"input {number}") for number, each in enumerate(inputs)]
    for each in frozen:
        each.encode()
    intervals = ((0, len(frozen[0])),) if intervals is None else tuple(intervals)
    return intervals, tuple(tuple(each.piece(*interval) for each in frozen) for interval in intervals), tries


def lease(*inputs, intervals=None, tries=0, values=(), **options):
    """A lease of the array "sweep"; ``options`` are those of :func:`template`."""
    shares = elements(*inputs, intervals=intervals, tries=tries)
    return CallSpec("sweep", 1, template(**options), values, 1.0, (), shares)


def indices(intervals):
    return [index for start, stop in intervals for index in range(start, stop)]


def values_of(report):
    """Index to value of the elements that ended."""
    return dict(zip(indices(report.ended), unpack(report.column), strict=True))


def failures_of(report):
    """The failures: (indices, kind, message) of each group."""
    return [(indices(intervals), error.kind, error.message) for intervals, error in report.failures]
