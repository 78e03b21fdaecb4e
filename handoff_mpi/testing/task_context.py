"""A context for what a function asks of :func:`handoff_mpi.current_task`, where no run calls it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from handoff_mpi.worker import context as contexts
from handoff_mpi.worker.context import TaskContext


@dataclass(slots=True)
class _GivenContext(TaskContext):
    """A context whose seed was given."""

    given_seed: int = 0

    @property
    def seed(self) -> int:
        return self.given_seed


@contextmanager
def task_context(
    id: Hashable = "test",
    *,
    attempt: int = 1,
    seed: int | None = None,
    rank: int = 0,
    cores: float = 1,
    gpus: Sequence[int] = (),
    gpu_uuids: Sequence[str] = (),
    run: str = "test",
) -> Iterator[TaskContext]:
    """Have :func:`handoff_mpi.current_task` answer within ``with``, so that a function can be called by itself::

        with task_context("fit", attempt=2, seed=7):
            assert fit(3) == ...

    A scratch directory that the function asks for is removed at the end. Contexts may be nested.

    Args:
        id: the function's id.
        attempt: 1 for the first try.
        seed: by default that of a run, which is derived from ``id``.
        rank: the rank it runs on.
        cores: the cores it claimed.
        gpus: indices of the devices it claimed.
        gpu_uuids: their uuids.
        run: the run's name.
    """
    if seed is None:
        context = TaskContext(id, attempt, rank, cores, tuple(gpus), run, tuple(gpu_uuids))
    else:
        context = _GivenContext(id, attempt, rank, cores, tuple(gpus), run, tuple(gpu_uuids), given_seed=seed)
    token = contexts.enter(context)
    try:
        yield context
    finally:
        contexts.leave(token)
        context.clear()
