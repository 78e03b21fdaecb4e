"""The promises of the scheduler, as dialogues: events with their times, and the exact answers."""

from __future__ import annotations

from collections import Counter

import pytest

from handoff_mpi.allocation import CostOptimized, FirstAvailable, Ledger
from handoff_mpi.errors import AllocationError
from handoff_mpi.messages import DEATH, NO_ROOM
from handoff_mpi.resources import Capability
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.scheduler import (
    Closed,
    Failure,
    MemoryTold,
    Persisted,
    RankLost,
    Refused,
    ResourcesUpdated,
    Retracted,
    StopRequested,
    Submitted,
    Unfetched,
    ValueLost,
)
from handoff_mpi.scheduler.tasks import MAX_NAMED
from tests.scheduler.transcript import (
    CPU,
    GPU,
    SHORT,
    Dialogue,
    HeartbeatReceived,
    ProcessFoundAlive,
    cpus,
    died,
    done,
    made,
    raised,
    ranks,
    task,
    timed_out,
)

AGAIN = "{}#1 WAITING by VALUE_LOST: its value was not kept, and is needed again"


def queued(ledger, *others, **policy):
    """Rank 1 runs 1#1, with 2#1 queued behind it; ``others`` were submitted as well."""
    run = Dialogue(ledger, **policy)
    run.submit(task(), closed=False)
    commands = run.tell(0.0, done(1, 0, lasted=SHORT), Submitted([task(), task(), *others]), Closed())
    assert commands[0] == "1.0 continues with 1#1 2#1"
    return run


def placed(commands):
    """Return the attempts that were sent to any rank."""
    return {name for line in commands if "#" in line and "recall" not in line for name in line.split() if "#" in name}


# -- readiness ------------------------------------------------------------------------------------------


def test_a_task_is_sent_once_its_last_input_is_done():
    run = Dialogue(ranks(2))
    assert run.submit(task(), task(), task(0, 1)) == ["1.0 claims for 0#1", "1.1 claims for 1#1"]
    assert run.tell(1.0, done(1, 0)) == []
    assert run.log == ["0#1 DONE by OK on 1"]
    assert run.tell(2.0, done(1, 1)) == ["1.1 continues with 2#1"]
    assert run.log == ["1#1 DONE by OK on 1", "2#0 READY by INPUTS_DONE", "2#1 DISPATCHED by PLACED on 1"]
    assert run.tell(3.0, done(1, 2)) == []
    assert run.status == "done"


def test_a_dag_of_nothing_is_done_at_once():
    run = Dialogue(ranks(1))
    assert run.submit() == []
    assert run.status == "done"


def test_a_run_goes_on_until_no_more_will_be_submitted():
    run = Dialogue(ranks(1))
    run.submit(task(), closed=False)
    run.tell(1.0, done(1, 0))
    assert run.status == "running"
    run.tell(2.0, Closed())
    assert run.status == "done"


def test_functions_submitted_during_the_run_start_as_soon_as_they_can():
    run = Dialogue(ranks(1, 1))
    assert run.submit(task(), closed=False) == ["1.0 claims for 0#1"]
    assert run.tell(1.0, Submitted([task(0), task()])) == ["2.0 claims for 2#1"]
    assert run.tell(2.0, done(1, 0)) == ["1.0 continues with 1#1"]
    assert run.tell(3.0, Submitted([task(0)]), done(2, 2)) == ["2.0 continues with 3#1"]


def test_what_is_submitted_after_its_input_failed_is_skipped_at_once():
    run = Dialogue(ranks(1), max_retries=0)
    run.submit(task(), closed=False)
    run.tell(1.0, raised(1, 0))
    assert run.tell(2.0, Submitted([task(0), task(1)]), Closed()) == []
    assert run.log == ["1#0 SKIPPED by INPUT_FAILED", "2#0 SKIPPED by INPUT_FAILED"]
    assert run.status == "failed"


def test_a_value_that_was_evicted_is_made_again_for_a_late_consumer():
    run = Dialogue(ranks(1))
    run.submit(task(), task(0), closed=False)
    run.tell(1.0, made(1, 0))
    assert run.tell(2.0, done(1, 1)) == ["forget at 1: 0"]
    assert run.tell(3.0, Submitted([task(0)]), Closed()) == ["1.0 claims for 0#2"]
    assert run.log == [AGAIN.format(0), "0#1 READY by INPUTS_DONE", "0#2 DISPATCHED by PLACED on 1"]
    assert run.tell(4.0, made(1, (0, 2))) == ["1.0 continues with 2#1"]


# -- dispatch -------------------------------------------------------------------------------------------


def test_what_does_not_fit_now_waits_for_room():
    run = Dialogue(ranks(2))
    assert run.submit(task(cost=cpus(2)), task(cost=cpus(2))) == ["1.0 claims for 0#1"]
    assert run.states == "DISPATCHED READY"
    assert run.tell(1.0, done(1, 0)) == ["1.0 continues with 1#1"]


def test_a_slot_is_claimed_again_for_another_class():
    run = Dialogue(ranks(1))
    assert run.submit(task(cost=cpus(1)), task(cost={}), task(cost={})) == ["1.0 claims for 0#1"]
    assert run.tell(1.0, done(1, 0)) == ["1.0 claims for 1#1"]
    assert run.tell(2.0, done(1, 1)) == ["1.0 continues with 2#1"]


def test_functions_that_take_long_are_sent_one_at_a_time():
    run = Dialogue(ranks(1))
    run.submit(task(), task(), task())
    assert run.tell(1.0, done(1, 0, lasted=0.26)) == ["1.0 continues with 1#1"]
    assert run.tell(2.0, done(1, 1, lasted=0.26)) == ["1.0 continues with 2#1"]


def test_short_functions_are_sent_in_batches_of_at_most_the_window_once_half_of_the_last_has_ended():
    run = Dialogue(ranks(1), window=3)
    assert run.submit(*[task() for _ in range(9)]) == ["1.0 claims for 0#1"]
    assert run.tell(1.0, done(1, 0, lasted=SHORT)) == ["1.0 continues with 1#1 2#1 3#1"]
    assert run.tell(1.1, done(1, 1, lasted=SHORT)) == []
    assert run.tell(1.2, done(1, 2, lasted=SHORT)) == ["1.0 continues with 4#1 5#1"]
    assert run.tell(1.3, done(1, 3, 4, 5, lasted=SHORT)) == ["1.0 continues with 6#1 7#1 8#1"]


def test_a_batch_leaves_the_other_slots_of_the_class_their_share():
    run = Dialogue(ranks(1, 1))
    run.submit(*[task() for _ in range(6)])
    assert run.tell(1.0, done(1, 0, lasted=SHORT)) == ["1.0 continues with 2#1 3#1"]
    assert placed(run.tell(1.0, done(2, 1, lasted=SHORT))) <= {"4#1", "5#1"}


def test_a_strategy_that_lets_nothing_be_inherited_is_asked_for_each_task():
    run = Dialogue(ranks(1), CostOptimized())
    assert run.submit(task(), task()) == ["1.0 claims for 0#1"]
    assert run.tell(1.0, done(1, 0)) == ["1.0 claims for 1#1"]


def test_never_more_calls_at_once_than_max_concurrency():
    run = Dialogue(ranks(2, 2), max_concurrency=2)
    assert run.submit(*[task() for _ in range(4)]) == ["1.0 claims for 0#1", "1.1 claims for 1#1"]
    assert run.tell(1.0, done(1, 0)) == ["1.0 continues with 2#1"]
    assert run.tell(2.0, done(1, 1, 2)) == ["1.1 continues with 3#1"]


class Careless:
    """A strategy that knows nothing of pins."""

    def allocate(self, ready, view):
        for group in ready:
            if len(group):
                yield group[0], 2


def test_a_strategy_that_places_a_pinned_function_on_another_rank_of_the_host_is_refused():
    ledger = Ledger([Capability(rank, "h", cpus(2)) for rank in (1, 2)], {1: 1, 2: 1})
    with pytest.raises(AllocationError):
        Dialogue(ledger, Careless()).submit(task(pin=1))


# -- priorities -----------------------------------------------------------------------------------------


