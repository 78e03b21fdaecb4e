"""The telemetry handler of the manual makes the spans that it says, by OpenTelemetry's own exporter."""

from __future__ import annotations

import re
import time

import pytest

from handoff_mpi import DAG, Function, execute_local, telemetry
from tests.conftest import ROOT, missing

_BLOCK = re.compile(r"^```python\n# spans.py\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def exporter(monkeypatch):
    """The exporter that gets the spans of the manual's handler, which is attached."""
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    except ImportError:
        missing("opentelemetry-sdk")
    found, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)  # a provider can be set once in a process
    source = (ROOT / "handoff_mpi" / "manual" / "telemetry.md").read_text()
    exec(compile(_BLOCK.search(source)[1], "spans.py", "exec"), {})
    yield found
    telemetry.detach("spans")


def test_a_run_is_a_span_and_each_call_one_within_it(exporter):
    tries = []

    def load():
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("not there yet")
        time.sleep(0.02)

    def fail():
        raise KeyError("never")

    dag = DAG("spectra")
    dag.add_function(Function("load", (), load, max_retries=1))
    dag.add_function(Function(("fail", 1), (), fail, max_retries=0))
    begin = time.time()
    results = execute_local(dag, run_dir=False, check=False)
    end = time.time()
    assert results.status == "failed"
    spans = exporter.get_finished_spans()
    run = spans[-1]
    assert (run.name, run.attributes["handoff.status"], run.parent) == ("run spectra", "failed", None)
    calls = {(span.name, span.attributes["handoff.attempt"]): span for span in spans[:-1]}
    assert {key: span.status.status_code.name for key, span in calls.items()} == {
        ("load", 1): "ERROR",
        ("load", 2): "UNSET",
        ("('fail', 1)", 1): "ERROR",
    }
    assert calls["load", 1].status.description == "ValueError: not there yet"
    for span in calls.values():
        assert span.parent.span_id == run.context.span_id
        assert span.attributes["handoff.rank"] == 0
        assert begin - 0.01 <= span.start_time / 1e9 <= span.end_time / 1e9 <= end + 0.01
    assert calls["load", 2].end_time - calls["load", 2].start_time >= 0.02e9
    assert "spans" in {each.handler_id for each in telemetry.list_handlers()}, "a handler that raises is detached"


def test_a_second_run_has_a_span_of_its_own(exporter):
    dag = DAG("again")
    dag.add_function(Function("f", (), len, ["abc"]))
    for _ in range(2):
        execute_local(dag, run_dir=False)
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["f", "run again"] * 2
    assert len({span.context.trace_id for span in spans}) == 2
