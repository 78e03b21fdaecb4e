"""Reads the story of any user's run: it looks up no name in the journal, and calls nothing in it.

Ids that are strings or integers come as they are, all others as an :class:`~handoff_mpi.serialization.UnreadableId`,
which shows itself as the id does. Records may be of any shape: every failure is reported as damage.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from handoff_mpi.errors import HandoffError, JournalError, UntrustedFile
from handoff_mpi.formatting import MAX_ID_CHARS, one_line, show
from handoff_mpi.results.journal_reader import stream_journal
from handoff_mpi.results.plain_pickles import loads_hostile, loads_plain
from handoff_mpi.results.run_status import RUNNING, find_states
from handoff_mpi.results.secure_files import open_anybodys, open_directory
from handoff_mpi.results.story import Ints, Story
from handoff_mpi.results.story_reader import StoryReader
from handoff_mpi.serialization import UnreadableId

_MAX_SLOTS = 10_000
_MAX_RANK = 2**31 - 1
_MAX_CHARS = 300
_MAX_WHOLE, _MAX_AMOUNT = 1 << 63, 1e15

Reader = TypeVar("Reader", bound="AnybodysReader")


def read_anybodys_story(run_dir: Path) -> Story:
    """Return what happened in the run that has its files in ``run_dir``.

    Raises:
        UsageError: there is no run.
        JournalError: the journal cannot be read, or another version wrote it, or it is damaged.
    """
    return read_anybodys(run_dir, AnybodysReader)[1]


def read_anybodys(
    run_dir: Path, make_reader: Callable[[dict[str, object], bool], Reader]
) -> tuple[Reader, Story, bool]:
    """Return a reader that has read the run in ``run_dir``, its story, and whether the run is trusted.

    A run is trusted if nobody but this user and root could have written it; all others are read more carefully, which
    takes longer.

    Args:
        make_reader: makes a reader of what ``status.json`` holds and of whether the run is running.

    Raises:
        UsageError: there is no run.
        JournalError: the journal cannot be read, or another version wrote it, or it is damaged.
    """
    state, status = find_states([run_dir])[run_dir]
    with damage_reported(run_dir):
        try:
            return *_read(run_dir, make_reader(status, state == RUNNING), is_own=True), True
        except UntrustedFile:
            return *_read(run_dir, make_reader(status, state == RUNNING), is_own=False), False


def _read(run_dir: Path, reader: Reader, is_own: bool) -> tuple[Reader, Story]:
    with open_directory(run_dir) if is_own else open_anybodys(run_dir) as directory:
        for segment, records in stream_journal(directory, reader.notes, loads_plain if is_own else loads_hostile):
            reader.read(segment, records)
        story = reader.story(run_dir)
    _refuse_impossible(story)
    return reader, story


@contextmanager
def damage_reported(run_dir: Path) -> Iterator[None]:
    """Report any failure within ``with``, which reads a journal, in a line: its records may be of any shape.

    Raises:
        JournalError: something has failed.
    """
    try:
        yield
    except HandoffError:
        raise
    except OSError as error:
        what = f"the run-dir {run_dir} cannot be read: {error.strerror}"
        raise JournalError(f"{what}; check its mode and its owner") from error
    except Exception as error:  # of any kind: the records may hold anything
        what = one_line(f"{type(error).__name__}: {error}", _MAX_CHARS)
        raise JournalError(f"the journal of {run_dir} is damaged ({what}); copy it from where it is intact") from error


def _refuse_impossible(story: Story) -> None:
    """Refuse numbers that no run can have written: what reads the story need not look at them.

    Raises:
        ValueError: there are some.
    """
    tasks, calls = story.tasks, story.calls
    if int(tasks.starts[-1]) != len(tasks.inputs) or not _is_below(tasks.inputs, len(tasks)):
        raise ValueError("a function takes the value of one that does not exist")
    if not (
        np.isfinite(calls.started).all() and np.isfinite(calls.duration).all() and _is_below(calls.rank, _MAX_RANK)
    ):
        raise ValueError("a call has an impossible time or rank")


def _is_below(numbers: Ints, limit: int) -> bool:
    return not len(numbers) or 0 <= int(numbers.min()) <= int(numbers.max()) < limit


class AnybodysReader(StoryReader):
    """Takes in a journal of anybody's."""

    def _take_run(self, about: dict[str, Any]) -> None:
        hosts = {_rank(rank): one_line(str(host), _MAX_CHARS) for rank, host in dict(about.get("hosts", {})).items()}
        slots = {
            _rank(rank): min(max(1, int(count)), _MAX_SLOTS) for rank, count in dict(about.get("slots", {})).items()
        }
        super()._take_run({**about, "hosts": hosts, "slots": slots, "capacity": _amounts(about.get("capacity", {}))})

    def _take_tasks(self, first: int, rows: list[Any]) -> None:
        plain = [(_plain_id(id), None, str(name), inputs, _amounts(cost)) for id, _, name, inputs, cost in rows]
        super()._take_tasks(first, plain)


def _rank(rank: Any) -> int:
    if not 0 <= int(rank) <= _MAX_RANK:
        raise ValueError(f"there is no rank {show(rank)}")
    return int(rank)


def _plain_id(id: object) -> Hashable:
    if type(id) is str or (type(id) is int and abs(id) < _MAX_WHOLE) or type(id) is UnreadableId:
        return id
    return UnreadableId(show(id, MAX_ID_CHARS))


def _amounts(amounts: Any) -> dict[str, object]:
    """Return what is an amount of ``amounts``."""
    is_amount = {name: type(name) is str and type(each) in (int, float) for name, each in dict(amounts).items()}
    return {name: each for name, each in dict(amounts).items() if is_amount[name] and abs(each) < _MAX_AMOUNT}
