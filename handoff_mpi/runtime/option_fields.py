"""Declares an option: what command line, environment, help texts and manual know of it, in one place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import Field, dataclass, field
from typing import Any, TypeVar

from handoff_mpi.runtime.option_kinds import Kind

#: What the environment variable of an option begins with.
PREFIX = "HANDOFF_"
T = TypeVar("T")


def option(
    default: T,
    kind: Kind,
    flag_help: str,
    about: str,
    other_words: str = "",
    *,
    is_read_early: bool = False,
    old_name: str = "",
) -> T:
    """Declare an option as a field of a dataclass.

    Args:
        default: its value where nothing else is said.
        kind: the values that it takes.
        flag_help: the help of its flag, in a line; empty if it has none, and no environment variable.
        about: its meaning in whole sentences, for ``help()`` and the manual.
        other_words: names of it in other tools, for "did you mean".
        is_read_early: whether the command line reads it before it loads ``dag.py``, which therefore cannot set it.
        old_name: a name that it had; flag, variable and keyword of that name work for one more release, unlisted.
    """
    metadata = {"kind": kind, "flag_help": flag_help, "about": about, "other_words": tuple(other_words.split())}
    return field(default=default, metadata={**metadata, "is_read_early": is_read_early, "old_name": old_name})


@dataclass(frozen=True)
class Option:
    """An option that :func:`option` has declared; see there for its attributes.

    Attributes:
        name: in Python.
    """

    name: str
    default: Any
    kind: Kind
    flag_help: str
    about: str
    other_words: tuple[str, ...]
    is_read_early: bool
    old_name: str

    @property
    def flag(self) -> str:
        """The flag of the command line, empty if there is none; a flag without a value sets what the default is not."""
        if not self.flag_help:
            return ""
        return f"--{'no-' if self.default is True else ''}{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """The environment variable; empty if there is none."""
        return PREFIX + self.name.upper() if self.flag_help else ""

    @property
    def old_flag(self) -> str:
        """The flag of the old name; empty if there is none."""
        return f"--{self.old_name.replace('_', '-')}" if self.old_name else ""

    @property
    def variables(self) -> list[str]:
        """The environment variables, that of the old name last."""
        return [PREFIX + name.upper() for name in (self.name, self.old_name) if name] if self.flag_help else []

    @property
    def default_text(self) -> str:
        """The default, with its unit."""
        if isinstance(self.default, float):
            return f"{self.default:g} {self.kind.unit}".rstrip()
        return repr(self.default)


def options_by_name(declared: Iterable[Field[Any]]) -> dict[str, Option]:
    """Return name to option of the fields of a dataclass."""
    return {each.name: Option(each.name, each.default, **each.metadata) for each in declared}
