"""A real Slurm of some nodes on this one machine, for the tests that submit jobs.

Every node is a slurmd of its own on a port of its own. All daemons listen on loopback, are children of this
process, and keep everything, munge's key and socket too, in one temporary directory; a Slurm or a munged that
runs here already is neither used nor touched.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

TOOLS = ("munged", "munge", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "squeue", "sinfo")
CPUS = 4
_SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
_FOREIGN = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "HYDI_", "HYDRA_", "SLURM_", "SBATCH_", "HANDOFF_")
_GOING_ON = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "STOPPED"}

# The nodes claim CPUS whatever the machine has (config_overrides). No cgroups, since a container may have none. What
# is submitted starts at once. A job's death is certain after KillWait, a node's after SlurmdTimeout; finished jobs stay
# visible for an hour.
_CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
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
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
ReturnToService=2
MailProg=/bin/true
KillWait=3
SlurmdTimeout=20
MinJobAge=3600
"""
_NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=4000 State=UNKNOWN\n"


def find_missing() -> str | None:
    """Return what a Slurm wants and this machine lacks, or None."""
    if os.geteuid() != 0:
        return "a root user, as whom Slurm's daemons run,"
    return next((tool for tool in TOOLS if _find(tool) is None), None)


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
    """Slurm's daemons, and the commands that talk to them."""

    def __init__(self, nodes: int = 3) -> None:
        # Sockets have short names and are for all to reach, so this is no directory of pytest's.
        self.directory = Path(tempfile.mkdtemp(prefix="handoff-slurm-"))
        self.directory.chmod(0o755)
        self._names = [f"node{number}" for number in range(1, nodes + 1)]
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._slurmd: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start the daemons and wait until every node is idle."""
        self._start_munged()
        self._write_conf()
        self._daemon("slurmctld", "-D", "-c")
        for name in self._names:
            self._slurmd[name] = self._daemon("slurmd", "-D", "-N", name)
        self._wait_until_idle()

    def kill_node(self, name: str) -> None:
        """Kill every process of a node at once, as a loss of power does."""
        self._slurmd[name].kill()
        there = [process for process in self._processes() if _node_of(process) == name]
        stepds = [parent for process in there for parent in process.parents() if parent.name() == "slurmstepd"]
        for process in {*there, *stepds}:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        self._slurmd[name].wait(10)

    def revive_node(self, name: str) -> None:
        """Start a node's daemon again, and wait until all nodes are idle."""
        self._slurmd[name] = self._daemon("slurmd", "-D", "-N", name)
        self._wait_until_idle()

    def _wait_until_idle(self) -> None:
        self.wait_for(lambda: self.command("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * len(self._names))

    def stop(self) -> None:
        """End the jobs, then the daemons, then whatever of them is left; remove the directory."""
        try:
            if self._conf.exists():
                self.command("scancel", "--user", "root")
                _poll(lambda: not self.command("squeue", "-h"), 15)
        finally:
            for daemon in reversed(self._daemons):
                _end(daemon)
            for process in self._processes():
                process.kill()
            shutil.rmtree(self.directory, ignore_errors=True)

    def command(self, tool: str, *words: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
        """Run a command of Slurm's and return what it prints."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        own.update(env or {}, SLURM_CONF=str(self._conf))
        command = [str(_find(tool)), *map(str, words)]
        ended = subprocess.run(command, cwd=cwd, env=own, capture_output=True, text=True, timeout=30, check=False)
        return ended.stdout if ended.returncode == 0 else f"{ended.stdout}\n{tool}: {ended.stderr}"

    def submit(self, *words: object, cwd: Path, env: dict[str, str] | None = None) -> int:
        """Submit a job from ``cwd``, where its output goes too; return its number."""
        answer = self.command("sbatch", "--parsable", "--output", "%j.out", *words, cwd=cwd, env=env)
        assert answer.strip().isdigit(), answer
        return int(answer)

    def wait_for_script(self, number: int, cwd: Path, timeout_s: float = 90) -> None:
        """Wait until a job's script has ended, though nodes that are dead have yet to say so."""
        states = _GOING_ON - {"COMPLETING"}
        self.wait_for(lambda: self._field(number, "JobState") not in states, timeout_s, cwd / f"{number}.out")

    def wait(self, number: int, cwd: Path, timeout_s: float = 90) -> Job:
        """Wait until a job has ended."""
        self.wait_for(lambda: self._field(number, "JobState") not in _GOING_ON, timeout_s, cwd / f"{number}.out")
        return Job(
            number, self._field(number, "JobState"), self._field(number, "ExitCode"), _text(cwd / f"{number}.out")
        )

    def wait_for(self, is_so: Callable[[], bool], timeout_s: float = 30, *shown: Path) -> None:
        """Wait until something is so; if it never is, show the files and the controller's log."""
        if _poll(is_so, timeout_s):
            return
        logs = [*shown, *sorted(self.directory.glob("*.log"))]
        tails = "\n".join(f"== {log}\n{_text(log)[-2000:]}" for log in logs)
        raise AssertionError(f"not so within {timeout_s} s\n{self.command('squeue', '-t', 'all')}\n{tails}")

    @property
    def _conf(self) -> Path:
        return self.directory / "slurm.conf"

    def _field(self, number: int, name: str) -> str:
        shown = self.command("scontrol", "show", "job", number)
        found = re.search(rf"\b{name}=(\S+)", shown)
        assert found, shown
        return found[1]

    def _start_munged(self) -> None:
        key = self.directory / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        files = {"socket": "munge.socket", "key-file": key.name, "pid-file": "munged.pid", "seed-file": "munge.seed"}
        words = [f"--{option}={self.directory / file}" for option, file in files.items()]
        self._daemon("munged", "--foreground", "--num-threads=2", *words)
        socket_flag = f"--socket={self.directory / 'munge.socket'}"
        self.wait_for(lambda: self.command("munge", "-n", socket_flag).startswith("MUNGE:"))

    def _write_conf(self) -> None:
        for name in self._names:
            (self.directory / "spool" / name).mkdir(parents=True)
            (self.directory / "tmp" / name).mkdir(parents=True)
        (self.directory / "state").mkdir()
        host = socket.gethostname().split(".")[0]
        port, *ports = _free_ports(1 + len(self._names))
        text = _CONF.format(host=host, port=port, directory=self.directory)
        for name, each in zip(self._names, ports, strict=True):
            text += _NODE.format(name=name, host=host, port=each, cpus=CPUS)
        text += f"PartitionName=main Nodes={','.join(self._names)} Default=YES MaxTime=INFINITE State=UP\n"
        self._conf.write_text(text)

    def _daemon(self, tool: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{len(self._daemons)}-{tool}.log").open("wb") as output:
            daemon = subprocess.Popen(
                [str(_find(tool)), *words],
                env={**os.environ, "SLURM_CONF": str(self._conf)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._daemons.append(daemon)
        return daemon

    def _processes(self) -> list[psutil.Process]:
        """Return the processes of this Slurm and of its jobs that still live: all have its file's name with them."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.environ().get("SLURM_CONF") == str(self._conf):
                    found.append(process)
            except psutil.Error:
                continue
        return found


def _node_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("SLURMD_NODENAME")
    except psutil.Error:
        return None


def _find(tool: str) -> str | None:
    return shutil.which(tool, path=_SEARCHED)


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on; all are held at once, so that they differ."""
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.send_signal(signal.SIGKILL)
        daemon.wait(10)


def _poll(is_so: Callable[[], bool], timeout_s: float) -> bool:
    end = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""
