"""What users plug in has public protocols: exported, and fulfilled by what this package brings."""

from __future__ import annotations

import pytest

import handoff_mpi as handoff
from handoff_mpi.results import DirectoryStore, MemoryStore

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
