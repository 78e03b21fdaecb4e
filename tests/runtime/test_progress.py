"""The fields of status.json while a run is running."""

from __future__ import annotations

import json
import random
import sys
import time
from types import SimpleNamespace

import pytest

import handoff_mpi
from handoff_mpi import DAG, Function
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.arrays.links import Link
from handoff_mpi.dag import TaskSpec
from handoff_mpi.dag.task_spec import ArraySpec
from handoff_mpi.messages import ErrorReport, LeaseReport
from handoff_mpi.resources import Capability
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.results.failure_groups import FailureGroup
from handoff_mpi.runtime import progress as module
from handoff_mpi.runtime.element_records import ElementRecords
from handoff_mpi.runtime.name_counts import MAX_OWN_ROWS
from handoff_mpi.runtime.progress import OTHERS, Progress
from handoff_mpi.runtime.recorder import Recorder
from handoff_mpi.scheduler import Cause, State
from handoff_mpi.scheduler.array_state import Array, Lease
from handoff_mpi.scheduler.transitions import FailedAttempt, Lost, Returned

NOW = 1_770_000_000.0


class FakePlan(SimpleNamespace):
    call_count = 1

    def __len__(self):
        return len(self.ids)


class Fixture:
    """A scheduler of which a test moves the tasks by hand."""

    def __init__(self, codes, inputs=None, names=("load", "fit"), hosts=1, restored=()):
        count = len(codes)
        specs = [TaskSpec((inputs or {}).get(task, ()), {"cpu": UNIT}, code=code) for task, code in enumerate(codes)]
        plan = self.plan = FakePlan(ids=list(range(count)), selections={}, code_names=list(names), specs=specs)
        self.of_rank = {rank: [SimpleNamespace(tasks=[], claim=None)] for rank in range(hosts)}
        slots = SimpleNamespace(of_rank=self.of_rank, running=self.running)
        tasks = SimpleNamespace(state=bytearray(count), failures={})
        self.arrays = SimpleNamespace(of={}, leases={}, task_of=int)
        self.scheduler = SimpleNamespace(
            specs=specs, tasks=tasks, slots=slots, arrays=self.arrays, running=self.running
        )
        elements = ElementRecords(plan, self.arrays)
        self.recorder = Recorder(plan, "dag", {rank: f"n{rank}" for rank in range(hosts)}, elements)
        self.recorder.grow()
        capabilities = [Capability(rank, f"n{rank}", {"cpu": 4 * UNIT, "memory": 8000 * UNIT}) for rank in range(hosts)]
        self.groups = []
        self.progress = Progress(plan, self.scheduler, self.recorder, capabilities, lambda: self.groups, restored)

    def running(self):
        return [slot.tasks[0] for slots in self.of_rank.values() for slot in slots if slot.tasks]

    def run(self, task, rank=0):
        self.scheduler.tasks.state[task] = State.DISPATCHED
        self.of_rank[rank][0].tasks = [task]

    def end(self, task, seconds=1.0, rank=0, state=State.DONE):
        self.recorder.finished(rank, [(task, 1, 0 if state == State.DONE else 1, None, 0, NOW, seconds, False)])
        self.scheduler.tasks.state[task] = state
        if state == State.FAILED:
            self.scheduler.tasks.failures[task] = None
        self.of_rank[rank][0].tasks = []

    def fields(self, now=NOW):
        return self.progress.fields(now)


def test_functions_are_counted_by_name_and_what_is_lost_is_taken_back():
    run = Fixture([0, 0, 0, 1, 1])
    run.end(0, 2.0)
    run.end(1, 4.0)
    run.end(3, 1.0, state=State.FAILED)
    run.run(4)
    told = run.fields()
    assert told["by_name"] == {
        "load": {"total": 3, "running": 0, "done": 2, "failed": 0, "skipped": 0, "mean_s": 3.0, "busy_s": 6.0},
        "fit": {"total": 2, "running": 1, "done": 0, "failed": 1, "skipped": 0, "mean_s": 1.0, "busy_s": 1.0},
    }
    assert (told["counts"]["done"], told["counts"]["running"], told["counts"]["failed"]) == (2, 1, 1)
    run.scheduler.tasks.state[0] = State.WAITING
    run.recorder.undone.append(0)
    assert run.fields()["by_name"]["load"]["done"] == 1
    run.end(0, 6.0)
    again = run.fields()["by_name"]["load"]
    assert (again["done"], again["mean_s"]) == (2, 4.0)


