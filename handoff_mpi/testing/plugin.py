"""A plugin for pytest. It is loaded by name alone: ``-p handoff_mpi.testing.plugin``, or in a ``conftest.py``::

    pytest_plugins = ["handoff_mpi.testing.plugin"]

Between tests it restores what they have set for the whole process (:func:`handoff_mpi.testing.settings_restored`).
Under pytest-mpi it tells in which order tests run, so that a rank that failed before ``execute`` waits in the next
test for the others; and ranks wait, within bounds, for each other at the end of the session.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from handoff_mpi.launch import script_end
from handoff_mpi.launch.call_site import Calls
from handoff_mpi.launch.environment import size_by_launcher
from handoff_mpi.launch.job import Job
from handoff_mpi.process_context import this_process
from handoff_mpi.testing.fake_ranks import fake_ranks
from handoff_mpi.testing.settings import settings_restored

_CONTRACTS = "handoff_mpi.testing.contracts"
if _CONTRACTS not in sys.modules:  # its assertions are explained as those of test files are
    pytest.register_assert_rewrite(_CONTRACTS)

#: How long a rank that has run all its tests waits for the others.
_PLUGIN_END_TIMEOUT_S = 60.0


@pytest.fixture(autouse=True)
def _handoff_settings() -> Iterator[None]:
    """Restore what the test has set for the whole process."""
    with settings_restored():
        yield


@pytest.fixture
def handoff_run_dir(tmp_path: Path) -> Path:
    """A directory for one run, ``execute(dag, run_dir=handoff_run_dir)``; it does not exist yet.

    Two runs with the same run-dir: the second resumes the first.
    """
    return tmp_path / "handoff-run"


@pytest.fixture
def handoff_ranks() -> Iterator[Callable[..., Job]]:
    """Make the job fake ranks until the end of the test: ``handoff_ranks(4, gpu=1)``, as :func:`fake_ranks`."""
    with ExitStack() as stack:
        yield lambda n, **amounts: stack.enter_context(fake_ranks(n, **amounts))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: Any) -> None:
    """Number the tests as they run."""
    calls = this_process.of(Calls)
    calls.test_position = (calls.test_position or 0) + 1


def pytest_sessionfinish() -> None:
    """Let ranks that wait in ``execute`` for this one report that, before all of them end."""
    if size_by_launcher() > 1 and "mpi4py.MPI" in sys.modules:
        script_end.meet_at_end(_PLUGIN_END_TIMEOUT_S)