def test_the_higher_priority_goes_first_then_the_older():
    run = Dialogue(ranks(1))
    assert run.submit(task(), task(priority=1), task(priority=1), task(priority=-1)) == ["1.0 claims for 1#1"]
    assert run.tell(1.0, done(1, 1)) == ["1.0 continues with 2#1"]
    assert run.tell(2.0, done(1, 2)) == ["1.0 claims for 0#1"]
    assert run.tell(3.0, done(1, 0)) == ["1.0 claims for 3#1"]


def test_a_slot_does_not_go_on_with_its_class_while_something_more_urgent_waits():
    run = Dialogue(ranks(1))
    run.submit(task(), task(), closed=False)
    assert run.tell(1.0, Submitted([task(priority=5)]), Closed()) == []
    assert run.tell(2.0, done(1, 0)) == ["1.0 claims for 2#1"]


@pytest.mark.parametrize("strategy", [FirstAvailable, CostOptimized])
def test_a_function_that_needs_a_whole_host_is_not_overtaken_for_ever(strategy):
    run = Dialogue(ranks(4), strategy())
    running = [f"{number}#1" for number in range(4)]
    run.submit(*[task() for _ in range(4)], task(cost=cpus(4)), *[task() for _ in range(200)])
    for turn in range(1, 100):
        number = int(running.pop(0).split("#")[0])
        running += sorted(placed(run.tell(float(turn), done(1, number))))
        if not running or "4#1" in running:
            break
    assert running == ["4#1"]


def test_a_function_that_can_run_nowhere_does_not_take_others_with_it():
    run = Dialogue(ranks(2, 1))
    run.tell(0.0, RankLost(2, "it died"))
    chain = [task(*inputs, cost=cpus(1 + number % 2)) for number, inputs in enumerate([(), *zip(range(1, 40))])]
    run.submit(task(pin=2), *chain)
    for number in range(1, 41):
        run.tell(float(number), done(1, number))
    assert run.states == " ".join(["FAILED"] + ["DONE"] * 40)


# -- retries --------------------------------------------------------------------------------------------


def test_a_function_that_raised_is_tried_again_on_another_rank():
    run = Dialogue(ranks(1, 1))
    run.submit(task())
    assert run.tell(1.0, raised(1, 0)) == ["2.0 claims for 0#2"]
    assert run.log == ["0#1 READY by RETRY on 1: ('ValueError', 'oops')", "0#2 DISPATCHED by PLACED on 2"]
    assert run.tell(2.0, timed_out(2, (0, 2))) == ["1.0 claims for 0#3"]
    assert run.tell(3.0, done(1, (0, 3))) == []
    assert run.status == "done"


def test_a_retry_waits_for_another_rank_rather_than_go_where_it_failed():
    run = Dialogue(ranks(1, 1))
    run.submit(task(), task())
    assert run.tell(1.0, raised(1, 0)) == []
    assert run.tell(2.0, done(2, 1)) == ["2.0 claims for 0#2"]


def test_where_there_is_no_other_rank_a_retry_stays():
    run = Dialogue(ranks(1))
    run.submit(task())
    assert run.tell(1.0, raised(1, 0)) == ["1.0 continues with 0#2"]


def test_a_retry_stays_where_the_other_ranks_could_not_hold_it():
    run = Dialogue(ranks(1, 1, gpus=(1,)))
    run.submit(task(cost=GPU))
    assert run.tell(1.0, raised(1, 0)) == ["1.0 continues with 0#2"]


def test_a_pin_wins_over_another_rank():
    run = Dialogue(ranks(1, 1))
    run.submit(task(pin=1))
    run.tell(1.0, raised(1, 0))
    assert run.log[-1] == "0#2 DISPATCHED by PLACED on 1"


@pytest.mark.parametrize("event", [RankLost(2, "it died"), ResourcesUpdated(2, cpus(0))])
def test_a_retry_goes_back_when_no_other_rank_is_left_for_it(event):
    run = Dialogue(ranks(1, 1))
    run.submit(task(), task())
    run.tell(1.0, raised(1, 0))
    run.tell(2.0, event)
    run.tell(3.0, done(1, (0, 2)), done(2, 1))
    assert run.states.startswith("DONE")


@pytest.mark.parametrize(
    ("own", "policy", "tries"), [(None, 0, 1), (None, 2, 3), (0, 3, 1), (1, 3, 2), (2, 0, 3)]
)  # fmt: skip
def test_max_retries_of_a_function_goes_before_that_of_the_run_and_none_reuses_claims(own, policy, tries):
    run = Dialogue(ranks(1), max_retries=policy)
    run.submit(task(max_retries=own))
    for attempt in range(1, tries + 1):
        assert run.states == "DISPATCHED"
        run.tell(float(attempt), raised(1, (0, attempt)))
    assert run.states == "FAILED"


def test_a_failure_says_what_was_raised_after_how_many_attempts_and_where():
    run = Dialogue(ranks(1, 1), max_retries=2)
    run.submit(task())
    for attempt, rank in enumerate((1, 2, 1), 1):
        run.tell(float(attempt), raised(rank, (0, attempt)))
    assert run.log == ["0#3 FAILED by ERROR on 1: ('ValueError', 'oops')"]
    assert run.scheduler.tasks.failures == {0: Failure("ValueError", "oops", "Traceback: oops", 3, (1, 2, 1))}


# -- failures -------------------------------------------------------------------------------------------


def test_a_failure_skips_its_descendants_only():
    run = Dialogue(ranks(1), max_retries=0)
    run.submit(task(), task(), task(0, 1), task(2), task(1))
    assert run.tell(1.0, raised(1, 0)) == ["1.0 continues with 1#1"]
    assert run.log[:3] == [
        "0#1 FAILED by ERROR on 1: ('ValueError', 'oops')",
        "2#0 SKIPPED by INPUT_FAILED",
        "3#0 SKIPPED by INPUT_FAILED",
    ]
    assert run.tell(2.0, done(1, 1)) == ["1.0 continues with 4#1"]
    run.tell(3.0, done(1, 4))
    assert run.states == "FAILED DONE SKIPPED SKIPPED DONE"
    assert run.status == "failed"


def test_with_on_failure_stop_nothing_more_is_sent_and_what_runs_may_end():
    run = Dialogue(ranks(1, 1), stop_on_failure=True, max_retries=0)
    run.submit(task(), task(), task(), task(0), task(1))
    assert run.tell(1.0, raised(1, 0)) == []
    assert run.status == "running"
    assert run.tell(2.0, done(2, 1)) == []
    assert run.states == "FAILED DONE READY SKIPPED READY"
    assert run.status == "stopped"
    assert run.scheduler.stopped_on_failure


def test_with_on_failure_stop_queued_tasks_are_recalled():
    run = queued(ranks(1, 1), task(pin=2, max_retries=0), stop_on_failure=True)
    assert run.tell(0.01, raised(2, 3)) == ["recall from 1: 2#1"]
    assert run.tell(0.02, Retracted(1, [(2, 1)]), done(1, 1)) == []
    assert run.states == "DONE DONE READY FAILED"
    assert run.status == "stopped"


def test_a_run_that_had_nothing_left_when_it_was_stopped_is_not_called_stopped():
    run = Dialogue(ranks(1), stop_on_failure=True, max_retries=0)
    run.submit(task(), task(0))
    run.tell(1.0, raised(1, 0))
    assert run.status == "failed"


# -- late and duplicate answers -------------------------------------------------------------------------


def test_a_duplicate_answer_is_counted_and_dropped():
    run = Dialogue(ranks(1))
    run.submit(task(), task())
    assert run.tell(1.0, done(1, 0), done(1, 0)) == ["1.0 continues with 1#1"]
    assert run.tell(2.0, raised(1, 0)) == []
    assert run.scheduler.stale == 2
    assert run.states == "DONE DISPATCHED"


def test_any_answer_of_an_old_attempt_is_dropped():
    run = Dialogue(ranks(1))
    run.submit(task())
    run.tell(1.0, raised(1, 0))
    late = [done(1, 0), raised(1, 0), Retracted(1, [(0, 1)]), Unfetched(1, 0, 1, [])]
    assert run.tell(2.0, *late) == []
    assert run.log == []
    assert run.scheduler.stale == len(late)
    assert run.states == "DISPATCHED"


