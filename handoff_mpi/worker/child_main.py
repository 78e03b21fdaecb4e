"""Runs in a child process and calls functions for a rank, so that a crash of a function does not kill the rank.

Started by exec, never by forking a process that has initialised MPI. It ends with its rank.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from handoff_mpi import signals
from handoff_mpi.callbacks import call_here
from handoff_mpi.carried_modules import serve_as_child
from handoff_mpi.console import print_message
from handoff_mpi.dag.call_template import CallTemplate
from handoff_mpi.dag.template_builder import Codec
from handoff_mpi.linux import give_back_freed_memory, signal_at_parents_end
from handoff_mpi.messages import (
    INLINE_RESULT_NBYTES,
    RAISED,
    Buffers,
    ErrorReport,
    LeaseElements,
    Message,
)
from handoff_mpi.module_files import take_sources
from handoff_mpi.process_exit import exit_process, flush_output
from handoff_mpi.resources.device_names import Devices
from handoff_mpi.serialization import Payload, decode_code, nbytes_of
from handoff_mpi.worker.call_spec import CallSpec, Outcome
from handoff_mpi.worker.calls import CallRunner
from handoff_mpi.worker.child_protocol import (
    AHEAD,
    BEGUN,
    CALL,
    ENCODE,
    ENDED,
    LEARN,
    OUTPUT,
    PART,
    RUN,
    SETUP,
    SOURCES,
    SPENT,
    TRIM,
    VOID,
    DescriptorsLost,
    Frame,
    FrameReader,
    join,
    send_frame,
    split,
)
from handoff_mpi.worker.devices import ShownDevices
from handoff_mpi.worker.element_control import SharedControl
from handoff_mpi.worker.elements import ElementLoop
from handoff_mpi.worker.error_report import describe
from handoff_mpi.worker.output import CallOutput
from handoff_mpi.worker.output_index import OutputFiles
from handoff_mpi.worker.part_sender import PartSender
from handoff_mpi.worker.randomness import GlobalGenerators, noting_seeds, seeded_by_setup
from handoff_mpi.worker.shared_semaphore import SharedSemaphore

#: Exit handlers of a child get this long, and threads that were left running this long before that.
CHILD_HANDLERS_TIMEOUT_S = 4.0
CHILD_THREADS_TIMEOUT_S = 1.0
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def main(
    descriptor: int,
    last_words: int,
    tokens: int,
    control: int,
    rank: int,
    seeds: int,
    run: str,
    arguments: list[str],
) -> None:
    """Serve calls that arrive on the socket ``descriptor`` until it is closed.

    Those sent ahead begin only with one of ``tokens``. A fatal signal leaves the stack in the file ``last_words``,
    which the rank reads, as it does the ``control`` block of leases. Calls that draw random numbers are seeded if
    ``seeds`` is not 0.
    """
    for each in (descriptor, last_words, tokens, control):
        os.set_inheritable(each, False)  # or a program that a call executes in place of this one would hold them
    faulthandler.enable(os.fdopen(last_words, "w", closefd=False))
    sock = socket.socket(fileno=descriptor)
    _die_with_parent(sock)
    _keep_freed_memory()
    signals.ignore(signal.SIGINT)  # the rank decides what an interrupt means
    signals.ignore(signal.SIGUSR1)  # so it does of a stop, which Slurm signals to all processes of a step
    reader = FrameReader(sock)
    global _parent
    _parent = sock
    serve_as_child()
    sys.argv[:] = arguments
    server = _Server(rank, run, bool(seeds), SharedSemaphore(tokens), SharedControl(control), reader)
    try:
        while True:
            server.take(reader.read())
            if not reader.has_read_ahead:
                server.rest()
    except DescriptorsLost as error:
        print_message(f"a child process of rank {rank} ends: {error}")
        exit_process(1, CHILD_HANDLERS_TIMEOUT_S, CHILD_THREADS_TIMEOUT_S)
    except (EOFError, ConnectionError):
        exit_process(0, CHILD_HANDLERS_TIMEOUT_S, CHILD_THREADS_TIMEOUT_S)  # the rank no longer needs it, or has ended


class _Server:
    """Does what its rank says. Of a call that has ended it holds nothing but a small value: inputs may be large.

    See :mod:`handoff_mpi.worker.call_pipeline` for calls that are sent ahead, and void ones.
    """

    def __init__(
        self,
        rank: int,
        run: str,
        seeds: bool,
        tokens: SharedSemaphore,
        control: SharedControl,
        reader: FrameReader,
    ) -> None:
        self._rank = rank
        self._reader = reader
        self._output: CallOutput | None = None
        self._semaphore = tokens
        self._control = control
        self._parts = PartSender(lambda report: tell_rank((PART, report)))
        self._problem: ErrorReport | None = None
        self._devices = ShownDevices(is_fixed=True)
        self._devices.is_followed = lambda: reader.has_more
        self._caller = CallRunner(rank, run)
        self._begin_run((), run, seeds)

    def _begin_run(self, buffers: Buffers, run: str, seeds: bool) -> None:
        self._caller.close()
        if self._output is not None:
            self._output.close()
            self._output = None
        self._seeds = seeds
        self._caller = CallRunner(self._rank, run, GlobalGenerators(seeds), self._devices)
        self._is_void = False  # what is sent ahead, until a call comes that is not
        self._latest: Payload | None = None
        self._has_news = False

    def take(self, frame: Frame | None) -> None:
        """Act on a frame of the rank."""
        assert frame is not None, "the socket blocks"
        (kind, *fields), buffers = frame
        if kind not in _CALLS:
            self.rest()
        _ON[kind](self, buffers, *fields)

    def rest(self) -> None:
        """No call is known to follow: leave what surrounds calls."""
        if self._caller.has_begun:
            self._caller.finish()

    def _learn(
        self, buffers: Buffers, codes: Sequence[tuple[int, bytes]], number: int = -1, head: Payload = ()
    ) -> None:
        """Take in encoded callables, or the large constant of a number."""
        self._has_news |= bool(codes)
        self._caller.learn(codes, (number, join(head, buffers)) if head else None)

    def _take_sources(self, buffers: Buffers, sources: Any) -> None:
        take_sources(sources)

    def _set_up(self, buffers: Buffers, setup: bytes, run: str) -> None:
        self._problem = _set_up(setup, self._rank)
        self._caller = CallRunner(self._rank, run, GlobalGenerators(self._seeds, seeded_by_setup()), self._devices)
        self._caller.output = self._output

    def _trim(self, buffers: Buffers) -> None:
        self._devices.relieve()
        give_back_freed_memory()

    def _capture(self, buffers: Buffers, launch: int, max_nbytes: int) -> None:
        if self._output is not None:  # it serves another slot from now on
            self._output.close()
        out, index = self._descriptors = self._reader.take_descriptors(2)
        files = OutputFiles(out.number, index.number, launch, max_nbytes)
        self._output = self._caller.output = CallOutput(lambda: files, stays=True)

    def _prepare(self, codes: tuple[int, ...], cores: float | None = None, has_devices: bool = False) -> None:
        """Starting, ``setup`` and imports may take longer than a call's timeout allows: that counts from here."""
        self._has_news = False
        self.rest()
        self._caller.prepare(codes, cores, has_devices)
        tell_rank((BEGUN,))

    def _call(
        self,
        buffers: Buffers,
        id: object,
        attempt: int,
        call_template: CallTemplate,
        heads: Sequence[object],
        cores: float,
        devices: Devices,
        elements: LeaseElements | None,
    ) -> None:
        """Run a call, or a lease; each of its ``heads`` is (head, number of its buffers, codec, source rank)."""
        self._is_void = False
        if self._has_news:
            codes, *_ = call_template
            self._prepare(codes, cores, bool(devices))
        loop = None if elements is None else ElementLoop(elements, self._control)
        self._run(CallSpec(id, attempt, call_template, _values(heads, buffers), cores, devices, elements, loop))

    def _call_if_possible(
        self,
        buffers: Buffers,
        id: object,
        attempt: int,
        call_template: CallTemplate,
        values: Sequence[Payload | None],
        cores: float,
        devices: Devices,
    ) -> None:
        """Run a call that was sent ahead, unless it is void; None among its ``values`` is that of the call before."""
        has_token = self._semaphore.take()  # its own, even if it is void
        latest = self._latest
        if not has_token or self._is_void or (latest is None and None in values):
            if not self._is_void and devices:
                self._devices.end_call(devices)  # the call before has left that to this one
            self._is_void = True
            tell_rank((VOID,))
        else:
            found = [((latest or ()) if each is None else each, None, -1) for each in values]
            self._run(CallSpec(id, attempt, call_template, found, cores, devices))

    def _encode(self, buffers: Buffers, codec: Codec, dest: int, head: Payload) -> None:
        if self._has_news:
            serialize, _ = codec
            self._prepare(() if serialize is None else (serialize,))
        began = time.monotonic()
        if self._problem is not None:
            self._answer(self._set_up_failed(), began)
        else:
            self._answer(self._caller.encode(join(head, buffers), codec, dest), began)

    def _set_up_failed(self) -> Outcome:
        return Outcome(RAISED, None, self._problem, 0.0)

    def _run(self, spec: CallSpec) -> None:
        began = time.monotonic()
        if not self._caller.has_begun:
            self._caller.begin()
        if self._problem is not None:
            outcome = self._set_up_failed()
        elif spec.loop is None:
            outcome = self._caller.call(spec)
        else:
            outcome = self._call_elements(spec, spec.loop)
        if spec.devices and self._caller.has_broken_context:
            self._is_void = True  # what was sent ahead
            tell_rank((SPENT,))
        payload = outcome.payload
        is_small = payload is not None and len(payload) == 2 and nbytes_of(payload) <= INLINE_RESULT_NBYTES
        self._latest = payload if is_small else None
        self._answer(outcome, began)

    def _call_elements(self, spec: CallSpec, loop: ElementLoop) -> Outcome:
        self._parts.begin(loop)
        try:
            return self._caller.call(spec)
        finally:
            self._parts.finish()

    def _answer(self, outcome: Outcome, began: float) -> None:
        if self._output is None:  # which flushes where it must
            flush_output()
        payload = outcome.payload
        head, buffers = (None, ()) if payload is None else split(payload)
        message: Message = (ENDED, outcome.status, head, outcome.error, began, outcome.duration)
        tell_rank(message if outcome.report is None else (*message, outcome.report), buffers)


