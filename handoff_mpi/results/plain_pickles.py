"""Reads pickles of built-in data, and calls nothing that they name: of a journal that may be anybody's.

A pickle names classes and functions, and has them called. Here no name is looked up: an id whose class ``dag.py``
defines comes as its text, which the journal holds beside it, and all else that has a name comes as :class:`Unknown`.
"""

from __future__ import annotations

import io
import pickle

from handoff_mpi.formatting import MAX_ID_CHARS
from handoff_mpi.serialization import UnreadableId, received_id


class Unknown:
    """Stands for an object that a pickle names. It accepts every operation of a pickle on it, and keeps nothing."""

    def __new__(cls, *args: object, **options: object) -> Unknown:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass

    def __repr__(self) -> str:
        return "<unknown>"


def _id_as_text(blob: object, text: object) -> UnreadableId:
    return UnreadableId(str(text)[:MAX_ID_CHARS])


_NAMED = {(received_id.__module__, received_id.__qualname__): _id_as_text}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        return _NAMED.get((module, name), Unknown)


class _CarefulUnpickler(pickle._Unpickler):
    """The same in Python: C code makes room for as many objects as a pickle claims to hold."""

    def find_class(self, module: str, name: str) -> object:
        return _NAMED.get((module, name), Unknown)


def loads_plain(pickled: bytes) -> object:
    """Return what a pickle of the user's own holds, without looking up a name."""
    return _Unpickler(io.BytesIO(pickled)).load()


def loads_hostile(pickled: bytes) -> object:
    """As :func:`loads_plain`, of a pickle that anybody could have made; it takes a few times as long.

    Raises:
        Exception: of any kind, if the pickle is damaged.
    """
    return _CarefulUnpickler(io.BytesIO(pickled)).load()
