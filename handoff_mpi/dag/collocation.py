"""Groups of functions that ``collocated`` binds to one rank."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from handoff_mpi.dag.function import Collocated, Function


def groups_of(functions: Sequence[Function], number_of: Mapping[Hashable, int]) -> dict[int, int]:
    """Return the group of each task that ``collocated`` binds, by number (union-find, Tarjan 1975).

    Args:
        functions: those that become tasks.
        number_of: id to number.
    """
    parent: dict[int, int] = {}

    def root(number: int) -> int:
        while parent.setdefault(number, number) != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for function in functions:
        if isinstance(function.node, Collocated):
            one, other = root(number_of[function.id]), root(number_of[function.node.id])
            parent[max(one, other)] = min(one, other)
    return {number: root(number) for number in parent}
