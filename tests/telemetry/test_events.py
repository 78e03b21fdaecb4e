"""The table of telemetry events: what a run emits, and what the manual says of it."""

from __future__ import annotations

import re

import pytest

from handoff_mpi import DAG, Function, execute_local, telemetry
from handoff_mpi.dag import Plan
from handoff_mpi.runtime.recorder import Recorder
from handoff_mpi.scheduler import Cause
from handoff_mpi.scheduler import transitions as records
from tests.conftest import ROOT

RANK = 1
#: Changes of ranks that a scheduler logs, besides those of a run in one process.
CHANGES = [
    records.Suspected("silent"),
    records.Lost("killed"),
    records.Returned(),
    records.MemoryHigh("91 % of 2 GB"),
    records.MemoryNormal("70 % of 2 GB"),
    records.ProbationBegun(RANK, (RANK,), "it fails alone"),
    records.ProbationEnded(RANK, (RANK,), "a probe succeeded"),
    records.ProbationBegun("n1", (RANK,), "it fails alone"),
    records.ProbationEnded("n1", (RANK,), "a probe succeeded"),
    records.DeviceWithdrawn("n1", "GPU-a", "uncorrectable ECC error"),
    records.Updated({"cpu": 2}),
]


@pytest.fixture
def seen():
    """Return the fields that a handler of all events has received: event to (measurements, metadata)."""
    found: dict[telemetry.Event, set[tuple[frozenset[str], frozenset[str]]]] = {}

    def note(event, measurements, metadata, config):
        found.setdefault(event, set()).add((frozenset(measurements), frozenset(metadata)))

    telemetry.attach("seen", ("handoff",), note)
    yield found
    telemetry.detach("seen")


class Stubborn:
    """A resource tracker that refuses the first request."""

    def __init__(self):
        self.refused = False

    def register(self, rank, capabilities):
        pass

    def request(self, rank, cost):
        granted, self.refused = self.refused, True
        return granted

    def release(self, rank, cost):
        pass


def run_a_dag():
    """Run functions that are refused at first, succeed, are tried again, fail and are skipped."""
    tries = []

    def twice():
        tries.append(1)
        if len(tries) == 1:
            raise OSError("not there yet")

    dag = DAG("d")
    dag.add_function(Function("twice", (), twice))
    dag.add_function(Function("fails", (), divmod, [1, 0], max_retries=0))
    dag.add_function(Function("after", ["fails"], abs))
    execute_local(dag, run_dir=False, check=False, resource_tracker=Stubborn())


class Log(list):
    """Stands for a scheduler and its table of tasks: a test writes its log."""

    @property
    def tasks(self):
        return self

    def take_log(self):
        return list(self)


def report_changes():
    """Have a recorder take in what befalls ranks, values and claims in a run of several hosts."""
    dag = DAG("d")
    dag.add_function(Function("fit", (), len))
    plan = Plan()
    plan.add(dag)
    recorder = Recorder(plan, "d", {RANK: "n1"})
    recorder.grow()
    log = Log((-1, 0, 0, 0, RANK, change) for change in CHANGES)
    log += [(0, 0, cause, 1, RANK, "rank 1 is lost") for cause in (Cause.RANK_LOST, Cause.VALUE_LOST)]
    recorder.transitions(log)
    recorder.transferred(2, [(0, RANK, 100, 0.1)])


def test_handlers_receive_the_fields_of_the_table(seen):
    run_a_dag()
    report_changes()
    assert seen == {
        event: {(frozenset(measurements), frozenset(metadata))}
        for event, (measurements, metadata) in telemetry.FIELDS.items()
    }


def test_the_manual_has_a_row_for_each_event():
    text = (ROOT / "handoff_mpi" / "manual" / "telemetry.md").read_text()
    rows = re.findall(r"^\| `(\"[a-z\", ]+\")` \|[^|]*\| ([^|]*) \| ([^|]*) \|$", text, re.M)
    told = {
        ("handoff", *re.findall(r"\w+", event)): (words(measurements), words(metadata))
        for event, measurements, metadata in rows
    }
    assert told == telemetry.FIELDS


def words(cell):
    """Return the fields that a cell of the table names."""
    return tuple(re.findall(r"`(\w+)`", cell))
