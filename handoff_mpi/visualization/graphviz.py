"""Graphviz's own program ``dot``, which makes pictures; it gets a bounded time."""

from __future__ import annotations

import shutil

from handoff_mpi.errors import UsageError
from handoff_mpi.formatting import one_line
from handoff_mpi.programs import run_program

#: Laying out the largest drawing takes some seconds.
DOT_TIMEOUT_S = 120.0
_INSTALL = "install graphviz (apt install graphviz, dnf install graphviz, conda install graphviz)"


def picture(dot_text: str, kind: str, timeout_s: float = DOT_TIMEOUT_S) -> bytes:
    """Return a graph as a picture.

    Args:
        dot_text: the graph, in Graphviz's language.
        kind: "svg" or "png".
        timeout_s: how long ``dot`` may take, in seconds.

    Raises:
        UsageError: there is no ``dot``, it failed, or it took too long.
    """
    program = shutil.which("dot")
    if program is None:
        raise UsageError(f"the program dot, which draws {kind.upper()}, is missing: {_INSTALL}, or use --format text")
    try:
        ended = run_program([program, f"-T{kind}"], timeout_s, given=dot_text.encode())
    except TimeoutError:
        why = f"dot took more than {timeout_s:g} s; give a smaller --max-functions"
        raise UsageError(f"{why}, or use --format dot and another of Graphviz's programs") from None
    except OSError as error:
        raise UsageError(f"{program} cannot be run: {error.strerror}; {_INSTALL}") from error
    if ended.returncode or not ended.stdout:
        lines = ended.err.strip().splitlines() or [f"it ended with {ended.returncode}"]
        raise UsageError(f"{program} has failed: {one_line(lines[0], 200)}; {_INSTALL}, or use --format dot")
    return ended.stdout
