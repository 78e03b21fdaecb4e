"""Leads through all that the doctor looks at: alone, among ranks, or by launching ranks itself."""

from __future__ import annotations

import faulthandler
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from handoff_mpi.doctor import host_checks, job_checks, mpi_checks
from handoff_mpi.doctor.fault_tolerance import Trial, try_deaths
from handoff_mpi.doctor.filesystem import FolderView, look_at_folder, open_folder
from handoff_mpi.doctor.measuring import RankFacts, measure_rank
from handoff_mpi.doctor.network import Handlers, Leader, serve
from handoff_mpi.doctor.report import ERROR, WARNING, Finding, Report, read_line
from handoff_mpi.errors import EXIT_DONE, EXIT_FAILED, HandoffError, StartupError, UsageError
from handoff_mpi.launch.deadline import resolve_deadline
from handoff_mpi.launch.environment import is_under_launcher, rank_by_launcher, size_by_launcher
from handoff_mpi.launch.hosts import find_hosts
from handoff_mpi.launch.launcher_process import started
from handoff_mpi.launch.mpirun import conflict_of_wheels
from handoff_mpi.launch.own_ranks import command_on_ranks, exit_on_term, refuse_to_launch
from handoff_mpi.resources.slurm_grants import find_mismatches, granted_nodes, granted_tasks, views_of
from handoff_mpi.resources.system_files import parse_whole

DEFAULT_RUN_DIR = "handoff-runs"
#: However MPI hangs, a doctor ends after this long.
DOCTOR_TIMEOUT_S = 300.0
_JOIN_S = 60.0
_MEASURE_S = 90.0
_FOLDER_S = 30.0
_RING_S = 10.0
_PING_S = 30.0
_STREAM_S = 30.0
_DOCTOR_END_TIMEOUT_S = 10.0
_RANK_ANSWER_TIMEOUT_S = 120.0
_BLOCK_NBYTES = 64 << 20
_MIN_BLOCK_NBYTES = 1 << 20
_SHARE_OF_MEMORY = 16
_DOCTOR_FLUSH_TIMEOUT_S = 3.0


def run_checks(run_dir: str | None, report: Report) -> int:
    """Examine all ranks under a launcher, this process alone without one; return the exit code.

    Under a launcher the other ranks serve rank 0, and end here.

    Args:
        run_dir: the run-dir that was named; None for the default one.

    Raises:
        UsageError: one of the HANDOFF variables makes no sense.
    """
    if rank_by_launcher() == 0:
        exit_on_term()
    if not is_under_launcher():
        _visit_alone(run_dir, report)
        return report.close()
    # From C: MPI may hang without letting Python run.
    faulthandler.dump_traceback_later(DOCTOR_TIMEOUT_S, exit=True)
    told = size_by_launcher()
    try:
        from handoff_mpi.comm import mpi, mpi_transport

        comm = mpi.world()
    except (ImportError, RuntimeError) as error:
        remedy = "install mpi4py where this Python finds it, with the MPI of the launcher (or: module load)"
        trouble = Finding(ERROR, "MPI", f"mpi4py cannot be used: {' '.join(str(error).split())}", remedy)
        return _visit_instead(trouble, run_dir, report)
    if comm.Get_size() < told:
        return _visit_instead(mpi_checks.judge_ranks(told, comm.Get_size(), {}), run_dir, report)
    _join(comm, report)
    transport = mpi_transport.MPITransport(comm)
    if transport.rank:
        return _serve(transport)
    return _lead(Leader(transport, _handlers(0)), told, transport.size, run_dir, report)


