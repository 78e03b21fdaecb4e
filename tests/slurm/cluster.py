"""A real Slurm of some nodes on this one machine, as sites configure theirs, for the tests that submit jobs.

Every node is a host of namespaces (:mod:`tests.faults.namespaces`), with its own network, host name and processes,
and so is the login node, where the controller runs and jobs are submitted. CPUs and memory are both consumed, a step
takes all the memory of its job unless it says otherwise, nodes have (fake) GPUs, and an interactive allocation starts a
step. Everything, munge's key and socket too, is in one temporary directory, and dies with this process; a Slurm or a
munged that runs here already is neither used nor touched.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults import namespaces
from tests.faults.namespaces import Hosts

TOOLS = (
    "munged",
    "munge",
    "slurmctld",
    "slurmd",
    "sbatch",
    "salloc",
    "srun",
    "scancel",
    "scontrol",
    "squeue",
    "sinfo",
    "script",
)
CPUS = 4
GPUS = 2
LOGIN = "login"
_SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
_FOREIGN = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "HYDI_", "HYDRA_", "SLURM_", "SBATCH_", "HANDOFF_")
_GOING_ON = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "STOPPED"}

# The nodes claim CPUS on any machine (config_overrides). No cgroups, since a container may have none. What
# is submitted starts at once, and what is requeued within seconds (cred_expire). A job's death is certain after
# KillWait, a node's after SlurmdTimeout; finished jobs stay visible for an hour.
_CONF = """
ClusterName=tests
SlurmctldHost={login}({address})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool/%n
TmpFS={directory}/tmp/%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
GresTypes=gpu
LaunchParameters=use_interactive_step
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
ReturnToService=2
MailProg=/bin/true
KillWait=3
SlurmdTimeout={slurmd_timeout_s}
MinJobAge=3600
"""
_NODE = "NodeName={name} NodeAddr={address} CPUs={cpus} RealMemory=4000 Gres=gpu:{gpus} State=UNKNOWN\n"
_GRES = "NodeName={name} Name=gpu Count={gpus} File={directory}/gpu[0-{last}]\n"
#: After which Slurm gives up a node that does not answer.
_SLURMD_TIMEOUT_S = 20


def find_missing() -> str | None:
    """Return what a Slurm wants and this machine lacks, or None."""
    return namespaces.find_missing() or next((tool for tool in TOOLS if _find(tool) is None), None)


@dataclass
class Job:
    """A job that ended.

    Attributes:
        state: COMPLETED, FAILED, ...
        exit_code: ``code:signal``, as scontrol shows it.
        out: what it printed, on both streams.
    """

    number: int
    state: str
    exit_code: str
    out: str


class Cluster:
    """Slurm's daemons on hosts of their own, and the commands that talk to them from the login node.

    Attributes:
        hosts: ``node1``, ``node2``, ..., and ``login``; they can be cut off, and killed.
    """

    def __init__(self, nodes: int = 3) -> None:
        # Sockets have short names and are for all to reach, so this is no directory of pytest's.
        self.directory = Path(tempfile.mkdtemp(prefix="handoff-slurm-"))
        self.directory.chmod(0o755)
        self._names = [f"node{number}" for number in range(1, nodes + 1)]
        self._daemons = 0
        self.hosts = Hosts([*self._names, LOGIN])

    def start(self) -> None:
        """Start the daemons and wait until every node is idle."""
        self.hosts.__enter__()
        self._start_munged()
        self._write_conf()
        self._daemon(LOGIN, "slurmctld", "-D", "-c")
        for name in self._names:
            self._daemon(name, "slurmd", "-D", "-N", name)
        self._wait_until_idle()

    def kill_node(self, name: str) -> None:
        """Kill every process of a node at once, as a loss of power does."""
        self.hosts.kill(name)

    def _wait_until_idle(self) -> None:
        self.wait_for(lambda: self.command("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * len(self._names), 60)

    def stop(self) -> None:
        """End all that runs on the hosts, and remove the directory."""
        self.hosts.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def command(self, tool: str, *words: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
        """Run a command of Slurm's on the login node and return what it prints."""
        ended = self.run(tool, *words, cwd=cwd, env=env)
        return ended.stdout if ended.returncode == 0 else f"{ended.stdout}\n{tool}: {ended.stderr}"

    def run(
        self,
        tool: str,
        *words: object,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        timeout_s: float = 30,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the login node."""
        return subprocess.run(
            self.hosts[LOGIN].enter(_find(tool), *words, cwd=cwd),
            env=self._environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def in_terminal(self, line: str, cwd: Path, env: dict[str, str] | None = None, timeout_s: float = 120) -> str:
        """Run a shell command on the login node in a terminal of its own; return what appears there."""
        return self.run("script", "-qec", line, "/dev/null", cwd=cwd, env=env, timeout_s=timeout_s).stdout

    def _environment(self, more: dict[str, str] | None = None) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        return {**own, **(more or {}), "SLURM_CONF": str(self._conf)}

    def submit(self, *words: object, cwd: Path, env: dict[str, str] | None = None) -> int:
        """Submit a job from ``cwd``, where its output goes too; return its number."""
        answer = self.command("sbatch", "--parsable", "--output", "%j.out", *words, cwd=cwd, env=env)
        assert answer.strip().isdigit(), answer
        return int(answer)

    def wait_for_script(self, number: int, cwd: Path, timeout_s: float = 90) -> None:
        """Wait until a job's script has ended, though nodes that are dead have yet to say so."""
        states = _GOING_ON - {"COMPLETING"}
        self.wait_for(lambda: self.field(number, "JobState") not in states, timeout_s, cwd / f"{number}.out")

    def wait(self, number: int, cwd: Path, timeout_s: float = 90) -> Job:
        """Wait until a job has ended."""
        self.wait_for(lambda: self.field(number, "JobState") not in _GOING_ON, timeout_s, cwd / f"{number}.out")
        return Job(number, self.field(number, "JobState"), self.field(number, "ExitCode"), _text(cwd / f"{number}.out"))

    def wait_for(self, is_so: Callable[[], bool], timeout_s: float = 30, *shown: Path) -> None:
        """Wait until something is so; if it never is, show the files and the controller's log."""
        if _poll(is_so, timeout_s):
            return
        logs = [*shown, *sorted(self.directory.glob("*.log"))]
        tails = "\n".join(f"== {log}\n{_text(log)[-2000:]}" for log in logs)
        raise AssertionError(f"not so within {timeout_s} s\n{self.command('squeue', '-t', 'all')}\n{tails}")

    def field(self, number: int | str, name: str) -> str:
        """Return what ``scontrol show job`` says of a job."""
        shown = self.command("scontrol", "show", "job", number)
        found = re.search(rf"\b{name}=(\S+)", shown)
        assert found, shown
        return found[1]

    @property
    def _conf(self) -> Path:
        return self.directory / "slurm.conf"

    def _start_munged(self) -> None:
        key = self.directory / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        files = {"socket": "munge.socket", "key-file": key.name, "pid-file": "munged.pid", "seed-file": "munge.seed"}
        words = [f"--{option}={self.directory / file}" for option, file in files.items()]
        self._daemon(LOGIN, "munged", "--foreground", "--num-threads=2", *words)
        socket_flag = f"--socket={self.directory / 'munge.socket'}"
        self.wait_for(lambda: self.command("munge", "-n", socket_flag).startswith("MUNGE:"))

    def _write_conf(self) -> None:
        for name in self._names:
            (self.directory / "spool" / name).mkdir(parents=True)
            (self.directory / "tmp" / name).mkdir(parents=True)
        (self.directory / "state").mkdir()
        for number in range(GPUS):
            os.mknod(self.directory / f"gpu{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        address = self.hosts.address(LOGIN)
        text = _CONF.format(login=LOGIN, address=address, directory=self.directory, slurmd_timeout_s=_SLURMD_TIMEOUT_S)
        gres = ""
        for name in self._names:
            text += _NODE.format(name=name, address=self.hosts.address(name), cpus=CPUS, gpus=GPUS)
            gres += _GRES.format(name=name, gpus=GPUS, last=GPUS - 1, directory=self.directory)
        text += f"PartitionName=main Nodes={','.join(self._names)} Default=YES MaxTime=INFINITE State=UP\n"
        self._conf.write_text(text)
        (self.directory / "gres.conf").write_text(gres)

    def _daemon(self, host: str, tool: str, *words: str) -> None:
        self._daemons += 1
        with (self.directory / f"{self._daemons}-{tool}.log").open("wb") as output:
            # It dies with its host, whose processes are all in one namespace.
            subprocess.Popen(
                self.hosts[host].enter(_find(tool), *words),
                env={**os.environ, "SLURM_CONF": str(self._conf), "PATH": _SEARCHED},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )


def _find(tool: str) -> str | None:
    return shutil.which(tool, path=_SEARCHED)


def _poll(is_so: Callable[[], bool], timeout_s: float) -> bool:
    end = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""
