"""Contracts of stores, trackers and strategies: classes of tests, to be subclassed in a user's test file.

Each says in one method how to make what is tested; pytest finds its tests in the subclass, whose name begins with
``Test``. They are plain methods with assertions, so that any test runner can call them.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from handoff_mpi.allocation import AllocationStrategy, ClusterView, Ledger
from handoff_mpi.api import execute
from handoff_mpi.dag import DAG, Function, Plan, collocated
from handoff_mpi.messages import OK, Entry
from handoff_mpi.resources import ResourceTracker
from handoff_mpi.results.fallback_store import in_bytes, pickled
from handoff_mpi.runtime.options import options_of
from handoff_mpi.runtime.tracker_adapter import is_true
from handoff_mpi.scheduler import Closed, Dispatch, Event, Finished, RankLost, Scheduler, Submitted
from handoff_mpi.serialization import NOTHING, Payload, decode, encode
from handoff_mpi.testing.fake_ranks import capabilities_of, fake_ranks

#: Bytes of a value that does not travel with the messages.
_LARGE_NBYTES = 200_000
#: A tracker that grants so many requests in a row is taken for one without a limit.
_MAX_GRANTS = 1000
#: Rounds in which a strategy must have placed all that a check gives it.
_MAX_ROUNDS = 500


class StoreContract:
    """Tests of a result store; of a PickleStore too::

    class TestMyStore(StoreContract):
        def make_store(self, rank):
            return MyStore(rank)
    """

    #: Values that are put; those of the DAG in question may be added.
    values: ClassVar[list[Any]] = [None, 0, "", "text", b"\x00\xff" * 10, {"a": [1, (2, 3)]}, bytes(_LARGE_NBYTES)]

    def make_store(self, rank: int) -> Any:
        """Return a new store for a rank; what is given as ``result_store``."""
        raise NotImplementedError("define make_store(self, rank)")

    @contextmanager
    def _stores(self, count: int = 1) -> Iterator[list[Any]]:
        stores = [self.make_store(rank) for rank in range(count)]
        try:
            yield stores
        finally:
            for store in stores:
                if hasattr(store, "close"):
                    store.close()

    def test_it_is_accepted(self) -> None:
        """``execute`` would refuse one without the methods."""
        options_of({"result_store": self.make_store})
        with self._stores() as (store,):
            missing = [name for name in ("put", "get", "delete") if not callable(getattr(store, name, None))]
            assert not missing, f"the store has no methods {', '.join(missing)}"

    def test_it_gives_back_what_was_put(self) -> None:
        with self._stores() as (store,):
            for task, value in enumerate([*self.values, _array()]):
                store.put(("run", task), _put_form(store, value))
            for task, value in enumerate([*self.values, _array()]):
                found = _value(store, ("run", task))
                assert _is_same(found, value), f"get returned {found!r} where {value!r} was put"
                _assert_same_parts(store.get(("run", task)), _put_form(store, value))

    def test_a_value_can_be_replaced(self) -> None:
        with self._stores() as (store,):
            for value in ("old and longer", "new"):
                store.put(("run", 1), _put_form(store, value))
            assert _value(store, ("run", 1)) == "new"

    def test_a_key_that_is_not_there_has_no_value(self) -> None:
        """A run does not ask for one; a mistake must not be met with another key's value."""
        with self._stores() as (store,):
            _assert_absent(store, ("run", 1))
            store.put(("run", 1), _put_form(store, 1))
            _assert_absent(store, ("run", 2))

    def test_what_was_deleted_is_gone_and_the_rest_stays(self) -> None:
        with self._stores() as (store,):
            for task in range(3):
                store.put(("run", task), _put_form(store, task))
            store.delete(("run", 1))
            _assert_absent(store, ("run", 1))
            assert [_value(store, ("run", task)) for task in (0, 2)] == [0, 2]
            store.put(("run", 1), _put_form(store, "again"))
            assert _value(store, ("run", 1)) == "again"

    def test_keys_do_not_collide(self) -> None:
        """A key is the name of the run and a number from 0; a store serves one run of any name."""
        for run in ("run-1-f00", "two words", "läufe.1", "RUN", "..", "a:b'c"):
            with self._stores() as (store,):
                tasks = [0, 1, 10, 11, 111, 2**31]
                for task in tasks:
                    store.put((run, task), _put_form(store, task))
                assert [_value(store, (run, task)) for task in tasks] == tasks

    def test_each_run_has_stores_of_its_own(self) -> None:
        """A Cluster does many runs, one after the other: each makes its stores, and closes them."""
        for run in ("run-1", "run-2"):
            with self._stores() as (store,):
                _assert_absent(store, (run, 1))
                store.put((run, 1), _put_form(store, 1))

    def test_ranks_have_stores_of_their_own(self) -> None:
        """Several ranks may hold the same value, and each deletes its own."""
        with self._stores(2) as (one, other):
            for store in (one, other):
                store.put(("run", 1), _put_form(store, "value"))
            one.delete(("run", 1))
            assert _value(other, ("run", 1)) == "value", "deleted by another rank's store"

    def test_many_values(self) -> None:
        with self._stores() as (store,):
            for task in range(1000):
                store.put(("run", task), _put_form(store, task))
            assert [_value(store, ("run", task)) for task in range(1000)] == list(range(1000))

    def test_a_run_uses_it(self) -> None:
        dag = DAG("contract")
        dag.add_function(Function("small", (), len, ["abc"]))
        dag.add_function(Function("large", (), bytes, [_LARGE_NBYTES], node=1))
        dag.add_function(Function("both", ["small", "large"], _add_length, node=2))
        with fake_ranks(3), _run_dir() as run_dir:
            results = execute(dag, result_store=self.make_store, run_dir=run_dir)
            assert results is not None
            assert results["both"] == 3 + _LARGE_NBYTES
            assert not results.incidents(), f"values were lost: {results.incidents()}"


