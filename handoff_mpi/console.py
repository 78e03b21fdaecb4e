"""Prints messages to stderr. Its reader may have closed the pipe (``| head``), which must not end a run."""

from __future__ import annotations

import sys
from typing import Any

from handoff_mpi.formatting import without_controls

_MAX_REMEMBERED = 1000
_said: set[str] = set()
#: Where messages go while ``sys.stderr`` takes what functions print; None means ``sys.stderr``.
stream: Any = None


def print_message_once(text: str) -> None:
    """Print a message, unless this process has printed it before: a script may start a thousand runs."""
    if text not in _said and len(_said) < _MAX_REMEMBERED:
        _said.add(text)
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
