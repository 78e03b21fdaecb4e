"""A run in WfFormat 1.5, the JSON of WfCommons (https://github.com/wfcommons/WfFormat): for simulators and archives.

A function is a task, and its value a file that the functions which take it read. Names are kept as far as the format's
pattern for ids allows; each task's ``name`` is the function's id, and its program the name of its code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from typing import Any

import numpy as np

from handoff_mpi.formatting import one_line
from handoff_mpi.results.story import RUNNING, Story
from handoff_mpi.version import VERSION
from handoff_mpi.visualization.graph_source import GraphSource, source_of_story

SCHEMA_VERSION = "1.5"
#: What the format's pattern for ids lacks.
_NOT_OF_IDS = re.compile(r"[^0-9a-zA-Z_.-]+")
_MAX_NAME = 60
_MAX_AMOUNT = 1e12
_MAX_TIME_S = 253_402_300_799  # the end of the year 9999


def time_text(time_s: float) -> str:
    """Return a time in ISO 8601, in UTC."""
    return datetime.fromtimestamp(min(max(0.0, time_s), _MAX_TIME_S), timezone.utc).isoformat(timespec="milliseconds")


def file_name(text: str) -> str:
    """Return ``text`` with nothing but letters, digits and ``_.-``; empty if it holds none of them."""
    return _NOT_OF_IDS.sub("_", text)[:_MAX_NAME].strip("_")


def wfformat_pieces(story: Story, created_s: float) -> Iterator[bytes]:
    """Yield a run in WfFormat, piece by piece.

    Args:
        created_s: when it is written, in seconds since the epoch.
    """
    source = source_of_story(story)
    ids = [f"{file_name(story.tasks.name_of(task)) or 'task'}_ID{task:06}" for task in range(len(story.tasks))]
    head = {
        "name": source.title or "''",
        "description": f"Run {one_line(story.run_dir.name, 100)} of handoff_mpi, {source.status}",
        "createdAt": time_text(created_s),
        "schemaVersion": SCHEMA_VERSION,
        "runtimeSystem": {"name": "handoff_mpi", "version": story.launches[-1].version or VERSION},
    }
    yield _json(head)[:-1] + b',"workflow":{"specification":{"tasks":['
    yield from _joined(_tasks(story, ids))
    yield b'],"files":['
    yield from _joined(_files(story, ids))
    yield b"]}"
    if bool((_called(story) >= 0).any()):
        execution = {"makespanInSeconds": _makespan(story), "executedAt": time_text(story.started_s)}
        yield b',"execution":' + _json(execution)[:-1] + b',"tasks":['
        machines: dict[str, str] = {}
        yield from _joined(_calls(source, story, ids, machines))
        yield b'],"machines":['
        yield from _joined(_machines(story, machines))
        yield b"]}"
    yield b"}}\n"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _joined(rows: Iterable[dict[str, object]]) -> Iterator[bytes]:
    for number, row in enumerate(rows):
        yield (b",\n" if number else b"\n") + _json(row)


def _value(id: str) -> str:
    return f"{id}.value"


def _tasks(story: Story, ids: list[str]) -> Iterator[dict[str, object]]:
    tasks = story.tasks
    users = np.repeat(np.arange(len(tasks)), np.diff(tasks.starts))
    order = np.argsort(tasks.inputs, kind="stable")
    firsts = np.searchsorted(tasks.inputs[order], np.arange(len(tasks) + 1)).tolist()
    users = users[order]
    for task, id in enumerate(ids):
        parents = list(dict.fromkeys(tasks.inputs_of(task).tolist()))
        children = dict.fromkeys(users[firsts[task] : firsts[task + 1]].tolist())
        yield {
            "name": tasks.label(task) or "''",
            "id": id,
            "parents": [ids[each] for each in parents],
            "children": [ids[each] for each in children],
            "inputFiles": [_value(ids[each]) for each in parents],
            "outputFiles": [_value(id)],
        }


def _files(story: Story, ids: list[str]) -> Iterator[dict[str, object]]:
    final, nbytes = story.final_call.tolist(), story.calls.nbytes
    for id, row in zip(ids, final, strict=True):
        yield {"id": _value(id), "sizeInBytes": max(0, int(nbytes[row])) if row >= 0 else 0}


def _called(story: Story) -> Any:
    """Return the last call of each function, if it has ended; -1 for others."""
    final = story.final_call
    is_running = np.zeros(len(final), bool)
    is_running[final >= 0] = story.calls.outcome[final[final >= 0]] == RUNNING
    return np.where(is_running, -1, final)


def _makespan(story: Story) -> float:
    """Return how long the launches took together, in seconds: the gaps between them do not count."""
    return sum(max(0.0, each.stopped_s - each.started_s) for each in story.launches)


def _calls(source: GraphSource, story: Story, ids: list[str], machines: dict[str, str]) -> Iterator[dict[str, object]]:
    """Yield the last call of each function; put the machines where they ran into ``machines``, with their hosts."""
    tasks = story.tasks
    for task, row in enumerate(_called(story).tolist()):
        if row < 0:
            continue
        told: dict[str, object] = {"id": ids[task], "runtimeInSeconds": float(source.duration[task])}
        program = tasks.name_of(task)
        if program:
            told["command"] = {"program": program}
        cores = tasks.costs[tasks.cost[task]].get("cpu", 0)
        if cores >= 1:
            told["coreCount"] = cores
        host = source.host(task)
        machine = file_name(host) or "unknown"
        machines.setdefault(machine, host)
        yield {**told, "machines": [machine]}


def _machines(story: Story, machines: dict[str, str]) -> Iterator[dict[str, object]]:
    rows = story.status.get("hosts")
    for name, host in machines.items():
        row = rows.get(host) if isinstance(rows, dict) else None
        yield {"nodeName": name, "system": "linux", **_size(row if isinstance(row, dict) else {})}


def _size(row: dict[str, object]) -> dict[str, object]:
    """Return what ``status.json`` tells of a host's size."""
    size: dict[str, object] = {}
    cores, memory_mb = _number(row.get("cores")), _number(row.get("memory_mb"))
    if cores >= 1:
        size["cpu"] = {"coreCount": int(cores)}
    if memory_mb >= 1:
        size["memoryInBytes"] = int(memory_mb * 10**6)
    return size


def _number(value: Any) -> float:
    return float(value) if type(value) in (int, float) and 0 <= value < _MAX_AMOUNT else 0.0
