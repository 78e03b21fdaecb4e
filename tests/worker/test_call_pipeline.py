"""The state of the calls that a child was sent."""

from __future__ import annotations

from handoff_mpi.worker.call_pipeline import SentCalls
from handoff_mpi.worker.events import QueuedCall
from handoff_mpi.worker.shared_semaphore import SharedSemaphore


def calls(count):
    """A child's calls, the first in its turn and the others ahead."""
    works = [QueuedCall(task, 1, task, (), (), None, 0, 0, (1.0, ())) for task in range(count)]
    for work in works[1:]:
        work.is_ahead = True
    sent = SentCalls()
    sent.sent(works)
    return sent, works


def ahead(works):
    return [work.task for work in works if work.is_ahead]


def test_calls_end_in_the_order_in_which_they_were_sent():
    sent, works = calls(3)
    assert (sent.running, len(sent)) == (works[0], 3)
    assert [sent.ended() for _ in works] == works
    assert not sent
    assert sent.running is None


def test_what_is_taken_back_was_sent_last_and_is_still_answered():
    sent, works = calls(4)
    assert sent.taken_back(2) == works[2:]
    assert ahead(works) == [1]
    assert sent.has_void
    assert [sent.ended(), sent.ended()] == works[:2]
    assert [sent.voided(), sent.voided()] == [[], []]
    assert not sent


def test_all_behind_a_void_call_is_void_and_what_is_sent_then_is_not():
    sent, works = calls(3)
    again, _ = works[0], sent.ended()
    assert sent.voided() == works[1:]
    assert ahead(works) == []
    sent.sent([again])
    assert sent.running is again
    assert sent.voided() == []
    assert sent.ended() is again
    assert not sent.has_void


def test_with_its_child_all_is_lost():
    sent, works = calls(3)
    assert sent.lost() == works
    assert ahead(works) == []
    assert not sent


def test_a_token_is_taken_once():
    tokens = SharedSemaphore()
    other = SharedSemaphore(tokens.fileno())
    tokens.give(3)
    assert other.take()
    assert tokens.take_all() == 2
    assert not other.take()
    tokens.close()
    tokens.close()
