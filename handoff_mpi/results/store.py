"""Where values rest: the port, and its adapters in memory and in a directory."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from handoff_mpi.encoding import EncodingError, Payload, read_payload, write_payload
from handoff_mpi.errors import ValueUnavailable
from handoff_mpi.results.uncached import UncachedWriter

#: (run, function id): keyed by run, so that no run ever sees another's value.
Key: TypeAlias = "tuple[str, Hashable]"


@runtime_checkable
class ResultStore(Protocol):
    """Keeps payloads (opaque tuples, see :mod:`handoff_mpi.encoding`) by key. One per rank, never shared."""

    def put(self, key: Key, payload: Payload) -> None: ...
    def get(self, key: Key) -> Payload:
        """Return what was put under ``key``.

        Raises:
            KeyError: nothing was, or it was deleted.
        """
        ...

    def has(self, key: Key) -> bool: ...
    def delete(self, key: Key) -> None:
        """Forget ``key``; no error if it is not there."""
        ...


#: Makes the store of a rank.
StoreFactory: TypeAlias = "Callable[[int], ResultStore]"


class MemoryStore:
    """Payloads in memory, in a dict for each run: so the keys of a million values are not kept with them."""

    def __init__(self, rank: int = 0) -> None:
        self._runs: dict[str, dict[Hashable, Payload]] = {}

    def put(self, key: Key, payload: Payload) -> None:
        run, name = key
        self._runs.setdefault(run, {})[name] = payload

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
        """Forget all values, whoever still refers to this store."""
        self._runs.clear()


class DirectoryStore:
    """Payloads as files, written under another name and renamed when they are whole.

    Args:
        directory: made if it is not there; shared by the ranks of a job if values should outlast one.
        is_cached: whether the system may keep what was put in memory too, which counts where memory is limited.
    """

    def __init__(self, directory: Path, is_cached: bool = True) -> None:
        self.directory = Path(directory)
        self._is_cached = is_cached

    def path(self, key: Key) -> Path:
        """Return where the value of ``key`` is, or would be."""
        import hashlib  # loads OpenSSL, for the few ranks and runs that keep files

        digest = hashlib.sha256(repr(key).encode()).hexdigest()[:40]
        return self.directory / f"{digest}.value"

    def put(self, key: Key, payload: Payload) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.path(key)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            with partial.open("wb") as file:
                writer = file if self._is_cached else UncachedWriter(file)
                write_payload(writer.write, payload)
                writer.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def get(self, key: Key) -> Payload:
        path = self.path(key)
        try:
            with path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except FileNotFoundError:
            raise KeyError(key) from None
        except (OSError, ValueError) as error:
            raise ValueUnavailable(f"the value of {key[1]!r} in {path} cannot be read: {error}") from error
        try:
            return read_payload(data)
        except EncodingError as error:
            raise ValueUnavailable(f"the value of {key[1]!r} in {path} cannot be read: {error}") from error

    def has(self, key: Key) -> bool:
        return self.path(key).exists()

    def is_whole(self, key: Key) -> bool:
        """Whether the value is there, and its file is not cut short."""
        try:
            self.get(key)
        except (KeyError, ValueUnavailable):
            return False
        return True

    def delete(self, key: Key) -> None:
        self.path(key).unlink(missing_ok=True)
