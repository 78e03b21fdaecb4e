"""Nothing is left open and nothing deprecated is used, at any end of a run, as Python's development mode tells."""

from __future__ import annotations

import pytest

from tests.conftest import DEVELOPMENT

SCRIPT = """
import handoff_mpi as handoff

def make(number): return bytes(50_000 + number)
def fails(): raise ValueError
def total(*values): return sum(map(len, values))

with handoff.DAG("d") as dag:
    handoff.task(total)(*[handoff.task(make)(number) for number in range(4)])
with handoff.DAG("failing") as failing:
    handoff.task(fails, max_retries=0)()

if __name__ == "__main__":
    handoff.execute(dag, isolation="process")
    with handoff.Cluster() as cluster:
        if cluster:
            cluster.execute(dag, run_dir="r")
            assert handoff.load("r")["total"] == 200_006
            try:
                cluster.execute(failing)
            except handoff.DAGFailed:
                print("all seen")
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "d.py").write_text(SCRIPT)
    (tmp_path / "failing.py").write_text("from d import failing as dag")
    return "d.py"


ON_RANKS = ["run", "-n", "3", "--isolation", "process", "d.py"]
OTHERS = ["check", "d.py"], ["run", "failing.py"], ["run", "nothing.py"]


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--isolation", "process", "d.py"],
        *(pytest.param(words, marks=pytest.mark.long) for words in (ON_RANKS, *OTHERS)),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("script")
def test_the_command_line_warns_of_nothing(words, handoff):
    ended = handoff(*words, env=DEVELOPMENT)
    assert ended.rc in (0, 1, 2), ended.err
    assert "Warning" not in ended.err


@pytest.mark.long
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_script_warns_of_nothing(ranks, mpirun, script):
    ended = mpirun(ranks, script, env=DEVELOPMENT)
    assert ended.rc == 0, ended.err
    assert "all seen" in ended.out
    assert "Warning" not in ended.err
