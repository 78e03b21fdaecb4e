"""slurm/run.sbatch, submitted to a real Slurm."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import handoff_mpi
from tests.conftest import ROOT, missing
from tests.processes import command_line

SCRIPT = ROOT / "slurm" / "run.sbatch"
QUICKSTART = [ROOT / "examples" / "quickstart.py", "--", "json", "asyncio"]
TWO_BY_TWO = ["--nodes=2", "--ntasks=4", "--ntasks-per-node=2"]

FAILING = """
from handoff_mpi import DAG, Function
def fail(): raise ValueError("on purpose")
dag = DAG("failing")
dag.add_function(Function("fail", (), fail, max_retries=0))
"""
SLEEPING = """
import os, pathlib, time
from handoff_mpi import DAG, Function
def nap(number):
    pathlib.Path(f"began-{number}").touch()
    time.sleep(2)
    print(f"napped {number} on {os.environ['SLURMD_NODENAME']}\\n", end="", flush=True)
dag = DAG("sleeping")
for number in range(60):
    dag.add_function(Function(number, (), nap, [number]))
"""
# A Python that takes its time to start, as on a busy file system.
SLOW_PYTHON = f"""#!/bin/sh
touch started
sleep 2
exec "{sys.executable}" "$@"
"""


@pytest.fixture
def submit(slurm, tmp_path):
    """Submit the script with some of sbatch's flags, and what follows them; return the job's number."""

    def run(*words, flags=("--ntasks=2",), env=None) -> int:
        return slurm.submit(*flags, SCRIPT, *words, cwd=tmp_path, env={"PYTHON": sys.executable, **(env or {})})

    return run


def status(run_dir: Path) -> dict:
    return json.loads((run_dir / "status.json").read_text())


def write(directory: Path, name: str, text: str, mode: int = 0o644) -> Path:
    path = directory / name
    path.write_text(text)
    path.chmod(mode)
    return path


def mpich_python() -> str:
    mpiexec = os.environ.get("HANDOFF_TEST_MPICH")
    if not mpiexec:
        missing("MPICH in another environment, its mpiexec named by HANDOFF_TEST_MPICH,")
    return str(Path(mpiexec).parent / "python")


def remains(slurm, *nodes):
    """Return the processes and the shared memory that a job has left on its nodes."""
    found = []
    for name in nodes:
        host = slurm.hosts[name]
        found += [command_line(process) for process in host.processes("handoff_mpi")]
        found += subprocess.run(host.enter("ls", "/dev/shm"), capture_output=True, text=True, timeout=20).stdout.split()
    return found


def assert_quickstart_is_done(job, run_dir):
    assert (job.state, job.exit_code) == ("COMPLETED", "0:0"), job.out
    assert "different words" in job.out
    assert "bytes in" in job.out
    assert status(run_dir)["exit_code"] == 0
    assert status(run_dir)["ranks"] == 4


def test_the_quickstart_on_two_nodes(slurm, submit, tmp_path):
    job = slurm.wait(submit(*QUICKSTART, flags=TWO_BY_TWO, env={"HANDOFF_OUTPUT": "plain"}), tmp_path)
    assert_quickstart_is_done(job, tmp_path / "handoff-runs" / str(job.number))


@pytest.mark.long
def test_the_quickstart_under_mpich(slurm, submit, tmp_path):
    env = {"PYTHON": mpich_python(), "HANDOFF_RUN_DIR": "named", "HANDOFF_OUTPUT": "plain"}
    job = slurm.wait(submit(*QUICKSTART, flags=TWO_BY_TWO, env=env), tmp_path)
    assert_quickstart_is_done(job, tmp_path / "named")


@pytest.mark.long
@pytest.mark.sample("word")
@pytest.mark.parametrize("flag", [["--run-dir", "chosen"], ["--run-dir=chosen"]], ids=["word", "equals"])
def test_a_failed_function_fails_the_job(slurm, submit, tmp_path, flag):
    dag = write(tmp_path, "failing.py", FAILING)
    job = slurm.wait(submit(dag, *flag, env={"HANDOFF_RUN_DIR": "not-this"}), tmp_path)
    assert (job.state, job.exit_code) == ("FAILED", "1:0"), job.out
    assert "on purpose" in job.out
    assert status(tmp_path / "chosen")["exit_code"] == 1


@pytest.mark.long
@pytest.mark.parametrize("python", [lambda: sys.executable, mpich_python], ids=["this MPI", "MPICH"])
def test_the_batch_signal_drains_the_run(slurm, submit, tmp_path, python):
    env = {"PYTHON": python(), "HANDOFF_OUTPUT": "plain"}
    number = submit(write(tmp_path, "sleeping.py", SLEEPING), flags=TWO_BY_TWO, env=env)
    slurm.wait_for(lambda: len(list(tmp_path.glob("began-*"))) >= 4, 60, tmp_path / f"{number}.out")
    slurm.command("scancel", "--batch", "--signal", "USR1", number)
    job = slurm.wait(number, tmp_path)
    assert job.exit_code == "75:0", job.out
    ended = status(tmp_path / "handoff-runs" / str(number))
    assert (ended["status"], ended["exit_code"]) == ("stopped", 75)
    # What ran was let end, and nothing was begun after it.
    assert ended["done"] == len(list(tmp_path.glob("began-*"))) == job.out.count("napped ") < 60, job.out
    assert "on node1" in job.out
    assert "on node2" in job.out


@pytest.mark.soak
def test_a_signal_before_the_ranks_listen_waits_for_them(slurm, submit, tmp_path):
    python = write(tmp_path, "python3", SLOW_PYTHON, 0o755)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    number = submit(write(tmp_path, "sleeping.py", SLEEPING), env={"PYTHON": str(python), "PATH": path})
    slurm.wait_for(lambda: (tmp_path / "started").exists(), 30, tmp_path / f"{number}.out")
    slurm.command("scancel", "--batch", "--signal", "USR1", number)
    job = slurm.wait(number, tmp_path)
    assert job.exit_code == "75:0", job.out


@pytest.mark.long
@pytest.mark.parametrize("words", [[], ["--", "json"]], ids=["nothing", "arguments only"])
def test_no_dag_is_refused(slurm, submit, tmp_path, words):
    job = slurm.wait(submit(*words), tmp_path)
    assert (job.state, job.exit_code) == ("FAILED", "2:0"), job.out
    assert job.out == "handoff: name the DAG's file: sbatch run.sbatch dag.py [flags] [-- args]\n"


@pytest.mark.long
def test_a_dag_that_is_not_there_is_refused_by_the_run(slurm, submit, tmp_path):
    job = slurm.wait(submit("nowhere.py"), tmp_path)
    assert (job.state, job.exit_code) == ("FAILED", "2:0"), job.out
    assert "nowhere.py does not exist" in job.out


@pytest.mark.long
def test_a_cancelled_run_is_stopped_and_resumes(slurm, submit, tmp_path):
    dag = write(tmp_path, "sleeping.py", SLEEPING.replace("range(60)", "range(12)").replace("sleep(2)", "sleep(0.5)"))
    env = {"HANDOFF_RUN_DIR": "run"}
    number = submit(dag, flags=TWO_BY_TWO, env=env)
    out = tmp_path / f"{number}.out"
    slurm.wait_for(lambda: len(list(tmp_path.glob("began-*"))) >= 4, 60, out)
    assert "12 functions on 4 ranks of 2 hosts" in out.read_text(), "a line at the start"
    slurm.command("scancel", number)
    job = slurm.wait(number, tmp_path)
    ended = status(tmp_path / "run")
    assert (job.state, ended["status"], ended["exit_code"]) == ("CANCELLED", "stopped", 75), job.out
    assert "SIGTERM" in ended["stopped_because"]
    # mpirun's NUL byte is removed from the end: it stays where Slurm has written its own line behind it by then.
    assert "\0" not in job.out.replace("\0slurmstepd-", "slurmstepd-")
    assert remains(slurm, "node1", "node2") == []
    again = slurm.wait(submit(dag, flags=TWO_BY_TWO, env=env), tmp_path)
    assert again.exit_code == "0:0", again.out
    assert (status(tmp_path / "run")["done"], status(tmp_path / "run")["restored"]) == (12, ended["done"])


@pytest.mark.long
def test_a_run_that_was_stopped_is_requeued_until_it_is_done(slurm, submit, tmp_path):
    """A launch that starts over does so once; finished functions do not run again, and their output is kept."""
    text = SLEEPING.replace("range(60)", "range(12)").replace(").touch()", ").open('a').write('x')")
    dag = write(tmp_path, "sleeping.py", text)
    number = submit(dag, "--fresh", flags=TWO_BY_TWO, env={"HANDOFF_MAX_REQUEUES": "5"})
    slurm.wait_for(lambda: len(list(tmp_path.glob("began-*"))) >= 4, 60, tmp_path / f"{number}.out")
    slurm.command("scancel", "--batch", "--signal", "USR1", number)
    slurm.wait_for(lambda: slurm.field(number, "Restarts") == "1", 30, tmp_path / f"{number}.out")
    job = slurm.wait(number, tmp_path)
    ended = status(tmp_path / "handoff-runs" / str(number))
    assert (job.exit_code, ended["exit_code"], ended["done"]) == ("0:0", 0, 12), job.out
    assert 0 < ended["restored"] < 12
    assert [path.read_text() for path in tmp_path.glob("began-*")] == ["x"] * 12, job.out
    assert job.out.count("the job is requeued (1 of at most 5) and resumes") == 1
    assert "sets nothing" not in job.out
    assert job.out.count("12 functions on 4 ranks of 2 hosts") == 2


BOTH = [pytest.param(lambda: sys.executable, id="this MPI", marks=pytest.mark.long)]
BOTH += [pytest.param(mpich_python, id="MPICH", marks=pytest.mark.soak)]


@pytest.mark.parametrize("python", BOTH)
def test_a_heterogeneous_job_uses_all_of_its_components(slurm, submit, tmp_path, python):
    flags = ["--ntasks=2", "--nodes=1", "--mem-per-cpu=600", ":", "--ntasks=3", "--nodes=1", "--mem-per-cpu=300"]
    number = submit(*QUICKSTART, flags=flags, env={"HANDOFF_OUTPUT": "plain", "PYTHON": python()})
    job = slurm.wait(number, tmp_path)
    assert job.exit_code == "0:0", job.out
    assert "on 5 ranks of 2 hosts" in job.out, job.out
    assert "2.2 GB" in job.out, "each component has its own memory"


@pytest.mark.long
def test_the_indices_of_an_array_have_run_dirs_of_their_own(slurm, submit, tmp_path):
    dag = write(tmp_path, "failing.py", FAILING.replace('raise ValueError("on purpose")', "pass"))
    number = submit(dag, flags=["--array=1-2", "--ntasks=1"])
    slurm.wait_for(lambda: not slurm.command("squeue", "-h", "-j", number).strip(), 60)
    found = [status(tmp_path / "handoff-runs" / f"{number}_{index}")["exit_code"] for index in (1, 2)]
    assert found == [0, 0]
    number = submit(
        dag, flags=["--array=1-2%1", "--ntasks=1"], env={"HANDOFF_RUN_DIR": "shared"}
    )  # one after the other
    slurm.wait_for(lambda: not slurm.command("squeue", "-h", "-j", number).strip(), 60)
    codes = [slurm.field(f"{number}_{index}", "ExitCode") for index in (1, 2)]
    outs = "".join(path.read_text() for path in tmp_path.glob("*.out"))
    assert sorted(codes) == ["0:0", "2:0"], outs
    assert f"of the job array {number} cannot use the run-dir {tmp_path / 'shared'}: index " in outs


NESTED = """
import os, subprocess, sys, time
from pathlib import Path
from handoff_mpi import DAG, Function
def launch():
    time.sleep(0.2)
    mpirun = Path(sys.executable).with_name("mpirun")
    words = [mpirun, "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2", "hostname"]
    told = subprocess.run(words, capture_output=True, text=True, timeout=30)
    srun = subprocess.run(["srun", "--overlap", "--mem=0", "-N1", "-n1", "-w", "node1", "hostname"],
                          capture_output=True, text=True, timeout=30)
    return (os.uname().nodename, told.stdout.split(), srun.stdout.split(), told.stderr + srun.stderr)