class TrackerContract:
    """Tests of a resource tracker::

    class TestMyTracker(TrackerContract):
        cost = {"cpu": 1, "license": 1}

        def make_tracker(self):
            return MyTracker(licenses=2)
    """

    #: What each of two ranks offers; and a cost that a new tracker grants.
    capabilities: ClassVar[Mapping[str, Any]] = {"cpu": 4, "memory": 16000}
    cost: ClassVar[Mapping[str, Any]] = {"cpu": 1}
    #: A run that the tracker refuses for so many seconds fails.
    timeout_s: ClassVar[float] = 10.0

    def make_tracker(self) -> Any:
        """Return a new tracker, which has granted nothing."""
        raise NotImplementedError("define make_tracker(self)")

    def _registered(self) -> Any:
        tracker = self.make_tracker()
        for rank in (0, 1):
            tracker.register(rank, dict(self.capabilities))
        return tracker

    def _request(self, tracker: Any) -> bool:
        answer = tracker.request(1, dict(self.cost))
        assert is_true(answer) or not answer, f"request returned {answer!r}; it must be True or False"
        return is_true(answer)

    def _exhaust(self, tracker: Any) -> int:
        """Return how many requests are granted in a row."""
        return next((count for count in range(_MAX_GRANTS) if not self._request(tracker)), _MAX_GRANTS)

    def _release(self, tracker: Any, count: int) -> None:
        for _ in range(count):
            tracker.release(1, dict(self.cost))

    def test_it_is_accepted(self) -> None:
        """``execute`` would refuse one without the methods."""
        options_of({"resource_tracker": self.make_tracker()})
        assert isinstance(self.make_tracker(), ResourceTracker)

    def test_a_new_one_grants_the_cost(self) -> None:
        assert self._request(self._registered()), f"a new tracker refused {self.cost}"

    def test_what_was_released_is_granted_again(self) -> None:
        tracker = self._registered()
        count = self._exhaust(tracker)
        if count < _MAX_GRANTS:
            assert not self._request(tracker), "granted after it was refused, though nothing was released"
        self._release(tracker, 1)
        assert self._request(tracker), "refused, though as much was released"

    def test_nothing_is_lost_or_gained_by_a_release(self) -> None:
        tracker = self._registered()
        counts = []
        for _ in range(3):
            counts.append(self._exhaust(tracker))
            self._release(tracker, counts[-1])
        assert len(set(counts)) == 1, f"granted {counts} requests in turn, all released in between"

    def test_to_register_again_releases_nothing(self) -> None:
        """A rank is registered again where its resources change during a run."""
        tracker = self._registered()
        count = self._exhaust(tracker)
        tracker.register(1, dict(self.capabilities))
        more = self._exhaust(tracker)
        assert count == _MAX_GRANTS or not more, f"registering rank 1 again released {more} of {count} grants"

    def test_what_it_is_given_stays_as_it_is(self) -> None:
        tracker, cost = self._registered(), dict(self.cost)
        tracker.request(1, cost)
        tracker.release(1, cost)
        assert cost == self.cost, f"the cost was changed to {cost}"

    def test_a_run_uses_it(self) -> None:
        tracker = self.make_tracker()
        dag = DAG("contract")
        for number in range(12):
            dag.add_function(Function(number, (), abs, [number], cost=dict(self.cost)))
        with fake_ranks(3, **{**self.cost, **self.capabilities}), _run_dir() as run_dir:
            results = execute(dag, resource_tracker=tracker, tracker_timeout=self.timeout_s, run_dir=run_dir)
        assert results is not None
        assert [results[number] for number in range(12)] == list(range(12))
        assert self._request(tracker), "after the run it refuses what it granted before: something was not released"


