"""Drawings of graphs: what is in their boxes, and that no language reads an id as something else."""

from __future__ import annotations

import math
import shutil
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handoff_mpi.arrays.columns import pack
from handoff_mpi.errors import UsageError
from handoff_mpi.formatting import one_line
from handoff_mpi.results import anybodys_story
from handoff_mpi.results.anybodys_story import read_anybodys_story
from handoff_mpi.visualization.drawing import MAX_FUNCTIONS, MAX_NAME_ARROWS, MAX_NAMES, drawing_of
from handoff_mpi.visualization.drawing_markup import dot_text, mermaid_text
from handoff_mpi.visualization.drawing_text import text_lines
from handoff_mpi.visualization.graph_source import source_of_story, source_of_tables
from handoff_mpi.visualization.graphviz import picture
from handoff_mpi.visualization.palette import RANK_COLOURS, rank_colour
from tests.conftest import missing
from tests.results.made_journal import T0, about, done, row, turn, write_large, write_launch, write_status
from tests.visualization.test_graph import mermaid_label, read_dot, shown

HOSTILE = 'end"]; x --> y\n</script><b>%%{init}%%\\N\\" &amp; `a` $x$ \x1b[31m\x00 \u202e \udc80 é;'


def planned(inputs, ids=None, names=None):
    """Return what is drawn of a DAG that has not run."""
    ids = ids or [f"f{number}" for number in range(len(inputs))]
    return source_of_tables("planned", ids, names or ["f"] * len(inputs), inputs, [{"cpu": 1}] * len(inputs))


def write_mixed(run_dir):
    """Write a run with functions in all states, on two ranks of two hosts."""
    rows = [row("load", "load"), row(HOSTILE, HOSTILE, [0]), row(("fit", 2), "fit", [0, 1]), row("late", "fit", [1])]
    rows += [row("behind", "fit", [2]), row("waits", "fit", [3])]
    write_launch(
        run_dir,
        ("run", about(2, dag_id=HOSTILE)),
        ("tasks", 0, rows),
        turn(1, [(0, 1, 1)]),
        turn(2, [(1, 1, 2)], [done(0, 1, 1, 0.5)]),
        turn(3, [(2, 1, 1), (3, 1, 2)], [done(1, 2, 2, 0.25)]),
        turn(4, [(2, 2, 1)], (), [(2, 1, 1, 1, "ValueError", f"no {HOSTILE}", T0 + 3, 0.1, -1)]),
        turn(5, (), (), [(2, 2, 1, 1, "ValueError", f"no {HOSTILE}", T0 + 4, 0.1, -1)]),
        turn(5, (), (), [(2, 2, 1, 1, "ValueError", f"no {HOSTILE}")]),
    )


@pytest.fixture
def mixed(tmp_path, monkeypatch):
    write_mixed(tmp_path / "run")
    status = {"status": "running", "exit_code": None, "launch": 1, "time_s": T0 + 6}
    monkeypatch.setattr(anybodys_story, "find_states", lambda run_dirs: dict.fromkeys(run_dirs, ("running", status)))
    return source_of_story(read_anybodys_story(tmp_path / "run"))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("large") / "run"
    write_large(run_dir, 2000, 5)
    return source_of_story(read_anybodys_story(run_dir))


# -- what is drawn -----------------------------------------------------------------------------------------


def test_a_run_is_drawn_with_ranks_states_and_times(mixed):
    drawing = drawing_of(mixed)
    assert not drawing.is_grouped
    told = {box.label: (box.state, box.place, box.time_text, box.layers[0]) for box in drawing.boxes}
    assert told == {
        "load": ("done", "rank 1 on node1", "500 ms", 0),
        one_line(HOSTILE, 120)[:57] + "...": ("done", "rank 2 on node2", "250 ms", 1),
        "('fit', 2)": ("failed", "rank 1 on node1", "100 ms, 2 calls", 2),
        "late": ("running", "rank 2 on node2", "3.0 s", 2),
        "behind": ("skipped", "", "", 3),
        "waits": ("waiting", "", "", 3),
    }
    assert [box.error for box in drawing.boxes if box.error] == [f"ValueError: {one_line(f'no {HOSTILE}')}"]
    assert drawing.legend == [(0, "rank 1 on node1"), (1, "rank 2 on node2")]
    assert drawing.summary.endswith("; running: 1 waiting, 1 running, 2 done, 1 failed, 1 skipped")


