"""Equal failures, told once: those of one kind that were raised at one place, or say the same but for numbers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from handoff_mpi.formatting import one_line, show

#: So many functions of a group are named.
MAX_NAMED = 5
#: Of messages, this much is compared.
_COMPARED_CHARS = 200
#: Of a message, this much is shown in a line.
_SHOWN_CHARS = 200
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+(\.\d+)?")


def group_key(kind: str, place: str, message: str) -> tuple[str, str]:
    """Return what equal failures have in common."""
    return kind, place or _NUMBER.sub("#", message[:_COMPARED_CHARS])


@dataclass(slots=True)
class FailureGroup:
    """Functions that failed alike.

    Attributes:
        kind, place, message: of the first one's failure; see :class:`handoff_mpi.messages.ErrorReport`.
        count: how many there are.
        ids: the first of them.
    """

    kind: str
    place: str
    message: str
    count: int = 0
    ids: list[Hashable] = field(default_factory=list)

    def add(self, id: Hashable) -> None:
        """Take in one more function."""
        self.add_all((id,), 1)

    def add_all(self, ids: Iterable[Hashable], count: int) -> None:
        """Take in ``count`` more functions, or elements of an array, and the first of their ids."""
        self.count += count
        self.ids += itertools.islice(ids, MAX_NAMED - len(self.ids))

    @property
    def what(self) -> str:
        """The kind of a failure, and its place."""
        return f"{self.kind} at {self.place}" if self.place else self.kind

    def others(self) -> str:
        """Return how many failed like the first one, and the ids of some, in words; nothing if it is the only one."""
        if self.count == 1:
            return ""
        count = f"{self.count - 1:,} others" if self.count > 2 else "1 other"
        return f" and {count} ({', '.join(map(show, self.ids[1:]))}{', …' if self.count > len(self.ids) else ''})"

    def line(self) -> str:
        """Return who failed, how and where, with the message of the first."""
        first_line = one_line(self.message.split("\n", 1)[0], _SHOWN_CHARS)
        return f"{show(self.ids[0])}{self.others()}: {self.what}{': ' if first_line else ''}{first_line}"


def grouped(failures: Iterable[tuple[Iterable[Hashable], int, str, str, str]]) -> list[FailureGroup]:
    """Return the groups of failures, each ``(ids, count of ids, kind, place, message)``, the largest first."""
    groups: dict[tuple[str, str], FailureGroup] = {}
    for ids, count, kind, place, message in failures:
        key = group_key(kind, place, message)
        if key not in groups:
            groups[key] = FailureGroup(kind, place, message)
        groups[key].add_all(ids, count)
    return sorted(groups.values(), key=lambda group: -group.count)
