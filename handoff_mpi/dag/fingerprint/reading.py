"""Takes the fingerprints of the functions of a DAG: reads each, and combines it with those of its inputs."""

from __future__ import annotations

import marshal
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress, repeat
from operator import and_, itemgetter
from typing import Any, TypeAlias

from handoff_mpi.arrays.digests import NO_DIGEST, has_all
from handoff_mpi.arrays.element_input import ElementInput
from handoff_mpi.arrays.linked_inputs import LinkedInput
from handoff_mpi.dag.arrays import ArrayFunction
from handoff_mpi.dag.call_template import Placeholder
from handoff_mpi.dag.fingerprint.elements import ObjectDigests
from handoff_mpi.dag.fingerprint.graph import Graph
from handoff_mpi.dag.fingerprint.nodes import Unfit
from handoff_mpi.dag.fingerprint.values import (
    all_hashed,
    are_leaves,
    describe_error,
    hashed,
    is_leaf,
    new_state,
    shown_value,
)
from handoff_mpi.dag.function import Argument, Function, input_id
from handoff_mpi.dag.handle_elements import HandleInput, references_of
from handoff_mpi.dag.kinds import Kinds
from handoff_mpi.dag.references import SPECIAL, ReferenceFinder
from handoff_mpi.dag.selections import elements_of, is_of_elements, skips_missing
from handoff_mpi.dag.surroundings import written_surroundings

#: Changed whenever the rules change, so that older fingerprints match nothing.
_RULES = 1
#: Elements of an array, None for all, and whether those without values are left out.
_Taken: TypeAlias = "tuple[int | range | None, bool]"
_WHOLE: _Taken = (None, False)
#: What comes before an id and constants that are plain.
_PLAIN = b"plain"
#: So many functions are read at a time, column by column.
_BATCH = 2_000
#: Id and fingerprint of a function to the fingerprint that it goes by.
Settle: TypeAlias = "Callable[[Hashable, bytes], bytes]"


class Fingerprints:
    """The fingerprints of the functions of a DAG.

    Attributes:
        notes: why a function has none, by id.
        visited: how many objects, code objects and modules were looked at, each once.
        codes: the digests of the codes of each name, in order.
        python: Python's major and minor version.
    """

    __slots__ = ("_of", "codes", "notes", "python", "visited")

    def __init__(
        self,
        of: dict[Hashable, bytes],
        notes: dict[Hashable, str],
        visited: int,
        codes: dict[str, list[bytes]] | None = None,
    ) -> None:
        self._of = of
        self.notes = notes
        self.visited = visited
        self.codes = {} if codes is None else codes
        self.python = ".".join(map(str, sys.version_info[:2]))

    def of(self, id: Hashable) -> bytes | None:
        """Return the fingerprint of the function ``id``, 16 bytes, or None if it has none."""
        try:
            return self._of.get(id)
        except Exception:  # an id that cannot be hashed or compared names no function
            return None


def fingerprints(
    functions: Iterable[Function], settle: Settle | None = None, kinds: Kinds | None = None
) -> Fingerprints:
    """Return the fingerprints of ``functions``, which may come in any order.

    Time and memory are linear in the functions and what they refer to. Between calls nothing is kept but what files of
    modules consist of, which are read each time.

    Args:
        settle: returns the fingerprint that a function goes by instead of its own, also where others take its value.
        kinds: of the functions.
    """
    functions = list(functions)
    kinds = kinds or Kinds(functions)
    reader = _Reader()
    plain = reader.read_plain(functions, kinds, settle)
    readings: list[_Reading] = []
    number_of: dict[Hashable, int] = {}
    others = [] if len(plain) == len(functions) else [*zip(functions, kinds.of, strict=True)]
    for function, kind in others:
        try:
            if function.id in plain:
                continue
            number = number_of.setdefault(function.id, len(readings))
        except Exception:  # no one can ask for it
            continue
        if number < len(readings):
            readings[number] = _Reading(function.id, note="its id is used by several functions")
        else:
            readings.append(reader.read(function, kind))
    if readings:
        _link(readings, number_of, plain)
        _combine(readings, settle)
        plain.update((reading.id, reading.fingerprint) for reading in readings if reading.fingerprint is not None)
    reader.graph.clear()
    notes = {reading.id: reading.note for reading in readings if reading.note}
    return Fingerprints(plain, notes, reader.graph.visited, reader.codes())


