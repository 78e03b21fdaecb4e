"""Which hosts a launch has, how its ranks are spread, and who is asked."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from handoff_mpi.errors import UsageError
from handoff_mpi.launch import mpirun
from handoff_mpi.launch.deadline import resolve_deadline
from handoff_mpi.launch.environment import COMPONENT_AGENT, size_by_launcher
from handoff_mpi.launch.hosts import Hosts, find_hosts, parse_hosts, slurm_hosts, spread
from handoff_mpi.launch.mpirun import launcher_command
from tests.conftest import missing


@pytest.fixture(autouse=True)
def no_launcher_around(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "PRTE_", "OMPI_", "HYDRA_", "HANDOFF_")):
            monkeypatch.delenv(name)


def test_hosts_as_users_write_them():
    assert parse_hosts("h1,h2") == {"h1": None, "h2": None}
    assert parse_hosts("node-1.site.org:4, h2:1") == {"node-1.site.org": 4, "h2": 1}


@pytest.mark.parametrize("text", ["h1,,h2", "h1:", "h1:0", "h1:two", "h1,h1", "-x", "h1;h2", "h1:-1", "h1:²"])
def test_nonsense_hosts_are_refused(text):
    with pytest.raises(UsageError, match="--hosts names each host once"):
        parse_hosts(text)


@pytest.mark.long
def test_nonsense_hosts_are_refused_by_the_command(handoff, tmp_path):
    (tmp_path / "ok.py").write_text("from handoff_mpi import DAG\ndag = DAG('d')\n")
    for words, says in (
        (["-n", "2", "--hosts", "h1,h1"], "--hosts names"),
        (["-n", "2", "--mpirun-args", "it's"], "--mpirun-args"),
        (["--hosts=h1"], "are for `run -n N`"),
    ):
        ended = handoff("run", *words, "ok.py")
        assert (ended.rc, ended.err.count("\n")) == (2, 1), ended.err
        assert says in ended.err


@pytest.mark.parametrize(
    ("nodes", "tasks", "expected"),
    [
        ("", "", {}),
        ("n1", "4", {"n1": 4}),
        ("n[1-3]", "2(x3)", {"n1": 2, "n2": 2, "n3": 2}),
        ("n[08-10,12],login", "2(x3),1,3", {"n08": 2, "n09": 2, "n10": 2, "n12": 1, "login": 3}),
        ("rack1-[1,3]-ib", "1,2", {"rack1-1-ib": 1, "rack1-3-ib": 2}),
        ("a,b", "", {"a": None, "b": None}),
    ],
)
def test_slurms_lists(nodes, tasks, expected):
    assert slurm_hosts(nodes, tasks) == expected


@pytest.mark.parametrize(
    ("ranks", "room", "is_even", "expected"),
    [
        (4, {"a": 2, "b": 2, "c": 2}, True, {"a": 2, "b": 1, "c": 1}),
        (6, {"a": 4, "b": 4}, False, {"a": 4, "b": 2}),
        (3, {"a": 4, "b": 4}, False, {"a": 3}),
        (9, {"a": 2, "b": 3}, True, {"a": 2, "b": 3}),
    ],
)
def test_ranks_are_spread(ranks, room, is_even, expected):
    assert spread(ranks, room, is_even) == expected


def test_hosts_keep_their_ranks_when_others_are_lost():
    hosts = Hosts(6, parse_hosts("a,b,c"), is_given=True)
    assert hosts.places() == {"a": 2, "b": 2, "c": 2}
    hosts.lost = ["b"]
    assert hosts.places() == {"a": 2, "c": 2}


def test_a_spare_host_takes_over():
    hosts = Hosts(4, parse_hosts("a:2,b:2,c:2"), is_given=True)
    assert hosts.places() == {"a": 2, "b": 2}
    hosts.lost = ["a"]
    assert hosts.places() == {"b": 2, "c": 2}


def test_more_ranks_than_was_said_are_shared_out():
    hosts = Hosts(7, parse_hosts("a:2,b"), is_given=True)
    assert sum(hosts.places().values()) == 7


def test_slurms_nodes_are_left_to_mpirun_until_one_is_lost(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-3]")
    monkeypatch.setenv("SLURM_TASKS_PER_NODE", "2(x3)")
    hosts = find_hosts(6, None)
    assert (hosts.names, hosts.places()) == (["n1", "n2", "n3"], None)
    assert "srun" in hosts.host_probe.command
    hosts.lost = ["n2"]
    assert hosts.places() == {"n1": 2, "n3": 2}


def test_the_hosts_of_mpiruns_own_file(monkeypatch, tmp_path):
    (tmp_path / "hostfile").write_text("# ours\nh1 slots=2\nh2 slots = 4 # big\n\n")
    monkeypatch.setenv("PRTE_MCA_prte_default_hostfile", str(tmp_path / "hostfile"))
    hosts = find_hosts(6, None)
    assert (hosts.names, hosts.places()) == (["h1", "h2"], None)
    hosts.lost = ["h1"]
    assert hosts.places() == {"h2": 4}


def test_hosts_are_asked_as_they_are_launched(monkeypatch):
    assert find_hosts(2, "h1,h2").host_probe.command[0] == "ssh"
    monkeypatch.setenv("PRTE_MCA_plm_ssh_agent", "/opt/agent -q : rsh")
    assert find_hosts(2, "h1,h2").host_probe.command == ["/opt/agent", "-q", "{host}"]
    assert find_hosts(2, "h1,h2", ["--prtemca", "plm_ssh_agent", "/my/agent"]).host_probe.command[0] == "/my/agent"


def test_who_answers(tmp_path):
    agent = tmp_path / "agent"
    agent.write_text('#!/bin/sh\n[ "$1" = up ] || exit 255\nshift\nexec sh -c "$*"\n')
    agent.chmod(0o755)
    own = socket.gethostname()
    hosts = find_hosts(3, f"{own},up,down", ["--prtemca", "plm_ssh_agent", str(agent)])
    assert hosts.look() == ["down"]
    assert hosts.answers("up", os.getpid())
    assert hosts.answers(own, os.getpid())
    assert not hosts.answers("up", 2**22 + 1)


def test_a_host_on_which_slurm_makes_no_step_is_not_lost(tmp_path):
    agent = tmp_path / "agent"
    agent.write_text('#!/bin/sh\n[ "$1" = full ] && echo "Unable to create step for job 1: why" >&2\nexit 1\n')
    agent.chmod(0o755)
    hosts = find_hosts(3, f"{socket.gethostname()},full,down", ["--prtemca", "plm_ssh_agent", str(agent)])
    assert (hosts.look(), hosts.not_asked) == (["down"], ["full"])
    assert hosts.answers("full", os.getpid())


@pytest.mark.long
def test_a_slow_answer_is_waited_for_where_asking_is_slow(tmp_path, monkeypatch):
    agent = tmp_path / "agent"
    agent.write_text('#!/bin/sh\nsleep 1\nshift\nexec sh -c "$*"\n')
    agent.chmod(0o755)
    monkeypatch.setattr("handoff_mpi.launch.hosts.HOST_PROBE_TIMEOUT_S", 0.3)
    hosts = find_hosts(2, f"{socket.gethostname()},slow", ["--prtemca", "plm_ssh_agent", str(agent)])
    assert not hosts.answers("slow", within_s=0.3)
    assert hosts.look() == []


def version_of(text, monkeypatch, tmp_path):
    fake = tmp_path / "mpirun"
    fake.write_text(f"#!/bin/sh\necho '{text}'\n")
    fake.chmod(0o755)
    monkeypatch.setattr(mpirun, "_find", lambda: str(fake))


def test_the_command_of_open_mpi(monkeypatch, tmp_path):
    version_of("mpirun (Open MPI) 5.0.11", monkeypatch, tmp_path)
    monkeypatch.setenv("HANDOFF_SLOTS", "2")
    command, _ = launcher_command(3, {"a": 2, "b": 1}, ["--display", "map"])
    text = " ".join(command)
    assert "--with-ft ulfm" in text
    assert "--host a:2,b:1" in text
    assert "-x HANDOFF_SLOTS" in text
    assert text.endswith("--display map -n 3")
    assert "plm_slurm_args" not in text


def words_of_srun(command):
    """Return the value of the one parameter that holds words for the srun of mpirun's daemons."""
    (at,) = (at for at, word in enumerate(command) if word == "plm_slurm_args")
    assert command[at - 1] == "--prtemca"
    return command[at + 1]


