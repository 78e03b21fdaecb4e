"""Guards the user's own store: what goes wrong in it costs no rank, loses no value unseen, and gives no wrong one."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable
from typing import Any

from handoff_mpi.callbacks import CallbackFailed, call, shown
from handoff_mpi.console import print_message
from handoff_mpi.errors import UsageError, ValueUnavailable
from handoff_mpi.results.store import Key, MemoryStore, StoreFactory
from handoff_mpi.serialization import PICKLED, PLAIN, EncodingError, Payload, decode, encode_in_band, is_plain
from handoff_mpi.signatures import MAYBE_OF_STORE, STORE, find_problem

#: What tells a payload from another: bytes that it holds, and a checksum of them.
_Mark = tuple[int, int]
#: What ``put`` of a store may be given: a payload, or one pickle of the value.
FORMS = ("payload", "pickle")


class FallbackStore:
    """A store of the user's. What it does not take stays in memory; what it cannot give back counts as gone.

    It compares each value from the store with the value put: None, another value and a damaged one count as lost.
    Once it has lost a value it receives no more, or what is computed again might be lost again, for ever.

    Args:
        factory: makes it.
        rank: whose it is.

    Raises:
        UsageError: it cannot be made, or is no store.
    """

    def __init__(self, factory: StoreFactory, rank: int) -> None:
        self._store, self._takes_pickles = _make(factory, rank)
        self._untaken = MemoryStore()
        self._marks: dict[Key, _Mark] = {}
        self._told: set[str] = set()
        self._has_lost = False
        self._is_closed = False

    def put(self, key: Key, payload: Payload) -> None:
        self._untaken.delete(key)
        self._marks.pop(key, None)
        if not self._has_lost:
            try:
                self._marks[key] = self._hand_over(key, payload)
                return
            except (CallbackFailed, EncodingError) as error:
                self._tell("put", f"failed: {error}", "values stay in memory")
        self._untaken.put(key, payload)

    def _hand_over(self, key: Key, payload: Payload) -> _Mark:
        given: object = call(pickled, payload) if self._takes_pickles else in_bytes(payload)
        mark = _mark_of((PICKLED, given) if self._takes_pickles else payload)
        call(self._store.put, key, given)
        return mark

    def get(self, key: Key) -> Payload:
        if self._untaken.has(key):
            return self._untaken.get(key)
        if key not in self._marks:
            raise KeyError(key)
        try:
            answer = call(self._store.get, key)
            payload: Payload = call(self._payload_in, answer)  # a class of the store's own may raise when looked at
            trouble = self._what_is_wrong_with(answer, payload, self._marks[key])
        except CallbackFailed as error:
            payload, trouble = (), f"failed: {error}"
        if not trouble:
            return payload
        self._has_lost = True
        self._tell("get", trouble, "what it has lost is computed again, and values stay in memory from now on")
        raise ValueUnavailable(f"result_store.get {trouble}")

    def _payload_in(self, answer: Any) -> Payload:
        """Return ``answer`` as a payload; an empty tuple if it is none."""
        if self._takes_pickles:
            return (PICKLED, bytes(answer)) if _is_buffer(answer) else ()
        payload = tuple(answer) if isinstance(answer, (tuple, list)) else ()
        return payload if is_payload(payload) else ()

    def _what_is_wrong_with(self, answer: Any, payload: Payload, mark: _Mark) -> str:
        what = "pickle" if self._takes_pickles else "payload"
        if not payload:
            return f"returned {shown(answer)}, which is not the {what} that was put"
        return "" if _mark_of(payload) == mark else f"returned another {what} than was put"

    def delete(self, key: Key) -> None:
        self._untaken.delete(key)
        if self._marks.pop(key, None) is None:
            return
        try:
            call(self._store.delete, key)
        except CallbackFailed as error:
            self._tell("delete", f"failed: {error}", "the value is left there")

    def close(self) -> None:
        """Close the user's store, if it can be closed: the run is over."""
        if self._is_closed:
            return
        self._is_closed = True
        self._marks.clear()
        self._untaken.clear()
        try:
            close = call(getattr, self._store, "close", None)
            if close is not None:
                call(close)
        except CallbackFailed as error:
            self._tell("close", f"failed: {error}", "the run is over all the same")

    def _tell(self, verb: str, trouble: str, then: str) -> None:
        if verb not in self._told:  # once: there may be very many
            self._told.add(verb)
            print_message(f"result_store.{verb} {trouble}; {then}")


def pickled(payload: Payload) -> bytes:
    """Return the value of ``payload`` as one pickle, which ``pickle.loads`` reads without this package's help.

    Raises:
        EncodingError: it cannot be unpickled here, or not be pickled in one piece.
    """
    if payload[0] == PLAIN:
        return pickle.dumps(payload[1], protocol=5)
    if len(payload) == 2:
        return bytes(payload[1])
    return pickled(encode_in_band(decode(payload)))


def in_bytes(payload: Payload) -> Payload:
    """Return ``payload`` with memory that any store can keep: a view of an array's cannot be pickled, for one."""
    if payload[0] == PLAIN:
        return payload
    return (PICKLED, *(part if type(part) is bytes else bytes(part) for part in payload[1:]))


def is_payload(answer: object) -> bool:
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


def _make(factory: Callable[[int], object], rank: int) -> tuple[Any, bool]:
    """Return the store of ``rank``, and whether it takes pickles.

    Raises:
        UsageError: it cannot be made, or is no store.
    """
    try:
        store = call(factory, rank)
        problem = find_problem(store, STORE, MAYBE_OF_STORE)
        form = "payload" if problem else call(getattr, store, "form", "payload")
    except CallbackFailed as error:
        raise UsageError(f"result_store({rank}) failed: {error}") from error
    if isinstance(form, str) and form not in FORMS:
        problem = f"whose form is {form!r}: it can be {' or '.join(map(repr, FORMS))}"
    if problem:
        raise UsageError(f"result_store({rank}) made {shown(store)}, {problem}")
    return store, isinstance(form, str) and form == "pickle"