@dataclass(slots=True)
class _Reading:
    """The content of one function, without its inputs.

    Attributes:
        content: everything but its inputs' fingerprints.
        inputs: whose values it takes: ids, then (by :func:`_link`) positions in the list of readings, or fingerprints.
        taken: of each input the elements that it takes, if it is an array; empty if it takes all inputs whole.
        elements: of an array, whose value depends on them, while its fingerprint does not.
        link_count: how many of the inputs, behind those of the function, are arrays whose elements it takes one by one.
        linked: these.
        handle_count: how many of the inputs, the last ones, are values of single elements.
    """

    id: Hashable
    content: bytes = b""
    inputs: Sequence[Any] = ()
    taken: Sequence[_Taken] = ()
    note: str = ""
    fingerprint: bytes | None = None
    elements: Sequence[ElementInput] = ()
    link_count: int = 0
    linked: Sequence[_Reading] = ()
    handle_count: int = 0
    _of_value: bytes | None = None

    @property
    def of_value(self) -> bytes | None:
        """The fingerprint of its value; None if there is none."""
        if not self.elements or self.fingerprint is None:
            return self.fingerprint
        if self._of_value is None:
            digest_object = ObjectDigests()
            digests = [each.value_digests(digest_object) for each in self.elements]
            of_linked = [each.of_value for each in self.linked]
            if all(map(has_all, digests)) and None not in of_linked:
                self._of_value = hashed(
                    self.fingerprint + marshal.dumps((digests, of_linked) if of_linked else digests, 2)
                )
        return self._of_value

    def of_taken(self, taken: _Taken) -> bytes | None:
        """The fingerprint of the values of some elements; None if there is none. Others do not count."""
        if taken == _WHOLE or not self.elements or self.fingerprint is None:
            return self.of_value
        elements, skips_missing = taken
        if elements is None:
            elements = range(len(self.elements[0]))
        if isinstance(elements, int):
            written: tuple[Any, ...] = (elements, skips_missing)
            elements = range(elements, elements + 1)
        else:
            written = (elements.start, elements.stop, elements.step, skips_missing)
        digests = [self._digest_of(each, elements) for each in self.elements]
        if elements and NO_DIGEST in digests:
            return None
        return hashed(b"".join((self.fingerprint, marshal.dumps(written, 2), *digests)))

    def _digest_of(self, input: ElementInput, elements: range) -> bytes:
        """Return the digest of some elements of an input, zeros if there is none."""
        if isinstance(input, LinkedInput):
            source = next(each for each in self.linked if each.id == input.id)
            return source.of_taken((input.taken(elements), False)) or NO_DIGEST
        return input.digest_of(elements, ObjectDigests())


def _taken_by(references: list[Any]) -> Sequence[_Taken]:
    if not any(map(is_of_elements, references)):
        return ()
    return [(elements_of(reference), skips_missing(reference)) for reference in references]


def _link(readings: list[_Reading], number_of: dict[Hashable, int], plain: dict[Hashable, bytes]) -> None:
    known: dict[Hashable, int | bytes] = {**number_of, **plain}
    for reading in readings:
        if not reading.inputs:
            continue
        ids, reading.inputs = reading.inputs, ()
        try:
            numbers = [known.get(id, -1) for id in ids]
        except Exception as error:
            reading.note = f"an id that it takes cannot be looked up: {describe_error(error)}"
            continue
        if -1 in numbers:
            reading.note = f"there is no function {shown_value(ids[numbers.index(-1)])}, which it takes"
        else:
            reading.inputs = numbers


def _combine(readings: list[_Reading], settle: Settle | None) -> None:
    """Go through the DAG from its sources (Kahn 1962) and give each function its fingerprint or its note."""
    missing = [sum(type(source) is int for source in reading.inputs) for reading in readings]
    consumers: dict[int, list[int]] = {}
    for number in compress(range(len(readings)), missing):
        for source in filter(_is_position, readings[number].inputs):
            consumers.setdefault(source, []).append(number)
    ready = [number for number, count in enumerate(missing) if not count]
    roots: dict[int, str] = {}  # functions without a fingerprint: the one that it starts from
    for number in ready:
        _finish(readings, number, roots)
        reading = readings[number]
        if settle is not None and reading.fingerprint is not None:
            reading.fingerprint = settle(reading.id, reading.fingerprint)
        if number in consumers:
            for consumer in consumers[number]:
                missing[consumer] -= 1
                if not missing[consumer]:
                    ready.append(consumer)
    if len(ready) < len(readings):
        for reading, count in zip(readings, missing, strict=True):
            if count:
                reading.note = reading.note or "it is in a cycle, or behind one"


def _mark_handles(readings: list[_Reading], array: _Reading) -> None:
    """Tell the inputs of an array the fingerprints of the values that its elements are, and forget these as inputs."""
    first = len(array.inputs) - array.handle_count
    array.inputs, sources = array.inputs[:first], array.inputs[first:]
    handles = references_of(array.elements)
    for source, (position, index, reference) in zip(sources, handles, strict=True):
        elements = array.elements[position]
        assert isinstance(elements, HandleInput)
        taken = elements_of(reference), skips_missing(reference)
        elements.marks[index] = source if type(source) is bytes else readings[source].of_taken(taken)