def run_checks_with_ranks(
    ranks: int, run_dir: str | None, report: Report, hosts: str | None = None, extra: Sequence[str] = ()
) -> int:
    """Launch ``ranks`` ranks that are examined, as ``run -n`` would; return the exit code.

    Args:
        hosts: the user's list of hosts, or None.
        extra: the user's words for mpirun.

    Raises:
        UsageError: this is a launcher's job already, there is no launcher, or the hosts cannot be understood.
    """
    refuse_to_launch("doctor", ranks)
    words = ["doctor", "--lines", *([] if run_dir is None else ["--run-dir", run_dir])]
    command, environment = command_on_ranks(ranks, hosts, extra, words)
    exit_on_term()
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
    with started(command, environment, **streams) as process:
        is_complete = _relay(process, report)
        code = _wait(process, _DOCTOR_END_TIMEOUT_S if is_complete else 1.0)
    if not is_complete:
        ended = (
            f"ended with status {code}"
            if code is not None
            else f"had not come to its end after {DOCTOR_TIMEOUT_S:.0f} s"
        )
        remedy = (
            "see what it said above; try `mpirun -n 2 hostname`, and `mpirun -n 2 python -m mpi4py.bench helloworld`"
        )
        report.add(Finding(ERROR, "launch", f"`{command[0]} ...` {ended} before all was examined", remedy))
    elif code is None:
        what = f"the launcher had to be ended: it was still there {_DOCTOR_END_TIMEOUT_S:.0f} s after its ranks"
        report.add(Finding(WARNING, "launch", what, "nothing: run -n ends such a launcher too"))
    if not report.findings[:-1] and not is_complete:
        _visit_alone(run_dir, report)
    return report.close()


# -- alone ---------------------------------------------------------------------------------------------


def _visit_instead(trouble: Finding, run_dir: str | None, report: Report) -> int:
    """The ranks do not find each other: the launcher's first one says so, and what else it can."""
    if rank_by_launcher():
        return EXIT_DONE
    report.add(trouble)
    _visit_alone(run_dir, report)
    return report.close()


def _visit_alone(run_dir: str | None, report: Report) -> None:
    facts = [measure_rank(0, is_mpi=False)]
    report.add(mpi_checks.judge_versions(facts))
    what, remedy = conflict_of_wheels()
    if what:
        report.add(Finding(ERROR, "wheels", what, remedy))
    with open_folder(run_dir or DEFAULT_RUN_DIR, run_dir is not None) as folder:
        report.add(host_checks.judge_folder(folder.facts))
        if not folder.facts.trouble:
            report.add(host_checks.judge_writes(folder.facts))
            report.add(host_checks.judge_locks(folder.facts, {}, {}))
            report.add(host_checks.judge_space(folder.facts))
    _judge_hosts(facts, 1, report)
    for trial in _judge_deaths(None, report):
        if trial.library:
            report.add(mpi_checks.judge_threads(trial.library, {0: trial.thread_level}))
            break


# -- among ranks ---------------------------------------------------------------------------------------


def _handlers(rank: int) -> Handlers:
    """Return what every rank can be asked."""
    return {
        "measurements": lambda: measure_rank(rank, is_mpi=True),
        "run-dir": lambda probe, token: look_at_folder(probe, token, rank),
    }


def _lead(leader: Leader, told: int, size: int, run_dir: str | None, report: Report) -> NoReturn:
    """Rank 0: examine all, let the others go, and leave."""
    try:
        _visit_ranks(leader, told, size, run_dir, report)
        leader.dismiss(_DOCTOR_END_TIMEOUT_S)
    except SystemExit as error:  # by a signal: nobody else would come to MPI_Finalize
        os._exit(int(error.code or EXIT_FAILED))
    except HandoffError as error:  # of the transport
        remedy = "see what was written above; try fewer ranks, one host, another network"
        report.add(Finding(ERROR, "MPI", f"it failed: {error}", remedy))
    report.add(mpi_checks.judge_answers(size, leader.silent, leader.troubles))
    _leave(report.close(), leader)


