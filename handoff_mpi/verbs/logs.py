"""``logs``: the output of functions of any user's run, running or ended; nothing is unpickled."""

from __future__ import annotations

import argparse
import codecs
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

from handoff_mpi.arrays.element_names import is_among
from handoff_mpi.errors import EXIT_DONE, JournalError, UsageError
from handoff_mpi.formatting import counted, one_line, without_controls
from handoff_mpi.results.element_story import DONE, FAILED, OPEN
from handoff_mpi.results.function_story import FunctionStory, read_function
from handoff_mpi.results.output_files import OUTPUT, OutputDirectory, Printed
from handoff_mpi.results.output_follow import Follower, LinePrefixer
from handoff_mpi.results.run_dir import JOURNAL, STATUS
from handoff_mpi.results.run_status import read_any_status
from handoff_mpi.results.story import STATES
from handoff_mpi.suggestions import did_you_mean
from handoff_mpi.verbs.run_dirs import OF_THE_RUN, find_run_dir_and_id

#: So many attempts are listed.
MAX_LISTED = 1000
#: Seconds between two looks at a run that is followed.
FOLLOW_INTERVAL_S = 0.2
#: A run whose status is not renewed for so long has died.
FOLLOW_SILENCE_S = 20.0
_ID_CHARS = 60
_STATES = {"skipped": "was skipped", "failed": "has failed"}
_PLURAL = {"is": "are", "has": "have", "was": "were"}
_MAX_RANKS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run_dir", nargs="?", metavar="RUN-DIR", help=OF_THE_RUN)
    listing = "without it, list all functions that printed something"
    what = f"id of a function, array or element, such as sweep[3]; {listing}"
    parser.add_argument("id", nargs="?", metavar="ID", help=what)
    parser.add_argument("--attempt", type=int, metavar="N", help="print what this attempt alone printed")
    parser.add_argument("--rank", type=int, metavar="N", help="print all that was printed on this rank instead")
    what = "print what was printed so far, and then what is printed until the run ends"
    parser.add_argument("--follow", action="store_true", help=what)
    parser.add_argument("--raw", action="store_true", help="print the bytes as they are; a terminal obeys them")


def main(given: argparse.Namespace) -> int:
    """Print what the arguments ask for; return the exit code.

    Raises:
        UsageError: there is no such run, or no such output.
    """
    run_dir, id = find_run_dir_and_id(given.run_dir, given.id)
    try:
        if given.follow:
            _follow(run_dir, id, given)
        else:
            with _opened(run_dir) as directory:
                _print(directory, run_dir, id, given)
    except KeyboardInterrupt:
        pass  # as following ends
    return EXIT_DONE


def _opened(run_dir: Path) -> OutputDirectory:
    try:
        return OutputDirectory(run_dir)
    except (FileNotFoundError, NotADirectoryError):
        mode = read_any_status(run_dir).get("output")
        why = (
            "the run has not captured output; run it with --output capture" if mode == "off" else "nothing was printed"
        )
        raise UsageError(f"{run_dir} holds no output of functions: {why}") from None
    except OSError as error:
        raise UsageError(
            f"{run_dir / OUTPUT} cannot be read: {error.strerror}; check its mode and its owner"
        ) from error


def _print(directory: OutputDirectory, run_dir: Path, id: str | None, given: argparse.Namespace) -> None:
    if given.rank is not None:
        _print_rank(directory, run_dir, given)
        return
    all_printed = directory.all_printed()
    if directory.unreadable:
        print(f"{directory.unreadable} lines of the index cannot be read", file=sys.stderr)
    if id is None:
        _list(directory, [each for each in all_printed if given.attempt in (None, each.attempt)])
        return
    found = [each for each in all_printed if each.id == id]
    found = found or [each for each in all_printed if is_among(each.id, id)]
    if not found:
        why = _why_nothing(run_dir, id, {each.id: None for each in all_printed})
        print(f"{one_line(id, _ID_CHARS)} has printed nothing in {run_dir}{why}", file=sys.stderr)
        return
    wanted = [each for each in found if given.attempt in (None, each.attempt)]
    if not wanted:
        numbers = ", ".join(str(number) for number in sorted({each.attempt for each in found}))
        raise UsageError(
            f"attempt {given.attempt} of {one_line(id, _ID_CHARS)} has printed nothing; attempt {numbers} has"
        )
    wanted.sort(key=lambda each: (_by_numbers(each.id), each.launch, each.attempt))
    _print_attempts(directory, wanted, given.raw, len({(each.id, each.launch, each.attempt) for each in wanted}) > 1)


