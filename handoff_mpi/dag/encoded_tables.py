"""The code and the large constants of a DAG, encoded once each: a call template names them by number."""

from __future__ import annotations

from collections.abc import Callable

from handoff_mpi.dag.function import Function
from handoff_mpi.dag.handle import UnresolvedHandle
from handoff_mpi.dag.references import ReferenceFinder, hidden_in_globals
from handoff_mpi.serialization import EncodingError, Payload, encode, encode_code, is_plain, nbytes_of

#: Constants of at least this many bytes are sent to a rank once, however many functions take them.
LARGE_CONSTANT_NBYTES = 32 * 1024


class EncodedTables:
    """The encoded callables and large constants; each is known by its identity, and kept alive for that.

    Attributes:
        codes: the encoded callables.
        code_names: their names, for people.
        code_numbers: their numbers, by the identity of the callable.
        constants: payloads of large constants.
        finder: finds what stands for values among constants.
    """

    def __init__(self) -> None:
        self.codes: list[bytes] = []
        self.code_names: list[str] = []
        self.code_numbers: dict[int, int] = {}
        self.constants: list[Payload] = []
        self.finder = ReferenceFinder()
        self._blobs: dict[int, bytes] = {}
        self._unusable_codes: dict[int, EncodingError] = {}
        self._constant_numbers: dict[int, int | None] = {}
        self._anchors: list[object] = []

    def code_number(self, code: Callable[..., object]) -> int:
        """Return the number of ``code`` in the code table, encoding it at first sight.

        Raises:
            EncodingError: it cannot be sent.
        """
        number = self.code_numbers.get(id(code))
        if number is None:
            number = self.code_numbers[id(code)] = self.own_code_number(code)
        return number

    def own_code_number(self, code: Callable[..., object]) -> int:
        """Return a number of ``code`` that only one array has: functions with one number are taken to last alike.

        Raises:
            EncodingError: it cannot be sent.
        """
        blob = self._encoded(code)
        self.codes.append(blob)
        self.code_names.append(Function(None, code=code).name)
        return len(self.codes) - 1

    def _encoded(self, code: Callable[..., object]) -> bytes:
        """Return ``code`` encoded, which happens once."""
        blob = self._blobs.get(id(code))
        if blob is not None:
            return blob
        if id(code) in self._unusable_codes:
            raise self._unusable_codes[id(code)]
        try:
            blob = encode_code(code)
        except EncodingError as error:  # all that have this code fail as fast as others freeze
            self._unusable_codes[id(code)] = error
            self._anchors.append(code)
            raise
        hidden = hidden_in_globals(code)
        if hidden:
            raise EncodingError(hidden[0]) from UnresolvedHandle(hidden[0])
        self._anchors.append(code)
        self._blobs[id(code)] = blob
        return blob

    def constant_number(self, value: object) -> int | None:
        """Return the number of ``value`` among the large constants, or None if it is small.

        Raises:
            EncodingError: it cannot be sent.
        """
        if is_plain(value):
            return None
        if id(value) not in self._constant_numbers:
            payload = encode(value)
            large = nbytes_of(payload) >= LARGE_CONSTANT_NBYTES
            self._constant_numbers[id(value)] = len(self.constants) if large else None
            self._anchors.append(value)
            if large:
                self.constants.append(payload)
        return self._constant_numbers[id(value)]
