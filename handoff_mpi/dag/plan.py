"""A DAG with its ids turned into task numbers, ready to be scheduled and sent.

``Plan.add`` freezes functions: it looks through inline ones, encodes code and constants once, and gives the
scheduler what it needs to know of each task (:class:`~handoff_mpi.dag.task_spec.TaskSpec`), and the ranks what they
need to call it (:class:`Plan`'s tables). More functions can be added during a run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import compress
from types import GeneratorType
from typing import Any

from handoff_mpi.arrays.element_input import ElementInput
from handoff_mpi.by_value import one_state
from handoff_mpi.dag.arrays import ArrayFunction
from handoff_mpi.dag.call_template import VALUES, CallTemplate, PlainTemplates
from handoff_mpi.dag.collocation import groups_of
from handoff_mpi.dag.encoded_tables import EncodedTables
from handoff_mpi.dag.faults import Faults, without_addresses
from handoff_mpi.dag.frozen_array import FrozenArray
from handoff_mpi.dag.function import AS_LIST, REFERENCES, Argument, Collocated, Function, input_id
from handoff_mpi.dag.function import INLINE as INLINE_TYPE
from handoff_mpi.dag.handle import UnresolvedHandle
from handoff_mpi.dag.handle_elements import encode_elements, references_of
from handoff_mpi.dag.ids import is_plain_id
from handoff_mpi.dag.kinds import Kinds, are_called_alike
from handoff_mpi.dag.parts import find_innermost, roots_of_code, roots_of_values
from handoff_mpi.dag.references import SPECIAL, hidden_references, inline_ids
from handoff_mpi.dag.retry_on import names_of
from handoff_mpi.dag.selections import SelectionTable
from handoff_mpi.dag.surroundings import Surroundings, surroundings_of
from handoff_mpi.dag.task_spec import ArraySpec, TaskSpec
from handoff_mpi.dag.template_builder import Codec, TemplateBuilder
from handoff_mpi.errors import DAGError
from handoff_mpi.formatting import id_text, one_line, show
from handoff_mpi.resources import Amounts, parse_cost
from handoff_mpi.serialization import CarriedId, EncodingError, reason_of, sendable_id, why_not_encodable
from handoff_mpi.suggestions import KnownNames

#: Stands in the table of functions for a lease of an array, of which the scheduler has the specification.
_OF_A_LEASE = TaskSpec((), parse_cost(None))
#: What is pickled of constants where it does not matter what values they get.
_WITHOUT_REFERENCES: dict[type, Callable[[object], Any]] = dict.fromkeys(REFERENCES, lambda reference: (int, ()))


class _Settings:
    """The common settings of functions of one kind.

    Attributes:
        shared_specs: those of tasks without inputs, by (group, keep, code, stays).
    """

    __slots__ = ("_before", "_behind", "is_inline", "shared_specs", "surroundings", "takes_list")

    def __init__(self, plan: Plan, function: Function) -> None:
        node = function.node
        pin = None if isinstance(node, Collocated) else node
        cost = plan.cost_of(function)
        self._before = (cost, function.priority, function.max_retries, function.timeout, pin)
        self._behind = (names_of(function.retry_on), function.retry_delay)
        self.is_inline = function.type == INLINE_TYPE
        self.takes_list = function.argument_inclusion == AS_LIST
        self.surroundings = plan.surroundings_of(function)
        self.shared_specs: dict[tuple[int | None, bool, int, bool], TaskSpec] = {}

    def spec(
        self,
        inputs: tuple[int, ...],
        group: int | None,
        keep: bool,
        code: int,
        stays: bool,
        array: ArraySpec | None = None,
        takes: tuple[int, ...] | None = None,
    ) -> TaskSpec:
        """Return the specification of a task of this kind."""
        return TaskSpec(inputs, *self._before, group, keep, code, stays, *self._behind, array, takes)


class Plan:
    """The tables of one run, indexed by task number.

    Attributes:
        ids: the functions' ids.
        call_templates: how to call them.
        sources: for each task its inputs ``(task number, codec or None)`` in the order of the call's values.
        codes: the encoded callables.
        code_names: their names, for people.
        constants: payloads of large constants.
        number_of: id to task number; inline functions have none.
        arrays: the elements of those that are arrays, by task number.
        selections: the elements of arrays that functions take; in ``sources`` they have numbers as tasks have.

    Args:
        keep: the ids of values that are kept, or "all".
        directory: what a relative ``cwd`` of a function starts from.
    """

    def __init__(self, keep: str | Collection[Hashable] = (), directory: str = ".") -> None:
        self._directory = directory
        self.ids: list[Hashable] = []
        self._odd_ids: dict[int, CarriedId] = {}
        self.call_templates: list[CallTemplate] = []
        self.sources: list[tuple[tuple[int, Codec | None], ...]] = []
        self.specs: list[TaskSpec] = []
        self._tables = EncodedTables()
        self.codes = self._tables.codes
        self.code_names = self._tables.code_names
        self.constants = self._tables.constants
        self._code_numbers = self._tables.code_numbers
        self.number_of: dict[Hashable, int] = {}
        self.arrays: dict[int, FrozenArray] = {}
        self.selections = SelectionTable(self.arrays)
        self._keep_all = keep == "all"
        self._keep = frozenset(() if isinstance(keep, str) else keep)
        self._inline: dict[Hashable, Function] = {}
        self._costs: dict[object, Amounts] = {}
        self._plain_templates = PlainTemplates()
        self._bare_sources: list[tuple[int, None] | None] = []

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def call_count(self) -> int:
        """How many calls its functions are, each element of an array one, and a windowed array one."""
        return len(self.ids) + sum(array.count - 1 for array in self.arrays.values() if array.window is None)

    @property
    def folds_of_windowed(self) -> set[int]:
        """The arrays that fold values whose number is known while the run continues."""
        return {number for number, each in self.arrays.items() if each.window is not None and each.tree is not None}

    def add(self, functions: Iterable[Function], kinds: Kinds | None = None) -> list[TaskSpec]:
        """Freeze ``functions``, which may refer to earlier ones; return their specs in task order.

        Args:
            kinds: of the functions.

        Raises:
            DAGError: naming every function whose code or constants cannot be pickled, and every id of
                ``keep`` that does not exist.
        """
        functions = list(functions)
        first = len(self.ids)
        found = kinds or Kinds(functions)
        settings = [_Settings(self, each) for each in found.first]
        regular, settings_of = functions, [settings[kind] for kind in found.of]
        if any(each.is_inline for each in settings):
            of_regular = [not each.is_inline for each in settings_of]
            self._inline.update((function.id, function) for function in functions if function.type == INLINE_TYPE)
            regular = [*compress(functions, of_regular)]
            settings_of = [*compress(settings_of, of_regular)]
        ids = [function.id for function in regular]
        self.number_of.update(zip(ids, itertools.count(first)))
        self.ids += ids
        for function in [each for each in regular if type(each) is ArrayFunction]:
            self.arrays[self.number_of[function.id]] = function.freeze(self.number_of)
        self.selections.begin(len(self.ids))
        self._bare_sources += [None] * (len(self.ids) - first)
        problems = list(self._make_ids_sendable(first))
        with one_state():
            problems += self._freeze_all(regular, settings_of)
        unknown = self._keep - self.number_of.keys()
        known = KnownNames(self.number_of)
        problems += [
            f"keep names {show(id)}, which is not the id of a function whose value can be kept{known.hint(id)}"
            for id in unknown
        ]
        if problems:
            raise DAGError(problems)
        self.specs += self._specs(first, settings_of, groups_of(regular, self.number_of))
        return self.specs[first:]

    def add_array_like(
        self, like: int, id: Hashable, code: int, elements: tuple[ElementInput, ...], spec: ArraySpec
    ) -> TaskSpec:
        """Freeze an array that differs from an earlier one in its code and its elements alone; return its spec.

        Args:
            like: the number of that one, to whose elements nothing is common but what its call template has.
            id: of the new one, a plain one that is free.
            code: the number of its code, see :meth:`add_code`.
            elements: as many inputs as that one has, encoded.
            spec: the facts that the scheduler has of it as an array.
        """
        number = self.number_of[id] = len(self.ids)
        known = self.specs[like]
        found = known.with_array(spec, code, known.keep)
        self.ids.append(id)
        self.call_templates.append(((code,), *self.call_templates[like][1:]))
        self.sources.append(self.sources[like])
        self.specs.append(found)
        self.arrays[number] = FrozenArray(elements, spec.count, spec.chunk, spec.max_failures)
        self._bare_sources.append(None)
        return found

    def skip_to(self, number: int) -> None:
        """Have the next function get this number: the scheduler has given those before it to leases of arrays."""
        more = number - len(self.ids)
        self.ids += [None] * more
        self.call_templates += [((0,), VALUES, None, ())] * more
        self.sources += [()] * more
        self.specs += [_OF_A_LEASE] * more
        self._bare_sources += [None] * more

    def add_code(self, blob: bytes, name: str) -> int:
        """Return the number of a code that is encoded already."""
        self.codes.append(blob)
        self.code_names.append(name)
        return len(self.codes) - 1

    def _make_ids_sendable(self, first: int) -> Iterable[str]:
        """Prepare the ids of tasks from ``first`` on for other processes; yield what is wrong with them."""
        faults = Faults("the id")
        for number, id in enumerate(self.ids[first:], first):
            if is_plain_id(id):
                continue
            try:
                sent = sendable_id(id)
            except EncodingError as error:
                faults.add(id, f"cannot be sent: {reason_of(error)}; use a string or a tuple")
                continue
            if sent is not id:
                self._odd_ids[number] = sent
        yield from faults.lines()

    def sent_id(self, number: int) -> object:
        """Return what stands for the id of a task in messages and files."""
        return self._odd_ids.get(number, self.ids[number]) if self._odd_ids else self.ids[number]

    def sources_of(self, task: int, element: int = -1) -> tuple[tuple[int, Codec | None], ...]:
        """Return the sources of a call of ``task``, each once; of an array, with those of one element of it.

        Args:
            element: the first element of the call: if it takes values alone, it is the only one.
        """
        sources = self.sources[task]
        handles = self.arrays[task].handles if task in self.arrays else {}
        if element not in handles:
            return sources
        return tuple(dict.fromkeys([*sources, *((source, None) for _, source in handles[element])]))

    def shown_source(self, number: int) -> str:
        """Return how a user writes the source with that number: the id of a function, and elements of an array."""
        selection = self.selections.get(number)
        id = self.ids[number if selection is None else selection.array]
        return show(id) if selection is None else one_line(id_text(id)) + selection.text

    def _freeze_all(self, functions: Iterable[Function], settings_of: Iterable[_Settings]) -> Iterable[str]:
        """Freeze ``functions``; yield what is wrong with those that cannot be frozen."""
        faults = Faults()
        before, its = None, None
        for function, settings in zip(functions, settings_of, strict=True):
            if before is not None and settings is its and are_called_alike(function, before):
                self.call_templates.append(self.call_templates[-1])
                self.sources.append(())
                continue
            before, its = None, settings
            try:
                self._freeze(function, settings)
                if not self.sources[-1]:
                    before = function
                if type(function) is ArrayFunction:
                    before = None
                    yield from self._freeze_elements(function)
            except EncodingError as error:
                yield from self._describe(function, error, faults)
                self._append_nothing()
            except RecursionError:
                yield f"function {show(function.id)}: its inline functions or arguments are nested too deep"
                self._append_nothing()
        yield from faults.lines()

    def _describe(self, function: Function, error: EncodingError, faults: Faults) -> list[str]:
        """Return what is wrong with handles of a function that cannot be frozen; what else is goes to ``faults``."""
        if not _is_about_handles(error):
            # Functions that are alike are looked into once: there may be thousands.
            types = (*map(type, function.extra_args), *map(type, function.kwargs.values()))
            key = id(function.code), without_addresses(reason_of(error)), types, tuple(function.kwargs)
            faults.add_once(key, function.id, lambda: self._why_not_sent(function, error))
            return []
        remedy = "handles get their values in arguments alone, not in code; pass it as an argument of its own"
        lines = [f"{line}: {remedy}" for each in self.with_inlines(function) for line in hidden_references(each)]
        return [f"function {show(function.id)}: {line}" for line in lines or [str(error)]]

    def _why_not_sent(self, function: Function, error: EncodingError) -> str:
        """Return why a function cannot be sent, and which part of it is the innermost that cannot."""
        functions = self.with_inlines(function)
        place = find_innermost(roots_of_code(functions), partial(why_not_encodable, is_code=True))
        values = roots_of_values(functions)
        place = place or find_innermost(values, partial(why_not_encodable, reducers=_WITHOUT_REFERENCES))
        where = f", inside {place} of {show(function.id)}" if place else ""
        is_generator = any(type(value) is GeneratorType for _, value in values)
        return f"cannot be sent: {reason_of(error)}{where}{'; pass a list of its items' if is_generator else ''}"

    def with_inlines(self, function: Function) -> list[Function]:
        """Return ``function`` and the inline functions that are evaluated for it."""
        return [function, *(self._inline[id] for id in inline_ids(function, self._inline))]

    def _append_nothing(self) -> None:
        self.call_templates.append(((0,), VALUES, None, ()))
        self.sources.append(())

    def _freeze(self, function: Function, settings: _Settings) -> None:
        plain = None if settings.takes_list else self._plain_call_template(function)
        call_template, sources = plain or self._call_template(function)
        if settings.surroundings is not None:
            call_template = (*call_template[:4], settings.surroundings)
        self.call_templates.append(call_template)
        self.sources.append(sources)

    def _freeze_elements(self, array: ArrayFunction) -> Iterable[str]:
        """Encode the elements of ``array``; yield what is wrong with those that cannot be."""
        number = self.number_of[array.id]
        handles: dict[int, list[tuple[int, int]]] = {}
        for position, index, reference in references_of(array.elements):
            source = self.selections.number_of(reference, self.number_of[reference.id])
            handles.setdefault(index, []).append((position, source))
        if handles:
            self.arrays[number] = replace(self.arrays[number], handles=handles)
        for elements in array.elements:
            yield from (f"function {show(array.id)}: {each}" for each in encode_elements(elements))

    def _specs(self, first: int, settings_of: Iterable[_Settings], groups: Mapping[int, int]) -> Iterator[TaskSpec]:
        """Yield the specifications of the tasks from ``first`` on; neighbours without inputs mostly share one."""
        kept, staying = self._kept_and_staying(first)
        may_share = not (groups or staying or self.arrays)
        spec = _OF_A_LEASE
        like: tuple[object, ...] = None, None, None
        templates = itertools.islice(self.call_templates, first, None)
        for number, this in enumerate(zip(settings_of, templates, kept, strict=True), first):
            settings, _, keep = this
            if may_share and not self.sources[number]:
                if like[0] is not settings or like[1] is not this[1] or like[2] != keep:
                    spec, like = self._spec(number, settings, None, bool(keep), False), this
                yield spec
            else:
                yield self._spec(number, settings, groups.get(number), bool(keep), number in staying)

    def _spec(self, number: int, settings: _Settings, group: int | None, keep: bool, stays: bool) -> TaskSpec:
        sources, code = self.sources[number], self.call_templates[number][0][0]
        if sources or number in self.arrays:
            inputs = (sources[0][0],) if len(sources) == 1 else tuple(dict.fromkeys([each for each, _ in sources]))
            takes = None
            if self.selections and any(self.selections.get(each) for each in inputs):
                takes, inputs = inputs, tuple(dict.fromkeys(map(self.selections.task_of, inputs)))
            array = self.arrays.get(number)
            own = settings.spec(inputs, group, keep, code, stays, None if array is None else array.spec, takes)
            if array is not None and array.handles:
                own.element_inputs = self._element_inputs(array)
            return own
        key = (group, keep, code, stays)
        spec = settings.shared_specs.get(key)
        if spec is None:
            spec = settings.shared_specs[key] = settings.spec((), *key)
        return spec

    def _element_inputs(self, array: FrozenArray) -> tuple[int, ...]:
        """Return the tasks whose values, or elements, some elements of ``array`` are."""
        sources = (source for each in array.handles.values() for _, source in each)
        return tuple(dict.fromkeys(map(self.selections.task_of, sources)))

    def _call_template(self, function: Function) -> tuple[CallTemplate, tuple[tuple[int, Codec | None], ...]]:
        builder = TemplateBuilder(self._tables, self.number_of, self._inline, self.selections)
        call_template = builder.call_template(function)
        return call_template, tuple(builder.sources)

    def _plain_call_template(
        self, function: Function
    ) -> tuple[CallTemplate, tuple[tuple[int, Codec | None], ...]] | None:
        """Return what :meth:`_call_template` would, at once, for a function that is as plain as most are; else None."""
        is_plain, constants = self._plain_templates.encode(function.extra_args, function.kwargs)
        if not is_plain:
            return None
        sources: list[tuple[int, None]] = []
        for reference in function.args:
            if isinstance(reference, Argument):
                return None
            number = self.number_of.get(input_id(reference))
            if number is None:
                return None
            if type(reference) in SPECIAL:
                sources.append((self.selections.number_of(reference, number), None))
            else:
                sources.append(self._bare_source(number))
        if len(sources) > 1 and len(set(sources)) < len(sources):
            return None
        assert function.code is not None
        code = self._code_numbers.get(id(function.code))
        if code is None:
            code = self._tables.code_number(function.code)
        return self._plain_templates.find(code, constants), tuple(sources)

    def _bare_source(self, number: int) -> tuple[int, None]:
        """All that take a value as it is share one entry."""
        source = self._bare_sources[number]
        if source is None:
            source = self._bare_sources[number] = (number, None)
        return source

    def cost_of(self, function: Function) -> Amounts:
        """Return its cost in fixed point; equal costs share one mapping: a DAG has few, however many functions."""
        cost = function.cost
        key = None if cost is None else tuple(cost.items())
        try:
            if key not in self._costs:
                self._costs[key] = parse_cost(cost)
            return self._costs[key]
        except TypeError:  # an amount that cannot be hashed
            return parse_cost(cost)

    def surroundings_of(self, function: Function) -> Surroundings | None:
        """Return what its calls have of their own, None if nothing."""
        return surroundings_of(function, self._directory)

    def _kept_and_staying(self, first: int) -> tuple[Sequence[int], set[int]]:
        """Return for each task from ``first`` on whether its value is kept, as those of sinks are and those that the
        user named; and the tasks whose values have a codec and so stay at their producer.
        """
        taken = [*filter(None, itertools.islice(self.sources, first, None))]
        consumed = {number for sources in taken for number, _ in sources}
        consumed.update(selection.array for selection in self.selections.all)
        for array in [self.arrays[number] for number in self.arrays if number >= first]:
            consumed.update(link.source for link in array.links)
            consumed.update(self._element_inputs(array))
        staying = {number for sources in taken for number, codec in sources if codec is not None}
        for number in staying:
            if number < first:  # it is known to the scheduler: all that share its spec stay from now on
                self.specs[number].stays = True
        kept = bytearray(b"\1") * (len(self.ids) - first)
        if not self._keep_all:
            for number in consumed - {self.number_of[id] for id in self._keep}:
                if first <= number < len(self.ids):  # others are of earlier tasks, or of selections
                    kept[number - first] = 0
        return kept, staying


def _is_about_handles(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, UnresolvedHandle):
            return True
        error = error.__cause__
    return False
