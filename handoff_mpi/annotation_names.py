"""Finds globals that only string annotations name: no code refers to them, but dataclasses and typing look them up."""

from __future__ import annotations
import __future__

import re
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType

_NAME = re.compile(r"(?<![\w.])[^\W\d]\w*")
_FLAG = __future__.annotations.compiler_flag
_OF_TYPING = ("typing", "types", "typing_extensions")


def names_in_annotations(thing: FunctionType | type, contents: dict[str, object]) -> list[str]:
    """Return the names of types and modules among the globals ``contents`` that annotations of ``thing`` refer to.

    Args:
        thing: a function, with the classes that it makes, or a class.
    """
    if isinstance(thing, FunctionType):
        if not thing.__code__.co_flags & _FLAG:
            return []
        texts = [*thing.__annotations__.values(), *_texts_of_classes(thing.__code__)]
    else:
        texts = list((vars(thing).get("__annotations__") or {}).values())
    names = {name for text in texts if type(text) is str for name in _NAME.findall(text)}
    return sorted(name for name in names if _is_part_of_annotations(contents.get(name)))


def _texts_of_classes(code: CodeType) -> Iterator[str]:
    """Yield the strings in the bodies of classes that ``code`` makes, where these have annotations."""
    for each in code.co_consts:
        if type(each) is CodeType:
            if "__annotations__" in each.co_names:
                yield from (text for text in each.co_consts if type(text) is str)
            yield from _texts_of_classes(each)


def _is_part_of_annotations(thing: object) -> bool:
    return isinstance(thing, (type, ModuleType)) or type(thing).__module__ in _OF_TYPING
