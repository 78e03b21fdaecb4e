"""A DAG with its ids turned into task numbers, ready to be scheduled and sent.

``Plan.add`` freezes functions: it looks through inline ones, encodes code and constants once, and gives the
scheduler what it needs to know of each task (:class:`TaskSpec`), and the ranks what they need to call it
(:class:`Plan`'s tables). More functions can be added during a run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import compress
from types import GeneratorType
from typing import Any, TypeAlias

from handoff_mpi.by_value import one_state
from handoff_mpi.dag.call_template import CONSTANT, INLINE, INPUT, LIST, TEMPLATE, VALUES, CallTemplate, Placeholder
from handoff_mpi.dag.faults import Faults, without_addresses
from handoff_mpi.dag.function import AS_LIST, REFERENCES, Argument, Collocated, Function, input_id
from handoff_mpi.dag.function import INLINE as INLINE_TYPE
from handoff_mpi.dag.handle import UnresolvedHandle
from handoff_mpi.dag.ids import is_plain_id
from handoff_mpi.dag.kinds import Kinds
from handoff_mpi.dag.parts import find_innermost, roots_of_code, roots_of_values
from handoff_mpi.dag.references import ReferenceFinder, describe_hidden, hidden_in_globals, inputs_of
from handoff_mpi.dag.retry_on import Names, names_of
from handoff_mpi.dag.surroundings import Surroundings, surroundings_of
from handoff_mpi.errors import DAGError
from handoff_mpi.formatting import show
from handoff_mpi.resources import Amounts, parse_cost
from handoff_mpi.serialization import (
    PLAIN,
    CarriedId,
    EncodingError,
    Payload,
    dumps,
    encode,
    encode_code,
    encode_in_band,
    is_plain,
    nbytes_of,
    reason_of,
    sendable_id,
    why_not_encodable,
)
from handoff_mpi.suggestions import KnownNames

#: Constants of at least this many bytes are sent to a rank once, however many functions take them.
LARGE_CONSTANT_NBYTES = 32 * 1024

#: What is pickled of constants where it does not matter what values they get.
_WITHOUT_REFERENCES: dict[type, Callable[[Any], Any]] = dict.fromkeys(REFERENCES, lambda reference: (int, ()))

#: The numbers of the codes that encode and decode an :class:`Argument`.
Codec: TypeAlias = "tuple[int | None, int | None]"


@dataclass(slots=True)
class TaskSpec:
    """The facts that the scheduler has of a task. Equal tasks without inputs share one.

    Attributes:
        inputs: the numbers of the tasks whose values it takes, each once.
        cost: in fixed point.
        priority: larger ones first.
        max_retries: None inherits the run's.
        timeout_s: seconds from its start on the rank, or None.
        pin: a rank, a host name, or None.
        group: a number shared by tasks that are collocated, or None.
        keep: whether its value must outlast the run.
        code: number of its code; tasks of one code are taken to last alike.
        stays: its value must stay where it was made until asked for (a consumer encodes it there).
        retry_on: the names of the exceptions after which it is tried again; None inherits the run's.
        retry_delay_s: seconds before its first retry; None inherits the run's.
    """

    inputs: tuple[int, ...]
    cost: Amounts
    priority: int = 0
    max_retries: int | None = None
    timeout_s: float | None = None
    pin: int | str | None = None
    group: int | None = None
    keep: bool = False
    code: int = 0
    stays: bool = False
    retry_on: Names | None = None
    retry_delay_s: float | None = None


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

    def spec(self, inputs: tuple[int, ...], group: int | None, keep: bool, code: int, stays: bool) -> TaskSpec:
        """Return the specification of a task of this kind."""
        return TaskSpec(inputs, *self._before, group, keep, code, stays, *self._behind)


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
        finder: finds what stands for values among constants.

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
        self.codes: list[bytes] = []
        self.code_names: list[str] = []
        self.constants: list[Payload] = []
        self.number_of: dict[Hashable, int] = {}
        self._keep_all = keep == "all"
        self._keep = frozenset(() if isinstance(keep, str) else keep)
        self._inline: dict[Hashable, Function] = {}
        self._code_numbers: dict[int, int] = {}
        self._unusable_codes: dict[int, EncodingError] = {}
        self._constant_numbers: dict[int, int | None] = {}
        self._anchors: list[Any] = []  # what is known by identity must stay alive
        self._costs: dict[Any, Amounts] = {}
        self._bare_call_templates: dict[int, CallTemplate] = {}
        self._bare_sources: list[tuple[int, None] | None] = []
        self.finder = ReferenceFinder()

    def __len__(self) -> int:
        return len(self.ids)

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
        for function in regular:
            self.number_of[function.id] = len(self.ids)
            self.ids.append(function.id)
        self._bare_sources += [None] * (len(self.ids) - first)
        problems = list(self._make_ids_sendable(first))
        with one_state():
            problems += self._freeze_all(regular, settings_of)
        unknown = self._keep - self.number_of.keys()
        known = KnownNames(self.number_of)
        problems += [f"keep names {show(id)}, which is no regular function{known.hint(id)}" for id in unknown]
        if problems:
            raise DAGError(problems)
        kept, staying = self._kept_and_staying(first)
        groups = self._groups(regular)
        for number, its in enumerate(settings_of, first):
            self.specs.append(self._spec(number, its, groups.get(number), number in kept, number in staying))
        return self.specs[first:]

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

    def sent_id(self, number: int) -> Any:
        """Return what stands for the id of a task in messages and files."""
        return self._odd_ids.get(number, self.ids[number]) if self._odd_ids else self.ids[number]

    def _freeze_all(self, functions: Iterable[Function], settings_of: Iterable[_Settings]) -> Iterable[str]:
        """Freeze ``functions``; yield what is wrong with those that cannot be frozen."""
        faults = Faults()
        for function, settings in zip(functions, settings_of, strict=True):
            try:
                self._freeze(function, settings)
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
        lines = [f"{line}: {remedy}" for each in self.with_inlines(function) for line in _hidden_references(each)]
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
        return [function, *(self._inline[id] for id in _inline_ids(function, self._inline))]

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

    def _spec(self, number: int, settings: _Settings, group: int | None, keep: bool, stays: bool) -> TaskSpec:
        sources, code = self.sources[number], self.call_templates[number][0][0]
        if sources:
            inputs = (sources[0][0],) if len(sources) == 1 else tuple(dict.fromkeys([each for each, _ in sources]))
            return settings.spec(inputs, group, keep, code, stays)
        key = (group, keep, code, stays)
        spec = settings.shared_specs.get(key)
        if spec is None:
            spec = settings.shared_specs[key] = settings.spec((), *key)
        return spec

    def _call_template(self, function: Function) -> tuple[CallTemplate, tuple[tuple[int, Codec | None], ...]]:
        builder = _RecipeBuilder(self)
        call_template = builder.call_template(function)
        return call_template, tuple(builder.sources)

    def _plain_call_template(
        self, function: Function
    ) -> tuple[CallTemplate, tuple[tuple[int, Codec | None], ...]] | None:
        """Return what :meth:`_call_template` would, at once, for a function that is as plain as most are; else None."""
        extra, kwargs = tuple(function.extra_args), function.kwargs
        if (extra and not is_plain(extra)) or (kwargs and not is_plain(tuple(kwargs.values()))):
            return None
        sources: list[tuple[int, None]] = []
        for reference in function.args:
            if isinstance(reference, Argument):
                return None
            number = self.number_of.get(input_id(reference))
            if number is None:
                return None
            sources.append(self._bare_source(number))
        if len(sources) > 1 and len(set(sources)) < len(sources):
            return None
        assert function.code is not None
        code = self._code_numbers.get(id(function.code))
        if code is None:
            code = self.code_number(function.code)
        bare = self._bare_call_templates.get(code)
        if bare is None:
            bare = self._bare_call_templates[code] = ((code,), VALUES, None, ())
        if not extra and not kwargs:
            return bare, tuple(sources)
        return (bare[0], VALUES, (PLAIN, (extra, dict(kwargs) if kwargs else _NO_KWARGS)), ()), tuple(sources)

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

    def _kept_and_staying(self, first: int) -> tuple[Collection[int], set[int]]:
        """Sinks are kept, and what the user named; values with a codec stay at their producer."""
        consumed = {number for sources in self.sources[first:] for number, _ in sources}
        staying = {number for sources in self.sources[first:] for number, codec in sources if codec is not None}
        for number in staying:
            if number < first:  # it is known to the scheduler: all that share its spec stay from now on
                self.specs[number].stays = True
        new = range(first, len(self.ids))
        if self._keep_all:
            return new, staying
        named = {self.number_of[id] for id in self._keep}
        return {number for number in new if number not in consumed or number in named}, staying

    def _groups(self, regular: list[Function]) -> dict[int, int]:
        """Return the group number of new tasks bound by ``collocated`` (union-find, Tarjan 1975)."""
        parent: dict[int, int] = {}

        def root(number: int) -> int:
            while parent.setdefault(number, number) != number:
                parent[number] = parent[parent[number]]
                number = parent[number]
            return number

        for function in regular:
            if isinstance(function.node, Collocated):
                one, other = root(self.number_of[function.id]), root(self.number_of[function.node.id])
                parent[max(one, other)] = min(one, other)
        return {number: root(number) for number in parent}

    def code_number(self, code: Callable[..., Any]) -> int:
        """Return the number of ``code`` in the code table, encoding it at first sight."""
        number = self._code_numbers.get(id(code))
        if number is None:
            if id(code) in self._unusable_codes:
                raise self._unusable_codes[id(code)]
            try:
                blob = encode_code(code)
            except EncodingError as error:  # all that have this code fail as fast as others freeze
                self._unusable_codes[id(code)] = error
                self._anchors.append(code)
                raise
            hidden = hidden_in_globals(code)
            if hidden:
                raise EncodingError(hidden[0]) from UnresolvedHandle(hidden[0])
            number = self._code_numbers[id(code)] = len(self.codes)
            self._anchors.append(code)
            self.codes.append(blob)
            self.code_names.append(Function(None, code=code).name)
        return number

    def constant_number(self, value: Any) -> int | None:
        """Return the number of ``value`` among the large constants, or None if it is small."""
        if is_plain(value):
            return None
        if id(value) not in self._constant_numbers:
            payload = encode(value)
            large = nbytes_of(payload) >= LARGE_CONSTANT_NBYTES
            self._constant_numbers[id(value)] = len(self.constants) if large else None
            self._anchors.append(value)
            if large:
                self.constants.append(payload)
        return self._constant_numbers[id(value)]


def _is_about_handles(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, UnresolvedHandle):
            return True
        error = error.__cause__
    return False


def _inline_ids(function: Function, inlines: Mapping[Hashable, Function]) -> list[Hashable]:
    """Return the ids of the inline functions that are evaluated for ``function``."""
    found: dict[Hashable, None] = {}
    stack = [function]
    while stack:
        ids = [id for id in inputs_of(stack.pop()) if id in inlines and id not in found]
        found.update(dict.fromkeys(ids))
        stack += [inlines[id] for id in ids]
    return list(found)


def _hidden_references(function: Function) -> list[str]:
    """Return where references stand that no value can be put into the place of, a line each."""
    parts: list[tuple[str, Any]] = [("its code", function.code)]
    parts += [(f"extra_args[{index}]", value) for index, value in enumerate(function.extra_args)]
    parts += [(f"kwargs[{key!r}]", value) for key, value in function.kwargs.items()]
    found = ReferenceFinder().find([*function.extra_args, *function.kwargs.values()])
    for argument in (each for each in (*function.args, *found) if isinstance(each, Argument)):
        parts += [(f"{side} of {show(argument)}", getattr(argument, side)) for side in ("serialize", "deserialize")]
    resolved = set(map(id, found))
    return [line for name, value in parts for line in describe_hidden(value, name, resolved)]


#: What functions without keyword arguments share: each call gets a mapping of its own by ``**``.
_NO_KWARGS: dict[str, Any] = {}


def _are_plain(extra: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether constants can be carried as they are."""
    return (not extra or is_plain(extra)) and (not kwargs or is_plain(tuple(kwargs.values())))


