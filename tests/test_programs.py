"""Programs that answer, fail, take too long, or cannot even be killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from handoff_mpi import programs
from handoff_mpi.programs import run_program


def python(text):
    return [sys.executable, "-S", "-c", text]


def test_a_program_answers():
    answer = run_program(python("import sys; print(sys.stdin.read()); print('why', file=sys.stderr); sys.exit(3)"), 30)
    assert (answer.returncode, answer.out, answer.err) == (3, "\n", "why\n")


def test_a_program_reads_what_it_is_given_and_has_the_environment_that_it_is_given():
    text = "import os, sys; print(sys.stdin.read(), os.environ['A'])"
    assert run_program(python(text), 30, env={**os.environ, "A": "b"}, given=b"read").out == "read b\n"


def test_bytes_that_are_no_text_are_replaced():
    answer = run_program(python("import sys; sys.stdout.buffer.write(bytes([255, 97]))"), 30)
    assert (answer.stdout, answer.out) == (b"\xffa", "\N{REPLACEMENT CHARACTER}a")


def test_a_program_that_is_not_there_is_an_os_error():
    with pytest.raises(FileNotFoundError):
        run_program(["no-such-program-anywhere"], 30)


def test_a_program_that_takes_too_long_is_killed(monkeypatch):
    killed = []
    kill = subprocess.Popen.kill
    monkeypatch.setattr(subprocess.Popen, "kill", lambda process: (killed.append(process), kill(process)))
    with pytest.raises(TimeoutError, match=r" has not ended within 0\.2 s"):
        run_program(python("import time; time.sleep(60)"), 0.2)
    assert [process.poll() for process in killed] == [-9]


def test_nobody_waits_for_a_program_that_cannot_be_killed(monkeypatch, tmp_path):
    """It hangs as in the kernel until the test lets it end; then a thread takes note of its end."""
    os.mkfifo(tmp_path / "gate")
    alive = []
    monkeypatch.setattr(programs, "KILLED_TIMEOUT_S", 0.1)
    monkeypatch.setattr(subprocess.Popen, "kill", lambda process: alive.append(process))
    with pytest.raises(TimeoutError):
        run_program(python(f"open({str(tmp_path / 'gate')!r}).read()"), 0.5)
    (process,) = alive
    assert process.returncode is None
    (thread,) = [each for each in threading.enumerate() if each.name == "handoff-hung-program"]
    (tmp_path / "gate").write_text("")
    thread.join(30)
    assert process.returncode == 0
