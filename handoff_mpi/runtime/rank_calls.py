"""The calls of a rank, wherever they run: in the rank itself, in the child of a slot, or in one that encodes values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handoff_mpi.runtime.call_io import CallIO
from handoff_mpi.runtime.children import Children
from handoff_mpi.runtime.encoders import Encoders
from handoff_mpi.runtime.output import RankOutput
from handoff_mpi.runtime.own_calls import OwnCalls
from handoff_mpi.runtime.run_setup import RunSetup
from handoff_mpi.serialization import Payload
from handoff_mpi.worker.calls import CallRunner
from handoff_mpi.worker.child_pool import ChildPool
from handoff_mpi.worker.draws import NONE
from handoff_mpi.worker.events import QueuedCall, Serve
from handoff_mpi.worker.machine import Worker
from handoff_mpi.worker.randomness import GlobalGenerators, seeded_by_setup


class RankCalls:
    """Runs each call in its place; the port of the reactor to all code of users.

    Args:
        rank: its own.
        setup: of the run.
        machine: knows which calls are to run.
        call_io: gathers inputs, and takes results and answers.
        child_pool: children of runs before, and for those after; None if the run's are all to end with it.
        only_calls: whether nothing else that users wrote runs in this process while the run does.

    Attributes:
        caller: calls functions in this process; it has the code that children need.
        own: what this process runs itself.
    """

    def __init__(
        self,
        rank: int,
        setup: RunSetup,
        machine: Worker,
        call_io: CallIO,
        child_pool: ChildPool | None,
        only_calls: bool,
    ) -> None:
        seeded = NONE if setup.setup is None else seeded_by_setup()
        self.caller = CallRunner(rank, setup.run, GlobalGenerators(setup.seeds, seeded))
        self._output = None if setup.output is None else RankOutput(rank, setup)
        if self._output is not None:
            self.caller.output = self._output.of_rank(stays=only_calls)
        self.own = OwnCalls(rank, self.caller, call_io, setup.store_factory is not None)
        self._is_isolated = setup.isolation == "process"
        self._children = Children(
            setup,
            machine,
            self.caller,
            child_pool,
            call_io.gather,
            call_io.end,
            call_io.note,
            call_io.update,
            self._output,
        )
        self._sent = self._children.sent
        self._encoders = Encoders(rank, self._children.start, call_io.value, call_io.answer)

    # -- for the reactor ----------------------------------------------------------------------------

    def learn(self, codes: Sequence[tuple[int, bytes]], constant: tuple[int, Payload] | None) -> None:
        """Take in encoded callables, or a large constant, by number."""
        self.caller.learn(codes, constant)

    def code(self, number: int) -> bytes:
        """Return an encoded callable by its number."""
        return self.caller.blobs[number]

    def call(self, work: QueuedCall) -> None:
        """Run a call, unless a child was sent it ahead of its turn, and so runs it anyway."""
        if work.is_ahead:
            return
        if self._children.is_for_child(work):
            self._children.call(work)
        else:
            self.own.call(work)

    def kill(self, slot: int) -> None:
        """End the call that runs in a slot, and none that has begun since."""
        self._children.kill(slot)

    def take_part(self, work: QueuedCall) -> None:
        """Have the machine learn what has ended of a lease; children report that by themselves."""
        self.own.take_part(work)

    def stop(self, work: QueuedCall) -> None:
        """Have no further element of a lease begin, and the machine learn which will not."""
        if self._children.is_for_child(work):
            self._children.stop(work)
        else:
            self.own.stop(work)

    def prefill(self) -> None:
        """Send children the calls that come next."""
        if any(self._sent):
            self._children.prefill()

    def take_back(self) -> None:
        """Take calls back that children were sent ahead of their turn, unless they have begun."""
        if any(self._sent):
            self._children.take_back()

    def encode(self, command: Serve) -> None:
        """Encode a value for the rank that asks for it, and answer that rank."""
        if command.limit_s is not None or self._is_isolated:
            self._encoders.serve(command)
        else:
            self.own.encode(command)

    def relieve_idle(self) -> None:
        """Give back the memory that cupy keeps in this process, and have idle children give back what they keep."""
        self.caller.devices.relieve()
        self._children.relieve_idle()
        self._encoders.relieve_idle()

    def end_output(self) -> None:
        """Forward the last of what functions have printed."""
        if self._output is not None and not self.own.is_calling:
            self._output.close()

    # -- for the driver -----------------------------------------------------------------------------

    @property
    def are_awaited(self) -> bool:
        """Whether a child runs a call, or encodes a value."""
        return bool(self._encoders) or any(self._sent)

    def listen(self) -> None:
        """Take in what children say, and end those that are stuck."""
        if any(self._sent):
            self._children.look()
            self._children.listen()
        if self._encoders:
            self._encoders.turn()

    def sockets(self) -> list[Any]:
        """Return what becomes readable when a child speaks."""
        return [*self._children.sockets(), *self._encoders.sockets()]

    def pids(self) -> list[int]:
        """Return the processes of all children, spare ones too."""
        return [*self._children.pids(), *self._encoders.pids()]

    def close(self) -> None:
        """End the children; running ones are killed, as their results are not wanted any more."""
        self.caller.close()
        self._children.close()
        self._encoders.close()
        if self._output is not None:
            self._output.close()
