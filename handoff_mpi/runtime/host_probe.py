"""Asking another host, past MPI and past Python there, whether it and a process on it live.

The launcher reached every host by ssh, by another launch agent or by srun, and so does this. ``run -n`` says how, in a
variable that all ranks get; under a bare mpirun nobody can be asked.

A question that Slurm did not pass on says nothing about the host, and counts neither as an answer nor as silence.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

PROBE = "HANDOFF_PROBE"
#: A host that has not answered by then does not answer.
HOST_PROBE_TIMEOUT_S = 5.0
#: How long the process of a killed question may take to end.
PROBE_END_TIMEOUT_S = 1.0

LIVES = "lives"
GONE = "gone"
SILENT = "silent"
#: The question has not reached the host, and says nothing about it.
NOT_ASKED = "not asked"
# No status that ssh or srun ends with by itself.
_STATUS_LIVES, _STATUS_GONE = 41, 42
_HOST = "{host}"
# What srun, which has one language, says of a step that Slurm does not make, and of a node that has left the job.
_NO_STEP = (
    "Unable to create step",
    "step creation temporarily disabled",
    "step creation still disabled",
    "Unable to confirm allocation",
)
_STEP = "tep created for"
_LEFT_JOB = "Requested node configuration is not available"
_MAX_SAID_NBYTES = 65536


@dataclass(frozen=True)
class HostProbe:
    """How hosts are reached.

    Attributes:
        command: the words before the shell command; ``{host}`` among them stands for the host.
        names: the hosts, as the launcher calls them.
    """

    command: Sequence[str]
    names: Sequence[str]

    def to_environment(self) -> str:
        """Return the value of the variable ``HANDOFF_PROBE``."""
        return json.dumps({"command": list(self.command), "names": list(self.names)})

    def name_of(self, host: str) -> str | None:
        """Return what the launcher calls ``host``, None if it is none of the launcher's."""
        short = host.partition(".")[0]
        return next((name for name in self.names if name.partition(".")[0] == short), None)

    def start(self, host: str, pid: int | None = None) -> subprocess.Popen[bytes]:
        """Begin to ask ``host``, as the launcher calls it, whether a process lives there, or only whether it answers.

        Raises:
            OSError: what asks could not be started.
        """
        question = "true" if pid is None else f"test -d /proc/{pid}"
        line = f"{question} && exit {_STATUS_LIVES}; exit {_STATUS_GONE}"
        return subprocess.Popen(
            [*(host if word == _HOST else word for word in self.command), line],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def ask(self, host: str, pid: int | None = None, within_s: float | None = None) -> str:
        """Ask, and wait for the answer within bounds.

        Returns:
            LIVES, GONE, SILENT if the host does not answer, or NOT_ASKED if Slurm has not passed the question on.
        """
        try:
            process = self.start(host, pid)
        except OSError:
            return SILENT
        try:
            process.wait(HOST_PROBE_TIMEOUT_S if within_s is None else within_s)
        except subprocess.TimeoutExpired:
            end(process)
        return take_answer(process)


class Question:
    """A question that is asked beside all other work.

    Args:
        host_probe: how hosts are reached.
        host: as the launcher calls it, None if it is none of the launcher's.
        pid: a process there, None if only the host is asked about.
        now: the time, in seconds.
    """

    def __init__(self, host_probe: HostProbe, host: str | None, pid: int | None, now: float) -> None:
        self._until = now + HOST_PROBE_TIMEOUT_S
        self._answer: str | None = None
        try:
            self._process = None if host is None else host_probe.start(host, pid)
        except OSError:
            self._process = None

    def answer(self, now: float) -> str | None:
        """Return the answer; None while it may still come."""
        if self._process is None:
            return SILENT
        if self._answer is None:
            if self._process.poll() is None and now < self._until:
                return None
            self._finish(self._process)
        return self._answer

    def _finish(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            end(process)
        self._answer = take_answer(process)

    def close(self) -> None:
        """Ask no longer."""
        if self._process is not None and self._answer is None:
            self._finish(self._process)


def take_answer(process: subprocess.Popen[bytes]) -> str:
    """Return what a question that is finished, or was ended, means; close what it has said."""
    said = _said(process)
    answer = {_STATUS_LIVES: LIVES, _STATUS_GONE: GONE}.get(process.returncode, SILENT)
    return NOT_ASKED if answer == SILENT and has_no_step(said) else answer


def has_no_step(said: str) -> bool:
    """Whether srun, which has ``said`` this, was refused a step on a node of its job."""
    last = said.rpartition(_STEP)[2]  # a controller that is busy may make one after several tries
    return any(each in last for each in _NO_STEP) and _LEFT_JOB not in last


def _said(process: subprocess.Popen[bytes]) -> str:
    """Return what there is to read, without waiting for more: descendants may hold the other end."""
    if process.stderr is None:
        return ""
    with process.stderr as stderr:
        os.set_blocking(stderr.fileno(), False)
        try:
            return os.read(stderr.fileno(), _MAX_SAID_NBYTES).decode(errors="replace")
        except OSError:
            return ""


def end(process: subprocess.Popen[bytes]) -> None:
    """End a question that was not answered."""
    try:
        os.killpg(process.pid, 9)
    except ProcessLookupError:
        pass
    try:
        process.wait(PROBE_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pass  # it hangs in the kernel, in a file system that went with the network: left to end when it can


def from_environment() -> HostProbe | None:
    """Return what the supervisor said, None if there is none."""
    try:
        told = json.loads(os.environ.get(PROBE, ""))
        return HostProbe(told["command"], told["names"])
    except (ValueError, KeyError, TypeError):
        return None
