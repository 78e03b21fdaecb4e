"""A call uses the cores that it claims: libraries, loaded before or after, and all code that counts cores."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from handoff_mpi import DAG, Function, execute_local
from handoff_mpi.worker.thread_limits import ThreadLimits

VARIABLES = ("LOKY_MAX_CPU_COUNT", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS", "OMP_NUM_THREADS")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in (*VARIABLES, "PYTHON_CPU_COUNT", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        monkeypatch.setenv(name, "77")


def call(function, tmp_path, cpu, isolation="rank"):
    dag = DAG("cores")
    dag.add_function(Function("f", (), function, cost={"cpu": cpu}))
    options = {"isolation": isolation, "run_dir": tmp_path / f"run-{cpu}-{isolation}"}
    return execute_local(dag, **options)["f"]


def variables():
    return [os.environ[name] for name in VARIABLES]


def counts():
    pool = concurrent.futures.ProcessPoolExecutor()
    counted = [os.cpu_count(), multiprocessing.cpu_count(), pool._max_workers]
    pool.shutdown()
    return [*counted, *([os.process_cpu_count()] if hasattr(os, "process_cpu_count") else [])]


def joblibs():
    import joblib

    return joblib.effective_n_jobs(-1), joblib.cpu_count()


def programs():
    code = "import os; print(os.cpu_count())"
    return int(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout)


@pytest.mark.long
@pytest.mark.parametrize("isolation", ["rank", "process"])
def test_what_counts_cores_counts_those_of_the_claim(tmp_path, monkeypatch, isolation):
    monkeypatch.setenv("HANDOFF_CORES", "3")
    before = os.cpu_count()
    assert set(call(counts, tmp_path, 1, isolation)) == {1}
    assert set(call(counts, tmp_path, 3, isolation)) == {3}
    assert call(variables, tmp_path, 2, isolation) == ["2"] * len(VARIABLES)
    assert os.cpu_count() == before


@pytest.mark.long
def test_joblib_uses_one_core_in_a_call_of_one(tmp_path):
    pytest.importorskip("joblib")
    assert call(joblibs, tmp_path, 1) == (1, 1)
    assert call(joblibs, tmp_path, 1, "process") == (1, 1)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="Python reads PYTHON_CPU_COUNT from 3.13 on")
def test_programs_that_a_call_starts_count_its_cores(tmp_path):
    assert call(programs, tmp_path, 1) == 1


@pytest.fixture
def fake(monkeypatch):
    def make(name, **attributes):
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return make


SETTERS = ("torch.set_num_threads", "pyarrow.set_cpu_count", "numexpr.set_num_threads", "cv2.setNumThreads")


@pytest.mark.parametrize("setter", SETTERS)
def test_libraries_that_are_loaded_get_the_threads_of_the_claim(fake, setter):
    name, _, setter = setter.partition(".")
    told = []
    fake(name, **{setter: told.append})
    limits = ThreadLimits()
    for cores in (2, 2, 0.5, 1, 4):
        limits.set(cores)
    assert told[0] == 2
    assert told[-1] == 4
    assert 1 in told


@pytest.mark.parametrize("setter", [None, lambda threads: 1 / 0])
def test_a_library_that_is_half_loaded_or_refuses_fails_no_call(fake, setter):
    fake("pyarrow", set_cpu_count=setter)
    fake("torch")
    assert ThreadLimits().set(2)


def fake_numba(fake, threads):
    """As numba: the pool has the size that the variable had when it started, and another one is an error."""
    told = []
    config = SimpleNamespace(NUMBA_NUM_THREADS=threads)
    parallel = fake("numba.np.ufunc.parallel", _is_initialized=False)

    def reload_config():
        wanted = int(os.environ["NUMBA_NUM_THREADS"])
        if parallel._is_initialized and wanted != config.NUMBA_NUM_THREADS:
            raise RuntimeError
        config.NUMBA_NUM_THREADS = wanted

    def set_num_threads(threads):
        assert 1 <= threads <= config.NUMBA_NUM_THREADS
        told.append(threads)

    config.reload_config = reload_config
    fake("numba", config=config, set_num_threads=set_num_threads)
    return config, parallel, told


def test_numbas_pool_is_resized_before_it_starts_and_masked_afterwards(fake):
    config, parallel, told = fake_numba(fake, 8)
    limits = ThreadLimits()
    limits.set(4)
    assert (config.NUMBA_NUM_THREADS, told) == (4, [])
    parallel._is_initialized = True
    for cores in (2, 4, 8, 1):
        limits.set(cores)
        config.reload_config()  # as a compilation does
    assert told == [2, 4, 4, 1]
