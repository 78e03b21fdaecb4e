"""Ranks and hosts that fail functions which succeed elsewhere are put on probation; their attempts are given back."""

from __future__ import annotations

from itertools import pairwise

import pytest

from handoff_mpi.scheduler import (
    Closed,
    MemoryTold,
    RankLost,
    Retracted,
    State,
    Submitted,
    Unfetched,
)
from handoff_mpi.scheduler.probation import PROBATION_PROBE_S
from handoff_mpi.scheduler.probing import HOST_PROBE_INTERVAL_S
from handoff_mpi.scheduler.undecided import HOLD_CALLS
from tests.scheduler.test_avoidance import hosts
from tests.scheduler.transcript import (
    LONG,
    Dialogue,
    HeartbeatReceived,
    cpus,
    died,
    done,
    made,
    raised,
    task,
    timed_out,
)
from tests.simulation.bad_hosts import CASES, STRATEGIES, Run

#: Every call fails on host a, with ranks 1 and 2; host b is good.
BAD = "aabb"


def on_probation(run):
    return [line for line in run.log if " probation: " in line or " trusted: " in line]


def convict(run, failed=raised, count=40, **options):
    """Ranks 1 and 2 of host a fail all functions, which succeed on host b, until a is on probation; return the time."""
    run.submit(*[task(**options) for _ in range(count)])
    for second in range(1, 10):
        ended = [(failed if rank < 3 else done)(rank, _of(run, rank)) for rank in (1, 2, 3, 4) if running(run, rank)]
        run.tell(float(second), *ended)
        if run.scheduler.probation.of_rank:
            return float(second)
    raise AssertionError("host a is not convicted")


def _of(run, rank):
    """The running task of a rank, with its attempt."""
    (slot,) = run.scheduler.slots.of_rank[rank]
    return slot.tasks[0], run.scheduler.tasks.attempts[slot.tasks[0]]


def running(run, rank):
    (slot,) = run.scheduler.slots.of_rank[rank]
    return slot.tasks


def end_calls(run, now):
    """All calls end within a second, those on host a badly; return the time."""
    ended = [(raised if rank < 3 else done)(rank, _of(run, rank)) for rank in (1, 2, 3, 4) if running(run, rank)]
    run.tell(now + 1.0, *ended)
    return now + 1.0


def drain(run, now):
    """All calls end, those on host a badly, until nothing runs; return the time."""
    while any(running(run, rank) for rank in (1, 2, 3, 4)):
        now = end_calls(run, now)
    return now


@pytest.mark.parametrize("failed", [raised, timed_out, died])
def test_a_host_whose_failed_functions_succeed_elsewhere_goes_on_probation(failed):
    run = Dialogue(hosts(BAD))
    convict(run, failed)
    assert set(run.scheduler.probation.of_rank) == {1, 2}
    assert on_probation(run) == ["rank 1 probation: ('a', (1, 2), '3 functions that failed there succeeded elsewhere')"]


def test_a_host_on_probation_gets_no_tasks():
    run = Dialogue(hosts(BAD))
    now = convict(run)
    run.tell(now + 1, *[raised(rank, _of(run, rank)) for rank in (1, 2) if running(run, rank)])
    assert (running(run, 1), running(run, 2)) == ([], [])
    run.tell(now + 1.5, done(3, _of(run, 3)))
    assert (running(run, 1), running(run, 2)) == ([], [])
    assert running(run, 3)


def test_queues_are_not_sorted_in_each_turn_while_a_host_is_on_probation(monkeypatch):
    run = Dialogue(hosts(BAD))
    now = convict(run)
    run.tell(now + 0.1, *[raised(rank, _of(run, rank)) for rank in (1, 2) if running(run, rank)])
    scheduler, sorts = run.scheduler, []
    all_queues = scheduler.ready.all_queues
    monkeypatch.setattr(scheduler.ready, "all_queues", lambda: sorts.append(1) or all_queues())
    scheduler.handle([Submitted([task(priority=priority) for priority in range(5, 50)])], now + 0.2)
    assert not sorts
    scheduler.handle([Submitted([task(pin="a", priority=priority) for priority in range(5)])], now + 0.3)
    assert running(run, 1)
    assert running(run, 2)
    assert sorts, "what is bound to an idle rank is found by a sort"
    sorts.clear()
    scheduler.handle([done(3, _of(run, 3))], now + 0.4)
    assert running(run, 3)
    assert not sorts, "no rank is idle for what is bound to the host"


