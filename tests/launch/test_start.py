"""Ranks that die while MPI starts: the others wait for them inside MPI, and are ended from outside."""

from __future__ import annotations

import os
import sys

import pytest

DYING = """
import os
if os.environ.get("OMPI_COMM_WORLD_RANK") == "1":
    try:
        os.close(os.open("died", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        pass
    else:
        {death}
"""
DAG = """
from handoff_mpi import DAG, Function
dag = DAG("d")
dag.add_function(Function("x", (), abs, [-1]))
"""
SCRIPT = (
    DAG
    + """
import handoff_mpi
handoff_mpi.execute(dag, join_limit=1)
"""
)
DEATH = """import sys
        class Killing:
            def find_spec(self, name, *_):
                if name == "mpi4py.MPI": os.kill(os.getpid(), 9)
        sys.meta_path.insert(0, Killing())"""


@pytest.fixture
def dying(tmp_path):
    """Have rank 1 of the first launch die as it starts MPI; return the environment for that."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DYING.format(death=DEATH))
    (tmp_path / "dag.py").write_text(DAG)
    (tmp_path / "script.py").write_text(SCRIPT)
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.long
def test_a_rank_that_dies_while_mpi_starts_means_another_launch_at_once(handoff, dying):
    ended = handoff("run", "-n", "4", "dag.py", env=dying, timeout_s=60)
    assert ended.rc == 0, ended.err
    assert ended.err.count("has died while MPI started; the launch is ended") == 1, ended.err
    assert ended.err.count("launched again") == 1


@pytest.mark.long
def test_under_a_bare_mpirun_the_other_ranks_end_and_say_why(mpirun, dying):
    ended = mpirun(3, "script.py", ft=True, env=dying, timeout_s=60)
    assert ended.rc == 1, ended.err
    assert ended.err.count("MPI has not started within 2.06 s") >= 1, ended.err


@pytest.mark.long
@pytest.mark.sample("True")
@pytest.mark.parametrize("has_fault_tolerance", [True, False])
def test_under_a_bare_mpirun_a_stopped_rank_ends_the_job_while_mpi_starts(mpirun, dying, tmp_path, has_fault_tolerance):
    site = tmp_path / "site" / "sitecustomize.py"
    site.write_text(site.read_text().replace("os.getpid(), 9", "os.getpid(), 19"))
    ended = mpirun(3, "script.py", ft=has_fault_tolerance, env=dying, timeout_s=60)
    assert ended.rc != 0, ended.err
    assert ended.err.count("MPI has not started within 2.06 s") >= 1, ended.err


@pytest.mark.long
@pytest.mark.sample("False")
@pytest.mark.parametrize("has_fault_tolerance", [True, False])
def test_a_rank_that_never_joins_ends_the_job(mpirun, tmp_path, has_fault_tolerance):
    (tmp_path / "dag.py").write_text(DAG)
    stranger = "from mpi4py import MPI; import time; time.sleep(100)"
    words = ["-m", "handoff_mpi", "run", "--join-limit", "1", "dag.py", ":", "-n", "1", sys.executable, "-c", stranger]
    ended = mpirun(2, *words, ft=has_fault_tolerance, timeout_s=40)
    assert ended.rc == 2, ended.err
    assert "handoff: 1 of 3 ranks have not joined within 2 s: 2" in ended.err


@pytest.mark.soak
def test_a_script_that_calls_execute_on_rank_0_alone_is_told(mpirun, tmp_path):
    script = "import handoff_mpi\nfrom mpi4py import MPI\ndag = handoff_mpi.DAG('d')\n"
    script += "if MPI.COMM_WORLD.rank == 0: handoff_mpi.execute(dag, join_limit=5.5)\n"
    (tmp_path / "script.py").write_text(script)
    ended = mpirun(2, "script.py", timeout_s=40)
    assert ended.rc != 0, ended.err
    assert "1 of 2 ranks have not joined within 11 s: 1; call this on every rank" in ended.err, ended.err
    waits = "handoff: rank 0 waits up to 11 s for 1 of 2 ranks to join: 1; every rank has to make the same call"
    assert ended.err.count(waits) == 1, ended.err
