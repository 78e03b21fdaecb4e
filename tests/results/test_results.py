"""What a run's results say of its end."""

from __future__ import annotations

import pytest

from handoff_mpi.errors import DAGFailed
from handoff_mpi.results import Results
from handoff_mpi.results.results import FunctionError


def ended(status, kind="", stopped_on_failure=False):
    errors = {"f": FunctionError("'f'", kind, "", 1, (1,))} if kind else {}
    return Results("dag", "run", status, errors, None, 1.0, stopped_on_failure=stopped_on_failure)


@pytest.mark.parametrize(
    ("results", "code"),
    [
        (ended("done"), 0),
        (ended("failed", "ValueError"), 1),
        (ended("failed", "no-room"), 4),
        (ended("stopped"), 75),
        (ended("stopped", "ValueError"), 75),
        (ended("stopped", "no-room"), 75),
        (ended("stopped", "ValueError", stopped_on_failure=True), 1),
        (ended("stopped", "no-room", stopped_on_failure=True), 4),
    ],
)
def test_a_run_that_was_asked_to_stop_is_to_be_resumed_whatever_has_failed(results, code):
    assert results.exit_code == code
    assert DAGFailed("why", results).exit_code == code
