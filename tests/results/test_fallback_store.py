"""A store of the user's that fails, in each of its four ways."""

from __future__ import annotations

import io
import pickle
import sys

import numpy as np
import pytest

from handoff_mpi.errors import UsageError, ValueDamaged, ValueUnavailable
from handoff_mpi.results import MemoryStore, ResultStore, read_payload, write_payload
from handoff_mpi.results.fallback_store import FallbackStore
from handoff_mpi.serialization import decode, encode

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

    def delete(self, key):
        self._fail("delete")
        super().delete(key)

    def _fail(self, verb):
        if verb in self.verbs:
            raise OSError("it is away")


def guarded(*verbs):
    return FallbackStore(type("Store", (Away,), {"verbs": verbs}), 3)


def test_it_is_a_store_itself():
    store = guarded()
    assert isinstance(store, ResultStore)
    store.put(KEY, encode("x"))
    assert decode(store.get(KEY)) == "x"
    store.delete(KEY)
    with pytest.raises(KeyError):
        store.get(KEY)


def test_what_it_does_not_take_stays_in_memory(capsys):
    store = guarded("put", "get")
    store.put(KEY, encode("x"))
    store.put(KEY, encode("y"))
    assert decode(store.get(KEY)) == "y"
    assert capsys.readouterr().err.count("result_store.put failed: OSError: it is away") == 1
    store.delete(KEY)
    with pytest.raises(KeyError):
        store.get(KEY)


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
    with pytest.raises(UsageError, match=r"result_store\(3\) made .* which has no methods put\(key, payload\), get"):
        FallbackStore(lambda rank: object(), 3)
    with pytest.raises(UsageError, match=r"result_store\(3\) failed: ZeroDivisionError"):
        FallbackStore(lambda rank: 1 // 0, 3)


class Rubbish(MemoryStore):
    answer: object = None

    def get(self, key):
        return self.answer


RUBBISH = [None, "x", 7, (), (0,), (0, 1, 2), (0, object()), (1, "text"), (1, b"", 5), (9, b""), [None], {0: 1}, {1, 2}]


@pytest.mark.parametrize("answer", RUBBISH, ids=repr)
def test_what_is_no_payload_counts_as_lost_once(answer, capsys):
    store = FallbackStore(type("Store", (Rubbish,), {"answer": answer}), 3)
    store.put(KEY, encode("x"))
    with pytest.raises(ValueUnavailable, match="which is not the payload that was put"):
        store.get(KEY)
    assert capsys.readouterr().err.count("result_store.get returned") == 1
    store.put(KEY, encode("again"))
    assert decode(store.get(KEY)) == "again"


OTHERS = {
    "another plain value": ("x", encode("y")),
    "a value of another kind": ("x", encode([1])),
    "another pickle": ([1], encode([2])),
    "a damaged array": (b"1" * 50_000, encode(b"1" * 49_999 + b"2")),
    "a part": (np.zeros(50_000), encode(np.zeros(50_000))[:2]),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_value_than_was_put_counts_as_lost(case):
    value, answer = OTHERS[case]
    store = FallbackStore(type("Store", (Rubbish,), {"answer": answer}), 3)
    store.put(KEY, encode(value))
    with pytest.raises(ValueUnavailable, match="another payload than was put"):
        store.get(KEY)


@pytest.mark.parametrize("method", ["__len__", "__iter__", "__getitem__"])
def test_an_answer_that_raises_as_it_is_looked_at_is_never_wrong(method):
    def fail(self, *args):
        raise SystemExit("no")

    odd = type("Odd", (tuple,), {method: fail})
    store = FallbackStore(type("Store", (MemoryStore,), {"get": lambda self, key: odd(MemoryStore.get(self, key))}), 3)
    store.put(KEY, encode(b"x" * 9000))
    try:
        assert decode(store.get(KEY)) == b"x" * 9000
    except ValueUnavailable as error:
        assert "SystemExit" in str(error)


def test_a_list_of_the_same_parts_will_do():
    payload = encode(bytearray(50_000))
    store = FallbackStore(type("Store", (Rubbish,), {"answer": list(payload)}), 3)
    store.put(KEY, payload)
    assert decode(store.get(KEY)) == bytearray(50_000)


class Leaving(MemoryStore):
    def put(self, key, payload):
        raise SystemExit(3)

    def delete(self, key):
        raise KeyboardInterrupt


def test_a_store_that_would_leave_stays(capsys, monkeypatch):
    monkeypatch.setattr("signal.getsignal", lambda number: None)  # as in a rank: no interrupt comes from the terminal
    store = FallbackStore(lambda rank: Leaving(), 3)
    store.put(KEY, encode("x"))
    assert decode(store.get(KEY)) == "x"
    store.delete(KEY)
    said = "result_store.put failed: SystemExit: it called sys.exit(3); values stay in memory"
    assert said in capsys.readouterr().err


class WrongSignature(MemoryStore):
    def get(self):
        return None


def test_methods_that_cannot_be_called_as_they_will_be_are_refused():
    with pytest.raises(UsageError, match=r"whose get cannot be called as get\(key\)"):
        FallbackStore(WrongSignature, 3)


class Dumping(MemoryStore):
    """Keeps what it is given as many a store does: pickled."""

    def put(self, key, payload):
        super().put(key, pickle.dumps(payload))

    def get(self, key):
        return pickle.loads(super().get(key))


VALUES = {
    "plain": 7,
    "nothing": None,
    "small": {"a": [1, 2]},
    "an array": np.arange(50_000.0),
    "arrays": [np.arange(50_000), bytearray(50_000), "x" * 5000],
    "by value": np.frombuffer(b"x" * 30_000, dtype=np.uint8),
}


def same(value, other):
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(same, value, other))
    return type(value) is type(other) and bool(np.all(value == other))


@pytest.mark.parametrize("case", VALUES)
def test_a_payload_can_be_pickled(case):
    store = FallbackStore(Dumping, 3)
    store.put(KEY, encode(VALUES[case]))
    assert same(decode(store.get(KEY)), VALUES[case])


class Pickles:
    """Keeps plain pickles, which it can read itself."""

    form = "pickle"

    def __init__(self, rank):
        self.kept = {}

    def put(self, key, pickled):
        assert type(pickled) is bytes
        self.kept[key] = pickled

    def get(self, key):
        return self.kept[key]

    def delete(self, key):
        del self.kept[key]


@pytest.mark.parametrize("case", VALUES)
def test_a_store_may_keep_plain_pickles(case):
    made = []
    store = FallbackStore(lambda rank: made.append(Pickles(rank)) or made[0], 3)
    store.put(KEY, encode(VALUES[case]))
    assert same(pickle.loads(made[0].kept[KEY]), VALUES[case])
    assert same(decode(store.get(KEY)), VALUES[case])
    made[0].kept[KEY] = memoryview(made[0].kept[KEY])
    assert same(decode(store.get(KEY)), VALUES[case])
    store.delete(KEY)
    assert not made[0].kept


@pytest.mark.parametrize("answer", [None, "x", 7, (1, b"x"), b"", pickle.dumps("other")], ids=repr)
def test_what_is_not_the_pickle_counts_as_lost_once(answer):
    store = FallbackStore(type("Store", (Pickles,), {"get": lambda self, key: answer}), 3)
    store.put(KEY, encode([1]))
    with pytest.raises(ValueUnavailable, match="pickle"):
        store.get(KEY)
    store.put(KEY, encode([1]))
    assert decode(store.get(KEY)) == [1]


def test_a_form_that_there_is_not_is_refused():
    with pytest.raises(UsageError, match="whose form is 'json': it can be 'payload' or 'pickle'"):
        FallbackStore(type("Store", (Pickles,), {"form": "json"}), 3)


class Closing(MemoryStore):
    closed = 0

    def close(self):
        type(self).closed += 1


def test_a_store_that_can_be_closed_is_closed_once():
    kind = type("Store", (Closing,), {})
    store = FallbackStore(kind, 3)
    store.put(KEY, encode("x"))
    store.close()
    store.close()
    assert kind.closed == 1


@pytest.mark.parametrize("close", [lambda self: 1 // 0, lambda self: sys.exit(3)])
def test_a_store_that_cannot_be_closed_is_told_of(close, capsys):
    FallbackStore(type("Store", (MemoryStore,), {"close": close}), 3).close()
    assert "result_store.close failed: " in capsys.readouterr().err


class ClosingWithArguments(MemoryStore):
    def close(self, how): ...


class Later(MemoryStore):
    async def put(self, key, payload): ...


WRONG = [(ClosingWithArguments, r"whose close cannot be called as close\(\)"), (Later, "whose put is async")]


@pytest.mark.parametrize(("kind", "says"), WRONG)
def test_what_would_go_wrong_later_is_refused_at_once(kind, says):
    with pytest.raises(UsageError, match=says):
        FallbackStore(kind, 3)


@pytest.mark.parametrize("case", VALUES)
def test_a_payload_is_written_to_a_file_and_read_again(case, tmp_path):
    payload = encode(VALUES[case])
    with (tmp_path / "value").open("wb") as file:
        nbytes = write_payload(file, payload)
    assert (tmp_path / "value").stat().st_size == nbytes
    data = (tmp_path / "value").read_bytes()
    with (tmp_path / "value").open("rb") as file:
        for again in (read_payload(file), read_payload(data), read_payload(memoryview(data))):
            assert again[0] == payload[0]
            assert [bytes(part) for part in again[1:] if again[0]] == [bytes(part) for part in payload[1:] if again[0]]
            assert same(decode(again), decode(payload))


DAMAGES = {
    "cut": lambda data: data[:-1],
    "cut at its head": lambda data: data[:10],
    "empty": lambda data: b"",
    "another file": lambda data: b"x" * 200,
    "a bit": lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
    "longer": lambda data: data + b"more",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("case", ["plain", "small", "an array"])
def test_a_damaged_payload_is_never_read(case, damage):
    file = io.BytesIO()
    write_payload(file, encode(VALUES[case]))
    with pytest.raises(ValueDamaged, match="a payload is"):
        read_payload(damage(file.getvalue()))