def _why_nothing(run_dir: Path, id: str, printed: Mapping[str, None]) -> str:
    """Return why there is no output of a function of the run, in words that follow.

    Args:
        printed: the ids of the functions that have printed.

    Raises:
        UsageError: there is no such function, or it is not known whether there is; the nearest ones are named.
    """
    if not os.path.lexists(run_dir / JOURNAL):
        hint = did_you_mean(id, printed, shown=one_line)
        raise UsageError(f"{one_line(id, _ID_CHARS)} has printed nothing in {run_dir}{hint}")
    try:
        told = read_function(run_dir, id)
    except JournalError as error:
        hint = did_you_mean(id, printed, shown=one_line)
        raise UsageError(f"{one_line(id, _ID_CHARS)} has printed nothing in {run_dir}; {error}{hint}") from error
    whole = _state_in_words(told)
    if told.elements is None:
        return f": it {whole}"
    words = {DONE: "is done", FAILED: _STATES["failed"], OPEN: "was skipped" if whole in _STATES.values() else whole}
    counts: dict[str, int] = {}
    for each in told.elements:
        counts[words[each.state]] = counts.get(words[each.state], 0) + len(each.elements)
    if sum(counts.values()) == 1:
        return f": it {next(iter(counts))}"
    return f": {', '.join(_counted_state(*each) for each in counts.items())}"


def _counted_state(state: str, count: int) -> str:
    verb, _, rest = state.partition(" ")
    return f"{counted(count, 'element')} {verb if count == 1 else _PLURAL[verb]} {rest}"


def _state_in_words(told: FunctionStory) -> str:
    """Return the state of a function, or of the array, in words that follow its name."""
    state = STATES[int(told.story.tasks.state[told.task])]
    if state == "waiting":
        has_begun = bool((told.story.calls.task == told.task).any())
        return f"has {'not ended' if has_begun else 'not been called'} yet"
    return _STATES.get(state, f"is {state}")


def _print_attempts(directory: OutputDirectory, wanted: Iterable[Printed], raw: bool, has_heads: bool) -> None:
    last = None
    for each in wanted:
        if has_heads and (each.id, each.launch, each.attempt) != last:
            _print_line(_head(each))
        last = each.id, each.launch, each.attempt
        _copy(directory.read(each), raw)


def _head(each: Printed) -> str:
    launch = f", launch {each.launch}" if each.launch > 1 else ""
    return f"=== {one_line(each.id)}, attempt {each.attempt}{launch}, rank {each.rank} ==="


def _print_rank(directory: OutputDirectory, run_dir: Path, given: argparse.Namespace) -> None:
    names = [
        name for name in directory.names() if name == f"rank-{given.rank}" or name.startswith(f"rank-{given.rank}.")
    ]
    if not names:
        raise UsageError(f"rank {given.rank} has printed nothing in {run_dir}; {_ranks_that_printed(directory)}")
    for name in names:
        position, size = 0, directory.size(name)
        for each in [*directory.printed(name), Printed("", 0, 0, given.rank, name, size, 0)]:
            between = Printed("", 0, 0, given.rank, name, position, each.offset - position)
            if between.nbytes > 0:
                _print_line("=== between calls ===")
                _copy(directory.read(between), given.raw)
            if each.nbytes:
                _print_line(_head(each))
                _copy(directory.read(each), given.raw)
            position = max(position, each.offset + each.nbytes)


def _ranks_that_printed(directory: OutputDirectory) -> str:
    ranks = sorted({_rank_of(name) for name in directory.names()})
    if not ranks:
        return "no other rank has either"
    more = ", ..." if len(ranks) > _MAX_RANKS else ""
    listed = f"{', '.join(map(str, ranks[:_MAX_RANKS]))}{more}"
    return f"rank {listed} has" if len(ranks) == 1 else f"ranks {listed} have"


def _rank_of(name: str) -> int:
    """Return the rank of a file of output, which is called ``rank-2`` or ``rank-2.slot-1``."""
    return int(name.removeprefix("rank-").partition(".")[0])


def _list(directory: OutputDirectory, printed: list[Printed]) -> None:
    rows: dict[tuple[str, int, int], list[int]] = {}
    for each in sorted(printed, key=lambda each: (_by_numbers(each.id), each.launch, each.attempt)):
        row = rows.setdefault((each.id, each.launch, each.attempt), [0, 0, each.rank])
        row[0] += each.nbytes
        row[1] += each.dropped
    if not rows:
        print("no function has printed anything")
    shown = list(rows.items())[:MAX_LISTED]
    width = max([len(one_line(id, _ID_CHARS)) for (id, _, _), _ in shown] + [len("function")])
    has_launches = any(launch > 1 for _, launch, _ in rows)
    if rows:
        print(f"{'function':{width}}  {'launch  ' if has_launches else ''}attempt  rank        bytes")
    for (id, launch, attempt), (nbytes, dropped, rank) in shown:
        which = f"{launch:6}  " if has_launches else ""
        more = f"  ({dropped:,} more were dropped)" if dropped else ""
        print(f"{one_line(id, _ID_CHARS):{width}}  {which}{attempt:7}  {rank:4}  {nbytes:11,}{more}")
    if len(rows) > len(shown):
        print(f"... and {len(rows) - len(shown):,} more")
    between = sum(map(directory.size, directory.names())) - sum(each.nbytes for each in directory.all_printed())
    if between > 0:
        print(f"{between:,} bytes were printed between calls; --rank N prints those of a rank")