def test_a_probe_for_which_no_function_is_found_is_not_tried_again_at_once():
    run = Dialogue(hosts(BAD))
    now = drain(run, convict(run))
    run.submit(task(cost=cpus(2), pin=3), task(pin=3), task(pin=4), task(pin=3), now=now)
    (term,) = run.scheduler._failures.probation.terms.values()
    run.tell(now + 3.0)
    assert term.probe is None
    assert term.next_probe == now + 3.0 + HOST_PROBE_INTERVAL_S
    run.tell(now + 3.0 + HOST_PROBE_INTERVAL_S, Submitted([task()]))
    assert term.probe is not None


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "name", ["bad host, fails fast", "bad host, no retries", "bad host, no retries, late", "bad host, crash limit 1"]
)
def test_nothing_fails_for_good_because_of_a_bad_host_and_the_run_takes_what_its_good_ranks_need(name, strategy):
    outcome = Run(CASES[name], strategy).run()
    assert outcome.failed == 0
    assert outcome.ratio <= 1.3
    assert max(outcome.attempts) == 2, "a function spends at most one attempt on a bad host"


@pytest.mark.parametrize(
    "name",
    [
        "two bad hosts, one retry",
        "five bad hosts of one rank",
        "bad rank of one host, no retries",
        "bad rank of two hosts, no retries",
        "half bad host",
        "goes bad, no retries, late",
        "half bad host, no retries",
    ],
)
def test_several_bad_hosts_bad_ranks_and_hosts_that_go_bad(name):
    outcome = Run(CASES[name]).run()
    assert outcome.failed == 0
    assert outcome.ratio <= 1.3


@pytest.mark.parametrize("name", ["bugs in a row, no retries", "bugs on a bad host, no retries"])
def test_functions_with_bugs_fail_and_no_others_and_are_hardly_tried_again(name):
    run = Run(CASES[name])
    outcome = run.run()
    assert set(run.scheduler.tasks.failures) == {*CASES[name].bugs}
    assert max(outcome.attempts) <= 2


def test_a_host_that_works_again_is_used_again():
    outcome = Run(CASES["becomes good"]).run()
    assert [line.split(": ")[0] for line in outcome.log] == ["3.00 rank 1 probation", "18.02 rank 4 trusted"]
    assert outcome.ratio < 0.7, "its ranks did their share"


@pytest.mark.parametrize(("name", "tries"), [("all fail", 4), ("all fail, no retries", 1), ("all fail on one rank", 4)])
def test_a_function_that_fails_everywhere_excludes_nobody_and_is_tried_as_often_as_ever(name, tries):
    outcome = Run(CASES[name]).run()
    assert (outcome.failed, outcome.log) == (CASES[name].functions, [])
    assert set(outcome.attempts) == {tries}


@pytest.mark.parametrize("name", ["flaky functions", "flaky, no retries"])
def test_functions_that_fail_at_random_convict_nobody(name):
    outcome = Run(CASES[name]).run()
    assert outcome.log == []


def test_the_last_host_is_never_excluded():
    """Host a is put on probation; when all ranks of host b die, it is as good as any."""
    run = Dialogue(hosts(BAD))
    now = convict(run)
    run.tell(now + 0.1, RankLost(3, "it died"))
    assert set(run.scheduler.probation.of_rank) == {1, 2}
    run.tell(now + 0.2, RankLost(4, "it died"))
    assert not run.scheduler.probation.of_rank
    assert "rank 1 trusted: ('a', (1, 2), 'no other rank is left')" in run.log


# -- probes ---------------------------------------------------------------------------------------------


def idle_on_probation(**options):
    """Host a is on probation, and nothing runs there; return the time."""
    run = Dialogue(hosts(BAD))
    now = convict(run, count=40, **options)
    for _ in range(2):
        busy = [rank for rank in (1, 2) if running(run, rank)]
        run.tell(now, *[raised(rank, _of(run, rank)) for rank in busy])
    return run, now


def test_a_host_on_probation_is_probed_with_one_call_and_trusted_again_when_it_succeeds():
    run, now = idle_on_probation()
    run.tell(now + PROBATION_PROBE_S / 2)
    assert (running(run, 1), running(run, 2)) == ([], [])
    run.tell(now + PROBATION_PROBE_S)
    assert len(running(run, 1)) + len(running(run, 2)) == 1
    (rank,) = [rank for rank in (1, 2) if running(run, rank)]
    run.tell(now + PROBATION_PROBE_S + 1, done(rank, _of(run, rank)))
    assert not run.scheduler.probation.of_rank
    assert on_probation(run) == ["rank 2 trusted: ('a', (1, 2), 'a probe succeeded there')"]
    assert running(run, 1)
    assert running(run, 2)


