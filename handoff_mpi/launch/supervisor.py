"""``run -n N``: starts this program under mpirun, passes signals on, and believes status.json alone."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from handoff_mpi import signals
from handoff_mpi.console import print_message
from handoff_mpi.errors import (
    EXIT_FAILED,
    EXIT_FITS_NO_MORE,
    EXIT_FITS_NOWHERE,
    EXIT_STOPPED,
    EXIT_USAGE,
    HandoffError,
    UsageError,
)
from handoff_mpi.formatting import noun_of_calls, one_line, total_text
from handoff_mpi.launch.hosts import Hosts, find_hosts, refuse_too_many
from handoff_mpi.launch.job_part import JobPart
from handoff_mpi.launch.launcher_stderr import remove_last_nul
from handoff_mpi.launch.mpirun import launcher_command, remove_session
from handoff_mpi.launch.signals import words_of_signal
from handoff_mpi.launch.start_watch import JOIN_RANK_S, Rank0Watch, StartWatch
from handoff_mpi.linux import signal_at_parents_end
from handoff_mpi.python_path import own_command
from handoff_mpi.results.reader import load
from handoff_mpi.results.run_dir import STATUS
from handoff_mpi.results.secure_files import Directory
from handoff_mpi.results.status_file import read_status, write_status
from handoff_mpi.results.supervision import ARRIVED, JOINED, LAUNCHED_BY, LOST_HOSTS, STOP, note_stop, read_joined
from handoff_mpi.runtime.host_probe import PROBE
from handoff_mpi.worker.child_process import KILL_WAIT_TIMEOUT_S

#: An mpirun that has not ended this long after the run has, is ended.
GRACE_S = 15.0
#: The same where ranks were lost: mpirun waits for ever for a host that was cut off.
GRACE_AFTER_LOSS_S = 4.0
#: A run that is asked to stop before it has begun gets this long to begin.
START_S = 60.0
_LAUNCHER_POLL_INTERVAL_S = 0.1
#: Status of an Open MPI mpirun that stumbles over the session directory of a killed one with the same process id. It
#: removes that directory as it ends, so the next one starts.
_MET_REMAINS = 213
#: What a rank 0 that has said what is wrong ends with; other ranks that have lost it end as stopped ones do.
_REFUSED = frozenset({EXIT_FAILED, EXIT_USAGE, EXIT_FITS_NOWHERE, EXIT_FITS_NO_MORE})
_OF_RANKS = _REFUSED | {EXIT_STOPPED}


@dataclass
class LaunchSpec:
    """The launch that a command line asks for.

    Attributes:
        ranks: how many.
        arguments: of ``python -m handoff_mpi``.
        again: the same for a launch that resumes.
        run_dir: of the run, open, and locked for the supervisor.
        grace_period_s: how long running calls may continue once the run is stopped.
        heartbeat_timeout_s: after which silence of rank 0 its process is looked at.
        most: how often the run is launched again.
        join_limit_s: how long after the last rank that arrived all must have joined; twice that at each new launch.
        max_requeues: how often the Slurm job may be requeued to continue the run.
        hosts: the user's list of hosts, or None.
        extra: the user's words for mpirun.
    """

    ranks: int
    arguments: list[str]
    again: list[str]
    run_dir: Directory
    grace_period_s: float
    heartbeat_timeout_s: float
    most: int
    hosts: str | None = None
    extra: Sequence[str] = ()
    join_limit_s: float = 30.0
    max_requeues: int = 0


def supervise(order: LaunchSpec) -> int:
    """Run ``python -m handoff_mpi`` under mpirun; return the run's exit code.

    A launcher's own status proves nothing, so ``status.json`` is looked at. A run that had begun and left no verdict
    there has died: it is launched again on the hosts that still answer, and resumes.

    INT and TERM ask the run to stop (what runs may end within the grace period); a second one ends it at once.

    Raises:
        UsageError: there is no mpirun, the hosts cannot be understood, or this one could not hold so many ranks.
    """
    hosts = find_hosts(order.ranks, order.hosts, order.extra)
    refuse_too_many(order.ranks, hosts, order.extra)
    supervisor = _Supervisor(order, hosts)
    supervisor.launch_next()
    for relaunch in range(1, order.most + 1):
        if supervisor.is_over:
            break
        lost = hosts.look()
        if not (lost or supervisor.may_resume):
            break
        if len(lost) == len(hosts) > 0:
            print_message("none of its hosts answers any more")
            break
        if hosts.not_asked:
            print_message(f"Slurm makes no step on {_shown(hosts.not_asked)} to ask whether it lives; it is used again")
        print_message(_again(lost, relaunch, order.most, supervisor.has_begun, supervisor.has_verdict))
        supervisor.launch_next()
    supervisor.remove_marks()
    # A sender that repeats a signal until this process has ended must not kill it as Python takes its handlers down.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    code = supervisor.verdict()
    if code == EXIT_STOPPED and not supervisor.is_ended_by_user:
        supervisor.part.requeue(read_status(order.run_dir))
    return code


def _again(lost: list[str], relaunch: int, most: int, has_begun: bool, has_verdict: bool) -> str:
    where = f", and {_shown(lost)} no longer {'answers' if len(lost) == 1 else 'answer'}" if lost else ""
    how = f"launched again{' on the other hosts' if lost else ''} ({relaunch} of at most {most})"
    how += " and resumes" if has_begun else ""
    why = "what is left needs ranks that were lost" if has_verdict else "the job has died before the run ended"
    return f"{why}{where}; it is {how}"


def _shown(hosts: list[str]) -> str:
    return ", ".join(hosts[:10]) + (f" and {len(hosts) - 10:,} more" if len(hosts) > 10 else "")


class _Supervisor:
    """Watches one launch after the other.

    Attributes:
        has_begun: whether one of them has begun the run.
        part: what this job does of the run.
        is_ended_by_user: whether a signal has asked for an end that is none of the time limit's.
    """

    def __init__(self, order: LaunchSpec, hosts: Hosts) -> None:
        self._order = order
        self._hosts = hosts
        self._run_dir = order.run_dir
        self._process: subprocess.Popen[bytes] | None = None
        self._launches = 0
        self._signals = 0
        self.part = JobPart(order.max_requeues)
        self.is_ended_by_user = False
        self._why = ""
        self._is_passed_on = False
        self._deadline = float("inf")
        self.has_begun = False
        self._has_joined = False
        self._has_failed_to_start = False
        self._pulse = _Pulse(order.run_dir, order.heartbeat_timeout_s)
        self._mark = secrets.token_hex(8)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signals.handle(number, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        if number == signal.SIGUSR1 and (self._signals or self.part.is_early_signal()):
            return
        self.is_ended_by_user |= number != signal.SIGUSR1
        self._signals += 1
        self._why = self._why or words_of_signal(number)
        if self._signals > 1:
            self._deadline = 0.0

    def launch(self, arguments: list[str], more: dict[str, str]) -> None:
        """Start mpirun, and return once it has ended, or was ended because it did not."""
        order = self._order
        command, environment = self._command(more)
        self._forget_the_last()
        self._deadline = 0.0 if self._signals > 1 else float("inf")
        self._has_failed_to_start = False
        self._pulse.reset()
        program = [*command, *own_command(), *arguments]
        self._process = subprocess.Popen(
            program, env=environment, start_new_session=True, preexec_fn=_end_with_supervisor
        )
        limit_s = (order.join_limit_s + order.ranks * JOIN_RANK_S) * 2**self._launches
        self._start = StartWatch(self._run_dir, self._process.pid, limit_s)
        self._rank_0 = Rank0Watch()
        self._launches += 1
        while self._process.poll() is None:
            if time.monotonic() >= self._deadline:
                self._end(self._process)
                break
            self._look(self._process)
            try:
                self._process.wait(_LAUNCHER_POLL_INTERVAL_S)
            except subprocess.TimeoutExpired:
                pass
        remove_last_nul()
        last = read_status(self._run_dir)
        self.part.look(last)
        self.has_begun |= bool(last)  # it may have begun and died between two looks
        status = self._process.returncode
        if status is None or status < 0:
            remove_session(self._process.pid, environment)
        self._has_joined = bool(read_joined(self._run_dir))
        self._has_failed_to_start |= status is None or status == _MET_REMAINS or status < 0  # something killed mpirun

    def launch_next(self) -> None:
        """Start mpirun, see :meth:`launch`: with what starts over, or runs again, if nothing has begun the run yet."""
        if self.has_begun or self.part.is_restart:
            self.launch(self._order.again, {"HANDOFF_FRESH": "", "HANDOFF_RERUN": ""})
        else:
            self.launch(self._order.arguments, {})

    def _forget_the_last(self) -> None:
        """Remove what an earlier launch said.

        Raises:
            UsageError: it cannot be removed.
        """
        try:
            for name in (STATUS, ARRIVED, JOINED, STOP):
                self._run_dir.remove(name)
        except OSError as error:
            what = f"{error.filename} of an earlier launch cannot be removed: {error.strerror}"
            raise UsageError(f"{what}; remove it, or name another run-dir with --run-dir") from error

    def remove_marks(self) -> None:
        """Remove what the launches have left for this process alone."""
        for name in (ARRIVED, JOINED, STOP):
            with suppress(OSError):
                self._run_dir.remove(name)

    def _command(self, more: dict[str, str]) -> tuple[list[str], dict[str, str]]:
        order, places = self._order, self._hosts.places()
        ranks = order.ranks if places is None else sum(places.values())
        os.environ.update(more)
        os.environ[LAUNCHED_BY] = self._mark
        os.environ[LOST_HOSTS] = ",".join(self._hosts.lost)
        if len(self._hosts) > 1:
            os.environ[PROBE] = self._hosts.host_probe.to_environment()
        return launcher_command(ranks, places, order.extra)

    def _look(self, process: subprocess.Popen[bytes]) -> None:
        status = read_status(self._run_dir)
        self.part.look(status)
        self.has_begun |= bool(status)
        if status.get("exit_code") is None and self._is_lost(status):  # though a signal has set a deadline
            self._deadline = 0.0
        if self._deadline == float("inf"):
            if status.get("exit_code") is not None:
                self._deadline = time.monotonic() + (GRACE_AFTER_LOSS_S if status.get("lost_ranks") else GRACE_S)
            elif self._pulse.has_stopped() and self._is_rank_0_gone(status):
                print_message(
                    f"rank 0 on {status.get('host')} was lost, and its launcher does not notice; the launcher is ended"
                )
                self._deadline = 0.0
        if not self._signals or self._is_passed_on:
            return
        # Ranks that do not listen yet would be killed by it: all do once they have joined, before rank 0 loads dag.py.
        self._is_passed_on = bool(status) or self._run_dir.status(JOINED) is not None
        if self._is_passed_on:
            note_stop(self._run_dir, self._mark, self._why)
            process.send_signal(signal.SIGUSR1)
        wait_s = self._order.grace_period_s + GRACE_S + (0 if self._is_passed_on else START_S)
        self._deadline = min(self._deadline, time.monotonic() + wait_s)

    def _is_lost(self, status: dict[str, Any]) -> bool:
        """Whether the launch is lost: it has not started, or its rank 0 has died."""
        why = "" if status else self._start.problem()
        self._has_failed_to_start |= bool(why)
        why = why or self._rank_0.problem(status or read_joined(self._run_dir))
        if why:
            print_message(f"{why if self._has_failed_to_start else f'rank 0: {why}'}; the launch is ended")
        return bool(why)

    def _is_rank_0_gone(self, status: dict[str, Any]) -> bool:
        """Look at the process of a rank 0 that is silent; one that lives is left alone."""
        host = self._hosts.host_probe.name_of(str(status.get("host")))
        self._pulse.reset()
        return host is not None and not self._hosts.answers(host, status.get("pid"))

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """End mpirun and all it started: first politely, then not; not politely where it waits for a lost host."""
        started = _descendants(process.pid)
        if read_status(self._run_dir).get("lost_ranks"):
            print_message("mpirun still waits for the ranks that were lost; it is ended")
        else:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        for each in started:  # launch agents that wait for a lost host
            try:
                each.kill()
            except psutil.Error:
                pass
        try:
            process.wait(KILL_WAIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            print_message(f"mpirun (process {process.pid}) hangs in the kernel, and is left behind")

    @property
    def has_verdict(self) -> bool:
        """Whether the last launch has left an exit code."""
        return read_status(self._run_dir).get("exit_code") is not None

    @property
    def is_over(self) -> bool:
        """Whether there is a verdict, other than that lost ranks are missed, or the run was asked to stop.

        A run whose run-dir was removed is not begun again: nobody could tell why it starts over.
        """
        status = read_status(self._run_dir)
        code = status.get("exit_code")
        is_short_of_ranks = code == EXIT_FITS_NO_MORE and bool(status.get("lost_ranks"))
        has_verdict = code is not None and not is_short_of_ranks
        return bool(self._signals) or has_verdict or not self._run_dir.is_in_place

    @property
    def may_resume(self) -> bool:
        """Whether another launch may do better on the same hosts.

        The last one had begun, or MPI failed to start, or its ranks had joined and rank 0 has not said what is wrong:
        rank 0 was killed while it loaded dag.py or in ``setup``, or another rank was in ``setup``.
        """
        was_killed = self._has_joined and (self._process is None or self._process.returncode not in _REFUSED)
        return self.has_begun or self._has_failed_to_start or was_killed

    def verdict(self) -> int:
        """Return the exit code of the run, saying what is not plain."""
        assert self._process is not None
        status = read_status(self._run_dir)
        code = status.get("exit_code")
        has_ended = status.get("status") in ("done", "failed") and isinstance(code, int)
        if not has_ended and (self._signals or status.get("status") == "stopped"):
            why = str(status.get("stopped_because") or self._why or "stopped")
            done = self._what_was_done(status)  # without a signal rank 0 has said why
            print_message(f"{why}; {done}" if self._signals else done)
            if code is None and status.get("status") == "running":
                self._write_stopped(status, why)
            return code if isinstance(code, int) else EXIT_STOPPED
        if isinstance(code, int):
            return code
        if not self._run_dir.is_in_place:
            print_message(f"the run-dir {self._run_dir.path} is no longer there; the same command starts over")
            return EXIT_STOPPED
        launched = self._process.returncode
        if launched is None:  # it hangs
            return EXIT_STOPPED if self.has_begun else EXIT_FAILED
        if launched < 0 and not self.has_begun:
            print_message(f"mpirun was killed by signal {-launched} before the run had begun")
            return EXIT_FAILED
        if launched and not self.has_begun:
            if launched not in _OF_RANKS:
                print_message(f"mpirun ended with status {launched} before the run had begun")
            return launched
        print_message(f"the run has died before it ended ({self._run_dir.path}); the same command resumes")
        return EXIT_STOPPED if self.has_begun else EXIT_FAILED

    def _write_stopped(self, status: dict[str, Any], why: str) -> None:
        """Write the verdict of a run whose ranks had no time to: a batch system has ended all of them at once."""
        fields = {**status, **self._counts(), "status": "stopped", "exit_code": EXIT_STOPPED, "stopped_because": why}
        with suppress(HandoffError, OSError):
            write_status(self._run_dir, **fields)

    def _counts(self) -> dict[str, int]:
        """Return how many functions are done, failed and so on; empty if files were removed, or are damaged."""
        try:
            return load(self._run_dir.path).counts()
        except (HandoffError, OSError):
            return {}

    def _what_was_done(self, status: dict[str, Any]) -> str:
        """Return how far a run came that was stopped, and how it is continued."""
        resume = status.get("resume")
        again = one_line(resume) if isinstance(resume, str) else f"the same command with --run-dir {self._run_dir.path}"
        if not self.has_begun or status.get("status") in ("refused", "helped"):
            return f"the run had not begun; {again} begins it"
        found = self._counts()
        if not found:
            return f"see {self._run_dir.path}; to resume: {again}"
        counts = {**found, "functions": status.get("functions"), **status}
        failed = f", {counts['failed']:,} failed" if counts.get("failed") else ""
        of = f"{total_text(status, counts['functions'])} {noun_of_calls(status)}"
        return f"{counts['done']:,} of {of} were done{failed}; to resume: {again}"


class _Pulse:
    """Whether rank 0 still shows signs of life: it touches ``status.json`` every second while it runs."""

    def __init__(self, run_dir: Directory, limit_s: float) -> None:
        self._run_dir = run_dir
        self._limit_s = limit_s
        self.reset()

    def reset(self) -> None:
        """Begin again."""
        self._seen = 0.0
        self._silence_s = 0.0
        self._looked_at = time.monotonic()

    def has_stopped(self) -> bool:
        """Look; return whether there was none for longer than the limit."""
        now = time.monotonic()
        # A supervisor that was suspended itself cannot tell what it has not seen.
        self._silence_s += min(now - self._looked_at, 1.0)
        self._looked_at = now
        try:
            status = self._run_dir.status(STATUS)
        except OSError:
            status = None
        # By the file system's clock: only that it changes means anything.
        seen = 0.0 if status is None else status.st_mtime
        if not seen or seen != self._seen:
            self._seen, self._silence_s = seen, 0.0
        return self._silence_s > self._limit_s


def _end_with_supervisor() -> None:
    """Run in mpirun's process before it is mpirun: have it told to end if the supervisor is killed."""
    signal_at_parents_end(signal.SIGTERM)


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
