"""Remembers where the modules of a run lay, so that a load elsewhere can name the directory that it needs."""

from __future__ import annotations

import io
import pickle
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from handoff_mpi.serialization import PICKLED, Payload

#: So many directories are named where it is not known in which one a module lay.
_MAX_DIRECTORIES = 5
_INSTALLED = tuple({f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")})


@dataclass(frozen=True, slots=True)
class Origins:
    """Where a run found modules that are neither Python's own nor installed.

    Attributes:
        host: the name of rank 0's machine.
        directories: those that modules are looked for in, in order.
        modules: top-level module, of those that rank 0 had imported, to the directory it lay in.
    """

    host: str = ""
    directories: tuple[str, ...] = ()
    modules: Mapping[str, str] = field(default_factory=dict)

    def why_undecodable(self, payload: Payload, error: BaseException | None) -> str:
        """Return what is missing here to decode ``payload``, which raised ``error``; empty if that is not known."""
        if not isinstance(error, (ImportError, AttributeError)) or payload[0] != PICKLED:
            return ""
        module, name = _last_looked_up(payload)
        missing = (error.name or module) if isinstance(error, ImportError) else module
        who = f"class {module}.{name}" if module == missing or module.startswith(f"{missing}.") else "it"
        if isinstance(error, ModuleNotFoundError):
            return f"{who} needs module {missing}, which is not found here{self._where(missing)}"
        found = getattr(sys.modules.get(missing), "__file__", None) or "another place"
        return f"{who} needs another version of module {missing} than that in {found}{self._where(missing)}"

    def _where(self, module: str) -> str:
        """Return in words where the run found ``module``, and what to do."""
        on_host = f" on {self.host}" if self.host else ""
        directory = self.modules.get(module.partition(".")[0])
        if directory is not None:
            return f"; in the run it lay in {directory}{on_host}: add that directory, or a copy of it, to PYTHONPATH"
        if not self.directories:
            return "; add the directory that holds it to PYTHONPATH"
        named = ", ".join(self.directories[:_MAX_DIRECTORIES])
        place = f"the run looked in {named} and among what was installed{on_host}"
        return f"; {place}: add the directory that holds it, or a copy of it, to PYTHONPATH"


def _attribute(module: object, name: str) -> object:
    """Return an attribute of what a program has put among the modules, also where its own code raises."""
    try:
        return getattr(module, name, None)
    except Exception:
        return None


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # it may not be looked at
        return False


def origins_here(host: str) -> Origins:
    """Return where this process finds modules."""
    modules = {}
    for name, module in list(sys.modules.items()):
        file = _attribute(module, "__file__")
        if "." not in name and isinstance(file, str) and not file.startswith(_INSTALLED):
            place = Path(file).absolute().parent
            modules[name] = str(place if _attribute(module, "__path__") is None else place.parent)
    paths = [Path(entry).absolute() for entry in sys.path if isinstance(entry, str)]
    own = [str(path) for path in paths if not f"{path}/".startswith(_INSTALLED) and _is_directory(path)]
    return Origins(host, tuple(dict.fromkeys(own)), modules)


def _last_looked_up(payload: Payload) -> tuple[str, str]:
    """Return module and name of the last global that is looked up before decoding fails."""
    looked_up = _LookUps(payload)
    try:
        looked_up.load()
    except Exception:
        pass  # as it did before
    return looked_up.last


class _LookUps(pickle.Unpickler):
    """Notes what is looked up."""

    def __init__(self, payload: Payload) -> None:
        super().__init__(io.BytesIO(payload[1]), buffers=payload[2:])
        self.last = ("", "")

    def find_class(self, module: str, name: str) -> object:
        self.last = (module, name)
        return super().find_class(module, name)