def test_the_command_of_open_mpi_in_a_slurm_job(monkeypatch, tmp_path):
    version_of("mpirun (Open MPI) 5.0.11", monkeypatch, tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert words_of_srun(launcher_command(3)[0]) == "--no-kill --mem=0"


def test_the_users_words_for_srun_are_joined_to_ours(monkeypatch, tmp_path):
    version_of("mpirun (Open MPI) 5.0.11", monkeypatch, tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PRTE_MCA_plm_slurm_args", "--quit-on-interrupt  --mem=1G")
    extra = ["-v", "--mca", "plm_slurm_args", "--exact", "--display", "map"]
    command, _ = launcher_command(3, extra=extra)
    assert words_of_srun(command) == "--no-kill --mem=0 --quit-on-interrupt --mem=1G --exact"
    assert command[-5:] == ["-v", "--display", "map", "-n", "3"]


def test_the_srun_of_mpich_leaves_the_memory_of_the_job(monkeypatch, tmp_path):
    version_of("HYDRA build details:", monkeypatch, tmp_path)
    assert "HYDRA_LAUNCHER_EXTRA_ARGS" not in launcher_command(3)[1]
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("HYDRA_LAUNCHER_EXTRA_ARGS", "--exact")
    assert launcher_command(3)[1]["HYDRA_LAUNCHER_EXTRA_ARGS"] == "--no-kill --mem=0 --exact"


def test_the_commands_in_a_heterogeneous_slurm_job(monkeypatch, tmp_path):
    version_of("mpirun (Open MPI) 5.0.11", monkeypatch, tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_HET_SIZE", "2")
    text = " ".join(launcher_command(3, {"a": 2, "b": 1})[0])
    assert f"--prtemca plm ssh --prtemca plm_ssh_agent {COMPONENT_AGENT}" in text and "plm_slurm_args" not in text
    version_of("HYDRA build details:", monkeypatch, tmp_path)
    assert f"-launcher ssh -launcher-exec {COMPONENT_AGENT} -hosts a:2,b:1" in " ".join(
        launcher_command(3, {"a": 2, "b": 1})[0]
    )


def test_the_command_of_mpich(monkeypatch, tmp_path):
    version_of("HYDRA build details:", monkeypatch, tmp_path)
    command, _ = launcher_command(3, {"a": 2, "b": 1}, ["-v"])
    assert command[1:] == ["-hosts", "a:2,b:1", "-v", "-n", "3"]


@pytest.mark.long
def test_words_for_mpirun_reach_it(handoff, tmp_path):
    if "Open MPI" not in os.popen(f"{mpirun._find()} --version").read():
        missing("Open MPI")
    text = "import os\nfrom handoff_mpi import DAG, Function\ndag = DAG('d')\n"
    (tmp_path / "says.py").write_text(text + "print('MARK', os.environ.get('MARK'))\n")
    ended = handoff("run", "-n", "2", "says.py", env={"HANDOFF_MPIRUN_ARGS": "-x MARK=yes"})
    assert "MARK yes" in ended.out, (ended.err, sys.executable)


@pytest.mark.parametrize(("nodes", "tasks"), [("n[1-9999999999]", ""), ("n1", "1(x9999999999)")])
def test_what_slurm_cannot_have_said_takes_no_memory(nodes, tasks):
    assert len(slurm_hosts(nodes, tasks)) <= 100_001


@pytest.mark.parametrize("script", ["\0nonsense", "#!/bin/sh\nexec sleep 60\n"], ids=["broken", "silent"])
def test_an_mpirun_that_cannot_be_asked_gets_one_line(tmp_path, monkeypatch, script):
    (tmp_path / "mpirun").write_text(script)
    (tmp_path / "mpirun").chmod(0o755)
    monkeypatch.setattr(mpirun, "_find", lambda: str(tmp_path / "mpirun"))
    monkeypatch.setattr(mpirun, "VERSION_S", 0.2)
    with pytest.raises(UsageError, match="cannot be asked for its version"):
        launcher_command(2)


def test_numbers_in_the_launchers_variables_are_numbers(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "²")
    assert size_by_launcher() == 1
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_JOB_END_TIME", "²")
    monkeypatch.setenv("PATH", "")
    assert resolve_deadline(None, 0.0) is None
