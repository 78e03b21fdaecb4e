"""Guards the user's own store: what goes wrong in it costs no rank, loses no value unseen, and gives no wrong one."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from handoff_mpi.callbacks import CallbackFailed, call, shown
from handoff_mpi.encoding import PICKLED, PLAIN, Payload, is_plain
from handoff_mpi.errors import UsageError, ValueUnavailable
from handoff_mpi.results.store import Key, MemoryStore, ResultStore, StoreFactory
from handoff_mpi.signatures import STORE, find_problem
from handoff_mpi.speech import say

#: What tells a payload from another: bytes that it holds, and a checksum of them.
_Mark = tuple[int, int]


class GuardedStore:
    """A store of the user's. What it does not take stays in memory; what it cannot give back counts as gone.

    Whatever the store returns is compared with what was put: None, another value and a damaged one count as gone too.
    Once it has lost a value it receives no more, or what is computed again might be lost again, for ever.

    Args:
        factory: makes it.
        rank: whose it is.

    Raises:
        UsageError: it cannot be made, or is no store.
    """

    def __init__(self, factory: StoreFactory, rank: int) -> None:
        self._store = _make(factory, rank)
        self._untaken = MemoryStore()
        self._marks: dict[Key, _Mark] = {}
        self._told: set[str] = set()
        self._has_lost = False

    def put(self, key: Key, payload: Payload) -> None:
        self._untaken.delete(key)
        self._marks.pop(key, None)
        if not self._has_lost:
            mark = _mark_of(payload)
            try:
                call(self._store.put, key, payload)
            except CallbackFailed as error:
                self._tell("put", f"failed: {error}", "values stay in memory")
            else:
                self._marks[key] = mark
                return
        self._untaken.put(key, payload)

    def get(self, key: Key) -> Payload:
        if self._untaken.has(key):
            return self._untaken.get(key)
        if key not in self._marks:
            raise KeyError(key)
        try:
            answer = call(self._store.get, key)
            payload: Payload = call(_payload_in, answer)  # a class of the store's own may raise where it is looked at
            trouble = self._what_is_wrong_with(answer, payload, self._marks[key])
        except CallbackFailed as error:
            payload, trouble = (), f"failed: {error}"
        if not trouble:
            return payload
        self._has_lost = True
        self._tell("get", trouble, "what it has lost is computed again, and values stay in memory from now on")
        raise ValueUnavailable(f"result_store.get {trouble}")

    def _what_is_wrong_with(self, answer: Any, payload: Payload, mark: _Mark) -> str:
        if not payload:
            return f"returned {shown(answer)}, which is not the payload that was put"
        return "" if _mark_of(payload) == mark else "returned another payload than was put"

    def delete(self, key: Key) -> None:
        self._untaken.delete(key)
        if self._marks.pop(key, None) is None:
            return
        try:
            call(self._store.delete, key)
        except CallbackFailed as error:
            self._tell("delete", f"failed: {error}", "the value is left there")

    def _tell(self, verb: str, trouble: str, then: str) -> None:
        if verb not in self._told:  # once: there may be very many
            self._told.add(verb)
            say(f"result_store.{verb} {trouble}; {then}")


def _payload_in(answer: Any) -> Payload:
    """Return ``answer`` as a tuple; an empty one if it is not a payload."""
    payload = tuple(answer) if isinstance(answer, (tuple, list)) else ()
    return payload if is_payload(payload) else ()


def is_payload(answer: Any) -> bool:
    """Whether ``answer`` has the form of a payload; a list will do, as some formats know no tuples."""
    if not isinstance(answer, (tuple, list)) or len(answer) < 2:
        return False
    kind, head, *buffers = answer
    if type(kind) is int and kind == PLAIN:
        return not buffers and is_plain(head)
    return bool(kind == PICKLED) and type(kind) is int and all(_is_buffer(part) for part in (head, *buffers))


def _is_buffer(part: Any) -> bool:
    try:
        memoryview(part).release()
    except TypeError:
        return False
    return True


def _mark_of(payload: Payload) -> _Mark:
    if payload[0] == PLAIN:
        return -1, zlib.crc32(repr(payload[1]).encode(errors="backslashreplace"))
    checksum = nbytes = 0
    for part in payload[1:]:
        with memoryview(part) as view:
            checksum = zlib.crc32(view, checksum)
            nbytes += view.nbytes
    return nbytes, checksum


def _make(factory: Callable[[int], Any], rank: int) -> ResultStore:
    try:
        store = call(factory, rank)
    except CallbackFailed as error:
        raise UsageError(f"result_store({rank}) failed: {error}") from error
    problem = find_problem(store, STORE)
    if problem:
        raise UsageError(f"result_store({rank}) made {shown(store)}, {problem}")
    return store  # type: ignore[no-any-return]
