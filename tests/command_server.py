"""Runs ``python -m handoff_mpi`` for tests: a process that has imported the package forks one for each command.

Starting Python and importing the package takes longer than most commands do. A forked process differs from one that was
started in this alone; where a variable matters to the start, and for tests of the start itself, there are fresh ones.
"""

from __future__ import annotations

import importlib
import os
import pickle
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import time

#: Variables that are read as Python, a C library or this package starts.
_OF_THE_START = ("PYTHON", "LC_", "LANG", "LD_", "TZ", "MALLOC_", "OMPI_", "PMIX_", "PRTE_", "PMI_", "HYDI_", "HYDRA_")
_MAX_NBYTES = 1 << 20


class CommandServer:
    """The server of this process's commands.

    Args:
        environment: of the commands; some may have more variables.
    """

    def __init__(self, environment):
        self._of_the_start = _of_the_start(environment)
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, __file__, str(theirs.fileno())]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # as commands have: Python looks as it starts whether it could seek there
            stderr=subprocess.PIPE,
            env=environment,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()

    def serves(self, environment):
        """Whether a command with these variables starts as the server did."""
        return _of_the_start(environment) == self._of_the_start

    def run(self, words, cwd, environment, timeout_s):
        """Run a command in a session of its own; return its exit code, negative for a signal, and what it printed.

        Raises:
            subprocess.TimeoutExpired: it was killed, with what it has printed until then.
        """
        out, err, news = os.pipe(), os.pipe(), os.pipe()
        umask = os.umask(0o077)
        os.umask(umask)
        request = pickle.dumps(([str(word) for word in words], str(cwd), environment, umask))
        socket.send_fds(self._connection, [request], [out[1], err[1], news[1]])
        for _, end in (out, err, news):
            os.close(end)
        try:
            pid = int(os.read(news[0], 20))
            printed = _read_all(out[0], err[0], pid, time.monotonic() + timeout_s)
            return int(os.read(news[0], 20)), *printed
        finally:
            for end, _ in (out, err, news):
                os.close(end)

    def close(self):
        """End the server; commands that run are left alone."""
        self._connection.close()
        self._process.communicate()


def _of_the_start(environment):
    return {name: value for name, value in environment.items() if name.startswith(_OF_THE_START)}


def _read_all(out, err, pid, end):
    """Return what comes out of two pipes until both are closed."""
    parts = {out: b"", err: b""}
    with selectors.DefaultSelector() as selector:
        for each in parts:
            selector.register(each, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, end - time.monotonic()))
            if not ready:
                os.killpg(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired("handoff_mpi", 0, *map(_text, parts.values()))
            for key, _ in ready:
                part = os.read(key.fd, 1 << 16)
                parts[key.fd] += part
                if not part:
                    selector.unregister(key.fd)
    return map(_text, parts.values())


def _text(printed):
    return printed.decode().replace("\r\n", "\n").replace("\r", "\n")


# -- in the server ---------------------------------------------------------------------------------------


def _serve(connection):
    """Fork for each request; return in the process of a command, which is to run it."""
    while True:
        request, descriptors, *_ = socket.recv_fds(connection, _MAX_NBYTES, 3)
        if not request:
            sys.exit()
        out, err, news = descriptors
        if os.fork() == 0:  # a process between them waits for its end: others may be requested meanwhile
            connection.close()
            pid = os.fork()
            if pid == 0:
                os.close(news)
                return request, out, err
            os.close(out)
            os.close(err)
            os.write(news, b"%-20d" % pid)
            os.write(news, b"%-20d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            os._exit(0)
        for each in (out, err, news):
            os.close(each)
        _reap()


def _reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _become(request, out, err):
    """Make this process what ``subprocess`` would have started."""
    words, cwd, environment, umask = pickle.loads(request)
    os.setsid()
    os.chdir(cwd)
    os.umask(umask)
    for fd, number in ((out, 1), (err, 2)):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = words
    sys.path[0] = cwd


if __name__ == "__main__":
    del sys.path[0]  # beside this file
    for module in ("handoff_mpi.cli", "handoff_mpi.launch.run"):
        importlib.import_module(module)
    sys.path.insert(0, "")  # where the command will be run
    _become(*_serve(socket.socket(fileno=int(sys.argv[1]))))
    runpy.run_module("handoff_mpi", run_name="__main__", alter_sys=True)
