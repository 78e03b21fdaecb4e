"""The drawing of the DAG: each function of a small one, and the names of functions of a large one, in layers."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from handoff_mpi.results.story import FAILED_STATE, STATES, Floats, Story, levels_of

#: A DAG with more functions is drawn by the names of functions; so many names are drawn, at most.
MAX_NODES, MAX_GROUPS = 200, 60
_SWEEPS = 4


@dataclass(slots=True)
class Node:
    """A function, or all functions with one name."""

    label: str
    detail: str
    state: str
    count: int = 1
    layer: int = 0
    is_critical: bool = False
    x: float = 0.0
    y: float = 0.0


@dataclass(slots=True)
class Graph:
    """The parts of the figure.

    Attributes:
        nodes: by number.
        edges: (source, target) to (how many values, whether the critical path goes there).
        is_grouped: whether a node stands for all functions with one name.
        left_out: how many names are not drawn.
    """

    nodes: list[Node] = field(default_factory=list)
    edges: dict[tuple[int, int], tuple[int, bool]] = field(default_factory=dict)
    is_grouped: bool = False
    left_out: int = 0


def graph_of(story: Story) -> Graph:
    """Return the DAG as it is drawn."""
    if not len(story.tasks):
        return Graph()
    graph = _of_tasks(story) if len(story.tasks) <= MAX_NODES else _of_names(story)
    _place(graph)
    return graph


def _of_tasks(story: Story) -> Graph:
    tasks = story.tasks
    critical = story.critical_path
    levels = levels_of(tasks)
    graph = Graph()
    for task in range(len(tasks)):
        state = STATES[tasks.state[task]]
        detail = f"{tasks.name_of(task)}: {state}{_took(story, task)}"
        graph.nodes.append(Node(tasks.label(task), detail, state, 1, int(levels[task]), task in critical))
    on_path = set(pairwise(critical))
    for task in range(len(tasks)):
        for source in dict.fromkeys(tasks.inputs_of(task).tolist()):
            graph.edges[source, task] = (1, (source, task) in on_path)
    return graph


def _took(story: Story, task: int) -> str:
    """Return how long the last call took; of an array how many elements are done, and how long one took at the most."""
    if story.final_call[task] < 0:
        return ""
    took = f"{story.path_durations[task]:.3g} s"
    if task not in story.elements:
        return f", {took}"
    count, done = story.elements[task]
    return f", {done:,} of {count:,} elements done, {took} each in the slowest lease"


def _of_names(story: Story) -> Graph:
    tasks = story.tasks
    kinds = len(tasks.names)
    count = np.bincount(tasks.name, minlength=kinds)
    shown = np.argsort(-count, kind="stable")[:MAX_GROUPS]
    place = np.full(kinds, -1)
    place[shown] = np.arange(len(shown))
    depth = np.bincount(tasks.name, levels_of(tasks), kinds) / np.maximum(count, 1)
    failed = np.bincount(tasks.name[tasks.state == FAILED_STATE], minlength=kinds)
    busy = np.bincount(tasks.name[story.calls.task], story.calls.duration, kinds)
    states = np.zeros((kinds, len(STATES)), np.int64)
    np.add.at(states, (tasks.name, tasks.state), 1)
    critical = Counter(tasks.name[story.critical_path].tolist())
    graph = Graph(is_grouped=True, left_out=kinds - len(shown))
    for kind in shown.tolist():
        told = ", ".join(f"{number:,} {STATES[state]}" for state, number in enumerate(states[kind]) if number)
        state = "failed" if failed[kind] else STATES[int(states[kind].argmax())]
        detail = f"{told}; {busy[kind]:,.3g} s in calls"
        graph.nodes.append(Node(tasks.names[kind], detail, state, int(count[kind]), is_critical=kind in critical))
    _set_layers(graph, depth[shown])
    graph.edges = _edges_of_names(story, place)
    return graph


def _set_layers(graph: Graph, depth: Floats) -> None:
    """Names whose functions lie about equally deep share a layer."""
    layer, last = -1, -1.0
    for number in np.argsort(depth, kind="stable").tolist():
        if depth[number] - last >= 0.5 or layer < 0:
            layer, last = layer + 1, float(depth[number])
        graph.nodes[number].layer = layer


def _edges_of_names(story: Story, place: NDArray[np.int64]) -> dict[tuple[int, int], tuple[int, bool]]:
    tasks = story.tasks
    of_task = place[tasks.name]
    users = np.repeat(of_task, np.diff(tasks.starts))
    sources = of_task[tasks.inputs]
    is_shown = (users >= 0) & (sources >= 0)
    pairs, counts = np.unique(sources[is_shown] * len(place) + users[is_shown], return_counts=True)
    path = story.critical_path
    critical = {(int(of_task[a]), int(of_task[b])) for a, b in pairwise(path)}
    return {
        (pair // len(place), pair % len(place)): (number, (pair // len(place), pair % len(place)) in critical)
        for pair, number in zip(pairs.tolist(), counts.tolist(), strict=True)
    }


def _place(graph: Graph) -> None:
    """Place the nodes: layers from left to right, in each the nodes near those they are joined to."""
    layers: dict[int, list[int]] = defaultdict(list)
    for number, node in enumerate(graph.nodes):
        layers[node.layer].append(number)
    near: dict[int, list[int]] = defaultdict(list)
    for source, target in graph.edges:
        near[source].append(target)
        near[target].append(source)
    order = sorted(layers)
    for _ in range(_SWEEPS):
        for layer in order:
            members = layers[layer]
            members.sort(key=lambda number: _middle(graph, near[number], graph.nodes[number].y))
            _spread(graph, members)
    for layer in order:
        for number in layers[layer]:
            graph.nodes[number].x = float(layer)


def _spread(graph: Graph, members: list[int]) -> None:
    for index, number in enumerate(members):
        graph.nodes[number].y = (index + 1) / (len(members) + 1)


def _middle(graph: Graph, numbers: list[int], own: float) -> float:
    ys = [graph.nodes[number].y for number in numbers]
    return sum(ys) / len(ys) if ys else own