class _RecipeBuilder:
    """Makes the call template of one function, gathering its inputs on the way."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._index: dict[tuple[int, Codec | None], int] = {}
        self._inline_numbers: dict[Hashable, int] = {}
        self._inlines: list[tuple[int, bytes]] = []
        self._codes: list[int] = []
        self._large: list[int] = []
        self._placeholders: dict[int, tuple[Any, Placeholder]] = {}
        self._reducers: dict[type, Callable[[Any], Any]] = dict.fromkeys(REFERENCES, self._reduce)
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            self._reducers[numpy.ndarray] = self._reduce_array

    @property
    def sources(self) -> Iterable[tuple[int, Codec | None]]:
        return self._index

    def call_template(self, function: Function) -> CallTemplate:
        assert function.code is not None
        self._codes.append(self._plan.code_number(function.code))
        args: list[Any] = [self._reference(reference) for reference in function.args]
        takes_all = [(each.kind, each.number) for each in args] == [(INPUT, index) for index in range(len(self._index))]
        extra, kwargs, is_template = self._constants(function)
        constants: Payload | None = None
        if is_template or not takes_all:
            mode = TEMPLATE
            args = [args, *extra] if function.argument_inclusion == AS_LIST else [*args, *extra]
            call = dumps((args, kwargs), self._reducers)
            constants = (PLAIN, (tuple(self._inlines), call))
        else:
            mode = LIST if function.argument_inclusion == AS_LIST else VALUES
            if extra or kwargs:
                constants = (PLAIN, (extra, kwargs)) if _are_plain(extra, kwargs) else encode_in_band((extra, kwargs))
        return tuple(dict.fromkeys(self._codes)), mode, constants, tuple(dict.fromkeys(self._large))

    def _constants(self, function: Function) -> tuple[tuple[Any, ...], dict[str, Any], bool]:
        """Return extra and keyword arguments with large ones replaced, and whether any value is to be put into them."""
        values = [*function.extra_args, *function.kwargs.values()]
        references = self._plan.finder.find(values)
        for reference in references:
            self._placeholders[id(reference)] = reference, self._reference(reference)
        large = len(self._large)
        find = self._plan.finder.find
        values = [value if references and find([value]) else self._constant(value) for value in values]
        count = len(function.extra_args)
        kwargs = dict(zip(function.kwargs, values[count:], strict=True))
        return tuple(values[:count]), kwargs, bool(references) or len(self._large) > large

    def _constant(self, value: Any) -> Any:
        """Return ``value``, or what stands for it if it is large."""
        if is_plain(value):
            return value
        number = self._plan.constant_number(value)
        if number is None:
            return value
        self._large.append(number)
        return Placeholder(CONSTANT, number)

    def _reduce(self, reference: Any) -> tuple[Any, ...]:
        """Called by pickle for a reference among the constants."""
        known = self._placeholders.get(id(reference))
        if known is None:
            raise UnresolvedHandle(f"{show(reference)} stands where it could not be found before")
        return known[1].__reduce__()

    def _reduce_array(self, array: Any) -> Any:
        """Called by pickle for an array beside references."""
        if array.nbytes < LARGE_CONSTANT_NBYTES or array.dtype.hasobject:
            return array.__reduce_ex__(5)
        return self._constant(array).__reduce__()

    def _reference(self, reference: Any) -> Placeholder:
        codec = None
        if isinstance(reference, Argument):
            number = self._plan.code_number
            codec = (
                None if reference.serialize is None else number(reference.serialize),
                None if reference.deserialize is None else number(reference.deserialize),
            )
            self._codes += [code for code in codec if code is not None]
            codec = None if codec == (None, None) else codec
        id = input_id(reference)
        if id in self._plan._inline:
            return Placeholder(INLINE, self._inline(self._plan._inline[id]))
        key = (self._plan.number_of[id], codec)
        return Placeholder(INPUT, self._index.setdefault(key, len(self._index)))

    def _inline(self, function: Function) -> int:
        """Return the number of an inline function of this call."""
        known = self._inline_numbers.get(function.id)
        if known is not None:
            return known
        assert function.code is not None
        code = self._plan.code_number(function.code)
        self._codes.append(code)
        args: list[Any] = [self._reference(reference) for reference in function.args]
        extra, kwargs, _ = self._constants(function)
        args = [args, *extra] if function.argument_inclusion == AS_LIST else [*args, *extra]
        self._inlines.append((code, dumps((args, kwargs), self._reducers)))
        number = self._inline_numbers[function.id] = len(self._inlines) - 1
        return number
