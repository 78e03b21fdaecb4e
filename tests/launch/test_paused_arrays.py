"""Arrays of which every element raises, on real ranks: few begin, and all that began have failed."""

from __future__ import annotations

import json

import pytest

from handoff_mpi import load
from tests.launch.test_arrays import PLACES, counts_of

COUNT = 10_000
DAG_FILE = f"""
import os, time
from handoff_mpi import DAG

def bad(x):
    with open(os.environ["NOTES"], "a") as file:
        file.write(f"{{x}} ")
    end = time.perf_counter() + 1e-4
    while time.perf_counter() < end:
        pass
    raise ValueError(x)

def build(args):
    limit, *retries = map(eval, args)
    dag = DAG("bad")
    dag.map(bad, range({COUNT}), id="xs", max_failures=limit, max_retries=retries[0] if retries else None)
    return dag
"""


@pytest.mark.long
@pytest.mark.sample("ranks-5-None", "children of ranks-0.01-0")
@pytest.mark.parametrize("max_retries", [None, "0"])
@pytest.mark.parametrize("max_failures", ["5", "0.01"])
@pytest.mark.parametrize("place", PLACES)
def test_few_elements_begin_where_all_fail_and_all_that_began_have_failed(
    handoff, tmp_path, place, max_failures, max_retries
):
    (tmp_path / "dag.py").write_text(DAG_FILE)
    words = [max_failures] if max_retries is None else [max_failures, max_retries]
    ended = handoff(*PLACES[place], "--run-dir", "run", "dag.py", "--", *words, env={"NOTES": str(tmp_path / "notes")})
    assert ended.rc == 1, ended.err
    results = load(tmp_path / "run")
    begun = {int(index) for index in counts_of(tmp_path / "notes")}
    limit = float(max_failures) * (COUNT if "." in max_failures else 1)
    # At most two leases of a hundredth of a second are at each rank when the first failures are reported, and two more
    # when the array pauses.
    assert limit < len(begun) < 1_500
    assert set(results["xs"].errors) == begun
    failed = len(begun)
    assert results.counts() == {"done": 0, "failed": failed, "skipped": COUNT - failed, "waiting": 0}
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["failed"], status["skipped"]) == (failed, COUNT - failed), status
