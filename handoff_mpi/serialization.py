"""Encodes values into one payload format for messages, stores and files.

A payload is a tuple whose first item states its kind:

- ``(PLAIN, value)``: a small immutable built-in, unchanged;
- ``(PICKLED, head, *buffers)``: pickle protocol 5, ``head`` with the objects, ``buffers`` with the memory of
  large arrays out of band, so that it is neither copied here nor limited to 2 GiB.

Functions and classes of ``__main__``, of ``dag.py`` and lambdas go by value (:mod:`handoff_mpi.by_value`); everything
else goes by the C pickler. What comes from ``dag.py`` finds its globals in one module of each process
(:mod:`handoff_mpi.carried_modules`): what ``setup(rank)`` puts there, other functions see.

Decoding makes a fresh object each time, so that no consumer sees what another did to its inputs; the memory of
out-of-band arrays is shared instead, and read-only for that reason. Inputs of a call have small arrays read-only too,
so that a function which writes to its input fails with a small one already. Arrays of cupy travel through host memory:
they are fresh copies on the device of a consumer that has claimed one, and arrays of numpy for any other
(:mod:`handoff_mpi.gpu_staging`).
"""

from __future__ import annotations

import copyreg
import functools
import io
import itertools
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any, TypeAlias

from handoff_mpi.by_value import ByValuePickler, Reducers, holds_names, is_in_place
from handoff_mpi.carried_modules import carry
from handoff_mpi.errors import HandoffError
from handoff_mpi.formatting import MAX_ID_CHARS, show
from handoff_mpi.gpu_staging import reducers as reducers_of_devices
from handoff_mpi.unpickling import reading_originals

PLAIN = 0
PICKLED = 1

Payload: TypeAlias = "tuple[Any, ...]"

#: The payload of None, which most functions return that are called for their effects.
NOTHING: Payload = (PLAIN, None)

#: The beginning of an :class:`EncodingError` message where the code that raises it does not know the value's id.
UNDECODABLE = "a value cannot be decoded"
#: What a pickle has behind each name of a class or a function.
_NAME = pickle.STACK_GLOBAL
#: The function of numpy that a pickle calls for an array whose memory it holds.
_ARRAY = b"_frombuffer"
#: Where a pickle has the beginning of the name of the module whose function makes the object; behind its frame's size.
_FIRST_NAME = slice(13, 18)
#: Buffers of at least this many bytes travel out of band.
OUT_OF_BAND_NBYTES = 16 * 1024
_MAX_PLAIN_LENGTH = 1024
_DEEPEST_PLAIN = 3
_NUMBERS = frozenset({type(None), bool, float, complex})
_SIZED = frozenset({str, bytes})
_NO_REDUCERS: Reducers = {}


# The globals of functions in payloads of versions that had no carried modules.
_namespaces: dict[tuple[str, str], dict[str, object]] = {}


class EncodingError(HandoffError):
    """A value cannot be pickled, or bytes cannot be unpickled; the message names it and why."""


def carry_by_value(module: ModuleType) -> None:
    """Make functions and classes of ``module`` travel by value: no other process can import it."""
    carry(module)


def namespace(name: str, file: str) -> dict[str, object]:
    """Return the globals of functions that an earlier version has written into a value."""
    return _namespaces.setdefault((name, file), {"__name__": name, "__file__": file})


def encode(value: object) -> Payload:
    """Return the payload of ``value``.

    Raises:
        EncodingError: ``value`` cannot be pickled.
    """
    if is_plain(value):
        return (PLAIN, value)
    collector = _Collector()
    head = _dumps(value, collector)
    return (PICKLED, head, *collector.buffers)


def encode_in_band(value: object) -> Payload:
    """As :func:`encode`, but large arrays lie in the pickle too, for what is part of a message.

    Raises:
        EncodingError: ``value`` cannot be pickled.
    """
    return (PLAIN, value) if is_plain(value) else (PICKLED, _dumps(value, None))


