"""Captures the output of functions in a process in one file, and attributes it to the call that was running.

While calls run, descriptors 1 and 2 point at the file, so that native code, programs and forked processes write there
too, and ``sys.stdout`` and ``sys.stderr`` are streams that note when they are written to. A pipe would need a thread
that reads it, and native code that prints while it holds the interpreter would wait for that thread for ever.

An index beside the file says which attempt printed what: see :mod:`~handoff_mpi.worker.output_index`.

A short call takes two microseconds, and a look at the file would take a tenth of that. Calls of a function are looked
at until some have printed nothing; from then on short ones are trusted to print by Python's streams, which note it, or
not at all. The first time that one prints otherwise is found at the end of the burst of calls that it was in, and
attributed to the last of them; from then on all calls are looked at.

The file is in append mode, so that the position of the descriptor does not matter to who writes, and a write moves it.
It is put to an odd place between calls: where it is found there, nobody has written, and descriptor 1 is still what it
should be; the file system need not be asked.
"""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

from handoff_mpi import console
from handoff_mpi.console import print_message
from handoff_mpi.worker.call_spec import CallSpec, Outcome
from handoff_mpi.worker.descriptors import (
    STDERR,
    STDOUT,
    buffer_lines,
    duplicate,
    flush_all,
    flush_c,
    flush_streams,
    is_same_file,
    position_of,
    size_of,
)
from handoff_mpi.worker.output_index import (
    MAX_ATTEMPT_NBYTES,
    MAX_LATE_NBYTES,
    Attempt,
    OutputFiles,
    append_entry,
    make_entry,
    not_captured,
    read_tail,
)
from handoff_mpi.worker.output_stream import OutputStream
from handoff_mpi.worker.output_watch import MIN_FREE_NBYTES, OutputWatch

#: Calls of a function that have printed nothing before its short ones are trusted.
MIN_QUIET_CALLS = 8
_NEAR_NBYTES = 4096
_MAX_REREADS = 2
#: The file position between calls: a size that no output file reaches, so a changed position shows a write.
_UNTOUCHED = 0x7FF0_0DD1