def test_an_array_is_drawn_with_its_elements_and_all_of_its_ranks(tmp_path):
    leases = [(rank, ((4 * at, 4 * at + 4),)) for at, rank in enumerate((1, 2, 2, 2))]
    columns = [("elements", 0, rank, parts, pack([0] * 4), T0 + at, 0.5) for at, (rank, parts) in enumerate(leases)]
    failure = (0, 2, -1, 1, "OSError", "1 of 17 elements failed, the first one at index 16: star")
    write_launch(
        tmp_path / "run",
        ("run", about(2)),
        ("tasks", 0, [row("sweep", "fit"), row("total", "sum", [0]), row("one", "fit")]),
        ("array", 0, 17, []),
        ("array", 2, 1, []),
        ("elements", 2, 1, ((0, 1),), pack([0]), T0, 0.5),
        *columns,
        turn(5, (), (), [failure]),
        ("end", "failed", 1, False),
    )
    source = source_of_story(read_anybodys_story(tmp_path / "run"))
    drawing = drawing_of(source)
    told = [(box.label, box.state_text, box.place, box.time_text) for box in drawing.boxes]
    assert told == [
        ("sweep", "failed, 16 of 17 elements done", "on 2 ranks", "2.0 s in calls"),
        ("one", "done, 1 of 1 element done", "rank 1 on node1", "500 ms in calls"),
        ("total", "skipped", "", ""),
    ]
    assert drawing.boxes[0].stripes == [(rank_colour(1), 0.25), (rank_colour(2), 0.75)]
    assert [ranks for _, ranks in drawing.legend] == ["rank 1 on node1", "rank 2 on node2"]
    assert drawing.summary.endswith("; failed: 1 done, 1 failed, 1 skipped, 17 of 18 elements done")
    assert "done, 1 of 1 element done" in mermaid_text(drawing)
    (fit,) = (box for box in drawing_of(source, max_functions=1).boxes if box.label == "fit")
    assert (fit.state_text, fit.place) == ("1 done, 1 failed, 17 of 18 elements done", "on 2 ranks")
    sweep, total, _ = source.records()
    assert (sweep.rank, sweep.host, sweep.attempts, sweep.started_s, sweep.stopped_s) == (None, None, 1, T0, T0 + 3.5)
    assert (total.rank, total.attempts) == (None, 0)


def test_a_dag_is_drawn_without_states():
    drawing = drawing_of(planned([(), (0,), (0, 1)]))
    assert drawing.summary == "3 functions, 3 values passed on, 3 layers"
    assert [(box.label, box.state, box.stripes, box.layers) for box in drawing.boxes] == [
        (f"f{number}", "", [], (number, number)) for number in range(3)
    ]
    assert drawing.arrows == {(0, 1): 1, (0, 2): 1, (1, 2): 1}
    assert drawing.legend == []


def test_an_empty_dag_and_a_single_function():
    assert drawing_of(planned([])).boxes == []
    assert dot_text(drawing_of(planned([]))).startswith("digraph")
    assert len(list(text_lines(drawing_of(planned([()]))))) == 4


def test_a_large_run_is_drawn_by_names_with_counts(large):
    drawing = drawing_of(large)
    assert drawing.is_grouped
    assert [(box.label, box.count, box.state_text) for box in drawing.boxes] == [
        (f"stage{stage}", 500, "500 done") for stage in range(4)
    ]
    assert drawing.arrows[0, 1] == drawing.arrows[1, 2] == 500
    assert sum(drawing.arrows.values()) == len(large.tasks.inputs)
    for box in drawing.boxes:
        assert sum(share for _, share in box.stripes) == pytest.approx(1)
        assert "on 5 ranks" in box.place
    assert sum(large.busy) == pytest.approx(large.story.calls.duration.sum())


