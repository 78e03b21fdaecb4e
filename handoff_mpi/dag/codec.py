"""The two sides of a codec: functions that an :class:`~handoff_mpi.dag.function.Argument` may name."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Serializer(Protocol):
    """Makes of a value what travels; called on the rank that holds the value, once for each consumer."""

    def __call__(self, value: Any, source_rank: int, target_rank: int, /) -> Any:
        """Return what is sent from ``source_rank`` to ``target_rank``: anything that can be pickled."""
        ...


@runtime_checkable
class Deserializer(Protocol):
    """Makes of what has travelled the argument of a call; called on the rank of the consumer, before its function."""

    def __call__(self, payload: Any, source_rank: int, target_rank: int, /) -> Any:
        """Return the argument, from what the serializer returned."""
        ...
