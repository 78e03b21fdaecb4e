"""Collects the pieces of a plan that other processes will decode, each once, for a trial before the run.

A piece is decoded as in a call, with one exception: a template, into which a call puts values that do not exist yet, is
only looked through for what it imports. With anything else in the place of the values, code of the user might fail that
works in the run. Of an array the values that all elements share are tried, and the first element of each input.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from handoff_mpi.arrays import columns
from handoff_mpi.arrays.inputs import values_of
from handoff_mpi.dag.arrays import ArrayFunction
from handoff_mpi.dag.call_template import ELEMENTS, TEMPLATE, CallTemplate
from handoff_mpi.dag.faults import Faults
from handoff_mpi.dag.function import REFERENCES, Function
from handoff_mpi.dag.graph import DAG
from handoff_mpi.dag.ids import is_plain_id
from handoff_mpi.dag.parts import Part, find_innermost, list_parts, roots_of_code, roots_of_values
from handoff_mpi.dag.plan import Plan
from handoff_mpi.serialization import PICKLED, EncodingError, UnreadableId, decode, decode_code, dumps, nbytes_of

#: At most so much is decoded.
MAX_PIECES = 10_000
MAX_NBYTES = 64 * 1024 * 1024

_PLAIN_IDS = frozenset({str, int})

# Kinds of pieces.
CODE = 0  # of a function
VALUE = 1  # a payload
IMPORTS = 2  # a pickle, of which only the imports are tried
ID = 3  # a plain pickle
FIRST_ELEMENT = 4  # (the number of an input of an array, a piece of it)

#: The modes of templates that values are put into.
_WITH_VALUES = (TEMPLATE, ELEMENTS)
#: (one of the above, what is decoded, whether that happens before any function has been called); what is decoded later
#: may need a file that a function writes.
Piece: TypeAlias = "tuple[int, Any, bool]"


def decode_piece(piece: Piece) -> None:
    """Decode ``piece`` as a call would.

    Raises:
        Exception: any that it raises here.
    """
    kind, encoded, is_first = piece
    try:
        _decode(kind, encoded)
    except EncodingError as error:
        if is_first or not isinstance(error.__cause__, OSError):
            raise


def _decode(kind: int, encoded: Any) -> None:
    if kind == CODE:
        decode_code(encoded)
    elif kind == VALUE:
        decode(encoded)
    elif kind == FIRST_ELEMENT:
        values_of(encoded[1], 0, 1)
    elif kind == ID:
        if isinstance(pickle.loads(encoded), UnreadableId):
            raise EncodingError("its class cannot be loaded")
    else:
        _try_imports(encoded)


def _try_imports(pickled: bytes) -> None:
    unpickler = _ImportingUnpickler(io.BytesIO(pickled))
    try:
        unpickler.load()
    except Exception:
        if unpickler.error is not None:
            raise unpickler.error from None
        # What is not built as a class would build it may fail here; that says nothing.


class _ImportingUnpickler(pickle.Unpickler):
    """Imports all that a pickle names, and builds nothing of it."""

    error: Exception | None = None

    def find_class(self, module: str, name: str) -> object:
        try:
            super().find_class(module, name)
        except Exception as error:
            self.error = error
            raise
        return _Anything


class _Anything:
    """Can be built and filled as any object can."""

    def __new__(cls, *args: object, **kwargs: object) -> _Anything:
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __call__(self, *args: object, **kwargs: object) -> _Anything:
        return self

    def __setitem__(self, key: object, value: object) -> None:
        pass

    __setstate__ = append = extend = add = update = __call__


@dataclass(slots=True)
class Pieces:
    """A piece to decode, and the functions that need it.

    Attributes:
        pieces: what is decoded.
        tasks: for each the number of the first function that needs it, and of how many do.
        left_out: the number of further ones.
    """

    pieces: list[Piece]
    tasks: list[tuple[int, int]]
    left_out: int = 0


def collect_pieces(plan: Plan) -> Pieces:
    """Return what other processes will decode of ``plan``: codes first, then ids, and the smallest constants first."""
    by_codes: dict[tuple[int, ...], _Use] = {}
    constants: dict[object, tuple[int, object, _Use]] = {}
    for task, (call_template, sources) in enumerate(zip(plan.call_templates, plan.sources, strict=True)):
        is_first = not sources
        use = by_codes.get(call_template[0])
        if use is None:
            use = by_codes[call_template[0]] = _Use(task)
        use.count += 1
        use.is_first |= is_first
        constant = call_template[2]
        if call_template[3] or (constant is not None and (call_template[1] in _WITH_VALUES or constant[0] == PICKLED)):
            for key, kind, encoded in _constants(plan, call_template, is_first):
                constants.setdefault(key, (kind, encoded, _Use(task)))[2].add(1, is_first)
    in_order = sorted(constants.values(), key=lambda each: _nbytes(*each[:2]))
    return _bounded([*_codes(plan, by_codes), *_ids(plan), *_first_elements(plan), *in_order])


@dataclass(slots=True)
class _Use:
    """The first function that needs a piece, how many do, and whether one takes no values, and may be called first."""

    task: int
    count: int = 0
    is_first: bool = False

    def add(self, count: int, is_first: bool) -> None:
        self.count += count
        self.is_first |= is_first


def _constants(plan: Plan, call_template: CallTemplate, is_first: bool) -> Iterator[tuple[Any, int, Any]]:
    """Yield of what is pickled of the constants in ``call_template``: what tells it from others, its kind, itself."""
    _, mode, constants, large, *_ = call_template
    if mode == ELEMENTS and constants is not None and type(constants[1]) is int:
        return  # it takes nothing but its elements
    if mode in _WITH_VALUES and constants is not None:
        inlines, call = constants[1]
        if mode == ELEMENTS and is_first and not inlines and not large:
            yield call, VALUE, (PICKLED, call)  # all values in it are there
            return
        yield from ((blob, IMPORTS, blob) for blob in (call, *(blob for _, blob in inlines)))
    elif constants is not None and constants[0] == PICKLED:
        yield constants[1], VALUE, constants
    yield from ((number, VALUE, plan.constants[number]) for number in large)


def _codes(plan: Plan, by_codes: Mapping[tuple[int, ...], _Use]) -> list[tuple[int, object, _Use]]:
    found: dict[int, tuple[int, object, _Use]] = {}
    for codes, use in by_codes.items():
        for number in codes:
            found.setdefault(number, (CODE, plan.codes[number], _Use(use.task)))[2].add(use.count, use.is_first)
    return list(found.values())


def _ids(plan: Plan) -> Iterator[tuple[int, object, _Use]]:
    """Those that are plain are not even pickled by themselves."""
    for task, id in enumerate(plan.ids):
        if type(id) not in _PLAIN_IDS and not is_plain_id(id):
            yield ID, pickle.dumps(plan.sent_id(task), protocol=5), _Use(task, 1, is_first=True)


def _first_elements(plan: Plan) -> Iterator[tuple[int, Any, _Use]]:
    for task, array in plan.arrays.items():
        if array.count:
            use = _Use(task, 1, not plan.sources[task])
            yield from (
                (FIRST_ELEMENT, (number, elements.piece(0, 1)), use)
                for number, elements in enumerate(array.elements)
                if not elements.array_ids
            )


def _bounded(found: Sequence[tuple[int, Any, _Use]]) -> Pieces:
    pieces, nbytes = Pieces([], []), 0
    for kind, encoded, use in found:
        nbytes += _nbytes(kind, encoded)
        if len(pieces.pieces) == MAX_PIECES or nbytes > MAX_NBYTES:
            pieces.left_out = len(found) - len(pieces.pieces)
            break
        pieces.pieces.append((kind, encoded, use.is_first))
        pieces.tasks.append((use.task, use.count))
    return pieces


def _nbytes(kind: int, encoded: Any) -> int:
    if kind == FIRST_ELEMENT:
        return sum(map(columns.nbytes_of, encoded[1]))
    return nbytes_of(encoded) if kind == VALUE else len(encoded)


# -- what is at fault ---------------------------------------------------------------------------------

#: So many faults are looked into.
MAX_EXPLAINED = 20


def explain(
    dag: DAG,
    plan: Plan,
    pieces: Pieces,
    errors: Mapping[int, str],
    decode_elsewhere: Callable[[list[Piece]], Mapping[int, str]],
) -> Faults:
    """Return the faults that ``errors`` are, with the innermost parts that cause them.

    Args:
        errors: number of a piece to why it cannot be decoded.
        decode_elsewhere: tries pieces where the first ones have failed.
    """
    groups: dict[object, list[int]] = {}
    for number, why in errors.items():
        groups.setdefault((why, *_kind_of(dag, plan, pieces, number)), []).append(number)
    firsts = [group[0] for group in groups.values()]
    roots = {number: _roots(dag, plan, pieces, number) for number in firsts[:MAX_EXPLAINED]}
    parts, tried = _list_pieces(pieces, roots)
    wrong = decode_elsewhere(tried) if tried else {}
    faults = Faults()
    for number, group in zip(firsts, groups.values(), strict=True):
        at_fault = {id(part) for (owner, position), part in parts.items() if owner == number and position in wrong}
        place = find_innermost(roots.get(number, ()), lambda part, at_fault=at_fault: id(part) in at_fault)  # type: ignore[misc]
        what = "its id cannot" if pieces.pieces[number][0] == ID else "cannot"
        count = sum(pieces.tasks[each][1] for each in group)
        faults.add(plan.ids[pieces.tasks[number][0]], f"{what} be sent: {errors[number]}", count, place)
    return faults


def _kind_of(dag: DAG, plan: Plan, pieces: Pieces, number: int) -> tuple[object, ...]:
    """Return what pieces share that are taken to be at fault in the same place."""
    function = dag[plan.ids[pieces.tasks[number][0]]]
    types = (*map(type, function.extra_args), *map(type, function.kwargs.values()))
    return pieces.pieces[number][0], id(function.code), types, tuple(function.kwargs)


def _list_pieces(
    pieces: Pieces, roots: Mapping[int, Sequence[Part]]
) -> tuple[dict[tuple[int, int], object], list[Piece]]:
    """Return the parts of ``roots``, by whose they are and the place of the piece of each; and those pieces."""
    parts: dict[tuple[int, int], object] = {}
    tried: list[Piece] = []
    for number, its_roots in roots.items():
        kind, _, is_first = pieces.pieces[number]
        for part in list_parts(its_roots):
            piece = _piece_of(kind, part, is_first)
            if piece is not None:
                parts[number, len(tried)] = part
                tried.append(piece)
    return parts, tried


def _roots(dag: DAG, plan: Plan, pieces: Pieces, number: int) -> list[Part]:
    kind, task = pieces.pieces[number][0], pieces.tasks[number][0]
    if kind == ID:
        return []
    functions = plan.with_inlines(dag[plan.ids[task]])
    if kind == FIRST_ELEMENT:
        return _roots_of_element(functions[0], pieces.pieces[number][1][0])
    return roots_of_code(functions) if kind == CODE else roots_of_values(functions)


def _roots_of_element(array: Function, number: int) -> list[Part]:
    assert isinstance(array, ArrayFunction)
    elements = array.elements[number]
    return [(f"element 0 of {elements.name}", elements[0])]


def _piece_of(kind: int, part: Any, is_first: bool) -> Piece | None:
    try:
        blob = dumps(part, dict.fromkeys(REFERENCES, lambda _: (int, ())))
    except EncodingError:
        return None
    return (IMPORTS, blob, is_first) if kind == IMPORTS else (VALUE, (PICKLED, blob), is_first)
