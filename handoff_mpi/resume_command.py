"""The command that resumes a run of the command line, as its user would type it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from handoff_mpi.flags import without_flags
from handoff_mpi.launch.start_line import ResumeCommand

#: Flags of one launch alone, which take a value: what it accepted is in the journal, and a later change is another one.
_OF_ONE_LAUNCH = ("--rerun", "--accept-changes")


def resume_command(own: Sequence[str], args: Sequence[str], is_launched: bool = False) -> ResumeCommand:
    """Return what makes the command that resumes a run of the command line.

    Args:
        own: the words before ``--``, of which the first is the subcommand.
        args: the words behind it.
        is_launched: whether mpirun or srun started this process, whose own words are unknown.
    """
    # A variable that names the run-dir may be a batch script's alone, so the command names it all the same.
    has_run_dir = any(word.partition("=")[0] == "--run-dir" for word in own)
    words = without_flags([word for word in own if word != "--fresh"], _OF_ONE_LAUNCH)
    flags = {word.partition("=")[0] for word in own}
    of_one_launch = [flag for flag in ("--fresh", *_OF_ONE_LAUNCH) if flag in flags]

    def command(run_dir: str, is_later: bool = False) -> str:
        named = [] if has_run_dir else ["--run-dir", run_dir]
        whole = shlex.join([*_program(), *words[:1], *named, *words[1:], *(["--", *args] if args else [])])
        if not is_launched:
            return whole
        if is_later:
            return f"the same mpirun or srun of {whole}"
        changes = [] if has_run_dir else [f"with --run-dir {shlex.quote(run_dir)}"]
        changes += [f"without {' and '.join(of_one_launch)}"] if of_one_launch else []
        return f"the same command {' and '.join(changes)}".rstrip()

    return command


def _program() -> list[str]:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    is_module = spec is not None and spec.name == "handoff_mpi.__main__"
    return ["python", "-m", "handoff_mpi"] if is_module else ["handoff-mpi"]
