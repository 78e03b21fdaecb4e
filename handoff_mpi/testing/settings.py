"""Restores what a test has set for the whole process."""

from __future__ import annotations

from contextlib import AbstractContextManager

from handoff_mpi.launch.registrations import Registrations
from handoff_mpi.process_context import this_process
from handoff_mpi.runtime.options import OptionDefaults
from handoff_mpi.telemetry.handlers import Handlers


def settings_restored() -> AbstractContextManager[None]:
    """Restore at the end of ``with`` what was set in it for this process.

    These are the options of :func:`handoff_mpi.start`, the telemetry handlers, and the resources of
    :func:`handoff_mpi.register_local_node`. What was set before stays.
    """
    return this_process.restored(OptionDefaults, Handlers, Registrations)
