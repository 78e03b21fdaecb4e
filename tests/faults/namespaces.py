"""Hosts made of namespaces on this one machine, for tests in which whole hosts fail.

Each has its own network, host name, processes, /dev/shm and temporary files; all share the file system, as hosts of a
cluster do. A bridge in a namespace of its own joins them, and nothing leads out of it. No namespace has a name, and
each dies with its first process, which dies with this one: nothing is left behind, however a test ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

TOOLS = ("ip", "unshare", "nsenter", "setpriv", "mount")
_SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
_REMOTE = Path(__file__).with_name("remote.py")
_FOREIGN = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "HYDI_", "HYDRA_", "SLURM_", "HANDOFF_")
_WAIT_S = 20.0


def find_missing() -> str | None:
    """Return what hosts made of namespaces want and this machine lacks, or None."""
    if os.geteuid() != 0:
        return "a root user, who may make namespaces,"
    return next((tool for tool in TOOLS if shutil.which(tool, path=_SEARCHED) is None), None)


def _find(tool: str) -> str:
    return shutil.which(tool, path=_SEARCHED) or tool


class Host:
    """One host: its first process, and what can be done to it."""

    def __init__(self, name: str, scratch: Path, starter: subprocess.Popen[str], init: psutil.Process) -> None:
        self.name = name
        self.scratch = scratch
        self.starter = starter
        self.init = init

    def enter(self, *words: object, cwd: Path | None = None) -> list[str]:
        """Return the command line that runs ``words`` there."""
        into = ["--net", "--uts", "--ipc", "--mount", "--pid"]
        # By their paths: the command's own PATH is for what it runs there.
        command = [_find("nsenter"), "--target", str(self.init.pid), *into, f"--wd={cwd or Path.cwd()}"]
        return [*command, _find("env"), f"TMPDIR={self.scratch}", *map(str, words)]

    def processes(self, of: str = "") -> list[psutil.Process]:
        """Return the living processes there with ``of`` on their command line."""
        space = _pid_namespace(self.init.pid)
        found = []
        for process in psutil.process_iter():
            try:
                is_here = process.pid != self.init.pid and _pid_namespace(process.pid) == space
                if is_here and process.status() != psutil.STATUS_ZOMBIE and of in " ".join(process.cmdline()):
                    found.append(process)
            except (OSError, psutil.Error):
                continue
        return found


class Hosts:
    """Some hosts and the switch between them; a context manager.

    Args:
        hosts: their names, or how many (``h1``, ``h2``, ...).
        cores: what each is made to offer (HANDOFF_CORES).

    Attributes:
        directory: holds the launch ``agent`` and other files of the hosts.
    """

    def __init__(self, hosts: int | Sequence[str], cores: int = 1) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="handoff-hosts-"))
        self._names = [f"h{number}" for number in range(1, hosts + 1)] if isinstance(hosts, int) else [*hosts]
        self._cores = cores
        self._switch: subprocess.Popen[str] | None = None
        self.hosts: list[Host] = []

    def __enter__(self) -> Hosts:
        try:
            self._write_files()
            self._start_switch()
            for name in self._names:
                self.hosts.append(self._start_host(name))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> Host:
        return next(host for host in self.hosts if host.name == name)

    def address(self, name: str) -> str:
        """Return a host's address."""
        return f"10.77.0.{self._names.index(name) + 1}"

    @property
    def agent(self) -> Path:
        """The launch agent: ``agent HOST COMMAND...``, as ssh."""
        return self.directory / "agent"

    def environment(self) -> dict[str, str]:
        """Return the environment for what is run on the hosts: launchers use the agent, each host has its cores."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        own.update(PRTE_MCA_plm_ssh_agent=str(self.agent), HANDOFF_CORES=str(self._cores))
        own.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        return own

    def cut(self, name: str) -> None:
        """Cut a host's link: it lives, and nobody hears of it."""
        self._in_switch(f"link set {name} down")

    def mend(self, name: str) -> None:
        """Put the link back."""
        self._in_switch(f"link set {name} up")

    def kill(self, name: str) -> None:
        """Kill every process of a host at once; its kernel still closes their connections."""
        self[name].init.kill()
        self[name].starter.wait(_WAIT_S)

    def close(self) -> None:
        """End the hosts and all that runs there."""
        for host in self.hosts:
            _end(host.starter)
        if self._switch is not None:
            _end(self._switch)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _write_files(self) -> None:
        lines = [f"{self.address(name)} {name}\n" for name in self._names]
        (self.directory / "hosts").write_text("127.0.0.1 localhost\n" + "".join(lines))
        self.agent.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{_REMOTE}" call "$@"\n')
        self.agent.chmod(0o755)

    def _start_switch(self) -> None:
        self._switch, _ = _start(["--net"], ["sh", "-c", "echo up; exec sleep infinity"], self.environment())
        self._in_switch("link add bridge0 type bridge", "link set bridge0 up")

    def _start_host(self, name: str) -> Host:
        (self.directory / name).mkdir(exist_ok=True)
        words = [sys.executable, "-I", "-S", _REMOTE, "serve", name, self.directory / "hosts", self.directory / name]
        kinds = ["--net", "--uts", "--ipc", "--mount", "--pid"]
        starter, init = _start(kinds, words, self.environment())
        self._in_switch(
            f"link add {name} type veth peer name eth0 netns {init.pid}",
            f"link set {name} master bridge0 up",
        )
        _ip(init.pid, ["link set lo up", f"addr add {self.address(name)}/24 dev eth0", "link set eth0 up"])
        return Host(name, self.directory / name, starter, init)

    def _in_switch(self, *lines: str) -> None:
        assert self._switch is not None
        _ip(_child_of(self._switch).pid, lines)


def _start(kinds, words, environment) -> tuple[subprocess.Popen[str], psutil.Process]:
    """Start a process in namespaces of its own, wait until it says that it is up; return unshare, and it."""
    unshare = ["unshare", *kinds, "--fork", "--kill-child=KILL"]
    starter = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *unshare, *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # unshare has something to say when its child is killed
        text=True,
        env={**environment, "PATH": _SEARCHED},
        start_new_session=True,
    )
    if starter.stdout.readline() != "up\n":
        _end(starter)
        raise RuntimeError(f"no namespace could be made (unshare ended with {starter.returncode})")
    return starter, _child_of(starter)


def _child_of(starter: subprocess.Popen[str]) -> psutil.Process:
    return psutil.Process(starter.pid).children()[0]


def _ip(pid: int, lines) -> None:
    """Run commands of ``ip`` in the network of a process."""
    subprocess.run(
        ["nsenter", "--target", str(pid), "--net", shutil.which("ip", path=_SEARCHED), "-batch", "-"],
        input="".join(f"{line}\n" for line in lines),
        text=True,
        check=True,
        timeout=_WAIT_S,
    )


def _pid_namespace(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/pid").readlink())


def _end(starter: subprocess.Popen[str]) -> None:
    starter.send_signal(signal.SIGKILL)
    starter.wait(_WAIT_S)
    starter.stdout.close()


def wait_for(is_so, timeout_s: float) -> bool:
    """Wait until something is so; return whether it ever was."""
    end = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
