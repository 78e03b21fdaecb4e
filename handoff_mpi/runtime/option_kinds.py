"""Kinds of options: what a value may be, how a flag or a variable writes it, and what is wrong with one."""

from __future__ import annotations

import builtins
import importlib
import os
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field
from typing import Any

from handoff_mpi.dag.function import input_id
from handoff_mpi.dag.ids import find_id_problem
from handoff_mpi.dag.retry_on import find_wrong_retry_on
from handoff_mpi.dag.selections import elements_of
from handoff_mpi.errors import DAGError
from handoff_mpi.formatting import show
from handoff_mpi.numerals import parse_real, parse_whole
from handoff_mpi.resources import parse_nbytes, parse_resources
from handoff_mpi.suggestions import did_you_mean

#: Of seconds, which clocks and locks can still wait for: 30 years.
MAX_SECONDS = 10**9
#: Of whole numbers.
MAX_COUNT = 2**63 - 1
#: Of Linux: bytes in a path, and in each name of one.
MAX_PATH, MAX_NAME = 4095, 255


class WrongValue(Exception):
    """A value is not what its option takes.

    Attributes:
        problems: a line for each.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Kind:
    """The values that an option takes; this kind takes any.

    Attributes:
        metavar: stands for the value in help texts; empty for options that no flag gives a value to.
        unit: of numbers.
        is_repeated: whether the flag may be given more than once, and the variable holds a list.
    """

    metavar: str = ""
    unit: str = ""
    is_repeated: bool = False

    def checked(self, name: str, value: Any) -> Any:
        """Return ``value`` as the option ``name`` keeps it.

        Raises:
            WrongValue: the option does not take it.
        """
        return value

    def parse(self, text: str) -> Any:
        """Return the value that ``text`` writes: of a repeated flag, one item.

        Raises:
            ValueError: it writes none; the message says why.
        """
        return text

    def collected(self, items: list[Any]) -> Any:
        """Return the value that the items of a repeated flag make together."""
        return items


@dataclass(frozen=True)
class Word(Kind):
    """Anything, written as a word; another module finds out what is wrong with it."""

    metavar: str = "WORD"


@dataclass(frozen=True)
class YesNo(Kind):
    """True or False; the flag takes no value."""

    def checked(self, name: str, value: Any) -> Any:
        if not isinstance(value, bool):
            raise WrongValue(f"{name} must be True or False, not {show(value)}")
        return value


@dataclass(frozen=True)
class OneOf(Kind):
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def metavar(self) -> str:  # type: ignore[override]
        return f"{{{','.join(self.words)}}}"

    def checked(self, name: str, value: Any) -> Any:
        if not isinstance(value, str) or value not in self.words:
            hint = did_you_mean(value, self.words, shown=str)
            raise WrongValue(f"{name} must be one of {', '.join(self.words)}, not {show(value)}{hint}")
        return value

    def parse(self, text: str) -> Any:
        if text not in self.words:
            hint = did_you_mean(text, self.words, shown=str)
            raise ValueError(f"{show(text)} is none of {', '.join(self.words)}{hint}")
        return text


@dataclass(frozen=True)
class Whole(Kind):
    """A whole number; None too, where that is the default."""

    metavar = "N"

    least: int
    most: int = MAX_COUNT
    is_optional: bool = False

    def checked(self, name: str, value: Any) -> Any:
        if value is None and self.is_optional:
            return value
        if not isinstance(value, int) or isinstance(value, bool) or value < self.least:
            raise WrongValue(f"{name} must be a whole number from {self.least}, not {show(value)}")
        if value > self.most:
            raise WrongValue(f"{name} must be at most {self.most}, not {show(value)}")
        return value

    def parse(self, text: str) -> Any:
        return parsed_whole(text)


@dataclass(frozen=True)
class Seconds(Kind):
    """A number of seconds; None too, where that is the default."""

    metavar, unit = "S", "s"

    is_positive: bool = True
    most: float = MAX_SECONDS
    is_optional: bool = False

    def checked(self, name: str, value: Any) -> Any:
        if value is None and self.is_optional:
            return value
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not (value > 0 if self.is_positive else value >= 0):
            wanted = f"{'positive ' if self.is_positive else ''}number of seconds"
            raise WrongValue(f"{name} must be a {wanted}, not {show(value)}")
        if value > self.most:
            raise WrongValue(f"{name} must be at most {self.most:.0f} seconds, not {show(value)}")
        return value

    def parse(self, text: str) -> Any:
        try:
            return parse_real(text)
        except ValueError:
            raise ValueError(f"{show(text)} is not a number") from None


@dataclass(frozen=True)
class Amounts(Kind):
    """Resource name to number; None too."""

    is_repeated = True

    metavar: str = "NAME=NUMBER"

    def checked(self, name: str, value: Any) -> Any:
        try:
            if value is not None:
                parse_resources(value)
        except DAGError as error:
            raise WrongValue(*[f"{name}: {problem}" for problem in error.problems]) from None
        return value

    def parse(self, text: str) -> Any:
        name, equals, amount = text.partition("=")
        try:
            if not name or not equals:
                raise ValueError
            return name, parse_real(amount)
        except ValueError:
            raise ValueError(f"{show(text)} is not NAME=NUMBER") from None

    def collected(self, items: list[Any]) -> Any:
        return dict(items)


@dataclass(frozen=True)
class FunctionIds(Kind):
    """Ids of functions, or their handles; where ``takes_all``, also "all"."""

    is_repeated = True

    takes_all: bool = False
    metavar: str = "ID"

    def checked(self, name: str, value: Any) -> Any:
        if self.takes_all and isinstance(value, str) and value == "all":
            return value
        try:
            if isinstance(value, (str, bytes)) or not isinstance(value, Collection):
                raise TypeError
            ids = [id for each in value for id in self._ids(each)]
        except Exception:  # iterating over it calls code of the user's
            what = "'all' or a collection of ids" if self.takes_all else "a collection of ids"
            raise WrongValue(f"{name} is {what}, not {show(value)}") from None
        wrong = [f"{name} holds {show(id)}, which {problem}" for id in ids if (problem := find_id_problem(id))]
        if wrong:
            raise WrongValue(*wrong)
        return tuple(ids)

    def _ids(self, named: Any) -> list[Hashable]:
        """Return the ids that one entry stands for; values of arrays are kept whole, but run again one by one."""
        elements = None if self.takes_all else elements_of(named)
        if elements is None:
            return [input_id(named)]
        return [(named.id, index) for index in ([elements] if isinstance(elements, int) else elements)]

    def collected(self, items: list[Any]) -> Any:
        return "all" if self.takes_all and items == ["all"] else items


@dataclass(frozen=True)
class PathName(Kind):
    """A path, or None; where ``takes_false``, False too.

    Attributes:
        what: in messages, what the option is.
        if_empty: in messages, why an empty path is refused.
        takes_false: whether False is a value.
    """

    what: str
    metavar: str = "FILE"
    if_empty: str = ""
    takes_false: bool = False

    def checked(self, name: str, value: Any) -> Any:
        if value is None or (self.takes_false and value is False):
            return value
        try:
            text = os.fspath(value)
            if not isinstance(text, str):
                raise TypeError
            encoded = os.fsencode(text)
        except Exception:  # __fspath__ may be the user's
            raise WrongValue(f"{name} is {self.what}, not {show(value)}") from None
        if not text:
            raise WrongValue(f"{name} is empty{self.if_empty}; name one")
        if "\0" in text:
            raise WrongValue(f"{name}={show(text)} holds a null character; name another")
        if len(encoded) > MAX_PATH or max(map(len, encoded.split(b"/"))) > MAX_NAME:
            raise WrongValue(f"{name}={show(text)} is longer than paths and names of files can be; name another")
        return value


@dataclass(frozen=True)
class Memory(Kind):
    """An amount of memory: a number of MB, or a string with a unit."""

    metavar, unit = "SIZE", "MB"

    def checked(self, name: str, value: Any) -> Any:
        try:
            parse_nbytes(value)
        except DAGError:
            what = "an amount of memory, like 256 (in MB) or '1GB'"
            raise WrongValue(f"{name} must be {what}, not {show(value)}") from None
        return value


@dataclass(frozen=True)
class Exceptions(Kind):
    """Exception classes, or None."""

    metavar, is_repeated = "ERROR", True

    def checked(self, name: str, value: Any) -> Any:
        if problem := find_wrong_retry_on(value):
            raise WrongValue(problem)
        return value

    def parse(self, text: str) -> Any:
        """Return the exception class ``text``: a built-in one, or ``module.name``."""
        module, _, own = text.rpartition(".")
        try:
            kind = getattr(importlib.import_module(module or "builtins"), own)
        except Exception:  # importing executes what it finds
            kind = None
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            known = [each for each in dir(builtins) if isinstance(getattr(builtins, each), type)]
            what = "name a built-in exception (OSError) or module.Class"
            raise ValueError(f"{show(text)} is no exception: {what}{did_you_mean(text, known, shown=str)}")
        return kind


@dataclass(frozen=True)
class Plug(Kind):
    """An object of the user's that the run calls, or the name of one.

    Attributes:
        find_problem: called with the object, returns what is wrong with it; an empty string if nothing is.
    """

    find_problem: Callable[[Any], str] = field(repr=False)
    metavar: str = ""

    def checked(self, name: str, value: Any) -> Any:
        if problem := self.find_problem(value):
            raise WrongValue(problem)
        return value


def parsed_whole(text: str) -> int:
    """Return the whole number that ``text`` writes.

    Raises:
        ValueError: it writes none; the message says so.
    """
    try:
        return parse_whole(text)
    except ValueError:
        raise ValueError(f"{show(text)} is not a whole number") from None
