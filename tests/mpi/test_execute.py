"""The library inside pytest-mpi: ``mpirun -n 3 python -m pytest --with-mpi tests/mpi``."""

from __future__ import annotations

import operator
import os

import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, Function
from tests.conftest import ROOT


def squares(count):
    dag = DAG()
    for number in range(count):
        dag.add_function(Function(number, (), operator.mul, [number, number]))
    dag.add_function(Function("sum", list(range(count)), lambda *parts: sum(parts)))
    return dag


@pytest.mark.mpi(min_size=2)
def test_every_rank_gets_the_results(tmp_path):
    results = handoff.execute(squares(30), results_on="all", run_dir=tmp_path)
    assert results["sum"] == sum(number * number for number in range(30))


@pytest.mark.mpi(min_size=2)
def test_several_runs_in_one_job(tmp_path):
    with handoff.Cluster() as cluster:
        if cluster:
            for count in (1, 5, 50):
                results = cluster.execute(squares(count), run_dir=tmp_path / str(count))
                assert results["sum"] == sum(number * number for number in range(count))


@pytest.mark.parametrize("ranks", [2, 4])
def test_under_mpirun(mpirun, ranks):
    if "OMPI_COMM_WORLD_SIZE" in os.environ:
        pytest.skip("under mpirun already")
    words = ["--with-mpi", "-q", "-k", "every_rank or several", "--rootdir", ROOT, __file__]
    ended = mpirun(ranks, "-m", "pytest", *words)
    assert ended.rc == 0, ended.out + ended.err
    assert ended.out.count("2 passed") == ranks, ended.out