def test_a_late_refusal_changes_nothing():
    run = Dialogue(ranks(1))
    run.submit(task())
    run.tell(1.0, raised(1, 0))
    assert run.tell(2.0, Refused(0, 1, "full")) == []
    assert run.log == []


# -- returned and recalled tasks ------------------------------------------------------------------------


def test_a_returned_task_is_the_next_and_no_try_of_its_is_used_up():
    run = Dialogue(ranks(1), window=2, max_retries=0)
    run.submit(*[task() for _ in range(4)])
    assert run.tell(1.0, done(1, 0, lasted=SHORT)) == ["1.0 continues with 1#1 2#1"]
    assert run.tell(2.0, Retracted(1, [(2, 1)]), done(1, 1)) == ["1.0 continues with 2#2"]
    assert run.log == ["2#1 READY by RETRACTED on 1", "1#1 DONE by OK on 1", "2#2 DISPATCHED by PLACED on 1"]
    assert run.tell(3.0, done(1, (2, 2))) == ["1.0 continues with 3#1"]
    assert run.scheduler.tasks.attempts == [1, 1, 2, 1]


def test_tasks_that_come_back_together_keep_their_order():
    run = Dialogue(ranks(1))
    run.submit(*[task() for _ in range(4)])
    assert run.tell(1.0, done(1, 0, lasted=SHORT)) == ["1.0 continues with 1#1 2#1 3#1"]
    assert run.tell(2.0, Retracted(1, [(2, 1), (3, 1)]), done(1, 1)) == ["1.0 continues with 2#2"]


def test_what_waits_behind_a_long_call_is_recalled_once_for_an_idle_slot():
    run = queued(ranks(1, 1))
    assert run.scheduler.next_wakeup() == pytest.approx(0.02)
    assert run.tell(0.01) == []
    assert run.tell(0.02) == ["recall from 1: 2#1"]
    assert run.tell(0.06) == []


def test_what_was_recalled_goes_to_the_idle_slot():
    run = queued(ranks(1, 1))
    run.tell(0.02)
    assert run.tell(0.03, Retracted(1, [(2, 1)])) == ["2.0 claims for 2#2"]


def test_how_long_a_call_lasts_counts_from_the_end_of_the_one_before_it():
    run = Dialogue(ranks(1, 1))
    run.submit(task(), closed=False)
    run.tell(0.0, done(1, 0, lasted=SHORT), Submitted([task(), task(), task()]))
    assert run.tell(0.015, done(1, 1, lasted=SHORT)) == []
    assert run.tell(0.03) == []
    assert run.tell(0.036) == ["recall from 1: 3#1"]


def test_nothing_is_recalled_while_no_slot_is_idle():
    run = queued(ranks(1, 1), task(pin=2))
    assert run.tell(10.0) == []
    assert run.tell(11.0, done(2, 3)) == ["recall from 1: 2#1"]


def test_a_task_that_was_started_before_its_recall_arrived_ends_where_it_is():
    run = queued(ranks(1, 1))
    run.tell(0.02)
    assert run.tell(0.03, done(1, 1, 2)) == []
    assert run.status == "done"
    assert run.scheduler.stale == 0


def test_a_later_attempt_can_be_recalled_too():
    run = queued(ranks(2))
    assert run.tell(0.02) == ["recall from 1: 2#1"]  # too late: it is about to start
    more = Submitted([task(), task()])
    assert run.tell(0.03, done(1, 1, lasted=SHORT), more) == ["1.0 continues with 3#1 4#1"]
    assert run.tell(0.04, raised(1, 2)) == ["1.0 continues with 2#2"]
    assert run.tell(0.07) == ["recall from 1: 4#1 2#2"]


# -- inputs that cannot be had --------------------------------------------------------------------------


def test_an_input_that_is_gone_is_made_again_and_no_try_is_used_up():
    run = Dialogue(ranks(1, 1), max_retries=0)
    run.submit(task(), task(0, pin=2))
    assert run.tell(1.0, made(1, 0)) == ["2.0 claims for 1#1"]
    assert run.tell(2.0, Unfetched(2, 1, 1, [(0, [1])])) == ["1.0 claims for 0#2"]
    assert run.log == [
        "0#1 WAITING by VALUE_LOST: its value was lost on rank 1",
        "0#1 READY by INPUTS_DONE",
        "1#1 WAITING by INPUT_LOST on 2",
        "0#2 DISPATCHED by PLACED on 1",
    ]
    assert run.tell(3.0, made(1, (0, 2))) == ["2.0 claims for 1#2"]
    run.tell(4.0, done(2, (1, 2)))
    assert run.status == "done"


def test_an_input_that_another_rank_still_holds_is_not_made_again():
    run = Dialogue(ranks(1, 1))
    run.submit(task(), task(0, pin=2), task(0, pin=1))
    assert run.tell(1.0, made(1, 0)) == ["2.0 claims for 1#1", "1.0 claims for 2#1"]
    run.tell(2.0, done(2, 1))
    assert run.tell(3.0, Unfetched(1, 2, 1, [(0, [1])])) == ["1.0 continues with 2#2"]
    assert run.states == "DONE DONE DISPATCHED"


def test_a_persisted_value_whose_file_is_gone_is_made_again():
    run = Dialogue(ranks(1, 1))
    run.submit(task(keep=True), task(0, pin=2))
    run.tell(1.0, made(1, 0, is_persisted=True))
    assert run.tell(2.0, RankLost(1, "it died")) == ["announce the loss of 1"]
    assert run.states == "DONE DISPATCHED"
    assert run.tell(3.0, Unfetched(2, 1, 1, [(0, [])])) == ["2.0 claims for 0#2"]


def test_a_value_that_was_persisted_later_survives_its_rank():
    run = Dialogue(ranks(1, 1))
    run.submit(task(), task(pin=2), task(0, pin=2))
    run.tell(1.0, made(1, 0))
    assert run.tell(2.0, Persisted(0), RankLost(1, "it died")) == ["announce the loss of 1"]
    assert run.states == "DONE DISPATCHED READY"


def test_a_value_its_holders_no_longer_have_is_made_again_if_it_is_wanted():
    run = Dialogue(ranks(1))
    run.submit(task(keep=True), task())
    run.tell(1.0, made(1, 0))
    run.tell(2.0, made(1, 1))
    assert run.tell(3.0, ValueLost(0, [1]), ValueLost(1, [1])) == ["1.0 claims for 0#2"]
    assert run.states == "DISPATCHED DONE"


def test_inputs_are_made_again_as_deep_as_needed():
    run = Dialogue(ranks(1, 1))
    run.submit(task(), task(0), task(1), task(2))
    assert run.tell(1.0, made(1, 0)) == ["1.0 continues with 1#1"]
    assert run.tell(2.0, made(1, 1)) == ["1.0 continues with 2#1", "forget at 1: 0"]
    assert run.tell(3.0, RankLost(1, "it died")) == ["announce the loss of 1", "2.0 claims for 0#2"]
    assert run.log == [
        "rank 1 lost: it died",
        "2#1 READY by RANK_LOST on 1: it died",
        "rank 1 blamed on: (2, 1, 'it died')",
        "2#1 WAITING by INPUT_LOST",
        "1#1 WAITING by VALUE_LOST: its value was lost on rank 1",
        AGAIN.format(0),
        "0#1 READY by INPUTS_DONE",
        "0#2 DISPATCHED by PLACED on 2",
    ]
    assert run.tell(4.0, done(2, (0, 2))) == ["2.0 continues with 1#2"]
    assert run.tell(5.0, done(2, (1, 2))) == ["2.0 claims for 2#2"]


def test_what_depends_on_a_value_that_cannot_be_made_again_is_skipped():
    run = Dialogue(ranks(1, 1))
    run.submit(task(max_retries=0), task(0), task(1))
    run.tell(1.0, made(1, 0))
    run.tell(2.0, made(1, 1))
    run.tell(3.0, RankLost(1, "it died"))
    assert run.tell(4.0, raised(2, (0, 2))) == []
    assert run.states == "FAILED SKIPPED SKIPPED"
    assert run.status == "failed"


