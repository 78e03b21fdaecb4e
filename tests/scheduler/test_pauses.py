"""Arrays that pause: while more elements than may fail are in doubt, no further lease of them is made."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from handoff_mpi.arrays.links import Link
from handoff_mpi.dag.task_spec import ArraySpec
from handoff_mpi.messages import DEATH, DIED, ErrorReport, LeaseReport
from handoff_mpi.scheduler import Dispatch, ElementsEnded, ElementsPulled, Finished, Retracted, StopRequested
from handoff_mpi.scheduler.undecided import MAX_HOLD_S, MIN_HOLD_S
from tests.scheduler.test_arrays import Ranks, begin, end_all, error, lose, play
from tests.scheduler.transcript import Dialogue, array, done, ranks, task

#: A function of another rank, which is in flight for as long as a test wants: so a verdict may wait for it.
OTHER = task(pin=3, priority=1)


def fail(known, key, *indices, kind="ValueError"):
    """Report a lease: these elements of it raised, the others ended well."""
    failures = [(((index, index + 1),), error(kind)) for index in indices]
    return known.tell(known.report(key, failures=failures, busy_s=1e-4), after=0.001)


def first_elements(known, key, count):
    _, elements = known.leases[key]
    return [index for start, stop in elements for index in range(start, stop)][:count]


def warm_up(known):
    """End the leases of one element; the slots have larger ones then."""
    for key in list(known.leases):
        known.tell(known.report(key, busy_s=1e-4), after=0.001)


def fail_first_lease(known, count):
    key = next(key for key in known.leases if known.scheduler.arrays.leases[key[0]].array == 0)
    bad = first_elements(known, key, count)
    return bad, fail(known, key, *bad)


def new_leases(run, said):
    """Return the leases among what is dispatched whose elements begin for the first time."""
    sent = [line.replace(" continues with ", " claims for ").partition(" claims for ")[2] for line in said]
    numbers = [int(each.split("#")[0]) for each in " ".join(sent).split()]
    leases = run.scheduler.arrays.leases
    return [each for each in numbers if each in leases and not leases[each].incidents]


def is_paused(run, number=0):
    return number in run.scheduler.arrays.pauses.paused


def begin_paused(count=2000, max_failures=2, bad=3, slots=(1, 1, 1), others=(OTHER,), policy=None, **options):
    """An array that is paused, as so many of its elements have failed in one lease, and a function that runs on."""
    run, known = begin(array(count, max_failures=max_failures, **options), *others, slots=slots, **(policy or {}))
    warm_up(known)
    assert not is_paused(run)
    failed, said = fail_first_lease(known, bad)
    assert is_paused(run)
    assert not new_leases(run, said)
    return run, known, failed


def test_while_held_failures_are_undecided_nothing_begins_and_once_they_are_final_the_array_ends():
    run, known, _ = begin_paused(max_retries=0)
    assert run.scheduler.arrays.of[0].failed == 0
    said = []
    while known.leases:
        said += known.tell(known.report(next(iter(known.leases)), busy_s=1e-4), after=0.001)
    said += known.tell(after=0.1)
    assert not new_leases(run, said) and is_paused(run) and run.status == "running"
    assert run.scheduler.next_wakeup() < known.now + 0.1
    known.tell(after=MIN_HOLD_S)
    state = run.scheduler.arrays.of[0]
    assert run.states.split()[0] == "FAILED" and state.failed == 3
    assert state.done == len(known.begun) and state.done + state.failed + state.skipped == 2000
    known.tell(done(3, 1))
    assert run.status == "failed"


def test_a_paused_array_that_is_the_only_work_keeps_no_verdict_waiting():
    run, known, _ = begin_paused(max_retries=0, slots=(1, 1), others=())
    end_all(run, known)
    assert run.status == "failed" and known.now < MIN_HOLD_S
    assert run.scheduler.arrays.of[0].failed == 3


def test_elements_that_are_tried_again_have_the_array_wait_and_it_resumes_when_they_succeed():
    run, known, failed = begin_paused(max_retries=1)
    known.tell(done(3, 1))
    again = [key for key, (_, elements) in known.leases.items() if failed[0] in elements]
    assert len(again) == 1, "they have their retry at once"
    others = [key for key in known.leases if key not in again]
    said = [line for key in others for line in known.tell(known.report(key, busy_s=1e-4), after=0.001)]
    assert not new_leases(run, said) and is_paused(run)
    said = known.tell(known.report(again[0], busy_s=1e-4))
    assert new_leases(run, said) and not is_paused(run)
    end_all(run, known)
    assert run.status == "done" and known.begun == Counter(range(2000))


@pytest.mark.parametrize("delay_s", [5.0, 500.0])
def test_a_retry_that_must_wait_holds_the_array_up_for_a_minute_at_most(delay_s):
    run, known, _ = begin_paused(max_retries=1, retry_delay_s=delay_s, policy={"heartbeat_timeout_s": 1e6})
    while known.leases:
        known.tell(known.report(next(iter(known.leases)), busy_s=1e-4), after=0.001)
    assert is_paused(run) and run.scheduler.next_wakeup() <= MAX_HOLD_S + known.now
    assert not new_leases(run, known.tell(after=4.0)) and is_paused(run)
    if delay_s == 500.0:
        said = known.tell(after=MAX_HOLD_S)
        assert new_leases(run, said) and not is_paused(run)
        end_all(run, known)
    known.tell(done(3, 1))
    end_all(run, known)
    known.tell(after=3 * delay_s)
    end_all(run, known)
    assert run.status == "done" and known.begun == Counter(range(2000))


def test_few_elements_in_doubt_pause_nothing():
    run, known = begin(array(2000, max_failures=3, max_retries=1), OTHER, slots=(1, 1, 1))
    warm_up(known)
    _, said = fail_first_lease(known, 3)
    assert new_leases(run, said) and not is_paused(run)


def test_elements_in_doubt_and_those_that_failed_count_together():
    run, known = begin(array(2000, max_failures=3, max_retries=1), OTHER, slots=(1, 1, 1))
    warm_up(known)
    key = next(iter(known.leases))
    fail(known, key, *first_elements(known, key, 2), kind="TypeError")
    assert run.scheduler.arrays.of[0].failed == 2 and not is_paused(run)
    fail_first_lease(known, 2)
    assert is_paused(run)


def test_parts_of_a_retry_are_in_doubt_for_what_is_left_of_them():
    run, known, failed = begin_paused(max_failures=3, bad=4, max_retries=1)
    known.tell(done(3, 1))
    (key,) = [key for key, (_, elements) in known.leases.items() if failed[0] in elements]
    rank, elements = known.leases[key]
    low = failed[0]
    elements.discard(low, low + 1)
    known.begun.update([low])
    known.tell(ElementsEnded(rank, *key, LeaseReport(((low, low + 1),), None, (), (), 1e-4)))
    assert run.scheduler.arrays.of[0].doubted == 3 and not is_paused(run)


def stop_while_failures_are_held():
    """Failures of two leases are held when the run is stopped: the first of them that is final ends the array."""
    run, known, _ = begin_paused(max_retries=0)
    key = next(iter(known.leases))
    fail(known, key, *first_elements(known, key, 3))
    assert len(run.scheduler.ready.undecided) == 2
    known.tell(StopRequested("enough"))
    assert run.scheduler.arrays.of[0].failed == 6 and not run.scheduler.ready.undecided


def test_a_stop_while_failures_are_held_has_all_of_them_fail():
    stop_while_failures_are_held()


def test_a_stop_and_a_lost_rank_end_a_paused_run():
    run, known, _ = begin_paused(max_retries=0)
    known.tell(StopRequested("enough"))
    for key in list(known.leases):
        known.tell(known.report(key, count=1))
    known.tell(done(3, 1))
    assert run.scheduler.is_over
    run, known, _ = begin_paused(max_retries=0, slots=(1, 1), others=())
    for rank in (1, 2):
        known.leases = {key: each for key, each in known.leases.items() if each[0] != rank}
        lose(known, rank)
    known.tell(after=100.0)
    assert run.status == "failed"


def test_a_paused_array_is_not_out_of_time():
    """Its retries would be too late, but other elements may run yet."""
    run, known, _ = begin_paused(max_retries=1, retry_delay_s=500.0, policy={"stop_at": 100.0})
    known.tell(done(3, 1, lasted=0.01))
    while known.leases:
        known.tell(known.report(next(iter(known.leases)), busy_s=1e-4), after=0.001)
    assert run.status == "running"
    assert new_leases(run, known.tell(after=MAX_HOLD_S))


def test_elements_of_handles_pause_too():
    handles = dict.fromkeys(range(100, 200), (0,))
    run = Dialogue(ranks(2, 1), heartbeat_timeout_s=1e6)
    known = Ranks(run)
    spec = task(array=ArraySpec(400, None, 2, handles=handles), max_retries=1, retry_delay_s=500.0)
    run.submit(task(pin=2, priority=1), spec)
    number = 1
    while known.leases and not is_paused(run, number):
        key = next(iter(known.leases))
        fail(known, key, *first_elements(known, key, 3))
    assert is_paused(run, number)
    while known.leases:
        known.tell(known.report(next(iter(known.leases)), busy_s=1e-4), after=0.001)
    assert not new_leases(run, known.tell(done(2, 0), after=0.01)), "the elements that waited for it are READY now"
    known.tell(after=MAX_HOLD_S)
    assert not is_paused(run, number) and known.leases
    end_all(run, known)
    known.tell(after=1500.0)
    end_all(run, known)
    assert run.status == "done" and known.begun == Counter(range(400))


def test_linked_arrays_go_on_when_the_one_that_they_wait_for_does():
    linked = task(array=ArraySpec(2000, links=(Link(0, range(2000)),)))
    run, known, _ = begin_paused(max_retries=1, others=(OTHER, linked))
    known.tell(done(3, 1))
    for _ in range(10_000):
        if not known.leases:
            break
        known.tell(known.report(next(iter(known.leases)), busy_s=1e-4), after=0.001)
    assert run.status == "done"


def test_a_windowed_array_pauses_and_resumes():
    run, known = begin(task(array=ArraySpec(0, None, 2, window=100), max_retries=1), OTHER, slots=(1, 1, 1))
    known.tell(ElementsPulled(0, 100))
    warm_up(known)
    fail_first_lease(known, 3)
    assert is_paused(run)
    assert not new_leases(run, known.tell(ElementsPulled(0, 150)))
    known.tell(ElementsPulled(0, 150, is_last=True), done(3, 1))
    end_all(run, known)
    assert run.status == "done" and known.begun == Counter(range(150))


# -- what ends after the array has ------------------------------------------------------------------------


def begin_dropped(**options):
    """An array of which too many elements have failed while two leases run."""
    run, known = begin(array(400, max_failures=1, **options), slots=(1, 1))
    warm_up(known)
    fail_first, *rest = list(known.leases)
    said = fail(known, fail_first, *first_elements(known, fail_first, 2), kind="TypeError")
    assert any(line.startswith("recall from") for line in said) and rest
    return run, known, rest


@pytest.mark.parametrize("kind", ["ValueError", "TypeError"])
def test_elements_that_raise_after_the_array_has_ended_have_failed(kind):
    run, known, (key, *others) = begin_dropped(max_retries=3)
    good, bad, died = first_elements(known, key, 3)
    rank, _ = known.leases.pop(key)
    report = LeaseReport(((good, good + 1),), None, ((((bad, bad + 1),), error(kind)),), (), 1e-4)
    known.tell(ElementsEnded(rank, *key, report))
    known.tell(Finished(rank, [(*key, DIED, ErrorReport(DEATH, "killed", element=died), 0, 0.0, 0.1, False)]))
    for each in others:
        its_rank, _ = known.leases.pop(each)
        known.tell(Retracted(its_rank, [each]))
    state = run.scheduler.arrays.of[0]
    assert run.status == "failed"
    failed = {start: failure.kind for intervals, failure in state.failures for start, _ in intervals}
    assert (failed[bad], failed[died]) == (kind, DEATH)
    assert good in {index for low, high in state.have for index in range(low, high)}
    assert state.failed == 4 and state.skipped > 200
    assert state.done + state.failed + state.skipped == 400


def test_held_failures_have_failed_once_others_end_their_array():
    run, known, failed = begin_paused(max_retries=0)
    key = next(iter(known.leases))
    others = first_elements(known, key, 3)
    fail(known, key, *others, kind="TypeError")
    state = run.scheduler.arrays.of[0]
    kinds = {start: failure.kind for intervals, failure in state.failures for start, _ in intervals}
    assert kinds == {**dict.fromkeys(failed, "ValueError"), **dict.fromkeys(others, "TypeError")}
    while known.leases:
        known.tell(known.report(next(iter(known.leases))))
    known.tell(done(3, 1))
    assert run.status == "failed" and state.failed == 6
    assert state.done + state.failed + state.skipped == 2000


@pytest.mark.parametrize("seed", range(60))
def test_random_arrays_with_many_failures_keep_to_their_limit(seed):
    """No new lease begins while too many elements may fail; what failed is counted, and nothing hangs."""
    rng = random.Random(seed)
    count, limit = rng.choice([60, 500]), rng.choice([0, 2, 10])
    bad = set(rng.sample(range(count), rng.choice([3, 10, 50])))
    deadly = set(rng.sample(range(count), 1)) - bad if rng.random() < 0.4 else set()
    run = Dialogue(ranks(2, 1, 3), crash_limit=2)
    known = Ranks(run)
    number = 0
    options = {"max_retries": rng.choice([0, 1, 3]), "retry_delay_s": rng.choice([None, None, 0.5, 5.0])}
    handle, state_of = run.scheduler.handle, run.scheduler.arrays.of

    def watched(events, now):
        commands = handle(events, now)
        numbers = [lease for each in commands if isinstance(each, Dispatch) for lease, _ in each.tasks]
        new = [each for each in numbers if not run.scheduler.arrays.leases[each].incidents]
        state = state_of[number]
        returned = sum(run.scheduler.tasks.attempts[each] > 1 for each in new)
        assert len(new) == returned or state.failed + state.doubted <= limit
        return commands

    run.scheduler.handle = watched
    run.submit(array(count, max_failures=limit, **options))
    ended = Counter()
    for _ in range(5000):
        if run.scheduler.is_over:
            break
        if known.leases:
            play(rng, known, rng.choice(list(known.leases)), bad, deadly, set(), ended)
        else:
            assert run.scheduler.next_wakeup() < float("inf"), "it hangs"
            known.tell(after=max(0.0, run.scheduler.next_wakeup() - known.now))
    assert run.scheduler.is_over
    state = state_of[number]
    failed = {index for elements, _ in state.failures for start, stop in elements for index in range(start, stop)}
    assert failed <= bad | deadly and set(ended.values()) <= {1}
    assert len(failed) == state.failed and state.done == len(ended)
    assert state.done + state.failed + state.skipped == count
    assert state.failed > limit or failed == bad | deadly
