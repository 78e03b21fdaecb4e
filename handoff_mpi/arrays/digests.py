"""Digests of elements: are they the same as in an earlier launch of a run?

A digest depends on the types and the values of elements, and neither on the process, nor on the columns that they lie
in, nor on which parts of them are one object. Elements may consist of lists, tuples, dicts, arrays of numpy, and
objects of the standard library. An object of any other class has no digest of its own, because the code of its class
would have to count; callers that can tell (the fingerprints of functions can) give a function for those.
"""

from __future__ import annotations

import io
import marshal
import pickle
import sys
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType, FunctionType
from typing import Any, TypeAlias

from xxhash import xxh3_128

from handoff_mpi.arrays.columns import ARRAYS, MARSHAL_VERSION, NUMBERS, Packed, are_immutable, pack_alike, unpack
from handoff_mpi.serialization import decode_writable

#: Returns the digest of an object, or None if it has none.
DigestObject: TypeAlias = "Callable[[Any], bytes | None]"

DIGEST_NBYTES = 16
#: Stands for a digest where there is none.
NO_DIGEST = bytes(DIGEST_NBYTES)
#: Kinds of columns whose memory is the same for equal elements.
_IN_MEMORY = frozenset({NUMBERS, ARRAYS})
#: Packages whose classes count by name.
_STANDARD = (sys.stdlib_module_names | {"builtins", "numpy"}) - {"__main__"}


def digest_of(columns: Iterable[Packed], digest_object: DigestObject | None) -> bytes:
    """Return the digest of the elements of ``columns``, however these are cut; zeros if an element has none."""
    first, *others = columns
    if first[0] in _IN_MEMORY and all(header_of(each) == header_of(first) for each in others):
        return hashed([header_of(first), *(each[-1] for each in (first, *others))])
    values = [value for packed in (first, *others) for value in unpack(packed, decode_writable)]
    alike = pack_alike(values)
    if alike is not None and alike[0] in _IN_MEMORY:
        return hashed([header_of(alike), alike[-1]])
    if are_immutable(values):
        return hashed([marshal.dumps(values, MARSHAL_VERSION)])
    pickles = _CanonicalPickles()
    found = [pickles.of(value) or (digest_object(value) if digest_object else None) for value in values]
    return hashed(each or b"" for each in found) if all(found) else NO_DIGEST


def has_all(digests: Any) -> bool:
    """Whether every block of an input has a digest, by what :meth:`ElementInput.digests` returned."""
    if digests[0] == "fold":
        return has_all(digests[3])
    if digests[0] != "blocks":
        return True
    blocks = digests[2]
    return all(blocks[place : place + DIGEST_NBYTES] != NO_DIGEST for place in range(0, len(blocks), DIGEST_NBYTES))


def header_of(packed: Packed) -> bytes:
    """Return the part of a column in memory that comes before the memory, without the count."""
    return repr((packed[0], *packed[2:-1])).encode()


def hashed(parts: Iterable[bytes]) -> bytes:
    """Return the digest of ``parts`` behind one another."""
    found = xxh3_128()
    for part in parts:
        found.update(part)
    return found.digest()


class _CanonicalPickles:
    """Pickles in which it does not matter whether equal parts are one object."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._file = io.BytesIO()
        self._pickler = _CanonicalPickler(self._file)  # to make one for each value takes longer than to pickle it

    def of(self, value: Any) -> bytes | None:
        """Return the pickle of ``value``; None if it has parts of classes of users, or contains itself."""
        try:
            self._pickler.dump(value)
        except Exception:
            self._begin()
            return None
        found = self._file.getvalue()
        self._file.seek(0)
        self._file.truncate()
        return found


class _CanonicalPickler(pickle.Pickler):
    """Refuses objects of classes that do not belong to Python or numpy."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, 5)
        self.fast = True

    def reducer_override(self, obj: Any) -> Any:
        owner = obj if isinstance(obj, (type, FunctionType, BuiltinFunctionType)) else type(obj)
        if str(owner.__module__).partition(".")[0] not in _STANDARD:
            raise pickle.PicklingError("its class is part of the user's code")
        return NotImplemented
