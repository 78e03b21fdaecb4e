"""Mistakes that were made once, and the seeds of the simulation that catch each if it is made again.

Each mistake is a change of one or a few places of the product's source. A test makes it on purpose: then the run of
its seed must fail, and pass without it. Where no seed is known, a dialogue with the scheduler stands for the run. What
a seed draws changes with the simulation: if a seed does not catch its mistake any more,
``python -m tests.simulation.mistakes WORDS`` finds another for the mistakes whose names hold WORDS.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import itertools
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

import pytest

from handoff_mpi.scheduler import Cause, State, queues, waiters
from handoff_mpi.simulation import SimulatedCluster
from handoff_mpi.simulation.shapes import Window
from handoff_mpi.simulation.workload import Workload
from handoff_mpi.worker import fetching
from tests.launch.test_takers import (
    test_elements_made_of_pairs_are_outdated_too_one_by_one_or_all_of_them as elements_of_pairs,
)
from tests.scheduler.test_arrays import (
    test_a_retry_that_fails_with_its_rank_after_too_many_failures_has_failed_once as retry_that_fails_with_its_rank,
)
from tests.scheduler.test_chained_leases import (
    test_elements_wait_again_where_one_that_a_lease_takes_has_failed as chain_behind_a_failure,
)
from tests.scheduler.test_lifecycle import test_each_row_of_the_table_happens_in_some_run as row_happens
from tests.scheduler.test_pauses import stop_while_failures_are_held
from tests.scheduler.test_undecided import trials_that_are_skipped
from tests.scheduler.test_waiting_elements import (
    test_no_element_begins_of_an_array_that_an_earlier_launch_left_as_nobody_needs_it as elements_that_nobody_needs,
)
from tests.simulation import test_tree
from tests.simulation.test_folds_of_windows import behind_folds, two_folds

_MAX_RUN_S = 20
_ANNOTATIONS = "from __future__ import annotations"
_FINE = {"is_fine": True, "tasks": 60}
_CHANGING = partial(two_folds, second=Window(2, 60, changes_at=40, alternates=True))
_BEHIND = partial(behind_folds, first=Window(6, 25, changes_at=10, alternates=True))
_GROWING = partial(two_folds, second=Window(2, 58, later_count=60, alternates=True))
_LATE = {"always": ("late relaunch",), "pressure": False, "bad_hosts": False}
#: Where an array leaves its queue as it is dropped.
_LEAVES_QUEUE = """\
    if self._tasks.state[number] == READY and number not in self._ready.exhausted:
        self._ready.remove(number)  # before anything of it ends, which takes it for exhausted
    self._ready.exhausted.add(number)
