"""Flags are read alike everywhere; what is wrong with one is said in one short line, before anything starts."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from handoff_mpi import cli
from handoff_mpi.errors import EXIT_DONE, EXIT_FITS_NOWHERE, EXIT_USAGE, UsageError
from handoff_mpi.flags import options_given, parse, without_flags
from tests.conftest import mpirun_command

DAG_FILE = """
from handoff_mpi import DAG, Function
dag = DAG("d")
dag.add_function(Function("fit", (), abs, [-1]{options}))
"""

WRONG = {
    "": "a command is missing: run, check, doctor",
    "rnu d.py": "'rnu' is no command; did you mean run?",
    "validate d.py": "'validate' is no command; did you mean check?",
    "d.py": "'d.py' is no command; did you mean `run d.py`?",
    "d.py:build -n 3": "did you mean `run d.py:build`?",
    "-n 4 run d.py": "'-n' stands before the command; options follow it",
    "run": "the file that holds the DAG is missing, as in `handoff-mpi run dag.py`",
    "check --slots 2": "the file that holds the DAG is missing",
    "run d.py e.py": "'e.py' is one word too many: one file is named, and arguments for it follow --",
    "run d.py --max-retrys 3": "there is no option --max-retrys; did you mean --max-retries?",
    "run --retries=3 d.py": "there is no option --retries; did you mean --max-retries?",
    "run --max_retries=3 d.py": "there is no option --max_retries; did you mean --max-retries?",
    "check d.py --strategy first": "there is no option --strategy; did you mean --allocation-strategy?",
    "run d.py --np 4": "there is no option --np; did you mean -n?",
    "run d.py -np 4": "there is no option -np; did you mean -n?",
    "run d.py --bogus --walltime 3": "--bogus, --walltime (did you mean --deadline?)",
    "run d.py --max-ret 3": "there is no option --max-ret; did you mean --max-retries?",
    "doctor --jsn": "there is no option --jsn; did you mean --json?",
    "doctor --run d": "there is no option --run; did you mean --run-dir?",
    "run d.py --isolation proces": "--isolation: 'proces' is none of auto, rank, process; did you mean process?",
    "run d.py --on-failure halt": "'halt' is none of continue, stop;",
    "check d.py --allocation-strategy load-balanced": "did you mean load_balanced?",
    "run d.py --slots": "--slots: expected one argument",
    "run d.py -n two": "-n: 'two' is not a whole number",
    "check d.py -n 0": "-n must be a whole number from 1, not 0",
    "doctor -n -1": "-n must be a whole number from 1, not -1",
    "check d.py --hosts a": "--hosts and --mpirun-args are for `check -n N`",
    "doctor --hosts=a": "--hosts and --mpirun-args are for `doctor -n N`",
    "run d.py -n 2 --hosts a:٣": "--hosts names each host once",
    "run d.py -n 2 --max-relaunches -1": "must be a whole number from 0, not '-1'",
    "run d.py -n 2 --max-requeues -1": "--max-requeues (HANDOFF_MAX_REQUEUES) must be a whole number from 0, not '-1'",
}


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_is_said_in_a_line(line, in_process, tmp_path, capsys):
    (tmp_path / "d.py").write_text(DAG_FILE.format(options=""))
    assert cli.main(line.split()) == EXIT_USAGE
    said = capsys.readouterr()
    assert said.err.startswith("handoff: ") and said.err.count("\n") == 1
    assert WRONG[line] in said.err
    assert not said.out
    assert [each.name for each in tmp_path.iterdir()] == ["d.py"], "something has started"


NUMBERS = ["--max-retries", "--slots", "--max-concurrency", "--crash-limit", "--heartbeat-timeout", "--join-limit"]
NUMBERS += [
    "--grace-period",
    "--tracker-timeout",
    "--resources",
    "--prices",
    "-n",
    "--max-relaunches",
    "--max-requeues",
]


@pytest.mark.parametrize("flag", NUMBERS)
def test_numbers_are_written_in_ascii_and_decimal(flag, monkeypatch):
    for text in ("٣", "1_0", "0x1", "nan", "inf", "1e999", "", "٣.5"):
        value = f"cpu={text}" if flag in ("--resources", "--prices") else text
        with pytest.raises(UsageError, match=r"is not (a whole number|a number|NAME=NUMBER)"):
            parse(["run", "d.py", f"{flag}={value}"])
        if flag.startswith("--") and flag not in ("--max-relaunches", "--max-requeues") and text:
            monkeypatch.setenv(f"HANDOFF_{flag[2:].upper().replace('-', '_')}", value)
            with pytest.raises(UsageError, match=r"the environment variable HANDOFF_.* is wrong"):
                options_given(parse(["run", "d.py"]))


@pytest.mark.parametrize("text", ["٣", "1_0", "nan", "inf", "", "-5", "0"])
def test_so_are_deadlines(text, in_process, tmp_path, capsys):
    (tmp_path / "d.py").write_text(DAG_FILE.format(options=""))
    assert cli.main(["check", "d.py", f"--deadline={text}"]) == EXIT_USAGE
    assert "deadline must be" in capsys.readouterr().err
    assert cli.main(["check", "d.py", "--deadline=3600.5"]) == EXIT_DONE


FLAGS = ["--allocation-strategy", "--max-retries", "--isolation", "--prices", "--keep", "--rerun", "--deadline"]
FLAGS += ["--run-dir", "--cache-size", "--resources", "--grace-period", "--bogus", "-n", "--hosts", "--checkpoint"]


@pytest.mark.parametrize("flag", FLAGS)
def test_long_values_are_cut(flag, in_process, tmp_path, monkeypatch, capsys):
    (tmp_path / "d.py").write_text(DAG_FILE.format(options=""))
    for text in ("x" * 70_000, "'\x1b[31m" + "y" * 70_000, "9" * 70_000 + "=1", "=1" * 35_000):
        words = ["-n2"] if flag == "--hosts" else []
        code = cli.main(["check", "d.py", *words, f"{flag}={text}"])
        said = capsys.readouterr().err
        assert code == EXIT_USAGE or flag in ("--resources", "--prices")
        assert len(said) < 1000 and "\x1b" not in said and said.count("\n") <= 1
        if flag in ("--bogus", "-n", "--hosts"):
            continue
        monkeypatch.setenv(f"HANDOFF_{flag[2:].upper().replace('-', '_')}", text.replace("\0", ""))
        cli.main(["check", "d.py"])
        said = capsys.readouterr().err
        assert len(said) < 1000 and "\x1b" not in said


def test_so_are_words_for_mpirun_and_names_of_files(in_process, tmp_path, capsys):
    long = "x" * 70_000
    for words in (["d.py", "-n2", f"--mpirun-args='{long}"], [long], ["d/" * 10_000], [f"d.py:{long}"], [f"{long}.py"]):
        assert cli.main(["run", *words]) == EXIT_USAGE
        assert len(capsys.readouterr().err) < 1000


@pytest.mark.parametrize("verb", ["run", "check", "doctor"])
def test_every_order_is_one(verb):
    file = [] if verb == "doctor" else ["d.py"]
    options = ["-n", "3", "--hosts", "a,b", "--run-dir", "r"] + ([] if verb == "doctor" else ["--keep", "x", "--fresh"])
    orders = [[*options, *file], [*file, *options], [*options[:4], *file, *options[4:]]]
    told = [vars(parse([verb, *order])) for order in orders]
    assert told[0] == told[1] == told[2]
    assert (told[0]["n"], told[0]["hosts"], told[0]["run_dir"]) == (3, "a,b", "r")


def test_help_lists_the_flags_in_the_same_order(capsys):
    listed = {}
    for verb in ("run", "check", "doctor"):
        with pytest.raises(SystemExit):
            parse([verb, "--help"])
        words = capsys.readouterr().out.split()
        listed[verb] = list(dict.fromkeys(word.rstrip(",") for word in words if word.startswith("-") and len(word) > 1))
    for verb, other in (("check", "run"), ("doctor", "run")):
        common = [flag for flag in listed[verb] if flag in listed[other]]
        assert common == [flag for flag in listed[other] if flag in listed[verb]]
    assert [*listed["check"], "--max-relaunches", "--max-requeues"].sort() == listed["run"].sort()
    assert "-n" in listed["check"] and "-n" in listed["doctor"]


def test_flags_of_the_supervisor_are_not_passed_on():
    words = ["-n", "3", "d.py", "--hosts=a", "--keep", "x", "-n4", "-n=5", "-n+6", "-n=+7", "--mpirun-args", "-v"]
    assert without_flags(words, ("-n", "--hosts", "--mpirun-args")) == ["d.py", "--keep", "x"]


# -- check -n ------------------------------------------------------------------------------------------

SETUP = "def setup(rank): return {'tape': 2} if rank == 2 else {}\n"


@pytest.mark.long
def test_check_on_ranks(handoff, tmp_path):
    mpirun_command(2)
    (tmp_path / "d.py").write_text(SETUP + DAG_FILE.format(options=", cost={'tape': 1}"))
    ended = handoff("check", "d.py", "-n", "3")
    assert ended.rc == EXIT_DONE, ended.err
    assert "1 function with cpu=1, tape=1 fits on rank 2" in ended.out
    ended = handoff("check", "-n2", "d.py")
    assert ended.rc == EXIT_FITS_NOWHERE
    assert ended.err.count("tape: 1 wanted, no rank offers any; --resources tape=AMOUNT") == 1
    assert [each.name for each in tmp_path.iterdir()] in (["d.py"], ["__pycache__", "d.py"], ["d.py", "__pycache__"])


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_check_on_ranks_can_be_ended(number, tmp_path):
    mpirun_command(2)
    (tmp_path / "d.py").write_text("import pathlib, time\npathlib.Path('here').touch()\ntime.sleep(60)\n")
    command = [sys.executable, "-m", "handoff_mpi", "check", "d.py", "-n", "2"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 30
        while not (tmp_path / "here").exists() and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(number)
        try:
            assert process.wait(20) == 128 + number
        finally:
            process.kill()
        assert "Traceback" not in process.stderr.read()
