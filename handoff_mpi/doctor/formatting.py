"""Numbers and lists of findings, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def by_value(values: Mapping[int, str]) -> str:
    """Return {0: "a", 1: "b", 2: "a"} as ``a on ranks 0, 2, b on rank 1``."""
    ranks: dict[str, list[int]] = {}
    for rank, value in values.items():
        ranks.setdefault(value, []).append(rank)
    return ", ".join(f"{value} on {rank_list(those)}" for value, those in ranks.items())


def rank_list(ranks: Iterable[int]) -> str:
    """Return [0, 1, 2, 5] as ``ranks 0-2, 5``."""
    spans: list[list[int]] = []
    for rank in sorted(ranks):
        if spans and rank == spans[-1][1] + 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    shown = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)
    return f"rank {shown}" if shown.isdigit() else f"ranks {shown}"


def name_list(names: Iterable[str]) -> str:
    """Return names on a line, each once, and not too many."""
    each = list(dict.fromkeys(names))
    return ", ".join(each[:8]) + (f" and {len(each) - 8:,} more" if len(each) > 8 else "")


def plain(value: float) -> str:
    """Return a number as one would write it."""
    return f"{value:g}"


def last_line(text: str) -> str:
    """Return the last line of a program's output that says anything."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" -=*\t")]
    return lines[-1][:200] if lines else ""


def duration(seconds: float) -> str:
    """Return seconds in the unit that suits them."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{_short(seconds * 1e3)} ms" if seconds >= 1e-3 else f"{_short(seconds * 1e6)} µs"


def space(nbytes: float) -> str:
    """Return a number of bytes in the unit that suits them."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if nbytes >= factor:
            return f"{_short(nbytes / factor)} {unit}"
    return f"{_short(nbytes / 1e3)} kB"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"
