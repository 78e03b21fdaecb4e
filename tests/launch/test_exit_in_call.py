"""A rank whose function calls ``os._exit`` ends by SIGKILL, which the job survives."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import run_process

PROCESS = """
import os, signal, sys
from handoff_mpi.launch.exit_in_call import exits_by_signal
from handoff_mpi.process_exit import exit_process
with exits_by_signal(3):
    child = os.fork()
    if not child:
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    {ends}
os._exit(4)
"""


@pytest.mark.parametrize(
    ("ends", "status", "says"),
    [
        ("os._exit(5)", -9, "handoff: rank 3 ends: a function that it ran has called os._exit(5)\n"),
        ("exit_process(6)", 6, ""),
        ("pass", 4, ""),
    ],
)
def test_only_an_exit_of_users_code_in_the_rank_itself_is_a_kill(tmp_path, ends, status, says):
    ended = run_process([sys.executable, "-c", PROCESS.format(ends=ends)], tmp_path, 60.0)
    assert (ended.rc, ended.out, ended.err) == (status, "7\n", says)


SCRIPT = """
import os, signal
import handoff_mpi as handoff
def end_once(x):
    if x == 3 and not os.path.exists("once"):
        open("once", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return x
def end(x):
    if x == 3:
        os._exit(9)
    return x
with handoff.Cluster() as cluster:
    if cluster:
        print(cluster.map(end_once, range(5)), flush=True)
        try:
            cluster.map(end, range(5))
        except handoff.TaskError as error:
            print("died 3 times" in str(error), flush=True)
        print(cluster.map(abs, [1, -2]), flush=True)
"""


@pytest.mark.long
def test_a_job_survives_the_last_rank_that_a_function_ends(mpirun, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    ended = mpirun(3, "script.py", ft=True)
    assert ended.out == "[0, 1, 2, 3, 4]\nTrue\n[1, 2]\n", ended.err
    assert "ends: a function that it ran has called os._exit(9)" in ended.err
    assert ended.rc == 0, "an exit of a function is not the end of the script"
