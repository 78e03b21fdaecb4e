"""``report.html`` of runs of any size and kind, also in a real browser."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from handoff_mpi import DAG, Function, cli, execute_local
from handoff_mpi.results.story_reader import read_story
from handoff_mpi.verbs import report as verb
from handoff_mpi.visualization.report import page as page_module
from handoff_mpi.visualization.report.axis import time_line, tracks_of
from handoff_mpi.visualization.report.calls_figure import MAX_BARS, cells_of, choose_bars, names_of
from handoff_mpi.visualization.report.dag_figure import graph_of
from handoff_mpi.visualization.report.failure_table import failure_rows
from handoff_mpi.visualization.report.name_table import name_rows
from handoff_mpi.visualization.report.output import add_output
from handoff_mpi.visualization.report.page import make_page
from handoff_mpi.visualization.report.tables import loss_rows, transfers_of
from handoff_mpi.visualization.report.use_figure import mean_sum, uses_of
from tests.conftest import missing
from tests.results.made_journal import T0, about, done, row, turn, write_large, write_launch, write_status
from tests.visualization.chromium import Browser, find_browser

#: Text that must come to the page as it is, and do nothing there.
HOSTILE = (
    '</script><script>document.title="taken"</script><img src=x onerror=alert(1)> {{ 7 * 7 }} & \x00 \u202e \udc80 é'
)
SHOWN = (
    r'</script><script>document.title="taken"</script><img src=x onerror=alert(1)> {{ 7 * 7 }} & \x00 \u202e \udc80 é'
)


def write_small(run_dir):
    """Write a run that was killed with a lost rank and resumed, with failures, hostile names, and two slots."""
    tasks = [row("load", "load"), row(HOSTILE, HOSTILE, [0], cpu=2, memory=100), row(("fit", 2), "fit", [0], gpu=1)]
    tasks += [row("sum", "sum", [1, 2]), row("late", "fit")]
    why = f"no {HOSTILE}"
    write_launch(
        run_dir,
        ("run", about(2, 2, dag_id=HOSTILE)),
        ("tasks", 0, tasks),
        turn(1, [(0, 1, 1), (4, 1, 2)]),
        turn(3, [(1, 1, 1), (2, 1, 1)], [done(0, 1, 1, 2, nbytes=10**6)]),
        ("traceback", 0, f'Traceback:\n  File "dag.py", line 3\n{HOSTILE}'),
        ("rank", 2, "lost", f"it died {HOSTILE}", T0 + 4),
        turn(
            4, [(1, 2, 1)], (), [(1, 1, 1, 1, "ValueError", why, T0 + 3, 1.0, 0)], [(4, 1, 2, "rank-lost", "it died")]
        ),
    )
    write_launch(
        run_dir,
        ("run", about(2, 2, dag_id=HOSTILE, started_s=T0 + 9000)),
        ("tasks", 0, tasks),
        ("restored", [0]),
        ("traceback", 0, f'Traceback:\n  File "dag.py", line 3\n{HOSTILE}'),
        turn(9001, [(1, 1, 1), (2, 1, 2), (4, 1, 1)]),
        turn(
            9005,
            (),
            [done(2, 2, 9001, 4), done(4, 1, 9001, 2)],
            [(1, 1, 1, 1, "ValueError", why, T0 + 9001, 1.5, 0), (1, 1, 1, 1, "ValueError", why)],
        ),
        ("end", "failed", 1, False),
    )
    write_status(run_dir, status="failed", exit_code=1, launch=2, duration_s=6.0)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("small") / "run"
    write_small(run_dir)
    return run_dir


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("large") / "run"
    write_large(run_dir, 30_000, 40)
    return run_dir


# -- what is drawn -----------------------------------------------------------------------------------------


def test_gaps_between_launches_are_cut_short_and_told(small):
    line = time_line(read_story(small))
    assert line.cuts == [True]
    assert line.gaps_s == [pytest.approx(8996)]
    assert line.length < 20
    launches = np.array([0, 1])
    assert line.of(launches, np.array([T0 + 4, T0 + 9000])).tolist() == [
        pytest.approx(each) for each in (4, line.begins[1])
    ]


def test_all_calls_are_drawn_one_by_one_or_added_up(large):
    story = read_story(large)
    line, tracks, names = time_line(story), tracks_of(story), names_of(story)
    bars = choose_bars(story, line)
    assert 100 <= len(bars) <= MAX_BARS
    cells = cells_of(story, line, tracks, names, bars)
    assert cells.count.sum() + len(bars) == len(story.calls)
    calls = story.calls
    odd = np.flatnonzero((calls.outcome != 0) | (calls.attempt > 1))
    assert set(odd.tolist()) <= set(bars.tolist())
    longest = np.argsort(-calls.duration)[:100]
    assert set(longest.tolist()) <= set(bars.tolist())
    busy = (cells.busy / 255.0).sum() * cells.width * tracks.per_band
    rest = np.setdiff1d(np.arange(len(calls)), bars)
    assert busy == pytest.approx(calls.duration[rest].sum(), rel=0.05)


def test_calls_that_are_thinner_than_a_pixel_do_not_make_a_slot_look_busy(tmp_path):
    calls = [done(number, 1, number * 0.001, 1e-5) for number in range(8000)]
    records = [("run", about(1)), ("tasks", 0, [row(number) for number in range(8000)]), turn(9, (), calls)]
    write_launch(tmp_path, *records)
    story = read_story(tmp_path)
    line, tracks = time_line(story), tracks_of(story)
    bars = choose_bars(story, line)
    assert len(bars) == 100
    cells = cells_of(story, line, tracks, names_of(story), bars)
    assert cells.busy.max() < 10


def test_many_ranks_share_bands(tmp_path):
    write_large(tmp_path, 5000, 700, 3)
    tracks = tracks_of(read_story(tmp_path))
    assert (tracks.count, tracks.bands) == (2100, 234)


def test_use_is_the_sum_of_what_calls_claimed(small):
    edges = np.array([0.0, 1, 2, 4])
    assert mean_sum(edges, np.array([0.5, 0.0]), np.array([3.0, 1.0]), np.array([2.0, 4.0])).tolist() == [5, 2, 1]
    story = read_story(small)
    line = time_line(story)
    edges, uses = uses_of(story, line)
    assert [use.resource for use in uses] == ["cpu", "memory", "gpu"]
    calls, tasks = story.calls, story.tasks
    for use in uses:
        amounts = [tasks.costs[tasks.cost[task]].get(use.resource, 0) for task in calls.task.tolist()]
        area = float((use.claimed * np.diff(edges)).sum())
        assert area == pytest.approx(float((np.array(amounts) * calls.duration).sum()))
    assert [each[2] for each in uses[0].capacity] == [4, 4]


def test_a_small_dag_is_drawn_whole_and_a_large_one_by_names(small, large):
    graph = graph_of(read_story(small))
    assert not graph.is_grouped
    assert set(graph.edges) == {(0, 1), (0, 2), (1, 3), (2, 3)}
    assert [node.layer for node in graph.nodes] == [0, 1, 1, 2, 0]
    assert [node.state for node in graph.nodes] == ["done", "failed", "done", "skipped", "done"]
    by_name = graph_of(read_story(large))
    assert by_name.is_grouped
    assert sorted((node.label, node.count, node.layer) for node in by_name.nodes) == [
        (f"stage{stage}", 7500, stage) for stage in range(4)
    ]
    assert by_name.edges[0, 1] == (7500, True)


def test_tables_tell_what_the_charts_show(small):
    story = read_story(small)
    rows = {each.name: each for each in name_rows(story)}
    assert (rows["fit"].functions, rows["fit"].calls, rows["fit"].longest_s) == (2, 4, 4)
    (failure,) = failure_rows(story)
    assert (failure.kind, failure.calls, failure.place, failure.ranks) == ("ValueError", 2, "dag.py:3", [1])
    assert failure.functions == [SHOWN]
    (loss,) = loss_rows(story)
    assert (loss.rank, loss.at, loss.calls) == (2, 4, 1)
    transfers = transfers_of(story)
    assert (transfers.values, transfers.nbytes, transfers.pairs) == (1, 10**6, [(1, 2, 1, 10**6)])


def prints_and_fails():
    print("half way \x1b[31m</pre>")
    raise RuntimeError("no")


def test_failures_are_told_with_what_their_first_call_printed(tmp_path):
    dag = DAG("printing")
    dag.add_function(Function(id=("a", 1), code=prints_and_fails, max_retries=1))
    execute_local(dag, run_dir=tmp_path / "run", output="capture", check=False)
    story = read_story(tmp_path / "run")
    rows = failure_rows(story)
    assert [row.output for row in rows] == [""]
    add_output(story, rows)
    assert [row.output for row in rows] == ["half way \\x1b[31m</pre>\n"]
    assert b"half way \\x1b[31m&lt;/pre&gt;" in make_page(story)


def test_samples_of_hosts_are_drawn_and_damaged_lines_passed_over(small):
    def usage(at, launch=1, **fields):
        return json.dumps({"event": "host.usage", "time_s": T0 + at, "launch": launch, "host": "node0", **fields})

    good = {"cpu_percent": 50, "cores": 8, "memory_used_mb": 700}
    lines = [
        usage(1, **good),
        usage(2, cpu_percent=25, cores=8),
        usage(3, cpu_percent="much", cores=[], memory_used_mb=float("nan")),
        usage(9002, 2, **good),
        '{"event": "host.usage"}',
        '["host.usage"]',
        '{"event": "host.usage", "time_s": "x", "launch": {}, "host": 1}',
        '{"event": "rank.lost", "why": "\\"host.usage\\""}',
        "[" * 50_000 + '"host.usage"',
        usage(4, **good)[:-9],
    ]
    path = small / "events.jsonl"
    path.write_text("\n".join(lines))
    try:
        story = read_story(small)
        _, uses = uses_of(story, time_line(story))
    finally:
        path.unlink()
    (times, cores) = uses[0].measured["node0"]
    assert times == [1, 2, pytest.approx(time_line(story).begins[1] + 2)]
    assert cores == [4, 2, 4]
    assert uses[1].measured["node0"][1] == [700, 700]
    assert uses[2].measured == {}


# -- the page ----------------------------------------------------------------------------------------------


def test_the_page_holds_all_it_needs_and_stays_small(small, large):
    for run_dir in (small, large):
        page = make_page(read_story(run_dir))
        assert len(page) < 10e6
        text = page.decode()
        assert "\x00" not in text
        own = text[: text.index('<script type="application/json"')]
        assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', own)
        assert "<img" not in own
        data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
        assert set(data) >= {"bars", "cells", "use", "dag", "names", "line"}


def test_the_verb_writes_the_page_a_trace_and_a_table(small, capsys, monkeypatch):
    monkeypatch.chdir(small.parent)
    assert cli.main(["report", "run", "--trace", "--tsv"]) == 0
    names = ["report.html", "trace.json", "trace.tsv"]
    assert capsys.readouterr().out.splitlines() == [str(small / name) for name in names]
    assert not list(small.glob("*.partial"))
    assert (small / "report.html").stat().st_mode & 0o022 == 0
    assert cli.main(["report", "run", "--output", "elsewhere.html"]) == 0
    assert (small.parent / "elsewhere.html").stat().st_size > 4e6


def test_the_newest_run_is_meant_where_none_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report"]) == 2
    assert "there are no runs in handoff-runs" in capsys.readouterr().err
    (tmp_path / "handoff-runs").mkdir()
    write_small(tmp_path / "handoff-runs" / "20260131-120000")
    assert cli.main(["report"]) == 0
    assert capsys.readouterr().out.strip().endswith("20260131-120000/report.html")


def refused(arguments, capsys):
    assert cli.main(["report", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def test_what_cannot_be_done_is_refused_in_a_line(tmp_path, capsys, monkeypatch):
    run_dir = tmp_path / "run"
    assert "is not a run-dir" in refused([str(run_dir)], capsys)
    write_small(run_dir)
    write = "cannot write "
    assert write in refused([str(run_dir), "--output", str(tmp_path)], capsys)
    assert write in refused([str(run_dir), "--output", str(tmp_path / "none" / "report.html")], capsys)
    (run_dir / "journal").chmod(0o775)
    assert "can be written to by the group" in refused([str(run_dir)], capsys)
    (run_dir / "journal").chmod(0o755)
    find = page_module.importlib.util.find_spec
    monkeypatch.setattr(page_module.importlib.util, "find_spec", lambda name: None if name == "jinja2" else find(name))
    assert refused([str(run_dir)], capsys) == (
        "handoff: report.html needs jinja2: not installed; install the extra `report`: pip install "
        "'handoff_mpi[report]'\n"
    )


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    def pieces():
        yield b"begin"
        raise RuntimeError

    (tmp_path / "old").write_bytes(b"old")
    with pytest.raises(RuntimeError):
        verb.write(tmp_path / "old", pieces())
    assert [each.name for each in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


# -- in a browser ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find_browser()
    if program is None:
        missing("Chromium")
    with Browser(program, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def shown_in(browser, run_dir, dark=False):
    """Open the report of a run, and see that nothing goes wrong and nothing is asked for."""
    path = run_dir / "shown.html"
    path.write_bytes(make_page(read_story(run_dir)))
    browser.open(path, dark=dark)
    has_errors(browser, path)
    return path


def has_errors(browser, path):
    assert browser.problems == []
    assert [each for each in browser.requests if not each.startswith("data:")] == [path.as_uri()]


def tip(browser):
    return browser.evaluate("document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent")


def point_at(browser, row):
    """Point at the middle of a bar, and return what is shown beside it."""
    x, y = browser.evaluate(
        f"""(() => {{ const chart = document.getElementById("chart-calls");
        chart.scrollIntoView({{ block: "center", behavior: "instant" }});
        const full = chart._fullLayout, box = chart.getBoundingClientRect(), data = window.report;
        const middle = data.bars.start[{row}] + data.bars.duration[{row}] / 2;
        return [box.left + full.xaxis._offset + full.xaxis.c2p(middle / data.unit),
                box.top + full.yaxis._offset + full.yaxis.c2p((data.bars.track[{row}] + 0.5) / data.perBand)]; }})()"""
    )
    browser.move_mouse(x, y)
    return tip(browser)


def choose(browser, id, text):
    browser.evaluate(
        f"""(() => {{ const select = document.getElementById("{id}");
        select.value = [...select.options].find((option) => option.text.startsWith({json.dumps(text)})).value;
        select.dispatchEvent(new Event("change")); }})()"""
    )


def visible(browser, rows):
    return browser.evaluate(f"[...document.querySelectorAll({json.dumps(rows)})].filter((row) => !row.hidden).length")


def test_a_page_draws_itself_and_hostile_text_does_nothing(browser, small):
    path = shown_in(browser, small)
    charts = browser.evaluate(
        "[...document.querySelectorAll('.chart')].filter((each) => each.querySelector('svg')).length"
    )
    assert charts == 7
    assert browser.evaluate("document.title").startswith("</script>")
    assert SHOWN in browser.evaluate("document.querySelector('#failures').textContent")
    assert browser.evaluate("document.querySelectorAll('img').length") == 0
    names = browser.evaluate("[...document.getElementById('by-name').options].map((each) => each.text)")
    assert sorted(names) == sorted(["all", "fit", "load", SHOWN])
    story = read_story(small)
    hostile = int(np.flatnonzero(story.calls.task == 1)[0])
    assert point_at(browser, hostile).startswith(SHOWN)
    assert "failed in 1.000 s" in tip(browser)
    has_errors(browser, path)


@pytest.mark.long
def test_filters_by_rank_and_function(browser, small):
    shown_in(browser, small)
    all_rows = visible(browser, "#calls tbody tr")
    choose(browser, "by-name", "fit")
    assert visible(browser, "#calls tbody tr") == 4
    assert visible(browser, "details.failure") == 0
    assert browser.evaluate("document.getElementById('filtered').textContent") == "4 calls"
    choose(browser, "by-rank", "2")
    assert visible(browser, "#calls tbody tr") == 2
    assert browser.evaluate("document.getElementById('chart-calls')._fullLayout.yaxis.range") == [4, 2]
    browser.evaluate("document.getElementById('filters').reset()")
    browser.evaluate("new Promise((done) => setTimeout(done))")
    assert visible(browser, "#calls tbody tr") == all_rows
    assert visible(browser, "details.failure") == 1


def test_the_keyboard_goes_from_call_to_call(browser, small):
    shown_in(browser, small)
    browser.evaluate("document.getElementById('chart-calls').focus()")
    told = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        browser.press(key)
        told.append(browser.evaluate("document.getElementById('now').textContent").split("\n")[0])
    assert told[0] == "load"
    assert len(set(told)) == 3
    assert tip(browser)
    browser.press("Escape")
    assert not tip(browser)


@pytest.mark.long
def test_light_and_dark(browser, small):
    colour = "getComputedStyle(document.body).backgroundColor"
    shown_in(browser, small)
    light = browser.evaluate(colour)
    shown_in(browser, small, dark=True)
    dark = browser.evaluate(colour)
    assert light != dark
    browser.evaluate("document.getElementById('theme').click()")
    assert browser.evaluate(colour) == light
    assert browser.problems == []


@pytest.mark.long
def test_a_large_run_is_drawn_added_up(browser, large):
    path = shown_in(browser, large)
    assert browser.evaluate("document.querySelectorAll('#chart-calls image').length") == 1
    story = read_story(large)
    bars = choose_bars(story, time_line(story))
    longest = int(np.argmax(story.calls.duration[bars]))
    label = story.tasks.label(int(story.calls.task[bars[longest]]))
    assert point_at(browser, longest).startswith(label)
    x, y = browser.evaluate(
        """(() => { const chart = document.getElementById("chart-calls"), full = chart._fullLayout;
        const box = chart.getBoundingClientRect(), cells = window.report.cells;
        const bars = window.report.bars, per = window.report.perBand, unit = window.report.unit;
        for (const cell of cells.cell) {
          const band = Math.floor(cell / cells.bins), x = (cell % cells.bins + 0.5) * cells.width;
          const y = box.top + full.yaxis._offset + full.yaxis.c2p(band + 0.5);
          let free = y > 60 && y < innerHeight - 20;
          for (let i = 0; free && i < bars.start.length; i++) free = Math.floor(bars.track[i] / per) !== band ||
            bars.start[i] > x + 0.2 || bars.start[i] + bars.duration[i] < x - 0.2;
          if (free) return [box.left + full.xaxis._offset + full.xaxis.c2p(x / unit), y];
        } })()"""
    )
    browser.move_mouse(x, y)
    assert re.search(r"^rank \d+, .* from .*\nstage\d: \d+ % of the time, \d+ calls? began", tip(browser))
    choose(browser, "by-name", "stage2")
    has_errors(browser, path)
