"""Options of a run that are one word of a few: the words, for type checkers and at run time."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

OnFailure: TypeAlias = Literal["continue", "stop"]
Isolation: TypeAlias = Literal["auto", "rank", "process"]
ResultsOn: TypeAlias = Literal["root", "all"]
Checkpoint: TypeAlias = Literal["auto", "all", "none"]
OutputMode: TypeAlias = Literal["auto", "forward", "plain", "capture", "off"]
ProgressMode: TypeAlias = Literal["auto", "live", "lines", "none"]
#: What a run records of itself.
Record: TypeAlias = Literal["calls", "summary", "none"]
ReportMode: TypeAlias = Literal["auto", "always", "none"]

ON_FAILURE: tuple[str, ...] = get_args(OnFailure)
ISOLATIONS: tuple[str, ...] = get_args(Isolation)
RESULTS_ON: tuple[str, ...] = get_args(ResultsOn)
CHECKPOINTS: tuple[str, ...] = get_args(Checkpoint)
OUTPUTS: tuple[str, ...] = get_args(OutputMode)
PROGRESS: tuple[str, ...] = get_args(ProgressMode)
RECORDS: tuple[str, ...] = get_args(Record)
REPORTS: tuple[str, ...] = get_args(ReportMode)

AUTO: Final = "auto"
FORWARD: Final = "forward"
PLAIN: Final = "plain"
CAPTURE: Final = "capture"
OFF: Final = "off"
LIVE: Final = "live"
LINES: Final = "lines"
CALLS: Final = "calls"
ALWAYS: Final = "always"
#: No progress, no record, no report.
NONE: Final = "none"
