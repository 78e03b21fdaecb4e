"""The hosts of a launch: which they are, how many ranks each has, and which still answer."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from handoff_mpi.errors import UsageError
from handoff_mpi.formatting import show
from handoff_mpi.launch.environment import COMPONENT_AGENT, components, environment_to_launch
from handoff_mpi.runtime.host_probe import GONE, HOST_PROBE_TIMEOUT_S, LIVES, NOT_ASKED, SILENT, HostProbe

_AT_ONCE = 64
#: Hosts get this long where asking turns out to be slow, or not to work on this host itself.
_PATIENT_PROBE_S = 20.0
#: A rank that does nothing takes more memory than this.
_RANK_NBYTES = 16 * 1024**2
#: More than Slurm itself can hold.
_MAX_NODES = 100_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_COUNT = re.compile(r"0*[1-9][0-9]{0,8}")
_SLURM_PART = re.compile(r"([^,\[]*)(?:\[([^\]]*)\])?([^,\[]*)(?:,|$)")
_HOSTFILE = "PRTE_MCA_prte_default_hostfile"
_AGENTS = ("PRTE_MCA_plm_ssh_agent", "OMPI_MCA_plm_ssh_agent", "OMPI_MCA_plm_rsh_agent", "HYDRA_LAUNCHER_EXEC")
_SSH = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"]
# A step that shares the node and takes nothing of it: the launcher's daemons hold the CPUs, the memory and the GPUs of
# the job, those of a launch that died too as long as Slurm thinks that they live.
_SRUN_FLAGS = [
    "--overlap",
    "--mem=0",
    "--gres=none",
    "--no-kill",
    "--mpi=none",
    "-N1",
    "-n1",
    "-t",
    "1",
    "-w",
    "{host}",
]
_SRUN = ["env", "SLURM_OVERLAP=1", "srun", *_SRUN_FLAGS, "sh", "-c"]


class Hosts:
    """The hosts that ``ranks`` ranks are spread over.

    Args:
        ranks: how many.
        slots: host to how many ranks it should have, None where nobody said; empty if the hosts are not known.
        reach: the words before a shell command for a host, ``{host}`` among them.
        is_given: whether the user named them, or mpirun knows them by itself.

    Attributes:
        lost: the hosts that did not answer when they were last asked.
        not_asked: those of which nothing was learnt then, since Slurm had not passed the question on.
    """

    def __init__(
        self, ranks: int, slots: Mapping[str, int | None], reach: Sequence[str] = (), is_given: bool = False
    ) -> None:
        self._ranks = ranks
        self._room = _room(ranks, slots)
        self._is_even = all(count is None for count in slots.values())
        self._is_given = is_given
        self.host_probe = HostProbe(reach, self.names)
        self.lost: list[str] = []
        self.not_asked: list[str] = []

    def __len__(self) -> int:
        return len(self._room)

    @property
    def names(self) -> list[str]:
        return list(self._room)

    def places(self) -> dict[str, int] | None:
        """Return host to ranks of a launch on the hosts that are not lost; None if mpirun decides."""
        if not self._room or not (self._is_given or self.lost):
            return None
        room = {host: count for host, count in self._room.items() if host not in self.lost}
        return spread(min(self._ranks, sum(room.values())), room, self._is_even)

    def look(self) -> list[str]:
        """Ask every host whether it answers, all at once; return those that do not, now ``lost``."""
        if len(self._room) > 1:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                control = pool.submit(self._is_asking_quick)
                answers = self._ask(pool, self.names, HOST_PROBE_TIMEOUT_S)
                silent = _which(answers, SILENT)
                if silent and not control.result():
                    answers.update(self._ask(pool, silent, _PATIENT_PROBE_S))
            self.lost, self.not_asked = _which(answers, SILENT), _which(answers, NOT_ASKED)
        return self.lost

    def answers(self, host: str, pid: int | None = None, within_s: float = HOST_PROBE_TIMEOUT_S) -> bool:
        """Whether ``host`` answers within bounds, and has a process ``pid`` if one is named.

        A host that could not be asked counts as one that answers.
        """
        return self._answer(host, pid, within_s) in (LIVES, NOT_ASKED)

    def _answer(self, host: str, pid: int | None, within_s: float) -> str:
        if _is_here(host):
            return LIVES if pid is None or Path(f"/proc/{pid}").exists() else GONE
        return self.host_probe.ask(host, pid, within_s)

    def _ask(self, pool: ThreadPoolExecutor, hosts: list[str], within_s: float) -> dict[str, str]:
        answers = pool.map(lambda host: self._answer(host, None, within_s), hosts)
        return dict(zip(hosts, answers, strict=True))

    def _is_asking_quick(self) -> bool:
        """Ask this very host like the others: a slow Slurm, for example, must not look like lost hosts."""
        begun = time.monotonic()
        here = next(filter(_is_here, self.names), socket.gethostname())
        return self.host_probe.ask(here) == LIVES and time.monotonic() - begun < HOST_PROBE_TIMEOUT_S / 2


def _which(answers: Mapping[str, str], wanted: str) -> list[str]:
    return [host for host, answer in answers.items() if answer == wanted]


def find_hosts(ranks: int, given: str | None, extra: Sequence[str] = ()) -> Hosts:
    """Return the hosts the user named, or those of Slurm's allocation or of mpirun's hostfile.

    Args:
        given: ``h1,h2,h3`` or ``h1:4,h2:4``.
        extra: words of the user's for mpirun.

    Raises:
        UsageError: ``given`` cannot be understood.
    """
    environ = environment_to_launch(os.environ)
    in_slurm = slurm_hosts(environ.get("SLURM_JOB_NODELIST", ""), environ.get("SLURM_TASKS_PER_NODE", ""))
    agent = [*_agent(extra), "{host}"]
    by_slurm = _SRUN
    is_heterogeneous = components(environ) > 1
    if is_heterogeneous:
        in_slurm, by_slurm = _hosts_of_components(environ), [str(COMPONENT_AGENT), "{host}"]
    if given:
        named = parse_hosts(given)
        return Hosts(ranks, named, by_slurm if set(named) <= set(in_slurm) else agent, True)
    if in_slurm:
        return Hosts(ranks, in_slurm, by_slurm, is_heterogeneous)
    return Hosts(ranks, _read_hostfile(environ.get(_HOSTFILE, "")), agent)


def _hosts_of_components(environ: Mapping[str, str]) -> dict[str, int | None]:
    """Return node to tasks of a heterogeneous job; components may share a node."""
    hosts: dict[str, int | None] = {}
    for number in range(components(environ)):
        nodes, tasks = (f"SLURM_{name}_HET_GROUP_{number}" for name in ("JOB_NODELIST", "TASKS_PER_NODE"))
        for host, count in slurm_hosts(environ.get(nodes, ""), environ.get(tasks, "")).items():
            hosts[host] = (hosts.get(host) or 0) + (count or 1)
    return hosts


def refuse_too_many(ranks: int, hosts: Hosts, extra: Sequence[str] = ()) -> None:
    """Refuse more ranks than the memory of this host could hold, where it is the only one.

    Raises:
        UsageError: there are more.
    """
    if len(hosts) or extra:
        return
    most = int(psutil.virtual_memory().total // _RANK_NBYTES)
    if ranks > most:
        what = f"-n {ranks}: the memory of this host would not hold more than {most} ranks"
        raise UsageError(f"{what}; run -n takes more hosts by --hosts")


def parse_hosts(text: str) -> dict[str, int | None]:
    """Return host to ranks, None where none are given.

    Raises:
        UsageError: it is no list of hosts.
    """
    hosts: dict[str, int | None] = {}
    for word in text.split(","):
        name, colon, count = word.strip().partition(":")
        is_count = not colon or _COUNT.fullmatch(count)
        if not _NAME.fullmatch(name) or not is_count or name in hosts:
            raise UsageError(f"--hosts names each host once, as h1,h2 or h1:4,h2:4 (host:ranks), not {show(text)}")
        hosts[name] = int(count) if colon else None
    return hosts


def slurm_hosts(nodes: str, tasks: str) -> dict[str, int | None]:
    """Return node to tasks granted there, from SLURM_JOB_NODELIST and SLURM_TASKS_PER_NODE.

    ``node[1-3,07],login`` and ``2(x3),1`` are what they look like.
    """
    names = []
    for before, ranges, after in _SLURM_PART.findall(nodes):
        if before or ranges or after:
            names += [f"{before}{number}{after}" for number in _numbers(ranges)]
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks):
        counts += [int(count)] * min(int(times or 1), _MAX_NODES)
    if len(counts) != len(names):
        return dict.fromkeys(names)
    return dict(zip(names, counts, strict=True))


def _numbers(ranges: str) -> list[str]:
    numbers = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        if last:
            end = min(int(last), int(first) + _MAX_NODES)
            numbers += [f"{number:0{len(first)}}" for number in range(int(first), end + 1)]
        else:
            numbers.append(first)
    return numbers


def _read_hostfile(path: str) -> dict[str, int | None]:
    try:
        lines = Path(path).read_text().splitlines() if path else []
    except OSError:
        return {}  # mpirun will say so
    hosts: dict[str, int | None] = {}
    for line in lines:
        words = line.partition("#")[0].split()
        if words:
            slots = re.search(r"\bslots\s*=\s*(\d+)", line)
            hosts[words[0]] = int(slots[1]) if slots else None
    return hosts


def spread(ranks: int, room: Mapping[str, int], is_even: bool) -> dict[str, int]:
    """Return host to ranks: evenly, or host by host, as far as there is room; hosts without ranks are left out."""
    left, places = ranks, dict.fromkeys(room, 0)
    while left > 0 and any(places[host] < room[host] for host in room):
        for host, count in room.items():
            take = min(left, count - places[host], 1 if is_even else left)
            places[host] += take
            left -= take
    return {host: count for host, count in places.items() if count}


def _room(ranks: int, slots: Mapping[str, int | None]) -> dict[str, int]:
    """Return the most ranks each host gets: what was said, else its share; more where that is not enough for all."""
    if not slots:
        return {}
    if all(count is None for count in slots.values()):
        return dict.fromkeys(slots, -(-ranks // len(slots)))
    room = {host: 1 if count is None else count for host, count in slots.items()}
    beyond = max(0, ranks - sum(room.values()))
    return {host: count + -(-beyond // len(room)) for host, count in room.items()}


def _agent(extra: Sequence[str]) -> list[str]:
    """Return the command that reaches another host, as the launcher is configured: ssh unless the user set another."""
    told = [os.environ[name] for name in _AGENTS if os.environ.get(name)]
    for name, value in itertools.pairwise(extra):
        if name in ("plm_ssh_agent", "plm_rsh_agent", "-launcher-exec"):
            told.insert(0, value)
    words = shlex.split(told[0].split(":")[0]) if told else []
    return words if words and words != ["ssh"] else _SSH


def _is_here(host: str) -> bool:
    own = socket.gethostname()
    return host in (own, own.partition(".")[0], "localhost", os.environ.get("SLURMD_NODENAME"))
