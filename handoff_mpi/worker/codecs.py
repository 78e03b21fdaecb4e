"""Calls the two sides of a codec, and says of what goes wrong there that it was the codec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from handoff_mpi.callbacks import call_here
from handoff_mpi.formatting import show
from handoff_mpi.serialization import Payload, decode, encode

SERIALIZE = "serialize"
DESERIALIZE = "deserialize"
#: The attribute of an exception that names the code that raised it, if that is not the function itself.
_CULPRIT = "__handoff_culprit__"

#: Returns a callable by its number; it may have to be loaded first, which may fail.
Load = Callable[[int], Callable[..., object]]


def serialize(load: Load, number: int, payload: Payload, source: int, target: int) -> Payload:
    """Return what the serializer of this number makes of a value; what it raises is raised."""

    def run(code: Callable[..., object]) -> Payload:
        return encode(call_here(code, (decode(payload), source, target), {}))

    return _named(SERIALIZE, load, number, source, target, run)  # type: ignore[no-any-return]


def deserialize(load: Load, number: int, value: object, source: int, target: int) -> object:
    """Return what the deserializer of this number makes of what was sent; what it raises is raised."""
    return _named(DESERIALIZE, load, number, source, target, lambda code: call_here(code, (value, source, target), {}))


def _named(side: str, load: Load, number: int, source: int, target: int, run: Callable[[Any], object]) -> Any:
    code = None
    try:
        code = load(number)
        return run(code)
    except BaseException as error:
        name = getattr(code, "__qualname__", None)
        which = f" ({show(name)})" if isinstance(name, str) else ""
        _blame(error, f"in {side}{which} of an input, from rank {source} to rank {target}")
        raise


def _blame(error: BaseException, culprit: str) -> None:
    try:
        setattr(error, _CULPRIT, culprit)
    except Exception:
        pass  # its class is the user's, and may refuse that


def with_culprit(error: BaseException, message: str) -> str:
    """Return the message of ``error``, with where it was raised if that was a codec."""
    try:
        culprit = getattr(error, _CULPRIT, None)
    except Exception:
        culprit = None
    return f"{message} ({culprit})" if isinstance(culprit, str) else message
