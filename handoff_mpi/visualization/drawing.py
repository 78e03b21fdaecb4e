"""A drawing of a graph before it has a language: boxes, arrows and what is written on them.

A small graph is drawn function by function. A large one is drawn name by name: a box stands for all functions of one
name, and an arrow says how many values go that way. So the size of a drawing, and the time that a program takes to lay
it out, are bounded for every graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handoff_mpi.formatting import duration_text
from handoff_mpi.results.story import FAILED_STATE, RUNNING_STATE, STATES, Ints, Tasks, levels_of
from handoff_mpi.visualization.graph_source import GraphSource
from handoff_mpi.visualization.palette import RANK_COLOURS, rank_colour

#: A graph with more functions, or more values that go from one to another, is drawn by the names of functions.
MAX_FUNCTIONS, MAX_EDGES = 200, 1000
#: So many names are drawn, the most frequent ones; the others share a box.
MAX_NAMES = 60
#: So many arrows between names are drawn, those of the most values.
MAX_NAME_ARROWS = 250
#: A box of functions that ran on more ranks has no colours.
_MAX_STRIPES = 8
#: Ranks that share a colour, and are named in the legend.
_MAX_NAMED = 4
_MAX_LABEL = 60
#: Of the states of the functions in one box, the one that the box is marked by.
_MARKS = (FAILED_STATE, RUNNING_STATE)


@dataclass(slots=True)
class Box:
    """A function, or all functions of one name.

    Attributes:
        label: the id, or the name.
        name: the name of the function's code; empty where the label is that.
        state: what the box is marked by; empty if there was no run.
        state_text: the same in words: "done", or "12 done, 3 failed".
        place: the rank, or how many.
        time_text: how long calls took.
        error: why the function failed.
        stripes: (number of the colour, its share of the box).
        count: how many functions it stands for.
        layers: the lowest and the highest layer of those: the length of the longest way to them.
    """

    label: str
    name: str
    state: str
    state_text: str = ""
    place: str = ""
    time_text: str = ""
    error: str = ""
    stripes: list[tuple[int, float]] = field(default_factory=list)
    count: int = 1
    layers: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class Drawing:
    """The parts of a drawing.

    Attributes:
        title: the id of the DAG.
        summary: the graph in one line.
        has_run: whether it is that of a run.
        is_grouped: whether boxes stand for names.
        boxes: sorted by layer.
        arrows: (box, box) to how many values go that way.
        legend: (number of the colour, the ranks that have it).
    """

    title: str
    summary: str
    has_run: bool
    is_grouped: bool
    boxes: list[Box] = field(default_factory=list)
    arrows: dict[tuple[int, int], int] = field(default_factory=dict)
    legend: list[tuple[int, str]] = field(default_factory=list)


def drawing_of(source: GraphSource, max_functions: int = MAX_FUNCTIONS) -> Drawing:
    """Return the drawing of a graph.

    Args:
        max_functions: a graph with more of them is drawn by names; so is one with more than five times as many arrows.
    """
    tasks = source.tasks
    levels = levels_of(tasks)
    is_grouped = len(tasks) > max_functions or len(tasks.inputs) > max_functions * MAX_EDGES // MAX_FUNCTIONS
    drawing = Drawing(source.title, _summary(source, levels), source.story is not None, is_grouped)
    if len(tasks):
        (_draw_names if is_grouped else _draw_functions)(drawing, source, levels)
        if any(box.stripes for box in drawing.boxes):
            drawing.legend = _legend(source)
    return drawing


def _summary(source: GraphSource, levels: Ints) -> str:
    tasks = source.tasks
    layers = int(levels.max(initial=-1)) + 1
    told = [
        f"{len(tasks):,} function{'s' * (len(tasks) != 1)}",
        f"{len(tasks.inputs):,} value{'s' * (len(tasks.inputs) != 1)} passed on",
        f"{layers:,} layer{'s' * (layers != 1)}",
    ]
    if source.story is None:
        return ", ".join(told)
    states = _states(tasks.state) or "nothing to do"
    return f"{', '.join(told)}; {source.status}: {states}{_elements(source, range(len(tasks)))}"


def _elements(source: GraphSource, tasks: ArrayLike) -> str:
    """Return how many elements of the arrays among ``tasks`` are done, in words that follow their states."""
    count, done = source.elements(tasks)
    return f", {done:,} of {count:,} element{'s' * (count != 1)} done" if count else ""


def _states(states: NDArray[np.int8]) -> str:
    counts = np.bincount(states, minlength=len(STATES)).tolist()
    return ", ".join(f"{count:,} {STATES[state]}" for state, count in enumerate(counts) if count)


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_LABEL else f"{text[: _MAX_LABEL - 3]}..."


def _took(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if 0 < seconds < 0.95 else duration_text(seconds)


# -- function by function --------------------------------------------------------------------------------


def _draw_functions(drawing: Drawing, source: GraphSource, levels: Ints) -> None:
    tasks = source.tasks
    order = np.argsort(levels, kind="stable").tolist()
    place_of = {task: place for place, task in enumerate(order)}
    drawing.boxes = [_function_box(source, task, int(levels[task])) for task in order]
    for task in order:
        for each in dict.fromkeys(tasks.inputs_of(task).tolist()):
            drawing.arrows[place_of[each], place_of[task]] = 1


def _function_box(source: GraphSource, task: int, level: int) -> Box:
    label, name = _shortened(source.tasks.label(task)), _shortened(source.tasks.name_of(task))
    state, rank = source.state(task), int(source.rank[task])
    box = Box(label, "" if name == label else name, state, state, layers=(level, level))
    box.state_text += _elements(source, [task])
    if task in source.leases:
        _show_ranks(box, source, [task])
        if rank >= 0:
            box.place = _place(source, task)
    elif rank >= 0:
        box.place = _place(source, task)
        box.stripes = [(rank_colour(rank), 1.0)]
        took = _took(float(source.duration[task]))
        again = f", {int(source.attempts[task])} calls" if source.attempts[task] > 1 else ""
        box.time_text = took + again
    box.error = source.error(task)
    return box


def _place(source: GraphSource, task: int) -> str:
    rank, host = int(source.rank[task]), source.host(task)
    return f"rank {rank} on {host}" if host else f"rank {rank}"


def _show_ranks(box: Box, source: GraphSource, tasks: ArrayLike) -> None:
    """Write into a box on how many ranks its functions or leases ran, and how long; colour it by them."""
    ranks = source.ranks(tasks)
    if ranks:
        box.place = f"on rank {min(ranks)}" if len(ranks) == 1 else f"on {len(ranks):,} ranks"
        box.time_text = f"{_took(float(source.busy[np.asarray(tasks, np.int64)].sum()))} in calls"
    if 0 < len(ranks) <= _MAX_STRIPES:
        share: Counter[int] = Counter()
        for rank, count in ranks.items():
            share[rank_colour(rank)] += count
        box.stripes = [(colour, share[colour] / ranks.total()) for colour in sorted(share)]


# -- name by name ----------------------------------------------------------------------------------------


def _draw_names(drawing: Drawing, source: GraphSource, levels: Ints) -> None:
    tasks = source.tasks
    group, labels = _groups(tasks)
    depth = np.bincount(group, levels, len(labels)) / np.bincount(group, minlength=len(labels))
    order = np.argsort(depth, kind="stable")
    place = np.empty(len(labels), np.int64)
    place[order] = np.arange(len(labels))
    group = place[group]
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    drawing.boxes = [
        _name_box(source, labels[number], rows, levels[rows])
        for number, rows in zip(order.tolist(), members, strict=True)
    ]
    users = np.repeat(group, np.diff(tasks.starts))
    pairs, counts = np.unique(group[tasks.inputs] * len(labels) + users, return_counts=True)
    if len(pairs) > MAX_NAME_ARROWS:
        drawing.summary += f" ({len(pairs) - MAX_NAME_ARROWS:,} of {len(pairs):,} arrows between names are not drawn)"
    for each in np.sort(np.argsort(-counts, kind="stable")[:MAX_NAME_ARROWS]).tolist():
        drawing.arrows[divmod(int(pairs[each]), len(labels))] = int(counts[each])


def _groups(tasks: Tasks) -> tuple[NDArray[np.int64], list[str]]:
    """Return the group of each function, and the labels of the groups."""
    count = np.bincount(tasks.name, minlength=len(tasks.names))
    used = np.flatnonzero(count)
    if len(used) <= MAX_NAMES:
        shown, labels = used, []
    else:
        shown = used[np.argsort(-count[used], kind="stable")[: MAX_NAMES - 1]]
        labels = [f"({len(used) - len(shown):,} other names)"]
    number = np.full(len(tasks.names), len(shown), np.int64)
    number[shown] = np.arange(len(shown))
    return number[tasks.name], [_shortened(tasks.names[each]) or "(no name)" for each in shown.tolist()] + labels


def _name_box(source: GraphSource, label: str, rows: NDArray[np.int64], levels: Ints) -> Box:
    states = source.tasks.state[rows]
    box = Box(label, "", "", count=len(rows), layers=(int(levels.min()), int(levels.max())))
    if source.story is None:
        return box
    mark = next((state for state in _MARKS if (states == state).any()), int(np.bincount(states).argmax()))
    box.state, box.state_text = STATES[mark], _states(states)
    box.state_text += _elements(source, rows)
    _show_ranks(box, source, rows)
    return box


def _legend(source: GraphSource) -> list[tuple[int, str]]:
    """Return which ranks have which colour."""
    ranks: list[list[int]] = [[] for _ in RANK_COLOURS]
    for rank in sorted(source.ranks(range(len(source.tasks)))):
        ranks[rank_colour(rank)].append(rank)
    return [(colour, _named(source, each)) for colour, each in enumerate(ranks) if each]


def _named(source: GraphSource, ranks: list[int]) -> str:
    if len(ranks) == 1:
        hosts = _hosts(source, ranks[0])
        return f"rank {ranks[0]} on {', then '.join(hosts)}" if hosts else f"rank {ranks[0]}"
    more = f" and {len(ranks) - _MAX_NAMED:,} more" if len(ranks) > _MAX_NAMED else ""
    return f"ranks {', '.join(map(str, ranks[:_MAX_NAMED]))}{more}"


def _hosts(source: GraphSource, rank: int) -> Iterable[str]:
    launches = [] if source.story is None else source.story.launches
    return [_shortened(host) for host in dict.fromkeys(each.hosts.get(rank, "") for each in launches) if host][:2]
