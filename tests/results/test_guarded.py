"""A store of the user's that fails, in each of its four ways."""

from __future__ import annotations

import pytest

from handoff_mpi.encoding import decode, encode
from handoff_mpi.errors import UsageError, ValueUnavailable
from handoff_mpi.results import MemoryStore, ResultStore
from handoff_mpi.results.guarded import GuardedStore

KEY = ("run", 1)


class Away(MemoryStore):
    """Fails in what ``verbs`` names."""

    verbs: tuple[str, ...] = ()

    def put(self, key, payload):
        self._fail("put")
        super().put(key, payload)

    def get(self, key):
        self._fail("get")
        return super().get(key)

    def has(self, key):
        self._fail("has")
        return super().has(key)

    def delete(self, key):
        self._fail("delete")
        super().delete(key)

    def _fail(self, verb):
        if verb in self.verbs:
            raise OSError("it is away")


def guarded(*verbs):
    return GuardedStore(type("Store", (Away,), {"verbs": verbs}), 3)


def test_it_is_a_store_itself():
    store = guarded()
    assert isinstance(store, ResultStore)
    store.put(KEY, encode("x"))
    assert store.has(KEY)
    assert decode(store.get(KEY)) == "x"
    store.delete(KEY)
    assert not store.has(KEY)
    with pytest.raises(KeyError):
        store.get(KEY)


def test_what_it_does_not_take_stays_in_memory(capsys):
    store = guarded("put", "get", "has")
    store.put(KEY, encode("x"))
    store.put(KEY, encode("y"))
    assert store.has(KEY)
    assert decode(store.get(KEY)) == "y"
    assert capsys.readouterr().err.count("result_store.put failed: OSError: it is away") == 1
    store.delete(KEY)
    assert not store.has(KEY)


def test_what_it_cannot_give_back_counts_as_gone():
    store = guarded("get")
    store.put(KEY, encode("x"))
    with pytest.raises(ValueUnavailable, match="it is away"):
        store.get(KEY)
    store.put(KEY, encode("again"))
    assert decode(store.get(KEY)) == "again", "else it would be lost, and computed again, for ever"


def test_what_it_cannot_delete_is_left_there(capsys):
    store = guarded("delete")
    store.put(KEY, encode("x"))
    store.delete(KEY)
    assert "result_store.delete failed" in capsys.readouterr().err


def test_what_is_no_store_is_refused():
    with pytest.raises(UsageError, match=r"result_store\(3\) made .* lacks put"):
        GuardedStore(lambda rank: object(), 3)
    with pytest.raises(UsageError, match=r"result_store\(3\) failed: ZeroDivisionError"):
        GuardedStore(lambda rank: 1 // 0, 3)
