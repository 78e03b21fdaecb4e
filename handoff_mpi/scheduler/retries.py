"""Decides which failures deserve another try, and how long the next try waits."""

from __future__ import annotations

from enum import IntEnum
from hashlib import blake2b

from handoff_mpi.messages import RAISED, UNPICKLABLE, ErrorReport

#: The wait between two tries grows to at most this many seconds, or to twice the user's delay if that is more.
MAX_RETRY_WAIT_S = 600.0
#: The delay doubles at most this often: later tries wait as long.
_MAX_DOUBLINGS = 32
#: Another call raises these again: the function, its arguments or its result are wrong.
_NEVER = frozenset({"TypeError", "NameError", "SyntaxError", "SystemExit", UNPICKLABLE})
#: A missing mount or library raises these too, which another host may have.
_ONCE = frozenset({"ImportError", "AttributeError"})


class Chance(IntEnum):
    """How often a failure deserves another try."""

    NEVER = 0
    ONCE = 1
    ALWAYS = 2


def chance_of(status: int, error: ErrorReport, retry_on: tuple[str, ...] | None) -> Chance:
    """Return whether an attempt that ended with ``status`` and ``error`` deserves another try.

    Args:
        retry_on: the names of the exceptions that the user named; None for the default.
    """
    if status != RAISED:  # time-outs and deaths have separate limits
        return Chance.ALWAYS
    if retry_on is not None:
        return Chance.NEVER if set(retry_on).isdisjoint(error.lineage) else Chance.ALWAYS
    if not _NEVER.isdisjoint(error.lineage):
        return Chance.NEVER
    return Chance.ALWAYS if _ONCE.isdisjoint(error.lineage) else Chance.ONCE


def delay_before_retry(delay_s: float, failures: int, task: int, seed: int) -> float:
    """Return how many seconds the next try of ``task`` waits after its last one failed.

    Exponential backoff with "equal jitter" (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
    2015): ``limit = min(cap, delay * 2 ** failures)``, and the wait is ``limit / 2`` plus a random share of the other
    half. So the first wait lasts at least ``delay_s``. The share comes from a hash, as a machine throws no rng.

    Args:
        delay_s: as the user gave it, in seconds.
        failures: how many tries have failed, from 1.
        task, seed: what the hash is taken of, beside ``failures``; the seed differs from run to run.
    """
    limit = min(max(MAX_RETRY_WAIT_S, 2 * delay_s), delay_s * 2.0 ** min(failures, _MAX_DOUBLINGS))
    digest = blake2b(f"{seed} {task} {failures}".encode(), digest_size=8).digest()
    return limit / 2 * (1 + int.from_bytes(digest, "big") / 2**64)
