"""Digests of elements of arrays whose classes count: those of users."""

from __future__ import annotations

from typing import Any

from handoff_mpi.dag.fingerprint.graph import Graph
from handoff_mpi.dag.fingerprint.nodes import Unfit

#: A graph keeps all that it has looked at; behind so many objects a new one begins.
MAX_VISITED = 100_000


class ObjectDigests:
    """Gives objects digests as fingerprints have them: by value, with the code of their classes.

    It is what ``digests`` and ``same_prefix`` of :class:`~handoff_mpi.arrays.element_input.ElementInput` take as
    ``digest_object``.
    """

    def __init__(self) -> None:
        self._graph = Graph()

    def __call__(self, thing: Any) -> bytes | None:
        """Return the digest of ``thing``, None if it has none: an open file, for example."""
        if self._graph.visited > MAX_VISITED:
            self.clear()
        try:
            return self._graph.digest(thing)
        except Unfit:
            return None

    def clear(self) -> None:
        """Forget all objects, so that they can be freed."""
        self._graph.clear()
        self._graph = Graph()