"""


@dataclass
class Mistake:
    """A mistake, and how it is caught.

    Attributes:
        what: what goes wrong, in words.
        changes: (function, right, wrong): in the source of each function, ``right`` occurs once, and is replaced.
        seed: of a run that fails with the mistake, and passes without.
        options: of the simulated cluster.
        reserves_soon: whether functions get a reservation after few skips.
        tree: whether the run is one of :mod:`tests.simulation.test_tree`; "patient" where no rank asks elsewhere.
        dialogue: a talk with the scheduler alone, in place of a run where no seed is known.
        load: makes the work, where that is not random.
    """

    what: str
    changes: list[tuple[str, str, str]]
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    reserves_soon: bool = False
    tree: str = ""
    dialogue: Callable[[], None] | None = None
    load: Callable[[], Workload] | None = None

    def run(self, seed: int | None = None) -> None:
        """Run the seed."""
        seed = self.seed if seed is None else seed
        with pytest.MonkeyPatch.context() as patch:
            if self.reserves_soon:
                for module in (queues, waiters):
                    patch.setattr(module, "MIN_SKIPS", 2)
                    patch.setattr(module, "SKIPS_PER_RANK", 0)
            if self.tree == "patient":
                patch.setattr(fetching, "REFERRAL_S", 1e9)
            if self.dialogue is not None:
                self.dialogue()
            elif self.tree:
                test_tree.run(seed, **self.options)
            else:
                SimulatedCluster(seed, load=None if self.load is None else self.load(), **self.options).run()

    @contextlib.contextmanager
    def made(self) -> Iterator[None]:
        """Make the mistake within ``with``."""
        with pytest.MonkeyPatch.context() as patch:
            for where, changes in itertools.groupby(self.changes, key=lambda each: each[0]):
                change(patch, where, [each[1:] for each in changes])
            yield


def change(patch: pytest.MonkeyPatch, where: str, changes: Iterable[tuple[str, str]]) -> None:
    """Replace pieces of the source of a function, which is named "module:Class.function" within the package."""
    module, _, path = where.partition(":")
    owner: Any = importlib.import_module(f"handoff_mpi.{module}")
    *outer, name = path.split(".")
    for each in outer:
        owner = getattr(owner, each)
    function = getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(function))
    for right, wrong in changes:
        assert source.count(right) == 1, f"{where} has {source.count(right)} times {right!r}: change it elsewhere"
        source = source.replace(right, wrong)
    made: dict[str, Any] = {}
    exec(f"{_ANNOTATIONS}\n{source}", function.__globals__, made)
    patch.setattr(owner, name, made[name])
    for user in list(sys.modules.values()):  # a function that is imported by its name
        if not outer and isinstance(user, ModuleType) and user.__dict__.get(name) is function:
            patch.setattr(user, name, made[name])


MISTAKES = [
    # -- rank 0: the coordinator and its journal --
    Mistake(
        "what a tracker granted of a batch is not sent, because it refused the rest",
        [
            (
                "runtime.coordinator:Coordinator._dispatch",
                "        self._reports.events += self._tracker_adapter.request(command, self.scheduler.specs)\n",
                "        refused = self._tracker_adapter.request(command, self.scheduler.specs)\n"
                "        self._reports.events += refused\n        if refused:\n            return\n",
            )
        ],
        seed=1,
        options={**_FINE, "always": ("refusals",)},
    ),
    Mistake(
        "a claim is not sent, its first task being refused",
        [
            (
                "runtime.coordinator:Coordinator._dispatch",
                "if command.tasks or command.claim is not None:",
                "if command.tasks:",
            )
        ],
        seed=31,
        options={**_FINE, "always": ("refusals",)},
    ),
    Mistake(
        "a code is not sent to each rank that runs it",
        [
            (
                "runtime.dispatcher:Dispatcher.flush_to",
                "self._codes_at.setdefault(rank, set())",
                "self._codes_at.setdefault(0, set())",
            )
        ],
        seed=0,
    ),
    Mistake(
        "a large constant is not sent to each rank that takes it",
        [("runtime.dispatcher:Dispatcher._send_constant", "setdefault(rank, set())", "setdefault(0, set())")],
        seed=3,
    ),
    Mistake(
        "a death blamed on a task is not in the journal when the run is launched again",
        [
            (
                "runtime.journal_writer:JournalWriter._note_rank",
                "self._failed.append((record.task, record.attempt, rank, DIED, DEATH, record.reason))",
                "pass",
            )
        ],
        seed=38,
    ),
    Mistake(
        "deaths that were forgiven are not in the journal when the run is launched again",
        [("runtime.journal_writer:JournalWriter.turn", "forgiven.append(detail)", "pass")],
        seed=29,
        options={"always": ("bad host", "relaunch")},
    ),
    Mistake(
        "a kept value is not brought from a copy when its rank is lost",
        [("runtime.kept_values:KeptValues.lose", "for request_id in [", "for request_id in () and [")],
        seed=241,
        options={"always": ("deaths", "slow values")},
    ),
    Mistake(
        "an attempt whose process and rank both died counts as two deaths",
        [("results.history:_Reader._take_turn", "if (task, attempt) in self._failed:", "if False:")],
        seed=33,
        options={"tasks": 60, "always": ("slow rank 0", "relaunch")},
    ),
    Mistake(
        "a value nobody seemed to need is made again although the journal holds it",
        [("scheduler.restore:restore", "rest[task] = left(task)", "rest[task] = ValueLocation.NOWHERE")],
        seed=152,
        options={"ranks": 4, "tasks": 58, "always": ("relaunch",)},
    ),
    # -- rank 0: values and groups --
    Mistake(
        "a value is lost that was evicted before its consumer was submitted",
        [("scheduler.tasks:TaskTable.add", "    if first:", "    if False:")],
        seed=18,
    ),
    Mistake(
        "a member of a collocated group is offered behind a leader that is held",
        [("scheduler.ready:ReadyTasks._put_held", "    self._stop_leading(task)\n", "")],
        seed=107,
        options={"tasks": 60, "always": ("refusals",)},
    ),
    Mistake(
        "a collocated group is bound by its first placement, but not by a refill",
        [
            (
                "scheduler.dispatches:Dispatches.send",
                "if self._leaders:",
                "if self._leaders and claim is not None:",
            )
        ],
        seed=400,
    ),
    Mistake(
        "queues grow while a lost rank's groups are unbound",
        [
            (
                "scheduler.ready:ReadyTasks.unbind",
                "[queue for queue in self.all_queues() if queue.cost.rank == rank]",
                "(queue for queue in self._queues.values() if queue.tasks and queue.cost.rank == rank)",
            )
        ],
        seed=20,
        options={"ranks": 5, "tasks": 80, "always": ("deaths",)},
    ),
    # -- rank 0: suspect ranks, ranks short of memory, ranks on probation --
    Mistake(
        "a task is given up because the only rank that fits is suspect",
        [
            (
                "scheduler.dead_ends:DeadEnds._awaits_suspects",
                "any(SUSPECT in reasons and rank_states[rank].is_present for rank, reasons in cordoned.items())",
                "False",
            )
        ],
        seed=30,
        options={"ranks": 6, "tasks": 65, "always": ("unresponsive",)},
    ),
    Mistake(
        "a suspect rank is chosen because it holds the inputs",
        [
            (
                "allocation.strategies:CostOptimized._nearest",
                "if view.fits(cost, holder)",
                "if view.ledger.rank_states[holder].is_present and view.ledger.rank_states[holder].idle",
            )
        ],
        seed=5,
        options={"ranks": 11, "tasks": 38, "always": ("unresponsive",)},
    ),
    Mistake(
        "all ranks are short of memory, and what is left is given up",
        [("scheduler.overrides:Overrides.place", "self._place_one(reasons, now)", "continue")],
        seed=2,
        options={"always": ("pressure",)},
    ),
    Mistake(
        "a rank short of memory is refilled as its call ends",
        [("scheduler.pipelining:Pipeline._may_keep", "claim.rank not in ledger.cordoned and ", "")],
        seed=72,
        options={"always": ("pressure",)},
    ),
    Mistake(
        "a rank short of memory is sent what will be ready",
        [("scheduler.pipelining:Pipeline.prefill", "if tasks and self._may_keep(slot.claim):", "if tasks:")],
        seed=101,
        options={**_FINE, "always": ("pressure",)},
    ),
    Mistake(
        "a rank is let go though it is short of memory, and is given a task for each slot",
        [
            (
                "scheduler.overrides:Overrides._place_one",
                "self._placer.allocate(now, most=1)",
                "self._placer.allocate(now)",
            )
        ],
        seed=5,
        options={"always": ("pressure",)},
    ),
    Mistake(
        "a task is given up because the only rank that fits is on probation and short of memory",
        [("scheduler.overrides:Overrides.place", "for reasons in OVERRIDABLE:", "for reasons in OVERRIDABLE[:2]:")],
        seed=152,
        options={"ranks": 3, "tasks": 60, "always": ("pressure", "bad host")},
    ),
    # -- rank 0: failures --
    Mistake(
        "a death where no try is left fails for good",
        [
            (
                "scheduler.failures:Failures.failed",
                "self._crash_tracker.may_retry(task) if has_died",
                "self._crash_tracker.may_retry(task) and self.tries_left(task) > 0 if has_died",
            )
        ],
        seed=0,
        options={"always": ("bad host",)},
    ),
    Mistake(
        "a death that a success has cleared is forgiven once more when its rank is put on probation",
        [("scheduler.failures:Failures.succeeded", "self._tries.clear_deaths(task)", "pass")],
        seed=146,
        options={**_FINE, "always": ("bad host",)},
    ),
    Mistake(
        "a failure is never decided: its taker is tried elsewhere, and waits for it",
        [("scheduler.failures:Failures._may_run", "(READY, DISPATCHED)", "(READY, DISPATCHED, 0)")],
        seed=856,
        options={"always": ("bad host", "lost values", "deaths")},
        tree="impatient",
    ),
    # A seed would need three functions of a suspect host that are tried elsewhere at the same time and all skipped, and
    # a fourth that fails there later. Of 8,227 runs with bad hosts and lost values, three had a skipped trial at all.
    Mistake(
        "a failure is never decided: functions that were tried elsewhere, and skipped, have their turn for ever",
        [("scheduler.failures:Failures._may_run", "(READY, DISPATCHED)", "(READY, DISPATCHED, 5)")],  # 5 is SKIPPED
        dialogue=trials_that_are_skipped,
    ),
    # -- workers: the reactor --
    Mistake(
        "a rank does not learn under which names an earlier launch wrote values",
        [
            (
                "runtime.worker_reactor:WorkerReactor._absorb",
                "if on_kind is not None",
                "if on_kind and each.kind != FILES",
            )
        ],
        seed=60,
        options={"always": ("relaunch",)},
    ),
    Mistake(
        "a result is reported as written, and is not",
        [("runtime.call_io:CallIO._persist", "values.write(work.task, payload, nbytes)", '""')],
        seed=60,
    ),
    Mistake(
        "the machine does not learn that an input is unavailable",
        [("runtime.call_io:CallIO._inputs", "self.events.append(InputMissing(work, task))", "pass")],
        seed=66,
        options={"always": ("lost values",)},
    ),
    # -- workers: the machine --
    Mistake(
        "a rank has lost its copy of a value, and so the file is taken for damaged",
        [("worker.machine:Worker._on_input_missing", "[self.rank] if is_copy else []", "[]")],
        seed=220,
        options={"tasks": 60, "always": ("lost values", "relaunch")},
    ),
    Mistake(
        "two calls have missed the same copy of a file, and so it is taken for damaged",
        [("worker.machine:Worker._on_input_missing", "not self.reads_files\n            or ", "")],
        seed=440,
        options={"always": ("lost values", "relaunch")},
        tree="impatient",
    ),
    Mistake(
        "a rank waits for one that asks somebody else meanwhile",
        [("worker.fetching:Fetches.on_fetch", "if fetch is None or fetch.source != via:", "if fetch is None:")],
        seed=51,
        tree="patient",
    ),
    Mistake(
        "a rank asks one that is lost, because it is referred to it",
        [("worker.fetching:Fetches.on_redirect", "if rank in self._lost or ", "if ")],
        seed=60,
        tree="patient",
    ),
    Mistake(
        "a rank continues to wait for one whose own source does not have the value",
        [("worker.fetching:Fetches._ask_next", "    self._turn_away(fetch)\n", "")],
        seed=252,
        tree="patient",
    ),
    Mistake(
        "a collocated group grows, and its class keeps what is derived from the need it had before",
        [
            ("scheduler.groups:CollocatedGroups.widen", "self.need.get(group, {})", "self.need.setdefault(group, {})"),
            ("scheduler.groups:CollocatedGroups.widen", "self.need[group] = need | {name", "need |= {name"),
            ("allocation.ledger:Ledger.request_class", "else tuple(need.items()))", "else id(need))"),
            ("allocation.ledger:Ledger.request_class", "dict(need) if need else cost", "need or cost"),
        ],
        seed=1346,
    ),
    Mistake(
        "a rank that asks rank 0 for a missing file waits for ever",
        [("runtime.worker_reports:WorkerReports._is_for_a_file", "not self._settings.has_own_worker or ", "")],
        seed=503,
        options={"ranks": 12, "tasks": 59, "always": ("damaged files", "relaunch", "cut off")},
    ),
    Mistake(
        "a task is offered that came back from a rank after its input was lost",
        [("scheduler.tasks:TaskTable.requeue", "if not lost:", "if True:")],
        seed=1134,
        options={**_FINE, "always": ("lost values", "pressure", "deaths")},
    ),
    Mistake(
        "an input is moved out of memory by the fetch of another input of its call",
        [
            (
                "worker.inputs:Inputs.want_held",
                "            self._held_values.want(work, task)\n",
                "            pass\n",
            ),
            (
                "worker.inputs:Inputs.want_missing",
                "        if payload is not None or task in self._held:\n            continue\n",
                "        if payload is not None:\n            continue\n"
                "        if task in self._held:\n            self._held_values.want(work, task)\n"
                "            continue\n",
            ),
            (
                "worker.machine:Worker._on_dispatch",
                "not inputs.want_held(work, constants):",
                "(inputs.want_held(work, constants) or True):",
            ),
            ("worker.machine:Worker._on_dispatch", "incomplete.append(work)", "inputs.want_missing(work)"),
        ],
        seed=2847,
        options={"tasks": 100, "always": ("pressure",)},
        reserves_soon=True,
    ),
    Mistake(
        "an array that is offered to the tracker awaits its answer for ever, as a lease takes its place",
        [
            ("scheduler.refusals:Refusals._take_passed_on", "self._ready.passed_on.keys() & hold.offered", "()"),
            ("scheduler.refusals:Refusals._note_granted", " or each not in self._ready.offered", ""),
        ],
        seed=66,
        options={"arrays": True},
    ),
    Mistake(
        "an array that waits for one value alone is sent ahead as a function is",
        [("scheduler.pipelining:Pipeline._follower", "task in table.leases or task in self._arrays", "False")],
        seed=276,
        options={"arrays": True, "faults": False},
    ),
    Mistake(
        "a stop decides on failures of elements that were given up with their array meanwhile",
        [("scheduler.failures:Failures.stop", "if task in self._ready.undecided:", "if True:")],
        dialogue=stop_while_failures_are_held,
    ),
    Mistake(
        "an element whose value died with its process does not know that it runs once more",
        [("scheduler.arrays:Arrays.split_begun", "self.leases[each].incidents += 1", "pass")],
        seed=61,
        options={"arrays": True},
    ),
    Mistake(
        "elements that a recalled lease gives back lose the count of their failures",
        [("scheduler.arrays:Arrays.give_back", "if back and lease.incidents:", "if False:")],
        seed=66,
        options={"arrays": True},
    ),
    Mistake(
        "elements that wait for their retry run although too many have failed",
        [("scheduler.lease_ends:LeaseEnds.failed", "if state[each] in (READY, WAITING)", "if False")],
        seed=75,
        options={"arrays": True},
    ),
    Mistake(
        "elements begin although those that are tried again may be too many failures",
        [("scheduler.failures:Failures.failed", "self._pauses.doubt(task, min(", "max(task, min(")],
        seed=61,
        options={"arrays": True},
    ),
    Mistake(
        "elements begin although those whose failure is undecided may be too many",
        [("scheduler.failures:Failures._decide", "self._pauses.doubt(task, failure.until)", "pass")],
        seed=61,
        options={"arrays": True},
    ),
    Mistake(
        "elements that raised and were to be tried again are skipped when too many have failed",
        [("scheduler.arrays:Arrays.end_waiting", "if failure is None or", "if True or")],
        seed=72,
        options={"arrays": True},
    ),
    # -- rank 0: links, folds, elements that wait for functions, selections and windows --
    Mistake(
        "an element begins when one of the arrays that it takes elements of has them",
        [("scheduler.links:AwaitedElements.supply", "if other is not link:", "if False:")],
        seed=2,
        options={"links": True},
    ),
    Mistake(
        "the elements that take a slice of every third element backwards are supplied by its neighbours",
        [("arrays.links:Link.positions", "(first - stop) // -step + 1", "(first - stop) // -step")],
        seed=4,
        options={"links": True},
    ),
    Mistake(
        "what takes an element that takes one that failed waits for it for ever",
        [("scheduler.links:Links.lose", "stack.append((array, found))", "pass")],
        seed=20,
        options={"links": True},
    ),
    Mistake(
        "a fold fails because no value is there yet",
        [("scheduler.links:Links.may_fold", "self._tasks.state[link.source] in (WAITING, READY)", "False")],
        seed=9,
        options={"links": True},
    ),
    Mistake(
        "the value of a fold is that of its first block",
        [("runtime.dispatcher:Dispatcher._array_payload", "values[values.count - 1]", "values[0]")],
        seed=7,
        options={"links": True},
    ),
    Mistake(
        "a function that takes what is there of an array begins when the last element has a value, though others run",
        [("arrays.watchers:Watchers.end", "if not self.add(number, self._selections.pop(number))", "if True")],
        seed=2,
        options={"links": True},
    ),
    Mistake(
        "an array whose elements wait for functions is leased once more after too many have failed",
        [
            ("scheduler.arrays:Arrays.drop", _LEAVES_QUEUE, ""),
            (
                "scheduler.arrays:Arrays.drop",
                "    if array.leases:\n",
                f"{_LEAVES_QUEUE}    if array.leases:\n",
            ),
        ],
        seed=7,
        options={"links": True, "faults": False},
    ),
    Mistake(
        "the value of a function is dropped while an element that takes it waits for another element",
        [("scheduler.waiting_elements:WaitingElements.begin", "self._tasks.consumers_left[each] += 1", "pass")],
        seed=2,
        options={"links": True},
    ),
    Mistake(
        "elements of an array that nobody needs any more wait for functions that never run",
        [("scheduler.waiting_elements:WaitingElements.begin", "self._tasks.state[number] == DONE", "False")],
        dialogue=elements_that_nobody_needs,
    ),
    Mistake(
        "a retry that dies with its rank after too many elements have failed fails twice",
        [("scheduler.arrays:Arrays.end_waiting", "elif self._tasks.state[lease] in (READY, WAITING):", "else:")],
        dialogue=retry_that_fails_with_its_rank,
    ),
    Mistake(
        "elements that failed keep their places in the window",
        [("runtime.windowed_arrays:WindowedArray.take", "array.done + array.failed", "array.done")],
        seed=19,
        options={"links": True},
    ),
    Mistake(
        "an element of a windowed array is offered before it is compared with what an earlier launch computed",
        [("runtime.windowed_arrays:WindowedArray._judge", "if count < wanted and not is_last:", "if False:")],
        seed=3,
        options={"links": True, "always": ("relaunch",)},
    ),
    # -- rank 0: folds of windowed arrays, and what depends on these when a run is launched again --
    Mistake(
        "an array that waits for elements alone is not taken over late, and waits for ever",
        [("scheduler.arrays:Arrays.has_not_begun", "self._tasks.state[task] == READY", "False")],
        dialogue=partial(row_happens, (State.READY, Cause.RESTORED)),
    ),
    Mistake(
        "what depends on one fold has begun when another is known, and is taken over then",
        [
            (
                "runtime.windowed_arrays:FoldsTakenOver.take",
                "if len(decided.same) > self._known:",
                "if len(decided.same) > self._known + 1:",
            )
        ],
        seed=60,
        options=_LATE,
        load=two_folds,
    ),
    Mistake(
        "what was computed while a fold was another is taken over",
        [("launch.late_values:LateValues._take_known", "is_same = all(", "is_same = True or all(")],
        seed=64,
        options=_LATE,
        load=_CHANGING,
    ),
    Mistake(
        "a last block is taken over that had fewer values",
        [("runtime.window_consumers:WindowConsumers._same", "(is_last and total == count)", "is_last")],
        seed=197,
        options=_LATE,
        load=_GROWING,
    ),
    Mistake(
        "a block that was skipped no longer counts where no more elements come to fill it",
        [("scheduler.growing:_follow", "is_cut and whole in array.awaited", "is_cut")],
        seed=30003,
        options={"folds": True, "always": ("relaunch",)},
    ),
    Mistake(
        "a task that is offered to the tracker on one rank is given up as that rank has no cores any more",
        [("scheduler.ready:ReadyTasks.reconsider", " or not (q.cost.rank is None or fits(q.cost))", "")],
        seed=2,
        options={"always": ("withdrawn", "refusals")},
        load=two_folds,
    ),
    Mistake(
        "a value counts that an earlier launch left, where a later one had another and did not keep it",
        [("results.history:_Reader._done", "known.epoch != done.epoch or ", "")],
        seed=310563,
        options={"folds": True, "always": ("resumed",)},
    ),
    Mistake(
        "what was made while a fold was another is taken over of an array behind it",
        [
            (
                "runtime.window_consumers:Undecided.decide",
                "if all(each.epoch in decided.same.get(fold, ()) for fold in self.folds)",
                "",
            )
        ],
        seed=3,
        options={"always": ("resumed",)},
        load=_BEHIND,
    ),
    Mistake(
        "elements of an array behind a fold are offered before it is known whether the fold is what it was",
        [
            (
                "runtime.windowed_arrays:WindowedArray._take_news",
                "[] if self._undecided is not None else self._offer(arrays)",
                "self._offer(arrays)",
            )
        ],
        seed=0,
        options=_LATE,
        load=behind_folds,
    ),
    Mistake(
        "what takes elements that have come is not looked at again once a fold is known on which it depends",
        [
            (
                "runtime.window_consumers:WindowConsumers.decide",
                "self._earlier[number], self._compared[number] = earlier, 0",
                "self._earlier[number] = earlier",
            )
        ],
        seed=0,
        options=_LATE,
        load=behind_folds,
    ),
    Mistake(
        "a fold that depends on another is not looked at again once that is known",
        [
            (
                "runtime.window_consumers:WindowConsumers.decide",
                "elif not (arrays[number].leases or arrays[number].have):",
                "elif False:",
            )
        ],
        seed=0,
        options=_LATE,
        load=behind_folds,
    ),
    Mistake(
        "a windowed array is done as the fold is known on which it depends",
        [("launch.late_values:LateValues.take_over", "known - growing", "known")],
        seed=0,
        options=_LATE,
        load=behind_folds,
    ),
    Mistake(
        "an array keeps what it made of fewer pairs, as it is looked at again for what is taken over late",
        [
            (
                "launch.resume:resume",
                "for number in resumed.elements\n",
                "for number in {*plan.arrays} - resumed.unknown\n",
            )
        ],
        seed=95094,
        options={"folds": True, "always": ("resumed",)},
    ),
    Mistake(
        "an array keeps what it made of fewer pairs than there are",
        [
            (
                "launch.takers:Pairs.find_outdated",
                "for launch, taken in self._elements.get(task, ())",
                "for launch, taken in ()",
            )
        ],
        dialogue=elements_of_pairs,
    ),
    Mistake(
        "elements whose lease came back before it began are leased without the values that they take",
        [
            (
                "scheduler.returns:Returns.put_back",
                "self._leases[task].follows >= 0 and not self._arrays.is_dropped(task)",
                "False",
            )
        ],
        seed=79,
        options={"chains": True},
    ),
    Mistake(
        "a lease follows another one that has several intervals, and takes values at wrong places",
        [("scheduler.chained_leases:ChainedLeases._follow", "len(intervals) > 1 or not supplied", "not supplied")],
        seed=101,
        options={"chains": True},
    ),
    Mistake(
        "a lease that failed as a whole is sent again as if it still followed another one",
        [("scheduler.lease_ends:LeaseEnds.finished", "self._arrays.leases[lease].follows = -1", "pass")],
        seed=101,
        options={"chains": True},
    ),
    Mistake(
        "a rank that is short of memory gets several leases at once",
        [("scheduler.chained_leases:ChainedLeases._may_be_followed", "rank in self._memory_pressure.ranks", "False")],
        seed=75,
        options={"chains": True},
    ),
    Mistake(
        "a rank on probation gets several leases as its probe",
        [("scheduler.chained_leases:ChainedLeases._may_be_followed", "rank in self._feasibility.shunned", "False")],
        seed=830068,
        options={"chains": True, "always": ("resumed",)},
    ),
    Mistake(
        "a lease runs although the one that it follows has not ended whole",
        [
            (
                "worker.inputs:Inputs.supply_elements",
                "sum(map(count_of, columns)) < sum(stop - start for start, stop in maker.elements[0])",
                "False",
            )
        ],
        seed=87,
        options={"chains": True},
    ),
    Mistake(
        "elements that take what will have no value wait for ever once their lease came back",
        [("scheduler.links:Links.await_again", "if taken := link.taken_between(start, stop):", "if False:")],
        dialogue=partial(chain_behind_a_failure, count=50),
    ),
    Mistake(
        "a lease that came back, of which nothing is left, is offered again",
        [("scheduler.lease_ends:LeaseEnds.end_if_dropped", " or not self._arrays.has_work(lease)", "")],
        seed=114,
        options={"chains": True},
    ),
]


# -- to find seeds -----------------------------------------------------------------------------------------


def how_it_fails(mistake: Mistake, seed: int | None = None) -> str:
    """Return how the run of a seed fails, be it by taking for ever; empty if it does not."""

    def give_up(number: int, frame: object) -> None:
        raise TimeoutError(f"it takes longer than {_MAX_RUN_S} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_MAX_RUN_S)
    try:
        mistake.run(seed)
    except Exception as error:
        return repr(error)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return ""


def find_seed(mistake: Mistake, within_s: float, first: int = 0) -> str:
    """Return which seed catches ``mistake``, and how, in words."""
    end = time.monotonic() + within_s
    for seed in itertools.count(first):
        with mistake.made():
            how = how_it_fails(mistake, seed)
        if how and not how_it_fails(mistake, seed):
            return f"seed {seed}: {how[:150]}"
        if time.monotonic() >= end:
            break
    return f"none of {seed + 1 - first} seeds"


def main() -> None:
    """Find seeds for the mistakes whose names hold the first argument, for so many seconds each, from one seed on."""
    words, within_s, first = (*sys.argv[1:], "60", "0")[:3]
    for mistake in MISTAKES:
        if words in mistake.what and mistake.dialogue is None:
            print(f"{mistake.what}: {find_seed(mistake, float(within_s), int(first))}", flush=True)


if __name__ == "__main__":
    main()
