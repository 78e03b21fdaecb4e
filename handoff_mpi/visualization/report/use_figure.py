"""The charts of use: how much of the cores, the memory and the GPUs calls had claimed, and what hosts measured."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from handoff_mpi.results.story import Floats, Story
from handoff_mpi.visualization.report.axis import TimeLine

_BINS = 600
#: Resources that always have a chart where they are known, and how many others have one.
_FIRST, _MAX_OTHERS = ("cpu", "memory", "gpu"), 4
_TITLES = {"cpu": "cores", "memory": "memory (MB)", "gpu": "GPUs"}


@dataclass(slots=True)
class Use:
    """The use of one resource.

    Attributes:
        title: its name and unit.
        claimed: the mean of what calls had claimed, in each stretch of time.
        capacity: what the ranks of each launch had, as (begin, end, amount).
        measured: host to (times, amounts), as samples tell; empty where there is none.
    """

    resource: str
    title: str
    claimed: Floats
    capacity: list[tuple[float, float, float]] = field(default_factory=list)
    measured: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)


def uses_of(story: Story, line: TimeLine) -> tuple[Floats, list[Use]]:
    """Return the edges of the stretches of time, and the use of each resource."""
    edges = np.linspace(0.0, line.length, _BINS + 1)
    offered = {name for launch in story.launches for name in launch.capacity}
    claimed = {name for cost in story.tasks.costs for name, amount in cost.items() if amount}
    others = sorted((offered | claimed) - {*_FIRST})[:_MAX_OTHERS]
    wanted = [name for name in (*_FIRST, *others) if name == "cpu" or name in claimed]
    return edges, [_use(story, line, edges, name) for name in wanted]


def _use(story: Story, line: TimeLine, edges: Floats, resource: str) -> Use:
    calls, tasks = story.calls, story.tasks
    amounts = np.array([_real(cost.get(resource, 0)) for cost in tasks.costs] or [0.0])
    weights = amounts[tasks.cost[calls.task]] if len(calls) else np.zeros(0)
    starts = line.of(calls.launch, calls.started)
    mean = mean_sum(edges, starts, starts + calls.duration, weights)
    spans = zip(line.begins, line.ends, story.launches, strict=True)
    capacity = [(begin, end, _real(launch.capacity.get(resource, 0))) for begin, end, launch in spans]
    return Use(resource, _TITLES.get(resource, resource), mean, [each for each in capacity if each[2]])


def _real(amount: object) -> float:
    return float(amount) if isinstance(amount, (int, float)) else 0.0


def mean_sum(edges: Floats, starts: Floats, stops: Floats, weights: Floats) -> Floats:
    """Return, for each stretch between ``edges``, the mean over time of the sum of the weights of intervals there."""
    area = _area_before(edges, starts, weights) - _area_before(edges, stops, weights)
    mean: Floats = np.maximum(np.diff(area) / np.maximum(np.diff(edges), 1e-12), 0.0)
    return mean


def _area_before(edges: Floats, times: Floats, weights: Floats) -> Floats:
    """Return, for each edge, what is below a sum that grows by a weight at each of ``times``."""
    order = np.argsort(times)
    times, weights = times[order], weights[order]
    total = np.concatenate(([0.0], np.cumsum(weights)))
    moments = np.concatenate(([0.0], np.cumsum(weights * times)))
    before = np.searchsorted(times, edges)
    area: Floats = edges * total[before] - moments[before]
    return area
