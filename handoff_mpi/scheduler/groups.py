"""Collocated groups: which rank each group is bound to, and which of its members wait for the first placement.

The members of a group run on one rank. Until a member is placed, one of them *leads*: it is queued for any rank that
fits each member, one by one. The others are parked, and are queued for the rank of the leader once that is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from handoff_mpi.allocation import RankState
from handoff_mpi.dag import TaskSpec
from handoff_mpi.resources import Amounts


class CollocatedGroups:
    """The groups of a run; the queues are not its business.

    Args:
        rank_states: rank to its place.
        specs: the table of tasks, which grows during a run.

    Attributes:
        bound: group to the rank it is bound to.
        members: group to its tasks.
        leaders: group to the task that leads, of groups that wait for their first placement.
        parked: group to the READY tasks that wait for that placement.
        need: group to the amounts that its rank must offer: those of each member, one by one.
        hosts: group to the host it is pinned to.
    """

    def __init__(self, rank_states: Mapping[int, RankState], specs: Sequence[TaskSpec]) -> None:
        self.bound: dict[int, int] = {}
        self.members: dict[int, list[int]] = {}
        self.leaders: dict[int, int] = {}
        self.parked: dict[int, list[int]] = {}
        self.need: dict[int, Amounts] = {}
        self.hosts: dict[int, str] = {}
        self._rank_states = rank_states
        self._specs = specs
        self._pinned: set[int] = set()
        self._outgrown: dict[int, None] = {}  # groups whose leader was queued before they grew

    def widen(self, task: int) -> None:
        """Take in ``task`` as a member of its group; the leaders of :meth:`take_outgrown` must be queued again.

        Request classes refer to the mapping of the need, so a need that grows is a new mapping, and so a new class:
        never a change of the old one.
        """
        spec = self._specs[task]
        assert spec.group is not None
        group = spec.group
        self.members.setdefault(group, []).append(task)
        need = self.need.get(group, {})
        self.need[group] = need | {name: amount for name, amount in spec.cost.items() if amount > need.get(name, -1)}
        if isinstance(spec.pin, int):
            self.bound[group] = spec.pin
            self._pinned.add(group)
        elif spec.pin is not None:
            self.hosts[group] = spec.pin
            rank_state = self._rank_states.get(self.bound.get(group, -1))
            if rank_state is not None and rank_state.host != spec.pin:
                del self.bound[group]  # the pin wins: members that are queued stay where they are, later ones follow it
        if group in self.leaders:
            self._outgrown[group] = None

    def take_outgrown(self) -> list[int]:
        """Return the groups that have grown since their leader was queued."""
        outgrown, self._outgrown = self._outgrown, {}
        return [*outgrown]

    def must_wait(self, task: int, group: int) -> bool:
        """Park ``task`` unless it leads its group, or leads from now on; return whether it is parked."""
        if self.leaders.setdefault(group, task) == task:
            return False
        self.parked.setdefault(group, []).append(task)
        return True

    def leader_before(self, task: int) -> int | None:
        """Return the task of its group whose placement ``task`` waits for; None if it waits for none."""
        group = self._specs[task].group
        if group is None or task not in self.parked.get(group, ()):
            return None
        return self.leaders.get(group)

    # -- bound to a rank, and not any more --------------------------------------------------------------

    def bind(self, task: int, rank: int) -> list[int] | None:
        """Bind the group of ``task``, its first task to be placed, to ``rank``.

        Returns:
            The tasks that waited for that, which must be queued; None if the task binds no group.
        """
        group = self._specs[task].group
        if group is None or group in self.bound:
            return None
        self.bound[group] = rank
        return self.release(group)

    def release(self, group: int) -> list[int]:
        """Return the parked tasks of ``group``, which must be queued: no task leads it now."""
        self.leaders.pop(group, None)
        return self.parked.pop(group, [])

    def release_from(self, task: int) -> list[int]:
        """Return the tasks that wait for ``task``, which must be queued: it no longer leads, if it did."""
        group = self._specs[task].group
        return self.release(group) if group is not None and self.leaders.get(group) == task else []

    def unbind(self, rank: int) -> None:
        """Let groups that are bound to a lost rank be bound again."""
        for group in [group for group, bound in self.bound.items() if bound == rank]:
            del self.bound[group]

    def leave(self, rank: int) -> None:
        """Let groups that are bound to ``rank``, but not pinned to it, be bound to another one."""
        for group in [group for group, bound in self.bound.items() if bound == rank and group not in self._pinned]:
            del self.bound[group]

    def rebind(self, task: int) -> int | None:
        """Let ``task`` lead its group again; return the rank that the group was bound to, None if it may not leave."""
        group = self._specs[task].group
        if group is None or group not in self.bound or group in self._pinned:
            return None
        self.leaders[group] = task  # the others wait for it
        return self.bound.pop(group)
