"""Other users of this host, for tests: real ones, by number, in processes of their own."""

from __future__ import annotations

import os
import pickle
import select
import stat
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing

#: A group that some of them share, as the members of a project do.
PROJECT = 65530
LIMIT_S = 60.0


def make_reachable(*paths: Path) -> None:
    """Let other users list ``paths``, and pass through the directories above them; nothing is taken from anybody."""
    for path in dict.fromkeys(each for given in paths for each in (given, *given.parents)):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o005 != 0o005:
            path.chmod(mode | 0o055)


@dataclass(frozen=True)
class User:
    """A user that no list knows; its first group is as told."""

    uid: int
    gid: int

    def does(self, what: Callable[..., Any], *args: Any, umask: int = 0o022) -> Any:
        """Call ``what`` in a process of this user; return what it returns, or the exception that it raised."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            self._answer(writing, what, args, umask)
        os.close(writing)
        with os.fdopen(reading, "rb") as answer:
            if not select.select([answer], [], [], LIMIT_S)[0]:
                os.kill(pid, 9)
            content = answer.read()
        os.waitpid(pid, 0)
        assert content, f"{what} hung, or its process died"
        return pickle.loads(content)

    def _answer(self, writing: int, what: Callable[..., Any], args: tuple[Any, ...], umask: int) -> None:
        try:
            os.setgroups([])
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)
            os.umask(umask)
            try:
                answer = pickle.dumps(what(*args))
            except Exception as error:
                traceback.print_exc()
                answer = pickle.dumps(error)
            os.write(writing, answer)
        finally:
            os._exit(0)


OWNER = User(65532, PROJECT)
COLLEAGUE = User(65533, PROJECT)
STRANGER = User(65531, 65531)


def need_root() -> None:
    """Skip where no other users can be had."""
    if os.geteuid() != 0:
        pytest.skip("only root can become other users")
    if not hasattr(os, "setresuid"):
        missing("setresuid")
