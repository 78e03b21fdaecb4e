"""The one exception tree of the package. Imports nothing of it.

Every error that a user can meet derives from :class:`HandoffError`, and carries the exit code that
``python -m handoff_mpi run`` ends with when it is the last word.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_FITS_NOWHERE = 3
EXIT_FITS_NO_MORE = 4
EXIT_STOPPED = 75


class HandoffError(Exception):
    """Base of all errors raised by handoff_mpi.

    Attributes:
        exit_code: what the command line exits with when this error ends it.
    """

    exit_code = EXIT_USAGE


class DAGError(HandoffError):
    """The declarations of a user cannot be run as they stand.

    Attributes:
        problems: one line for each culprit; the message shows them all.
    """

    def __init__(self, problems: str | Iterable[str], where: str = "") -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        self.where = where
        super().__init__((f"{where}: " if where else "") + _as_text(self.problems))


def _as_text(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} problems:" + "".join(f"\n  - {problem}" for problem in problems)


class UsageError(HandoffError):
    """A flag, an option, an environment variable or a file named by the user is wrong."""


class RunDirBusy(UsageError):
    """Another process uses the run-dir."""


class UntrustedFile(UsageError):
    """Somebody else could have written a file or directory of a run, or could put another into its place.

    Args:
        what: which file or directory, and why it is refused.
        repair: what makes it acceptable, if the user can do that.
        instead: what else to do.
    """

    def __init__(self, what: str, repair: str = "", instead: str = "") -> None:
        remedy = ", or ".join(each for each in (repair, instead) if each)
        super().__init__(f"{what}; {remedy}" if remedy else what)
        self.what = what
        self.repair = repair


class Unsatisfiable(HandoffError):
    """A function's cost exceeds every host of the job even when that host is empty.

    Attributes:
        problems: one line for each cost and resource that is missing; the message shows them all.
    """

    exit_code = EXIT_FITS_NOWHERE

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__(_as_text(self.problems))


class AllocationError(HandoffError):
    """A strategy placed a task where it does not fit, or on a rank that does not exist."""


class StartupError(HandoffError):
    """Not all ranks of the job joined the run in time, or they run different versions."""


class RanksMissing(StartupError):
    """Not all ranks of the job joined the run in time; MPI would wait for them at the end of this one, too."""


class LauncherLost(HandoffError):
    """The launcher of this job has ended, and with it the other ranks; the same command resumes the run."""

    exit_code = EXIT_STOPPED


class RankLostInSetup(HandoffError):
    """A rank was killed in ``setup(rank)``, before the run had begun; the same command begins it."""

    exit_code = EXIT_STOPPED


class Interrupted(HandoffError):
    """A run was asked to stop before it had begun."""

    exit_code = EXIT_STOPPED


class Superseded(HandoffError):
    """A newer launch has taken over the run-dir; this one leaves it alone."""

    exit_code = EXIT_STOPPED


class TransportError(HandoffError):
    """A message could not be carried, or was not one of ours: the job is lost, and the same command resumes the run."""

    exit_code = EXIT_STOPPED


class JournalError(HandoffError):
    """The journal of a run cannot be written any further, or was not written by this version.

    Args:
        exit_code: :data:`EXIT_STOPPED` where the same command resumes once the cause is removed.
    """

    def __init__(self, message: str, exit_code: int = EXIT_USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ValueUnavailable(HandoffError, KeyError):
    """A result was asked for that is not, or no longer, anywhere. The message says how to keep it."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ValueDamaged(ValueUnavailable):
    """The file of a value is there, but does not hold it as it was written, or somebody else could have written it."""


class TaskError(HandoffError):
    """A function failed; what its rank reported.

    Attributes:
        kind: the name of the exception's class, or "timeout", "death", "no-room", "lost-input".
        traceback: the remote traceback as text; empty where there is none.
    """

    exit_code = EXIT_FAILED

    def __init__(self, message: str, kind: str = "", traceback: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.traceback = traceback

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.kind, self.traceback)


class DAGFailed(HandoffError):
    """Some functions of a run failed. ``results`` holds what the others returned.

    Attributes:
        results: the :class:`~handoff_mpi.results.Results` of the run.
        exit_code: theirs.
    """

    exit_code = EXIT_FAILED

    def __init__(self, message: str, results: Any) -> None:
        super().__init__(message)
        self.results = results
        self.exit_code = results.exit_code


#: Old names, which :func:`__getattr__` serves for one more release: scripts catch them, and pickles name them.
OLD_NAMES = {"FitsNowhere": "Unsatisfiable", "JoinError": "StartupError", "JobLost": "LauncherLost"}


def __getattr__(name: str) -> Any:
    if name in OLD_NAMES:
        return globals()[OLD_NAMES[name]]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
