"""BackgroundSync: one sync at a time, in a thread; failures are raised where its end is waited for."""

import threading

import pytest

from handoff_mpi.results.background_sync import BackgroundSync


class Disk:
    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.syncs: list[threading.Thread] = []
        self.fails = False

    def sync(self) -> None:
        self.may_end.wait()
        self.syncs.append(threading.current_thread())
        if self.fails:
            raise OSError("full")


def test_the_caller_need_not_wait_for_a_sync():
    disk = Disk()
    sync = BackgroundSync()
    assert not sync.is_running
    sync.begin(disk.sync)
    assert sync.is_running
    disk.may_end.set()
    sync.end()
    assert not sync.is_running
    assert len(disk.syncs) == 1 and disk.syncs[0] is not threading.main_thread()


def test_a_failure_is_raised_once():
    disk = Disk()
    disk.fails = True
    disk.may_end.set()
    sync = BackgroundSync()
    sync.end()
    sync.begin(disk.sync)
    with pytest.raises(OSError, match="full"):
        sync.end()
    sync.end()


def test_where_no_thread_can_be_started_the_caller_waits(monkeypatch):
    def refuse(thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    disk = Disk()
    disk.may_end.set()
    sync = BackgroundSync()
    sync.begin(disk.sync)
    assert disk.syncs == [threading.main_thread()]
    sync.end()
