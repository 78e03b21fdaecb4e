"""A finding, and how findings are printed: for people, as data, or as lines for the doctor that launched this one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields

from handoff_mpi.errors import EXIT_DONE, EXIT_FAILED
from handoff_mpi.launch.environment import is_under_launcher

OK, WARNING, ERROR = "ok", "warning", "error"

_MARK = "handoff-doctor: "  # at the head of a line that is for another doctor
_END = {"end": True}
_STYLES = {OK: "green", WARNING: "yellow", ERROR: "bold red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found out.

    Attributes:
        level: OK, WARNING (works, but should be known) or ERROR (runs will fail).
        about: what it is about, in a word or two.
        what: what was found, on one line.
        remedy: what to do about it; empty if it is OK.
    """

    level: str
    about: str
    what: str
    remedy: str = ""


class Report:
    """Takes findings and prints each at once; as JSON, all at the end.

    Attributes:
        findings: all so far.
    """

    def __init__(self, as_json: bool = False, as_lines: bool = False) -> None:
        self.findings: list[Finding] = []
        self._as_json = as_json
        self._print = _print_line if as_lines else _printer()

    def add(self, finding: Finding) -> None:
        """Take one."""
        self.findings.append(finding)
        if not self._as_json:
            self._print(finding)

    def close(self) -> int:
        """End the report; return the exit code: 1 if anything is bad."""
        code = EXIT_FAILED if any(finding.level == ERROR for finding in self.findings) else EXIT_DONE
        if self._as_json:
            document = {"exit_code": code, "findings": [asdict(finding) for finding in self.findings]}
            print(json.dumps(document, indent=1, ensure_ascii=False), flush=True)
        elif self._print is _print_line:
            print(_MARK + json.dumps(_END), flush=True)
        return code


def read_line(line: str) -> Finding | bool | None:
    """Return what a line of another doctor means: a finding, True at its end; None if the line is no such."""
    if not line.startswith(_MARK):
        return None
    try:
        told: dict[str, object] = json.loads(line[len(_MARK) :])
    except ValueError:
        return None
    if told == _END:
        return True
    return Finding(**{field.name: str(told.get(field.name, "")) for field in fields(Finding)})


def _print_line(finding: Finding) -> None:
    print(_MARK + json.dumps(asdict(finding)), flush=True)


def _printer() -> Callable[[Finding], None]:
    # Open MPI gives its ranks terminals, wherever their words go in the end.
    return _print_in_colour if sys.stdout.isatty() and not is_under_launcher() else _print_plainly


def _print_plainly(finding: Finding) -> None:
    print(f"{finding.level:<7} {finding.about}: {finding.what}", flush=True)
    if finding.remedy:
        print(f"      -> {finding.remedy}", flush=True)


def _print_in_colour(finding: Finding) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    head = Text(f"{finding.level:<7} ", _STYLES[finding.level])
    console.print(head + Text(f"{finding.about}: ", "bold") + Text(finding.what), soft_wrap=True)
    if finding.remedy:
        console.print(Text(f"      -> {finding.remedy}", "dim"), soft_wrap=True)
