"""Reads the files and the lists of numbers of a system: one that is missing, unreadable or malformed reads as empty."""

from __future__ import annotations

import re
from pathlib import Path

#: More than any system has: a larger number is damage, and must not become a set of that size.
MAX_IDS = 2**16


def read_text(file: Path) -> str:
    """Return what a file holds; nothing if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return ""


def path_exists(path: Path) -> bool:
    """Whether there is such a path, as far as that can be known."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def parse_whole(text: str) -> int | None:
    """Return a whole number of at most 20 digits; None if ``text`` is none."""
    text = text.strip()
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else None


def parse_spans(text: str) -> list[tuple[str, int, int]]:
    """Return ``0-3,08`` as [("0", 0, 3), ("08", 8, 8)].

    Raises:
        ValueError: it is no such list, or a huge one.
    """
    spans = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", part.strip())
        if match is None:
            raise ValueError(part)
        spans.append((match[1], int(match[1]), int(match[2] or match[1])))
    if any(high < low for _, low, high in spans) or sum(high - low + 1 for _, low, high in spans) > MAX_IDS:
        raise ValueError(text)
    return spans


def parse_cpu_list(text: str) -> frozenset[int]:
    """Return the ids in ``0-3,8``; none where it is malformed."""
    try:
        spans = parse_spans(text.strip())
    except ValueError:
        return frozenset()
    return frozenset(cpu for _, low, high in spans for cpu in range(low, high + 1))