def _by_numbers(id: str) -> list[tuple[bool, int, str]]:
    """Return what sorts ids as people do: fit-2 before fit-10."""
    parts = re.split(r"([0-9]{1,18})", id)
    return [(False, int(part), "") if number % 2 else (True, 0, part) for number, part in enumerate(parts)]


# -- following -------------------------------------------------------------------------------------------


def _follow(run_dir: Path, id: str | None, given: argparse.Namespace) -> None:
    """Print what was printed so far, at most its last part of each call, and what is new until the run has ended."""
    with ExitStack() as stack:
        followed = _Followed(run_dir, stack)
        is_over = _end_of_run(run_dir)
        while True:
            has_ended = is_over()
            for rank, printed, part in followed.new(is_last=has_ended):
                if id is not None and (printed is None or (printed.id != id and not is_among(printed.id, id))):
                    continue
                if given.attempt is not None and (printed is None or printed.attempt != given.attempt):
                    continue
                if given.rank is not None and given.rank != rank:
                    continue
                _show(followed.prefixer, rank, printed, part, given.raw)
            if has_ended:
                print(end=followed.prefixer.end_line())
            sys.stdout.flush()
            if has_ended:
                return
            time.sleep(FOLLOW_INTERVAL_S)


def _show(prefixer: LinePrefixer, rank: int, printed: Printed | None, part: bytes, raw: bool) -> None:
    if raw:
        sys.stdout.flush()
        sys.stdout.buffer.write(part)
    else:
        print(prefixer.lines(rank, printed, part), end="")


class _Followed:
    """The files of a run, those that are made later too."""

    def __init__(self, run_dir: Path, stack: ExitStack) -> None:
        self.prefixer = LinePrefixer(has_rank=True)
        self._run_dir = run_dir
        self._stack = stack
        self._directory: OutputDirectory | None = None
        self._followers: dict[str, tuple[int, Follower]] = {}

    def new(self, is_last: bool) -> Iterable[tuple[int, Printed | None, bytes]]:
        self._find()
        for rank, follower in self._followers.values():
            for printed, part in follower.look(is_last):
                yield rank, printed, part

    def _find(self) -> None:
        try:
            if self._directory is None:
                self._directory = self._stack.enter_context(OutputDirectory(self._run_dir))
            for name in self._directory.names():
                if name not in self._followers:
                    self._add(self._directory, name)
        except OSError:
            pass  # nothing was printed yet

    def _add(self, directory: OutputDirectory, name: str) -> None:
        out = self._stack.enter_context(directory.open(f"{name}.out"))
        index = self._stack.enter_context(directory.open(f"{name}.index"))
        self._followers[name] = _rank_of(name), Follower(name, out.fileno(), index.fileno())


def _end_of_run(run_dir: Path) -> Callable[[], bool]:
    """Return what tells whether the run is over: it says so, or its status has not been renewed for long."""
    seen: tuple[object, ...] = ()
    since = time.monotonic()

    def is_over() -> bool:
        nonlocal seen, since
        try:
            status = (run_dir / STATUS).stat()
        except OSError:
            return time.monotonic() - since >= FOLLOW_SILENCE_S
        now = (status.st_mtime_ns, status.st_ino)
        if now != seen:
            seen, since = now, time.monotonic()
        said = read_any_status(run_dir)
        return said.get("exit_code") is not None or time.monotonic() - since >= FOLLOW_SILENCE_S

    return is_over


# -- printing --------------------------------------------------------------------------------------------


def _print_line(text: str) -> None:
    print(text, flush=True)


def _copy(parts: Iterable[bytes], raw: bool) -> None:
    """Print what was printed; a terminal obeys nothing in it unless it is ``raw``."""
    if raw:
        sys.stdout.flush()
        for part in parts:
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
        return
    decoder, last = codecs.getincrementaldecoder("utf-8")("replace"), "\n"
    for part in parts:
        text = without_controls(decoder.decode(part))
        sys.stdout.write(text)
        last = text[-1:] or last
    rest = decoder.decode(b"", final=True)
    sys.stdout.write(rest)
    if (rest or last)[-1:] != "\n":
        sys.stdout.write("\n")  # the next heading, or the prompt, begins a line
