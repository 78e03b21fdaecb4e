"""Pools on real ranks: scripts, dag.py, deaths in the middle of a map, interrupts."""

from __future__ import annotations

import pytest

SCRIPT = """
import os, signal, sys, time
import handoff_mpi as handoff
from handoff_mpi import DAG, Function, current_task

class Diverged(Exception):
    pass

def weigh(x):
    if x == 3:
        raise Diverged("at 3")
    return x * scale

def where(x):
    time.sleep(0.01)
    return current_task().rank

def process(x):
    time.sleep(0.01)
    return os.getpid()

def die_once(x):
    if x == 5 and not os.path.exists("died"):
        open("died", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return x

def on_rank_0(cluster):
    global scale
    for scale in range(5):
        assert cluster.map(weigh, [1, 2]) == [scale, 2 * scale], "globals are sent as they are now"
    assert cluster.map(lambda x: x + 1, range(1000)) == list(range(1, 1001))
    try:
        cluster.map(weigh, range(10))
        raise AssertionError("nothing was raised")
    except Diverged as error:
        assert str(error) == "at 3" and "in weigh" in str(error.__cause__)
    assert set(cluster.map(where, range(40))) == {1, 2} and cluster.size == 2
    dag = DAG("between")
    dag.add_function(Function("sum", code=sum, extra_args=[[1, 2]]))
    assert cluster.execute(dag, run_dir=False)["sum"] == 3
    assert cluster.map(die_once, range(20)) == list(range(20)) and os.path.exists("died")
    assert cluster.map(abs, range(10)) == list(range(10))
    for pid in set(cluster.map(process, range(20))):
        os.kill(pid, signal.SIGKILL)
    assert cluster.map(abs, range(10)) == list(range(10)), "rank 0 is left"
    print("WELL", flush=True)

with handoff.Cluster() as cluster:
    if cluster:
        on_rank_0(cluster)
"""


@pytest.mark.parametrize(
    "options", ["ft", *(pytest.param(each, marks=pytest.mark.long) for each in ("plain", "children"))]
)
def test_a_script_maps_over_its_ranks_one_of_which_dies(mpirun, tmp_path, options):
    start = "handoff.start(isolation='process')\n" if options == "children" else ""
    (tmp_path / "script.py").write_text(SCRIPT.replace("class Diverged", f"{start}\nclass Diverged", 1))
    ended = mpirun(3, "script.py", ft=options != "plain")
    assert ended.rc == 0 or options == "ft", ended.err  # mpirun tells of the rank that died
    assert "WELL" in ended.out, ended.err


@pytest.mark.long
def test_a_dag_file_may_map_over_the_ranks_of_its_run(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(
        "import handoff_mpi\n"
        "from handoff_mpi import DAG, Function, Cluster\n"
        "def square(x): return x * x\n"
        "with Cluster() as cluster:\n"
        "    squares = cluster.map(square, range(5))\n"
        "dag = DAG('d')\n"
        "dag.add_function(Function('a', code=print, extra_args=['GOT', *squares]))\n"
    )
    ended = handoff("run", "-n", "3", "dag.py")
    assert ended.rc == 0, ended.err
    assert "GOT 0 1 4 9 16" in ended.out


@pytest.mark.long
def test_an_interrupted_map_leaves_a_pool_that_can_be_used(mpirun, tmp_path):
    (tmp_path / "script.py").write_text(
        "import signal, time\n"
        "import handoff_mpi as handoff\n"
        "with handoff.Cluster() as cluster:\n"
        "    if cluster:\n"
        "        signal.signal(signal.SIGALRM, signal.default_int_handler)\n"
        "        signal.setitimer(signal.ITIMER_REAL, 0.5)\n"
        "        try:\n"
        "            cluster.map(time.sleep, [0.2] * 100)\n"
        "        except KeyboardInterrupt:\n"
        "            print('INTERRUPTED', cluster.map(abs, [-1, -2]), flush=True)\n"
    )
    ended = mpirun(3, "script.py", ft=True)
    assert ended.rc == 0, ended.err
    assert "INTERRUPTED [1, 2]" in ended.out
