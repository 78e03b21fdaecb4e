"""A remote shell over TCP for hosts made of namespaces: ``serve`` is a host's first process, ``call`` is its ssh.

It is a real connection over the hosts' own network, so a host that was cut off does not answer, and one whose
processes died closes it. Only the standard library, and started with ``-I -S``: launchers call it once for each host.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading

PORT = 22022
_FRAME = struct.Struct("!ii")  # (bytes that follow, -1 or the exit status)


def serve(name: str, hosts: str, scratch: str) -> None:
    """Make this process's namespaces a host called ``name``, say so, and run what comes in until killed."""
    socket.sethostname(name)
    for words in (
        ["-t", "proc", "proc", "/proc"],
        ["-t", "tmpfs", "tmpfs", "/dev/shm"],
        ["-t", "tmpfs", "tmpfs", scratch],
        ["--bind", hosts, "/etc/hosts"],
    ):
        subprocess.run(["mount", *words], check=True, timeout=20)
    os.environ["TMPDIR"] = scratch
    with socket.create_server(("", PORT)) as server:
        print("up", flush=True)
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with connection, connection.makefile("rb") as lines:
        request = json.loads(lines.readline())
        process = subprocess.Popen(
            ["sh", "-c", request["command"]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while data := os.read(process.stdout.fileno(), 65536):
                connection.sendall(_FRAME.pack(len(data), -1) + data)
            connection.sendall(_FRAME.pack(0, process.wait()))
        except OSError:
            pass  # the caller has ended; the process that it started continues, as under ssh


def call(words: list[str]) -> int:
    """Run a shell command on a host as ``ssh HOST COMMAND...`` would; return its exit status, 255 if it was lost."""
    while words[0].startswith("-"):
        words = words[1:]
    host, *command = words
    try:
        with socket.create_connection((host, PORT)) as connection, connection.makefile("rb") as frames:
            connection.sendall(json.dumps({"command": " ".join(command)}).encode() + b"\n")
            while head := frames.read(_FRAME.size):
                nbytes, status = _FRAME.unpack(head)
                if status >= 0:
                    return status
                os.write(1, frames.read(nbytes))
    except OSError as error:
        print(f"{host}: {error}", file=sys.stderr)
    return 255


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*sys.argv[2:])
    sys.exit(call(sys.argv[2:]))