def test_each_probe_that_fails_doubles_the_wait_for_the_next_and_goes_to_another_rank():
    run, now = idle_on_probation()
    times, ranks = [], []
    while len(times) < 4:
        now = run.scheduler.next_wakeup() if not any(running(run, rank) for rank in (1, 2)) else now
        run.tell(now, *[done(rank, _of(run, rank)) for rank in (3, 4)])
        for rank in (1, 2):
            if running(run, rank):
                times.append(now)
                ranks.append(rank)
                run.tell(now, raised(rank, _of(run, rank)))
    assert [later - time for time, later in pairwise(times)] == [
        2 * PROBATION_PROBE_S,
        4 * PROBATION_PROBE_S,
        8 * PROBATION_PROBE_S,
    ]
    assert ranks == [1, 2, 1, 2]


def test_the_last_try_of_a_function_is_never_a_probe():
    run, now = idle_on_probation(max_retries=0)
    run.tell(now + 10 * PROBATION_PROBE_S)
    assert (running(run, 1), running(run, 2)) == ([], [])


def test_a_probe_that_comes_back_without_a_result_is_followed_by_another():
    run, now = idle_on_probation()
    run.tell(now + PROBATION_PROBE_S)
    (rank,) = [rank for rank in (1, 2) if running(run, rank)]
    run.tell(now + PROBATION_PROBE_S + 1, Retracted(rank, [_of(run, rank)]))
    assert set(run.scheduler.probation.of_rank) == {1, 2}
    run.tell(now + 2 * PROBATION_PROBE_S + 1)
    assert len(running(run, 1)) + len(running(run, 2)) == 1


# -- what may run there all the same --------------------------------------------------------------------


@pytest.mark.parametrize("pin", [1, "a"])
def test_what_is_pinned_to_a_bad_host_runs_there_and_fails_there(pin):
    run = Dialogue(hosts(BAD))
    now = convict(run)
    run.tell(now, *[raised(rank, _of(run, rank)) for rank in (1, 2) if running(run, rank)])
    run = _submit_more(run, now, task(pin=pin, max_retries=1))
    last = len(run.scheduler.tasks.state) - 1
    for attempt in (1, 2):
        (rank,) = [rank for rank in (1, 2) if last in running(run, rank)]
        assert set(run.scheduler.probation.of_rank) == {1, 2}
        run.tell(now + attempt, raised(rank, (last, attempt)))
    assert run.states.split()[last] == "FAILED"


def _submit_more(run, now, *specs):
    run.submit(*specs, now=now)
    return run


def short(rank):
    return MemoryTold(rank, True, "90 of 100 MB")


def test_a_rank_on_probation_that_is_short_of_memory_runs_what_is_bound_to_it_once_nothing_else_runs():
    run = Dialogue(hosts(BAD))
    now = drain(run, convict(run))
    assert run.tell(now, short(1), Submitted([task(pin=3), task(pin=1), task(pin=1)])) == ["3.0 claims for 40#1"]
    assert run.tell(now + 1, done(3, 40)) == ["1.0 claims for 41#1"]
    assert "rank 1 let go: all ranks that could continue are short of memory" in run.log
    assert run.tell(now + 2, done(1, 41)) == ["1.0 claims for 42#1"]


def test_a_rank_on_probation_that_is_not_short_of_memory_is_used_before_one_that_is():
    run = Dialogue(hosts(BAD))
    now = drain(run, convict(run))
    assert set(run.scheduler.probation.of_rank) == {1, 2}
    assert run.tell(now, short(1), Submitted([task(pin="a")])) == ["2.0 claims for 40#1"]


def test_a_suspect_rank_is_given_nothing_if_cordoned_for_another_reason_too():
    run = Dialogue(hosts(BAD), heartbeat_timeout_s=80.0)
    now = drain(run, convict(run))
    run.tell(now, HeartbeatReceived([1, 2, 3, 4]), short(1))
    run.tell(now + 50, HeartbeatReceived([2, 3, 4]))
    assert run.log == ["rank 1 suspect: silent for 50 s"]
    assert run.tell(now + 51, Submitted([task(pin=1)])) == []
    assert run.tell(now + 52, HeartbeatReceived([1])) == ["1.0 claims for 40#1"]


# -- failures without tries left ------------------------------------------------------------------------


