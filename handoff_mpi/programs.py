"""Runs a program that answers and ends, and waits no longer for it than it is given.

``subprocess.run`` kills a program that takes too long, and then waits for its end without a limit. A program that hangs
in the kernel does not end: ``nvidia-smi`` beside a dead device, or any that reads from a file server that is down.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

#: A program that was killed ends within this time, or hangs in the kernel.
KILLED_TIMEOUT_S = 1.0


class Answer(NamedTuple):
    """The answer of a program.

    Attributes:
        returncode: its exit code, or minus the number of the signal that ended it.
        stdout, stderr: what it wrote.
    """

    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def out(self) -> str:
        """Its ``stdout`` as text; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def err(self) -> str:
        """Its ``stderr`` as text; bytes that are not UTF-8 are replaced."""
        return self.stderr.decode("utf-8", "replace")


def run_program(
    command: Sequence[str], timeout_s: float, *, env: Mapping[str, str] | None = None, given: bytes | None = None
) -> Answer:
    """Run ``command`` to its end.

    Args:
        timeout_s: it is killed after so many seconds.
        env: its environment; that of this process by default.
        given: what it reads from its standard input, which is empty by default.

    Raises:
        TimeoutError: it has not ended by then.
        OSError: it cannot be run.
    """
    stdin = subprocess.DEVNULL if given is None else subprocess.PIPE
    process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    try:
        out, err = process.communicate(given, timeout_s)
    except subprocess.TimeoutExpired:
        _end(process)
        raise TimeoutError(f"{command[0]} has not ended within {timeout_s:g} s") from None
    except BaseException:
        _end(process)
        raise
    return Answer(process.returncode, out, err)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a program; one that hangs in the kernel is left to a thread, which takes note of its end if there is one."""
    process.kill()
    try:
        process.communicate(timeout=KILLED_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        for stream in filter(None, (process.stdin, process.stdout, process.stderr)):
            with suppress(OSError):
                stream.close()
        threading.Thread(target=process.wait, name="handoff-hung-program", daemon=True).start()
