"""Finds the changes that loading ``dag.py`` makes in the process of rank 0, which alone loads it.

What the import of a library changes does not count: a rank that imports the same library changes it as well. So this
module compares the state before and after each stretch of code between two imports.
"""

from __future__ import annotations

import builtins
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from handoff_mpi.python_path import is_of_user
from handoff_mpi.worker.draws import NUMPY, RANDOM, names_reached
from handoff_mpi.worker.randomness import global_states
from handoff_mpi.worker.thread_limits import VARIABLES as THREAD_VARIABLES

#: So many environment variables are named.
_MAX_NAMED = 3
#: What a rank's children take over from it.
_INHERITED = ("os.environ", "the working directory")
#: The global generators that calls draw from.
SEEDS = {RANDOM: "the seed of random", NUMPY: "the seed of numpy.random"}
#: Frames of a file of such a name are left out where a warning says which line of dag.py it is about.
_HIDDEN_FILE = "<importlib._bootstrap of handoff_mpi>"

State: TypeAlias = "dict[str, Any]"


def _environment() -> State:
    variables = dict(os.environ._data)  # type: ignore[attr-defined]
    for name in THREAD_VARIABLES:  # calls have those of their claim
        variables.pop(os.fsencode(name), None)
    return {"os.environ": variables, "the recursion limit": sys.getrecursionlimit(), "the working directory": _cwd()}


def _cwd() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 (as of process_state)
    except OSError:
        return None


def _logging(logging: Any) -> State:
    loggers = [logging.root, *(each for each in logging.root.manager.loggerDict.values() if hasattr(each, "handlers"))]
    levels = {each.name: (each.level, each.disabled) for each in loggers if each.level or each.disabled}
    handlers = {each.name: list(each.handlers) for each in loggers if each.handlers}
    return {"the logging level": (levels, logging.root.manager.disable), "logging handlers": handlers}


def _decimal(decimal: Any) -> State:
    context = decimal.getcontext()
    names = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp", "traps")
    return {"the decimal context": [repr(getattr(context, name)) for name in names]}


def _multiprocessing(multiprocessing: Any) -> State:
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    return {"the start method of multiprocessing": method}


def _numpy(numpy: Any) -> State:
    return {"numpy's error handling": numpy.geterr(), "numpy's print options": repr(numpy.get_printoptions())}


def _torch(torch: Any) -> State:
    return {"torch's default type": str(torch.get_default_dtype()), "the seed of torch": torch.initial_seed()}


#: By module, what is read of it once it is loaded.
_READERS: dict[str, Callable[[Any], State]] = {
    "logging": _logging,
    "warnings": lambda warnings: {"warnings filters": list(warnings.filters)},
    "locale": lambda locale: {"the locale": locale.setlocale(locale.LC_ALL)},
    "decimal": _decimal,
    "multiprocessing": _multiprocessing,
    "numpy": _numpy,
    "matplotlib": lambda matplotlib: {"matplotlib.rcParams": repr(dict.copy(matplotlib.rcParams))},
    "torch": _torch,
}
#: Names in the code of ``setup(rank)`` that tell that it does the same on every rank; parts of names.
_SIGNS = {
    "os.environ": ("environ", "env"),
    "the logging level": ("log",),
    "logging handlers": ("log",),
    "warnings filters": ("warn", "filter"),
    "the locale": ("locale",),
    "the decimal context": ("context", "decimal"),
    "the start method of multiprocessing": ("start_method",),
    "the recursion limit": ("recursion",),
    "the working directory": ("chdir",),
    "numpy's error handling": ("err",),
    "numpy's print options": ("print",),
    "matplotlib.rcParams": ("matplotlib", "plt", "rc", "use"),
    "torch's default type": ("default",),
    "the seed of torch": ("seed",),
}


def _read() -> State:
    state = _environment()
    for name, read in _READERS.items():
        module = sys.modules.get(name)
        if module is not None:
            try:
                state.update(read(module))
            except Exception:
                pass  # it is half loaded, or not what its name says
    try:
        state.update({SEEDS[each]: value for each, value in global_states().items()})
    except Exception:
        pass
    return state