def _finish(readings: list[_Reading], number: int, roots: dict[int, str]) -> None:
    reading = readings[number]
    if reading.handle_count:
        _mark_handles(readings, reading)
    if reading.note:
        roots[number] = shown_value(reading.id)
        return
    if not reading.inputs:
        reading.fingerprint = hashed(reading.content)
        return
    plain, linked = reading.inputs[: len(reading.inputs) - reading.link_count], reading.inputs[-reading.link_count :]
    taken = reading.taken or repeat(_WHOLE)
    sources = [
        source if type(source) is bytes else readings[source].of_taken(each)
        for source, each in zip(plain, taken, strict=False)
    ]
    if reading.link_count:
        reading.linked = [readings[source] for source in linked]
        sources += [each.fingerprint for each in reading.linked]
    if None in sources:
        source = reading.inputs[sources.index(None)]
        root = roots[number] = roots.get(source) or f"the elements of {shown_value(readings[source].id)}"
        reading.note = f"it depends on {root}, which has no fingerprint"
        return
    reading.fingerprint = hashed(b"".join((reading.content, *sources)))


def _combine_plain(
    ids: Sequence[Hashable],
    contents: Iterable[bytes],
    args: Sequence[Sequence[Any]],
    settle: Settle | None,
    found: dict[Hashable, bytes],
) -> None:
    """Put the fingerprints of functions into ``found``, in their order; those are left out of which an input has none
    by then.
    """
    if settle is None and not any(args):
        found.update(zip(ids, all_hashed(contents), strict=True))
        return
    for id, content, references in zip(ids, contents, args, strict=True):
        state = new_state()
        state.update(content)
        try:
            for each in references:
                state.update(found[input_id(each)])
        except Exception:  # an input comes later, is not plain or is not there, or its id cannot be looked up
            continue
        fingerprint = state.digest()
        found[id] = fingerprint if settle is None else settle(id, fingerprint)


def _is_position(source: object) -> bool:
    return type(source) is int


