"""Carries a module by value (``dag.py``, or a script) to every process that calls its functions.

Only rank 0 executes such a module; other processes may be unable to import it. Rank 0 sends the globals that its
functions use: each by name, with the globals that it needs in turn. Each process puts these globals into a *copy* of
the module. All functions run in that copy, also those that rank 0 calls itself, so that changes by ``setup(rank)`` and
by functions are neither sent to other ranks nor part of a fingerprint. During a call the copy is in ``sys.modules``, so
that lookups by name (pickle, inspect, typing, multiprocessing) find the identical objects.

Each of these globals is sent as a :class:`Definition`. Rank 0 stamps it with the time when it first saw this state of
it: a process accepts a newer one (a class that a notebook has redefined), and otherwise keeps its own object, with all
changes that its functions have made. Ranks forward definitions unchanged, so a process that has not seen the module
before can read a payload.
"""

from __future__ import annotations

import builtins
import importlib.machinery
import io
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple, TypeAlias

from handoff_mpi.call_modules import replace_during_calls
from handoff_mpi.module_files import Loader, is_file, make_findable, pack, read_text
from handoff_mpi.rebuilding import make_bare_class
from handoff_mpi.unpickling import reading, reading_copies

#: Identifies a module: its name, its file (or a name that no file has), its package, and its import name, if it has
#: one.
About: TypeAlias = "tuple[str, str, str | None, str | None]"

#: The longest definition that is kept for forwarding; longer ones are pickled again.
MAX_KEPT_NBYTES = 1 << 20
_MISSING = object()


class Definition(NamedTuple):
    """A global, pickled for other processes.

    Attributes:
        name: of the global.
        stamp: the time when rank 0 first saw this state of it, in nanoseconds; 0 if another process made it.
        needs: the names of the globals that it uses.
        blob: its pickle; None if that is not kept.
    """

    name: str
    stamp: int
    needs: tuple[str, ...]
    blob: bytes | None


