"""Tests which failures are tried again, how long the next try waits, and what waits meanwhile."""

from __future__ import annotations

import pytest

from handoff_mpi.dag.retry_on import class_name, lineage_of, names_of
from handoff_mpi.messages import RAISED, TIMED_OUT, TIMEOUT, UNPICKLABLE, ErrorReport
from handoff_mpi.scheduler import Finished, RankLost, StopRequested, ValueLost
from handoff_mpi.scheduler.retries import MAX_RETRY_WAIT_S, Chance, chance_of, delay_before_retry
from handoff_mpi.scheduler.tracebacks import MAX_OWN_TRACEBACKS, Tracebacks
from handoff_mpi.serialization import EncodingError
from tests.scheduler.transcript import Dialogue, died, done, made, raised, ranks, task, timed_out


class Own(ConnectionError):
    """An exception of the user's."""


def report(error):
    return ErrorReport(type(error).__name__, str(error), "", lineage_of(error))


def raised_by(error, rank, *tasks):
    """Attempts that ended with an exception."""
    return Finished(rank, [(*each, RAISED, report(error), 0, 0.0, 3.0, False) for each in tasks])


# -- which --------------------------------------------------------------------------------------------------

CHANCES = {
    Chance.NEVER: [TypeError(), NameError(), UnboundLocalError(), SyntaxError(), IndentationError(), SystemExit(3)],
    Chance.ONCE: [ImportError(), ModuleNotFoundError(), AttributeError()],
    Chance.ALWAYS: [ValueError(), UnicodeDecodeError("utf8", b"", 0, 1, ""), OSError(), KeyboardInterrupt(), Own()],
}


@pytest.mark.parametrize("chance", CHANCES)
def test_what_another_call_raises_again_is_not_tried_again(chance):
    for error in CHANCES[chance]:
        assert chance_of(RAISED, report(error), None) == chance, error
        assert chance_of(TIMED_OUT, report(error), ()) == Chance.ALWAYS, "time-outs have limits of their own"


def test_a_payload_that_cannot_be_decoded_is_as_good_as_what_its_decoding_raised():
    for cause, chance in ((TypeError(), Chance.NEVER), (ImportError(), Chance.ONCE), (MemoryError(), Chance.ALWAYS)):
        error = EncodingError("no")
        error.__cause__ = cause
        assert chance_of(RAISED, report(error), None) == chance
    assert chance_of(RAISED, ErrorReport(UNPICKLABLE, "", "", (UNPICKLABLE, "TypeError")), None) == Chance.NEVER


@pytest.mark.parametrize(
    ("retry_on", "error", "chance"),
    [
        (OSError, Own(), Chance.ALWAYS),
        (OSError, ValueError(), Chance.NEVER),
        ((KeyError, TypeError), TypeError(), Chance.ALWAYS),
        (ImportError, ModuleNotFoundError(), Chance.ALWAYS),
        (Exception, SystemExit(), Chance.NEVER),
        (BaseException, SystemExit(), Chance.ALWAYS),
        ((), ValueError(), Chance.NEVER),
        ([Own], Own(), Chance.ALWAYS),
        (Own, ConnectionError(), Chance.NEVER),
    ],
)
def test_what_the_user_names_is_tried_again_and_nothing_else(retry_on, error, chance):
    assert chance_of(RAISED, report(error), names_of(retry_on)) == chance


def test_classes_go_by_their_full_names():
    assert class_name(ValueError) == "ValueError"
    assert class_name(Own) == f"{__name__}.Own"
    another = type("TypeError", (Exception,), {"__module__": "mine"})
    assert chance_of(RAISED, report(another()), None) == Chance.ALWAYS


def test_a_class_that_does_not_answer_has_no_names():
    class Odd(type):
        __hash__ = None

    assert lineage_of(Odd("Silent", (Exception,), {})()) == ()


def test_a_hopeless_function_fails_at_its_first_attempt_with_any_max_retries():
    run = Dialogue(ranks(1, 1))
    run.submit(task(max_retries=5), task())
    run.tell(0.0, raised_by(TypeError("f() takes 1 argument"), 1, (0, 1)))
    assert run.states == "FAILED DISPATCHED"
    assert run.scheduler.tasks.failures[0].attempts == 1