def test_counts_by_name_are_those_of_a_look_at_all_tasks():
    rng = random.Random(5)
    run = Fixture([rng.randrange(3) for _ in range(300)], names=("a", "b", "c"))
    for _ in range(2000):
        task, state = rng.randrange(300), run.scheduler.tasks.state
        if state[task] in (State.FAILED, State.SKIPPED):
            continue
        if state[task] == State.DONE and rng.random() < 0.3:
            state[task] = State.WAITING
            run.recorder.undone.append(task)
        elif state[task] != State.DONE:
            run.end(task, state=rng.choice([State.DONE, State.DONE, State.READY, State.FAILED]))
        if rng.random() < 0.05:
            told = run.fields()["by_name"]
            for code, name in enumerate("abc"):
                own = [state[each] for each in range(300) if run.scheduler.specs[each].code == code]
                assert told[name]["done"] == own.count(State.DONE)
                assert told[name]["failed"] == own.count(State.FAILED)


def test_restored_functions_count_once_the_scheduler_has_them():
    """A start that takes long is reported before anything is submitted."""
    run = Fixture([0, 0, 1], restored=[0, 1])
    state = run.scheduler.tasks.state
    run.scheduler.tasks.state = bytearray()
    run.fields()
    run.scheduler.tasks.state = state
    state[0] = state[1] = State.DONE
    assert run.fields()["by_name"]["load"]["done"] == 2


def test_what_earlier_launches_did_counts_as_done():
    run = Fixture([0, 0, 1], restored=[0, 1])
    run.scheduler.tasks.state[0] = run.scheduler.tasks.state[1] = State.DONE
    told = run.fields()["by_name"]["load"]
    assert told == {"total": 2, "running": 0, "done": 2, "failed": 0, "skipped": 0, "mean_s": None, "busy_s": 0.0}


def test_a_call_is_counted_though_the_scheduler_takes_its_end_in_after_the_look():
    run = Fixture([0, 0])
    run.run(0)
    run.recorder.finished(0, [(0, 1, 0, None, 0, NOW, 1.0, False)])
    assert run.fields()["by_name"]["load"]["done"] == 0, "its state is still that of a call that runs"
    run.scheduler.tasks.state[0] = State.DONE
    assert run.fields()["by_name"]["load"]["done"] == 1
    assert run.fields()["by_name"]["load"]["done"] == 1


def test_fields_may_be_asked_for_before_tasks_are_submitted():
    run = Fixture([0, 0, 1], restored=[0, 1])
    specs, run.scheduler.specs[:] = list(run.scheduler.specs), []
    assert run.fields()["by_name"] == {}
    run.scheduler.specs[:] = specs
    run.scheduler.tasks.state[0] = run.scheduler.tasks.state[1] = State.DONE
    assert run.fields()["by_name"]["load"]["done"] == 2


@pytest.mark.long
@pytest.mark.sample("rank")
@pytest.mark.parametrize("isolation", ["rank", "process"])
def test_progress_that_cannot_be_reported_fails_no_run(isolation, tmp_path, monkeypatch, capfd):
    def fail(self, now):
        raise KeyError(isolation)

    monkeypatch.setattr(Progress, "fields", fail)
    dag = DAG("naps")
    dag.add_function(Function("nap", (), time.sleep, [2.5]))
    results = handoff_mpi.execute_local(dag, run_dir=tmp_path / "run", isolation=isolation, progress="lines")
    assert results.status == "done"
    assert capfd.readouterr().err.count(f"the progress of the run is not reported: KeyError: '{isolation}'") == 1


def test_the_time_left_is_unknown_until_almost_all_that_is_open_has_been_measured():
    run = Fixture([0] * 50 + [1])
    run.run(0)
    assert run.fields()["eta_s"] is None
    run.end(0, 2.0)
    run.run(1)
    assert run.fields()["eta_s"] == pytest.approx(50 * 2.0)  # one slot is busy; the last one is taken to last alike


def test_while_more_is_unknown_the_time_left_is_known_at_least():
    run = Fixture([0] * 10 + [1] * 10)
    assert (run.fields()["eta_s"], run.fields()["eta_at_least_s"]) == (None, None)
    run.run(0)
    run.end(0, 2.0)
    run.run(1)
    told = run.fields()
    assert told["eta_s"] is None and told["eta_at_least_s"] == pytest.approx(9 * 2.0)


