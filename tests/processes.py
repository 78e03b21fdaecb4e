"""Other processes as tests see them, which may end at any moment."""

import re

import psutil

#: The complaint of an Open MPI mpirun that did not start, for a reason of its own.
_DID_NOT_START = "The PMIx server's listener thread failed to start."
#: The line of a run that is launched again before it had begun.
_AGAIN = re.compile(r"^handoff: the job has died before the run ended; it is launched again \(\d+ of at most \d+\)\s*$")


def command_line(process: psutil.Process) -> str:
    """Return the words with which a process was started; empty if it has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def environment(process: psutil.Process) -> dict[str, str]:
    """Return the environment with which a process was started; empty if it has ended meanwhile."""
    try:
        return process.environ()
    except psutil.Error:
        return {}


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """Return the living processes below ``process``; none if it has ended meanwhile."""
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def without_failed_starts(text: str) -> str:
    """Return what a run has printed, without what an mpirun said that did not start, for a reason of its own.

    The run is launched again then; all that its functions and ranks print comes later. Nothing is left out where the
    launcher has said anything else, or the run had begun.
    """
    lines = text.splitlines(keepends=True)
    for place in [place for place, line in enumerate(lines) if _AGAIN.match(line)]:
        if any(_DID_NOT_START in line for line in lines[:place]):
            lines[: place + 1] = [line if line.startswith("handoff: ") else "" for line in lines[:place]] + [""]
    return "".join(lines)
