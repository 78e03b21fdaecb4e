"""The options of ``@task`` and of ``map`` as type checkers and editors see them; imported for types alone."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, TypeVar

from handoff_mpi.dag.arrays import Fixed
from handoff_mpi.dag.function import Collocated, PathLike, RetryOn

#: The elements of up to three iterables of ``map``.
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
_Item = TypeVar("_Item", covariant=True)


class Indexable(Protocol[_Item]):
    """A sequence that can be indexed and has a length, such as a data set that reads its items when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> _Item: ...


#: What ``map`` takes for a parameter of its function.
Each: TypeAlias = "Iterable[A] | Indexable[A] | Fixed[A]"


class _SharedOptions(TypedDict, total=False):
    id: Hashable
    cost: Mapping[str, Any] | None
    max_retries: int | None
    timeout: float | None
    priority: int
    version: str
    cwd: str | PathLike | None
    env: Mapping[str, str | None] | None
    retry_on: RetryOn
    retry_delay: float | None
    writable: bool


class TaskOptions(_SharedOptions, total=False):
    """Keyword arguments of :func:`~handoff_mpi.task`: the attributes of :class:`~handoff_mpi.Function` of that name."""

    node: int | str | Collocated | None
    type: Literal["regular", "inline"]
    argument_inclusion: Literal["variadic", "as_list"]


class FoldOptions(_SharedOptions, total=False):
    """Keyword arguments of ``reduce``, all but ``fan_in``."""

    node: int | str | None
    chunk: int | None
    fixed: Mapping[str, Any]


class ArrayOptions(_SharedOptions, total=False):
    """Keyword arguments of ``map``, all but ``fixed`` and ``window``."""

    node: int | str | None
    chunk: int | None
    max_failures: float | None


class MapOptions(ArrayOptions, total=False):
    """Keyword arguments of ``map``, all but ``fixed``."""

    window: int | None
