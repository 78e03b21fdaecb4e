"""The history that the records of a journal tell together."""

from __future__ import annotations

from handoff_mpi.arrays.columns import pack
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.messages import DEATH, DIED, RAISED
from handoff_mpi.results.history import history_of
from handoff_mpi.results.journal_reader import Segment

TASKS = ("tasks", 0, [("f", b"", "f", (), {})])
F = ("f", b"")


def turn(sent=(), done=(), failed=(), incidents=()):
    return ("turn", list(sent), list(done), list(failed), list(incidents))


def sent(attempt):
    return (0, attempt, 1)


def failed(attempt, status=DIED):
    return (0, attempt, 1, status, DEATH, "killed")


def history(*launches):
    return history_of(Segment(epoch, [TASKS, *turns]) for epoch, turns in enumerate(launches, 1))


def test_deaths_add_up_over_launches():
    two = history([turn([sent(1)]), turn(failed=[failed(1)])], [turn([sent(1)]), turn(failed=[failed(1)])])
    assert two.deaths == {F: 2}
    assert two.suspects == set()


def test_an_attempt_whose_process_and_rank_both_died_is_one_death():
    one = history([turn([sent(1)]), turn(failed=[failed(1), failed(1)], sent=[sent(2)]), turn(failed=[failed(1)])])
    assert one.deaths == {F: 1}
    assert one.suspects == {F}, "the second attempt is in flight"


def test_what_was_done_is_no_poison():
    done = (0, 2, 1, 0.0, 0.1, 8, (0, None), None)
    calls = [turn([sent(1)]), turn([sent(2)], failed=[failed(1)]), turn(done=[done])]
    assert history(calls).deaths == {}
    assert history([*calls, turn([sent(3)]), turn(failed=[failed(3)])]).deaths == {F: 1}


def test_an_exception_is_no_death():
    assert history([turn([sent(1)]), turn(failed=[failed(1, RAISED)])]).deaths == {}


def test_a_value_counts_that_the_newest_launch_made_also_where_it_was_not_kept():
    # A function with the same fingerprint may have another value: behind a fold of a windowed array, or by --rerun.
    def done(key=None):
        return turn(done=[(0, 1, 1, 0.0, 0.1, 8, None, key)])

    earlier, key = [done(), ("persisted", 0, "of 1")], ("persisted", 0, "of 2")
    found = [history(earlier, each).done[F] for each in ([], [done()], [done(), key], [done("of 2"), done()])]
    assert [(each.epoch, each.key) for each in found] == [(1, "of 1"), (2, None), (2, "of 2"), (2, "of 2")]
    again = history(earlier, [done(), key, done(), ("persisted", 0, "of 2, again")]).done[F]
    assert (again.epoch, again.key) == (2, "of 2, again")
    restored = history(earlier, [("restored", [0]), key]).done[F]
    assert (restored.epoch, restored.key) == (1, "of 2"), "it was taken over, and written once more"


def test_what_earlier_launches_made_of_what_rerun_replaces_counts_no_more():
    """By what they took there: in the launch of --rerun the same functions may take something else, or be left out."""

    def launch(epoch, *rows, replaced=()):
        told = [("tasks", 0, [(id, mark, "f", inputs, {}) for id, mark, *inputs in rows])]
        told += [("replaced", [*replaced], {})] if replaced else []
        return Segment(epoch, [*told, turn(done=[(i, 1, 1, 0.0, 0.1, 8, (0, epoch), None) for i in range(len(rows))])])

    def left(*launches):
        return {(id, mark): each.epoch for (id, mark), each in history_of(launches).done.items()}

    first = launch(1, ("a", 1), ("b", 1, 0), ("c", 1, 1), ("d", 1))
    assert left(first, launch(2, ("a", 1), ("c", 2), replaced=[0])) == {("a", 1): 2, ("c", 2): 2, ("d", 1): 1}
    assert left(first, launch(2, ("c", 2), ("a", 2), ("b", 3), replaced=[1])).keys().isdisjoint({("b", 1), ("c", 1)})
    apart = launch(1, ("a", 1), ("b", 1), ("c", 1, 1))
    behind = launch(2, ("a", 1), ("b", 2, 0), replaced=[0, 1])
    assert left(apart, behind) == {("a", 1): 2, ("b", 2): 2, ("b", 1): 1, ("c", 1): 1}, "they took nothing of it"
    again = launch(3, ("a", 1), ("c", 2), replaced=[0])
    assert left(apart, behind, again) == {("a", 1): 3, ("c", 2): 3, ("b", 1): 1, ("c", 1): 1}
    done_there = launch(2, ("b", 1), ("d", 1), ("e", 1, 1), replaced=[1, 2])
    assert left(first, done_there) == {("a", 1): 1, ("b", 1): 2, ("c", 1): 1, ("d", 1): 2, ("e", 1): 2}


