"""Fake ranks: a job of several ranks in one process, for tests of DAGs, costs, pins and strategies.

Rank 0's scheduler and the workers are those of a real job; messages between them go through memory instead of MPI.
Whenever rank 0 looks for messages, each fake rank takes its turn, and runs the calls that it was sent, one after the
other, in the thread of the test: a debugger, a mock and ``monkeypatch`` work.
"""

from __future__ import annotations

import operator
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, SupportsIndex

from handoff_mpi import messages
from handoff_mpi.comm import Envelope, MemoryNetwork, RankFailed
from handoff_mpi.comm.in_memory import MemoryTransport
from handoff_mpi.errors import UsageError
from handoff_mpi.formatting import show
from handoff_mpi.launch.job import Job
from handoff_mpi.launch.own_jobs import OwnJobs
from handoff_mpi.launch.registrations import set_up
from handoff_mpi.messages import SETUP, SHUTDOWN, START
from handoff_mpi.process_context import this_process
from handoff_mpi.resources import Capability, parse_resources
from handoff_mpi.runtime.worker_driver import WorkerDriver
from handoff_mpi.runtime.worker_loop import shut_down_workers
from handoff_mpi.version import VERSION

#: What a fake rank has of memory, where the test does not say.
DEFAULT_MEMORY = "16GB"
#: More ranks than any cluster's; each costs some kilobytes.
MAX_RANKS = 100_000


@contextmanager
def fake_ranks(
    n: int,
    *,
    cpu: Any = 1,
    memory: Any = DEFAULT_MEMORY,
    gpu: Any = 0,
    hosts: int | Sequence[str] = 1,
    **resources: Any,
) -> Iterator[Job]:
    """Run DAGs on ``n`` fake ranks within ``with``, as ``run -n`` would on ``n`` real ones::

        with fake_ranks(4, cpu=2, gpu=[0, 0, 1, 1]):
            results = handoff.execute(dag)
        assert results.allocations["fft"] in (2, 3)

    As in a real job, rank 0 schedules and runs no functions, unless it is alone on its host or ``rank0_computes=True``.
    Each rank has a slot for each of its cores; the calls of all slots run one after the other, in this process. A
    function with a ``timeout``, and all with ``isolation="process"``, run in real child processes.

    Args:
        n: how many ranks there are, rank 0 included.
        cpu: cores of each rank. This, and the amounts that follow, is one amount for all ranks, or a sequence with an
            amount for each rank, rank 0 first.
        memory: in MB or with a unit.
        gpu: devices; they exist in the accounts alone.
        hosts: how many hosts the ranks are spread over evenly ("host0", "host1", ...), or the host of each rank.
        resources: amounts of other resources, by name.

    Raises:
        UsageError: ``n`` or ``hosts`` makes no sense, a sequence has not ``n`` amounts, or this process is a rank of a
            running job.
        DAGError: an amount is wrong.
    """
    jobs = this_process.of(OwnJobs)
    if jobs.current is not None:
        raise UsageError("fake_ranks cannot be used within a job, a Cluster or other fake ranks")
    job = _FakeJob(capabilities_of(n, hosts, cpu=cpu, memory=memory, gpu=gpu, **resources))
    jobs.enter(job)
    try:
        yield job
    finally:
        jobs.leave(job)
        job.close()


def capabilities_of(n: int, hosts: int | Sequence[str], **amounts: Any) -> list[Capability]:
    """Return what each of ``n`` fake ranks offers; see :func:`fake_ranks`."""
    if isinstance(n, bool) or not isinstance(n, SupportsIndex) or not 1 <= operator.index(n) <= MAX_RANKS:
        raise UsageError(f"fake_ranks(n) takes a whole number from 1 to {MAX_RANKS}, not {show(n)}")
    n = operator.index(n)
    names = _host_names(n, hosts)
    return [_capability(rank, names[rank], _of_rank(rank, n, amounts)) for rank in range(n)]


def _host_names(n: int, hosts: int | Sequence[str]) -> list[str]:
    if isinstance(hosts, int) and not isinstance(hosts, bool) and hosts >= 1:
        return [f"host{rank * min(hosts, n) // n}" for rank in range(n)]
    is_names = isinstance(hosts, Sequence) and not isinstance(hosts, str)
    if not is_names or not all(isinstance(name, str) and name for name in hosts):  # type: ignore[union-attr]
        raise UsageError(f"hosts is a number of hosts or the name of each rank's host, not {show(hosts)}")
    names = list(hosts)  # type: ignore[arg-type]
    if len(names) != n:
        raise UsageError(f"hosts names {len(names)} hosts for {n} ranks; name one for each rank, rank 0 first")
    return names


def _of_rank(rank: int, n: int, amounts: dict[str, Any]) -> dict[str, Any]:
    """Return what one rank has."""
    of_rank = {}
    for name, given in amounts.items():
        is_for_each = hasattr(given, "__len__") and not isinstance(given, str)  # an array of numpy is no Sequence
        if is_for_each and len(given) != n:
            raise UsageError(f"{name} has {len(given)} amounts for {n} ranks; give one for each rank, rank 0 first")
        of_rank[name] = given[rank] if is_for_each else given
    return of_rank


def _capability(rank: int, host: str, amounts: dict[str, Any]) -> Capability:
    # No process id: nothing looks at the process of a fake rank, or ends it.
    return Capability(rank, host, {}, registered=parse_resources(amounts), version=VERSION)


class _FakeJob(Job):
    """A job whose ranks other than 0 serve in this process."""

    def __init__(self, capabilities: list[Capability]) -> None:
        network = MemoryNetwork(len(capabilities))
        self._fakes = [_FakeRank(network.transport(each.rank), each) for each in capabilities[1:]]
        super().__init__(_LeadingTransport(network, self._fakes), capabilities, is_mpi=False)

    def close(self) -> None:
        """End the runs of all ranks that were left in one."""
        for fake in self._fakes:
            fake.leave_run()


class _LeadingTransport(MemoryTransport):
    """Rank 0's end: when it looks for messages, the other ranks take their turns."""

    def __init__(self, network: MemoryNetwork, fakes: list[_FakeRank]) -> None:
        super().__init__(network, 0)
        self._fakes = fakes

    def poll(self) -> list[Envelope | RankFailed]:
        for fake in self._fakes:
            fake.turn()
        return super().poll()


class _FakeRank:
    """A rank other than 0, which takes turns instead of having a process."""

    def __init__(self, transport: MemoryTransport, capability: Capability) -> None:
        self._transport = transport
        self._capability = capability
        self._driver: WorkerDriver | None = None

    def turn(self) -> None:
        """Take in what has arrived, and run the calls that can run."""
        of_run: list[Envelope] = []
        for each in self._transport.poll():
            if isinstance(each, Envelope) and not self._is_between_runs(each):
                of_run.append(each)
        driver = self._driver
        if driver is None:
            return
        driver.turn(of_run)
        driver.run_own_calls()
        if driver.has_left:
            self.leave_run()

    def _is_between_runs(self, envelope: Envelope) -> bool:
        """Handle a message that is for no run's machine; return whether it is one."""
        if envelope.kind == START:
            self.leave_run()
            (setup,) = envelope.fields
            self._driver = WorkerDriver(self._transport, setup)
            self._driver.caller.lets_interrupt = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        elif envelope.kind == SETUP:
            function, _ = envelope.fields
            self._transport.send(0, messages.registered(*set_up(function, self._capability)))
        elif envelope.kind == SHUTDOWN:
            shut_down_workers(self._transport)
        else:
            return False
        return True

    def leave_run(self) -> None:
        """End what is left of a run."""
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.close()
