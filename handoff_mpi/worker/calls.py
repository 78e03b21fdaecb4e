"""One call, from payloads to an outcome: the same in a rank and in a child process.

Every outcome of the user's function (an exception, sys.exit, a result that cannot be pickled) becomes a value here.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from handoff_mpi.call_modules import copies_entered, enter_copies, leave_copies
from handoff_mpi.callbacks import call_here
from handoff_mpi.dag import build_call, build_element_calls
from handoff_mpi.dag.surroundings import Surroundings
from handoff_mpi.gpu_staging import receiving
from handoff_mpi.messages import DEVICE_LOSS, OK, RAISED, ErrorReport, LeaseReport
from handoff_mpi.resources.device_names import is_for_cuda
from handoff_mpi.serialization import (
    EncodingError,
    Payload,
    decode_code,
    decode_input,
    decode_private,
    encode,
)
from handoff_mpi.worker.call_spec import CallSpec, Outcome
from handoff_mpi.worker.codecs import deserialize, serialize
from handoff_mpi.worker.context import TaskContext, enter, leave
from handoff_mpi.worker.cuda_contexts import CudaContexts
from handoff_mpi.worker.device_errors import DeviceProbe, is_device_error
from handoff_mpi.worker.devices import ShownDevices, use_first
from handoff_mpi.worker.draws import Generators
from handoff_mpi.worker.elements import ElementCalls, ElementLoop
from handoff_mpi.worker.error_report import (
    describe,
    is_about_read_only_memory,
    release_frames,
)
from handoff_mpi.worker.lease_surroundings import ElementContext, LeaseSurroundings
from handoff_mpi.worker.output import CallOutput
from handoff_mpi.worker.process_state import SHORT_CALL_S, ProcessState
from handoff_mpi.worker.randomness import GlobalGenerators
from handoff_mpi.worker.thread_limits import ThreadLimits
from handoff_mpi.worker.unpicklable import report_of_result

#: The text added to the message of an error that was caused by writing to an input.
_READ_ONLY_REMEDY = (
    "inputs are read-only, as other functions share them: copy before you write in place (x = x.copy()), or give this "
    "function writable=True"
)


class CallRunner:
    """Calls functions in this process, one at a time.

    Args:
        rank: the rank it calls for.
        run: the run's name.
        generators: seeds the global random generators; by default for each call that draws from them.
        devices: what CUDA shows of the devices of calls.

    Attributes:
        blobs: encoded callables, by number.
        constants: large constants, by number.
        has_begun: whether calls follow one another, between :meth:`begin` and :meth:`finish`.
        lets_interrupt: whether a KeyboardInterrupt is that of a user at the terminal, who wants the run to end, and not
            the function's own.
        output: captures what calls print; None leaves it alone.
        devices: as above.
    """

    def __init__(
        self,
        rank: int,
        run: str,
        generators: GlobalGenerators | None = None,
        devices: ShownDevices | None = None,
    ) -> None:
        self.rank = rank
        self.devices = ShownDevices() if devices is None else devices
        self.has_begun = False
        self._may_be_broken = False
        self._contexts = CudaContexts()
        self._probe = DeviceProbe()
        self._element_error: ErrorReport | None = None
        self.lets_interrupt = False
        self.output: CallOutput | None = None
        self._run = run
        self.blobs: dict[int, bytes] = {}
        self._codes: dict[int, Callable[..., object]] = {}
        self.constants: dict[int, Payload] = {}
        self._limits = ThreadLimits()
        self._state = ProcessState()
        self._outer: Any = None
        self._process = 0  # since calls follow one another
        self._generators = GlobalGenerators(True) if generators is None else generators
        self._draws: dict[tuple[int, ...], Generators] = {}
        self._draw_nothing: set[tuple[int, ...]] = set()
        self._load: Callable[[Payload], object] = decode_input
        self._is_decoding = False

    def learn(self, codes: Sequence[tuple[int, bytes]], constant: tuple[int, Payload] | None) -> None:
        """Take in encoded callables, or a large constant, by number."""
        self.blobs.update(codes)
        if constant is not None:
            self.constants[constant[0]] = constant[1]

    def code(self, number: int) -> Callable[..., object]:
        """Return a callable, loading it at first use.

        Raises:
            EncodingError: it cannot be loaded here.
        """
        code = self._codes.get(number)
        if code is None:
            code = self._codes[number] = decode_code(self.blobs[number])
        return code

    def prepare(self, codes: tuple[int, ...], cores: float | None, has_devices: bool = False) -> None:
        """Load code that a call needs; errors are left to the call, which meets them again.

        Args:
            cores: of its claim; None leaves the limits of threads as they are.
            has_devices: whether it has claimed any.
        """
        enter_copies()
        if self.output is not None:
            self.output.prepare()
        try:
            self._state.begin()
            if cores is not None and self._limits.set(cores):  # libraries that are loaded now read them
                self._state.keep_variables()
            with receiving(has_devices):
                self._find_draws(codes)
        except BaseException:
            pass
        finally:
            self._state.restore(float("inf"))
            self._state.finish()
            leave_copies()

    def encode_for(self, payload: Payload, codec: Any, dest: int) -> Payload:
        """Return ``payload`` as the codec's serialize makes it for rank ``dest``."""
        if codec[0] is None:
            return payload
        with copies_entered():
            return serialize(self.code, codec[0], payload, self.rank, dest)

    def encode(self, payload: Payload, codec: Any, dest: int) -> Outcome:
        """Encode ``payload`` for rank ``dest``, and return how that ended."""
        started = perf_counter()
        encoded, error = None, None
        self._state.begin()
        try:
            encoded = self.encode_for(payload, codec, dest)
        except BaseException as problem:
            error = describe(problem)
            release_frames(problem)
        duration = perf_counter() - started
        self._state.restore(duration)
        self._state.finish()
        return Outcome(OK if error is None else RAISED, encoded, error, duration)

    def begin(self) -> None:
        """Calls follow one another until :meth:`finish`: what surrounds each of them is entered once."""
        self._process = os.getpid()
        enter_copies()
        self._outer = enter(None)  # a function may run a DAG itself
        self._state.begin()
        if self.output is not None:
            self.output.enter()
        self.has_begun = True

    def finish(self) -> None:
        """Undo :meth:`begin`."""
        self.has_begun = False
        if self.output is not None:
            self.output.leave()
        self._state.finish()
        leave(self._outer)
        leave_copies()

    def call(self, spec: CallSpec) -> Outcome:
        """Call the function, and return how it ended."""
        if not self.has_begun:
            self.begin()
            try:
                return self.call(spec)
            finally:
                self.finish()
        if not spec.devices:
            return self._call_captured(spec)
        with receiving(has_device=True):
            outcome = self._call_captured(spec)
        error = outcome.error if outcome.status == RAISED else self._element_error
        self._element_error = None
        if error is not None and self._may_break(error) and all(is_for_cuda(uuid) for _, uuid in spec.devices):
            self._may_be_broken = True
            outcome = self._judged(spec, outcome, error)
        self.devices.end_call(spec.devices)
        return outcome

    @property
    def has_broken_context(self) -> bool:
        """Whether CUDA must not be used in this process any more: an error has broken it, or may have."""
        return self._may_be_broken or bool(self._contexts.why_broken())

    def _may_break(self, error: ErrorReport) -> bool:
        """Whether an exception may be the fault of a device, or of a context that is broken."""
        return is_device_error(error) or bool(self._contexts.why_broken())

    def _judged(self, spec: CallSpec, outcome: Outcome, error: ErrorReport) -> Outcome:
        """Return how a call ended that ``error`` has ended: with a device, if one cannot be used any more."""
        names = self.devices.names(spec.devices)
        failed = self._probe.failed(names)
        if not failed:
            return outcome
        uuids = tuple(uuid for (_, uuid), name in zip(spec.devices, names, strict=True) if name in failed)
        probed = next(iter(failed.values()))
        why = f"{error.kind}: {error.message}; a new process cannot use {', '.join(uuids)} either: {probed}"
        lost = ErrorReport(DEVICE_LOSS, why, error.traceback, element=error.element, devices=uuids)
        return Outcome(RAISED, None, lost, outcome.duration)

    def _call_captured(self, spec: CallSpec) -> Outcome:
        if spec.elements is not None:
            return self._call_elements(spec, spec.loop or ElementLoop(spec.elements))
        output = self.output
        if output is None:
            return self._call(spec)
        output.spec = spec
        try:
            outcome = self._call(spec)
        except BaseException:
            output.call_ended(spec, None)
            raise
        is_short = outcome.duration <= SHORT_CALL_S and not outcome.status
        if not is_short or output.has_printed or spec.call_template[0] not in output.quiet:
            output.call_ended(spec, outcome)
        return outcome

    def _call(self, spec: CallSpec) -> Outcome:
        call_template = spec.call_template
        gpus, uuids = self._gpus_of(spec) if spec.devices else ((), ())
        context = TaskContext(spec.id, spec.attempt, self.rank, spec.cores, gpus, self._run, uuids)
        self._load, self._is_decoding = decode_input, False
        values: list[object] = []
        started = perf_counter()
        enter(context)
        try:
            if self._limits.set(spec.cores):
                self._state.keep_variables()
            if len(call_template) > 4 or spec.devices:
                self._enter_surroundings(spec)
            if call_template[0] not in self._draw_nothing:
                self._seed(call_template[0], context)
            if spec.values:
                self._is_decoding = True
                for each in spec.values:
                    values.append(self._value(*each))
                self._is_decoding = False
            code, args, kwargs = build_call(call_template, values, self.code, self._constant, self._inline, self._load)
            value = call_here(code, args, kwargs, self._process)
            if spec.devices:
                self._contexts.wait()
            duration = perf_counter() - started
        except BaseException as error:
            duration = perf_counter() - started
            if self.lets_interrupt and issubclass(type(error), KeyboardInterrupt):
                raise
            described = self._report(error, spec, len(values))
            release_frames(error)
            return Outcome(RAISED, None, described, duration)
        finally:
            self._state.restore(duration)
            context.clear()
        try:
            return Outcome(OK, encode(value), None, duration)
        except EncodingError as error:
            return Outcome(RAISED, None, report_of_result(value, error), duration)
        except BaseException as error:  # the value's own code may call sys.exit as well
            return Outcome(RAISED, None, describe(error), duration)

    def _call_elements(self, spec: CallSpec, loop: ElementLoop) -> Outcome:
        """Call the function for each element of a lease: what surrounds a call is entered once for all of them."""
        context = ElementContext(spec.id, loop, self.rank, spec.cores, *self._gpus_of(spec), self._run)
        self._load, self._is_decoding = decode_input, False
        values: list[Any] = []
        report, error = None, None
        started = perf_counter()
        enter(context)
        try:
            if self._limits.set(spec.cores):
                self._state.keep_variables()
            if len(spec.call_template) > 4 or spec.devices:
                self._enter_surroundings(spec)
            calls = self._element_calls(spec, values)
            report = self._run_loop(spec, loop, calls, context)
        except BaseException as problem:
            if self.lets_interrupt and issubclass(type(problem), KeyboardInterrupt):
                raise
            error = self._report(problem, spec, len(values))
            release_frames(problem)
        finally:
            duration = perf_counter() - started
            self._state.restore(duration)
            context.clear()
        return Outcome(RAISED if report is None else OK, None, error, duration, report, loop.column)

    def _element_calls(self, spec: CallSpec, values: list[Any]) -> ElementCalls:
        """Return the calls of a lease; its inputs are put into ``values``, as far as they can be decoded."""
        self._is_decoding = bool(spec.values)
        for each in spec.values:
            values.append(self._value(*each))
        self._is_decoding = False
        code, args, kwargs, positions = self._build_elements(spec, values)
        if spec.devices:
            code = functools.partial(self._call_and_wait, code)
        if self._load is decode_private and (kwargs or len(args) > len(positions)):
            # An element may write to what the others share: each has a copy.
            places = [place for place, _ in positions]
            code = functools.partial(self._call_with_copies, spec, places)
            args, kwargs, positions = [None] * len(positions), {}, (*enumerate(source for _, source in positions),)
        return ElementCalls(code, args, kwargs, positions, self._load, values)

    def _build_elements(
        self, spec: CallSpec, values: Sequence[Any]
    ) -> tuple[Callable[..., Any], list[Any], dict[str, Any], tuple[tuple[int, int], ...]]:
        return build_element_calls(spec.call_template, values, self.code, self._constant, self._inline, self._load)

    def _call_with_copies(self, spec: CallSpec, places: Sequence[int], *elements: Any) -> Any:
        """Call for one element, with copies of its own of what all of them take."""
        values = [self._value(*each) for each in spec.values]
        code, args, kwargs, _ = self._build_elements(spec, values)
        for place, element in zip(places, elements, strict=True):
            args[place] = element
        return self._call_and_wait(code, *args, **kwargs) if spec.devices else code(*args, **kwargs)

    def _call_and_wait(self, code: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call for one element, and wait for its devices."""
        value = call_here(code, args, kwargs)
        self._contexts.wait()
        return value

    def _run_loop(self, spec: CallSpec, loop: ElementLoop, calls: ElementCalls, context: ElementContext) -> LeaseReport:
        """Run the loop of a lease; the inputs and the surroundings of its calls are there."""

        def seed() -> None:
            self._seed(spec.call_template[0], context)

        def report(error: BaseException) -> ErrorReport:
            return self._report(error, spec, len(spec.values))

        codes = spec.call_template[0]
        draws = codes not in self._draw_nothing and (self._draws.get(codes) or self._find_draws(codes))
        surroundings = LeaseSurroundings(
            loop,
            context,
            spec,
            self._surroundings_of(spec),
            self._state,
            self.output,
            report,
            self._may_break,
            self.lets_interrupt,
            seed if draws else None,
        )
        surroundings.begin()
        try:
            return loop.run(calls, surroundings)
        finally:
            surroundings.finish()
            self._element_error = surroundings.device_error

    def close(self) -> None:
        """The run is over: this process, which may be a user's, gets its random generators back."""
        self._generators.restore()

    def _seed(self, codes: tuple[int, ...], context: TaskContext) -> None:
        draws = self._draws.get(codes)
        if draws is None:
            draws = self._find_draws(codes)
        if draws:
            self._generators.seed(draws, context.seed)

    def _find_draws(self, codes: tuple[int, ...]) -> Generators:
        """Load the codes of a call, and return which generators it draws from."""
        draws = self._draws[codes] = self._generators.drawn_by([self.code(number) for number in codes])
        if not draws:
            self._draw_nothing.add(codes)
        return draws

    def _gpus_of(self, spec: CallSpec) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Return how the call numbers its devices, and their uuids."""
        devices = spec.devices
        return (self.devices.indices(devices), tuple(uuid for _, uuid in devices)) if devices else ((), ())

    def _surroundings_of(self, spec: CallSpec) -> Surroundings | None:
        """Return the directory and the variables of a call: its own, and those that show it its devices."""
        own: Surroundings | None = spec.call_template[4] if len(spec.call_template) > 4 else None
        shown = self.devices.variables(spec.devices) if spec.devices else {}
        if not shown:
            return own
        cwd, env, is_writable = own or (None, {}, False)
        return cwd, {**shown, **env}, is_writable

    def _enter_surroundings(self, spec: CallSpec) -> None:
        surroundings = self._surroundings_of(spec)
        if surroundings is not None:
            cwd, env, is_writable = surroundings
            if is_writable:
                self._load = decode_private
            self._state.enter(cwd, env)
        if spec.devices:
            use_first(spec.devices)

    def _report(self, error: BaseException, spec: CallSpec, decoded: int) -> ErrorReport:
        """Return what is reported of a call that raised when ``decoded`` of its inputs were there."""
        report = describe(error)
        if self._is_decoding:
            return report._replace(input=decoded)
        shares = self._load is decode_input and (spec.values or spec.call_template[2] or spec.call_template[3])
        if shares and is_about_read_only_memory(error):
            return report._replace(message=f"{report.message}; {_READ_ONLY_REMEDY}")
        return report

    def _inline(self, number: int) -> Callable[..., object]:
        code = self.code(number)
        return lambda *args, **kwargs: call_here(code, args, kwargs)

    def _constant(self, number: int) -> object:
        return self._load(self.constants[number])

    def _value(self, payload: Payload, codec: Any, source: int) -> object:
        if codec is None:
            return self._load(payload)
        if source < 0:  # the value is here: both ends of the codec are this rank
            payload, source = self.encode_for(payload, codec, self.rank), self.rank
        value = self._load(payload)
        return value if codec[1] is None else deserialize(self.code, codec[1], value, source, self.rank)