class Changes:
    """The changes made by the code of one module.

    Attributes:
        settings: what, in words.
        variables: names of environment variables.
    """

    def __init__(self) -> None:
        self.settings: dict[str, None] = {}
        self.variables: dict[str, None] = {}

    def note(self, before: State, now: State) -> None:
        """Take in two states, one before and one after code of that module was executed."""
        for name, value in now.items():
            # What belongs to a module that was not loaded before is as that module made it.
            if name in before and not _is_same(before[name], value):
                self.settings[name] = None
                if name == "os.environ":
                    names = [each for each in {**before[name], **value} if before[name].get(each) != value.get(each)]
                    self.variables.update(dict.fromkeys(map(os.fsdecode, names)))

    def in_words(self, setup: object = None, with_inherited: bool = True) -> str:
        """Return what was changed, without the seeds of calls, and without what ``setup(rank)`` seems to do as well.

        Args:
            setup: that of dag.py, or None.
            with_inherited: whether to name what a rank's children take over.
        """
        names = [name.lower() for name in _names(setup)]
        found = []
        for change in self.settings:
            is_done = any(sign in name for sign in _SIGNS.get(change, ()) for name in names)
            if not is_done and change not in SEEDS.values() and (with_inherited or change not in _INHERITED):
                found += self._variable_names() if change == "os.environ" else [change]
        return listed(found)

    def _variable_names(self) -> list[str]:
        names = [f"os.environ[{name!r}]" for name in islice(self.variables, _MAX_NAMED)]
        more = len(self.variables) - len(names)
        return [*names, *([f"{more} more of os.environ"] if more else [])]


class TopLevel:
    """Notes what code of dag.py changes: all that runs inside :meth:`noting`.

    Args:
        path: dag.py.

    Attributes:
        setup: its ``setup(rank)``, or None.
        own: what dag.py itself has changed.
        imported: what modules of the user have changed as they were imported, by name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.setup: object = None
        self.own = Changes()
        self.imported: dict[str, Changes] = {}
        self._before: State = {}
        self._thread = 0
        self._current: Changes | None = None  # None while a library is imported

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Code of dag.py runs inside."""
        original = builtins.__import__

        def import_module(name: str, *args: Any, **kwargs: Any) -> Any:
            if self._current is None or threading.get_ident() != self._thread or _is_loaded(name, *args):
                return original(name, *args, **kwargs)
            importer = self._begin_import(name, *args)
            try:
                return original(name, *args, **kwargs)
            finally:
                self._end_import(importer)

        import_module.__code__ = import_module.__code__.replace(co_filename=_HIDDEN_FILE)
        self._thread, self._current, self._before = threading.get_ident(), self.own, _read()
        builtins.__import__ = import_module
        try:
            yield
        finally:
            if builtins.__import__ is import_module:
                builtins.__import__ = original
            self.own.note(self._before, _read())
            self._current = None

    def _begin_import(self, *args: Any) -> Changes:
        importer = self._current
        assert importer is not None
        importer.note(self._before, _read())
        name = _absolute_name(*args)
        self._current = self.imported.setdefault(name, Changes()) if is_of_user(name) else None
        self._before = _read()
        return importer

    def _end_import(self, importer: Changes) -> None:
        now = _read()
        if self._current is not None:
            self._current.note(self._before, now)
        self._current, self._before = importer, now


def _is_loaded(name: str, globals: object = None, locals: object = None, fromlist: Any = (), level: int = 0) -> bool:
    """Whether an import only looks up what is there."""
    module = sys.modules.get(name)
    return module is not None and not level and all(each in vars(module) for each in fromlist or ())


def _absolute_name(name: str, globals: Any = None, locals: object = None, fromlist: object = (), level: int = 0) -> str:
    package = (globals or {}).get("__package__") or ""
    return f"{package.rsplit('.', level - 1)[0]}.{name}".strip(".") if level else name


def _names(code: object) -> set[str]:
    try:
        return set() if code is None else names_reached(code)
    except Exception:  # objects of the user may answer anything
        return set()


def _is_same(before: object, after: object) -> bool:
    try:
        return bool(before == after)
    except Exception:
        return False


def listed(items: list[str]) -> str:
    """Return ``a, b and c``."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