class CallOutput:
    """Captures what calls in this process print, one call at a time.

    Args:
        open_files: opens the files, when the first call begins.
        stays: whether descriptors stay as they are between calls, in a process that does nothing but calls; else what
            runs between them prints where it always did.
        after_look: called by the thread that watches after each of its looks.

    Attributes:
        spec: the call, or the element of an array, that runs, or ran last.
        on_print: called when Python's streams are written to for the first time since the last look; None in a call
            whose end tells.
        has_printed: whether Python's streams were written to since the last look.
        quiet: codes of functions whose short calls are trusted.
        news: changes when something new is in the file.
    """

    def __init__(
        self, open_files: Callable[[], OutputFiles], stays: bool, after_look: Callable[[], object] = lambda: None
    ) -> None:
        self.spec: Attempt | None = None
        self.on_print: Callable[[], object] | None = None
        self.has_printed = False
        self.quiet: set[tuple[int, ...]] = set()
        self._quiet_calls: dict[tuple[int, ...], int] = {}
        self._trusts = True
        self.news = (0, 0)
        self._looked_at = 0
        self._open_files = open_files
        self.after_look = after_look
        self._stays = stays
        self._is_closed = self._is_redirected = self._is_preparing = False
        self._files: OutputFiles | None = None
        self._pid = os.getpid()
        self._lock = threading.Lock()  # between the thread that calls and the one that watches
        self._end = 0
        self._dropped = self._marker = 0
        self._has_begun_to_print = False
        self._saved: tuple[int, int] = (-1, -1)
        self._nowhere = -1  # once output is dropped
        self._outer: tuple[Any, ...] = (None, None, None)
        self._streams: tuple[OutputStream, ...] = ()
        self._messages: TextIO | None = None
        self._watch: OutputWatch | None = None

    @property
    def outer_descriptors(self) -> tuple[int, int]:
        """Copies of the descriptors of stdout and stderr as they were before."""
        return self._saved

    # -- before and after calls -----------------------------------------------------------------------

    def enter(self) -> None:
        """Calls begin."""
        if self._is_closed:
            return
        if self._files is None and self._nowhere < 0 and not self._open():
            return
        if not self._is_redirected:
            self._redirect()
        elif (self.has_printed or position_of() != _UNTOUCHED) and not self._is_preparing:
            self._skip()
        self._is_preparing = False

    def leave(self) -> None:
        """No call follows for now."""
        if self._is_redirected:
            if self.has_printed or position_of() != _UNTOUCHED:
                self._attribute_late()
            self.spec = None
            if not self._stays:
                self._restore()

    def prepare(self) -> None:
        """Code of the next call is loaded now: what it prints as it is imported belongs to the call."""
        self.enter()
        self._is_preparing = True

    def close(self) -> None:
        """Print where it was printed before, from now on."""
        self._is_closed = True
        if self._watch is not None:
            self._watch.close()
        if self._is_redirected:
            flush_all()
            self._restore()
        for each in (*self._saved, self._nowhere):
            if each >= 0:
                os.close(each)
        self._saved, self._nowhere = (-1, -1), -1
        with self._lock:
            self._files = None

    def leave_for_good(self) -> None:
        """Print where it was printed before, from any thread, though a call may run."""
        self._is_closed = True
        self._restore()

    def _open(self) -> bool:
        """Open the files; return whether that was possible."""
        try:
            files = self._open_files()
            self._saved = (duplicate(STDOUT), duplicate(STDERR))
        except OSError as error:
            self._is_closed = True
            print_message(not_captured(error))
            return False
        self._end = size_of(files.out)
        if self._end:
            append_entry(files.index, json.dumps({"launch": files.launch, "offset": self._end}))
        self._files = files
        self._watch = OutputWatch(self)
        self._watch.start()
        return True

    def _redirect(self) -> None:
        self._outer = sys.stdout, sys.stderr, console.stream
        flush_streams(sys.stdout, sys.stderr)
        self._point_at_file()
        if not self._streams:
            self._streams = OutputStream(STDOUT, self), OutputStream(STDERR, self)
            buffer_lines()
            self._messages = console.stream or self._make_messages()
            os.lseek(STDOUT, _UNTOUCHED, os.SEEK_SET)
        sys.stdout, sys.stderr = self._streams
        self._is_redirected = True
        _redirected.append(self)
        console.stream = self._messages

    def _point_at_file(self) -> None:
        target = self._nowhere if self._files is None else self._files.out
        for descriptor in (STDOUT, STDERR):
            os.dup2(target, descriptor)

    def _make_messages(self) -> Any:
        """Return the stream for messages of this package: the old stderr."""
        try:
            if self._outer[1].fileno() != STDERR:
                return self._outer[1]  # of a notebook, say
        except (OSError, ValueError, AttributeError):
            pass
        raw = io.FileIO(self._saved[1], "w", closefd=False)
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)

    def _restore(self) -> None:
        flush_streams(sys.stdout, sys.stderr)
        for saved, descriptor in zip(self._saved, (STDOUT, STDERR), strict=True):
            os.dup2(saved, descriptor)
        sys.stdout, sys.stderr, console.stream = self._outer
        self._is_redirected = False
        _redirected.remove(self)

    def _skip(self) -> None:
        """Something was printed between calls: it belongs to none."""
        with self._lock:
            if self._files is not None:
                self._settle(size_of(self._files.out))

    def _settle(self, size: int) -> None:
        """The content of the file so far has been handled."""
        self._end = size
        if self._files is not None:
            os.lseek(self._files.out, _UNTOUCHED, os.SEEK_SET)
        self._dropped = self._marker = 0
        self._has_begun_to_print = self.has_printed = False

    def _attribute_late(self) -> None:
        """Attribute what was printed after the last look: by a thread of the last call, or a short one of the burst."""
        if not self.has_printed:
            self._trust_none()
        if self.spec is not None:
            self._note(self.spec)

    def _trust_none(self) -> None:
        """A function prints without Python's streams: look at all calls from now on."""
        self._trusts = False
        self.quiet.clear()

    # -- a call ---------------------------------------------------------------------------------------

    def begin_to_print(self) -> None:
        """Python's streams are about to be written to: write into the index which call that is, as it may be killed."""
        self.has_printed = True
        if self.on_print is not None:
            self.on_print()
        if os.getpid() == self._pid:  # a forked process may have a lock that another thread holds for ever
            with self._lock:
                self._tell_begun()

    def _tell_begun(self) -> None:
        files, spec = self._files, self.spec
        if files is not None and spec is not None and not self._has_begun_to_print:
            self._has_begun_to_print = True
            self.news = (self.news[0] + 1, 0)
            append_entry(files.index, make_entry(spec, files.launch, self._end))

    def call_ended(self, spec: CallSpec, outcome: Outcome | None) -> None:
        """Look what a call has printed; an error takes the last lines with it."""
        if self._files is None or os.getpid() != self._pid:
            return
        self._flush_call()
        if self.has_printed or position_of() != _UNTOUCHED:
            if not self.has_printed:
                self._trust_none()
            tail = self._note(spec, outcome is not None and outcome.error is not None)
            if tail and outcome is not None and outcome.error is not None:
                outcome.error = outcome.error._replace(output=tail)
        else:
            self._was_quiet(spec.call_template[0])
            if position_of(STDERR) != _UNTOUCHED:
                self._repair_descriptors()

    def element_ended(self, wants_tail: bool = False) -> str:
        """Attribute what the running element of an array has printed; return the last lines if they are wanted."""
        if self.spec is None or self._files is None or os.getpid() != self._pid:
            return ""
        self._flush_call()
        if self.has_printed or position_of() != _UNTOUCHED:
            return self._note(self.spec, wants_tail)
        return ""

    def _was_quiet(self, codes: tuple[int, ...]) -> None:
        calls = self._quiet_calls[codes] = self._quiet_calls.get(codes, 0) + 1
        if calls >= MIN_QUIET_CALLS and self._trusts:
            self.quiet.add(codes)

    def _flush_call(self) -> None:
        """Write out what the call has left in buffers, and repair what it has put in the place of the streams."""
        out, err = self._streams
        flush_c()
        if sys.stdout is not out or sys.stderr is not err or out.closed or err.closed:
            flush_streams(sys.stdout, sys.stderr)
            self._repair_streams()
        for stream in self._streams:
            stream.flush()

    def _repair_streams(self) -> None:
        self._streams = tuple(
            OutputStream(descriptor, self) if stream.closed else stream
            for stream, descriptor in zip(self._streams, (STDOUT, STDERR), strict=True)
        )
        sys.stdout, sys.stderr = self._streams
        self._trust_none()  # or a short call of a function that does this would hide what the next one prints

    def _repair_descriptors(self) -> None:
        files = self._files
        if files is None:
            return
        for descriptor in (STDOUT, STDERR):
            if not is_same_file(descriptor, files.out):
                os.dup2(files.out, descriptor)
                self._trust_none()

    def _note(self, spec: Attempt, wants_tail: bool = False) -> str:
        """Write into the index what a call has printed; return the last lines if they are wanted."""
        tail = ""
        with self._lock:
            files = self._files
            if files is None:
                return ""
            size = size_of(files.out)
            if not position_of() == position_of(STDERR) == size:
                self._repair_descriptors()
            size = self._bounded(files, size)
            nbytes = size - self._end
            if nbytes or self._dropped or self._has_begun_to_print:
                self.news = (self.news[0] + 1, 0)
                append_entry(files.index, make_entry(spec, files.launch, self._end, nbytes, self._dropped))
                tail = read_tail(files.out, self._end, nbytes) if wants_tail and nbytes else ""
            self._settle(size)
        return tail

    def _bounded(self, files: OutputFiles, size: int) -> int:
        """Drop what the call has printed too much; return the size of the file then."""
        self._end = min(self._end, size)  # a program may have emptied the file: `echo > /dev/stdout` does
        return self._drop_middle(files, size) if size - self._end > self._most(files) else size

    def _most(self, files: OutputFiles) -> int:
        """Return how many bytes of the running call are kept."""
        if self._end < files.max_nbytes:
            return MAX_ATTEMPT_NBYTES
        return MAX_LATE_NBYTES if self._end < 2 * files.max_nbytes else 0

    def _drop_middle(self, files: OutputFiles, size: int) -> int:
        """Drop the middle of what the running call has printed; return the size of the file then."""
        try:
            self._cut(files, size)
        except OSError:
            pass  # a full disk, or a file system that does not answer: what is there is kept
        return size_of(files.out)

    def _cut(self, files: OutputFiles, size: int) -> None:
        half = self._most(files) // 2
        head_end = self._end + _whole_lines(os.pread(files.out, half, self._end), half)
        tail = os.pread(files.out, half, size - half)
        for _ in range(_MAX_REREADS):  # what is written meanwhile, and not seen, is not counted
            grown = size_of(files.out)
            tail += os.pread(files.out, half, max(size, grown - half))
            tail, size = tail[max(0, len(tail) - half) :], grown
        tail = tail[tail.find(b"\n", 0, _NEAR_NBYTES) + 1 :]
        self._dropped += size - len(tail) - head_end - self._marker
        os.ftruncate(files.out, head_end)
        marker = f"[... {self._dropped:,} bytes dropped ...]\n".encode() if half else b""
        self._marker = len(marker)
        os.write(files.out, marker + tail)

    def give_up(self, why: str) -> None:
        """There is no room for output: what is printed from now on goes nowhere."""
        if self._nowhere >= 0 or self._is_closed:
            return
        self._nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        self._files = None
        if self._is_redirected:
            self._point_at_file()
        print_message(f"process {os.getpid()} drops the output of functions from now on: {why}; free space there")

    # -- by the thread that watches -------------------------------------------------------------------

    def look(self) -> int:
        """Bound what the running call prints, if that ran at the last look already; return the size of the file.

        This thread and the one that calls have one interpreter between them, and each question to the file system makes
        them take turns. Short calls bound themselves as they end.
        """
        running, self._looked_at = self._looked_at, id(self.spec)
        if self.spec is None or self._looked_at != running:
            return self.news[1]
        with self._lock:
            files = self._files
            if files is None or self._is_closed:
                return 0
            size = size_of(files.out)
            self.news = (self.news[0], size)
            if size > self._end and self._is_redirected:
                self._tell_begun()
            if size - self._end > 2 * max(self._most(files), MAX_LATE_NBYTES):
                size = self._drop_middle(files, size)
            return size

    def free_nbytes(self) -> int:
        """Return how many bytes the file system has left."""
        files = self._files
        if files is None:
            return MIN_FREE_NBYTES
        about = os.fstatvfs(files.out)
        return about.f_bavail * about.f_frsize if about.f_blocks else MIN_FREE_NBYTES  # which memory does not tell


def _whole_lines(text: bytes, most: int) -> int:
    """Return where the last line of ``text`` ends near ``most``."""
    at = text.rfind(b"\n", max(0, most - _NEAR_NBYTES), most)
    return at + 1 if at >= 0 else most


#: The active captures of this process, the innermost last.
_redirected: list[CallOutput] = []


def restore_output() -> None:
    """This process is about to end: what it says of that, and what MPI does, goes where it always did."""
    for each in reversed([*_redirected]):
        each.leave_for_good()


def descriptors_between_calls() -> tuple[int, int]:
    """Return the descriptors of stdout and stderr of this process, also during a capture."""
    return _redirected[0].outer_descriptors if _redirected else (STDOUT, STDERR)
