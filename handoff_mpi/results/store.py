"""Where values rest: the port, and its adapters in memory and in a directory."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from handoff_mpi.errors import UntrustedFile, ValueDamaged
from handoff_mpi.results.secure_files import Directory, open_directory
from handoff_mpi.results.uncached import UncachedWriter
from handoff_mpi.results.value_file import DamagedValue, find_parts, read_value, write_value
from handoff_mpi.serialization import Payload

#: (run, task): keyed by run, so that no run ever sees another's value; the task is its number.
Key: TypeAlias = "tuple[str, int]"

_SUFFIX = ".value"


@runtime_checkable
class ResultStore(Protocol):
    """Keeps payloads (tuples, see :mod:`handoff_mpi.serialization`) by key. One per rank and run, never shared.

    It may have a method ``close()`` too, which is called once the run is over: no value is asked for after that.
    """

    def put(self, key: Key, payload: Payload, /) -> object:
        """Keep ``payload`` under ``key``, in place of what may be there; what it returns is ignored."""
        ...

    def get(self, key: Key, /) -> Payload:
        """Return what was put under ``key``.

        Raises:
            KeyError: nothing was, or it was deleted.
        """
        ...

    def delete(self, key: Key, /) -> object:
        """Forget ``key``, which is there; what it returns is ignored."""
        ...


@runtime_checkable
class PickleStore(Protocol):
    """A result store that keeps each value as one ordinary pickle, which ``pickle.loads`` reads anywhere.

    As :class:`ResultStore`, except that ``put`` is given bytes, and ``get`` returns them.
    """

    #: "pickle" tells it from a store of payloads.
    form: str

    def put(self, key: Key, pickled: bytes, /) -> object: ...
    def get(self, key: Key, /) -> bytes: ...
    def delete(self, key: Key, /) -> object: ...


#: Makes the store of a rank.
StoreFactory: TypeAlias = "Callable[[int], ResultStore | PickleStore]"


class MemoryStore:
    """Payloads in memory, in a dict for each run: so the keys of a million values are not kept with them."""

    def __init__(self, rank: int = 0) -> None:
        self._runs: dict[str, dict[Hashable, Payload]] = {}

    def put(self, key: Key, payload: Payload) -> None:
        run, name = key
        values = self._runs.get(run)
        if values is None:
            values = self._runs[run] = {}
        values[name] = payload

    def get(self, key: Key) -> Payload:
        run, name = key
        return self._runs[run][name]

    def has(self, key: Key) -> bool:
        run, name = key
        return name in self._runs.get(run, ())

    def delete(self, key: Key) -> None:
        run, name = key
        self._runs.get(run, {}).pop(name, None)

    def clear(self) -> None:
        """Forget all values, also where others still refer to this store."""
        self._runs.clear()

    def __str__(self) -> str:
        return "memory"


class DirectoryStore:
    """Payloads as files, written under another name and renamed when they are whole; read with their checksum.

    Args:
        directory: made if it is not there; shared by the ranks of a job if values should outlast one.
        is_cached: whether the system may keep what was put in memory too, which counts where memory is limited.
        within: the open directory that holds it; None goes by its path.
    """

    def __init__(self, directory: Path | Directory, is_cached: bool = True, within: Directory | None = None) -> None:
        self._opened = directory if isinstance(directory, Directory) else None
        self._may_open = self._opened is None
        self.directory = directory.path if isinstance(directory, Directory) else Path(directory)
        self._is_cached = is_cached
        self._within = within

    def __str__(self) -> str:
        return str(self.directory)

    def path(self, key: Key) -> Path:
        """Return where the value of ``key`` is, or would be."""
        return self.directory / _name(key)

    def put(self, key: Key, payload: Payload) -> None:
        """Write a payload to its file.

        Raises:
            OSError: it cannot be written, or the directory cannot be trusted.
        """
        try:
            self._put(self._open(makes=True), key, payload)
        except OSError:
            if not self._forget_if_removed():
                raise
            self._put(self._open(makes=True), key, payload)

    def _put(self, directory: Directory, key: Key, payload: Payload) -> None:
        name = _name(key)
        fd, partial = directory.create_partial(name.removesuffix(_SUFFIX))
        try:
            with os.fdopen(fd, "wb") as file:
                writer = file if self._is_cached else UncachedWriter(file)
                write_value(writer.write, _text(key), payload)
                writer.flush()
                os.fsync(file.fileno())
            directory.replace(partial, name)
        except BaseException:
            with suppress(OSError):
                directory.remove(partial)
            raise

    def get(self, key: Key) -> Payload:
        """Return a payload, checked.

        Raises:
            KeyError: there is no file of it.
            ValueDamaged: the file is damaged, is another value's, or somebody else could have written it.
        """
        data = self._map(key)
        try:
            return read_value(data, _text(key))
        except DamagedValue as error:
            raise ValueDamaged(f"{self.path(key)} {error}") from error

    def has(self, key: Key) -> bool:
        try:
            return self._open(makes=False).status(_name(key)) is not None
        except OSError:
            return False

    def check(self, key: Key) -> None:
        """Look at the file of a value, but do not read all of it: its checksum is for :meth:`get`.

        Raises:
            KeyError, ValueDamaged: as there.
        """
        try:
            find_parts(self._map(key), _text(key))
        except DamagedValue as error:
            raise ValueDamaged(f"{self.path(key)} {error}") from error

    def is_intact(self, key: Key) -> bool:
        """Whether the value is there, and its file neither cut short nor another's."""
        try:
            self.check(key)
        except (KeyError, ValueDamaged):
            return False
        return True

    def delete(self, key: Key) -> None:
        """Remove the file of a value.

        Raises:
            OSError: it cannot be removed.
        """
        try:
            self._open(makes=False).remove(_name(key))
        except FileNotFoundError:
            pass

    def clear(self) -> None:
        """Remove all files, as far as that is possible."""
        with suppress(OSError):
            self._open(makes=False).clear()

    def close(self) -> None:
        """Let go of the directory; it is opened again if need be."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _open(self, makes: bool) -> Directory:
        if self._opened is None:
            if not self._may_open:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.directory))
            try:
                if self._within is not None:
                    self._opened = self._within.child(self.directory.name, makes)
                else:
                    self._opened = open_directory(self.directory.absolute(), makes)
            except UntrustedFile as error:
                raise PermissionError(errno.EPERM, str(error)) from error
        return self._opened

    def _forget_if_removed(self) -> bool:
        """Let go of a directory that has vanished, if another may be opened; return whether that is so."""
        if not self._may_open or self._opened is None or not self._opened.is_removed:
            return False
        self.close()
        return True

    def _map(self, key: Key) -> mmap.mmap:
        try:
            fd = self._open(makes=False).open(_name(key))
        except FileNotFoundError:
            if self._forget_if_removed():  # another rank may have made it again
                return self._map(key)
            raise KeyError(key) from None
        except UntrustedFile as error:
            raise ValueDamaged(str(error)) from error
        except OSError as error:
            raise ValueDamaged(f"{self.path(key)} cannot be read: {error.strerror or error}") from error
        try:
            return mmap.mmap(fd, 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:  # it is empty
            raise ValueDamaged(f"{self.path(key)} cannot be read: {error}") from error
        finally:
            os.close(fd)


def _text(key: Key) -> bytes:
    return repr(key).encode("utf-8", "backslashreplace")


def _name(key: Key) -> str:
    import hashlib  # loads OpenSSL, for the few ranks and runs that keep files

    return hashlib.sha256(_text(key)).hexdigest()[:40] + _SUFFIX
