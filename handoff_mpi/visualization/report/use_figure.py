"""The charts of use: how much of the cores, the memory and the GPUs calls had claimed, and what hosts measured."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from handoff_mpi.results.story import Floats, Story
from handoff_mpi.results.usage_samples import HostSamples, read_usage
from handoff_mpi.visualization.report.axis import TimeLine

_BINS = 600
#: Resources that always have a chart where they are known, and how many others have one.
_FIRST, _MAX_OTHERS = ("cpu", "memory", "gpu"), 4
#: Hosts whose samples are drawn.
_MAX_HOSTS = 20
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
    samples = read_usage(story.run_dir)
    wanted = [name for name in (*_FIRST, *others) if name == "cpu" or name in claimed or _is_measured(name, samples)]
    return edges, [_use(story, line, edges, name, samples) for name in wanted]


def _use(
    story: Story, line: TimeLine, edges: Floats, resource: str, samples: dict[tuple[int, str], HostSamples]
) -> Use:
    calls, tasks = story.calls, story.tasks
    amounts = np.array([_real(cost.get(resource, 0)) for cost in tasks.costs] or [0.0])
    weights = amounts[tasks.cost[calls.task]] if len(calls) else np.zeros(0)
    starts = line.of(calls.launch, calls.started)
    mean = mean_sum(edges, starts, starts + calls.duration, weights)
    spans = zip(line.begins, line.ends, story.launches, strict=True)
    capacity = [(begin, end, _real(launch.capacity.get(resource, 0))) for begin, end, launch in spans]
    offered = [each for each in capacity if each[2]]
    return Use(resource, _TITLES.get(resource, resource), mean, offered, _measured(story, line, resource, samples))


def _is_measured(resource: str, samples: dict[tuple[int, str], HostSamples]) -> bool:
    if resource not in _FIRST:
        return False
    return any(amount > 0 for each in samples.values() for amount in getattr(each, resource))


def _measured(
    story: Story, line: TimeLine, resource: str, samples: dict[tuple[int, str], HostSamples]
) -> dict[str, tuple[list[float], list[float]]]:
    """Return host to times and amounts, of the hosts that have measured the resource."""
    measured: dict[str, tuple[list[float], list[float]]] = {}
    if resource not in _FIRST:
        return measured
    for number, launch in enumerate(story.launches):
        for (epoch, host), of_host in samples.items():
            pairs = zip(of_host.times_s, getattr(of_host, resource), strict=True)
            known = [(time_s - float(line.offsets[number]), amount) for time_s, amount in pairs if amount == amount]
            known = [each for each in known if 0.0 <= each[0] <= line.length]
            if epoch == launch.epoch and known and len(measured) < _MAX_HOSTS:
                times, amounts = measured.setdefault(host, ([], []))
                times += [each[0] for each in known]
                amounts += [each[1] for each in known]
    return measured


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
