"""Refuses before the start: unknown strategies, pins to hosts or ranks that do not exist, costs that fit nowhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handoff_mpi import allocation
from handoff_mpi.allocation import AllocationStrategy, Ledger, RequestClass
from handoff_mpi.allocation.missing import find_missing
from handoff_mpi.callbacks import CallbackFailed, call
from handoff_mpi.console import print_message
from handoff_mpi.dag import DAG, ArrayFunction, Plan
from handoff_mpi.errors import DAGError, Unsatisfiable, UsageError
from handoff_mpi.formatting import counted, one_line, show
from handoff_mpi.launch.deadline import resolve_deadline
from handoff_mpi.launch.dry_run import check_in_child
from handoff_mpi.launch.later import LaterResources
from handoff_mpi.launch.questions import find_questions
from handoff_mpi.launch.rerun import read_rerun
from handoff_mpi.resources.amounts import format_amounts, plain_number
from handoff_mpi.results.supervision import lost_hosts
from handoff_mpi.runtime.options import RunOptions
from handoff_mpi.runtime.plugs import STRATEGIES, find_entry_point, problem_of_strategy
from handoff_mpi.serialization import EncodingError, encode_code
from handoff_mpi.suggestions import KnownNames

#: So many lines of one kind are said, so many names in one of them, and so many characters of a cost.
_MAX_PROBLEMS = 20
_MAX_LISTED = 16
_MAX_CHARS = 200


def find_strategy(wanted: Any, prices: Any = None) -> AllocationStrategy:
    """Return the strategy of that name, or the object itself.

    Raises:
        UsageError: there is no strategy of that name, or the object has no ``allocate``.
    """
    problem = problem_of_strategy(wanted)
    if problem:
        raise UsageError(problem)
    if not isinstance(wanted, str):
        return _made(wanted) if isinstance(wanted, type) else wanted
    if wanted in STRATEGIES:
        make = getattr(allocation, STRATEGIES[wanted])
        return make(dict(prices or {})) if wanted == "cost_optimized" else make()  # type: ignore[no-any-return]
    return _loaded(wanted)


def _loaded(name: str) -> AllocationStrategy:
    """Return the strategy that an entry point names.

    Raises:
        UsageError: it cannot be imported or made, or is none.
    """
    point = find_entry_point(name)
    which = f"the allocation strategy {show(name)}" + (f" ({point.value})" if point.value != name else "")
    if not point.pattern.match(point.value):
        raise UsageError(f"{which} cannot be loaded: an entry point is written as module:name")
    try:
        found = call(point.load)
    except CallbackFailed as error:
        raise UsageError(f"{which} cannot be loaded: {error}") from error
    if isinstance(found, str):
        raise UsageError(f"{which} is the text {show(found)}, not a class or an object with allocate(ready, view)")
    try:
        return find_strategy(found)
    except UsageError as error:
        raise UsageError(f"{which} cannot be used: {error}") from error


def _made(kind: type) -> AllocationStrategy:
    try:
        return find_strategy(call(kind))
    except CallbackFailed as error:
        raise UsageError(f"allocation_strategy={kind.__name__}() failed: {error}") from error


def is_builtin(strategy: AllocationStrategy) -> bool:
    """Whether ``strategy`` is one of this package's own."""
    return type(strategy).__module__.startswith("handoff_mpi.")


def encode_factory(factory: Any) -> bytes | None:
    """Return the maker of stores as other ranks need it.

    Raises:
        UsageError: it cannot be sent to them.
    """
    if factory is None:
        return None
    try:
        return encode_code(factory)
    except EncodingError as error:
        what = "result_store must be sent to the other ranks, which make their own stores with it, and cannot be"
        raise UsageError(f"{what}: {error}; open files and connections inside the function") from error


