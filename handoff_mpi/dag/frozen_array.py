"""An array in a plan: its inputs are encoded, and others are named by their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from handoff_mpi.arrays.element_input import ElementInput
from handoff_mpi.arrays.linked_inputs import tree_of
from handoff_mpi.arrays.links import Link
from handoff_mpi.arrays.trees import Tree
from handoff_mpi.arrays.windows import ElementWindow
from handoff_mpi.dag.element_source import ElementSource
from handoff_mpi.dag.task_spec import ArraySpec


@dataclass(frozen=True, slots=True)
class FrozenArray:
    """An array in a plan.

    Attributes:
        elements: its inputs, encoded.
        count, chunk, max_failures, links, window: as of :class:`~handoff_mpi.dag.task_spec.ArraySpec`.
        handles: the elements that stand for values of functions: (number of an input, number of the source), by index.
        pulled: of a windowed array, its elements that have not ended.
        source: of a windowed array, its iterables.
    """

    elements: tuple[ElementInput, ...]
    count: int
    chunk: int | None
    max_failures: int | None
    links: tuple[Link, ...] = ()
    handles: Mapping[int, Sequence[tuple[int, int]]] = field(default_factory=dict)
    window: int | None = None
    pulled: ElementWindow | None = None
    source: ElementSource | None = None

    def close(self, taken: int) -> None:
        """The arrays whose elements it takes have ``taken`` elements each: no more come."""
        for each in self.elements:
            each.close(taken)

    @property
    def tree(self) -> Tree | None:
        """The levels of an array that folds values."""
        return tree_of(self.elements)

    @property
    def spec(self) -> ArraySpec:
        """The facts that the scheduler has of it."""
        taken = {index: tuple(dict.fromkeys(source for _, source in each)) for index, each in self.handles.items()}
        tree = self.tree
        fan_in: int | None = None
        if tree is not None and self.window is not None:
            fan_in, tree = tree.fan_in, None
        limits = self.count, self.chunk, self.max_failures
        return ArraySpec(*limits, links=self.links, tree=tree, handles=taken, window=self.window, fan_in=fan_in)
