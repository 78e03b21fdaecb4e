"""Draws arrays that take elements of others, fold, or pull their elements, and functions that take some elements.

Each draw is of its own random numbers: what else a seed draws does not hang on them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeAlias

from handoff_mpi.arrays.links import OWN, UNKNOWN_COUNT
from handoff_mpi.dag.frozen_array import FrozenArray
from handoff_mpi.dag.selections import Selection
from handoff_mpi.simulation.shapes import Fold, Handles, Linked, Shape, Window
from handoff_mpi.simulation.workload import Workload, draw_limits, give_elements

_COUNTS = (1, 5, 20, 60, 200)


def give_linked_arrays(rng: random.Random, load: Workload, folds: bool = False) -> None:
    """Make many of the tasks arrays, and have the others take elements of them; groups stay as they are.

    Args:
        folds: whether many are windowed, or take elements of such or fold them.
    """
    for task, spec in enumerate(load.specs):
        spec.inputs = tuple(each for each in spec.inputs if not _is_windowed(load, each))
        folded = [*load.folds_of_windows] if folds else []
        if folded and rng.random() < 0.4:
            spec.inputs = tuple({*spec.inputs, rng.choice(folded)})
        if folds and spec.group is None and rng.random() < 0.4:
            _make_array(rng, task, load, rng.choice((_window, _follower, _blocks, _growing_fold, _growing_fold)))
        elif spec.group is None and rng.random() < 0.5:
            _make_array(rng, task, load, rng.choice(_KINDS))
        else:
            _select(rng, task, load, spec.inputs)
    if not folds:
        _follow(random.Random(rng.random()), load)
    if rng.random() < (0.7 if folds else 0.4):  # else hardly any run comes to its end with all values
        for table in (load.raises, load.kills, load.element_raises, load.element_kills):
            table.clear()
        for shape in load.shapes.values():
            if shape.window is not None:
                shape.window.fails = False
    consumed = {each for spec in load.specs for each in spec.needs}
    for task, spec in enumerate(load.specs):
        spec.keep |= task not in consumed


def give_chains(rng: random.Random, load: Workload) -> None:
    """Make most of the tasks arrays of short elements that take those of one another: leases follow others."""
    for task, spec in enumerate(load.specs):
        if spec.group is None and rng.random() < 0.8:
            _make_array(rng, task, load, rng.choice((_many, _linked, _linked, _linked, _linked, _fold)))
            sources = [link.source for link in spec.array.links if link.source != OWN] if spec.array else []
            if sources and rng.random() < 0.9:
                spec.cost, spec.priority, spec.pin = load.specs[sources[0]].cost, load.specs[sources[0]].priority, None
            load.element_s[task] = rng.choice((0.0001, 0.001, 0.001, 0.004))
        else:
            _select(rng, task, load, spec.inputs)


def _is_windowed(load: Workload, task: int) -> bool:
    return task in load.shapes and load.shapes[task].comes is not None and load.shapes[task].fold is None


def _lists(load: Workload, before: int, at_least: int = 1) -> list[int]:
    """Return the arrays whose elements may be taken."""
    return [
        each for each, shape in load.shapes.items() if each < before and shape.has_indices and shape.count >= at_least
    ]


def _make_array(rng: random.Random, array: int, load: Workload, draw: _Draw) -> None:
    spec = load.specs[array]
    shape = draw(rng, array, load)
    if shape.columns or shape.fold or rng.random() < 0.5:  # they rather wait for elements than for all that
        spec.inputs = spec.inputs[: rng.choice((0, 0, 1))]
    load.shapes[array] = shape
    if shape.fold is not None and shape.root is not None and shape.fold.source is not None:
        blocks = load.specs[shape.fold.source]  # the two are declared together
        spec.inputs, spec.takes = blocks.inputs, blocks.takes
    else:
        _select(rng, array, load, spec.inputs)
    chunk, max_failures = draw_limits(rng)
    frozen: FrozenArray = shape.freeze(array, chunk, None if shape.fold or shape.block else max_failures)
    spec.array = frozen.spec
    taken = [number for column in shape.columns if isinstance(column, Handles) for number in column.of.values()]
    spec.element_inputs = tuple(dict.fromkeys(_task_of(load, number) for number in taken))
    give_elements(rng, array, load, shape.count_in(1))


def _task_of(load: Workload, number: int) -> int:
    first = len(load.specs)
    return load.selections[number - first].array if number >= first else number


# -- shapes ------------------------------------------------------------------------------------------------


def _plain(rng: random.Random, array: int, load: Workload) -> Shape:
    return Shape(rng.choice((0, *_COUNTS)))


def _many(rng: random.Random, array: int, load: Workload) -> Shape:
    return Shape(rng.choice((60, 200, 600)))


def _linked(rng: random.Random, array: int, load: Workload) -> Shape:
    sources = _lists(load, array)
    if not sources:
        return _plain(rng, array, load)
    source = rng.choice(sources[-3:])  # chains come of the newest
    indices = _some(rng, load.shapes[source].count)
    shape = Shape(len(indices), [Linked(source, indices)])
    others = _lists(load, array, shape.count)
    if others and rng.random() < 0.4:
        other = rng.choice(others)
        start = rng.randint(0, load.shapes[other].count - shape.count)
        span = range(start, start + shape.count)
        shape.columns.append(Linked(other, span[:: rng.choice((1, -1))]))
    if rng.random() < 0.15:
        _add_handles(rng, array, load, shape)
    return shape


def _some(rng: random.Random, count: int) -> range:
    """Return indices of an array, as a slice of a list has them."""
    every, bounds = range(count), sorted((rng.randint(0, count), rng.randint(0, count)))
    step = rng.choice((2, 3, -2, -1))
    return rng.choice((every, every, every, every[::step], every[slice(*bounds)], every[1:], every[-2::step]))


def _fold(rng: random.Random, array: int, load: Workload) -> Shape:
    sources = _lists(load, array)
    source = rng.choice(sources[-3:]) if sources and rng.random() < 0.8 else None
    indices = range(rng.choice(_COUNTS)) if source is None else _some(rng, load.shapes[source].count)
    if not indices:
        return _plain(rng, array, load)
    fold = Fold(source, indices, rng.choice((2, 3, 8, 64)))
    return Shape(len(fold.blocks), fold=fold)


def _handles(rng: random.Random, array: int, load: Workload) -> Shape:
    shape = Shape(rng.choice(_COUNTS[:-1]))
    _add_handles(rng, array, load, shape)
    return shape


def _add_handles(rng: random.Random, array: int, load: Workload, shape: Shape) -> None:
    """Have some elements of an array be values of functions, or elements of another array."""
    values = [each for each in range(array) if not _is_windowed(load, each)]
    lists = _lists(load, array)
    handles: dict[int, int] = {}
    for index in rng.sample(range(shape.count), min(shape.count, rng.choice((1, 2, 5)))):
        if lists and rng.random() < 0.4:
            source = rng.choice(lists)
            handles[index] = _number(load, Selection(source, rng.randrange(load.shapes[source].count)))
        elif values:
            handles[index] = rng.choice(values)
    shape.columns.append(Handles(shape.count, handles))


def _window(rng: random.Random, array: int, load: Workload) -> Shape:
    count = rng.choice((0, *_COUNTS))
    changes_at = rng.randrange(count) if count and rng.random() < 0.3 else None
    return Shape(0, window=Window(rng.choice((1, 2, 5, 40, 300)), count, rng.random() < 0.15, changes_at))


def _changing_window(rng: random.Random, array: int, load: Workload) -> Shape:
    """Draw a window whose elements may be others in each launch, and more or fewer."""
    shape = _window(rng, array, load)
    assert shape.window is not None
    shape.window.count += rng.random() < 0.9 and not shape.window.count  # a fold of nothing fails
    if rng.random() < 0.2:
        shape.window.later_count = rng.choice((0, shape.window.count + 1, shape.window.count // 2))
    shape.window.alternates = rng.random() < 0.5
    return shape


def _growing(load: Workload) -> list[int]:
    """Return the arrays whose elements come, and may be taken as they do."""
    return [each for each, shape in load.shapes.items() if shape.comes and shape.fold is None and not shape.block]


def _follower(rng: random.Random, array: int, load: Workload) -> Shape:
    growing = _growing(load)
    if not growing:
        return _changing_window(rng, array, load)
    source = rng.choice(growing)
    root = load.shapes[source].comes
    sources = [source, *(each for each in growing if load.shapes[each].comes is root and rng.random() < 0.3)]
    return Shape(0, [Linked(each, range(UNKNOWN_COUNT)) for each in sources], root=root)


def _blocks(rng: random.Random, array: int, load: Workload) -> Shape:
    growing = _growing(load)
    if not growing:
        return _changing_window(rng, array, load)
    source = rng.choice(growing)
    columns: list[Linked | Handles] = [Linked(source, range(UNKNOWN_COUNT))]
    return Shape(0, columns, root=load.shapes[source].comes, block=rng.choice((2, 3, 8, 64)))


def _growing_fold(rng: random.Random, array: int, load: Workload) -> Shape:
    folded = [shape.fold.source for shape in load.shapes.values() if shape.fold is not None]
    blocks = [each for each, shape in load.shapes.items() if shape.block and each not in folded]
    if not blocks:
        return _blocks(rng, array, load)
    shape = load.shapes[blocks[-1]]
    assert shape.block is not None
    return Shape(0, fold=Fold(blocks[-1], range(UNKNOWN_COUNT), shape.block), root=shape.root)


_Draw: TypeAlias = "Callable[[random.Random, int, Workload], Shape]"
_KINDS: tuple[_Draw, ...] = (_plain, _linked, _linked, _linked, _fold, _handles, _window)


def _follow(rng: random.Random, load: Workload) -> None:
    """Have some arrays take the elements of a windowed one as they come, or of others that do so."""
    windowed: list[int] = []
    for task, shape in load.shapes.items():
        if shape.window is not None and windowed and rng.random() < 0.6:
            sources = [rng.choice(windowed)]
            root = load.shapes[sources[0]].comes
            sources += [each for each in windowed if load.shapes[each].comes is root and rng.random() < 0.3]
            columns: list[Linked | Handles] = [Linked(each, range(UNKNOWN_COUNT)) for each in sources]
            shape.window, shape.root, shape.columns = None, root, columns
            spec = load.specs[task]
            assert spec.array is not None
            spec.array = shape.freeze(task, spec.array.chunk, spec.array.max_failures).spec
        if shape.comes is not None:
            windowed.append(task)


# -- selections --------------------------------------------------------------------------------------------


def _select(rng: random.Random, task: int, load: Workload, inputs: tuple[int, ...]) -> None:
    """Have ``task`` take elements of some of its inputs that are arrays, in place of their lists."""
    lists, takes = set(_lists(load, task, 0)), []
    for each in inputs:
        if each not in lists or rng.random() < 0.3:
            takes.append(each)
            continue
        for _ in range(rng.choice((1, 1, 2))):
            takes.append(_number(load, _selection(rng, each, load.shapes[each].count)))
    takes = [*dict.fromkeys(takes)]
    if any(each >= len(load.specs) for each in takes):
        load.specs[task].takes = tuple(takes)


def _selection(rng: random.Random, array: int, count: int) -> Selection:
    if count and rng.random() < 0.4:
        return Selection(array, rng.randrange(count))
    return Selection(array, _some(rng, count), rng.random() < 0.4)


def _number(load: Workload, selection: Selection) -> int:
    """Return the number of what stands for a selection: the array itself, where that is all of it."""
    first = len(load.specs)
    if selection.elements == range(load.shapes[selection.array].count) and not selection.skips_missing:
        return selection.array
    if selection not in load.selections:
        load.selections.append(selection)
    return first + load.selections.index(selection)
