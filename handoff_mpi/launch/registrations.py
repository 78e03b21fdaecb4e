"""The capability of this rank: what was detected, and what the user has registered."""

from __future__ import annotations

from collections.abc import Callable

from handoff_mpi.call_modules import copies_entered
from handoff_mpi.callbacks import call_here
from handoff_mpi.process_context import Settings, this_process
from handoff_mpi.resources import Amounts, Capability, parse_resources
from handoff_mpi.resources.detection import detect
from handoff_mpi.serialization import decode_code
from handoff_mpi.worker.error_report import describe
from handoff_mpi.worker.randomness import noting_seeds


class Registrations(Settings):
    """The amounts that the user has registered in this process."""

    def __init__(self) -> None:
        self._of_rank: Amounts = {}
        self._of_host: Amounts = {}

    def add(self, amounts: Amounts, of_host: bool) -> None:
        """Register ``amounts`` of the rank or of its host, in place of earlier ones of the same names."""
        (self._of_host if of_host else self._of_rank).update(amounts)

    def complete(self, capability: Capability) -> None:
        """Add what is registered to a capability of this rank."""
        capability.registered.update(self._of_rank)
        capability.host_registered.update(self._of_host)

    def restorer(self) -> Callable[[], object]:
        of_rank, of_host = dict(self._of_rank), dict(self._of_host)

        def restore() -> None:
            self._of_rank, self._of_host = of_rank, of_host

        return restore


registrations = this_process.of(Registrations)


def my_capability(rank: int) -> Capability:
    """Return what this rank offers: detected, and registered."""
    capability = detect(rank)
    registrations.complete(capability)
    return capability


def set_up(blob: bytes, capability: Capability) -> tuple[Capability, str | None]:
    """Call ``setup(rank)``; return what the rank offers then, and what went wrong."""
    try:
        with copies_entered():
            setup = decode_code(blob)
            with noting_seeds(setup):
                offered = call_here(setup, (capability.rank,), {})
        if offered is not None:
            capability.registered.update(parse_resources(offered))
        registrations.complete(capability)
    except BaseException as error:
        return capability, f"{type(error).__name__}: {describe(error)[1]}"
    return capability, None
