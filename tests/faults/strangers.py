"""Another user of the host tries all doors of a run while it runs: which are there, and what it gets.

    python -m tests.faults.strangers

It needs root, to become another user. The run has three ranks and child processes, and values of 8 MB that pass between
them and lie in files. The stranger tries to signal its processes, to read their descriptors, memory and environment, to
write to its files in temporary directories and in shared memory, and to talk to its sockets and ports; it rings the
doorbells, and floods them. Prints what it got of each kind, and how the run ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from tests.conftest import ROOT
from tests.faults.launching import Launched, launch
from tests.strangers import STRANGER

WORDS = [sys.executable, "-m", "handoff_mpi", "run", "-n", "3", "--run-dir", "run", "--keep", "all"]
DAG = """
import pathlib, time
import numpy
from handoff_mpi import DAG, Function
def make(number):
    end = time.monotonic() + 100  # all but the first wait for the stranger
    while number and not pathlib.Path("tried").exists() and time.monotonic() < end: time.sleep(0.01)
    return numpy.full(1_000_000, float(number))
def add(one, other): return one + other
dag = DAG("tried")
for number in range(6): dag.add_function(Function(number, (), make, [number], timeout=60 if number % 2 else None))
for number in range(6): dag.add_function(Function(("sum", number), [number, (number + 1) % 6], add))
dag.add_function(Function("all", [("sum", number) for number in range(6)], lambda *parts: float(sum(parts).sum())))
"""
#: What it comes to.
ALL = 30_000_000.0
_MADE = ("handoff-*", "ompi.*", "prte.*", "prterun*", "pmix*", "openmpi-sessions*")


def main() -> None:
    if os.geteuid() != 0:
        sys.exit("only root can become another user")
    with tempfile.TemporaryDirectory(prefix="handoff-tried-") as place:
        got, code, text = try_all(Path(place), 2.0)
    for (door, answer), count in sorted(got.items()):
        print(f"{door:55} {answer:28} {count:6}")
    print(f"the run ended with {code}" + ("" if code == 0 else f":\n{text[-2000:]}"))


def try_all(place: Path, flood_s: float) -> tuple[Counter[tuple[str, str]], int | None, str]:
    """Run while a stranger tries; return how often it got what of which door, the run's exit code and what it said."""
    place.chmod(0o755)
    (place / "tried.py").write_text(DAG)
    others = set(temporary_places())
    launched = launch([*WORDS, "tried.py"], place, {"PYTHONPATH": str(ROOT)})
    got: Counter[tuple[str, str]] = Counter()
    try:
        end = time.monotonic() + 60
        while not list(place.glob("run/values/*.value")) and time.monotonic() < end and launched.process.poll() is None:
            time.sleep(0.05)
        doors = find_doors(launched, place, others)
        got = STRANGER.does(try_doors, doors, flood_s)
        (place / "tried").touch()
        code = launched.wait(90)
    finally:
        launched.kill()
    if isinstance(got, Exception):
        raise got
    return got, code, launched.text()


# -- what there is: found by root -------------------------------------------------------------------------


def temporary_places() -> list[Path]:
    """Return files and directories that runs make for a time, whose ever they are."""
    temporary = Path(tempfile.gettempdir())
    return [path for name in _MADE for path in temporary.glob(name)] + list(Path("/dev/shm").glob("*"))


