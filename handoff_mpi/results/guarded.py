"""The user's own store, behind a guard: what goes wrong in it costs no rank, and no value that it did not take."""

from __future__ import annotations

from typing import Any

from handoff_mpi.encoding import Payload
from handoff_mpi.errors import UsageError, ValueUnavailable
from handoff_mpi.results.store import Key, MemoryStore, ResultStore, StoreFactory
from handoff_mpi.speech import say


class GuardedStore:
    """A store of the user's. What it does not take stays in memory; what it cannot give back counts as gone.

    Once it has lost a value it is given no more, or what is computed again might be lost again, for ever.

    Args:
        factory: makes it.
        rank: whose it is.

    Raises:
        UsageError: it cannot be made, or is no store.
    """

    def __init__(self, factory: StoreFactory, rank: int) -> None:
        self._store = _make(factory, rank)
        self._untaken = MemoryStore()
        self._told: set[str] = set()
        self._has_lost = False

    def put(self, key: Key, payload: Payload) -> None:
        self._untaken.delete(key)
        if self._has_lost:
            self._untaken.put(key, payload)
            return
        try:
            self._store.put(key, payload)
        except Exception as error:
            self._tell("put", error, "values stay in memory")
            self._untaken.put(key, payload)

    def get(self, key: Key) -> Payload:
        if self._untaken.has(key):
            return self._untaken.get(key)
        try:
            return self._store.get(key)
        except Exception as error:
            self._has_lost = True
            self._tell("get", error, "what it has lost is computed again, and values stay in memory from now on")
            if isinstance(error, KeyError):
                raise
            raise ValueUnavailable(f"result_store.get failed: {_in_words(error)}") from error

    def has(self, key: Key) -> bool:
        try:
            return self._untaken.has(key) or self._store.has(key)
        except Exception as error:
            self._tell("has", error, "its values count as gone")
            return False

    def delete(self, key: Key) -> None:
        self._untaken.delete(key)
        try:
            self._store.delete(key)
        except Exception as error:
            self._tell("delete", error, "the value is left there")

    def _tell(self, verb: str, error: Exception, then: str) -> None:
        if verb not in self._told:  # once: there may be very many
            self._told.add(verb)
            say(f"result_store.{verb} failed: {_in_words(error)}; {then}")


def _make(factory: Any, rank: int) -> ResultStore:
    try:
        store = factory(rank)
    except Exception as error:
        raise UsageError(f"result_store({rank}) failed: {_in_words(error)}") from error
    if not isinstance(store, ResultStore):
        raise UsageError(f"result_store({rank}) made {store!r}, which lacks put, get, has or delete")
    return store


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
