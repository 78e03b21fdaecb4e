"""Puts a run's charts and tables into one HTML file that needs no network: plotly.js is in it."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import time
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handoff_mpi.errors import UsageError
from handoff_mpi.formatting import duration_text, one_line, show
from handoff_mpi.results.story import OUTCOMES, Story
from handoff_mpi.version import VERSION
from handoff_mpi.visualization.report import calls_figure, dag_figure, failure_table, name_table, tables, use_figure
from handoff_mpi.visualization.report.axis import TimeLine, time_line, tracks_of
from handoff_mpi.visualization.report.output import add_output

_ROOM = "handoff_mpi.visualization.report"
#: What the browser may do for this page: run its own two scripts, and nothing else; no request leaves it.
_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data: blob:; style-src 'unsafe-inline'"
#: As arrays of JavaScript.
_ARRAYS = {"u1": "Uint8", "u2": "Uint16", "u4": "Uint32", "i4": "Int32", "f4": "Float32", "f8": "Float64"}


def missing_libraries() -> list[str]:
    """Return which of the libraries that make the page are not installed."""
    return [name for name in ("jinja2", "plotly") if importlib.util.find_spec(name) is None]


def refuse_without_libraries() -> None:
    """Refuse to make a page without the libraries it takes.

    Raises:
        UsageError: one is not installed.
    """
    missing = missing_libraries()
    if missing:
        what = f"report.html needs {' and '.join(missing)}"
        raise UsageError(f"{what}: not installed; install the extra `report`: pip install 'handoff_mpi[report]'")


def make_page(story: Story) -> bytes:
    """Return the page of a run, in UTF-8.

    Raises:
        UsageError: a library that it takes is not installed.
    """
    refuse_without_libraries()
    import jinja2

    line = time_line(story)
    data = _escaped_json(_data_of(story, line))
    scripts = [_plotly(), _text("report.js")]
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(duration=duration_text, seconds=_seconds, size=_size, count=_count)
    template = environment.from_string(_text("report.html.jinja"))
    page = template.render(
        **_words_of(story, line),
        policy=f"{_POLICY}; script-src {hashes}",
        style=_text("report.css"),
        plotly=scripts[0],
        script=scripts[1],
        data=data,
    )
    return page.encode("utf-8", "backslashreplace")


def _plotly() -> str:
    """Return plotly.js, as the package plotly brings it."""
    spec = importlib.util.find_spec("plotly")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_text("utf-8")


def _text(name: str) -> str:
    return resources.files(_ROOM).joinpath(name).read_text("utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _escaped_json(data: object) -> str:
    """Return JSON that may stand in a script element of HTML: nothing in it ends the element, or begins a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))  # ASCII: lone surrogates are escaped
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# -- the data of the charts ----------------------------------------------------------------------------


def packed(values: NDArray[Any]) -> dict[str, str]:
    """Return a column as the page unpacks it: the type of its array, and base64 of its bytes."""
    values = np.ascontiguousarray(values)
    return {"t": _ARRAYS[values.dtype.str[1:]], "b": base64.b64encode(values.tobytes()).decode()}


def _packed(columns: dict[str, object]) -> dict[str, object]:
    return {name: packed(each) if isinstance(each, np.ndarray) else each for name, each in columns.items()}


def _data_of(story: Story, line: TimeLine) -> dict[str, object]:
    tracks, names = tracks_of(story), calls_figure.names_of(story)
    bars = calls_figure.choose_bars(story, line)
    cells = calls_figure.cells_of(story, line, tracks, names, bars)
    rows = name_table.name_rows(story)[: calls_figure.MAX_NAMES + 2]
    return {
        "names": names.shown,
        "bar": _bar_words(story),
        "outcomes": OUTCOMES,
        "failures": [one_line(f"{each.kind}: {each.message}", 160) for each in story.failures[:2000]],
        "line": {
            "length": line.length,
            "begins": line.begins,
            "ends": line.ends,
            "offsets": line.offsets.tolist(),
            "cuts": line.cuts,
            "gaps": [duration_text(gap) for gap in line.gaps_s],
            "epochs": [launch.epoch for launch in story.launches],
        },
        "tracks": {
            "ranks": tracks.ranks,
            "first": [tracks.first[rank] for rank in tracks.ranks],
            "slots": [tracks.slots[rank] for rank in tracks.ranks],
            "hosts": [_host_of(story, rank) for rank in tracks.ranks],
            "count": tracks.count,
            "perBand": tracks.per_band,
        },
        "bars": _packed(calls_figure.bars_of(story, line, tracks, names, bars)),
        "cells": None
        if cells is None
        else _packed({each: getattr(cells, each) for each in ("bins", "width", "cell", "name", "busy", "count")}),
        "lost": [
            {"rank": row.rank, "x": line.begins[_number_of(story, row.launch)] + row.at, "reason": row.reason}
            for row in tables.loss_rows(story)
            if row.what == "lost" and row.at is not None
        ],
        "use": _use_of(story, line),
        "functions": [{"name": row.name, "total": row.total_s, "waited": row.waited} for row in rows],
        "causes": {cause: title for cause, (title, _) in tables.CAUSES.items()},
        "dag": _dag_of(story),
    }