def _visit_ranks(leader: Leader, told: int, size: int, run_dir: str | None, report: Report) -> None:
    """Measure, and add a finding for each measurement as soon as it is there."""
    from handoff_mpi.comm import mpi

    by_rank: dict[int, RankFacts] = leader.ask("measurements", timeout_s=_MEASURE_S)
    facts = list(by_rank.values())
    if facts:
        hosts = {rank: each.host for rank, each in by_rank.items()}
        report.add(mpi_checks.judge_versions(facts))
        levels = {rank: each.thread_level for rank, each in by_rank.items()}
        report.add(mpi_checks.judge_threads(facts[0].versions["MPI"], levels))
        report.add(mpi_checks.judge_ranks(told, size, _ranks_on(hosts)))
        if leader.others:
            _judge_network(leader, by_rank, hosts, report)
        _judge_folder(leader, run_dir, hosts, report)
        _judge_hosts(facts, size, report)
    _judge_deaths(mpi.has_fault_tolerance(), report)


def _ranks_on(hosts: dict[int, str]) -> dict[str, list[int]]:
    ranks: dict[str, list[int]] = {}
    for rank, host in hosts.items():
        ranks.setdefault(host, []).append(rank)
    return ranks


def _judge_network(leader: Leader, facts: dict[int, RankFacts], hosts: dict[int, str], report: Report) -> None:
    report.add(mpi_checks.judge_ring(leader.ring(_RING_S)))
    pings = leader.ping(_PING_S)
    if pings:
        report.add(mpi_checks.judge_ping(pings, hosts))
        ahead_s = {hosts[rank]: ping.clock_s for rank, ping in pings.items() if hosts.get(rank, "") != hosts.get(0)}
        if ahead_s:
            report.add(mpi_checks.judge_clocks(ahead_s))
    reached = [rank for rank in leader.others if rank in facts]
    if not reached or 0 not in facts:
        return
    dest = next((rank for rank in reached if hosts[rank] != hosts[0]), reached[0])
    room = min(facts[rank].free_memory_nbytes for rank in (0, dest)) // _SHARE_OF_MEMORY
    nbytes = max(_MIN_BLOCK_NBYTES, min(_BLOCK_NBYTES, room))
    seconds = leader.stream(dest, nbytes, 3, _STREAM_S)
    report.add(mpi_checks.judge_bandwidth(nbytes, seconds, dest, hosts[dest] != hosts[0]))


def _judge_folder(leader: Leader, run_dir: str | None, hosts: dict[int, str], report: Report) -> None:
    with open_folder(run_dir or DEFAULT_RUN_DIR, run_dir is not None) as folder:
        report.add(host_checks.judge_folder(folder.facts))
        if folder.facts.trouble:
            return
        asked = leader.ask("run-dir", str(folder.probe), folder.token, timeout_s=_FOLDER_S)
        views: dict[int, FolderView] = {rank: view for rank, view in asked.items() if rank in hosts}
        report.add(host_checks.judge_sharing(views, hosts))
        report.add(host_checks.judge_writes(folder.facts))
        report.add(host_checks.judge_locks(folder.facts, views, hosts))
        report.add(host_checks.judge_space(folder.facts))


def _judge_hosts(facts: Sequence[RankFacts], size: int, report: Report) -> None:
    report.add(host_checks.judge_gpus(facts))
    report.add(host_checks.judge_cores(facts))
    if size > 1:
        report.add(host_checks.judge_crowding(facts))
    report.add(host_checks.judge_open_files(facts, size))
    report.add(host_checks.judge_scratch(facts))
    report.add(host_checks.judge_imports(facts, "SLURM_JOB_ID" in os.environ))
    if os.environ.get("SLURM_JOB_ID"):
        _judge_job(facts, size, report)


