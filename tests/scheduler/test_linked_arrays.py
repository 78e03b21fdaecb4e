"""Arrays that take elements of others: dialogues, and random runs compared with what each element would become."""

import random
from collections import Counter

import pytest

from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.arrays.links import OWN, Link
from handoff_mpi.arrays.trees import Tree
from handoff_mpi.dag.task_spec import ArraySpec
from handoff_mpi.scheduler import Closed, State, Submitted
from tests.scheduler.test_arrays import Ranks, begin, end_all, error, is_disturbed, play
from tests.scheduler.transcript import Dialogue, array, raised, ranks, task


def linked(count, *links, inputs=(), max_failures=None, tree=None, **options):
    return task(*inputs, array=ArraySpec(count, None, max_failures, links=links, tree=tree), **options)


def fold(source, count, fan_in, **options):
    tree = Tree(count, fan_in)
    links = [Link(source, range(count), fan_in)]
    links += [
        Link(OWN, range(*low), fan_in, first) for low, (first, _) in zip(tree.levels, tree.levels[1:], strict=False)
    ]
    return linked(len(tree), *links, tree=tree, **options)


def leased(run, known):
    """Array number to its elements that ranks have."""
    found = {}
    for (number, _), (_, elements) in known.leases.items():
        found.setdefault(run.scheduler.arrays.leases[number].array, IntervalSet()).update(elements)
    return {number: elements.intervals() for number, elements in found.items()}


def test_an_element_may_run_when_the_one_that_it_takes_is_done():
    run, known = begin(array(4), linked(4, Link(0, range(4))), slots=(2,))
    assert leased(run, known) == {0: [(0, 2)]}
    known.tell(known.report(next(iter(known.leases))))
    assert leased(run, known)[1] == [(0, 1)]
    end_all(run, known)
    assert run.status == "done" and known.begun == Counter(dict.fromkeys(range(4), 2))


def test_the_array_that_is_furthest_from_the_sources_goes_first():
    run, known = begin(array(1000), linked(1000, Link(0, range(1000))), linked(1000, Link(1, range(1000))), slots=(1,))
    order = []
    while known.leases:
        key = next(iter(known.leases))
        order.append(run.scheduler.arrays.leases[key[0]].array)
        known.tell(known.report(key, busy_s=0.001 * len(known.leases[key][1])))
    assert run.status == "done"
    most = max(order[:place].count(0) - order[:place].count(2) for place in range(len(order)))
    assert most <= 4 and order[0] == 0 and order[-1] == 2


def test_no_lease_is_smaller_than_it_should_be_while_the_source_has_more_to_do():
    run, known = begin(array(100_000), fold(0, 100_000, 10), slots=(2,), window=2)  # without chains
    sizes = []
    while known.leases:
        key = next(iter(known.leases))
        lease = run.scheduler.arrays.leases[key[0]]
        count = len(known.leases[key][1])
        if lease.array == 1 and run.scheduler.arrays.of[0].todo:
            sizes.append(count)
        known.tell(known.report(key, busy_s=1e-5 * count))
    assert run.status == "done"
    assert len(sizes) < 40 and sizes.count(999) > 5


def test_what_takes_an_element_that_failed_is_skipped():
    run, known = begin(array(3, max_retries=0), linked(3, Link(0, range(3)[::-1])), fold(1, 3, 2), task(1), slots=(1,))
    while known.leases:
        key = next(iter(known.leases))
        number, index = run.scheduler.arrays.leases[key[0]].array, known.leases[key][1].intervals()[0][0]
        failures = [(((0, 1),), error())] if (number, index) == (0, 0) else []
        known.tell(known.report(key, failures=failures))
    counts = {number: (each.done, each.failed, each.skipped) for number, each in run.scheduler.arrays.of.items()}
    assert counts == {0: (2, 1, 0), 1: (2, 0, 1), 2: (1, 0, 2)}
    assert run.states.startswith("FAILED SKIPPED SKIPPED SKIPPED") and run.status == "failed"


def test_values_that_are_known_before_the_run_are_folded_at_once():
    tree = Tree(10, 2)
    links = [Link(OWN, range(5), 2, 5), Link(OWN, range(5, 8), 2, 8), Link(OWN, range(8, 10), 2, 10)]
    run, known = begin(linked(len(tree), *links, tree=tree), slots=(1,))
    end_all(run, known)
    assert run.status == "done" and known.begun == Counter(range(11))