def check_feasible(plan: Plan, ledger: Ledger) -> list[str]:
    """Refuse pins to ranks and hosts that are not there, and functions that fit nowhere even alone.

    Returns:
        A line for each cost that fits nowhere before ranks are given more.

    Raises:
        DAGError: pins name what is not there.
        Unsatisfiable: naming the functions, and what is missing.
    """
    hosts = {rank_state.host for rank_state in ledger.rank_states.values()}
    known_hosts = KnownNames(hosts)
    pins: list[str] = []
    classes: dict[object, RequestClass] = {}
    later = LaterResources(plan, ledger)
    is_lost = _lost_places()
    for task, spec in enumerate(plan.specs):
        if spec.pin is not None and spec.pin not in hosts and spec.pin not in ledger.rank_states:
            if is_lost(spec.pin):
                continue
            pins.append(f"function {show(plan.ids[task])} is pinned to {_no_place(spec.pin, ledger, known_hosts)}")
            continue
        key = (id(spec.cost), spec.pin)
        if key not in classes:
            rank = spec.pin if isinstance(spec.pin, int) else None
            host = spec.pin if isinstance(spec.pin, str) else None
            classes[key] = ledger.request_class(spec.cost, rank, host)
    if pins:
        raise DAGError(_shortened(pins))
    misfits = {key: cost for key, cost in classes.items() if not ledger.feasibility.could_fit(cost)}
    waiting = {key: cost for key, cost in misfits.items() if later.may_hold(cost)}
    if len(waiting) < len(misfits):
        hopeless = {key: cost for key, cost in misfits.items() if key not in waiting}
        raise Unsatisfiable(_describe_misfits(plan, hopeless, ledger, "which fits no host even alone"))
    return _describe_misfits(plan, waiting, ledger, "which waits for update_node_resources") if waiting else []


def _lost_places() -> Callable[[int | str], bool]:
    """Return the function that tells whether a pin names a place that this launch lacks and an earlier one had.

    Its function fails for want of a place, as one does whose host is lost during a launch; the others run.
    """
    lost = lost_hosts()
    names = {host.partition(".")[0] for host in lost}
    return lambda pin: bool(lost) if isinstance(pin, int) else pin.partition(".")[0] in names


def _describe_misfits(plan: Plan, misfits: Mapping[object, RequestClass], ledger: Ledger, verdict: str) -> list[str]:
    """Return a line for each cost that fits nowhere, and each resource that is missing."""
    tasks_of: dict[RequestClass, list[int]] = {}
    for task, spec in enumerate(plan.specs):
        cost = misfits.get((id(spec.cost), spec.pin))
        if cost is not None:
            tasks_of.setdefault(cost, []).append(task)
    return _shortened(
        [
            f"{_needs(plan, tasks, cost)}, {verdict}: {missing}"
            for cost, tasks in tasks_of.items()
            for missing in find_missing(ledger.feasibility, cost) or ["no rank computes"]
        ]
    )


def _needs(plan: Plan, tasks: list[int], cost: RequestClass) -> str:
    more = f" and {len(tasks) - 1:,} more need" if len(tasks) > 1 else " needs"
    return f"function {show(plan.ids[tasks[0]])}{more} {one_line(format_amounts(cost.amounts), _MAX_CHARS)}"


def _no_place(pin: int | str, ledger: Ledger, hosts: KnownNames) -> str:
    if isinstance(pin, int):
        ranks = _listed(map(str, ledger.rank_states))
        computing = f"ranks {ranks} compute" if len(ledger.rank_states) > 1 else f"rank {ranks} computes"
        return f"rank {pin}, but only {computing}"
    names = sorted({rank_state.host for rank_state in ledger.rank_states.values()})
    if pin.isascii() and pin.isdigit() and int(pin[:9]) in ledger.rank_states:
        return f"host {show(pin)}, and there is none; did you mean the rank, node={pin}?"
    return f"host {show(pin)}; there {'is' if len(names) == 1 else 'are'} {_listed(names)}{hosts.hint(pin)}"


