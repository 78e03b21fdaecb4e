"""How scripts end: all ranks of the job end too, with the status that Python would give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import ends

SCRIPT = Path(ends.__file__)

STATUS = """
import atexit, os, sys, threading
from sys import exit as alias
from handoff_mpi.exit_status import ExitWatch
watch = ExitWatch(lambda status, has_raised: print("FOUND", status, has_raised, flush=True))
class Own(SystemExit): pass
def leave(code=3): raise SystemExit(code)
def in_thread():
    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
def catches():
    try: leave()
    except SystemExit as error: assert error.code == 3
def catches_and_fails():
    catches()
    1 / 0
def forks():
    if not os.fork(): sys.exit(9)
    os.wait()
def owns(): raise Own(6)
def interrupts(): raise KeyboardInterrupt
"""

STATUSES = {
    "pass": 0,
    "sys.exit(4)": 4,
    "sys.exit()": 0,
    "sys.exit('text')": 1,
    "sys.exit(300)": 44,
    "alias(5)": 5,
    "leave()": 3,
    "leave(None)": 0,
    "owns()": 6,
    "in_thread()": 0,
    "catches()": 0,
    "catches_and_fails()": 1,
    "forks()": 0,
    "interrupts()": 130,
}


@pytest.mark.parametrize("code", STATUSES)
def test_the_exit_status_is_known_before_the_exit_handlers_run(tmp_path, code):
    (tmp_path / "script.py").write_text(STATUS + code + "\n")
    ended = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=60)
    has_raised = code in ("catches_and_fails()", "interrupts()")
    assert ended.stdout == f"FOUND {STATUSES[code]} {has_raised}\n"
    # Python ends itself by the signal after a KeyboardInterrupt.
    assert ended.returncode == (-2 if code == "interrupts()" else STATUSES[code])


# (how, what the other ranks do, ranks, fault tolerance)
ENDINGS = {
    "raise": ("raise", "barrier", 4, True),
    "before": ("before: raise", "end", 4, True),
    "system exit": ("SystemExit(3)", "recv", 5, True),
    "exit without ft": ("exit(3)", "barrier", 3, False),
    "os._exit": ("_exit(3)", "barrier", 4, True),
    "stopped and killed": ("STOP 1, SIGKILL", "end", 3, True),
    "well": ("thread raises", "end", 2, True),
    "well, the others wait": ("normal", "barrier", 3, True),
    "another": ("rank 1 raises", "barrier", 3, True),
}


@pytest.mark.long
@pytest.mark.sample("raise", "os._exit", "stopped and killed", "well", "another")
@pytest.mark.parametrize("case", ENDINGS)
def test_any_end_of_rank_0_ends_all_ranks_with_its_status(mpirun, tmp_path, case):
    how, others, ranks, ft = ENDINGS[case]
    env = {"ENDS_PATIENCE_S": "0.5"}
    ended = mpirun(ranks, SCRIPT, how, "cluster", others, tmp_path, ft=ft, env=env, timeout_s=60)
    status = 1 if case == "well, the others wait" else ends.HOWS[how]
    assert ended.rc == status if status is not None else ended.rc != 0, ended.err