def test_too_many_failures_skip_the_rest_of_what_takes_them():
    run, known = begin(array(50, max_failures=0, max_retries=0), linked(50, Link(0, range(50))), slots=(1,))
    known.tell(known.report(next(iter(known.leases)), failures=[(((0, 1),), error())]))
    end_all(run, known)
    assert run.states.startswith("FAILED SKIPPED")
    assert run.scheduler.arrays.of[1].skipped == 50


def test_an_array_that_is_skipped_has_all_skipped_that_takes_its_elements():
    run, _ = begin(task(max_retries=0), array(3, 0), linked(3, Link(1, range(3))), fold(2, 3, 2), slots=(1,))
    run.tell(1.0, raised(1, 0))
    assert run.states.startswith("FAILED SKIPPED SKIPPED FAILED")


def test_elements_that_an_earlier_launch_computed_supply_others():
    run = Dialogue(ranks(1))
    known = Ranks(run)
    earlier = {0: IntervalSet([(0, 6)]), 1: IntervalSet([(0, 2)])}
    run.tell(0.0, Submitted([array(8), linked(8, Link(0, range(8)))], elements=earlier), Closed())
    end_all(run, known)
    assert known.begun == Counter([2, 3, 4, 5, 6, 6, 7, 7])


def outcomes(specs, wrong):
    """Return which elements of each array have values, fail and are skipped, found one by one."""
    found = []
    for number, spec in enumerate(specs):
        good, failed, skipped = set(), set(), set()
        found.append((good, failed, skipped))
        for element in range(spec.array.count):
            taken = {
                (number if link.source == OWN else link.source, index)
                for link in spec.array.links
                if link.elements[0] <= element < link.elements[1]
                for index in link.taken(element, element + 1)
            }
            if not all(index in found[source][0] for source, index in taken):
                skipped.add(element)
            else:
                (failed if element in wrong[number] else good).add(element)
    return found


def assert_sources_have_ended(specs, number, elements, ended):
    """Elements of array ``number`` are leased: those that they take have ended well."""
    for link in specs[number].array.links:
        source = number if link.source == OWN else link.source
        for low, high in elements:
            first, last = link.elements
            low, high = max(low, first), min(high, last)
            assert low >= high or set(link.taken(low, high)) <= ended[source].keys()


@pytest.mark.parametrize("seed", range(30))
def test_random_runs_end_as_each_element_must(seed):
    rng = random.Random(seed)
    count = rng.choice([1, 7, 60, 200])
    step = rng.choice([1, 1, -1, 2, 3])
    indices = range(count)[::step]
    specs = [
        array(count, max_retries=rng.choice([0, 1])),
        linked(len(indices), Link(0, indices), max_retries=0),
        fold(1, len(indices), rng.choice([2, 3, 64]), max_retries=0),
        linked(len(indices), Link(1, range(len(indices))), Link(0, range(len(indices))), max_retries=0),
    ]
    counts = [spec.array.count for spec in specs]
    bad = [set(rng.sample(range(each), min(each, rng.choice([0, 0, 1, 3])))) for each in counts]
    deadly = [set(rng.sample(range(each), rng.random() < 0.2)) for each in counts]
    deadly = [one - other for one, other in zip(deadly, bad, strict=True)]
    expected = outcomes(specs, [one | other for one, other in zip(bad, deadly, strict=True)])
    run = Dialogue(ranks(2, 1, 3), crash_limit=2)
    known, ended = Ranks(run), [Counter() for _ in specs]
    run.submit(*specs)
    lost = set()
    for _ in range(4000):
        if run.scheduler.is_over:
            break
        if not known.leases:
            known.tell(after=5.0)
            continue
        key = known.first_of(rng.choice(list(known.leases)))
        rank, elements = known.leases[key]
        number = -1 if rank in lost else run.scheduler.arrays.leases[key[0]].array
        if number >= 0:
            assert_sources_have_ended(specs, number, elements, ended)
        if not is_disturbed(rng, run, known, lost, key):
            play(rng, known, key, bad[number], deadly[number], set(), ended[number])
            known.return_followers(key, ended[number])
    assert run.scheduler.is_over
    for number, (good, failed, skipped) in enumerate(expected):
        state = run.scheduler.arrays.of[number]
        assert set(ended[number]) == good and set(ended[number].values()) <= {1}
        assert (state.done, state.failed, state.skipped) == (len(good), len(failed), len(skipped))
        how = State.FAILED if failed else State.SKIPPED if skipped else State.DONE
        if number == 2 and not failed and not expected[1][0]:
            how = State.FAILED  # it has nothing to fold
        assert run.scheduler.tasks.state[number] == how