class CarriedModule:
    """One module that is carried by value, in this process.

    Attributes:
        about: identifies the module.
        original: the module itself, if this process has executed it.
        definitions: those of the globals received from other processes, by name.
        bound: the globals that are being unpickled now, by name.
    """

    def __init__(self, about: About, original: ModuleType | None) -> None:
        self.about = about
        self.original = original
        self.definitions: dict[str, Definition] = {}
        self.copy = _CopyOfModule(about)
        self._pending: dict[str, Definition] = {}
        self._loading: dict[str, Definition] = {}
        self.bound: dict[str, Any] = {}
        self._executed: ModuleType | None = None
        self._sent: dict[str, tuple[int, int]] = {}

    @property
    def name(self) -> str:
        return self.about[0]

    # -- at the sender ---------------------------------------------------------------------------------

    def holder_of(self, thing: object, qualname: str) -> dict[str, object] | None:
        """Return the globals, of the original or of the copy, in which ``thing`` is found by ``qualname``."""
        for contents in self.contents():
            if look_up(contents, qualname) is thing:
                return contents
        return None

    def contents(self) -> Iterator[dict[str, object]]:
        """Yield the globals of the original and those of the copy."""
        if self.original is not None:
            yield vars(self.original)
        yield vars(self.copy)

    def define(
        self, contents: dict[str, object], name: str, dump: Callable[[object], tuple[bytes, tuple[str, ...]]]
    ) -> Definition:
        """Return the definition of the global ``name`` of ``contents``.

        Args:
            dump: pickles an object, and returns the pickle with the names of the globals that it needs.
        """
        is_copy = contents is vars(self.copy)
        known = self.definitions.get(name) if is_copy else None
        if known is not None and known.blob is not None:
            return known
        blob, needs = dump(contents[name])
        if is_copy:
            return Definition(name, 0 if known is None else known.stamp, needs, blob)
        return Definition(name, self._stamp(name, blob), needs, blob)

    def _stamp(self, name: str, blob: bytes) -> int:
        digest = hash(blob)
        known = self._sent.get(name)
        if known is None or known[0] != digest:
            known = self._sent[name] = digest, _next_stamp()
        return known[1]

    # -- at the receiver -------------------------------------------------------------------------------

    def take(self, definitions: Iterable[Definition]) -> None:
        """Unpickle those definitions received with a pickle that are new."""
        known = self.definitions
        news = [each for each in definitions if each[0] not in known or each[1] > known[each[0]].stamp]
        if not news:
            return
        with _taking:
            for each in news:
                definition = Definition(*each)
                name = definition.name
                if name in vars(self.copy) and (name not in known or known[name].blob == definition.blob):
                    known[name] = definition  # setup(rank) has made it here, or another launch has sent the same
                else:
                    self._pending[name] = definition
            try:
                while self._pending:
                    self._load(self._pending.pop(next(iter(self._pending))))
            except BaseException:
                self._forget_unfinished()
                raise
            finally:
                self._pending.clear()
                self._loading.clear()
                self.bound.clear()

    def find(self, qualname: str) -> object:
        """Return what ``qualname`` stands for in the copy.

        Raises:
            AttributeError: there is nothing of that name.
        """
        name = qualname.partition(".")[0]
        if name in self._pending:
            self._load(self._pending.pop(name))
        elif name in self._loading and name not in self.bound:
            self._load_again(name)
        found = look_up(vars(self.copy), qualname)
        if found is _MISSING:
            raise AttributeError(f"the module {self.name} has no {qualname} in this process")
        return found

    def bind(self, name: str, thing: object) -> None:
        """Make ``thing``, which may still be without its state, the global ``name``, if nothing else is that by now."""
        if name not in self.bound:
            self.bound[name] = vars(self.copy)[name] = thing

    def _forget_unfinished(self) -> None:
        """Remove the globals that have been made without their state, so that no other call gets half of one."""
        for name in self._loading:
            if name in self.bound and name not in self.definitions:
                vars(self.copy).pop(name, None)

    def give_missing(self, name: str) -> object:
        """Return a global that was not sent: from the original, or by executing the file once in this process.

        Raises:
            AttributeError: there is none.
        """
        if self.original is not None:
            return getattr(self.original, name)
        with _taking:
            if self._executed is None and self._may_define(name):
                self._executed = self._execute()
        found: object = getattr(self._executed, name) if self._executed is not None else _MISSING
        if found is _MISSING:
            raise AttributeError(f"module {self.name!r} has no attribute {name!r}")
        return vars(self.copy).setdefault(name, found)

    def _may_define(self, name: str) -> bool:
        """Whether the file may define ``name``: code that searches all modules for a name must not execute the file."""
        code = self._code()
        return code is not None and (name in code.co_names or "__getattr__" in code.co_names)

    def _code(self) -> CodeType | None:
        file = self.about[1]
        text = read_text(self.name, file)
        return None if text is None else compile(text, file, "exec", dont_inherit=True)

    def _execute(self) -> ModuleType:
        """Execute the file, as multiprocessing does in the processes that it spawns."""
        names = _names_in_modules(self.name)
        module = _Executed(names[-1])
        contents = {**vars(_CopyOfModule(self.about)), "__name__": names[-1]}
        vars(module).update(contents)
        before = sys.modules.get(names[-1])
        sys.modules[names[-1]] = module
        try:
            code = self._code()
            assert code is not None
            exec(code, vars(module))
        finally:
            if before is not None:
                sys.modules[names[-1]] = before
        return module

    def _load(self, definition: Definition) -> None:
        assert definition.blob is not None
        self._loading[definition.name] = definition
        with reading_copies():
            self.bind(definition.name, _DefinitionUnpickler(definition.blob, self).load())
        is_large = len(definition.blob) > MAX_KEPT_NBYTES
        self.definitions[definition.name] = definition._replace(blob=None) if is_large else definition

    def _load_again(self, name: str) -> None:
        """A global needs ``name``, which needs it in turn: a class needs its base, which may list its subclasses.

        The first of two nested loads that comes to an end makes the object; :meth:`bind` gives it to the other one.
        """
        definition = self._loading.pop(name)
        self._load(definition)


class _DefinitionUnpickler(pickle.Unpickler):
    """Takes the objects of other globals from the module: see :mod:`handoff_mpi.shared_globals`."""

    def __init__(self, blob: bytes, module: CarriedModule) -> None:
        super().__init__(io.BytesIO(blob))
        self._module = module

    def persistent_load(self, pid: tuple[str, int]) -> object:
        """Called by pickle where the pickle has a name."""
        return self._module.find(pid[0])