def _set_up(blob: bytes, rank: int) -> ErrorReport | None:
    """Initialise this process as its rank was; what ``setup`` returns was registered there."""
    try:
        setup = decode_code(blob)
        with noting_seeds(setup):
            call_here(setup, (rank,), {})
    except BaseException as error:
        report = describe(error)
        return report._replace(message=f"setup({rank}) failed in a child process: {report.message}")
    return None


#: The kind of a message to its handler, whose parameters are the buffers beside it and its fields.
_ON: dict[str, Callable[..., None]] = {
    LEARN: _Server._learn,
    SOURCES: _Server._take_sources,
    SETUP: _Server._set_up,
    OUTPUT: _Server._capture,
    RUN: _Server._begin_run,
    TRIM: _Server._trim,
    CALL: _Server._call,
    AHEAD: _Server._call_if_possible,
    ENCODE: _Server._encode,
}


#: The kinds of which many follow one another, so that what surrounds calls is entered once.
_CALLS = frozenset({CALL, AHEAD})


def _values(heads: Sequence[Any], buffers: Buffers) -> list[tuple[Payload, Any, int]]:
    """Return the inputs of a call, each with as many of ``buffers`` as are its own."""
    values: list[tuple[Payload, object, int]] = []
    taken = 0
    for head, count, codec, source in heads:
        values.append((join(head, buffers[taken : taken + count]), codec, source))
        taken += count
    return values


def tell_rank(message: Message, buffers: Buffers = ()) -> bool:
    """Send ``message`` to the rank of this child, from any thread; return False if this process is no child."""
    if _parent is None:
        return False
    with _sending:
        send_frame(_parent, message, buffers)
    return True


_parent: socket.socket | None = None
_sending = threading.Lock()


def _die_with_parent(sock: socket.socket) -> None:
    """Have the kernel end this process when its rank dies, even inside a call that holds the interpreter."""
    if not signal_at_parents_end(signal.SIGKILL):
        return  # elsewhere the closed socket ends it between calls
    rank_pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if os.getppid() != rank_pid:
        sys.exit(0)  # it died before the kernel was asked, with a call perhaps waiting in the socket


def _keep_freed_memory() -> None:
    """Have malloc keep what one call frees for the next, as it would by itself once it has seen large blocks.

    Between calls nothing large is held, so otherwise the heap shrinks after each and its pages are allocated again.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return  # the user knows better
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    mallopt(_M_TRIM_THRESHOLD, 64 << 20)
