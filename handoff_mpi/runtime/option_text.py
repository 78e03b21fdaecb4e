"""The options of a run in words: for ``help()`` and for the manual's page ``options.md``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from handoff_mpi.runtime.option_fields import Option
from handoff_mpi.runtime.option_kinds import YesNo

#: Of a docstring, which help() indents by 4, and of the manual.
MAX_WIDTH = 116
_TITLE = """Options:
    Each is also a flag of the command line (max_retries: ``--max-retries 3``) and an environment variable
    (``HANDOFF_MAX_RETRIES=3``), unless it is marked "Python only".
"""
_ROLE = re.compile(r":\w+:`(\w+\.)*(\w+)`")
T = TypeVar("T")


def lists_options(options: Iterable[Option]) -> Callable[[T], T]:
    """Return a decorator that appends ``options``, with units and defaults, to the docstring of a function or class."""

    def append(documented: T) -> T:
        if documented.__doc__ is not None:  # python -OO removes it
            documented.__doc__ = f"{inspect.cleandoc(documented.__doc__)}\n\n{_section(options)}"
        return documented

    return append


def _section(options: Iterable[Option]) -> str:
    lines = [_TITLE]
    for option in options:
        limits = "" if option.flag else " Python only."
        limits += " dag.py cannot set it." if option.is_read_early else ""
        lines += _wrapped(f"{option.name}: {option.about} Default: {option.default_text}.{limits}", 4, 8)
    return "\n".join(lines)


def options_page(options: Iterable[Option]) -> str:
    """Return ``options`` as a list in Markdown."""
    return "\n".join(line for option in options for line in _entry(option))


def _entry(option: Option) -> Iterator[str]:
    about = _ROLE.sub(r"`\2`", option.about).replace("``", "`")
    about += " `dag.py` cannot set it." if option.is_read_early else ""
    yield f"- **`{option.name}`**: {_spellings(option)}. Default: `{option.default_text}`."
    yield from _wrapped(about[0].upper() + about[1:], 2, 2)


def _spellings(option: Option) -> str:
    """Return how the command line and the environment write an option."""
    if not option.flag:
        return "in Python only"
    value = "" if isinstance(option.kind, YesNo) else f" {option.kind.metavar}"
    return f"`{option.flag}{value}`, `{option.variable}`"


def _wrapped(text: str, first: int, indent: int) -> Iterator[str]:
    """Yield lines of at most :data:`MAX_WIDTH` characters; textwrap takes ten times as long, in every rank."""
    begin, *words = text.split()
    line = " " * first + begin
    for word in words:
        if len(line) + 1 + len(word) > MAX_WIDTH:
            yield line
            line = " " * indent + word
        else:
            line += f" {word}"
    yield line
