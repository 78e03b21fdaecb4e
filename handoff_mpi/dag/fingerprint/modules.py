"""Identifies modules: by name, by version, or by the content of their files."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import sys
import sysconfig
import types
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import cloudpickle

from handoff_mpi.carried_modules import CARRIED_NAMES
from handoff_mpi.dag.fingerprint.bytecode import Import
from handoff_mpi.dag.fingerprint.nodes import Unfit
from handoff_mpi.dag.fingerprint.values import vars_of
from handoff_mpi.version import VERSION

if TYPE_CHECKING:
    from importlib.metadata import Distribution

#: Of the metadata of a distribution. The parser of importlib.metadata takes half a millisecond for each.
_VERSION = re.compile(r"^version:[ \t]*(\S.*)$", re.IGNORECASE | re.MULTILINE)
_WITHOUT_SOURCE = (*importlib.machinery.EXTENSION_SUFFIXES, *importlib.machinery.BYTECODE_SUFFIXES)


class Modules:
    """Where modules come from. None is imported to find out."""

    def __init__(self) -> None:
        self._by_value = {*cloudpickle.list_registry_pickle_by_value(), *CARRIED_NAMES}
        self._specs: dict[str, importlib.machinery.ModuleSpec | None] = {}
        self._distributions: dict[str, tuple[str, ...]] = {}
        self._scripts: dict[str, bool] = {}
        self._stdlib = _stdlib()

    def is_script(self, name: str) -> bool:
        """Whether definitions of the module ``name`` are pickled by value."""
        known = self._scripts.get(name)
        if known is None:
            known = name in ("__main__", "__mp_main__") or name.startswith("handoff_dag_") or name in self._by_value
            parent = name.rpartition(".")[0]
            known = self._scripts[name] = known or (bool(parent) and self.is_script(parent))
        return known

    def home_of(self, function: types.FunctionType) -> str | None:
        """Return the imported module whose code ``function`` is; None if it travels by value.

        Its ``__module__`` does not tell: functools.wraps sets that to the wrapped function's.
        """
        name = function.__globals__.get("__name__")
        if type(name) is not str or self.is_script(name):
            return None
        module: object = sys.modules.get(name)
        return name if module is not None and vars_of(module) is function.__globals__ else None

    def holds(self, name: str, qualname: str, thing: object) -> bool:
        """Whether ``thing`` is what ``qualname`` of the module ``name`` stands for."""
        module: object = sys.modules.get(name)
        if module is None or "<" in qualname:
            return False
        first, *rest = qualname.split(".")
        found = vars_of(module).get(first)
        try:
            for attribute in rest:
                found = getattr(found, attribute)
        except Exception:
            return False
        return found is thing

    def homes_of(self, name: str, thing: object) -> list[str]:
        """Return the modules that hold ``thing`` by ``name``, those with a version first."""
        homes = [each for each in list(sys.modules) if self.holds(each, name, thing)]
        return sorted(homes, key=lambda home: (self.belongs(home) is None, home))

    def spec(self, name: str) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a module, imported or not; None if there is none."""
        if name not in self._specs:
            self._specs[name] = self._find(name)
        return self._specs[name]

    def _find(self, name: str) -> importlib.machinery.ModuleSpec | None:
        module: object = sys.modules.get(name)
        if module is not None:
            return vars_of(module).get("__spec__")
        path: Sequence[str] | None = None
        parent = self.spec(name.rpartition(".")[0]) if "." in name else None
        if parent is not None:
            path = parent.submodule_search_locations
        if path is None and "." in name:
            return None
        found = (finder.find_spec(name, path) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        return next((spec for spec in found if spec is not None), None)

    def belongs(self, name: str) -> tuple[str, ...] | None:
        """Return the source of a module's version, or None if only its file shows a change."""
        top = name.partition(".")[0]
        if top == "handoff_mpi":
            return (f"{top} {VERSION}",)
        place = self._place(name) or self._place(top)
        if place in ("built-in", "frozen") or name == "builtins":
            return ("python",)
        if "/site-packages/" in place or "/dist-packages/" in place:
            if top not in self._distributions:
                self._distributions[top] = self._distributions_of(top)
            return self._distributions[top] or None
        if place.startswith(self._stdlib):
            return ("python",)
        if not place and name not in sys.modules:
            return ("absent",)
        return None

    def _place(self, name: str) -> str:
        spec = self.spec(name)
        if spec is None:
            return ""
        return spec.origin or next(iter(spec.submodule_search_locations or ()), "")

    def _distributions_of(self, top: str) -> tuple[str, ...]:
        """Most are named as their module; looking through the files of all takes longer."""
        from importlib import metadata  # slow to import, and for functions that use installed packages alone

        def versions_of(names: Iterable[str]) -> tuple[str, ...]:
            try:
                versions = [(name, version_of(metadata.distribution(name))) for name in sorted(set(names))]
            except metadata.PackageNotFoundError:
                return ()
            return tuple(f"{name} {version}" for name, version in versions if version)

        return versions_of([top]) or versions_of(metadata.packages_distributions().get(top, ()))

    def imported(self, imported: Import, package: Any) -> list[str]:
        """Return the names of the modules that an import statement imports, those beneath packages left out."""
        level, name, names = imported
        try:
            if level:
                name = importlib.util.resolve_name("." * level + name, package)
        except (ImportError, TypeError, AttributeError):
            return []
        if not names:  # it binds the whole package
            return [name, *self.beneath(name.partition(".")[0])]
        found = [name]
        spec = None if self.belongs(name) is not None else self.spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            found += [f"{name}.{each}" for each in names if self.spec(f"{name}.{each}") is not None]
        return found

    def beneath(self, name: str) -> list[str]:
        """Return the modules in a package of the user's own, those which are loaded: any attribute may lead there."""
        if self.belongs(name) is not None or self.is_script(name):
            return []
        return sorted(each for each in list(sys.modules) if each.startswith(f"{name}."))

    def source(self, name: str) -> bytes | None:
        """Return the source of a module of the user's own; None if it has another kind of file, or none."""
        origin = self._origin(name)
        if origin is None or origin.endswith(_WITHOUT_SOURCE):
            return None
        return importlib.machinery.SourceFileLoader(name, origin).get_data(origin)

    def binary(self, name: str) -> types.CodeType | bytes:
        """Return the code of a module of the user's own that has no source, or its bytes if it is compiled."""
        origin = self._origin(name)
        if origin is None:  # a namespace package
            return b""
        if origin.endswith(tuple(importlib.machinery.BYTECODE_SUFFIXES)):
            return importlib.machinery.SourcelessFileLoader(name, origin).get_code(name) or b""
        return importlib.machinery.ExtensionFileLoader(name, origin).get_data(origin)

    def _origin(self, name: str) -> str | None:
        spec = self.spec(name)
        if spec is None:
            raise Unfit(f"the module {name!r} has no file")
        return spec.origin


@cache
def _stdlib() -> tuple[str, ...]:
    """Return the directories of the standard library."""
    paths = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    return tuple(f"{path}/" for path in paths if path)


def version_of(distribution: Distribution) -> str | None:
    """Return the version of a distribution; None if its metadata have none."""
    found = _VERSION.search(distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or "")
    return distribution.version if found is None else found[1]


def code_of(source: bytes) -> types.CodeType:
    """Return the code of a module with that source."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they came up when it was imported
        return compile(source, "<module>", "exec", dont_inherit=True)