class StrategyContract:
    """Tests of an allocation strategy::

    class TestSpread(StrategyContract):
        def make_strategy(self):
            return Spread()
    """

    def make_strategy(self) -> Any:
        """Return a new strategy."""
        raise NotImplementedError("define make_strategy(self)")

    def test_it_is_accepted(self) -> None:
        """``execute`` would refuse one without the method."""
        options_of({"allocation_strategy": self.make_strategy()})
        assert isinstance(self.make_strategy(), AllocationStrategy)

    def test_it_places_all_functions(self) -> None:
        placed = _Drive(self.make_strategy(), _mixed_dag()).run()
        assert len(placed) == len(_mixed_dag()), "functions are left that it has never placed"

    def test_it_waits_where_there_is_no_room(self) -> None:
        """More functions are ready than all ranks can hold."""
        dag = DAG("many")
        for number in range(100):
            dag.add_function(Function(number, cost={"cpu": 1 + number % 2}, code=abs, extra_args=[1]))
        assert len(_Drive(self.make_strategy(), dag).run()) == 100

    def test_it_places_nothing_on_a_rank_that_was_lost(self) -> None:
        drive = _Drive(self.make_strategy(), _mixed_dag(pins=False))
        drive.begin()
        drive.handle([RankLost(2, "a check has lost it")])
        assert len(drive.run()) == len(_mixed_dag(pins=False))

    def test_it_is_deterministic(self) -> None:
        first, second = (_Drive(self.make_strategy(), _mixed_dag()).run() for _ in range(2))
        assert first == second, "the same functions on the same ranks were placed in another way"

    def test_an_empty_round_places_nothing(self) -> None:
        strategy = self.make_strategy()
        view = ClusterView(_ledger())
        if hasattr(strategy, "prepare"):
            strategy.prepare(view)
        placed = list(strategy.allocate([], view))
        assert placed == [], f"nothing was ready, and it placed {placed}"

    def test_a_run_uses_it(self) -> None:
        dag = _mixed_dag()
        with fake_ranks(4, **_RANKS), _run_dir() as run_dir:
            results = execute(dag, allocation_strategy=self.make_strategy(), run_dir=run_dir)
        assert results is not None
        assert results.allocations["on 3"] == 3
        assert results.allocations["pair 0"] == results.allocations["pair 1"]


# -- stores -------------------------------------------------------------------------------------------


def _is_pickle_store(store: Any) -> bool:
    return getattr(store, "form", None) == "pickle"


def _put_form(store: Any, value: Any) -> Any:
    """Return ``value`` as a store is given it."""
    payload = encode(value)
    return pickled(payload) if _is_pickle_store(store) else in_bytes(payload)


def _value(store: Any, key: tuple[str, int]) -> Any:
    """Return the value under a key; what ``get`` returns is a payload, a list of its parts, or a pickle."""
    try:
        found = store.get(key)
    except Exception as error:
        raise AssertionError(f"get({key!r}) raised {error!r}, though a value was put there") from error
    if _is_pickle_store(store):
        return pickle.loads(found)
    assert isinstance(found, (tuple, list)), f"get returned {found!r}, which is not the payload that was put"
    payload: Payload = tuple(found)
    return decode(payload)