def test_a_function_without_retries_fails_once_its_host_has_worked_for_a_while_and_is_not_tried_twice():
    run = Dialogue(hosts("aabb"))
    run.submit(*[task(max_retries=0) for _ in range(60)])
    run.tell(1.0, done(1, 0), done(2, 1), done(3, 2), done(4, 3))
    run.tell(2.0, raised(1, _of(run, 1)), done(2, _of(run, 2)))
    assert "UNDECIDED" in run.log[0]
    for call in range(1, 9):  # WINDOW calls on two ranks
        assert "FAILED" not in run.states, call
        run.tell(2.0 + call / 10, *(done(rank, _of(run, rank)) for rank in (1, 2)))
    run.tell(3.0)
    assert run.states.count("FAILED") == 1
    assert max(run.scheduler.tasks.attempts) == 1


def test_a_failure_is_final_at_once_if_nothing_more_could_tell():
    run = Dialogue(hosts("ab"), max_retries=0)
    run.submit(task())
    run.tell(1.0, raised(1, 0))
    assert run.log == ["0#1 FAILED by ERROR on 1: ('ValueError', 'oops')"]


def test_a_failure_is_undecided_for_some_times_as_long_as_its_call_took():
    run = Dialogue(hosts("aabb"), max_retries=0)
    run.submit(*[task() for _ in range(4)])
    run.tell(1.0, raised(1, 0))
    run.tell(1.0 + HOLD_CALLS * LONG - 0.1)
    assert run.states.startswith("READY")
    run.tell(1.0 + HOLD_CALLS * LONG)
    assert run.states.startswith("FAILED")


def test_functions_that_are_skipped_while_they_are_tried_elsewhere_keep_no_other_failure_undecided():
    run = Dialogue(hosts(BAD + "c"), max_retries=0)
    run.submit(task(pin=5), closed=False)
    run.tell(0.1, made(5, 0))
    first = [task(0), task(0), task(pin=5, priority=1)]  # of which one runs on each bad rank, one where their input is
    run.tell(0.2, Submitted([*first, *(task() for _ in range(20))]), Closed())
    now = 0.2
    for _ in range(6):
        now = end_calls(run, now)
        run.tell(now + 0.1)
        for rank in (3, 4):
            if running(run, rank) and running(run, rank)[0] in (1, 2):  # it is tried elsewhere
                run.tell(now + 0.2, Unfetched(rank, *_of(run, rank), [(0, [5])]))
    run.tell(now + 0.3, done(5, 3))
    run.tell(now + 0.4, raised(5, (0, 2)))
    for _ in range(20):
        now = drain(run, now) + 1.0
        run.tell(now)
    assert run.states.startswith("FAILED SKIPPED SKIPPED")
    assert not run.scheduler.ready.undecided, "the other functions that failed on host a are decided"


def test_with_on_failure_stop_the_first_failure_stops_the_run():
    run = Dialogue(hosts("aabb"), max_retries=0, stop_on_failure=True)
    run.submit(*[task() for _ in range(4)])
    run.tell(1.0, raised(1, 0))
    assert run.states.startswith("FAILED")


def test_deaths_on_a_bad_host_are_forgiven_and_told_for_the_journal():
    run = Dialogue(hosts(BAD), crash_limit=1)
    convict(run, died)
    assert set(run.scheduler.probation.of_rank) == {1, 2}
    assert any("forgiven" in line for line in run.log)
    assert not run.scheduler.tasks.failures


def test_ranks_that_die_of_functions_which_succeed_elsewhere_speak_against_their_host():
    run = Dialogue(hosts("aaaaabb"))
    run.submit(*[task() for _ in range(60)])
    began = []
    for rank in (1, 2, 3):
        (task_there,) = running(run, rank)
        run.tell(float(rank), RankLost(rank, "it died"))
        assert f"rank {rank} blamed on: ({task_there}, 1, 'it died')" in run.log
        now = float(rank)
        while run.scheduler.tasks.state[task_there] != State.DONE:
            assert not {*running(run, 4), *running(run, 5)} & {task_there}, "it runs on another host"
            now += 0.1
            run.tell(now, *(done(other, _of(run, other)) for other in (6, 7)))
            began += on_probation(run)
    assert began == ["rank 1 probation: ('a', (1, 2, 3, 4, 5), '3 functions that failed there succeeded elsewhere')"]
    assert {4, 5} <= set(run.scheduler.probation.of_rank)


def test_a_function_that_kills_ranks_everywhere_excludes_no_host():
    run = Dialogue(hosts("aaabbb"))
    run.submit(task(), *[task() for _ in range(30)])
    now = 1.0
    while run.scheduler.tasks.state[0] != State.FAILED:
        rank = next((each for each in range(1, 7) if 0 in running(run, each)), None)
        others = [each for each in range(1, 7) if each != rank and run.scheduler.ledger.rank_states[each].is_present]
        run.tell(now, *(done(each, _of(run, each)) for each in others if running(run, each)))
        now += 0.5
        if rank is not None:
            run.tell(now, RankLost(rank, "it died"))
    assert not run.scheduler.probation.of_rank