def _bar_words(story: Story) -> tuple[str, str]:
    """Return what a bar of the chart of calls is, and what several are."""
    return ("call or lease", "calls and leases") if (story.calls.elements > 0).any() else ("call", "calls")


def _number_of(story: Story, epoch: int) -> int:
    return next(number for number, launch in enumerate(story.launches) if launch.epoch == epoch)


def _host_of(story: Story, rank: int) -> str:
    hosts = dict.fromkeys(one_line(launch.hosts[rank], 60) for launch in story.launches if rank in launch.hosts)
    return ", then ".join(hosts)


def _use_of(story: Story, line: TimeLine) -> dict[str, object]:
    edges, uses = use_figure.uses_of(story, line)
    return {
        "edges": packed(edges.astype(np.float64)),
        "of": [
            {
                "resource": one_line(each.resource, 60),
                "title": one_line(each.title, 60),
                "claimed": packed(each.claimed.astype(np.float32)),
                "capacity": each.capacity,
                "measured": {one_line(host, 60): samples for host, samples in each.measured.items()},
            }
            for each in uses
        ],
    }


def _dag_of(story: Story) -> dict[str, object]:
    graph = dag_figure.graph_of(story)
    return {
        "grouped": graph.is_grouped,
        "nodes": [
            {
                "label": one_line(node.label, 60),
                "detail": one_line(node.detail, 300),
                "state": node.state,
                "count": node.count,
                "x": node.x,
                "y": round(node.y, 4),
                "critical": node.is_critical,
            }
            for node in graph.nodes
        ],
        "edges": [[a, b, count, is_critical] for (a, b), (count, is_critical) in graph.edges.items()],
    }


# -- the words and tables ------------------------------------------------------------------------------


def _words_of(story: Story, line: TimeLine) -> dict[str, object]:
    newest = story.launches[-1]
    name_rows = name_table.name_rows(story)
    failures = failure_table.failure_rows(story)[: failure_table.MAX_FAILURES]
    add_output(story, failures)
    graph = dag_figure.graph_of(story)
    dag_id = story.dag_id
    return {
        "dag_id": one_line(dag_id, 120) if isinstance(dag_id, str) else show(dag_id),
        "run_dir": one_line(str(story.run_dir)),
        "version": VERSION,
        "made": time.strftime("%Y-%m-%d %H:%M:%S"),
        "newest": newest,
        "verdict": newest.verdict,
        "stopped_because": one_line(str(story.status.get("stopped_because") or ""), 300),
        "counts": tables.state_counts(story),
        "totals": tables.totals(story),
        "began": tables.date_text(story.started_s),
        "ended": tables.date_text(story.stopped_s),
        "launches": tables.launch_rows(story, line.gaps_s),
        "gap_s": sum(line.gaps_s),
        "names": name_rows[: tables.MAX_ROWS],
        "more_names": max(0, len(name_rows) - tables.MAX_ROWS),
        "waits": _waits_of(name_rows),
        "has_sent": story.waits.has_sent,
        "slowest": tables.slowest_calls(story),
        "failures": failures,
        "losses": tables.loss_rows(story),
        "probation": {
            f"launch {launch.epoch}, {one_line(place, 80)}": one_line(reason, 300)
            for launch in story.launches
            for place, reason in launch.probation.items()
        },
        "transfers": tables.transfers_of(story),
        "path": tables.path_rows(story),
        "graph": graph,
        "ranks": _rank_choices(story),
        "notes": story.notes[:50],
        "is_aggregated": len(story.calls) > calls_figure.MAX_BARS,
        "bar_words": _bar_words(story)[1],
        "bars": len(calls_figure.choose_bars(story, line)),
    }


def _waits_of(rows: list[name_table.NameRow]) -> list[tuple[str, str, float]]:
    """Return (cause, what it means, seconds of all calls), of the causes of which there is any."""
    waits = [(*tables.CAUSES[cause], sum(row.waited[cause] for row in rows)) for cause in tables.CAUSES]
    return [each for each in waits if each[2] > 0]


def _rank_choices(story: Story) -> list[tuple[int, str]]:
    tracks = tracks_of(story)
    return [(rank, _host_of(story, rank)) for rank in tracks.ranks]


# -- filters of the template ---------------------------------------------------------------------------


def _seconds(seconds: float) -> str:
    """Return a duration as a number with three digits and a unit that fits."""
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.3g} µs"
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s" if seconds < 99.95 else _long(seconds)


def _long(seconds: float) -> str:
    return f"{seconds:,.0f} s"


def _size(nbytes: int) -> str:
    """Return a size with a decimal unit."""
    amount = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.3g} TB"


def _count(number: float) -> str:
    return f"{number:,}"
