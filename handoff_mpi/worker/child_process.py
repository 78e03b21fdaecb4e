"""Child processes of a rank, one for each slot that needs one: started, fed, watched, ended."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from handoff_mpi.dag.ids import is_plain_id
from handoff_mpi.descendants import kill_group
from handoff_mpi.formatting import show
from handoff_mpi.messages import Buffers, Message
from handoff_mpi.module_files import missing_sources
from handoff_mpi.python_path import python_program
from handoff_mpi.resources.device_names import VISIBLE
from handoff_mpi.serialization import EncodingError, Payload, UnreadableId, sendable_id
from handoff_mpi.worker.call_spec import CallSpec
from handoff_mpi.worker.child_protocol import (
    AHEAD,
    BEGUN,
    CALL,
    ENCODE,
    ENDED,
    LEARN,
    OUTPUT,
    RUN,
    SETUP,
    SOURCES,
    TRIM,
    DescriptorsLost,
    Frame,
    FrameReader,
    join,
    packed_frame,
    send_descriptors,
    send_frame,
    send_packed,
    split,
)
from handoff_mpi.worker.element_control import SharedControl
from handoff_mpi.worker.events import QueuedCall
from handoff_mpi.worker.output import descriptors_between_calls
from handoff_mpi.worker.output_index import OutputFiles
from handoff_mpi.worker.process_state import directory_between_calls, variables_between_calls
from handoff_mpi.worker.shared_semaphore import SharedSemaphore

#: A rank kills a child that reads nothing from its socket for this long.
SEND_TIMEOUT_S = 60.0
#: A killed child that has not ended after this long hangs in the kernel (in a file system that does not answer, say):
#: the rank stops waiting for it.
KILL_WAIT_TIMEOUT_S = 5.0
#: The longest part of a crashed child's stack that the rank reports.
_MAX_WORDS = 4000
#: An idle child runs its exit handlers and ends what it has started; one that has not ended by then is killed.
CLOSE_TIMEOUT_S = 10.0
_OWN_FRAME = f"{Path(__file__).parent.parent}/"
_COMMAND = re.compile(r'"<string>", line \d+ in <module>$')
_LAUNCHER_PREFIXES = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "HYDI_", "HYDRA_", "MPIEXEC_", "MPIR_CVAR_", "PALS_")
# In a Slurm job an mpirun would reach for other nodes, whose CPUs are taken, and hang. srun needs SLURM_JOB_ID alone.
_SLURM_PREFIXES = ("SLURM_STEP", "SLURM_NTASKS", "SLURM_TASKS_PER_NODE", "SLURM_PMI", "SLURM_MPI_TYPE")
_SLURM_NAMES = {"SLURM_JOBID", "SLURM_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NNODES", "SLURM_NPROCS", "SLURM_OVERLAP"}
_IMPORTS = "from handoff_mpi.worker.child_main import main"
_CALL = "main(*map(int, sys.argv[1:7]), sys.argv[7], sys.argv[8:])"


def environment_of_child() -> dict[str, str]:
    """Return this rank's environment without its launcher's variables: a child may itself run mpirun."""
    variables = variables_between_calls()
    return {name: value for name, value in variables.items() if not _is_launchers(name)}


def _is_launchers(name: str) -> bool:
    return name.startswith(_LAUNCHER_PREFIXES) or name.startswith(_SLURM_PREFIXES) or name in _SLURM_NAMES


@contextmanager
def no_launcher_in_environment() -> Iterator[None]:
    """Hide the launcher's variables from what calls in this process start; MPI itself has read them by now."""
    hidden = {name: os.environ.pop(name) for name in [*os.environ] if _is_launchers(name)}
    try:
        yield
    finally:
        os.environ.update(hidden)


