"""``--metrics-file``: what Prometheus reads of a run, and that no trouble with the file is one of the run."""

from __future__ import annotations

import os
import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from handoff_mpi import DAG, Function, UsageError, execute_local
from handoff_mpi.launch import metrics_file
from handoff_mpi.launch.metrics_file import METRICS_INTERVAL_S, MetricsFile
from handoff_mpi.visualization import metrics
from handoff_mpi.visualization.metrics import HOST_METRICS, NAME_METRICS, RUN_METRICS, metrics_text
from tests.conftest import ROOT

STATUS = {
    "dag_id": 'spectra "A"\n',
    "launch": 2,
    "host": "alpha",
    "directory": "/home/user",
    "status": "running",
    "started_s": 1_800_000_000.25,
    "time_s": 1_800_000_010.5,
    "functions": 100,
    "rate_per_s": 2.5,
    "eta_s": 12.0,
    "counts": {"waiting": 50, "ready": 10, "running": 4, "done": 33, "failed": 2, "skipped": 1, "retries": 3},
    "lost_ranks": {3: "it died"},
    "by_name": {
        "fit": {"total": 60, "running": 4, "done": 20, "failed": 2, "mean_s": 0.5, "busy_s": 11.0},
        '"} 1\n# \\ \x00': {"total": 40, "running": 0, "done": 13, "failed": 0, "mean_s": None, "busy_s": 0.0},
    },
    "hosts": {
        "alpha": {
            "ranks": 2, "slots": 4, "busy": 3, "cores": 8, "memory_mb": 16_000, "gpus": 2, "gpus_claimed": 0.5,
            "cpu_percent": 50.0, "memory_used_mb": 2_000, "gpu_percent": 25.0,
        },
        "beta": {"ranks": 1, "slots": 2, "busy": 1, "cores": 8, "memory_mb": 16_000, "gpus": 0, "gpus_claimed": 0},
    },
}  # fmt: skip


def read(text):
    """Return the samples by name and labels, without the label that all have, and the types of metrics."""
    samples, types, runs = {}, {}, set()
    for family in text_string_to_metric_families(text):
        types[family.name] = family.type
        for sample in family.samples:
            assert sample.timestamp is None, "the textfile collector refuses times"
            labels = dict(sample.labels)
            runs.add(labels.pop("run"))
            key = (sample.name, *sorted(labels.items()))
            assert key not in samples
            samples[key] = sample.value
    assert len(runs) == 1
    return samples, types, runs.pop()


def test_all_metrics_are_what_the_status_says():
    samples, types, run = read(metrics_text("/runs/x", STATUS).decode())
    assert run == "/runs/x"
    assert {key[0] for key in samples} == {*RUN_METRICS, *NAME_METRICS, *HOST_METRICS}
    simple = {key[0]: value for key, value in samples.items() if len(key) == 1}
    assert simple == {
        "handoff_run_start_time_seconds": 1_800_000_000.25,
        "handoff_run_update_time_seconds": 1_800_000_010.5,
        "handoff_run_functions": 100,
        "handoff_run_functions_per_second": 2.5,
        "handoff_run_eta_seconds": 12,
        "handoff_run_retries_total": 3,
        "handoff_run_lost_ranks": 1,
    }
    assert samples["handoff_run_functions_in_state", ("state", "ready")] == 10
    assert samples["handoff_run_status", ("status", "running")] == 1
    assert samples["handoff_run_status", ("status", "failed")] == 0
    assert samples["handoff_name_functions_in_state", ("name", "fit"), ("state", "failed")] == 2
    assert samples["handoff_name_functions", ("name", '"} 1\\n# \\ \\x00')] == 40
    assert ("handoff_name_mean_seconds", ("name", '"} 1\\n# \\ \\x00')) not in samples
    assert samples["handoff_host_memory_bytes", ("host", "beta")] == 16e9
    assert samples["handoff_host_cpu_ratio", ("host", "alpha")] == 0.5
    assert ("handoff_host_cpu_ratio", ("host", "beta")) not in samples
    assert types["handoff_run_retries"] == types["handoff_name_busy_seconds"] == "counter"
    assert set(types.values()) == {"counter", "gauge"}
    info = next(dict(key[1:]) for key in samples if key[0] == "handoff_run_info")
    assert (info["dag"], info["launch"], info["host"]) == ('spectra "A"\\n', "2", "alpha")


def test_what_is_not_known_is_left_out():
    samples, *_ = read(metrics_text("", {"status": "broken"}).decode())
    assert {key[0] for key in samples} == {"handoff_run_info", "handoff_run_status", "handoff_run_lost_ranks"}
    samples, *_ = read(metrics_text("x", {**STATUS, "eta_s": None}).decode())
    assert ("handoff_run_eta_seconds",) not in samples


def test_the_manual_names_all_metrics():
    manual = (ROOT / "handoff_mpi" / "manual" / "telemetry.md").read_text()
    assert [name for name in (*RUN_METRICS, *NAME_METRICS, *HOST_METRICS) if f"`{name}`" not in manual] == []


# -- of runs -----------------------------------------------------------------------------------------------


def small_dag(code=len):
    dag = DAG("small")
    for number in range(5):
        dag.add_function(Function(f"f{number}", (), code, ["abc"]))
    return dag