def test_a_value_that_is_lost_after_its_inputs_failed_is_skipped_with_all_that_need_it():
    run = Dialogue(ranks(1, 1, 1))
    run.submit(task(max_retries=0), task(0), task(0, pin=3), task(1, 4), task(pin=2))
    assert run.tell(1.0, made(1, 0)) == ["1.0 continues with 1#1", "3.0 claims for 2#1"]
    run.tell(2.0, made(1, 1))
    assert run.tell(3.0, Unfetched(3, 2, 1, [(0, [1])])) == ["1.0 claims for 0#2"]
    run.tell(4.0, raised(1, (0, 2)))
    assert run.states == "FAILED DONE SKIPPED WAITING DISPATCHED"
    run.tell(5.0, ValueLost(1, [1]))
    assert run.states == "FAILED SKIPPED SKIPPED SKIPPED DISPATCHED"


@pytest.mark.parametrize("back", [raised(2, 1), Unfetched(2, 1, 1, [(0, [1])]), RankLost(2, "it died too")])
def test_a_running_task_whose_input_failed_meanwhile_is_skipped_when_it_comes_back(back):
    run = Dialogue(ranks(1, 1, 1, gpus=(2, 3)))
    run.submit(task(max_retries=0), task(0, cost=GPU))
    assert run.tell(1.0, made(1, 0)) == ["2.0 claims for 1#1"]
    assert run.tell(2.0, RankLost(1, "it died")) == ["announce the loss of 1", "3.0 claims for 0#2"]
    run.tell(3.0, raised(3, (0, 2)))
    assert run.states == "FAILED DISPATCHED"
    run.tell(4.0, back)
    assert run.states == "FAILED SKIPPED"
    assert run.status == "failed"


# -- ranks lost -----------------------------------------------------------------------------------------


def test_what_ran_and_what_was_queued_on_a_lost_rank_goes_elsewhere():
    run = queued(ranks(1, 2))
    commands = run.tell(0.01, RankLost(1, "it died"))
    assert commands[0] == "announce the loss of 1"
    assert placed(commands[1:]) == {"1#2", "2#2"}
    assert run.log[:3] == [
        "rank 1 lost: it died",
        "1#1 READY by RANK_LOST on 1: it died",
        "2#1 READY by RANK_LOST on 1: it died",
    ]
    assert run.tell(0.02, RankLost(1, "it died")) == []


def test_what_was_in_flight_at_a_lost_rank_runs_in_a_child_next():
    run = queued(ranks(1, 2))
    assert not run.scheduler.is_isolated(1)
    run.tell(0.01, RankLost(1, "it died"))
    assert run.scheduler.is_isolated(1)
    assert run.scheduler.is_isolated(2)


def test_a_function_with_a_timeout_runs_in_a_child_from_the_start():
    run = Dialogue(ranks(1))
    run.submit(task(timeout_s=5.0), task())
    assert [run.scheduler.is_isolated(number) for number in (0, 1)] == [True, False]


def test_a_death_that_several_may_have_caused_counts_against_none():
    run = Dialogue(ranks(2, 2), crash_limit=1)
    run.submit(task(), task())
    run.tell(1.0, RankLost(1, "it died"))
    assert run.states == "DISPATCHED DISPATCHED"
    run.tell(2.0, done(2, (0, 2)), died(2, (1, 2)))
    assert run.states == "DONE FAILED"


def test_a_function_whose_ranks_die_is_failed_at_the_crash_limit():
    run = Dialogue(ranks(1, 1, 1), crash_limit=2, max_retries=0)
    run.submit(task())
    assert run.tell(1.0, RankLost(1, "node down")) == ["announce the loss of 1", "2.0 claims for 0#2"]
    assert run.tell(2.0, RankLost(2, "node down")) == ["announce the loss of 2"]
    message = "its process died 2 times (crash_limit is 2), last with rank 2: node down"
    assert run.scheduler.tasks.failures == {0: Failure(DEATH, message, "", 2, (1, 2))}


def test_deaths_of_children_count_for_the_crash_limit_and_not_as_retries():
    run = Dialogue(ranks(1), crash_limit=3, max_retries=0)
    run.submit(task())
    for attempt in (1, 2):
        run.tell(float(attempt), died(1, (0, attempt)))
        assert run.states == "DISPATCHED"
        assert run.scheduler.is_isolated(0)
    run.tell(3.0, died(1, (0, 3)))
    message = "its process died 3 times (crash_limit is 3), last on rank 1: killed by signal 11"
    assert run.why(0) == (DEATH, message)


def test_a_function_whose_process_died_in_an_earlier_launch_runs_in_a_child_and_has_fewer_lives():
    run = Dialogue(ranks(1), crash_limit=2)
    run.tell(0.0, Submitted([task(), task()], deaths={0: 1}), Closed())
    assert [run.scheduler.is_isolated(number) for number in (0, 1)] == [True, False]
    run.tell(1.0, died(1, 0))
    assert run.states == "FAILED DISPATCHED"


def test_a_function_that_was_done_is_no_poison_when_it_must_run_again():
    run = Dialogue(ranks(1, 1, 1), crash_limit=2)
    run.submit(task(), task(0))
    run.tell(1.0, died(1, 0))
    run.tell(2.0, made(2, (0, 2)))
    assert run.tell(3.0, RankLost(2, "node down"))[-1] == "3.0 claims for 0#3"
    run.tell(4.0, died(3, (0, 3)))
    assert run.states == "READY DISPATCHED"


def test_the_tasks_blamed_for_a_ranks_death_are_reported_for_the_journal():
    run = Dialogue(ranks(1, 1))
    run.submit(task())
    run.tell(1.0, RankLost(1, "node down"))
    assert run.log[2] == "rank 1 blamed on: (0, 1, 'node down')"


def test_values_nobody_needs_any_more_die_with_their_rank():
    run = Dialogue(ranks(1, 1))
    run.submit(task(), task(0), task(1))
    run.tell(1.0, made(1, 0))
    run.tell(2.0, done(1, 1))
    assert run.tell(3.0, RankLost(1, "it died")) == ["announce the loss of 1", "2.0 claims for 2#2"]
    assert run.states == "DONE DONE DISPATCHED"


def test_a_value_that_was_to_be_kept_is_made_again_unless_it_was_persisted():
    run = Dialogue(ranks(2, 1))
    run.submit(task(keep=True), task(keep=True))
    run.tell(1.0, made(1, 0), made(1, 1, is_persisted=True))
    assert run.tell(2.0, RankLost(1, "it died")) == ["announce the loss of 1", "2.0 claims for 0#2"]
    assert run.states == "DISPATCHED DONE"


def test_a_value_of_which_a_consumer_has_a_copy_survives_its_rank():
    run = Dialogue(ranks(1, 1, 1))
    run.submit(task(), task(0, pin=2), task(0, pin=3))
    run.tell(1.0, made(1, 0))
    run.tell(2.0, done(2, 1))
    assert run.tell(3.0, RankLost(1, "it died")) == ["announce the loss of 1"]
    assert run.states == "DONE DONE DISPATCHED"
    assert run.tell(4.0, done(3, 2)) == ["forget at 2: 0", "forget at 3: 0"]


# -- silence --------------------------------------------------------------------------------------------


def test_a_silent_rank_is_suspect_at_half_the_limit_lost_at_the_limit_and_may_come_back():
    run = queued(ranks(1, 1), heartbeat_timeout_s=80.0)
    assert run.tell(0.0, Submitted([task(pin=2, priority=1), task(pin=2, priority=1)])) == ["2.0 claims for 3#1"]
    assert run.tell(40.0, HeartbeatReceived([2])) == []
    assert run.tell(50.0, HeartbeatReceived([2])) == ["recall from 1: 2#1", "check the process of 1"]
    assert run.log == ["rank 1 suspect: silent for 50 s", "2#1 READY by RANK_LOST on 1"]
    assert run.tell(51.0, done(2, 3)) == ["2.0 continues with 4#1"]
    assert run.tell(52.0, done(2, 4)) == ["2.0 claims for 2#2"]
    assert run.tell(80.0, HeartbeatReceived([2])) == ["check the process of 1"]
    assert run.tell(90.0, HeartbeatReceived([2])) == ["announce the loss of 1", "recall from 1: 1#1"]
    assert run.log == ["rank 1 lost: silent for 90 s", "1#1 READY by RANK_LOST on 1: silent for 90 s"]
    assert run.tell(100.0, HeartbeatReceived([1, 2])) == ["1.0 claims for 1#2"]
    assert run.log == ["rank 1 returned", "1#2 DISPATCHED by PLACED on 1"]
    assert run.tell(101.0, done(1, 1), Retracted(1, [(2, 1)])) == []
    assert run.scheduler.stale == 2