dag = DAG("nested")
for number in range(4): dag.add_function(Function(number, (), launch))
"""


@pytest.mark.parametrize(
    "isolation", [pytest.param("rank", marks=pytest.mark.long), pytest.param("process", marks=pytest.mark.soak)]
)
def test_a_function_may_run_mpirun_and_srun(slurm, submit, tmp_path, isolation):
    """An mpirun stays on the host of the call, whose other nodes are at work already."""
    dag = write(tmp_path, "nested.py", NESTED)
    env = {"HANDOFF_RUN_DIR": "run"}
    job = slurm.wait(submit(dag, "--isolation", isolation, flags=TWO_BY_TWO, env=env), tmp_path)
    assert job.exit_code == "0:0", job.out
    for host, launched, stepped, said in handoff_mpi.load(tmp_path / "run").values.values():
        assert (launched, stepped) == ([host, host], ["node1"]), said


@pytest.mark.soak
def test_a_run_comes_through_several_short_jobs(slurm, submit, tmp_path):
    """The script asks for a signal two minutes before the end, and gives calls 90 s to end in: more than there is."""
    text = SLEEPING.replace("range(60)", "range(160)").replace(").touch()", ").open('a').write('x')")
    dag = write(tmp_path, "sleeping.py", text)
    number = submit(dag, flags=[*TWO_BY_TWO, "--time=1"], env={"HANDOFF_MAX_REQUEUES": "5"})
    job = slurm.wait(number, tmp_path, 300)
    ended = status(tmp_path / "handoff-runs" / str(number))
    assert (job.exit_code, ended["exit_code"], ended["done"]) == ("0:0", 0, 160), job.out
    assert 3 <= int(slurm.field(number, "Restarts")) + 1 <= 4, job.out
    assert {path.read_text() for path in tmp_path.glob("began-*")} == {"x"}, job.out
    assert re.search(r"calls get 1\d s to end in once the run is stopped, not 90", job.out), job.out


@pytest.mark.soak
def test_a_job_in_which_nothing_can_be_done_is_not_requeued(slurm, submit, tmp_path):
    dag = write(tmp_path, "sleeping.py", SLEEPING.replace("sleep(2)", "sleep(200)"))
    number = submit(dag, flags=[*TWO_BY_TWO, "--time=1"], env={"HANDOFF_MAX_REQUEUES": "5"})
    job = slurm.wait(number, tmp_path, 150)
    assert (job.exit_code, slurm.field(number, "Restarts")) == ("75:0", "0"), job.out
    assert "the job is not requeued: no function was done since it started" in job.out


def own_python(directory: Path) -> Path:
    """Return a Python that has this one's packages, and nothing beside it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory / "own"], check=True, timeout=60)
    (site,) = (directory / "own").glob("lib/python*/site-packages")
    (site / "these.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    return directory / "own" / "bin" / "python3"


@pytest.mark.long
def test_submit_names_the_files_of_the_job(slurm, tmp_path):
    """Tasks of each node are enough: a rank for each."""
    flags = ["--nodes=2", "--ntasks-per-node=2"]
    words = ["-m", "handoff_mpi", "submit", *flags, "-o", "said-%j", *QUICKSTART[:1], "--quiet", *QUICKSTART[1:]]
    told = slurm.run(sys.executable, *words, cwd=tmp_path, env={"HANDOFF_OUTPUT": "plain"}).stdout.splitlines()
    number = int(told[0].removeprefix("submitted as job "))
    assert told[1:] == [f"output: {tmp_path}/said-{number}", f"files: handoff-runs/{number}"]
    job = slurm.wait(number, tmp_path)
    job.out = (tmp_path / f"said-{number}").read_text()
    assert_quickstart_is_done(job, tmp_path / "handoff-runs" / str(number))


@pytest.mark.long
def test_a_python_without_the_package_is_refused(slurm, submit, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True, timeout=60)
    python = tmp_path / "bare" / "bin" / "python3"
    job = slurm.wait(submit(*QUICKSTART, env={"PYTHON": str(python)}), tmp_path)
    assert (job.state, job.exit_code) == ("FAILED", "2:0"), job.out
    assert job.out.startswith(f"handoff: {python} has no handoff_mpi; install it there") and job.out.count("\n") == 1


def test_no_launcher_is_refused(slurm, submit, tmp_path):
    python = own_python(tmp_path)
    job = slurm.wait(submit(*QUICKSTART, env={"PYTHON": str(python), "PATH": str(tmp_path)}), tmp_path)
    assert (job.state, job.exit_code) == ("FAILED", "2:0"), job.out
    assert job.out.startswith(f"handoff: there is no mpirun beside {python}")
    assert job.out.count("\n") == 1


@pytest.mark.long
def test_a_launcher_that_reports_success_is_not_believed(slurm, submit, tmp_path):
    python = own_python(tmp_path)
    write(python.parent, "mpirun", "#!/bin/sh\nexit 0\n", 0o755)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "status.json").write_text('{"exit_code": 0}')  # of an earlier run
    job = slurm.wait(submit(*QUICKSTART, env={"PYTHON": str(python), "HANDOFF_RUN_DIR": "used"}), tmp_path)
    assert (job.state, job.exit_code) == ("FAILED", "1:0"), job.out
    said = f"handoff: the run has died before it ended ({tmp_path / 'used'}); the same command resumes\n"
    assert job.out == said
