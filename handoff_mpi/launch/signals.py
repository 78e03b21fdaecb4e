"""The meaning of a signal to a run, in words; and signals that come before the run has begun."""

from __future__ import annotations

import signal

from handoff_mpi.errors import Interrupted

#: What asks a run to stop, with or without ranks. SIGHUP is left as it is: nohup has it ignored.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def words_of_signal(number: int) -> str:
    """Return what a user should read of a run that this signal has stopped."""
    return "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"


def stop_before_the_start() -> None:
    """Let a signal that asks to stop end this command in order: nothing has begun, so that nothing is lost."""
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, frame: object) -> None:
    for each in STOPPING:
        signal.signal(each, signal.SIG_IGN)  # one is enough
    raise Interrupted(f"{words_of_signal(number)} before the run had begun; the same command begins it")
