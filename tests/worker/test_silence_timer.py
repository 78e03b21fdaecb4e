"""A worker's patience with a silent rank 0."""

from __future__ import annotations

from handoff_mpi.worker.silence_timer import SilenceTimer


def test_silence_counts_from_the_last_sign_of_life():
    silence_timer = SilenceTimer(5.0, 0.0)
    assert not any(silence_timer.has_ended(now % 4 == 0, float(now)) for now in range(1, 41))
    assert [silence_timer.has_ended(False, float(now)) for now in range(41, 47)] == [False] * 5 + [True]


def test_a_rank_that_was_suspended_has_not_listened():
    silence_timer = SilenceTimer(5.0, 0.0)
    assert not silence_timer.has_ended(False, 1000.0)
    assert silence_timer.silence_s == 1.0


def test_rank_0_found_alive_is_waited_for():
    silence_timer = SilenceTimer(2.0, 0.0)
    assert [silence_timer.has_ended(False, now) for now in (1.0, 2.0, 3.0)] == [False, False, True]
    silence_timer.restart()
    assert not silence_timer.has_ended(False, 4.0)


def test_without_a_limit_it_never_ends():
    silence_timer = SilenceTimer(0.0, 0.0)
    assert not any(silence_timer.has_ended(False, float(now)) for now in range(1000))
