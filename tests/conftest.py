"""Helpers that several tests share: launching for real, with an end to every wait."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from handoff_mpi.launch.own_jobs import OwnJobs
from handoff_mpi.launch.signals import STOPPING
from handoff_mpi.process_context import this_process
from tests.command_server import CommandServer
from tests.processes import without_failed_starts
from tests.selection import (  # noqa: F401  # pytest finds them here
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_report_collectionfinish,
)

ROOT = Path(__file__).parent.parent
HANDOFF = [sys.executable, "-m", "handoff_mpi"]
#: Python says what is left open and what is deprecated.
DEVELOPMENT = {"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"}
# A shell that starts the tests in the background has them ignore SIGINT, and with them all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
_LAUNCHER = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "HYDI_", "HYDRA_")


@dataclass
class Ended:
    """A process that ended."""

    rc: int
    out: str
    err: str


#: Status of an Open MPI mpirun that met the remains of a killed one with its process id; it removes them as it ends.
MET_REMAINS = 213


def run_process(command, cwd, timeout_s=60.0, env=None) -> Ended:
    """Run a command in a session of its own; fail the test if it has not ended in time.

    ``python -m handoff_mpi`` is forked from a process that has imported it, see :mod:`tests.command_server`.
    """
    command, environment = [str(word) for word in command], command_environment(env)
    is_served = command[:3] == HANDOFF and _command_server().serves(environment)
    run = _run_on_server if is_served else _run_once
    ended = run(command, cwd, timeout_s, environment)
    ended = run(command, cwd, timeout_s, environment) if ended.rc == MET_REMAINS else ended
    return replace(ended, err=without_failed_starts(ended.err))


def command_environment(env=None) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHER)}
    return {**environment, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", **(env or {})}


_ENVIRONMENT = command_environment()


@functools.cache
def _command_server() -> CommandServer:
    return CommandServer(_ENVIRONMENT)


def pytest_sessionfinish() -> None:
    if _command_server.cache_info().currsize:
        _command_server().close()


def _run_on_server(command, cwd, timeout_s, environment) -> Ended:
    try:
        return Ended(*_command_server().run(command[3:], cwd, environment, timeout_s))
    except subprocess.TimeoutExpired as hung:
        pytest.fail(f"hung for {timeout_s} s: {command}\n{hung.stdout[-3000:]}\n{hung.stderr[-3000:]}")


def _run_once(command, cwd, timeout_s, environment) -> Ended:
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"hung for {timeout_s} s: {command}\n{out[-3000:]}\n{err[-3000:]}")
    return Ended(process.returncode, out, err)


def missing(tool: str) -> None:
    """Skip, saying why; in CI a missing tool is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{tool} is missing, and in CI nothing may be skipped for that")
    pytest.skip(f"{tool} is not installed")


def mpirun_command(ranks: int, ft: bool = False) -> list[str]:
    """Return the command that launches ``ranks`` ranks with the mpirun beside this Python, or on PATH."""
    found = shutil.which("mpirun", path=str(Path(sys.executable).parent)) or shutil.which("mpirun")
    if found is None:
        missing("mpirun")
    if "HYDRA" in _version(found).upper():
        return [found, "-n", str(ranks)]
    return [found, *(["--with-ft", "ulfm"] if ft else []), "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]


@functools.cache
def _version(mpirun: str) -> str:
    return subprocess.run([mpirun, "--version"], capture_output=True, text=True, timeout=60).stdout


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
#: Parts of the names of variables that pytest sets, and that a run in this process sets for all it starts.
_PASSING_VARIABLES = ("PYTEST_", "_THREADS", "_CPU_COUNT", "KMP_", "HANDOFF_STARTED_BY")


def _process_state() -> dict[str, Any]:
    """Return what of this process one test could change for those that come after it."""
    umask = os.umask(0o077)
    os.umask(umask)
    variables = [name for name in os.environ if not any(part in name for part in _PASSING_VARIABLES)]
    state: dict[str, Any] = {f"${name}": os.environ[name] for name in variables}
    state.update((number.name, signal.getsignal(number)) for number in _SIGNALS)
    return {**state, "working directory": str(Path.cwd()), "umask": umask, "sys.path": tuple(sys.path)}


@pytest.fixture(autouse=True)
def leaves_no_trace():
    """Fail a test that leaves this process in another state than it found it, and restore that state."""
    before = _process_state()
    yield
    after = _process_state()
    changed = {name for name, _ in before.items() ^ after.items()}
    for name in changed:
        _restore(name, before.get(name))
    if changed:
        pytest.fail("the test has changed " + "; ".join(f"{name} to {after.get(name)!r}" for name in sorted(changed)))


def _restore(name: str, value: Any) -> None:
    if name in ("working directory", "umask"):
        os.umask(value) if name == "umask" else os.chdir(value)
    elif name == "sys.path":
        sys.path[:] = value
    elif not name.startswith("$"):
        signal.signal(signal.Signals[name], value)
    elif value is None:
        del os.environ[name[1:]]
    else:
        os.environ[name[1:]] = value


@pytest.fixture
def handoff(tmp_path):
    """Run ``python -m handoff_mpi`` in a directory of its own."""

    def run(*words, timeout_s=60.0, env=None) -> Ended:
        return run_process([*HANDOFF, *words], tmp_path, timeout_s, env)

    return run


@pytest.fixture
def in_process(monkeypatch, tmp_path):
    """The command line in this process, which it leaves as it was."""
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(this_process.of(OwnJobs), "entered", [])
    monkeypatch.chdir(tmp_path)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def mpirun(tmp_path):
    """Run a Python command line on some ranks."""

    def run(ranks, *words, ft=False, timeout_s=90.0, env=None) -> Ended:
        return run_process([*mpirun_command(ranks, ft), sys.executable, *words], tmp_path, timeout_s, env)

    return run
