"""How a run is doing as Prometheus metrics, in the text format that node_exporter's textfile collector reads.

They are made of the fields of ``status.json``. All have the label ``run``, so that files of several runs may lie in one
directory; labels that users choose (names of functions, hosts) are bounded in number, as the fields are.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from handoff_mpi.errors import UsageError
from handoff_mpi.formatting import id_text, one_line
from handoff_mpi.version import VERSION

#: What a run may be; exactly one of them is 1.
STATUSES = ("running", "done", "failed", "stopped", "broken")
STATES = ("waiting", "ready", "running", "done", "failed", "skipped")
_MB = 1e6
_MAX_LABEL = 200

#: Metric to what it tells; those with _total are counters.
RUN_METRICS = {
    "handoff_run_info": "What the run is; always 1.",
    "handoff_run_status": "1 for the status that the run has, 0 for the others.",
    "handoff_run_start_time_seconds": "When this launch of the run began, in seconds since the epoch.",
    "handoff_run_update_time_seconds": "When these metrics were taken, in seconds since the epoch.",
    "handoff_run_functions": "How many functions the run has.",
    "handoff_run_functions_in_state": "How many functions are in which state.",
    "handoff_run_functions_per_second": "Functions that ended a second in the last half minute, while it is running.",
    "handoff_run_eta_seconds": "Seconds that are left, as far as that is known.",
    "handoff_run_retries_total": "Calls that were made again after an exception or a time-out.",
    "handoff_run_lost_ranks": "Ranks that are lost.",
}
NAME_METRICS = {
    "handoff_name_functions": "How many functions have this name.",
    "handoff_name_functions_in_state": "How many functions of this name are running, done, failed or skipped.",
    "handoff_name_busy_seconds_total": "Seconds that calls of this name took in this launch.",
    "handoff_name_mean_seconds": "Mean duration of a call of this name in this launch.",
}
HOST_METRICS = {
    "handoff_host_ranks": "Ranks on this host that are not lost.",
    "handoff_host_slots": "How many functions this host can run at once.",
    "handoff_host_busy_slots": "How many of its slots are busy.",
    "handoff_host_cores": "Cores that its ranks offer.",
    "handoff_host_memory_bytes": "Memory that its ranks offer.",
    "handoff_host_gpus": "GPUs that its ranks offer.",
    "handoff_host_claimed_gpus": "GPUs that calls have claimed.",
    "handoff_host_cpu_ratio": "Part of all its cores that is in use, by any process, if it was measured.",
    "handoff_host_used_memory_bytes": "Memory in use on it, by any process, if it was measured.",
    "handoff_host_gpu_ratio": "Part of its GPUs that is in use, if it was measured.",
}
_OF_HOST = {
    "handoff_host_ranks": ("ranks", 1.0),
    "handoff_host_slots": ("slots", 1.0),
    "handoff_host_busy_slots": ("busy", 1.0),
    "handoff_host_cores": ("cores", 1.0),
    "handoff_host_memory_bytes": ("memory_mb", _MB),
    "handoff_host_gpus": ("gpus", 1.0),
    "handoff_host_claimed_gpus": ("gpus_claimed", 1.0),
    "handoff_host_cpu_ratio": ("cpu_percent", 0.01),
    "handoff_host_used_memory_bytes": ("memory_used_mb", _MB),
    "handoff_host_gpu_ratio": ("gpu_percent", 0.01),
}


def refuse_without_library() -> None:
    """Refuse to make metrics without the library that it takes.

    Raises:
        UsageError: it is not installed.
    """
    if importlib.util.find_spec("prometheus_client") is None:
        what = "--metrics-file needs prometheus_client: not installed"
        raise UsageError(f"{what}; install the extra `metrics`: pip install 'handoff_mpi[metrics]'")


def metrics_text(run: str, status: Mapping[str, object]) -> bytes:
    """Return the metrics of a run.

    Args:
        run: the value of the label ``run``.
        status: the fields of ``status.json``; of a run that has ended, those of its verdict.
    """
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(_label(run), status))
    return generate_latest(registry)


def _label(text: object) -> str:
    return one_line(str(text), _MAX_LABEL)


class _Collector:
    """Gives the metrics of one run to prometheus_client."""

    def __init__(self, run: str, status: Mapping[str, Any]) -> None:
        self._run = run
        self._status = status

    def collect(self) -> Iterator[Any]:
        yield from self._of_run()
        yield from self._of_names(self._status.get("by_name", {}))
        yield from self._of_hosts(self._status.get("hosts", {}))

    def _of_run(self) -> Iterator[object]:
        status = self._status
        about = {name: _label(status.get(name, "")) for name in ("launch", "host", "directory")}
        about |= {"dag": _label(id_text(status.get("dag_id"))), "version": VERSION}
        yield self._metric("handoff_run_info", tuple(about), [(tuple(about.values()), 1.0)])
        is_status = [((each,), float(status.get("status") == each)) for each in STATUSES]
        yield self._metric("handoff_run_status", ("status",), is_status)
        counts = status.get("counts", {})
        simple = {
            "handoff_run_start_time_seconds": status.get("started_s"),
            "handoff_run_update_time_seconds": status.get("time_s"),
            "handoff_run_functions": status.get("functions"),
            "handoff_run_functions_per_second": status.get("rate_per_s"),
            "handoff_run_eta_seconds": status.get("eta_s"),
            "handoff_run_retries_total": counts.get("retries"),
            "handoff_run_lost_ranks": len(status.get("lost_ranks", ())),
        }
        for metric, value in simple.items():
            if value is not None:
                yield self._metric(metric, (), [((), value)])
        states = [((state,), counts[state]) for state in STATES if state in counts]
        yield self._metric("handoff_run_functions_in_state", ("state",), states)

    def _of_names(self, rows: Mapping[str, Mapping[str, Any]]) -> Iterator[object]:
        yield self._column("handoff_name_functions", "name", rows, "total", 1.0)
        by_state = [
            ((_label(name), state), row[state])
            for name, row in rows.items()
            for state in ("running", "done", "failed", "skipped")
            if row.get(state) is not None
        ]
        yield self._metric("handoff_name_functions_in_state", ("name", "state"), by_state)
        yield self._column("handoff_name_busy_seconds_total", "name", rows, "busy_s", 1.0)
        yield self._column("handoff_name_mean_seconds", "name", rows, "mean_s", 1.0)

    def _of_hosts(self, rows: Mapping[str, Mapping[str, object]]) -> Iterator[object]:
        for metric, (field, factor) in _OF_HOST.items():
            yield self._column(metric, "host", rows, field, factor)

    def _column(
        self, metric: str, label: str, rows: Mapping[str, Mapping[str, Any]], field: str, factor: float
    ) -> object:
        values = [((_label(key),), row[field] * factor) for key, row in rows.items() if row.get(field) is not None]
        return self._metric(metric, (label,), values)

    def _metric(self, name: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]]) -> object:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        about = {**RUN_METRICS, **NAME_METRICS, **HOST_METRICS}[name]
        family = kind(name, about, labels=["run", *labels])
        for key, value in values:
            family.add_metric([self._run, *key], value)
        return family
