"""The functions and shapes that all contenders run: what differs is who runs them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

Level = list[tuple[int, ...]]


def nothing(*values: Any) -> None:
    """Do nothing."""


def spin(seconds: float, *values: Any) -> None:
    """Compute for ``seconds``."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def independent(count: int) -> list[Level]:
    return [[()] * count]


def chain(count: int) -> list[Level]:
    return [[(number - 1,) if number else ()] for number in range(count)]


def fan(count: int) -> list[Level]:
    """One function, ``count`` that take its value, and one that takes all of theirs."""
    return [[()], [(0,)] * count, [tuple(range(1, count + 1))]]


def layered(count: int, width: int = 100, inputs: int = 5) -> list[Level]:
    """Layers of ``width``, each function with ``inputs`` inputs in the layer before."""
    levels: list[Level] = [[()] * width]
    for first in range(0, count - width, width):
        before = [[first + (number + 17 * each) % width for each in range(inputs)] for number in range(width)]
        levels.append([tuple(each) for each in before])
    return levels


SHAPES = {"independent": independent, "chain": chain, "fan": fan, "layered": layered}


def count_of(levels: Sequence[Level]) -> int:
    return sum(map(len, levels))
