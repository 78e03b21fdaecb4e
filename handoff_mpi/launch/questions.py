"""Asks about things that are allowed and still likely mistakes: a line each, and the run continues."""

from __future__ import annotations

import os
from collections.abc import Iterator

from handoff_mpi.allocation import Ledger
from handoff_mpi.dag import DAG, Plan
from handoff_mpi.dag.task import tasks_called_outside
from handoff_mpi.errors import DAGError
from handoff_mpi.formatting import one_line, show
from handoff_mpi.numerals import parse_real
from handoff_mpi.resources.amounts import STANDARD, SYNONYMS, UNIT, format_nbytes, near_resource, parse_amount
from handoff_mpi.runtime.option_fields import PREFIX
from handoff_mpi.runtime.options import OPTIONS, RunOptions
from handoff_mpi.runtime.options import SYNONYMS as OPTION_SYNONYMS
from handoff_mpi.suggestions import KnownNames

#: Variables that stand for no option of a run.
_OTHER_VARIABLES = ("CORES", "MEMORY", "GPUS", "HOST", "HOSTS", "MAX_RELAUNCHES", "MAX_REQUEUES", "MPIRUN_ARGS")
#: Variables of this package's own.
_INTERNAL = ("GUARD_INTERVAL_S", "LAUNCHED_BY", "LOST_HOSTS", "PROBE", "STARTED_BY", "DOCTOR_JOB_")
_VARIABLE_SYNONYMS = {"cpus": "CORES", "cpu": "CORES", "mem": "MEMORY", "ram": "MEMORY", "gpu": "GPUS"}
_MAX_VARIABLES = 20
#: A time-out from here on, in seconds (12 days), may have been meant in milliseconds; one from there on means none.
_LONG_S, _NO_LIMIT_S = 1e6, 1e9
#: A host with less memory than this, in MB, could not hold two idle ranks.
_LITTLE_MB = 64


def find_questions(dag: DAG, plan: Plan, ledger: Ledger, options: RunOptions) -> list[str]:
    """Return what is questionable about a run that can begin."""
    return [
        *_ask_about_emptiness(dag),
        *_ask_about_times(plan),
        *_ask_about_limits(options),
        *_ask_about_resources(plan, ledger, options),
        *_ask_about_variables(),
    ]


def _ask_about_emptiness(dag: DAG) -> Iterator[str]:
    called = tasks_called_outside()
    if called:
        names = ", ".join(called[:3]) + (f" and {len(called) - 3:,} more" if len(called) > 3 else "")
        what = f"{names} {'were' if len(called) > 1 else 'was'} called outside `with DAG()`, and ran at once"
        yield f"{what}; calls inside the block add functions"
    if not len(dag):
        how = "call @task functions inside `with dag:`, or use dag.add_function"
        yield f"DAG {show(dag.id)} holds no functions, so nothing runs; {how}"


def _ask_about_times(plan: Plan) -> Iterator[str]:
    timeouts = {spec.timeout_s for spec in plan.specs}
    odd = {timeout_s for timeout_s in timeouts if timeout_s is not None and _LONG_S <= timeout_s < _NO_LIMIT_S}
    if odd:
        long = [task for task, spec in enumerate(plan.specs) if spec.timeout_s in odd]
        timeout_s = plan.specs[long[0]].timeout_s or 0.0
        more = f" and {len(long) - 1:,} more have" if len(long) > 1 else " has"
        yield f"function {show(plan.ids[long[0]])}{more} {_long('timeout', timeout_s)}, and None sets no limit"


def _ask_about_limits(options: RunOptions) -> Iterator[str]:
    for name in ("deadline", "grace_period", "heartbeat_timeout", "join_limit", "tracker_timeout"):
        seconds = getattr(options, name)
        if isinstance(seconds, str):  # of the command line
            seconds = _seconds(seconds)
        if isinstance(seconds, (int, float)) and _LONG_S <= seconds < _NO_LIMIT_S:
            yield _long(name, seconds)


def _long(name: str, seconds: float) -> str:
    return f"{name}={seconds:.15g}, which is {seconds / 86400:.0f} days; it is in seconds"


def _seconds(text: str) -> float:
    try:
        return parse_real(text)
    except ValueError:  # a date
        return 0.0


def _ask_about_resources(plan: Plan, ledger: Ledger, options: RunOptions) -> Iterator[str]:
    offered = {*ledger.job, *(name for group in ledger.groups for name in group.pools)}
    misnamed = [name for name in sorted(offered) if name.casefold() in SYNONYMS]
    wanted = {name for spec in plan.specs for name in spec.cost} if misnamed else ()
    for name in misnamed:
        if name not in wanted:
            yield f"the resource {_short(name)} is offered, and no function asks for it{near_resource(name)}"
    for name in options.prices or ():
        hint = near_resource(name, offered)
        if name not in offered and name not in STANDARD and hint:
            yield f"prices names {_short(name)}, which no rank offers{hint}"


def _ask_about_variables() -> Iterator[str]:
    options = [name.removeprefix(PREFIX) for each in OPTIONS.values() for name in each.variables]
    names = [*options, *_OTHER_VARIABLES]
    synonyms = {word: name.upper() for word, name in OPTION_SYNONYMS.items()} | _VARIABLE_SYNONYMS
    known = KnownNames(names, synonyms, lambda name: f"{PREFIX}{name}")
    set_here = [name for name in os.environ if name.startswith(PREFIX)]
    for variable in set_here[:_MAX_VARIABLES]:
        name = variable.removeprefix(PREFIX)
        hint = "" if name in names or name.startswith(_INTERNAL) else known.hint(name)
        if hint:  # others may be the user's own
            yield f"the environment variable {_short(variable)} sets nothing{hint}"
    yield from _ask_about_memory(os.environ.get(f"{PREFIX}MEMORY", ""))


def _ask_about_memory(text: str) -> Iterator[str]:
    try:
        megabytes = parse_amount("memory", text) / UNIT
    except DAGError:
        return  # it is not set
    if megabytes < _LITTLE_MB:
        what = f"{PREFIX}MEMORY={_short(text)} is {format_nbytes(int(megabytes * 10**6), ' ')} for the whole host"
        yield f"{what}; a number without a unit is in MB: write {_short(text.strip())}GB, say"


def _short(text: str) -> str:
    return one_line(text, 80)