def test_the_time_left_is_no_less_than_the_longest_open_path():
    chain = {task: (task - 1,) for task in range(1, 10)}
    run = Fixture([0] * 10, chain, hosts=4)
    run.end(0, 3.0)
    for rank in range(4):
        run.run(1 + rank, rank)
    assert run.fields()["eta_s"] == pytest.approx(9 * 3.0)


def test_the_time_left_falls_while_a_call_runs():
    run = Fixture([0] * 4)
    run.run(0)
    run.end(0, 60.0)
    run.run(1)
    run.recorder.started(0, 1, 1, NOW)
    assert run.fields(NOW)["eta_s"] == pytest.approx(180.0)
    assert run.fields(NOW + 40)["eta_s"] == pytest.approx(140.0)
    assert run.fields(NOW + 90)["eta_s"] == pytest.approx(120.0)  # it takes longer than the one before


def test_the_longest_open_path_falls_while_its_first_call_runs():
    run = Fixture([0] * 4, {task: (task - 1,) for task in range(1, 4)}, hosts=4)
    run.run(0)
    run.end(0, 60.0)
    run.run(1)
    run.recorder.started(0, 1, 1, NOW)
    assert [run.fields(NOW + after)["eta_s"] for after in (0, 5, 40)] == pytest.approx([180.0, 175.0, 140.0])


def test_the_rate_of_long_calls_is_that_of_a_longer_time():
    run = Fixture([0] * 100)
    for minute in range(5):
        run.run(minute)
        for second in range(0, 60, 5):
            told = run.fields(NOW + 60 * minute + second)
        run.end(minute, 60.0)
    assert told["rate_per_s"] == pytest.approx(1 / 60, rel=0.3)


def test_the_first_functions_that_were_skipped_and_the_last_are_named():
    run = Fixture([0] * 30)
    run.recorder.skipped.extend(range(5, 25))
    assert run.fields()["skipped_ids"] == ["5", "6", "7", "8", "9", "10", "11", "12", "13", "24"]
    assert json.dumps(run.fields()["skipped_ids"]) == json.dumps(run.progress.final_fields(NOW, {})["skipped_ids"])


def test_the_rate_is_that_of_the_last_seconds():
    run = Fixture([0] * 100)
    assert run.fields(NOW)["rate_per_s"] == 0.0
    for task in range(20):
        run.end(task)
    assert run.fields(NOW + 10)["rate_per_s"] == pytest.approx(2.0)
    for second in range(11, 60):
        told = run.fields(NOW + second)
    assert told["rate_per_s"] == 0.0


def test_names_and_hosts_beyond_the_limit_are_summed_up():
    names = [f"f{number}" for number in range(60)]
    run = Fixture(list(range(60)) * 2, names=names, hosts=150)
    told = run.fields()
    assert len(told["by_name"]) == module.MAX_NAMES
    assert told["by_name"][OTHERS]["total"] == 22
    assert len(told["hosts"]) == module.MAX_HOSTS
    assert told["hosts"][OTHERS]["cores"] == 51 * 4
    assert len(json.dumps(told)) < 50_000


def test_the_longest_calls_come_first_until_they_end():
    run = Fixture([0] * 5)
    for task in range(3):
        run.run(task)
        run.recorder.started(0, task, 2, NOW - task)
    assert [(call["id"], call["attempt"], call["host"]) for call in run.fields()["longest"]] == [
        ("2", 2, "n0"),
        ("1", 2, "n0"),
        ("0", 2, "n0"),
    ]
    run.end(1)
    assert [call["id"] for call in run.fields()["longest"]] == ["2", "0"]


def test_the_slowest_calls_that_have_ended_come_first_with_their_ranks():
    rng = random.Random(7)
    run = Fixture([0] * 200, hosts=3)
    took = {task: 1.0 + rng.random() for task in range(200)}
    for task, seconds in took.items():
        run.end(task, seconds, task % 3)
        if task % 30 == 0:
            run.fields()
    told = run.fields()["slowest"]
    longest = sorted(took, key=took.get, reverse=True)[: module.MAX_SLOWEST]
    assert [int(call["id"]) for call in told] == longest
    first = {"id": str(longest[0]), "name": "load", "rank": longest[0] % 3, "host": f"n{longest[0] % 3}"}
    assert told[0] == {**first, "duration_s": took[longest[0]], "failed": False}
    run.end(longest[3], 0.5)
    assert [int(call["id"]) for call in run.fields()["slowest"]] == longest, "its longest attempt counts"
    assert run.progress.final_fields(NOW, {})["slowest"] == told


