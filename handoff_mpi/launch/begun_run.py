"""The second stage of a run: it is compared with earlier launches, and the journal of this one has begun."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import islice
from typing import Any

from handoff_mpi.console import print_message
from handoff_mpi.formatting import type_name
from handoff_mpi.launch.checked_run import CheckedRun
from handoff_mpi.launch.earlier_launches import EarlierLaunches
from handoff_mpi.launch.late_values import LateValues
from handoff_mpi.launch.run_files import RunFiles
from handoff_mpi.launch.start_line import resume_text, shown_path
from handoff_mpi.resources import Capability
from handoff_mpi.results.journal import JournalPort
from handoff_mpi.results.launches import History
from handoff_mpi.results.origins import Origins, origins_here
from handoff_mpi.results.store import DirectoryStore, Key, ResultStore
from handoff_mpi.runtime.announcements import FailurePrinter
from handoff_mpi.runtime.choices import CALLS, NONE
from handoff_mpi.runtime.column_keeper import ColumnKeeper
from handoff_mpi.runtime.element_records import ElementRecords
from handoff_mpi.runtime.journal_writer import JournalWriter
from handoff_mpi.runtime.progress import MAX_HOSTS, Progress
from handoff_mpi.runtime.recorder import Recorder
from handoff_mpi.scheduler import Restored
from handoff_mpi.scheduler.arrays import Arrays
from handoff_mpi.serialization import Payload

#: Lost ranks of this many earlier launches are reported, the newest ones.
_MAX_LAUNCHES_TOLD = 5


class BegunRun:
    """A run whose journal has begun, with all that its loop needs; on rank 0.

    Args:
        checked: the stage before.
        files: of the run, which are open.
        history: of earlier launches.

    Attributes:
        checked, files: as given.
        number: the run's number in its job.
        resumed: what is taken over from earlier launches.
        lost_ranks_before: the ranks that they lost.
        name: the run's name, which no other run has.
        about: the fields that ``status.json`` and the journal have from the start on.
        origins: where this process found modules that are not installed.
        recorder: of what runs where and when.
        progress: how far the run has come.
        capacity: resource to amount of all ranks.
        key_of: returns the key of a task's value.
        journal_writer: writes the journal.
        home: where values rest at rank 0.

    Raises:
        UsageError, JournalError: the run-dir cannot be used, or an option names a function that is not there.
    """

    def __init__(self, checked: CheckedRun, files: RunFiles, history: History) -> None:
        files.prepare()
        self.checked = checked
        self.files = files
        self.number = checked.job.next_run()
        kept = files.kept if isinstance(files.kept, DirectoryStore) else None
        earlier = EarlierLaunches(checked.dag, checked.plan, checked.kinds, checked.options, kept, history)
        self.resumed = earlier.resumed
        self._restored = earlier.calls_done
        journal = files.begin()
        self.lost_ranks_before = history.lost_ranks_before(journal.epoch)
        self._launches_before = history.launches_before(journal.epoch)[-_MAX_LAUNCHES_TOLD:]
        # A launch's number comes again, in another directory of the same path; a random one does not.
        name = "run" if files.path is None else files.path.name
        self.name = f"{name}-{journal.epoch}-{os.urandom(8).hex()}"
        self.about = self._describe(journal.epoch)
        for line in earlier.lines(f"launch {journal.epoch} of {files.path}"):
            print_message(line)
        files.write_running(self.about)
        if checked.metrics is not None:
            checked.metrics.run = self.name if files.path is None else str(files.path)
        self.origins = Origins() if files.path is None else origins_here(self.about["host"])
        hosts = {each.rank: each.host for each in checked.job.capabilities}
        elements = ElementRecords(checked.plan, checked.scheduler.arrays)
        printer = FailurePrinter(elements.id_of, hosts, print_message, elements.failed)
        self.recorder = self._make_recorder(printer, hosts, elements)
        capabilities, restored = checked.job.capabilities, self.resumed.rest
        self.progress = Progress(checked.plan, checked.scheduler, self.recorder, capabilities, printer.groups, restored)
        if checked.options.record != NONE:
            self.recorder.events = files.begin_events(journal.epoch, checked.options.record == CALLS)
        self.capacity = checked.ledger.capacity()
        self.key_of: Callable[[int], Key] = partial(_key, self.resumed.keys, self.name)
        self.journal_writer = self._begin_journal(journal, hosts, earlier)
        self.home = self._make_home()
        put = partial(_put, self.home, self.name)  # a function that holds this run would form a reference cycle
        self._late_values = LateValues(checked.plan, self.resumed, self.journal_writer, put)

    def _describe(self, launch: int) -> dict[str, Any]:
        run, path = self.checked, self.files.path
        about: dict[str, Any] = {
            "dag_id": run.dag.id,
            "run": self.name,
            "launch": launch,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "functions": run.plan.call_count,
            "arrays": len(run.plan.arrays),
            "restored": self._restored,
            "ranks": run.job.size,
            "started_s": run.started_s,
            "output": "off" if run.options.output == "auto" else run.options.output,
            "directory": run.job.directory,
            "lost_ranks_before": _newest(self.lost_ranks_before),
            "launches_before": self._launches_before,
        }
        if run.job.top_level is not None:
            about["file"] = str(run.job.top_level.path)
        if path is not None:
            about["resume"] = resume_text(shown_path(path, run.job.directory), run.job.resumed_by, is_later=True)
        return about

    def _make_recorder(self, printer: FailurePrinter, hosts: dict[int, str], elements: ElementRecords) -> Recorder:
        recorder = Recorder(self.checked.plan, self.checked.dag.id, hosts, elements)
        recorder.grow()
        recorder.announcer = printer
        recorder.launch = self.about["launch"]
        for task, done in self.resumed.done.items():
            recorder.restored(task, done)
        for task, incidents in self.resumed.incidents.items():
            recorder.note_earlier_incidents(task, incidents)
        return recorder

    def _begin_journal(self, journal: JournalPort, hosts: dict[int, str], earlier: EarlierLaunches) -> JournalWriter:
        run = self.checked
        slots = {rank: rank_state.slots for rank, rank_state in run.ledger.rank_states.items()}
        about = {
            **self.about,
            "hosts": hosts,
            "slots": slots,
            "capacity": self.capacity,
            "imports": (self.origins.directories, self.origins.modules),
            "strategy": type_name(run.strategy),
            "offers": _offers(run.job.capabilities, slots),
        }
        writer = JournalWriter(journal, run.plan, self.key_of, run.scheduler.arrays)
        marks, accepted = earlier.marks, earlier.acceptance.new
        restored = self.resumed.rest, self.resumed.elements
        replaced, named = self.resumed.replaced, earlier.rerun.named
        by_rerun = (replaced.tasks, replaced.elements), named
        writer.begin(about, marks.of, *restored, marks.codes, accepted, earlier.reasons(), *by_rerun)
        return writer

    def _make_home(self) -> ResultStore:
        home = self.checked.store
        for task, payload in self.resumed.payloads.items():
            home.put((self.name, task), payload)
        return home

    def take_over_later(self, arrays: Arrays, same: Mapping[int, Collection[int]]) -> Restored:
        """Take over what depends on folds of windowed arrays; see :meth:`LateValues.take_over`."""
        found, later = self._late_values.take_over(arrays, same), self.resumed.later
        for task in found.tasks:
            if later is not None and task in later.done:
                self.recorder.restored(task, later.done[task])
        self.progress.restored += found.tasks
        return found

    def make_column_keeper(self) -> ColumnKeeper:
        """Return what decides where columns of arrays rest, in this launch."""
        capabilities = self.checked.job.capabilities
        ranks_here = sum(each.host == capabilities[0].host for each in capabilities)
        held_nbytes = sum(each.inline_nbytes() for each in self.resumed.array_values.values())
        file = self.files.column_file(self.about["launch"])
        return ColumnKeeper(file, capabilities[0].offered_memory_nbytes // ranks_here, held_nbytes)


def _newest(lost: Mapping[int, Mapping[int, str]]) -> dict[int, dict[int, str]]:
    """Return the ranks that the newest of earlier launches lost, a bounded number of each."""
    return {launch: dict(islice(lost[launch].items(), MAX_HOSTS)) for launch in sorted(lost)[-_MAX_LAUNCHES_TOLD:]}


def _offers(capabilities: list[Capability], slots: Mapping[int, int]) -> list[tuple[dict[str, float], list[int]]]:
    """Return what ranks that compute offer, and which of them offer the same."""
    found: dict[str, tuple[dict[str, float], list[int]]] = {}
    for each in capabilities:
        if slots.get(each.rank):
            offered = each.offered()
            found.setdefault(repr(offered), (dict(offered), []))[1].append(each.rank)
    return list(found.values())


def _key(keys: Mapping[int, Key], run: str, task: int) -> Key:
    """Return the key of a task's value: that of the launch that wrote it, or this run's."""
    return keys.get(task, (run, task))


def _put(home: ResultStore, run: str, task: int, payload: Payload) -> None:
    """Put the value of a task into the store of rank 0."""
    home.put((run, task), payload)