def test_a_suspect_that_speaks_in_time_keeps_what_runs_there():
    run = Dialogue(ranks(1), heartbeat_timeout_s=80.0)
    run.submit(task())
    run.tell(50.0)
    assert run.log == ["rank 1 suspect: silent for 50 s"]
    assert run.tell(60.0, HeartbeatReceived([1])) == []
    assert run.log == ["rank 1 returned"]
    assert run.tell(100.0, done(1, 0)) == []
    assert run.status == "done"


def test_a_suspect_that_is_found_alive_is_busy_and_its_silence_counts_from_then():
    run = Dialogue(ranks(1, 1), heartbeat_timeout_s=80.0)
    run.submit(task())
    assert run.tell(50.0, HeartbeatReceived([2])) == ["check the process of 1"]
    assert run.tell(51.0, ProcessFoundAlive(1)) == []
    assert run.tell(91.0, HeartbeatReceived([2])) == []
    assert run.tell(110.0, HeartbeatReceived([2])) == ["check the process of 1"]
    assert run.tell(135.0, HeartbeatReceived([2])) == [
        "announce the loss of 1",
        "recall from 1: 0#1",
        "2.0 claims for 0#2",
    ]


def test_a_suspect_whose_process_is_gone_is_lost_at_once_and_for_good():
    run = Dialogue(ranks(1, 1), heartbeat_timeout_s=80.0)
    run.submit(task())
    run.tell(50.0, HeartbeatReceived([2]))
    assert run.tell(51.0, RankLost(1, "killed")) == ["announce the loss of 1", "2.0 claims for 0#2"]
    assert run.log[:2] == ["rank 1 lost: killed", "0#1 READY by RANK_LOST on 1: killed"]
    assert run.tell(52.0, HeartbeatReceived([1]), Submitted([task()])) == []
    assert run.states == "DISPATCHED READY"


def test_what_fits_only_a_suspect_waits_until_it_speaks_or_is_lost():
    """Nothing runs, and the only rank that fits is offered nothing: that is no reason to give up."""
    run = Dialogue(ranks(1, 1), heartbeat_timeout_s=80.0)
    run.submit(task(pin=2), task(0, pin=1))
    assert run.tell(50.0, HeartbeatReceived([2])) == ["check the process of 1"]
    assert run.tell(51.0, done(2, 0)) == []
    assert run.states == "DONE READY"
    assert run.tell(52.0, HeartbeatReceived([1])) == ["1.0 claims for 1#1"]


def test_what_fits_only_a_suspect_fails_once_that_is_lost():
    run = Dialogue(ranks(1, 1), heartbeat_timeout_s=80.0)
    run.submit(task(pin=2), task(0, pin=1))
    run.tell(50.0, HeartbeatReceived([2]))
    run.tell(51.0, done(2, 0))
    assert run.tell(52.0, RankLost(1, "its process no longer exists")) == ["announce the loss of 1"]
    assert run.why(1)[0] == NO_ROOM


def test_silence_is_nobodys_fault():
    run = Dialogue(ranks(1, 1), heartbeat_timeout_s=80.0, crash_limit=1)
    run.submit(task())
    assert run.tell(90.0, HeartbeatReceived([2])) == [
        "announce the loss of 1",
        "recall from 1: 0#1",
        "2.0 claims for 0#2",
    ]
    assert not run.scheduler.is_isolated(0)


def test_what_runs_on_a_host_that_is_lost_is_not_blamed_for_it():
    run = Dialogue(ranks(1, 1), crash_limit=1)
    run.submit(task())
    lost = RankLost(1, "its host no longer answers", with_its_host=True)
    assert run.tell(1.0, lost) == ["announce the loss of 1", "2.0 claims for 0#2"]
    assert not run.scheduler.is_isolated(0)
    assert run.tell(2.0, HeartbeatReceived([1])) == [], "it is lost for good"


def test_values_at_a_silent_rank_are_made_again():
    run = Dialogue(ranks(1, 1), heartbeat_timeout_s=80.0)
    run.submit(task(), task(0, pin=2), task(pin=1))
    assert run.tell(1.0, made(1, 0)) == ["2.0 claims for 1#1", "1.0 claims for 2#1"]
    assert run.tell(90.0, HeartbeatReceived([2])) == ["announce the loss of 1", "recall from 1: 2#1"]
    assert run.log == [
        "rank 1 suspect: silent for 90 s",
        "rank 1 lost: silent for 90 s",
        "2#1 READY by RANK_LOST on 1: silent for 90 s",
        "0#1 WAITING by VALUE_LOST: its value was lost on rank 1",
        "0#1 READY by INPUTS_DONE",
    ]


def test_a_silent_rank_that_turns_out_to_be_dead_is_announced_once():
    run = Dialogue(ranks(1, 1), heartbeat_timeout_s=80.0)
    run.submit(task())
    run.tell(90.0, HeartbeatReceived([2]))
    assert run.tell(91.0, RankLost(1, "it died")) == []
    assert run.tell(92.0, HeartbeatReceived([1])) == []
    assert run.log == []


def test_what_is_taken_from_a_suspect_is_not_sent_back_to_it():
    run = queued(ranks(1, 1), task(pin=2), heartbeat_timeout_s=80.0)
    assert placed(run.tell(50.0, HeartbeatReceived([2]))) == set()
    assert run.states == "DONE DISPATCHED READY DISPATCHED"


def test_a_suspect_is_sent_nothing_new_while_another_rank_is_idle():
    run = Dialogue(ranks(1, 1), heartbeat_timeout_s=80.0)
    run.submit(closed=False)
    run.tell(50.0, HeartbeatReceived([2]))
    assert run.log == ["rank 1 suspect: silent for 50 s"]
    assert run.tell(51.0, HeartbeatReceived([2]), Submitted([task()])) == ["2.0 claims for 0#1"]


# -- short of memory ------------------------------------------------------------------------------------


def short(rank):
    return MemoryTold(rank, True, "90 of 100 MB")


def relieved(rank):
    return MemoryTold(rank, False, "10 of 100 MB")


def test_a_rank_that_is_short_of_memory_ends_what_runs_and_is_given_nothing_until_it_is_not():
    run = queued(ranks(1, 1), task(pin=2))
    assert run.tell(0.1, done(2, 3), short(1)) == ["recall from 1: 2#1"]
    assert run.log == ["3#1 DONE by OK on 2", "rank 1 memory high: 90 of 100 MB"]
    assert run.tell(0.2, Retracted(1, [(2, 1)])) == ["2.0 claims for 2#2"]
    assert run.tell(0.3, done(1, 1), Submitted([task(), task()])) == []
    assert run.tell(0.4, relieved(1)) == ["1.0 claims for 4#1"]
    assert run.log == ["rank 1 memory normal: 10 of 100 MB", "4#1 DISPATCHED by PLACED on 1"]


def test_a_rank_that_is_short_of_memory_is_not_refilled_when_a_call_ends():
    run = Dialogue(ranks(1, 1))
    run.submit(task(), task(pin=2, priority=1), task(), task())
    assert run.tell(1.0, short(1), done(1, 0)) == []
    assert run.tell(2.0, done(2, 1)) == ["2.0 claims for 2#1"]


