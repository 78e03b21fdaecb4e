"""Where a script calls what all its ranks call together, and whether the ranks are at the same call.

A rank that has failed before ``execute``, and whose script continues (a test under pytest, an ``except``), reaches the
*next* ``execute`` while the others wait in this one. Without a look at the callers it would serve a run that it was not
meant for, and every later call would be one off. So the ranks compare where they were called from before a run begins.

Two ranks are at the same call if their stacks of frames outside the installed packages are the same, or if one pass
through the code can reach only one of the two lines: ``if rank == 0: execute(dag)`` and its ``else``. Different
programs, as ``mpirun -n 1 a.py : -n 3 b.py`` starts them, cannot be compared, and neither can code without a file.
"""

from __future__ import annotations

import ast
import linecache
import os
import sys
import sysconfig
import zlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from handoff_mpi.errors import StartupError
from handoff_mpi.process_context import this_process

#: Set by pytest: the test that runs, and its phase in parentheses.
_TEST = "PYTEST_CURRENT_TEST"
#: The most places that a message names, and the most ranks for each.
_MAX_PLACES = 4
_MAX_NAMED = 8
_PACKAGE = str(Path(__file__).parent.parent) + os.sep
_INSTALLED = tuple(sysconfig.get_paths()[name] + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))
#: Names of functions that do not return.
_EXITS = frozenset({"exit", "quit", "_exit", "abort", "Abort"})


