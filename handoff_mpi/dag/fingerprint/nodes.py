"""The nodes of a graph of parts: each stands for an object, and holds what counts of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias


class Unfit(Exception):
    """Something has no canonical form; the message says what and why."""


class Bag:
    """Parts without an order."""

    __slots__ = ("parts",)

    def __init__(self, parts: list[bytes | Node]) -> None:
        self.parts = parts


class Node:
    """An object and what it consists of.

    Attributes:
        thing: the object; kept, since it is known by its identity.
        parts: bytes that stand for themselves, labels of what follows, other nodes; none before it is opened.
        digest: known once it and all that it reaches are closed.
        unfit: why it has no digest.
        number: when it was opened; 0 before.
        low: the earliest open node that it is known to reach.
    """

    __slots__ = ("digest", "low", "number", "parts", "thing", "unfit", "waiting")

    def __init__(self, thing: object) -> None:
        self.thing = thing
        self.parts: list[Part] = []
        self.digest: bytes = b""
        self.unfit = ""
        self.number = self.low = 0
        self.waiting: Iterator[Node] = iter(())

    def children(self) -> Iterator[Node]:
        for part in self.parts:
            if type(part) is Node:
                yield part
            elif type(part) is Bag:
                yield from (each for each in part.parts if type(each) is Node)


Part: TypeAlias = "bytes | str | Node | Bag"
