"""The options of ``@task`` as type checkers and editors see them; imported for types alone."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Literal, TypedDict

from handoff_mpi.dag.function import Collocated, PathLike, RetryOn


class TaskOptions(TypedDict, total=False):
    """Keyword arguments of :func:`~handoff_mpi.task`: the attributes of :class:`~handoff_mpi.Function` of that name."""

    id: Hashable
    cost: Mapping[str, Any] | None
    max_retries: int | None
    timeout: float | None
    node: int | str | Collocated | None
    priority: int
    version: str
    type: Literal["regular", "inline"]
    argument_inclusion: Literal["variadic", "as_list"]
    cwd: str | PathLike | None
    env: Mapping[str, str | None] | None
    retry_on: RetryOn
    retry_delay: float | None
    writable: bool
