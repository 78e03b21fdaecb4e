"""Provides the source files of carried modules: as text on hosts that lack them, and as imports for a fresh Python.

A fresh process that multiprocessing starts (``spawn``, ``forkserver``) imports a module by name, and executes its
file. Where no import would find that file under this name, this module writes a file that executes it into a directory
of the process.
"""

from __future__ import annotations

import atexit
import importlib.machinery
import os
import sys
import zlib
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from handoff_mpi.python_path import add_private_directory

#: The largest text, compressed, that is sent to other ranks.
MAX_SOURCE_NBYTES = 1 << 16
#: The text from rank 0 of files that this host lacks: plain, and compressed.
_texts: dict[str, str] = {}
_packed: dict[str, bytes] = {}


class Loader(importlib.machinery.SourceFileLoader):
    """Returns the source of a module, also on hosts that do not have its file."""

    def get_source(self, fullname: str) -> str | None:
        try:
            return super().get_source(fullname)
        except (ImportError, OSError):
            return _texts.get(self.path)


def is_file(file: str) -> bool:
    """Whether ``file`` of a module is the path of a file, and not a name for there being none."""
    return not file.startswith("<")


def read_text(name: str, file: str) -> str | None:
    """Return the text of the file of the module ``name``; None if there is none."""
    try:
        return Loader(name, file).get_source(name) if is_file(file) else None
    except (SyntaxError, UnicodeDecodeError):
        return None


def pack(files: Mapping[str, str]) -> dict[str, bytes]:
    """Return the text of files, compressed, of those that are short enough to travel.

    Args:
        files: path to the name of its module.
    """
    texts = {file: read_text(name, file) for file, name in files.items()}
    packed = {file: zlib.compress(text.encode("utf-8", "surrogatepass")) for file, text in texts.items() if text}
    return {file: each for file, each in packed.items() if len(each) <= MAX_SOURCE_NBYTES}


def take_sources(packed: Mapping[str, bytes]) -> None:
    """Keep the text of files that this host does not have."""
    for file, each in packed.items():
        if not Path(file).is_file():
            _texts[file] = zlib.decompress(each).decode("utf-8", "surrogatepass")
            _packed[file] = each


def missing_sources() -> dict[str, bytes]:
    """Return the compressed text of the files that this host does not have."""
    return dict(_packed)


#: The file that is found by the name of a module. This package itself may not be found in a fresh Python.
_FINDER = """
try:
    from {room} import restart
    restart(globals(), {file!r}, {text!r})
except ImportError as error:
    _why = "{{}} cannot be executed: {{}}".format({file!r}, error)
    def __getattr__(name):
        if name.startswith("__"):
            raise AttributeError(name)
        def fail(*args, **options):
            raise ImportError(_why)
        return fail
"""


def make_findable(name: str, file: str) -> None:
    """Have a fresh Python that multiprocessing starts find the module by its name, if it would not find the file."""
    if "." in name or name == "__main__" or not is_file(file):
        return
    real = Path(os.path.realpath(file))
    if real.stem == name and real.is_file():
        return
    if any(isinstance(entry, str) and Path(entry, f"{name}.py").is_file() for entry in sys.path):
        return  # the rank that started this child has written the file
    with suppress(OSError):  # then only pools of multiprocessing cannot find the module
        _write_finder(name, file)


def _write_finder(name: str, file: str) -> None:
    import tempfile  # which few processes need

    directory = tempfile.mkdtemp(prefix="handoff-module-")
    atexit.register(_remove, directory, os.getpid())
    text = _FINDER.format(room=__name__, file=file, text=_texts.get(file))
    Path(directory, f"{name}.py").write_text(text, "utf-8", "backslashreplace")
    add_private_directory(directory)


def _remove(directory: str, process: int) -> None:
    import shutil

    if os.getpid() == process:
        shutil.rmtree(directory, ignore_errors=True)


def restart(contents: dict[str, Any], file: str, text: str | None) -> None:
    """Fill the module that a fresh Python has found. If that fails, each of its functions raises with the reason.

    The error is raised so late because a pool replaces a process that fails while it unpickles its task, for ever.
    """
    name = contents["__name__"]
    if text is not None:
        _texts[file] = text
    contents["__file__"] = file
    contents["__loader__"] = loader = Loader(name, file)
    try:
        exec(compile(loader.get_source(name) or "", file, "exec", dont_inherit=True), contents)
    except Exception as error:
        contents["__getattr__"] = partial(_give_failing, f"{file} cannot be executed: {type(error).__name__}: {error}")


def _give_failing(why: str, name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(name)
    return partial(_fail, f"{name} is not there: {why}")


def _fail(why: str, *args: object, **options: object) -> object:
    raise ImportError(why)