def test_a_slow_call_that_failed_is_marked():
    run = Fixture([0, 0])
    run.end(0, 9.0, state=State.READY)
    run.end(0, 1.0)
    run.end(1, 2.0)
    told = run.fields()["slowest"]
    assert [(call["id"], call["duration_s"], call["failed"]) for call in told] == [("0", 9.0, True), ("1", 2.0, False)]


def test_all_calls_of_a_function_are_busy_time_though_they_end_between_two_looks():
    run = Fixture([0, 0])
    run.end(0, 5.0, state=State.READY)
    run.fields()
    run.end(0, 3.0, state=State.READY)
    run.end(0, 1.0)
    run.end(1, 2.0)
    told = run.fields()["by_name"]["load"]
    assert (told["busy_s"], told["mean_s"], told["done"]) == (11.0, 2.75, 2)


def test_skipped_functions_are_counted_by_name_and_no_time_is_expected_for_them():
    run = Fixture([0, 0, 1, 1])
    run.end(0, 2.0, state=State.FAILED)
    for task in (2, 3):
        run.scheduler.tasks.state[task] = State.SKIPPED
        run.recorder.skipped.append(task)
    run.run(1)
    told = run.fields()
    assert (told["by_name"]["fit"]["skipped"], told["by_name"]["load"]["skipped"]) == (2, 0)
    assert told["eta_s"] == pytest.approx(2.0)


def test_the_use_of_hosts_is_that_of_a_moment_and_not_of_a_run_that_has_ended():
    run = Fixture([0])
    run.recorder.used(0, {"cpu_percent": 71.0, "memory_used_mb": 900.0}, NOW)
    assert run.fields()["hosts"]["n0"]["cpu_percent"] == 71.0
    assert not {"cpu_percent", "memory_used_mb"} & run.progress.final_fields(NOW, {})["hosts"]["n0"].keys()


def test_a_lost_rank_has_its_time_and_what_runs_again():
    run = Fixture([0] * 9, hosts=3)
    for task in range(8):
        run.end(task, rank=1)
    log = [
        *((task, 0, Cause.VALUE_LOST, 1, 1, "rank 1 is lost") for task in range(7)),
        (8, 0, Cause.RANK_LOST, 1, 1, "rank 1 is lost"),
        (7, 0, Cause.VALUE_LOST, 1, 2, "its file is damaged"),
        (-1, 0, 0, 0, 1, Lost("killed")),
    ]
    run.scheduler.tasks.take_log = lambda: log
    before = time.time()
    run.recorder.transitions(run.scheduler)
    assert [(each["ranks"], each["lost"]) for each in run.fields()["hosts"].values()] == [(1, 0), (0, 1), (1, 0)]
    (loss,) = run.fields()["losses"]
    assert before <= loss.pop("time_s") <= time.time()
    assert loss == {
        "rank": 1,
        "host": "n1",
        "reason": "killed",
        "returned_s": None,
        "reassigned": 1,
        "recomputed": 7,
        "first_reassigned": ["8"],
        "first_recomputed": ["0", "1", "2", "3", "4"],
    }
    counts = run.fields()["counts"]
    assert (counts["retries"], counts["reassigned"], counts["recomputed"]) == (0, 1, 8)

    log[:] = [(-1, 0, 0, 0, 1, Returned())]
    run.recorder.transitions(run.scheduler)
    log[:] = [(-1, 0, 0, 0, 2, Lost("killed")), (-1, 0, 0, 0, 1, Lost("again"))]
    run.recorder.transitions(run.scheduler)
    told = run.fields()["losses"]
    assert [(each["rank"], each["reason"], each["returned_s"] is None) for each in told] == [
        (1, "killed", False),
        (2, "killed", True),
        (1, "again", True),
    ]
    assert [each["recomputed"] for each in told] == [7, 0, 0], "what was repeated without a loss belongs to none"
    json.dumps(told)


def leased(run, count=100, incidents=0):
    """Make task 1 an array, of which lease 2 has the elements 3 to 8."""
    spec = ArraySpec(count)
    run.scheduler.specs[1].array = spec
    run.plan.arrays = {1: SimpleNamespace(tree=None)}
    run.arrays.of[1] = Array(spec, run.scheduler.specs[1], IntervalSet([(0, count)]))
    run.arrays.leases[2] = Lease(1, IntervalSet([(3, 9)]), incidents)
    run.arrays.task_of = lambda number: 1 if number == 2 else number


