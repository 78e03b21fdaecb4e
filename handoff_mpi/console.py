"""Prints messages to stderr. Its reader may have closed the pipe (``| head``), which must not end a run."""

from __future__ import annotations

import sys
from typing import Any

from handoff_mpi.formatting import without_controls
from handoff_mpi.process_context import this_process

_MAX_REMEMBERED = 1000
#: Where messages go while ``sys.stderr`` takes what functions print; None means ``sys.stderr``.
stream: Any = None


class PrintedMessages:
    """The messages that this process prints once; a part of the process context."""

    def __init__(self) -> None:
        self._texts: set[str] = set()

    def add(self, text: str) -> bool:
        """Add a message; return whether it is new, which none is once there are very many."""
        is_new = text not in self._texts and len(self._texts) < _MAX_REMEMBERED
        if is_new:
            self._texts.add(text)
        return is_new


def print_message_once(text: str) -> None:
    """Print a message, unless this process has printed it before: a script may start a thousand runs."""
    if this_process.of(PrintedMessages).add(text):
        print_message(text)


def print_message(text: str) -> None:
    """Print a message with the prefix ``handoff:``."""
    print_stderr(f"handoff: {text}")


def print_stderr(text: str) -> None:
    """Print ``text`` if stderr is open; escape control characters, which names and messages may contain."""
    try:
        print(without_controls(text), file=stream or sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        pass  # the reader has closed the pipe, or a function has replaced sys.stderr
