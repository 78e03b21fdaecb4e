"""What is said to people, on stderr. Whoever reads it may have left (``| head``): that must end no run."""

from __future__ import annotations

import sys
from typing import Any

from handoff_mpi.formatting import without_controls

_MAX_REMEMBERED = 1000
_said: set[str] = set()
#: Where messages go while ``sys.stderr`` takes what functions print; None means ``sys.stderr``.
stream: Any = None


def print_message_once(text: str) -> None:
    """Say a line, unless this process has said it before: a script may have a thousand runs."""
    if text not in _said and len(_said) < _MAX_REMEMBERED:
        _said.add(text)
        print_message(text)


def print_message(text: str) -> None:
    """Say a line, if anybody listens."""
    print_stderr(f"handoff: {text}")


def print_stderr(text: str) -> None:
    """Print ``text`` if anybody reads it; control characters, which names and messages may hold, are escaped."""
    try:
        print(without_controls(text), file=stream or sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        pass  # nobody does, or a function has put something else there