def test_what_runs_again_of_an_array_is_counted_and_named_by_its_elements():
    run = Fixture([0, 1], hosts=3)
    leased(run, incidents=1)
    failed = FailedAttempt("ValueError", "bad")
    log = [
        (2, 0, Cause.RANK_LOST, 1, 1, "rank 1 is lost"),
        (-1, 0, 0, 0, 1, Lost("killed")),
        (2, 0, Cause.RETRY, 1, 2, failed),
    ]
    run.scheduler.tasks.take_log = lambda: log
    run.scheduler.ready = SimpleNamespace(deferred={})
    run.recorder.transitions(run.scheduler)
    told = run.fields()
    assert (told["counts"]["retries"], told["counts"]["reassigned"]) == (6, 6)
    (loss,) = told["losses"]
    assert (loss["reassigned"], loss["first_reassigned"]) == (6, ["1[3:9]"])


def test_the_total_of_an_array_is_open_until_its_iterables_have_ended():
    run = Fixture([0, 1, 1])
    leased(run)
    assert "may_grow" not in run.fields()
    array = run.arrays.of[1] = Array(ArraySpec(0, window=50), run.scheduler.specs[1], IntervalSet())
    array.count = 70
    told = run.fields()
    assert told["may_grow"] is True
    assert [told["by_name"][name].get("may_grow") for name in ("load", "fit")] == [None, True]
    array.cut()
    assert run.progress.final_fields(NOW, {"done": 70})["may_grow"] is True, "more may have been meant"
    array.is_cut = False
    assert "may_grow" not in run.fields()


def test_a_fold_that_was_skipped_is_named_and_its_blocks_are_not():
    run = Fixture([0, 0, 0])
    blocks, fold = ArraySpec(0, window=50), ArraySpec(0, window=50, fan_in=2, links=[Link(1, range(9), 2)])
    for task, spec in ((1, blocks), (2, fold)):
        run.scheduler.specs[task].array = spec
        run.arrays.of[task] = Array(spec, run.scheduler.specs[task], IntervalSet())
    run.recorder.skipped.extend([2, 1])
    assert run.fields()["skipped_ids"] == ["2"]


def test_a_look_at_many_arrays_that_were_skipped_takes_steps_in_proportion_to_them():
    def steps(count):
        run = Fixture([0] * (count + 1))
        for task in range(1, count + 1):
            spec = run.scheduler.specs[task].array = ArraySpec(1)
            run.arrays.of[task] = Array(spec, run.scheduler.specs[task], IntervalSet())
        run.recorder.skipped.extend(range(1, count + 1))
        lines = []

        def traced(frame, event, _):
            lines.append(event)
            return traced

        before = sys.gettrace()
        sys.settrace(traced)
        try:
            run.fields()
        finally:
            sys.settrace(before)
        return len(lines)

    steps(50)  # what is done once
    assert steps(400) < 6 * steps(100)


def test_arrays_of_one_name_are_counted_by_their_ids():
    def arrays(count):
        run = Fixture([0, *[1] * count])
        for task in range(1, count + 1):
            run.scheduler.specs[task].array = ArraySpec(10 * task)
            run.arrays.of[task] = Array(ArraySpec(10 * task), run.scheduler.specs[task], IntervalSet())
        return run

    run = arrays(2)
    run.plan.ids[1:] = ["a", "fit"]  # an id may be the name
    run.arrays.of[1].have, run.arrays.of[2].failed = IntervalSet([(0, 4)]), 1
    run.recorder.elements.busy_s, run.recorder.elements.calls = {1: {0: 8.0}}, {1: 4}
    run.of_rank[0][0].tasks = [2]
    rows = run.fields()["by_name"]
    assert rows["a"] == {
        "total": 10, "running": 0, "done": 4, "failed": 0, "skipped": 0, "mean_s": 2.0, "busy_s": 8.0,
    }  # fmt: skip
    assert rows["fit"] == {
        "total": 20, "running": 1, "done": 0, "failed": 1, "skipped": 0, "mean_s": 2.0, "busy_s": 0.0,
    }  # fmt: skip
    assert [*rows] == ["load", "a", "fit"]
    assert [*arrays(1).fields()["by_name"]] == ["load", "fit"]
    rows = arrays(MAX_OWN_ROWS + 1).fields()["by_name"]
    assert [*rows] == ["load", "fit"], "rows are few"
    assert rows["fit"]["total"] == 10 * sum(range(MAX_OWN_ROWS + 2))


