"""What is said to people, on stderr. Whoever reads it may have left (``| head``): that must end no run."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Say a line, if anybody listens."""
    tell(f"handoff: {text}")


def tell(text: str) -> None:
    """Say ``text`` as it is, if anybody listens."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        pass  # nobody does, or a function has put something else there