def find_doors(launched: Launched, place: Path, others: set[Path]) -> dict[str, list[str]]:
    """Return the doors of a run, by kind.

    Args:
        others: what there was before it.
    """
    processes = launched.processes()
    pids = [str(each.pid) for each in processes]
    inodes = {inode for each in processes for inode in socket_inodes(each.pid)}
    doors: dict[str, list[str]] = {"pid": pids, "abstract": [], "socket": [], "port": [], "file": []}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[6] in inodes:
            kind = "datagram" if fields[4] == "0002" else "stream"
            doors["abstract" if fields[7].startswith("@") else "socket"].append(f"{kind} {fields[7]}")
    for each in processes:
        with contextlib.suppress(psutil.Error):
            doors["port"] += [f"{c.laddr.port}" for c in each.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    for top in (place / "run", *(path for path in temporary_places() if path not in others)):
        doors["file"] += [str(top), *map(str, top.rglob("*"))]
    return doors


def socket_inodes(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found


# -- the attempts: by the stranger --------------------------------------------------------------------------


def try_doors(doors: dict[str, list[str]], flood_s: float) -> Counter[tuple[str, str]]:
    """Try everything; return how often which attempt got what."""
    got: Counter[tuple[str, str]] = Counter()

    def attempt(door: str, does) -> None:
        try:
            answer = does()
            got[door, "got it" if answer is None else str(answer)] += 1
        except OSError as error:
            got[door, type(error).__name__] += 1

    for pid in doors["pid"]:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
            attempt("signal a process", lambda pid=pid, number=number: os.kill(int(pid), number))
        for secret in ("environ", "mem", "maps", "fd", "cwd", "stack"):
            attempt(f"read /proc/PID/{secret}", lambda pid=pid, secret=secret: look(f"/proc/{pid}/{secret}"))
        for number in range(64):
            attempt("open a pipe, a child's socket, shared memory", lambda path=f"/proc/{pid}/fd/{number}": look(path))
        attempt("read memory of a process (CMA)", lambda pid=pid: read_memory(int(pid)))
    for path in doors["file"]:
        where = "shared memory" if path.startswith("/dev/shm") else "run-dir" if "/run" in path else "temporary files"
        attempt(f"write to {where}", lambda path=path: write_to(path))
    for line in doors["socket"]:
        attempt("connect to a socket with a name", lambda line=line: connect_unix(line.split(" ", 1)[1]))
    for line in doors["abstract"]:
        kind, name = line.split(" ", 1)
        if kind == "stream":
            attempt("connect to an abstract socket", lambda name=name: connect_unix("\0" + name[1:]))
    for port in doors["port"]:
        attempt("talk to a port of the launcher", lambda port=port: talk(int(port)))
    doorbells = [line.split(" ", 1)[1] for line in doors["abstract"] if line.startswith("datagram")]
    ring(doorbells, flood_s, attempt)
    return got


def look(path: str) -> None:
    if Path(path).is_dir():
        list(Path(path).iterdir())
    else:
        with Path(path).open("rb") as file:
            file.read(1)


def write_to(path: str) -> None:
    if Path(path).is_dir():
        Path(path, "planted").mkdir()
    else:
        Path(path).open("r+b").close()


def read_memory(pid: int) -> None:
    class Part(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]

    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(16)
    here, there = Part(ctypes.addressof(buffer), 16), Part(ctypes.addressof(buffer), 16)
    if libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def connect_unix(name: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(1)
        sock.connect(name)
        sock.sendall(b"\x80\x05garbage" * 999)


def talk(port: int) -> str:
    """Say rubbish, and hear what comes."""
    with socket.socket() as sock:
        sock.settimeout(1)
        sock.connect(("127.0.0.1", port))
        sock.sendall(b"\x80\x05garbage" * 999)
        try:
            answer = sock.recv(4096)
        except TimeoutError:
            return "connected, no answer"
        return f"connected, {'closed' if not answer else 'answered'}"


def ring(doorbells: list[str], flood_s: float, attempt) -> None:
    """Ring each doorbell, with nothing and with rubbish, as fast as it goes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        end = time.monotonic() + flood_s
        while time.monotonic() < end:
            for doorbell in doorbells:
                for content in (b"", b"\x80\x05garbage" * 99):
                    attempt(
                        "ring a doorbell", lambda doorbell=doorbell, content=content: ring_one(sock, doorbell, content)
                    )


def ring_one(sock: socket.socket, doorbell: str, content: bytes) -> None:
    sock.sendto(content, "\0" + doorbell[1:])


if __name__ == "__main__":
    main()