def test_a_suspect_that_is_short_of_memory_is_given_nothing_when_it_is_heard_of():
    run = Dialogue(ranks(1, 1), heartbeat_timeout_s=80.0)
    run.submit(closed=False)
    run.tell(10.0, HeartbeatReceived([1, 2]), short(1))
    run.tell(60.0, HeartbeatReceived([2]))
    assert run.log == ["rank 1 suspect: silent for 50 s"]
    assert run.tell(61.0, HeartbeatReceived([1, 2]), Submitted([task(), task()])) == ["2.0 claims for 0#1"]
    assert run.tell(62.0, relieved(1)) == ["1.0 claims for 1#1"]


def test_where_all_ranks_are_short_of_memory_one_call_at_a_time_goes_on_and_they_take_turns():
    run = Dialogue(ranks(2, 2))
    run.submit(closed=False)
    assert run.tell(0.0, short(1), short(2), Submitted([task() for _ in range(4)])) == ["1.0 claims for 0#1"]
    assert run.log[-1] == "rank 1 let go: all ranks that could continue are short of memory"
    assert run.tell(1.0, done(1, 0)) == ["2.0 claims for 1#1"]
    assert run.tell(2.0, done(2, 1)) == ["1.0 claims for 2#1"]
    assert run.tell(2.5, relieved(2)) == ["2.0 claims for 3#1"]
    assert run.tell(3.0, done(2, 3), done(1, 2), Closed()) == []
    assert run.status == "done"


def test_what_fits_only_a_rank_that_is_short_of_memory_goes_there_once_nothing_else_runs():
    run = Dialogue(ranks(1, 1))
    run.submit(task(), closed=False)
    assert run.tell(1.0, short(2), Submitted([task(pin=2)]), Closed()) == []
    assert run.tell(2.0, done(1, 0)) == ["2.0 claims for 1#1"]
    assert run.tell(3.0, RankLost(2, "it died")) == ["announce the loss of 2"]
    assert run.why(1)[0] == NO_ROOM
    assert run.scheduler.memory_pressure.ranks == {}


def test_what_waits_for_a_rank_that_is_short_of_memory_holds_up_nobody():
    run = Dialogue(ranks(1, 1, gpus=(2,)))
    run.submit(task(), closed=False)
    others = [task() for _ in range(60)]
    run.tell(1.0, short(2), Submitted([task(cost=GPU, priority=1), *others]), Closed())
    for number in [0, *range(2, 61)]:
        assert placed(run.tell(number + 2.0, done(1, number))) == {f"{number + 1 if number else 2}#1"}


def test_a_rank_that_is_short_of_memory_is_sent_nothing_ahead():
    run = Dialogue(ranks(1))
    run.tell(0.0, short(1))
    assert chain(run, 12) == ["1.0 claims for 1#1"]
    assert run.tell(0.1, done(1, 1, lasted=SHORT)) == ["1.0 claims for 2#1"]
    assert run.tell(0.2, relieved(1)) == []
    assert run.tell(0.3, done(1, 2, lasted=SHORT)) == ["1.0 continues with 3#1", "1.0 continues with 4#1 5#1 6#1"]


def test_large_inputs_are_fetched_ahead_for_few_calls():
    sent = {}
    for nbytes in (1000, 40 << 20):
        run = Dialogue(ranks(1))
        run.submit(task(), *(task(0, code=1) for _ in range(40)))
        run.tell(0.0, made(1, 0, nbytes=nbytes))
        (commands,) = run.tell(0.1, done(1, 1, lasted=SHORT))
        sent[nbytes] = len(placed([commands]))
    assert sent == {1000: 4, 40 << 20: 2}


# -- collocation and pins -------------------------------------------------------------------------------


def test_collocated_functions_follow_the_first_of_them():
    run = Dialogue(ranks(1, 1))
    assert run.submit(task(group=0), task(group=0), task()) == ["1.0 claims for 0#1", "2.0 claims for 2#1"]
    assert run.tell(1.0, done(2, 2)) == []
    assert run.tell(2.0, done(1, 0)) == ["1.0 claims for 1#1"]


def test_collocated_functions_go_where_each_of_them_would_fit():
    run = Dialogue(ranks(2, 1, 2, gpus=(2, 3)))
    assert run.submit(task(group=0), task(0, group=0, cost=cpus(2)), task(1, group=0, cost={**CPU, **GPU})) == [
        "3.0 claims for 0#1"
    ]
    assert run.tell(1.0, done(3, 0)) == ["3.0 claims for 1#1"]
    assert run.tell(2.0, done(3, 1)) == ["3.0 claims for 2#1"]


def test_collocated_functions_that_fit_beside_the_first_start_with_it():
    run = Dialogue(ranks(2))
    assert run.submit(task(group=0), task(group=0)) == ["1.0 claims for 0#1", "1.1 claims for 1#1"]


def test_collocated_functions_are_tried_again_on_their_rank():
    run = Dialogue(ranks(1, 1))
    run.submit(task(group=0), task(group=0))
    run.tell(1.0, done(1, 0))
    run.tell(2.0, raised(1, 1))
    assert run.log[-1].endswith("DISPATCHED by PLACED on 1")


def test_collocated_functions_are_bound_again_when_their_rank_dies():
    run = Dialogue(ranks(1, 1, 1))
    run.submit(task(group=0), task(group=0), task(0, 1, group=0))
    assert run.tell(1.0, done(1, 0)) == ["1.0 claims for 1#1"]
    assert run.tell(2.0, RankLost(1, "it died")) == ["announce the loss of 1", "2.0 claims for 1#2"]
    assert run.tell(3.0, done(2, (1, 2))) == ["2.0 claims for 2#1"]


def test_a_group_follows_the_rank_that_one_of_it_is_pinned_to():
    run = Dialogue(ranks(1, 1))
    assert run.submit(task(group=0), task(group=0, pin=2)) == ["2.0 claims for 0#1"]


def test_a_group_follows_the_host_that_one_of_it_is_pinned_to():
    run = Dialogue(ranks(1, 1))
    assert run.submit(task(group=0), task(group=0, pin="h2")) == ["2.0 claims for 0#1"]


def test_a_group_that_grows_while_its_first_member_waits_goes_where_each_member_would_fit():
    run = Dialogue(ranks(1, 1, gpus=(2,)))
    assert run.submit(task(), task(), task(group=0), task(group=0), closed=False) == [
        "1.0 claims for 0#1",
        "2.0 claims for 1#1",
    ]
    assert run.submit(task(group=0, cost={**CPU, **GPU})) == []
    assert run.tell(1.0, done(1, 0)) == []
    assert run.tell(2.0, done(2, 1)) == ["2.0 claims for 2#1"]


def test_a_group_that_grows_by_what_the_job_offers_is_not_given_up():
    """The class of the first member was made before the group took any license, which no rank has of its own."""
    run = Dialogue(Ledger([Capability(1, "h1", cpus(1))], {1: 1}, {"license": UNIT}))
    assert run.submit(task(), task(group=0), closed=False) == ["1.0 claims for 0#1"]
    run.submit(task(group=0, cost={**CPU, "license": UNIT}))
    assert run.tell(1.0, done(1, 0)) == ["1.0 claims for 1#1"]
    assert run.tell(2.0, done(1, 1)) == ["1.0 claims for 2#1"]


def test_a_group_that_grows_beyond_its_rank_fails_only_the_member_that_does_not_fit():
    run = Dialogue(ranks(1, 2))
    assert run.submit(task(group=0), task(group=0), closed=False) == ["1.0 claims for 0#1"]
    run.submit(task(group=0, cost=cpus(2)))
    run.tell(1.0, done(1, 0))
    run.tell(2.0, done(1, 1))
    assert run.states == "DONE DONE FAILED"
    why = "it is bound to rank 1, which is lost or cannot hold what it needs (cpu=2): cpu: 2 wanted, rank 1 offers 1"
    assert run.why(2)[1] == why


@pytest.mark.parametrize("pin", [2, "h2"])
def test_a_group_whose_first_members_wait_follows_the_pin_of_a_later_one(pin):
    run = Dialogue(ranks(1, 1))
    run.submit(task(), task(), task(group=0), task(group=0), closed=False)
    assert run.submit(task(group=0, pin=pin)) == []
    assert run.tell(1.0, done(1, 0)) == []
    run.tell(2.0, done(2, 1))
    run.tell(3.0, done(2, 2))
    run.tell(4.0, done(2, 3))
    assert run.log == ["3#1 DONE by OK on 2", "4#1 DISPATCHED by PLACED on 2"]


