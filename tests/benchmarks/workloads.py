"""The functions and shapes that all contenders run: what differs is who runs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: Of each function of a level, the numbers of the functions whose values it takes.
Level = list[tuple[int, ...]]


def work(loops: int, *values: Any) -> None:
    """Compute for so many loops: a fixed amount of work, however many processes share a core. 0 is a no-op."""
    for _ in range(loops):
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


def stencil(count: int, width: int = 16) -> list[Level]:
    """Task Bench's stencil: each function takes the values of its own column and its neighbours' one step before."""
    levels: list[Level] = [[()] * width]
    for first in range(0, count - width, width):
        near = [range(max(0, column - 1), min(width, column + 2)) for column in range(width)]
        levels.append([tuple(first + each for each in columns) for columns in near])
    return levels


SHAPES = {"independent": independent, "chain": chain, "fan": fan, "layered": layered, "stencil": stencil}


def count_of(levels: Sequence[Level]) -> int:
    return sum(map(len, levels))
