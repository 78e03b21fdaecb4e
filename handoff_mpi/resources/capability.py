"""The capability of one rank: the amounts of its host, its own registered ones, and the devices it sees."""

from __future__ import annotations

from dataclasses import dataclass, field

from handoff_mpi.resources.amounts import GPU, GPU_MEMORY, MEMORY, UNIT, Amounts, plain_number

#: The most calls that a rank runs at once: each further one is a child process.
MAX_SLOTS = 4096


@dataclass(frozen=True, slots=True)
class Device:
    """A CUDA device as one rank sees it.

    Attributes:
        index: the device's number in this rank.
        uuid: what tells it apart on its host, however ranks number it; see :mod:`handoff_mpi.resources.device_names`.
        memory_mb: its memory in MB; 0 if that is unknown.
        name: its model.
        is_far: whether its rank is bound to cores, none of which is among those that the host tells are near to it.
    """

    index: int
    uuid: str
    memory_mb: int = 0
    name: str = ""
    is_far: bool = False


@dataclass(slots=True)
class Capability:
    """The capability of one rank; gathered from every rank with a collective.

    Attributes:
        rank: the rank in the run's communicator.
        host: the name of its host; ranks of one host share what was detected there.
        host_amounts: cores and memory of the *host*, as this rank detected them (fixed point).
        devices: the CUDA devices this rank sees.
        registered: what the user registered for this rank alone (fixed point).
        host_registered: what the user registered for the rank's host (fixed point).
        pid: the rank's process.
        version: the version of handoff_mpi it runs.
        device_notes: why it sees no other devices, although there are signs of some.
    """

    rank: int
    host: str
    host_amounts: Amounts
    devices: tuple[Device, ...] = ()
    registered: Amounts = field(default_factory=dict)
    host_registered: Amounts = field(default_factory=dict)
    pid: int = 0
    version: str = ""
    device_notes: tuple[str, ...] = ()

    @property
    def memory_nbytes(self) -> int:
        """Memory of the host that the job may use, as this rank detected it; 0 if unknown."""
        return self.host_amounts.get(MEMORY, 0) * 10**6 // UNIT

    @property
    def offered_memory_nbytes(self) -> int:
        """Memory of the host as it is offered to functions; 0 if unknown."""
        return self.host_registered.get(MEMORY, self.host_amounts.get(MEMORY, 0)) * 10**6 // UNIT

    def offered(self) -> dict[str, int | float]:
        """Return what this rank can offer a function, as users write it: ``{"cpu": 8, "memory": 16000}``."""
        amounts = dict(self.host_amounts)
        if self.devices:
            amounts[GPU] = len(self.devices) * UNIT
            least = min(device.memory_mb for device in self.devices)
            if least:
                amounts[GPU_MEMORY] = least * UNIT
        amounts.update(self.host_registered)
        amounts.update(self.registered)
        return {name: plain_number(amount) for name, amount in amounts.items()}
