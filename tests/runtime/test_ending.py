"""How a run ends: what it waits for, it waits for once."""

from __future__ import annotations

from pathlib import Path

import handoff_mpi as handoff
from handoff_mpi import DAG, Function
from handoff_mpi.worker.child_process import ChildProcess


def test_all_children_are_told_to_end_before_one_is_waited_for(tmp_path, monkeypatch):
    told = []

    def note(name):
        does = getattr(ChildProcess, name)

        def noted(self):
            told.append((name, self.pid))
            does(self)

        monkeypatch.setattr(ChildProcess, name, noted)

    note("hang_up")
    note("close")
    monkeypatch.setenv("HANDOFF_CORES", "3")
    dag = DAG("three at once")
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    for number in range(3):
        dag.add_function(Function(number, (), meet, [str(meeting), 3], max_retries=0))
    results = handoff.execute_local(dag, isolation="process", slots=3, run_dir=tmp_path / "run")
    assert results.status == "done"
    first = told[0][1]
    told[:] = [each for each in told if each[1] != first]  # that one decoded what the others would be sent
    assert [name for name, _ in told[:4]] == ["hang_up"] * 3 + ["close"]
    assert len({pid for _, pid in told[:3]}) == 3


def meet(place, count):
    """Wait until ``count`` calls are here: each in a child of its own."""
    import os
    import time
    from pathlib import Path

    Path(place, str(os.getpid())).touch()
    end = time.monotonic() + 30
    while len(list(Path(place).iterdir())) < count:
        assert time.monotonic() < end
        time.sleep(0.005)


SCRIPT = """
import os
import handoff_mpi as handoff
from handoff_mpi import DAG, Function

def dag():
    dag = DAG("d")
    dag.add_function(Function("pid", (), os.getpid))
    return dag

with handoff.Cluster() as cluster:
    if cluster:
        pids = [cluster.execute(dag(), isolation="process")["pid"] for _ in range(3)]
        print("PIDS", *pids, flush=True)
"""


def test_a_child_serves_all_runs_of_a_cluster_and_ends_with_it(mpirun, tmp_path):
    (tmp_path / "runs.py").write_text(SCRIPT)
    ended = mpirun(2, "runs.py")
    assert ended.rc == 0, ended.err
    (line,) = [line for line in ended.out.splitlines() if line.startswith("PIDS ")]
    (pid,) = set(line.split()[1:])
    assert not Path("/proc", pid).exists()
