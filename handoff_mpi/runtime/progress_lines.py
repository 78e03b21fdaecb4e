"""The lines that rank 0 prints of a run's progress where nobody draws it: in a batch log, say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from handoff_mpi.console import print_message_once
from handoff_mpi.formatting import (
    duration_text,
    noun_of_calls,
    one_line,
    rate_text,
    repeated_texts,
    time_left_text,
    total_text,
)
from handoff_mpi.runtime.backoff import clock

#: Seconds from the start of a run to its first line.
FIRST_INTERVAL_S = 10.0
#: Each further interval is twice as long, up to this.
MAX_INTERVAL_S = 300.0
#: A call that has lasted this long is named: a reader may take its run for one that hangs.
MIN_NAMED_CALL_S = 10.0
MAX_NAMED_PLACES = 3
_MAX_NAME_CHARS = 60
#: Seconds between two reports of a thread.
PROGRESS_CHECK_INTERVAL_S = 1.0
_LINES_END_TIMEOUT_S = 1.0


class ProgressLines:
    """Prints a line of progress at growing intervals.

    Args:
        say: prints a line.
        started_s: when the run began, in seconds since the epoch.

    Attributes:
        due_s: when the next line is due.
    """

    def __init__(self, say: Callable[[str], object], started_s: float) -> None:
        self._say = say
        self._interval_s = FIRST_INTERVAL_S
        self.due_s = started_s + FIRST_INTERVAL_S

    def look(self, status: Mapping[str, object], now: float) -> None:
        """Print a line if one is due.

        Args:
            status: the fields of ``status.json``.
            now: seconds since the epoch.
        """
        if now >= self.due_s:
            self._interval_s = min(2 * self._interval_s, MAX_INTERVAL_S)
            self.due_s = now + self._interval_s
            self._say(progress_line(status, now))


class ProgressThread(threading.Thread):
    """Reports progress once a second: in one process the loop stands still while a function runs.

    Args:
        report: called with the seconds since the epoch.
    """

    def __init__(self, report: Callable[[float], object]) -> None:
        super().__init__(name="handoff-progress", daemon=True)
        self._report = report
        self._is_over = threading.Event()

    def run(self) -> None:
        while not self._is_over.wait(PROGRESS_CHECK_INTERVAL_S):
            report_safely(self._report, clock())

    def close(self) -> None:
        """Report no more."""
        self._is_over.set()
        self.join(_LINES_END_TIMEOUT_S)


def report_safely(report: Callable[[float], object], now: float) -> None:
    """Call ``report``; a failure to count or to print must not fail the run."""
    try:
        report(now)
    except RuntimeError:
        pass  # the loop has changed what a thread was reading; the next report is soon
    except Exception as error:
        print_message_once(f"the progress of the run is not reported: {type(error).__name__}: {error}")


def progress_line(status: Mapping[str, object], now: float) -> str:
    """Return a run's progress in a line: time of day, counts, rate, time left, and what is in trouble.

    Args:
        status: the fields of ``status.json``.
        now: seconds since the epoch.
    """
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    parts = [f"{when} {_counts(status)}", _speed(status), *_longest(status, now), *_trouble(status)]
    return "; ".join(part for part in parts if part)


def _counts(status: Mapping[str, Any]) -> str:
    counts = status.get("counts") or {}
    waiting = counts.get("waiting", 0) + counts.get("ready", 0)
    parts = [
        f"{counts.get('done', 0):,} of {total_text(status, status.get('functions', 0))} {noun_of_calls(status)} done"
    ]
    others = {"running": counts.get("running", 0), "waiting": waiting}
    others |= {name: counts.get(name, 0) for name in ("failed", "skipped")}
    parts += [f"{count:,} {name}" for name, count in others.items() if count]
    return ", ".join([*parts, *repeated_texts(counts)])


def _speed(status: Mapping[str, Any]) -> str:
    """Return the rate and the time left."""
    rate, left = status.get("rate_per_s") or 0.0, time_left_text(status)
    return f"{rate_text(rate)}, {left}" if rate else left


def _longest(status: Mapping[str, Any], now: float) -> list[str]:
    """Return the call that has run longest, where it has run for long."""
    first = next(iter(status.get("longest") or ()), None)
    age_s = 0.0 if first is None else now - float(first.get("started_s", now))
    if first is None or age_s < MIN_NAMED_CALL_S:
        return []
    where = f"rank {first.get('rank')} ({_short(first.get('host'))})"
    return [f"longest call: {_short(first.get('id'))} on {where} for {duration_text(age_s)}"]


def _trouble(status: Mapping[str, Any]) -> list[str]:
    """Return which ranks are lost, and which ranks and hosts are on probation."""
    lost, probation = status.get("lost_ranks") or {}, status.get("probation") or {}
    parts = [f"{'rank' if len(lost) == 1 else 'ranks'} {_named(lost)} lost"] if lost else []
    return [*parts, *([f"{_named(probation)} on probation"] if probation else [])]


def _named(places: Mapping[str, object]) -> str:
    more = len(places) - MAX_NAMED_PLACES
    return ", ".join(map(_short, list(places)[:MAX_NAMED_PLACES])) + (f" and {more} more" if more > 0 else "")


def _short(text: object) -> str:
    return one_line(str(text), _MAX_NAME_CHARS)
