"""Other processes as tests see them, which may end at any moment."""

import psutil


def command_line(process: psutil.Process) -> str:
    """Return the words with which a process was started; empty if it has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def environment(process: psutil.Process) -> dict[str, str]:
    """Return the environment with which a process was started; empty if it has ended meanwhile."""
    try:
        return process.environ()
    except psutil.Error:
        return {}


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """Return the living processes below ``process``; none if it has ended meanwhile."""
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []
