"""The contract suites pass on this package's own stores and strategies, and each check fails on one that is broken."""

from __future__ import annotations

import itertools
import pickle
import random
import re
from pathlib import Path

import pytest

import handoff_mpi
from handoff_mpi.allocation import CostOptimized, FirstAvailable, LoadBalanced
from handoff_mpi.errors import HandoffError
from handoff_mpi.results import DirectoryStore, MemoryStore
from handoff_mpi.testing import settings_restored
from handoff_mpi.testing.contracts import StoreContract, StrategyContract, TrackerContract

# -- what is well --------------------------------------------------------------------------------------


class TestMemoryStore(StoreContract):
    make_store = MemoryStore


class TestDirectoryStore(StoreContract):
    """It keeps plain values as pickles, as the files of a run-dir are to be: so it is none for ``result_store``."""

    test_a_run_uses_it = test_it_gives_back_what_was_put = None
    test_many_values = None  # each is synchronised to disk, which takes long

    @pytest.fixture(autouse=True)
    def _in_a_directory(self, tmp_path):
        self.directory = tmp_path

    def make_store(self, rank):
        return DirectoryStore(self.directory / str(rank))


class Lists(MemoryStore):
    """Gives back lists, as some formats know no tuples."""

    def get(self, key):
        return [bytes(part) if isinstance(part, memoryview) else part for part in super().get(key)]


class TestLists(StoreContract):
    make_store = Lists


class Pickles:
    """The smallest store of pickles."""

    form = "pickle"

    def __init__(self, rank):
        self._kept = {}
        self.is_closed = False

    def put(self, key, pickled):
        assert type(pickled) is bytes
        self._kept[key] = pickled

    def get(self, key):
        return self._kept[key]

    def delete(self, key):
        del self._kept[key]

    def close(self):
        assert not self.is_closed
        self.is_closed = True


class TestPickles(StoreContract):
    make_store = Pickles


class Counting:
    """Grants so many cores of each rank."""

    def __init__(self):
        self.free = {}
        self.taken = {}

    def register(self, rank, capabilities):
        self.free[rank] = capabilities["cpu"]

    def request(self, rank, cost):
        if self.taken.get(rank, 0) + cost["cpu"] > self.free[rank]:
            return False
        self.taken[rank] = self.taken.get(rank, 0) + cost["cpu"]
        return True

    def release(self, rank, cost):
        self.taken[rank] -= cost["cpu"]


class Grants(Counting):
    def request(self, rank, cost):
        super().request(rank, cost)
        return True


class TestCounting(TrackerContract):
    make_tracker = staticmethod(Counting)


class TestGrants(TrackerContract):
    make_tracker = staticmethod(Grants)


class Spread:
    def allocate(self, ready, view):
        for group in ready:
            while len(group):
                fitting = [rank for rank in view.ranks() if view.fits(group.cost, rank)]
                if not fitting:
                    break
                yield group[0], self.choose(fitting, view)

    def choose(self, fitting, view):
        return min(fitting, key=view.load)


class TestSpread(StrategyContract):
    make_strategy = staticmethod(Spread)


class TestFirstAvailable(StrategyContract):
    make_strategy = staticmethod(FirstAvailable)


class TestLoadBalanced(StrategyContract):
    make_strategy = staticmethod(LoadBalanced)


class TestCostOptimized(StrategyContract):
    def make_strategy(self):
        return CostOptimized({"cpu": 1.0, "gpu": 5.0})


# -- what the manual shows ------------------------------------------------------------------------------


