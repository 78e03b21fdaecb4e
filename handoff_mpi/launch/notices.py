"""Notices as a run begins, a line each, on things that hold in one process and not on all ranks or in children."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import CellType, FunctionType, MethodType, ModuleType

from handoff_mpi.launch.top_level import SEEDS, TopLevel, listed
from handoff_mpi.worker.draws import NONE, Generators, objects_reached
from handoff_mpi.worker.randomness import drawn_by, seeded_by_setup

#: So many generators are named.
_MAX_NAMED = 3
#: Classes of generators, by module and name, and what is to be used instead.
_GENERATORS = (
    ("numpy.random", "Generator", "numpy.random.default_rng(current_task().seed)"),
    ("numpy.random", "RandomState", "numpy.random.default_rng(current_task().seed)"),
    ("random", "Random", "random.Random(current_task().seed)"),
    ("torch", "Generator", "torch.Generator().manual_seed(current_task().seed)"),
)
_MAX_WRAPPED = 100


def notices(
    codes: Iterable[object],
    encoded: Sequence[bytes],
    top_level: TopLevel | None,
    where: str,
    seeds: bool,
    has_setup: bool,
) -> Iterator[str]:
    """Yield the lines.

    Args:
        codes: the callables of the DAG.
        encoded: the same as they travel.
        top_level: what loading dag.py has changed; None for a script, which all ranks execute.
        where: "rank" if there are several, "child process" if all calls are made in children, else empty.
        seeds: whether calls that draw from global generators are seeded.
        has_setup: whether there is a ``setup(rank)``.
    """
    distinct = list({id(code): code for code in codes}.values())
    by_setup = seeded_by_setup() if has_setup else NONE
    if seeds and by_setup:
        yield from _seeded_by_setup(by_setup & _drawn(distinct))
    if top_level is not None:
        yield from _seeded_by_file(top_level, distinct, by_setup, seeds, where)
    if where:
        if top_level is not None:
            yield from _changed(top_level, encoded, where)
        yield from _generators(distinct, where, None if top_level is None else top_level.path)


def _drawn(codes: Iterable[object]) -> Generators:
    found = NONE
    for each in codes:
        found |= drawn_by(each)
    return found


def _names(generators: Generators) -> str:
    return " and ".join(text.rpartition(" ")[2] for each, text in SEEDS.items() if each & generators)


# -- seeds --------------------------------------------------------------------------------------------


def _seeded_by_setup(generators: Generators) -> Iterator[str]:
    if generators:
        what = f"setup(rank) seeds {_names(generators)}, so calls that draw from it are not seeded each from its id"
        yield f"{what}: what they draw depends on their rank and their order"


def _seeded_by_file(
    top_level: TopLevel, codes: Sequence[object], by_setup: Generators, seeds: bool, where: str
) -> Iterator[str]:
    """A seed at the top of dag.py counts in no call that is seeded, and elsewhere on rank 0 alone."""
    changed = [each for each, text in SEEDS.items() if text in top_level.own.settings and not each & by_setup]
    if not changed or not (seeds or where) or not _names_seed(top_level.path):
        return
    drawn = _drawn(codes)
    seeded = NONE
    for each in changed:
        seeded |= each & drawn
    if not seeded:
        return
    what = f"{top_level.path.name} seeds {_names(seeded)}"
    if seeds:
        yield f"{what}, but calls that draw from it are seeded each from its id; seed in setup(rank) or use --no-seed"
    else:
        yield f"{what} {_alone(where)}; define setup(rank) to do it {_everywhere(where)}"


def _names_seed(path: Path) -> bool:
    """Whether the top of a file names a seed; drawing changes a generator as well."""
    try:
        code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError):
        return False
    return any("seed" in name for name in code.co_names)


# -- what the top of dag.py has changed ---------------------------------------------------------------


def _changed(top_level: TopLevel, encoded: Sequence[bytes], where: str) -> Iterator[str]:
    words = top_level.own.in_words(top_level.setup, where == "rank")
    how = "define setup(rank)" if top_level.setup is None else "have setup(rank)"
    if words:
        do = "to do it" if top_level.setup is None else "do it"
        yield f"{top_level.path.name} set {words} {_alone(where)}; {how} {do} {_everywhere(where)}"
    found = {name: changes.in_words(top_level.setup, where == "rank") for name, changes in top_level.imported.items()}
    if any(found.values()):
        used = _used(top_level.imported, encoded)
        for name, words in found.items():
            if words and name not in used:
                unused = f"{name}, which {top_level.path.name} imports and no function uses, set {words}"
                yield f"{unused} {_alone(where)}; import it in setup(rank)"


def _alone(where: str) -> str:
    return "on rank 0 alone" if where == "rank" else "in this process alone"


def _everywhere(where: str) -> str:
    return "on every rank" if where == "rank" else "in every child process"


def _used(modules: Collection[str], encoded: Sequence[bytes]) -> set[str]:
    """Return which of ``modules`` ranks import for the functions: those that are named in them or in one another."""
    waiting = [name for name in modules if any(name.encode() in each for each in encoded)]
    used = set(waiting)
    while waiting:
        values = vars(sys.modules.get(waiting.pop(), sys)).values()
        referred = {each.__name__ for each in values if isinstance(each, ModuleType)}.intersection(modules) - used
        waiting += referred
        used |= referred
    return used


# -- generators that travel with the code -------------------------------------------------------------


def _generators(codes: Iterable[object], where: str, path: Path | None) -> Iterator[str]:
    """A generator goes to each process as it was made: all draw the same numbers."""
    kinds = _kinds()
    file = None if path is None else os.path.realpath(path)
    remedies: dict[str, str] = {}
    may_hold: dict[int, bool] = {}
    for function in filter(None, map(_function_of, codes)):
        if len(remedies) <= _MAX_NAMED and _may_hold(function, kinds, may_hold, file):
            remedies.update(_generators_of(function, kinds))
    if remedies:
        names = [*islice(remedies, _MAX_NAMED), *(["others"] if len(remedies) > _MAX_NAMED else [])]
        are = "are generators" if len(remedies) > 1 else "is a generator"
        made = f"{listed(names)} {are} made at the top of {path.name if path is not None else 'the script'}"
        use = " or ".join(sorted(set(remedies.values())))
        yield f"{made}: every {where} draws the same numbers; use {use} in the function"


def _kinds() -> dict[type, str]:
    """Return the classes of generators that are loaded, and what is to take the place of each."""
    found = {getattr(sys.modules.get(module), name, None): remedy for module, name, remedy in _GENERATORS}
    return {kind: remedy for kind, remedy in found.items() if isinstance(kind, type)}


def _function_of(code: object) -> FunctionType | None:
    for _ in range(_MAX_WRAPPED):
        if type(code) is functools.partial:
            code = code.func
    function = code.__func__ if type(code) is MethodType else code
    return function if type(function) is FunctionType else None


def _may_hold(function: FunctionType, kinds: dict[type, str], known: dict[int, bool], file: str | None) -> bool:
    """Whether a generator is among the variables of the script or dag.py, or of what is around a function of it."""
    variables = function.__globals__
    if id(variables) not in known:
        known[id(variables)] = _travels(variables, file) and any(type(each) in kinds for each in [*variables.values()])
    if known[id(variables)]:
        return True
    around = [*(function.__closure__ or ()), *(function.__defaults__ or ())]
    return any(type(_contents(each)) in kinds for each in around)


def _travels(variables: dict[str, object], file: str | None) -> bool:
    """Whether they are those of the script, or of dag.py: other processes import other modules themselves."""
    if variables.get("__name__") == "__main__":
        return True
    its_file = variables.get("__file__")
    return file is not None and isinstance(its_file, str) and os.path.realpath(its_file) == file


def _contents(value: object) -> object:
    try:
        return value.cell_contents if type(value) is CellType else value
    except ValueError:  # it is empty
        return None


def _generators_of(function: FunctionType, kinds: dict[type, str]) -> dict[str, str]:
    """Return the generators that a function refers to, and the remedy of each."""
    try:
        reached = [each for each in objects_reached(function) if each[0].__globals__ is function.__globals__]
    except Exception:  # objects of the user may answer anything
        return {}
    return {name: kinds[type(value)] for _, name, value in reached if type(value) in kinds}
