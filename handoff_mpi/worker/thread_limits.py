"""Keeps libraries, and other code that counts cores, to the cores that the running call has claimed.

Libraries that are loaded already have functions for it. Those that are loaded later, and programs that the call starts,
read environment variables. What asks :mod:`os` for the number of cores during a call, ``multiprocessing.Pool()`` for
example, receives that of the claim.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

from handoff_mpi.resources.detection import usable_cpus
from handoff_mpi.worker.process_state import is_in_call

VARIABLES = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
    *("NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS"),
    "LOKY_MAX_CPU_COUNT",  # joblib reads it at each n_jobs=-1
    "PYTHON_CPU_COUNT",  # Python reads it when it starts, from 3.13 on
)
_NUMBA_VARIABLE = "NUMBA_NUM_THREADS"
#: Modules in which threadpoolctl finds BLAS or OpenMP.
_USES_BLAS = ("numpy", "scipy", "sklearn", "torch")
#: Modules with thread pools of their own, and the function that takes the number of threads.
_SETTERS = (
    ("torch", "set_num_threads"),
    ("pyarrow", "set_cpu_count"),
    ("numexpr", "set_num_threads"),
    ("cv2", "setNumThreads"),
)
#: The thread count of the claim in effect in this process; 0 before the first.
_threads = 0


class ThreadLimits:
    """Keeps libraries to the cores of the claim; changes nothing while the claim stays the same."""

    def __init__(self) -> None:
        self._cores = -1.0
        self._threads = 0
        self._modules = 0

    def set(self, cores: float) -> bool:
        """Let libraries use ``cores`` threads (at least one) from now on; return whether variables have changed."""
        if cores == self._cores and len(sys.modules) == self._modules:
            return False
        threads = max(1, int(cores))
        has_changed = threads != self._threads
        if has_changed:
            _limit_process(threads)
        if has_changed or len(sys.modules) != self._modules:
            _limit_loaded(threads, has_changed)
        self._cores, self._threads, self._modules = cores, threads, len(sys.modules)
        return has_changed


def _limit_process(threads: int) -> None:
    global _threads
    _threads = threads
    for name in VARIABLES:
        os.environ[name] = str(threads)
    _widen_affinity(threads)


def _limit_loaded(threads: int, has_changed: bool) -> None:
    if any(name in sys.modules for name in _USES_BLAS):
        import threadpoolctl

        threadpoolctl.threadpool_limits(threads)
    for name, setter in _SETTERS:
        if name in sys.modules:
            _try(getattr(sys.modules[name], setter, None), threads)
    _limit_numba(threads, has_changed)


def _limit_numba(threads: int, has_changed: bool) -> None:
    """The size of numba's pool is fixed once it has started; then the variable must not differ from it, or numba raises
    at the next compilation, and fewer threads of the pool are used.
    """
    numba: object = sys.modules.get("numba")
    config = getattr(numba, "config", None)
    most = getattr(config, "NUMBA_NUM_THREADS", threads)
    has_started = getattr(sys.modules.get("numba.np.ufunc.parallel"), "_is_initialized", False)
    if has_started:
        _try(getattr(numba, "set_num_threads", None), min(threads, most))
    if has_changed:
        os.environ[_NUMBA_VARIABLE] = str(most if has_started else threads)
        if not has_started:
            _try(getattr(config, "reload_config", None))


def _try(function: Any, *args: object) -> None:
    """A library may be half loaded, or refuse: then it has the threads that it has."""
    try:
        if function is not None:
            function(*args)
    except Exception:
        pass


def _widen_affinity(threads: int) -> None:
    """A launcher may have bound the rank to fewer cores than its calls claim; the claim is what counts."""
    if not hasattr(os, "sched_setaffinity"):
        return
    try:
        bound = os.sched_getaffinity(0)
        if len(bound) < threads:
            os.sched_setaffinity(0, usable_cpus() or bound)
    except OSError:
        pass  # not ours to change here; the call runs on what it has


def _count_claimed(name: str) -> None:
    """Have a function of :mod:`os` that counts cores return those of the claim during a call."""
    original = getattr(os, name)

    @functools.wraps(original)
    def count() -> int | None:
        return _threads if _threads and is_in_call() else original()

    setattr(os, name, count)


for _name in ("cpu_count", "process_cpu_count"):  # the second is new in Python 3.13
    if hasattr(os, _name):
        _count_claimed(_name)
