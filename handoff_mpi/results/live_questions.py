"""Questions to a run that is running, and its answers: small JSON files in ``questions/`` of the run-dir.

The asking process writes ``<random>.question``; rank 0 looks once a second, and writes ``<random>.answer``. The
directory is private: only the owner of the run and root can ask. Without a question a look costs the run one system
call. Rank 0 reads few and small files, and removes what is no question.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path

from handoff_mpi.errors import UsageError
from handoff_mpi.results.secure_files import PRIVATE_MODE, Directory, open_directory

QUESTIONS = "questions"
#: Seconds that the asking process waits for an answer, and between two of its looks.
ANSWER_TIMEOUT_S, QUESTION_POLL_INTERVAL_S = 5.0, 0.1
#: So many names are looked at, and so many questions answered, in one look of rank 0.
MAX_NAMES, MAX_ANSWERS = 100, 4
MAX_QUESTION_NBYTES, MAX_ANSWER_NBYTES = 8_192, 1 << 20
#: Rank 0 removes an answer that was not taken after this many seconds, and the directory once it is empty.
ANSWER_LIFETIME_S = 30.0
#: So often an answer is tried that fails because another thread changes what it reads.
MAX_TRIES = 5
_PRIVATE_DIRECTORY = 0o700
_MAX_CHARS = 1000
_QUESTION = re.compile(r"([0-9a-f]{16})\.question")
_OURS = re.compile(r"[0-9a-f]{16}\.(question|answer|partial)|[0-9a-f]{16}\.answer\.[0-9a-f]+\.partial")

#: Takes a question and returns the answer.
Answering = Callable[[dict[str, object]], dict[str, object]]


class QuestionBox:
    """The questions to this run, on rank 0.

    Args:
        run_dir: the open run-dir.
    """

    def __init__(self, run_dir: Directory) -> None:
        self._run_dir = run_dir
        self._seen: dict[str, float] = {}  # names of files that exist, and when they were first seen
        self._tries: dict[str, int] = {}
        self._stuck: set[str] = set()  # what cannot be removed, a directory say

    def clear(self) -> None:
        """Remove what an earlier launch has left."""
        self._run_dir.remove_directory(QUESTIONS)

    def look(self, answering: Answering, now: float) -> None:
        """Answer what is asked; worth a call a second. Nothing that goes wrong here is a matter of the run.

        Args:
            now: in seconds, any origin.
        """
        try:
            with self._run_dir.child(QUESTIONS) as box:
                _see_again(box)
                with os.scandir(box.fd) as entries:
                    names = [entry.name for entry in islice(entries, MAX_NAMES)]
                found = [match for name in names if (match := _QUESTION.fullmatch(name)) and name not in self._stuck]
                for match in found[:MAX_ANSWERS]:
                    self._answer(box, match[1], answering)
                self._remove_old(box, names, now)
            if not names:
                os.rmdir(QUESTIONS, dir_fd=self._run_dir.fd)
        except (OSError, UsageError):
            pass  # mostly there is no question, and so no directory

    def _answer(self, box: Directory, name: str, answering: Answering) -> None:
        question = f"{name}.question"
        content = self._content(name, answering, *_try_to_read(box, question))
        if content is None:
            return
        if _remove(box, question):
            box.write(f"{name}.answer", content)
        else:
            self._stuck.add(question)

    def _content(self, name: str, answering: Answering, question: dict[str, object] | None, why: str) -> bytes | None:
        """Return what to answer; None to try again at the next look."""
        if question is None:
            return _error(why)
        try:
            content = json.dumps(answering(question)).encode()
            self._tries.pop(name, None)
            return content
        except RuntimeError as error:  # in one process the tables change meanwhile
            self._tries[name] = tries = self._tries.get(name, 0) + 1
            if tries < MAX_TRIES:
                return None
            del self._tries[name]
            return _error(str(error))
        except Exception as error:
            return _error(f"{type(error).__name__}: {error}")

    def _remove_old(self, box: Directory, names: list[str], now: float) -> None:
        """Remove what has lain here for long: its writer or its reader has died."""
        self._seen = {name: self._seen.get(name, now) for name in names}
        for name, since in self._seen.items():
            if now - since >= ANSWER_LIFETIME_S and _OURS.fullmatch(name):
                _remove(box, name)


def ask(run_dir: Path, question: dict[str, object], timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, object] | None:
    """Ask the run that has its files in ``run_dir``; return its answer, None if it gave none in time.

    Raises:
        OSError: nothing can be written there.
        UsageError: somebody else could write there.
    """
    name = os.urandom(8).hex()
    with open_directory(run_dir) as above, _asked(above, name, json.dumps(question).encode()) as box:
        try:
            return _await(box, f"{name}.answer", timeout_s)
        finally:
            for each in (f"{name}.question", f"{name}.answer"):
                _remove(box, each)


def _asked(above: Directory, name: str, content: bytes) -> Directory:
    """Write a question; return its directory, which the run may remove at any time while it is empty."""
    tries_left = MAX_TRIES
    while True:
        with suppress(FileExistsError):
            os.mkdir(QUESTIONS, _PRIVATE_DIRECTORY, dir_fd=above.fd)
        box = above.child(QUESTIONS)
        try:
            _write(box, name, content)
            return box
        except BaseException as error:
            box.close()
            tries_left -= 1
            if not (isinstance(error, FileNotFoundError) and tries_left):
                raise


def _write(box: Directory, name: str, content: bytes) -> None:
    partial = f"{name}.partial"
    fd = box.create(partial, PRIVATE_MODE)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)
    box.replace(partial, f"{name}.question")


def _await(box: Directory, name: str, timeout_s: float) -> dict[str, object] | None:
    end = time.monotonic() + timeout_s
    while True:
        _see_again(box)
        try:
            return _read(box, name, MAX_ANSWER_NBYTES)
        except FileNotFoundError:
            if time.monotonic() >= end:
                return None
        except (ValueError, RecursionError):
            return None
        time.sleep(QUESTION_POLL_INTERVAL_S)


def _read(box: Directory, name: str, most: int) -> dict[str, object]:
    """Return the mapping that a file of at most ``most`` bytes holds.

    Raises:
        OSError, UsageError, ValueError, RecursionError: it cannot be read, or is something else.
    """
    with os.fdopen(box.open(name), "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError("it is too long")
    read = json.loads(content)
    if not isinstance(read, dict):
        raise ValueError("it is not a mapping")
    return read


def _try_to_read(box: Directory, name: str) -> tuple[dict[str, object] | None, str]:
    """Return a question; None, and why, if it is none."""
    try:
        return _read(box, name, MAX_QUESTION_NBYTES), ""
    except (OSError, UsageError, ValueError, RecursionError) as error:
        return None, f"this is no question: {error}"


def _error(why: str) -> bytes:
    return json.dumps({"error": why[:_MAX_CHARS]}).encode()


def _see_again(box: Directory) -> None:
    """Make a network file system read a directory again, which another host may have changed.

    An NFS client caches a directory for up to a minute, but reads it again after a change of its own.
    """
    try:
        os.utime(box.fd)
    except OSError:
        pass


def _remove(box: Directory, name: str) -> bool:
    """Remove a file; return whether it is not there any more."""
    try:
        box.remove(name)
        return True
    except OSError:
        return False
