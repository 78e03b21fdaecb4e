"""Restores what a test has set for the whole process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from handoff_mpi.launch import job as jobs
from handoff_mpi.runtime.options import defaults_restored
from handoff_mpi.telemetry.handlers import handlers_restored


@contextmanager
def settings_restored() -> Iterator[None]:
    """Restore at the end of ``with`` what was set in it for this process.

    These are the options of :func:`handoff_mpi.start`, the telemetry handlers, and the resources of
    :func:`handoff_mpi.register_local_node`. What was set before stays.
    """
    with defaults_restored(), handlers_restored(), jobs.registrations_restored():
        yield
