"""Digests of graphs of parts: objects may refer to one another, in circles too."""

from __future__ import annotations

import marshal
from typing import Any

from handoff_mpi.dag.fingerprint.nodes import Bag, Node, Part, Unfit
from handoff_mpi.dag.fingerprint.objects import Anatomy, owner_name
from handoff_mpi.dag.fingerprint.values import MAX_TUPLE_LENGTH, NBYTES, describe_error, hashed, is_leaf, kind_of
from handoff_mpi.dag.task import Task

_DEEPEST = 20_000
_MAX_REFINEMENTS = 500_000


class Graph:
    """Objects and what they refer to; gives each one a digest of all that it reaches.

    Objects that refer to each other get theirs together: the strongly connected components are found by Tarjan's
    algorithm (1972), without recursion. Two objects have the same digest only if they look the same however deep one
    looks into them; copies have the same digest, no matter what was looked at before.
    """

    def __init__(self) -> None:
        self._nodes: dict[int, Node] = {}
        self._anatomy = Anatomy(self.part)
        self.visited = 0

    def clear(self) -> None:
        """Break the reference cycles, so that the objects looked at can be freed without a garbage collection."""
        for node in self._nodes.values():
            node.parts, node.waiting = [], iter(())
        self._nodes.clear()
        self._anatomy.clear()
        del self._anatomy

    def digest(self, thing: object) -> bytes:
        """Return the digest of ``thing``.

        Raises:
            Unfit: it, or something that it refers to, has no canonical form.
        """
        part = self.part(thing)
        if type(part) is bytes:
            return hashed(part)
        assert type(part) is Node
        if not part.digest:
            self._close(part)
        return part.digest

    def part(self, thing: Any) -> bytes | Node:
        """Return what stands for ``thing`` among the parts of another object."""
        if is_leaf(thing):
            return marshal.dumps(thing, 2)
        for _ in range(MAX_TUPLE_LENGTH):
            if type(thing) is not Task:  # outside a ``with DAG()`` it is its code
                break
            thing = thing.code
        node = self._nodes.get(id(thing))
        if node is None:
            node = self._nodes[id(thing)] = Node(thing)
        return node

    def _close(self, root: Node) -> None:
        path: list[Node] = []
        opened: list[Node] = []
        child: Node | None = root
        try:
            while child or path:
                if child:
                    self._open(child, path, opened)
                child = self._next(path[-1])
                if not child:
                    self._leave(path, opened)
        except Unfit as unfit:
            # Every open node reaches a node of the path, and so the culprit.
            for node in opened:
                node.unfit, node.parts = str(unfit), []
            raise

    def _open(self, node: Node, path: list[Node], opened: list[Node]) -> None:
        """Take ``node`` apart, as the newest of the path."""
        if node.unfit:
            raise Unfit(node.unfit)
        self.visited += 1
        node.number = node.low = self.visited
        path.append(node)
        opened.append(node)
        try:
            if len(path) > _DEEPEST:
                raise Unfit("what it refers to is nested too deep")
            node.parts = self._anatomy.parts(node.thing)
            node.waiting = node.children()
        except Unfit as unfit:
            raise Unfit(_place(path) + str(unfit)) from None
        except (Exception, SystemExit) as error:
            raise Unfit(f"{_place(path)}{kind_of(node.thing)} cannot be taken apart: {describe_error(error)}") from None

    def _next(self, node: Node) -> Node | None:
        """Return a part of ``node`` that must be looked at first, if there is one left."""
        for child in node.waiting:
            if child.digest:
                continue
            if not child.number or child.unfit:
                return child
            node.low = min(node.low, child.number)
        return None

    def _leave(self, path: list[Node], opened: list[Node]) -> None:
        """The newest node of the path is done; if it reaches no earlier one, so is what was opened since."""
        node = path.pop()
        if path:
            path[-1].low = min(path[-1].low, node.low)
        if node.low < node.number:
            return
        start = len(opened) - 1
        while opened[start] is not node:
            start -= 1
        members = opened[start:]
        if len(members) == 1 and not any(child is node for child in node.children()):
            node.digest = _digest(node.parts)
        else:
            _refine(members)
        del opened[start:]
        for member in members:
            member.parts = []


def _refine(members: list[Node]) -> None:
    """Give digests to objects that all reach each other.

    Colours are refined until they tell apart no more objects than before (the partition of Hopcroft and Karp for
    automata, by rounds). The final digest holds the set of all colours: two components that agree in it look the same.
    """
    for member in members:
        member.digest = bytes(NBYTES)
    count, rounds = 0, 0
    while len({member.digest for member in members}) > count:
        count = len({member.digest for member in members})
        rounds += 1
        if rounds * len(members) > _MAX_REFINEMENTS:
            for member in members:
                member.digest = b""
            raise Unfit("too many objects refer to each other")
        colours = [_digest([member.digest, *member.parts]) for member in members]
        for member, colour in zip(members, colours, strict=True):
            member.digest = colour
    everything = b"".join(sorted({member.digest for member in members}))
    for member in members:
        member.digest = hashed(member.digest + everything)


def _digest(parts: list[Part]) -> bytes:
    return hashed(b"".join(map(_framed, parts)))


def _framed(part: Part) -> bytes:
    """Bytes that cannot be mistaken for those of other parts."""
    if type(part) is Node:
        return b"n" + part.digest
    if type(part) is Bag:
        return b"s%d:" % len(part.parts) + b"".join(sorted(map(_framed, part.parts)))
    if type(part) is str:
        label = part.encode("utf-8", "surrogatepass")
        return b"l%d:%b" % (len(label), label)
    assert type(part) is bytes
    return b"b%d:%b" % (len(part), part)


def _place(path: list[Node]) -> str:
    """Say where the last node of ``path`` stands: the innermost function or class, and its name there."""
    for owner, child in zip(path[-2::-1], path[:0:-1], strict=True):
        name = owner_name(owner.thing)
        if not name:
            continue
        label = ""
        for part in owner.parts:
            if type(part) is str:
                label = part
            elif part is child or (type(part) is Bag and child in part.parts):
                break
        return f"{label} of {name}: " if label else f"{name}: "
    return ""
