"""Pools of capability: what a host or a rank offers, and how much of it is free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from handoff_mpi.resources.amounts import UNIT


@dataclass(slots=True, eq=False)
class Pool:
    """An amount of one resource that ranks share, in fixed point.

    Attributes:
        groups: numbers of the groups that draw on it.
    """

    name: str
    capacity: int
    free: int
    groups: list[int] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class DevicePool:
    """The devices of a host (or registered for one rank), by uuid.

    Attributes:
        free: uuid to what is left of the device, in fixed point.
        owner: uuid to the rank that last used it: a context is expensive, so that rank gets it first.
        groups: numbers of the groups that draw on it.
        suspects: devices that have failed, and are taken after others.
        memory: uuid to the memory of the device, in fixed point, where that is known.
        far: rank to the devices that are near to cores that it is not bound to.
    """

    free: dict[str, int]
    owner: dict[str, int] = field(default_factory=dict)
    groups: list[int] = field(default_factory=list)
    suspects: set[str] = field(default_factory=set)
    memory: dict[str, int] = field(default_factory=dict)
    far: dict[int, set[str]] = field(default_factory=dict)

    def has(self, gpu: int, visible: Sequence[str], kept: Mapping[str, int] | None = None) -> bool:
        """Whether ``gpu``, in fixed point, is free among the visible devices: a share of one, or whole ones.

        Args:
            kept: uuid to what must be left of the device.
        """
        free = {uuid: self.free[uuid] - kept[uuid] for uuid in visible} if kept else self.free
        if gpu < UNIT:
            return any(free[uuid] >= gpu for uuid in visible)
        return sum(free[uuid] == UNIT for uuid in visible) * UNIT >= gpu

    def take(
        self, gpu: int, visible: Sequence[str], rank: int, kept: Mapping[str, int] | None = None
    ) -> tuple[tuple[str, int], ...]:
        """Take ``gpu``, which is free, for ``rank``; return each device's uuid and how much was taken of it."""
        amount = min(gpu, UNIT)
        if len(visible) == 1:
            taken: tuple[tuple[str, int], ...] = ((visible[0], amount),)
        else:
            taken = self._choose(amount, max(1, gpu // UNIT), visible, rank, kept or {})
        for uuid, part in taken:
            self.free[uuid] -= part
            self.owner[uuid] = rank
        return taken

    def _choose(
        self, amount: int, count: int, visible: Sequence[str], rank: int, kept: Mapping[str, int]
    ) -> tuple[tuple[str, int], ...]:
        """Return ``count`` devices and ``amount``, which is free of each."""

        far = self.far.get(rank, ())

        def preference(uuid: str) -> tuple[bool, bool, int, int]:
            owner = self.owner.get(uuid)
            distance = 0 if owner == rank else 1 if owner is None else 2
            # Fractions fill a device before they open another.
            return uuid in self.suspects, uuid in far, distance, self.free[uuid]

        fitting = sorted((uuid for uuid in visible if self.free[uuid] - kept.get(uuid, 0) >= amount), key=preference)
        return tuple((uuid, amount) for uuid in fitting[:count])
