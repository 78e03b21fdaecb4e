"""Facts that a rank must know of a run to take part in it."""

from __future__ import annotations

from dataclasses import dataclass, field

from handoff_mpi.worker.budget import UNLIMITED_NBYTES


@dataclass(slots=True)
class OutputSetup:
    """How the output of functions is captured.

    Attributes:
        launch: the number of the launch.
        max_nbytes: size of a file from which on little is kept of each attempt.
        forwards: whether what functions print is printed by their rank as well.
        has_prefix: whether each line of that says which function printed it.
        names_rank: whether it says on which rank, too.
    """

    launch: int
    max_nbytes: int
    forwards: bool = False
    has_prefix: bool = True
    names_rank: bool = True


@dataclass(slots=True)
class RunSetup:
    """The message of rank 0 to every rank when a run starts.

    Attributes:
        run: the run's name, unique in the job.
        number: the run's number, part of every message.
        slots: of the rank that receives this.
        isolation: "rank" (slot 0 in the rank itself, further ones in children), "process", or "inline" (the calls of
            all slots in the rank itself, one after the other).
        heartbeat_s: most seconds between signs of life.
        store_nbytes, cache_nbytes: see :class:`~handoff_mpi.worker.machine.Worker`.
        run_dir: where values that must outlast the run are written; None if this rank keeps none.
        store_factory: encoded maker of a custom store, or None.
        paths: what must be on ``sys.path``.
        setup: dag.py's ``setup(rank)``, encoded, for child processes; or None.
        tells_transfers: whether rank 0 wants to know of transfers between ranks.
        pids: rank to process id, of the ranks of this host.
        silence_timeout_s: after this long without a sign of life of rank 0 ranks ask about it, and after twice as long
            they give it up if nobody can be asked; 0 never ends.
        rank0: rank 0's host and process id.
        memory_nbytes: the host's memory as it is offered, 0 if that is not known.
        ranks_here: how many ranks of the host share it.
        checkpoint: which large values are written to files at once: "all", "none", or "auto", those that took
            longer to compute than to write.
        seeds: whether calls that draw from global random generators are seeded.
        output: how the output of functions is captured; None leaves it alone.
        sources: the text of files that the rank's host may lack, compressed, by path.
        stays_open: whether rank 0 submits arrays now and then, and is silent meanwhile, as between two runs.
        usage_s: seconds between two samples of the use of the host, which this rank sends to rank 0; 0 for none.
    """

    run: str
    number: int
    slots: int
    isolation: str
    heartbeat_s: float
    store_nbytes: int
    run_dir: str | None
    store_factory: bytes | None
    paths: list[str]
    setup: bytes | None = None
    tells_transfers: bool = False
    pids: dict[int, int] = field(default_factory=dict)
    silence_timeout_s: float = 0.0
    rank0: tuple[str, int] = ("", 0)
    checkpoint: str = "none"
    memory_nbytes: int = 0
    ranks_here: int = 1
    cache_nbytes: int = UNLIMITED_NBYTES
    seeds: bool = True
    sources: dict[str, bytes] = field(default_factory=dict)
    output: OutputSetup | None = None
    usage_s: float = 0.0
    stays_open: bool = False