@pytest.mark.parametrize("pin", [2, "h2"])
def test_a_pin_wins_over_the_rank_to_which_its_group_is_bound(pin):
    run = Dialogue(ranks(1, 1))
    assert run.submit(task(group=0), closed=False) == ["1.0 claims for 0#1"]
    assert run.submit(task(group=0, pin=pin), task(group=0)) == ["2.0 claims for 1#1"]
    assert run.tell(1.0, done(1, 0)) == []
    run.tell(2.0, done(2, 1))
    assert run.log == ["1#1 DONE by OK on 2", "2#1 DISPATCHED by PLACED on 2"]


def test_pins_to_a_rank_and_to_a_host_hold_even_if_another_is_idle():
    run = Dialogue(ranks(1, 1, 1))
    assert run.submit(task(pin=2), task(pin="h2"), task(pin="h3")) == ["2.0 claims for 0#1", "3.0 claims for 2#1"]
    assert run.tell(1.0, done(2, 0)) == ["2.0 claims for 1#1"]


@pytest.mark.parametrize(
    ("pin", "why"),
    [
        (2, "it is bound to rank 2, which is lost or cannot hold what it needs (cpu=1)"),
        ("h2", "it is bound to host h2, where no rank that is left can hold what it needs (cpu=1)"),
    ],
)
def test_a_lost_pin_fails_its_function_and_says_why(pin, why):
    run = Dialogue(ranks(1, 1))
    run.submit(task(), task(0, pin=2), task(pin=pin), task(0))
    run.tell(1.0, RankLost(2, "it died"))
    assert run.tell(2.0, done(1, 0)) == ["1.0 continues with 3#1"]
    run.tell(3.0, done(1, 3))
    assert run.states == "DONE FAILED FAILED DONE"
    assert run.why(2) == (NO_ROOM, why)


@pytest.mark.parametrize("wish", [1, "h1"])
def test_what_waits_for_a_busy_rank_keeps_nobody_waiting_elsewhere(wish):
    run = Dialogue(ranks(1, 1))
    commands = run.submit(task(pin=1, priority=2), task(pin=wish, priority=1), *[task()] * 100)
    assert commands == ["1.0 claims for 0#1", "2.0 claims for 2#1"]
    for number in range(2, 101):
        assert run.tell(float(number), done(2, number)) == [f"2.0 continues with {number + 1}#1"]


@pytest.mark.parametrize("cores", [1, 2])
def test_what_waits_for_a_rank_is_not_overtaken_there_for_ever(cores):
    run = Dialogue(ranks(2))
    run.submit(*[task()] * 2, task(pin=1, cost=cpus(cores)), *[task()] * 100)
    flying, count = [0, 1], 0
    while 2 not in flying:
        count += 1
        commands = run.tell(float(count), done(1, flying.pop(0)))
        flying += [int(line.split()[-1].split("#")[0]) for line in commands]
        assert count <= 30


# -- resources that change ------------------------------------------------------------------------------


def test_a_rank_that_is_given_more_cores_runs_as_many_calls_more():
    run = Dialogue(ranks(1, 1))
    run.submit(*[task()] * 6, task(cost={}))
    run.tell(1.0, ResourcesUpdated(1, cpus(4)))
    assert [len(run.scheduler.slots.of_rank[rank]) for rank in (1, 2)] == [4, 1]
    assert run.states == "DISPATCHED DISPATCHED DISPATCHED DISPATCHED DISPATCHED READY READY"
    run.tell(2.0, ResourcesUpdated(1, cpus(1)))
    assert run.tell(3.0, done(1, 0, 2, 3)) == ["1.0 claims for 6#1"], "it is short of cores, and has slots"
    assert run.tell(4.0, done(1, 4)) == ["1.3 continues with 5#1"]
    run.tell(5.0, done(1, 5, 6), done(2, 1))
    assert run.status == "done"


def test_slots_that_the_user_has_fixed_stay():
    run = Dialogue(ranks(1), adds_slots=False)
    run.submit(*[task()] * 3)
    assert run.tell(1.0, ResourcesUpdated(1, cpus(4))) == []


def test_resources_that_grow_are_used_at_once():
    run = Dialogue(Ledger([Capability(1, "h", cpus(1))], {1: 2}))
    assert run.submit(task(), task(cost=cpus(4))) == ["1.0 claims for 0#1"]
    assert run.tell(1.0, ResourcesUpdated(1, cpus(5))) == ["1.1 claims for 1#1"]
    assert run.log == [f"rank 1 updated: {cpus(5)}", "1#1 DISPATCHED by PLACED on 1"]


def test_resources_that_shrink_stop_no_call_but_are_not_claimed_again():
    run = Dialogue(ranks(2))
    run.submit(task(), task(), task())
    assert run.tell(1.0, ResourcesUpdated(1, cpus(1))) == []
    assert run.states == "DISPATCHED DISPATCHED READY"
    assert run.tell(2.0, done(1, 0)) == []
    assert run.tell(3.0, done(1, 1)) == ["1.1 continues with 2#1"]


def test_devices_that_are_gone_are_not_claimed_again():
    run = Dialogue(ranks(1, gpus=(1,)))
    run.submit(task(cost=GPU), task(cost=GPU))
    run.tell(1.0, ResourcesUpdated(1, {"gpu": 0}))
    assert run.tell(2.0, done(1, 0)) == []
    assert run.states == "DONE FAILED"


def test_an_update_of_a_lost_rank_is_noted_and_changes_nothing():
    run = Dialogue(ranks(1, 1))
    run.submit(task())
    run.tell(1.0, RankLost(2, "it died"))
    assert run.tell(2.0, ResourcesUpdated(2, cpus(8))) == []
    assert run.log == [
        "rank 2 not updated: rank 2 takes no part in this run, so its resources cannot be updated"
    ]  # fmt: skip


# -- no room --------------------------------------------------------------------------------------------


def test_what_fits_nothing_that_is_left_is_failed_and_does_not_hang():
    run = Dialogue(ranks(1, 1, gpus=(2,)))
    run.submit(task(), task(cost=GPU), task(1), task(cost=GPU))
    assert run.tell(1.0, RankLost(2, "it died")) == ["announce the loss of 2"]
    assert run.states == "DISPATCHED READY WAITING READY"
    assert run.tell(2.0, done(1, 0)) == []
    assert run.states == "DONE FAILED SKIPPED FAILED"
    what = "gpu: 1 wanted, no rank offers any; HANDOFF_GPUS declares some"
    assert run.why(1) == (NO_ROOM, f"no rank that is left can hold what it needs (gpu=1): {what}")
    assert run.status == "failed"


def test_what_waits_for_room_is_not_given_up_while_something_runs():
    run = Dialogue(ranks(2))
    run.submit(task(), task(cost=cpus(3)))
    assert run.states == "DISPATCHED READY"
    assert run.tell(1.0, ResourcesUpdated(1, cpus(4))) == ["1.1 claims for 1#1"]


# -- eviction -------------------------------------------------------------------------------------------


def test_a_value_is_forgotten_at_all_who_hold_it_when_its_last_consumer_is_done():
    run = Dialogue(ranks(1, 1))
    run.submit(task(), task(0, pin=1), task(0, pin=2))
    run.tell(1.0, made(1, 0))
    assert run.tell(2.0, done(2, 2)) == []
    assert run.tell(3.0, done(1, 1)) == ["forget at 1: 0", "forget at 2: 0"]


def test_a_value_that_is_kept_is_not_forgotten():
    run = Dialogue(ranks(1))
    run.submit(task(keep=True), task(0))
    run.tell(1.0, made(1, 0))
    assert run.tell(2.0, done(1, 1)) == []


def test_a_value_is_forgotten_when_its_last_consumers_failed_or_were_skipped():
    run = Dialogue(ranks(1), max_retries=0)
    run.submit(task(), task(), task(0), task(0, 1))
    run.tell(1.0, made(1, 0))
    run.tell(2.0, raised(1, 1))
    assert run.states == "DONE FAILED DISPATCHED SKIPPED"
    assert run.tell(3.0, raised(1, 2)) == ["forget at 1: 0"]


