"""Functions that are ``async def`` are called as any other: in one process, on ranks, in children, in a notebook."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import pytest

from handoff_mpi import DAG, Function, current_task, execute_local
from handoff_mpi.callbacks import call_here
from handoff_mpi.coroutines import running_loop_hidden

SCRIPT = """
import asyncio, functools, types
import handoff_mpi
from handoff_mpi import DAG, Function, current_task

async def co(x, y=1):
    await asyncio.sleep(0.001)
    return x + y, current_task().id

def decorated(code):
    @functools.wraps(code)
    def call(*args): return code(*args)
    return call

class Model:
    async def __call__(self, x): return await co(x)
    async def fit(self, x): return await co(x)
    @staticmethod
    async def scale(x): return await co(x)

@types.coroutine
def old(x): return (yield from co(x))

async def pair(*values): return values
async def boom(): return await asyncio.gather(co(1), fail())
async def fail(): raise ValueError("boom")
async def slow(): await asyncio.sleep(60)
def generate(): yield 1

dag = DAG("async")
codes = {"co": co, "partial": functools.partial(co, y=1), "decorated": decorated(co), "object": Model(),
         "method": Model().fit, "static": Model.scale, "old": old, "lambda": lambda x: co(x)}
for name, code in codes.items():
    dag.add_function(Function(name, (), code, [1]))
dag.add_function(Function("inline", (), co, [2], type="inline"))
dag.add_function(Function("pair", ["inline", *codes], pair))
dag.add_function(Function("boom", (), boom, max_retries=0))
dag.add_function(Function("slow", (), slow, max_retries=0, timeout=0.3))
dag.add_function(Function("items", (), lambda: generate(), max_retries=0))
dag.add_function(Function("print", ["pair"], print))
if __name__ == "__main__":
    handoff_mpi.execute(dag, run_dir="r", check=False)
"""
NAMES = ["co", "partial", "decorated", "object", "method", "static", "old", "lambda"]
PRINTED = ((3, "pair"), *((2, name) for name in NAMES))


RUN = ["-m", "handoff_mpi", "run", "--run-dir", "r"]
WAYS = {
    "one process": (0, [*RUN, "dag.py"]),
    "children": (2, [*RUN, "--isolation", "process", "dag.py"]),
    "script": (2, ["dag.py"]),
}


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_async_functions_run_as_others_do(mpirun, handoff, tmp_path, way):
    ranks, words = WAYS[way]
    (tmp_path / "dag.py").write_text(SCRIPT)
    ended = mpirun(ranks, *words) if ranks else handoff(*words[2:])
    assert eval(ended.out) == PRINTED, ended.err
    assert "10 done, 3 failed" in ended.err or way == "script", ended.err
    assert "ValueError: boom" in ended.err
    assert "asyncio/" not in ended.err  # frames between ours and the user's
    assert "timeout of 0.3 s" in ended.err
    assert "cannot pickle 'generator' object; return list(...) of it" in ended.err
    assert "never awaited" not in ended.err


def dag_of(code):
    dag = DAG("d")
    dag.add_function(Function("a", (), code))
    return dag


async def where():
    await asyncio.sleep(0.001)
    return current_task().id, threading.current_thread() is threading.main_thread()


def run_a_loop(x):
    async def add():
        await asyncio.sleep(0.001)
        return x + 1

    return asyncio.run(add())


async def run_a_dag():
    return execute_local(dag_of(where), run_dir=False)["a"]


def test_functions_do_not_see_the_loop_of_a_notebook():
    async def cell():
        dag = dag_of(where)
        dag.add_function(Function("b", (), run_a_loop, [1]))
        dag.add_function(Function("c", (), run_a_dag))
        results = execute_local(dag, run_dir=False)
        await asyncio.sleep(0.001)
        return results.values, asyncio.get_running_loop().is_running(), asyncio.current_task() is not None

    expected = {"a": ("a", True), "b": 2, "c": ("a", True)}
    assert asyncio.run(cell()) == (expected, True, True)


@pytest.mark.long
def test_functions_do_not_see_the_loop_of_a_script_on_any_rank(mpirun, tmp_path):
    (tmp_path / "script.py").write_text(
        """
import asyncio, handoff_mpi
from handoff_mpi import DAG, Function, current_task
async def wait(x): await asyncio.sleep(0.001); return x
def run(x): return asyncio.run(wait(x)), current_task().rank
dag = DAG("d")
for x in range(20):
    dag.add_function(Function(x, (), run, [x]))
async def main():
    results = handoff_mpi.execute(dag, run_dir=False)
    await asyncio.sleep(0.001)
    if results is not None:
        values = [results[x] for x in range(20)]
        print([value for value, rank in values] == list(range(20)), {rank for _, rank in values} <= {1, 2})
asyncio.run(main())
"""
    )
    ended = mpirun(3, "script.py")
    assert ended.rc == 0, ended.err
    assert ended.out == "True True\n"


async def fail():
    raise LookupError("boom")


async def leave():
    raise SystemExit(3)


@pytest.mark.parametrize("is_in_loop", [False, True])
@pytest.mark.parametrize("code, kind", [(fail, LookupError), (leave, SystemExit)])
def test_what_it_raises_is_raised(is_in_loop, code, kind):
    async def cell():
        with running_loop_hidden():
            return call_here(code, (), {})

    with pytest.raises(kind):
        asyncio.run(cell()) if is_in_loop else call_here(code, (), {})


@pytest.mark.parametrize("is_in_loop", [False, True])
def test_an_interrupt_cancels_it_and_is_raised(is_in_loop):
    ended = []

    async def slow():
        try:
            threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def cell():
        # That of asyncio.run would only cancel the cell; a notebook has Python's own.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with running_loop_hidden():
            call_here(slow, (), {})

    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(cell()) if is_in_loop else call_here(slow, (), {})
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert ended == [True]
    assert time.monotonic() - started < 10
