"""Formats values from users as text for people; it never raises, and the text stays on one line."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping

MAX_CHARS = 80
#: Limits of the output that is shown of a failed call.
MAX_LAST_LINES, MAX_LAST_NBYTES = 20, 4096
#: The longest id that is written into a file.
MAX_ID_CHARS = 1000
#: A longer time left is an error of the file that states it.
MAX_TIME_LEFT_S = 1e9
#: The time left that is known counts calls of functions that take as long as others of their name did, and no others.
LOWER_BOUND = "at least"
#: Counts of repeated calls, with the words for one and for several; only the first counts failed calls.
_REPEATED = {
    "retries": ("failure retried", "failures retried"),
    "reassigned": ("reassigned", "reassigned"),
    "recomputed": ("recomputed", "recomputed"),
}


def show(thing: object, limit: int = MAX_CHARS) -> str:
    """Return the repr of ``thing`` on one line of printable characters, at most ``limit`` of them.

    Where the repr raises, hangs in recursion, or is no text, the name of the type stands for it.
    """
    try:
        text = repr(thing)
    except KeyboardInterrupt:
        raise
    except BaseException:  # repr is the user's code, and may call sys.exit
        text = f"<{type_name(thing)}>"
    return one_line(text, limit)


def noun_of_calls(status: Mapping[str, object]) -> str:
    """Return the noun for what a run counts: "calls" where elements of arrays are counted too.

    Args:
        status: the fields of ``status.json``.
    """
    return "calls" if status.get("arrays") else "functions"


def total_text(status: Mapping[str, object], total: int) -> str:
    """Return how many functions a run has: "39,000", or "39,000+" while more elements of arrays may come.

    Args:
        status: the fields of ``status.json``.
    """
    return f"{total:,}{'+' if status.get('may_grow') else ''}"


def counted(count: int, noun: str) -> str:
    """Return ``1 rank`` or ``3,000 ranks``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def one_line(text: str, limit: int | None = None) -> str:
    """Return ``text`` with line ends and control characters escaped, and cut to ``limit`` characters."""
    if limit is not None and len(text) > limit:
        text = text[: limit - 3] + "..."
    return text if text.isprintable() else "".join(map(_escaped, text))


def id_text(id: object) -> str:
    """Return an id as text for people and files: a string unchanged, the repr of any other object."""
    return id[:MAX_ID_CHARS] if type(id) is str else show(id, MAX_ID_CHARS)


def shell_word(text: str) -> str:
    """Return ``text`` as one word for a shell, as people would quote it: double quotes where it holds single ones."""
    has_single_alone = "'" in text and not any(each in text for each in '"$`\\!')
    return f'"{text}"' if has_single_alone else shlex.quote(text)


def last_lines(text: bytes, is_intact: bool) -> str:
    """Return the last lines of what was printed, at most ``MAX_LAST_LINES``.

    Args:
        text: at least the last ``MAX_LAST_NBYTES`` of it.
        is_intact: whether that is all of it; else the first line may be cut.
    """
    lines = text[-MAX_LAST_NBYTES:].decode(errors="replace").splitlines()
    if (not is_intact or len(text) > MAX_LAST_NBYTES) and len(lines) > 1:
        del lines[0]
    return "\n".join(lines[-MAX_LAST_LINES:])


def without_controls(text: str) -> str:
    """Return ``text`` with control characters escaped, except tabs and line ends: a terminal obeys the others."""
    if text.isprintable():
        return text
    return "".join(each if each in "\n\t" else _escaped(each) for each in text)


def duration_text(seconds: float) -> str:
    """Return a duration in its two largest units: "0.4 s", "12 s", "3 min 20 s", "5 h 2 min", "3 d 4 h"."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    large, small, units = next(
        (whole // size, whole % size // part, units)
        for size, part, units in ((86400, 3600, ("d", "h")), (3600, 60, ("h", "min")), (60, 1, ("min", "s")))
        if whole >= size
    )
    return f"{large:,} {units[0]} {small} {units[1]}" if small else f"{large:,} {units[0]}"


def call_time_text(seconds: float) -> str:
    """Return the duration of a call, which may be short: "13 ms", "0.4 s", "3 min 20 s"."""
    return f"{1000 * seconds:.3g} ms" if seconds < 0.0995 else duration_text(seconds)


def time_left_text(status: Mapping[str, object]) -> str:
    """Return in words how much time a run has left, as far as that is known.

    Args:
        status: the fields of ``status.json``.
    """
    words, seconds = time_left(status)
    if seconds is None:
        return "time left unknown"
    count = sum(unmeasured(status).values()) if words == LOWER_BOUND else 0
    noun = noun_of_calls(status).removesuffix("s")
    besides = f", and {counted(count, noun)} of unknown duration" if count else ""
    return f"{words} {duration_text(seconds)} left{besides}"


def unmeasured(status: Mapping[str, object]) -> dict[str, int]:
    """Return how many functions are open of each name of which no call has ended.

    Args:
        status: the fields of ``status.json``, which anybody may have written.
    """
    by_name = status.get("by_name")
    rows = by_name.items() if isinstance(by_name, Mapping) else ()
    without_mean = {name: row for name, row in rows if isinstance(row, Mapping) and row.get("mean_s") is None}
    return {str(name): count for name, row in without_mean.items() if (count := _open_count(row)) > 0}


def _open_count(row: Mapping[str, object]) -> int:
    total, *ended = (row.get(name) for name in ("total", "done", "failed", "skipped"))
    numbers = [each if isinstance(each, int) and abs(each) < MAX_TIME_LEFT_S else 0 for each in (total, *ended)]
    return numbers[0] - sum(numbers[1:])


def time_left(status: Mapping[str, object]) -> tuple[str, float | None]:
    """Return "about" or "at least", and how many seconds a run has left; None if that is unknown.

    Args:
        status: the fields of ``status.json``.
    """
    for name, words in (("eta_s", "about"), ("eta_at_least_s", LOWER_BOUND)):
        seconds = status.get(name)
        if isinstance(seconds, (int, float)) and 0 <= seconds < MAX_TIME_LEFT_S:
            return words, float(seconds)
    return "", None


def moment_text(time_s: object) -> str:
    """Return a moment, in seconds since the epoch, as date and time of day here."""
    if not isinstance(time_s, (int, float)):
        return "an unknown time"
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_s))
    except (OverflowError, ValueError, OSError):  # the file may be another user's
        return "an unknown time"


def repeated_texts(counts: Mapping[str, object]) -> list[str]:
    """Return how many calls were repeated, by cause: "3 failures retried", "1 reassigned".

    Args:
        counts: those of ``status.json``.
    """
    numbers = {field: counts.get(field) for field in _REPEATED}
    return [
        f"{number:,.0f} {_REPEATED[field][number != 1]}"
        for field, number in numbers.items()
        if isinstance(number, (int, float)) and number > 0
    ]


def rate_text(per_s: float) -> str:
    """Return a rate with the unit that gives a readable number: "83/s", "1.3/s", "12/min", "4/h"."""
    if per_s >= 1.0:
        return f"{per_s:,.0f}/s" if per_s >= 10.0 else f"{per_s:.1f}/s"
    return f"{60 * per_s:.0f}/min" if per_s >= 1 / 12 else f"{3600 * per_s:.0f}/h"


def type_name(thing: object) -> str:
    """Return the name of the type of ``thing``, also if its metaclass raises."""
    return str(type.__dict__["__name__"].__get__(type(thing)))


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape", "replace").decode()
