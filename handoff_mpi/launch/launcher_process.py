"""The process of a launcher that this process watches: it leaves nothing behind on this host."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from handoff_mpi.worker.child_process import KILL_WAIT_TIMEOUT_S

_STAMP = "HANDOFF_DOCTOR_JOB_"
_TERMINATE_S = 2.0


@contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], is_local: bool = False, **streams: Any
) -> Iterator[subprocess.Popen[Any]]:
    """Start a launcher; on the way out, end what is left of it and of all it started on this host.

    One that may have started something on other hosts too is asked to end first, as nobody else reaches that. One
    that ``is_local`` is not, where this process is itself being ended: then there is no time.
    """
    stamp = _STAMP + uuid.uuid4().hex  # a variable of its own: such jobs may start others
    process = subprocess.Popen(command, env={**environment, stamp: "1"}, start_new_session=True, **streams)
    silence_timeout_s = _TERMINATE_S
    try:
        yield process
    except BaseException:
        silence_timeout_s = 0.0 if is_local else _TERMINATE_S
        raise
    finally:
        if process.poll() is None and silence_timeout_s:
            _terminate(process, silence_timeout_s)
        process.kill()  # its variables cannot be read yet, if it has only just been started
        _kill_stamped(stamp)
        with suppress(subprocess.TimeoutExpired):  # it hangs in the kernel: left behind
            process.wait(KILL_WAIT_TIMEOUT_S)
        if process.stdout is not None:
            process.stdout.close()


def _terminate(process: subprocess.Popen[Any], silence_timeout_s: float) -> None:
    process.terminate()
    try:
        process.wait(silence_timeout_s)
    except subprocess.TimeoutExpired:
        pass  # it is killed with the rest


def _kill_stamped(stamp: str) -> None:
    # Neither a session nor a process group holds all that a launcher starts, but all of it inherits variables.
    import psutil

    for process in psutil.process_iter():
        try:
            if stamp in process.environ():
                process.kill()
        except (psutil.Error, OSError):
            continue  # another user's, or it has ended