def why_not_encodable(value: object, reducers: Reducers = _NO_REDUCERS, is_code: bool = False) -> str:
    """Return why ``value``, or a part of code, cannot be pickled, as ``reducers`` say; an empty string if it can."""
    try:
        _dumps(value, _Collector(), reducers, is_code)
    except EncodingError as error:
        return reason_of(error)
    return ""


def is_sent_by_name(value: object) -> bool:
    """Whether other processes import ``value``, a function or a class, so that nothing that it refers to is pickled."""
    try:
        head = pickle.dumps(value, protocol=5)
    except Exception:
        return False
    return not holds_names(head)


def reason_of(error: EncodingError) -> str:
    """Return the reason of ``error``, without the value that caused it."""
    return str(error) if error.__cause__ is None else _describe(error.__cause__)


class CarriedId:
    """An id of a class of ``dag.py``, on its way to other processes: unpickled, it is the id itself.

    Args:
        id: the id.

    Raises:
        EncodingError: it cannot be pickled.
    """

    __slots__ = ("_blob", "_text")

    def __init__(self, id: object) -> None:
        self._blob = _dumps(id, None)
        self._text = show(id, MAX_ID_CHARS)

    def __reduce__(self) -> tuple[object, ...]:
        return received_id, (self._blob, self._text)


class UnreadableId:
    """Stands for an id whose class this process cannot load; it shows itself as the id does."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def received_id(blob: bytes, text: str) -> object:
    """Return an id that has come from another process. An id that cannot be read ends no rank."""
    try:
        return pickle.loads(blob)
    except Exception:
        return UnreadableId(text)


def sendable_id(id: object) -> Any:
    """Return the form of ``id`` for messages and files: the id itself, if any process can unpickle it.

    Raises:
        EncodingError: none can.
    """
    try:
        head = pickle.dumps(id, protocol=5)
    except Exception:
        return CarriedId(id)
    return CarriedId(id) if holds_names(head) else id


def dumps(value: Any, reducers: Reducers) -> bytes:
    """Return ``value`` pickled, objects of some types as ``reducers`` say; those inside code are left to themselves.

    Raises:
        EncodingError: ``value`` cannot be pickled.
    """
    return _dumps(value, None, reducers)


def loads(blob: bytes) -> Any:
    """Return the value that :func:`dumps` pickled into ``blob``.

    Raises:
        EncodingError: it cannot be unpickled here.
    """
    return decode((PICKLED, blob))


def is_plain(value: Any, depth: int = _DEEPEST_PLAIN) -> bool:
    """Whether ``value`` is a small immutable built-in, or a short tuple of such."""
    kind = type(value)
    if kind in _NUMBERS:
        return True
    if kind is int:
        return bool(-(1 << 63) <= value < 1 << 63)
    if kind in _SIZED:
        return len(value) <= _MAX_PLAIN_LENGTH
    # Tuples of tuples that are shared have few objects, but may have more places than can ever be looked at.
    return kind is tuple and len(value) <= 16 and depth > 0 and all(map(is_plain, value, itertools.repeat(depth - 1)))


def decode(payload: Payload) -> Any:
    """Return a fresh object equal to the one that was encoded; large arrays in it are read-only views.

    Raises:
        EncodingError: the payload cannot be unpickled here (a module is missing, say).
    """
    if payload[0] == PLAIN:
        return payload[1]
    try:
        return pickle.loads(payload[1], buffers=[memoryview(part).toreadonly() for part in payload[2:]])
    except Exception as error:
        raise _undecodable(error) from error


def decode_input(payload: Payload) -> object:
    """As :func:`decode`, but small arrays are read-only as well.

    Raises:
        EncodingError: the payload cannot be unpickled here.
    """
    if payload[0] == PLAIN or _ARRAY not in payload[1]:
        return decode(payload)
    if payload[1][_FIRST_NAME] == b"numpy":  # most arrays come alone, and an unpickler of one's own is slow
        value = decode(payload)
        if _is_array(value):
            value.setflags(write=False)
            return value
    try:
        buffers = [memoryview(part).toreadonly() for part in payload[2:]]
        return _ReadOnlyUnpickler(io.BytesIO(payload[1]), buffers=buffers).load()
    except Exception as error:
        raise _undecodable(error) from error


def decode_writable(payload: Payload) -> object:
    """As :func:`decode`, but the caller owns the payload's memory, and arrays in it can be written to."""
    if _is_of_builtins(payload):
        return decode(payload)
    with reading_originals(), _decoding_parts(decode_writable):
        return _unpickled_writable(payload[1], [_writable(part) for part in payload[2:]])


