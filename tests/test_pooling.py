"""Resources detected or registered for a host belong to all its ranks together, and are never overcommitted."""

from __future__ import annotations

import json
import sys

import pytest

from tests.conftest import mpirun_command, run_process

SCRIPT = """
import json, sys, time
import handoff_mpi as handoff
from handoff_mpi import DAG, Function

def nap():
    time.sleep(0.05)

host, cases = (json.loads(text) for text in sys.argv[1:])
if host:
    handoff.register_local_node(host, scope="host")
for name, (cost, options) in cases.items():
    dag = DAG("pool")
    for number in range(24):
        dag.add_function(Function(number, (), nap, cost=cost))
    results = handoff.execute(dag, run_dir=f"run of {name}", **options)
    if results is not None:
        told = [(each.started_s, each.stopped_s) for each in results.records() if each.state == "done"]
        print("TOLD", json.dumps([name, told]))
"""
REGISTERED = {
    "cores": ({"cpu": 2}, {}),
    "memory": ({"cpu": 0, "memory": 400}, {}),
    "a resource of the host": ({"cpu": 0, "tape": 1}, {}),
    "a resource of the job": ({"cpu": 0, "license": 5}, {"resources": {"license": 12}}),
    "max_concurrency": ({"cpu": 0}, {"max_concurrency": 2}),
}
DETECTED = {"cores": ({"cpu": 2}, {}), "memory": ({"cpu": 0.5, "memory": 500}, {})}
STRATEGIES = {
    name: ({"cpu": 2, "memory": 300}, {"allocation_strategy": name, "slots": 4})
    for name in ("first_available", "load_balanced", "cost_optimized")
}


def most_at_once(spells):
    """Return the largest number of spells that overlap at any time."""
    steps = sorted([(begun, 1) for begun, _ in spells] + [(ended, -1) for _, ended in spells])
    most = now = 0
    for _, step in steps:
        now += step
        most = max(most, now)
    return most


def run(directory, cases, host, env=None):
    """Run the cases one after the other on four ranks; return when each of their calls began and stopped."""
    (directory / "pool.py").write_text(SCRIPT)
    words = [sys.executable, "pool.py", json.dumps(host), json.dumps(cases)]
    ended = run_process([*mpirun_command(4), *words], directory, 90, env)
    assert ended.rc == 0, ended.err
    return dict(json.loads(line[5:]) for line in ended.out.splitlines() if line.startswith("TOLD "))


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    host = {"cpu": 4, "memory": "1GB", "tape": 2}
    return run(tmp_path_factory.mktemp("registered"), {**REGISTERED, **STRATEGIES}, host)


@pytest.fixture(scope="module")
def detected(tmp_path_factory):
    env = {"HANDOFF_CORES": "4", "HANDOFF_MEMORY": "1000"}
    return run(tmp_path_factory.mktemp("detected"), DETECTED, {}, env)


@pytest.mark.long
@pytest.mark.parametrize("case", REGISTERED)
def test_never_more_than_two_at_once_of_what_was_registered(registered, case):
    assert len(registered[case]) == 24
    assert most_at_once(registered[case]) == 2


@pytest.mark.long
@pytest.mark.parametrize("case", DETECTED)
def test_never_more_than_two_at_once_of_what_the_environment_says(detected, case):
    assert len(detected[case]) == 24
    assert most_at_once(detected[case]) == 2


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_strategy_overcommits(registered, strategy):
    assert len(registered[strategy]) == 24
    assert most_at_once(registered[strategy]) <= 2
