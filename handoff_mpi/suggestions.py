"""Finds the known names nearest to an unknown one, for messages that end in ``did you mean 'fit'?``.

Names may have any class (ids do), and there may be a million of them: counts bound the work.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from typing import Any

from handoff_mpi.formatting import one_line, show

#: The most known names that are compared with one unknown name, letter by letter.
MAX_COMPARED = 2_000
#: The same for all unknown names of one table together.
MAX_COMPARED_IN_ALL = 10_000
MAX_SUGGESTED = 3
MAX_LISTED = 10
#: Up to this many known names, the words that they consist of are compared, too.
MAX_SPLIT = 50
#: Names are compared up to this length.
MAX_COMPARED_CHARS = 80
#: difflib's ratio of names that are near, and how many times as far away as the nearest others may be.
MIN_RATIO, MAX_FURTHER = 0.6, 1.5
MIN_SYNONYM_RATIO = 0.75
#: Of longer names not every spelling that is one letter away is tried.
_MAX_EDITED_CHARS = 40
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./ "


class KnownNames:
    """Names to choose from.

    Args:
        names: all of them.
        synonyms: lower-case words of other tools, to what stands for each here.
        shown: gives the text of a name; its ``repr`` by default, for ids.
    """

    def __init__(
        self,
        names: Collection[Hashable],
        synonyms: Mapping[str, str] | None = None,
        shown: Callable[[object], str] = show,
    ) -> None:
        self._names = names
        self._synonyms = synonyms or {}
        self._shown = shown
        self._left = MAX_COMPARED_IN_ALL

    def hint(self, wanted: object) -> str:
        """Return ``; did you mean 'fit' or 'fit-2'?``, an empty string where no name is near."""
        question = self._question(wanted)
        return f"; {question}" if question else ""

    def listed(self, unknown: Collection[str]) -> str:
        """Return unknown words with what each may have been meant for: ``a (did you mean b?), c``."""
        words = [one_line(each, MAX_COMPARED_CHARS) for each in itertools.islice(unknown, MAX_LISTED)]
        if len(words) == 1:
            return f"{words[0]}{self.hint(*unknown)}"
        questions = map(self._question, unknown)
        asked = [f"{word} ({each})" if each else word for word, each in zip(words, questions, strict=False)]
        more = len(unknown) - len(words)
        return ", ".join([*asked, f"and {more} more"] if more else asked)

    def _question(self, wanted: object) -> str:
        near = self.nearest(wanted)
        if not near:
            return ""
        *others, last = near
        return f"did you mean {', '.join(others)}{' or ' if others else ''}{last}?"

    def nearest(self, wanted: object) -> list[str]:
        """Return the texts of the nearest names, the nearest first."""
        word = _text(wanted).casefold().lstrip("-").replace("-", "_")
        if word in self._synonyms:
            return [self._shown(self._synonyms[word])]
        found = self._written_alike(wanted) or self._compared(wanted) or self._misspelt_synonyms(word)
        return [self._shown(name) for name in dict.fromkeys(found)][:MAX_SUGGESTED]

    def _written_alike(self, wanted: object) -> list[Hashable]:
        """Look up names that differ from ``wanted`` only in their class, or in one letter."""
        if not isinstance(self._names, (Mapping, set, frozenset)):
            return []
        same = [each for each in _of_another_class(wanted) if each in self._names]
        if same or len(self._names) <= MAX_COMPARED or not isinstance(wanted, str):
            return same
        return list(itertools.islice((each for each in _edits(wanted) if each in self._names), MAX_SUGGESTED))

    def _misspelt_synonyms(self, word: str) -> list[Hashable]:
        import difflib  # hardly ever needed

        near = difflib.get_close_matches(word, self._synonyms, 1, MIN_SYNONYM_RATIO)
        return [self._synonyms[each] for each in near]

    def _compared(self, wanted: object) -> list[Hashable]:
        import difflib  # hardly ever needed

        names = list(itertools.islice(self._names, min(MAX_COMPARED, self._left)))
        self._left -= len(names)
        by_text: dict[str, Hashable] = {}
        for name in names:
            by_text.setdefault(_text(name).casefold(), name)
        if len(names) <= MAX_SPLIT:
            by_text = {**{part: name for name in names for part in _parts(name)}, **by_text}
        text = _text(wanted).casefold()
        near = difflib.get_close_matches(text, by_text, MAX_SUGGESTED, MIN_RATIO)
        far = {each: 1 - difflib.SequenceMatcher(None, each, text).ratio() for each in near}
        return [by_text[each] for each in near if far[each] <= far[near[0]] * MAX_FURTHER]


class UnknownName(KeyError):
    """The name is unknown. The message finds near names only when it is read: most KeyErrors are caught unread."""

    def __init__(self, message: str, wanted: object = None, known: Collection[Hashable] = ()) -> None:
        super().__init__(wanted)
        self._message = message
        self._known = known

    def __str__(self) -> str:
        return f"{self._message}{did_you_mean(self.args[0], self._known)}"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self),)


def did_you_mean(
    wanted: object,
    known: Collection[Hashable],
    synonyms: Mapping[str, str] | None = None,
    shown: Callable[[Any], str] = show,
) -> str:
    """Return what :meth:`KnownNames.hint` does, for one unknown name."""
    return KnownNames(known, synonyms, shown).hint(wanted) if known else ""


def _text(name: object) -> str:
    return name[:MAX_COMPARED_CHARS] if type(name) is str else show(name, MAX_COMPARED_CHARS)


def _parts(name: object) -> list[str]:
    words = _text(name).casefold().replace("-", "_").split("_")
    return [word for word in words if len(word) > 3] if len(words) > 1 else []


def _of_another_class(wanted: object) -> Iterator[Hashable]:
    """Yield what is written like ``wanted``: the number of a text, the text of a number."""
    if isinstance(wanted, str):
        if wanted.isascii() and wanted.isdigit() and len(wanted) < MAX_COMPARED_CHARS:
            yield int(wanted)
    elif isinstance(wanted, (int, float)):
        yield str(wanted)


def _edits(word: str) -> Iterator[str]:
    """Yield the spellings one letter away (Norvig 2007); of a long word, those of another case alone."""
    yield from (word.lower(), word.upper(), word.replace("-", "_"), word.replace("_", "-"))
    if len(word) > _MAX_EDITED_CHARS:
        return
    halves = [(word[:index], word[index:]) for index in range(len(word) + 1)]
    yield from (before + after[1:] for before, after in halves if after)
    yield from (before + after[1] + after[0] + after[2:] for before, after in halves if len(after) > 1)
    for letter in _LETTERS:
        yield from (before + letter + after[1:] for before, after in halves if after)
        yield from (before + letter + after for before, after in halves)
