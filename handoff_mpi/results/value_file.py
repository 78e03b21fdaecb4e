"""The file form of a value. It carries its key and a checksum, so that no other bytes are ever taken for the value.

In this order:

- ``HMPV2`` and a newline;
- the length of the key (u32), the number of parts (u32), the length of each part (u64), all little-endian;
- the key, as text;
- the parts of the payload, the pickle first and then the buffers, each at a multiple of 64 bytes: arrays are mapped,
  not copied, and want to be aligned;
- the XXH3-128 of all before it (16 bytes).

The checksum tells damage by chance. It does not tell who wrote the file: that is for the file's owner and mode.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from handoff_mpi.errors import HandoffError, ValueDamaged
from handoff_mpi.serialization import PICKLED, PLAIN, Payload

if TYPE_CHECKING:
    from xxhash import xxh3_128

_MAGIC = b"HMPV2\n"
_OLD_MAGIC = b"HMPV1\n"
_COUNTS = struct.Struct("<II")
_ALIGNMENT = 64
_DIGEST_NBYTES = 16
#: Bytes are hashed and written in turns: they are still in the processor's cache then, and other threads get theirs.
_CHUNK_NBYTES = 1 << 20

#: Of payloads that a store of the user's writes: what kind they are.
_KEYS = {PLAIN: b"plain", PICKLED: b"pickled"}

#: Where a part begins and ends in its file.
Span = tuple[int, int]


class DamagedValue(HandoffError):
    """A file does not hold the value that it should hold; the message says why, as in "is cut short"."""


def write_value(write: Callable[[Any], object], key: bytes, payload: Payload) -> int:
    """Write ``payload`` through ``write``; return the number of bytes written."""
    digest = _new_digest()
    nbytes = _DIGEST_NBYTES
    for chunk in _chunks(key, payload):
        digest.update(chunk)
        write(chunk)
        nbytes += len(chunk)
    write(digest.digest())
    return nbytes


def write_payload(file: BinaryIO, payload: Payload) -> int:
    """Write a payload to a file open for writing bytes, with a checksum; return the number of bytes written.

    For stores of the user's; :func:`read_payload` reads it again.
    """
    return write_value(file.write, _KEYS[payload[0]], payload)


def read_payload(source: Any) -> Payload:
    """Return the payload that :func:`write_payload` wrote.

    Args:
        source: a file open for reading bytes, or what it holds, bytes-like: of a memory map the parts are views.

    Raises:
        ValueDamaged: these are not the bytes that were written.
    """
    data = source.read() if hasattr(source, "read") else source
    try:
        kind = _kind_of(memoryview(data).cast("B"))
        payload = read_value(data, _KEYS[kind])
    except DamagedValue as error:
        raise ValueDamaged(f"a payload {error}") from error
    return payload if kind == PICKLED else (PLAIN, pickle.loads(payload[1]))


def _kind_of(view: memoryview) -> int:
    """Return the kind of the payload in ``view``, by its key; its checksum is for later."""
    _check_magic(view[: len(_MAGIC)].tobytes())
    start = len(_MAGIC) + _COUNTS.size
    if len(view) < start:
        raise DamagedValue("is cut short")
    key_nbytes, count = _COUNTS.unpack_from(view, len(_MAGIC))
    is_plain = view[start + 8 * count :][:key_nbytes] == _KEYS[PLAIN]
    return PLAIN if is_plain else PICKLED


def read_value(data: Any, key: bytes) -> Payload:
    """Return the payload written into the bytes-like ``data``, its buffers being views of ``data``.

    Raises:
        DamagedValue: these are not the bytes that were written under ``key``.
    """
    view = memoryview(data)
    head, *buffers = find_parts(view, key)
    if _digest(view[:-_DIGEST_NBYTES]) != view[-_DIGEST_NBYTES:]:
        raise DamagedValue("is damaged: its checksum does not match what it holds")
    return (PICKLED, bytes(view[slice(*head)]), *(view[slice(*each)] for each in buffers))


def find_parts(data: Any, key: bytes) -> list[Span]:
    """Return where the parts are, by the first bytes alone: that finds much damage at next to no cost.

    Raises:
        DamagedValue: these cannot be the bytes that were written under ``key``.
    """
    view = memoryview(data)
    start = len(_MAGIC) + _COUNTS.size
    _check_magic(view[: len(_MAGIC)].tobytes())
    if len(view) < start:
        raise DamagedValue("is cut short")
    key_nbytes, count = _COUNTS.unpack_from(view, len(_MAGIC))
    head_nbytes = start + 8 * count + key_nbytes
    if not count or head_nbytes > len(view):
        raise DamagedValue("is cut short, or damaged")
    if view[head_nbytes - key_nbytes : head_nbytes] != key:
        raise DamagedValue("is damaged, or another value's: it does not carry the key of this one")
    spans = _spans(head_nbytes, struct.unpack_from(f"<{count}Q", view, start))
    expected = spans[-1][1] + _DIGEST_NBYTES
    if expected != len(view):
        raise DamagedValue(f"is damaged: it has {len(view)} bytes instead of {expected}")
    return spans


def _check_magic(magic: bytes) -> None:
    if magic == _OLD_MAGIC:
        raise DamagedValue("was written by an older version of handoff_mpi, without a checksum")
    if magic != _MAGIC:
        raise DamagedValue("is damaged, or not a value's file" if magic else "is empty")


def _spans(head_nbytes: int, sizes: Sequence[int]) -> list[Span]:
    spans = []
    end = head_nbytes
    for size in sizes:
        start = end + -end % _ALIGNMENT
        end = start + size
        spans.append((start, end))
    return spans


def _chunks(key: bytes, payload: Payload) -> Iterator[Any]:
    """Yield the bytes of a file, but for the digest."""
    parts = [memoryview(part).cast("B") for part in _parts(payload)]
    sizes = [part.nbytes for part in parts]
    head = _MAGIC + _COUNTS.pack(len(key), len(parts)) + struct.pack(f"<{len(parts)}Q", *sizes) + key
    yield head
    position = len(head)
    for part, (start, end) in zip(parts, _spans(len(head), sizes), strict=True):
        yield bytes(start - position)
        position = end
        yield from _split(part)


def _parts(payload: Payload) -> Sequence[Any]:
    if payload[0] == PLAIN:
        return [pickle.dumps(payload[1], protocol=5)]
    return payload[1:]


def _split(view: memoryview) -> Iterator[memoryview]:
    for start in range(0, view.nbytes, _CHUNK_NBYTES):
        yield view[start : start + _CHUNK_NBYTES]


def _digest(view: memoryview) -> bytes:
    digest = _new_digest()
    for chunk in _split(view):
        digest.update(chunk)
    return bytes(digest.digest())


def _new_digest() -> xxh3_128:
    from xxhash import xxh3_128  # for the few ranks and runs that keep files

    return xxh3_128()