@dataclass(slots=True)
class Calls:
    """The collective calls of this process; a part of the process context.

    Attributes:
        test_position: the position of the test that runs among all tests of the session; pytest's plugin of this
            package sets it.
        have_differed: whether ranks have been at different calls, so that some may have left calls out.
        repeats: by set of ranks, the call before, and how many times in a row it was reached.
    """

    test_position: int | None = None
    have_differed: bool = False
    repeats: dict[Hashable, tuple[bytes, int]] = field(default_factory=dict)

    def count(self, group: Hashable, digest: bytes) -> int:
        """Note a call of ``group``; return how many times in a row it is reached by now."""
        before, count = self.repeats.get(group, (b"", 0))
        count = count + 1 if digest == before else 1
        self.repeats[group] = digest, count
        return count


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a stack.

    Attributes:
        path: the file.
        line: the line that is executed.
        function: the name of the function.
        first_line: where the function begins.
    """

    path: str
    line: int
    function: str
    first_line: int

    @property
    def key(self) -> tuple[str, int, str]:
        """Return the part that is the same on all ranks, though hosts may see the file in different directories."""
        return self.path.rpartition(os.sep)[2], self.line, self.function

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"

    @property
    def code(self) -> tuple[str, int, str]:
        """The function that is executed."""
        return self.path.rpartition(os.sep)[2], self.first_line, self.function


@dataclass(frozen=True, slots=True)
class CallSite:
    """One call of a collective function by one rank.

    Attributes:
        name: the function that was called, "execute" for one.
        frames: the stack, outermost first.
        test: the test that runs, under pytest; else empty.
        order: sorts tests as the session runs them.
        count: how many times in a row this place was reached.
    """

    name: str
    frames: tuple[Frame, ...]
    test: str = ""
    order: tuple[str, int] = ("", 0)
    count: int = 1

    @property
    def digest(self) -> bytes:
        """The same on ranks that are at the same call in the simplest sense."""
        return _digest((self.test, self.count, [frame.key for frame in self.frames]))

    def shown(self, depth: int) -> str:
        """Return what the rank did, in words; ``depth`` is the first frame that differs from those of other ranks."""
        if not self.frames:
            return f"came to {self.test}" if self.test else f"called {self.name}"
        words = [f"called {self.name} at {self.frames[-1]}"]
        if depth < len(self.frames) - 1:
            words.append(f"from {self.frames[depth]}")
        words.append(f"in {self.test}" if self.test else "")
        words.append(f"for the {_ordinal(self.count)} time in a row" if self.count > 1 else "")
        return " ".join(filter(None, words))


def here(group: Hashable = None) -> CallSite:
    """Return where a function of this package was called from.

    Args:
        group: the ranks that call it together, None for all: repeated calls are counted for each set of ranks.
    """
    name, frames = _stack(sys._getframe(1))
    test = os.environ.get(_TEST, "").rpartition(" (")[0]
    digest = _digest((test, [frame.key for frame in frames]))
    return CallSite(name, frames, test, _order(test, frames), this_process.of(Calls).count(group, digest))


#: The place of a rank whose script has come to its end, which is behind all others.
END = CallSite("finish", (), "the end of its script", ("\x7f", sys.maxsize))


def meet(site: CallSite, allgather: Callable[[object], list[Any]]) -> bool:
    """Return whether all ranks are at the same call; False for a rank that others are yet to come to.

    A rank that is at a later test than others waits: they get an error, and come to that test.

    Args:
        site: where this rank is.
        allgather: returns the value of every rank, by rank.

    Raises:
        StartupError: other ranks are at other calls.
    """
    if len(set(allgather(site.digest))) == 1:
        return True
    sites: list[CallSite] = allgather(site)
    if not any(are_different(sites[0], each) for each in sites[1:]):
        return True
    this_process.of(Calls).have_differed = True
    latest = max(each.order for each in sites)
    if site.order < latest or all(each.order == latest for each in sites):
        raise StartupError(_explain(sites))
    return False


def are_different(one: CallSite, other: CallSite) -> bool:
    """Whether two ranks are at different calls."""
    if one.test != other.test:
        return True
    depth = _common_depth(one.frames, other.frames)
    if len(one.frames) == depth == len(other.frames):
        return one.count != other.count
    if depth in (len(one.frames), len(other.frames)):
        return False  # one statement, which calls a function of the script on some ranks
    return not _are_alternatives(one.frames, other.frames, depth)


# -- the stack ----------------------------------------------------------------------------------------


def _stack(frame: FrameType | None) -> tuple[str, tuple[Frame, ...]]:
    """Return which function of this package was called, and the frames of the script that led to it."""
    name = "execute"
    script: list[Frame] = []
    others: list[Frame] = []
    while frame is not None:
        path = frame.f_code.co_filename
        if not path.startswith(_PACKAGE):
            (others if _is_installed(path) else script).append(_frame(frame))
        elif not script and not others:
            name = _public_name(frame)
        frame = frame.f_back
    return name, tuple(reversed(script or others))


def _is_installed(path: str) -> bool:
    return path.startswith(("<frozen ", *_INSTALLED))


def _frame(frame: FrameType) -> Frame:
    code = frame.f_code
    return Frame(code.co_filename, frame.f_lineno, code.co_name, code.co_firstlineno)


def _public_name(frame: FrameType) -> str:
    name = frame.f_code.co_name
    return type(frame.f_locals.get("self")).__name__ if name == "__init__" else name


def _order(test: str, frames: Sequence[Frame]) -> tuple[str, int]:
    """Return what sorts tests as they run: their position where it is known, else their file and line."""
    if not test:
        return "", 0
    position = this_process.of(Calls).test_position
    if position is not None:
        return "", position
    path = test.partition("::")[0]
    lines = [frame.first_line for frame in frames if frame.path.endswith(path)]
    return path, lines[0] if lines else 0


def _digest(key: object) -> bytes:
    text = repr(key).encode(errors="surrogateescape")
    # hashlib takes milliseconds to import, on each rank.
    return zlib.crc32(text).to_bytes(4, "big") + zlib.crc32(text[::-1]).to_bytes(4, "big")


# -- two stacks ---------------------------------------------------------------------------------------


def _common_depth(one: Sequence[Frame], other: Sequence[Frame]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((depth for depth, (a, b) in pairs if a.key != b.key), min(len(one), len(other)))


def _are_alternatives(one: Sequence[Frame], other: Sequence[Frame], depth: int) -> bool:
    """Whether the first frames that differ are in alternatives, or cannot be compared."""
    mine, theirs = one[depth], other[depth]
    if mine.code == theirs.code:
        source = _source(mine.path)
        return source is None or _exclude_each_other(source, mine.line, theirs.line)
    if depth == 0:
        return mine.key[0] != theirs.key[0]  # different programs
    return any(
        _chooses(caller) for caller in one[:depth]
    )  # one line calls two functions: a choice, or a loop over them


def _source(path: str) -> ast.Module | None:
    try:
        return ast.parse("".join(linecache.getlines(path))) if linecache.getlines(path) else None
    except (SyntaxError, ValueError):
        return None


def _chooses(frame: Frame) -> bool:
    """Whether an expression of the line is conditional, as in ``(lead if rank == 0 else serve)()``."""
    source = _source(frame.path)
    conditional = [] if source is None else [node for node in ast.walk(source) if isinstance(node, ast.IfExp)]
    return any(node.lineno <= frame.line <= (node.end_lineno or node.lineno) for node in conditional)


def _exclude_each_other(tree: ast.Module, one: int, other: int) -> bool:
    """Whether one pass through the code reaches only one of two lines."""
    for first, second in _alternatives(tree):
        if (one in first and other in second) or (other in first and one in second):
            return True
    return False


def _alternatives(tree: ast.Module) -> Iterator[tuple[range, range]]:
    """Yield pairs of ranges of lines of which one pass through the code reaches only one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and node.orelse:
            yield _lines(node.body), _lines(node.orelse)
        elif isinstance(node, ast.IfExp):
            yield _lines([node.body]), _lines([node.orelse])
        elif isinstance(node, ast.Match):
            for place, case in enumerate(node.cases):
                for later in node.cases[place + 1 :]:
                    yield _lines(case.body), _lines(later.body)
        for block in _blocks(node):
            for place, statement in enumerate(block[:-1]):
                if isinstance(statement, ast.If) and _ends_block(statement.body[-1]):
                    yield _lines(statement.body), _lines(block[place + 1 :])


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if isinstance(block, list):
            yield block