def test_elements_that_rerun_replaces_are_those_of_the_array_as_it_is_unless_it_names_them():
    """With other code or arguments, elements of these indices need not have taken what is replaced."""

    def replaced(*records):
        tables = [[("tasks", 0, [("a", 1, "f", (), {}), ("xs", mark, "f", (0,) * mark, {})])] for mark in (0, 1)]
        array = [("array", 1, 4, []), ("elements", 1, 1, [(0, 4)], pack([None] * 4), 0.0, 0.1)]
        told = history_of([Segment(1, tables[0] + array), Segment(2, [*tables[1], *records, *array])])
        return told.arrays["xs", 0][0].replaced

    assert replaced(("replaced", [0], {1: [(1, 2)]})) == IntervalSet()
    named = ("again", {"--rerun names it": [1]}), ("replaced", [0], {1: [(1, 2)]})
    assert replaced(*named) == replaced(("replaced", [], {1: [(1, 2)]})) == IntervalSet([(1, 2)])
    assert replaced(("rerun_named", [0, 1]), named[1]) == IntervalSet([(1, 2)])
    assert replaced(named[0], ("rerun_named", [0]), named[1]) == IntervalSet(), (
        "the words count in older journals alone"
    )


def test_the_launch_is_known_whose_rerun_dropped_what_it_did_not_hold():
    a, b, other = ("a", 1, "f", (), {}), ("b", 1, "f", (0,), {}), ("b", 2, "f", (), {})
    first = Segment(1, [("tasks", 0, [a, b]), turn(done=[(each, 1, 1, 0.0, 0.1, 8, (0, 0), None) for each in (0, 1)])])
    for rows, dropped in (([a], {("b", 1): [2]}), ([a, other], {("b", 1): [2]}), ([a, b], {})):
        replaced = ("rerun_named", [0]), ("replaced", [0, 1] if b in rows else [0], {})
        told = history_of([first, Segment(2, [("tasks", 0, rows), *replaced]), Segment(3, [("tasks", 0, [a, b])])])
        assert told.dropped == dropped


def test_the_inputs_are_known_that_all_elements_of_an_array_take():
    array = ("tasks", 0, [("a", 1, "f", (), {}), ("xs", 1, "f", (0,), {})]), ("array", 1, 4, [])
    for told, shared in (([], None), ([("array_inputs", 1, [0])], {0}), ([("array_inputs", 1, [])], set())):
        history = history_of([Segment(1, [*array, *told])])
        assert [each.shared for each in history.arrays["xs", 1]] == [shared]


def test_a_launch_that_was_cut_short_leaves_suspects():
    assert history([turn([sent(1)]), ("end", "stopped", 75, True)]).suspects == {F}
    assert history([turn([sent(1)]), ("end", "stopped", 75, False)]).suspects == set()
    assert history([turn([sent(1)])]).suspects == {F}


def test_a_launch_that_was_cut_short_leaves_suspects_among_elements():
    array, leased = ("array", 0, 9, []), [("leased", [(1, 0, 1, [(0, 4)]), (2, 0, 1, [(4, 6)])])]
    leased += [("elements", 0, 1, [(0, 2), (4, 6)], pack([None] * 4), 0.0, 0.1), ("leased", [(2, 0, 1, [(6, 9)])])]

    def suspects(*end):
        return history([array, *leased, *end]).arrays[F][0].suspects

    assert suspects() == suspects(("end", "stopped", 75, True)) == [IntervalSet([(2, 4)]), IntervalSet([(6, 9)])]
    assert suspects(("end", "stopped", 75, False)) == []


def test_every_launch_has_the_ranks_that_it_lost():
    returned = ("rank", 4, "lost", "silent"), ("rank", 4, "returned", "")
    three = history([("rank", 2, "lost", "killed"), *returned], [], [("rank", 3, "lost", "killed too")])
    assert [each.lost_ranks for each in three.launches] == [{2: "killed"}, {}, {3: "killed too"}]
    assert three.lost_ranks_before(3) == {1: {2: "killed"}}
    assert three.lost_ranks_before(1) == {}


def test_incidents_are_told_once_an_attempt_over_all_launches():
    lost = [(0, 1, 2, "rank-lost", "killed")]
    both = history(
        [turn([sent(1)]), turn(failed=[failed(1)], incidents=lost, sent=[sent(2)]), turn(failed=[failed(2)])],
        [turn([sent(1)]), turn(incidents=lost)],
    )
    told = [(each.launch, each.attempt, each.kind) for each in both.incidents[F]]
    assert told == [(1, 1, "rank-lost"), (1, 2, DEATH), (2, 1, "rank-lost")]
