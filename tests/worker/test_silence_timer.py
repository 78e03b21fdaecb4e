"""A worker's patience with a silent rank 0."""

from __future__ import annotations

from handoff_mpi.worker.silence_timer import Patience


def test_silence_counts_from_the_last_sign_of_life():
    patience = Patience(5.0, 0.0)
    assert not any(patience.has_ended(now % 4 == 0, float(now)) for now in range(1, 41))
    assert [patience.has_ended(False, float(now)) for now in range(41, 47)] == [False] * 5 + [True]


def test_a_rank_that_was_suspended_has_not_listened():
    patience = Patience(5.0, 0.0)
    assert not patience.has_ended(False, 1000.0)
    assert patience.silence_s == 1.0


def test_rank_0_found_alive_is_waited_for():
    patience = Patience(2.0, 0.0)
    assert [patience.has_ended(False, now) for now in (1.0, 2.0, 3.0)] == [False, False, True]
    patience.begin_anew()
    assert not patience.has_ended(False, 4.0)


def test_without_a_limit_it_never_ends():
    patience = Patience(0.0, 0.0)
    assert not any(patience.has_ended(False, float(now)) for now in range(1000))