def test_the_limit_is_that_of_functions_and_of_arrows():
    chain = [(), *((number,) for number in range(MAX_FUNCTIONS - 1))]
    assert not drawing_of(planned(chain)).is_grouped
    assert drawing_of(planned([*chain, ()])).is_grouped
    assert not drawing_of(planned([*chain, ()]), MAX_FUNCTIONS + 1).is_grouped
    assert drawing_of(planned([tuple(range(number)) for number in range(60)])).is_grouped


def test_so_many_names_and_arrows_between_them_are_drawn():
    count = 3 * MAX_NAMES
    names = [f"name{number % count}" for number in range(1000)]
    inputs = [tuple(range(max(0, number - 9), number)) for number in range(1000)]
    drawing = drawing_of(planned(inputs, names=names))
    assert len(drawing.boxes) == MAX_NAMES
    assert sum(box.count for box in drawing.boxes) == 1000
    assert f"({2 * MAX_NAMES + 1} other names)" in {box.label for box in drawing.boxes}
    assert len(drawing.arrows) == MAX_NAME_ARROWS
    assert "arrows between names are not drawn" in drawing.summary


def test_ranks_that_share_a_colour_are_named_together(tmp_path):
    ranks = 20
    calls = [done(number, number + 1, 1, 1) for number in range(ranks)]
    records = [("run", about(ranks)), ("tasks", 0, [row(f"f{number}") for number in range(ranks)]), turn(2, (), calls)]
    write_launch(tmp_path / "run", *records)
    write_status(tmp_path / "run", status="done", exit_code=0, launch=1)
    drawing = drawing_of(source_of_story(read_anybodys_story(tmp_path / "run")))
    assert drawing.legend[0] == (0, "ranks 1, 9, 17")
    assert len(drawing.legend) == len(RANK_COLOURS)
    assert all(f"rank {number + 1} on" in box.place for number, box in enumerate(drawing.boxes))