def _listed(names: Iterable[str]) -> str:
    first = list(itertools.islice(names, _MAX_LISTED + 1))
    return ", ".join(first[:_MAX_LISTED]) + (", ..." if len(first) > _MAX_LISTED else "")


def _shortened(problems: list[str]) -> list[str]:
    more = len(problems) - _MAX_PROBLEMS
    return problems if more <= 0 else [*problems[:_MAX_PROBLEMS], f"and {more} more like these"]


@dataclass(frozen=True, slots=True)
class Fit:
    """Functions of one cost, and where they fit.

    Attributes:
        count: how many functions have this cost.
        cost: what each of them needs, resource to amount.
        ranks: the ranks where one of them fits; none where all wait for ``update_node_resources``.
    """

    count: int
    cost: Mapping[str, int]
    ranks: list[int]

    def line(self) -> str:
        """Return it in words."""
        shown = ", ".join(map(str, self.ranks[:_MAX_LISTED])) + (", ..." if len(self.ranks) > _MAX_LISTED else "")
        fits, waits = ("fits", "waits") if self.count == 1 else ("fit", "wait")
        on = f"{fits} on rank{'s' if len(self.ranks) > 1 else ''} {shown}"
        where = on if self.ranks else f"{fits} nowhere yet, and {waits} for update_node_resources"
        return f"  {counted(self.count, 'function')} with {format_amounts(self.cost)} {where}"

    def to_json(self) -> dict[str, object]:
        """Return it as data, with amounts as users write them."""
        cost = {name: plain_number(amount) for name, amount in self.cost.items()}
        return {"count": self.count, "cost": cost, "ranks": self.ranks}


def find_fits(ledger: Ledger, dag: DAG, options: RunOptions, setup: bytes | None = None) -> list[Fit]:
    """Return, for each cost of a valid DAG, how many functions have it and where it fits.

    Args:
        ledger: of the job.
        dag: what is checked.
        options: how it would be run.
        setup: dag.py's ``setup(rank)``, encoded, or None.

    Raises:
        DAGError, UsageError, Unsatisfiable: the DAG cannot be run on this job.
    """
    dag.validate()
    if options.deadline is not None:
        resolve_deadline(options.deadline, 0.0)
    plan = Plan(options.keep)
    plan.add(dag)
    read_rerun(options.rerun, plan)
    find_strategy(options.allocation_strategy, options.prices)
    encode_factory(options.result_store)
    check_in_child(dag, plan, setup)  # first: what fits nowhere here, a login node, may fit where it will run
    for line in [*check_feasible(plan, ledger), *find_questions(dag, plan, ledger, options)]:
        print_message(line)
    counts: dict[int, int] = {}
    for spec in plan.specs:
        number = ledger.request_class(spec.cost).number
        counts[number] = counts.get(number, 0) + 1
    fits = []
    for number, count in counts.items():
        cost = ledger.classes[number]
        ranks = [rank for rank, rank_state in sorted(ledger.rank_states.items()) if rank_state.could_hold(cost)]
        fits.append(Fit(count, cost.amounts, ranks))
    return fits


def describe_fit(dag: DAG, fits: Sequence[Fit]) -> str:
    """Return what ``check`` prints of a valid DAG."""
    arrays = [each for each in dag if isinstance(each, ArrayFunction)]
    some = "some" if any(each.window is not None for each in arrays) else f"{sum(map(len, arrays)):,}"
    kind = f"arrays of {some} elements in all" if len(arrays) > 1 else f"an array of {some} elements"
    count = sum(fit.count for fit in fits)
    are = f"{counted(count, 'function')} {'is' if count == 1 else 'are'} valid"
    lines = [f"DAG {show(dag.id)}: {are}{f', {len(arrays):,} of them {kind}' if arrays else ''}"]
    return "\n".join([*lines, *(fit.line() for fit in fits)])
