"""Which files and directories of a run are trusted, judged by owner and mode: rules only, nothing is opened here.

Much of what lies in a run-dir is unpickled, so a user who can write to it runs code as its owner. The rules are those
of sshd for keys: what a run reads belongs to the user or to root, and nobody else may write to it. A group is somebody
else, the user's private one too: no list tells whose primary group it is.
"""

from __future__ import annotations

import functools
import grp
import os
import pwd
import shlex
import stat
from pathlib import Path

from handoff_mpi.errors import UntrustedFile

_ROOT = 0
_EVERY_ID = 0xFFFF_FFFF
_OWN = "name a run-dir of your own with --run-dir"
_ANOTHER = "name another run-dir with --run-dir"
_IN_OWN = "name a run-dir in a directory of your own with --run-dir"
_ELSEWHERE = "name a run-dir elsewhere with --run-dir"
_WHY = "and what it holds would run as you"


def refuse_if_others_write(path: Path, status: os.stat_result) -> None:
    """Refuse a file or directory that somebody else than the user and root could have written.

    Raises:
        UntrustedFile: it belongs to somebody else, or its mode lets others write to it.
    """
    if status.st_uid not in (os.geteuid(), _ROOT):
        me = user_name(os.geteuid())
        raise UntrustedFile(f"{path} belongs to {_shown(status)} and not to you ({me}), {_WHY}", instead=_OWN)
    others = _other_writers(status)
    if others:
        owner, mode = user_name(status.st_uid), stat.S_IMODE(status.st_mode)
        who = f"{path} (of {owner}, mode {mode:04o}) can be written to by {others}"
        is_scratch = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX  # /tmp, say: it must stay as it is
        repair = f"chmod go-w {shlex.quote(str(path))}" if _may_chmod(status) and not is_scratch else ""
        raise UntrustedFile(f"{who}, {_WHY}", repair, _OWN)


def refuse_irregular(path: Path, status: os.stat_result) -> None:
    """Refuse what is not a regular file: a link, a FIFO, a device, a directory.

    Raises:
        UntrustedFile: naming it.
    """
    if not stat.S_ISREG(status.st_mode):
        raise UntrustedFile(f"{path} is not a regular file, and no file of a run", "move it away", _ANOTHER)


def refuse_parent(path: Path, status: os.stat_result, is_nearest: bool) -> None:
    """Refuse a directory on the way to a run-dir where somebody else could put another into its place.

    One that ``is_nearest`` may be a ``handoff-runs`` that a stranger made first. One higher up may belong to anybody,
    say to the head of a project: its owner could only put a directory of theirs in the nearest one's place.

    Raises:
        UntrustedFile: a stranger owns it, or everybody may rename what it holds.
    """
    if is_nearest and status.st_uid not in (os.geteuid(), _ROOT, _unmapped_owner()):
        why = f"above the run-dir belongs to {_shown(status)}, who could put another directory into its place"
        raise UntrustedFile(f"{path} {why}", instead=_IN_OWN)
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        mode = stat.S_IMODE(status.st_mode)
        who = f"{path} above the run-dir (mode {mode:04o}) can be written to by everybody"
        repair = f"chmod +t {shlex.quote(str(path))}" if _may_chmod(status) else ""
        raise UntrustedFile(f"{who}, who could replace it", repair, _ELSEWHERE)


def refuse_link(path: Path, status: os.stat_result) -> None:
    """Refuse a link on the way to a run-dir that somebody else could point elsewhere.

    Raises:
        UntrustedFile: a stranger owns it.
    """
    if status.st_uid not in (os.geteuid(), _ROOT, _unmapped_owner()):
        what = f"{path}, on the way to the run-dir, is a link of {user_name(status.st_uid)}"
        raise UntrustedFile(what, instead=_ELSEWHERE)


def is_open_to_group(status: os.stat_result) -> bool:
    """Whether this is the user's own, and its mode lets the group write to it, but not everybody."""
    return status.st_uid == os.geteuid() and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) == stat.S_IWGRP


def user_name(uid: int) -> str:
    """Return the name of a user, or ``"user UID"``."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _may_chmod(status: os.stat_result) -> bool:
    return os.geteuid() in (_ROOT, status.st_uid)


def _shown(status: os.stat_result) -> str:
    return f"{user_name(status.st_uid)} (mode {stat.S_IMODE(status.st_mode):04o})"


def _other_writers(status: os.stat_result) -> str:
    if status.st_mode & stat.S_IWOTH:
        return "everybody"
    return f"the group {_group_name(status.st_gid)}" if status.st_mode & stat.S_IWGRP else ""


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


@functools.cache
def _unmapped_owner() -> int:
    """Return the owner that a user namespace shows for ids it does not map, root's among them; -1 outside of one.

    A rootless container shows ``/`` as that owner's, and cannot tell whose it is.
    """
    try:
        if int(Path("/proc/self/uid_map").read_text().split()[2]) >= _EVERY_ID:
            return -1
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError, IndexError):
        return -1