def test_a_value_that_stays_where_it_was_made_has_no_copies():
    run = Dialogue(ranks(1, 1))
    run.submit(task(stays=True), task(0, pin=2))
    run.tell(1.0, made(1, 0))
    assert run.tell(2.0, done(2, 1)) == ["forget at 1: 0"]


# -- whom to ask for a value --------------------------------------------------------------------------------


def test_ranks_that_want_a_value_are_spread_over_those_that_hold_it():
    tasks = Dialogue(ranks(1)).scheduler.tasks
    assert tasks.whom_to_ask(0, 5) == ()
    tasks.holders[0] = [7]
    assert tasks.whom_to_ask(0, 5) == (7,)
    tasks.holders[0] = list(range(100, 150))
    asked = [tasks.whom_to_ask(0, rank) for rank in range(1000)]
    assert {len(named) for named in asked} <= {MAX_NAMED, MAX_NAMED + 1}
    assert all(100 in named and len(set(named)) == len(named) for named in asked)
    assert set(Counter(named[0] for named in asked).values()) == {1000 // 50}


# -- stopping -------------------------------------------------------------------------------------------


def test_a_stop_sends_nothing_more_recalls_what_is_queued_and_lets_calls_end():
    run = queued(ranks(1), task(1))
    assert run.tell(1.0, StopRequested("walltime")) == ["recall from 1: 2#1"]
    assert run.tell(1.1, Retracted(1, [(2, 1)]), StopRequested("again")) == []
    assert run.status == "running"
    assert run.tell(2.0, done(1, 1)) == []
    assert run.states == "DONE DONE READY READY"
    assert run.status == "stopped"


def test_what_may_be_tried_again_is_left_for_the_run_that_resumes():
    run = Dialogue(ranks(1), max_retries=1)
    run.submit(task())
    run.tell(1.0, StopRequested("walltime"))
    assert run.tell(1.1, raised(1, 0)) == []
    assert run.states == "READY"
    assert run.status == "stopped"


def test_what_fails_for_good_does_not_make_a_run_that_was_asked_to_stop_less_stopped():
    run = Dialogue(ranks(1), max_retries=0)
    run.submit(task(), task(), task(), task(0))
    run.tell(1.0, raised(1, 0))
    run.tell(1.1, StopRequested("walltime"))
    assert run.tell(2.0, raised(1, 1)) == []
    assert run.states == "FAILED FAILED READY SKIPPED"
    assert (run.status, run.scheduler.stopped_on_failure) == ("stopped", False)


def test_a_failure_after_a_stop_was_asked_for_is_not_why_it_stops():
    run = Dialogue(ranks(1), max_retries=0, stop_on_failure=True)
    run.submit(task(), task())
    run.tell(1.0, StopRequested("walltime"))
    run.tell(1.1, raised(1, 0))
    assert (run.status, run.scheduler.stopped_on_failure) == ("stopped", False)


def test_a_stop_that_leaves_nothing_to_run_is_a_run_that_failed():
    run = Dialogue(ranks(1), max_retries=0)
    run.submit(task(), task(0))
    run.tell(1.0, StopRequested("walltime"))
    run.tell(1.1, raised(1, 0))
    assert run.states == "FAILED SKIPPED"
    assert run.status == "failed"


def test_a_stop_before_anything_was_sent_ends_the_run():
    run = Dialogue(ranks(1))
    assert run.tell(0.0, StopRequested("signal"), Submitted([task()]), Closed()) == []
    assert run.status == "stopped"


def test_a_stop_as_the_last_call_ends_is_a_run_that_is_done():
    run = Dialogue(ranks(1))
    run.submit(task())
    run.tell(1.0, StopRequested("signal"), done(1, 0))
    assert run.status == "done"


# -- ahead of the inputs --------------------------------------------------------------------------------


def chain(run, count, **options):
    """A dialogue with a chain of tasks on one rank, the first of which was short."""
    run.submit(task(**options), *[task(number, **options) for number in range(count - 1)])
    return run.tell(0.0, done(1, 0, lasted=SHORT))


def test_a_chain_of_short_calls_travels_in_batches():
    run = Dialogue(ranks(1))
    assert chain(run, 12) == ["1.0 continues with 1#1", "1.0 continues with 2#1 3#1 4#1"]
    assert run.states.split()[1:5] == ["DISPATCHED"] * 4 and run.states.split()[5] == "WAITING"
    assert run.tell(0.001, done(1, 1, lasted=SHORT)) == []
    assert run.tell(0.002, done(1, 2, lasted=SHORT)) == ["1.0 continues with 5#1 6#1"]
    assert run.tell(0.003, done(1, 3, 4, 5, 6, lasted=SHORT))[1] == "1.0 continues with 8#1 9#1 10#1"


def test_nothing_is_sent_ahead_while_something_is_ready():
    run = Dialogue(ranks(1))
    run.submit(task(), task(0), task(), task(), task(), task(), task())
    lines = run.tell(0.0, done(1, 0, lasted=SHORT))
    assert lines == ["1.0 continues with 2#1 3#1 4#1 5#1"]


def test_one_child_follows_and_the_others_are_for_all():
    run = Dialogue(ranks(1))
    run.submit(task(), task(0), task(1), task(1), task(1))
    assert run.tell(0.0, done(1, 0, lasted=SHORT)) == ["1.0 continues with 1#1", "1.0 continues with 2#1"]


@pytest.mark.parametrize("other", [task(1, cost=cpus(2)), task(1, priority=1), task(1, pin=2), task(1, group=0)])
def test_what_needs_or_wants_something_else_does_not_follow(other):
    run = Dialogue(ranks(2, 2))
    run.submit(task(), task(0), other)
    assert run.tell(0.0, done(1, 0, lasted=SHORT)) == ["1.0 continues with 1#1"]


def test_what_waits_for_two_inputs_does_not_follow_one_of_them():
    run = Dialogue(ranks(1, 1))
    run.submit(task(), task(0), task(0), task(1, 2))
    lines = run.tell(0.0, done(1, 0, lasted=SHORT))
    assert all("3#1" not in line for line in lines)


def test_what_follows_long_calls_waits_for_their_end():
    run = Dialogue(ranks(1))
    run.submit(task(), task(0), task(1))
    assert run.tell(1.0, done(1, 0)) == ["1.0 continues with 1#1"]


def test_what_followed_a_failed_task_waits_for_its_retry_or_is_skipped():
    run = Dialogue(ranks(1), max_retries=1)
    chain(run, 4)
    assert run.tell(1.0, raised(1, 1)) == ["1.0 continues with 1#2"]
    assert run.tell(1.1, Retracted(1, [(2, 1), (3, 1)])) == ["1.0 continues with 2#2 3#2"]
    run.tell(2.0, raised(1, (1, 2)))
    run.tell(2.1, Retracted(1, [(2, 2), (3, 2)]))
    assert (run.states, run.status) == ("DONE FAILED SKIPPED SKIPPED", "failed")


def test_what_followed_on_a_lost_rank_follows_its_input_to_another():
    run = Dialogue(ranks(1, 1))
    chain(run, 4)
    lines = run.tell(1.0, RankLost(1, "it died"))
    assert lines == ["announce the loss of 1", "2.0 claims for 1#2", "2.0 continues with 2#2 3#2"]
    assert "2#1 WAITING by INPUT_LOST" in run.log


def test_what_is_done_before_its_input_is_known_to_be_leaves_no_value_behind():
    """Reports may overtake one another: then the value is wanted by nobody any more."""
    run = Dialogue(ranks(1, 1))
    chain(run, 3)
    run.tell(1.0, done(1, 2, lasted=SHORT))
    assert run.tell(2.0, made(1, 1)) == ["forget at 1: 1"]
    assert run.status == "done"


def test_what_waits_for_a_long_call_is_not_asked_for_again_when_a_slot_is_idle():
    run = Dialogue(ranks(1, 1))
    chain(run, 3)
    assert run.tell(1.0) == []
    run.tell(1.1, Retracted(1, [(2, 1)]), done(1, 1, lasted=SHORT))
    assert run.states == "DONE DONE DISPATCHED"
