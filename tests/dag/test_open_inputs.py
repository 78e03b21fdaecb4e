"""Chains of open inputs, on graphs that one can draw."""

from __future__ import annotations

from handoff_mpi.dag.open_inputs import MAX_CHAINS, find_open_inputs


def find(task, graph, closed=(), **options):
    return find_open_inputs(task, lambda each: graph.get(each, ()), lambda each: each not in closed, **options)


def test_chains_lead_to_what_waits_for_no_input():
    found = find(5, {5: (4, 3), 4: (2,), 3: (1, 0), 2: (1,)}, closed={0})
    assert (found.count, found.is_all, found.roots) == (4, True, 1)
    assert found.chains == [[3, 1]]  # the nearest way


def test_nothing_is_open():
    found = find(1, {1: (0,)}, closed={0})
    assert (found.count, found.roots, found.chains) == (0, 0, [])


def test_a_wide_graph_names_a_few_roots_and_counts_all():
    found = find(100, {100: range(100)})
    assert (found.count, found.roots, len(found.chains)) == (100, 100, MAX_CHAINS)


def test_a_large_graph_is_looked_at_in_part():
    found = find(0, {each: (each + 1,) for each in range(1000)}, most=50)
    assert (found.count, found.is_all, found.roots) == (49, False, 0)


def test_a_cycle_ends():
    assert find(0, {0: (1,), 1: (2,), 2: (0, 1)}).count == 2