def _ends_block(statement: ast.stmt) -> bool:
    """Whether the code behind the block of ``statement`` is not reached from it."""
    if isinstance(statement, (ast.Return, ast.Raise, ast.Continue, ast.Break)):
        return True
    if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)):
        return False
    called = statement.value.func
    return (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")) in _EXITS


def _lines(nodes: Sequence[ast.stmt | ast.expr]) -> range:
    last = nodes[-1]
    return range(nodes[0].lineno, (last.end_lineno or last.lineno) + 1)


# -- words --------------------------------------------------------------------------------------------


def _explain(sites: Sequence[CallSite]) -> str:
    depth = min(_common_depth(sites[0].frames, each.frames) for each in sites if each.frames or not sites[0].frames)
    ranks_at: dict[str, list[int]] = {}
    for rank, site in enumerate(sites):
        ranks_at.setdefault(site.shown(depth), []).append(rank)
    lines = [f"{_ranks(ranks)} {what}" for what, ranks in list(ranks_at.items())[:_MAX_PLACES]]
    if len(ranks_at) > _MAX_PLACES:
        lines.append(f"others are at {len(ranks_at) - _MAX_PLACES:,} more places")
    return (
        f"the ranks are not at the same call: {'; '.join(lines)}. All ranks must call it together; "
        "a rank may have failed, or left, before it came to the call of the others"
    )


def _ranks(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:_MAX_NAMED]))
    more = f" and {len(ranks) - _MAX_NAMED:,} more" if len(ranks) > _MAX_NAMED else ""
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}{more}"


def _ordinal(number: int) -> str:
    ending = "th" if 10 < number % 100 < 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