class _Reader:
    """Reads functions, one by one, or those together that are plain."""

    def __init__(self) -> None:
        self.graph = Graph()
        self._heads: dict[tuple[int, str, str], tuple[object, bytes]] = {}
        self._shared: dict[tuple[int, int], tuple[bytes, bytes]] = {}
        self._names: dict[str, set[bytes]] = {}
        self._finder = ReferenceFinder()

    def read_plain(self, functions: Sequence[Function], kinds: Kinds, settle: Settle | None) -> dict[Hashable, bytes]:
        """Return the fingerprints of functions that are as plain as most are, by id, if they come behind their inputs.

        What they consist of is read column by column, in loops that are not Python's, and some thousands of them at a
        time, so that the columns take little memory. Their fingerprints are those that :meth:`read` leads to.
        """
        found: dict[Hashable, bytes] = {}
        try:
            if len({function.id for function in functions}) < len(functions):
                return found
        except Exception:  # the functions are asked one by one whose fault it is
            return found
        for first in range(0, len(functions), _BATCH):
            batch = slice(first, first + _BATCH)
            try:
                columns = self._plain_columns(functions[batch], kinds, batch)
            except Exception:  # as above
                continue
            _combine_plain(*columns, settle, found)
        return found

    def _plain_columns(
        self, functions: Sequence[Function], kinds: Kinds, batch: slice
    ) -> tuple[list[Hashable], Iterable[bytes], Sequence[Sequence[Any]]]:
        """Return of those ``functions`` that are plain the ids, the contents and the inputs; see :meth:`read_plain`."""
        ids = [function.id for function in functions]
        named = [(*each, *each.values()) if each else () for each in kinds.kwargs[batch]]
        keys: Sequence[Any] = [*zip(map(id, kinds.codes[batch]), kinds.of[batch], strict=True)]
        args: Sequence[Sequence[Any]] = kinds.args[batch]
        extra_args = [*map(tuple, kinds.extra_args[batch])]
        columns: tuple[list[Any], ...] = ids, extra_args, named
        are_plain = [type(function) is Function for function in functions]
        if not SPECIAL.isdisjoint(map(type, chain.from_iterable(args))):
            are_plain = [*map(and_, are_plain, [SPECIAL.isdisjoint(map(type, each)) for each in args])]
        for column in columns:
            if not all(leaves := are_leaves(column)):
                are_plain = [*map(and_, are_plain, leaves)]
        if not all(are_plain):
            whole: tuple[Sequence[Any], ...] = *columns, keys, args, functions
            ids, extra_args, named, keys, args, functions = ([*compress(column, are_plain)] for column in whole)
        are_alike = bool(keys) and keys.count(keys[0]) == len(keys)  # as most are
        of_key = dict(zip(keys[:1] if are_alike else keys, functions, strict=False))
        shared = {key: self._share(function, key[1]) for key, function in of_key.items()}
        values: Iterable[Any] = zip(ids, map(len, args), extra_args, named, strict=True)
        plain = [*map(marshal.dumps, values, repeat(2))]
        before = {length: (len(_PLAIN) + length).to_bytes(8, "little") + _PLAIN for length in set(map(len, plain))}
        ends = [*shared.values()] * len(keys) if are_alike else [*map(shared.__getitem__, keys)]
        bodies = map(before.__getitem__, map(len, plain)), plain
        parts = zip(map(itemgetter(0), ends), *bodies, map(itemgetter(1), ends), strict=True)
        return ids, map(b"".join, parts), args

    def read(self, function: Function, kind: int) -> _Reading:
        """Return what ``function``, of that kind, consists of, or why that is unknown."""
        try:
            inputs = [input_id(reference) for reference in function.args] if function.args else []
            references: Sequence[object] = ()
            body = self._plain_body(function)
            if body is None:
                body = b"other" + hashed(b"".join(self._digests(function)))
                references = self._finder.find([*function.extra_args, *function.kwargs.values()])
                inputs += (reference.id for reference in references)
            taken = _taken_by([*function.args, *references])
            head, end = self._shared.get((id(function.code), kind)) or self._share(function, kind)
            content = b"".join((head, len(body).to_bytes(8, "little"), body, end))
            elements = function.elements if isinstance(function, ArrayFunction) else ()
            linked = function.linked_ids
            handles = [reference.id for _, _, reference in references_of(elements)]
            inputs += [*linked, *handles]
            found = _Reading(function.id, content, inputs, taken, elements=elements)
            found.link_count, found.handle_count = len(linked), len(handles)
            return found
        except Unfit as unfit:
            return _Reading(function.id, note=str(unfit))
        except Exception as error:
            return _Reading(function.id, note=describe_error(error))

    def _share(self, function: Function, kind: int) -> tuple[bytes, bytes]:
        """Return what functions of one code and kind share: what is put before the rest, and what behind it."""
        shared = self._shared[id(function.code), kind] = self._head(function), written_surroundings(function)
        return shared

    def _head(self, function: Function) -> bytes:
        """Functions of one code share it."""
        code, version, inclusion = function.code, function.version, function.argument_inclusion
        if not (callable(code) and type(version) is str and type(inclusion) is str):
            raise Unfit("its code, version or argument_inclusion is of a wrong type")
        key = (id(code), version, inclusion)
        known = self._heads.get(key)
        if known is None:
            rules = marshal.dumps((_RULES, sys.implementation.name, *sys.version_info[:2], version, inclusion), 2)
            known = self._heads[key] = code, hashed(self.graph.digest(code) + rules)
            self._names.setdefault(function.name, set()).add(known[1])
        return known[1]

    def codes(self) -> dict[str, list[bytes]]:
        """Return the digests of the codes of each name."""
        return {name: sorted(digests) for name, digests in self._names.items()}

    def _plain_body(self, function: Function) -> bytes | None:
        """Id and constants at once, if they are as plain as they mostly are."""
        extra: object = tuple(function.extra_args)
        named: object = (*function.kwargs, *function.kwargs.values()) if function.kwargs else ()
        if not (is_leaf(function.id) and (not extra or is_leaf(extra)) and (not named or is_leaf(named))):
            return None
        for reference in function.args:
            if isinstance(reference, Argument):
                return None
        plain: Any = (function.id, len(function.args), extra, named)
        return _PLAIN + marshal.dumps(plain, 2)

    def _digests(self, function: Function) -> Iterator[bytes]:
        yield marshal.dumps((len(function.args), len(function.extra_args), list(function.kwargs)), 2)
        yield self._digest("its id", function.id)
        for position, reference in enumerate(function.args):
            if isinstance(reference, Argument):
                yield position.to_bytes(8, "little")
                yield self._digest(f"serialize of args[{position}]", reference.serialize)
                yield self._digest(f"deserialize of args[{position}]", reference.deserialize)
        for position, value in enumerate(function.extra_args):
            if type(value) is Placeholder:
                yield b"element %d" % value.number
                continue
            yield self._digest(f"extra_args[{position}]", value)
        for key, value in function.kwargs.items():
            yield self._digest(f"kwargs[{key!r}]", value)

    def _digest(self, what: str, value: object) -> bytes:
        try:
            return self.graph.digest(value)
        except Unfit as unfit:
            raise Unfit(f"{what}: {unfit}") from None