def decode_private(payload: Payload) -> object:
    """As :func:`decode`, but arrays are copies, also where the payload's memory is shared, and can be written to.

    Raises:
        EncodingError: the payload cannot be unpickled here.
    """
    if _is_of_builtins(payload):
        return decode(payload)
    with _decoding_parts(decode_private):
        return _unpickled_writable(payload[1], [bytearray(part) for part in payload[2:]])


def _is_of_builtins(payload: Payload) -> bool:
    """Whether a payload certainly has no object but built-in values and containers of such, as those of records do."""
    return payload[0] == PLAIN or (len(payload) == 2 and _NAME not in payload[1])


class _Parts(threading.local):
    """How this thread decodes payloads that lie inside of the one that it is decoding."""

    decode: Callable[[Payload], Any] | None = None


_parts = _Parts()


def decoder_of_parts() -> Callable[[Payload], Any]:
    """Return the function that decodes a payload inside of the one that is being decoded, as that one is decoded."""
    return _parts.decode or decode_input


@contextmanager
def _decoding_parts(decode: Callable[[Payload], Any]) -> Iterator[None]:
    before, _parts.decode = _parts.decode, decode
    try:
        yield
    finally:
        _parts.decode = before


def nbytes_of(payload: Payload) -> int:
    """Return how many bytes ``payload`` takes, near enough for plain values."""
    if payload[0] == PLAIN:
        value = payload[1]
        return len(value) if type(value) in _SIZED else 8
    return len(payload[1]) + sum(memoryview(part).nbytes for part in payload[2:])


def head_of(payload: Payload) -> tuple[Payload, Sequence[object]]:
    """Split a payload into the part for the message and the buffers that are sent with it."""
    if payload[0] == PLAIN:
        return payload, ()
    return (PICKLED, payload[1]), payload[2:]


def encode_code(code: Callable[..., object]) -> bytes:
    """Return a callable as bytes any rank can load; by value where it could not be imported there.

    Raises:
        EncodingError: it, or something it refers to, cannot be pickled.
    """
    return _dumps(code, None, is_code=True)


def decode_code(blob: bytes) -> Callable[..., Any]:
    """Return the callable that :func:`encode_code` made ``blob`` of.

    Raises:
        EncodingError: it cannot be loaded here (a module it imports is missing, say).
    """
    try:
        code = pickle.loads(blob)
    except Exception as error:
        raise EncodingError(f"the function could not be loaded on this rank: {_describe(error)}") from error
    if not callable(code):
        raise EncodingError(f"the function loaded as {code!r}, which cannot be called")
    return code  # type: ignore[no-any-return]


class _Collector:
    """Takes large buffers out of band while pickling."""

    def __init__(self) -> None:
        self.buffers: list[memoryview] = []

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        """Return whether the buffer stays in band (what pickle takes a true answer to mean)."""
        try:
            raw = buffer.raw()
        except BufferError:  # memory with gaps has no flat view
            return True
        if raw.nbytes < OUT_OF_BAND_NBYTES:
            return True
        self.buffers.append(raw)
        return False