def test_the_blocks_of_a_fold_are_counted_with_it():
    run = Fixture([0, 1, 1])
    blocks, fold = ArraySpec(0, window=50), ArraySpec(0, window=50, fan_in=2, links=[Link(1, range(9), 2)])
    for task, spec in ((1, blocks), (2, fold)):
        run.scheduler.specs[task].array = spec
        run.arrays.of[task] = Array(spec, run.scheduler.specs[task], IntervalSet())
        run.arrays.of[task].count = 3
    assert run.fields()["by_name"]["fit"]["total"] == 6


def test_another_lease_of_an_array_is_no_other_attempt():
    run = Fixture([0, 1])
    leased(run)
    run.progress.own_calls = lambda: [(2, 38, 0, NOW)]
    (call,) = run.fields()["longest"]
    assert (call["id"], call["attempt"]) == ("1", 1)


def test_kinds_of_failures_are_listed_once_a_function_has_failed_for_good():
    run = Fixture([0] * 3)
    undecided = FailureGroup("OSError", "", "it may yet succeed")
    run.groups = [FailureGroup("ValueError", "dag.py:7", "no", 2, ["x\n", "y"]), undecided]
    told = {"what": "ValueError at dag.py:7", "message": "no", "count": 2, "first": "x\\n"}
    assert run.fields()["failures"] == [told]


def test_each_look_has_a_number_of_its_own():
    run = Fixture([0])
    assert [run.fields()["beat"] for _ in range(3)] == [1, 2, 3]


def test_a_look_visits_only_what_ended_since_the_last_one():
    run = Fixture([0] * 100_000)
    run.fields()
    run.plan.specs = Counting(run.plan.specs)
    for task in range(30):
        run.end(task)
    run.fields()
    assert run.plan.specs.visits == 30 + module.MAX_SLOWEST
    run.fields()
    assert run.plan.specs.visits == 30 + 2 * module.MAX_SLOWEST, "those that are listed are visited"


class Counting(list):
    visits = 0

    def __getitem__(self, index):
        self.visits += isinstance(index, int)
        return super().__getitem__(index)


def test_a_call_in_this_very_process_is_told_while_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("handoff_mpi.runtime.progress_lines.PROGRESS_CHECK_INTERVAL_S", 0.05)
    monkeypatch.setattr("handoff_mpi.launch.run_reporter._MIN_REPORTED_RUN_S", 0.01)
    dag = DAG("long")
    dag.add_function(Function("look", (), look, [str(tmp_path / "run" / "status.json")]))
    results = handoff_mpi.execute_local(dag, progress="lines", run_dir=tmp_path / "run")
    assert results["look"] == ["look", 0, 1]


def look(path):
    import time
    from pathlib import Path

    end = time.monotonic() + 20
    while time.monotonic() < end:
        status = json.loads(Path(path).read_text())
        if status.get("longest"):
            call = status["longest"][0]
            return [call["id"], call["rank"], status["counts"]["running"]]
        time.sleep(0.01)
    return status


def test_an_array_is_counted_by_its_elements():
    run = Fixture([0, 1])
    spec = ArraySpec(100)
    run.scheduler.specs[1].array = spec
    array = Array(spec, run.scheduler.specs[1], IntervalSet([(0, 100)]))
    run.arrays.of[1] = array
    run.scheduler.tasks.state[1] = State.READY
    array.todo.take(30)
    array.leases.add(2)
    array.have, array.failed = IntervalSet([(0, 20)]), 1
    run.of_rank[0][0].tasks = [1]
    error = ErrorReport("ValueError", "bad", "")
    run.recorder.elements_ended(0, 1, LeaseReport(((6, 20),), None, ((((20, 21),), error),), busy_s=1.5), NOW, 1.5)
    told = run.fields()  # an earlier launch did six of them
    assert told["by_name"]["fit"] == {
        "total": 100, "running": 1, "done": 20, "failed": 1, "skipped": 0, "mean_s": 0.1, "busy_s": 1.5,
    }  # fmt: skip
    counts = told["counts"]
    assert (counts["done"], counts["failed"], counts["ready"], counts["waiting"]) == (20, 1, 78, 1)
    assert counts["running"] == 1
