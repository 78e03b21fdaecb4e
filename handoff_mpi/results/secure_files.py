"""Files of a run-dir, opened so that no other user of the host has a say in them.

Every read and write of a run-dir goes through this module. It trusts no name, only what it has opened:

- A directory is opened once, checked, and held. Names in it are resolved from its descriptor, so a user who renames the
  directory, or puts another in its place, changes nothing for the process that holds it.
- A file is checked after it was opened: it is a regular file that :mod:`~handoff_mpi.results.trust` accepts.
- Files are made with ``O_EXCL``, and never through a link. Neither files nor directories are made writable by the group
  or by others, and the umask may close them further.
- All directories above are checked, up to ``/``: see :mod:`~handoff_mpi.results.path_walk`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from handoff_mpi.errors import UntrustedFile
from handoff_mpi.results.path_walk import DIRECTORY_MODE, PathWalk, make_directory, naming
from handoff_mpi.results.trust import (
    is_open_to_group,
    refuse_if_others_write,
    refuse_irregular,
)

#: As :data:`~handoff_mpi.results.path_walk.DIRECTORY_MODE`, of files.
FILE_MODE = 0o644
#: For what others must not even open: a lock can be taken through a descriptor that may only read.
PRIVATE_MODE = 0o600

_TO_HOLD = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Opening a FIFO must not wait for its other end: one may come into a file's place between look and opening.
_TO_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TO_CHANGE = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TO_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Directory:
    """An open directory of the user or of root that nobody else may write to.

    Args:
        fd: its descriptor; the object closes it.
        path: where it was when it was opened.
        closes_to_group: whether group write permission is taken from it if it is the user's own.

    Attributes:
        was_open_to_group: whether group write permission was taken from it.

    Raises:
        UntrustedFile: others may write to it.
    """

    def __init__(self, fd: int, path: Path, closes_to_group: bool = False) -> None:
        self.fd = fd
        self.path = path
        try:
            status = os.fstat(fd)
            self.was_open_to_group = closes_to_group and is_open_to_group(status)
            if self.was_open_to_group:
                with naming(path):
                    os.fchmod(fd, stat.S_IMODE(status.st_mode) & ~stat.S_IWGRP)
                status = os.fstat(fd)
            refuse_if_others_write(path, status)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of it."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what is there --------------------------------------------------------------------------------

    @property
    def is_removed(self) -> bool:
        """Whether it has been deleted."""
        try:
            return os.fstat(self.fd).st_nlink == 0
        except OSError as error:
            return error.errno == errno.ESTALE

    @property
    def is_in_place(self) -> bool:
        """Whether its path still leads to it; True where that is unknown."""
        if self.is_removed:
            return False
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self.fd))
        except OSError as error:
            return error.errno not in (errno.ENOENT, errno.ENOTDIR)

    def names(self) -> list[str]:
        """Return the names of what it holds.

        Raises:
            OSError: they cannot be read.
        """
        with naming(self.path):
            return os.listdir(self.fd)  # noqa: PTH208 (a path would be another way to it)

    def status(self, name: str) -> os.stat_result | None:
        """Return the status of ``name`` itself, be it a link; None if there is no such name.

        Raises:
            OSError: it is unknown.
        """
        try:
            with naming(self.path / name):
                return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    # -- reading --------------------------------------------------------------------------------------

    def open(self, name: str) -> int:
        """Open a file for reading; return its descriptor.

        Raises:
            OSError: there is none, or it cannot be opened.
            UntrustedFile: it is not a regular file, or others may write to it.
        """
        return self._open(name, _TO_READ)

    def read(self, name: str) -> bytes:
        """Return what a file holds.

        Raises:
            OSError, UntrustedFile: as :meth:`open` does.
        """
        with os.fdopen(self.open(name), "rb") as file:
            return file.read()

    def refuse_irregular(self, name: str) -> None:
        """Refuse what is not a regular file.

        Raises:
            OSError: there is nothing of that name.
            UntrustedFile: it is something else.
        """
        path = self.path / name
        with naming(path):
            refuse_irregular(path, os.stat(name, dir_fd=self.fd, follow_symlinks=False))

    def _open(self, name: str, flags: int) -> int:
        path = self.path / name
        self.refuse_irregular(name)  # before it is opened, too: opening a device may have effects
        with naming(path):
            fd = os.open(name, flags, dir_fd=self.fd)
        try:
            status = os.fstat(fd)
            refuse_irregular(path, status)
            refuse_if_others_write(path, status)
        except BaseException:
            os.close(fd)
            raise
        return fd

    # -- writing --------------------------------------------------------------------------------------

    def create(self, name: str, mode: int = FILE_MODE) -> int:
        """Make a file that is not there; return a descriptor to write to it and read it.

        Raises:
            FileExistsError: there is something of that name, be it a link.
            OSError: it cannot be made.
        """
        with naming(self.path / name):
            return os.open(name, _TO_CREATE, mode, dir_fd=self.fd)

    def open_or_create(self, name: str, mode: int = FILE_MODE) -> int:
        """Open a file for reading and writing, and make it where it is not there.

        Raises:
            OSError: it cannot be opened or made.
            UntrustedFile: it is not a regular file, or others may write to it.
        """
        try:
            return self.create(name, mode)
        except FileExistsError:
            return self._open(name, _TO_CHANGE)

    def create_partial(self, name: str) -> tuple[int, str]:
        """Make a file that is to take the place of ``name`` once it is whole; return a descriptor and its name.

        Raises:
            OSError: it cannot be made.
        """
        partial = f"{name}.{os.urandom(4).hex()}.partial"
        return self.create(partial), partial

    def replace(self, partial: str, name: str) -> None:
        """Rename a file to ``name``, in place of what is there.

        Raises:
            OSError: it cannot be renamed.
        """
        with naming(self.path / name):
            os.replace(partial, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        fd, partial = self.create_partial(name)
        try:
            with naming(self.path / name), os.fdopen(fd, "wb") as file:
                file.write(content)
            self.replace(partial, name)
        except BaseException:
            _try(os.unlink, partial, self.fd)
            raise

    def touch(self, name: str) -> None:
        """Set the times of a file to now.

        Raises:
            OSError: there is none, or they cannot be set.
        """
        os.utime(name, dir_fd=self.fd, follow_symlinks=False)

    def remove(self, name: str) -> None:
        """Remove a file, or a link; no error if it is not there.

        Raises:
            OSError: it cannot be removed.
        """
        try:
            with naming(self.path / name):
                os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            pass

    # -- directories in it ----------------------------------------------------------------------------

    def child(self, name: str, makes: bool = False, closes_to_group: bool = False) -> Directory:
        """Open a directory in it, and if ``makes``, make it first where it is not there.

        Raises:
            OSError: there is none, or it is not a directory.
            UntrustedFile: others may write to it.
        """
        path = self.path / name
        with naming(path):
            if makes:
                make_directory(name, self.fd)
            return Directory(os.open(name, _TO_HOLD, dir_fd=self.fd), path, closes_to_group)

    def clear(self) -> None:
        """Remove all that it holds, as far as that is possible; links are removed, not followed."""
        for _, directories, files, fd in os.fwalk(".", topdown=False, dir_fd=self.fd):
            for name in files:
                _try(os.unlink, name, fd)
            for name in directories:
                _try(os.unlink, name, fd)  # a link to one
                _try(os.rmdir, name, fd)

    def remove_directory(self, name: str) -> None:
        """Remove a directory in it and all that it holds, as far as that is possible."""
        try:
            with self.child(name, closes_to_group=True) as child:
                child.clear()
            os.rmdir(name, dir_fd=self.fd)
        except (OSError, UntrustedFile):
            pass


class AnybodysDirectory(Directory):
    """An open directory that may be anybody's: for what reads it and trusts nothing that it finds there.

    Args:
        fd: its descriptor; the object closes it.
        path: where it was when it was opened.
    """

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path
        self.was_open_to_group = False

    def child(self, name: str, makes: bool = False, closes_to_group: bool = False) -> Directory:
        with naming(self.path / name):
            return AnybodysDirectory(os.open(name, _TO_HOLD, dir_fd=self.fd), self.path / name)

    def _open(self, name: str, flags: int) -> int:
        path = self.path / name
        self.refuse_irregular(name)
        with naming(path):
            fd = os.open(name, _TO_READ, dir_fd=self.fd)
        try:
            refuse_irregular(path, os.fstat(fd))
        except BaseException:
            os.close(fd)
            raise
        return fd


def open_anybodys(path: Path) -> AnybodysDirectory:
    """Open a directory of any owner for reading.

    Raises:
        OSError: it is not there, is not a directory, or cannot be read.
    """
    with naming(path):
        return AnybodysDirectory(os.open(path, _TO_HOLD & ~os.O_NOFOLLOW), path)


def open_directory(path: Path, makes: bool = False, closes_to_group: bool = False) -> Directory:
    """Open the directory ``path``, having looked at every directory and link on the way.

    Args:
        path: absolute.
        makes: whether it and the directories above it are made where they are missing.
        closes_to_group: whether group write permission is taken from it if it is the user's own.

    Raises:
        OSError: it is not there, or is not a directory.
        UntrustedFile: others may write to it, or could put another into its place.
    """
    with PathWalk(makes) as way:
        way.go(path)
        with naming(way.here):
            fd = os.open(".", _TO_HOLD & ~os.O_NOFOLLOW, dir_fd=way.fd)
    return Directory(fd, path, closes_to_group)


def hold_directory(path: Path) -> Directory:
    """Open a directory that was made for the user alone a moment ago; what is above it is not looked at.

    Raises:
        OSError: it is not there.
        UntrustedFile: it is somebody else's by now.
    """
    with naming(path):
        fd = os.open(path, _TO_HOLD)
    return Directory(fd, path)


def open_new_directory(path: Path) -> Directory | None:
    """Make the directory ``path``, and those above it where they are missing; return None if it is there already.

    Raises:
        OSError: it cannot be made.
        UntrustedFile: somebody else could put another into its place.
    """
    with PathWalk(makes=True) as way:
        way.go_to_parent_of(path)
        with naming(path):
            try:
                os.mkdir(path.name, DIRECTORY_MODE, dir_fd=way.fd)
            except FileExistsError:
                return None
            fd = os.open(path.name, _TO_HOLD, dir_fd=way.fd)
    return Directory(fd, path)


def refuse_unsafe_way(path: Path) -> None:
    """Look at all that is above ``path``, as a run does that makes it.

    Raises:
        OSError: there is no way.
        UntrustedFile: somebody else could put another into its place.
    """
    with PathWalk(makes=False) as way:
        way.go_to_parent_of(path)


@contextmanager
def opened(where: Directory | Path) -> Iterator[Directory]:
    """Yield ``where``, opened for the time being if it is a path.

    Raises:
        OSError, UntrustedFile: as :func:`open_directory` does.
    """
    if isinstance(where, Directory):
        yield where
    else:
        with open_directory(Path(where).absolute()) as directory:
            yield directory


def _try(does: Callable[..., object], name: str, fd: int) -> None:
    try:
        does(name, dir_fd=fd)
    except OSError:
        pass