def test_deaths_that_a_success_has_cleared_are_not_forgiven_later():
    run = Dialogue(hosts(BAD))
    run.submit(task(), task(0, pin=4), closed=False)
    assert run.tell(0.1, died(1, 0)) == ["3.0 claims for 0#2"]
    assert run.tell(0.2, made(3, (0, 2))) == ["4.0 claims for 1#1"]
    run.tell(0.3, Submitted([task(pin=1), task(pin=2)]))
    assert run.tell(0.4, Unfetched(4, 1, 1, [(0, [3])])) == ["3.0 claims for 0#3"]
    run.tell(0.5, died(3, (0, 3)))
    convict(run)
    assert not any("forgiven" in line for line in run.log), "its only death that counts was on another host"


# -- collocated groups ----------------------------------------------------------------------------------


def test_a_collocated_group_whose_first_function_fails_is_bound_where_that_runs_next():
    run = Dialogue(hosts("ab"))
    run.submit(task(group=0), task(group=0))
    assert run.tell(1.0, raised(1, 0)) == ["2.0 claims for 0#2"]
    assert run.tell(2.0, done(2, (0, 2))) == ["2.0 claims for 1#1"]


def test_a_collocated_group_that_has_run_well_on_its_rank_stays_there():
    run = Dialogue(hosts("ab"))
    run.submit(task(group=0), task(group=0))
    run.tell(1.0, done(1, 0))
    run.tell(2.0, raised(1, 1))
    assert run.log[-1] == "1#2 DISPATCHED by PLACED on 1"


def test_a_collocated_group_that_is_pinned_stays_where_it_fails():
    run = Dialogue(hosts("ab"))
    run.submit(task(group=0), task(group=0, pin=1))
    run.tell(1.0, raised(1, 0))
    assert run.log[-1] == "0#2 DISPATCHED by PLACED on 1"


def test_a_collocated_group_leaves_a_rank_that_goes_on_probation():
    run = Dialogue(hosts(BAD))
    run.submit(task(group=0), closed=False)
    run.tell(0.5, done(1, 0))
    assert run.scheduler.ready.groups.bound == {0: 1}
    convict(run)
    assert run.scheduler.ready.groups.bound == {}


def test_a_function_that_is_tried_elsewhere_without_tries_left_and_dies_there_has_its_deaths_left():
    """Deaths count for the crash limit, and not as retries."""
    run = Dialogue(hosts("aabbc"), max_retries=0)
    run.submit(*[task() for _ in range(30)])
    run.tell(1.0, done(3, 2), done(4, 3), done(5, 4))
    run.tell(1.1, raised(1, 0), raised(2, 1))
    run.tell(1.2, raised(1, _of(run, 1)), raised(2, _of(run, 2)))
    (first, second) = [
        number for number, state in enumerate(run.scheduler.tasks.attempts) if number in run.scheduler.ready.avoid
    ][:2]
    run.tell(2.0, done(3, _of(run, 3)), done(4, _of(run, 4)), done(5, _of(run, 5)))
    (rank, tried) = next((rank, _of(run, rank)) for rank in (3, 4, 5) if _of(run, rank)[0] in (first, second))
    run.tell(2.1, died(rank, tried))
    assert "READY by RETRY" in "".join(run.log)


# -- strategies of one's own ----------------------------------------------------------------------------


class Favourites:
    """Places tasks on ranks 1 and 2 alone."""

    def allocate(self, ready, view):
        for group in ready:
            for rank in (1, 2):
                if len(group) and view.fits(group.cost, rank):
                    yield group[0], rank


def test_a_strategy_that_uses_one_host_alone_gets_its_way_where_nothing_else_could_go_on():
    run = Dialogue(hosts(BAD), Favourites())
    run.submit(task())
    for attempt in range(1, 5):
        (rank,) = [rank for rank in (1, 2) if running(run, rank)]
        run.tell(float(attempt), raised(rank, (0, attempt)))
    assert run.why(0) == ("ValueError", "oops")


def test_a_strategy_that_uses_one_host_alone_gets_its_way_although_that_is_short_of_memory():
    run = Dialogue(hosts(BAD), Favourites())
    run.submit(task())
    assert run.tell(1.0, short(1), short(2), raised(1, 0)) == ["1.0 claims for 0#2"]
