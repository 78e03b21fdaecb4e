"""Elements of a lease in one process: what each of them sees, what it leaves behind, and how the loop is stopped."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from handoff_mpi.dag.call_template import ELEMENT, INPUT, Placeholder
from handoff_mpi.messages import OK, RAISED, UNPICKLABLE
from handoff_mpi.serialization import encode
from handoff_mpi.worker import elements as elements_module
from handoff_mpi.worker import lease_surroundings
from handoff_mpi.worker.call_spec import CallSpec
from handoff_mpi.worker.calls import CallRunner
from handoff_mpi.worker.context import current_task
from handoff_mpi.worker.elements import ElementLoop
from handoff_mpi.worker.output import CallOutput
from handoff_mpi.worker.output_index import OutputFiles
from tests.worker.leases import EACH, elements, failures_of, indices, lease, values_of


def runner_of(function):
    runner = CallRunner(3, "run")
    runner._codes[0] = function
    return runner


def run(function, spec):
    """Compute a lease; return the report."""
    outcome = runner_of(function).call(spec)
    assert outcome.status == OK, outcome.error
    return outcome.report


def square(x):
    return x * x


# -- values -----------------------------------------------------------------------------------------------


def test_each_element_has_a_value_in_the_column_by_its_index():
    report = run(square, lease(range(100, 200), intervals=[(3, 5), (90, 92)]))
    assert report.ended == ((3, 5), (90, 92))
    assert values_of(report) == {3: 103**2, 4: 104**2, 90: 190**2, 91: 191**2}
    assert (report.failures, report.left) == ((), ())
    assert report.busy_s > 0


def test_values_are_exactly_of_the_type_that_the_function_returned():
    given = [1, True, 1.0, None, "1", 2**70, np.float32(1), [1], {"a": (1, [2])}]
    values = values_of(run(lambda x: x, lease(given)))
    assert [type(value) for value in values.values()] == [type(value) for value in given]
    assert [*values.values()] == given


def test_elements_are_put_where_their_inputs_are_and_other_arguments_are_shared():
    def join(a, b, c, k):
        return a, b, c, k

    spec = lease(
        "xyz",
        [1, 2, 3],
        args=[Placeholder(ELEMENT, 1), Placeholder(INPUT, 0), EACH],
        kwargs={"k": Placeholder(INPUT, 1)},
        values=[(encode("shared"), None, -1), (encode([7]), None, -1)],
    )
    assert values_of(run(join, spec)) == {k: (k + 1, "shared", "xyz"[k], [7]) for k in range(3)}


def test_a_value_that_a_later_element_changes_in_place_stays_as_it_was():
    kept, array = [], np.zeros(2)

    def grow(x):
        kept.append(x)
        array[:] = x
        return (kept, array) if x % 2 else array

    values = values_of(run(grow, lease(range(4))))
    assert [values[1][0], values[3][0]] == [[0, 1], [0, 1, 2, 3]]
    assert [values[0].tolist(), values[1][1].tolist(), values[2].tolist()] == [[0, 0], [1, 1], [2, 2]]


def test_a_coroutine_is_run_for_each_element():
    async def double(x):
        await asyncio.sleep(0)
        return 2 * x

    assert values_of(run(double, lease([1, 2]))) == {0: 2, 1: 4}


# -- failures ---------------------------------------------------------------------------------------------


def test_an_element_that_raises_fails_alone():
    def inverse(x):
        return 1 / x

    report = run(inverse, lease([1.0, 0.0, 2.0]))
    assert values_of(report) == {0: 1.0, 2: 0.5}
    assert failures_of(report) == [([1], "ZeroDivisionError", "float division by zero")]
    assert report.left == ()


def test_those_that_fail_alike_are_one_group_and_a_kind_at_a_place_has_one_traceback():
    def check(x):
        if x < 4:
            raise ValueError("too small" if x < 3 else "odd")
        if x == 5:
            raise KeyError(x)
        return x

    report = run(check, lease([0, 9, 1, 2, 3, 5, 4]))
    assert failures_of(report) == [
        ([0, 2, 3], "ValueError", "too small"),
        ([4], "ValueError", "odd"),
        ([5], "KeyError", "5"),
    ]
    first, second, third = [error for _, error in report.failures]
    assert "raise ValueError" in first.traceback and "raise KeyError" in third.traceback
    assert second.traceback == ""
    assert (second.place, second.lineage) == (first.place, first.lineage) and first.place.startswith(__file__)


def test_a_traceback_of_the_user_has_no_frames_of_this_package():
    def fail(x):
        raise ValueError(x)

    ((_, error),) = run(fail, lease([1])).failures
    assert error.traceback.count("File ") == 1 and "elements.py" not in error.traceback.replace(__file__, "")


def test_a_value_that_cannot_be_pickled_fails_its_element_alone_in_the_words_of_a_function():
    def make(x):
        return (k for k in range(x)) if x == 1 else x

    report = run(make, lease(range(3)))
    assert values_of(report) == {0: 0, 2: 2}
    ((at, error),) = report.failures
    one = runner_of(lambda: make(1)).call(plain_call())
    assert (indices(at), error) == ([1], one.error)
    assert error.kind == UNPICKLABLE and "return list(...) of it" in error.message


def plain_call():
    return CallSpec("f", 1, ((0,), 0, None, ()), (), 1.0, ())


def test_sys_exit_fails_its_element_alone():
    def leave(x):
        return sys.exit(3) if x else x

    report = run(leave, lease([0, 1, 0]))
    assert values_of(report) == {0: 0, 2: 0}
    assert failures_of(report) == [([1], "SystemExit", "it called sys.exit(3)")]


def test_a_broadcast_value_that_cannot_be_decoded_fails_the_lease():
    spec = lease(range(3), args=[EACH, Placeholder(INPUT, 0)], values=[(encode(Explosive()), None, -1)])
    outcome = runner_of(max).call(spec)
    assert (outcome.status, outcome.report, outcome.error.input) == (RAISED, None, 0)
    assert "invalid literal for int" in outcome.error.message


class Explosive:
    def __reduce__(self):
        return int, ("x",)


def test_an_element_that_cannot_be_decoded_fails_alone():
    report = run(lambda x, y: x, lease([1, Explosive(), 3], "abc", args=[EACH, Placeholder(ELEMENT, 1)]))
    assert values_of(report) == {0: 1, 2: 3}
    ((at, error),) = report.failures
    assert indices(at) == [1] and error.kind == "EncodingError" and "ValueError" in error.lineage
    assert "invalid literal for int" in error.message


def test_elements_that_may_write_to_their_arguments_have_copies_of_what_they_share():
    def write(shared, x, *, more):
        shared += x
        more.append(x)
        return shared.tolist(), more

    options = {"args": [Placeholder(INPUT, 0), EACH], "kwargs": {"more": [7]}}
    values = [(encode(np.zeros(2)), None, -1)]
    spec = lease([1.0, 2.0], values=values, surroundings=(None, {}, True), **options)
    assert values_of(run(write, spec)) == {0: ([1, 1], [7, 1.0]), 1: ([2, 2], [7, 2.0])}
    ((_, error),) = run(write, lease([1.0, 2.0], values=values, **options)).failures
    assert "writable=True" in error.message, "without copies what they share is read-only"


def test_an_interrupt_of_the_user_at_the_terminal_ends_the_lease():
    def interrupt(x):
        raise KeyboardInterrupt

    runner = runner_of(interrupt)
    assert failures_of(runner.call(lease([1])).report) == [([0], "KeyboardInterrupt", "")]
    runner.lets_interrupt = True
    with pytest.raises(KeyboardInterrupt):
        runner.call(lease([1]))


# -- what an element sees ---------------------------------------------------------------------------------


def test_the_task_of_an_element_has_its_index_the_attempt_and_a_seed_of_its_own():
    def facts(x):
        task = current_task()
        return task.id, task.index, task.attempt, task.rank, task.run, task.seed

    spec = lease(range(10), intervals=[(2, 3), (7, 9)], tries=3)
    values = values_of(run(facts, spec))
    assert [values[k][:5] for k in values] == [(("sweep", k), k, 4, 3, "run") for k in (2, 7, 8)]
    seeds = [value[5] for value in values.values()]
    assert len({*seeds}) == 3
    again = values_of(run(facts, lease(range(10), intervals=[(8, 9)])))
    assert again[8][5] == seeds[2], "a seed does not depend on how the elements are leased"


def test_the_task_of_a_function_has_no_index():
    assert runner_of(lambda: current_task().index).call(plain_call()).payload == (0, None)


def test_an_element_that_draws_from_a_global_generator_draws_the_same_however_it_is_leased():
    whole = values_of(run(draw, lease(range(4))))
    parts = values_of(run(draw, lease(range(4), intervals=[(2, 4)])))
    assert len({*whole.values()}) == 4
    assert parts == {k: whole[k] for k in (2, 3)}


def draw(x):
    return random.random()


def test_the_directory_and_the_variables_of_an_element_are_its_own(tmp_path):
    def wander(x):
        before = Path.cwd(), os.environ.get("OF_AN_ELEMENT")
        Path(f"at-{x}").mkdir()
        os.chdir(f"at-{x}")
        os.environ["OF_AN_ELEMENT"] = str(x)
        return [str(each) for each in before], Path.cwd().name

    here = Path.cwd()
    spec = lease(range(3), surroundings=(str(tmp_path), {"OF_AN_ELEMENT": "array"}, False))
    values = values_of(run(wander, spec))
    assert values == {k: ([str(tmp_path), "array"], f"at-{k}") for k in range(3)}
    assert Path.cwd() == here and "OF_AN_ELEMENT" not in os.environ


def test_the_umask_of_an_element_is_its_own():
    before = os.umask(0o022)
    try:
        values = values_of(run(lambda x: os.umask(0o077), lease(range(3))))
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert values == dict.fromkeys(range(3), 0o022)


@pytest.mark.parametrize("interval_s", [0.0, 60.0])
def test_a_change_that_leaves_no_note_is_undone_at_a_later_look(monkeypatch, interval_s):
    monkeypatch.setattr(elements_module, "TICK_S", 0.0)
    monkeypatch.setattr(lease_surroundings, "RESTORE_INTERVAL_S", interval_s)
    change = os.chdir.__wrapped__

    def wander(x):
        before = str(Path.cwd())
        change("/")
        return before

    here = str(Path.cwd())
    assert values_of(run(wander, lease(range(3)))) == {0: here, 1: here, 2: "/" if interval_s else here}
    assert str(Path.cwd()) == here


def test_the_scratch_directory_of_an_element_is_its_own_and_removed_when_it_ends():
    seen = []

    def use_and_look(x):
        scratch = current_task().scratch
        (scratch / "file").write_text("x")
        exist = [Path(each).exists() for each in seen]
        seen.append(str(scratch))
        return exist

    values = values_of(run(use_and_look, lease(range(3))))
    assert values == {0: [], 1: [False], 2: [False, False]}
    assert len({*seen}) == 3 and not Path(seen[-1]).exists()


def test_a_process_that_an_element_has_forked_ends_with_the_element(tmp_path):
    def fork(x):
        if x == 1:
            pid = os.fork()
            if pid:
                os.waitpid(pid, 0)
        with (tmp_path / "calls").open("a") as file:
            file.write(f"{x}\n")
        return x

    assert values_of(run(fork, lease(range(3)))) == {0: 0, 1: 1, 2: 2}
    assert (tmp_path / "calls").read_text().split() == ["0", "1", "1", "2"]


def test_a_process_that_an_element_has_forked_ends_with_an_exception_of_its_own(tmp_path):
    def fork(x):
        pid = os.fork()
        if not pid:
            sys.exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert values_of(run(fork, lease(range(2)))) == {0: 7, 1: 7}


# -- what it prints ---------------------------------------------------------------------------------------


@pytest.fixture
def captured(tmp_path):
    """A runner whose output is captured, and the files that take it."""
    out, index = (os.open(tmp_path / name, os.O_RDWR | os.O_CREAT | os.O_APPEND) for name in ("out", "index"))
    runner = runner_of(None)
    runner.output = CallOutput(lambda: OutputFiles(out, index, 1, 1 << 30), stays=False)
    yield runner, tmp_path
    runner.output.close()


def attributed(path):
    """Id to text, as the index attributes it."""
    text = (path / "out").read_bytes()
    entries = [json.loads(line) for line in (path / "index").read_text().splitlines()]
    ended = [entry for entry in entries if "nbytes" in entry]
    return {entry["id"]: text[entry["offset"] :][: entry["nbytes"]].decode() for entry in ended}


def test_what_elements_print_is_attributed_to_each(captured):
    runner, path = captured

    def say(x):
        if x != 1:
            print("this is", x)

    runner._codes[0] = say
    runner.call(lease(range(4)))
    assert attributed(path) == {f"sweep[{k}]": f"this is {k}\n" for k in (0, 2, 3)}


def test_the_report_on_an_element_that_raised_has_its_last_lines(captured):
    runner, _ = captured

    def fail(x):
        print("it was", x)
        if x == 1:
            raise ValueError(x)

    runner._codes[0] = fail
    ((_, error),) = runner.call(lease(range(3))).report.failures
    assert error.output == "it was 1"


def test_what_native_code_prints_is_attributed_to_the_element_at_the_next_look(captured, monkeypatch):
    monkeypatch.setattr(elements_module, "TICK_S", 0.0)
    runner, path = captured

    def say(x):
        os.write(1, b"native %d\n" % x)

    runner._codes[0] = say
    runner.call(lease(range(2)))
    assert attributed(path) == {f"sweep[{k}]": f"native {k}\n" for k in range(2)}


# -- taken and stopped from another thread ----------------------------------------------------------------


class Stepwise:
    """A loop in a thread of its own, whose elements begin and end as the test says."""

    def __init__(self, count, function=lambda x: x):
        self.begun, self.may_end = threading.Semaphore(0), threading.Semaphore(0)
        self.loop = ElementLoop(elements(range(count)))
        self.outcome = None

        def step(x):
            self.begun.release()
            self.may_end.acquire()
            return function(x)

        spec = lease(range(count))
        spec.loop = self.loop

        def call():
            self.outcome = runner_of(step).call(spec)

        self.thread = threading.Thread(target=call)

    def start(self):
        self.thread.start()
        self.begun.acquire()

    def step(self):
        self.may_end.release()
        self.begun.acquire()

    def finish(self):
        self.may_end.release()
        self.thread.join(10)
        return self.outcome.report


def test_what_has_ended_can_be_taken_while_an_element_runs():
    steps = Stepwise(4)
    steps.start()
    assert steps.loop.take() is None
    steps.step()
    steps.step()
    assert values_of(steps.loop.take()) == {0: 0, 1: 1}
    assert steps.loop.take() is None
    steps.step()
    assert values_of(steps.finish()) == {2: 2, 3: 3}, "each value is reported once"


def test_failures_are_taken_too():
    def fail(x):
        if x == 1:
            raise ValueError(x)
        return x

    steps = Stepwise(4, fail)
    steps.start()
    steps.step()
    steps.step()
    report = steps.loop.take()
    assert (values_of(report), failures_of(report)) == ({0: 0}, [([1], "ValueError", "1")])
    steps.step()
    report = steps.finish()
    assert (values_of(report), report.failures) == ({2: 2, 3: 3}, ())


def test_a_loop_that_is_stopped_begins_no_further_element():
    steps = Stepwise(5)
    steps.start()
    steps.step()
    assert indices(steps.loop.stop()) == [2, 3, 4]
    assert indices(steps.loop.stop()) == []
    report = steps.finish()
    assert (values_of(report), report.left) == ({0: 0, 1: 1}, ())


def test_a_loop_that_is_stopped_before_it_begins_leaves_all():
    loop = ElementLoop(elements(range(3)))
    assert indices(loop.stop()) == [0, 1, 2]
    spec = lease(range(3))
    spec.loop = loop
    assert run(square, spec)[:1] == ((),)


def test_a_loop_that_has_ended_leaves_nothing():
    spec = lease(range(3))
    spec.loop = ElementLoop(spec.elements)
    run(square, spec)
    assert spec.loop.stop() == ()


@pytest.mark.parametrize("seed", range(5))
def test_each_element_is_reported_once_however_threads_interleave(seed):
    """One thread computes, another takes parts, and stops the loop in the end."""
    random.seed(seed)
    count, parts = 30_000, []
    spec = lease(range(count))
    spec.loop = ElementLoop(spec.elements)
    runner = runner_of(lambda x: 1 // (x % 97 - 5))
    outcomes = []
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread = threading.Thread(target=lambda: outcomes.append(runner.call(spec)))
        thread.start()
        for _ in range(random.randrange(50)):
            part = spec.loop.take()
            if part is not None:
                parts.append(part)
        left = indices(spec.loop.stop())
        thread.join(30)
    finally:
        sys.setswitchinterval(switch)
    parts.append(outcomes[0].report)
    values = {index: value for part in parts for index, value in values_of(part).items()}
    failed = [index for part in parts for at, _, _ in failures_of(part) for index in at]
    left += [index for part in parts for index in indices(part.left)]
    assert sorted([*values, *failed, *left]) == [*range(count)]
    assert all(value == 1 // (index % 97 - 5) for index, value in values.items())
    assert all(index % 97 == 5 for index in failed)
    assert not left or min(left) > max([*values, *failed], default=-1)