def test_what_another_host_may_have_is_tried_once_more_and_there():
    run = Dialogue(ranks(1, 1))
    run.submit(task(max_retries=5))
    assert run.tell(0.0, raised_by(ImportError("no libcuda"), 1, (0, 1))) == ["2.0 claims for 0#2"]
    run.tell(1.0, raised_by(ImportError("no libcuda"), 2, (0, 2)))
    run.tell(100.0)
    assert run.states == "FAILED"


def test_a_missing_library_counts_beside_other_failures():
    run = Dialogue(ranks(1))
    run.submit(task(max_retries=9))
    for attempt, error in enumerate((OSError(), ImportError(), OSError(), ImportError()), 1):
        assert run.states == "DISPATCHED"
        run.tell(0.0, raised_by(error, 1, (0, attempt)))
    assert run.states == "FAILED"


def test_a_function_says_more_than_its_run():
    run = Dialogue(ranks(1), retry_on=("OSError",))
    run.submit(task(retry_on=("ValueError",)), task(retry_on=()))
    run.tell(0.0, raised_by(ValueError(), 1, (0, 1)))
    assert run.states == "DISPATCHED READY"
    run.tell(0.0, raised_by(OSError(), 1, (0, 2)))
    assert run.states == "FAILED DISPATCHED"
    run.tell(0.0, raised_by(OSError(), 1, (1, 1)))
    assert run.states == "FAILED FAILED"


def test_time_outs_and_deaths_are_tried_again_with_any_retry_on():
    run = Dialogue(ranks(1), retry_on=())
    run.submit(task(timeout_s=1.0))
    run.tell(0.0, timed_out(1, 0))
    assert run.states == "DISPATCHED"
    run.tell(0.0, died(1, (0, 2)))
    assert run.states == "DISPATCHED"


# -- when ---------------------------------------------------------------------------------------------------


def test_waits_double_lie_in_their_half_and_are_bounded():
    for failures in range(1, 80):
        waits = [delay_before_retry(2.0, failures, task, 7) for task in range(200)]
        limit = min(MAX_RETRY_WAIT_S, 2.0 * 2**failures)
        assert limit / 2 <= min(waits) <= max(waits) <= limit
        assert max(waits) - min(waits) > limit / 3, "they are spread"
    assert delay_before_retry(4000.0, 1, 0, 0) >= 4000.0, "the first wait is at least what the user gave"
    assert delay_before_retry(2.0, 1, 5, 7) == delay_before_retry(2.0, 1, 5, 7) != delay_before_retry(2.0, 1, 5, 8)


def waiting(ledger, *specs, **policy):
    """0#1 has failed at second 10, and waits for 5 to 10 seconds."""
    run = Dialogue(ledger, retry_delay_s=5.0, **policy)
    run.submit(*specs)
    run.tell(10.0, raised(1, 0))
    return run


def test_a_task_that_waits_holds_nothing_and_is_woken():
    run = waiting(ranks(1), task(), task())
    assert run.states == "READY DISPATCHED", "the other has its place"
    run.tell(11.0, done(1, 1))
    due = run.scheduler.next_wakeup()
    assert 15.0 <= due <= 20.0
    assert not run.scheduler.is_over and run.tell(due - 0.01) == []
    assert run.tell(due) == ["1.0 claims for 0#2"]
    run.tell(due, raised(1, (0, 2)))
    assert due + 10.0 <= run.scheduler.next_wakeup() <= due + 20.0, "the second wait is twice as long"


def test_each_function_may_have_a_delay_of_its_own():
    run = Dialogue(ranks(1), retry_delay_s=5.0)
    run.submit(task(retry_delay_s=0.0), task(retry_delay_s=100.0))
    assert run.tell(0.0, raised(1, 0)) == ["1.0 continues with 0#2"]
    run.tell(0.0, done(1, (0, 2)))
    run.tell(0.0, timed_out(1, 1))
    assert 100.0 <= run.scheduler.ready.next_due <= 200.0


def test_a_stop_ends_all_waits():
    run = waiting(ranks(1), task())
    run.tell(10.5, StopRequested("enough"))
    assert run.scheduler.is_over and run.status == "stopped"


