"""Reports an exception to rank 0: text for people, without frames of this package, and the facts rank 0 decides by.

Frames of this package are left out, also those of exceptions that the error was raised from or that it groups. A deep
stack, as that of a RecursionError, is cut in its middle.
"""

from __future__ import annotations

import re
import sysconfig
import traceback
from pathlib import Path

from handoff_mpi.callbacks import message_of
from handoff_mpi.dag.retry_on import lineage_of
from handoff_mpi.messages import ErrorReport
from handoff_mpi.worker.codecs import with_culprit

#: A report is cut to these many characters: it travels, and is printed through a launcher.
MAX_MESSAGE_CHARS = 4_000
MAX_TRACEBACK_CHARS = 40_000
MAX_BRIEF_CHARS = 400
#: A stack is shown with at most this many entries: this share of them are the outermost.
_MAX_ENTRIES, _OUTERMOST = 40, 10
#: Of exceptions that were raised from this many others in turn, only the innermost frames are looked at.
_LONG_CHAIN, _FRAMES_OF_LONG_CHAIN = 50, 20
_OWN_DIRECTORY = f"{Path(__file__).parent.parent}/"
#: Where Python's own files and what is installed lie, as far as they are known.
_INSTALLED = (
    "<frozen ",
    *{f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")},
)
#: Directories of installed packages are called so, wherever they lie: environments refer to those of others.
_PACKAGES = re.compile(r"[/\\](site|dist)-packages[/\\]")
#: Sources of compiled modules, which name them as they lay where the package was built.
_COMPILED = (".pyx", ".pxd", ".pxi", ".c", ".cpp", ".cc", ".rs")
#: The messages of numpy, pandas, Cython, numba and Python for a write to read-only memory.
_READ_ONLY = re.compile(r"read[- ]?only|not writ(e)?able|WRITEABLE", re.IGNORECASE)

#: Python's own accessors of an exception: a class of the user may override them with code that raises.
_CAUSE = BaseException.__dict__["__cause__"].__get__
_CONTEXT = BaseException.__dict__["__context__"].__get__
_TRACEBACK = BaseException.__dict__["__traceback__"].__get__


def describe(error: BaseException) -> ErrorReport:
    """Return what is reported of an exception."""
    kind, message = type(error).__name__, message_of(error)
    try:
        text, place = "".join(_tidied(error).format()), place_of(error)
    except BaseException:
        text, place = f"{kind}: {message}", ""
    return ErrorReport(
        kind,
        shorten(with_culprit(error, message), MAX_MESSAGE_CHARS),
        shorten(text, MAX_TRACEBACK_CHARS),
        lineage_of(error),
        place,
    )


def brief_message(error: BaseException) -> str:
    """Return the message of an exception, cut for a report beside another one on an exception of its kind and place."""
    return shorten(message_of(error), MAX_BRIEF_CHARS)


def is_about_read_only_memory(error: BaseException) -> bool:
    """Whether ``error`` says that something could not be written to."""
    try:
        return isinstance(error, (ValueError, TypeError, BufferError)) and bool(_READ_ONLY.search(str(error)))
    except Exception:
        return False


def release_frames(error: BaseException) -> None:
    """Forget the local variables of the functions that an exception has left, and those it was raised from.

    A function that keeps its exception in a variable makes a reference cycle of the two, which would keep its inputs
    in memory until a garbage collection.
    """
    for each in _connected(error):
        traceback.clear_frames(_TRACEBACK(each))


def shorten(text: str, most: int) -> str:
    """Return ``text`` without its middle if it has more than ``most`` characters."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]} [... {len(text) - most} characters left out ...] {text[len(text) - most // 2 :]}"


def _connected(error: BaseException) -> list[BaseException]:
    """Return ``error``, and those that it was raised from or groups, directly or not."""
    waiting: list[object] = [error]
    found: dict[int, BaseException] = {}
    while waiting:
        each = waiting.pop()
        if isinstance(each, BaseException) and id(each) not in found:
            found[id(each)] = each
            waiting += [_CAUSE(each), _CONTEXT(each), *_grouped(each)]
    return list(found.values())


def _grouped(error: BaseException) -> tuple[object, ...]:
    """Return the exceptions of an exception group; nothing for any other exception."""
    try:
        grouped = getattr(error, "exceptions", ())
        return grouped if isinstance(grouped, tuple) else ()
    except BaseException:  # it is the user's code that answers here
        return ()


class _ShortStack(traceback.StackSummary):
    """A stack that is shown without its middle if it is deep."""

    def format(self, **options: object) -> list[str]:
        """Return the entries as text; Python has put equal ones together."""
        entries = super().format(**options)
        if len(entries) <= _MAX_ENTRIES:
            return entries
        left_out = f"  [... {len(entries) - _MAX_ENTRIES} frames left out ...]\n"
        return [*entries[:_OUTERMOST], left_out, *entries[_OUTERMOST - _MAX_ENTRIES :]]


def _tidied(error: BaseException) -> traceback.TracebackException:
    """Return the traceback of ``error`` without frames of this package."""
    limit = -_FRAMES_OF_LONG_CHAIN if len(_connected(error)) > _LONG_CHAIN else None
    told = traceback.TracebackException(type(error), error, _TRACEBACK(error), limit=limit, lookup_lines=False)
    waiting: list[traceback.TracebackException | None] = [told]
    while waiting:
        each = waiting.pop()
        if each is None:
            continue
        each.stack = _ShortStack([entry for entry in each.stack if not entry.filename.startswith(_OWN_DIRECTORY)])
        waiting += [each.__cause__, each.__context__, *(getattr(each, "exceptions", None) or ())]
    return told


def place_of(error: BaseException) -> str:
    """Return "file:line" of the innermost frame that is the user's, or else not of this package."""
    place = ""
    for frame, line in traceback.walk_tb(_TRACEBACK(error)):
        name = frame.f_code.co_filename
        if not name.startswith(_OWN_DIRECTORY) and not (place and _is_installed(name)):
            place = f"{name}:{line}"
    return place


def _is_installed(file: str) -> bool:
    """Whether code is of Python or of an installed package, as far as the name of its file tells."""
    is_built_elsewhere = file.endswith(_COMPILED) and not file.startswith("/")
    return is_built_elsewhere or file.startswith(_INSTALLED) or bool(_PACKAGES.search(file))
