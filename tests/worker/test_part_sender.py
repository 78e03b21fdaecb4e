"""The thread that sends the parts of a lease while it is computed."""

from __future__ import annotations

import threading

from handoff_mpi.worker import part_sender
from handoff_mpi.worker.part_sender import PartSender


class Loop:
    """A loop whose parts a test provides; it tells when it was asked."""

    def __init__(self, *parts):
        self.parts = [*parts]
        self.was_asked = threading.Event()

    def take(self):
        part = self.parts.pop(0) if self.parts else None
        if not self.parts:
            self.was_asked.set()
        return part


def test_parts_are_sent_in_order_until_the_lease_has_ended(monkeypatch):
    monkeypatch.setattr(part_sender, "PART_INTERVAL_S", 0.001)
    sent = []
    sender = PartSender(sent.append)
    first, second = Loop("a", None, "b"), Loop("c")
    sender.begin(first)
    assert first.was_asked.wait(30)
    sender.finish()
    assert sent == ["a", "b"]
    first.parts.append("late")
    sender.begin(second)
    assert second.was_asked.wait(30)
    sender.finish()
    assert sent == ["a", "b", "c"], "nothing of a lease is sent after its end"


def test_one_thread_serves_all_leases_and_sleeps_between_them(monkeypatch):
    monkeypatch.setattr(part_sender, "PART_INTERVAL_S", 0.001)
    sender = PartSender(lambda part: None)
    for _ in range(3):
        loop = Loop("part")
        sender.begin(loop)
        assert loop.was_asked.wait(30)
        sender.finish()
        while sender._wake.is_set():  # until the thread has found nothing to do
            pass
    assert sum(thread is sender._thread for thread in threading.enumerate()) == 1
