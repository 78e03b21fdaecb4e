"""A rank 0 that is killed, or leaves, beside ranks that cannot notice it, as they are stopped."""

from __future__ import annotations

import pytest

KILLING = """
import json, os, signal
from pathlib import Path
from handoff_mpi import DAG, Function

def setup(rank):
    if not Path(f"pid{rank}").exists():  # else this is a child process of the rank
        Path(f"pid{rank}").write_text(str(os.getpid()))

def kill(signals):
    if not Path("killed").exists():
        Path("killed").touch()
        for rank, number in signals:
            os.kill(int(Path(f"pid{rank}").read_text()), number)
    return 7

def build(args):
    dag = DAG("killing")
    dag.add_function(Function("kill", (), kill, [json.loads(args[0])]))
    return dag
"""


def test_under_a_bare_mpirun_a_stopped_rank_ends_after_a_killed_rank_0(mpirun, tmp_path):
    (tmp_path / "dag.py").write_text(KILLING)
    words = ["--isolation", "process", "dag.py", "--", "[[1, 19], [0, 9]]"]
    ended = mpirun(2, "-m", "handoff_mpi", "run", *words, ft=True, timeout_s=30)
    assert ended.rc != 2, ended.err


@pytest.mark.soak
def test_a_stopped_rank_and_a_killed_rank_0_mean_another_launch(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(KILLING)
    words = ["--isolation", "process", "dag.py", "--", "[[1, 19], [0, 9]]"]
    ended = handoff("run", "-n", "2", *words, timeout_s=60)
    assert ended.rc == 0, ended.err
    assert ended.err.count("launched again") == 1, ended.err


STOPS_AT_END = """
import atexit, os, signal
from handoff_mpi import DAG, Function, current_task, execute

def stop(): os.kill(os.getpid(), signal.SIGSTOP)
def late():
    atexit.register(stop)
    return current_task().rank

dag = DAG("late")
dag.add_function(Function("late", (), late, node=1))
if __name__ == "__main__":
    execute(dag, isolation="rank", run_dir="run")
"""


@pytest.mark.long
@pytest.mark.parametrize("words", [("-m", "handoff_mpi", "run", "--isolation", "rank", "late.py"), ("late.py",)])
def test_a_rank_that_is_stopped_on_its_way_out_holds_no_job(mpirun, tmp_path, words):
    (tmp_path / "late.py").write_text(STOPS_AT_END)
    assert mpirun(3, *words, ft=True, timeout_s=30).rc == 0
