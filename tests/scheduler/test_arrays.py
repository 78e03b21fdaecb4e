"""Arrays: leases in dialogues, and random runs with deaths, losses, recalls and failures of elements."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.dag.task_spec import ArraySpec
from handoff_mpi.membership import RankLost
from handoff_mpi.messages import DEATH, DIED, OK, RAISED, TIMED_OUT, TIMEOUT, ErrorReport, LeaseReport
from handoff_mpi.scheduler import (
    Closed,
    Dispatch,
    ElementsEnded,
    Finished,
    Retract,
    Retracted,
    State,
    StopRequested,
    Submitted,
)
from handoff_mpi.scheduler.array_state import Array
from tests.scheduler.transcript import Dialogue, array, done, ranks, task


def error(kind="ValueError", element=-1, place="f.py:1"):
    lineage = (kind, "Exception")
    return ErrorReport(kind, "oops", "Traceback: oops", lineage, place, -1, "", element)


class Ranks:
    """The leases that ranks hold of those dispatched to them, and their reports.

    Attributes:
        begun: how often each element has begun.
        asked: the leases that were asked for.
        chains: each lease that was sent behind another one, whose values it takes, with that one.
    """

    def __init__(self, run, number=0):
        self.run = run
        self.scheduler = run.scheduler
        self.number = number
        self.leases = {}
        self.begun = Counter()
        self.chains = {}
        self.asked = []
        self.now = 0.0
        self._handle = self.scheduler.handle
        self.scheduler.handle = self.handle

    def handle(self, events, now):
        commands = self._handle(events, now)
        for command in commands:
            if isinstance(command, Dispatch):
                for number, attempt in command.tasks:
                    if number in self.scheduler.arrays.leases:
                        elements = IntervalSet(self.scheduler.arrays.leases[number].intervals)
                        assert elements, f"lease {number} is dispatched, of which nothing is left"
                        self.leases[number, attempt] = command.rank, elements
                        leader = self.scheduler.arrays.leases[number].follows
                        if leader >= 0:
                            leader = next(key for key in self.leases if key[0] == leader)
                            self.chains[number, attempt] = leader, IntervalSet(self.leases[leader][1])
            elif isinstance(command, Retract):
                self.recalled = command
                self.asked += command.tasks
        return commands

    def first_of(self, key):
        """The lease that must end before this one may run, or else this one."""
        leader, _ = self.chains.get(key, (None, None))
        return key if leader not in self.leases else self.first_of(leader)

    def followers(self, key):
        """The leases that wait for this one, and for those, and so on."""
        own = [each for each in self.leases if self.chains.get(each, (None,))[0] == key]
        return [*own, *(other for each in own for other in self.followers(each))]

    def return_followers(self, key, ended):
        """A lease has ended: those that wait for it go back, unless all of its elements are among those that ended."""
        for each in [each for each in self.leases if self.chains.get(each, (None,))[0] == key]:
            _, elements = self.chains.pop(each)
            if not all(index in ended for start, stop in elements for index in range(start, stop)):
                returned = [each, *self.followers(each)]
                rank, _ = self.leases[each]
                for one in returned:
                    del self.leases[one]
                self.tell(Retracted(rank, returned))

    def tell(self, *events, after=0.1):
        self.now += after
        return self.run.tell(self.now, *events)

    def report(self, key, count=None, failures=(), left=(), busy_s=0.001):
        """The first ``count`` elements of a lease have ended well, but for the failures."""
        rank, elements = self.leases.pop(key)
        for failed, _ in failures:
            for interval in failed:
                elements.discard(*interval)
        for interval in left:
            elements.discard(*interval)
        ended = elements.take(len(elements) if count is None else count)
        self.begun.update(index for start, stop in ended for index in range(start, stop))
        report = LeaseReport(tuple(ended), None, tuple(failures), (*elements, *left), busy_s)
        return Finished(rank, [(*key, OK, report, 8, 0.0, busy_s, False)])


def begin(*specs, slots=(2,), **policy):
    run = Dialogue(ranks(*slots), **policy)
    known = Ranks(run)
    run.submit(*specs)
    return run, known


def end_all(run, known, busy_s=0.001):
    while known.leases:
        known.tell(known.report(next(iter(known.leases)), busy_s=busy_s))


def test_an_array_is_leased_to_all_slots_and_ends_as_one_task():
    run, known = begin(array(1000), task(0))
    assert [list(elements) for _, elements in known.leases.values()] == [[(0, 1)], [(1, 2)]]
    end_all(run, known)
    assert run.states.startswith("DONE DISPATCHED")
    run.tell(known.now, done(1, 1))
    assert run.status == "done"
    assert known.begun == Counter(range(1000))


def test_no_step_is_taken_for_an_element(monkeypatch):
    """The scheduler handles as many leases of ten million elements as of ten thousand that last as long together."""
    run, known = begin(array(10_000_000))
    leases = 0
    while known.leases:
        key = next(iter(known.leases))
        count = len(known.leases[key][1])
        known.tell(whole(known, key, count))
        leases += 1
    assert run.status == "done"
    assert leases < 400


def whole(known, key, count):
    rank, elements = known.leases.pop(key)
    return Finished(rank, [(*key, OK, LeaseReport(tuple(elements), None, (), (), count * 1e-7), 8, 0.0, 0.01, False)])


def test_later_leases_take_some_time_and_the_last_ones_are_small():
    counts = Array(ArraySpec(1000), task(), IntervalSet([(0, 1000)]))
    assert counts.lease_count(4) == 1
    counts.learn(1, 0.001)
    assert counts.lease_count(4) == 25  # a tenth of an even share
    counts.element_s = 0.01
    assert counts.lease_count(4) == 5  # which is too long here
    counts.element_s = 0.001
    counts.awaited.add(1000, 1400)
    assert counts.lease_count(4) == 35  # a tenth of what is left, that which waits for other arrays too
    counts.spec = ArraySpec(1000, fan_in=2)
    assert counts.lease_count(4) == 10  # other blocks may wait for these
    counts.spec = ArraySpec(1000)
    counts.awaited.discard(1000, 1400)
    counts.todo.discard(160, 1000)
    assert counts.lease_count(4) == 10
    counts.todo.discard(44, 160)
    assert counts.lease_count(4) == 6
    counts.todo.discard(40, 44)
    assert counts.lease_count(4) == 10  # the last ones, of an even share each
    counts.todo.discard(16, 40)
    assert counts.lease_count(4) == 4
    counts.element_s = 1e-6
    assert counts.lease_count(4) == 100  # a message takes longer than all that is left


def test_a_slot_gets_two_leases_at_once_where_it_is_known_how_long_they_take():
    spec = task(array=ArraySpec(100, element_s=0.001))
    _, known = begin(spec)
    assert sorted(len(elements) for _, elements in known.leases.values()) == [10, 10, 10, 10]


def test_chunk_limits_a_lease():
    run, known = begin(array(100, chunk=3))
    end_all(run, known, busy_s=1e-6)
    assert run.status == "done"
    run, known = begin(array(100, chunk=3))
    known.tell(known.report(next(iter(known.leases)), busy_s=1e-6))
    assert max(len(elements) for _, elements in known.leases.values()) == 3


def test_an_empty_array_is_done_at_once():
    run, _ = begin(array(0), task(0))
    assert run.states == "DONE DISPATCHED"


def test_an_array_waits_for_its_inputs():
    run, known = begin(task(), array(3, 0))
    assert run.states == "DISPATCHED WAITING"
    known.tell(done(1, 0))
    end_all(run, known)
    assert run.status == "done"


def test_elements_that_failed_are_tried_again_alone_and_fail_alone():
    run, known = begin(array(10, max_retries=1), slots=(1,))
    known.tell(known.report(next(iter(known.leases))))
    tried = 0
    while known.leases:
        key = next(iter(known.leases))
        elements = known.leases[key][1]
        failures = [(((4, 5),), error())] if 4 in elements else []
        tried += bool(failures)
        known.tell(known.report(key, failures=failures), after=5.0)
    run.tell(known.now + 100.0)
    assert tried == 2
    assert run.status == "failed"
    assert run.why(0) == ("ValueError", "1 of 10 elements failed, the first one at index 4: oops")
    assert known.begun == Counter(set(range(10)) - {4})


def test_a_death_is_charged_to_the_element_that_was_running():
    run, known = begin(array(50), slots=(1,), crash_limit=2)
    known.tell(known.report(next(iter(known.leases)), busy_s=0.0001))
    key = next(iter(known.leases))
    rank, elements = known.leases.pop(key)
    assert len(elements) > 5
    (start, _), *_ = elements
    report = LeaseReport(((start, start + 2),), None, busy_s=0.0002)
    known.begun.update([start, start + 1])
    known.tell(ElementsEnded(rank, *key, report))
    known.tell(Finished(rank, [(*key, DIED, ErrorReport(DEATH, "killed", element=start + 2), 0, 0.0, 0.1, False)]))
    while known.leases:
        key = next(iter(known.leases))
        rank, elements = known.leases[key]
        if start + 2 in elements:
            assert len(elements) == 1
            known.leases.pop(key)
            again = ErrorReport(DEATH, "killed", element=start + 2)
            known.tell(Finished(rank, [(*key, DIED, again, 0, 0.0, 0.1, False)]))
        else:
            known.tell(known.report(key))
    run.tell(known.now + 200.0)
    assert run.status == "failed"
    assert known.begun == Counter(set(range(50)) - {start + 2})


def test_more_failures_than_allowed_end_the_array():
    run, known = begin(array(1000, max_failures=1, max_retries=0), slots=(1,))
    known.tell(known.report(next(iter(known.leases)), busy_s=1e-4))
    for _ in range(2):
        key, (_, elements) = next(iter(known.leases.items()))
        first = next(iter(elements))[0]
        said = known.tell(known.report(key, failures=[(((first, first + 1),), error("TypeError"))], busy_s=1e-4))
    assert any(line.startswith("recall from 1") for line in said)
    (key,) = known.leases
    known.leases.clear()
    known.tell(Retracted(1, [key]))
    assert run.status == "failed"
    assert "2 of 1,000 elements failed (max_failures is 1)" in run.why(0)[1]
    array_of = run.scheduler.arrays.of[0]
    assert array_of.skipped == 1000 - 2 - array_of.done > 500


def test_a_retry_that_fails_with_its_rank_after_too_many_failures_has_failed_once():
    run, known = begin(array(2, max_failures=0, max_retries=1), slots=(2, 2), crash_limit=1)
    one, other = known.leases
    known.tell(known.report(one, failures=[(((0, 1),), error())]))
    (again,) = [key for key in known.leases if key != other]
    known.tell(known.report(other, failures=[(((1, 2),), error("TypeError"))]))
    assert run.scheduler.arrays.of[0].has_too_many_failures
    lose(known, known.leases[again][0])
    assert run.status == "failed" and run.scheduler.arrays.of[0].failed == 2


def test_a_stop_recalls_running_leases():
    run, known = begin(array(1000), slots=(1,))
    known.tell(known.report(next(iter(known.leases)), busy_s=1e-5))
    (key,) = [key for key in known.leases if key == next(iter(known.leases))]
    said = known.tell(StopRequested("enough"))
    assert any(line.startswith("recall from 1") for line in said)
    for key in list(known.leases):
        known.tell(known.report(key, count=1))
    assert run.status == "stopped"


def test_a_long_lease_is_recalled_for_an_idle_slot():
    run, known = begin(array(40))
    for key in list(known.leases):
        known.tell(known.report(key, busy_s=1e-5), after=0.001)
    while len(known.leases) > 1:
        known.tell(known.report(next(iter(known.leases))), after=0.001)
        if sum(len(elements) for _, elements in known.leases.values()) <= 1:
            break
    keys = [key for key, (_, elements) in known.leases.items() if len(elements) > 1]
    for key in keys[1:]:
        known.tell(known.report(key), after=0.0)
    if keys:
        known.tell(after=0.5)
    end_all(run, known)
    assert run.status == "done"
    assert known.begun == Counter(range(40))


def test_elements_that_are_left_while_their_lease_runs_are_leased_again_at_once():
    run, known = begin(array(40), slots=(1, 1))
    for key in list(known.leases):
        known.tell(known.report(key, busy_s=1e-5), after=0.001)
    (first, (rank, elements)), *others = known.leases.items()
    low, high = min(elements)[0], max(elements)[1]
    assert high - low > 2
    for key, _ in others:
        known.tell(known.report(key, busy_s=1e-5), after=0.0)
    left = ElementsEnded(rank, *first, LeaseReport((), None, (), ((low + 1, high),), 0.0))
    known.leases[first] = rank, IntervalSet([(low, low + 1)])
    known.tell(left, after=0.01)
    end_of_first = known.leases.pop(first)
    end_all(run, known)
    assert known.begun == Counter(set(range(40)) - {low}), "all others have ended, though the first one still runs"
    known.leases[first] = end_of_first
    end_all(run, known)
    assert run.status == "done" and known.begun == Counter(range(40))


def test_elements_that_fail_alike_keep_their_messages():
    run, known = begin(array(4, max_retries=0, chunk=4), slots=(1,))
    while known.leases:
        key = next(iter(known.leases))
        _, elements = known.leases[key]
        indices = [index for start, stop in elements for index in range(start, stop)]
        failures = [(((index, index + 1),), error()._replace(message=f"{index} is bad")) for index in indices]
        known.tell(known.report(key, failures=failures))
    failed = run.scheduler.arrays.of[0].failures
    assert {elements: failure.message for elements, failure in failed} == {
        ((index, index + 1),): f"{index} is bad" for index in range(4)
    }


@pytest.mark.parametrize("seed", range(40))
def test_random_runs_end_with_every_element_once(seed):
    """After any fate of ranks and leases, each element has one value or one failure in the end."""
    rng = random.Random(seed)
    count = rng.choice([1, 7, 60, 500])
    bad = set(rng.sample(range(count), min(count, rng.choice([0, 0, 1, 5]))))
    deadly = set(rng.sample(range(count), 1)) - bad if rng.random() < 0.4 else set()
    slow = set(rng.sample(range(count), 1)) - bad - deadly if rng.random() < 0.3 else set()
    specs = [task(), array(count, 0, max_retries=rng.choice([0, 1, 3])), task(1)]
    run = Dialogue(ranks(2, 1, 3), crash_limit=2)
    known = Ranks(run, 1)
    run.submit(*specs)
    known.tell(done(run.scheduler.slots.of_task[0].rank, 0))
    lost, ended = set(), Counter()
    for _ in range(3000):
        if run.scheduler.is_over or not known.leases:
            break
        key = rng.choice(list(known.leases))
        if not is_disturbed(rng, run, known, lost, key):
            play(rng, known, key, bad, deadly, slow, ended)
    for _ in range(400):
        if run.scheduler.is_over:
            break
        known.tell(after=5.0)
        for key, (rank, _) in list(known.leases.items()):
            if rank in lost:
                del known.leases[key]
            else:
                play(rng, known, key, bad, deadly, slow, ended)
        for number in (2,):
            if run.scheduler.tasks.state[number] == State.DISPATCHED:
                attempt = run.scheduler.tasks.attempts[number]
                known.tell(done(run.scheduler.slots.of_task[number].rank, (number, attempt)))
    assert run.scheduler.is_over
    state = run.scheduler.arrays.of[1]
    failed = {index for elements, _ in state.failures for start, stop in elements for index in range(start, stop)}
    assert failed == bad | deadly | slow
    assert set(ended) == set(range(count)) - failed
    assert set(ended.values()) <= {1}
    assert run.status == ("failed" if failed else "done")


def is_disturbed(rng, run, known, lost, key):
    """Let the rank of a lease die now and then, or the lease be taken back; return whether it is not played on."""
    rank, _ = known.leases[key]
    if rank in lost:
        del known.leases[key]
        return True
    what = rng.random()
    if what < 0.02 and len(lost) < 2:
        lost.add(rank)
        known.tell(RankLost(rank, "killed", rng.random() < 0.5), after=0.5)
        return True
    if what < 0.06 and run.scheduler.slots.of_task[key[0]].tasks[0] != key[0]:
        returned = [key, *known.followers(key)]
        for each in returned:
            del known.leases[each]
        known.tell(Retracted(rank, returned))
        return True
    return False


def play(rng, known, key, bad, deadly, slow, ended):
    """Report a lease as a rank would: element by element, until one of them kills or takes too long."""
    rank, elements = known.leases.pop(key)
    indices = [index for start, stop in elements for index in range(start, stop)]
    good, raised = [], []
    stop_at = rng.randrange(1, len(indices) + 1) if rng.random() < 0.2 else len(indices)
    for place, index in enumerate(indices):
        if index in deadly | slow:
            part(known, rank, key, good, raised, ended)
            status, kind = (DIED, DEATH) if index in deadly else (TIMED_OUT, TIMEOUT)
            known.tell(Finished(rank, [(*key, status, ErrorReport(kind, "x", element=index), 0, 0.0, 0.1, False)]))
            return
        if place == stop_at:
            break
        (raised if index in bad else good).append(index)
        if rng.random() < 0.02:
            part(known, rank, key, good, [], ended)
            good = []
        if rng.random() < 0.02:  # a recall while this element runs
            left = tuple((index, index + 1) for index in indices[place + 1 :])
            known.tell(ElementsEnded(rank, *key, LeaseReport((), None, (), left, 0.0)), after=0.01)
            stop_at = len(indices) + 1
            break
    left = tuple((index, index + 1) for index in indices[stop_at:])
    kinds = ["ValueError", "KeyError"]
    failures = tuple((((index, index + 1),), error(kinds[index % 2])) for index in raised)
    ended.update(good)
    report = LeaseReport(tuple((index, index + 1) for index in good), None, failures, left, 1e-4 * len(indices))
    known.tell(Finished(rank, [(*key, OK, report, 8, 0.0, 0.01, False)]), after=0.01)


def part(known, rank, key, good, raised, ended):
    if good or raised:
        ended.update(good)
        failures = tuple((((index, index + 1),), error()) for index in raised)
        report = LeaseReport(tuple((index, index + 1) for index in good), None, failures, (), 1e-4)
        known.tell(ElementsEnded(rank, *key, report), after=0.01)


def test_a_lease_that_fails_as_a_whole_fails_all_its_elements():
    run, known = begin(array(5, max_retries=0), slots=(1,))
    while known.leases:
        key = next(iter(known.leases))
        rank, _ = known.leases.pop(key)
        known.tell(Finished(rank, [(*key, RAISED, error("TypeError"), 0, 0.0, 0.1, False)]))
    assert run.status == "failed"
    assert run.scheduler.arrays.of[0].failed == 5


def running_lease(slots, **policy):
    """A lease of more than two elements that runs, of an array of 40; its lowest one."""
    run, known = begin(array(40, max_retries=0), slots=slots, **policy)
    for key in list(known.leases):
        known.tell(known.report(key, busy_s=1e-5), after=0.001)
    key = max(known.leases, key=lambda each: len(known.leases[each][1]))
    rank, elements = known.leases[key]
    assert len(elements) > 2
    return run, known, key, rank, min(elements)[0]


def lose(known, rank):
    known.leases = {key: lease for key, lease in known.leases.items() if lease[0] != rank}
    known.tell(RankLost(rank, "it is lost"))


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_rank_that_is_lost_with_a_lease_of_which_all_was_reported_leaves_nothing_to_do(is_alone):
    run, known, key, rank, _ = running_lease(slots=(1, 1))
    _, elements = known.leases[key]
    known.begun.update(index for start, stop in elements for index in range(start, stop))
    if is_alone:
        known.tell(Retracted(rank, [each for each, lease in known.leases.items() if lease[0] == rank and each != key]))
    known.tell(ElementsEnded(rank, *key, LeaseReport(tuple(elements), None, (), (), 0.01)))
    lose(known, rank)
    end_all(run, known)
    assert run.status == "done"
    assert known.begun == Counter(range(40))


def test_a_child_that_dies_when_all_of_its_lease_was_reported_is_held_against_no_element():
    run, known, key, rank, _ = running_lease(slots=(1,), crash_limit=2)
    _, elements = known.leases.pop(key)
    known.begun.update(index for start, stop in elements for index in range(start, stop))
    known.tell(ElementsEnded(rank, *key, LeaseReport(tuple(elements), None, (), (), 0.01)))
    known.tell(Finished(rank, [(*key, DIED, ErrorReport(DEATH, "killed"), 0, 0.0, 0.1, False)]))
    end_all(run, known)
    assert run.status == "done"
    assert known.begun == Counter(range(40))


def test_elements_that_may_have_ended_an_earlier_launch_are_leased_first_and_run_in_children():
    run = Dialogue(ranks(1), crash_limit=1)
    known = Ranks(run)
    earlier = {"elements": {0: IntervalSet([(0, 3)])}, "suspect_elements": {0: [[(3, 4), (6, 8)], [(8, 10)]]}}
    known.tell(Submitted([array(20)], **earlier), Closed())
    (key,) = known.leases
    assert list(known.leases[key][1]) == [(8, 10)] and run.scheduler.is_isolated(key[0])
    known.tell(known.report(key, busy_s=0.1))
    key = next(iter(known.leases))
    rank, elements = known.leases.pop(key)
    assert list(elements) == [(3, 4), (6, 8)] and run.scheduler.is_isolated(key[0])
    known.tell(Finished(rank, [(*key, DIED, ErrorReport(DEATH, "killed", element=6), 0, 0.0, 0.1, False)]))
    while known.leases:
        key = next(iter(known.leases))
        assert not run.scheduler.is_isolated(key[0]), "its elements are under no suspicion"
        known.tell(known.report(key))
    run.tell(known.now + 200.0)
    assert known.begun == Counter(set(range(3, 20)) - {6})
    why = "its process died once (crash_limit is 1), last on rank 1: killed"
    assert run.why(0) == (DEATH, f"1 of 20 elements failed, the first one at index 6: {why}")


def test_more_failures_than_allowed_drop_suspects_too():
    run = Dialogue(ranks(1), max_retries=0)
    known = Ranks(run)
    suspects = {0: [[(3, 5)], [(8, 10)]]}
    known.tell(Submitted([array(20, max_failures=0)], suspect_elements=suspects), Closed())
    (key,) = known.leases
    known.tell(known.report(key, failures=[(((8, 9),), error("TypeError"))]))
    assert known.leases == {} and run.status == "failed"
    assert run.scheduler.arrays.of[0].skipped == 18


def test_a_lease_does_not_copy_what_its_inputs_know_of_other_leases():
    run, known = begin(task(), array(100, 0), slots=(4,))
    known.tell(done(1, 0))
    children = run.scheduler.tasks.children[0]
    before = len(children)
    known.tell(known.report(next(iter(known.leases)), busy_s=1e-4))
    end_all(run, known)
    assert len(children) > before > 1, "leases have come since"
    assert run.scheduler.tasks.children[0] is children
