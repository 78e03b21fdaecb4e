"""Everything that can be wrong with a DAG, found in one linear pass."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Hashable, Iterable, Mapping

from handoff_mpi.dag.array_checks import (
    find_ambiguous_ids,
    find_lists_of_windowed,
    find_wrong_array,
    find_wrong_links,
    with_single_options,
)
from handoff_mpi.dag.arrays import ArrayFunction
from handoff_mpi.dag.function import (
    AS_LIST,
    INLINE,
    REGULAR,
    VARIADIC,
    Argument,
    Collocated,
    Function,
    input_id,
)
from handoff_mpi.dag.handle import HANDLES, Handle
from handoff_mpi.dag.handle_elements import find_inline_elements
from handoff_mpi.dag.ids import are_plain_ids, find_id_problem
from handoff_mpi.dag.kinds import Kinds
from handoff_mpi.dag.references import ATOMS, SPECIAL, ReferenceFinder, inputs_of, taken_whole
from handoff_mpi.dag.retry_on import MAX_RETRY_DELAY_S, find_wrong_retry_on
from handoff_mpi.dag.selections import find_wrong_selections
from handoff_mpi.dag.surroundings import find_wrong_surroundings
from handoff_mpi.errors import DAGError
from handoff_mpi.formatting import show
from handoff_mpi.numerals import plain
from handoff_mpi.resources import parse_cost
from handoff_mpi.suggestions import KnownNames, did_you_mean

_MAX_NAMED = 20
_INCLUSIONS = (VARIADIC, AS_LIST)
#: Types of amounts of which equal ones are right or wrong alike.
_AMOUNTS = frozenset({int, float, str})
_SEQUENCES = frozenset({list, tuple})
#: The types that a setting of a plain function has, where that is all there is to it.
_TYPES: dict[str, frozenset[type]] = {
    "node": frozenset({type(None), int, str}),
    "max_retries": frozenset({type(None), int}),
    "timeout": frozenset({type(None), int, float}),
    "priority": frozenset({int}),
    "version": frozenset({str}),
    "type": frozenset({str}),
    "argument_inclusion": frozenset({str}),
    "cwd": frozenset({type(None)}),
    "env": frozenset({type(None)}),
    "writable": frozenset({bool}),
    "retry_delay": frozenset({type(None), int, float}),
}


def find_problems(
    functions: Iterable[Function], by_id: Mapping[Hashable, Function], kinds: Kinds | None = None
) -> list[str]:
    """Return one line for each problem of the DAG, an empty list if it can be run.

    Args:
        kinds: of the functions.
    """
    functions = list(functions)
    try:
        is_right = are_right_at_first_sight(functions, kinds)
    except TypeError:  # a class that cannot be hashed
        is_right = False
    return [] if is_right else find_all_problems(functions, by_id)


def find_all_problems(functions: list[Function], by_id: Mapping[Hashable, Function]) -> list[str]:
    """As :func:`find_problems`, function by function."""
    unusable = [problem for problem in map(_problem_of_id, functions) if problem]
    if unusable:  # nothing can be looked up by them
        return _shortened(unusable)
    problems = [*_duplicates(functions), *find_ambiguous_ids(functions)]
    unreadable = set()  # their parameters are unknown
    wrong_in: dict[str, list[Function]] = {}
    for function in functions:
        _make_numbers_plain(function)
        for problem in _wrong_fields(function):
            unreadable.add(id(function))
            wrong_in.setdefault(problem, []).append(function)
    problems += [f"{_named(those)}: {problem}" for problem, those in wrong_in.items()]
    finder = ReferenceFinder()
    inputs = {key: inputs_of(function, finder) for key, function in by_id.items() if id(function) not in unreadable}
    problems += _missing(inputs, by_id)
    problems += find_lists_of_windowed({key: taken_whole(by_id[key], finder) for key in inputs}, by_id)
    problems += find_wrong_links(functions, by_id)
    right = [function for function in by_id.values() if id(function) not in unreadable]
    problems += find_wrong_selections(right, by_id, finder)
    elements = {each.id: each.elements for each in functions if type(each) is ArrayFunction}
    problems += find_inline_elements(elements, by_id)
    problems += _bad_collocations([function for function in functions if id(function) not in unreadable], by_id)
    problems += _cycle(inputs)
    return _shortened(problems)


def are_right_at_first_sight(functions: list[Function], kinds: Kinds | None = None) -> bool:
    """Whether nothing is wrong with a DAG that is as plain as most are; False says nothing.

    It looks at the settings of each kind once, and at what is different among the arguments, which is little however
    many functions there are; and none may take a value of a function that was added after it.
    """
    kinds = kinds or Kinds(functions)
    if not all(map(_are_right_settings, kinds.first)):
        return False
    arrays = [each for each in functions if type(each) is ArrayFunction]
    if any(True for each in arrays for _ in find_wrong_array(each)) or any(
        each.element_ids or each.window is not None for each in arrays
    ):
        return False
    if any(True for _ in find_wrong_links(arrays, {each.id: each for each in functions})):
        return False
    args, extra_args, kwargs = kinds.args, kinds.extra_args, kinds.kwargs
    if not (_SEQUENCES.issuperset(map(type, args)) and _SEQUENCES.issuperset(map(type, extra_args))):
        return False
    if set(map(type, kwargs)) - {dict}:
        return False
    named: list[Mapping[str, object]] = list(filter(None, kwargs))
    if not all(type(key) is str for each in named for key in each):
        return False
    constants = itertools.chain.from_iterable([*extra_args, *[each.values() for each in named]])
    may_be_nested = not ATOMS.issuperset(map(type, constants)) or any(each.linked_ids for each in arrays)
    codes = dict(zip(map(id, kinds.codes), kinds.codes, strict=True))
    return (
        all(map(_is_callable, codes.values()))
        and are_plain_ids([function.id for function in functions])
        and _are_right_costs([function.cost for function in kinds.first])
        and SPECIAL.isdisjoint(map(type, itertools.chain.from_iterable(args)))
        and _are_in_order(functions, may_be_nested)
        and not (arrays and any(True for _ in find_ambiguous_ids(functions)))
    )


def _are_right_settings(function: Function) -> bool:
    """Whether the settings of a function, all but its cost, are plain and right."""
    if not all(type(getattr(function, name)) in types for name, types in _TYPES.items()):
        return False
    if function.type not in (REGULAR, INLINE) or function.argument_inclusion not in _INCLUSIONS:
        return False
    if any(type(number) is int and number < 0 for number in (function.node, function.max_retries)):
        return False
    timeout, delay = function.timeout, function.retry_delay
    if not (timeout is None or 0 < timeout <= sys.float_info.max):
        return False
    if not (delay is None or 0 <= delay <= MAX_RETRY_DELAY_S):
        return False
    return not ((function.writable and function.type == INLINE) or find_wrong_retry_on(function.retry_on))


def _are_right_costs(costs: list[Mapping[str, object] | None]) -> bool:
    different = [cost for cost in {id(cost): cost for cost in costs}.values() if cost is not None]
    if not all(type(cost) is dict and _AMOUNTS.issuperset(map(type, cost.values())) for cost in different):
        return False
    try:
        # Equal ones once: a mapping for each function is as common as one for all.
        for cost in {tuple(cost.items()): cost for cost in different}.values():
            parse_cost(cost)
    except DAGError:
        return False
    return True


def _are_in_order(functions: list[Function], may_be_nested: bool) -> bool:
    """Whether each takes values of earlier ones only: then none is missing, none there twice, and there is no cycle."""
    earlier: set[Hashable] = {None}  # which is no id
    finder = ReferenceFinder()
    try:
        for function in functions:
            for reference in inputs_of(function, finder) if may_be_nested else function.args:
                if isinstance(reference, Handle):
                    reference = reference.id
                if reference not in earlier or reference is None:
                    return False
            if function.id in earlier:
                return False
            earlier.add(function.id)
    except TypeError:  # something cannot be hashed
        return False
    return not finder.has_special  # what they name is still to be looked at


def _shortened(problems: list[str]) -> list[str]:
    if len(problems) <= _MAX_NAMED * 5:
        return problems
    return problems[: _MAX_NAMED * 5] + [f"and {len(problems) - _MAX_NAMED * 5:,} more like these"]


def _duplicates(functions: list[Function]) -> list[str]:
    seen: set[Hashable] = set()
    twice: dict[Hashable, int] = {}
    for function in functions:
        if function.id in seen:
            twice[function.id] = twice.get(function.id, 1) + 1
        seen.add(function.id)
    return [f"the id {show(id)} is used by {count:,} functions" for id, count in twice.items()]


def _wrong_fields(function: Function) -> Iterable[str]:
    if type(function) is ArrayFunction:
        yield from find_wrong_array(function)
        function = with_single_options(function)
    if function.id is None:
        yield "None cannot be an id"
    if not _is_callable(function.code):
        yield f"code must be callable, not {show(function.code)}"
    yield from _wrong_containers(function)
    if not isinstance(function.type, str) or function.type not in (REGULAR, INLINE):
        hint = did_you_mean(function.type, (REGULAR, INLINE))
        yield f"type is {show(REGULAR)} or {show(INLINE)}, not {show(function.type)}{hint}"
    inclusion = function.argument_inclusion
    if not isinstance(inclusion, str) or inclusion not in (VARIADIC, AS_LIST):
        hint = did_you_mean(inclusion, _INCLUSIONS)
        yield f"argument_inclusion is {show(VARIADIC)} or {show(AS_LIST)}, not {show(inclusion)}{hint}"
    yield from _wrong_numbers(function)
    yield from find_wrong_surroundings(function)
    if wrong := find_wrong_retry_on(function.retry_on):
        yield wrong
    if function.cost is not None:
        try:
            parse_cost(function.cost)
        except DAGError as error:
            yield from (f"cost: {problem}" for problem in error.problems)
    node = function.node
    if node is not None and (isinstance(node, bool) or not isinstance(node, (int, str, Collocated))):
        yield f"node is a rank, a host name or collocated(id), not {show(node)}"
    elif isinstance(node, Collocated) and find_id_problem(node.id):
        yield f"node is collocated with {show(node.id)}, which is no id"
    elif isinstance(node, int) and node < 0:
        yield f"node={node} is no rank"


def _wrong_containers(function: Function) -> Iterable[str]:
    for name in ("args", "extra_args"):
        if not isinstance(getattr(function, name), (list, tuple)):
            yield f"{name} must be a list or tuple, not {show(getattr(function, name))}"
            return
    for reference in function.args:
        if input_id(reference) is not None and find_id_problem(input_id(reference)):
            yield f"args holds {show(reference)}, which is no id, handle or Argument; constants go into extra_args"
        if isinstance(reference, Argument):
            yield from _wrong_sides(reference)
    if not isinstance(function.kwargs, Mapping) or not all(isinstance(key, str) for key in function.kwargs):
        yield f"kwargs must be a mapping with string keys, not {show(function.kwargs)}"
    elif isinstance(function.extra_args, (list, tuple)):
        try:
            references = ReferenceFinder().find([*function.extra_args, *function.kwargs.values()])
        except TypeError as error:
            yield f"a constant is of a class that cannot be hashed ({error}), and so cannot be pickled"
            return
        for each in references:
            if find_id_problem(each.id):
                yield f"a constant holds {show(each)}, and {show(each.id)} {find_id_problem(each.id)}"
            if isinstance(each, Argument):
                yield from _wrong_sides(each)


def _wrong_sides(argument: Argument) -> Iterable[str]:
    for side in ("serialize", "deserialize"):
        code = getattr(argument, side)
        if code is not None and not _is_callable(code):
            yield f"Argument({show(argument.id)}): {side} must be callable, not {show(code)}"


def _is_callable(code: object) -> bool:
    """Handles have a method for calls, which refuses them."""
    return callable(code) and type(code) not in HANDLES


def _problem_of_id(function: Function) -> str:
    problem = "" if function.id is None else find_id_problem(function.id)
    return f"{show(function.id)} {problem}" if problem else ""


def _wrong_numbers(function: Function) -> Iterable[str]:
    def is_number(value: object) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    retries, timeout = function.max_retries, function.timeout
    if retries is not None and (not isinstance(retries, int) or isinstance(retries, bool) or retries < 0):
        yield f"max_retries must be a whole number from 0, or None, not {show(retries)}"
    if timeout is not None and not (is_number(timeout) and 0 < timeout <= sys.float_info.max):
        yield f"timeout must be a positive number of seconds, not {show(timeout)}"
    delay = function.retry_delay
    if delay is not None and not (is_number(delay) and 0 <= delay <= MAX_RETRY_DELAY_S):
        yield f"retry_delay must be a number of seconds from 0 to {MAX_RETRY_DELAY_S:.0f}, not {show(delay)}"
    if not isinstance(function.priority, int) or isinstance(function.priority, bool):
        yield f"priority must be a whole number, not {show(function.priority)}"
    if not isinstance(function.version, str):
        yield f"version must be a string, not {show(function.version)}"


def _make_numbers_plain(function: Function) -> None:
    """Put Python's own numbers into the place of numpy's: they go into messages, and are compared a million times."""
    for name in ("max_retries", "timeout", "retry_delay", "priority", "node", "writable"):
        setattr(function, name, plain(getattr(function, name)))


def _named(functions: list[Function]) -> str:
    more = f" and {len(functions) - 1:,} more" if len(functions) > 1 else ""
    return f"function{'s' if more else ''} {show(functions[0].id)}{more}"


def _missing(inputs: Mapping[Hashable, list[Hashable]], by_id: Mapping[Hashable, Function]) -> list[str]:
    wanted: dict[Hashable, list[Hashable]] = {}
    for id, references in inputs.items():
        for reference in references:
            if reference not in by_id:
                wanted.setdefault(reference, []).append(id)
    known = KnownNames(by_id)
    return [
        f"there is no function {show(id)}, which {', '.join(map(show, users[:3]))}"
        f"{f' and {len(users) - 3:,} more take' if len(users) > 3 else ' take' if len(users) > 1 else ' takes'}"
        f"{known.hint(id) if number < _MAX_NAMED else ''}"
        for number, (id, users) in enumerate(wanted.items())
    ]


def _bad_collocations(functions: list[Function], by_id: Mapping[Hashable, Function]) -> list[str]:
    problems = []
    known = KnownNames(by_id)
    for function in functions:
        if not isinstance(function.node, Collocated):
            continue
        other = by_id.get(function.node.id)
        if other is None:
            what = f"there is no {show(function.node.id)} to be collocated with"
            problems.append(f"function {show(function.id)}: {what}{known.hint(function.node.id)}")
        elif other is function:
            problems.append(f"function {show(function.id)} is collocated with itself")
        elif type(other) is ArrayFunction:
            remedy = "an array runs on many ranks: name one of them, or a host, or leave node out"
            problems.append(f"function {show(function.id)} is collocated with {show(other.id)}; {remedy}")
        elif INLINE in (other.type, function.type):
            problems.append(f"function {show(function.id)}: an inline function has no rank of its own to collocate")
    return problems


def _cycle(inputs: Mapping[Hashable, list[Hashable]]) -> list[str]:
    """Kahn's algorithm (1962) finds whether there is a cycle; networkx names one."""
    missing = {id: sum(reference in inputs for reference in references) for id, references in inputs.items()}
    consumers: dict[Hashable, list[Hashable]] = {id: [] for id in inputs}
    for id, references in inputs.items():
        for reference in references:
            if reference in inputs:
                consumers[reference].append(id)
    ready = [id for id, count in missing.items() if not count]
    for id in ready:
        for consumer in consumers[id]:
            missing[consumer] -= 1
            if not missing[consumer]:
                ready.append(consumer)
    if len(ready) == len(inputs):
        return []
    import networkx  # slow to import, and hardly ever needed

    rest = set(inputs).difference(ready)
    graph = networkx.DiGraph((reference, id) for id in rest for reference in inputs[id] if reference in rest)
    edges = networkx.find_cycle(graph)
    path = " -> ".join(show(edge[0]) for edge in edges)
    return [f"there is a cycle: {path} -> {show(edges[0][0])}"]