def _dumps(value: Any, collector: _Collector | None, reducers: Reducers = _NO_REDUCERS, is_code: bool = False) -> bytes:
    try:
        head = _dumps_plainly(value, collector, reducers)
        if not holds_names(head):
            return head
    except Exception:
        pass  # the other pickler accepts more objects, and gives better errors
    if collector is not None:
        collector.buffers.clear()
    try:
        with io.BytesIO() as file:
            _Pickler(file, collector, reducers, is_code).dump(value)
            return file.getvalue()
    except Exception as error:
        raise EncodingError(f"{show(value)} cannot be pickled: {_describe(error)}") from error


def _dumps_plainly(value: object, collector: _Collector | None, reducers: Reducers) -> bytes:
    by_type: dict[type, Callable[[object], Any]] = {**reducers_of_devices(), **reducers}
    if not by_type:
        return pickle.dumps(value, protocol=5, buffer_callback=collector)
    with io.BytesIO() as file:
        pickler = pickle.Pickler(file, protocol=5, buffer_callback=collector)
        pickler.dispatch_table = {**copyreg.dispatch_table, **by_type}
        pickler.dump(value)
        return file.getvalue()


class _Pickler(ByValuePickler):
    """Arrays on devices too; and code inside a value that ``reducers`` are for is left to itself."""

    def __init__(self, file: io.BytesIO, collector: _Collector | None, reducers: Reducers, is_code: bool) -> None:
        super().__init__(file, collector, {**reducers_of_devices(), **reducers}, is_code)
        self._leaves_code_alone = bool(reducers)

    def reducer_override(self, obj: object) -> object:
        """Reduce an object for which pickle has no built-in form; pickle calls this."""
        reduced = super().reducer_override(obj)
        if self._leaves_code_alone and isinstance(obj, (FunctionType, type)) and is_in_place(reduced):
            _dumps(obj, None)  # else it would share the replacements of this value's objects with all its callers
        return reduced


class _ReadOnlyUnpickler(pickle.Unpickler):
    """Makes numpy's arrays read-only, those too whose memory lies in the pickle."""

    def find_class(self, module: str, name: str) -> object:
        found = super().find_class(module, name)
        return functools.partial(self.make_array, found) if name == "_frombuffer" else found

    @staticmethod  # a bound method in pickle's memo would form a reference cycle with this unpickler
    def make_array(make: Callable[..., object], memory: Any, *rest: object) -> object:
        return make(memoryview(memory).toreadonly(), *rest)


class _WritableUnpickler(_ReadOnlyUnpickler):
    """Makes numpy's arrays such that they can be written to, those too that were read-only when they were pickled."""

    @staticmethod
    def make_array(make: Callable[..., object], memory: object, *rest: object) -> object:
        return make(_writable(memory), *rest)


def _writable(memory: Any) -> object:
    """Return ``memory``, or a copy of it if it cannot be written to."""
    return bytearray(memory) if memoryview(memory).readonly else memory


def _unpickled_writable(blob: bytes, buffers: Sequence[object]) -> object:
    """Unpickle; if there are arrays of numpy in it, such that they can be written to."""
    try:
        if _ARRAY not in blob:
            return pickle.loads(blob, buffers=buffers)
        if blob[_FIRST_NAME] == b"numpy" and _is_array(value := pickle.loads(blob, buffers=buffers)):
            return value if value.flags.writeable else value.copy(order="K")
        return _WritableUnpickler(io.BytesIO(blob), buffers=buffers).load()
    except Exception as error:
        raise _undecodable(error) from error


def _is_array(value: object) -> bool:
    """Whether ``value``, which was unpickled with numpy, is a plain array."""
    return type(value) is sys.modules["numpy"].ndarray


def _undecodable(error: Exception) -> EncodingError:
    return EncodingError(f"{UNDECODABLE}: {_describe(error)}")


def _describe(error: BaseException) -> str:
    try:
        text = str(error) or "no reason given"
    except Exception:
        text = "its message cannot be shown"
    return f"{type(error).__name__}: {text}"
