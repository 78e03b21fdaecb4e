"""Amounts of resources as whole numbers of ten-thousandths, so that sums are exact.

This room turns what users write (``{"cpu": 0.5, "memory": "2GB"}``) into integers and back. It never
looks at a machine.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import TypeAlias

from handoff_mpi.errors import DAGError
from handoff_mpi.formatting import one_line, show
from handoff_mpi.numerals import plain
from handoff_mpi.suggestions import did_you_mean

#: One unit (a core, a megabyte, a device) in fixed point.
UNIT = 10_000

#: Resource name to amount in ten-thousandths of its unit.
Amounts: TypeAlias = dict[str, int]

RESERVED = "ranks"
#: The resources that are detected.
CPU, MEMORY, GPU, GPU_MEMORY = "cpu", "memory", "gpu", "gpu_memory"
STANDARD = (CPU, MEMORY, GPU, GPU_MEMORY)
#: Those that are amounts of memory.
_OF_MEMORY = (MEMORY, GPU_MEMORY)
_OTHER_WORDS = {
    CPU: "cpus core cores ncpus ncores num_cpus num_cores n_cpus n_cores cpu_count cpus_per_task processor processors "
    "procs thread threads nthreads num_threads",
    MEMORY: "mem ram rss memory_mb memory_gb memory_bytes mem_mb mem_gb ram_mb ram_gb mem_per_cpu",
    GPU_MEMORY: "gpu_mem gpumem gpumemory vram gpu_ram gpu_memory_mb gpu_memory_gb",
    GPU: "gpus ngpus num_gpus n_gpus gres cuda device devices accelerator accelerators",
}
#: What other tools call them.
SYNONYMS = {word: name for name, words in _OTHER_WORDS.items() for word in words.split()}
_MAX_AMOUNT = Decimal(10) ** 18

# Bare numbers of memory are MB = 10^6 bytes, as the guide counts them.
_BYTES = {
    "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
    "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
}  # fmt: skip
_UNITS = ("B", "KB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB")
_QUANTITY = re.compile(r"\s*((?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*")


def parse_amount(name: str, amount: object) -> int:
    """Return ``amount`` of resource ``name`` in ten-thousandths of its unit.

    Memory is in MB (10⁶ bytes); strings may carry a unit (``"2GB"``, ``"512 MiB"``).

    Raises:
        DAGError: the amount is no finite, non-negative number, is finer than a ten-thousandth, or is a
            number of devices that is neither whole nor a fraction below 1.
    """
    try:
        scaled = _number(name, amount) * UNIT
    except ArithmeticError:  # beyond what decimal can hold
        raise DAGError(f"{name}={show(amount)} is not a usable number") from None
    if scaled > _MAX_AMOUNT:
        raise DAGError(f"{name}={show(amount)} is more than any machine has")
    fixed = int(scaled.to_integral_value())
    if name in _OF_MEMORY:
        # A byte count need not be a multiple of 100 bytes; room is rounded up, never down.
        fixed = math.ceil(scaled)
    elif abs(scaled - fixed) > Decimal("0.001") or (scaled and not fixed):
        raise DAGError(f"{name}={show(amount)} is finer than a ten-thousandth, the smallest amount there is")
    if name == "gpu" and fixed > UNIT and fixed % UNIT:
        raise DAGError(f"gpu={show(amount)} must be a whole number of devices, or a fraction below 1")
    return fixed


def parse_nbytes(amount: object) -> int:
    """Return an amount of memory, in MB or with a unit, in bytes.

    Raises:
        DAGError: see :func:`parse_amount`.
    """
    return parse_amount("memory", amount) * _BYTES["MB"] // UNIT


def _number(name: str, amount: object) -> Decimal:
    if isinstance(amount, str):
        return _quantity(name, amount)
    if isinstance(amount, bool) or not isinstance(amount, (numbers.Real, Decimal)):
        raise DAGError(f"{name}={show(amount)} is not a number")
    # repr() gives the shortest decimal that means this float: 0.1 is a tenth, not 0.1000000000000000055
    if isinstance(amount, numbers.Rational):
        value = Decimal(int(amount.numerator)) / Decimal(int(amount.denominator))
    else:
        value = Decimal(repr(float(amount))) if isinstance(amount, float) else Decimal(str(amount))
    if not value.is_finite():
        raise DAGError(f"{name}={show(amount)} is not a finite number")
    if value < 0:
        raise DAGError(f"{name}={show(amount)} is negative")
    return value


def _quantity(name: str, text: str) -> Decimal:
    match = _QUANTITY.fullmatch(text)
    try:
        value = Decimal(match[1]) if match else None
    except InvalidOperation:
        value = None
    if match is None or value is None:
        raise DAGError(f"{name}={show(text)} is not an amount; write a number, or for memory one like '2GB'")
    unit = match[2].upper()
    if not unit:
        return value
    if name not in _OF_MEMORY or unit not in _BYTES:
        units = f"a number of MB, or {', '.join(_UNITS)}" if name in _OF_MEMORY else "no unit"
        hint = did_you_mean(match[2], _UNITS, shown=str) if name in _OF_MEMORY else near_resource(name)
        raise DAGError(f"{name}={show(text)} has a unit that is not known here; {name} takes {units}{hint}")
    return value * _BYTES[unit] / 10**6


def parse_resources(resources: object) -> Amounts:
    """Return a mapping of resource names to amounts in fixed point.

    Raises:
        DAGError: naming every amount that is wrong, or that ``resources`` is no mapping.
    """
    if not isinstance(resources, Mapping):
        raise DAGError(f"resources are a mapping of names to amounts, not {show(resources)}{_as_mapping(resources)}")
    amounts: Amounts = {}
    problems: list[str] = []
    for name, amount in resources.items():
        if not isinstance(name, str) or not name:
            problems.append(f"a resource is named by a non-empty string, not {show(name)}")
            continue
        if not name.isprintable():
            problems.append(f"a resource is named by printable characters, not {show(name)}")
            continue
        if name == RESERVED:
            problems.append(f"the resource name {RESERVED!r} is reserved")
            continue
        try:
            amounts[name] = parse_amount(name, amount)
        except DAGError as error:
            problems.extend(error.problems)
    if problems:
        raise DAGError(problems)
    return amounts


def _as_mapping(given: object) -> str:
    """Return the mapping that was meant, where that is clear."""
    if isinstance(given, str) and (given in STANDARD or given.casefold() in SYNONYMS):
        return f"; did you mean {{'{SYNONYMS.get(given.casefold(), given)}': 1}}?"
    is_number = isinstance(given, numbers.Real) and not isinstance(given, bool)
    return f"; did you mean {{'cpu': {show(plain(given))}}}?" if is_number else ""


def parse_cost(cost: Mapping[str, object] | None) -> Amounts:
    """Return the cost of a function in fixed point: a missing ``cpu`` means one core, zeros are left out.

    Raises:
        DAGError: as :func:`parse_resources`.
    """
    amounts = parse_resources({} if cost is None else cost)
    amounts.setdefault("cpu", UNIT)
    if amounts.get(GPU_MEMORY) and not amounts.get(GPU):
        raise DAGError(f"{GPU_MEMORY} is that of each device that a call claims: name {GPU} too, like {GPU}=0.25")
    return {name: amounts[name] for name in sorted(amounts) if amounts[name]}


def format_amount(name: str, fixed: int) -> str:
    """Return ``fixed`` ten-thousandths as people read them: ``4``, ``0.5``, ``16000 MB``."""
    whole, part = divmod(fixed, UNIT)
    text = str(whole) if not part else f"{Decimal(fixed) / UNIT:f}".rstrip("0")
    return f"{text} MB" if name in _OF_MEMORY else text


def format_amounts(amounts: Mapping[str, int]) -> str:
    """Return amounts as one line, for messages: ``cpu=4, memory=2000 MB``; ``nothing`` if empty."""
    return ", ".join(f"{name}={format_amount(name, amount)}" for name, amount in amounts.items()) or "nothing"


def near_resource(name: str, offered: Iterable[str] = ()) -> str:
    """Return ``; did you mean cpu?`` for the name of a resource that is no usual one, and near one that is there.

    Args:
        offered: the resources there are, besides those that are detected.
    """
    if name in STANDARD:
        return ""
    known = dict.fromkeys([*STANDARD, *offered])
    known.pop(name, None)
    return did_you_mean(name, known, SYNONYMS, one_line)


def format_nbytes(nbytes: int, space: str = "") -> str:
    """Return an amount of memory in its largest unit, to a tenth: ``1.5GB``."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if nbytes >= size:
            return f"{nbytes / size:,.1f}".removesuffix(".0") + space + unit
    return f"{nbytes}{space}B"


def plain_number(fixed: int) -> int | float:
    """Return ``fixed`` ten-thousandths as an int where it is whole, else as a float."""
    return fixed // UNIT if fixed % UNIT == 0 else fixed / UNIT
