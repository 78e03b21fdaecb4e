"""Goes from ``/`` to a directory, and refuses a way that another user could lead elsewhere.

The kernel resolves a path at each use; what it passes may have changed between two. So each directory on the way is
opened by name from the one before, and checked, as sshd does with ``StrictModes``.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from handoff_mpi.results.trust import refuse_link, refuse_parent

#: A umask made for sharing must not open what a run makes to others; a stricter one closes it further.
DIRECTORY_MODE = 0o755

_MAX_LINKS = 40  # as the kernel has it
_TO_PASS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class PathWalk:
    """Goes from ``/`` to a directory, name by name as the kernel does, and looks at all that is passed.

    Attributes:
        fd: of the directory it has come to.
    """

    def __init__(self, makes: bool) -> None:
        self._makes = makes
        self._links = 0
        self._passed: list[tuple[int, str]] = [(os.open("/", _TO_PASS), "")]

    def __enter__(self) -> PathWalk:
        return self

    def __exit__(self, *_: object) -> None:
        while self._passed:
            os.close(self._passed.pop()[0])

    @property
    def fd(self) -> int:
        return self._passed[-1][0]

    @property
    def here(self) -> Path:
        """Where it has come to, links resolved."""
        return Path("/" + "/".join(name for _, name in self._passed[1:]))

    def go_to_parent_of(self, path: Path) -> None:
        """Continue to the directory that holds ``path``, and judge it as the nearest.

        Raises:
            OSError, UntrustedFile: as :meth:`go` does.
        """
        self.go(path.parent, ends_nearest=False)
        refuse_parent(self.here, os.fstat(self.fd), is_nearest=True)

    def go(self, path: Path, ends_nearest: bool = True) -> None:
        """Continue to ``path``; if ``ends_nearest``, ``path`` is the run-dir, and what holds it is the nearest.

        Raises:
            OSError: there is no way.
            UntrustedFile: somebody else could change where it leads.
        """
        rest = _names(path)
        while rest:
            name = rest.pop()
            if name == "..":
                self._go_up()
                continue
            # At the end of a link's target it is judged as the nearest again.
            refuse_parent(self.here, os.fstat(self.fd), is_nearest=ends_nearest and not rest)
            rest += self._enter(name)

    def _go_up(self) -> None:
        if len(self._passed) > 1:
            os.close(self._passed.pop()[0])

    def _enter(self, name: str) -> list[str]:
        """Enter a directory, made if need be; return the names that a link stands for, the last first."""
        path = self.here / name
        with naming(path):
            try:
                status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
            except FileNotFoundError:
                if not self._makes:
                    raise
                make_directory(name, self.fd)
                status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                return self._follow(path, name, status)
            self._passed.append((os.open(name, _TO_PASS, dir_fd=self.fd), name))
        return []

    def _follow(self, path: Path, name: str, status: os.stat_result) -> list[str]:
        refuse_link(path, status)
        self._links += 1
        if self._links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = Path(os.readlink(name, dir_fd=self.fd))
        while target.is_absolute() and len(self._passed) > 1:
            self._go_up()
        return _names(target)


def _names(path: Path) -> list[str]:
    """Return the names on the way to ``path``, the last first."""
    return [name for name in reversed(path.parts) if name != path.anchor]


def make_directory(name: str, fd: int) -> None:
    """Make a directory, if there is nothing of that name."""
    try:
        os.mkdir(name, DIRECTORY_MODE, dir_fd=fd)
    except FileExistsError:
        pass


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors name the whole path: the kernel knows the name alone."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise
