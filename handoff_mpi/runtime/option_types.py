"""The options of ``execute`` as type checkers and editors see them; imported for types alone.

A test holds them against :class:`~handoff_mpi.runtime.options.RunOptions`, which has their meanings and defaults.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeAlias, TypedDict

from handoff_mpi.allocation.strategy import AllocationStrategy
from handoff_mpi.dag.function import RetryOn
from handoff_mpi.resources.tracker import ResourceTracker
from handoff_mpi.results.store import StoreFactory
from handoff_mpi.runtime.choices import (
    Checkpoint,
    Isolation,
    OnFailure,
    OutputMode,
    ProgressMode,
    Record,
    ReportMode,
    ResultsOn,
)

Strategy: TypeAlias = "str | AllocationStrategy | type[AllocationStrategy]"
Ids: TypeAlias = Collection[Any]
FilePath: TypeAlias = "str | os.PathLike[str]"


class ExecuteOptions(TypedDict, total=False):
    """Keyword arguments of :func:`~handoff_mpi.execute`: the attributes of :class:`~handoff_mpi.RunOptions`."""

    allocation_strategy: Strategy
    max_retries: int
    retry_on: RetryOn
    retry_delay: float
    on_failure: OnFailure
    max_concurrency: int | None
    isolation: Isolation
    slots: int | None
    rank0_computes: bool
    resources: Mapping[str, Any] | None
    prices: Mapping[str, float] | None
    keep: Literal["all"] | Ids
    results_on: ResultsOn
    crash_limit: int
    heartbeat_timeout: float
    join_limit: float
    grace_period: float
    deadline: float | str | None
    run_dir: FilePath | Literal[False] | None
    checkpoint: Checkpoint
    fresh: bool
    rerun: Ids
    accept_changes: Ids
    seed: bool
    check: bool
    result_store: StoreFactory | None
    resource_tracker: ResourceTracker | None
    tracker_timeout: float | None
    cache_size: float | str
    output: OutputMode
    progress: ProgressMode
    record: Record
    quiet: bool
    report: ReportMode
    metrics_file: FilePath | None
