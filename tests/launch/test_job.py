"""A rank that cannot go on."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

SCRIPT = """
import os, sys, threading, time
from handoff_mpi.comm import mpi
from handoff_mpi.launch import job

job.END_S = 1
mpi.survives_death = lambda: False

def fill():
    os.set_blocking(2, False)
    for size in (4096, 1):
        try:
            while True: os.write(2, bytes(size))
        except BlockingIOError:
            pass
    os.set_blocking(2, True)

def end():
    if "nobody reads" in sys.argv:
        fill()
        job.end_rank(ConnectionError("rank 0 is gone"))
    mpi.abort = lambda code: time.sleep(600)
    job.end_rank(RuntimeError("a bug"))

if "thread" in sys.argv:
    threading.Thread(target=end, daemon=True).start()
    time.sleep(600)
end()
"""


@pytest.mark.parametrize("where", ["main", "thread"])
@pytest.mark.parametrize("what", ["MPI hangs", "nobody reads"])
def test_a_rank_that_cannot_go_on_ends_whatever_hangs(what, where):
    words = [sys.executable, "-c", SCRIPT, what, where]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as process:
        try:
            assert process.wait(60) == -signal.SIGALRM
        finally:
            process.kill()