def example(file, name):
    """Return what an example of the manual's page about plugs defines."""
    page = (Path(handoff_mpi.__file__).parent / "manual" / "extending.md").read_text()
    text = re.search(rf"^```python\n# {file}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL).group(1)
    namespace = {"__name__": file}
    with settings_restored():
        exec(text, namespace)
    return namespace[name]


class TestSQLiteStore(StoreContract):
    @pytest.fixture(autouse=True)
    def _in_a_directory(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def make_store(self, rank):
        return example("in_sqlite.py", "SQLiteStore")(rank)


class TestFileStore(StoreContract):
    def make_store(self, rank):
        return example("in_files.py", "FileStore")(rank)


class TestSharedLicences(TrackerContract):
    cost = {"cpu": 1, "licence": 1}

    @pytest.fixture(autouse=True)
    def _in_a_directory(self, tmp_path):
        self.paths = (tmp_path / str(number) for number in itertools.count())

    def make_tracker(self):
        return example("licences.py", "SharedLicences")(next(self.paths), 2)


class TestNearData(StrategyContract):
    def make_strategy(self):
        return example("near_data.py", "NearData")()


class TestPacked(StrategyContract):
    def make_strategy(self):
        return example("packed.py", "Packed")()


# -- what is broken ------------------------------------------------------------------------------------


def keeps(change):
    """A store that differs from one that is well in ``change``."""
    return type("Broken", (MemoryStore,), change)


shared = MemoryStore()


def shortened(method):
    def with_shortened_key(self, key, *args):
        return getattr(MemoryStore, method)(self, (key[0], key[1] % 10), *args)

    return with_shortened_key


def shares(*methods):
    return keeps({method: lambda self, *args, _method=method: getattr(shared, _method)(*args) for method in methods})


BROKEN_STORES = {
    "it_is_accepted": keeps({"delete": None}),
    "it_gives_back_what_was_put": keeps({"get": lambda self, key: MemoryStore.get(self, key)[:2]}),
    "a_value_can_be_replaced": keeps(
        {"put": lambda self, key, payload: self.has(key) or MemoryStore.put(self, key, payload)}
    ),
    "a_key_that_is_not_there_has_no_value": keeps(
        {"get": lambda self, key: MemoryStore.get(self, key if self.has(key) else ("run", 1))}
    ),
    "what_was_deleted_is_gone_and_the_rest_stays": keeps({"delete": lambda self, key: None}),
    "keys_do_not_collide": keeps({"put": shortened("put"), "get": shortened("get")}),
    "ranks_have_stores_of_their_own": shares("put", "get", "delete"),
    "each_run_has_stores_of_its_own": keeps(
        {
            "put": lambda self, key, payload: shared.put(("of all runs", key[1]), payload),
            "get": lambda self, key: shared.get(("of all runs", key[1])),
        }
    ),
    "many_values": keeps({"put": lambda self, key, payload: key[1] < 900 and MemoryStore.put(self, key, payload)}),
    "a_run_uses_it": keeps({"get": lambda self, key: None if key[1] == 1 else MemoryStore.get(self, key)}),
}


class Forgetful(Counting):
    def release(self, rank, cost):
        pass


class Generous(Counting):
    def release(self, rank, cost):
        self.taken[rank] = 0


class Resets(Counting):
    def register(self, rank, capabilities):
        super().register(rank, capabilities)
        self.taken[rank] = 0


class Spends(Counting):
    def request(self, rank, cost):
        is_granted = super().request(rank, cost)
        cost.clear()
        return is_granted

    def release(self, rank, cost):
        super().release(rank, {"cpu": 1})


class Answers(Counting):
    def request(self, rank, cost):
        return "yes"


class Refuses(Counting):
    def request(self, rank, cost):
        return False


class Alternates(Counting):
    """Refuses once when it is full, and grants then."""

    def request(self, rank, cost):
        is_granted = super().request(rank, cost)
        self.taken[rank] -= 0 if is_granted else 1
        return is_granted


BROKEN_TRACKERS = [
    ("it_is_accepted", type("NoRelease", (Counting,), {"release": None})),
    ("a_new_one_grants_the_cost", Refuses),
    ("a_new_one_grants_the_cost", Answers),
    ("what_was_released_is_granted_again", Forgetful),
    ("what_was_released_is_granted_again", Alternates),
    ("nothing_is_lost_or_gained_by_a_release", Forgetful),
    ("to_register_again_releases_nothing", Resets),
    ("what_it_is_given_stays_as_it_is", Spends),
    ("a_run_uses_it", Refuses),
]


class Leaves(Spread):
    """Places nothing that asks for a device."""

    def allocate(self, ready, view):
        return super().allocate([group for group in ready if not group.cost.gpu], view)


class Lazy(Spread):
    """Places one function, however much room there is, and forgets that more are ready."""

    def __init__(self):
        self.count = 0

    def allocate(self, ready, view):
        for placement in super().allocate(ready, view):
            self.count += 1
            if self.count > 60:
                return
            yield placement


class Remembers(Spread):
    """Asks once which ranks there are."""

    ranks: list[int] | None = None

    def allocate(self, ready, view):
        self.ranks = self.ranks or list(view.ranks())
        for group in ready:
            while len(group):
                fitting = [rank for rank in self.ranks if rank == 2 or view.fits(group.cost, rank)]
                if not fitting:
                    break
                yield group[0], fitting[0]


class Dices(Spread):
    def choose(self, fitting, view):
        return random.choice(fitting)


class Insists(Spread):
    def allocate(self, ready, view):
        if not ready:
            yield 0, 1
        yield from super().allocate(ready, view)


class Ignores(Spread):
    """Places on a rank whether there is room or not."""

    def allocate(self, ready, view):
        for group in ready:
            if len(group):
                yield group[0], 1


BROKEN_STRATEGIES = [
    ("it_is_accepted", type("NoAllocate", (), {"allocate": None})),
    ("it_places_all_functions", Leaves),
    ("it_waits_where_there_is_no_room", Lazy),
    ("it_waits_where_there_is_no_room", Ignores),
    ("it_places_nothing_on_a_rank_that_was_lost", Remembers),
    ("it_is_deterministic", Dices),
    ("an_empty_round_places_nothing", Insists),
    ("a_run_uses_it", Ignores),
]


def checks_of(contract):
    return {name.removeprefix("test_") for name in vars(contract) if name.startswith("test_")}


@pytest.mark.parametrize("name", BROKEN_STORES)
def test_a_broken_store_is_found(name):
    suite = type("Suite", (StoreContract,), {"make_store": lambda self, rank: BROKEN_STORES[name]()})()
    with pytest.raises((AssertionError, HandoffError)):
        getattr(suite, f"test_{name}")()


@pytest.mark.parametrize(("name", "tracker"), BROKEN_TRACKERS)
def test_a_broken_tracker_is_found(name, tracker):
    suite = type("Suite", (TrackerContract,), {"make_tracker": staticmethod(tracker), "timeout_s": 0.2})()
    with pytest.raises((AssertionError, HandoffError)):
        getattr(suite, f"test_{name}")()


@pytest.mark.parametrize(("name", "strategy"), BROKEN_STRATEGIES)
def test_a_broken_strategy_is_found(name, strategy):
    suite = type("Suite", (StrategyContract,), {"make_strategy": staticmethod(strategy)})()
    with pytest.raises((AssertionError, HandoffError)):
        getattr(suite, f"test_{name}")()


def test_there_is_a_broken_one_for_each_check():
    assert checks_of(StoreContract) == set(BROKEN_STORES)
    assert checks_of(TrackerContract) == {name for name, _ in BROKEN_TRACKERS}
    assert checks_of(StrategyContract) == {name for name, _ in BROKEN_STRATEGIES}


def test_nothing_is_tested_by_a_contract_itself():
    for contract, method in ((StoreContract, "make_store"), (TrackerContract, "make_tracker")):
        with pytest.raises(NotImplementedError, match=method):
            getattr(contract(), method)(*([0] if method == "make_store" else []))
    assert pickle.loads(pickle.dumps(StoreContract)) is StoreContract
