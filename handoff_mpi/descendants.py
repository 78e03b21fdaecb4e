"""Finds and ends the processes that the functions of a rank, or of a child process, have left running.

A process that was left running keeps the pipes of the rank open, and a launcher waits until they are closed. Each is
asked to end (TERM) before it is killed. A resource tracker (of :mod:`multiprocessing` or of joblib's loky) removes the
shared memory, semaphores and folders of its processes once these have ended: it is neither asked nor killed, it gets
the time to do so.

Without ``/proc`` this module finds no processes.

A process that has left the tree (it was forked twice, say, and began a session) is found by what it inherited: a
program by a variable, a forked process that has executed no program by an open descriptor, since the kernel shows the
variables with which a program began, and these are older than the fork.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from handoff_mpi.process_context import this_process

#: Processes get this long to end after TERM, and this long after KILL.
TERMINATE_TIMEOUT_S = 1.5
KILL_TIMEOUT_S = 0.5
#: A resource tracker gets this long to remove what its processes have left.
TRACKER_TIMEOUT_S = 2.0
#: The variable that every program a rank starts inherits, also one that has left the rank's process tree.
MARK = "HANDOFF_STARTED_BY"

_PROC = Path("/proc")
_DESCENDANTS_POLL_INTERVAL_S = 0.01
_EXECUTION_TIMEOUT_S = 0.1
# Of the programs that multiprocessing and loky start: python -c "from ...resource_tracker import main; main(fd)".
_TRACKER = b"resource_tracker import main"
_DEAD = frozenset("ZX")


@dataclass(frozen=True, slots=True)
class Process:
    """A process as ``/proc/PID/stat`` shows it.

    Attributes:
        state: the state letter; Z for a process that has ended and was not reaped.
        born: when it started, in the kernel's ticks: with the pid this names one process, as pids are reused.
    """

    pid: int
    state: str
    parent: int
    group: int
    born: int

    def has_mark(self, mark: bytes) -> bool:
        """Return whether its program was started with the variable ``MARK`` that holds ``mark``."""
        return mark in _read(self.pid, "environ").split(b"\0")

    def has_descriptor(self, link: str) -> bool:
        """Return whether one of its descriptors shows as ``link``: it was forked from the process that opened it."""
        return any(each == link for _, each in _links(self.pid))

    @property
    def is_tracker(self) -> bool:
        """Whether it is a resource tracker.

        A process that is just executing its program has no command line for a moment.
        """
        _until(_EXECUTION_TIMEOUT_S, lambda: bool(_read(self.pid, "cmdline")) or not self._lives())
        return _TRACKER in _read(self.pid, "cmdline")

    def _lives(self) -> bool:
        found = _process(self.pid)
        return found is not None and found.born == self.born and found.state not in _DEAD

    def signal(self, number: int) -> None:
        """Send this process a signal, unless it has ended."""
        found = _process(self.pid)
        if found is None or found.born != self.born:
            return
        try:
            os.kill(self.pid, number)
        except OSError:
            pass  # it has ended meanwhile, or belongs to another user


def mark_descendants() -> None:
    """Mark this process, so that processes it starts or forks are found even after they leave the process tree."""
    own = _process(os.getpid())
    if own is None:
        return
    mark = f"{own.pid}-{own.born}"
    os.environ[MARK] = mark
    if _own_link(mark) not in {link for _, link in _links(own.pid)}:
        try:
            os.memfd_create(f"handoff-{mark}")  # stays open until this process ends; programs do not inherit it
        except (OSError, AttributeError):
            pass  # another system: forked processes that leave the tree are not found


@dataclass(slots=True)
class SparedChildren:
    """The child processes that end by themselves, and are not ended as descendants; a part of the process context.

    Attributes:
        pids: their numbers.
    """

    pids: set[int] = field(default_factory=set)


def spare(pid: int) -> None:
    """Exclude a child process from the descendants of this process: it ends by itself."""
    this_process.of(SparedChildren).pids.add(pid)


def end_descendants(left: Callable[[], list[Process]] | None = None) -> int:
    """End the processes that this one has left running; return how many there were.

    Takes at most ``TERMINATE_TIMEOUT_S + KILL_TIMEOUT_S + TRACKER_TIMEOUT_S`` seconds. Descendants are found again at
    each look, since a process that is asked to end may start another.

    Args:
        left: returns the processes to end; by default :func:`descendants`.
    """
    left = descendants if left is None else left
    asked: set[Process] = set()
    _until(TERMINATE_TIMEOUT_S, lambda: not _signal(left(), signal.SIGTERM, asked))
    killed: set[Process] = set()
    _until(KILL_TIMEOUT_S, lambda: not _signal(left(), signal.SIGKILL, killed))
    _let_trackers_end(left)
    return len(asked)


def kill_left_by(pid: int, born: int) -> None:
    """Kill the processes that a dead process left running: other ranks repeat its work, and must not be disturbed.

    Its children end with it, except one that was stopped before it could ask for that.

    Args:
        pid, born: of a process that had called :func:`mark_descendants`.
    """
    mark = f"{pid}-{born}"
    for process in _processes():
        if process.born >= born and process.pid != os.getpid() and _carries(process, mark) and not process.is_tracker:
            process.signal(signal.SIGKILL)


def kill_group(group: int) -> None:
    """Kill the processes of a group, resource trackers left out: these end by themselves once the others have."""
    trackers = [process for process in members(group) if process.is_tracker]
    if not trackers:
        try:
            os.killpg(group, signal.SIGKILL)
        except OSError:
            pass  # all have ended
        return
    spared = set(trackers)
    while doomed := [process for process in members(group) if process not in spared and not process.is_tracker]:
        for process in doomed:
            process.signal(signal.SIGKILL)
        spared.update(doomed)  # each once: one that hangs in the kernel ends when it can


def _signal(processes: Iterable[Process], number: int, told: set[Process]) -> bool:
    """Send each process the signal once; return whether one is alive that is not a resource tracker."""
    lives = False
    for process in processes:
        if process in told or not process.is_tracker:
            lives = True
            if process not in told:
                told.add(process)
                process.signal(number)
    return lives


def _let_trackers_end(left: Callable[[], list[Process]]) -> None:
    """A resource tracker begins to clean up once the last process that can write to its pipe has ended."""
    trackers = left()
    for tracker in trackers:
        _close_pipe_to(tracker)
    if trackers:
        _until(TRACKER_TIMEOUT_S, lambda: not left())
        for process in left():
            process.signal(signal.SIGKILL)


def _close_pipe_to(tracker: Process) -> None:
    """Close this process's ends of the pipes that ``tracker`` reads."""
    theirs = {link for fd, link in _pipes(tracker.pid) if fd > 2}
    for fd, link in _pipes(os.getpid()):
        if fd > 2 and link in theirs:
            try:
                os.close(fd)
            except OSError:
                pass