def test_a_wait_beyond_the_end_is_not_waited_for():
    run = waiting(ranks(1), task(), stop_at=14.0)
    assert run.scheduler.is_over
    assert "would not finish" in run.scheduler.stopping


def test_a_wait_within_the_time_is_waited_for():
    run = waiting(ranks(1), task(), stop_at=1000.0)
    assert not run.scheduler.stopping


def test_what_fits_nowhere_is_given_up_although_another_task_waits():
    run = waiting(ranks(1, 1), task(), task(cost={"cpu": 10_000}, pin=2))
    run.tell(11.0, RankLost(2, "gone", with_its_host=True))
    assert run.states == "READY FAILED"


def test_a_task_that_waits_is_skipped_when_its_input_cannot_be_made_again():
    run = Dialogue(ranks(1, 1), retry_delay_s=5.0, max_retries=1)
    run.submit(task(), task(0, pin=2))
    run.tell(0.0, made(1, 0))
    run.tell(1.0, raised(2, 1))
    assert run.states == "DONE READY"
    run.tell(2.0, ValueLost(0, [1, 2]))
    assert run.states == "DISPATCHED READY", "its input is made again meanwhile"
    run.tell(3.0, raised_by(TypeError(), 1, (0, 2)))
    assert run.states == "FAILED SKIPPED"
    assert run.scheduler.is_over


def test_a_task_that_waits_takes_its_remade_input_at_its_time():
    run = Dialogue(ranks(1, 1), retry_delay_s=5.0)
    run.submit(task(), task(0, pin=2))
    run.tell(0.0, made(1, 0))
    run.tell(1.0, raised(2, 1))
    run.tell(2.0, ValueLost(0, [1, 2]))
    run.tell(3.0, made(1, (0, 2)))
    assert run.states == "DONE READY"
    assert run.tell(20.0) == ["2.0 claims for 1#2"]


def test_a_task_that_waits_goes_to_another_host_when_its_own_is_lost():
    run = waiting(ranks(1, 1), task())
    run.tell(11.0, RankLost(1, "gone"))
    assert run.states == "READY"
    assert run.tell(20.0) == ["2.0 claims for 0#2"]


def test_a_task_that_killed_its_rank_waits_too():
    run = Dialogue(ranks(1, 1), retry_delay_s=5.0)
    run.submit(task())
    run.tell(10.0, RankLost(1, "gone"))
    assert run.states == "READY"
    assert 15.0 <= run.scheduler.ready.next_due <= 20.0
    assert run.tell(20.0) == ["2.0 claims for 0#2"]


def test_the_first_of_a_group_keeps_no_other_member_waiting():
    run = Dialogue(ranks(1), retry_delay_s=5.0)
    run.submit(task(group=0), task(group=0))
    run.tell(0.0, raised(1, 0))
    assert run.states == "READY DISPATCHED"


def test_many_waits_end_in_order():
    run = Dialogue(ranks(1), retry_delay_s=1.0)
    run.submit(*(task() for _ in range(50)))
    for number in range(50):
        run.tell(float(number) / 1000, raised(1, number))
    assert len(run.scheduler.ready.deferred) == 50
    begun = []
    while run.scheduler.ready.deferred or run.scheduler.slots.in_flight:
        commands = run.tell(run.scheduler.next_wakeup() if run.scheduler.ready.deferred else 10.0)
        for _ in commands:
            (number,) = run.scheduler.slots.running()
            begun.append(number)
            run.tell(run.scheduler.now, done(1, (number, 2)))
    assert sorted(begun) == list(range(50))
    assert run.status == "done"


# -- what is kept --------------------------------------------------------------------------------------------


def test_equal_failures_share_a_traceback_beyond_the_first_few():
    kept, place = Tracebacks(), "dag.py:7"
    texts = [kept.kept(ErrorReport("ValueError", "", f"Traceback: {n}", (), place)) for n in range(1000)]
    assert texts[:MAX_OWN_TRACEBACKS] == [f"Traceback: {n}" for n in range(MAX_OWN_TRACEBACKS)]
    assert set(texts[MAX_OWN_TRACEBACKS:]) == {"Traceback: 0"}
    assert kept.kept(ErrorReport("ValueError", "", "Traceback: other", (), "dag.py:8")) == "Traceback: other"
    assert kept.kept(ErrorReport(TIMEOUT, "", "")) == ""