class _CopyOfModule(ModuleType):
    """The module in which functions run."""

    def __init__(self, about: About) -> None:
        name, file, package, spec_name = about
        super().__init__(name)
        loader = Loader(name, file)
        contents = vars(self)
        contents.update(__package__=package, __loader__=loader, __builtins__=vars(builtins))
        if is_file(file):
            contents["__file__"] = file
        if spec_name is not None:
            spec = contents["__spec__"] = importlib.machinery.ModuleSpec(spec_name, loader, origin=file)
            spec.has_location = is_file(file)

    def __getattr__(self, name: str) -> object:
        """Return a global that was not sent because no function refers to it."""
        for module in _by_name.get(self.__name__, ()):
            if module.copy is self and not name.startswith("__"):
                return module.give_missing(name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


class _Executed(ModuleType):
    """A module whose file was executed in a process that had received some of its globals."""


_by_name: dict[str, list[CarriedModule]] = {}
#: The names of the modules of this process that travel by value.
CARRIED_NAMES: Collection[str] = _by_name.keys()
_by_about: dict[About, CarriedModule] = {}
_taking = threading.RLock()
_process_key = f"<{os.urandom(16).hex()}>"
_last_stamp = 0
_NONE: list[CarriedModule] = []
#: Whether this process is a child of a rank: then a script's copy is its ``__main__``.
_is_child = False


def look_up(contents: dict[str, object], qualname: str) -> object:
    """Return what ``qualname`` stands for among the globals ``contents``; ``_MISSING`` if nothing."""
    first, *rest = qualname.split(".")
    found = contents.get(first, _MISSING)
    try:
        for name in rest:
            found = getattr(found, name)
    except Exception:
        return _MISSING
    return found


def carry(module: ModuleType) -> CarriedModule:
    """Send the definitions of ``module`` by value from now on."""
    about = _about(module)
    known = _by_about.get(about)
    if known is None:
        known = _register(CarriedModule(about, module))
    known.original = module
    return known


def serve_as_child() -> None:
    """Declare that this process only calls functions, so that a script's copy is its ``__main__``."""
    global _is_child
    _is_child = True


def carried_as(name: object) -> list[CarriedModule]:
    """Return the modules of this process that are called ``name`` and travel by value."""
    if type(name) is not str:
        return _NONE
    if name == "__main__" and not _is_child:
        main = sys.modules.get("__main__")
        if type(main) is ModuleType and not any(each.original is main for each in _by_name.get(name, ())):
            carry(main)
    return _by_name.get(name, _NONE)


def carried(about: About) -> CarriedModule:
    """Return the carried module that ``about`` identifies; register it if this process does not know it."""
    known = _by_about.get(about)
    if known is None:
        name, file = about[:2]
        original = None if _is_child and name == "__main__" else sys.modules.get(name)
        is_same = type(original) is ModuleType and vars(original).get("__file__") == file
        known = _register(CarriedModule(about, original if is_same else None))
    return known


def module_named(name: object) -> ModuleType | None:
    """Return the module of ``sys.modules`` with this name, if it does not travel by value."""
    module = sys.modules.get(name) if type(name) is str and not carried_as(name) else None
    return module if isinstance(module, ModuleType) else None


def _register(module: CarriedModule) -> CarriedModule:
    _by_about[module.about] = module
    _by_name.setdefault(module.name, []).append(module)
    for name in _names_in_modules(module.name):
        if name not in sys.modules or (_is_child and module.name == "__main__"):
            sys.modules[name] = module.copy
        else:
            replace_during_calls(name, module.copy)
    make_findable(*module.about[:2])
    return module


def _names_in_modules(name: str) -> tuple[str, ...]:
    """Return the names of a module in ``sys.modules``; what multiprocessing has spawned uses one of its own."""
    return ("__main__", "__mp_main__") if name == "__main__" else (name,)


def _about(module: ModuleType) -> About:
    contents = vars(module)
    file, spec = contents.get("__file__"), contents.get("__spec__")
    name = contents["__name__"]
    return name, file if type(file) is str else _process_key, contents.get("__package__"), getattr(spec, "name", None)


def _next_stamp() -> int:
    global _last_stamp
    _last_stamp = max(_last_stamp + 1, time.time_ns())
    return _last_stamp


# -- what pickles call ---------------------------------------------------------------------------------


def resolve(about: About, qualname: str, definitions: tuple[Any, ...]) -> object:
    """Return what ``qualname`` of a carried module stands for here."""
    module = carried(about)
    if reading.wants_originals and module.original is not None:
        found = look_up(vars(module.original), qualname)
        if found is not _MISSING:
            return found
    if definitions:
        module.take(definitions)
    return module.find(qualname)


def make_function(
    code: Any, about: About, definitions: tuple[Any, ...], closure: Any, name: str | None = None
) -> FunctionType:
    """Return a function of a carried module, whose state follows in the pickle.

    Args:
        name: of the global that it is; None if it is none.
    """
    module = carried(about)
    module.take(definitions)
    made = FunctionType(code, vars(module.copy), None, None, closure)
    if name is not None:
        module.bind(name, made)  # now: what it holds (a registry, a decorator's variable) may refer to it
    return made


def make_class(about: About, qualname: str, make: Callable[..., type], args: tuple[Any, ...]) -> type:
    """Return a class of a carried module, whose state follows in the pickle."""
    module = carried(about)
    known: type | None = module.bound.get(qualname)
    if known is not None:
        return known
    try:
        made = make(*args)
    except Exception:  # __init_subclass__, or a metaclass, needs arguments of the class statement
        made = make_bare_class(*args)
    made.__qualname__ = qualname
    if "." not in qualname:
        module.bind(qualname, made)  # now: what follows may refer to it
    return made


def make_local_class(
    about: About, definitions: tuple[Any, ...], make: Callable[..., type], args: tuple[Any, ...]
) -> type:
    """Return a class of a carried module that is not found there, whose state follows in the pickle."""
    carried(about).take(definitions)
    return make(*args)


def sources_here() -> dict[str, bytes]:
    """Return the text of the files of the modules that were executed here; see :mod:`handoff_mpi.module_files`."""
    modules = [module for known in _by_name.values() for module in known]
    return pack({module.about[1]: module.name for module in modules if module.original is not None})
