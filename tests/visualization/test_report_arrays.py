"""``report.html`` of a run whose arrays fail, are tried again, and are resumed."""

from __future__ import annotations

import html
import re

import numpy as np
import pytest

from handoff_mpi import DAG, Fixed, Function, execute_local
from handoff_mpi.results.story_reader import read_story
from handoff_mpi.visualization.report.failure_table import failure_rows
from handoff_mpi.visualization.report.name_table import name_rows, percentiles
from handoff_mpi.visualization.report.page import make_page
from handoff_mpi.visualization.report.tables import (
    launch_rows,
    loss_rows,
    path_rows,
    slowest_calls,
    totals,
    transfers_of,
)
from tests.results.made_journal import T0, about, row, write_launch


def fails(x, marker):
    if x == 5 and not marker.exists():
        marker.touch()
        raise OSError("once")
    if x % 10 == 3:
        raise ValueError(f"no {x}")
    if x % 10 == 7:
        raise KeyError(x)
    return x


def double(x):
    return 2 * x


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Return a run of two launches: in each of them 8 of 40 elements fail twice, in the first one more fails once."""
    base = tmp_path_factory.mktemp("arrays")
    for _ in range(2):
        dag = DAG("sweep")
        xs = dag.map(fails, range(40), Fixed(base / "marker"), id="xs", max_retries=1)
        dag.map(double, xs, id="ys")
        dag.add_function(Function("single", [], double, [2]))
        execute_local(dag, run_dir=base / "run", check=False, output="off")
    return base / "run"


def text_of(story):
    page = make_page(story).decode()
    main = page[page.index("<main") : page.index("<footer")]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"</?(bdi|code|strong)>", "", main)))


def test_each_kind_of_failure_is_told_once_with_its_elements_and_a_traceback(run_dir):
    story = read_story(run_dir)
    rows = {row.kind: row for row in failure_rows(story)}
    assert {kind: (row.calls, row.again) for kind, row in rows.items()} == {
        "ValueError": (8, 0),
        "KeyError": (8, 0),
        "OSError": (0, 1),
    }
    for kind in ("ValueError", "KeyError"):
        assert f"raise {kind}(" in rows[kind].traceback
        assert rows[kind].place.startswith(__file__)
        assert rows[kind].names == ["fails"]
    assert rows["ValueError"].functions == ["xs[3]", "xs[13]", "xs[23]", "xs[33]"], "though each failed in two launches"
    assert rows["ValueError"].more == 0
    assert rows["OSError"].functions == ["xs[5]"]
    text = text_of(story)
    assert "8 \u00d7 ValueError no 3" in text
    assert "1 \u00d7 OSError (tried again) once" in text
    assert "elements failed" not in text


def test_elements_are_counted_and_not_leases(run_dir):
    story = read_story(run_dir)
    rows = {row.name: row for row in name_rows(story)}
    # 32 have values; 8 fail twice in each launch, and one once.
    assert (rows["fails"].functions, rows["fails"].calls) == (40, 32 + 32 + 1)
    assert (rows["fails"].failed, rows["fails"].again) == (33, 17)
    assert (rows["double"].functions, rows["double"].calls, rows["double"].failed) == (41, 33, 0)
    told = totals(story)
    assert told["calls"] == 65 + 33
    assert told["ended_badly"] == {"failed": 33}
    assert told["bars"] == len(story.calls) == told["leases"] + 1
    assert "<dt>calls</dt><dd>98</dd>" in text_of(story)
    assert sum(each.elements for each in slowest_calls(story)) + told["untimed"] == 65 + 32


def test_launches_tell_of_the_elements_that_they_took_over(run_dir):
    rows = launch_rows(read_story(run_dir), [0.0])
    assert [(row.functions, row.restored) for row in rows] == [(81, 0), (81, 65)]
    assert [row.calls for row in rows] == [32 + 17 + 32 + 1, 16]


def test_states_are_those_of_calls(run_dir):
    counts = read_story(run_dir).counts
    assert {state: count for state, count in counts.items() if count} == {"done": 65, "failed": 8, "skipped": 8}


def test_no_element_waits_to_be_tried_again_as_its_array_has_more_leases(run_dir):
    story = read_story(run_dir)
    assert story.waits.retry.sum() == 0
    assert "to be tried again" not in text_of(story)


def test_the_longest_path_is_no_longer_than_its_elements(run_dir):
    story = read_story(run_dir)
    rows = path_rows(story)
    longest = {
        name: max(each.longest_s for each in name_rows(story) if each.name == name) for name in ("fails", "double")
    }
    assert [row.label for row in rows] == ["xs", "ys"]
    assert [row.elements for row in rows] == [1, 1]
    assert all(row.duration_s <= longest[row.name] for row in rows)
    assert totals(story)["path_s"] == pytest.approx(sum(row.duration_s for row in rows))
    assert totals(story)["path_s"] <= story.calls.duration.sum()


def test_values_of_elements_are_not_said_to_have_stayed_where_they_were(run_dir):
    story = read_story(run_dir)
    assert transfers_of(story).has_arrays
    text = text_of(story)
    assert "No rank used a value" not in text
    assert "Values that arrays take or give are not counted here" in text


def test_a_lost_rank_is_told_with_the_elements_that_others_computed(tmp_path):
    write_launch(
        tmp_path,
        ("run", about()),
        ("tasks", 0, [row("xs", "fit")]),
        ("array", 0, 20, [("range", 20, 0, 1)]),
        ("rank", 2, "lost", "it died", T0 + 4),
        ("elements_retried", 0, 2, [(3, 11)], 1, "rank-lost", "it died"),
    )
    story = read_story(tmp_path)
    assert [(each.rank, each.calls, each.elements) for each in loss_rows(story)] == [(2, 0, 8)]
    assert "elements taken back" in text_of(story)


def test_percentiles_of_leases_are_those_of_their_elements():
    rng = np.random.default_rng(1)
    for size in (1, 2, 7, 30):
        values, counts = rng.random(size), rng.integers(1, 9, size).astype(np.int32)
        expected = np.percentile(np.repeat(values, counts), (0, 50, 95, 100))
        assert percentiles(values, counts, (0, 50, 95, 100)) == pytest.approx(expected.tolist())
    assert percentiles(np.zeros(0), np.zeros(0, np.int32), (50,)) == [0.0]
