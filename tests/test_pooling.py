"""What is detected or registered for a host belongs to all its ranks together, and is never overcommitted."""

from __future__ import annotations

import json

import pytest

SCRIPT = """
import json, sys, time
import handoff_mpi as handoff
from handoff_mpi import DAG, Function

def nap():
    time.sleep(0.02)

cost, host, options = (json.loads(text) for text in sys.argv[1:])
if host:
    handoff.register_local_node(host, scope="host")
dag = DAG("pool")
for number in range(64):
    dag.add_function(Function(number, (), nap, cost=cost))
results = handoff.execute(dag, run_dir="run", **options)
if results is not None:
    told = [(each.rank, each.started_s, each.stopped_s) for each in results.records() if each.state == "done"]
    print("TOLD", json.dumps(told))
"""


def most_at_once(spells):
    """Return the largest number of spells that overlap at any time."""
    steps = sorted([(begun, 1) for begun, _ in spells] + [(ended, -1) for _, ended in spells])
    most = now = 0
    for _, step in steps:
        now += step
        most = max(most, now)
    return most


CASES = {
    "cores of the environment": ({"cpu": 2}, {}, {}, {"HANDOFF_CORES": "4"}),
    "cores registered for the host": ({"cpu": 2}, {"cpu": 4}, {}, {}),
    "memory registered for the host": ({"cpu": 0, "memory": 400}, {"cpu": 4, "memory": "1GB"}, {}, {}),
    "memory of the environment": ({"cpu": 0, "memory": 400}, {"cpu": 4}, {}, {"HANDOFF_MEMORY": "1000"}),
    "a resource of the host": ({"cpu": 0, "tape": 1}, {"cpu": 4, "tape": 2}, {}, {}),
    "a resource of the job": ({"cpu": 0, "license": 5}, {"cpu": 4}, {"resources": {"license": 12}}, {}),
    "max_concurrency": ({"cpu": 0}, {"cpu": 4}, {"max_concurrency": 2}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_never_more_than_two_at_once(mpirun, tmp_path, case):
    cost, host, options, env = CASES[case]
    (tmp_path / "pool.py").write_text(SCRIPT)
    words = [json.dumps(each) for each in (cost, host, options)]
    ended = mpirun(4, "pool.py", *words, env=env)
    assert ended.rc == 0, ended.err
    (line,) = [line for line in ended.out.splitlines() if line.startswith("TOLD ")]
    told = json.loads(line[5:])
    assert len(told) == 64
    assert most_at_once([(begun, stopped) for _, begun, stopped in told]) == 2


@pytest.mark.parametrize("strategy", ["first_available", "load_balanced", "cost_optimized"])
def test_no_strategy_overcommits(mpirun, tmp_path, strategy):
    (tmp_path / "pool.py").write_text(SCRIPT)
    options = {"allocation_strategy": strategy, "slots": 4}
    ended = mpirun(4, "pool.py", '{"cpu": 2, "memory": 300}', '{"cpu": 4, "memory": 2000}', json.dumps(options))
    assert ended.rc == 0, ended.err
    (line,) = [line for line in ended.out.splitlines() if line.startswith("TOLD ")]
    assert most_at_once([spell[1:] for spell in json.loads(line[5:])]) <= 2
