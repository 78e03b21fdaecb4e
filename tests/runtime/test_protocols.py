"""Callbacks of users have public protocols: exported, and fulfilled by the classes of this package."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

import handoff_mpi as handoff
from handoff_mpi.results import DirectoryStore, MemoryStore
from tests.conftest import ROOT, missing, run_process

PROTOCOLS = {
    "AllocationStrategy": ("allocate",),
    "Deserializer": ("__call__",),
    "PickleStore": ("put", "get", "delete"),
    "ResourceTracker": ("register", "request", "release"),
    "ResultStore": ("put", "get", "delete"),
    "Serializer": ("__call__",),
    "TelemetryHandler": ("__call__",),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_each_is_exported_and_documented(name):
    protocol = getattr(handoff, name)
    assert name in handoff.__all__
    assert protocol.__doc__
    for method in PROTOCOLS[name]:
        assert callable(getattr(protocol, method))


@pytest.mark.parametrize("name", ["ClusterView", "RatedStrategy", "ReadyGroup", "StoreFactory"])
def test_what_their_signatures_name_is_exported_too(name):
    assert name in handoff.__all__
    assert getattr(handoff, name) is not None


def test_own_stores_are_result_stores(tmp_path):
    for store in (MemoryStore(), DirectoryStore(tmp_path)):
        assert isinstance(store, handoff.ResultStore)
        assert not isinstance(store, handoff.PickleStore)


def test_a_tracker_needs_no_method_that_is_never_called():
    class Tracker:
        def register(self, rank, capabilities): ...
        def request(self, rank, cost): ...
        def release(self, rank, cost): ...

    assert isinstance(Tracker(), handoff.ResourceTracker)


TYPED = """
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import handoff_mpi as handoff


class Strategy:
    def allocate(self, groups: Sequence[handoff.ReadyGroup], view: handoff.ClusterView) -> Iterator[tuple[int, int]]:
        for group in groups:
            for rank in view.ranks():
                if view.fits(group.cost, rank) and view.free(rank)["cpu"] >= group.cost.wanted()["cpu"]:
                    yield group[0], rank


class Rated(handoff.RatedStrategy):
    def score(self, cost: Any, group: Any) -> float:
        return float(group.load())


class Tracker:
    def register(self, node: int, capabilities: Mapping[str, int | float]) -> None: ...
    def request(self, node: int, cost: Mapping[str, int | float]) -> bool:
        return True

    def release(self, node: int, cost: Mapping[str, int | float]) -> None: ...


class Store:
    def __init__(self, rank: int) -> None:
        self.kept: dict[tuple[str, int], tuple[Any, ...]] = {}

    def put(self, key: tuple[str, int], payload: tuple[Any, ...]) -> None:
        self.kept[key] = payload

    def get(self, key: tuple[str, int]) -> tuple[Any, ...]:
        return self.kept[key]

    def delete(self, key: tuple[str, int]) -> None:
        del self.kept[key]


class Pickles:
    form = "pickle"

    def __init__(self, rank: int) -> None:
        self.kept: dict[tuple[str, int], bytes] = {}

    def put(self, key: tuple[str, int], pickled: bytes) -> None:
        self.kept[key] = pickled

    def get(self, key: tuple[str, int]) -> bytes:
        return self.kept[key]

    def delete(self, key: tuple[str, int]) -> None:
        del self.kept[key]


def half(value: list[int], source: int, target: int) -> list[int]:
    return value[::2]


def note(event: tuple[str, ...], measurements: dict[str, Any], metadata: dict[str, Any], config: Any) -> None: ...


strategy: handoff.AllocationStrategy = Strategy()
rated: handoff.AllocationStrategy = Rated()
tracker: handoff.ResourceTracker = Tracker()
stores: list[handoff.StoreFactory] = [Store, Pickles]
argument = handoff.Argument("x", half, half)
handler: handoff.TelemetryHandler = note
handoff.telemetry.attach("note", ("handoff", "execution", "dag", "stop"), note)
"""
WRONG = """
import handoff_mpi as handoff


class Tracker:
    def register(self, rank: int) -> None: ...
    def request(self, rank: int, cost: object) -> bool:
        return True

    def release(self, rank: int, cost: object) -> None: ...


class Store:
    def __init__(self, rank: int) -> None: ...
    def put(self, key: object, payload: object) -> None: ...
    def delete(self, key: object) -> None: ...


tracker: handoff.ResourceTracker = Tracker()  # no capabilities
factory: handoff.StoreFactory = Store  # no get
handoff.Argument("x", lambda value: value)  # no ranks
handoff.telemetry.attach("x", ("handoff", "execution", "dag", "stop"), lambda event: None)  # no measurements
"""


@pytest.mark.long
def test_type_checkers_know_them(tmp_path):
    mypy = shutil.which("mypy", path=str(Path(sys.executable).parent)) or shutil.which("mypy")
    if mypy is None:
        missing("mypy")
    (tmp_path / "typed.py").write_text(TYPED)
    (tmp_path / "wrong.py").write_text(WRONG)
    ended = run_process([mypy, "--strict", tmp_path / "typed.py", tmp_path / "wrong.py"], ROOT, 240)
    errors = [line.split(":")[:2] for line in ended.out.splitlines() if ": error: " in line]
    lines = [number for number, line in enumerate(WRONG.splitlines(), 1) if "  # no " in line]
    assert errors == [[str(tmp_path / "wrong.py"), str(number)] for number in lines], ended.out