def _judge_job(facts: Sequence[RankFacts], size: int, report: Report) -> None:
    environ, now = os.environ, time.time()
    deadline_s = resolve_deadline(None, now)
    restarts = parse_whole(environ.get("SLURM_RESTART_COUNT", "")) or 0
    left_s = None if deadline_s is None else deadline_s - now
    job = environ["SLURM_JOB_ID"], granted_tasks(environ), granted_nodes(environ), restarts, left_s
    report.add(job_checks.judge_job(job_checks.JobFacts(*job)))
    report.add(job_checks.judge_grants([*find_mismatches(environ, size, views_of(facts))]))
    hosts = find_hosts(size, None)
    hosts.look()
    report.add(job_checks.judge_steps(hosts.names, hosts.lost, hosts.not_asked))


def _judge_deaths(is_on: bool | None, report: Report) -> list[Trial]:
    try:
        trials = try_deaths()
    except (UsageError, OSError, subprocess.SubprocessError) as error:
        report.add(mpi_checks.judge_no_launcher(str(error)))
        return []
    report.add(mpi_checks.judge_deaths(trials, is_on))
    return trials


# -- coming and going ----------------------------------------------------------------------------------


def _join(comm: Any, report: Report) -> None:
    """Wait for all ranks; where some do not come, end this one."""
    from handoff_mpi.comm import mpi

    try:
        mpi.wait_for_all(comm, _JOIN_S)
    except StartupError as error:
        if comm.Get_rank():
            time.sleep(_DOCTOR_FLUSH_TIMEOUT_S)  # rank 0 alone speaks, and the launcher ends all once a rank has left
        else:
            report.add(Finding(ERROR, "ranks", str(error), "look at their hosts; try fewer ranks, or one host"))
            report.close()
        os._exit(EXIT_FAILED)


def _serve(transport: Any) -> NoReturn:
    from handoff_mpi.comm import mpi

    try:
        serve(transport, _handlers(transport.rank), _RANK_ANSWER_TIMEOUT_S)
    except (ConnectionError, HandoffError) as error:
        print(f"handoff: rank {transport.rank} ends: {error}", file=sys.stderr, flush=True)
        os._exit(EXIT_FAILED)
    sys.stdout.flush()
    sys.stderr.flush()
    mpi.leave(EXIT_DONE)


def _leave(code: int, leader: Leader) -> NoReturn:
    """Rank 0 leaves, last. Silent ranks would never come to MPI_Finalize: they are ended as far as possible."""
    from handoff_mpi.comm import mpi

    sys.stdout.flush()
    sys.stderr.flush()
    if not leader.silent:
        mpi.leave(code)
    if mpi.has_fault_tolerance():
        _kill_neighbours(set(map(str, leader.silent)))  # else the launcher does, as soon as this one has left
    os._exit(code)


def _kill_neighbours(ranks: set[str]) -> None:
    """End the silent ranks that the same launcher started on this host."""
    import psutil

    parent = psutil.Process(os.getppid())
    for process in parent.children():
        try:
            if process.environ().get("OMPI_COMM_WORLD_RANK") in ranks:
                process.kill()
        except (psutil.Error, OSError):
            continue  # gone by now


# -- the doctor that launches another ------------------------------------------------------------------


def _relay(process: subprocess.Popen[Any], report: Report) -> bool:
    """Take in what the launched doctor finds, other words to stderr; return whether it came to its end."""
    assert process.stdout is not None
    fd = process.stdout.fileno()
    end = time.monotonic() + DOCTOR_TIMEOUT_S + _DOCTOR_FLUSH_TIMEOUT_S
    buffer = b""
    while (left_s := end - time.monotonic()) > 0:
        if not select.select([fd], [], [], left_s)[0]:
            break
        data = os.read(fd, 65536)
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            told = read_line(line.decode(errors="replace"))
            if told is True:
                return True
            if isinstance(told, Finding):
                report.add(told)
            else:
                print(line.decode(errors="replace"), file=sys.stderr, flush=True)
        if not data:
            break
    return False


def _wait(process: subprocess.Popen[Any], timeout_s: float) -> int | None:
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return None