class ChildProcess:
    """One child process; started at its first call, replaced by making another.

    Args:
        rank: the rank it works for.
        run: the run's name.
        setup: dag.py's ``setup(rank)``, encoded, or None.
        seeds: whether calls that draw random numbers are seeded.
        devices: those that it is shown, as CUDA_VISIBLE_DEVICES has them; "" for those of this process.

    Attributes:
        is_captured: whether the output of its calls is captured, in this run, in the files of the slot that it serves.
        is_spent: whether it must make no further call.
        is_preparing: whether it starts, or loads code, and so has not begun the call that it was given.
        control: of the lease that it runs; it can be read after the death of the child.

    Raises:
        OSError: it cannot be started, or has ended already.
    """

    def __init__(self, rank: int, run: str, setup: bytes | None = None, seeds: bool = True, devices: str = "") -> None:
        self.devices = devices
        self._sock, theirs = socket.socketpair()
        self._sock.setblocking(False)
        self._reader = FrameReader(self._sock, is_kept=True)
        self._trouble = ""
        self._is_dead = False
        self.is_preparing = True
        self.is_captured = self.is_spent = False
        self._circumstances = _circumstances()
        # What setup did was for that run, and a child ends with the thread that started it.
        self._outlasts_run = setup is None and threading.current_thread() is threading.main_thread()
        self.knows: set[int] = set()
        self.knows_constants: set[int] = set()
        self._last_words = os.fdopen(os.memfd_create("last-words"), "rb")
        self._semaphore = SharedSemaphore()
        self.control = SharedControl()
        # Linux counts what the starting process had in memory as the started one's, so only a higher peak is its own.
        self._inherited_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with theirs:
            self._process = self._start(theirs, [str(rank), str(int(seeds)), run])
        self.control.was_passed()
        try:
            if missing_sources():
                self._send((SOURCES, missing_sources()))
            if setup is not None:
                self._send((SETUP, setup, run))
        except OSError:
            self.close()
            raise

    def _start(self, theirs: socket.socket, words: Sequence[str]) -> subprocess.Popen[bytes]:
        descriptors = [each.fileno() for each in (theirs, self._last_words, self._semaphore, self.control)]
        stdout, stderr = descriptors_between_calls()
        try:
            return subprocess.Popen(
                [*python_program(_IMPORTS, _CALL), *map(str, descriptors), *words, *_arguments()],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=directory_between_calls(),
                env={**environment_of_child(), **({VISIBLE: self.devices} if self.devices else {})},
                start_new_session=True,
            )
        except OSError:
            self.hang_up()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_reusable(self) -> bool:
        """Whether, once idle, it can serve another run as a child started for that would."""
        is_sound = self._outlasts_run and not self.is_spent and self._process.poll() is None
        return is_sound and self._circumstances == _circumstances()

    def begin_run(self, run: str, seeds: bool = True) -> bool:
        """Have an idle child serve ``run`` from now on; whether it can."""
        if not self.is_reusable:
            return False
        try:
            self._send((RUN, run, seeds))
        except OSError:
            return False
        self.is_captured = False
        self.knows.clear()
        self.knows_constants.clear()
        return True

    def fileno(self) -> int:
        return self._sock.fileno()

    def capture(self, files: OutputFiles) -> None:
        """Have the output of its calls captured in ``files`` from now on, until another run begins.

        Raises:
            OSError: the child has ended, or too many files are open.
        """
        message = (OUTPUT, files.launch, files.max_nbytes)
        send_descriptors(self._sock, message, [files.out, files.index], SEND_TIMEOUT_S)
        self.is_captured = True

    def learn(self, codes: Sequence[tuple[int, bytes]]) -> None:
        """Send encoded callables.

        Raises:
            OSError: the child has ended.
        """
        self._send((LEARN, codes))
        self.is_preparing = True
        self.knows.update(number for number, _ in codes)

    def learn_constant(self, number: int, payload: Payload) -> None:
        """Send a large constant.

        Raises:
            OSError: the child has ended.
        """
        head, buffers = split(payload)
        self._send((LEARN, (), number, head), buffers)
        self.knows_constants.add(number)

    def call(self, spec: CallSpec) -> None:
        """Start a call; only when none that was sent is running, or yet to begin.

        An idle child reads, so that neither side ever waits for the other to read while it sends itself.

        Raises:
            OSError: the child has ended.
        """
        heads: list[object] = []
        buffers: list[object] = []
        for payload, codec, source in spec.values:
            head, parts = split(payload)
            heads.append((head, len(parts), codec, source))
            buffers += parts
        if spec.elements is not None:
            self.control.begin()
        id, template, elements = _sent(spec.id), spec.call_template, spec.elements
        self._send((CALL, id, spec.attempt, template, heads, spec.cores, spec.devices, elements), buffers)

    def encode(self, codec: object, dest: int, payload: Payload) -> None:
        """Have an idle child encode a value for rank ``dest``; it answers as for a call.

        Raises:
            OSError: the child has ended.
        """
        head, buffers = split(payload)
        self._send((ENCODE, codec, dest, head), buffers)

    def call_ahead(self, frames: Sequence[bytes]) -> None:
        """Have calls, from :func:`frame_ahead`, begin one after the other when those sent before have ended.

        Raises:
            OSError: the child has ended.
        """
        self._semaphore.give(len(frames))  # first: the child that finds none does not run the call
        send_packed(self._sock, frames, SEND_TIMEOUT_S)

    def take_back(self) -> int:
        """Keep from beginning what was sent ahead and has not begun; return how many calls that are, the last ones."""
        return self._semaphore.take_all()

    def give_back_freed_memory(self) -> None:
        """Have an idle child return to the system what its calls have freed, which it keeps for the next otherwise."""
        try:
            self._send((TRIM,))
        except OSError:
            pass  # it has ended, which its next call notices

    def _send(self, message: Message, buffers: Buffers = ()) -> None:
        try:
            send_frame(self._sock, message, buffers, SEND_TIMEOUT_S)
        except TimeoutError as error:
            self._trouble = str(error)
            raise

    def poll(self) -> Frame | None:
        """Return what the child says, or None if it says nothing now.

        See :mod:`handoff_mpi.worker.child_protocol` for the kinds of messages.

        Raises:
            EOFError: the child has ended, or its frame cannot be read.
        """
        try:
            frame = self._reader.read()
        except DescriptorsLost as error:
            self._trouble = str(error)
            self.kill()
            raise
        if frame is None and self._is_dead:
            raise EOFError("its process no longer exists")
        if frame is None:
            return None
        (kind, *fields), buffers = frame
        if kind == BEGUN:
            self.is_preparing = False
        if kind != ENDED or not buffers:
            return frame
        status, head, *rest = fields
        of_payload, pickled, *others = join(head, buffers)
        return (kind, status, (of_payload, pickled), *rest), others

    def kill(self, reason: str = "") -> None:
        """End the child and what it started; ``reason`` is reported as the cause of its death."""
        self._trouble = self._trouble or reason
        kill_group(self._process.pid)

    def bury(self) -> None:
        """The process is dead: end what it started, and do not wait for those that hold its end of the socket too."""
        self._is_dead = True
        self.kill()

    def close(self) -> None:
        """Let the child end by itself when idle; see :meth:`kill` for one that runs."""
        self.hang_up()
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(KILL_WAIT_TIMEOUT_S)

    def has_ended(self) -> bool:
        """Return whether the process of the child has ended."""
        return self._process.poll() is not None

    def hang_up(self) -> None:
        """Tell the child to end when it is idle, without waiting for that; :meth:`close` does."""
        self._sock.close()
        self._reader.close()
        self._last_words.close()
        self._semaphore.close()
        self.control.close()

    def how_it_died(self) -> tuple[str, str]:
        """Reap a dead child; return how it died, in words, and the stack it left, if a fatal signal came."""
        last_words = self._read_last_words()
        self.hang_up()
        code, peak_kb = self._reap()
        self.kill()  # and the processes it left behind
        how = self._trouble or ("its process cannot be ended" if code is None else _in_words(code))
        if peak_kb:
            known = "peak memory" if peak_kb > self._inherited_kb else "peak memory at most"
            how += f"; {known} {peak_kb / 1024:.0f} MiB"
        return how, last_words

    def _read_last_words(self) -> str:
        """Return the stack that Python wrote when a fatal signal came, without this package's own frames."""
        self._last_words.seek(0)
        lines = self._last_words.read(_MAX_WORDS).decode(errors="replace").splitlines()
        return "\n".join([line for line in lines if _OWN_FRAME not in line and not _COMMAND.search(line)]).strip()

    def _reap(self) -> tuple[int | None, int]:
        """Return a dead child's exit code, None if it will not end, and its peak of memory in KiB, 0 if not known."""
        end = time.monotonic() + 1
        while True:
            try:
                pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody in this process reaps all children
                return self._process.wait(), 0
            if pid:
                # Popen would otherwise wait for a process that is not its own any more.
                self._process.returncode = os.waitstatus_to_exitcode(status)
                return self._process.returncode, usage.ru_maxrss
            if time.monotonic() >= end:  # it hung up and lives on
                self.kill()
            if time.monotonic() >= end + KILL_WAIT_TIMEOUT_S:
                return None, 0
            time.sleep(0.001)


def _circumstances() -> tuple[object, ...]:
    """Return what a child takes over from its rank when it starts."""
    return directory_between_calls(), list(sys.path), environment_of_child()


def _arguments() -> list[str]:
    """Return the arguments of this process, which those of a child are too."""
    return [word for word in sys.argv if isinstance(word, str) and "\0" not in word]


def _sent(id: object) -> object:
    try:
        return id if is_plain_id(id) else sendable_id(id)
    except EncodingError:
        return UnreadableId(show(id))


def frame_ahead(work: QueuedCall, values: Sequence[Payload | None]) -> bytes:
    """Return a call that is sent ahead.

    Args:
        values: its inputs, which have no buffers beside them and no codecs; None is the value of the call before.
    """
    return packed_frame((AHEAD, _sent(work.id), work.attempt, work.call_template, values, work.cores, work.devices))


def _in_words(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{hint}"