@pytest.mark.parametrize("has_run_dir", [True, False])
def test_a_run_leaves_its_last_state(tmp_path, has_run_dir):
    path, run_dir = tmp_path / "run.prom", tmp_path / "run"
    before = os.umask(0o027)
    try:
        execute_local(small_dag(), run_dir=run_dir if has_run_dir else False, metrics_file=path)
    finally:
        os.umask(before)
    samples, _, run = read(path.read_text())
    assert (run == str(run_dir)) == has_run_dir
    assert samples["handoff_run_status", ("status", "done")] == 1
    assert samples["handoff_run_functions_in_state", ("state", "done")] == 5
    assert samples["handoff_name_functions_in_state", ("name", "len"), ("state", "done")] == 5
    assert path.stat().st_mode & 0o777 == 0o640
    assert [each.name for each in tmp_path.iterdir() if "partial" in each.name] == []


FAILING = """
import sys
from handoff_mpi import DAG, Function
def fit(n):
    if n == 3:
        raise ValueError("no")
dag = DAG("failing")
for n in range(4):
    dag.add_function(Function(f"f{n}", (), fit, [n], max_retries=2))
"""


@pytest.mark.long
def test_ranks_and_retries_are_counted(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(FAILING)
    ended = handoff("run", "-n", "3", "--run-dir", "run", "--metrics-file", "run.prom", "dag.py")
    assert ended.rc == 1
    samples, *_ = read((tmp_path / "run.prom").read_text())
    assert samples["handoff_run_status", ("status", "failed")] == 1
    assert samples["handoff_run_retries_total",] == 2
    assert sum(value for key, value in samples.items() if key[0] == "handoff_host_ranks") == 3
    assert samples["handoff_run_functions_in_state", ("state", "failed")] == 1


@pytest.mark.long
def test_a_run_that_is_running_renews_it(tmp_path):
    path = tmp_path / "run.prom"

    def look():
        end = time.monotonic() + 30
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.02)
        return path.read_text()

    dag = DAG("looks")
    dag.add_function(Function("look", (), look))
    samples, *_ = read(execute_local(dag, run_dir=False, metrics_file=path)["look"])
    assert samples["handoff_run_status", ("status", "running")] == 1
    assert samples["handoff_run_functions_in_state", ("state", "running")] == 1


def test_an_interrupted_run_says_so(tmp_path):
    path = tmp_path / "run.prom"

    def interrupt(text):
        raise KeyboardInterrupt

    def stop():
        os.kill(os.getpid(), 2)

    dag = DAG("interrupted")
    dag.add_function(Function("stop", (), stop))
    with pytest.raises(KeyboardInterrupt):
        execute_local(dag, run_dir=False, metrics_file=path)
    assert read(path.read_text())[0]["handoff_run_status", ("status", "stopped")] == 1


# -- trouble -----------------------------------------------------------------------------------------------


WRONG = [
    ("missing/run.prom", "there is no such directory"),
    (".", "it is a directory"),
    ("fifo", "it is not a regular file"),
    ("", "metrics_file is empty"),
    ("a\0b", "null character"),
    ("x" * 300, "longer than paths"),
    (7, "is the path of a file"),
]


@pytest.mark.parametrize(("path", "told"), WRONG, ids=range(len(WRONG)))
def test_what_cannot_be_a_file_is_refused_before_the_start(tmp_path, monkeypatch, path, told):
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match=told):
        execute_local(small_dag(), run_dir="run", metrics_file=path)
    assert not (tmp_path / "run").exists()


def test_without_the_library_nothing_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'handoff_mpi\[metrics\]'"):
        execute_local(small_dag(), run_dir=tmp_path / "run", metrics_file=tmp_path / "run.prom")
    assert not (tmp_path / "run").exists()


def test_a_file_that_cannot_be_written_any_more_is_said_once(tmp_path):
    (tmp_path / "there").mkdir()
    said = []
    file = MetricsFile(tmp_path / "there" / "run.prom", said.append)
    (tmp_path / "there").rmdir()
    for number in range(3):
        file.renew(STATUS, number * METRICS_INTERVAL_S)
        file._writer.join()
    file.finish(STATUS)
    assert len(said) == 1
    assert "No such file or directory; the run continues" in said[0]


def test_a_run_whose_file_cannot_be_written_is_done(tmp_path, monkeypatch, capfd):
    def fail(path, pieces):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metrics_file, "write_whole", fail)
    results = execute_local(small_dag(), run_dir=False, metrics_file=tmp_path / "run.prom")
    assert results.status == "done"
    assert capfd.readouterr().err.count("No space left on device") == 1
    monkeypatch.setattr(MetricsFile, "finish", lambda self, status: 1 / 0)
    assert execute_local(small_dag(), run_dir=False, metrics_file=tmp_path / "run.prom").status == "done"


def test_it_is_renewed_every_15_seconds_unless_it_is_being_written(tmp_path, monkeypatch):
    written, may_end = [], threading.Event()
    may_end.set()

    def write(path, pieces):
        written.append(pieces)
        may_end.wait(30)

    monkeypatch.setattr(metrics_file, "write_whole", write)
    said = []
    file = MetricsFile(tmp_path / "run.prom", said.append)
    for now in range(100, 146):
        file.renew(STATUS, float(now))
        file._writer.join()
    assert len(written) == 4
    may_end.clear()
    file.renew(STATUS, 200.0)
    file.renew(STATUS, 300.0)
    monkeypatch.setattr(metrics_file, "_METRICS_END_TIMEOUT_S", 0.05)
    file.finish(STATUS)
    may_end.set()
    file._writer.join()
    assert len(written) == 5
    assert "its file system does not answer; the run continues" in said[0]
