"""The benchmarks' own arithmetic, and that nothing a contender does stops a run of them."""

from __future__ import annotations

import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.benchmarks import contender, harness, targets
from tests.benchmarks.harness import Answer, in_turns
from tests.benchmarks.questions import QUESTIONS
from tests.benchmarks.targets import PROMISES, Promise
from tests.benchmarks.workloads import SHAPES, count_of
from tests.conftest import ROOT

HERE = Path(__file__).parent
#: Starts a process in a session of its own, and waits for ever.
HANG = """
import subprocess, sys, pathlib
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
pathlib.Path("pid").write_text(str(subprocess.Popen(sleep, start_new_session=True).pid))
subprocess.run(sleep)
"""


def answer(**contenders: list[float]) -> Answer:
    return Answer("how many", "base", {"row": contenders}, "each", 3)


def test_ratios_are_taken_turn_by_turn():
    told = answer(base=[1.0, 2.0, 4.0], ours=[2.0, 2.0, 2.0])
    assert told.ratios("row", "ours") == [2.0, 1.0, 0.5]
    assert harness.spread(told.ratios("row", "ours")) == "1 (0.5 to 2)"
    assert told.ratios("row", "nobody") == told.ratios("no row", "ours") == []
    assert told.to_json()["ratios"] == {"row": {"base": 1.0, "ours": 1.0}}


def test_an_answer_is_the_same_once_written_down():
    told = answer(base=[1.0], ours=[2.0])
    assert Answer.from_json(told.to_json()) == told


def test_without_a_baseline_there_is_no_answer():
    with pytest.raises(RuntimeError, match="base failed"):
        answer(ours=[2.0])


def test_contenders_take_turns():
    turns: list[str] = []

    def measure(name: str) -> dict[str, float]:
        turns.append(name)
        return {"row": float(len(turns))}

    assert in_turns({"a": lambda: measure("a"), "b": lambda: measure("b")}, 2) == {"row": {"a": [1, 3], "b": [2, 4]}}
    assert turns == ["a", "b", "a", "b"]


def test_a_contender_that_fails_in_a_later_turn_is_left_out(capsys):
    turns = iter([{"row": 1.0}])

    def fails() -> dict[str, float]:
        try:
            return next(turns)
        except StopIteration:
            raise RuntimeError("no more") from None

    assert in_turns({"base": lambda: {"row": 2.0}, "fails": fails}, 3) == {"row": {"base": [2.0] * 3}}
    assert capsys.readouterr().err == "fails is left out: no more\n"


@pytest.mark.long
def test_a_contender_that_hangs_is_left_out_and_nothing_of_it_is_left(tmp_path, capsys):
    def hangs() -> dict[str, float]:
        return harness.run([sys.executable, "-c", HANG], tmp_path, rest_s=0.0, limit_s=2.0)

    assert in_turns({"base": lambda: {"row": 2.0}, "hangs": hangs}, 2) == {"row": {"base": [2.0, 2.0]}}
    assert capsys.readouterr().err == "hangs is left out: it had not ended after 2 s\n"
    assert is_gone(int((tmp_path / "pid").read_text()))


def test_a_benchmark_that_is_ended_by_term_ends_its_contender(tmp_path):
    code = "from tests.benchmarks import harness; import sys, pathlib; harness.leave_nothing_behind()\n"
    code += "harness.run([sys.executable, '-c', sys.argv[1]], pathlib.Path(sys.argv[2]), rest_s=0.0)"
    benchmark = subprocess.Popen([sys.executable, "-c", code, HANG, str(tmp_path)], cwd=ROOT)
    pid = tmp_path / "pid"
    end = time.monotonic() + 30
    while not (pid.exists() and pid.read_text()) and time.monotonic() < end:
        time.sleep(0.01)
    benchmark.terminate()
    assert benchmark.wait(30) == 128 + signal.SIGTERM
    assert is_gone(int(pid.read_text()))


def is_gone(pid: int) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("overhead_s", [5e-6, 3e-4, 0.02])
def test_granularity_is_found_where_efficiency_crosses_a_half(overhead_s):
    asked: list[float] = []

    def point(duration_s: float) -> tuple[float, float]:
        asked.append(duration_s)
        return duration_s + overhead_s, duration_s / (duration_s + overhead_s)

    assert contender.least_efficient(point) == pytest.approx(2 * overhead_s, rel=0.03)
    assert len(asked) <= 5


def test_granularity_that_is_never_efficient_is_no_figure():
    with pytest.raises(RuntimeError, match="do not reach"):
        contender.least_efficient(lambda duration_s: (1.0, 0.1))


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_take_values_of_levels_before(shape):
    levels = SHAPES[shape](400)
    before = 0
    for level in levels:
        assert all(0 <= each < before for inputs in level for each in inputs)
        before += len(level)
    assert before == count_of(levels)
    assert 400 <= before <= 402


def test_a_stencil_takes_the_values_of_its_neighbours():
    first, second, _ = SHAPES["stencil"](48)
    assert first == [()] * 16
    assert second[:2] == [(0, 1), (0, 1, 2)]
    assert second[-1] == (14, 15)


def test_promises_are_judged_by_the_median():
    least = Promise("", 0.9, True, "", targets.ratio("row", "ours"))
    most = Promise("", 8.0, False, "", targets.ratio("row", "ours"))
    assert least.verdict(answer(base=[1.0] * 3, ours=[0.1, 0.9, 1.0])) == "0.9 (0.1 to 1) met"
    assert most.verdict(answer(base=[1.0] * 3, ours=[1.0, 8.1, 9.0])) == "8.1 (1 to 9) missed"
    assert least.verdict(answer(base=[1.0])) == ""
    assert least.margins([1.8]) == most.margins([4.0]) == [2.0]


def test_promises_in_plain_units_are_told_as_shares_of_them():
    told = answer(base=[1.0, 2.0], ours=[1.5, 3.0])
    assert targets.share("row", "ours", 2.0)(told) == [0.75, 1.5]
    assert targets.excess("row", "ours", 0.5)(told) == [1.0, 2.0]
    assert targets.excess("row", "nobody", 0.5)(told) == targets.share("row", "nobody", 0.5)(told) == []


def test_the_table_has_a_line_for_every_promise():
    throughput = Answer("", contender.BARE, {"independent": {contender.BARE: [2.0], "handoff_mpi": [3.0]}}, "", 3)
    head, rows = targets.table({"throughput": [throughput]})
    assert head == ["", "promised", "3 ranks"]
    assert rows == [[PROMISES[0].line, "at least 1", "1.5 (1.5 to 1.5) met"]], "of questions that were asked"
    all_asked = {promise.question: [throughput] for promise in PROMISES}
    assert [row[0] for row in targets.table(all_asked)[1]] == [promise.line for promise in PROMISES]
    assert targets.markdown(all_asked).count("\n") == len(PROMISES) + 1


def test_the_list_of_questions_is_complete():
    asking = {path.stem for path in HERE.glob("*.py") if "\ndef ask(setting: Setting) -> Answer:" in path.read_text()}
    assert asking == {question.name for question in QUESTIONS}
    assert {promise.question for promise in PROMISES} <= asking


MODULES = ["tests.benchmarks", "tests.benchmarks.chart", *[f"tests.benchmarks.{each.name}" for each in QUESTIONS]]


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.filterwarnings("ignore:.* found in sys.modules:RuntimeWarning")
def test_every_question_tells_its_usage(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    assert ended.value.code == 0
    assert f"usage: python -m {module} " in capsys.readouterr().out