def _assert_absent(store: Any, key: tuple[str, int]) -> None:
    try:
        found = store.get(key)
    except Exception:
        return
    assert found is None, f"get({key!r}) returned {found!r}, though nothing is there; it should raise KeyError"


def _assert_same_parts(found: Any, put: Any) -> None:
    """A payload comes back as it was put, or as a list of its parts."""
    if isinstance(put, tuple):
        assert len(found) == len(put), f"get returned {len(found)} parts of a payload of {len(put)}"
        is_same = found[0] == put[0] and all(
            _bytes_of(a) == _bytes_of(b) for a, b in zip(found[1:], put[1:], strict=True)
        )
        assert is_same, "get returned another payload than was put, though one with the same value"


def _bytes_of(part: Any) -> Any:
    try:
        return bytes(memoryview(part))
    except TypeError:
        return part  # of a payload that is a plain value


def _array() -> Any:
    import numpy

    return numpy.arange(_LARGE_NBYTES // 8)


def _is_same(found: Any, value: Any) -> bool:
    import numpy

    if isinstance(value, numpy.ndarray):
        return isinstance(found, numpy.ndarray) and numpy.array_equal(found, value)
    return type(found) is type(value) and bool(found == value)


def _add_length(small: int, large: bytes) -> int:
    return small + len(large)


@contextmanager
def _run_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="handoff-contract-") as directory:
        yield Path(directory) / "run"


# -- strategies ---------------------------------------------------------------------------------------

_RANKS: Mapping[str, Any] = {"cpu": [1, 2, 2, 4], "memory": "4GB", "gpu": [0, 0, 1, 2], "hosts": 2}


def _mixed_dag(pins: bool = True) -> DAG:
    """Return a DAG with all that a strategy may meet: costs, priorities, inputs, pins, hosts, collocation."""
    dag = DAG("mixed")
    for number in range(10):
        dag.add_function(Function(f"first {number}", code=abs, extra_args=[number], priority=number % 3))
        dag.add_function(Function(f"then {number}", [f"first {number}"], abs, cost={"cpu": 1 + number % 2}))
    for number in range(4):
        dag.add_function(Function(f"gpu {number}", code=abs, extra_args=[1], cost={"gpu": 1, "memory": "1GB"}))
    dag.add_function(Function("pair 0", code=abs, extra_args=[1]))
    dag.add_function(Function("pair 1", code=abs, extra_args=[1], node=collocated("pair 0")))
    if pins:
        dag.add_function(Function("on 3", code=abs, extra_args=[1], node=3))
        dag.add_function(Function("on host1", code=abs, extra_args=[1], node="host1"))
    return dag


def _ledger() -> Ledger:
    return Ledger(capabilities_of(4, **_RANKS)[1:], {rank: _RANKS["cpu"][rank] for rank in (1, 2, 3)})


class _Drive:
    """A scheduler that a strategy allocates for; every call ends well, and at once."""

    def __init__(self, strategy: Any, dag: DAG) -> None:
        self._plan = Plan()
        self._specs = self._plan.add(dag)
        self._scheduler = Scheduler(_ledger(), strategy)
        self._now = 0.0
        self._running: list[tuple[int, int, int]] = []
        self._placed: dict[Any, int] = {}

    def begin(self) -> None:
        """Submit all functions."""
        self.handle([Submitted(self._specs, selections=self._plan.selections.all), Closed()])

    def handle(self, events: list[Event]) -> None:
        """Let the scheduler handle events, and note what it places."""
        self._now += 1.0
        lost = {event.rank for event in events if isinstance(event, RankLost)}
        self._running = [call for call in self._running if call[0] not in lost]
        for command in self._scheduler.handle(events, self._now):
            if isinstance(command, Dispatch):
                for task, attempt in command.tasks:
                    self._running.append((command.rank, task, attempt))

    def run(self) -> dict[Any, int]:
        """End all calls, in the order in which they were placed; return the rank of each function that is done."""
        if not self._now:
            self.begin()
        for _ in range(_MAX_ROUNDS):
            if not self._running:
                break
            rank, task, attempt = self._running.pop(0)
            entry: Entry = (task, attempt, OK, NOTHING, 0, self._now, 0.5, False)
            self._placed[self._plan.ids[task]] = rank
            self.handle([Finished(rank, [entry])])
        return self._placed
