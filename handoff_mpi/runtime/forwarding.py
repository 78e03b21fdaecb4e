"""Prints what functions of a rank have printed into its files: line by line, with whose line it is, or as it is."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from handoff_mpi.results.output_files import Printed
from handoff_mpi.results.output_follow import Follower, LinePrefixer
from handoff_mpi.worker.descriptors import duplicate
from handoff_mpi.worker.output import CallOutput
from handoff_mpi.worker.output_index import OutputFiles

#: Seconds between two looks at the files.
FORWARD_INTERVAL_S = 0.1
#: At the end of a run somebody who reads slowly is given this long.
LAST_READ_TIMEOUT_S = 2.0
_PART_NBYTES = select.PIPE_BUF


class Forwarder(threading.Thread):
    """Looks at the files of a rank again and again, and prints what is new.

    Args:
        rank: its own.
        has_prefix: whether lines get a prefix.
        has_rank: whether the rank is in it: other ranks print to the same place.
    """

    def __init__(self, rank: int, has_prefix: bool, has_rank: bool) -> None:
        super().__init__(name="handoff-forward", daemon=True)
        self._rank = rank
        self._has_rank = has_rank
        self._prefixer = LinePrefixer(has_rank) if has_prefix else None
        self._followers: list[_Followed] = []
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._target = _target()
        self._is_open = True

    def add(self, name: str, files: OutputFiles, capture: CallOutput | None = None) -> None:
        """Follow a file from its end on.

        Args:
            name: of the file, without ``.out``.
            files: to be read.
            capture: what writes it in this process, and calls :meth:`look` again and again; None if another process
                writes it: a thread looks then.
        """
        begin = os.fstat(files.out).st_size
        follower = Follower(name, files.out, files.index, begin, shows_prompts=not self._has_rank)
        with self._lock:
            self._followers.append(_Followed(follower, capture))
        if capture is None and not self.is_alive():
            self.start()

    def run(self) -> None:
        while not self._is_over.wait(FORWARD_INTERVAL_S):
            self.look()

    def look(self) -> None:
        """Print what is new; worth a call ten times a second."""
        with self._lock:
            self._look(is_last=False, until=0.0)

    def close(self) -> None:
        """Print the rest."""
        self._is_over.set()
        with self._lock:
            self._look(is_last=True, until=time.monotonic() + LAST_READ_TIMEOUT_S)
            if self._prefixer is not None:
                self._write(self._prefixer.end_line().encode(), time.monotonic() + LAST_READ_TIMEOUT_S)
            self._is_open = False
            self._target.close()

    def _look(self, is_last: bool, until: float) -> None:
        for each in self._followers if self._is_open else ():
            if (is_last or each.has_news()) and self._target.may_write(until):
                each.is_seen()
                self._write(self._new(each.follower, is_last), until)

    def _new(self, follower: Follower, is_last: bool) -> bytes:
        try:
            return b"".join(self._shown(*each) for each in follower.look(is_last))
        except OSError:
            return b""  # a file system that does not answer

    def _shown(self, printed: Printed | None, part: bytes) -> bytes:
        return part if self._prefixer is None else self._prefixer.lines(self._rank, printed, part).encode()

    def _write(self, text: bytes, until: float) -> None:
        try:
            self._target.write(text, until)
        except (OSError, ValueError):
            self._is_open = False  # nobody reads it any more


@dataclass(slots=True)
class _Followed:
    """A file, and what writes it if that is in this process."""

    follower: Follower
    capture: CallOutput | None
    _seen: tuple[int, int] = (0, 0)
    _now: tuple[int, int] = (0, 0)

    def has_news(self) -> bool:
        """Whether there may be something new; asks no file system where it is known."""
        self._now = self._seen if self.capture is None else self.capture.news
        return self.capture is None or self._now != self._seen or self.follower.holds_back

    def is_seen(self) -> None:
        """The new text was shown."""
        self._seen = self._now


class _Descriptor:
    """Stdout, by a copy of its descriptor; its reader may be slow, and must not hold this rank for ever."""

    def __init__(self) -> None:
        self._fd = duplicate(1)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLOUT)

    def may_write(self, until: float) -> bool:
        return bool(self._poll.poll(1000 * max(0.0, until - time.monotonic())))

    def write(self, text: bytes, until: float) -> None:
        """Write ``text``: all of it, as what was begun must be ended, unless ``until`` has passed."""
        for at in range(0, len(text), _PART_NBYTES):
            while not self._poll.poll(1000):
                if until and time.monotonic() > until:
                    return
            part = text[at : at + _PART_NBYTES]
            while part:
                part = part[os.write(self._fd, part) :]

    def close(self) -> None:
        os.close(self._fd)


class _Object:
    """Stdout, where it is an object without a descriptor of its own, as in a notebook."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def may_write(self, until: float) -> bool:
        return True

    def write(self, text: bytes, until: float) -> None:
        self._stream.write(text.decode(errors="replace"))
        self._stream.flush()

    def close(self) -> None:
        pass


def _target() -> _Descriptor | _Object:
    try:
        is_descriptor = sys.stdout is None or sys.stdout.fileno() == 1
    except (OSError, ValueError, AttributeError):
        is_descriptor = False
    return _Descriptor() if is_descriptor else _Object(sys.stdout)
