"""Helps users test their own DAGs, strategies, trackers and stores; the manual's page ``testing.md`` shows how.

It needs nothing but this package. The plugin for pytest, :mod:`handoff_mpi.testing.plugin`, is loaded by name alone.
"""

from handoff_mpi.testing.fake_ranks import fake_ranks
from handoff_mpi.testing.settings import settings_restored
from handoff_mpi.testing.task_context import task_context

__all__ = ["fake_ranks", "settings_restored", "task_context"]
