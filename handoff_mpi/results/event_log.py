"""``events.jsonl``: what happened in a run besides its calls, written by rank 0 as it happens.

Each line is a JSON object. Calls that end are not in it: the journal has them. Lines are appended once a turn of the
scheduler, so that a run that is killed leaves all that it knew.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Hashable
from typing import Protocol

from handoff_mpi.console import print_message
from handoff_mpi.errors import UntrustedFile, UsageError
from handoff_mpi.formatting import id_text, one_line
from handoff_mpi.results.secure_files import Directory
from handoff_mpi.results.usage_samples import EVENTS_FILE

#: Every event that the file may have, and its fields besides ``event``, ``time_s`` and ``launch``.
EVENT_FIELDS: dict[str, tuple[str, ...]] = {
    "run.start": ("run", "dag_id", "functions", "restored", "ranks", "hosts", "host", "pid", "resume"),
    "run.stopping": ("reason",),
    "run.not_written": ("reason",),
    "run.stop": ("status", "exit_code", "duration_s", "done", "failed", "skipped", "waiting", "retries", "reason"),
    "function.retry": ("id", "name", "rank", "host", "attempt", "kind", "reason", "place", "delay_s"),
    "function.failed": ("id", "name", "rank", "host", "attempt", "kind", "reason", "place", "traceback"),
    "function.skipped": ("id", "name", "reason"),
    "function.reassigned": ("id", "name", "rank", "host", "attempt", "reason"),
    "function.recomputed": ("id", "name", "rank", "host", "attempt", "reason"),
    "rank.joined": ("rank", "host", "capabilities"),
    "rank.suspect": ("rank", "host", "reason"),
    "rank.returned": ("rank", "host"),
    "rank.lost": ("rank", "host", "reason"),
    "rank.memory_high": ("rank", "host", "reason"),
    "rank.memory_normal": ("rank", "host", "reason"),
    "rank.probation_start": ("rank", "host", "reason"),
    "rank.probation_stop": ("rank", "host", "reason"),
    "host.probation_start": ("host", "ranks", "reason"),
    "host.probation_stop": ("host", "ranks", "reason"),
    "device.withdrawn": ("host", "device", "reason"),
    "host.usage": ("host", "cores", "cpu_percent", "memory_used_mb", "gpus", "gpu_percent"),
    "resource.refused": ("id", "name", "rank", "host", "amounts", "reason"),
    "resource.updated": ("rank", "host", "amounts"),
    "events.omitted": ("of", "like", "count"),
    "events.full": ("limit_nbytes",),
}
#: Lines about single functions or calls.
OF_FUNCTIONS = tuple(name for name in EVENT_FIELDS if name.startswith(("function.", "resource.refused")))
#: The lines of a launch take this much at most; of it, samples of hosts' use may take a part.
MAX_NBYTES, MAX_USAGE_NBYTES = 64_000_000, 48_000_000
#: Lines that could not be written are kept until this much, and tried again with the next ones.
MAX_UNWRITTEN_CHARS = 256_000
#: Of equal events (of functions that failed alike, say) so many are written, and the count of the others.
MAX_ALIKE = 20
_MAX_KINDS = 10_000
_MAX_CHARS, _MAX_TRACEBACK_CHARS = 500, 8_000


class EventPort(Protocol):
    """Takes in the events of a run."""

    def add(self, event: str, time_s: float, like: Hashable = None, **fields: object) -> None:
        """Take in one of ``EVENT_FIELDS``.

        Args:
            event: its name.
            time_s: when it happened, in seconds since the epoch.
            like: what it has in common with equal events; None if it is the only one of its kind.
        """

    def flush(self) -> None:
        """Write what was taken in."""

    def close(self, time_s: float) -> None:
        """Write that, and how many equal events were left out; there are no more events after ``time_s``."""


class NoEvents:
    """Takes in events of a run that does not record them, see :class:`EventPort`."""

    def add(self, event: str, time_s: float, like: Hashable = None, **fields: object) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self, time_s: float) -> None:
        pass


class EventLog:
    """The file, see :class:`EventPort`. A failure to write is reported once, and does not hurt the run.

    Args:
        run_dir: where it is.
        launch: the launch of which it tells.
        has_functions: whether it has lines about single functions.
    """

    def __init__(self, run_dir: Directory, launch: int, has_functions: bool = True) -> None:
        self._launch = launch
        self._has_functions = has_functions
        self._lines: list[str] = []
        self._unwritten = ""
        self._lock = threading.Lock()  # a thread adds samples of the host's use
        self._alike: Counter[tuple[str, Hashable]] = Counter()
        self._nbytes = 0
        self._is_full = self._has_complained = False
        self._fd = -1
        self._run_dir = run_dir

    def add(self, event: str, time_s: float, like: Hashable = None, **fields: object) -> None:
        with self._lock:
            self._add(event, time_s, like, fields)

    def _add(self, event: str, time_s: float, like: Hashable, fields: dict[str, object]) -> None:
        if self._is_full or (event in OF_FUNCTIONS and not self._has_functions):
            return
        if like is not None and self._is_one_of_many(event, like):
            return
        if event == "host.usage" and self._nbytes > MAX_USAGE_NBYTES:
            return
        told = {"event": event, "time_s": round(time_s, 3), "launch": self._launch}
        line = json.dumps({**told, **{name: _plain(name, value) for name, value in fields.items()}}) + "\n"
        self._nbytes += len(line)
        if self._nbytes > MAX_NBYTES:
            self._is_full = True
            line = json.dumps({**told, "event": "events.full", "limit_nbytes": MAX_NBYTES}) + "\n"
        self._lines.append(line)

    def _is_one_of_many(self, event: str, like: Hashable) -> bool:
        key = event, like
        if key not in self._alike and len(self._alike) >= _MAX_KINDS:
            key = event, ""
        self._alike[key] += 1
        return self._alike[key] > MAX_ALIKE

    def flush(self) -> None:
        if not self._lines:
            return
        with self._lock:
            text, self._lines = self._unwritten + "".join(self._lines), []
            self._unwritten = ""
            self._write(text)

    def _write(self, text: str) -> None:
        try:
            if self._fd < 0:
                self._fd = _open(self._run_dir)
            _write(self._fd, text.encode())
        except (OSError, UntrustedFile) as error:
            self._unwritten = text if len(text) <= MAX_UNWRITTEN_CHARS else ""
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        if not self._has_complained:
            self._has_complained = True
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            print_message(f"{self._run_dir.path / EVENTS_FILE} cannot be written: {why}; the run continues")

    def close(self, time_s: float) -> None:
        for (event, like), count in self._alike.items():
            if count > MAX_ALIKE:
                self._lines.append(self._omitted(time_s, event, like, count - MAX_ALIKE))
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _omitted(self, time_s: float, event: str, like: Hashable, count: int) -> str:
        told = {"event": "events.omitted", "time_s": round(time_s, 3), "launch": self._launch}
        return json.dumps({**told, "of": event, "like": _plain("like", like), "count": count}) + "\n"


def clear_events(run_dir: Directory) -> None:
    """Remove the events of earlier launches.

    Raises:
        UsageError: the file cannot be removed.
    """
    try:
        run_dir.remove(EVENTS_FILE)
    except OSError as error:
        path = run_dir.path / EVENTS_FILE
        raise UsageError(f"cannot remove {path}: {error.strerror}; remove it, or use another --run-dir") from error


def _open(run_dir: Directory) -> int:
    """Open the file at its end; a line that an earlier launch did not finish is ended."""
    fd = run_dir.open_or_create(EVENTS_FILE)
    try:
        end = os.lseek(fd, 0, os.SEEK_END)
        if end and os.pread(fd, 1, end - 1) != b"\n":
            _write(fd, b"\n")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _write(fd: int, content: bytes) -> None:
    """Write all of it, or nothing: half a line would spoil the next one."""
    begin = os.lseek(fd, 0, os.SEEK_END)
    rest = memoryview(content)
    try:
        while rest:
            rest = rest[os.write(fd, rest) :]
    except OSError:
        os.ftruncate(fd, begin)
        raise


def _plain(name: str, value: object) -> object:
    """Return ``value`` as JSON has it: text of a user's is short and without control characters, but for tracebacks."""
    if name == "id":
        return one_line(id_text(value), _MAX_CHARS)
    if isinstance(value, str):
        return value[-_MAX_TRACEBACK_CHARS:] if name == "traceback" else one_line(value, _MAX_CHARS)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, dict):
        return {one_line(str(key), _MAX_CHARS): _plain("", each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain("", each) for each in value]
    return one_line(str(value), _MAX_CHARS)