def _luminance(colour):
    """Return the relative luminance of WCAG 2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_black_text_can_be_read_on_all_colours():
    assert min((_luminance(colour) + 0.05) / 0.05 for colour in RANK_COLOURS) > 7  # level AAA
    assert rank_colour(1) == rank_colour(1 + len(RANK_COLOURS)) == 0
    assert 0 <= rank_colour(0) < len(RANK_COLOURS)


# -- languages ---------------------------------------------------------------------------------------------


def test_dot_marks_states_by_lines_and_ranks_by_colours(mixed):
    drawing = drawing_of(mixed)
    graph = read_dot(dot_text(drawing))
    nodes = {box.label: graph.nodes[f"b{number}"] for number, box in enumerate(drawing.boxes)}
    assert nodes["load"]["fillcolor"] == RANK_COLOURS[0]
    assert nodes["('fit', 2)"]["peripheries"] == "2"
    assert nodes["behind"]["style"] == "filled,dashed"
    assert nodes["waits"]["style"] == "filled,dotted"
    assert {shown(graph.nodes[name]["label"]) for name in graph.nodes if name[0] in "cs"} == {
        *("rank 1 on node1", "rank 2 on node2", "failed", "skipped", "waiting", "running")
    }
    assert shown(nodes["('fit', 2)"]["label"]).split("\n") == [
        "('fit', 2)", "fit", "failed", "rank 1 on node1, 100 ms, 2 calls",
    ]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=6), min_size=1, max_size=4, unique=True), st.text(max_size=6))
def test_ids_of_any_text_come_through_dot_and_mermaid(ids, name):
    drawing = drawing_of(planned([()] * len(ids), ids, [name] * len(ids)))
    graph = read_dot(dot_text(drawing))
    lines = mermaid_text(drawing).splitlines()
    for number, id in enumerate(ids):
        written = one_line(id)
        label = written + ("" if one_line(name) in (written, "") else f"\n{one_line(name)}")
        assert shown(graph.nodes[f"b{number}"]["label"]) == label
        assert mermaid_label(lines[1 + number].strip().removeprefix(f'b{number}["').removesuffix('"]')) == (
            label or " "
        )


def test_mermaid_has_a_legend_and_a_class_for_each_look(mixed, large):
    assert "legend" not in mermaid_text(drawing_of(large)), "it has no stripes"
    text = mermaid_text(drawing_of(mixed))
    assert 'c0["rank 1 on node1"]' in text
    assert "class b2 failed" in text
    assert f"classDef colour0 fill:{RANK_COLOURS[0]}" in text
    assert text.count('subgraph legend["legend"]') == 1


def test_text_names_what_failed_and_what_is_taken(mixed):
    lines = [line.plain for line in text_lines(drawing_of(mixed))]
    failed = next(line for line in lines if line.startswith("  ('fit', 2)"))
    assert "failed" in failed
    assert "<- load, end" in failed
    assert all(line.isprintable() for line in lines)
    assert "layer 3" in lines


def test_text_by_names_has_counts(large):
    lines = [line.plain for line in text_lines(drawing_of(large))]
    assert len(lines) == 6
    assert "stage1 x500" in lines[3]
    assert "<- stage0 (500)" in lines[3]


# -- pictures ----------------------------------------------------------------------------------------------


@pytest.fixture
def graphviz():
    if shutil.which("dot") is None:
        missing("dot (graphviz)")


SVG = "{http://www.w3.org/2000/svg}"


def test_graphviz_draws_what_the_drawing_says(graphviz, mixed, large):
    for source in (mixed, large, planned([(), (0,)])):
        drawing = drawing_of(source)
        tree = ElementTree.fromstring(picture(dot_text(drawing), "svg"))
        texts = {element.text for element in tree.iter(f"{SVG}text")}
        assert {f"{box.label} x{box.count:,}" if drawing.is_grouped else box.label for box in drawing.boxes} <= texts
        groups = [element.get("class") for element in tree.iter(f"{SVG}g")]
        legend = len(drawing.legend) + len({box.state for box in drawing.boxes} - {"done", ""})
        assert groups.count("node") == len(drawing.boxes) + (legend if drawing.has_run else 0)
        assert not list(tree.iter(f"{SVG}script"))
        fills = {element.get("fill") for element in tree.iter(f"{SVG}polygon")}
        assert {RANK_COLOURS[colour].lower() for colour, _ in drawing.legend} <= {str(each).lower() for each in fills}


@pytest.mark.long
def test_the_largest_drawings_are_laid_out(graphviz):
    wide = planned([tuple(range(max(0, number - 5), number)) for number in range(MAX_FUNCTIONS)])
    count = 2 * MAX_NAMES
    names = [f"name{number * 7 % count}" for number in range(2000)]
    inputs = [
        tuple({number * 31 % number, number * 17 % number, number - 1}) if number else () for number in range(2000)
    ]
    for source in (wide, planned(inputs, names=names)):
        assert picture(dot_text(drawing_of(source)), "png").startswith(b"\x89PNG")


def make_dot(directory, script):
    program = directory / "dot"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("exec sleep 60", "dot took more than 0.2 s"),
        ("echo 'bad \033[31m' >&2; exit 1", "has failed: bad \\x1b[31m"),
        ("exit 0", "it ended with 0"),
        ("kill -9 $$", "it ended with -9"),
    ],
)
def test_a_dot_that_does_not_do_its_work_costs_a_line(tmp_path, monkeypatch, script, told):
    make_dot(tmp_path, script)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UsageError) as caught:
        picture("digraph {}", "svg", timeout_s=0.2 if "sleep" in script else 30.0)
    assert told in str(caught.value)


def test_without_dot_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="apt install graphviz"):
        picture("digraph {}", "png")


def test_times_that_are_not_known_are_no_trouble():
    source = planned([()])
    assert math.isnan(source.duration[0])
    assert next(iter(source.records())).started_s is None