def _pipes(pid: int) -> Iterator[tuple[int, str]]:
    return ((fd, link) for fd, link in _links(pid) if link.startswith("pipe:"))


def _own_link(mark: str) -> str:
    """Return the link target of the descriptor that marks a process with ``mark``."""
    return f"/memfd:handoff-{mark} (deleted)"


def _links(pid: int) -> Iterator[tuple[int, str]]:
    """Yield the open descriptors of a process, and what each refers to."""
    try:
        descriptors = [*(_PROC / str(pid) / "fd").iterdir()]
    except OSError:
        return
    for descriptor in descriptors:
        try:
            link = str(descriptor.readlink())
        except OSError:
            continue
        yield int(descriptor.name), link


def _until(timeout_s: float, is_over: Callable[[], bool]) -> None:
    end = time.monotonic() + timeout_s
    while not is_over() and time.monotonic() < end:
        time.sleep(_DESCENDANTS_POLL_INTERVAL_S)


# -- looking -------------------------------------------------------------------------------------------


def descendants() -> list[Process]:
    """Return the living processes that this one has started, directly or not.

    A process whose parent has ended is found by what it inherited (see :func:`mark_descendants`), or by its process
    group where this process leads one, as the ranks of mpirun do.
    """
    spared = this_process.of(SparedChildren).pids
    table = {process.pid: process for process in _processes() if process.pid not in spared}
    own = table.pop(os.getpid(), None)
    if own is None:
        return []
    own_mark = f"{own.pid}-{own.born}"
    mark = own_mark if os.environ.get(MARK) == own_mark else ""
    children: dict[int, list[Process]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process)
    found: dict[int, Process] = {}
    wave = [*children.get(own.pid, ())]
    wave += [each for each in table.values() if _has_left_tree(each, table.get(each.parent), own, mark)]
    while wave:
        process = wave.pop()
        if process.pid not in found:
            found[process.pid] = process
            wave += children.get(process.pid, ())
    return [process for process in found.values() if process.state not in _DEAD]


def _has_left_tree(process: Process, parent: Process | None, own: Process, mark: str) -> bool:
    """Whether ``own`` has started a process, directly or not, though its parent is another one by now."""
    if process.born < own.born:
        return False
    # A shell's pipeline is a group too: there the parent is the shell, or in the group as well.
    is_orphan = process.parent != own.parent and (parent is None or parent.group != own.pid)
    is_of_group = is_orphan and own.pid == own.group == process.group
    if is_of_group or not mark:
        return is_of_group
    return _carries(process, mark)


def _carries(process: Process, mark: str) -> bool:
    return process.has_mark(f"{MARK}={mark}".encode()) or process.has_descriptor(_own_link(mark))


def members(group: int) -> list[Process]:
    """Return the living processes of a process group."""
    return [process for process in _processes() if process.group == group and process.state not in _DEAD]


def _processes() -> Iterator[Process]:
    try:
        names = [entry.name for entry in _PROC.iterdir()]
    except OSError:
        return
    for name in names:
        if name.isdecimal() and (process := _process(int(name))) is not None:
            yield process


def _process(pid: int) -> Process | None:
    fields = _read(pid, "stat").rpartition(b")")[2].split()  # the name before it may hold anything
    if len(fields) < 20:
        return None
    return Process(pid, fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[19]))


def _read(pid: int, name: str) -> bytes:
    try:
        return (_PROC / str(pid) / name).read_bytes()
    except OSError:
        return b""
