"""Finds objects that several globals of a carried module share: a sentinel used as a default, an object in a registry.

Each global is sent as a separate definition. An object that was pickled into each of them would become several objects
in the process that unpickles them, and ``x is MISSING`` would be false there. So a definition holds the names of other
globals in place of their objects.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Mapping
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, MethodType, ModuleType

#: Types whose objects may be duplicated without harm, or are pickled by name anyway.
_NOT_SHARED = (
    *(type(None), bool, int, float, complex, str, bytes, tuple, frozenset, type(...), type(NotImplemented), range),
    *(type, FunctionType, BuiltinFunctionType, MethodType, ModuleType, CodeType, FrameType),
)
#: Types whose objects a walk does not enter: functions and classes refer to globals by name.
_CLOSED = (type, FunctionType, BuiltinFunctionType, ModuleType, CodeType, FrameType)
#: An object from which a walk reaches more objects than this is pickled into each definition.
MAX_OBJECTS = 20_000
#: Names that an interactive Python gives to its inputs and outputs.
_OF_A_PROMPT = re.compile(r"_+|_i*\d+|_i+|_[iod]h|In|Out|__\w+__")


class SharedGlobals:
    """The globals of one module whose objects may be held by others of its globals.

    Args:
        contents: the globals of the module, name to object.
    """

    def __init__(self, contents: Mapping[str, object]) -> None:
        self._contents = contents
        self._names: dict[int, str] = {}
        self._order: dict[str, int] = {}
        for name, thing in contents.items():
            if not isinstance(thing, _NOT_SHARED) and not _OF_A_PROMPT.fullmatch(name):
                self._names.setdefault(id(thing), name)
                self._order[name] = len(self._order)
        self._reached: dict[str, frozenset[str] | None] = {}

    def is_needed(self, name: str) -> bool:
        """Whether the object of the global ``name`` holds that of another one, or is it."""
        thing = self._contents[name]
        return self._names.get(id(thing), name) != name or bool(self._reach(name))

    def name_of(self, thing: object) -> str | None:
        """Return the name of the global that ``thing`` is, the first one if it has several."""
        return self._names.get(id(thing))

    def name_in(self, place: str, thing: object) -> str | None:
        """Return the name that stands for ``thing`` in the definition of the global ``place``; None if there is none.

        Where two objects hold one another, the later one holds the name of the earlier: names lead to no circle.
        """
        name = self._names.get(id(thing))
        if name is None or name == place:
            return None
        reached = self._reach(name)
        if reached is None or (place in reached and self._order[place] < self._order[name]):
            return None
        return name

    def _reach(self, name: str) -> frozenset[str] | None:
        """Return the other globals whose objects that of ``name`` holds, directly or not; None if it is too large."""
        if name not in self._reached:
            self._reached[name] = self._walk(name)
        return self._reached[name]

    def _walk(self, name: str) -> frozenset[str] | None:
        root = self._contents[name]
        found: set[str] = set()
        seen = {id(root)}
        waiting = [root]
        while waiting:
            for each in gc.get_referents(waiting.pop()):
                if id(each) in seen or isinstance(each, _CLOSED):
                    continue
                seen.add(id(each))
                if len(seen) > MAX_OBJECTS:
                    return None
                if id(each) in self._names:
                    found.add(self._names[id(each)])
                waiting.append(each)
        return frozenset(found - {name})
